package jsonlines

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// faulty is a file that fails as it is told: it writes half and says that the disk is full, or fails to sync.
type faulty struct {
	output

	writes, syncs *int // how many more fail
}

func (f faulty) Write(p []byte) (int, error) {
	if *f.writes > 0 {
		*f.writes--
		n, err := f.output.Write(p[:len(p)/2])
		if err == nil {
			err = syscall.ENOSPC
		}
		return n, err
	}
	return f.output.Write(p)
}

func (f faulty) Sync() error {
	if *f.syncs > 0 {
		*f.syncs--
		return syscall.EIO
	}
	return f.output.Sync()
}

func newFile(t *testing.T, path string, r Rotation) *File {
	t.Helper()
	f, err := NewFile(path, r)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func line(n int, letter string) []byte {
	return []byte(`{"` + strings.Repeat(letter, n-5) + "\"}\n")
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

// same compares what is too long to be shown.
func same(t *testing.T, want, got string) {
	t.Helper()
	if want != got {
		t.Errorf("not as it should be: %d bytes instead of %d, or others", len(got), len(want))
	}
}

// older returns the names of the files that were rotated. The rotation removes some in the background.
func older(t *testing.T, path string) []string {
	t.Helper()
	names, err := filepath.Glob(strings.TrimSuffix(path, ".jsonl") + "-*.jsonl")
	require.NoError(t, err)
	return names
}

// files returns the contents of all files, the current one last.
func files(t *testing.T, path string) (contents []string) {
	t.Helper()
	for _, name := range older(t, path) {
		contents = append(contents, content(t, name))
	}
	return append(contents, content(t, path))
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "down", "records.jsonl")
	f := newFile(t, path, Rotation{})
	require.NoError(t, f.Append([]byte("{1}\n{2}\n")))
	require.NoError(t, f.Append([]byte("{3}\n")))
	assert.Equal(t, "{1}\n{2}\n{3}\n", content(t, path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(fileMode), info.Mode())
	require.NoError(t, f.Close())
	require.ErrorIs(t, f.Append([]byte("{4}\n")), os.ErrClosed)

	again := newFile(t, path, Rotation{})
	require.NoError(t, again.Append([]byte("{4}\n")))
	assert.Equal(t, "{1}\n{2}\n{3}\n{4}\n", content(t, path), "an existing file goes on")
}

func TestRotationBySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	f := newFile(t, path, Rotation{Megabytes: 1})
	var all []byte
	for i := range 8 {
		batch := bytes.Repeat(line(100_000, strconv.Itoa(i)), 3)
		require.NoError(t, f.Append(batch))
		all = append(all, batch...)
	}
	// Larger than a file may be: it gets one of its own.
	large := line(3<<20, "l")
	require.NoError(t, f.Append(large))
	require.NoError(t, f.Append([]byte("{last}\n")))
	all = append(append(all, large...), "{last}\n"...)

	got := files(t, path)
	var sizes []int
	for _, c := range got {
		sizes = append(sizes, len(c))
	}
	assert.Equal(t, []int{900_000, 900_000, 600_000, 3 << 20, 7}, sizes, "a batch is in one file")
	same(t, string(all), strings.Join(got, ""))
}

func TestRotationByAgeAndCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	f := newFile(t, path, Rotation{Every: time.Second, KeepFiles: 1})
	for i := range 3 {
		if i > 0 {
			time.Sleep(1100 * time.Millisecond)
		}
		require.NoError(t, f.Append(fmt.Appendf(nil, "{%d}\n", i)))
	}
	require.Eventually(t, func() bool { return len(older(t, path)) == 1 }, 30*time.Second, 10*time.Millisecond)
	assert.Equal(t, []string{"{1}\n", "{2}\n"}, files(t, path))
}

func TestFaults(t *testing.T) {
	for name, fresh := range map[string]bool{"new file": true, "old file": false} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "records.jsonl")
			var writes, syncs int
			f := newFile(t, path, Rotation{})
			f.faults = func(o output) output { return faulty{o, &writes, &syncs} }
			before := ""
			if !fresh {
				before = "{0}\n"
				require.NoError(t, f.Append([]byte(before)))
			}
			batch := []byte("{1}\n{2}\n{3}\n")
			for range 2 {
				writes = 1
				err := f.Append(batch)
				require.ErrorIs(t, err, syscall.ENOSPC)
				require.ErrorContains(t, err, path)
				assert.Equal(t, before, content(t, path), "a failed write leaves nothing")
			}
			syncs = 1
			require.ErrorIs(t, f.Append(batch), syscall.EIO)
			assert.Equal(t, before, content(t, path), "what was not synced does not count: it is written anew")
			require.NoError(t, f.Append(batch))
			assert.Equal(t, before+string(batch), content(t, path))
		})
	}
}

