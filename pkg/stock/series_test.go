package stock_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"stockbridge/pkg/stock"
)

// history is consistent rows of one kind of goods, in the order in which they happened.
func history(t *rapid.T) []stock.Movement {
	at, value := int64(1000), rapid.Int64Range(-3, 20).Draw(t, "opening")
	var rows []stock.Movement
	for i := range rapid.IntRange(1, 24).Draw(t, "rows") {
		at += rapid.SampledFrom([]int64{0, 0, 1, 3, 7, 60}).Draw(t, "pause")
		change := rapid.SampledFrom([]int64{-2, -1, -1, -1, 1, 1, 5}).Draw(t, "change")
		rows = append(rows, stock.Movement{No: fmt.Sprint(100 + i), At: at, Before: value, After: value + change, Change: change, Linked: true})
		value += change
	}
	return rows
}

func seriesOf(rows []stock.Movement) *stock.Series {
	c := &stock.Series{}
	for _, r := range rows {
		c.Add(r)
	}
	return c
}

func shuffled(t *rapid.T, rows []stock.Movement) []stock.Movement {
	mixed := append([]stock.Movement(nil), rows...)
	rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	return mixed
}

func TestRowsInAnyOrderEndInTheSameFigureWithoutAGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := history(t)
		c := seriesOf(shuffled(t, rows))
		num, proof := c.Figure()
		if want := rows[len(rows)-1].After; num != want || proof != stock.Proved {
			t.Fatalf("figure %d %s, want %d proved; series %+v of %+v", num, proof, want, c, rows)
		}
		if gaps := c.Gaps(); len(gaps) != 0 {
			t.Fatalf("gaps %v in %+v", gaps, rows)
		}
	})
}

func TestAMissingRowShowsAndItsArrivalClosesTheGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := history(t)
		if len(rows) < 3 {
			return
		}
		gone := rapid.IntRange(1, len(rows)-2).Draw(t, "missing")
		// Rows of one second that end where they began hide what is missing before them until the next row comes.
		last := rows[len(rows)-1]
		rows = append(rows, stock.Movement{No: "999", At: last.At + 100, Before: last.After, After: last.After + 50, Change: 50, Linked: true})
		missing := rows[gone]
		// Rows within the clock tolerance of the missing one may link up without it.
		for i, r := range rows {
			if i != gone && r.At >= missing.At-6 && r.At <= missing.At+6 {
				return
			}
		}
		c := seriesOf(shuffled(t, append(append([]stock.Movement(nil), rows[:gone]...), rows[gone+1:]...)))
		gaps := c.Gaps()
		if len(gaps) != 1 {
			t.Fatalf("gaps %v without row %d of %+v", gaps, gone, rows)
		}
		if s := gaps[0].Interval(); s.From > missing.At || missing.At > s.To {
			t.Fatalf("the gap %v does not contain the missing row %+v", s, missing)
		}
		if _, proof := c.Figure(); proof != stock.Broken {
			t.Fatalf("%s without a row", proof)
		}
		c.Add(missing)
		if num, proof := c.Figure(); num != rows[len(rows)-1].After || proof != stock.Proved {
			t.Fatalf("figure %d %s after the missing row came", num, proof)
		}
	})
}

func TestASaleAndAReturnThatAreMissingDoNotHideEachOther(t *testing.T) {
	e := func(no string, at, former, now int64) stock.Movement {
		return stock.Movement{No: no, At: at, Before: former, After: now, Change: now - former, Linked: true}
	}
	c := seriesOf([]stock.Movement{e("1", 100, 11, 10), e("3", 300, 9, 8), e("4", 400, 8, 9), e("6", 600, 10, 9)})
	if gaps := c.Gaps(); len(gaps) == 0 {
		t.Fatal("10 to 9 and 9 to 10 are missing, and nothing shows it")
	}
	c.Add(e("5", 500, 9, 10))
	c.Add(e("2", 200, 10, 9))
	if num, proof := c.Figure(); num != 9 || proof != stock.Proved {
		t.Errorf("%d %s", num, proof)
	}
}

