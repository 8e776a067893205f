package bus_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

func TestEveryCopyIsFoundAndErased(t *testing.T) {
	b := bustest.Start(t, services()...)
	stop := serve(t, b, bus.Serving{Slots: 4}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		switch m.GetOutboundNo() {
		case "HELD":
			return nil, fault.Hold("shop:acme/S1", errors.New("no shop"))
		case "DEAD":
			return nil, fault.Permanent(errors.New("no"))
		default:
			return nil, fault.RetryAfter(time.Hour, errors.New("later"))
		}
	}, nil)
	for _, no := range []string{"HELD", "DEAD", "PARKED"} {
		publish(t, b, audit("acme", no), audit("other", no))
	}
	parseDeadLetter(t, b, 4)
	eventually(t, "two are delayed", func() bool { return len(subjects(t, b, "RETRY", "park.>")) == 2 })
	settled(t, b)
	stop()
	// One on RETRY, which no worker handles.
	for _, s := range deadLetters(t, b) {
		if s.Key == "DEAD" && s.Seller == "acme" {
			if err := b.Replay(t.Context(), s.Seq, bus.By{Who: "me"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	copies := func(seller string) (places []string) {
		t.Helper()
		err := b.Copies(t.Context(), event.OrderAudited.Name, seller, func(c bus.Copy) error {
			m, err := bus.Decode(event.OrderAudited, c.Original)
			if err != nil || m.OutboundNo != c.Original.Key || m.Seller != c.Original.Seller || c.Consumer != pusher && c.Where != bus.CopyPublished {
				t.Errorf("%+v is %v, %v", c, m, err)
			}
			places = append(places, c.Where+" "+m.Seller+" "+m.OutboundNo)
			if seller == "acme" {
				return b.Erase(t.Context(), c.Stream, c.Seq, c.At)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(places)
		return places
	}
	want := []string{"held acme HELD", "parked acme PARKED", "published acme DEAD", "published acme HELD", "published acme PARKED", "retry acme DEAD"}
	if got := copies("acme"); !slices.Equal(got, want) {
		t.Errorf("of acme %q, want %q", got, want)
	}
	if again := copies("acme"); len(again) != 0 {
		t.Errorf("still there: %q", again)
	}
	rest := []string{"dlq other DEAD", "held other HELD", "parked other PARKED", "published other DEAD", "published other HELD", "published other PARKED"}
	if got := copies(""); !slices.Equal(got, rest) {
		t.Errorf("of all %q, want %q", got, rest)
	}
}

func TestErasingMeansTheVeryMessage(t *testing.T) {
	b := bustest.Start(t, services()...)
	publish(t, b, audit("acme", "A1"))
	var stored bus.Stored
	if err := b.Events(t.Context(), bus.EventQuery{}, func(s bus.Stored) error { stored = s; return nil }); err != nil {
		t.Fatal(err)
	}
	left := func() (n int) {
		if err := b.Events(t.Context(), bus.EventQuery{}, func(bus.Stored) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	// A stream that was restored may have given the number to another message since.
	if err := b.Erase(t.Context(), stored.Stream, stored.Seq, stored.At.Add(-time.Second)); err != nil || left() != 1 {
		t.Errorf("another's: %v, %d left", err, left())
	}
	for range 2 { // the second is no error
		if err := b.Erase(t.Context(), stored.Stream, stored.Seq, stored.At); err != nil || left() != 0 {
			t.Errorf("%v, %d left", err, left())
		}
	}
}
