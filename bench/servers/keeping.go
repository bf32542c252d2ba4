package servers

import (
	"fmt"
	"path/filepath"
	"testing"
)

// Keeping is a real OpenTelemetry Collector that answers when what it got is in its file, so that it can be killed at any time and
// has what it answered for: it neither batches nor buffers. It takes log records, spans and metrics. Each of its lives has a file
// of its own.
type Keeping struct {
	*Server

	directory string
	lives     int
}

// KeepingCollector starts a Collector that keeps what it answered for.
func KeepingCollector(t *testing.T) *Keeping {
	t.Helper()
	k := &Keeping{directory: t.TempDir()}
	k.Server = Collector(t, func(listen string) string {
		k.lives++
		// With rotation the file is written directly.
		return fmt.Sprintf(`receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
exporters:
  file: {path: %q, rotation: {max_megabytes: 8192}}
service:
  telemetry: {metrics: {level: none}, logs: {level: warn}}
  pipelines:
    logs: {receivers: [otlp], exporters: [file]}
    traces: {receivers: [otlp], exporters: [file]}
    metrics: {receivers: [otlp], exporters: [file]}
`, listen, k.file(k.lives))
	})
	return k
}

func (k *Keeping) file(life int) string {
	return filepath.Join(k.directory, fmt.Sprintf("kept-%d.jsonl", life))
}

// Files are the files of all lives. One that got nothing is not there, and a kill may cut the last line of one.
func (k *Keeping) Files() (files []string) {
	for life := 1; life <= k.lives; life++ {
		files = append(files, k.file(life))
	}
	return files
}
