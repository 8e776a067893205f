package crash

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/seller"
	"stockbridge/services/all"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/status-poller/poller"
)

const (
	// ackWait is the topology's (30 s): after it the broker redelivers a dead worker's messages to another.
	ackWait = 30 * time.Second
	// tickEvery is the interval of a seller's ticks.
	tickEvery = 5 * time.Second
	// patience is how long a worker may be busy without a pause. It only bounds a failure.
	patience = 30 * time.Second
)

// clock runs with real time, and can jump ahead.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// jump moves the clock to at, never back.
func (c *clock) jump(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = max(c.ahead, time.Until(at))
}

// ago runs do with the clock an hour back.
func (c *clock) ago(do func()) {
	const hour = time.Hour
	c.mu.Lock()
	c.ahead -= hour
	c.mu.Unlock()
	do()
	c.mu.Lock()
	c.ahead += hour
	c.mu.Unlock()
}

// wait is a message that the broker redelivers at a time.
type wait struct {
	at  time.Time
	ack string
}

// lane is servers on which one attempt runs after the other, each with its own seller.
type lane struct {
	t        testing.TB
	name     string
	log      zerolog.Logger
	clock    *clock
	url      string
	bus      *bus.Bus
	broker   *bustest.Broker
	redis    *redistest.Server // nil: the ledger is in a bucket
	known    ledger.Ledger
	book     *seller.Registry
	attempts int
	plant    func(*process) // puts a bug into each worker, if not nil
	cleanups sync.WaitGroup

	mu    sync.Mutex
	waits []wait
}

// newLane starts servers with a ledger in "redis" or in "kv".
func newLane(t testing.TB, kind string) *lane {
	t.Helper()
	l := &lane{t: t, name: kind, clock: &clock{}, log: zerolog.Nop()}
	l.bus, l.url = bustest.StartServer(t, all.Bus()...)
	l.broker = bustest.NewBroker(t, l.url, pusher.Name, poller.Name)
	if err := l.broker.AckWait(t.Context(), 24*time.Hour); err != nil { // the test ends it, see doc.go
		t.Fatal(err)
	}
	if kind == "redis" {
		l.redis = redistest.Start(t, "appendfsync no")
	}
	var err error
	if l.known, err = l.ledger(t.Context(), l.bus); err != nil {
		t.Fatal(err)
	}
	bucket, err := l.bus.Bucket(t.Context(), bus.BucketSetup)
	if err != nil {
		t.Fatal(err)
	}
	if l.book, err = seller.Open(t.Context(), bucket, l.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.cleanups.Wait()
		l.book.Close()
		_ = l.known.Close()
	})
	return l
}

// ledger opens the lane's ledger over a connection.
func (l *lane) ledger(ctx context.Context, b *bus.Bus) (ledger.Ledger, error) {
	if l.redis != nil {
		return inredis.Open(inredis.Options{URL: l.redis.URL(), Now: l.clock.now})
	}
	bucket, err := b.Bucket(ctx, bus.BucketLedger)
	if err != nil {
		return nil, err
	}
	books, err := b.Bucket(ctx, bus.BucketBooks)
	if err != nil {
		return nil, err
	}
	return inkv.Open(ctx, inkv.Options{Bucket: bucket, Books: books, Identity: b.ServerID, Now: l.clock.now})
}

// remember gives the ledger an epoch well before the orders that follow.
func (l *lane) remember(t testing.TB, name string) {
	t.Helper()
	k := ledger.Key{Seller: name, Kind: "order", No: "an-older-one"}
	claimed, err := l.known.Claim(t.Context(), ledger.ClaimRequest{Key: k, Owner: "before", StreamTime: l.clock.now(), AuditedAt: l.clock.now()})
	if err == nil {
		err = l.known.Release(t.Context(), claimed.Claim, "sets the epoch")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// later redelivers the message with this ack subject at a time.
func (l *lane) later(at time.Time, ack string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = append(l.waits, wait{at, ack})
}

// waiting is the earliest wait, and how many there are.
func (l *lane) waiting() (first wait, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.waits {
		if first.ack == "" || w.at.Before(first.at) {
			first = w
		}
	}
	return first, len(l.waits)
}

func (l *lane) forget(ack string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits = slices.DeleteFunc(l.waits, func(w wait) bool { return w.ack == ack })
}

// quiet: the worker has nothing in hand, and the broker has nothing to deliver now.
func (l *lane) quiet(ctx context.Context, f *process) (bool, error) {
	if f.busy() {
		return false, nil
	}
	waiting, unsettled, err := l.broker.Left(ctx)
	if err != nil {
		return false, err
	}
	_, waits := l.waiting()
	return !waiting && unsettled == waits && !f.busy(), nil
}

// advance moves the clock to the next scheduled thing, and lets it happen. Without ticks there may be nothing, which is
// an error.
func (l *lane) advance(ctx context.Context, name string, nextTick time.Time, tick func() error) error {
	delayed, err := l.broker.Delayed(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(delayed, func(a, b bustest.Delayed) int { return a.At.Compare(b.At) })
	w, waits := l.waiting()
	next, do := nextTick, tick
	if waits > 0 && (next.IsZero() || w.at.Before(next)) {
		next, do = w.at, func() error { l.forget(w.ack); l.broker.ComeBack(w.ack); return nil }
	}
	if len(delayed) > 0 && (next.IsZero() || delayed[0].At.Before(next)) {
		next, do = delayed[0].At, func() error { return l.broker.Fire(ctx, delayed[0]) }
	}
	if next.IsZero() {
		return fmt.Errorf("nothing of %s is in hand, waits, or will come", name)
	}
	l.clock.jump(next)
	return do()
}

// tick sends one of each of a seller's ticks.
func (l *lane) tick(ctx context.Context, name string) error {
	for _, kind := range []string{event.TickPoll, event.TickRelease} {
		header := map[string][]string{event.HeaderContentType: {"application/json"}}
		if _, _, err := l.bus.PublishRaw(ctx, event.DueSubject(kind, name), header, []byte(`{"seller":"`+name+`"}`)); err != nil {
			return err
		}
	}
	return nil
}
