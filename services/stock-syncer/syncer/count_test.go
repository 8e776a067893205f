package syncer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

func figures(parts []*stockv1.Counted) map[string]int64 {
	found := map[string]int64{}
	for _, p := range parts {
		for _, g := range p.Goods {
			found[g.GoodsNo] = g.Saleable
		}
	}
	return found
}

// A warehouse with more pages than a run may read is counted in several runs, and published in parts.
func TestALargeWarehouseIsCountedInSeveralRuns(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.perPage = 100
		for i := range 950 {
			b.wh.put(fmt.Sprintf("N%03d", i), int64(i))
		}
		b.countTick() // begins to track orders
		b.advance(2 * time.Minute)
		b.wh.before = func(int) error { b.advance(5 * time.Second); return nil }
		ticks, began := 0, b.now()
		var parts []*stockv1.Counted
		for len(parts) == 0 && ticks < 100 {
			ticks++
			for _, e := range b.countTick().events {
				parts = append(parts, e.Message.(*stockv1.Counted))
			}
		}
		if ticks < 3 || b.wh.calls != 20 {
			t.Errorf("%d ticks and %d calls for ten pages, twice for the first count", ticks, b.wh.calls)
		}
		found := figures(parts)
		if len(parts) != 5 || len(found) != 949 || found["N949"] != 949 {
			t.Errorf("%d parts, %d goods", len(parts), len(found))
		}
		for i, p := range parts {
			if p.CountId != parts[0].CountId || int(p.Part) != i+1 || p.Parts != 5 || !p.At.AsTime().Equal(parts[0].At.AsTime()) {
				t.Errorf("part %d: %s %d/%d", i, p.CountId, p.Part, p.Parts)
			}
		}
		if at := parts[0].At.AsTime(); at.Before(began.Truncate(time.Second)) || at.After(began.Add(5*time.Second)) {
			t.Errorf("counted at %v, it began at %v", at, began)
		}
		if more := b.countTick().events; len(more) > 0 || b.wh.calls != 20 {
			t.Errorf("a tick after that published %v", more)
		}
	})
}

