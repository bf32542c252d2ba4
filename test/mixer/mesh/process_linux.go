package mesh

import "syscall"

// childAttributes puts a child in its own group and lets the kernel end it when this process dies, however it dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
