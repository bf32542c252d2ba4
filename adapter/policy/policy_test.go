package policy_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/config"
)

// sleeper is a dear check that ignores its context.
func sleeper(duration time.Duration) policy.Check {
	return does("sleeper", policy.Compute, func(context.Context) { time.Sleep(duration) })
}

// The budget is the smaller of the handler's timeout, or else the setting, and what the caller leaves less a margin. A check
// that ignores it is not waited for, and keeps its place at the gate until it ends. The times are a synctest bubble's: exact.
func TestBudget(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                     string
		setting, handler, caller time.Duration
		want                     time.Duration
	}{
		{"the setting", 500 * time.Millisecond, 0, 0, 500 * time.Millisecond},
		{"the handler's instead of the setting", 500 * time.Millisecond, 2 * time.Second, 0, 2 * time.Second},
		{"the caller's less a fifth", 500 * time.Millisecond, 0, 100 * time.Millisecond, 80 * time.Millisecond},
		{"the caller's less 50ms", 20 * time.Second, 0, 10 * time.Second, 9950 * time.Millisecond},
		{"the margin does not count where there is more than enough", 500 * time.Millisecond, 0, 550 * time.Millisecond, 500 * time.Millisecond},
		{"the handler's below the caller's", time.Second, 30 * time.Millisecond, time.Second, 30 * time.Millisecond},
		{"the caller's below the handler's", time.Second, time.Minute, time.Second, 950 * time.Millisecond},
		{"next to nothing", time.Second, 0, 10 * time.Nanosecond, 8 * time.Nanosecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const sleeps = time.Hour
				gate := policy.NewGate(2, 0)
				told := make(chan time.Time, 1)
				check := does("sleeper", policy.Compute, func(ctx context.Context) {
					deadline, _ := ctx.Deadline()
					told <- deadline
					time.Sleep(sleeps)
				})
				h := handler()
				h.EvaluationTimeout = test.handler
				c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{check}}}, Timeout: test.setting, Gate: gate}
				p := c.Compile(h, nil)

				ctx := t.Context()
				if test.caller > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.caller)
					defer cancel()
				}
				start := time.Now()
				d := p.Evaluate(ctx, &policy.Request{})
				assert.Equal(t, test.want, time.Since(start))
				assert.Equal(t, test.want, (<-told).Sub(start))
				require.NotNil(t, d.Failure)
				assert.Equal(t, config.Timeout, d.Failure.Class)
				assert.Equal(t, config.Unavailable, d.Code)
				if test.caller > 0 {
					require.NoError(t, ctx.Err(), "the answer is there before the caller gives up")
				}

				assert.Equal(t, 1, gate.Running())
				time.Sleep(sleeps - test.want)
				synctest.Wait()
				assert.Zero(t, gate.Running())
			})
		})
	}
}

// A failure that is let through has to arrive in time as well.
func TestTimeoutOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handler()
		h.Modes = h.Modes.With(config.Timeout, config.Open)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d := compile(h, sleeper(time.Hour)).Evaluate(ctx, &policy.Request{})
		require.NoError(t, ctx.Err())
		assert.Equal(t, "failed_open", d.Outcome())
		assert.Equal(t, config.SingleUse, d.Lifetime)
		time.Sleep(time.Hour)
	})
}

// Several dear checks share one budget.
func TestBudgetIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handler()
		h.EvaluationTimeout = time.Second
		asked := false
		p := compile(h, sleeper(700*time.Millisecond), sleeper(700*time.Millisecond),
			does("late", policy.Compute, func(context.Context) { asked = true }))
		start := time.Now()
		d := p.Evaluate(t.Context(), &policy.Request{})
		assert.Equal(t, time.Second, time.Since(start))
		require.NotNil(t, d.Failure)
		assert.Equal(t, config.Timeout, d.Failure.Class)
		assert.False(t, asked, "no check starts when no time is left")
		time.Sleep(time.Second)
	})
}

func TestCallerGone(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	asked := false
	p := compile(handler(), does("dear", policy.Compute, func(context.Context) { asked = true }))
	d := p.Evaluate(ctx, &policy.Request{})
	require.NotNil(t, d.Failure)
	assert.Equal(t, config.Timeout, d.Failure.Class)
	assert.False(t, asked)
	assert.Equal(t, "allow", compile(handler(), gives("instant", policy.Instant, policy.Pass(""))).Evaluate(ctx, &policy.Request{}).Outcome(),
		"what needs no time is answered all the same")
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		assert.False(t, policy.Deadline(past, time.Minute).After(time.Now()))
	})
}

