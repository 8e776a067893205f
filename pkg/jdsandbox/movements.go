package jdsandbox

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stock is the initial stock of some goods: it exists without a row of the flow. JD counts goods only if they were
// stocked so, or by a StockAct; orders and purchase orders of other goods move nothing.
type Stock struct {
	DeptNo      string `json:"deptNo"`
	WarehouseNo string `json:"warehouseNo"`
	GoodsNo     string `json:"goodsNo"`
	IsvGoodsNo  string `json:"isvGoodsNo,omitempty"`
	SpGoodsNo   string `json:"spGoodsNo,omitempty"`
	GoodsName   string `json:"goodsName,omitempty"`
	// Shops is each shop's (ESP number) stock of it.
	Shops map[string]int64 `json:"shops,omitempty"`
	// Num is the saleable stock in the warehouse; 0 means the sum of the shops'.
	Num int64 `json:"num,omitempty"`
	// Others are pieces that cannot be sold.
	Others []Kept `json:"others,omitempty"`
}

// Kept is pieces in one condition.
type Kept struct {
	StockStatus string `json:"stockStatus"`
	StockType   string `json:"stockType"`
	GoodsLevel  string `json:"goodsLevel"`
	Num         int64  `json:"num"`
}

// ActKind is what moves stock besides orders.
type ActKind string

// The acts. All but SetStock and RatioChange move the physical stock too.
const (
	// Receipt is an incoming purchase, Return goods that a buyer sent back.
	Receipt ActKind = "receipt"
	Return  ActKind = "return"
	// Gain and Loss are a stock-take's; they create its document.
	Gain ActKind = "gain"
	Loss ActKind = "loss"
	// LevelChange moves pieces from one goods level to another, and creates a document. The shop's stock changes if they can
	// be sold before and not after, or the other way round.
	LevelChange ActKind = "level"
	// SetStock sets the shop's stock to Num (设置VMI库存).
	SetStock ActKind = "set"
	// RatioChange changes the stock of all goods of a shop to Percent of what they have (商品库存比例调整).
	RatioChange ActKind = "ratio"
	// Sale is an order that JD created itself, in a shop of its own. It creates a document.
	Sale ActKind = "sale"
)

// StockAct is one movement that was not caused by a client's order. It may take stock below zero.
type StockAct struct {
	Kind        ActKind `json:"kind"`
	DeptNo      string  `json:"deptNo"`
	WarehouseNo string  `json:"warehouseNo"`
	// ShopNo is the shop's ESP number. Without one, only the physical stock moves.
	ShopNo  string `json:"shopNo,omitempty"`
	GoodsNo string `json:"goodsNo,omitempty"`
	// Num is the number of pieces; for SetStock the figure.
	Num int64 `json:"num"`
	// Percent of a RatioChange, from 0 to 1000; fractions of a piece are lost.
	Percent int64 `json:"percent,omitempty"`
	// GoodsLevel of the pieces, default "100", which is good; for LevelChange the one before, IntoLevel the one after.
	GoodsLevel string `json:"goodsLevel,omitempty"`
	IntoLevel  string `json:"intoLevel,omitempty"`
	// StockType default "1", which is saleable.
	StockType string `json:"stockType,omitempty"`
	// At is its createTime, to the millisecond, by the host's clock; default now. It must not be before the newest row of
	// the goods in that shop.
	At time.Time `json:"at,omitzero"`
	// Reason is bizTypeName, default by Kind. DocumentNo is assigned if empty.
	Reason     string `json:"bizTypeName,omitempty"`
	DocumentNo string `json:"documentNo,omitempty"`
	// Walks, for a Sale: the order follows the knob walk and leaves the stock on its way. Otherwise it is handed over at
	// once.
	Walks bool `json:"walks,omitempty"`

	// RequestID and Made are the sandbox's.
	RequestID string    `json:"requestId,omitempty"`
	Made      time.Time `json:"made,omitzero"`
}

