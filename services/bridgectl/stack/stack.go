// Package stack runs all of Stockbridge in one process: broker, ledger, workers and, without credentials, a sandbox
// that plays JD. `bridgectl up`, the demo and the stories start it.
//
// The workers are the same functions that the separate programs run; nothing in them knows the difference.
package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
)

// Options of a stack. The zero value of each is usable except DataDir.
type Options struct {
	// DataDir holds everything that outlives the process. Only one process may use it at a time.
	DataDir string
	// NATSURL names servers to use instead of the embedded one; RedisURL a ledger instead of the embedded one.
	NATSURL, RedisURL worker.Secret
	// TokenKey seals the tokens that Stockbridge refreshes; when empty, a key is created and kept in DataDir.
	TokenKey worker.Secret
	// Trust is what set-ups may name on this machine.
	Trust seller.Trust
	// NATSPort of the embedded server; 4222 when 0, server.RandomPort for any.
	NATSPort int
	// NoSync lets the embedded server answer before it synced: for tests, whose data may be lost.
	NoSync bool
	// HTTPAddr of the health checks and metrics; empty or "off" for none.
	HTTPAddr string
	// SandboxAddr of the sandbox; empty or "off" for none. Nil Sandbox settings are those of DemoSandbox.
	SandboxAddr string
	Sandbox     *jdsandbox.Config
	// Ticks have other intervals than the services' own, for demos and tests.
	Ticks Ticks
	// Settings of workers by their names, each of the worker's own type; those of the environment (PUSH_…, POLL_…) and their
	// defaults for others.
	Settings map[string]any
	// Traces makes the spans; nil for the exporter of the environment (OTEL_…), which is none by default.
	Traces oteltrace.TracerProvider
	Log    zerolog.Logger
	// Grace is how long work in hand may take to finish; 40 s when 0.
	Grace time.Duration
}

// Stack is running until Stop.
type Stack struct {
	worker.Parts
	// NATSURL is where other programs connect, HTTPAt serves the health checks, SandboxURL serves the sandbox (""
	// without one); its gateway is at GatewayURL.
	NATSURL, HTTPAt, SandboxURL string
	// JD is the sandbox, nil without one.
	JD *jdsandbox.JD

	o       Options
	server  *server.Server // the embedded one
	closers []func()
	mu      sync.Mutex
	stop    context.CancelFunc
	workers *errgroup.Group
	started bool
	failed  chan error
}

// Start starts everything but the workers, and applies the topology.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	s := &Stack{o: o, failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = s.fullDisk(err)
			s.close()
		}
	}()
	if err := os.MkdirAll(o.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	unlock, err := lock(o.DataDir)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, unlock)
	s.NATSURL = o.NATSURL.Reveal()
	if s.NATSURL == "" {
		ns, err := server.Start(server.Options{Dir: filepath.Join(o.DataDir, "nats"), Port: o.NATSPort, SyncAlways: !o.NoSync, Log: o.Log})
		if err != nil {
			return nil, err
		}
		s.server = ns
		s.closers = append(s.closers, ns.Stop, s.watchDisk())
		s.NATSURL = ns.URL()
	}
	if o.Traces == nil {
		settings, err := worker.TracingFromEnvironment()
		if err != nil {
			return nil, err
		}
		traces, closeTraces, err := settings.Open(ctx, "bridgectl-up", o.Log)
		if err != nil {
			return nil, err
		}
		s.closers = append(s.closers, closeTraces)
		o.Traces = traces
	}
	b, err := bus.Connect(ctx, bus.Options{URL: s.NATSURL, Name: "bridgectl-up", Traces: o.Traces, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, b.Close)
	if _, err := b.Apply(ctx, bus.Topology{Services: o.Ticks.of(all.Bus())}); err != nil {
		return nil, err
	}
	if s.server != nil { // on a full disk it starts, but accepts nothing
		if err := b.CheckWrites(ctx); err != nil {
			return nil, err
		}
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.TokenKey == "" {
		if o.TokenKey, err = tokenKey(o.DataDir); err != nil {
			return nil, err
		}
	}
	parts, closeParts, err := worker.Open(ctx, b, worker.Options{Service: "bridgectl-up", RedisURL: o.RedisURL, TokenKey: o.TokenKey, Trust: o.Trust, Log: o.Log, Metrics: metrics, Grace: o.Grace})
	if err != nil {
		return nil, err
	}
	s.Parts = parts
	s.closers = append(s.closers, closeParts)
	if on(o.SandboxAddr) {
		if err := s.startSandbox(); err != nil {
			return nil, err
		}
	}
	if on(o.HTTPAddr) {
		at, stop, err := worker.Listen(o.HTTPAddr, &worker.Probes{Ready: parts.Ready, Metrics: metrics})
		if err != nil {
			return nil, err
		}
		s.HTTPAt = at
		s.closers = append(s.closers, stop)
	}
	return s, nil
}

const defaultGrace = 40 * time.Second

func on(addr string) bool { return addr != "" && addr != "off" }

func (s *Stack) startSandbox() error {
	config := s.o.Sandbox
	if config == nil {
		demo := DemoSandbox()
		demo.State = filepath.Join(s.o.DataDir, "sandbox.journal")
		config = &demo
	}
	jd, err := jdsandbox.New(*config)
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	s.JD = jd
	s.closers = append(s.closers, func() {
		if err := jd.Close(); err != nil {
			s.o.Log.Warn().Err(err).Msg("close the sandbox")
		}
	})
	listener, err := net.Listen("tcp", s.o.SandboxAddr)
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	web := &http.Server{Handler: jd, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serve the sandbox: %w", err))
		}
	}()
	s.closers = append(s.closers, func() { _ = web.Close(); <-ended })
	s.SandboxURL = "http://" + listener.Addr().String()
	return nil
}

