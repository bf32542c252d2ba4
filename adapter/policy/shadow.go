package policy

import (
	"context"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// Divergence is how a candidate's decision differs from the one that counted.
type Divergence uint8

const (
	// Agrees means that the caller would have got the same answer.
	Agrees Divergence = iota
	// WouldDeny means that the request passed, and would not have.
	WouldDeny
	// WouldAllow means that the request did not pass, and would have.
	WouldAllow
	// WouldFail means that the candidate could not tell, whatever its modes make of that, while the handler could.
	WouldFail
	// Differs means that the request would have fared the same, with another code, message, HTTP response or lifetime.
	Differs

	divergences
)

var divergenceNames = [divergences]string{
	Agrees: "agree", WouldDeny: "would_deny", WouldAllow: "would_allow", WouldFail: "would_fail", Differs: "differ",
}

// String returns the divergence in a word: a metric label and a field of records.
func (d Divergence) String() string {
	if d < divergences {
		return divergenceNames[d]
	}
	return "unknown"
}

// lifetimeTolerance is by how much durations may differ that are the same: what is left of a token is less when the candidate sees it.
const lifetimeTolerance = time.Second

// Compare says how a candidate's decision differs from the one that counted.
func Compare(decided, candidate Decision) Divergence {
	switch {
	case candidate.Failure != nil && decided.Failure == nil:
		return WouldFail
	case decided.Allowed() && !candidate.Allowed():
		return WouldDeny
	case !decided.Allowed() && candidate.Allowed():
		return WouldAllow
	case decided.Code != candidate.Code, decided.Message != candidate.Message, !sameResponse(decided.HTTP, candidate.HTTP),
		!sameLifetime(decided.Lifetime, candidate.Lifetime):
		return Differs
	}
	return Agrees
}

func sameResponse(a, b *config.HTTPResponse) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Status == b.Status && a.Body == b.Body && maps.Equal(a.Headers, b.Headers)
}

func sameLifetime(a, b config.Lifetime) bool {
	return a.Reusable() == b.Reusable() && a.Uses == b.Uses && (a.Duration-b.Duration).Abs() < lifetimeTolerance
}

// Comparison is what a candidate would have answered, beside what was answered.
type Comparison struct {
	// Caller is who made the call, where callers are known.
	Caller string
	// Handler is the one that decided; its Shadow has the candidate.
	Handler *config.Handler
	// Request is what was decided about.
	Request *Request
	// Decided is the decision that counted, made within DecidedIn.
	Decided   Decision
	DecidedIn time.Duration
	// Candidate is the decision that did not count, made within CandidateIn.
	Candidate   Decision
	CandidateIn time.Duration
	// Divergence is how they differ.
	Divergence Divergence
}

// The reasons for which a candidate is not evaluated although it was to be.
const (
	// ShadowInvalid means that the candidate has problems.
	ShadowInvalid = "invalid"
	// ShadowCompiling means that it is being compiled.
	ShadowCompiling = "compiling"
	// ShadowBusy means that as many candidates as may be are being evaluated.
	ShadowBusy = "busy"
	// ShadowEnding means that the process is about to end.
	ShadowEnding = "ending"
)

// ShadowObserver is told what becomes of candidates. Its methods are called from many goroutines and must not block.
type ShadowObserver interface {
	// CandidateCompiled is told of every candidate that was compiled, whether it can decide or not.
	CandidateCompiled(candidate *Policy, elapsed time.Duration)
	// Compared is told of every candidate that was evaluated.
	Compared(comparison *Comparison)
	// NotCompared is told of every one that was not, with the reason.
	NotCompared(handler *config.Handler, reason string)
}

// candidate is a handler's candidate on its way to a policy.
type candidate struct {
	compiling atomic.Bool
	policy    atomic.Pointer[Policy]
	// until is when one that cannot decide is compiled anew, in Unix nanoseconds.
	until atomic.Int64
}

// Shadows evaluates candidates beside the policies that decide and never in their way: after the answer is known, in goroutines and at a
// gate of its own, and not at all where there is no room.
type Shadows struct {
	compiler   *Compiler
	retryAfter time.Duration
	observer   ShadowObserver
	ctx        context.Context //nolint:containedctx // the evaluations' own: they outlive the calls and end with Shadows
	stop       context.CancelFunc

	mu      sync.Mutex // guards everything below
	ended   bool
	running int
	idle    sync.WaitGroup
}

