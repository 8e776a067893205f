package seller_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
)

const shared = `name: acme
accounts:
  - {name: jd, kind: jd, app_key: KEY, app_secret: {file: /s}, access_token: {env: T}, department: EBU1, vendor_source: ISV1}
warehouses:
  - {code: W1, account: jd, warehouse_no: 110006341}
  - {code: W2, account: jd, warehouse_no: 110006342}
shops:
  - {code: JD, shop_no: ESP1, warehouses: [W1], booking: flow}
  - {code: TB, shop_no: ESP2, warehouses: [W1, W2], booking: documents}
  - {code: DD, shop_no: ESP2, warehouses: [W1], booking: documents}
stock:
  every: 45s
  lag: 5s
  second_look: 0s
  since: 2026-01-02T03:04:05+08:00
  count_every: 30m
  correct_up_to: 3
  pools:
    - {name: cloud, warehouse: W1, ratio: 30, shops: [{shop: TB, part: 33.34, safety: 2}, {shop: DD, minimum: 5}]}
    - {name: west, warehouse: W2, ratio: 12.5, shops: [{shop: TB}]}
`

func TestStockIsSetUpAsWritten(t *testing.T) {
	setup, err := seller.Parse([]byte(shared))
	if err != nil {
		t.Fatal(err)
	}
	if setup.Stock.Every.AsDuration() != 45*time.Second || setup.Stock.SecondLook == nil || setup.Stock.Overlap != nil || setup.Stock.CorrectUpTo != 3 {
		t.Errorf("read as %v", setup.Stock)
	}
	rendered, err := seller.Render(setup)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seller.Parse(rendered)
	if err != nil {
		t.Fatalf("%v\n%s", err, rendered)
	}
	if diff := cmp.Diff(setup, again, protocmp.Transform()); diff != "" {
		t.Errorf("rendered and parsed (-want +got):\n%s", diff)
	}
	s := seller.New(setup, nil)
	if got := s.StockSince(); !got.Equal(time.Date(2026, 1, 1, 19, 4, 5, 0, time.UTC)) {
		t.Errorf("since %v", got)
	}
	want := []seller.Pool{{Name: "cloud", Warehouse: "W1", Ratio: 3000, RatioText: "30", Shops: []seller.PoolShop{
		{Code: "TB", Part: 3334, Safety: 2}, {Code: "DD", Part: 6666, Minimum: 5},
	}}}
	if diff := cmp.Diff(want, s.Pools("W1")); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	if w := seller.Warnings(setup); len(w) != 0 {
		t.Errorf("warned without a reason: %v", w)
	}
}

func TestSharesOfShopsWithoutAPart(t *testing.T) {
	setup, err := seller.Parse([]byte(strings.NewReplacer("{shop: TB, part: 33.34, safety: 2}, {shop: DD, minimum: 5}", "{shop: TB}, {shop: DD}, {shop: EE}",
		"stock:\n", "  - {code: EE, shop_no: ESP3, warehouses: [W1]}\nstock:\n").Replace(shared)))
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, shop := range seller.New(setup, nil).Pools("W1")[0].Shops {
		sum += shop.Part
		if shop.Part != 3333 {
			t.Errorf("shop %s has %d of %d, want a third, rounded down", shop.Code, shop.Part, seller.Whole)
		}
	}
	if sum > seller.Whole {
		t.Errorf("the parts are %d together", sum)
	}
}

