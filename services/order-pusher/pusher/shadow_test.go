package pusher

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/memory"
	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// verdictOf shortens an order.shadowed.
func verdictOf(m *orderv1.Shadowed) string {
	text := strings.ToLower(strings.TrimPrefix(m.Verdict.String(), "VERDICT_"))
	for _, r := range m.Reasons {
		text += " " + r.Code
	}
	for _, d := range m.Differences {
		text += " " + d.Field
	}
	if m.Ref.WarehouseNo != "" {
		text += " (there)"
	}
	return text
}

// shadow puts the seller into shadow until then; zero: without an end.
func (b *fixture) shadow(until time.Time, change ...func(*sellerv1.Setup)) {
	setup := proto.CloneOf(b.book.now.Setup)
	setup.Shadow = &sellerv1.Shadow{}
	if !until.IsZero() {
		setup.Shadow.Until = until.Format(time.RFC3339)
	}
	for _, c := range change {
		c(setup)
	}
	b.book.now = seller.New(setup, nil)
}

// erpSends sends the order as the ERP's own program does.
func (b *fixture) erpSends(o *orderv1.Audited) {
	b.t.Helper()
	if _, err := warehousetest.Send(b.t.Context(), b.wh.Orders(), o); err != nil {
		b.t.Fatal(err)
	}
}

// later publishes the order once more with a later time.
func (b *fixture) later(o *orderv1.Audited) *orderv1.Audited {
	again := proto.CloneOf(o)
	again.AuditedAt = timestamppb.New(b.now())
	return again
}

func released(cause string) func(*bus.Delivery) {
	return func(d *bus.Delivery) { d.Replay, d.Released = true, []string{cause} }
}

func TestWhatTheTimerSentIsComparedAndNothingIsSent(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		same, other, missing, held, wrong := b.order("A-1"), b.order("A-2"), b.order("A-3"), b.order("A-4"), b.order("A-5")
		held.Carrier, wrong.Receiver.Name = "ZTO", ""
		all := []*orderv1.Audited{same, other, missing, held, wrong}
		for _, o := range all {
			b.wants(o, fresh, "wait")
			b.has(o, 0)
		}
		changed := proto.CloneOf(other)
		changed.Lines[0].Quantity = 5
		b.erpSends(same)
		b.erpSends(changed)
		b.erpSends(held)
		b.wait(9 * time.Minute)
		b.wants(same, again, "wait")
		b.wait(time.Minute)
		b.wants(same, again, "same (there)")
		b.wants(other, again, "differs lines.quantity (there)")
		b.wants(held, again, "would_hold carrier.unmapped (there)")

		// An order that is not there yet is looked up for two hours.
		looks := 0
		for ; looks < 20; looks++ {
			reported, err := b.push(missing, again)
			if reported == "only_ours" && err == nil {
				break
			}
			if reported != "wait" {
				t.Fatalf("reported %q: %v", reported, err)
			}
			b.wait(fault.After(err))
		}
		if looks < 2 || looks > 6 {
			t.Errorf("looked %d times", looks)
		}
		b.wants(wrong, again, "would_fail text.required")
		for _, o := range []*orderv1.Audited{missing, wrong} {
			b.wants(o, replay, map[*orderv1.Audited]string{missing: "only_ours", wrong: "would_fail text.required"}[o])
			b.has(o, 0)
		}
		for _, o := range []*orderv1.Audited{same, other, held} {
			b.has(o, 1)
		}
	})
}

