package order

import (
	"fmt"
	"slices"
	"strings"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
)

// HeldTooLong is why a held order became a dead letter.
var HeldTooLong = fault.Reason{
	Code: "held.expired",
	ZH:   "等待的原因过久未消除，已转入死信；请重放或丢弃，再过同样时间后将被删除",
	EN:   "it was held too long, so it is a dead letter now: replay or drop it; after as long again it is erased",
}

// Reused is the fault of an order whose outbound number was claimed with another content.
func Reused(o *orderv1.Audited) error {
	return fault.Permanent(fault.Reason{
		Code: "outbound.reused", Field: "outbound_no",
		ZH: "出库单号 " + o.OutboundNo + " 已用于内容不同的订单，本次内容不会推送；内容有改动时必须使用新的出库单号",
		EN: "outbound number " + o.OutboundNo + " was used with another content; this one is not sent. A changed order needs a new outbound number",
	})
}

// LiveText says that an order is live, and where it stands.
func LiveText(entry ledger.Entry) (zh, en string) {
	switch {
	case entry.State == ledger.Accepted && entry.Number != "":
		return "此前以该单号推送的订单仍然有效，仓库单号 " + entry.Number + "，不受影响",
			"the order that was sent under this number before is live at the warehouse as " + entry.Number + " and is not affected"
	case entry.State == ledger.Accepted:
		return "此前以该单号推送的订单仍然有效，仓库已接单，不受影响", "the order that was sent under this number before is live at the warehouse and is not affected"
	}
	return "此前以该单号推送的订单正在推送，结果尚未确定，不受影响", "the order that was sent under this number before is being sent with no known result yet; it is not affected"
}

// Cancelled is the fault of a new audit under the number of an order that the warehouse cancelled.
func Cancelled(o *orderv1.Audited) error {
	return fault.Permanent(fault.Reason{
		Code: "outbound.cancelled", Field: "outbound_no",
		ZH: "出库单号 " + o.OutboundNo + " 的单据已在仓库取消；重新审核必须使用新的出库单号",
		EN: "the warehouse's document under outbound number " + o.OutboundNo + " is cancelled; a new audit needs a new outbound number",
	})
}

// Superseding is the fault of an order that supersedes one that has not ended.
func Superseding(o *orderv1.Audited) error { return waitsFor(o, o.Supersedes) }

func waitsFor(o *orderv1.Audited, no string) error {
	return fault.Hold(seller.CauseCancel(o.Seller, no), fault.Reason{
		Code: "superseded.live", Field: "supersedes",
		ZH: "等待被替换的出库单 " + no + " 取消或被拒绝，之后自动继续",
		EN: "waits until the superseded " + no + " is cancelled or refused; then it continues automatically",
	})
}

// Elsewhere is the fault of an order that depends on the document under number no. That one was sent under the identity
// then and is not resolved, while the set-up's identity is now.
func Elsewhere(o *orderv1.Audited, no, then, now string) error {
	return fault.Hold(seller.CauseIdentity(o.Seller, no), fault.Reason{
		Code: "account.changed", Field: "warehouse",
		ZH: fmt.Sprintf("出库单 %s 是以原账号 %s 推送的，结果尚未确认；现在的设置为 %s，在此查不到不代表不存在。恢复原设置后自动继续；或在原账号下确认没有该单据（或已取消）后放行", no, then, now),
		EN: fmt.Sprintf("%s was sent under the earlier account %s and is not resolved; today's set-up is %s, where not finding it proves nothing. Restore the earlier set-up, then it continues automatically; or release it after checking that the earlier account has no such document, or that it is cancelled there", no, then, now),
	})
}

// Forgotten is the fault of an order of which the ledger lost whether it was sent, and under which account.
func Forgotten(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseFormer(o.Seller, o.OutboundNo), fault.Reason{
		Code: "account.forgotten", Field: "warehouse",
		ZH: "订单审核之后商家账号有过变更，而账本丢失了它是否已以原账号推送的记录；在现账号下查不到不代表不存在。请在原账号下确认没有该出库单（或已取消）后放行",
		EN: "the seller's account changed after this order was audited, and the ledger lost the record of whether it was sent under the earlier one; not finding it under today's account proves nothing. Release it after checking that the earlier account has no such document, or that it is cancelled there",
	})
}

// maxDifferences limits the differences that a reason lists.
const maxDifferences = 5

// Foreign is the fault of an order whose number is that of another order's document at the warehouse.
func Foreign(o *orderv1.Audited, warehouseNo string, differences []*orderv1.Difference) error {
	var zh, en []string
	for _, d := range differences[:min(len(differences), maxDifferences)] {
		values := ""
		if !strings.HasPrefix(d.Field, "receiver") {
			values = fmt.Sprintf(" (%s | %s)", d.Ours, d.Theirs)
		}
		zh, en = append(zh, d.Field+values+" "+d.Zh), append(en, d.Field+values+" "+d.En)
	}
	return fault.Hold(seller.CauseOperator(o.Seller, o.OutboundNo), fault.Reason{
		Code: "warehouse.foreign", Field: "outbound_no", RemoteText: warehouseNo,
		ZH: "仓库中此出库单号的单据与本订单不符：" + strings.Join(zh, "；") + "。请核对：确为本订单则放行，否则请用新的出库单号重新审核",
		EN: "the warehouse's document under this outbound number is another order's: " + strings.Join(en, "; ") + ". Compare both: release it if it is this order's all the same, else audit again under a new outbound number",
	})
}

