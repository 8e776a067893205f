package ingester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// remoteFlow is a warehouse's stock flow with correct arithmetic, whose answers have the faults that a test asks for.
type remoteFlow struct {
	now      func() time.Time
	dice     *rand.Rand
	unlinked bool
	partial  bool
	pageSize int
	// elsewhere is how many rows of another warehouse each page reports as left out.
	elsewhere int
	// prefix stands before the numbers of rows: another method numbers them differently.
	prefix string
	rows   []*remoteRow
	stock  map[string]int64
	calls  int

	// failing is how many of a hundred answers are errors. shuffling mixes the order of rows within a page.
	failing   int
	shuffling bool
	fail      func(q warehouse.FlowQuery) error
}

type remoteRow struct {
	warehouse.FlowRow
	// shows is when the row becomes visible; hidden is how many further readings leave it out.
	shows  time.Time
	hidden int
	// twice: it is returned twice.
	twice bool
}

// move moves stock now.
func (f *remoteFlow) move(goods string, change int64) *remoteRow {
	former := f.stock[goods]
	row := &remoteRow{FlowRow: warehouse.FlowRow{
		No: fmt.Sprintf("F%06d", len(f.rows)+1), At: f.now().Truncate(time.Second), GoodsNo: goods, Reason: "move", Rule: warehouse.RuleMoves,
		Change: change, Former: former, Now: former + change,
	}, shows: f.now()}
	f.stock[goods] = row.Now
	f.rows = append(f.rows, row)
	return row
}

func (f *remoteFlow) FlowTerms() warehouse.FlowTerms {
	return warehouse.FlowTerms{MaxSpan: 24 * time.Hour, Linked: !f.unlinked, Partial: f.partial}
}

func (f *remoteFlow) Flow(_ context.Context, q warehouse.FlowQuery) (warehouse.FlowPage, error) {
	f.calls++
	if most := f.FlowTerms().MaxSpan; q.To.Sub(q.From) > most {
		return warehouse.FlowPage{}, fault.Permanent(fmt.Errorf("%v are more than %v", q.To.Sub(q.From), most))
	}
	if f.fail != nil {
		if err := f.fail(q); err != nil {
			return warehouse.FlowPage{}, err
		}
	}
	if f.dice.IntN(100) < f.failing {
		return warehouse.FlowPage{}, errors.New("the warehouse is busy")
	}
	var rows []warehouse.FlowRow
	for _, r := range f.rows {
		if r.At.Before(q.From) || r.At.After(q.To) || q.GoodsNo != "" && r.GoodsNo != q.GoodsNo || f.now().Before(r.shows) {
			continue
		}
		if r.hidden > 0 {
			if q.Page == 1 {
				r.hidden--
			}
			continue
		}
		row := r.FlowRow
		row.No = f.prefix + row.No
		if f.unlinked {
			row.Former, row.Now = 0, 0
		}
		rows = append(rows, row)
		if r.twice {
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b warehouse.FlowRow) int { return cmp.Compare(a.At.Unix(), b.At.Unix()) })
	size := cmp.Or(f.pageSize, 100)
	from := min((q.Page-1)*size, len(rows))
	page := slices.Clone(rows[from:min(from+size, len(rows))])
	if f.shuffling {
		f.dice.Shuffle(len(page), func(i, j int) { page[i], page[j] = page[j], page[i] })
	}
	if len(page) == 0 {
		return warehouse.FlowPage{End: true}, nil
	}
	return warehouse.FlowPage{Rows: page, Elsewhere: f.elsewhere}, nil
}

// message is a message that waits, as the bus would deliver it.
type message struct {
	event.Event
	attempt int
	at      time.Time
}

// fixture is an ingester over a real ledger and real streams, whose clock and messages the test moves.
type fixture struct {
	*Ingester
	t      testing.TB
	redis  *redistest.Server
	bus    *bus.Bus
	remote *remoteFlow
	ledger ledger.Ledger
	seller *seller.Seller
	at     stock.Place
	queue  []message
	// events are all that were stored, in order, each id once; ids counts how often each was stored.
	events   []event.Event
	ids      map[string]int
	rejected []error
	// crash decides whether the run dies between storing and applying.
	crash func() bool
	// bug is what is broken on purpose.
	bug   bug
	runs  int
	setup *sellerv1.Setup
	began time.Time

	mu    sync.Mutex
	clock time.Time
}

