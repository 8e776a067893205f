package jdsandbox

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// stock is the physical stock of the warehouses, the stock of the shops, and every movement of a shop's stock ever. It is
// a part of state: it changes only by state.apply.
//
// Only goods that were stocked once are counted; an order of any others moves nothing.
type stock struct {
	shops       map[shopKey]*shopStock
	wares       map[wareKey]map[string]*pile // by goods
	sorted      map[wareKey][]string         // the goods of wares, as eachKept last needed them
	goods       map[goodsKey]Stock           // descriptions of goods, without figures
	byIsv       map[goodsKey]string          // isvGoodsNo → goodsNo
	rows        []movement                   // flowId is first + index + 1
	first       int64
	takes       []stockTake
	moved       []levelChange
	setRequests map[string]bool // requestIds of setShopStockFixed that were carried out
	due         steps
}

type (
	wareKey  struct{ dept, warehouse string }
	shopKey  struct{ dept, warehouse, shop string }
	goodsKey struct{ dept, goods string }
)

// shopStock is one shop's stock in one warehouse. Rows are sorted by time, then by number.
type shopStock struct {
	shopKey
	series map[string]*series
	rows   []int32
}

// series is a shop's stock of some goods: each of its movements begins with the balance at which the previous one ended.
type series struct {
	shop                           *shopStock
	goods                          string
	opening, num, occupied, lowest int64
	last                           int64 // milliseconds of the newest row
	rows                           int64
}

// pile is some goods in a warehouse, by condition.
type pile struct {
	kinds    []Kept
	occupied int64 // of what can be sold
}

// movement is a row of the flow. Its times are the host's, in milliseconds: what a client may ask for.
type movement struct {
	series      *series
	at, made    int64
	former, now int64
	// occupied is the reserved quantity after the row, hold what the row added to it.
	occupied, hold int64
	biz, doc       string
}

type stockTake struct {
	no, dept, warehouse, goods, level string
	at                                time.Time
	diff                              int64 // below 0: a loss
}

type levelChange struct {
	no, dept, warehouse, goods, from, to string
	at                                   time.Time
	num                                  int64
}

// The reasons of rows. Those of setting and ratio are JD's (docs/jd-api.md, Stock flow); the others are not published.
const (
	bizOccupied  = "订单占用"
	bizReleased  = "占用释放"
	bizSold      = "销售出库"
	bizRejected  = "拒收入库"
	bizReceived  = "采购入库"
	bizReturned  = "退货入库"
	bizGain      = "盘盈"
	bizLoss      = "盘亏"
	bizLevel     = "等级变更"
	bizSet       = "设置VMI库存"
	bizRatio     = "商品库存比例调整"
	goodLevel    = "100"
	saleableType = "1"
	goodStatus   = "1"
)

func newStock() stock {
	return stock{
		shops: map[shopKey]*shopStock{}, wares: map[wareKey]map[string]*pile{}, sorted: map[wareKey][]string{}, goods: map[goodsKey]Stock{},
		byIsv: map[goodsKey]string{}, setRequests: map[string]bool{},
	}
}

// used reports whether any goods were ever stocked.
func (s *stock) used() bool { return len(s.goods) > 0 }

// isGood reports whether pieces of this kind can be sold.
func isGood(level, kind string) bool {
	return len(level) == 3 && level[0] == '1' && kind == saleableType
}

// statusOf is the stockStatus of a level. For dirty goods (400) it is unknown.
func statusOf(level string) string {
	if len(level) == 3 && level[0] == '1' {
		return goodStatus
	}
	return "2"
}

func (s *stock) seriesOf(key shopKey, goods string) *series {
	shop := s.shops[key]
	if shop == nil {
		shop = &shopStock{shopKey: key, series: map[string]*series{}}
		s.shops[key] = shop
	}
	c := shop.series[goods]
	if c == nil {
		c = &series{shop: shop, goods: goods}
		shop.series[goods] = c
		s.know(Stock{DeptNo: key.dept, GoodsNo: goods})
	}
	return c
}

// know keeps a description of some goods, beside their figures.
func (s *stock) know(g Stock) {
	key := goodsKey{g.DeptNo, g.GoodsNo}
	known := s.goods[key]
	orElse(&known.IsvGoodsNo, g.IsvGoodsNo)
	orElse(&known.SpGoodsNo, g.SpGoodsNo)
	orElse(&known.GoodsName, g.GoodsName)
	s.goods[key] = known
	if known.IsvGoodsNo != "" {
		s.byIsv[goodsKey{g.DeptNo, known.IsvGoodsNo}] = g.GoodsNo
	}
}

// pile finds a warehouse's goods, nil if there never were any.
func (s *stock) pile(dept, warehouse, goods string) *pile {
	return s.wares[wareKey{dept, warehouse}][goods]
}

