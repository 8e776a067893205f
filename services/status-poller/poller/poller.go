// Package poller follows accepted orders at the warehouses that ship them and publishes their progress.
//
// One run is one tick of one seller. It looks up the due orders, a hundred per call, and fetches the details only of
// those that moved. It knows neither JetStream nor Redis nor JD; the bus publishes the events that it returns.
//
// # Why
//
// The pusher writes the ledger first and publishes afterwards: an unacked audit leads to publishing again. A tick
// carries no fact, so nothing would repeat a lost publish here: once the ledger has moved, no later tick finds the step
// again. So the events are stored first and the ledger moves after that (bus.Delivery.AfterStored). A crash in between
// publishes the same facts again under the same ids. So do two pollers at one order; the slower one's write fails
// harmlessly with ledger.ErrVersion.
//
// A failure that lasts (a permission, a set-up) is not returned: nothing would hold a tick until its cause is gone. It is
// logged when it changes, and the orders are looked up again later. What needs a person (two documents under one number,
// an order that is given up, cancelled after it was shipped) is published as an order.status.changed with a code of ours,
// counted, and returned once as a fault.Permanent, which the bus logs as an error. The ledger records that it was
// published.
package poller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	documentv1 "stockbridge/proto/document/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Name is the service's name and that of its consumer.
const Name = "status-poller"

// TickEvery is the interval of a seller's ticks, set when a seller is applied. It must stay at or below
// Config.PackedEvery, or orders are looked up later than the settings say.
const TickEvery = 5 * time.Second

const (
	kindName = "order"
	// perRun is the most orders of one run: its events and ledger writes must fit into the handler's limit.
	perRun = 1000
	// singlesPerRun is the same where each order costs a call.
	singlesPerRun = 100
	// admitFor is how long a run starts on further orders. Together with one more call (10 s) it must not exceed the
	// handler's limit (25 s).
	admitFor = 15 * time.Second
	// leaseFor must stay above the handler's limit (25 s) plus the writes after it. A killed run blocks its seller for that
	// long.
	leaseFor = ledger.ClaimFor
	// batchRefusedFor is how long orders are fetched one by one after a warehouse refused the batch call.
	batchRefusedFor = time.Hour
	// detailsAtOnce and writesAtOnce limit the concurrent calls for details and writes to the ledger. The quota decides how
	// many of the calls really go out.
	detailsAtOnce = 4
	writesAtOnce  = 16
	// probeAtMost is the longest pause between two probes of a paused seller.
	probeAtMost = 5 * time.Minute
	// writeFor is the limit of one write after the run's own time may be up.
	writeFor = 4 * time.Second
)

// Config is the settings of the service. The three intervals trade calls against freshness: n orders of a phase cost
// n/100 calls per interval.
type Config struct {
	// OpenEvery is the interval of the look-ups of an order that is not packed yet.
	OpenEvery time.Duration `env:"POLL_OPEN" envDefault:"30s" help:"interval of the look-ups of an order that is not packed"`
	// PackedEvery is the same for one that is checked or packed: everybody waits for its shipping.
	PackedEvery time.Duration `env:"POLL_PACKED" envDefault:"15s" help:"interval of the look-ups of an order that is packed"`
	// ShippedEvery is the same for one that is on its way, or on its way back.
	ShippedEvery time.Duration `env:"POLL_SHIPPED" envDefault:"10m" help:"interval of the look-ups of an order that is on its way"`
	// FollowFor is how long an order is followed, from its push. Then it is given up, which is published and logged as an
	// error.
	FollowFor time.Duration `env:"FOLLOW_FOR" envDefault:"1440h" help:"how long an order is followed before it is given up"`
	// Slots is how many sellers are polled at the same time.
	Slots int `env:"POLL_SLOTS" envDefault:"8" help:"sellers polled at the same time"`
	// BreakerAfter is the number of failed calls in a row that pauses a seller.
	BreakerAfter int `env:"POLL_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	// ProbeAfter is how long a paused seller rests before it is probed. It doubles with each failed probe, up to five
	// minutes.
	ProbeAfter time.Duration `env:"POLL_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
}

// Validate names the settings that are out of range.
func (c Config) Validate() error {
	var errs []error
	for name, d := range map[string]time.Duration{
		"POLL_OPEN": c.OpenEvery, "POLL_PACKED": c.PackedEvery, "POLL_SHIPPED": c.ShippedEvery, "FOLLOW_FOR": c.FollowFor, "POLL_PROBE_AFTER": c.ProbeAfter,
	} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: want more than 0s", name))
		}
	}
	return errors.Join(errs...)
}

// Sellers is what the poller needs of the sellers' set-up.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
	Resume(ctx context.Context, name string, by sellerv1.Paused_By) error
}

// Ledger is what the poller needs of the ledger.
type Ledger interface {
	Due(ctx context.Context, seller, kind string, now time.Time, limit int) ([]ledger.Entry, error)
	Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error
	CountFollowed(ctx context.Context, seller, kind string) (int, error)
	ledger.Leases
}

// Parts is what a Poller is made of. All are required but Log, Tracer, Now and NewOwner.
type Parts struct {
	Sellers Sellers
	Ledger  Ledger
	// Open returns a seller's warehouse by the ERP's code, for calls of the class.
	Open    func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	Breaker *guard.Breaker
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Tracer starts the spans of fetches of details, in the order's own trace; nil for none.
	Tracer oteltrace.Tracer
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of one run's lease, a random one when nil.
	NewOwner func() string
}

