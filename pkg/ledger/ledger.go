// Package ledger is the contract with whatever remembers what was begun: per document, per order line, per quota.
//
// It is what keeps "at least once in" from becoming "twice at the warehouse". Two implementations: inredis
// (production) and inkv (JetStream key-value, the embedded default). ledgertest is the suite that both pass. The
// package knows documents and numbers; it knows neither the bus nor what a warehouse is.
//
// # The protocol
//
//	NEW → INTENT(owner, hash, attempt) → ACCEPTED(number) | REFUSED(reason) | UNKNOWN → (ask) → …
//
// Begin claims a document durably before the far side hears of it. The claim carries an owner token: a reply that was
// lost and asked for again reads as one's own, and nobody else can resolve it. The claim ends by Accept, Refuse,
// Doubt, Absent, Release, or by itself after ClaimFor; the entry stays.
//
// Whether a document is certainly new hangs on the ledger's birth: {identity of the store, since when}. The store
// rewrites it whenever the identity differs (restart, restore, failover) and reads it in the same step as each claim,
// so a ledger that forgot leads to asking, not to sending twice.
//
// # Why
//
// An INTENT that its owner never resolved (killed worker, SIGSTOP past the claim) may have been sent: the next Begin
// reports it as UNKNOWN, never as new.
//
// A sending that the ledger does not know of happened before its birth. So for a document that has no entry and is not
// certainly new, the far side is asked. On the broker's first delivery one look decides. On a later one an earlier run
// may have sent it just before the ledger was lost, and that may still be on its way: its absence counts only when some
// time has gone by since the birth (Claimed.Settled).
//
// What a Release says was not sent stays certainly new while the birth lasts: the ledger has seen all of its attempts.
// An order that waits for its quota therefore costs no look. It also binds no payload: another content may begin
// under its number.
//
// A refusal in business words does not prove that nothing is there: far sides say no and have the document seconds later.
// So it is kept in an UNKNOWN entry (Deny, Entry.Denied) while further looks are made. Such a document is never sent again
// because looks found nothing: it is found, and accepted, or it ends REFUSED for what was said.
//
// How long something lasted is told by the store's clock, which wrote when it began: workers' clocks differ. Claimed.At and
// Absent's duration are its own.
//
// A call may fail for the caller although it was done: its answer was lost. Repeated by the same Owner (of a claim), or
// by a client library on its own, it gives the same answer again and is not done twice.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// Limits of the protocol.
const (
	// ClaimFor is how long a claim stands without being resolved. It must stay above the handler's limit (25 s) and the
	// broker's AckWait (30 s): a claim never runs out while its handler may still send.
	ClaimFor = 40 * time.Second
	// EpochMargin is how much later than the birth a document must be to count as new: clocks differ.
	EpochMargin = 5 * time.Second
	// RefusalsKept is how far back Refusals reads; the entries themselves are kept longer.
	RefusalsKept = 48 * time.Hour
	// KeepAttempts is how many attempts an entry remembers.
	KeepAttempts = 20
	// MaxSharing is how many documents Begin names that share a platform's number.
	MaxSharing = 10
)

// Shadowed is the Hash of a document that somebody else hands over, whatever its content: begun under it and then in doubt,
// it may be at the far side for all that we know, so its lines are taken and nobody takes it for new. Unlike other
// documents in doubt it is forgotten after 90 days.
const Shadowed = "shadow"

// Key names a document.
type Key struct {
	// Seller is the set-up's name.
	Seller string
	// Kind is "order"; later "purchase" and so on.
	Kind string
	// No is the ERP's number of the document: for an order its outbound number.
	No string
}

func (k Key) String() string { return k.Seller + "/" + k.Kind + "/" + k.No }

// State is where a document stands with us.
type State string

// States of an entry.
const (
	// New: no entry, or nothing was sent yet.
	New State = ""
	// Intent: an owner began and has not said how it ended.
	Intent State = "intent"
	// Accepted: the far side has it under Entry.Number.
	Accepted State = "accepted"
	// Refused: the far side or our own check said no; nothing lives there.
	Refused State = "refused"
	// Unknown: it was sent and no answer came.
	Unknown State = "unknown"
	// Cancelled: the far side said so of it and all its children.
	Cancelled State = "cancelled"
)

// Live tells whether the far side has the document, or may have it.
func (s State) Live() bool { return s == Intent || s == Unknown || s == Accepted }

