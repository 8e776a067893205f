package ingester

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// More goods with gaps than one write of the book takes stop neither a window nor planning; all gaps are found in the
// end.
func TestGapsOfManyGoodsAtOnceAreAllFound(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	const goods = 700
	b.remote.pageSize = 10000
	for i := range 3 {
		for g := range goods {
			if row := b.remote.move(fmt.Sprint("G", g), 1); i == 1 {
				row.hidden = 1
			}
		}
		b.advance(time.Minute)
	}
	b.run(time.Hour)
	b.must(b.complete())
	if n := count(b, func(*vmiv1.GapFound) bool { return true }); n != goods {
		t.Errorf("%d gaps published, want %d", n, goods)
	}
}

// Goods whose movements are missing for good do not hide the gaps of others.
func TestGapsThatStayDoNotHideOthers(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	found := map[string]bool{}
	var rows []stock.Row
	var done []string
	for g := range gapsAtOnce + 5 {
		goods := fmt.Sprint("G", g)
		for i := range int64(2) {
			rows = append(rows, stock.Row{GoodsNo: goods, Movement: stock.Movement{
				No: fmt.Sprint(g, "/", i), At: b.began.Unix() + i, Before: 10 * i, After: 10*i + 1, Change: 1, Linked: true,
			}})
		}
	}
	b.tick()
	b.must(apply(b, rows))
	b.must(apply(b, nil, stock.Interval{From: b.began.Unix(), To: b.began.Unix() + 10}))
	for range 3 {
		events, names, _, err := b.unreportedGaps(t.Context(), b.at, stock.Coverage{{From: b.began.Unix(), To: b.began.Unix() + 10}})
		b.must(err)
		for _, e := range events {
			if m, ok := e.Message.(*vmiv1.GapFound); ok {
				found[m.GoodsNo] = true
			}
		}
		done = append(done, names...)
		_, err = b.store.Apply(t.Context(), b.at, stock.Batch{Done: names})
		b.must(err)
	}
	if len(found) != gapsAtOnce+5 || len(done) != len(found) {
		t.Errorf("gaps of %d goods published under %d names, want %d", len(found), len(done), gapsAtOnce+5)
	}
}

func apply(b *fixture, rows []stock.Row, read ...stock.Interval) error {
	_, err := b.store.Apply(b.t.Context(), b.at, stock.Batch{Rows: rows, Read: read})
	return err
}

// switchFlow changes the warehouse's method.
func (b *fixture) switchFlow() {
	changed := proto.CloneOf(b.seller.Setup)
	changed.Stock.Flow = sellerv1.Stock_FLOW_SEARCH
	b.seller = seller.New(changed, nil)
	b.remote.unlinked, b.remote.prefix = true, "x"
}

// booked returns the sum of all changes that were published to be booked.
func (b *fixture) booked() (sum int64) {
	for _, e := range b.events {
		if a, ok := e.Message.(*stockv1.Adjusted); ok {
			sum += a.Movement.Change
		}
	}
	return sum
}

// A rebuilt book knows what the other method published.
func TestALostLedgerDoesNotForgetAChangeOfMethod(t *testing.T) {
	b := newFixture(t)
	move := func() {
		for i := range 12 {
			b.remote.move(fmt.Sprint("G", i%3), 2)
			b.advance(20 * time.Second)
		}
		b.run(20 * time.Minute)
	}
	move()
	b.switchFlow()
	move()
	b.redis.Wipe()
	move()
	b.run(2 * time.Hour)
	if sum := b.booked(); sum != 72 {
		t.Errorf("%d pieces were published, want 72", sum)
	}
}

// A correction says nothing about the method, and a window that an operator requested nothing about where reading
// begins.
func TestALostLedgerTakesNothingElseForTheFlow(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.Flow, s.Stock.Since = sellerv1.Stock_FLOW_SEARCH, "" })
	b.remote.unlinked = true
	b.remote.move("G", 5) // before the place was followed
	b.advance(2 * time.Hour)
	b.run(10 * time.Minute)
	refetch := func(from, to time.Time, wish string) {
		b.queue = append(b.queue, message{Event: Window(&vmiv1.WindowDue{
			Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", From: timestamppb.New(from), To: timestamppb.New(to), Why: vmiv1.Why_WHY_REFETCH,
		}, b.now(), wish)})
	}
	refetch(b.began.Add(-time.Hour), b.began.Add(-50*time.Minute), "once")
	b.run(10 * time.Minute)
	seven, two := int64(7), int64(2)
	m := &stockv1.Movement{
		Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", GoodsNo: "G", FlowNo: "opening/G", At: timestamppb.New(b.now()), Change: -5, Before: &seven, After: &two,
	}
	b.settle([]event.Event{event.StockNoted.About(m.Seller, m.FlowNo, b.now(), &stockv1.Noted{Movement: m, Rule: "opening"}, b.at.Token())}, nil)
	before, err := b.store.State(t.Context(), b.at)
	b.must(err)
	b.redis.Wipe()
	b.run(2 * time.Hour)
	after, err := b.store.State(t.Context(), b.at)
	b.must(err)
	if after.Plan.Start != before.Plan.Start || after.Plan.SwitchedAt != 0 || len(b.adjusted()) != 0 {
		t.Errorf("%d movements were published; planned %+v, before %+v", len(b.adjusted()), after.Plan, before.Plan)
	}
}

