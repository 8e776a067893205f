package memory

import (
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/warehousetest"
)

func TestStockContract(t *testing.T) {
	warehousetest.TestStock(t, func(*testing.T) warehousetest.StockSubject {
		began := time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
		clock := &clock{at: began}
		w := &Warehouse{Now: clock.now}
		return warehousetest.StockSubject{StockReader: w.Site("W01"), Setter: w.Site("W01"), Remote: stockRemote{remote{w}, w.Site("W01"), clock}, Began: began}
	})
}

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// stockRemote carries out what the suite asks of the stock.
type stockRemote struct {
	remote
	*Site
	clock *clock
}

func (f stockRemote) Now() time.Time { return f.clock.now() }
func (f stockRemote) Busy(busy bool) { f.remote.Busy(busy) }
func (f stockRemote) Down(down bool) { f.remote.Down(down) }
func (f stockRemote) Deny()          { f.remote.Deny() }
func (f stockRemote) Expire()        { f.remote.Expire() }

func (f stockRemote) Pass(d time.Duration) {
	f.clock.mu.Lock()
	defer f.clock.mu.Unlock()
	f.clock.at = f.clock.at.Add(d)
}

func (f stockRemote) Sell(shopNo, goodsNo string, n int64) { f.Receive(shopNo, goodsNo, -n) }

func (f stockRemote) Set(shopNo, goodsNo string, n int64) {
	f.Rebase(shopNo, goodsNo, n, "set", warehouse.RuleSet)
}

func (f stockRemote) Halve(shopNo, goodsNo string) {
	f.Site.mu.Lock()
	half := f.Site.chain(stockKey{f.Site.code, shopNo, goodsNo}).num / 2
	f.Site.mu.Unlock()
	f.Rebase(shopNo, goodsNo, half, "ratio", warehouse.RuleRatio)
}

// An order's goods are reserved until they leave, and then move; those of a cancelled order stay.
func TestOrdersMoveTheStock(t *testing.T) {
	began := time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
	clock := &clock{at: began}
	w := &Warehouse{Now: clock.now, StepEvery: time.Minute, Opening: 100, Knobs: Knobs{Cancel: []string{"A-2"}, Short: []string{"A-3"}, Split: []string{"A-4"}}}
	w.UseShops(map[string]string{"S01": "ESP1"})
	site := w.Site("W01")
	for _, no := range []string{"A-1", "A-2", "A-3", "A-4"} {
		if _, err := warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order(no)); err != nil { // 2 of SKU-1, 3 of SKU-2
			t.Fatal(err)
		}
	}
	stock := func() (warehouse.ShopStock, int64) {
		t.Helper()
		got, err := site.ShopStock(t.Context(), "ESP1", []string{"SKU-1"})
		if err != nil {
			t.Fatal(err)
		}
		page, err := site.Stock(t.Context(), 1)
		if err != nil || len(page.Rows) != 2 {
			t.Fatalf("%+v, %v", page, err)
		}
		return got["SKU-1"], page.Rows[0].Usable
	}
	if got, usable := stock(); got != (warehouse.ShopStock{Num: 100, Occupied: 8}) || usable != 92 {
		t.Errorf("taken: %+v, %d usable", got, usable)
	}
	clock.at = began.Add(time.Hour)
	if got, usable := stock(); got != (warehouse.ShopStock{Num: 95}) || usable != 95 { // 2 + 1 + 2 left
		t.Errorf("left: %+v, %d usable", got, usable)
	}
	page, err := site.Flow(t.Context(), warehouse.FlowQuery{ShopNo: "ESP1", GoodsNo: "SKU-1", From: began, To: clock.at, Page: 1})
	if err != nil || len(page.Rows) != 3 {
		t.Fatalf("%+v, %v", page, err)
	}
	for _, r := range page.Rows {
		if r.Change >= 0 || r.DocumentNo == "" || !r.At.Equal(began.Add(shippedAt*time.Minute)) {
			t.Errorf("%+v", r)
		}
	}
	if other, err := w.Site("W02").Stock(t.Context(), 1); err != nil || len(other.Rows) != 0 {
		t.Errorf("in another warehouse: %+v, %v", other, err)
	}
}
