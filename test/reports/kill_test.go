package reports

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that is killed at any moment, while it starts too, loses nothing that it acknowledged, and leaves no half line in its
// files. Hardly any of the kills is in the middle of a write, so the test adds what those leave.
func TestKill(t *testing.T) {
	t.Parallel()
	const tornOne = 10 // of so many lives leaves half a line
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
	longest := 300 * time.Millisecond // a life
	served, torn := 0, 0              // lives in which something was acknowledged, and those that left half a line by themselves
	for n := range kills {
		before := l.acked.Load()
		s.start(t)
		time.Sleep(time.Duration(moments.Int64N(int64(longest))))
		require.True(t, s.alive(), "it ended by itself")
		s.kill()
		if l.acked.Load() > before {
			served++
		} else if 3*served < 2*int(n) {
			longest += longest / 10 // a busy machine takes long to begin one
		}
		if endsInHalfALine(t, path) {
			torn++
		}
		if moments.IntN(tornOne) == 0 {
			leaveHalfALine(t, path)
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
	t.Logf("%d kills in %s, %d of them of a process that had acknowledged something, %d in the middle of a line; %s; %s", kills, elapsed.Round(time.Second), served, torn, result, balanced)
	assert.Zero(t, result.refused, "nothing was in the way")
	assert.Greater(t, served, int(kills/4), "most processes were killed before they did anything")
}

func endsInHalfALine(t *testing.T, path string) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return len(content) > 0 && content[len(content)-1] != '\n'
}

// leaveHalfALine adds the beginning of a line to a file, if it is there.
func leaveHalfALine(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	_, err = file.WriteString(`{"id":"9f86d081884c7d659a2feaa0c55ad015-1-0","kind":"logentry","handler":"kil`)
	require.NoError(t, errors.Join(err, file.Close()))
}
