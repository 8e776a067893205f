package inkv

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
)

const (
	// rewatchPause is the pause between a watch that ended and the next.
	rewatchPause = time.Second
	// serverEvery is how often the watch checks whether it talks to another server now, and starts again. Without it,
	// it would notice too, but late.
	serverEvery = time.Second
)

// index is the in-memory part of each entry, by its key in the bucket.
type index struct {
	mu  sync.Mutex
	all map[string]indexEntry
	// followed are the followed entries, unknowns those whose send is unknown.
	followed, unknowns map[string]indexEntry
	// platforms are the keys of entries by seller and platform number, for every Claim.
	platforms map[[2]string]map[string]bool
	// numbers are the keys of entries by seller and the warehouse's number, for every Accept.
	numbers map[[2]string]map[string]bool
	// named are the sellers that dueSellers listed lately, and until when it leaves them out.
	named map[string]time.Time
	// watch counts the watches. What an earlier one reported stays until the present one has caught up.
	watch int
}

// indexEntry is one entry as the index knows it.
type indexEntry struct {
	key           ledger.Key
	group, number string
	identity      string
	warehouse     string
	// otherNos are further numbers that it is found by: first the platform's (platforms of them), then waybills.
	otherNos          []string
	platforms         int
	due, unknownSince time.Time
	// writtenDue and token are of the last Follow. due may be later: taken, or postponed since then.
	writtenDue    time.Time
	token         string
	taken         bool
	live, settled bool
	refused       bool
	changed       time.Time
	revision      uint64
	watch         int
}

func newIndex() index {
	return index{
		all: map[string]indexEntry{}, followed: map[string]indexEntry{}, unknowns: map[string]indexEntry{},
		platforms: map[[2]string]map[string]bool{}, numbers: map[[2]string]map[string]bool{}, named: map[string]time.Time{},
	}
}

// beginWatch counts another watch.
func (x *index) beginWatch() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watch++
}

// dropStale removes what only an earlier watch reported: the present one has reported everything, so it is gone.
func (x *index) dropStale() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, e := range x.all {
		if e.watch != x.watch {
			x.forget(key)
		}
	}
}

// set records a write. A write older than the known one is ignored: the watch lags behind our own writes.
func (x *index) set(key string, r *record, revision uint64) {
	e := indexEntry{key: r.Key, group: r.Group, number: r.Number, identity: r.Identity, warehouse: r.Warehouse, unknownSince: r.UnknownSince, changed: r.ChangedAt, revision: revision}
	e.otherNos, e.platforms = r.PlatformNos, len(r.PlatformNos)
	e.token = r.Token
	if r.Following != nil {
		e.due, e.writtenDue = r.Following.Due, r.Following.Due
		e.otherNos = slices.Concat(r.PlatformNos, r.Following.Numbers)
	}
	e.live = r.State.Live()
	e.refused = r.State == ledger.Refused && !r.external()
	e.settled = e.due.IsZero() && r.State != ledger.Intent && (r.State != ledger.Unknown || r.external())
	x.mu.Lock()
	defer x.mu.Unlock()
	if was := x.all[key]; was.watch == x.watch && was.revision >= revision {
		return
	}
	if was := x.all[key]; was.token == r.Token && was.writtenDue.Equal(e.due) && !e.due.IsZero() {
		e.due, e.taken = was.due, was.taken // not written by Follow: it stays taken or postponed
	}
	e.watch = x.watch
	x.forget(key)
	x.all[key] = e
	for _, no := range e.otherNos[:e.platforms] {
		add(x.platforms, e.key.Seller, no, key)
	}
	if e.number != "" {
		add(x.numbers, e.key.Seller, e.number, key)
	}
	if e.due.IsZero() {
		delete(x.followed, key)
	} else {
		x.followed[key] = e
	}
	if e.unknownSince.IsZero() || r.external() {
		delete(x.unknowns, key)
	} else {
		x.unknowns[key] = e
	}
}

func (x *index) drop(key string, revision uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was := x.all[key]; was.watch != x.watch || was.revision <= revision {
		x.forget(key)
	}
}

// forget removes an entry; the caller holds the lock.
func (x *index) forget(key string) {
	was := x.all[key]
	for _, no := range was.otherNos[:was.platforms] {
		remove(x.platforms, was.key.Seller, no, key)
	}
	remove(x.numbers, was.key.Seller, was.number, key)
	delete(x.all, key)
	delete(x.followed, key)
	delete(x.unknowns, key)
}

