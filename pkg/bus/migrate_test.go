package bus_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
)

func TestAnEarlierBuildsMessagesAreMigrated(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	old := bustest.Earlier(t, url, pusher, time.Second)
	for _, no := range []string{"DONE", "HAND", "DIED", "PARKED", "HELD", "DEAD", "WAITS-1", "WAITS-2", "WAITS-3"} {
		publish(t, b, audit("acme", no))
	}
	if _, _, err := b.PublishRaw(t.Context(), "order.audited", nil, []byte("not an order")); err != nil {
		t.Fatal(err)
	}
	// What a worker of that build did: it acked DONE and what it moved, had DIED in flight when it was killed, and
	// keeps HAND until Apply is running.
	batch, err := old.Fetch(6)
	if err != nil {
		t.Fatal(err)
	}
	var inHand jetstream.Msg
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		o := &nats.Msg{Header: m.Headers(), Data: m.Data()}
		for name, value := range map[string]string{
			event.HeaderOriginSubject: m.Subject(), event.HeaderOriginStream: "ORDERS", event.HeaderSeller: "acme",
			event.HeaderOriginSeq: strconv.FormatUint(meta.Sequence.Stream, 10), event.HeaderOriginTime: meta.Timestamp.Format(time.RFC3339Nano),
		} {
			o.Header.Set(name, value)
		}
		o.Header.Del("Nats-Msg-Id")
		switch no := m.Headers().Get(event.HeaderSubject); no {
		case "HAND":
			inHand = m
			continue
		case "DIED":
			continue
		case "PARKED":
			o.Subject = event.DelaySubject(pusher, bus.OriginOf("ORDERS", meta.Sequence.Stream, meta.Timestamp))
			o.Header.Set("Nats-Schedule", "@at "+time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano))
			o.Header.Set("Nats-Schedule-Target", event.RetrySubject(pusher, "acme"))
			send(t, b, o)
		case "HELD":
			o.Subject = event.DeadLetterSubject(event.Held, pusher, "ORDERS", meta.Sequence.Stream)
			o.Header.Set(event.HeaderCause, "mapping")
			send(t, b, o)
		case "DEAD":
			o.Subject = event.DeadLetterSubject(event.Dead, pusher, "ORDERS", meta.Sequence.Stream)
			send(t, b, o)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	erp, err := b.JS().CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{Durable: "erp-acme", FilterSubject: "order.*.acme", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy})
	if err != nil {
		t.Fatal(err)
	}

	if err := b.CheckTopology(t.Context(), services()...); !errors.Is(err, bus.ErrTopology) || !strings.Contains(err.Error(), "ORDERS/order-pusher: of an earlier build: 6 messages") {
		t.Errorf("a worker starts although nobody serves what waits: %v", err)
	}
	go func() { // its worker comes to an end with it
		_ = inHand.InProgress()
		pass(700 * time.Millisecond)
		_ = inHand.Ack()
	}()
	if _, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil {
		t.Fatal(err)
	}
	if changes, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil || len(changes) > 0 {
		t.Errorf("applied twice: %v, %v", changes, err)
	}
	if err := b.CheckTopology(t.Context(), services()...); err != nil {
		t.Error(err)
	}

	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return []event.Event{accepted(m)}, nil
	}, nil)
	publish(t, b, audit("acme", "NEW"))
	for _, kind := range []string{event.Held, event.Dead} {
		if n, err := b.Release(t.Context(), bus.DeadLetterQuery{Kind: kind, Seller: "acme"}, nil, 0, bus.By{Who: "ops"}); err != nil || n != 1 {
			t.Errorf("%d released from %s, %v", n, kind, err)
		}
	}
	want := []string{"DIED", "PARKED", "HELD", "DEAD", "WAITS-1", "WAITS-2", "WAITS-3", "NEW"}
	eventually(t, "all are handled", func() bool { return len(published(t, b, event.OrderAccepted.Name)) == len(want) })
	settled(t, b)
	for _, no := range want {
		runs := l.of(no)
		if len(runs) != 1 {
			t.Errorf("%s ran %d times", no, len(runs))
			continue
		}
		s := at(t, b, no)
		d := runs[0].d
		if d.Stream != s.Stream || d.Seq != s.Seq || !d.StreamTime.Equal(s.At) || d.ID != s.ID || d.Subject != s.Subject {
			t.Errorf("%s: %+v, stored as %+v", no, d, s)
		}
		if isNew := no == "NEW"; d.First != isNew || (d.Stream == "INTAKE") != isNew {
			t.Errorf("%s is new: %v, of %s", no, d.First, d.Stream)
		}
	}
	for _, no := range []string{"DONE", "HAND"} {
		if n := len(l.of(no)); n > 0 {
			t.Errorf("%s was done and ran %d times", no, n)
		}
	}
	if s := parseDeadLetter(t, b, 1)[0]; string(s.Body) != "not an order" || s.Stream != "ORDERS" || s.OriginSeq != 10 {
		t.Errorf("the unreadable one: %+v", s)
	}
	// An ERP's own consumer continues.
	if m, err := erp.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil || m.Subject() != "order.accepted.acme" {
		t.Errorf("the ERP reads %v, %v", m, err)
	}
}

// While a worker of the earlier build has a message in flight, it is not taken away.
func TestMessagesInFlightAtAnEarlierBuildStay(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	old := bustest.Earlier(t, url, pusher, time.Minute)
	publish(t, b, audit("acme", "A"))
	m, err := old.Next()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var said complaints
		owner, err := bus.Connect(t.Context(), bus.Options{URL: url, Name: "owner", Log: zerolog.New(&said)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := owner.Apply(ctx, bustest.Topology(services()...))
			done <- err
		}()
		eventually(t, "it waits", func() bool {
			return strings.Contains(said.String(), "waiting for the messages in flight at workers of an earlier build")
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("applied: %v", err)
		}
		owner.Close()
	}
	if i, err := old.Info(t.Context()); err != nil || i.NumAckPending != 1 {
		t.Errorf("%+v, %v", i, err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil {
		t.Error(err)
	}
	if n := len(subjects(t, b, "RETRY", event.RetryOf(pusher))); n != 0 {
		t.Errorf("%d were moved", n)
	}
}
