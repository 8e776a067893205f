// Package pusher sends audited orders to the warehouses that ship them, once, whatever fails on the way (document/push). It
// adds what only orders have: shadow mode, a trial, lines that may be live under one number only.
package pusher

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/order-pusher/shadow"
)

// Name is the service's name and that of its consumer.
const Name = "order-pusher"

// everyOne admits an order to a trial whatever its position.
const everyOne = math.MaxInt32

// Config is the settings of the service.
type Config struct {
	push.Config
	// ShadowLookAfter is how long the ERP's own program has to send an order in shadow before it is compared. After
	// ShadowGiveUp it counts as not sent.
	ShadowLookAfter time.Duration `env:"SHADOW_LOOK_AFTER" envDefault:"10m" help:"how long the ERP's own program has to send an order in shadow before it is compared"`
	ShadowGiveUp    time.Duration `env:"SHADOW_GIVE_UP" envDefault:"2h" help:"after which time an order in shadow counts as not sent by the ERP's own program"`
}

// Ledger is what the pusher needs of the ledger.
type Ledger interface {
	ledger.Documents
	ledger.Trials
}

// Parts is what a Pusher is made of. All are required but Now and NewOwner.
type Parts struct {
	Sellers push.Sellers
	Ledger  Ledger
	// Open returns a seller's warehouse by the ERP's code, for calls of the class.
	Open func(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	// Read returns the orders of the same warehouse without the ability to send.
	Read func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	// Release releases the matching held orders of a seller.
	Release func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	Breaker *guard.Breaker
	Metrics *push.Metrics
	Config
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// NewOwner makes the token of one run's claim, a random one when nil.
	NewOwner func() string
}

// Pusher is the service's handlers.
type Pusher struct {
	*push.Pusher[*orderv1.Audited, *orderv1.Shipped]
	trials ledger.Trials
	shadow *shadow.Runner
}

// New makes a Pusher.
func New(parts Parts) *Pusher {
	p := &Pusher{trials: parts.Ledger}
	p.Pusher = push.New(push.Parts[*orderv1.Audited, *orderv1.Shipped]{
		Kind: order.Kind, Sellers: parts.Sellers, Ledger: parts.Ledger, Release: parts.Release, Breaker: parts.Breaker,
		Metrics: parts.Metrics, Config: parts.Config.Config, Now: parts.Now, NewOwner: parts.NewOwner,
		Open: parts.Open, Admit: p.trial, FreeItem: p.freeShadowLine,
		External:  func(f kind.Facts) error { return order.ShadowWaiting(f.Seller, f.No) },
		ItemField: order.ItemField, Notes: order.Shared,
	})
	p.shadow = &shadow.Runner{
		Ledger: parts.Ledger, Seller: parts.Sellers.Get, Read: parts.Read, LookUp: p.LookUp,
		LookUpAfter: parts.ShadowLookAfter, GiveUp: parts.ShadowGiveUp, Now: p.Now, NewOwner: p.NewOwner,
	}
	return p
}

// Run serves until ctx is done and the handlers in flight have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	p := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Open, Read: s.Warehouses.Read, Config: c, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: push.NewMetrics(s.Metrics),
		Release: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (int, error) {
			q := bus.DeadLetterQuery{Kind: event.Held, Consumer: Name, Seller: name}
			return s.Bus.Release(ctx, q, match, c.ReleasePerSecond, bus.By{Who: Name, Why: "cause gone"})
		},
	})
	p.Held = func(ctx context.Context, f func(bus.DeadLetter) error) error { return s.Bus.EachHeld(ctx, Name, f) }
	p.Fire = func(ctx context.Context, sellers []string) error {
		return s.Bus.TickEach(ctx, event.TickRelease, sellers)
	}
	s.Metrics.MustRegister(push.Unknown([]string{order.Terms.Name}, s.Sellers.All, s.Ledger, p.Now))
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
	g.Go(func() error {
		push.ExpireDeadLetters(ctx, s.Bus, Name, c.KeepDeadLetters, p.Now, p.Metrics, s.Log)
		return nil
	})
	return g.Wait()
}

// Push sends one audited order and returns its outcome: order.accepted, order.held or order.failed; of one in shadow mode
// order.shadowed.
func (p *Pusher) Push(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) ([]event.Event, error) {
	if s, yes := p.shadow.Owns(d, o); yes {
		events, err := p.shadow.Push(ctx, d, s, o)
		if err != nil {
			err = fmt.Errorf("shadow %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
		}
		return events, err
	}
	return p.Pusher.Push(ctx, d, o)
}

// OnReject returns the event of an order that is held or becomes a dead letter: order.held, order.failed or, in shadow
// mode, order.shadowed.
func (p *Pusher) OnReject(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if o.ProtoReflect().IsValid() && o.OutboundNo != "" {
		about := o
		if event.ValidSeller(d.Seller) && d.Seller != o.Seller {
			about = proto.CloneOf(o)
			about.Seller = d.Seller
		}
		if _, yes := p.shadow.Owns(d, about); yes {
			return p.shadow.OnReject(d, about, err)
		}
	}
	return p.Pusher.OnReject(d, o, err)
}

// trial admits only the listed and the first n orders of a seller on trial.
func (p *Pusher) trial(ctx context.Context, s *seller.Seller, f kind.Facts, released []string) error {
	first, on := s.OnTrial()
	if !on {
		return nil
	}
	cause, besides := seller.CauseTrial(f.Seller), 0
	if s.TrialLists(f.No, f.Group) || slices.Contains(released, cause) {
		besides = everyOne
	}
	// An admitted order stays admitted: it may have to be looked up after the list changed.
	admitted, err := p.trials.Admit(ctx, seller.TrialExtras(f.Seller), f.No, besides)
	if err == nil && !admitted {
		admitted, err = p.trials.Admit(ctx, f.Seller, f.No, first)
	}
	if err != nil || admitted {
		return err
	}
	return order.Terms.OnTrial(f.Seller)
}

// freeShadowLine frees a line of one of our orders that an order in shadow holds: when that is cancelled at the warehouse, or
// when it is not found and a person has confirmed that it never will be.
func (p *Pusher) freeShadowLine(ctx context.Context, r push.Run[*orderv1.Shipped], no string) (freed bool, err error) {
	name := r.Facts.Seller
	entry, err := p.Ledger.Get(ctx, order.Terms.Key(name, no))
	if errors.Is(err, ledger.ErrNoEntry) || err == nil && (entry.Origin != ledger.External || entry.State == ledger.Accepted) {
		return false, nil // not in shadow, or adopted: then it is followed
	}
	if err != nil {
		return false, err
	}
	found, err := r.Find(ctx, entry.Warehouse, no)
	if err != nil {
		return false, err
	}
	over := len(found) > 0 && found[0].Cancelled()
	if !over && (len(found) > 0 || !slices.Contains(r.Released, seller.CauseShadow(name, no))) {
		return false, order.ShadowLine(name, no)
	}
	return shadow.FreeLines(ctx, p.Ledger, name, no, entry.Revision, p.NewOwner())
}
