//go:build unix

// Package procs starts the parts of Stockbridge as processes on loopback, to kill, freeze or measure them: for the
// chaos and bench programs, and for tests. It knows how each part is started and when it is ready; it knows nothing of
// orders, and it links no test code.
//
//	r, err := procs.New(procs.Options{Dir: dir})
//	defer r.Close() // ends every process, whatever happened
//	err = r.Stand(ctx, procs.Shape{Nodes: 1, Redis: "everysec", Sandbox: &config}) // servers, sandbox, topology
//	pusher, err := r.Worker(ctx, procs.OrderPusher, "pusher-1", "PUSH_SLOTS=64")   // ready when it returns
//	pusher.Kill(); pusher.Start(ctx)                                               // same port, same settings
//
// # Why
//
// A process is ready when it says so (healthz, PING, readyz): nothing sleeps for a guess.
//
// Ports are chosen outside the range that the kernel uses for outgoing connections, and locked over all runs of this
// package on the host, so that a server that was killed gets its port back.
//
// Where the kernel can (Linux), children die with this process, also by SIGKILL or a panic. They are in their own
// process groups: Ctrl-C reaches them only through Close, so that the run can still be examined while it ends.
package procs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
)

// Programs that Build knows; any other main package may be named by its import path.
const (
	NATSServer   = "github.com/nats-io/nats-server/v2"
	JDSandbox    = "stockbridge/services/jd-sandbox"
	OrderPusher  = "stockbridge/services/order-pusher"
	Reconciler   = "stockbridge/services/reconciler"
	StatusPoller = "stockbridge/services/status-poller"
	StockSyncer  = "stockbridge/services/stock-syncer"
	VMIIngester  = "stockbridge/services/vmi-ingester"
	Bridgectl    = "stockbridge/services/bridgectl"
)

// Program is the import path of a service's program.
func Program(service string) string { return "stockbridge/services/" + service }

// Programs is all of them.
func Programs() []string {
	programs := []string{NATSServer, JDSandbox, Bridgectl}
	for _, service := range all.Services() {
		programs = append(programs, Program(service.Name))
	}
	return programs
}

// Options of a run. Only Dir is needed.
type Options struct {
	// Dir is the run's folder: data, logs, binaries. It stays after Close.
	Dir string
	// Bin holds the binaries; Dir/bin when empty. Several runs may share one.
	Bin string
	// Built says that Bin holds everything that will be started: nothing is built.
	Built bool
	// Overlay is a file for `go build -overlay`: the programs are then built with other sources.
	Overlay string
	// Data is where a server keeps its data, by "nats" and "redis", such as a separate file system; Dir for a missing
	// one.
	Data map[string]string
	// Source is a folder inside the workspace from which to build; the current one when empty.
	Source string
	// On receives events of processes as they happen, from several goroutines; it must not block. May be nil.
	On func(Happening)
}

// Run is what was started together. Its methods may be called by several goroutines; a single Process is for one.
type Run struct {
	// NATS, Redis and Sandbox are set by Stand, or by their own functions.
	NATS    *NATS
	Redis   *Redis
	Sandbox *Sandbox

	o       Options
	env     []string
	starter *starter
	ports   *ports

	mu    sync.Mutex
	all   []*Process
	built map[string]bool
	ended bool
}

// New makes an empty run.
func New(o Options) (*Run, error) {
	if o.Dir == "" {
		return nil, errors.New("start processes: no folder given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if o.Bin == "" {
		o.Bin = filepath.Join(dir, "bin")
	}
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, err
	}
	if o.On == nil {
		o.On = func(Happening) {}
	}
	for _, d := range []string{o.Dir, o.Bin} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the run's folder: %w", err)
		}
	}
	return &Run{o: o, starter: newStarter(), ports: &ports{}, built: map[string]bool{}}, nil
}

// Dir is the run's folder.
func (r *Run) Dir() string { return r.o.Dir }

// data is the folder of a server's data.
func (r *Run) data(server, name string) string {
	if dir := r.o.Data[server]; dir != "" {
		return filepath.Join(dir, name)
	}
	return filepath.Join(r.o.Dir, name)
}

