package pusher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// scriptedWarehouse is a warehouse whose answers the test decides.
type scriptedWarehouse struct {
	warehouse.OrderChannel
	plan error
	find func(ctx context.Context, nos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error)
	take func(ctx context.Context) error
}

func (f *scriptedWarehouse) Identity() warehouse.Identity { return "" }

func (f *scriptedWarehouse) Orders() warehouse.OrderChannel { return f }

func (f *scriptedWarehouse) FindLimit() int { return 100 }

func (f *scriptedWarehouse) Plan(*orderv1.Audited) warehouse.Plan {
	return warehouse.Plan{Err: f.plan}
}

func (f *scriptedWarehouse) Find(ctx context.Context, nos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	return f.find(ctx, nos)
}

func (f *scriptedWarehouse) Send(ctx context.Context, o *orderv1.Audited, _ warehouse.Plan) (warehouse.Receipt, error) {
	return warehouse.Receipt{WarehouseNo: "N-" + o.OutboundNo}, f.take(ctx)
}

// ships makes wh the warehouse of all orders.
func (b *fixture) ships(far warehouse.Identified) {
	b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return far, nil }
}

// lookUpTogether looks up n orders in one call, and then ends it.
func lookUpTogether(t *testing.T, b *fixture, far *scriptedWarehouse, n int, end func() error) []error {
	t.Helper()
	first, rest := make(chan struct{}), make(chan struct{})
	calls := 0
	far.find = func(context.Context, []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
		if calls++; calls == 1 {
			close(first)
			<-rest
			return nil, fault.RetryAfter(time.Second, fmt.Errorf("later"))
		}
		return nil, end()
	}
	b.ships(far)
	errs := make([]error, n+1)
	var all sync.WaitGroup
	ask := func(i int) {
		all.Go(func() {
			_, _, errs[i] = b.LookUp(t.Context(), "acme", far, fmt.Sprint("A-", i))
		})
	}
	ask(0)
	<-first
	for i := range n {
		ask(i + 1)
	}
	for b.Waiting(far) != n { // until all wait for the next call
		time.Sleep(time.Millisecond)
	}
	close(rest)
	all.Wait()
	return errs[1:]
}

func TestAFailedCallCountsOnceForTheBreaker(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		lookUpTogether(t, b, &scriptedWarehouse{}, 10, func() error { return fmt.Errorf("connection reset") })
		if p := b.book.now.Pause; p != nil {
			t.Errorf("one failed call of many askers paused the seller: %+v", p)
		}
	})
}

func TestAPanicInALookUpFailsOnlyTheOrders(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		for _, err := range lookUpTogether(t, b, &scriptedWarehouse{}, 3, func() error { panic("no such field") }) {
			if fault.Of(err) != fault.Transient || err == nil {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestAnAcceptedOrderIsReportedWhateverTheSetUpSaysNow(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o, lost := b.order("A-1"), b.order("A-2")
		b.accepts(o, fresh) // and the worker dies before the event is stored
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		b.wants(lost, fresh, "wait")

		// Then the set-up changes, and neither could be sent now.
		b.ships(&scriptedWarehouse{plan: fault.Permanent(fault.Reason{Code: "platform_order.required"})})
		b.wants(o, again, "accepted "+b.number(o))
		b.wants(lost, again, "held operator:acme/A-2") // not failed: it may ship
		b.wants(b.order("A-3"), again, "failed platform_order.required")

		b.book.now = seller.New(&sellerv1.Setup{Name: "acme"}, nil)
		b.wants(o, again, "accepted "+b.number(o))
		b.wants(b.order("A-3"), again, "held shop:acme/S01")
	})
}

func TestTheLoserOfTwoDocumentsIsNotReportedAsFailed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// Its claim expired while the warehouse took it; another worker found another document and was faster.
		o := b.order("A-1")
		b.ships(&scriptedWarehouse{take: func(ctx context.Context) error {
			return b.ledger.Accept(ctx, ledger.ClaimRequest{
				Key: order.Terms.Key("acme", o.OutboundNo), Hash: order.PayloadHash(o), Owner: "other", Group: o.OrderNo, Items: []string{"1"},
			}, "N-other", nil, b.now())
		}})
		reported, err := b.push(o, fresh)
		if reported != "held operator:acme/A-1" || fault.ReasonOf(err, "").Code != "warehouse.twice" || fault.Of(err) != fault.Refused {
			t.Errorf("reported %q: %v", reported, err)
		}
	})
}

