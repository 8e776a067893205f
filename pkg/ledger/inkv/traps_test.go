package inkv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/ledgertest"
)

func order(clock *ledgertest.Clock, no, owner string) ledger.ClaimRequest {
	return ledger.ClaimRequest{
		Key: ledger.Key{Seller: "acme", Kind: "order", No: no}, Hash: "h", Owner: owner, Group: "SO-1", Items: []string{"1"},
		StreamTime: clock.Now(), AuditedAt: clock.Now(), First: true,
	}
}

func refusal() fault.Reason { return fault.Reason{Code: "x", ZH: "不", EN: "no"} }

func newClock() *ledgertest.Clock { return ledgertest.NewClock(time.Now()) }

// aged makes the epoch old enough for documents to be new.
func aged(t testing.TB, l ledger.Ledger, clock *ledgertest.Clock) {
	t.Helper()
	first := order(clock, "first-ever", "w0")
	first.Items = nil
	claims(t, l, first)
	clock.Add(time.Minute)
}

func claims(t testing.TB, l ledger.Ledger, b ledger.ClaimRequest) ledger.Claimed {
	t.Helper()
	claimed, err := l.Claim(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return claimed
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// bad is a bucket over a bad connection, and one that may be restored from an older copy.
type bad struct {
	*bus.Bucket
	mu sync.Mutex
	// left is how many writes succeed before all fail; lost is which of the next writes is done without an answer.
	left, lost int
	// ahead is added to the revisions. Lowering it restores an older copy.
	ahead atomic.Uint64
	// between runs once before the next Create or Update but skip, reading once after the next read.
	between, reading func()
	skip             int
}

var errGone = errors.New("connection gone")

const always = 1 << 30

func newBad(b *bus.Bucket) *bad {
	bad := &bad{Bucket: b}
	bad.arm(always, always)
	bad.ahead.Store(100)
	return bad
}

func (b *bad) arm(left, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left, b.lost = left, lost
}

func (b *bad) write(do func() (uint64, error)) (uint64, error) {
	b.mu.Lock()
	var between func()
	if b.skip--; b.skip < 0 {
		between, b.between, b.skip = b.between, nil, 0
	}
	b.mu.Unlock()
	if between != nil {
		between()
	}
	return b.pass(do)
}

func (b *bad) pass(do func() (uint64, error)) (uint64, error) {
	b.mu.Lock()
	fails, lost := b.left <= 0, b.lost == 0
	b.left, b.lost = b.left-1, b.lost-1
	b.mu.Unlock()
	if fails {
		return 0, errGone
	}
	revision, err := do()
	if err == nil && lost {
		return 0, errGone
	}
	return revision + b.ahead.Load(), err
}

func (b *bad) Get(ctx context.Context, key string) (bus.Value, error) {
	v, err := b.Bucket.Get(ctx, key)
	v.Revision += b.ahead.Load()
	b.mu.Lock()
	reading := b.reading
	b.reading = nil
	b.mu.Unlock()
	if reading != nil {
		reading()
	}
	return v, err
}

func (b *bad) Create(ctx context.Context, key string, data []byte) (uint64, error) {
	return b.write(func() (uint64, error) { return b.Bucket.Create(ctx, key, data) })
}

func (b *bad) Update(ctx context.Context, key string, data []byte, revision uint64) (uint64, error) {
	return b.write(func() (uint64, error) { return b.Bucket.Update(ctx, key, data, revision-b.ahead.Load()) })
}

func (b *bad) Delete(ctx context.Context, key string, revision uint64) error {
	_, err := b.pass(func() (uint64, error) {
		if revision != 0 {
			revision -= b.ahead.Load()
		}
		return 0, b.Bucket.Delete(ctx, key, revision)
	})
	return err
}

func (b *bad) Watch(ctx context.Context, prefix string) (<-chan bus.Seen, error) {
	in, err := b.Bucket.Watch(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make(chan bus.Seen)
	go func() {
		defer close(out)
		for s := range in {
			s.Revision += b.ahead.Load()
			select {
			case out <- s:
			case <-ctx.Done():
			}
		}
	}()
	return out, nil
}

// One Claim writes two keys. Whichever step dies between the two, and whatever fails, nothing is sent twice.
func TestStoryOverABadConnection(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := badStore{store{t, b}, newBad(b.bucket(t))}
	ledgertest.Story(t, s, func(t *rapid.T) {
		switch rapid.IntRange(0, 9).Draw(t, "connection") {
		case 0:
			s.bad.arm(rapid.IntRange(0, 3).Draw(t, "not done"), always)
		case 1:
			s.bad.arm(always, rapid.IntRange(0, 3).Draw(t, "not answered"))
		default:
			s.bad.arm(always, always)
		}
	})
}

type badStore struct {
	store
	bad *bad
}

func (s badStore) Open(now func() time.Time) ledger.Ledger {
	return open(s.t, inkv.Options{Bucket: s.bad, Books: s.books(s.t), Identity: s.bus.ServerID, Now: now})
}

func (s badStore) Wipe() {
	s.bad.arm(always, always)
	s.store.Wipe()
}

// An INTENT that is in no lines was never sent: its Claim did not return.
func TestAClaimThatEndedBetweenItsWrites(t *testing.T) {
	b := start(t)
	clock := newClock()
	bucket := newBad(b.bucket(t))
	l := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: b.bus.ServerID, Now: clock.Now})
	aged(t, l, clock)

	request := order(clock, "A1", "w1")
	bucket.arm(1, always)
	if _, err := l.Claim(t.Context(), request); !errors.Is(err, errGone) {
		t.Fatalf("the connection went between the two writes: %v", err)
	}
	bucket.arm(always, always)

	// Its line is free for another meanwhile; its own owner would get the same answer again.
	other := claims(t, l, order(clock, "A2", "w1"))
	var taken *ledger.ItemTaken
	if _, err := l.Claim(t.Context(), request); !errors.As(err, &taken) || taken.By != "A2" {
		t.Errorf("the same owner again: %v", err)
	}
	ok(t, l.Release(t.Context(), other.Claim, "x"))

	request.Owner, request.First = "w2", false
	if _, err := l.Claim(t.Context(), request); !errors.Is(err, ledger.ErrBusy) {
		t.Errorf("before its claim ran out: %v", err)
	}
	clock.Add(2 * ledger.ClaimFor)
	if claimed := claims(t, l, request); claimed.Entry.State != ledger.New || !claimed.NeverSent {
		t.Errorf("never sent, and returned as %+v", claimed)
	}

	// With its lines it may have been sent.
	clock.Add(2 * ledger.ClaimFor)
	request.Owner = "w3"
	if claimed := claims(t, l, request); claimed.Entry.State != ledger.Unknown || claimed.NeverSent {
		t.Errorf("perhaps sent, and returned as %+v", claimed)
	}
}

// Two numbers share a line that the first held and released. The second has seen that, and is about to take the line,
// when the first claims again.
func TestLinesAreTakenOnceWhateverGetsInBetween(t *testing.T) {
	b := start(t)
	clock := newClock()
	bucket := newBad(b.bucket(t))
	slow := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: b.bus.ServerID, Now: clock.Now})
	quick := b.open(t, clock.Now)
	aged(t, quick, clock)
	first := order(clock, "A1", "w1")
	ok(t, quick.Release(t.Context(), claims(t, quick, first).Claim, "x"))

	first.Owner = "w2"
	claimed := make(chan struct{})
	bucket.between = func() { // before its entry is written
		bucket.between = func() { // before its lines are
			claims(t, quick, first)
			close(claimed)
		}
	}
	var taken *ledger.ItemTaken
	if _, err := slow.Claim(t.Context(), order(clock, "A2", "w1")); !errors.As(err, &taken) || taken.By != "A1" {
		t.Errorf("begun with a line that is live: %v", err)
	}
	<-claimed
	if _, err := slow.Get(t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: "A2"}); !errors.Is(err, ledger.ErrNoEntry) {
		t.Errorf("the refused Begin left an entry: %v", err)
	}
}

