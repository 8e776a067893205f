package jd

import (
	"cmp"

	"stockbridge/pkg/personal"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	documentv1 "stockbridge/proto/document/v1"
)

type step struct {
	status documentv1.Status
	// text is JD's, for answers without a text; "" if it is unknown.
	text string
}

// statuses are JD's codes, listed with their sources in docs/jd-api.md, Order status. The codes are names: their numeric
// order means nothing. A code that is not here, or has no status, is passed on without a status. A waybill does not mean
// shipped: it exists from 100130 on.
var statuses = map[string]step{
	"10009":  {documentv1.Status_STATUS_RECEIVED, ""}, // not in JD's list
	"10010":  {documentv1.Status_STATUS_RECEIVED, "订单初始化"},
	"100130": {documentv1.Status_STATUS_RECEIVED, "预分拣-获取运单"},
	"100131": {documentv1.Status_STATUS_RECEIVED, ""}, // not in JD's list
	"100132": {documentv1.Status_STATUS_RECEIVED, ""}, // not in JD's list
	"10014":  {documentv1.Status_STATUS_RECEIVED, "已下发库房"},
	"10015":  {documentv1.Status_STATUS_PICKING, "任务已分配"},
	"10016":  {documentv1.Status_STATUS_PICKING, "拣货下架"},
	"10017":  {documentv1.Status_STATUS_CHECKED, "复核"},
	"10018":  {documentv1.Status_STATUS_PACKED, "货品已打包"},
	"10019":  {documentv1.Status_STATUS_SHIPPED, "交接发货"},
	"10020":  {documentv1.Status_STATUS_SHIPPED, "包裹出库"},
	"10027":  {documentv1.Status_STATUS_CANCELLING, "取消中"},
	"10028":  {documentv1.Status_STATUS_CANCELLED, "取消成功"},
	"10029":  {documentv1.Status_STATUS_CANCEL_REFUSED, "取消失败"},
	"10031":  {documentv1.Status_STATUS_RETURNING, "订单拉回"},
	"10032":  {documentv1.Status_STATUS_IN_TRANSIT, "分拣验收"},
	"10033":  {documentv1.Status_STATUS_IN_TRANSIT, "站点验收"},
	"10034":  {documentv1.Status_STATUS_DELIVERED, "妥投"},
	"10035":  {documentv1.Status_STATUS_REJECTED, "拒收"},
	"10036":  {documentv1.Status_STATUS_RETURNING, "逆向验收"},
	"10037":  {documentv1.Status_STATUS_RETURNING, "逆向发货"},
	"10038":  {documentv1.Status_STATUS_RETURNED, "逆向完成"},
	"10050":  {documentv1.Status_STATUS_UNSPECIFIED, "采购完成"}, // of VMI
	"10051":  {documentv1.Status_STATUS_UNSPECIFIED, "采购异常"}, // of VMI
	"10054":  {documentv1.Status_STATUS_IN_TRANSIT, "分拣中心发货"},
}

// stateOf translates one of JD's codes of an order.
func stateOf(code, text, at jdapi.Text) warehouse.State { return stateIn(statuses, code, text, at) }

// stateIn translates one of JD's codes by a table.
func stateIn(table map[string]step, code, text, at jdapi.Text) warehouse.State {
	known := table[string(code)]
	return warehouse.State{Status: known.status, Code: string(code), Text: cmp.Or(personal.Hide(string(text)), known.text), At: at.Time()}
}
