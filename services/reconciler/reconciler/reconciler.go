// Package reconciler compares what ERPs audited with what the ledger and the warehouses know: audited = known, minus
// exceptions that have a name. It has lost orders sent again by the normal path, and names what it cannot explain.
//
// Each run is one tick of one seller. It walks the stream of audits from a cursor, as far as they are older than a
// deadline, and resolves each order: from the ledger first, then from dead letters and what waits for a retry, then
// from the warehouse (a hundred numbers a call), then from the outcomes in the streams. Most orders are settled by
// the ledger and are passed for good. The others stay in the open list, each with a reason, and are checked in every
// run until they are settled.
//
// It knows neither JetStream nor Redis nor an adapter, and never sends an order itself: it redelivers the audit's own message
// to the pusher, which looks the order up before it sends.
//
// # Why
//
// The cursor and the open list are kept in a book of the ledger, so that a wiped ledger takes them along. A ledger
// that was restored to an older copy, or lost only a part, has another epoch than the book says: then everything
// before the cursor is walked again, after what is new. The same happens when the ledger's server was merely
// restarted; it costs reading the stream and the ledger, and no calls. A restored stream is noticed because another
// message is stored at the cursor; it is walked from the beginning.
//
// Audits of an earlier build are in another stream, to which none are added any longer. The walk takes that one
// first, to its end, and then today's for good: all of its audits are later.
//
// Dead letters, retries and the warehouse are read in this order because an order moves only from left to right: one
// that moves meanwhile is seen in at least one of them.
//
// The published outcomes are read last, and only for orders that neither the ledger nor the warehouse knows: reading
// them costs as much as all the events since. They decide what may be repaired. An order without any outcome was lost
// on the way, and is redelivered. One that was published as accepted and that the warehouse does not know is
// different: the set-up may point to another department by now, and sending it again would ship it twice. One that
// was held and is no longer among the dead letters may have been dropped by a person. Both are named and left to a
// person.
//
// Two contents under one number are one order at the warehouse. The last one is redelivered, unless an outcome says
// that a later one was refused because the number was used.
//
// The warehouses' own lists are read besides, for documents that nobody audited: sent by the ERP's own program, or
// audits that were lost with the stream. A number that the ledger does not know is enough: whatever the stream has
// was walked, and what the ledger forgot is walked again, so lists are only read when no such walk is left. Documents
// without a number of ours were made by the warehouse itself.
//
// Refused orders are looked up for a day (refused.go). One that exists after all is named and published as order.held
// with the reason refused.but.there, and never as order.accepted: the ERP was informed that it failed and may have
// refunded it, so whether it ships is a person's decision. A replay of its dead letter adopts it; a cancellation at
// the warehouse ends the finding.
//
// An order is redelivered at most once per Config.Deadline and MaxTries times in all. Redelivering an order that the
// pusher is handling does no harm: the ledger's claim decides.
package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Name is the service's name and that of its consumer.
const Name = "reconciler"

// TickEvery is how often a seller's tick should come; the program that applies a seller sets it.
const TickEvery = 10 * time.Minute

// MaxTries is how often an order is redelivered before it is left to a person.
const MaxTries = 3

const (
	kind = "order"
	// pusherName is the consumer that takes audits, see audits.
	pusherName = "order-pusher"
	// perRun is the most audits that one run takes from the stream.
	perRun = 5000
	// openAtMost is the longest the open list of a seller gets. The cursor then waits until the list is shorter; the
	// usual reason is a paused seller with more orders than this.
	openAtMost = 20_000
	// readFor is how long a run reads; the rest of the handler's limit (25 s) is for writing what it found.
	readFor = 14 * time.Second
	// leaseFor must stay above the handler's limit (25 s) and the writing that comes after it.
	leaseFor = ledger.ClaimFor
	// lookupsAtOnce is how many reads of the ledger, and redeliveries, are under way at a time.
	lookupsAtOnce = 16
	// moreAfter is when a run that ran out of time continues.
	moreAfter = 100 * time.Millisecond
)