func (s *stock) keep(dept, warehouse, goods, level, kind string, num int64) {
	ware := wareKey{dept, warehouse}
	if s.wares[ware] == nil {
		s.wares[ware] = map[string]*pile{}
	}
	p := s.wares[ware][goods]
	if p == nil {
		p = &pile{}
		s.wares[ware][goods] = p
		s.know(Stock{DeptNo: dept, GoodsNo: goods})
	}
	*p.kind(level, kind) += num
}

// kind is the count of one condition.
func (p *pile) kind(level, kind string) *int64 {
	i := slices.IndexFunc(p.kinds, func(k Kept) bool { return k.GoodsLevel == level && k.StockType == kind })
	if i < 0 {
		i = len(p.kinds)
		p.kinds = append(p.kinds, Kept{StockStatus: statusOf(level), StockType: kind, GoodsLevel: level})
	}
	return &p.kinds[i].Num
}

// write adds a row. Times in a series never decrease.
func (s *stock) write(c *series, at, made, change, hold int64, biz, doc string) {
	s.record(c, at, made, change, hold, biz, doc)
	list, i := c.shop.rows, len(c.shop.rows)
	for i > 0 && s.rows[list[i-1]].at > c.last {
		i--
	}
	c.shop.rows = slices.Insert(list, i, int32(len(s.rows)-1))
}

// record is write without the row's place among the shop's others.
func (s *stock) record(c *series, at, made, change, hold int64, biz, doc string) {
	m := movement{
		series: c, at: max(at, c.last), made: made, former: c.num, now: c.num + change, occupied: c.occupied + hold, hold: hold, biz: biz, doc: doc,
	}
	c.num, c.occupied, c.last = m.now, m.occupied, m.at
	c.lowest = min(c.lowest, c.num-c.occupied)
	c.rows++
	s.rows = append(s.rows, m)
}

// open stocks goods: what exists without a row.
func (s *stock) open(g Stock) {
	s.know(g)
	sum := int64(0)
	for _, shop := range slices.Sorted(maps.Keys(g.Shops)) {
		c := s.seriesOf(shopKey{g.DeptNo, g.WarehouseNo, shop}, g.GoodsNo)
		c.opening, c.num, c.lowest = g.Shops[shop], g.Shops[shop], g.Shops[shop]
		sum += g.Shops[shop]
	}
	if g.Num == 0 {
		g.Num = sum
	}
	s.keep(g.DeptNo, g.WarehouseNo, g.GoodsNo, goodLevel, saleableType, g.Num)
	for _, k := range g.Others {
		s.keep(g.DeptNo, g.WarehouseNo, g.GoodsNo, k.GoodsLevel, k.StockType, k.Num)
	}
}

// holding is a document's quantity of some counted goods. Either of series and pile may be nil.
type holding struct {
	series    *series
	pile      *pile
	asked, is int64 // is: what leaves
}

// stage is what has happened to a document's goods.
type stage int

const (
	stageNone stage = iota
	stageHeld
	stageShipped
	stageDone
)

// goodsNo of a line, even if only the ERP's number was sent.
func (s *stock) goodsNo(dept string, l Line) string {
	if l.GoodsNo != "" {
		return l.GoodsNo
	}
	return s.byIsv[goodsKey{dept, l.IsvGoodsNo}]
}

func (s *stock) holdings(d *document, params map[string]string) []holding {
	var held []holding
	for _, l := range d.Lines {
		goods := s.goodsNo(d.Dept, l)
		h := holding{pile: s.pile(d.Dept, params["warehouseNo"], goods), asked: l.Quantity, is: l.Quantity}
		if l.RealOutQty != nil {
			h.is = *l.RealOutQty
		}
		if shop := s.shops[shopKey{d.Dept, params["warehouseNo"], params["shopNo"]}]; shop != nil {
			h.series = shop.series[goods]
		}
		if h.series != nil || h.pile != nil {
			held = append(held, h)
		}
	}
	return held
}

// book reserves what an order asks for, and schedules what will happen to its documents.
func (s *state) book(docs []*document) {
	if len(docs) == 0 || docs[0].Booked || !s.stock.used() {
		return
	}
	root := docs[0]
	at := max(s.clock.real(root.Born).UnixMilli(), root.Created.UnixMilli())
	for _, h := range s.stock.holdings(root, root.Params) {
		s.stock.move(h, at, 0, h.asked, bizOccupied, root.No)
	}
	leaves := docs[1:]
	if len(leaves) == 0 {
		leaves = docs
	}
	for _, d := range leaves {
		if d.held = s.stock.holdings(d, root.Params); len(d.held) > 0 {
			d.stage = stageHeld
			s.schedule(d)
		}
	}
}

