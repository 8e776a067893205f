package jdsandbox_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// quiet is a walk without random steps.
var quiet = []jdsandbox.Step{
	{Code: "10010"}, {Code: "10014", After: minute}, {Code: "10015", After: minute}, {Code: "10016", After: minute},
	{Code: "10017", After: minute}, {Code: "10018", After: minute}, {Code: "10019", After: minute},
	{Code: "10033", After: minute}, {Code: "10034", After: minute},
}

const minute = jdsandbox.Duration(time.Minute)

// still starts a sandbox whose warehouse clock moves only by hand, with the quiet walk.
func still(t testing.TB, change ...func(*jdsandbox.Config)) *sandbox {
	t.Helper()
	return start(t, append([]func(*jdsandbox.Config){func(c *jdsandbox.Config) { c.Stopped, c.Knobs.Walk = true, quiet }}, change...)...)
}

// TestAddOrderChecks: a row is a correct order with one fault.
func TestAddOrderChecks(t *testing.T) {
	for _, row := range []struct {
		name   string
		change object
		code   string // "" is accepted
	}{
		{"as ERPs send it", nil, ""},
		{"no isvUUID", object{"isvUUID": nil}, "60"},
		{"blank isvUUID", object{"isvUUID": " "}, "60"},
		{"isvUUID too long", object{"isvUUID": strings.Repeat("1", 126)}, "61"},
		{"no isvSource", object{"isvSource": nil}, "60"},
		{"no shop", object{"shopNo": nil}, "60"},
		{"no shop, but B2B", object{"shopNo": nil, "soType": 2}, ""},
		{"no department", object{"departmentNo": ""}, "60"},
		{"no warehouse: JD chooses", object{"warehouseNo": nil}, ""},
		{"no platform", object{"salePlatformSource": nil}, "60"},
		{"platform as number", object{"salePlatformSource": 6}, ""},
		{"platform in words", object{"salePlatformSource": "taobao"}, "61"},
		{"JD's platform without its number", object{"salePlatformSource": "1", "salesPlatformOrderNo": nil}, "60"},
		{"no name", object{"consigneeName": nil}, "60"},
		{"name of 20 characters", object{"consigneeName": strings.Repeat("张", 20)}, ""},
		{"name of 21 characters", object{"consigneeName": strings.Repeat("张", 21)}, "61"},
		{"neither mobile nor phone", object{"consigneeMobile": nil}, "60"},
		{"phone only", object{"consigneeMobile": nil, "consigneePhone": "010-1"}, ""},
		{"no address", object{"consigneeAddress": nil}, "60"},
		{"address too long", object{"consigneeAddress": strings.Repeat("街", 101)}, "61"},
		{"no orderMark", object{"orderMark": nil}, "60"},
		{"orderMark too short", object{"orderMark": strings.Repeat("0", 49)}, "61"},
		{"to collect, marked", object{"orderMark": "1" + strings.Repeat("0", 49), "receivable": "12.50"}, ""},
		{"to collect, not marked", object{"receivable": 12.5}, "61"},
		{"marked, nothing to collect", object{"orderMark": "1" + strings.Repeat("0", 49), "receivable": "0.00"}, "61"},
		{"nothing to collect, as number", object{"receivable": 0}, ""},
		{"receivable negative", object{"receivable": "-1"}, "61"},
		{"time in another format", object{"salesPlatformCreateTime": "2021-06-18T09:00:00Z"}, "61"},
		{"time as epoch", object{"salesPlatformCreateTime": 1623979800000}, ""},
		{"no goods", object{"goodsNo": nil}, "60"},
		{"ERP's goods codes", object{"goodsNo": nil, "isvGoodsNo": "a,b"}, ""},
		{"goods list short", object{"goodsNo": "EMG1"}, "61"},
		{"a goods number empty", object{"goodsNo": "EMG1,"}, "61"},
		{"no quantity", object{"quantity": nil}, "60"},
		{"quantity list long", object{"quantity": "1,1,1"}, "61"},
		{"quantity zero", object{"quantity": "1,0"}, "61"},
		{"quantity negative", object{"quantity": "1,-1"}, "61"},
		{"quantity not whole", object{"quantity": "1,1.5"}, "61"},
		{"quantity as a number", object{"goodsNo": "EMG1", "quantity": 2, "orderLine": 1, "price": 9.9}, ""},
		{"price list short", object{"price": "1.00"}, "61"},
		{"price in words", object{"price": "1.00,free"}, "61"},
		{"line ids short", object{"orderLine": "1"}, "61"},
		{"merchant's note too long: JD cuts it", object{"sellerNote": strings.Repeat("注", 201)}, ""},
		{"insured value too long", object{"insuredValue": strings.Repeat("9", 12) + ".00"}, "61"},
		{"line ids of 50 characters", object{"orderLine": strings.Repeat("1", 50) + ",2"}, ""},
		{"a line id too long", object{"orderLine": strings.Repeat("1", 51) + ",2"}, "61"},
		{"batch attributes with escaped commas", object{"batAttrs": `[{"a":1}_$_{"b":2}],[]`}, ""},
		{"nulls as the Java SDK sends them", object{"goodsLevel": nil, "expectDate": json.RawMessage("null")}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := still(t)
			_, err := s.call(addOrder, with(anOrder("A-1"), row.change))
			if row.code == "" && err != nil {
				t.Error(err)
			} else if row.code != "" {
				refusedWith(t, err, row.code)
				equal(t, "documents", len(s.Documents()), 0)
			}
		})
	}
}

