// Package ledgertest is the suite that every ledger passes: one test for each promise in the comments of
// ledger.Ledger. It knows nothing of how a ledger is stored.
//
// Ledgers under test run on a Clock that only the test moves.
package ledgertest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// Store is where ledgers under test are stored: empty, and the test's own.
type Store interface {
	// Open opens one more ledger on the store, which ends with the test. now is its clock.
	Open(now func() time.Time) ledger.Ledger
	// Restart restarts the server: the data stay, its identity changes.
	Restart()
	// Wipe removes all data; the identity stays.
	Wipe()
}

// Test runs the suite. start makes a store for each test in it.
func Test(t *testing.T, start func(t *testing.T) Store) {
	tests := []struct {
		name string
		run  func(*bench)
	}{
		{"a new document is claimed once and reported as new", testClaim},
		{"the same owner asks twice and gets the same answer", testClaimAgain},
		{"one of many owners gets the claim", testRace},
		{"an expired claim leaves an unknown document", testExpiry},
		{"a first delivery after the start of the epoch is certainly new", testNeverSent},
		{"after a restart or a wipe nothing older is certainly new", testNeverSentNewEpoch},
		{"another payload under the same number is refused", testHash},
		{"an epoch begins before the first document when it is asked to", testBeginEpoch},
		{"an order line is live under one number", testLines},
		{"one of two orders that want the same lines gets them", testLinesRace},
		{"the checks of Claim come in their order", testOrderOfChecks},
		{"an accepted document is known by its number", testAccept},
		{"what the warehouse has is accepted although the ledger lost it", testAcceptLate},
		{"a refused document frees its lines", testRefuse},
		{"a document that was refused in words is looked up, and the refusal is kept", testMarkRejected},
		{"recent refusals are listed", testRefusals},
		{"a send without an answer is unknown", testMarkUnknown},
		{"an unknown send is recorded although the claim expired", testMarkUnknownLate},
		{"look-ups that found nothing are counted", testMarkNotFound},
		{"another program's document stays that", testOrigin},
		{"the trace is kept for what follows", testTrace},
		{"what is unknown under another identity is not claimed", testIdentity},
		{"the identity is that of the last send", testIdentityKept},
		{"what is followed or unknown is listed", testEachUnfinished},
		{"unknown documents are counted, with the oldest", testCountUnknown},
		{"a released document is what it was before", testRelease},
		{"sending again resets the look-ups", testResend},
		{"a lost claim resolves nothing", testLost},
		{"followed documents become due, the longest overdue first", testDue},
		{"a seller is named while it has something due", testDueSellers},
		{"a seller is named in time when a document is due sooner", testDueSellersSooner},
		{"due sellers come in pages, the longest overdue first", testDueSellersPages},
		{"a repair lists who has something followed", testRepairDueSellers},
		{"an instance ends with the run of the store, or with its data", testInstance},
		{"one of those who take a due document gets it, until it is due again", testTakeDue},
		{"of what is taken only its taker moves the due time", testPostpone},
		{"what comes due next is taken as far as there is room", testTakeNext},
		{"many take at once, each document once", testTakeRace},
		{"follow is a compare-and-set", testFollow},
		{"entries are found by each of their numbers", testFind},
		{"a warehouse's number belongs to one document", testNumberTaken},
		{"entries are found by the platform's numbers and by waybills", testFindAlso},
		{"orders that share a platform number are reported", testSharing},
		{"other people's text is erased, and nothing is sent twice for it", testErase},
		{"the newest attempts are remembered", testHistory},
		{"a wish to cancel is open until it is answered", testCancel},
		{"a wish to cancel may come before its document", testCancelBeforeClaim},
		{"every other write keeps the wish to cancel", testCancelKept},
		{"a document is cancelled with the end of its wish", testCancelDone},
		{"a push and a wish to cancel do not miss each other", testCancelRace},
		{"attempts are counted, uncounted and forgotten", testAttempts},
		{"a lease has one owner at a time", testLeases},
		{"the first so many orders of a trial are admitted for ever", testTrials},
		{"a random story sends nothing twice", testStory},
		{"quota: no second holds more calls than the limit", testQuotaLimit},
		{"quota: no more calls run at a time than the limit", testQuotaConcurrent},
		{"quota: urgent classes go first", testQuotaClasses},
		{"quota: a flood of pushes leaves the floors", testQuotaFloors},
		{"quota: a floor ends when nobody asks", testQuotaFloorEnds},
		{"quota: callers that return on time succeed, and no slot stays empty", testQuotaReturn},
		{"quota: callers that do not return delay nobody", testQuotaGone},
		{"quota: a server's clock that is set back blocks nobody", testQuotaClockBack},
		{"quota: callers that wait together share a block, and take nothing from others", testQuotaBlocks},
		{"quota: nonsense is refused", testQuotaNonsense},
		{"many workers at once lose nothing", testMany},
		{"books: fields and marks are kept", testBook},
		{"books: many are read together", testReadMany},
		{"books: a write as of another version writes nothing", testBookVersion},
		{"books: the same owner asks again and gets the same answer", testBookOwner},
		{"books: marks are kept for their time", testBookMarks},
		{"books: a large one is read completely", testBookLarge},
		{"books: a scan returns all fields with a prefix while others are written", testBookScan},
		{"books: no version is reused", testBookDrop},
		{"books: limits are named", testBookLimits},
		{"books: many writers at once lose nothing", testBookRace},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.run(newBench(t, start(t)))
		})
	}
}

