package syncer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

// flow is the book of one place, made by movements.
type flow struct {
	b     *fixture
	place stock.Place
	store *stock.Store
	rows  int
}

func newFlow(b *fixture) *flow {
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	f := &flow{b: b, place: stock.Place{Seller: "acme", Warehouse: "W1", ShopNo: "ESPA"}}
	f.store = &stock.Store{Books: b.store, Now: b.now}
	b.wh.shops = map[string]warehouse.ShopStock{}
	return f
}

// row is a movement.
func (f *flow) row(goods string, former, now int64, at time.Time) {
	f.b.t.Helper()
	f.rows++
	_, err := f.store.Apply(f.b.t.Context(), f.place, stock.Batch{Rows: []stock.Row{{
		Movement: stock.Movement{No: fmt.Sprint(f.rows), At: at.Unix(), Before: former, After: now, Change: now - former, Linked: true}, GoodsNo: goods,
	}}})
	if err != nil {
		f.b.t.Fatal(err)
	}
}

// theirs sets the warehouse's figure.
func (f *flow) theirs(goods string, n int64) {
	f.b.wh.shops["ESPA/"+goods] = warehouse.ShopStock{Num: n}
}

// compare lets an hour pass, of which the flow was read, and returns what the count and the comparison after it
// found.
func (f *flow) compare() []string {
	f.b.t.Helper()
	from := f.b.now()
	f.b.advance(time.Hour)
	if _, err := f.store.Apply(f.b.t.Context(), f.place, stock.Batch{Read: []stock.Interval{stock.IntervalOf(from.Add(-time.Minute), f.b.now())}}); err != nil {
		f.b.t.Fatal(err)
	}
	var found []string
	for range 3 {
		for _, e := range f.b.countTick().events {
			switch m := e.Message.(type) {
			case *stockv1.DriftFound:
				line := fmt.Sprintf("%s book %d counted %d", m.GoodsNo, m.Book, m.Counted)
				if m.Explanation != nil {
					line += " " + m.Explanation.Kind + " " + m.Explanation.No
				}
				if m.Corrected {
					line += " corrected"
				}
				found = append(found, line)
			case *stockv1.Noted:
				found = append(found, fmt.Sprintf("%s %s %d", m.Rule, m.Movement.GoodsNo, m.Movement.Change))
			}
		}
	}
	return found
}

func (f *flow) wants(want ...string) {
	f.b.t.Helper()
	if got := f.compare(); !slices.Equal(got, want) {
		f.b.t.Errorf("found %q, want %q", got, want)
	}
}

func (f *flow) figure(goods string) int64 {
	f.b.t.Helper()
	figure, err := f.store.Figure(f.b.t.Context(), f.place, goods)
	if err != nil {
		f.b.t.Fatal(err)
	}
	return figure.Num
}

// A difference counts when it is seen twice and nothing moved in between; it is published once, with what can explain
// it.
func TestADifferenceIsPublishedWhenItStays(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		f := newFlow(b)
		f.row("G1", 12, 10, b.now())
		f.theirs("G1", 10)
		f.wants()

		f.theirs("G1", 9) // sold, and the flow is not read yet
		f.wants()
		f.row("G1", 10, 9, b.now())
		f.wants()

		f.theirs("G1", 7)
		b.wh.change = []warehouse.StockChange{
			{Kind: "stock-take", No: "CT0", At: b.now().Add(-48 * time.Hour), Quantity: -2}, // they agreed after that
			{Kind: "stock-take", No: "CT2", At: b.now().Add(2 * time.Second), Quantity: -1},
			{Kind: "level-change", No: "CT1", At: b.now().Add(time.Second), Quantity: -1},
		}
		f.wants()
		f.row("G1", 9, 8, b.now())
		f.theirs("G1", 6) // as far apart as before, but something moved
		f.wants()
		f.wants("G1 book 8 counted 6 level-change CT1")
		f.wants()

		f.theirs("G1", 5)
		f.wants()
		f.row("G1", 7, 5, b.now()) // the movement to 7 is missing
		f.theirs("G1", 4)
		f.wants()
		figure, err := f.store.Figure(t.Context(), f.place, "G1")
		if err != nil || len(figure.Gaps) != 1 {
			t.Fatalf("%+v: %v", figure, err)
		}
		if got := f.compare(); len(got) != 1 {
			t.Errorf("found %q", got)
		}
		if f.figure("G1") == 4 {
			t.Error("corrected although the set-up does not allow it")
		}
	})
}