// A claim has written its entry, and its line turns out to be taken. A wish to cancel that was written in between stays,
// and the claim is undone all the same.
func TestAWishInTheMiddleOfAClaimThatIsUndone(t *testing.T) {
	for _, name := range []string{"new", "known"} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			clock := newClock()
			bucket := newBad(b.bucket(t))
			slow := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: b.bus.ServerID, Now: clock.Now})
			quick := b.open(t, clock.Now)
			aged(t, quick, clock)
			second := order(clock, "A2", "w1")
			if name == "known" {
				earlier := second
				earlier.Items = nil
				ok(t, quick.Release(t.Context(), claims(t, quick, earlier).Claim, "x"))
				second.Owner = "w2"
			}
			bucket.between = func() { // before its entry is written
				bucket.between = func() { // before its line is
					claims(t, quick, order(clock, "A1", "w1"))
					e, err := quick.WantCancel(t.Context(), second.Key, ledger.Cancel{RequestID: "R"})
					ok(t, err)
					if e.State != ledger.Intent {
						t.Errorf("the wish finds the document %q", e.State)
					}
				}
			}
			var taken *ledger.ItemTaken
			if _, err := slow.Claim(t.Context(), second); !errors.As(err, &taken) || taken.By != "A1" {
				t.Errorf("claimed with a line that is live: %v", err)
			}
			e, err := slow.Get(t.Context(), second.Key)
			if err != nil || e.State != ledger.New || e.Cancel == nil {
				t.Errorf("left %+v, %v", e, err)
			}
			second.Owner, second.Items = "w3", []string{"2"}
			if claimed := claims(t, slow, second); !claimed.NeverSent || claimed.Entry.Cancel == nil {
				t.Errorf("claimed again: never sent %v, of %+v", claimed.NeverSent, claimed.Entry)
			}
		})
	}
}

