package jd

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	orderv1 "stockbridge/proto/order/v1"
)

// quotaRest is how long nothing is sent after code 2. That may last until tomorrow; asking once a minute is what JD can
// bear and what an operator can wait for.
const quotaRest = time.Minute

// unwritten says what a failed addOrder means. What is not certain to have had no effect is a fault.Unknown or a SaidNo.
func (w *Warehouse) unwritten(o *orderv1.Audited, err error) error {
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
	reason.RemoteText = withoutReceiver(reason.RemoteText, o.GetReceiver())
	switch {
	case !no.Before:
		return &warehouse.SaidNo{Reason: reason}
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

// mendable is the fault of a call that certainly had no effect and that works once somebody mended the set-up, or once
// time went by; nil for other failures.
func (w *Warehouse) mendable(err error) error {
	var no *jdapi.Error
	known := errors.As(err, &no)
	if errors.Is(err, jdapi.ErrToken) {
		if !known {
			no = &jdapi.Error{}
		}
		cause := seller.CauseToken(w.seller.Name(), w.account.Name)
		return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrToken, refusal(no, "warehouse.token",
			"京东不接受账号 "+w.account.Name+" 的授权（令牌、应用密钥），请重新授权；之后自动继续",
			"JD does not take the credential of account "+w.account.Name+" (token, application key and secret); authorise again, then it goes on by itself"), err))
	}
	switch {
	case !known:
		return nil
	case no.Class == jdapi.ClassQuota:
		return fault.RetryAfter(quotaRest, fmt.Errorf("%w: %w", refusal(no, "warehouse.quota",
			"京东的调用额度已用完，稍后自动继续", "JD's call budget is used up; it goes on by itself"), err))
	case no.Class == jdapi.ClassPermission && no.Before:
		return w.notPermitted(no, err)
	default:
		return nil
	}
}

func (w *Warehouse) notPermitted(no *jdapi.Error, err error) error {
	cause := seller.CausePermission(w.seller.Name(), w.account.Name)
	return fault.Hold(cause, fmt.Errorf("%w: %w: %w", warehouse.ErrNotPermitted, refusal(no, "warehouse.permission",
		"京东没有授予账号 "+w.account.Name+" 所需的接口权限，请在京东开通", "JD does not grant account "+w.account.Name+" a permission that is needed; have it granted at JD"), err))
}

func refusal(no *jdapi.Error, code, zh, en string) fault.Reason {
	return fault.Reason{Code: code, ZH: zh, EN: en, RemoteCode: no.Code, RemoteText: no.Text}
}

// absences are the words by which JD may say that it has no such order. Nobody published them (§15): the stock query's
// sentence for its end (§9.2) is the only one known, so these are its words and their neighbours.
var absences = []string{"信息为空", "结果为空", "数据为空", "查询为空", "未查询到", "没有查询到", "查询不到", "查不到", "未找到", "无数据", "订单不存在", "出库单不存在", "单号不存在", "单据不存在"}

// saysNone tells whether err is JD saying in a sentence that it has none of what was asked for. Anything else is no
// proof of absence: on it hangs whether an order is sent again.
func saysNone(err error) bool {
	var no *jdapi.Error
	if !errors.As(err, &no) || no.Class != jdapi.ClassBusiness {
		return false
	}
	for _, words := range absences {
		if strings.Contains(no.Text, words) {
			return true
		}
	}
	return false
}

// withoutReceiver takes the receiver's data out of JD's words, which quote it at times and go to logs and operators.
func withoutReceiver(text string, r *orderv1.Receiver) string {
	for _, personal := range []string{r.GetAddress(), r.GetMobile(), r.GetPhone(), r.GetEmail(), r.GetName()} {
		if utf8.RuneCountInString(personal) > 1 {
			text = strings.ReplaceAll(text, personal, "***")
		}
	}
	return text
}
