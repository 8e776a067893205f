package documents

import (
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/kind/purchase"
)

// kinds are sent and cancelled.
func kinds() []push.Row {
	return []push.Row{
		push.Of(purchase.Kind),
	}
}
