// Package poller follows accepted orders at the warehouses that ship them and tells what becomes of them.
//
// Each run is one tick of one seller: the orders that are due are looked up a hundred a call, and only those that moved
// are asked about in full. It knows neither JetStream nor Redis nor JD; what it returns is told by the bus.
//
// # Why
//
// The push records first and tells afterwards: what the warehouse has must be known before anything else, and the
// audit that is not acked yet leads to telling it again. Here nothing would: a tick carries no fact, and once the ledger
// had moved on nobody would look at the same step again. So the events are stored first and the ledger follows
// (bus.Delivery.AfterStored). A crash in between tells the same facts again under the same ids; two pollers at one
// order do the same, and the slower one's write fails harmlessly with ledger.ErrVersion.
//
// A tick that fails for a reason that stays (a permission, a set-up) is not returned as such: nothing holds a tick until
// its cause is gone. It is logged when it changes, and the orders are looked at again later. What a person must see (two
// documents under one number, an order that is given up, cancelled after it was shipped) is told as an
// order.status.changed with a code of ours, counted, and returned once as a fault.Permanent, which the bus logs as an
// error: the ledger remembers that it was told.
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
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Name is the service's name and that of its consumer.
const Name = "status-poller"

// TickEvery is how often a seller's tick should come; whoever applies a seller sets it. It must stay at or below
// Config.PackedEvery, or orders are looked at later than the settings say.
const TickEvery = 5 * time.Second

const (
	kind = "order"
	// perRun is the most orders of one run, so that what it tells and writes fits into it.
	perRun = 1000
	// singlesPerRun is the most orders of one run where each costs a call.
	singlesPerRun = 100
	// takeFor is how long a run takes more orders. Together with one more call (10 s) it must not exceed the handler's
	// limit (25 s).
	takeFor = 15 * time.Second
	// leaseFor must stay above the handler's limit (25 s) and the writing that comes after it. A run that is killed blocks
	// its seller for as long.
	leaseFor = ledger.ClaimFor
	// singlesFor is how long a warehouse that refused the batch call is asked about each order by itself.
	singlesFor = time.Hour
	// detailsAtOnce and writesAtOnce are how many calls for details, and writes to the ledger, are under way at a time.
	// The quota decides how many of the calls really go.
	detailsAtOnce = 4
	writesAtOnce  = 16
	// probeAtMost is the longest rest between two probes of a paused seller.
	probeAtMost = 5 * time.Minute
	// writeFor is for one write when the run's own time may be up.
	writeFor = 4 * time.Second
)

// Config is the settings of the service. The four intervals trade calls against freshness: n orders of a phase cost
// n/100 calls per interval.
type Config struct {
	// OpenEvery is the pause between two looks at an order that is not packed yet.
	OpenEvery time.Duration `env:"POLL_OPEN" envDefault:"30s" help:"between two looks at an order that is not packed"`
	// PackedEvery is the same for one that is checked or packed: shipping is near, and everybody waits for it.
	PackedEvery time.Duration `env:"POLL_PACKED" envDefault:"15s" help:"between two looks at an order that is packed"`
	// ShippedEvery is the same for one that is on its way, or on its way back.
	ShippedEvery time.Duration `env:"POLL_SHIPPED" envDefault:"10m" help:"between two looks at an order that is on its way"`
	// FollowFor is how long an order is followed from its push before it is given up, which is told and shelved.
	FollowFor time.Duration `env:"FOLLOW_FOR" envDefault:"1440h" help:"how long an order is followed before it is given up"`
	// Slots is how many sellers are looked at at the same time.
	Slots int `env:"POLL_SLOTS" envDefault:"8" help:"sellers looked at at the same time"`
	// BreakerAfter is the run of failed calls that pauses a seller.
	BreakerAfter int `env:"POLL_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	// ProbeAfter is how long a paused seller rests before it is tried again. It doubles with each failed try, up to
	// five minutes.
	ProbeAfter time.Duration `env:"POLL_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
}

// Validate names what cannot be.
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

// Sellers is what the poller needs of the book of sellers.
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
	// Open gives the warehouse of a seller by the ERP's code, for calls of the class.
	Open    func(s *seller.Seller, code string, class warehouse.Class) (warehouse.OrderReader, error)
	Breaker *seller.Breaker
	Metrics *Metrics
	Config
	Log zerolog.Logger
	// Tracer begins the spans of looks that may tell something, in the order's own trace; nil for none.
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
	// singles: until when the orders of a seller's warehouse are asked about one by one.
	singles map[string]time.Time
	// warned is what was last logged of a seller.
	warned map[string]string
}

// New makes a Poller.
func New(parts Parts) *Poller {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	return &Poller{Parts: parts, singles: map[string]time.Time{}, warned: map[string]string{}}
}