// Fill creates many rows at once, spread evenly from From to To over the goods: sales, receipts, returns, stock-takes and
// settings, drawn from the seed. Goods that the shop does not have begin with 1000 pieces. A shop's stock does not go
// below zero by it. It creates no documents of stock-takes and orders.
type Fill struct {
	DeptNo      string    `json:"deptNo"`
	WarehouseNo string    `json:"warehouseNo"`
	ShopNo      string    `json:"shopNo"`
	GoodsNos    []string  `json:"goodsNos"`
	Rows        int       `json:"rows"`
	From        time.Time `json:"from"`
	To          time.Time `json:"to"`
	// Draw is the sandbox's.
	Draw uint64 `json:"draw,omitempty"`
}

// maxFill bounds the rows of one Fill, maxActs the acts of one Move, maxPieces every figure.
const (
	maxFill   = 1_000_000
	maxActs   = 1000
	maxPieces = 1_000_000_000
)

// Movement is a true row of the flow, before the knobs distort it.
type Movement struct {
	FlowID string `json:"flowId"`
	// At is its createTime, to the millisecond, by the host's clock.
	At          time.Time `json:"at"`
	DeptNo      string    `json:"deptNo"`
	WarehouseNo string    `json:"warehouseNo"`
	ShopNo      string    `json:"shopNo"`
	GoodsNo     string    `json:"goodsNo"`
	Former      int64     `json:"former"`
	Now         int64     `json:"now"`
	// Occupied is what orders reserve after the row, Hold what the row added to that.
	Occupied   int64  `json:"occupied"`
	Hold       int64  `json:"hold,omitempty"`
	Reason     string `json:"bizTypeName"`
	DocumentNo string `json:"documentNo,omitempty"`
}

// StockQuery selects stock and rows. Empty fields select all.
type StockQuery struct {
	DeptNo, WarehouseNo, ShopNo, GoodsNo string
	// After is the FlowID of the last row known, Limit the maximum, 0 means all. Both are for rows.
	After int64
	Limit int

	// goods limits the stock of shops to these, in their order; nil means all.
	goods []string
}

func (q *StockQuery) selects(key shopKey, goods string) bool {
	return (q.DeptNo == "" || q.DeptNo == key.dept) && (q.WarehouseNo == "" || q.WarehouseNo == key.warehouse) &&
		(q.ShopNo == "" || q.ShopNo == key.shop) && (q.GoodsNo == "" || q.GoodsNo == goods)
}

// StockTruth is the stock of shops and warehouses, sorted by number.
type StockTruth struct {
	Shops      []ShopStock `json:"shops"`
	Warehouses []WareStock `json:"warehouses"`
}

// ShopStock is a shop's stock of some goods. Opening plus the changes of its rows is Num.
type ShopStock struct {
	DeptNo      string `json:"deptNo"`
	WarehouseNo string `json:"warehouseNo"`
	ShopNo      string `json:"shopNo"`
	GoodsNo     string `json:"goodsNo"`
	Opening     int64  `json:"opening"`
	Num         int64  `json:"num"`
	Occupied    int64  `json:"occupied"`
	// LowestFree is the lowest value that Num minus Occupied ever had: below zero, more was promised than existed.
	LowestFree int64 `json:"lowestFree"`
	// Rows counts its movements, the newest of which was at LastRow.
	Rows    int64     `json:"rows"`
	LastRow time.Time `json:"lastRow,omitzero"`
}

// WareStock is some goods in one condition.
type WareStock struct {
	DeptNo      string `json:"deptNo"`
	WarehouseNo string `json:"warehouseNo"`
	GoodsNo     string `json:"goodsNo"`
	IsvGoodsNo  string `json:"isvGoodsNo,omitempty"`
	StockStatus string `json:"stockStatus"`
	StockType   string `json:"stockType"`
	GoodsLevel  string `json:"goodsLevel"`
	Total       int64  `json:"total"`
	// Usable is Total minus what orders reserve.
	Usable int64 `json:"usable"`
}

// MovementPage is a page of rows. Next is the `after` of the following page; 0 means none.
type MovementPage struct {
	Rows []Movement `json:"rows"`
	Next int64      `json:"next,omitempty"`
}

