package ledgertest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

func testClaim(b *bench) {
	b.age()
	request := b.order("A1", "1", "2")
	claimed := b.claims(request)
	if !claimed.NeverSent {
		b.Error("not returned as certainly new")
	}
	if e := claimed.Entry; e.State != ledger.New || e.Key != request.Key || e.Tries != 0 || len(e.Attempts) != 0 {
		b.Errorf("got before anything was known: %+v", e)
	}
	if left := claimed.Claim.Until.Sub(b.now()); left <= 0 || left > ledger.ClaimFor {
		b.Errorf("the claim lasts %s", left)
	}
	if !claimed.EpochSince.Before(b.now()) {
		b.Errorf("epoch since %s, now is %s", claimed.EpochSince, b.now())
	}

	e := b.entry("A1")
	want := ledger.Entry{
		Key: request.Key, State: ledger.Intent, Hash: request.Hash, Group: "SO-1", Items: []string{"1", "2"},
		Revision: 3, Shop: "S01", Warehouse: "WH-北京", Tries: 1,
		Attempts:       []ledger.Attempt{{At: b.now(), Owner: request.Owner, Stream: "ORDERS", Seq: 1<<63 + 11, What: "begun"}},
		FirstClaimedAt: b.now(), ChangedAt: b.now(), Version: 1,
	}
	if !reflect.DeepEqual(e, want) {
		b.Errorf("durable is\n%+v\nwant\n%+v", e, want)
	}

	if _, err := b.Claim(b.ctx, b.again(request)); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("a second owner while the claim stands: %v", err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("the refused Begin wrote: %+v", after)
	}
}

func testClaimAgain(b *bench) {
	b.age()
	request := b.order("A1", "1")
	same := func(first ledger.Claimed) {
		b.Helper()
		second, err := b.Claim(b.ctx, request)
		b.must(err)
		if !reflect.DeepEqual(first, second) {
			b.Fatalf("got first\n%+v\nthen\n%+v", first, second)
		}
		b.is("A1", ledger.Intent)
	}
	claimed := b.claims(request)
	same(claimed)
	if e := b.entry("A1"); e.Tries != 1 || len(e.Attempts) != 1 {
		b.Errorf("asking twice was written twice: %+v", e)
	}

	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "no answer"))
	request = b.again(request)
	claimed = b.claims(request)
	if claimed.NeverSent || claimed.Entry.State != ledger.Unknown || claimed.Entry.Tries != 1 {
		b.Fatalf("got %+v", claimed)
	}
	same(claimed)

	b.must(b.Refuse(b.ctx, claimed.Claim, refusal()))
	request = b.again(request)
	claimed = b.claims(request)
	if claimed.Entry.Reason != refusal() {
		b.Errorf("the refusal reads %+v", claimed.Entry.Reason)
	}
	same(claimed)

	// An expired claim that nobody else took is returned again, and reads as expired.
	b.clock.Add(2 * ledger.ClaimFor)
	late, err := b.Claim(b.ctx, request)
	b.must(err)
	if late.Claim.Until.After(b.now()) {
		b.Errorf("the claim stands until %s, now is %s", late.Claim.Until, b.now())
	}
}

func testRace(b *bench) {
	b.age()
	other := b.store.Open(b.clock.Now)
	for round := range 10 {
		request := b.order(fmt.Sprintf("A%d", round), fmt.Sprintf("line %d", round))
		var mu sync.Mutex
		var won, busy int
		var wg sync.WaitGroup
		for i := range 8 {
			each := request
			each.Owner = fmt.Sprintf("%s.%d", request.Owner, i)
			l := []ledger.Ledger{b.Ledger, other}[i%2]
			wg.Go(func() {
				claimed, err := l.Claim(b.ctx, each)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && claimed.Claim.Owner == each.Owner && claimed.NeverSent:
					won++
				case errors.Is(err, ledger.ErrBusy):
					busy++
				default:
					b.Errorf("owner %d: %+v, %v", i, claimed, err)
				}
			})
		}
		wg.Wait()
		if won != 1 || busy != 7 {
			b.Fatalf("%d claimed, %d were busy", won, busy)
		}
	}
}

func testExpiry(b *bench) {
	b.age()
	request := b.order("A1", "1")
	b.claims(request)
	b.clock.Add(ledger.ClaimFor - time.Second)
	if _, err := b.Claim(b.ctx, b.again(request)); !errors.Is(err, ledger.ErrBusy) {
		b.Fatalf("before the claim ran out: %v", err)
	}
	b.clock.Add(2 * time.Second)

	// Its lines stay taken: it may have been sent.
	var taken *ledger.ItemTaken
	if _, err := b.Claim(b.ctx, b.order("A2", "1")); !errors.As(err, &taken) || taken.By != "A1" {
		b.Fatalf("another number took the line of one that may have been sent: %v", err)
	}

	again := b.again(request)
	claimed := b.claims(again)
	if claimed.NeverSent || claimed.Entry.State != ledger.Unknown || claimed.Entry.Tries != 1 {
		b.Errorf("got %+v", claimed)
	}
	if !claimed.Entry.UnknownSince.Equal(b.now()) || claimed.Entry.Lookups != 0 {
		b.Errorf("doubted since %s, %d looks", claimed.Entry.UnknownSince, claimed.Entry.Lookups)
	}
	b.must(b.Release(b.ctx, claimed.Claim, "rate limit"))
	b.is("A1", ledger.Unknown)
}

func testNeverSent(b *bench) {
	first := b.claims(b.order("A0"))
	if first.NeverSent {
		b.Error("certainly new in a ledger whose epoch just began")
	}
	if !first.EpochSince.Equal(b.now()) {
		b.Errorf("epoch since %s, now is %s", first.EpochSince, b.now())
	}
	epochSince := first.EpochSince
	young := epochSince.Add(ledger.EpochMargin)
	b.clock.Add(time.Hour)
	for i, test := range []struct {
		name   string
		change func(*ledger.ClaimRequest)
		fresh  bool
	}{
		{"all is well", func(*ledger.ClaimRequest) {}, true},
		{"not the first delivery", func(x *ledger.ClaimRequest) { x.First = false }, false},
		{"stored before the epoch", func(x *ledger.ClaimRequest) { x.StreamTime = epochSince.Add(-time.Second) }, false},
		{"stored just at the margin", func(x *ledger.ClaimRequest) { x.StreamTime = young }, false},
		{"stored after the margin", func(x *ledger.ClaimRequest) { x.StreamTime = young.Add(time.Millisecond) }, true},
		{"audited before the epoch", func(x *ledger.ClaimRequest) { x.AuditedAt = epochSince.Add(-24 * time.Hour) }, false},
		{"audited just at the margin", func(x *ledger.ClaimRequest) { x.AuditedAt = young }, false},
		{"audited after the margin", func(x *ledger.ClaimRequest) { x.AuditedAt = young.Add(time.Millisecond) }, true},
		{"no times at all", func(x *ledger.ClaimRequest) { x.StreamTime, x.AuditedAt = time.Time{}, time.Time{} }, false},
	} {
		request := b.order(fmt.Sprintf("B%d", i))
		test.change(&request)
		if claimed := b.claims(request); claimed.NeverSent != test.fresh {
			b.Errorf("%s: certainly new = %v", test.name, claimed.NeverSent)
		}
	}
}

func testBeginEpoch(b *bench) {
	b.must(b.BeginEpoch(b.ctx, "acme"))
	b.clock.Add(ledger.EpochMargin + time.Second)
	if first := b.claims(b.order("A1")); !first.NeverSent {
		b.Error("the first document is not certainly new")
	}
	since := b.claims(b.order("A2")).EpochSince
	b.clock.Add(time.Hour)
	b.must(b.BeginEpoch(b.ctx, "acme"))
	if again := b.claims(b.order("A3")).EpochSince; !again.Equal(since) {
		b.Errorf("a running epoch began anew: %s, then %s", since, again)
	}
}

func testNeverSentNewEpoch(b *bench) {
	b.age()
	if !b.claims(b.order("A1")).NeverSent {
		b.Fatal("not new in an old ledger")
	}
	for _, loss := range []struct {
		name string
		do   func()
	}{
		{"restart", b.store.Restart},
		{"wipe", b.store.Wipe},
	} {
		b.clock.Add(time.Hour)
		unsent := b.order("unsent over " + loss.name)
		claimed := b.claims(unsent)
		if !claimed.NeverSent {
			b.Fatalf("before %s: not new", loss.name)
		}
		b.must(b.Release(b.ctx, claimed.Claim, "rate limit"))
		queued := b.order("queued over " + loss.name)
		loss.do()
		b.clock.Add(time.Minute)

		claimed = b.claims(queued)
		if claimed.NeverSent {
			b.Errorf("%s: an order from before is returned as certainly new", loss.name)
		}
		if !claimed.EpochSince.Equal(b.now()) {
			b.Errorf("%s: epoch since %s, now is %s", loss.name, claimed.EpochSince, b.now())
		}
		if claimed := b.claims(b.again(unsent)); claimed.NeverSent {
			b.Errorf("%s: what an older ledger knew to be unsent is returned as certainly new", loss.name)
		}
		b.clock.Add(ledger.EpochMargin + time.Second)
		if !b.claims(b.order("new after " + loss.name)).NeverSent {
			b.Errorf("%s: an order from after is not new", loss.name)
		}
	}
}

