package secret

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tollgate-mesh/tollgate/adapter/logtest"
	"github.com/tollgate-mesh/tollgate/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a change may take to show. It takes milliseconds; a machine under load may need more.
const patience = 2 * time.Minute

// value makes a credential that tests can find again wherever it should not be.
func value(name string) string { return "planted-" + name }

func digests(values ...string) []config.Digest {
	var all []config.Digest
	for _, v := range values {
		all = append(all, sha256.Sum256([]byte(v)))
	}
	return all
}

func open(t *testing.T, sources Sources) (*Store, *logtest.Buffer) {
	t.Helper()
	written := &logtest.Buffer{}
	store, err := Open(sources, slog.New(slog.NewTextHandler(written, &slog.HandlerOptions{Level: slog.LevelDebug})))
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() { // such as for want of an inotify instance, of which a user has few
			t.Log(written.String())
		}
		assert.NotContains(t, written.String(), "planted")
		for name := range store.secrets {
			for _, digest := range store.secrets[name].state.Load().digests {
				assert.NotContains(t, written.String(), hex.EncodeToString(digest[:4]))
			}
		}
	})
	return store, written
}

// watch follows the files until the test ends.
func watch(t *testing.T, store *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- store.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

// replace puts a complete file in the place of another, as careful tools do.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".new", content)
	require.NoError(t, os.Rename(path+".new", path))
}

func requireValues(t *testing.T, store *Store, name string, values ...string) {
	t.Helper()
	secret, ok := store.Secret(name)
	require.True(t, ok, name)
	got, err := secret.Digests()
	require.NoError(t, err)
	require.Equal(t, digests(values...), got)
}

func requireUnavailable(t *testing.T, store *Store, name, why string) {
	t.Helper()
	secret, ok := store.Secret(name)
	require.True(t, ok, name)
	got, err := secret.Digests()
	require.ErrorContains(t, err, why)
	require.NotContains(t, err.Error(), "planted")
	require.Empty(t, got, "an unavailable secret must not keep its last value")
	require.Contains(t, store.Unavailable(), name)
}

func eventuallyValues(t *testing.T, store *Store, name string, values ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		secret, ok := store.Secret(name)
		if !ok {
			return false
		}
		got, err := secret.Digests()
		return err == nil && slices.Equal(got, digests(values...))
	}, patience, 5*time.Millisecond)
}

func eventuallyUnavailable(t *testing.T, store *Store, name, why string) {
	t.Helper()
	secret, ok := store.Secret(name)
	require.True(t, ok, name)
	require.Eventually(t, func() bool {
		_, err := secret.Digests()
		return err != nil && strings.Contains(err.Error(), why)
	}, patience, 5*time.Millisecond)
	requireUnavailable(t, store, name, why)
}

