package guard

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// retryHeldEvery is how often one message of a cause that only the warehouse can clear is tried again.
const retryHeldEvery = 10 * time.Minute

// Releases releases what a service holds when its cause is gone: at once when the set-up changed or the seller was
// resumed, and on ticks for causes whose end nobody publishes.
type Releases struct {
	// Find finds a seller.
	Find func(name string) (*seller.Seller, bool)
	// Replay releases what the service holds of a seller and matches.
	Replay func(ctx context.Context, sellerName string, match func(bus.DeadLetter) bool) (int, error)
	// Gone reports whether a cause is gone that no set-up can fix; decided is false when it is not one of the
	// service's own. Nil when it has none.
	Gone func(ctx context.Context, cause string) (gone, decided bool)
	// Held calls f with each message that the service holds, Fire fires the ticks of sellers: for the service's own tick.
	Held func(ctx context.Context, f func(bus.DeadLetter) error) error
	Fire func(ctx context.Context, sellers []string) error
	// Before is called before a seller's messages are looked through; nil for nothing.
	Before func(ctx context.Context, sellerName string) error
	// Apart are separate permissions: that the warehouse served the seller says nothing about them.
	Apart []string
	// Clock is the time.
	Clock func() time.Time

	mu     sync.Mutex
	served map[string]time.Time
}

// Serve serves the service's consumers for releases until ctx ends: <name>-changed and <name>-resumed. serving makes
// the settings of a consumer. ReleaseDue is the service's own to serve.
func (r *Releases) Serve(ctx context.Context, b *bus.Bus, name string, serving func(consumer string) bus.Serving) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return bus.Serve(ctx, b, event.SellerChanged, serving(name+"-changed"), r.SellerChanged, nil)
	})
	g.Go(func() error {
		return bus.Serve(ctx, b, event.SellerResumed, serving(name+"-resumed"), r.SellerResumed, nil)
	})
	return g.Wait()
}

// SellerChanged releases what waited for something that the seller's set-up now has. What waits for a trial or for
// the warehouse is tried again: no set-up shows whether that is gone.
func (r *Releases) SellerChanged(ctx context.Context, _ *bus.Delivery, m *sellerv1.Changed) ([]event.Event, error) {
	return nil, r.release(ctx, m.Seller, func(s bus.DeadLetter) bool {
		return s.Cause == seller.CauseTrial(m.Seller) || seller.OnlyWarehouseKnows(s.Cause) || r.Cleared(ctx, s.Cause)
	})
}

// SellerResumed releases what waited for the seller.
func (r *Releases) SellerResumed(ctx context.Context, _ *bus.Delivery, m *sellerv1.Resumed) ([]event.Event, error) {
	return nil, r.release(ctx, m.Seller, func(s bus.DeadLetter) bool { return r.Cleared(ctx, s.Cause) })
}

// ReleaseDue catches what the other two miss: messages held on an old view of the set-up, or for a cause whose end
// nobody publishes. Of the messages that wait for one thing at the warehouse one at a time is tried, and all of them
// once a call has succeeded since.
//
// The tick of the service fires those of the sellers with something that may go: sellers that hold nothing have none.
func (r *Releases) ReleaseDue(ctx context.Context, _ *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	if m.Seller == event.NoSeller {
		return nil, r.fire(ctx)
	}
	tried := map[string]bool{}
	return nil, r.release(ctx, m.Seller, func(s bus.DeadLetter) bool {
		if !seller.OnlyWarehouseKnows(s.Cause) {
			return r.Cleared(ctx, s.Cause)
		}
		what := m.Seller
		if seller.AboutNumber(s.Cause) || slices.ContainsFunc(r.Apart, func(p string) bool { return s.Cause == seller.CausePermission(m.Seller, p) }) {
			what = s.Cause
		}
		if s.Last.Before(r.lastServed(what)) {
			return true
		}
		if tried[s.Cause] || r.Clock().Sub(s.Last) < retryHeldEvery {
			return false
		}
		tried[s.Cause] = true
		return true
	})
}

// fire looks through all that the service holds, once for all sellers.
func (r *Releases) fire(ctx context.Context) error {
	sellers := map[string]bool{}
	err := r.Held(ctx, func(l bus.DeadLetter) error {
		if event.ValidSeller(l.Seller) && !sellers[l.Seller] && (seller.OnlyWarehouseKnows(l.Cause) || r.Cleared(ctx, l.Cause)) {
			sellers[l.Seller] = true
		}
		return nil
	})
	return errors.Join(err, r.Fire(ctx, slices.Sorted(maps.Keys(sellers))))
}

func (r *Releases) release(ctx context.Context, name string, match func(bus.DeadLetter) bool) error {
	if r.Before != nil {
		if err := r.Before(ctx, name); err != nil {
			return err
		}
	}
	n, err := r.Replay(ctx, name, match)
	if err != nil && ctx.Err() != nil && n > 0 {
		return fault.RetryAfter(time.Second, errors.New("more to release than one run may"))
	}
	return err
}

// Cleared reports whether what cause names is gone.
func (r *Releases) Cleared(ctx context.Context, cause string) bool {
	if r.Gone != nil {
		if gone, decided := r.Gone(ctx, cause); decided {
			return gone
		}
	}
	_, about, _ := strings.Cut(cause, ":")
	name, _, _ := strings.Cut(about, "/")
	s, ok := r.Find(name)
	return ok && s.Cleared(cause)
}

// Served records that the warehouse served the seller, or that it did what a cause of its own waits for: a permission
// that is Apart, a number.
func (r *Releases) Served(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.served == nil {
		r.served = map[string]time.Time{}
	}
	r.served[what] = r.Clock()
}

// lastServed is when it last did, in this process.
func (r *Releases) lastServed(what string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served[what]
}