// holdGate takes all of a gate's places and returns a function that gives them back.
func holdGate(t *testing.T, gate *policy.Gate) (release func()) {
	t.Helper()
	var (
		ended   sync.WaitGroup
		leave   = make(chan struct{})
		entered = make(chan struct{})
	)
	h := handler()
	h.EvaluationTimeout = 24 * time.Hour
	c := policy.Compiler{Gate: gate, Kinds: []policy.Kind{fakeKind{checks: []policy.Check{does("holder", policy.Compute, func(context.Context) {
		entered <- struct{}{}
		<-leave
	})}}}}
	p := c.Compile(h, nil)
	for range gate.Limit() {
		ended.Go(func() { p.Evaluate(context.WithoutCancel(t.Context()), &policy.Request{}) })
		<-entered
	}
	return func() {
		close(leave)
		ended.Wait()
	}
}

// At a full gate a check waits as long as the gate says, and then the overload class decides.
func TestOverload(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, 10 * time.Millisecond} {
		for _, mode := range []config.Mode{config.Closed, config.Open} {
			t.Run(fmt.Sprint(wait, mode), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					gate := policy.NewGate(3, wait)
					release := holdGate(t, gate)
					assert.Equal(t, 3, gate.Running())

					h := handler()
					h.Modes = h.Modes.With(config.Overload, mode)
					c := policy.Compiler{Timeout: time.Second, Gate: gate, Kinds: []policy.Kind{fakeKind{checks: []policy.Check{sleeper(0)}}}}
					p := c.Compile(h, nil)
					start := time.Now()
					d := p.Evaluate(t.Context(), &policy.Request{})
					assert.Equal(t, wait, time.Since(start))
					require.NotNil(t, d.Failure)
					assert.Equal(t, config.Overload, d.Failure.Class)
					assert.Equal(t, mode == config.Open, d.Allowed())

					release()
					assert.True(t, p.Evaluate(t.Context(), &policy.Request{}).Allowed(), "once there is a place again, checks run")
					synctest.Wait()
					assert.Zero(t, gate.Running())
				})
			})
		}
	}
}

// Who waits at the gate gets a place that becomes free, and no longer than the budget.
func TestGateWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := policy.NewGate(1, time.Second)
		release := holdGate(t, gate)
		c := policy.Compiler{Timeout: 2 * time.Second, Gate: gate, Kinds: []policy.Kind{fakeKind{checks: []policy.Check{sleeper(0)}}}}
		p := c.Compile(handler(), nil)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		d := p.Evaluate(ctx, &policy.Request{})
		assert.Equal(t, 80*time.Millisecond, time.Since(start))
		assert.Equal(t, config.Overload, d.Failure.Class)

		go func() {
			time.Sleep(500 * time.Millisecond)
			release()
		}()
		start = time.Now()
		assert.True(t, p.Evaluate(t.Context(), &policy.Request{}).Allowed())
		assert.Equal(t, 500*time.Millisecond, time.Since(start))
	})
}

// A gate without places would refuse everything.
func TestGateHasAPlace(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 1, policy.NewGate(0, 0).Limit())
	assert.Equal(t, 1, policy.NewGate(-5, 0).Limit())
	assert.Equal(t, 7, policy.NewGate(7, 0).Limit())
}

// The place of a check is free when the call's next one wants it.
func TestChecksOfACallDoNotCrowdEachOther(t *testing.T) {
	t.Parallel()
	const many = 20_000
	check := gives("slow", policy.Compute, policy.Pass("done"))
	c := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{check, check}}}, Timeout: time.Minute, Gate: policy.NewGate(1, 0)}
	p := c.Compile(naming(handler(), 2), nil)
	for range many {
		require.Equal(t, "done", p.Evaluate(t.Context(), &policy.Request{}).Reason)
	}
}

// Instant checks need no place, and neither does a decision that they make.
func TestInstantChecksNeedNoPlace(t *testing.T) {
	t.Parallel()
	gate := policy.NewGate(1, 0)
	defer holdGate(t, gate)()
	dear := sleeper(0)
	for name, checks := range map[string][]policy.Check{
		"allow": {gives("pass", policy.Instant, policy.Pass(""))},
		"deny":  {dear, gives("deny", policy.Instant, policy.Deny(""))},
	} {
		c := policy.Compiler{Timeout: time.Second, Gate: gate, Kinds: []policy.Kind{fakeKind{checks: checks}}}
		assert.Equal(t, name, c.Compile(naming(handler(), len(checks)), nil).Evaluate(t.Context(), &policy.Request{}).Outcome())
	}
}

