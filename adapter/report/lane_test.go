package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

func TestBatchesByRecords(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{}
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: gathering(4)})
		// Frames are split over batches, and batches have parts of several frames.
		accept(t, p.Pipeline, texts("a", 10)...)
		accept(t, p.Pipeline, texts("b", 3)...)
		accept(t, p.Pipeline, texts("c", 3)...)
		s := p.settled(t, "fake")
		assert.Equal(t, []int{4, 4, 4, 4}, sink.sizes())
		assert.Equal(t, slices.Concat(texts("a", 10), texts("b", 3), texts("c", 3)), raws(sink.taken()))
		assert.Equal(t, spool.Tally{Frames: 3, Records: 16, Bytes: s.Accepted.Bytes}, s.Done)
		for i, r := range sink.taken()[:10] {
			assert.Equal(t, i, r.Index)
			assert.Equal(t, []any{record.KindNothing, "bookinfo", "mixer"}, []any{r.Kind, r.Handler, r.Caller})
			assert.WithinDuration(t, time.Now(), r.Arrived, time.Minute)
		}
	})
}

func TestBatchesByBytes(t *testing.T) {
	sink := &fakeSink{}
	b := gathering(1000)
	b.Bytes = 100
	p := start(t, 2*time.Minute, Lane{Sink: sink, Queue: memory(t), Batching: b})
	large := strings.Repeat("l", 150)
	accept(t, p.Pipeline, strings.Repeat("a", 60), strings.Repeat("b", 40), "c", large, "d")
	p.end(t)
	assert.Equal(t, []int{2, 1, 1, 1}, sink.sizes(), "a record larger than a batch is a batch of its own")
}

// The clock of a bubble stands still unless all wait, so waits can be told exactly.
func TestBatchesByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &fakeSink{}
		b := gathering(3)
		b.Wait = time.Second
		p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: b})
		began := time.Now()
		time.Sleep(2500 * time.Millisecond) // an idle timer must not shorten the first wait
		accept(t, p.Pipeline, "a")
		time.Sleep(700 * time.Millisecond)
		accept(t, p.Pipeline, "b")
		time.Sleep(200 * time.Millisecond)
		assert.Empty(t, sink.sizes())
		time.Sleep(200 * time.Millisecond)
		assert.Equal(t, []int{2}, sink.sizes())

		time.Sleep(600 * time.Millisecond) // 4.2 s
		accept(t, p.Pipeline, "c")
		time.Sleep(800 * time.Millisecond) // 5.0 s: what is left over of a split frame waits anew
		accept(t, p.Pipeline, texts("d", 3)...)
		time.Sleep(10 * time.Second)
		p.end(t)
		assert.Equal(t, []int{2, 3, 1}, sink.sizes())
		var offsets []time.Duration
		for _, at := range sink.at {
			offsets = append(offsets, at.Sub(began))
		}
		assert.Equal(t, []time.Duration{3500 * time.Millisecond, 5 * time.Second, 6 * time.Second}, offsets)
	})
}

func TestOrderAtConcurrencyOne(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		sink := &fakeSink{answer: func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt%3 == 1 {
				return errors.New("a fake fault")
			}
			return nil
		}}
		b := quick()
		b.Records = 7
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: b})
		var want []string
		for i := range 30 {
			call := texts(strconv.Itoa(i), i%5+1)
			accept(t, p.Pipeline, call...)
			want = append(want, call...)
		}
		p.settled(t, "fake")
		assert.Equal(t, want, raws(sink.taken()))
		assert.Equal(t, 1, sink.most)
	})
}

