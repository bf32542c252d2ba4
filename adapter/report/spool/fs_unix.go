//go:build unix && !aix && !solaris

package spool

import (
	"errors"
	"os"
	"syscall"
)

// lockFile takes the lock that ends with the process, however it ends.
func lockFile(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var locking error
	if err := conn.Control(func(fd uintptr) {
		locking = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB)
	}); err != nil {
		return err
	}
	if errors.Is(locking, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return locking
}
