package pusher

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

func TestAnOrderInFlightOverTheUpgradeIsNotRefused(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		// Claimed by the earlier build, its answer lost.
		o := b.order("A-1")
		begun, err := b.ledger.Claim(t.Context(), order.Terms.ClaimRequest(push.DeliveryOf(&bus.Delivery{StreamTime: b.now()}), order.Facts(o), order.LegacyHash(o), "theirs"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.ledger.MarkUnknown(t.Context(), begun.Claim, "lost"); err != nil {
			t.Fatal(err)
		}
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		b.accepts(o, again)
		b.accepts(o, fresh) // published again
		b.has(o, 1)

		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity++
		b.wants(changed, fresh, "held operator:acme/A-1")
	})
}

func TestAHarmlessRepublishReportsAcceptedAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		o.Lines[0].Price = "128.0"
		b.accepts(o, fresh)
		o = proto.CloneOf(o)
		o.Lines[0].Price, o.Receiver.Name, o.BuyerRemark = "128.00", "王\u200b芳 ", " "
		b.accepts(o, fresh)
		b.has(o, 1)
	})
}

// Whatever is wrong with a message under the number of a live order, no order.failed is published.
func TestALiveOrderIsNeverReportedAsFailed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.accepts(o, fresh)
		number := b.number(o)
		refused := func(name string, reported []event.Event, code string) {
			t.Helper()
			if len(reported) != 1 {
				t.Fatalf("%s: reported %d", name, len(reported))
			}
			m, ok := reported[0].Message.(*documentv1.Held)
			if !ok || m.Reason.Code != code || m.Ref.WarehouseNo != number || !strings.Contains(m.Reason.En, number) || !strings.Contains(m.Reason.Zh, number) {
				t.Errorf("%s: reported %v", name, reported[0].Message)
			}
			if !strings.HasSuffix(reported[0].ID, "/"+code) {
				t.Errorf("%s: id %s", name, reported[0].ID)
			}
		}
		d := &bus.Delivery{StreamTime: b.now(), Attempt: 1, Seller: "acme"}
		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity = 9
		reported, err := b.Push(t.Context(), d, changed)
		if fault.Of(err) != fault.Refused {
			t.Error(err)
		}
		refused("another content", reported, "outbound.reused")

		changed.Receiver.Name = "🌸" // another content, and wrong in itself
		reported, _ = b.Push(t.Context(), d, changed)
		refused("another content that is wrong", reported, "text.required")

		partly := &orderv1.Audited{Seller: "acme", OutboundNo: "A-1"} // the rest could not be read
		refused("unreadable", b.OnReject(d, partly, fault.Permanent(fault.Reason{Code: "malformed", ZH: "无法读取", EN: "cannot be read"})), "malformed")

		partly.OutboundNo = "A-2"
		reported = b.OnReject(d, partly, fault.Permanent(fault.Reason{Code: "malformed", ZH: "无法读取", EN: "cannot be read"}))
		if _, ok := reported[0].Message.(*documentv1.Failed); !ok {
			t.Errorf("reported %v", reported[0].Message)
		}
	})
}

// A message that one seller publishes in another's name is refused to its publisher.
func TestARefusalGoesToThePublisher(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		reported := b.OnReject(&bus.Delivery{Seller: "evil"}, o, fault.Permanent(fault.Reason{Code: "seller.mismatch", ZH: "不一致", EN: "differs"}))
		if len(reported) != 1 || reported[0].Seller != "evil" || reported[0].Message.(*documentv1.Failed).Ref.Seller != "evil" {
			t.Errorf("reported %v", reported)
		}
	})
}
