package policy

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/tollgate-mesh/tollgate/config"
)

// Compiler turns handler configurations into policies.
type Compiler struct {
	// Kinds are the kinds of checks there are.
	Kinds []Kind
	// Timeout bounds a decision where the handler does not say.
	Timeout time.Duration
	// Gate bounds how many dear checks run at once.
	Gate *Gate
	// Scope is the part of handlers that it is for; the checks where it is zero.
	Scope Scope
}

// Scope is a part of handlers that policies are made of.
type Scope struct {
	// Count returns how many checks a handler names in it. A policy of another number must not decide.
	Count func(handler *config.Handler) int
	// Missing says what to add to a handler that names none.
	Missing string
}

var checks = Scope{
	Count:   (*config.Handler).CheckCount,
	Missing: "no check is configured, so nothing could be denied: add auth_key, headers, jwt, lists, api_keys, basic, or policy or policy_source with check_method",
}

// Compile makes the policy of a handler. It never fails: a configuration with problems makes a policy whose every decision is
// a configuration failure, answered as the handler's own failure modes say.
func (c *Compiler) Compile(handler *config.Handler, problems config.Problems) *Policy {
	p := &Policy{handler: handler, timeout: handler.EvaluationTimeout, gate: c.Gate, problems: problems}
	if p.timeout == 0 {
		p.timeout = c.Timeout
	}
	if len(p.problems) == 0 {
		for _, kind := range c.Kinds {
			checks, found := kind.Compile(handler)
			p.checks = append(p.checks, checks...)
			p.problems = append(p.problems, found...)
		}
	}
	scope := c.Scope
	if scope.Count == nil {
		scope = checks
	}
	if named := scope.Count(handler); len(p.problems) == 0 && (named == 0 || len(p.checks) != named) {
		text := scope.Missing
		if named > 0 {
			text = fmt.Sprintf("%d checks came of the %d that are named; check that this version has every kind of check that is", len(p.checks), named)
		}
		p.problems = config.Problems{{Field: "params", Text: text}}
	}
	if len(p.problems) > 0 {
		p.checks = nil
		p.broken = Fail(config.ConfigurationFailure, "%s", p.problems.Error())
		return p
	}
	if handler.Shadow != nil {
		p.candidate = &candidate{}
	}
	slices.SortStableFunc(p.checks, func(a, b Check) int { return int(a.Cost()) - int(b.Cost()) })
	return p
}

// Policy decides for one handler configuration. It is immutable and used by many requests at once.
type Policy struct {
	handler  *config.Handler
	checks   []Check
	timeout  time.Duration
	gate     *Gate
	problems config.Problems
	broken   *Failure
	// candidate is nil where nothing is tried beside the policy, and where it cannot decide itself.
	candidate *candidate
}

// Handler returns the configuration the policy was compiled from.
func (p *Policy) Handler() *config.Handler { return p.handler }

// Problems returns what is wrong with the configuration; none where the policy can decide.
func (p *Policy) Problems() config.Problems { return p.problems }

// Evaluate decides on one request. It always answers: within the evaluation budget, which is the smaller of the handler's
// timeout and what ctx leaves, and whatever its checks do.
func (p *Policy) Evaluate(ctx context.Context, request *Request) Decision {
	d := p.evaluate(ctx, request)
	if d.Revision == "" {
		d.Revision = p.handler.Fingerprint
	} else {
		d.Revision = p.handler.Fingerprint + "/" + d.Revision
	}
	return d
}

func (p *Policy) evaluate(ctx context.Context, request *Request) Decision {
	if p.broken != nil {
		return p.broken.Resolve(p.handler.Modes)
	}
	combined := newCombination(p.handler, len(p.checks))
	var deadline time.Time // counts from the first check that takes its time
	for _, check := range p.checks {
		verdict, ok := atOnce(ctx, check, request)
		if !ok {
			if deadline.IsZero() {
				deadline = Deadline(ctx, p.timeout)
			}
			asked := time.Now()
			verdict = p.askWithin(ctx, deadline, check, request)
			combined.age(time.Since(asked))
		}
		request = request.after(verdict)
		if combined.add(check.Name(), verdict) {
			break
		}
	}
	d := combined.decision()
	d.Identity, d.Revision = request.Identity, combined.revision
	return d
}