func TestContent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content string
		values  []string
		problem string
	}{
		"one value":               {content: value("a"), values: []string{value("a")}},
		"trailing newline":        {content: value("a") + "\n", values: []string{value("a")}},
		"Windows' newline":        {content: value("a") + "\r\n" + value("b") + "\r\n", values: []string{value("a"), value("b")}},
		"several, for a rotation": {content: value("old") + "\n" + value("new") + "\n", values: []string{value("old"), value("new")}},
		"empty lines and spaces":  {content: "\n\n  " + value("a") + " \t\n \n" + value("b"), values: []string{value("a"), value("b")}},
		"spaces inside":           {content: value("a b") + "\n", values: []string{value("a b")}},
		"no text":                 {content: "planted\x00\xff", values: []string{"planted\x00\xff"}},
		"empty":                   {problem: "holds no value"},
		"only white space":        {content: " \n\t\r\n\n", problem: "holds no value"},
		"as large as may be":      {content: strings.Repeat("p", MaxFileBytes), values: []string{strings.Repeat("p", MaxFileBytes)}},
		"too large":               {content: value("a") + "\n" + strings.Repeat(" ", MaxFileBytes), problem: "has more than 1048576 bytes"},
		"too many values":         {content: strings.Repeat(value("a")+"\n", MaxValues+1), problem: "holds 10001 values; use at most 10000"},
		"as many as may be":       {content: strings.Repeat(value("a")+"\n", MaxValues), values: slices.Repeat([]string{value("a")}, MaxValues)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "file")
			write(t, path, c.content)
			store, _ := open(t, Sources{Files: map[string]string{"key": path}})
			if c.problem == "" {
				requireValues(t, store, "key", c.values...)
				assert.Empty(t, store.Unavailable())
			} else {
				requireUnavailable(t, store, "key", c.problem)
			}
		})
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	write(t, filepath.Join(directory, "one"), value("one"))
	write(t, filepath.Join(directory, "two.key"), value("two"))
	write(t, filepath.Join(directory, "hidden"), value("hidden by the directory"))
	write(t, filepath.Join(directory, ".dot"), value("dot"))
	write(t, filepath.Join(directory, "..dots", "file"), value("dots"))
	write(t, filepath.Join(directory, "lost+found", "file"), value("lost"))
	elsewhere := filepath.Join(t.TempDir(), "file")
	write(t, elsewhere, value("from the file"))
	store, written := open(t, Sources{Directory: directory, Files: map[string]string{"hidden": elsewhere, ".named": elsewhere}})

	requireValues(t, store, "one", value("one"))
	requireValues(t, store, "two.key", value("two"))
	requireValues(t, store, "hidden", value("from the file"))
	requireValues(t, store, ".named", value("from the file"))
	for _, name := range []string{".dot", "..dots", "lost+found", "", "three", "../one"} {
		_, ok := store.Secret(name)
		assert.False(t, ok, name)
	}
	assert.Empty(t, store.Unavailable())
	assert.Empty(t, written.String())
}

func TestOpenFailsWithoutItsDirectory(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "away")
	_, err := Open(Sources{Directory: directory}, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "secrets.directory: open "+directory)

	file := filepath.Join(t.TempDir(), "file")
	write(t, file, value("a"))
	_, err = Open(Sources{Directory: file}, slog.New(slog.DiscardHandler))
	assert.ErrorContains(t, err, "secrets.directory: ")
}

func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	pipe := filepath.Join(directory, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	loop := filepath.Join(directory, "loop")
	require.NoError(t, os.Symlink(loop, loop))
	dangling := filepath.Join(directory, "dangling")
	require.NoError(t, os.Symlink(filepath.Join(directory, "nothing"), dangling))
	store, written := open(t, Sources{Files: map[string]string{
		"away": filepath.Join(directory, "away"), "directory": directory, "pipe": pipe, "loop": loop, "dangling": dangling,
	}})
	requireUnavailable(t, store, "away", "away does not exist")
	requireUnavailable(t, store, "directory", "is no regular file")
	requireUnavailable(t, store, "pipe", "is no regular file")
	requireUnavailable(t, store, "loop", "loop")
	requireUnavailable(t, store, "dangling", "dangling does not exist")
	assert.Equal(t, []string{"away", "dangling", "directory", "loop", "pipe"}, store.Unavailable())
	assert.Equal(t, 5, strings.Count(written.String(), "a secret is unavailable"))
}

func TestWatchFollowsAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	store, written := open(t, Sources{Files: map[string]string{"key": path}})
	store.recheck = time.Hour // only the system's word counts here
	requireUnavailable(t, store, "key", "does not exist")
	secret, _ := store.Secret("key")
	watch(t, store)

	replace(t, path, value("first"))
	eventuallyValues(t, store, "key", value("first"))
	replace(t, path, value("first")+"\n"+value("second"))
	eventuallyValues(t, store, "key", value("first"), value("second"))
	write(t, path, value("in place"))
	eventuallyValues(t, store, "key", value("in place"))
	require.NoError(t, os.Truncate(path, 0))
	eventuallyUnavailable(t, store, "key", "holds no value")
	write(t, path, value("filled again"))
	eventuallyValues(t, store, "key", value("filled again"))
	require.NoError(t, os.Remove(path))
	eventuallyUnavailable(t, store, "key", "does not exist")
	write(t, path, value("back"))
	eventuallyValues(t, store, "key", value("back"))
	assert.Empty(t, store.Unavailable())

	same, _ := store.Secret("key")
	assert.Same(t, secret, same, "who holds a secret keeps seeing its changes")
	assert.Contains(t, written.String(), `msg="a secret changed" secret=key values=2`)
	assert.Contains(t, written.String(), `level=ERROR msg="a secret is unavailable" secret=key`)
}

