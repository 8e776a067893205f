package ctl

import (
	"errors"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
)

// Without the address of the workers' Redis bridgectl reads a ledger that nobody writes to. That no document is open
// there proves nothing.
func TestAnotherLedgerProvesNothingAboutOpenDocuments(t *testing.T) {
	server, url := bustest.StartServer(t, all.Bus()...)
	config := &Config{NATSURL: worker.Secret(url)}
	a := &app{Config: config, Streams: Streams{Err: os.Stderr}, now: time.Now}
	defer a.close()
	was := seller.New(&sellerv1.Setup{
		Name:       "acme",
		Accounts:   []*sellerv1.Account{{Name: "jd", Kind: sellerv1.Account_KIND_JD, AppKey: "K", Department: "EBU1", VendorSource: "ISV1"}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "jd"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", Warehouses: []string{"W01"}}},
	}, nil)
	moved := proto.CloneOf(was.Setup)
	moved.Accounts[0].Department = "EBU2"
	titled := proto.CloneOf(was.Setup)
	titled.Title = "another"
	leaves := func(now *sellerv1.Setup) ([]*leaving, error) { return a.leaves(t.Context(), was, seller.New(now, nil)) }

	if found, err := leaves(moved); err != nil || len(found) != 0 {
		t.Errorf("before any order came: %v, %v", found, err)
	}
	if _, _, err := server.PublishRaw(t.Context(), event.OrderAudited.Name+".acme", nil, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := leaves(moved); !errors.Is(err, errOtherLedger) {
		t.Errorf("orders came, and the ledger is empty: %v", err)
	}
	if found, err := leaves(titled); err != nil || len(found) != 0 {
		t.Errorf("another title: %v, %v", found, err)
	}

	// This ledger is the one that the workers use. It knows all orders of a seller whose first order came after its
	// epoch.
	l, err := a.ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	was.Setup.Name, moved.Name = "bolt", "bolt"
	for _, no := range []string{"A-1", "A-2"} {
		claimed, err := l.Claim(t.Context(), ledger.ClaimRequest{
			Key: ledger.Key{Seller: "bolt", Kind: orderKind, No: no}, Owner: "w", Hash: "h", Shop: "S01", Warehouse: "W01", Identity: was.IdentityOf("W01"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.MarkUnknown(t.Context(), claimed.Claim, "no answer"); err != nil {
			t.Fatal(err)
		}
	}
	found, err := leaves(moved)
	if err != nil || len(found) != 1 || found[0].unknown != 2 || found[0].accepted != 0 || len(found[0].numbers) != 2 {
		t.Errorf("found %+v, %v", found, err)
	}
	// Restoring what they were sent under affects no document.
	if found, err := a.leaves(t.Context(), seller.New(moved, nil), was); err != nil || len(found) != 0 {
		t.Errorf("restored: %+v, %v", found, err)
	}
	less := proto.CloneOf(was.Setup)
	less.Shops[0].Code = "S02"
	if found, err := leaves(less); err != nil || len(found) != 1 || found[0].en != "shop S01 is taken out" {
		t.Errorf("a shop less: %+v, %v", found, err)
	}
}

// A ledger that was lost does not know where its orders were sent. An account cannot change until they are known again.
func TestAnAccountDoesNotChangeWhileALedgerThatWasLostIsNotReconciled(t *testing.T) {
	t.Parallel()
	server, url := bustest.StartServer(t, all.Bus()...)
	was := seller.New(&sellerv1.Setup{
		Name:       "acme",
		Accounts:   []*sellerv1.Account{{Name: "jd", Kind: sellerv1.Account_KIND_JD, AppKey: "K", Department: "EBU1", VendorSource: "ISV1"}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "jd"}},
	}, nil)
	moved := proto.CloneOf(was.Setup)
	moved.Accounts[0].Department = "EBU2"
	if _, _, err := server.PublishRaw(t.Context(), event.OrderAudited.Name+".acme", nil, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	// Redis starts after the order came.
	a := &app{Config: &Config{NATSURL: worker.Secret(url), RedisURL: worker.Secret(redistest.Start(t).URL())}, Streams: Streams{Err: os.Stderr}, now: time.Now}
	defer a.close()
	if _, err := a.leaves(t.Context(), was, seller.New(moved, nil)); !errors.Is(err, errUnreconciled) {
		t.Errorf("orders came before the ledger: %v", err)
	}
	fresh := proto.CloneOf(moved)
	fresh.Name = "fresh"
	before := proto.CloneOf(was.Setup)
	before.Name = "fresh"
	if found, err := a.leaves(t.Context(), seller.New(before, nil), seller.New(fresh, nil)); err != nil || len(found) != 0 {
		t.Errorf("a seller without orders: %v, %v", found, err)
	}
}