type credentialError struct{ credential string }

func (e credentialError) Error() string { return "bad credential " + e.credential }

// A panic is a failure of its class, in a check of either cost, and never shows what the check panicked with.
func TestPanic(t *testing.T) {
	t.Parallel()
	const credential = "hunter2"
	for name, action := range map[string]func(context.Context){
		"string":        func(context.Context) { panic("token " + credential) },
		"error":         func(context.Context) { panic(errors.New(credential)) },
		"typed error":   func(context.Context) { panic(credentialError{credential}) },
		"request":       func(context.Context) { panic(&policy.Request{Subject: &policy.Subject{User: credential}}) },
		"wrapped":       func(context.Context) { panic(fmt.Errorf("x: %w", credentialError{credential})) },
		"nil":           func(context.Context) { panic(nil) }, //nolint:govet // on purpose
		"runtime error": func(context.Context) { _ = []byte(credential)[len(credential)] },
		"type assertion": func(context.Context) {
			var v any = credential
			_ = v.(int)
		},
		"nil pointer": func(context.Context) { _ = new(policy.Request).Subject.User },
	} {
		for _, cost := range []policy.Cost{policy.Instant, policy.Compute} {
			for _, mode := range []config.Mode{config.Closed, config.Open} {
				t.Run(fmt.Sprint(name, cost, mode), func(t *testing.T) {
					t.Parallel()
					h := handler()
					h.Modes = h.Modes.With(config.Panic, mode)
					d := compile(h, does("panics", cost, action)).Evaluate(t.Context(), &policy.Request{})
					require.NotNil(t, d.Failure)
					assert.Equal(t, config.Panic, d.Failure.Class)
					assert.Equal(t, mode == config.Open, d.Allowed())
					assert.NotContains(t, fmt.Sprintf("%+v %s", d, d.Failure), credential)
					assert.Contains(t, d.Failure.Detail, "check panics panicked")
					assert.Contains(t, d.Failure.Detail, "policy_test.go", "the detail says where")
				})
			}
		}
	}
}

// A check that ends its goroutine gives no verdict; the place at the gate is free again.
func TestGoexit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := policy.NewGate(1, 0)
		c := policy.Compiler{Timeout: time.Second, Gate: gate, Kinds: []policy.Kind{fakeKind{
			checks: []policy.Check{does("exits", policy.Compute, func(context.Context) { runtime.Goexit() })},
		}}}
		d := c.Compile(handler(), nil).Evaluate(t.Context(), &policy.Request{})
		assert.Equal(t, "failed_closed", d.Outcome())
		assert.Zero(t, gate.Running())
	})
}

// Cheap checks run first, whatever the order in which they were configured, and otherwise in that order.
func TestCheapChecksRunFirst(t *testing.T) {
	t.Parallel()
	var order []string
	record := func(name string, cost policy.Cost) policy.Check {
		return does(name, cost, func(context.Context) { order = append(order, name) })
	}
	p := compile(handler(), record("d1", policy.Compute), record("i1", policy.Instant), record("d2", policy.Compute), record("i2", policy.Instant))
	want := []string{"i1", "i2", "d1", "d2"}
	assert.Equal(t, want, p.Checks())
	require.True(t, p.Evaluate(t.Context(), &policy.Request{}).Allowed())
	assert.Equal(t, want, order)
}

// Once the outcome is certain, nothing more is asked; before that everything is.
func TestShortCircuits(t *testing.T) {
	t.Parallel()
	var (
		pass   = policy.Pass("")
		deny   = policy.Deny("")
		closed = policy.Failing(policy.Fail(closedClass, ""))
		open   = policy.Failing(policy.Fail(openClass, ""))
	)
	for _, test := range []struct {
		required config.Require
		first    policy.Verdict
		asked    bool
	}{
		{config.All, deny, false},
		{config.All, pass, true},
		{config.All, open, true},
		{config.All, closed, true}, // a denial would be the better answer
		{config.Any, pass, false},
		{config.Any, deny, true},
		{config.Any, open, true}, // a pass would not be flagged
		{config.Any, closed, true},
	} {
		for _, cost := range []policy.Cost{policy.Instant, policy.Compute} {
			h := handler()
			h.Require = test.required
			h.Modes = h.Modes.With(openClass, config.Open)
			asked := false
			compile(h, gives("first", cost, test.first), does("dear", policy.Compute, func(context.Context) { asked = true })).
				Evaluate(t.Context(), &policy.Request{})
			assert.Equal(t, test.asked, asked, "%s of %+v", test.required, test.first)
		}
	}
}

