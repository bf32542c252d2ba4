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
	if named := handler.CheckCount(); len(p.problems) == 0 && (named == 0 || len(p.checks) != named) {
		text := "no check is configured, so nothing could be denied: add auth_key, headers, jwt, lists, api_keys, or policy with check_method"
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
	d.Revision = p.handler.Fingerprint
	return d
}

func (p *Policy) evaluate(ctx context.Context, request *Request) Decision {
	if p.broken != nil {
		return p.broken.Resolve(p.handler.Modes)
	}
	combined := newCombination(p.handler, len(p.checks))
	decided := false
	next := 0
	for ; next < len(p.checks) && p.checks[next].Cost() == Instant && !decided; next++ {
		verdict := ask(ctx, p.checks[next], request)
		request = request.after(verdict)
		decided = combined.add(p.checks[next].Name(), verdict)
	}
	if next < len(p.checks) && !decided {
		ctx, cancel := context.WithDeadline(ctx, Deadline(ctx, p.timeout))
		defer cancel()
		for ; next < len(p.checks) && !decided; next++ {
			verdict := p.askWithin(ctx, p.checks[next], request)
			request = request.after(verdict)
			decided = combined.add(p.checks[next].Name(), verdict)
		}
	}
	d := combined.decision()
	d.Identity = request.Identity
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
func (p *Policy) askWithin(ctx context.Context, check Check, request *Request) Verdict {
	if ctx.Err() != nil {
		return Failing(Fail(config.Timeout, "no time was left for check %s", check.Name()))
	}
	if !p.gate.enter(ctx) {
		return Failing(Fail(config.Overload, "%d checks were running; raise limits.concurrent_checks or add replicas", p.gate.Limit()))
	}
	verdict := make(chan Verdict, 1)
	go func() {
		defer p.gate.leave()
		verdict <- ask(ctx, check, request)
	}()
	select {
	case v := <-verdict:
		return v
	case <-ctx.Done():
		return Failing(Fail(config.Timeout, "check %s took longer than its budget", check.Name()))
	}
}

// ask evaluates a check and makes a panic a failure.
func ask(ctx context.Context, check Check, request *Request) (v Verdict) {
	defer func() {
		if r := recover(); r != nil {
			v = Failing(Fail(config.Panic, "check %s panicked: %s\n%s", check.Name(), panicText(r), debug.Stack()))
		}
	}()
	return check.Evaluate(ctx, request)
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
