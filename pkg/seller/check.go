package seller

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/personal"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Unknown is the error for work of a seller that was never applied.
func Unknown(name string) error {
	return fault.Hold(CauseUnknown(name), fault.Reason{
		Code: "seller.unknown", Field: "seller",
		ZH: fmt.Sprintf("没有商家 %s 的设置，请先执行 bridgectl seller apply", name),
		EN: fmt.Sprintf("seller %s is not set up: run bridgectl seller apply", name),
	})
}

// Paused is the error for work of s while it is paused, nil when it is not.
func (s *Seller) Paused() error {
	if s.Pause == nil {
		return nil
	}
	return fault.Hold(CausePause(s.Name()), fault.Reason{
		Code: "seller.paused", Field: "seller",
		ZH: fmt.Sprintf("商家 %s 已暂停，恢复后自动继续：%s", s.Name(), s.Pause.Reason),
		EN: fmt.Sprintf("seller %s is paused and continues when it is resumed: %s", s.Name(), s.Pause.Reason),
	})
}

// Check returns the first of Findings that is not overruled; nil when the set-up can serve o. released are causes
// that an operator overruled for this order.
func (s *Seller) Check(o *orderv1.Audited, released ...string) error {
	return Overrule(s.Findings(o), released)
}

// Overrule returns the first of findings whose cause was not released.
func Overrule(findings []error, released []string) error {
	for _, err := range findings {
		overruled := false
		for _, r := range released {
			overruled = overruled || r != "" && r == fault.Cause(err)
		}
		if !overruled {
			return err
		}
	}
	return nil
}

// WarehouseFindings are all reasons why the set-up cannot serve documents for the warehouse with the ERP's code, each a
// fault.Hold as in Findings.
func (s *Seller) WarehouseFindings(code string) (found []error) {
	held := func(cause, id, zh, en string, args ...any) {
		found = append(found, fault.Hold(cause, fault.Reason{Code: id, Field: "warehouse", ZH: fmt.Sprintf(zh, args...), EN: fmt.Sprintf(en, args...)}))
	}
	w, known := s.Warehouse(code)
	if !known {
		held(CauseWarehouse(s.Name(), code), "warehouse.unknown",
			"商家设置中没有仓库 %s，请在 warehouses 中添加", "warehouse %s is not in the set-up: add it to warehouses", code)
		return found
	}
	if len(s.Twins) == 0 {
		return nil
	}
	account := w.Account
	if twin := s.Twins[s.IdentityOf(code)]; twin != "" {
		held(CauseTwin(s.Name(), account), "seller.twin",
			"账号 %[1]s 与商家 %[2]s 使用同一应用、事业部和 ERP 编号 (vendor_source)，双方会把对方的单据当作自己的；请合并为一个商家，或改用各自的编号",
			"account %[1]s has application, department and vendor source in common with seller %[2]s, so either takes the other's documents for its own; make one seller of both, or give each its own", account, twin)
	}
	return found
}

// Findings are all reasons why the set-up cannot serve o, nil when it can. Each is a fault.Hold with a fault.Reason,
// because the order continues automatically once the set-up is fixed; an operator's hold comes last.
//
// Pauses and trials are not part of it: they are not about the order.
func (s *Seller) Findings(o *orderv1.Audited) []error {
	var found []error
	held := func(cause, code, field, zh, en string, args ...any) {
		found = append(found, fault.Hold(cause, fault.Reason{Code: code, Field: field, ZH: fmt.Sprintf(zh, args...), EN: fmt.Sprintf(en, args...)}))
	}

	shop, shopKnown := s.Shop(o.Shop)
	if !shopKnown {
		held(CauseShop(s.Name(), o.Shop), "shop.unknown", "shop",
			"商家设置中没有店铺 %s，请在 shops 中添加", "shop %s is not in the set-up: add it to shops", o.Shop)
	}
	if shopKnown && shop.GetBooking() == sellerv1.Shop_BOOKING_FLOW {
		held(CauseBooking(s.Name(), o.Shop), "shop.booking", "shop",
			"店铺 %s 是京仓店铺 (booking: flow)：订单由仓库方自行抓取，推送会重复发货；如设置有误请修改 booking",
			"shop %s is booked from the flow: the warehouse takes its orders itself, and pushing one would ship it twice; change its booking if that is wrong", o.Shop)
	}
	found = append(found, s.WarehouseFindings(o.Warehouse)...)
	_, warehouseKnown := s.Warehouse(o.Warehouse)
	if shopKnown && warehouseKnown && !s.MayUse(o.Shop, o.Warehouse) {
		held(CauseShopWarehouse(s.Name(), o.Shop, o.Warehouse), "shop.warehouse", "warehouse",
			"店铺 %s 不允许使用仓库 %s，请在该店铺的 warehouses 中添加", "shop %s may not use warehouse %s: add it to the shop's warehouses", o.Shop, o.Warehouse)
	}
	if o.Carrier != "" {
		if _, ok := s.Carrier(o.Carrier); !ok {
			held(CauseCarrier(s.Name(), o.Carrier), "carrier.unmapped", "carrier",
				"物流公司 %s 没有对应的仓库方编码，请在 carriers 中添加", "carrier %s has no number at the warehouse: add it to carriers", o.Carrier)
		}
	}
	for i, line := range o.Lines {
		// The warehouse also accepts the ERP's own goods code, so it decides about a line without a category.
		if line.WarehouseGoodsNo != "" || line.Category == "" {
			continue
		}
		if _, ok := s.Category(line.Category); !ok {
			held(CauseCategory(s.Name(), line.Category), "category.unmapped", fmt.Sprintf("lines[%d].category", i),
				"分类 %s 没有对应的仓库方分类编码，请在 categories 中添加", "category %s has no number at the warehouse: add it to categories", line.Category)
		}
	}
	if o.Hold != nil {
		held(CauseHold(s.Name(), o.OutboundNo), "order.hold", "hold",
			"订单已挂起，等待人工放行：%s", "the order is on hold until an operator releases it: %s", holdReason(o))
	} else if shopKnown && shop.Hold != "" {
		held(CauseHold(s.Name(), o.OutboundNo), "shop.hold", "shop",
			"店铺 %[1]s 的订单均已挂起，等待人工放行：%[2]s", "all orders of shop %[1]s are on hold until an operator releases them: %[2]s", shop.Code, shop.Hold)
	}
	return found
}

// holdReason is the ERP's reason for a hold, for everybody to read: without the receiver's data.
func holdReason(o *orderv1.Audited) string {
	rest := proto.CloneOf(o)
	rest.Hold = nil
	return personal.Of(rest).Hide(o.Hold.Reason)
}
