package ingester

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

func (b *fixture) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestEachMovementIsPublishedOnceAndTheBookIsTheStock(t *testing.T) {
	b := newFixture(t)
	for i := range 40 {
		b.remote.move(fmt.Sprint("G", i%3), int64(i%5-1))
		b.advance(17 * time.Second)
	}
	b.run(30 * time.Minute)
	b.must(b.complete())
	for id, n := range b.ids {
		if n > 1 {
			t.Errorf("%s published %d times", id, n)
		}
	}
	if n := count(b, func(m *vmiv1.WindowIngested) bool {
		return m.Continuity == vmiv1.Continuity_CONTINUITY_PROVED && m.Adjusted > 0
	}); n == 0 {
		t.Error("no certificate")
	}
	if n := testutil.ToFloat64(b.Metrics.Rebuilds); n != 1 {
		t.Errorf("the book was built %v times, want once, at the beginning", n)
	}
}

func TestARowThatIsLeftOutIsFoundAndFetched(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	for i := range 20 {
		if row := b.remote.move("G", -1); i == 7 {
			row.hidden = 2
		}
		b.advance(20 * time.Second)
	}
	b.run(time.Hour)
	b.must(b.complete())
	if n := count(b, func(m *vmiv1.GapFound) bool { return m.GoodsNo == "G" && m.LeftAt == -7 && m.FoundAt == -8 }); n != 1 {
		t.Errorf("the gap was published %d times", n)
	}
}

func TestARowThatNeverComesIsLeftToAPersonAndBlocksNothing(t *testing.T) {
	b := newFixture(t)
	b.remote.move("G", 5)
	b.advance(time.Minute)
	lost := b.remote.move("G", -2)
	lost.hidden = 1 << 30
	for range 5 {
		b.advance(time.Minute)
		b.remote.move("G", -1)
		b.remote.move("H", 3)
	}
	b.run(3 * time.Hour)
	if len(b.rejected) != 1 || fault.ReasonOf(b.rejected[0], "").Code != "gap.open" {
		t.Fatalf("rejected %v", b.rejected)
	}
	if n := count(b, func(m *vmiv1.WindowFailed) bool { return m.Reason.Code == "gap.open" }); n != 1 {
		t.Errorf("its failure was published %d times", n)
	}
	if f := b.figures()["H"]; f.Num != 15 {
		t.Errorf("the other goods: %+v", f)
	}
	// It came: the operator's refetch applies it once.
	lost.hidden = 0
	b.queue = append(b.queue, message{Event: Window(&vmiv1.WindowDue{
		Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", From: timestamppb.New(lost.At), To: timestamppb.New(lost.At), Why: vmiv1.Why_WHY_REFETCH,
	}, b.now(), "wish")})
	b.run(5 * time.Minute)
	b.must(b.complete())
}

// A window has its own number of attempts, independent of that of gap windows, and what the warehouse said reaches
// the operator.
func TestAWindowThatFailsIsDeadLetteredWithTheWarehousesAnswer(t *testing.T) {
	b := newFixture(t)
	b.Attempts = 3
	b.remote.fail = func(warehouse.FlowQuery) error {
		return &warehouse.Rejected{Reason: fault.Reason{Code: "stock.refused", ZH: "京东没有执行", EN: "JD did not", RemoteCode: "50", RemoteText: "系统忙"}}
	}
	b.run(10 * time.Minute)
	b.remote.move("G", 5)
	b.run(10 * time.Minute)
	failed := 0
	for _, e := range b.events {
		m, ok := e.Message.(*vmiv1.WindowFailed)
		if !ok {
			continue
		}
		failed++
		if m.Attempts != 3 || m.Reason.Code != "stock.refused" || m.Reason.RemoteText != "系统忙" || m.Reason.RemoteCode != "50" {
			t.Errorf("published: %v", m)
		}
	}
	if failed == 0 || failed != len(b.rejected) {
		t.Fatalf("%d failures published, rejected %v", failed, b.rejected)
	}
	// Later windows are read, and the failed one is fetched again.
	b.remote.fail = nil
	b.remote.move("G", -1)
	b.run(2 * time.Hour)
	b.must(b.complete())
}

