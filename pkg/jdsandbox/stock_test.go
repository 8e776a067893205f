package jdsandbox_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

const (
	shopNo      = "ESP0020000000001"
	warehouseNo = "110000001"
)

// stocked has 10 of EMG1 and 5 of EMG2 for the shop of anOrder.
func stocked(c *jdsandbox.Config) {
	c.Stock = []jdsandbox.Stock{
		{DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: "EMG1", IsvGoodsNo: "SKU1", SpGoodsNo: "SP1", GoodsName: "杯子", Shops: map[string]int64{shopNo: 10}},
		{
			DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: "EMG2", Shops: map[string]int64{shopNo: 5}, Num: 7,
			Others: []jdsandbox.Kept{{GoodsLevel: "200", Num: 2}},
		},
	}
}

// act is an act about EMG1 in the shop.
func act(kind jdsandbox.ActKind, num int64, change ...func(*jdsandbox.StockAct)) jdsandbox.StockAct {
	a := jdsandbox.StockAct{Kind: kind, DeptNo: dept, WarehouseNo: warehouseNo, ShopNo: shopNo, GoodsNo: "EMG1", Num: num}
	for _, f := range change {
		f(&a)
	}
	return a
}

func (s *sandbox) move(acts ...jdsandbox.StockAct) []jdsandbox.Movement {
	s.t.Helper()
	rows, err := s.Move(acts...)
	if err != nil {
		s.t.Fatal(err)
	}
	return rows
}

// has is "num/occupied" of the shop's goods, and "total/usable" of what can be sold of it in the warehouse.
func (s *sandbox) has(goods string) string {
	s.t.Helper()
	truth := s.Stock(jdsandbox.StockQuery{DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: goods})
	var text string
	for _, r := range truth.Shops {
		if r.ShopNo == shopNo {
			text = fmt.Sprintf("%d/%d", r.Num, r.Occupied)
		}
	}
	for _, r := range truth.Warehouses {
		if r.StockStatus == "1" && r.StockType == "1" {
			text += fmt.Sprintf(" %d/%d", r.Total, r.Usable)
		}
	}
	return text
}

// window asks for a page of the shop's flow around the host's now.
func (s *sandbox) window(page int, change object) ([]object, error) {
	now := s.clock.Now()
	answer, err := s.call("eclp.stock.queryVmiShopStockFlow", with(object{
		"deptNo": dept, "warehouseNo": warehouseNo, "shopNo": shopNo, "startPage": page,
		"startTime": stamp(now.Add(-24 * time.Hour)), "endTime": stamp(now.Add(24 * time.Hour)),
	}, change))
	if err != nil {
		return nil, err
	}
	return rows(answer["vmiShopStockFlowList"]), nil
}

func stamp(at time.Time) string { return at.In(beijing).Format("2006-01-02 15:04:05") }

// flow reads all pages to the end, as the documentation has it, and returns flow numbers.
func (s *sandbox) flow(change object) []string {
	s.t.Helper()
	var ids []string
	for page := 1; ; page++ {
		list, err := s.window(page, change)
		var no refusal
		if errors.As(err, &no) && no.zh == jdsandbox.EndSentence {
			return ids
		}
		if err != nil {
			s.t.Fatal(err)
		}
		for _, row := range list {
			ids = append(ids, fmt.Sprint(row["flowId"]))
		}
	}
}

func ids(rows []jdsandbox.Movement) []string {
	var list []string
	for _, r := range rows {
		list = append(list, r.FlowID)
	}
	return list
}

func (s *sandbox) truth() []jdsandbox.Movement {
	rows, _ := s.Movements(jdsandbox.StockQuery{})
	return rows
}