// Entry is all that the ledger knows of a document.
type Entry struct {
	Key   Key
	State State
	// Hash of the payload that was begun. Another payload under the same number is refused. Empty when New, and when
	// Partial.
	Hash string
	// OrderNo and Lines are the order lines it covers, for orders.
	OrderNo string
	Lines   []string
	// PlatformNos are the sales platform's numbers of the orders in it. Empty is not known: an entry of before they were kept.
	PlatformNos []string `json:",omitempty"`
	// Number is the far side's.
	Number string
	// Revision and Shop, Warehouse are carried for the events that follow.
	Revision  int64
	Shop      string
	Warehouse string
	// Identity is whom the far side knows the sender of the last sending as, the adapter's word (warehouse.Identity). What
	// it has of the document can be asked for there only. Empty is not known: an entry of before it was kept.
	Identity string `json:",omitempty"`
	// Reason is set when Refused.
	Reason fault.Reason
	// Tries counts begun attempts; Attempts keeps the last KeepAttempts of them, oldest first.
	Tries    int
	Attempts []Attempt
	// Looks counts the looks that found nothing since UnknownSince; both are zero unless UNKNOWN or INTENT.
	Lookups      int       `json:"Looks"`
	UnknownSince time.Time `json:"FirstDoubt"`
	// Denied is what the far side said when it refused in words that do not prove that it has nothing; zero unless UNKNOWN
	// or INTENT. The document ends Refused for it when looks go on to find nothing; it is not sent again.
	Rejection fault.Reason `json:"Denied,omitzero"`
	// Following is what the poller knows; nil until accepted.
	Following *Following
	// FirstClaimedAt is when it was first begun.
	FirstClaimedAt time.Time `json:"BegunAt"`
	// Cleaned is what was changed in the texts that were sent, told again with order.accepted.
	Cleaned []Cleaned
	// Trace is the W3C traceparent of the run that began it last, for the events that follow; empty when nothing traces.
	Trace     string `json:",omitempty"`
	ChangedAt time.Time
	// Version grows by every write: the token of Follow's compare-and-set.
	Version int64
}

// Cleaned is a text that was changed before it was sent; see order.v1.Cleaned.
type Cleaned struct{ Field, What, ZH, EN string }

// Attempt is one line of an entry's history.
type Attempt struct {
	At    time.Time
	Owner string
	// Stream and Seq name the message that caused it.
	Stream string
	Seq    uint64
	// What happened: "begun", "accepted", "refused", "denied", "unknown", "absent", "released", "cancelled".
	What string
	// Detail is the far side's number or the reason; nothing secret or personal.
	Detail string
}

// Partial tells whether the ledger was lost while a worker was at the document, who then wrote how that ended: it may be
// at the far side, and neither its payload nor its lines are known.
func (e Entry) Reconstructed() bool { return e.State != New && e.Hash == "" }

// Begin asks for a claim.
type ClaimRequest struct {
	Key Key
	// Hash of the payload.
	Hash string
	// Owner is new for each run of a handler. The same Owner asking twice gets the same answer twice.
	Owner string
	// OrderNo and Lines: the lines that may be live under one number only. Supersedes is the number that may still
	// hold them without this being an error of the ERP's.
	OrderNo    string
	Lines      []string
	Supersedes string
	// PlatformNos are the sales platform's numbers of the orders in it.
	PlatformNos []string
	Revision    int64
	Shop        string
	Warehouse   string
	// Identity is under which it is asked for and sent; empty when the adapter has no word for that, which fits any and
	// leaves what stands in the entry. AnyIdentity says that a person saw to what may live under another: it is begun
	// under this one whatever stands there.
	Identity    string
	AnyIdentity bool
	// StreamTime is when the broker stored the event; AuditedAt when the ERP says it happened.
	StreamTime, AuditedAt time.Time
	// First: the broker's first delivery, no retry, no replay.
	First bool
	// Stream and Seq for the history.
	Stream string
	Seq    uint64
	// Trace is kept in the entry; empty keeps what stands there.
	Trace string
}

// Claim is the right to resolve a document.
type Claim struct {
	Key   Key
	Owner string
	// Identity is Begin's, for a Doubt whose entry is gone.
	Identity string
	// Until is the store's time after which the claim may be another's: do not send after it. From Claimed.At on, that much
	// time is left.
	Until time.Time
}

