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
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// farSide is a warehouse whose answers the test decides.
type farSide struct {
	warehouse.Orders
	plan error
	find func(ctx context.Context, nos []string) (map[string]warehouse.Found, error)
	take func(ctx context.Context) error
}

func (f *farSide) Identity() warehouse.Identity { return "" }

func (f *farSide) PlanOrder(*orderv1.Audited) warehouse.Plan { return warehouse.Plan{Err: f.plan} }

func (f *farSide) FindOrders(ctx context.Context, nos []string) (map[string]warehouse.Found, error) {
	return f.find(ctx, nos)
}

func (f *farSide) SendPlanned(ctx context.Context, o *orderv1.Audited, _ warehouse.Plan) (warehouse.Receipt, error) {
	return warehouse.Receipt{WarehouseNo: "N-" + o.OutboundNo}, f.take(ctx)
}

// ships makes far the warehouse of all orders.
func (b *bench) ships(far warehouse.Orders) {
	b.Open = func(*seller.Seller, string, warehouse.Class) (warehouse.Orders, error) { return far, nil }
}

// together asks after n orders in one call, and then ends it.
func together(t *testing.T, b *bench, far *farSide, n int, end func() error) []error {
	t.Helper()
	first, rest := make(chan struct{}), make(chan struct{})
	calls := 0
	far.find = func(context.Context, []string) (map[string]warehouse.Found, error) {
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
		r := &run{Pusher: b.Pusher, d: &bus.Delivery{}, o: b.order(fmt.Sprint("A-", i)), wh: far}
		all.Go(func() { _, _, errs[i] = r.ask(t.Context(), r.o.OutboundNo) })
	}
	ask(0)
	<-first
	for i := range n {
		ask(i + 1)
	}
	for { // until all wait for the next call
		b.asker.mu.Lock()
		waiting := 0
		if l := b.asker.lanes[far]; l != nil {
			waiting = len(l.waiting)
		}
		b.asker.mu.Unlock()
		if waiting == n {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(rest)
	all.Wait()
	return errs[1:]
}

func TestAFailedCallCountsOnceForTheBreaker(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		together(t, b, &farSide{}, 10, func() error { return fmt.Errorf("connection reset") })
		if p := b.book.now.Pause; p != nil {
			t.Errorf("one failed call of many askers paused the seller: %+v", p)
		}
	})
}

func TestAPanicOfTheAskedFailsTheOrdersOnly(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		for _, err := range together(t, b, &farSide{}, 3, func() error { panic("no such field") }) {
			if fault.Of(err) != fault.Transient || err == nil {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestWhatTheWarehouseHasIsToldWhateverTheSetUpSaysNow(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		o, lost := b.order("A-1"), b.order("A-2")
		b.accepts(o, fresh) // and the worker dies before this is told
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		b.wants(lost, fresh, "wait")

		// Then the set-up changes, and neither would be sent any more.
		b.ships(&farSide{plan: fault.Permanent(fault.Reason{Code: "platform_order.required"})})
		b.wants(o, again, "accepted "+b.number(o))
		b.wants(lost, again, "held operator:acme/A-2") // not failed: it ships, perhaps
		b.wants(b.order("A-3"), again, "failed platform_order.required")

		b.book.now = seller.New(&sellerv1.Setup{Name: "acme"}, nil)
		b.wants(o, again, "accepted "+b.number(o))
		b.wants(b.order("A-3"), again, "held shop:acme/S01")
	})
}

func TestTheLoserOfTwoDocumentsIsNotToldAsFailed(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		// Its claim ran out while the warehouse took it; another worker, which found another document, was faster.
		o := b.order("A-1")
		b.ships(&farSide{take: func(ctx context.Context) error {
			return b.ledger.Accept(ctx, ledger.ClaimRequest{
				Key: ledger.Key{Seller: "acme", Kind: kind, No: o.OutboundNo}, Hash: PayloadHash(o), Owner: "other", OrderNo: o.OrderNo, Lines: []string{"1"},
			}, "N-other", nil, b.now())
		}})
		told, err := b.push(o, fresh)
		if told != "held operator:acme/A-1" || fault.ReasonOf(err, "").Code != "warehouse.twice" || fault.Of(err) != fault.Refused {
			t.Errorf("told %q: %v", told, err)
		}
	})
}

