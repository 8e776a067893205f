package bus_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	opsv1 "stockbridge/proto/ops/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Of several concurrent replays each counts some messages, and together they count all, once.
func TestConcurrentReplaysCountEachOnce(t *testing.T) {
	const messages, operators = 60, 3
	b := bustest.Start(t, services()...)
	stop := fill(t, b, messages)
	stop()
	items := deadLetters(t, b)
	var counted, gone atomic.Int64
	var wg sync.WaitGroup
	for range operators {
		wg.Go(func() {
			for _, m := range items {
				switch err := b.Replay(t.Context(), m.Seq, bus.By{Who: "test"}); {
				case err == nil:
					counted.Add(1)
				case errors.Is(err, bus.ErrNoDeadLetter):
					gone.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if counted.Load() != messages || gone.Load() != messages*(operators-1) {
		t.Errorf("%d replayed, %d were gone", counted.Load(), gone.Load())
	}
}

// Its history travels with a message, also while it is delayed, and the fate of a replay can be asked.
func TestAReplayedMessageKeepsItsHistory(t *testing.T) {
	b := bustest.Start(t, services()...)
	var runs atomic.Int64
	serve(t, b, bus.Serving{Now: soon(time.Minute, time.Second)}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		switch runs.Add(1) {
		case 1:
			return nil, fault.Permanent(fault.Reason{Code: "goods.unknown", EN: "no such goods"})
		case 2:
			return nil, fault.RetryAfter(time.Minute, errors.New("busy"))
		case 3:
			return nil, fault.Hold("shop:acme/S1", fault.Reason{Code: "shop.unknown", EN: "no shop"})
		default:
			return nil, nil
		}
	}, nil)
	publish(t, b, audit("acme", "A1"))
	first := parseDeadLetter(t, b, 1)[0]
	sent, err := b.Send(t.Context(), first.Seq, bus.By{Who: "ops", Why: "goods added"})
	if err != nil {
		t.Fatal(err)
	}
	becomes := func(want bus.Fate) {
		t.Helper()
		eventually(t, "its fate", func() bool {
			fate, err := b.Fate(t.Context(), sent)
			return err == nil && fate == want
		})
	}
	becomes(bus.Waiting)
	eventually(t, "it comes back", func() bool { return len(deadLetters(t, b)) == 1 })
	second := deadLetters(t, b)[0]
	if len(second.Earlier) != 1 {
		t.Fatalf("%+v", second.Earlier)
	}
	e := second.Earlier[0]
	if e.No != first.Seq || e.Code != "goods.unknown" || e.Kind != event.Dead || e.Who != "ops" || e.Why != "goods added" || !e.Since.Equal(first.Last) {
		t.Errorf("%+v", e)
	}
	if sent, err = b.Send(t.Context(), second.Seq, bus.By{Who: "ops", Release: true}); err != nil {
		t.Fatal(err)
	}
	becomes(bus.Done)
}

func TestTheFateOfARetriedMessage(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if m.GetOutboundNo() == "A1" {
			return nil, fault.Hold("shop:acme/S1", errors.New("no shop"))
		}
		return nil, fault.Permanent(errors.New("no"))
	}, nil)
	publish(t, b, audit("acme", "A1"), audit("acme", "A2"))
	for _, m := range parseDeadLetter(t, b, 2) {
		sent, err := b.Send(t.Context(), m.Seq, bus.By{Who: "ops"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bus.Fate{"A1": bus.HeldAgain, "A2": bus.DeadLetteredAgain}[m.Key]
		eventually(t, m.Key+" comes back", func() bool {
			fate, err := b.Fate(t.Context(), sent)
			return err == nil && fate == want
		})
	}
}

// Operators record what they do; workers and sellers cannot, and nobody removes a record.
func TestActsAreARecord(t *testing.T) {
	b := bustest.Start(t, services()...)
	at := time.Date(2026, 3, 5, 1, 31, 0, 0, time.UTC)
	for _, a := range []*opsv1.Act{
		{Id: "1", Part: 1, Stage: opsv1.Act_STAGE_ASKED, At: timestamppb.New(at), Who: "ops", Why: "因为", Verb: "seller pause", Seller: "acme"},
		{Id: "1", Part: 1, Stage: opsv1.Act_STAGE_DONE, At: timestamppb.New(at), Who: "ops", Verb: "seller pause", Seller: "acme"},
		{Id: "2", Part: 1, Stage: opsv1.Act_STAGE_DONE, At: timestamppb.New(at), Who: "ops", Verb: "topology apply"},
		{Id: "3", Part: 1, Stage: opsv1.Act_STAGE_DONE, At: timestamppb.New(at), Who: "ops", Verb: "seller pause", Seller: "other"},
	} {
		for range 2 { // repeated, because the answer was lost
			if err := b.Act(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
	}
	acts := func(seller string) (recorded []string) {
		if err := b.Acts(t.Context(), seller, time.Time{}, func(_ uint64, a *opsv1.Act) error {
			recorded = append(recorded, a.GetId()+" "+a.GetStage().String())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return recorded
	}
	if got := acts(""); !slices.Equal(got, []string{"1 STAGE_ASKED", "1 STAGE_DONE", "2 STAGE_DONE", "3 STAGE_DONE"}) {
		t.Error(got)
	}
	if got := acts("acme"); !slices.Equal(got, []string{"1 STAGE_ASKED", "1 STAGE_DONE", "2 STAGE_DONE"}) {
		t.Error(got)
	}
	for _, u := range bus.Users(services()) {
		may := slices.ContainsFunc(u.Publish, func(s string) bool { return strings.HasPrefix(s, "act.") })
		if may != (u.Name == bus.Operator) {
			t.Errorf("%s may publish acts: %v", u.Name, may)
		}
	}
	erp, err := bus.SellerUser("acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range append(erp.Publish, erp.Subscribe...) {
		if strings.Contains(s, "ACTS") || strings.HasPrefix(s, "act.") {
			t.Errorf("a seller may %s", s)
		}
	}
}
