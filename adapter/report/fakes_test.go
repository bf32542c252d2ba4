package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSink keeps what it is given, or does what its answer says.
type fakeSink struct {
	// answer decides about an attempt, counted from 1; nil takes all.
	answer func(ctx context.Context, attempt int, batch []record.Record) error

	mu       sync.Mutex
	attempts int
	at       []time.Time
	batches  [][]record.Record // those that were taken
	under    int
	most     int // attempts at once
	closed   bool
}

func (f *fakeSink) Deliver(ctx context.Context, batch []record.Record) error {
	f.mu.Lock()
	f.attempts++
	attempt := f.attempts
	f.at = append(f.at, time.Now())
	f.under++
	f.most = max(f.most, f.under)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.under--
	}()
	var err error
	if f.answer != nil {
		err = f.answer(ctx, attempt, batch)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if u, ok := errors.AsType[*Undelivered](err); ok && u.Permanent && u.Records != nil {
		var taken []record.Record
		for i := range batch {
			if !slices.Contains(u.Records, i) {
				taken = append(taken, batch[i])
			}
		}
		f.batches = append(f.batches, taken)
	}
	if err == nil {
		f.batches = append(f.batches, slices.Clone(batch))
	}
	return err
}

func (f *fakeSink) Close(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *fakeSink) tried() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.attempts
}

// sizes returns how many records each batch has.
func (f *fakeSink) sizes() (sizes []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.batches {
		sizes = append(sizes, len(b))
	}
	return sizes
}

func (f *fakeSink) taken() []record.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Concat(f.batches...)
}

// fakeLetters keeps dead letters in memory, after failing as often as it is told.
type fakeLetters struct {
	mu     sync.Mutex
	fail   int
	panics bool
	tries  int
	kept   []record.Record
	causes []error
}

func (f *fakeLetters) Keep(records []record.Record, cause error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.tries <= f.fail {
		if f.panics {
			panic("a fake panic")
		}
		return errors.New("a fake disk is full")
	}
	f.kept = append(f.kept, records...)
	f.causes = append(f.causes, cause)
	return nil
}

func (*fakeLetters) Close() error { return nil }

func (f *fakeLetters) letters() []record.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.kept)
}

// quick is a batching of single records that tries again at once.
func quick() Batching {
	return Batching{
		Records: 1, Bytes: 1 << 20, Wait: 5 * time.Millisecond, Concurrency: 1, Timeout: 2 * time.Minute,
		Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond,
	}
}

// gathering is a batching of so many records, which nothing but shutdown sends early.
func gathering(records int) Batching {
	b := quick()
	b.Records, b.Wait = records, time.Hour
	return b
}

// queues makes both kinds of queue.
var queues = map[string]func(t *testing.T, o spool.Options) spool.Queue{
	"memory": func(t *testing.T, o spool.Options) spool.Queue {
		t.Helper()
		q, err := spool.NewMemory(o)
		require.NoError(t, err)
		return q
	},
	"disk": func(t *testing.T, o spool.Options) spool.Queue {
		t.Helper()
		return openQueue(t, t.TempDir(), o)
	},
}

func openQueue(t *testing.T, dir string, o spool.Options) spool.Queue {
	t.Helper()
	q, err := spool.Open(dir, o)
	require.NoError(t, err)
	return q
}

// bothQueues runs a test with each kind of queue.
func bothQueues(t *testing.T, test func(t *testing.T, q spool.Queue)) {
	for name, open := range queues {
		t.Run(name, func(t *testing.T) { test(t, open(t, spool.Options{})) })
	}
}

func memory(t *testing.T) spool.Queue {
	t.Helper()
	return queues["memory"](t, spool.Options{})
}

// running is a pipeline that runs.
type running struct {
	*Pipeline

	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, flush time.Duration, lanes ...Lane) *running {
	t.Helper()
	for i := range lanes {
		if lanes[i].Name == "" {
			lanes[i].Name = "fake"
		}
		if lanes[i].DeadLetters == nil {
			lanes[i].DeadLetters = &fakeLetters{}
		}
	}
	p, err := NewPipeline(lanes, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	for _, lane := range p.lanes {
		lane.patience = 2 * time.Minute // sinks here do stop, however slow the machine is
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{Pipeline: p, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- p.Run(ctx, flush) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the pipeline and checks the accounts.
func (r *running) end(t *testing.T) {
	t.Helper()
	if r.done == nil {
		return
	}
	r.stop()
	select {
	case err := <-r.done:
		require.NoError(t, err)
	case <-time.After(5 * time.Minute):
		t.Fatal("Run does not end")
	}
	r.done = nil
	for name, s := range r.Stats() {
		assert.True(t, s.Balanced(), "%s: %+v", name, s)
	}
}

func (r *running) stats() spool.Stats { return r.Stats()["fake"] }

// settled waits until nothing of the sink is pending.
func (r *running) settled(t *testing.T, sink string) spool.Stats {
	t.Helper()
	require.Eventually(t, func() bool { return r.Stats()[sink].Pending.Frames == 0 }, 5*time.Minute, time.Millisecond)
	return r.Stats()[sink]
}

// texts makes n instances that tell themselves apart.
func texts(prefix string, n int) []string {
	instances := make([]string, n)
	for i := range instances {
		instances[i] = fmt.Sprintf("%s/%d", prefix, i)
	}
	return instances
}

func accept(t *testing.T, p *Pipeline, instances ...string) {
	t.Helper()
	require.NoError(t, p.Accept(t.Context(), call(instances...)))
}

func call(instances ...string) *Call {
	return &Call{Kind: record.KindNothing, Handler: "bookinfo", Caller: "mixer", Instances: instances}
}

func raws(records []record.Record) []string {
	texts := make([]string, len(records))
	for i := range records {
		texts[i] = records[i].Raw
	}
	return texts
}

func rawsOrNil(records []record.Record) []string {
	if len(records) == 0 {
		return nil
	}
	return raws(records)
}

func ids(records []record.Record) []string {
	texts := make([]string, len(records))
	for i := range records {
		texts[i] = records[i].ID()
	}
	return texts
}
