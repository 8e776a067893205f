//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/services/e2e/procs"
)

const (
	// idleFor is how long idle processes are watched; idleForFew is the shorter watch of a fifth of the sellers.
	idleFor, idleForFew = 60 * time.Second, 20 * time.Second
	// idleSettles is how long set-ups may take to reach the workers' rest.
	idleSettles = time.Minute
	// applies is how many sellers are applied one by one.
	applies = 5
	scrapes = 3
)

// idlePlace is a number of sellers that are set up and have nothing to do.
type idlePlace struct {
	id      string
	sellers int
	// growth compares with a fifth of them.
	growth bool
}

var idlePlaces = []idlePlace{{"idle.10", 10, false}, {"idle.2000", 2000, false}, {"idle.10000", 10_000, true}}

func idleRows() []budget {
	rows := []budget{
		{ID: "idle.memory", Group: "idle", What: "resident memory of an idle worker", Unit: "MiB", Most: bound(40)},
		{ID: "idle.start", Group: "idle", What: "from start to ready", Unit: "s", Most: bound(1)},
	}
	for _, at := range idlePlaces {
		all := []budget{
			{ID: at.id + ".cpu", What: fmt.Sprintf("%d idle sellers: nats-server, redis-server and all workers together, of a core", at.sellers)},
			{ID: at.id + ".scrape", What: "the slowest worker's metrics", Unit: "ms"},
			{ID: at.id + ".memory", What: "resident memory of the largest worker", Unit: "MiB"},
			{ID: at.id + ".apply", What: "one `bridgectl seller apply` of a new seller, its process included", Unit: "s"},
		}
		if at.sellers == 2000 {
			all[0].Most, all[1].Most = bound(0.10), bound(50)
		}
		if at.growth {
			all = append(all, budget{ID: at.id + ".growth", What: "CPU per idle seller, against that with a fifth of them", Most: bound(1.1)})
		}
		for i := range all {
			all[i].Group = at.id
		}
		rows = append(rows, all...)
	}
	return rows
}

// idleMany measures what sellers cost that have nothing to do.
func (b *bench) idleMany(ctx context.Context, at idlePlace, report *Report) error {
	s, err := b.stand(ctx, shape{name: at.id, sync: "always", redis: "everysec"})
	if err != nil {
		return err
	}
	defer s.close()
	n := max(5, int(float64(at.sellers)*b.scale))
	few, first := n/5, n
	if at.growth {
		first = few
	}
	began := time.Now()
	if err := s.setUpMany(ctx, 0, first); err != nil {
		return err
	}
	workers, err := s.allWorkers(ctx)
	if err != nil {
		return err
	}
	var cpuOfFew float64
	if at.growth {
		if err := s.settle(ctx); err != nil {
			return err
		}
		w, err := s.watch(ctx, workers, few, scaledDown(idleForFew, b.scale))
		if err != nil {
			return err
		}
		cpuOfFew = w.whole()
		b.say(fmt.Sprintf("%s: %.1f %% of a core with %d", at.id, 100*cpuOfFew, few))
		began = time.Now()
		if err := s.setUpMany(ctx, few, n); err != nil {
			return err
		}
	}
	setUp := time.Since(began)
	if err := s.settle(ctx); err != nil {
		return err
	}
	applied, err := s.applyTimes(ctx)
	if err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	w, err := s.watch(ctx, workers, n, scaledDown(idleFor, b.scale))
	if err != nil {
		return err
	}
	memory, scraped, err := s.visit(ctx, workers)
	if err != nil {
		return err
	}
	parts := map[string]float64{"Redis commands /s": w.commands}
	for name, share := range w.cpu {
		parts[name+" %"] = 100 * share
	}
	how := fmt.Sprintf("%d sellers, set up in %.0f s, one of each worker, over %.0f s, sync always, Redis AOF everysec", n, setUp.Seconds(), w.took.Seconds())
	if err := report.add(at.id+".cpu", how, []float64{w.whole()}, parts); err != nil {
		return err
	}
	if err := report.add(at.id+".scrape", "of all workers one after the other, the median of each", []float64{scraped.slowest}, scraped.detail); err != nil {
		return err
	}
	largest := 0.0
	for _, v := range memory {
		largest = max(largest, v)
	}
	if err := report.add(at.id+".memory", "after all of it", []float64{largest}, memory); err != nil {
		return err
	}
	if err := report.add(at.id+".apply", "while the workers run", applied, nil); err != nil {
		return err
	}
	if !at.growth {
		return nil
	}
	return report.add(at.id+".growth", fmt.Sprintf("%d against %d sellers in one run", n, few), []float64{w.whole() / max(cpuOfFew, 1e-6) * float64(few) / float64(n)},
		map[string]float64{fmt.Sprintf("with %d %%", few): 100 * cpuOfFew})
}

