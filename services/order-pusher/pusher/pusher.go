// Package pusher hands audited orders over to the warehouses that ship them, once, whatever fails on the way.
//
// It walks the ledger's protocol (package ledger): begin → ask when not certainly new → hand over → record → tell.
// It knows neither JetStream nor Redis nor JD; what it returns is told by the bus before the event is acked.
//
// # Why
//
// The walk returns events together with an error for what is shelved (held, failed): the ERP is told, and the
// operator finds the order on the shelf, in one step.
//
// The payload's hash is taken of what reaches the warehouse of the order, after cleaning, and not of how the ERP wrote it:
// one that publishes the same order twice in other words (128.0 and 128.00, lines in another order, a blank more) repeats
// itself, it does not change the order. It is taken of the ERP's order and not of the warehouse's request, because the
// set-up is in the latter: mending a mapping would make each redelivery of an order that was sent before look like another
// one under its number.
//
// What is refused while an order lives under its number is told as order.held for a person and never as order.failed,
// whatever is wrong with it: programs that read order.failed by its number would take the living order for failed.
package pusher

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
)

// Name is the service's name and that of its consumer.
const Name = "order-pusher"

const (
	kind = "order"
	// looksBeforeResend is how many looks must find nothing, spread over Config.ResendAfter, before a sending whose
	// answer was lost is repeated.
	looksBeforeResend = 3
	// looksAtRefused is how many looks must find nothing, besides the one at once, before a refusal is believed.
	looksAtRefused = 2
	// deniedLook is which part of Config.RefuseAfter goes by before the first of them.
	deniedLook = 12
	// firstLook is the pause before a lost answer is asked for.
	firstLook = time.Second
	// busyPause is when to come back to an order that another worker has in hand.
	busyPause = 2 * time.Second
	// callLimit must stay at or above the adapter's limit for one call, and below the handler's.
	callLimit = 10 * time.Second
	// writeLimit is for the one ledger write that ends a run; handler limit + writeLimit must stay below AckWait.
	writeLimit = 4 * time.Second
	// findOrders is the permission to ask after orders by our numbers.
	findOrders = "find-orders"
	// everyOne admits an order to a trial whatever its place.
	everyOne = math.MaxInt32
)

// Config is the settings of the service.
type Config struct {
	// Slots is how many orders are in hand at the same time. Those of one seller hold at most three quarters of them at
	// its warehouse.
	Slots int `env:"PUSH_SLOTS" envDefault:"32" help:"orders in hand at the same time"`
	// MaxAttempts is how often an order that fails without a reason to wait is tried before it is shelved.
	MaxAttempts int `env:"PUSH_MAX_ATTEMPTS" envDefault:"12" help:"failed attempts before an order is shelved"`
	// ResendAfter is how long a lost answer is looked for before the order is sent again under the same number.
	ResendAfter time.Duration `env:"PUSH_RESEND_AFTER" envDefault:"5m" help:"time over which a lost answer is looked for before sending again"`
	// RefuseAfter is how long an order that the warehouse refused in its own words is looked for before it is published as
	// failed: at once, after a twelfth of it, and after all of it. Warehouses were seen to say no and to show the document
	// seconds later; the ERP refunds what failed. Nobody waits for the failure of an order as for its success, so a minute
	// costs little. 0 publishes it after the look at once.
	RefuseAfter time.Duration `env:"PUSH_REFUSE_AFTER" envDefault:"1m" help:"how long an order that the warehouse refused in its own words is looked for before it is published as failed"`
	// SettleFor is how long after the ledger's birth a sending that it does not know of may still take effect.
	SettleFor time.Duration `env:"PUSH_SETTLE_FOR" envDefault:"30s" help:"how long a sending lost with an older ledger may still arrive"`
	// BreakerAfter is the run of failed calls that pauses a seller.
	BreakerAfter int `env:"PUSH_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	// ProbeAfter is how long a paused seller rests before it is tried again.
	ProbeAfter time.Duration `env:"PUSH_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
	// ReleasePerSecond caps how fast held orders go on when their cause is gone.
	ReleasePerSecond float64 `env:"PUSH_RELEASE_PER_SECOND" envDefault:"100" help:"held orders released a second"`
	// KeepShelved is how long a dead letter is kept: it holds a receiver. A held order that waits so long becomes a dead
	// letter. As long as the public streams keep events; 0 keeps for ever.
	KeepShelved time.Duration `env:"PUSH_KEEP_SHELVED" envDefault:"2160h" help:"how long dead letters are kept, and held orders wait before they become one; 0 is for ever"`
	// ShadowLookAfter is how long the ERP's own program is given to send an order in shadow; ShadowGiveUp is when it is taken
	// for not sent.
	ShadowLookAfter time.Duration `env:"SHADOW_LOOK_AFTER" envDefault:"10m" help:"time the ERP's own program is given before an order in shadow is compared"`
	ShadowGiveUp    time.Duration `env:"SHADOW_GIVE_UP" envDefault:"2h" help:"when an order in shadow is taken for not sent by the ERP's own program"`
}

