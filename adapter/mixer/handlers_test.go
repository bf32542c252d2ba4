package mixer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tollgate-mesh/tollgate/adapter/attribute"
	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/adapter/policy"
	"github.com/tollgate-mesh/tollgate/adapter/policy/apikey"
	"github.com/tollgate-mesh/tollgate/adapter/policy/credential"
	"github.com/tollgate-mesh/tollgate/adapter/policy/header"
	"github.com/tollgate-mesh/tollgate/adapter/policy/list"
	"github.com/tollgate-mesh/tollgate/adapter/policy/rego"
	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/config"
	"github.com/tollgate-mesh/tollgate/config/configpb"
)

func pointer[T any](v T) *T { return &v }

type noSecrets struct{}

func (noSecrets) Secret(string) (credential.Secret, bool) { return nil, false }

type noLists struct{}

func (noLists) Source(string) (list.Source, bool) { return nil, false }

func testCompiler() *policy.Compiler {
	return &policy.Compiler{
		Kinds: []policy.Kind{
			header.Kind{Secrets: noSecrets{}}, apikey.Kind{Secrets: noSecrets{}}, list.Kind{Sources: noLists{}}, rego.Kind{},
		},
		Timeout: 10 * time.Second,
		Gate:    policy.NewGate(16, 10*time.Millisecond),
	}
}

// testEngines are a compiler's, with no room for reports and no record of decisions.
func testEngines(compiler *policy.Compiler) Engines {
	return Engines{Compiler: compiler, Quotas: compiler, Planner: &report.Planner{}, Acceptor: &acceptor{}, Recorder: recorder{}, Caller: func(context.Context) string { return "" }}
}

// recorder gives every decision the same id.
type recorder struct{ id string }

func (r recorder) Record(string, *config.Handler, *policy.Request, policy.Decision, time.Duration) string {
	return r.id
}

func testLimits() HandlerLimits {
	return HandlerLimits{Entries: 16, Bytes: 1 << 20, Compiling: 1, Waiting: 64, RetryAfter: time.Minute}
}

// ledger is an Observer that keeps what it is told.
type ledger struct {
	mu        sync.Mutex
	decisions []policy.Decision
	compiled  []*policy.Policy
	plans     []*report.Plan
	reported  []report.Reported
}

func (l *ledger) Decided(_ *config.Handler, _ string, d policy.Decision, _ time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decisions = append(l.decisions, d)
}

func (l *ledger) Planned(p *report.Plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plans = append(l.plans, p)
}

func (l *ledger) Reported(r report.Reported) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reported = append(l.reported, r)
}

func (l *ledger) Compiled(p *policy.Policy, _ time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.compiled = append(l.compiled, p)
}

func (l *ledger) compilations() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.compiled)
}

// gatedKind compiles header checks, each only when it is let.
type gatedKind struct {
	let     chan struct{}
	started atomic.Int64
	check   func(handler *config.Handler) ([]policy.Check, config.Problems)
}

func newGatedKind() *gatedKind {
	return &gatedKind{let: make(chan struct{}), check: header.Kind{Secrets: noSecrets{}}.Compile}
}

func (k *gatedKind) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	k.started.Add(1)
	<-k.let
	return k.check(handler)
}

type kindFunc func(handler *config.Handler) ([]policy.Check, config.Problems)

func (f kindFunc) Compile(handler *config.Handler) ([]policy.Check, config.Problems) {
	return f(handler)
}

func compilerOf(kind policy.Kind) *policy.Compiler {
	return &policy.Compiler{Kinds: []policy.Kind{kind}, Timeout: 10 * time.Second, Gate: policy.NewGate(4, 0)}
}

func keyParams(name string) string {
	return string(mixertest.Params(&configpb.Params{Name: name, AuthKey: pointer("abc")}))
}

func presenting(token string) *policy.Request {
	return &policy.Request{Subject: &policy.Subject{Properties: attribute.Map{
		{Name: config.AuthKeyProperty, Value: attribute.OfText(attribute.String, token)},
	}}}
}