// StockGoods stocks goods that were not there before.
func (jd *JD) StockGoods(goods ...Stock) error {
	jd.mu.Lock()
	var f faults
	for i := range goods {
		goods[i].check(fmt.Sprintf("[%d].", i), &f)
		if jd.state.stock.has(goods[i]) {
			f.when(true, fmt.Sprintf("[%d].goodsNo", i), "%s is there already (an act changes it)", goods[i].GoodsNo)
		}
	}
	if len(f) > 0 {
		jd.mu.Unlock()
		return errors.Join(f...)
	}
	jd.change(record{Stocked: goods})
	jd.mu.Unlock()
	return jd.journal.sync()
}

// has reports whether any of it is stocked already. A further shop of the same goods is not.
func (s *stock) has(g Stock) bool {
	if s.pile(g.DeptNo, g.WarehouseNo, g.GoodsNo) != nil {
		return true
	}
	for shop := range g.Shops {
		if known := s.shops[shopKey{g.DeptNo, g.WarehouseNo, shop}]; known != nil && known.series[g.GoodsNo] != nil {
			return true
		}
	}
	return false
}

func (s *Stock) check(at string, f *faults) {
	f.when(s.DeptNo == "", at+"deptNo", "is required")
	f.when(s.WarehouseNo == "", at+"warehouseNo", "is required")
	f.when(s.GoodsNo == "", at+"goodsNo", "is required")
	f.pieces(at+"num", s.Num)
	for shop, num := range s.Shops {
		f.pieces(at+"shops."+shop, num)
	}
	s.Others = slices.Clone(s.Others)
	for i := range s.Others {
		k := &s.Others[i]
		orElse(&k.GoodsLevel, goodLevel)
		orElse(&k.StockType, saleableType)
		orElse(&k.StockStatus, statusOf(k.GoodsLevel))
		f.pieces(fmt.Sprintf("%sothers[%d].num", at, i), k.Num)
		f.when(isGood(k.GoodsLevel, k.StockType), fmt.Sprintf("%sothers[%d]", at, i), "is what can be sold: add it to num")
	}
}

func (f *faults) pieces(key string, n int64) {
	f.when(n < 0 || n > maxPieces, key, "must be from 0 to %d", maxPieces)
}

// Move carries out the acts, all or none, and returns their rows.
func (jd *JD) Move(acts ...StockAct) ([]Movement, error) {
	jd.mu.Lock()
	jd.settle()
	now := jd.now()
	var f faults
	f.when(len(acts) == 0 || len(acts) > maxActs, "acts", "must be from 1 to %d", maxActs)
	newest := map[goodsAt]int64{}
	acts = slices.Clone(acts)
	for i := range acts {
		at := fmt.Sprintf("[%d].", i)
		acts[i].setDefaults(now)
		acts[i].check(at, &f)
		if acts[i].Kind == RatioChange && len(f) == 0 {
			f.when(jd.state.stock.shops[acts[i].shop()] == nil, at+"shopNo", "has no goods")
		}
		if !acts[i].At.Equal(now) {
			last := jd.state.stock.newest(acts[i], newest)
			f.when(acts[i].At.UnixMilli() < last, at+"at", "must not be before the goods' newest row, %s", time.UnixMilli(last).In(beijing).Format(time.RFC3339Nano))
			newest[goodsAt{acts[i].shop(), acts[i].GoodsNo}] = acts[i].At.UnixMilli()
		}
	}
	if len(f) > 0 {
		jd.mu.Unlock()
		return nil, errors.Join(f...)
	}
	first := len(jd.state.stock.rows)
	for _, a := range acts {
		jd.act(a)
	}
	jd.settle()
	rows := make([]Movement, 0, len(acts))
	for i := first; i < len(jd.state.stock.rows); i++ {
		rows = append(rows, jd.state.stock.movement(i))
	}
	jd.mu.Unlock()
	return rows, jd.journal.sync()
}