func (b *fixture) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *fixture) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func (b *fixture) Get(name string) (*seller.Seller, bool) { return b.seller, name == b.seller.Name() }

func (b *fixture) Pause(_ context.Context, _ string, p seller.Pause) error {
	b.seller = seller.New(b.seller.Setup, &p)
	return nil
}

func setup(change ...func(*sellerv1.Setup)) *sellerv1.Setup {
	s := &sellerv1.Setup{
		Name: "acme", Warehouses: []*sellerv1.Warehouse{{Code: "W1"}},
		Shops: []*sellerv1.Shop{{Code: "S1", ShopNo: "ESP1", Warehouses: []string{"W1"}, Booking: sellerv1.Shop_BOOKING_FLOW}},
		Stock: &sellerv1.Stock{Since: "2026-11-22T08:00:00+08:00", SecondLook: durationpb.New(20 * time.Minute)},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func newFixture(t testing.TB, change ...func(*sellerv1.Setup)) *fixture {
	b := &fixture{t: t, redis: redistest.Start(t), bus: bustest.Start(t), setup: setup(change...)}
	l, err := inredis.Open(inredis.Options{URL: b.redis.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b.ledger = l
	b.reset(1)
	return b
}

// reset starts over with another seller of whom nothing is known, and a warehouse where nothing moved yet.
func (b *fixture) reset(seed uint64) {
	b.runs++
	s := proto.CloneOf(b.setup)
	s.Name = fmt.Sprint("acme", b.runs)
	b.seller, b.at = seller.New(s, nil), stock.Place{Seller: s.Name, Warehouse: "W1", ShopNo: "ESP1"}
	b.queue, b.events, b.ids, b.rejected, b.crash, b.bug = nil, nil, map[string]int{}, nil, nil, bug{}
	b.began = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	b.clock = b.began
	b.remote = &remoteFlow{now: b.now, dice: rand.New(rand.NewPCG(seed, 1)), stock: map[string]int64{}}
	b.Ingester = New(Parts{
		Sellers: b, Books: b.ledger, Leases: b.ledger, Streams: buggyStreams{b.bus, b},
		Open:    func(*seller.Seller, string) (warehouse.FlowReader, error) { return buggyFlow{b.remote, b}, nil },
		Release: func(context.Context, string, func(bus.DeadLetter) bool) (int, error) { return 0, nil },
		Breaker: guard.NewBreaker(1000), Metrics: NewMetrics(prometheus.NewRegistry()),
		Config: Config{MaxPages: 50, RunPages: 20, Attempts: 12, GapAttempts: 10, CatchUp: time.Hour},
		Now:    b.now,
	})
}

// bug are mistakes that somebody could have made.
type bug struct {
	// order: rows are dated in the order in which they came.
	order bool
	// end: any error counts as the end of the rows.
	end bool
	// forget: what was published before the ledger was lost is not read again.
	forget bool
	// cursor: the next window begins at the newest row, and nothing before it is read again.
	cursor bool
}

type buggyFlow struct {
	*remoteFlow
	b *fixture
}

func (f buggyFlow) Flow(ctx context.Context, q warehouse.FlowQuery) (warehouse.FlowPage, error) {
	page, err := f.remoteFlow.Flow(ctx, q)
	if err != nil && f.b.bug.end {
		return warehouse.FlowPage{End: true}, nil
	}
	for i := range page.Rows {
		if f.b.bug.order {
			page.Rows[i].At = q.From.Add(time.Duration(q.Page*1000+i) * time.Second)
		}
	}
	return page, err
}

type buggyStreams struct {
	*bus.Bus
	b *fixture
}

func (s buggyStreams) Events(ctx context.Context, q bus.EventQuery, f func(bus.Stored) error) error {
	if s.b.bug.forget {
		return nil
	}
	return s.Bus.Events(ctx, q, f)
}

// settle stores events, applies them, and queues what is ours, as the bus does.
func (b *fixture) settle(events []event.Event, then func(context.Context) error) bool {
	b.t.Helper()
	if err := b.bus.Publish(b.t.Context(), events...); err != nil {
		b.t.Fatal(err)
	}
	for _, e := range events {
		if b.ids[e.ID]++; b.ids[e.ID] > 1 {
			continue
		}
		b.events = append(b.events, e)
		if e.Name == event.VMIWindowDue.Name {
			b.queue = append(b.queue, message{Event: e, at: b.now()})
		}
	}
	if b.crash != nil && b.crash() {
		return false
	}
	if then != nil {
		if err := then(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
	}
	return true
}

// tick plans, with as many attempts as a rebuild needs.
func (b *fixture) tick() {
	b.t.Helper()
	for range 100 {
		events, then, err := b.plan(b.t.Context(), b.seller, b.at, time.Time{})
		if fault.Of(err) == fault.Wait {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		b.settle(events, then)
		if b.bug.cursor {
			b.applyCursorBug()
		}
		return
	}
	b.t.Fatal("not planned after 100 attempts")
}

func (b *fixture) applyCursorBug() {
	newest := int64(0)
	for _, f := range b.figures() {
		newest = max(newest, f.Last.Unix())
	}
	err := b.store.UpdateState(b.t.Context(), b.at, func(st *stock.State) bool {
		st.Plan.Until = max(newest, st.Plan.Start)
		st.Plan.SecondUntil = b.now().Unix()
		return true
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// step handles the first message that is due, and reports whether there was one.
func (b *fixture) step() bool {
	b.t.Helper()
	i := slices.IndexFunc(b.queue, func(m message) bool { return !b.now().Before(m.at) })
	if i < 0 {
		return false
	}
	m := b.queue[i]
	b.queue = slices.Delete(b.queue, i, i+1)
	d := &bus.Delivery{ID: m.ID, Attempt: m.attempt + 1}
	events, then, err := b.window(b.t.Context(), d, m.Message.(*vmiv1.WindowDue))
	if !b.settle(events, then) {
		m.at = b.now().Add(30 * time.Second)
		b.queue = append(b.queue, m) // redelivered
		return true
	}
	switch {
	case err == nil:
	case fault.Of(err) == fault.Wait:
		m.at = b.now().Add(fault.After(err))
		b.queue = append(b.queue, m)
	case fault.Of(err) == fault.Transient && m.attempt+1 < max(b.Attempts, b.GapAttempts):
		m.attempt++
		m.at = b.now().Add(min(time.Second<<m.attempt, 10*time.Minute))
		b.queue = append(b.queue, m)
	default:
		b.rejected = append(b.rejected, err)
	}
	return true
}

// run lets time pass, with a tick every five minutes, and handles everything that is due.
func (b *fixture) run(d time.Duration) {
	b.t.Helper()
	for end := b.now().Add(d); b.now().Before(end); b.advance(5 * time.Minute) {
		b.tick()
		for range 10000 {
			if !b.step() {
				break
			}
		}
	}
}

// adjusted counts, for each row number, under how many ids it was published to be booked.
func (b *fixture) adjusted() map[string]int64 {
	sum := map[string]int64{}
	for _, e := range b.events {
		if a, ok := e.Message.(*stockv1.Adjusted); ok {
			sum[a.GetMovement().GetFlowNo()]++
		}
	}
	return sum
}

// figures returns what the book says.
func (b *fixture) figures() map[string]stock.Figure {
	b.t.Helper()
	all, from := map[string]stock.Figure{}, ""
	for {
		some, next, err := b.store.Figures(b.t.Context(), b.at, from)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, f := range some {
			all[f.GoodsNo] = f
		}
		if from = next; next == "" {
			return all
		}
	}
}

func count[M any](b *fixture, which func(M) bool) (n int) {
	for _, e := range b.events {
		if m, ok := e.Message.(any).(M); ok && which(m) {
			n++
		}
	}
	return n
}

// complete returns nil when the book equals the warehouse's stock and each movement was published once.
func (b *fixture) complete() error {
	figures := b.figures()
	var errs []error
	for goods, num := range b.remote.stock {
		if f := figures[goods]; f.Num != num || f.Proof != stock.Proved && !b.remote.unlinked {
			errs = append(errs, fmt.Errorf("book of %s: %d %s, warehouse %d; gaps %v", goods, f.Num, f.Proof, num, f.Gaps))
		}
	}
	published := b.adjusted()
	for _, r := range b.remote.rows {
		if published[r.No] != 1 && r.Rule == warehouse.RuleMoves && r.Change != 0 {
			errs = append(errs, fmt.Errorf("movement %s of %s at %v published %d times", r.No, r.GoodsNo, r.At, published[r.No]))
		}
	}
	if len(published) > len(b.remote.rows) {
		errs = append(errs, fmt.Errorf("%d movements published, there were %d", len(published), len(b.remote.rows)))
	}
	return errors.Join(errs...)
}