func TestHandlersCompileOnceForAHundredFirstCalls(t *testing.T) {
	kind := newGatedKind()
	seen := &ledger{}
	h := newHandlers(compilerOf(kind), testLimits(), seen)
	params := keyParams("once")
	var calls sync.WaitGroup
	var allowed atomic.Int64
	for range 100 {
		calls.Go(func() {
			if _, _, d := h.decide(t.Context(), strings.Clone(params), presenting("abc")); d.Allowed() && d.Failure == nil {
				allowed.Add(1)
			}
		})
	}
	require.Eventually(t, func() bool { return kind.started.Load() > 0 }, 30*time.Second, time.Millisecond)
	close(kind.let)
	calls.Wait()
	assert.EqualValues(t, 1, kind.started.Load())
	assert.EqualValues(t, 100, allowed.Load())
	_, _, d := h.decide(t.Context(), params, presenting("abd"))
	assert.Equal(t, "deny", d.Outcome())
	assert.EqualValues(t, 1, kind.started.Load())
	require.Eventually(t, func() bool { return seen.compilations() == 1 }, 30*time.Second, time.Millisecond)
}

func TestHandlersAreBoundedByEntries(t *testing.T) {
	limits := testLimits()
	limits.Entries = 3
	seen := &ledger{}
	h := newHandlers(testCompiler(), limits, seen)
	first := keyParams("h-0")
	h.decide(t.Context(), first, presenting("abc"))
	for i := range 10 {
		h.decide(t.Context(), first, presenting("abc")) // in use, so never the oldest
		h.decide(t.Context(), keyParams(fmt.Sprintf("h-%d", i+1)), presenting("abc"))
		assert.LessOrEqual(t, h.lru.Len(), 3)
	}
	assert.Equal(t, []string{keyParams("h-9"), first, keyParams("h-10")}, h.lru.Keys())
	require.Eventually(t, func() bool { return seen.compilations() == 11 }, 30*time.Second, time.Millisecond)
}

func TestHandlersAreBoundedByBytes(t *testing.T) {
	large := func(name string, size int) string {
		return string(mixertest.Params(&configpb.Params{Name: name, Policy: []string{strings.Repeat("#", size)}, CheckMethod: pointer("data.a.b")}))
	}
	limits := testLimits()
	limits.Bytes = 10_000
	h := newHandlers(testCompiler(), limits, &ledger{})
	sum := func() (bytes int) {
		for _, params := range h.lru.Keys() {
			bytes += len(params)
		}
		return bytes
	}
	for i := range 20 {
		h.decide(t.Context(), large(fmt.Sprintf("h-%d", i), 3_000), presenting("abc"))
		assert.LessOrEqual(t, h.bytes, limits.Bytes)
		assert.Equal(t, sum(), h.bytes)
	}
	assert.Equal(t, 3, h.lru.Len())

	// One that is larger than the whole bound is kept, alone: without it every call would compile anew.
	h.decide(t.Context(), large("giant", 20_000), presenting("abc"))
	assert.Equal(t, 1, h.lru.Len())
	assert.Equal(t, sum(), h.bytes)
	h.decide(t.Context(), large("small", 10), presenting("abc"))
	assert.Equal(t, 1, h.lru.Len())
	assert.Equal(t, sum(), h.bytes)
}

// What is kept of a call is its params and not the rest of it, which may be thousands of times larger.
func TestHandlersDoNotKeepTheCallsTheyCameWith(t *testing.T) {
	const size = 1 << 20
	limits := testLimits()
	limits.Entries = 64
	door := NewDoor(testEngines(testCompiler()), limits, quiet{})
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	for i := range limits.Entries {
		request := mixertest.Request([]byte(keyParams(fmt.Sprintf("h-%d", i))), "abc")
		request.Instance.Subject.Groups = strings.Repeat("g", size)
		require.Zero(t, door.check(t.Context(), checkTemplates[0], string(mixertest.Bytes(request))).Status.Code)
	}
	after := heap()
	assert.Less(t, after, before+uint64(limits.Entries)*size/4)
	runtime.KeepAlive(door)
}

