package guard

import (
	"context"
	"errors"
	"sync"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

// Breaker decides when a warehouse that keeps failing for a seller should get no more calls.
//
// # Why
//
// It only trips. The open state is the seller's Pause, which all replicas share and operators see; probing and
// closing are done there. That is why no breaker library fits: they keep the state to themselves.
type Breaker struct {
	after int
	mu    sync.Mutex
	runs  map[string]int
}

// NewBreaker makes a breaker that trips after a run of so many failed calls; 5 when after is not positive.
func NewBreaker(after int) *Breaker {
	if after <= 0 {
		after = 5
	}
	return &Breaker{after: after, runs: map[string]int{}}
}

// Report takes the result of a call to the warehouse and returns whether, and by whom, the seller is to be paused: at
// once when the credential is no longer accepted, else after a run of failed calls without any answer of the
// warehouse in between. A lost answer is a failure, a refusal in the warehouse's words is not. A call that was never
// sent (held, too early) or that we cancelled ourselves is neither.
func (b *Breaker) Report(seller string, err error) (by sellerv1.Paused_By, trip bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled): // by ourselves: we are shutting down
	case errors.Is(err, warehouse.ErrToken):
		delete(b.runs, seller)
		return sellerv1.Paused_BY_TOKEN, true
	case answered(err):
		delete(b.runs, seller)
	case fault.Of(err) == fault.Transient || fault.Of(err) == fault.Unclear:
		if b.runs[seller]++; b.runs[seller] >= b.after {
			delete(b.runs, seller)
			return sellerv1.Paused_BY_BREAKER, true
		}
	}
	return 0, false
}

func answered(err error) bool {
	if err == nil {
		return true
	}
	var no *warehouse.Rejected
	return errors.As(err, &no) || fault.Of(err) == fault.Refused && fault.ReasonOf(err, "").RemoteCode != ""
}