func testHash(b *bench) {
	b.age()
	for _, test := range []struct {
		name  string
		bring func(ledger.ClaimRequest, ledger.Claim)
		state ledger.State
	}{
		{"intent", func(ledger.ClaimRequest, ledger.Claim) {}, ledger.Intent},
		{"unknown", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.MarkUnknown(b.ctx, c, "x")) }, ledger.Unknown},
		{"accepted", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N1") }, ledger.Accepted},
		{"refused", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) }, ledger.Refused},
		{"cancelled", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N2"); b.cancels("cancelled") }, ledger.Cancelled},
	} {
		request := b.order(test.name)
		test.bring(request, b.claims(request).Claim)
		before := b.entry(test.name)
		other := b.again(request)
		other.Hash = "another"
		claimed, err := b.Claim(b.ctx, other)
		if !errors.Is(err, ledger.ErrHash) || claimed.Claim.Owner != "" {
			b.Errorf("%s: another payload: %+v, %v", test.name, claimed.Claim, err)
		}
		if after := b.entry(test.name); !reflect.DeepEqual(before, after) || after.State != test.state {
			b.Errorf("%s: the refused Begin left %+v", test.name, after)
		}
	}

	// What was never sent binds nobody.
	request := b.order("released")
	b.must(b.Release(b.ctx, b.claims(request).Claim, "held"))
	other := b.again(request)
	other.Hash = "another"
	b.claims(other)
	if e := b.entry("released"); e.Hash != "another" {
		b.Errorf("begun with %q", e.Hash)
	}
}

func testLines(b *bench) {
	b.age()
	type holder struct {
		name  string
		bring func(ledger.ClaimRequest, ledger.Claim)
		taken bool
	}
	holders := []holder{
		{"intent", func(ledger.ClaimRequest, ledger.Claim) {}, true},
		{"unknown", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.MarkUnknown(b.ctx, c, "x")) }, true},
		{"absent", func(_ ledger.ClaimRequest, c ledger.Claim) { _, _, err := b.MarkNotFound(b.ctx, c); b.must(err) }, true},
		{"accepted", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N1") }, true},
		{"refused", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) }, false},
		{"cancelled", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N2"); b.cancels(x.Key.No) }, false},
		{"released", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Release(b.ctx, c, "x")) }, false},
	}
	for _, h := range holders {
		request := b.order("by-"+h.name, h.name, h.name+" too")
		h.bring(request, b.claims(request).Claim)

		next := b.order("next-"+h.name, h.name+" too", "free of "+h.name)
		claimed, err := b.Claim(b.ctx, next)
		var taken *ledger.ItemTaken
		if !h.taken {
			if err != nil || claimed.Claim.Owner != next.Owner {
				b.Errorf("%s: the line does not move: %v", h.name, err)
			}
			// Now it is live under the next number, and the earlier one cannot take it back.
			if _, err := b.Claim(b.ctx, b.again(request)); h.name != "cancelled" && (!errors.As(err, &taken) || taken.By != next.Key.No) {
				b.Errorf("%s: begun again although its line moved: %v", h.name, err)
			}
			continue
		}
		if !errors.As(err, &taken) {
			b.Errorf("%s: the line was taken from it: %v", h.name, err)
			continue
		}
		if want := (ledger.ItemTaken{Group: "SO-1", Item: h.name + " too", By: request.Key.No}); *taken != want {
			b.Errorf("%s: got %+v, want %+v", h.name, *taken, want)
		}
		if _, err := b.Get(b.ctx, next.Key); !errors.Is(err, ledger.ErrNoEntry) {
			b.Errorf("%s: the refused Begin left an entry: %v", h.name, err)
		}
		// It took none of the free lines.
		b.claims(b.order("free-"+h.name, "free of "+h.name))

		next.Supersedes, next.Items = request.Key.No, request.Items
		if _, err := b.Claim(b.ctx, next); !errors.As(err, &taken) || !taken.Superseded {
			b.Errorf("%s: superseded, but got %v", h.name, err)
		}
	}

	// A conflict that waiting does not resolve is reported before one that it does.
	b.claims(b.order("held-1", "x1"))
	b.claims(b.order("held-2", "x2"))
	both := b.order("both", "x1", "x2")
	for _, both.Supersedes = range []string{"held-1", "held-2"} {
		var taken *ledger.ItemTaken
		if _, err := b.Claim(b.ctx, both); !errors.As(err, &taken) || taken.Superseded {
			b.Errorf("one line superseded, one not: %v", err)
		}
	}

	// The same line id of another order, seller or kind is another line.
	elsewhere := b.order("elsewhere", "x1")
	elsewhere.Group = "SO-2"
	b.claims(elsewhere)
	elsewhere = b.order("elsewhere", "x1")
	elsewhere.Key.Seller = "other"
	b.claims(elsewhere)
	elsewhere = b.order("elsewhere", "x1")
	elsewhere.Key.Kind = "purchase"
	b.claims(elsewhere)

	// A refused document that is claimed again takes its lines again, and frees them when released.
	refused := b.order("refused-1", "y")
	b.must(b.Refuse(b.ctx, b.claims(refused).Claim, refusal()))
	claimed := b.claims(b.again(refused))
	if _, err := b.Claim(b.ctx, b.order("refused-2", "y")); err == nil {
		b.Error("a line of a document that is sent once more was free")
	}
	b.must(b.Release(b.ctx, claimed.Claim, "x"))
	b.claims(b.order("refused-2", "y"))
}

// Two numbers that share lines, claimed at the same time over and over: never both.
func testLinesRace(b *bench) {
	b.age()
	other := b.store.Open(b.clock.Now)
	for round := range 20 {
		lines := []string{fmt.Sprintf("%d.1", round), fmt.Sprintf("%d.2", round)}
		begins := []ledger.ClaimRequest{b.order(fmt.Sprintf("A%d", round), lines...), b.order(fmt.Sprintf("B%d", round), lines[1], lines[0])}
		if round%2 == 1 { // the lines were held by each of them before
			for _, x := range begins {
				b.must(b.Release(b.ctx, b.claims(x).Claim, "x"))
			}
			begins = []ledger.ClaimRequest{b.again(begins[0]), b.again(begins[1])}
		}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, l := range []ledger.Ledger{b.Ledger, other} {
			wg.Go(func() { _, errs[i] = l.Claim(b.ctx, begins[i]) })
		}
		wg.Wait()
		var taken *ledger.ItemTaken
		if errs[0] == nil && errs[1] == nil {
			b.Fatal("both numbers were begun with the same lines")
		}
		for _, err := range errs {
			if err != nil && !errors.As(err, &taken) {
				b.Fatal(err)
			}
		}
	}
}

func testOrderOfChecks(b *bench) {
	b.age()
	b.claims(b.order("holder", "1"))
	request := b.order("A1", "2")
	b.claims(request)

	wrong := b.again(request)
	wrong.Hash, wrong.Items = "another", []string{"1"}
	if _, err := b.Claim(b.ctx, wrong); !errors.Is(err, ledger.ErrHash) {
		b.Errorf("hash, claim and line wrong: %v", err)
	}
	wrong.Hash = request.Hash
	if _, err := b.Claim(b.ctx, wrong); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("claim and line wrong: %v", err)
	}
	b.accepts(request, "N1")
	if claimed, err := b.Claim(b.ctx, wrong); err != nil || claimed.Entry.State != ledger.Accepted {
		b.Errorf("accepted, line wrong: %v", err)
	}
}

