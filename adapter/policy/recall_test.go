package policy_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// recaller is a check that may have an answer at hand.
type recaller struct {
	policy.Check
	recall func(request *policy.Request) (policy.Verdict, bool)
}

func (c recaller) Recall(request *policy.Request) (policy.Verdict, bool) {
	return c.recall(request)
}

func knows(v policy.Verdict) func(*policy.Request) (policy.Verdict, bool) {
	v.Remembered = true
	return func(*policy.Request) (policy.Verdict, bool) { return v, true }
}

// An answer at hand takes no place at the gate, is not asked for again, and is said to be one.
func TestRecalled(t *testing.T) {
	t.Parallel()
	evaluates := gives("slow", policy.Compute, policy.Verdict{Result: policy.Passed, Reason: "evaluated"})
	full := policy.NewGate(1, 0)
	t.Cleanup(holdGate(t, full))
	long := config.Lifetime{Duration: time.Minute, Uses: 7}
	for name, test := range map[string]struct {
		checks   []policy.Check
		gate     *policy.Gate
		outcome  string
		reason   string
		cached   bool
		lifetime config.Lifetime
	}{
		"pass": {
			[]policy.Check{recaller{evaluates, knows(policy.Verdict{Result: policy.Passed, Reason: "known", Lifetime: config.Lifetime{Duration: time.Second, Uses: 1}})}},
			full,
			"allow", "known", true,
			config.Lifetime{Duration: time.Second, Uses: 1},
		},
		"deny":        {[]policy.Check{recaller{evaluates, knows(policy.Deny("known"))}}, full, "deny", "known", true, config.Lifetime{}},
		"not known":   {[]policy.Check{recaller{evaluates, func(*policy.Request) (policy.Verdict, bool) { return policy.Deny("stale"), false }}}, policy.NewGate(1, 0), "allow", "evaluated", false, long},
		"gate counts": {[]policy.Check{recaller{evaluates, func(*policy.Request) (policy.Verdict, bool) { return policy.Verdict{}, false }}}, full, "failed_closed", "overload", false, config.Lifetime{}},
		"panic":       {[]policy.Check{recaller{evaluates, func(*policy.Request) (policy.Verdict, bool) { panic("bug") }}}, full, "failed_closed", "panic", false, config.Lifetime{}},
		"two, of which the second decides": {
			[]policy.Check{evaluates, recaller{gives("quick", policy.Compute, policy.Pass("")), knows(policy.Deny("known"))}},
			policy.NewGate(1, 0),
			"deny", "known", true,
			config.Lifetime{},
		},
		"two, of which the first decides": {
			[]policy.Check{gives("slow", policy.Compute, policy.Deny("no")), recaller{evaluates, knows(policy.Deny("known"))}},
			policy.NewGate(1, 0),
			"deny", "no", false,
			config.Lifetime{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := handler()
			h.Allow = long
			c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: test.checks}}, Timeout: time.Minute, Gate: test.gate}
			d := c.Compile(naming(h, len(test.checks)), nil).Evaluate(t.Context(), &policy.Request{})
			assert.Equal(t, test.outcome, d.Outcome())
			assert.Equal(t, test.reason, d.Reason)
			assert.Equal(t, test.cached, d.Cached)
			assert.Equal(t, test.lifetime, d.Lifetime)
		})
	}
}

// What is at hand is told even to a call that has no time left.
func TestRecallNeedsNoTime(t *testing.T) {
	t.Parallel()
	check := recaller{gives("slow", policy.Compute, policy.Pass("evaluated")), knows(policy.Pass("known"))}
	c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{check}}}, Timeout: time.Minute, Gate: policy.NewGate(1, 0)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, "known", c.Compile(handler(), nil).Evaluate(ctx, &policy.Request{}).Reason)
}

// A check that does not know its verdict is asked for it once, and counts one miss.
func TestRecallIsAskedOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	check := recaller{gives("slow", policy.Compute, policy.Pass("evaluated")), func(*policy.Request) (policy.Verdict, bool) { asked++; return policy.Verdict{}, false }}
	c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{check, check}}}, Timeout: time.Minute, Gate: policy.NewGate(1, 0)}
	assert.Equal(t, "evaluated", c.Compile(naming(handler(), 2), nil).Evaluate(t.Context(), &policy.Request{}).Reason)
	assert.Equal(t, 2, asked)
}
