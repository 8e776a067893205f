package push

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Row is a kind as a service serves it, without the kind's types.
type Row interface {
	// Name is the kind's.
	Name() string
	// consumers are the service's for the kind: of what is audited, and of requests to cancel.
	consumers(service string) []bus.Consumer
	open(s Service, shared *guard.Releases) handlers
}

// handlers serve one kind.
type handlers interface {
	Gone(ctx context.Context, cause string) (gone, decided bool)
	serve(ctx context.Context, s Service) error
}

// Of makes the row of a kind that has nothing beyond what kind.Kind says. In shadow mode it waits: the ERP's own program
// sends the seller's documents.
func Of[M, D proto.Message](k kind.Kind[M, D]) Row { return row[M, D]{k} }

type row[M, D proto.Message] struct{ kind kind.Kind[M, D] }

func (r row[M, D]) Name() string { return r.kind.Name }

func (r row[M, D]) consumer(service string) string { return service + "-" + r.kind.Name }

func (r row[M, D]) consumers(service string) []bus.Consumer {
	name := r.consumer(service)
	return []bus.Consumer{bus.ConsumerOf(name, r.kind.Audited), bus.ConsumerOf(name+"-cancel", r.kind.CancelRequested)}
}

func (r row[M, D]) open(s Service, shared *guard.Releases) handlers {
	return served[M, D]{r, New(Parts[M, D]{
		Kind: r.kind, Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Open, Releases: shared, Breaker: guard.NewBreaker(s.BreakerAfter),
		Metrics: s.Metrics, Config: s.Config, CancelDeadline: s.CancelDeadline, Ours: r.ours, Admit: r.admit, Now: s.Now,
		External: func(f kind.Facts) error { return r.kind.ShadowMode(f.Seller, f.No) },
	})}
}

// ours lets no document pass that was audited while another program sends the seller's, unless a person released it after
// the switch-over.
func (r row[M, D]) ours(s *seller.Seller, f kind.Facts, d *bus.Delivery) error {
	if !s.Shadows(f.AuditedAt, d.StreamTime) || slices.Contains(d.Released, seller.CauseShadow(f.Seller, r.kind.CauseNo(f.No))) {
		return nil
	}
	return r.kind.ShadowMode(f.Seller, f.No)
}

// admit lets only the listed documents of a seller on trial pass.
func (r row[M, D]) admit(_ context.Context, s *seller.Seller, f kind.Facts, released []string) error {
	if _, on := s.OnTrial(); !on || s.TrialLists(f.No, f.Group) || slices.Contains(released, seller.CauseTrial(f.Seller)) {
		return nil
	}
	return r.kind.OnTrial(f.Seller)
}

type served[M, D proto.Message] struct {
	row[M, D]
	*Pusher[M, D]
}

func (s served[M, D]) serve(ctx context.Context, service Service) error {
	name := s.consumer(service.Name)
	main := service.Serving(name)
	main.Slots, main.MaxAttempts, main.Paused = service.Slots, service.MaxAttempts, service.Paused
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Serve(ctx, service.Bus, s.kind.Audited, main, s.Push, s.OnReject) })
	g.Go(func() error {
		return bus.Serve(ctx, service.Bus, s.kind.CancelRequested, service.Serving(name+"-cancel"), s.Cancel, s.OnCancelReject)
	})
	g.Go(func() error {
		ExpireDeadLetters(ctx, service.Bus, name, service.KeepDeadLetters, s.Now, s.Metrics, service.Log)
		return nil
	})
	return g.Wait()
}

// Consumers are a service's that serves the rows.
func Consumers(service string, rows []Row) []bus.Consumer {
	var all []bus.Consumer
	for _, r := range rows {
		all = append(all, r.consumers(service)...)
	}
	return append(all,
		bus.ConsumerOf(service+"-changed", event.SellerChanged),
		bus.ConsumerOf(service+"-resumed", event.SellerResumed),
		bus.ConsumerOf(service+"-sweep", event.DocumentsDue),
	)
}

// Service is what serves rows. All fields are required.
type Service struct {
	// Name is the service's, with which its consumers' names begin.
	Name   string
	Bus    *bus.Bus
	Ledger interface {
		ledger.Documents
		ledger.DueSellers
	}
	Sellers Sellers
	// Names lists the sellers.
	Names func() []string
	// Paused reports whether a seller is paused, for bus.Serving.
	Paused func(sellerName string) error
	// Open returns a seller's warehouse by the ERP's code, for calls of the class.
	Open func(s *seller.Seller, code string, class quota.Class) (warehouse.Identified, error)
	// Serving makes the settings of a consumer.
	Serving func(consumer string) bus.Serving
	Metrics *Metrics
	Config
	// CancelDeadline is how long a request to cancel may go without an answer before that is published.
	CancelDeadline time.Duration
	Log            zerolog.Logger
	Now            func() time.Time
}

// Serve serves the rows until ctx is done and the handlers in flight have finished.
func Serve(ctx context.Context, s Service, rows []Row) error {
	var all []handlers
	releases := &guard.Releases{
		Find: s.Sellers.Get, Apart: []string{FindPermission}, Clock: s.Now, Before: s.Ledger.BeginEpoch,
		Gone: func(ctx context.Context, cause string) (gone, decided bool) {
			for _, h := range all {
				if gone, decided = h.Gone(ctx, cause); decided {
					break
				}
			}
			return gone, decided
		},
		Replay: func(ctx context.Context, name string, match func(bus.DeadLetter) bool) (n int, err error) {
			for _, r := range rows {
				q := bus.DeadLetterQuery{Kind: event.Held, Consumer: s.Name + "-" + r.Name(), Seller: name}
				released, err := s.Bus.Release(ctx, q, match, s.ReleasePerSecond, bus.By{Who: s.Name, Why: "cause gone"})
				if n += released; err != nil {
					return n, err
				}
			}
			return n, nil
		},
		Held: func(ctx context.Context, f func(bus.DeadLetter) error) error {
			for _, r := range rows {
				if err := s.Bus.EachHeld(ctx, s.Name+"-"+r.Name(), f); err != nil {
					return err
				}
			}
			return nil
		},
		Fire: func(ctx context.Context, sellers []string) error {
			return s.Bus.TickEach(ctx, event.TickDocuments, sellers)
		},
	}
	for _, r := range rows {
		all = append(all, r.open(s, releases))
	}
	epochs := &epochs{ledger: s.Ledger, sellers: s.Names}
	if err := epochs.keep(ctx); err != nil {
		s.Log.Warn().Err(err).Msg("the ledger's epoch begins later") // with the next tick
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range all {
		g.Go(func() error { return h.serve(ctx, s) })
	}
	g.Go(func() error { return releases.Serve(ctx, s.Bus, s.Name, s.Serving) })
	g.Go(func() error {
		due := func(ctx context.Context, d *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
			if m.GetSeller() == event.NoSeller {
				if err := epochs.keep(ctx); err != nil {
					return nil, err
				}
			}
			return releases.ReleaseDue(ctx, d, m)
		}
		return bus.Serve(ctx, s.Bus, event.DocumentsDue, s.Serving(s.Name+"-sweep"), due, nil)
	})
	return g.Wait()
}