// scaledDown is d, less with a small scale, but long enough for a figure.
func scaledDown(d time.Duration, scale float64) time.Duration {
	return max(2*time.Second, time.Duration(float64(d)*min(1, scale)))
}

// watched is what processes used over some time.
type watched struct {
	took time.Duration
	// cpu is the share of a core of each process; commands are Redis', a second.
	cpu      map[string]float64
	commands float64
}

func (w watched) whole() (sum float64) {
	for _, v := range w.cpu {
		sum += v
	}
	return sum
}

const (
	// reconciledEvery is the interval of a seller's ticks of the reconciler; each listedEvery-th reads the warehouse's lists.
	reconciledEvery = 10 * time.Minute
	listedEvery     = 3
)

// reconcileShare fires the share of n sellers' reconciler ticks that falls into a time, which is shorter than their interval,
// evenly, until ctx ends. A seller's first tick reads the warehouse's lists, its further ones do not; so the first of all is
// followed by further ones of the same sellers.
func (s *stand) reconcileShare(ctx context.Context, n int, time_ time.Duration) error {
	ticks := int(float64(n) * time_.Seconds() / reconciledEvery.Seconds())
	if ticks == 0 {
		return nil
	}
	b, err := bus.Connect(ctx, bus.Options{URL: s.NATS.URL(), Name: "bench", Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer b.Close()
	sellers := max(1, ticks/listedEvery)
	every := time.NewTicker(time_ / time.Duration(ticks))
	defer every.Stop()
	for i := range ticks {
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
		// The newest sellers: those of an earlier watch had theirs.
		if err := b.Tick(ctx, event.TickReconcile, manyName(n-1-i%sellers)); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// watch leaves everything alone for a while, but for the reconciler's ticks of n sellers.
func (s *stand) watch(ctx context.Context, workers []*procs.Process, n int, for_ time.Duration) (w watched, err error) {
	of := s.servers()
	for _, p := range workers {
		of[p.Name] = p
	}
	before, err := spent(of)
	if err != nil {
		return w, err
	}
	commands, err := s.redisCommands(ctx)
	if err != nil {
		return w, err
	}
	began := time.Now()
	ticking, stop := context.WithCancel(ctx)
	ticked := make(chan error, 1)
	go func() { ticked <- s.reconcileShare(ticking, n, for_) }()
	err = rest(ctx, for_)
	stop()
	if err := errors.Join(err, <-ticked); err != nil {
		return w, err
	}
	w.took = time.Since(began)
	after, err := spent(of)
	if err != nil {
		return w, err
	}
	if w.commands, err = s.redisCommands(ctx); err != nil {
		return w, err
	}
	w.commands = (w.commands - commands) / w.took.Seconds()
	w.cpu = map[string]float64{}
	for name := range of {
		w.cpu[name] = (after[name] - before[name]).Seconds() / w.took.Seconds()
	}
	return w, nil
}

// scrapedAll is what the workers' metrics cost.
type scrapedAll struct {
	slowest float64 // ms
	detail  map[string]float64
}

// visit reads memory and metrics of each worker.
func (s *stand) visit(ctx context.Context, workers []*procs.Process) (memory map[string]float64, all scrapedAll, err error) {
	memory, all.detail = map[string]float64{}, map[string]float64{}
	for _, p := range workers {
		var times []float64
		for range scrapes {
			body, took, err := scrape(ctx, p)
			if err != nil {
				return nil, all, err
			}
			times = append(times, float64(took.Microseconds())/1000)
			all.detail[p.Name+" KiB"] = float64(len(body)) / 1024
		}
		all.detail[p.Name+" ms"] = median(times)
		all.slowest = max(all.slowest, median(times))
		u, err := p.Usage()
		if err != nil {
			return nil, all, err
		}
		memory[p.Name+" MiB"] = mib(u.Resident)
	}
	for name, p := range s.servers() {
		u, err := p.Usage()
		if err != nil {
			return nil, all, err
		}
		all.detail[name+" MiB"] = mib(u.Resident)
	}
	return memory, all, nil
}

// applyTimes applies a few more sellers, one by one, as an operator does.
func (s *stand) applyTimes(ctx context.Context) (list []float64, err error) {
	for i := range applies {
		name := fmt.Sprintf("extra%d", i+1)
		setup, err := s.setupOf(name, "app-"+name, plenty())
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := s.Apply(ctx, setup); err != nil {
			return nil, err
		}
		list = append(list, time.Since(began).Seconds())
	}
	return list, nil
}
