package purchase_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/purchase"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

var start = time.Date(2026, 3, 5, 8, 0, 0, 0, time.UTC)

// doc is what the warehouse has: "70 1g8/10 1d2/10" is status 70 with 8 good and 2 defective pieces of line 1 of 10.
func doc(text string) kind.Part[*purchasev1.Received] {
	p := kind.Part[*purchasev1.Received]{}
	p.Number, p.No, p.Detail = "EPL1", "PO-1", &purchasev1.Received{}
	words := strings.Fields(text)
	p.State = warehouse.State{Code: words[0], Text: "状态" + words[0], Status: map[string]documentv1.Status{
		"10": documentv1.Status_STATUS_RECEIVED, "5": documentv1.Status_STATUS_WAITING, "70": documentv1.Status_STATUS_COMPLETED,
		"90": documentv1.Status_STATUS_CANCELLING, "91": documentv1.Status_STATUS_CANCELLED, "92": documentv1.Status_STATUS_CANCEL_REFUSED,
	}[words[0]]}
	for _, w := range words[1:] {
		l := &purchasev1.ReceivedLine{GoodsCode: "TEA"}
		var grade rune
		if _, err := fmt.Sscanf(w, "%1s%c%d/%d", &l.LineId, &grade, &l.ReceivedTotal, &l.Quantity); err != nil {
			panic(err)
		}
		l.Grade, l.Level = purchasev1.Grade_GRADE_GOOD, "100"
		if grade == 'd' {
			l.Grade, l.Level = purchasev1.Grade_GRADE_DEFECTIVE, "200"
		}
		l.Received = l.ReceivedTotal
		p.Detail.Lines = append(p.Detail.Lines, l)
	}
	return p
}

// short is an outcome in short.
func short(o kind.Outcome) string {
	var said []string
	for _, e := range o.Events {
		switch m := e.Message.(type) {
		case *documentv1.StatusChanged:
			said = append(said, "status "+m.Code)
		case *documentv1.Cancelled:
			said = append(said, strings.TrimSpace("cancelled "+m.RequestId))
		case *purchasev1.Received:
			text := "received"
			for _, l := range m.Lines {
				text += fmt.Sprintf(" %s%s%+d=%d/%d", l.LineId, strings.ToLower(strings.TrimPrefix(l.Grade.String(), "GRADE_"))[:1], l.Received, l.ReceivedTotal, l.Quantity)
			}
			if m.Complete {
				text += " complete"
			}
			said = append(said, text)
		}
	}
	for _, x := range o.Exceptions {
		said = append(said, "exception "+x.Reason.Code)
	}
	if o.Following.Phase == "" {
		said = append(said, "end")
	}
	if o.State == ledger.Cancelled {
		said = append(said, "as cancelled")
	}
	return strings.Join(said, "; ")
}

