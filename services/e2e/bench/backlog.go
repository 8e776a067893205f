//go:build unix

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/quota"
	"stockbridge/services/e2e/procs"
)

const (
	// backlogSlots are the slots of a replica.
	backlogSlots = 32
	// backlogFor is how long a backlog takes that is drained as fast as seats and JD allow. It decides how many orders there
	// are, unless -full says fullBacklog.
	backlogFor  = 60 * time.Second
	fullBacklog = 11_000
	// backlogSlack is by how much longer it is watched before what is left is given up.
	backlogSlack = 2
	// lookEvery is the interval of the curves.
	lookEvery = 5 * time.Second
	// The chart's numbers (deploy/helm/stockbridge/values.yaml): horizonSeconds, and callsPerMessage of order-pusher.
	horizon         = 60 * time.Second
	callsPerMessage = 1
)

// backlogPlace is a backlog: of how many sellers alike, on how many replicas, with JD's answer time.
type backlogPlace struct {
	id                string
	jd                time.Duration
	sellers, replicas int
}

var backlogs = []backlogPlace{
	{"backlog.1s.r1", time.Second, 1, 1},
	{"backlog.1s.r2", time.Second, 1, 2},
	{"backlog.1s.r4", time.Second, 1, 4},
	{"backlog.300ms.r1", 300 * time.Millisecond, 1, 1},
	{"backlog.300ms.r2", 300 * time.Millisecond, 1, 2},
	{"backlog.300ms.r4", 300 * time.Millisecond, 1, 4},
	{"backlog.eight", time.Second, 8, 1},
}

// seats is how many orders all replicas may have at JD at once.
func (p backlogPlace) seats() int {
	return p.replicas * min(backlogSlots, bus.SeatsOf(backlogSlots)*p.sellers)
}

func backlogRows() (rows []budget) {
	for _, at := range backlogs {
		whose := "one seller"
		if at.sellers > 1 {
			whose = fmt.Sprintf("%d sellers alike", at.sellers)
		}
		rows = append(rows,
			budget{ID: at.id, Group: at.id, Least: bound(0.9),
				What: fmt.Sprintf("a backlog of %s, JD answering in %v, on %s: orders a second from first to last, against seats ÷ JD's time", whose, at.jd, replicas(at.replicas))},
			budget{ID: at.id + ".query", Group: at.id, Least: bound(0.9), Most: bound(1.1),
				What: "what the scaling query counts, against what waits and the budget allows within the horizon"},
		)
	}
	return rows
}

