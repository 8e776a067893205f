package jdsandbox

import (
	"cmp"
	"slices"
	"sort"
	"strconv"
	"time"
)

// EndSentence is how queryVmiShopStockFlow says that there are no further rows: in an error_response (docs/jd-api.md,
// Stock flow; blanks included). Nothing else is the end.
const EndSentence = "库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理"

// WrongEnds are texts that resemble EndSentence and are not the end.
func WrongEnds() []string {
	return []string{
		"库存系统 根据 入参，查询 VMI店铺库存流水 信息异常，无法处理",
		"库存系统 根据 入参，查询 VMI店铺库存 信息为空，无法处理",
		"库存系统 根据 入参，查询 VMI店铺库存流水 超时，无法处理",
		"库存系统 根据 入参，查询 店铺库存流水 信息为空，无法处理",
		"库存系统 根据 入参，查询 VMI店铺信息为空，无法处理",
		"查询结果为空",
	}
}

// anyBizType is every movement of sales orders.
const anyBizType = -1

// bizTypes are the movements in searchShopStockFlow by JD's numbers: an order reserves, leaves, or is cancelled. 25
// (large goods leave), 19 and 109 (VMI orders leave) are not played.
var bizTypes = map[string]int{bizOccupied: 21, bizSold: 22, bizReleased: 23}

// Flow is how queryVmiShopStockFlow and searchShopStockFlow return their rows. Random choices depend on the seed and the
// row's number, or on the place and how often it was read.
type Flow struct {
	// Order of the rows: "ascending" by time (default), "descending", "shuffled", or "seconds" (ascending, shuffled within
	// each second).
	Order string `json:"order"`
	// Drop leaves rows out of the first readings that cover them. A reading begins with its first page.
	Drop Missing `json:"drop"`
	// Late makes rows visible only some time after their creation, by the host's clock.
	Late Late `json:"late"`
	// Duplicate is the chance that a row occurs twice, the second time up to 150 rows later.
	Duplicate float64 `json:"duplicate"`
	// Shift moves the pages during a reading.
	Shift Shift `json:"shift"`
	// End is how the end is returned.
	End End `json:"end"`
	// MaxSpan is the longest window, default 30 days (the real limit is not published); searchShopStockFlow's is 31 days.
	MaxSpan Duration `json:"max_span"`
	// NoHolds leaves out rows that only reserve or release stock: their balance is the same before and after.
	NoHolds bool `json:"no_holds"`
}

// Missing leaves a row out of the first Readings that cover it. Chance picks the rows, default all.
type Missing struct {
	Chance   float64 `json:"chance"`
	Readings int     `json:"readings"`
}

// Late makes a row visible after By. Chance picks the rows, default all if By is set.
type Late struct {
	Chance float64 `json:"chance"`
	By     Range   `json:"by"`
}

// Shift moves all further pages of a reading, with a chance at each page but the first: back by Rows, as if rows had been
// inserted before (rows are repeated), or on by Rows, as if rows had gone (rows are skipped).
type Shift struct {
	Repeat float64 `json:"repeat"`
	Skip   float64 `json:"skip"`
	// Rows default 1.
	Rows int `json:"rows"`
}

// End is how the end of the rows is returned.
type End struct {
	// Code of the error, default that of Refusal: JD's is unknown. Text default EndSentence.
	Code Code   `json:"code,omitempty"`
	Text string `json:"text,omitempty"`
	// Style: "" as JD does, "empty" an empty list, "missing" no list.
	Style string `json:"style,omitempty"`
	// Wrong is the chance that one of WrongEnds is returned instead.
	Wrong float64 `json:"wrong,omitempty"`
}

