package ledgertest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/ledger"
)

// wishes are documents in each state that a wish to cancel may find.
func (b *bench) wishes() map[string]ledger.State {
	b.Helper()
	bring := func(no string) (ledger.ClaimRequest, ledger.Claim) {
		request := b.order(no, "line of "+no)
		return request, b.claims(request).Claim
	}
	_, c := bring("released")
	b.must(b.Release(b.ctx, c, "rate limit"))
	bring("claimed")
	_, c = bring("unknown")
	b.must(b.MarkUnknown(b.ctx, c, "no answer"))
	_, c = bring("refused")
	b.must(b.Refuse(b.ctx, c, refusal()))
	request, _ := bring("accepted")
	b.accepts(request, "N1")
	request, _ = bring("cancelled")
	b.accepts(request, "N2")
	b.cancels("cancelled")
	return map[string]ledger.State{
		"none": ledger.New, "released": ledger.New, "claimed": ledger.Intent, "unknown": ledger.Unknown,
		"refused": ledger.Refused, "accepted": ledger.Accepted, "cancelled": ledger.Cancelled,
	}
}

func (b *bench) wants(no, id string) ledger.Entry {
	b.Helper()
	e, err := b.WantCancel(b.ctx, key(no), ledger.Cancel{RequestID: id, Cause: "refund"})
	b.must(err)
	return e
}

// line is the newest line of an entry's history.
func line(e ledger.Entry) ledger.Attempt { return e.Attempts[len(e.Attempts)-1] }

func testCancel(b *bench) {
	b.age()
	for no, state := range b.wishes() {
		b.Run(no, func(t *testing.T) {
			b := b.in(t)
			before, err := b.Get(b.ctx, key(no))
			if err != nil && (no != "none" || !errors.Is(err, ledger.ErrNoEntry)) {
				b.Fatal(err)
			}
			b.clock.Add(time.Second)
			first := b.wants(no, "R:1 单")
			if want := (ledger.Cancel{RequestID: "R:1 单", Cause: "refund", At: b.now()}); first.Cancel == nil || *first.Cancel != want {
				b.Fatalf("wanted: %+v, want %+v", first.Cancel, want)
			}
			if want := (ledger.Attempt{At: b.now(), What: "cancel.wanted", Detail: "R:1 单"}); line(first) != want {
				b.Errorf("history: %+v, want %+v", line(first), want)
			}
			if first.State != state || first.Key != key(no) || first.Version <= before.Version || first.Tries != before.Tries || first.Unclaimed() != (no == "none") {
				b.Errorf("the wish made of %+v\n%+v", before, first)
			}

			// Its answer was lost, and another asks too: nothing is written, and the first wish is returned.
			b.clock.Add(time.Second)
			for _, id := range []string{"R:1 单", "R2"} {
				if again := b.wants(no, id); !reflect.DeepEqual(again, first) {
					b.Errorf("%s gets\n%+v\nfirst\n%+v", id, again, first)
				}
			}
			b.must(b.EndCancel(b.ctx, key(no), "R2", ""))
			if e := b.entry(no); !reflect.DeepEqual(e, first) {
				b.Errorf("another's wish is not the open one, and left\n%+v, was\n%+v", e, first)
			}

			b.must(b.EndCancel(b.ctx, key(no), "R:1 单", ""))
			over := b.entry(no)
			if want := (ledger.Attempt{At: b.now(), What: "cancel.ended", Detail: "R:1 单"}); over.Cancel != nil || over.State != state || over.Version <= first.Version || line(over) != want {
				b.Errorf("ended: %+v", over)
			}
			b.must(b.EndCancel(b.ctx, key(no), "R:1 单", ""))
			if e := b.entry(no); !reflect.DeepEqual(e, over) {
				b.Errorf("ended twice: %+v", e)
			}
			if next := b.wants(no, "R2"); next.Cancel == nil || next.Cancel.RequestID != "R2" {
				b.Errorf("the next wish: %+v", next.Cancel)
			}
		})
	}
	b.must(b.EndCancel(b.ctx, key("nobody"), "R1", ledger.Cancelled))
	if _, err := b.Get(b.ctx, key("nobody")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("an entry out of nothing: %v", err)
	}
}

