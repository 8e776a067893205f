// Package syncer counts sellers' warehouses, finds where a shop's book of stock and the warehouse differ, and
// publishes to shops how much of the stock they share they may offer.
//
// Three ticks and two followed events make up the service: count.due of a warehouse (scan its stock, then compare),
// share.due of a seller (publish what changed), order.accepted (take what sold off at once), and stock.noted (a ratio
// was changed at the warehouse). It knows neither JetStream nor Redis nor an adapter.
//
// # Why
//
// A share is computed from facts in one book per warehouse, which is written by compare-and-set. What is about to be
// published is first written, against the version of the book that it was computed from, and then published: a fact
// that arrives in between makes that write fail. So no share is ever published that the book at the event's version
// does not allow, however many replicas work at it. After a crash in between, the next run publishes it again.
//
// An accepted order is pending from its event until a count contains it: one that began so long after the acceptance
// that clocks and the warehouse's own delay cannot matter (SHARE_SETTLE). When that is uncertain an order is taken
// off twice rather than not at all. The goods of a cancelled order return with the next count and no earlier.
//
// A book that is new, or older than the ledger's current epoch, may lack what was accepted and what was published
// before. Until a count began long enough after that, a share published before it is not published again, and others
// only shrink.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
)

// Name is the service's name and that of its consumer of counts; the others have it as a prefix.
const (
	Name         = "stock-syncer"
	nameShare    = Name + "-share"
	nameAccepted = Name + "-accepted"
	nameNoted    = Name + "-noted"
)

// How often the ticks should come; the program that applies a seller sets them. The set-up's count_every decides
// whether a count is due; one in progress continues with each tick.
const (
	CountTickEvery = 10 * time.Second
	ShareTickEvery = time.Second
)

// Config is the settings of the service.
type Config struct {
	// PerSecond is how many shares of each shop, at each warehouse, are published a second. The latest figure wins.
	PerSecond int `env:"SHARE_PER_SECOND" envDefault:"100" help:"shares published a second, of each shop"`
	// Settle is how long before a count an order must have been accepted for the count to contain it. It covers
	// differences of clocks and how long the warehouse takes to deduct an accepted order.
	Settle time.Duration `env:"SHARE_SETTLE" envDefault:"1m" help:"how long before a count an order must have been accepted to be in it"`
	// Slots is how many warehouses are counted at the same time.
	Slots int `env:"COUNT_SLOTS" envDefault:"4" help:"warehouses counted at the same time"`
	// AcceptedSlots is how many accepted orders are taken off at the same time.
	AcceptedSlots int `env:"ACCEPTED_SLOTS" envDefault:"64" help:"accepted orders taken off shares at the same time"`
	// BreakerAfter is the number of failed calls in a row that pauses a seller; ProbeAfter how long until it is tried
	// again.
	BreakerAfter int           `env:"COUNT_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	ProbeAfter   time.Duration `env:"COUNT_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
}

// SavesMemory makes it a worker.SavesMemory: a count holds all goods of a warehouse, which may be many, and a run that
// ended leaves them as garbage.
func (c Config) SavesMemory() {}

var _ worker.SavesMemory = Config{}

// Validate reports settings that cannot work.
func (c Config) Validate() error {
	var errs []error
	for name, n := range map[string]int{"SHARE_PER_SECOND": c.PerSecond, "COUNT_SLOTS": c.Slots, "ACCEPTED_SLOTS": c.AcceptedSlots, "COUNT_BREAKER_AFTER": c.BreakerAfter} {
		if n < 1 {
			errs = append(errs, fmt.Errorf("%s: want 1 or more", name))
		}
	}
	if c.Settle < time.Second {
		errs = append(errs, errors.New("SHARE_SETTLE: want 1s or more"))
	}
	if c.ProbeAfter <= 0 {
		errs = append(errs, errors.New("COUNT_PROBE_AFTER: want more than 0s"))
	}
	return errors.Join(errs...)
}

// Sellers is what the syncer needs of the registry of sellers.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
}

// Ledger is what the syncer needs of the ledger.
type Ledger interface {
	ledger.Leases
	ledger.Books
}

// Parts is what a Syncer is made of. All are required but Log, Now and NewOwner.
type Parts struct {
	Sellers Sellers
	Ledger  Ledger
	// Read returns what can be read of a seller's warehouse, by the ERP's code; Set what can be set there.
	Read    func(s *seller.Seller, code string) (warehouse.StockReader, error)
	Set     func(s *seller.Seller, code string) (warehouse.StockSetter, error)
	Breaker *guard.Breaker
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner returns the owner of one run, a random one when nil.
	NewOwner func() string
}

// Syncer is the service's handlers.
type Syncer struct {
	Parts
	books       *books
	acceptances *acceptanceBatcher

	mu sync.Mutex
	// warned is what was last logged of a warehouse.
	warned map[string]string
	// compared is the count that a place was compared with, where this process knows it.
	compared map[stock.Place]string
}

// noteCompared notes that a place was compared with a count.
func (y *Syncer) noteCompared(p stock.Place, countID string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.compared[p] = countID
}

// New makes a Syncer.
func New(parts Parts) *Syncer {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	y := &Syncer{Parts: parts, warned: map[string]string{}, compared: map[stock.Place]string{}}
	y.books = &books{Books: parts.Ledger, now: parts.Now}
	y.acceptances = newAcceptanceBatcher(y.books, parts.Settle)
	return y
}
