package bus_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
)

// An ack names a stream and a sequence. After JetStream was restored from an older copy, the sequence of a message in
// flight may be another message's, which would be settled without ever being handled.
func TestAMessageOfBeforeARestoreSettlesNoOther(t *testing.T) {
	t.Parallel()
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, audit("acme", "FIRST"))
	k.s.Stop()
	older := t.TempDir()
	if err := os.CopyFS(older, os.DirFS(k.o.Dir)); err != nil {
		t.Fatal(err)
	}
	k.start()

	seen := &log{}
	before, after := make(chan struct{}), make(chan struct{})
	registry := prometheus.NewRegistry()
	serve(t, b, bus.Serving{Metrics: bus.NewMetrics(registry), Backoff: func(int) time.Duration { return 10 * time.Millisecond }},
		func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			n := seen.add(d, m)
			switch {
			case m.OutboundNo == "GONE":
				<-before
			case m.OutboundNo == "NEW" && n == 1:
				<-after
				return nil, errors.New("once more")
			}
			return nil, nil
		}, nil)
	eventually(t, "the first is handled", func() bool { return len(seen.of("FIRST")) == 1 })
	publish(t, b, audit("acme", "GONE"))
	eventually(t, "one is in hand", func() bool { return len(seen.of("GONE")) == 1 })

	k.s.Stop()
	if err := errors.Join(os.RemoveAll(k.o.Dir), os.CopyFS(k.o.Dir, os.DirFS(older))); err != nil {
		t.Fatal(err)
	}
	k.start()
	eventually(t, "connected again", func() bool { return b.Ready() == nil })
	publish(t, b, audit("acme", "NEW"))
	eventually(t, "the new one is in hand", func() bool { return len(seen.of("NEW")) == 1 })
	if was, is := seen.of("GONE")[0].d.Seq, seen.of("NEW")[0].d.Seq; was != is {
		t.Fatalf("the one has number %d, the other %d: the test proves nothing", was, is)
	}
	close(before)
	eventually(t, "the old one is done with", func() bool { return done(t, registry) == 3 }) // the first one ran twice
	close(after)
	eventually(t, "the new one runs again", func() bool { return len(seen.of("NEW")) == 2 })
}

// done counts the messages that were handled.
func done(t *testing.T, r *prometheus.Registry) (n int) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "outcome" && l.GetValue() == "done" && m.GetCounter() != nil {
					n += int(m.GetCounter().GetValue())
				}
			}
		}
	}
	return n
}

// A message in flight while the broker merely restarts is settled as soon as it is back.
func TestAMessageInFlightDuringARestartIsSettled(t *testing.T) {
	t.Parallel()
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	seen, go1 := &log{}, make(chan struct{})
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		seen.add(d, m)
		<-go1
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "it is in hand", func() bool { return len(seen.of("A1")) == 1 })
	k.s.Stop()
	eventually(t, "the connection is known to be lost", func() bool { return b.Ready() != nil })
	close(go1)
	k.start()
	settled(t, b)
	if n := len(seen.of("A1")); n != 1 {
		t.Errorf("ran %d times", n)
	}
}