// What really arrived is published receipt by receipt, in the condition in which it arrived, and adds up.
func TestWhatArrivesIsPublished(t *testing.T) {
	for _, test := range []struct {
		name  string
		reads []string
		want  []string
	}{
		{"in one receipt", []string{"10 1g0/10", "70 1g10/10", "70 1g10/10"}, []string{"status 10", "status 70", "received 1g+10=10/10 complete; end"}},
		{"short", []string{"70 1g8/10 2g0/5", "70 1g8/10 2g0/5"}, []string{"status 70", "received 1g+8=8/10 2g+0=0/5 complete; end"}},
		{"nothing at all", []string{"70 1g0/10", "70 1g0/10"}, []string{"status 70", "received 1g+0=0/10 complete; end"}},
		{"more than was asked for", []string{"70 1g12/10", "70 1g12/10"}, []string{"status 70", "received 1g+12=12/10 complete; end"}},
		{"some of it damaged", []string{"70 1g8/10 1d2/10", "70 1g8/10 1d2/10"}, []string{"status 70", "received 1g+8=8/10 1d+2=2/10 complete; end"}},
		{
			"in three receipts, and more arrives while one is written down",
			[]string{"10 1g4/10", "10 1g7/10", "10 1g7/10", "70 1g9/10", "70 1g9/10", "70 1g9/10"},
			[]string{"status 10", "received 1g+4=4/10", "", "received 1g+3=7/10", "status 70", "received 1g+2=9/10 complete; end"},
		},
		{
			"a receipt is corrected downwards, a row is gone",
			[]string{"10 1g4/10 1d1/10", "10 1g4/10 1d1/10", "10 1g3/10", "10 1g3/10", "70 1g3/10", "70 1g3/10"},
			[]string{"status 10", "received 1g+4=4/10 1d+1=1/10", "", "received 1g-1=3/10 1d-1=0/10", "status 70", "received 1g+0=3/10 complete; end"},
		},
		{"the merchant owes the warehouse a list", []string{"5 1g0/10", "10 1g0/10"}, []string{"status 5", "status 10"}},
		{"cancelled", []string{"90 1g0/10", "91 1g0/10"}, []string{"status 90", "status 91; cancelled; end; as cancelled"}},
		{"not cancelled after all", []string{"90 1g0/10", "92 1g0/10", "70 1g10/10", "70 1g10/10"}, []string{"status 90", "status 92", "status 70", "received 1g+10=10/10 complete; end"}},
		{
			"cancelled after some had arrived: that is a person's to settle",
			[]string{"10 1g4/10", "10 1g4/10", "91 1g4/10", "91 1g4/10"},
			[]string{"status 10", "received 1g+4=4/10", "status 91; exception cancelled.after.received", "received 1g+0=4/10 complete; end"},
		},
		{"a status that nobody knows", []string{"33 1g0/10", "33 1g0/10"}, []string{"status 33", ""}},
		{"the same status again later", []string{"10 1g0/10", "5 1g0/10", "10 1g0/10"}, []string{"status 10", "status 5", "status 10"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := ledger.Entry{Key: purchase.Kind.Key("acme", "PO-1"), State: ledger.Accepted, Number: "EPL1", Revision: 1, Warehouse: "W01"}
			ids, arrived := map[string]bool{}, int64(0)
			for i, text := range test.reads {
				now := start.Add(time.Duration(i) * time.Minute)
				o := purchase.Progress(e, []kind.Part[*purchasev1.Received]{doc(text)}, nil, now)
				if got := short(o); got != test.want[i] {
					t.Fatalf("reading %d (%s): %q, want %q", i, text, got, test.want[i])
				}
				// The worker died after publishing and before it wrote the ledger, and what the warehouse has moved on meanwhile.
				more := purchase.Progress(e, []kind.Part[*purchasev1.Received]{doc(test.reads[len(test.reads)-1])}, nil, now.Add(time.Hour))
				for _, a := range o.Events {
					for _, b := range more.Events {
						m, isReceipt := a.Message.(*purchasev1.Received)
						if isReceipt && a.ID == b.ID && m.String() != b.Message.(*purchasev1.Received).String() {
							t.Errorf("%s is published with two contents:\n%v\n%v", a.ID, m, b.Message)
						}
					}
				}
				for _, ev := range o.Events {
					if ids[ev.ID] {
						t.Errorf("%s is published twice", ev.ID)
					}
					ids[ev.ID] = true
					if m, ok := ev.Message.(*purchasev1.Received); ok {
						for _, l := range m.Lines {
							arrived += l.Received
						}
					}
				}
				e.State, e.Following = o.State, &o.Following
			}
			want := int64(0)
			for _, l := range doc(test.reads[len(test.reads)-1]).Detail.Lines {
				want += l.ReceivedTotal
			}
			if test.name != "the same status again later" && arrived != want {
				t.Errorf("%d pieces are published, %d arrived", arrived, want)
			}
		})
	}
}

// Nothing is concluded from a document that is another's, or that the warehouse does not know now.
func TestOnlyItsOwnDocumentCounts(t *testing.T) {
	e := ledger.Entry{Key: purchase.Kind.Key("acme", "PO-1"), State: ledger.Accepted, Number: "EPL1"}
	other := doc("70 1g10/10")
	other.No = "PO-2"
	first := purchase.Progress(e, []kind.Part[*purchasev1.Received]{other}, nil, start)
	if got := short(first); got != "exception warehouse.foreign" {
		t.Errorf("another's: %q", got)
	}
	e.Following = &first.Following
	if got := short(purchase.Progress(e, []kind.Part[*purchasev1.Received]{other}, nil, start)); got != "" {
		t.Errorf("said twice: %q", got)
	}
	missing := kind.Part[*purchasev1.Received]{Missing: true}
	if got := short(purchase.Progress(e, []kind.Part[*purchasev1.Received]{missing}, nil, start)); got != "" {
		t.Errorf("missing: %q", got)
	}
}
