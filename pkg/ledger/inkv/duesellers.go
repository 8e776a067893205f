package inkv

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// DueSellers implements ledger.DueSellers from the index in memory, which has every followed document. Several processes
// each name a seller.
func (l *Ledger) DueSellers(_ context.Context, kinds []string, now time.Time, again time.Duration, limit int) (names []string, more bool, err error) {
	names, more = l.index.dueSellers(kinds, now, again, limit)
	return names, more, nil
}

// RepairDueSellers implements ledger.DueSellers: the index is filled from the documents, and needs no repair.
func (*Ledger) RepairDueSellers(context.Context, []string, []string) error { return nil }

// Instance implements ledger.DueSellers: the run of the server and its epoch, which ends when the bucket turns out to be an
// older copy, or is gone.
func (l *Ledger) Instance(ctx context.Context) (string, error) {
	e, err := l.epoch(ctx)
	if err != nil {
		return "", err
	}
	return e.Identity + " " + e.Since.Format(time.RFC3339Nano), nil
}

// dueSellers lists up to limit sellers of which something is due, the longest overdue first, and whether there are more.
// Those it lists are left out until again has passed.
func (x *index) dueSellers(kinds []string, now time.Time, again time.Duration, limit int) (names []string, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, until := range x.named {
		if !until.After(now) {
			delete(x.named, name)
		}
	}
	first := map[string]time.Time{}
	for _, e := range x.followed {
		name := e.key.Seller
		if _, lately := x.named[name]; lately || e.due.After(now) || !slices.Contains(kinds, e.key.Kind) {
			continue
		}
		if at, known := first[name]; !known || e.due.Before(at) {
			first[name] = e.due
		}
	}
	for name := range first {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(first[a].Compare(first[b]), cmp.Compare(a, b)) })
	more = len(names) > limit
	names = names[:min(len(names), limit)]
	for _, name := range names {
		x.named[name] = now.Add(again)
	}
	return names, more
}
