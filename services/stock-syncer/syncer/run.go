package syncer

import (
	"context"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/worker"
)

// Run serves until ctx is done and the handlers have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	y := New(Parts{
		Sellers: s.Sellers, Ledger: s.Ledger, Read: s.Warehouses.Stock, Set: s.Warehouses.SetStock, Config: c, Log: s.Log, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: NewMetrics(s.Metrics),
	})
	s.Metrics.MustRegister(Collector(s.Sellers.All, s.Ledger, c.Settle, y.Now))
	serving := func(consumer string, slots int) bus.Serving {
		serving := s.Serving(consumer)
		serving.Slots = slots
		return serving
	}
	share := serving(nameShare, c.Slots)
	share.HandlerLimit = shareLimit
	defer func() { // a handler whose time is up leaves its write behind
		y.acceptances.writes.Close()
		y.acceptances.writes.Wait()
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return bus.Serve(ctx, s.Bus, event.CountDue, serving(Name, c.Slots), y.CountDue, nil) })
	group.Go(func() error { return bus.Serve(ctx, s.Bus, event.ShareDue, share, y.ShareDue, nil) })
	group.Go(func() error {
		return bus.Serve(ctx, s.Bus, event.OrderAccepted, serving(nameAccepted, c.AcceptedSlots), y.Accepted, nil)
	})
	group.Go(func() error { return bus.Serve(ctx, s.Bus, event.StockNoted, serving(nameNoted, 1), y.Noted, nil) })
	return group.Wait()
}
