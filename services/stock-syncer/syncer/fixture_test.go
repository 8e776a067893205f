package syncer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

// each runs a test over both ledgers, each on a real server.
func each(t *testing.T, test func(t *testing.T, b *fixture)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) { test(t, newFixture(t, redisLedger(t))) })
	t.Run("kv", func(t *testing.T) {
		test(t, newFixture(t, func(b *fixture) (ledger.Ledger, error) {
			server := bustest.Start(t)
			bucket, err := server.Bucket(t.Context(), bus.BucketLedger)
			if err != nil {
				return nil, err
			}
			kept, err := server.Bucket(t.Context(), bus.BucketBooks)
			if err != nil {
				return nil, err
			}
			return inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: kept, Identity: func() string { return "one" }, Now: b.now})
		}))
	})
}

func redisLedger(t *testing.T) func(b *fixture) (ledger.Ledger, error) {
	return func(b *fixture) (ledger.Ledger, error) {
		b.redis = redistest.Start(t)
		return inredis.Open(inredis.Options{URL: b.redis.URL(), Now: b.now})
	}
}

// fixture is a seller with one warehouse that shops share, and a clock that the test moves.
type fixture struct {
	*Syncer
	t     *testing.T
	store ledger.Ledger
	wh    *remoteStock
	// redis is nil over the other ledger.
	redis *redistest.Server

	mu sync.Mutex
	at time.Time
	// bus is the bus's time; zero: unknown.
	bus       time.Time
	seller    *seller.Seller
	published []*stockv1.ShareChanged
}

func (b *fixture) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *fixture) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *fixture) Get(name string) (*seller.Seller, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seller, b.seller.Name() == name
}

func (b *fixture) Pause(_ context.Context, _ string, p seller.Pause) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seller = seller.New(b.seller.Setup, &p)
	return nil
}

// apply applies another set-up of the seller.
func (b *fixture) apply(change func(s *sellerv1.Setup)) {
	setup := setup()
	change(setup)
	if err := seller.Validate(setup); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	version := b.seller.Version
	b.seller = seller.New(setup, nil)
	b.seller.Version = version + 1
}

// setup returns a set-up: shops A and B share 30 % of W1, and C has 20.5 % of it alone; D sells from it in no pool.
func setup() *sellerv1.Setup {
	shop := func(code string) *sellerv1.Shop {
		return &sellerv1.Shop{Code: code, ShopNo: "ESP" + code, Warehouses: []string{"W1"}, Booking: sellerv1.Shop_BOOKING_DOCUMENTS}
	}
	return &sellerv1.Setup{
		Name: "acme", Accounts: []*sellerv1.Account{{Name: "m", Kind: sellerv1.Account_KIND_MEMORY}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W1", Account: "m"}}, Shops: []*sellerv1.Shop{shop("A"), shop("B"), shop("C"), shop("D")},
		Stock: &sellerv1.Stock{Pools: []*sellerv1.Pool{
			{Name: "cloud", Warehouse: "W1", Ratio: "30", Shops: []*sellerv1.PoolShop{{Shop: "A", Part: "50"}, {Shop: "B", Part: "33.33", Safety: 1, Minimum: 2}}},
			{Name: "west", Warehouse: "W1", Ratio: "20.5", Shops: []*sellerv1.PoolShop{{Shop: "C"}}},
		}},
	}
}

func newFixture(t *testing.T, open func(b *fixture) (ledger.Ledger, error)) *fixture {
	t.Helper()
	b := &fixture{t: t, at: time.Now().Truncate(time.Second), seller: seller.New(setup(), nil), wh: &remoteStock{perPage: 3}}
	b.seller.Version = 1
	var err error
	if b.store, err = open(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.store.Close() })
	b.Syncer = b.replica(b.store)
	return b
}

