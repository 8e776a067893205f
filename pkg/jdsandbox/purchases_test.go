package jdsandbox_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

const (
	addPurchase    = "eclp.po.addPoOrder"
	cancelPurchase = "eclp.po.cancalPoOrder"
	queryPurchase  = "eclp.po.queryPoOrder"
)

// aPurchase is what a production ERP sends, with two lines of eight and four pieces.
func aPurchase(number string) object {
	return object{
		"spPoOrderNo": number, "deptNo": dept, "whNo": warehouseNo, "supplierNo": "EMS4398046512427",
		"deptGoodsNo": "EMG1,EMG2", "numApplication": "8,4", "goodsStatus": "1,1",
	}
}

func (s *sandbox) buy(o object) string {
	s.t.Helper()
	answer, err := s.call(addPurchase, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer["poOrderNo"].(string)
}

// bought is queryPoOrder's rows.
func (s *sandbox) bought(nos string) []object {
	s.t.Helper()
	answer, err := s.call(queryPurchase, object{"poOrderNo": nos})
	if err != nil {
		s.t.Fatal(err)
	}
	return rows(answer["queryPoModelList"])
}

// outcome is a purchase order's status, and of each of its rows what was asked, received, its status and level.
func (s *sandbox) outcome(no string) string {
	s.t.Helper()
	row := s.bought(no)[0]
	text := fmt.Sprint(row["poOrderStatus"])
	for _, item := range rows(row["poItemModelList"]) {
		text += fmt.Sprintf(" %v:%v/%v", item["goodsNo"], item["realInstoreQty"], item["numApplication"])
		if item["realGoodsLevel"] != nil {
			text += fmt.Sprintf("(%v %v)", item["realGoodsStatus"], item["realGoodsLevel"])
		}
	}
	return text
}

// withdraw is the inner code of cancalPoOrder.
func (s *sandbox) withdraw(no string) string {
	s.t.Helper()
	answer, err := s.call(cancelPurchase, object{"poOrderNo": no})
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprint(answer["poResult"].(object)["code"])
}

// purchases starts a sandbox whose warehouse clock moves only by hand.
func purchases(t testing.TB, set func(*jdsandbox.PurchaseKnobs), change ...func(*jdsandbox.Config)) *sandbox {
	t.Helper()
	return still(t, append(change, func(c *jdsandbox.Config) {
		if set != nil {
			set(&c.Knobs.Purchases)
		}
	})...)
}

// TestAddPoOrderChecks: a row is a correct purchase order with one fault.
func TestAddPoOrderChecks(t *testing.T) {
	many := func(n int, v string) string { return strings.TrimSuffix(strings.Repeat(v+",", n), ",") }
	for _, row := range []struct {
		name   string
		change object
		code   string // "" is accepted
	}{
		{"as ERPs send it", nil, ""},
		{"no number", object{"spPoOrderNo": nil}, "60"},
		{"number too long", object{"spPoOrderNo": strings.Repeat("1", 51)}, "61"},
		{"no department", object{"deptNo": nil}, "60"},
		{"no warehouse", object{"whNo": nil}, "60"},
		{"no supplier", object{"supplierNo": " "}, "60"},
		{"no goods", object{"deptGoodsNo": nil}, "60"},
		{"ERP's goods codes", object{"deptGoodsNo": nil, "isvGoodsNo": "a,b"}, ""},
		{"goods list short", object{"deptGoodsNo": "EMG1"}, "61"},
		{"a goods number empty", object{"deptGoodsNo": "EMG1,"}, "61"},
		{"no quantity", object{"numApplication": nil}, "60"},
		{"quantities long", object{"numApplication": "8,4,1"}, "61"},
		{"quantity zero", object{"numApplication": "8,0"}, "61"},
		{"quantity not whole", object{"numApplication": "8,1.5"}, "61"},
		{"quantity negative", object{"numApplication": "8,-4"}, "61"},
		{"quantity in words", object{"numApplication": "8,four"}, "61"},
		{"no goodsStatus", object{"goodsStatus": nil}, "60"},
		{"goodsStatus short", object{"goodsStatus": "1"}, "61"},
		{"goodsStatus unknown", object{"goodsStatus": "1,4"}, "61"},
		{"defective goods, a level", object{"goodsStatus": "2,150"}, ""},
		{"one line, as numbers", object{"deptGoodsNo": "EMG1", "numApplication": 8, "goodsStatus": 1}, ""},
		{"prices", object{"unitPrice": "1.00,2.50", "totalPrice": "8.00,10"}, ""},
		{"a price in words", object{"unitPrice": "1.00,free"}, "61"},
		{"line ids", object{"orderLine": "a,b"}, ""},
		{"a line id too long", object{"orderLine": strings.Repeat("1", 51) + ",2"}, "61"},
		{"remark too long", object{"inboundRemark": strings.Repeat("注", 201)}, "61"},
		{"cases have lists of their own", object{"boxNo": "b1,b2,b3", "boxGoodsNo": "EMG1,EMG1,EMG2", "boxGoodsQty": "4,4,4"}, ""},
		{"list of cases short", object{"boxNo": "b1,b2,b3", "boxGoodsNo": "EMG1"}, "61"},
		{"a thousand lines", object{"deptGoodsNo": many(1000, "EMG1"), "numApplication": many(1000, "1"), "goodsStatus": many(1000, "1")}, ""},
		{"more lines", object{"deptGoodsNo": many(1001, "EMG1"), "numApplication": many(1001, "1"), "goodsStatus": many(1001, "1")}, "61"},
		{"another's department", object{"deptNo": "EBU2"}, "71"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := purchases(t, nil, func(c *jdsandbox.Config) {
				c.Apps = []jdsandbox.App{{Key: jdsandbox.DefaultAppKey, Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{{Value: jdsandbox.DefaultToken, Departments: []string{dept}}}}}
			})
			_, err := s.call(addPurchase, with(aPurchase("P-1"), row.change))
			if row.code == "" && err != nil {
				t.Error(err)
			} else if row.code != "" {
				refusedWith(t, err, row.code)
				equal(t, "documents", len(s.Purchases()), 0)
				equal(t, "refusals", s.Counters().Purchases.Refused[jdsandbox.Code(row.code)], 1)
			}
		})
	}
}

