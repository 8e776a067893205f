package reconciler

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
)

// Reason is why an order is in the open list.
type Reason string

// Reasons that explain an order for now.
const (
	// Queued: it waits for the pusher, or for a retry.
	Queued Reason = "queued"
	// Held: it waits for a cause, and is released automatically.
	Held Reason = "held"
	// DeadLettered: it is a dead letter and needs a person.
	DeadLettered Reason = "shelved"
	// Unknown: it was sent, no answer came, and the pusher looks it up.
	Unknown Reason = "doubt"
	// Paused: its seller is paused, so the warehouse is not asked.
	Paused Reason = "paused"
	// Repairing: it was redelivered and is not settled yet.
	Repairing Reason = "repairing"
	// Confirming: it is checked a second time before it is named.
	Confirming Reason = "looking"
)

// Reasons that explain nothing: they need a person unless they go away.
const (
	// Unasked: the ledger does not know it, and the warehouse cannot be asked.
	Unasked Reason = "unasked"
	// Absent: it was published as accepted; neither the ledger nor the warehouse knows it.
	Absent Reason = "absent"
	// Left: it was held or dead-lettered, is so no longer, and came to nothing: a person dropped it, or it was lost.
	Left Reason = "left"
	// Lost: it was redelivered MaxTries times and came to nothing.
	Lost Reason = "lost"
	// Gone: it came to nothing, and its audit is no longer in the stream.
	Gone Reason = "gone"
)

// Reasons lists them, those that explain first.
func Reasons() []Reason {
	return []Reason{Queued, Held, DeadLettered, Unknown, Paused, Repairing, Confirming, Unasked, Absent, Left, Lost, Gone}
}

// Explains reports whether an order needs no person because of it.
func (r Reason) Explains() bool {
	return !slices.Contains([]Reason{Unasked, Absent, Left, Lost, Gone}, r)
}

// Order is an audited order that is not settled.
type Order struct {
	OutboundNo string `json:"outbound_no"`
	OrderNo    string `json:"order_no,omitempty"`
	Shop       string `json:"shop,omitempty"`
	Warehouse  string `json:"warehouse,omitempty"`
	// Audits are its messages in the stream, oldest first; of many, the first and the last ones.
	Audits []Audit `json:"audits"`
	Reason Reason  `json:"why"`
	// Detail is the cause, the error; nothing secret or personal.
	Detail string `json:"detail,omitempty"`
	// Since is since when the Reason holds.
	Since time.Time `json:"since"`
	// Tries is how often it was redelivered, TriedAt when last.
	Tries   int       `json:"tries,omitempty"`
	TriedAt time.Time `json:"tried_at,omitzero"`
	// Outcome is the last published outcome among the events up to number ReadTo, which was stored at ReadUntil;
	// OutcomeAt is when it was stored. Reused: one of its audits was refused because the number belongs to another
	// content.
	Outcome   string    `json:"told,omitempty"`
	OutcomeAt time.Time `json:"told_at,omitzero"`
	ReadTo    uint64    `json:"told_to,omitempty"`
	ReadUntil time.Time `json:"told_until,omitzero"`
	Reused    bool      `json:"reused,omitempty"`
}

// Audit is where an audit is stored, and since when. One without a stream was written by a build that knew only
// ORDERS.
type Audit struct {
	Stream string    `json:"stream,omitempty"`
	Seq    uint64    `json:"seq"`
	Stored time.Time `json:"stored"`
}

// auditStreams are the streams that hold audits, those of earlier builds first.
func auditStreams() []string { return bus.Holding(event.OrderAudited.Name) }

// place returns where the audit is stored, its stream filled in.
func (a Audit) place() bus.Place {
	stream := a.Stream
	if stream == "" {
		stream = bus.StreamOrders
	}
	return bus.Place{Stream: stream, Seq: a.Seq, Stored: a.Stored}
}

// streamIndex is the index of the audit's stream in auditStreams.
func (a Audit) streamIndex() int { return max(0, slices.Index(auditStreams(), a.place().Stream)) }

