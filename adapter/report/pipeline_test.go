package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

func TestNewPipelineRefuses(t *testing.T) {
	good := func() Lane {
		return Lane{Name: "fake", Sink: &fakeSink{}, Queue: memory(t), Batching: quick(), DeadLetters: &fakeLetters{}}
	}
	for want, spoil := range map[string]func(l *Lane){
		"a lane needs a sink":       func(l *Lane) { l.Sink = nil },
		"a queue and a place":       func(l *Lane) { l.Queue = nil },
		"for dead letters":          func(l *Lane) { l.DeadLetters = nil },
		"batch.records is 0":        func(l *Lane) { l.Batching.Records = 0 },
		"concurrency is 0":          func(l *Lane) { l.Batching.Concurrency = 0 },
		"batch.wait is 0s":          func(l *Lane) { l.Batching.Wait = 0 },
		"backoff.max is 1ns":        func(l *Lane) { l.Batching.MaxBackoff = 1 },
		"give_up_after is -1ns":     func(l *Lane) { l.Batching.GiveUpAfter = -1 },
		`two sinks are named "two"`: func(l *Lane) { l.Name = "two" },
	} {
		l, other := good(), good()
		other.Name = "two"
		spoil(&l)
		_, err := NewPipeline([]Lane{other, l}, slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, want)
	}
	_, err := NewPipeline(nil, slog.New(slog.DiscardHandler))
	assert.ErrorContains(t, err, "no sink is configured")
}

func TestFullQueueRefusesForAll(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		stuck := &fakeSink{answer: func(ctx context.Context, _ int, _ []record.Record) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		small, err := spool.NewMemory(spool.Options{MaxBytes: 64 << 10, FullWait: -1})
		require.NoError(t, err)
		p := start(t, 0,
			Lane{Name: "roomy", Sink: &fakeSink{}, Queue: q, Batching: quick()},
			Lane{Name: "small", Sink: stuck, Queue: small, Batching: quick()})
		var accepted uint64
		for {
			if err = p.Accept(t.Context(), call(string(make([]byte, 10<<10)))); err != nil {
				break
			}
			accepted++
		}
		class, ok := spool.ClassOf(err)
		assert.True(t, ok && class == spool.Full, "%v", err)
		assert.Positive(t, accepted)
		p.settled(t, "roomy")
		stats := p.Stats()
		assert.Equal(t, accepted, stats["roomy"].Accepted.Frames)
		assert.Equal(t, accepted, stats["small"].Accepted.Frames)
		assert.EqualValues(t, 1, stats["small"].Refused[spool.Full].Frames)
	})
}

func TestAcceptNothing(t *testing.T) {
	p := start(t, 0, Lane{Sink: &fakeSink{}, Queue: memory(t), Batching: quick()})
	accept(t, p.Pipeline)
	assert.Zero(t, p.stats().Accepted)
}

// The sum holds at every sample, whatever becomes of the records.
func TestAccountingUnderConcurrency(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{answer: func(_ context.Context, _ int, batch []record.Record) error {
			switch rand.IntN(5) {
			case 0:
				return errors.New("a fake fault")
			case 1:
				return &Undelivered{Permanent: true, Records: []int{rand.IntN(len(batch))}, Err: errors.New("refused")}
			case 2:
				return Permanent(errors.New("refused"))
			default:
				return nil
			}
		}}
		letters := &fakeLetters{}
		b := quick()
		b.Records, b.Concurrency = 9, 4
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: b, DeadLetters: letters})
		stop := make(chan struct{})
		var sampling, calling sync.WaitGroup
		sampling.Go(func() {
			for {
				if s := p.stats(); !s.Balanced() {
					t.Errorf("%+v", s)
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(200 * time.Microsecond):
				}
			}
		})
		const callers, calls = 4, 40
		var want []string
		for c := range callers {
			for i := range calls {
				want = append(want, texts(fmt.Sprintf("%d-%d", c, i), i%7+1)...)
			}
			calling.Go(func() {
				for i := range calls {
					assert.NoError(t, p.Accept(t.Context(), call(texts(fmt.Sprintf("%d-%d", c, i), i%7+1)...)))
				}
			})
		}
		calling.Wait()
		s := p.settled(t, "fake")
		close(stop)
		sampling.Wait()
		assert.EqualValues(t, callers*calls, s.Done.Frames)
		assert.EqualValues(t, len(letters.letters()), s.DeadLettered)
		got := slices.Concat(sink.taken(), letters.letters())
		assert.ElementsMatch(t, want, raws(got), "every record is delivered or a dead letter, once")
		all := ids(got)
		slices.Sort(all)
		assert.Len(t, slices.Compact(all), len(want), "no id is given twice")
	})
}