func TestAnOrderOccupiesThenLeavesTheStock(t *testing.T) {
	for _, row := range []struct {
		name, order      string
		knobs            func(*jdsandbox.Knobs)
		cancelAfter      time.Duration
		taken, out, back string // of EMG1
		reasons          string
	}{
		{name: "an order is shipped", taken: "10/3 10/7", out: "7/0 7/7", back: "7/0 7/7", reasons: "订单占用 销售出库"},
		{
			name: "it is cancelled", cancelAfter: time.Minute, taken: "10/3 10/7", out: "10/0 10/10", back: "10/0 10/10",
			reasons: "订单占用 占用释放",
		},
		{
			name: "the buyer refuses it", knobs: func(k *jdsandbox.Knobs) { k.Rejected.Chance = 1 },
			taken: "10/3 10/7", out: "7/0 7/7", back: "10/0 10/10", reasons: "订单占用 销售出库 拒收入库",
		},
		{
			name: "it is split", knobs: func(k *jdsandbox.Knobs) { k.Split.Chance, k.Split.Parts = 1, 3 },
			taken: "10/3 10/7", out: "7/0 7/7", back: "7/0 7/7", reasons: "订单占用 销售出库",
		},
		{
			name: "it is cancelled before it would have been split", knobs: func(k *jdsandbox.Knobs) { k.Split.Chance, k.Split.At = 1, "10014" },
			cancelAfter: 10 * time.Second, taken: "10/3 10/7", out: "10/0 10/10", back: "10/0 10/10", reasons: "订单占用 占用释放",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := still(t, stocked)
			if row.knobs != nil {
				s.set(row.knobs)
			}
			no := s.add(anOrder("A-1"))
			equal(t, "taken", s.has("EMG1"), row.taken)
			if row.cancelAfter > 0 {
				s.advance(row.cancelAfter)
				if _, err := s.call("eclp.order.cancelOrder", object{"eclpSoNo": no}); err != nil {
					t.Fatal(err)
				}
			}
			s.advance(24 * time.Hour)
			equal(t, "out", s.has("EMG1"), row.out)
			s.advance(300 * time.Hour)
			equal(t, "in the end", s.has("EMG1"), row.back)
			var reasons []string
			for _, m := range s.truth() {
				if m.GoodsNo == "EMG1" && !slices.Contains(reasons, m.Reason) {
					reasons = append(reasons, m.Reason)
				}
			}
			equal(t, "reasons", strings.Join(reasons, " "), row.reasons)
			sums(t, s.JD)
		})
	}
}

// sums checks the arithmetic: each goods' rows form a series from the opening balance to the present, in time, and so do
// the reserved pieces.
func sums(t *testing.T, jd *jdsandbox.JD) {
	t.Helper()
	type key struct{ dept, warehouse, shop, goods string }
	type end struct {
		num, occupied int64
		at            time.Time
		rows          int64
	}
	truth, ends := jd.Stock(jdsandbox.StockQuery{}), map[key]end{}
	for _, s := range truth.Shops {
		ends[key{s.DeptNo, s.WarehouseNo, s.ShopNo, s.GoodsNo}] = end{num: s.Opening}
	}
	seen := map[string]bool{}
	all, _ := jd.Movements(jdsandbox.StockQuery{})
	for _, m := range all {
		k := key{m.DeptNo, m.WarehouseNo, m.ShopNo, m.GoodsNo}
		e := ends[k]
		if m.Former != e.num || m.Occupied-m.Hold != e.occupied || m.At.Before(e.at) || seen[m.FlowID] {
			t.Errorf("%+v does not follow %+v", m, e)
		}
		seen[m.FlowID], ends[k] = true, end{m.Now, m.Occupied, m.At, e.rows + 1}
	}
	for _, s := range truth.Shops {
		if e := ends[key{s.DeptNo, s.WarehouseNo, s.ShopNo, s.GoodsNo}]; e.num != s.Num || e.occupied != s.Occupied || e.rows != s.Rows {
			t.Errorf("%+v is not what its rows make: %+v", s, e)
		}
	}
}

