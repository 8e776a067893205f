//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/smalldisk"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/procs"
	"stockbridge/services/e2e/scenario"
	"stockbridge/services/reconciler/reconciler"
)

// The workers' settings: long production intervals are short here. attempts and grace are recorded for the checker.
const (
	attempts = 12
	grace    = 20 * time.Second
	// resendAfter and settleFor must stay above what a call may take, here half a second.
	resendAfter = 6 * time.Second
	settleFor   = 3 * time.Second
	// refuseAfter stays above refusedLag.
	refuseAfter = 8 * time.Second
	// deadline and healthy are the limits of P2 and P8.
	deadline = 10 * time.Minute
	healthy  = 5 * time.Second
)

// stage is the whole of a run: processes, proxies between them, the ERP and the recorder.
type stage struct {
	s     settings
	out   io.Writer
	began time.Time
	rand  *rand.Rand
	*scenario.Run
	ledger ledger.Ledger
	erp    *erp
	list   []merchant

	// disks are the separate disks of servers, by server.
	disks map[string]*smalldisk.Disk

	toJD, toRedis *faultproxy.Proxy
	toNATS        []*faultproxy.Proxy

	pushers []*procs.Process
	pollers []*procs.Process
	// reconcilers compare what was audited with what is known, all the time; the checker judges P7 by them.
	reconcilers []*procs.Process

	// servers is held to act on a server; serving is held for reading by those who need all servers, for writing while
	// one is down.
	servers sync.Mutex
	serving sync.RWMutex
	// rescaling is held to change the number of workers.
	rescaling sync.Mutex
	// scaling guards pushers and taken; taken are those that are being acted on.
	scaling sync.Mutex
	taken   map[*procs.Process]bool
	// wanted is how many pushers should run.
	wanted atomic.Int32
	// restoring is held from the copy of JetStream until it was restored.
	restoring sync.Mutex

	killed      kills
	tally       tally
	republished atomic.Int64
	// later waits for work that continues after a fault.
	later sync.WaitGroup

	performing, performed, rested time.Time
	// restless is what was left to do when the time was up.
	restless string

	closers []func()
}

// printf prints a line with the time since the beginning.
func (g *stage) printf(format string, args ...any) {
	fmt.Fprintf(g.out, "%6.1fs  %s\n", time.Since(g.began).Seconds(), fmt.Sprintf(format, args...))
}

