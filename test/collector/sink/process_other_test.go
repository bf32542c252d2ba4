//go:build !linux

package sink_test

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
