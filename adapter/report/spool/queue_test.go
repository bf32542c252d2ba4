package spool

import (
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// both runs a test on both kinds of queue.
func both(t *testing.T, test func(t *testing.T, create func(t *testing.T, o Options) Queue)) {
	t.Helper()
	t.Run("disk", func(t *testing.T) {
		test(t, func(t *testing.T, o Options) Queue {
			t.Helper()
			return open(t, filepath.Join(t.TempDir(), "queue"), o)
		})
	})
	t.Run("memory", func(t *testing.T) {
		test(t, func(t *testing.T, o Options) Queue {
			t.Helper()
			m, err := NewMemory(o)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, m.Close()) })
			return m
		})
	})
}

func class(t *testing.T, err error) Class {
	t.Helper()
	require.Error(t, err)
	c, ok := ClassOf(err)
	require.True(t, ok, "%v has no class", err)
	return c
}

func TestOrderAndOutcomes(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{})
		first := q.NextSequence()
		for i := range uint64(100) {
			require.NoError(t, put(q, newFrame(first+i, int(i)*300)))
		}
		assert.Equal(t, first+100, q.NextSequence())
		var frames []Frame
		for i := range uint64(100) {
			f, err := q.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, first+i, f.Sequence)
			require.NoError(t, whole(f))
			assert.False(t, f.Recovered)
			frames = append(frames, f)
		}
		s := q.Stats()
		assert.Equal(t, s.Pending, s.InFlight)
		assert.Equal(t, s.Accepted, s.InFlight)
		rand.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		for i, f := range frames {
			outcome := Outcome{}
			switch i {
			case 0:
				outcome = Outcome{Filtered: f.Records}
			case 1:
				outcome = Outcome{DeadLettered: f.Records, Filtered: 1} // more than there were
			case 2:
				outcome = Outcome{DeadLettered: -1}
			}
			assert.True(t, q.Done(f.Sequence, outcome))
			assert.False(t, q.Done(f.Sequence, outcome), "done twice")
			s := q.Stats()
			require.True(t, s.Balanced(), "%+v", s)
		}
		s = q.Stats()
		assert.Equal(t, s.Accepted, s.Done)
		assert.Equal(t, uint64(frames[0].Records), s.Filtered)
		assert.Equal(t, uint64(frames[1].Records), s.DeadLettered)
		assert.Zero(t, s.Pending)
		assert.Zero(t, s.Oldest)
	})
}

// What was handed out and what the caller does with its buffer have nothing to do with each other.
func TestNothingAliases(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{})
		for _, size := range []int{10, 100, copyBelow - 1, copyBelow, 100_000} {
			f := newFrame(q.NextSequence(), size)
			require.NoError(t, put(q, f))
			clear(f.Payload)
		}
		var last []byte
		for range 5 {
			f, err := q.Next(t.Context())
			require.NoError(t, err)
			require.NoError(t, whole(f))
			_ = append(f.Payload, make([]byte, 2*recordHeader)...) // would reach into the next frame
			if last != nil {
				clear(last)
			}
			last = f.Payload
		}
	})
}

func TestOneSequenceTwice(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{})
		for range 3 {
			require.NoError(t, put(q, newFrame(7, 10)))
			_, err := q.Next(t.Context())
			require.NoError(t, err)
		}
		for range 3 {
			assert.True(t, q.Done(7, Outcome{}))
		}
		assert.False(t, q.Done(7, Outcome{}))
		assert.Zero(t, q.Stats().Pending)
	})
}

func TestNextWaits(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := q.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		got := make(chan Frame)
		for range 2 {
			go func() {
				f, err := q.Next(context.Background())
				assert.NoError(t, err)
				got <- f
			}()
		}
		time.Sleep(5 * time.Millisecond)
		require.NoError(t, put(q, newFrame(1, 10)))
		require.NoError(t, put(q, newFrame(2, 10)))
		assert.Equal(t, uint64(3), (<-got).Sequence+(<-got).Sequence)
	})
}

// fill appends frames of 10 kB until the queue is full and returns how many fitted.
func fill(t *testing.T, q Queue) uint64 {
	t.Helper()
	for i := uint64(0); ; i++ {
		r, err := q.Reserve(t.Context(), 10_000, 1)
		if errors.Is(err, ErrFull) {
			return i
		}
		require.NoError(t, err)
		if r.WillDrop() {
			r.Release()
			return i
		}
		require.NoError(t, r.Append(newFrame(q.NextSequence(), 10_000)))
	}
}