// open starts everything but the workers.
func open(ctx context.Context, s settings, out io.Writer) (g *stage, err error) {
	made := &stage{s: s, out: out, began: time.Now(), rand: rand.New(rand.NewPCG(s.seed, 0xca05))}
	g = made
	g.tally.of, g.taken = map[string]int{}, map[*procs.Process]bool{}
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	perSecond, concurrent := 40, 12
	latency := jdsandbox.Range{Min: jdsandbox.Duration(100 * time.Millisecond), Max: jdsandbox.Duration(400 * time.Millisecond)}
	if s.scenario == scenarioKills {
		perSecond, concurrent = 1000, 128
		latency = jdsandbox.Range{Min: jdsandbox.Duration(30 * time.Millisecond), Max: jdsandbox.Duration(120 * time.Millisecond)}
	}
	g.list = merchants(perSecond, concurrent)
	if s.scenario == scenarioKills {
		g.list = g.list[:1]
	}
	setting := history.Setting{
		Began: g.began, What: fmt.Sprintf("chaos %s, %d nodes, ledger %s", s.scenario, s.nodes, s.ledger), Seed: s.seed, DeadlineSeconds: deadline.Seconds(),
		GraceSeconds: grace.Seconds(), HealthySeconds: healthy.Seconds(), MaxAttempts: attempts, Reconciles: true,
	}
	for _, m := range g.list {
		setting.Apps = append(setting.Apps, m.app())
	}
	// Unchanged programs are shared by all runs; those with a planted bug belong to this run.
	bin := filepath.Join(filepath.Dir(s.dir), "programs")
	if s.overlay != "" {
		bin = filepath.Join(s.dir, "programs")
	}
	data, err := g.mount()
	if err != nil {
		return nil, err
	}
	config := sandbox(g.list)
	config.Seed, config.Knobs.Latency = s.seed, latency
	shape := procs.Shape{Nodes: s.nodes, Sandbox: &config}
	if s.ledger == "redis" {
		shape.Redis = "everysec"
	}
	g.printf("building into %s", bin)
	g.Run, err = scenario.Open(ctx, scenario.Setup{
		Folder: filepath.Join(s.dir, "history"), History: setting, Shape: shape, Programs: append(procs.Programs(), judgeProgram),
		Processes: procs.Options{Dir: s.dir, Bin: bin, Overlay: s.overlay, Data: data, On: func(h procs.Happening) {
			if s.verbose {
				g.printf("%s", h)
			}
		}},
		Judged: func(h procs.Happening) bool {
			return strings.HasPrefix(h.Name, "pusher") || strings.HasPrefix(h.Name, "poller") || strings.HasPrefix(h.Name, "reconciler")
		},
	})
	if err != nil {
		return nil, err
	}
	g.closers = append(g.closers, g.Close)
	if g.ledger, err = g.Ledger(ctx); err != nil {
		return nil, err
	}
	g.erp = newERP(g.Bus, g.Record, g.list, s.seed)
	if err := g.startProxies(); err != nil {
		return nil, err
	}
	for _, m := range g.list {
		setup, err := m.setup(s.dir, "http://"+g.toJD.Addr())
		if err != nil {
			return nil, err
		}
		if err := g.Procs.Apply(ctx, setup); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// diskSize is the size of a server's separate disk, in bytes of memory: several times what a run stores there.
const diskSize = 384 << 20

// mount gives servers whose disk is to be filled a separate disk. Where none can be mounted those faults are left out,
// unless they were asked for.
func (g *stage) mount() (map[string]string, error) {
	data := map[string]string{}
	g.disks = map[string]*smalldisk.Disk{}
	wanted, err := g.s.wanted()
	if err != nil {
		return nil, err
	}
	for _, k := range catalogue() {
		if k.disk == "" || !slices.Contains(wanted, k.name) || g.s.scenario != scenarioAll && g.s.faults == "" {
			continue
		}
		d, err := smalldisk.Mount(filepath.Join(g.s.dir, "disk-"+k.disk), diskSize)
		if err != nil && g.s.faults != "" {
			return nil, err
		}
		if err != nil {
			g.printf("left out: %s: %v", k.name, err)
			continue
		}
		// The server's data goes with the disk; its log and the history stay.
		g.closers = append(g.closers, func() { _ = d.Unmount() })
		g.disks[k.disk], data[k.disk] = d, d.Dir
	}
	return data, nil
}

// startProxies puts the proxies between the workers and the servers. The run's own calls bypass them.
func (g *stage) startProxies() (err error) {
	proxy := func(to string) (*faultproxy.Proxy, error) {
		addr, err := g.Procs.Addr()
		if err != nil {
			return nil, err
		}
		p, err := faultproxy.Start(addr, to, faultproxy.Bytes)
		if err == nil {
			g.closers = append(g.closers, p.Close)
		}
		return p, err
	}
	if g.toJD, err = proxy(strings.TrimPrefix(g.Procs.Sandbox.Base, "http://")); err != nil {
		return err
	}
	if g.Procs.Redis != nil {
		if g.toRedis, err = proxy(g.Procs.Redis.Addr()); err != nil {
			return err
		}
	}
	for _, node := range g.Procs.NATS.Addrs() {
		p, err := proxy(node)
		if err != nil {
			return err
		}
		g.toNATS = append(g.toNATS, p)
	}
	return nil
}

// throughProxies are the settings that lead a worker through the proxies.
func (g *stage) throughProxies() []string {
	var nats []string
	for _, p := range g.toNATS {
		nats = append(nats, "nats://"+p.Addr())
	}
	env := []string{
		"NATS_URL=" + strings.Join(nats, ","), fmt.Sprint("GRACE=", grace),
		fmt.Sprint("PUSH_MAX_ATTEMPTS=", attempts), fmt.Sprint("PUSH_RESEND_AFTER=", resendAfter), fmt.Sprint("PUSH_SETTLE_FOR=", settleFor), fmt.Sprint("PUSH_REFUSE_AFTER=", refuseAfter),
		"PUSH_BREAKER_AFTER=10", "PUSH_PROBE_AFTER=2s", "PUSH_RELEASE_PER_SECOND=500",
		"RECONCILE_DEADLINE=8s", "RECONCILE_DOUBT_FOR=30s", "RECONCILE_CONFIRM_AFTER=2s", "RECONCILE_LIST_EVERY=20s", "RECONCILE_LIST_BACK=10m",
		"POLL_OPEN=5s", "POLL_PACKED=5s", "POLL_SHIPPED=5s", "POLL_BREAKER_AFTER=10", "POLL_PROBE_AFTER=2s",
	}
	if g.s.scenario == scenarioKills {
		env = append(env, "PUSH_SLOTS=64", "POLL_OPEN=1m")
	}
	if g.toRedis != nil {
		env = append(env, "REDIS_URL=redis://"+g.toRedis.Addr()+"/0")
	}
	return env
}

// scale makes that many pushers run: the first ones of the list. Those that are stopped finish what they have in hand.
// It waits for one that is being acted on.
func (g *stage) scale(ctx context.Context, n int) error {
	g.wanted.Store(min(g.wanted.Load(), int32(n)))
	for i := range n {
		p, err := g.take(ctx, i)
		if err != nil {
			return err
		}
		err = g.up(ctx, p)
		g.release(p)
		if err != nil {
			return err
		}
	}
	var stopping []*procs.Process
	defer func() {
		for _, p := range stopping {
			g.release(p)
		}
	}()
	for i := n; i < len(g.pushers); i++ {
		p, err := g.take(ctx, i)
		if err != nil {
			return err
		}
		stopping = append(stopping, p)
		if p.Alive() {
			if err := p.Term(); err != nil {
				return err
			}
		}
	}
	for _, p := range stopping {
		if err := p.Wait(ctx); err != nil && ctx.Err() != nil {
			return err // the checker judges how it ended
		}
	}
	g.wanted.Store(int32(n))
	return nil
}

// take returns the pusher of that index once nobody else acts on it, and starts it if it does not exist yet.
func (g *stage) take(ctx context.Context, i int) (*procs.Process, error) {
	for {
		g.scaling.Lock()
		if i == len(g.pushers) {
			defer g.scaling.Unlock()
			p, err := g.Procs.Worker(ctx, procs.OrderPusher, fmt.Sprintf("pusher-%d", i+1), g.throughProxies()...)
			if p == nil {
				return nil, err
			}
			g.pushers = append(g.pushers, p) // up sees to one that is not ready yet
			g.taken[p] = true
			return p, nil
		}
		p := g.pushers[i]
		free := !g.taken[p]
		if free {
			g.taken[p] = true
		}
		g.scaling.Unlock()
		if free {
			return p, nil
		}
		if !wait(ctx, 50*time.Millisecond) {
			return nil, ctx.Err()
		}
	}
}

// upWithin is how long a worker may take to start, whatever is down meanwhile.
const upWithin = 3 * time.Minute

// up starts a worker and restarts it when it gives up, as a supervisor does in production.
func (g *stage) up(ctx context.Context, p *procs.Process) error {
	for began := time.Now(); ; {
		err := p.Start(ctx)
		if err == nil || ctx.Err() != nil || time.Since(began) > upWithin {
			return err
		}
		if errors.Is(err, procs.ErrEnded) {
			g.tally.add("starts again of a worker that gave up", 1)
		}
		wait(ctx, time.Second)
	}
}

// supervise restarts pushers that ended unexpectedly.
func (g *stage) supervise(ctx context.Context) {
	for wait(ctx, 2*time.Second) {
		g.scaling.Lock()
		var ended []*procs.Process
		for i, p := range g.pushers {
			if i < int(g.wanted.Load()) && !g.taken[p] && !p.Alive() {
				g.taken[p] = true
				ended = append(ended, p)
			}
		}
		g.scaling.Unlock()
		for _, p := range ended {
			g.printf("%s ended unexpectedly:\n%s", p.Name, p.Tail(600))
			g.tally.add("workers that ended unexpectedly", 1)
			if err := g.up(ctx, p); err != nil && ctx.Err() == nil {
				g.printf("%v", err) // what it leaves undone shows at the end
			}
			g.release(p)
		}
	}
}

func (g *stage) startPoller(ctx context.Context) error {
	p, err := g.Procs.Worker(ctx, procs.StatusPoller, "poller-1", g.throughProxies()...)
	if err == nil {
		g.pollers = append(g.pollers, p)
	}
	return err
}

// reconcileEvery is how often a seller is reconciled.
const reconcileEvery = 5 * time.Second

func (g *stage) startReconciler(ctx context.Context) error {
	for _, m := range g.list {
		if err := g.Bus.SetTick(ctx, event.TickReconcile, m.name, reconcileEvery); err != nil {
			return err
		}
	}
	p, err := g.Procs.Worker(ctx, procs.Reconciler, "reconciler-1", g.throughProxies()...)
	if err == nil {
		g.reconcilers = append(g.reconcilers, p)
	}
	return err
}

// reconcileWithin is how long a cycle may take when there are no faults.
const reconcileWithin = time.Minute

// reconcile waits until each seller has a complete cycle that began after now.
func (g *stage) reconcile(ctx context.Context) error {
	asked := time.Now()
	for _, m := range g.list {
		if err := g.Bus.Tick(ctx, event.TickReconcile, m.name); err != nil {
			return err
		}
	}
	for _, m := range g.list {
		for {
			s, err := reconciler.ReadReport(ctx, g.ledger, m.name)
			if err != nil {
				return err
			}
			if s.CycleAt.After(asked.Add(reconcileEvery)) { // one that was under way has ended too
				g.tally.add("orders that the reconciler had handed over again and that are known since", s.Repaired)
				if n := s.Unexplained(); n > 0 {
					g.printf("%s: %d orders that nothing explains: %v", m.name, n, s.Open)
				}
				break
			}
			if time.Since(asked) > reconcileWithin {
				return fmt.Errorf("%s was not reconciled within %s: %+v", m.name, reconcileWithin, s)
			}
			if !wait(ctx, 200*time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	return nil
}

func (g *stage) close() {
	for i := len(g.closers) - 1; i >= 0; i-- {
		g.closers[i]()
	}
	g.closers = nil
}

// tally counts what was done, by kind.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func (t *tally) add(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of[what] += n
}
