package order

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
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
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
func doc(line string) part {
	head, walk, _ := strings.Cut(line, ":")
	head, children, split := strings.Cut(strings.TrimSpace(head), ">")
	number, parent, _ := strings.Cut(head, "<")
	d := part{SplitOf: parent, Document: warehouse.Document[*orderv1.Shipped]{Number: number, Detail: &orderv1.Shipped{}}}
	if split {
		d.Children = strings.Split(children, ",")
	}
	bill := true
	for i, word := range strings.Fields(walk) {
		code, now := strings.CutPrefix(word, "=")
		switch code {
		case "?":
			return part{SplitOf: parent, Missing: true, Document: warehouse.Document[*orderv1.Shipped]{Number: number}}
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
		d.Detail.Lines = []*orderv1.ShippedLine{{LineId: "1", Quantity: 2, Shipped: 2}}
		if bill {
			d.Detail.Waybills = []string{"VA-" + number}
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
		// after says where that leads: the phase, "ended" or "ended cancelled", and exceptions with "!".
		after string
	}
	tests := []struct {
		name       string
		whenPacked bool
		looks      []look
	}{
		{name: "each step is reported once, shipping at the hand-over, delivery ends it", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open"},
			{[]string{"E1: new pick pack"}, []string{"E1 pick", "E1 pack"}, "soon"},
			{[]string{"E1: new pick pack ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "late"},
			{[]string{"E1: new pick pack ship road done"}, []string{"E1 road", "E1 done", "delivered E1"}, "ended"},
		}},
		{name: "the whole walk seen at one look", looks: []look{
			{[]string{"E1: new pick ship done"}, []string{"E1 new", "E1 pick", "E1 ship", "E1 done", "shipped E1 VA-E1 x2 complete", "delivered E1"}, "ended"},
		}},
		{name: "seen again unchanged, nothing is reported", looks: []look{
			{[]string{"E1: new ship"}, []string{"E1 new", "E1 ship", "shipped E1 VA-E1 x2 complete"}, "late"},
			{[]string{"E1: new ship"}, nil, "late"},
		}},
		{name: "a state that the history lacks is reported", looks: []look{
			{[]string{"E1: new =pick"}, []string{"E1 new", "E1 pick"}, "open"},
			{[]string{"E1: new =pick pack"}, []string{"E1 pack"}, "soon"},
		}},
		{name: "unknown codes are passed on and do not end the following", looks: []look{
			{[]string{"E1: new pack odd"}, []string{"E1 new", "E1 pack", "E1 odd"}, "soon"},
			{[]string{"E1: new pack odd ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "late"},
		}},
		{name: "a step that comes again has an id of its own", looks: []look{
			{[]string{"E1: new stay"}, []string{"E1 new", "E1 stay"}, "open"},
			{[]string{"E1: new stay pack stay"}, []string{"E1 pack", "E1 stay"}, "open"},
		}},
		{name: "packed counts as shipped where the seller says so", whenPacked: true, looks: []look{
			{[]string{"E1: new pack"}, []string{"E1 new", "E1 pack", "shipped E1 VA-E1 x2 complete"}, "soon"},
			{[]string{"E1: new pack ship"}, []string{"E1 ship"}, "late"},
		}},
		{name: "a waybill that is late is waited for", looks: []look{
			{[]string{"E1: new ship nobill"}, []string{"E1 new", "E1 ship"}, "soon"},
			{[]string{"E1: new ship"}, []string{"shipped E1 VA-E1 x2 complete"}, "late"},
		}},
		{name: "refused by the buyer and returned", looks: []look{
			{[]string{"E1: ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "late"},
			{[]string{"E1: ship no"}, []string{"E1 no", "returning E1 REJECTED"}, "late"},
			{[]string{"E1: ship no back"}, []string{"E1 back", "returning E1 RETURNED"}, "ended"},
		}},
		{name: "cancelled by the warehouse itself", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open"},
			{[]string{"E1: new gone"}, []string{"E1 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: cancelled overrules a history that says shipped", looks: []look{
			{[]string{"E1: new ship gone"}, []string{"E1 new", "E1 ship", "E1 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: cancelled after shipped was reported is an exception, not a cancellation", looks: []look{
			{[]string{"E1: ship"}, []string{"E1 ship", "shipped E1 VA-E1 x2 complete"}, "late"},
			{[]string{"E1: ship gone"}, []string{"E1 gone"}, "ended !cancelled.after.shipped"},
		}},
		{name: "split in two: each child ships once, the last one completes", looks: []look{
			{[]string{"E1: new"}, []string{"E1 new"}, "open"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new", "E3<E1: new pack"}, []string{"E1 pick", "E2 new", "E3 new", "E3 pack"}, "soon"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new", "E3<E1: new pack ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1"}, "open"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new ship", "E3<E1: new pack ship done"}, []string{"E2 ship", "E3 done", "shipped E2 VA-E2 x2 of E1 complete"}, "late"},
			{[]string{"E1>E2,E3: new pick", "E2<E1: new ship done", "E3<E1: new pack ship done"}, []string{"E2 done", "delivered E1"}, "ended"},
		}},
		{name: "both children leave at once: only one completes", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ship"}, []string{"E1 new", "E2 ship", "E3 ship", "shipped E2 VA-E2 x2 of E1", "shipped E3 VA-E3 x2 of E1 complete"}, "late"},
		}},
		{name: "a child that the warehouse does not show yet keeps the order open", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ?"}, []string{"E1 new", "E2 ship", "shipped E2 VA-E2 x2 of E1"}, "open"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1 complete"}, "late"},
		}},
		{name: "a split of a split", looks: []look{
			{[]string{"E1>E2: new", "E2<E1>E3: new", "E3<E2: ship"}, []string{"E1 new", "E2 new", "E3 ship", "shipped E3 VA-E3 x2 of E2 complete"}, "late"},
		}},
		{name: "P3: one child cancelled, the other shipped: shipped, not cancelled", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: gone", "E3<E1: new"}, []string{"E1 new", "E2 gone", "E3 new"}, "open"},
			{[]string{"E1>E2,E3: new", "E2<E1: gone", "E3<E1: new ship"}, []string{"E3 ship", "shipped E3 VA-E3 x2 of E1 complete"}, "late"},
		}},
		{name: "the last open child is cancelled after the other left: nothing of it closes the order", looks: []look{
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: new"}, []string{"E1 new", "E2 ship", "E3 new", "shipped E2 VA-E2 x2 of E1"}, "open"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship", "E3<E1: new gone"}, []string{"E3 gone", "shipped E3  x0 of E1 complete"}, "late"},
			{[]string{"E1>E2,E3: new", "E2<E1: ship done", "E3<E1: new gone"}, []string{"E2 done", "delivered E1"}, "ended"},
		}},
		{name: "P3: cancelled only when every child is", looks: []look{
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: new"}, []string{"E1 gone", "E2 gone", "E3 new"}, "open"},
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: new gone"}, []string{"E3 gone", "cancelled"}, "ended cancelled"},
		}},
		{name: "P3: a child that cannot be seen is not cancelled", looks: []look{
			{[]string{"E1>E2,E3: gone", "E2<E1: gone", "E3<E1: ?"}, []string{"E1 gone", "E2 gone"}, "open"},
		}},
		{name: "P1: a second document under the number is an exception, once, and is followed too", looks: []look{
			{[]string{"E1: new", "E9: new"}, []string{"E1 new", "E9 new"}, "open !warehouse.twice"},
			{[]string{"E1: new ship", "E9: new"}, []string{"E1 ship", "shipped E1 VA-E1 x2"}, "open"},
			{[]string{"E1: new ship", "E9: new gone"}, []string{"E9 gone", "shipped E9  x0 complete"}, "late"},
		}},
		{name: "P3: of two documents one is cancelled: the order lives", looks: []look{
			{[]string{"E1: gone", "E9: new"}, []string{"E1 gone", "E9 new"}, "open !warehouse.twice"},
			{[]string{"E1: gone", "E9: new ship"}, []string{"E9 ship", "shipped E9 VA-E9 x2 complete"}, "late"},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := ledger.Entry{Key: ledger.Key{Seller: "acme", Kind: Terms.Name, No: "O-1"}, State: ledger.Accepted, Number: "E1", Revision: 1}
			s := seller.New(&sellerv1.Setup{Name: "acme", ShippedWhenPacked: test.whenPacked}, nil)
			ids := map[string]bool{}
			for i, look := range test.looks {
				var docs []part
				for _, line := range look.docs {
					docs = append(docs, doc(line))
				}
				o := Progress(e, docs, s, start.Add(3*time.Minute))
				// After a crash before the ledger moved the same events come again, under the same ids.
				for j, ev := range Progress(e, docs, s, start.Add(4*time.Minute)).Events {
					if ev.ID != o.Events[j].ID {
						t.Errorf("look %d: reported again as %s, was %s", i, ev.ID, o.Events[j].ID)
					}
				}
				var reported []string
				for _, ev := range o.Events {
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
				if o.Following.Phase != "" {
					after = string(o.Following.Phase)
				}
				if o.State == ledger.Cancelled {
					after += " cancelled"
				}
				for _, x := range o.Exceptions {
					after += " !" + x.Reason.Code
				}
				if after != look.after {
					t.Errorf("look %d leads to %q, want %q", i, after, look.after)
				}
				e.State, e.Following = o.State, &o.Following
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
	e := ledger.Entry{Key: ledger.Key{Seller: "acme", Kind: Terms.Name, No: "O-1"}, State: ledger.Accepted, Number: "E1"}
	s := seller.New(&sellerv1.Setup{Name: "acme"}, nil)
	want := Progress(e, []part{straight}, s, start)
	got := Progress(e, []part{shuffled}, s, start)
	if len(want.Events) != 6 || len(got.Events) != len(want.Events) {
		t.Fatalf("%d events from the straight history, %d from the shuffled one, want 6", len(want.Events), len(got.Events))
	}
	for i := range want.Events {
		if got.Events[i].ID != want.Events[i].ID {
			t.Errorf("event %d is %s, want %s", i, got.Events[i].ID, want.Events[i].ID)
		}
	}
}

// What moved is read, and what left until its shipping is published.
func TestUnread(t *testing.T) {
	found := func(code string) []warehouse.Document[*orderv1.Shipped] {
		d := warehouse.Document[*orderv1.Shipped]{Number: "E1"}
		d.State.Code, d.State.Status = code, statusOf[code]
		return []warehouse.Document[*orderv1.Shipped]{d}
	}
	for _, test := range []struct {
		known      string
		shipped    bool
		found      string
		whenPacked bool
		want       bool
	}{
		{known: "", found: "new", want: true},
		{known: "new", found: "new"},
		{known: "new", found: "pick", want: true},
		{known: "ship", found: "ship", want: true},
		{known: "ship", found: "ship", shipped: true},
		{known: "pack", found: "pack"},
		{known: "pack", found: "pack", whenPacked: true, want: true},
	} {
		s := seller.New(&sellerv1.Setup{Name: "acme", ShippedWhenPacked: test.whenPacked}, nil)
		state := State{Seen: kind.Seen{Status: statusOf[test.known], Code: test.known}, Shipped: test.shipped}
		e := ledger.Entry{State: ledger.Accepted, Number: "E1", Following: &ledger.Following{State: kind.Stored(state)}}
		if got := Unread(e, found(test.found), s); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// Earlier builds wrote the state's fields beside Due and Waybills.
func TestStoredStatesStayReadable(t *testing.T) {
	const stored = `{"Status":6,"Code":"10019","StatusAt":"2026-03-01T08:00:00Z","Children":{"N2":{"Status":6,"Code":"10019","Shipped":true}},"Shipped":true}`
	want := State{
		Seen:     kind.Seen{Status: documentv1.Status(6), Code: "10019", StatusAt: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)},
		Children: map[string]Child{"N2": {Status: documentv1.Status(6), Code: "10019", Shipped: true}}, Shipped: true,
	}
	got := stateOf(ledger.Entry{Following: &ledger.Following{State: []byte(stored[:len(stored)-1] + `,"Waybills":["V1"],"Due":"2026-03-01T09:00:00Z"}`)}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if raw := string(kind.Stored(want)); raw != stored {
		t.Errorf("written now: %s", raw)
	}
}