// Rows that move between pages are read again, from where they moved; the scan is given up when they keep moving.
func TestPagesThatShiftAreReadAgain(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	for i := range 9 {
		b.wh.put(fmt.Sprintf("N%d", i), 10)
	}
	b.advance(2 * time.Minute)
	shifts := 0
	b.wh.before = func(page int) error {
		if page == 2 && shifts < 2 { // N0 was read; all the others move up by one
			b.wh.put(fmt.Sprintf("N%d", shifts), 0)
			if shifts++; shifts == 2 { // as many rows as before, and one would be missing
				b.wh.put("N9", 10)
			}
		}
		return nil
	}
	found := figures(b.count())
	if len(found) != 10 || found["N0"] != 10 || found["N3"] != 10 || found["N4"] != 10 || found["N9"] != 10 { // N0 and N1 disappeared after the count began
		t.Errorf("counted %v", found)
	}

	// The same with goods that were counted before: one that was only missed is not published as gone, one that is
	// gone is.
	b.wh.before = func(page int) error {
		if page == 2 && shifts == 2 {
			shifts++
			b.wh.put("N2", 0)
			b.wh.put("N91", 10)
		}
		return nil
	}
	b.requestCount()
	if found = figures(b.count()); found["N5"] != 10 || found["N1"] != 0 || found["N91"] != 10 {
		t.Errorf("counted %v", found)
	}
	b.wh.before = nil
	b.requestCount()
	if found = figures(b.count()); found["N2"] != 0 || found["N5"] != 10 {
		t.Errorf("counted %v", found)
	}

	b.wh.before = func(page int) error { // one comes and goes all the time
		shifts++
		b.wh.put("A0", int64(shifts%2))
		return nil
	}
	b.requestCount()
	events, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
	if !errors.Is(err, errShifted) || len(events) > 0 {
		t.Fatalf("published %v: %v", events, err)
	}
	for _, f := range after {
		if err := f(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b.wh.before = nil
	if found := figures(b.count()); found["N3"] != 10 || found["N8"] != 10 {
		t.Errorf("the next tick counted %v", found)
	}
}

// Goods that sell out, or come, while a large warehouse is counted cost a few calls each and miss no other goods.
func TestALargeWarehouseIsCountedWhileGoodsSellOut(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.wh.perPage = 10
	const goods = 1000
	for i := range goods {
		b.wh.put(fmt.Sprintf("N%04d", i), 10)
	}
	b.advance(2 * time.Minute)
	b.count()
	first := b.wh.calls
	b.advance(2 * time.Minute)
	b.requestCount()
	dice, changes, moved := rand.New(rand.NewPCG(1, 2)), 0, map[string]bool{}
	b.wh.before = func(int) error {
		if dice.IntN(10) > 0 {
			return nil
		}
		changes++
		no := fmt.Sprintf("N%04d", dice.IntN(goods))
		if dice.IntN(3) == 0 {
			no = fmt.Sprintf("N%04d-new", dice.IntN(goods))
			b.wh.put(no, 10)
		} else {
			b.wh.put(no, 0)
		}
		moved[no] = true
		return nil
	}
	found := figures(b.count())
	calls := b.wh.calls - first
	for i := range goods {
		if no := fmt.Sprintf("N%04d", i); !moved[no] && found[no] != 10 {
			t.Errorf("%s was there all the time, and %d were counted", no, found[no])
		}
	}
	if changes < 10 || calls > 2*goods/10+3*changes {
		t.Errorf("%d calls for %d pages read twice and %d changes", calls, goods/10, changes)
	}
}

// A run holds no more rows and publishes no more parts than it may, and the next one goes on with what is left.
func TestALargeCountIsPublishedInSeveralRuns(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		const goods = 2*partsPerRun*goodsPerEvent + 1
		b.wh.perPage = 2000
		for i := range goods {
			b.wh.put(fmt.Sprintf("N%05d", i), 1)
		}
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
		var parts []*stockv1.Counted
		runs := 0
		for {
			runs++
			events, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
			if len(events) > partsPerRun {
				t.Fatalf("%d parts of one run", len(events))
			}
			for _, e := range events {
				parts = append(parts, e.Message.(*stockv1.Counted))
			}
			if runs == 2 { // killed: nothing of it is in the book
				if fault.Of(err) != fault.Wait {
					t.Fatalf("the run ended with %v, want one that goes on at once", err)
				}
				b.advance(countLease + time.Second)
				parts = parts[:partsPerRun]
				continue
			}
			for _, f := range after {
				if err := f(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err == nil {
				break
			}
			if head, err := HeadOf(t.Context(), b.store, "acme", "W1"); err != nil || !head.Counted.IsZero() {
				t.Fatalf("counted %v after %d parts, %v", head.Counted, len(parts), err)
			}
			b.requestCount() // comes after this one
		}
		found := figures(parts)
		if runs != 4 || len(found) != goods || len(parts) != 2*partsPerRun+1 {
			t.Errorf("%d runs, %d goods in %d parts", runs, len(found), len(parts))
		}
		for i, p := range parts {
			if p.CountId != parts[0].CountId || int(p.Part) != i+1 || int(p.Parts) != len(parts) {
				t.Errorf("part %d: %s %d/%d", i, p.CountId, p.Part, p.Parts)
			}
		}
		if g, known, err := GoodsOf(t.Context(), b.store, "acme", "W1", "N12800"); err != nil || !known || g.Saleable != 1 {
			t.Errorf("%+v, %v, %v", g, known, err)
		}
	})
}

// A scan that goes on is not given up however long it takes: at the quota's floor 100 000 rows take hours.
func TestASlowScanIsNotGivenUp(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	for i := range 30 {
		b.wh.put(fmt.Sprintf("N%02d", i), 10)
	}
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	b.wh.before = func(int) error { b.advance(20 * time.Minute); return nil }
	for range 20 {
		b.countTick()
	}
	if head, err := HeadOf(t.Context(), b.store, "acme", "W1"); err != nil || head.Counted.IsZero() || b.wh.calls > 40 {
		t.Errorf("counted %v in %d calls, %v", head.Counted, b.wh.calls, err)
	}
}

// 50 000 goods take some 10 MB while their count is published.
func TestATallyIsSmall(t *testing.T) {
	const goods = 50_000
	fields := make([][]byte, 0, goods/rowsPerField)
	for i := 0; i < goods; i += rowsPerField {
		var rows []warehouse.StockRow
		for j := range rowsPerField {
			rows = append(rows, warehouse.StockRow{
				GoodsNo: fmt.Sprintf("EMG44180%08d", i+j), GoodsCode: fmt.Sprintf("SKU-%06d", i+j), Status: "1", Type: "1", Level: "100", Total: 1000, Usable: 990, Saleable: true,
			})
		}
		field, n := encodeRows(rows)
		if n != len(rows) {
			t.Fatalf("%d of %d rows fit", n, len(rows))
		}
		fields = append(fields, field)
	}
	size := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc) //nolint:gosec // small
	}
	before := size()
	sum := newTally()
	for range 2 { // passes
		for _, field := range fields {
			if !decodeRows(field, sum.add) {
				t.Fatal("a field cannot be read")
			}
		}
	}
	took := size() - before
	if got := sum.sum("EMG4418000012345"); len(sum.goods) != goods || len(sum.rows) != goods || got.saleable != 990 || got.code != "SKU-012345" {
		t.Errorf("%d goods, %d rows, %+v", len(sum.goods), len(sum.rows), got)
	}
	if took > 12<<20 {
		t.Errorf("%d bytes for %d goods", took, goods)
	}
	t.Logf("%.1f MiB", float64(took)/(1<<20))
}

