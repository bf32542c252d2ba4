package spool

import (
	"errors"
	"os"
	"syscall"
)

// syncData syncs contents and length and not the times, which saves a journal commit where only contents changed.
func syncData(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncing error
	if err := conn.Control(func(fd uintptr) {
		for {
			syncing = syscall.Fdatasync(int(fd))
			if !errors.Is(syncing, syscall.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", syncing)
}
