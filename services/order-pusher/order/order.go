// Package order is what the pusher and shadow mode share about an order: its payload's hash, its claim in the ledger, the
// faults that it may have and the events about it. It calls neither a store nor a warehouse.
package order

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Kind is the kind of orders in the ledger.
const Kind = "order"

// Findings returns all that is wrong with an order before it is sent, and what would be sent: the same checks as Push.
func Findings(s *seller.Seller, wh warehouse.OrderPlanner, o *orderv1.Audited) (warehouse.Plan, []error) {
	plan := wh.PlanOrder(o)
	return plan, append(s.Findings(clean.Order(o).Order), plan.Findings...)
}

// ClaimRequest is the claim of a delivered order.
func ClaimRequest(d *bus.Delivery, o *orderv1.Audited, hash, owner string) ledger.ClaimRequest {
	lines := make([]string, len(o.Lines))
	for i, l := range o.Lines {
		lines[i] = l.LineId
	}
	return ledger.ClaimRequest{
		Key: ledger.Key{Seller: o.Seller, Kind: Kind, No: o.OutboundNo}, Hash: hash, Owner: owner,
		Group: o.OrderNo, Items: lines, Supersedes: o.Supersedes, PlatformNos: o.PlatformOrderNos, Revision: o.Revision, Shop: o.Shop, Warehouse: o.Warehouse,
		StreamTime: d.StreamTime, AuditedAt: o.AuditedAt.AsTime(), First: d.First && !d.Replay,
		Stream: d.Stream, Seq: d.Seq, Trace: d.Trace,
	}
}

// Ref names the order in events; number is the warehouse's.
func Ref(o *orderv1.Audited, number string) *documentv1.Ref {
	return &documentv1.Ref{
		Seller: o.GetSeller(), Shop: o.GetShop(), Warehouse: o.GetWarehouse(), OrderNo: o.GetOrderNo(),
		OutboundNo: o.GetOutboundNo(), Revision: o.GetRevision(), WarehouseNo: number, Kind: Kind, No: o.GetOutboundNo(),
	}
}

// HeldEvent is order.held.
func HeldEvent(o *orderv1.Audited, now time.Time, cause string, reason fault.Reason) event.Event {
	m := &documentv1.Held{Ref: Ref(o, ""), At: timestamppb.New(now), Cause: cause, Reason: event.Reason(reason)}
	return event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause)
}

// AcceptedEvent is order.accepted.
func AcceptedEvent(o *orderv1.Audited, number string, cleaned []ledger.Cleaned, at time.Time) event.Event {
	m := &documentv1.Accepted{Ref: Ref(o, number), At: timestamppb.New(at)}
	for _, c := range cleaned {
		if c.What == SharedNote {
			m.Notes = append(m.Notes, &documentv1.Reason{Code: c.What, Field: c.Field, Zh: c.ZH, En: c.EN})
			continue
		}
		m.Cleaned = append(m.Cleaned, &documentv1.Cleaned{Field: c.Field, What: c.What, Zh: c.ZH, En: c.EN})
	}
	for _, l := range o.Lines {
		m.Lines = append(m.Lines, &documentv1.AcceptedLine{
			LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity,
		})
	}
	return event.OrderAccepted.About(o.Seller, o.OutboundNo, at, m, event.Revision(o.Revision))
}
