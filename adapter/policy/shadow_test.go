package policy_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// seen is what observers were told.
type seen struct {
	mu          sync.Mutex
	comparisons []policy.Comparison
	not         map[string]int
	compiled    []*policy.Policy
	panics      bool
}

func (s *seen) Compared(c *policy.Comparison) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.comparisons = append(s.comparisons, *c)
	if s.panics {
		panic("observer")
	}
}

func (s *seen) NotCompared(_ *config.Handler, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.not == nil {
		s.not = map[string]int{}
	}
	s.not[reason]++
}

func (s *seen) CandidateCompiled(p *policy.Policy, _ time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compiled = append(s.compiled, p)
}

// bench is a policy that decides and shadows whose candidate gives verdicts of its own.
type bench struct {
	seen    seen
	active  *policy.Policy
	gate    *policy.Gate
	shadows *policy.Shadows
}

// kindFunc is a kind that is a function.
type kindFunc func(*config.Handler) ([]policy.Check, config.Problems)

func (f kindFunc) Compile(h *config.Handler) ([]policy.Check, config.Problems) { return f(h) }

func newBench(t *testing.T, places int, candidate kindFunc, change func(h *config.Handler)) *bench {
	t.Helper()
	b := &bench{gate: policy.NewGate(places, 0)}
	h := handler()
	other := handler()
	other.Fingerprint = "ba9876543210"
	h.Shadow = &config.Shadow{Candidate: other, Percent: 100}
	if change != nil {
		change(h)
	}
	b.active = compile(h, gives("active", policy.Instant, policy.Pass("active")))
	require.Nil(t, b.active.Failure())
	b.shadows = policy.NewShadows(&policy.Compiler{Kinds: []policy.Kind{candidate}, Timeout: time.Minute, Gate: b.gate}, 5*time.Second, &b.seen)
	t.Cleanup(func() { b.shadows.End(context.Background()) })
	return b
}

// ask decides on a request and has the candidate evaluated.
func (b *bench) ask(ctx context.Context) policy.Decision {
	request := &policy.Request{Instance: "i"}
	d := b.active.Evaluate(ctx, request)
	b.shadows.Evaluate(b.active, "caller", request, d, time.Millisecond)
	return d
}

func checks(all ...policy.Check) kindFunc {
	return func(*config.Handler) ([]policy.Check, config.Problems) { return all, nil }
}

func TestCompare(t *testing.T) {
	t.Parallel()
	var (
		allow   = policy.Decision{Lifetime: config.Lifetime{Duration: 5 * time.Second, Uses: 10}}
		deny    = policy.Decision{Code: config.PermissionDenied, Message: "no"}
		closed  = policy.Fail(config.Timeout, "").Resolve(config.Modes{})
		opened  = policy.Fail(config.Timeout, "").Resolve(allOpen())
		with    = func(d policy.Decision, change func(*policy.Decision)) policy.Decision { change(&d); return d }
		lasting = func(l time.Duration) policy.Decision {
			return with(allow, func(d *policy.Decision) { d.Lifetime.Duration = l })
		}
		page = func(body string) policy.Decision {
			return with(deny, func(d *policy.Decision) { d.HTTP = &config.HTTPResponse{Body: body} })
		}
		explains = with(allow, func(d *policy.Decision) { d.Check, d.Reason, d.Revision, d.ID = "c", "r", "v", "1" })
	)
	for i, c := range []struct {
		decided, candidate policy.Decision
		want               policy.Divergence
	}{
		{allow, allow, policy.Agrees},
		{deny, deny, policy.Agrees},
		{closed, closed, policy.Agrees},
		{opened, opened, policy.Agrees},
		{allow, explains, policy.Agrees}, // the caller would see no difference
		{allow, deny, policy.WouldDeny},
		{opened, deny, policy.WouldDeny},
		{opened, closed, policy.WouldDeny},
		{deny, allow, policy.WouldAllow},
		{closed, allow, policy.WouldAllow},
		{closed, opened, policy.WouldAllow},
		{allow, closed, policy.WouldFail},
		{allow, opened, policy.WouldFail},
		{deny, closed, policy.WouldFail},
		{deny, opened, policy.WouldFail},
		{closed, deny, policy.Differs},
		{opened, allow, policy.Differs},
		{deny, with(deny, func(d *policy.Decision) { d.Code = config.NotFound }), policy.Differs},
		{deny, with(deny, func(d *policy.Decision) { d.Message = "never" }), policy.Differs},
		{deny, page("a"), policy.Differs},
		{page("a"), page("b"), policy.Differs},
		{page("a"), page("a"), policy.Agrees},
		{allow, with(allow, func(d *policy.Decision) { d.Lifetime.Uses = 9 }), policy.Differs},
		{allow, with(allow, func(d *policy.Decision) { d.Lifetime = config.SingleUse }), policy.Differs},
		{allow, lasting(4001 * time.Millisecond), policy.Agrees}, // a token's time goes by
		{allow, lasting(4 * time.Second), policy.Differs},
		{allow, lasting(6 * time.Second), policy.Differs},
		{lasting(time.Millisecond), with(allow, func(d *policy.Decision) { d.Lifetime = config.Lifetime{Duration: -1, Uses: 10} }), policy.Differs},
	} {
		assert.Equal(t, c.want.String(), policy.Compare(c.decided, c.candidate).String(), "case %d", i)
	}
	assert.Equal(t, "unknown", policy.Divergence(99).String())
}

