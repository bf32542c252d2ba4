package policy

import (
	"context"

	"github.com/tollgate-mesh/tollgate/config"
)

// Check is one check of a compiled policy. It is immutable and used by many requests at once.
type Check interface {
	// Name labels the check in decisions and logs.
	Name() string
	// Cost says how dear an evaluation is. Cheap checks run first, and only others are given a deadline.
	Cost() Cost
	// Evaluate gives the check's verdict on a request. It returns before ctx is done where it can; the caller bounds it anyway.
	Evaluate(ctx context.Context, request *Request) Verdict
}

// Recaller is a check that costs more than Instant, but may know its verdict from an earlier request.
type Recaller interface {
	Check
	// Recall gives the verdict where that takes no longer than an Instant check, and false where the check has to be evaluated. It is
	// asked on the call's own goroutine, without a deadline and without a place at the gate, and never blocks.
	Recall(request *Request) (verdict Verdict, ok bool)
}

// Wide is implemented by checks that can tell whether they look at the whole of every request.
type Wide interface {
	// ReadsEverything names what makes the check do so, and where; nothing where it does not.
	ReadsEverything() []string
}

// Cost orders checks.
type Cost uint8

const (
	// Instant checks compare values in memory. They run without a deadline of their own and never block.
	Instant Cost = iota
	// Compute checks run programs that an operator wrote.
	Compute
)

// Kind compiles the checks of one kind.
type Kind interface {
	// Compile returns one check for each of this kind that the handler names, none if it names none, and every problem found.
	Compile(handler *config.Handler) ([]Check, config.Problems)
}

// Result is what a check found.
type Result uint8

const (
	// Failed means that the check could not tell. It is the zero value: a verdict that was never filled in passes nobody.
	Failed Result = iota
	// Denied means that the request must not pass.
	Denied
	// Passed means that the check has nothing against the request.
	Passed
)

// String returns the result in a word, as records and logs have it.
func (r Result) String() string {
	switch r {
	case Passed:
		return "passed"
	case Denied:
		return "denied"
	case Failed:
	}
	return "failed"
}

// Verdict is one check's answer.
type Verdict struct {
	// Result is what the check found.
	Result Result
	// Name is what gave the verdict, where the check has several parts; empty for the check's own name.
	Name string
	// Reason says why.
	Reason string
	// Granted is how much a quota grants. Only where the result is Passed.
	Granted int64
	// Lifetime bounds the reuse of the answer; zero sets no bound.
	Lifetime config.Lifetime
	// Claims are what a verified token says, for the checks that come after; nil for nothing. Only where the result is Passed.
	Claims map[string]any
	// Identity is whose API key was accepted, for the checks that come after and for records; empty for nobody's. Only where the
	// result is Passed.
	Identity string
	// Remembered says that this is the answer to an earlier request which had the same in all that the check reads.
	Remembered bool
	// Denial overrides what the handler says denied callers are told; nil leaves it. Only where the result is Denied.
	Denial *config.Denial
	// Revision names the policy that the check evaluated, where that can change while the handler stays; empty where it cannot.
	Revision string
	// Failure is set where the result is Failed.
	Failure *Failure
}

// Pass makes a verdict that lets the request pass for as long as the handler says.
func Pass(reason string) Verdict { return Verdict{Result: Passed, Reason: reason} }

// Deny makes a verdict that stops the request with the handler's denial.
func Deny(reason string) Verdict { return Verdict{Result: Denied, Reason: reason} }

// Failing makes a verdict of a check that could not tell.
func Failing(failure *Failure) Verdict { return Verdict{Result: Failed, Failure: failure} }
