package order

import (
	"fmt"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
)

// ShadowWaiting holds an order that was audited before the switch-over and that the warehouse does not have.
func ShadowWaiting(sellerName, outboundNo string) error {
	return fault.Hold(seller.CauseShadow(sellerName, outboundNo), fault.Reason{
		Code: "shadow.waiting", Field: "outbound_no",
		ZH: "此订单在切换时刻之前审核，应由 ERP 原程序推送，但仓库中按此单号查不到；确认原程序没有推送且不会再推送后，人工放行即可由我们推送",
		EN: "audited before the switch-over, so the ERP's own program sends it, but the warehouse has nothing under this number; when that program has not sent it and never will, release it and we send it",
	})
}

// ShadowLine holds an order with a line of an order that was audited before the switch-over.
func ShadowLine(sellerName, no string) error {
	return fault.Hold(seller.CauseShadow(sellerName, no), fault.Reason{
		Code: "shadow.line", Field: "lines",
		ZH: fmt.Sprintf("商品行已包含在切换时刻之前审核的出库单 %s 中，由 ERP 原程序推送；请先在仓库取消该单，或确认原程序从未推送，然后放行", no),
		EN: fmt.Sprintf("a line is in delivery %s, audited before the switch-over and sent by the ERP's own program; cancel that at the warehouse, or make sure that it was never sent, then release this one", no),
	})
}

// ShadowOurs holds an order that was in the middle of being sent when its seller was put into shadow.
func ShadowOurs(sellerName, outboundNo string) error {
	return fault.Hold(seller.CauseShadow(sellerName, outboundNo), fault.Reason{
		Code: "shadow.ours", Field: "outbound_no",
		ZH: "进入影子模式时此订单正在推送，结果未知；请在仓库按单号核对", EN: "it was being sent when shadow mode began, with an unknown result: look it up at the warehouse by its number",
	})
}