// Claimed is the answer to Begin.
type Claimed struct {
	Claim Claim
	// Entry as it stood before this Begin, except that an unresolved INTENT of another owner reads UNKNOWN. Its State
	// is New when there was none.
	Entry Entry
	// Fresh: certainly never sent; also after a Release, while the birth lasts. Only then may it be sent without asking
	// first.
	NeverSent bool
	// EpochSince is the birth's since.
	EpochSince time.Time
	// At is when this was answered, by the store's clock as all times of entries are: how old something is, is At less that
	// time, and never a worker's own clock less it.
	At time.Time
	// Sharing are live documents of other orders with a platform's number of this one, MaxSharing at most, by number. Of two
	// that are begun at the same moment each may miss the other.
	Sharing []Sharing
}

// Sharing is a document that has a platform's number in common with another order's.
type Sharing struct{ PlatformNo, OrderNo, No string }

// Settled tells whether an absence at the far side is certain for a document without an entry (see Why). settleFor is
// how long a sending that an older ledger knew of may still take effect at the far side.
func (b Claimed) LossWindowOver(first bool, settleFor time.Duration) bool {
	return first || b.At.Sub(b.EpochSince) > settleFor
}

// UnknownFor is how long the document had been in doubt when this was answered; 0 when it is not.
func (b Claimed) UnknownFor() time.Duration {
	if b.Entry.UnknownSince.IsZero() {
		return 0
	}
	return b.At.Sub(b.Entry.UnknownSince)
}

// SortSharing puts them in order and leaves out what is above MaxSharing.
func SortSharing(all []Sharing) []Sharing {
	slices.SortFunc(all, func(a, b Sharing) int {
		return cmp.Or(cmp.Compare(a.PlatformNo, b.PlatformNo), cmp.Compare(a.No, b.No))
	})
	return all[:min(len(all), MaxSharing)]
}

// Errors of the calls below. After ErrBusy, ErrHash, ErrIdentity and LineTaken, which are Begin's, there is no claim and
// nothing was written.
var (
	// ErrBusy: another owner holds the claim. Come back later.
	ErrBusy = errors.New("claimed by another worker")
	// ErrHash: the number was begun with another payload, which was or may have been sent, or was refused.
	ErrHash = errors.New("the same number was begun with another payload")
	// ErrIdentity: it is UNKNOWN and was sent under another identity, so nothing that is found now says what became of it.
	ErrIdentity = errors.New("sent under another identity and not resolved")
	// ErrLost: the claim is no longer the caller's. What the caller knows was not written, except by Accept.
	ErrLost = errors.New("claim lost")
	// ErrNoEntry: no such document.
	ErrNoEntry = errors.New("not in the ledger")
	// ErrVersion: the entry changed since it was read, or is gone.
	ErrVersion = errors.New("entry changed meanwhile")
)

// LineTaken is Begin's error when an order line lives under another number.
type LineTaken struct {
	OrderNo, Line, By string
	// Superseded: By is the number that the caller supersedes, so waiting helps.
	Superseded bool
}

func (e *LineTaken) Error() string {
	return "line " + e.Line + " of " + e.OrderNo + " is live under " + e.By
}

// NumberTaken is Accept's error when another of the seller's documents of the kind, of the same Identity, has the far side's
// number already: it is no proof that the far side has this one. Nothing was written.
type NumberTaken struct{ Number, By string }

func (e *NumberTaken) Error() string { return e.Number + " is the number of " + e.By }

// Following is what is known of an accepted document while it is followed.
type Following struct {
	// Status, Code and StatusAt as last told.
	Status   orderv1.Status
	Code     string
	StatusAt time.Time
	// Children by their number, with the code last told; empty when not split.
	Children map[string]Child
	// Shipped: what left of this document was told.
	Shipped bool
	// Waybills that the far side named so far; the document is found by them.
	Waybills []string `json:",omitempty"`
	// Due is when to look again; zero means it is no longer followed.
	Due time.Time
}

// Child is one part of a split document.
type Child struct {
	Status  orderv1.Status
	Code    string
	Shipped bool
}