// move changes a document's goods at the shop and in the warehouse.
func (s *stock) move(h holding, at, change, hold int64, biz, doc string) {
	if h.series != nil {
		s.write(h.series, at, at, change, hold, biz, doc)
	}
	if h.pile != nil {
		*h.pile.kind(goodLevel, saleableType) += change
		h.pile.occupied += hold
	}
}

// steps is a heap of what will happen to documents' goods, by the warehouse's clock. An entry whose document has another
// plan since is skipped.
type steps []step

// step is of a sales order (d) or of a purchase order (p).
type step struct {
	at  time.Time
	seq int64
	d   *document
	p   *purchase
}

func (s steps) Len() int { return len(s) }
func (s steps) Less(i, j int) bool {
	return cmp.Or(s[i].at.Compare(s[j].at), cmp.Compare(s[i].seq, s[j].seq)) < 0
}
func (s steps) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push is heap's.
func (s *steps) Push(v any) { *s = append(*s, v.(step)) }

// Pop is heap's.
func (s *steps) Pop() any {
	old := *s
	v := old[len(old)-1]
	*s = old[:len(old)-1]
	return v
}

// settle writes the rows of everything that happened to orders up to a time of the warehouse's clock.
func (s *state) settle(upTo time.Time) {
	for len(s.stock.due) > 0 && !s.stock.due[0].at.After(upTo) {
		e := heap.Pop(&s.stock.due).(step)
		if e.p != nil {
			s.stockReceipt(e.p, e.at)
			continue
		}
		next, to := s.nextStage(e.d)
		if to == stageNone || !next.Equal(e.at) {
			continue
		}
		at := max(s.clock.real(e.at).UnixMilli(), e.d.Created.UnixMilli())
		for _, h := range e.d.held {
			switch {
			case to == stageDone && e.d.stage == stageHeld, h.is == 0 && to == stageShipped:
				s.stock.move(h, at, 0, -h.asked, bizReleased, e.d.No)
			case to == stageShipped:
				s.stock.move(h, at, -h.is, -h.asked, bizSold, e.d.No)
			case h.is > 0:
				s.stock.move(h, at, h.is, 0, bizRejected, e.d.No)
			}
		}
		e.d.stage = to
		s.schedule(e.d)
	}
}

func (s *state) schedule(d *document) {
	if at, to := s.nextStage(d); to != stageNone {
		heap.Push(&s.stock.due, step{at: at, seq: d.Seq, d: d})
	}
}

// nextStage returns when the goods of a document move next by its present plan.
func (s *state) nextStage(d *document) (time.Time, stage) {
	if d.stage == stageHeld && d.Void { // its parent was cancelled before the split
		root := s.byNo[d.Parent]
		return root.Plan[len(root.Plan)-1].At, stageDone
	}
	out := false
	for _, st := range d.Plan {
		leaves := slices.Contains(packedStatuses, st.Code) && (st.Code != statusPacked || d.ShipAt == statusPacked)
		switch {
		case d.stage == stageHeld && st.Code == statusCancelled:
			return st.At, stageDone
		case d.stage == stageHeld && leaves:
			return st.At, stageShipped
		case d.stage == stageShipped && out && (st.Code == statusBack || st.Code == statusCancelled):
			return st.At, stageDone
		}
		out = out || leaves
	}
	return time.Time{}, stageNone
}

// act carries out a StockAct. Its At and Made are set.
func (s *state) act(a StockAct) {
	st, at, made := &s.stock, a.At.UnixMilli(), a.Made.UnixMilli()
	shop := shopKey{a.DeptNo, a.WarehouseNo, a.ShopNo}
	if a.RequestID != "" {
		st.setRequests[a.RequestID] = true
	}
	if a.Kind == RatioChange {
		for _, goods := range slices.Sorted(maps.Keys(st.shops[shop].series)) {
			c := st.shops[shop].series[goods]
			st.write(c, at, made, c.num*a.Percent/100-c.num, 0, a.Reason, a.DocumentNo)
		}
		return
	}
	if a.Kind == SetStock {
		c := st.seriesOf(shop, a.GoodsNo)
		st.write(c, at, made, a.Num-c.num, 0, a.Reason, a.DocumentNo)
		return
	}
	s.number(&a)
	num, saleable := a.Num, isGood(a.GoodsLevel, a.StockType)
	switch a.Kind {
	case Loss, Sale:
		num = -num
	case LevelChange:
		st.keep(a.DeptNo, a.WarehouseNo, a.GoodsNo, a.GoodsLevel, saleableType, -num)
		st.keep(a.DeptNo, a.WarehouseNo, a.GoodsNo, a.IntoLevel, saleableType, num)
		st.moved = append(st.moved, levelChange{
			no: a.DocumentNo, dept: a.DeptNo, warehouse: a.WarehouseNo, goods: a.GoodsNo, from: a.GoodsLevel, to: a.IntoLevel, at: a.At, num: num,
		})
		into := isGood(a.IntoLevel, saleableType)
		if saleable == into {
			return
		}
		if saleable {
			num = -num
		}
		saleable = true
	}
	if a.Kind == Gain || a.Kind == Loss {
		st.takes = append(st.takes, stockTake{
			no: a.DocumentNo, dept: a.DeptNo, warehouse: a.WarehouseNo, goods: a.GoodsNo, level: a.GoodsLevel, at: a.At, diff: num,
		})
	}
	if a.Kind != LevelChange {
		st.keep(a.DeptNo, a.WarehouseNo, a.GoodsNo, a.GoodsLevel, a.StockType, num)
	}
	if saleable && a.ShopNo != "" {
		st.write(st.seriesOf(shop, a.GoodsNo), at, made, num, 0, a.Reason, a.DocumentNo)
	}
}

