//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/services/e2e/history"
)

// play plays the scenario and returns check's exit code.
func play(ctx context.Context, s settings, out io.Writer) (code int, err error) {
	g, err := open(ctx, s, out)
	if err != nil {
		return 2, err
	}
	defer g.close()
	g.printf("%s: %d orders, %d nodes, ledger %s, seed %d, in %s", s.scenario, s.orders, s.nodes, s.ledger, s.seed, s.dir)
	if err := g.perform(ctx); err != nil {
		return 2, err
	}
	return g.judge(ctx)
}

func (g *stage) perform(ctx context.Context) error {
	workers := usual
	if g.s.scenario == scenarioKills {
		workers = 1
	}
	if err := g.scale(ctx, workers); err != nil {
		return err
	}
	if err := g.startPoller(ctx); err != nil {
		return err
	}
	if err := g.startReconciler(ctx); err != nil {
		return err
	}
	progress, stop := context.WithCancel(ctx)
	defer stop()
	go g.progress(progress)
	supervising, unsupervised := context.WithCancel(ctx)
	defer unsupervised()
	go g.supervise(supervising)
	g.performing = time.Now()
	var err error
	if g.s.scenario == scenarioKills {
		err = g.tenKills(ctx)
	} else {
		err = g.day(ctx)
	}
	if err != nil {
		return err
	}
	g.performed = time.Now()
	stop()
	return g.rest(ctx, workers)
}

// crowdFor is how long sellers crowd while nothing else happens, so that P8 is judged separately.
const crowdFor = 25 * time.Second

// day publishes orders at a steady rate: first a crowd, then the storm.
func (g *stage) day(ctx context.Context) error {
	crowd, flood := crowdFor, g.s.orders/10
	if g.s.scenario == scenarioSmoke || g.s.faults != "" {
		crowd, flood = 0, 0
	}
	stormy, over := context.WithCancel(ctx)
	defer over()
	var publishing sync.WaitGroup
	for range litterAtOnce {
		g.erp.litter(ctx, flooding)
	}
	every := (crowd + g.s.lasting) / time.Duration(g.s.orders-flood)
	publishing.Go(func() { g.steady(ctx, stormy, g.s.orders-flood, every, crowd) })
	if crowd > 0 {
		if err := g.crowd(ctx, flood, crowd); err != nil {
			return err
		}
	}
	if err := g.storm(ctx); err != nil {
		return err
	}
	over()
	publishing.Wait()
	g.later.Wait()
	g.erp.sending.Wait()
	return ctx.Err()
}

// steady publishes the sellers' shares in an order drawn from the seed: n orders, and more as long as it is stormy, so
// that there is always something to hit.
func (g *stage) steady(ctx, stormy context.Context, n int, every, calm time.Duration) {
	r := rand.New(rand.NewPCG(g.s.seed, 0xe4b))
	var lots []string
	for _, m := range g.list {
		for range m.share {
			lots = append(lots, m.name)
		}
	}
	began := time.Now()
	for i := 0; i < n || stormy.Err() == nil; i++ {
		at := every * time.Duration(i)
		if !wait(ctx, time.Until(began.Add(at))) {
			return
		}
		seller, group := lots[r.IntN(len(lots))], ""
		if seller != resting && at < calm {
			group = history.Healthy
		}
		g.erp.publish(ctx, seller, group)
		if i%litterEvery == 0 {
			g.erp.litter(ctx, flooding)
		}
	}
}

// Messages that nobody can read: so many at once, more than become dead letters of their own, and later one for so many orders.
const (
	litterAtOnce = 300
	litterEvery  = 20
)

// crowd lets one seller flood and another be held, for a while in which nothing else happens.
func (g *stage) crowd(ctx context.Context, flood int, lasting time.Duration) error {
	if _, err := g.Procs.Bridgectl(ctx, "", "seller", "pause", resting, "--reason", "chaos"); err != nil {
		return err
	}
	f := history.Fault{Kind: history.Crowded, Target: flooding + ", " + resting, Began: time.Now(), Detail: fmt.Sprintf("%d at once, one paused", flood)}
	for range flood {
		g.erp.publish(ctx, flooding, "crowd")
	}
	wait(ctx, lasting)
	g.done(f, "crowd")
	return ctx.Err()
}