func TestWatchFollowsADirectory(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	store, _ := open(t, Sources{Directory: directory})
	store.recheck = time.Hour
	_, ok := store.Secret("late")
	require.False(t, ok)
	watch(t, store)

	replace(t, filepath.Join(directory, "late"), value("late"))
	eventuallyValues(t, store, "late", value("late"))
	require.NoError(t, os.Remove(filepath.Join(directory, "late")))
	eventuallyUnavailable(t, store, "late", "does not exist")
	write(t, filepath.Join(directory, "late"), value("again"))
	eventuallyValues(t, store, "late", value("again"))
}

// mount writes a volume as the kubelet does: the files are links into a directory that one rename replaces.
type mount struct {
	directory string
	version   int
}

func (m *mount) update(t *testing.T, files map[string]string) {
	t.Helper()
	m.version++
	data, old := fmt.Sprintf("..%d", m.version), fmt.Sprintf("..%d", m.version-1)
	require.NoError(t, os.MkdirAll(filepath.Join(m.directory, data), 0o700))
	for name, content := range files {
		write(t, filepath.Join(m.directory, data, name), content)
	}
	require.NoError(t, os.Symlink(data, filepath.Join(m.directory, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(m.directory, "..data_tmp"), filepath.Join(m.directory, "..data")))
	for name := range files {
		if _, err := os.Lstat(filepath.Join(m.directory, name)); err != nil {
			require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(m.directory, name)))
		}
	}
	entries, err := os.ReadDir(m.directory)
	require.NoError(t, err)
	for _, entry := range entries {
		if _, ok := files[entry.Name()]; !ok && !strings.HasPrefix(entry.Name(), ".") {
			require.NoError(t, os.Remove(filepath.Join(m.directory, entry.Name())))
		}
	}
	require.NoError(t, os.RemoveAll(filepath.Join(m.directory, old)))
}

func TestWatchFollowsAKubernetesVolume(t *testing.T) {
	t.Parallel()
	for name, sources := range map[string]func(directory string) Sources{
		"as the directory": func(directory string) Sources { return Sources{Directory: directory} },
		"as files": func(directory string) Sources {
			return Sources{Files: map[string]string{"key": filepath.Join(directory, "key"), "other": filepath.Join(directory, "other")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &mount{directory: t.TempDir()}
			m.update(t, map[string]string{"key": value("one"), "other": value("other")})
			store, _ := open(t, sources(m.directory))
			store.recheck = time.Hour
			requireValues(t, store, "key", value("one"))
			watch(t, store)
			m.update(t, map[string]string{"key": value("two"), "other": value("other")})
			eventuallyValues(t, store, "key", value("two"))
			m.update(t, map[string]string{"key": "", "other": value("other")})
			eventuallyUnavailable(t, store, "key", "holds no value")
			m.update(t, map[string]string{"other": value("other")})
			eventuallyUnavailable(t, store, "key", "does not exist")
			requireValues(t, store, "other", value("other"))
			m.update(t, map[string]string{"key": value("three"), "other": value("other")})
			eventuallyValues(t, store, "key", value("three"))
		})
	}
}

// What changed after Open had read it, and before Watch listened, must not wait for the next look.
func TestWatchSeesWhatChangedBeforeIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, value("before"))
	store, _ := open(t, Sources{Files: map[string]string{"key": path}})
	store.recheck = time.Hour
	replace(t, path, value("after"))
	watch(t, store)
	eventuallyValues(t, store, "key", value("after"))
}

