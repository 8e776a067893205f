package seller_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestPlacesAreWarehousesAndTheirShops(t *testing.T) {
	setup, err := seller.Parse([]byte(shared))
	if err != nil {
		t.Fatal(err)
	}
	s := seller.New(setup, nil)
	want := []seller.Place{
		{Warehouse: "W1", ShopNo: "ESP1", Shops: []string{"JD"}, Booking: sellerv1.Shop_BOOKING_FLOW},
		{Warehouse: "W1", ShopNo: "ESP2", Shops: []string{"TB", "DD"}, Booking: sellerv1.Shop_BOOKING_DOCUMENTS},
		{Warehouse: "W2", ShopNo: "ESP2", Shops: []string{"TB"}, Booking: sellerv1.Shop_BOOKING_DOCUMENTS},
	}
	if diff := cmp.Diff(want, s.Places()); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	if p, ok := s.Place("W2", "ESP2"); !ok || p.Shops[0] != "TB" {
		t.Errorf("place %+v %v", p, ok)
	}
	if _, ok := s.Place("W2", "ESP1"); ok {
		t.Error("a place that no shop has")
	}
}

func TestWhatTheSetUpDoesNotSayOfStockIsFilledIn(t *testing.T) {
	setup, err := seller.Parse([]byte(shared))
	if err != nil {
		t.Fatal(err)
	}
	f := seller.New(setup, nil).Following()
	if f.Every != 45*time.Second || f.Overlap != time.Minute || f.SecondLook != 0 || f.CountEvery != 30*time.Minute {
		t.Errorf("%+v", f)
	}
	if f := seller.New(&sellerv1.Setup{Name: "x"}, nil).Following(); f.Every != 5*time.Minute || f.Lag != 10*time.Second || f.SecondLook != time.Hour {
		t.Errorf("%+v", f)
	}
}
