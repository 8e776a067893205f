package purchase

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// State is what is known of a purchase order while it is followed.
type State struct {
	kind.Seen
	// Steps counts the changes of status that were published, Receipts the receipts.
	Steps, Receipts int
	// Received are the rows as they were published, by their key.
	Received map[string]Row `json:",omitempty"`
	// Due is a receipt that is about to be published.
	Due *Receipt `json:",omitempty"`
	// Complete: the last receipt was published.
	Complete bool
	// Foreign: it was published that the warehouse's document is another one's.
	Foreign bool
}

// Receipt is a receipt as it will be published.
type Receipt struct {
	At       time.Time
	Rows     []Row
	Complete bool
	Text     string
}

// Row is what arrived of one line in one condition, in all receipts.
type Row struct {
	LineID, GoodsCode, WarehouseGoodsNo, Level string
	Grade                                      purchasev1.Grade
	Quantity, Received                         int64
}

// key distinguishes the rows of a document.
func (r Row) key() string {
	return r.LineID + "|" + cmp.Or(r.WarehouseGoodsNo, r.GoodsCode) + "|" + strconv.Itoa(int(r.Grade)) + "|" + r.Level
}

// Progress derives what is new about a purchase order. A receipt takes two readings: the first writes it into the ledger,
// the second publishes it.
func Progress(e ledger.Entry, docs []kind.Part[*purchasev1.Received], _ *seller.Seller, now time.Time) kind.Outcome {
	p := &progress{entry: e, doc: docs[0], now: now, next: kind.StateOf[State](e)}
	p.State, p.Following.Phase = e.State, kind.PhaseOpen
	p.next.Received = maps.Clone(p.next.Received)
	switch {
	case p.next.Due != nil:
		p.receive(*p.next.Due)
		p.next.Due = nil
	case p.doc.Missing:
	case p.doc.No != "" && p.doc.No != e.Key.No:
		p.foreign()
	default:
		p.step()
		p.notice()
		p.end()
	}
	if p.next.Complete {
		p.Following.Phase = ""
	}
	p.Following.State = kind.Stored(p.next)
	return p.Outcome
}

type progress struct {
	kind.Outcome
	entry ledger.Entry
	doc   kind.Part[*purchasev1.Received]
	now   time.Time
	next  State
}

// step publishes a change of status.
func (p *progress) step() {
	s := p.doc.State
	if s.Code == p.next.Code {
		return
	}
	p.next.Steps++
	at := p.at(s.At)
	p.Events = append(p.Events, Terms.Topics.StatusChanged.About(p.entry.Key.Seller, p.entry.Key.No, at, &documentv1.StatusChanged{
		Ref: Terms.EntryRef(p.entry, p.doc.Number), At: timestamppb.New(at), Status: s.Status, Code: s.Code, Text: s.Text,
	}, p.doc.Number, s.Code+"-"+strconv.Itoa(p.next.Steps)))
	p.next.Seen = kind.Seen{Status: s.Status, Code: s.Code, StatusAt: at}
}

// notice notes a receipt that was not published yet. Nothing more arrives of a document that is completed, or cancelled
// after some of it had arrived.
func (p *progress) notice() {
	some := len(p.next.Received) > 0
	r := Receipt{At: p.at(p.doc.State.At), Rows: rowsOf(p.doc.Detail), Text: p.doc.Detail.GetText()}
	news := false
	for _, row := range r.Rows {
		news = news || row.Received != p.next.Received[row.key()].Received
		some = some || row.Received != 0
	}
	for _, key := range slices.Sorted(maps.Keys(p.next.Received)) {
		gone := p.next.Received[key]
		if gone.Received != 0 && !slices.ContainsFunc(r.Rows, func(row Row) bool { return row.key() == key }) {
			gone.Received = 0 // corrected to nothing
			r.Rows, news = append(r.Rows, gone), true
		}
	}
	r.Complete = p.doc.State.Status == documentv1.Status_STATUS_COMPLETED || p.doc.Cancelled() && some
	if news || r.Complete {
		p.next.Due, p.Following.Phase = &r, kind.PhaseNow
	}
}