func add(keys map[[2]string]map[string]bool, seller, no, key string) {
	by := [2]string{seller, no}
	if keys[by] == nil {
		keys[by] = map[string]bool{}
	}
	keys[by][key] = true
}

func remove(keys map[[2]string]map[string]bool, seller, no, key string) {
	by := [2]string{seller, no}
	if delete(keys[by], key); len(keys[by]) == 0 {
		delete(keys, by)
	}
}

// otherWithNumber names the other document of k's kind that has the warehouse's number; "" for none. Another
// account's numbers are separate.
func (x *index) otherWithNumber(k ledger.Key, identity, number string) (of string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key := range x.numbers[[2]string{k.Seller, number}] {
		e := x.all[key]
		if e.key.Kind == k.Kind && e.key.No != k.No && (e.identity == "" || identity == "" || e.identity == identity) && (of == "" || e.key.No < of) {
			of = e.key.No // the smallest, so that each ledger names the same
		}
	}
	return of
}

// sharing lists live documents of other groups that share a platform number with b.
func (x *index) sharing(b ledger.ClaimRequest) (found []ledger.Sharing) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, no := range b.PlatformNos {
		for key := range x.platforms[[2]string{b.Key.Seller, no}] {
			e := x.all[key]
			if e.key.Kind == b.Key.Kind && e.key.No != b.Key.No && e.group != b.Group && e.group != "" && e.live {
				found = append(found, ledger.Sharing{PlatformNo: no, Group: e.group, No: e.key.No})
			}
		}
	}
	return ledger.SortSharing(found)
}

// due lists what is due, the longest overdue first.
func (x *index) due(seller, kind string, now time.Time) []dueEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.followedBy(seller, kind, func(e indexEntry) bool { return !e.due.After(now) })
}

// dueEntry is a followed entry and when it is due, or was before it was taken.
type dueEntry struct {
	key ledger.Key
	due time.Time
	// written is the due time that is stored.
	written time.Time
}

// followedBy lists followed entries by when they are due; the caller holds the lock.
func (x *index) followedBy(seller, kind string, fits func(indexEntry) bool) []dueEntry {
	var found []dueEntry
	for _, e := range x.followed {
		if e.key.Seller == seller && e.key.Kind == kind && fits(e) {
			found = append(found, dueEntry{e.key, e.due, e.writtenDue})
		}
	}
	slices.SortFunc(found, func(a, b dueEntry) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.key.No, b.key.No))
	})
	return found
}

// take takes entries as TakeDue does, as far as the index knows.
func (x *index) take(t ledger.Take) []dueEntry {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := x.followedBy(t.Seller, t.Kind, func(e indexEntry) bool {
		if t.Room == nil {
			return !e.due.After(t.Due)
		}
		return e.due.After(t.Due) && (t.Before.IsZero() || e.due.Before(t.Before))
	})
	found = found[:min(len(found), t.Limit)]
	room := maps.Clone(t.Room)
	return slices.DeleteFunc(found, func(d dueEntry) bool {
		key := entryKey(d.key)
		e := x.followed[key]
		if t.Room != nil {
			if e.taken || room[e.warehouse] <= 0 {
				return true
			}
			room[e.warehouse]--
		}
		e.due, e.taken = t.Until, true
		x.all[key], x.followed[key] = e, e
		return false
	})
}

// postpone moves the due times of what was taken until until.
func (x *index) postpone(seller, kind string, until time.Time, later []ledger.Later) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range later {
		key := entryKey(ledger.Key{Seller: seller, Kind: kind, No: l.No})
		if e, ok := x.followed[key]; ok && e.taken && e.due.Equal(until) {
			e.due, e.taken = l.Due, false
			x.all[key], x.followed[key] = e, e
		}
	}
}

// refusals lists what was refused since from, the earliest first.
func (x *index) refusals(seller, kind string, from time.Time) []ledger.Key {
	var found []indexEntry
	x.mu.Lock()
	for _, e := range x.all {
		if e.refused && e.key.Seller == seller && e.key.Kind == kind && !e.changed.Before(from) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b indexEntry) int {
		return cmp.Or(a.changed.Compare(b.changed), cmp.Compare(a.key.No, b.key.No))
	})
	return keysOf(found)
}

