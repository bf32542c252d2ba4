package mixer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// identityProvider makes tokens and serves its keys, some of which come later.
type identityProvider struct {
	url string
	rsa *rsa.PrivateKey
	ec  map[string]*ecdsa.PrivateKey

	mu        sync.Mutex
	published []any
	made      []string
}

func newIdentityProvider(t *testing.T) *identityProvider {
	t.Helper()
	p := &identityProvider{ec: map[string]*ecdsa.PrivateKey{}}
	var err error
	p.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	for _, id := range []string{"first", "second", "stranger"} {
		p.ec[id], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
	}
	p.publish(p.jwk("rsa"), p.jwk("first"))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": p.published})
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *identityProvider) publish(keys ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = keys
}

func base64URL(content []byte) string { return base64.RawURLEncoding.EncodeToString(content) }

func (p *identityProvider) jwk(id string) any {
	if id == "rsa" {
		return map[string]string{"kty": "RSA", "kid": id, "n": base64URL(p.rsa.N.Bytes()), "e": "AQAB"}
	}
	point, err := p.ec[id].PublicKey.Bytes() // 4, x, y
	if err != nil {
		panic(err)
	}
	return map[string]string{"kty": "EC", "crv": "P-256", "kid": id, "x": base64URL(point[1:33]), "y": base64URL(point[33:])}
}

// token makes one. Claims that are nil are left out.
func (p *identityProvider) token(t *testing.T, algorithm, id string, claims map[string]any) string {
	t.Helper()
	all := map[string]any{
		"iss": "https://idp.example.com", "aud": []string{"shop"}, "sub": "planted-alice", "email_verified": true,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "realm_access": map[string]any{"roles": []string{"customer"}},
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	encode := func(v any) string {
		document, err := json.Marshal(v)
		require.NoError(t, err)
		return base64URL(document)
	}
	input := encode(map[string]string{"alg": algorithm, "kid": id}) + "." + encode(all)
	sum := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch algorithm {
	case "RS256":
		signature, err = rsa.SignPKCS1v15(nil, p.rsa, crypto.SHA256, sum[:])
		require.NoError(t, err)
	case "ES256":
		r, s, err := ecdsa.Sign(rand.Reader, p.ec[id], sum[:])
		require.NoError(t, err)
		signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case "HS256": // with the public key
		public, err := x509.MarshalPKIXPublicKey(&p.rsa.PublicKey)
		require.NoError(t, err)
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(input))
		signature = mac.Sum(nil)
	case "none":
	}
	token := input + "." + base64URL(signature)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = append(p.made, token)
	return token
}

// settings name the provider's keys, and a set whose file never comes.
func (p *identityProvider) settings() string {
	return fmt.Sprintf("key_sets:\n  idp: {url: %q, min_refresh: 1s}\n  away: {file: /nowhere/keys.json}\n", p.url+"/keys")
}

