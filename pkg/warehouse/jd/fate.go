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

// quotaRest is how long nothing is sent after code 2. That may last until tomorrow (docs/jd-api.md, Error codes); asking once a minute is what JD
// can bear and what an operator can wait for.
const quotaRest = time.Minute

// unwritten says what a failed addOrder means. What is not certain to have had no effect is a fault.Unknown or a Rejected.
func (w *Warehouse) unwritten(o *orderv1.Audited, err error) error {
	var limited *jdapi.Error
	if errors.As(err, &limited) && limited.Class == jdapi.ClassQuota {
		// Code 2 is not among those that prove a refusal before processing, so the order is asked for.
		// Our own limiter keeps this rare, and the breaker pauses a seller on a run of them.
		return fault.Unknown(quotaUsedUp(limited, err))
	}
	if mended := w.mendable(err); mended != nil {
		return mended
	}
	var no *jdapi.Error
	switch {
	case errors.Is(err, jdapi.ErrNotSent):
		return err
	case errors.As(err, &no) && no.Class == jdapi.ClassProgram: // one that does not prove that nothing was done
		return &warehouse.Rejected{Reason: w.misunderstood(no), Cause: seller.CauseAccount(w.seller.Name(), w.account.Name)}
	case !errors.As(err, &no), no.Class == jdapi.ClassTransient:
		return fault.Unknown(err)
	case no.Class == jdapi.ClassClock:
		return err
	}
	reason := refusal(no, "warehouse.refused",
		"仓库拒绝了订单，请按其说明修改后重新审核", "the warehouse refused the order; mend what it says and audit again")
	if what := numberAtFault(no); what != "" {
		cause, about := w.number(what, o)
		about.RemoteCode, about.RemoteText = reason.RemoteCode, reason.RemoteText
		if what == seller.NumberDepartment || no.Before {
			// Documents lie in departments: there is none in one that JD does not know.
			return fault.Hold(cause, about)
		}
		return &warehouse.Rejected{Reason: about, Cause: cause}
	}
	if !no.Before {
		return &warehouse.Rejected{Reason: reason, Data: faultOfData(no.Text)}
	}
	reason.Code = "warehouse.refused.data"
	return fault.Permanent(reason)
}

// unread says what a failed question means. It never speaks about the order: not to be allowed to ask, or to be
// answered with an error, tells nothing about what JD has.
func (w *Warehouse) unread(err error) error {
	if mended := w.mendable(err); mended != nil {
		return mended
	}
	var no *jdapi.Error
	switch {
	case !errors.As(err, &no):
	case no.Class == jdapi.ClassPermission:
		return w.notPermitted(no, err)
	case no.Class == jdapi.ClassProgram:
		return fault.Hold(seller.CauseAccount(w.seller.Name(), w.account.Name), fmt.Errorf("%w: %w", w.misunderstood(no), err))
	case numberAtFault(no) == seller.NumberDepartment:
		cause, reason := w.number(seller.NumberDepartment, nil)
		reason.RemoteCode, reason.RemoteText = no.Code, no.Text
		return fault.Hold(cause, fmt.Errorf("%w: %w", reason, err))
	}
	return err
}

// mendable is the fault of a call that works once somebody mended the set-up or once time went by, and that certainly had no
// effect, only asked, or says that it is unsure; nil for other failures.
func (w *Warehouse) mendable(err error) error {
	var no *jdapi.Error
	known := errors.As(err, &no)
	if errors.Is(err, jdapi.ErrToken) {
		if !known {
			no = &jdapi.Error{}
		}
		cause := seller.CauseToken(w.seller.Name(), w.account.Name)
		reason := refusal(no, "warehouse.token",
			"京东不接受账号 "+w.account.Name+" 的授权（令牌、应用密钥），重新授权后自动继续",
			"JD does not take the credential of account "+w.account.Name+" (token, application key and secret); authorise again, then it goes on by itself")
		var known fault.Reason
		if errors.As(err, &known) { // whoever keeps the token knows what is the matter with it
			reason.ZH, reason.EN = known.ZH, known.EN
			if known.RemoteText != "" {
				reason.RemoteCode, reason.RemoteText = known.RemoteCode, known.RemoteText
			}
			return fault.Hold(cause, fmt.Errorf("%w: %w", warehouse.ErrToken, reason)) // err says the same again
		}
		return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrToken, reason, err))
	}
	switch {
	case errors.Is(err, jdapi.ErrAddress):
		return w.elsewhere(err)
	case !known:
		return nil
	case no.Class == jdapi.ClassProgram && no.Before:
		return fault.Hold(seller.CauseAccount(w.seller.Name(), w.account.Name), fmt.Errorf("%w: %w", w.misunderstood(no), err))
	case no.Class == jdapi.ClassQuota:
		return fault.RetryAfter(quotaRest, quotaUsedUp(no, err))
	case no.Class == jdapi.ClassPermission && no.Before:
		return w.notPermitted(no, err)
	default:
		return nil
	}
}

