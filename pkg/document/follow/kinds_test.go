package follow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// purchases is a kind whose documents cannot be found by the ERP's numbers. A step is published, and what arrived with the
// last one.
var purchases = kind.Kind[*purchasev1.Audited, *purchasev1.Received]{
	Terms: purchaseTerms,
	Channel: func(wh warehouse.Identified) (warehouse.Channel[*purchasev1.Audited, *purchasev1.Received], bool) {
		p, ok := wh.(warehouse.Purchaser)
		if !ok {
			return nil, false
		}
		return p.Purchases(), true
	},
	TooLate: func(s documentv1.Status) bool { return s == documentv1.Status_STATUS_COMPLETED },
	Progress: func(e ledger.Entry, docs []kind.Part[*purchasev1.Received], _ *seller.Seller, now time.Time) kind.Outcome {
		doc, seen := docs[0], kind.StateOf[kind.Seen](e)
		o := kind.Outcome{State: e.State, Following: ledger.Following{Phase: kind.PhaseOpen, State: kind.Stored(seen)}}
		ref, at := purchaseTerms.EntryRef(e, doc.Number), timestamppb.New(doc.State.At)
		about := func(id string, m *documentv1.StatusChanged) {
			o.Events = append(o.Events, purchaseTerms.Topics.StatusChanged.About(e.Key.Seller, e.Key.No, now, m, id))
		}
		if doc.State.Code != seen.Code {
			about(doc.State.Code, &documentv1.StatusChanged{Ref: ref, At: at, Status: doc.State.Status, Code: doc.State.Code})
		}
		switch doc.State.Status {
		case documentv1.Status_STATUS_CANCELLED:
			o.Events = append(o.Events, purchaseTerms.CancelledEvent(ref, doc.State.At, ""))
			o.State, o.Following.Phase = ledger.Cancelled, ""
		case documentv1.Status_STATUS_COMPLETED:
			about("all", &documentv1.StatusChanged{Ref: ref, At: at, Code: fmt.Sprint("received ", doc.Detail.Lines[0].Received)})
			o.Following.Phase = ""
		}
		o.Following.State = kind.Stored(kind.Seen{Status: doc.State.Status, Code: doc.State.Code, StatusAt: doc.State.At})
		return o
	},
}

var purchaseTerms = kind.Terms{
	Name: "purchase", Field: "no", CodeWord: "purchase", ZH: "采购单", EN: "purchase order", NoZH: "采购单号", NoEN: "number",
	Topics: event.OrderOutcomes,
}

// Purchases is the warehouse's channel, with each reading counted.
func (c *calls) Purchases() warehouse.PurchaseChannel { return countedPurchases{c.b.wh.Purchases(), c} }

type countedPurchases struct {
	warehouse.PurchaseChannel
	c *calls
}

func (p countedPurchases) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*purchasev1.Received], error) {
	p.c.reads = append(p.c.reads, len(numbers))
	p.c.b.wait(p.c.takes)
	return p.PurchaseChannel.Read(ctx, numbers)
}

// buy sends purchase orders to the warehouse and records them in the ledger.
func (b *fixture) buy(nos ...string) {
	b.t.Helper()
	p := b.wh.Purchases()
	for _, no := range nos {
		m := &purchasev1.Audited{Seller: "acme", No: no, Supplier: "S", Warehouse: "W01", Lines: []*purchasev1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 5}}}
		receipt, err := p.Send(b.t.Context(), m, p.Plan(m))
		if err != nil {
			b.t.Fatal(err)
		}
		claim := ledger.ClaimRequest{
			Key: purchaseTerms.Key("acme", no), Hash: "h", Owner: "pusher", Revision: 1, Warehouse: "W01", StreamTime: b.now(), AuditedAt: b.now(), First: true,
		}
		if _, err := b.all.Claim(b.t.Context(), claim); err != nil {
			b.t.Fatal(err)
		}
		if err := b.all.Accept(b.t.Context(), claim, receipt.WarehouseNo, nil, b.now()); err != nil {
			b.t.Fatal(err)
		}
	}
}

func many(prefix string, n int) []string {
	nos := make([]string, n)
	for i := range nos {
		nos[i] = fmt.Sprintf("%s-%03d", prefix, i)
	}
	return nos
}

func (b *fixture) bothKinds() { b.Kinds = []Kind{Of(order.Kind), Of(purchases)} }

