package warehouse

import (
	"context"
	"time"
)

// OrderLister lists what the far side has, whoever sent it: what we forgot, what the ERP's own program sent, what the far
// side took by itself.
type OrderLister interface {
	// ListOrders tells the far side's numbers of the documents that came to it within [from, to), as far as it says when they
	// came: a page at a time, from page "" on, and then from next until it is "" again. Parts of split orders are among
	// them, a number may come twice, and one that changes its state meanwhile may be missed: list overlapping spans.
	ListOrders(ctx context.Context, from, to time.Time, page string) (nos []string, next string, err error)
}
