package poller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/event"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

var statusOf = map[string]documentv1.Status{
	"new": documentv1.Status_STATUS_RECEIVED, "pick": documentv1.Status_STATUS_PICKING, "pack": documentv1.Status_STATUS_PACKED,
	"ship": documentv1.Status_STATUS_SHIPPED, "road": documentv1.Status_STATUS_IN_TRANSIT, "done": documentv1.Status_STATUS_DELIVERED,
	"no": documentv1.Status_STATUS_REJECTED, "back": documentv1.Status_STATUS_RETURNED, "gone": documentv1.Status_STATUS_CANCELLED,
	"stay": documentv1.Status_STATUS_CANCEL_REFUSED, "odd": documentv1.Status_STATUS_UNSPECIFIED,
}

var start = time.Date(2026, 3, 5, 8, 0, 0, 0, time.UTC)

// doc makes a document from a line: "ESL1: new pick pack ship", a step a minute, the last one where it stands; "=gone"
// stands there whatever comes before. "ESL2<ESL1" was split from ESL1, "ESL1>ESL2,ESL3" was split into those, "?" is
// not known at the warehouse. It has a waybill unless it says "nobill".
func doc(line string) document {
	head, walk, _ := strings.Cut(line, ":")
	head, children, split := strings.Cut(strings.TrimSpace(head), ">")
	number, parent, _ := strings.Cut(head, "<")
	d := document{number: number, splitOf: parent, Details: warehouse.Details{WarehouseNo: number}}
	if split {
		d.Children = strings.Split(children, ",")
	}
	bill := true
	for i, word := range strings.Fields(walk) {
		code, now := strings.CutPrefix(word, "=")
		switch code {
		case "?":
			return document{number: number, splitOf: parent, missing: true}
		case "nobill":
			bill = false
			continue
		}
		status, known := statusOf[code]
		if !known {
			panic("no such step: " + word)
		}
		d.State = warehouse.State{Status: status, Code: code, Text: "text of " + code, At: start.Add(time.Duration(i) * time.Minute)}
		if !now {
			d.History = append(d.History, d.State)
		}
	}
	if !split {
		d.Lines = []*orderv1.ShippedLine{{LineId: "1", Quantity: 2, Shipped: 2}}
		if bill {
			d.Waybills = []string{"VA-" + number}
		}
	}
	return d
}

// short is an event shortened to one line.
func short(e event.Event) string {
	switch m := e.Message.(type) {
	case *documentv1.StatusChanged:
		return m.Ref.WarehouseNo + " " + m.Code
	case *orderv1.Shipped:
		s := fmt.Sprintf("shipped %s %s x%d", m.Ref.WarehouseNo, strings.Join(m.Waybills, ","), m.Lines[0].Shipped)
		if m.SplitOf != "" {
			s += " of " + m.SplitOf
		}
		if m.Complete {
			s += " complete"
		}
		return s
	case *orderv1.Delivered:
		return "delivered " + m.Ref.WarehouseNo
	case *orderv1.Returning:
		return "returning " + m.Ref.WarehouseNo + " " + m.Status.String()[len("STATUS_"):]
	case *documentv1.Cancelled:
		return "cancelled"
	default:
		return e.ID
	}
}

