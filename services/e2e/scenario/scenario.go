//go:build unix

// Package scenario runs Stockbridge as processes, records what happens to it, and leaves a history for package checker.
// It knows no fault and no promise: package chaos and the scenarios of planted bugs (package plant) do things to the run.
package scenario

import (
	"context"
	"syscall"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/wiring"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/procs"
)

// Setup is what a run consists of.
type Setup struct {
	// Folder is where the history goes.
	Folder  string
	History history.Setting
	// Processes.On is called too, after the event was recorded.
	Processes procs.Options
	Shape     procs.Shape
	// Judged reports whether a process is a worker whose events the checker needs.
	Judged func(procs.Happening) bool
	// Programs are built before anything starts; others are when they start.
	Programs []string
}

// Run is a scenario under way. What it asks itself goes directly to the servers.
type Run struct {
	Folder string
	Procs  *procs.Run
	Record *history.Recorder
	Bus    *bus.Bus

	ledger ledger.Ledger
	unfold []func()
	stop   func()
}

// Open starts everything but the workers, and starts recording.
func Open(ctx context.Context, s Setup) (_ *Run, err error) {
	r := &Run{Folder: s.Folder, stop: func() {}}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.Record, err = history.New(s.Folder, s.History); err != nil {
		return nil, err
	}
	r.closer(r.Record.Abandon)
	on := s.Processes.On
	s.Processes.On = func(h procs.Happening) {
		if s.Judged(h) {
			r.happened(h)
		}
		if on != nil {
			on(h)
		}
	}
	if r.Procs, err = procs.New(s.Processes); err != nil {
		return nil, err
	}
	r.closer(r.Procs.Close)
	if err := r.Procs.Build(ctx, s.Programs...); err != nil {
		return nil, err
	}
	if err := r.Procs.Stand(ctx, s.Shape); err != nil {
		return nil, err
	}
	if r.Bus, err = bus.Connect(ctx, bus.Options{URL: r.Procs.NATS.URL(), Name: "scenario", Log: zerolog.Nop()}); err != nil {
		return nil, err
	}
	r.closer(r.Bus.Close)
	r.stop = r.Record.Watch(ctx, r.Bus, r.Procs.Sandbox.Client)
	r.closer(func() { r.stop() })
	return r, nil
}

func (r *Run) closer(f func()) { r.unfold = append(r.unfold, f) }

// Ledger opens the workers' ledger, once.
func (r *Run) Ledger(ctx context.Context) (l ledger.Ledger, err error) {
	if r.ledger != nil {
		return r.ledger, nil
	}
	redis := ""
	if r.Procs.Redis != nil {
		redis = r.Procs.Redis.URL()
	}
	if r.ledger, err = wiring.Ledger(ctx, redis, r.Bus); err != nil {
		return nil, err
	}
	r.closer(func() { _ = r.ledger.Close() })
	return r.ledger, nil
}

// Finish reads the final state and closes the history. The run must have come to rest.
func (r *Run) Finish(ctx context.Context) error {
	r.stop()
	l, err := r.Ledger(ctx)
	if err != nil {
		return err
	}
	return r.Record.Finish(ctx, history.Sources{Bus: r.Bus, Ledger: l, JD: r.Procs.Sandbox.Client})
}

// Close ends everything. A history that was not finished stays incomplete.
func (r *Run) Close() {
	for i := len(r.unfold) - 1; i >= 0; i-- {
		r.unfold[i]()
	}
	r.unfold = nil
}

// happened records an event of a worker; what is done to servers is recorded as faults.
func (r *Run) happened(h procs.Happening) {
	p := history.Process{Name: h.Name, Program: h.Program, PID: h.Pid, At: h.At, Code: h.Code}
	switch {
	case h.What == procs.Started:
		p.What = history.Started
	case h.What == procs.Ended:
		p.What = history.Ended
	case h.Signal == syscall.SIGTERM:
		p.What = history.Termed
	case h.Signal == syscall.SIGKILL:
		p.What = history.Kill
	default:
		return
	}
	r.Record.Process(p)
}