// Config is the settings of the service.
type Config struct {
	// Deadline is how old an audit must be to be checked (promise P2), and how long after one redelivery the next may
	// be.
	Deadline time.Duration `env:"RECONCILE_DEADLINE" envDefault:"10m" help:"age from which an audit without an outcome is checked"`
	// UnknownFor is how long an order's outcome may be unknown (sent, no answer) before that no longer explains it.
	UnknownFor time.Duration `env:"RECONCILE_DOUBT_FOR" envDefault:"30m" help:"how long an order's outcome may be unknown before it counts as unexplained"`
	// ConfirmAfter is when an order is checked again that was redelivered or is about to be named.
	ConfirmAfter time.Duration `env:"RECONCILE_CONFIRM_AFTER" envDefault:"15s" help:"when an order is checked a second time"`
	// ListEvery is how often the warehouses' own lists of documents are read, which costs some twenty calls for each
	// account; 0 for never. ListBack is how far back the first reading reaches.
	ListEvery time.Duration `env:"RECONCILE_LIST_EVERY" envDefault:"30m" help:"how often the warehouses' own lists are read; 0 for never"`
	ListBack  time.Duration `env:"RECONCILE_LIST_BACK" envDefault:"24h" help:"how far back the first reading of a list reaches"`
	// RefusedEvery is how often orders that were refused within the last day are looked up, a hundred a call; 0 for
	// never. A warehouse may reject an order, have it all the same, and show it later than the pusher waits.
	RefusedEvery time.Duration `env:"RECONCILE_REFUSED_EVERY" envDefault:"30m" help:"how often orders that were refused within the last day are looked up; 0 for never"`
	// Slots is how many sellers are checked at the same time.
	Slots int `env:"RECONCILE_SLOTS" envDefault:"4" help:"sellers checked at the same time"`
}

// Validate reports settings that cannot work.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"RECONCILE_DEADLINE": c.Deadline, "RECONCILE_DOUBT_FOR": c.UnknownFor, "RECONCILE_CONFIRM_AFTER": c.ConfirmAfter,
	} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: want more than 0s", name))
		}
	}
	if c.ListEvery < 0 || c.ListBack < 0 || c.RefusedEvery < 0 {
		errs = append(errs, errors.New("RECONCILE_LIST_EVERY, RECONCILE_LIST_BACK, RECONCILE_REFUSED_EVERY: want 0s or more"))
	}
	return errors.Join(errs...)
}

// Sellers is what the reconciler needs of the registry of sellers.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
}

// Ledger is what the reconciler needs of the ledger.
type Ledger interface {
	Get(ctx context.Context, k ledger.Key) (ledger.Entry, error)
	Find(ctx context.Context, seller, no string) ([]ledger.Entry, error)
	Refusals(ctx context.Context, seller, kind string, from time.Time, limit int) ([]ledger.Entry, error)
	ledger.Leases
	ledger.Books
}

// Bus is what the reconciler needs of the bus.
type Bus interface {
	Events(ctx context.Context, q bus.EventQuery, f func(bus.Stored) error) error
	Bounds(ctx context.Context, stream string) (first, last uint64, err error)
	DeadLetters(ctx context.Context, q bus.DeadLetterQuery) ([]bus.DeadLetter, uint64, error)
	Backlog(ctx context.Context, consumer bus.Consumer) (bus.Backlog, error)
	Redeliver(ctx context.Context, consumer string, at bus.Place, round int, by bus.By) error
}

// Parts is what a Reconciler is made of. All are required but Log, Now and NewOwner.
type Parts struct {
	Sellers Sellers
	Ledger  Ledger
	Bus     Bus
	// Open returns the warehouse of a seller by the ERP's code, for calls of the class.
	Open    func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner returns the owners of leases and writes, random ones when nil.
	NewOwner func() string
}

// Reconciler is the service's handler.
type Reconciler struct{ Parts }

// New makes a Reconciler.
func New(parts Parts) *Reconciler {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	return &Reconciler{parts}
}

// Run serves until ctx is done and the handlers have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	r := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Bus: s.Bus, Open: s.Warehouses.Read, Config: c, Log: s.Log, Now: s.Now,
		Metrics: NewMetrics(s.Metrics),
	})
	s.Metrics.MustRegister(Collector(s.Sellers.All, s.Ledger, r.Now))
	serving := s.Serving(Name)
	serving.Slots = c.Slots
	return bus.Serve(ctx, s.Bus, event.ReconcileDue, serving, r.ReconcileDue, nil)
}

// ReconcileDue makes one run for one seller, unless another replica is at it. A run that ran out of time, or that
// redelivered an order, is repeated soon (fault.Wait).
func (r *Reconciler) ReconcileDue(ctx context.Context, _ *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	s, ok := r.Sellers.Get(m.GetSeller())
	if !ok {
		return nil, nil
	}
	lease, owner := "reconcile/"+s.Name(), r.NewOwner()
	mine, err := r.Ledger.Lease(ctx, lease, owner, leaseFor)
	if err != nil || !mine {
		return nil, err
	}
	one := &run{Reconciler: r, seller: s, began: r.Now()}
	err = one.all(ctx)
	if unleaseErr := r.Ledger.Unlease(context.WithoutCancel(ctx), lease, owner); err == nil {
		err = unleaseErr
	}
	if err != nil {
		err = fmt.Errorf("reconcile %s: %w", s.Name(), err)
	}
	return one.events, err
}