func TestRefuse(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{MaxBytes: 1 << 20, FullWait: 20 * time.Millisecond})
		fitted := fill(t, q)
		assert.Greater(t, fitted, uint64(100))
		start := time.Now()
		_, err := q.Reserve(t.Context(), 10_000, 5)
		waited := time.Since(start)
		require.Equal(t, Full, class(t, err))
		require.ErrorIs(t, err, ErrFull)
		require.NotErrorIs(t, err, ErrClosed)
		assert.Contains(t, err.Error(), "1048576 bytes are taken")
		assert.GreaterOrEqual(t, waited, 20*time.Millisecond)
		s := q.Stats()
		assert.Equal(t, Tally{Frames: 2, Records: 6, Bytes: 20_000}, s.Refused[Full])
		assert.Equal(t, fitted, s.Pending.Frames)
		assert.LessOrEqual(t, s.Room, int64(1<<20))

		// A call that ends does not wait on.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = q.Reserve(ctx, 10_000, 5)
		require.ErrorIs(t, err, ErrFull)
		require.ErrorIs(t, err, context.Canceled)

		// Room that comes within the wait is taken, first come first served.
		got := make(chan error)
		go func() {
			var err error
			for range 1500 { // half a minute, however slow the machine is
				if err = put(q, newFrame(q.NextSequence(), 10_000)); err == nil {
					break
				}
			}
			got <- err
		}()
		for range fitted / 4 {
			f, err := q.Next(t.Context())
			require.NoError(t, err)
			q.Done(f.Sequence, Outcome{})
		}
		require.NoError(t, <-got)
		assert.True(t, balanced(q))
	})
}

func balanced(q Queue) bool {
	s := q.Stats()
	return s.Balanced()
}

func TestWaitersInOrder(t *testing.T) {
	m, err := NewMemory(Options{MaxBytes: 100_000, MaxFrameBytes: 50_000, FullWait: time.Minute})
	require.NoError(t, err)
	fitted, err := m.Reserve(t.Context(), 45_000, 1)
	require.NoError(t, err)
	other, err := m.Reserve(t.Context(), 45_000, 1)
	require.NoError(t, err)
	order := make(chan int, 3)
	var waiting sync.WaitGroup
	for i, size := range []int{50_000, 10_000, 100} {
		waiting.Go(func() {
			r, err := m.Reserve(context.Background(), size, 1)
			if assert.NoError(t, err) {
				order <- i
				r.Release()
			}
		})
		require.Eventually(t, func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.waiters.Len() == i+1
		}, 30*time.Second, time.Millisecond, "the third does not pass the first two, though it would fit")
	}
	fitted.Release()
	waiting.Wait()
	assert.Len(t, order, 3)
	other.Release()
	other.Release() // twice is once
	assert.Zero(t, m.Stats().Room)
	require.NoError(t, m.Close())
}

func TestDropOldest(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{MaxBytes: 1 << 20, Full: DropOldest, FullWait: time.Minute})
		var flying []uint64
		for range 5 {
			require.NoError(t, put(q, newFrame(q.NextSequence(), 10_000)))
			f, err := q.Next(t.Context())
			require.NoError(t, err)
			flying = append(flying, f.Sequence)
		}
		const n = 500
		for range n {
			require.NoError(t, put(q, newFrame(q.NextSequence(), 10_000)))
			s := q.Stats()
			require.True(t, s.Balanced(), "%+v", s)
			require.LessOrEqual(t, s.Room, int64(1<<20))
		}
		s := q.Stats()
		assert.Equal(t, uint64(n+5), s.Accepted.Frames)
		assert.Equal(t, uint64(5), s.InFlight.Frames)
		assert.Zero(t, s.Refused)
		assert.Greater(t, s.Pending.Frames, uint64(80), "no more is dropped than has to be")
		assert.Equal(t, n+5-s.Pending.Frames, s.Dropped[Oldest].Frames)
		for _, sequence := range flying {
			assert.True(t, q.Done(sequence, Outcome{}), "what is in flight is not dropped")
		}
		newest := q.NextSequence() - 1
		rest := drain(t, q, true)
		assert.Equal(t, newest, rest[len(rest)-1])
		assert.Equal(t, newest-uint64(len(rest))+1, rest[0], "the newest are kept, without gaps")
	})
}