func TestConcurrency(t *testing.T) {
	together := make(chan struct{})
	var arrived atomic.Int32
	sink := &fakeSink{answer: func(ctx context.Context, _ int, _ []record.Record) error {
		if arrived.Add(1) == 3 {
			close(together)
		}
		select {
		case <-together:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	b := quick()
	b.Concurrency = 3
	p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: b})
	accept(t, p.Pipeline, texts("a", 12)...)
	s := p.settled(t, "fake")
	assert.Equal(t, 3, sink.most)
	assert.ElementsMatch(t, texts("a", 12), raws(sink.taken()))
	assert.EqualValues(t, 1, s.Done.Frames)
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &fakeSink{answer: func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt == 7 || attempt == 14 {
				return nil
			}
			return errors.New("a fake fault")
		}}
		b := quick()
		b.Backoff, b.MaxBackoff = time.Second, 8*time.Second
		p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: b})
		accept(t, p.Pipeline, "a")
		accept(t, p.Pipeline, "b")
		p.settled(t, "fake")
		require.Len(t, sink.at, 14)
		var pauses []time.Duration
		for i, at := range sink.at[1:] {
			pauses = append(pauses, at.Sub(sink.at[i]))
		}
		assert.Zero(t, pauses[6], "after a success there is no pause")
		for _, series := range [][]time.Duration{pauses[:6], pauses[7:]} {
			for i, pause := range series {
				usual := min(time.Second<<i, 8*time.Second)
				assert.InDelta(t, usual, pause, float64(usual/2)+1, "pause %d of %v", i, series)
			}
		}
		assert.NotEqual(t, pauses[:6], pauses[7:], "there is jitter")
	})
}

func TestThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &fakeSink{answer: func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt == 1 {
				return fmt.Errorf("the fake side: %w", Throttled(30*time.Second, errors.New("429")))
			}
			return nil
		}}
		p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: quick()})
		accept(t, p.Pipeline, "a")
		p.settled(t, "fake")
		assert.GreaterOrEqual(t, sink.at[1].Sub(sink.at[0]), 30*time.Second)
	})
}

func TestPermanent(t *testing.T) {
	cause := errors.New("the fake side dislikes it")
	for name, c := range map[string]struct {
		answer  error
		letters []int // of the six records
	}{
		"all":               {Permanent(cause), []int{0, 1, 2, 3, 4, 5}},
		"some":              {&Undelivered{Permanent: true, Records: []int{1, 4}, Err: cause}, []int{1, 4}},
		"some, named twice": {&Undelivered{Permanent: true, Records: []int{4, 4}, Err: cause}, []int{4}},
		"none":              {&Undelivered{Permanent: true, Records: []int{}, Err: cause}, nil},
		// An answer that makes no sense must not let a record vanish.
		"out of range": {&Undelivered{Permanent: true, Records: []int{2, 6}, Err: cause}, []int{0, 1, 2, 3, 4, 5}},
		"negative":     {&Undelivered{Permanent: true, Records: []int{-1}, Err: cause}, []int{0, 1, 2, 3, 4, 5}},
		"no cause":     {&Undelivered{Permanent: true}, []int{0, 1, 2, 3, 4, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			bothQueues(t, func(t *testing.T, q spool.Queue) {
				sink := &fakeSink{answer: func(_ context.Context, attempt int, _ []record.Record) error {
					if attempt == 1 {
						return c.answer
					}
					return nil
				}}
				letters := &fakeLetters{}
				p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: gathering(6), DeadLetters: letters})
				accept(t, p.Pipeline, texts("a", 2)...)
				accept(t, p.Pipeline, texts("b", 4)...)
				s := p.settled(t, "fake")
				all := slices.Concat(texts("a", 2), texts("b", 4))
				var want []string
				for _, i := range c.letters {
					want = append(want, all[i])
				}
				assert.ElementsMatch(t, want, raws(letters.letters()))
				assert.EqualValues(t, len(want), s.DeadLettered)
				assert.EqualValues(t, 6, s.Done.Records)
				assert.Equal(t, 1, sink.tried())
				if name == "some" {
					assert.Equal(t, []string{"a/0", "b/0", "b/1", "b/3"}, raws(sink.taken()))
					require.ErrorIs(t, letters.causes[0], cause)
				}
			})
		})
	}
}

func TestDeadLettersFail(t *testing.T) {
	for _, panics := range []bool{false, true} {
		t.Run(fmt.Sprintf("panics=%t", panics), func(t *testing.T) {
			var p *running
			bad := "a/1"
			sink := &fakeSink{answer: func(_ context.Context, _ int, batch []record.Record) error {
				if i := slices.IndexFunc(batch, func(r record.Record) bool { return r.Raw == bad }); i >= 0 {
					return &Undelivered{Permanent: true, Records: []int{i}, Err: errors.New("refused")}
				}
				return nil
			}}
			letters := &fakeLetters{fail: 3, panics: panics}
			p = start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: gathering(3), DeadLetters: letters})
			accept(t, p.Pipeline, texts("a", 3)...)
			s := p.settled(t, "fake")
			assert.Equal(t, []string{bad}, raws(letters.letters()))
			assert.EqualValues(t, 1, s.DeadLettered)
			assert.Equal(t, []string{"a/0", "a/2"}, raws(sink.taken()), "what was delivered is not delivered again")
			assert.Equal(t, 4, letters.tries)
		})
	}
}

