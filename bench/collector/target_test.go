package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/adapter/mixer/mixertest"
	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// target is a server that is measured.
type target struct {
	name   string
	server *servers.Server
	load   *load
	// file is where records arrive, and mark what each of them has there once; empty where none is to arrive.
	file, mark string
	accepted   int // by all rounds
}

// The Collector batches and buffers as its defaults say. That it appends makes it possible to empty the file between rounds.
func newCollector(t *testing.T, otlp [][]byte) *target {
	t.Helper()
	file := filepath.Join(t.TempDir(), "logs.jsonl")
	server := servers.Collector(t, func(listen string) string {
		return fmt.Sprintf(`receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
processors:
  batch: {}
exporters:
  file: {path: %q, append: true}
service:
  telemetry: {metrics: {level: none}, logs: {level: warn}}
  pipelines:
    logs: {receivers: [otlp], processors: [batch], exporters: [file]}
`, listen, file)
	})
	return &target{
		name: "OpenTelemetry Collector", server: server, file: file, mark: `"severityText":`,
		load: newLoad(t, server.Address, "/opentelemetry.proto.collector.logs.v1.LogsService/Export", otlp),
	}
}

// newTollgate starts a Tollgate with one sink. A durable one has its queue on disk, synced as said; its room is for all that is ever
// sent to it.
func newTollgate(t *testing.T, name string, durable bool, sync string, delivering bool, mixer [][]byte) *target {
	t.Helper()
	directory := t.TempDir()
	target := &target{name: name}
	settings := "reports:\n"
	if durable {
		settings += fmt.Sprintf("  directory: %q\n", filepath.Join(directory, "spool"))
	}
	sink := "http: {url: 'http://127.0.0.1:1/'}\n      batch: {backoff: 1h, max_backoff: 1h}" // nobody is there, and it is tried once
	if delivering {
		target.file, target.mark = filepath.Join(directory, "records.jsonl"), "\n"
		sink = fmt.Sprintf("file: {path: %q, megabytes: 1048576}", target.file) // one file, which is counted and emptied
	}
	settings += fmt.Sprintf("  sinks:\n    records:\n      %s\n      queue: {sync: %s, max_bytes: %d}\n", sink, sync, int64(1)<<40)
	target.server = servers.Tollgate(t, settings)
	target.load = newLoad(t, target.server.Address, mixertest.LogEntryMethod, mixer)
	return target
}

// result is what a round of one target came to.
type result struct {
	perRecord     time.Duration // of the server's processor
	perSecond     float64       // records, until the last was answered
	p50, p99      time.Duration // of answers
	file, written float64       // bytes a record: in the file, and given to the disk in all
}

// round sends calls and waits until all their records have arrived. A server that refuses or loses one is not measured: the test fails.
func (g *target) round(t *testing.T, calls int, send func(int) ([]time.Duration, error)) *result {
	t.Helper()
	records := calls * perCall
	processor, written, begin := g.server.CPU(t), g.server.Written(t), time.Now()
	answers, err := send(calls)
	elapsed := time.Since(begin)
	require.NoError(t, err, g.name)
	size := g.await(t, records)
	// What comes after the file's last byte, such as cursors, is part of the price.
	const settling = 200 * time.Millisecond
	time.Sleep(settling)
	r := &result{
		perRecord: (g.server.CPU(t) - processor) / time.Duration(records),
		perSecond: float64(records) / elapsed.Seconds(),
		p50:       answers[len(answers)/2], p99: answers[len(answers)*99/100],
		file: float64(size) / float64(records), written: float64(g.server.Written(t)-written) / float64(records),
	}
	g.accepted += records
	g.verify(t)
	if g.file != "" {
		require.NoError(t, os.Truncate(g.file, 0))
	}
	return r
}

// await waits until the file has so many records, not one more, and returns its size.
func (g *target) await(t *testing.T, records int) (size int64) {
	t.Helper()
	if g.file == "" {
		return 0
	}
	const patience, look = time.Minute, 50 * time.Millisecond
	count := counter{mark: []byte(g.mark)}
	for end := time.Now().Add(patience); count.found < records; time.Sleep(look) {
		require.NoError(t, count.on(g.file))
		require.True(t, time.Now().Before(end), "%s lost records: %d of %d are in its file", g.name, count.found, records)
	}
	require.Equal(t, records, count.found, "%s made records up", g.name)
	return count.offset
}

// verify compares the accounts, of a Tollgate, with what was answered.
func (g *target) verify(t *testing.T) {
	t.Helper()
	if g.server.Admin == "" {
		return
	}
	all, err := g.server.Accounts(t)
	require.NoError(t, err)
	accounts := all["records"]
	require.True(t, accounts.Balance(), accounts)
	require.InDelta(t, g.accepted, accounts.Accepted, 0, g.name)
	if g.file == "" {
		require.InDelta(t, g.accepted, accounts.Pending, 0, g.name)
	} else {
		require.InDelta(t, g.accepted, accounts.Delivered, 0, g.name)
	}
}

// counter counts marks in a file that grows.
type counter struct {
	mark   []byte
	offset int64
	found  int
	tail   []byte // of what was read: too short for a mark
}

func (c *counter) on(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) { // it is made with the first record
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	buffer := make([]byte, 1<<20)
	for {
		n, err := file.ReadAt(buffer[len(c.tail):], c.offset)
		copy(buffer, c.tail)
		part := buffer[:len(c.tail)+n]
		c.offset += int64(n)
		c.found += bytes.Count(part, c.mark)
		c.tail = bytes.Clone(part[max(0, len(part)-len(c.mark)+1):])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
