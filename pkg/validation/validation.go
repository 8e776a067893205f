// Package validation checks messages against the rules in their .proto files, and says in Chinese and English which
// field breaks which rule. It knows no message by name except in our own rules.
package validation

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/fault"
)

// Broken lists the rules that m breaks, each as a Reason with the given code and the path of the field; nil when it
// breaks none. It repeats no value: it may be somebody's name. A non-nil error is our own fault, in the rules
// themselves.
//
// When a list of m has more than twice the elements that it may have, that is the only reason: to list thousands of faults of
// one message would keep the others waiting.
func Broken(m proto.Message, code string) ([]fault.Reason, error) {
	if p := planOf(m.ProtoReflect().Descriptor()); p != nil {
		if long := p.overlong(m.ProtoReflect()); long != nil {
			reason := fault.Reason{Code: code, Field: string(long.fd.Name())}
			reason.ZH, reason.EN = textOf("repeated.max_items", "", strconv.Itoa(long.maxItems))
			return []fault.Reason{reason}, nil
		}
		if p.keeps(m.ProtoReflect()) {
			return nil, nil
		}
	}
	return interpreted(m, code)
}

// interpreted is Broken by protovalidate, which knows every rule and says all of them that are broken.
func interpreted(m proto.Message, code string) ([]fault.Reason, error) {
	err := protovalidate.Validate(m)
	if err == nil {
		return nil, nil
	}
	var violated *protovalidate.ValidationError
	if !errors.As(err, &violated) {
		return nil, fmt.Errorf("validate %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	broken := make([]fault.Reason, len(violated.Violations))
	for i, v := range violated.Violations {
		broken[i] = fault.Reason{Code: code, Field: protovalidate.FieldPathString(v.Proto.GetField())}
		broken[i].ZH, broken[i].EN = describe(v)
	}
	return broken, nil
}

// texts describe the rules that our .proto files use; # is the rule's limit. Without English the library's text is
// used.
var texts = map[string]struct{ zh, en string }{
	"required":           {"必填", "is required"},
	"string.min_len":     {"至少 # 个字符", "needs at least # characters"},
	"string.max_len":     {"最多 # 个字符", "takes at most # characters"},
	"repeated.min_items": {"至少 # 项", "needs at least # items"},
	"repeated.max_items": {"最多 # 项", "takes at most # items"},
	"enum.not_in":        {"必填", "is required"},
	"enum.defined_only":  {"不是允许的值", "is not one of the values that there are"},
	"int64.gt_lte":       {"应大于 #，且不超出允许范围", ""},
	"int64.gte":          {"不能小于 #", ""},
	"double.gte_lte":     {"超出允许范围", ""},
	"int32.gte_lte":      {"超出允许范围", ""},
	"secret.one":         {"file 与 env 必须且只能填一个", "exactly one of file and env is needed"},
	"line.goods":         {"goods_code 与 warehouse_goods_no 至少填一个", "goods_code or warehouse_goods_no is required"},
	"receiver.reach":     {"mobile 与 phone 至少填一个", "mobile or phone is required"},
}

// forms describe the regular expressions of our .proto files: a publisher of orders should not have to read one.
var forms = map[string]struct{ zh, en string }{
	`^[a-z0-9_-]{1,32}$`: {
		"只能用小写字母、数字、_ 和 -，1 到 32 个字符", "must be small letters, digits, _ and -, 1 to 32 of them"},
	`^[A-Za-z0-9_-]+$`: {
		"只能用字母、数字、_ 和 -", "must be letters, digits, _ and -"},
	`^([0-9]{1,9}(\.[0-9]{1,2}0{0,8})?)?$`: {
		"应为金额文本，最多两位小数，如 \"128.00\"", "must be an amount as text with at most two decimal places, such as \"128.00\""},
	`^[0-9]{1,3}(\.[0-9]{1,2})?$`: {
		"应为 0 到 999 的数，最多两位小数", "must be a number up to 999 with at most two decimal places"},
	`^([0-9]{1,3}(\.[0-9]{1,2})?)?$`: {
		"应为 0 到 999 的数，最多两位小数", "must be a number up to 999 with at most two decimal places"},
	`^[!-~]+$`: {"只能用可见的 ASCII 字符，不含空格", "must be visible ASCII characters without blanks"},
	`^[^,]+$`:  {"必填，且不能包含逗号", "is required, without commas"},
	`^[^,]*$`:  {"不能包含逗号", "must have no commas"},
	`^([0-9]{4}-[0-9]{2}-[0-9]{2})?$`: {
		"应为日期，如 \"2026-03-05\"", "must be a date, such as \"2026-03-05\""},
}

// describe describes a broken rule in both languages.
func describe(v *protovalidate.Violation) (zh, en string) {
	id := v.Proto.GetRuleId()
	if id == "string.pattern" {
		form, known := forms[fmt.Sprint(v.RuleValue.Interface())]
		if !known {
			return "格式不正确", "is not of the form that is wanted"
		}
		return form.zh, form.en
	}
	limit := ""
	if v.RuleValue.IsValid() {
		limit = fmt.Sprint(v.RuleValue.Interface())
	}
	return textOf(id, v.Proto.GetMessage(), limit)
}

// textOf is the text of a rule: message where we have none of our own. limit is "" for a rule without one.
func textOf(id, message, limit string) (zh, en string) {
	text, known := texts[id]
	if !known {
		return message, message
	}
	text.en = cmp.Or(text.en, message)
	if limit != "" {
		text.zh, text.en = strings.ReplaceAll(text.zh, "#", limit), strings.ReplaceAll(text.en, "#", limit)
	}
	return text.zh, text.en
}
