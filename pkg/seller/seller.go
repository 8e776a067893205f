// Package seller knows the set-up of each seller: what was applied, what it maps, whether the seller is paused, and
// why the set-up cannot serve an order.
//
// A set-up is a sellerv1.Setup and holds no secret. The Registry keeps all of them as they are now; a Seller is one
// of them at one moment and never changes. The package knows no warehouse's API; of the bus it knows only the bucket
// of set-ups.
package seller

import (
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

	index *index
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

type index struct {
	accounts   map[string]*sellerv1.Account
	warehouses map[string]*sellerv1.Warehouse
	shops      map[string]*sellerv1.Shop
	allowed    map[shopWarehouse]bool
	carriers   map[string]string
	suppliers  map[string]string
	categories map[string]string
	platforms  map[string]string
	trial      map[string]bool
	until      time.Time
}

type shopWarehouse struct{ shop, warehouse string }

// New makes a Seller of a set-up that Parse or Validate accepted. setup must not be changed afterwards.
func New(setup *sellerv1.Setup, pause *Pause) *Seller {
	x := &index{
		accounts:   make(map[string]*sellerv1.Account, len(setup.Accounts)),
		warehouses: make(map[string]*sellerv1.Warehouse, len(setup.Warehouses)),
		shops:      make(map[string]*sellerv1.Shop, len(setup.Shops)),
		allowed:    make(map[shopWarehouse]bool),
		carriers:   numbers(setup.Carriers),
		suppliers:  numbers(setup.Suppliers),
		categories: numbers(setup.Categories),
		platforms:  numbers(setup.Platforms),
		trial:      make(map[string]bool, len(setup.GetTrial().GetOrders())),
	}
	for _, a := range setup.Accounts {
		x.accounts[a.Name] = a
	}
	for _, w := range setup.Warehouses {
		x.warehouses[w.Code] = w
	}
	for _, s := range setup.Shops {
		x.shops[s.Code] = s
		for _, w := range s.Warehouses {
			x.allowed[shopWarehouse{s.Code, w}] = true
		}
	}
	for _, no := range setup.GetTrial().GetOrders() {
		x.trial[no] = true
	}
	until, err := shadowUntil(setup)
	if err != nil {
		until = time.Time{} // for ever: the safe side
	}
	x.until = until
	return &Seller{Setup: setup, Pause: pause, index: x}
}

func numbers(mappings []*sellerv1.Mapping) map[string]string {
	m := make(map[string]string, len(mappings))
	for _, mapping := range mappings {
		m[mapping.Code] = mapping.Number
	}
	return m
}

// Name is the seller's name, the suffix of its subjects.
func (s *Seller) Name() string { return s.Setup.Name }

// Shop finds a shop by the ERP's number.
func (s *Seller) Shop(code string) (*sellerv1.Shop, bool) {
	shop, ok := s.index.shops[code]
	return shop, ok
}

// Warehouse finds a warehouse by the ERP's number.
func (s *Seller) Warehouse(code string) (*sellerv1.Warehouse, bool) {
	w, ok := s.index.warehouses[code]
	return w, ok
}

// Account finds an account by its name.
func (s *Seller) Account(name string) (*sellerv1.Account, bool) {
	a, ok := s.index.accounts[name]
	return a, ok
}

// Carrier is the warehouse's number of the ERP's carrier.
func (s *Seller) Carrier(code string) (string, bool) {
	no, ok := s.index.carriers[code]
	return no, ok
}

// Supplier is the warehouse's number of the ERP's supplier.
func (s *Seller) Supplier(code string) (string, bool) {
	no, ok := s.index.suppliers[code]
	return no, ok
}

// Category is the warehouse's number of the ERP's category.
func (s *Seller) Category(code string) (string, bool) {
	no, ok := s.index.categories[code]
	return no, ok
}

// Platform is the warehouse's code of the ERP's sales platform; false means "other".
func (s *Seller) Platform(code string) (string, bool) {
	no, ok := s.index.platforms[code]
	return no, ok
}

// MayUse reports whether the shop's orders may be shipped from the warehouse.
func (s *Seller) MayUse(shop, warehouse string) bool {
	return s.index.allowed[shopWarehouse{shop, warehouse}]
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
		if s.index.trial[no] {
			return true
		}
	}
	return false
}
