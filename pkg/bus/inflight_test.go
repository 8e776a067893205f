package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
)

// An ERP publishes messages of its own under the ids that our answers to another seller will have. The answers are
// stored all the same, although here everything is in one stream, on purpose.
func TestAnAnswerIsPublishedThoughItsIDIsTaken(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	const n = 20
	var orders []*orderv1.Audited
	for i := range n {
		o := order("bolt", fmt.Sprintf("V-%d", i))
		orders = append(orders, o)
		send(t, b, msg("order.held.acme", "x", "Nats-Msg-Id", accepted(o).ID))
	}
	registry := prometheus.NewRegistry()
	var said complaints
	busy, err := bus.Connect(t.Context(), bus.Options{URL: url, Name: pusher, Log: zerolog.New(&said)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	serve(t, busy, bus.Serving{Metrics: bus.NewMetrics(registry)}, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		return []event.Event{accepted(m)}, nil
	}, nil)
	for _, o := range orders {
		publish(t, b, audit(o.Seller, o.OutboundNo))
	}
	eventually(t, "all are published", func() bool { return len(published(t, b, event.OrderAccepted.Name)) == n })
	settled(t, b)
	ids := map[string]int{}
	err = b.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAccepted.Name}}, func(s bus.Stored) error {
		ids[s.ID]++
		return nil
	})
	for _, o := range orders {
		if ids[accepted(o).ID] != 1 {
			t.Errorf("%s was published %d times, %v", accepted(o).ID, ids[accepted(o).ID], err)
		}
	}
	want := "# HELP stockbridge_bus_id_taken_total Events whose Nats-Msg-Id another message had; they were stored under a new one.\n" +
		"# TYPE stockbridge_bus_id_taken_total counter\n" + `stockbridge_bus_id_taken_total{consumer="order-pusher"} 20` + "\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "stockbridge_bus_id_taken_total"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "another message has this one's Nats-Msg-Id") || !strings.Contains(said.String(), "order.held.acme") {
		t.Errorf("no warning:\n%s", said.String())
	}
}

// An event that is published again is recognised; one that only has the same id is not.
func TestAReportedDuplicateIsVerified(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	e := accepted(order("acme", "A"))
	publish(t, b, e)
	publish(t, b, e)
	if n := published(t, b, event.OrderAccepted.Name)["A"]; n != 1 {
		t.Errorf("published twice, stored %d times", n)
	}
	s, err := b.JS().Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	publish(t, b, e)
	if n := published(t, b, event.OrderAccepted.Name)["A"]; n != 1 {
		t.Errorf("what it was taken for is gone: stored %d times", n)
	}

	header := map[string][]string{"Nats-Msg-Id": {"mine"}}
	for _, c := range []struct {
		what, subject, body string
		stored              bool
		err                 error
	}{
		{"the first", "order.held.acme", "{}", true, nil},
		{"the same again", "order.held.acme", "{}", false, nil},
		{"another content", "order.held.acme", "{ }", false, bus.ErrIDTaken},
		{"another subject", "order.held.bolt", "{}", false, bus.ErrIDTaken},
	} {
		stored, _, err := b.PublishRaw(t.Context(), c.subject, header, []byte(c.body))
		if stored != c.stored || !errors.Is(err, c.err) {
			t.Errorf("%s: stored %v, %v", c.what, stored, err)
		}
		if c.err != nil && !strings.Contains(err.Error(), "seller, number and content") {
			t.Errorf("%s: %v does not say what to do", c.what, err)
		}
	}
}

// Ids of ERPs keep nothing out for long: their stream has the shortest window that the server accepts.
func TestIntakeForgetsIDs(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	s, err := b.JS().Stream(t.Context(), "INTAKE")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	if config.Duplicates != 100*time.Millisecond || config.AllowRollup || config.AllowMsgTTL || config.AllowMsgSchedules || !config.DenyPurge {
		t.Errorf("%+v", config)
	}
	config.Duplicates = 99 * time.Millisecond
	if _, err := b.JS().UpdateStream(t.Context(), config); err == nil {
		t.Error("the server takes a shorter window: use it")
	}
}
