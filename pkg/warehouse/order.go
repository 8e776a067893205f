package warehouse

import (
	"context"
	"time"

	orderv1 "stockbridge/proto/order/v1"
)

// Orderer is a warehouse that ships sales orders.
type Orderer interface {
	// Orders is the channel of sales orders. The ERP's number is the outbound number. In Detail the first waybill is the main
	// one. The children of a document that was split hold the waybills and lines; Find does not return them.
	Orders() OrderChannel
}

// OrderChannel is everything that sales orders need.
type OrderChannel interface {
	Channel[*orderv1.Audited, *orderv1.Shipped]
	OrderReader
}

// OrderReader is the part of an OrderChannel that changes nothing at the remote: all that a seller in shadow mode gets.
type OrderReader interface {
	Reader[*orderv1.Shipped]
	Planner[*orderv1.Audited]
	Finder[*orderv1.Shipped]
	Comparer[*orderv1.Audited]
	PlatformFinder
	OrderLister
}

// PlatformFinder looks orders up by the sales platforms' order numbers.
type PlatformFinder interface {
	// FindByPlatform is Find by the platforms' numbers, at most FindLimit of them. One number may have several documents,
	// each with an outbound number of its own.
	FindByPlatform(ctx context.Context, platformNos []string) (map[string][]Document[*orderv1.Shipped], error)
}

// OrderLister lists the warehouse's documents of all senders: those that we forgot, those that the ERP's own program
// sent, those that the warehouse created itself.
type OrderLister interface {
	// List returns the warehouse's numbers of documents that arrived within [from, to), as far as the remote says when
	// they arrived. Start with page "" and continue with next until it is "". The result includes parts of split orders and
	// may repeat numbers. A document whose state changes during the listing may be missed: list overlapping spans.
	List(ctx context.Context, from, to time.Time, page string) (nos []string, next string, err error)
}
