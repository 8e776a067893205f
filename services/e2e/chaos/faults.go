//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/seller"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/procs"
)

// kind is a fault that can be caused.
type kind struct {
	name string
	// times in the whole scenario, and in the smoke.
	all, smoke int
	// needs is what must be there: "redis" or "cluster"; disk is whose disk it fills, "nats" or "redis".
	needs, disk string
	// last: it comes after the others. When a set-up changed and the ledger is lost after that, it is lost where orders
	// were sent.
	last bool
	do   func(g *stage, ctx context.Context, r *rand.Rand) error
}

// killing is done in a separate loop.
const killing = "kill"

// catalogue is all that can be done, besides kills.
func catalogue() []kind {
	return []kind{
		{name: "freeze", all: 3, do: (*stage).freeze},
		{name: "scale", all: 2, smoke: 1, do: (*stage).rescale},
		{name: "nats-restore", all: 2, smoke: 1, do: (*stage).restoreNATS},
		{name: "nats-kill", all: 3, smoke: 1, do: (*stage).killNATS},
		{name: "nats-leader-kill", all: 4, smoke: 1, needs: "cluster", do: (*stage).killLeader},
		{name: "redis-kill", all: 3, smoke: 1, needs: "redis", do: (*stage).killRedis},
		{name: "redis-wipe", all: 2, smoke: 1, needs: "redis", do: (*stage).wipeRedis},
		{name: "redis-flush", all: 1, needs: "redis", do: (*stage).flushRedis},
		{name: "redis-restore", all: 2, smoke: 1, needs: "redis", do: (*stage).restoreRedis},
		{name: "nats-disk-full", all: 1, disk: "nats", do: (*stage).fillNATS},
		{name: "redis-disk-full", all: 1, needs: "redis", disk: "redis", do: (*stage).fillRedis},
		{name: "jd-lost", all: 6, smoke: 1, do: (*stage).loseAnswers},
		{name: "jd-down", all: 1, do: (*stage).jdDown},
		{name: "refused-but-there", all: 2, smoke: 1, do: (*stage).refuseAndTake},
		{name: "skew", all: 2, do: (*stage).skew},
		{name: "jd-cut", all: 4, smoke: 1, do: (*stage).cutJD},
		{name: "redis-cut", all: 4, smoke: 1, needs: "redis", do: (*stage).cutRedis},
		{name: "nats-cut", all: 2, smoke: 1, do: (*stage).cutNATS},
		{name: "seller-moved", all: 2, smoke: 1, last: true, do: (*stage).moveSeller},
	}
}

func faultNames() []string {
	names := []string{killing}
	for _, k := range catalogue() {
		names = append(names, k.name)
	}
	return names
}

// wanted are the names of -faults; all when it is empty.
func (s settings) wanted() ([]string, error) {
	if s.faults == "" {
		return faultNames(), nil
	}
	names := strings.Split(s.faults, ",")
	for _, n := range names {
		if !slices.Contains(faultNames(), n) {
			return nil, fmt.Errorf("-faults: there is no %q; there are %s", n, strings.Join(faultNames(), ", "))
		}
	}
	return names, nil
}

// planned is a fault with its time.
type planned struct {
	kind
	at   time.Duration
	rand *rand.Rand
}