// number assigns a number of its kind to an act's document (those of stock-takes and level changes are not published).
func (s *state) number(a *StockAct) {
	if a.DocumentNo == "" {
		s.seq++
		a.DocumentNo = fmt.Sprintf("%s44%011d", map[ActKind]string{Receipt: "EPL", Return: "ESR", Gain: "ECK", Loss: "ECK", LevelChange: "ELC"}[a.Kind], s.seq)
	}
}

// fill writes many rows at once: mostly sales, other movements in between, and a receipt whenever little is left. Stock
// never goes below zero by it.
func (s *state) fill(f Fill) {
	st := &s.stock
	rnd := rand.New(rand.NewPCG(f.Draw, uint64(f.Rows)))
	shop := shopKey{f.DeptNo, f.WarehouseNo, f.ShopNo}
	all, piles := make([]*series, len(f.GoodsNos)), make([]*pile, len(f.GoodsNos))
	for i, goods := range f.GoodsNos {
		if known := st.shops[shop]; known == nil || known.series[goods] == nil {
			g := Stock{DeptNo: f.DeptNo, WarehouseNo: f.WarehouseNo, GoodsNo: goods, Shops: map[string]int64{f.ShopNo: fillOpening}}
			if st.pile(f.DeptNo, f.WarehouseNo, goods) == nil {
				st.open(g)
			} else {
				c := st.seriesOf(shop, goods)
				c.opening, c.num, c.lowest = fillOpening, fillOpening, fillOpening
			}
		}
		all[i], piles[i] = st.seriesOf(shop, goods), st.pile(f.DeptNo, f.WarehouseNo, goods)
	}
	st.rows = slices.Grow(st.rows, f.Rows)
	list := all[0].shop
	list.rows = slices.Grow(list.rows, f.Rows)
	from, span := f.From.UnixMilli(), f.To.UnixMilli()-f.From.UnixMilli()
	for i := range f.Rows {
		at := from
		if f.Rows > 1 {
			at += int64(float64(span) * float64(i) / float64(f.Rows-1))
		}
		n := rnd.IntN(len(all))
		c := all[n]
		change, biz := fillRow(rnd, c.num-c.occupied)
		st.record(c, at, at, change, 0, biz, "")
		list.rows = append(list.rows, int32(len(st.rows)-1))
		if piles[n] != nil && biz != bizSet {
			*piles[n].kind(goodLevel, saleableType) += change
		}
	}
	slices.SortStableFunc(list.rows, func(a, b int32) int { return cmp.Compare(st.rows[a].at, st.rows[b].at) })
}

const fillOpening = 1000

func fillRow(rnd *rand.Rand, free int64) (change int64, biz string) {
	few := 1 + rnd.Int64N(5)
	switch kind := rnd.IntN(100); {
	case free < 10:
		return 100 + rnd.Int64N(900), bizReceived
	case kind < 84:
		return -few, bizSold
	case kind < 92:
		return few, bizReturned
	case kind < 95:
		return few, bizGain
	case kind < 98:
		return -few, bizLoss
	case kind < 99:
		return few, bizSet
	default:
		return 10 * few, bizReceived
	}
}

// docOf is the document of a row; rows of a fill have one each.
func (s *stock) docOf(i int) string {
	if m := &s.rows[i]; m.doc != "" || m.biz == bizSet || m.biz == bizRatio {
		return m.doc
	}
	return "ESL45" + fmt.Sprintf("%011d", s.first+int64(i)+1)
}

func (s *stock) flowID(i int) string { return strconv.FormatInt(s.first+int64(i)+1, 10) }

// real is when the host's clock showed what the warehouse's showed then.
func (c clock) real(shown time.Time) time.Time {
	if c.Speed <= 0 || !shown.After(c.Shown) {
		return c.Real
	}
	return c.Real.Add(time.Duration(float64(shown.Sub(c.Shown)) / c.Speed))
}
