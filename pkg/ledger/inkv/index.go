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
	// rewatchPause is between a watch that ended and the next.
	rewatchPause = time.Second
	// serverEvery is how often the watch looks whether it talks to another server now, and begins anew. Without that it
	// would notice too, but late.
	serverEvery = time.Second
)

// index is what is held in memory of each entry, by its key in the bucket.
type index struct {
	mu  sync.Mutex
	all map[string]indexed
	// open are those that are followed, doubts those whose sending is in doubt.
	open, doubts map[string]indexed
	// platforms are the keys of entries by seller and platform's number: Begin looks there each time.
	platforms map[[2]string]map[string]bool
	// numbers are the keys of entries by seller and the far side's number: Accept looks there each time.
	numbers map[[2]string]map[string]bool
	// watch counts the watches that were begun. What an earlier one told stays until the present one has caught up.
	watch int
}

// indexed is one entry as the index knows it.
type indexed struct {
	key             ledger.Key
	orderNo, number string
	identity        string
	// also are further numbers that it is found by: the platform's, of which there are so many, then waybills.
	also          []string
	platforms     int
	due, doubt    time.Time
	live, settled bool
	refused       bool
	changed       time.Time
	revision      uint64
	watch         int
}

func newIndex() index {
	return index{
		all: map[string]indexed{}, open: map[string]indexed{}, doubts: map[string]indexed{},
		platforms: map[[2]string]map[string]bool{}, numbers: map[[2]string]map[string]bool{},
	}
}

// watchBegins counts another watch.
func (x *index) watchBegins() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.watch++
}

// caughtUp removes what only an earlier watch told: the present one has told all there is, so it is gone.
func (x *index) caughtUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, e := range x.all {
		if e.watch != x.watch {
			x.forget(key)
		}
	}
}

// set notes what was written. A write that is older than what is known is passed over: the watch lags behind our own.
func (x *index) set(key string, r *record, revision uint64) {
	e := indexed{key: r.Key, orderNo: r.OrderNo, number: r.Number, identity: r.Identity, doubt: r.UnknownSince, changed: r.ChangedAt, revision: revision}
	e.also, e.platforms = r.PlatformNos, len(r.PlatformNos)
	if r.Following != nil {
		e.due = r.Following.Due
		e.also = slices.Concat(r.PlatformNos, r.Following.Waybills)
	}
	e.live = r.State.Live()
	e.refused = r.State == ledger.Refused && r.Hash != ledger.Shadowed
	e.settled = e.due.IsZero() && r.State != ledger.Intent && (r.State != ledger.Unknown || r.Hash == ledger.Shadowed)
	x.mu.Lock()
	defer x.mu.Unlock()
	if was := x.all[key]; was.watch == x.watch && was.revision >= revision {
		return
	}
	e.watch = x.watch
	x.forget(key)
	x.all[key] = e
	for _, no := range e.also[:e.platforms] {
		add(x.platforms, e.key.Seller, no, key)
	}
	if e.number != "" {
		add(x.numbers, e.key.Seller, e.number, key)
	}
	if e.due.IsZero() {
		delete(x.open, key)
	} else {
		x.open[key] = e
	}
	if e.doubt.IsZero() || r.Hash == ledger.Shadowed {
		delete(x.doubts, key)
	} else {
		x.doubts[key] = e
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
	for _, no := range was.also[:was.platforms] {
		remove(x.platforms, was.key.Seller, no, key)
	}
	remove(x.numbers, was.key.Seller, was.number, key)
	delete(x.all, key)
	delete(x.open, key)
	delete(x.doubts, key)
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

// numbered tells which other document than k, of its kind, has the far side's number; "" for none. Another account's numbers
// are of their own.
func (x *index) numbered(k ledger.Key, identity, number string) (of string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for key := range x.numbers[[2]string{k.Seller, number}] {
		e := x.all[key]
		if e.key.Kind == k.Kind && e.key.No != k.No && (e.identity == "" || identity == "" || e.identity == identity) && (of == "" || e.key.No < of) {
			of = e.key.No // of several the least, so that each ledger names the same
		}
	}
	return of
}

// sharing lists live documents of other orders with a platform's number of b.
func (x *index) sharing(b ledger.ClaimRequest) (found []ledger.Sharing) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, no := range b.PlatformNos {
		for key := range x.platforms[[2]string{b.Key.Seller, no}] {
			e := x.all[key]
			if e.key.Kind == b.Key.Kind && e.key.No != b.Key.No && e.orderNo != b.OrderNo && e.orderNo != "" && e.live {
				found = append(found, ledger.Sharing{PlatformNo: no, OrderNo: e.orderNo, No: e.key.No})
			}
		}
	}
	return ledger.SortSharing(found)
}

// due lists what is due, the longest first.
func (x *index) due(seller, kind string, now time.Time) []ledger.Key {
	var found []indexed
	x.mu.Lock()
	for _, e := range x.open {
		if e.key.Seller == seller && e.key.Kind == kind && !e.due.After(now) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b indexed) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.key.No, b.key.No))
	})
	return keysOf(found)
}

