package order

import (
	"stockbridge/pkg/kind"
	documentv1 "stockbridge/proto/document/v1"
)

// State is what is known of an order while it is followed. Its own fields are of the accepted document.
type State struct {
	kind.Seen
	// Children are its other documents by their number, with the code last published; empty when not split.
	Children map[string]Child
	// Shipped: the shipment of this document was published.
	Shipped bool
}

// Child is one of the further documents of an order.
type Child struct {
	Status  documentv1.Status
	Code    string
	Shipped bool
}