func TestWhatActsMove(t *testing.T) {
	to := func(level, into string) func(*jdsandbox.StockAct) {
		return func(a *jdsandbox.StockAct) { a.GoodsLevel, a.IntoLevel = level, into }
	}
	for _, row := range []struct {
		name string
		act  jdsandbox.StockAct
		row  string // former→now reason
		has  string
	}{
		{"a purchase", act(jdsandbox.Receipt, 4), "10→14 采购入库", "14/0 14/14"},
		{"a return", act(jdsandbox.Return, 1), "10→11 退货入库", "11/0 11/11"},
		{"a return of broken pieces", act(jdsandbox.Return, 1, to("200", "")), "", "10/0 10/10"},
		{"a gain", act(jdsandbox.Gain, 2), "10→12 盘盈", "12/0 12/12"},
		{"a loss", act(jdsandbox.Loss, 2), "10→8 盘亏", "8/0 8/8"},
		{"pieces break", act(jdsandbox.LevelChange, 3, to("100", "200")), "10→7 等级变更", "7/0 7/7"},
		{"pieces are good after all", act(jdsandbox.LevelChange, 3, to("200", "100")), "10→13 等级变更", "13/0 13/13"},
		{"a setting", act(jdsandbox.SetStock, 3), "10→3 设置VMI库存", "3/0 10/10"},
		{"a ratio", act(jdsandbox.RatioChange, 0, func(a *jdsandbox.StockAct) { a.GoodsNo, a.Percent = "", 50 }), "10→5 商品库存比例调整", "5/0 10/10"},
		{"a sale of JD's own", act(jdsandbox.Sale, 2), "10→8 销售出库", "8/0 8/8"},
		{"a sale of more than there is", act(jdsandbox.Sale, 12), "10→-2 销售出库", "-2/0 -2/-2"},
		{"only the warehouse has it", act(jdsandbox.Receipt, 4, func(a *jdsandbox.StockAct) { a.ShopNo = "" }), "", "10/0 14/14"},
		{"a reason of one's own", act(jdsandbox.Receipt, 4, func(a *jdsandbox.StockAct) { a.Reason, a.DocumentNo = "调拨入库", "ENP1" }), "10→14 调拨入库", "14/0 14/14"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := still(t, stocked)
			var text string
			for _, m := range s.move(row.act) {
				if m.GoodsNo == "EMG1" {
					text = fmt.Sprintf("%d→%d %s", m.Former, m.Now, m.Reason)
					equal(t, "document", row.act.DocumentNo == "" || m.DocumentNo == row.act.DocumentNo, true)
				}
			}
			equal(t, "row", text, row.row)
			equal(t, "has", s.has("EMG1"), row.has)
			if text != "" {
				list, err := s.window(1, object{"goodsNo": "EMG1"})
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "listed", fmt.Sprintf("%v→%v %v", list[0]["formerNum"], list[0]["nowNum"], list[0]["bizTypeName"]), row.row)
			}
			sums(t, s.JD)
		})
	}
}

// TestGoodsThatWereNeverStockedAreNotCounted: without stocked goods, stock shows nothing.
func TestGoodsThatWereNeverStockedAreNotCounted(t *testing.T) {
	s := still(t)
	s.add(anOrder("A-1"))
	s.advance(24 * time.Hour)
	equal(t, "rows", len(s.truth()), 0)
	equal(t, "listed", len(s.flow(nil)), 0)
	equal(t, "stock", s.has("EMG1"), "")
}

func TestOrdersForWhatIsNotThere(t *testing.T) {
	s := still(t, stocked)
	s.add(with(anOrder("A-1"), object{"goodsNo": "EMG9,EMG2"}))
	s.add(with(anOrder("A-2"), object{"quantity": "30,1"}))
	equal(t, "below zero", s.has("EMG1"), "10/30 10/-20")
	equal(t, "lowest", s.Stock(jdsandbox.StockQuery{GoodsNo: "EMG1"}).Shops[0].LowestFree, -20)

	s = still(t, stocked, knobs(func(k *jdsandbox.Knobs) { k.Stock.Unstocked, k.Stock.Lacking = "refuse", "refuse" }))
	_, err := s.call(addOrder, with(anOrder("A-1"), object{"goodsNo": "EMG9,EMG2"}))
	refusedWith(t, err, "5001")
	_, err = s.call(addOrder, with(anOrder("A-2"), object{"quantity": "11,1"}))
	refusedWith(t, err, "5001")
	_, err = s.call(addOrder, with(anOrder("A-3"), object{"goodsNo": "EMG1,EMG1", "quantity": "6,5"}))
	refusedWith(t, err, "5001")
	s.add(with(anOrder("A-4"), object{"quantity": "10,1"}))
	_, err = s.call(addOrder, anOrder("A-5"))
	refusedWith(t, err, "5001")
	_, err = s.call(addOrder, with(anOrder("A-6"), object{"goodsNo": nil, "isvGoodsNo": "SKU1", "quantity": "1", "orderLine": nil, "price": nil}))
	equal(t, "by the ERP's number", err != nil && strings.Contains(err.Error(), "库存不足"), true)
}

