package warehouse

import (
	"context"
	"time"
)

// OrderLister lists the warehouse's documents of all senders: those that we forgot, those that the ERP's own program
// sent, those that the warehouse created itself.
type OrderLister interface {
	// ListOrders returns the warehouse's numbers of documents that arrived within [from, to), as far as the remote says when
	// they arrived. Start with page "" and continue with next until it is "". The result includes parts of split orders and
	// may repeat numbers. A document whose state changes during the listing may be missed: list overlapping spans.
	ListOrders(ctx context.Context, from, to time.Time, page string) (nos []string, next string, err error)
}
