// Package ledgertest is the suite that every ledger passes: one test for each promise in the comments of
// ledger.Ledger. It knows nothing of how a ledger is kept.
//
// Time does not pass by itself: ledgers under test run on a Clock that a test moves.
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

// Store is where ledgers under test are kept: empty, and the test's own.
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
		{"a new document is begun once and told as new", testBegin},
		{"the same owner asks twice and is told the same", testBeginAgain},
		{"of many owners one claims", testRace},
		{"a claim that ran out leaves an unknown document", testExpiry},
		{"a first delivery after the birth is certainly new", testFresh},
		{"after a restart or a wipe nothing older is certainly new", testFreshBirth},
		{"another payload under the same number is refused", testHash},
		{"an order line is live under one number", testLines},
		{"of two orders that want the same lines at once one gets them", testLinesRace},
		{"the checks of Begin come in their order", testOrderOfChecks},
		{"an accepted document is known by its number", testAccept},
		{"what the far side has is accepted although the ledger lost it", testAcceptLate},
		{"a refused document gives its lines back", testRefuse},
		{"a document that was refused in words is looked for, and the words are kept", testDeny},
		{"what was refused lately is listed", testRefusals},
		{"a doubted document is unknown", testDoubt},
		{"a doubt is kept although the claim ran out", testDoubtLate},
		{"looks that found nothing are counted", testAbsent},
		{"the trace is kept for what follows", testTrace},
		{"what is in doubt under another identity is not begun", testIdentity},
		{"the identity is that of the last sending", testIdentityKept},
		{"what is followed or in doubt is listed", testUnsettled},
		{"what is in doubt is counted, with the oldest", testDoubted},
		{"a released document is what it was before", testRelease},
		{"sending again starts the looks anew", testResend},
		{"a lost claim resolves nothing", testLost},
		{"followed documents come due, the longest due first", testDue},
		{"following moves by compare-and-set", testFollow},
		{"entries are found by each of their numbers", testFind},
		{"a far side's number belongs to one document", testNumberTaken},
		{"entries are found by the platform's numbers and by waybills", testFindAlso},
		{"orders that share a platform's number are named", testSharing},
		{"what others said is erased, and nothing is sent twice for it", testErase},
		{"the newest attempts are remembered", testHistory},
		{"attempts are counted, taken back and forgotten", testAttempts},
		{"a lease has one owner at a time", testLeases},
		{"the first so many orders of a trial are admitted for ever", testTrials},
		{"a random story sends nothing twice", testStory},
		{"quota: no second holds more calls than the limit", testQuotaLimit},
		{"quota: no more calls run at a time than the limit", testQuotaConcurrent},
		{"quota: urgent classes go first", testQuotaClasses},
		{"quota: a flood of pushes leaves the floors", testQuotaFloors},
		{"quota: a floor ends when nobody asks", testQuotaFloorEnds},
		{"quota: those who come back when told succeed, and no slot stays empty", testQuotaReturn},
		{"quota: those who do not come back delay nobody", testQuotaGone},
		{"quota: a server's clock that is put back blocks nobody", testQuotaClockBack},
		{"quota: nonsense is refused", testQuotaNonsense},
		{"many workers at once lose nothing", testMany},
		{"books: fields and marks are kept", testBook},
		{"books: a write as of another version writes nothing", testBookVersion},
		{"books: the same owner asks again and is told the same", testBookOwner},
		{"books: marks stand for their time", testBookMarks},
		{"books: a large one is read back whole", testBookLarge},
		{"books: all fields with a prefix are told while others are written", testBookScan},
		{"books: no version comes again", testBookDrop},
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

// Now is what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Add moves the clock on.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// bench is a test with its ledger. Its helpers end the test on an error that nobody expects.
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

// bear makes the ledger old enough for documents to be new.
func (b *bench) bear() {
	b.Helper()
	first := b.order("first-ever")
	first.OrderNo = "SO-0"
	begun := b.begins(first)
	b.must(b.Release(b.ctx, begun.Claim, "only to be there"))
	b.clock.Add(ledger.EpochMargin + time.Second)
}

// order is the first delivery of an order that was audited now, by a new owner.
func (b *bench) order(no string, lines ...string) ledger.ClaimRequest {
	b.owners++
	return ledger.ClaimRequest{
		Key: key(no), Hash: "hash of " + no, Owner: fmt.Sprintf("owner-%d", b.owners),
		OrderNo: "SO-1", Lines: lines, Revision: 3, Shop: "S01", Warehouse: "WH-北京",
		StreamTime: b.now(), AuditedAt: b.now(), First: true, Stream: "ORDERS", Seq: 1<<63 + 11,
	}
}

// again is a later delivery of the same order, by a new owner.
func (b *bench) again(of ledger.ClaimRequest) ledger.ClaimRequest {
	b.owners++
	of.Owner, of.First = fmt.Sprintf("owner-%d", b.owners), false
	return of
}

func (b *bench) begins(begin ledger.ClaimRequest) ledger.Claimed {
	b.Helper()
	begun, err := b.Claim(b.ctx, begin)
	b.must(err)
	if begun.Claim.Owner != begin.Owner || begun.Claim.Key != begin.Key {
		b.Fatalf("Begin %s claims %+v", begin.Key, begun.Claim)
	}
	return begun
}

func (b *bench) accepts(begin ledger.ClaimRequest, number string) {
	b.Helper()
	b.must(b.Accept(b.ctx, begin, number, nil, b.now()))
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