func TestANewAuditOfACancelledOrderIsNotAccepted(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		entry, err := b.ledger.Get(t.Context(), ledger.Key{Seller: "acme", Kind: kind, No: o.OutboundNo})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ledger.Follow(t.Context(), entry, ledger.Cancelled, ledger.Following{}); err != nil {
			t.Fatal(err)
		}
		b.accepts(o, again) // the same audit, told again after a crash
		anew := proto.CloneOf(o)
		anew.Revision++
		b.wants(anew, fresh, "failed outbound.cancelled")
		b.has(o, 1)
	})
}

func TestTheReplayOfTheNewerContentIsNotSwallowed(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		newer := proto.CloneOf(o)
		newer.Revision, newer.Lines[0].Quantity = 2, 9
		b.wants(newer, fresh, "held operator:acme/A-1")
		b.wants(newer, replay, "held operator:acme/A-1")
		b.ships(&farSide{plan: fault.Hold(seller.CauseReceiver("acme", "A-1"), fault.Reason{Code: "receiver.masked"})})
		b.wants(newer, replay, "held operator:acme/A-1") // else each sweep would release it and hold it again
	})
}

func TestNothingIsSentWhenTheHandlersTimeIsNearlyUp(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		sent := 0
		b.ships(&farSide{take: func(context.Context) error { sent++; return nil }})
		ctx, cancel := context.WithTimeout(t.Context(), callLimit-time.Second)
		defer cancel()
		o := b.order("A-1")
		d := &bus.Delivery{First: true, StreamTime: o.AuditedAt.AsTime(), Stream: "ORDERS", Seq: 1}
		if _, err := b.Push(ctx, d, o); fault.Of(err) != fault.Wait || sent != 0 {
			t.Errorf("sent %d: %v", sent, err)
		}
		b.wants(o, again, "accepted N-A-1") // and it is still certainly new
	})
}

func TestASlowSellerLeavesSlotsToTheOthers(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		b.Config.Slots = 8
		in, out := make(chan struct{}), make(chan struct{})
		b.ships(&farSide{take: func(context.Context) error { in <- struct{}{}; <-out; return nil }})
		push := func(i int) error {
			o := b.order(fmt.Sprint("A-", i))
			_, err := b.Push(t.Context(), &bus.Delivery{First: true, StreamTime: o.AuditedAt.AsTime(), Stream: "ORDERS", Seq: 1}, o)
			return err
		}
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				if err := push(i); err != nil {
					t.Error(err)
				}
			})
			<-in
		}
		// The seller has its share. Two slots stay free, and what comes now comes back later, paced.
		b.wait(3 * time.Second)
		var last time.Duration
		for i := range 3 {
			err := push(10 + i)
			if fault.Of(err) != fault.Wait || fault.After(err) <= max(last, 10*time.Second) {
				t.Fatalf("%v, after %s", err, fault.After(err))
			}
			last = fault.After(err)
		}
		close(out)
		all.Wait()
		go func() { <-in }()
		if err := push(10); err != nil {
			t.Error(err)
		}
	})
}

func TestThatOrdersAreTakenDoesNotMeanThatTheyMayBeAskedFor(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		waits := bus.DeadLetter{Cause: seller.CausePermission("acme", findOrders), Last: b.now()}
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
		b.accepts(old, fresh) // asked for first
		if !released() {
			t.Error("not released although an order was asked for meanwhile")
		}
	})
}

func TestListedAndReleasedOrdersTakeNoPlaceInATrial(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		setup := proto.CloneOf(b.book.now.Setup)
		setup.Trial = &sellerv1.Trial{Orders: []string{"L-1"}, First: 1}
		b.book.now = seller.New(setup, nil)
		listed, first, let := b.order("L-1"), b.order("A-1"), b.order("A-2")
		b.accepts(listed, fresh)
		b.wants(let, fresh, "accepted MEM00000002") // the first of the first one
		b.wants(first, fresh, "held trial:acme")
		b.accepts(first, func(d *bus.Delivery) { d.Replay, d.Released = true, []string{"trial:acme"} })
		b.wants(b.order("A-3"), fresh, "held trial:acme")

		// Another place; and what was on the list stays let go.
		setup = proto.CloneOf(setup)
		setup.Trial = &sellerv1.Trial{First: 2}
		b.book.now = seller.New(setup, nil)
		b.accepts(b.order("A-3"), again)
		b.accepts(listed, again)
		b.wants(b.order("A-4"), fresh, "held trial:acme")
	})
}