// TestFlowEndsWithTheSentence: pages of the query, then JD's error, whose code is a knob.
func TestFlowEndsWithTheSentence(t *testing.T) {
	s := still(t, stocked, knobs(func(k *jdsandbox.Knobs) { k.Flow.End.Code = "5013" }))
	for range 250 {
		s.move(act(jdsandbox.Sale, 1))
	}
	list, err := s.window(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "first page", len(list), 100)
	first := list[0]
	equal(t, "row", say(first["formerNum"], first["nowNum"], first["deptNo"], first["warehouseNo"], first["goodsNo"], first["spGoodsNo"], first["createTime"]),
		say(10, 9, dept, warehouseNo, "EMG1", "SP1", stamp(s.clock.Now())))
	_, err = s.window(4, nil)
	refusedWith(t, err, "5013")
	var no refusal
	equal(t, "sentence", errors.As(err, &no) && no.zh == "库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理", true)
	equal(t, "all", len(s.flow(nil)), 250)
	equal(t, "small pages", len(s.flow(object{"onePageNum": 7})), 250)
	equal(t, "others'", len(s.flow(object{"goodsNo": "EMG2"}))+len(s.flow(object{"shopNo": "ESP9"})), 0)
	second := stamp(s.clock.Now())
	equal(t, "one second", len(s.flow(object{"startTime": second, "endTime": second})), 250)
	before := stamp(s.clock.Now().Add(-time.Second))
	equal(t, "a second before", len(s.flow(object{"startTime": before, "endTime": before})), 0)
}

func TestFlowChecksWhatIsAsked(t *testing.T) {
	s := still(t, stocked)
	for _, row := range []struct {
		change object
		code   string
	}{
		{object{"deptNo": nil}, "60"}, {object{"warehouseNo": nil}, "60"}, {object{"shopNo": ""}, "60"},
		{object{"startTime": nil}, "60"}, {object{"endTime": nil}, "60"}, {object{"startTime": "2021-06-18"}, "61"},
		{object{"endTime": "2021-06-01 00:00:00"}, "61"}, {object{"startTime": "2021-01-01 00:00:00"}, "61"},
		{object{"startPage": 0}, "61"}, {object{"onePageNum": 101}, "61"}, {object{"onePageNum": "x"}, "61"},
	} {
		_, err := s.window(1, row.change)
		var no refusal
		if !errors.As(err, &no) || no.code != row.code {
			t.Errorf("%v: got %v, want %s", row.change, err, row.code)
		}
	}
}

// spoiled has 300 rows within three minutes, one a second for the first 200, then 100 within one second.
func spoiled(t *testing.T, set func(*jdsandbox.Knobs)) (*sandbox, []string) {
	t.Helper()
	s := still(t, stocked, func(c *jdsandbox.Config) { c.Seed = 3 })
	from := s.clock.Now().Add(-time.Hour)
	for i := range 300 {
		at := from.Add(time.Duration(min(i, 200)) * time.Second)
		s.move(act(jdsandbox.Receipt, 1, func(a *jdsandbox.StockAct) { a.At = at }))
	}
	s.set(set)
	return s, ids(s.truth())
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

func set(list []string) map[string]int {
	n := map[string]int{}
	for _, id := range list {
		n[id]++
	}
	return n
}

func TestOrderOfRows(t *testing.T) {
	for order, same := range map[string]func(listed, truth []string) bool{
		"ascending":  slices.Equal[[]string],
		"descending": func(listed, truth []string) bool { slices.Reverse(listed); return slices.Equal(listed, truth) },
		"shuffled": func(listed, truth []string) bool {
			return !slices.Equal(listed[:100], truth[:100]) && slices.Equal(sorted(listed), sorted(truth))
		},
		"seconds": func(listed, truth []string) bool {
			return slices.Equal(listed[:200], truth[:200]) && !slices.Equal(listed, truth) && slices.Equal(sorted(listed), sorted(truth))
		},
	} {
		t.Run(order, func(t *testing.T) {
			s, truth := spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Order = order })
			again := s.flow(nil)
			equal(t, "the same each time", say(s.flow(nil)), say(again))
			if !same(again, truth) {
				t.Errorf("listed %v", again)
			}
		})
	}
}

