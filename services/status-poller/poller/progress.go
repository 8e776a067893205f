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
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// waybillGrace is how long the shipping of an order without a waybill waits to be published for the waybill.
const waybillGrace = 10 * time.Minute

// document is one document of an order at the warehouse: the accepted one, one that it was split into, or a further one
// under the same outbound number.
type document struct {
	warehouse.Details
	number string
	// splitOf is the document that this one was split from; empty when it was not.
	splitOf string
	// missing says that the warehouse does not know it (yet). Nothing is concluded from that.
	missing bool
}

// leaf reports whether goods leave under this document. Those of a split document leave under its children.
func (d document) leaf() bool { return len(d.Children) == 0 }

// outcome is what follows from one fetch of an order's documents.
type outcome struct {
	events     []event.Event
	exceptions []exception
	state      ledger.State
	next       order.State
	// waybills that the warehouse reported so far.
	waybills []string
	// open says that the order is followed further, at the interval of phase.
	open  bool
	phase documentv1.Status
}

// progress derives one outcome. The state itself tracks the first document, Children all others.
type progress struct {
	outcome
	entry          ledger.Entry
	docs           []document
	shipWhenPacked bool
	now            time.Time
	// before and after are what was and what will be published of each document, in the order of docs.
	before, after []order.Child
}

// progressOf derives what is new about an order. docs[0] is the accepted document; a document comes before those that it
// was split into.
func progressOf(e ledger.Entry, docs []document, shipWhenPacked bool, now time.Time) outcome {
	t := &progress{entry: e, docs: docs, shipWhenPacked: shipWhenPacked, now: now}
	t.state, t.next, t.waybills = e.State, stateOf(e), following(e).Numbers
	t.next.Children = maps.Clone(t.next.Children)
	for i, doc := range docs {
		known := t.next.Children[doc.number]
		if i == 0 {
			known = order.Child{Status: t.next.Status, Code: t.next.Code, Shipped: t.next.Shipped}
		}
		t.before = append(t.before, known)
	}
	t.after = slices.Clone(t.before)

	t.duplicateDocuments()
	for i := range docs {
		t.reportSteps(i)
	}
	t.reportShipped()
	t.reportDelivered()
	t.reportCancelled()
	t.record()
	return t.outcome
}

// reportSteps publishes the steps of one document that were not published yet.
func (t *progress) reportSteps(i int) {
	doc, after := t.docs[i], &t.after[i]
	if doc.missing {
		return
	}
	lastAt := time.Time{}
	if i == 0 {
		lastAt = t.next.StatusAt
	}
	for _, s := range unreported(doc.Details, after.Code, lastAt) {
		at := t.orNow(s.At)
		t.emit(event.OrderStatusChanged.About(t.entry.Key.Seller, t.entry.Key.No, at, &documentv1.StatusChanged{
			Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status, Code: s.Code, Text: s.Text,
		}, doc.number, s.id))
		if doc.leaf() && isReturning(s.Status) {
			t.emit(event.OrderReturning.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Returning{
				Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status,
			}, doc.number, s.id))
		}
		if s.Status != documentv1.Status_STATUS_UNSPECIFIED {
			after.Status = s.Status // a code that maps to no status of ours leaves the phase as it was
		}
		if i == 0 {
			t.next.StatusAt = at
		}
	}
	if s := doc.State; s.Status != documentv1.Status_STATUS_UNSPECIFIED {
		after.Status = s.Status
	}
	after.Code = doc.State.Code
}

// reportShipped publishes what left, once per leaf. A leaf that the warehouse cancelled has not left, whatever its history
// says.
func (t *progress) reportShipped() {
	for i, doc := range t.docs {
		if doc.missing || !doc.leaf() || t.after[i].Shipped {
			continue
		}
		at, ok := t.leftAt(doc)
		if !ok || isCancelled(doc) || len(doc.Waybills) == 0 && t.now.Sub(at) < waybillGrace {
			continue
		}
		t.after[i].Shipped = true
		t.emitShipped(doc, at, t.allSettled())
	}
	// The last open leaf of a split order may be cancelled after the others left. Then an event for that leaf, with no goods
	// shipped, completes the order.
	for i, doc := range slices.Backward(t.docs) {
		if doc.leaf() && isCancelled(doc) && !t.before[i].Shipped && t.before[i].Status != documentv1.Status_STATUS_CANCELLED {
			if t.allSettled() && t.anyShipped() && !t.emittedComplete() {
				none := document{number: doc.number, splitOf: doc.splitOf}
				for _, l := range doc.Lines {
					l = proto.CloneOf(l)
					l.Shipped = 0
					none.Lines = append(none.Lines, l)
				}
				t.emitShipped(none, doc.State.At, true)
			}
			return
		}
	}
}

