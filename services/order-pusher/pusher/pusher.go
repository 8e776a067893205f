// Package pusher sends audited orders to the warehouses that ship them, once, whatever fails on the way.
//
// It follows the ledger's protocol (package ledger): claim → look up, unless never sent → send → record → publish. It knows
// neither JetStream nor Redis nor JD. The bus publishes the returned events before it acks the message.
//
// # Why
//
// For an order that is held or failed, Push returns events together with an error: the ERP gets the event and the operator
// finds the dead letter, in one step.
//
// The payload's hash covers what reaches the warehouse, after cleaning, and not how the ERP wrote it. An ERP that publishes
// the same order with another spelling (128.0 and 128.00, lines in another order, one more blank) repeats it and does not
// change it. The hash is over the ERP's order and not over the warehouse's request, because the request contains the
// set-up: fixing a mapping would make each redelivery of an order that was sent before look like another order under its
// number.
//
// A message that is refused while an order is live under its number is published as order.held for a person and never as
// order.failed, whatever is wrong with it: programs that read order.failed by number would take the live order for failed.
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

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/order-pusher/order"
	"stockbridge/services/order-pusher/shadow"
)

// Name is the service's name and that of its consumer.
const Name = "order-pusher"

const (
	kind = order.Kind
	// lookupsBeforeResend is how many look-ups must find nothing, spread over Config.ResendAfter, before an order whose
	// answer was lost is sent again.
	lookupsBeforeResend = 3
	// lookupsBeforeRefuse is how many look-ups must find nothing, after the immediate one, before a rejection is final.
	lookupsBeforeRefuse = 2
	// firstRejectedLookup is the part of Config.RefuseAfter (1/n) that passes before the first of them.
	firstRejectedLookup = 12
	// firstLookup is the pause between a lost answer and the first look-up.
	firstLookup = time.Second
	// busyPause is the pause before an order is tried again that another worker has claimed.
	busyPause = 2 * time.Second
	// callLimit must stay at or above the adapter's limit for one call, and below the handler's.
	callLimit = 10 * time.Second
	// writeLimit is the limit of the one ledger write that ends a run; handler limit + writeLimit must stay below AckWait.
	writeLimit = 4 * time.Second
	// findOrders is the permission to look up orders by our numbers.
	findOrders = "find-orders"
	// movedMargin is how long after a change of the account a worker may still have sent under the earlier one.
	movedMargin = time.Minute
	// everyOne admits an order to a trial whatever its position.
	everyOne = math.MaxInt32
)

// Config is the settings of the service.
type Config struct {
	// Slots is how many orders are handled at the same time. One seller's orders hold at most three quarters of them.
	Slots int `env:"PUSH_SLOTS" envDefault:"32" help:"orders handled at the same time"`
	// MaxAttempts is how often an order that fails without a reason to wait is tried before it becomes a dead letter.
	MaxAttempts int `env:"PUSH_MAX_ATTEMPTS" envDefault:"12" help:"failed attempts before an order becomes a dead letter"`
	// ResendAfter is how long an order whose answer was lost is looked up before it is sent again under the same number.
	ResendAfter time.Duration `env:"PUSH_RESEND_AFTER" envDefault:"5m" help:"how long an order whose answer was lost is looked up before it is sent again"`
	// RefuseAfter is how long an order that the warehouse rejected in business words is looked up before it is published as
	// failed: at once, after a twelfth of it, and after all of it. Warehouses were seen to reject an order and to show its
	// document seconds later, and the ERP refunds what failed. Nobody waits for a failure as for a success, so a minute costs
	// little. 0 publishes it after the immediate look-up.
	RefuseAfter time.Duration `env:"PUSH_REFUSE_AFTER" envDefault:"1m" help:"how long an order that the warehouse rejected in business words is looked up before it is published as failed"`
	// SettleFor is how long after the start of the ledger's epoch a send that it does not know of may still take effect.
	SettleFor time.Duration `env:"PUSH_SETTLE_FOR" envDefault:"30s" help:"how long a send lost with an older ledger may still arrive"`
	// BreakerAfter is the number of failed calls in a row that pauses a seller.
	BreakerAfter int `env:"PUSH_BREAKER_AFTER" envDefault:"5" help:"failed calls in a row that pause a seller"`
	// ProbeAfter is how long a paused seller rests before it is tried again.
	ProbeAfter time.Duration `env:"PUSH_PROBE_AFTER" envDefault:"30s" help:"rest of a seller paused by failures before it is tried again"`
	// ReleasePerSecond limits how fast held orders are released when their cause is gone.
	ReleasePerSecond float64 `env:"PUSH_RELEASE_PER_SECOND" envDefault:"100" help:"held orders released a second"`
	// KeepDeadLetters is how long a dead letter is kept, because it contains a receiver's data. A held order that waits so
	// long becomes a dead letter. It equals the retention of the public streams; 0 keeps for ever.
	KeepDeadLetters time.Duration `env:"PUSH_KEEP_SHELVED" envDefault:"2160h" help:"how long dead letters are kept, and held orders wait before they become one; 0 is for ever"`
	// ShadowLookAfter is how long the ERP's own program has to send an order in shadow before it is compared. After
	// ShadowGiveUp it counts as not sent.
	ShadowLookAfter time.Duration `env:"SHADOW_LOOK_AFTER" envDefault:"10m" help:"how long the ERP's own program has to send an order in shadow before it is compared"`
	ShadowGiveUp    time.Duration `env:"SHADOW_GIVE_UP" envDefault:"2h" help:"after which time an order in shadow counts as not sent by the ERP's own program"`
}