func testNumberTaken(b *bench) {
	b.age()
	first, second := b.order("A1", "1"), b.order("A2", "1")
	second.Group = "SO-2"
	b.claims(first)
	b.accepts(first, "N1")
	refused := func(request ledger.ClaimRequest, number, by string) {
		b.Helper()
		var taken *ledger.NumberTaken
		if err := b.Accept(b.ctx, request, number, nil, b.now()); !errors.As(err, &taken) || taken.By != by || taken.Number != number {
			b.Errorf("%s as %s: %v, want it to be %s's", request.Key.No, number, err, by)
		}
	}
	claimed := b.claims(second)
	before := b.entry("A2")
	refused(second, "N1", "A1")
	if after := b.entry("A2"); !reflect.DeepEqual(after, before) {
		b.Errorf("written: %+v", after)
	}
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "the number of another"))
	b.claims(b.again(second))
	refused(b.again(second), "N1", "A1") // not as it was claimed: the long way
	b.cancels("A1")
	refused(b.again(second), "N1", "A1")
	b.must(b.Accept(b.ctx, first, "N1", nil, b.now())) // its own

	// Each account has its own numbers; where the account is not known, they may be the same.
	for i, same := range []struct {
		first, second string
		taken         bool
	}{{"east", "west", false}, {"east", "east", true}, {"", "east", true}} {
		one, other := b.order(fmt.Sprint("I", i), "1"), b.order(fmt.Sprint("J", i), "1")
		other.Group = fmt.Sprint("SO-J", i)
		one.Group = fmt.Sprint("SO-I", i)
		one.Identity, other.Identity = same.first, same.second
		b.claims(one)
		b.accepts(one, fmt.Sprint("M", i))
		b.claims(other)
		if same.taken {
			refused(other, fmt.Sprint("M", i), one.Key.No)
		} else {
			b.accepts(other, fmt.Sprint("M", i))
		}
	}

	// An outbound number that looks the same, and another seller's document, do not count.
	like := b.order("N2", "1")
	like.Group = "N3"
	b.claims(like)
	b.accepts(b.again(second), "N2")
	b.accepts(like, "N3")
	others := b.order("A1", "1")
	others.Key.Seller = "other"
	b.claims(others)
	b.accepts(others, "N1")

	b.store.Restart() // it is remembered
	third := b.order("A3", "1")
	third.Group = "SO-3"
	b.claims(third)
	refused(third, "N2", "A2")
}

func testAccept(b *bench) {
	b.age()
	request := b.order("A1", "1")
	claimed := b.claims(request)
	cleaned := []ledger.Cleaned{{Field: "buyer_remark", What: "emoji", ZH: "去掉了表情", EN: "emoji removed"}}
	b.must(b.Accept(b.ctx, request, "ESL001", cleaned, b.now()))
	e := b.entry("A1")
	if e.State != ledger.Accepted || e.Number != "ESL001" || !reflect.DeepEqual(e.Cleaned, cleaned) || e.Lookups != 0 || !e.UnknownSince.IsZero() {
		b.Errorf("accepted as %+v", e)
	}
	if e.Following == nil || !e.Following.Due.Equal(b.now()) {
		b.Errorf("followed as %+v", e.Following)
	}
	if due, err := b.Due(b.ctx, sellerName, kind, b.now(), 10); err != nil || len(due) != 1 || !reflect.DeepEqual(due[0], e) {
		b.Errorf("due at once: %+v, %v", due, err)
	}

	// Known: returned without a claim, and without a write.
	again := b.again(request)
	known, err := b.Claim(b.ctx, again)
	if err != nil || known.Claim != (ledger.Claim{}) || known.NeverSent || !reflect.DeepEqual(known.Entry, e) {
		b.Errorf("begun again: %+v, %v", known, err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("a repeated answer wrote: %+v", after)
	}

	// Reported twice.
	b.must(b.Accept(b.ctx, request, "ESL001", cleaned, b.now()))
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("accepted twice: %+v", after)
	}

	// Two documents under one number: reported, and recorded.
	err = b.Accept(b.ctx, again, "ESL002", nil, b.now())
	if !errors.Is(err, ledger.ErrLost) {
		b.Errorf("accepted under another number: %v", err)
	}
	after := b.entry("A1")
	last := after.Attempts[len(after.Attempts)-1]
	if after.Number != "ESL001" || last.What != "accepted" || last.Detail != "ESL002" || last.Owner != again.Owner {
		b.Errorf("the second number left %+v", after)
	}

	// The owner's other resolutions come too late.
	if err := b.Refuse(b.ctx, claimed.Claim, refusal()); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("refused after it was accepted: %v", err)
	}
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "late"))
	b.is("A1", ledger.Accepted)

	// Cancelled, and the same answer arrives again.
	b.cancels("A1")
	b.accepts(request, "ESL001")
	b.is("A1", ledger.Cancelled)
	if known, err := b.Claim(b.ctx, b.again(request)); err != nil || known.Claim.Owner != "" || known.Entry.State != ledger.Cancelled {
		b.Errorf("a cancelled document begins: %+v, %v", known, err)
	}
}

func testAcceptLate(b *bench) {
	b.age()

	// The claim expired.
	request := b.order("A1", "1")
	b.claims(request)
	b.clock.Add(2 * ledger.ClaimFor)
	b.accepts(request, "N1")
	b.is("A1", ledger.Accepted)

	// The claim is another's: the fact counts, and the other has lost its claim.
	request = b.order("A2", "2")
	b.claims(request)
	b.clock.Add(2 * ledger.ClaimFor)
	other := b.claims(b.again(request))
	b.accepts(request, "N2")
	b.is("A2", ledger.Accepted)
	if _, _, err := b.MarkNotFound(b.ctx, other.Claim); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("absent after another's late answer: %v", err)
	}
	if err := b.Release(b.ctx, other.Claim, "x"); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("released after another's late answer: %v", err)
	}
	b.is("A2", ledger.Accepted)

	// Refused by mistake, then it is found.
	request = b.order("A3", "3")
	b.must(b.Refuse(b.ctx, b.claims(request).Claim, refusal()))
	b.accepts(request, "N3")
	if e := b.entry("A3"); e.State != ledger.Accepted || e.Reason != (fault.Reason{}) {
		b.Errorf("turned up: %+v", e)
	}
	var taken *ledger.ItemTaken
	if _, err := b.Claim(b.ctx, b.order("A3b", "3")); !errors.As(err, &taken) {
		b.Errorf("the line of what turned up is free: %v", err)
	}

	// The ledger was lost.
	request = b.order("A4", "4")
	b.claims(request)
	b.store.Wipe()
	b.accepts(request, "N4")
	e := b.entry("A4")
	if e.State != ledger.Accepted || e.Number != "N4" || e.Hash != request.Hash || e.Group != "SO-1" || e.Shop != "S01" || e.Warehouse != request.Warehouse || e.Revision != 3 || e.Following == nil {
		b.Errorf("written from Begin: %+v", e)
	}
	if _, err := b.Claim(b.ctx, b.order("A4b", "4")); !errors.As(err, &taken) || taken.By != "A4" {
		b.Errorf("its line is free: %v", err)
	}
	if found, err := b.Find(b.ctx, sellerName, "N4"); err != nil || len(found) != 1 {
		b.Errorf("found %d, %v", len(found), err)
	}

	// Two documents are found with one line: both are known, the line stays where it was.
	b.accepts(b.order("A4b", "4"), "N4b")
	b.is("A4b", ledger.Accepted)
	if _, err := b.Claim(b.ctx, b.order("A4c", "4")); !errors.As(err, &taken) || taken.By != "A4" {
		b.Errorf("the line moved: %v", err)
	}
}

func testRefuse(b *bench) {
	b.age()
	request := b.order("A1", "1")
	claimed := b.claims(request)
	b.must(b.Refuse(b.ctx, claimed.Claim, refusal()))
	b.must(b.Refuse(b.ctx, claimed.Claim, refusal()))
	e := b.entry("A1")
	if e.State != ledger.Refused || e.Reason != refusal() || len(e.Attempts) != 2 || e.Attempts[1].What != "refused" || e.Attempts[1].Detail != "goods.unknown" {
		b.Errorf("refused as %+v", e)
	}
	// A replay claims it again, and learns that it was refused.
	again := b.claims(b.again(request))
	if again.NeverSent || again.Entry.State != ledger.Refused || again.Entry.Reason != refusal() {
		b.Errorf("begun again: %+v", again)
	}
	if e := b.entry("A1"); e.Reason != (fault.Reason{}) {
		b.Errorf("in INTENT with the reason %+v", e.Reason)
	}
	if err := b.Refuse(b.ctx, claimed.Claim, refusal()); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("refused by the earlier owner: %v", err)
	}
	// An expired claim that nobody took may still be resolved.
	b.clock.Add(2 * ledger.ClaimFor)
	b.must(b.Refuse(b.ctx, again.Claim, refusal()))
	b.is("A1", ledger.Refused)
}