// Close ends every process, the youngest first, and waits for them. It may be called twice.
func (r *Run) Close() {
	r.mu.Lock()
	r.ended = true
	all := r.all
	r.all = nil
	r.mu.Unlock()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].end()
	}
	r.starter.close()
	r.ports.close()
}

// Processes is what was started so far, ended ones included, oldest first.
func (r *Run) Processes() []*Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Process(nil), r.all...)
}

// Build builds programs by their import paths, once each. A program is built when it is started, if necessary; building
// all at once beforehand is quicker.
func (r *Run) Build(ctx context.Context, programs ...string) error {
	var missing []string
	r.mu.Lock()
	for _, p := range programs {
		if !r.built[p] && !r.o.Built {
			missing = append(missing, p)
		}
	}
	r.mu.Unlock()
	if len(missing) == 0 {
		return nil
	}
	args := []string{"build", "-trimpath", "-o", r.o.Bin + string(filepath.Separator)}
	if r.o.Overlay != "" {
		args = append(args, "-overlay", r.o.Overlay)
	}
	c := exec.CommandContext(ctx, "go", append(args, missing...)...)
	c.Dir = r.o.Source
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", strings.Join(missing, ", "), err, out)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range missing {
		r.built[p] = true
	}
	return nil
}

// Binary is where Build puts a program: named by its folder, without a version.
func (r *Run) Binary(program string) string {
	name := filepath.Base(program)
	if strings.HasPrefix(name, "v") && len(name) == 2 {
		name = filepath.Base(filepath.Dir(program))
	}
	return filepath.Join(r.o.Bin, name)
}

// Setenv sets what every worker and bridgectl command gets from then on, as KEY=VALUE. Later ones win.
func (r *Run) Setenv(pairs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.env = append(r.env, pairs...)
}

// Env is the workers' environment: the servers' addresses and what Setenv set. It contains none of this process's own
// settings, which could point a worker at servers outside the run.
func (r *Run) Env() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir(), "SELLER_SECRETS_DIR=" + r.o.Dir}
	if r.NATS != nil {
		env = append(env, "NATS_URL="+r.NATS.URL())
	}
	if r.Redis != nil {
		env = append(env, "REDIS_URL="+r.Redis.URL())
	}
	return append(env, r.env...)
}

// Worker builds a service and starts it under its own name, with further settings as KEY=VALUE. It is ready when Worker
// returns; its log is <name>.log in the run's folder.
func (r *Run) Worker(ctx context.Context, program, name string, settings ...string) (*Process, error) {
	if err := r.Build(ctx, program); err != nil {
		return nil, err
	}
	addr, err := r.Addr()
	if err != nil {
		return nil, err
	}
	env := append(r.Env(), "HTTP_ADDR="+addr, "LOG_LEVEL=info")
	return r.Start(ctx, Spec{
		Name: name, Program: r.Binary(program), Env: append(env, settings...), HTTP: "http://" + addr,
		Ready: asksFor("http://" + addr + "/readyz"),
	})
}

// Bridgectl runs an operator's command to its end, with input on its standard input, and returns what it printed. The
// error of a command that fails holds its output.
func (r *Run) Bridgectl(ctx context.Context, input string, args ...string) (string, error) {
	if err := r.Build(ctx, Bridgectl); err != nil {
		return "", err
	}
	c := exec.CommandContext(ctx, r.Binary(Bridgectl), args...)
	c.Env, c.Stdin = r.Env(), strings.NewReader(input)
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		return string(out), fmt.Errorf("bridgectl %s: %w\n%s%s", strings.Join(args, " "), err, out, said.String())
	}
	return string(out), nil
}

// Apply sets sellers up, as an operator does.
func (r *Run) Apply(ctx context.Context, setups ...*sellerv1.Setup) error {
	for _, s := range setups {
		text, err := seller.Render(s)
		if err != nil {
			return err
		}
		if _, err := r.Bridgectl(ctx, string(text), "seller", "apply", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}
