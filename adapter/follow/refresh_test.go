package follow

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// served is a source whose answers a test changes, in a bubble of its own time.
type served struct {
	mu     sync.Mutex
	answer int
	err    error
	takes  time.Duration
	asked  []time.Time
}

func (s *served) set(answer int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.err = answer, err
}

func (s *served) fetch(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	answer, err, takes := s.answer, s.err, s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return []byte(strconv.Itoa(answer)), err
}

func (s *served) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

var errDown = errors.New("it is down")

// inBubble follows a document beside a test for as long as that takes.
func inBubble(t *testing.T, s *served, test func(t *testing.T, d *Document[int])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		source := Source{URL: "https://unused", Refresh: 5 * time.Minute, MinRefresh: 10 * time.Second, MaxStale: time.Hour, Timeout: 5 * time.Second}
		d := New(source, func(document []byte) (int, error) { return strconv.Atoi(string(document)) }, slog.New(slog.DiscardHandler))
		d.fetch = s.fetch
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = Documents[int]{"d": d}.Run(ctx)
		}()
		test(t, d)
		cancel()
		<-done
	})
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func requireCurrent(t *testing.T, d *Document[int], want int) {
	t.Helper()
	got, err := d.Current()
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1, takes: time.Second}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		_, err := d.Current()
		require.ErrorIs(t, err, ErrNotLoaded)
		first := d.Next()
		pass(time.Second)
		<-first
		requireCurrent(t, d, 1)
		_, stats := d.Last()
		assert.Equal(t, time.Second, stats.Age, "what it says may be as old as the attempt")

		s.set(2, nil)
		pass(4 * time.Minute)
		requireCurrent(t, d, 1)
		pass(time.Minute)
		requireCurrent(t, d, 2)
	})
}

// However often it is wanted, the source is asked no more often than it may be, and soon after the first.
func TestFloodOfWants(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		pass(time.Minute)
		require.Equal(t, 1, s.times())
		s.set(2, nil)
		next := d.Next()
		d.Want()
		<-next
		requireCurrent(t, d, 2)
		require.Equal(t, 2, s.times(), "the last time is long ago, so it is asked at once")
		for range 10 * 60 * 10 { // ten minutes
			for range 100 {
				d.Want()
			}
			pass(100 * time.Millisecond)
		}
		assert.InDelta(t, 2+10*6, s.times(), 1)
		for i := 2; i < len(s.asked); i++ {
			assert.GreaterOrEqual(t, s.asked[i].Sub(s.asked[i-1]), 10*time.Second)
		}
		before := s.times()
		pass(20 * time.Second)
		assert.LessOrEqual(t, s.times(), before+1, "and no more when it is over")
	})
}

// The last good document counts while the source is away, for as long as it may.
func TestAway(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		pass(time.Second)
		s.set(0, errDown)
		pass(55 * time.Minute)
		requireCurrent(t, d, 1)
		pass(10 * time.Minute)
		_, err := d.Current()
		require.EqualError(t, err, "it could not be refreshed for 1h0m0s: it is down")
		require.NotErrorIs(t, err, ErrNotLoaded)
		s.set(2, nil)
		pass(5 * time.Minute)
		requireCurrent(t, d, 2)
	})
}

func TestAwayForEver(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		d.source.MaxStale = 0
		pass(time.Second)
		s.set(0, errDown)
		pass(10_000 * time.Hour)
		requireCurrent(t, d, 1)
	})
}

// A source that is away is asked again sooner at first, then as seldom as one that is there.
func TestPausesAfterFailures(t *testing.T) {
	t.Parallel()
	s := &served{err: errDown}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		synctest.Wait()
		_, err := d.Current()
		require.EqualError(t, err, "it could not be loaded: it is down")
		require.NotErrorIs(t, err, ErrNotLoaded, "it was tried")
		pass(time.Hour)
		want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
		for i, longest := range want {
			pause := s.asked[i+1].Sub(s.asked[i])
			assert.LessOrEqual(t, pause, longest)
			assert.GreaterOrEqual(t, pause, longest*9/10)
		}
	})
}

// A source that never answers is given up on after the time-out, and asked again.
func TestHanging(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1, takes: time.Hour}
	inBubble(t, s, func(t *testing.T, d *Document[int]) {
		pass(4 * time.Second)
		_, err := d.Current()
		require.ErrorIs(t, err, ErrNotLoaded)
		pass(time.Second)
		_, err = d.Current()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		s.mu.Lock()
		s.takes = 0
		s.mu.Unlock()
		pass(10 * time.Second)
		requireCurrent(t, d, 1)
	})
}

// fromEvents follows a file in a bubble, whose directory changes when the test says so.
func fromEvents(t *testing.T, s *served, logger *slog.Logger, test func(t *testing.T, d *Document[int], events chan<- struct{})) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := New(Source{File: "unused", Refresh: time.Hour, MaxStale: 2 * time.Hour, Timeout: time.Second},
			func(document []byte) (int, error) { return strconv.Atoi(string(document)) }, logger)
		d.fetch = s.fetch
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.follow(ctx)
		}()
		synctest.Wait()
		test(t, d, d.changed)
		cancel()
		<-done
	})
}

// A directory in which something changes all the time does not keep a file from being read.
func TestEventsWithoutAnEnd(t *testing.T) {
	t.Parallel()
	s := &served{answer: 1}
	fromEvents(t, s, slog.New(slog.DiscardHandler), func(t *testing.T, d *Document[int], events chan<- struct{}) {
		pass(rest)
		s.set(2, nil)
		for range 10 {
			events <- struct{}{}
			pass(settle / 2)
		}
		requireCurrent(t, d, 2)
		assert.Equal(t, 2, s.times())
	})
}

// Nor does it keep a processor, or the log, with a file that is missing or bad.
func TestEventsWithoutAnEndOfABadFile(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	s := &served{err: errDown}
	fromEvents(t, s, slog.New(slog.NewTextHandler(&written, nil)), func(t *testing.T, d *Document[int], events chan<- struct{}) {
		for range 10 * 60 * 20 { // ten minutes
			events <- struct{}{}
			pass(settle)
		}
		assert.InDelta(t, 10*60, s.times(), 2)
		assert.Equal(t, 10, strings.Count(written.String(), "it is down"), "%s", &written)
		assert.Contains(t, written.String(), "like_this_since_last_line=59")

		s.set(0, errors.New("it is away"))
		events <- struct{}{}
		pass(rest)
		assert.Equal(t, 1, strings.Count(written.String(), "it is away"), "another reason is told at once")
		s.set(1, nil)
		events <- struct{}{}
		pass(rest)
		requireCurrent(t, d, 1)
		s.set(0, errors.New("it is away"))
		events <- struct{}{}
		pass(rest)
		assert.Equal(t, 2, strings.Count(written.String(), "it is away"), "and so is one that is back")
	})
}
