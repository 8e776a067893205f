package jdsandbox_test

import (
	"fmt"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// result makes a call and returns the value of the key.
func (s *sandbox) result(method, key string, business object) any {
	s.t.Helper()
	answer, err := s.call(method, business)
	if err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
	return answer[key]
}

func TestTheNewerFlow(t *testing.T) {
	s := still(t, stocked)
	no := s.add(anOrder("A-1"))
	s.move(act(jdsandbox.Receipt, 4, func(a *jdsandbox.StockAct) { a.WarehouseNo, a.GoodsNo = "110000002", "EMG7" }))
	s.advance(24 * time.Hour)
	ask := object{
		"requestId": "Q-1", "deptNo": dept, "shopNo": shopNo, "pageNumber": 1, "pageSize": 3,
		"startDate": stamp(s.clock.Now()) + ".0", "endDate": stamp(s.clock.Now()) + ".9",
	}
	search := func(page int, change object) object {
		t.Helper()
		return s.result("eclp.stock.searchShopStockFlow", "shopStockSearchFlowResponse", with(with(ask, object{"pageNumber": page}), change)).(object)
	}
	first := search(1, nil)
	equal(t, "head", say(first["responseCode"], first["pageCount"], first["requestId"]), "1 2 Q-1")
	all := append(rows(first["data"]), rows(search(2, nil)["data"])...)
	var got []string
	for _, r := range all {
		got = append(got, say(r["warehouseNo"], r["goodsNo"], r["isvGoodsNo"], r["stockNum"], r["occupyNum"], r["stockChangeNum"], r["occupyStockChangeNum"], r["bizType"], r["salesPlatformOrderNo"], r["bizNo"] == no))
	}
	want := []string{
		"110000001 EMG1 SKU1 10 3 0 3 21 SP-A-1 true",
		"110000001 EMG2  5 1 0 1 21 SP-A-1 true",
		"110000001 EMG1 SKU1 7 0 -3 -3 22 SP-A-1 true",
		"110000001 EMG2  4 0 -1 -1 22 SP-A-1 true",
	}
	equal(t, "rows", fmt.Sprintf("%q", got), fmt.Sprintf("%q", want))
	equal(t, "the end", len(rows(search(3, nil)["data"])), 0)
	equal(t, "another warehouse's receipt", len(rows(search(1, object{"warehouseNo": "110000002"})["data"])), 0)
	equal(t, "what left", len(rows(search(1, object{"bizType": 22, "pageSize": nil})["data"])), 2)
	equal(t, "a page by default", say(search(1, object{"pageSize": nil})["pageSize"]), "50")
	s.set(func(k *jdsandbox.Knobs) { k.Flow.NoHolds, k.Stock.RequestIDs = true, jdsandbox.RequestIDOwn })
	equal(t, "without holds", len(rows(search(1, nil)["data"])), 2)
	if id := search(1, nil)["requestId"]; id == "Q-1" || id == "" {
		t.Errorf("requestId %v", id)
	}
	for _, row := range []struct {
		change object
		code   string
	}{
		{object{"requestId": nil}, "60"}, {object{"pageNumber": nil}, "60"}, {object{"pageSize": 201}, "61"}, {object{"bizType": "销售出库"}, "61"},
		{object{"startDate": "2021-05-18 09:29:59.0"}, "61"}, {object{"shopNo": nil}, "60"},
		{object{"requestId": fmt.Sprintf("%051d", 1)}, "61"},
	} {
		_, err := s.call("eclp.stock.searchShopStockFlow", with(ask, row.change))
		refusedWith(t, err, row.code)
	}
}

func TestStockNow(t *testing.T) {
	s := still(t, stocked)
	s.add(anOrder("A-1"))
	s.move(act(jdsandbox.SetStock, 9, func(a *jdsandbox.StockAct) { a.ShopNo, a.GoodsNo = "ESP2", "EMG2" }))

	older := s.result("eclp.stock.queryVmiShopStock", "queryvmishopstock_result", object{"deptNo": dept, "shopNos": shopNo + ",ESP2", "goodsNos": "EMG1,EMG2,EMG9"}).(object)
	var got []string
	for _, r := range rows(older["vmiShopStocks"]) {
		got = append(got, say(r["shopNo"], r["goodsNo"], r["spGoodsNo"], r["stockNum"], r["occupyNum"], r["warehouseNo"]))
	}
	equal(t, "older", fmt.Sprintf("%q", got), fmt.Sprintf("%q", []string{
		shopNo + " EMG1 SP1 10 3 110000001", shopNo + " EMG2  5 1 110000001", "ESP2 EMG2  9 0 110000001",
	}))
	_, err := s.call("eclp.stock.queryVmiShopStock", object{"deptNo": dept, "shopNos": shopNo})
	refusedWith(t, err, "60")

	newer := s.result("eclp.stock.searchShopStock", "shopStockSearchResponse", object{"requestId": "1", "deptNo": dept, "shopNo": shopNo, "pageNumber": 2, "pageSize": 1}).(object)
	equal(t, "newer", say(newer["pageCount"], newer["pageNumber"], rows(newer["data"])[0]["goodsNo"], rows(newer["data"])[0]["stockNum"]), "2 2 EMG2 5")
}

func TestPhysicalStock(t *testing.T) {
	s := still(t, stocked)
	s.add(anOrder("A-1"))
	s.move(
		act(jdsandbox.Loss, 2, func(a *jdsandbox.StockAct) { a.GoodsNo, a.GoodsLevel = "EMG2", "200" }),
		act(jdsandbox.Receipt, 3, func(a *jdsandbox.StockAct) { a.StockType = "3" }),
	)
	ask := func(change object) []string {
		t.Helper()
		var got []string
		for _, r := range rows(s.result("eclp.stock.queryStock", "querystock_result", with(object{"deptNo": dept, "warehouseNo": warehouseNo}, change))) {
			got = append(got, say(r["goodsNo"], r["isvSku"], r["stockStatus"], r["stockType"], r["goodsLevel"], r["totalNum"], r["usableNum"], r["recordCount"]))
		}
		return got
	}
	same := func(what string, got, want []string) {
		t.Helper()
		equal(t, what, fmt.Sprintf("%q", got), fmt.Sprintf("%q", want))
	}
	same("all", ask(nil), []string{"EMG1 SKU1 1 1 100 10 7 3", "EMG1 SKU1 1 3 100 3 3 3", "EMG2  1 1 100 7 6 3"})
	same("zero rows too", ask(object{"returnZeroStock": 2, "goodsNo": "EMG2"}), []string{"EMG2  1 1 100 7 6 2", "EMG2  2 1 200 0 0 2"})
	same("saleable", ask(object{"stockStatus": 1, "stockType": 1, "currentPage": 2, "pageSize": 1}), []string{"EMG2  1 1 100 7 6 2"})
	s.set(func(k *jdsandbox.Knobs) { k.Stock.CountMoves = 1 })
	same("the first page", ask(object{"pageSize": 1}), []string{"EMG1 SKU1 1 1 100 10 7 3"})
	same("the second has moved", ask(object{"currentPage": 2, "pageSize": 1}), []string{"EMG2  1 1 100 7 6 2"})
	_, err := s.call("eclp.stock.queryStock", object{"deptNo": dept, "warehouseNo": warehouseNo, "pageSize": 101})
	refusedWith(t, err, "61")
	_, err = s.call("eclp.stock.queryStock", object{"deptNo": dept})
	refusedWith(t, err, "60")
}

func TestSetShopStockFixed(t *testing.T) {
	s := still(t, stocked)
	ask := object{"requestId": "R-1", "deptNo": dept, "shopNo": shopNo, "warehouseNo": warehouseNo, "stockNum": 4, "goodsNo": "EMG1", "opUser": "erp"}
	answer := s.result("eclp.stock.setShopStockFixed", "ShopStockBaseResponse", ask).(object)
	equal(t, "answer", say(answer["success"], answer["responseCode"], answer["requestId"]), "true 1 R-1")
	equal(t, "set", s.has("EMG1"), "4/0 10/10")
	s.move(act(jdsandbox.Receipt, 1))
	s.result("eclp.stock.setShopStockFixed", "ShopStockBaseResponse", ask)
	equal(t, "once", s.has("EMG1"), "5/0 11/11")
	equal(t, "reason", s.truth()[0].Reason, "设置VMI库存")
	for _, name := range []string{"requestId", "deptNo", "shopNo", "warehouseNo", "stockNum", "goodsNo", "opUser"} {
		_, err := s.call("eclp.stock.setShopStockFixed", with(ask, object{name: nil}))
		refusedWith(t, err, "60")
	}
	_, err := s.call("eclp.stock.setShopStockFixed", with(ask, object{"stockNum": -1}))
	refusedWith(t, err, "61")
}

// TestANewerCallFailsInside: a failure inside a good envelope is neither an end nor a success.
func TestANewerCallFailsInside(t *testing.T) {
	s := still(t, stocked, knobs(func(k *jdsandbox.Knobs) { k.Stock.InnerErrors = 1 }))
	s.move(act(jdsandbox.Receipt, 1))
	ask := object{
		"requestId": "R-1", "deptNo": dept, "shopNo": shopNo, "warehouseNo": warehouseNo, "stockNum": 4, "goodsNo": "EMG1", "opUser": "erp",
		"pageNumber": 1, "pageSize": 10, "startDate": stamp(s.clock.Now()), "endDate": stamp(s.clock.Now()),
	}
	for method, key := range map[string]string{
		"eclp.stock.setShopStockFixed": "ShopStockBaseResponse", "eclp.stock.searchShopStock": "shopStockSearchResponse",
		"eclp.stock.searchShopStockFlow": "shopStockSearchFlowResponse",
	} {
		answer := s.result(method, key, ask).(object)
		equal(t, method, say(answer["responseCode"], answer["errMsg"], answer["requestId"], answer["data"]), "2 系统异常，请稍后重试 R-1 <nil>")
	}
	equal(t, "nothing was set", s.has("EMG1"), "11/0 11/11")
	s.set(func(k *jdsandbox.Knobs) { k.Stock.InnerErrors = 0 })
	s.result("eclp.stock.setShopStockFixed", "ShopStockBaseResponse", ask)
	equal(t, "then it was", s.has("EMG1"), "4/0 11/11")
}

func TestDocumentsThatExplainStock(t *testing.T) {
	s := still(t, stocked)
	s.move(act(jdsandbox.Gain, 2))
	s.clock.Move(time.Hour)
	s.move(act(jdsandbox.Loss, 3), act(jdsandbox.LevelChange, 1, func(a *jdsandbox.StockAct) { a.GoodsLevel, a.IntoLevel = "100", "200" }))
	now := object{"deptNo": dept, "startTime": stamp(s.clock.Now()), "endTime": stamp(s.clock.Now())}
	take := func(method, key string, ask object) string {
		t.Helper()
		var got []string
		for _, r := range rows(s.result(method, key, ask)) {
			d := rows(r["details"])[0]
			got = append(got, say(r["createTime"], d["goodsNo"], d["diffQty"], d["qty"], d["outLevel"], d["intoLevel"]))
		}
		return fmt.Sprintf("%q", got)
	}
	equal(t, "gains", take("eclp.checkstock.queryCheckStockProfit", "checkstockProfitList", object{"deptNo": dept}), `["2021-06-18 09:30:00 EMG1 2 <nil> <nil> <nil>"]`)
	equal(t, "gains now", take("eclp.checkstock.queryCheckStockProfit", "checkstockProfitList", now), `[]`)
	equal(t, "losses now", take("eclp.checkstock.queryCheckStockLosses", "checkstocklossesList", now), `["2021-06-18 10:30:00 EMG1 3 <nil> <nil> <nil>"]`)
	equal(t, "levels", take("eclp.stock.queryGoodsLevelChange", "levelChangeResultList", with(now, object{"pageNo": 1, "pageSize": 50})), `["2021-06-18 10:30:00 EMG1 <nil> 1 100 200"]`)
	_, err := s.call("eclp.stock.queryGoodsLevelChange", object{"deptNo": dept, "pageNo": 1, "pageSize": 51})
	refusedWith(t, err, "61")
	_, err = s.call("eclp.checkstock.queryCheckStockProfit", object{})
	refusedWith(t, err, "60")
}

func TestListsOfOrders(t *testing.T) {
	s := still(t, stocked)
	first := s.add(anOrder("A-1"))
	s.clock.Move(time.Hour)
	second := s.add(anOrder("A-2"))
	own := s.move(act(jdsandbox.Sale, 1))[0].DocumentNo
	s.move(act(jdsandbox.Sale, 2, func(a *jdsandbox.StockAct) { a.Walks = true }))
	ask := object{"deptNo": dept, "soStatus": "10010", "pageNo": 1, "pageSize": 10, "startDate": stamp(s.clock.Now().Add(-time.Hour)), "endDate": stamp(s.clock.Now())}
	status := func(change object) string {
		t.Helper()
		r := s.result("eclp.order.queryOrderListByStatus", "orderQueryResult", with(ask, change)).(object)
		return say(r["resultCode"], r["soNoList"])
	}
	equal(t, "new ones", status(nil), say(1, []any{first, second, "ESL4400000000004"}))
	equal(t, "of the last hour", status(object{"startDate": ask["endDate"]}), say(1, []any{second, "ESL4400000000004"}))
	equal(t, "page", status(object{"pageNo": 2, "pageSize": 1}), say(1, []any{second}))
	equal(t, "gone out", status(object{"soStatus": "10019"}), say(1, []any{own}))
	_, err := s.call("eclp.order.queryOrderListByStatus", with(ask, object{"soStatus": nil}))
	refusedWith(t, err, "60")

	list := func(change object) string {
		t.Helper()
		var got []string
		for _, r := range rows(s.result("eclp.order.queryOrderList", "queryordervmi_result", with(with(ask, object{"shopNo": shopNo}), change))) {
			got = append(got, say(r["eclpSoNo"], r["isvUUID"], r["currentStatus"], r["totalNum"], r["totalPage"], len(rows(r["orderDetailList"]))))
		}
		return fmt.Sprintf("%q", got)
	}
	equal(t, "JD's own", list(object{"orderStatus": "10019"}), fmt.Sprintf("%q", []string{own + "  10019 1 1 1"}))
	equal(t, "a page", list(object{"pageSize": 1}), fmt.Sprintf("%q", []string{first + " A-1 10010 4 4 2"}))
	equal(t, "by its number", list(object{"startDate": nil, "endDate": nil, "salePlatformOrderNo": "SP-A-2"}), fmt.Sprintf("%q", []string{second + " A-2 10010 1 1 2"}))
	s.set(func(k *jdsandbox.Knobs) { k.Stock.OwnOrders = true })
	equal(t, "own orders only", list(object{"pageSize": 1}), fmt.Sprintf("%q", []string{own + "  10019 2 2 1"}))
	equal(t, "no violation", s.Violations().Total, 0)
	equal(t, "held by the one that walks", s.has("EMG1"), "9/8 9/1")
	s.advance(24 * time.Hour)
	equal(t, "all out", s.has("EMG1"), "1/0 1/1")
}