func TestMasterDataIsObeyed(t *testing.T) {
	s := still(t, func(c *jdsandbox.Config) {
		c.Shops = []jdsandbox.Shop{{ShopNo: "ESP0020000000001", DeptNo: dept, IsvShopNo: "S1", BdOwnerNo: "010K1"}, {ShopNo: "ESP2", DeptNo: "EBU2"}}
		c.Warehouses = []jdsandbox.Warehouse{{WarehouseNo: "110000001", WarehouseName: "北京", Status: "1"}, {WarehouseNo: "2", Departments: []string{"EBU2"}}}
		c.Shippers = []jdsandbox.Shipper{{ShipperNo: "CYS0000010", ShipperName: "京东"}, {ShipperNo: "CYS2", Status: "0", IsCod: "0"}}
		c.Departments = []jdsandbox.Department{{DeptNo: dept, DeptName: "事业部一"}, {DeptNo: "EBU2", Disabled: true}}
		c.Suppliers = []jdsandbox.Supplier{{EclpSupplierNo: "EMS1", SupplierName: "供应商", DeptNo: dept, Status: "2"}, {EclpSupplierNo: "EMS2", DeptNo: dept, Status: "3"}, {EclpSupplierNo: "EMS3", DeptNo: "EBU2"}}
		c.Shops = append(c.Shops, jdsandbox.Shop{ShopNo: "ESP3", DeptNo: dept, Disabled: true})
	})
	s.add(anOrder("A-1"))
	for _, row := range []struct {
		change object
		says   string
	}{
		{object{"shopNo": "ESP2"}, "店铺[ESP2]不存在"}, {object{"shopNo": "ESP3"}, "店铺[ESP3]已停用"},
		{object{"warehouseNo": "2"}, "仓库[2]不存在"},
		{object{"shipperNo": "CYS2"}, "承运商[CYS2]已停用"}, {object{"shipperNo": "CYS3"}, "承运商[CYS3]不存在"},
		{object{"departmentNo": "EBU2"}, "事业部[EBU2]已停用"}, {object{"departmentNo": "EBU9"}, "事业部[EBU9]不存在"},
	} {
		_, err := s.call(addOrder, with(anOrder("A-2"), row.change))
		equal(t, say(row.change), fmt.Sprint(err), "5001 "+row.says)
	}
	for _, row := range []struct {
		method, key string
		business    object
		want        string
	}{
		{"eclp.master.queryWarehouse", "querywarehouse_result", object{"deptNo": dept, "warehouseNos": "", "status": ""}, "[110000001]"},
		{"eclp.master.queryWarehouse", "querywarehouse_result", object{"deptNo": "EBU2"}, "[110000001 2]"},
		{"eclp.master.queryWarehouse", "querywarehouse_result", object{"deptNo": "EBU2", "warehouseNos": "2,3"}, "[2]"},
		{"eclp.master.queryShop", "queryshop_result", object{"deptNo": dept}, "[ESP0020000000001 ESP3]"},
		{"eclp.master.queryShop", "queryshop_result", object{"deptNo": dept, "isvShopNos": "S2"}, "[]"},
		{"eclp.master.queryShipper", "queryshipper_result", object{}, "[CYS0000010 CYS2]"},
		{"eclp.master.queryDept", "querydept_result", object{}, "[" + dept + " EBU2]"},
		{"eclp.master.queryDept", "querydept_result", object{"deptNos": "EBU2,EBU3"}, "[EBU2]"},
		{"eclp.master.querySupplier", "querysupplier_result", object{"deptNo": dept}, "[EMS1 EMS2]"},
		{"eclp.master.querySupplier", "querysupplier_result", object{"deptNo": dept, "supplierNos": "EMS2,EMS3"}, "[EMS2]"},
		{"eclp.master.querySpSource", "queryspsource_result", object{}, "[1 2 3 4 6 7 8 17 21 48 84 92 123 299 8040355 8040559]"},
	} {
		answer, err := s.call(row.method, row.business)
		if err != nil {
			t.Fatal(err)
		}
		nos := []string{}
		for _, r := range rows(answer[row.key]) {
			name := map[string]string{"queryDept": "deptNo", "querySupplier": "eclpSupplierNo", "querySpSource": "spSourceNo",
				"queryWarehouse": "warehouseNo", "queryShop": "shopNo", "queryShipper": "shipperNo"}[row.method[len("eclp.master."):]]
			nos = append(nos, r[name].(string))
		}
		equal(t, row.method, say(nos), row.want)
	}
	_, err := s.call("eclp.master.queryWarehouse", object{})
	refusedWith(t, err, "60")
}