func TestDroppedRowsComeAfterSomeReadings(t *testing.T) {
	s, truth := spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Drop = jdsandbox.Missing{Chance: 0.1, Readings: 2} })
	first := s.flow(nil)
	if n := len(first); n < 240 || n > 295 {
		t.Errorf("%d of 300 listed", n)
	}
	equal(t, "again", say(s.flow(nil)), say(first))
	equal(t, "at last", say(s.flow(nil)), say(truth))

	s, _ = spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Drop.Readings = 1 })
	equal(t, "all of them", len(s.flow(nil)), 0)
	equal(t, "then none", len(s.flow(nil)), 300)
}

func TestLateRowsComeLater(t *testing.T) {
	s := still(t, stocked, knobs(func(k *jdsandbox.Knobs) {
		k.Flow.Late.By = jdsandbox.Range{Min: jdsandbox.Duration(time.Minute), Max: jdsandbox.Duration(2 * time.Minute)}
	}))
	for range 50 {
		s.move(act(jdsandbox.Receipt, 1))
	}
	equal(t, "at once", len(s.flow(nil)), 0)
	s.clock.Move(90 * time.Second)
	if n := len(s.flow(nil)); n == 0 || n == 50 {
		t.Errorf("between the two: %d of 50", n)
	}
	s.clock.Move(30 * time.Second)
	equal(t, "in the end", len(s.flow(nil)), 50)
	equal(t, "the truth does not wait", s.has("EMG1"), "60/0 60/60")
}

func TestDoubledRows(t *testing.T) {
	s, truth := spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Duplicate = 0.2 })
	listed := s.flow(nil)
	equal(t, "different ones", len(set(listed)), len(truth))
	if n := len(listed); n < 330 || n > 390 {
		t.Errorf("%d listed of 300", n)
	}
}

func TestPagesThatShift(t *testing.T) {
	s, truth := spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Shift = jdsandbox.Shift{Repeat: 0.3, Rows: 3} })
	listed := s.flow(object{"onePageNum": 20})
	equal(t, "repeated", len(listed) > 300 && len(set(listed)) == len(truth), true)

	s, _ = spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.Shift = jdsandbox.Shift{Skip: 0.3, Rows: 3} })
	known := map[string]int{}
	readings := 0
	for ; len(known) < 300 && readings < 20; readings++ {
		listed := s.flow(object{"onePageNum": 20})
		equal(t, "passed over", len(listed) < 300, true)
		maps.Copy(known, set(listed))
	}
	equal(t, "all in several readings", len(known), 300)
}

func TestOtherEnds(t *testing.T) {
	s, _ := spoiled(t, func(k *jdsandbox.Knobs) { k.Flow.End.Wrong = 1 })
	listed := map[string]bool{}
	for range 50 {
		_, err := s.window(4, nil)
		var no refusal
		if !errors.As(err, &no) || no.zh == jdsandbox.EndSentence || strings.Contains(no.zh, "VMI店铺库存流水") && strings.Contains(no.zh, "信息为空") {
			t.Fatalf("got %v", err)
		}
		listed[no.zh] = true
	}
	equal(t, "spellings", len(listed), len(jdsandbox.WrongEnds()))

	s.set(func(k *jdsandbox.Knobs) { k.Flow.End = jdsandbox.End{Style: "empty"} })
	list, err := s.window(4, nil)
	equal(t, "empty list", say(len(list), err), "0 <nil>")
	s.set(func(k *jdsandbox.Knobs) {
		k.Flow.End = jdsandbox.End{Text: " " + strings.ReplaceAll(jdsandbox.EndSentence, " ", "  ")}
	})
	_, err = s.window(4, nil)
	equal(t, "other blanks", err.Error(), "5001  库存系统  根据  入参，查询  VMI店铺库存流水  信息为空，无法处理")
}

