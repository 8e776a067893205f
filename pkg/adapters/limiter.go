package adapters

import (
	"context"
	"fmt"
	"sync"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

const (
	// turnLimit is how long a call waits for its turn in hand; a turn further away is for the bus to wait for.
	// It is longer where turns are further apart: see patience.
	turnLimit = 200 * time.Millisecond
	// turnMost bounds that, so that enough of a call's limit is left for the call.
	turnMost = 6 * time.Second
	// awayPause is when to come back when the ledger does not answer.
	awayPause = 2 * time.Second
	// permitFor is after how long a permit that nobody returned ends by itself. It must stay above a call's limit (10 s).
	permitFor = 12 * time.Second
)

// limiter shares one credential's budget over all replicas, through the ledger.
type limiter struct {
	quota ledger.Quota
	app   string
	limit ledger.Limit
	count *turnCounts
	// returning is what is on its way back.
	returning *sync.WaitGroup
}

// patience is how long a call waits for its turn in hand: at least until the next turn, for most work takes two calls in
// a row. Whoever had to begin anew after the first would use each turn for asking and never get to sending. The quota
// promises the next turn to one caller only, so no more wait for it.
func (l limiter) patience() time.Duration {
	next := min(1.1/l.limit.PerSecond, turnMost.Seconds())
	return max(turnLimit, time.Duration(next*float64(time.Second)))
}

// Acquire waits for a turn, or returns a fault.RetryAfter when it is further away than its patience, or cannot
// be asked for.
func (l limiter) Acquire(ctx context.Context, class string) (release func(), err error) {
	for left := l.patience(); ; {
		permit, wait, err := l.quota.Acquire(ctx, l.app, ledger.Class(class), l.limit, permitFor)
		if err != nil {
			// Nothing was called: this is neither an attempt nor a failure of the far side's.
			return nil, fault.RetryAfter(awayPause, fmt.Errorf("take a turn: %w", err))
		}
		if wait <= 0 {
			l.count.called(class)
			// Nobody waits for it: it goes along with what is written next of the order.
			return func() { l.returning.Go(func() { l.giveBack(ctx, permit) }) }, nil
		}
		if wait > left {
			l.count.putOff(class)
			return nil, fault.RetryAfter(wait, fault.Reason{
				Code: "quota.wait",
				ZH:   "调用额度暂时已用完，稍后自动继续", EN: "the call budget is used up for the moment; it goes on by itself",
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

// giveBack returns the permit although the call's ctx may have ended. When that fails it ends by itself.
func (l limiter) giveBack(ctx context.Context, p ledger.Permit) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = l.quota.Return(ctx, p)
}