func testMarkUnknown(b *bench) {
	b.age()
	request := b.order("A1", "1")
	claimed := b.claims(request)
	b.clock.Add(9 * time.Second)
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "read: connection reset"))
	b.clock.Add(time.Second)
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "read: connection reset"))
	e := b.entry("A1")
	if e.State != ledger.Unknown || e.Lookups != 0 || !e.UnknownSince.Equal(b.now().Add(-time.Second)) || len(e.Attempts) != 2 || e.Attempts[1].Detail != "read: connection reset" {
		b.Errorf("doubted as %+v", e)
	}
	if again := b.claims(b.again(request)); again.NeverSent || again.Entry.State != ledger.Unknown || !again.Entry.UnknownSince.Equal(e.UnknownSince) {
		b.Errorf("begun again: %+v", again)
	}
}

func testMarkUnknownLate(b *bench) {
	b.age()

	// The claim expired: written all the same.
	request := b.order("A1")
	claimed := b.claims(request)
	b.clock.Add(2 * ledger.ClaimFor)
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "x"))
	b.is("A1", ledger.Unknown)

	// Another owner is looking it up meanwhile: its earlier look-ups prove nothing about this send.
	request = b.order("A2")
	claimed = b.claims(request)
	b.clock.Add(2 * ledger.ClaimFor)
	_, _, err := b.MarkNotFound(b.ctx, b.claims(b.again(request)).Claim)
	b.must(err)
	b.clock.Add(time.Minute)
	other := b.claims(b.again(request))
	if other.Entry.Lookups != 1 {
		b.Fatalf("%d looks", other.Entry.Lookups)
	}
	b.clock.Add(time.Second)
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "x"))
	b.is("A2", ledger.Intent)
	lookups, since, err := b.MarkNotFound(b.ctx, other.Claim)
	if err != nil || lookups != 1 || since != 0 {
		b.Errorf("%d looks over %s, %v", lookups, since, err)
	}

	// The ledger was lost: the next Claim leads to a look-up, whatever the payload.
	request = b.order("A3", "3")
	claimed = b.claims(request)
	b.store.Wipe()
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "x"))
	b.is("A3", ledger.Unknown)
	again := b.claims(b.again(request))
	if again.NeverSent || again.Entry.State != ledger.Unknown {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "x"))
	b.is("A3", ledger.Unknown)

	// The ledger was lost, and another claimed it as if nothing had happened.
	request = b.order("A4", "4")
	claimed = b.claims(request)
	b.store.Wipe()
	other = b.claims(b.again(request))
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "x"))
	b.must(b.Release(b.ctx, other.Claim, "x"))
	b.is("A4", ledger.Unknown)

	// Resolved meanwhile: nothing is unknown.
	for no, resolve := range map[string]func(ledger.ClaimRequest, ledger.Claim){
		"A5": func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N5") },
		"A6": func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) },
		"A7": func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N7"); b.cancels("A7") },
	} {
		request := b.order(no)
		claimed := b.claims(request)
		b.clock.Add(2 * ledger.ClaimFor)
		again := b.again(request)
		resolve(again, b.claims(again).Claim)
		before := b.entry(no)
		b.must(b.MarkUnknown(b.ctx, claimed.Claim, "x"))
		if after := b.entry(no); !reflect.DeepEqual(before, after) {
			b.Errorf("%s: a late doubt wrote: %+v", no, after)
		}
	}
}

func testMarkNotFound(b *bench) {
	b.age()
	request := b.order("A1", "1")
	b.must(b.MarkUnknown(b.ctx, b.claims(request).Claim, "x"))
	unknownFor := b.now()
	for want := 1; want <= 3; want++ {
		b.clock.Add(time.Minute)
		claimed := b.claims(b.again(request))
		if claimed.Entry.Lookups != want-1 {
			b.Errorf("got of %d looks, want %d", claimed.Entry.Lookups, want-1)
		}
		for range 2 { // the second time because the answer was lost
			lookups, since, err := b.MarkNotFound(b.ctx, claimed.Claim)
			if err != nil || lookups != want || since != b.now().Sub(unknownFor) || claimed.UnknownFor() != since {
				b.Fatalf("look %d: %d looks over %s, begun after %s, %v", want, lookups, since, claimed.UnknownFor(), err)
			}
		}
		b.is("A1", ledger.Unknown)
	}

	// A look-up before any known send makes it unknown, from then on.
	claimed := b.claims(b.order("A2"))
	lookups, since, err := b.MarkNotFound(b.ctx, claimed.Claim)
	if err != nil || lookups != 1 || since != 0 {
		b.Errorf("%d looks over %s, %v", lookups, since, err)
	}
	b.is("A2", ledger.Unknown)
}

// A refusal in business words is kept during look-ups, over crashes, until the document is found or refused.
func testMarkRejected(b *bench) {
	b.age()
	request := b.order("A1", "1")
	claimed := b.claims(request)
	b.clock.Add(3 * time.Second)
	for range 2 { // the second time because the answer was lost
		b.must(b.MarkRejected(b.ctx, claimed.Claim, refusal()))
	}
	e := b.entry("A1")
	if e.State != ledger.Unknown || e.Rejection != refusal() || e.Reason != (fault.Reason{}) || e.Lookups != 0 || !e.UnknownSince.Equal(b.now()) ||
		len(e.Attempts) != 2 || e.Attempts[1].What != "denied" || e.Attempts[1].Detail != refusal().Code {
		b.Errorf("denied as %+v", e)
	}
	if n, err := b.CountUnknown(b.ctx, kind, sellerName); err != nil || n[0].N != 1 {
		b.Errorf("unknown: %v, %v", n, err)
	}
	var taken *ledger.ItemTaken
	if _, err := b.Claim(b.ctx, b.order("A2", "1")); !errors.As(err, &taken) || taken.By != "A1" {
		b.Errorf("its line is free: %v", err)
	}
	denied := func(what string, want fault.Reason, lookups int) {
		b.Helper()
		if e := b.entry("A1"); e.Rejection != want || e.Lookups != lookups {
			b.Fatalf("after %s: denied %+v, %d looks", what, e.Rejection, e.Lookups)
		}
	}
	b.claims(b.again(request)) // and its worker dies
	denied("a crash", refusal(), 0)
	b.clock.Add(2 * ledger.ClaimFor)
	again := b.claims(b.again(request))
	if again.NeverSent || again.Entry.Rejection != refusal() {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "could not ask"))
	denied("a release", refusal(), 0)
	_, _, err := b.MarkNotFound(b.ctx, b.claims(b.again(request)).Claim)
	b.must(err)
	denied("a look", refusal(), 1)
	last := b.claims(b.again(request))
	b.must(b.Refuse(b.ctx, last.Claim, last.Entry.Rejection))
	denied("the refusal", fault.Reason{}, 0)
	if e := b.entry("A1"); e.State != ledger.Refused || e.Reason != refusal() {
		b.Errorf("refused as %+v", e)
	}
	b.claims(b.order("A2", "1")) // its line is free

	// Other ways in which it ends.
	for what, end := range map[string]func(ledger.ClaimRequest){
		"found":     func(of ledger.ClaimRequest) { b.accepts(of, "N1") },
		"resent":    func(of ledger.ClaimRequest) { b.must(b.Resend(b.ctx, b.claims(of).Claim)) },
		"lost then": func(of ledger.ClaimRequest) { b.must(b.MarkUnknown(b.ctx, b.claims(of).Claim, "no answer")) },
	} {
		of := b.order(what)
		b.must(b.MarkRejected(b.ctx, b.claims(of).Claim, refusal()))
		end(b.again(of))
		if e := b.entry(what); e.Rejection != (fault.Reason{}) {
			b.Errorf("%s: denied %+v", what, e.Rejection)
		}
	}
	// An owner that may be sending decides.
	of := b.order("B1")
	late := b.claims(of)
	b.clock.Add(2 * ledger.ClaimFor)
	other := b.claims(b.again(of))
	b.must(b.MarkRejected(b.ctx, late.Claim, refusal()))
	b.must(b.Release(b.ctx, other.Claim, "x"))
	if e := b.entry("B1"); e.State != ledger.Unknown || e.Rejection != (fault.Reason{}) || e.Lookups != 0 {
		b.Errorf("denied beside another: %+v", e)
	}
	// A ledger that was lost meanwhile records it too.
	of = b.order("C1")
	claim := b.claims(of).Claim
	b.store.Wipe()
	b.must(b.MarkRejected(b.ctx, claim, refusal()))
	if e := b.entry("C1"); !e.Reconstructed() || e.State != ledger.Unknown || e.Rejection != refusal() {
		b.Errorf("denied after a loss: %+v", e)
	}
}