// in is the bench for a subtest.
func (b *bench) in(t *testing.T) *bench {
	c := *b
	c.T = t
	return &c
}

// A document that is only known by a wish is claimed as one that is not known.
func testCancelBeforeClaim(b *bench) {
	young := b.order("before the epoch")
	b.age()
	b.wants("A", "R1")
	b.clock.Add(time.Hour)

	if e := b.entry("A"); !e.Unclaimed() || e.Tries != 0 || !e.FirstClaimedAt.IsZero() || e.Reconstructed() {
		b.Errorf("only wanted: %+v", e)
	}
	b.findsOnly("A", "A")
	none := func(what string, n int, err error) {
		b.Helper()
		if err != nil || n != 0 {
			b.Errorf("%s: %d, %v", what, n, err)
		}
	}
	counts, err := b.CountFollowed(b.ctx, kind, sellerName)
	none("followed", counts[0].N, err)
	counts, err = b.CountUnknown(b.ctx, kind, sellerName)
	none("unknown", counts[0].N, err)
	due, err := b.Due(b.ctx, sellerName, kind, b.now(), 10)
	none("due", len(due), err)
	refusals, err := b.Refusals(b.ctx, sellerName, kind, b.now().Add(-2*time.Hour), 10)
	none("refusals", len(refusals), err)
	n := 0
	none("unfinished", n, b.EachUnfinished(b.ctx, sellerName, kind, func(ledger.Entry) error { n++; return errors.New("there is one") }))

	for name, change := range map[string]func(*ledger.ClaimRequest){
		"new":                      func(*ledger.ClaimRequest) {},
		"not the first delivery":   func(x *ledger.ClaimRequest) { x.First = false },
		"audited before the epoch": func(x *ledger.ClaimRequest) { x.AuditedAt = young.AuditedAt },
	} {
		known, wanted := b.order(name), b.order("wanted "+name)
		change(&known)
		change(&wanted)
		want := b.claims(known)
		b.wants(wanted.Key.No, "R1")
		b.clock.Add(time.Second)
		got := b.claims(wanted)
		if got.NeverSent != want.NeverSent || got.Entry.State != ledger.New || got.Entry.Tries != 0 || got.Entry.Cancel == nil || got.Entry.Cancel.RequestID != "R1" {
			b.Errorf("%s: never sent %v, want %v, of %+v", name, got.NeverSent, want.NeverSent, got.Entry)
		}
		if again := b.claims(wanted); !reflect.DeepEqual(again, got) {
			b.Errorf("%s: the same owner gets\n%+v, first\n%+v", name, again, got)
		}
		e := b.entry(wanted.Key.No)
		if e.Unclaimed() || !e.FirstClaimedAt.Equal(b.now()) || e.Tries != 1 || e.Cancel == nil {
			b.Errorf("%s: claimed as %+v", name, e)
		}
		b.must(b.Release(b.ctx, got.Claim, "the ERP wants it cancelled"))
		b.must(b.EndCancel(b.ctx, wanted.Key, "R1", ""))
		b.is(wanted.Key.No, ledger.New)
		if late := b.claims(b.again(wanted)); late.NeverSent != want.NeverSent || late.Entry.Cancel != nil {
			b.Errorf("%s, once more: never sent %v, want %v, of %+v", name, late.NeverSent, want.NeverSent, late.Entry)
		}
	}
	// What the warehouse has is accepted although nothing but a wish is known.
	b.wants("late", "R1")
	b.accepts(b.order("late", "1"), "N1")
	if e := b.entry("late"); e.State != ledger.Accepted || e.Cancel == nil || e.FirstClaimedAt.IsZero() || e.Unclaimed() {
		b.Errorf("accepted late: %+v", e)
	}
	b.wants("lost", "R1")
	b.must(b.MarkUnknown(b.ctx, ledger.Claim{Key: key("lost"), Owner: "w"}, "x"))
	if e := b.entry("lost"); e.State != ledger.Unknown || e.Cancel == nil || !e.Reconstructed() {
		b.Errorf("unknown after all: %+v", e)
	}
}