// NewShadows makes Shadows whose candidates are compiled by the compiler, which must be no other's: as many are evaluated at once as its
// gate has places, and what its kinds keep between requests is the candidates' own. A candidate that cannot decide is tried anew after
// retryAfter.
func NewShadows(compiler *Compiler, retryAfter time.Duration, observer ShadowObserver) *Shadows {
	s := &Shadows{compiler: compiler, retryAfter: retryAfter, observer: observer}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Evaluate has the candidate of p evaluated on a request that p decided, if p has one and chance wants it. It does not wait. The request
// must not change any more.
func (s *Shadows) Evaluate(p *Policy, caller string, request *Request, decided Decision, elapsed time.Duration) {
	if s == nil || p == nil || p.candidate == nil {
		return
	}
	compiled := p.candidate.policy.Load()
	switch {
	case compiled == nil:
	case compiled.Failure() == nil:
		if percent := p.handler.Shadow.Percent; percent < 100 && rand.IntN(100) >= percent { //nolint:gosec // it picks requests, not secrets
			return
		}
	case time.Now().UnixNano() < p.candidate.until.Load():
		s.observer.NotCompared(p.handler, ShadowInvalid)
		return
	}
	if reason, ok := s.enter(); !ok {
		s.observer.NotCompared(p.handler, reason)
		return
	}
	c := &Comparison{Caller: caller, Handler: p.handler, Request: request, Decided: decided, DecidedIn: elapsed}
	go func() {
		defer s.leave()
		// Nobody else would stop an observer's panic on its way to the end of the process.
		defer func() { _ = recover() }()
		if reason := s.compare(p.candidate, c); reason != "" {
			s.observer.NotCompared(p.handler, reason)
			return
		}
		s.observer.Compared(c)
	}()
}

func (s *Shadows) enter() (reason string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return ShadowEnding, false
	case s.running >= s.compiler.Gate.Limit():
		return ShadowBusy, false
	}
	s.running++
	s.idle.Add(1)
	return "", true
}

func (s *Shadows) leave() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.idle.Done()
}

// compare evaluates a candidate, or says why it was not.
func (s *Shadows) compare(candidate *candidate, c *Comparison) (reason string) {
	compiled := s.compiled(candidate, c.Handler.Shadow)
	switch {
	case compiled == nil:
		return ShadowCompiling
	case compiled.Failure() != nil:
		return ShadowInvalid
	}
	start := time.Now()
	c.Candidate = compiled.Evaluate(s.ctx, c.Request)
	c.CandidateIn = time.Since(start)
	switch failure := c.Candidate.Failure; {
	case s.ctx.Err() != nil:
		return ShadowEnding
	case failure != nil && failure.Class == config.Overload:
		// Checks that ignored their deadline still have places at the gate, which is not what the candidate would do.
		return ShadowBusy
	}
	c.Divergence = Compare(c.Decided, c.Candidate)
	return ""
}

// compiled returns the candidate's policy, and compiles it if there is none yet or it is time to try again; nil where another request is
// at that.
func (s *Shadows) compiled(candidate *candidate, shadow *config.Shadow) *Policy {
	if p := candidate.policy.Load(); p != nil && (p.Failure() == nil || time.Now().UnixNano() < candidate.until.Load()) {
		return p
	}
	if !candidate.compiling.CompareAndSwap(false, true) {
		return nil
	}
	defer candidate.compiling.Store(false)
	start := time.Now()
	p := s.compile(shadow)
	candidate.until.Store(time.Now().Add(s.retryAfter).UnixNano())
	candidate.policy.Store(p)
	s.observer.CandidateCompiled(p, time.Since(start))
	return p
}

func (s *Shadows) compile(shadow *config.Shadow) (p *Policy) {
	defer func() {
		if r := recover(); r != nil {
			p = Broken(shadow.Candidate, Fail(config.Panic, "compiling the candidate: %s\n%s", panicText(r), debug.Stack()))
		}
	}()
	return s.compiler.Compile(shadow.Candidate, shadow.Problems)
}

// End evaluates no more candidates, cuts off those under way and waits for them until ctx is done.
func (s *Shadows) End(ctx context.Context) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.stop()
	idle := make(chan struct{})
	go func() {
		s.idle.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
