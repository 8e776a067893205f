package jd

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
)

// quotaRest is how long nothing is sent after code 2. That may last until tomorrow (§1.6); asking once a minute is what JD
// can bear and what an operator can wait for.
const quotaRest = time.Minute

// unwritten says what a failed addOrder means. What is not certain to have had no effect is a fault.Unknown or a SaidNo.
func (w *Warehouse) unwritten(err error) error {
	var limited *jdapi.Error
	if errors.As(err, &limited) && limited.Class == jdapi.ClassQuota {
		// §11.2 does not list code 2 among those that prove a refusal before processing, so the order is asked for.
		// Our own limiter keeps this rare, and the breaker pauses a seller on a run of them (§13, rule 10).
		return fault.Unknown(quotaUsedUp(limited, err))
	}
	if mended := w.mendable(err); mended != nil {
		return mended
	}
	var no *jdapi.Error
	switch {
	case errors.Is(err, jdapi.ErrNotSent):
		return err
	case !errors.As(err, &no), no.Class == jdapi.ClassTransient:
		return fault.Unknown(err)
	case no.Class == jdapi.ClassClock:
		return err
	}
	reason := refusal(no, "warehouse.refused",
		"仓库拒绝了订单，请按其说明修改后重新审核", "the warehouse refused the order; mend what it says and audit again")
	switch {
	case !no.Before:
		return &warehouse.SaidNo{Reason: reason, Data: faultOfData(no.Text)}
	case no.Class == jdapi.ClassData:
		reason.Code = "warehouse.refused.data"
	default:
		reason.Code = "warehouse.refused.request"
	}
	return fault.Permanent(reason)
}

// unread says what a failed question means. It never speaks about the order: not to be allowed to ask, or to be
// answered with an error, tells nothing about what JD has.
func (w *Warehouse) unread(err error) error {
	if mended := w.mendable(err); mended != nil {
		return mended
	}
	var no *jdapi.Error
	if errors.As(err, &no) && no.Class == jdapi.ClassPermission {
		return w.notPermitted(no, err)
	}
	return err
}

// mendable is the fault of a call that certainly had no effect, or only asked, and that works once somebody mended the
// set-up or once time went by; nil for other failures.
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
	case !known:
		return nil
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

func refusal(no *jdapi.Error, code, zh, en string) fault.Reason {
	return fault.Reason{Code: code, ZH: zh, EN: en, RemoteCode: no.Code, RemoteText: no.Text}
}

// absence is how JD may say that it has no such order. Nobody published its words (§15): the sentence that ends the stock
// flow (§9.2) is the only one known, so these are its words and their neighbours. It has to be the order that is not
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
