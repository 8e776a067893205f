package wiring

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/kinds"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestTheLedgerIsInRedisWhenAnAddressIsGiven(t *testing.T) {
	b := bustest.Start(t)
	for name, test := range map[string]struct {
		url string
		is  func(ledger.Ledger) bool
	}{
		"in Redis":           {redistest.Start(t).URL(), func(l ledger.Ledger) bool { _, ok := l.(*inredis.Ledger); return ok }},
		"in a bucket if not": {"", func(l ledger.Ledger) bool { _, ok := l.(*inkv.Ledger); return ok }},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Ledger(t.Context(), test.url, b)
			if err != nil {
				t.Fatal(err)
			}
			if !test.is(l) {
				t.Errorf("got a %T", l)
			}
			if err := l.Check(t.Context()); err != nil {
				t.Error(err)
			}
			if n, err := l.Count(t.Context(), "k"); n != 1 || err != nil {
				t.Errorf("counted %d, %v", n, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := Ledger(t.Context(), "redis://:planted@h:x", b); err == nil || strings.Contains(err.Error(), "planted") {
		t.Errorf("a wrong address: %v", err)
	}
}

// sandbox is a seller whose warehouse is the JD sandbox, with the file of its token.
func sandbox(t *testing.T) (s *seller.Seller, token string) {
	t.Helper()
	played, err := jdsandbox.New(jdsandbox.Config{Apps: []jdsandbox.App{{
		Key: "KEY", Secret: "planted-secret", Tokens: []jdsandbox.Token{{Value: "planted-token"}, {Value: "planted-fresh"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(played)
	t.Cleanup(func() {
		web.Close()
		if err := played.Close(); err != nil {
			t.Error(err)
		}
	})
	token = filepath.Join(t.TempDir(), "token")
	t.Setenv("WIRING_TEST_SECRET", "planted-secret")
	setup := &sellerv1.Setup{
		Name: "acme",
		Accounts: []*sellerv1.Account{
			{Name: "jd", Kind: sellerv1.Account_KIND_JD, Url: web.URL + "/routerjson", AppKey: "KEY", AppSecret: &sellerv1.SecretRef{Env: "WIRING_TEST_SECRET"},
				AccessToken: &sellerv1.SecretRef{File: token}, Department: "EBU1", VendorSource: "ISV1", Quota: &sellerv1.Quota{PerSecond: 7}},
			{Name: "mem", Kind: sellerv1.Account_KIND_MEMORY},
		},
		Warehouses: []*sellerv1.Warehouse{{Code: "W1", Account: "jd", WarehouseNo: "110000001"}, {Code: "W2", Account: "jd", WarehouseNo: "110000002"},
			{Code: "M1", Account: "mem"}, {Code: "M2", Account: "mem"}},
		Shops: []*sellerv1.Shop{{Code: "S1", ShopNo: "ESP1", Warehouses: []string{"W1", "M1"}}},
	}
	if err := seller.Validate(setup); err != nil {
		t.Fatal(err)
	}
	s = seller.New(setup, nil)
	s.Version = 3
	return s, token
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, w *Warehouses, s *seller.Seller, code string, class quota.Class) warehouse.Identified {
	t.Helper()
	wh, err := w.Open(s, code, class)
	if err != nil {
		t.Fatal(err)
	}
	return wh
}

// openOrders opens the orders of a warehouse.
func openOrders(t *testing.T, w *Warehouses, s *seller.Seller, code string, class quota.Class) warehouse.OrderChannel {
	t.Helper()
	return open(t, w, s, code, class).(warehouse.Orderer).Orders()
}

// canSend reports whether a type assertion finds a way to send.
func canSend(wh any) bool {
	_, orders := wh.(warehouse.Orderer)
	_, purchases := wh.(warehouse.Purchaser)
	_, order := wh.(warehouse.Channel[*orderv1.Audited, *orderv1.Shipped])
	_, purchase := wh.(warehouse.Channel[*purchasev1.Audited, *purchasev1.Received])
	return orders || purchases || order || purchase
}

func TestAJDWarehouseRereadsItsTokenAndWaitsForSlots(t *testing.T) {
	s, token := sandbox(t)
	q := &turns{}
	w := NewWarehouses(q)
	defer w.Close()
	orders := openOrders(t, w, s, "W1", quota.Push)

	_, err := orders.Find(t.Context(), []string{"X1"})
	if !errors.Is(err, warehouse.ErrToken) || fault.Of(err) != fault.Held || q.asked != 0 {
		t.Errorf("without a token: %v, %d turns taken", err, q.asked)
	}
	write(t, token, "planted-stale\n")
	_, stale := orders.Find(t.Context(), []string{"X1"})
	if !errors.Is(stale, warehouse.ErrToken) {
		t.Errorf("with a token that JD does not take: %v", stale)
	}
	for _, text := range []string{"planted-token", "planted-fresh\n"} {
		write(t, token, text)
		if found, err := orders.Find(t.Context(), []string{"X1"}); err != nil || len(found) != 0 {
			t.Errorf("after the file changed: %v, %v", found, err)
		}
	}
	w.Close() // waits for permits on their way back
	if q.app != "KEY@"+s.Setup.Accounts[0].Url || q.class != "push" || q.limit != (ledger.Limit{PerSecond: 7, Concurrent: 5}) || len(q.returned) != q.asked {
		t.Errorf("turns: %+v", q)
	}
	for _, err := range []error{err, stale} {
		if strings.Contains(err.Error(), "planted") {
			t.Errorf("a secret in %v", err)
		}
	}

	if _, err := openOrders(t, NewWarehouses(nil), s, "W1", quota.Push).Find(t.Context(), []string{"X1"}); err != nil {
		t.Errorf("without budgets: %v", err)
	}
}

func TestAWarehouseIsKeptUntilTheSetupChanges(t *testing.T) {
	s, _ := sandbox(t)
	w := NewWarehouses(&turns{})
	defer w.Close()
	first := open(t, w, s, "W1", quota.Push)
	if open(t, w, s, "W1", quota.Push) != first {
		t.Error("the same is opened twice")
	}
	if open(t, w, s, "W1", quota.Status) == first || open(t, w, s, "W2", quota.Push) == first {
		t.Error("another class or warehouse is the same")
	}
	changed := seller.New(proto.CloneOf(s.Setup), nil)
	changed.Version = 4
	second := open(t, w, changed, "W1", quota.Push)
	if second == first || open(t, w, changed, "W1", quota.Push) != second {
		t.Error("a changed set-up is not opened again, once")
	}
	if old := open(t, w, s, "W1", quota.Push); old == second || open(t, w, changed, "W1", quota.Push) != second {
		t.Error("whoever still has the older set-up gets, or spoils, the newer one's")
	}
	file := seller.New(s.Setup, nil)
	if open(t, w, file, "W1", quota.Push) == open(t, w, file, "W1", quota.Push) {
		t.Error("a set-up without a version is kept")
	}
}

func TestAWarehouseInMemoryKeepsItsOrders(t *testing.T) {
	s, _ := sandbox(t)
	w := NewWarehouses(&turns{})
	defer w.Close()
	orders := openOrders(t, w, s, "M1", quota.Push)
	o := &orderv1.Audited{Seller: "acme", OutboundNo: "X1", Receiver: &orderv1.Receiver{Name: "n"}, Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "G", Quantity: 1}}}
	if _, err := orders.Send(t.Context(), o, orders.Plan(o)); err != nil {
		t.Fatal(err)
	}
	changed := seller.New(s.Setup, nil)
	changed.Version = 4
	if found, err := openOrders(t, w, changed, "M2", quota.Status).Find(t.Context(), []string{"X1"}); err != nil || len(found) != 1 {
		t.Errorf("another class, of another version: %v, %v", found, err)
	}
}

// The kinds whose settings are accepted are the kinds that can be opened, and those whose accounts a merchant can consent
// to have an authority.
func TestEveryKindOfAccountCanBeOpened(t *testing.T) {
	s, _ := sandbox(t)
	w := NewWarehouses(&turns{})
	defer w.Close()
	opened := map[sellerv1.Account_Kind]warehouse.Identified{}
	for _, site := range s.Setup.Warehouses {
		a, _ := s.Account(site.Account)
		opened[a.Kind] = open(t, w, s, site.Code, quota.Push)
		if got, want := opened[a.Kind].Identity(), kinds.Of(a).Identity(a); got != want {
			t.Errorf("%s: opened as %q, its settings say %q", a.Kind, got, want)
		}
		authority, err := w.Authority(a)
		if consent := kinds.Of(a).Capabilities(a).Consent; consent && (authority == nil || err != nil) || !consent && fault.Of(err) != fault.Refused {
			t.Errorf("%s: consent %v, but %v, %v", a.Kind, consent, authority, err)
		}
	}
	for number, name := range sellerv1.Account_Kind_name {
		if kind := sellerv1.Account_Kind(number); kind != sellerv1.Account_KIND_UNSPECIFIED && opened[kind] == nil {
			t.Errorf("%s is not opened here", name)
		}
	}
}

func TestAWarehouseThatIsNotSetUpHoldsOrders(t *testing.T) {
	s, _ := sandbox(t)
	_, err := NewWarehouses(&turns{}).Open(s, "W9", quota.Push)
	var reason fault.Reason
	if fault.Cause(err) != "warehouse:acme/W9" || !errors.As(err, &reason) || reason.Field != "warehouse" {
		t.Errorf("got %v", err)
	}
}

// Nobody gets a warehouse that could write for a seller in shadow, and none can be made from one that reads.
func TestASellerInShadowHasNoWarehouseThatWrites(t *testing.T) {
	s, token := sandbox(t)
	write(t, token, "planted-token")
	setup := proto.CloneOf(s.Setup)
	setup.Shadow = &sellerv1.Shadow{}
	shadowed := seller.New(setup, nil)
	shadowed.Version = 4
	w := NewWarehouses(&turns{})
	defer w.Close()
	open(t, w, s, "W1", quota.Push) // while it was not in shadow
	if got, err := w.Open(shadowed, "W1", quota.Push); err == nil || fault.Of(err) != fault.Wait {
		t.Fatalf("got %v, %v", got, err)
	}
	r, err := w.Read(shadowed, "W1", quota.Status)
	if err != nil {
		t.Fatal(err)
	}
	if canSend(r) {
		t.Error("what reads can be asked to write")
	}
	if _, ok := r.(warehouse.Doctor); !ok {
		t.Error("it cannot be diagnosed")
	}
	if found, err := r.Find(t.Context(), []string{"X1"}); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// A stock reader cannot be made to write, a shadow does not keep it from reading, and setting stock needs permission.
func TestStockIsReadAndSetInTwoWays(t *testing.T) {
	s, token := sandbox(t)
	write(t, token, "planted-token")
	w := NewWarehouses(&turns{})
	defer w.Close()
	stock := func(s *seller.Seller, code string) warehouse.StockReader {
		t.Helper()
		r, err := w.Stock(s, code)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := r.(warehouse.StockSetter); ok {
			t.Errorf("what reads the stock of %s can be asked to set it", code)
		}
		if canSend(r) {
			t.Errorf("what reads the stock of %s can be asked to take documents", code)
		}
		return r
	}
	if stock(s, "W1") != stock(s, "W1") || stock(s, "W1") == stock(s, "W2") {
		t.Error("it is not kept for each warehouse")
	}
	if _, err := w.Stock(s, "W9"); fault.Cause(err) != "warehouse:acme/W9" {
		t.Errorf("a warehouse that is not set up: %v", err)
	}
	if set, err := w.SetStock(s, "W1"); fault.Of(err) != fault.Refused {
		t.Errorf("without leave: %v, %v", set, err)
	}
	setup := proto.CloneOf(s.Setup)
	setup.Stock = &sellerv1.Stock{SetAtWarehouse: true}
	may := seller.New(setup, nil)
	may.Version = 4
	for _, code := range []string{"W1", "M1"} {
		if set, err := w.SetStock(may, code); err != nil || set == nil {
			t.Errorf("with leave, in %s: %v", code, err)
		}
	}
	set, err := w.SetStock(may, "M1")
	if err != nil {
		t.Fatal(err)
	}
	if err := set.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", 7); err != nil {
		t.Fatal(err)
	}
	if got, err := stock(may, "M1").ShopStock(t.Context(), "ESP1", []string{"EMG1"}); err != nil || got["EMG1"].Num != 7 {
		t.Errorf("in memory: %v, %v", got, err)
	}
	setup = proto.CloneOf(setup)
	setup.Shadow = &sellerv1.Shadow{}
	shadowed := seller.New(setup, nil)
	shadowed.Version = 5
	if set, err := w.SetStock(shadowed, "W1"); fault.Of(err) != fault.Wait {
		t.Errorf("in shadow: %v, %v", set, err)
	}
	stock(shadowed, "W1")
}

// What follows documents reads those of any kind, also of a seller in shadow, and cannot be made to send.
func TestDocumentsAreOpenedToRead(t *testing.T) {
	s, token := sandbox(t)
	write(t, token, "planted-token")
	setup := proto.CloneOf(s.Setup)
	setup.Shadow = &sellerv1.Shadow{}
	s = seller.New(setup, nil)
	w := NewWarehouses(&turns{})
	defer w.Close()
	for _, code := range []string{"W1", "M1"} {
		wh, err := w.Documents(s, code, quota.Status)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := order.Kind.Channel(wh)
		if !ok {
			t.Fatalf("%s takes no orders", code)
		}
		if found, err := c.(warehouse.Finder[*orderv1.Shipped]).Find(t.Context(), []string{"A-1"}); err != nil || len(found) > 0 {
			t.Errorf("in %s: found %v, %v", code, found, err)
		}
		if code == "M1" {
			continue // in this process, nothing is sent
		}
		o := &orderv1.Audited{OutboundNo: "A-1"}
		if _, err := c.Send(t.Context(), o, warehouse.Plan{}); !errors.Is(err, jdapi.ErrReadOnly) {
			t.Errorf("%s may be sent to: %v", code, err)
		}
	}
}

// The author of a set-up cannot make a worker read its own secrets, nor send a credential in the clear.
func TestASetupCannotHaveAWorkerSendItsOwnSecrets(t *testing.T) {
	s, token := sandbox(t)
	write(t, token, "planted-token")
	t.Setenv("JD_SECRET", "planted-secret")
	t.Setenv("TOKEN_KEY", "planted-key")
	trust, err := seller.ParseTrust(filepath.Dir(token), seller.DefaultSecretsEnv, "")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "token-key")
	write(t, own, "planted-key")
	for what, test := range map[string]struct {
		change func(*sellerv1.Account)
		field  string
	}{
		"nothing of that":        {func(*sellerv1.Account) {}, ""},
		"a variable of its own":  {func(a *sellerv1.Account) { a.AccessToken = &sellerv1.SecretRef{Env: "TOKEN_KEY"} }, "accounts.jd.access_token"},
		"a file of its own":      {func(a *sellerv1.Account) { a.AppSecret = &sellerv1.SecretRef{File: own} }, "accounts.jd.app_secret"},
		"an address without TLS": {func(a *sellerv1.Account) { a.Url = "http://attacker.example/routerjson" }, "accounts.jd.url"},
	} {
		t.Run(what, func(t *testing.T) {
			setup := proto.CloneOf(s.Setup)
			setup.Accounts[0].AppSecret = &sellerv1.SecretRef{Env: "JD_SECRET"}
			test.change(setup.Accounts[0])
			w := NewWarehouses(nil)
			defer w.Close()
			w.Trust = trust
			orders, err := w.Open(seller.New(setup, nil), "W1", quota.Push)
			_, authorityErr := w.Authority(setup.Accounts[0])
			if test.field == "" {
				if err != nil || authorityErr != nil {
					t.Fatalf("%v, %v", err, authorityErr)
				}
				if _, err := orders.(warehouse.Orderer).Orders().Find(t.Context(), []string{"X1"}); err != nil {
					t.Errorf("with the secrets that it may name: %v", err)
				}
				return
			}
			if r := fault.ReasonOf(err, ""); fault.Cause(err) != "warehouse:acme/W1" || r.Field != test.field {
				t.Errorf("orders: %v", err)
			}
			if r := fault.ReasonOf(authorityErr, ""); r.Field != test.field {
				t.Errorf("authorisation: %v", authorityErr)
			}
			if s := fmt.Sprint(err, authorityErr); strings.Contains(s, "planted") || strings.Contains(s, "attacker") {
				t.Errorf("what may be a secret is repeated: %s", s)
			}
		})
	}
}
