package mixer_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// waitForMetric waits until Tollgate's metrics have a line that begins like this.
func waitForMetric(t *testing.T, tollgate *mesh.Tollgate, line string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(metrics(t, tollgate), "\n"+line) }, patience, 50*time.Millisecond, line)
}

func linesWith(text, part string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// testShadow applies the example and looks at what it says that there is to see: the caller gets the handler's answer, and the metric and
// the record tell of the candidate's.
func testShadow(t *testing.T, s *suite) {
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{})
	text := strings.ReplaceAll(readFile(t, root, "operatorconfig/examples/shadow.yaml"), exampleAddress, tollgate.Addr)
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("example-shadow")) })
	meshtest.Apply(t, s.mixer, "example-shadow", text)

	// The first example checks every inbound request, and bounds the uses.
	ask := func(key string) answer {
		v := s.checkInTime(t, request("/partners/7", "x-custom-token", "abc", "x-partner-key", key).With(mesh.Attributes{"context.reporter.kind": "inbound"}))
		return answerOf(v)
	}
	short := answer{codes.OK, 5 * time.Second, 1000}
	assert.Equal(t, short.String(), ask("new-4712").String())
	waitForMetric(t, tollgate, `tollgate_shadow_decisions_total{divergence="agree",handler="partners"}`)
	assert.Equal(t, short.String(), ask("old-4711").String())
	waitForMetric(t, tollgate, `tollgate_shadow_decisions_total{divergence="would_deny",handler="partners"}`)
	assert.Equal(t, codes.PermissionDenied, ask("planted-wrong").code)

	require.NoError(t, tollgate.Stop(t.Context()))
	var shadows, decisions []map[string]any
	for _, line := range tollgate.Log.Lines(0, `"kind":"decision"`) {
		record := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(line), &record), line)
		if record["shadow"] != nil {
			shadows = append(shadows, record)
		} else {
			decisions = append(decisions, record)
		}
	}
	// One each, unless an answer came after Mixer's deadline and was asked for again.
	require.NotEmpty(t, shadows)
	assert.NotEmpty(t, decisions, "the denial")
	record := shadows[0]
	assert.Equal(t, "allow", record["outcome"])
	assert.Equal(t, "OK", record["code"])
	assert.Equal(t, map[string]any{
		"subject": map[string]any{"properties": map[string]any{"partner_key": "***"}}, "action": map[string]any{"path": "/partners/7"},
	}, record["input"])
	candidate, ok := record["shadow"].(map[string]any)
	require.True(t, ok)
	assert.Equal(t, "would_deny", candidate["divergence"])
	assert.Equal(t, "deny", candidate["outcome"])
	assert.Equal(t, "PERMISSION_DENIED", candidate["code"])
	assert.Equal(t, "header/key", candidate["check"])
	assert.NotEqual(t, record["revision"], candidate["revision"])
	assert.NotContains(t, tollgate.Log.String(), "old-4711")
	assert.NotContains(t, tollgate.Log.String(), "planted")
}

// testShadowFaults has candidates that are wrong, not known, slow, or whatever Mixer can encode: their handlers decide as if they were not there.
func testShadowFaults(t *testing.T, s *suite) {
	tollgate := meshtest.Tollgate(t, mesh.TollgateOptions{Args: []string{"--log-level", "debug"}, Settings: unhurried})
	text := withRules(t, readFile(t, "testdata/applied/shadow.yaml"))
	t.Cleanup(func() { assert.NoError(t, s.mixer.Delete("shadow")) })
	meshtest.Apply(t, s.mixer, "shadow", strings.ReplaceAll(text, "tollgate-shadow:44225", tollgate.Addr))

	for handler, metric := range map[string]string{
		"shadow-invalid": `tollgate_shadow_not_compared_total{handler="shadow-invalid",reason="invalid"} 2`,
		"shadow-future":  `tollgate_shadow_not_compared_total{handler="shadow-future",reason="invalid"} 2`,
		"shadow-slow":    `tollgate_shadow_decisions_total{divergence="would_fail",handler="shadow-slow"} 2`,
		// ANY of key, user and method, another lifetime, and a 404.
		"shadow-whole": `tollgate_shadow_decisions_total{divergence="differ",handler="shadow-whole"} 2`,
	} {
		s.expect(t, allowed, "/"+handler, "x-custom-token", "planted-key", "x-method", "PUT")
		waitForShadow(t, tollgate, handler)
		s.expect(t, denied, "/"+handler, "x-custom-token", "planted-wrong", "x-method", "PUT")
		waitForMetric(t, tollgate, metric)
	}
	log := tollgate.Log.String()
	assert.Contains(t, log, `shadow.candidate.(field 1000): is not known to this version`)
	assert.Contains(t, log, `a candidate cannot be evaluated; its handler decides as before`)
	assert.NotContains(t, log, "planted")
}

// waitForShadow waits until the first check of a handler has come to something.
func waitForShadow(t *testing.T, tollgate *mesh.Tollgate, handler string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return len(linesWith(metrics(t, tollgate), `handler="`+handler+`"`)) >= 2 // its decision and its candidate's
	}, patience, 50*time.Millisecond)
}
