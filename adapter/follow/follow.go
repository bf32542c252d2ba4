// Package follow keeps what documents say: it reads each from a file or a URL, again and again, and parses it.
//
// The last good document counts on while its source is away or says nonsense, but no longer than the source allows: what somebody
// took back must not count for ever only because nobody could hear of it.
package follow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Source says where a document comes from and how it is followed.
type Source struct {
	// File has the document, or else URL.
	File string
	// URL is asked for the document.
	URL string
	// CA is a file of certificates in PEM that the URL's server is verified with; empty for those of the system.
	CA string
	// Accept is the media types that the URL is asked for; empty for any.
	Accept string
	// MaxBytes is how large the document may be.
	MaxBytes int64
	// Refresh is how long a document counts as fresh.
	Refresh time.Duration
	// MinRefresh is the shortest time between two attempts to read it, however often it is wanted; zero for no bound.
	MinRefresh time.Duration
	// MaxStale is how long a document counts that could not be refreshed; zero for ever.
	MaxStale time.Duration
	// Timeout bounds an attempt.
	Timeout time.Duration
}

// ErrNotLoaded means that nobody has tried yet to read the document.
var ErrNotLoaded = errors.New("it is not loaded yet")

// Document is a document that is followed.
type Document[T any] struct {
	source Source
	fetch  func(ctx context.Context) ([]byte, error)
	parse  func(document []byte) (T, error)
	logger *slog.Logger
	state  atomic.Pointer[state[T]]
	wanted chan struct{}
	// changed is told that the file may have changed.
	changed chan struct{}

	read, failed atomic.Uint64

	mu sync.Mutex // guards what is below
	// ended is closed at the end of the attempt that is under way, or else of the next.
	ended chan struct{}

	// told is of the last failure that the log has; held is how many like it came since. Read alone uses them.
	told told
	held int
}

// told is a failure that the log has.
type told struct {
	text string
	at   time.Time
}

// state is what is known of a document. It is immutable.
type state[T any] struct {
	// value is what the last good document says, where there is one.
	value T
	good  bool
	// digest is that of the last good document.
	digest [sha256.Size]byte
	// at is when it was last read.
	at time.Time
	// err is why the last attempt failed; nil where it did not, or where there was none.
	err error
}

// New returns a document that is not read yet.
func New[T any](source Source, parse func(document []byte) (T, error), logger *slog.Logger) *Document[T] {
	d := &Document[T]{
		source: source, fetch: source.fetch, parse: parse, logger: logger,
		wanted: make(chan struct{}, 1), changed: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	d.state.Store(&state[T]{})
	return d
}

// Current returns what counts now, or why there is nothing: ErrNotLoaded before the first attempt to read it ended.
func (d *Document[T]) Current() (value T, err error) {
	now := d.state.Load()
	switch {
	case !now.good && now.err == nil:
		return value, ErrNotLoaded
	case !now.good:
		return value, fmt.Errorf("it could not be loaded: %w", now.err)
	case d.source.MaxStale == 0 || time.Since(now.at) <= d.source.MaxStale:
		return now.value, nil
	case now.err == nil:
		return value, fmt.Errorf("it was not refreshed for %s", d.source.MaxStale)
	default:
		return value, fmt.Errorf("it could not be refreshed for %s: %w", d.source.MaxStale, now.err)
	}
}

// Last returns what the last good document says, whether it still counts or not, with figures.
func (d *Document[T]) Last() (value T, stats Stats) {
	now := d.state.Load()
	stats = Stats{Loaded: now.good, Read: d.read.Load(), Failed: d.failed.Load()}
	if now.good {
		stats.Age = time.Since(now.at)
	}
	return now.value, stats
}

// Want asks for an attempt as soon as one may be made. It returns at once.
func (d *Document[T]) Want() {
	select {
	case d.wanted <- struct{}{}:
	default: // it is wanted already
	}
}

// Next returns a channel that is closed at the end of the attempt that is under way, or else of the next.
func (d *Document[T]) Next() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ended
}

