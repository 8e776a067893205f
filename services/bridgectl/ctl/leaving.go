package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/services/reconciler/reconciler"
)

// leaving holds the open documents that lose their account, warehouse or shop in a changed set-up, for one reason.
type leaving struct {
	zh, en            string
	accepted, unknown int
	numbers           []string
}

// maxNumbers is how many of them are named.
const maxNumbers = 5

// leaves finds the open documents that the change affects: those that the warehouse has and that are followed, and
// those that it may have. The error says that this cannot be determined.
func (a *app) leaves(ctx context.Context, was, now *seller.Seller) ([]*leaving, error) {
	if !seller.MayLose(was, now) {
		return nil, nil
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.ledgerIsTheWorkers(ctx, now.Name()); err != nil {
		return nil, err
	}
	if err := a.ledgerKnows(ctx, l, now.Name()); err != nil {
		return nil, err
	}
	var found []*leaving
	err = l.EachUnfinished(ctx, now.Name(), orderKind, func(e ledger.Entry) error {
		zh, en := seller.Loses(was, now, e.Shop, e.Warehouse, e.Identity)
		if en == "" {
			return nil
		}
		i := slices.IndexFunc(found, func(f *leaving) bool { return f.en == en })
		if i < 0 {
			i, found = len(found), append(found, &leaving{zh: zh, en: en})
		}
		f := found[i]
		if e.State == ledger.Accepted {
			f.accepted++
		} else {
			f.unknown++
		}
		// Documents with an unknown outcome are named first: somebody may have to look for them.
		if no := e.Key.No; e.State == ledger.Accepted {
			f.numbers = append(f.numbers, no)
		} else {
			f.numbers = slices.Insert(f.numbers, 0, no)
		}
		f.numbers = f.numbers[:min(len(f.numbers), maxNumbers)]
		return nil
	})
	return found, err
}

// errOtherLedger says that the workers use another ledger.
var errOtherLedger = errors.New("orders came in, and the broker's ledger is empty: the workers keep theirs in Redis")

// ledgerIsTheWorkers finds out whether the ledger in the broker is in use, when no other is named.
func (a *app) ledgerIsTheWorkers(ctx context.Context, name string) error {
	if a.RedisURL.Reveal() != "" {
		return nil
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	bucket, err := b.Bucket(ctx, bus.BucketLedger)
	if err != nil {
		return err
	}
	keys, err := bucket.Keys(ctx, "")
	if err != nil || len(keys) > 0 {
		return err
	}
	err = b.Events(ctx, bus.EventQuery{Names: []string{event.OrderAudited.Name}, Seller: name}, func(bus.Stored) error { return errOtherLedger })
	if errors.Is(err, errOtherLedger) {
		return hint(err, "--redis-url or REDIS_URL must be the workers'")
	}
	return err
}

// errUnreconciled says that the ledger's epoch is new, so it may not know orders that the warehouse has.
var errUnreconciled = errors.New("the ledger's epoch is newer than the first orders, and the reconciler has not rebuilt their entries yet")

// ledgerKnows finds out whether the ledger knows what was audited before its epoch: an order that it lost may have been
// sent anywhere.
func (a *app) ledgerKnows(ctx context.Context, l ledger.Ledger, name string) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	var oldest time.Time
	errFirst := errors.New("the first of a stream is enough")
	for _, stream := range bus.Holding(event.OrderAudited.Name) {
		q := bus.EventQuery{Names: []string{event.OrderAudited.Name}, Seller: name, Stream: stream}
		err := b.Events(ctx, q, func(s bus.Stored) error {
			if oldest.IsZero() || s.At.Before(oldest) {
				oldest = s.At
			}
			return errFirst
		})
		if err != nil && !errors.Is(err, errFirst) {
			return err
		}
	}
	if oldest.IsZero() {
		return nil
	}
	known, since, err := reconciler.CaughtUp(ctx, l, name)
	if err != nil || known || !oldest.Before(since) {
		return err
	}
	return hint(errUnreconciled, "wait for `bridgectl reconcile`; --now asks for a run")
}

// mayLeave refuses a change that affects open documents, unless somebody gives a reason. despite is the text that is
// recorded with the act.
func (c sellerApplyCmd) mayLeave(ctx context.Context, a *app, was, now *seller.Seller) (despite string, err error) {
	found, err := a.leaves(ctx, was, now)
	if err != nil && c.Despite == "" {
		return "", hint(fmt.Errorf("cannot determine which documents are open: %w", err),
			"%s; or --despite WHY applies it unseen; nothing was applied", cmp.Or(hintOf(err), "an account, a warehouse or a shop would change under them"))
	}
	var faults seller.Faults
	for _, f := range found {
		faults = append(faults, fault.Reason{
			Code: "setup.open",
			ZH:   fmt.Sprintf("%s，但仓库仍有 %d 单在跟踪，另有 %d 单结果未知：%s", f.zh, f.accepted, f.unknown, strings.Join(f.numbers, " ")),
			EN: fmt.Sprintf("%s, while the warehouse has %s that %s followed and %d more may be there: %s",
				f.en, count(f.accepted, "order"), are(f.accepted), f.unknown, strings.Join(f.numbers, " ")),
		})
	}
	switch {
	case len(faults) > 0 && c.Despite == "":
		return "", hint(faults, "let them end first, or --despite WHY: those with an unknown outcome are then held until the set-up is restored, and the others may no longer be followed; nothing was applied")
	case len(faults) == 0 && err == nil:
		return "", nil
	}
	for _, f := range faults {
		a.note("warning: %s", a.say(f))
	}
	if err != nil {
		return "without knowing which documents are open", nil
	}
	return "while documents are open", nil
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
