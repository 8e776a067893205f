package kind

import (
	"fmt"
	"strings"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
)

// SharedNote is the code of the note that another order has a platform's number of this one.
const SharedNote = "platform_order.shared"

// HeldTooLong is why a held document became a dead letter.
var HeldTooLong = fault.Reason{
	Code: "held.expired",
	ZH:   "等待的原因过久未消除，已转入死信；请重放或丢弃，再过同样时间后将被删除",
	EN:   "it was held too long, so it is a dead letter now: replay or drop it; after as long again it is erased",
}

// Reused is the fault of a document whose number was claimed with another content.
func (t Terms) Reused(no string) error {
	return fault.Permanent(fault.Reason{
		Code: t.CodeWord + ".reused", Field: t.Field,
		ZH: t.NoZH + " " + no + " 已用于内容不同的" + t.ZH + "，本次内容不会推送；内容有改动时必须使用新的" + t.NoZH,
		EN: t.NoEN + " " + no + " was used with another content; this one is not sent. A changed " + t.EN + " needs a new " + t.NoEN,
	})
}

// LiveText says that a document is live, and where it stands.
func (t Terms) LiveText(entry ledger.Entry) (zh, en string) {
	switch {
	case entry.State == ledger.Accepted && entry.Number != "":
		return "此前以该单号推送的" + t.ZH + "仍然有效，仓库单号 " + entry.Number + "，不受影响",
			"the " + t.EN + " that was sent under this number before is live at the warehouse as " + entry.Number + " and is not affected"
	case entry.State == ledger.Accepted:
		return "此前以该单号推送的" + t.ZH + "仍然有效，仓库已接单，不受影响", "the " + t.EN + " that was sent under this number before is live at the warehouse and is not affected"
	}
	return "此前以该单号推送的" + t.ZH + "正在推送，结果尚未确定，不受影响", "the " + t.EN + " that was sent under this number before is being sent with no known result yet; it is not affected"
}

// CancelledBefore is the fault of a new audit under the number of a document that the warehouse cancelled.
func (t Terms) CancelledBefore(no string) error {
	return fault.Permanent(fault.Reason{
		Code: t.CodeWord + ".cancelled", Field: t.Field,
		ZH: t.NoZH + " " + no + " 的单据已在仓库取消；重新审核必须使用新的" + t.NoZH,
		EN: "the warehouse's document under " + t.NoEN + " " + no + " is cancelled; a new audit needs a new " + t.NoEN,
	})
}

// WithdrawnBefore is the fault of a document that the ERP asked to cancel before it was sent.
func (t Terms) WithdrawnBefore(no string) error {
	return fault.Permanent(fault.Reason{
		Code: t.CodeWord + ".withdrawn", Field: t.Field,
		ZH: t.NoZH + " " + no + " 在推送前已请求取消，没有推送；重新审核必须使用新的" + t.NoZH,
		EN: t.NoEN + " " + no + " was to be cancelled before it was sent, so it is not sent; a new audit needs a new " + t.NoEN,
	})
}

// Superseding is the fault of a document that replaces the one under number no, which has not ended.
func (t Terms) Superseding(sellerName, no string) error {
	return fault.Hold(seller.CauseCancel(sellerName, t.CauseNo(no)), fault.Reason{
		Code: "superseded.live", Field: "supersedes",
		ZH: "等待被替换的" + t.DocZH() + " " + no + " 取消或被拒绝，之后自动继续",
		EN: "waits until the superseded " + no + " is cancelled or refused; then it continues automatically",
	})
}

// DocZH is how Chinese texts name the document before its number.
func (t Terms) DocZH() string { return strings.TrimSuffix(t.NoZH, "号") }

// Elsewhere is the fault of a document that depends on the one under number no. That one was sent under the identity then
// and is not resolved, while the set-up's identity is now.
func (t Terms) Elsewhere(sellerName, no, then, now string) error {
	return fault.Hold(seller.CauseIdentity(sellerName, t.CauseNo(no)), fault.Reason{
		Code: "account.changed", Field: "warehouse",
		ZH: fmt.Sprintf(t.DocZH()+" %s 是以原账号 %s 推送的，结果尚未确认；现在的设置为 %s，在此查不到不代表不存在。恢复原设置后自动继续；或在原账号下确认没有该单据（或已取消）后放行", no, then, now),
		EN: fmt.Sprintf("%s was sent under the earlier account %s and is not resolved; today's set-up is %s, where not finding it proves nothing. Restore the earlier set-up, then it continues automatically; or release it after checking that the earlier account has no such document, or that it is cancelled there", no, then, now),
	})
}