const (
	// recheck finds changes of files on file systems that report none.
	recheck = 30 * time.Second
	// settle lets a burst of events end before a file is read.
	settle = 50 * time.Millisecond
	// rest is the shortest time between two attempts that events ask for: in some directories something changes all the time.
	rest = time.Second
	// retry is the shortest pause after a first failure. It doubles with each, up to Refresh.
	retry = time.Second
	// tellAgain is how long a failure that the log has is not logged again, while attempts fail for the same reason.
	tellAgain = time.Minute
)

// follow reads the document whenever that is due, until ctx is done. Only one of it or Read may go on at a time.
func (d *Document[T]) follow(ctx context.Context) {
	var last time.Time
	failures := 0
	// At once: a file may have changed between the first look and the watch.
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.changed:
			// A burst of events, such as a ConfigMap's swap, is to end first; one without an end is not waited for.
			due = earlier(due, later(time.Now().Add(settle), last.Add(rest)))
		case <-d.wanted:
			due = earlier(due, last.Add(d.source.MinRefresh))
		case <-timer.C:
			last = time.Now()
			if d.Read(ctx) {
				failures = 0
			} else {
				failures++
			}
			due = last.Add(d.pause(failures))
		}
		timer.Reset(time.Until(due))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// pause is how long to wait after an attempt. It varies, so that replicas do not ask all at once.
func (d *Document[T]) pause(failures int) time.Duration {
	pause := d.source.Refresh
	if d.source.File != "" {
		pause = min(pause, recheck)
	}
	if failures > 0 {
		const doublings = 16
		pause = min(pause, max(retry, d.source.MinRefresh)<<min(failures-1, doublings))
	}
	const share = 10
	return pause - rand.N(pause/share+1) //nolint:gosec // it spreads load
}

// Read reads the document once and reports whether it is good. One that is not leaves what counts as it is.
func (d *Document[T]) Read(ctx context.Context) bool {
	defer d.end()
	before := d.state.Load()
	now, err := d.attempt(ctx, before)
	if err != nil {
		if ctx.Err() != nil { // nobody wants it any more
			return false
		}
		d.failed.Add(1)
		now = *before
		now.err = err
		d.state.Store(&now)
		d.tell(err)
		return false
	}
	d.read.Add(1)
	d.told, d.held = told{}, 0
	d.state.Store(&now)
	if now.digest != before.digest {
		d.logger.Info("a document was loaded", "sha256", hex.EncodeToString(now.digest[:6]))
	}
	return true
}

// tell logs why an attempt failed, and now and then that others fail for the same reason.
func (d *Document[T]) tell(err error) {
	now := told{err.Error(), time.Now()}
	switch {
	case now.text != d.told.text:
		d.held = 0
	case now.at.Sub(d.told.at) < tellAgain:
		d.held++
		return
	}
	d.logger.Warn("a document could not be read; the last good one counts on for as long as max_stale says", "error", err, "like_this_since_last_line", d.held)
	d.told, d.held = now, 0
}

// end lets those go on who wait for the attempt.
func (d *Document[T]) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.ended)
	d.ended = make(chan struct{})
}

func (d *Document[T]) attempt(ctx context.Context, before *state[T]) (now state[T], err error) {
	defer func() {
		if r := recover(); r != nil { // the document is somebody else's
			err = fmt.Errorf("reading it panicked: %T\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, d.source.Timeout)
	defer cancel()
	begun := time.Now() // what is read may be as old
	document, err := d.fetch(ctx)
	if err != nil {
		return now, err
	}
	now = state[T]{value: before.value, good: true, digest: sha256.Sum256(document), at: begun}
	if !before.good || now.digest != before.digest {
		now.value, err = d.parse(document)
	}
	return now, err
}
