// Package inkv keeps the ledger in two JetStream key-value buckets: what `bridgectl up` uses, so that a merchant
// needs no Redis. It knows buckets, not NATS, and nothing of what the documents are.
//
// Every change is a read and a compare-and-set, repeated when another writer got in between. What is due and what is
// found by number is an index in memory, filled from a watch on the bucket: several processes may share a bucket, and
// each sees its own writes at once and the others' soon.
//
// The bucket has no clock to ask while it writes: Options.Now decides when a claim or a lease expires. Processes that
// share a bucket need clocks that agree to within ledger.EpochMargin; the broker's (bus.Bus.Now) does.
//
// # Why
//
// What is taken for a look-up, and postponed after one that found nothing, stands in the index only: written to the bucket it
// would be two synced writes a look-up, and forgotten it costs one look-up. So one process at a time takes the documents of a
// seller, under a lease that lasts longer than what it took.
//
// The items of a group stand under a key of their own, so one Claim writes two keys: first the entry, then the
// items. A claim for an item reads its holder's entry: a holder that is no longer live holds nothing, so items are
// never returned, only taken over. Every Claim writes the items, even when it holds them already: this makes another
// writer's compare-and-set on them fail. An INTENT whose owner vanished between the two writes is in no items: its
// Claim never returned, so nothing was sent.
//
// Books have a bucket of their own, because every worker holds what it must know of the ledger's bucket in memory,
// and books are large. The bucket writes one key at a time, each of them synced, and costs half a kilobyte of the
// server's memory per key: a key per mark would write some 1 000 of them a second. So a book is a tree of two levels
// that is never changed in place: its head names its pages, which hold fields and marks in the order of their names,
// some 48 KB each, and holds the most recent writes itself. Most writes are one compare-and-set of the head. When the
// head grows too large, the affected pages are written again under new names, and then the head that names them: this
// compare-and-set is the commit. A writer that dies before it leaves pages that no head names, and has written
// nothing; nothing needs finishing, and a late writer does no harm. A reader of a head reads pages that nobody
// changes. Replaced pages are removed when the head has been rewritten twice since; a reader that still misses one
// reads the head again.
//
// The tree costs 850 lines (books.go, page.go). Simpler layouts were measured for an embedded merchant with stock: 3 000
// kinds of goods and 4 000 movements a day in 5 shops, so that the book of a place holds 48 000 marks within
// ledger.KeepMarks, and with 2 000 orders a day the book of the warehouse 120 000. A write of three rows, as a window of
// five minutes makes it (times compare, on one machine):
//
//	layout      marks     puts   bytes     time
//	tree        1 600     1.0    28 KB     0.36 ms
//	tree        48 600    1.0    31 KB     0.31 ms
//	tree        240 600   1.1    42 KB     0.42 ms
//	one value   10 000    1      647 KB    5.1 ms
//	one value   20 000    1      911 KB    6.7 ms
//	one value   48 000    above the server's max_payload of 1 MiB
//
// One value per book therefore ends at some 24 000 marks, before a mark may be forgotten, and would write 1.4 GB a day and
// place where the tree writes 30 MB. One value per kind of goods with a journal per place fits, but a mark would need a
// key (240 MB of the server's memory for 10 places) or a bucket of marks (7 puts a write), and a journal that a dead
// writer left has to be finished by the next one: about as much code, with more states. Looking up 100 row numbers reads
// the head and one page, whatever the size. So the tree stays; requiring Redis for stock would save the lines and take
// stock from `bridgectl up`.
//
// A bucket that was restored from an older copy under a running server keeps its identity, but its revisions start
// again from lower ones. A revision that does not grow therefore ends the epoch, as another identity does.
package inkv

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
)

