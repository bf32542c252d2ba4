package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	filesink "github.com/tollgate-mesh/tollgate/adapter/report/sink/file"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

func through(t *testing.T, sink report.Sink, dir string) Replay {
	t.Helper()
	letters, err := OpenDeadLetters(dir, "kafka")
	require.NoError(t, err)
	return Replay{Name: "kafka", Sink: sink, DeadLetters: letters, Batching: quick(), Logger: slog.New(slog.DiscardHandler)}
}

// throughFile is a replay through the real file sink, and the function that reads the ids of decisions in its file.
func throughFile(t *testing.T, dir string) (Replay, func() []string) {
	t.Helper()
	path := filepath.Join(dir, "out.jsonl")
	sink, err := filesink.New(path, jsonlines.Rotation{})
	require.NoError(t, err)
	return through(t, sink, filepath.Join(dir, "dead-letters")), func() (ids []string) {
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		require.NoError(t, err)
		for line := range strings.Lines(string(content)) {
			var r struct {
				ID string `json:"decision_id"`
			}
			require.NoError(t, json.Unmarshal([]byte(line), &r))
			ids = append(ids, r.ID)
		}
		return ids
	}
}

func TestReplayQueue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	queue := filepath.Join(dir, "kafka")
	fill(t, queue, 1, decisions(1, 1), decisions(2, 3), frame(3, 2, payload(record.KindMetric, "h", nil, "\xff", "\xff")), decisions(4, 2), frame(5, 3, []byte("\x02")))
	replay, delivered := throughFile(t, dir)
	o, err := replay.Queue(t.Context(), queue)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 5, Refused: 5}, o)
	assert.Equal(t, []string{"2.0", "2.1", "2.2", "4.0", "4.1"}, delivered())
	letters := survey(t, filepath.Join(dir, "dead-letters")).Letters
	require.Len(t, letters, 1)
	assert.Equal(t, filepath.Join(dir, "dead-letters", "kafka.replay.jsonl"), letters[0].Path, "not the file that an adapter writes")
	assert.EqualValues(t, 3, letters[0].Letters, "a frame is one")

	replay, delivered = throughFile(t, dir)
	o, err = replay.Queue(t.Context(), queue)
	require.NoError(t, err)
	assert.Zero(t, o, "what was delivered is not delivered again")
	assert.Len(t, delivered(), 5)
	assert.Zero(t, survey(t, queue).Queues[0].Pending)
}

func TestReplayQueueInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0, decisions(1, 1))
	release := holdInProcess(t, dir)
	sink := &fakeSink{}
	_, err := through(t, sink, t.TempDir()).Queue(t.Context(), dir)
	class, ok := spool.ClassOf(err)
	require.True(t, ok, err)
	assert.Equal(t, spool.Locked, class)
	assert.True(t, sink.closed)
	assert.Empty(t, sink.taken)
	release()
	_, err = through(t, sink, t.TempDir()).Queue(t.Context(), dir)
	require.NoError(t, err)
	assert.Len(t, sink.taken, 1)
}

func TestReplayQueueWithWrongBatching(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0, decisions(1, 1))
	sink := &fakeSink{}
	replay := through(t, sink, t.TempDir())
	replay.Batching.Records = 0
	_, err := replay.Queue(t.Context(), dir)
	require.ErrorContains(t, err, "batch.records is 0")
	assert.True(t, sink.closed)
	// A process that another test starts at this moment holds the lock too, until it has become that process.
	assert.Eventually(t, func() bool { return !survey(t, dir).Queues[0].InUse }, 30*time.Second, time.Millisecond, "the lock is given back")
}

// interruptedAfter cuts a replay off while the batch after so many is under way.
func interruptedAfter(batches int, interrupt func()) *fakeSink {
	return &fakeSink{answer: func(ctx context.Context, attempt int, _ []record.Record) error {
		if attempt <= batches {
			return nil
		}
		interrupt()
		<-ctx.Done()
		return ctx.Err()
	}}
}

func TestReplayQueueInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir, 0, decisions(1, 2), decisions(2, 2), decisions(3, 2), decisions(4, 2))
	ctx, interrupt := context.WithCancel(t.Context())
	first := interruptedAfter(2, interrupt)
	o, err := through(t, first, t.TempDir()).Queue(ctx, dir)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 4, Left: 4}, o)
	second := &fakeSink{}
	o, err = through(t, second, t.TempDir()).Queue(t.Context(), dir)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 4}, o)
	assert.Len(t, append(first.ids(), second.ids()...), 8)
	assert.Equal(t, record.Record{Spool: origin, Sequence: 3}, record.Record{Spool: second.taken[0].Spool, Sequence: second.taken[0].Sequence}, "ids are kept")
}

