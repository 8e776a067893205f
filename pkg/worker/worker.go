// Package worker is the shell of every service: settings, log, connections, health, metrics, signals.
//
// A service is a function that gets a Shell and its own settings and serves until its ctx ends. The package knows
// what services depend on and nothing of what they do.
//
// Start: the settings (all faults at once), the probes (not ready yet), NATS (waited for), its topology (a difference
// is fatal), the ledger (waited for while it is down), the sellers. Stop: a signal ends ctx, the service finishes its
// work within GRACE, then everything closes in the reverse order. A second signal kills.
package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/healthcheck"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/ledgermetrics"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/retry"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
)

// Parts is what services depend on. Several services of one process share them.
type Parts struct {
	Log        zerolog.Logger
	Bus        *bus.Bus
	Ledger     ledger.Ledger
	Sellers    *seller.Registry
	Warehouses Warehouses
	// Tokens keeps the tokens that are ours to refresh.
	Tokens *token.Keeper
	// Metrics registers the services' metrics, each with a label of its service.
	Metrics prometheus.Registerer
	// Grace is how long running work may take to finish.
	Grace time.Duration
	// Now is the clock that services use for decisions, time.Now when nil. It must be the ledger's.
	Now func() time.Time
	// Clocks compares clocks; nil does not. With it Now is the ledger's clock.
	Clocks *Clocks
}

// Warehouses opens the warehouse of a seller by the ERP's code, for calls of the class: see kind.Kind.Channel. Read is for
// callers that read orders and must not send.
type Warehouses interface {
	Open(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	Read(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	// Documents is Read for documents of any kind.
	Documents(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	// Stock reads stock there; SetStock overwrites it.
	Stock(s *seller.Seller, code string) (warehouse.StockReader, error)
	SetStock(s *seller.Seller, code string) (warehouse.StockSetter, error)
}

// Shell is what one service depends on.
type Shell struct {
	// Name is the service's.
	Name string
	Parts
	served *bus.Metrics
}

// Shell makes the shell of one service.
func (p Parts) Shell(name string) *Shell {
	p.Log = p.Log.With().Str("service", name).Logger()
	p.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"service": name}, p.Metrics)
	return &Shell{Name: name, Parts: p, served: bus.NewMetrics(p.Metrics)}
}

// Serving is the default settings for serving a consumer.
func (s *Shell) Serving(consumer string) bus.Serving {
	serving := bus.Serving{Consumer: consumer, Attempts: s.Ledger, Grace: s.Grace, Metrics: s.served, Now: s.Now, Alone: s.Sellers.Alone}
	if s.Clocks != nil {
		serving.Fit, serving.Now = s.Clocks.Fit, nil // the broker's schedules use its own clock
	}
	return serving
}

// Ready is nil while everything answers and accepts writes.
func (p Parts) Ready(ctx context.Context) error {
	var writes, clocks error
	var asking sync.WaitGroup
	asking.Go(func() { writes = p.Bus.CheckWrites(ctx) }) // beside the ledger: each may take most of ctx's time
	if p.Clocks != nil {
		clocks = p.Clocks.Fit()
	}
	ledger := p.Ledger.Check(ctx)
	asking.Wait()
	return errors.Join(writes, p.Sellers.Ready(), p.Tokens.Ready(), clocks, ledger)
}

// Main is a service's main: Run with the process's arguments, environment and signals.
func Main(s Service) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	if !s.savesMemory {
		TuneGC(ctx)
	}
	context.AfterFunc(ctx, stop)
	out := os.Stderr
	if wantsHelp(os.Args[1:]) {
		out = os.Stdout // requested help is the output
	}
	if err := Run(ctx, s, os.Args[1:], os.Environ(), out); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
		os.Exit(1)
	}
}