// refusals lists what was refused since a time, the earliest first.
func (x *index) refusals(seller, kind string, from time.Time) []ledger.Key {
	var found []indexed
	x.mu.Lock()
	for _, e := range x.all {
		if e.refused && e.key.Seller == seller && e.key.Kind == kind && !e.changed.Before(from) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b indexed) int {
		return cmp.Or(a.changed.Compare(b.changed), cmp.Compare(a.key.No, b.key.No))
	})
	return keysOf(found)
}

func (x *index) followed(seller, kind string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.open {
		if e.key.Seller == seller && e.key.Kind == kind {
			n++
		}
	}
	return n
}

func (x *index) doubted(seller, kind string) (n int, oldest time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.doubts {
		if e.key.Seller != seller || e.key.Kind != kind {
			continue
		}
		if n++; oldest.IsZero() || e.doubt.Before(oldest) {
			oldest = e.doubt
		}
	}
	return n, oldest
}

// unsettled lists what is followed or in doubt.
func (x *index) unsettled(seller, kind string) []ledger.Key {
	found := map[ledger.Key]bool{}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, set := range []map[string]indexed{x.open, x.doubts} {
		for _, e := range set {
			if e.key.Seller == seller && e.key.Kind == kind {
				found[e.key] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// find lists what goes by the number, the newest change first.
func (x *index) find(seller, no string) []ledger.Key {
	var found []indexed
	x.mu.Lock()
	for _, e := range x.all {
		if e.key.Seller == seller && (e.key.No == no || e.orderNo == no || e.number == no || slices.Contains(e.also, no)) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(found, func(a, b indexed) int { return b.changed.Compare(a.changed) })
	return keysOf(found)
}

// prune drops holders that stopped being live after they took their line. What the index does not know for certain stays.
func (x *index) prune(k ledger.Key, held holders) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(held, func(_ string, by holder) bool {
		e, known := x.all[entryKey(ledger.Key{Seller: k.Seller, Kind: k.Kind, No: by.No})]
		return known && !e.live && e.revision >= by.Revision
	})
}

// old lists what has been settled since before a time.
func (x *index) old(before time.Time) []ledger.Key {
	var found []indexed
	x.mu.Lock()
	for _, e := range x.all {
		if e.settled && e.changed.Before(before) {
			found = append(found, e)
		}
	}
	x.mu.Unlock()
	return keysOf(found)
}

func keysOf(found []indexed) []ledger.Key {
	keys := make([]ledger.Key, len(found))
	for i, e := range found {
		keys[i] = e.key
	}
	return keys
}

// watch fills the index until ctx ends. filled is closed when all that stood in the bucket was read once.
func (l *Ledger) watch(ctx context.Context, filled chan struct{}) {
	for {
		l.index.watchBegins()
		l.read(ctx, func() {
			l.index.caughtUp()
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

// read returns when the watch ended, or when it has to begin anew. What cannot be read is left out: whoever needs the
// entry itself hears of it.
func (l *Ledger) read(ctx context.Context, current func()) {
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
				noteRevision(&l.high, s.Revision)
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