func TestDeadLettersPendUntilKept(t *testing.T) {
	dir := t.TempDir()
	refuse := func(context.Context, int, []record.Record) error { return Permanent(errors.New("refused")) }
	letters := &fakeLetters{fail: 1 << 30}
	p := start(t, 0, Lane{Sink: &fakeSink{answer: refuse}, Queue: openQueue(t, dir, spool.Options{}), Batching: gathering(2), DeadLetters: letters})
	accept(t, p.Pipeline, "a", "b")
	require.Eventually(t, func() bool {
		letters.mu.Lock()
		defer letters.mu.Unlock()
		return letters.tries > 3
	}, 30*time.Second, time.Millisecond)
	assert.EqualValues(t, 2, p.stats().Pending.Records)
	p.end(t)

	letters = &fakeLetters{}
	p = start(t, 0, Lane{Sink: &fakeSink{answer: refuse}, Queue: openQueue(t, dir, spool.Options{}), Batching: gathering(2), DeadLetters: letters})
	assert.EqualValues(t, 2, p.settled(t, "fake").DeadLettered)
	assert.Equal(t, []string{"a", "b"}, raws(letters.letters()))
}

func TestGiveUpAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("the fake side is down")
		sink := &fakeSink{answer: func(_ context.Context, _ int, batch []record.Record) error {
			if batch[0].Raw == "bad" {
				return down
			}
			return nil
		}}
		letters := &fakeLetters{}
		b := quick()
		b.Backoff, b.MaxBackoff, b.GiveUpAfter = time.Second, 10*time.Second, time.Minute
		p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: b, DeadLetters: letters})
		accept(t, p.Pipeline, "bad", "good")
		s := p.settled(t, "fake")
		assert.Equal(t, []string{"bad"}, raws(letters.letters()))
		require.ErrorIs(t, letters.causes[0], down)
		require.ErrorContains(t, letters.causes[0], "given up after 1m0s")
		assert.Equal(t, []string{"good"}, raws(sink.taken()))
		assert.EqualValues(t, 1, s.DeadLettered)
		assert.InDelta(t, time.Minute, sink.at[len(sink.at)-1].Sub(sink.at[0]), float64(16*time.Second))
	})
}

// What was delivered of a batch is done with whatever becomes of the rest: it is not offered again, and no dead letter claims that it was not.
func TestPartlyDelivered(t *testing.T) {
	away := errors.New("a fake partition is away")
	for name, c := range map[string]struct {
		giveUp  time.Duration
		records []int // of the six that the first attempt does not deliver
		after   error // what the later ones say
		offered []string
		letters []string
	}{
		"then delivered":    {0, []int{1, 4}, nil, []string{"a/1", "b/2"}, nil},
		"then refused":      {0, []int{1, 4}, &Undelivered{Permanent: true, Records: []int{1}, Err: away}, []string{"a/1", "b/2"}, []string{"b/2"}},
		"then given up":     {time.Nanosecond, []int{1, 4}, away, nil, []string{"a/1", "b/2"}},
		"none is left":      {0, []int{}, nil, nil, nil},
		"makes no sense":    {0, []int{6}, nil, append(texts("a", 2), texts("b", 4)...), nil},
		"none is delivered": {0, nil, nil, append(texts("a", 2), texts("b", 4)...), nil},
	} {
		t.Run(name, func(t *testing.T) {
			bothQueues(t, func(t *testing.T, q spool.Queue) {
				var offered []record.Record
				sink := &fakeSink{answer: func(_ context.Context, attempt int, batch []record.Record) error {
					if attempt == 1 {
						return &Undelivered{Records: c.records, Err: away}
					}
					offered = slices.Clone(batch)
					return c.after
				}}
				letters := &fakeLetters{}
				b := gathering(6)
				b.GiveUpAfter = c.giveUp
				p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: b, DeadLetters: letters})
				accept(t, p.Pipeline, texts("a", 2)...)
				accept(t, p.Pipeline, texts("b", 4)...)
				s := p.settled(t, "fake")
				p.end(t)
				assert.Equal(t, c.offered, rawsOrNil(offered))
				assert.Equal(t, c.letters, rawsOrNil(letters.letters()))
				assert.EqualValues(t, len(c.letters), s.DeadLettered)
				assert.EqualValues(t, 6, s.Done.Records)
			})
		})
	}
}