// TestAPurchaseWalksToItsEnd follows one purchase order to the end.
func TestAPurchaseWalksToItsEnd(t *testing.T) {
	s := purchases(t, nil)
	no := s.buy(with(aPurchase("P-1"), object{"orderLine": "a,b", "isvGoodsNo": "SKU1,SKU2"}))
	equal(t, "number", no, "EPL4400000000001")
	equal(t, "at first", s.outcome(no), "10 EMG1:<nil>/8 EMG2:<nil>/4")
	s.advance(time.Minute)
	equal(t, "taken", s.outcome(no), "20 EMG1:<nil>/8 EMG2:<nil>/4")
	s.advance(2 * time.Hour)
	equal(t, "received", s.outcome(no), "70 EMG1:8/8(1 100) EMG2:4/4(1 100)")
	row := s.bought(no)[0]
	equal(t, "row", say(row["isvPoOrderNo"], row["deptNo"], row["whNo"], row["supplierNo"], row["createTime"], row["completeTime"], row["resultCode"], row["msg"]),
		"P-1 "+dept+" 110000001 EMS4398046512427 2021-06-18 09:30:00 2021-06-18 11:31:00 1 ")
	item := rows(row["poItemModelList"])[1]
	equal(t, "line", say(item["orderLine"], item["isvGoodsNo"], item["goodsStatus"], item["shortQty"], item["damagedQty"], item["excessQty"]), "b SKU2 1 0 0 0")
	if text, isText := item["realInstoreQty"].(string); !isText || text != "4" {
		t.Errorf("a quantity is %#v, JD declares text", item["realInstoreQty"])
	}
	s.set(func(k *jdsandbox.Knobs) { k.Numbers = "numbers" })
	equal[any](t, "quantity as a number", rows(s.bought(no)[0]["poItemModelList"])[1]["realInstoreQty"], 4.0)
	d, found := s.Purchase(no)
	equal(t, "document", say(found, d.Status, d.SpPoOrderNo, d.Lines[0].Asked, d.Lines[0].Real, d.History[2].Name, d.Params["whNo"]), "true 70 P-1 8 8 完成 110000001")
}

