package jd

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// The contract holds with every behaviour that JD may have.
func TestContract(t *testing.T) {
	for _, c := range []struct {
		name  string
		knobs jdsandbox.Knobs
	}{
		{"a repeated number makes a second document", jdsandbox.Knobs{}},
		{"a repeated number is answered alike", jdsandbox.Knobs{Repeat: jdsandbox.SameNumber, UnknownNumber: jdsandbox.AnswerEmpty}},
		{"a repeated number is refused", jdsandbox.Knobs{Repeat: jdsandbox.RefuseRepeat, UnknownNumber: jdsandbox.AnswerMissing, AbsentRows: true}},
		{"parts are listed like orders", jdsandbox.Knobs{Split: jdsandbox.Split{ListChildren: true}, Packages: 2}},
		{"a split order stays where it was", jdsandbox.Knobs{Split: jdsandbox.Split{ListChildren: true, ParentStays: true}}},
		{"answers are a mess", jdsandbox.Knobs{Spelling: "response", HistoryShuffled: true, HistoryDoubled: true, ScalarsAsArrays: true, Numbers: "text", ExtraKeys: true}},
		{"all is numbers", jdsandbox.Knobs{Numbers: "numbers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			warehousetest.TestOrders(t, func(t *testing.T) warehousetest.Subject {
				w, far := open(t, c.knobs)
				return warehousetest.Subject{OrderChannel: w.Orders(), Remote: far}
			})
		})
	}
}

// The contract of purchase orders holds with every behaviour that JD may have.
func TestPurchaseContract(t *testing.T) {
	for _, c := range []struct {
		name  string
		knobs jdsandbox.Knobs
	}{
		{"a query with an unknown number is refused", jdsandbox.Knobs{}},
		{"an unknown number has no row", jdsandbox.Knobs{UnknownNumber: jdsandbox.AnswerEmpty, Purchases: jdsandbox.PurchaseKnobs{
			Repeat: jdsandbox.SameNumber, Unknown: jdsandbox.AnswerEmpty, PartialStatus: "30", SplitAsked: "part",
		}}},
		{"an unknown number has a row", jdsandbox.Knobs{UnknownNumber: jdsandbox.AnswerMissing, Purchases: jdsandbox.PurchaseKnobs{
			Repeat: jdsandbox.RefuseRepeat, Unknown: jdsandbox.AnswerRow, NoOrderLine: true,
		}}},
		{"answers are a mess", jdsandbox.Knobs{Spelling: "response", ScalarsAsArrays: true, Numbers: "text", ExtraKeys: true, Purchases: jdsandbox.PurchaseKnobs{RowsShuffled: true}}},
		{"all is numbers", jdsandbox.Knobs{Numbers: "numbers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			warehousetest.TestPurchases(t, func(t *testing.T) warehousetest.PurchaseSubject {
				c.knobs.Purchases.ReceiveAfter = jdsandbox.Duration(24 * time.Hour) // what arrives is received by hand
				c.knobs.Purchases.Cancel.Takes = jdsandbox.Range{Min: jdsandbox.Duration(time.Minute), Max: jdsandbox.Duration(time.Minute)}
				w, far := open(t, c.knobs)
				return warehousetest.PurchaseSubject{PurchaseChannel: w.Purchases(), Remote: &purchaseRemote{far}}
			})
		})
	}
}

// purchaseRemote controls the sandbox's purchase orders.
type purchaseRemote struct{ *remote }

func (f *purchaseRemote) LoseAnswer() {
	f.next(jdapi.MethodAddPoOrder, jdsandbox.Fault{Kind: jdsandbox.LoseAnswer})
}

func (f *purchaseRemote) LoseCancel() {
	f.next(jdapi.MethodCancelPoOrder, jdsandbox.Fault{Kind: jdsandbox.LoseAnswer})
}

func (f *purchaseRemote) DropCall() {
	f.next(jdapi.MethodAddPoOrder, jdsandbox.Fault{Kind: jdsandbox.Drop})
}

func (f *purchaseRemote) Refuse() {
	f.next(jdapi.MethodAddPoOrder, jdsandbox.Fault{Kind: jdsandbox.Error, Code: "5001", ZH: "业务处理失败"})
}