func TestATimerThatNumbersOtherwiseIsFoundByThePlatformsNumber(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{}, func(s *sellerv1.Setup) { s.Shadow.FindBy = sellerv1.Shadow_FIND_BY_PLATFORM_ORDER_NO })
		o := b.order("A-1")
		o.PlatformOrderNos = []string{"P-1"}
		b.wants(o, fresh, "wait")
		// Two deliveries of one platform order: the one that fits is compared.
		first, second := proto.CloneOf(o), proto.CloneOf(o)
		first.OutboundNo, second.OutboundNo = "TIMER-1", "TIMER-2"
		first.Lines[0].Quantity = 1
		b.erpSends(first)
		b.erpSends(second)
		b.wait(10 * time.Minute)
		b.wants(o, again, "same (there)")
		b.has(o, 0)

		// After the switch-over nobody can find it under our number: it must not be sent automatically, whatever its time.
		b.shadow(b.now())
		b.wait(time.Minute)
		b.wants(b.later(o), fresh, "held shadow:acme/A-1")
		b.has(o, 0)
	})
}

// The switch-over is a moment: what was audited before it is never sent automatically, however and whenever it comes.
func TestAfterTheSwitchOverOnlyNewOrdersGo(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		sent, unsent, backlog := b.order("A-1"), b.order("A-2"), b.order("A-3")
		b.wants(sent, fresh, "wait")
		b.wants(unsent, fresh, "wait")
		b.erpSends(sent)
		b.wait(time.Minute)
		until := b.now()
		b.shadow(until)

		// This one was not handled before the switch-over.
		b.erpSends(backlog)
		b.wants(backlog, fresh, "wait")
		b.wait(time.Second)
		fresher := b.order("A-4")
		b.accepts(fresher, fresh)

		b.wait(10 * time.Minute)
		b.wants(sent, again, "same (there)")
		b.wants(backlog, again, "same (there)")
		b.wants(unsent, again, "only_oursheld shadow:acme/A-2")

		// Published once more, as new orders: what the warehouse has is adopted and followed, the rest waits for a person.
		b.accepts(b.later(sent), fresh)
		b.wants(b.later(unsent), fresh, "held shadow:acme/A-2")
		b.wants(b.later(unsent), replay, "held shadow:acme/A-2")
		for _, o := range []*orderv1.Audited{sent, backlog, fresher} {
			b.has(o, 1)
		}
		b.has(unsent, 0)

		// A person releases it: it is looked up like any unknown order, then sent once.
		letGo := released("shadow:acme/A-2")
		for range lookupsBeforeResend - 1 {
			reported, err := b.push(unsent, letGo)
			if reported != "wait" {
				t.Fatalf("reported %q: %v", reported, err)
			}
			b.wait(fault.After(err))
		}
		b.accepts(unsent, letGo)
		b.accepts(unsent, letGo)
		b.has(unsent, 1)
	})
}

// A person cannot release an order while shadow mode lasts.
func TestNothingIsReleasedInShadow(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		o := b.order("A-1")
		b.wants(o, fresh, "wait")
		b.wait(3 * time.Hour)
		b.wants(o, released("shadow:acme/A-1"), "only_ours")
		b.has(o, 0)
	})
}

func TestALineOfAnOrderInShadowGoesOnceOnly(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		first, gone := b.order("A-1"), b.order("B-1")
		b.wh.Set(func(k *memory.Knobs) { k.Cancel = []string{"B-1"} })
		for _, o := range []*orderv1.Audited{first, gone} {
			b.wants(o, fresh, "wait")
			b.erpSends(o)
		}
		for range 3 {
			b.wh.Step() // B-1 is cancelled
		}
		b.wait(time.Minute)
		b.shadow(b.now())
		b.wait(time.Minute)
		second := func(first *orderv1.Audited) *orderv1.Audited {
			o := b.later(first)
			o.OutboundNo, o.Revision, o.Supersedes = first.OutboundNo+"b", 2, first.OutboundNo
			return o
		}
		b.accepts(second(gone), fresh)
		b.wants(second(first), fresh, "held shadow:acme/A-1")
		b.wants(second(first), released("shadow:acme/A-1"), "held shadow:acme/A-1") // the warehouse still has the first
		b.has(second(first), 0)
		b.wants(b.later(gone), fresh, "failed line.live")
	})
}