func testRefusals(b *bench) {
	b.age()
	is := func(after string, from time.Time, limit int, want ...string) {
		b.Helper()
		list, err := b.Refusals(b.ctx, sellerName, kind, from, limit)
		b.must(err)
		var got []string
		for _, e := range list {
			if e.State != ledger.Refused || e.Reason != refusal() {
				b.Errorf("%s: %+v", after, e)
			}
			got = append(got, e.Key.No)
		}
		if !slices.Equal(got, want) {
			b.Fatalf("after %s: %v, want %v", after, got, want)
		}
	}
	is("nothing", time.Time{}, 10)
	began := b.now()
	of := map[string]ledger.ClaimRequest{}
	for _, no := range []string{"A1", "A2", "A3"} {
		of[no] = b.order(no)
		b.must(b.Refuse(b.ctx, b.claims(of[no]).Claim, refusal()))
		b.clock.Add(time.Second)
	}
	theirs := b.order("A9")
	theirs.Origin = ledger.External
	b.must(b.Refuse(b.ctx, b.claims(theirs).Claim, refusal()))
	is("three, and one that was somebody else's", began, 10, "A1", "A2", "A3")
	is("three, a part", began, 2, "A1", "A2")
	is("three, from later", began.Add(time.Second), 10, "A2", "A3")
	if list, err := b.Refusals(b.ctx, "other", kind, began, 10); err != nil || len(list) != 0 {
		b.Errorf("of another seller: %v, %v", list, err)
	}
	replayed := b.claims(b.again(of["A2"]))
	is("one claimed again", began, 10, "A1", "A3")
	b.must(b.Release(b.ctx, replayed.Claim, "x"))
	is("and given back", began, 10, "A1", "A3", "A2")
	b.accepts(b.again(of["A3"]), "N3")
	is("one is found", began, 10, "A1", "A2")
	b.clock.Add(ledger.RefusalsKept + time.Second)
	b.must(b.Refuse(b.ctx, b.claims(b.order("B1")).Claim, refusal()))
	is("their time", time.Time{}, 10, "B1")
}

// An External document stays one, whatever its content; a claim for one of ours gets ErrHash.
func testOrigin(b *bench) {
	b.age()
	theirs := b.order("A1")
	theirs.Origin = ledger.External
	claimed := b.claims(theirs)
	if claimed.Entry.State != ledger.New {
		b.Errorf("claimed: %+v", claimed)
	}
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "another program sends it"))
	if e := b.entry("A1"); e.Origin != ledger.External || e.Hash != "" || e.Reconstructed() {
		b.Errorf("kept as %+v", e)
	}
	ours := b.again(theirs)
	ours.Origin = ledger.Ours
	if claimed, err := b.Claim(b.ctx, ours); !errors.Is(err, ledger.ErrHash) || claimed.Entry.Origin != ledger.External {
		b.Errorf("claimed as ours: %+v, %v", claimed, err)
	}
	other := b.again(theirs)
	other.Hash = "another content"
	b.accepts(other, "N1")
	if e := b.entry("A1"); e.State != ledger.Accepted || e.Origin != ledger.External || e.Hash != "" {
		b.Errorf("accepted as %+v", e)
	}

	// Ours does not become another program's.
	theirs = b.order("A2")
	b.must(b.MarkUnknown(b.ctx, b.claims(theirs).Claim, "x"))
	theirs = b.again(theirs)
	theirs.Origin = ledger.External
	if claimed, err := b.Claim(b.ctx, theirs); !errors.Is(err, ledger.ErrHash) || claimed.Entry.Origin != ledger.Ours {
		b.Errorf("claimed as another program's: %+v, %v", claimed, err)
	}
}

func testTrace(b *bench) {
	b.age()
	one, two := "00-11111111111111111111111111111111-1111111111111111-01", "00-11111111111111111111111111111111-2222222222222222-01"
	is := func(want string) {
		b.Helper()
		if e := b.entry("A1"); e.Trace != want {
			b.Fatalf("the trace is %q, want %q", e.Trace, want)
		}
	}
	request := b.order("A1")
	request.Trace = one
	b.must(b.MarkUnknown(b.ctx, b.claims(request).Claim, "x"))
	is(one)
	again := b.again(request)
	again.Trace = ""
	b.must(b.Release(b.ctx, b.claims(again).Claim, "nothing traces here"))
	is(one)
	again = b.again(request)
	again.Trace = two
	if claimed := b.claims(again); claimed.Entry.Trace != one {
		b.Errorf("got with trace %q", claimed.Entry.Trace)
	}
	b.accepts(again, "N1")
	is(two)
	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Due: b.now()}))
	due, err := b.Due(b.ctx, sellerName, kind, b.now(), 1)
	if err != nil || len(due) != 1 || due[0].Trace != two {
		b.Errorf("due is %+v, %v", due, err)
	}
	// The ledger was lost between claim and accept.
	request = b.order("A2")
	request.Trace = one
	b.claims(request)
	b.store.Wipe()
	b.accepts(request, "N2")
	if e := b.entry("A2"); e.Trace != one {
		b.Errorf("accepted late, the trace is %q", e.Trace)
	}
}

func testCountUnknown(b *bench) {
	b.age()
	is := func(after string, n int, oldest time.Time) {
		b.Helper()
		want := []ledger.Count{{}, {N: n, Since: oldest}}
		if got, err := b.CountUnknown(b.ctx, kind, "other", sellerName); err != nil || !slices.Equal(got, want) {
			b.Fatalf("after %s: unknown of another seller and of this one: %v, %v; want %v", after, got, err, want)
		}
	}
	is("nothing", 0, time.Time{})
	of := map[string]ledger.ClaimRequest{}
	for _, no := range []string{"A1", "A2", "A3", "A4", "A5"} {
		of[no] = b.order(no)
	}
	first := b.now()
	b.must(b.MarkUnknown(b.ctx, b.claims(of["A1"]).Claim, "x"))
	is("an unknown one", 1, first)
	b.clock.Add(time.Second)
	second := b.now()
	b.must(b.MarkUnknown(b.ctx, b.claims(of["A2"]).Claim, "x"))
	_, _, err := b.MarkNotFound(b.ctx, b.claims(of["A3"]).Claim)
	b.must(err)
	is("another, and a look that found nothing", 3, first)
	b.claims(of["A4"])
	b.clock.Add(2 * ledger.ClaimFor)
	b.claims(b.again(of["A4"]))
	is("a claim that nobody resolved", 4, first)
	looked := b.again(of["A1"])
	b.must(b.Release(b.ctx, b.claims(looked).Claim, "x"))
	is("a look that could not ask", 4, first)
	b.accepts(b.again(of["A1"]), "N1")
	is("the first is found", 3, second)
	b.must(b.Refuse(b.ctx, b.claims(b.again(of["A2"])).Claim, refusal()))
	b.accepts(b.again(of["A4"]), "N4")
	is("others are resolved", 1, second)
	b.must(b.Resend(b.ctx, b.claims(b.again(of["A3"])).Claim))
	is("one is sent again", 0, time.Time{})
	theirs := b.order("A9")
	theirs.Origin = ledger.External
	b.must(b.MarkUnknown(b.ctx, b.claims(theirs).Claim, "somebody else hands it over"))
	is("one that is somebody else's", 0, time.Time{})
}

func testRelease(b *bench) {
	b.age()
	// New: as if nothing had happened, except for the history; and still certainly new.
	request := b.order("A1", "1")
	claimed := b.claims(request)
	b.must(b.Release(b.ctx, claimed.Claim, "rate limit"))
	b.must(b.Release(b.ctx, claimed.Claim, "rate limit"))
	e := b.entry("A1")
	if e.State != ledger.New || e.Hash != "" || e.Tries != 1 || len(e.Attempts) != 2 || e.Attempts[1].What != "released" || e.Attempts[1].Detail != "rate limit" {
		b.Errorf("released as %+v", e)
	}
	again := b.claims(b.again(request))
	if !again.NeverSent || again.Entry.State != ledger.New || again.Entry.Tries != 1 {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "rate limit"))

	// New, but not certainly: a release does not make it so.
	request = b.order("A2")
	request.First = false
	b.must(b.Release(b.ctx, b.claims(request).Claim, "x"))
	request.First = true
	if b.claims(request).NeverSent {
		b.Error("certainly new after it was not")
	}

	// Unknown stays unknown, with its look-ups.
	request = b.order("A3", "3")
	b.must(b.MarkUnknown(b.ctx, b.claims(request).Claim, "x"))
	_, _, err := b.MarkNotFound(b.ctx, b.claims(b.again(request)).Claim)
	b.must(err)
	before := b.entry("A3")
	b.clock.Add(time.Minute)
	b.must(b.Release(b.ctx, b.claims(b.again(request)).Claim, "x"))
	if e := b.entry("A3"); e.State != ledger.Unknown || e.Lookups != 1 || !e.UnknownSince.Equal(before.UnknownSince) || e.Hash != before.Hash {
		b.Errorf("released as %+v", e)
	}
	if _, err := b.Claim(b.ctx, b.order("A3b", "3")); err == nil {
		b.Error("the line of an unknown document was freed")
	}

	// Refused stays refused, with its reason.
	request = b.order("A4")
	b.must(b.Refuse(b.ctx, b.claims(request).Claim, refusal()))
	b.must(b.Release(b.ctx, b.claims(b.again(request)).Claim, "x"))
	if e := b.entry("A4"); e.State != ledger.Refused || e.Reason != refusal() || e.Hash != request.Hash {
		b.Errorf("released as %+v", e)
	}

	// Being unknown once ends certainty for good.
	request = b.order("A5")
	b.must(b.Release(b.ctx, b.claims(request).Claim, "x"))
	b.must(b.MarkUnknown(b.ctx, b.claims(b.again(request)).Claim, "x"))
	b.must(b.Release(b.ctx, b.claims(b.again(request)).Claim, "x"))
	if claimed := b.claims(b.again(request)); claimed.NeverSent || claimed.Entry.State != ledger.Unknown {
		b.Errorf("begun again: %+v", claimed)
	}
}

