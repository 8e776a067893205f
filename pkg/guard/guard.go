// Package guard pauses a seller whose calls keep failing, and releases what was held when its cause is gone.
//
// A Breaker counts failures, a Guard pauses the seller and says what to publish, Releases replays held messages. The package
// knows sellers, the warehouse contract's errors and the bus' dead letters; it knows no document.
package guard

import (
	"context"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
)

// writeTimeout is for writing a pause when the run's own time may be up.
const writeTimeout = 4 * time.Second

// Guard reports the results of calls to a breaker and pauses the seller when it trips.
type Guard struct {
	Breaker *Breaker
	Sellers interface {
		Pause(ctx context.Context, name string, p seller.Pause) error
	}
	// ProbeAfter is how long a paused seller rests before it is tried again.
	ProbeAfter time.Duration
	Now        func() time.Time
}

// Report takes the result of a call to the warehouse. When the breaker trips, it pauses the seller and returns the event to
// publish.
func (g Guard) Report(sellerName string, err error) (events []event.Event, tripped bool) {
	by, tripped := g.Breaker.Report(sellerName, err)
	if !tripped {
		return nil, false
	}
	return g.Pause(sellerName, seller.Pause{By: by, Reason: err.Error(), ProbeAfter: g.ProbeAfter}), true
}

// Pause pauses the seller from now on and returns the event to publish: none when another worker paused it, or when the
// pause could not be written; the next failure tries again.
func (g Guard) Pause(sellerName string, p seller.Pause) []event.Event {
	p.At = g.Now()
	p.ProbeAt = p.At.Add(p.ProbeAfter)
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if g.Sellers.Pause(ctx, sellerName, p) != nil {
		return nil
	}
	return []event.Event{PausedEvent(sellerName, p)}
}

// Paused returns a function that holds a paused seller's messages untried: bus.Serving.Paused.
func Paused(sellers interface {
	Get(name string) (*seller.Seller, bool)
}) func(sellerName string) error {
	return func(name string) error {
		if s, ok := sellers.Get(name); ok {
			return s.Paused()
		}
		return nil
	}
}
