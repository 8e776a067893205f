package quota

import "time"

// Constants of the pacing that both ledgers implement (inkv/pace.go explains it; inredis gets them as Lua constants).
//
// # Why
//
// GCRA with a floor for each class would need one clock for calls and one for returns and no reservations. It was tried on
// the suite's simulated traffic: callers are anonymous and a little late, so it used two thirds of the limit, and four fifths
// with returns twice as dense, where this pacing uses 97 %.
const (
	// Slack is how late a call may come without delaying the next one. Calls are spaced that much wider per second, so
	// that no second holds more than the limit all the same.
	Slack = 5 * time.Millisecond
	// Jitter is how much calls may differ in the time until the warehouse counts them. Calls are spaced that much wider
	// per second too: two thirds of the 3 % of the limit that may stay unused are for this.
	Jitter = 15 * time.Millisecond
	// ReserveAhead is how far ahead slots are reserved one by one.
	ReserveAhead = 200 * time.Millisecond
	// DeferredSpacing is the spacing of the return times beyond that, in slots: below 1, so that late callers leave no
	// slot empty.
	DeferredSpacing = 0.97
	// MinReservation and MaxReservation bound how long a reserved slot is kept for its caller.
	MinReservation, MaxReservation = 20 * time.Millisecond, time.Second
	// BlockAhead is how far ahead a block of turns reaches: what a caller that comes later, of a class that goes first, may
	// wait longer for it, and what a worker that dies with a block wastes of the limit.
	BlockAhead = 20 * time.Millisecond
	// MaxBlock is the most turns of a block.
	MaxBlock = 32
	// MaxWait is the longest wait that is given out: limits change, and other callers give up.
	MaxWait = 5 * time.Minute
	// FloorActiveFor is how long a floor accrues after its class last asked.
	FloorActiveFor = 10 * time.Second
)

// Block is the most turns that a block may have at so many calls a second; 1 is none.
func Block(perSecond float64) int {
	return int(max(1, min(MaxBlock, perSecond*BlockAhead.Seconds())))
}

// Floor is the class's reserved minimum, a share of the limit; 0 for none.
func (c Class) Floor() float64 {
	switch c {
	case Status:
		return 0.15
	case Stock:
		return 0.10
	}
	return 0
}

// Rank is the class's place in Classes, from 1. A class with credit on its floor comes before all, at rank 0.
func (c Class) Rank() int {
	for i, other := range Classes() {
		if c == other {
			return i + 1
		}
	}
	return len(Classes()) + 1
}
