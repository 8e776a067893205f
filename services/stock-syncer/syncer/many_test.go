package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

// counting counts the calls of a ledger.
type counting struct {
	Ledger
	leases, reads, writes, scans atomic.Int64
}

func (c *counting) Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	c.leases.Add(1)
	return c.Ledger.Lease(ctx, name, owner, ttl)
}

func (c *counting) Unlease(ctx context.Context, name, owner string) error {
	c.leases.Add(1)
	return c.Ledger.Unlease(ctx, name, owner)
}

func (c *counting) ReadBook(ctx context.Context, name string, fields, marks []string) (ledger.Book, error) {
	c.reads.Add(1)
	return c.Ledger.ReadBook(ctx, name, fields, marks)
}

func (c *counting) WriteBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	c.writes.Add(1)
	return c.Ledger.WriteBook(ctx, name, w)
}

func (c *counting) ScanBook(ctx context.Context, name, prefix, from string) ([]ledger.Field, string, error) {
	c.scans.Add(1)
	return c.Ledger.ScanBook(ctx, name, prefix, from)
}

// take returns how many calls there were since it was last called.
func (c *counting) take() int64 {
	return c.leases.Swap(0) + c.reads.Swap(0) + c.writes.Swap(0) + c.scans.Swap(0)
}

// manyGoods stocks goods with long numbers: the queues do not have room for all of them.
func manyGoods(b *fixture, n int, pieces int64) (nos []string) {
	b.wh.perPage = 2000
	for i := range n {
		nos = append(nos, fmt.Sprintf("N%05d-%s", i, strings.Repeat("x", 80)))
		b.wh.put(nos[i], pieces)
	}
	return nos
}

// onePool leaves the pool west: shop C has a fifth of it.
func onePool(s *sellerv1.Setup) { s.Stock.Pools = s.Stock.Pools[1:] }

// Each share of very many goods is published once, what shrinks meanwhile comes first, and what that costs grows with
// the shares and not with their square.
func TestSharesOfManyGoods(t *testing.T) {
	const goods, perSecond = 5000, 200
	b := newFixture(t, redisLedger(t))
	calls := &counting{Ledger: b.store}
	b.Syncer = b.replica(calls)
	b.PerSecond = perSecond
	b.apply(onePool)
	nos := manyGoods(b, goods, 100)
	b.advance(2 * time.Minute)
	b.count()
	calls.take()
	publish := func(want int64) {
		t.Helper()
		shares := map[string]int64{}
		for runs := 0; len(shares) < goods; runs++ {
			if runs > goods/perSecond+10 {
				t.Fatalf("%d shares after %d runs", len(shares), runs)
			}
			r := b.shareBy(b.Syncer)
			if err := r.settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.advance(time.Second)
			if len(r.events) > perSecond {
				t.Fatalf("%d shares in a second", len(r.events))
			}
			for _, e := range r.events {
				m := e.Message.(*stockv1.ShareChanged)
				if was, twice := shares[m.GoodsNo]; twice || m.Share != want {
					t.Fatalf("%d of %s, after %d", m.Share, m.GoodsNo, was)
				}
				shares[m.GoodsNo] = m.Share
			}
		}
		for len(b.shareBy(b.Syncer).events) > 0 {
			t.Fatal("more shares than goods")
		}
		if n := calls.take(); n > goods/2 {
			t.Errorf("%d calls of the ledger for %d shares", n, goods)
		}
	}
	publish(20)

	recount := func(pieces int64) {
		for _, no := range nos {
			b.wh.put(no, pieces)
		}
		b.advance(2 * time.Minute)
		b.requestCount()
		b.count()
		calls.take()
	}
	recount(50)
	publish(10)
	recount(200)
	publish(41)

	// While very many grow, one that sells is published with the next run.
	recount(300)
	first := b.shareBy(b.Syncer)
	if err := first.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	grown := lines(first)
	if len(grown) == 0 || !strings.HasSuffix(grown[0], " 61") {
		t.Fatalf("%d shares, the first is %q", len(grown), grown[0])
	}
	b.advance(time.Second)
	sold := nos[slices.IndexFunc(nos, func(no string) bool { return !contains(grown, "C "+no+" 61") })]
	if err := b.accepted("X1", "C", b.now(), line(sold, 50)); err != nil {
		t.Fatal(err)
	}
	if next := lines(b.shareBy(b.Syncer)); !contains(next, "C "+sold+" 11") {
		t.Errorf("what sold was not published among the next %d", len(next))
	}
}

