package transport

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tollgate-mesh/tollgate/adapter/secret"
)

// File is what became of one of the files that are read again and again.
type File struct {
	// Setting is the key that names the file.
	Setting string
	// Expires is the earliest end of the certificates in it that are used; zero where it holds none.
	Expires time.Time
	// Failures counts the new contents that could not be used.
	Failures uint64
	// Err is why what the file holds now is not used, if it is not.
	Err error
}

// lookEvery is how often files are read. They are a handful and small, so reading them costs less than to know which events a file
// system reports: a rename, a swap of the symbolic link above, or nothing at all.
const lookEvery = time.Second

// followed is what some files hold, together: it changes with them, and stays as it is while they hold nothing that can be used.
type followed[T any] struct {
	setting string
	paths   []string
	// parse makes the value of the files' contents, and says when it expires; zero for never.
	parse func(contents [][]byte) (T, time.Time, error)

	value atomic.Pointer[T]

	mu       sync.Mutex // guards everything below
	seen     [sha256.Size]byte
	expires  time.Time
	failures uint64
	err      error // of the contents that were seen last
}

// look reads the files and takes what is new. An error is told once: as long as nothing changes it returns false.
func (f *followed[T]) look() (changed bool, err error) {
	contents, err := readAll(f.paths)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := fingerprint(contents, err)
	if now == f.seen {
		return false, nil
	}
	f.seen = now
	var value T
	var expires time.Time
	if err == nil {
		if value, expires, err = f.parse(contents); err != nil {
			err = fmt.Errorf("%s: %w", strings.Join(f.paths, ", "), err)
		}
	}
	f.err = err
	if err != nil {
		f.failures++
		return true, fmt.Errorf("%s: %w", f.setting, err)
	}
	f.value.Store(&value)
	f.expires = expires
	return true, nil
}

func (f *followed[T]) file() File {
	f.mu.Lock()
	defer f.mu.Unlock()
	return File{Setting: f.setting, Expires: f.expires, Failures: f.failures, Err: f.err}
}

// follow looks again and again until ctx is done.
func (f *followed[T]) follow(ctx context.Context, logger *slog.Logger) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch changed, err := f.look(); {
		case err != nil:
			logger.Error("a file cannot be used; what it held before still holds", "setting", f.setting, "error", err)
		case changed:
			file := f.file()
			attributes := []any{"setting", f.setting}
			if !file.Expires.IsZero() {
				attributes = append(attributes, "expires", file.Expires.UTC().Format(time.RFC3339))
			}
			logger.Info("a file was read anew", attributes...)
		}
	}
}

func fingerprint(contents [][]byte, err error) [sha256.Size]byte {
	h := sha256.New()
	if err != nil {
		_, _ = io.WriteString(h, "error "+err.Error())
	}
	for _, content := range contents {
		sum := sha256.Sum256(content)
		_, _ = h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func readAll(paths []string) ([][]byte, error) {
	contents := make([][]byte, 0, len(paths))
	for _, path := range paths {
		content, err := secret.ReadFile(path)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}