// act journals and carries out one act. The caller holds jd.mu.
func (jd *JD) act(a StockAct) {
	if a.Kind != Sale {
		jd.change(record{Acts: []StockAct{a}})
		return
	}
	seq := jd.state.seq + 1
	o := order{
		dept:  a.DeptNo,
		lines: []Line{{GoodsNo: a.GoodsNo, OrderLine: "1", Quantity: a.Num}},
		params: map[string]string{
			"departmentNo": a.DeptNo, "warehouseNo": a.WarehouseNo, "shopNo": a.ShopNo, "salePlatformSource": "1",
			"salesPlatformOrderNo": fmt.Sprintf("JD%011d", seq), "salesPlatformCreateTime": a.At.In(beijing).Format(timeLayout),
			"goodsNo": a.GoodsNo, "quantity": strconv.FormatInt(a.Num, 10),
		},
	}
	k := jd.knobs.clone()
	if !a.Walks {
		k = Knobs{}
		k.setDefaults()
		k.Walk = []Step{{Code: "10010"}, {Code: statusPacked}, {Code: statusHandedOver}}
	}
	docs := k.plan(o, jd.random("sale", strconv.FormatInt(seq, 10)), seq, a.At, jd.shown())
	for _, d := range docs {
		d.Own, d.Booked, d.ShipAt = true, !a.Walks, k.Stock.ShipAt
	}
	if a.Walks {
		jd.change(record{Documents: docs})
		return
	}
	orElse(&a.DocumentNo, docs[0].No)
	jd.change(record{Documents: docs, Acts: []StockAct{a}})
}

func (a *StockAct) shop() shopKey { return shopKey{a.DeptNo, a.WarehouseNo, a.ShopNo} }

func (a *StockAct) setDefaults(now time.Time) {
	if a.At.IsZero() {
		a.At = now
	}
	a.Made, a.RequestID = now, ""
	orElse(&a.GoodsLevel, goodLevel)
	orElse(&a.StockType, saleableType)
	orElse(&a.Reason, map[ActKind]string{
		Receipt: bizReceived, Return: bizReturned, Gain: bizGain, Loss: bizLoss, LevelChange: bizLevel,
		SetStock: bizSet, RatioChange: bizRatio, Sale: bizSold,
	}[a.Kind])
}

func (a *StockAct) check(at string, f *faults) {
	f.oneOf(at+"kind", string(a.Kind), string(Receipt), string(Return), string(Gain), string(Loss), string(LevelChange),
		string(SetStock), string(RatioChange), string(Sale))
	f.when(a.DeptNo == "", at+"deptNo", "is required")
	f.when(a.WarehouseNo == "", at+"warehouseNo", "is required")
	f.when(a.GoodsNo == "" && a.Kind != RatioChange, at+"goodsNo", "is required")
	f.pieces(at+"num", a.Num)
	switch a.Kind {
	case SetStock:
		f.when(a.ShopNo == "", at+"shopNo", "is required")
	case RatioChange:
		f.when(a.ShopNo == "", at+"shopNo", "is required")
		f.when(a.GoodsNo != "", at+"goodsNo", "must be absent: all goods of the shop change")
		f.when(a.Num != 0, at+"num", "must be absent: percent says how much")
	case Sale:
		f.when(a.ShopNo == "", at+"shopNo", "is required")
		f.when(a.Num == 0, at+"num", "is required")
		f.when(!isGood(a.GoodsLevel, a.StockType), at+"goodsLevel", "must be good: others are not sold")
	default:
		f.when(a.Num == 0, at+"num", "is required")
	}
	f.when(a.Percent < 0 || a.Percent > 1000, at+"percent", "must be from 0 to 1000")
	f.when(a.Kind != RatioChange && a.Percent != 0, at+"percent", "is for ratio only")
	f.when((a.Kind == LevelChange) != (a.IntoLevel != ""), at+"intoLevel", "is for level, and required there")
	f.when(a.Kind == LevelChange && a.StockType != saleableType, at+"stockType", "must be absent: level changes are of what can be sold or is defective")
	f.when(a.Walks && a.Kind != Sale, at+"walks", "is for sale only")
	f.when(a.At.Year() < 2000 || a.At.Year() > lastYear, at+"at", "must be a time after 2000")
}

type goodsAt struct {
	shopKey
	goods string
}

// newest is the time of the newest row that an act must not come before, those of earlier acts (meanwhile) included.
func (s *stock) newest(a StockAct, meanwhile map[goodsAt]int64) int64 {
	last := max(meanwhile[goodsAt{a.shop(), a.GoodsNo}], meanwhile[goodsAt{a.shop(), ""}])
	if shop := s.shops[a.shop()]; shop != nil {
		for goods, c := range shop.series {
			if a.Kind == RatioChange || goods == a.GoodsNo {
				last = max(last, c.last, meanwhile[goodsAt{a.shop(), goods}])
			}
		}
	}
	return last
}

