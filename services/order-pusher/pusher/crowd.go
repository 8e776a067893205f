package pusher

import (
	"sync"
	"time"

	"stockbridge/pkg/bus"
)

const (
	// slowAfter is when a far side takes so long that what finds no room is parked rather than kept in the consumer,
	// where it would come again before the orders of others.
	slowAfter = time.Second
	// parkFor is longer than the bus keeps a message in the consumer.
	parkFor = 11 * time.Second
	// turnPause is how soon to come again to a far side that is not slow.
	turnPause = 100 * time.Millisecond
	// turnMost is the longest that an order without room is sent away for.
	turnMost = 5 * time.Minute
)

// crowd keeps one seller from holding all slots: of its orders only so many are at its far side at a time, however slow
// that is. The budget of calls does not see to it, for many orders wait for one call that asks after all of them.
type crowd struct {
	mu sync.Mutex
	of map[seat]*seats
}

// seat names whose orders and which slots: those of the stream, or those of what comes back.
type seat struct {
	seller   string
	returned bool
}

type seats struct {
	taken int
	// stay is how long orders stay at the far side, a moving average.
	stay time.Duration
	// moved is when the last one left, back when the last one that was sent away is to come again.
	moved, back time.Time
}

// room is how many of the slots the orders of one seller may hold; at least one slot stays to the others, if there are
// several.
func (s seat) room(slots int) int {
	if s.returned {
		slots = bus.RetrySlots(slots)
	}
	return max(1, slots-max(1, slots/4))
}

// enter takes a seat. Without one, leave is nil and wait says when to come again: one after the other, at the pace at
// which seats become free.
func (c *crowd) enter(s seat, slots int, now func() time.Time) (leave func(), wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.of[s]
	if x == nil {
		x = &seats{}
		c.of[s] = x
	}
	began, room := now(), s.room(slots)
	if x.taken == 0 {
		x.moved = began
	}
	if x.taken < room {
		x.taken++
		return func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			x.taken--
			x.moved = now()
			x.stay += (x.moved.Sub(began) - x.stay) / 4
		}, 0
	}
	stay, first := max(x.stay, began.Sub(x.moved)), turnPause
	if stay >= slowAfter {
		first = parkFor
	}
	if soonest := began.Add(first); x.back.Before(soonest) {
		x.back = soonest
	}
	x.back = x.back.Add(stay / time.Duration(room))
	return nil, min(x.back.Sub(began), turnMost)
}
