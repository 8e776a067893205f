package pusher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestANewOrderIsSentOnceAndReportedAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		first, err := b.push(o, fresh)
		if err != nil || first != "accepted "+b.number(o) {
			t.Fatalf("reported %q: %v", first, err)
		}
		b.wants(o, again, first)
		b.wants(o, replay, first)
		b.has(o, 1)
	})
}

// order.accepted lists the goods: stock sharing subtracts them before the next count.
func TestAnAcceptedOrderListsItsGoods(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		o.Lines = append(o.Lines, &orderv1.Line{LineId: "2", WarehouseGoodsNo: "EMG1", Quantity: 5})
		for range 2 { // by the run that sent it, and by the next delivery
			events, err := b.Push(t.Context(), &bus.Delivery{Consumer: Name, Stream: "ORDERS", Seq: 1, StreamTime: o.AuditedAt.AsTime(), Attempt: 1, First: true, Seller: "acme"}, o)
			if err != nil || len(events) != 1 {
				t.Fatalf("reported %v: %v", events, err)
			}
			got := ""
			for _, l := range events[0].Message.(*documentv1.Accepted).Lines {
				got += fmt.Sprintf("%s %s%s %d;", l.LineId, l.GoodsCode, l.WarehouseGoodsNo, l.Quantity)
			}
			if got != "1 TEA 2;2 EMG1 5;" {
				t.Errorf("reported %q", got)
			}
		}
	})
}

// A purchase that is in the ERP twice ships twice: both orders are sent, and the second names the order that shares its
// platform number, also when it is reported again.
func TestAPlatformNumberUnderTwoOrdersIsNoted(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first, second, part := b.order("A-1"), b.order("A-2"), b.order("A-3")
		first.OrderNo, second.OrderNo, part.OrderNo = "SO-1", "SO-2", "SO-1"
		part.Lines[0].LineId = "2"
		for _, o := range []*orderv1.Audited{first, second, part} {
			o.PlatformOrderNos = []string{"2754381920561"}
		}
		notes := func(o *orderv1.Audited, how func(*bus.Delivery)) (codes []string) {
			t.Helper()
			d := &bus.Delivery{Consumer: Name, Stream: "ORDERS", Seq: 1, StreamTime: o.AuditedAt.AsTime(), Attempt: 1, Seller: "acme"}
			how(d)
			events, err := b.Push(t.Context(), d, o)
			if err != nil || len(events) != 1 {
				t.Fatalf("%d events, %v", len(events), err)
			}
			m := events[0].Message.(*documentv1.Accepted)
			if len(m.Cleaned) > 0 {
				t.Errorf("cleaned: %v", m.Cleaned)
			}
			for _, n := range m.Notes {
				codes = append(codes, n.Code+" "+n.En)
				if !strings.Contains(n.Zh, "也在订单 SO-1（出库单 A-") {
					t.Error(n.Zh)
				}
			}
			return codes
		}
		want := []string{
			"platform_order.shared platform order 2754381920561 is also in order SO-1 (outbound A-1); check that it does not ship twice",
			"platform_order.shared platform order 2754381920561 is also in order SO-1 (outbound A-3); check that it does not ship twice",
		}
		for _, o := range []*orderv1.Audited{first, part} {
			if got := notes(o, fresh); len(got) > 0 {
				t.Errorf("%s: %v", o.OutboundNo, got)
			}
			b.has(o, 1)
		}
		for _, how := range []func(*bus.Delivery){fresh, again} {
			if got := notes(second, how); !slices.Equal(got, want) {
				t.Error(got)
			}
		}
		b.has(second, 1)
	})
}

func TestALostAnswerIsLookedUpThreeTimesBeforeSendingAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		taken, dropped := b.order("A-1"), b.order("A-2")
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		b.wants(taken, fresh, "wait")
		b.wh.Set(func(k *memory.Knobs) { k.DropBefore = 1 })
		b.wants(dropped, fresh, "wait")

		b.wait(firstLookup)
		b.expectUnknown(2, firstLookup)
		b.accepts(taken, again)
		b.has(taken, 1)

		// Not found: look-ups at 1 s, 2.5 min and 5 min, and only the last one sends.
		for range lookupsBeforeResend - 1 {
			_, err := b.push(dropped, again)
			if fault.Of(err) != fault.Wait {
				t.Fatal(err)
			}
			b.has(dropped, 0)
			b.wait(fault.After(err))
		}
		if entry, err := b.ledger.Get(t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: "A-2"}); err != nil || b.now().Sub(entry.UnknownSince) < 5*time.Minute {
			t.Errorf("looked for %s only (%v)", b.now().Sub(entry.UnknownSince), err)
		}
		reported, err := b.push(dropped, again)
		if err != nil || reported != "accepted "+b.number(dropped) {
			t.Fatalf("reported %q: %v", reported, err)
		}
		b.has(dropped, 1)
		b.expectUnknown(0, 0)
	})
}

