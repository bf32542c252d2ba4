//go:build !linux

package servers

import "syscall"

// dieWithParent does nothing: only Linux can tie a child's life to ours.
func dieWithParent() *syscall.SysProcAttr { return nil }
