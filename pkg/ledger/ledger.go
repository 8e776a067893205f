// Package ledger is the contract with the store that remembers each document's progress: per document, per item
// that several documents may be about (an order line), per quota.
//
// It keeps "at least once in" from becoming "twice at the warehouse". There are two implementations: inredis
// (production) and inkv (JetStream key-value, the embedded default). ledgertest is the suite that both pass. The
// package knows documents and numbers; it knows neither the bus nor what a warehouse is.
//
// # The protocol
//
//	NEW → INTENT(owner, hash, attempt) → ACCEPTED(number) | REFUSED(reason) | UNKNOWN → (ask) → …
//
// Claim records the intent durably before the warehouse hears of the document. The claim carries an owner token: a
// caller whose answer was lost asks again and gets its own claim back, and nobody else can resolve it. The claim ends
// with Accept, Refuse, MarkUnknown, MarkNotFound or Release, or it expires after ClaimFor; the entry stays.
//
// Whether a document is certainly new depends on the ledger's epoch: {identity of the store, since when}. The store
// begins a new epoch whenever its identity differs (restart, restore, failover) and reads the epoch in the same step
// as each claim. A ledger that forgot therefore leads to a look-up, not to sending twice.
//
// # Why
//
// An INTENT that its owner never resolved (killed worker, SIGSTOP past the claim) may have been sent: the next Claim
// reports it as UNKNOWN, never as new.
//
// A send that the ledger does not know of happened before its epoch. So for a document that has no entry and is not
// certainly new, the warehouse is asked. On the broker's first delivery one look-up decides. On a later delivery an
// earlier run may have sent the document just before the ledger was lost, and that send may still take effect: "not
// found" counts only when some time has passed since the epoch began (Claimed.LossWindowOver).
//
// A document that was Released unsent stays certainly new while the epoch lasts: the ledger has seen all of its
// attempts. An order that waits for its quota therefore costs no look-up. A release also drops the payload hash:
// another content may be claimed under its number.
//
// A refusal in business words does not prove that the warehouse has nothing: warehouses say no and have the document
// seconds later. So the refusal is kept in an UNKNOWN entry (MarkRejected, Entry.Rejection) while look-ups continue.
// Such a document is never sent again because look-ups found nothing: either it is found and accepted, or it ends
// REFUSED for that reason.
//
// A wish to cancel is a field of the entry, so that a push and the wish cannot miss each other: whichever is written
// second sees the first.
//
// Durations are computed from the store's clock, which also wrote the starting times: workers' clocks differ.
// Claimed.At and MarkNotFound's duration are by the store's clock.
//
// A call may fail for the caller although it was done: its answer was lost. Repeated by the same Owner (of a claim),
// or by a client library, it gives the same answer again and is not done twice.
package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/quota"
)

// Limits of the protocol.
const (
	// ClaimFor is how long a claim lasts without being resolved. It must stay above the handler's limit (25 s) and
	// the broker's AckWait (30 s): a claim never expires while its handler may still send.
	ClaimFor = 40 * time.Second
	// EpochMargin is how much later than the epoch's start a document must be to count as new: clocks differ.
	EpochMargin = 5 * time.Second
	// RefusalsKept is how far back Refusals reads; the entries themselves are kept longer.
	RefusalsKept = 48 * time.Hour
	// KeepAttempts is how many attempts an entry remembers.
	KeepAttempts = 20
	// MaxSharing is how many documents Claim reports that share a platform order number.
	MaxSharing = 10
)

// Origin says who sends a document.
type Origin string

const (
	// Ours is sent by us.
	Ours Origin = ""
	// External is sent by another program, whatever its content. Claimed as such and then UNKNOWN, the document may be at
	// the warehouse for all that we know: its items are taken and it never counts as new. Unlike other unknown documents it
	// is forgotten after 90 days.
	External Origin = "external"
)

// externalHash is what a store has in place of the hash of an External document, since version 0.1.
const externalHash = "shadow"

// StoredHash is how stores keep origin and hash in one field.
func StoredHash(origin Origin, hash string) string {
	if origin == External {
		return externalHash
	}
	return hash
}

