package validation_test

import (
	"strings"
	"testing"
	"unicode"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"stockbridge/pkg/validation"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

func TestEachBrokenRuleIsSaidInBothLanguages(t *testing.T) {
	long := strings.Repeat("x", 5000)
	many := make([]string, 60)
	for name, m := range map[string]proto.Message{
		"nothing given": &orderv1.Audited{},
		"too much": &orderv1.Audited{
			Seller: "Not A Seller", Shop: long, Supersedes: long, Platform: long, PlatformOrderNos: many, Collect: "a lot",
			Lines:    []*orderv1.Line{{LineId: "a,b", Quantity: -1, Price: "1.999", Batch: &orderv1.Batch{ProductionDate: "tomorrow"}}},
			Receiver: &orderv1.Receiver{Name: long}, Invoice: &orderv1.Invoice{Kind: 99}, Marks: &orderv1.Marks{InsuredValue: "-1"},
			Hold: &orderv1.Hold{},
		},
		"cancel":    &orderv1.CancelRequested{Cause: 9},
		"no set-up": &sellerv1.Setup{},
		"bad set-up": &sellerv1.Setup{
			Accounts: []*sellerv1.Account{{TokenOwner: 9, AppSecret: &sellerv1.SecretRef{}, Quota: &sellerv1.Quota{PerSecond: -1, Concurrent: -1}}},
			Trial:    &sellerv1.Trial{First: -1}, Shops: []*sellerv1.Shop{{}},
		},
		"poll": &sellerv1.PollDue{},
	} {
		broken, err := validation.Broken(m, "invalid")
		if err != nil {
			t.Fatal(err)
		}
		if len(broken) == 0 {
			t.Errorf("%s: breaks no rule", name)
		}
		for _, r := range broken {
			if !strings.ContainsFunc(r.ZH, func(c rune) bool { return unicode.Is(unicode.Han, c) }) || r.EN == "" || r.Code != "invalid" {
				t.Errorf("%s: %s is not said in both languages: %+v", name, r.Field, r)
			}
		}
	}
}

func TestTheFieldIsNamedByItsPath(t *testing.T) {
	broken, err := validation.Broken(&orderv1.Audited{Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "A", Quantity: -2}}}, "invalid")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range broken {
		if r.Field == "lines[0].quantity" {
			return
		}
	}
	t.Errorf("no lines[0].quantity among %+v", broken)
}

// No reason shows a regular expression, and each one in our .proto files has a text.
func TestNoReasonShowsAnExpression(t *testing.T) {
	seen := 0
	for _, file := range []protoreflect.FileDescriptor{
		orderv1.File_order_v1_order_proto, sellerv1.File_seller_v1_seller_proto, stockv1.File_stock_v1_stock_proto, vmiv1.File_vmi_v1_vmi_proto,
	} {
		var look func(list protoreflect.MessageDescriptors)
		look = func(list protoreflect.MessageDescriptors) {
			for i := range list.Len() {
				kind := list.Get(i)
				look(kind.Messages())
				for i := range kind.Fields().Len() {
					fd := kind.Fields().Get(i)
					rules, _ := proto.GetExtension(fd.Options(), validate.E_Field).(*validate.FieldRules)
					for _, text := range []*validate.StringRules{rules.GetString(), rules.GetRepeated().GetItems().GetString()} {
						if text.GetPattern() == "" {
							continue
						}
						seen++
						m := dynamicpb.NewMessage(kind)
						if fd.IsList() {
							m.Mutable(fd).List().Append(protoreflect.ValueOfString("张三,\n"))
						} else {
							m.Set(fd, protoreflect.ValueOfString("张三,\n"))
						}
						broken, err := validation.Broken(m, "invalid")
						if err != nil {
							t.Fatal(err)
						}
						for _, r := range broken {
							if strings.ContainsAny(r.EN+r.ZH, "^$\\{") || strings.Contains(r.EN, "regex") || strings.Contains(r.EN+r.ZH, "张三") {
								t.Errorf("%s: %+v", fd.FullName(), r)
							}
							if r.EN == "is not of the form that is wanted" {
								t.Errorf("%s: its expression %s has no words", fd.FullName(), text.GetPattern())
							}
						}
					}
				}
			}
		}
		look(file.Messages())
	}
	if seen < 15 {
		t.Errorf("only %d expressions", seen)
	}
}
