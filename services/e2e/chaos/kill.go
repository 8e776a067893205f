//go:build unix

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/procs"
)

// killed is a SIGKILL of a worker.
type killed struct {
	worker string
	at     time.Time
	// open counts the calls that were under way then and whose caller was gone when the answer was ready.
	open int
}

// kills matches the kills with the sandbox's log.
type kills struct {
	mu    sync.Mutex
	list  []killed
	after int64
}

// hit returns how many kills hit a call, and how many calls.
func (k *kills) hit() (kills, calls int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.list {
		if one.open > 0 {
			kills++
		}
		calls += one.open
	}
	return kills, calls
}

// slack is the time between the signal and its recorded time; the log's times are truncated to milliseconds.
const slack = 3 * time.Millisecond

// meet assigns each call whose caller was gone to the kill that came while it was under way.
func (k *kills) meet(calls []jdsandbox.Call) {
	for _, c := range calls {
		k.after = c.Seq
		if !c.Gone {
			continue
		}
		until := c.At.Add(time.Duration(c.TookMillis)*time.Millisecond + slack)
		for i := range k.list {
			if at := k.list[i].at; !at.Before(c.At.Add(-slack)) && !at.After(until) {
				k.list[i].open++
				break
			}
		}
	}
}

// readCalls continues reading the sandbox's log.
func (g *stage) readCalls(ctx context.Context) error {
	k := &g.killed
	k.mu.Lock()
	defer k.mu.Unlock()
	calls, err := g.Procs.Sandbox.Calls(ctx, k.after)
	if err != nil {
		return err
	}
	k.meet(calls)
	return nil
}

// killPause is the pause between two kills; above the longest call, so that a call meets one kill only.
const killPause = 650 * time.Millisecond

// kill kills pushers until enough kills hit a call, spread over the time of the faults, and restarts each.
func (g *stage) kill(ctx context.Context) error {
	r := rand.New(rand.NewPCG(g.s.seed, 0x717))
	// Some hit nothing.
	every := max(g.s.lasting/time.Duration(g.s.kills*4/3+4), killPause)
	// The number can be missed: this is the most time that is spent.
	for end := time.Now().Add(g.s.lasting * 2); time.Now().Before(end); {
		if !wait(ctx, draw(r, every*7/10, every*12/10)) {
			return nil
		}
		if err := g.readCalls(ctx); err != nil {
			return err
		}
		if n, _ := g.killed.hit(); n >= g.s.kills {
			return nil
		}
		if err := g.killOne(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// killOne kills a pusher and restarts it in the background.
func (g *stage) killOne(ctx context.Context, r *rand.Rand) error {
	p := g.pick(r)
	if p == nil {
		return nil
	}
	// A moment in which several workers call is the best one.
	for i := 0; i < 100 && g.toJD.Asking() <= usual-i/25; i++ {
		wait(ctx, 10*time.Millisecond)
	}
	if err := g.killNow(p); err != nil {
		g.release(p)
		return err
	}
	g.later.Go(func() {
		defer g.release(p)
		if err := g.up(ctx, p); err != nil && ctx.Err() == nil {
			g.printf("%v", err) // a worker that does not start again shows in what is left to do
		}
	})
	return nil
}

// killNow kills it while the servers are up.
func (g *stage) killNow(p *procs.Process) error {
	g.serving.RLock()
	defer g.serving.RUnlock()
	// The log is read under the lock: a call is reported after its kill is known.
	g.killed.mu.Lock()
	defer g.killed.mu.Unlock()
	at := time.Now()
	err := p.Kill()
	if err == nil {
		g.killed.list = append(g.killed.list, killed{worker: p.Name, at: at})
	}
	return err
}

// recordKills writes the kills into the history, once it is known what they hit.
func (g *stage) recordKills() {
	for _, k := range g.killed.list {
		g.Record.Fault(history.Fault{Kind: history.Killed, Target: k.worker, Began: k.at, Detail: fmt.Sprintf("%d calls under way", k.open)})
	}
}
