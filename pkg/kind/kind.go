// Package kind says what differs between the kinds of documents that an ERP hands to a warehouse: orders, purchase orders.
// Each kind is a row in a folder of its own. Package document decides what happens next to a document, document/push sends
// and cancels documents, document/follow follows them; none of these names a kind.
//
// # Why
//
// A copy of push and follow for each kind would be some 3 000 lines, and each fault found in one copy would be in all of
// them. What differs is small: the number's field, the items that may be live only once, the fields that reach the
// warehouse, whether the warehouse finds documents by the ERP's numbers, its status table, and what a document's end
// yields.
package kind

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
)

// Kind is one kind of documents. M is the ERP's document, D what its end yields.
type Kind[M, D proto.Message] struct {
	Terms
	// Audited is what an ERP publishes to have it sent, CancelRequested to have it cancelled.
	Audited         event.Topic[M]
	CancelRequested event.Topic[*documentv1.CancelRequested]

	// Channel returns the part of an open warehouse that takes the kind; false when it takes none.
	Channel func(warehouse.Identified) (warehouse.Channel[M, D], bool)
	// Clean returns m with its texts as they are sent; m itself does not change.
	Clean func(m M) M
	// Facts are of a cleaned document, or of one that broke a rule: any field may be missing.
	Facts func(m M) Facts
	// Hash identifies the content of a cleaned document: all that reaches the warehouse, whatever its spelling.
	Hash func(m M) string
	// Same reports whether the entry's hash is that of m, which is not cleaned, also when an earlier build wrote it.
	Same func(e ledger.Entry, m M) bool
	// Check finds out whether the seller's set-up lets the cleaned document be sent; released are the causes that a person
	// let it pass.
	Check func(s *seller.Seller, m M, released ...string) error

	// TooLate reports whether a document at the status can no longer be cancelled, whatever the warehouse would say; nil for
	// kinds whose requests to cancel nobody serves.
	TooLate func(documentv1.Status) bool

	// Progress derives what is new about a document from what the warehouse has. docs[0] is the accepted document; a
	// document comes before those that it was split into.
	Progress func(e ledger.Entry, docs []Part[D], s *seller.Seller, now time.Time) Outcome
	// Unread reports whether a document must be read, of which a look-up by the ERP's number found only number and state.
	// found is never empty. It is not asked of a kind without a Finder, nor where there are several documents: all are read.
	Unread func(e ledger.Entry, found []warehouse.Document[D], s *seller.Seller) bool
	// Further are the warehouse's numbers of an entry's documents besides the accepted one, as earlier readings showed; nil
	// for kinds that are never split or doubled.
	Further func(e ledger.Entry) []string
	// PhaseOf is the phase of a document at a status, for entries that an earlier build wrote without one; nil for kinds that
	// it did not know.
	PhaseOf func(documentv1.Status) ledger.Phase
}

// Facts are what push and ledger need of a document.
type Facts struct {
	Seller, Shop, Warehouse string
	// No is the ERP's number of the document.
	No       string
	Revision int64
	// Supersedes is the number of the document that it replaces.
	Supersedes string
	// Group and Items may be live under one number only; see ledger.ClaimRequest.
	Group string
	Items []string
	// PlatformNos are the sales platform's numbers of the orders in it.
	PlatformNos []string
	AuditedAt   time.Time
	// Lines are what is sent, goods by goods.
	Lines []*documentv1.AcceptedLine
	// Served are further numbers of the set-up that an accepted document proves to be known to the warehouse: what a
	// seller.CauseNumber is about, and the ERP's code.
	Served map[string]string
}

// Delivery is what the ledger keeps of the message that a document came with.
type Delivery struct {
	Stream     string
	Seq        uint64
	StreamTime time.Time
	// First: the broker's first delivery, no retry, no replay.
	First bool
	// Trace is the W3C traceparent of the run.
	Trace string
}

// ClaimRequest is the claim of a delivered document.
func (t Terms) ClaimRequest(d Delivery, f Facts, hash, owner string) ledger.ClaimRequest {
	return ledger.ClaimRequest{
		Key: t.Key(f.Seller, f.No), Hash: hash, Owner: owner,
		Group: f.Group, Items: f.Items, Supersedes: f.Supersedes, PlatformNos: f.PlatformNos,
		Revision: f.Revision, Shop: f.Shop, Warehouse: f.Warehouse,
		StreamTime: d.StreamTime, AuditedAt: f.AuditedAt, First: d.First, Stream: d.Stream, Seq: d.Seq, Trace: d.Trace,
	}
}

// Part is one of the documents that belong to an entry: the accepted one, one that it was split into, or a further one
// under the same number.
type Part[D proto.Message] struct {
	warehouse.Document[D]
	// SplitOf is the document that this one was split from; "" when it was not.
	SplitOf string
	// Missing says that the warehouse does not know it (yet). Nothing is concluded from that.
	Missing bool
}

// Outcome is what follows from one reading of a document.
type Outcome struct {
	// Events about the document, to be published before Following is written.
	Events []event.Event
	// Exceptions need a person.
	Exceptions []Exception
	// State is the entry's from now on: Accepted or Cancelled.
	State ledger.State
	// Following is the progress so far; the follower sets Due by Phase. An empty Phase ends the following.
	Following ledger.Following
}

// The phases of an open document: how soon it is looked up again.
const (
	// PhaseNow: what was found is published by the next run.
	PhaseNow ledger.Phase = "now"
	// PhaseOpen: nobody waits for the next step in particular.
	PhaseOpen ledger.Phase = "open"
	// PhaseSoon: the step that everybody waits for is near.
	PhaseSoon ledger.Phase = "soon"
	// PhaseLate: it left, or is about to end in its own time.
	PhaseLate ledger.Phase = "late"
)

// Seen is what was published last of a document. Each kind's state in ledger.Following.State begins with its fields.
type Seen struct {
	Status   documentv1.Status
	Code     string
	StatusAt time.Time
}

// StateOf reads the state that a kind keeps of a document as S: Seen, or the kind's own type. It is zero for a document of
// which nothing was published. So is one that cannot be read: all is then published again, under the same ids.
func StateOf[S any](e ledger.Entry) S {
	var s S
	if e.Following != nil && e.Following.State != nil {
		if err := json.Unmarshal(e.Following.State, &s); err != nil {
			return *new(S)
		}
	}
	return s
}

// Stored is the reverse of StateOf. It panics if s has no JSON form, such as a time in the year 10000.
func Stored[S any](s S) json.RawMessage {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("store a document's state: %v", err))
	}
	return raw
}

// StatusOf is the status that was published last of a followed document.
func (k Kind[M, D]) StatusOf(e ledger.Entry) documentv1.Status { return StateOf[Seen](e).Status }