// StockKnobs are the other settings about stock.
type StockKnobs struct {
	// Unstocked is what happens to an order of goods that were never stocked, Lacking to one for more than the shop has
	// free: "take" (default), or "refuse".
	Unstocked string `json:"unstocked"`
	Lacking   string `json:"lacking"`
	// ShipAt is the status at which goods leave the stock: 10019 (default) or 10018.
	ShipAt Code `json:"ship_at"`
	// ResponseCode is what the newer calls answer, default "1" (JD's is unknown).
	ResponseCode Code `json:"response_code"`
	// RequestIDs is the requestId in the newer calls' answers: RequestIDEcho (default) repeats the request's, RequestIDOwn
	// is a trace number of JD's own (unknown for ECLP; its successor documents that).
	RequestIDs string `json:"request_ids"`
	// InnerErrors is the chance that a newer call (searchShopStockFlow, searchShopStock, setShopStockFixed) fails inside an
	// answer that looks like a success: responseCode "2", an errMsg, no data and no effect.
	InnerErrors float64 `json:"inner_errors"`
	// CountMoves is the chance that, at a page of queryStock but the first, a row of an earlier page has gone: the others
	// move up, and recordCount is one less.
	CountMoves float64 `json:"count_moves"`
	// OwnOrders makes queryOrderList return only orders that JD created itself.
	OwnOrders bool `json:"own_orders"`
}

// Values of StockKnobs.RequestIDs.
const (
	RequestIDEcho = "echo"
	RequestIDOwn  = "own"
)

func (k *Knobs) stockDefaults() {
	orElse(&k.Flow.Order, "ascending")
	orElse(&k.Flow.Shift.Rows, 1)
	orElse(&k.Flow.MaxSpan, Duration(30*24*time.Hour))
	orElse(&k.Flow.End.Text, EndSentence)
	if k.Flow.Drop.Readings > 0 {
		orElse(&k.Flow.Drop.Chance, 1)
	}
	k.Flow.Late.By.Max = max(k.Flow.Late.By.Max, k.Flow.Late.By.Min)
	if k.Flow.Late.By.Max > 0 {
		orElse(&k.Flow.Late.Chance, 1)
	}
	orElse(&k.Stock.Unstocked, "take")
	orElse(&k.Stock.Lacking, "take")
	orElse(&k.Stock.ShipAt, statusHandedOver)
	orElse(&k.Stock.ResponseCode, "1")
	orElse(&k.Stock.RequestIDs, RequestIDEcho)
}

func (k *Knobs) checkStock(f *faults) {
	f.oneOf("flow.order", k.Flow.Order, "ascending", "descending", "shuffled", "seconds")
	f.chance("flow.drop.chance", k.Flow.Drop.Chance)
	f.when(k.Flow.Drop.Readings < 0 || k.Flow.Drop.Readings > 200, "flow.drop.readings", "must be from 0 to 200")
	f.chance("flow.late.chance", k.Flow.Late.Chance)
	f.when(k.Flow.Late.By.Min < 0 || time.Duration(k.Flow.Late.By.Max) > maxStep, "flow.late.by", "must be from 0 to %v", maxStep)
	f.chance("flow.duplicate", k.Flow.Duplicate)
	f.chance("flow.shift.repeat", k.Flow.Shift.Repeat)
	f.chance("flow.shift.skip", k.Flow.Shift.Skip)
	f.when(k.Flow.Shift.Rows < 1 || k.Flow.Shift.Rows > 1000, "flow.shift.rows", "must be from 1 to 1000")
	f.oneOf("flow.end.style", k.Flow.End.Style, "", "empty", "missing")
	f.chance("flow.end.wrong", k.Flow.End.Wrong)
	f.when(k.Flow.MaxSpan <= 0 || time.Duration(k.Flow.MaxSpan) > maxStep, "flow.max_span", "must be over 0, at most %v", maxStep)
	f.oneOf("stock.unstocked", k.Stock.Unstocked, "take", "refuse")
	f.oneOf("stock.lacking", k.Stock.Lacking, "take", "refuse")
	f.oneOf("stock.request_ids", k.Stock.RequestIDs, RequestIDEcho, RequestIDOwn)
	f.chance("stock.inner_errors", k.Stock.InnerErrors)
	f.chance("stock.count_moves", k.Stock.CountMoves)
	f.oneOf("stock.ship_at", string(k.Stock.ShipAt), string(statusPacked), string(statusHandedOver))
}

// window is the query for a flow. From and to are milliseconds, to is exclusive. An empty warehouse or goods means any.
type window struct {
	dept, warehouse, shop, goods string
	from, to                     int64
	// sales leaves out all but the movements of sales orders, bizType all but those of one kind; -1 means all.
	sales   bool
	bizType int
}

