// Package reports tests what becomes of reports when things fail: the real binary, as a process, over real gRPC, with real files.
//
// The clock is not stepped here, which takes privileges; the spool's own tests step it.
package reports

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// What can be set from outside: a ready binary in place of one that is built, such as one with the race detector; and how long the
// tests go on.
const (
	binaryEnv  = "TOLLGATE_BIN"     // from the repository's root, unless absolute
	killsEnv   = "TOLLGATE_KILLS"   // 200
	seedEnv    = "TOLLGATE_SEED"    // of the kills' moments; random
	loadEnv    = "TOLLGATE_LOAD"    // how long each phase of load takes, 2s
	latencyEnv = "TOLLGATE_LATENCY" // how long the latency of each kind of sync is measured, 3s
)

// patience is how long something may take that has to happen. It bounds a test that fails and is no measure.
const patience = 2 * time.Minute

// root is the repository's.
const root = "../.."

var tollgate string // the binary's path

func TestMain(m *testing.M) {
	directory, err := os.MkdirTemp("", "tollgate-reports-")
	if err == nil {
		tollgate, err = build(directory)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(directory)
		os.Exit(code)
	}))
}

func build(directory string) (string, error) {
	if path := os.Getenv(binaryEnv); path != "" {
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, path)
		}
		return filepath.Abs(path)
	}
	path := filepath.Join(directory, "tollgate")
	command := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/tollgate")
	command.Dir = root
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building tollgate: %w\n%s", err, output)
	}
	return path, nil
}

func duration(t *testing.T, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	return setting(t, name, otherwise, time.ParseDuration)
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	return setting(t, name, otherwise, func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) })
}

func setting[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := parse(text)
	require.NoError(t, err, name)
	return value
}