func TestWhatArrivesIsNotWhatWasOrdered(t *testing.T) {
	all := jdsandbox.Lot{Chance: 1}
	one := object{"deptGoodsNo": "EMG1", "numApplication": "8", "goodsStatus": "1"}
	for _, row := range []struct {
		name   string
		set    func(*jdsandbox.PurchaseKnobs)
		change object
		check  func(t *testing.T, s *sandbox, items []object)
		want   string
	}{
		{
			"less", func(k *jdsandbox.PurchaseKnobs) { k.Short = all }, object{"deptGoodsNo": "EMG1", "numApplication": "1", "goodsStatus": "1"},
			func(t *testing.T, s *sandbox, items []object) { equal[any](t, "short", items[0]["shortQty"], "1") }, "70 EMG1:0/1(1 100)",
		},
		{
			"more", func(k *jdsandbox.PurchaseKnobs) { k.Excess = all }, object{"deptGoodsNo": "EMG1", "numApplication": "1", "goodsStatus": "1"},
			func(t *testing.T, s *sandbox, items []object) { equal[any](t, "excess", items[0]["excessQty"], "1") }, "70 EMG1:2/1(1 100)",
		},
		{
			"damaged", func(k *jdsandbox.PurchaseKnobs) { k.Damaged = all }, one,
			func(t *testing.T, s *sandbox, items []object) {
				equal(t, "damaged", say(items[0]["damagedQty"], items[1]["damagedQty"], items[0]["shortQty"]), "0 2 0")
			}, "70 EMG1:6/8(1 100) EMG1:2/8(2 200)",
		},
		{"damaged, each row with its part", func(k *jdsandbox.PurchaseKnobs) { k.Damaged, k.SplitAsked = all, "part" }, one, nil, "70 EMG1:6/6(1 100) EMG1:2/2(2 200)"},
		{
			"nothing", func(k *jdsandbox.PurchaseKnobs) { k.Nothing = all }, nil,
			func(t *testing.T, s *sandbox, items []object) { equal[any](t, "short", items[1]["shortQty"], "4") }, "70 EMG1:0/8(1 100) EMG2:0/4(1 100)",
		},
		{"this one only", func(k *jdsandbox.PurchaseKnobs) { k.Nothing.Orders = []string{"P-1"} }, one, nil, "70 EMG1:0/8(1 100)"},
		{"another one only", func(k *jdsandbox.PurchaseKnobs) { k.Nothing.Orders = []string{"P-2"} }, one, nil, "70 EMG1:8/8(1 100)"},
		{"ordered as defective, sample, level", nil, object{"deptGoodsNo": "A,B,C", "numApplication": "1,1,1", "goodsStatus": "2,3,150"}, nil, "70 A:1/1(2 200) B:1/1(3 ) C:1/1(1 150)"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := purchases(t, row.set)
			no := s.buy(with(aPurchase("P-1"), row.change))
			s.advance(24 * time.Hour)
			equal(t, "received", s.outcome(no), row.want)
			if row.check != nil {
				row.check(t, s, rows(s.bought(no)[0]["poItemModelList"]))
			}
		})
	}
}

func TestSeveralReceiptsGrowUpToTheLast(t *testing.T) {
	s := purchases(t, func(k *jdsandbox.PurchaseKnobs) { k.Receipts, k.PartialStatus = 3, "30" }, stocked)
	no := s.buy(aPurchase("P-1"))
	var seen []string
	for range 4 {
		s.advance(time.Hour)
		seen = append(seen, s.outcome(no))
	}
	equal(t, "seen", strings.Join(seen, "; "), "20 EMG1:<nil>/8 EMG2:<nil>/4; 20 EMG1:<nil>/8 EMG2:<nil>/4; "+
		"30 EMG1:3/8(1 100) EMG2:2/4(1 100); 30 EMG1:6/8(1 100) EMG2:3/4(1 100)")
	equal[any](t, "short before the end", rows(s.bought(no)[0]["poItemModelList"])[0]["shortQty"], "0")
	equal(t, "stock", s.has("EMG1"), "16/0 16/16")
	s.advance(time.Hour)
	equal(t, "the end", s.outcome(no), "70 EMG1:8/8(1 100) EMG2:4/4(1 100)")
	equal(t, "stock", s.has("EMG1"), "18/0 18/18")
}

func TestAPurchaseWaitsUntilItIsReleased(t *testing.T) {
	for _, at := range []string{"4", "5", "10", "20"} {
		s := purchases(t, func(k *jdsandbox.PurchaseKnobs) { k.Wait.At = jdsandbox.Code(at) })
		no := s.buy(aPurchase("P-1"))
		if at != "10" {
			if err := s.ReleasePurchase(no); err == nil {
				t.Error(at, "released before it waited")
			}
		}
		s.advance(100 * time.Hour)
		equal(t, "waits", s.Purchases()[0].Waits, true)
		equal(t, at, string(s.Purchases()[0].Status), at)
		if err := s.ReleasePurchase(no); err != nil {
			t.Fatal(err)
		}
		equal(t, "after the release", s.Purchases()[0].Waits, false)
		s.advance(time.Hour)
		equal(t, at+" has its time", s.Purchases()[0].Status == "70", false)
		s.advance(2 * time.Hour)
		equal(t, at+" at last", s.outcome(no), "70 EMG1:8/8(1 100) EMG2:4/4(1 100)")
	}
}

