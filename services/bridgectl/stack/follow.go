package stack

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/status-poller/poller"
	"stockbridge/services/stock-syncer/syncer"
)

// Ticks are the intervals of a seller's ticks, in whole seconds. Zero means 5 s, 30 s and 10 minutes.
type Ticks struct{ Poll, Release, Reconcile time.Duration }

// Follow schedules a seller's ticks for a set-up that was stored with that version. Repeating it changes nothing.
func Follow(ctx context.Context, b *bus.Bus, setup *sellerv1.Setup, version uint64, t Ticks) error {
	name := setup.GetName()
	if t.Poll == 0 {
		t.Poll = poller.TickEvery
	}
	if t.Release == 0 {
		t.Release = 30 * time.Second
	}
	if err := b.SetTick(ctx, event.TickPoll, name, t.Poll); err != nil {
		return err
	}
	if err := b.SetTick(ctx, event.TickRelease, name, t.Release); err != nil {
		return err
	}
	if t.Reconcile == 0 {
		t.Reconcile = reconciler.TickEvery
	}
	if err := b.SetTick(ctx, event.TickReconcile, name, t.Reconcile); err != nil {
		return err
	}
	if err := followFlows(ctx, b, seller.New(setup, nil)); err != nil {
		return err
	}
	if err := followStock(ctx, b, seller.New(setup, nil)); err != nil {
		return err
	}
	now := time.Now()
	m := &sellerv1.Changed{Seller: name, At: timestamppb.New(now)}
	return b.Publish(ctx, event.SellerChanged.About(name, name, now, m, strconv.FormatUint(version, 10)))
}

// followFlows schedules the reading of the flow of each of the seller's places.
func followFlows(ctx context.Context, b *bus.Bus, s *seller.Seller) error {
	places := map[string]proto.Message{}
	for _, p := range s.Places() {
		places[event.Place(p.Warehouse, p.ShopNo)] = &vmiv1.Due{Seller: s.Name(), Warehouse: p.Warehouse, ShopNo: p.ShopNo}
	}
	return b.SetTicks(ctx, event.TickVMI, s.Name(), places, s.Following().Every)
}

// followStock schedules counts of warehouses and shares. A seller that once had shares keeps the tick for them: the
// shares of shops that left a pool have to be revoked.
func followStock(ctx context.Context, b *bus.Bus, s *seller.Seller) error {
	counted := map[string]proto.Message{}
	for _, code := range syncer.Warehouses(s) {
		counted[event.Place(code)] = &stockv1.CountDue{Seller: s.Name(), Warehouse: code}
	}
	every := syncer.CountTickEvery
	if wanted := s.Setup.GetStock().GetCountEvery(); wanted != nil {
		every = min(every, wanted.AsDuration())
	}
	if err := b.SetTicks(ctx, event.TickCount, s.Name(), counted, every); err != nil {
		return err
	}
	if len(s.Setup.GetStock().GetPools()) == 0 {
		return nil
	}
	return b.SetTick(ctx, event.TickShare, s.Name(), syncer.ShareTickEvery)
}
