package policy

import (
	"fmt"
	"strings"

	"github.com/tollgate-mesh/tollgate/config"
)

// Decision is the answer to one request. It is a value: nothing in it changes after it was made.
type Decision struct {
	// ID identifies the decision's record, and whoever is denied is told it; empty where there is none.
	ID string
	// Code is config.OK for an allow.
	Code config.Code
	// Message reaches the end user; empty for an allow.
	Message string
	// HTTP replaces the reply that the proxy derives from a denial's code; nil leaves it.
	HTTP *config.HTTPResponse
	// Lifetime bounds the reuse of the answer. An allow's is reusable or SingleUse; a denial's may be zero.
	Lifetime config.Lifetime
	// Asked is how much a quota call asked for; 0 for a check.
	Asked int64
	// Granted is how much a quota call may take; 0 for a check, and where Code is not OK.
	Granted int64
	// Check names the check that decided.
	Check string
	// Reason says why in a stable word or in the policy's own, for logs and records and never for the end user.
	Reason string
	// Cached is whether the check that decided gave an answer that it remembered.
	Cached bool
	// Identity is whose API key was accepted on the way to the decision; empty for nobody's.
	Identity string
	// Revision identifies the policy that decided: the handler's fingerprint, and after a slash the revision of a policy from a source,
	// if one was evaluated.
	Revision string
	// Failure is not nil where the answer comes from a failure, whether it was let through or refused.
	Failure *Failure
	// Findings are what each check that was asked said, in the order in which they were asked. They are nil where fewer than two
	// were: Check, Reason and Failure say it all then. For logs and records and never for the end user.
	Findings []Finding
}

// Finding is what one check said.
type Finding struct {
	// Check is the check's name.
	Check string
	// Result is what it found.
	Result Result
	// Reason says why, as in Decision.
	Reason string
	// Failure is set where the result is Failed.
	Failure *Failure
}

// Allowed reports whether the request may pass.
func (d Decision) Allowed() bool { return d.Code == config.OK }

// Outcome is one of allow, deny, failed_open and failed_closed: a metric label.
func (d Decision) Outcome() string {
	switch {
	case d.Failure == nil && d.Allowed():
		return "allow"
	case d.Failure == nil:
		return "deny"
	case d.Allowed():
		return "failed_open"
	default:
		return "failed_closed"
	}
}

// Failure is why a decision could not be made. It is an error whose class is a metric label.
type Failure struct {
	// Class selects the mode.
	Class config.FailureClass
	// Detail is for operators. It shows no secret and nothing of the request.
	Detail string
}

// Fail makes a failure.
func Fail(class config.FailureClass, format string, args ...any) *Failure {
	return &Failure{Class: class, Detail: fmt.Sprintf(format, args...)}
}

// Error returns the class and the detail.
func (f *Failure) Error() string { return f.Class.String() + ": " + f.Detail }

// Resolve turns a failure into a decision by the modes that are in force: closed refuses with the modes' code, open lets this
// one request pass and nothing after it.
func (f *Failure) Resolve(modes config.Modes) Decision {
	mode := modes.Of(f.Class)
	d := Decision{Reason: f.Class.String(), Lifetime: ofFailure(mode), Failure: f}
	if mode == config.Open {
		d.Code = config.OK
		return d
	}
	d.Code = modes.ClosedCode()
	// The class helps whoever supports the user and tells an attacker nothing that the code does not.
	d.Message = "the request could not be checked (" + strings.ReplaceAll(f.Class.String(), "_", " ") + ")"
	return d
}
