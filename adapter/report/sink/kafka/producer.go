package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
)

// producer is an idempotent producer and the memory of the messages it works on. After a failure it is thrown away: a new one needs
// to know nothing about what the old one left open, such as a producer id that the brokers no longer accept.
type producer struct {
	client   *kgo.Client
	abort    context.CancelFunc
	welcome  bool // a broker has answered
	messages messages
}

// newProducer returns one that lives on after ctx.
func newProducer(ctx context.Context, o Options, logger *slog.Logger) (*producer, error) {
	life, abort := context.WithCancel(context.WithoutCancel(ctx))
	options, err := clientOptions(life, o, logger)
	if err != nil {
		abort()
		return nil, err
	}
	c, err := kgo.NewClient(options...)
	if err != nil {
		abort()
		return nil, err
	}
	return &producer{client: c, abort: abort, messages: messages{key: o.Key}}, nil
}

// close drops what is buffered and ends the connections, at once.
func (p *producer) close() {
	p.abort()
	p.client.Close()
}

// produce returns when each record is acknowledged or has failed, or ctx is done. A producer that is not healthy may still be at work.
// The error is as client.Parts wants it.
func (p *producer) produce(ctx context.Context, part []record.Record) (healthy bool, err error) {
	if !p.welcome {
		// Who cannot reach or convince any broker says at once why, instead of trying for as long as the attempt lasts.
		if err = p.client.Ping(ctx); err != nil {
			return false, fmt.Errorf("no broker answers; check brokers, tls and sasl: %w", cmp.Or(ctx.Err(), err))
		}
		p.welcome = true
	}
	p.messages.build(ctx, part)
	results := newResults(len(part))
	for i, cause := range p.messages.failed {
		if cause != nil {
			results.set(i, &refusal{cause})
			continue
		}
		// Not with ctx, with which the library would decide what may be given up.
		p.client.Produce(context.WithoutCancel(ctx), &p.messages.records[i], func(_ *kgo.Record, err error) { results.set(i, err) })
	}
	if err = p.client.Flush(ctx); err != nil {
		return false, results.undelivered(err)
	}
	err = results.undelivered(ctx.Err())
	u, ok := errors.AsType[*report.Undelivered](err)
	healthy = !ok || u.Permanent
	if healthy {
		p.messages.release()
	}
	return healthy, err
}

// results are what came of each record. After an attempt has ended early the library goes on to set them.
type results struct {
	mu      sync.Mutex
	outcome []error
}

var errOpen = errors.New("not acknowledged")

func newResults(n int) *results {
	r := &results{outcome: make([]error, n)}
	for i := range r.outcome {
		r.outcome[i] = errOpen
	}
	return r
}

func (r *results) set(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcome[i] = err
}

// undelivered returns nil if all are acknowledged. As long as there are records to be tried again, those that were refused are
// among them: they are refused once more when nothing else is left. The end is why the attempt did, if it did early.
func (r *results) undelivered(end error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var indices []int
	var refused, failed error
	for i, err := range r.outcome {
		switch {
		case err == nil:
			continue
		case isOpen(err):
			if failed == nil {
				failed = cmp.Or(end, err)
			}
		case isRefusal(err):
			if refused == nil {
				refused = err
			}
		case failed == nil:
			failed = err
		}
		indices = append(indices, i)
	}
	switch {
	case failed != nil:
		return &report.Undelivered{Records: indices, Err: fmt.Errorf("%d of %d records not acknowledged: %w", len(indices), len(r.outcome), failed)}
	case refused != nil:
		return &report.Undelivered{Permanent: true, Records: indices, Err: refused}
	}
	return nil
}

// isOpen tells that nobody knows what became of a record, because the attempt ended: so does the client's life, of which the library tells
// by more than one error.
func isOpen(err error) bool {
	return errors.Is(err, errOpen) || errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, context.Canceled)
}

// refusal is why we do not even ask the brokers.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// isRefusal tells what another attempt cannot change. The brokers give the same answer to all records of a Kafka batch, and the library
// to all that waited behind it, so it may be about others.
func isRefusal(err error) bool {
	for _, code := range []*kerr.Error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp} {
		if errors.Is(err, code) {
			return true
		}
	}
	_, ours := errors.AsType[*refusal](err)
	return ours
}