func TestANewAuditOfACancelledOrderIsNotAccepted(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		entry, err := b.ledger.Get(t.Context(), order.Terms.Key("acme", o.OutboundNo))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ledger.Follow(t.Context(), entry, ledger.Cancelled, ledger.Following{}); err != nil {
			t.Fatal(err)
		}
		b.accepts(o, again) // the same audit, reported again after a crash
		anew := proto.CloneOf(o)
		anew.Revision++
		b.wants(anew, fresh, "failed outbound.cancelled")
		b.has(o, 1)
	})
}

func TestTheReplayOfTheNewerContentIsNotSwallowed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		newer := proto.CloneOf(o)
		newer.Revision, newer.Lines[0].Quantity = 2, 9
		b.wants(newer, fresh, "held operator:acme/A-1")
		b.wants(newer, replay, "held operator:acme/A-1")
		b.ships(&scriptedWarehouse{plan: fault.Hold(seller.CauseReceiver("acme", "A-1"), fault.Reason{Code: "receiver.masked"})})
		b.wants(newer, replay, "held operator:acme/A-1") // else each sweep would release it and hold it again
	})
}

func TestNothingIsSentWhenTheHandlersTimeIsNearlyUp(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		sent := 0
		b.ships(&scriptedWarehouse{take: func(context.Context) error { sent++; return nil }})
		ctx, cancel := context.WithTimeout(t.Context(), callLimit-time.Second)
		defer cancel()
		o := b.order("A-1")
		d := &bus.Delivery{First: true, StreamTime: o.AuditedAt.AsTime(), Stream: "ORDERS", Seq: 1}
		if _, err := b.Push(ctx, d, o); fault.Of(err) != fault.Wait || sent != 0 {
			t.Errorf("sent %d: %v", sent, err)
		}
		b.wants(o, again, "accepted N-A-1") // and it still was never sent
	})
}

func TestAnAcceptedOrderDoesNotProveTheRightToLookUp(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		waits := bus.DeadLetter{Cause: seller.CausePermission("acme", push.FindPermission), Last: b.now()}
		b.Release = func(_ context.Context, _ string, match func(bus.DeadLetter) bool) (int, error) {
			if match(waits) {
				return 1, errors.New("released")
			}
			return 0, nil
		}
		released := func() bool {
			_, err := b.ReleaseDue(t.Context(), nil, &sellerv1.PollDue{Seller: "acme"})
			return err != nil
		}
		b.wait(time.Second)
		b.accepts(b.order("A-1"), fresh)
		if released() {
			t.Error("released by an order that went through: it would go round with every sweep")
		}
		old := b.order("A-2")
		old.AuditedAt.Seconds -= 3600
		b.accepts(old, fresh) // looked up first
		if !released() {
			t.Error("not released although an order was asked for meanwhile")
		}
	})
}

func TestListedAndReleasedOrdersTakeNoPlaceInATrial(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		setup := proto.CloneOf(b.book.now.Setup)
		setup.Trial = &sellerv1.Trial{Orders: []string{"L-1"}, First: 1}
		b.book.now = seller.New(setup, nil)
		listed, first, let := b.order("L-1"), b.order("A-1"), b.order("A-2")
		b.accepts(listed, fresh)
		b.wants(let, fresh, "accepted MEM00000002") // the first of the first one
		b.wants(first, fresh, "held trial:acme")
		b.accepts(first, func(d *bus.Delivery) { d.Replay, d.Released = true, []string{"trial:acme"} })
		b.wants(b.order("A-3"), fresh, "held trial:acme")

		// One more place; and what was on the list stays admitted.
		setup = proto.CloneOf(setup)
		setup.Trial = &sellerv1.Trial{First: 2}
		b.book.now = seller.New(setup, nil)
		b.accepts(b.order("A-3"), again)
		b.accepts(listed, again)
		b.wants(b.order("A-4"), fresh, "held trial:acme")
	})
}