// Poller is the service's handler.
type Poller struct {
	Parts

	mu sync.Mutex
	// batchRefusedUntil is until when the orders of "seller/warehouse" are fetched one by one.
	batchRefusedUntil map[string]time.Time
	// lastWarning is the text last logged for a seller.
	lastWarning map[string]string
}

// New makes a Poller.
func New(parts Parts) *Poller {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	return &Poller{Parts: parts, batchRefusedUntil: map[string]time.Time{}, lastWarning: map[string]string{}}
}

// Run serves until ctx is done and the handlers in flight have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Read, Config: c, Log: s.Log, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics), Tracer: s.Bus.Tracer(),
	})
	s.Metrics.MustRegister(Followed(s.Sellers.All, s.Ledger, p.Now))
	serving := s.Serving(Name)
	serving.Slots = c.Slots
	return bus.Serve(ctx, s.Bus, event.PollDue, serving, p.PollDue, nil)
}

// PollDue polls one seller's due orders. It leaves a seller that another replica polls to that replica.
func (p *Poller) PollDue(ctx context.Context, d *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	events, settle, err := p.poll(ctx, m.GetSeller())
	if settle != nil {
		d.AfterStored(settle)
	}
	if err != nil {
		err = fmt.Errorf("poll %s: %w", m.GetSeller(), err)
	}
	return events, err
}

// poll returns the events to publish, and what to do once they are stored (nil: nothing).
func (p *Poller) poll(ctx context.Context, name string) ([]event.Event, func(context.Context) error, error) {
	s, ok := p.Sellers.Get(name)
	if !ok || !p.mayPoll(s) {
		return nil, nil, nil
	}
	r := &run{Poller: p, seller: s, began: p.Now(), lease: "poll/" + name, owner: p.NewOwner()}
	mine, err := p.Ledger.Lease(ctx, r.lease, r.owner, leaseFor)
	if err != nil || !mine {
		return nil, nil, err
	}
	if s.Pause != nil {
		r.probe(ctx)
	} else {
		r.lookUpDue(ctx)
	}
	return r.events, r.settle, r.result()
}

// mayPoll is false while the seller is paused and its next probe is not due. Only an operator ends an operator's pause.
func (p *Poller) mayPoll(s *seller.Seller) bool {
	return s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_OPERATOR && !p.Now().Before(s.Pause.ProbeAt)
}

// run is one tick of one seller.
type run struct {
	*Poller
	seller       *seller.Seller
	began        time.Time
	lease, owner string

	// mu guards the fields that concurrent calls write: stop and events.
	mu sync.Mutex
	// events are published; moves are written once they are stored.
	events []event.Event
	moves  []move
	// exceptions need a person, failures do not.
	exceptions, failures []error
	// standing are failures that last; missing are accepted orders that the warehouse does not know.
	standing, missing []string
	// otherAccount are the missing orders that were sent under another identity than today's.
	otherAccount []string
	// stop is why this run starts on no further orders: a fault.Wait of the warehouse, or errEnough.
	stop error
}

// errEnough ends a run whose time is up, or whose seller was just paused; the next tick continues.
var errEnough = errors.New("enough for this run")

// move is the next state of one order's ledger entry.
type move struct {
	entry ledger.Entry
	state ledger.State
	next  ledger.Following
}

// done reports whether the run must not start on further orders.
func (r *run) done(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil && (ctx.Err() != nil || r.Now().Sub(r.began) >= admitFor) {
		r.stop = errEnough
	}
	return r.stop != nil
}

// result is the error that the bus settles: first what needs a person, then a wait that the warehouse asked for, then
// failures. These are all transient here, because a run only reads from the warehouse.
func (r *run) result() error {
	r.logStanding()
	switch {
	case len(r.exceptions) > 0:
		return fault.Permanent(errors.Join(r.exceptions...))
	case fault.Of(r.stop) == fault.Wait:
		return r.stop
	case len(r.failures) > 0:
		return errors.New(errors.Join(r.failures...).Error()) // only the text: the bus would settle by the marks inside
	}
	return nil
}

// settle writes the ledger once the events are stored, and ends the lease.
func (r *run) settle(ctx context.Context) error {
	err := r.writeMoves(ctx, r.moves)
	if err == nil {
		err = r.Ledger.Unlease(ctx, r.lease, r.owner)
	}
	return err
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run) feedBreaker(err error) {
	if events, tripped := r.guard().Report(r.seller.Name(), err); tripped {
		r.stopPaused(events)
	}
}

func (r *run) guard() guard.Guard {
	return guard.Guard{Breaker: r.Breaker, Sellers: r.Sellers, ProbeAfter: r.ProbeAfter, Now: r.Now}
}

// stopPaused ends the run for a paused seller, and publishes events.
func (r *run) stopPaused(events []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = errEnough
	r.events = append(r.events, events...)
}

// nextDue is when to look up an order again that stands at status. A tenth of jitter spreads orders of one batch job that
// would otherwise come due together for ever.
func (p *Poller) nextDue(now time.Time, status documentv1.Status) time.Time {
	pause := p.OpenEvery
	switch status {
	case documentv1.Status_STATUS_CHECKED, documentv1.Status_STATUS_PACKED:
		pause = p.PackedEvery
	case documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_REJECTED, documentv1.Status_STATUS_RETURNING:
		pause = p.ShippedEvery
	}
	return now.Add(pause + time.Duration(rand.Int64N(int64(pause)/10+1)))
}