// lettersIn makes a directory with dead letters of so many records, in a rotated file.
func lettersIn(t *testing.T, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var all []record.Record
	for i := range n {
		all = append(all, single(1, i))
	}
	write(t, filepath.Join(dir, rotated), letterLines(t, "kafka", "refused", all...))
	return dir
}

func (r Replay) directory(ctx context.Context, t *testing.T, dir string, includeCurrent bool) (Outcome, error) {
	t.Helper()
	files, _, err := find(t, dir).Replayable("kafka", includeCurrent)
	require.NoError(t, err)
	return r.Letters(ctx, files)
}

func TestReplayLetters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead-letters")
	bad := record.Record{Spool: origin, Sequence: 9, Kind: record.KindMetric, Raw: "\xff"}
	lines := letterLines(t, "kafka", "refused", single(1, 0), single(1, 1), bad, single(1, 3), record.Record{Sequence: 2, Raw: string(decisions(2, 3).Payload)})
	other := letterLines(t, "kafka", "refused", record.Record{Spool: origin, Raw: "of a kind that is not known"}, record.Record{Raw: "\x02"})
	write(t, filepath.Join(dead, rotated), lines+"garbage\n"+other)
	write(t, filepath.Join(dead, "kafka.jsonl"), letterLines(t, "kafka", "refused", single(4, 0))+"{half")
	write(t, filepath.Join(dead, "otlp-2026-11-21T12-00-00.000-size.jsonl"), letterLines(t, "otlp", "refused", single(5, 0)))

	replay, delivered := throughFile(t, dir)
	o, err := replay.directory(t.Context(), t, dead, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 6, Refused: 1, Unreadable: 3}, o)
	assert.Equal(t, []string{"1.0", "1.1", "1.3", "2.0", "2.1", "2.2"}, delivered())
	assert.Equal(t, "garbage\n"+other, read(t, filepath.Join(dead, rotated+".unreadable")), "as it was")
	assert.Equal(t, lines+"garbage\n"+other, read(t, filepath.Join(dead, rotated+".replayed")))
	assert.NoFileExists(t, filepath.Join(dead, rotated))
	assert.NoFileExists(t, filepath.Join(dead, rotated+".progress"))
	letter, err := deadletter.Parse([]byte(read(t, filepath.Join(dead, "kafka.replay.jsonl"))))
	require.NoError(t, err)
	assert.Equal(t, bad.ID(), letter.Record.ID())

	replay, delivered = throughFile(t, dir)
	o, err = replay.directory(t.Context(), t, dead, false)
	require.NoError(t, err)
	assert.Zero(t, o)
	assert.Len(t, delivered(), 6, "what was delivered is not delivered again")

	// The current ones are rotated first, those that the first replay made too.
	replay, delivered = throughFile(t, dir)
	o, err = replay.directory(t.Context(), t, dead, true)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 1, Refused: 1}, o)
	assert.Equal(t, "4.0", delivered()[6])
	assert.NoFileExists(t, filepath.Join(dead, "kafka.jsonl"))
	assert.FileExists(t, filepath.Join(dead, "kafka.replay.jsonl"), "for what was refused once more")
	assert.FileExists(t, filepath.Join(dead, "otlp-2026-11-21T12-00-00.000-size.jsonl"), "another sink's")
}

func TestReplayLettersKeepsTheirDelivery(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := single(1, 0)
	want.Delivery = &record.Delivery{SampleOneIn: 7, Metrics: []record.MetricRule{{Instance: "i", Kind: record.MetricGauge}}}
	write(t, filepath.Join(dir, rotated), letterLines(t, "kafka", "refused", want))
	sink := &fakeSink{}
	_, err := through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, []record.Record{want}, sink.taken)
}