// plan spreads the faults over the time, in an order that the seed decides; the smoke's is the catalogue's.
func (g *stage) plan() []planned {
	wanted, _ := g.s.wanted() // checked with the flags
	var list []planned
	for _, k := range catalogue() {
		times := k.all
		if g.s.scenario == scenarioSmoke {
			times = k.smoke
		}
		if g.s.faults != "" {
			times = max(times, 1)
		}
		if !slices.Contains(wanted, k.name) || k.needs == "redis" && g.toRedis == nil || k.needs == "cluster" && g.s.nodes == 1 {
			continue
		}
		if k.disk != "" && g.disks[k.disk] == nil {
			continue // it could not be mounted, which was printed
		}
		for range times {
			list = append(list, planned{kind: k, rand: rand.New(rand.NewPCG(g.rand.Uint64(), g.rand.Uint64()))})
		}
	}
	if g.s.scenario != scenarioSmoke {
		g.rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	slices.SortStableFunc(list, func(a, b planned) int {
		switch {
		case a.last == b.last:
			return 0
		case a.last:
			return 1
		}
		return -1
	})
	for i := range list {
		list[i].at = g.s.lasting * time.Duration(i) / time.Duration(len(list))
	}
	return list
}

// storm runs the planned faults and the kills, and returns when all are over.
func (g *stage) storm(ctx context.Context) error {
	wanted, _ := g.s.wanted()
	storm, cancel := context.WithCancel(ctx)
	defer cancel()
	var running, killers sync.WaitGroup
	failed := make(chan error, 100)
	report := func(what string, err error) {
		if err != nil && storm.Err() == nil {
			failed <- fmt.Errorf("%s: %w", what, err)
			cancel()
		}
	}
	if slices.Contains(wanted, killing) && g.s.kills > 0 {
		killers.Go(func() { report(killing, g.kill(storm)) })
	}
	began := time.Now()
	for _, p := range g.plan() {
		if !wait(storm, time.Until(began.Add(p.at))) {
			break
		}
		if p.last {
			running.Wait()
		}
		running.Go(func() { report(p.name, p.do(g, storm, p.rand)) })
	}
	wait(storm, time.Until(began.Add(g.s.lasting)))
	running.Wait()
	killers.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

// wait waits for d, and is false when ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// draw is a random duration between a and b.
func draw(r *rand.Rand, a, b time.Duration) time.Duration {
	return a + time.Duration(r.Int64N(int64(b-a)))
}

// quick shortens a wait in the smoke.
func (g *stage) quick(d time.Duration) time.Duration {
	if g.s.scenario == scenarioSmoke {
		return d / 5
	}
	return d
}

// done records a fault that is over.
func (g *stage) done(f history.Fault, name string) {
	f.Ended = time.Now()
	g.Record.Fault(f)
	g.tally.add(name, 1)
	detail := f.Detail
	if detail != "" {
		detail = ": " + detail
	}
	g.printf("%-16s %s %.1f s%s", name, f.Target, f.Ended.Sub(f.Began).Seconds(), detail)
}

// without takes a server down while do runs. Nobody kills a worker meanwhile, because that would hit no call.
func (g *stage) without(f history.Fault, name string, do func(f *history.Fault) error) error {
	g.servers.Lock()
	defer g.servers.Unlock()
	g.serving.Lock()
	defer g.serving.Unlock()
	f.Began, f.Outage = time.Now(), true
	err := do(&f)
	g.done(f, name)
	return err
}

func (g *stage) killNATS(ctx context.Context, r *rand.Rand) error {
	return g.without(history.Fault{Kind: history.BrokerKilled, Target: "nats"}, "nats-kill", func(*history.Fault) error {
		if err := g.Procs.NATS.Kill(); err != nil {
			return err
		}
		wait(ctx, draw(r, 200*time.Millisecond, 2*time.Second))
		return g.Procs.NATS.Start(ctx)
	})
}

// killLeader kills the node that leads the stream of audits, or that of outcomes. The others continue after an
// election.
func (g *stage) killLeader(ctx context.Context, r *rand.Rand) error {
	g.servers.Lock() // but the cluster serves, so workers may be killed too
	defer g.servers.Unlock()
	leader, err := g.Procs.NATS.Leader(ctx, []string{bus.StreamIntake, bus.StreamOrders}[r.IntN(2)])
	if err != nil || leader == nil {
		return err // between two elections: nothing to kill
	}
	f := history.Fault{Kind: history.BrokerKilled, Target: leader.Name, Began: time.Now(), Outage: true}
	if !leader.Alive() {
		return nil
	}
	if err := leader.Kill(); err != nil {
		return err
	}
	wait(ctx, draw(r, time.Second, 8*time.Second))
	err = g.Procs.NATS.Start(ctx)
	g.done(f, "nats-leader-kill")
	return err
}

// restoreNATS restores JetStream to a copy that is some seconds old. The ERP then publishes again what it published
// since.
func (g *stage) restoreNATS(ctx context.Context, r *rand.Rand) error {
	g.restoring.Lock() // a copy must not hold what another restore removed
	defer g.restoring.Unlock()
	g.servers.Lock()
	copied := time.Now()
	older, err := g.Procs.NATS.Copy()
	g.servers.Unlock()
	if err != nil || !wait(ctx, g.quick(draw(r, 8*time.Second, 20*time.Second))) {
		return err
	}
	g.erp.open.Lock()
	defer g.erp.open.Unlock()
	err = g.without(history.Fault{Kind: history.BrokerRestored, Target: "nats", Copied: copied}, "nats-restore", func(f *history.Fault) error {
		if err := g.Procs.NATS.Kill(); err != nil {
			return err
		}
		g.Record.RolledBack(copied)
		f.Detail = fmt.Sprintf("to what it was %.1f s before", time.Since(copied).Seconds())
		return g.Procs.NATS.Restore(ctx, older)
	})
	if err != nil {
		return err
	}
	g.later.Go(func() { // it waits for open itself
		n := g.erp.republish(ctx, copied.Add(-2*time.Second))
		g.republished.Add(int64(n))
		g.printf("the ERP published %d orders of its list again", n)
	})
	return nil
}

func (g *stage) killRedis(ctx context.Context, r *rand.Rand) error {
	return g.without(history.Fault{Kind: history.RedisKilled, Target: "redis"}, "redis-kill", func(*history.Fault) error {
		if err := g.Procs.Redis.Kill(); err != nil {
			return err
		}
		wait(ctx, draw(r, 200*time.Millisecond, 2*time.Second))
		return g.Procs.Redis.Start(ctx)
	})
}

func (g *stage) wipeRedis(ctx context.Context, _ *rand.Rand) error {
	return g.without(history.Fault{Kind: history.RedisWiped, Target: "redis"}, "redis-wipe", func(*history.Fault) error {
		return g.Procs.Redis.Wipe(ctx)
	})
}

// flushRedis deletes everything within the same run of the server.
func (g *stage) flushRedis(ctx context.Context, _ *rand.Rand) error {
	return g.without(history.Fault{Kind: history.RedisWiped, Target: "redis", Detail: "FLUSHALL"}, "redis-flush", func(*history.Fault) error {
		_, err := g.Procs.Redis.Ask(ctx, "FLUSHALL")
		return err
	})
}

func (g *stage) restoreRedis(ctx context.Context, r *rand.Rand) error {
	g.servers.Lock()
	copied := time.Now()
	older, err := g.Procs.Redis.Copy()
	g.servers.Unlock()
	if err != nil || !wait(ctx, g.quick(draw(r, 8*time.Second, 20*time.Second))) {
		return err
	}
	return g.without(history.Fault{Kind: history.RedisRestored, Target: "redis", Copied: copied}, "redis-restore", func(f *history.Fault) error {
		f.Detail = fmt.Sprintf("to what it was %.1f s before", time.Since(copied).Seconds())
		return g.Procs.Redis.Restore(ctx, older)
	})
}

// notReadyWithin is how soon a worker must report that a store accepts no writes.
const notReadyWithin = 10 * time.Second

// full fills a server's disk, waits until a worker is not ready because of that, and frees the disk some seconds later.
func (g *stage) full(ctx context.Context, r *rand.Rand, f *history.Fault, server, said string) error {
	disk, began := g.disks[server], time.Now()
	if err := disk.Fill(); err != nil {
		return err
	}
	free := sync.OnceValue(disk.Free)
	defer free() //nolint:errcheck // an earlier error is returned
	p := g.pick(r)
	if p != nil {
		asking, cancel := context.WithTimeout(ctx, notReadyWithin)
		err := p.Until(asking, func(ctx context.Context) error { return saysNotReady(ctx, p.HTTP, said) })
		cancel()
		g.release(p)
		if err != nil && ctx.Err() == nil && p.Alive() {
			return fmt.Errorf("%s did not say within %s that %s takes no writes: %w", p.Name, notReadyWithin, server, err)
		}
		f.Detail = fmt.Sprintf("a worker was not ready after %.1f s", time.Since(began).Seconds())
	}
	wait(ctx, draw(r, 5*time.Second, 12*time.Second))
	return free()
}

// saysNotReady is nil when the worker at base reports that it is not ready, with these words.
func saysNotReady(ctx context.Context, base, words string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil && (res.StatusCode == http.StatusOK || !strings.Contains(string(text), words)) {
		err = fmt.Errorf("it says %d %s", res.StatusCode, text)
	}
	return err
}

// fillNATS fills JetStream's disk. Streams that could not be written stay closed when there is space again, so the
// servers are restarted, as the runbook says.
func (g *stage) fillNATS(ctx context.Context, r *rand.Rand) error {
	return g.without(history.Fault{Kind: history.BrokerFull, Target: "nats"}, "nats-disk-full", func(f *history.Fault) error {
		if err := g.full(ctx, r, f, "nats", "restart nats-server"); err != nil {
			return err
		}
		return g.Procs.NATS.Restart(ctx)
	})
}

// fillRedis fills the disk of the append-only file. Redis accepts writes again automatically.
func (g *stage) fillRedis(ctx context.Context, r *rand.Rand) error {
	return g.without(history.Fault{Kind: history.RedisFull, Target: "redis"}, "redis-disk-full", func(f *history.Fault) error {
		if err := g.full(ctx, r, f, "redis", "MISCONF"); err != nil {
			return err
		}
		return g.Procs.Redis.Until(ctx, func(ctx context.Context) error {
			answer, err := g.Procs.Redis.Ask(ctx, "SET", "chaos:written", "1")
			if err == nil && answer != "+OK" {
				err = errors.New(answer)
			}
			return err
		})
	})
}

// ackWait is the topology's; claimFor the ledger's, which is longer.
const ackWait, claimFor = 30 * time.Second, 40 * time.Second

// freeze stops a pusher for longer than AckWait, and sometimes than its claims, and wakes it.
func (g *stage) freeze(ctx context.Context, r *rand.Rand) error {
	p := g.pick(r)
	if p == nil {
		return nil
	}
	defer g.release(p)
	f := history.Fault{Kind: history.Frozen, Target: p.Name, Began: time.Now()}
	if err := p.Pause(); err != nil {
		return err
	}
	wait(ctx, draw(r, ackWait+2*time.Second, claimFor+8*time.Second))
	err := p.Continue()
	g.done(f, "freeze")
	return err
}

// pick takes a running pusher that nobody else acts on.
func (g *stage) pick(r *rand.Rand) *procs.Process {
	g.scaling.Lock()
	defer g.scaling.Unlock()
	var free []*procs.Process
	for _, p := range g.pushers {
		if p.Alive() && !g.taken[p] {
			free = append(free, p)
		}
	}
	if len(free) == 0 {
		return nil
	}
	p := free[r.IntN(len(free))]
	g.taken[p] = true
	return p
}

func (g *stage) release(p *procs.Process) {
	g.scaling.Lock()
	defer g.scaling.Unlock()
	delete(g.taken, p)
}

// usual is the normal number of pushers.
const usual = 3

// rescale goes from one to four to two workers in mid-flow, each stop by SIGTERM.
func (g *stage) rescale(ctx context.Context, _ *rand.Rand) error {
	g.rescaling.Lock()
	defer g.rescaling.Unlock()
	f := history.Fault{Kind: history.Scaled, Target: "pushers", Began: time.Now(), Detail: fmt.Sprintf("%d → 1 → 4 → 2 → %d", usual, usual)}
	for _, n := range []int{1, 4, 2, usual} {
		if err := g.scale(ctx, n); err != nil {
			return err
		}
		if !wait(ctx, g.quick(5*time.Second)) {
			return nil
		}
	}
	g.done(f, "scale")
	return nil
}

// window puts faults into the sandbox for a while.
func (g *stage) window(ctx context.Context, f history.Fault, name string, d time.Duration, faults ...jdsandbox.Fault) error {
	f.Target, f.Began = "jd", time.Now()
	for i := range faults {
		made, err := g.Procs.Sandbox.AddFault(ctx, faults[i])
		if err != nil {
			return err
		}
		faults[i].ID = made.ID
	}
	wait(ctx, d)
	last := context.WithoutCancel(ctx)
	knobs, err := g.Procs.Sandbox.Knobs(last)
	if err != nil {
		return err
	}
	fired := 0
	for _, k := range knobs.Faults {
		if slices.ContainsFunc(faults, func(f jdsandbox.Fault) bool { return f.ID == k.ID }) {
			fired += k.Fired
			if err := g.Procs.Sandbox.RemoveFault(last, k.ID); err != nil {
				return err
			}
		}
	}
	f.Detail = fmt.Sprintf("%d calls", fired)
	g.tally.add(name+" calls", fired)
	g.done(f, name)
	return nil
}

// loseAnswers lets JD do what it was asked for and loses the answer, in each possible way.
func (g *stage) loseAnswers(ctx context.Context, r *rand.Rand) error {
	add := []string{"eclp.order.addOrder"}
	return g.window(ctx, history.Fault{Kind: history.JDLost}, "jd-lost", g.quick(draw(r, 5*time.Second, 10*time.Second)),
		jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: add, Chance: 0.1},
		jdsandbox.Fault{Kind: jdsandbox.Truncated, Methods: add, Chance: 0.05},
		jdsandbox.Fault{Kind: jdsandbox.Error, Methods: add, Code: "65", Work: jdsandbox.WorkDone, Chance: 0.05},
		jdsandbox.Fault{Kind: jdsandbox.Empty, Methods: add, Work: jdsandbox.WorkDone, Chance: 0.03},
		jdsandbox.Fault{Kind: jdsandbox.HTTP, Methods: add, Work: jdsandbox.WorkDone, Chance: 0.03},
		jdsandbox.Fault{Kind: jdsandbox.Drop, Methods: add, Chance: 0.05},
		jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{"eclp.order.ext.queryOrder"}, Chance: 0.1},
	)
}

