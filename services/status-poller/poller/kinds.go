package poller

import (
	"stockbridge/pkg/document/follow"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/kind/purchase"
)

// kinds are followed.
func kinds() []follow.Kind {
	return []follow.Kind{
		follow.Of(order.Kind),
		follow.Of(purchase.Kind),
	}
}
