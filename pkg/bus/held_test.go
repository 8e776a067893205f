package bus_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

func TestEachHeld(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	held := func(consumer string) (keys []string) {
		t.Helper()
		if err := b.EachHeld(t.Context(), consumer, func(l bus.DeadLetter) error {
			keys = append(keys, l.Seller+"/"+l.Key)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if got := held(pusher); len(got) != 0 {
		t.Errorf("with nothing held: %v", got)
	}
	serve(t, b, bus.Serving{}, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if m.GetOutboundNo() == "B1" {
			return nil, fault.Permanent(errors.New("no"))
		}
		return nil, fault.Hold("shop:acme/S1", errors.New("no shop"))
	}, nil)
	publish(t, b, audit("acme", "A1"), audit("bolt", "B1"), audit("cord", "C1"))
	parseDeadLetter(t, b, 3)
	if got := held(pusher); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"acme/A1", "cord/C1"}) {
		t.Errorf("held: %v", got)
	}
	if got := held("reconciler"); len(got) != 0 {
		t.Errorf("held by another consumer: %v", got)
	}
}
