//go:build unix

package procs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec is how a process is started.
type Spec struct {
	// Name is unique in the run; the log is <name>.log.
	Name string
	// Program is the binary, Env its whole environment.
	Program string
	Args    []string
	Env     []string
	// HTTP is where its health checks and metrics are; may be empty.
	HTTP string
	// Ready is called until it returns nil; with a nil function the process is ready at once.
	Ready func(ctx context.Context) error
}

// Happening is an event of a process.
type Happening struct {
	// Name is the process's, Program that of its binary.
	Name, Program string
	Pid           int
	// What is Started, Ended, or Signalled with the Signal.
	What   What
	Signal syscall.Signal
	// At is just before a signal was sent, else just after the event.
	At time.Time
	// Code is the exit code, −1 when a signal ended it.
	Code int
}

// What can happen.
type What string

// The three of them.
const (
	Started   What = "started"
	Signalled What = "signalled"
	Ended     What = "ended"
)

func (h Happening) String() string {
	switch h.What {
	case Signalled:
		return fmt.Sprintf("%s (%d): %s", h.Name, h.Pid, h.Signal)
	case Ended:
		return fmt.Sprintf("%s (%d) ended with %d", h.Name, h.Pid, h.Code)
	default:
		return fmt.Sprintf("%s (%d) %s", h.Name, h.Pid, h.What)
	}
}

// happened calls On.
func (p *Process) happened(h Happening) {
	h.Name, h.Program = p.Name, filepath.Base(p.Program)
	p.run.o.On(h)
}

const (
	// readyWithin is how long a process may take until it is ready, measured on two slow, busy cores.
	readyWithin = 60 * time.Second
	// stopWithin is how long a process may take to end when the run closes.
	stopWithin = 5 * time.Second
	askEvery   = 10 * time.Millisecond
)

// ErrEnded says that a process ended while something waited for it.
var ErrEnded = errors.New("ended")

// Process is a program that runs, or ran and can be started again.
type Process struct {
	Spec
	run *Run
	log string

	mu    sync.Mutex
	cmd   *exec.Cmd
	gone  chan struct{}
	err   error
	runs  int
	spent time.Duration
}

// Start starts a process and waits until it is ready.
func (r *Run) Start(ctx context.Context, s Spec) (*Process, error) {
	p, err := r.launch(s)
	if err != nil {
		return nil, err
	}
	return p, p.ready(ctx)
}

// launch starts a process without waiting for it.
func (r *Run) launch(s Spec) (*Process, error) {
	p := &Process{Spec: s, run: r, log: filepath.Join(r.o.Dir, s.Name+".log")}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, fmt.Errorf("start %s: the run is closed", s.Name)
	}
	for _, other := range r.all {
		if other.Name == s.Name {
			return nil, fmt.Errorf("start %s: there is one of that name already", s.Name)
		}
	}
	if err := p.spawn(); err != nil {
		return nil, err
	}
	r.all = append(r.all, p)
	return p, nil
}

// Start restarts it unchanged, and waits until it is ready. A running process is left alone.
func (p *Process) Start(ctx context.Context) error {
	if err := p.relaunch(); err != nil {
		return err
	}
	return p.ready(ctx)
}

func (p *Process) relaunch() error {
	p.run.mu.Lock()
	defer p.run.mu.Unlock()
	if p.run.ended {
		return fmt.Errorf("start %s: the run is closed", p.Name)
	}
	if p.Alive() {
		return nil
	}
	return p.spawn()
}

// spawn starts the process. Its log is continued.
func (p *Process) spawn() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer log.Close()
	c := exec.Command(p.Program, p.Args...)
	c.Env, c.Stdout, c.Stderr, c.Dir = p.Env, log, log, p.run.o.Dir
	c.SysProcAttr = attributes()
	if err := p.run.starter.start(c); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	gone := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.gone, p.err = c, gone, nil
	p.runs++
	p.mu.Unlock()
	p.happened(Happening{What: Started, Pid: c.Process.Pid, At: time.Now()})
	go func() {
		err := c.Wait()
		p.mu.Lock()
		p.err = err
		p.spent += c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		p.mu.Unlock()
		p.happened(Happening{What: Ended, Pid: c.Process.Pid, At: time.Now(), Code: c.ProcessState.ExitCode()})
		close(gone)
	}()
	return nil
}