// Clock is a clock that a test moves.
type Clock struct {
	mu sync.Mutex
	at time.Time
}

// NewClock starts a clock at a time.
func NewClock(at time.Time) *Clock { return &Clock{at: at} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Add moves the clock forward.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// bench is a test with its ledger. Its helpers end the test on an unexpected error.
type bench struct {
	*testing.T
	ledger.Ledger
	store  Store
	clock  *Clock
	ctx    context.Context
	owners int
}

func newBench(t *testing.T, s Store) *bench {
	clock := NewClock(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))
	return &bench{T: t, Ledger: s.Open(clock.Now), store: s, clock: clock, ctx: t.Context()}
}

const (
	sellerName = "acme"
	kind       = "order"
)

func key(no string) ledger.Key { return ledger.Key{Seller: sellerName, Kind: kind, No: no} }

func (b *bench) now() time.Time { return b.clock.Now() }

// age makes the epoch old enough for documents to be new.
func (b *bench) age() {
	b.Helper()
	first := b.order("first-ever")
	first.Group = "SO-0"
	claimed := b.claims(first)
	b.must(b.Release(b.ctx, claimed.Claim, "only to be there"))
	b.clock.Add(ledger.EpochMargin + time.Second)
}

// order is the first delivery of an order that was audited now, by a new owner.
func (b *bench) order(no string, lines ...string) ledger.ClaimRequest {
	b.owners++
	return ledger.ClaimRequest{
		Key: key(no), Hash: "hash of " + no, Owner: fmt.Sprintf("owner-%d", b.owners),
		Group: "SO-1", Items: lines, Revision: 3, Shop: "S01", Warehouse: "WH-北京",
		StreamTime: b.now(), AuditedAt: b.now(), First: true, Stream: "ORDERS", Seq: 1<<63 + 11,
	}
}

// again is a later delivery of the same order, by a new owner.
func (b *bench) again(of ledger.ClaimRequest) ledger.ClaimRequest {
	b.owners++
	of.Owner, of.First = fmt.Sprintf("owner-%d", b.owners), false
	return of
}

func (b *bench) claims(request ledger.ClaimRequest) ledger.Claimed {
	b.Helper()
	claimed, err := b.Claim(b.ctx, request)
	b.must(err)
	if claimed.Claim.Owner != request.Owner || claimed.Claim.Key != request.Key {
		b.Fatalf("Begin %s claims %+v", request.Key, claimed.Claim)
	}
	return claimed
}

func (b *bench) accepts(request ledger.ClaimRequest, number string) {
	b.Helper()
	b.must(b.Accept(b.ctx, request, number, nil, b.now()))
}

func (b *bench) cancels(no string) {
	b.Helper()
	b.must(b.Follow(b.ctx, b.entry(no), ledger.Cancelled, ledger.Following{}))
}

func (b *bench) entry(no string) ledger.Entry {
	b.Helper()
	e, err := b.Get(b.ctx, key(no))
	b.must(err)
	return e
}

// is checks the state of an entry.
func (b *bench) is(no string, want ledger.State) {
	b.Helper()
	if e := b.entry(no); e.State != want {
		b.Fatalf("%s is %q, want %q; its history: %+v", no, e.State, want, e.Attempts)
	}
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// eventually polls until holds is true.
func (b *bench) eventually(what string, holds func() bool) {
	b.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("never: %s", what)
		}
	}
}

func refusal() fault.Reason {
	return fault.Reason{Code: "goods.unknown", Field: "lines[0].goods_code", ZH: "商品不存在", EN: "no such goods", RemoteCode: "1001", RemoteText: "商品<不>存在"}
}