func (f *purchaseRemote) Reject() {
	f.next(jdapi.MethodAddPoOrder, jdsandbox.Fault{Kind: jdsandbox.Error, Code: "61"})
}

func (f *purchaseRemote) receive(no string, r jdsandbox.PurchaseReceipt) {
	for _, p := range f.jd.Purchases(no) {
		if err := f.jd.ReceivePurchase(p.PoOrderNo, r); err != nil {
			f.t.Error(err)
		}
	}
}

func (f *purchaseRemote) Receive(no, lineID string, grade purchasev1.Grade, n int64) {
	line, err := strconv.Atoi(lineID) // the suite's ids are the lines' positions
	if err != nil {
		f.t.Fatal(err)
	}
	level := map[purchasev1.Grade]string{purchasev1.Grade_GRADE_GOOD: "100", purchasev1.Grade_GRADE_DEFECTIVE: "200"}[grade]
	f.receive(no, jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: line, Num: n, GoodsLevel: level}}})
}

func (f *purchaseRemote) Complete(no string) { f.receive(no, jdsandbox.PurchaseReceipt{Finish: true}) }

func (f *purchaseRemote) NextCancel(answer, end warehouse.Verdict) {
	does := jdsandbox.Cancelled
	switch {
	case answer == warehouse.CancelRefused:
		does = jdsandbox.CancelRefused
	case answer == warehouse.CancelPending && end == warehouse.CancelRefused:
		does = jdsandbox.RefusedLater
	case answer == warehouse.CancelPending:
		does = jdsandbox.Cancelling
	}
	f.knobs(func(k *jdsandbox.Knobs) {
		k.Purchases.Cancel.Answers = map[jdsandbox.Code]jdsandbox.CancelAnswer{"10": does, "20": does}
	})
}

func (f *purchaseRemote) Documents(no string) int { return len(f.jd.Purchases(no)) }

// The contract of stock holds with every sequence and format of JD's rows.
func TestStockContract(t *testing.T) {
	for _, c := range []struct {
		name  string
		knobs jdsandbox.Knobs
	}{
		{"as documented", jdsandbox.Knobs{}},
		{"rows shuffled within a second", jdsandbox.Knobs{Flow: jdsandbox.Flow{Order: "seconds", End: jdsandbox.End{Code: "69"}}}},
		{"answers are a mess", jdsandbox.Knobs{Spelling: "response", ScalarsAsArrays: true, Numbers: "text", ExtraKeys: true, Flow: jdsandbox.Flow{Order: "descending"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			warehousetest.TestStock(t, func(t *testing.T) warehousetest.StockSubject {
				_, far := open(t, c.knobs)
				s := setup(far.url)
				w, err := New(Options{Seller: seller.New(s, nil), Warehouse: "W01", Class: quota.Stock, Env: env, Transport: far.conn})
				if err != nil {
					t.Fatal(err)
				}
				// JD's clock runs on, so everything that the suite plays lies in the past.
				began := time.Now().Add(-time.Hour).Truncate(time.Second)
				return warehousetest.StockSubject{StockReader: w, Setter: w, Remote: &stockRemote{remote: far, now: began}, Began: began}
			})
		})
	}
}

// stockRemote controls the sandbox's stock.
type stockRemote struct {
	*remote
	now time.Time
}

func (f *stockRemote) Now() time.Time       { return f.now }
func (f *stockRemote) Pass(d time.Duration) { f.now = f.now.Add(d) }

func (f *stockRemote) act(a jdsandbox.StockAct) {
	a.DeptNo, a.WarehouseNo, a.At = "EBU0000000006313", "110006341", f.now
	if _, err := f.jd.Move(a); err != nil {
		f.t.Fatal(err)
	}
}

func (f *stockRemote) Receive(shopNo, goodsNo string, n int64) {
	f.act(jdsandbox.StockAct{Kind: jdsandbox.Receipt, ShopNo: shopNo, GoodsNo: goodsNo, Num: n})
}

func (f *stockRemote) Sell(shopNo, goodsNo string, n int64) {
	f.act(jdsandbox.StockAct{Kind: jdsandbox.Sale, ShopNo: shopNo, GoodsNo: goodsNo, Num: n})
}

func (f *stockRemote) TakeStock(shopNo, goodsNo string, difference int64) {
	kind := jdsandbox.Gain
	if difference < 0 {
		kind = jdsandbox.Loss
	}
	f.act(jdsandbox.StockAct{Kind: kind, ShopNo: shopNo, GoodsNo: goodsNo, Num: max(difference, -difference)})
}

func (f *stockRemote) Set(shopNo, goodsNo string, n int64) {
	f.act(jdsandbox.StockAct{Kind: jdsandbox.SetStock, ShopNo: shopNo, GoodsNo: goodsNo, Num: n})
}

func (f *stockRemote) Halve(shopNo, _ string) {
	f.act(jdsandbox.StockAct{Kind: jdsandbox.RatioChange, ShopNo: shopNo, Percent: 50})
}

// setup is the seller of the suite's orders.
func setup(url string) *sellerv1.Setup {
	return &sellerv1.Setup{
		Name: "acme",
		Accounts: []*sellerv1.Account{{
			Name: "main", Kind: sellerv1.Account_KIND_JD, Url: url, AppKey: jdsandbox.DefaultAppKey,
			AppSecret: &sellerv1.SecretRef{Env: "SECRET"}, AccessToken: &sellerv1.SecretRef{Env: "TOKEN"},
			TokenOwner: sellerv1.Account_TOKEN_OWNER_EXTERNAL,
			Department: "EBU0000000006313", VendorSource: "ISV0020000000137",
		}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "main", WarehouseNo: "110006341"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "ESP0020000009400", Warehouses: []string{"W01"}}},
		Carriers:   []*sellerv1.Mapping{{Code: "jd", Number: "CYS0000010"}},
		Suppliers:  []*sellerv1.Mapping{{Code: "TEA", Number: "EMS4398046512427"}},
		Platforms:  []*sellerv1.Mapping{{Code: "tmall", Number: "2"}, {Code: "jd", Number: "1"}},
	}
}

