// Package seller knows the set-up of each seller: what was applied, what it maps, whether the seller is paused, and
// why the set-up cannot serve an order.
//
// A set-up is a sellerv1.Setup and holds no secret. The Registry keeps all of them as they are now, a Store reads and writes
// single ones; a Seller is one of them at one moment and never changes. The package knows no warehouse's API; of the bus it knows only the bucket
// of set-ups.
package seller

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	sellerv1 "stockbridge/proto/seller/v1"
)

// Seller is one seller's set-up and pause as they were when it was asked for. It may be used by many goroutines.
type Seller struct {
	// Setup must not be changed.
	Setup *sellerv1.Setup
	// Pause is nil while the seller runs.
	Pause *Pause
	// Version grows with every change of the set-up, and not with pauses. Zero when it did not come from a Registry.
	Version uint64
	// MovedAt is when, by the broker's clock, an identity of the set-up changed last; zero when none ever did since
	// this is recorded. What was sent before may be under an account that the set-up no longer names.
	MovedAt time.Time
	// Twins are the identities of accounts that another seller had before this one, with that seller's name: what is
	// found there by our numbers may be the other's.
	Twins map[string]string

	index index
	until time.Time // the end of shadow mode
}

// Pause stops a seller's work.
type Pause struct {
	By sellerv1.Paused_By
	// Reason is shown to operators.
	Reason string
	At     time.Time
	// ProbeAfter is how long the pause lasts before the warehouse is tried again, ProbeAt when that is: At +
	// ProbeAfter. Both are zero for an operator's pause, which only an operator ends.
	ProbeAfter time.Duration
	ProbeAt    time.Time
}

// Message is the pause as it is stored and published.
func (p Pause) Message(name string) *sellerv1.Paused {
	m := &sellerv1.Paused{Seller: name, At: timestamppb.New(p.At), By: p.By, Reason: p.Reason}
	if p.ProbeAfter > 0 {
		m.ProbeAfter = durationpb.New(p.ProbeAfter)
	}
	return m
}

// index finds the parts of a set-up by their codes.
type index struct {
	accounts   map[string]*sellerv1.Account
	warehouses map[string]*sellerv1.Warehouse
	shops      map[string]*sellerv1.Shop
	carriers   map[string]string
	suppliers  map[string]string
	categories map[string]string
	platforms  map[string]string
	trial      map[string]bool
}

// searched is the longest list that is searched instead of indexed: the maps of a seller with a shop and a warehouse took more
// memory than its set-up, in every worker.
const searched = 8

// indexOf indexes what is too long to be searched; its maps are nil for the rest.
func indexOf(setup *sellerv1.Setup) (x index) {
	x.accounts = byCode(setup.Accounts, func(a *sellerv1.Account) (string, *sellerv1.Account) { return a.Name, a })
	x.warehouses = byCode(setup.Warehouses, func(w *sellerv1.Warehouse) (string, *sellerv1.Warehouse) { return w.Code, w })
	x.shops = byCode(setup.Shops, func(s *sellerv1.Shop) (string, *sellerv1.Shop) { return s.Code, s })
	number := func(m *sellerv1.Mapping) (string, string) { return m.Code, m.Number }
	x.carriers, x.suppliers = byCode(setup.Carriers, number), byCode(setup.Suppliers, number)
	x.categories, x.platforms = byCode(setup.Categories, number), byCode(setup.Platforms, number)
	x.trial = byCode(setup.GetTrial().GetOrders(), func(no string) (string, bool) { return no, true })
	return x
}

func byCode[T, V any](list []T, of func(T) (string, V)) map[string]V {
	if len(list) <= searched {
		return nil
	}
	m := make(map[string]V, len(list))
	for _, one := range list {
		code, v := of(one)
		m[code] = v
	}
	return m
}

// find finds code in list, or in its index. The last one of a code counts, as in an index.
func find[T, V any](list []T, index map[string]V, code string, of func(T) (string, V)) (v V, ok bool) {
	if index != nil {
		v, ok = index[code]
		return v, ok
	}
	for i := len(list) - 1; i >= 0; i-- {
		if have, found := of(list[i]); have == code {
			return found, true
		}
	}
	return v, false
}

func number(list []*sellerv1.Mapping, index map[string]string, code string) (string, bool) {
	return find(list, index, code, func(m *sellerv1.Mapping) (string, string) { return m.GetCode(), m.GetNumber() })
}

// New makes a Seller of a set-up that Parse or Validate accepted. setup must not be changed afterwards.
func New(setup *sellerv1.Setup, pause *Pause) *Seller {
	until, err := shadowUntil(setup)
	if err != nil {
		until = time.Time{} // for ever: the safe side
	}
	return &Seller{Setup: setup, Pause: pause, index: indexOf(setup), until: until}
}

// Name is the seller's name, the suffix of its subjects.
func (s *Seller) Name() string { return s.Setup.Name }

// Shop finds a shop by the ERP's number.
func (s *Seller) Shop(code string) (*sellerv1.Shop, bool) {
	return find(s.Setup.Shops, s.index.shops, code, func(s *sellerv1.Shop) (string, *sellerv1.Shop) { return s.GetCode(), s })
}

// Warehouse finds a warehouse by the ERP's number.
func (s *Seller) Warehouse(code string) (*sellerv1.Warehouse, bool) {
	return find(s.Setup.Warehouses, s.index.warehouses, code, func(w *sellerv1.Warehouse) (string, *sellerv1.Warehouse) { return w.GetCode(), w })
}

// Account finds an account by its name.
func (s *Seller) Account(name string) (*sellerv1.Account, bool) {
	return find(s.Setup.Accounts, s.index.accounts, name, func(a *sellerv1.Account) (string, *sellerv1.Account) { return a.GetName(), a })
}

// Carrier is the warehouse's number of the ERP's carrier.
func (s *Seller) Carrier(code string) (string, bool) {
	return number(s.Setup.Carriers, s.index.carriers, code)
}

// Supplier is the warehouse's number of the ERP's supplier.
func (s *Seller) Supplier(code string) (string, bool) {
	return number(s.Setup.Suppliers, s.index.suppliers, code)
}

// Category is the warehouse's number of the ERP's category.
func (s *Seller) Category(code string) (string, bool) {
	return number(s.Setup.Categories, s.index.categories, code)
}

// Platform is the warehouse's code of the ERP's sales platform; false means "other".
func (s *Seller) Platform(code string) (string, bool) {
	return number(s.Setup.Platforms, s.index.platforms, code)
}

// MayUse reports whether the shop's orders may be shipped from the warehouse.
func (s *Seller) MayUse(shop, warehouse string) bool {
	found, _ := s.Shop(shop)
	return slices.Contains(found.GetWarehouses(), warehouse)
}

// OnTrial reports whether only some orders are really sent, and how many of the first besides the listed ones.
func (s *Seller) OnTrial() (first int, on bool) {
	return int(s.Setup.GetTrial().GetFirst()), s.Setup.Trial != nil
}

// TrialExtras is the name under which the ledger's trials count a seller's listed or released orders: they use none
// of the places of the first so many, which are counted under the seller's own name.
func TrialExtras(name string) string { return name + "/besides" }

// TrialLists reports whether the trial names one of these outbound or order numbers.
func (s *Seller) TrialLists(nos ...string) bool {
	for _, no := range nos {
		_, listed := find(s.Setup.GetTrial().GetOrders(), s.index.trial, no, func(no string) (string, bool) { return no, true })
		if listed {
			return true
		}
	}
	return false
}
