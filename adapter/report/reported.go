package report

import (
	"context"
	"errors"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Reported is what became of one report call.
type Reported struct {
	// Handler is the handler's name.
	Handler string
	// Kind is what the call's instances are.
	Kind record.Kind
	// Instances is how many came, Accepted how many of them are kept as records.
	Instances, Accepted int
	// Left counts those that did not become records.
	Left Left
	// Refused is why the call was not accepted; nil where it was. None of its instances is kept then.
	Refused *Refusal
}

// Refusal is why a call was refused. Its class is a metric label: one of the spool's classes, or malformed, panic, canceled, internal.
type Refusal struct {
	// Class is the label.
	Class string
	// Err is the cause.
	Err error
}

// Refuse classes an error; an empty class is found from the error.
func Refuse(class string, err error) *Refusal {
	if class == "" {
		class = "internal"
		if c, ok := spool.ClassOf(err); ok {
			class = c.String()
		} else if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			class = "canceled"
		}
	}
	return &Refusal{Class: class, Err: err}
}

// Error returns the cause.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }
