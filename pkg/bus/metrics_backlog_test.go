package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// backlogMetrics is what a scrape reports of the pusher, ages in whole minutes.
func backlogMetrics(t *testing.T, m *bus.Metrics) map[string]float64 {
	t.Helper()
	values, err := m.Backlog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const oldest = "stockbridge_consumer_oldest_seconds order-pusher"
	if age, serves := values[oldest]; serves {
		values[oldest] = float64(int(age) / 60)
	}
	return values
}

func TestBacklogSaysWhatWaitsAndWhere(t *testing.T) {
	b := bustest.Start(t, services()...)
	metrics := bus.NewMetrics(prometheus.NewRegistry())
	want := func(runnable, unacked, delayed, dlq, held float64) map[string]float64 {
		return map[string]float64{
			"stockbridge_bus_connected": 1, "stockbridge_consumer_oldest_seconds order-pusher": 0,
			"stockbridge_consumer_runnable order-pusher": runnable, "stockbridge_consumer_unacked order-pusher": unacked,
			"stockbridge_consumer_lanes order-pusher": 0, "stockbridge_lane_oldest_seconds order-pusher": 0,
			"stockbridge_parked_messages order-pusher":     delayed,
			"stockbridge_shelf_messages dlq order-pusher":  dlq,
			"stockbridge_shelf_messages held order-pusher": held,
		}
	}
	is := func(want map[string]float64) {
		t.Helper()
		eventually(t, "the backlog is as it should be", func() bool {
			got := backlogMetrics(t, metrics)
			if d := cmp.Diff(want, got); d != "" {
				t.Log(d)
				return false
			}
			return true
		})
	}
	proceed := make(chan struct{})
	stop := serve(t, b, bus.Serving{Metrics: metrics, Slots: 1, Backoff: func(int) time.Duration { return time.Hour }},
		func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			switch {
			case m.GetOutboundNo() == "later" && d.Attempt == 1:
				return nil, errors.New("not now")
			case m.GetOutboundNo() == "dead":
				return nil, fault.Permanent(errors.New("never"))
			case m.GetOutboundNo() == "held" && !d.Replay:
				return nil, fault.Hold("mapping:x", errors.New("not yet"))
			}
			<-proceed
			return nil, nil
		}, nil)
	publish(t, b, audit("acme", "later"), audit("acme", "dead"), audit("acme", "held"), audit("acme", "slow"), audit("acme", "next"), audit("acme", "last"))
	is(want(2, 1, 1, 1, 1))
	if _, err := b.Release(t.Context(), bus.DeadLetterQuery{Kind: event.Held}, nil, 0, bus.By{Who: "test"}); err != nil {
		t.Fatal(err)
	}
	is(want(2, 2, 1, 1, 0)) // in the slot for retries
	close(proceed)
	is(want(0, 0, 1, 1, 0))
	if values, err := metrics.Backlog(t.Context()); err != nil || values["stockbridge_consumer_oldest_seconds order-pusher"] <= 0 {
		t.Errorf("a delayed retry has no age: %v, %v", values, err)
	}
	stop()
	if values, err := metrics.Backlog(t.Context()); err != nil || len(values) != 0 {
		t.Errorf("nothing is served, but reported is %v, %v", values, err)
	}
}

// A delayed retry is as old as its audit, however often it was delayed since.
func TestTheOldestIsAsOldAsItsAudit(t *testing.T) {
	for origin, want := range map[string]string{
		bus.OriginOf("ORDERS", 7, time.UnixMilli(1_700_000_000_123)):         "2023-11-14T22:13:20.123Z",
		bus.OriginOf("ORDERS", 7, time.UnixMilli(1_700_000_000_123)) + "-r9": "2023-11-14T22:13:20.123Z",
		"else": "",
	} {
		got := ""
		if at, ok := bus.OriginTime(origin); ok {
			got = at.UTC().Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%s is of %q, want %q", origin, got, want)
		}
	}
}

func TestBacklogOfABrokerThatIsAway(t *testing.T) {
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	metrics := bus.NewMetrics(nil)
	serve(t, b, bus.Serving{Metrics: metrics}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) { return nil, nil }, nil)
	eventually(t, "it serves", func() bool { values, err := metrics.Backlog(t.Context()); return err == nil && len(values) > 1 })
	k.s.Stop()
	eventually(t, "it is reported, and nothing else", func() bool {
		values, err := metrics.Backlog(t.Context())
		return err == nil && cmp.Equal(values, map[string]float64{"stockbridge_bus_connected": 0})
	})
	k.start()
	eventually(t, "it is back", func() bool { values, err := metrics.Backlog(t.Context()); return err == nil && len(values) > 1 })
}
