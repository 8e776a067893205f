package jd

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	orderv1 "stockbridge/proto/order/v1"
)

// quotaPause is how long nothing is sent after code 2, which may last until the next day. One call a minute is little for
// JD and a short wait for an operator.
const quotaPause = time.Minute

// subject is what a call was about.
type subject struct {
	// zh and en say what to do when JD refuses it.
	zh, en string
	// numbers are those of the settings that JD was given, by kind. The department is in every call.
	numbers map[string]given
}

// given is a number of the settings, and the ERP's code that it stands for.
type given struct{ code, no string }

// aboutOrder is the subject of sending o.
func (w *Warehouse) aboutOrder(o *orderv1.Audited) subject {
	shop, _ := w.seller.Shop(o.GetShop())
	carrier, _ := w.seller.Carrier(o.GetCarrier())
	carrier = cmp.Or(carrier, ownShipper)
	return subject{
		"仓库拒绝了订单，请按其说明修改后重新审核", "the warehouse refused the order; fix what it names and audit again",
		map[string]given{
			seller.NumberShop:      {o.GetShop(), shop.GetShopNo()},
			seller.NumberWarehouse: {o.GetWarehouse(), w.no},
			seller.NumberCarrier:   {cmp.Or(o.GetCarrier(), carrier), carrier},
		},
	}
}

// writeError returns what a failed call that changes something at JD means. Unless it certainly had no effect, the result
// is a fault.Unknown or a Rejected.
func (w *Warehouse) writeError(about subject, err error) error {
	var limited *jdapi.Error
	if errors.As(err, &limited) && limited.Class == jdapi.ClassQuota {
		// Code 2 does not prove a refusal before processing, so the document has to be looked up. Our own limiter keeps this rare,
		// and the breaker pauses a seller after a run of them.
		return fault.Unknown(quotaUsedUp(limited, err))
	}
	if held := w.setupError(err); held != nil {
		return held
	}
	var no *jdapi.Error
	switch {
	case errors.Is(err, jdapi.ErrNotSent):
		return err
	case errors.As(err, &no) && no.Class == jdapi.ClassProgram: // a code that does not prove that nothing was done
		return &warehouse.Rejected{Reason: w.badCall(no), Cause: seller.CauseAccount(w.seller.Name(), w.account.Name)}
	case !errors.As(err, &no), no.Class == jdapi.ClassTransient:
		return fault.Unknown(err)
	case no.Class == jdapi.ClassClock:
		return err
	}
	reason := refusal(no, "warehouse.refused", about.zh, about.en)
	what := numberAtFault(no)
	if of, sent := about.numbers[what]; sent || what == seller.NumberDepartment {
		cause, number := w.numberReason(what, of)
		number.RemoteCode, number.RemoteText = reason.RemoteCode, reason.RemoteText
		if what == seller.NumberDepartment || no.Before {
			// Documents belong to departments: an unknown department has none.
			return fault.Hold(cause, number)
		}
		return &warehouse.Rejected{Reason: number, Cause: cause}
	}
	if !no.Before {
		return &warehouse.Rejected{Reason: reason, Data: faultOfData(no.Text)}
	}
	reason.Code = "warehouse.refused.data"
	return fault.Permanent(reason)
}

// readError returns what a failed query means. It says nothing about the order: a missing permission or an error does not
// show what JD has.
func (w *Warehouse) readError(err error) error {
	if held := w.setupError(err); held != nil {
		return held
	}
	var no *jdapi.Error
	switch {
	case !errors.As(err, &no):
	case no.Class == jdapi.ClassPermission:
		return w.notPermitted(no, err)
	case no.Class == jdapi.ClassProgram:
		return fault.Hold(seller.CauseAccount(w.seller.Name(), w.account.Name), fmt.Errorf("%w: %w", w.badCall(no), err))
	case numberAtFault(no) == seller.NumberDepartment:
		cause, reason := w.numberReason(seller.NumberDepartment, given{})
		reason.RemoteCode, reason.RemoteText = no.Code, no.Text
		return fault.Hold(cause, fmt.Errorf("%w: %w", reason, err))
	}
	return err
}