// Audited again in shadow: the later one holds the lines, and would be held only while the warehouse has the first.
func TestALaterAuditInShadow(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		first := b.order("A-1")
		b.wants(first, fresh, "wait")
		b.erpSends(first)
		second := b.later(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		b.wants(second, fresh, "wait")
		b.erpSends(second)
		b.wait(10 * time.Minute)
		b.wants(first, again, "same (there)")
		b.wants(second, again, "would_hold superseded.live (there)")

		b.shadow(b.now())
		b.wait(time.Minute)
		third := b.later(first)
		third.OutboundNo, third.Revision, third.Supersedes = "A-1c", 3, "A-1b"
		b.wants(third, fresh, "held shadow:acme/A-1b")
		b.has(third, 0)
	})
}

// Orders handled out of sequence hold their lines by revision: the warehouse ships the later one.
func TestAnEarlierAuditThatComesLateTakesNoLines(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		b.wh.Set(func(k *memory.Knobs) { k.Cancel = []string{"A-1"} })
		first := b.order("A-1")
		b.erpSends(first)
		for range 3 {
			b.wh.Step() // A-1 is cancelled
		}
		second := b.later(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		b.erpSends(second)
		b.wants(second, fresh, "wait")
		b.wants(first, fresh, "wait")

		b.shadow(b.now())
		b.wait(time.Minute)
		third := b.later(first)
		third.OutboundNo, third.Revision, third.Supersedes = "A-1c", 3, "A-1b"
		b.wants(third, fresh, "held shadow:acme/A-1b")
		b.has(third, 0)
	})
}

// An adopted order is followed like any other: what supersedes it continues automatically when it is cancelled.
func TestWhatSupersedesAnAdoptedOrderWaitsForNobody(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		first := b.order("A-1")
		b.wants(first, fresh, "wait")
		b.erpSends(first)
		b.wait(time.Minute)
		b.shadow(b.now())
		b.wait(time.Minute)
		b.accepts(b.later(first), fresh)
		second := b.later(first)
		second.OutboundNo, second.Revision, second.Supersedes = "A-1b", 2, "A-1"
		b.wants(second, fresh, "held cancel:acme/A-1")
		b.has(second, 0)
	})
}

// An order that was being sent when the seller was put into shadow is shown, not sent again.
func TestOrdersOfOursSurviveShadow(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		ours, doubtful := b.order("A-1"), b.order("A-2")
		b.accepts(ours, fresh)
		b.wh.Set(func(k *memory.Knobs) { k.DropBefore = 1 })
		b.wants(doubtful, fresh, "wait")
		b.shadow(time.Time{})
		b.accepts(ours, again)
		b.wait(time.Hour)
		_, err := b.push(doubtful, again)
		if fault.Cause(err) != "shadow:acme/A-2" {
			t.Errorf("the doubtful one: %v", err)
		}
		b.has(ours, 1)
		b.has(doubtful, 0)
	})
}

// The ERP gets no order.failed or order.held for an order that its own program sends.
func TestAnUnreadableOrderInShadowIsNotReportedAsFailed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.shadow(time.Time{})
		o := b.order("A-1")
		d := &bus.Delivery{Stream: "ORDERS", Seq: 9, StreamTime: b.now(), Seller: "acme"}
		if reported := b.OnReject(d, o, seller.New(b.book.now.Setup, &seller.Pause{}).Paused()); len(reported) != 0 {
			t.Errorf("paused: reported %v", reported)
		}
		var names []string
		for _, err := range []error{fault.Permanent(fault.Reason{Code: "invalid", Field: "lines[0].quantity"}), bus.ErrAttempts} {
			for _, e := range b.OnReject(d, o, err) {
				names = append(names, verdictOf(e.Message.(*orderv1.Shadowed)))
			}
		}
		if !slices.Equal(names, []string{"would_fail invalid", "not_compared internal"}) {
			t.Errorf("reported %q", names)
		}
		// It is recorded, so that it is not sent when it is published as a new one later.
		b.shadow(b.now())
		b.wait(time.Minute)
		b.wants(b.later(o), fresh, "held shadow:acme/A-1")
		b.has(o, 0)
	})
}
