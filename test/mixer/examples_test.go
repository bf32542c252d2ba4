package mixer_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/tollgate-mesh/tollgate/test/mixer/mesh"
	"github.com/tollgate-mesh/tollgate/test/mixer/mesh/meshtest"
)

// exampleRequests go to the two examples of operatorconfig/, which check all inbound requests.
var exampleRequests = []struct {
	name    string
	path    string
	headers []string
	want    answer
	message string
}{
	{"right token", "/reviews", []string{"x-custom-token", "abc"}, answer{codes.OK, 5 * time.Second, 1000}, ""},
	{"wrong token", "/reviews", []string{"x-custom-token", "planted-wrong"}, denied, "auth-header.handler.istio-system:not authorized"},
	{"no token", "/reviews", nil, denied, "auth-header.handler.istio-system:not authorized"},
	{"empty token", "/reviews", []string{"x-custom-token", ""}, denied, "auth-header.handler.istio-system:not authorized"},
	{
		"policy allows", "/buckets/7",
		[]string{"x-custom-token", "abc", "x-user-group", "bucket-admins", "x-method", "storage.buckets.get"},
		// The minimum of what the two handlers state.
		answer{codes.OK, 5 * time.Second, 1000},
		"",
	},
	{
		"policy denies", "/buckets/7",
		[]string{"x-custom-token", "abc", "x-user-group", "planted-guests", "x-method", "storage.buckets.get"},
		denied, "rego.handler.istio-system:only bucket-admins may do this",
	},
	{
		"policy denies the method", "/buckets/7",
		[]string{"x-custom-token", "abc", "x-user-group", "bucket-admins", "x-method", "storage.buckets.delete"},
		denied, "rego.handler.istio-system:only bucket-admins may do this",
	},
}

func inbound(path string, headers ...string) mesh.Attributes {
	return request(path, headers...).With(mesh.Attributes{"context.reporter.kind": "inbound"})
}

// warm waits until the examples' policies are compiled: their half second may be too short for that on a busy machine.
func (s *suite) warm(t *testing.T) {
	t.Helper()
	s.await(t, "the examples' policies", inbound("/buckets/7"), func(a answer) bool { return a.code != codes.Unavailable })
}

func testExamples(t *testing.T, s *suite) {
	s.warm(t)
	for _, r := range exampleRequests {
		t.Run(r.name, func(t *testing.T) {
			v := s.checkInTime(t, inbound(r.path, r.headers...))
			assert.Equal(t, r.want.String(), answerOf(v).String())
			assert.Equal(t, r.message, v.Message)
			// What decides must be in the proxy's cache key.
			assert.Contains(t, strings.Join(v.Referenced, " "), "request.headers[x-custom-token]")
		})
	}
}

// testExamplesWithMixc asks with the release's own client.
func testExamplesWithMixc(t *testing.T, s *suite) {
	s.warm(t)
	for _, r := range exampleRequests {
		t.Run(r.name, func(t *testing.T) {
			attributes := inbound(r.path, r.headers...)
			if len(r.headers) == 0 {
				delete(attributes, "request.headers") // mixc has no way to write an empty map
			}
			args, err := mesh.MixcArgs(attributes)
			require.NoError(t, err)
			var printed *mesh.MixcResult
			waitFor(t, "an answer in time", func(ctx context.Context) error {
				var err error
				printed, err = s.mixer.Mixc(ctx, args...)
				if err == nil && (printed.Failed && strings.Contains(printed.Message, "DeadlineExceeded") || outOfTime(printed.Code, printed.Message)) {
					err = errors.New(printed.Output)
				}
				return err
			})
			assert.False(t, printed.Failed, printed.Output)
			got := answer{printed.Code, printed.ValidFor, printed.ValidUses}
			assert.Equal(t, r.want.String(), got.String(), printed.Output)
			assert.Equal(t, r.message, printed.Message)
		})
	}
}

func testUpdate(t *testing.T, s *suite) {
	text := withRules(t, readFile(t, "testdata/applied/update.yaml"))
	s.apply(t, "update", text)
	s.expect(t, allowed, "/update", token("planted-old-key")...)
	s.expect(t, denied, "/update", token("planted-new-key")...)

	changed := strings.ReplaceAll(text, "planted-old-key", "planted-new-key")
	meshtest.Apply(t, s.mixer, "update", s.addresses.Replace(changed))
	s.expect(t, denied, "/update", token("planted-old-key")...)
	s.expect(t, allowed, "/update", token("planted-new-key")...)
}