func TestMoreThanFiftyPagesAreHalved(t *testing.T) {
	b := newFixture(t)
	b.remote.pageSize = 10
	for i := range 700 {
		b.remote.move(fmt.Sprint("G", i%7), 1)
		if i%2 == 0 {
			b.advance(time.Second)
		}
	}
	b.run(30 * time.Minute)
	b.must(b.complete())
	if n := count(b, func(m *vmiv1.WindowDue) bool { return m.Why == vmiv1.Why_WHY_HALF }); n < 2 {
		t.Errorf("%d halves", n)
	}
}

func TestTwoHundredRowsOfOneSecondAreRead(t *testing.T) {
	b := newFixture(t)
	b.remote.pageSize, b.remote.shuffling = 3, true // more than fifty pages that cannot be halved
	b.advance(time.Minute)
	for i := range 200 {
		b.remote.move("G", int64(i%3-1)*2+1)
	}
	b.run(30 * time.Minute)
	b.must(b.complete())
}

func TestShopsThatAreBookedFromDocumentsAreOnlyChecked(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Shops[0].Booking = sellerv1.Shop_BOOKING_DOCUMENTS })
	b.remote.move("G", 5)
	b.remote.move("G", -2).Rule = warehouse.RuleSet
	b.run(10 * time.Minute)
	if n := len(b.adjusted()); n != 0 {
		t.Errorf("%d to be booked", n)
	}
	if f := b.figures()["G"]; f.Num != 3 {
		t.Errorf("%+v", f)
	}
	for _, rule := range []string{"documents", "set"} {
		if n := count(b, func(m *stockv1.Noted) bool { return m.Rule == rule && m.Zh != "" && m.En != "" }); n != 1 {
			t.Errorf("%d noted by %s", n, rule)
		}
	}
}

func TestACrashBetweenPublishingAndApplyingPublishesTheSameAgain(t *testing.T) {
	b := newFixture(t)
	b.remote.move("G", 5)
	b.advance(time.Minute)
	b.remote.move("G", -2)
	dead := 0
	b.crash = func() bool { dead++; return dead%3 == 2 }
	b.run(time.Hour)
	b.must(b.complete())
}

func TestALostLedgerIsRebuiltFromTheStreams(t *testing.T) {
	b := newFixture(t)
	for i := range 30 {
		b.remote.move(fmt.Sprint("G", i%3), 2)
		b.advance(20 * time.Second)
	}
	b.run(40 * time.Minute)
	b.must(b.complete())
	planned, err := b.store.State(t.Context(), b.at)
	b.must(err)
	b.redis.Wipe()
	before := len(b.events)
	b.remote.move("G1", -7)
	b.run(20 * time.Minute)
	b.must(b.complete())
	after, err := b.store.State(t.Context(), b.at)
	b.must(err)
	if after.Plan.Start != planned.Plan.Start || after.Plan.Until < planned.Plan.Until {
		t.Errorf("planned %+v, before %+v", after.Plan, planned.Plan)
	}
	for _, e := range b.events[before:] {
		if a, ok := e.Message.(*stockv1.Adjusted); ok && a.Movement.FlowNo != "F000031" {
			t.Errorf("published again: %s", e.ID)
		}
	}
}

// A flow that returns only some movements is not read. Another method that is set up later begins where the last
// window ended.
func TestAPartialFlowIsNotRead(t *testing.T) {
	b := newFixture(t)
	b.remote.move("G1", 2)
	b.advance(time.Minute)
	b.run(10 * time.Minute)
	b.switchFlow()
	b.remote.partial = true
	b.remote.move("G1", 3)
	b.advance(time.Minute)
	published := len(b.adjusted())
	_, _, err := b.plan(t.Context(), b.seller, b.at, b.now())
	if fault.Cause(err) != seller.CauseFlow(b.at.Seller) || fault.ReasonOf(err, "").Code != "flow.partial" {
		t.Errorf("planned: %v", err)
	}
	if b.seller.Cleared(fault.Cause(err)) || len(b.adjusted()) != published {
		t.Errorf("%d published", len(b.adjusted())-published)
	}
	b.advance(time.Hour)
	back := proto.CloneOf(b.seller.Setup)
	back.Stock.Flow = sellerv1.Stock_FLOW_UNSPECIFIED
	b.seller = seller.New(back, nil)
	b.remote.unlinked, b.remote.prefix, b.remote.partial = false, "", false
	if !b.seller.Cleared(seller.CauseFlow(b.at.Seller)) {
		t.Error("still held")
	}
	b.run(time.Hour)
	if sum := b.booked(); sum != 5 {
		t.Errorf("%d pieces were published, want 5", sum)
	}
}