// TestWithoutListsEveryNumberIsThere: a sandbox without master data accepts any number, so it lists any that is asked
// for.
func TestWithoutListsEveryNumberIsThere(t *testing.T) {
	s := still(t)
	for _, row := range []struct {
		method, key, field string
		business           object
	}{
		{"queryDept", "querydept_result", "deptNo", object{"deptNos": "A,B"}},
		{"queryShop", "queryshop_result", "shopNo", object{"deptNo": dept, "shopNos": "A,B"}},
		{"queryWarehouse", "querywarehouse_result", "warehouseNo", object{"deptNo": dept, "warehouseNos": "A,B"}},
		{"queryShipper", "queryshipper_result", "shipperNo", object{"shipperNos": "A,B"}},
		{"querySupplier", "querysupplier_result", "eclpSupplierNo", object{"deptNo": dept, "supplierNos": "A,B"}},
	} {
		answer, err := s.call("eclp.master."+row.method, row.business)
		if err != nil {
			t.Fatal(err)
		}
		nos := []any{}
		for _, r := range rows(answer[row.key]) {
			nos = append(nos, r[row.field])
		}
		equal(t, row.method, say(nos), "[A B]")
	}
}

// TestAnOrderWalksToItsEnd follows one order to the end.
func TestAnOrderWalksToItsEnd(t *testing.T) {
	s := still(t)
	no := s.add(anOrder("A-1"))
	equal(t, "number", no, "ESL4400000000001")
	q := s.query(no)
	equal[any](t, "status", q["currentStatus"], "10010")
	equal[any](t, "waybill", q["wayBill"], "")
	if _, early := rows(q["orderDetailList"])[0]["realOutQty"]; early || len(rows(q["orderPackageList"])) != 0 {
		t.Errorf("returned too early: %v", q)
	}
	if packs, err := s.call("eclp.order.queryOrderPacks", object{"eclpSoNo": no}); err != nil || len(rows(packs["queryorderpacks_result"])) != 0 {
		t.Errorf("got %v, %v", packs, err)
	}
	equal[any](t, "ext", s.find(object{"isvUUID": "A-1"})[0]["mainStatus"], "10010")

	s.advance(5 * time.Minute) // packed
	q = s.query(no)
	equal[any](t, "status", q["currentStatus"], "10018")
	equal[any](t, "waybill", q["wayBill"], "JDVA00000000101")
	equal(t, "lines", say(rows(q["orderDetailList"])[0]), "map[goodsNo:EMG1 isvGoodsNo: orderLine:1 price:9.90 quantity:3 realOutQty:3]")
	equal(t, "packages", say(q["orderPackageList"]), "[map[packVolume:0 packWeight:1.52 packageNo:JDVA00000000101-1-1- wayBill:JDVA00000000101]]")
	equal[any](t, "ISV number", q["isvUUID"], "A-1")
	equal[any](t, "consignee", q["consigneeName"], "张三")
	history := rows(q["orderStatusList"])
	equal(t, "history", say(history[5]), "map[operateTime:2021-06-18 09:35:00 operateUser:JD soStatusCode:10018 soStatusName:货品已打包]")
	packs, err := s.call("eclp.order.queryOrderPacks", object{"eclpSoNo": no + ",ESL0"})
	if err != nil {
		t.Fatal(err)
	}
	row := rows(packs["queryorderpacks_result"])[0]
	equal(t, "packs", say(row["packCount"], rows(row["orderPackageList"])[0]["soPackItemsList"]), "1 [map[goodsNo:EMG1 goodsNum:3] map[goodsNo:EMG2 goodsNum:1]]")

	s.advance(time.Hour)
	status, err := s.call("eclp.order.queryOrderStatus", object{"eclpSoNo": no})
	if err != nil {
		t.Fatal(err)
	}
	history = rows(status["queryorderstatus_result"].(object)["orderStatusList"])
	equal(t, "steps", len(history), len(quiet))
	equal[any](t, "end", history[8]["soStatusName"], "妥投")
	d := s.document(no)
	equal(t, "document", say(d.Status, d.WayBills, *d.Lines[1].RealOutQty, d.Params["orderMark"]), "10034 [JDVA00000000101] 1 "+strings.Repeat("0", 50))
}

