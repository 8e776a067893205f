package ingester

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// More goods with holes than one write of the book takes stop neither a window nor the planning; all are found in the end.
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
		t.Errorf("told of %d holes, want %d", n, goods)
	}
}

// Goods of which movements are missing for good do not hide the holes of others.
func TestGapsThatStayDoNotHideOthers(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	holes := map[string]bool{}
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
		events, names, err := b.unreportedGaps(t.Context(), b.at, stock.Coverage{{From: b.began.Unix(), To: b.began.Unix() + 10}})
		b.must(err)
		for _, e := range events {
			if m, ok := e.Message.(*vmiv1.GapFound); ok {
				holes[m.GoodsNo] = true
			}
		}
		done = append(done, names...)
		_, err = b.store.Apply(t.Context(), b.at, stock.Batch{Done: names})
		b.must(err)
	}
	if len(holes) != gapsAtOnce+5 || len(done) != len(holes) {
		t.Errorf("told of %d goods under %d names, want %d", len(holes), len(done), gapsAtOnce+5)
	}
}

func apply(b *fixture, rows []stock.Row, read ...stock.Interval) error {
	_, err := b.store.Apply(b.t.Context(), b.at, stock.Batch{Rows: rows, Read: read})
	return err
}

// turn changes the far side's method.
func (b *fixture) switchFlow() {
	changed := proto.CloneOf(b.seller.Setup)
	changed.Stock.Flow = sellerv1.Stock_FLOW_SEARCH
	b.seller = seller.New(changed, nil)
	b.remote.unlinked, b.remote.prefix = true, "x"
}

// booked is the sum of all that was told to be booked.
func (b *fixture) booked() (sum int64) {
	for _, e := range b.events {
		if a, ok := e.Message.(*stockv1.Adjusted); ok {
			sum += a.Movement.Change
		}
	}
	return sum
}

// A book that is made again knows what the other method told.
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
		t.Errorf("%d pieces were told, want 72", sum)
	}
}

// What somebody set in the book says nothing about the method, and a span that an operator asked for nothing about where
// reading begins.
func TestALostLedgerTakesNothingElseForTheFlow(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.Flow, s.Stock.Since = sellerv1.Stock_FLOW_SEARCH, "" })
	b.remote.unlinked = true
	b.remote.move("G", 5) // before anybody followed it
	b.advance(2 * time.Hour)
	b.run(10 * time.Minute)
	refetch := func(from, to time.Time, wish string) {
		b.queue = append(b.queue, message{Event: Window(&vmiv1.WindowDue{
			Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", From: stamp(from), To: stamp(to), Why: vmiv1.Why_WHY_REFETCH,
		}, b.now(), wish)})
	}
	refetch(b.began.Add(-time.Hour), b.began.Add(-50*time.Minute), "once")
	b.run(10 * time.Minute)
	seven, two := int64(7), int64(2)
	m := &stockv1.Movement{
		Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", GoodsNo: "G", FlowNo: "opening/G", At: stamp(b.now()), Change: -5, Before: &seven, After: &two,
	}
	b.settle([]event.Event{event.StockNoted.About(m.Seller, m.FlowNo, b.now(), &stockv1.Noted{Movement: m, Rule: "opening"}, b.at.Token())}, nil)
	before, _, err := b.store.State(t.Context(), b.at)
	b.must(err)
	b.redis.Wipe()
	b.run(2 * time.Hour)
	after, _, err := b.store.State(t.Context(), b.at)
	b.must(err)
	if after.Plan.Start != before.Plan.Start || after.Plan.SwitchedAt != 0 || len(b.adjusted()) != 0 {
		t.Errorf("%d movements were told; planned %+v, before %+v", len(b.adjusted()), after.Plan, before.Plan)
	}
}

// forgetful are streams that were put back: what they held up to some moment is gone.
type restoredStreams struct {
	Streams
	upTo map[string]uint64
}

func (f restoredStreams) End(ctx context.Context, name string) (uint64, time.Time, error) {
	seq, at, err := f.Streams.End(ctx, name)
	if seq <= f.upTo[name] {
		return 0, time.Time{}, err
	}
	return seq, at, err
}

func (f restoredStreams) Holds(ctx context.Context, name string, seq uint64, at time.Time) (bool, error) {
	if seq != 0 && seq <= f.upTo[name] {
		return false, nil
	}
	return f.Streams.Holds(ctx, name, seq, at)
}

func (f restoredStreams) Events(ctx context.Context, q bus.EventQuery, tell func(bus.Stored) error) error {
	return f.Streams.Events(ctx, q, func(e bus.Stored) error {
		name := event.StockAdjusted.Name
		if e.Stream == "VMI" {
			name = event.VMIWindowIngested.Name
		}
		if e.Seq <= f.upTo[name] {
			return nil
		}
		return tell(e)
	})
}

// What streams lost is told again under the same ids, also when nobody takes second looks and when nothing is left that
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
				t.Errorf("%d movements were told, want 1; the book: %+v", len(b.adjusted()), f)
			}
		})
	}
}

// A flow that is read from long ago: what was left out of it is found like any other.
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

// The ledger is lost when windows were planned but none was read yet: reading goes on from where it began.
func TestALostLedgerBeforeTheFirstReadingLosesNoTime(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.Since = "" })
	b.tick()
	b.advance(5 * time.Minute)
	b.tick() // its window waits, say for a permission
	b.advance(time.Minute)
	b.remote.move("G", 5)
	b.redis.Wipe()
	b.advance(4 * time.Minute)
	b.run(2 * time.Hour)
	b.must(b.complete())
}

// A window that comes while its shop is not followed is planned again when it is.
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

// The clock of the bus was days ahead and was put right: what moved since is read all the same.
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