// Every policy that cannot decide is a failure under the handler's mode for it, and nothing that was compiled is asked.
func TestPoliciesThatCannotDecide(t *testing.T) {
	t.Parallel()
	problem := config.Problems{{Field: "policy[0]", Text: "is odd"}}
	never := does("never", policy.Instant, func(context.Context) { t.Error("a check was asked") })
	for _, test := range []struct {
		name   string
		make   func(h *config.Handler) *policy.Policy
		class  config.FailureClass
		detail string
	}{
		{"problems of the params", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never}}}}).Compile(h, problem)
		}, config.ConfigurationFailure, "policy[0]: is odd"},
		{"problems of one kind beside another's checks", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never}}, fakeKind{problems: problem}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "policy[0]: is odd"},
		{"checks and problems of one kind", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never}, problems: problem}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "policy[0]: is odd"},
		{"problems of several kinds", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{problems: problem}, fakeKind{problems: problem}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "policy[0]: is odd; policy[0]: is odd"},
		{"no checks", func(h *config.Handler) *policy.Policy {
			h.Headers = nil
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "no check is configured"},
		{"no checks, and one that nobody named", func(h *config.Handler) *policy.Policy {
			h.Headers = nil
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never}}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "no check is configured"},
		{"no kinds", func(h *config.Handler) *policy.Policy { return (&policy.Compiler{}).Compile(h, nil) }, config.ConfigurationFailure, "0 checks came of the 1"},
		{"a check of no kind there is", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "0 checks came of the 1"},
		{"one kind beside one that there is not", func(h *config.Handler) *policy.Policy {
			h.Lists = []config.ListCheck{{Name: "l"}}
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never}}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "1 checks came of the 2"},
		{"more checks than are named", func(h *config.Handler) *policy.Policy {
			return (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{never, never}}}}).Compile(h, nil)
		}, config.ConfigurationFailure, "2 checks came of the 1"},
		{"broken", func(h *config.Handler) *policy.Policy {
			return policy.Broken(h, policy.Fail(config.Panic, "odd"))
		}, config.Panic, "odd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, required := range []config.Require{config.All, config.Any} {
				h := handler()
				h.Require = required
				p := test.make(h)
				require.NotNil(t, p.Failure())
				assert.Equal(t, test.class, p.Failure().Class)
				assert.Contains(t, p.Failure().Detail, test.detail)
				assert.Equal(t, test.class == config.ConfigurationFailure, len(p.Problems()) > 0)
				assert.Empty(t, p.Checks())
				assert.Same(t, h, p.Handler())
				d := p.Evaluate(t.Context(), &policy.Request{})
				assert.Equal(t, config.Unavailable, d.Code)
				assert.Equal(t, h.Fingerprint, d.Revision)
				assert.NotContains(t, d.Message, "odd", "what is wrong is the operator's affair, not the caller's")

				h.Modes = allOpen().With(test.class, config.Closed)
				assert.False(t, test.make(h).Evaluate(t.Context(), &policy.Request{}).Allowed())

				h.Modes = config.Modes{}.With(test.class, config.Open)
				d = test.make(h).Evaluate(t.Context(), &policy.Request{})
				assert.Equal(t, "failed_open", d.Outcome())
				assert.Equal(t, config.SingleUse, d.Lifetime)
			}
		})
	}
}