func TestTimeGoesAtTheSpeedThatIsSet(t *testing.T) {
	s := start(t, func(c *jdsandbox.Config) { c.Speed, c.Knobs.Walk = 60, quiet })
	no := s.add(anOrder("A-1"))
	s.clock.Move(time.Second)
	equal(t, "after a second", s.document(no).Status, "10014")
	if err := s.SetSpeed(0); err != nil {
		t.Fatal(err)
	}
	s.clock.Move(time.Hour)
	equal(t, "stopped", s.document(no).Status, "10014")
	if err := s.SetSpeed(-1); err == nil {
		t.Error("a negative speed was taken")
	}
	if err := s.Advance(-1); err == nil {
		t.Error("the clock went back")
	}
}

func TestRepeatedNumber(t *testing.T) {
	s := still(t)
	first := s.add(anOrder("A-1"))
	second := s.add(anOrder("A-1"))
	if first == second {
		t.Error("the default hides double shipments")
	}
	equal(t, "rows", len(s.find(object{"isvUUID": "A-1"})), 2)
	v := s.Violations()
	equal(t, "violations", say(v.Total, v.Items[0].Kind, v.Items[0].IsvUUID, v.Items[0].EclpSoNos), "1 two_documents A-1 ["+first+" "+second+"]")

	s.set(func(k *jdsandbox.Knobs) { k.Repeat = jdsandbox.SameNumber })
	equal(t, "same", s.add(anOrder("A-1")), first)
	s.set(func(k *jdsandbox.Knobs) { k.Repeat, k.Refusal.Code = jdsandbox.RefuseRepeat, "7777" })
	_, err := s.call(addOrder, anOrder("A-1"))
	refusedWith(t, err, "7777")
	equal(t, "documents", len(s.Documents("A-1")), 2)
	n := s.Counters()
	equal(t, "counters", say(n.Accepted, n.Repeated, n.Refused), "2 3 map[7777:1]")
}

func TestALineThatIsLiveTwiceIsAViolation(t *testing.T) {
	for _, row := range []struct {
		name   string
		first  object
		before func(*sandbox, string)
		second object
		want   int64
	}{
		{name: "the same two lines under a new number", want: 2},
		{name: "one line of them", second: object{"goodsNo": "EMG2", "quantity": "1", "orderLine": "2", "price": nil}, want: 1},
		{name: "other lines of the platform order", second: object{"orderLine": "3,4"}},
		{name: "another platform order", second: object{"salesPlatformOrderNo": "SP-2"}},
		{name: "another department", second: object{"departmentNo": "EBU2"}},
		{name: "no line ids: cannot be identified", first: object{"orderLine": nil}, second: object{"orderLine": nil}},
		{name: "no platform number: cannot be identified", first: object{"salesPlatformOrderNo": nil}, second: object{"salesPlatformOrderNo": nil}},
		{name: "after the first was cancelled", before: cancelled},
		{name: "while the first is being cancelled", before: func(s *sandbox, no string) {
			s.advance(2 * time.Minute)
			cancelled(s, no)
		}, want: 2},
		{name: "after the first was delivered", before: func(s *sandbox, no string) { s.advance(time.Hour) }, want: 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := still(t)
			first := with(with(anOrder("A-1"), object{"salesPlatformOrderNo": "SP-1"}), row.first)
			no := s.add(first)
			if row.before != nil {
				row.before(s, no)
			}
			s.add(with(with(first, object{"isvUUID": "A-2"}), row.second))
			equal(t, "violations", s.Violations().Counts[jdsandbox.LineLiveTwice], row.want)
			equal(t, "others", s.Violations().Total, row.want)
		})
	}
}

func cancelled(s *sandbox, no string) {
	_, _ = s.call("eclp.order.cancelOrder", object{"eclpSoNo": no})
}

