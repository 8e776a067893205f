package inkv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// Claim implements ledger.Documents.
func (l *Ledger) Claim(ctx context.Context, b ledger.ClaimRequest) (out ledger.Claimed, err error) {
	b.StreamTime, b.AuditedAt, b.Hash = b.StreamTime.UTC(), b.AuditedAt.UTC(), ledger.StoredHash(b.Origin, b.Hash)
	err = retryConflicts(ctx, func() error {
		out, err = l.claimOnce(ctx, b)
		return err
	})
	return out, wrap("claim", b.Key, err)
}

func (l *Ledger) claimOnce(ctx context.Context, b ledger.ClaimRequest) (ledger.Claimed, error) {
	current, err := l.epoch(ctx)
	if err != nil {
		return ledger.Claimed{}, err
	}
	key := entryKey(b.Key)
	var r record
	revision, err := l.get(ctx, key, &r)
	if err != nil {
		return ledger.Claimed{}, err
	}
	r.Key = b.Key
	now := l.now()

	if !r.claimedBy(b.Owner) {
		known := ledger.Claimed{Entry: r.entry(), EpochSince: current.Since, At: now}
		switch {
		case r.Hash != "" && r.Hash != b.Hash:
			return known, ledger.ErrHash
		case r.State == ledger.Accepted, r.State == ledger.Cancelled:
			return known, nil
		case r.State == ledger.Intent && now.Before(r.Until):
			return ledger.Claimed{}, ledger.ErrBusy
		}
		if r.State == ledger.Intent {
			if err := l.resolveExpired(ctx, &r, now); err != nil {
				return ledger.Claimed{}, err
			}
		}
		if r.State == ledger.Unknown && b.Identity != "" && r.Identity != "" && r.Identity != b.Identity && !b.AnyIdentity {
			return ledger.Claimed{Entry: r.entry(), EpochSince: current.Since, At: now}, ledger.ErrIdentity
		}
		if _, _, err := l.readItems(ctx, b); err != nil {
			return ledger.Claimed{}, err
		}
		before, had := r, revision
		r.claim(now, b, current, ledger.ClaimFor)
		revision, err = l.put(ctx, key, &r, had)
		if errors.Is(err, errRolledBack) {
			r.Answer.NeverSent, r.NeverSentIn = false, ""
			revision, err = l.put(ctx, key, &r, revision)
		}
		if err != nil {
			return ledger.Claimed{}, err
		}
		l.index.set(key, &r, revision)
		if err := l.takeItems(ctx, b, revision); err != nil {
			return ledger.Claimed{}, l.undoClaim(ctx, b, &before, had, revision, err)
		}
	} else if err := l.takeItems(ctx, b, revision); err != nil { // the first call may have ended between the two writes
		return ledger.Claimed{}, err
	}
	return ledger.Claimed{
		Claim:      ledger.Claim{Key: b.Key, Owner: b.Owner, Identity: b.Identity, Until: r.Until},
		Entry:      public(r.Answer.Entry),
		NeverSent:  r.Answer.NeverSent,
		EpochSince: r.Answer.EpochSince,
		At:         now,
		// As far as the watch has reported: another worker's claim from a moment ago may be missing.
		Sharing: l.index.sharing(b),
	}, nil
}

// resolveExpired resolves an INTENT whose claim expired: to UNKNOWN, or to its prior state when its items were never
// taken, because then its Claim did not return.
func (l *Ledger) resolveExpired(ctx context.Context, r *record, now time.Time) error {
	if len(r.Items) > 0 {
		var held holders
		if _, err := l.get(ctx, itemsKey(r.Key, r.Group), &held); err != nil {
			return err
		}
		for _, item := range r.Items {
			if held[item].No != r.Key.No {
				r.State, r.Identity = r.Prior, r.PriorIdentity
				if r.State == ledger.New {
					r.Hash = ""
				}
				return nil
			}
		}
	}
	r.State = ledger.Unknown
	if r.UnknownSince.IsZero() {
		r.UnknownSince = now
	}
	return nil
}