func TestShadow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, checks(gives("candidate", policy.Compute, policy.Deny("not yet"))), nil)
		d := b.ask(t.Context())
		assert.Equal(t, "allow", d.Outcome())
		synctest.Wait()
		require.Len(t, b.seen.comparisons, 1)
		c := b.seen.comparisons[0]
		assert.Equal(t, policy.WouldDeny, c.Divergence)
		assert.Equal(t, d, c.Decided)
		assert.Equal(t, "caller", c.Caller)
		assert.Equal(t, "i", c.Request.Instance)
		assert.Equal(t, "ba9876543210", c.Candidate.Revision)
		assert.Equal(t, "not yet", c.Candidate.Reason)
		assert.Same(t, b.active.Handler(), c.Handler)
		assert.Len(t, b.seen.compiled, 1)
		b.ask(t.Context())
		synctest.Wait()
		assert.Len(t, b.seen.compiled, 1, "a candidate is compiled once")
		assert.Empty(t, b.seen.not)
	})
}

// Nothing that a candidate does reaches the decision that counts: its time, its panics, its observers' panics, its caller's end.
func TestShadowsKeepToThemselves(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		check policy.Check
		want  policy.Divergence
		class config.FailureClass
	}{
		"slow":      {sleeper(time.Hour), policy.WouldFail, config.Timeout},
		"panicking": {does("panics", policy.Instant, func(context.Context) { panic("candidate") }), policy.WouldFail, config.Panic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 1, checks(test.check), nil)
				b.seen.panics = true
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				assert.Equal(t, "allow", b.ask(ctx).Outcome())
				assert.Zero(t, time.Since(start), "the caller waits for no candidate")
				cancel() // the call is over, the candidate is not
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				require.Len(t, b.seen.comparisons, 1)
				assert.Equal(t, test.want, b.seen.comparisons[0].Divergence)
				assert.Equal(t, test.class, b.seen.comparisons[0].Candidate.Failure.Class)
			})
		})
	}
}

// Where there is no room a candidate is left out and counted, and so where checks that ignore their deadline hold the places.
func TestShadowsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, checks(sleeper(time.Hour)), nil) // for an hour, and a decision takes a minute at most
		b.ask(t.Context())
		synctest.Wait()
		for range 5 {
			b.ask(t.Context())
		}
		synctest.Wait()
		assert.Equal(t, map[string]int{policy.ShadowBusy: 4}, b.seen.not)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		assert.Len(t, b.seen.comparisons, 2)
		assert.Equal(t, 2, b.gate.Running())
		b.ask(t.Context())
		synctest.Wait()
		assert.Equal(t, map[string]int{policy.ShadowBusy: 5}, b.seen.not, "an overload of the candidates' own gate is no divergence")
		assert.Len(t, b.seen.comparisons, 2)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.Zero(t, b.gate.Running())
	})
	synctest.Test(t, func(t *testing.T) { // instant checks have no gate
		b := newBench(t, 2, checks(does("long", policy.Instant, func(context.Context) { time.Sleep(time.Hour) })), nil)
		b.ask(t.Context())
		synctest.Wait()
		for range 5 {
			b.ask(t.Context())
		}
		synctest.Wait()
		assert.Equal(t, map[string]int{policy.ShadowBusy: 4}, b.seen.not)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		assert.Len(t, b.seen.comparisons, 2)
	})
}

// A candidate that cannot be compiled is reported once, counted at every check, and tried anew.
func TestInvalidCandidates(t *testing.T) {
	t.Parallel()
	problem := config.Problems{{Field: "shadow.candidate.policy[0]", Text: "is odd"}}
	for name, test := range map[string]struct {
		kind   kindFunc
		change func(h *config.Handler)
		class  config.FailureClass
	}{
		"problems of the section": {
			checks(gives("c", policy.Instant, policy.Pass(""))), func(h *config.Handler) { h.Shadow.Problems = problem }, config.ConfigurationFailure,
		},
		"problems of a kind": {func(*config.Handler) ([]policy.Check, config.Problems) { return nil, problem }, nil, config.ConfigurationFailure},
		"no check":           {checks(), nil, config.ConfigurationFailure},
		"a panic":            {func(*config.Handler) ([]policy.Check, config.Problems) { panic(errors.New("planted")) }, nil, config.Panic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 2, test.kind, test.change)
				for range 3 {
					assert.Equal(t, "allow", b.ask(t.Context()).Outcome())
					synctest.Wait()
				}
				require.Len(t, b.seen.compiled, 1)
				assert.Equal(t, test.class, b.seen.compiled[0].Failure().Class)
				assert.NotContains(t, b.seen.compiled[0].Failure().Detail, "planted")
				assert.Equal(t, map[string]int{policy.ShadowInvalid: 3}, b.seen.not)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				b.ask(t.Context())
				synctest.Wait()
				assert.Len(t, b.seen.compiled, 2)
				assert.Empty(t, b.seen.comparisons)
			})
		})
	}
}

