package warehouse

import (
	purchasev1 "stockbridge/proto/purchase/v1"
)

// Purchaser is a warehouse that receives purchase orders.
type Purchaser interface {
	// Purchases is the channel of purchase orders. Detail is the sum of all receipts so far: of each line Received equals
	// ReceivedTotal, and Complete is not set. A line is named by its id if the warehouse repeats that, otherwise only by its
	// goods. What arrived of a line in one condition is the sum of all its rows; Quantity is the line's or the row's, as the
	// warehouse has it.
	Purchases() PurchaseChannel
}

// PurchaseChannel is everything that purchase orders need.
type PurchaseChannel interface {
	Channel[*purchasev1.Audited, *purchasev1.Received]
	Canceller
}