// undoClaim undoes a claim whose items turned out to be taken. What another wrote meanwhile, e.g. a wish to cancel, stays:
// the claim is then released.
func (l *Ledger) undoClaim(ctx context.Context, b ledger.ClaimRequest, before *record, had, revision uint64, why error) error {
	key := entryKey(b.Key)
	var next uint64
	var err error
	if had == 0 {
		err = l.bucket.Delete(ctx, key, revision)
	} else {
		next, err = l.put(ctx, key, before, revision)
	}
	switch {
	case errors.Is(err, errConflict), errors.Is(err, bus.ErrRevision):
		err = l.updateEntry(ctx, b.Key, func(r *record, now time.Time) (bool, error) { return r.release(now, b.Owner, "items taken") })
		if err != nil && !errors.Is(err, ledger.ErrLost) {
			return errors.Join(why, err)
		}
	case err != nil && !errors.Is(err, errRolledBack):
		return errors.Join(why, err)
	case had == 0:
		l.index.drop(key, revision)
	default:
		l.index.set(key, before, next)
	}
	return why
}

// holders of the items of a group, by item.
type holders map[string]holder

// holder is a document's number, and the revision its entry had when it took the item.
type holder struct {
	No       string
	Revision uint64
}

// readItems reads the items of b's group, or returns an ItemTaken when another live document holds one that b needs.
func (l *Ledger) readItems(ctx context.Context, b ledger.ClaimRequest) (held holders, revision uint64, err error) {
	if len(b.Items) == 0 {
		return nil, 0, nil
	}
	revision, err = l.get(ctx, itemsKey(b.Key, b.Group), &held)
	if err != nil {
		return nil, 0, err
	}
	var taken *ledger.ItemTaken
	for _, item := range b.Items {
		live, err := l.heldByOther(ctx, b.Key, held[item])
		if err != nil {
			return nil, 0, err
		}
		if live {
			by := held[item].No
			taken = &ledger.ItemTaken{Group: b.Group, Item: item, By: by, Superseded: by == b.Supersedes}
			if !taken.Superseded {
				return nil, 0, taken
			}
		}
	}
	if taken != nil {
		return nil, 0, taken
	}
	return held, revision, nil
}

// takeItems takes all items of b, whose entry was written at revision, or none.
func (l *Ledger) takeItems(ctx context.Context, b ledger.ClaimRequest, entry uint64) error {
	if len(b.Items) == 0 {
		return nil
	}
	return retryConflicts(ctx, func() error {
		held, revision, err := l.readItems(ctx, b)
		if err != nil {
			return err
		}
		return l.putItems(ctx, b, entry, held, revision, b.Items)
	})
}

// takeFreeItems takes the items of a document that the warehouse has already. An item that is live elsewhere stays
// there: the document must be recorded all the same, and an item has one holder.
func (l *Ledger) takeFreeItems(ctx context.Context, b ledger.ClaimRequest, entry uint64) error {
	if len(b.Items) == 0 {
		return nil
	}
	return retryConflicts(ctx, func() error {
		var held holders
		revision, err := l.get(ctx, itemsKey(b.Key, b.Group), &held)
		if err != nil {
			return err
		}
		var free []string
		for _, item := range b.Items {
			live, err := l.heldByOther(ctx, b.Key, held[item])
			if err != nil {
				return err
			}
			if !live {
				free = append(free, item)
			}
		}
		return l.putItems(ctx, b, entry, held, revision, free)
	})
}

func (l *Ledger) putItems(ctx context.Context, b ledger.ClaimRequest, entry uint64, held holders, revision uint64, items []string) error {
	if held == nil {
		held = holders{}
	}
	if len(held) > pruneAbove {
		l.index.prune(b.Key, held)
	}
	for _, item := range items {
		held[item] = holder{b.Key.No, entry}
	}
	_, err := l.put(ctx, itemsKey(b.Key, b.Group), held, revision)
	if errors.Is(err, errRolledBack) {
		return nil
	}
	return err
}

