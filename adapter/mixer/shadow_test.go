package mixer

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/experimental"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

// comparisons keeps what shadows tell.
type comparisons struct {
	mu   sync.Mutex
	seen []*policy.Comparison
}

func (*comparisons) CandidateCompiled(*policy.Policy, time.Duration) {}
func (*comparisons) NotCompared(*config.Handler, string)             {}
func (c *comparisons) Compared(comparison *policy.Comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, comparison)
}

func (c *comparisons) get() []*policy.Comparison {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// A candidate reads the request long after its call was answered and its buffers went to other calls.
func TestCandidatesReadNoReusedBuffers(t *testing.T) {
	compiler := testCompiler()
	late := &lateKind{Kind: compiler.Kinds[0], asked: make(chan string, 1), answered: make(chan struct{})}
	compiler.Kinds[0] = late
	seen := &comparisons{}
	shadows := policy.NewShadows(compiler, time.Second, seen)
	defer shadows.End(context.WithoutCancel(t.Context()))
	engines := testEngines(testCompiler())
	engines.Shadows, engines.Recorder = shadows, recorder{"known"}
	engines.Caller = func(context.Context) string { return "mixer" }
	connection := serve(t, NewDoor(engines, testLimits(), quiet{}), experimental.BufferPool(&scribblingPool{}))

	params := &configpb.Params{
		Name: lateName, AuthKey: pointer("abc"), Shadow: &configpb.Shadow{Candidate: &configpb.Params{AuthKey: pointer("abd")}},
	}
	allowed, err := mixertest.Send(t.Context(), connection, pooledCall(params, "abc"))
	require.NoError(t, err)
	assert.Zero(t, allowed.Status.Code, "the candidate, which waits for us, does not hold the answer up")
	for range 20 {
		_, err := mixertest.Send(t.Context(), connection, pooledCall(&configpb.Params{Name: "other", AuthKey: pointer("abc")}, strings.Repeat("y", 100)))
		require.NoError(t, err)
	}
	assert.Empty(t, seen.get())
	close(late.answered)
	assert.Equal(t, "abc", <-late.asked)
	require.Eventually(t, func() bool { return len(seen.get()) == 1 }, 30*time.Second, time.Millisecond)
	c := seen.get()[0]
	assert.Equal(t, "mixer", c.Caller)
	assert.Equal(t, "known", c.Decided.ID)
	assert.Equal(t, lateName, c.Handler.Name)
	assert.Equal(t, pooledName, c.Request.Instance)
	assert.Equal(t, "late", c.Candidate.Reason)
}
