package seller_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

func named(t *testing.T, name string, change func(*sellerv1.Account)) *sellerv1.Setup {
	t.Helper()
	s := proto.CloneOf(acmeSeller(t).Setup)
	s.Name = name
	if change != nil {
		change(s.Accounts[0])
	}
	return s
}

func TestAnAccountIsOneSellersOnly(t *testing.T) {
	book := open(t, bucket(t, bustest.Start(t)))
	if _, err := book.Put(t.Context(), named(t, "acme", nil), 0); err != nil {
		t.Fatal(err)
	}
	_, err := book.Put(t.Context(), named(t, "twin", nil), 0)
	var faults seller.Faults
	if !errors.As(err, &faults) || len(faults) != 1 || faults[0].Code != "setup.twin" || faults[0].Field != "accounts[0]" ||
		!strings.Contains(faults[0].EN, "twin and acme") || !strings.Contains(faults[0].ZH, "twin 与 acme") {
		t.Errorf("a second seller of the account: %v", err)
	}
	if _, known := book.Get("twin"); known {
		t.Error("it was applied all the same")
	}
	for what, change := range map[string]func(*sellerv1.Account){
		"department":    func(a *sellerv1.Account) { a.Department = "EBU9" },
		"vendor source": func(a *sellerv1.Account) { a.VendorSource = "ISV9" },
		"application":   func(a *sellerv1.Account) { a.AppKey = "another" },
	} {
		name := strings.ReplaceAll(what, " ", "-")
		if _, err := book.Put(t.Context(), named(t, name, change), 0); err != nil {
			t.Errorf("another %s: %v", what, err)
		}
	}

	// A seller may have several accounts with one identity, and may be applied again.
	two := named(t, "acme", nil)
	two.Accounts = append(two.Accounts, proto.CloneOf(two.Accounts[0]))
	two.Accounts[len(two.Accounts)-1].Name = "second"
	two.Accounts[len(two.Accounts)-1].CarrierOwner = "another"
	if _, err := book.Put(t.Context(), two, get(t, book).Version); err != nil {
		t.Errorf("two accounts of one seller: %v", err)
	}
	// A change of account is checked like a new seller's.
	s, _ := book.Get("department")
	if _, err := book.Put(t.Context(), named(t, "department", nil), s.Version); !errors.As(err, &faults) {
		t.Errorf("changed to another's account: %v", err)
	}
}

// A store from before such pairs were refused: the later seller's orders wait until the account is its own.
func TestOfAnExistingPairTheLaterSellerIsHeld(t *testing.T) {
	k := bucket(t, bustest.Start(t))
	store := func(setup *sellerv1.Setup) {
		t.Helper()
		data, err := protojson.Marshal(setup)
		if err != nil {
			t.Fatal(err)
		}
		v, _ := k.Get(t.Context(), "seller."+setup.Name)
		if _, err := k.Update(t.Context(), "seller."+setup.Name, data, v.Revision); err != nil {
			t.Fatal(err)
		}
	}
	store(named(t, "first", nil))
	store(named(t, "acme", nil))
	book := open(t, k)
	order := func(name string) *orderv1.Audited {
		return &orderv1.Audited{Seller: name, Shop: "S01", Warehouse: "007", OutboundNo: "A-1"}
	}
	findings := func(name string) string {
		s, ok := book.Get(name)
		if !ok {
			return "gone"
		}
		if err := s.Check(order(name)); err != nil {
			return fault.Cause(err)
		}
		return ""
	}
	account := get(t, book).Setup.Accounts[0].Name
	cause := seller.CauseTwin("acme", account)
	if got := findings("acme"); got != cause {
		t.Errorf("the later one: held for %q", got)
	}
	if got := findings("first"); got != "" {
		t.Errorf("the earlier one is held for %q", got)
	}
	if get(t, book).Cleared(cause) {
		t.Error("cleared while both have the account")
	}

	// The later one may be changed otherwise. The earlier one may not: it would become the later one.
	held := func(name string) bool { return strings.HasPrefix(findings(name), "twin:") }
	for _, name := range []string{"acme", "first"} {
		titled, now := named(t, name, nil), seller.Faults{}
		titled.Title = "another title"
		s, _ := book.Get(name)
		_, err := book.Put(t.Context(), titled, s.Version)
		if refused := errors.As(err, &now); refused != (name == "first") {
			t.Errorf("another title of %s: %v", name, err)
		}
		if held("first") || !held("acme") {
			t.Errorf("held: first %v, acme %v", held("first"), held("acme"))
		}
	}
	// One of them gets an account of its own.
	first, _ := book.Get("first")
	if _, err := book.Put(t.Context(), named(t, "first", func(a *sellerv1.Account) { a.Department = "EBU9" }), first.Version); err != nil {
		t.Fatal(err)
	}
	if !get(t, book).Cleared(cause) || held("acme") || held("first") {
		t.Error("still held although the account is one seller's only")
	}
}