func (g *stage) jdDown(ctx context.Context, r *rand.Rand) error {
	return g.window(ctx, history.Fault{Kind: history.JDDown, Outage: true}, "jd-down", draw(r, 3*time.Second, 6*time.Second),
		jdsandbox.Fault{Kind: jdsandbox.Drop, Chance: 1})
}

// cut cuts answers at the proxies for some seconds, each after a number of bytes up to most.
func (g *stage) cut(ctx context.Context, r *rand.Rand, kind, name string, most int, proxies ...*faultproxy.Proxy) error {
	f := history.Fault{Kind: kind, Target: strings.TrimSuffix(name, "-cut"), Began: time.Now()}
	count := func() (n int) {
		for _, p := range proxies {
			n += p.Cuts()
		}
		return n
	}
	before := count()
	for end := time.Now().Add(g.quick(8 * time.Second)); time.Now().Before(end); {
		proxies[r.IntN(len(proxies))].Cut(max(0, r.IntN(most+most/3)-most/3)) // a quarter loses the whole answer
		if !wait(ctx, draw(r, 100*time.Millisecond, 500*time.Millisecond)) {
			break
		}
	}
	for _, p := range proxies {
		p.Cancel()
	}
	n := count() - before
	f.Detail = fmt.Sprintf("%d answers", n)
	g.tally.add(name+" answers", n)
	g.done(f, name)
	return nil
}