func TestACancellationSucceedsWaitsOrIsRefused(t *testing.T) {
	takes := func(k *jdsandbox.Knobs) { k.Cancel.Takes = jdsandbox.Range{Min: minute * 3 / 2} }
	for _, row := range []struct {
		name  string
		set   func(*jdsandbox.Knobs)
		after time.Duration
		codes string // of three cancellations: at once, at once again, an hour later
		end   string
	}{
		{"sent to the warehouse", takes, time.Minute, "1 1 1", "10010 10014 10028"},
		{"picking", takes, 2 * time.Minute, "3 3 1", "10010 10014 10015 10016 10028"},
		{"picking, packed before the decision", func(k *jdsandbox.Knobs) { k.Cancel.Takes = jdsandbox.Range{Min: minute * 7 / 2} }, 2 * time.Minute, "3 3 2",
			"10010 10014 10015 10016 10017 10018 10029 10019 10033 10034 10029"},
		{"picking, decided against", func(k *jdsandbox.Knobs) { takes(k); k.Cancel.RefusedLater = 1 }, 2 * time.Minute, "3 3 2",
			"10010 10014 10015 10016 10029 10017 10018 10019 10033 10034 10029"},
		{"checking", takes, 4 * time.Minute, "2 2 2", "10010 10014 10015 10016 10017 10029 10018 10019 10033 10034 10029"},
		{"checking, by another answer", func(k *jdsandbox.Knobs) { k.Cancel.Answers["10017"] = jdsandbox.Cancelled }, 4 * time.Minute, "1 1 1", "10010 10014 10015 10016 10017 10028"},
		{"packed", takes, 5 * time.Minute, "2 2 2", "10010 10014 10015 10016 10017 10018 10029 10019 10033 10034 10029"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := still(t)
			s.set(row.set)
			no := s.add(anOrder("A-1"))
			s.advance(row.after)
			var codes []string
			for _, wait := range []time.Duration{0, time.Hour, 0} {
				answer, err := s.call("eclp.order.cancelOrder", object{"eclpSoNo": no})
				if err != nil {
					t.Fatal(err)
				}
				codes = append(codes, answer["cancelorder_result"].(object)["code"].(string))
				s.advance(wait)
			}
			equal(t, "codes", strings.Join(codes, " "), row.codes)
			equal(t, "history", path(s.document(no)), row.end)
		})
	}
}

func path(d jdsandbox.Document) string {
	var codes []string
	for _, h := range d.History {
		codes = append(codes, string(h.Code))
	}
	return strings.Join(codes, " ")
}

func TestAnOrderIsSplitIntoChildren(t *testing.T) {
	s := still(t, knobs(func(k *jdsandbox.Knobs) { k.Split.Orders, k.Split.At = []string{"A-1", "A-3"}, "10014" }))
	no := s.add(anOrder("A-1"))
	s.add(anOrder("A-2"))
	s.add(with(anOrder("A-3"), object{"goodsNo": "EMG1", "quantity": "1", "orderLine": "1", "price": nil})) // cannot be split
	equal(t, "before", say(len(s.Documents()), s.query(no)["splitEclpSoNos"]), "3 ")
	_, err := s.call("eclp.order.queryOrder", object{"eclpSoNo": "ESL4400000000002"})
	refusedWith(t, err, "5001") // the child is not there yet

	s.advance(time.Minute)
	q := s.query(no)
	equal(t, "after", say(q["splitFlag"], q["splitEclpSoNos"]), "1 ESL4400000000002,ESL4400000000003")
	equal(t, "rows", len(s.find(object{"isvUUID": "A-1"})), 1)
	s.set(func(k *jdsandbox.Knobs) { k.Split.ListChildren = true })
	equal(t, "rows with children", len(s.find(object{"isvUUID": "A-1"})), 3)
	s.advance(4 * time.Minute)
	equal(t, "parent", say(path(s.document(no)), s.query(no)["wayBill"]), "10010 10014 10015 10016 10017 10018 ")
	var goods []string
	for _, child := range strings.Split(s.query(no)["splitEclpSoNos"].(string), ",") {
		q := s.query(child)
		line := rows(q["orderDetailList"])[0]
		goods = append(goods, say(q["isvUUID"], q["wayBill"], q["currentStatus"], line["orderLine"], line["realOutQty"]))
	}
	equal(t, "children", strings.Join(goods, "; "), "A-1 JDVA00000000201 10018 1 3; A-1 JDVA00000000301 10018 2 1")
	s.set(func(k *jdsandbox.Knobs) { k.Split.ParentStays = true })
	equal(t, "staying parent", path(s.document(no)), "10010 10014")
	equal(t, "violations", s.Violations().Total, 0)
	equal(t, "children counted", s.Counters().Children, 2)
}

