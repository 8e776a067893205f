package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// store is a ledger in memory with what following needs of it. ledgertest holds the real ones to the same.
type store struct {
	Ledger
	mu   sync.Mutex
	docs map[string]*slot
}

type slot struct {
	e     ledger.Entry
	due   time.Time
	taken bool
}

func (s *store) TakeDue(_ context.Context, t ledger.Take) (out []ledger.Entry, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*slot
	for _, d := range s.docs {
		if !d.due.IsZero() && d.due.After(t.Due) == (t.Room != nil) && (t.Before.IsZero() || d.due.Before(t.Before)) {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b *slot) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.e.Key.No, b.e.Key.No)) })
	room := map[string]int{}
	for _, d := range found[:min(len(found), t.Limit)] {
		if t.Room != nil && (d.taken || room[d.e.Warehouse] == t.Room[d.e.Warehouse]) {
			continue
		}
		room[d.e.Warehouse]++
		e := d.e
		next := following(e)
		next.Due = d.due
		e.Following = &next
		out = append(out, e)
		d.due, d.taken = t.Until, true
	}
	return out, nil
}

func (s *store) Postpone(_ context.Context, _, _ string, until time.Time, later []ledger.Later) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range later {
		if d := s.docs[l.No]; d.taken && d.due.Equal(until) {
			d.due, d.taken = l.Due, false
		}
	}
	return nil
}

func (s *store) Follow(_ context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.docs[e.Key.No]
	if d.e.Version != e.Version {
		return ledger.ErrVersion
	}
	d.e.State, d.e.Following, d.e.ChangedAt = state, &f, time.Now()
	d.e.Version++
	d.due, d.taken = f.Due, false
	return nil
}

// site is a warehouse whose calls take time and wait for their turns, as the quota lets them.
type site struct {
	warehouse.OrderChannel
	w     *world
	code  string
	takes time.Duration
}

func (s *site) Orders() warehouse.OrderChannel { return s }

func (s *site) Find(ctx context.Context, nos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	if err := s.w.call(ctx, s.takes, func() {
		s.w.finds++
		for _, no := range nos {
			s.w.seen[no] = append(s.w.seen[no], time.Since(s.w.began))
		}
	}); err != nil {
		return nil, err
	}
	return s.OrderChannel.Find(ctx, nos)
}

func (s *site) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*orderv1.Shipped], error) {
	if err := s.w.call(ctx, s.takes, func() { s.w.reads++ }); err != nil {
		return nil, err
	}
	return s.OrderChannel.Read(ctx, numbers)
}

// world is a seller with many orders.
type world struct {
	t     *testing.T
	began time.Time
	store *store
	wh    *memory.Warehouse
	sites map[string]*site
	parts Parts

	mu           sync.Mutex
	seen         map[string][]time.Duration // the list calls of each order
	finds, reads int
	under, most  int // calls under way
	refused      int // calls that had to wait
	// every is the quota's spacing, 0 for no quota; turn is the next one.
	every time.Duration
	turn  time.Time
	lost  int // answers that never come
}

// call is one call in its turn. What waits longer than a limiter is patient must wait.
func (w *world) call(ctx context.Context, takes time.Duration, count func()) error {
	w.mu.Lock()
	now := time.Now()
	if w.turn.Before(now) {
		w.turn = now
	}
	wait := w.turn.Sub(now)
	if w.every > 0 && wait > 200*time.Millisecond {
		w.refused++
		w.mu.Unlock()
		return fault.RetryAfter(wait, errors.New("the quota is used up"))
	}
	w.turn = w.turn.Add(w.every)
	w.under++
	w.most = max(w.most, w.under)
	count()
	lost := w.lost > 0
	w.lost -= min(w.lost, 1)
	w.mu.Unlock()
	time.Sleep(wait + takes)
	if lost {
		<-ctx.Done() // the process is gone
	}
	w.mu.Lock()
	w.under--
	w.mu.Unlock()
	return ctx.Err()
}

