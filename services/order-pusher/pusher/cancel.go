package pusher

import (
	"context"
	"regexp"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// errCancelUnsupported answers every request. Without an answer an ERP would take the stored request for a cancelled
// order and refund it, and the goods would leave all the same.
var errCancelUnsupported = fault.Reason{
	Code: "cancel.unsupported",
	ZH:   "暂不支持通过本系统取消：订单没有被取消。请在仓库后台取消并确认结果后，再退款",
	EN:   "not supported yet: cancel at the warehouse. The order is not cancelled; refund it only when the warehouse says that it is",
}

// CancelRequested answers at once that nothing was cancelled, also for a paused seller.
func (p *Pusher) CancelRequested(ctx context.Context, _ *bus.Delivery, m *orderv1.CancelRequested) ([]event.Event, error) {
	about := cancelRef(m)
	// The answer does not wait for an unreachable ledger: its data only helps to find the document at the warehouse.
	if entry, err := p.Ledger.Get(ctx, order.Terms.Key(m.GetSeller(), m.GetOutboundNo())); err == nil {
		about.Shop, about.Warehouse, about.OrderNo, about.Revision, about.WarehouseNo = entry.Shop, entry.Warehouse, entry.Group, entry.Revision, entry.Number
	}
	return []event.Event{p.cancelUnknown(about, m, errCancelUnsupported)}, nil
}

// The rules of numbers and request ids; see order.v1.CancelRequested.
var (
	outboundNo = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)
	requestID  = regexp.MustCompile(`^[!-~]{1,100}$`)
)

// OnCancelReject answers a request that is readable but breaks a rule. One that does not name its order gets no answer; it is
// only a dead letter.
func (p *Pusher) OnCancelReject(_ *bus.Delivery, m *orderv1.CancelRequested, err error) []event.Event {
	if !event.ValidSeller(m.GetSeller()) || !outboundNo.MatchString(m.GetOutboundNo()) {
		return nil
	}
	return []event.Event{p.cancelUnknown(cancelRef(m), m, fault.ReasonOf(err, "internal"))}
}

func cancelRef(m *orderv1.CancelRequested) *documentv1.Ref {
	return &documentv1.Ref{Seller: m.GetSeller(), OutboundNo: m.GetOutboundNo(), Kind: order.Terms.Name, No: m.GetOutboundNo()}
}

func (p *Pusher) cancelUnknown(about *documentv1.Ref, m *orderv1.CancelRequested, why fault.Reason) event.Event {
	now, id := p.Now(), m.GetRequestId()
	if !requestID.MatchString(id) {
		id = why.Code // it would be part of a header
	}
	return event.OrderCancelUnknown.About(about.Seller, about.OutboundNo, now, &documentv1.CancelUnknown{
		Ref: about, At: timestamppb.New(now), RequestId: m.GetRequestId(), Reason: event.Reason(why),
	}, id)
}
