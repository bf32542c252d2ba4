package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Batching says how records are put together and handed over. Whichever of Records, Bytes and Wait comes first ends a batch.
type Batching struct {
	// Records is how many records a batch has at the most.
	Records int
	// Bytes is how many bytes their instances have at the most, unless a single one has more.
	Bytes int
	// Wait is how long a batch waits for more.
	Wait time.Duration
	// Concurrency is how many batches are under way at once.
	Concurrency int
	// Timeout bounds one attempt to deliver.
	Timeout time.Duration
	// Backoff and MaxBackoff bound the pause after an attempt that failed. It doubles with each, with jitter, and starts over after a success.
	Backoff, MaxBackoff time.Duration
	// GiveUpAfter is how long a batch is tried before its records become dead letters; 0 for ever.
	GiveUpAfter time.Duration
}

func (b Batching) validate() error {
	var problems []error
	for _, n := range []struct {
		key   string
		value int
	}{{"batch.records", b.Records}, {"batch.bytes", b.Bytes}, {"concurrency", b.Concurrency}} {
		if n.value < 1 {
			problems = append(problems, fmt.Errorf("%s is %d; use at least 1", n.key, n.value))
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"batch.wait", b.Wait}, {"timeout", b.Timeout}, {"backoff.initial", b.Backoff}, {"backoff.max", b.MaxBackoff}} {
		if d.value <= 0 {
			problems = append(problems, fmt.Errorf("%s is %s; use a positive duration", d.key, d.value))
		}
	}
	if b.MaxBackoff < b.Backoff {
		problems = append(problems, fmt.Errorf("backoff.max is %s; use at least backoff.initial, %s", b.MaxBackoff, b.Backoff))
	}
	if b.GiveUpAfter < 0 {
		problems = append(problems, fmt.Errorf("give_up_after is %s; use a positive duration, or 0 for never", b.GiveUpAfter))
	}
	return errors.Join(problems...)
}

// DeadLetters keeps records that a sink refused for good.
type DeadLetters interface {
	// Keep returns when the records are kept. Until it does they count as pending and are tried again.
	Keep(records []record.Record, cause error) error
	// Close lets go of the file.
	Close() error
}

// lane delivers what one queue holds to one sink.
type lane struct {
	Lane
	chooser Chooser // nil where the sink takes every kind
	logger  *slog.Logger
	hurried chan struct{}
	slots   chan struct{}
	workers sync.WaitGroup
	ended   chan struct{} // when run has
	// patience is how long the sink may take at the end.
	patience time.Duration

	// One of these must not hide the others.
	unreadQueue, unreadFrame, undelivered, buried, panicked rate.Sometimes

	attempts, failures atomic.Uint64

	// The batch that is being put together, and when it has waited enough. Only run's goroutine touches them.
	batch batch
	wait  *time.Timer
}

// batch is items with the frames that each came from.
type batch struct {
	items  []record.Record
	frames []*openFrame
	bytes  int
	// refused is why no sink can take it; nil for nearly all.
	refused error
}

// openFrame counts down a frame's records that still need work.
type openFrame struct {
	sequence   uint64
	open, dead atomic.Int64
}

const (
	complaintInterval = 10 * time.Second
	patience          = 5 * time.Second
)

func newLane(l Lane, logger *slog.Logger) *lane {
	lane := &lane{
		Lane:    l,
		logger:  logger.With("sink", l.Name),
		hurried: make(chan struct{}, 1),
		slots:   make(chan struct{}, l.Batching.Concurrency),
		ended:   make(chan struct{}),

		patience: patience,
	}
	lane.chooser, _ = l.Sink.(Chooser)
	for _, often := range []*rate.Sometimes{&lane.unreadQueue, &lane.unreadFrame, &lane.undelivered, &lane.buried, &lane.panicked} {
		often.Interval = complaintInterval
	}
	return lane
}

// hurry ends the batch that waits for more.
func (l *lane) hurry() {
	select {
	case l.hurried <- struct{}{}:
	default:
	}
}

