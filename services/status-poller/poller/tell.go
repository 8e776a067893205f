package poller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// waybillGrace: an order that left without a waybill is told when the waybill is known, or after this long without one.
const waybillGrace = 10 * time.Minute

// document is one document of an order at the warehouse: the one that was accepted, one that it was split into, or a
// further one under the same outbound number.
type document struct {
	warehouse.Details
	number string
	// splitOf is the document that this one was split from; empty when it was not.
	splitOf string
	// missing: the warehouse does not know it (yet). Nothing is concluded from that.
	missing bool
}

// leaf: goods leave under this document. Those of a document that was split leave under its children.
func (d document) leaf() bool { return len(d.Children) == 0 }

// outcome is what one full look at an order leads to.
type outcome struct {
	events     []event.Event
	exceptions []exception
	state      ledger.State
	next       ledger.Following
	// open: it goes on; phase says at whose pace.
	open  bool
	phase orderv1.Status
}

// telling is the work on one outcome. The first document is tracked in Following itself, all others in Children.
type telling struct {
	outcome
	entry          ledger.Entry
	docs           []document
	shipWhenPacked bool
	now            time.Time
	// before and after are what is told of each document, in the order of docs.
	before, after []ledger.Child
}

// tell works out what is new about an order. docs[0] is the document that was accepted; a document comes before those
// that it was split into.
func tell(e ledger.Entry, docs []document, shipWhenPacked bool, now time.Time) outcome {
	t := &telling{entry: e, docs: docs, shipWhenPacked: shipWhenPacked, now: now}
	t.state, t.next = e.State, following(e)
	t.next.Children = maps.Clone(t.next.Children)
	for i, doc := range docs {
		known := t.next.Children[doc.number]
		if i == 0 {
			known = ledger.Child{Status: t.next.Status, Code: t.next.Code, Shipped: t.next.Shipped}
		}
		t.before = append(t.before, known)
	}
	t.after = slices.Clone(t.before)

	t.twice()
	for i := range docs {
		t.steps(i)
	}
	t.shipped()
	t.delivered()
	t.cancelled()
	t.remember()
	return t.outcome
}

// steps tells the steps of one document that were not told yet.
func (t *telling) steps(i int) {
	doc, after := t.docs[i], &t.after[i]
	if doc.missing {
		return
	}
	lastAt := time.Time{}
	if i == 0 {
		lastAt = t.next.StatusAt
	}
	for _, s := range untold(doc.Details, after.Code, lastAt) {
		at := t.at(s.At)
		t.say(event.OrderStatusChanged.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.StatusChanged{
			Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status, Code: s.Code, Text: s.Text,
		}, doc.number, s.id))
		if doc.leaf() && returning(s.Status) {
			t.say(event.OrderReturning.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Returning{
				Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status,
			}, doc.number, s.id))
		}
		if s.Status != orderv1.Status_STATUS_UNSPECIFIED {
			after.Status = s.Status // a code without a word of ours leaves the phase as it was
		}
		if i == 0 {
			t.next.StatusAt = at
		}
	}
	if s := doc.State; s.Status != orderv1.Status_STATUS_UNSPECIFIED {
		after.Status = s.Status
	}
	after.Code = doc.State.Code
}

// shipped tells what left, once per leaf. A leaf that the warehouse cancelled has not left, whatever its history says.
func (t *telling) shipped() {
	for i, doc := range t.docs {
		if doc.missing || !doc.leaf() || t.after[i].Shipped {
			continue
		}
		at, ok := t.leftAt(doc)
		if !ok || cancelled(doc) || len(doc.Waybills) == 0 && t.now.Sub(at) < waybillGrace {
			continue
		}
		t.after[i].Shipped = true
		t.sayShipped(doc, at, t.settled())
	}
	// The last open leaf of a split order may be cancelled after the others left: then its own event, which says that
	// nothing of it left, closes the order.
	for i, doc := range slices.Backward(t.docs) {
		if doc.leaf() && cancelled(doc) && !t.before[i].Shipped && t.before[i].Status != orderv1.Status_STATUS_CANCELLED {
			if t.settled() && t.anyShipped() && !t.toldComplete() {
				none := document{number: doc.number, splitOf: doc.splitOf}
				for _, l := range doc.Lines {
					l = proto.CloneOf(l)
					l.Shipped = 0
					none.Lines = append(none.Lines, l)
				}
				t.sayShipped(none, doc.State.At, true)
			}
			return
		}
	}
}

func (t *telling) sayShipped(doc document, at time.Time, complete bool) {
	at = t.at(at)
	t.say(event.OrderShipped.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Shipped{
		Ref: t.ref(doc), At: timestamppb.New(at), CarrierNo: doc.CarrierNo, CarrierName: doc.CarrierName,
		Waybills: doc.Waybills, Packages: doc.Packages, Lines: doc.Lines, SplitOf: doc.splitOf, Complete: complete,
	}, doc.number))
}