func testCancelKept(b *bench) {
	b.age()
	request := b.order("A1", "1")
	claim := b.claims(request).Claim
	b.wants("A1", "R1")
	since := b.entry("A1").Cancel
	kept := func(after string, err error) {
		b.Helper()
		b.must(err)
		if e := b.entry("A1"); !reflect.DeepEqual(e.Cancel, since) {
			b.Fatalf("after %s: %+v, was %+v", after, e.Cancel, since)
		}
		b.clock.Add(time.Second)
	}
	reclaim := func() {
		b.Helper()
		claimed := b.claims(b.again(request))
		if claim = claimed.Claim; !reflect.DeepEqual(claimed.Entry.Cancel, since) {
			b.Fatalf("the claim reports %+v", claimed.Entry.Cancel)
		}
		kept("Claim", nil)
	}
	kept("MarkUnknown", b.MarkUnknown(b.ctx, claim, "no answer"))
	reclaim()
	_, _, err := b.MarkNotFound(b.ctx, claim)
	kept("MarkNotFound", err)
	reclaim()
	kept("Resend", b.Resend(b.ctx, claim))
	kept("MarkRejected", b.MarkRejected(b.ctx, claim, refusal()))
	reclaim()
	kept("Release", b.Release(b.ctx, claim, "x"))
	reclaim()
	kept("Refuse", b.Refuse(b.ctx, claim, refusal()))
	kept("Erase", b.Erase(b.ctx, key("A1")))
	reclaim()
	kept("Accept", b.Accept(b.ctx, b.again(request), "N1", nil, b.now()))
	if known, err := b.Claim(b.ctx, b.again(request)); err != nil || !reflect.DeepEqual(known.Entry.Cancel, since) {
		b.Errorf("accepted, and the claim reports %+v, %v", known.Entry.Cancel, err)
	}

	// A follower that read the entry before does not overwrite what follows from the wish.
	read := b.entry("A1")
	b.must(b.EndCancel(b.ctx, key("A1"), "R1", ""))
	if err := b.Follow(b.ctx, read, ledger.Accepted, *read.Following); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed as of before the end of the wish: %v", err)
	}
	read = b.entry("A1")
	since = b.wants("A1", "R2").Cancel
	if err := b.Follow(b.ctx, read, ledger.Accepted, *read.Following); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed as of before the wish: %v", err)
	}
	read = b.entry("A1")
	kept("Follow", b.Follow(b.ctx, read, ledger.Accepted, *read.Following))
	kept("the follower's Cancelled", b.Follow(b.ctx, b.entry("A1"), ledger.Cancelled, *read.Following))
}