func replicas(n int) string {
	if n == 1 {
		return "one replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

// backlog stores a backlog and follows how it is drained.
func (b *bench) backlog(ctx context.Context, at backlogPlace, report *Report) error {
	s, err := b.stand(ctx, shape{name: at.id, sync: "always", redis: "everysec", latency: at.jd})
	if err != nil {
		return err
	}
	defer s.close()
	var names []string
	for i := range at.sellers {
		name := fmt.Sprintf("s%d", i+1)
		if _, err := s.seller(ctx, name, "app-"+name, plenty()); err != nil {
			return err
		}
		names = append(names, name)
	}
	// A seller that is alone may hold all slots.
	if _, err := s.seller(ctx, other, "app-"+other, plenty()); err != nil {
		return err
	}
	var workers []*procs.Process
	for i := range at.replicas {
		p, err := s.Worker(ctx, procs.OrderPusher, fmt.Sprintf("pusher-%d", i+1), "PUSH_SLOTS="+strconv.Itoa(backlogSlots), "LOG_LEVEL=error")
		if err != nil {
			return err
		}
		workers = append(workers, p)
	}
	if err := s.warm(ctx, names...); err != nil {
		return err
	}
	ideal := float64(at.seats()) / at.jd.Seconds()
	n := max(3*at.seats(), b.orders(int(ideal*backlogFor.Seconds())))
	if b.full {
		n = fullBacklog
	}
	expected := time.Duration(float64(n) / ideal * float64(time.Second))
	from, err := s.last(ctx)
	if err != nil {
		return err
	}
	before, err := s.accepted(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.publish(ctx, event.OrderAudited.Name, n, names...); err != nil {
		return err
	}
	look := &scalingLook{seats: at.seats()}
	if err := look.at(ctx, workers, n); err != nil {
		return err
	}
	var curve []float64
	done, every := 0, time.NewTicker(min(lookEvery, max(expected/4, 500*time.Millisecond)))
	defer every.Stop()
	for limit := began.Add(backlogSlack*expected + 10*time.Second); done < n && time.Now().Before(limit); {
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now, err := s.accepted(ctx)
		if err != nil {
			return err
		}
		curve = append(curve, float64(int(now-before)-done)) //nolint:gosec // counts are far smaller
		done = int(now - before)                             //nolint:gosec // counts are far smaller
		if err := look.at(ctx, workers, n-done); err != nil {
			return err
		}
		b.say(fmt.Sprintf("%s: %d of %d after %.0f s; the query counts %.0f of %d waiting", at.id, done, n, time.Since(began).Seconds(), look.query, look.waiting))
	}
	took := time.Since(began)
	var accepted []time.Time
	for _, name := range names {
		times, err := s.storedAt(ctx, bus.StreamOrders, event.OrderAccepted.Name+"."+name, from.outcomes)
		if err != nil {
			return err
		}
		for _, t := range times {
			accepted = append(accepted, t)
		}
	}
	if len(accepted) < 2 {
		return fmt.Errorf("%d of %d orders were accepted in %v: see the logs in %s", len(accepted), n, took, s.Dir())
	}
	// The first was at JD for as long as JD takes.
	first, last := slices.MinFunc(accepted, time.Time.Compare).Add(-at.jd), slices.MaxFunc(accepted, time.Time.Compare)
	left := n - len(accepted)
	if left > 0 {
		last = time.Now()
	}
	rate := float64(len(accepted)) / last.Sub(first).Seconds()
	how := fmt.Sprintf("%d orders (%d in full), %d seats, sync always, no limit by quota", n, fullBacklog, at.seats())
	detail := map[string]float64{"orders /s": rate, "seats ÷ JD's time /s": ideal, "s": last.Sub(first).Seconds()}
	if left > 0 {
		detail["given up"] = float64(left)
	}
	if err := report.add(at.id, how, []float64{rate / ideal}, detail); err != nil {
		return err
	}
	report.curve("accepted, each "+min(lookEvery, max(expected/4, 500*time.Millisecond)).String(), curve)
	if err := report.add(at.id+".query", "median of the looks while more waits than a second's worth; the replicas' own metrics", look.shares, map[string]float64{
		"looks": float64(len(look.shares)), "most query": slices.Max(look.queries), "most runnable": slices.Max(look.runnable),
		"least headroom /s": slices.Min(look.headroom),
	}); err != nil {
		return err
	}
	report.curve("query", look.queries)
	report.curve("waiting", look.waited)
	return nil
}

// scalingLook follows what the chart's query of order-pusher would answer.
type scalingLook struct {
	seats   int
	waiting int
	query   float64
	// shares are the query against what really waits, or what the budgets allow if that is less.
	shares, queries, waited, runnable, headroom []float64
}

// at looks once. notDone is how many orders are not accepted.
func (l *scalingLook) at(ctx context.Context, workers []*procs.Process, notDone int) error {
	bodies := make([][]byte, len(workers))
	for i, p := range workers {
		body, _, err := scrape(ctx, p)
		if err != nil {
			return err
		}
		bodies[i] = body
	}
	runnable, headroom := chartQuery(bodies)
	l.waiting = max(0, notDone-l.seats)
	allowed := headroom * horizon.Seconds() / callsPerMessage
	l.query = min(runnable, allowed)
	l.queries, l.runnable, l.headroom = append(l.queries, l.query), append(l.runnable, runnable), append(l.headroom, headroom)
	l.waited = append(l.waited, float64(l.waiting))
	if l.waiting > l.seats {
		l.shares = append(l.shares, l.query/min(float64(l.waiting), allowed))
	}
	return nil
}

// chartQuery is the two terms of the chart's query, over the scrapes of all replicas: what is runnable, and how many calls a
// second the budgets allow (other classes make none here). How long a call takes is taken from all calls so far, where
// the chart takes the last two minutes'.
func chartQuery(bodies [][]byte) (runnable, headroom float64) {
	perSecond, concurrent := map[string]float64{}, map[string]float64{}
	var seconds, calls float64
	for _, body := range bodies {
		for _, v := range metric(body, "stockbridge_consumer_runnable") {
			if v.label("consumer") == "order-pusher" {
				runnable = max(runnable, v.value)
			}
		}
		for name, of := range map[string]map[string]float64{
			"stockbridge_quota_budget_calls_per_second": perSecond, "stockbridge_quota_budget_concurrent_calls": concurrent,
		} {
			for _, v := range metric(body, name) {
				of[v.label("application")] = max(of[v.label("application")], v.value)
			}
		}
		for name, sum := range map[string]*float64{"stockbridge_warehouse_call_seconds_sum": &seconds, "stockbridge_warehouse_call_seconds_count": &calls} {
			for _, v := range metric(body, name) {
				if v.label("class") == string(quota.Push) {
					*sum += v.value
				}
			}
		}
	}
	for application, most := range perSecond {
		if atOnce, ok := concurrent[application]; ok && seconds > 0 {
			most = min(most, atOnce*calls/seconds)
		}
		headroom += most
	}
	return runnable, headroom
}