func TestOneChildOfASplitOrderMayBeCancelled(t *testing.T) {
	s := still(t, knobs(func(k *jdsandbox.Knobs) {
		k.Split.Chance, k.OwnCancel.Chance = 1, 1
	}))
	no := s.add(anOrder("A-1"))
	s.advance(4 * time.Minute)
	children := s.document(no).Children
	equal(t, "statuses", say(s.document(no).Status, s.document(children[0]).Status, s.document(children[1]).Status), "10017 10017 10028")
	answer, _ := s.call("eclp.order.cancelOrder", object{"eclpSoNo": no})
	equal[any](t, "cancel", answer["cancelorder_result"].(object)["code"], "2")

	other := s.add(anOrder("A-2"))
	answer, _ = s.call("eclp.order.cancelOrder", object{"eclpSoNo": other})
	equal[any](t, "cancel at once", answer["cancelorder_result"].(object)["code"], "1")
	equal(t, "parent of the cancelled", s.document(other).Status, "10028")
}

func TestACancelledOrderIsNotSplit(t *testing.T) {
	s := still(t, knobs(func(k *jdsandbox.Knobs) { k.Split.Chance, k.Split.At = 1, "10014" }))
	no := s.add(anOrder("A-1"))
	answer, _ := s.call("eclp.order.cancelOrder", object{"eclpSoNo": no})
	equal[any](t, "cancel", answer["cancelorder_result"].(object)["code"], "1")
	s.advance(time.Hour)
	equal(t, "documents", len(s.Documents()), 1)
	equal(t, "history", path(s.document(no)), "10010 10028")
}

func TestNamedOrdersMeetTheirFate(t *testing.T) {
	s := still(t, knobs(func(k *jdsandbox.Knobs) {
		k.OwnCancel.Orders, k.Short.Orders, k.Rejected.Orders = []string{"C"}, []string{"S"}, []string{"R"}
		k.Packages, k.Jitter = 3, 0.5
	}))
	for _, number := range []string{"C", "S", "R"} {
		s.add(anOrder(number))
	}
	s.advance(100 * time.Hour)
	one := func(number string) jdsandbox.Document { return s.Documents(number)[0] }
	equal(t, "cancelled by JD", path(one("C")), "10010 10014 10015 10028")
	equal(t, "refused by the buyer", path(one("R")), "10010 10014 10015 10016 10017 10018 10019 10033 10035 10037 10038")
	left := int64(0)
	for _, l := range one("S").Lines {
		left += *l.RealOutQty
	}
	if left < 1 || left > 3 {
		t.Errorf("short: %d of 4 left", left)
	}
	equal(t, "a line given back is no longer live", s.add(with(anOrder("R2"), object{"salesPlatformOrderNo": "SP-R"})) != "" && s.Violations().Total == 0, true)
}

func TestAnUnknownNumberIsAnsweredAsTheKnobSays(t *testing.T) {
	s := still(t)
	ask := func(method string) (object, error) { return s.call(method, object{"eclpSoNo": "ESL0"}) }
	for _, m := range []string{"eclp.order.queryOrder", "eclp.order.queryOrderStatus", "eclp.order.cancelOrder"} {
		_, err := ask(m)
		refusedWith(t, err, "5001")
	}
	s.set(func(k *jdsandbox.Knobs) { k.UnknownNumber = jdsandbox.AnswerEmpty })
	answer, err := ask("eclp.order.queryOrder")
	equal(t, "empty", say(answer, err), "map[code:0 queryorder_result:map[]] <nil>")
	s.set(func(k *jdsandbox.Knobs) { k.UnknownNumber = jdsandbox.AnswerMissing })
	answer, err = ask("eclp.order.queryOrder")
	equal(t, "missing", say(answer, err), "map[code:0] <nil>")
}

func TestOrdersAreFoundByTheERPsNumbers(t *testing.T) {
	s := still(t)
	s.add(anOrder("A-1"))
	s.add(anOrder("A-2"))
	equal(t, "two of three", len(s.find(object{"isvUUID": "A-2,A-0,A-1", "departmentNo": dept})), 2)
	equal(t, "by platform number", say(s.find(object{"spSoNos": "SP-A-1"})[0]["isvUUID"]), "A-1")
	equal(t, "other department", len(s.find(object{"isvUUID": "A-1", "departmentNo": "EBU2"})), 0)
	s.set(func(k *jdsandbox.Knobs) { k.AbsentRows = true })
	absent := s.find(object{"isvUUID": "A-0"})
	equal(t, "row of the absent", say(absent[0]["isvUUID"], absent[0]["eclpSoNo"]), "A-0 ")
	hundred := strings.Repeat("x,", 99) + "A-1"
	equal(t, "a hundred", len(s.find(object{"isvUUID": hundred})), 100)
	_, err := s.call("eclp.order.ext.queryOrder", object{"isvUUID": hundred + ",x"})
	refusedWith(t, err, "61")

	s.set(func(k *jdsandbox.Knobs) { k.AbsentRows, k.FindLag = false, jdsandbox.Duration(5*time.Second) })
	equal(t, "too fresh", len(s.find(object{"isvUUID": "A-1"})), 0)
	s.clock.Move(5 * time.Second)
	equal(t, "seen at last", len(s.find(object{"isvUUID": "A-1"})), 1)
}

