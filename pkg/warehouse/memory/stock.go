package memory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

const (
	// flowPage and stockPage are page sizes.
	flowPage  = 100
	stockPage = 100
	// maxSpan is the longest span of a flow.
	maxSpan = 24 * time.Hour
)

// The reasons of rows.
const (
	reasonShipped   = "shipped"
	reasonReceived  = "received"
	reasonStockTake = "stock-take"
	reasonSet       = "set"
)

// Site is one of the ERP's warehouses in it, with a stock of its own. A shop's stock there changes when goods arrive,
// when an order's goods leave, and by hand.
type Site struct {
	*Warehouse
	code string
}

var (
	_ warehouse.Orderer     = (*Site)(nil)
	_ warehouse.StockReader = (*Site)(nil)
	_ warehouse.StockSetter = (*Site)(nil)
)

// Site returns the ERP's warehouse with this code.
func (w *Warehouse) Site(code string) *Site { return &Site{w, code} }

// UseShops sets the warehouse's numbers of the ERP's shops; a shop without one has its code.
func (w *Warehouse) UseShops(numbers map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shops = numbers
}

type stockKey struct{ site, shop, goods string }

// balance is the stock of one kind of goods of a shop. lying is its part of the physical stock: setting a shop's stock
// moves no goods.
type balance struct{ num, occupied, lying int64 }

type movement struct {
	stockKey
	warehouse.FlowRow
}

// stock is what is in the warehouse and its movements.
type stock struct {
	chains map[stockKey]*balance
	rows   []movement
	takes  []movement
	// open are documents whose goods have not left.
	open []*document
	// done are the requests to set stock that were carried out.
	done map[string]bool
	last time.Time
}

func (w *Warehouse) chain(key stockKey) *balance {
	c := w.stock.chains[key]
	if c == nil {
		if w.stock.chains == nil {
			w.stock.chains, w.stock.done = map[stockKey]*balance{}, map[string]bool{}
		}
		c = &balance{num: w.Opening, lying: w.Opening}
		w.stock.chains[key] = c
	}
	return c
}

// move adds a row. Times of rows never decrease.
func (w *Warehouse) move(key stockKey, at time.Time, change int64, reason, documentNo string, rule warehouse.Rule) *movement {
	s, c := &w.stock, w.chain(key)
	if at.Before(s.last) {
		at = s.last
	}
	s.last = at
	if rule == warehouse.RuleMoves && (c.num < 0 || c.num+change < 0) {
		rule = warehouse.RuleNegative
	}
	s.rows = append(s.rows, movement{key, warehouse.FlowRow{
		No: fmt.Sprintf("MEMF%08d", len(s.rows)+1), At: at, GoodsNo: key.goods, DocumentNo: documentNo, Reason: reason, Rule: rule,
		Change: change, Former: c.num, Now: c.num + change,
	}})
	c.num += change
	return &s.rows[len(s.rows)-1]
}

// occupy reserves a new order's goods.
func (w *Warehouse) occupy(d *document, o *orderv1.Audited) {
	d.site, d.shop = o.Warehouse, cmp.Or(w.shops[o.Shop], o.Shop)
	for _, l := range d.lines {
		w.chain(d.key(l)).occupied += l.Quantity
	}
	w.stock.open = append(w.stock.open, d)
}

func (d *document) key(l *orderv1.ShippedLine) stockKey {
	return stockKey{d.site, d.shop, cmp.Or(l.WarehouseGoodsNo, l.GoodsCode)}
}

// settle moves the stock for all orders whose goods left or that were cancelled since, earliest first.
func (w *Warehouse) settle() {
	type due struct {
		d    *document
		at   time.Time
		left bool
	}
	var list []due
	now := w.now()
	w.stock.open = slices.DeleteFunc(w.stock.open, func(d *document) bool {
		for _, s := range w.history(d) {
			switch s.Status {
			case documentv1.Status_STATUS_CANCELLED, documentv1.Status_STATUS_SHIPPED:
				if s.At.After(now) { // stepped by hand
					s.At = now
				}
				list = append(list, due{d, s.At, s.Status == documentv1.Status_STATUS_SHIPPED})
				return true
			}
		}
		return false
	})
	slices.SortStableFunc(list, func(a, b due) int { return a.at.Compare(b.at) })
	for _, e := range list {
		for _, l := range e.d.lines {
			c := w.chain(e.d.key(l))
			if c.occupied -= l.Quantity; e.left && l.Shipped != 0 {
				c.lying -= l.Shipped
				w.move(e.d.key(l), e.at, -l.Shipped, reasonShipped, e.d.no, warehouse.RuleMoves)
			}
		}
	}
}

// Receive books incoming pieces for a shop; a negative number books outgoing ones.
func (s *Site) Receive(shopNo, goodsNo string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	key := stockKey{s.code, shopNo, goodsNo}
	s.chain(key).lying += n
	s.Warehouse.move(key, s.now(), n, reasonReceived, "", warehouse.RuleMoves)
}

// TakeStock corrects a shop's stock by the difference of a stock-take.
func (s *Site) TakeStock(shopNo, goodsNo string, difference int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	key := stockKey{s.code, shopNo, goodsNo}
	s.chain(key).lying += difference
	no := "MEMT" + strconv.Itoa(len(s.stock.takes)+1)
	s.stock.takes = append(s.stock.takes, *s.Warehouse.move(key, s.now(), difference, reasonStockTake, no, warehouse.RuleMoves))
}

