package adapter

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/settings"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// A candidate that would run for minutes neither holds up its handler's answers nor the end, and leaves nothing behind.
func TestServiceEndsBesideCandidates(t *testing.T) {
	before := goroutines()
	s := start(t, func(s *settings.Settings) { s.Limits.ShadowChecks = 2 })
	params := keyParams("key", "abc")
	params.Shadow = &configpb.Shadow{Candidate: regoParams("", looping)}
	params.Shadow.Candidate.EvaluationTimeout = durationpb.New(time.Minute)
	call := mixertest.Call(params, "abc")
	require.Eventually(t, func() bool {
		assert.Zero(t, s.send(t, call).Status.Code)
		_, metrics := s.get(t, "/metrics")
		return strings.Contains(metrics, `tollgate_shadow_not_compared_total{handler="key",reason="busy"}`)
	}, patience, time.Millisecond, "two are under way, and there is no room for a third")
	require.NoError(t, s.end(t))
	s.connection.Close()
	requireNoMoreGoroutines(t, before)
}