func TestKnobsChangeTheFormOfAnswers(t *testing.T) {
	s := still(t)
	no := s.add(anOrder("A-1"))
	s.advance(time.Hour)
	plain := s.query(no)
	s.set(func(k *jdsandbox.Knobs) { k.HistoryShuffled, k.HistoryDoubled = true, true })
	list := rows(s.query(no)["orderStatusList"])
	sorted := slices.IsSortedFunc(list, func(a, b object) int { return strings.Compare(a["operateTime"].(string), b["operateTime"].(string)) })
	equal(t, "history", say(len(list), sorted), "18 false")

	s.set(func(k *jdsandbox.Knobs) { k.HistoryShuffled, k.HistoryDoubled, k.ScalarsAsArrays = false, false, true })
	q := s.query(no)
	equal(t, "arrays", say(q["wayBill"], rows(q["orderDetailList"])[0]["quantity"]), "[JDVA00000000101] [3]")
	s.set(func(k *jdsandbox.Knobs) { k.ScalarsAsArrays, k.Numbers = false, "text" })
	q = s.query(no)
	equal(t, "numbers as text", fmt.Sprintf("%T %T", rows(q["orderDetailList"])[0]["quantity"], rows(q["orderStatusList"])[0]["soStatusCode"]), "string string")
	s.set(func(k *jdsandbox.Knobs) { k.Numbers = "numbers" })
	q = s.query(no)
	equal(t, "text as numbers", fmt.Sprintf("%T %T", q["currentStatus"], q["isvUUID"]), "float64 string")
	s.set(func(k *jdsandbox.Knobs) { k.Numbers, k.ExtraKeys = "", true })
	q = s.query(no)
	delete(q, "sandboxExtra")
	equal(t, "extra keys", len(q), len(plain))
}

// TestRandomChoicesAreSeeded: the same orders have the same history, in whatever sequence they arrive.
func TestRandomChoicesAreSeeded(t *testing.T) {
	fate := func(seed uint64, reversed bool) string {
		s := start(t, func(c *jdsandbox.Config) {
			c.Seed, c.Stopped = seed, true
			c.Knobs = jdsandbox.Knobs{Jitter: 0.5, Packages: 4}
			c.Knobs.Split.Chance, c.Knobs.OwnCancel.Chance, c.Knobs.Short.Chance, c.Knobs.Rejected.Chance = 0.3, 0.2, 0.2, 0.2
			c.Knobs.Faults = []jdsandbox.Fault{{Kind: jdsandbox.LoseAnswer, Chance: 0.3}, {Kind: jdsandbox.Error, Code: "65", Chance: 0.3, Work: jdsandbox.WorkDone}}
		})
		var numbers []string
		for i := range 60 {
			numbers = append(numbers, fmt.Sprintf("A-%d", i))
		}
		if reversed {
			slices.Reverse(numbers)
		}
		for _, number := range numbers {
			_, _ = s.call(addOrder, anOrder(number))
		}
		s.advance(1000 * time.Hour)
		answers := map[string]string{}
		for _, c := range s.Calls() {
			answers[c.IsvUUID] = c.Answer
		}
		slices.Sort(numbers)
		var all strings.Builder
		for _, number := range numbers {
			docs := s.Documents(number)
			fmt.Fprintf(&all, "%s %s %d", number, answers[number], len(docs))
			for _, d := range docs {
				fmt.Fprintf(&all, " %s %d", path(d), len(d.Packages))
				for _, l := range d.Lines {
					if l.RealOutQty != nil {
						fmt.Fprintf(&all, " %d", *l.RealOutQty)
					}
				}
			}
			all.WriteByte('\n')
		}
		return all.String()
	}
	if a, b := fate(7, false), fate(7, true); a != b {
		t.Errorf("two fates from one seed:\n%s\n%s", a, b)
	}
	if fate(7, false) == fate(8, false) {
		t.Error("the seed does not matter")
	}
}