func TestAClockThatIsNotQuiteRightMakesNoGap(t *testing.T) {
	e := func(no string, at, former, now int64) stock.Movement {
		return stock.Movement{No: no, At: at, Before: former, After: now, Change: now - former, Linked: true}
	}
	c := seriesOf([]stock.Movement{e("1", 100, 11, 10), e("2", 205, 10, 9), e("3", 203, 9, 8), e("4", 300, 8, 7)})
	if num, proof := c.Figure(); num != 7 || proof != stock.Proved {
		t.Errorf("%d %s, gaps %v", num, proof, c.Gaps())
	}
}

func TestRowsWithoutBalancesProveNothing(t *testing.T) {
	c := seriesOf([]stock.Movement{{No: "a", At: 1, Change: 10}, {No: "b", At: 2, Change: -3}})
	if num, proof := c.Figure(); num != 7 || proof != stock.Unproved {
		t.Errorf("%d %s", num, proof)
	}
}

// More unlinked balances than anybody can follow cost bounded memory and are never taken for proof.
func TestTooManyGapsAreUnproved(t *testing.T) {
	c := &stock.Series{}
	for i := range int64(1000) {
		c.Add(stock.Movement{No: fmt.Sprint(i), At: i * 100, Before: i * 10, After: i*10 + 1, Change: 1, Linked: true})
	}
	if num, proof := c.Figure(); num != 1000 || proof != stock.Unproved || len(c.Gaps()) != 0 || len(c.Starts)+len(c.Ends) != 0 {
		t.Errorf("%d %s, %d unlinked", num, proof, len(c.Starts)+len(c.Ends))
	}
}

func TestRowsLinkUpInSomeOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := history(t)
		if !stock.Consistent(shuffled(t, rows)) {
			t.Fatalf("%+v do not link up", rows)
		}
	})
	if stock.Consistent([]stock.Movement{{Before: 1, After: 2, Linked: true}, {Before: 3, After: 4, Linked: true}}) {
		t.Error("two that have nothing in common link up")
	}
	if stock.Consistent([]stock.Movement{{Before: 1, After: 2, Linked: true}, {Before: 2, After: 1, Linked: true}, {Before: 7, After: 8, Linked: true}, {Before: 8, After: 7, Linked: true}}) {
		t.Error("two circles apart link up")
	}
}

func TestCoverageMerges(t *testing.T) {
	var c stock.Coverage
	for _, s := range []stock.Interval{{10, 20}, {40, 50}, {21, 30}, {5, 12}} {
		c = c.With(s)
	}
	if len(c) != 2 || !c.Has(stock.Interval{From: 5, To: 30}) || c.Has(stock.Interval{From: 30, To: 40}) {
		t.Errorf("%v", c)
	}
	if u := c.Unread(); len(u) != 1 || u[0] != (stock.Interval{From: 31, To: 39}) {
		t.Errorf("unread %v", u)
	}
}

// A row without a balance changes the latest known balance only when it is later; earlier rows are contained in it,
// whenever they arrive.
func TestAKnownBalanceStands(t *testing.T) {
	c := &stock.Series{}
	moved := func(at, change int64) { c.Add(stock.Movement{No: fmt.Sprint(at), At: at, Change: change}) }
	checkpoint := func(at, former, now int64) {
		c.Add(stock.Movement{No: fmt.Sprint(at), At: at, Before: former, After: now, Change: now - former, Linked: true})
	}
	wants := func(want int64) {
		t.Helper()
		if got, proof := c.Figure(); got != want || proof != stock.Unproved {
			t.Errorf("%d %s, want %d", got, proof, want)
		}
	}
	moved(50, -3)
	wants(-3) // nobody knows what stood before
	checkpoint(100, -3, 7)
	wants(7)
	moved(90, -1)
	moved(40, 5)
	moved(95, 2)
	wants(7)
	moved(110, -2)
	wants(5)

	c = &stock.Series{} // taken over before any row was read
	checkpoint(100, 5, 5)
	moved(90, -1)
	moved(120, -2)
	moved(95, -1)
	wants(3)
}
