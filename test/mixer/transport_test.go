package mixer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// mixerID is the identity that the certificates of both sides bear.
const mixerID = "spiffe://cluster.local/ns/istio-system/sa/istio-mixer-service-account"

// testTransport has the real Mixer present every kind of credential that it knows, right and wrong ones.
func testTransport(t *testing.T, s *suite) {
	dir := t.TempDir()
	certs := filepath.Join(dir, "certs")
	makeCerts(t, certs)
	foreign := filepath.Join(dir, "foreign")
	makeCerts(t, foreign)
	idp := newIssuer(t)
	put := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	records := filepath.Join(dir, "records.jsonl")
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{
		Args: []string{"--log-level", "debug"},
		Settings: unhurried + fmt.Sprintf(`
tls: {cert: %[1]q, key: %[2]q, client_ca: %[3]q, client_names: ["spiffe://cluster.local/ns/istio-system/sa/*"]}
secrets: {files: {bearer: %[4]q, plain: %[5]q, custom: %[6]q}}
callers:
  by-bearer: {bearer: bearer}
  by-plain: {authorization: plain}
  by-header: {header: {name: x-api-key, secret: custom}}
  by-oauth: {jwt: {issuer: %[7]q, audiences: [tollgate], keys_url: %[8]q}}
connections: {max_age: 1s}
reports: {default_sinks: [records], sinks: {records: {file: {path: %[9]q}}}}
`, filepath.Join(certs, "server.crt"), filepath.Join(certs, "server.key"), filepath.Join(certs, "ca.crt"),
			put("bearer-values", "planted-former\nplanted-bearer\n"), put("plain-values", "planted-plain\n"), put("custom-values", "planted-custom\n"),
			idp.server.URL, idp.server.URL+"/jwks", records),
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(clientTLS(t, certs))},
	})
	ca := filepath.Join(certs, "ca.crt")
	tls := func(fields map[string]any) map[string]any {
		fields["caCertificates"] = ca
		return map[string]any{"tls": fields}
	}
	mutual := func(pair string) map[string]any {
		return map[string]any{"mutual": map[string]any{"caCertificates": ca, "clientCertificate": pair + ".crt", "privateKey": pair + ".key"}}
	}
	oauth := func(secret string) map[string]any {
		return tls(map[string]any{"authHeader": "BEARER", "oauth": map[string]any{
			"clientId": "mixer", "clientSecret": put("oauth-"+secret, secret), "tokenUrl": idp.server.URL + "/token", "scopes": []string{"checks"},
		}})
	}
	issue(t, certs, "expired", mixerID, time.Now().Add(-time.Minute))
	issue(t, certs, "other", "spiffe://cluster.local/ns/default/sa/other", time.Now().Add(time.Hour))
	bearer := tls(map[string]any{"authHeader": "BEARER", "tokenPath": put("bearer", "planted-bearer")})

	cases := []struct {
		name           string
		authentication map[string]any
		// caller is who is believed to call. Without one the call is refused for the reason, and a line of the log has that and the detail; but
		// where several cases have one reason, one line in ten seconds speaks for all.
		caller         string
		reason, detail string
	}{
		{name: "tls-bearer", authentication: bearer, caller: "by-bearer"},
		{name: "tls-former", authentication: tls(map[string]any{"authHeader": "BEARER", "tokenPath": put("former", "planted-former")}), caller: "by-bearer"},
		{name: "tls-plain", authentication: tls(map[string]any{"authHeader": "PLAIN", "tokenPath": put("plain", "planted-plain")}), caller: "by-plain"},
		{name: "tls-custom", authentication: tls(map[string]any{"customHeader": "X-Api-Key", "tokenPath": put("custom", "planted-custom")}), caller: "by-header"},
		{name: "tls-oauth", authentication: oauth("planted-oauth"), caller: "by-oauth"},
		{name: "tls-mutual", authentication: mutual(filepath.Join(certs, "client")), caller: mixerID},

		{name: "tls-wrong", authentication: tls(map[string]any{"authHeader": "BEARER", "tokenPath": put("wrong", "planted-wrong")}), reason: "wrong_credential", detail: "no caller has the credential in authorization"},
		{name: "tls-wrong-plain", authentication: tls(map[string]any{"authHeader": "PLAIN", "tokenPath": put("wrong-plain", "planted-bearer")}), reason: "wrong_credential", detail: ""},
		{name: "tls-none", authentication: tls(map[string]any{"customHeader": "x-unknown", "tokenPath": put("unknown", "planted-bearer")}), reason: "no_credential", detail: "neither a client certificate"},
		{name: "tls-expired-token", authentication: oauth("planted-oauth-of-the-past"), reason: "token_expired", detail: "the token expired on"},
		{name: "tls-other-audience", authentication: oauth("planted-oauth-of-others"), reason: "token", detail: `the token is for [\"others\"]`},
		{name: "tls-expired", authentication: mutual(filepath.Join(certs, "expired")), reason: "certificate_expired", detail: "certificate has expired"},
		// The two authorities have one name, as those of two meshes do; else Mixer would show no certificate at all.
		{name: "tls-foreign", authentication: mutual(filepath.Join(foreign, "client")), reason: "certificate_authority", detail: "unknown authority"},
		// It demands its own identity of the server.
		{name: "tls-other-id", authentication: mutual(filepath.Join(certs, "other")), reason: "server_refused", detail: "bad certificate"},
		{name: "plaintext", authentication: nil, reason: "not_tls", detail: "does not look like a TLS handshake"},
	}
	var handlers []resource
	for _, c := range cases {
		h := newHandler(c.name, tollgate.Addr, "5s", map[string]any{"name": c.name, "auth_key": "planted-key", "decision_log": map[string]any{"record": "ALL"}})
		if c.authentication != nil {
			connection, ok := h.Spec["connection"].(map[string]any)
			require.True(t, ok)
			connection["authentication"] = c.authentication
		}
		handlers = append(handlers, h)
	}
	s.apply(t, "transport", withRules(t, printResources(t, handlers...)))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.caller != "" {
				s.expect(t, allowed, "/"+c.name, token("planted-key")...)
				s.expect(t, denied, "/"+c.name, token("planted-no-key")...)
				return
			}
			before := refusals(t, tollgate)[c.reason]
			v, err := s.mixer.Check(t.Context(), request("/"+c.name, token("planted-key")...))
			s.heard(v, err)
			require.Equal(t, codes.Internal, status.Code(err), "%v", v)
			t.Logf("Mixer %s: %v", s.mixer.Version, err)
			// Mixer dials when it reads its configuration, so a connection may have been refused before.
			called := strings.Contains(err.Error(), "Unauthenticated")
			require.Eventually(t, func() bool {
				now := refusals(t, tollgate)[c.reason]
				return now != "" && (!called || now != before) &&
					len(tollgate.Log.Lines(0, `"msg":"a caller was refused"`, fmt.Sprintf(`"reason":%q`, c.reason), c.detail)) > 0
			}, patience, 20*time.Millisecond, "no %s in %v, or no line with %s", c.reason, refusals(t, tollgate), c.detail)
		})
	}
	t.Run("rotation", func(t *testing.T) { rotateUnderLoad(t, s, tollgate, certs) })
	t.Run("records", func(t *testing.T) {
		want := map[string]string{}
		for _, c := range cases {
			if c.caller != "" {
				want[c.name] = c.caller
			}
		}
		waitFor(t, "the callers in records", func(context.Context) error {
			got := map[string]string{}
			for _, line := range recordLines(t, records) {
				got[fmt.Sprint(line["handler"])] = fmt.Sprint(line["caller"])
			}
			if !assert.ObjectsAreEqual(want, got) {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	})
	require.NoError(t, tollgate.Stop(t.Context()))
	assert.NotContains(t, tollgate.Log.String(), "planted-")
}

// refusals returns how many connections and calls were refused, by reason.
func refusals(t *testing.T, tollgate *mesh.Tollgate) map[string]string {
	t.Helper()
	counts := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^tollgate_refused_total\{reason="(\w+)"\} (\d+)$`).FindAllStringSubmatch(metrics(t, tollgate), -1) {
		counts[m[1]] = m[2]
	}
	return counts
}

// rotateUnderLoad makes new certificates while checks go on, on connections that last a second. No check fails.
func rotateUnderLoad(t *testing.T, s *suite, tollgate *mesh.Tollgate, certs string) {
	t.Helper()
	mark := tollgate.Log.Mark()
	var calls atomic.Int64
	var load sync.WaitGroup
	done := make(chan struct{})
	for _, path := range []string{"/tls-bearer", "/tls-custom", "/tls-mutual", "/tls-oauth"} {
		load.Go(func() {
			for running(done) {
				v, err := s.mixer.Check(t.Context(), request(path, token("planted-key")...))
				if assert.NoError(t, err, path) {
					assert.Equal(t, allowed.String(), answerOf(v).String())
				}
				calls.Add(1)
			}
		})
	}
	const rotations = 3
	for i := range rotations {
		makeCerts(t, certs, "--rotate")
		waitFor(t, "the new certificate", func(context.Context) error {
			if n := len(tollgate.Log.Lines(mark, "a file was read anew", "tls.cert")); n <= i {
				return fmt.Errorf("read %d times", n)
			}
			return nil
		})
	}
	time.Sleep(2500 * time.Millisecond) // more load, until every connection was opened again with the newest certificate
	close(done)
	load.Wait()
	t.Logf("Mixer %s: %d checks over %d rotations", s.mixer.Version, calls.Load(), rotations)
}

// makeCerts runs tollgate certs.
func makeCerts(t *testing.T, dir string, options ...string) {
	t.Helper()
	binaries, err := mesh.FindBinaries()
	require.NoError(t, err)
	binary, err := binaries.Tollgate(t.Context())
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), binary, append([]string{"certs", "--out", dir}, options...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// clientTLS believes the authority of a directory.
func clientTLS(t *testing.T, dir string) credentials.TransportCredentials {
	t.Helper()
	c, err := credentials.NewClientTLSFromFile(filepath.Join(dir, "ca.crt"), "")
	require.NoError(t, err)
	return c
}

// issue makes a client certificate that tollgate certs would not, with the authority of a directory.
func issue(t *testing.T, dir, name, id string, notAfter time.Time) {
	t.Helper()
	der := func(file string) []byte {
		block, _ := pem.Decode([]byte(readFile(t, dir, file)))
		require.NotNil(t, block)
		return block.Bytes
	}
	ca, err := x509.ParseCertificate(der("ca.crt"))
	require.NoError(t, err)
	caKey, err := x509.ParsePKCS8PrivateKey(der("ca.key"))
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	uri, err := url.Parse(id)
	require.NoError(t, err)
	made, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: notAfter.Add(-2 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{uri},
	}, ca, key.Public(), caKey)
	require.NoError(t, err)
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: made}, name + ".key": {Type: "PRIVATE KEY", Bytes: encodedKey}} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600))
	}
}

// issuer is an OAuth token endpoint for client credentials, with its key set.
type issuer struct {
	server *httptest.Server
	key    *ecdsa.PrivateKey
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jwks", i.jwks)
	mux.HandleFunc("POST /token", i.token)
	i.server = httptest.NewServer(mux)
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	point, err := i.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
	}}})
}

// token gives every client what its secret says.
func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	claims := map[string]any{"iss": i.server.URL, "sub": id, "aud": "tollgate", "exp": time.Now().Add(time.Hour).Unix()}
	switch secret {
	case "planted-oauth":
	case "planted-oauth-of-the-past":
		claims["exp"] = time.Now().Add(-time.Hour).Unix()
	case "planted-oauth-of-others":
		claims["aud"] = []string{"others"}
	default:
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
		return
	}
	if r.PostFormValue("grant_type") != "client_credentials" {
		http.Error(w, `{"error":"unsupported_grant_type"}`, http.StatusBadRequest)
		return
	}
	signed, err := i.sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answerJSON(w, map[string]any{"access_token": signed, "token_type": "Bearer", "expires_in": 3600})
}

func (i *issuer) sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, digest[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

func answerJSON(w http.ResponseWriter, v any) {
	encoded, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encoded)
}
