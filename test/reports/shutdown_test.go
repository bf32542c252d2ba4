package reports

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// SIGTERM under load ends the process in time, whether or not what it keeps can be delivered, and loses nothing.
func TestTerminate(t *testing.T) {
	t.Parallel()
	const (
		timeout = 3 * time.Second
		margin  = 20 * time.Second // for a busy machine; what is not bounded takes for ever
	)
	for name, alive := range map[string]bool{"the sink is well": true, "the sink is dead": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flush := 2 * time.Second
			if alive {
				flush = patience / 2 // a slow disk may need it: what is cut off may come twice
			}
			directory := t.TempDir()
			out := filepath.Join(directory, "out")
			path := filepath.Join(out, "records.jsonl")
			if !alive {
				require.NoError(t, os.WriteFile(out, nil, 0o600)) // no directory, so nothing can be in it
			}
			s := startServer(t, fmt.Sprintf(`
shutdown: {timeout: %s}
reports:
  directory: %q
  flush: %s
  sinks:
    records:
      file: {path: %q}
      batch: {wait: 20ms}
`, timeout, filepath.Join(directory, "spool"), flush, path))
			audit := s.audit(t, "records")
			l := s.report(t, workload{name: "pressing", clients: 4, entries: 100, bytes: 100})
			l.awaitAccepted(t, s)
			time.Sleep(duration(t, loadEnv, 2*time.Second))
			took := s.terminate(t)
			assert.Less(t, took, timeout+flush+margin)
			first := l.acked.Load()
			require.Positive(t, first)

			if !alive {
				require.NoError(t, os.Remove(out))
			}
			s.start(t) // the clients went on calling
			s.awaitReady(t)
			s.await(t, "calls to be accepted again", func() bool { return l.acked.Load() > first })
			l.end()
			account := s.awaitDelivered(t, "records")
			assert.Zero(t, account.dropped+account.deadLettered, account)
			if !alive {
				assert.GreaterOrEqual(t, account.recovered, float64(first), "all that the first process acknowledged")
			}
			balanced := audit.end(t)
			s.terminate(t)
			result := compareAll(t, path, l)
			assert.Zero(t, result.duplicates, "an orderly end leaves none")
			t.Logf("ended after %s with %d records acknowledged, %.0f of them left for the next process; %s; %s", took.Round(time.Millisecond), first, account.recovered, result, balanced)
		})
	}
}
