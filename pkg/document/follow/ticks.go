package follow

import (
	"context"
	"errors"
	"hash/fnv"
	"sync/atomic"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// firePage is how many sellers are read from the ledger, and fired, at a time.
	firePage = 500
	// fireAgain is how soon a seller may be named again. It must stay below the interval of the ticks.
	fireAgain = 500 * time.Millisecond
	// repairSlices is in how many parts all sellers are looked through for hints that were lost, one at a tick: at 5 s a
	// minute for each replica that takes ticks.
	repairSlices = 12
)

// Ticks handles the service's tick: it finds the sellers with something due and fires theirs.
//
// # Why
//
// Sellers have no schedules of their own: 2 000 that do nothing would be ticked every few seconds. Only sellers with a
// document that is due, or with a pause whose probe is, get a tick; at most one of a seller waits, and one that waits
// keeps its place. The service's tick stands in the same queue as theirs, so the next round begins when the sellers of
// the last one are at work, however many there are.
type Ticks struct {
	*Follower
	All interface {
		// Names are all sellers, Paused those that are paused.
		Names() []string
		Paused() []*seller.Seller
	}
	Index ledger.DueSellers
	// Fire fires the ticks of sellers (bus.Bus.TickEach).
	Fire func(ctx context.Context, sellers []string) error

	round atomic.Uint32
}

// PollDue is Follower.PollDue for the tick of a seller, and fires those of the sellers for the service's.
func (t *Ticks) PollDue(ctx context.Context, d *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
	if m.GetSeller() == event.NoSeller {
		return nil, t.fire(ctx)
	}
	return t.Follower.PollDue(ctx, d, m)
}

func (t *Ticks) fire(ctx context.Context) error {
	now := t.Now()
	var probes []string
	for _, s := range t.All.Paused() {
		if t.mayLookUp(s) {
			probes = append(probes, s.Name())
		}
	}
	err := t.Fire(ctx, probes)
	kinds := make([]string, len(t.Kinds))
	for i, k := range t.Kinds {
		kinds[i] = k.Name
	}
	for more := true; more; {
		var due []string
		var dueErr error
		if due, more, dueErr = t.Index.DueSellers(ctx, kinds, now, fireAgain, firePage); dueErr != nil {
			return errors.Join(err, dueErr)
		}
		ready := due[:0]
		for _, name := range due {
			if s, known := t.Sellers.Get(name); known && s.Pause == nil {
				ready = append(ready, name)
			}
		}
		err = errors.Join(err, t.Fire(ctx, ready))
	}
	return errors.Join(err, t.repair(ctx, kinds))
}

// repair looks through the next part of all sellers.
func (t *Ticks) repair(ctx context.Context, kinds []string) error {
	part := t.round.Add(1) % repairSlices
	var names []string
	for _, name := range t.All.Names() {
		if sliceOf(name) == part {
			names = append(names, name)
		}
	}
	return t.Index.RepairDueSellers(ctx, kinds, names)
}

func sliceOf(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return h.Sum32() % repairSlices
}
