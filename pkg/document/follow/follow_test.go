package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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

// fixture is a poller over a real ledger and a warehouse in memory, with a clock that the test moves.
type fixture struct {
	*Follower
	clock
	t     *testing.T
	wh    *memory.Warehouse
	calls *calls
	book  *book
	all   ledger.Ledger
	log   bytes.Buffer
	// published are the events of the present tick; storeDown lets publishing fail.
	mu        sync.Mutex
	published []event.Event
	storeDown bool
}

// calls counts the calls to the warehouse; each takes time.
type calls struct {
	warehouse.OrderChannel
	b       *fixture
	finds   atomic.Int32
	details atomic.Int32
	// reads are the numbers of each reading of purchase orders.
	reads  []int
	takes  time.Duration
	panics bool
}

// Orders is the channel, with each call counted.
func (c *calls) Orders() warehouse.OrderChannel { return c }

func (c *calls) Find(ctx context.Context, numbers []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	c.finds.Add(1)
	c.b.wait(c.takes)
	return c.OrderChannel.Find(ctx, numbers)
}

func (c *calls) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*orderv1.Shipped], error) {
	c.details.Add(1)
	if c.panics {
		panic("no such field")
	}
	return c.OrderChannel.Read(ctx, numbers)
}

// counted returns the calls since it was called last.
func (c *calls) counted() string {
	s := fmt.Sprintf("%d find, %d details", c.finds.Load(), c.details.Load())
	c.finds.Store(0)
	c.details.Store(0)
	return s
}

// book is one seller's set-up and pause, without the real book's rules who may pause over whom.
type book struct{ now *seller.Seller }

func (b *book) Get(name string) (*seller.Seller, bool) { return b.now, b.now.Name() == name }

func (b *book) Pause(_ context.Context, _ string, p seller.Pause) error {
	b.now = seller.New(b.now.Setup, &p)
	return nil
}

func (b *book) Resume(context.Context, string, sellerv1.Paused_By) error {
	if b.now.Pause == nil {
		return seller.ErrNotPaused
	}
	b.now = seller.New(b.now.Setup, nil)
	return nil
}

func newFixture(t *testing.T, open func(now func() time.Time) (ledger.Ledger, error)) *fixture {
	t.Helper()
	b := &fixture{t: t, clock: clock{at: time.Now().Truncate(time.Second)}}
	var err error
	if b.all, err = open(b.now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.all.Close() })
	b.wh = &memory.Warehouse{Now: b.now}
	b.calls = &calls{OrderChannel: b.wh.Orders(), b: b}
	b.book = &book{now: seller.New(&sellerv1.Setup{
		Name:       "acme",
		Accounts:   []*sellerv1.Account{{Name: "m", Kind: sellerv1.Account_KIND_MEMORY}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "m"}, {Code: "W02", Account: "m"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "1", Warehouses: []string{"W01"}}},
	}, nil)}
	b.Follower = New(Parts{
		Kinds: []Kind{Of(order.Kind)}, Sellers: b.book, Ledger: b.all, Log: zerolog.New(&b.log), Breaker: guard.NewBreaker(3),
		Metrics: NewMetrics(prometheus.NewRegistry()),
		Config: Config{
			OpenEvery: 30 * time.Second, SoonEvery: 15 * time.Second, LateEvery: 10 * time.Minute,
			FollowFor: 60 * 24 * time.Hour, ProbeAfter: 30 * time.Second,
		},
		Open: func(_ *seller.Seller, code string, class quota.Class) (warehouse.Identified, error) {
			if class != quota.Status {
				t.Errorf("opened for class %s", class)
			}
			if code == "W09" {
				return nil, fault.Hold(seller.CauseWarehouse("acme", code), errors.New("warehouse W09 is not in the set-up"))
			}
			return b.calls, nil
		},
		Publish: b.publish, Again: func(context.Context, string) error { return nil },
		Now: b.now, NewOwner: func() string { return "replica-1" },
	})
	b.callsAtOnce = 1 // each call moves the clock
	return b
}

func (b *fixture) publish(_ context.Context, events ...event.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, events...)
	if b.storeDown {
		return errors.New("the store does not answer")
	}
	return nil
}

