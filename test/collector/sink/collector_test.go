// Package sink_test sends with the otlp sink to a real OpenTelemetry Collector, and reads what the Collector wrote to its file.
package sink_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long something may take that has to happen. It bounds a test that fails and is no measure.
const patience = 2 * time.Minute

// collector is a real OpenTelemetry Collector that always listens on the same ports, and in each of its lives writes to other files,
// one for each signal: pipelines that share a file exporter end badly, for the first that stops closes the file.
type collector struct {
	binary, directory string
	grpc, http        string // addresses
	buffered          bool

	lives   int
	command *exec.Cmd
}

// newCollector builds the Collector, which takes a minute if it was never built. One that is not buffered answers when what it got is
// in its file, so that it can be killed at any time and has what it answered for.
func newCollector(t *testing.T, buffered bool) *collector {
	t.Helper()
	binary, err := filepath.Abs("../bin/otelcol")
	require.NoError(t, err)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir = ".."
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	c := &collector{binary: binary, directory: t.TempDir(), grpc: freeAddress(t), http: freeAddress(t), buffered: buffered}
	t.Cleanup(func() { c.kill(t) })
	return c
}

// given are the ports that were given out. Nobody gets one twice: it is free until its Collector listens.
var given = map[int]bool{}

// freeAddress returns an address below the ports that Linux gives to outgoing connections, so that no client takes it while the
// Collector is down.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		if given[port] {
			continue
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			given[port] = true
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

func (c *collector) file(signal string, life int) string {
	return filepath.Join(c.directory, fmt.Sprintf("%s-%d.jsonl", signal, life))
}

var signals = []string{"logs", "traces", "metrics"}

// start starts a life and returns when both receivers listen.
func (c *collector) start(t *testing.T) {
	t.Helper()
	c.lives++
	processors, rotation := "[]", "rotation: {max_megabytes: 8192}" // with rotation the file is written directly
	if c.buffered {
		processors, rotation = "[batch]", ""
	}
	var exporters, pipelines strings.Builder
	for _, signal := range signals {
		fmt.Fprintf(&exporters, "  file/%s: {path: %q, %s}\n", signal, c.file(signal, c.lives), rotation)
		fmt.Fprintf(&pipelines, "    %s: {receivers: [otlp], processors: %s, exporters: [file/%[1]s]}\n", signal, processors)
	}
	config := fmt.Sprintf(`receivers:
  otlp: {protocols: {grpc: {endpoint: %q}, http: {endpoint: %q}}}
processors:
  batch: {timeout: 100ms}
exporters:
%sservice:
  telemetry: {metrics: {level: none}, logs: {level: warn}}
  pipelines:
%s`, c.grpc, c.http, exporters.String(), pipelines.String())
	file := filepath.Join(c.directory, "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	c.command = exec.Command(c.binary, "--config=file:"+file)
	c.command.Stdout, c.command.Stderr = os.Stderr, os.Stderr
	c.command.SysProcAttr = childAttributes()
	require.NoError(t, c.command.Start())
	for _, address := range []string{c.grpc, c.http} {
		require.Eventually(t, func() bool {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				conn.Close()
			}
			return err == nil
		}, patience, 20*time.Millisecond, "the Collector does not listen on %s", address)
	}
}

// stop ends a life in order, so that all buffers are written.
func (c *collector) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, c.command.Process.Signal(syscall.SIGTERM))
	require.NoError(t, c.command.Wait())
	c.command = nil
}

// kill ends a life as kill -9 does.
func (c *collector) kill(t *testing.T) {
	t.Helper()
	if c.command == nil {
		return
	}
	require.NoError(t, c.command.Process.Kill())
	require.Error(t, c.command.Wait())
	c.command = nil
}

// written is a line of the Collector's file: one request as its pipeline ended it.
type written struct {
	ResourceLogs []struct {
		Resource  map[string]any `json:"resource"`
		ScopeLogs []struct {
			Scope      map[string]any   `json:"scope"`
			LogRecords []map[string]any `json:"logRecords"`
		} `json:"scopeLogs"`
	} `json:"resourceLogs"`
	ResourceSpans []struct {
		Resource   map[string]any `json:"resource"`
		ScopeSpans []struct {
			Scope map[string]any   `json:"scope"`
			Spans []map[string]any `json:"spans"`
		} `json:"scopeSpans"`
	} `json:"resourceSpans"`
	ResourceMetrics []struct {
		Resource     map[string]any `json:"resource"`
		ScopeMetrics []struct {
			Scope   map[string]any   `json:"scope"`
			Metrics []map[string]any `json:"metrics"`
		} `json:"scopeMetrics"`
	} `json:"resourceMetrics"`
}

// read calls see for each request that was written in all lives. A line that a kill cut is none.
func (c *collector) read(t *testing.T, see func(*written)) {
	t.Helper()
	for life := 1; life <= c.lives; life++ {
		for _, signal := range signals {
			content, err := os.ReadFile(c.file(signal, life))
			if errors.Is(err, fs.ErrNotExist) { // it is made with the first write
				continue
			}
			require.NoError(t, err)
			lines := bytes.Split(content, []byte("\n"))
			for i, line := range lines {
				var w written
				switch err := json.Unmarshal(line, &w); {
				case err == nil:
					see(&w)
				case i < len(lines)-1:
					require.NoError(t, err, "only the last line can be cut")
				}
			}
		}
	}
}

// attributes makes a map of OTLP's list, with the values as their JSON has them.
func attributes(t *testing.T, of map[string]any) map[string]any {
	t.Helper()
	all := map[string]any{}
	list, _ := of["attributes"].([]any)
	for _, item := range list {
		pair := item.(map[string]any)
		all[pair["key"].(string)] = pair["value"]
	}
	require.Len(t, all, len(list), "no name comes twice")
	return all
}

func value(of any, kind string) any {
	m, _ := of.(map[string]any)
	return m[kind]
}