const (
	// maxConflicts is how often a compare-and-set is repeated.
	maxConflicts = 30
	// conflictPause is the longest pause before a repetition.
	conflictPause = 10 * time.Millisecond
	// keepSettled is how long an entry stays after it is settled.
	keepSettled = 90 * 24 * time.Hour
	// keepAttempts is how long a count of attempts stays after the last one.
	keepAttempts = 7 * 24 * time.Hour
	// sweepEvery is the interval between sweeps for expired entries.
	sweepEvery = 12 * time.Hour
	// pruneAbove is how many items a group has before finished ones are pruned: some ERPs give all of their orders
	// the same number.
	pruneAbove = 500
	// maxFound is how many entries Find returns.
	maxFound = 20
)

// Bucket is what the ledger needs of a *bus.Bucket.
type Bucket interface {
	Get(ctx context.Context, key string) (bus.Value, error)
	Create(ctx context.Context, key string, data []byte) (revision uint64, err error)
	Update(ctx context.Context, key string, data []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string, revision uint64) error
	Keys(ctx context.Context, prefix string) ([]string, error)
	Watch(ctx context.Context, prefix string) (<-chan bus.Seen, error)
}

var _ Bucket = (*bus.Bucket)(nil)

// Options of a ledger.
type Options struct {
	Bucket Bucket
	// Books is a second bucket, for books.
	Books Bucket
	// Identity names the run of the server that holds the bucket. Each Claim asks for it, because a connection may
	// have moved to a server that was started meanwhile. Processes on different servers of a cluster end each other's
	// epoch: nothing is sent twice, but every order costs a look-up.
	Identity func() string
	// Now is the clock; processes that share a bucket must share it. nil is time.Now.
	Now func() time.Time
}

// Ledger is a ledger.Ledger in a bucket.
type Ledger struct {
	bucket   Bucket
	books    Bucket
	identity func() string
	clock    func() time.Time

	index index
	takes takes
	// highRevision is the highest revision seen. A write whose revision is not higher shows that the bucket is an
	// older copy.
	highRevision atomic.Uint64
	// booksHighRevision is the same for the bucket of books.
	booksHighRevision atomic.Uint64
	// rewatch asks for a new watch.
	rewatch chan struct{}
	// paces are the changes of quotas, by application.
	paces batch.Group[string, func(*pace), error]

	// background ends with Close.
	background context.Context
	stop       context.CancelFunc
	work       sync.WaitGroup
}

var _ ledger.Ledger = (*Ledger)(nil)

// Open opens the ledger in a bucket and waits until its index is filled.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &Ledger{
		bucket: o.Bucket, books: o.Books, identity: o.Identity, clock: o.Now, index: newIndex(),
		rewatch: make(chan struct{}, 1), background: background, stop: stop,
	}
	l.takes.owner, l.takes.until = crand.Text(), map[string]time.Time{}
	l.paces.Do = l.paceTogether
	filled := make(chan struct{})
	l.work.Go(func() { l.watch(background, filled) })
	select {
	case <-filled:
	case <-ctx.Done():
		_ = l.Close()
		return nil, fmt.Errorf("open ledger: read the bucket: %w", ctx.Err())
	}
	l.work.Go(func() { l.sweep(background) })
	return l, nil
}

// Close ends the watch. The bucket stays open.
func (l *Ledger) Close() error {
	l.returnTakes()
	l.paces.Close()
	l.stop()
	l.paces.Wait()
	l.work.Wait()
	return nil
}

// Check writes to the bucket: a bucket whose disk was full can still be read. How the bucket is stored is the
// topology's business.
func (l *Ledger) Check(ctx context.Context) error {
	var checked struct{ At time.Time }
	revision, err := l.get(ctx, checkKey, &checked)
	if err != nil {
		return fmt.Errorf("check ledger: %w", err)
	}
	checked.At = l.now()
	_, err = l.put(ctx, checkKey, checked, revision)
	if err == nil || errors.Is(err, errConflict) || errors.Is(err, errRolledBack) { // a write was stored, ours or another process's
		return nil
	}
	return fmt.Errorf("check ledger: its bucket takes no writes; free the disk of NATS, then restart nats-server. 账本无法写入：请释放 NATS 所在磁盘的空间，然后重启 nats-server: %w", err)
}

// Clock implements ledger.Ledger: it is Options.Now.
func (l *Ledger) Clock(context.Context) (time.Time, error) { return l.now(), nil }