// Report is how a seller's orders stand after the last run.
type Report struct {
	// Cursor is the last audit that was walked; Sweep is what is walked again because a new epoch of the ledger began
	// since.
	Cursor Audit  `json:"cursor"`
	Sweep  *Sweep `json:"sweep,omitempty"`
	// EpochSince names the epoch of the ledger under which the cursor was walked.
	EpochSince time.Time `json:"born_at"`
	// Settled counts the orders that were passed since the book was created, Repaired those of them that had been
	// redelivered.
	Settled  int `json:"settled"`
	Repaired int `json:"repaired"`
	// Open counts the open list by reason.
	Open map[Reason]int `json:"open,omitempty"`
	// Oldest is when the oldest unexplained order was audited, by the stream's clock; zero when there is none.
	Oldest time.Time `json:"oldest_unexplained,omitzero"`
	// RanAt is when the last run ended, CycleAt when one last checked everything that was old enough.
	RanAt   time.Time `json:"ran_at"`
	CycleAt time.Time `json:"cycle_at,omitzero"`
	// Findings counts the documents at the warehouses that no audit explains, Own those that the warehouses made
	// themselves.
	Findings int `json:"strangers,omitempty"`
	Own      int `json:"own,omitempty"`
	// RefusedButThere counts those of the Findings whose orders were published as refused; RefusedPass is how far
	// such orders were looked up.
	RefusedButThere int         `json:"refused_but_there,omitempty"`
	RefusedPass     RefusedPass `json:"refused,omitzero"`
	// Lists says how far the lists of each account were read.
	Lists map[string]*List `json:"lists,omitempty"`
	// Full: the open list is as long as it may be, and what lies behind the cursor waits.
	Full bool `json:"full,omitempty"`
}

// Sweep is a part of the stream that is walked again: from behind At up to the number To.
type Sweep struct {
	At     Audit  `json:"at"`
	To     uint64 `json:"to"`
	Stream string `json:"stream,omitempty"`
}

func (s *Sweep) to() *Audit { return &Audit{Stream: s.Stream, Seq: s.To} }

// Unexplained counts the orders that nothing explains.
func (s Report) Unexplained() int {
	n := 0
	for reason, of := range s.Open {
		if !reason.Explains() {
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

// ReadReport reads how a seller stands. The zero Report: no run was made yet.
func ReadReport(ctx context.Context, books ledger.Books, seller string) (Report, error) {
	report, _, err := readHead(ctx, books, seller)
	return report, err
}

func readHead(ctx context.Context, books ledger.Books, seller string) (report Report, t *book.Tx, err error) {
	if t, err = book.Read(ctx, books, bookOf(seller), []string{headField}, nil); err == nil {
		_, err = t.Get(headField, &report)
	}
	return report, t, err
}

// CaughtUp reports whether everything that a seller audited before the ledger's epoch began was walked since then, and
// nothing of it waits to be redelivered. epoch is since when the epoch lasts.
func CaughtUp(ctx context.Context, books ledger.Books, seller string) (known bool, epoch time.Time, err error) {
	report, t, err := readHead(ctx, books, seller)
	if err != nil {
		return false, time.Time{}, err
	}
	return !t.MayBeOlder(report.EpochSince) && report.Sweep == nil && report.Open[Repairing] == 0, t.EpochSince, nil
}

// ReadOpen reads the open list of a seller, the oldest first.
func ReadOpen(ctx context.Context, books ledger.Books, seller string) ([]Order, error) {
	return readList(ctx, books, seller, openField, func(o *Order) (string, time.Time) { return o.OutboundNo, o.first().Stored })
}

// readList reads the fields of a seller's book that begin with prefix, the oldest first. about returns the number of an
// element and its time.
func readList[T any](ctx context.Context, books ledger.Books, seller, prefix string, about func(*T) (no string, at time.Time)) ([]T, error) {
	byNo := map[string]T{} // a scan may return a field twice that is written meanwhile
	err := book.Scan(ctx, books, bookOf(seller), prefix, func(f ledger.Field) error {
		var v T
		err := book.Decode(bookOf(seller), f, &v)
		no, _ := about(&v)
		byNo[no] = v
		return err
	})
	if err != nil {
		return nil, err
	}
	list := slices.AppendSeq(make([]T, 0, len(byNo)), maps.Values(byNo))
	slices.SortFunc(list, func(a, b T) int {
		aNo, aAt := about(&a)
		bNo, bAt := about(&b)
		return cmp.Or(aAt.Compare(bAt), strings.Compare(aNo, bNo))
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

// addAudit adds an audit of the order.
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

// auditToRedeliver chooses among several audits: see the package comment.
func (o Order) auditToRedeliver() Audit {
	if o.Reused {
		return o.first()
	}
	return o.last()
}

// bookChanges is what a run writes into the book.
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

// write writes the list first and the report last: after a crash in between the same orders are walked again, which
// changes nothing.
func (c *bookChanges) write(ctx context.Context, books ledger.Books, head Report, newOwner func() string) error {
	raw, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("write the report of %s: %w", c.seller, err)
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
		c.marks = c.marks[:ledger.BookWriteLimit] // the others are checked once more
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