func TestAfterAKilledWorkerTheOrderIsLookedUp(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// A worker claimed it, the warehouse took it, and nothing else is known.
		o := b.order("A-1")
		begin := ledger.ClaimRequest{
			Key: ledger.Key{Seller: "acme", Kind: "order", No: "A-1"}, Hash: order.PayloadHash(o), Owner: "killed", Group: o.OrderNo, Items: []string{"1"},
			Revision: 1, StreamTime: b.now(), AuditedAt: b.now(), First: true,
		}
		if _, err := b.ledger.Claim(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		b.wants(o, again, "wait") // the claim still stands
		b.wait(ledger.ClaimFor + time.Second)
		b.accepts(o, again)
		b.has(o, 1)
	})
}

func TestALedgerThatForgotLooksUpFirst(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// The order is older than the ledger, as after a wipe: the warehouse has it already.
		o, gone := b.order("A-1"), b.order("A-2")
		old := proto.CloneOf(o)
		old.AuditedAt.Seconds -= 3600
		gone.AuditedAt.Seconds -= 3600
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		b.accepts(old, fresh)
		b.has(o, 1)
		b.accepts(gone, fresh)
		b.has(gone, 1)
	})
}

func TestALedgerThatForgotLooksUpTheSupersededToo(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// The first audit is at the warehouse, and the ledger does not know of it.
		first := b.order("A-1")
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), first); err != nil {
			t.Fatal(err)
		}
		second := proto.CloneOf(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		second.AuditedAt.Seconds -= 3600
		b.wants(second, fresh, "held cancel:acme/A-1")
		b.has(second, 0)
		// An order that was never sent is held too: only what it supersedes is older than the ledger.
		newer := proto.CloneOf(first)
		newer.OutboundNo, newer.Revision, newer.Supersedes = "A-1c", 2, "A-1"
		b.wants(newer, fresh, "held cancel:acme/A-1")
		b.has(newer, 0)
		third := proto.CloneOf(second)
		third.OutboundNo, third.OrderNo, third.Supersedes = "A-2b", "SO-A-2", "NEVER-SENT"
		b.accepts(third, fresh)
	})
}

// The ledger lost the first audit, and a worker claimed the second and died before it looked the first one up.
func TestACrashBeforeTheSupersededIsLookedUpSendsNothingTwice(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first := b.order("A-1")
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), first); err != nil {
			t.Fatal(err)
		}
		second := proto.CloneOf(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		if _, err := b.ledger.Claim(t.Context(), order.Terms.ClaimRequest(push.DeliveryOf(&bus.Delivery{First: true, StreamTime: b.now()}), order.Facts(second), order.PayloadHash(second), "killed")); err != nil {
			t.Fatal(err)
		}
		b.wait(ledger.ClaimFor + time.Second)
		for range lookupsBeforeResend - 1 {
			_, err := b.push(second, again)
			if fault.Of(err) != fault.Wait {
				t.Fatal(err)
			}
			b.wait(fault.After(err))
		}
		b.wants(second, again, "held cancel:acme/A-1")
		b.has(second, 0)
	})
}

// The ledger lost the first audit; its redelivery claimed it again, could not look it up, and released it.
func TestAReleasedPredecessorIsLookedUp(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first := b.order("A-1")
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), first); err != nil {
			t.Fatal(err)
		}
		b.wh.Set(func(k *memory.Knobs) { k.Down = true })
		b.wants(first, again, "transient")
		b.wh.Set(func(k *memory.Knobs) { k.Down = false })
		second := proto.CloneOf(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		b.wants(second, fresh, "held cancel:acme/A-1")
		b.has(second, 0)
	})
}