// heldByOther reports whether a document other than k holds an item. A replica may be behind and know an older
// revision of the holder than the item does: it is asked again for a while. After that the entry is taken as it is;
// somebody removed it by hand.
func (l *Ledger) heldByOther(ctx context.Context, k ledger.Key, by holder) (bool, error) {
	if by.No == "" || by.No == k.No {
		return false, nil
	}
	live := false
	err := retryConflicts(ctx, func() error {
		var r record
		revision, err := l.get(ctx, entryKey(ledger.Key{Seller: k.Seller, Kind: k.Kind, No: by.No}), &r)
		live = r.State.Live()
		if err == nil && revision < by.Revision {
			return errConflict
		}
		return err
	})
	if errors.Is(err, errConflict) {
		return live, nil
	}
	return live, err
}

// Accept implements ledger.Documents.
func (l *Ledger) Accept(ctx context.Context, b ledger.ClaimRequest, number string, cleaned []ledger.Cleaned, now time.Time) error {
	b.Hash = ledger.StoredHash(b.Origin, b.Hash)
	var other string
	var known bool // the entry covered these items before
	revision, err := l.updateEntryAt(ctx, b.Key, func(r *record, at time.Time) (moved bool, err error) {
		own := r.Number == number && (r.State == ledger.Accepted || r.State == ledger.Cancelled)
		if by := l.index.otherWithNumber(b.Key, b.Identity, number); by != "" && !own {
			return false, &ledger.NumberTaken{Number: number, By: by}
		}
		known = r.State.Live() && r.Hash == b.Hash
		other, moved = r.accept(at, now.UTC(), b, number, cleaned)
		known = known || !moved
		return moved, nil
	})
	if err == nil && other != "" {
		err = fmt.Errorf("%w: accepted as %s before, now as %s", ledger.ErrLost, other, number)
	}
	if err == nil && !known {
		err = l.takeFreeItems(ctx, b, revision)
	}
	return wrap("accept", b.Key, err)
}

// Refuse implements ledger.Documents.
func (l *Ledger) Refuse(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return wrap("refuse", c.Key, l.updateEntry(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		return r.refuse(now, c.Owner, why)
	}))
}

// MarkUnknown implements ledger.Documents.
func (l *Ledger) MarkUnknown(ctx context.Context, c ledger.Claim, why string) error {
	return wrap("mark unknown", c.Key, l.revive(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		return r.markUnknown(now, c, why)
	}))
}

// MarkRejected implements ledger.Documents.
func (l *Ledger) MarkRejected(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return wrap("mark rejected", c.Key, l.revive(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		return r.markRejected(now, c, why)
	}))
}

// MarkNotFound implements ledger.Documents.
func (l *Ledger) MarkNotFound(ctx context.Context, c ledger.Claim) (lookups int, unknownFor time.Duration, err error) {
	err = l.updateEntry(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		moved, err := r.markNotFound(now, c.Owner)
		lookups, unknownFor = r.Lookups, now.Sub(r.UnknownSince)
		return moved, err
	})
	if err != nil {
		return 0, 0, wrap("mark not found", c.Key, err)
	}
	return lookups, unknownFor, nil
}

// Release implements ledger.Documents.
func (l *Ledger) Release(ctx context.Context, c ledger.Claim, why string) error {
	return wrap("release", c.Key, l.updateEntry(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		return r.release(now, c.Owner, why)
	}))
}

// Resend implements ledger.Documents.
func (l *Ledger) Resend(ctx context.Context, c ledger.Claim) error {
	return wrap("resend", c.Key, l.updateEntry(ctx, c.Key, func(r *record, now time.Time) (bool, error) {
		return r.resend(now, c.Owner)
	}))
}

// Follow implements ledger.Documents.
func (l *Ledger) Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	token := rand.Text()
	return wrap("follow", e.Key, l.revive(ctx, e.Key, func(r *record, now time.Time) (bool, error) {
		return r.follow(now, e.Version, token, state, f)
	}))
}

// BeginEpoch implements ledger.Documents.
func (l *Ledger) BeginEpoch(ctx context.Context, seller string) error {
	if _, err := l.epoch(ctx); err != nil {
		return fmt.Errorf("ledger begin epoch %s: %w", seller, err)
	}
	return nil
}