// Run serves until ctx is done and what is in hand is finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Read, Config: c, Log: s.Log, Now: s.Now,
		Breaker: seller.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics), Tracer: s.Bus.Tracer(),
	})
	s.Metrics.MustRegister(Followed(s.Sellers.All, s.Ledger, p.Now))
	serving := s.Serving(Name)
	serving.Slots = c.Slots
	return bus.Serve(ctx, s.Bus, event.PollDue, serving, p.PollDue, nil)
}

// PollDue looks at what is due of one seller. A seller that another replica looks at is left to it.
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

// poll returns what to tell, and what to do when that is stored (nil: nothing).
func (p *Poller) poll(ctx context.Context, name string) ([]event.Event, func(context.Context) error, error) {
	s, ok := p.Sellers.Get(name)
	if !ok || !p.mayLook(s) {
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
		r.look(ctx)
	}
	return r.events, r.settle, r.result()
}

// mayLook is false while the seller is paused, until it is time to try whether the far side is well again. An
// operator's pause ends by an operator only.
func (p *Poller) mayLook(s *seller.Seller) bool {
	return s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_OPERATOR && !p.Now().Before(s.Pause.ProbeAt)
}

// run is one tick of one seller.
type run struct {
	*Poller
	seller       *seller.Seller
	began        time.Time
	lease, owner string

	// mu guards what the calls that are under way at the same time report.
	mu sync.Mutex
	// events are told; moves are written when they are stored.
	events []event.Event
	moves  []move
	// exceptions need a person, failures do not.
	exceptions, failures []error
	// standing is what fails for a reason that stays, absent which orders the warehouse should know and does not.
	standing, absent []string
	// earlier are those of them that were sent under another identity than today's.
	earlier []string
	// stop is why no more orders are taken in this run: a Wait of the far side's, or errEnough.
	stop error
}

// errEnough ends a run whose time is up, or whose seller was just paused; the next tick goes on.
var errEnough = errors.New("enough for this run")

// move is one order's next entry in the ledger.
type move struct {
	entry ledger.Entry
	state ledger.State
	next  ledger.Following
}

// done tells whether no more orders are to be taken.
func (r *run) done(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil && (ctx.Err() != nil || r.Now().Sub(r.began) >= takeFor) {
		r.stop = errEnough
	}
	return r.stop != nil
}

// result is what the bus settles: what needs a person first, then a wait of the far side's, then failures, which are
// all transient here because nothing but looking was done.
func (r *run) result() error {
	r.report()
	switch {
	case len(r.exceptions) > 0:
		return fault.Permanent(errors.Join(r.exceptions...))
	case fault.Of(r.stop) == fault.Wait:
		return r.stop
	case len(r.failures) > 0:
		return errors.New(errors.Join(r.failures...).Error()) // its text only: the marks in it would be settled
	}
	return nil
}

// settle moves the ledger when the events are stored, and gives the lease back.
func (r *run) settle(ctx context.Context) error {
	err := r.follow(ctx, r.moves)
	if err == nil {
		err = r.Ledger.Unlease(ctx, r.lease, r.owner)
	}
	return err
}

// watch feeds the seller's breaker with the outcome of a call and pauses the seller when it trips.
func (r *run) watch(err error) {
	by, trip := r.Breaker.Report(r.seller.Name(), err)
	if trip {
		r.pause(seller.Pause{By: by, Reason: err.Error(), ProbeAfter: r.ProbeAfter}, true)
	}
}

// pause pauses the seller from now, and tells it unless that is known.
func (r *run) pause(p seller.Pause, tell bool) {
	p.At = r.Now()
	p.ProbeAt = p.At.Add(p.ProbeAfter)
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	err := r.Sellers.Pause(ctx, r.seller.Name(), p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop = errEnough
	if err != nil || !tell {
		return // another worker paused it, or the next failure tries again
	}
	r.events = append(r.events, seller.PausedEvent(r.seller.Name(), p))
}

// next is when to look again at an order that stands at status. A tenth of jitter keeps orders of one batch job from
// coming due together for ever.
func (p *Poller) next(now time.Time, status orderv1.Status) time.Time {
	pause := p.OpenEvery
	switch status {
	case orderv1.Status_STATUS_CHECKED, orderv1.Status_STATUS_PACKED:
		pause = p.PackedEvery
	case orderv1.Status_STATUS_SHIPPED, orderv1.Status_STATUS_IN_TRANSIT, orderv1.Status_STATUS_REJECTED, orderv1.Status_STATUS_RETURNING:
		pause = p.ShippedEvery
	}
	return now.Add(pause + time.Duration(rand.Int64N(int64(pause)/10+1)))
}
