package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// several serves a worker of several sellers.
func several(s bus.Serving) bus.Serving {
	s.Alone = func() bool { return false }
	return s.FastLanes()
}

func lanes(t *testing.T, b *bus.Bus) []string {
	t.Helper()
	subjects, err := b.Lanes(t.Context(), audits())
	if err != nil {
		t.Fatal(err)
	}
	return subjects
}

// floodOf publishes n audits of a seller.
func floodOf(t *testing.T, b *bus.Bus, seller, prefix string, n int) {
	t.Helper()
	var events []event.Event
	for i := range n {
		events = append(events, audit(seller, fmt.Sprint(prefix, i)))
	}
	publish(t, b, events...)
}

// floodHeld records orders; those of the flood do not end before hold is closed.
func (l *log) floodHeld(hold <-chan struct{}) handler {
	return func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if m.GetSeller() == "flood" {
			select {
			case <-hold:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		l.add(d, m)
		return nil, nil
	}
}

// allRan fails for orders that did not run.
func allRan(t *testing.T, l *log, prefix string, n int) {
	t.Helper()
	ran := map[string]bool{}
	for _, r := range l.all() {
		ran[r.no] = true
	}
	for i := range n {
		if no := fmt.Sprint(prefix, i); !ran[no] {
			t.Errorf("%s never ran", no)
		}
	}
}

// A seller whose orders never end has its seats, and nothing else. Its backlog stays in the stream.
func TestABacklogOfOneSellerDelaysNobody(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	hold := make(chan struct{})
	var inHand, most int
	var mu sync.Mutex
	serve(t, b, several(bus.Serving{Slots: 4}), func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if m.GetSeller() == "flood" {
			mu.Lock()
			inHand++
			most = max(most, inHand)
			mu.Unlock()
			defer func() { mu.Lock(); inHand--; mu.Unlock() }()
			select {
			case <-hold:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		l.add(d, m)
		return nil, nil
	}, nil)
	const n = 300
	floodOf(t, b, "flood", "F", n)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "the order behind the flood", func() bool { return len(l.of("A1")) == 1 })
	eventually(t, "a lane", func() bool { return slices.Equal(lanes(t, b), []string{"order.audited.flood"}) })
	for i := range 20 {
		publish(t, b, audit("acme", fmt.Sprint("B", i)))
	}
	eventually(t, "orders after it", func() bool { return len(l.all()) == 21 })
	if delayed := subjects(t, b, "RETRY", "park.>"); len(delayed) > 0 {
		t.Errorf("delayed for want of a seat: %v", delayed)
	}
	mu.Lock()
	if most > 3 {
		t.Errorf("%d of one seller in hand, it has 3 of 4 slots", most)
	}
	mu.Unlock()
	close(hold)
	settled(t, b)
	eventually(t, "the lane ends", func() bool { return len(lanes(t, b)) == 0 })
	allRan(t, &l, "F", n)
}

// Backlogs come and go while two workers serve, and lanes with them. Nothing is lost between a lane and the consumer.
func TestNothingIsLostWhileLanesComeAndGo(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	h := func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		pass(2 * time.Millisecond)
		l.add(d, m)
		return nil, nil
	}
	serve(t, b, several(bus.Serving{Slots: 4}), h, nil)
	stop := serve(t, b, several(bus.Serving{Slots: 4}), h, nil)
	const bursts, n = 12, 60
	seen := 0
	for i := range bursts {
		floodOf(t, b, fmt.Sprint("s", i%3), fmt.Sprintf("B%d-", i), n)
		seen = max(seen, len(lanes(t, b)))
		if i == bursts/2 {
			stop()
		}
		pass(time.Duration(i%4) * 150 * time.Millisecond) // some bursts come while a lane is closing
	}
	settled(t, b)
	if seen == 0 {
		t.Error("no lane was opened")
	}
	for i := range bursts {
		allRan(t, &l, fmt.Sprintf("B%d-", i), n)
	}
	eventually(t, "all lanes end", func() bool { return len(lanes(t, b)) == 0 })
}

// A lane outlives the worker that opened it.
func TestAnotherWorkerServesTheLane(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	busy, err := bus.Connect(t.Context(), bus.Options{URL: url, Name: pusher})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	ackWait(t, b, time.Second)
	var l log
	dies, dead := make(chan struct{}), make(chan struct{})
	go func() {
		s := several(bus.Serving{Consumer: pusher, Slots: 4, Attempts: &bustest.Attempts{}, Grace: time.Millisecond})
		_ = bus.Serve(t.Context(), busy, event.OrderAudited, s, func(ctx context.Context, _ *bus.Delivery, _ *orderv1.Audited) ([]event.Event, error) {
			select {
			case <-dies:
			case <-ctx.Done():
			}
			return nil, errors.New("killed")
		}, nil)
		close(dead)
	}()
	floodOf(t, b, "flood", "F", 100)
	eventually(t, "a lane", func() bool { return len(lanes(t, b)) == 1 })
	busy.Sever()
	close(dies)
	serve(t, b, several(bus.Serving{Slots: 4}), func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	settled(t, b)
	allRan(t, &l, "F", 100)
	<-dead
}

// What the consumer may have delivered before the lane was opened does not count as new.
func TestALaneDoesNotClaimFirstDeliveries(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	floodOf(t, b, "flood", "F", 40)
	hold := make(chan struct{})
	var l log
	serve(t, b, several(bus.Serving{Slots: 4}), func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, nil
	}, nil)
	eventually(t, "a lane", func() bool { return len(lanes(t, b)) == 1 })
	lane, err := b.JS().Consumer(t.Context(), "INTAKE", bus.LaneNames(pusher)[0])
	if err != nil {
		t.Fatal(err)
	}
	floodOf(t, b, "flood", "G", 40)
	close(hold)
	settled(t, b)
	if lane.CachedInfo().Config.DeliverPolicy != jetstream.DeliverByStartSequencePolicy {
		t.Errorf("%+v", lane.CachedInfo().Config)
	}
	first := map[string]int{}
	for _, r := range l.all() {
		if r.d.First {
			first[r.no]++
		}
	}
	for no, n := range first {
		if n > 1 {
			t.Errorf("%s had %d first deliveries", no, n)
		}
	}
	for i := range 40 {
		if first[fmt.Sprint("G", i)] != 1 {
			t.Errorf("G%d came after the lane, and was never new", i)
		}
	}
}

