package worker

import (
	"context"
	"sync"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
)

const gaugeWrites = "stockbridge_store_writes"

// storeMetrics reports at a scrape whether the stores accept writes: what Ready checks, for alerts.
func storeMetrics(b *bus.Bus, l ledger.Ledger) *pullmetrics.Collector {
	return pullmetrics.New("stores", []pullmetrics.Gauge{
		{Name: gaugeWrites, Help: "1 while NATS, or the ledger, takes writes, else 0.", Labels: []string{"store"}},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		value := func(err error) float64 {
			if err != nil {
				return 0
			}
			return 1
		}
		var asking sync.WaitGroup
		asking.Go(func() { observe(gaugeWrites, value(l.Check(ctx)), "ledger") })
		if b.Ready() == nil { // a connection that is lost has a metric of its own
			observe(gaugeWrites, value(b.CheckWrites(ctx)), "nats")
		}
		asking.Wait()
		return nil
	})
}