// FillFlow creates rows.
func (jd *JD) FillFlow(fill Fill) error {
	var f faults
	f.when(fill.DeptNo == "", "deptNo", "is required")
	f.when(fill.WarehouseNo == "", "warehouseNo", "is required")
	f.when(fill.ShopNo == "", "shopNo", "is required")
	f.when(len(fill.GoodsNos) == 0 || slices.Contains(fill.GoodsNos, ""), "goodsNos", "is required")
	f.when(fill.Rows < 1 || fill.Rows > maxFill, "rows", "must be from 1 to %d", maxFill)
	f.when(fill.From.Year() < 2000, "from", "is required")
	f.when(fill.To.Before(fill.From) || fill.To.Year() > lastYear, "to", "is required, and must not be before from")
	jd.mu.Lock()
	jd.settle()
	for _, goods := range fill.GoodsNos {
		last := jd.state.stock.newest(StockAct{DeptNo: fill.DeptNo, WarehouseNo: fill.WarehouseNo, ShopNo: fill.ShopNo, GoodsNo: goods}, nil)
		f.when(fill.From.UnixMilli() < last, "from", "must not be before the newest row of %s, %s", goods, time.UnixMilli(last).In(beijing).Format(time.RFC3339Nano))
	}
	if len(f) > 0 {
		jd.mu.Unlock()
		return errors.Join(f...)
	}
	fill.GoodsNos = slices.Clone(fill.GoodsNos)
	fill.Draw = jd.random("fill", fill.ShopNo, strconv.Itoa(len(jd.state.stock.rows))).Uint64()
	jd.change(record{Fill: &fill})
	jd.mu.Unlock()
	return jd.journal.sync()
}

// settle brings the stock up to the warehouse's time. The caller holds jd.mu.
func (jd *JD) settle() { jd.state.settle(jd.shown()) }

func (s *stock) movement(i int) Movement {
	m := &s.rows[i]
	shop := m.series.shop
	return Movement{
		FlowID: s.flowID(i), At: time.UnixMilli(m.at).In(beijing), DeptNo: shop.dept, WarehouseNo: shop.warehouse, ShopNo: shop.shop,
		GoodsNo: m.series.goods, Former: m.former, Now: m.now, Occupied: m.occupied, Hold: m.hold, Reason: m.biz, DocumentNo: s.docOf(i),
	}
}

// Movements returns rows in the order of their creation, and the After of the next page, 0 for none.
func (jd *JD) Movements(q StockQuery) (rows []Movement, next int64) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	jd.settle()
	s := &jd.state.stock
	for i := int(max(0, q.After-s.first)); i < len(s.rows); i++ {
		if c := s.rows[i].series; !q.selects(c.shop.shopKey, c.goods) {
			continue
		}
		if q.Limit > 0 && len(rows) == q.Limit {
			after, err := strconv.ParseInt(rows[len(rows)-1].FlowID, 10, 64)
			if err != nil {
				panic("jdsandbox: " + err.Error()) // flowID writes numbers
			}
			return rows, after
		}
		rows = append(rows, s.movement(i))
	}
	return rows, 0
}

// Stock returns the present stock.
func (jd *JD) Stock(q StockQuery) StockTruth {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	jd.settle()
	return jd.state.stock.truth(q)
}

func (s *stock) truth(q StockQuery) StockTruth {
	truth := StockTruth{Shops: s.shopRows(q), Warehouses: []WareStock{}}
	for _, ware := range slices.SortedFunc(maps.Keys(s.wares), func(a, b wareKey) int {
		return shopKey{a.dept, a.warehouse, ""}.compare(shopKey{b.dept, b.warehouse, ""})
	}) {
		if q.ShopNo != "" {
			break
		}
		s.eachKept(ware, func(goods string, p *pile, k Kept) {
			if q.selects(shopKey{ware.dept, ware.warehouse, ""}, goods) {
				truth.Warehouses = append(truth.Warehouses, s.wareRow(ware, goods, p, k))
			}
		})
	}
	return truth
}