// accept sends orders to the warehouse and records them in the ledger, as the pusher does.
func (b *fixture) accept(warehouseCode string, numbers ...string) {
	b.t.Helper()
	for _, no := range numbers {
		o := &orderv1.Audited{
			OutboundNo: no, Receiver: &orderv1.Receiver{Name: "x"},
			Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}},
		}
		taken, err := warehousetest.Send(b.t.Context(), b.wh.Orders(), o)
		if err != nil {
			b.t.Fatal(err)
		}
		b.recordAccepted(warehouseCode, no, taken.WarehouseNo)
	}
}

// recordAccepted records an accepted order in the ledger.
func (b *fixture) recordAccepted(warehouseCode, no, number string) {
	b.t.Helper()
	begin := ledger.ClaimRequest{
		Key: ledger.Key{Seller: "acme", Kind: order.Kind.Name, No: no}, Hash: "h", Owner: "pusher", Group: no, Items: []string{"1"},
		Revision: 1, Shop: "S01", Warehouse: warehouseCode, StreamTime: b.now(), AuditedAt: b.now(), First: true,
		Identity: string(b.wh.Identity()),
	}
	if _, err := b.all.Claim(b.t.Context(), begin); err != nil {
		b.t.Fatal(err)
	}
	if err := b.all.Accept(b.t.Context(), begin, number, nil, b.now()); err != nil {
		b.t.Fatal(err)
	}
}

// tick runs the handler, and returns what it published. That there is more to do is no error here.
func (b *fixture) tick() ([]event.Event, error) { return b.tickOf(b.Follower) }

func (b *fixture) tickOf(f *Follower) ([]event.Event, error) {
	b.t.Helper()
	b.published = nil
	err := f.Tick(b.t.Context(), "acme")
	if errors.Is(err, errTimeUp) {
		err = nil
	}
	return b.published, err
}

// reported is tick for a run that must succeed, with its events shortened.
func (b *fixture) reported() []string {
	b.t.Helper()
	events, err := b.tick()
	if err != nil {
		b.t.Fatal(err)
	}
	return shorts(events)
}

func (b *fixture) expect(what string, got, want any) {
	b.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (b *fixture) open() int {
	b.t.Helper()
	n, err := b.all.CountFollowed(b.t.Context(), order.Kind.Name, "acme")
	if err != nil {
		b.t.Fatal(err)
	}
	return n[0].N
}

// short is an event shortened to one line.
func short(e event.Event) string {
	switch m := e.Message.(type) {
	case *documentv1.StatusChanged:
		return m.Ref.WarehouseNo + " " + m.Code
	case *orderv1.Shipped:
		s := fmt.Sprintf("shipped %s %s x%d", m.Ref.WarehouseNo, strings.Join(m.Waybills, ","), m.Lines[0].Shipped)
		if m.SplitOf != "" {
			s += " of " + m.SplitOf
		}
		if m.Complete {
			s += " complete"
		}
		return s
	case *orderv1.Delivered:
		return "delivered " + m.Ref.WarehouseNo
	case *orderv1.Returning:
		return "returning " + m.Ref.WarehouseNo + " " + m.Status.String()[len("STATUS_"):]
	case *documentv1.Cancelled:
		return "cancelled"
	default:
		return e.ID
	}
}

func shorts(events []event.Event) []string {
	var s []string
	for _, e := range events {
		text := short(e)
		if m, ok := e.Message.(*documentv1.StatusChanged); ok {
			text = m.Ref.WarehouseNo + " " + strings.TrimPrefix(m.Status.String(), "STATUS_")
			if m.Status == documentv1.Status_STATUS_UNSPECIFIED {
				text = m.Ref.WarehouseNo + " " + m.Code
			}
		}
		s = append(s, text)
	}
	return s
}

func TestAPanicInALookUpFailsOnlyTheTick(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.calls.panics = true
		if events, err := b.tick(); err == nil || len(events) != 0 {
			t.Errorf("reported %v: %v", events, err)
		}
		b.calls.panics = false
		b.wait(35 * time.Second)
		b.expect("reported", b.reported(), []string{"MEM00000001 RECEIVED"})
	})
}

