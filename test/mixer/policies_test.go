package mixer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
)

func testPolicies(t *testing.T, s *suite) {
	t.Run("loops for seconds", func(t *testing.T) {
		// Nothing but Mixer's own deadline of a second bounds these. What came after it would be INTERNAL, however
		// the handler is set.
		for path, want := range map[string]answer{"/slow": refused, "/slow-open": allowedOnce} {
			v := s.checkUnless(t, request(path), func(v *mesh.Verdict) bool { return strings.Contains(v.Message, "(policy not loaded)") })
			assert.Equal(t, want.String(), answerOf(v).String(), path)
			if want == refused {
				assert.Contains(t, v.Message, "(timeout)")
			}
		}
	})
	t.Run("yields no decision", func(t *testing.T) {
		for _, path := range []string{"/yields-string", "/yields-misspelt-object"} {
			v := s.expect(t, refused, path)
			assert.Contains(t, v.Message, "(evaluation error)")
		}
	})
}

// testLargeParams has ten megabytes of policy in a handler, which goes with every call.
func testLargeParams(t *testing.T, s *suite) {
	line := "allow { input.subject.user == \"planted-nobody" + strings.Repeat("-", 10<<10) + "\" }\n"
	handler := newHandler("large", "tollgate:44225", "5s", map[string]any{
		"policy":       []string{"package large\n\ndefault allow = true\n" + strings.Repeat(line, 10<<20/len(line))},
		"check_method": "data.large.allow",
		"failure":      map[string]any{"configuration": "OPEN"},
	})
	s.applyLarge(t, "large", printResources(t, handler, newRule("large", "/large", "large", "request")))
	started := time.Now()
	v, err := s.mixer.Check(t.Context(), request("/large"))
	s.heard(v, err)
	if err != nil {
		require.Equal(t, codes.Internal, status.Code(err))
		t.Logf("Mixer %s with 10 MiB of params, after %v: %v", s.mixer.Version, time.Since(started), err)
		return
	}
	t.Logf("Mixer %s with 10 MiB of params, after %v: %v", s.mixer.Version, time.Since(started), v)
	// Params of that size are not even decoded, so nobody knows that the handler would be open.
	assert.Equal(t, refused.String(), answerOf(v).String())
	assert.Contains(t, v.Message, "(configuration)")
}
