// Package ingester reads the stock flow of shops at the warehouses, completely and with proof, and publishes each
// movement once.
//
// The tick of a place (a warehouse and its number of a shop) only plans: it publishes each interval that is to be
// read as a message of its own, a window. The handler of a window reads it page by page, publishes the rows that the
// place's book (package stock) does not contain, and applies them to the book when they are stored. Where rows do not
// link up, it publishes a window for just that gap. The package knows neither JetStream nor Redis nor an adapter.
//
// # Why
//
// A window is a message and not a row in a table of jobs: it is retried, delayed, held, dead-lettered and replayed
// like an order, and one that fails delays no other. Refetching it (补抓) is its replay.
//
// Events are stored first and the book follows, as in the poller: after a crash in between, the same events are
// published under the same ids. What is published before the book knows it may be published twice; what the book knew
// before it was published would be lost.
//
// The book says up to where it contains the streams. When the ledger was lost or restored, the book is rebuilt from
// the streams before anything is read. When a stream was restored, the book is dropped and rebuilt from what the
// stream still has, and what was lost is read and published again. See rebuild.go.
package ingester

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// Name is the service's name and that of its consumer of ticks; Windows is the consumer of windows.
const (
	Name    = "vmi-ingester"
	Windows = Name + "-window"
)

const (
	// readFor is how long a run requests further pages. With one more call (10 s) it must stay below the handler's
	// limit (25 s).
	readFor = 12 * time.Second
	// runRows is the most rows of a run, so that publishing and applying them fits into the time for settling (15 s).
	runRows = 4000
	// rebuildFor is how long one run rebuilds a book before it leaves the rest to the next.
	rebuildFor = 10 * time.Second
	// leaseFor must stay above the handler's limit and the writing that comes after it.
	leaseFor = ledger.ClaimFor
	// writeFor is for one write when the run's own time may be up.
	writeFor = 4 * time.Second
)

// Config is the settings of the service.
type Config struct {
	// Slots is how many windows are read at the same time, and how many ticks are planned.
	Slots int `env:"VMI_SLOTS" envDefault:"4" help:"windows read at the same time"`
	// MaxPages is the number of pages above which a window is halved.
	MaxPages int `env:"VMI_MAX_PAGES" envDefault:"50" help:"pages from which on a window is halved"`
	// RunPages is how many pages one run reads before it leaves the rest to the next one.
	RunPages int `env:"VMI_RUN_PAGES" envDefault:"10" help:"pages that one run reads"`
	// Attempts is how often a failing window is tried, with growing delays (some 25 minutes by default), before it is
	// dead-lettered; GapAttempts is the same for a window that looks for missing movements.
	Attempts    int `env:"VMI_WINDOW_ATTEMPTS" envDefault:"12" help:"failed attempts before a window becomes a dead letter"`
	GapAttempts int `env:"VMI_GAP_ATTEMPTS" envDefault:"10" help:"attempts to find missing movements before they are left to a person"`
	// CatchUp is the length of a window when there is a lot to catch up with.
	CatchUp time.Duration `env:"VMI_CATCH_UP" envDefault:"1h" help:"length of a window when there is a lot to catch up with"`
	// ReleasePerSecond caps how fast held windows are released when their cause is gone.
	ReleasePerSecond float64 `env:"VMI_RELEASE_PER_SECOND" envDefault:"20" help:"held windows released a second"`
	// BreakerAfter is the number of failed calls in a row that pauses a seller, ProbeAfter how long it then rests.
	BreakerAfter int           `env:"VMI_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	ProbeAfter   time.Duration `env:"VMI_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
}

// SavesMemory makes it a worker.SavesMemory: a run holds the rows of some pages, which is little, but would be most of a heap that may
// grow to several times what is alive.
func (c Config) SavesMemory() {}

var _ worker.SavesMemory = Config{}