func testCancelDone(b *bench) {
	b.age()
	for no, state := range b.wishes() {
		b.Run(no, func(t *testing.T) {
			b := b.in(t)
			wanted := b.wants(no, "R1")
			b.must(b.EndCancel(b.ctx, key(no), "R2", ledger.Cancelled))
			if err := b.EndCancel(b.ctx, key(no), "R1", ledger.Refused); err == nil {
				b.Error("a wish ended with a state that is not Cancelled")
			}
			if e := b.entry(no); !reflect.DeepEqual(e, wanted) {
				b.Errorf("written: %+v", e)
			}
			b.clock.Add(time.Second)
			err := b.EndCancel(b.ctx, key(no), "R1", ledger.Cancelled)
			e := b.entry(no)
			if state != ledger.Accepted && state != ledger.Cancelled {
				if !errors.Is(err, ledger.ErrVersion) || !reflect.DeepEqual(e, wanted) {
					b.Errorf("cancelled though it was not accepted: %v, %+v", err, e)
				}
				return
			}
			b.must(err)
			if e.State != ledger.Cancelled || e.Cancel != nil || e.Number != wanted.Number || !e.Following.Due.IsZero() || line(e).What != "cancel.ended" {
				b.Errorf("cancelled: %+v", e)
			}
			b.must(b.EndCancel(b.ctx, key(no), "R1", ledger.Cancelled)) // its answer was lost
			if after := b.entry(no); !reflect.DeepEqual(after, e) {
				b.Errorf("ended twice: %+v", after)
			}
			b.claims(b.order("instead of "+no, "line of "+no)) // its lines are free
		})
	}
	// The rest of what the follower knows stays, and nothing is followed any longer.
	request := b.order("A1", "1")
	b.claims(request)
	b.accepts(request, "N3")
	f := *b.entry("A1").Following
	f.Due = b.now().Add(time.Hour)
	f.Numbers = []string{"JDV1"}
	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, f))
	b.wants("A1", "R1")
	b.must(b.EndCancel(b.ctx, key("A1"), "R1", ledger.Cancelled))
	f.Due = time.Time{}
	e := b.entry("A1")
	if !reflect.DeepEqual(e.Following, &f) {
		b.Errorf("the follower knows %+v, want %+v", e.Following, f)
	}
	var history []string
	for _, a := range e.Attempts {
		history = append(history, a.What)
	}
	if want := []string{"begun", "accepted", "cancel.wanted", "cancelled", "cancel.ended"}; !slices.Equal(history, want) {
		b.Errorf("history: %v, want %v", history, want)
	}
	b.findsOnly("JDV1", "A1")
	if n, err := b.CountFollowed(b.ctx, kind, sellerName); err != nil || n[0].N != 0 {
		b.Errorf("followed: %v, %v", n, err)
	}
	if due, err := b.Due(b.ctx, sellerName, kind, b.now().Add(24*time.Hour), 10); err != nil || len(due) != 0 {
		b.Errorf("due: %+v, %v", due, err)
	}
}

// A push and a wish at the same moment: one of them sees the other.
func testCancelRace(b *bench) {
	b.age()
	other := b.store.Open(b.clock.Now)
	for round := range 30 {
		no := fmt.Sprintf("A%d", round)
		request := b.order(no, fmt.Sprintf("line %d", round))
		if round%3 == 1 { // known already
			b.must(b.Release(b.ctx, b.claims(request).Claim, "x"))
			request = b.again(request)
		}
		pusher, wisher := b.Ledger, other
		if round%2 == 1 {
			pusher, wisher = wisher, pusher
		}
		var claimed ledger.Claimed
		var found ledger.Entry
		var errs [2]error
		var wg sync.WaitGroup
		wg.Go(func() { claimed, errs[0] = pusher.Claim(b.ctx, request) })
		wg.Go(func() { found, errs[1] = wisher.WantCancel(b.ctx, key(no), ledger.Cancel{RequestID: "R1"}) })
		wg.Wait()
		b.must(errors.Join(errs[:]...))
		if reported, seen := claimed.Entry.Cancel != nil, found.State == ledger.Intent; reported == seen {
			b.Fatalf("the claim reports the wish: %v; the wish finds the claim: %v", reported, seen)
		}
		if e := b.entry(no); e.State != ledger.Intent || e.Cancel == nil {
			b.Fatalf("afterwards: %+v", e)
		}
		if !claimed.NeverSent {
			b.Fatal("the wish made a new document uncertain")
		}
	}
	// Many wishes at once: one is open.
	var mu sync.Mutex
	open := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 8 {
		l := []ledger.Ledger{b.Ledger, other}[i%2]
		wg.Go(func() {
			e, err := l.WantCancel(b.ctx, key("many"), ledger.Cancel{RequestID: fmt.Sprint("R", i)})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || e.Cancel == nil {
				b.Errorf("wish %d: %+v, %v", i, e, err)
				return
			}
			open[e.Cancel.RequestID] = true
		})
	}
	wg.Wait()
	if len(open) != 1 {
		b.Errorf("open at once: %v", open)
	}
}
