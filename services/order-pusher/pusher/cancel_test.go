package pusher

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// A request to cancel is answered at once, and the answer says that nothing was cancelled and what to do.
func TestARequestToCancelIsAnswered(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		if _, err := b.push(o, fresh); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ no, number string }{{o.OutboundNo, b.number(o)}, {"NEVER-SEEN", ""}} {
			m := &orderv1.CancelRequested{Seller: "acme", OutboundNo: c.no, RequestId: "refund-1", Cause: orderv1.CancelRequested_CAUSE_REFUND, RequestedAt: timestamppb.Now()}
			events, err := b.CancelRequested(t.Context(), &bus.Delivery{Consumer: Name + "-cancel", Seller: "acme"}, m)
			if err != nil || len(events) != 1 || events[0].ID != "order.cancel.unknown/acme/"+c.no+"/refund-1" {
				t.Fatalf("%s: %v, %v", c.no, events, err)
			}
			got := events[0].Message.(*documentv1.CancelUnknown)
			if got.Ref.OutboundNo != c.no || got.Ref.WarehouseNo != c.number || got.RequestId != "refund-1" || got.Reason.Code != "cancel.unsupported" ||
				!strings.Contains(got.Reason.En, "not supported yet: cancel at the warehouse") || !strings.Contains(got.Reason.Zh, "请在仓库后台取消") {
				t.Errorf("%s: %v", c.no, got)
			}
		}
		b.has(o, 1)
	})
}

func TestARequestToCancelThatBreaksARuleIsAnswered(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		why := fault.Permanent(fault.Reason{Code: "invalid", Field: "requested_at", ZH: "缺少", EN: "is missing"})
		for _, c := range []struct {
			what string
			m    *orderv1.CancelRequested
			id   string
		}{
			{"no time", &orderv1.CancelRequested{Seller: "acme", OutboundNo: "A", RequestId: "r"}, "order.cancel.unknown/acme/A/r"},
			{"an id that cannot stand in a header", &orderv1.CancelRequested{Seller: "acme", OutboundNo: "A", RequestId: "a\nb"}, "order.cancel.unknown/acme/A/invalid"},
			{"no number", &orderv1.CancelRequested{Seller: "acme"}, ""},
			{"no seller", &orderv1.CancelRequested{OutboundNo: "A"}, ""},
			{"a number that cannot stand in a header", &orderv1.CancelRequested{Seller: "acme", OutboundNo: "a b"}, ""},
			{"unreadable", nil, ""},
		} {
			events := b.OnCancelReject(&bus.Delivery{}, c.m, why)
			if c.id == "" && len(events) == 0 {
				continue
			}
			if len(events) != 1 || events[0].ID != c.id || events[0].Name != event.OrderCancelUnknown.Name {
				t.Errorf("%s: %v", c.what, events)
				continue
			}
			if got := events[0].Message.(*documentv1.CancelUnknown); got.Reason.Field != "requested_at" {
				t.Errorf("%s: %v", c.what, got)
			}
		}
		if events := b.OnCancelReject(&bus.Delivery{}, &orderv1.CancelRequested{Seller: "acme", OutboundNo: "A", RequestId: "r"}, errors.New("?")); len(events) != 1 {
			t.Errorf("%v", events)
		}
	})
}