// end is for a document that the warehouse cancelled.
func (p *progress) end() {
	switch {
	case !p.doc.Cancelled():
	case p.next.Due == nil:
		p.State, p.Following.Phase = ledger.Cancelled, ""
		p.Events = append(p.Events, Terms.CancelledEvent(Terms.EntryRef(p.entry, p.doc.Number), p.at(p.doc.State.At), "")) // the follower adds whose request it answers
	default: // goods are in, so it is not reported as cancelled
		p.Exceptions = append(p.Exceptions, kind.Exception{Documents: p.doc.Number, Reason: fault.Reason{
			Code: "cancelled.after.received", RemoteCode: p.doc.State.Code, RemoteText: p.doc.State.Text,
			ZH: fmt.Sprintf("仓库单据 %s 已收货后又显示已取消；未按取消处理，请向仓库核实", p.doc.Number),
			EN: fmt.Sprintf("document %s is cancelled although goods of it arrived; not reported as cancelled: ask the warehouse", p.doc.Number),
		}})
	}
}

// receive publishes a receipt that stands in the ledger: what each row gained, and of the last receipt every row.
func (p *progress) receive(r Receipt) {
	m := &purchasev1.Received{
		Ref: Terms.EntryRef(p.entry, p.entry.Number), At: timestamppb.New(r.At), Complete: r.Complete, Text: r.Text,
	}
	if p.next.Received == nil {
		p.next.Received = map[string]Row{}
	}
	for _, row := range r.Rows {
		gained := row.Received - p.next.Received[row.key()].Received
		if gained == 0 && !r.Complete {
			continue
		}
		p.next.Received[row.key()] = row
		m.Lines = append(m.Lines, &purchasev1.ReceivedLine{
			LineId: row.LineID, GoodsCode: row.GoodsCode, WarehouseGoodsNo: row.WarehouseGoodsNo, Grade: row.Grade, Level: row.Level,
			Quantity: row.Quantity, Received: gained, ReceivedTotal: row.Received,
		})
	}
	p.next.Receipts++
	p.next.Complete = r.Complete
	p.Events = append(p.Events, event.PurchaseReceived.About(p.entry.Key.Seller, p.entry.Key.No, r.At, m, p.entry.Number, strconv.Itoa(p.next.Receipts)))
}

// foreign raises, once, that the document is another purchase order's: nothing of it is published.
func (p *progress) foreign() {
	if p.next.Foreign {
		return
	}
	p.next.Foreign = true
	p.Exceptions = append(p.Exceptions, kind.Exception{Documents: p.doc.Number, Reason: fault.Reason{
		Code: "warehouse.foreign", Field: Terms.Field, RemoteText: p.doc.No,
		ZH: fmt.Sprintf("仓库单据 %s 属于采购单 %s，不是 %s；请向仓库核实", p.doc.Number, p.doc.No, p.entry.Key.No),
		EN: fmt.Sprintf("the warehouse's document %s is that of purchase order %s and not of %s: ask the warehouse", p.doc.Number, p.doc.No, p.entry.Key.No),
	}})
}

// at is the warehouse's time, or now when it gave none.
func (p *progress) at(t time.Time) time.Time {
	if t.IsZero() {
		return p.now
	}
	return t
}

// rowsOf are the document's rows; those of one line in one condition are one.
func rowsOf(m *purchasev1.Received) []Row {
	var rows []Row
	for _, l := range m.GetLines() {
		row := Row{
			LineID: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Level: l.Level, Grade: l.Grade,
			Quantity: l.Quantity, Received: l.ReceivedTotal,
		}
		if i := slices.IndexFunc(rows, func(r Row) bool { return r.key() == row.key() }); i >= 0 {
			rows[i].Received += row.Received
			continue
		}
		rows = append(rows, row)
	}
	return rows
}