// Sellers is what the pusher needs of the sellers' set-up.
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
	// Open returns a seller's warehouse by the ERP's code, for calls of the class.
	Open func(s *seller.Seller, code string, class quota.Class) (warehouse.Orders, error)
	// Read returns the same warehouse without the ability to send.
	Read func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	// Release releases the matching held orders of a seller.
	Release func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	Breaker *guard.Breaker
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
	finder   *batchFinder
	fairness *fairness
	shadow   *shadow.Runner
	notFound notFoundCache
	*guard.Releases
}

// New makes a Pusher.
func New(parts Parts) *Pusher {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.NewOwner == nil {
		parts.NewOwner = uuid.NewString
	}
	p := &Pusher{Parts: parts, finder: newBatchFinder(), fairness: &fairness{bulkheads: map[bulkheadKey]*bulkhead{}}}
	p.Releases = &guard.Releases{
		Find: parts.Sellers.Get, Gone: p.causeGone, Apart: []string{findOrders}, Clock: parts.Now,
		Replay: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			return p.Release(ctx, name, match)
		},
	}
	p.shadow = &shadow.Runner{
		Ledger: parts.Ledger, Seller: parts.Sellers.Get, Read: parts.Read, Find: p.finder.find, Report: p.feedBreaker,
		Enter: func(o *orderv1.Audited, d *bus.Delivery) (func(), time.Duration) {
			return p.fairness.enter(bulkheadKey{o.Seller, d.Returned}, p.Slots, p.Now)
		},
		LookUpAfter: parts.ShadowLookAfter, GiveUp: parts.ShadowGiveUp, Now: parts.Now, NewOwner: parts.NewOwner,
	}
	return p
}

// Run serves until ctx is done and the handlers in flight have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Open, Read: s.Warehouses.Read, Config: c, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics),
		Release: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			q := bus.DeadLetterQuery{Kind: event.Held, Consumer: Name, Seller: name}
			return s.Bus.Release(ctx, q, match, c.ReleasePerSecond, bus.By{Who: Name, Why: "cause gone"})
		},
	})
	s.Metrics.MustRegister(UnknownOrders(s.Sellers.All, s.Ledger, p.Now))
	main := s.Serving(Name)
	main.Slots, main.MaxAttempts, main.Paused = c.Slots, c.MaxAttempts, guard.Paused(s.Sellers)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Serve(ctx, s.Bus, event.OrderAudited, main, p.Push, p.OnReject) })
	g.Go(func() error {
		return bus.Serve(ctx, s.Bus, event.OrderCancelRequested, s.Serving(Name+"-cancel"), p.CancelRequested, p.OnCancelReject)
	})
	g.Go(func() error { return p.Serve(ctx, s.Bus, Name, s.Serving) })
	g.Go(func() error {
		return bus.Serve(ctx, s.Bus, event.ReleaseDue, s.Serving(Name+"-sweep"), p.ReleaseDue, nil)
	})
	g.Go(func() error { p.expireDeadLetters(ctx, s.Bus, s.Log); return nil })
	return g.Wait()
}

// expireEvery is the interval at which old dead letters are searched for.
const expireEvery = time.Hour

// expireDeadLetters erases dead letters, and turns held orders into dead letters, after KeepDeadLetters, until ctx is done.
// The next round, or another replica, repeats what fails.
func (p *Pusher) expireDeadLetters(ctx context.Context, b *bus.Bus, log zerolog.Logger) {
	for p.KeepDeadLetters > 0 {
		erased, ended, err := b.Age(ctx, Name, p.Now(), p.KeepDeadLetters, order.HeldTooLong)
		p.Metrics.Expired.WithLabelValues(event.Dead).Add(float64(erased))
		p.Metrics.Expired.WithLabelValues(event.Held).Add(float64(ended))
		if erased+ended > 0 {
			log.Warn().Int("erased", erased).Int("ended", ended).Dur("keep", p.KeepDeadLetters).Msg("erased old dead letters, or turned old held orders into dead letters")
		}
		if err != nil && ctx.Err() == nil {
			log.Warn().Err(err).Msg("old dead letters could not be searched for")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(expireEvery):
		}
	}
}

// causeGone reports whether a cause is gone that no set-up can clear.
func (p *Pusher) causeGone(ctx context.Context, cause string) (gone, decided bool) {
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
		// A masked one is never claimed: the ERP has published the order again, readable, under the same number.
		entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: name, Kind: kind, No: no})
		return err == nil && entry.State != ledger.New, true
	}
	return false, false
}

func cleanedOf(list []*documentv1.Cleaned) []ledger.Cleaned {
	out := make([]ledger.Cleaned, 0, len(list))
	for _, c := range list {
		out = append(out, ledger.Cleaned{Field: c.Field, What: c.What, ZH: c.Zh, EN: c.En})
	}
	return out
}