// Sellers is what the pusher needs of the book of sellers.
type Sellers interface {
	Get(name string) (*seller.Seller, bool)
	Pause(ctx context.Context, name string, p seller.Pause) error
}

// Ledger is what the pusher needs of the ledger.
type Ledger interface {
	ledger.Documents
	ledger.Trials
}

// Parts is what a Pusher is made of. All are required but Now and NewOwner.
type Parts struct {
	Sellers Sellers
	Ledger  Ledger
	// Open gives the warehouse of a seller by the ERP's code, for calls of the class.
	Open func(s *seller.Seller, code string, class warehouse.Class) (warehouse.Orders, error)
	// Read gives the same warehouse to whoever must not send.
	Read func(s *seller.Seller, code string, class warehouse.Class) (warehouse.OrderReader, error)
	// Release lets go on what is held of a seller and matches.
	Release func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	Breaker *seller.Breaker
	Metrics *Metrics
	Config
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of one run's claim, a random one when nil.
	NewOwner func() string
}

// Pusher is the service's handlers.
type Pusher struct {
	Parts
	asker    *asker
	crowd    *crowd
	onlooker *onlooker
	absences absences
	*seller.Releases
}

// New makes a Pusher.
func New(parts Parts) *Pusher {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	p := &Pusher{Parts: parts, asker: &asker{lanes: map[warehouse.OrderFinder]*lane{}}, crowd: &crowd{of: map[seat]*seats{}}}
	p.Releases = &seller.Releases{
		Find: parts.Sellers.Get, Gone: p.gone, Apart: []string{findOrders}, Clock: parts.Now,
		Replay: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			return p.Release(ctx, name, match)
		},
	}
	p.onlooker = &onlooker{
		ledger: parts.Ledger, read: parts.Read, watch: p.watch, asker: p.asker, crowd: p.crowd, slots: parts.Slots,
		lookAfter: parts.ShadowLookAfter, giveUp: parts.ShadowGiveUp, now: parts.Now, newOwner: parts.NewOwner,
	}
	return p
}

// Run serves until ctx is done and what is in hand is finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Open, Read: s.Warehouses.Read, Config: c, Now: s.Now,
		Breaker: seller.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics),
		Release: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			q := bus.DeadLetterQuery{Kind: event.Held, Consumer: Name, Seller: name}
			return s.Bus.Release(ctx, q, match, c.ReleasePerSecond, bus.By{Who: Name, Why: "cause gone"})
		},
	})
	s.Metrics.MustRegister(Doubts(s.Sellers.All, s.Ledger, p.Now))
	main := s.Serving(Name)
	main.Slots, main.MaxAttempts, main.Paused = c.Slots, c.MaxAttempts, paused(s.Sellers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Serve(ctx, s.Bus, event.OrderAudited, main, p.Push, p.Unserved) })
	g.Go(func() error {
		return bus.Serve(ctx, s.Bus, event.OrderCancelRequested, s.Serving(Name+"-cancel"), p.CancelRequested, p.CancelUnserved)
	})
	g.Go(func() error { return p.Serve(ctx, s.Bus, Name, s.Serving) })
	g.Go(func() error {
		return bus.Serve(ctx, s.Bus, event.ReleaseDue, s.Serving(Name+"-sweep"), p.ReleaseDue, nil)
	})
	g.Go(func() error { p.age(ctx, s.Bus, s.Log); return nil })
	return g.Wait()
}

