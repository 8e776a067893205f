// Package all is the one list of services: the topology, the NATS users, `bridgectl up`, the test processes and the tests
// of settings, metrics and permissions read it. It knows their rows and nothing of what they do.
package all

import (
	"stockbridge/pkg/bus"
	"stockbridge/pkg/worker"
	"stockbridge/services/document-pusher/documents"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/status-poller/poller"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

// Services are all workers.
func Services() []worker.Service {
	return []worker.Service{
		pusher.Service(),
		documents.Service(),
		ingester.Service(),
		reconciler.Service(),
		syncer.Service(),
		poller.Service(),
	}
}

// Bus is what the bus knows of them.
func Bus() []bus.Service { return worker.BusServices(Services()) }