func testJWT(t *testing.T, s *suite) {
	p := s.idp
	bearer := func(token string) []string { return []string{"authorization", "Bearer " + token} }
	t.Run("example", func(t *testing.T) {
		s.warm(t)
		const challenge = `Bearer realm="shop"`
		invalid := func(description string) string {
			return challenge + `, error="invalid_token", error_description="` + description + `"`
		}
		ask := func(t *testing.T, method string, headers ...string) *mesh.Verdict {
			t.Helper()
			return s.checkInTime(t, inbound("/orders/7", append(headers, "x-custom-token", "abc")...).With(mesh.Attributes{"request.method": method}))
		}
		for name, algorithm := range map[string]string{"rsa": "RS256", "first": "ES256"} {
			// The minimum of what the examples' handlers state.
			v := ask(t, "GET", bearer(p.token(t, algorithm, name, nil))...)
			assert.Equal(t, answer{codes.OK, 5 * time.Second, 1000}.String(), answerOf(v).String(), v.Message)
			assert.Contains(t, strings.Join(v.Referenced, " "), "request.headers[authorization]")
		}
		// A signature of 256 bytes has 342 characters; what is left of it here is still base64.
		cut := len(p.token(t, "RS256", "rsa", nil)) - 10
		for name, c := range map[string]struct {
			headers []string
			want    string
		}{
			"no token":       {nil, challenge},
			"another scheme": {[]string{"authorization", "Basic cGxhbnRlZDpwbGFudGVk"}, challenge},
			"garbage":        {bearer("planted.planted.planted"), invalid("the token is malformed")},
			"alg none":       {bearer(p.token(t, "none", "rsa", nil)), invalid("the signature algorithm is not accepted")},
			"key confusion":  {bearer(p.token(t, "HS256", "rsa", nil)), invalid("the signature algorithm is not accepted")},
			"wrong key":      {bearer(p.token(t, "ES256", "stranger", nil)), invalid("the signing key is not known")},
			"cut off":        {bearer(p.token(t, "RS256", "rsa", nil)[:cut]), invalid("the signature is not valid")},
			"expired":        {bearer(p.token(t, "RS256", "rsa", map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), invalid("the token is expired")},
			"to come":        {bearer(p.token(t, "RS256", "rsa", map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})), invalid("the token is not valid yet")},
			"wrong issuer":   {bearer(p.token(t, "RS256", "rsa", map[string]any{"iss": "https://planted.example.com"})), invalid("the issuer is not accepted")},
			"wrong audience": {bearer(p.token(t, "RS256", "rsa", map[string]any{"aud": "planted"})), invalid("the token is for another audience")},
			"no role":        {bearer(p.token(t, "RS256", "rsa", map[string]any{"realm_access": nil})), invalid("a claim is missing or not accepted")},
			"giant":          {bearer(p.token(t, "RS256", "rsa", map[string]any{"fill": strings.Repeat("x", 16<<10)})), invalid("the token is malformed")},
		} {
			t.Run(name, func(t *testing.T) {
				v := ask(t, "GET", c.headers...)
				assert.Equal(t, answer{code: codes.Unauthenticated}.String(), answerOf(v).String())
				require.NotNil(t, v.Direct)
				assert.Equal(t, 401, v.Direct.Code)
				assert.Equal(t, []mesh.HeaderOperation{{Name: "WWW-Authenticate", Value: c.want, Operation: "REPLACE"}}, v.ResponseHeaders)
				assert.Equal(t, "jwt.handler.istio-system:not authorized", v.Message)
			})
		}
		t.Run("the policy sees claims", func(t *testing.T) {
			v := ask(t, "PUT", bearer(p.token(t, "RS256", "rsa", nil))...)
			assert.Equal(t, denied.String(), answerOf(v).String(), "by the policy, so there is no challenge")
			assert.Empty(t, v.ResponseHeaders)
			v = ask(t, "PUT", bearer(p.token(t, "RS256", "rsa", map[string]any{"realm_access": map[string]any{"roles": []string{"customer", "editor"}}}))...)
			assert.Equal(t, codes.OK, v.Code, v.Message)
		})
	})
	t.Run("lifetimes", func(t *testing.T) {
		for name, c := range map[string]struct {
			claims  map[string]any
			longest time.Duration
			once    bool
		}{
			"until the token ends": {map[string]any{"exp": time.Now().Add(5 * time.Minute).Unix()}, 5 * time.Minute, false},
			"until it is too old":  {map[string]any{"iat": time.Now().Add(-time.Minute).Unix()}, 9 * time.Minute, false},
			"within the leeway":    {map[string]any{"exp": time.Now().Add(-time.Second).Unix()}, 0, true},
		} {
			t.Run(name, func(t *testing.T) {
				token := p.token(t, "RS256", "rsa", c.claims)
				for range 2 { // the second time it is known
					v := s.check(t, request("/jwt-alone", bearer(token)...))
					if c.once {
						assert.Equal(t, allowedOnce.String(), answerOf(v).String())
						continue
					}
					assert.Equal(t, codes.OK, v.Code, v.Message)
					assert.LessOrEqual(t, v.ValidFor, c.longest)
					assert.Greater(t, v.ValidFor, c.longest-30*time.Second)
					assert.EqualValues(t, 77, v.ValidUses)
				}
			})
		}
		s.expect(t, answer{codes.Unauthenticated, time.Minute, 7}, "/jwt-alone", bearer("x")...)
		s.expect(t, answer{code: codes.Unauthenticated}, "/jwt-alone", bearer(p.token(t, "ES256", "stranger", nil))...)
	})
	t.Run("rotation", func(t *testing.T) {
		old, young := bearer(p.token(t, "ES256", "first", nil)), bearer(p.token(t, "ES256", "second", nil))
		allowedNow := func(a answer) bool { return a.code == codes.OK }
		s.await(t, "the first key", request("/jwt-alone", old...), allowedNow)
		s.expect(t, answer{code: codes.Unauthenticated}, "/jwt-alone", young...)
		p.publish(p.jwk("rsa"), p.jwk("first"), p.jwk("second"))
		s.await(t, "the second key", request("/jwt-alone", young...), allowedNow)
		assert.Equal(t, codes.OK, s.check(t, request("/jwt-alone", old...)).Code)
		p.publish(p.jwk("rsa"), p.jwk("second"))
		stranger := request("/jwt-alone", bearer(p.token(t, "ES256", "stranger", nil))...)
		waitFor(t, "the first key's end", func(ctx context.Context) error {
			if _, err := s.mixer.Check(ctx, stranger); err != nil { // it wants the keys to be read
				return err
			}
			v, err := s.mixer.Check(ctx, request("/jwt-alone", old...))
			if err == nil && v.Code == codes.OK {
				return fmt.Errorf("a token of a removed key passes: %v", v)
			}
			return err
		})
		assert.Equal(t, codes.OK, s.check(t, request("/jwt-alone", young...)).Code)
	})
	t.Run("keys away", func(t *testing.T) {
		good, expired := bearer(p.token(t, "RS256", "rsa", nil)), bearer(p.token(t, "RS256", "rsa", map[string]any{"exp": 1}))
		s.expect(t, refused, "/jwt-away", good...)
		s.expect(t, allowedOnce, "/jwt-away-open", good...)
		s.expect(t, answer{code: codes.Unauthenticated}, "/jwt-away", expired...)
		s.expect(t, answer{code: codes.Unauthenticated}, "/jwt-away-open", expired...)
		s.expect(t, answer{code: codes.Unauthenticated}, "/jwt-away-open")
		s.expect(t, refused, "/jwt-confused", bearer(p.token(t, "HS256", "rsa", nil))...)
	})
	t.Run("secrecy", func(t *testing.T) {
		require.NotEmpty(t, p.made)
		for _, token := range p.made {
			for _, part := range strings.Split(token, ".")[1:] {
				if part != "" {
					assert.Empty(t, s.tollgate.Log.Lines(0, part))
				}
			}
		}
		assert.Contains(t, metrics(t, s.tollgate), `tollgate_key_set_keys{set="idp"} 2`)
	})
}
