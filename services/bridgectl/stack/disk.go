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
// The embedded server closes a stream that it could not write until it is restarted, even if there is space again.
// Restarting it under workers with orders in hand would add another failure, and would fail again while the disk is
// full. So the process ends, as if it were killed, which costs nothing: its supervisor (systemd, Docker) restarts it,
// and a person reads why.
var ErrDiskFull = errors.New("disk full, free space and start again / 磁盘已满，请释放空间后重新启动")

const (
	// diskEvery is how often the embedded server is checked.
	diskEvery = 2 * time.Second
	// hastyStop is how long work in hand may take to stop on a full disk: its outcome cannot be stored any longer.
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

// fullDisk marks an error that a full disk caused, also one that does not show it: a failed publish appears as a
// time-out.
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

// stopHastily stops, but waits no longer than hastyStop. What still runs ends with the process.
func (s *Stack) stopHastily() {
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = s.Stop() }()
	select {
	case <-stopped:
	case <-time.After(hastyStop):
	}
}