// Another writer gets in between reading and writing.
func TestAStaleWriteIsRefused(t *testing.T) {
	b := start(t)
	clock := newClock()
	bucket := newBad(b.bucket(t))
	slow := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: b.bus.ServerID, Now: clock.Now})
	quick := b.open(t, clock.Now)
	aged(t, quick, clock)

	request := order(clock, "A1", "w1")
	bucket.between = func() { claims(t, quick, order(clock, "A1", "w2")) }
	if _, err := slow.Claim(t.Context(), request); !errors.Is(err, ledger.ErrBusy) {
		t.Errorf("claimed although another was quicker: %v", err)
	}

	// Over a deletion too: the key is created again, with a higher revision.
	const name = "poll/acme"
	lease := func(l *inkv.Ledger, owner string, want bool) {
		t.Helper()
		if got, err := l.Lease(t.Context(), name, owner, time.Minute); err != nil || got != want {
			t.Errorf("leased to %s: %v, %v", owner, got, err)
		}
	}
	lease(slow, "w1", true)
	bucket.between = func() {
		ok(t, quick.Unlease(t.Context(), name, "w1"))
		lease(quick, "w2", true)
	}
	lease(slow, "w1", false)

	// It gives up when others are always faster.
	never := &alwaysLate{bad: bucket}
	late := open(t, inkv.Options{Bucket: never, Books: b.books(t), Identity: b.bus.ServerID, Now: clock.Now})
	if _, err := late.Count(t.Context(), "m"); err == nil {
		t.Error("counted without ever writing")
	}
}

type alwaysLate struct{ *bad }

func (b *alwaysLate) Create(context.Context, string, []byte) (uint64, error) {
	return 0, fmt.Errorf("create: %w", bus.ErrKeyExists)
}

func TestAttemptsSurviveARestart(t *testing.T) {
	b := start(t)
	l := b.open(t, nil)
	for range 5 {
		_, err := l.Count(t.Context(), "order-pusher/ORDERS/7")
		ok(t, err)
	}
	b.restart()
	if n, err := l.Count(t.Context(), "order-pusher/ORDERS/7"); err != nil || n != 6 {
		t.Errorf("the sixth run counts as %d, %v", n, err)
	}
}

