package htpasswd_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/follow"
	"github.com/tollgate-mesh/tollgate/adapter/htpasswd"
	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/adapter/policy/basic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 2 * time.Minute
	hash     = "$2y$05$abcdefghijklmnopqrstuukqWvEbofmMriqkf/BobvTmwuU8kStc."
)

// mount makes a directory what a mounted Secret is: a link to a link to the file of a version.
func mount(t *testing.T, directory, version, content string) {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(directory, version), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(directory, version, "staff"), []byte(content), 0o600))
	require.NoError(t, os.Symlink(version, filepath.Join(directory, "..tmp")))
	require.NoError(t, os.Rename(filepath.Join(directory, "..tmp"), filepath.Join(directory, "..data")))
}

// A file is there from the start and followed as a Secret changes; a broken one leaves the last good one, and an empty one is one.
func TestFilesAreFollowed(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	mount(t, directory, "..1", "alice:"+hash)
	require.NoError(t, os.Symlink("..data/staff", filepath.Join(directory, "staff")))
	from := func(name string) follow.Source {
		return follow.Source{File: filepath.Join(directory, name), Refresh: time.Minute, MaxStale: time.Hour, Timeout: patience}
	}
	written := &logtest.Buffer{}
	store := htpasswd.Open(t.Context(), map[string]follow.Source{"staff": from("staff"), "away": from("away")}, slog.New(slog.NewTextHandler(written, nil)))
	_, ok := store.File("unknown")
	assert.False(t, ok)
	away, ok := store.File("away")
	require.True(t, ok)
	_, err := away.Users()
	require.ErrorContains(t, err, "no such file")
	require.NotErrorIs(t, err, basic.ErrNotLoaded)
	staff, ok := store.File("staff")
	require.True(t, ok)
	users, err := staff.Users()
	require.NoError(t, err)
	assert.Equal(t, 1, users.Len())

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	becomes := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool { users, err := staff.Users(); return err == nil && users.Len() == want }, patience, time.Millisecond)
	}
	mount(t, directory, "..2", "alice:"+hash+"\nbob:"+hash)
	becomes(2)
	failed := store.Stats()["staff"].Failed
	mount(t, directory, "..3", "alice:"+hash+"\nbob:planted")
	require.Eventually(t, func() bool { return store.Stats()["staff"].Failed > failed }, patience, time.Millisecond)
	becomes(2)
	require.Eventually(t, func() bool { return strings.Contains(written.String(), "line 2 has no bcrypt hash") }, patience, time.Millisecond)
	assert.NotContains(t, written.String(), "planted")
	mount(t, directory, "..4", "")
	becomes(0)
	stats := store.Stats()
	assert.True(t, stats["staff"].Loaded)
	assert.Positive(t, stats["staff"].Read)
	assert.False(t, stats["away"].Loaded)
}
