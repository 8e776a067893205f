package jdsandbox

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of the stock calls (docs/jd-api.md, Limits and idempotency).
const (
	maxFlowPage = 100
	maxNewPage  = 1000
	// The newer flow's pages, by JD's list of 2026-08.
	newFlowPage    = 50
	maxNewFlowPage = 200
	maxStockPage   = 100
	maxGoods       = 50
	maxStockList   = 100
	maxNewSpan     = 31 * 24 * time.Hour
	maxRequestID   = 50
)

// params reads the parameters of a call and keeps the first that is wrong.
type params struct {
	c  *call
	no *Refusal
}

func (a *params) refuse(no *Refusal) {
	if a.no == nil {
		a.no = no
	}
}

// text is a required parameter.
func (a *params) text(name string) string {
	v := a.c.fields[name]
	if strings.TrimSpace(v) == "" {
		a.refuse(missing(name))
	}
	return v
}

// dept is a required department that the token is valid for.
func (a *params) dept() string {
	dept := a.text("deptNo")
	if !a.c.allows(dept) {
		a.refuse(refuse(codeNotYours, ""))
	}
	return dept
}

// count is a whole number from 1 to most. Without a default (0) it is required.
func (a *params) count(name string, otherwise, most int) int {
	if a.c.fields[name] == "" {
		if otherwise == 0 {
			a.refuse(missing(name))
		}
		return max(1, otherwise)
	}
	n, err := strconv.Atoi(a.c.fields[name])
	if err != nil || n < 1 || n > most {
		a.refuse(wrong(name))
		return 1
	}
	return n
}

// time is a required time, with or without a fraction of a second.
func (a *params) time(name string) time.Time {
	at, err := time.ParseInLocation(timeLayout, a.text(name), beijing)
	if err != nil {
		a.refuse(wrong(name))
	}
	return at
}

// span is two required times, at most longest apart; the returned end is after the last second.
func (a *params) span(from, to string, longest time.Duration) (start, end int64) {
	first, last := a.time(from), a.time(to)
	if last.Before(first) || last.Sub(first) > longest {
		a.refuse(wrong(to))
	}
	return first.Truncate(time.Second).UnixMilli(), last.Truncate(time.Second).Add(time.Second).UnixMilli()
}

// anySpan is two optional times.
func (a *params) anySpan() (start, end int64) {
	start, end = math.MinInt64, math.MaxInt64
	if a.c.fields["startTime"] != "" {
		start = a.time("startTime").UnixMilli()
	}
	if a.c.fields["endTime"] != "" {
		end = a.time("endTime").Add(time.Second).UnixMilli()
	}
	return start, end
}

// list is a comma list of at most so many elements.
func (a *params) list(name string, most int) []string {
	list := split(a.c.fields[name])
	if len(list) > most {
		a.refuse(wrong(name))
	}
	return list
}

// requestID is a required number of the call, at most 50 characters.
func (a *params) requestID() string {
	id := a.text("requestId")
	if utf8.RuneCountInString(id) > maxRequestID {
		a.refuse(wrong("requestId"))
	}
	return id
}

// page cuts a page out of rows.
func page[T any](rows []T, no, size int) []T {
	start := min((no-1)*size, len(rows))
	return rows[start:min(start+size, len(rows))]
}

func pages(rows, size int) number { return n64(int64((rows + size - 1) / size)) }

