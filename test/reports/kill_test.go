package reports

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that is killed at any moment, while it starts too, loses nothing that it acknowledged.
func TestKill(t *testing.T) {
	const longest = 400 * time.Millisecond // of a life
	kills := number(t, killsEnv, 200)
	seed := number(t, seedEnv, rand.Uint64())
	t.Logf("%s=%d", seedEnv, seed)
	moments := rand.New(rand.NewPCG(seed, 0))
	directory := t.TempDir()
	path := filepath.Join(directory, "out", "records.jsonl")
	s := newServer(t, fmt.Sprintf(`
reports:
  directory: %q
  sinks:
    records:
      file: {path: %q, megabytes: 4}
      batch: {wait: 20ms}
      queue: {sync: always}
`, filepath.Join(directory, "spool"), path))
	l := s.report(t, workload{name: "killed", clients: 4, entries: 100, bytes: 100})
	audit := s.audit(t, "records")
	begin := time.Now()
	served := 0 // lives in which something was acknowledged
	for range kills {
		before := l.acked.Load()
		s.start(t)
		time.Sleep(time.Duration(moments.Int64N(int64(longest))))
		require.True(t, s.alive(), "it ended by itself")
		s.kill()
		if l.acked.Load() > before {
			served++
		}
	}
	elapsed := time.Since(begin)
	s.start(t)
	s.awaitReady(t)
	l.end()
	account := s.awaitDelivered(t, "records")
	assert.Zero(t, account.dropped+account.deadLettered+account.filtered, account)
	balanced := audit.end(t)
	s.terminate(t)
	assert.NoDirExists(t, filepath.Join(directory, "spool", "dead-letters"))
	result := compareAll(t, path, l)
	t.Logf("%d kills in %s, %d of them of a process that had acknowledged something; %s; %s", kills, elapsed.Round(time.Second), served, result, balanced)
	assert.Zero(t, result.refused, "nothing was in the way")
	assert.Greater(t, served, int(kills/4), "most processes were killed before they did anything") //nolint:gosec // small
}
