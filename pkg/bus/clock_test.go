package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// A worker's clock is off: its delayed retries fire on time by the broker's clock.
func TestDelaysFireByTheBrokersClock(t *testing.T) {
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		_, url := bustest.StartServer(t, services()...)
		b, err := bus.Connect(t.Context(), bus.Options{
			URL: url, Name: "test", Log: zerolog.Nop(), Now: func() time.Time { return time.Now().Add(off) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		if err := b.Clock().Measure(t.Context()); err != nil {
			t.Fatal(err)
		}
		serve(t, b, bus.Serving{}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
			return nil, fault.RetryAfter(time.Hour, errors.New("too early"))
		}, nil)
		publish(t, b, audit("acme", "A1"))
		at, err := time.Parse(time.RFC3339Nano, strings.TrimPrefix(delayedSchedule(t, url), "@at "))
		if err != nil {
			t.Fatal(err)
		}
		if wait := time.Until(at); wait < 59*time.Minute || wait > time.Hour {
			t.Errorf("clock off by %s: it comes back in %s", off, wait)
		}
	}
}

// delayedSchedule waits for a delayed message and returns its schedule.
func delayedSchedule(t *testing.T, url string) (schedule string) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "RETRY")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delayed", func() bool {
		m, err := s.GetLastMsgForSubject(t.Context(), event.DelayedSubjects)
		if err == nil {
			schedule = m.Header.Get(jetstream.ScheduleHeader)
		}
		return err == nil
	})
	return schedule
}

// An unfit worker handles nothing, releases what was in transit, and continues automatically.
func TestAnUnfitWorkerTakesNothing(t *testing.T) {
	b := bustest.Start(t, services()...)
	var unfit, handled, asked atomic.Int32
	serve(t, b, bus.Serving{Fit: func() error {
		asked.Add(1)
		if unfit.Load() != 0 {
			return errors.New("the clock is off")
		}
		return nil
	}}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		handled.Add(1)
		if unfit.Load() != 0 {
			t.Error("handled by one that is not fit")
		}
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "the first is handled", func() bool { return handled.Load() == 1 })
	unfit.Store(1)
	for _, no := range []string{"A2", "A3", "A4"} { // the open request receives some
		publish(t, b, audit("acme", no))
	}
	before := asked.Load()
	eventually(t, "it is asked whether it is fit", func() bool { return asked.Load() >= before+6 })
	if n := handled.Load(); n != 1 {
		t.Errorf("%d handled", n)
	}
	unfit.Store(0)
	eventually(t, "all are handled", func() bool { return handled.Load() == 4 })
	settled(t, b)
}
