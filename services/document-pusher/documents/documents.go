// Package documents sends what ERPs hand in besides orders, and cancels it on request. What it does is in document/push;
// what it sends is a list of kinds.
package documents

import (
	"context"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/worker"
)

// Name is the service's name, with which its consumers' names begin.
const Name = "document-pusher"

// sweepEvery is how often it is checked whether causes of held documents are gone.
const sweepEvery = 30 * time.Second

// Config is the settings of the service.
type Config struct {
	push.Config
	// CancelDeadline is how long a request to cancel may go without an answer before that is published. The request goes on
	// being followed: a later answer is published too.
	CancelDeadline time.Duration `env:"CANCEL_DEADLINE" envDefault:"5m" help:"how long a request to cancel waits for an answer before cancel.unknown is published"`
}

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{
			Name: Name, Consumers: push.Consumers(Name, kinds()), Ticks: []bus.Tick{{Kind: event.TickDocuments, Every: sweepEvery}},
		},
	}, Run)
}

// Run serves until ctx is done and the handlers in flight have finished.
func Run(ctx context.Context, s *worker.Shell, c Config) error {
	now := s.Now
	if now == nil {
		now = time.Now
	}
	rows := kinds()
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.Name()
	}
	s.Metrics.MustRegister(push.Unknown(names, s.Sellers.All, s.Ledger, now))
	return push.Serve(ctx, push.Service{
		Name: Name, Bus: s.Bus, Ledger: s.Ledger, Sellers: s.Sellers, Names: s.Sellers.Names, Paused: guard.Paused(s.Sellers),
		Open: s.Warehouses.Open, Serving: s.Serving, Metrics: push.NewMetrics(s.Metrics), Config: c.Config, CancelDeadline: c.CancelDeadline, Log: s.Log, Now: now,
	}, rows)
}