// A file whose name is not on the disk is lost with all that is in it. So the name is synced before anything counts as written, by whoever
// finds a file too: who made it may have ended before.
func TestNameIsSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	synced, failing := 0, 0
	open := func() *File {
		synced = 0
		f := newFile(t, path, Rotation{Megabytes: 1})
		f.syncDirectory = func(dir string) error {
			assert.Equal(t, filepath.Dir(path), dir)
			if failing > 0 {
				failing--
				return syscall.EIO
			}
			synced++
			return nil
		}
		return f
	}
	f := open()
	failing = 2
	require.ErrorIs(t, f.Append([]byte("{1}\n")), syscall.EIO)
	require.ErrorIs(t, f.Append([]byte("{1}\n")), syscall.EIO, "it is there by now, and is not known to be")
	require.NoError(t, f.Append([]byte("{1}\n")))
	assert.Equal(t, 1, synced)
	require.NoError(t, f.Append([]byte("{2}\n")))
	assert.Equal(t, 1, synced, "once will do")
	require.NoError(t, f.Append(line(1<<20, "a")))
	assert.Equal(t, 2, synced, "a new file by rotation")
	require.NoError(t, f.Close())

	f = open()
	require.NoError(t, f.Append([]byte("{3}\n")))
	assert.Equal(t, 1, synced, "a file that was there")
}

func TestFaultAtRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	var writes, syncs int
	f := newFile(t, path, Rotation{Megabytes: 1})
	f.faults = func(o output) output { return faulty{o, &writes, &syncs} }
	first, second := line(900_000, "a"), line(600_000, "b")
	require.NoError(t, f.Append(first))
	syncs = 1
	require.Error(t, f.Append(second))
	writes = 1
	require.Error(t, f.Append(second))
	require.NoError(t, f.Append(second))
	same(t, string(first)+string(second), strings.Join(files(t, path), ""))
}

func TestTornEnd(t *testing.T) {
	for _, torn := range []string{`{"half`, "\x00\x00\x00", `{"` + strings.Repeat("x", 200_000)} {
		for _, before := range []string{"", "{1}\n", strings.Repeat("{1}\n", 50_000)} {
			path := filepath.Join(t.TempDir(), "records.jsonl")
			require.NoError(t, os.WriteFile(path, []byte(before+torn), 0o600))
			require.NoError(t, newFile(t, path, Rotation{}).Append([]byte("{2}\n")))
			same(t, before+"{2}\n", content(t, path))
		}
	}
}

func TestNotOurs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "picture.png")
	require.NoError(t, os.WriteFile(path, []byte("\x89PNG"), 0o600))
	require.ErrorContains(t, newFile(t, path, Rotation{}).Append([]byte("{1}\n")), path+": is not a file of JSON lines")
	assert.Equal(t, "\x89PNG", content(t, path))
	require.ErrorContains(t, newFile(t, dir, Rotation{}).Append([]byte("{1}\n")), "is not a regular file")
	require.ErrorContains(t, newFile(t, os.DevNull, Rotation{}).Append([]byte("{1}\n")), "is not a regular file")
	require.ErrorContains(t, newFile(t, filepath.Join(path, "x.jsonl"), Rotation{}).Append([]byte("{1}\n")), path)
}

// Whoever moves, removes or cuts the file must not make lines vanish.
func TestSomebodyElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	f := newFile(t, path, Rotation{})
	require.NoError(t, f.Append([]byte("{1}\n")))
	require.NoError(t, os.Rename(path, path+".1"))
	require.NoError(t, f.Append([]byte("{2}\n")))
	assert.Equal(t, "{2}\n", content(t, path))
	require.NoError(t, os.Remove(path))
	require.NoError(t, f.Append([]byte("{3}\n")))
	assert.Equal(t, "{3}\n", content(t, path))
	require.NoError(t, os.Truncate(path, 0))
	require.NoError(t, f.Append([]byte("{4}\n")))
	assert.Equal(t, "{4}\n", content(t, path), "no hole")
	require.NoError(t, os.RemoveAll(filepath.Dir(path)))
	require.NoError(t, f.Append([]byte("{5}\n")))
	assert.Equal(t, "{5}\n", content(t, path))
}

func TestManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "records.jsonl")
	f := newFile(t, path, Rotation{Megabytes: 1})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 5 {
				assert.NoError(t, f.Append(line(100_000, strconv.Itoa(i))))
			}
		})
	}
	all.Wait()
	lines := strings.SplitAfter(strings.Join(files(t, path), ""), "\n")
	require.Len(t, lines, 21)
	for _, l := range lines[:20] {
		same(t, string(line(100_000, l[2:3])), l)
	}
}

func TestNewFileRefuses(t *testing.T) {
	for want, c := range map[string]struct {
		path string
		r    Rotation
	}{
		"the path is empty":          {"", Rotation{}},
		"megabytes: -1":              {"x", Rotation{Megabytes: -1}},
		"keep days: -1":              {"x", Rotation{KeepDays: -1}},
		"keep files: -1":             {"x", Rotation{KeepFiles: -1}},
		"every: 1ms is less than a ": {"x", Rotation{Every: time.Millisecond}},
	} {
		_, err := NewFile(c.path, c.r)
		require.ErrorContains(t, err, want)
	}
}
