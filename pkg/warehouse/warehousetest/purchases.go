package warehousetest

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	purchasev1 "stockbridge/proto/purchase/v1"
)

// Purchase is a purchase order that a warehouse under test accepts: of seller acme, warehouse W01, supplier TEA, with a
// line of 10 good pieces and one of 4 defective pieces.
func Purchase(no string) *purchasev1.Audited {
	return &purchasev1.Audited{
		Seller: "acme", Warehouse: "W01", No: no, Revision: 1, Supplier: "TEA",
		AuditedAt: timestamppb.New(time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC)),
		Lines: []*purchasev1.Line{
			{LineId: "1", GoodsCode: "SKU-1", Name: "Tea", Quantity: 10},
			{LineId: "2", GoodsCode: "SKU-2", Name: "Cup", Quantity: 4, Grade: purchasev1.Grade_GRADE_DEFECTIVE},
		},
	}
}
