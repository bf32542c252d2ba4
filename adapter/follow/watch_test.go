package follow

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watchers counts those that the process has open.
func watchers(t *testing.T) int {
	t.Helper()
	const descriptors = "/proc/self/fd"
	entries, err := os.ReadDir(descriptors)
	require.NoError(t, err)
	open := 0
	for _, entry := range entries {
		if what, err := os.Readlink(filepath.Join(descriptors, entry.Name())); err == nil && strings.Contains(what, "inotify") {
			open++
		}
	}
	return open
}

// A user may have few of the system's watchers.
func TestOneWatcherForAll(t *testing.T) { //nolint:paralleltest // it counts what the process has open
	const many = 20
	root := t.TempDir()
	path := func(i int) string { return filepath.Join(root, strconv.Itoa(i), "d") }
	all := Documents[string]{}
	for i := range many {
		require.NoError(t, os.Mkdir(filepath.Dir(path(i)), 0o700))
		require.NoError(t, os.WriteFile(path(i), []byte("first"), 0o600))
		source := Source{File: path(i), MaxBytes: 100, Refresh: time.Hour, MaxStale: 2 * time.Hour, Timeout: time.Minute}
		all[strconv.Itoa(i)] = New(source, func(document []byte) (string, error) { return string(document), nil }, slog.New(slog.DiscardHandler))
	}
	everywhere := func(want string) func() bool {
		return func() bool {
			for _, d := range all {
				if is, err := d.Current(); err != nil || is != want {
					return false
				}
			}
			return true
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(done)
		assert.NoError(t, all.Run(ctx))
	}()
	require.Eventually(t, everywhere("first"), time.Minute, time.Millisecond)
	assert.Equal(t, 1, watchers(t))
	for i := range many {
		require.NoError(t, os.WriteFile(path(i)+".new", []byte("second"), 0o600))
		require.NoError(t, os.Rename(path(i)+".new", path(i)))
	}
	require.Eventually(t, everywhere("second"), time.Minute, time.Millisecond)
	assert.Less(t, time.Since(begun), recheck*9/10, "not because it is looked at now and then, which comes no sooner")
	cancel()
	<-done
	assert.Zero(t, watchers(t))
}

// What was missing or replaced is watched again, and not only looked at.
func TestDirectoriesAreWatchedAgain(t *testing.T) {
	t.Parallel()
	var written bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&written, nil))
	directory := filepath.Join(t.TempDir(), "d")
	changed := make(chan struct{}, 1)
	w := newWatch([]*watched{{directory: directory, changed: changed, logger: logger}})
	require.NotNil(t, w)
	w.add()
	assert.Equal(t, 1, strings.Count(written.String(), "cannot be watched"), "it is said once")
	assert.Empty(t, changed)
	require.NoError(t, os.Mkdir(directory, 0o700))
	w.add()
	<-changed // what is in it may have come before it was watched
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	require.NoError(t, os.WriteFile(filepath.Join(directory, "f"), nil, 0o600))
	<-changed
	cancel()
	<-done
}