func TestTheNewerMethodProvesNothingAndPublishesEachRowOnce(t *testing.T) {
	b := newFixture(t)
	b.remote.unlinked = true
	for i := range 30 {
		b.remote.move(fmt.Sprint("G", i%3), 2)
		b.advance(20 * time.Second)
	}
	b.run(40 * time.Minute)
	b.must(b.complete())
	if n := count(b, func(m *vmiv1.WindowIngested) bool { return m.Continuity != vmiv1.Continuity_CONTINUITY_UNPROVED }); n != 0 {
		t.Errorf("%d certificates claim a proof that does not exist", n)
	}
}

// What is missing of slow goods may lie in more time than the warehouse answers at once.
func TestAGapOfManyDaysIsFetchedInParts(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	b.remote.move("G", 5)
	b.advance(30 * time.Hour)
	b.remote.move("G", -2).hidden = 1
	b.advance(40 * time.Hour)
	b.remote.move("G", -1)
	b.run(time.Hour)
	b.must(b.complete())
	if n := count(b, func(*vmiv1.GapFound) bool { return true }); n != 1 || len(b.rejected) != 0 {
		t.Errorf("%d gaps, rejected %v", n, b.rejected)
	}
}

// Rows of another warehouse are no movements here; the certificate says how many there were.
func TestRowsOfAnotherWarehouseAreCounted(t *testing.T) {
	b := newFixture(t)
	b.remote.elsewhere = 3
	b.remote.move("G", 5)
	b.run(10 * time.Minute)
	b.must(b.complete())
	if n := count(b, func(m *vmiv1.WindowIngested) bool {
		sum := m.Adjusted + m.Repeated
		elsewhere := int64(0)
		for _, c := range m.Noted {
			if sum += c.Rows; c.Rule == "elsewhere" {
				elsewhere = c.Rows
			}
		}
		return m.Rows == 4 && sum == 4 && elsewhere == 3
	}); n == 0 {
		t.Error("no certificate counts them")
	}
}

// The warehouse's methods number the same movement each in its own way: after a change of stock.flow neither reads
// what the other published.
func TestNoMovementIsPublishedByBothMethods(t *testing.T) {
	b := newFixture(t)
	for i := range 12 {
		b.remote.move(fmt.Sprint("G", i%3), 2)
		b.advance(20 * time.Second)
	}
	b.run(20 * time.Minute) // its second look is yet to come
	waits := Window(&vmiv1.WindowDue{
		Seller: b.at.Seller, Warehouse: "W1", ShopNo: "ESP1", From: timestamppb.New(b.began), To: timestamppb.New(b.began.Add(time.Minute)), Why: vmiv1.Why_WHY_REFETCH,
	}, b.now(), "held since")
	changed := proto.CloneOf(b.seller.Setup)
	changed.Stock.Flow = sellerv1.Stock_FLOW_SEARCH
	b.seller = seller.New(changed, nil)
	b.remote.unlinked, b.remote.prefix = true, "x"
	b.queue = append(b.queue, message{Event: waits})
	for b.step() { // before the plan reflects the change
		continue
	}
	for i := range 12 {
		b.remote.move(fmt.Sprint("G", i%3), 2)
		b.advance(20 * time.Second)
	}
	b.run(time.Hour)
	sum := int64(0)
	for _, e := range b.events {
		if a, ok := e.Message.(*stockv1.Adjusted); ok {
			sum += a.Movement.Change
		}
	}
	if sum != 48 || len(b.adjusted()) != 24 {
		t.Errorf("%d movements of %d pieces were published, there were 24 of 48", len(b.adjusted()), sum)
	}
	if len(b.rejected) != 1 || fault.ReasonOf(b.rejected[0], "").Code != "window.turned" {
		t.Errorf("rejected: %v", b.rejected)
	}
}
