package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// at is where the audit of a number is stored.
func at(t *testing.T, b *bus.Bus, no string) (s bus.Stored) {
	t.Helper()
	err := b.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAudited.Name}}, func(e bus.Stored) error {
		if e.Key == no {
			s = e
		}
		return nil
	})
	if err != nil || s.Seq == 0 {
		t.Fatalf("%s is not stored: %v", no, err)
	}
	return s
}

func TestAnEventIsRedeliveredFromItsStream(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var seen log
	stop := serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		n := seen.add(d, m)
		switch {
		case m.OutboundNo == "FAILS" && n < 4 && d.Replay:
			return nil, errors.New("not yet")
		case m.OutboundNo == "STAYS" && d.Replay:
			return nil, fault.Permanent(errors.New("no"))
		}
		return nil, nil
	}, nil)
	for _, no := range []string{"A", "FAILS", "STAYS"} {
		publish(t, b, audit("acme", no))
	}
	settled(t, b)
	by := bus.By{Who: "somebody", Why: "it was lost"}
	again := func(no string, round int) {
		t.Helper()
		s := at(t, b, no)
		if err := b.Redeliver(t.Context(), pusher, placeOf(s), round, by); err != nil {
			t.Fatal(err)
		}
	}
	again("A", 1)
	again("A", 1) // once
	again("A", 2)
	eventually(t, "it comes again, twice", func() bool { return len(seen.of("A")) == 3 })
	again("FAILS", 1)
	again("STAYS", 1)
	eventually(t, "it is tried again until it succeeds", func() bool { return len(seen.of("FAILS")) == 4 })
	item := parseDeadLetter(t, b, 1)[0]
	stop()
	s := at(t, b, "A")
	for i, r := range seen.of("A") {
		if r.d.Seq != s.Seq || !r.d.StreamTime.Equal(s.At) || r.d.ID != s.ID || r.d.Seller != "acme" || r.d.First != (i == 0) || r.d.Replay != (i > 0) {
			t.Errorf("run %d: %+v", i, r.d)
		}
	}
	for _, r := range seen.of("FAILS")[1:] {
		if !r.d.Replay || r.d.Attempt == 0 {
			t.Errorf("%+v", r.d)
		}
	}
	if got := seen.of("FAILS"); got[3].d.Attempt != 3 {
		t.Errorf("attempt %d", got[3].d.Attempt)
	}
	if item.Key != "STAYS" || item.Stream != "INTAKE" || item.OriginSeq != at(t, b, "STAYS").Seq {
		t.Errorf("%+v", item)
	}

	if err := b.Redeliver(t.Context(), pusher, bus.Place{Stream: s.Stream, Seq: s.Seq + 100, Stored: s.At}, 1, by); !errors.Is(err, bus.ErrNotStored) {
		t.Errorf("no such event: %v", err)
	}
	if err := b.Redeliver(t.Context(), pusher, bus.Place{Stream: s.Stream, Seq: s.Seq, Stored: s.At.Add(time.Millisecond)}, 1, by); !errors.Is(err, bus.ErrNotStored) {
		t.Errorf("another event under its number: %v", err)
	}
}

func TestBacklogIsWhatAConsumerHasYetToHandle(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	has := func(no string) bool {
		t.Helper()
		o, err := b.Backlog(t.Context(), audits())
		if err != nil {
			t.Fatal(err)
		}
		s := at(t, b, no)
		return o.Has(placeOf(s))
	}
	for _, no := range []string{"PARKED", "DONE"} {
		publish(t, b, audit("acme", no))
	}
	if !has("PARKED") || !has("DONE") {
		t.Error("nobody took them, and they are not outstanding")
	}
	stop := serve(t, b, bus.Serving{}, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if m.OutboundNo == "PARKED" {
			return nil, fault.RetryAfter(time.Hour, errors.New("much later"))
		}
		return nil, nil
	}, nil)
	settled(t, b)
	eventually(t, "one is delayed, the other is done", func() bool { return has("PARKED") && !has("DONE") })
	stop()
	s := at(t, b, "DONE")
	if err := b.Redeliver(t.Context(), pusher, placeOf(s), 1, bus.By{}); err != nil {
		t.Fatal(err)
	}
	if !has("DONE") {
		t.Error("it was sent again, nobody took it, and it is not outstanding")
	}
	if first, last, err := b.Bounds(t.Context(), s.Stream); err != nil || first != 1 || last != s.Seq {
		t.Errorf("the stream holds %d to %d, %v", first, last, err)
	}
}

func TestATickCanBeAskedFor(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	for range 3 { // one waits at a time
		if err := b.Tick(t.Context(), event.TickReconcile, "acme"); err != nil {
			t.Fatal(err)
		}
	}
	if got := subjects(t, b, "TICKS", event.DueSubject(event.TickReconcile, "acme")); len(got) != 1 || got[event.DueSubject(event.TickReconcile, "acme")] != 1 {
		t.Errorf("there wait %v", got)
	}
	came := make(chan string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(ctx, b, event.ReconcileDue, bus.Serving{Consumer: "reconciler", Slots: 1}, func(_ context.Context, _ *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
			came <- m.Seller
			return nil, nil
		}, nil)
	}()
	if got := <-came; got != "acme" {
		t.Errorf("tick of %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Our events about an order name its seller in the reference to the order.
func TestPublicOrderEventsCanBeServed(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	came := make(chan string, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(ctx, b, event.OrderAccepted, bus.Serving{Consumer: "stock-syncer-accepted", Slots: 1, Attempts: &bustest.Attempts{}},
			func(_ context.Context, d *bus.Delivery, _ *documentv1.Accepted) ([]event.Event, error) {
				came <- d.Seller
				return nil, nil
			}, nil)
	}()
	m := &documentv1.Accepted{Ref: &documentv1.Ref{Seller: "acme", OutboundNo: "A"}}
	publish(t, b, event.OrderAccepted.About("bolt", "A", time.Now(), m), event.OrderAccepted.About("acme", "A", time.Now(), m))
	if got := <-came; got != "acme" {
		t.Errorf("of %q", got)
	}
	if item := parseDeadLetter(t, b, 1)[0]; item.Reason.Code != "seller.mismatch" || item.Subject != "order.accepted.bolt" {
		t.Errorf("%+v", item)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
