package archive

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/report"
	"github.com/tollgate-mesh/tollgate/adapter/report/record"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/deadletter"
	"github.com/tollgate-mesh/tollgate/adapter/report/sink/jsonlines"
	"github.com/tollgate-mesh/tollgate/adapter/report/spool"
)

// holdEnv names a queue that this process shall hold open until its standard input ends.
const holdEnv = "TOLLGATE_TEST_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		hold(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func hold(dir string) {
	queue, err := spool.Open(dir, spool.Options{})
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintln(os.Stdout, "open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = queue.Close()
}

// holdInProcess has a process of its own hold a queue open until the end of the test or a call of the function.
func holdInProcess(t *testing.T, dir string) (release func()) {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), holdEnv+"="+dir)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	require.NoError(t, err)
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "open\n", line)
	release = sync.OnceFunc(func() {
		require.NoError(t, in.Close())
		require.NoError(t, command.Wait())
	})
	t.Cleanup(release)
	return release
}

var (
	origin = record.SpoolID{0xab, 15: 0xcd}
	noon   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func decision(id string) string {
	d := record.Decision{ID: id, Handler: "bookinfo", Instance: "i", Outcome: "deny"}
	return string(d.Append(nil))
}

// payload is a frame as the pipeline makes it, by hand.
func payload(kind record.Kind, handler string, delivery *record.Delivery, instances ...string) []byte {
	p := append([]byte{1, byte(kind)}, origin[:]...)
	for _, text := range append([]string{handler, "spiffe://mixer", string(delivery.Append(nil))}, instances...) {
		p = append(binary.AppendUvarint(p, uint64(len(text))), text...)
	}
	return p
}

func frame(sequence uint64, records int, payload []byte) spool.Frame {
	return spool.Frame{Sequence: sequence, Arrival: noon.Add(time.Duration(sequence) * time.Second), Records: records, Payload: payload}
}

// decisions is a frame of decisions, whose ids are <sequence>.0 and so on.
func decisions(sequence uint64, n int) spool.Frame {
	var instances []string
	for i := range n {
		instances = append(instances, decision(fmt.Sprintf("%d.%d", sequence, i)))
	}
	return frame(sequence, n, payload(record.KindDecision, "bookinfo", nil, instances...))
}

// fill makes a queue, of whose frames the first are done.
func fill(t *testing.T, dir string, done int, frames ...spool.Frame) {
	t.Helper()
	queue, err := spool.Open(dir, spool.Options{})
	require.NoError(t, err)
	put(t, queue, frames...)
	for range done {
		f, err := queue.Next(t.Context())
		require.NoError(t, err)
		require.True(t, queue.Done(f.Sequence, spool.Outcome{}))
	}
	require.NoError(t, queue.Close())
}

func put(t *testing.T, queue spool.Queue, frames ...spool.Frame) {
	t.Helper()
	for _, f := range frames {
		r, err := queue.Reserve(t.Context(), len(f.Payload), f.Records)
		require.NoError(t, err)
		require.NoError(t, r.Append(f))
	}
}

// files returns the names and contents of what is in a directory, at any depth.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		found[name] = string(content)
		return err
	}))
	return found
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

// flip changes a byte of a file, counted from the end if negative.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	content := []byte(read(t, path))
	if at < 0 {
		at += len(content)
	}
	content[at] ^= 1
	write(t, path, string(content))
}

func single(sequence uint64, index int) record.Record {
	return record.Record{
		Spool: origin, Sequence: sequence, Index: index, Kind: record.KindDecision, Handler: "bookinfo", Arrived: noon,
		Raw: decision(fmt.Sprintf("%d.%d", sequence, index)),
	}
}

// letterLines returns the lines of a file of dead letters.
func letterLines(t *testing.T, sink, cause string, records ...record.Record) string {
	t.Helper()
	dir := t.TempDir()
	f, err := deadletter.NewFile(dir, sink, jsonlines.Rotation{})
	require.NoError(t, err)
	require.NoError(t, f.Keep(records, fmt.Errorf("%s", cause)))
	require.NoError(t, f.Close())
	return read(t, filepath.Join(dir, sink+".jsonl"))
}

// fakeSink keeps what it is given, or does what its answer says.
type fakeSink struct {
	answer func(ctx context.Context, attempt int, batch []record.Record) error

	mu       sync.Mutex
	attempts int
	taken    []record.Record
	closed   bool
}

func (f *fakeSink) Deliver(ctx context.Context, batch []record.Record) error {
	f.mu.Lock()
	f.attempts++
	attempt := f.attempts
	f.mu.Unlock()
	if f.answer != nil {
		if err := f.answer(ctx, attempt, batch); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.taken = append(f.taken, batch...)
	return nil
}

func (f *fakeSink) Close(context.Context) error {
	f.closed = true
	return nil
}

func (f *fakeSink) ids() (ids []string) {
	for i := range f.taken {
		ids = append(ids, f.taken[i].ID())
	}
	return ids
}

// choosyFakeSink takes decisions only.
type choosyFakeSink struct{ fakeSink }

func (*choosyFakeSink) Takes(kind record.Kind) bool { return kind == record.KindDecision }

var (
	_ report.Sink    = (*fakeSink)(nil)
	_ report.Chooser = (*choosyFakeSink)(nil)
)

func quick() report.Batching {
	return report.Batching{
		Records: 2, Bytes: 4 << 20, Wait: time.Millisecond, Concurrency: 1, Timeout: time.Minute,
		Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond,
	}
}

func find(t *testing.T, path string) Contents {
	t.Helper()
	c, err := Find(path)
	require.NoError(t, err)
	return c
}

func survey(t *testing.T, path string) Survey {
	t.Helper()
	before := files(t, path)
	s, err := find(t, path).Look(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, files(t, path), "looking changes nothing")
	return s
}