func quotaUsedUp(no *jdapi.Error, err error) error {
	return fmt.Errorf("%w: %w", refusal(no, "warehouse.quota",
		"京东的调用额度已用完，稍后自动继续", "JD's call budget is used up; it goes on by itself"), err)
}

func (w *Warehouse) notPermitted(no *jdapi.Error, err error) error {
	cause := seller.CausePermission(w.seller.Name(), w.account.Name)
	return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrNotPermitted, refusal(no, "warehouse.permission",
		"京东没有授予账号 "+w.account.Name+" 所需的接口权限，请在京东开放平台开通", "JD does not grant account "+w.account.Name+" a permission that is needed; have it granted at JD"), err))
}

// elsewhere is the fault of a call to something that is not JD's gateway. jdapi says why what was sent there may have had an
// effect all the same.
func (w *Warehouse) elsewhere(err error) error {
	at := addressOf(w.account.GetUrl())
	reason := fault.Reason{
		Code: "warehouse.address", Field: "url",
		ZH: "账号 " + w.account.Name + " 的 url（" + at + "）不是京东网关的地址，京东的地址以 /routerjson 结尾；改正后自动继续",
		EN: "the url of account " + w.account.Name + " (" + at + ") is not that of JD's gateway, whose path ends in /routerjson; it goes on by itself when that is mended",
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

// misunderstood says that JD's gateway takes no call of this account as it is made.
func (w *Warehouse) misunderstood(no *jdapi.Error) fault.Reason {
	at := addressOf(w.account.GetUrl())
	return refusal(no, "warehouse.call",
		"京东网关不接受账号 "+w.account.Name+" 的调用方式：请核对 url（"+at+"）是否为 ECLP 网关、应用是否属于该平台，并向京东确认；恢复后自动继续",
		"JD's gateway does not take the calls of account "+w.account.Name+" as they are made: look at url ("+at+", is it that of ECLP, and the application of the same platform?) and ask JD; it goes on by itself")
}

func refusal(no *jdapi.Error, code, zh, en string) fault.Reason {
	return fault.Reason{Code: code, ZH: zh, EN: en, RemoteCode: no.Code, RemoteText: no.Text}
}

// What JD may say of the set-up's numbers. Its words are not published, so these are the likely ones. It has to be the shop,
// warehouse, carrier or department itself that is not there: "店铺[S01]下商品不存在" is about goods.
var (
	unknownNumber = regexp.MustCompile(
		`(店铺|仓库|承运商|事业部)(编号|编码|信息|数据)?[\s:：]*[\[【(（“"']?[A-Za-z0-9_*-]*[\]】)）”"']?[\s，,]*(信息|数据)?` +
			`(不存在|不正确|未找到|找不到|没有找到|未查询到|查询不到|信息为空|已?被?(停用|禁用|关闭|冻结)|未启用|不可用|无效)`)
	unfoundNumber = regexp.MustCompile(
		`(未找到|找不到|没有找到|未查询到|查询不到|没有查询到|无效的?|不存在的?)(对应的?|相关的?|相应的?|该|此)?(店铺|仓库|承运商|事业部)(编号|编码|信息|数据)?` +
			`($|[\s，,。；;！!:：\[【(（“"'])`)
	parameterAtFault = regexp.MustCompile(`\[(shopNo|warehouseNo|shipperNo|departmentNo)\]`)
)

// numberKinds are JD's words for what the set-up numbers.
var numberKinds = map[string]string{
	"店铺": seller.NumberShop, "仓库": seller.NumberWarehouse, "承运商": seller.NumberCarrier, "事业部": seller.NumberDepartment,
	"shopNo": seller.NumberShop, "warehouseNo": seller.NumberWarehouse, "shipperNo": seller.NumberCarrier, "departmentNo": seller.NumberDepartment,
}

// numberAtFault tells of which of the set-up's numbers JD says that it does not know it, or has disabled it; "" for none.
func numberAtFault(no *jdapi.Error) string {
	switch no.Class {
	case jdapi.ClassBusiness:
		if said := unknownNumber.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[1]]
		}
		if said := unfoundNumber.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[3]]
		}
	case jdapi.ClassData:
		if said := parameterAtFault.FindStringSubmatch(no.Text); said != nil {
			return numberKinds[said[1]]
		}
	}
	return ""
}

