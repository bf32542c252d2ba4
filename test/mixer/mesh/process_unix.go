//go:build unix && !linux

package mesh

import "syscall"

// childAttributes puts a child in its own group. Only Linux can tie its life to ours.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
