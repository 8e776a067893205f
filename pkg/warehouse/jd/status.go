package jd

import (
	"cmp"

	"stockbridge/pkg/personal"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	orderv1 "stockbridge/proto/order/v1"
)

type step struct {
	status orderv1.Status
	// text is JD's, for answers that bring none; "" where it is not known.
	text string
}

// steps are JD's codes by its list of 2026-08, with marks of confidence: A several ERPs decide on it, B JD's list or one
// source, C an inference. The codes are names: their order as numbers means nothing. A code that is not here, or that has no
// status, is passed on without a word of ours. A waybill says nothing of shipping: it is there from 100130 on.
var steps = map[string]step{
	"10009":  {orderv1.Status_STATUS_RECEIVED, ""},           // C, not in JD's list
	"10010":  {orderv1.Status_STATUS_RECEIVED, "订单初始化"},      // B
	"100130": {orderv1.Status_STATUS_RECEIVED, "预分拣-获取运单"},   // B
	"100131": {orderv1.Status_STATUS_RECEIVED, ""},           // C, not in JD's list
	"100132": {orderv1.Status_STATUS_RECEIVED, ""},           // C, not in JD's list
	"10014":  {orderv1.Status_STATUS_RECEIVED, "已下发库房"},      // B
	"10015":  {orderv1.Status_STATUS_PICKING, "任务已分配"},       // B
	"10016":  {orderv1.Status_STATUS_PICKING, "拣货下架"},        // B
	"10017":  {orderv1.Status_STATUS_CHECKED, "复核"},          // B
	"10018":  {orderv1.Status_STATUS_PACKED, "货品已打包"},        // A
	"10019":  {orderv1.Status_STATUS_SHIPPED, "交接发货"},        // A
	"10020":  {orderv1.Status_STATUS_SHIPPED, "包裹出库"},        // B
	"10027":  {orderv1.Status_STATUS_CANCELLING, "取消中"},      // B
	"10028":  {orderv1.Status_STATUS_CANCELLED, "取消成功"},      // A
	"10029":  {orderv1.Status_STATUS_CANCEL_REFUSED, "取消失败"}, // A
	"10031":  {orderv1.Status_STATUS_RETURNING, "订单拉回"},      // B
	"10032":  {orderv1.Status_STATUS_IN_TRANSIT, "分拣验收"},     // B
	"10033":  {orderv1.Status_STATUS_IN_TRANSIT, "站点验收"},     // B
	"10034":  {orderv1.Status_STATUS_DELIVERED, "妥投"},        // B
	"10035":  {orderv1.Status_STATUS_REJECTED, "拒收"},         // B
	"10036":  {orderv1.Status_STATUS_RETURNING, "逆向验收"},      // B
	"10037":  {orderv1.Status_STATUS_RETURNING, "逆向发货"},      // C
	"10038":  {orderv1.Status_STATUS_RETURNED, "逆向完成"},       // C
	"10050":  {orderv1.Status_STATUS_UNSPECIFIED, "采购完成"},    // B, of VMI
	"10051":  {orderv1.Status_STATUS_UNSPECIFIED, "采购异常"},    // B, of VMI
	"10054":  {orderv1.Status_STATUS_IN_TRANSIT, "分拣中心发货"},   // B
}

// stateOf is one of JD's codes in our words.
func stateOf(code, text, at jdapi.Text) warehouse.State {
	known := steps[string(code)]
	return warehouse.State{Status: known.status, Code: string(code), Text: cmp.Or(personal.Hide(string(text)), known.text), At: at.Time()}
}
