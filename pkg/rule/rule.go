// Package rule holds messages to the rules that stand in their .proto files, and says in Chinese and English which
// field breaks which. It knows no message by name but for the rules that are ours.
package rule

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/fault"
)

// Broken lists the rules that m breaks, each as a Reason with the given code and the path of the field; nil when it
// breaks none. No value is repeated: it may be somebody's name. The error is a fault of ours, in the rules themselves.
func Broken(m proto.Message, code string) ([]fault.Reason, error) {
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
		broken[i] = fault.Reason{
			Code: code, Field: protovalidate.FieldPathString(v.Proto.GetField()), ZH: chinese(v), EN: v.Proto.GetMessage(),
		}
	}
	return broken, nil
}

// inChinese says the rules that our .proto files use; # is the rule's limit.
var inChinese = map[string]string{
	"required":           "必填",
	"string.pattern":     "格式应为 #",
	"string.min_len":     "至少 # 个字符",
	"string.max_len":     "最多 # 个字符",
	"repeated.min_items": "至少 # 项",
	"repeated.max_items": "最多 # 项",
	"enum.not_in":        "必填",
	"enum.defined_only":  "不是允许的值",
	"int64.gt_lte":       "应大于 #，且不超出允许范围",
	"int64.gte":          "不能小于 #",
	"double.gte_lte":     "超出允许范围",
	"int32.gte_lte":      "超出允许范围",
	"secret.one":         "file 与 env 必须且只能填一个",
	"line.goods":         "goods_code 与 warehouse_goods_no 至少填一个",
	"receiver.reach":     "mobile 与 phone 至少填一个",
}

func chinese(v *protovalidate.Violation) string {
	text, known := inChinese[v.Proto.GetRuleId()]
	if !known {
		return v.Proto.GetMessage()
	}
	if v.RuleValue.IsValid() {
		text = strings.ReplaceAll(text, "#", fmt.Sprint(v.RuleValue.Interface()))
	}
	return text
}