// TestARefusedCancellationGoesOnWaiting: a purchase order that waits has its whole time after the release, also if it was
// to be cancelled meanwhile.
func TestARefusedCancellationGoesOnWaiting(t *testing.T) {
	for _, after := range []time.Duration{90 * time.Second, 50 * time.Hour} { // before and during the wait
		s := purchases(t, func(k *jdsandbox.PurchaseKnobs) {
			k.Wait.At, k.Wait.Orders = "4", []string{"P-1"}
			k.Cancel.Answers = map[jdsandbox.Code]jdsandbox.CancelAnswer{"20": jdsandbox.RefusedLater, "4": jdsandbox.RefusedLater}
		})
		no, other := s.buy(aPurchase("P-1")), s.buy(aPurchase("P-2"))
		s.advance(after)
		equal(t, "asked", s.withdraw(no), "3")
		if err := s.ReleasePurchase(no); err == nil {
			t.Error("released while its cancellation is undecided")
		}
		s.advance(50 * time.Hour)
		equal(t, "waits", s.Purchases()[0].Waits, true)
		equal(t, "another does not", s.outcome(other)[:2], "70")
		if err := s.ReleasePurchase(no); err != nil {
			t.Fatal(err)
		}
		s.advance(time.Hour)
		equal(t, "too early", s.Purchases()[0].Status == "70", false)
		s.advance(2 * time.Hour)
		equal(t, "at last", s.outcome(no), "70 EMG1:8/8(1 100) EMG2:4/4(1 100)")
		history := s.Purchases()[0].History
		for i := range history[1:] {
			if history[i+1].At.Before(history[i].At) {
				t.Errorf("the history goes back: %v", history)
			}
		}
	}
}

func TestARepeatedPurchaseNumber(t *testing.T) {
	s := purchases(t, nil)
	first, second := s.buy(aPurchase("P-1")), s.buy(aPurchase("P-1"))
	if first == second {
		t.Error("the default hides double purchases")
	}
	v := s.Violations()
	equal(t, "violations", say(v.Total, v.Items[0].Kind, v.Items[0].SpPoOrderNo, v.Items[0].PoOrderNos), "1 two_purchases P-1 ["+first+" "+second+"]")
	s.buy(with(aPurchase("P-1"), object{"deptNo": "EBU2"}))
	equal(t, "another department's", s.Violations().Total, 1)

	s.set(func(k *jdsandbox.Knobs) { k.Purchases.Repeat = jdsandbox.SameNumber })
	equal(t, "same", s.buy(aPurchase("P-1")), first)
	s.set(func(k *jdsandbox.Knobs) { k.Purchases.Repeat, k.Refusal.Code = jdsandbox.RefuseRepeat, "7777" })
	_, err := s.call(addPurchase, aPurchase("P-1"))
	refusedWith(t, err, "7777")
	equal(t, "documents", len(s.Purchases("P-1")), 3)
	n := s.Counters().Purchases
	equal(t, "counters", say(n.Accepted, n.Repeated, n.Refused), "3 3 map[7777:1]")
}

func TestAfterACancellationTheNumberIsFree(t *testing.T) {
	s := purchases(t, nil)
	first := s.buy(aPurchase("P-1"))
	equal(t, "cancelled", s.withdraw(first), "1")
	second := s.buy(aPurchase("P-1"))
	equal(t, "violations", s.Violations().Total, 0)
	s.advance(time.Minute)
	equal(t, "under way", s.withdraw(second), "3")
	s.buy(aPurchase("P-1"))
	equal(t, "violations while it is being cancelled", s.Violations().Counts[jdsandbox.TwoPurchases], 1)
}

