package order

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
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// waybillGrace is how long the shipping of an order without a waybill waits to be published for the waybill.
const waybillGrace = 10 * time.Minute

// State is what is known of an order while it is followed. Its own fields are of the accepted document.
type State struct {
	kind.Seen
	// Children are its other documents by their number, with the code last published; empty when not split.
	Children map[string]Child
	// Shipped: the shipment of this document was published.
	Shipped bool
}

// Child is one of the further documents of an order.
type Child struct {
	Status  documentv1.Status
	Code    string
	Shipped bool
}

func stateOf(e ledger.Entry) State { return kind.StateOf[State](e) }

// part is one document of an order.
type part = kind.Part[*orderv1.Shipped]

// leaf reports whether goods leave under this document. Those of a split document leave under its children.
func leaf(d part) bool { return len(d.Children) == 0 }

// progress derives one outcome. The state itself tracks the first document, Children all others.
type progress struct {
	kind.Outcome
	entry          ledger.Entry
	docs           []part
	shipWhenPacked bool
	now            time.Time
	next           State
	// before and after are what was and what will be published of each document, in the order of docs.
	before, after []Child
}

// Unread reports whether an order moved, or left and its shipping is not published yet.
func Unread(e ledger.Entry, found []warehouse.Document[*orderv1.Shipped], s *seller.Seller) bool {
	known := stateOf(e)
	return found[0].State.Code != known.Code || hasLeft(known.Status, s.Setup.ShippedWhenPacked) && !known.Shipped
}

// Further are the documents of an order besides the accepted one, as known from earlier readings.
func Further(e ledger.Entry) []string { return slices.Sorted(maps.Keys(stateOf(e).Children)) }