// settled: of every leaf it is told that it left, or known that it will not.
func (t *telling) settled() bool {
	for i, doc := range t.docs {
		if doc.missing || doc.leaf() && !t.after[i].Shipped && !cancelled(doc) {
			return false
		}
	}
	return true
}

func (t *telling) anyShipped() bool {
	for i, doc := range t.docs {
		if doc.leaf() && t.after[i].Shipped {
			return true
		}
	}
	return false
}

// toldComplete: this run tells a shipment that closes the order.
func (t *telling) toldComplete() bool {
	return slices.ContainsFunc(t.events, func(e event.Event) bool {
		m, ok := e.Message.(*orderv1.Shipped)
		return ok && m.Complete
	})
}

// delivered tells once that the buyer has all that left.
func (t *telling) delivered() {
	var at time.Time
	news, some := false, false
	for i, doc := range t.docs {
		if doc.missing {
			return
		}
		if !doc.leaf() || cancelled(doc) {
			continue
		}
		if t.after[i].Status != orderv1.Status_STATUS_DELIVERED {
			return
		}
		some = true
		news = news || t.before[i].Status != orderv1.Status_STATUS_DELIVERED
		if doc.State.At.After(at) {
			at = doc.State.At
		}
	}
	if some && news {
		at = t.at(at)
		t.say(event.OrderDelivered.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Delivered{
			Ref: t.ref(t.docs[0]), At: timestamppb.New(at),
		}, t.docs[0].number))
	}
}

// cancelled tells that nothing will leave: the warehouse says so of every leaf, and nothing left. One that is
// cancelled after it left is for a person.
func (t *telling) cancelled() {
	all := true
	var at time.Time
	for i, doc := range t.docs {
		if doc.missing || doc.leaf() && !cancelled(doc) {
			all = false
			continue
		}
		if !doc.leaf() {
			continue
		}
		if t.after[i].Shipped {
			all = false
			if t.before[i].Status != orderv1.Status_STATUS_CANCELLED {
				t.exceptions = append(t.exceptions, exception{doc.number, fault.Reason{
					Code: "cancelled.after.shipped", RemoteCode: doc.State.Code, RemoteText: doc.State.Text,
					ZH: fmt.Sprintf("仓库单据 %s 出库后又显示已取消；未按取消处理，请向仓库核实", doc.number),
					EN: fmt.Sprintf("document %s is cancelled although it left; not told as cancelled: ask the warehouse", doc.number),
				}})
			}
		}
		if doc.State.At.After(at) {
			at = doc.State.At
		}
	}
	if !all || t.entry.State == ledger.Cancelled {
		return
	}
	t.state = ledger.Cancelled
	at = t.at(at)
	t.say(event.OrderCancelled.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Cancelled{
		Ref: t.ref(t.docs[0]), At: timestamppb.New(at),
	}, t.docs[0].number))
}

// twice is the exception that must never be quiet: further documents under the order's number.
func (t *telling) twice() {
	var others []string
	news := false
	for i, doc := range t.docs {
		if i > 0 && doc.splitOf == "" {
			others = append(others, doc.number)
			_, told := t.next.Children[doc.number]
			news = news || !told
		}
	}
	if !news {
		return
	}
	numbers := t.docs[0].number + "+" + strings.Join(others, "+")
	t.exceptions = append(t.exceptions, exception{numbers, fault.Reason{
		Code: "warehouse.twice", Field: "outbound_no", RemoteText: numbers,
		ZH: "仓库中同一出库单号有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this outbound number; have all but one cancelled at once",
	}})
}

// remember writes what is told into the next entry, and whether and how fast it goes on.
func (t *telling) remember() {
	t.next.Due = time.Time{}
	first := t.after[0]
	if !t.docs[0].leaf() {
		first.Shipped = t.settled() && t.anyShipped()
	}
	t.next.Status, t.next.Code, t.next.Shipped = first.Status, first.Code, first.Shipped
	for i, doc := range t.docs {
		t.next.Waybills = withWaybills(t.next.Waybills, doc.Waybills)
		if i > 0 {
			if t.next.Children == nil {
				t.next.Children = map[string]ledger.Child{}
			}
			t.next.Children[doc.number] = t.after[i]
		}
		if !doc.leaf() || !doc.missing && ended(t.after[i]) {
			continue
		}
		phase := t.after[i].Status
		if left(phase, t.shipWhenPacked) && !t.after[i].Shipped {
			phase = orderv1.Status_STATUS_PACKED // its waybill is waited for
		}
		if !t.open || urgency(phase) > urgency(t.phase) {
			t.phase = phase
		}
		t.open = true
	}
}

const (
	// keepWaybills is how many waybills the ledger keeps of an order, maxWaybill how long each may be: it is found by them.
	keepWaybills = 100
	maxWaybill   = 64
)

func withWaybills(known, now []string) []string {
	known = slices.Clip(known)
	for _, w := range now {
		if len(known) < keepWaybills && w != "" && len(w) <= maxWaybill && !slices.Contains(known, w) {
			known = append(known, w)
		}
	}
	return known
}