// FromStoredHash is the reverse of StoredHash.
func FromStoredHash(stored string) (Origin, string) {
	if stored == externalHash {
		return External, ""
	}
	return Ours, stored
}

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
	// Intent: an owner claimed it and has not reported the result.
	Intent State = "intent"
	// Accepted: the warehouse has it under Entry.Number.
	Accepted State = "accepted"
	// Refused: the warehouse or our own check said no; the warehouse has nothing.
	Refused State = "refused"
	// Unknown: it was sent and no answer came.
	Unknown State = "unknown"
	// Cancelled: the warehouse reported it cancelled, with all its children.
	Cancelled State = "cancelled"
)

// Live reports whether the warehouse has the document, or may have it.
func (s State) Live() bool { return s == Intent || s == Unknown || s == Accepted }

// Entry is all that the ledger knows of a document.
type Entry struct {
	Key   Key
	State State
	// Hash of the payload that was claimed. Another payload under the same number is refused. Empty when New, when
	// Reconstructed, and when External. Stores keep it and Origin in one field (StoredHash).
	Hash   string
	Origin Origin `json:"-"`
	// Group is the ERP's number that several documents may be about: the order of an outbound number. Empty for kinds
	// without.
	Group string `json:"OrderNo"`
	// Items are the parts of the group that may be live under one number only: an order's lines; empty for kinds without.
	Items []string `json:"Lines"`
	// PlatformNos are the sales platform's numbers of the orders in it. Empty means not known: the entry predates the
	// field.
	PlatformNos []string `json:",omitempty"`
	// Number is the warehouse's.
	Number string
	// Revision, Shop and Warehouse are carried for the events that follow.
	Revision  int64
	Shop      string
	Warehouse string
	// Identity names the sender of the last send as the warehouse knows it, in the adapter's form
	// (warehouse.Identity). The document can be looked up only under this identity. Empty means not known: the entry
	// predates the field.
	Identity string `json:",omitempty"`
	// Reason is set when Refused.
	Reason fault.Reason
	// Tries counts the attempts; Attempts keeps the last KeepAttempts of them, oldest first.
	Tries    int
	Attempts []Attempt
	// Lookups counts the look-ups that found nothing since UnknownSince; both are zero unless UNKNOWN or INTENT.
	Lookups      int       `json:"Looks"`
	UnknownSince time.Time `json:"FirstDoubt"`
	// Rejection is the warehouse's refusal in words that do not prove that it has nothing; zero unless UNKNOWN or
	// INTENT. The document ends Refused with it when further look-ups find nothing; it is not sent again.
	Rejection fault.Reason `json:"Denied,omitzero"`
	// Following is what the poller knows; nil until accepted.
	Following *Following
	// Cancel is the open wish to cancel it; nil when there is none. Every write but EndCancel keeps it. That of a Refused
	// document stays open: it keeps a replay from being sent.
	Cancel *Cancel `json:",omitempty"`
	// FirstClaimedAt is when it was first claimed; zero when it was not, and only a wish to cancel made the entry.
	FirstClaimedAt time.Time `json:"BegunAt"`
	// Cleaned is what was changed in the texts that were sent, published again with order.accepted.
	Cleaned []Cleaned
	// Trace is the W3C traceparent of the run that claimed it last, for the events that follow; empty without
	// tracing.
	Trace     string `json:",omitempty"`
	ChangedAt time.Time
	// Version grows with every write: the token of Follow's compare-and-set.
	Version int64
}

// Cancel is a wish to cancel a document: somebody's, not yet answered.
type Cancel struct {
	// RequestID is the requester's; Cause is its reason, e.g. "refund". The ledger reads neither into anything.
	RequestID, Cause string
	// At is when it was first recorded, by the store's clock.
	At time.Time
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
	// What happened: "begun", "accepted", "refused", "denied", "unknown", "absent", "released", "cancelled",
	// "cancel.wanted", "cancel.ended".
	What string
	// Detail is the warehouse's number, the reason, or the id of the request to cancel; nothing secret or personal.
	Detail string
}

// Reconstructed reports whether the ledger was lost while a worker held the document and the worker then wrote how it
// ended: the warehouse may have it, and neither its payload nor its items are known.
func (e Entry) Reconstructed() bool { return e.State != New && e.Origin == Ours && e.Hash == "" }

// Unclaimed reports whether the document was never claimed, and its entry was only made by a wish to cancel it.
func (e Entry) Unclaimed() bool { return e.State == New && e.FirstClaimedAt.IsZero() }

