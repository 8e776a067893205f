// Package order is the row of sales orders in the table of kinds.
package order

import (
	"stockbridge/pkg/event"
	"stockbridge/pkg/kind"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Kind is sales orders.
var Kind = kind.Kind[*orderv1.Audited, *orderv1.Shipped]{
	Terms: kind.Terms{
		Name:   "order",
		Topics: event.OrderOutcomes,
		Ref: func(ref *documentv1.Ref, group string) {
			ref.OrderNo, ref.OutboundNo = group, ref.No
		},
	},
	Audited: event.OrderAudited,
	Channel: Channel,
}