func (g *stage) cutJD(ctx context.Context, r *rand.Rand) error {
	return g.cut(ctx, r, history.JDLost, "jd-cut", 400, g.toJD)
}

func (g *stage) cutRedis(ctx context.Context, r *rand.Rand) error {
	return g.cut(ctx, r, history.RedisCut, "redis-cut", 120, g.toRedis)
}

func (g *stage) cutNATS(ctx context.Context, r *rand.Rand) error {
	return g.cut(ctx, r, history.BrokerCut, "nats-cut", 3000, g.toNATS...)
}

// movesAtMost is how often a seller's set-up changes before its last order must be finished.
const movesAtMost = 6

// movedFor is how long a set-up stays before it is restored.
const movedFor = 8 * time.Second

// moveSeller names another department in a seller's set-up while answers are lost: what was sent to the first is looked
// up there, or not at all. Then the set-up alternates until all that was sent to either is known.
func (g *stage) moveSeller(ctx context.Context, r *rand.Rand) error {
	m := g.list[r.IntN(min(3, len(g.list)))]
	f := history.Fault{Kind: history.SetupChanged, Target: m.name, Began: time.Now()}
	lost, err := g.Procs.Sandbox.AddFault(ctx, jdsandbox.Fault{
		Kind: jdsandbox.LoseAnswer, Methods: []string{"eclp.order.addOrder"}, Shops: []string{m.shop(), m.newShop()}, Chance: 0.7,
	})
	if err != nil {
		return err
	}
	wait(ctx, draw(r, time.Second, 3*time.Second))
	if err := g.apply(ctx, m, true); err != nil {
		return err
	}
	// Long enough for all the look-ups before a retry.
	wait(ctx, draw(r, resendAfter+2*time.Second, resendAfter+6*time.Second))
	if err := g.Procs.Sandbox.RemoveFault(context.WithoutCancel(ctx), lost.ID); err != nil {
		return err
	}
	held, err := g.heldElsewhere(ctx, m)
	if err != nil {
		return err
	}
	moved := true
	for n := 0; n < movesAtMost && ctx.Err() == nil; n++ {
		moved = !moved
		if err := g.apply(ctx, m, moved); err != nil {
			return err
		}
		left := 1
		for end := time.Now().Add(movedFor); left > 0 && time.Now().Before(end) && wait(ctx, time.Second); {
			if left, err = g.heldElsewhere(ctx, m); err != nil {
				return err
			}
		}
		if left == 0 && !moved {
			break
		}
	}
	if moved {
		if err := g.apply(context.WithoutCancel(ctx), m, false); err != nil {
			return err
		}
	}
	f.Detail = fmt.Sprintf("%d orders held meanwhile", held)
	g.tally.add("orders held for an earlier account", held)
	g.done(f, "seller-moved")
	return nil
}

