package transport

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/adapter/transport/testca"
)

// The certificate that is shown has to be valid now, whatever the file has meanwhile.
func TestConditionOfTheCertificate(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		authority, err := testca.New()
		require.NoError(t, err)
		begin, end := time.Now().Add(time.Hour), time.Now().Add(24*time.Hour)
		pair, err := authority.Issue(testca.Leaf{NotBefore: begin, NotAfter: end})
		require.NoError(t, err)
		s := settings.TLS{Cert: filepath.Join(directory, "crt"), Key: filepath.Join(directory, "key")}
		require.NoError(t, os.WriteFile(s.Cert, pair.Cert, 0o600))
		require.NoError(t, os.WriteFile(s.Key, pair.Key, 0o600))
		c, err := openCertificates(s)
		require.NoError(t, err)
		conditions := (&Transport{certificates: c}).Conditions()
		require.Len(t, conditions, 1)
		assert.Equal(t, "tls.cert", conditions[0].Name)
		assert.False(t, conditions[0].Source, "there is nothing to be had from waiting")
		valid := conditions[0].Probe

		require.EqualError(t, valid(), "the certificate is not valid before "+begin.UTC().Format(time.RFC3339))
		time.Sleep(time.Hour)
		require.NoError(t, valid())
		require.NoError(t, os.WriteFile(s.Cert, []byte("nonsense"), 0o600))
		_, err = c.pair.look()
		require.Error(t, err)
		require.Error(t, c.pair.file().Err)
		require.NoError(t, valid(), "what was there before is shown on")
		time.Sleep(23 * time.Hour)
		require.EqualError(t, valid(), "the certificate or one of its chain expired on "+end.UTC().Format(time.RFC3339))
	})
	assert.Empty(t, (&Transport{}).Conditions(), "without TLS")
}

// Whoever calls with an issuer's tokens is refused for as long as its keys were never there.
func TestConditionOfAnIssuersKeys(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(jwks(t, newSigner(t, "", jwa.ES256())))
	}))
	t.Cleanup(server.Close)
	caller := jwtCaller(func(j *settings.JWT) { j.KeysURL = server.URL })["idp"].WithDefaults()
	keys, err := newIssuerKeys(t.Context(), "callers.edge.jwt", caller.JWT, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	verifying := &callers{proofs: []proof{{verifier: newVerifier(caller.JWT, keys)}}}
	conditions := (&Transport{callers: verifying}).Conditions()
	require.Len(t, conditions, 1)
	assert.Equal(t, "callers.edge.jwt.keys_url", conditions[0].Name)
	assert.True(t, conditions[0].Source)
	require.EqualError(t, conditions[0].Probe(), "the issuer's keys were never loaded")
	require.True(t, keys.document.Read(t.Context()))
	require.NoError(t, conditions[0].Probe())
}