// Run runs a service until it returns; it is asked to stop when ctx ends. It returns nil when it was asked to stop
// and finished its work. The log goes to out; --help prints the settings there instead. With --healthcheck it asks
// the service that runs beside it with the same settings whether it is alive.
func Run(ctx context.Context, s Service, args, environ []string, out io.Writer) error {
	if wantsHelp(args) {
		s.usage(out)
		return nil
	}
	if rest, asked := wantsHealthcheck(args); asked {
		return s.health(ctx, rest, environ)
	}
	base, own, err := s.settings(args, environ)
	if err != nil {
		return err
	}
	log := newLog(out, base.LogLevel)

	// Until everything is up, the probes report what is awaited.
	var ready atomic.Value
	ready.Store(waitingFor("NATS"))
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	at, closeHTTP, err := Listen(base.HTTPAddr, &Probes{
		Ready:   func(ctx context.Context) error { return ready.Load().(func(context.Context) error)(ctx) },
		Metrics: metrics,
	})
	if err != nil {
		return err
	}
	defer closeHTTP()

	start := log.With().Str("service", s.Name).Logger()
	start.Info().Str("http", at).Msg("starting")
	traces, closeTraces, err := base.Tracing.Open(ctx, s.Name, start)
	if err != nil {
		return err
	}
	defer closeTraces()
	b, err := connect(ctx, bus.Options{
		URL: base.NATSURL.Reveal(), Name: s.Name, CredsFile: base.CredsFile, LeaveReaders: len(s.Oversees) > 0, Traces: traces, Log: start,
	})
	if err != nil {
		return nilIfStopped(ctx, err)
	}
	defer b.Close()
	ready.Store(waitingFor("the topology"))
	if err := retryWhileDown(ctx, start, "topology", func(ctx context.Context) error { return b.CheckTopology(ctx, s.Service) }); err != nil {
		return nilIfStopped(ctx, err)
	}
	ready.Store(waitingFor("the ledger and the sellers"))
	trust, err := base.Trust.Parse()
	if err != nil {
		return err
	}
	parts, closeParts, err := Open(ctx, b, Options{
		Service: s.Name, RedisURL: base.RedisURL, TokenKey: base.TokenKey, Trust: trust, Log: log, Metrics: metrics, Grace: base.Grace,
	})
	if err != nil {
		return nilIfStopped(ctx, err)
	}
	defer closeParts()
	ready.Store(parts.Ready)

	shell := parts.Shell(s.Name)
	shell.Log.Info().Msg("serving")
	err = runWithGrace(ctx, base.Grace+closeTimeout, func(ctx context.Context) error { return s.serve(ctx, shell, own) })
	shell.Log.Info().Err(err).Msg("stopped")
	return err
}

func wantsHelp(args []string) bool {
	return slices.Contains(args, "--help") || slices.Contains(args, "-h")
}

const healthFlag = "--healthcheck"

func wantsHealthcheck(args []string) (rest []string, asked bool) {
	at := slices.Index(args, healthFlag)
	if at < 0 {
		return args, false
	}
	return slices.Concat(args[:at], args[at+1:]), true
}

// health is the health check of an image that holds nothing but the service.
func (s Service) health(ctx context.Context, args, environ []string) error {
	base, _, err := s.settings(args, environ)
	if err != nil {
		return err
	}
	if base.HTTPAddr == httpOff {
		return errors.New("HTTP_ADDR is off: there is nothing to ask")
	}
	return healthcheck.Alive(ctx, base.HTTPAddr, "/healthz")
}

// Options of Open.
type Options struct {
	// Service is the name under which the process answers AskWorkers; without one it does not answer.
	Service string
	// RedisURL is where the ledger is; empty for a bucket of the bus.
	RedisURL Secret
	// TokenKey seals the tokens that are ours to refresh; without it there can be none.
	TokenKey Secret
	// Trust is what set-ups may name of this machine.
	Trust   seller.Trust
	Log     zerolog.Logger
	Metrics prometheus.Registerer
	Grace   time.Duration
	// Now is the host's own clock, time.Now when nil. Tests set a wrong one; b must have it too.
	Now func() time.Time
}

// Open opens what services depend on, over a bus whose topology is applied. It waits for a ledger that is down,
// startTimeout at most. The returned function closes all of it but the bus.
func Open(ctx context.Context, b *bus.Bus, o Options) (Parts, func(), error) {
	none := func() {}
	l, err := wiring.Ledger(ctx, o.RedisURL.Reveal(), b)
	if err != nil {
		return Parts{}, none, fmt.Errorf("open the ledger: %w", err)
	}
	closeLedger := func() {
		if err := l.Close(); err != nil {
			o.Log.Warn().Err(err).Msg("cannot close the ledger")
		}
	}
	if err := retryWhileDown(ctx, o.Log, "ledger", l.Check); err != nil {
		closeLedger()
		return Parts{}, none, err
	}
	clocks, err := newClocks(ctx, l, b, o.Now, o.Log)
	if err != nil {
		closeLedger()
		return Parts{}, none, err
	}
	bucket, err := b.Bucket(ctx, bus.BucketSetup)
	if err != nil {
		closeLedger()
		return Parts{}, none, err
	}
	book, err := seller.Open(ctx, bucket, o.Log)
	if err != nil {
		closeLedger()
		return Parts{}, none, err
	}
	if o.Metrics != nil {
		l = ledgermetrics.New(l, o.Metrics)
		o.Metrics.MustRegister(storeMetrics(b, l))
	}
	warehouses := wiring.NewWarehouses(l)
	warehouses.Trust, warehouses.Now = o.Trust, clocks.ledger.Now
	if o.Metrics != nil {
		clocks.collect(o.Metrics)
		o.Metrics.MustRegister(book.Metrics())
		warehouses.Metrics = wiring.NewMetrics(o.Metrics, book.All)
	}
	keeper, closeTokens, err := openTokens(ctx, b, book, warehouses, clocks.ledger.Now, o)
	if err != nil {
		book.Close()
		closeLedger()
		return Parts{}, none, err
	}
	p := Parts{Log: o.Log, Bus: b, Ledger: l, Sellers: book, Warehouses: warehouses, Tokens: keeper, Metrics: o.Metrics, Grace: o.Grace}
	p.Clocks, p.Now = clocks, clocks.ledger.Now
	unanswer := func() {}
	if o.Service != "" {
		if unanswer, err = b.Answer(event.WorkersAsked, func() []byte { return p.status(o.Service) }); err != nil {
			closeTokens()
			warehouses.Close()
			book.Close()
			closeLedger()
			return Parts{}, none, err
		}
	}
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	go func() { defer close(kept); clocks.keepMeasuring(keeping) }()
	return p, func() {
		unanswer()
		stop()
		<-kept
		closeTokens()
		warehouses.Close()
		book.Close()
		closeLedger()
	}, nil
}