// WantCancel implements ledger.Documents.
func (l *Ledger) WantCancel(ctx context.Context, k ledger.Key, c ledger.Cancel) (e ledger.Entry, err error) {
	err = l.updateEntry(ctx, k, func(r *record, now time.Time) (bool, error) {
		moved := r.wantCancel(now, k, c)
		e = r.entry()
		return moved, nil
	})
	if err != nil {
		return ledger.Entry{}, wrap("want cancelled", k, err)
	}
	return e, nil
}

// EndCancel implements ledger.Documents.
func (l *Ledger) EndCancel(ctx context.Context, k ledger.Key, requestID string, state ledger.State) error {
	err := ledger.ValidCancelEnd(state)
	if err == nil {
		err = l.updateEntry(ctx, k, func(r *record, now time.Time) (bool, error) { return r.endCancel(now, requestID, state) })
	}
	return wrap("end cancel", k, err)
}

// Erase implements ledger.Documents.
func (l *Ledger) Erase(ctx context.Context, k ledger.Key) error {
	return wrap("erase", k, l.updateEntry(ctx, k, func(r *record, now time.Time) (bool, error) { return r.erase(now) }))
}

// revive is updateEntry for a change that may make an entry live again: it then takes the items that the entry had
// freed.
func (l *Ledger) revive(ctx context.Context, k ledger.Key, do func(*record, time.Time) (moved bool, err error)) error {
	var lost ledger.ClaimRequest
	revision, err := l.updateEntryAt(ctx, k, func(r *record, now time.Time) (bool, error) {
		was := r.State.Live()
		moved, err := do(r, now)
		lost = ledger.ClaimRequest{Key: k, Group: r.Group}
		if moved && !was && r.State.Live() {
			lost.Items = r.Items
		}
		return moved, err
	})
	if err != nil {
		return err
	}
	return l.takeFreeItems(ctx, lost, revision)
}

func (l *Ledger) updateEntry(ctx context.Context, k ledger.Key, do func(*record, time.Time) (moved bool, err error)) error {
	_, err := l.updateEntryAt(ctx, k, do)
	return err
}

// updateEntryAt changes an entry by compare-and-set, keeps the index in step and returns the entry's revision.
func (l *Ledger) updateEntryAt(ctx context.Context, k ledger.Key, do func(*record, time.Time) (moved bool, err error)) (revision uint64, err error) {
	key := entryKey(k)
	err = retryConflicts(ctx, func() error {
		var r record
		revision, err = l.get(ctx, key, &r)
		if err != nil {
			return err
		}
		moved, err := do(&r, l.now())
		if err != nil || !moved {
			return err
		}
		revision, err = l.put(ctx, key, &r, revision)
		if err != nil && !errors.Is(err, errRolledBack) {
			return err
		}
		l.index.set(key, &r, revision)
		return nil
	})
	return revision, err
}

// Get implements ledger.Documents.
func (l *Ledger) Get(ctx context.Context, k ledger.Key) (ledger.Entry, error) {
	e, ok, err := l.entry(ctx, k)
	if err == nil && !ok {
		err = ledger.ErrNoEntry
	}
	return e, wrap("get", k, err)
}

func (l *Ledger) entry(ctx context.Context, k ledger.Key) (e ledger.Entry, ok bool, err error) {
	var r record
	revision, err := l.get(ctx, entryKey(k), &r)
	if revision == 0 || err != nil {
		return ledger.Entry{}, false, err
	}
	return r.entry(), true, nil
}

// Find implements ledger.Documents.
func (l *Ledger) Find(ctx context.Context, seller, no string) ([]ledger.Entry, error) {
	if no == "" {
		return nil, nil
	}
	found, err := l.entries(ctx, l.index.find(seller, no), maxFound, func(ledger.Entry) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("find %s/%s: %w", seller, no, err)
	}
	return found, nil
}

