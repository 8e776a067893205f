//go:build unix

package procs

import (
	"os/exec"
	"runtime"
)

// starter starts all processes from one OS thread that lives as long as the run: "die with the parent" refers to the
// thread that forked.
type starter struct {
	todo chan func()
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{todo: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for {
			select {
			case f := <-s.todo:
				f()
			case <-s.done:
				return
			}
		}
	}()
	return s
}

func (s *starter) start(c *exec.Cmd) error {
	err := make(chan error, 1)
	select {
	case s.todo <- func() { err <- c.Start() }:
		return <-err
	case <-s.done:
		return exec.ErrNotFound
	}
}

func (s *starter) close() {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
}