func newWorld(t *testing.T, takes time.Duration) *world {
	w := &world{
		t: t, began: time.Now(), store: &store{docs: map[string]*slot{}}, wh: &memory.Warehouse{}, sites: map[string]*site{}, seen: map[string][]time.Duration{},
	}
	book := &book{now: seller.New(&sellerv1.Setup{Name: "acme"}, nil)}
	for _, code := range []string{"W01", "W02"} {
		w.sites[code] = &site{w.wh.Orders(), w, code, takes}
	}
	w.parts = Parts{
		Kinds: []Kind{Of(order.Kind)}, Sellers: book, Ledger: w.store, Log: zerolog.Nop(), Breaker: guard.NewBreaker(3),
		Metrics: NewMetrics(prometheus.NewRegistry()),
		Config:  Config{OpenEvery: 30 * time.Second, SoonEvery: 15 * time.Second, LateEvery: 10 * time.Minute, FollowFor: 1440 * time.Hour, ProbeAfter: time.Minute},
		Open: func(_ *seller.Seller, code string, _ quota.Class) (warehouse.Identified, error) {
			return w.sites[code], nil
		},
		Publish: func(context.Context, ...event.Event) error { return nil },
		Again:   func(context.Context, string) error { return nil }, // run ticks anyway
	}
	return w
}

// accept puts orders that stand still into the warehouse and the ledger, due now. read: their status is known.
func (w *world) accept(code, prefix string, n int, read bool) {
	for i := range n {
		no := fmt.Sprintf("%s-%05d", prefix, i)
		o := &orderv1.Audited{OutboundNo: no, Receiver: &orderv1.Receiver{Name: "x"}, Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}}}
		receipt, err := warehousetest.Send(w.t.Context(), w.wh.Orders(), o)
		if err != nil {
			w.t.Fatal(err)
		}
		now := time.Now()
		e := ledger.Entry{
			Key: order.Terms.Key("acme", no), State: ledger.Accepted, Number: receipt.WarehouseNo, Group: no, Shop: "S01", Warehouse: code,
			FirstClaimedAt: now, ChangedAt: now, Version: 2, Following: &ledger.Following{},
		}
		if read {
			docs, err := w.wh.Orders().Find(w.t.Context(), []string{no})
			if err != nil {
				w.t.Fatal(err)
			}
			s := docs[no][0].State
			e.Following = &ledger.Following{Phase: kind.PhaseOpen, State: kind.Stored(order.State{Seen: kind.Seen{Status: s.Status, Code: s.Code, StatusAt: s.At}})}
		}
		w.store.mu.Lock()
		w.store.docs[no] = &slot{e: e, due: now}
		w.store.mu.Unlock()
	}
}

// run ticks the followers for a while, as the bus does: a tick each 5 s, at most one waits, and one that must wait goes to
// the next follower.
func (w *world) run(d time.Duration, followers ...*Follower) {
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	var ticks sync.WaitGroup
	waiting := make(chan struct{}, 1)
	at := 0
	for ctx.Err() == nil {
		select {
		case waiting <- struct{}{}:
			ticks.Go(func() {
				held := true
				for ctx.Err() == nil {
					w.mu.Lock()
					f := followers[at%len(followers)]
					at++
					w.mu.Unlock()
					if held && !busy(f) {
						<-waiting
						held = false
					}
					ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
					err := f.Tick(ctx, "acme")
					cancel()
					if fault.Of(err) != fault.Wait || !held && errors.Is(err, errBusy) {
						break
					}
					time.Sleep(max(fault.After(err), 100*time.Millisecond))
				}
				if held {
					<-waiting
				}
			})
		default:
		}
		select {
		case <-time.After(5 * time.Second):
		case <-ctx.Done():
		}
	}
	ticks.Wait()
}

func busy(f *Follower) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running["acme"] != nil
}

// gap is the longest time between two list calls of an order whose number begins with prefix, up to until; and the shortest.
func (w *world) gap(prefix string, until time.Duration) (longest, shortest time.Duration) {
	shortest = until
	for no := range w.store.docs {
		if len(no) < len(prefix) || no[:len(prefix)] != prefix {
			continue
		}
		last := time.Duration(0)
		for i, at := range append(slices.Clone(w.seen[no]), until) {
			longest = max(longest, at-last)
			if i > 0 && at != until {
				shortest = min(shortest, at-last)
			}
			last = at
		}
	}
	return longest, shortest
}

// 3 000 orders at a warehouse that answers in three seconds: 30 calls an interval, one after the other 90 s.
func TestManyOrdersAreLookedUpWithinTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3*time.Second)
		w.accept("W01", "O", 3000, true)
		const d = 3 * time.Minute
		w.run(d, New(w.parts))
		longest, shortest := w.gap("O", d)
		// The interval, a tenth of jitter, a tick, and what the calls of a tick take.
		if most := 30*time.Second + 3*time.Second + 5*time.Second + 10*time.Second; longest > most {
			t.Errorf("an order was not looked up for %s", longest)
		}
		if shortest < 14*time.Second {
			t.Errorf("an order was looked up again after %s", shortest)
		}
		if most := 30 * int(d/(30*time.Second)); w.finds > most+most/10 || w.reads != 0 {
			t.Errorf("%d list calls and %d readings, want %d and none", w.finds, w.reads, most)
		}
		if w.most > callsAtOnce*3/4 || w.most < 4 {
			t.Errorf("%d calls at a time", w.most)
		}
	})
}

