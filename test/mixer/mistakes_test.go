package mixer_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// testMistakes asks handlers that Mixer accepts and Tollgate cannot decide with.
func testMistakes(t *testing.T, s *suite) {
	t.Run("invalid Rego", func(t *testing.T) {
		v := s.expect(t, refused, "/invalid-rego")
		assert.Equal(t, "invalid-rego.handler.istio-system:the request could not be checked (configuration)", v.Message)
		s.expect(t, allowedOnce, "/invalid-rego-open")
	})
	t.Run("no checks", func(t *testing.T) {
		v := s.expect(t, refused, "/without-checks", token("planted-anything")...)
		assert.Contains(t, v.Message, "(configuration)")
		s.expect(t, refused, "/without-params", token("planted-anything")...)
	})
	t.Run("quotes", func(t *testing.T) {
		// Mixer takes quotes off the constants of instances, but a handler's params arrive as they are.
		s.expect(t, allowed, "/key-in-quotes", token(`"planted-quoted"`)...)
		s.expect(t, denied, "/key-in-quotes", token(`planted-quoted`)...)
		s.expect(t, allowed, "/header-in-quotes", token(`'planted-quoted'`)...)
		s.expect(t, denied, "/header-in-quotes", token(`planted-quoted`)...)
	})
	t.Run("fault injection", func(t *testing.T) {
		// The failure matrix shows what the other binary does with the same policy.
		v := s.expect(t, refused, "/injected-panic-refused")
		assert.Contains(t, v.Message, "(configuration)")
	})
}

// testMissingTemplate shows Mixer's own behaviour that the bundle and the documentation warn of: it drops an adapter,
// and with it every handler and rule, if one of the templates that it lists is not there.
func testMissingTemplate(t *testing.T, s *suite) {
	text := withRules(t, s.addresses.Replace(readFile(t, "testdata/applied/incomplete.yaml")))
	adapter := bundledAdapter(t, "incomplete")
	adapter.Spec["templates"] = []string{"authorization", "nosuchtemplate"}
	require.NoError(t, s.mixer.ApplyAndSync(t.Context(), "incomplete", text+"\n---\n"+printResources(t, adapter)))
	problems := strings.Join(s.mixer.ConfigErrors(), "\n")
	assert.Contains(t, problems, "nosuchtemplate")
	t.Logf("mixs says: %s", problems)
	v := s.checkFreely(t, request("/incomplete", token("planted-wrong")...))
	assert.Equal(t, mixersOwn.String(), answerOf(v).String(), "the rule is gone, so everything may pass")

	adapter.Spec["templates"] = []string{"authorization"}
	meshtest.Apply(t, s.mixer, "incomplete", text+"\n---\n"+printResources(t, adapter))
	s.expect(t, denied, "/incomplete", token("planted-wrong")...)
	require.NoError(t, s.mixer.Delete("incomplete"))
}