// ClaimRequest asks for a claim.
type ClaimRequest struct {
	Key Key
	// Hash of the payload; of an External document it does not matter.
	Hash   string
	Origin Origin
	// Owner is new for each run of a handler. The same Owner asking twice gets the same answer twice.
	Owner string
	// Group and Items: see Entry. Supersedes is the number that may still hold the items without that being an error of
	// the ERP.
	Group      string
	Items      []string
	Supersedes string
	// PlatformNos are the sales platform's numbers of the orders in it.
	PlatformNos []string
	Revision    int64
	Shop        string
	Warehouse   string
	// Identity is the sender under which the document is looked up and sent. Empty when the adapter has no such
	// notion: it matches any identity and leaves the entry's. AnyIdentity says that a person dealt with what may live
	// under another identity: the document is claimed under this one whatever the entry has.
	Identity    string
	AnyIdentity bool
	// StreamTime is when the broker stored the event; AuditedAt when the ERP says it happened.
	StreamTime, AuditedAt time.Time
	// First: the broker's first delivery, no retry, no replay.
	First bool
	// Stream and Seq for the history.
	Stream string
	Seq    uint64
	// Trace is kept in the entry; empty keeps the entry's.
	Trace string
}

// Claim is the right to resolve a document.
type Claim struct {
	Key   Key
	Owner string
	// Identity is the request's, for a MarkUnknown whose entry is gone.
	Identity string
	// Until is the store's time after which another may claim it: do not send after it. At Claimed.At, Until − At is
	// left.
	Until time.Time
}

// Claimed is the answer to Claim.
type Claimed struct {
	Claim Claim
	// Entry as it was before this claim, except that an unresolved INTENT of another owner reads UNKNOWN. Its State
	// is New when there was none.
	Entry Entry
	// NeverSent: certainly never sent; also after a Release, while the epoch lasts. Only then may it be sent without
	// a look-up first.
	NeverSent bool
	// EpochSince is when the ledger's epoch began.
	EpochSince time.Time
	// At is when this was answered, by the store's clock like all times of entries. Ages are computed from At, never
	// from a worker's own clock.
	At time.Time
	// Sharing are live documents of other orders that share a platform order number, MaxSharing at most, by number.
	// Of two documents claimed at the same moment each may miss the other.
	Sharing []Sharing
}

// Sharing is a document that shares a platform order number with a document of another group.
type Sharing struct{ PlatformNo, Group, No string }

// LossWindowOver reports whether "not found" is certain for a document without an entry (see Why). settleFor is how
// long a send that an older ledger knew of may still take effect at the warehouse.
func (b Claimed) LossWindowOver(first bool, settleFor time.Duration) bool {
	return first || b.At.Sub(b.EpochSince) > settleFor
}

// UnknownFor is how long the document had been UNKNOWN when this was answered; 0 when it is not.
func (b Claimed) UnknownFor() time.Duration {
	if b.Entry.UnknownSince.IsZero() {
		return 0
	}
	return b.At.Sub(b.Entry.UnknownSince)
}

// SortSharing sorts them and cuts the list to MaxSharing.
func SortSharing(all []Sharing) []Sharing {
	slices.SortFunc(all, func(a, b Sharing) int {
		return cmp.Or(cmp.Compare(a.PlatformNo, b.PlatformNo), cmp.Compare(a.No, b.No))
	})
	return all[:min(len(all), MaxSharing)]
}

// ValidCancelEnd checks the state that EndCancel is given.
func ValidCancelEnd(state State) error {
	if state != "" && state != Cancelled {
		return fmt.Errorf("a wish to cancel does not end with the document %s", state)
	}
	return nil
}

// Errors of the calls below. After ErrBusy, ErrHash, ErrIdentity and ItemTaken, which Claim returns, there is no
// claim and nothing was written.
var (
	// ErrBusy: another owner holds the claim. Try again later.
	ErrBusy = errors.New("claimed by another worker")
	// ErrHash: the number was claimed with another payload, which was or may have been sent, or was refused; or with another
	// Origin.
	ErrHash = errors.New("the same number was claimed with another payload")
	// ErrIdentity: it is UNKNOWN and was sent under another identity, so a look-up now says nothing about that send.
	ErrIdentity = errors.New("sent under another identity and not resolved")
	// ErrLost: the caller no longer holds the claim. What the caller knows was not written, except by Accept.
	ErrLost = errors.New("claim lost")
	// ErrNoEntry: no such document.
	ErrNoEntry = errors.New("not in the ledger")
	// ErrVersion: the entry changed since it was read, or is gone.
	ErrVersion = errors.New("entry changed meanwhile")
)