// Due implements ledger.Documents. What another process takes, only that process lists: it alone knows what it postponed.
func (l *Ledger) Due(ctx context.Context, seller, kind string, now time.Time, limit int) (found []ledger.Entry, err error) {
	others, err := l.takenByOthers(ctx, seller, kind)
	if err == nil && !others {
		found, err = l.dueEntries(ctx, l.index.due(seller, kind, now), limit)
	}
	if err != nil {
		return nil, fmt.Errorf("list due %s/%s: %w", seller, kind, err)
	}
	return found, nil
}

// TakeDue implements ledger.Documents.
func (l *Ledger) TakeDue(ctx context.Context, t ledger.Take) (taken []ledger.Entry, err error) {
	t.Until = t.Until.Truncate(time.Millisecond)
	may, err := l.mayTake(ctx, t.Seller, t.Kind, t.Until)
	if err == nil && may {
		taken, err = l.dueEntries(ctx, l.index.take(t), t.Limit)
	}
	if err != nil {
		return nil, fmt.Errorf("take due %s/%s: %w", t.Seller, t.Kind, err)
	}
	for i, e := range taken {
		taken[i] = e.Followed()
	}
	return taken, nil
}

// Postpone implements ledger.Documents.
func (l *Ledger) Postpone(_ context.Context, seller, kind string, until time.Time, later []ledger.Later) error {
	l.index.postpone(seller, kind, until.Truncate(time.Millisecond), later)
	return nil
}

// dueEntries reads the entries that the index named, as far as they are still followed. One whose stored due time is not the
// one that the index knows was followed by another process, of which the index has yet to hear.
func (l *Ledger) dueEntries(ctx context.Context, due []dueEntry, limit int) ([]ledger.Entry, error) {
	var out []ledger.Entry
	for _, d := range due {
		if len(out) == limit {
			break
		}
		e, ok, err := l.entry(ctx, d.key)
		if err != nil {
			return nil, err
		}
		if ok && e.Following != nil && !e.Following.Due.IsZero() && (e.Following.Due.Equal(d.written) || !e.Following.Due.After(d.due)) {
			e.Following.Due = d.due
			out = append(out, e)
		}
	}
	return out, nil
}

// takesFor is how much longer than what it took a process keeps the right to take, so that not every call asks for it.
const takesFor = 20 * time.Second

// takes are the rights of this process to take what is due, by their names; a process that ends without returning them blocks
// the others for the time that is left.
type takes struct {
	mu    sync.Mutex
	owner string
	until map[string]time.Time
}

func takeName(seller, kind string) string { return "follow/" + seller + "/" + kind }

// mayTake reports whether this process, and no other, takes the due entries of (seller, kind) until then.
func (l *Ledger) mayTake(ctx context.Context, seller, kind string, until time.Time) (bool, error) {
	l.takes.mu.Lock()
	defer l.takes.mu.Unlock()
	name := takeName(seller, kind)
	if !l.takes.until[name].Before(until) {
		return true, nil
	}
	lasting := until.Add(takesFor)
	got, err := l.Lease(ctx, name, l.takes.owner, lasting.Sub(l.now()))
	if got {
		l.takes.until[name] = lasting
	} else {
		delete(l.takes.until, name)
	}
	return got, err
}

func (l *Ledger) takenByOthers(ctx context.Context, seller, kind string) (bool, error) {
	var x lease
	_, err := l.get(ctx, keyOf(leases, takeName(seller, kind)), &x)
	return x.Owner != l.takes.owner && l.now().Before(x.Until), err
}

// returnTakes lets another process take at once.
func (l *Ledger) returnTakes() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	l.takes.mu.Lock()
	defer l.takes.mu.Unlock()
	for name := range l.takes.until {
		if l.Unlease(ctx, name, l.takes.owner) != nil {
			return // it ends by itself
		}
	}
}