func (x *index) countFollowed(kind string, sellers []string) []ledger.Count {
	x.mu.Lock()
	defer x.mu.Unlock()
	return countEach(x.followed, kind, sellers, func(e indexEntry) time.Time { return e.due })
}

func (x *index) countUnknown(kind string, sellers []string) []ledger.Count {
	x.mu.Lock()
	defer x.mu.Unlock()
	return countEach(x.unknowns, kind, sellers, func(e indexEntry) time.Time { return e.unknownSince })
}

// countEach walks the set once, however many sellers there are.
func countEach(set map[string]indexEntry, kind string, sellers []string, since func(indexEntry) time.Time) []ledger.Count {
	counts, of := make([]ledger.Count, len(sellers)), make(map[string]int, len(sellers))
	for i, seller := range sellers {
		of[seller] = i
	}
	for _, e := range set {
		i, asked := of[e.key.Seller]
		if !asked || e.key.Kind != kind {
			continue
		}
		c := &counts[i]
		if at := since(e); c.N == 0 || at.Before(c.Since) {
			c.Since = at
		}
		c.N++
	}
	return counts
}

// unfinished lists what is followed or unknown.
func (x *index) unfinished(seller, kind string) []ledger.Key {
	found := map[ledger.Key]bool{}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, set := range []map[string]indexEntry{x.followed, x.unknowns} {
		for _, e := range set {
			if e.key.Seller == seller && e.key.Kind == kind {
				found[e.key] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// find lists the documents that have the number, the newest change first.
func (x *index) find(seller, no string) []ledger.Key {
	var found []indexEntry
	x.mu.Lock()
	for _, e := range x.all {
		if e.key.Seller == seller && (e.key.No == no || e.group == no || e.number == no || slices.Contains(e.otherNos, no)) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b indexEntry) int { return b.changed.Compare(a.changed) })
	return keysOf(found)
}

// prune drops holders that stopped being live after they took their item. It keeps those that the index does not know
// for certain.
func (x *index) prune(k ledger.Key, held holders) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(held, func(_ string, by holder) bool {
		e, known := x.all[entryKey(ledger.Key{Seller: k.Seller, Kind: k.Kind, No: by.No})]
		return known && !e.live && e.revision >= by.Revision
	})
}

// expired lists what has been settled since before a time.
func (x *index) expired(before time.Time) []ledger.Key {
	var found []indexEntry
	x.mu.Lock()
	for _, e := range x.all {
		if e.settled && e.changed.Before(before) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	return keysOf(found)
}

func keysOf(found []indexEntry) []ledger.Key {
	keys := make([]ledger.Key, len(found))
	for i, e := range found {
		keys[i] = e.key
	}
	return keys
}

// watch fills the index until ctx ends. filled is closed when the whole bucket was read once.
func (l *Ledger) watch(ctx context.Context, filled chan struct{}) {
	for {
		l.index.beginWatch()
		l.watchOnce(ctx, func() {
			l.index.dropStale()
			if filled != nil {
				close(filled)
				filled = nil
			}
		})
		select {
		case <-time.After(rewatchPause):
		case <-ctx.Done():
			return
		}
	}
}

// watchOnce returns when the watch ended, or when a new one is needed. Unreadable entries are left out: reading the
// entry itself returns the error.
func (l *Ledger) watchOnce(ctx context.Context, current func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen, err := l.bucket.Watch(ctx, entries)
	if err != nil {
		return
	}
	server := l.identity()
	look := time.NewTicker(serverEvery)
	defer look.Stop()
	for {
		select {
		case <-l.rewatch:
			return
		case <-look.C:
			if now := l.identity(); now != "" && now != server {
				return
			}
		case s, ok := <-seen:
			switch {
			case !ok:
				return
			case s.Current:
				current()
			case s.Deleted:
				l.index.drop(s.Key, s.Revision)
			default:
				raiseTo(&l.highRevision, s.Revision)
				l.addToIndex(s.Value)
			}
		}
	}
}

func (l *Ledger) addToIndex(v bus.Value) {
	var r record
	if json.Unmarshal(v.Data, &r) == nil {
		l.index.set(v.Key, &r, v.Revision)
	}
}
