package seller_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// A single set-up is read and written without the others. Another seller's account is still refused: also that of a seller
// that an earlier build applied, and no longer that of one that has another account now.
func TestAStoreKnowsOtherSellersAccounts(t *testing.T) {
	ctx, k := t.Context(), bucket(t, bustest.Start(t))
	other := func(vendor string) func(*sellerv1.Account) {
		return func(a *sellerv1.Account) { a.VendorSource = vendor }
	}
	data, err := protojson.Marshal(named(t, "earlier", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(ctx, "seller.earlier", data); err != nil {
		t.Fatal(err)
	}
	store := seller.NewStore(k)
	var faults seller.Faults
	refused := func(what string, setup *sellerv1.Setup) {
		t.Helper()
		if _, err := store.Put(ctx, setup, 0); !errors.As(err, &faults) || faults[0].Code != "setup.twin" {
			t.Errorf("%s: %v", what, err)
		}
	}
	put := func(setup *sellerv1.Setup, version uint64) uint64 {
		t.Helper()
		version, err := store.Put(ctx, setup, version)
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	refused("of a seller of before", named(t, "twin", nil))
	own := put(named(t, "own", other("ISV-own")), 0)
	refused("of a seller that was applied since", named(t, "twin", other("ISV-own")))
	put(named(t, "own", other("ISV-moved")), own)
	put(named(t, "twin", other("ISV-own")), 0)

	if s, known, err := store.Get(ctx, "own"); err != nil || !known || s.Version <= own || s.Setup.Accounts[0].VendorSource != "ISV-moved" || s.Pause != nil {
		t.Errorf("read %+v, %v, %v", s, known, err)
	}
	book := open(t, k)
	if err := book.Pause(ctx, "own", seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "stock-take"}); err != nil {
		t.Fatal(err)
	}
	if s, known, err := store.Get(ctx, "own"); err != nil || !known || s.Pause == nil || s.Pause.Reason != "stock-take" {
		t.Errorf("read a paused one: %+v, %v, %v", s, known, err)
	}
	if _, known, err := store.Get(ctx, "nobody"); known || err != nil {
		t.Errorf("read one that is not there: %v, %v", known, err)
	}
	if got := len(book.All()); got != 3 {
		t.Errorf("%d sellers, want 3: the keys of identities are none", got)
	}
}

func TestNoSellerHasOurName(t *testing.T) {
	var faults seller.Faults
	if err := seller.Validate(named(t, "_", nil)); !errors.As(err, &faults) || faults[0].Field != "name" {
		t.Errorf("a set-up named _: %v", err)
	}
}