// shopRows are the goods of shops, by the numbers of both.
func (s *stock) shopRows(q StockQuery) []ShopStock {
	rows := []ShopStock{}
	for _, shop := range slices.SortedFunc(maps.Values(s.shops), func(a, b *shopStock) int { return a.compare(b.shopKey) }) {
		goods := q.goods
		if goods == nil {
			goods = slices.Sorted(maps.Keys(shop.series))
		}
		for _, goods := range goods {
			c := shop.series[goods]
			if c == nil || !q.selects(shop.shopKey, goods) {
				continue
			}
			row := ShopStock{
				DeptNo: shop.dept, WarehouseNo: shop.warehouse, ShopNo: shop.shop, GoodsNo: goods,
				Opening: c.opening, Num: c.num, Occupied: c.occupied, LowestFree: c.lowest, Rows: c.rows,
			}
			if c.rows > 0 {
				row.LastRow = time.UnixMilli(c.last).In(beijing)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// eachKept calls each with the goods of a warehouse by their numbers, in all conditions.
func (s *stock) eachKept(ware wareKey, each func(goods string, p *pile, k Kept)) {
	piles := s.wares[ware]
	if len(s.sorted[ware]) != len(piles) { // goods are never removed
		s.sorted[ware] = slices.Sorted(maps.Keys(piles))
	}
	for _, goods := range s.sorted[ware] {
		for p, i := piles[goods], 0; i < len(p.kinds); i++ {
			each(goods, p, p.kinds[i])
		}
	}
}

func (s *stock) wareRow(ware wareKey, goods string, p *pile, k Kept) WareStock {
	row := WareStock{
		DeptNo: ware.dept, WarehouseNo: ware.warehouse, GoodsNo: goods, IsvGoodsNo: s.goods[goodsKey{ware.dept, goods}].IsvGoodsNo,
		StockStatus: k.StockStatus, StockType: k.StockType, GoodsLevel: k.GoodsLevel, Total: k.Num, Usable: k.Num,
	}
	if k.GoodsLevel == goodLevel && k.StockType == saleableType {
		row.Usable -= p.occupied
	}
	return row
}

func (k shopKey) compare(other shopKey) int {
	return slices.Compare([]string{k.dept, k.warehouse, k.shop}, []string{other.dept, other.warehouse, other.shop})
}

// routeStock registers what moves stock without an order, and the truth about it.
func (jd *JD) routeStock(handle route) {
	handle("POST stock/goods", func(r *http.Request) (any, error) {
		var goods []Stock
		err := read(r, &goods)
		if err == nil {
			err = jd.StockGoods(goods...)
		}
		return struct{}{}, bad(err)
	})
	handle("POST stock/acts", func(r *http.Request) (any, error) {
		var acts []StockAct
		err := read(r, &acts)
		page := MovementPage{}
		if err == nil {
			page.Rows, err = jd.Move(acts...)
		}
		return page, bad(err)
	})
	handle("POST stock/fill", func(r *http.Request) (any, error) {
		var fill Fill
		err := read(r, &fill)
		if err == nil {
			err = jd.FillFlow(fill)
		}
		return struct{}{}, bad(err)
	})
	chosen := func(v url.Values) StockQuery {
		return StockQuery{DeptNo: v.Get("deptNo"), WarehouseNo: v.Get("warehouseNo"), ShopNo: v.Get("shopNo"), GoodsNo: v.Get("goodsNo")}
	}
	handle("GET stock", func(r *http.Request) (any, error) { return jd.Stock(chosen(r.URL.Query())), nil })
	handle("GET stock/rows", func(r *http.Request) (any, error) {
		p := query{r.URL.Query(), nil}
		q := chosen(p.Values)
		q.After, q.Limit = p.number("after", 0, math.MaxInt64-1), int(p.number("limit", defaultLimit, 10*pageLimit))
		if p.wrong != nil {
			return nil, bad(p.wrong)
		}
		page := MovementPage{Rows: []Movement{}}
		rows, next := jd.Movements(q)
		page.Rows, page.Next = append(page.Rows, rows...), next
		return page, nil
	})
}

// goodsOf names a line's goods, for texts.
func goodsOf(l Line) string { return strings.TrimSpace(l.GoodsNo + " " + l.IsvGoodsNo) }