func env(name string) string {
	return map[string]string{"SECRET": jdsandbox.DefaultAppSecret, "TOKEN": jdsandbox.DefaultToken}[name]
}

// remote controls the sandbox.
type remote struct {
	t    *testing.T
	jd   *jdsandbox.JD
	url  string
	down atomic.Bool
	busy string
	conn *http.Transport
}

func open(t *testing.T, knobs jdsandbox.Knobs) (*Warehouse, *remote) {
	for _, code := range []jdsandbox.Code{"10009", "10010", "100130", "10014", "10015", "10016", "10017", "10018", "10019", "10033", "10034"} {
		step := jdsandbox.Step{Code: code}
		if len(knobs.Walk) > 0 {
			step.After = jdsandbox.Duration(time.Minute)
		}
		knobs.Walk = append(knobs.Walk, step)
	}
	jd, err := jdsandbox.New(jdsandbox.Config{Stopped: true, Knobs: knobs})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(jd)
	t.Cleanup(func() {
		server.Close()
		if n := jd.Violations().Counts[jdsandbox.BadSignature]; n > 0 {
			t.Errorf("%d bad signatures", n)
		}
	})
	f := &remote{t: t, jd: jd, url: server.URL + "/routerjson", conn: jdapi.NewTransport()}
	t.Cleanup(f.conn.CloseIdleConnections)
	var dialer net.Dialer
	f.conn.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if f.down.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
		}
		return dialer.DialContext(ctx, network, address)
	}
	w, err := New(Options{
		Seller: seller.New(setup(f.url), nil), Warehouse: "W01", Class: quota.Push, Env: env, Transport: f.conn,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

func (f *remote) fault(fault jdsandbox.Fault) string {
	id, err := f.jd.AddFault(fault)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *remote) knobs(set func(*jdsandbox.Knobs)) {
	if err := f.jd.SetKnobs(set); err != nil {
		f.t.Fatal(err)
	}
}

func (f *remote) next(method string, fault jdsandbox.Fault) {
	fault.Methods, fault.Count = []string{method}, 1
	f.fault(fault)
}

func (f *remote) nextOrder(fault jdsandbox.Fault) { f.next(jdapi.MethodAddOrder, fault) }

func (f *remote) LoseAnswer() { f.nextOrder(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer}) }
func (f *remote) DropCall()   { f.nextOrder(jdsandbox.Fault{Kind: jdsandbox.Drop}) }
func (f *remote) Refuse() {
	f.nextOrder(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "5001", ZH: "库存不足"})
}
func (f *remote) Reject() { f.nextOrder(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "61"}) }

