package procs

import "syscall"

// attributes: a separate process group, and SIGKILL when this process is gone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