// A bucket restored from an older copy brings an older epoch along. Under a running server the identity stays; the
// revisions show it, because they do not continue.
func TestAnOlderCopyEndsTheEpoch(t *testing.T) {
	b := start(t)
	clock := newClock()
	bucket := newBad(b.bucket(t))
	l := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: func() string { return "the same" }, Now: clock.Now})
	aged(t, l, clock)
	request := order(clock, "A1", "w1")
	if !claims(t, l, request).NeverSent {
		t.Fatal("not new before")
	}
	ok(t, l.Accept(t.Context(), request, "N1", nil, clock.Now()))
	queued := order(clock, "A2", "w1")
	queued.Items = nil

	bucket.ahead.Store(96)
	clock.Add(time.Minute)
	claimed := claims(t, l, queued)
	if claimed.NeverSent {
		t.Error("an order from before is returned as certainly new")
	}
	if again := claims(t, l, queued); again.NeverSent {
		t.Error("and the second time it is")
	}
	young := order(clock, "A3", "w1")
	young.Items = nil
	if claimed := claims(t, l, young); claimed.NeverSent || !claimed.EpochSince.Equal(clock.Now().UTC().Truncate(time.Microsecond)) {
		t.Errorf("the next one: never sent %v, epoch since %s", claimed.NeverSent, claimed.EpochSince)
	}
	clock.Add(ledger.EpochMargin + time.Second)
	later := order(clock, "A4", "w1")
	later.Items = nil
	if !claims(t, l, later).NeverSent {
		t.Error("an order from after is not new")
	}
	eventually(t, "the index is read again", func() bool {
		due, err := l.Due(t.Context(), "acme", "order", clock.Now(), 10)
		return err == nil && len(due) == 1
	})
}

// The server is started again on its files: another run, whatever the files say.
func TestARestartEndsTheEpoch(t *testing.T) {
	t.Parallel()
	b := start(t)
	clock := newClock()
	l := b.open(t, clock.Now)
	aged(t, l, clock)
	queued := order(clock, "A1", "w1")
	b.restart()
	clock.Add(time.Minute)
	if claims(t, l, queued).NeverSent {
		t.Error("an order from before the restart is returned as certainly new")
	}
	// And the index continues.
	ok(t, l.Accept(t.Context(), order(clock, "A1", "w1"), "N1", nil, clock.Now()))
	other := b.open(t, clock.Now)
	ok(t, other.Accept(t.Context(), order(clock, "A2", "w1"), "N2", nil, clock.Now()))
	eventually(t, "both are followed", func() bool {
		n, err := l.CountFollowed(t.Context(), "order", "acme")
		return err == nil && n[0].N == 2
	})
}

// What is due is an index in memory: filled when the ledger is opened, kept by a watch.
func TestTheIndexComesFromTheBucket(t *testing.T) {
	b := start(t)
	clock := newClock()
	l := b.open(t, clock.Now)
	const n = 300
	for i := range n {
		request := order(clock, fmt.Sprintf("A%03d", i), "w1")
		request.Items = nil
		ok(t, l.Accept(t.Context(), request, fmt.Sprintf("N%03d", i), nil, clock.Now().Add(time.Duration(i)*time.Second)))
	}
	later := b.open(t, clock.Now)
	if open, err := later.CountFollowed(t.Context(), "order", "acme"); err != nil || open[0].N != n {
		t.Errorf("followed: %v, %v", open, err)
	}
	due, err := later.Due(t.Context(), "acme", "order", clock.Now().Add(time.Hour), 100)
	if err != nil || len(due) != 100 || due[0].Key.No != "A000" || due[99].Key.No != "A099" {
		t.Errorf("%d due, %v", len(due), err)
	}
	if found, err := later.Find(t.Context(), "acme", "N250"); err != nil || len(found) != 1 {
		t.Errorf("found %d, %v", len(found), err)
	}

	// An entry that one handled is not due for the other, even before its watch reports it.
	f := *due[0].Following
	f.Due = clock.Now().Add(2 * time.Hour)
	ok(t, later.Follow(t.Context(), due[0], ledger.Accepted, f))
	if due, err := l.Due(t.Context(), "acme", "order", clock.Now().Add(time.Hour), 1); err != nil || len(due) != 1 || due[0].Key.No != "A001" {
		t.Errorf("due: %v, %v", due, err)
	}
	eventually(t, "the other's index follows", func() bool {
		due, err := l.Due(t.Context(), "acme", "order", clock.Now().Add(3*time.Hour), n)
		return err == nil && len(due) == n && due[n-1].Key.No == "A000"
	})
}