// tenKills publishes as fast as possible and kills the only pusher in mid-flow.
func (g *stage) tenKills(ctx context.Context) error {
	began := time.Now()
	var publishing sync.WaitGroup
	publishing.Go(func() {
		slots := make(chan struct{}, 64)
		for range g.s.orders {
			if ctx.Err() != nil {
				return
			}
			slots <- struct{}{}
			o := g.erp.makers[g.list[0].name].Next()
			publishing.Go(func() {
				defer func() { <-slots }()
				g.erp.until(ctx, o, "")
			})
		}
	})
	r := rand.New(rand.NewPCG(g.s.seed, 0x717))
	for i := range g.s.kills {
		aim := int64(g.s.orders * (i + 1) / (g.s.kills + 1))
		for {
			n, err := g.Procs.Sandbox.Counters(ctx)
			if err != nil {
				return err
			}
			if n.Accepted >= aim {
				break
			}
			if !wait(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
		}
		if err := g.killOne(ctx, r); err != nil {
			return err
		}
		g.later.Wait()
		g.printf("kill %d of %d, with %d orders at the warehouse", i+1, g.s.kills, aim)
	}
	publishing.Wait()
	g.printf("all %d published after %.0f s", g.s.orders, time.Since(began).Seconds())
	return ctx.Err()
}

// progressEvery is the interval between two lines of progress.
const progressEvery = 10 * time.Second

func (g *stage) progress(ctx context.Context) {
	for wait(ctx, progressEvery) {
		g.printProgress(ctx)
	}
}

func (g *stage) printProgress(ctx context.Context) {
	_ = g.readCalls(ctx) // the next read returns more
	hit, calls := g.killed.hit()
	n, err := g.Procs.Sandbox.Counters(ctx)
	if err != nil {
		return
	}
	g.printf("%d published, %d acknowledged, %d at the warehouse; %d kills hit %d calls", g.erp.sent.Load(), g.erp.acked.Load(), n.Accepted, hit, calls)
}

const (
	// restWithin is how long the run may take to come to rest.
	restWithin = 6 * time.Minute
	// restFor is how long nothing may be left to do before the run is at rest.
	restFor = 4 * time.Second
)

// onlyElsewhere matches what is left when only orders of an earlier account wait.
var onlyElsewhere = regexp.MustCompile(`^\d+ held by identity$`)

// rest ends what is still being done, waits until nothing is left to do, and stops the workers.
func (g *stage) rest(ctx context.Context, workers int) error {
	if err := g.Procs.Sandbox.ClearFaults(ctx); err != nil {
		return err
	}
	g.later.Wait()
	if err := g.scale(ctx, workers); err != nil {
		return err
	}
	if g.tally.of["crowd"] > 0 {
		if _, err := g.Procs.Bridgectl(ctx, "", "seller", "resume", resting); err != nil {
			return err
		}
	}
	g.printf("the faults are over; waiting until nothing is left to do")
	began, last, quiet, reconciled := time.Now(), "", time.Time{}, false
	for time.Since(began) < restWithin {
		left, err := g.left(ctx)
		if err != nil {
			left = err.Error()
		}
		switch {
		case left != "":
			quiet = time.Time{}
		case quiet.IsZero():
			quiet = time.Now()
		}
		if left != "" && (last == "" || int(time.Since(began).Seconds())%10 == 0) {
			g.printf("left: %s", left)
		}
		if onlyElsewhere.MatchString(left) {
			if err := g.settleMoved(ctx); err != nil {
				left = err.Error()
			}
		}
		last = left
		if !quiet.IsZero() && time.Since(quiet) >= restFor {
			if reconciled {
				break
			}
			// What was lost has to be known again after one cycle; what is handed over for that comes to rest too.
			if err := g.reconcile(ctx); err != nil {
				g.printf("%v", err)
				last = err.Error()
				break
			}
			reconciled, quiet = true, time.Time{}
		}
		if !wait(ctx, time.Second) {
			return ctx.Err()
		}
	}
	if last != "" {
		g.printf("it did not come to rest within %s: %s", restWithin, last)
		g.restless = last
	}
	g.rested = time.Now()
	g.wanted.Store(0)
	g.printProgress(ctx)
	workersOf := slices.Concat(g.reconcilers, g.pollers, g.pushers)
	for _, p := range workersOf {
		if p.Alive() {
			if err := p.Term(); err != nil {
				return err
			}
		}
	}
	for _, p := range workersOf {
		_ = p.Wait(ctx) // the checker judges how it ended
	}
	return ctx.Err()
}

// left describes what is left to do, "" for nothing.
func (g *stage) left(ctx context.Context) (string, error) {
	w, err := g.Procs.NATS.Waiting(ctx)
	if err != nil {
		return "", err
	}
	var left []string
	for _, name := range []string{"order-pusher", "order-pusher-retry"} {
		if n := w.Unsettled[name]; n > 0 {
			left = append(left, fmt.Sprintf("%d %s", n, name))
		}
	}
	delayed, err := g.Bus.Delayed(ctx)
	if err != nil {
		return "", err
	}
	if delayed > 0 {
		left = append(left, fmt.Sprintf("%d delayed", delayed))
	}
	held, _, err := g.Bus.DeadLetters(ctx, bus.DeadLetterQuery{Kind: event.Held, Limit: 10000})
	if err != nil {
		return "", err
	}
	causes := map[string]int{}
	for _, s := range held {
		if cause, _, _ := strings.Cut(s.Cause, ":"); cause != "operator" && cause != "former" { // those wait for a person
			causes[cause]++
		}
	}
	for cause, n := range causes {
		left = append(left, fmt.Sprintf("%d held by %s", n, cause))
	}
	return strings.Join(left, ", "), nil
}
