// Package poller is the worker around package follow: its settings, and the kinds of documents that it follows.
package poller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/follow"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/worker"
)

// Name is the service's name and that of its consumer.
const Name = "status-poller"

// TickEvery is how often sellers with something due are looked for. It must stay at or below Config.PackedEvery, or
// orders are looked up later than the settings say.
const TickEvery = 5 * time.Second

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

// Run serves until ctx is done and the handlers in flight have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	again := func(ctx context.Context, seller string) error { return s.Bus.Tick(ctx, event.TickPoll, seller) }
	f := follow.New(follow.Parts{
		Kinds: kinds(), Sellers: s.Sellers, Ledger: s.Ledger, Open: s.Warehouses.Documents, Publish: s.Bus.Publish, Again: again, Log: s.Log, Now: s.Now,
		Breaker: guard.NewBreaker(c.BreakerAfter), Metrics: follow.NewMetrics(s.Metrics), Tracer: s.Bus.Tracer(),
		Config: follow.Config{
			OpenEvery: c.OpenEvery, SoonEvery: c.PackedEvery, LateEvery: c.ShippedEvery, FollowFor: c.FollowFor, ProbeAfter: c.ProbeAfter,
		},
	})
	s.Metrics.MustRegister(follow.Followed(f.Kinds, s.Sellers.All, s.Ledger, f.Now))
	serving := s.Serving(Name)
	serving.Slots = c.Slots
	ticks := follow.Ticks{Follower: f, All: s.Sellers, Index: s.Ledger, Fire: func(ctx context.Context, sellers []string) error {
		return s.Bus.TickEach(ctx, event.TickPoll, sellers)
	}}
	return bus.Serve(ctx, s.Bus, event.PollDue, serving, ticks.PollDue, nil)
}
