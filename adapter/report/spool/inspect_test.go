package spool

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestExists(t *testing.T) {
	for name, want := range map[string]bool{
		"state": true, segmentName(1): true, "lock": false, "notes.txt": false, "1.seg": false, "": false,
	} {
		dir := t.TempDir()
		if name != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		got, err := Exists(dir)
		require.NoError(t, err)
		assert.Equal(t, want, got, name)
	}
	_, err := Exists(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	inUse := func() bool {
		held, err := InUse(dir)
		require.NoError(t, err)
		return held
	}
	assert.False(t, inUse())
	assert.NoFileExists(t, filepath.Join(dir, lockName), "looking leaves nothing")
	d, err := Open(dir, Options{})
	require.NoError(t, err)
	assert.True(t, inUse())
	require.NoError(t, d.Close())
	assert.False(t, inUse())
}

// Somebody who only looks keeps nobody from opening.
func TestOpenWhileSomebodyLooks(t *testing.T) {
	dir := t.TempDir()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, err := InUse(dir)
				assert.NoError(t, err)
			}
		}
	}()
	for range 50 {
		d, err := Open(dir, Options{})
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	close(stop)
	<-stopped
}

func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "deep", "down", "lock")
	lock, err := LockFile(name)
	require.NoError(t, err)
	_, err = LockFile(name)
	class, ok := ClassOf(err)
	assert.True(t, ok)
	assert.Equal(t, Locked, class)
	require.NoError(t, lock.Close())
	lock, err = LockFile(name)
	require.NoError(t, err)
	require.NoError(t, lock.Close())
	_, err = LockFile(filepath.Join(name, "lock"))
	require.ErrorContains(t, err, name)
}

// A damaged header costs no frame, and yet it is damage.
func TestInspectTellsDamagedHeaders(t *testing.T) {
	dir := t.TempDir()
	for name, content := range spoolOf(t, 100) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(name)), content, 0o600))
	}
	sound, err := Inspect(dir, func(Frame, bool) error { return nil })
	require.NoError(t, err)
	assert.Zero(t, sound.Headers)
	require.Greater(t, sound.Segments, 1)
	spoil := func(number uint64) {
		name := filepath.Join(dir, segmentName(number))
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		content[20] ^= 1
		require.NoError(t, os.WriteFile(name, content, 0o600))
	}
	spoil(1)
	spoil(uint64(sound.Segments))
	found, err := Inspect(dir, func(Frame, bool) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, 2, found.Headers)
	assert.Equal(t, sound.Pending, found.Pending)
	// What a crash leaves of a segment that was just begun is torn and no damage.
	require.NoError(t, os.WriteFile(filepath.Join(dir, segmentName(1000)), make([]byte, 100), 0o600))
	again, err := Inspect(dir, func(Frame, bool) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, 2, again.Headers)
	assert.Equal(t, Damage{Torn: 100 - headerBytes}, again.Damage)
}

// A process that is just being started shares the files of the one that starts it until its own program begins.
func TestLockEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), lockName)
	for range 2 {
		lock, err := LockFile(name)
		require.NoError(t, err)
		held, ok := lock.(heldLock)
		require.True(t, ok)
		shared, err := syscall.Dup(int(held.file.Fd()))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, syscall.Close(shared)) })
		_, err = LockFile(name)
		class, _ := ClassOf(err)
		assert.Equal(t, Locked, class, "%v", err)
		require.NoError(t, lock.Close())
	}
}
