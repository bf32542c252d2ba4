package policies

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A directory that is swapped again and again is never read as half of one version and half of another.
func TestSteady(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	const versions, parts = 60, 20
	swap := func(version int) {
		hidden := filepath.Join(mount, fmt.Sprintf("..%d", version))
		assert.NoError(t, os.Mkdir(hidden, 0o700))
		for part := range parts {
			if err := os.WriteFile(filepath.Join(hidden, fmt.Sprintf("%d.rego", part)), fmt.Appendf(nil, "package v%d", version), 0o600); err != nil {
				t.Error(err)
			}
		}
		assert.NoError(t, os.Symlink(filepath.Base(hidden), filepath.Join(mount, "..new")))
		assert.NoError(t, os.Rename(filepath.Join(mount, "..new"), filepath.Join(mount, "..data")))
	}
	swap(0)
	for part := range parts {
		name := fmt.Sprintf("%d.rego", part)
		require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for version := range versions {
			swap(version + 1)
		}
	}()
	d := &directory{target: target{source: Source{Directory: mount, MaxBytes: 1 << 20}}}
	for swapping := true; swapping; {
		select {
		case <-done:
			swapping = false // and once more
		default:
		}
		files, err := d.steady()
		if err != nil {
			require.ErrorContains(t, err, "changes while it is read")
			continue
		}
		require.Len(t, files, parts)
		for name := range files {
			require.Equal(t, files["0.rego"], files[name], "a mixture")
		}
	}
}

// What changes in a directory while it comes to be watched is not missed.
func TestDirectoriesAreWatchedBeforeTheyAreRead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "below"), 0o700))
	d := &directory{target: target{source: Source{Directory: root, MaxBytes: 1 << 20}}}
	d.watch = func(directory string) {
		assert.NoError(t, os.WriteFile(filepath.Join(directory, "late.rego"), []byte("package late"), 0o600))
	}
	files, err := d.walk()
	require.NoError(t, err)
	assert.Equal(t, tree{"late.rego": "package late", "below/late.rego": "package late"}, files)
}

// A log, say, that is written to in the same directory all the time puts nothing off.
func TestEventsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		events := make(chan fsnotify.Event)
		looks := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			(&directory{}).follow(ctx, events, nil, func() { looks++ })
		}()
		const many = 1000
		for range many {
			time.Sleep(settle / 10)
			events <- fsnotify.Event{}
		}
		cancel()
		<-done
		assert.Greater(t, looks, many/20)
		assert.Less(t, looks, many/5, "those that come together are looked at together")
	})
}
