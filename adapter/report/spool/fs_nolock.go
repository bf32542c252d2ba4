//go:build !unix || aix || solaris

package spool

import (
	"errors"
	"os"
)

// lockFile fails: without a lock that ends with the process two of them could spoil a directory.
func lockFile(*os.File) error {
	return errors.New("this operating system has no locks that a spool can use; keep reports in memory")
}

func unlockFile(*os.File) error { return nil }

// lockHeld says no: where there are no locks nobody has one.
func lockHeld(string) (bool, error) { return false, nil }
