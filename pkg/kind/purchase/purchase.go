// Package purchase is the row of purchase orders in the table of kinds: goods that a supplier brings to the warehouse. It
// calls neither a store nor a warehouse.
//
// # Why
//
// The ERP books what each purchase.received says. So a receipt must be published with the same content under the same id,
// however often the worker crashes on the way. The warehouse reports sums, which may have grown until they are read again.
// So what is about to be published is written into the ledger first, and published by the next reading.
package purchase

import (
	"slices"
	"strings"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// Terms are the names of purchase orders.
var Terms = kind.Terms{
	Name: "purchase", Field: "no", CodeWord: "purchase",
	ZH: "采购单", EN: "purchase order", NoZH: "采购单号", NoEN: "purchase number",
	RefusedZH: "货物到仓后请走采购退货", RefusedEN: "When the goods are in, return them to the supplier.",
	Topics: event.PurchaseOutcomes,
}

// Kind is purchase orders. They have no items, and nothing supersedes them.
var Kind = kind.Kind[*purchasev1.Audited, *purchasev1.Received]{
	Terms:           Terms,
	Audited:         event.PurchaseAudited,
	CancelRequested: event.PurchaseCancelRequested,
	Channel:         channel,
	Clean:           func(m *purchasev1.Audited) *purchasev1.Audited { return clean.Purchase(m).Purchase },
	Facts:           facts,
	Hash:            hash,
	Same: func(e ledger.Entry, m *purchasev1.Audited) bool {
		return e.Hash != "" && e.Hash == hash(clean.Purchase(m).Purchase)
	},
	Check: func(s *seller.Seller, m *purchasev1.Audited, released ...string) error {
		return seller.Overrule(s.WarehouseFindings(m.Warehouse), released)
	},
	TooLate:  func(s documentv1.Status) bool { return s == documentv1.Status_STATUS_COMPLETED },
	Progress: Progress,
}

func channel(wh warehouse.Identified) (warehouse.Channel[*purchasev1.Audited, *purchasev1.Received], bool) {
	p, ok := wh.(warehouse.Purchaser)
	if !ok {
		return nil, false
	}
	return p.Purchases(), true
}

func facts(m *purchasev1.Audited) kind.Facts {
	f := kind.Facts{
		Seller: m.GetSeller(), Warehouse: m.GetWarehouse(), No: m.GetNo(), Revision: m.GetRevision(), AuditedAt: m.GetAuditedAt().AsTime(),
		Lines:  make([]*documentv1.AcceptedLine, len(m.GetLines())),
		Served: map[string]string{seller.NumberSupplier: m.GetSupplier()},
	}
	for i, l := range m.GetLines() {
		f.Lines[i] = &documentv1.AcceptedLine{LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity}
	}
	return f
}

// hash is over what reaches the warehouse: lines in any order, an unspecified condition is good. Names of goods do not.
func hash(m *purchasev1.Audited) string {
	c := kind.NewContent()
	c.Texts(m.Seller, m.Warehouse, m.No, m.Supplier, m.Remark)
	lines := slices.SortedStableFunc(slices.Values(m.Lines), func(a, b *purchasev1.Line) int { return strings.Compare(a.LineId, b.LineId) })
	for _, l := range lines {
		grade := l.Grade
		if grade == purchasev1.Grade_GRADE_UNSPECIFIED {
			grade = purchasev1.Grade_GRADE_GOOD
		}
		c.Number(l.Quantity)
		c.Number(int64(grade))
		c.Texts(l.LineId, l.GoodsCode, l.WarehouseGoodsNo)
	}
	return c.Sum()
}