// setupError returns the fault of a call that will work after a change of the settings or after some time. The call
// certainly had no effect, or it was only a query, or the fault itself says that the outcome is unknown. It is nil for
// all other failures.
func (w *Warehouse) setupError(err error) error {
	var no *jdapi.Error
	known := errors.As(err, &no)
	if errors.Is(err, jdapi.ErrToken) {
		if !known {
			no = &jdapi.Error{}
		}
		cause := seller.CauseToken(w.seller.Name(), w.account.Name)
		reason := refusal(no, "warehouse.token",
			"京东不接受账号 "+w.account.Name+" 的授权（令牌、应用密钥），重新授权后自动继续",
			"JD does not accept the credential of account "+w.account.Name+" (token, application key and secret); authorise again, then it continues automatically")
		var known fault.Reason
		if errors.As(err, &known) { // the token's keeper knows the cause
			reason.ZH, reason.EN = known.ZH, known.EN
			if known.RemoteText != "" {
				reason.RemoteCode, reason.RemoteText = known.RemoteCode, known.RemoteText
			}
			return fault.Hold(cause, fmt.Errorf("%w: %w", warehouse.ErrToken, reason)) // err repeats the reason
		}
		return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrToken, reason, err))
	}
	switch {
	case errors.Is(err, jdapi.ErrAddress):
		return w.wrongAddress(err)
	case !known:
		return nil
	case no.Class == jdapi.ClassProgram && no.Before:
		return fault.Hold(seller.CauseAccount(w.seller.Name(), w.account.Name), fmt.Errorf("%w: %w", w.badCall(no), err))
	case no.Class == jdapi.ClassQuota:
		return fault.Throttle(quotaPause, quotaUsedUp(no, err))
	case no.Class == jdapi.ClassPermission && no.Before:
		return w.notPermitted(no, err)
	default:
		return nil
	}
}

func quotaUsedUp(no *jdapi.Error, err error) error {
	return fmt.Errorf("%w: %w", refusal(no, "warehouse.quota",
		"京东的调用额度已用完，稍后自动继续", "JD's call budget is used up; it continues automatically"), err)
}

func (w *Warehouse) notPermitted(no *jdapi.Error, err error) error {
	cause := seller.CausePermission(w.seller.Name(), w.account.Name)
	return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrNotPermitted, refusal(no, "warehouse.permission",
		"京东没有授予账号 "+w.account.Name+" 所需的接口权限，请在京东开放平台开通", "JD does not grant account "+w.account.Name+" a permission that is needed; have it granted at JD"), err))
}

// wrongAddress is the fault of a call to an address that is not JD's gateway. jdapi explains why such a call may have had
// an effect.
func (w *Warehouse) wrongAddress(err error) error {
	at := addressOf(w.account.GetUrl())
	reason := fault.Reason{
		Code: "warehouse.address", Field: "url",
		ZH: "账号 " + w.account.Name + " 的 url（" + at + "）不是京东网关的地址，京东的地址以 /routerjson 结尾；改正后自动继续",
		EN: "the url of account " + w.account.Name + " (" + at + ") is not that of JD's gateway, whose path ends in /routerjson; it continues automatically once that is fixed",
	}
	cause := seller.CauseAccount(w.seller.Name(), w.account.Name)
	if errors.Is(err, jdapi.ErrNotSent) {
		return fault.Hold(cause, fmt.Errorf("%w: %w", reason, err))
	}
	return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrOutcomeUnknown, reason, err))
}

// addressOf is host and path of an account's URL: the rest may be secret.
func addressOf(text string) string {
	u, err := url.Parse(cmp.Or(text, jdapi.Production))
	if err != nil {
		return "?"
	}
	return u.Host + u.Path
}

// badCall says that JD's gateway accepts no call of this account in this form.
func (w *Warehouse) badCall(no *jdapi.Error) fault.Reason {
	at := addressOf(w.account.GetUrl())
	return refusal(no, "warehouse.call",
		"京东网关不接受账号 "+w.account.Name+" 的调用方式：请核对 url（"+at+"）是否为 ECLP 网关、应用是否属于该平台，并向京东确认；恢复后自动继续",
		"JD's gateway does not take the calls of account "+w.account.Name+" as they are made: check url ("+at+", is it that of ECLP, and the application of the same platform?) and ask JD; it continues automatically")
}

func refusal(no *jdapi.Error, code, zh, en string) fault.Reason {
	return fault.Reason{Code: code, ZH: zh, EN: en, RemoteCode: no.Code, RemoteText: no.Text}
}

// Texts by which JD may refuse a number of the settings. JD does not publish them, so these are likely ones. They must be
// about the shop, warehouse, carrier, supplier or department itself: "店铺[S01]下商品不存在" is about goods.
var (
	unknownNumber = regexp.MustCompile(
		`(店铺|仓库|承运商|供应商|事业部)(编号|编码|信息|数据)?[\s:：]*[\[【(（“"']?[A-Za-z0-9_*-]*[\]】)）”"']?[\s，,]*(信息|数据)?` +
			`(不存在|不正确|未找到|找不到|没有找到|未查询到|查询不到|信息为空|已?被?(停用|禁用|关闭|冻结)|未启用|不可用|无效)`)
	notFoundNumber = regexp.MustCompile(
		`(未找到|找不到|没有找到|未查询到|查询不到|没有查询到|无效的?|不存在的?)(对应的?|相关的?|相应的?|该|此)?(店铺|仓库|承运商|供应商|事业部)(编号|编码|信息|数据)?` +
			`($|[\s，,。；;！!:：\[【(（“"'])`)
	parameterAtFault = regexp.MustCompile(`\[(shopNo|warehouseNo|whNo|shipperNo|supplierNo|departmentNo|deptNo)\]`)
)