// leftAt tells when doc left, if it did: at the first step that says so.
func (t *telling) leftAt(doc document) (time.Time, bool) {
	for _, s := range walk(doc.Details) {
		if left(s.Status, t.shipWhenPacked) {
			return t.at(s.At), true
		}
	}
	return time.Time{}, false
}

func (t *telling) say(e event.Event) { t.events = append(t.events, e) }

// at is a moment the warehouse told, or now when it did not.
func (t *telling) at(at time.Time) time.Time {
	if at.IsZero() {
		return t.now
	}
	return at
}

func (t *telling) ref(doc document) *orderv1.Ref { return ref(t.entry, doc.number) }

func ref(e ledger.Entry, number string) *orderv1.Ref {
	return &orderv1.Ref{
		Seller: e.Key.Seller, Shop: e.Shop, Warehouse: e.Warehouse, OrderNo: e.OrderNo, OutboundNo: e.Key.No,
		Revision: e.Revision, WarehouseNo: number,
	}
}

// exception is what a person has to look at, once.
type exception struct {
	// documents at the warehouse that it is about: part of the event's id.
	documents string
	reason    fault.Reason
}

// event is what the ERP hears of it: a status without a word of ours, with our code and text.
func (x exception) event(e ledger.Entry, now time.Time) event.Event {
	return event.OrderStatusChanged.About(e.Key.Seller, e.Key.No, now, &orderv1.StatusChanged{
		Ref: ref(e, e.Number), At: timestamppb.New(now), Code: x.reason.Code, Text: x.reason.ZH + " / " + x.reason.EN,
	}, x.documents, x.reason.Code)
}

// step is a state with its place in the events' ids: the code, and which time it came when it came before.
type step struct {
	warehouse.State
	id string
}

// walk is the document's history in order, each step once, ending with where it stands now. The warehouse may tell the
// history shuffled, doubled, or without the present step.
func walk(d warehouse.Details) []step {
	states := slices.Clone(d.History)
	slices.SortStableFunc(states, func(a, b warehouse.State) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	states = slices.CompactFunc(states, func(a, b warehouse.State) bool { return a.Code == b.Code && a.At.Equal(b.At) })
	if !slices.ContainsFunc(states, func(s warehouse.State) bool { return s.Code == d.State.Code }) {
		states = append(states, d.State)
	}
	came := map[string]int{}
	steps := make([]step, len(states))
	for i, s := range states {
		came[s.Code]++
		id := s.Code
		if n := came[s.Code]; n > 1 {
			id += "-" + strconv.Itoa(n)
		}
		steps[i] = step{s, id}
	}
	return steps
}

// untold is what of d's walk comes after the step last told: code, at lastAt when that is known.
func untold(d warehouse.Details, code string, lastAt time.Time) []step {
	steps := walk(d)
	if code == "" {
		return steps
	}
	last := -1
	for i, s := range steps {
		if s.Code == code && (last < 0 || !s.At.After(lastAt)) {
			last = i
		}
	}
	if last >= 0 {
		return steps[last+1:]
	}
	return slices.DeleteFunc(steps, func(s step) bool {
		return s.Code != d.State.Code && (lastAt.IsZero() || !s.At.After(lastAt))
	})
}

// cancelled: the warehouse says so now. That overrules its history.
func cancelled(d document) bool {
	return !d.missing && d.State.Status == orderv1.Status_STATUS_CANCELLED
}

// left: goods of an order at this status have left the warehouse.
func left(s orderv1.Status, whenPacked bool) bool {
	switch s {
	case orderv1.Status_STATUS_SHIPPED, orderv1.Status_STATUS_IN_TRANSIT, orderv1.Status_STATUS_DELIVERED,
		orderv1.Status_STATUS_REJECTED, orderv1.Status_STATUS_RETURNING, orderv1.Status_STATUS_RETURNED:
		return true
	case orderv1.Status_STATUS_PACKED:
		return whenPacked
	}
	return false
}

func returning(s orderv1.Status) bool {
	return s == orderv1.Status_STATUS_REJECTED || s == orderv1.Status_STATUS_RETURNING || s == orderv1.Status_STATUS_RETURNED
}

// ended: nothing more happens to a document that stands so, and what left of it is told.
func ended(c ledger.Child) bool {
	switch c.Status {
	case orderv1.Status_STATUS_CANCELLED:
		return true
	case orderv1.Status_STATUS_DELIVERED, orderv1.Status_STATUS_RETURNED:
		return c.Shipped
	}
	return false
}

// urgency orders the phases by how soon to look again.
func urgency(s orderv1.Status) int {
	switch s {
	case orderv1.Status_STATUS_CHECKED, orderv1.Status_STATUS_PACKED:
		return 2
	case orderv1.Status_STATUS_SHIPPED, orderv1.Status_STATUS_IN_TRANSIT, orderv1.Status_STATUS_REJECTED, orderv1.Status_STATUS_RETURNING:
		return 0
	default:
		return 1
	}
}