// Whatever the orders cost, the quota is used, and a call is not made to wait again and again.
func TestTheQuotaIsUsedUpByTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Second)
		w.every = 200 * time.Millisecond
		w.parts.OpenEvery, w.parts.SoonEvery = 3*time.Second, 3*time.Second
		w.accept("W01", "O", 3000, true) // ten calls a second would be needed
		w.run(time.Minute, New(w.parts))
		if w.finds < 291 {
			t.Errorf("%d of 300 calls", w.finds)
		}
		if w.refused > 2*w.finds {
			t.Errorf("had to wait %d times", w.refused)
		}
	})
}

// Two processes share the list: no order is looked up twice, and each does a good part.
func TestTwoFollowersShareASeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9*time.Second)
		w.accept("W01", "O", 1500, true)
		one, two := New(w.parts), New(w.parts)
		one.callsAtOnce, two.callsAtOnce = 4, 4 // one of them has 34 s of calls
		const d = 3 * time.Minute
		w.run(d, one, two)
		longest, shortest := w.gap("O", d)
		if shortest < 14*time.Second || longest > time.Minute {
			t.Errorf("looked up again after %s to %s", shortest, longest)
		}
		if w.most <= 4 {
			t.Errorf("%d calls at a time: one process does it all", w.most)
		}
	})
}

// What a process had in hand when it died is looked up by another, once that is certain.
func TestWhatADeadFollowerHadIsLookedUpByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, time.Second)
		w.accept("W01", "O", 250, true)
		w.lost = 1
		ctx, die := context.WithCancel(t.Context())
		parts := w.parts
		parts.Ledger = lossyMemory{w.store}
		dead := New(parts)
		gone := make(chan struct{})
		go func() { _ = dead.Tick(ctx, "acme"); close(gone) }()
		time.Sleep(5 * time.Second)
		die()
		<-gone
		const d = 2 * time.Minute
		w.run(d, New(w.parts))
		if longest, _ := w.gap("O", d); longest > holdFor+15*time.Second {
			t.Errorf("an order was not looked up for %s", longest)
		}
	})
}

type lossyMemory struct{ *store }

func (l lossyMemory) Postpone(context.Context, string, string, time.Time, []ledger.Later) error {
	return errors.New("the process died")
}

// Hundreds of orders are accepted at once, and each costs a reading. The other orders are looked up at their interval meanwhile,
// and the readings use what is left of the quota.
func TestFirstReadingsDoNotStarveTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 300*time.Millisecond)
		w.every = 100 * time.Millisecond
		w.parts.OpenEvery, w.parts.SoonEvery = 10*time.Second, 10*time.Second
		w.accept("W01", "O", 4000, true) // four of ten calls a second
		w.accept("W01", "N", 500, false)
		const d = 3 * time.Minute
		w.run(d, New(w.parts))
		if longest, _ := w.gap("O", d); longest > 25*time.Second {
			t.Errorf("an order was not looked up for %s", longest)
		}
		if w.reads != 500 {
			t.Errorf("%d of 500 were read", w.reads)
		}
		for no, d := range w.store.docs {
			if kind.StateOf[kind.Seen](d.e).Status == documentv1.Status_STATUS_UNSPECIFIED {
				t.Fatalf("%s was not read", no)
			}
		}
	})
}

// A slow warehouse has more to do than there is time for. The orders of the seller's other warehouse do not wait for it.
func TestASlowWarehouseDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100*time.Millisecond)
		w.sites["W01"].takes = 9 * time.Second
		w.parts.Sellers = &book{now: seller.New(&sellerv1.Setup{Name: "acme", Warehouses: []*sellerv1.Warehouse{{Code: "W01"}, {Code: "W02"}}}, nil)}
		w.accept("W01", "S", 900, true)
		w.accept("W02", "F", 300, true)
		const d = 3 * time.Minute
		f := New(w.parts)
		f.callsAtOnce = 2 // to the slow one: one call at a time of the nine that an interval needs
		w.run(d, f)
		if longest, _ := w.gap("F", d); longest > time.Minute {
			t.Errorf("an order of the fast warehouse was not looked up for %s", longest)
		}
	})
}
