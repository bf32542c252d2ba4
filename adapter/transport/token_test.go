package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	_ "github.com/open-policy-agent/opa/v1/rego" // takes away the library's own bounds of keys, in the service too
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
)

// signer is an issuer's key.
type signer struct {
	id        string
	algorithm jwa.SignatureAlgorithm
	private   crypto.Signer
}

func newSigner(tb testing.TB, id string, algorithm jwa.SignatureAlgorithm) signer {
	tb.Helper()
	var private crypto.Signer
	var err error
	switch algorithm {
	case jwa.EdDSA():
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case jwa.ES256():
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	require.NoError(tb, err)
	return signer{id, algorithm, private}
}

// jwks is what an issuer publishes.
func jwks(tb testing.TB, signers ...signer) []byte {
	tb.Helper()
	set := jwk.NewSet()
	for _, s := range signers {
		key, err := jwk.Import(s.private.Public())
		require.NoError(tb, err)
		if s.id != "" {
			require.NoError(tb, key.Set(jwk.KeyIDKey, s.id))
		}
		require.NoError(tb, set.AddKey(key))
	}
	encoded, err := json.Marshal(set)
	require.NoError(tb, err)
	return encoded
}

type claims map[string]any

// with returns claims in which some differ; nil takes one out.
func (c claims) with(changes claims) claims {
	changed := claims{}
	for _, from := range []claims{c, changes} {
		for name, value := range from {
			if changed[name] = value; value == nil {
				delete(changed, name)
			}
		}
	}
	return changed
}

func (s signer) token(t *testing.T, c claims) string {
	t.Helper()
	payload, err := json.Marshal(c)
	require.NoError(t, err)
	return s.sign(t, payload, nil)
}

func (s signer) sign(t *testing.T, payload []byte, more map[string]any) string {
	t.Helper()
	headers := jws.NewHeaders()
	if s.id != "" {
		require.NoError(t, headers.Set(jws.KeyIDKey, s.id))
	}
	for name, value := range more {
		require.NoError(t, headers.Set(name, value))
	}
	signed, err := jws.Sign(payload, jws.WithKey(s.algorithm, s.private, jws.WithProtectedHeaders(headers)))
	require.NoError(t, err)
	return string(signed)
}

const issuer = "https://issuer.example.org"

func good() claims {
	return claims{"iss": issuer, "aud": []string{"other", "tollgate"}, "sub": "mixer", "exp": time.Now().Add(time.Hour).Unix()}
}

func jwtCaller(change func(j *settings.JWT)) map[string]settings.Caller {
	j := &settings.JWT{Issuer: issuer, Audiences: []string{"tollgate"}}
	change(j)
	return map[string]settings.Caller{"idp": {JWT: j}}
}

// withToken returns who a call with a token comes from.
func withToken(t *testing.T, r *running, token string) (string, error) {
	t.Helper()
	connection := r.dial(t, insecure.NewCredentials())
	defer connection.Close()
	return ask(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), connection)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	es, rs, ed, ps := newSigner(t, "es", jwa.ES256()), newSigner(t, "rs", jwa.RS256()), newSigner(t, "ed", jwa.EdDSA()), newSigner(t, "ps", jwa.PS256())
	stranger := newSigner(t, "es", jwa.ES256())
	anonymous := es
	anonymous.id = ""
	unknown := es
	unknown.id = "unknown"
	confused := rs
	confused.id = "es"
	set := jwks(t, es, rs, ed, ps)
	file := filepath.Join(t.TempDir(), "jwks")
	put(t, file, set)
	r := start(t, func(s *settings.Settings) {
		s.Callers = jwtCaller(func(j *settings.JWT) { j.KeysFile, j.Algorithms = file, []string{"ES256", "RS256", "EdDSA"} })
	}, nil)

	soon, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Minute).Unix()
	payload, err := json.Marshal(good())
	require.NoError(t, err)
	shared, err := jws.Sign(payload, jws.WithKey(jwa.HS256(), set)) // the public key as a secret: an old mistake of verifiers
	require.NoError(t, err)
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	critical := es.sign(t, payload, map[string]any{jws.CriticalKey: []string{"x"}, "x": true})
	valid := es.token(t, good())
	parts := strings.Split(valid, ".")
	fromOther := strings.Split(es.token(t, good().with(claims{"sub": "other"})), ".")

	for name, c := range map[string]struct {
		token  string
		reason Reason
		detail string
	}{
		"ES256":        {token: valid},
		"RS256":        {token: rs.token(t, good())},
		"EdDSA":        {token: ed.token(t, good())},
		"one audience": {token: es.token(t, good().with(claims{"aud": "tollgate"}))},
		"no key id":    {token: anonymous.token(t, good())},

		"expired":                 {es.token(t, good().with(claims{"exp": past})), TokenExpired, "the token expired on 20"},
		"expired, other audience": {es.token(t, good().with(claims{"exp": past, "aud": "x"})), InvalidToken, `the token is for ["x"]`},
		"not yet valid":           {es.token(t, good().with(claims{"nbf": soon})), InvalidToken, "the token is not valid before 20"},
		"for ever":                {es.token(t, good().with(claims{"exp": nil})), InvalidToken, "does not say when it expires"},
		"another audience":        {es.token(t, good().with(claims{"aud": "tollgat"})), InvalidToken, `the token is for ["tollgat"]`},
		"no audience":             {es.token(t, good().with(claims{"aud": nil})), InvalidToken, "the token is for []"},
		"another issuer":          {es.token(t, good().with(claims{"iss": issuer + "/"})), InvalidToken, `the token's issuer is "https://issuer.example.org/"`},
		"no issuer":               {es.token(t, good().with(claims{"iss": nil})), InvalidToken, `the token's issuer is ""`},
		"another key":             {stranger.token(t, good()), InvalidToken, "the token's signature is wrong"},
		"an unknown key":          {unknown.token(t, good()), InvalidToken, `the issuer has no key "unknown" for ES256`},
		"a key of another type":   {confused.token(t, good()), InvalidToken, `the issuer has no key "es" for RS256`},
		"algorithm not allowed":   {ps.token(t, good()), InvalidToken, `signed with "PS256"; algorithms has ["ES256" "RS256" "EdDSA"]`},
		"a shared secret":         {string(shared), InvalidToken, `signed with "HS256"`},
		"no signature":            {unsigned, InvalidToken, ""},
		"a critical extension":    {critical, InvalidToken, "the token has critical headers"},
		"another's payload":       {parts[0] + "." + fromOther[1] + "." + parts[2], InvalidToken, "the token's signature is wrong"},
		"signature cut off":       {parts[0] + "." + parts[1] + ".", InvalidToken, ""},
		"claims that are none":    {es.sign(t, []byte(`["iss"]`), nil), InvalidToken, "the token has claims that cannot be read"},
		"an opaque token":         {"planted", WrongCredential, "neither in a secret nor a JWT"},
		"dots":                    {"..", InvalidToken, "no signed JWT"},
		"four parts":              {valid + ".x", WrongCredential, "neither in a secret nor a JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time it may be believed already
				caller, err := withToken(t, r, c.token)
				refused := r.refused()
				if c.reason == "" {
					require.NoError(t, err, "%v", refused)
					assert.Equal(t, "idp", caller)
					continue
				}
				require.Equal(t, codes.Unauthenticated, status.Code(err), "%v", err)
				require.Len(t, refused, 1)
				assert.Equal(t, c.reason, refused[0].Reason, "%v", refused[0])
				assert.Contains(t, refused[0].Detail, c.detail)
				assert.NotContains(t, refused[0].Detail, c.token)
			}
		})
	}
}