// replica is one process of the service, over its own view of the ledger.
func (b *fixture) replica(l Ledger) *Syncer {
	return New(Parts{
		Sellers: b, Ledger: l, Log: zerolog.Nop(), Breaker: guard.NewBreaker(3), Metrics: NewMetrics(prometheus.NewRegistry()),
		Read:   func(*seller.Seller, string) (warehouse.StockReader, error) { return b.wh, nil },
		Set:    func(*seller.Seller, string) (warehouse.StockSetter, error) { return b.wh, nil },
		Config: Config{PerSecond: 1000, Settle: time.Minute, Slots: 1, AcceptedSlots: 8, BreakerAfter: 3, ProbeAfter: time.Minute}, Now: b.now,
	})
}

// handled is what a handler returned.
type handled struct {
	events []event.Event
	after  []func(context.Context) error
}

// settle runs what waits for the events to be stored.
func (r handled) settle(ctx context.Context) error {
	var errs []error
	for _, f := range r.after {
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

func (b *fixture) accepted(no, shop string, at time.Time, lines ...*documentv1.AcceptedLine) error {
	return b.acceptedBy(b.Syncer, no, shop, at, lines...)
}

func (b *fixture) acceptedBy(y *Syncer, no, shop string, at time.Time, lines ...*documentv1.AcceptedLine) error {
	_, err := y.Accepted(b.t.Context(), &bus.Delivery{StreamTime: b.bus}, &documentv1.Accepted{
		Ref: &documentv1.Ref{Seller: "acme", Shop: shop, Warehouse: "W1", OutboundNo: no}, At: timestamppb.New(at), Lines: lines,
	})
	return err
}

func line(goods string, n int64) *documentv1.AcceptedLine {
	return &documentv1.AcceptedLine{WarehouseGoodsNo: goods, Quantity: n}
}

// count plays ticks until a count is complete, and returns its parts.
func (b *fixture) count() []*stockv1.Counted {
	b.t.Helper()
	for range 100 {
		r := b.countTick()
		var parts []*stockv1.Counted
		for _, e := range r.events {
			if m, ok := e.Message.(*stockv1.Counted); ok {
				parts = append(parts, m)
			}
		}
		if len(parts) > 0 {
			return parts
		}
		b.advance(time.Second)
	}
	b.t.Fatal("no count came to its end")
	return nil
}

func (b *fixture) countTick() handled {
	b.t.Helper()
	var r handled
	var err error
	if r.events, r.after, err = b.runCount(b.t.Context(), "acme", "W1", b.bus); err != nil {
		b.t.Fatal(err)
	}
	if err := r.settle(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// share plays one tick of shares, whose events are published and settled. It returns them as lines.
func (b *fixture) share() []string {
	b.t.Helper()
	r := b.shareBy(b.Syncer)
	b.recordPublished(r)
	if err := r.settle(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.advance(time.Second)
	return lines(r)
}

func (b *fixture) shareBy(y *Syncer) handled {
	b.t.Helper()
	var r handled
	var err error
	if r.events, r.after, err = y.share(b.t.Context(), "acme"); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// lines returns what a run publishes.
func lines(r handled) []string {
	var lines []string
	for _, e := range r.events {
		m := e.Message.(*stockv1.ShareChanged)
		lines = append(lines, fmt.Sprintf("%s %s %d", m.Shop, m.GoodsNo, m.Share))
	}
	slices.Sort(lines)
	return lines
}

func contains(lines []string, line string) bool { return slices.Contains(lines, line) }

// requestCount is what an operator does.
func (b *fixture) requestCount() {
	b.t.Helper()
	if err := RequestCount(b.t.Context(), b.store, "acme", "W1", "somebody", b.now()); err != nil {
		b.t.Fatal(err)
	}
}

func (b *fixture) recordPublished(r handled) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range r.events {
		b.published = append(b.published, e.Message.(*stockv1.ShareChanged))
	}
}

// wants compares what was published.
func (b *fixture) wants(got []string, want ...string) {
	b.t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("published %q, want %q", got, want)
	}
}

// remoteStock is a warehouse's stock, page by page, and what shops have of it.
type remoteStock struct {
	mu      sync.Mutex
	perPage int
	// noTotal: it does not say how many rows there are.
	noTotal bool
	goods   map[string]int64
	// before is called before each page, with its number.
	before func(page int) error
	calls  int
	shops  map[string]warehouse.ShopStock
	change []warehouse.StockChange
	sets   []string
	// onShopStock is called before a shop's stock is read.
	onShopStock func()
	// refuses names goods whose stock cannot be set.
	refuses string
}

var (
	_ warehouse.StockReader = (*remoteStock)(nil)
	_ warehouse.StockSetter = (*remoteStock)(nil)
)

func (w *remoteStock) ShopStockLimit() int { return 50 }

func (w *remoteStock) put(goods string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.goods == nil {
		w.goods = map[string]int64{}
	}
	if w.goods[goods] = n; n == 0 {
		delete(w.goods, goods)
	}
}

func (w *remoteStock) add(goods string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.goods[goods] = max(w.goods[goods]+n, 1)
}

func (w *remoteStock) Stock(_ context.Context, page int) (warehouse.StockPage, error) {
	if w.before != nil {
		if err := w.before(page); err != nil {
			return warehouse.StockPage{}, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	var rows []warehouse.StockRow
	for no, n := range w.goods {
		rows = append(rows, warehouse.StockRow{GoodsNo: no, GoodsCode: "c-" + no, Status: "1", Type: "1", Level: "100", Total: n + 1, Usable: n, Saleable: true})
		if no == "G1" { // damaged
			rows = append(rows, warehouse.StockRow{GoodsNo: no, GoodsCode: "c-" + no, Status: "2", Type: "1", Level: "100", Total: 7, Usable: 7})
		}
	}
	slices.SortFunc(rows, func(a, b warehouse.StockRow) int {
		return cmp.Or(cmp.Compare(a.GoodsNo, b.GoodsNo), cmp.Compare(a.Status, b.Status))
	})
	from := min((page-1)*w.perPage, len(rows))
	to := min(from+w.perPage, len(rows))
	if w.noTotal {
		return warehouse.StockPage{Rows: rows[from:to], Last: from == to}, nil
	}
	return warehouse.StockPage{Rows: rows[from:to], Total: len(rows), Last: to == len(rows)}, nil
}

func (w *remoteStock) FlowTerms() warehouse.FlowTerms { return warehouse.FlowTerms{} }

func (w *remoteStock) Flow(context.Context, warehouse.FlowQuery) (warehouse.FlowPage, error) {
	return warehouse.FlowPage{End: true}, nil
}

func (w *remoteStock) ShopStock(_ context.Context, shopNo string, goods []string) (map[string]warehouse.ShopStock, error) {
	if w.onShopStock != nil {
		w.onShopStock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	found := map[string]warehouse.ShopStock{}
	for _, no := range goods {
		if s, ok := w.shops[shopNo+"/"+no]; ok {
			found[no] = s
		}
	}
	return found, nil
}

func (w *remoteStock) StockChanges(_ context.Context, goods string, from, to time.Time) ([]warehouse.StockChange, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []warehouse.StockChange
	for _, c := range w.change {
		if !c.At.Before(from) && !c.At.After(to) {
			found = append(found, c)
		}
	}
	return found, nil
}

func (w *remoteStock) SetShopStock(_ context.Context, requestID, shopNo, goods string, n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if goods == w.refuses {
		return &warehouse.Rejected{Reason: fault.Reason{Code: "stock.refused", ZH: "不行", EN: "no"}}
	}
	w.sets = append(w.sets, fmt.Sprintf("%s %s %d", shopNo, goods, n))
	return nil
}

var sellerPause = seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "stock-taking"}

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