// Documents is the part of the ledger that remembers documents.
type Documents interface {
	// Begin claims, checks the payload hash, the lines (LineTaken; also when the holder is in INTENT) and tells what
	// is known. State INTENT, the owner, the attempt and the history line are durable when it returns without error.
	// An entry that is Accepted or Cancelled is reported without a claim (Claim.Owner is ""). Lines whose holder is
	// Refused, Cancelled or released move to this document. Checks come in this order: hash, Accepted or Cancelled,
	// claim, identity (ErrIdentity), lines (one that Superseded mends last). Claimed.Entry is told with ErrHash and
	// ErrIdentity too.
	Claim(ctx context.Context, b ClaimRequest) (Claimed, error)
	// Accept resolves: the far side has it under number. The document is due for following at once. Accept also works
	// when the entry or the claim is gone (a wiped ledger, a late answer): what the far side has must be known; it
	// then returns nil and writes an entry from b. It returns an error wrapping ErrLost, after writing the fact into
	// the history, only if the entry is Accepted under another number; and NumberTaken when number is another document's, as
	// far as the ledger remembers.
	Accept(ctx context.Context, b ClaimRequest, number string, cleaned []Cleaned, now time.Time) error
	// Refuse resolves: nothing lives at the far side. Frees the lines. ErrLost when the claim is another's; a claim that
	// ran out and that nobody took may still be resolved, here and by Absent and Release.
	Refuse(ctx context.Context, c Claim, why fault.Reason) error
	// Doubt resolves to UNKNOWN: sent, no answer. Looks and doubt start anew: what was not found before proves nothing
	// of this sending. Written even when the claim ran out, is another's (which keeps it) or is lost, unless the entry
	// was resolved meanwhile (then nil: nothing to doubt).
	MarkUnknown(ctx context.Context, c Claim, why string) error
	// Deny is Doubt with the far side's refusal, in words that do not prove that nothing is there. It is kept as Denied,
	// except while another holds the claim, who may be sending.
	MarkRejected(ctx context.Context, c Claim, why fault.Reason) error
	// Absent records a look that found nothing, keeps or makes the entry UNKNOWN and frees the claim. It returns the
	// looks so far and how long ago the first doubt was. ErrLost when the claim is another's.
	MarkNotFound(ctx context.Context, c Claim) (looks int, doubted time.Duration, err error)
	// Release gives the claim back: nothing was sent in this attempt. The entry returns to what it was before Begin
	// (New when there was none; UNKNOWN stays UNKNOWN, the identity is the earlier one), except its history. Lines are freed when it returns to New or
	// Refused. ErrLost when the claim is another's.
	Release(ctx context.Context, c Claim, why string) error
	// Resend says that the caller is about to send an UNKNOWN document again under the same number: looks and doubt
	// start anew, and Denied is forgotten. ErrLost when the claim is another's or ran out: another may begin from then on.
	Resend(ctx context.Context, c Claim) error
	// Get reads an entry; ErrNoEntry.
	Get(ctx context.Context, k Key) (Entry, error)
	// Find reads the entries of seller whose outbound number, order number or far-side number is no, or that have no among
	// their platform numbers or waybills, at most 20.
	Find(ctx context.Context, seller, no string) ([]Entry, error)

	// Due reads up to limit followed entries of (seller, kind) that are due at now, the longest due first.
	Due(ctx context.Context, seller, kind string, now time.Time, limit int) ([]Entry, error)
	// Follow writes what the poller now knows; ErrVersion when the entry moved since it was read. state is the
	// entry's state from now on (Accepted or Cancelled; Cancelled frees the lines). An entry that is settled is
	// forgotten after 90 days: Refused, Cancelled, never sent, Shadowed, or Accepted and no longer followed.
	Follow(ctx context.Context, e Entry, state State, f Following) error
	// Erase takes out of an entry what others said: the details of what was unknown or released, and the warehouse's texts
	// in refusals. Numbers and codes stay. What keeps the document from being sent twice stays. Twice is as good as once.
	// ErrNoEntry; ErrBusy while the document is in hand or in doubt.
	Erase(ctx context.Context, k Key) error
	// Open counts (seller, kind) entries that are followed.
	Open(ctx context.Context, seller, kind string) (int, error)
	// CountUnknown counts (seller, kind) entries that are UNKNOWN, or in hand again after they were, and tells the oldest
	// UnknownSince; the zero time when there are none. Shadowed ones are not counted: none of ours is in doubt.
	CountUnknown(ctx context.Context, seller, kind string) (n int, oldest time.Time, err error)
	// Unsettled calls each with every (seller, kind) entry that Open or CountUnknown counts, in no order, until each returns an
	// error, which it returns. What moves meanwhile may be missed.
	EachUnfinished(ctx context.Context, seller, kind string, each func(Entry) error) error
	// Refusals reads up to limit entries of (seller, kind) that are REFUSED and were written last at from or later, the
	// earliest first. It knows those of the last RefusalsKept. Shadowed ones are left out: they were not refused.
	Refusals(ctx context.Context, seller, kind string, from time.Time, limit int) ([]Entry, error)
}