func TestAnOrderIsFollowedToItsEnd(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		const no = "MEM00000001"
		for _, want := range [][]string{
			{no + " RECEIVED"},
			{no + " PICKING"},
			{no + " CHECKED"},
			{no + " PACKED"},
		} {
			b.expect("reported", b.reported(), want)
			b.expect("reported again before it is due", b.reported(), []string(nil))
			b.wh.Step()
			b.wait(35 * time.Second)
		}
		// The memory warehouse gives shipping data with the hand-over.
		got := b.reported()
		if len(got) != 2 || got[0] != no+" SHIPPED" || !strings.HasPrefix(got[1], "shipped "+no) || !strings.HasSuffix(got[1], "x2 complete") {
			t.Errorf("at the hand-over: %v", got)
		}
		e, err := b.all.Get(t.Context(), ledger.Key{Seller: "acme", Kind: order.Kind.Name, No: "O-1"})
		if err != nil || len(e.Following.Numbers) != 1 || !strings.Contains(got[1], e.Following.Numbers[0]) {
			t.Fatalf("the ledger knows waybills %v, reported %v (%v)", e.Following.Numbers, got, err)
		}
		if found, err := b.all.Find(t.Context(), "acme", e.Following.Numbers[0]); err != nil || len(found) != 1 {
			t.Errorf("found by its waybill: %v, %v", found, err)
		}
		b.wh.Step()
		b.wait(35 * time.Second)
		b.expect("on its way it is looked at less often", b.reported(), []string(nil))
		b.wait(11 * time.Minute)
		b.expect("reported", b.reported(), []string{no + " IN_TRANSIT"})
		b.wh.Step()
		b.wait(11 * time.Minute)
		b.expect("reported", b.reported(), []string{no + " DELIVERED", "delivered " + no})
		b.expect("followed", b.open(), 0)
		b.calls.counted()
		b.wait(time.Hour)
		b.reported()
		b.expect("calls once nothing is followed", b.calls.counted(), "0 find, 0 details")
	})
}

func TestWhatTheWarehouseDoes(t *testing.T) {
	tests := []struct {
		name  string
		knobs memory.Knobs
		// duplicateDocuments: a lost answer led to a second document.
		twice bool
		want  []string // the events besides the steps, in order
		state ledger.State
	}{
		{name: "one piece less leaves than was ordered", knobs: memory.Knobs{Short: []string{"O-1"}},
			want: []string{"shipped 1 x1 complete", "delivered 1"}, state: ledger.Accepted},
		{name: "split in two", knobs: memory.Knobs{Split: []string{"O-1"}},
			want: []string{"shipped 2 x1 of 1", "shipped 3 x1 of 1 complete", "delivered 1"}, state: ledger.Accepted},
		{name: "P3: cancelled by the warehouse itself, never shipped", knobs: memory.Knobs{Cancel: []string{"O-1"}},
			want: []string{"cancelled"}, state: ledger.Cancelled},
		{name: "P1: two documents under one number are an exception, once, and both are followed", twice: true,
			want: []string{"1 warehouse.twice", "shipped 1 x2", "shipped 2 x2 complete", "delivered 1"}, state: ledger.Accepted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				b.wh.Knobs = test.knobs
				b.accept("W01", "O-1")
				if test.twice {
					again := &orderv1.Audited{OutboundNo: "O-1", Receiver: &orderv1.Receiver{Name: "x"}, Lines: []*orderv1.Line{{LineId: "1", Quantity: 2}}}
					if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), again); err != nil {
						t.Fatal(err)
					}
				}
				var got []string
				exceptions := 0
				ids := map[string]bool{}
				for range 10 {
					events, err := b.tick()
					if err != nil {
						exceptions++
						if fault.Of(err) != fault.Refused {
							t.Errorf("ends with %v", err)
						}
					}
					for _, e := range events {
						if ids[e.ID] {
							t.Errorf("%s is reported twice", e.ID)
						}
						ids[e.ID] = true
					}
					got = append(got, outline(events)...)
					b.wh.Step()
					b.wait(11 * time.Minute)
				}
				b.expect("reported", got, test.want)
				b.expect("exceptions", exceptions, map[bool]int{true: 1}[test.twice])
				b.expect("followed", b.open(), 0)
				e, err := b.all.Get(t.Context(), ledger.Key{Seller: "acme", Kind: order.Kind.Name, No: "O-1"})
				if err != nil {
					t.Fatal(err)
				}
				b.expect("state in the ledger", e.State, test.state)
			})
		})
	}
}

// outline is the events besides the steps, without waybills, documents by their last digit.
func outline(events []event.Event) []string {
	var said []string
	for _, e := range events {
		switch m := e.Message.(type) {
		case *documentv1.StatusChanged:
			if m.Status != documentv1.Status_STATUS_UNSPECIFIED {
				continue
			}
		case *orderv1.Shipped:
			m.Waybills = nil
		}
		said = append(said, strings.ReplaceAll(strings.ReplaceAll(short(e), "MEM0000000", ""), "  ", " "))
	}
	return said
}