// LineTaken is the fault of an order with a line that is live under another number. claimed says whether the number that it
// supersedes was ever claimed: if not, that one may itself wait for the end of an earlier audit, and what replaces it waits
// for the same.
func LineTaken(o *orderv1.Audited, lineID string, by ledger.Entry, claimed bool) error {
	if by.Key.No == o.Supersedes || o.Supersedes != "" && !claimed && by.Revision < o.Revision {
		return waitsFor(o, by.Key.No)
	}
	return LineLive(o, lineID, by.Key.No)
}

// Claimed reports whether one of the entries is the order under the number, and was claimed.
func Claimed(entries []ledger.Entry, no string) bool {
	return slices.ContainsFunc(entries, func(e ledger.Entry) bool { return e.Key.No == no && e.Key.Kind == Kind && e.State != ledger.New })
}

// LineLive is the fault of an order with a line that is live under the outbound number by.
func LineLive(o *orderv1.Audited, lineID, by string) error {
	field := "lines"
	if i := slices.IndexFunc(o.Lines, func(l *orderv1.Line) bool { return l.LineId == lineID }); i >= 0 {
		field = fmt.Sprintf("lines[%d]", i)
	}
	return fault.Permanent(fault.Reason{
		Code: "line.live", Field: field,
		ZH: "商品行 " + lineID + " 已随出库单 " + by + " 推送；请先取消该出库单",
		EN: "line " + lineID + " is live under outbound number " + by + "; cancel that first",
	})
}

// SharedNote is the code of Shared's note.
const SharedNote = "platform_order.shared"

// Shared is the note that another order has a platform's number of this one: the same purchase may be in the ERP twice.
func Shared(o *orderv1.Audited, with ledger.Sharing) fault.Reason {
	return fault.Reason{
		Code: "platform_order.shared", Field: fmt.Sprintf("platform_order_nos[%d]", slices.Index(o.PlatformOrderNos, with.PlatformNo)),
		ZH: "平台单号 " + with.PlatformNo + " 也在订单 " + with.Group + "（出库单 " + with.No + "）中；请核实是否重复发货",
		EN: "platform order " + with.PlatformNo + " is also in order " + with.Group + " (outbound " + with.No + "); check that it does not ship twice",
	}
}

// NumberTaken is the fault of an order for which the warehouse answered with the number of another order of the seller's: it
// proves nothing about this one. A person asks the warehouse, then a replay looks this order up first.
func NumberTaken(taken *ledger.NumberTaken) error {
	return fault.Permanent(fault.Reason{
		Code: "warehouse.number.taken", Field: "outbound_no", RemoteText: taken.Number,
		ZH: "仓库为此订单返回的单号 " + taken.Number + " 属于出库单 " + taken.By + "，不能证明此订单已被接收；请与仓库核对后重放 (dlq replay)，重放时会先查询",
		EN: "the warehouse answered with number " + taken.Number + ", which belongs to " + taken.By + " and does not prove that it has this order; ask the warehouse, then replay it (dlq replay): it is looked up first",
	})
}

// Duplicate is the fault of one outbound number with several documents. It must never go unnoticed.
func Duplicate(number string, others []string) error {
	return fault.Permanent(fault.Reason{
		Code: "warehouse.twice", Field: "outbound_no", RemoteText: fmt.Sprint(append([]string{number}, others...)),
		ZH: "仓库中同一出库单号有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this outbound number; have all but one cancelled at once",
	})
}

// ShadowWaiting holds an order that was audited before the switch-over and that the warehouse does not have.
func ShadowWaiting(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseShadow(o.Seller, o.OutboundNo), fault.Reason{
		Code: "shadow.waiting", Field: "outbound_no",
		ZH: "此订单在切换时刻之前审核，应由 ERP 原程序推送，但仓库中按此单号查不到；确认原程序没有推送且不会再推送后，人工放行即可由我们推送",
		EN: "audited before the switch-over, so the ERP's own program sends it, but the warehouse has nothing under this number; when that program has not sent it and never will, release it and we send it",
	})
}

// ShadowLine holds an order with a line of an order that was audited before the switch-over.
func ShadowLine(o *orderv1.Audited, no string) error {
	return fault.Hold(seller.CauseShadow(o.Seller, no), fault.Reason{
		Code: "shadow.line", Field: "lines",
		ZH: fmt.Sprintf("商品行已包含在切换时刻之前审核的出库单 %s 中，由 ERP 原程序推送；请先在仓库取消该单，或确认原程序从未推送，然后放行", no),
		EN: fmt.Sprintf("a line is in delivery %s, audited before the switch-over and sent by the ERP's own program; cancel that at the warehouse, or make sure that it was never sent, then release this one", no),
	})
}

// ShadowOurs holds an order that was in the middle of being sent when its seller was put into shadow.
func ShadowOurs(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseShadow(o.Seller, o.OutboundNo), fault.Reason{
		Code: "shadow.ours", Field: "outbound_no",
		ZH: "进入影子模式时此订单正在推送，结果未知；请在仓库按单号核对", EN: "it was being sent when shadow mode began, with an unknown result: look it up at the warehouse by its number",
	})
}
