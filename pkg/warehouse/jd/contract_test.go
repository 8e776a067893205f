package jd

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/jd/jdtest"
	"stockbridge/pkg/warehouse/warehousetest"
	sellerv1 "stockbridge/proto/seller/v1"
)

// The contract holds whatever character JD turns out to have.
func TestContract(t *testing.T) {
	for _, c := range []struct {
		name  string
		knobs jdtest.Knobs
	}{
		{"a repeated number makes a second document", jdtest.Knobs{}},
		{"a repeated number is answered alike", jdtest.Knobs{Repeat: jdtest.SameNumber, UnknownNumber: jdtest.AnswerEmpty}},
		{"a repeated number is refused", jdtest.Knobs{Repeat: jdtest.RefuseRepeat, UnknownNumber: jdtest.AnswerMissing, AbsentRows: true}},
		{"parts are listed like orders", jdtest.Knobs{Split: jdtest.Split{ListChildren: true}, Packages: 2}},
		{"a split order stays where it was", jdtest.Knobs{Split: jdtest.Split{ListChildren: true, ParentStays: true}}},
		{"answers are a mess", jdtest.Knobs{Spelling: "response", HistoryShuffled: true, HistoryDoubled: true, ScalarsAsArrays: true, Numbers: "text", ExtraKeys: true}},
		{"all is numbers", jdtest.Knobs{Numbers: "numbers"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			warehousetest.TestOrders(t, func(t *testing.T) warehousetest.Subject {
				w, far := open(t, c.knobs)
				return warehousetest.Subject{Orders: w, Far: far}
			})
		})
	}
}

// setup is the seller that the suite's orders are of.
func setup(url string) *sellerv1.Setup {
	return &sellerv1.Setup{
		Name: "acme",
		Accounts: []*sellerv1.Account{{
			Name: "main", Kind: sellerv1.Account_KIND_JD, Url: url, AppKey: jdtest.DefaultAppKey,
			AppSecret: &sellerv1.SecretRef{Env: "SECRET"}, AccessToken: &sellerv1.SecretRef{Env: "TOKEN"},
			TokenOwner: sellerv1.Account_TOKEN_OWNER_EXTERNAL,
			Department: "EBU0000000006313", VendorSource: "ISV0020000000137",
		}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "main", WarehouseNo: "110006341"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "ESP0020000009400", Warehouses: []string{"W01"}}},
		Carriers:   []*sellerv1.Mapping{{Code: "jd", Number: "CYS0000010"}},
		Platforms:  []*sellerv1.Mapping{{Code: "tmall", Number: "2"}, {Code: "jd", Number: "1"}},
	}
}

func env(name string) string {
	return map[string]string{"SECRET": jdtest.DefaultAppSecret, "TOKEN": jdtest.DefaultToken}[name]
}

// far is the sandbox as the suite wants it.
type far struct {
	t    *testing.T
	jd   *jdtest.JD
	down atomic.Bool
	busy string
	conn *http.Transport
}

func open(t *testing.T, knobs jdtest.Knobs) (*Warehouse, *far) {
	for _, code := range []jdtest.Code{"10009", "10010", "100130", "10014", "10015", "10016", "10017", "10018", "10019", "10033", "10034"} {
		step := jdtest.Step{Code: code}
		if len(knobs.Walk) > 0 {
			step.After = jdtest.Duration(time.Minute)
		}
		knobs.Walk = append(knobs.Walk, step)
	}
	jd, err := jdtest.New(jdtest.Config{Stopped: true, Knobs: knobs})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(jd)
	t.Cleanup(func() {
		server.Close()
		if n := jd.Violations().Counts[jdtest.BadSignature]; n > 0 {
			t.Errorf("%d bad signatures", n)
		}
	})
	f := &far{t: t, jd: jd, conn: jdapi.NewTransport()}
	t.Cleanup(f.conn.CloseIdleConnections)
	var dialer net.Dialer
	f.conn.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if f.down.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
		}
		return dialer.DialContext(ctx, network, address)
	}
	w, err := New(Options{
		Seller: seller.New(setup(server.URL+"/routerjson"), nil), Warehouse: "W01", Class: warehouse.Push, Env: env, Transport: f.conn,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, f
}

func (f *far) fault(fault jdtest.Fault) string {
	id, err := f.jd.AddFault(fault)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *far) knobs(set func(*jdtest.Knobs)) {
	if err := f.jd.SetKnobs(set); err != nil {
		f.t.Fatal(err)
	}
}

func (f *far) nextOrder(fault jdtest.Fault) {
	fault.Methods, fault.Count = []string{jdapi.MethodAddOrder}, 1
	f.fault(fault)
}

func (f *far) LoseAnswer() { f.nextOrder(jdtest.Fault{Kind: jdtest.LoseAnswer}) }
func (f *far) DropCall()   { f.nextOrder(jdtest.Fault{Kind: jdtest.Drop}) }
func (f *far) Refuse() {
	f.nextOrder(jdtest.Fault{Kind: jdtest.Error, Code: "5001", ZH: "库存不足"})
}
func (f *far) Reject() { f.nextOrder(jdtest.Fault{Kind: jdtest.Error, Code: "61"}) }

func (f *far) Down(down bool) {
	f.down.Store(down)
	f.conn.CloseIdleConnections()
}

func (f *far) Busy(busy bool) {
	if busy {
		f.busy = f.fault(jdtest.Fault{Kind: jdtest.Error, Code: "2", Chance: 1})
		return
	}
	f.jd.RemoveFault(f.busy)
}

func (f *far) Deny() {
	f.knobs(func(k *jdtest.Knobs) {
		k.Denied = []string{jdapi.MethodAddOrder, jdapi.MethodExtQueryOrder, jdapi.MethodQueryOrder}
	})
}

func (f *far) Expire() { f.jd.ExpireToken(jdtest.DefaultToken, time.Now().Add(-time.Hour)) }

func (f *far) Step() {
	if err := f.jd.Advance(time.Minute); err != nil {
		f.t.Fatal(err)
	}
}

func (f *far) Split(no string) {
	f.knobs(func(k *jdtest.Knobs) { k.Split.Orders = append(k.Split.Orders, no) })
}

func (f *far) Short(no string) {
	f.knobs(func(k *jdtest.Knobs) { k.Short.Orders = append(k.Short.Orders, no) })
}

func (f *far) Cancel(no string) {
	f.knobs(func(k *jdtest.Knobs) { k.OwnCancel.Orders = append(k.OwnCancel.Orders, no) })
}

func (f *far) Documents(no string) int {
	n := 0
	for _, d := range f.jd.Documents(no) {
		if d.Parent == "" {
			n++
		}
	}
	return n
}