// Following n open orders takes ⌈n/100⌉ calls a cycle, also when they were accepted one by one.
func TestCallsPerCycle(t *testing.T) {
	for _, n := range []int{1, 40, 150} {
		t.Run(fmt.Sprint(n, " orders"), func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				for i := range n {
					b.accept("W01", fmt.Sprintf("O-%03d", i))
					b.wait(30 * time.Second / time.Duration(n))
					b.reported()
				}
				const cycles, ticks = 5, 6 // a tick each 5 s, a cycle each 30 s
				for i := range (1 + cycles) * ticks {
					if i == ticks {
						b.calls.counted()
					}
					b.wait(5 * time.Second)
					b.reported()
				}
				want := cycles * ((n + 99) / 100)
				if int(b.calls.finds.Load()) > want || int(b.calls.finds.Load()) < want/2 || b.calls.details.Load() > 0 {
					t.Errorf("%s in %d cycles, want at most %d finds and no details", b.calls.counted(), cycles, want)
				}
			})
		})
	}
}

// lossy is a ledger whose writes are lost with the process.
type lossy struct{ ledger.Ledger }

func (l lossy) Follow(context.Context, ledger.Entry, ledger.State, ledger.Following) error {
	return errors.New("the process died")
}

func (l lossy) Postpone(context.Context, string, string, time.Time, []ledger.Later) error {
	return errors.New("the process died")
}

func (l lossy) EndCancel(context.Context, ledger.Key, string, ledger.State) error {
	return errors.New("the process died")
}

// What a process had in hand when it died is looked up again after a while, with the same events. So is what the store did not
// take.
func TestTheSameEventsArePublishedWhenTheLedgerDidNotMove(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		parts := b.Parts
		parts.Ledger = lossy{b.all}
		first, _ := b.tickOf(New(parts))
		b.expect("published while it is taken", b.reported(), []string(nil))
		b.wait(holdFor)
		b.storeDown = true
		second, err := b.tick()
		if err == nil {
			t.Error("the store's failure is not returned")
		}
		b.storeDown = false
		b.wait(holdFor)
		third, err := b.tick()
		if err != nil {
			t.Fatal(err)
		}
		for _, events := range [][]event.Event{first, second, third} {
			if len(events) != 1 || events[0].ID != first[0].ID {
				t.Errorf("first %v, then %v, then %v", shorts(first), shorts(second), shorts(third))
			}
		}
		b.wait(35 * time.Second)
		b.expect("published after that", b.reported(), []string(nil))
	})
}

// blocked is a ledger that lets the test in before anything is written.
type blocked struct {
	ledger.Ledger
	before func()
}

func (l blocked) Follow(ctx context.Context, e ledger.Entry, s ledger.State, f ledger.Following) error {
	l.before()
	return l.Ledger.Follow(ctx, e, s, f)
}

func TestAnOrderThatSomebodyElseMovedIsLeftToThem(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		k := ledger.Key{Seller: "acme", Kind: order.Kind.Name, No: "O-1"}
		b.Ledger = blocked{b.all, func() {
			e, err := b.all.Get(t.Context(), k)
			if err != nil {
				t.Error(err)
			}
			theirs := ledger.Following{State: []byte(`{"Code":"theirs"}`), Due: b.now().Add(time.Hour)}
			if err := b.all.Follow(t.Context(), e, e.State, theirs); err != nil {
				t.Error(err)
			}
		}}
		if _, err := b.tick(); err != nil {
			t.Errorf("being slower is no failure: %v", err)
		}
		if e, _ := b.all.Get(t.Context(), k); kind.StateOf[kind.Seen](e).Code != "theirs" {
			t.Errorf("overwrote what somebody else wrote: %+v", e.Following)
		}
	})
}

func TestOneByOneWhereTheBatchCallIsRefused(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1", "O-2")
		b.wh.CannotFind = true
		b.expect("reported", b.reported(), []string{"MEM00000001 RECEIVED", "MEM00000002 RECEIVED"})
		b.expect("calls", b.calls.counted(), "1 find, 2 details")
		b.wait(35 * time.Second)
		b.reported()
		b.expect("calls while that is remembered", b.calls.counted(), "0 find, 2 details")
		b.wait(61 * time.Minute)
		b.reported()
		b.expect("calls after an hour", b.calls.counted(), "1 find, 2 details")
		if n := strings.Count(b.log.String(), "one by one"); n == 0 || n > 2 {
			t.Errorf("said %d times in the log:\n%s", n, &b.log)
		}
	})
}

