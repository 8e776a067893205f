package reconciler

import (
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
)

// audits is the consumer that takes audits. A service does not import another: a test compares this with services/all.
func audits() bus.Consumer { return bus.ConsumerOf(pusherName, event.OrderAudited) }

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{
			Name: Name, Consumers: []bus.Consumer{bus.ConsumerOf(Name, event.ReconcileDue)}, Oversees: []bus.Consumer{audits()},
		},
		SellerTicks: func(*seller.Seller) []bus.Tick {
			return []bus.Tick{{Kind: event.TickReconcile, Every: TickEvery}}
		},
	}, Run)
}
