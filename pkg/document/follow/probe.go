package follow

import (
	"cmp"
	"context"
	"errors"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

// probeNumber is a number that no document has: any answer will do.
const probeNumber = "STOCKBRIDGE-PROBE"

// probe calls each account of a paused seller once, unless another process does. If all answer, it resumes the seller; if not,
// the pause grows.
func (r *run) probe(ctx context.Context) error {
	lease, owner := "poll/"+r.seller.Name(), r.NewOwner()
	mine, err := r.Ledger.Lease(ctx, lease, owner, probeFor)
	if err != nil || !mine {
		return err
	}
	events, err := r.probeAll(ctx)
	if err == nil && len(events) > 0 {
		err = r.Publish(ctx, events...)
	}
	return cmp.Or(err, r.Ledger.Unlease(ctx, lease, owner))
}

func (r *run) probeAll(ctx context.Context) ([]event.Event, error) {
	pause := *r.seller.Pause
	err := r.tryAccounts(ctx)
	if fault.Of(err) == fault.Wait {
		return nil, err
	}
	if err != nil {
		by := pause.By
		if errors.Is(err, warehouse.ErrToken) {
			by = sellerv1.Paused_BY_TOKEN
		}
		longer := min(2*max(pause.ProbeAfter, r.ProbeAfter/2), probeAtMost)
		events := r.guard().Pause(r.seller.Name(), seller.Pause{By: by, Reason: err.Error(), ProbeAfter: longer})
		if by == pause.By { // known already
			events = nil
		}
		return events, nil
	}
	// Resume before publishing: consumers of the event read the set-up. A crash in between delays held orders until the
	// next sweep.
	if err := r.Sellers.Resume(ctx, r.seller.Name(), pause.By); err != nil {
		if errors.Is(err, seller.ErrNotPaused) {
			err = nil
		}
		return nil, err
	}
	return []event.Event{guard.ResumedEvent(r.seller.Name(), pause.By, pause.At, r.Now())}, nil
}

// tryAccounts returns nil when every account of the seller answered.
func (r *run) tryAccounts(ctx context.Context) error {
	tried := map[string]bool{}
	for _, w := range r.seller.Setup.Warehouses {
		if tried[w.Account] {
			continue
		}
		tried[w.Account] = true
		if err := r.call(ctx, w.Code); err != nil && !errors.Is(err, warehouse.ErrNotPermitted) { // a refusal is an answer
			return err
		}
	}
	return nil
}

// call asks the warehouse for a document of the first kind that it takes.
func (r *run) call(ctx context.Context, code string) error {
	var err error
	for _, k := range r.Kinds {
		var ch channel
		if ch, err = r.open(k, code); err != nil {
			continue
		}
		if ch.find != nil {
			_, err = ch.find(ctx, []string{probeNumber})
		} else {
			_, err = ch.read(ctx, []string{probeNumber})
		}
		r.Metrics.Lookups.WithLabelValues("probe").Inc()
		return err
	}
	return err
}