// An ERP that gives all of its orders one number does not fill the one value that holds their lines.
func TestFinishedLinesAreForgotten(t *testing.T) {
	b := start(t)
	clock := newClock()
	l := b.open(t, clock.Now)
	aged(t, l, clock)
	lines := func(first, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint(first+i))
		}
		return out
	}
	for i := range 8 {
		request := order(clock, fmt.Sprintf("A%d", i), "w1")
		request.Items = lines(i*100, 100)
		claim := claims(t, l, request).Claim
		if i > 0 { // the first stays live
			ok(t, l.Refuse(t.Context(), claim, refusal()))
		}
	}
	v, err := b.bucket(t).Get(t.Context(), "lines.acme.order.SO-1")
	ok(t, err)
	if n := bytes.Count(v.Data, []byte(`"No"`)); n > 300 {
		t.Errorf("%d lines are kept, of which 100 are live", n)
	}
	var taken *ledger.ItemTaken
	last := order(clock, "last", "w1")
	last.Items = []string{"700", "99"}
	if _, err := l.Claim(t.Context(), last); !errors.As(err, &taken) || taken.By != "A0" {
		t.Errorf("a live line: %v", err)
	}
}

// Entries are removed when they are settled and old, live ones never.
func TestWhatWasSettledLongAgoIsSweptAway(t *testing.T) {
	b := start(t)
	clock := newClock()
	l := b.open(t, clock.Now)
	aged(t, l, clock)
	refused, live, counted := order(clock, "A1", "w1"), order(clock, "A2", "w1"), "m"
	live.Items = []string{"2"}
	ok(t, l.Refuse(t.Context(), claims(t, l, refused).Claim, refusal()))
	claims(t, l, live)
	_, err := l.Count(t.Context(), counted)
	ok(t, err)

	clock.Add(89 * 24 * time.Hour)
	_ = b.open(t, clock.Now)
	clock.Add(2 * 24 * time.Hour)
	later := b.open(t, clock.Now)
	eventually(t, "the refused one is gone", func() bool {
		_, err := later.Get(t.Context(), refused.Key)
		return errors.Is(err, ledger.ErrNoEntry)
	})
	if _, err := later.Get(t.Context(), live.Key); err != nil {
		t.Errorf("the live one: %v", err)
	}
	eventually(t, "the count is gone", func() bool {
		keys, err := b.bucket(t).Keys(t.Context(), "attempts")
		return err == nil && len(keys) == 0
	})
	var taken *ledger.ItemTaken
	again := order(clock, "A3", "w1")
	again.Items = live.Items
	if _, err := later.Claim(t.Context(), again); !errors.As(err, &taken) || taken.By != "A2" {
		t.Errorf("the live one's line: %v", err)
	}
	again.Items = refused.Items
	claims(t, later, again)
}

// While one write of a quota is under way others gather, and one write does for all of them.
func TestQuotaCallsGather(t *testing.T) {
	b := start(t)
	bucket := newBad(b.bucket(t))
	l := open(t, inkv.Options{Bucket: bucket, Books: b.books(t), Identity: b.bus.ServerID})
	limit := ledger.Limit{PerSecond: 1e6, Concurrent: 5}
	acquire := func(ctx context.Context) <-chan error {
		answer := make(chan error, 1)
		go func() {
			p, wait, err := l.Acquire(ctx, "app", "push", limit, time.Minute)
			if err == nil && p.ID == "" {
				err = fmt.Errorf("to wait %s", wait)
			}
			answer <- err
		}()
		return answer
	}
	hold := make(chan struct{})
	bucket.mu.Lock()
	bucket.between = func() { <-hold }
	bucket.mu.Unlock()
	first := acquire(t.Context())
	eventually(t, "the first one writes", func() bool {
		bucket.mu.Lock()
		defer bucket.mu.Unlock()
		return bucket.between == nil
	})
	ctx, leave := context.WithCancel(t.Context())
	left := acquire(ctx)
	eventually(t, "one waits", func() bool { return l.Waiting("app") == 1 })
	var answers []<-chan error
	for i := range 7 {
		answers = append(answers, acquire(t.Context()))
		eventually(t, "it waits too", func() bool { return l.Waiting("app") == i+2 })
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the abandoned call got %v", err)
	}
	bucket.arm(2, always) // the first one, one for all others; a third write would fail
	close(hold)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	got := 0
	for _, answer := range answers {
		switch err := <-answer; {
		case err == nil:
			got++
		case errors.Is(err, errGone):
			t.Error("more than one write")
		}
	}
	if got != 4 {
		t.Errorf("%d have a permit, want the four that were left: who went away takes none", got)
	}
}