// Forgotten is the fault of a document of which the ledger lost whether it was sent, and under which account.
func (t Terms) Forgotten(sellerName, no string) error {
	return fault.Hold(seller.CauseFormer(sellerName, t.CauseNo(no)), fault.Reason{
		Code: "account.forgotten", Field: "warehouse",
		ZH: t.ZH + "审核之后商家账号有过变更，而账本丢失了它是否已以原账号推送的记录；在现账号下查不到不代表不存在。请在原账号下确认没有该" + t.DocZH() + "（或已取消）后放行",
		EN: "the seller's account changed after this " + t.EN + " was audited, and the ledger lost the record of whether it was sent under the earlier one; not finding it under today's account proves nothing. Release it after checking that the earlier account has no such document, or that it is cancelled there",
	})
}

// maxDifferences limits the differences that a reason lists.
const maxDifferences = 5

// Foreign is the fault of a document whose number is that of another one's document at the warehouse.
func (t Terms) Foreign(sellerName, no, warehouseNo string, differences []*orderv1.Difference) error {
	var zh, en []string
	for _, d := range differences[:min(len(differences), maxDifferences)] {
		values := ""
		if !strings.HasPrefix(d.Field, "receiver") {
			values = fmt.Sprintf(" (%s | %s)", d.Ours, d.Theirs)
		}
		zh, en = append(zh, d.Field+values+" "+d.Zh), append(en, d.Field+values+" "+d.En)
	}
	return fault.Hold(seller.CauseOperator(sellerName, t.CauseNo(no)), fault.Reason{
		Code: "warehouse.foreign", Field: t.Field, RemoteText: warehouseNo,
		ZH: "仓库中此" + t.NoZH + "的单据与本" + t.ZH + "不符：" + strings.Join(zh, "；") + "。请核对：确为本" + t.ZH + "则放行，否则请用新的" + t.NoZH + "重新审核",
		EN: "the warehouse's document under this " + t.NoEN + " is another " + t.EN + "'s: " + strings.Join(en, "; ") + ". Compare both: release it if it is this " + t.EN + "'s all the same, else audit again under a new " + t.NoEN,
	})
}

// ItemLive is the fault of a document with an item that is live under the number by; field is the item's in the document.
func (t Terms) ItemLive(item, field, by string) error {
	return fault.Permanent(fault.Reason{
		Code: "line.live", Field: field,
		ZH: "商品行 " + item + " 已随" + t.DocZH() + " " + by + " 推送；请先取消该" + t.DocZH(),
		EN: "line " + item + " is live under " + t.NoEN + " " + by + "; cancel that first",
	})
}

// ItemTaken is the fault of a document with an item that another one holds. claimed says whether the document that it
// supersedes was ever claimed: if not, that one may itself wait for the end of an earlier one, and what replaces it waits
// for the same.
func (t Terms) ItemTaken(f Facts, item, field string, by ledger.Entry, claimed bool) error {
	if by.Key.No == f.Supersedes || f.Supersedes != "" && !claimed && by.Revision < f.Revision {
		return t.Superseding(f.Seller, by.Key.No)
	}
	return t.ItemLive(item, field, by.Key.No)
}

// NotTaken is the fault of a document for a warehouse that takes none of its kind.
func (t Terms) NotTaken(sellerName, code string) error {
	return fault.Hold(seller.CauseWarehouse(sellerName, code), fault.Reason{
		Code: "warehouse.kind", Field: "warehouse",
		ZH: "仓库 " + code + " 的接口不支持" + t.ZH, EN: "warehouse " + code + " is of a kind that takes no " + t.EN,
	})
}

