// Package jd is the adapter for the JD Canghai warehouse (ECLP). It implements the contract of package warehouse and
// holds the tables of what JD's codes mean.
//
// It decides how an order is written in JD's fields, which orders cannot be sent at all, and what each answer means.
// Package jdapi makes the calls; the caller decides whether and when to repeat one. A Warehouse holds no state that
// correctness depends on.
//
// The facts about JD are listed in docs/jd-api.md.
package jd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/jd/jdaccount"
	"stockbridge/pkg/warehouse/jd/jdapi"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// maxParts is how many children of split orders are remembered.
const maxParts = 10_000

// Options is what a Warehouse needs.
type Options struct {
	Seller *seller.Seller
	// Warehouse is the ERP's code for it.
	Warehouse string
	// Class is the quota class of all its calls.
	Class quota.Class
	// ReadOnly rejects every call that may change something at JD before it is sent.
	ReadOnly bool
	// Limiter assigns turns within the quota; nil means no limit.
	Limiter jdapi.Limiter
	// Env reads environment variables for secrets that are kept there, Trust limits which files and variables may hold them.
	Env   func(name string) string
	Trust seller.Trust
	// Tokens keeps the tokens that we refresh; nil if this process has none.
	Tokens token.Source
	// Transport carries the calls (jdapi.NewTransport if nil). Share it, because it keeps connections open.
	Transport http.RoundTripper
	// Metrics; optional.
	Metrics *callmetrics.Metrics
	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// Warehouse is one warehouse of one seller. Many goroutines may use it.
type Warehouse struct {
	seller  *seller.Seller
	account *sellerv1.Account
	no      string
	api     *jdapi.Client

	// noPacks: JD does not let this seller ask which goods are in which package. It was asked once and is not asked again.
	noPacks atomic.Bool

	mu    sync.Mutex
	parts map[string]bool // numbers of documents that another one was split into
}

var _ warehouse.Orderer = (*Warehouse)(nil)

// New makes a Warehouse. Incomplete settings are a fault.Hold.
func New(o Options) (*Warehouse, error) {
	site, known := o.Seller.Warehouse(o.Warehouse)
	account, has := o.Seller.Account(site.GetAccount())
	lacking := func(field string) error {
		return fault.Hold(seller.CauseWarehouse(o.Seller.Name(), o.Warehouse), fault.Reason{
			Code: "warehouse.setup", Field: "warehouse",
			ZH: fmt.Sprintf("仓库 %s 的设置缺少 %s，补全后自动继续", o.Warehouse, field),
			EN: fmt.Sprintf("the set-up of warehouse %s lacks %s; it continues automatically once that is added", o.Warehouse, field),
		})
	}
	switch {
	case !known:
		return nil, lacking("warehouses." + o.Warehouse)
	case !has:
		return nil, lacking("accounts." + site.Account)
	case site.WarehouseNo == "":
		return nil, lacking("warehouse_no")
	case account.AppKey == "":
		return nil, lacking("app_key")
	case account.Department == "":
		return nil, lacking("department")
	case account.VendorSource == "":
		return nil, lacking("vendor_source")
	}
	return &Warehouse{
		seller: o.Seller, account: account, no: site.WarehouseNo, parts: map[string]bool{},
		api: &jdapi.Client{
			URL: account.Url, AppKey: account.AppKey, AppSecret: source(account.AppSecret, o.Env, o.Trust),
			Tokens: tokens(o, account), Limiter: o.Limiter, Class: o.Class, Transport: o.Transport, Now: o.Now,
			ReadOnly: o.ReadOnly, Watch: o.watch(account),
		},
	}, nil
}

// JD's limits of a call (docs/jd-api.md, Limits and idempotency).
const (
	maxFind       = 100
	maxReadOrders = 1
	maxShopStock  = 50
)

// Identity is application, department and vendor source: JD finds an order by our number only for those who sent it.
func (w *Warehouse) Identity() warehouse.Identity {
	return jdaccount.Kind{}.Identity(w.account)
}

func source(ref *sellerv1.SecretRef, env func(string) string, trust seller.Trust) jdapi.Source {
	switch {
	case ref.GetFile() != "":
		path, err := trust.File(ref.File)
		if err != nil {
			return func() (string, error) { return "", err }
		}
		return jdapi.File(path)
	case ref.GetEnv() != "" && env != nil:
		return func() (string, error) {
			if err := trust.Env(ref.Env); err != nil {
				return "", err
			}
			return env(ref.Env), nil
		}
	default:
		return nil
	}
}

// Orders returns the channel of sales orders.
func (w *Warehouse) Orders() warehouse.OrderChannel { return orders{w} }

type orders struct{ w *Warehouse }

// document is an order as JD has it.
type document = warehouse.Document[*orderv1.Shipped]

func (c orders) Identity() warehouse.Identity { return c.w.Identity() }

func (c orders) FindLimit() int { return maxFind }

func (c orders) ReadLimit() int { return maxReadOrders }

// Send sends the plan's body unchanged.
func (c orders) Send(ctx context.Context, o *orderv1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	if plan.Err != nil {
		return warehouse.Receipt{}, plan.Err
	}
	no, err := c.w.api.AddOrderText(ctx, plan.Body)
	if err != nil {
		return warehouse.Receipt{}, c.w.writeError(c.w.aboutOrder(o), err)
	}
	return warehouse.Receipt{WarehouseNo: no, Cleaned: plan.Cleaned}, nil
}

// Find looks orders up by our outbound numbers. Parts of a split order do not count as further documents.
func (c orders) Find(ctx context.Context, outboundNos []string) (map[string][]document, error) {
	nos := slices.Compact(slices.Sorted(slices.Values(outboundNos)))
	if len(nos) > maxFind {
		return nil, fmt.Errorf("find %d orders: at most %d at a time", len(nos), maxFind)
	}
	for _, no := range nos {
		if !queryable(no) {
			return nil, fmt.Errorf("find order %q: not a number that JD can be asked by", no)
		}
	}
	rows, err := c.w.lookUp(ctx, nos, byOutbound)
	if err != nil {
		return nil, c.w.readError(err)
	}
	found := map[string][]document{}
	for _, row := range rows {
		no := string(row.IsvUUID)
		switch {
		case row.EclpSoNo == "":
			// JD has nothing under this number.
		case !row.EclpSoNo.Number():
			return nil, fmt.Errorf("find orders: JD lists a document whose number is not one: %d bytes", len(row.EclpSoNo))
		case no == "":
			return nil, fmt.Errorf("find orders: JD lists %s without saying which order it is", row.EclpSoNo)
		case slices.Contains(nos, no):
			found[no] = append(found[no], documentOf(row))
		}
	}
	for no, list := range found {
		if found[no], err = c.w.wholeDocuments(ctx, list); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// documentOf is a row of a look-up.
func documentOf(row jdapi.ExtOrder) document {
	return document{Number: string(row.EclpSoNo), No: string(row.IsvUUID), State: stateOf(row.MainStatus, "", row.OperTime)}
}

// queryable reports whether a number can be an element of the comma list of a query.
func queryable(no string) bool {
	return strings.TrimSpace(no) == no && no != "" && !strings.Contains(no, ",")
}

func byOutbound(q *jdapi.ExtQueryOrder, nos []string) { q.IsvUUIDs = nos }
func byPlatform(q *jdapi.ExtQueryOrder, nos []string) { q.SpSoNos = nos }

// lookUp queries nos.
func (w *Warehouse) lookUp(ctx context.Context, nos []string, by func(*jdapi.ExtQueryOrder, []string)) ([]jdapi.ExtOrder, error) {
	return halving(nos, noSuchOrder, func(nos []string) ([]jdapi.ExtOrder, error) {
		query := jdapi.ExtQueryOrder{IsvSource: w.account.VendorSource, DepartmentNo: w.account.Department}
		by(&query, nos)
		return w.api.ExtQueryOrder(ctx, query)
	})
}

// halving queries nos by ask. If JD answers a query for absent numbers with a refusal, which absent matches, instead of
// an empty list (unknown), the refusal may be about a single number. Then halves are queried until it is about one number.
func halving[R any](nos []string, absent *regexp.Regexp, ask func(nos []string) ([]R, error)) ([]R, error) {
	if len(nos) == 0 {
		return nil, nil
	}
	rows, err := ask(nos)
	if err == nil || !says(err, absent) {
		return rows, err
	}
	if len(nos) == 1 {
		return nil, nil
	}
	half := len(nos) / 2
	first, err := halving(nos[:half], absent, ask)
	if err != nil {
		return nil, err
	}
	second, err := halving(nos[half:], absent, ask)
	return append(first, second...), err
}

// wholeDocuments are the documents under one number without parts. JD may list the parts of a split order under the
// number of the whole (unknown); they are no further documents. A live document comes before a cancelled one, then the
// older one. If only parts are listed, the first of them stands for the whole.
func (w *Warehouse) wholeDocuments(ctx context.Context, list []document) ([]document, error) {
	slices.SortFunc(list, func(a, b document) int {
		return cmp.Or(cmp.Compare(cancelled(a), cancelled(b)), cmp.Compare(a.Number, b.Number))
	})
	list = slices.CompactFunc(list, func(a, b document) bool { return a.Number == b.Number })
	whole := w.withoutParts(list)
	for i := 0; len(whole) > 1 && i < len(whole); i++ {
		order, err := w.api.QueryOrder(ctx, whole[i].Number)
		var no *jdapi.Error
		if errors.As(err, &no) && (no.Class == jdapi.ClassBusiness || no.Class == jdapi.ClassPermission) {
			continue // counted as a further document: better a false alarm than none
		}
		if err != nil {
			return nil, w.readError(err)
		}
		w.addParts(whole[i].Number, order)
		whole = w.withoutParts(whole)
	}
	if len(whole) == 0 {
		return list[:1], nil
	}
	return whole, nil
}

func cancelled(d document) int {
	if d.Cancelled() {
		return 1
	}
	return 0
}

func (w *Warehouse) withoutParts(list []document) []document {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(list), func(d document) bool { return w.parts[d.Number] })
}

func (w *Warehouse) isPart(no string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parts[no]
}

// addParts remembers the parts of a document, unless the document is a part itself: parts may name each other.
func (w *Warehouse) addParts(no string, order jdapi.Order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.parts) > maxParts {
		clear(w.parts)
	}
	for _, child := range order.SplitEclpSoNos.List() {
		if child != no && !w.parts[no] {
			w.parts[child] = true
		}
	}
}

// Read reads an order by JD's number.
func (c orders) Read(ctx context.Context, numbers []string) (map[string]document, error) {
	if len(numbers) > maxReadOrders {
		return nil, fmt.Errorf("read %d orders: at most %d at a time", len(numbers), maxReadOrders)
	}
	documents := map[string]document{}
	for _, no := range numbers {
		d, known, err := c.w.readOrder(ctx, no)
		if err != nil {
			return nil, fmt.Errorf("order %s: %w", no, err)
		}
		if known {
			documents[no] = d
		}
	}
	return documents, nil
}

func (w *Warehouse) readOrder(ctx context.Context, number string) (d document, known bool, err error) {
	order, err := w.api.QueryOrder(ctx, number)
	if err != nil {
		var no *jdapi.Error
		if errors.As(err, &no) && no.Class == jdapi.ClassBusiness && numberAtFault(no) != seller.NumberDepartment {
			return d, false, nil
		}
		return d, false, w.readError(err)
	}
	switch order.EclpSoNo {
	case "":
		return d, false, nil
	case jdapi.Text(number):
	default:
		return d, false, fmt.Errorf("JD answers about %s", order.EclpSoNo)
	}
	steps := order.Statuses
	if order.CurrentStatus == "" && len(steps) == 0 {
		if steps, err = w.api.QueryOrderStatus(ctx, number); err != nil {
			return d, false, w.readError(err)
		}
	}
	w.addParts(number, order)
	d = document{
		Number: number, No: string(order.IsvUUID), History: w.history(steps),
		Children: slices.DeleteFunc(order.SplitEclpSoNos.List(), func(child string) bool { return child == number }),
		Detail: &orderv1.Shipped{
			CarrierNo: string(order.ShipperNo), CarrierName: string(order.ShipperName),
			Packages: packages(order.Packages), Waybills: order.WayBill.List(),
		},
	}
	d.State = w.currentState(order.CurrentStatus, d.History)
	s := d.Detail
	if s.Lines, err = lines(order.Lines, len(d.Children) > 0); err != nil {
		return d, false, err
	}
	if len(s.Waybills) == 0 {
		s.Waybills = order.TpWayBill.List()
	}
	for _, p := range s.Packages {
		if p.Waybill != "" && !slices.Contains(s.Waybills, p.Waybill) {
			s.Waybills = append(s.Waybills, p.Waybill)
		}
	}
	return d, true, w.fillPackages(ctx, d)
}

// history is the document's states, oldest first. Their sequence in the answer means nothing, and some occur twice.
func (w *Warehouse) history(steps []jdapi.OrderStatus) []warehouse.State {
	history := make([]warehouse.State, 0, len(steps))
	for _, s := range steps {
		if state := stateOf(s.Code, s.Name, s.OperateTime); !slices.Contains(history, state) {
			history = append(history, state)
		}
	}
	slices.SortStableFunc(history, func(a, b warehouse.State) int { return a.At.Compare(b.At) })
	return history
}

// currentState is the state that JD calls current, whatever the history says. If JD does not say, a cancellation comes
// before everything else, then the latest state.
func (w *Warehouse) currentState(code jdapi.Text, history []warehouse.State) warehouse.State {
	now := stateOf(code, "", "")
	for _, s := range history {
		switch {
		case code != "" && s.Code == now.Code:
			now = s
		case code == "" && now.Status != documentv1.Status_STATUS_CANCELLED:
			now = s
		}
	}
	return now
}

// lines returns what was ordered and what left. If JD does not say what left, everything left; but nothing of a split
// order, whose parts say so.
func lines(of []jdapi.OrderLine, split bool) ([]*orderv1.ShippedLine, error) {
	list := make([]*orderv1.ShippedLine, 0, len(of))
	for i, l := range of {
		line := &orderv1.ShippedLine{LineId: string(l.OrderLine), GoodsCode: string(l.IsvGoodsNo), WarehouseGoodsNo: string(l.GoodsNo)}
		var whole bool
		if line.Quantity, whole = l.Quantity.Int(); !whole {
			return nil, fmt.Errorf("line %d has quantity %q", i, l.Quantity)
		}
		if l.RealOutQty != "" {
			if line.Shipped, whole = l.RealOutQty.Int(); !whole {
				return nil, fmt.Errorf("line %d has realOutQty %q", i, l.RealOutQty)
			}
		} else if !split {
			line.Shipped = line.Quantity
		}
		list = append(list, line)
	}
	return list, nil
}

func packages(of []jdapi.OrderPackage) []*orderv1.Package {
	list := make([]*orderv1.Package, 0, len(of))
	for _, p := range of {
		pack := &orderv1.Package{PackageNo: string(p.PackageNo), Waybill: string(p.WayBill), Weight: p.PackWeight.Decimal()}
		if pack.Waybill == "" {
			pack.Waybill = waybillOf(pack.PackageNo)
		}
		list = append(list, pack)
	}
	return list
}

// waybillOf strips the tail "-1-2-" (number, total) of a package number.
func waybillOf(packageNo string) string {
	waybill := strings.TrimSuffix(packageNo, "-")
	for range 2 {
		i := strings.LastIndexByte(waybill, '-')
		if i <= 0 || strings.Trim(waybill[i+1:], "0123456789") != "" {
			return packageNo
		}
		waybill = waybill[:i]
	}
	return waybill
}

// fillPackages adds the goods to the packages. With one package they are known; with several, queryOrderPacks is asked.
// If it fails, the rest of the document is returned all the same.
func (w *Warehouse) fillPackages(ctx context.Context, d document) error {
	s := d.Detail
	if !hasLeft(d) || len(s.Packages) == 0 || len(d.Children) > 0 {
		return nil
	}
	if len(s.Packages) == 1 {
		s.Packages[0].Lines = s.Lines
		return nil
	}
	if w.noPacks.Load() {
		return nil
	}
	rows, err := w.api.QueryOrderPacks(ctx, d.Number)
	if err != nil {
		var no *jdapi.Error
		if errors.As(err, &no) && (no.Class == jdapi.ClassPermission || no.Class == jdapi.ClassProgram) {
			w.noPacks.Store(true)
		}
		return ctx.Err()
	}
	for _, row := range rows {
		for _, p := range row.Packs {
			i := slices.IndexFunc(s.Packages, func(have *orderv1.Package) bool { return have.PackageNo == string(p.PackageNo) })
			if row.EclpSoNo != jdapi.Text(d.Number) || i < 0 {
				continue
			}
			for _, item := range p.Items {
				if n, ok := item.GoodsNum.Int(); ok {
					s.Packages[i].Lines = append(s.Packages[i].Lines, packedLine(s.Lines, string(item.GoodsNo), n))
				}
			}
		}
	}
	return nil
}

// packedLine is n pieces of some goods in a package. JD names goods here, not lines: the line is filled in if only one
// has these goods.
func packedLine(lines []*orderv1.ShippedLine, goodsNo string, n int64) *orderv1.ShippedLine {
	line := &orderv1.ShippedLine{WarehouseGoodsNo: goodsNo, Quantity: n, Shipped: n}
	var of []*orderv1.ShippedLine
	for _, l := range lines {
		if l.WarehouseGoodsNo == goodsNo {
			of = append(of, l)
		}
	}
	if len(of) == 1 {
		line.LineId, line.GoodsCode = of[0].LineId, of[0].GoodsCode
	}
	return line
}

// hasLeft reports whether the goods have left the warehouse: at 10019 or any later state.
func hasLeft(d document) bool {
	return slices.ContainsFunc(append([]warehouse.State{d.State}, d.History...), func(s warehouse.State) bool {
		switch s.Status {
		case documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_DELIVERED,
			documentv1.Status_STATUS_REJECTED, documentv1.Status_STATUS_RETURNING, documentv1.Status_STATUS_RETURNED:
			return true
		default:
			return false
		}
	})
}
