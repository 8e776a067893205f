package syncer

import (
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/worker"
	stockv1 "stockbridge/proto/stock/v1"
)

// Service is the worker as a row.
func Service() worker.Service {
	return worker.Define(worker.Service{
		Service: bus.Service{Name: Name, Consumers: []bus.Consumer{
			bus.ConsumerOf(Name, event.CountDue),
			bus.ConsumerOf(nameShare, event.ShareDue),
			bus.ConsumerOf(nameAccepted, event.OrderAccepted),
			bus.ConsumerOf(nameNoted, event.StockNoted),
		}},
		SellerTicks: ticks,
	}, Run)
}

// ticks have warehouses counted and shares published. A seller that had shares once keeps its share tick: the shares of
// shops that are no longer in a pool have to be taken back.
func ticks(s *seller.Seller) []bus.Tick {
	counted := map[string]proto.Message{}
	for _, code := range Warehouses(s) {
		counted[event.Place(code)] = &stockv1.CountDue{Seller: s.Name(), Warehouse: code}
	}
	every := CountTickEvery
	if wanted := s.Setup.GetStock().GetCountEvery(); wanted != nil {
		every = min(every, wanted.AsDuration())
	}
	list := []bus.Tick{{Kind: event.TickCount, Every: every, Places: counted}}
	if len(s.Setup.GetStock().GetPools()) > 0 {
		list = append(list, bus.Tick{Kind: event.TickShare, Every: ShareTickEvery})
	}
	return list
}