// Attempts counts runs that failed, because the broker's own count does not survive a crash of the broker.
type Attempts interface {
	// Count adds one for key and returns the sum. It is forgotten a week after the last Count. After an error the run
	// may have been counted: a caller that repeats may count it twice, never too low.
	Count(ctx context.Context, key string) (int, error)
	// Uncount takes one back: the run did not count (shutdown, rate limit, pause).
	Uncount(ctx context.Context, key string) error
	// Forget drops the count.
	Forget(ctx context.Context, key string) error
}

// Leases lends names to one owner at a time.
type Leases interface {
	// Lease takes or extends name for ttl. False: another owner holds it.
	Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
	// Unlease gives it back; it is no error when it is another's.
	Unlease(ctx context.Context, name, owner string) error
}

// Class is a class of calls against a quota, "cancel", "push", "status" or "stock".
type Class string

// Limit is what a credential may do.
type Limit struct {
	PerSecond  float64
	Concurrent int
}

// Valid tells whether calls of class can be paced by the limit at all.
func (l Limit) Valid(class Class) error {
	switch {
	case !slices.Contains([]Class{"cancel", "push", "status", "stock"}, class):
		return fmt.Errorf("no class of calls: %q", class)
	case !(l.PerSecond > 0) || math.IsInf(l.PerSecond, 1) || l.Concurrent < 1:
		return fmt.Errorf("no usable limit: %g per second, %d at a time", l.PerSecond, l.Concurrent)
	}
	return nil
}

// Permit is the right to make one call.
type Permit struct{ App, ID string }

// Quota shares a credential's budget over all replicas.
//
// Calls are paced evenly: no second, nor any longer stretch, holds more of them than PerSecond allows, rounded up, also
// as the far side counts those that are on their way for times that differ by up to 15 ms. They are counted against
// Concurrent leases, which end by themselves after ttl.
// Classes: cancel before push before status before stock; a higher class may take whatever a lower one leaves, except
// status' floor of 15 % and stock's of 10 %, which accrue to them while they have asked within the last 10 seconds.
type Quota interface {
	// Acquire gives a permit, or says how long to wait before asking again (then the permit is empty). The wait takes
	// those who were sent away before into account, so that coming back at that time mostly succeeds.
	Acquire(ctx context.Context, app string, class Class, l Limit, ttl time.Duration) (Permit, time.Duration, error)
	// Return ends the call. It is safe to call twice.
	Return(ctx context.Context, p Permit) error
}

// Trials counts the orders that may really go during a seller's trial.
type Trials interface {
	// Admit tells whether no belongs to the first so many of seller. Admitted once is admitted for ever.
	Admit(ctx context.Context, seller, no string, first int) (bool, error)
	// Admitted lists them in the order of their admission.
	Admitted(ctx context.Context, seller string) ([]string, error)
}

// Limits of a book.
const (
	// BookWriteLimit is the most fields, and the most marks, that one WriteBook or ReadBook takes.
	BookWriteLimit = 500
	// BookWriteBytes is the most that one WriteBook takes, names and values together, bytes: what is written at once has to
	// fit into one message of the bus.
	BookWriteBytes = 512 << 10
	// MaxMark is the longest name of a mark, bytes; MaxField the longest value of a field; MaxName the longest name of a book
	// or of a field, and the longest owner.
	MaxMark  = 64
	MaxField = 32 << 10
	MaxName  = 256
	// KeepMarks is how long marks stand, from their At; seconds count.
	KeepMarks = 60 * 24 * time.Hour
	// KeepOwners is how many writes back a book knows its writers: asked again by an Owner it answers as it did.
	KeepOwners = 16
)