// What a run is about to publish fits into its field of the book, however fast shares may be published.
func TestManySharesInOneRun(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.apply(onePool)
	b.wh.perPage = 2000
	const goods = 900
	for i := range goods {
		b.wh.put(fmt.Sprintf("EMG44180%08d", i), 100)
	}
	b.advance(2 * time.Minute)
	b.count()
	shares := map[string]bool{}
	for range 5 {
		for _, l := range b.share() {
			shares[l] = true
		}
	}
	if len(shares) != goods {
		t.Errorf("%d shares of %d goods", len(shares), goods)
	}
}

// Goods that wait for an answer to a changed ratio are evaluated when there is one, however many they are.
func TestManyGoodsWaitForAnAnswer(t *testing.T) {
	const goods = manyDirty + 500
	b := newFixture(t, redisLedger(t))
	calls := &counting{Ledger: b.store}
	b.Syncer = b.replica(calls)
	b.apply(onePool)
	nos := manyGoods(b, goods, 100)
	b.advance(2 * time.Minute)
	b.count()
	published := func() (n int) {
		for range 20 {
			n += len(b.share())
		}
		return n
	}
	if n := published(); n != goods {
		t.Fatalf("%d shares", n)
	}
	b.advance(time.Minute)
	b.ratioChanged(b.now(), "F1")
	for _, no := range nos {
		b.wh.put(no, 200)
	}
	b.advance(2 * time.Minute)
	b.requestCount()
	b.count()
	if n := published(); n != 0 {
		t.Fatalf("%d shares rose before an answer", n)
	}
	calls.take()
	b.share()
	if n := calls.take(); n > 1 {
		t.Errorf("%d calls of the ledger by a tick while all wait", n)
	}
	if _, err := ConfirmRatios(t.Context(), b.store, "acme", "W1", b.now()); err != nil {
		t.Fatal(err)
	}
	if n := published(); n != goods {
		t.Errorf("%d shares after the answer", n)
	}
}

// All shares are set at the warehouse, also of more goods than the queue has room for.
func TestManySharesAreSetAtTheWarehouse(t *testing.T) {
	const goods = 1500
	b := newFixture(t, redisLedger(t))
	b.PerSecond = 5000
	b.apply(func(s *sellerv1.Setup) { onePool(s); s.Stock.SetAtWarehouse = true })
	var nos []string
	b.wh.perPage = 2000
	for i := range goods {
		nos = append(nos, fmt.Sprintf("N%05d-%s", i, strings.Repeat("x", 190)))
		b.wh.put(nos[i], 100)
	}
	b.advance(2 * time.Minute)
	b.count()
	for range 20 {
		b.share()
	}
	for range 20 {
		b.countTick()
	}
	set := map[string]bool{}
	for _, s := range b.wh.sets {
		set[s] = true
	}
	for _, no := range nos {
		if !set["ESPC "+no+" 20"] {
			t.Fatalf("%d shares were set, none of %.10s", len(set), no)
		}
	}
	if len(b.wh.sets) > 2*goods {
		t.Errorf("%d calls for %d shares", len(b.wh.sets), goods)
	}
}

func flowWasRead(b *fixture, shopNo string) {
	b.t.Helper()
	store := &stock.Store{Books: b.store, Now: b.now}
	read := stock.IntervalOf(b.now().Add(-time.Hour), b.now())
	if _, err := store.Apply(b.t.Context(), stock.Place{Seller: "acme", Warehouse: "W1", ShopNo: shopNo}, stock.Batch{Read: []stock.Interval{read}}); err != nil {
		b.t.Fatal(err)
	}
}

// A tick that finds nothing to do costs one round trip to the ledger.
func TestAnIdleTickIsCheap(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	calls := &counting{Ledger: b.store}
	b.Syncer = b.replica(calls)
	for _, shop := range []string{"A", "B", "C", "D"} {
		flowWasRead(b, "ESP"+shop)
	}
	b.wh.put("G1", 100)
	b.wh.shops = map[string]warehouse.ShopStock{"ESPA/G1": {Num: 30}}
	b.advance(2 * time.Minute)
	b.count()
	for range 5 {
		b.share()
		b.countTick()
	}
	calls.take()
	b.share()
	if n := calls.take(); n != 1 {
		t.Errorf("%d calls by a tick of shares", n)
	}
	b.countTick()
	if n := calls.take(); n != 1 {
		t.Errorf("%d calls by a tick of counting", n)
	}
}

