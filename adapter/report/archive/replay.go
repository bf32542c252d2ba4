package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// Replay delivers what is in an archive through a sink. It is for one use, at the end of which it closes the sink and the place for
// dead letters.
type Replay struct {
	// Name is the sink's, for the log.
	Name string
	// Sink delivers.
	Sink report.Sink
	// DeadLetters takes what the sink refuses for good.
	DeadLetters report.DeadLetters
	// Batching says how records are put together and how long attempts and pauses are. Of dead letters one batch is under way at a
	// time and tried for ever.
	Batching report.Batching
	// Logger is told what goes wrong meanwhile.
	Logger *slog.Logger
}

// Outcome counts the records of a replay.
type Outcome struct {
	// Delivered records are with the other side.
	Delivered uint64
	// Filtered records are of kinds that the sink does not take.
	Filtered uint64
	// Refused records are dead letters, again or for the first time.
	Refused uint64
	// Unreadable is how many records of a queue are lost to damage that showed while reading, and how many lines of dead letters
	// were put aside.
	Unreadable uint64
	// Left records are where they were, for another replay.
	Left uint64
}

// Queue delivers what is pending in a queue until nothing is left or ctx is done. It takes the queue's lock: an error of class
// spool.Locked means that somebody else has it. What was delivered is done for good; if ctx is done while a batch is under way, or
// the machine fails, that batch may come again, with the same ids.
func (r Replay) Queue(ctx context.Context, dir string) (Outcome, error) {
	queue, err := spool.Open(dir, spool.Options{})
	if err != nil {
		return Outcome{}, errors.Join(err, r.close(ctx))
	}
	pipeline, err := report.NewPipeline([]report.Lane{{
		Name: r.Name, Sink: r.Sink, Queue: queue, Batching: r.Batching, DeadLetters: r.DeadLetters,
	}}, r.Logger)
	if err != nil {
		return Outcome{}, errors.Join(err, queue.Close(), r.close(ctx))
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- pipeline.Run(running, 0) }()
	const look = 10 * time.Millisecond
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for running.Err() == nil {
		if queue.Stats().Pending.Frames == 0 {
			stop()
			break
		}
		select {
		case <-ticker.C:
		case <-running.Done():
		}
	}
	err = <-ended
	s := queue.Stats()
	return Outcome{
		Delivered: s.Done.Records - s.Filtered - s.DeadLettered, Filtered: s.Filtered, Refused: s.DeadLettered,
		Unreadable: s.DroppedTotal().Records, Left: s.Pending.Records,
	}, err
}