func TestDropNewest(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{MaxBytes: 1 << 20, Full: DropNewest})
		fitted := fill(t, q)
		s := q.Stats()
		assert.Equal(t, fitted, s.Accepted.Frames, "a reservation that is released drops nothing")
		r, err := q.Reserve(t.Context(), 10_000, 3)
		require.NoError(t, err)
		assert.True(t, r.WillDrop())
		f := newFrame(q.NextSequence(), 10_000)
		require.NoError(t, r.Append(f))
		s = q.Stats()
		assert.Equal(t, fitted+1, s.Accepted.Frames)
		assert.Equal(t, tallyOf(&f), s.Dropped[Newest])
		assert.True(t, s.Balanced())
		assert.Len(t, drain(t, q, true), int(fitted))
	})
}

func TestTooLarge(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{MaxFrameBytes: 1000})
		_, err := q.Reserve(t.Context(), 1001, 1)
		assert.Equal(t, TooLarge, class(t, err))
		_, err = q.Reserve(t.Context(), -1, 1)
		assert.Equal(t, TooLarge, class(t, err))
		for _, f := range []Frame{
			{Payload: make([]byte, 101), Records: 1},
			{Payload: make([]byte, 100), Records: -1},
			{Payload: make([]byte, 100), Records: math.MaxUint32 + 1},
		} {
			r, err := q.Reserve(t.Context(), 100, 1)
			require.NoError(t, err)
			assert.Equal(t, TooLarge, class(t, r.Append(f)))
			require.Error(t, r.Append(newFrame(1, 10)), "a reservation is for one frame")
			r.Release()
		}
		s := q.Stats()
		assert.Equal(t, uint64(5), s.Refused[TooLarge].Frames)
		assert.Equal(t, uint64(0), s.Accepted.Frames)
		assert.True(t, s.Balanced())
		// Less than was reserved is fine, and so is nothing.
		for _, size := range []int{0, 1, 999, 1000} {
			r, err := q.Reserve(t.Context(), 1000, 1)
			require.NoError(t, err)
			f := newFrame(q.NextSequence(), size)
			if size == 0 {
				f.Records, f.Payload = 0, nil
			}
			require.NoError(t, r.Append(f))
		}
		assert.Equal(t, uint64(4), q.Stats().Pending.Frames)
	})
}

func TestClosed(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		q := create(t, Options{MaxBytes: 1 << 20, FullWait: time.Minute})
		r, err := q.Reserve(t.Context(), 100, 1)
		require.NoError(t, err)
		large, err := q.Reserve(t.Context(), 800_000, 1)
		require.NoError(t, err)
		ended := make(chan error)
		go func() { // waits for room
			_, err := q.Reserve(context.Background(), 800_000, 1)
			ended <- err
		}()
		go func() { // waits for a frame
			_, err := q.Next(context.Background())
			ended <- err
		}()
		time.Sleep(5 * time.Millisecond)
		require.NoError(t, q.Close())
		for range 2 {
			err := <-ended
			assert.Equal(t, Closed, class(t, err))
			require.ErrorIs(t, err, ErrClosed)
		}
		_, err = q.Reserve(t.Context(), 1, 1)
		assert.Equal(t, Closed, class(t, err))
		assert.Equal(t, Closed, class(t, r.Append(newFrame(1, 10))))
		large.Release()
		assert.False(t, q.Done(1, Outcome{}))
		assert.True(t, balanced(q))
		assert.NoError(t, q.Close())
	})
}

// What a memory queue still has when it ends is accounted for.
func TestMemoryEnds(t *testing.T) {
	m, err := NewMemory(Options{})
	require.NoError(t, err)
	for i := range uint64(10) {
		require.NoError(t, put(m, newFrame(i, 10)))
	}
	for range 3 {
		_, err := m.Next(t.Context())
		require.NoError(t, err)
	}
	m.Done(0, Outcome{})
	require.NoError(t, m.Close())
	s := m.Stats()
	assert.Equal(t, uint64(9), s.Dropped[Discarded].Frames)
	assert.Equal(t, uint64(1), s.Done.Frames)
	assert.Zero(t, s.Pending)
	assert.Zero(t, s.InFlight)
	assert.True(t, s.Balanced())
}