// The ledger lost the first audit, and the second has its line since: the first is at the warehouse all the same.
func TestAnOrderThatLostItsLineIsLookedUpBeforeItFails(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first, unsent := b.order("A-1"), b.order("A-1")
		unsent.OutboundNo = "A-1a"
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), first); err != nil {
			t.Fatal(err)
		}
		second := proto.CloneOf(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		if _, err := b.ledger.Claim(t.Context(), order.Terms.ClaimRequest(push.DeliveryOf(&bus.Delivery{StreamTime: b.now()}), order.Facts(second), order.PayloadHash(second), "other")); err != nil {
			t.Fatal(err)
		}
		b.wants(first, again, "held operator:acme/A-1")
		b.wants(unsent, again, "failed line.live")
		b.has(first, 1)
	})
}

// A worker was slow while the ledger was lost: its MarkUnknown is all that is known of the order, without content or lines.
func TestAnUnknownOrderThatOutlivedTheLedgerIsNoOtherContent(t *testing.T) {
	doubted := func(t *testing.T, b *fixture, no string) *orderv1.Audited {
		o := b.order(no)
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		key := order.Terms.Key(o.Seller, no)
		if err := b.Ledger.MarkUnknown(t.Context(), ledger.Claim{Key: key, Owner: "slow"}, "answer lost"); err != nil {
			t.Fatal(err)
		}
		return o
	}
	each(t, func(t *testing.T, b *fixture) {
		o := doubted(t, b, "A-1")
		b.accepts(o, replay)
		b.has(o, 1)
	})
	each(t, func(t *testing.T, b *fixture) {
		// Its lines are not known either, so the order that supersedes it is held.
		second := proto.CloneOf(doubted(t, b, "A-2"))
		second.OutboundNo, second.Revision, second.Supersedes = "A-2b", 2, "A-2"
		b.wants(second, fresh, "held cancel:acme/A-2")
		b.has(second, 0)
	})
	each(t, func(t *testing.T, b *fixture) {
		// What the set-up says against it now does not make it failed: it may ship.
		o := doubted(t, b, "A-3")
		o.Receiver.Name = ""
		b.wants(o, again, "held operator:acme/A-3")
	})
}

// noTurn has no quota for the next orders, and counts the look-ups.
type noTurn struct {
	warehouse.OrderChannel
	orders, asked int
}

func (f *noTurn) Orders() warehouse.OrderChannel { return f }

func (f *noTurn) Find(ctx context.Context, numbers []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	f.asked++
	return f.OrderChannel.Find(ctx, numbers)
}

func (f *noTurn) Send(ctx context.Context, o *orderv1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	if f.orders--; f.orders >= 0 {
		return warehouse.Receipt{}, fault.RetryAfter(time.Second, errors.New("no turn"))
	}
	return f.OrderChannel.Send(ctx, o, plan)
}

func TestAnOrderThatWaitsForItsTurnIsLookedUpOnce(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		far := &noTurn{OrderChannel: b.wh.Orders(), orders: 2}
		b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return far, nil }
		o := b.order("A-1")
		o.AuditedAt.Seconds -= 3600 // older than the ledger, so it is looked up
		b.wants(o, fresh, "wait")
		b.wants(o, again, "wait")
		b.accepts(o, again)
		b.has(o, 1)
		if far.asked != 1 {
			t.Errorf("asked %d times", far.asked)
		}

		// A new epoch in between knows nothing, so it is looked up again.
		if !strings.HasSuffix(t.Name(), "kv") {
			return // a restart of Redis is tested in package inredis
		}
		far.orders, far.asked = 1, 0
		o = b.order("A-2")
		o.AuditedAt.Seconds -= 3600
		b.wants(o, fresh, "wait")
		b.identity = "second"
		b.wants(o, again, "wait")
		b.wait(31 * time.Second)
		b.accepts(o, again)
		if far.asked != 3 {
			t.Errorf("asked %d times", far.asked)
		}
	})
}

func TestNotFoundCountsOnlyWhenALostSendCannotStillArrive(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		if b.identity = "second"; t.Name()[len(t.Name())-2:] != "kv" {
			return // a restart of Redis is tested in package inredis
		}
		o := b.order("A-1")
		b.wait(time.Second)
		o.AuditedAt.Seconds -= 60
		if reported, err := b.push(o, again); reported != "wait" {
			t.Fatalf("reported %q: %v", reported, err)
		}
		b.has(o, 0)
		b.wait(31 * time.Second)
		b.accepts(o, again)
		b.has(o, 1)
	})
}

