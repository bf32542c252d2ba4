package outage

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tollgate-mesh/tollgate/bench/servers"
)

// readCollector calls see for every record in the files of all of the Collector's lives. A line that a kill cut is none.
func readCollector(collector *servers.Keeping) func(*testing.T, func(id, sent string)) {
	return func(t *testing.T, see func(id, sent string)) {
		t.Helper()
		for _, file := range collector.Files() {
			content, err := os.ReadFile(file)
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
}
