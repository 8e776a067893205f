//go:build unix

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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

// latency measures the full rate first, then what half of it adds to JD's own answer time.
func (b *bench) latency(ctx context.Context, report *Report) error {
	s, err := b.stand(ctx, shape{name: "latency", sync: "always", redis: "everysec", latency: jdTakes})
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
	ours, err := s.Worker(ctx, procs.OrderPusher, "pusher", "PUSH_SLOTS="+strconv.Itoa(inFlight), "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	if err := s.warm(ctx, sellers...); err != nil {
		return err
	}
	full, err := side{s, ours, event.OrderAudited.Name, "order-pusher", sellers}.round(ctx, b.orders(2000))
	if err != nil {
		return err
	}
	half := full.rate / 2
	b.say(fmt.Sprintf("latency: %.0f/s is half of the full rate", half))
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
		slices.Sort(chunk)
		p50, p99 = append(p50, chunk[len(chunk)/2]), append(p99, chunk[len(chunk)*99/100])
	}
	how := fmt.Sprintf("%d orders at %.0f/s, sync always, JD's %v taken off; rounds are stretches", len(added), half, jdTakes)
	if err := report.add("latency.p50", how, p50, nil); err != nil {
		return err
	}
	return report.add("latency.p99", how, p99, nil)
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

// times are when the events of a name were stored, by order, and the orders in their sequence.
func (s *stand) times(ctx context.Context, stream, name string, after, last uint64) (keys []string, at map[string]time.Time, err error) {
	c, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, HeadersOnly: true,
	})
	if err != nil {
		return nil, nil, err
	}
	at = map[string]time.Time{}
	for seq := after; seq < last; {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			return nil, nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, nil, err
		}
		seq = meta.Sequence.Stream
		if is, _ := event.Split(m.Subject()); is == name {
			key := m.Headers().Get(event.HeaderSubject)
			keys, at[key] = append(keys, key), meta.Timestamp
		}
	}
	return keys, at, nil
}

// added is by how much later than JD's own time each order was published as accepted, in ms, in the order of the
// audits.
func (s *stand) added(ctx context.Context, after ends) ([]float64, error) {
	last, err := s.last(ctx)
	if err != nil {
		return nil, err
	}
	keys, audited, err := s.times(ctx, bus.StreamIntake, event.OrderAudited.Name, after.audits, last.audits)
	if err != nil {
		return nil, err
	}
	_, accepted, err := s.times(ctx, bus.StreamOrders, event.OrderAccepted.Name, after.outcomes, last.outcomes)
	if err != nil {
		return nil, err
	}
	var list []float64
	for _, key := range keys {
		if accepted[key].IsZero() {
			return nil, fmt.Errorf("%s was not accepted", key)
		}
		list = append(list, float64((accepted[key].Sub(audited[key])-jdTakes).Microseconds())/1000)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no orders between %d and %d", after.audits, last.audits)
	}
	return list, nil
}