func TestRefusals(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// Rejected in business words: looked up, not found, refused; reported again, and sent again only by a replay.
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.Refuse = 1 })
		first, err := b.push(o, fresh)
		if fault.Of(err) != fault.Refused || first == "" {
			t.Fatalf("reported %q: %v", first, err)
		}
		b.wants(o, again, first)
		b.has(o, 0)
		b.accepts(o, replay)
		b.has(o, 1)

		// Refused before processing.
		o = b.order("A-2")
		b.wh.Set(func(k *memory.Knobs) { k.Reject = 1 })
		if reported, err := b.push(o, fresh); fault.Of(err) != fault.Refused {
			t.Fatalf("reported %q: %v", reported, err)
		}
	})
}

// What the warehouse rejects for the set-up, and what reached another system, is held. When it continues, it is looked up
// first: the warehouse may have it by then.
func TestAnOrderThatWaitsForTheSetupIsLookedUpBeforeItIsSentAgain(t *testing.T) {
	for cause, knob := range map[string]func(*memory.Knobs){
		"number:memory":  func(k *memory.Knobs) { k.RefuseNumber = 2 },
		"account:memory": func(k *memory.Knobs) { k.Elsewhere = 2 },
	} {
		t.Run(cause, func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				absent, late := b.order("A-1"), b.order("A-2")
				b.wh.Set(knob)
				b.wants(absent, fresh, "held "+cause)
				b.wants(late, fresh, "held "+cause)
				b.has(absent, 0)
				b.expectUnknown(2, 0)
				if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), late); err != nil { // it appears all the same
					t.Fatal(err)
				}
				b.wait(time.Hour)
				b.accepts(late, replay)
				b.has(late, 1)
				for range lookupsBeforeResend - 1 {
					_, err := b.push(absent, replay)
					if fault.Of(err) != fault.Wait || fault.After(err) > 10*time.Second {
						t.Fatal(err)
					}
					b.wait(fault.After(err))
				}
				b.accepts(absent, replay)
				b.has(absent, 1)
			})
		})
	}
}

// The number of another order does not prove that the warehouse has this one: a person checks, and it is looked up before it is
// sent again.
func TestTheNumberOfAnotherOrderProvesNothing(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first, second := b.order("A-1"), b.order("A-2")
		b.accepts(first, fresh)
		no := b.number(first)
		b.wh.Set(func(k *memory.Knobs) { k.Mistake = no })
		reported, err := b.push(second, fresh)
		if reported != "held operator:acme/A-2" || fault.Of(err) != fault.Refused || fault.ReasonOf(err, "").Code != "warehouse.number.taken" {
			t.Fatalf("reported %q: %v", reported, err)
		}
		b.has(second, 0)
		b.wants(first, again, "accepted "+b.number(first))
		b.wait(time.Hour)
		for range lookupsBeforeResend - 1 {
			if _, err := b.push(second, replay); fault.Of(err) != fault.Wait {
				t.Fatal(err)
			}
			b.wait(10 * time.Second)
		}
		b.accepts(second, replay)
		b.has(second, 1)
	})
}

func TestLinesAndNumbers(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.accepts(o, fresh)

		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity = 9
		b.wants(changed, fresh, "held operator:acme/A-1") // never failed: the first one is live
		// The same from the dead letters: a corrected order replaced it meanwhile, and it gets no event.
		if reported, err := b.push(changed, replay); err != nil || reported != "" {
			t.Errorf("reported %q: %v", reported, err)
		}

		second := proto.CloneOf(o)
		second.OutboundNo, second.Revision = "A-1b", 2
		b.wants(second, fresh, "failed line.live")
		second.Supersedes = "A-1"
		b.wants(second, fresh, "held cancel:acme/A-1")
		b.has(second, 0)
		if b.Cleared(t.Context(), "cancel:acme/A-1") {
			t.Error("cleared while the earlier one lives")
		}

		entry, err := b.ledger.Get(t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: "A-1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ledger.Follow(t.Context(), entry, ledger.Cancelled, ledger.Following{}); err != nil {
			t.Fatal(err)
		}
		if !b.Cleared(t.Context(), "cancel:acme/A-1") {
			t.Error("not cleared although the earlier one is cancelled")
		}
		b.accepts(second, replay)
	})
}