// Letters delivers the letters in files of one directory until none is left or ctx is done. Current ones are rotated first. A file
// whose letters were all delivered, or refused again, gets another name, so that they are not delivered again; of one that was not
// finished it is written down how far it came, after every batch. Lines that are no letters are put aside in a file of their own.
func (r Replay) Letters(ctx context.Context, files []File) (o Outcome, err error) {
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	if len(files) == 0 {
		return Outcome{}, nil
	}
	lock, err := spool.LockFile(filepath.Join(filepath.Dir(files[0].Path), "replay.lock"))
	if err != nil {
		return Outcome{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	for _, file := range files {
		err := r.file(ctx, file, &o)
		if errors.Is(err, fs.ErrNotExist) {
			r.Logger.Warn("dead letters were removed by somebody else", "file", file.Path)
			continue
		}
		if err != nil {
			return o, fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return o, nil
}

// letterBatch is what becomes of some lines of a file.
type letterBatch struct {
	records []record.Record
	bytes   int
	// aside are lines that are no letters.
	aside []byte
	lines uint64
}

// file delivers the letters in one file.
func (r Replay) file(ctx context.Context, file File, o *Outcome) (err error) {
	if file.State == Current {
		if file, err = file.rotate(time.Now()); err != nil {
			return err
		}
	}
	in, err := openLetters(file)
	if err != nil {
		return err
	}
	defer in.close() //nolint:errcheck // only read
	var b letterBatch
	left := o.Left
	for {
		l, err := in.next()
		switch {
		case errors.Is(err, io.EOF):
			if o.Left > left { // nothing may be written down behind that
				o.Left += uint64(len(b.records)) + b.lines
				return nil
			}
			if err := r.flush(ctx, in, &b, o); err != nil || o.Left > left {
				return err
			}
			return finish(file.Path)
		case err != nil:
			return err
		case l.done:
			continue
		case ctx.Err() != nil || o.Left > left:
			o.Left += l.left()
			continue
		case l.text == nil:
			return l.err
		}
		b.add(&l)
		if len(b.records) >= r.Batching.Records || b.bytes >= r.Batching.Bytes {
			if err := r.flush(ctx, in, &b, o); err != nil {
				return err
			}
		}
	}
}

func (b *letterBatch) add(l *line) {
	b.bytes += len(l.text)
	err := l.err
	if err == nil {
		var found []record.Record
		found, err = records(&l.letter)
		b.records = append(b.records, found...)
	}
	if err != nil {
		b.aside = append(b.aside, l.text...)
		b.lines++
	}
}

// flush deals with all lines up to where in is, and writes down that they are dealt with.
func (r Replay) flush(ctx context.Context, in *reader, b *letterBatch, o *Outcome) error {
	done := *b
	*b = letterBatch{}
	left := 0
	for batch := range slices.Chunk(done.records, r.Batching.Records) {
		left += r.deliver(ctx, batch, o)
	}
	if left > 0 {
		o.Left += uint64(left) + done.lines
		return nil
	}
	if len(done.aside) > 0 {
		if err := writeSynced(in.path+unreadableSuffix, os.O_APPEND, done.aside); err != nil {
			return err
		}
		o.Unreadable += done.lines
	}
	return in.position().write(in.path)
}

// finish gives a file that was replayed its new name.
func finish(path string) error {
	to := path + replayedSuffix
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("all is delivered, but %s exists; move it away and replay once more, which only renames", to)
	}
	if err := os.Rename(path, to); err != nil {
		return err
	}
	if err := os.Remove(path + progressSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// deliver tries until a batch is delivered or refused for good, or ctx is done, and returns how many records are left then.
func (r Replay) deliver(ctx context.Context, batch []record.Record, o *Outcome) (left int) {
	batch = r.choose(batch, o)
	pauses := &backoff.ExponentialBackOff{
		InitialInterval:     r.Batching.Backoff,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         r.Batching.MaxBackoff,
	}
	pauses.Reset()
	for len(batch) > 0 && ctx.Err() == nil {
		err := r.attempt(ctx, batch)
		if err == nil {
			o.Delivered += uint64(len(batch))
			return 0
		}
		pause := pauses.NextBackOff()
		if u, ok := errors.AsType[*report.Undelivered](err); ok {
			pause = max(pause, u.After)
			var delivered int
			delivered, batch = split(batch, u)
			o.Delivered += uint64(delivered) //nolint:gosec // is at least 0
			if u.Permanent {
				if err = r.keep(batch, u); err == nil {
					o.Refused += uint64(len(batch))
					return 0
				}
			}
		}
		if ctx.Err() != nil {
			break
		}
		r.Logger.Warn("delivering", "sink", r.Name, "error", err, "again_in", pause)
		sleep(ctx, pause)
	}
	return len(batch)
}

// choose returns the records that the sink takes.
func (r Replay) choose(batch []record.Record, o *Outcome) []record.Record {
	chooser, ok := r.Sink.(report.Chooser)
	if !ok {
		return batch
	}
	chosen := slices.DeleteFunc(slices.Clone(batch), func(r record.Record) bool { return !chooser.Takes(r.Kind) })
	o.Filtered += uint64(len(batch) - len(chosen)) //nolint:gosec // is at least 0
	return chosen
}

// split counts the records that were delivered and returns the others.
func split(batch []record.Record, u *report.Undelivered) (delivered int, rest []record.Record) {
	undelivered := u.Among(len(batch))
	if undelivered == nil {
		return 0, batch
	}
	for i, not := range undelivered {
		if not {
			rest = append(rest, batch[i])
		}
	}
	return len(batch) - len(rest), rest
}

func (r Replay) attempt(ctx context.Context, batch []record.Record) (err error) {
	ctx, cancel := context.WithTimeout(ctx, r.Batching.Timeout)
	defer cancel()
	defer catch("the sink", &err)
	return r.Sink.Deliver(ctx, batch)
}

func (r Replay) keep(refused []record.Record, u *report.Undelivered) (err error) {
	if len(refused) == 0 {
		return nil
	}
	cause := u.Err
	if cause == nil {
		cause = errors.New("the sink gave no cause")
	}
	defer catch("keeping dead letters", &err)
	if err := r.DeadLetters.Keep(refused, cause); err != nil {
		return fmt.Errorf("keeping %d dead letters: %w", len(refused), err)
	}
	return nil
}

// catch turns a panic into an error. What it was about may hold anything, so only its type is told.
func catch(who string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s panicked: %T", who, r)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r Replay) close(ctx context.Context) error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return errors.Join(r.Sink.Close(ctx), r.DeadLetters.Close())
}

// refusals is the place for what a sink refuses in a replay: a file of its own, because a running adapter is the only one to write
// to the sink's.
type refusals struct {
	name string // of the lock
	file *deadletter.File

	mu   sync.Mutex
	lock io.Closer // nil until there is something to keep
}

// OpenDeadLetters returns the place for the dead letters of a replay through a sink, in a directory of dead letters. Nothing is made
// before there is one. Two replays that write to the same place wait for each other.
func OpenDeadLetters(dir, sink string) (report.DeadLetters, error) {
	file, err := deadletter.NewFile(dir, sink+replayInfix, jsonlines.Rotation{})
	if err != nil {
		return nil, err
	}
	return &refusals{name: filepath.Join(dir, sink+replayInfix+".lock"), file: file}, nil
}

// Keep returns when the records are on the disk.
func (r *refusals) Keep(records []record.Record, cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lock == nil {
		lock, err := spool.LockFile(r.name)
		if err != nil {
			return err
		}
		r.lock = lock
	}
	return r.file.Keep(records, cause)
}

// Close closes the file.
func (r *refusals) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.file.Close()
	if r.lock != nil {
		err = errors.Join(err, r.lock.Close())
	}
	return err
}
