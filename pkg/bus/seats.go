package bus

import (
	"context"
	"math"
	"sync"
	"time"

	"stockbridge/pkg/event"
)

const (
	// minSeatPause is the shortest pause of a message without a seat.
	minSeatPause = 100 * time.Millisecond
	// forgetSeatsAfter is how long a seller's hold time is remembered that has nothing in hand.
	forgetSeatsAfter = time.Minute
)

// seats limit how many messages of one seller a worker has in hand, however slow what they wait for is, so that one seller
// cannot hold all slots.
type seats struct {
	slots int
	// alone reports whether there is only one seller: it may take all slots.
	alone func() bool
	now   func() time.Time

	mu sync.Mutex
	of map[string]*seat
}

// seat is one seller's.
type seat struct {
	// taken are in use, by messages of the stream, of a lane, or returned ones that found one free. extra are those in use
	// that only returned messages may take.
	taken, extra int
	// hold is how long messages hold a seat, a moving average.
	hold time.Duration
	// lastLeft is when the last one left, nextTry when the message that found none last tries again, blockedUntil when a
	// wait ends that all of the seller's messages have.
	lastLeft, nextTry, blockedUntil time.Time
	freed                           broadcast
}

func newSeats(slots int, alone func() bool) *seats {
	return &seats{slots: slots, alone: alone, now: time.Now, of: map[string]*seat{}}
}

// SeatsOf is how many of the slots one of several sellers may hold: at least one slot is left to the others.
func SeatsOf(slots int) int { return max(1, slots-max(1, slots/4)) }

func (s *seats) limit() int {
	if s.alone() {
		return math.MaxInt
	}
	return SeatsOf(s.slots)
}

// get requires mu.
func (s *seats) get(seller string) *seat {
	of := s.of[seller]
	if of == nil {
		of = &seat{}
		s.of[seller] = of
	}
	return of
}

// take takes a seat. Without a free one, leave is nil and wait is the pause before the message is tried again, at most
// nakLimit; these pauses are spread at the pace at which seats become free. A returned message may also take one of some
// more seats: it does not wait for the end of a backlog.
func (s *seats) take(seller string, returned bool) (leave func(), wait time.Duration) {
	limit := s.limit()
	s.mu.Lock()
	defer s.mu.Unlock()
	of, now := s.get(seller), s.now()
	if left := of.blockedUntil.Sub(now); left > 0 {
		return nil, min(max(left, minSeatPause), nakLimit)
	}
	count := &of.taken
	if of.taken >= limit && returned {
		count, limit = &of.extra, SeatsOf(RetrySlots(s.slots))
	}
	if *count < limit {
		if of.taken+of.extra == 0 {
			of.lastLeft = now
		}
		*count++
		return func() { s.leave(of, count, now) }, 0
	}
	if soonest := now.Add(minSeatPause); of.nextTry.Before(soonest) {
		of.nextTry = soonest
	}
	of.nextTry = of.nextTry.Add(max(of.hold, now.Sub(of.lastLeft)) / time.Duration(limit))
	if latest := now.Add(nakLimit); of.nextTry.After(latest) {
		of.nextTry = latest // what a lane takes over does not come back for a seat
	}
	return nil, of.nextTry.Sub(now)
}

// wait takes a seat when one is free; leave is nil when ctx ends first.
func (s *seats) wait(ctx context.Context, seller string) (leave func()) {
	for ctx.Err() == nil {
		n, more, blocked := s.free(seller)
		if n > 0 {
			if leave, _ = s.take(seller, false); leave != nil {
				return leave
			}
			continue
		}
		if blocked <= 0 {
			blocked = time.Minute
		}
		timer := time.NewTimer(blocked)
		select {
		case <-more:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

func (s *seats) leave(of *seat, count *int, entered time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*count--
	of.lastLeft = s.now()
	of.hold += (of.lastLeft.Sub(entered) - of.hold) / 4
	of.freed.notify()
}

// free is how many seats a seller has left. If none, more is closed when one may be free, and wait is how long all of them
// are blocked; 0 when they are not.
func (s *seats) free(seller string) (n int, more <-chan struct{}, wait time.Duration) {
	limit := s.limit()
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.get(seller)
	more = of.freed.wait()
	if wait = of.blockedUntil.Sub(s.now()); wait > 0 {
		return 0, more, wait
	}
	return max(0, min(limit-of.taken, s.slots)), more, 0
}

// block gives no seats of the seller for d.
func (s *seats) block(seller string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.get(seller)
	if until := s.now().Add(d); until.After(of.blockedUntil) {
		of.blockedUntil = until
	}
}

// forget drops sellers with nothing in hand.
func (s *seats) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.now().Add(-forgetSeatsAfter)
	for name, of := range s.of {
		if of.taken+of.extra == 0 && of.lastLeft.Before(before) && of.nextTry.Before(before) && of.blockedUntil.Before(before) {
			delete(s.of, name)
		}
	}
}

// sellerOf is the seller in a message's subject, event.NoSeller when it names none. It reads nothing else of the message.
func (w *server) sellerOf(subject string, retried bool) string {
	if retried {
		return event.SellerOfRetry(subject)
	}
	if name, err := event.SellerOn(w.topic, subject); err == nil && name != "" {
		return name
	}
	return event.NoSeller
}
