package poller

import (
	"stockbridge/pkg/document/follow"
	"stockbridge/pkg/kind/order"
)

// kinds are followed.
func kinds() []follow.Kind {
	return []follow.Kind{
		follow.Of(order.Kind),
	}
}
