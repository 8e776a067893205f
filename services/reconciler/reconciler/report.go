package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
)

// Why an order stands in the open list.
type Reason string

// What explains an order for now.
const (
	// Queued: the pusher was not given it yet, or it comes back to it: it waits for its turn, or for a retry.
	Queued Reason = "queued"
	// Held: it waits for a cause, and goes on by itself.
	Held Reason = "held"
	// Shelved: it stands on the shelf for a person.
	DeadLettered Reason = "shelved"
	// Doubt: it was sent, no answer came, and it is asked after.
	Unknown Reason = "doubt"
	// Paused: its seller is paused, so the warehouse is not asked.
	Paused Reason = "paused"
	// Repairing: it was handed over again and is not settled yet.
	Repairing Reason = "repairing"
	// Looking: what was found is looked at a second time before it is named.
	Confirming Reason = "looking"
)

// What does not, and needs a person unless it goes away by itself.
const (
	// Unasked: the ledger does not know it, and the warehouse cannot be asked.
	Unasked Reason = "unasked"
	// Absent: it was told as accepted; the ledger and the warehouse do not know it.
	Absent Reason = "absent"
	// Left: it was held or shelved, left the shelf, and came to nothing: dropped by a person, or lost.
	Left Reason = "left"
	// Lost: it was handed over MaxTries times and came to nothing.
	Lost Reason = "lost"
	// Gone: it came to nothing, and its audit is no longer in the stream.
	Gone Reason = "gone"
)

// Whys lists them: those that explain first.
func Reasons() []Reason {
	return []Reason{Queued, Held, DeadLettered, Unknown, Paused, Repairing, Confirming, Unasked, Absent, Left, Lost, Gone}
}

// Explains tells whether nobody has to look after an order for it.
func (w Reason) Explains() bool {
	return !slices.Contains([]Reason{Unasked, Absent, Left, Lost, Gone}, w)
}

// Order is an audited order that is not settled.
type Order struct {
	OutboundNo string `json:"outbound_no"`
	OrderNo    string `json:"order_no,omitempty"`
	Shop       string `json:"shop,omitempty"`
	Warehouse  string `json:"warehouse,omitempty"`
	// Audits are its messages in the stream, oldest first; of many the first and the last ones.
	Audits []Audit `json:"audits"`
	Reason Reason  `json:"why"`
	// Detail is the cause, the error; nothing secret or personal.
	Detail string `json:"detail,omitempty"`
	// Since is when it began to be so.
	Since time.Time `json:"since"`
	// Tries is how often it was handed over again, TriedAt when last.
	Tries   int       `json:"tries,omitempty"`
	TriedAt time.Time `json:"tried_at,omitzero"`
	// Told is the last outcome that the streams told of it, of those up to the event number ToldTo, which was stored at
	// ToldUntil; ToldAt is when it was stored. Reused: one of its audits was refused because the number was another's.
	Outcome   string    `json:"told,omitempty"`
	OutcomeAt time.Time `json:"told_at,omitzero"`
	ReadTo    uint64    `json:"told_to,omitempty"`
	ReadUntil time.Time `json:"told_until,omitzero"`
	Reused    bool      `json:"reused,omitempty"`
}

// Audit is where an audit stands, and when it was stored. Without a stream it was written by a build that knew only
// ORDERS.
type Audit struct {
	Stream string    `json:"stream,omitempty"`
	Seq    uint64    `json:"seq"`
	Stored time.Time `json:"stored"`
}

// auditStreams are where audits stand, the streams of earlier builds first.
func auditStreams() []string { return bus.Holding(event.OrderAudited.Name) }

// place is the audit's, its stream filled in.
func (a Audit) place() bus.Place {
	stream := a.Stream
	if stream == "" {
		stream = bus.StreamOrders
	}
	return bus.Place{Stream: stream, Seq: a.Seq, Stored: a.Stored}
}

// nth is the number among auditStreams of the audit's own.
func (a Audit) streamIndex() int { return max(0, slices.Index(auditStreams(), a.place().Stream)) }