// Progress derives what is new about an order. docs[0] is the accepted document; a document comes before those that it was
// split into.
func Progress(e ledger.Entry, docs []kind.Part[*orderv1.Shipped], s *seller.Seller, now time.Time) kind.Outcome {
	t := &progress{entry: e, docs: docs, shipWhenPacked: s.Setup.ShippedWhenPacked, now: now, next: stateOf(e)}
	t.State = e.State
	t.next.Children = maps.Clone(t.next.Children)
	for i, doc := range docs {
		known := t.next.Children[doc.Number]
		if i == 0 {
			known = Child{Status: t.next.Status, Code: t.next.Code, Shipped: t.next.Shipped}
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
	return t.Outcome
}

// reportSteps publishes the steps of one document that were not published yet.
func (t *progress) reportSteps(i int) {
	doc, after := t.docs[i], &t.after[i]
	if doc.Missing {
		return
	}
	lastAt := time.Time{}
	if i == 0 {
		lastAt = t.next.StatusAt
	}
	for _, s := range unreported(doc.Document, after.Code, lastAt) {
		at := t.orNow(s.At)
		t.emit(event.OrderStatusChanged.About(t.entry.Key.Seller, t.entry.Key.No, at, &documentv1.StatusChanged{
			Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status, Code: s.Code, Text: s.Text,
		}, doc.Number, s.id))
		if leaf(doc) && isReturning(s.Status) {
			t.emit(event.OrderReturning.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Returning{
				Ref: t.ref(doc), At: timestamppb.New(at), Status: s.Status,
			}, doc.Number, s.id))
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
		if doc.Missing || !leaf(doc) || t.after[i].Shipped {
			continue
		}
		at, ok := t.leftAt(doc)
		if !ok || cancelled(doc) || len(doc.Detail.GetWaybills()) == 0 && t.now.Sub(at) < waybillGrace {
			continue
		}
		t.after[i].Shipped = true
		t.emitShipped(doc, at, t.allSettled())
	}
	// The last open leaf of a split order may be cancelled after the others left. Then an event for that leaf, with no goods
	// shipped, completes the order.
	for i, doc := range slices.Backward(t.docs) {
		if leaf(doc) && cancelled(doc) && !t.before[i].Shipped && t.before[i].Status != documentv1.Status_STATUS_CANCELLED {
			if t.allSettled() && t.anyShipped() && !t.emittedComplete() {
				nothing := &orderv1.Shipped{}
				for _, l := range doc.Detail.GetLines() {
					l = proto.CloneOf(l)
					l.Shipped = 0
					nothing.Lines = append(nothing.Lines, l)
				}
				none := part{SplitOf: doc.SplitOf}
				none.Number, none.Detail = doc.Number, nothing
				t.emitShipped(none, doc.State.At, true)
			}
			return
		}
	}
}

func (t *progress) emitShipped(doc part, at time.Time, complete bool) {
	at = t.orNow(at)
	t.emit(event.OrderShipped.About(t.entry.Key.Seller, t.entry.Key.No, at, &orderv1.Shipped{
		Ref: t.ref(doc), At: timestamppb.New(at), CarrierNo: doc.Detail.GetCarrierNo(), CarrierName: doc.Detail.GetCarrierName(),
		Waybills: doc.Detail.GetWaybills(), Packages: doc.Detail.GetPackages(), Lines: doc.Detail.GetLines(), SplitOf: doc.SplitOf, Complete: complete,
	}, doc.Number))
}

// allSettled reports whether every leaf was published as shipped or is cancelled.
func (t *progress) allSettled() bool {
	for i, doc := range t.docs {
		if doc.Missing || leaf(doc) && !t.after[i].Shipped && !cancelled(doc) {
			return false
		}
	}
	return true
}

func (t *progress) anyShipped() bool {
	for i, doc := range t.docs {
		if leaf(doc) && t.after[i].Shipped {
			return true
		}
	}
	return false
}

// emittedComplete reports whether this outcome has a shipment that completes the order.
func (t *progress) emittedComplete() bool {
	return slices.ContainsFunc(t.Events, func(e event.Event) bool {
		m, ok := e.Message.(*orderv1.Shipped)
		return ok && m.Complete
	})
}

// reportDelivered publishes once that the buyer has all that left.
func (t *progress) reportDelivered() {
	var at time.Time
	news, some := false, false
	for i, doc := range t.docs {
		if doc.Missing {
			return
		}
		if !leaf(doc) || cancelled(doc) {
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
		}, t.docs[0].Number))
	}
}

