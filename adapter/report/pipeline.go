package report

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Call is one report call, decoded as far as accepting it needs. Its texts are owned by whoever made it and do not change.
type Call struct {
	// Kind is what all its instances are.
	Kind record.Kind
	// Handler is the handler's name.
	Handler string
	// Caller is who called, as far as the transport knows; empty if it does not.
	Caller string
	// Sinks are the names of those that get it, each once; nil for all.
	Sinks []string
	// Delivery is a record.Delivery in wire form; empty for the defaults.
	Delivery string
	// Instances are the instances in wire form.
	Instances []string
}

// Lane is one sink and what it needs.
type Lane struct {
	// Name is what handlers call the sink; a metric label.
	Name string
	// Sink delivers.
	Sink Sink
	// Queue keeps what is accepted for the sink.
	Queue spool.Queue
	// Batching says how records are put together.
	Batching Batching
	// DeadLetters takes what the sink refuses for good.
	DeadLetters DeadLetters
}

// Pipeline accepts calls and delivers their records.
type Pipeline struct {
	lanes    map[string]*lane
	names    []string
	origin   record.SpoolID
	sequence atomic.Uint64
	logger   *slog.Logger
	now      func() time.Time
}

// NewPipeline makes a pipeline of at least one lane. It closes the lanes' queues and sinks when Run ends.
func NewPipeline(lanes []Lane, logger *slog.Logger) (*Pipeline, error) {
	p := &Pipeline{lanes: map[string]*lane{}, logger: logger, now: time.Now}
	if _, err := rand.Read(p.origin[:]); err != nil {
		return nil, err
	}
	for _, l := range lanes {
		if p.lanes[l.Name] != nil {
			return nil, fmt.Errorf("two sinks are named %q; give each a name of its own", l.Name)
		}
		if l.Sink == nil || l.Queue == nil || l.DeadLetters == nil {
			return nil, fmt.Errorf("sink %q: a lane needs a sink, a queue and a place for dead letters", l.Name)
		}
		if err := l.Batching.validate(); err != nil {
			return nil, fmt.Errorf("sink %q: %w", l.Name, err)
		}
		p.lanes[l.Name] = newLane(l, logger)
		p.names = append(p.names, l.Name)
		p.sequence.Store(max(p.sequence.Load(), l.Queue.NextSequence()))
	}
	if len(p.lanes) == 0 {
		return nil, errors.New("no sink is configured; name at least one")
	}
	return p, nil
}

// Sinks returns the names of the sinks.
func (p *Pipeline) Sinks() []string { return slices.Clone(p.names) }

// Accept keeps a call for each of its sinks, and returns when each of them has it as durably as the settings say. An error means that the
// call is refused; why is in its class, spool.ClassOf.
func (p *Pipeline) Accept(ctx context.Context, call *Call) error {
	if len(call.Instances) == 0 {
		return nil
	}
	names := call.Sinks
	if names == nil {
		names = p.names
	}
	size := frameSize(call)
	reservations := make([]*spool.Reservation, 0, len(names))
	defer func() {
		for _, r := range reservations {
			r.Release()
		}
	}()
	// Room everywhere before anything is written: a call is kept by all of its sinks or by none, as far as room decides.
	for _, name := range names {
		lane := p.lanes[name]
		if lane == nil {
			return fmt.Errorf("there is no sink %q", name)
		}
		r, err := lane.Queue.Reserve(ctx, size, len(call.Instances))
		if err != nil {
			return err
		}
		reservations = append(reservations, r)
	}
	frame := spool.Frame{
		Sequence: p.sequence.Add(1) - 1,
		Arrival:  p.now(),
		Records:  len(call.Instances),
		Payload:  appendFrame(make([]byte, 0, size), call, p.origin),
	}
	for _, r := range reservations {
		r.Start(frame)
	}
	var errs error
	for _, r := range reservations {
		errs = errors.Join(errs, r.Wait())
	}
	return errs
}

// Stats returns the accounts of every sink, each as of one moment.
func (p *Pipeline) Stats() map[string]spool.Stats {
	stats := make(map[string]spool.Stats, len(p.lanes))
	for name, lane := range p.lanes {
		stats[name] = lane.Queue.Stats()
	}
	return stats
}

// Attempts counts the attempts to deliver a batch to one sink, and those of them that failed.
type Attempts struct{ All, Failed uint64 }

// Attempts returns the counts of every sink.
func (p *Pipeline) Attempts() map[string]Attempts {
	attempts := make(map[string]Attempts, len(p.lanes))
	for name, lane := range p.lanes {
		failed := lane.failures.Load() // first, so that it is never the larger
		attempts[name] = Attempts{All: lane.attempts.Load(), Failed: failed}
	}
	return attempts
}

// Run delivers until ctx is done; then it goes on for as long as flush allows, or until nothing is pending, and closes the queues
// and sinks. What is not delivered by then stays in a disk queue, and is counted as dropped by a memory queue.
func (p *Pipeline) Run(ctx context.Context, flush time.Duration) error {
	deliver, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	for _, lane := range p.lanes {
		go lane.run(deliver)
	}
	<-ctx.Done()
	p.flush(flush)
	cancel()
	// All at once, so that one that does not stop keeps no other from closing in time.
	errs := make([]error, len(p.names))
	var closing sync.WaitGroup
	for i, name := range p.names {
		closing.Go(func() { errs[i] = p.lanes[name].close(context.WithoutCancel(ctx)) })
	}
	closing.Wait()
	return errors.Join(errs...)
}

// flush waits until nothing is pending or the time is over.
func (p *Pipeline) flush(limit time.Duration) {
	const look = 10 * time.Millisecond
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(look) {
		pending := false
		for _, lane := range p.lanes {
			lane.hurry()
			pending = pending || lane.Queue.Stats().Pending.Frames > 0
		}
		if !pending {
			return
		}
	}
}