// TestGoodsAddUp: what is split, shortened and packed adds up, for many shapes of orders.
func TestGoodsAddUp(t *testing.T) {
	for seed := range uint64(40) {
		s := still(t, func(c *jdsandbox.Config) {
			c.Seed = seed
			c.Knobs.Packages, c.Knobs.Split.Parts = int(seed%5)+1, int(seed%4)+2
			c.Knobs.Split.Chance, c.Knobs.Short.Chance = 0.7, 0.5
		})
		asked := map[string]int64{}
		lines := int(seed%7) + 1
		var goods, quantities []string
		for i := range lines {
			q := (seed*7 + uint64(i)*3) % 9
			goods, quantities = append(goods, fmt.Sprintf("EMG%d", i)), append(quantities, say(q+1))
			asked[goods[i]] = int64(q) + 1
		}
		o := with(anOrder("A"), object{"goodsNo": strings.Join(goods, ","), "quantity": strings.Join(quantities, ","), "orderLine": nil, "price": nil})
		no := s.add(o)
		s.advance(time.Hour)
		leaves := []jdsandbox.Document{s.document(no)}
		if children := leaves[0].Children; len(children) > 0 {
			leaves = nil
			for _, c := range children {
				leaves = append(leaves, s.document(c))
			}
		}
		left, shipped := int64(0), int64(0)
		for _, d := range leaves {
			packed := map[string]int64{}
			for _, p := range d.Packages {
				for _, g := range p.Goods {
					packed[g.GoodsNo] += g.GoodsNum
				}
			}
			for _, l := range d.Lines {
				asked[l.GoodsNo] -= l.Quantity
				left += *l.RealOutQty
				shipped += l.Quantity
				if packed[l.GoodsNo] != *l.RealOutQty || *l.RealOutQty < 0 || *l.RealOutQty > l.Quantity {
					t.Errorf("seed %d: %s packed %d, out %d of %d", seed, l.GoodsNo, packed[l.GoodsNo], *l.RealOutQty, l.Quantity)
				}
			}
		}
		for g, rest := range asked {
			if rest != 0 {
				t.Errorf("seed %d: %s is off by %d", seed, g, rest)
			}
		}
		if left == 0 || left > shipped {
			t.Errorf("seed %d: %d of %d left", seed, left, shipped)
		}
	}
}

// TestManyCallersAtOnceLoseNothing has 64 callers send each order up to three times while others read, advance and change knobs.
func TestManyCallersAtOnceLoseNothing(t *testing.T) {
	s := start(t, func(c *jdsandbox.Config) {
		c.State = t.TempDir() + "/jd.journal"
		c.Knobs.Split.Chance, c.Knobs.OwnCancel.Chance = 0.1, 0.1
		c.Knobs.Faults = []jdsandbox.Fault{{Kind: jdsandbox.LoseAnswer, Chance: 0.1}, {Kind: jdsandbox.Drop, Chance: 0.1}}
	})
	const orders = 600
	work := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range work {
				number := fmt.Sprintf("A-%d", i)
				for range 3 {
					if answer, err := s.call(addOrder, anOrder(number)); err == nil {
						_, _ = s.call("eclp.order.queryOrder", object{"eclpSoNo": answer["eclpSoNo"]})
						_, _ = s.call("eclp.order.cancelOrder", object{"eclpSoNo": answer["eclpSoNo"]})
						break
					}
				}
				_, _ = s.call("eclp.order.ext.queryOrder", object{"isvUUID": number})
				switch i % 50 {
				case 0:
					_ = s.Advance(time.Hour)
				case 1:
					_ = s.SetKnobs(func(k *jdsandbox.Knobs) { k.Packages = i%3 + 1 })
				case 2:
					s.Documents()
					s.Violations()
				}
			}
		})
	}
	for i := range orders {
		work <- i
	}
	close(work)
	wg.Wait()

	n, surplus, roots := s.Counters(), int64(0), int64(0)
	held := map[string]int64{}
	for _, d := range s.Documents() {
		if d.Parent == "" {
			held[d.IsvUUID]++
			roots++
		}
	}
	for _, docs := range held {
		surplus += docs - 1
	}
	equal(t, "documents", roots, n.Accepted)
	equal(t, "two documents", s.Violations().Counts[jdsandbox.TwoDocuments], surplus)
	equal(t, "repeated", n.Repeated, surplus)
	if surplus == 0 || n.LostAnswers == 0 {
		t.Errorf("nothing went wrong: %+v", n)
	}
}

func BenchmarkAddOrder(b *testing.B) {
	s := start(b)
	b.SetParallelism(32)
	var mu sync.Mutex
	next := 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			next++
			number := fmt.Sprintf("A-%d", next)
			mu.Unlock()
			s.add(anOrder(number))
		}
	})
}