// reportCancelled publishes that nothing will leave: every leaf is cancelled and none was shipped. A leaf that is
// cancelled after it was shipped needs a person.
func (t *progress) reportCancelled() {
	all := true
	var at time.Time
	for i, doc := range t.docs {
		if doc.Missing || leaf(doc) && !cancelled(doc) {
			all = false
			continue
		}
		if !leaf(doc) {
			continue
		}
		if t.after[i].Shipped {
			all = false
			if t.before[i].Status != documentv1.Status_STATUS_CANCELLED {
				t.Exceptions = append(t.Exceptions, kind.Exception{Documents: doc.Number, Reason: fault.Reason{
					Code: "cancelled.after.shipped", RemoteCode: doc.State.Code, RemoteText: doc.State.Text,
					ZH: fmt.Sprintf("仓库单据 %s 出库后又显示已取消；未按取消处理，请向仓库核实", doc.Number),
					EN: fmt.Sprintf("document %s is cancelled although it left; not reported as cancelled: ask the warehouse", doc.Number),
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
	t.State = ledger.Cancelled
	at = t.orNow(at)
	t.emit(event.OrderCancelled.About(t.entry.Key.Seller, t.entry.Key.No, at, &documentv1.Cancelled{
		Ref: t.ref(t.docs[0]), At: timestamppb.New(at),
	}, t.docs[0].Number))
}

// duplicateDocuments raises further documents under the order's number. This must never go unnoticed.
func (t *progress) duplicateDocuments() {
	var others []string
	news := false
	for i, doc := range t.docs {
		if i > 0 && doc.SplitOf == "" {
			others = append(others, doc.Number)
			_, known := t.next.Children[doc.Number]
			news = news || !known
		}
	}
	if !news {
		return
	}
	numbers := t.docs[0].Number + "+" + strings.Join(others, "+")
	t.Exceptions = append(t.Exceptions, kind.Exception{Documents: numbers, Reason: fault.Reason{
		Code: "warehouse.twice", Field: "outbound_no", RemoteText: numbers,
		ZH: "仓库中同一出库单号有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this outbound number; have all but one cancelled at once",
	}})
}

// record writes what is published into the next entry, and whether and how soon the order is looked up again.
func (t *progress) record() {
	first := t.after[0]
	if !leaf(t.docs[0]) {
		first.Shipped = t.allSettled() && t.anyShipped()
	}
	t.next.Status, t.next.Code, t.next.Shipped = first.Status, first.Code, first.Shipped
	var waybills []string
	if t.entry.Following != nil {
		waybills = t.entry.Following.Numbers
	}
	var phase ledger.Phase
	for i, doc := range t.docs {
		waybills = withWaybills(waybills, doc.Detail.GetWaybills())
		if i > 0 {
			if t.next.Children == nil {
				t.next.Children = map[string]Child{}
			}
			t.next.Children[doc.Number] = t.after[i]
		}
		if !leaf(doc) || !doc.Missing && hasEnded(t.after[i]) {
			continue
		}
		its := PhaseOf(t.after[i].Status)
		if hasLeft(t.after[i].Status, t.shipWhenPacked) && !t.after[i].Shipped {
			its = kind.PhaseSoon // its waybill is still missing
		}
		if urgency[its] > urgency[phase] {
			phase = its
		}
	}
	t.Following = ledger.Following{Phase: phase, Numbers: waybills, State: kind.Stored(t.next)}
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
func (t *progress) leftAt(doc part) (time.Time, bool) {
	for _, s := range timeline(doc.Document) {
		if hasLeft(s.Status, t.shipWhenPacked) {
			return t.orNow(s.At), true
		}
	}
	return time.Time{}, false
}

func (t *progress) emit(e event.Event) { t.Events = append(t.Events, e) }

// orNow is the warehouse's time of a step, or now when it gave none.
func (t *progress) orNow(at time.Time) time.Time {
	if at.IsZero() {
		return t.now
	}
	return at
}

func (t *progress) ref(doc part) *documentv1.Ref { return Terms.EntryRef(t.entry, doc.Number) }

// step is a state with its id in the events' ids: the code, numbered from its second occurrence on.
type step struct {
	warehouse.State
	id string
}

// timeline is the document's history by time, each step once, ending with its present state. The warehouse may return the
// history shuffled, with duplicates, or without the present state.
func timeline(d warehouse.Document[*orderv1.Shipped]) []step {
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
func unreported(d warehouse.Document[*orderv1.Shipped], code string, lastAt time.Time) []step {
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

// cancelled reports the document's present state. That overrules its history.
func cancelled(d part) bool { return !d.Missing && d.Cancelled() }

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
func hasEnded(c Child) bool {
	switch c.Status {
	case documentv1.Status_STATUS_CANCELLED:
		return true
	case documentv1.Status_STATUS_DELIVERED, documentv1.Status_STATUS_RETURNED:
		return c.Shipped
	}
	return false
}

// PhaseOf is the phase of an order that stands at status: everybody waits for the shipping of one that is packed.
func PhaseOf(status documentv1.Status) ledger.Phase {
	switch status {
	case documentv1.Status_STATUS_CHECKED, documentv1.Status_STATUS_PACKED:
		return kind.PhaseSoon
	case documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_REJECTED, documentv1.Status_STATUS_RETURNING:
		return kind.PhaseLate
	default:
		return kind.PhaseOpen
	}
}

// urgency orders the phases by how soon to look up again; that of no phase is 0.
var urgency = map[ledger.Phase]int{kind.PhaseSoon: 3, kind.PhaseOpen: 2, kind.PhaseLate: 1}