// Clocks differ a little: a token is believed a while before it begins and after it has ended.
func TestTokensWithinTheLeeway(t *testing.T) {
	t.Parallel()
	es := newSigner(t, "es", jwa.ES256())
	file := filepath.Join(t.TempDir(), "jwks")
	put(t, file, jwks(t, es))
	v := verifierOf(t, file)
	now := time.Now()
	v.now = func() time.Time { return now }
	token := es.token(t, good().with(claims{"exp": now.Add(-10 * time.Second).Unix(), "nbf": now.Add(10 * time.Second).Unix()}))
	for range 2 { // the second time it is believed already
		require.Nil(t, v.verify(t.Context(), token))
	}
}

// A token that was believed once is not believed past its end, nor past the end of its key.
func TestBeliefEnds(t *testing.T) {
	t.Parallel()
	es, next := newSigner(t, "a", jwa.ES256()), newSigner(t, "b", jwa.ES256())
	file := filepath.Join(t.TempDir(), "jwks")
	put(t, file, jwks(t, es))
	v := verifierOf(t, file)
	now := time.Now()
	v.now = func() time.Time { return now }
	token := es.token(t, good().with(claims{"exp": now.Add(time.Hour).Unix()}))
	require.Nil(t, v.verify(t.Context(), token))
	require.Equal(t, 1, v.believed.Len())
	now = now.Add(time.Hour + 28*time.Second) // a token tells whole seconds
	require.Nil(t, v.verify(t.Context(), token))
	now = now.Add(3 * time.Second)
	require.Equal(t, TokenExpired, v.verify(t.Context(), token).Reason)

	now = time.Now()
	put(t, file, jwks(t, next))
	require.True(t, v.keys.document.Read(t.Context()))
	require.Equal(t, InvalidToken, v.verify(t.Context(), token).Reason)
	require.Nil(t, v.verify(t.Context(), next.token(t, good())))
}

