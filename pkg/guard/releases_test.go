package guard_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// The service's tick looks through what is held, once for all sellers, and fires the ticks of those with something that may
// go. Nothing is released by it, and nobody else has a tick.
func TestTheServicesTickFiresThoseOfSellersWhoseCauseMayBeGone(t *testing.T) {
	held := []bus.DeadLetter{
		{Seller: "mapped", Cause: seller.CauseShop("mapped", "S01")},
		{Seller: "mapped", Cause: seller.CauseShop("mapped", "S01")},
		{Seller: "not-mapped", Cause: seller.CauseShop("not-mapped", "S09")},
		{Seller: "waits-for-an-operator", Cause: seller.CauseHold("waits-for-an-operator", "A-1")},
		{Seller: "waits-for-the-warehouse", Cause: seller.CausePermission("waits-for-the-warehouse", "order.create")},
		{Seller: "own-cause", Cause: "cancel:own-cause/A-1"},
		{Seller: "", Cause: "permission:"},
	}
	var fired []string
	r := &guard.Releases{
		Find: func(name string) (*seller.Seller, bool) {
			return seller.New(&sellerv1.Setup{Name: name, Shops: []*sellerv1.Shop{{Code: "S01"}}}, nil), true
		},
		Gone: func(_ context.Context, cause string) (gone, decided bool) {
			return true, cause == "cancel:own-cause/A-1"
		},
		Clock: time.Now,
		Replay: func(context.Context, string, func(bus.DeadLetter) bool) (int, error) {
			t.Error("released by the service's tick")
			return 0, nil
		},
		Held: func(_ context.Context, f func(bus.DeadLetter) error) error {
			for _, l := range held {
				if err := f(l); err != nil {
					return err
				}
			}
			return nil
		},
		Fire: func(_ context.Context, sellers []string) error { fired = append(fired, sellers...); return nil },
	}
	tick := func() []string {
		t.Helper()
		fired = nil
		if _, err := r.ReleaseDue(t.Context(), nil, &sellerv1.PollDue{Seller: event.NoSeller}); err != nil {
			t.Fatal(err)
		}
		return fired
	}
	if got := tick(); !slices.Equal(got, []string{"mapped", "own-cause", "waits-for-the-warehouse"}) {
		t.Errorf("fired %v", got)
	}
	held = nil
	if got := tick(); len(got) != 0 {
		t.Errorf("fired %v with nothing held", got)
	}
}