// ItemTaken is Claim's error when an item of the group is live under another number.
type ItemTaken struct {
	Group, Item, By string
	// Superseded: By is the number that the caller supersedes, so waiting helps.
	Superseded bool
}

func (e *ItemTaken) Error() string {
	return "item " + e.Item + " of " + e.Group + " is live under " + e.By
}

// NumberTaken is Accept's error when another of the seller's documents of the kind, with the same Identity, has the
// warehouse's number already: the number does not prove that the warehouse has this one. Nothing was written.
type NumberTaken struct{ Number, By string }

func (e *NumberTaken) Error() string { return e.Number + " is the number of " + e.By }

// Phase is how soon an open document is looked up again, in the terms of those who follow it. Empty means not known: the
// entry predates the field.
type Phase string

// Following is what is known of an accepted document while it is followed.
type Following struct {
	// Due is when to check it again; zero means that it is no longer followed.
	Due   time.Time
	Phase Phase `json:",omitempty"`
	// Numbers are further ones that Find finds the document by: an order's waybills.
	Numbers []string `json:"Waybills,omitempty"`
	// State is what the document's kind knows of it, compact JSON that stores keep as it is; nil for nothing yet.
	State json.RawMessage
}

// Take says what TakeDue takes, in milliseconds.
type Take struct {
	Seller, Kind string
	// Due: entries that are due then or earlier, the longest overdue first, at most Limit.
	Due   time.Time
	Limit int
	// Until is when they are due again. Looking up and writing what follows must not take longer.
	Until time.Time
	// Room, if not nil, takes others instead: the next that come due after Due and before Before (zero: whenever) and that
	// nobody has taken, of these warehouses, at most so many of each. Limit is then how many are looked at.
	Room   map[string]int
	Before time.Time
}

// Later is a new due time of the entry with the number.
type Later struct {
	No  string
	Due time.Time
}

// Followed is the entry without what those who follow it do not need: payload, items and history.
func (e Entry) Followed() Entry {
	return Entry{
		Key: e.Key, State: e.State, Group: e.Group, Number: e.Number, Revision: e.Revision, Shop: e.Shop, Warehouse: e.Warehouse, Identity: e.Identity,
		Following: e.Following, Cancel: e.Cancel, FirstClaimedAt: e.FirstClaimedAt, Trace: e.Trace, ChangedAt: e.ChangedAt, Version: e.Version,
	}
}

// UnmarshalJSON also reads what was written before there was a State: an order's was the whole object.
func (f *Following) UnmarshalJSON(raw []byte) error {
	type plain Following
	*f = Following{}
	if err := json.Unmarshal(raw, (*plain)(f)); err != nil {
		return err
	}
	switch {
	case f.State == nil:
		f.State = slices.Clone(raw)
	case string(f.State) == "null":
		f.State = nil
	}
	return nil
}

// Count is how many of a seller's documents are in some state, and since when the first of them is; the zero time for none.
type Count struct {
	N     int
	Since time.Time
}

