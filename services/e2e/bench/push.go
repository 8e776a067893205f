//go:build unix

package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/event"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/procs"
)

// pushPlace is the servers of a measurement: sync is JetStream's sync_interval, redis is appendfsync, "" for the ledger
// in JetStream, orders are those of a round.
type pushPlace struct {
	id, sync, redis string
	orders          int
}

var pushPlaces = []pushPlace{
	{"push.redis.default", "2m", "everysec", 3000},
	{"push.redis.always", "always", "everysec", 1500},
	{"push.kv.default", "2m", "", 2000},
	{"push.kv.always", "always", "", 200},
}

// plenty is a quota that does not limit.
func plenty() *sellerv1.Quota { return &sellerv1.Quota{PerSecond: 10_000, Concurrent: 1000} }

// tick is the resolution of CPU times, in µs.
const tick = 10_000

// round is one side's part of a round.
type round struct {
	rate float64            // orders a second
	cpu  map[string]float64 // µs an order, by part
}

func (r round) whole() (sum float64) {
	for _, v := range r.cpu {
		sum += v
	}
	return sum
}

func (b *bench) push(ctx context.Context, at pushPlace, report *Report) error {
	id, n := at.id, b.orders(at.orders)
	s, err := b.stand(ctx, shape{name: id, sync: at.sync, redis: at.redis})
	if err != nil {
		return err
	}
	defer s.close()
	// Two sellers with one credential: a single one may not hold all slots.
	sellers := []string{"one", "two"}
	var setup *sellerv1.Setup
	for _, name := range sellers {
		if setup, err = s.seller(ctx, name, "", plenty()); err != nil {
			return err
		}
	}
	file, err := s.fileOf(setup)
	if err != nil {
		return err
	}
	ours, err := s.Worker(ctx, procs.OrderPusher, "pusher", "PUSH_SLOTS="+strconv.Itoa(inFlight), "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	bare, err := s.Worker(ctx, program, "bare", "BENCH_PART=bare", "BENCH_SETUP="+file)
	if err != nil {
		return err
	}
	if err := s.warm(ctx, sellers...); err != nil {
		return err
	}
	sides := []side{
		{s, ours, event.OrderAudited.Name, "order-pusher", sellers},
		{s, bare, bareSubject, bareConsumer, sellers},
	}
	if at.redis != "" {
		piped, err := s.Worker(ctx, program, "pipeline", "BENCH_PART=pipeline", "BENCH_SETUP="+file)
		if err != nil {
			return err
		}
		sides = append(sides, side{s, piped, pipelineSubject, pipelineConsumer, sellers})
	}
	for _, side := range sides { // a warm-up round
		if _, err := side.round(ctx, n/2); err != nil {
			return err
		}
	}
	before, err := s.accepted(ctx)
	if err != nil {
		return err
	}
	var rates, cpus, absolute, bareAbsolute, pipedRates, pipedCPUs, pipedAbsolute []float64
	parts := map[string][]float64{}
	for i := range b.rounds {
		got := make([]round, len(sides))
		for j := range sides { // they alternate in going first
			k := (i + j) % len(sides)
			if got[k], err = sides[k].round(ctx, n); err != nil {
				return err
			}
		}
		least := tick / float64(n)
		rates = append(rates, got[0].rate/got[1].rate)
		cpus = append(cpus, got[0].whole()/max(got[1].whole(), least))
		absolute, bareAbsolute = append(absolute, got[0].rate), append(bareAbsolute, got[1].rate)
		said := fmt.Sprintf("%s round %d of %d: %.0f/s and %.0f/s bare, CPU %.0f µs and %.0f µs", id, i+1, b.rounds, got[0].rate, got[1].rate, got[0].whole(), got[1].whole())
		if len(sides) > 2 {
			pipedRates = append(pipedRates, got[0].rate/got[2].rate)
			pipedCPUs = append(pipedCPUs, got[0].whole()/max(got[2].whole(), least))
			pipedAbsolute = append(pipedAbsolute, got[2].rate)
			said += fmt.Sprintf("; pipeline %.0f/s and %.0f µs", got[2].rate, got[2].whole())
		}
		for k, prefix := range []string{"", "bare ", "pipeline "}[:len(sides)] {
			for name, v := range got[k].cpu {
				parts[prefix+name+" µs"] = append(parts[prefix+name+" µs"], v)
			}
		}
		b.say(said)
	}
	after, err := s.accepted(ctx)
	if err != nil {
		return err
	}
	if want := uint64(len(sides) * n * b.rounds); after-before != want {
		return fmt.Errorf("%d orders were accepted, want %d: see the logs in %s", after-before, want, s.Dir())
	}
	detail, piped := map[string]float64{}, map[string]float64{}
	for name, v := range parts {
		if strings.HasPrefix(name, "pipeline ") {
			piped[name] = median(v)
		} else {
			detail[name] = median(v)
		}
	}
	how := fmt.Sprintf("%d orders a round, %d in flight, sync %s", n, inFlight, at.sync)
	if at.redis != "" {
		how += ", Redis AOF " + at.redis
	}
	if err := report.add(id+".rate", how, rates, nil); err != nil {
		return err
	}
	if err := report.add(id+".cpu", "user and system time of the processes", cpus, detail); err != nil {
		return err
	}
	if err := report.add(id+".orders", "the worker alone", absolute, map[string]float64{"bare /s": median(bareAbsolute)}); err != nil || len(sides) == 2 {
		return err
	}
	if err := report.add(id+".pipeline.rate", "rounds next to each other", pipedRates, map[string]float64{"pipeline /s": median(pipedAbsolute)}); err != nil {
		return err
	}
	return report.add(id+".pipeline.cpu", "user and system time of the processes", pipedCPUs, piped)
}

// side is one of those that are compared.
type side struct {
	*stand
	worker            *procs.Process
	subject, consumer string
	sellers           []string
}

// round stores n orders while the worker is frozen, wakes it, and measures until all outcomes are stored and all
// messages acked.
func (d side) round(ctx context.Context, n int) (r round, err error) {
	if err := d.worker.Pause(); err != nil {
		return r, err
	}
	err = d.publish(ctx, d.subject, n, d.sellers...)
	before, usedErr := d.used()
	began := time.Now()
	if contErr := d.worker.Continue(); err == nil {
		err = contErr
	}
	if err == nil {
		err = usedErr
	}
	if err != nil {
		return r, err
	}
	if err := d.drained(ctx, d.consumer); err != nil {
		return r, err
	}
	after, err := d.used()
	if err != nil {
		return r, err
	}
	ended, err := d.lastStored(ctx) // the last outcome is stored: what is acked by now was stored before
	r.rate, r.cpu = float64(n)/ended.Sub(began).Seconds(), map[string]float64{}
	for name, v := range after {
		r.cpu[name] = float64((v - before[name]).Microseconds()) / float64(n)
	}
	return r, err
}

// used is the CPU time of the worker and of the servers so far.
func (d side) used() (map[string]time.Duration, error) {
	of := map[string]*procs.Process{"worker": d.worker, "nats-server": d.NATS.Nodes[0]}
	if d.Redis != nil {
		of["redis-server"] = d.Redis.Process
	}
	all := map[string]time.Duration{}
	for name, p := range of {
		u, err := p.Usage()
		if err != nil {
			return nil, err
		}
		all[name] = u.CPU
	}
	return all, nil
}