func TestARunEndsWhenTheWarehouseAsksToWait(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.wh.Busy = 700 * time.Millisecond
		_, err := b.tick()
		if fault.Of(err) != fault.Wait || fault.After(err) != 700*time.Millisecond {
			t.Errorf("ends with %v (%s, %s)", err, fault.Of(err), fault.After(err))
		}
		b.wh.Busy = 0
		b.expect("reported when it may", b.reported(), []string{"MEM00000001 RECEIVED"})
	})
}

func TestBreaker(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.wh.Down = true
		for range 2 {
			if _, err := b.tick(); fault.Of(err) != fault.Transient || err == nil {
				t.Fatalf("a warehouse that is down ends the tick with %v", err)
			}
			b.wait(35 * time.Second)
		}
		events, _ := b.tick()
		if len(events) != 1 || events[0].Name != event.SellerPaused.Name || b.book.now.Pause.By != sellerv1.Paused_BY_BREAKER {
			t.Fatalf("after a run of failures: %v, pause %+v", shorts(events), b.book.now.Pause)
		}
		paused := b.book.now.Pause

		b.calls.counted()
		b.wait(29 * time.Second)
		b.reported()
		b.expect("calls while it rests", b.calls.counted(), "0 find, 0 details")
		for _, rest := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
			b.set(b.book.now.Pause.ProbeAt)
			b.reported()
			b.expect("calls of a probe", b.calls.counted(), "1 find, 0 details")
			b.expect("rest after a failed probe", b.book.now.Pause.ProbeAfter, rest)
		}
		b.wh.Down = false
		b.set(b.book.now.Pause.ProbeAt)
		events, err := b.tick()
		if err != nil || len(events) != 1 || events[0].Name != event.SellerResumed.Name || b.book.now.Pause != nil {
			t.Fatalf("the warehouse is well again: %v, %v, pause %+v", shorts(events), err, b.book.now.Pause)
		}
		if m := events[0].Message.(*sellerv1.Resumed); m.By != paused.By {
			t.Errorf("resumed as %s", m.By)
		}
		b.expect("reported then", b.reported(), []string{"MEM00000001 RECEIVED"})
	})
}

func TestTokenPausesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.wh.BadToken = true
		events, err := b.tick()
		if err != nil || len(events) != 1 || b.book.now.Pause.By != sellerv1.Paused_BY_TOKEN {
			t.Errorf("%v, %v, pause %+v", shorts(events), err, b.book.now.Pause)
		}
	})
}

func TestOperatorsPauseIsNotProbed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.book.now = seller.New(b.book.now.Setup, &seller.Pause{By: sellerv1.Paused_BY_OPERATOR})
		b.wait(24 * time.Hour)
		b.reported()
		b.expect("calls", b.calls.counted(), "0 find, 0 details")
	})
}

func TestAnAcceptedOrderThatIsNotFoundIsStillFollowed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		begin := ledger.ClaimRequest{
			Key: ledger.Key{Seller: "acme", Kind: order.Kind.Name, No: "O-7"}, Hash: "h", Owner: "pusher", Warehouse: "W01", StreamTime: b.now(), AuditedAt: b.now(),
		}
		if err := b.all.Accept(t.Context(), begin, "MEM77777777", nil, b.now()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.expect("reported", b.reported(), []string(nil))
			b.wait(35 * time.Second)
		}
		b.expect("followed", b.open(), 1)
		if n := strings.Count(b.log.String(), "O-7"); n != 1 {
			t.Errorf("the log says it %d times, want once:\n%s", n, &b.log)
		}
	})
}

func TestAnOrderThatNeverEndsIsGivenUpVisibly(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "O-1")
		b.reported()
		b.wait(b.FollowFor + time.Minute)
		events, err := b.tick()
		if fault.Of(err) != fault.Refused || fault.ReasonOf(err, "").Code != "follow.ended" {
			t.Errorf("ends with %v", err)
		}
		b.expect("reported", shorts(events), []string{"MEM00000001 follow.ended"})
		b.expect("followed", b.open(), 0)
		b.expect("reported after that", b.reported(), []string(nil))
	})
}