// Messages without a seller in their subject share a lane. Its seats do not lend a seller more than its own.
func TestMessagesWithoutASellerInTheSubjectShareALane(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	hold := make(chan struct{})
	serve(t, b, several(bus.Serving{Slots: 4}), l.floodHeld(hold), nil)
	for i := range 60 {
		body, err := protojson.Marshal(order("flood", fmt.Sprint("F", i)))
		if err != nil {
			t.Fatal(err)
		}
		send(t, b, msg("order.audited", string(body)))
	}
	publish(t, b, audit("acme", "A1"))
	eventually(t, "the order behind the flood", func() bool { return len(l.of("A1")) == 1 })
	eventually(t, "a lane", func() bool { return slices.Equal(lanes(t, b), []string{"order.audited"}) })
	close(hold)
	settled(t, b)
	allRan(t, &l, "F", 60)
}

// More sellers have backlogs than there are lanes: the others' messages are delayed, and none is lost.
func TestMoreBacklogsThanLanes(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	var open atomic.Bool
	serve(t, b, several(bus.Serving{Slots: 2}), func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if !open.Load() {
			return nil, fault.Throttle(4*time.Second, errors.New("its budget is used up"))
		}
		l.add(d, m)
		return nil, nil
	}, nil)
	sellers := len(bus.LaneNames(pusher)) + 2
	for s := range sellers {
		floodOf(t, b, fmt.Sprint("s", s), fmt.Sprintf("S%d-", s), 12)
	}
	eventually(t, "all lanes are in use", func() bool { return len(lanes(t, b)) == len(bus.LaneNames(pusher)) })
	open.Store(true)
	within(t, 40*time.Second, "all ran", func() bool {
		ran := map[string]bool{}
		for _, r := range l.all() {
			ran[r.no] = true
		}
		return len(ran) == 12*sellers
	})
}

// While a seller's quota is used up its backlog stays where it is: few messages are tried, none is delayed on RETRY.
func TestAThrottledBacklogStaysInTheStream(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, several(bus.Serving{Slots: 4}), func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		if m.GetSeller() == "flood" {
			return nil, fault.Throttle(8*time.Second, errors.New("its budget is used up"))
		}
		return nil, nil
	}, nil)
	floodOf(t, b, "flood", "F", 200)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "the order behind the backlog", func() bool { return len(l.of("A1")) == 1 })
	eventually(t, "a lane", func() bool { return len(lanes(t, b)) == 1 })
	if n := len(l.all()); n > 60 {
		t.Errorf("%d of the backlog were tried although all wait for the same", n)
	}
	if delayed := subjects(t, b, "RETRY", "park.>"); len(delayed) > 0 {
		t.Errorf("delayed: %v", delayed)
	}
}

// What comes while a lane is closing is the main consumer's: the lane may be gone before it delivers it.
func TestNothingIsPassedOverForAClosingLane(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	hold := make(chan struct{})
	registry := prometheus.NewRegistry()
	s := several(bus.Serving{Slots: 4, Metrics: bus.NewMetrics(registry)}).LanesStay()
	serve(t, b, s, l.floodHeld(hold), nil)
	floodOf(t, b, "flood", "F", 40)
	eventually(t, "a lane", func() bool { return len(lanes(t, b)) == 1 })
	c, err := b.JS().Consumer(t.Context(), "INTAKE", bus.LaneNames(pusher)[0])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the flood is passed over", func() bool { return passedOver(t, registry) > 10 })
	close(hold)
	settled(t, b)
	config := c.CachedInfo().Config
	config.Metadata["stockbridge.closing"] = "now"
	if _, err := b.JS().UpdateConsumer(t.Context(), "INTAKE", config); err != nil {
		t.Fatal(err)
	}
	pass(300 * time.Millisecond) // each list that calls it open is too old
	before := passedOver(t, registry)
	floodOf(t, b, "flood", "G", 3)
	eventually(t, "handled", func() bool { return len(l.of("G2")) > 0 })
	if n := passedOver(t, registry); n != before {
		t.Errorf("%v were passed over for a closing lane", n-before)
	}
	settled(t, b)
	allRan(t, &l, "F", 40)
}

func passedOver(t *testing.T, registry *prometheus.Registry) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "stockbridge_bus_passed_over_total" && len(f.Metric) > 0 {
			return f.Metric[0].GetCounter().GetValue()
		}
	}
	return 0
}