func TestFaultsOfStockAreNamed(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to string
		want     []string
	}{
		{"two ways of booking one shop of the warehouse's", "{code: DD, shop_no: ESP2, warehouses: [W1], booking: documents}", "{code: DD, shop_no: ESP2, warehouses: [W1], booking: flow}",
			[]string{"shops[2].booking: line 10: shops TB and DD share ESP2", "stock.pools[0].shops[1].shop: line 19: shop DD is booked from the flow"}},
		{"one booked and its sister not", ", warehouses: [W1], booking: documents}", ", warehouses: [W1]}", []string{"shops[2].booking: line 10: shops TB and DD share ESP2"}},
		{"a shop in a pool whose stock the warehouse synchronises", "{shop: DD, minimum: 5}", "{shop: JD, minimum: 5}", []string{"stock.pools[0].shops[1].shop: line 19: shop JD is booked from the flow"}},
		{"a pool of an unknown warehouse", "warehouse: W2, ratio", "warehouse: W3, ratio", []string{"stock.pools[1].warehouse: line 20: W3 is not in warehouses"}},
		{"an unknown shop in a pool", "{shop: DD,", "{shop: XX,", []string{"stock.pools[0].shops[1].shop: line 19: XX is not in shops"}},
		{"a shop that may not use the pool's warehouse", "shops: [{shop: TB}]", "shops: [{shop: DD}]", []string{"stock.pools[1].shops[0].shop: line 20: shop DD may not use warehouse W2"}},
		{"a shop in two pools of a warehouse", "{name: west, warehouse: W2", "{name: west, warehouse: W1", []string{"stock.pools[1].shops[0].shop: line 20: shop TB is in pool cloud of warehouse W1 already"}},
		{"two pools of a name", "name: west", "name: cloud", []string{"stock.pools[1].name: line 20: cloud is listed twice"}},
		{"parts over a hundred", "{shop: DD,", "{shop: DD, part: 66.67,", []string{"stock.pools[0].shops: line 19: the shops' parts are 100.01 per cent"}},
		{"a ratio over a hundred", "ratio: 30", "ratio: 100.01", []string{"stock.pools[0].ratio: line 19: 100 (per cent) at most"}},
		{"a ratio with three decimals", "ratio: 12.5", "ratio: 12.125", []string{"stock.pools[1].ratio: line 20: "}},
		{"looks that are too close for the warehouse", "every: 45s", "every: 29s", []string{"stock.every: line 12: at least 30s"}},
		{"a duration without a unit", "every: 45s", "every: 45", []string{"stock.every: line 12: want a duration like 30s"}},
		{"a lag of a day", "lag: 5s", "lag: 24h", []string{"stock.lag: line 13: "}},
		{"a since without a zone", "03:04:05+08:00", "03:04:05", []string{"stock.since: line 15: want a time with its zone"}},
		{"a correction that is no whole number", "correct_up_to: 3", "correct_up_to: 1.5", []string{"stock.correct_up_to: line 17: want a whole number"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(shared, test.from) {
				t.Fatalf("the sample has no %q", test.from)
			}
			_, err := seller.Parse([]byte(strings.Replace(shared, test.from, test.to, 1)))
			var faults seller.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want faults", err)
			}
			if len(faults) != len(test.want) {
				t.Errorf("got %d faults, want %d:\n%v", len(faults), len(test.want), err)
			}
			for i := range min(len(faults), len(test.want)) {
				f := faults[i]
				if got := f.Field + ": " + f.EN; !strings.HasPrefix(got, test.want[i]) {
					t.Errorf("got %q, want %q", got, test.want[i])
				}
				if f.Code == "" || f.ZH == "" || f.ZH == f.EN || strings.Contains(f.ZH+f.EN, "%!") {
					t.Errorf("fault not fit for people: %+v", f)
				}
			}
		})
	}
}

// A sandbox may be asked as often as one likes.
func TestASandboxMayBeAskedMoreOften(t *testing.T) {
	_, err := seller.Parse([]byte(strings.NewReplacer("every: 45s", "every: 1s", "app_key: KEY", "app_key: KEY, url: 'http://127.0.0.1:1/routerjson'").Replace(shared)))
	if err != nil {
		t.Error(err)
	}
}

func TestWhatIsProbablyNotMeantIsWarnedOf(t *testing.T) {
	setup, err := seller.Parse([]byte(strings.NewReplacer("{name: west, warehouse: W2, ratio: 12.5, shops: [{shop: TB}]}", "{name: west, warehouse: W1, ratio: 70.01, shops: [{shop: EE}, {shop: FF, part: 100}]}",
		"stock:\n", "  - {code: EE, shop_no: ESP3, warehouses: [W1]}\n  - {code: FF, shop_no: ESP4, warehouses: [W1]}\nstock:\n").Replace(shared)))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"stock.pools[1].ratio: the pools of warehouse W1 take more than 100", "stock.pools[1].shops[0].part: shop EE has a part of 0"}
	got := seller.Warnings(setup)
	if len(got) != len(want) {
		t.Fatalf("got %v", got)
	}
	for i, w := range got {
		if !strings.HasPrefix(w.Field+": "+w.EN, want[i]) || w.ZH == "" || strings.Contains(w.ZH+w.EN, "%!") {
			t.Errorf("got %+v, want %q", w, want[i])
		}
	}
}

// Orders that the warehouse captures itself must never be pushed as well: they would be shipped twice.
func TestNoOrderOfAShopThatTheWarehouseServesIsPushed(t *testing.T) {
	setup, err := seller.Parse([]byte(shared))
	if err != nil {
		t.Fatal(err)
	}
	s := seller.New(setup, nil)
	o := &orderv1.Audited{Seller: "acme", Shop: "JD", Warehouse: "W1", OutboundNo: "X1", Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "G", Quantity: 1}}}
	held := s.Check(o)
	var r fault.Reason
	if !errors.As(held, &r) || r.Code != "shop.booking" || fault.Of(held) != fault.Held || s.Cleared(fault.Cause(held)) {
		t.Fatalf("got %v", held)
	}
	fixed, err := seller.Parse([]byte(strings.Replace(shared, "booking: flow", "booking: documents", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if !seller.New(fixed, nil).Cleared(fault.Cause(held)) {
		t.Error("it continues when the booking is changed")
	}
	o.Shop = "TB"
	if err := s.Check(o); err != nil {
		t.Errorf("an order of the cloud's: %v", err)
	}
}