func TestARunEndsInTime(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		b.buy(many("P", 200)...) // a call takes 20
		b.calls.takes = 6 * time.Second
		total := 0
		for run := range 4 {
			before := b.now()
			total += len(b.reported())
			if took := b.now().Sub(before); took > 25*time.Second {
				t.Errorf("run %d took %s", run, took)
			}
		}
		b.expect("purchase orders reported over four runs", total, 200)
	})
}

func TestAWarehouseThatCannotBeOpenedDelaysNoOther(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W09", "O-1")
		b.accept("W01", "O-2")
		b.expect("reported", b.reported(), []string{"MEM00000002 RECEIVED"})
		if !strings.Contains(b.log.String(), "W09") {
			t.Errorf("the log does not say why:\n%s", &b.log)
		}
		b.expect("followed", b.open(), 2)
	})
}

func TestASellerThatIsGoneIsPassedOver(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		if err := b.Tick(t.Context(), "nobody"); err != nil {
			t.Error(err)
		}
	})
}

// The gauges show what is followed and how late it is also when the look-ups have stopped.
func TestLatenessShowsWhileNobodyPolls(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "A-1", "A-2")
		b.wait(7 * time.Minute)
		sellers := []*seller.Seller{b.book.now}
		for i := range 30 { // a scrape does not grow with sellers who have nothing
			sellers = append(sellers, seller.New(&sellerv1.Setup{Name: fmt.Sprintf("idle-%d", i)}, nil))
		}
		shows := func(want string) {
			t.Helper()
			r := prometheus.NewRegistry()
			r.MustRegister(Followed(b.Kinds, func() []*seller.Seller { return sellers }, b.all, b.now))
			if err := testutil.GatherAndCompare(r, strings.NewReader(want), gaugeOpen, gaugeMost, gaugeLate); err != nil {
				t.Error(err)
			}
		}
		open := `# HELP stockbridge_poll_open_orders Orders that are followed.
# TYPE stockbridge_poll_open_orders gauge
stockbridge_poll_open_orders 2
# HELP stockbridge_poll_open_orders_top Orders that are followed, of the sellers with the most.
# TYPE stockbridge_poll_open_orders_top gauge
stockbridge_poll_open_orders_top{seller="acme"} 2
`
		shows(`# HELP stockbridge_poll_late_seconds How long a seller's most overdue order waits for its look-up: of the latest sellers that are not paused.
# TYPE stockbridge_poll_late_seconds gauge
stockbridge_poll_late_seconds{seller="acme"} 420
` + open)
		paused := *b.book.now // nobody looks up its orders, and they take no place of a seller's who is late
		paused.Pause = &seller.Pause{}
		sellers[0] = &paused
		shows(open)
	})
}

// The set-up names another account. What was sent under the earlier one is not found there, and what has the same number
// there is somebody else's.
func TestAnOrderOfAnEarlierAccountIsNeitherAbsentNorAnothers(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.accept("W01", "A-1", "A-2")
		b.reported()
		first := b.wh
		other := &memory.Warehouse{Now: b.now, As: "memory/other"}
		for _, no := range []string{"X-1", "X-2", "X-3", "A-2"} {
			o := &orderv1.Audited{OutboundNo: no, Receiver: &orderv1.Receiver{Name: "x"}, Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "CUP", Quantity: 9}}}
			if _, err := warehousetest.Send(t.Context(), other.Orders(), o); err != nil {
				t.Fatal(err)
			}
		}
		for range 6 {
			first.Step()
			other.Step()
		}
		b.calls.OrderChannel = other.Orders()
		for range 3 {
			b.wait(time.Hour)
			b.expect("reported of what is not seen", b.reported(), []string(nil))
		}
		if n := testutil.ToFloat64(b.Metrics.NotFound); n != 0 {
			t.Errorf("%v looks count as absent", n)
		}
		if n := strings.Count(b.log.String(), "2 accepted orders were sent under an earlier account"); n != 1 {
			t.Errorf("said %d times:\n%s", n, b.log.String())
		}
		if n := b.open(); n != 2 {
			t.Errorf("%d are followed", n)
		}
		// The earlier account is restored: they are followed as before.
		b.calls.OrderChannel = first.Orders()
		b.wait(time.Hour)
		if got := b.reported(); !slices.Contains(got, "delivered MEM00000001") || !slices.Contains(got, "delivered MEM00000002") {
			t.Errorf("reported %v", got)
		}
	})
}