func (t *progress) emitShipped(doc document, at time.Time, complete bool) {
	at = t.orNow(at)
	t.emit(event.OrderShipped.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Shipped{
		Ref: t.ref(doc), At: timestamppb.New(at), CarrierNo: doc.CarrierNo, CarrierName: doc.CarrierName,
		Waybills: doc.Waybills, Packages: doc.Packages, Lines: doc.Lines, SplitOf: doc.splitOf, Complete: complete,
	}, doc.number))
}

// allSettled reports whether every leaf was published as shipped or is cancelled.
func (t *progress) allSettled() bool {
	for i, doc := range t.docs {
		if doc.missing || doc.leaf() && !t.after[i].Shipped && !isCancelled(doc) {
			return false
		}
	}
	return true
}

func (t *progress) anyShipped() bool {
	for i, doc := range t.docs {
		if doc.leaf() && t.after[i].Shipped {
			return true
		}
	}
	return false
}

// emittedComplete reports whether this outcome has a shipment that completes the order.
func (t *progress) emittedComplete() bool {
	return slices.ContainsFunc(t.events, func(e event.Event) bool {
		m, ok := e.Message.(*orderv1.Shipped)
		return ok && m.Complete
	})
}

// reportDelivered publishes once that the buyer has all that left.
func (t *progress) reportDelivered() {
	var at time.Time
	news, some := false, false
	for i, doc := range t.docs {
		if doc.missing {
			return
		}
		if !doc.leaf() || isCancelled(doc) {
			continue
		}
		if t.after[i].Status != documentv1.Status_STATUS_DELIVERED {
			return
		}
		some = true
		news = news || t.before[i].Status != documentv1.Status_STATUS_DELIVERED
		if doc.State.At.After(at) {
			at = doc.State.At
		}
	}
	if some && news {
		at = t.orNow(at)
		t.emit(event.OrderDelivered.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Delivered{
			Ref: t.ref(t.docs[0]), At: timestamppb.New(at),
		}, t.docs[0].number))
	}
}