// numberKinds maps JD's terms to the kinds of numbers in the settings.
var numberKinds = map[string]string{
	"店铺": seller.NumberShop, "仓库": seller.NumberWarehouse, "承运商": seller.NumberCarrier, "供应商": seller.NumberSupplier, "事业部": seller.NumberDepartment,
	"shopNo": seller.NumberShop, "warehouseNo": seller.NumberWarehouse, "whNo": seller.NumberWarehouse, "shipperNo": seller.NumberCarrier,
	"supplierNo": seller.NumberSupplier, "departmentNo": seller.NumberDepartment, "deptNo": seller.NumberDepartment,
}

// numberAtFault returns which number of the settings JD does not know or has disabled; "" for none.
func numberAtFault(no *jdapi.Error) string {
	switch no.Class {
	case jdapi.ClassBusiness:
		if said := unknownNumber.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[1]]
		}
		if said := notFoundNumber.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[3]]
		}
	case jdapi.ClassData:
		if said := parameterAtFault.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[1]]
		}
	}
	return ""
}

// numberNames are the Chinese names of what has a number, as merchants know them.
var numberNames = map[string]string{
	seller.NumberShop: "店铺", seller.NumberWarehouse: "仓库", seller.NumberCarrier: "物流公司", seller.NumberSupplier: "供应商", seller.NumberDepartment: "账号",
}

// numberReason returns cause and reason of a document of which JD does not accept a number. A department is the
// account's, whatever of is.
func (w *Warehouse) numberReason(what string, of given) (cause string, reason fault.Reason) {
	if what == seller.NumberDepartment {
		of = given{w.account.Name, w.account.Department}
	}
	return seller.CauseNumber(w.seller.Name(), what, of.code), fault.Reason{
		Code: "warehouse.number", Field: what,
		ZH: "京东不认识" + numberNames[what] + " " + of.code + " 的编号 " + of.no + "，或已停用；请核对设置（bridgectl seller doctor）或在京东启用，之后自动继续",
		EN: "JD does not know the number " + of.no + " of " + what + " " + of.code + ", or has disabled it; check the set-up (bridgectl seller doctor) or have it enabled at JD, then it continues automatically",
	}
}

// Texts by which JD may say that it has no such order, or no such purchase order.
var (
	noSuchOrder    = regexp.MustCompile(notFoundText(`订单|出库单|单据`))
	noSuchPurchase = regexp.MustCompile(notFoundText(`采购订单|采购单|入库单|单据`))
)

// notFoundText matches the texts by which JD may say that it has no such document. JD does not publish them. The sentence
// that ends the stock flow (docs/jd-api.md, Stock flow) is the only known one, so these are its words and similar ones.
// The text must be about the document, one of nouns, or the result of the query: "店铺不存在", "事业部信息为空" and "无数据权限"
// are about something else.
func notFoundText(nouns string) string {
	return `(` + nouns + `)(信息|数据|记录|结果|详情|明细)为空|` + from + `查询(结果|数据|信息)?为空|` + from + `(暂?无|没有)(相关)?(数据|记录|结果)` + to + `|` +
		`((未|没有|没)(查询|查|找)|(查询|查|找)不)到(` +
		`(任何|相关|对应的?|匹配的?|符合条件的)*(数据|记录|结果|信息)|[^，。；;]*(` + nouns + `|单号|[该此]单)(编?号)?(信息|数据|记录|详情|明细)?)` + to + `|` +
		`(` + nouns + `|(^|[^名])单)(编?号)?[\[【(（]?[A-Za-z0-9_,-]*[\]】)）]?不存在`
}

// Start and end of a clause.
const (
	from = `(^|[\s，,。；;：:])`
	to   = `($|[\s，,。；;！!])`
)

// says reports whether err is a business text of JD's that matches. noSuchOrder and noSuchPurchase say that JD has none of
// what was queried. Nothing else proves absence, and on absence depends whether an order is sent again.
func says(err error, text *regexp.Regexp) bool {
	var no *jdapi.Error
	return errors.As(err, &no) && no.Class == jdapi.ClassBusiness && no.Matches(text)
}