// Opening balances of very many goods are adopted in a few runs, each with a few writes, and no goods are skipped when a
// run dies before its events are stored.
func TestOpeningBalancesOfManyGoods(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		const goods = comparedPerRun + 1000
		calls := &counting{Ledger: b.store}
		b.Syncer = b.replica(calls)
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools, s.Shops = nil, s.Shops[:1] })
		flowWasRead(b, "ESPA")
		b.wh.perPage = 2000
		b.wh.shops = map[string]warehouse.ShopStock{}
		for i := range goods {
			no := fmt.Sprintf("N%05d", i)
			b.wh.put(no, 100)
			b.wh.shops["ESPA/"+no] = warehouse.ShopStock{Num: 7}
		}
		b.count()
		calls.take()
		noted := map[string]bool{}
		runs, died := 0, false
		for len(noted) < goods && runs < 20 {
			runs++
			events, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if len(events) > comparedPerRun+2*together {
				t.Fatalf("%d events of one run", len(events))
			}
			if len(events) > 0 && !died { // before anything was stored
				died = true
				b.advance(countLease + time.Second)
				continue
			}
			for _, e := range events {
				noted[e.Message.(*stockv1.Noted).Movement.GoodsNo] = true
			}
			for _, f := range after {
				if err := f(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			b.advance(10 * time.Second)
		}
		if len(noted) != goods || runs > 6 {
			t.Errorf("%d opening balances of %d in %d runs", len(noted), goods, runs)
		}
		if n := calls.writes.Load(); n > goods/50 {
			t.Errorf("%d writes to the ledger", n)
		}
		store := &stock.Store{Books: b.store, Now: b.now}
		f, err := store.Figure(t.Context(), stock.Place{Seller: "acme", Warehouse: "W1", ShopNo: "ESPA"}, "N05999")
		if err != nil || f.Num != 7 || f.Rows != 1 {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

// At the floor of a quota a run compares a few goods; the next one goes on behind them, and each call is for as many goods
// as it may be.
func TestComparingGoesOnWhereARunStopped(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		const goods = 900
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools, s.Shops = nil, s.Shops[:1] })
		b.wh.perPage = 2000
		b.wh.shops = map[string]warehouse.ShopStock{}
		var rows []stock.Row
		for i := range goods {
			no := fmt.Sprintf("N%05d", i)
			b.wh.put(no, 100)
			b.wh.shops["ESPA/"+no] = warehouse.ShopStock{Num: 8}
			if i%3 > 0 { // its book knows these, with another figure
				rows = append(rows, stock.Row{GoodsNo: no, Movement: stock.Movement{No: no, At: b.now().Add(-time.Hour).Unix(), Before: 5, After: 7, Change: 2, Linked: true}})
			}
		}
		store := &stock.Store{Books: b.store, Now: b.now}
		place := stock.Place{Seller: "acme", Warehouse: "W1", ShopNo: "ESPA"}
		if _, err := store.Apply(t.Context(), place, stock.Batch{Rows: rows}); err != nil {
			t.Fatal(err)
		}
		flowWasRead(b, "ESPA")
		b.count()
		calls := 0
		b.wh.onShopStock = func() { calls++; b.advance(8 * time.Second) }
		noted := 0
		for runs := 0; runs < 12; runs++ {
			before := calls
			noted += len(b.countTick().events)
			if calls-before > 2 {
				t.Fatalf("%d calls of 8 s in a run", calls-before)
			}
			b.advance(10 * time.Second)
		}
		suspected := 0
		for from := ""; ; {
			some, next, err := Differences(t.Context(), b.store, place, from)
			if err != nil {
				t.Fatal(err)
			}
			suspected += len(some)
			if from = next; next == "" {
				break
			}
		}
		if calls != goods/50 || noted != goods/3 || suspected != goods-goods/3 {
			t.Errorf("%d calls, %d opening balances, %d differences", calls, noted, suspected)
		}
	})
}

// A tick that comes while a run is at the warehouse goes on when that ends: the run's own tick may be gone by then.
func TestATickWaitsForTheRunAtTheWarehouse(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	for i := range 90 {
		b.wh.put(fmt.Sprintf("N%02d", i), 10)
	}
	b.wh.before = func(int) error { b.advance(5 * time.Second); return nil }
	_, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
	if err != nil || b.wh.calls != 3 {
		t.Fatalf("%d calls, %v", b.wh.calls, err)
	}
	if _, _, err := b.runCount(t.Context(), "acme", "W1", time.Time{}); fault.Of(err) != fault.Wait {
		t.Fatalf("a tick beside a run ended with %v", err)
	}
	for _, f := range after {
		if err := f(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b.countTick(); b.wh.calls != 6 {
		t.Errorf("%d calls", b.wh.calls)
	}
}
