package pusher

import (
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/worker"
)

// sweepEvery is how often it is checked whether causes of held orders are gone.
const sweepEvery = 30 * time.Second

// Service is the worker as a row.
func Service() worker.Service {
	audits := bus.ConsumerOf(Name, event.OrderAudited)
	audits.Retired = []string{bus.StreamOrders} // audits were stored there
	return worker.Define(worker.Service{
		Service: bus.Service{Name: Name, Consumers: []bus.Consumer{
			audits,
			bus.ConsumerOf(Name+"-cancel", event.OrderCancelRequested),
			bus.ConsumerOf(Name+"-changed", event.SellerChanged),
			bus.ConsumerOf(Name+"-resumed", event.SellerResumed),
			bus.ConsumerOf(Name+"-sweep", event.ReleaseDue),
		}, Ticks: []bus.Tick{{Kind: event.TickRelease, Every: sweepEvery}}},
	}, Run)
}