func testResend(b *bench) {
	b.age()
	request := b.order("A1")
	b.must(b.MarkUnknown(b.ctx, b.claims(request).Claim, "x"))
	for range 3 {
		b.clock.Add(2 * time.Minute)
		_, _, err := b.MarkNotFound(b.ctx, b.claims(b.again(request)).Claim)
		b.must(err)
	}
	claimed := b.claims(b.again(request))
	b.must(b.Resend(b.ctx, claimed.Claim))
	b.must(b.Resend(b.ctx, claimed.Claim))
	if e := b.entry("A1"); e.State != ledger.Intent || e.Lookups != 0 || !e.UnknownSince.IsZero() {
		b.Errorf("about to be sent again: %+v", e)
	}
	// Killed while sending.
	b.clock.Add(2 * ledger.ClaimFor)
	claimed = b.claims(b.again(request))
	if claimed.Entry.State != ledger.Unknown || claimed.Entry.Lookups != 0 || !claimed.Entry.UnknownSince.Equal(b.now()) {
		b.Errorf("after the second sending: %+v", claimed.Entry)
	}
	// Not sent after all.
	b.must(b.Resend(b.ctx, claimed.Claim))
	b.must(b.Release(b.ctx, claimed.Claim, "dial"))
	b.is("A1", ledger.Unknown)

	// After Until another may claim it at any time: too late to send.
	claimed = b.claims(b.again(request))
	b.clock.Add(ledger.ClaimFor)
	if err := b.Resend(b.ctx, claimed.Claim); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("sent again on a claim that ran out: %v", err)
	}
}

func testLost(b *bench) {
	b.age()
	request := b.order("A1", "1")
	old := b.claims(request).Claim
	b.clock.Add(2 * ledger.ClaimFor)
	b.claims(b.again(request))
	before := b.entry("A1")
	for name, resolve := range map[string]func() error{
		"refuse":  func() error { return b.Refuse(b.ctx, old, refusal()) },
		"absent":  func() error { _, _, err := b.MarkNotFound(b.ctx, old); return err },
		"release": func() error { return b.Release(b.ctx, old, "x") },
		"resend":  func() error { return b.Resend(b.ctx, old) },
		"never begun": func() error {
			return b.Refuse(b.ctx, ledger.Claim{Key: key("nobody"), Owner: "x"}, refusal())
		},
	} {
		if err := resolve(); !errors.Is(err, ledger.ErrLost) {
			b.Errorf("%s: %v", name, err)
		}
	}
	if after := b.entry("A1"); !reflect.DeepEqual(before, after) {
		b.Errorf("what was lost was written: %+v", after)
	}
	if _, err := b.Get(b.ctx, key("nobody")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("an entry out of nothing: %v", err)
	}
}

func testDue(b *bench) {
	b.age()
	start := b.now()
	put := func(seller, kind, no string, due time.Time) {
		request := b.order(no, "line of "+no)
		request.Key = ledger.Key{Seller: seller, Kind: kind, No: no}
		b.accepts(request, "N-"+no)
		e, err := b.Get(b.ctx, request.Key)
		b.must(err)
		f := *e.Following
		f.Due = due
		b.must(b.Follow(b.ctx, e, ledger.Accepted, f))
	}
	for i, minutes := range []int{5, 1, 3, 2, 4} {
		put(sellerName, kind, fmt.Sprintf("A%d", i), start.Add(time.Duration(minutes)*time.Minute))
	}
	put("other", kind, "B1", start)
	put(sellerName, "purchase", "C1", start)
	put(sellerName, kind, "over", time.Time{})

	due := func(at time.Time, limit int, want ...string) {
		b.Helper()
		entries, err := b.Due(b.ctx, sellerName, kind, at, limit)
		b.must(err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Key.No)
		}
		if !slices.Equal(got, want) {
			b.Errorf("due at %s, limit %d: %v, want %v", at.Sub(start), limit, got, want)
		}
	}
	due(start, 10)
	due(start.Add(time.Minute), 10, "A1")
	due(start.Add(3*time.Minute), 10, "A1", "A3", "A2")
	due(start.Add(time.Hour), 3, "A1", "A3", "A2")
	due(start.Add(time.Hour), 10, "A1", "A3", "A2", "A4", "A0")

	open := func(kind string, want map[string]ledger.Count) {
		b.Helper()
		sellers := slices.Sorted(maps.Keys(want))
		got, err := b.CountFollowed(b.ctx, kind, sellers...)
		b.must(err)
		for i, seller := range sellers {
			if got[i].N != want[seller].N || !got[i].Since.Equal(want[seller].Since) {
				b.Errorf("%s/%s: followed, the first due: %v, want %v", seller, kind, got[i], want[seller])
			}
		}
	}
	open(kind, map[string]ledger.Count{sellerName: {N: 5, Since: start.Add(time.Minute)}, "other": {N: 1, Since: start}, "nobody": {}})
	open("purchase", map[string]ledger.Count{sellerName: {N: 1, Since: start}, "other": {}})

	// A followed entry is no longer due once it was handled, and a finished one is no longer followed.
	e := b.entry("A1")
	b.must(b.Follow(b.ctx, e, ledger.Accepted, ledger.Following{Due: start.Add(2 * time.Hour)}))
	b.must(b.Follow(b.ctx, b.entry("A3"), ledger.Accepted, ledger.Following{}))
	b.must(b.Follow(b.ctx, b.entry("A2"), ledger.Cancelled, ledger.Following{}))
	due(start.Add(time.Hour), 10, "A4", "A0")
	open(kind, map[string]ledger.Count{sellerName: {N: 3, Since: start.Add(4 * time.Minute)}})

	// Another handle on the same store sees the same, soon.
	other := b.store.Open(b.clock.Now)
	b.accepts(b.order("A9", "line of A9"), "N-A9")
	b.eventually("the other sees what is followed", func() bool {
		n, err := other.CountFollowed(b.ctx, kind, sellerName)
		return err == nil && n[0].N == 4
	})
}

func testFollow(b *bench) {
	b.age()
	request := b.order("A1", "1")
	b.claims(request)
	b.accepts(request, "N1")
	read := b.entry("A1")
	f := ledger.Following{
		Due: b.now().Add(time.Hour), Phase: "late", Numbers: []string{"V1"},
		State: []byte(`{"Code":"10019","Children":{"N1-1":{"Code":"10019","Shipped":true},"N1-2":{"Code":"99999"}}}`),
	}
	b.must(b.Follow(b.ctx, read, ledger.Accepted, f))
	e := b.entry("A1")
	if !reflect.DeepEqual(e.Following, &f) || e.State != ledger.Accepted || e.Number != "N1" || e.Version <= read.Version {
		b.Errorf("followed as %+v, %+v", e, e.Following)
	}

	// Read before that write: ErrVersion.
	if err := b.Follow(b.ctx, read, ledger.Cancelled, ledger.Following{}); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed on an old reading: %v", err)
	}
	if err := b.Follow(b.ctx, ledger.Entry{Key: key("nobody")}, ledger.Accepted, f); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed what is not there: %v", err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("the refused Follow wrote: %+v", after)
	}

	// Two pollers with the same read: one writes.
	other := b.store.Open(b.clock.Now)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, l := range []ledger.Ledger{b.Ledger, other} {
		wg.Go(func() { errs[i] = l.Follow(b.ctx, e, ledger.Accepted, ledger.Following{Due: b.now()}) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), ledger.ErrVersion) {
		b.Errorf("two pollers: %v", errs)
	}

	// Cancelled frees the lines.
	e = b.entry("A1")
	b.must(b.Follow(b.ctx, e, ledger.Cancelled, ledger.Following{State: []byte(`{"Status":9}`)}))
	e = b.entry("A1")
	if last := e.Attempts[len(e.Attempts)-1]; e.State != ledger.Cancelled || last.What != "cancelled" || !last.At.Equal(b.now()) {
		b.Errorf("cancelled as %+v", e)
	}
	b.claims(b.order("A2", "1"))
}