func TestAge(t *testing.T) {
	both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
		clock := &manualClock{now: time.Unix(1e9, 0)}
		q := create(t, Options{MaxAge: time.Hour, clock: clock})
		put3 := func() {
			for range 3 {
				f := newFrame(q.NextSequence(), 1000)
				f.Arrival = clock.wall() // which somebody steps
				require.NoError(t, put(q, f))
			}
		}
		dropped := func() uint64 {
			s := q.Stats()
			assert.True(t, s.Balanced())
			return s.Dropped[Expired].Frames
		}
		put3()
		clock.pass(40 * time.Minute)
		assert.Equal(t, 40*time.Minute, q.Stats().Oldest)
		clock.step(-24 * time.Hour)
		put3()
		clock.step(48 * time.Hour)
		put3()
		assert.Zero(t, dropped(), "steps make nobody older")
		_, err := q.Next(t.Context()) // in flight: not dropped any more
		require.NoError(t, err)
		clock.step(-24 * time.Hour)
		clock.pass(21 * time.Minute)
		assert.Equal(t, uint64(2), dropped(), "the first three are too old, one of them is in flight")
		clock.pass(30 * time.Minute)
		assert.Equal(t, uint64(2), dropped())
		clock.pass(10 * time.Minute)
		assert.Equal(t, uint64(8), dropped())
		assert.Equal(t, uint64(1), q.Stats().Pending.Frames)
	})
}

// Frames of a block that are too old are dropped one by one when it was read.
func TestAgeWithinBlock(t *testing.T) {
	clock := &manualClock{now: time.Unix(1e9, 0)}
	d := open(t, t.TempDir(), Options{MaxAge: time.Hour, clock: clock})
	for range 10 {
		require.NoError(t, put(d, newFrame(d.NextSequence(), 10)))
		clock.pass(10 * time.Minute)
	}
	assert.Zero(t, d.Stats().Dropped[Expired], "the block's last frame is young")
	f, err := d.Next(t.Context())
	require.NoError(t, err)
	assert.Equal(t, uint64(5), f.Sequence)
	assert.Equal(t, uint64(4), d.Stats().Dropped[Expired].Frames)
}

// Between two processes only the time of day goes on.
func TestAgeAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	clock := &manualClock{now: time.Unix(1e9, 0)}
	reopen := func() *Disk {
		clock.mono = 0
		d, err := Open(dir, Options{MaxAge: time.Hour, clock: clock})
		require.NoError(t, err)
		return d
	}
	d := reopen()
	require.NoError(t, put(d, newFrame(1, 10)))
	clock.pass(10 * time.Minute)
	require.NoError(t, d.Close())

	clock.step(-1000 * time.Hour) // somebody fixes the clock
	d = reopen()
	assert.Equal(t, 10*time.Minute, d.Stats().Oldest, "the queue's time does not go back")
	clock.pass(20 * time.Minute)
	assert.Equal(t, 30*time.Minute, d.Stats().Oldest)
	require.NoError(t, put(d, newFrame(2, 10)))
	require.NoError(t, d.Close())

	clock.step(1000*time.Hour + 25*time.Minute) // 55 minutes in all
	d = reopen()
	assert.Zero(t, d.Stats().Dropped[Expired])
	clock.pass(6 * time.Minute)
	assert.Equal(t, []uint64{2}, drain(t, d, true))
	s := d.Stats()
	assert.Equal(t, uint64(2), s.Recovered.Frames)
	assert.Equal(t, uint64(1), s.Dropped[Expired].Frames)
	require.NoError(t, d.Close())
}

// Expired frames leave the disk though nobody takes or appends any.
func TestAgeFreesDisk(t *testing.T) {
	d := open(t, t.TempDir(), Options{MaxBytes: 1 << 20, MaxAge: 500 * time.Millisecond})
	for range 60 {
		require.NoError(t, put(d, newFrame(d.NextSequence(), 10_000)))
	}
	require.Eventually(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.used <= 2*d.opts.SegmentBytes
	}, 30*time.Second, 10*time.Millisecond)
}

func TestValidate(t *testing.T) {
	require.NoError(t, Options{}.Validate())
	require.NoError(t, Options{MaxBytes: 64 << 10}.Validate())
	for text, o := range map[string]Options{
		"max bytes: 1 is less than 65536":                                    {MaxBytes: 1},
		"segment bytes: 1 is not between":                                    {SegmentBytes: 1},
		"segment bytes: 200000 is more than an eighth of max bytes, 1000000": {MaxBytes: 1e6, SegmentBytes: 2e5},
		"max frame bytes: -1 is not between":                                 {MaxFrameBytes: -1},
		"max frame bytes: 1000000 is more than max bytes leave room for":     {MaxBytes: 1e6, MaxFrameBytes: 1e6},
		"max age: -1s is negative":                                           {MaxAge: -time.Second},
		"cursor every: -1ns is negative":                                     {CursorEvery: -1},
		"full: 7 is not a policy":                                            {Full: 7},
		"sync: 7 is not a policy":                                            {Sync: 7},
	} {
		require.ErrorContains(t, o.Validate(), text)
		_, err := NewMemory(o)
		require.ErrorContains(t, err, text)
		_, err = Open(filepath.Join(t.TempDir(), "never made"), o)
		require.ErrorContains(t, err, text)
	}
}