func TestHandlersRememberFailuresForAWhile(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	seen := &ledger{}
	broken := atomic.Bool{}
	broken.Store(true)
	h := newHandlers(compilerOf(kindFunc(func(handler *config.Handler) ([]policy.Check, config.Problems) {
		if broken.Load() {
			return nil, config.Problems{{Field: "policy", Text: "is not there yet"}}
		}
		return header.Kind{Secrets: noSecrets{}}.Compile(handler)
	})), testLimits(), seen)
	h.now = func() time.Time { return time.Unix(0, now.Load()) }

	outcome := func() string {
		_, _, d := h.decide(t.Context(), keyParams("h"), presenting("abc"))
		return d.Outcome()
	}
	compilations := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool { return seen.compilations() >= want }, 30*time.Second, time.Millisecond)
		assert.Equal(t, want, seen.compilations())
	}
	assert.Equal(t, "failed_closed", outcome())
	broken.Store(false)
	now.Add(int64(testLimits().RetryAfter) - 1)
	assert.Equal(t, "failed_closed", outcome())
	compilations(1)
	now.Add(1)
	assert.Equal(t, "allow", outcome())
	compilations(2)

	// One that can decide is never compiled again.
	now.Add(int64(1000 * time.Hour))
	assert.Equal(t, "allow", outcome())
	compilations(2)
	assert.Equal(t, len(keyParams("h")), h.bytes)
}

func TestHandlersRefuseWhenTooManyWait(t *testing.T) {
	kind := newGatedKind()
	limits := testLimits()
	limits.Compiling, limits.Waiting = 1, 2
	h := newHandlers(compilerOf(kind), limits, &ledger{})
	openForOverload := func(i int) string {
		return string(mixertest.Params(&configpb.Params{
			Name: fmt.Sprintf("h-%d", i), AuthKey: pointer("abc"), Failure: &configpb.Failure{Overload: configpb.Failure_OPEN, PolicyNotLoaded: configpb.Failure_CLOSED},
		}))
	}
	var waiting sync.WaitGroup
	for i := range 3 {
		require.NotNil(t, h.get(openForOverload(i)))
		waiting.Go(func() {
			_, _, d := h.decide(t.Context(), openForOverload(i), presenting("abc"))
			assert.Equal(t, "allow", d.Outcome())
		})
	}
	handler, _, d := h.decide(t.Context(), openForOverload(3), presenting("abc"))
	assert.Nil(t, handler)
	require.NotNil(t, d.Failure)
	assert.Equal(t, config.Overload, d.Failure.Class)
	assert.False(t, d.Allowed(), "a handler that was never decoded has no modes")
	assert.Equal(t, 3, h.lru.Len(), "a refused configuration leaves nothing behind")

	close(kind.let)
	waiting.Wait()
	require.Eventually(t, func() bool {
		_, _, d := h.decide(t.Context(), openForOverload(3), presenting("abc"))
		return d.Outcome() == "allow"
	}, 30*time.Second, time.Millisecond)
	assert.EqualValues(t, 4, kind.started.Load())
}

// A configuration whose failure is no longer remembered is answered as before while there is no room to try it anew.
func TestHandlersKeepAFailureThatCannotBeRetried(t *testing.T) {
	var now atomic.Int64
	kind := newGatedKind()
	limits := testLimits()
	limits.Compiling, limits.Waiting = 1, 0
	h := newHandlers(compilerOf(kind), limits, &ledger{})
	h.now = func() time.Time { return time.Unix(0, now.Load()) }
	opened := string(mixertest.Params(&configpb.Params{Name: "?", Failure: &configpb.Failure{Configuration: configpb.Failure_OPEN}}))
	_, _, d := h.decide(t.Context(), opened, presenting("abc"))
	require.Equal(t, "failed_open", d.Outcome())
	require.Eventually(t, func() bool { return h.waiting.Load() == 0 }, 30*time.Second, time.Millisecond)

	require.NotNil(t, h.get(keyParams("slow")))
	now.Add(int64(limits.RetryAfter))
	_, _, d = h.decide(t.Context(), opened, presenting("abc"))
	assert.Equal(t, "failed_open", d.Outcome())
	assert.Equal(t, config.ConfigurationFailure, d.Failure.Class)
	close(kind.let)
}