// openTokens opens the tokens that are ours to refresh, and keeps them fresh until they are closed.
func openTokens(ctx context.Context, b *bus.Bus, book *seller.Registry, warehouses *wiring.Warehouses, now func() time.Time, o Options) (*token.Keeper, func(), error) {
	keys, err := token.ParseKeys(o.TokenKey.Reveal())
	if err != nil {
		return nil, nil, fmt.Errorf("TOKEN_KEY: %w", err)
	}
	bucket, err := b.Bucket(ctx, bus.BucketTokens)
	if err != nil {
		return nil, nil, err
	}
	store, err := token.Open(ctx, bucket, keys, o.Log)
	if err != nil {
		return nil, nil, err
	}
	keeper := token.NewKeeper(store, token.Options{
		Sellers: book, Authority: warehouses.Authority, Metrics: token.NewMetrics(o.Metrics), Log: o.Log, Now: now,
		Renewed: func(ctx context.Context, id token.ID) {
			if _, err := guard.ResumeToken(ctx, book, b.Publish, id.Seller, now()); err != nil {
				o.Log.Warn().Err(err).Str("seller", id.Seller).Msg("not resumed although its token was renewed; the next probe tries")
			}
		},
	})
	if o.Metrics != nil {
		o.Metrics.MustRegister(keeper.Expiries())
	}
	warehouses.UseTokens(keeper)
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); keeper.Run(keeping) }()
	return keeper, func() { stop(); <-ended; store.Close() }, nil
}

const (
	// closeTimeout is what a service may need beyond its grace to return the rest.
	closeTimeout = 10 * time.Second
	// connectTimeout is for one attempt to connect; NATS is waited for as long as it takes.
	connectTimeout = 5 * time.Second
	// startTimeout is how long everything else is waited for. Then the process ends, so that somebody notices.
	startTimeout = time.Minute
)

func waitingFor(what string) func(context.Context) error {
	return func(context.Context) error { return errors.New("waiting for " + what) }
}

func nilIfStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect waits for NATS and logs the reason whenever it changes.
func connect(ctx context.Context, o bus.Options) (*bus.Bus, error) {
	last := ""
	for {
		once, cancel := context.WithTimeout(ctx, connectTimeout)
		b, err := bus.Connect(once, o)
		waited := once.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !waited {
			return b, err
		}
		if err.Error() != last {
			last = err.Error()
			o.Log.Warn().Err(err).Msg("still waiting for NATS")
		}
	}
}

// retryWhileDown repeats check while its target is only down.
func retryWhileDown(ctx context.Context, log zerolog.Logger, what string, check func(context.Context) error) error {
	last := ""
	return retry.Do(ctx, retry.Policy{For: startTimeout, First: 100 * time.Millisecond, Max: 2 * time.Second}, func(ctx context.Context) error {
		err := check(ctx)
		if named := (fault.Reason{}); errors.Is(err, bus.ErrTopology) || errors.As(err, &named) {
			return fault.Permanent(err) // only a person can fix it
		}
		if err != nil && ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			log.Warn().Err(err).Msg("still waiting for the " + what)
		}
		return err
	})
}

// runWithGrace runs run, and waits for it no longer than within after ctx ended.
func runWithGrace(ctx context.Context, within time.Duration, run func(context.Context) error) error {
	done, late := make(chan error, 1), make(chan struct{})
	go func() { done <- run(ctx) }()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(within, func() { close(late) }) })()
	select {
	case err := <-done:
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	case <-late:
		return fmt.Errorf("not finished %v after being asked to stop", within)
	}
}

// newLog writes JSON lines, or coloured ones for a person at a terminal.
func newLog(to io.Writer, level zerolog.Level) zerolog.Logger {
	if f, ok := to.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		to = zerolog.ConsoleWriter{Out: to, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(to).Level(level).Hook(zerolog.HookFunc(func(e *zerolog.Event, _ zerolog.Level, _ string) {
		e.Str(zerolog.TimestampFieldName, time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}))
}