func TestShutdownFlushes(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{}
		p := start(t, 2*time.Minute, Lane{Sink: sink, Queue: q, Batching: gathering(1000)})
		for i := range 10 {
			accept(t, p.Pipeline, texts(strconv.Itoa(i), 3)...)
		}
		assert.Empty(t, sink.taken())
		began := time.Now()
		p.end(t)
		assert.Less(t, time.Since(began), time.Minute, "Run ends when nothing is pending")
		assert.Len(t, sink.taken(), 30)
		assert.True(t, sink.closed)
	})
}

func TestRunWithEndedContext(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		for _, flush := range []time.Duration{2 * time.Minute, 0} {
			if flush == 0 {
				q = openQueue(t, t.TempDir(), spool.Options{})
			}
			sink := &fakeSink{}
			p, err := NewPipeline([]Lane{{Name: "fake", Sink: sink, Queue: q, Batching: gathering(1000), DeadLetters: &fakeLetters{}}}, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			accept(t, p, "a")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.NoError(t, p.Run(ctx, flush))
			if flush > 0 {
				assert.Equal(t, []string{"a"}, raws(sink.taken()))
			}
			assert.True(t, sink.closed)
		}
	})
}

// What a dead sink left on the disk is delivered by the next process, each record under the id that it had.
func TestRestartDelivers(t *testing.T) {
	dir := t.TempDir()
	down := func(attempt int) error {
		if attempt > 2 {
			return errors.New("a fake fault")
		}
		return nil
	}
	first := &fakeSink{}
	var seen []record.Record // all that the first sink was ever shown
	var mu sync.Mutex
	first.answer = func(_ context.Context, attempt int, batch []record.Record) error {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, batch...)
		return down(attempt)
	}
	b := quick()
	b.Records = 5
	p := start(t, 50*time.Millisecond, Lane{Sink: first, Queue: openQueue(t, dir, spool.Options{}), Batching: b})
	var want []string
	for i := range 20 {
		accept(t, p.Pipeline, texts(strconv.Itoa(i), 3)...)
		want = append(want, texts(strconv.Itoa(i), 3)...)
	}
	require.Eventually(t, func() bool { return first.tried() > 3 }, 30*time.Second, time.Millisecond)
	p.end(t)

	second := &fakeSink{}
	q := openQueue(t, dir, spool.Options{})
	p = start(t, time.Minute, Lane{Sink: second, Queue: q, Batching: b})
	accept(t, p.Pipeline, "new")
	p.end(t)
	got := slices.Concat(first.taken(), second.taken())
	byText := map[string]string{}
	for _, r := range slices.Concat(seen, got) {
		if id, ok := byText[r.Raw]; ok {
			assert.Equal(t, id, r.ID(), "%s comes again under another id", r.Raw)
		}
		byText[r.Raw] = r.ID()
	}
	for _, text := range append(want, "new") {
		assert.Contains(t, raws(got), text)
	}
	unique := map[string]bool{}
	for _, id := range byText {
		unique[id] = true
	}
	assert.Len(t, unique, 61)
	s := p.stats()
	assert.Zero(t, s.Pending)
	assert.Positive(t, s.Recovered.Records)
}

