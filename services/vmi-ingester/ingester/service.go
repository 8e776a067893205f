package ingester

import (
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{
			Name: Name,
			Consumers: []bus.Consumer{
				bus.ConsumerOf(Name, event.VMIDue),
				bus.ConsumerOf(Windows, event.VMIWindowDue),
				bus.ConsumerOf(Name+"-changed", event.SellerChanged),
				bus.ConsumerOf(Name+"-resumed", event.SellerResumed),
			},
			Reads: []string{bus.StreamStock, bus.StreamVMI},
		},
		SellerTicks: ticks,
	}, Run)
}

// ticks have the flow of each of the seller's places read.
func ticks(s *seller.Seller) []bus.Tick {
	places := map[string]proto.Message{}
	for _, p := range s.Places() {
		places[event.Place(p.Warehouse, p.ShopNo)] = &vmiv1.Due{Seller: s.Name(), Warehouse: p.Warehouse, ShopNo: p.ShopNo}
	}
	return []bus.Tick{{Kind: event.TickVMI, Every: s.Following().Every, Places: places}}
}