func TestACancellationOfAPurchase(t *testing.T) {
	in := func(answer jdsandbox.CancelAnswer) func(*jdsandbox.PurchaseKnobs) {
		return func(k *jdsandbox.PurchaseKnobs) {
			k.Cancel.Answers = map[jdsandbox.Code]jdsandbox.CancelAnswer{"20": answer}
			k.Cancel.Takes.Min = 10 * minute
		}
	}
	for _, row := range []struct {
		name  string
		set   func(*jdsandbox.PurchaseKnobs)
		after time.Duration
		codes string // of three cancellations: at once, at once again, after a day
		walk  string // of statuses
	}{
		{"new", nil, 0, "1 1 1", "10 91"},
		{"before the warehouse begins", nil, time.Minute, "3 3 1", "10 20 90 91"},
		{"finished", nil, 5 * time.Hour, "2 2 2", "10 20 70"},
		{"done at once", in(jdsandbox.Cancelled), time.Minute, "1 1 1", "10 20 91"},
		{"refused", in(jdsandbox.CancelRefused), time.Minute, "2 2 2", "10 20 70"},
		{"under way, refused later", in(jdsandbox.RefusedLater), time.Minute, "3 3 2", "10 20 90 92 70"},
		{"lost", in(jdsandbox.CancelLost), time.Minute, "3 3 2", "10 20 70"},
		{"a part was received", func(k *jdsandbox.PurchaseKnobs) { k.Receipts = 2 }, 150 * time.Minute, "2 2 2", "10 20 20 70"},
		{"a part was received, cancelled all the same", func(k *jdsandbox.PurchaseKnobs) { k.Receipts, k.Cancel.Received = 2, jdsandbox.Cancelled }, 150 * time.Minute, "1 1 1", "10 20 20 91"},
		{"says something odd", func(k *jdsandbox.PurchaseKnobs) { k.Cancel.Code, k.Cancel.Msg = "9", "系统忙" }, 0, "9 9 9", "10 91"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := purchases(t, row.set)
			no := s.buy(aPurchase("P-1"))
			s.advance(row.after)
			codes := s.withdraw(no) + " " + s.withdraw(no)
			s.advance(24 * time.Hour)
			equal(t, "codes", codes+" "+s.withdraw(no), row.codes)
			walk := ""
			for _, step := range s.Purchases()[0].History {
				walk += string(step.Code) + " "
			}
			equal(t, "walk", strings.TrimSpace(walk), row.walk)
		})
	}
}

func TestACancelledPurchaseReceivesNothing(t *testing.T) {
	s := purchases(t, nil, stocked)
	no := s.buy(aPurchase("P-1"))
	s.advance(time.Minute)
	s.withdraw(no)
	s.advance(24 * time.Hour)
	equal(t, "outcome", s.outcome(no), "91 EMG1:<nil>/8 EMG2:<nil>/4")
	equal(t, "stock", s.has("EMG1"), "10/0 10/10")
}

func TestANumberThatIsNoPurchase(t *testing.T) {
	s := purchases(t, nil)
	no := s.buy(aPurchase("P-1"))
	for _, row := range []struct {
		unknown jdsandbox.Unknown
		want    string // resultCodes of the rows
	}{{jdsandbox.AnswerError, "5001 采购单[EPL9]不存在"}, {jdsandbox.AnswerEmpty, "1"}, {jdsandbox.AnswerRow, "2 1"}} {
		s.set(func(k *jdsandbox.Knobs) { k.Purchases.Unknown = row.unknown })
		answer, err := s.call(queryPurchase, object{"poOrderNo": "EPL9," + no})
		got := fmt.Sprint(err)
		if err == nil {
			got = ""
			for _, r := range rows(answer["queryPoModelList"]) {
				got += fmt.Sprint(r["resultCode"]) + " "
				if r["resultCode"] == "2" && r["poOrderNo"] != "" {
					t.Error("the row of an unknown number has one")
				}
			}
		}
		equal(t, string(row.unknown), strings.TrimSpace(got), row.want)
	}
	_, err := s.call(cancelPurchase, object{"poOrderNo": "EPL9"})
	refusedWith(t, err, "5001")
	for _, method := range []string{queryPurchase, cancelPurchase} {
		_, err = s.call(method, object{})
		refusedWith(t, err, "60")
	}
	list := no + strings.Repeat(","+no, 99)
	equal(t, "a hundred", len(s.bought(list)), 100)
	_, err = s.call(queryPurchase, object{"poOrderNo": list + "," + no})
	refusedWith(t, err, "61")
}

func TestAnOddRow(t *testing.T) {
	s := purchases(t, func(k *jdsandbox.PurchaseKnobs) {
		k.Odd.Orders, k.Odd.Code, k.Odd.Msg = []string{"P-1"}, "0", "查询失败"
	})
	no, plain := s.buy(aPurchase("P-1")), s.buy(aPurchase("P-2"))
	r := s.bought(no + "," + plain)
	equal(t, "rows", say(r[0]["resultCode"], r[0]["msg"], r[0]["poOrderStatus"], r[1]["resultCode"]), "0 查询失败 10 1")
	s.set(func(k *jdsandbox.Knobs) { k.Purchases.Odd.Bare = true })
	equal(t, "bare", say(s.bought(no)[0]), "map[isvPoOrderNo:P-1 msg:查询失败 poOrderNo:"+no+" resultCode:0]")
}

