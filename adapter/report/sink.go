package report

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// Sink delivers records. It is used by one lane, from as many goroutines as the lane has concurrency.
type Sink interface {
	// Deliver hands a batch over and returns when the other side has it for good, as the sink's page in docs/ says. An error that is
	// no *Undelivered counts as retryable. A batch of which nobody can say what was handed over is handed over again as a whole.
	Deliver(ctx context.Context, batch []record.Record) error
	// Close lets go of what the sink holds, after the last Deliver.
	Close(ctx context.Context) error
}

// Chooser is a Sink that is not for records of every kind. Those it does not take are counted as filtered and not handed to it.
type Chooser interface {
	// Takes reports whether the sink is for records of the kind.
	Takes(kind record.Kind) bool
}

// Undelivered is why a batch was not delivered, and what follows from it.
type Undelivered struct {
	// Permanent means that they can never be: the records become dead letters. Else they are tried again.
	Permanent bool
	// Records are the indices in the batch of those that were not delivered, in ascending order; nil for all of them. The others were, and
	// are not handed over again.
	Records []int
	// After is how long the other side asked to be left alone; 0 where it did not.
	After time.Duration
	// Err is the cause.
	Err error
}

// Error returns the cause and whether it is for good.
func (u *Undelivered) Error() string {
	switch {
	case u.Permanent:
		return fmt.Sprintf("refused for good: %v", u.Err)
	case u.After > 0:
		return fmt.Sprintf("throttled for %s: %v", u.After, u.Err)
	default:
		return u.Err.Error()
	}
}

// Unwrap returns the cause.
func (u *Undelivered) Unwrap() error { return u.Err }

// Among tells of each record of a batch of that size whether it was not delivered; nil stands for all of them. An index that the batch does
// not have makes the answer worthless, so it stands for all as well.
func (u *Undelivered) Among(size int) (not []bool) {
	if u.Records == nil {
		return nil
	}
	not = make([]bool, size)
	for _, i := range u.Records {
		if i < 0 || i >= size {
			return nil
		}
		not[i] = true
	}
	return not
}

// Permanent marks an error as final for a whole batch.
func Permanent(err error) error { return &Undelivered{Permanent: true, Err: err} }

// Throttled marks an error after which the other side wants a pause.
func Throttled(after time.Duration, err error) error { return &Undelivered{After: after, Err: err} }

// asUndelivered gives every error a class.
func asUndelivered(err error) *Undelivered {
	u, ok := errors.AsType[*Undelivered](err)
	switch {
	case !ok:
		return &Undelivered{Err: err}
	case u.Err == nil:
		known := *u
		known.Err = errors.New("the sink gave no cause")
		return &known
	}
	return u
}