// NumberTaken is the fault of a document for which the warehouse answered with the number of another one of the seller's:
// it proves nothing about this one. A person asks the warehouse, then a replay looks this one up first.
func (t Terms) NumberTaken(taken *ledger.NumberTaken) error {
	return fault.Permanent(fault.Reason{
		Code: "warehouse.number.taken", Field: t.Field, RemoteText: taken.Number,
		ZH: "仓库为此" + t.ZH + "返回的单号 " + taken.Number + " 属于" + t.DocZH() + " " + taken.By + "，不能证明此" + t.ZH + "已被接收；请与仓库核对后重放 (dlq replay)，重放时会先查询",
		EN: "the warehouse answered with number " + taken.Number + ", which belongs to " + taken.By + " and does not prove that it has this " + t.EN + "; ask the warehouse, then replay it (dlq replay): it is looked up first",
	})
}

// Duplicate is the fault of one number with several documents. It must never go unnoticed.
func (t Terms) Duplicate(number string, others []string) error {
	return fault.Permanent(fault.Reason{
		Code: "warehouse.twice", Field: t.Field, RemoteText: fmt.Sprint(append([]string{number}, others...)),
		ZH: "仓库中同一" + t.NoZH + "有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this " + t.NoEN + "; have all but one cancelled at once",
	})
}

// FindForbidden is the fault of a document that may have been sent while the warehouse does not permit the look-up.
func (t Terms) FindForbidden(cause string) error {
	return fault.Hold(cause, fault.Reason{
		Code: "warehouse.find.forbidden",
		ZH:   "此" + t.ZH + "可能已推送，但仓库不允许按单号查询，无法确认；请为该商家开通查询权限，或人工确认后放行",
		EN:   "this " + t.EN + " may have been sent, but the warehouse does not permit this seller to look up by number; have the permission granted, or release it after checking by hand",
	})
}

// Unresolved is the fault of a document that may have been sent, where the warehouse finds none by the ERP's numbers: only
// a person can look there. why is how its sending ended.
func (t Terms) Unresolved(sellerName, no, why string) error {
	return fault.Hold(seller.CauseUnresolved(sellerName, t.CauseNo(no)), fault.Reason{
		Code: t.CodeWord + ".unresolved", Field: t.Field, RemoteText: why,
		ZH: "此" + t.ZH + "可能已推送，而仓库接口不能按" + t.NoZH + "查询，不会自动重发。请在暂缓一分钟之后，在仓库后台按 " + no + " 查找：有则登记仓库单号（bridgectl " + t.Name + " resolve " + sellerName + " " + no + " --number …），确认没有则登记不存在（--absent），之后自动继续",
		EN: "this " + t.EN + " may have been sent, and the warehouse cannot be asked by our number, so it is not sent again automatically. When it has been held for a minute, look for " + no + " at the warehouse: enter its number there (bridgectl " + t.Name + " resolve " + sellerName + " " + no + " --number …), or, when it is certainly not there, say so (--absent); then it continues",
	})
}

// OnTrial is the fault of a document of a seller on trial that is not among those to be sent.
func (t Terms) OnTrial(sellerName string) error {
	return fault.Hold(seller.CauseTrial(sellerName), fault.Reason{
		Code: "trial.waiting",
		ZH:   "试运行中：只有指定的" + t.ZH + "会真正推送；此" + t.ZH + "在试运行结束后自动继续",
		EN:   "the seller is on trial: only chosen " + t.EN + "s are really sent; this one continues when the trial ends",
	})
}

// ShadowMode is the fault of a document that was audited while another program sends the seller's documents, for a kind
// that is not compared in shadow mode.
func (t Terms) ShadowMode(sellerName, no string) error {
	return fault.Hold(seller.CauseShadow(sellerName, t.CauseNo(no)), fault.Reason{
		Code: "shadow.waiting", Field: t.Field,
		ZH: "此" + t.ZH + "在切换时刻之前审核，由 ERP 原程序推送，我们不推送；切换之后，确认原程序没有推送且不会再推送，人工放行即可由我们推送",
		EN: "audited before the switch-over, so the ERP's own program sends it and we do not; after the switch-over, when that program has not sent it and never will, release it and we send it",
	})
}
