package wiring

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/kinds"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Warehouses opens sellers' warehouses and caches one client per set-up version. Many goroutines may use it.
type Warehouses struct {
	// Metrics and Trust are set before the first Open, or never. Trust limits what set-ups may name of this machine.
	Metrics *Metrics
	Trust   seller.Trust
	// Now is the clock for shadow's switch-over, time.Now when nil; set before the first Open.
	Now func() time.Time

	blocks   *blocks // nil without budgets
	adapters map[sellerv1.Account_Kind]adapter
	tokens   token.Source

	mu    sync.Mutex
	cache map[string]*cached
}

// cached holds the open warehouses of one version of a seller's set-up.
type cached struct {
	version uint64
	open    map[cacheKey]warehouse.Identified
}

type cacheKey struct {
	code     string
	class    quota.Class
	readOnly bool
}

// NewWarehouses shares the call budgets through quota; nil has no budgets, for callers that plan and do not call.
func NewWarehouses(quota ledger.Quota) *Warehouses {
	w := &Warehouses{adapters: adapters(), cache: map[string]*cached{}}
	if quota != nil {
		w.blocks = newBlocks(quota)
	}
	return w
}

// reader reads a warehouse's orders, and checks the warehouse: no type assertion finds a way to write.
type reader struct {
	warehouse.OrderReader
	warehouse.Doctor
}

// Read is Open for callers that read orders and change nothing there. Its result has no way to write, and calls that could
// write are refused before they are sent. It is a warehouse.Doctor if the warehouse is one.
func (w *Warehouses) Read(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error) {
	wh, err := w.openCached(s, cacheKey{code, class, true})
	if err != nil {
		return nil, err
	}
	orderer, ok := wh.(warehouse.Orderer)
	if !ok {
		return nil, fault.Permanent(fmt.Errorf("read the orders of warehouse %s: its adapter takes none", code))
	}
	if doctor, ok := wh.(warehouse.Doctor); ok {
		return reader{orderer.Orders(), doctor}, nil
	}
	return struct{ warehouse.OrderReader }{orderer.Orders()}, nil
}

// Documents is Read for callers that read documents of any kind: a kind's Channel finds its part of the result. Narrow that
// with warehouse.ReadOnly. A remote adapter refuses calls that could write before they are sent.
func (w *Warehouses) Documents(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error) {
	return w.openCached(s, cacheKey{code, class, true})
}

func (w *Warehouses) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

// UseTokens sets the source of the tokens that are ours to refresh. Call it before Open.
func (w *Warehouses) UseTokens(s token.Source) { w.tokens = s }

// Authority is the authorisation server of an account.
func (w *Warehouses) Authority(a *sellerv1.Account) (token.Authority, error) {
	if !kinds.Of(a).Capabilities(a).Consent {
		return nil, fault.Permanent(fault.Reason{
			Code: "token.kind", ZH: "账号 " + a.GetName() + " 的仓库类型不需要授权", EN: "account " + a.GetName() + " is of a kind that needs no authorisation",
		})
	}
	if err := w.Trust.Account(a); err != nil {
		return nil, fault.Permanent(err)
	}
	return w.adapters[a.GetKind()].authority(a, w.Trust), nil
}

// Open opens the warehouse with the ERP's code, for calls of the class: a kind's Channel finds its part of the result. The
// same version of a set-up gets the same value again; a set-up without a version (not from a Registry) gets a new one each
// time. A gap in the set-up is a fault.Hold. A seller in shadow is refused whatever its caller believes: see seller.Shadows.
func (w *Warehouses) Open(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error) {
	if err := s.Shadowed(w.now()); err != nil {
		return nil, err
	}
	return w.openCached(s, cacheKey{code, class, false})
}

// Stock opens the stock reader, cached like Open's. It has no way to write, and serves a seller in shadow too.
func (w *Warehouses) Stock(s *seller.Seller, code string) (warehouse.StockReader, error) {
	wh, err := w.openCached(s, cacheKey{code, quota.Stock, true})
	if err != nil {
		return nil, err
	}
	stock, ok := wh.(warehouse.StockReader)
	if !ok {
		return nil, noStock(s, code)
	}
	return struct{ warehouse.StockReader }{stock}, nil
}