// A small difference is corrected automatically where the set-up says so: in our book, and with an event.
func TestASmallDifferenceIsCorrectedAutomatically(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		f := newFlow(b)
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools, s.Stock.CorrectUpTo = nil, 2 })
		f.row("G1", 12, 10, b.now())
		f.row("G2", 30, 10, b.now())
		f.theirs("G1", 8)
		f.theirs("G2", 7)
		f.wants()
		got := f.compare()
		slices.Sort(got)
		if want := []string{"G1 book 10 counted 8 corrected", "G2 book 10 counted 7", "correction G1 -2"}; !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
		if f.figure("G1") != 8 || f.figure("G2") != 10 {
			t.Errorf("figures %d and %d", f.figure("G1"), f.figure("G2"))
		}
		// Movements continue from the warehouse's figure.
		f.row("G1", 8, 5, b.now())
		f.theirs("G1", 5)
		if figure, err := f.store.Figure(t.Context(), f.place, "G1"); err != nil || figure.Num != 5 || figure.Proof != stock.Proved {
			t.Errorf("%+v: %v", figure, err)
		}
		f.wants()
	})
}

// Goods that did not move since the flow is read are adopted, and rows that are found later link up.
func TestGoodsThatOnlyTheWarehouseKnowsAreTakenOver(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	f := newFlow(b)
	b.wh.put("G1", 100)
	b.wh.put("G2", 100)
	began := b.now()
	f.row("G1", 12, 10, began)
	f.theirs("G1", 10)
	f.theirs("G2", 5)
	f.wants("opening G2 0")
	if f.figure("G2") != 5 {
		t.Errorf("figure %d", f.figure("G2"))
	}
	f.row("G2", 6, 5, began.Add(time.Minute)) // came late
	f.row("G2", 5, 3, b.now())
	f.theirs("G2", 3)
	f.wants()
	if figure, err := f.store.Figure(t.Context(), f.place, "G2"); err != nil || figure.Num != 3 || figure.Proof != stock.Proved {
		t.Errorf("%+v: %v", figure, err)
	}
}

// Movements that nothing will bring any longer are replaced by one, from which the book continues.
func TestAGapIsFilledByACorrection(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	f := newFlow(b)
	f.row("G1", 12, 10, b.now())
	b.advance(time.Minute)
	f.row("G1", 7, 6, b.now())
	at, _ := b.seller.Place("W1", "ESPA")
	figure, err := f.store.Figure(t.Context(), f.place, "G1")
	if err != nil || figure.Proof != stock.Broken || len(figure.Gaps) != 1 {
		t.Fatalf("%+v: %v", figure, err)
	}
	for range 2 { // once, however often
		if err := ApplyEvent(t.Context(), f.store, FillGap(at, f.place, figure, figure.Gaps[0], "ops", b.now())); err != nil {
			t.Fatal(err)
		}
	}
	f.row("G1", 6, 5, b.now())
	if figure, err = f.store.Figure(t.Context(), f.place, "G1"); err != nil || figure.Num != 5 || figure.Proof != stock.Proved {
		t.Errorf("%+v: %v", figure, err)
	}
}

// Where the shop's stock lives at the warehouse, published shares are set there too.
func TestSharesAreSetAtTheWarehouse(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.apply(func(s *sellerv1.Setup) {
			s.Stock.SetAtWarehouse = true
			s.Shops[1].ShopNo = s.Shops[0].ShopNo // A and B are one shop there
		})
		b.wh.put("G1", 100)
		b.count()
		b.countTick()
		if len(b.wh.sets) != 0 {
			t.Errorf("set %q before it was published", b.wh.sets)
		}
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
		b.countTick()
		b.countTick()
		if want := []string{"ESPA G1 23", "ESPC G1 20"}; !slices.Equal(b.wh.sets, want) {
			t.Errorf("set %q, want %q", b.wh.sets, want)
		}
		if err := b.accepted("X1", "A", b.now(), line("G1", 30)); err != nil {
			t.Fatal(err)
		}
		b.share()
		b.countTick()
		if got := b.wh.sets[2:]; !slices.Equal(got, []string{"ESPA G1 0", "ESPC G1 14"}) {
			t.Errorf("set %q", got)
		}
	})
}

// Goods that the warehouse refuses keep nothing else from being set, and are tried again.
func TestGoodsThatCannotBeSetDelayNoOthers(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.apply(func(s *sellerv1.Setup) { s.Stock.SetAtWarehouse = true })
	b.wh.refuses = "G1"
	for _, goods := range []string{"G1", "G2", "G3"} {
		b.wh.put(goods, 100)
	}
	b.count()
	b.share()
	refused := 0
	for range 4 {
		b.advance(time.Second)
		events, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
		if err != nil {
			refused++
		}
		if err := (handled{events, after}).settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if refused != 4 {
		t.Errorf("%d of 4 ticks say so", refused)
	}
	for _, goods := range []string{"G2", "G3"} {
		if !slices.Contains(b.wh.sets, "ESPC "+goods+" 20") {
			t.Errorf("%s is not set: %q", goods, b.wh.sets)
		}
	}
	b.wh.refuses = ""
	_ = b.countTick()
	if !slices.Contains(b.wh.sets, "ESPC G1 20") {
		t.Errorf("G1 is not tried again: %q", b.wh.sets)
	}
}