// Standing is how a seller's orders stand after the last run.
type Report struct {
	// Cursor is the last audit that was walked; Sweep what is walked again because the ledger was born anew since.
	Cursor Audit  `json:"cursor"`
	Sweep  *Sweep `json:"sweep,omitempty"`
	// EpochSince is the birth of the ledger that the cursor was walked with.
	EpochSince time.Time `json:"born_at"`
	// Settled counts the orders that were passed since the book was begun, Repaired those of them that had been handed over
	// again.
	Settled  int `json:"settled"`
	Repaired int `json:"repaired"`
	// Open counts the open list, by why.
	Open map[Reason]int `json:"open,omitempty"`
	// Oldest is when the oldest unexplained order was audited, by the stream's clock; zero when there is none.
	Oldest time.Time `json:"oldest_unexplained,omitzero"`
	// RanAt is when the last run ended, CycleAt when one last got to the end: all was looked at that was old enough.
	RanAt   time.Time `json:"ran_at"`
	CycleAt time.Time `json:"cycle_at,omitzero"`
	// Strangers counts the documents at the warehouses that no audit of ours tells of, Own those that the warehouses took
	// themselves.
	Findings int `json:"strangers,omitempty"`
	Own      int `json:"own,omitempty"`
	// ButThere counts those of the Strangers whose orders were published as refused; Refused is how far such are asked for.
	RefusedButThere int         `json:"refused_but_there,omitempty"`
	RefusedPass     RefusedPass `json:"refused,omitzero"`
	// Lists are how far the lists of each account were read.
	Lists map[string]*List `json:"lists,omitempty"`
	// Full: the open list is as long as it may be, and what lies behind the cursor waits.
	Full bool `json:"full,omitempty"`
}

// Sweep is a stretch that is walked again: from behind At up to the number To of the stream.
type Sweep struct {
	At     Audit  `json:"at"`
	To     uint64 `json:"to"`
	Stream string `json:"stream,omitempty"`
}

func (s *Sweep) to() *Audit { return &Audit{Stream: s.Stream, Seq: s.To} }

// Unexplained counts the orders that nothing explains.
func (s Report) Unexplained() int {
	n := 0
	for why, of := range s.Open {
		if !why.Explains() {
			n += of
		}
	}
	return n
}

// Names in a seller's book.
const (
	headField = "head"
	openField = "open/"
)

func bookOf(seller string) string { return "reconcile/" + seller }

// Read tells how a seller stands. The zero Standing: nobody looked yet.
func ReadReport(ctx context.Context, books ledger.Books, seller string) (Report, error) {
	s, _, _, err := readHead(ctx, books, seller)
	return s, err
}

func readHead(ctx context.Context, books ledger.Books, seller string) (s Report, version uint64, born time.Time, err error) {
	b, err := books.ReadBook(ctx, bookOf(seller), []string{headField}, nil)
	if err == nil && b.Fields[headField] != nil {
		err = json.Unmarshal(b.Fields[headField], &s)
	}
	if err != nil {
		return s, 0, born, fmt.Errorf("read how %s stands: %w", seller, err)
	}
	return s, b.Version, b.EpochSince, nil
}

// Known tells whether all that a seller audited before the ledger's birth was walked since then, and nothing of it is still
// to be handed over again. born is that birth.
func CaughtUp(ctx context.Context, books ledger.Books, seller string) (known bool, born time.Time, err error) {
	s, _, born, err := readHead(ctx, books, seller)
	return err == nil && s.EpochSince.Equal(born) && s.Sweep == nil && s.Open[Repairing] == 0, born, err
}