// While a candidate is compiled, which the first check begins, others do without it.
func TestCandidateBeingCompiled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		compiled := 0
		b := newBench(t, 3, func(*config.Handler) ([]policy.Check, config.Problems) {
			compiled++
			time.Sleep(time.Minute)
			return []policy.Check{gives("c", policy.Instant, policy.Pass(""))}, nil
		}, nil)
		for range 3 {
			b.ask(t.Context())
			synctest.Wait()
		}
		assert.Equal(t, map[string]int{policy.ShadowCompiling: 2}, b.seen.not)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		b.ask(t.Context())
		synctest.Wait()
		assert.Len(t, b.seen.comparisons, 2)
		assert.Equal(t, 1, compiled)
	})
}

func TestPercent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, checks(gives("c", policy.Instant, policy.Pass("active"))), func(h *config.Handler) { h.Shadow.Percent = 20 })
		const asked = 5000
		for range asked {
			b.ask(t.Context())
			synctest.Wait()
		}
		// Twenty standard deviations from the mean.
		assert.InDelta(t, asked/5, len(b.seen.comparisons), 570)
		assert.Equal(t, policy.Agrees, b.seen.comparisons[0].Divergence)
	})
}

// At the end candidates under way are cut off, and none begins.
func TestShadowsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, checks(does("waits", policy.Compute, func(ctx context.Context) { <-ctx.Done() })), nil)
		b.ask(t.Context())
		synctest.Wait()
		start := time.Now()
		b.shadows.End(t.Context())
		assert.Zero(t, time.Since(start))
		b.ask(t.Context())
		synctest.Wait()
		assert.Equal(t, map[string]int{policy.ShadowEnding: 2}, b.seen.not)
		assert.Empty(t, b.seen.comparisons)
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, func(*config.Handler) ([]policy.Check, config.Problems) { time.Sleep(time.Hour); return nil, nil }, nil)
		b.ask(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		b.shadows.End(ctx)
		assert.Equal(t, time.Second, time.Since(start), "no candidate keeps the process")
		time.Sleep(time.Hour)
		synctest.Wait()
	})
}

// A handler without a candidate, one that cannot decide, and a door without shadows cost nothing.
func TestNoShadow(t *testing.T) { //nolint:paralleltest // it counts allocations
	var none *policy.Shadows
	request := &policy.Request{}
	with := handler()
	with.Shadow = &config.Shadow{Candidate: handler(), Percent: 100}
	none.Evaluate(compile(with, gives("c", policy.Instant, policy.Pass(""))), "", request, policy.Decision{}, 0)
	b := newBench(t, 1, func(*config.Handler) ([]policy.Check, config.Problems) { panic("nobody asked") }, nil)
	for _, p := range []*policy.Policy{nil, compile(handler(), gives("c", policy.Instant, policy.Pass(""))), compile(with), policy.Broken(with, policy.Fail(config.Panic, ""))} {
		assert.Zero(t, testing.AllocsPerRun(10, func() { b.shadows.Evaluate(p, "", request, policy.Decision{}, 0) }))
	}
	assert.Empty(t, b.seen.not)
	assert.Empty(t, b.seen.compiled)
}

// Candidates are evaluated by many requests at once.
func TestConcurrentShadows(t *testing.T) {
	t.Parallel()
	b := newBench(t, 8, checks(gives("a", policy.Instant, policy.Pass("")), gives("b", policy.Compute, policy.Deny(""))), func(h *config.Handler) {
		h.Shadow.Candidate = naming(h.Shadow.Candidate, 2)
	})
	b.ask(context.Background())
	require.Eventually(t, func() bool { // it is compiled by then
		b.seen.mu.Lock()
		defer b.seen.mu.Unlock()
		return len(b.seen.comparisons) == 1
	}, 2*time.Minute, time.Millisecond)
	var group sync.WaitGroup
	const askers, each = 16, 100
	for range askers {
		group.Go(func() {
			for range each {
				b.ask(context.Background())
			}
		})
	}
	group.Wait()
	require.Eventually(t, func() bool {
		b.seen.mu.Lock()
		defer b.seen.mu.Unlock()
		return len(b.seen.comparisons)+b.seen.not[policy.ShadowBusy]+b.seen.not[policy.ShadowCompiling] == askers*each+1
	}, 2*time.Minute, time.Millisecond)
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	assert.NotEmpty(t, b.seen.comparisons)
	for _, c := range b.seen.comparisons {
		require.Equal(t, policy.WouldDeny, c.Divergence, fmt.Sprint(c.Candidate))
		require.Len(t, c.Candidate.Findings, 2)
	}
}
