package mixer_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

// testSecrecy looks for what all the other scenarios planted in requests, params and secrets: in Tollgate's logs, which
// hold a line for every decision, in its metrics, on its admin page, and in everything that Mixer told a caller.
func testSecrecy(t *testing.T, s *suite) {
	for name, tollgate := range map[string]*mesh.Tollgate{
		"tollgate": s.tollgate, "fragile": s.fragile, "tight": s.tight, "impatient": s.impatient, "faulty": s.faulty,
	} {
		assert.Empty(t, tollgate.Log.Lines(0, planted), "log of %s", name)
		assert.NotContains(t, metrics(t, tollgate), planted, "metrics of %s", name)
		for _, page := range []string{"/", "/status.json", "/readyz/reports?verbose"} {
			assert.NotContains(t, adminPage(t.Context(), t, tollgate, page), planted, "%s of %s", page, name)
		}
	}
	assert.True(t, s.tollgate.Log.Contains(`"msg":"decision"`), "the log should be at debug")
	s.assertNothingTold(t)
}

// planted is what everything begins with that plays a credential.
const planted = "planted-"

// assertNothingTold looks for credentials in what callers were told.
func (s *suite) assertNothingTold(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotEmpty(t, s.messages)
	for _, message := range s.messages {
		assert.NotContains(t, message, planted, "Mixer told a caller")
	}
}

func metrics(t *testing.T, tollgate *mesh.Tollgate) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tollgate.AdminAddr+"/metrics", http.NoBody)
	require.NoError(t, err)
	reply, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer reply.Body.Close()
	require.Equal(t, http.StatusOK, reply.StatusCode)
	text, err := io.ReadAll(reply.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "tollgate_build_info")
	return string(text)
}