// A policy serves many requests at once, and each gets its own answer.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	isAlice := func(_ context.Context, r *policy.Request) policy.Verdict {
		if r.Subject.User == "alice" {
			return policy.Pass("alice")
		}
		return policy.Deny("not alice")
	}
	gate := policy.NewGate(64, time.Minute)
	c := policy.Compiler{Timeout: time.Minute, Gate: gate, Kinds: []policy.Kind{fakeKind{checks: []policy.Check{
		fakeCheck{"dear", policy.Compute, isAlice}, fakeCheck{"instant", policy.Instant, func(_ context.Context, r *policy.Request) policy.Verdict {
			if strings.HasPrefix(r.Subject.User, "a") {
				return policy.Pass("a")
			}
			return policy.Deny("no a")
		}},
	}}}}
	p := c.Compile(naming(handler(), 2), nil)
	require.Nil(t, p.Failure())
	var (
		group sync.WaitGroup
		wrong atomic.Int64
	)
	for i := range 32 {
		user, outcome, reason := "alice", "allow", "a"
		switch i % 3 {
		case 1:
			user, outcome, reason = "bob", "deny", "no a"
		case 2:
			user, outcome, reason = "adam", "deny", "not alice"
		}
		group.Go(func() {
			for range 200 {
				d := p.Evaluate(t.Context(), &policy.Request{Subject: &policy.Subject{User: user}})
				if d.Outcome() != outcome || d.Reason != reason {
					wrong.Add(1)
				}
			}
		})
	}
	group.Wait()
	assert.Zero(t, wrong.Load())
	assert.Eventually(t, func() bool { return gate.Running() == 0 }, 30*time.Second, time.Millisecond)
}

// What a check verified is seen by the checks after it, of whichever cost, and only where it passed; the first to tell is believed.
func TestClaimsReachLaterChecks(t *testing.T) {
	t.Parallel()
	tells := func(name string, cost policy.Cost, result policy.Result, sub string) policy.Check {
		v := policy.Verdict{Result: result, Claims: map[string]any{"sub": sub}}
		if result == policy.Failed {
			v.Failure = policy.Fail(openClass, "open")
		}
		return gives(name, cost, v)
	}
	for _, test := range []struct {
		name   string
		checks []policy.Check
		want   any
	}{
		{"nobody tells", nil, nil},
		{"a check that passed", []policy.Check{tells("a", policy.Compute, policy.Passed, "alice")}, "alice"},
		{"a cheap check that passed", []policy.Check{tells("a", policy.Instant, policy.Passed, "alice")}, "alice"},
		{"the first of two", []policy.Check{tells("a", policy.Compute, policy.Passed, "alice"), tells("b", policy.Compute, policy.Passed, "bob")}, "alice"},
		{"the cheap one is first", []policy.Check{tells("a", policy.Compute, policy.Passed, "alice"), tells("b", policy.Instant, policy.Passed, "bob")}, "bob"},
		{"a check that failed", []policy.Check{tells("a", policy.Compute, policy.Failed, "alice")}, nil},
		{"a check that denied", []policy.Check{tells("a", policy.Compute, policy.Denied, "alice")}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, required := range []config.Require{config.All, config.Any} {
				h := handler()
				h.Require, h.Modes = required, h.Modes.With(openClass, config.Open)
				var seen *policy.Request
				last := fakeCheck{"last", policy.Compute, func(_ context.Context, r *policy.Request) policy.Verdict {
					seen = r
					return policy.Pass("")
				}}
				request := &policy.Request{Instance: "i", Subject: &policy.Subject{User: "u"}}
				compile(h, append(slices.Clone(test.checks), last)...).Evaluate(t.Context(), request)
				assert.Nil(t, request.Claims, "the request is the door's")
				if seen == nil { // what went before was enough
					continue
				}
				assert.Equal(t, request.Subject, seen.Subject)
				assert.Equal(t, request.Instance, seen.Instance)
				assert.Equal(t, test.want, seen.Claims["sub"])
			}
		})
	}
}

// Whose key it is goes from a check that passed to those after it and into the decision. The first check that says so counts.
func TestIdentity(t *testing.T) {
	t.Parallel()
	identifies := func(name string, result policy.Result, identity string) policy.Check {
		return gives(name, policy.Instant, policy.Verdict{Result: result, Identity: identity})
	}
	var seen []string
	looks := func(cost policy.Cost) policy.Check {
		return fakeCheck{"looks", cost, func(_ context.Context, request *policy.Request) policy.Verdict {
			seen = append(seen, request.Identity)
			return policy.Deny("seen")
		}}
	}
	request := &policy.Request{}
	for name, test := range map[string]struct {
		require config.Require
		checks  []policy.Check
		want    string
		seen    []string
	}{
		"passed":       {config.All, []policy.Check{identifies("a", policy.Passed, "a"), looks(policy.Compute)}, "a", []string{"a"}},
		"two":          {config.All, []policy.Check{identifies("a", policy.Passed, "a"), identifies("b", policy.Passed, "b"), looks(policy.Instant)}, "a", []string{"a"}},
		"denied":       {config.Any, []policy.Check{identifies("a", policy.Denied, "a"), looks(policy.Compute)}, "", []string{""}},
		"failed":       {config.Any, []policy.Check{identifies("a", policy.Failed, "a"), looks(policy.Compute)}, "", []string{""}},
		"nobody":       {config.All, []policy.Check{identifies("a", policy.Passed, ""), identifies("b", policy.Passed, "b"), looks(policy.Compute)}, "b", []string{"b"}},
		"that decides": {config.Any, []policy.Check{identifies("a", policy.Passed, "a"), looks(policy.Compute)}, "a", nil},
	} {
		seen = nil
		h := handler()
		h.Require = test.require
		assert.Equal(t, test.want, compile(h, test.checks...).Evaluate(t.Context(), request).Identity, name)
		assert.Equal(t, test.seen, seen, name)
	}
	assert.Equal(t, &policy.Request{}, request, "the door's request is nobody's to change")
}