// Rebase changes a shop's stock by a rule and moves no goods.
func (s *Site) Rebase(shopNo, goodsNo string, num int64, reason string, rule warehouse.Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	s.rebase(shopNo, goodsNo, num, reason, rule)
}

func (s *Site) rebase(shopNo, goodsNo string, num int64, reason string, rule warehouse.Rule) {
	key := stockKey{s.code, shopNo, goodsNo}
	s.Warehouse.move(key, s.now(), num-s.chain(key).num, reason, "", rule)
}

// FlowTerms says that rows are linked.
func (s *Site) FlowTerms() warehouse.FlowTerms {
	return warehouse.FlowTerms{MaxSpan: maxSpan, Linked: true}
}

// Flow reads one page of a shop's flow.
func (s *Site) Flow(ctx context.Context, q warehouse.FlowQuery) (warehouse.FlowPage, error) {
	from, to := q.From.Truncate(time.Second), q.To.Truncate(time.Second)
	if q.Page < 1 || to.Before(from) || to.Sub(from) > maxSpan {
		return warehouse.FlowPage{}, fmt.Errorf("flow from %v to %v, page %d: want at most %v, and pages from 1", from, to, q.Page, maxSpan)
	}
	if err := s.reach(ctx); err != nil {
		return warehouse.FlowPage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	var page warehouse.FlowPage
	skip := (q.Page - 1) * flowPage
	for _, m := range s.stock.rows {
		if m.site != s.code || m.shop != q.ShopNo || q.GoodsNo != "" && m.goods != q.GoodsNo || m.At.Before(from) || !m.At.Before(to.Add(time.Second)) {
			continue
		}
		if skip--; skip < 0 && len(page.Rows) < flowPage {
			page.Rows = append(page.Rows, m.FlowRow)
		}
	}
	page.End = len(page.Rows) == 0
	return page, nil
}

// ShopStockLimit is small enough that tests need several calls.
func (s *Site) ShopStockLimit() int { return maxShopStock }

// ShopStock reads a shop's stock of some goods.
func (s *Site) ShopStock(ctx context.Context, shopNo string, goodsNos []string) (map[string]warehouse.ShopStock, error) {
	if len(goodsNos) > maxShopStock {
		return nil, fmt.Errorf("stock of shop %s: %d goods are more than %d", shopNo, len(goodsNos), maxShopStock)
	}
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	has := map[string]warehouse.ShopStock{}
	for _, no := range goodsNos {
		if c := s.stock.chains[stockKey{s.code, shopNo, no}]; c != nil {
			has[no] = warehouse.ShopStock{Num: c.num, Occupied: c.occupied}
		}
	}
	return has, nil
}

// Stock reads one page of the physical stock.
func (s *Site) Stock(ctx context.Context, page int) (warehouse.StockPage, error) {
	if page < 1 {
		return warehouse.StockPage{}, fmt.Errorf("stock: page %d, want one from 1", page)
	}
	if err := s.reach(ctx); err != nil {
		return warehouse.StockPage{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	goods := map[string]warehouse.StockRow{}
	for key, c := range s.stock.chains {
		if key.site != s.code {
			continue
		}
		row := goods[key.goods]
		row.Total, row.Usable = row.Total+c.lying, row.Usable+c.lying-c.occupied
		goods[key.goods] = row
	}
	var rows []warehouse.StockRow
	for no, row := range goods {
		if row.Total != 0 {
			row.GoodsNo, row.Status, row.Type, row.Level, row.Saleable = no, "good", "saleable", "100", true
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b warehouse.StockRow) int { return cmp.Compare(a.GoodsNo, b.GoodsNo) })
	start := min((page-1)*stockPage, len(rows))
	end := min(start+stockPage, len(rows))
	return warehouse.StockPage{Rows: rows[start:end], Total: len(rows), Last: end == len(rows)}, nil
}

// SetShopStock overwrites a shop's stock of some goods, once for each request id.
func (s *Site) SetShopStock(ctx context.Context, requestID, shopNo, goodsNo string, num int64) error {
	if requestID == "" || num < 0 {
		return fmt.Errorf("set stock of shop %s, goods %s to %d: want a request id, and nothing below zero", shopNo, goodsNo, num)
	}
	if err := s.reach(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	s.chain(stockKey{s.code, shopNo, goodsNo})
	if !s.stock.done[requestID] {
		s.stock.done[requestID] = true
		s.rebase(shopNo, goodsNo, num, reasonSet, warehouse.RuleSet)
	}
	return nil
}

// StockChanges returns the stock-takes of some goods.
func (s *Site) StockChanges(ctx context.Context, goodsNo string, from, to time.Time) ([]warehouse.StockChange, error) {
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var changes []warehouse.StockChange
	for _, m := range s.stock.takes {
		if m.site == s.code && m.goods == goodsNo && !m.At.Before(from) && !m.At.After(to) {
			changes = append(changes, warehouse.StockChange{Kind: warehouse.KindStockTake, No: m.DocumentNo, At: m.At, Quantity: m.Change})
		}
	}
	return changes, nil
}