func (f *remote) Down(down bool) {
	f.down.Store(down)
	f.conn.CloseIdleConnections()
}

func (f *remote) Busy(busy bool) {
	if busy {
		f.busy = f.fault(jdsandbox.Fault{Kind: jdsandbox.Error, Code: "2", Chance: 1})
		return
	}
	f.jd.RemoveFault(f.busy)
}

func (f *remote) Deny() {
	f.knobs(func(k *jdsandbox.Knobs) {
		k.Denied = []string{
			jdapi.MethodAddOrder, jdapi.MethodExtQueryOrder, jdapi.MethodQueryOrder,
			jdapi.MethodAddPoOrder, jdapi.MethodQueryPoOrder, jdapi.MethodCancelPoOrder,
			jdapi.MethodQueryVmiShopStockFlow, jdapi.MethodQueryVmiShopStock,
			jdapi.MethodQueryStock, jdapi.MethodSetShopStockFixed, jdapi.MethodQueryCheckStockProfit,
		}
	})
}

func (f *remote) Expire() { f.jd.ExpireToken(jdsandbox.DefaultToken, time.Now().Add(-time.Hour)) }

func (f *remote) Step() {
	if err := f.jd.Advance(time.Minute); err != nil {
		f.t.Fatal(err)
	}
}

func (f *remote) Split(no string) {
	f.knobs(func(k *jdsandbox.Knobs) { k.Split.Orders = append(k.Split.Orders, no) })
}

func (f *remote) Short(no string) {
	f.knobs(func(k *jdsandbox.Knobs) { k.Short.Orders = append(k.Short.Orders, no) })
}

func (f *remote) Cancel(no string) {
	f.knobs(func(k *jdsandbox.Knobs) { k.OwnCancel.Orders = append(k.OwnCancel.Orders, no) })
}

func (f *remote) Documents(no string) int {
	n := 0
	for _, d := range f.jd.Documents(no) {
		if d.Parent == "" {
			n++
		}
	}
	return n
}

// Texts that resemble the end of a flow end nothing, and neither does a failure inside an answer that looks like a
// success.
func TestWhatLooksLikeAnEndIsNone(t *testing.T) {
	wrong := func(name string, knobs jdsandbox.Knobs) {
		t.Run(name, func(t *testing.T) {
			_, far := open(t, knobs)
			w, err := New(Options{Seller: seller.New(setup(far.url), nil), Warehouse: "W01", Class: quota.Stock, Env: env, Transport: far.conn})
			if err != nil {
				t.Fatal(err)
			}
			to := time.Now().Add(-time.Minute)
			page, err := w.Flow(t.Context(), warehouse.FlowQuery{ShopNo: "ESP0020000009400", From: to.Add(-time.Hour), To: to, Page: 1})
			var said *warehouse.Rejected
			if page.End || !errors.As(err, &said) {
				t.Errorf("%+v, %v", page, err)
			}
		})
	}
	for _, text := range jdsandbox.WrongEnds() {
		wrong(text, jdsandbox.Knobs{Flow: jdsandbox.Flow{End: jdsandbox.End{Text: text}}})
	}
	for _, style := range []string{"empty", "missing"} {
		wrong(style, jdsandbox.Knobs{Flow: jdsandbox.Flow{End: jdsandbox.End{Style: style}}})
	}
	_, far := open(t, jdsandbox.Knobs{Stock: jdsandbox.StockKnobs{InnerErrors: 1}})
	w, err := New(Options{Seller: seller.New(setup(far.url), nil), Warehouse: "W01", Class: quota.Stock, Env: env, Transport: far.conn})
	if err != nil {
		t.Fatal(err)
	}
	var said *warehouse.Rejected
	if err := w.SetShopStock(t.Context(), "R-1", "ESP0020000009400", "EMG1", 1); !errors.As(err, &said) {
		t.Errorf("set: %v", err)
	}
}