func TestProgress(t *testing.T) {
	type look struct {
		docs     []string
		reported []string
		// after says where that leads: "open PHASE", "ended" or "ended cancelled", and exceptions with "!".
		after string
	}
	tests := []struct {
		name       string
		whenPacked bool
		looks      []look
	}{
		{name: "each step is reported once, shipping at the hand-over, delivery ends it", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open RECEIVED"},
			{[]string{"E1: new pick pack"}, []string{"E1 pick", "E1 pack"}, "open PACKED"},
			{[]string{"E1: new pick pack ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
			{[]string{"E1: new pick pack ship road done"}, []string{"E1 road", "E1 done", "delivered E1"}, "ended"},
		}},
		{name: "the whole walk seen at one look", looks: []look{
			{[]string{"E1: new pick ship done"}, []string{"E1 new", "E1 pick", "E1 ship", "E1 done", "shipped E1 VA-E1 x2 complete", "delivered E1"}, "ended"},
		}},
		{name: "seen again unchanged, nothing is reported", looks: []look{
			{[]string{"E1: new ship"}, []string{"E1 new", "E1 ship", "shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
			{[]string{"E1: new ship"}, nil, "open SHIPPED"},
		}},
		{name: "a state that the history lacks is reported", looks: []look{
			{[]string{"E1: new =pick"}, []string{"E1 new", "E1 pick"}, "open PICKING"},
			{[]string{"E1: new =pick pack"}, []string{"E1 pack"}, "open PACKED"},
		}},
		{name: "unknown codes are passed on and do not end the following", looks: []look{
			{[]string{"E1: new pack odd"}, []string{"E1 new", "E1 pack", "E1 odd"}, "open PACKED"},
			{[]string{"E1: new pack odd ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
		}},
		{name: "a step that comes again has an id of its own", looks: []look{
			{[]string{"E1: new stay"}, []string{"E1 new", "E1 stay"}, "open CANCEL_REFUSED"},
			{[]string{"E1: new stay pack stay"}, []string{"E1 pack", "E1 stay"}, "open CANCEL_REFUSED"},
		}},
		{name: "packed counts as shipped where the seller says so", whenPacked: true, looks: []look{
			{[]string{"E1: new pack"}, []string{"E1 new", "E1 pack", "shipped E1 VA-E1 x2 complete"}, "open PACKED"},
			{[]string{"E1: new pack ship"}, []string{"E1 ship"}, "open SHIPPED"},
		}},
		{name: "a waybill that is late is waited for", looks: []look{
			{[]string{"E1: new ship nobill"}, []string{"E1 new", "E1 ship"}, "open PACKED"},
			{[]string{"E1: new ship"}, []string{"shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
		}},
		{name: "refused by the buyer and returned", looks: []look{
			{[]string{"E1: ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
			{[]string{"E1: ship no"}, []string{"E1 no", "returning E1 REJECTED"}, "open REJECTED"},
			{[]string{"E1: ship no back"}, []string{"E1 back", "returning E1 RETURNED"}, "ended"},
		}},
		{name: "cancelled by the warehouse itself", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open RECEIVED"},
			{[]string{"E1: new gone"}, []string{"E1 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: cancelled overrules a history that says shipped", looks: []look{
			{[]string{"E1: new ship gone"}, []string{"E1 new", "E1 ship", "E1 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: cancelled after shipped was reported is an exception, not a cancellation", looks: []look{
			{[]string{"E1: ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "open SHIPPED"},
			{[]string{"E1: ship gone"}, []string{"E1 gone"}, "ended !cancelled.after.shipped"},
		}},
		{name: "split in two: each child ships once, the last one completes", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open RECEIVED"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new", "E3<E1: new pack"}, []string{"E1 pick", "E2 new", "E3 new", "E3 pack"}, "open PACKED"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new", "E3<E1: new pack ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1"}, "open RECEIVED"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new ship", "E3<E1: new pack ship done"}, []string{"E2 ship", "E3 done", "shipped E2 VA-E2 x2 of E1 complete"}, "open SHIPPED"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new ship done", "E3<E1: new pack ship done"}, []string{"E2 done", "delivered E1"}, "ended"},
		}},
		{name: "both children leave at once: only one completes", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ship"}, []string{"E1 new", "E2 ship", "E3 ship", "shipped E2 VA-E2 x2 of E1", "shipped E3 VA-E3 x2 of E1 complete"}, "open SHIPPED"},
		}},
		{name: "a child that the warehouse does not show yet keeps the order open", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ?"}, []string{"E1 new", "E2 ship", "shipped E2 VA-E2 x2 of E1"}, "open UNSPECIFIED"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1 complete"}, "open SHIPPED"},
		}},
		{name: "a split of a split", looks: []look{
			{[]string{"E1>E2: new", "E2<E1>E3: new", "E3<E2: ship"}, []string{"E1 new", "E2 new", "E3 ship", "shipped E3 VA-E3 x2 of E2 complete"}, "open SHIPPED"},
		}},
		{name: "P3: one child cancelled, the other shipped: shipped, not cancelled", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: gone", "E3<E1: new"}, []string{"E1 new", "E2 gone", "E3 new"}, "open RECEIVED"},
			{[]string{"E1>E2,E3: new", "E2<E1: gone", "E3<E1: new ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1 complete"}, "open SHIPPED"},
		}},
		{name: "the last open child is cancelled after the other left: nothing of it closes the order", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: new"}, []string{"E1 new", "E2 ship", "E3 new", "shipped E2 VA-E2 x2 of E1"}, "open RECEIVED"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: new gone"}, []string{"E3 gone", "shipped E3  x0 of E1 complete"}, "open SHIPPED"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship done", "E3<E1: new gone"}, []string{"E2 done", "delivered E1"}, "ended"},
		}},
		{name: "P3: cancelled only when every child is", looks: []look{
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: new"}, []string{"E1 gone", "E2 gone", "E3 new"}, "open RECEIVED"},
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: new gone"}, []string{"E3 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: a child that cannot be seen is not cancelled", looks: []look{
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: ?"}, []string{"E1 gone", "E2 gone"}, "open UNSPECIFIED"},
		}},
		{name: "P1: a second document under the number is an exception, once, and is followed too", looks: []look{
			{[]string{"E1: new", "E9: new"}, []string{"E1 new", "E9 new"}, "open RECEIVED !warehouse.twice"},
			{[]string{"E1: new ship", "E9: new"}, []string{"E1 ship", "shipped E1 VA-E1 x2"}, "open RECEIVED"},
			{[]string{"E1: new ship", "E9: new gone"}, []string{"E9 gone", "shipped E9  x0 complete"}, "open SHIPPED"},
		}},
		{name: "P3: of two documents one is cancelled: the order lives", looks: []look{
			{[]string{"E1: gone", "E9: new"}, []string{"E1 gone", "E9 new"}, "open RECEIVED !warehouse.twice"},
			{[]string{"E1: gone", "E9: new ship"}, []string{"E9 ship", "shipped E9 VA-E9 x2 complete"}, "open SHIPPED"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := ledger.Entry{Key: ledger.Key{Seller: "acme", Kind: kindName, No: "O-1"}, State: ledger.Accepted, Number: "E1", Revision: 1}
			ids := map[string]bool{}
			for i, look := range test.looks {
				var docs []document
				for _, line := range look.docs {
					docs = append(docs, doc(line))
				}
				o := progressOf(e, docs, test.whenPacked, start.Add(3*time.Minute))
				// After a crash before the ledger moved the same events come again, under the same ids.
				for j, ev := range progressOf(e, docs, test.whenPacked, start.Add(4*time.Minute)).events {
					if ev.ID != o.events[j].ID {
						t.Errorf("look %d: reported again as %s, was %s", i, ev.ID, o.events[j].ID)
					}
				}
				var reported []string
				for _, ev := range o.events {
					reported = append(reported, short(ev))
					if ids[ev.ID] {
						t.Errorf("look %d: id %s comes twice", i, ev.ID)
					}
					ids[ev.ID] = true
				}
				if diff := cmp.Diff(look.reported, reported); diff != "" {
					t.Errorf("look %d reports (-want +got):\n%s", i, diff)
				}
				after := "ended"
				if o.open {
					after = "open " + o.phase.String()[len("STATUS_"):]
				}
				if o.state == ledger.Cancelled {
					after += " cancelled"
				}
				for _, x := range o.exceptions {
					after += " !" + x.reason.Code
				}
				if after != look.after {
					t.Errorf("look %d leads to %q, want %q", i, after, look.after)
				}
				e.State, e.Following = o.state, &ledger.Following{Numbers: o.waybills, State: kind.Stored(o.next)}
			}
		})
	}
}

// The warehouse may return a history in any order and a step twice: the events do not change.
func TestAShuffledHistoryGivesTheSameEvents(t *testing.T) {
	straight := doc("E1: new pick pack ship road")
	shuffled := straight
	shuffled.History = append(slices.Clone(straight.History), straight.History[1], straight.History[3])
	slices.Reverse(shuffled.History)
	e := ledger.Entry{Key: ledger.Key{Seller: "acme", Kind: kindName, No: "O-1"}, State: ledger.Accepted, Number: "E1"}
	want := progressOf(e, []document{straight}, false, start)
	got := progressOf(e, []document{shuffled}, false, start)
	if len(want.events) != 6 || len(got.events) != len(want.events) {
		t.Fatalf("%d events from the straight history, %d from the shuffled one, want 6", len(want.events), len(got.events))
	}
	for i := range want.events {
		if got.events[i].ID != want.events[i].ID {
			t.Errorf("event %d is %s, want %s", i, got.events[i].ID, want.events[i].ID)
		}
	}
}