func FuzzDecodeRows(f *testing.F) {
	field, _ := encodeRows([]warehouse.StockRow{{GoodsNo: "G1", GoodsCode: "c", Status: "1", Type: "1", Level: "100", Total: 5, Usable: -1, Saleable: true}, goneGoods("G2", "")})
	f.Add(field)
	f.Add([]byte{})
	f.Add([]byte{rowsVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, field []byte) {
		var rows []warehouse.StockRow
		if !decodeRows(field, func(row warehouse.StockRow) { rows = append(rows, row) }) {
			return
		}
		var again []warehouse.StockRow
		for rest := rows; len(rest) > 0; {
			field, n := encodeRows(rest)
			if !decodeRows(field, func(row warehouse.StockRow) { again = append(again, row) }) {
				t.Fatal("what was written cannot be read")
			}
			rest = rest[n:]
		}
		if !slices.Equal(rows, again) {
			t.Errorf("read %v, then %v", rows, again)
		}
	})
}

// What was published and not yet written into the book when the worker was killed is counted again.
func TestACountWhoseWorkerWasKilledIsRepeated(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.wh.put("G1", 10)
	b.advance(time.Minute)
	if _, _, err := b.runCount(t.Context(), "acme", "W1", time.Time{}); err != nil { // begins to track orders
		t.Fatal(err)
	}
	b.advance(countLease + time.Minute)
	if events, _, err := b.runCount(t.Context(), "acme", "W1", time.Time{}); err != nil || len(events) != 1 {
		t.Fatalf("published %v: %v", events, err)
	}
	b.advance(countLease + time.Second)
	if len(b.count()) != 1 {
		t.Error("it was not counted again")
	}
}

// The set-up says how often a warehouse is counted; a paused seller is left alone.
func TestWhenAWarehouseIsCounted(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	b.wh.put("G1", 10)
	counts := func() int { return len(b.countTick().events) }
	if counts() != 1 || counts() != 0 {
		t.Error("want one count, at once")
	}
	b.advance(59 * time.Minute)
	if counts() != 0 {
		t.Error("counted before an hour was over")
	}
	b.advance(time.Minute)
	if counts() != 1 {
		t.Error("not counted after an hour")
	}
	b.requestCount()
	_ = b.Pause(t.Context(), "acme", sellerPause)
	if counts() != 0 {
		t.Error("counted although the seller is paused")
	}
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	if counts() != 1 {
		t.Error("an operator's request was forgotten")
	}
}

// Failures in a row pause the seller; a lasting failure is logged once.
func TestAWarehouseThatFailsIsLeftAlone(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	b.wh.before = func(int) error { return errors.New("down") }
	for range 3 {
		_, after, err := b.runCount(t.Context(), "acme", "W1", time.Time{})
		if err == nil {
			t.Fatal("want an error")
		}
		for _, f := range after {
			_ = f(t.Context())
		}
	}
	if s, _ := b.Get("acme"); s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_BREAKER {
		t.Errorf("pause %v", s.Pause)
	}
	b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
	b.wh.before = func(int) error { return warehouse.ErrNotPermitted }
	if n := len(b.countTick().events); n != 0 {
		t.Errorf("%d events", n)
	}
}