func TestReplayLettersInterrupted(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 7)
	write(t, filepath.Join(dir, "kafka-2026-11-22T12-00-00.000-size.jsonl"), letterLines(t, "kafka", "refused", single(2, 0)))
	ctx, interrupt := context.WithCancel(t.Context())
	first := interruptedAfter(2, interrupt)
	o, err := through(t, first, dir).directory(ctx, t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 4, Left: 4}, o)
	s := survey(t, dir).Letters
	assert.Equal(t, []uint64{7, 4, 1, 0}, []uint64{s[0].Letters, s[0].Replayed, s[1].Letters, s[1].Replayed})
	ids, _, err := exported(t, dir, false)
	require.NoError(t, err)
	assert.Len(t, ids, 4, "only what is left")

	second := &fakeSink{}
	o, err = through(t, second, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 4}, o)
	var want []string
	for i := range 7 {
		r := single(1, i)
		want = append(want, r.ID())
	}
	last := single(2, 0)
	assert.Equal(t, append(want, last.ID()), append(first.ids(), second.ids()...), "each once")
}

// A letter that is a whole frame counts for the records in it, if they are left too.
func TestReplayLettersInterruptedBeforeAFrame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, rotated), letterLines(t, "kafka", "refused", single(1, 0), single(1, 1), record.Record{Sequence: 2, Raw: string(decisions(2, 3).Payload)}))
	ctx, interrupt := context.WithCancel(t.Context())
	o, err := through(t, interruptedAfter(0, interrupt), dir).directory(ctx, t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Left: 5}, o)
}

// An interruption between batches leaves what is no letter alone too.
func TestReplayLettersInterruptedBetween(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := letterLines(t, "kafka", "refused", single(1, 0), single(1, 1))
	write(t, filepath.Join(dir, rotated), before+"garbage\n"+letterLines(t, "kafka", "refused", single(1, 2))+"garbage\n")
	ctx, interrupt := context.WithCancel(t.Context())
	sink := &fakeSink{answer: func(context.Context, int, []record.Record) error {
		interrupt()
		return nil
	}}
	o, err := through(t, sink, dir).directory(ctx, t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 2, Left: 3}, o)
	// A batch of nothing but what is no letter does not jump over what is left.
	again := files(t, dir)
	cut, cancel := context.WithCancel(t.Context())
	small := through(t, interruptedAfter(0, cancel), dir)
	small.Batching.Bytes = 1
	write(t, filepath.Join(dir, rotated), before+letterLines(t, "kafka", "refused", single(1, 2))+"garbage\n")
	o, err = small.directory(cut, t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Left: 2}, o)
	write(t, filepath.Join(dir, rotated), again[rotated])
	assert.Equal(t, again, files(t, dir))

	o, err = through(t, sink, dir).directory(ctx, t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Left: 3}, o)
	assert.Equal(t, again, files(t, dir), "nothing is done when it is over before it begins")
	o, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 1, Unreadable: 2}, o)
}

// Progress is that of one content; of another nothing may be skipped.
func TestReplayLettersWithForeignProgress(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 7)
	ctx, interrupt := context.WithCancel(t.Context())
	_, err := through(t, interruptedAfter(2, interrupt), dir).directory(ctx, t, dir, false)
	require.NoError(t, err)
	path := filepath.Join(dir, rotated)
	whole := read(t, path)
	sink := &fakeSink{}
	for name, content := range map[string]string{
		"changed":   strings.Replace(whole, `"kafka"`, `"kafkb"`, 1),
		"shorter":   whole[:strings.Index(whole, "\n")+1],
		"one line":  strings.ReplaceAll(whole, "\n", " ") + "\n",
		"no letter": "",
	} {
		write(t, path, content)
		_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
		require.ErrorContains(t, err, rotated+".progress is of another file", name)
		assert.Equal(t, content, read(t, path))
	}
	write(t, path+".progress", "spoilt")
	_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.ErrorContains(t, err, "cannot be read; remove it to begin anew")
	assert.Empty(t, sink.taken)
	require.NoError(t, os.Remove(path+".progress"))
	write(t, path, whole)
	_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Len(t, sink.taken, 7)
}