// SetStock opens the stock setter, for a seller whose set-up permits it and that is not in shadow.
func (w *Warehouses) SetStock(s *seller.Seller, code string) (warehouse.StockSetter, error) {
	if !s.Setup.GetStock().GetSetAtWarehouse() {
		return nil, fault.Permanent(fault.Reason{
			Code: "stock.set", Field: "stock.set_at_warehouse",
			ZH: "设置中没有允许改写仓库侧的店铺库存（stock.set_at_warehouse）", EN: "the set-up does not let stock be set at the warehouse (stock.set_at_warehouse)",
		})
	}
	if err := s.Shadowed(w.now()); err != nil {
		return nil, err
	}
	wh, err := w.openCached(s, cacheKey{code, quota.Stock, false})
	if err != nil {
		return nil, err
	}
	stock, ok := wh.(warehouse.StockSetter)
	if !ok {
		return nil, noStock(s, code)
	}
	return struct{ warehouse.StockSetter }{stock}, nil
}

func noStock(s *seller.Seller, code string) error {
	return fault.Hold(seller.CauseWarehouse(s.Name(), code), fault.Reason{
		Code: "warehouse.stock", Field: "warehouse",
		ZH: fmt.Sprintf("仓库 %s 的类型不提供库存接口", code), EN: fmt.Sprintf("warehouse %s is of a kind without a stock interface", code),
	})
}

func (w *Warehouses) openCached(s *seller.Seller, at cacheKey) (warehouse.Identified, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.cache[s.Name()]
	if k == nil || k.version < s.Version {
		k = &cached{version: s.Version, open: map[cacheKey]warehouse.Identified{}}
		w.cache[s.Name()] = k
	}
	current := k.version == s.Version && s.Version != 0
	if wh, ok := k.open[at]; ok && current {
		return wh, nil
	}
	wh, err := w.open(s, at)
	if err != nil {
		return nil, err
	}
	if current {
		k.open[at] = wh
	}
	return wh, nil
}

func (w *Warehouses) open(s *seller.Seller, at cacheKey) (warehouse.Identified, error) {
	site, _ := s.Warehouse(at.code)
	account, _ := s.Account(site.GetAccount())
	adapter, known := w.adapters[account.GetKind()]
	if !known {
		return nil, fault.Hold(seller.CauseWarehouse(s.Name(), at.code), fault.Reason{
			Code: "warehouse.unknown", Field: "warehouse",
			ZH: fmt.Sprintf("商家设置中没有可用的仓库 %s，补全后自动继续", at.code),
			EN: fmt.Sprintf("the set-up has no usable warehouse %s; the order continues automatically when it is added", at.code),
		})
	}
	if err := w.Trust.Account(account); err != nil {
		return nil, fault.Hold(seller.CauseWarehouse(s.Name(), at.code), err)
	}
	o := opening{seller: s, account: account, code: at.code, class: at.class, readOnly: at.readOnly, tokens: w.tokens, trust: w.Trust}
	if q := kinds.Of(account).Capabilities(account).Quota; q.Key != "" && w.blocks != nil {
		o.limiter = limiter{
			blocks: w.blocks, app: q.Key, limit: limitOf(account, q), count: w.Metrics.forApplication(q.Application),
		}
	}
	if w.Metrics != nil {
		o.metrics = w.Metrics.warehouse
	}
	return adapter.open(o)
}

// limitOf is what the settings say, and otherwise what the adapter does.
func limitOf(a *sellerv1.Account, q warehouse.Quota) ledger.Limit {
	return ledger.Limit{
		PerSecond:  cmp.Or(a.Quota.GetPerSecond(), q.PerSecond),
		Concurrent: cmp.Or(int(a.Quota.GetConcurrent()), q.Concurrent),
	}
}

// Close waits for returning permits, and ends idle connections. Calls have ended by then.
func (w *Warehouses) Close() {
	if w.blocks != nil {
		w.blocks.returning.Wait()
	}
	for _, a := range w.adapters {
		if a.close != nil {
			a.close()
		}
	}
}
