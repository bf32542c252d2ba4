// Package keyset holds named key sets: JWK Sets that are read from files or fetched from URLs, and follow them.
//
// The last good keys are used on while a source is away, but no longer than the settings say: keys that somebody took back must not
// count for ever only because nobody could hear of it.
package keyset

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tollgate-mesh/tollgate/adapter/policy/jwt"
)

// Source says where a key set comes from and how it is kept. All durations are positive.
type Source struct {
	// File has the JWK Set, or else URL.
	File string
	// URL is asked for the JWK Set.
	URL string
	// CA is a file of certificates in PEM that the URL's server is verified with; empty for those of the system.
	CA string
	// Symmetric means that the keys are those of HMAC.
	Symmetric bool
	// Refresh is how long keys count as fresh.
	Refresh time.Duration
	// MinRefresh is the shortest time between two attempts, however often keys are wanted that are not there.
	MinRefresh time.Duration
	// MaxStale is how long keys are used that could not be refreshed.
	MaxStale time.Duration
	// Timeout bounds an attempt.
	Timeout time.Duration
}

// recheck finds changes of files on file systems that report none.
const recheck = 30 * time.Second

// Set is a named key set. It stays the same value while its keys follow the source.
type Set struct {
	source Source
	// load reads the source; at most one byte more than a key set may have.
	load   func(ctx context.Context) ([]byte, error)
	logger *slog.Logger
	wanted chan struct{}
	state  atomic.Pointer[state]

	refreshed, failed atomic.Uint64
}

// state is what is known of a set. It is immutable.
type state struct {
	// keys are the last good ones; nil where there never were any.
	keys *jwt.Keys
	// read is when they were read.
	read time.Time
	// err is why the last attempt failed; nil where it did not, or where there was none.
	err error
}

// Symmetric reports whether the keys are those of HMAC.
func (s *Set) Symmetric() bool { return s.source.Symmetric }

// Keys returns the keys that count now, or why there are none.
func (s *Set) Keys() (*jwt.Keys, error) {
	now := s.state.Load()
	switch {
	case now.keys == nil && now.err == nil:
		return nil, jwt.ErrNotLoaded
	case now.keys == nil:
		return nil, fmt.Errorf("the keys could not be loaded: %w", now.err)
	case time.Since(now.read) <= s.source.MaxStale:
		return now.keys, nil
	case now.err == nil:
		return nil, fmt.Errorf("the keys were not refreshed for %s", s.source.MaxStale)
	default:
		return nil, fmt.Errorf("the keys could not be refreshed for %s: %w", s.source.MaxStale, now.err)
	}
}

// Want asks for a refresh as soon as one may be made. It returns at once.
func (s *Set) Want() {
	select {
	case s.wanted <- struct{}{}:
	default: // it is wanted already
	}
}

// Store is all key sets of a process.
type Store struct {
	sets map[string]*Set
}

// Open reads the key sets that are in files. Those at URLs are not loaded until Run.
func Open(ctx context.Context, sources map[string]Source, logger *slog.Logger) *Store {
	s := &Store{sets: make(map[string]*Set, len(sources))}
	for name, source := range sources {
		s.sets[name] = newSet(source, logger.With("key_set", name))
		if source.File != "" {
			s.sets[name].refresh(ctx)
		}
	}
	return s
}

func newSet(source Source, logger *slog.Logger) *Set {
	s := &Set{source: source, logger: logger, wanted: make(chan struct{}, 1)}
	s.load = func(ctx context.Context) ([]byte, error) {
		if source.File != "" {
			return readFile(source.File)
		}
		return fetch(ctx, source.URL, source.CA)
	}
	s.state.Store(&state{})
	return s
}

// Set returns the named key set, and false where there is none of that name.
func (s *Store) Set(name string) (*Set, bool) {
	set, ok := s.sets[name]
	return set, ok
}

// Stats are figures of one key set.
type Stats struct {
	// Keys is how many keys there are to verify with, whether they still count or not.
	Keys int
	// Age is how long ago they were read; only where Loaded.
	Age time.Duration
	// Loaded is whether there ever were any.
	Loaded bool
	// Refreshed and Failed count attempts to read them.
	Refreshed, Failed uint64
}

// Stats returns figures of every key set by its name.
func (s *Store) Stats() map[string]Stats {
	all := make(map[string]Stats, len(s.sets))
	for name, set := range s.sets {
		stats := Stats{Refreshed: set.refreshed.Load(), Failed: set.failed.Load()}
		if now := set.state.Load(); now.keys != nil {
			stats.Loaded, stats.Keys, stats.Age = true, now.keys.Len(), time.Since(now.read)
		}
		all[name] = stats
	}
	return all
}

// Run keeps the key sets fresh until ctx is done.
func (s *Store) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, set := range s.sets {
		group.Go(func() error { set.run(ctx); return nil })
	}
	return group.Wait()
}

// run refreshes the set whenever that is due. There is one attempt at a time.
func (s *Set) run(ctx context.Context) {
	var changed <-chan struct{}
	if s.source.File != "" {
		var stop func()
		changed, stop = s.watch(ctx)
		defer stop()
	}
	var last time.Time
	failures := 0
	// A file may have changed between the first look and the watch.
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			// A burst of events, such as a ConfigMap's swap, is to end first.
			due = earlier(due, time.Now().Add(settle))
		case <-s.wanted:
			due = earlier(due, last.Add(s.source.MinRefresh))
		case <-timer.C:
			last = time.Now()
			if s.refresh(ctx) {
				failures = 0
			} else {
				failures++
			}
			due = last.Add(s.pause(failures))
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

// pause is how long to wait after an attempt: as long as keys are fresh, or, after failures, longer with each of them. It varies, so
// that replicas do not ask all at once.
func (s *Set) pause(failures int) time.Duration {
	pause := s.source.Refresh
	if s.source.File != "" {
		pause = min(pause, recheck)
	}
	if failures > 0 {
		const doublings = 16
		pause = min(pause, s.source.MinRefresh<<min(failures-1, doublings))
	}
	const share = 10
	return pause - rand.N(pause/share+1) //nolint:gosec // it spreads load
}

// refresh reads the source once and reports whether that went well. What was not read leaves the keys as they are.
func (s *Set) refresh(ctx context.Context) bool {
	before := s.state.Load()
	keys, err := s.read(ctx)
	if err != nil {
		if ctx.Err() != nil { // nobody wants it any more
			return false
		}
		s.failed.Add(1)
		s.state.Store(&state{keys: before.keys, read: before.read, err: err})
		s.logger.Warn("a key set could not be read; the last good keys count on for as long as max_stale says", "error", err)
		return false
	}
	s.refreshed.Add(1)
	if keys.Equal(before.keys) {
		keys = before.keys
	} else {
		s.logger.Info("a key set changed", "keys", keys.Len(), "unusable", keys.Unusable())
	}
	s.state.Store(&state{keys: keys, read: time.Now()})
	return true
}

func (s *Set) read(ctx context.Context) (keys *jwt.Keys, err error) {
	defer func() {
		if r := recover(); r != nil { // the document is somebody else's
			err = fmt.Errorf("reading it panicked: %T\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.source.Timeout)
	defer cancel()
	document, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	if len(document) > maxBytes {
		return nil, fmt.Errorf("it has more than %d bytes", maxBytes)
	}
	return jwt.ParseKeys(document, s.source.Symmetric)
}

// maxBytes is far more than a hundred keys need.
const maxBytes = 1 << 20