func TestReplayLettersTriesAgain(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		answer func(ctx context.Context, attempt int, batch []record.Record) error
		want   Outcome
	}{
		"retryable": {func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt < 4 {
				return errors.New("away")
			}
			return nil
		}, Outcome{Delivered: 2}},
		"one away": {func(_ context.Context, attempt int, batch []record.Record) error {
			switch {
			case attempt == 1:
				return &report.Undelivered{Records: []int{1}, Err: errors.New("away")}
			case len(batch) != 1 || batch[0].Index != 1:
				return report.Permanent(errors.New("the other was delivered"))
			}
			return nil
		}, Outcome{Delivered: 2}},
		"throttled": {func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt < 3 {
				return report.Throttled(1, errors.New("slowly"))
			}
			return nil
		}, Outcome{Delivered: 2}},
		"panic": {func(_ context.Context, attempt int, _ []record.Record) error {
			if attempt < 3 {
				panic("at the sink")
			}
			return nil
		}, Outcome{Delivered: 2}},
		"timeout": {func(ctx context.Context, attempt int, _ []record.Record) error {
			if attempt > 1 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}, Outcome{Delivered: 2}},
		"refused": {func(context.Context, int, []record.Record) error { return report.Permanent(refused) }, Outcome{Refused: 2}},
		"one refused": {func(context.Context, int, []record.Record) error {
			return &report.Undelivered{Permanent: true, Records: []int{1}, Err: refused}
		}, Outcome{Delivered: 1, Refused: 1}},
		"none refused": {func(context.Context, int, []record.Record) error {
			return &report.Undelivered{Permanent: true, Records: []int{}}
		}, Outcome{Delivered: 2}},
		"one not of it": {func(context.Context, int, []record.Record) error {
			return &report.Undelivered{Permanent: true, Records: []int{2}}
		}, Outcome{Refused: 2}},
		"one below all": {func(context.Context, int, []record.Record) error {
			return &report.Undelivered{Permanent: true, Records: []int{-1}}
		}, Outcome{Refused: 2}},
		"refused, no reason": {func(context.Context, int, []record.Record) error { return &report.Undelivered{Permanent: true} }, Outcome{Refused: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := lettersIn(t, 2)
			replay := through(t, &fakeSink{answer: c.answer}, dir)
			if name == "timeout" {
				replay.Batching.Timeout = 1
			}
			o, err := replay.directory(t.Context(), t, dir, false)
			require.NoError(t, err)
			assert.Equal(t, c.want, o)
			assert.FileExists(t, filepath.Join(dir, rotated+".replayed"))
			if c.want.Refused > 0 {
				kept := read(t, filepath.Join(dir, "kafka.replay.jsonl"))
				assert.EqualValues(t, c.want.Refused, strings.Count(kept, "\n"))
				last := single(1, 1)
				assert.Contains(t, kept, last.ID(), "the one that was refused")
			}
		})
	}
}

// fakeLetters keeps nothing for so many attempts.
type fakeLetters struct {
	report.DeadLetters

	failures int
}

func (f *fakeLetters) Keep(records []record.Record, cause error) error {
	if f.failures--; f.failures >= 0 {
		return errors.New("no space left on device")
	}
	return f.DeadLetters.Keep(records, cause)
}

func TestReplayLettersWaitsForRoomForDeadLetters(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 2)
	sink := &fakeSink{answer: func(_ context.Context, _ int, batch []record.Record) error {
		if len(batch) == 2 {
			return &report.Undelivered{Permanent: true, Records: []int{0}, Err: errors.New("refused")}
		}
		return report.Permanent(errors.New("refused"))
	}}
	replay := through(t, sink, dir)
	replay.DeadLetters = &fakeLetters{DeadLetters: replay.DeadLetters, failures: 2}
	o, err := replay.directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 1, Refused: 1}, o)
	assert.Equal(t, 3, sink.attempts, "the other one is not delivered again")
}

func TestReplayLettersOfKindsThatTheSinkTakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, rotated), letterLines(t, "kafka", "refused", single(1, 0), record.Record{Spool: origin, Kind: record.KindEdge}, record.Record{Spool: origin, Kind: record.KindEdge}))
	sink := &choosyFakeSink{}
	replay := through(t, sink, dir)
	o, err := replay.directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 1, Filtered: 2}, o)
	assert.Equal(t, 1, sink.attempts, "a batch without any is not delivered")
}

func TestReplayLettersExcludesAnother(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 1)
	lock, err := spool.LockFile(filepath.Join(dir, "replay.lock"))
	require.NoError(t, err)
	sink := &fakeSink{}
	_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	class, _ := spool.ClassOf(err)
	assert.Equal(t, spool.Locked, class)
	assert.True(t, sink.closed)
	assert.Empty(t, sink.taken)
	require.NoError(t, lock.Close())
	_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
}