// ratioChanged plays a row of the flow that says that a ratio was changed at the warehouse. It returns what is
// published.
func (b *fixture) ratioChanged(at time.Time, flowNo string) []event.Event {
	b.t.Helper()
	m := &stockv1.Noted{Rule: "ratio", Movement: &stockv1.Movement{Seller: "acme", Warehouse: "W1", ShopNo: "ESPA", GoodsNo: "G1", FlowNo: flowNo, At: stamp(at)}}
	events, err := b.Noted(b.t.Context(), nil, m)
	if err != nil {
		b.t.Fatal(err)
	}
	return events
}

// A lower ratio at JD than ours would oversell: no share rises until a person or the set-up answers.
func TestAfterAChangeOfARatioSharesFallButDoNotRise(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.count()
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
		count := func(n int64) {
			b.wh.put("G1", n)
			b.advance(2 * time.Minute)
			b.requestCount()
			b.count()
		}

		if events := b.ratioChanged(b.now().Add(-time.Hour), "F0"); len(events) != 0 {
			t.Errorf("a change from before the set-up counts: %v", events)
		}
		b.advance(time.Minute)
		changed := b.now()
		first := b.ratioChanged(changed, "F1")
		if again := b.ratioChanged(changed, "F1"); len(first) != 1 || len(again) != 1 || first[0].ID != again[0].ID || first[0].Name != "stock.share.doubtful" {
			t.Errorf("published %v, then %v: want the same event both times", first, again)
		}
		count(200)
		b.wants(b.share())
		count(50)
		b.wants(b.share(), "A G1 7", "B G1 3", "C G1 10")
		count(80)
		b.wants(b.share())

		// Another change of the set-up is no answer.
		b.apply(func(s *sellerv1.Setup) { s.Title = "Acme" })
		b.wants(b.share())
		// Another ratio is.
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools[0].Ratio = "25" })
		b.wants(b.share(), "A G1 10", "B G1 5", "C G1 16")
		if events := b.ratioChanged(changed, "F1"); len(events) != 0 {
			t.Errorf("a change that was answered counts again: %v", events)
		}

		// So is an operator's confirmation.
		b.advance(time.Minute)
		b.ratioChanged(b.now(), "F2")
		count(120)
		b.wants(b.share())
		if change, err := ConfirmRatios(t.Context(), b.store, "acme", "W1", b.now()); err != nil || change == nil || change.FlowNo != "F2" {
			t.Errorf("confirmed %v, %v", change, err)
		}
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 24")
		if change, err := ConfirmRatios(t.Context(), b.store, "acme", "W1", b.now()); err != nil || change != nil {
			t.Errorf("confirmed again: %v, %v", change, err)
		}
	})
}

// A run that died had decided before the ratio became doubtful: what it was about to publish is published again, or
// less.
func TestWhatWasAboutToBePublishedInDoubtDoesNotRise(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.count()
		b.wants(lines(b.shareBy(b.Syncer)), "A G1 15", "B G1 8", "C G1 20") // and then it dies
		b.advance(shareLease + time.Second)
		b.ratioChanged(b.now(), "F1")
		if err := b.accepted("X1", "A", b.now(), line("G1", 10)); err != nil {
			t.Fatal(err)
		}
		b.wants(b.share(), "A G1 10", "B G1 5", "C G1 18")
		b.wh.put("G1", 500)
		b.advance(2 * time.Minute)
		b.requestCount()
		b.count()
		b.wants(b.share())
	})
}

// A warehouse that does not say how many rows there are is counted all the same, up to its empty page.
func TestAWarehouseThatDoesNotCountItsRowsIsCounted(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.wh.noTotal = true
	for i := range 7 {
		b.wh.put(fmt.Sprintf("N%d", i), int64(i+1))
	}
	b.advance(2 * time.Minute)
	if found := figures(b.count()); len(found) != 7 || found["N6"] != 7 {
		t.Errorf("counted %v", found)
	}
}
