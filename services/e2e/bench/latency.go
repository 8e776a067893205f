//go:build unix

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/services/e2e/procs"
)

const (
	// jdTakes is JD's answer time in the row of the latency.
	jdTakes = 10 * time.Millisecond
	// latencyFor is how long orders arrive at half load, in total.
	latencyFor = 11 * time.Second
)

// latencyPlaces are the rows' beginnings, with how many further sellers are set up.
var latencyPlaces = []struct {
	id   string
	many int
}{{"latency", 0}, {"latency.2000", 2000}}

func latencyRows() (rows []budget) {
	for _, at := range latencyPlaces {
		beside := ""
		if at.many > 0 {
			beside = fmt.Sprintf(", with %d more sellers set up and all workers running", at.many)
		}
		rows = append(rows,
			budget{ID: at.id + ".p50", Group: at.id, What: "added to JD's own answer time at half load, audited stored to accepted stored" + beside, Unit: "ms", Most: bound(5)},
			budget{ID: at.id + ".p99", Group: at.id, What: "the same, of a hundred orders the slowest", Unit: "ms", Most: bound(20)},
		)
	}
	return rows
}

// latency measures the full rate first, then what half of it adds to JD's own answer time. many idle sellers are set up
// besides.
func (b *bench) latency(ctx context.Context, id string, many int, report *Report) error {
	s, err := b.stand(ctx, shape{name: id, sync: "always", redis: "everysec", latency: jdTakes})
	if err != nil {
		return err
	}
	defer s.close()
	sellers := []string{"one", "two"}
	for _, name := range sellers {
		if _, err := s.seller(ctx, name, "", plenty()); err != nil {
			return err
		}
	}
	if many > 0 {
		if err := s.setUpMany(ctx, 0, b.orders(many)); err != nil {
			return err
		}
	}
	ours, err := s.Worker(ctx, procs.OrderPusher, "pusher", "PUSH_SLOTS="+strconv.Itoa(inFlight), "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	if many > 0 {
		if _, err := s.allWorkers(ctx, procs.OrderPusher); err != nil {
			return err
		}
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	if err := s.warm(ctx, sellers...); err != nil {
		return err
	}
	full, err := side{s, ours, event.OrderAudited.Name, "order-pusher", sellers}.round(ctx, b.orders(2000))
	if err != nil {
		return err
	}
	half := full.rate / 2
	b.say(fmt.Sprintf("%s: %.0f/s is half of the full rate", id, half))
	from, err := s.last(ctx)
	if err != nil {
		return err
	}
	if err := s.trickle(ctx, half, time.Duration(float64(latencyFor)*min(1, b.scale)), sellers); err != nil {
		return err
	}
	if err := s.drained(ctx, "order-pusher"); err != nil {
		return err
	}
	added, err := s.added(ctx, from)
	if err != nil {
		return err
	}
	// A round is a stretch of the whole, so that a single bad moment shows.
	var p50, p99 []float64
	for chunk := range slices.Chunk(added, max(1, (len(added)+b.rounds-1)/b.rounds)) {
		p50, p99 = append(p50, percentile(chunk, 50)), append(p99, percentile(chunk, 99))
	}
	how := fmt.Sprintf("%d orders at %.0f/s, sync always, JD's %v taken off; rounds are stretches", len(added), half, jdTakes)
	if err := report.add(id+".p50", how, p50, nil); err != nil {
		return err
	}
	return report.add(id+".p99", how, p99, nil)
}

// trickle publishes at an even rate for a while, never waiting for what was published before.
func (s *stand) trickle(ctx context.Context, rate float64, for_ time.Duration, sellers []string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		gone := time.Since(began)
		if gone > for_ {
			return nil
		}
		for ; float64(sent) < rate*gone.Seconds(); sent++ {
			if err := s.publishOne(event.OrderAudited.Name, s.makers[sellers[sent%len(sellers)]].Next()); err != nil {
				return err
			}
		}
	}
}

// ends are the last sequence numbers of the streams of audits and of outcomes.
type ends struct{ audits, outcomes uint64 }

func (s *stand) last(ctx context.Context) (e ends, err error) {
	for stream, last := range map[string]*uint64{bus.StreamIntake: &e.audits, bus.StreamOrders: &e.outcomes} {
		str, err := s.js.Stream(ctx, stream)
		if err != nil {
			return e, err
		}
		*last = str.CachedInfo().State.LastSeq
	}
	return e, nil
}

// added is by how much later than JD's own time each order was published as accepted, in ms, in the order of the
// audits.
func (s *stand) added(ctx context.Context, after ends) ([]float64, error) {
	audited, err := s.storedAt(ctx, bus.StreamIntake, event.OrderAudited.Name+".*", after.audits)
	if err != nil {
		return nil, err
	}
	accepted, err := s.storedAt(ctx, bus.StreamOrders, event.OrderAccepted.Name+".*", after.outcomes)
	if err != nil {
		return nil, err
	}
	var list []float64
	for _, key := range slices.SortedFunc(maps.Keys(audited), func(a, b string) int { return audited[a].Compare(audited[b]) }) {
		if accepted[key].IsZero() {
			return nil, fmt.Errorf("%s was not accepted", key)
		}
		list = append(list, float64((accepted[key].Sub(audited[key])-jdTakes).Microseconds())/1000)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no orders after %d", after.audits)
	}
	return list, nil
}