// Documents that the warehouse does not find by the ERP's numbers are read by its own, as many as a call takes, to their
// end. One that cannot be understood hides no other.
func TestDocumentsThatCannotBeFoundAreRead(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		nos := many("P", 45) // a call takes 20
		b.buy(nos...)
		b.wh.Unreadable = nos[:1]
		if got := b.reported(); len(got) != 44 || got[0] != "MEP00000002 RECEIVED" {
			t.Errorf("%d reported: %v", len(got), got)
		}
		b.expect("calls", b.calls.reads, []int{20, 20, 5})
		if n := strings.Count(b.log.String(), "MEP00000001 cannot be understood"); n != 1 {
			t.Errorf("said %d times:\n%s", n, &b.log)
		}
		b.wait(35 * time.Second)
		b.expect("reported again", b.reported(), []string(nil))
		b.wh.Unreadable = nil
		if err := b.wh.Receive("P-001", "1", purchasev1.Grade_GRADE_GOOD, 3); err != nil {
			t.Fatal(err)
		}
		b.wh.Complete("P-001")
		b.wait(35 * time.Second)
		got := b.reported()
		slices.Sort(got)
		b.expect("reported", got, []string{"MEP00000001 RECEIVED", "MEP00000002 COMPLETED", "MEP00000002 received 3"})
		n, err := b.all.CountFollowed(t.Context(), "purchase", "acme")
		if err != nil || n[0].N != 44 {
			t.Errorf("followed: %v, %v", n, err)
		}
	})
}

// What the warehouse does not show is followed further, and said once.
func TestAMissingDocumentOfAnyKindIsFollowed(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		claim := ledger.ClaimRequest{
			Key: purchaseTerms.Key("acme", "P-9"), Hash: "h", Owner: "pusher", Warehouse: "W01", StreamTime: b.now(), AuditedAt: b.now(),
		}
		if err := b.all.Accept(t.Context(), claim, "MEP77777777", nil, b.now()); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.expect("reported", b.reported(), []string(nil))
			b.wait(35 * time.Second)
		}
		if n := strings.Count(b.log.String(), "1 accepted purchase orders are not known at the warehouse, among them P-9"); n != 1 {
			t.Errorf("said %d times:\n%s", n, &b.log)
		}
		b.expect("calls", len(b.calls.reads), 3)
	})
}

// A backlog of orders at a slow warehouse takes several runs. Purchase orders do not wait for it, nor for their place in the
// list of kinds.
func TestKindsTakeTurns(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		b.accept("W01", many("O", 600)...)
		b.wait(time.Second)
		b.buy(many("P", 25)...)
		b.calls.takes = 6 * time.Second // three calls a run
		read := 0
		for range 2 {
			b.calls.reads = nil
			b.reported()
			read += len(b.calls.reads)
		}
		if read < 2 {
			t.Errorf("%d calls for purchase orders in two runs", read)
		}
	})
}

// A run that ends after one call gives the next run to the kind that is most overdue.
func TestTheMostOverdueKindComesFirst(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.bothKinds()
		b.accept("W01", many("O", 600)...)
		b.reported()
		b.wait(40 * time.Second)
		b.buy("P-1")
		b.calls.takes = 20 * time.Second // one call a run: orders come due again faster than they are looked up
		for range 8 {
			b.reported()
		}
		if len(b.calls.reads) == 0 {
			t.Error("purchase orders are never read")
		}
	})
}

// An entry that an earlier build wrote has no phase. It is not looked up more often than there.
func TestAnEarlierBuildsEntryKeepsItsPace(t *testing.T) {
	k := Of(order.Kind)
	stored := func(s documentv1.Status) ledger.Entry {
		return ledger.Entry{Following: &ledger.Following{State: kind.Stored(kind.Seen{Status: s})}}
	}
	for s, want := range map[documentv1.Status]ledger.Phase{
		documentv1.Status_STATUS_SHIPPED: kind.PhaseLate, documentv1.Status_STATUS_PACKED: kind.PhaseSoon, documentv1.Status_STATUS_PICKING: kind.PhaseOpen,
	} {
		if got := k.phase(stored(s)); got != want {
			t.Errorf("at %s: %q, want %q", s, got, want)
		}
	}
	if got := k.phase(ledger.Entry{Following: &ledger.Following{}}); got != "" {
		t.Errorf("just accepted: %q", got)
	}
}