// ageEvery is how often it is looked for what has stood on the shelf too long.
const ageEvery = time.Hour

// age ends what has stood on the shelf too long, until ctx is done. Whatever fails is done by the next look, or by another
// replica's.
func (p *Pusher) age(ctx context.Context, b *bus.Bus, log zerolog.Logger) {
	for p.KeepShelved > 0 {
		erased, ended, err := b.Age(ctx, Name, p.Now(), p.KeepShelved, HeldTooLong)
		p.Metrics.Aged.WithLabelValues(event.Dead).Add(float64(erased))
		p.Metrics.Aged.WithLabelValues(event.Held).Add(float64(ended))
		if erased+ended > 0 {
			log.Warn().Int("erased", erased).Int("ended", ended).Dur("keep", p.KeepShelved).Msg("dead letters were too old and are erased, or held orders became dead letters")
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("dead letters that are too old could not be looked for")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(ageEvery):
		}
	}
}

// paused holds the events of a paused seller instead of trying them.
func paused(sellers Sellers) func(string) error {
	return func(name string) error {
		s, ok := sellers.Get(name)
		if !ok {
			return nil
		}
		return s.Paused()
	}
}

// gone tells whether a cause is gone that no set-up can mend.
func (p *Pusher) gone(ctx context.Context, cause string) (gone, decided bool) {
	what, about, _ := strings.Cut(cause, ":")
	name, no, _ := strings.Cut(about, "/")
	switch what {
	case "cancel":
		entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: name, Kind: kind, No: no})
		return errors.Is(err, ledger.ErrNoEntry) || err == nil && !entry.State.Live(), true
	case "identity":
		entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: name, Kind: kind, No: no})
		if err != nil || !entry.State.Live() {
			return err == nil || errors.Is(err, ledger.ErrNoEntry), true
		}
		s, ok := p.Sellers.Get(name)
		return ok && (entry.Identity == "" || entry.Identity == s.IdentityOf(entry.Warehouse)), true
	case "receiver":
		// A masked one is never begun: the ERP published the order again, readable, under the same number.
		entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: name, Kind: kind, No: no})
		return err == nil && entry.State != ledger.New, true
	}
	return false, false
}

// Findings is all that is wrong with an order before it is sent, and what would be sent: the same checks as Push.
func Findings(s *seller.Seller, wh warehouse.OrderPlanner, o *orderv1.Audited) (warehouse.Plan, []error) {
	plan := wh.PlanOrder(o)
	return plan, append(s.Findings(clean.Order(o).Order), plan.Findings...)
}

func ref(o *orderv1.Audited, number string) *orderv1.Ref {
	return &orderv1.Ref{
		Seller: o.GetSeller(), Shop: o.GetShop(), Warehouse: o.GetWarehouse(), OrderNo: o.GetOrderNo(),
		OutboundNo: o.GetOutboundNo(), Revision: o.GetRevision(), WarehouseNo: number,
	}
}

func reasonMessage(r fault.Reason) *orderv1.Reason {
	return &orderv1.Reason{Code: r.Code, Field: r.Field, Zh: r.ZH, En: r.EN, RemoteCode: r.RemoteCode, RemoteText: r.RemoteText}
}

func cleanedOf(list []*orderv1.Cleaned) []ledger.Cleaned {
	out := make([]ledger.Cleaned, 0, len(list))
	for _, c := range list {
		out = append(out, ledger.Cleaned{Field: c.Field, What: c.What, ZH: c.Zh, EN: c.En})
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
