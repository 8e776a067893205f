// Package order is the row of sales orders in the table of kinds.
package order

import (
	"stockbridge/pkg/event"
	"stockbridge/pkg/kind"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// terms are what orders are called.
var terms = kind.Terms{
	Name:   "order",
	Topics: event.OrderOutcomes,
	Ref: func(ref *documentv1.Ref, group string) {
		ref.OrderNo, ref.OutboundNo = group, ref.No
	},
}

// Kind is sales orders.
var Kind = kind.Kind[*orderv1.Audited, *orderv1.Shipped]{
	Terms:   terms,
	Audited: event.OrderAudited,
	Channel: Channel,

	Progress: Progress,
	Unread:   Unread,
	Further:  Further,
	PhaseOf:  PhaseOf,
}