func testFind(b *bench) {
	b.age()
	if _, err := b.Get(b.ctx, key("nobody")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("what is not there: %v", err)
	}
	first := b.order("A1", "1")
	b.accepts(first, "ESL:001")
	second := b.order("A2", "2")
	b.must(b.Refuse(b.ctx, b.claims(second).Claim, refusal()))
	purchase := b.order("A1")
	purchase.Key.Kind, purchase.Group = "purchase", ""
	b.claims(purchase)
	other := b.order("A1", "1")
	other.Key.Seller = "other"
	b.claims(other)
	odd := b.order("单 号:.*>{}\n=", "ä/行,1")
	odd.Group = "订单 *.>{x}"
	b.claims(odd)

	found := func(seller, no string, want ...string) {
		b.Helper()
		entries, err := b.Find(b.ctx, seller, no)
		b.must(err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Key.String())
			if whole, err := b.Get(b.ctx, e.Key); err != nil || !reflect.DeepEqual(whole, e) {
				b.Errorf("found %+v, which is %+v, %v", e, whole, err)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			b.Errorf("by %q of %s: %v, want %v", no, seller, got, want)
		}
	}
	found(sellerName, "A1", "acme/order/A1", "acme/purchase/A1")
	found(sellerName, "SO-1", "acme/order/A1", "acme/order/A2")
	found(sellerName, "ESL:001", "acme/order/A1")
	found("other", "SO-1", "other/order/A1")
	found("other", "ESL:001")
	found(sellerName, "")
	found(sellerName, odd.Key.No, odd.Key.String())
	found(sellerName, odd.Group, odd.Key.String())
	if _, err := b.Claim(b.ctx, ledger.ClaimRequest{
		Key: key("after odd"), Owner: "x", Hash: "x", Group: odd.Group, Items: odd.Items, StreamTime: b.now(), AuditedAt: b.now(),
	}); err == nil {
		b.Error("a line with an odd name was free")
	}

	for i := range 25 {
		many := b.order(fmt.Sprintf("M%02d", i), fmt.Sprintf("m%d", i))
		many.Group = "SO-many"
		b.claims(many)
	}
	if entries, err := b.Find(b.ctx, sellerName, "SO-many"); err != nil || len(entries) != 20 {
		b.Errorf("found %d, %v", len(entries), err)
	}
}

func (b *bench) findsOnly(no string, want ...string) {
	b.Helper()
	entries, err := b.Find(b.ctx, sellerName, no)
	b.must(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Key.No)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		b.Errorf("by %q: %v, want %v", no, got, want)
	}
}

func testFindAlso(b *bench) {
	b.age()
	first := b.order("A1", "1")
	first.PlatformNos = []string{"275 ä:1", "276"}
	claimed := b.claims(first)
	b.findsOnly("275 ä:1", "A1")
	if e := b.entry("A1"); !slices.Equal(e.PlatformNos, first.PlatformNos) {
		b.Errorf("platform numbers %q", e.PlatformNos)
	}
	// Released, it may be claimed with other numbers, and is found by these from then on.
	b.must(b.Release(b.ctx, claimed.Claim, "not sent"))
	again := b.again(first)
	again.PlatformNos = []string{"276", "277"}
	b.claims(again)
	b.findsOnly("275 ä:1")
	b.findsOnly("276", "A1")
	b.accepts(again, "ESL1")
	b.findsOnly("277", "A1")
	b.findsOnly("SO-1", "A1")

	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Due: b.now(), Numbers: []string{"JDV1"}}))
	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Numbers: []string{"JDV1", "JDV2"}}))
	b.findsOnly("JDV1", "A1")
	b.findsOnly("JDV2", "A1")
	if f := b.entry("A1").Following; !slices.Equal(f.Numbers, []string{"JDV1", "JDV2"}) {
		b.Errorf("waybills %q", f.Numbers)
	}

	// A document claimed without numbers is found by the others, and one accepted without a claim has all of them.
	b.accepts(b.order("A2", "2"), "ESL2")
	late := b.order("A3", "3")
	late.PlatformNos = []string{"277"}
	b.accepts(late, "ESL3")
	b.findsOnly("277", "A1", "A3")
	b.findsOnly("ESL2", "A2")
}

func testSharing(b *bench) {
	b.age()
	order := func(no, order string, platform ...string) ledger.ClaimRequest {
		request := b.order(no, "1")
		request.Group, request.PlatformNos = order, platform
		return request
	}
	shares := func(request ledger.ClaimRequest, want ...ledger.Sharing) {
		b.Helper()
		claimed := b.claims(request)
		if !slices.Equal(claimed.Sharing, want) {
			b.Errorf("%s shares with %+v, want %+v", request.Key.No, claimed.Sharing, want)
		}
	}
	first := order("A1", "SO-A", "275", "276")
	shares(first)
	shares(first) // the answer was lost
	second := order("B1", "SO-B", "274", "275")
	shares(second, ledger.Sharing{PlatformNo: "275", Group: "SO-A", No: "A1"})
	shares(second, ledger.Sharing{PlatformNo: "275", Group: "SO-A", No: "A1"})
	// Parts of one order rightly share its numbers; so do another seller's document, and one whose order number is
	// equal by chance.
	part := order("A2", "SO-A", "276")
	part.Items = []string{"2"}
	shares(part)
	other := order("A1", "SO-C", "275")
	other.Key.Seller = "other"
	if claimed, err := b.Claim(b.ctx, other); err != nil || len(claimed.Sharing) > 0 {
		b.Errorf("%+v, %v", claimed.Sharing, err)
	}
	shares(order("C1", "SO-D", "SO-A"))
	// A document that is no longer live is not reported; an accepted one is.
	b.accepts(first, "ESL1")
	b.must(b.Refuse(b.ctx, ledger.Claim{Key: second.Key, Owner: second.Owner}, refusal()))
	shares(order("D1", "SO-E", "275", "999"), ledger.Sharing{PlatformNo: "275", Group: "SO-A", No: "A1"})
}

func testHistory(b *bench) {
	b.age()
	request := b.order("A1")
	for i := range 13 {
		request = b.again(request)
		request.Seq = uint64(i)
		b.must(b.Release(b.ctx, b.claims(request).Claim, fmt.Sprintf("try %d\nof 13", i)))
	}
	e := b.entry("A1")
	if e.Tries != 13 || len(e.Attempts) != ledger.KeepAttempts || e.Version != 26 {
		b.Fatalf("%d tries, %d lines, version %d", e.Tries, len(e.Attempts), e.Version)
	}
	if first, last := e.Attempts[0], e.Attempts[19]; first.What != "begun" || first.Seq != 3 || last.What != "released" || last.Detail != "try 12\nof 13" {
		b.Errorf("from %+v to %+v", first, last)
	}
}