// Book is what ReadBook tells.
type Book struct {
	// Version is what a WriteBook must name; 0 when there is no such book. It grows by every write, and never comes again,
	// also when the ledger was lost and the book is begun anew.
	Version uint64
	// EpochSince is the birth of the ledger (see Claimed): a book that was written before it may be older than what its writer
	// saw last.
	EpochSince time.Time
	// Fields are the values of those asked for that the book has.
	Fields map[string][]byte
	// Marked are those of the marks asked for that stand.
	Marked map[string]bool
}

// BookWrite is what changes in a book, all of it or nothing.
type BookWrite struct {
	// Version as it was read.
	Version uint64
	// Owner is new for each attempt to write. The same Owner asking again after a lost answer gets the same answer, unless
	// KeepOwners others wrote in between (then ErrVersion).
	Owner string
	// Fields to set; a nil value removes its field, an empty one is kept.
	Fields map[string][]byte
	// Marks to set; of one that stands already the At is set anew.
	Marks []Mark
}

// Valid tells whether the write, to the book of that name, keeps to the limits.
func (w BookWrite) Valid(name string) error {
	if err := within("name of a book", name, MaxName); err != nil {
		return err
	}
	if err := within("owner", w.Owner, MaxName); err != nil {
		return err
	}
	if err := atMost(len(w.Fields), len(w.Marks)); err != nil {
		return err
	}
	size := 0
	for field, value := range w.Fields {
		if err := within("name of a field", field, MaxName); err != nil {
			return err
		}
		if len(value) > MaxField {
			return fmt.Errorf("field %q: %d bytes, %d at most (MaxField)", field, len(value), MaxField)
		}
		size += len(field) + len(value)
	}
	for _, m := range w.Marks {
		if err := within("name of a mark", m.Name, MaxMark); err != nil {
			return err
		}
		size += len(m.Name)
	}
	if size > BookWriteBytes {
		return fmt.Errorf("%d bytes of fields and marks in one write, %d at most (BookWriteBytes): write fewer at a time", size, BookWriteBytes)
	}
	return nil
}

// ValidRead tells whether a ReadBook keeps to the limits.
func ValidRead(name string, fields, marks []string) error {
	if err := within("name of a book", name, MaxName); err != nil {
		return err
	}
	return atMost(len(fields), len(marks))
}

func within(what, text string, most int) error {
	switch {
	case text == "":
		return fmt.Errorf("%s: empty", what)
	case len(text) > most:
		return fmt.Errorf("%s: %d bytes, %d at most: %.40q…", what, len(text), most, text)
	}
	return nil
}

func atMost(fields, marks int) error {
	if fields > BookWriteLimit || marks > BookWriteLimit {
		return fmt.Errorf("%d fields and %d marks at once, %d of each at most (BookWriteLimit)", fields, marks, BookWriteLimit)
	}
	return nil
}

// Mark says that something was done, e.g. that a movement was applied. At only says how long it is kept.
type Mark struct {
	Name string
	At   time.Time
}

// Field is one field of a book.
type Field struct {
	Name  string
	Value []byte
}

// Books are small maps, each with a set of marks beside it, that are written by compare-and-set: a cursor, a figure per
// goods, and which movements these figures contain.
type Books interface {
	// ReadBook reads the fields and marks that are named, as they stood at one moment.
	ReadBook(ctx context.Context, name string, fields, marks []string) (Book, error)
	// WriteBook writes and tells the new version; ErrVersion when the book moved since it was read, and then nothing was
	// written.
	WriteBook(ctx context.Context, name string, w BookWrite) (uint64, error)
	// ScanBook tells the fields whose names begin with prefix, some at a time, in any order: from "" on, then from next
	// until it is "" again. A field that is written meanwhile may be told as it was or as it is, or twice.
	ScanBook(ctx context.Context, name, prefix, from string) (fields []Field, next string, err error)
	// DropBook forgets the book and its marks. Its versions go on.
	DropBook(ctx context.Context, name string) error
}

// Ledger is all of it.
type Ledger interface {
	Documents
	Attempts
	Leases
	Quota
	Trials
	Books
	// Check tells whether the store is fit for its use (reachable, persistent, not a replica, not evicting, taking writes);
	// each fault is named with what to do.
	Check(ctx context.Context) error
	// Clock is the store's time now: entries' times, claims and leases are by it.
	Clock(ctx context.Context) (time.Time, error)
	Close() error
}