// settleMoved restores for a moment the department that orders still wait for: orders that were retried only after the
// last move finish there.
func (g *stage) settleMoved(ctx context.Context) error {
	for _, m := range g.list {
		held, err := g.heldElsewhere(ctx, m)
		if err != nil {
			return err
		}
		if held == 0 {
			continue
		}
		if err := g.apply(ctx, m, true); err != nil {
			return err
		}
		for end := time.Now().Add(movedFor); held > 0 && time.Now().Before(end) && wait(ctx, time.Second); {
			if held, err = g.heldElsewhere(ctx, m); err != nil {
				return err
			}
		}
		wait(ctx, resendAfter) // released orders are looked up under this set-up
		if err := g.apply(context.WithoutCancel(ctx), m, false); err != nil {
			return err
		}
	}
	return nil
}

// apply sets a merchant up in one of its departments.
func (g *stage) apply(ctx context.Context, m merchant, moved bool) error {
	setup, err := m.setup(g.s.dir, "http://"+g.toJD.Addr())
	if err != nil {
		return err
	}
	if moved {
		setup.Accounts[0].Department, setup.Shops[0].ShopNo = m.newDepartment(), m.newShop()
	}
	text, err := seller.Render(setup)
	if err != nil {
		return err
	}
	_, err = g.Procs.Bridgectl(ctx, string(text), "seller", "apply", "-f", "-", "--despite", "chaos")
	return err
}

// heldElsewhere counts the merchant's orders that wait for the account that they were sent under.
func (g *stage) heldElsewhere(ctx context.Context, m merchant) (n int, err error) {
	held, _, err := g.Bus.DeadLetters(ctx, bus.DeadLetterQuery{Kind: event.Held, Seller: m.name, Limit: 10000})
	for _, s := range held {
		if s.Cause == seller.CauseIdentity(m.name, s.Key) {
			n++
		}
	}
	return n, err
}