// The system says nothing of a file behind a link to another directory.
func TestWatchLooksWhereNothingIsReported(t *testing.T) {
	t.Parallel()
	target := filepath.Join(t.TempDir(), "target")
	write(t, target, value("one"))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(target, link))
	store, _ := open(t, Sources{Files: map[string]string{"key": link}})
	store.recheck = 20 * time.Millisecond
	watch(t, store)
	replace(t, target, value("two"))
	eventuallyValues(t, store, "key", value("two"))
	require.NoError(t, os.Remove(target))
	eventuallyUnavailable(t, store, "key", "does not exist")
}

// A directory that comes late, or is replaced whole, is watched from the next look on.
func TestWatchFollowsDirectoriesThatComeAndGo(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "directory")
	path := filepath.Join(directory, "file")
	store, written := open(t, Sources{Files: map[string]string{"key": path}})
	store.recheck = 20 * time.Millisecond
	watch(t, store)
	write(t, path, value("one"))
	eventuallyValues(t, store, "key", value("one"))
	require.NoError(t, os.Rename(directory, directory+".old"))
	eventuallyUnavailable(t, store, "key", "does not exist")
	write(t, path, value("two"))
	eventuallyValues(t, store, "key", value("two"))
	assert.LessOrEqual(t, strings.Count(written.String(), "cannot be watched"), 2, "said once each time it is away")
}

// The looks in between would hide it in the test above: what was missing or replaced is watched again, and not only looked at.
func TestDirectoriesAreWatchedAgain(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "directory")
	path := filepath.Join(directory, "file")
	store, _ := open(t, Sources{Files: map[string]string{"key": path}})
	watcher, err := fsnotify.NewWatcher()
	require.NoError(t, err)
	defer watcher.Close()
	unwatched := map[string]bool{}
	store.watchDirectories(watcher, unwatched)
	require.Equal(t, map[string]bool{directory: true}, unwatched)
	for range 2 {
		write(t, path, value("first"))
		store.watchDirectories(watcher, unwatched)
		require.Equal(t, map[string]bool{directory: false}, unwatched)
		replace(t, path, value("second"))
		awaitEvent(t, watcher, path, fsnotify.Create)
		require.NoError(t, os.RemoveAll(directory))
		awaitEvent(t, watcher, directory, fsnotify.Remove)
	}
}

func awaitEvent(t *testing.T, watcher *fsnotify.Watcher, path string, op fsnotify.Op) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case event := <-watcher.Events:
			if event.Name == path && event.Has(op) {
				return
			}
		case <-timeout:
			require.Fail(t, "no event", "%s %s", op, path)
		}
	}
}

func TestReadersDuringReload(t *testing.T) {
	t.Parallel()
	m := &mount{directory: t.TempDir()}
	version := func(i int) string { return value(strconv.Itoa(i % 7)) }
	update := func(i int) {
		m.update(t, map[string]string{"key": version(i) + "\n" + version(i), "other": version(i)})
	}
	known := map[config.Digest]bool{}
	for i := range 7 {
		known[digests(version(i))[0]] = true
	}
	update(0)
	store, _ := open(t, Sources{Directory: m.directory})
	watch(t, store)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				secret, ok := store.Secret("key")
				if !assert.True(t, ok) {
					return
				}
				got, err := secret.Digests()
				if err != nil {
					assert.Empty(t, got)
					continue
				}
				if !assert.Len(t, got, 2) || !assert.Equal(t, got[0], got[1], "half of two versions") || !assert.True(t, known[got[0]]) {
					return
				}
				_ = store.Unavailable()
			}
		})
	}
	for i := range 30 {
		update(i)
		// The pace at which reloads and updates meet.
		time.Sleep(settle / 5)
	}
	close(stop)
	readers.Wait()
}