// queryVmiShopStockFlow: see docs/jd-api.md, Stock flow. Both seconds belong to the window.
func (jd *JD) queryVmiShopStockFlow(c *call) (any, *Refusal) {
	a := params{c: c}
	w := window{dept: a.dept(), warehouse: a.text("warehouseNo"), shop: a.text("shopNo"), goods: c.fields["goodsNo"]}
	w.from, w.to = a.span("startTime", "endTime", time.Duration(jd.knobs.Flow.MaxSpan))
	no, size := a.count("startPage", 1, math.MaxInt32), a.count("onePageNum", maxFlowPage, maxFlowPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	rows, _ := jd.flowPage(w, no, size)
	if len(rows) == 0 {
		return jd.flowEnd()
	}
	s, list := &jd.state.stock, make([]object, len(rows))
	for n, i := range rows {
		m := &s.rows[i]
		list[n] = object{
			"flowId": number(s.flowID(int(i))), "createTime": time.UnixMilli(m.at).In(beijing).Format(timeLayout),
			"deptNo": w.dept, "warehouseNo": w.warehouse, "goodsNo": m.series.goods,
			"spGoodsNo": s.goods[goodsKey{w.dept, m.series.goods}].SpGoodsNo,
			"formerNum": n64(m.former), "nowNum": n64(m.now), "bizTypeName": m.biz,
		}
	}
	return list, nil
}

// searchShopStockFlow is the newer call: the movements of sales orders, and no others (docs/jd-api.md, Stock flow). Its
// end is an empty list.
func (jd *JD) searchShopStockFlow(c *call) (any, *Refusal) {
	a := params{c: c}
	id := a.requestID()
	w := window{dept: a.dept(), warehouse: c.fields["warehouseNo"], shop: a.text("shopNo"), goods: c.fields["goodsNo"]}
	w.from, w.to = a.span("startDate", "endDate", maxNewSpan)
	w.sales, w.bizType = true, anyBizType
	if kind := c.fields["bizType"]; kind != "" {
		var err error
		if w.bizType, err = strconv.Atoi(kind); err != nil {
			a.refuse(wrong("bizType"))
		}
	}
	no, size := a.count("pageNumber", 0, math.MaxInt32), a.count("pageSize", newFlowPage, maxNewFlowPage)
	if a.no != nil {
		return nil, a.no
	}
	if failed := jd.innerError(id); failed != nil {
		return failed, nil
	}
	c.done = true
	rows, all := jd.flowPage(w, no, size)
	s, data := &jd.state.stock, make([]object, len(rows))
	for n, i := range rows {
		m := &s.rows[i]
		goods := s.goods[goodsKey{w.dept, m.series.goods}]
		data[n] = object{
			"sellerNo": "", "deptNo": w.dept, "shopNo": w.shop, "warehouseNo": m.series.shop.warehouse, "goodsNo": m.series.goods,
			"shopGoodsNo": "", "bizNo": s.docOf(int(i)), "sellerGoodsSign": goods.IsvGoodsNo, "spGoodsNo": goods.SpGoodsNo,
			"isvGoodsNo": goods.IsvGoodsNo, "stockNum": n64(m.now), "occupyNum": n64(m.occupied), "stockChangeNum": n64(m.now - m.former),
			"occupyStockChangeNum": n64(m.hold), "createTime": time.UnixMilli(m.at).In(beijing).Format("2006-01-02 15:04:05.000"),
			"bizType": n64(int64(bizTypes[m.biz])), "salesPlatformOrderNo": jd.platformNo(m.doc), "bipPoid": "",
		}
	}
	return object{
		"responseCode": digits(jd.knobs.Stock.ResponseCode), "errMsg": "", "pageCount": pages(all, size), "pageSize": n64(int64(size)),
		"requestId": jd.requestID(id), "data": data,
	}, nil
}

// innerError is the answer of a newer call that fails by the knob, nil if it does not.
func (jd *JD) innerError(requestID string) object {
	jd.inner++
	if !jd.chance(jd.knobs.Stock.InnerErrors, diceInner, jd.inner) {
		return nil
	}
	return object{"responseCode": digits("2"), "errMsg": "系统异常，请稍后重试", "requestId": jd.requestID(requestID)}
}

// requestID is the requestId in an answer, by the knob.
func (jd *JD) requestID(asked string) string {
	if jd.knobs.Stock.RequestIDs == RequestIDOwn {
		jd.inner++
		return fmt.Sprintf("sandbox-%d", jd.inner)
	}
	return asked
}

func (jd *JD) platformNo(eclpSoNo string) string {
	d := jd.state.byNo[eclpSoNo]
	if d != nil && d.Parent != "" {
		d = jd.state.byNo[d.Parent]
	}
	if d == nil {
		return ""
	}
	return d.Params["salesPlatformOrderNo"]
}

// queryVmiShopStock is the older call (docs/jd-api.md, Shop stock). Goods that a shop never had are left out.
func (jd *JD) queryVmiShopStock(c *call) (any, *Refusal) {
	a := params{c: c}
	dept, _, _ := a.dept(), a.text("shopNos"), a.text("goodsNos")
	goods, shops := a.list("goodsNos", maxGoods), a.list("shopNos", maxNumbers)
	no, size := a.count("currentPage", 1, math.MaxInt32), a.count("pageSize", maxStockPage, maxStockPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	rows := []object{}
	slices.Sort(goods)
	for _, r := range jd.shopStock(StockQuery{DeptNo: dept, WarehouseNo: c.fields["warehouseNo"], goods: slices.Compact(goods)}) {
		if slices.Contains(shops, r.ShopNo) {
			rows = append(rows, object{
				"shopNo": r.ShopNo, "goodsNo": r.GoodsNo, "spGoodsNo": jd.state.stock.goods[goodsKey{dept, r.GoodsNo}].SpGoodsNo,
				"stockNum": n64(r.Num), "occupyNum": n64(r.Occupied), "warehouseNo": r.WarehouseNo,
			})
		}
	}
	return object{"deptNo": dept, "vmiShopStocks": page(rows, no, size)}, nil
}

func (jd *JD) shopStock(q StockQuery) []ShopStock {
	jd.settle()
	return jd.state.stock.shopRows(q)
}

// searchShopStock is the newer call (docs/jd-api.md, Shop stock).
func (jd *JD) searchShopStock(c *call) (any, *Refusal) {
	a := params{c: c}
	id, dept, shop := a.requestID(), a.dept(), a.text("shopNo")
	no, size := a.count("pageNumber", 0, math.MaxInt32), a.count("pageSize", 0, maxNewPage)
	if a.no != nil {
		return nil, a.no
	}
	if failed := jd.innerError(id); failed != nil {
		return failed, nil
	}
	c.done = true
	rows := []object{}
	for _, r := range jd.shopStock(StockQuery{DeptNo: dept, WarehouseNo: c.fields["warehouseNo"], ShopNo: shop}) {
		if c.lists("goodsNo", r.GoodsNo) {
			rows = append(rows, object{
				"deptNo": dept, "shopNo": shop, "warehouseNo": r.WarehouseNo, "stockNum": n64(r.Num), "goodsNo": r.GoodsNo,
			})
		}
	}
	return object{
		"responseCode": digits(jd.knobs.Stock.ResponseCode), "errMsg": "", "pageSize": n64(int64(size)), "pageCount": pages(len(rows), size),
		"pageNumber": n64(int64(no)), "requestId": jd.requestID(id), "data": page(rows, no, size),
	}, nil
}

// queryStock leaves out rows without stock unless returnZeroStock is 2 (docs/jd-api.md, Stock).
func (jd *JD) queryStock(c *call) (any, *Refusal) {
	a := params{c: c}
	ware := wareKey{a.dept(), a.text("warehouseNo")}
	goods := a.list("goodsNo", maxStockList)
	zero := c.fields["returnZeroStock"]
	if zero != "" && zero != "1" && zero != "2" {
		a.refuse(wrong("returnZeroStock"))
	}
	no, size := a.count("currentPage", 1, math.MaxInt32), a.count("pageSize", maxStockPage, maxStockPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	jd.settle()
	st, start, all := &jd.state.stock, (no-1)*size, 0
	var rows []WareStock // those of the page, and one more
	st.eachKept(ware, func(number string, p *pile, k Kept) {
		if len(goods) > 0 && !slices.Contains(goods, number) || zero != "2" && k.Num == 0 ||
			!c.lists("stockStatus", k.StockStatus) || !c.lists("stockType", k.StockType) || !c.lists("goodsLevel", k.GoodsLevel) {
			return
		}
		if all++; all > start && len(rows) <= size {
			rows = append(rows, st.wareRow(ware, number, p, k))
		}
	})
	moves := false
	if no > 1 && all > 0 {
		jd.counts++
		moves = jd.chance(jd.knobs.Stock.CountMoves, diceCount, jd.counts)
	}
	if moves { // the first of all is gone
		all--
		rows = rows[min(1, len(rows)):]
	}
	rows = rows[:min(size, len(rows))]
	name := ""
	if i := slices.IndexFunc(jd.master.Warehouses, func(w Warehouse) bool { return w.WarehouseNo == ware.warehouse }); i >= 0 {
		name = jd.master.Warehouses[i].WarehouseName
	}
	list := []object{}
	for _, r := range rows {
		known := jd.state.stock.goods[goodsKey{ware.dept, r.GoodsNo}]
		list = append(list, object{
			"deptNo": r.DeptNo, "deptName": "", "warehouseNo": r.WarehouseNo, "warehouseName": name, "goodsNo": r.GoodsNo,
			"goodsName": known.GoodsName, "sellerGoodsSign": known.IsvGoodsNo, "isvSku": known.IsvGoodsNo,
			"stockStatus": digits(r.StockStatus), "stockType": digits(r.StockType), "goodsLevel": digits(r.GoodsLevel),
			"totalNum": n64(r.Total), "usableNum": n64(r.Usable), "recordCount": n64(int64(all)),
		})
	}
	return list, nil
}

// setShopStockFixed has no further effect for a requestId that was carried out before (docs/jd-api.md, Shop stock).
func (jd *JD) setShopStockFixed(c *call) (any, *Refusal) {
	a := params{c: c}
	id := a.requestID()
	act := StockAct{Kind: SetStock, DeptNo: a.dept(), ShopNo: a.text("shopNo"), WarehouseNo: a.text("warehouseNo"), GoodsNo: a.text("goodsNo")}
	a.text("opUser")
	num, err := strconv.ParseInt(a.text("stockNum"), 10, 64)
	if err != nil || num < 0 || num > maxPieces {
		a.refuse(wrong("stockNum"))
	}
	if a.no != nil {
		return nil, a.no
	}
	if failed := jd.innerError(id); failed != nil {
		failed["success"] = false
		return failed, nil
	}
	c.done = true
	jd.settle()
	if act.Num = num; !jd.state.stock.setRequests[id] {
		act.setDefaults(jd.now())
		act.RequestID = id
		jd.change(record{Acts: []StockAct{act}})
	}
	return object{"responseCode": digits(jd.knobs.Stock.ResponseCode), "errMsg": "", "success": true, "requestId": jd.requestID(id)}, nil
}

// queryGoodsLevelChange: see docs/jd-api.md, Stock.
func (jd *JD) queryGoodsLevelChange(c *call) (any, *Refusal) {
	a := params{c: c}
	dept := a.dept()
	a.list("orderNo", maxGoods)
	from, to := a.anySpan()
	no, size := a.count("pageNo", 0, math.MaxInt32), a.count("pageSize", 0, maxGoods)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	rows := []object{}
	for _, m := range jd.state.stock.moved {
		if at := m.at.UnixMilli(); m.dept != dept || at < from || at >= to || !c.lists("orderNo", m.no) || !c.lists("outLevel", m.from) || !c.lists("intoLevel", m.to) {
			continue
		}
		known := jd.state.stock.goods[goodsKey{dept, m.goods}]
		rows = append(rows, object{
			"deptNo": dept, "orderNo": m.no, "warehouseId": m.warehouse, "warehouseNo": m.warehouse, "createTime": m.at.In(beijing).Format(timeLayout),
			"details": []object{{
				"goodsNo": m.goods, "goodsName": known.GoodsName, "isvGoodsNo": known.IsvGoodsNo, "qty": n64(m.num), "reason1": "", "reason2": "", "reason3": "",
				"outLevel": digits(m.from), "intoLevel": digits(m.to), "outLevelName": levelName(m.from), "intoLevelName": levelName(m.to),
			}},
		})
	}
	return page(rows, no, size), nil
}

func levelName(level string) string {
	return map[string]string{"100": "良品", "200": "残品", "400": "脏品"}[level]
}

func (jd *JD) queryCheckStockProfit(c *call) (any, *Refusal) { return jd.stockTakes(c, 1) }

func (jd *JD) queryCheckStockLosses(c *call) (any, *Refusal) { return jd.stockTakes(c, -1) }

// stockTakes returns gains (sign 1) or losses (sign -1); diffQty has no sign.
func (jd *JD) stockTakes(c *call, sign int64) (any, *Refusal) {
	a := params{c: c}
	dept := a.dept()
	from, to := a.anySpan()
	no, size := a.count("pageNo", 1, math.MaxInt32), a.count("pageSize", 50, maxStockPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	rows := []object{}
	for _, t := range jd.state.stock.takes {
		if at := t.at.UnixMilli(); t.dept != dept || t.diff*sign < 0 || at < from || at >= to || !c.lists("checkStockNos", t.no) {
			continue
		}
		rows = append(rows, object{
			"checkStockNo": t.no, "warehouseId": t.warehouse, "createTime": t.at.In(beijing).Format(timeLayout), "createPin": "JD", "deptNo": dept,
			"details": []object{{
				"goodsNo": t.goods, "goodsName": jd.state.stock.goods[goodsKey{dept, t.goods}].GoodsName, "diffQty": n64(t.diff * sign),
				"oneLevelReason": "", "twoLevelReason": "", "threeLevelReason": "", "productLevel": digits(t.level),
			}},
		})
	}
	return page(rows, no, size), nil
}

// lacks refuses an order for goods that are not there, if the knobs say so.
func (jd *JD) lacks(o order) *Refusal {
	k, s := jd.knobs.Stock, &jd.state.stock
	if k.Unstocked == "take" && k.Lacking == "take" {
		return nil
	}
	shop := s.shops[shopKey{o.dept, o.params["warehouseNo"], o.params["shopNo"]}]
	wanted := map[string]int64{}
	for _, l := range o.lines {
		goods := s.goodsNo(o.dept, l)
		var c *series
		if shop != nil {
			c = shop.series[goods]
		}
		wanted[goods] += l.Quantity
		switch {
		case c == nil && k.Unstocked == "refuse":
			return jd.refusal("", "商品["+goodsOf(l)+"]没有库存信息", "goods without stock")
		case c != nil && k.Lacking == "refuse" && c.num-c.occupied < wanted[goods]:
			return jd.refusal("", "商品["+goodsOf(l)+"]库存不足", "not enough stock")
		}
	}
	return nil
}
