// Package order is the row of sales orders in the table of kinds: their payload's hash, their items and texts. It calls
// neither a store nor a warehouse.
package order

import (
	"fmt"
	"slices"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Terms are the names of orders. An order's number is that of the delivery, its items are the lines of the ERP's order.
var Terms = kind.Terms{
	Name: "order", Field: "outbound_no", CodeWord: "outbound",
	ZH: "订单", EN: "order", NoZH: "出库单号", NoEN: "outbound number",
	RefusedZH: "请走退货流程", RefusedEN: "Use the return flow.",
	Topics: event.OrderOutcomes,
	Ref: func(ref *documentv1.Ref, group string) {
		ref.OrderNo, ref.OutboundNo = group, ref.No
	},
}

// Kind is sales orders.
var Kind = kind.Kind[*orderv1.Audited, *orderv1.Shipped]{
	Terms:   Terms,
	Audited: event.OrderAudited,
	Channel: channel,
	Clean:   func(o *orderv1.Audited) *orderv1.Audited { return clean.Order(o).Order },
	Facts:   Facts,
	Hash:    Hash,
	Same:    SamePayload,
	Check:   func(s *seller.Seller, o *orderv1.Audited, released ...string) error { return s.Check(o, released...) },

	Progress: Progress,
	Unread:   Unread,
	Further:  Further,
	PhaseOf:  PhaseOf,
}

func channel(wh warehouse.Identified) (warehouse.Channel[*orderv1.Audited, *orderv1.Shipped], bool) {
	o, ok := wh.(warehouse.Orderer)
	if !ok {
		return nil, false
	}
	return o.Orders(), true
}

// Facts are what push and ledger need of an order.
func Facts(o *orderv1.Audited) kind.Facts {
	f := kind.Facts{
		Seller: o.GetSeller(), Shop: o.GetShop(), Warehouse: o.GetWarehouse(), No: o.GetOutboundNo(), Revision: o.GetRevision(),
		Supersedes: o.GetSupersedes(), Group: o.GetOrderNo(), PlatformNos: o.GetPlatformOrderNos(), AuditedAt: o.GetAuditedAt().AsTime(),
		Items: make([]string, len(o.GetLines())), Lines: make([]*documentv1.AcceptedLine, len(o.GetLines())),
		Served: map[string]string{seller.NumberShop: o.GetShop()},
	}
	for i, l := range o.GetLines() {
		f.Items[i] = l.LineId
		f.Lines[i] = &documentv1.AcceptedLine{LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity}
	}
	if o.GetCarrier() != "" {
		f.Served[seller.NumberCarrier] = o.Carrier
	}
	return f
}

// ItemField is where the line stands in the order.
func ItemField(o *orderv1.Audited, lineID string) string {
	if i := slices.IndexFunc(o.Lines, func(l *orderv1.Line) bool { return l.LineId == lineID }); i >= 0 {
		return fmt.Sprintf("lines[%d]", i)
	}
	return "lines"
}

// Findings returns all that is wrong with an order before it is sent, and what would be sent: the same checks as a push.
func Findings(s *seller.Seller, wh warehouse.Planner[*orderv1.Audited], o *orderv1.Audited) (warehouse.Plan, []error) {
	plan := wh.Plan(o)
	return plan, append(s.Findings(clean.Order(o).Order), plan.Findings...)
}

// Claimed reports whether one of the entries is the order under the number, and was claimed.
func Claimed(entries []ledger.Entry, no string) bool {
	return slices.ContainsFunc(entries, func(e ledger.Entry) bool { return e.Key.No == no && e.Key.Kind == Terms.Name && e.State != ledger.New })
}

// Shared is the note that another order has a platform's number of this one: the same purchase may be in the ERP twice.
func Shared(o *orderv1.Audited, with ledger.Sharing) fault.Reason {
	return fault.Reason{
		Code: "platform_order.shared", Field: fmt.Sprintf("platform_order_nos[%d]", slices.Index(o.PlatformOrderNos, with.PlatformNo)),
		ZH: "平台单号 " + with.PlatformNo + " 也在订单 " + with.Group + "（出库单 " + with.No + "）中；请核实是否重复发货",
		EN: "platform order " + with.PlatformNo + " is also in order " + with.Group + " (outbound " + with.No + "); check that it does not ship twice",
	}
}