// Keys come from a URL, are fetched again when a token names a new one, and stay when the issuer is away.
func TestKeysFromAURL(t *testing.T) {
	t.Parallel()
	first, second := newSigner(t, "a", jwa.RS256()), newSigner(t, "b", jwa.RS256())
	var published atomic.Pointer[[]byte]
	var asked atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if content := published.Load(); content != nil {
			_, _ = w.Write(*content)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	put(t, ca, pemOf(server.Certificate().Raw))
	publish := func(signers ...signer) {
		content := jwks(t, signers...)
		published.Store(&content)
	}
	publish(first)
	r := start(t, func(s *settings.Settings) {
		s.Callers = jwtCaller(func(j *settings.JWT) { j.KeysURL, j.KeysCA = server.URL, ca })
	}, nil)
	caller, err := withToken(t, r, first.token(t, good()))
	require.NoError(t, err, "the keys are there before the first call")
	require.Equal(t, "idp", caller)
	require.EqualValues(t, 1, asked.Load())

	publish(first, second)
	begin := time.Now()
	// Whoever makes up keys makes us ask no more than every ten seconds, be it that a slow machine takes that long.
	askedOnce := func() {
		t.Helper()
		require.GreaterOrEqual(t, asked.Load(), int64(2))
		require.LessOrEqual(t, asked.Load(), 2+int64(time.Since(begin)/renewEvery))
	}
	// A call does not wait for them for long.
	eventually(t, "an unknown key is asked for", func() bool {
		_, err := withToken(t, r, second.token(t, good()))
		return err == nil
	})
	askedOnce()
	unknown := second
	unknown.id = "made-up"
	for range 5 {
		_, err = withToken(t, r, unknown.token(t, good()))
		require.Equal(t, codes.Unauthenticated, status.Code(err))
	}
	askedOnce()

	published.Store(nil)
	document := r.issuerKeys()[0].document
	next := document.Next()
	document.Want()
	<-next
	_, err = withToken(t, r, first.token(t, good()))
	require.NoError(t, err, "what was good still holds")
	files := r.Files()
	require.Len(t, files, 1)
	assert.Equal(t, "callers.idp.jwt.keys_url", files[0].Setting)
	assert.Positive(t, files[0].Failures)
	assert.Contains(t, r.log.String(), "503")
}

// Where there are several issuers, nobody waits for the keys of one with the token of another, be it away or slow.
func TestAnotherIssuersTokenAsksForNoKeys(t *testing.T) {
	t.Parallel()
	first, second := newSigner(t, "a", jwa.ES256()), newSigner(t, "b", jwa.ES256())
	var asked atomic.Int64
	content := jwks(t, first)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = w.Write(content)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "jwks")
	put(t, file, jwks(t, second))
	r := start(t, func(s *settings.Settings) {
		s.Callers = jwtCaller(func(j *settings.JWT) { j.KeysURL = server.URL })
		s.Callers["other"] = jwtCaller(func(j *settings.JWT) { j.Issuer, j.KeysFile = "https://other.example.org", file })["idp"]
	}, nil)
	caller, err := withToken(t, r, second.token(t, good().with(claims{"iss": "https://other.example.org"})))
	require.NoError(t, err)
	assert.Equal(t, "other", caller)
	assert.EqualValues(t, 1, asked.Load(), "at the start")
	caller, err = withToken(t, r, first.token(t, good()))
	require.NoError(t, err)
	assert.Equal(t, "idp", caller)
}