// Documents is the part of the ledger that remembers documents.
type Documents interface {
	// Claim checks the payload hash and the items (ItemTaken; also when the holder is in INTENT), claims, and returns
	// what is known. State INTENT, the owner, the attempt and the history line are durable when it returns without
	// error. An entry that is Accepted or Cancelled is returned without a claim (Claim.Owner is ""). Items whose
	// holder is Refused, Cancelled or released move to this document. Checks come in this order: hash, Accepted or
	// Cancelled, claim, identity (ErrIdentity), items (a Superseded one last). Claimed.Entry is set with ErrHash and
	// ErrIdentity too.
	Claim(ctx context.Context, b ClaimRequest) (Claimed, error)
	// Accept resolves: the warehouse has it under number. The document is due for following at once. Accept also
	// works when the entry or the claim is gone (a wiped ledger, a late answer): what the warehouse has must be
	// recorded; it then returns nil and writes an entry from b. It returns an error wrapping ErrLost, after writing
	// the fact into the history, only if the entry is Accepted under another number; and NumberTaken when number is
	// another document's, as far as the ledger remembers.
	Accept(ctx context.Context, b ClaimRequest, number string, cleaned []Cleaned, now time.Time) error
	// Refuse resolves: the warehouse has nothing. Frees the items. ErrLost when the claim is another's; a claim that
	// expired and that nobody took may still be resolved, here and by MarkNotFound and Release.
	Refuse(ctx context.Context, c Claim, why fault.Reason) error
	// MarkUnknown resolves to UNKNOWN: sent, no usable answer. Lookups and UnknownSince are reset: earlier look-ups
	// prove nothing about this send. It is written even when the claim expired, is another's (which keeps it) or is
	// lost, unless the entry was resolved meanwhile (then nil: nothing is unknown).
	MarkUnknown(ctx context.Context, c Claim, why string) error
	// MarkRejected is MarkUnknown with the warehouse's refusal, in words that do not prove that nothing is there. The
	// refusal is kept as Rejection, except while another owner holds the claim: it may be sending.
	MarkRejected(ctx context.Context, c Claim, why fault.Reason) error
	// MarkNotFound records a look-up that found nothing, keeps or makes the entry UNKNOWN and frees the claim. It
	// returns the look-ups so far and how long the document has been unknown. ErrLost when the claim is another's.
	MarkNotFound(ctx context.Context, c Claim) (lookups int, unknownFor time.Duration, err error)
	// Release returns the claim: nothing was sent in this attempt. The entry returns to what it was before Claim (New
	// when there was none; UNKNOWN stays UNKNOWN, the identity is the earlier one), except its history. Items are
	// freed when it returns to New or Refused. ErrLost when the claim is another's.
	Release(ctx context.Context, c Claim, why string) error
	// Resend records that the caller is about to send an UNKNOWN document again under the same number: Lookups and
	// UnknownSince are reset, and Rejection is cleared. ErrLost when the claim is another's or expired: another may
	// claim it from then on.
	Resend(ctx context.Context, c Claim) error
	// WantCancel records the wish c unless one is open, and returns the entry as it is then. The caller reads from
	// Entry.Cancel whose wish is open, and from State how far the document is. Either a claim reports the wish in
	// Claimed.Entry.Cancel, or the wish finds the entry claimed: never neither. c.At is ignored: a wish that is open
	// keeps the time it was first recorded.
	//
	// A document without an entry gets one in state New, which is forgotten after 90 days. Claim, NeverSent and all
	// that counts or lists documents treat it as if there were none; Get and Find return it.
	WantCancel(ctx context.Context, k Key, c Cancel) (Entry, error)
	// EndCancel ends the open wish with that id: it was answered. Another's wish, or none, is no error, and nothing is
	// written. state is the entry's from now on: "" leaves it; Cancelled, for an Accepted entry, frees the items and
	// ends following; with Cancelled, an entry that is neither Accepted nor Cancelled is ErrVersion.
	EndCancel(ctx context.Context, k Key, requestID string, state State) error
	// BeginEpoch begins an epoch for the seller's documents if none runs, as Claim does: of what is audited later than that,
	// Claim can say that it was never sent.
	BeginEpoch(ctx context.Context, seller string) error
	// Get reads an entry; ErrNoEntry.
	Get(ctx context.Context, k Key) (Entry, error)
	// Find reads the entries of seller whose outbound number, order number or warehouse number is no, or that have no
	// among their platform numbers or Following.Numbers, at most 20.
	Find(ctx context.Context, seller, no string) ([]Entry, error)

	// Due reads up to limit followed entries of (seller, kind) that are due at now, the longest overdue first. Their
	// Following.Due is when they are due, also where Postpone has moved it.
	Due(ctx context.Context, seller, kind string, now time.Time, limit int) ([]Entry, error)
	// TakeDue takes followed entries for a look-up: they are due again at t.Until, unless Follow or Postpone says otherwise
	// before. So of all who take, one gets an entry until then, and what a crash leaves is taken again after it. It writes no
	// entry: versions stay. The entries are returned as Entry.Followed; their Following.Due is when they were due, for
	// Postpone to put them back. An answer that is lost leaves them taken. In a store without a lock (inkv) one process
	// takes all of a (seller, kind) until it has not taken for a while: the others get nothing.
	TakeDue(ctx context.Context, t Take) ([]Entry, error)
	// Postpone moves the due times of entries that TakeDue took until until: they were looked up without news. It leaves those
	// that somebody followed or took meanwhile. It writes no entry: Get and Find return the Due that Follow wrote last. A
	// ledger that is lost or opened again may have forgotten it; then they are due earlier.
	Postpone(ctx context.Context, seller, kind string, until time.Time, later []Later) error
	// Follow writes what the poller now knows; ErrVersion when the entry changed since it was read. state is the
	// entry's state from now on (Accepted or Cancelled; Cancelled frees the items). An entry that is settled is
	// forgotten after 90 days: Refused, Cancelled, never sent, External, or Accepted and no longer followed.
	Follow(ctx context.Context, e Entry, state State, f Following) error
	// Erase removes other people's text from an entry: the details of what was unknown or released, and the
	// warehouse's texts in refusals. Numbers and codes stay, and so does all that keeps the document from being sent
	// twice. It is idempotent. ErrNoEntry; ErrBusy while the document is claimed or unknown.
	Erase(ctx context.Context, k Key) error
	// CountFollowed counts the entries of a kind that are followed, of each of the sellers and in their order. Since is when
	// the first of them is due.
	CountFollowed(ctx context.Context, kind string, sellers ...string) ([]Count, error)
	// CountUnknown counts the entries of a kind that are UNKNOWN, or claimed again after they were, of each of the sellers
	// and in their order. Since is the oldest UnknownSince. External ones are not counted: none of our sends is unknown.
	CountUnknown(ctx context.Context, kind string, sellers ...string) ([]Count, error)
	// EachUnfinished calls each with every (seller, kind) entry that CountFollowed or CountUnknown counts, in no
	// order. It stops at and returns each's first error. Entries that change meanwhile may be missed.
	EachUnfinished(ctx context.Context, seller, kind string, each func(Entry) error) error
	// Refusals reads up to limit entries of (seller, kind) that are REFUSED and were last written at from or later,
	// the earliest first. It covers the last RefusalsKept. External ones are left out: they were not refused.
	Refusals(ctx context.Context, seller, kind string, from time.Time, limit int) ([]Entry, error)
}

