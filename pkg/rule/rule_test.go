package rule_test

import (
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/rule"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
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
		broken, err := rule.Broken(m, "invalid")
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
	broken, err := rule.Broken(&orderv1.Audited{Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "A", Quantity: -2}}}, "invalid")
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