// restoredStreams are streams that were restored to an older copy: what they held up to some moment is gone.
type restoredStreams struct {
	Streams
	upTo map[string]uint64
}

func (s restoredStreams) End(ctx context.Context, name string) (uint64, time.Time, error) {
	seq, at, err := s.Streams.End(ctx, name)
	if seq <= s.upTo[name] {
		return 0, time.Time{}, err
	}
	return seq, at, err
}

func (s restoredStreams) Holds(ctx context.Context, name string, seq uint64, at time.Time) (bool, error) {
	if seq != 0 && seq <= s.upTo[name] {
		return false, nil
	}
	return s.Streams.Holds(ctx, name, seq, at)
}

func (s restoredStreams) Events(ctx context.Context, q bus.EventQuery, f func(bus.Stored) error) error {
	return s.Streams.Events(ctx, q, func(e bus.Stored) error {
		name := event.StockAdjusted.Name
		if e.Stream == "VMI" {
			name = event.VMIWindowIngested.Name
		}
		if e.Seq <= s.upTo[name] {
			return nil
		}
		return f(e)
	})
}

// What streams lost is published again under the same ids, also without second looks and when nothing is left that
// says where reading began.
func TestWhatStreamsLostIsPublishedAgain(t *testing.T) {
	for _, lost := range [][]string{{"stock.adjusted"}, {"vmi.window.ingested"}, {"stock.adjusted", "vmi.window.ingested"}} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook, s.Stock.Since = durationpb.New(0), "" })
			b.run(time.Minute)
			for range 5 {
				b.remote.move("G", 3)
				b.advance(time.Minute)
			}
			b.run(20 * time.Minute)
			b.must(b.complete())
			streams := restoredStreams{b.Streams, map[string]uint64{}}
			for _, name := range lost {
				var err error
				streams.upTo[name], _, err = b.bus.End(t.Context(), name)
				b.must(err)
			}
			b.Streams = streams
			b.events, b.ids = nil, map[string]int{}
			b.remote.move("G", 3)
			b.advance(3 * time.Minute)
			b.run(20 * time.Minute)
			if lost[0] == "stock.adjusted" {
				b.must(b.complete())
			} else if f := b.figures()["G"]; len(b.adjusted()) != 1 || f.Num != 18 || f.Proof != stock.Proved {
				t.Errorf("%d movements were published, want 1; the book: %+v", len(b.adjusted()), f)
			}
		})
	}
}

// What was left out of a flow that is read from long ago is found like any other gap.
func TestWhatIsMissingOfLongAgoIsFetched(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) {
		s.Stock.SecondLook, s.Stock.Since = durationpb.New(0), "2026-08-24T08:00:00+08:00"
	})
	b.advance(-80 * 24 * time.Hour)
	for i := range 3 {
		if row := b.remote.move("G", 2); i == 1 {
			row.hidden = 1
		}
		b.advance(time.Minute)
	}
	b.advance(80 * 24 * time.Hour)
	b.run(time.Hour)
	b.must(b.complete())
}

// The ledger is lost when windows were planned but none was read yet: reading continues from where it began.
func TestALostLedgerBeforeTheFirstReadingLosesNoTime(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.Since = "" })
	b.tick()
	b.advance(5 * time.Minute)
	b.tick() // its window is held, e.g. for a permission
	b.advance(time.Minute)
	b.remote.move("G", 5)
	b.redis.Wipe()
	b.advance(4 * time.Minute)
	b.run(2 * time.Hour)
	b.must(b.complete())
}

// A window that arrives while its shop is not followed is planned again when the shop is followed again.
func TestAShopThatIsFollowedAgainMissesNothing(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	b.remote.move("G", 5)
	b.advance(5 * time.Minute)
	b.tick()
	followed := b.seller
	without := proto.CloneOf(b.seller.Setup)
	without.Shops[0].Booking = sellerv1.Shop_BOOKING_UNSPECIFIED
	b.seller = seller.New(without, nil)
	for b.step() {
		continue
	}
	b.seller = followed
	b.advance(time.Hour)
	b.run(time.Hour)
	b.must(b.complete())
}

// The bus's clock was days ahead and was corrected: movements since then are read all the same.
func TestAClockThatWasAheadLosesNoTime(t *testing.T) {
	b := newFixture(t)
	b.run(10 * time.Minute)
	right := b.now()
	b.advance(48 * time.Hour)
	b.run(5 * time.Minute)
	b.advance(right.Sub(b.now()))
	for range 10 {
		b.remote.move("G", 5)
		b.advance(time.Minute)
	}
	b.run(time.Hour)
	b.must(b.complete())
}