// StartWorkers starts the workers, also after StopWorkers.
func (s *Stack) StartWorkers() error {
	services := all.Services()
	settings := make([]any, len(services))
	for i, service := range services {
		if own, given := s.o.Settings[service.Name]; given {
			settings[i] = own
			continue
		}
		own, err := service.FromEnvironment()
		if err != nil {
			return err
		}
		if s.JD != nil {
			own = service.Hurried(own)
		}
		settings[i] = own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return errors.New("the workers run already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.workers = cancel, &errgroup.Group{}
	for i, service := range services {
		shell := s.shell(service.Name)
		s.run(ctx, service.Name, func() error { return service.Serve(ctx, shell, settings[i]) })
	}
	s.started = true
	return nil
}

// shell is the environment of a worker. Metrics can be registered only once, so those of workers that were restarted in
// the same process are not shown.
func (s *Stack) shell(name string) *worker.Shell {
	parts := s.Parts
	if s.started {
		parts.Metrics = prometheus.NewRegistry()
	}
	return parts.Shell(name)
}

func (s *Stack) run(ctx context.Context, name string, run func() error) {
	s.workers.Go(func() error {
		err := run()
		if err == nil && ctx.Err() == nil {
			err = errors.New("it ended unexpectedly")
		}
		if err != nil && ctx.Err() == nil {
			s.fail(fmt.Errorf("%s: %w", name, err))
		}
		return err
	})
}

func (s *Stack) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// GatewayURL is where the sandbox at url answers as JD's gateway.
func GatewayURL(url string) string { return url + "/routerjson" }

// Failed yields the first error that makes the stack useless.
func (s *Stack) Failed() <-chan error { return s.failed }

// StopWorkers lets the workers finish what they have in hand.
func (s *Stack) StopWorkers() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop == nil {
		return nil
	}
	s.stop()
	err := s.workers.Wait()
	s.stop = nil
	return err
}

// Stop stops the workers, then everything else.
func (s *Stack) Stop() error {
	err := s.StopWorkers()
	s.close()
	return err
}

func (s *Stack) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// Apply sets a seller up as `bridgectl seller apply` does.
func (s *Stack) Apply(ctx context.Context, setup *sellerv1.Setup) error {
	var version uint64
	if now, ok := s.Sellers.Get(setup.Name); ok {
		version = now.Version
	}
	version, err := s.Sellers.Put(ctx, setup, version)
	if err != nil {
		return err
	}
	return Follow(ctx, s.Bus, setup, version, s.o.Ticks)
}