// At the end too: what was delivered would come again otherwise.
func TestPartlyDeliveredAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	sink := &fakeSink{answer: func(ctx context.Context, _ int, _ []record.Record) error {
		<-ctx.Done()
		return &Undelivered{Records: []int{1}, Err: ctx.Err()}
	}}
	p := start(t, 0, Lane{Sink: sink, Queue: openQueue(t, dir, spool.Options{}), Batching: gathering(2)})
	accept(t, p.Pipeline, "a")
	accept(t, p.Pipeline, "b")
	require.Eventually(t, func() bool { return sink.tried() == 1 }, 30*time.Second, time.Millisecond)
	p.end(t)

	sink = &fakeSink{}
	p = start(t, 2*time.Minute, Lane{Sink: sink, Queue: openQueue(t, dir, spool.Options{}), Batching: gathering(2)})
	p.end(t)
	assert.Equal(t, []string{"b"}, raws(sink.taken()))
}

func TestSinkPanics(t *testing.T) {
	sink := &fakeSink{answer: func(_ context.Context, attempt int, _ []record.Record) error {
		if attempt < 3 {
			panic("a secret")
		}
		return nil
	}}
	var log strings.Builder
	p, err := NewPipeline([]Lane{{Name: "fake", Sink: sink, Queue: memory(t), Batching: quick(), DeadLetters: &fakeLetters{}}}, slog.New(slog.NewJSONHandler(&log, nil)))
	require.NoError(t, err)
	accept(t, p, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, p.Run(ctx, 2*time.Minute))
	assert.Equal(t, []string{"a"}, raws(sink.taken()))
	assert.Contains(t, log.String(), "the sink panicked: string")
	assert.NotContains(t, log.String(), "a secret")
}

func TestSinkHangsUntilTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &fakeSink{answer: func(ctx context.Context, attempt int, _ []record.Record) error {
			if attempt == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		b := quick()
		b.Timeout = 5 * time.Second
		p := start(t, 0, Lane{Sink: sink, Queue: memory(t), Batching: b})
		accept(t, p.Pipeline, "a")
		p.settled(t, "fake")
		assert.InDelta(t, 5*time.Second, sink.at[1].Sub(sink.at[0]), float64(10*time.Millisecond))
	})
}

func TestDeadSinkDelaysNoOther(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		dead := &fakeSink{answer: func(ctx context.Context, _ int, _ []record.Record) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		alive := &fakeSink{}
		p := start(t, 0, Lane{Name: "dead", Sink: dead, Queue: memory(t), Batching: quick()}, Lane{Name: "alive", Sink: alive, Queue: q, Batching: quick()})
		for i := range 20 {
			accept(t, p.Pipeline, texts(strconv.Itoa(i), 5)...)
		}
		assert.EqualValues(t, 100, p.settled(t, "alive").Done.Records)
		assert.EqualValues(t, 100, p.Stats()["dead"].Pending.Records)
		p.end(t)
		assert.EqualValues(t, 100, func() uint64 { s := p.Stats()["dead"]; d := s.DroppedTotal(); return d.Records }())
	})
}

func TestUnreadableFrame(t *testing.T) {
	bothQueues(t, func(t *testing.T, q spool.Queue) {
		payload := []byte("\x02 is how another version writes")
		r, err := q.Reserve(t.Context(), len(payload), 5)
		require.NoError(t, err)
		require.NoError(t, r.Append(spool.Frame{Sequence: q.NextSequence(), Arrival: time.Now(), Records: 5, Payload: payload}))

		sink, letters := &fakeSink{}, &fakeLetters{fail: 2}
		p := start(t, 0, Lane{Sink: sink, Queue: q, Batching: quick(), DeadLetters: letters})
		accept(t, p.Pipeline, "a")
		s := p.settled(t, "fake")
		assert.Equal(t, []string{"a"}, raws(sink.taken()))
		assert.EqualValues(t, 5, s.DeadLettered)
		assert.EqualValues(t, 6, s.Done.Records)
		require.Len(t, letters.letters(), 1)
		assert.Equal(t, string(payload), letters.letters()[0].Raw, "the frame is kept whole")
		assert.Zero(t, letters.letters()[0].Kind)
	})
}