func TestMasterDataOfPurchasesIsObeyed(t *testing.T) {
	s := purchases(t, nil, func(c *jdsandbox.Config) {
		c.Departments = []jdsandbox.Department{{DeptNo: dept}}
		c.Warehouses = []jdsandbox.Warehouse{{WarehouseNo: warehouseNo}, {WarehouseNo: "2", Disabled: true}}
		c.Suppliers = []jdsandbox.Supplier{{EclpSupplierNo: "EMS4398046512427", DeptNo: dept, Status: "2"}, {EclpSupplierNo: "EMS2", DeptNo: dept, Status: "3"}, {EclpSupplierNo: "EMS3", DeptNo: "EBU2"}}
	})
	s.buy(aPurchase("P-1"))
	for _, row := range []struct {
		change object
		says   string
	}{
		{object{"supplierNo": "EMS2"}, "供应商[EMS2]已停用"}, {object{"supplierNo": "EMS3"}, "供应商[EMS3]不存在"},
		{object{"whNo": "2"}, "仓库[2]已停用"}, {object{"deptNo": "EBU9"}, "事业部[EBU9]不存在"},
	} {
		_, err := s.call(addPurchase, with(aPurchase("P-2"), row.change))
		equal(t, say(row.change), fmt.Sprint(err), "5001 "+row.says)
	}
}

// TestReceiptsMoveTheStock: good goods raise the shop's stock with a row, the others only the warehouse's.
func TestReceiptsMoveTheStock(t *testing.T) {
	s := purchases(t, func(k *jdsandbox.PurchaseKnobs) { k.Damaged = jdsandbox.Lot{Chance: 1} }, stocked)
	no := s.buy(object{
		"spPoOrderNo": "P-1", "deptNo": dept, "whNo": warehouseNo, "supplierNo": "EMS1",
		"isvGoodsNo": "SKU1", "numApplication": "8", "goodsStatus": "1",
	})
	unknown := s.buy(with(aPurchase("P-2"), object{"deptGoodsNo": "EMG8,EMG9"}))
	s.advance(24 * time.Hour)
	equal(t, "outcome", s.outcome(no), "70 EMG1:6/8(1 100) EMG1:2/8(2 200)")
	equal(t, "goods that are not counted", s.outcome(unknown)[:2], "70")
	equal(t, "stock", s.has("EMG1"), "16/0 16/16")
	truth := s.Stock(jdsandbox.StockQuery{})
	equal(t, "defective", say(truth.Warehouses[1]), "{"+dept+" 110000001 EMG1 SKU1 2 1 200 2 2}")
	equal(t, "kinds of goods", len(truth.Shops), 2)
	moved := s.truth()
	equal(t, "row", say(len(moved), moved[0].Reason, moved[0].DocumentNo, moved[0].Former, moved[0].Now), "1 采购入库 "+no+" 10 16")
	equal(t, "read from the flow", say(s.flow(nil)), say(ids(moved)))
}

// TestGoodsThatAreStockedLater: what was received before goods were counted does not raise their stock.
func TestGoodsThatAreStockedLater(t *testing.T) {
	s := purchases(t, nil, func(c *jdsandbox.Config) { c.State = filepath.Join(t.TempDir(), "jd.journal") })
	s.buy(aPurchase("P-1"))
	s.advance(24 * time.Hour)
	s.buy(aPurchase("P-2"))
	if err := s.StockGoods(jdsandbox.Stock{DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: "EMG1", Shops: map[string]int64{shopNo: 10}}); err != nil {
		t.Fatal(err)
	}
	equal(t, "stock", s.has("EMG1"), "10/0 10/10")
	s.advance(24 * time.Hour)
	equal(t, "stock after the second", s.has("EMG1"), "18/0 18/18")
	equal(t, "stock after a restart", s.again(t).has("EMG1"), "18/0 18/18")
}

func TestWhichShopAReceiptRaises(t *testing.T) {
	two := func(c *jdsandbox.Config) {
		c.Stock = []jdsandbox.Stock{{DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: "EMG1", Shops: map[string]int64{shopNo: 10, "ESP2": 10}}}
	}
	one := object{"deptGoodsNo": "EMG1", "numApplication": "8", "goodsStatus": "1"}
	for shop, want := range map[string]string{"": "10/0 28/28", shopNo: "18/0 28/28", "ESP2": "10/0 28/28", "ESP3": "10/0 28/28"} {
		s := purchases(t, func(k *jdsandbox.PurchaseKnobs) { k.Shop = shop }, two)
		s.buy(with(aPurchase("P-1"), one))
		s.advance(24 * time.Hour)
		equal(t, "stock with "+shop, s.has("EMG1"), want)
	}
}