// Attempts counts failed runs, because the broker's own count does not survive a crash of the broker.
type Attempts interface {
	// Count adds one for key and returns the sum. The count is forgotten a week after the last Count. After an error
	// the run may have been counted: a caller that repeats may count it twice, never too low.
	Count(ctx context.Context, key string) (int, error)
	// Uncount subtracts one: the run did not count (shutdown, rate limit, pause).
	Uncount(ctx context.Context, key string) error
	// Forget drops the count.
	Forget(ctx context.Context, key string) error
}

// Leases lends names to one owner at a time.
type Leases interface {
	// Lease takes or extends name for ttl. False: another owner holds it.
	Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
	// Unlease returns the lease; another's lease is no error.
	Unlease(ctx context.Context, name, owner string) error
}

// Limit is what a credential may do.
type Limit struct {
	PerSecond  float64
	Concurrent int
}

// Valid reports whether calls of class can be paced by the limit at all.
func (l Limit) Valid(class quota.Class) error {
	switch {
	case !class.Valid():
		return fmt.Errorf("no class of calls: %q", class)
	case !(l.PerSecond > 0) || math.IsInf(l.PerSecond, 1) || l.Concurrent < 1:
		return fmt.Errorf("no usable limit: %g per second, %d at a time", l.PerSecond, l.Concurrent)
	}
	return nil
}

// Permit is the right to make one call.
type Permit struct{ App, ID string }

// Turn is a Permit, and how long after the answer the call may start.
type Turn struct {
	Permit Permit
	In     time.Duration
}

// Quota shares a credential's budget over all replicas.
//
// Calls are paced evenly: no second, nor any longer span, holds more of them than PerSecond allows, rounded up. This
// also holds as the warehouse counts them, when calls differ by up to 15 ms in their travel time. Calls under way
// count against Concurrent; a call that is never returned stops counting after ttl.
//
// A more urgent class (quota.Classes) may take whatever a lower one leaves, except status'
// floor of 15 % and stock's of 10 %, which accrue to them while they have asked within the last 10 seconds.
type Quota interface {
	// Acquire gives a permit, or the time to wait before asking again (then the permit is empty). The wait accounts
	// for callers that were sent away earlier, so that asking again at that time mostly succeeds.
	Acquire(ctx context.Context, app string, class quota.Class, l Limit, ttl time.Duration) (Permit, time.Duration, error)
	// AcquireBlock is Acquire for n callers that wait at the same time. It gives between one and n turns, the first at once
	// and the others within quota.BlockAhead: more than one only while nobody waits for a slot, to classes without a floor,
	// and while at most half of Concurrent is under way. Who gets no turn asks again with Acquire.
	AcquireBlock(ctx context.Context, app string, class quota.Class, l Limit, n int, ttl time.Duration) ([]Turn, time.Duration, error)
	// Return ends calls. It is safe to call twice.
	Return(ctx context.Context, permits ...Permit) error
}