// run delivers until ctx is done. Batches under way are then cut off; what they held is still in the queue.
func (l *lane) run(ctx context.Context) {
	defer close(l.ended)
	defer l.workers.Wait()
	frames := make(chan spool.Frame)
	l.workers.Go(func() { l.read(ctx, frames) })
	l.wait = time.NewTimer(l.Batching.Wait)
	defer l.wait.Stop()
	for {
		select {
		case frame := <-frames:
			l.take(ctx, &frame)
		case <-l.wait.C:
			l.send(ctx)
		case <-l.hurried:
			l.send(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// read hands on the queue's frames until ctx is done or the queue is closed.
func (l *lane) read(ctx context.Context, frames chan<- spool.Frame) {
	const pause = 250 * time.Millisecond
	for ctx.Err() == nil {
		frame, err := l.Queue.Next(ctx)
		switch {
		case err == nil:
			select {
			case frames <- frame:
			case <-ctx.Done():
			}
		case errors.Is(err, spool.ErrClosed):
			return
		case ctx.Err() == nil:
			complain(&l.unreadQueue, l.logger, "reading the queue", err)
			sleep(ctx, pause)
		}
	}
}

// take adds a frame's records to the batch, and sends it whenever it is full.
func (l *lane) take(ctx context.Context, frame *spool.Frame) {
	records, err := decodeFrame(frame)
	switch {
	case err != nil:
		l.takeUnreadable(ctx, frame, err)
		return
	case len(records) == 0 || l.chooser != nil && !l.chooser.Takes(records[0].Kind):
		l.Queue.Done(frame.Sequence, spool.Outcome{Filtered: len(records)})
		return
	}
	open := &openFrame{sequence: frame.Sequence}
	open.open.Store(int64(len(records)))
	for i := range records {
		size := len(records[i].Raw)
		if len(l.batch.items) > 0 && l.batch.bytes+size > l.Batching.Bytes {
			l.send(ctx)
		}
		if len(l.batch.items) == 0 {
			l.wait.Reset(l.Batching.Wait)
		}
		l.batch.items = append(l.batch.items, records[i])
		l.batch.frames = append(l.batch.frames, open)
		l.batch.bytes += size
		if len(l.batch.items) >= l.Batching.Records {
			l.send(ctx)
		}
	}
}

// takeUnreadable makes a dead letter of a whole frame, which some other version can read: only such a frame passes the queue's
// checksum and not decodeFrame.
func (l *lane) takeUnreadable(ctx context.Context, frame *spool.Frame, cause error) {
	complain(&l.unreadFrame, l.logger, "decoding a frame", cause)
	open := &openFrame{sequence: frame.Sequence}
	open.open.Store(1)
	open.dead.Store(int64(frame.Records) - 1) // the letter counts for all the records in it
	letter := record.Record{Sequence: frame.Sequence, Arrived: frame.Arrival, Raw: string(frame.Payload)}
	l.send(ctx) // in order
	l.batch = batch{items: []record.Record{letter}, frames: []*openFrame{open}, refused: cause}
	l.send(ctx)
}

// send gives the batch to a worker, as soon as one is free.
func (l *lane) send(ctx context.Context) {
	if len(l.batch.items) == 0 {
		return
	}
	b := l.batch
	l.batch = batch{items: make([]record.Record, 0, len(b.items)), frames: make([]*openFrame, 0, len(b.frames))}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	l.workers.Go(func() {
		defer func() { <-l.slots }()
		l.deliver(ctx, b)
	})
}

// deliver tries until the batch is delivered or refused for good, or ctx is done.
func (l *lane) deliver(ctx context.Context, b batch) {
	pauses := &backoff.ExponentialBackOff{
		InitialInterval:     l.Batching.Backoff,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         l.Batching.MaxBackoff,
	}
	pauses.Reset()
	start := time.Now()
	for ctx.Err() == nil {
		err := b.refused
		if err == nil {
			err = l.attempt(ctx, b.items)
		}
		if err == nil {
			l.settleBatch(b, false)
			return
		}
		u := asUndelivered(err)
		// Also at the end, for what was delivered would come again.
		if b = l.settleDelivered(b, u); len(b.items) == 0 {
			return
		}
		switch {
		case b.refused != nil:
			u = &Undelivered{Permanent: true, Err: err}
		case u.Permanent: // also at the end, for what never can be delivered would come again
		case ctx.Err() != nil:
			return
		case l.Batching.GiveUpAfter > 0 && time.Since(start) >= l.Batching.GiveUpAfter:
			u = &Undelivered{Permanent: true, Err: fmt.Errorf("given up after %s: %w", l.Batching.GiveUpAfter, u.Err)}
		}
		if u.Permanent {
			if err = l.bury(b, u.Err); err == nil {
				return
			}
			u = &Undelivered{Err: err}
		}
		complain(&l.undelivered, l.logger, "delivering", u)
		sleep(ctx, max(pauses.NextBackOff(), u.After))
	}
}

// attempt delivers once. A sink that panics has failed.
func (l *lane) attempt(ctx context.Context, items []record.Record) (err error) {
	ctx, cancel := context.WithTimeout(ctx, l.Batching.Timeout)
	defer cancel()
	l.attempts.Add(1)
	defer func() {
		if err != nil {
			l.failures.Add(1)
		}
	}()
	defer l.catch("the sink", &err)
	return l.Sink.Deliver(ctx, items)
}

// catch turns a panic into an error. What it was about may hold anything, so only its type is told.
func (l *lane) catch(who string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s panicked: %T", who, r)
		l.panicked.Do(func() { l.logger.Error("panic", "error", *err, "stack", string(debug.Stack())) })
	}
}

// settleDelivered settles what was delivered of a batch and returns the rest, so that trying again does not deliver it again and
// no dead letter is about it.
func (l *lane) settleDelivered(b batch, u *Undelivered) batch {
	undelivered := u.Among(len(b.items))
	if undelivered == nil {
		return b
	}
	rest := batch{refused: b.refused}
	var delivered batch
	for i, not := range undelivered {
		part := &delivered
		if not {
			part = &rest
		}
		part.items = append(part.items, b.items[i])
		part.frames = append(part.frames, b.frames[i])
	}
	l.settleBatch(delivered, false)
	return rest
}

// bury makes dead letters of what was refused for good.
func (l *lane) bury(b batch, cause error) error {
	if err := l.keep(b.items, cause); err != nil {
		return fmt.Errorf("keeping %d dead letters: %w", len(b.items), err)
	}
	complain(&l.buried, l.logger, "records became dead letters", cause)
	l.settleBatch(b, true)
	return nil
}

func (l *lane) keep(items []record.Record, cause error) (err error) {
	defer l.catch("keeping dead letters", &err)
	return l.DeadLetters.Keep(items, cause)
}

func (l *lane) settleBatch(b batch, dead bool) {
	for _, frame := range b.frames {
		if dead {
			frame.dead.Add(1)
		}
		l.settle(frame)
	}
}

// settle counts a record of a frame that needs no more work, and ends the frame with the last.
func (l *lane) settle(frame *openFrame) {
	if frame.open.Add(-1) == 0 {
		l.Queue.Done(frame.sequence, spool.Outcome{DeadLettered: int(frame.dead.Load())})
	}
}

func complain(often *rate.Sometimes, logger *slog.Logger, what string, err error) {
	often.Do(func() { logger.Warn(what, "error", err) }) //nolint:sloglint // all that are given are constants
}

// close waits until run has ended, and lets go of all that the lane has. A sink that does not come back from Deliver is left alone:
// nothing of it can be closed under its hands but the queue, which keeps what it has.
func (l *lane) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.patience)
	defer cancel()
	select {
	case <-l.ended:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("sink %q does not stop", l.Name), l.Queue.Close())
	}
	return errors.Join(l.closeSink(ctx), l.DeadLetters.Close(), l.Queue.Close())
}

func (l *lane) closeSink(ctx context.Context) (err error) {
	defer l.catch("closing the sink", &err)
	return l.Sink.Close(ctx)
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