// Refusals implements ledger.Documents.
func (l *Ledger) Refusals(ctx context.Context, seller, kind string, from time.Time, limit int) ([]ledger.Entry, error) {
	if kept := l.now().Add(-ledger.RefusalsKept); from.Before(kept) {
		from = kept
	}
	found, err := l.entries(ctx, l.index.refusals(seller, kind, from), limit, func(e ledger.Entry) bool {
		return e.State == ledger.Refused && e.Origin != ledger.External && !e.ChangedAt.Before(from)
	})
	if err != nil {
		return nil, fmt.Errorf("list refusals %s/%s: %w", seller, kind, err)
	}
	return found, nil
}

// entries reads the entries that the index named, as far as they still match.
func (l *Ledger) entries(ctx context.Context, keys []ledger.Key, limit int, fits func(ledger.Entry) bool) ([]ledger.Entry, error) {
	var out []ledger.Entry
	for _, k := range keys {
		if len(out) == limit {
			break
		}
		e, ok, err := l.entry(ctx, k)
		if err != nil {
			return nil, err
		}
		if ok && fits(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// CountFollowed implements ledger.Documents.
func (l *Ledger) CountFollowed(ctx context.Context, kind string, sellers ...string) ([]ledger.Count, error) {
	counts := l.index.countFollowed(kind, sellers)
	for i, c := range counts {
		if c.N == 0 || c.Since.After(l.now()) {
			continue
		}
		others, err := l.takenByOthers(ctx, sellers[i], kind)
		if err != nil {
			return nil, fmt.Errorf("count followed %s: %w", kind, err)
		}
		if others { // they alone know what they postponed
			counts[i].Since = l.now()
		}
	}
	return counts, nil
}

// CountUnknown implements ledger.Documents.
func (l *Ledger) CountUnknown(_ context.Context, kind string, sellers ...string) ([]ledger.Count, error) {
	return l.index.countUnknown(kind, sellers), nil
}

// EachUnfinished implements ledger.Documents.
func (l *Ledger) EachUnfinished(ctx context.Context, seller, kind string, each func(ledger.Entry) error) error {
	for _, k := range l.index.unfinished(seller, kind) {
		e, ok, err := l.entry(ctx, k)
		if err != nil {
			return wrap("list unfinished", k, err)
		}
		if !ok {
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) sweep(ctx context.Context) {
	for {
		l.sweepEntries(ctx)
		l.sweepBooks(ctx)
		select {
		case <-time.After(sweepEvery):
		case <-ctx.Done():
			return
		}
	}
}

// sweepEntries removes what was kept long enough. What cannot be removed now is found by the next sweep.
func (l *Ledger) sweepEntries(ctx context.Context) {
	before := l.now().Add(-keepSettled)
	for _, k := range l.index.expired(before) {
		var r record
		revision, err := l.get(ctx, entryKey(k), &r)
		if err != nil || revision == 0 || !r.ChangedAt.Before(before) {
			continue
		}
		if l.sweepItems(ctx, r.Entry) != nil || l.bucket.Delete(ctx, entryKey(k), revision) != nil {
			continue
		}
		l.index.drop(entryKey(k), revision)
	}
	keys, err := l.bucket.Keys(ctx, attempts)
	if err != nil {
		return
	}
	for _, key := range keys {
		var c count
		if revision, err := l.get(ctx, key, &c); err == nil && revision != 0 && l.now().Sub(c.At) > keepAttempts {
			_ = l.bucket.Delete(ctx, key, revision)
		}
	}
}

// sweepItems removes the items that an entry holds, before the entry is deleted: an item never names a deleted entry.
func (l *Ledger) sweepItems(ctx context.Context, e ledger.Entry) error {
	if len(e.Items) == 0 {
		return nil
	}
	key := itemsKey(e.Key, e.Group)
	return retryConflicts(ctx, func() error {
		var held holders
		revision, err := l.get(ctx, key, &held)
		if err != nil || revision == 0 {
			return err
		}
		maps.DeleteFunc(held, func(_ string, by holder) bool { return by.No == e.Key.No })
		if len(held) == 0 {
			return l.bucket.Delete(ctx, key, revision)
		}
		_, err = l.put(ctx, key, held, revision)
		if errors.Is(err, errRolledBack) {
			return nil
		}
		return err
	})
}

func wrap(verb string, k ledger.Key, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, k, err)
}