// reading is one reader's progress through the pages of a window.
type reading struct {
	no    uint64
	shift int
}

// Subjects of a random choice.
const (
	diceDrop = iota + 1
	diceLate
	diceLateBy
	diceTwice
	diceTwiceAt
	diceOrder
	diceRepeat
	diceSkip
	diceEnd
	diceWhichEnd
	diceCount
	diceInner
)

// dice is a random number about a subject and a thing, the same for the same seed.
func (jd *JD) dice(about, thing uint64) uint64 {
	z := jd.master.Seed*0x9e3779b97f4a7c15 + about*0xbf58476d1ce4e5b9 + thing + 0x94d049bb133111eb
	for range 2 {
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
	}
	return z
}

func (jd *JD) chance(p float64, about, thing uint64) bool {
	return p > 0 && float64(jd.dice(about, thing)>>11)/(1<<53) < p
}

// flowPage returns the rows of a page (from 1) of size rows, and how many the window has. The caller holds jd.mu.
func (jd *JD) flowPage(w window, page, size int) (rows []int32, all int) {
	jd.settle()
	sight := listing{w: w, knobs: jd.knobSets, rows: len(jd.state.stock.rows)}
	if jd.knobs.Flow.Late.By.Max > 0 {
		sight.at = jd.now().UnixMilli()
	}
	if page == 1 || jd.listed != sight {
		jd.list, jd.listed = jd.flowRows(w, page == 1), sight
	}
	rows = jd.list
	start := (page-1)*size + jd.read(w, page).shift
	start = min(max(0, start), len(rows))
	return rows[start:min(start+size, len(rows))], len(rows)
}

// listing is what the rows of a window depend on. The newest one is cached, so that a long one is not sorted for each
// page.
type listing struct {
	w     window
	knobs int
	rows  int
	at    int64 // only if rows come late
}

// maxReadings bounds how many readings are remembered.
const maxReadings = 10_000

// read continues the reading of a window, or begins one.
func (jd *JD) read(w window, page int) *reading {
	r := jd.readings[w]
	if r == nil || page == 1 {
		if len(jd.readings) >= maxReadings {
			clear(jd.readings)
		}
		jd.readers++
		r = &reading{no: jd.readers}
		jd.readings[w] = r
	}
	shift := jd.knobs.Flow.Shift
	if thing := r.no<<16 + uint64(page); page > 1 {
		if jd.chance(shift.Repeat, diceRepeat, thing) {
			r.shift -= shift.Rows
		}
		if jd.chance(shift.Skip, diceSkip, thing) {
			r.shift += shift.Rows
		}
	}
	return r
}

// flowRows are the rows of a window as they are returned now.
func (jd *JD) flowRows(w window, begins bool) []int32 {
	s, k := &jd.state.stock, &jd.knobs.Flow
	var shops []*shopStock
	if w.warehouse != "" {
		if shop := s.shops[shopKey{w.dept, w.warehouse, w.shop}]; shop != nil {
			shops = append(shops, shop)
		}
	} else {
		for key, shop := range s.shops {
			if key.dept == w.dept && key.shop == w.shop {
				shops = append(shops, shop)
			}
		}
	}
	plain := k.Drop.Readings == 0 && k.Late.By.Max == 0 && !k.NoHolds && w.goods == "" && !w.sales
	now := jd.now().UnixMilli()
	var rows []int32
	for _, shop := range shops {
		part := shop.rows[sort.Search(len(shop.rows), func(i int) bool { return s.rows[shop.rows[i]].at >= w.from }):]
		part = part[:sort.Search(len(part), func(i int) bool { return s.rows[part[i]].at >= w.to })]
		if plain && len(shops) == 1 {
			rows = part
			break
		}
		for _, i := range part {
			if jd.visible(i, w, now, begins) {
				rows = append(rows, i)
			}
		}
	}
	if plain && len(shops) == 1 && k.Order == "ascending" && k.Duplicate == 0 {
		return rows
	}
	rows = slices.Clone(rows)
	jd.sortRows(rows, len(shops) > 1)
	return jd.double(rows)
}