// Deadline returns when a decision must be there: timeout from now, or earlier where ctx ends earlier, less what the answer
// needs to get back. An answer that comes too late is an error to Mixer whatever it says, so a failure that was to be let
// through has to be early.
func Deadline(ctx context.Context, timeout time.Duration) time.Time {
	now := time.Now()
	deadline := now.Add(timeout)
	if end, ok := ctx.Deadline(); ok {
		left := end.Sub(now)
		if end = end.Add(-min(maxAnswerMargin, left/answerMarginShare)); end.Before(deadline) {
			return end
		}
	}
	return deadline
}

// A fifth of what the caller leaves is kept for the answer's way back, and never more than 50 ms.
const (
	maxAnswerMargin   = 50 * time.Millisecond
	answerMarginShare = 5
)

// askWithin asks a check that may take long. The check runs beside the call: when time runs out the call is answered, and the
// check keeps its place at the gate until it really ends, so that checks which ignore their deadline cannot pile up.
func (p *Policy) askWithin(ctx context.Context, deadline time.Time, check Check, request *Request) Verdict {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if ctx.Err() != nil {
		return Failing(Fail(config.Timeout, "no time was left for check %s", check.Name()))
	}
	if !p.gate.enter(ctx) {
		return Failing(Fail(config.Overload, "%d checks were running; raise limits.concurrent_checks or add replicas", p.gate.Limit()))
	}
	verdict := make(chan Verdict, 1)
	go func() {
		growStack(false)
		verdict <- p.askInPlace(ctx, check, request)
	}()
	select {
	case v := <-verdict:
		return v
	case <-ctx.Done():
		return Failing(Fail(config.Timeout, "check %s took longer than its budget", check.Name()))
	}
}

// askInPlace asks a check that has a place at the gate, which is free before the verdict is told: the call's next check may want it.
func (p *Policy) askInPlace(ctx context.Context, check Check, request *Request) Verdict {
	defer p.gate.leave()
	return ask(ctx, check, request)
}

// growStack makes the stack of a new goroutine as large as programs need it, at once and while there is nothing on it. Else it grows in
// steps on the way down, each of which copies all that is there, and that takes up to half of the time of a policy. The room is never used:
// that the function could need it is enough.
//
//go:noinline
func growStack(use bool) {
	if use {
		var room [60 << 10]byte
		fill(&room)
	}
}

//go:noinline
func fill(room *[60 << 10]byte) { room[0] = 1 }

// atOnce gives the verdict of a check that needs no deadline, and false where it has to be asked within one.
func atOnce(ctx context.Context, check Check, request *Request) (v Verdict, ok bool) {
	if check.Cost() == Instant {
		return ask(ctx, check, request), true
	}
	recaller, ok := check.(Recaller)
	if !ok {
		return v, false
	}
	defer func() {
		if r := recover(); r != nil {
			v, ok = panicked(check, r), true
		}
	}()
	return recaller.Recall(request)
}

// ask evaluates a check and makes a panic a failure.
func ask(ctx context.Context, check Check, request *Request) (v Verdict) {
	defer func() {
		if r := recover(); r != nil {
			v = panicked(check, r)
		}
	}()
	return check.Evaluate(ctx, request)
}

func panicked(check Check, r any) Verdict {
	return Failing(Fail(config.Panic, "check %s panicked: %s\n%s", check.Name(), panicText(r), debug.Stack()))
}

// panicText describes a panic without the value: only the runtime's own panics are sure to hold nothing of the request.
func panicText(r any) string {
	if err, ok := r.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", r)
}

// Broken makes a policy whose every decision is the given failure, answered as the handler's modes say.
func Broken(handler *config.Handler, failure *Failure) *Policy {
	return &Policy{handler: handler, broken: failure}
}

// Failure returns why the policy cannot decide; nil where it can.
func (p *Policy) Failure() *Failure { return p.broken }

// Checks returns the names of the policy's checks in the order in which they run.
func (p *Policy) Checks() []string {
	names := make([]string, 0, len(p.checks))
	for _, check := range p.checks {
		names = append(names, check.Name())
	}
	return names
}

// ReadsEverything returns why requests are told apart by all that is in them, where a check does so without need; see [Wide].
func (p *Policy) ReadsEverything() []string {
	var because []string
	for _, check := range p.checks {
		if wide, ok := check.(Wide); ok {
			because = append(because, wide.ReadsEverything()...)
		}
	}
	return because
}