func TestAFaultStrikesOnePageOfAShop(t *testing.T) {
	s, _ := spoiled(t, func(*jdsandbox.Knobs) {})
	s.fault(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "65", Page: 2, Shops: []string{shopNo}, Methods: []string{"eclp.stock.queryVmiShopStockFlow"}, Count: 1})
	if _, err := s.window(1, nil); err != nil {
		t.Error(err)
	}
	if _, err := s.window(2, object{"shopNo": "ESP9"}); err == nil || strings.HasPrefix(err.Error(), "65") {
		t.Error(err)
	}
	_, err := s.window(2, nil)
	refusedWith(t, err, "65")
	if _, err := s.window(2, nil); err != nil {
		t.Error(err)
	}
}

// TestStockSurvives: after a kill everything is as before, and orders under way continue.
func TestStockSurvives(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jd.journal")
	s := still(t, stocked, func(c *jdsandbox.Config) { c.State, c.Knobs.Stock.ShipAt = file, "10018" })
	s.add(anOrder("A-1"))
	s.move(act(jdsandbox.Receipt, 4), act(jdsandbox.Loss, 1), act(jdsandbox.Sale, 1))
	s.advance(30 * time.Minute)
	s.add(anOrder("A-2"))
	_, err := s.call("eclp.stock.setShopStockFixed", object{
		"requestId": "R-1", "deptNo": dept, "shopNo": shopNo, "warehouseNo": warehouseNo, "stockNum": 50, "goodsNo": "EMG1", "opUser": "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	fill := jdsandbox.Fill{DeptNo: dept, WarehouseNo: warehouseNo, ShopNo: shopNo, GoodsNos: []string{"EMG5", "EMG6"}, Rows: 500, From: s.clock.Now(), To: s.clock.Now()}
	if err := s.FillFlow(fill); err != nil {
		t.Fatal(err)
	}
	s.advance(40 * time.Minute) // the first has left
	_ = s.truth()
	s.advance(30 * time.Minute)
	r := s.again(t)
	for range 2 {
		equal(t, "rows", text(t, r.truth()), text(t, s.truth()))
		equal(t, "stock", text(t, r.Stock(jdsandbox.StockQuery{})), text(t, s.Stock(jdsandbox.StockQuery{})))
		sums(t, r.JD)
		s.advance(48 * time.Hour)
		r.advance(48 * time.Hour)
	}
	equal(t, "EMG2", s.has("EMG2"), "3/0 5/5")
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	equal(t, "as at the start", s.has("EMG1"), "10/0 10/10")
	before := len(r.truth())
	equal(t, "rows continue", s.move(act(jdsandbox.Receipt, 1))[0].FlowID, fmt.Sprint(before+1))
}

// TestManyRowsAreOneLineOfTheJournal: a long history is made by one call and read again after a kill.
func TestManyRowsAreOneLineOfTheJournal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jd.journal")
	s := still(t, func(c *jdsandbox.Config) { c.State = file })
	goods := []string{"EMG1", "EMG2", "EMG3"}
	fill := jdsandbox.Fill{DeptNo: dept, WarehouseNo: warehouseNo, ShopNo: shopNo, GoodsNos: goods, Rows: 200_000, From: s.clock.Now().Add(-240 * time.Hour), To: s.clock.Now()}
	if err := s.FillFlow(fill); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() > 4096 {
		t.Errorf("the journal is %d bytes long: %v", info.Size(), err)
	}
	sums(t, s.JD)
	r := s.again(t)
	equal(t, "stock", text(t, r.Stock(jdsandbox.StockQuery{})), text(t, s.Stock(jdsandbox.StockQuery{})))
	listed := 0
	for _, c := range r.Stock(jdsandbox.StockQuery{ShopNo: shopNo}).Shops {
		listed += int(c.Rows)
		if c.LowestFree < 0 {
			t.Errorf("below zero: %+v", c)
		}
	}
	equal(t, "rows", listed, 200_000)
	from := s.clock.Now().Add(-time.Hour)
	list := r.flow(object{"startTime": stamp(from), "endTime": stamp(s.clock.Now())})
	if n := len(list); n < 800 || n > 860 { // 200 000 in 240 hours
		t.Errorf("%d rows in the last hour", n)
	}
}