// ReadOpen tells the open list of a seller, the oldest first.
func ReadOpen(ctx context.Context, books ledger.Books, seller string) ([]Order, error) {
	byNo := map[string]Order{} // a field that is written meanwhile may be told twice
	for from := ""; ; {
		fields, next, err := books.ScanBook(ctx, bookOf(seller), openField, from)
		if err != nil {
			return nil, fmt.Errorf("read the open orders of %s: %w", seller, err)
		}
		for _, f := range fields {
			var o Order
			if err := json.Unmarshal(f.Value, &o); err != nil {
				return nil, fmt.Errorf("read open order %s of %s: %w", f.Name, seller, err)
			}
			byNo[o.OutboundNo] = o
		}
		if next == "" {
			break
		}
		from = next
	}
	list := make([]Order, 0, len(byNo))
	for _, o := range byNo {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b Order) int {
		if c := a.first().Stored.Compare(b.first().Stored); c != 0 {
			return c
		}
		return strings.Compare(a.OutboundNo, b.OutboundNo)
	})
	return list, nil
}

// Forget drops what is known of a seller: the next run walks the stream from its beginning.
func Forget(ctx context.Context, books ledger.Books, seller string) error {
	return books.DropBook(ctx, bookOf(seller))
}

func (o Order) first() Audit {
	if len(o.Audits) == 0 {
		return Audit{}
	}
	return o.Audits[0]
}

func (o Order) last() Audit {
	if len(o.Audits) == 0 {
		return Audit{}
	}
	return o.Audits[len(o.Audits)-1]
}

// First is when it was first audited, by the stream's clock.
func (o Order) First() time.Time { return o.first().Stored }

// auditsKept is how many audits of one order are remembered.
const auditsKept = 8

// audited adds an audit of the order.
func (o *Order) addAudit(a Audit) {
	if slices.ContainsFunc(o.Audits, func(have Audit) bool {
		return have.place().Stream == a.place().Stream && have.Seq == a.Seq && have.Stored.Equal(a.Stored)
	}) {
		return
	}
	o.Audits = append(o.Audits, a)
	slices.SortFunc(o.Audits, func(a, b Audit) int { return a.Stored.Compare(b.Stored) })
	if len(o.Audits) > auditsKept {
		o.Audits = slices.Delete(o.Audits, 1, 2)
	}
}

// chosen is the audit to hand over: see the package comment.
func (o Order) auditToRedeliver() Audit {
	if o.Reused {
		return o.first()
	}
	return o.last()
}

// changes is what a run writes into the book.
type bookChanges struct {
	seller  string
	version uint64
	fields  map[string][]byte
	marks   []ledger.Mark
}

func (c *bookChanges) set(o Order) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write open order %s: %w", o.OutboundNo, err)
	}
	c.fields[openField+o.OutboundNo] = raw
	return nil
}

func (c *bookChanges) remove(no string) { c.fields[openField+no] = nil }

// write writes the list first and the head last: a crash in between walks the same orders again, which changes nothing.
func (c *bookChanges) write(ctx context.Context, books ledger.Books, head Report, newOwner func() string) error {
	raw, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("write how %s stands: %w", c.seller, err)
	}
	part := map[string][]byte{}
	flush := func() (err error) {
		c.version, err = books.WriteBook(ctx, bookOf(c.seller), ledger.BookWrite{Version: c.version, Owner: newOwner(), Fields: part})
		part = map[string][]byte{}
		return err
	}
	for name, value := range c.fields {
		if part[name] = value; len(part) == ledger.BookWriteLimit {
			if err := flush(); err != nil {
				return fmt.Errorf("write the open orders of %s: %w", c.seller, err)
			}
		}
	}
	part[headField] = raw
	if len(c.marks) > ledger.BookWriteLimit {
		c.marks = c.marks[:ledger.BookWriteLimit] // the others are looked at once more
	}
	c.version, err = books.WriteBook(ctx, bookOf(c.seller), ledger.BookWrite{Version: c.version, Owner: newOwner(), Fields: part, Marks: c.marks})
	if errors.Is(err, ledger.ErrVersion) {
		err = fmt.Errorf("another run wrote meanwhile: %w", err)
	}
	if err != nil {
		return fmt.Errorf("write how %s stands: %w", c.seller, err)
	}
	return nil
}