// Trials counts the orders that are really sent during a seller's trial.
type Trials interface {
	// Admit reports whether no is among the first so many of seller. Once admitted, it stays admitted.
	Admit(ctx context.Context, seller, no string, first int) (bool, error)
	// Admitted lists them in the order of their admission.
	Admitted(ctx context.Context, seller string) ([]string, error)
}

// Limits of a book.
const (
	// BookWriteLimit is the most fields, and the most marks, that one WriteBook or ReadBook takes.
	BookWriteLimit = 500
	// BookWriteBytes is the most that one WriteBook takes, names and values together, bytes: one write has to fit
	// into one message of the bus.
	BookWriteBytes = 512 << 10
	// MaxMark is the longest name of a mark, bytes; MaxField the longest value of a field; MaxName the longest name of a book
	// or of a field, and the longest owner.
	MaxMark  = 64
	MaxField = 32 << 10
	MaxName  = 256
	// KeepMarks is how long marks are kept, from their At, in whole seconds.
	KeepMarks = 60 * 24 * time.Hour
	// KeepOwners is for how many writes a book remembers its writers: a repeated Owner gets its earlier answer.
	KeepOwners = 16
)

// Book is what ReadBook returns.
type Book struct {
	// Version is what a WriteBook must name; 0 when there is no such book. It grows with every write and is never
	// reused, not even when the ledger was lost and the book is created again.
	Version uint64
	// EpochSince is when the ledger's epoch began (see Claimed): a book written before it may be older than what its
	// writer last saw.
	EpochSince time.Time
	// Fields are the values of the requested fields that the book has.
	Fields map[string][]byte
	// Marked are the requested marks that the book has.
	Marked map[string]bool
}

// BookWrite is one change of a book, applied entirely or not at all.
type BookWrite struct {
	// Version as it was read.
	Version uint64
	// Owner is new for each attempt to write. The same Owner asking again after a lost answer gets the same answer,
	// unless KeepOwners others wrote in between (then ErrVersion).
	Owner string
	// Fields to set; a nil value removes its field, an empty one is kept.
	Fields map[string][]byte
	// Marks to set; a mark that exists gets the new At.
	Marks []Mark
}

// Valid checks the limits of a write to the book of that name.
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

// ValidRead checks the limits of a ReadBook.
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

// Mark records that something was done, e.g. that a movement was applied. At only decides how long it is kept.
type Mark struct {
	Name string
	At   time.Time
}

// Field is one field of a book.
type Field struct {
	Name  string
	Value []byte
}

// Books are small maps, each with a set of marks beside it, that are written by compare-and-set: a cursor, a figure
// per goods, and which movements those figures contain.
type Books interface {
	// ReadBook reads the named fields and marks as of one moment.
	ReadBook(ctx context.Context, name string, fields, marks []string) (Book, error)
	// ReadMany reads the same fields of many books in few round trips, each book's as of one moment, for overviews that
	// change nothing. The answer has a map for each name, empty when there is no such book.
	ReadMany(ctx context.Context, names, fields []string) ([]map[string][]byte, error)
	// WriteBook writes and returns the new version; ErrVersion when the book changed since it was read, and then
	// nothing was written.
	WriteBook(ctx context.Context, name string, w BookWrite) (uint64, error)
	// ScanBook returns the fields whose names begin with prefix, some at a time, in any order: call it with from "",
	// then with next until next is "". A field that is written meanwhile may appear in its old or new form, or twice.
	ScanBook(ctx context.Context, name, prefix, from string) (fields []Field, next string, err error)
	// DropBook forgets the book and its marks. Its versions continue.
	DropBook(ctx context.Context, name string) error
}

// Ledger is all of it.
type Ledger interface {
	Documents
	DueSellers
	Attempts
	Leases
	Quota
	Trials
	Books
	// Check reports whether the store is fit for use (reachable, persistent, not a replica, not evicting, accepting
	// writes); each fault says what to do.
	Check(ctx context.Context) error
	// Clock is the store's time now: entries' times, claims and leases use it.
	Clock(ctx context.Context) (time.Time, error)
	Close() error
}