// ready waits until the process reports that it is.
func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err := p.Until(ctx, p.Ready)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w\n%s", p.Name, err, p.Tail(4<<10))
	}
	return nil
}

// Until calls cond until it is nil, ctx ends or the process does (ErrEnded). The error has cond's last error.
func (p *Process) Until(ctx context.Context, cond func(context.Context) error) error {
	if cond == nil {
		return nil
	}
	gone := p.Done()
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("%w: %w", ErrEnded, err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(askEvery):
		}
	}
}

// Pid is the number of the present or last process.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Runs is how often it was started.
func (p *Process) Runs() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs
}

// Done is closed when the present process has ended.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// Alive reports whether the process runs, a paused one included.
func (p *Process) Alive() bool {
	select {
	case <-p.Done():
		return false
	default:
		return true
	}
}

// Signal sends a signal. It is an error if the process has ended.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	process := p.cmd.Process
	p.mu.Unlock()
	at := time.Now()
	if err := process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	p.happened(Happening{What: Signalled, Signal: s, Pid: process.Pid, At: at})
	return nil
}

// Kill ends it by SIGKILL and waits until it is gone. It is an error if it has ended, because nothing was killed.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.Done()
	return nil
}

// Pause freezes the process (SIGSTOP): its connections stay open and nothing answers. Continue wakes it.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Continue wakes a paused process.
func (p *Process) Continue() error { return p.Signal(syscall.SIGCONT) }

// Term asks it to end (SIGTERM); Wait returns how that went.
func (p *Process) Term() error { return p.Signal(syscall.SIGTERM) }

// Wait waits for its end and returns its error: nil for exit code 0.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.Done():
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.Name, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.Name, p.err)
	}
	return nil
}

// Stop is Term and Wait.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Term(); err != nil {
		return err
	}
	return p.Wait(ctx)
}

// end stops it in order if possible, else kills it.
func (p *Process) end() {
	if !p.Alive() {
		return
	}
	_ = p.Signal(syscall.SIGCONT) // it may have ended meanwhile, which is wanted
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.Done():
	case <-time.After(stopWithin):
		_ = p.Signal(syscall.SIGKILL)
		<-p.Done()
	}
}

// LogFile is where its output goes, of all its runs.
func (p *Process) LogFile() string { return p.log }

// Tail is the last n bytes of its log, for a failure's text.
func (p *Process) Tail(n int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(raw) > n {
		raw = raw[len(raw)-n:]
	}
	return string(raw)
}

// Usage is what a process costs.
type Usage struct {
	// CPU is user and system time of all runs, to a hundredth of a second.
	CPU time.Duration
	// Resident is the memory of the present run, in bytes; Peak its maximum. 0 when it does not run.
	Resident, Peak int64
}

// ticksPerSecond is the kernel's USER_HZ, which is 100 wherever Go runs on Linux.
const ticksPerSecond = 100

// Usage returns what it has cost so far, from /proc (Linux only).
func (p *Process) Usage() (Usage, error) {
	p.mu.Lock()
	u, pid := Usage{CPU: p.spent}, p.cmd.Process.Pid
	p.mu.Unlock()
	if !p.Alive() {
		return u, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, fmt.Errorf("look at %s: %w", p.Name, err)
	}
	// The name, in brackets, may hold anything; user and system time are the 12th and 13th fields after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("look at %s: /proc/%d/stat is too short", p.Name, pid)
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("look at %s: %w", p.Name, err)
		}
		u.CPU += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, fmt.Errorf("look at %s: %w", p.Name, err)
	}
	for line := range strings.Lines(string(status)) {
		key, rest, _ := strings.Cut(line, ":")
		var kib int64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			continue
		}
		switch key {
		case "VmRSS":
			u.Resident = kib << 10
		case "VmHWM":
			u.Peak = kib << 10
		}
	}
	return u, nil
}

// asksFor is a readiness check: a GET of url is answered with 200.
func asksFor(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, res.Status)
		}
		return nil
	}
}
