package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// fileSystem is what a disk queue needs of one. Tests put one under it that fails and forgets.
type fileSystem interface {
	// MakeDir makes the directory and its parents so that they outlive a power loss.
	MakeDir(dir string) error
	// Lock takes the file's lock for this process alone, or fails with errLocked.
	Lock(name string) (io.Closer, error)
	// Create makes a file that must not exist.
	Create(name string) (file, error)
	// Open opens a file; writable or not.
	Open(name string, writable bool) (file, error)
	// List returns the names in a directory.
	List(dir string) ([]string, error)
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes the directory's present entries outlive a power loss.
	SyncDir(dir string) error
}

// file is an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size returns the length.
	Size() (int64, error)
	// Truncate cuts the file.
	Truncate(size int64) error
	// Sync makes contents and length outlive a power loss.
	Sync() error
}

var errLocked = errors.New("the lock is held")

const (
	fileMode      = 0o600
	directoryMode = 0o700 // reports are nobody else's business
)

// osFS is the machine's file system.
type osFS struct{}

type osFile struct{ *os.File }

func (osFS) MakeDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); err == nil {
		return nil // or whatever it is: opening files in it will tell
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := (osFS{}).MakeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, directoryMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return osFS{}.SyncDir(parent)
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	// InUse of some other process may share the lock for a moment.
	const attempts, pause = 100, 5 * time.Millisecond
	for range attempts {
		if err = lockFile(f); !errors.Is(err, errLocked) {
			break
		}
		time.Sleep(pause)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return heldLock{f}, nil
}

// heldLock is a file whose lock is taken.
type heldLock struct{ file *os.File }

// Close gives the lock back by name: to close the file would leave it with a process that is just being started and shares the file until
// its program begins.
func (l heldLock) Close() error { return errors.Join(unlockFile(l.file), l.file.Close()) }

func (osFS) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Open(name string, writable bool) (file, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := os.OpenFile(name, flag, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) List(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	return names, errors.Join(err, d.Close())
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Sync() error { return syncData(f.File) }
