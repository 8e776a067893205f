package push

import (
	"sync"
	"time"

	"stockbridge/pkg/bus"
)

const (
	// slowAfter is from which hold time on a warehouse counts as slow. Then messages without a slot are delayed by the bus,
	// and not kept in the consumer, where they would be delivered before other sellers' orders.
	slowAfter = time.Second
	// slowPause must stay longer than the bus keeps a message in the consumer (10 s).
	slowPause = 11 * time.Second
	// minPause is the shortest pause of an order whose warehouse is not slow.
	minPause = 100 * time.Millisecond
	// maxPause is the longest pause of an order without a slot.
	maxPause = 5 * time.Minute
)

// fairness is a bulkhead per seller: it limits how many of a seller's documents are at the warehouse at a time, however
// slow that is, so that one seller cannot hold all slots. The call quota does not do this: many orders wait for one batched
// call.
type fairness struct {
	mu        sync.Mutex
	bulkheads map[bulkheadKey]*bulkhead
}

func newFairness() *fairness { return &fairness{bulkheads: map[bulkheadKey]*bulkhead{}} }

// bulkheadKey names the seller and the slots: those of the stream, or those of retries.
type bulkheadKey struct {
	seller   string
	returned bool
}

type bulkhead struct {
	inUse int
	// holdTime is how long orders hold a slot, a moving average.
	holdTime time.Duration
	// lastLeft is when the last order left; nextReturn is when the order delayed last is due again.
	lastLeft, nextReturn time.Time
}

// limit is how many of the slots the orders of one seller may hold. At least one slot is left to other sellers, if there
// are several slots.
func (k bulkheadKey) limit(slots int) int {
	if k.returned {
		slots = bus.RetrySlots(slots)
	}
	return max(1, slots-max(1, slots/4))
}

// enter takes a slot. Without a free one, leave is nil and wait is the pause before the order tries again. These pauses are
// spread at the pace at which slots become free.
func (f *fairness) enter(k bulkheadKey, slots int, now func() time.Time) (leave func(), wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.bulkheads[k]
	if b == nil {
		b = &bulkhead{}
		f.bulkheads[k] = b
	}
	entered, limit := now(), k.limit(slots)
	if b.inUse == 0 {
		b.lastLeft = entered
	}
	if b.inUse < limit {
		b.inUse++
		return func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			b.inUse--
			b.lastLeft = now()
			b.holdTime += (b.lastLeft.Sub(entered) - b.holdTime) / 4
		}, 0
	}
	hold, pause := max(b.holdTime, entered.Sub(b.lastLeft)), minPause
	if hold >= slowAfter {
		pause = slowPause
	}
	if soonest := entered.Add(pause); b.nextReturn.Before(soonest) {
		b.nextReturn = soonest
	}
	b.nextReturn = b.nextReturn.Add(hold / time.Duration(limit))
	return nil, min(b.nextReturn.Sub(entered), maxPause)
}