func TestErrors(t *testing.T) {
	for err, want := range map[error]Class{
		syscall.ENOSPC: DiskFull, syscall.EDQUOT: DiskFull, syscall.EROFS: ReadOnly, syscall.EACCES: ReadOnly, syscall.EPERM: ReadOnly,
		syscall.EIO: IO, io.ErrShortWrite: IO,
	} {
		e := fault("/spool/x", "append", &os.PathError{Op: "write", Path: "/spool/x", Err: err})
		assert.Equal(t, want, e.Class)
		require.ErrorIs(t, e, err)
		assert.Equal(t, "spool /spool/x: "+want.String()+": append: "+err.Error()+"; "+classAdvice[want], e.Error())
	}
	_, ok := ClassOf(io.EOF)
	assert.False(t, ok)
	for c := range classes {
		assert.NotEmpty(t, Class(c).String())
		assert.NotEmpty(t, classAdvice[c])
	}
	for r := range reasons {
		assert.NotEmpty(t, Reason(r).String())
	}
}

// Many append, some consume, somebody looks: the accounts agree in every snapshot, and nothing is lost, doubled or starved.
func TestManyAtOnce(t *testing.T) {
	for name, full := range map[string]FullPolicy{"refuse": Refuse, "drop oldest": DropOldest, "drop newest": DropNewest} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, create func(*testing.T, Options) Queue) {
				q := create(t, Options{MaxBytes: 2 << 20, Full: full, Sync: SyncOS, FullWait: 200 * time.Millisecond, CursorEvery: time.Millisecond})
				manyAtOnce(t, q)
			})
		})
	}
}

func manyAtOnce(t *testing.T, q Queue) {
	t.Helper()
	const appenders, each, consumers = 32, 60, 3
	var next, appended, refused atomic.Uint64
	var appending, consuming sync.WaitGroup
	for range appenders {
		appending.Go(func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), 0))
			for range each {
				f := newFrame(next.Add(1), []int{rng.IntN(100), rng.IntN(5000), rng.IntN(60_000)}[rng.IntN(3)])
				switch err := put(q, f); {
				case err == nil:
					appended.Add(1)
				case errors.Is(err, ErrFull):
					refused.Add(1)
				default:
					assert.NoError(t, err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var seen sync.Map
	for range consumers {
		consuming.Go(func() {
			var held []uint64
			for {
				f, err := q.Next(ctx)
				if err != nil {
					assert.Equal(t, context.Canceled, err)
					break
				}
				if err := whole(f); err != nil {
					t.Error(err)
				}
				_, twice := seen.LoadOrStore(f.Sequence, true)
				assert.False(t, twice, "frame %d came twice", f.Sequence)
				if held = append(held, f.Sequence); len(held) == 10 {
					rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
					for _, sequence := range held {
						assert.True(t, q.Done(sequence, Outcome{Filtered: 1}))
					}
					held = held[:0]
				}
			}
			for _, sequence := range held {
				assert.True(t, q.Done(sequence, Outcome{}))
			}
		})
	}
	stop := make(chan struct{})
	samples := 0
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for {
			s := q.Stats()
			assert.True(t, s.Balanced(), "%+v", s)
			assert.LessOrEqual(t, s.InFlight.Frames, s.Pending.Frames)
			assert.LessOrEqual(t, s.Room, int64(2<<20))
			samples++
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Microsecond):
			}
		}
	})
	appending.Wait()
	require.Eventually(t, func() bool { s := q.Stats(); return s.Pending == s.InFlight }, 30*time.Second, time.Millisecond)
	cancel()
	consuming.Wait()
	close(stop)
	sampling.Wait()
	s := q.Stats()
	assert.True(t, s.Balanced())
	assert.Equal(t, appended.Load(), s.Accepted.Frames)
	assert.Equal(t, refused.Load(), s.Refused[Full].Frames)
	assert.Equal(t, uint64(appenders*each), appended.Load()+refused.Load())
	assert.Equal(t, s.Accepted.Frames-s.DroppedTotal().Frames, s.Done.Frames)
	assert.Zero(t, s.Pending)
	assert.Positive(t, samples)
	t.Logf("%d samples; accepted %d, refused %d, dropped %d", samples, s.Accepted.Frames, refused.Load(), s.DroppedTotal().Frames)
}
