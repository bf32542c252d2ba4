// Package secret holds named secrets that are read from files and follow them when they change.
//
// Only SHA-256 digests are kept, since nothing needs more than to compare. A file that is missing, unreadable or empty makes
// its secret unavailable, with an error in place of the last value: whoever empties or removes a credential wants it gone.
package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/tollgate-mesh/tollgate/config"
)

// Bounds of a secret's file.
const (
	MaxFileBytes = 1 << 20
	MaxValues    = 10_000
)

// Sources says where secrets come from.
type Sources struct {
	// Directory holds one file a secret, named as the secret. Names that start with a dot are left out, which is what
	// Kubernetes puts beside a mounted Secret. Empty for none.
	Directory string
	// Files maps names to files. A name here hides a file of the directory.
	Files map[string]string
}

// Secret is a named secret. It stays the same value while its content follows the file.
type Secret struct {
	state atomic.Pointer[state]
}

type state struct {
	digests []config.Digest
	err     error
}

// Digests returns the SHA-256 digests of the values that are valid now, at least one, or why there are none.
func (s *Secret) Digests() ([]config.Digest, error) {
	now := s.state.Load()
	return now.digests, now.err
}

// Store is all secrets of a process.
type Store struct {
	sources Sources
	logger  *slog.Logger
	recheck time.Duration

	mu      sync.RWMutex // guards secrets
	secrets map[string]*Secret
}

// Open reads all secrets once. It fails where the directory cannot be listed, because then no name could be told from a
// mistyped one; a secret whose own file cannot be read is merely unavailable.
func Open(sources Sources, logger *slog.Logger) (*Store, error) {
	s := &Store{sources: sources, logger: logger, recheck: defaultRecheck, secrets: map[string]*Secret{}}
	if sources.Directory != "" {
		if _, err := os.ReadDir(sources.Directory); err != nil {
			return nil, fmt.Errorf("secrets.directory: %w", err)
		}
	}
	s.reload()
	return s, nil
}

// Secret returns the named secret, and false where neither the files nor the directory ever had one of that name.
func (s *Store) Secret(name string) (*Secret, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	secret, ok := s.secrets[name]
	return secret, ok
}

// Names returns the names of all secrets, sorted.
func (s *Store) Names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.secrets))
}

// Unavailable returns the names of the secrets that have no valid value now, sorted.
func (s *Store) Unavailable() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var names []string
	for name, secret := range s.secrets {
		if _, err := secret.Digests(); err != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

const (
	// settle lets a burst of events, such as a Secret's symlink swap, end before the files are read.
	settle = 50 * time.Millisecond
	// defaultRecheck finds changes on file systems that report none.
	defaultRecheck = 30 * time.Second
)

// Watch follows the files until ctx is done. Where the system reports no changes it looks every 30 seconds.
func (s *Store) Watch(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.logger.Warn("secrets are looked at every 30s, because the system reports no file changes", "error", err)
		watcher = nil
	} else {
		defer func() { _ = watcher.Close() }()
	}
	// A change between reading and watching would be missed, so it is: watch, then read.
	unwatched := map[string]bool{}
	look := func() {
		s.watchDirectories(watcher, unwatched)
		s.reload()
	}
	look()
	poll := time.NewTicker(s.recheck)
	defer poll.Stop()
	var (
		events  <-chan fsnotify.Event
		errs    <-chan error
		settled <-chan time.Time
	)
	if watcher != nil {
		events, errs = watcher.Events, watcher.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			if settled == nil {
				settled = time.After(settle)
			}
		case err := <-errs:
			s.logger.Warn("watching secrets", "error", err)
			look()
		case <-settled:
			settled = nil
			look()
		case <-poll.C:
			look()
		}
	}
}

// watchDirectories watches every directory, those that were missing or replaced since the last time among them. It remembers
// in unwatched which cannot be watched, to say so once.
func (s *Store) watchDirectories(watcher *fsnotify.Watcher, unwatched map[string]bool) {
	if watcher == nil {
		return
	}
	for directory := range s.directories() {
		err := watcher.Add(directory)
		if err != nil && !unwatched[directory] {
			s.logger.Warn("secrets in a directory are looked at every 30s, because it cannot be watched", "directory", directory, "error", err)
		}
		unwatched[directory] = err != nil
	}
}

// directories returns where a change shows: the files' own directories, not the files, because a file is replaced by a rename.
func (s *Store) directories() map[string]bool {
	directories := map[string]bool{}
	if s.sources.Directory != "" {
		directories[s.sources.Directory] = true
	}
	for _, file := range s.sources.Files {
		directories[filepath.Dir(file)] = true
	}
	return directories
}

// reload reads every file. A secret whose file is gone stays known and becomes unavailable. Only one reload runs at a time.
func (s *Store) reload() {
	paths := map[string]string{}
	if s.sources.Directory != "" {
		entries, err := os.ReadDir(s.sources.Directory)
		if err != nil {
			s.logger.Error("secrets directory", "error", err)
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), ".") && !entry.IsDir() {
				paths[entry.Name()] = filepath.Join(s.sources.Directory, entry.Name())
			}
		}
	}
	maps.Copy(paths, s.sources.Files)
	s.mu.RLock()
	for name := range s.secrets {
		if _, ok := paths[name]; !ok {
			paths[name] = filepath.Join(s.sources.Directory, name)
		}
	}
	s.mu.RUnlock()

	for name, path := range paths {
		// Without the lock: a file system that hangs must not hold up those who look for other secrets.
		digests, err := read(path)
		s.publish(name, &state{digests: digests, err: err})
	}
}

// publish makes now the state of a secret, which may be new.
func (s *Store) publish(name string, now *state) {
	s.mu.Lock()
	secret, known := s.secrets[name]
	if !known {
		secret = &Secret{}
		s.secrets[name] = secret
	}
	before := secret.state.Swap(now)
	s.mu.Unlock()
	switch {
	case now.err != nil && (!known || before.err == nil):
		s.logger.Error("a secret is unavailable", "secret", name, "error", now.err)
	case now.err == nil && known && !slices.Equal(before.digests, now.digests):
		s.logger.Info("a secret changed", "secret", name, "values", len(now.digests))
	}
}

// read returns the digests of a file's values: one value a line, white space around it and empty lines left out, so that the
// newline which editors add is no part of it and several values can be valid during a rotation.
func read(path string) ([]config.Digest, error) {
	content, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	var digests []config.Digest
	for line := range bytes.Lines(content) {
		if value := bytes.TrimSpace(line); len(value) > 0 {
			digests = append(digests, sha256.Sum256(value))
		}
	}
	switch {
	case len(digests) == 0:
		return nil, fmt.Errorf("the file %s holds no value", path)
	case len(digests) > MaxValues:
		return nil, fmt.Errorf("the file %s holds %d values; use at most %d", path, len(digests), MaxValues)
	}
	return digests, nil
}

// ReadFile returns the content of a regular file of at most MaxFileBytes.
func ReadFile(path string) ([]byte, error) {
	// To open a named pipe would wait for somebody to write.
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the file %s does not exist", path)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err == nil && len(content) > MaxFileBytes {
		err = fmt.Errorf("the file %s has more than %d bytes", path, MaxFileBytes)
	}
	return content, err
}