// Validate reports settings that cannot work.
func (c Config) Validate() error {
	var errs []error
	for name, n := range map[string]int{"VMI_MAX_PAGES": c.MaxPages, "VMI_RUN_PAGES": c.RunPages, "VMI_WINDOW_ATTEMPTS": c.Attempts, "VMI_GAP_ATTEMPTS": c.GapAttempts} {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("%s: want more than 0", name))
		}
	}
	if c.CatchUp < time.Minute {
		errs = append(errs, errors.New("VMI_CATCH_UP: want at least 1m"))
	}
	return errors.Join(errs...)
}

// Sellers is what the ingester needs of the registry of sellers.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
}

// Streams is what the ingester needs of the bus to rebuild a book.
type Streams interface {
	End(ctx context.Context, name string) (seq uint64, at time.Time, err error)
	Holds(ctx context.Context, name string, seq uint64, at time.Time) (bool, error)
	Events(ctx context.Context, q bus.EventQuery, f func(bus.Stored) error) error
}

// Parts is what an Ingester is made of. All are required but Now and NewOwner.
type Parts struct {
	Sellers Sellers
	Books   ledger.Books
	Leases  ledger.Leases
	Streams Streams
	// Open returns the stock flow of a seller's warehouse by the ERP's code.
	Open func(s *seller.Seller, code string) (warehouse.FlowReader, error)
	// Release releases the held messages of a seller that match.
	Release func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	Breaker *guard.Breaker
	Metrics *Metrics
	Config
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner returns the owner of one run's lease, a random one when nil.
	NewOwner func() string
}

// Ingester is the service's handlers.
type Ingester struct {
	Parts
	*guard.Releases
	store *stock.Store
}

// New makes an Ingester.
func New(parts Parts) *Ingester {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	return &Ingester{
		Parts:    parts,
		store:    &stock.Store{Books: parts.Books, Now: parts.Now},
		Releases: &guard.Releases{Find: parts.Sellers.Get, Replay: parts.Release, Clock: parts.Now},
	}
}

// Run serves until ctx is done and the handlers have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Books: s.Ledger, Leases: s.Ledger, Streams: s.Bus, Config: c, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics),
		Open: func(sl *seller.Seller, code string) (warehouse.FlowReader, error) {
			return s.Warehouses.Stock(sl, code)
		},
		Release: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			q := bus.DeadLetterQuery{Kind: event.Held, Consumer: Windows, Seller: name}
			return s.Bus.Release(ctx, q, match, c.ReleasePerSecond, bus.By{Who: Name, Why: "cause gone"})
		},
	})
	s.Metrics.MustRegister(Collector(s.Sellers.All, s.Ledger, p.Now))
	ticks, windows := s.Serving(Name), s.Serving(Windows)
	ticks.Slots = c.Slots
	windows.Slots, windows.MaxAttempts, windows.Paused = c.Slots, max(c.Attempts, c.GapAttempts), guard.Paused(p.Sellers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Serve(ctx, s.Bus, event.VMIDue, ticks, p.VMIDue, nil) })
	g.Go(func() error { return bus.Serve(ctx, s.Bus, event.VMIWindowDue, windows, p.WindowDue, p.OnReject) })
	g.Go(func() error { return p.Serve(ctx, s.Bus, Name, s.Serving) })
	return g.Wait()
}

// reportToBreaker reports the outcome of a call to the seller's breaker, and pauses the seller when it trips. It
// returns what to publish.
func (p *Ingester) reportToBreaker(s *seller.Seller, err error) []event.Event {
	events, _ := guard.Guard{Breaker: p.Breaker, Sellers: p.Sellers, ProbeAfter: p.ProbeAfter, Now: p.Now}.Report(s.Name(), err)
	return events
}

func unixStamp(s int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: s} }

// intervalOf returns the interval of a window.
func intervalOf(m *vmiv1.WindowDue) stock.Interval {
	return stock.Interval{From: m.GetFrom().GetSeconds(), To: m.GetTo().GetSeconds()}
}

func placeOf(m interface {
	GetSeller() string
	GetWarehouse() string
	GetShopNo() string
}) stock.Place {
	return stock.Place{Seller: m.GetSeller(), Warehouse: m.GetWarehouse(), ShopNo: m.GetShopNo()}
}