func TestReceiptsByHand(t *testing.T) {
	s := purchases(t, func(k *jdsandbox.PurchaseKnobs) { k.Wait.At = "4" }, stocked)
	no := s.buy(aPurchase("P-1"))
	receive := func(r jdsandbox.PurchaseReceipt) {
		t.Helper()
		if err := s.ReceivePurchase(no, r); err != nil {
			t.Fatal(err)
		}
	}
	receive(jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 3}, {Line: 1, Num: 1, GoodsLevel: "200"}}})
	equal(t, "a part", s.outcome(no), "20 EMG1:3/8(1 100) EMG1:1/8(2 200) EMG2:0/4(1 100)")
	equal(t, "stock", s.has("EMG1"), "13/0 13/13")
	s.advance(24 * time.Hour)
	equal(t, "it moves by hand only", s.outcome(no)[:2], "20")
	for _, r := range []jdsandbox.PurchaseReceipt{
		{}, {Goods: []jdsandbox.PurchaseGoods{{Line: 3, Num: 1}}}, {Goods: []jdsandbox.PurchaseGoods{{Line: 1}}}, {Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 1, GoodsLevel: "x"}}},
	} {
		if err := s.ReceivePurchase(no, r); err == nil {
			t.Errorf("%+v was received", r)
		}
	}
	receive(jdsandbox.PurchaseReceipt{Rest: true, Finish: true})
	equal(t, "the rest", s.outcome(no), "70 EMG1:7/8(1 100) EMG1:1/8(2 200) EMG2:4/4(1 100)")
	equal(t, "stock", s.has("EMG1"), "17/0 17/17")
	if err := s.ReceivePurchase(no, jdsandbox.PurchaseReceipt{Rest: true, Finish: true}); err == nil {
		t.Error("received after the end")
	}

	second := s.buy(aPurchase("P-2"))
	s.advance(time.Minute)
	equal(t, "under way", s.withdraw(second), "3")
	if err := s.ReceivePurchase(second, jdsandbox.PurchaseReceipt{Finish: true}); err != nil {
		t.Fatal(err)
	}
	equal(t, "received while it was being cancelled", s.outcome(second), "70 EMG1:0/8(1 100) EMG2:0/4(1 100)")
	equal(t, "refused", s.withdraw(second), "2")
}

// TestRowsAreMatchedByTheClient: the order of rows, and the line ids in them, are knobs.
func TestRowsAreMatchedByTheClient(t *testing.T) {
	list := func(f string) string {
		var all []string
		for i := range 20 {
			all = append(all, fmt.Sprintf(f, i))
		}
		return strings.Join(all, ",")
	}
	s := purchases(t, nil)
	no := s.buy(with(aPurchase("P-1"), object{
		"deptGoodsNo": list("EMG%d"), "orderLine": list("%d"), "numApplication": list("1%d"), "goodsStatus": strings.Repeat("1,", 19) + "1",
	}))
	goods := func() (text string, lines int) {
		for _, item := range rows(s.bought(no)[0]["poItemModelList"]) {
			text += fmt.Sprint(item["goodsNo"]) + ","
			if _, there := item["orderLine"]; there {
				lines++
			}
		}
		return text, lines
	}
	sent, lines := goods()
	equal(t, "rows", sent, list("EMG%d")+",")
	equal(t, "line ids", lines, 20)
	s.set(func(k *jdsandbox.Knobs) { k.Purchases.RowsShuffled, k.Purchases.NoOrderLine = true, true })
	shuffled, lines := goods()
	equal(t, "as many, in another order", shuffled != sent && len(shuffled) == len(sent), true)
	equal(t, "line ids", lines, 0)
}

// TestAnotherDepartmentsPurchasesDoNotExist: a token sees its own departments only.
func TestAnotherDepartmentsPurchasesDoNotExist(t *testing.T) {
	s := purchases(t, nil)
	no := s.buy(aPurchase("P-1"))
	if err := s.SetToken("", jdsandbox.Token{Value: jdsandbox.DefaultToken, Departments: []string{"EBU2"}}); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{queryPurchase, cancelPurchase} {
		_, err := s.call(method, object{"poOrderNo": no})
		refusedWith(t, err, "5001")
	}
	equal[any](t, "status", s.Purchases()[0].Status, jdsandbox.Code("10"))
}