// An order is audited twice more before its first delivery is cancelled. The last audit waits too: if it were refused, the ERP
// would take it for failed, and the audit that it replaces would be sent instead.
func TestTheThirdAuditOfAnOrderWaitsForTheFirstToo(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		first := b.order("A-1")
		b.accepts(first, fresh)
		audit := func(no string, revision int64, supersedes string) *orderv1.Audited {
			o := proto.CloneOf(first)
			o.OutboundNo, o.Revision, o.Supersedes = no, revision, supersedes
			return o
		}
		second, third := audit("A-1b", 2, "A-1"), audit("A-1c", 3, "A-1b")
		b.wants(second, fresh, "held cancel:acme/A-1")
		b.wants(third, fresh, "held cancel:acme/A-1")
		b.wants(audit("A-1d", 1, "A-1b"), fresh, "failed line.live") // not audited after the first
		b.cancel(first)
		b.accepts(third, replay)
		b.wants(second, replay, "failed line.live")
		b.has(second, 0)

		// Released in their order, the last waits for the one that it replaces.
		b.cancel(third)
		fourth, fifth := audit("A-1e", 4, "A-1c"), audit("A-1f", 5, "A-1e")
		b.accepts(fourth, fresh)
		b.wants(fifth, fresh, "held cancel:acme/A-1e")
	})
}

// cancel has the warehouse cancel it, and records that as the poller does.
func (b *fixture) cancel(o *orderv1.Audited) {
	b.t.Helper()
	entry, err := b.ledger.Get(b.t.Context(), order.Terms.Key(o.Seller, o.OutboundNo))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.ledger.Follow(b.t.Context(), entry, ledger.Cancelled, ledger.Following{}); err != nil {
		b.t.Fatal(err)
	}
}

func TestACorrectedOrderEndsWhatWaitedForIt(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		faulty := proto.CloneOf(o)
		faulty.Shop = "S09"
		b.wants(faulty, fresh, "held shop:acme/S09")
		if b.Cleared(t.Context(), seller.CauseReceiver("acme", "A-1")) {
			t.Error("cleared although nobody corrected it")
		}
		b.wants(faulty, replay, "held shop:acme/S09") // nothing changed in between
		b.accepts(o, fresh)
		if reported, err := b.push(faulty, replay); err != nil || reported != "" {
			t.Errorf("reported %q of an order that has its outcome: %v", reported, err)
		}
		if !b.Cleared(t.Context(), seller.CauseReceiver("acme", "A-1")) {
			t.Error("a masked one would wait for ever")
		}
		b.accepts(o, replay)
		b.has(o, 1)
	})
}

func TestWhatIsTransientIsReleasedAndTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.Down = true })
		b.wants(o, fresh, "transient")
		b.wh.Set(func(k *memory.Knobs) { k.Down, k.Busy = false, 3*time.Second })
		_, err := b.push(o, again)
		if fault.Of(err) != fault.Wait || fault.After(err) != 3*time.Second {
			t.Fatal(err)
		}
		b.wh.Set(func(k *memory.Knobs) { k.Busy = 0 })
		b.accepts(o, again)
		b.has(o, 1)
	})
}

func TestWithoutTheRightToLookUpNothingIsGuessed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.CannotFind, k.DropBefore = true, 1 })
		b.wants(o, fresh, "wait")
		b.wants(o, again, "held permission:acme/find-orders")
		b.has(o, 0)
	})
}

func TestTheBreakerPausesTheSeller(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.Set(func(k *memory.Knobs) { k.Down = true })
		for _, no := range []string{"A-1", "A-2"} {
			b.wants(b.order(no), fresh, "transient")
		}
		b.wants(b.order("A-3"), fresh, " seller.paused")
		p := b.book.now.Pause
		if p == nil || p.By != sellerv1.Paused_BY_BREAKER || !p.ProbeAt.Equal(b.now().Add(30*time.Second)) {
			t.Errorf("paused %+v", p)
		}
		err := guard.Paused(b.book)("acme")
		if fault.Of(err) != fault.Held || fault.Cause(err) != "pause:acme" {
			t.Error(err)
		}
	})
}

func TestABadCredentialPausesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.Set(func(k *memory.Knobs) { k.BadToken = true })
		if _, err := b.push(b.order("A-1"), fresh); fault.Of(err) == fault.Refused {
			t.Error(err)
		}
		if p := b.book.now.Pause; p == nil || p.By != sellerv1.Paused_BY_TOKEN {
			t.Errorf("paused %+v", p)
		}
	})
}

func TestTwoDocumentsAreReported(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		for range 2 {
			if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
				t.Fatal(err)
			}
		}
		o.AuditedAt.Seconds -= 3600
		reported, err := b.push(o, fresh)
		if fault.ReasonOf(err, "").Code != "warehouse.twice" || fault.Of(err) != fault.Refused || reported != "accepted "+b.number(o) {
			t.Errorf("reported %q: %v", reported, err)
		}
	})
}

func TestHoldsAreReleasedOneByOne(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		o.Hold = &orderv1.Hold{Reason: "the buyer is away"}
		b.wants(o, fresh, "held hold:acme/A-1")
		b.has(o, 0)
		release := func(d *bus.Delivery) { d.Replay, d.Released = true, []string{"hold:acme/A-1"} }
		b.accepts(o, release)
	})
}

func TestAttemptsUsedUpAreNoFailure(t *testing.T) {
	b := &fixture{t: t, at: time.Now()}
	p := New(Parts{Now: b.now, Sellers: &book{seller.New(&sellerv1.Setup{Name: "acme"}, nil)}})
	events := p.OnReject(&bus.Delivery{}, b.order("A-1"), errors.Join(bus.ErrAttempts, errors.New("connection reset")))
	if len(events) != 1 || events[0].Name != "order.held" {
		t.Errorf("reported %v", events)
	}
	if p.OnReject(nil, nil, fault.Permanent(errors.New("unreadable"))) != nil {
		t.Error("reported of an order that nobody can name")
	}
}

func TestASweepReleasesWhatIsClearedAndOnePermission(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		dead := []bus.DeadLetter{
			{Cause: seller.CauseShop("acme", "S01"), Last: b.now()},
			{Cause: seller.CauseShop("acme", "S09"), Last: b.now()},
			{Cause: seller.CausePermission("acme", "m"), Last: b.now().Add(-time.Hour)},
			{Cause: seller.CausePermission("acme", "m"), Last: b.now().Add(-time.Hour)},
			{Cause: seller.CauseHold("acme", "A-1"), Last: b.now()},
			{Cause: seller.CauseAccount("acme", "m"), Last: b.now().Add(-time.Hour)},
			{Cause: seller.CauseNumber("acme", seller.NumberShop, "S01"), Last: b.now().Add(-time.Hour)},
			{Cause: seller.CauseNumber("acme", seller.NumberShop, "S02"), Last: b.now().Add(-time.Hour)},
			{Cause: seller.CauseNumber("acme", seller.NumberShop, "S02"), Last: b.now().Add(-time.Hour)},
		}
		var let []int
		b.Release = func(_ context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			for i, m := range dead {
				if match(m) {
					let = append(let, i)
				}
			}
			return len(let), nil
		}
		if _, err := b.ReleaseDue(t.Context(), nil, &sellerv1.PollDue{Seller: "acme"}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(let); got != "[0 2 5 6 7]" {
			t.Errorf("released %v", got)
		}
		// Once the warehouse accepted an order since, orders held for a permission are released, and those held for what that order
		// proves to be known: its own shop.
		for i := range dead {
			dead[i].Last = b.now().Add(-time.Second)
		}
		let = nil
		b.accepts(b.order("A-9"), fresh)
		if _, err := b.ReleaseDue(t.Context(), nil, &sellerv1.PollDue{Seller: "acme"}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(let); got != "[0 2 3 5 6]" {
			t.Errorf("released %v", got)
		}
		// A changed set-up may have fixed any of them.
		let = nil
		if _, err := b.SellerChanged(t.Context(), nil, &sellerv1.Changed{Seller: "acme"}); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(let); got != "[0 2 3 5 6 7 8]" {
			t.Errorf("released %v", got)
		}
	})
}
