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

// steps is §5.10, with its marks of confidence: A several ERPs decide on it, B one source, C an inference. The codes are
// names: their order as numbers means nothing. A code that is not here is passed on without a word of ours.
var steps = map[string]step{
	"10009":  {orderv1.Status_STATUS_RECEIVED, ""},           // C, name not known
	"10010":  {orderv1.Status_STATUS_RECEIVED, "订单初始化"},      // B
	"100130": {orderv1.Status_STATUS_RECEIVED, ""},           // C, name not known
	"100131": {orderv1.Status_STATUS_RECEIVED, ""},           // C, name not known
	"100132": {orderv1.Status_STATUS_RECEIVED, ""},           // C, name not known
	"10014":  {orderv1.Status_STATUS_RECEIVED, "已下发库房"},      // B
	"10015":  {orderv1.Status_STATUS_PICKING, "任务已分配"},       // B
	"10016":  {orderv1.Status_STATUS_PICKING, "拣货下架"},        // B
	"10017":  {orderv1.Status_STATUS_CHECKED, "复核"},          // B
	"10018":  {orderv1.Status_STATUS_PACKED, "货品已打包"},        // A
	"10019":  {orderv1.Status_STATUS_SHIPPED, "交接发货"},        // A
	"10028":  {orderv1.Status_STATUS_CANCELLED, "取消成功"},      // A
	"10029":  {orderv1.Status_STATUS_CANCEL_REFUSED, "取消失败"}, // A
	"10033":  {orderv1.Status_STATUS_IN_TRANSIT, "站点验收"},     // B
	"10034":  {orderv1.Status_STATUS_DELIVERED, "妥投"},        // B
	"10035":  {orderv1.Status_STATUS_REJECTED, "拒收"},         // B
	"10037":  {orderv1.Status_STATUS_RETURNING, "逆向发货"},      // C
	"10038":  {orderv1.Status_STATUS_RETURNED, "逆向完成"},       // C
}

// stateOf is one of JD's codes in our words.
func stateOf(code, text, at jdapi.Text) warehouse.State {
	known := steps[string(code)]
	return warehouse.State{Status: known.status, Code: string(code), Text: cmp.Or(personal.Hide(string(text)), known.text), At: at.Time()}
}
