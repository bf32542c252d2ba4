package file

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func decision(id string) string {
	d := record.Decision{ID: id, Handler: "bookinfo", Instance: "i", Outcome: "deny", Reason: strings.Repeat("r", 350)}
	return string(d.Append(nil))
}

func TestDeliver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	s, err := New(path, jsonlines.Rotation{})
	require.NoError(t, err)
	batch := []record.Record{{Kind: record.KindDecision, Raw: decision("a")}, {Kind: record.KindMetric, Raw: "\xff"}, {Raw: "x"}, {Kind: record.KindDecision, Raw: decision("b")}}
	err = s.Deliver(t.Context(), batch)
	var u *report.Undelivered
	require.ErrorAs(t, err, &u)
	assert.True(t, u.Permanent)
	assert.Equal(t, []int{1, 2}, u.Records, "only what cannot be rendered is refused")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Split(string(content), "\n")
	require.Len(t, lines, 3)
	for i, at := range []int{0, 3} {
		want, err := record.AppendJSON(nil, &batch[at])
		require.NoError(t, err)
		assert.JSONEq(t, string(want), lines[i])
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.Deliver(ended, batch), context.Canceled)
	require.NoError(t, s.Close(t.Context()))
}

func TestFaultIsRetryable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "no directory")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	s, err := New(filepath.Join(path, "records.jsonl"), jsonlines.Rotation{})
	require.NoError(t, err)
	// A record that cannot be rendered does not make the others' failure look permanent.
	err = s.Deliver(t.Context(), []record.Record{{Kind: record.KindDecision, Raw: decision("a")}, {Raw: "x"}})
	require.ErrorContains(t, err, path)
	var u *report.Undelivered
	assert.NotErrorAs(t, err, &u)
	require.NoError(t, s.Close(t.Context()))
}

// From acceptance to the disk, with a bad record in between.
func TestThroughPipeline(t *testing.T) {
	dir := t.TempDir()
	s, err := New(filepath.Join(dir, "records.jsonl"), jsonlines.Rotation{})
	require.NoError(t, err)
	letters, err := deadletter.NewFile(filepath.Join(dir, "dead"), "file", jsonlines.Rotation{})
	require.NoError(t, err)
	q, err := spool.Open(filepath.Join(dir, "spool"), spool.Options{})
	require.NoError(t, err)
	p, err := report.NewPipeline([]report.Lane{{Name: "file", Sink: s, Queue: q, Batching: batching(), DeadLetters: letters}}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, p.Accept(t.Context(), &report.Call{Kind: record.KindDecision, Handler: "h", Instances: []string{decision("a"), "\xff\xff", decision("b")}}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, p.Run(ctx, 2*time.Minute))

	written, err := os.ReadFile(filepath.Join(dir, "records.jsonl"))
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(string(written), "\n"))
	dead, err := os.ReadFile(filepath.Join(dir, "dead", "file.jsonl"))
	require.NoError(t, err)
	letter, err := deadletter.Parse(dead)
	require.NoError(t, err)
	assert.Equal(t, "\xff\xff", letter.Record.Raw)
	assert.Equal(t, 1, letter.Record.Index)
	stats := p.Stats()["file"]
	assert.EqualValues(t, 1, stats.DeadLettered)
	assert.EqualValues(t, 3, stats.Done.Records)
}

func batching() report.Batching {
	return report.Batching{
		Records: 1000, Bytes: 1 << 20, Wait: 100 * time.Millisecond, Concurrency: 1, Timeout: 10 * time.Second, Backoff: 10 * time.Millisecond, MaxBackoff: time.Second,
	}
}

// BenchmarkEndToEnd accepts calls of 100 records and 46 kB into a queue on disk and ends when all are in the file.
func BenchmarkEndToEnd(b *testing.B) {
	dir := b.TempDir()
	s, err := New(filepath.Join(dir, "records.jsonl"), jsonlines.Rotation{KeepFiles: 1})
	require.NoError(b, err)
	q, err := spool.Open(filepath.Join(dir, "spool"), spool.Options{FullWait: time.Minute})
	require.NoError(b, err)
	p, err := report.NewPipeline([]report.Lane{{Name: "file", Sink: s, Queue: q, Batching: batching(), DeadLetters: deadletter.NewDiscarder("file", slog.New(slog.DiscardHandler))}}, slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	call := &report.Call{Kind: record.KindDecision, Handler: "bookinfo", Caller: "mixer"}
	size := 0
	for range 100 {
		call.Instances = append(call.Instances, decision(strings.Repeat("i", 86)))
		size += len(call.Instances[0])
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, time.Minute) }()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := p.Accept(context.Background(), call); err != nil {
				b.Error(err)
				return
			}
		}
	})
	cancel()
	require.NoError(b, <-done)
	b.StopTimer()
	stats := p.Stats()["file"]
	require.EqualValues(b, 100*b.N, stats.Done.Records)
}