// visible reports whether a row of the window is visible now.
func (jd *JD) visible(i int32, w window, now int64, begins bool) bool {
	m, k, id := &jd.state.stock.rows[i], &jd.knobs.Flow, uint64(jd.state.stock.first)+uint64(i)
	if w.goods != "" && m.series.goods != w.goods || k.NoHolds && m.former == m.now && m.hold != 0 {
		return false
	}
	if kind, sale := bizTypes[m.biz]; w.sales && (!sale || w.bizType != anyBizType && w.bizType != kind) {
		return false
	}
	if jd.chance(k.Late.Chance, diceLate, id) {
		by := time.Duration(k.Late.By.Min).Milliseconds()
		if span := time.Duration(k.Late.By.Max - k.Late.By.Min).Milliseconds(); span > 0 {
			by += int64(jd.dice(diceLateBy, id) % uint64(span+1))
		}
		if m.made+by > now {
			return false
		}
	}
	if k.Drop.Readings == 0 || !jd.chance(k.Drop.Chance, diceDrop, id) {
		return true
	}
	for len(jd.missed) <= int(i) {
		jd.missed = append(jd.missed, make([]uint8, len(jd.state.stock.rows)-len(jd.missed))...)
	}
	if begins && jd.missed[i] < 255 {
		jd.missed[i]++
	}
	return int(jd.missed[i]) > k.Drop.Readings
}

// sortRows sorts rows by the knob; they are in ascending order already unless they are of several shops.
func (jd *JD) sortRows(rows []int32, mixed bool) {
	s := &jd.state.stock
	place := func(i int32) uint64 { return jd.dice(diceOrder, uint64(s.first)+uint64(i)) }
	byTime := func(a, b int32) int { return cmp.Or(cmp.Compare(s.rows[a].at, s.rows[b].at), cmp.Compare(a, b)) }
	switch jd.knobs.Flow.Order {
	case "shuffled":
		slices.SortFunc(rows, func(a, b int32) int { return cmp.Compare(place(a), place(b)) })
	case "seconds":
		slices.SortFunc(rows, func(a, b int32) int {
			return cmp.Or(cmp.Compare(s.rows[a].at/1000, s.rows[b].at/1000), cmp.Compare(place(a), place(b)))
		})
	default:
		if mixed {
			slices.SortFunc(rows, byTime)
		}
		if jd.knobs.Flow.Order == "descending" {
			slices.Reverse(rows)
		}
	}
}

// double repeats some rows.
func (jd *JD) double(rows []int32) []int32 {
	p := jd.knobs.Flow.Duplicate
	if p == 0 {
		return rows
	}
	type again struct {
		after int
		row   int32
	}
	var twice []again
	for n, i := range rows {
		if id := uint64(jd.state.stock.first) + uint64(i); jd.chance(p, diceTwice, id) {
			twice = append(twice, again{min(len(rows), n+1+int(jd.dice(diceTwiceAt, id)%150)), i})
		}
	}
	slices.SortStableFunc(twice, func(a, b again) int { return cmp.Compare(a.after, b.after) })
	all := make([]int32, 0, len(rows)+len(twice))
	for n := 0; ; n++ {
		for len(twice) > 0 && twice[0].after == n {
			all, twice = append(all, twice[0].row), twice[1:]
		}
		if n == len(rows) {
			return all
		}
		all = append(all, rows[n])
	}
}

// flowEnd is the answer after the last row of queryVmiShopStockFlow.
func (jd *JD) flowEnd() (any, *Refusal) {
	end := jd.knobs.Flow.End
	jd.ends++
	if jd.chance(end.Wrong, diceEnd, jd.ends) {
		wrong := WrongEnds()
		return nil, jd.refusal(end.Code, wrong[jd.dice(diceWhichEnd, jd.ends)%uint64(len(wrong))], "")
	}
	switch end.Style {
	case "empty":
		return []object{}, nil
	case "missing":
		return nil, nil
	default:
		return nil, jd.refusal(end.Code, end.Text, "")
	}
}

func n64(n int64) number { return number(strconv.FormatInt(n, 10)) }