func TestReplayLettersOverwritesNothing(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 1)
	write(t, filepath.Join(dir, rotated+".replayed"), "somebody's")
	sink := &fakeSink{}
	for range 2 {
		_, err := through(t, sink, dir).directory(t.Context(), t, dir, false)
		require.ErrorContains(t, err, rotated+".replayed exists")
	}
	assert.Len(t, sink.taken, 1, "all the same it is delivered once")
	require.NoError(t, os.Remove(filepath.Join(dir, rotated+".replayed")))
	_, err := through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.NoError(t, err)
	assert.Len(t, sink.taken, 1)
}

// Files that the rotation removes meanwhile end nothing.
func TestReplayLettersThatAreRemoved(t *testing.T) {
	t.Parallel()
	dir := lettersIn(t, 1)
	path := filepath.Join(dir, rotated)
	sink := &fakeSink{answer: func(context.Context, int, []record.Record) error { return os.Remove(path) }}
	gone := File{Sink: "kafka", Path: filepath.Join(dir, "gone.jsonl"), State: Current}
	o, err := through(t, sink, dir).Letters(t.Context(), []File{gone, {Sink: "kafka", Path: path, State: Rotated}})
	require.NoError(t, err)
	assert.Equal(t, Outcome{Delivered: 1}, o)
}

func TestReplayLettersWithLongLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, rotated)
	write(t, path, letterLines(t, "kafka", "refused", single(1, 0)))
	require.NoError(t, os.Truncate(path, maxLine+1<<20)) // a hole reads as zeros
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("\n")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	sink := &fakeSink{}
	_, err = through(t, sink, dir).directory(t.Context(), t, dir, false)
	require.ErrorContains(t, err, "no dead letter has more than")
	assert.Equal(t, []string{"1 lines that are no dead letters"}, survey(t, dir).Letters[0].Problems())
}

// While an adapter goes on to append, replays rotate its file under its hands: every letter that it was told is kept is delivered.
func TestReplayLettersBesideAnAdapter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	adapter, err := deadletter.NewFile(dir, "kafka", jsonlines.Rotation{})
	require.NoError(t, err)
	const n = 500
	kept := make(map[string]bool, n)
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := range n {
			r := single(1, i)
			for adapter.Keep([]record.Record{r}, errors.New("refused")) != nil {
				continue // as a lane does
			}
			kept[r.ID()] = true
		}
	})
	written := make(chan struct{})
	go func() {
		writing.Wait()
		close(written)
	}()
	sink := &fakeSink{}
	for more := true; more; {
		select {
		case <-written:
			more = false // after this one
		default:
		}
		if c, err := Find(dir); err == nil {
			files, _, err := c.Replayable("kafka", true)
			require.NoError(t, err)
			o, err := through(t, sink, dir).Letters(t.Context(), files)
			require.NoError(t, err)
			require.Zero(t, o.Unreadable)
		}
	}
	require.NoError(t, adapter.Close())
	for _, id := range sink.ids() {
		delete(kept, id)
	}
	assert.Empty(t, kept, "%d letters delivered", len(sink.taken))
	assert.Less(t, len(sink.taken), 2*n)
}

func TestOpenDeadLetters(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dead-letters")
	_, err := OpenDeadLetters(dir, "a/b")
	require.ErrorContains(t, err, "must do as a file's")
	first, err := OpenDeadLetters(dir, "kafka")
	require.NoError(t, err)
	assert.NoDirExists(t, dir, "nothing is made before it is needed")
	second, err := OpenDeadLetters(dir, "kafka")
	require.NoError(t, err)
	refused := []record.Record{single(1, 0)}
	require.NoError(t, first.Keep(refused, errors.New("refused")))
	require.NoError(t, first.Keep(refused, errors.New("refused")))
	require.ErrorContains(t, second.Keep(refused, errors.New("refused")), "another process has the lock")
	require.NoError(t, first.Close())
	require.NoError(t, second.Keep(refused, errors.New("refused")), "it waits its turn")
	require.NoError(t, second.Close())
	third, err := OpenDeadLetters(dir, "kafka")
	require.NoError(t, err)
	require.NoError(t, third.Close())
	assert.Equal(t, 3, strings.Count(read(t, filepath.Join(dir, "kafka.replay.jsonl")), "\n"))
	assert.Contains(t, fmt.Sprint(find(t, dir).Letters), "kafka.replay.jsonl")
}
