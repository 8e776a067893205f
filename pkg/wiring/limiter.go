package wiring

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

const (
	// minPatience is how long a call waits for a slot inside its handler; for a later slot the message is delayed. It
	// is longer where slots are further apart: see patience.
	minPatience = 200 * time.Millisecond
	// maxPatience bounds that, so that enough of a call's limit is left for the call.
	maxPatience = 6 * time.Second
	// ledgerDownPause is the delay when the ledger does not answer.
	ledgerDownPause = 2 * time.Second
	// permitTTL is after how long a permit that was not returned expires. It must stay above a call's limit (10 s).
	permitTTL = 12 * time.Second
)

// limiter shares one credential's budget over all replicas, through the ledger.
type limiter struct {
	blocks *blocks
	app    string
	limit  ledger.Limit
	count  *quotaCounts
}

// patience is how long a call waits for its slot: at least until the next one, for most work takes two calls in a
// row. A message that had to start over after the first call would use each slot for look-ups and never get to
// sending. The quota reserves the next slot for one caller only, so no second one waits for it.
func (l limiter) patience() time.Duration {
	next := min(1.1/l.limit.PerSecond, maxPatience.Seconds())
	return max(minPatience, time.Duration(next*float64(time.Second)))
}

// Acquire waits for a slot, or returns a fault.Throttle when it is further away than its patience, or when the
// ledger fails.
func (l limiter) Acquire(ctx context.Context, class quota.Class) (release func(), err error) {
	for left := l.patience(); ; {
		permit, wait, err := l.blocks.acquire(ctx, l.app, class, l.limit)
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// Nothing was called: this is neither an attempt nor a failure of the warehouse.
			return nil, fault.RetryAfter(ledgerDownPause, fmt.Errorf("acquire a permit: %w", err))
		}
		if wait <= 0 {
			l.count.called(class)
			return func() { l.blocks.release(permit, l.limit) }, nil
		}
		if wait > left {
			l.count.deferred(class)
			return nil, fault.Throttle(wait, fault.Reason{
				Code: "quota.wait",
				ZH:   "调用额度暂时已用完，稍后自动继续", EN: "the call budget is used up for the moment; it continues automatically",
			})
		}
		left -= wait
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}
