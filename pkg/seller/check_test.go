package seller_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

func acmeSeller(t *testing.T) *seller.Seller {
	t.Helper()
	setup, err := seller.Parse([]byte(acme))
	if err != nil {
		t.Fatal(err)
	}
	return seller.New(setup, nil)
}

func order(change func(o *orderv1.Audited)) *orderv1.Audited {
	o := &orderv1.Audited{
		Seller: "acme", Shop: "S01", Warehouse: "007", OrderNo: "O1", OutboundNo: "X1", Carrier: "ZTO",
		Lines: []*orderv1.Line{
			{LineId: "1", GoodsCode: "G1", Category: "服装", Quantity: 1},
			{LineId: "2", WarehouseGoodsNo: "EMG1", Category: "not mapped, not needed", Quantity: 1},
			{LineId: "3", GoodsCode: "G3", Quantity: 1},
		},
	}
	if change != nil {
		change(o)
	}
	return o
}

func TestCheck(t *testing.T) {
	s := acmeSeller(t)
	for _, test := range []struct {
		name   string
		change func(o *orderv1.Audited)
		want   []string // "cause code field"
	}{
		{"a good order", nil, nil},
		{"no carrier lets the warehouse choose", func(o *orderv1.Audited) { o.Carrier = "" }, nil},
		{"an unknown shop", func(o *orderv1.Audited) { o.Shop = "S9" }, []string{"shop:acme/S9 shop.unknown shop"}},
		{"an unknown warehouse", func(o *orderv1.Audited) { o.Warehouse = "9" }, []string{"warehouse:acme/9 warehouse.unknown warehouse"}},
		{"a shop that may not use the warehouse", func(o *orderv1.Audited) { o.Shop = "S/02" }, []string{"shop-warehouse:acme/S/02/007 shop.warehouse warehouse"}},
		{"an unmapped carrier", func(o *orderv1.Audited) { o.Carrier = "YTO" }, []string{"carrier:acme/YTO carrier.unmapped carrier"}},
		{"an unmapped category", func(o *orderv1.Audited) { o.Lines[2].Category = "鞋" }, []string{"category:acme/鞋 category.unmapped lines[2].category"}},
		{"a hold of the ERP's", func(o *orderv1.Audited) { o.Hold = &orderv1.Hold{Reason: "gift"} }, []string{"hold:acme/X1 order.hold hold"}},
		{"a hold of the shop's", func(o *orderv1.Audited) { o.Shop = "no" }, []string{"hold:acme/X1 shop.hold shop"}},
		{"everything at once, the hold last", func(o *orderv1.Audited) {
			o.Shop, o.Warehouse, o.Carrier, o.Hold, o.Lines[0].Category = "S9", "9", "YTO", &orderv1.Hold{Reason: "gift"}, "鞋"
		}, []string{"shop:acme/S9 shop.unknown shop", "warehouse:acme/9 warehouse.unknown warehouse", "carrier:acme/YTO carrier.unmapped carrier",
			"category:acme/鞋 category.unmapped lines[0].category", "hold:acme/X1 order.hold hold"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := order(test.change)
			var got []string
			for _, err := range s.Findings(o) {
				var r fault.Reason
				if !errors.As(err, &r) || fault.Of(err) != fault.Held {
					t.Fatalf("%v is no hold with a reason", err)
				}
				if r.ZH == "" || r.EN == "" || strings.Contains(r.ZH+r.EN, "%!") {
					t.Errorf("texts: %q %q", r.ZH, r.EN)
				}
				got = append(got, fault.Cause(err)+" "+r.Code+" "+r.Field)
				if s.Cleared(fault.Cause(err)) {
					t.Errorf("%s counts as cleared while it lasts", fault.Cause(err))
				}
			}
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("got\n%v\nwant\n%v", got, test.want)
			}
			err := s.Check(o)
			if (err == nil) != (len(test.want) == 0) || err != nil && !strings.HasPrefix(test.want[0], fault.Cause(err)+" ") {
				t.Errorf("Check: %v", err)
			}
		})
	}

	held := order(func(o *orderv1.Audited) { o.Hold = &orderv1.Hold{Reason: "gift"} })
	if err := s.Check(held, "hold:acme/X1"); err != nil {
		t.Errorf("released by an operator: %v", err)
	}
	if err := s.Check(held, "", "hold:acme/X2"); err == nil {
		t.Error("another order's release lets this one go")
	}
}

func TestACauseIsClearedByItsFix(t *testing.T) {
	s := acmeSeller(t)
	for cause, want := range map[string]bool{
		seller.CauseUnknown("acme"):                      true,
		seller.CauseUnknown("other"):                     false,
		seller.CauseShop("acme", "S/02"):                 true,
		seller.CauseShop("acme", "S9"):                   false,
		seller.CauseShop("other", "S01"):                 false,
		seller.CauseWarehouse("acme", "B/2"):             true,
		seller.CauseShopWarehouse("acme", "S/02", "B/2"): true,
		seller.CauseShopWarehouse("acme", "S/02", "007"): false,
		seller.CauseCarrier("acme", "ZTO"):               true,
		seller.CauseSupplier("acme", "A/1"):              true,
		seller.CauseSupplier("acme", "A/2"):              false,
		seller.CauseCategory("acme", "服装"):               true,
		seller.CausePause("acme"):                        true,
		seller.CauseToken("acme", "jd"):                  true,
		seller.CauseToken("acme", "gone"):                false,
		seller.CauseTrial("acme"):                        true,
		seller.CausePermission("acme", "jd"):             false,
		seller.CauseHold("acme", "X1"):                   false,
		seller.CauseReceiver("acme", "X1"):               false,
		seller.CauseCancel("acme", "X0"):                 false,
		"":                                               false,
		"shop:":                                          false,
		"of another version:acme/x":                      false,
	} {
		if got := s.Cleared(cause); got != want {
			t.Errorf("Cleared(%q) = %v", cause, got)
		}
	}
	setup := s.Setup
	setup.Trial = &sellerv1.Trial{Orders: []string{"O1"}, First: 3}
	paused := seller.New(setup, &seller.Pause{By: sellerv1.Paused_BY_TOKEN, Reason: "expired"})
	for _, cause := range []string{seller.CausePause("acme"), seller.CauseToken("acme", "jd"), seller.CauseTrial("acme")} {
		if paused.Cleared(cause) {
			t.Errorf("Cleared(%q) though it lasts", cause)
		}
	}
	if fault.Cause(paused.Paused()) != "pause:acme" || s.Paused() != nil {
		t.Errorf("Paused: %v, %v", paused.Paused(), s.Paused())
	}
	if first, on := paused.OnTrial(); first != 3 || !on || !paused.TrialLists("X9", "O1") || paused.TrialLists("X9") {
		t.Error("trial is not looked up")
	}
}

var now = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
