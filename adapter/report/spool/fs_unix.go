//go:build unix && !aix && !solaris

package spool

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// lockFile takes the lock that ends with the process, however it ends.
func lockFile(f *os.File) error { return flock(f, syscall.LOCK_EX) }

func unlockFile(f *os.File) error { return flock(f, syscall.LOCK_UN) }

// lockHeld reports whether somebody has the lock of a file. A file that is not there is nobody's.
func lockHeld(name string) (bool, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err = flock(f, syscall.LOCK_SH); errors.Is(err, errLocked) {
		return true, f.Close()
	}
	return false, errors.Join(err, heldLock{f}.Close())
}

func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var locking error
	if err := conn.Control(func(fd uintptr) {
		locking = syscall.Flock(int(fd), how|syscall.LOCK_NB)
	}); err != nil {
		return err
	}
	if errors.Is(locking, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return locking
}
