package config

import "strings"

// FailureClass says why a decision could not be made. Its string is a metric label and part of the answer, so it is stable.
type FailureClass uint8

// The failure classes. Every one but MalformedRequest has a mode that an operator can set to open.
const (
	// ConfigurationFailure means that the handler's params are absent, not valid, or not known to this version.
	ConfigurationFailure FailureClass = iota
	// PolicyNotLoaded means that the policy is still being compiled or fetched.
	PolicyNotLoaded
	// EvaluationError means that a policy ended in an error or in a result that is no decision.
	EvaluationError
	// UndefinedResult means that a policy gave no result.
	UndefinedResult
	// Timeout means that the evaluation budget ran out.
	Timeout
	// DependencyDown means that something a check needs, such as a secret's file, is away.
	DependencyDown
	// Overload means that more checks were under way than the limits allow.
	Overload
	// Panic means that a check panicked.
	Panic
	// MalformedRequest means that the call's bytes are no request. It has no mode: nobody can choose to let it pass.
	MalformedRequest

	classCount
)

var classNames = [classCount]string{
	ConfigurationFailure: "configuration",
	PolicyNotLoaded:      "policy_not_loaded",
	EvaluationError:      "evaluation_error",
	UndefinedResult:      "undefined_result",
	Timeout:              "timeout",
	DependencyDown:       "dependency_down",
	Overload:             "overload",
	Panic:                "panic",
	MalformedRequest:     "malformed_request",
}

// String returns the class as it is written in params and metric labels.
func (c FailureClass) String() string {
	if c < classCount {
		return classNames[c]
	}
	return "unknown"
}

// FailureClasses returns all classes in order.
func FailureClasses() []FailureClass {
	all := make([]FailureClass, classCount)
	for i := range all {
		all[i] = FailureClass(i)
	}
	return all
}

// Mode says what a failure of some class does to the request.
type Mode uint8

const (
	// Closed refuses the request. It is the zero value, so that whatever was never set is closed.
	Closed Mode = iota
	// Open lets the request pass, once.
	Open
)

// String returns "closed" or "open".
func (m Mode) String() string {
	if m == Open {
		return "open"
	}
	return "closed"
}

// Modes holds the mode of each failure class. The zero value is closed throughout.
type Modes struct {
	open [classCount]bool
	// closedCode is the code of closed failures where it is not the default.
	closedCode Code
}

// Of returns the mode of class c. Classes that do not exist, and MalformedRequest, are closed.
func (m Modes) Of(c FailureClass) Mode {
	if c < classCount && c != MalformedRequest && m.open[c] {
		return Open
	}
	return Closed
}

// With returns a copy of m in which class c has the given mode.
func (m Modes) With(c FailureClass, mode Mode) Modes {
	if c < classCount {
		m.open[c] = mode == Open
	}
	return m
}

// ClosedCode returns the status of a request refused for a failure: Unavailable, which no proxy caches or turns into an
// allow, or PermissionDenied where `fail_close: true` asked for what Mixer's own opa adapter answers.
func (m Modes) ClosedCode() Code {
	if m.closedCode != OK {
		return m.closedCode
	}
	return Unavailable
}

// String lists the classes that are open, or says that all are closed.
func (m Modes) String() string {
	var open []string
	for _, class := range FailureClasses() {
		if m.Of(class) == Open {
			open = append(open, class.String())
		}
	}
	if len(open) == 0 {
		return "all closed"
	}
	return "open: " + strings.Join(open, ", ")
}