// What a check said of the answer's reuse ends when it said, however long the checks after it take.
func TestLifetimesAge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says, own, takes, want time.Duration
	}{
		"at once":        {says: 3 * time.Second, want: 3 * time.Second},
		"later":          {says: 3 * time.Second, takes: time.Second, want: 2 * time.Second},
		"too late":       {says: 3 * time.Second, takes: 3 * time.Second, want: config.SingleUse.Duration},
		"the later says": {says: 3 * time.Second, takes: time.Second, own: time.Second, want: time.Second},
		"the handler's":  {says: 20 * time.Second, takes: 10 * time.Second, want: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				lasting := func(d time.Duration) policy.Verdict {
					v := policy.Pass("for a while")
					if d > 0 {
						v.Lifetime = config.Lifetime{Duration: d, Uses: math.MaxInt32}
					}
					return v
				}
				p := compile(handler(), gives("first", policy.Compute, lasting(c.says)),
					fakeCheck{"second", policy.Compute, func(context.Context, *policy.Request) policy.Verdict {
						time.Sleep(c.takes)
						return lasting(c.own)
					}})
				assert.Equal(t, c.want, p.Evaluate(t.Context(), &policy.Request{}).Lifetime.Duration)
			})
		})
	}
}

// remembering is a check that may know its verdict.
type remembering struct {
	fakeCheck
	recall func() (policy.Verdict, bool)
}

func (c remembering) Recall(*policy.Request) (policy.Verdict, bool) { return c.recall() }

// What a check remembers needs no place at the gate and no time; what it does not remember needs both.
func TestRecall(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		recall func() (policy.Verdict, bool)
		want   config.FailureClass
		passes bool
	}{
		"passed":   {recall: func() (policy.Verdict, bool) { return policy.Pass("known"), true }, passes: true},
		"nothing":  {recall: func() (policy.Verdict, bool) { return policy.Verdict{}, true }, want: config.EvaluationError},
		"panic":    {recall: func() (policy.Verdict, bool) { panic("planted") }, want: config.Panic},
		"not sure": {recall: func() (policy.Verdict, bool) { return policy.Pass("made up"), false }, want: config.Overload},
	} {
		gate := policy.NewGate(1, 0)
		busy, free := make(chan struct{}), make(chan struct{})
		hog := policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{does("hog", policy.Compute, func(context.Context) { close(busy); <-free })}}}, Timeout: time.Minute, Gate: gate}
		done := make(chan struct{})
		go func() {
			defer close(done)
			hog.Compile(handler(), nil).Evaluate(t.Context(), &policy.Request{})
		}()
		<-busy
		check := remembering{fakeCheck{"remembers", policy.Compute, func(context.Context, *policy.Request) policy.Verdict { return policy.Pass("computed") }}, c.recall}
		p := (&policy.Compiler{Kinds: []policy.Kind{fakeKind{checks: []policy.Check{check}}}, Timeout: time.Minute, Gate: gate}).Compile(handler(), nil)
		d := p.Evaluate(t.Context(), &policy.Request{})
		assert.Equal(t, c.passes, d.Allowed(), name)
		if !c.passes {
			require.NotNil(t, d.Failure, name)
			assert.Equal(t, c.want, d.Failure.Class, name)
			assert.NotContains(t, d.Failure.Detail, "planted")
		}
		close(free)
		<-done
		if name == "not sure" {
			assert.Equal(t, "computed", p.Evaluate(t.Context(), &policy.Request{}).Reason)
		}
	}
}
