package seller

import (
	"cmp"
	"slices"
	"time"

	sellerv1 "stockbridge/proto/seller/v1"
)

// Place is where a seller's stock is followed: a warehouse, and a shop as the warehouse numbers it.
type Place struct {
	// Warehouse is the ERP's code, ShopNo the warehouse's number of the shop.
	Warehouse, ShopNo string
	// Shops are the ERP's codes of the shops that share it.
	Shops []string
	// Booking is how they are booked; never unspecified.
	Booking sellerv1.Shop_Booking
}

// Places are the places of all shops with a booking, sorted. Shops with one number are booked one way (Validate).
func (s *Seller) Places() []Place {
	var places []Place
	for _, shop := range s.Setup.Shops {
		if shop.GetBooking() == sellerv1.Shop_BOOKING_UNSPECIFIED {
			continue
		}
		for _, w := range shop.Warehouses {
			i := slices.IndexFunc(places, func(p Place) bool { return p.Warehouse == w && p.ShopNo == shop.ShopNo })
			if i < 0 {
				i = len(places)
				places = append(places, Place{Warehouse: w, ShopNo: shop.ShopNo, Booking: shop.Booking})
			}
			places[i].Shops = append(places[i].Shops, shop.Code)
		}
	}
	slices.SortFunc(places, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Warehouse, b.Warehouse), cmp.Compare(a.ShopNo, b.ShopNo))
	})
	return places
}

// Place finds one of Places.
func (s *Seller) Place(warehouse, shopNo string) (Place, bool) {
	places := s.Places()
	i := slices.IndexFunc(places, func(p Place) bool { return p.Warehouse == warehouse && p.ShopNo == shopNo })
	if i < 0 {
		return Place{}, false
	}
	return places[i], true
}

// Following describes how the flow of a seller's places is read and its warehouses are counted: the set-up's stock
// section with its defaults.
type Following struct {
	// Flow is which of the warehouse's methods is read.
	Flow sellerv1.Stock_Flow
	// Every is the interval between two reads; Lag how far behind the present a window ends, Overlap how far it
	// reaches into the previous one. After SecondLook it is read once more; 0: never.
	Every, Lag, Overlap, SecondLook time.Duration
	// Since is where reading of the flow begins; zero: at the first read.
	Since time.Time
	// CountEvery is the interval between two counts of a warehouse.
	CountEvery time.Duration
}

// Following is how the seller's stock is followed.
func (s *Seller) Following() Following {
	stock := s.Setup.GetStock()
	f := Following{Flow: stock.GetFlow(), Since: s.StockSince()}
	f.Every, f.Lag, f.Overlap, f.SecondLook, f.CountEvery = 5*time.Minute, 10*time.Second, time.Minute, time.Hour, time.Hour
	if d := stock.GetEvery(); d != nil {
		f.Every = d.AsDuration()
	}
	if d := stock.GetLag(); d != nil {
		f.Lag = d.AsDuration()
	}
	if d := stock.GetOverlap(); d != nil {
		f.Overlap = d.AsDuration()
	}
	if d := stock.GetSecondLook(); d != nil {
		f.SecondLook = d.AsDuration()
	}
	if d := stock.GetCountEvery(); d != nil {
		f.CountEvery = d.AsDuration()
	}
	return f
}