// number is the cause and the reason of an order whose shop, warehouse, carrier or department JD does not take.
func (w *Warehouse) number(what string, o *orderv1.Audited) (cause string, reason fault.Reason) {
	var code, number, field, zh string
	switch what {
	case seller.NumberShop:
		shop, _ := w.seller.Shop(o.GetShop())
		code, number, field, zh = o.GetShop(), shop.GetShopNo(), "shop", "店铺"
	case seller.NumberWarehouse:
		code, number, field, zh = o.GetWarehouse(), w.no, "warehouse", "仓库"
	case seller.NumberCarrier:
		no, _ := w.seller.Carrier(o.GetCarrier())
		number = cmp.Or(no, ownShipper)
		code, field, zh = cmp.Or(o.GetCarrier(), number), "carrier", "物流公司"
	default:
		code, number, field, zh = w.account.Name, w.account.Department, "department", "账号"
	}
	return seller.CauseNumber(w.seller.Name(), what, code), fault.Reason{
		Code: "warehouse.number", Field: field,
		ZH: "京东不认识" + zh + " " + code + " 的编号 " + number + "，或已停用；请核对设置（bridgectl seller doctor）或在京东启用，之后自动继续",
		EN: "JD does not know the number " + number + " of " + what + " " + code + ", or has disabled it; look at the set-up (bridgectl seller doctor) or have it enabled at JD, then it goes on by itself",
	}
}

// absence is how JD may say that it has no such order. Nobody published its words (unknown): the sentence that ends the stock
// flow (docs/jd-api.md, Stock flow) is the only one known, so these are its words and their neighbours. It has to be the order that is not
// there, or the answer to the question: "店铺不存在", "事业部信息为空" and "无数据权限" are about something else.
var absence = regexp.MustCompile(
	`(订单|出库单|单据)(信息|数据|记录|结果|详情|明细)为空|` + from + `查询(结果|数据|信息)?为空|` + from + `(暂?无|没有)(相关)?(数据|记录|结果)` + to + `|` +
		`((未|没有|没)(查询|查|找)|(查询|查|找)不)到(` +
		`(任何|相关|对应的?|匹配的?|符合条件的)*(数据|记录|结果|信息)|[^，。；;]*(订单|出库单|单据|单号|[该此]单)(编?号)?(信息|数据|记录|详情|明细)?)` + to + `|` +
		`(订单|出库单|单据|(^|[^名])单)(编?号)?[\[【(（]?[A-Za-z0-9_,-]*[\]】)）]?不存在`)

// Where a clause begins and ends.
const (
	from = `(^|[\s，,。；;：:])`
	to   = `($|[\s，,。；;！!])`
)

// saysNone tells whether err is JD saying in a sentence that it has none of what was asked for. Anything else is no
// proof of absence: on it hangs whether an order is sent again.
func saysNone(err error) bool {
	var no *jdapi.Error
	return errors.As(err, &no) && no.Class == jdapi.ClassBusiness && no.Says(absence)
}