func TestHandlersAnswerBeforeACallersDeadline(t *testing.T) {
	for name, c := range map[string]struct {
		mode configpb.Failure_Mode
		want string
	}{
		"closed by default": {configpb.Failure_MODE_UNSPECIFIED, "failed_closed"},
		"closed":            {configpb.Failure_CLOSED, "failed_closed"},
		"open":              {configpb.Failure_OPEN, "failed_open"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kind := newGatedKind()
				h := newHandlers(compilerOf(kind), testLimits(), &ledger{})
				params := string(mixertest.Params(&configpb.Params{Name: "slow", AuthKey: pointer("abc"), Failure: &configpb.Failure{PolicyNotLoaded: c.mode}}))
				e := h.get(params)
				synctest.Wait()
				require.EqualValues(t, 1, kind.started.Load())

				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				handler, _, d := h.decide(ctx, params, presenting("abc"))
				require.NoError(t, ctx.Err(), "the answer came after the deadline")
				assert.Equal(t, config.PolicyNotLoaded, d.Failure.Class)
				assert.Equal(t, c.want, d.Outcome())
				assert.Equal(t, "slow", handler.Name)
				if d.Allowed() {
					assert.Equal(t, config.SingleUse, d.Lifetime)
				}
				close(kind.let)
				<-e.ready
				_, _, d = h.decide(t.Context(), params, presenting("abc"))
				assert.Equal(t, "allow", d.Outcome())
			})
		})
	}
}

// Decoding does not wait for its turn, so a handler in the queue is answered by its own modes.
func TestHandlersInTheQueueKnowTheirModes(t *testing.T) {
	for mode, want := range map[configpb.Failure_Mode]string{configpb.Failure_CLOSED: "failed_closed", configpb.Failure_OPEN: "failed_open"} {
		t.Run(mode.String(), func(t *testing.T) {
			kind := newGatedKind()
			h := newHandlers(compilerOf(kind), testLimits(), &ledger{})
			h.get(keyParams("first"))
			require.Eventually(t, func() bool { return kind.started.Load() == 1 }, 30*time.Second, time.Millisecond)
			queued := string(mixertest.Params(&configpb.Params{AuthKey: pointer("abc"), Failure: &configpb.Failure{PolicyNotLoaded: mode}}))
			e := h.get(queued)
			require.Eventually(t, func() bool { return e.handler.Load() != nil }, 30*time.Second, time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			handler, _, d := h.decide(ctx, queued, presenting("abc"))
			require.NotNil(t, handler)
			assert.Equal(t, want, d.Outcome())
			assert.Equal(t, config.PolicyNotLoaded, d.Failure.Class)
			close(kind.let)
		})
	}
}

func TestHandlersSurviveACompilerThatPanics(t *testing.T) {
	const secret = "s3cr3t-in-a-panic"
	for name, cause := range map[string]any{"a value": secret, "an error": errors.New(secret), "the runtime's": nil} {
		for _, mode := range []configpb.Failure_Mode{configpb.Failure_CLOSED, configpb.Failure_OPEN} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				seen := &ledger{}
				h := newHandlers(compilerOf(kindFunc(func(*config.Handler) ([]policy.Check, config.Problems) {
					if cause == nil {
						_ = []int{}[seen.compilations()]
					}
					panic(cause)
				})), testLimits(), seen)
				params := string(mixertest.Params(&configpb.Params{Name: "p", AuthKey: pointer(secret), Failure: &configpb.Failure{Panic: mode}}))
				_, _, d := h.decide(t.Context(), params, presenting(secret))
				require.NotNil(t, d.Failure)
				assert.Equal(t, config.Panic, d.Failure.Class)
				assert.Contains(t, d.Failure.Detail, "handlers_test.go", "the stack is the only clue")
				assert.NotContains(t, d.Failure.Detail+d.Message, secret)
				assert.Equal(t, mode == configpb.Failure_OPEN, d.Allowed())
				require.Eventually(t, func() bool { return h.waiting.Load() == 0 && seen.compilations() == 1 }, 30*time.Second, time.Millisecond)
			})
		}
	}
}

