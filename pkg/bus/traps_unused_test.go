package bus_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/bus/bustest"
)

// Behaviours of NATS that this package does not use, because it found another way. The tests pin them for a later
// change that wants to use them.

// A batch is stored whole or not at all: one message's failed expectation fails all.
func TestTrapABatchIsStoredWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	s := raw(t, b, jetstream.StreamConfig{Name: "BATCH", Subjects: []string{"batch.>"}, AllowAtomicPublish: true})
	batch := func(id, expected string) error {
		const size = 3
		for i := 1; i <= size; i++ {
			m := nats.NewMsg("batch." + strconv.Itoa(i))
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", strconv.Itoa(i))
			if i == 2 && expected != "" {
				m.Header.Set("Nats-Expected-Last-Subject-Sequence", expected)
			}
			if i < size {
				if err := b.JS().Conn().PublishMsg(m); err != nil {
					return err
				}
				continue
			}
			m.Header.Set("Nats-Batch-Commit", "1")
			_, err := b.JS().PublishMsg(t.Context(), m)
			return err
		}
		return nil
	}
	stored := func() uint64 {
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.State.Msgs
	}
	if err := batch("failing", "7"); err == nil || stored() != 0 {
		t.Errorf("an expectation failed: %v, and %d are stored", err, stored())
	}
	if err := batch("good", "0"); err != nil || stored() != 3 {
		t.Errorf("%v, and %d are stored", err, stored())
	}
}

// A consumer pinned to one client passes to a standby when that client stops asking.
func TestTrapAStandbyTakesOverAPinnedConsumer(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	s := raw(t, b, jetstream.StreamConfig{Name: "PINNED", Subjects: []string{"pinned.>"}})
	if _, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
		Durable: "one", AckPolicy: jetstream.AckExplicitPolicy,
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"g"}, PinnedTTL: time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	type taken struct{ who, subject string }
	got := make(chan taken, 10)
	consume := func(who string) jetstream.ConsumeContext {
		// A handle of its own: the pin belongs to it.
		own, err := s.Consumer(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		cc, err := own.Consume(func(m jetstream.Msg) {
			_ = m.Ack()
			got <- taken{who, m.Subject()}
		}, jetstream.PullPriorityGroup("g"), jetstream.PullExpiry(time.Second),
			jetstream.ConsumeErrHandler(func(jetstream.ConsumeContext, error) {}))
		if err != nil {
			t.Fatal(err)
		}
		return cc
	}
	next := func() taken {
		select {
		case m := <-got:
			return m
		case <-time.After(20 * time.Second):
			t.Fatal("nobody takes it")
			return taken{}
		}
	}
	first := consume("first")
	send(t, b, nats.NewMsg("pinned.1"))
	if m := next(); m != (taken{"first", "pinned.1"}) {
		t.Fatalf("%+v", m)
	}
	second := consume("second")
	defer second.Stop()
	send(t, b, nats.NewMsg("pinned.2"))
	if m := next(); m != (taken{"first", "pinned.2"}) {
		t.Errorf("taken by a standby while the first one stands: %+v", m)
	}
	first.Stop()
	<-first.Closed()
	send(t, b, nats.NewMsg("pinned.3"))
	if m := next(); m != (taken{"second", "pinned.3"}) {
		t.Errorf("%+v", m)
	}
}
