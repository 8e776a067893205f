// Package document decides what happens next to a document that an ERP hands in.
//
// Next is a pure function. From all that is known of a document (its ledger entry, what look-ups found, the answer to a
// send) it derives the next step. A worker does the step, adds what it learned, and asks again until a step is final:
//
//	step := document.Next(k)
//	for ; !step.Final(); step = document.Next(k) {
//		do(ctx, step, &k)
//	}
//
// The package knows the ledger's entries and the marks of package fault. It knows no clock, store or network, no texts for
// people and no kind of document.
//
// # Why
//
// What can go wrong between an ERP, the ledger and a warehouse is a sequence: a lost answer, a crash, a ledger that was
// wiped, an audit that replaces another. A test on real servers shows a few dozen of them. The model test of this package
// walks through all up to a length, in about a second, because nothing here waits.
//
// Each fact is gathered once and stands in Known; no step changes what an earlier one found, except that a send makes the
// earlier look-up worthless. So Next can be read from top to bottom.
package document

import (
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// Policy is how patient the protocol is.
type Policy struct {
	// ResendAfter and ResendLookups: an order whose answer was lost is sent again when so many look-ups, spread over that
	// time, found nothing.
	ResendAfter   time.Duration
	ResendLookups int
	// RefuseAfter and RefuseLookups: a rejection in business words is final when so many look-ups after the immediate one,
	// spread over that time, found nothing. With RefuseAfter 0 it is final after the immediate one. The first of them comes
	// after RefuseAfter/RefuseFirst.
	RefuseAfter   time.Duration
	RefuseLookups int
	RefuseFirst   int
	// SettleFor is how long after the start of the ledger's epoch a send that the ledger does not know of may still take
	// effect, and how long one whose answer was lost may.
	SettleFor time.Duration
	// FirstLookup is the pause between a lost answer and the first look-up, and the shortest between two.
	FirstLookup time.Duration
	// BusyPause is the pause before a document is tried again that another worker has claimed.
	BusyPause time.Duration
	// CallLimit is how long one send may take: none begins with less time left.
	CallLimit time.Duration
	// MovedMargin is how long after a change of the account a worker may still have sent under the earlier one.
	MovedMargin time.Duration
}

// Known is all that a run knows of its document. A fact that was not gathered yet is zero.
type Known struct {
	Policy   Policy
	Delivery Delivery
	// Left is the time left to send in: of the claim, and of the run.
	Left time.Duration
	// CannotFind says that the warehouse finds no documents of the kind by the ERP's numbers: where a look-up would decide,
	// a person does. Such a kind has no items (ledger.Entry) and supersedes nothing.
	CannotFind bool
	// AccountChangedAt is when the seller's account changed last; zero when it never did.
	AccountChangedAt time.Time

	// Stored is the document's own entry, read without a claim.
	Stored Other
	Checks Checks
	Claim  Claim
	// Line is about the line for which the claim failed.
	Line Line
	// Earlier is the document that this one supersedes.
	Earlier Other
	// Found is the last look-up of this document.
	Found   Found
	Own     Own
	Retried Retried
	Answer  Answer
	// Resolved is the write that ended the claim.
	Resolved Resolved
}

// Delivery is what the message says of itself.
type Delivery struct {
	Revision int64
	// Supersedes says that it replaces an earlier document.
	Supersedes bool
	// First is the broker's first delivery; Replay is a person's or a release's.
	First, Replay bool
	// AuditedAt is when the document may have been sent first.
	AuditedAt time.Time
	// Confirmed: a person confirmed that the document under its number is its own. Ours: a person confirmed that the other
	// program did not send it. NotFormer: a person confirmed that it is not under an earlier account.
	Confirmed, Ours, NotFormer bool
	// AbsentAt is when a person said last, after a look, that the warehouse does not have it; zero when nobody did. It is the
	// broker's time and is compared with the ledger's: Policy.SettleFor must be longer than these differ.
	AbsentAt time.Time
}

// Other is an entry of the ledger that was read without a claim.
type Other struct {
	Read, Exists bool
	Entry        ledger.Entry
	Err          error
	// SamePayload says that the entry's payload is this message's.
	SamePayload bool
	// OtherIdentity says that it is live under another identity, where today's sees nothing of it.
	OtherIdentity bool
	// Found is its look-up at the warehouse.
	Found Found
}

// Checks are those that need no claim: Err is why it would not be sent as things are now.
type Checks struct {
	Done bool
	Err  error
}

// Claim is the ledger's answer.
type Claim struct {
	Done   bool
	Result ClaimResult
	Err    error
	ledger.Claimed
	// External says that another program sends the document.
	External bool
	// NotFound says that an earlier run looked the document up in this epoch, found nothing, and did not send it.
	NotFound bool
}

// ClaimResult is how a claim ended.
type ClaimResult int

// Results of a claim. None but Granted holds a claim.
const (
	Granted ClaimResult = iota
	Busy
	OtherPayload
	OtherIdentity
	LineTaken
	Failed
)

// Line is about a line that is live under another number.
type Line struct {
	// FreeTried says that it was tried to free the line from an order that another program sends; Err is why it was not.
	FreeTried bool
	Err       error
	// Superseded says that the holder is the document that this one supersedes.
	Superseded bool
	// Holder has the line.
	Holder Other
}

// Found is the result of a look-up.
type Found struct {
	Done bool
	Err  error
	// Numbers are the warehouse's documents; empty when it has none.
	Numbers []string
	// Cancelled is the first one's state.
	Cancelled bool
}

// Own says which of the documents that were found is this one's. Err is why that is not known, or that none is.
type Own struct {
	Done   bool
	Err    error
	Number string
	Others []string
}

// Retried says that the ledger notes that an unknown document is about to be sent again.
type Retried struct {
	Done bool
	Err  error
}

// Answer is the answer to a send.
type Answer struct {
	Done bool
	Err  error
	// Number is the warehouse's.
	Number string
	// Rejected says that Err is a rejection in business words, which does not prove that nothing was taken. Reason is the
	// warehouse's, Final says that its code proves it after one look-up, Cause is what it waits for if it is about the set-up.
	Rejected, Final bool
	Reason          fault.Reason
	Cause           string
	// MaybeDone says that a held send may have had its effect.
	MaybeDone bool
}

// Resolved is the write that ended the claim.
type Resolved struct {
	Step Step
	Err  error
	// Lost: the ledger has it as accepted under another number. NumberTaken: the number is another document's.
	Lost, NumberTaken bool
	// Lookups and UnknownFor are MarkNotFound's answer.
	Lookups    int
	UnknownFor time.Duration
}

// Action is what to do.
type Action int

// The actions. The first group gathers facts, the second writes what ends the claim, the third ends the run.
const (
	None Action = iota
	// Read the document's entry, without a claim.
	Read
	// Check whether it could be sent now.
	Check
	// ClaimIt in the ledger, durably.
	ClaimIt
	// FreeLine frees the line from an order that another program sends, and drops the failed claim if that worked.
	FreeLine
	// ReadHolder reads the entry that has the line.
	ReadHolder
	// ReadEarlier reads the entry of the superseded document, FindEarlier looks it up.
	ReadEarlier
	FindEarlier
	// Find looks the document up.
	Find
	// Compare what was found with what would be sent.
	Compare
	// Retry notes in the ledger that an unknown document is about to be sent again.
	Retry
	// Send it.
	Send

	// Accept it under Number.
	Accept
	// Refuse it for Reason: nothing is at the warehouse.
	Refuse
	// MarkUnknown: it may be at the warehouse.
	MarkUnknown
	// MarkRejected for Reason: it may be at the warehouse, and is not sent again for that.
	MarkRejected
	// MarkNotFound: a look-up found nothing.
	MarkNotFound
	// Release the claim: nothing was sent.
	Release

	// Report that the warehouse has it: by the entry if Known, else as just accepted.
	Report
	// Ignore it: a corrected document has replaced it.
	Ignore
	// Stop with Err, or with the fault that Why names.
	Stop
)

// Why names the rule that decided, where the text for people is the kind's own.
type Why string

// The rules.
const (
	WhyReused          Why = "another payload was claimed under the number"
	WhyCancelled       Why = "a new audit of a cancelled document"
	WhyOtherIdentity   Why = "sent under another identity"
	WhyEarlierIdentity Why = "the superseded document was sent under another identity"
	WhySuperseding     Why = "the superseded document is live"
	WhyLine            Why = "a line is live under another number"
	WhyFormer          Why = "it may be under an earlier account"
	WhyExternal        Why = "another program should have sent it"
	WhyNumberTaken     Why = "the warehouse's number is another document's"
	WhyDuplicate       Why = "the warehouse has several documents under the number"
	WhyCancelWanted    Why = "cancelled before it was sent"
	WhyUnresolved      Why = "it may be at the warehouse, which only a person can find out"
)

// Step is what to do next, and why.
type Step struct {
	Do Action
	// Why and Err say with what the run ends; Err is set when the text is not the kind's own.
	Why Why
	Err error
	// Reason is the warehouse's, for Refuse and MarkRejected.
	Reason fault.Reason
	// Number and Others are the warehouse's documents, for Accept and Report.
	Number string
	Others []string
	// Known says that the outcome was known before: Report is by the entry, Release repeats a refusal.
	Known bool
	// Lost says that the answer to a send was lost. NotFound says that the document was certainly not there and not sent.
	Lost, NotFound bool
	// Operator says that a person must handle the document, which is, or may be, at the warehouse.
	Operator bool
}

// Final reports whether the run ends with this step.
func (s Step) Final() bool { return s.Do >= Report }

func stop(why Why) Step { return Step{Do: Stop, Why: why} }

func fail(err error) Step { return Step{Do: Stop, Err: err} }

func release(err error) Step { return Step{Do: Release, Err: err} }