func TestHandlersOutliveTheirObserver(t *testing.T) {
	h := newHandlers(testCompiler(), testLimits(), panicking{})
	for i := range 3 {
		_, _, d := h.decide(t.Context(), keyParams(fmt.Sprintf("h-%d", i)), presenting("abc"))
		assert.Equal(t, "allow", d.Outcome())
	}
	require.Eventually(t, func() bool { return h.waiting.Load() == 0 }, 30*time.Second, time.Millisecond)
}

// quiet is an Observer that looks away.
type quiet struct{}

func (quiet) Decided(*config.Handler, string, policy.Decision, time.Duration) {}
func (quiet) Compiled(*policy.Policy, time.Duration)                          {}
func (quiet) Planned(*report.Plan)                                            {}
func (quiet) Reported(report.Reported)                                        {}

// panicking is an Observer at its worst.
type panicking struct{}

func (panicking) Decided(*config.Handler, string, policy.Decision, time.Duration) { panic("decided") }

func (panicking) Compiled(*policy.Policy, time.Duration) { panic("compiled") }
func (panicking) Planned(*report.Plan)                   { panic("planned") }
func (panicking) Reported(report.Reported)               { panic("reported") }

// Mixer encodes maps in random order: the bytes differ, what they mean does not.
func TestHandlersOfEqualConfigurations(t *testing.T) {
	header := func(name string) string { return mapEntry(name, "v") }
	response := func(headers ...string) string {
		var fields []string
		for _, h := range headers {
			fields = append(fields, lengthDelimited(3, h))
		}
		return lengthDelimited(1, "abc") + lengthDelimited(11, lengthDelimited(3, fields...))
	}
	one, other := response(header("a"), header("b")), response(header("b"), header("a"))
	long := overlong(1, "abc") + one[len(lengthDelimited(1, "abc")):]
	require.NotEqual(t, one, other)

	h := newHandlers(testCompiler(), testLimits(), &ledger{})
	var fingerprints []string
	for _, params := range []string{one, other, long} {
		handler, _, d := h.decide(t.Context(), params, presenting("abc"))
		require.Equal(t, "allow", d.Outcome())
		assert.Equal(t, handler.Fingerprint, d.Revision)
		fingerprints = append(fingerprints, handler.Fingerprint)
	}
	assert.Equal(t, 3, h.lru.Len(), "the index is the exact bytes")
	assert.Equal(t, fingerprints[0], fingerprints[1])
	assert.Equal(t, fingerprints[0], fingerprints[2])

	// A configuration that merely shares a prefix, or has more after it, is another one.
	future := one + string(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	_, _, d := h.decide(t.Context(), future, presenting("abc"))
	assert.Equal(t, config.ConfigurationFailure, d.Failure.Class)
}

func TestHandlersUnderContention(t *testing.T) {
	limits := testLimits()
	limits.Entries, limits.Compiling, limits.RetryAfter = 4, 2, time.Nanosecond
	h := newHandlers(testCompiler(), limits, quiet{})
	var calls sync.WaitGroup
	for worker := range 8 {
		calls.Go(func() {
			for i := range 200 {
				n := (worker + i) % 12
				params := keyParams(fmt.Sprintf("h-%d", n))
				if n%3 == 0 {
					params = string(mixertest.Params(&configpb.Params{Name: fmt.Sprintf("h-%d", n)}))
				}
				_, _, d := h.decide(t.Context(), params, presenting("abc"))
				if n%3 == 0 {
					assert.Equal(t, "failed_closed", d.Outcome())
				} else {
					assert.Equal(t, "allow", d.Outcome())
				}
				_, _, d = h.decide(t.Context(), params, presenting("abd"))
				assert.False(t, d.Allowed())
			}
		})
	}
	calls.Wait()
	assert.LessOrEqual(t, h.lru.Len(), 4)
}
