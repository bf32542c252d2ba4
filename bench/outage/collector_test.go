package outage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// collector is a real OpenTelemetry Collector that answers when what it got is in its file, so that it can be killed at any time and
// has what it answered for: it neither batches nor buffers. Each of its lives has a file of its own.
type collector struct {
	*servers.Server

	directory string
	lives     int
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{directory: t.TempDir()}
	c.Server = servers.Collector(t, func(listen string) string {
		c.lives++
		// With rotation the file is written directly.
		return fmt.Sprintf(`receivers:
  otlp: {protocols: {grpc: {endpoint: %q}}}
exporters:
  file: {path: %q, rotation: {max_megabytes: 8192}}
service:
  telemetry: {metrics: {level: none}, logs: {level: warn}}
  pipelines:
    logs: {receivers: [otlp], exporters: [file]}
`, listen, c.file(c.lives))
	})
	return c
}

func (c *collector) file(life int) string {
	return filepath.Join(c.directory, fmt.Sprintf("logs-%d.jsonl", life))
}

// read calls see for every record in the files of all lives. A line that a kill cut is none.
func (c *collector) read(t *testing.T, see func(id, sent string)) {
	t.Helper()
	for life := 1; life <= c.lives; life++ {
		content, err := os.ReadFile(c.file(life))
		if errors.Is(err, fs.ErrNotExist) { // it is made with the first write
			continue
		}
		require.NoError(t, err)
		for text := range bytes.Lines(content) {
			if !bytes.HasSuffix(text, []byte("\n")) {
				continue
			}
			var request struct {
				ResourceLogs []struct {
					ScopeLogs []struct {
						LogRecords []struct {
							Attributes []struct {
								Key   string `json:"key"`
								Value struct {
									Text string `json:"stringValue"`
								} `json:"value"`
							} `json:"attributes"`
						} `json:"logRecords"`
					} `json:"scopeLogs"`
				} `json:"resourceLogs"`
			}
			require.NoError(t, json.Unmarshal(text, &request))
			for _, resource := range request.ResourceLogs {
				for _, scope := range resource.ScopeLogs {
					for _, record := range scope.LogRecords {
						values := map[string]string{}
						for _, attribute := range record.Attributes {
							values[attribute.Key] = attribute.Value.Text
						}
						see(values["tollgate.record.id"], values["number"])
					}
				}
			}
		}
	}
}