// TestFaultsOfPurchases: a fault chooses purchase orders by method, number and goods.
func TestFaultsOfPurchases(t *testing.T) {
	s := purchases(t, nil)
	s.fault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{addPurchase}, Count: 1})
	if _, err := s.call(addPurchase, aPurchase("P-1")); err == nil {
		t.Error("the answer arrived")
	}
	equal(t, "held", len(s.Purchases("P-1")), 1)
	equal(t, "lost", s.Counters().LostAnswers, 1)
	c := s.Calls()[0]
	equal(t, "log", say(c.Method, c.SpPoOrderNo, c.PoOrderNo, c.Done, c.Answer), addPurchase+" P-1 EPL4400000000001 true lose_answer")
	no := s.Purchases()[0].PoOrderNo

	s.fault(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "9001", ZH: "处理失败", Orders: []string{"P-2"}, Methods: []string{addPurchase}, Work: jdsandbox.WorkDone, Count: 1})
	_, err := s.call(addPurchase, aPurchase("P-2"))
	refusedWith(t, err, "9001")
	equal(t, "held though refused", len(s.Purchases("P-2")), 1)
	s.fault(jdsandbox.Fault{Kind: jdsandbox.Error, ZH: "商品不存在", Goods: []string{"EMG9"}, Chance: 1})
	_, err = s.call(addPurchase, with(aPurchase("P-3"), object{"deptGoodsNo": "EMG1,EMG9"}))
	refusedWith(t, err, "5001")
	equal(t, "not held", len(s.Purchases("P-3")), 0)

	s.fault(jdsandbox.Fault{Kind: jdsandbox.Drop, Orders: []string{"P-1"}, Methods: []string{queryPurchase, cancelPurchase}, Chance: 1})
	for _, method := range []string{queryPurchase, cancelPurchase} {
		if _, err := s.call(method, object{"poOrderNo": no}); err == nil {
			t.Error(method, "was answered")
		}
	}
	s.set(func(k *jdsandbox.Knobs) { k.Faults, k.Denied = nil, []string{addPurchase} })
	_, err = s.call(addPurchase, aPurchase("P-4"))
	refusedWith(t, err, "24")
}

func TestPurchasesSurvive(t *testing.T) {
	s := purchases(t, func(k *jdsandbox.PurchaseKnobs) {
		k.Receipts, k.Wait.At, k.Wait.Orders = 2, "5", []string{"P-2"}
		k.Cancel.Answers = map[jdsandbox.Code]jdsandbox.CancelAnswer{"20": jdsandbox.RefusedLater}
	}, stocked, func(c *jdsandbox.Config) { c.State = filepath.Join(t.TempDir(), "jd.journal") })
	s.buy(aPurchase("P-1"))
	s.buy(aPurchase("P-1"))
	waits := s.buy(aPurchase("P-2"))
	third := s.buy(aPurchase("P-3"))
	s.advance(time.Minute)
	s.withdraw(third)
	s.advance(90 * time.Minute)
	if err := s.ReceivePurchase(third, jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 2, Num: 1}}}); err != nil {
		t.Fatal(err)
	}
	s.advance(35 * time.Minute)

	r := s.again(t)
	for range 3 {
		equal(t, "purchases", text(t, r.Purchases()), text(t, s.Purchases()))
		equal(t, "violations", text(t, r.Violations()), text(t, s.Violations()))
		equal(t, "stock", text(t, r.Stock(jdsandbox.StockQuery{})), text(t, s.Stock(jdsandbox.StockQuery{})))
		equal(t, "rows", text(t, r.truth()), text(t, s.truth()))
		for _, each := range []*sandbox{r, s} {
			_ = each.ReleasePurchase(waits)
			each.advance(3 * time.Hour)
		}
	}
	equal(t, "next number", r.buy(aPurchase("P-9")), "EPL4400000000005")
	if err := r.Reset(); err != nil {
		t.Fatal(err)
	}
	equal(t, "left after a reset", len(r.Purchases()), 0)
	equal(t, "number after a reset", r.buy(aPurchase("P-1")), "EPL4400000000006")
}

func TestFaultyPurchaseKnobsAreRefused(t *testing.T) {
	s := purchases(t, nil)
	err := s.SetKnobs(func(k *jdsandbox.Knobs) {
		p := &k.Purchases
		p.Repeat, p.Unknown, p.Wait.At, p.Receipts, p.SplitAsked = "x", "missing", "70", 21, "x"
		p.Short.Chance, p.Between, p.Cancel.Received = 2, -1, "x"
	})
	for _, key := range []string{"repeat", "unknown", "wait.at", "receipts", "split_asked", "short.chance", "between", "cancel.received"} {
		if err == nil || !strings.Contains(err.Error(), "purchases."+key+": ") {
			t.Errorf("%s is not in %v", key, err)
		}
	}
}

func TestPurchasesOfTheControlAPI(t *testing.T) {
	s := purchases(t, nil)
	for _, path := range []string{"purchases/EPL1", "purchases?limit=1001"} {
		res, err := http.Get(strings.TrimSuffix(s.url, "routerjson") + "_sandbox/" + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode/100 != 4 {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}