// All who come with a key that is not known wait for the attempt that the first of them asked for.
func TestManyWaitForNewKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "jwks")
	put(t, file, jwks(t, newSigner(t, "a", jwa.ES256())))
	synctest.Test(t, func(t *testing.T) {
		k, err := newIssuerKeys(t.Context(), "jwt", &settings.JWT{KeysFile: file}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		var waited atomic.Int64
		for range 3 {
			go func() {
				k.renew(t.Context())
				waited.Add(1)
			}()
			synctest.Wait()
		}
		assert.Zero(t, waited.Load())
		require.True(t, k.document.Read(t.Context()))
		synctest.Wait()
		assert.EqualValues(t, 3, waited.Load())

		begin := time.Now()
		k.renew(t.Context())
		assert.Equal(t, begin, time.Now(), "it was asked just now, and what came of it is known")
		time.Sleep(renewEvery)
		k.renew(t.Context())
		assert.Equal(t, begin.Add(renewEvery+renewWait), time.Now(), "nobody answers")
	})
}

func TestKeysThatNeverCame(t *testing.T) {
	t.Parallel()
	redirecting := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	defer redirecting.Close()
	for url, problem := range map[string]string{"http://127.0.0.1:1": "connection refused", redirecting.URL: "answers with a redirect"} {
		r := start(t, func(s *settings.Settings) { s.Callers = jwtCaller(func(j *settings.JWT) { j.KeysURL = url }) }, nil)
		_, err := withToken(t, r, newSigner(t, "a", jwa.ES256()).token(t, good()))
		assert.Equal(t, codes.Unauthenticated, status.Code(err))
		assert.Equal(t, []Reason{KeysUnavailable}, r.reasons())
		assert.Contains(t, r.log.String(), problem)
	}
}

func TestParseKeys(t *testing.T) {
	t.Parallel()
	es := newSigner(t, "a", jwa.ES256())
	private, err := jwk.Import(es.private)
	require.NoError(t, err)
	secretSet, err := json.Marshal(map[string]any{"keys": []any{private}})
	require.NoError(t, err)
	small := `{"keys":[{"kty":"RSA","kid":"s","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(append([]byte{0x80}, make([]byte, 127)...)) + `"}]}`
	many := make([]signer, jwt.MaxKeys+1)
	for i := range many {
		many[i] = signer{id: strings.Repeat("k", i+1), private: newSigner(t, "", jwa.EdDSA()).private}
	}
	encryption := strings.Replace(string(jwks(t, es)), `"kty"`, `"use":"enc","kty"`, 1)
	for name, c := range map[string]struct{ content, problem string }{
		"no JSON":         {"x", "no JWK Set"},
		"nothing":         {"", "no JWK Set"},
		"no keys":         {`{"keys":[]}`, "no key that verifies signatures"},
		"private":         {string(secretSet), "has a secret key"},
		"shared":          {`{"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"}]}`, `has a secret key ("s")`},
		"small":           {small, "no key that verifies signatures"},
		"too many":        {string(jwks(t, many...)), "has 101 keys; use at most 100"},
		"for encryption":  {encryption, "no key that verifies signatures"},
		"of another type": {`{"keys":[{"kty":"LMS","kid":"s"}]}`, "no key that verifies signatures"},
	} {
		_, err := parseKeys([]byte(c.content))
		require.ErrorContains(t, err, c.problem, name)
	}
	mixed := strings.Replace(string(jwks(t, es)), `[`, `[{"kty":"LMS","kid":"s"},`, 1)
	set, err := parseKeys([]byte(mixed))
	require.NoError(t, err)
	assert.Equal(t, 1, set.Len())
}

func FuzzVerify(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJFUzI1NiJ9.e30.")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJFUzI1NiIsImNyaXQiOlsiYiJdfQ.e30.AAAA")
	file := filepath.Join(f.TempDir(), "jwks")
	put(f, file, jwks(f, newSigner(f, "", jwa.ES256())))
	v := verifierOf(f, file)
	f.Fuzz(func(t *testing.T, token string) {
		refusal := v.verify(t.Context(), token)
		require.NotNil(t, refusal, "nobody has the key")
		require.NotEmpty(t, refusal.Reason)
	})
}

// verifierOf believes what the keys of a file signed.
func verifierOf(tb testing.TB, file string) *verifier {
	tb.Helper()
	caller := jwtCaller(func(j *settings.JWT) { j.KeysFile = file })["idp"].WithDefaults()
	keys, err := newIssuerKeys(tb.Context(), "callers.idp.jwt", caller.JWT, slog.New(slog.DiscardHandler))
	require.NoError(tb, err)
	return newVerifier(caller.JWT, keys)
}
