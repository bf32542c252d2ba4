package sink_test

import "syscall"

// childAttributes lets the kernel end a child when this process dies, however it dies.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