func testIdentity(b *bench) {
	b.age()
	for _, test := range []struct {
		name    string
		bring   func(ledger.ClaimRequest, ledger.Claim)
		refused bool
	}{
		{"unknown", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.MarkUnknown(b.ctx, c, "no answer")) }, true},
		{"looked for", func(_ ledger.ClaimRequest, c ledger.Claim) { _, _, err := b.MarkNotFound(b.ctx, c); b.must(err) }, true},
		{"its worker died", func(ledger.ClaimRequest, ledger.Claim) { b.clock.Add(ledger.ClaimFor + time.Second) }, true},
		{"sent again, its worker died", func(x ledger.ClaimRequest, c ledger.Claim) {
			b.must(b.MarkUnknown(b.ctx, c, "no answer"))
			b.must(b.Resend(b.ctx, b.claims(b.again(x)).Claim))
			b.clock.Add(ledger.ClaimFor + time.Second)
		}, true},
		{"never sent", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Release(b.ctx, c, "rate limit")) }, false},
		{"refused", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) }, false},
		{"accepted", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N1") }, false},
	} {
		request := b.order(test.name, test.name)
		request.Identity = "east"
		claimed := b.claims(request)
		if claimed.Claim.Identity != "east" {
			b.Errorf("%s: claimed as %q", test.name, claimed.Claim.Identity)
		}
		test.bring(request, claimed.Claim)
		before := b.entry(test.name)
		if test.refused && before.Identity != "east" {
			b.Errorf("%s: kept as sent under %q", test.name, before.Identity)
		}

		other := b.again(request)
		other.Identity = "west"
		claimed, err := b.Claim(b.ctx, other)
		if !test.refused {
			if err != nil {
				b.Errorf("%s: claimed under another identity: %v", test.name, err)
			}
			continue
		}
		if !errors.Is(err, ledger.ErrIdentity) || claimed.Claim != (ledger.Claim{}) {
			b.Errorf("%s: claimed under another identity: %+v, %v", test.name, claimed.Claim, err)
		}
		if claimed.Entry.State != ledger.Unknown || claimed.Entry.Identity != "east" {
			b.Errorf("%s: got %+v", test.name, claimed.Entry)
		}
		if after := b.entry(test.name); !reflect.DeepEqual(before, after) {
			b.Errorf("%s: the refused Begin wrote\n%+v\nto\n%+v", test.name, after, before)
		}

		// Neither a caller without an identity nor one with the same is refused; the stored one stays.
		for _, same := range []string{"", "east"} {
			next := b.again(request)
			next.Identity = same
			b.must(b.Release(b.ctx, b.claims(next).Claim, "only to look"))
			if e := b.entry(test.name); e.Identity != "east" || e.State != ledger.Unknown {
				b.Errorf("%s: after a run under %q it is %s, sent under %q", test.name, same, e.State, e.Identity)
			}
		}
		// A person dealt with it: claimed under the other identity; a release restores the earlier one.
		other = b.again(other)
		other.AnyIdentity = true
		b.must(b.Release(b.ctx, b.claims(other).Claim, "rate limit"))
		if e := b.entry(test.name); e.Identity != "east" || e.State != ledger.Unknown {
			b.Errorf("%s: given back as %s, sent under %q", test.name, e.State, e.Identity)
		}
		other = b.again(other)
		b.must(b.MarkUnknown(b.ctx, b.claims(other).Claim, "no answer"))
		if e := b.entry(test.name); e.Identity != "west" {
			b.Errorf("%s: sent again under west, kept is %q", test.name, e.Identity)
		}
	}
}

func testIdentityKept(b *bench) {
	b.age()
	// An entry from before identities were kept matches any.
	request := b.order("A1", "1")
	b.must(b.MarkUnknown(b.ctx, b.claims(request).Claim, "no answer"))
	request = b.again(request)
	request.Identity = "east"
	b.claims(request)
	b.accepts(request, "N1")
	if e := b.entry("A1"); e.Identity != "east" {
		b.Errorf("accepted under %q", e.Identity)
	}

	// Repeating a report is not a send: a refusal keeps its identity.
	request = b.order("A2", "2")
	request.Identity = "east"
	b.must(b.Refuse(b.ctx, b.claims(request).Claim, refusal()))
	request = b.again(request)
	request.Identity = "west"
	b.must(b.Release(b.ctx, b.claims(request).Claim, "got again"))
	if e := b.entry("A2"); e.Identity != "east" || e.State != ledger.Refused {
		b.Errorf("got again, it is %s under %q", e.State, e.Identity)
	}

	// The ledger is lost between the send and the report that no answer came.
	request = b.order("A3", "3")
	request.Identity = "east"
	claimed := b.claims(request)
	b.store.Wipe()
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "no answer"))
	if e := b.entry("A3"); e.Identity != "east" || !e.Reconstructed() {
		b.Errorf("after the loss: %+v", e)
	}
	request = b.again(request)
	request.Identity = "west"
	if _, err := b.Claim(b.ctx, request); !errors.Is(err, ledger.ErrIdentity) {
		b.Errorf("claimed under another identity after the loss: %v", err)
	}

	// A late MarkUnknown while another run holds the claim: what that run releases was sent.
	request = b.order("A4", "4")
	request.Identity = "east"
	claimed = b.claims(request)
	b.clock.Add(ledger.ClaimFor + time.Second)
	next := b.claims(b.again(request))
	b.must(b.MarkUnknown(b.ctx, claimed.Claim, "no answer, late"))
	b.must(b.Release(b.ctx, next.Claim, "rate limit"))
	if e := b.entry("A4"); e.Identity != "east" || e.State != ledger.Unknown {
		b.Errorf("doubted late, it is %s under %q", e.State, e.Identity)
	}
}

func testEachUnfinished(b *bench) {
	b.age()
	list := func() map[string]ledger.State {
		found := map[string]ledger.State{}
		b.must(b.EachUnfinished(b.ctx, sellerName, kind, func(e ledger.Entry) error {
			if found[e.Key.No] != "" {
				b.Errorf("%s is listed twice", e.Key.No)
			}
			found[e.Key.No] = e.State
			return nil
		}))
		return found
	}
	if found := list(); len(found) != 0 {
		b.Errorf("listed before anything was sent: %v", found)
	}
	want := map[string]ledger.State{}
	for i := range 250 {
		request := b.order(fmt.Sprintf("A%d", i))
		b.claims(request)
		b.accepts(request, fmt.Sprintf("N%d", i))
		want[request.Key.No] = ledger.Accepted
	}
	for _, no := range []string{"U1", "U2"} {
		b.must(b.MarkUnknown(b.ctx, b.claims(b.order(no)).Claim, "no answer"))
		want[no] = ledger.Unknown
	}
	b.must(b.Refuse(b.ctx, b.claims(b.order("R1")).Claim, refusal()))
	b.cancels("A7")
	delete(want, "A7")
	elsewhere := b.order("E1")
	elsewhere.Key.Seller = "other"
	b.must(b.MarkUnknown(b.ctx, b.claims(elsewhere).Claim, "no answer"))
	if found := list(); !reflect.DeepEqual(found, want) {
		b.Errorf("listed %d: %v", len(found), found)
	}

	enough, calls := errors.New("enough"), 0
	if err := b.EachUnfinished(b.ctx, sellerName, kind, func(ledger.Entry) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
		b.Errorf("stopped after %d: %v", calls, err)
	}
}

func testErase(b *bench) {
	b.age()
	const words = "收件人张三 13800000000"
	key := func(no string) ledger.Key { return ledger.Key{Seller: sellerName, Kind: kind, No: no} }
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("nothing there: %v", err)
	}
	// Released, unknown, looked up, accepted: a history with other people's text.
	request := b.order("A1", "1")
	b.must(b.Release(b.ctx, b.claims(request).Claim, words))
	claim := b.claims(b.again(request)).Claim
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("claimed: %v", err)
	}
	b.must(b.MarkUnknown(b.ctx, claim, words))
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("unknown: %v", err)
	}
	b.accepts(b.again(request), "N1")
	b.must(b.Erase(b.ctx, key("A1")))
	e := b.entry("A1")
	if text := fmt.Sprintf("%+v", e); strings.Contains(text, "张三") || e.State != ledger.Accepted || e.Number != "N1" || e.Hash != request.Hash || e.Following == nil {
		b.Errorf("erased: %s", text)
	}
	var what []string
	for _, a := range e.Attempts {
		what = append(what, strings.TrimSpace(a.What+" "+a.Detail))
	}
	if want := []string{"begun", "released", "begun", "unknown", "accepted N1"}; !slices.Equal(what, want) {
		b.Errorf("the history is %q, want %q", what, want)
	}
	b.must(b.Erase(b.ctx, key("A1")))
	if again := b.entry("A1"); again.Version != e.Version {
		b.Error("erasing nothing wrote")
	}
	if claimed, err := b.Claim(b.ctx, b.again(request)); err != nil || claimed.Claim.Owner != "" || claimed.Entry.Number != "N1" {
		b.Errorf("it could be sent again: %+v, %v", claimed, err)
	}

	refused := b.order("A2", "2")
	why := refusal()
	why.RemoteText = words
	b.must(b.Refuse(b.ctx, b.claims(refused).Claim, why))
	b.must(b.Erase(b.ctx, key("A2")))
	why.RemoteText = ""
	if e := b.entry("A2"); e.Reason != why || e.State != ledger.Refused {
		b.Errorf("our own words and the code stay: %+v", e)
	}
	borrowed := b.order("A3", "3")
	b.must(b.Refuse(b.ctx, b.claims(borrowed).Claim, fault.Reason{Code: "internal", ZH: words, EN: words}))
	b.must(b.Erase(b.ctx, key("A3")))
	if e := b.entry("A3"); e.Reason != (fault.Reason{Code: "internal"}) {
		b.Errorf("words of an error stay: %+v", e)
	}
}