// reportCancelled publishes that nothing will leave: every leaf is cancelled and none was shipped. A leaf that is
// cancelled after it was shipped needs a person.
func (t *progress) reportCancelled() {
	all := true
	var at time.Time
	for i, doc := range t.docs {
		if doc.missing || doc.leaf() && !isCancelled(doc) {
			all = false
			continue
		}
		if !doc.leaf() {
			continue
		}
		if t.after[i].Shipped {
			all = false
			if t.before[i].Status != documentv1.Status_STATUS_CANCELLED {
				t.exceptions = append(t.exceptions, exception{doc.number, fault.Reason{
					Code: "cancelled.after.shipped", RemoteCode: doc.State.Code, RemoteText: doc.State.Text,
					ZH: fmt.Sprintf("仓库单据 %s 出库后又显示已取消；未按取消处理，请向仓库核实", doc.number),
					EN: fmt.Sprintf("document %s is cancelled although it left; not reported as cancelled: ask the warehouse", doc.number),
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
	at = t.orNow(at)
	t.emit(event.OrderCancelled.About(t.entry.Key.Seller, t.entry.Key.No, at, &documentv1.Cancelled{
		Ref: t.ref(t.docs[0]), At: timestamppb.New(at),
	}, t.docs[0].number))
}

// duplicateDocuments raises further documents under the order's number. This must never go unnoticed.
func (t *progress) duplicateDocuments() {
	var others []string
	news := false
	for i, doc := range t.docs {
		if i > 0 && doc.splitOf == "" {
			others = append(others, doc.number)
			_, known := t.next.Children[doc.number]
			news = news || !known
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

// record writes what is published into the next entry, and whether and at which interval the order is followed further.
func (t *progress) record() {
	first := t.after[0]
	if !t.docs[0].leaf() {
		first.Shipped = t.allSettled() && t.anyShipped()
	}
	t.next.Status, t.next.Code, t.next.Shipped = first.Status, first.Code, first.Shipped
	for i, doc := range t.docs {
		t.waybills = withWaybills(t.waybills, doc.Waybills)
		if i > 0 {
			if t.next.Children == nil {
				t.next.Children = map[string]order.Child{}
			}
			t.next.Children[doc.number] = t.after[i]
		}
		if !doc.leaf() || !doc.missing && hasEnded(t.after[i]) {
			continue
		}
		phase := t.after[i].Status
		if hasLeft(phase, t.shipWhenPacked) && !t.after[i].Shipped {
			phase = documentv1.Status_STATUS_PACKED // its waybill is still missing
		}
		if !t.open || urgency(phase) > urgency(t.phase) {
			t.phase = phase
		}
		t.open = true
	}
}

const (
	// keepWaybills is how many waybills the ledger keeps of an order, maxWaybill the length of each in bytes. Orders are
	// found by them.
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

// leftAt returns when doc left, if it did: the time of the first step that says so.
func (t *progress) leftAt(doc document) (time.Time, bool) {
	for _, s := range timeline(doc.Details) {
		if hasLeft(s.Status, t.shipWhenPacked) {
			return t.orNow(s.At), true
		}
	}
	return time.Time{}, false
}

func (t *progress) emit(e event.Event) { t.events = append(t.events, e) }

// orNow is the warehouse's time of a step, or now when it gave none.
func (t *progress) orNow(at time.Time) time.Time {
	if at.IsZero() {
		return t.now
	}
	return at
}

func (t *progress) ref(doc document) *documentv1.Ref { return ref(t.entry, doc.number) }

func ref(e ledger.Entry, number string) *documentv1.Ref {
	return &documentv1.Ref{
		Seller: e.Key.Seller, Shop: e.Shop, Warehouse: e.Warehouse, OrderNo: e.Group, OutboundNo: e.Key.No,
		Revision: e.Revision, WarehouseNo: number, Kind: kindName, No: e.Key.No,
	}
}

// exception is something that needs a person, raised once.
type exception struct {
	// documents are the warehouse's numbers that it is about: part of the event's id.
	documents string
	reason    fault.Reason
}

// event is what the ERP gets: an order.status.changed without a status, with our code and text.
func (x exception) event(e ledger.Entry, now time.Time) event.Event {
	return event.OrderStatusChanged.About(e.Key.Seller, e.Key.No, now, &documentv1.StatusChanged{
		Ref: ref(e, e.Number), At: timestamppb.New(now), Code: x.reason.Code, Text: x.reason.ZH + " / " + x.reason.EN,
	}, x.documents, x.reason.Code)
}

// step is a state with its id in the events' ids: the code, numbered from its second occurrence on.
type step struct {
	warehouse.State
	id string
}

// timeline is the document's history by time, each step once, ending with its present state. The warehouse may return the
// history shuffled, with duplicates, or without the present state.
func timeline(d warehouse.Details) []step {
	states := slices.Clone(d.History)
	slices.SortStableFunc(states, func(a, b warehouse.State) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	states = slices.CompactFunc(states, func(a, b warehouse.State) bool { return a.Code == b.Code && a.At.Equal(b.At) })
	if !slices.ContainsFunc(states, func(s warehouse.State) bool { return s.Code == d.State.Code }) {
		states = append(states, d.State)
	}
	seen := map[string]int{}
	steps := make([]step, len(states))
	for i, s := range states {
		seen[s.Code]++
		id := s.Code
		if n := seen[s.Code]; n > 1 {
			id += "-" + strconv.Itoa(n)
		}
		steps[i] = step{s, id}
	}
	return steps
}

// unreported returns the steps of d after the one published last: code, at lastAt when that is known.
func unreported(d warehouse.Details, code string, lastAt time.Time) []step {
	steps := timeline(d)
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

// isCancelled reports the document's present state. That overrules its history.
func isCancelled(d document) bool {
	return !d.missing && d.State.Status == documentv1.Status_STATUS_CANCELLED
}

// hasLeft reports whether goods of an order at this status have left the warehouse.
func hasLeft(s documentv1.Status, whenPacked bool) bool {
	switch s {
	case documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_DELIVERED,
		documentv1.Status_STATUS_REJECTED, documentv1.Status_STATUS_RETURNING, documentv1.Status_STATUS_RETURNED:
		return true
	case documentv1.Status_STATUS_PACKED:
		return whenPacked
	}
	return false
}

func isReturning(s documentv1.Status) bool {
	return s == documentv1.Status_STATUS_REJECTED || s == documentv1.Status_STATUS_RETURNING || s == documentv1.Status_STATUS_RETURNED
}

// hasEnded reports whether no further step can follow, and what left is published.
func hasEnded(c order.Child) bool {
	switch c.Status {
	case documentv1.Status_STATUS_CANCELLED:
		return true
	case documentv1.Status_STATUS_DELIVERED, documentv1.Status_STATUS_RETURNED:
		return c.Shipped
	}
	return false
}

// urgency orders the phases by how soon to look up again.
func urgency(s documentv1.Status) int {
	switch s {
	case documentv1.Status_STATUS_CHECKED, documentv1.Status_STATUS_PACKED:
		return 2
	case documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_REJECTED, documentv1.Status_STATUS_RETURNING:
		return 0
	default:
		return 1
	}
}