// now is the clock in the resolution that is kept.
func (l *Ledger) now() time.Time { return l.clock().UTC().Truncate(time.Microsecond) }

// get reads key into v and returns its revision, 0 when it is not there.
func (l *Ledger) get(ctx context.Context, key string, v any) (revision uint64, err error) {
	val, err := l.bucket.Get(ctx, key)
	if errors.Is(err, bus.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(val.Data, v); err != nil {
		return 0, fmt.Errorf("read %s: %w", key, err)
	}
	return val.Revision, nil
}

var (
	// errConflict: another wrote the key meanwhile.
	errConflict = errors.New("written by another meanwhile")
	// errRolledBack: the bucket was restored from an older copy.
	errRolledBack = errors.New("the bucket was restored from an older copy")
)

// put writes key if it still has the revision, else it returns errConflict. errRolledBack is returned although the
// write was done: it only reports that the bucket is an older copy, and that the epoch was renewed because of that.
func (l *Ledger) put(ctx context.Context, key string, v any, revision uint64) (uint64, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	next, err := l.putRaw(ctx, l.bucket, &l.highRevision, key, raw, revision)
	if errors.Is(err, errRolledBack) {
		select {
		case l.rewatch <- struct{}{}:
		default:
		}
	}
	return next, err
}

// putRaw is put for either bucket; high is the highest revision seen in it.
func (l *Ledger) putRaw(ctx context.Context, bucket Bucket, high *atomic.Uint64, key string, raw []byte, revision uint64) (next uint64, err error) {
	before := high.Load()
	if revision == 0 {
		next, err = bucket.Create(ctx, key, raw)
	} else {
		next, err = bucket.Update(ctx, key, raw, revision)
	}
	if errors.Is(err, bus.ErrKeyExists) || errors.Is(err, bus.ErrRevision) {
		return 0, errConflict
	}
	if err != nil {
		return 0, err
	}
	if next > before {
		raiseTo(high, next)
		return next, nil
	}
	// The revision did not grow, so the bucket was restored from an older copy: see Why.
	high.Store(next)
	if err := l.renewEpoch(ctx); err != nil {
		return next, err
	}
	return next, errRolledBack
}

// raiseTo raises the highest revision seen.
func raiseTo(high *atomic.Uint64, revision uint64) {
	for {
		was := high.Load()
		if revision <= was || high.CompareAndSwap(was, revision) {
			return
		}
	}
}

// retryConflicts repeats do until it meets no conflict.
func retryConflicts(ctx context.Context, do func() error) error {
	for range maxConflicts {
		err := do()
		if !errors.Is(err, errConflict) {
			return err
		}
		select {
		case <-time.After(rand.N(conflictPause)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errConflict
}

// epoch reads the epoch, and writes a new one when the server's run has changed.
func (l *Ledger) epoch(ctx context.Context) (epoch, error) {
	var b epoch
	revision, err := l.get(ctx, epochKey, &b)
	if err != nil {
		return b, err
	}
	if identity := l.identity(); revision == 0 || b.Identity != identity {
		b = epoch{Identity: identity, Since: l.now()}
		_, err = l.put(ctx, epochKey, b, revision)
	}
	return b, err
}

// renewEpoch ends the epoch and begins another under the same identity.
func (l *Ledger) renewEpoch(ctx context.Context) error {
	return updateKey(ctx, l, epochKey, func(b *epoch) bool {
		*b = epoch{Identity: l.identity(), Since: l.now()}
		return true
	})
}

// updateKey reads key, lets do change it, and writes it unless do reports no change.
func updateKey[T any](ctx context.Context, l *Ledger, key string, do func(*T) (changed bool)) error {
	return retryConflicts(ctx, func() error {
		var v T
		revision, err := l.get(ctx, key, &v)
		if err != nil || !do(&v) {
			return err
		}
		_, err = l.put(ctx, key, v, revision)
		if errors.Is(err, errRolledBack) {
			return nil
		}
		return err
	})
}