// A permanent answer counts even if it comes when the lane is being cut off: what was delivered would otherwise be counted as
// dropped, or come again.
func TestPermanentAtTheEnd(t *testing.T) {
	sink := &fakeSink{answer: func(ctx context.Context, _ int, _ []record.Record) error {
		<-ctx.Done()
		return &Undelivered{Permanent: true, Records: []int{1}, Err: errors.New("refused")}
	}}
	letters := &fakeLetters{}
	p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: gathering(3), DeadLetters: letters})
	accept(t, p.Pipeline, texts("a", 3)...)
	require.Eventually(t, func() bool { return sink.tried() == 1 }, 30*time.Second, time.Millisecond)
	p.end(t)
	s := p.stats()
	assert.Equal(t, []string{"a/1"}, raws(letters.letters()))
	assert.EqualValues(t, 3, s.Done.Records)
	assert.Zero(t, s.DroppedTotal())
}

// A sink that breaks its promise and never comes back must not keep the others from closing.
func TestSinkThatNeverStops(t *testing.T) {
	let := make(chan struct{})
	stubborn := &fakeSink{answer: func(context.Context, int, []record.Record) error {
		<-let
		return nil
	}}
	decent := &fakeSink{}
	dir := t.TempDir()
	q := openQueue(t, dir, spool.Options{})
	lanes := []Lane{
		{Name: "stubborn", Sink: stubborn, Queue: q, Batching: quick(), DeadLetters: &fakeLetters{}},
		{Name: "decent", Sink: decent, Queue: memory(t), Batching: quick(), DeadLetters: &fakeLetters{}},
	}
	p, err := NewPipeline(lanes, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	p.lanes["stubborn"].patience, p.lanes["decent"].patience = 50*time.Millisecond, 2*time.Minute
	accept(t, p, "a")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, time.Millisecond) }()
	require.Eventually(t, func() bool { return stubborn.tried() == 1 && len(decent.taken()) == 1 }, 30*time.Second, time.Millisecond)
	cancel()
	select {
	case err = <-done:
	case <-time.After(5 * time.Minute):
		t.Fatal("Run does not end")
	}
	require.ErrorContains(t, err, `sink "stubborn" does not stop`)
	assert.True(t, decent.closed)
	assert.False(t, stubborn.closed)
	close(let)
	<-p.lanes["stubborn"].ended
	q = openQueue(t, dir, spool.Options{})
	assert.EqualValues(t, 1, q.Stats().Pending.Records, "its queue was closed and kept what it had")
	require.NoError(t, q.Close())
}

func TestAcceptAroundShutdown(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{}
		b := quick()
		b.Records = 3
		p := start(t, 100*time.Millisecond, Lane{Sink: sink, Queue: q, Batching: b})
		var calling sync.WaitGroup
		var accepted [4]uint64
		for c := range accepted {
			calling.Go(func() {
				for {
					err := p.Accept(context.Background(), call("a", "b"))
					if err != nil {
						class, ok := spool.ClassOf(err)
						assert.True(t, ok && class == spool.Closed, "%v", err)
						return
					}
					accepted[c]++
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		p.end(t)
		calling.Wait()
		s := p.stats()
		assert.True(t, s.Balanced(), "%+v", s)
		var total uint64
		for _, n := range accepted {
			total += n
		}
		assert.Equal(t, total, s.Accepted.Frames, "what was acknowledged is in the accounts")
		require.ErrorIs(t, p.Accept(t.Context(), call("late")), spool.ErrClosed)
	})
}

// Ids must not repeat over queues that know different pasts.
func TestSequencesBeginBehindAll(t *testing.T) {
	dir := t.TempDir()
	old := openQueue(t, dir, spool.Options{})
	p := start(t, time.Minute, Lane{Sink: &fakeSink{}, Queue: old, Batching: quick()})
	for range 10 {
		accept(t, p.Pipeline, "a")
	}
	p.end(t)
	old = openQueue(t, dir, spool.Options{})
	next := old.NextSequence()
	assert.Greater(t, next, uint64(10))
	sink := &fakeSink{}
	p = start(t, time.Minute, Lane{Name: "new", Sink: &fakeSink{}, Queue: memory(t), Batching: quick()}, Lane{Name: "old", Sink: sink, Queue: old, Batching: quick()})
	accept(t, p.Pipeline, "b")
	p.end(t)
	require.Len(t, sink.taken(), 1)
	assert.Equal(t, next, sink.taken()[0].Sequence)
}
