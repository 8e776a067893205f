package stack

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
)

// ErrDiskFull says that the data directory cannot be written. Nothing is lost: free space and start again.
//
// # Why
//
// The embedded server closes a stream that it could not write until it is started again, whether or not there is space by
// then. To restart it under workers that hold orders in hand would be one more way to fail, and would fail again while the
// disk is full. The process ends instead, as it would by a kill, which costs nothing: what is kept outside it (systemd,
// Docker) starts it again, and a person reads why.
var ErrDiskFull = errors.New("disk full, free space and start again / 磁盘已满，请释放空间后重新启动")

const (
	// diskEvery is how often the embedded server is asked.
	diskEvery = 2 * time.Second
	// hastyStop is how long work in hand may take to stop on a full disk: its outcome cannot be kept any more.
	hastyStop = 5 * time.Second
)

// watchDisk ends the stack when the embedded server cannot write, until stop is called.
func (s *Stack) watchDisk() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.NewTicker(diskEvery); ; {
			select {
			case <-end:
				tick.Stop()
				return
			case <-tick.C:
				if err := s.server.Health(); err != nil {
					s.fail(err)
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// fullDisk marks an error that a full disk brought about, also one that does not show it: what could not be published ends
// as a time-out.
func (s *Stack) fullDisk(err error) error {
	if s.server == nil || err == nil || errors.Is(err, ErrDiskFull) {
		return err
	}
	full := errors.Is(err, bus.ErrRefusesWrites) || errors.Is(err, server.ErrDisk) || errors.Is(err, syscall.ENOSPC)
	if why := s.server.Health(); why != nil && !full {
		full, err = true, fmt.Errorf("%w (%w)", why, err)
	}
	if !full {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrDiskFull, s.o.DataDir, err)
}

// stopHastily stops, and waits for it no longer than hastyStop. What still runs ends with the process.
func (s *Stack) stopHastily() {
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = s.Stop() }()
	select {
	case <-stopped:
	case <-time.After(hastyStop):
	}
}
