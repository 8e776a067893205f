package ledgertest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
)

func testBegin(b *bench) {
	b.bear()
	begin := b.order("A1", "1", "2")
	begun := b.begins(begin)
	if !begun.NeverSent {
		b.Error("not told as certainly new")
	}
	if e := begun.Entry; e.State != ledger.New || e.Key != begin.Key || e.Tries != 0 || len(e.Attempts) != 0 {
		b.Errorf("told before anything was known: %+v", e)
	}
	if left := begun.Claim.Until.Sub(b.now()); left <= 0 || left > ledger.ClaimFor {
		b.Errorf("the claim stands for %s", left)
	}
	if !begun.EpochSince.Before(b.now()) {
		b.Errorf("born at %s, now is %s", begun.EpochSince, b.now())
	}

	e := b.entry("A1")
	want := ledger.Entry{
		Key: begin.Key, State: ledger.Intent, Hash: begin.Hash, OrderNo: "SO-1", Lines: []string{"1", "2"},
		Revision: 3, Shop: "S01", Warehouse: "WH-北京", Tries: 1,
		Attempts:       []ledger.Attempt{{At: b.now(), Owner: begin.Owner, Stream: "ORDERS", Seq: 1<<63 + 11, What: "begun"}},
		FirstClaimedAt: b.now(), ChangedAt: b.now(), Version: 1,
	}
	if !reflect.DeepEqual(e, want) {
		b.Errorf("durable is\n%+v\nwant\n%+v", e, want)
	}

	if _, err := b.Claim(b.ctx, b.again(begin)); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("a second owner while the claim stands: %v", err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("the refused Begin wrote: %+v", after)
	}
}

func testBeginAgain(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	same := func(first ledger.Claimed) {
		b.Helper()
		second, err := b.Claim(b.ctx, begin)
		b.must(err)
		if !reflect.DeepEqual(first, second) {
			b.Fatalf("told first\n%+v\nthen\n%+v", first, second)
		}
		b.is("A1", ledger.Intent)
	}
	begun := b.begins(begin)
	same(begun)
	if e := b.entry("A1"); e.Tries != 1 || len(e.Attempts) != 1 {
		b.Errorf("asking twice was written twice: %+v", e)
	}

	b.must(b.MarkUnknown(b.ctx, begun.Claim, "no answer"))
	begin = b.again(begin)
	begun = b.begins(begin)
	if begun.NeverSent || begun.Entry.State != ledger.Unknown || begun.Entry.Tries != 1 {
		b.Fatalf("told %+v", begun)
	}
	same(begun)

	b.must(b.Refuse(b.ctx, begun.Claim, refusal()))
	begin = b.again(begin)
	begun = b.begins(begin)
	if begun.Entry.Reason != refusal() {
		b.Errorf("the refusal reads %+v", begun.Entry.Reason)
	}
	same(begun)

	// A claim that ran out and that nobody else took is still told the same, and that it is over.
	b.clock.Add(2 * ledger.ClaimFor)
	late, err := b.Claim(b.ctx, begin)
	b.must(err)
	if late.Claim.Until.After(b.now()) {
		b.Errorf("the claim stands until %s, now is %s", late.Claim.Until, b.now())
	}
}

func testRace(b *bench) {
	b.bear()
	other := b.store.Open(b.clock.Now)
	for round := range 10 {
		begin := b.order(fmt.Sprintf("A%d", round), fmt.Sprintf("line %d", round))
		var mu sync.Mutex
		var claimed, busy int
		var wg sync.WaitGroup
		for i := range 8 {
			each := begin
			each.Owner = fmt.Sprintf("%s.%d", begin.Owner, i)
			l := []ledger.Ledger{b.Ledger, other}[i%2]
			wg.Go(func() {
				begun, err := l.Claim(b.ctx, each)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && begun.Claim.Owner == each.Owner && begun.NeverSent:
					claimed++
				case errors.Is(err, ledger.ErrBusy):
					busy++
				default:
					b.Errorf("owner %d: %+v, %v", i, begun, err)
				}
			})
		}
		wg.Wait()
		if claimed != 1 || busy != 7 {
			b.Fatalf("%d claimed, %d were told to come later", claimed, busy)
		}
	}
}

func testExpiry(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	b.begins(begin)
	b.clock.Add(ledger.ClaimFor - time.Second)
	if _, err := b.Claim(b.ctx, b.again(begin)); !errors.Is(err, ledger.ErrBusy) {
		b.Fatalf("before the claim ran out: %v", err)
	}
	b.clock.Add(2 * time.Second)

	// Its lines stay taken: it may have been sent.
	var taken *ledger.LineTaken
	if _, err := b.Claim(b.ctx, b.order("A2", "1")); !errors.As(err, &taken) || taken.By != "A1" {
		b.Fatalf("another number took the line of one that may have been sent: %v", err)
	}

	again := b.again(begin)
	begun := b.begins(again)
	if begun.NeverSent || begun.Entry.State != ledger.Unknown || begun.Entry.Tries != 1 {
		b.Errorf("told %+v", begun)
	}
	if !begun.Entry.UnknownSince.Equal(b.now()) || begun.Entry.Lookups != 0 {
		b.Errorf("doubted since %s, %d looks", begun.Entry.UnknownSince, begun.Entry.Lookups)
	}
	b.must(b.Release(b.ctx, begun.Claim, "rate limit"))
	b.is("A1", ledger.Unknown)
}

func testFresh(b *bench) {
	first := b.begins(b.order("A0"))
	if first.NeverSent {
		b.Error("certainly new in a ledger that was just born")
	}
	if !first.EpochSince.Equal(b.now()) {
		b.Errorf("born at %s, now is %s", first.EpochSince, b.now())
	}
	born := first.EpochSince
	young := born.Add(ledger.EpochMargin)
	b.clock.Add(time.Hour)
	for i, test := range []struct {
		name   string
		change func(*ledger.ClaimRequest)
		fresh  bool
	}{
		{"all is well", func(*ledger.ClaimRequest) {}, true},
		{"not the first delivery", func(x *ledger.ClaimRequest) { x.First = false }, false},
		{"stored before the birth", func(x *ledger.ClaimRequest) { x.StreamTime = born.Add(-time.Second) }, false},
		{"stored just at the margin", func(x *ledger.ClaimRequest) { x.StreamTime = young }, false},
		{"stored after the margin", func(x *ledger.ClaimRequest) { x.StreamTime = young.Add(time.Millisecond) }, true},
		{"audited before the birth", func(x *ledger.ClaimRequest) { x.AuditedAt = born.Add(-24 * time.Hour) }, false},
		{"audited just at the margin", func(x *ledger.ClaimRequest) { x.AuditedAt = young }, false},
		{"audited after the margin", func(x *ledger.ClaimRequest) { x.AuditedAt = young.Add(time.Millisecond) }, true},
		{"no times at all", func(x *ledger.ClaimRequest) { x.StreamTime, x.AuditedAt = time.Time{}, time.Time{} }, false},
	} {
		begin := b.order(fmt.Sprintf("B%d", i))
		test.change(&begin)
		if begun := b.begins(begin); begun.NeverSent != test.fresh {
			b.Errorf("%s: certainly new = %v", test.name, begun.NeverSent)
		}
	}
}

func testFreshBirth(b *bench) {
	b.bear()
	if !b.begins(b.order("A1")).NeverSent {
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
		begun := b.begins(unsent)
		if !begun.NeverSent {
			b.Fatalf("before %s: not new", loss.name)
		}
		b.must(b.Release(b.ctx, begun.Claim, "rate limit"))
		queued := b.order("queued over " + loss.name)
		loss.do()
		b.clock.Add(time.Minute)

		begun = b.begins(queued)
		if begun.NeverSent {
			b.Errorf("%s: an order from before is told as certainly new", loss.name)
		}
		if !begun.EpochSince.Equal(b.now()) {
			b.Errorf("%s: born at %s, now is %s", loss.name, begun.EpochSince, b.now())
		}
		if begun := b.begins(b.again(unsent)); begun.NeverSent {
			b.Errorf("%s: what an older ledger knew to be unsent is told as certainly new", loss.name)
		}
		b.clock.Add(ledger.EpochMargin + time.Second)
		if !b.begins(b.order("new after " + loss.name)).NeverSent {
			b.Errorf("%s: an order from after is not new", loss.name)
		}
	}
}

func testHash(b *bench) {
	b.bear()
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
		begin := b.order(test.name)
		test.bring(begin, b.begins(begin).Claim)
		before := b.entry(test.name)
		other := b.again(begin)
		other.Hash = "another"
		begun, err := b.Claim(b.ctx, other)
		if !errors.Is(err, ledger.ErrHash) || begun.Claim.Owner != "" {
			b.Errorf("%s: another payload: %+v, %v", test.name, begun.Claim, err)
		}
		if after := b.entry(test.name); !reflect.DeepEqual(before, after) || after.State != test.state {
			b.Errorf("%s: the refused Begin left %+v", test.name, after)
		}
	}

	// What was never sent binds nobody.
	begin := b.order("released")
	b.must(b.Release(b.ctx, b.begins(begin).Claim, "held"))
	other := b.again(begin)
	other.Hash = "another"
	b.begins(other)
	if e := b.entry("released"); e.Hash != "another" {
		b.Errorf("begun with %q", e.Hash)
	}
}

func testLines(b *bench) {
	b.bear()
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
		begin := b.order("by-"+h.name, h.name, h.name+" too")
		h.bring(begin, b.begins(begin).Claim)

		next := b.order("next-"+h.name, h.name+" too", "free of "+h.name)
		begun, err := b.Claim(b.ctx, next)
		var taken *ledger.LineTaken
		if !h.taken {
			if err != nil || begun.Claim.Owner != next.Owner {
				b.Errorf("%s: the line does not move: %v", h.name, err)
			}
			// Now it is live under the next number, and the earlier one cannot have it back.
			if _, err := b.Claim(b.ctx, b.again(begin)); h.name != "cancelled" && (!errors.As(err, &taken) || taken.By != next.Key.No) {
				b.Errorf("%s: begun again although its line moved: %v", h.name, err)
			}
			continue
		}
		if !errors.As(err, &taken) {
			b.Errorf("%s: the line was taken from it: %v", h.name, err)
			continue
		}
		if want := (ledger.LineTaken{OrderNo: "SO-1", Line: h.name + " too", By: begin.Key.No}); *taken != want {
			b.Errorf("%s: told %+v, want %+v", h.name, *taken, want)
		}
		if _, err := b.Get(b.ctx, next.Key); !errors.Is(err, ledger.ErrNoEntry) {
			b.Errorf("%s: the refused Begin left an entry: %v", h.name, err)
		}
		// It took nothing of what was free.
		b.begins(b.order("free-"+h.name, "free of "+h.name))

		next.Supersedes, next.Lines = begin.Key.No, begin.Lines
		if _, err := b.Claim(b.ctx, next); !errors.As(err, &taken) || !taken.Superseded {
			b.Errorf("%s: superseded, but told %v", h.name, err)
		}
	}

	// A conflict that waiting does not mend is told before one that it does.
	b.begins(b.order("held-1", "x1"))
	b.begins(b.order("held-2", "x2"))
	both := b.order("both", "x1", "x2")
	for _, both.Supersedes = range []string{"held-1", "held-2"} {
		var taken *ledger.LineTaken
		if _, err := b.Claim(b.ctx, both); !errors.As(err, &taken) || taken.Superseded {
			b.Errorf("one line superseded, one not: %v", err)
		}
	}

	// The same line id of another order, seller or kind is another line.
	elsewhere := b.order("elsewhere", "x1")
	elsewhere.OrderNo = "SO-2"
	b.begins(elsewhere)
	elsewhere = b.order("elsewhere", "x1")
	elsewhere.Key.Seller = "other"
	b.begins(elsewhere)
	elsewhere = b.order("elsewhere", "x1")
	elsewhere.Key.Kind = "purchase"
	b.begins(elsewhere)

	// A refused document that is begun again takes its lines again, and gives them back when released.
	refused := b.order("refused-1", "y")
	b.must(b.Refuse(b.ctx, b.begins(refused).Claim, refusal()))
	begun := b.begins(b.again(refused))
	if _, err := b.Claim(b.ctx, b.order("refused-2", "y")); err == nil {
		b.Error("a line of a document that is sent once more was free")
	}
	b.must(b.Release(b.ctx, begun.Claim, "x"))
	b.begins(b.order("refused-2", "y"))
}

// Two numbers that share lines, begun at the same time over and over: never both.
func testLinesRace(b *bench) {
	b.bear()
	other := b.store.Open(b.clock.Now)
	for round := range 20 {
		lines := []string{fmt.Sprintf("%d.1", round), fmt.Sprintf("%d.2", round)}
		begins := []ledger.ClaimRequest{b.order(fmt.Sprintf("A%d", round), lines...), b.order(fmt.Sprintf("B%d", round), lines[1], lines[0])}
		if round%2 == 1 { // the lines have stood under each of them before
			for _, x := range begins {
				b.must(b.Release(b.ctx, b.begins(x).Claim, "x"))
			}
			begins = []ledger.ClaimRequest{b.again(begins[0]), b.again(begins[1])}
		}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, l := range []ledger.Ledger{b.Ledger, other} {
			wg.Go(func() { _, errs[i] = l.Claim(b.ctx, begins[i]) })
		}
		wg.Wait()
		var taken *ledger.LineTaken
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
	b.bear()
	b.begins(b.order("holder", "1"))
	begin := b.order("A1", "2")
	b.begins(begin)

	wrong := b.again(begin)
	wrong.Hash, wrong.Lines = "another", []string{"1"}
	if _, err := b.Claim(b.ctx, wrong); !errors.Is(err, ledger.ErrHash) {
		b.Errorf("hash, claim and line wrong: %v", err)
	}
	wrong.Hash = begin.Hash
	if _, err := b.Claim(b.ctx, wrong); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("claim and line wrong: %v", err)
	}
	b.accepts(begin, "N1")
	if begun, err := b.Claim(b.ctx, wrong); err != nil || begun.Entry.State != ledger.Accepted {
		b.Errorf("accepted, line wrong: %v", err)
	}
}

func testNumberTaken(b *bench) {
	b.bear()
	first, second := b.order("A1", "1"), b.order("A2", "1")
	second.OrderNo = "SO-2"
	b.begins(first)
	b.accepts(first, "N1")
	refused := func(begin ledger.ClaimRequest, number, by string) {
		b.Helper()
		var taken *ledger.NumberTaken
		if err := b.Accept(b.ctx, begin, number, nil, b.now()); !errors.As(err, &taken) || taken.By != by || taken.Number != number {
			b.Errorf("%s as %s: %v, want it to be %s's", begin.Key.No, number, err, by)
		}
	}
	begun := b.begins(second)
	before := b.entry("A2")
	refused(second, "N1", "A1")
	if after := b.entry("A2"); !reflect.DeepEqual(after, before) {
		b.Errorf("written: %+v", after)
	}
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "the number of another"))
	b.begins(b.again(second))
	refused(b.again(second), "N1", "A1") // not as it was begun: the long way
	b.cancels("A1")
	refused(b.again(second), "N1", "A1")
	b.must(b.Accept(b.ctx, first, "N1", nil, b.now())) // its own

	// Each account's numbers are of their own; where nobody knows the account, they may be one.
	for i, same := range []struct {
		first, second string
		taken         bool
	}{{"east", "west", false}, {"east", "east", true}, {"", "east", true}} {
		one, other := b.order(fmt.Sprint("I", i), "1"), b.order(fmt.Sprint("J", i), "1")
		other.OrderNo = fmt.Sprint("SO-J", i)
		one.OrderNo = fmt.Sprint("SO-I", i)
		one.Identity, other.Identity = same.first, same.second
		b.begins(one)
		b.accepts(one, fmt.Sprint("M", i))
		b.begins(other)
		if same.taken {
			refused(other, fmt.Sprint("M", i), one.Key.No)
		} else {
			b.accepts(other, fmt.Sprint("M", i))
		}
	}

	// An outbound number that looks like it, and another seller's document, are no document's of that number.
	like := b.order("N2", "1")
	like.OrderNo = "N3"
	b.begins(like)
	b.accepts(b.again(second), "N2")
	b.accepts(like, "N3")
	others := b.order("A1", "1")
	others.Key.Seller = "other"
	b.begins(others)
	b.accepts(others, "N1")

	b.store.Restart() // it is remembered
	third := b.order("A3", "1")
	third.OrderNo = "SO-3"
	b.begins(third)
	refused(third, "N2", "A2")
}

func testAccept(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	begun := b.begins(begin)
	cleaned := []ledger.Cleaned{{Field: "buyer_remark", What: "emoji", ZH: "去掉了表情", EN: "emoji removed"}}
	b.must(b.Accept(b.ctx, begin, "ESL001", cleaned, b.now()))
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

	// Known: told without a claim, and without a write.
	again := b.again(begin)
	known, err := b.Claim(b.ctx, again)
	if err != nil || known.Claim != (ledger.Claim{}) || known.NeverSent || !reflect.DeepEqual(known.Entry, e) {
		b.Errorf("begun again: %+v, %v", known, err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("being told again wrote: %+v", after)
	}

	// Said twice.
	b.must(b.Accept(b.ctx, begin, "ESL001", cleaned, b.now()))
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("accepted twice: %+v", after)
	}

	// Two documents under one number: told, and written down.
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
	if err := b.Refuse(b.ctx, begun.Claim, refusal()); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("refused after it was accepted: %v", err)
	}
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "late"))
	b.is("A1", ledger.Accepted)

	// Cancelled, and the same answer arrives once more.
	b.cancels("A1")
	b.accepts(begin, "ESL001")
	b.is("A1", ledger.Cancelled)
	if known, err := b.Claim(b.ctx, b.again(begin)); err != nil || known.Claim.Owner != "" || known.Entry.State != ledger.Cancelled {
		b.Errorf("a cancelled document begins: %+v, %v", known, err)
	}
}

func testAcceptLate(b *bench) {
	b.bear()

	// The claim ran out.
	begin := b.order("A1", "1")
	b.begins(begin)
	b.clock.Add(2 * ledger.ClaimFor)
	b.accepts(begin, "N1")
	b.is("A1", ledger.Accepted)

	// The claim is another's: the fact counts, and the other has lost it.
	begin = b.order("A2", "2")
	b.begins(begin)
	b.clock.Add(2 * ledger.ClaimFor)
	other := b.begins(b.again(begin))
	b.accepts(begin, "N2")
	b.is("A2", ledger.Accepted)
	if _, _, err := b.MarkNotFound(b.ctx, other.Claim); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("absent after another's late answer: %v", err)
	}
	if err := b.Release(b.ctx, other.Claim, "x"); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("released after another's late answer: %v", err)
	}
	b.is("A2", ledger.Accepted)

	// Refused by mistake, then it turns up.
	begin = b.order("A3", "3")
	b.must(b.Refuse(b.ctx, b.begins(begin).Claim, refusal()))
	b.accepts(begin, "N3")
	if e := b.entry("A3"); e.State != ledger.Accepted || e.Reason != (fault.Reason{}) {
		b.Errorf("turned up: %+v", e)
	}
	var taken *ledger.LineTaken
	if _, err := b.Claim(b.ctx, b.order("A3b", "3")); !errors.As(err, &taken) {
		b.Errorf("the line of what turned up is free: %v", err)
	}

	// The ledger was lost.
	begin = b.order("A4", "4")
	b.begins(begin)
	b.store.Wipe()
	b.accepts(begin, "N4")
	e := b.entry("A4")
	if e.State != ledger.Accepted || e.Number != "N4" || e.Hash != begin.Hash || e.OrderNo != "SO-1" || e.Shop != "S01" || e.Warehouse != begin.Warehouse || e.Revision != 3 || e.Following == nil {
		b.Errorf("written from Begin: %+v", e)
	}
	if _, err := b.Claim(b.ctx, b.order("A4b", "4")); !errors.As(err, &taken) || taken.By != "A4" {
		b.Errorf("its line is free: %v", err)
	}
	if found, err := b.Find(b.ctx, sellerName, "N4"); err != nil || len(found) != 1 {
		b.Errorf("found %d, %v", len(found), err)
	}

	// Two documents turn up with one line: both are known, the line stays where it was.
	b.accepts(b.order("A4b", "4"), "N4b")
	b.is("A4b", ledger.Accepted)
	if _, err := b.Claim(b.ctx, b.order("A4c", "4")); !errors.As(err, &taken) || taken.By != "A4" {
		b.Errorf("the line moved: %v", err)
	}
}

func testRefuse(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	begun := b.begins(begin)
	b.must(b.Refuse(b.ctx, begun.Claim, refusal()))
	b.must(b.Refuse(b.ctx, begun.Claim, refusal()))
	e := b.entry("A1")
	if e.State != ledger.Refused || e.Reason != refusal() || len(e.Attempts) != 2 || e.Attempts[1].What != "refused" || e.Attempts[1].Detail != "goods.unknown" {
		b.Errorf("refused as %+v", e)
	}
	// A replay begins it again, and is told that it was refused.
	again := b.begins(b.again(begin))
	if again.NeverSent || again.Entry.State != ledger.Refused || again.Entry.Reason != refusal() {
		b.Errorf("begun again: %+v", again)
	}
	if e := b.entry("A1"); e.Reason != (fault.Reason{}) {
		b.Errorf("in INTENT with the reason %+v", e.Reason)
	}
	if err := b.Refuse(b.ctx, begun.Claim, refusal()); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("refused by the earlier owner: %v", err)
	}
	// A claim that ran out and that nobody took may still be resolved.
	b.clock.Add(2 * ledger.ClaimFor)
	b.must(b.Refuse(b.ctx, again.Claim, refusal()))
	b.is("A1", ledger.Refused)
}

func testDoubt(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	begun := b.begins(begin)
	b.clock.Add(9 * time.Second)
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "read: connection reset"))
	b.clock.Add(time.Second)
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "read: connection reset"))
	e := b.entry("A1")
	if e.State != ledger.Unknown || e.Lookups != 0 || !e.UnknownSince.Equal(b.now().Add(-time.Second)) || len(e.Attempts) != 2 || e.Attempts[1].Detail != "read: connection reset" {
		b.Errorf("doubted as %+v", e)
	}
	if again := b.begins(b.again(begin)); again.NeverSent || again.Entry.State != ledger.Unknown || !again.Entry.UnknownSince.Equal(e.UnknownSince) {
		b.Errorf("begun again: %+v", again)
	}
}

func testDoubtLate(b *bench) {
	b.bear()

	// The claim ran out: written all the same.
	begin := b.order("A1")
	begun := b.begins(begin)
	b.clock.Add(2 * ledger.ClaimFor)
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "x"))
	b.is("A1", ledger.Unknown)

	// Another is looking meanwhile: its looks before now prove nothing of this sending.
	begin = b.order("A2")
	begun = b.begins(begin)
	b.clock.Add(2 * ledger.ClaimFor)
	_, _, err := b.MarkNotFound(b.ctx, b.begins(b.again(begin)).Claim)
	b.must(err)
	b.clock.Add(time.Minute)
	other := b.begins(b.again(begin))
	if other.Entry.Lookups != 1 {
		b.Fatalf("%d looks", other.Entry.Lookups)
	}
	b.clock.Add(time.Second)
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "x"))
	b.is("A2", ledger.Intent)
	looks, since, err := b.MarkNotFound(b.ctx, other.Claim)
	if err != nil || looks != 1 || since != 0 {
		b.Errorf("%d looks over %s, %v", looks, since, err)
	}

	// The ledger was lost: the next Begin asks, whatever the payload.
	begin = b.order("A3", "3")
	begun = b.begins(begin)
	b.store.Wipe()
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "x"))
	b.is("A3", ledger.Unknown)
	again := b.begins(b.again(begin))
	if again.NeverSent || again.Entry.State != ledger.Unknown {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "x"))
	b.is("A3", ledger.Unknown)

	// The ledger was lost, and another has begun it as if there had been nothing.
	begin = b.order("A4", "4")
	begun = b.begins(begin)
	b.store.Wipe()
	other = b.begins(b.again(begin))
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "x"))
	b.must(b.Release(b.ctx, other.Claim, "x"))
	b.is("A4", ledger.Unknown)

	// Resolved meanwhile: nothing to doubt.
	for no, resolve := range map[string]func(ledger.ClaimRequest, ledger.Claim){
		"A5": func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N5") },
		"A6": func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) },
		"A7": func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N7"); b.cancels("A7") },
	} {
		begin := b.order(no)
		begun := b.begins(begin)
		b.clock.Add(2 * ledger.ClaimFor)
		again := b.again(begin)
		resolve(again, b.begins(again).Claim)
		before := b.entry(no)
		b.must(b.MarkUnknown(b.ctx, begun.Claim, "x"))
		if after := b.entry(no); !reflect.DeepEqual(before, after) {
			b.Errorf("%s: a late doubt wrote: %+v", no, after)
		}
	}
}

func testAbsent(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	b.must(b.MarkUnknown(b.ctx, b.begins(begin).Claim, "x"))
	doubted := b.now()
	for want := 1; want <= 3; want++ {
		b.clock.Add(time.Minute)
		begun := b.begins(b.again(begin))
		if begun.Entry.Lookups != want-1 {
			b.Errorf("told of %d looks, want %d", begun.Entry.Lookups, want-1)
		}
		for range 2 { // the second time because the answer was lost
			looks, since, err := b.MarkNotFound(b.ctx, begun.Claim)
			if err != nil || looks != want || since != b.now().Sub(doubted) || begun.UnknownFor() != since {
				b.Fatalf("look %d: %d looks over %s, begun after %s, %v", want, looks, since, begun.UnknownFor(), err)
			}
		}
		b.is("A1", ledger.Unknown)
	}

	// A look before anything was known to be sent makes it unknown, from then on.
	begun := b.begins(b.order("A2"))
	looks, since, err := b.MarkNotFound(b.ctx, begun.Claim)
	if err != nil || looks != 1 || since != 0 {
		b.Errorf("%d looks over %s, %v", looks, since, err)
	}
	b.is("A2", ledger.Unknown)
}

// A refusal in business words is kept while it is looked for, over crashes of whoever looks, until it is found or refused.
func testDeny(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	begun := b.begins(begin)
	b.clock.Add(3 * time.Second)
	for range 2 { // the second time because the answer was lost
		b.must(b.MarkRejected(b.ctx, begun.Claim, refusal()))
	}
	e := b.entry("A1")
	if e.State != ledger.Unknown || e.Rejection != refusal() || e.Reason != (fault.Reason{}) || e.Lookups != 0 || !e.UnknownSince.Equal(b.now()) ||
		len(e.Attempts) != 2 || e.Attempts[1].What != "denied" || e.Attempts[1].Detail != refusal().Code {
		b.Errorf("denied as %+v", e)
	}
	if n, _, err := b.CountUnknown(b.ctx, sellerName, kind); err != nil || n != 1 {
		b.Errorf("%d in doubt, %v", n, err)
	}
	var taken *ledger.LineTaken
	if _, err := b.Claim(b.ctx, b.order("A2", "1")); !errors.As(err, &taken) || taken.By != "A1" {
		b.Errorf("its line is free: %v", err)
	}
	denied := func(what string, want fault.Reason, looks int) {
		b.Helper()
		if e := b.entry("A1"); e.Rejection != want || e.Lookups != looks {
			b.Fatalf("after %s: denied %+v, %d looks", what, e.Rejection, e.Lookups)
		}
	}
	b.begins(b.again(begin)) // and its worker dies
	denied("a crash", refusal(), 0)
	b.clock.Add(2 * ledger.ClaimFor)
	again := b.begins(b.again(begin))
	if again.NeverSent || again.Entry.Rejection != refusal() {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "could not ask"))
	denied("a release", refusal(), 0)
	_, _, err := b.MarkNotFound(b.ctx, b.begins(b.again(begin)).Claim)
	b.must(err)
	denied("a look", refusal(), 1)
	last := b.begins(b.again(begin))
	b.must(b.Refuse(b.ctx, last.Claim, last.Entry.Rejection))
	denied("the refusal", fault.Reason{}, 0)
	if e := b.entry("A1"); e.State != ledger.Refused || e.Reason != refusal() {
		b.Errorf("refused as %+v", e)
	}
	b.begins(b.order("A2", "1")) // its line is free

	// What ends it otherwise.
	for what, end := range map[string]func(ledger.ClaimRequest){
		"found":     func(of ledger.ClaimRequest) { b.accepts(of, "N1") },
		"resent":    func(of ledger.ClaimRequest) { b.must(b.Resend(b.ctx, b.begins(of).Claim)) },
		"lost then": func(of ledger.ClaimRequest) { b.must(b.MarkUnknown(b.ctx, b.begins(of).Claim, "no answer")) },
	} {
		of := b.order(what)
		b.must(b.MarkRejected(b.ctx, b.begins(of).Claim, refusal()))
		end(b.again(of))
		if e := b.entry(what); e.Rejection != (fault.Reason{}) {
			b.Errorf("%s: denied %+v", what, e.Rejection)
		}
	}
	// One who may be sending has the last word.
	of := b.order("B1")
	late := b.begins(of)
	b.clock.Add(2 * ledger.ClaimFor)
	other := b.begins(b.again(of))
	b.must(b.MarkRejected(b.ctx, late.Claim, refusal()))
	b.must(b.Release(b.ctx, other.Claim, "x"))
	if e := b.entry("B1"); e.State != ledger.Unknown || e.Rejection != (fault.Reason{}) || e.Lookups != 0 {
		b.Errorf("denied beside another: %+v", e)
	}
	// A ledger that was lost meanwhile learns it too.
	of = b.order("C1")
	claim := b.begins(of).Claim
	b.store.Wipe()
	b.must(b.MarkRejected(b.ctx, claim, refusal()))
	if e := b.entry("C1"); !e.Reconstructed() || e.State != ledger.Unknown || e.Rejection != refusal() {
		b.Errorf("denied after a loss: %+v", e)
	}
}

func testRefusals(b *bench) {
	b.bear()
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
		b.must(b.Refuse(b.ctx, b.begins(of[no]).Claim, refusal()))
		b.clock.Add(time.Second)
	}
	theirs := b.order("A9")
	theirs.Hash = ledger.Shadowed
	b.must(b.Refuse(b.ctx, b.begins(theirs).Claim, refusal()))
	is("three, and one that was somebody else's", began, 10, "A1", "A2", "A3")
	is("three, a part", began, 2, "A1", "A2")
	is("three, from later", began.Add(time.Second), 10, "A2", "A3")
	if list, err := b.Refusals(b.ctx, "other", kind, began, 10); err != nil || len(list) != 0 {
		b.Errorf("of another seller: %v, %v", list, err)
	}
	replayed := b.begins(b.again(of["A2"]))
	is("one in hand again", began, 10, "A1", "A3")
	b.must(b.Release(b.ctx, replayed.Claim, "x"))
	is("and given back", began, 10, "A1", "A3", "A2")
	b.accepts(b.again(of["A3"]), "N3")
	is("one is found", began, 10, "A1", "A2")
	b.clock.Add(ledger.RefusalsKept + time.Second)
	b.must(b.Refuse(b.ctx, b.begins(b.order("B1")).Claim, refusal()))
	is("their time", time.Time{}, 10, "B1")
}

func testTrace(b *bench) {
	b.bear()
	one, two := "00-11111111111111111111111111111111-1111111111111111-01", "00-11111111111111111111111111111111-2222222222222222-01"
	is := func(want string) {
		b.Helper()
		if e := b.entry("A1"); e.Trace != want {
			b.Fatalf("the trace is %q, want %q", e.Trace, want)
		}
	}
	begin := b.order("A1")
	begin.Trace = one
	b.must(b.MarkUnknown(b.ctx, b.begins(begin).Claim, "x"))
	is(one)
	again := b.again(begin)
	again.Trace = ""
	b.must(b.Release(b.ctx, b.begins(again).Claim, "nothing traces here"))
	is(one)
	again = b.again(begin)
	again.Trace = two
	if begun := b.begins(again); begun.Entry.Trace != one {
		b.Errorf("told with trace %q", begun.Entry.Trace)
	}
	b.accepts(again, "N1")
	is(two)
	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Due: b.now()}))
	due, err := b.Due(b.ctx, sellerName, kind, b.now(), 1)
	if err != nil || len(due) != 1 || due[0].Trace != two {
		b.Errorf("due is %+v, %v", due, err)
	}
	// The ledger was lost between begin and accept.
	begin = b.order("A2")
	begin.Trace = one
	b.begins(begin)
	b.store.Wipe()
	b.accepts(begin, "N2")
	if e := b.entry("A2"); e.Trace != one {
		b.Errorf("accepted late, the trace is %q", e.Trace)
	}
}

func testDoubted(b *bench) {
	b.bear()
	is := func(after string, n int, oldest time.Time) {
		b.Helper()
		got, at, err := b.CountUnknown(b.ctx, sellerName, kind)
		if err != nil || got != n || !at.Equal(oldest) {
			b.Fatalf("after %s: %d in doubt, the oldest since %v, %v; want %d since %v", after, got, at, err, n, oldest)
		}
	}
	is("nothing", 0, time.Time{})
	of := map[string]ledger.ClaimRequest{}
	for _, no := range []string{"A1", "A2", "A3", "A4", "A5"} {
		of[no] = b.order(no)
	}
	first := b.now()
	b.must(b.MarkUnknown(b.ctx, b.begins(of["A1"]).Claim, "x"))
	is("a doubt", 1, first)
	b.clock.Add(time.Second)
	second := b.now()
	b.must(b.MarkUnknown(b.ctx, b.begins(of["A2"]).Claim, "x"))
	_, _, err := b.MarkNotFound(b.ctx, b.begins(of["A3"]).Claim)
	b.must(err)
	is("another, and a look that found nothing", 3, first)
	b.begins(of["A4"])
	b.clock.Add(2 * ledger.ClaimFor)
	b.begins(b.again(of["A4"]))
	is("a claim that nobody resolved", 4, first)
	looked := b.again(of["A1"])
	b.must(b.Release(b.ctx, b.begins(looked).Claim, "x"))
	is("a look that could not ask", 4, first)
	b.accepts(b.again(of["A1"]), "N1")
	is("the first is found", 3, second)
	b.must(b.Refuse(b.ctx, b.begins(b.again(of["A2"])).Claim, refusal()))
	b.accepts(b.again(of["A4"]), "N4")
	is("others are resolved", 1, second)
	b.must(b.Resend(b.ctx, b.begins(b.again(of["A3"])).Claim))
	is("one is sent again", 0, time.Time{})
	theirs := b.order("A9")
	theirs.Hash = ledger.Shadowed
	b.must(b.MarkUnknown(b.ctx, b.begins(theirs).Claim, "somebody else hands it over"))
	is("one that is somebody else's", 0, time.Time{})
	if n, _, err := b.CountUnknown(b.ctx, "other", kind); err != nil || n != 0 {
		b.Fatalf("of another seller: %d, %v", n, err)
	}
}

func testRelease(b *bench) {
	b.bear()
	// New: as if nothing had been, except the history; and still certainly new.
	begin := b.order("A1", "1")
	begun := b.begins(begin)
	b.must(b.Release(b.ctx, begun.Claim, "rate limit"))
	b.must(b.Release(b.ctx, begun.Claim, "rate limit"))
	e := b.entry("A1")
	if e.State != ledger.New || e.Hash != "" || e.Tries != 1 || len(e.Attempts) != 2 || e.Attempts[1].What != "released" || e.Attempts[1].Detail != "rate limit" {
		b.Errorf("released as %+v", e)
	}
	again := b.begins(b.again(begin))
	if !again.NeverSent || again.Entry.State != ledger.New || again.Entry.Tries != 1 {
		b.Errorf("begun again: %+v", again)
	}
	b.must(b.Release(b.ctx, again.Claim, "rate limit"))

	// New, but not certainly: never becomes so by being released.
	begin = b.order("A2")
	begin.First = false
	b.must(b.Release(b.ctx, b.begins(begin).Claim, "x"))
	begin.First = true
	if b.begins(begin).NeverSent {
		b.Error("certainly new after it was not")
	}

	// Unknown stays unknown, with its looks.
	begin = b.order("A3", "3")
	b.must(b.MarkUnknown(b.ctx, b.begins(begin).Claim, "x"))
	_, _, err := b.MarkNotFound(b.ctx, b.begins(b.again(begin)).Claim)
	b.must(err)
	before := b.entry("A3")
	b.clock.Add(time.Minute)
	b.must(b.Release(b.ctx, b.begins(b.again(begin)).Claim, "x"))
	if e := b.entry("A3"); e.State != ledger.Unknown || e.Lookups != 1 || !e.UnknownSince.Equal(before.UnknownSince) || e.Hash != before.Hash {
		b.Errorf("released as %+v", e)
	}
	if _, err := b.Claim(b.ctx, b.order("A3b", "3")); err == nil {
		b.Error("the line of an unknown document was freed")
	}

	// Refused stays refused, with its reason.
	begin = b.order("A4")
	b.must(b.Refuse(b.ctx, b.begins(begin).Claim, refusal()))
	b.must(b.Release(b.ctx, b.begins(b.again(begin)).Claim, "x"))
	if e := b.entry("A4"); e.State != ledger.Refused || e.Reason != refusal() || e.Hash != begin.Hash {
		b.Errorf("released as %+v", e)
	}

	// A doubt ends certainty for good.
	begin = b.order("A5")
	b.must(b.Release(b.ctx, b.begins(begin).Claim, "x"))
	b.must(b.MarkUnknown(b.ctx, b.begins(b.again(begin)).Claim, "x"))
	b.must(b.Release(b.ctx, b.begins(b.again(begin)).Claim, "x"))
	if begun := b.begins(b.again(begin)); begun.NeverSent || begun.Entry.State != ledger.Unknown {
		b.Errorf("begun again: %+v", begun)
	}
}

func testResend(b *bench) {
	b.bear()
	begin := b.order("A1")
	b.must(b.MarkUnknown(b.ctx, b.begins(begin).Claim, "x"))
	for range 3 {
		b.clock.Add(2 * time.Minute)
		_, _, err := b.MarkNotFound(b.ctx, b.begins(b.again(begin)).Claim)
		b.must(err)
	}
	begun := b.begins(b.again(begin))
	b.must(b.Resend(b.ctx, begun.Claim))
	b.must(b.Resend(b.ctx, begun.Claim))
	if e := b.entry("A1"); e.State != ledger.Intent || e.Lookups != 0 || !e.UnknownSince.IsZero() {
		b.Errorf("about to be sent again: %+v", e)
	}
	// Killed while sending.
	b.clock.Add(2 * ledger.ClaimFor)
	begun = b.begins(b.again(begin))
	if begun.Entry.State != ledger.Unknown || begun.Entry.Lookups != 0 || !begun.Entry.UnknownSince.Equal(b.now()) {
		b.Errorf("after the second sending: %+v", begun.Entry)
	}
	// Not sent after all.
	b.must(b.Resend(b.ctx, begun.Claim))
	b.must(b.Release(b.ctx, begun.Claim, "dial"))
	b.is("A1", ledger.Unknown)

	// After Until another may begin at any time: too late to send.
	begun = b.begins(b.again(begin))
	b.clock.Add(ledger.ClaimFor)
	if err := b.Resend(b.ctx, begun.Claim); !errors.Is(err, ledger.ErrLost) {
		b.Errorf("sent again on a claim that ran out: %v", err)
	}
}

func testLost(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	old := b.begins(begin).Claim
	b.clock.Add(2 * ledger.ClaimFor)
	b.begins(b.again(begin))
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
	b.bear()
	start := b.now()
	put := func(seller, kind, no string, due time.Time) {
		begin := b.order(no, "line of "+no)
		begin.Key = ledger.Key{Seller: seller, Kind: kind, No: no}
		b.accepts(begin, "N-"+no)
		e, err := b.Get(b.ctx, begin.Key)
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

	open := func(seller, kind string, want int) {
		b.Helper()
		if n, err := b.Open(b.ctx, seller, kind); err != nil || n != want {
			b.Errorf("%s/%s: %d followed, %v, want %d", seller, kind, n, err, want)
		}
	}
	open(sellerName, kind, 5)
	open("other", kind, 1)
	open(sellerName, "purchase", 1)
	open("nobody", kind, 0)

	// What is looked after is due no longer, and what is over is followed no longer.
	e := b.entry("A1")
	b.must(b.Follow(b.ctx, e, ledger.Accepted, ledger.Following{Due: start.Add(2 * time.Hour)}))
	b.must(b.Follow(b.ctx, b.entry("A3"), ledger.Accepted, ledger.Following{}))
	b.must(b.Follow(b.ctx, b.entry("A2"), ledger.Cancelled, ledger.Following{}))
	due(start.Add(time.Hour), 10, "A4", "A0")
	open(sellerName, kind, 3)

	// Another handle on the same store sees the same, soon.
	other := b.store.Open(b.clock.Now)
	b.accepts(b.order("A9", "line of A9"), "N-A9")
	b.eventually("the other sees what is followed", func() bool {
		n, err := other.Open(b.ctx, sellerName, kind)
		return err == nil && n == 4
	})
}

func testFollow(b *bench) {
	b.bear()
	begin := b.order("A1", "1")
	b.begins(begin)
	b.accepts(begin, "N1")
	read := b.entry("A1")
	f := ledger.Following{
		Status: orderv1.Status_STATUS_SHIPPED, Code: "10019", StatusAt: b.now(), Shipped: true, Due: b.now().Add(time.Hour),
		Children: map[string]ledger.Child{"N1-1": {Status: orderv1.Status_STATUS_SHIPPED, Code: "10019", Shipped: true}, "N1-2": {Code: "99999"}},
	}
	b.must(b.Follow(b.ctx, read, ledger.Accepted, f))
	e := b.entry("A1")
	if !reflect.DeepEqual(e.Following, &f) || e.State != ledger.Accepted || e.Number != "N1" || e.Version <= read.Version {
		b.Errorf("followed as %+v, %+v", e, e.Following)
	}

	// Read before that: moved.
	if err := b.Follow(b.ctx, read, ledger.Cancelled, ledger.Following{}); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed on an old reading: %v", err)
	}
	if err := b.Follow(b.ctx, ledger.Entry{Key: key("nobody")}, ledger.Accepted, f); !errors.Is(err, ledger.ErrVersion) {
		b.Errorf("followed what is not there: %v", err)
	}
	if after := b.entry("A1"); !reflect.DeepEqual(after, e) {
		b.Errorf("the refused Follow wrote: %+v", after)
	}

	// Two pollers, one reading: one writes.
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
	b.must(b.Follow(b.ctx, e, ledger.Cancelled, ledger.Following{Status: orderv1.Status_STATUS_CANCELLED}))
	e = b.entry("A1")
	if last := e.Attempts[len(e.Attempts)-1]; e.State != ledger.Cancelled || last.What != "cancelled" || !last.At.Equal(b.now()) {
		b.Errorf("cancelled as %+v", e)
	}
	b.begins(b.order("A2", "1"))
}

func testFind(b *bench) {
	b.bear()
	if _, err := b.Get(b.ctx, key("nobody")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("what is not there: %v", err)
	}
	first := b.order("A1", "1")
	b.accepts(first, "ESL:001")
	second := b.order("A2", "2")
	b.must(b.Refuse(b.ctx, b.begins(second).Claim, refusal()))
	purchase := b.order("A1")
	purchase.Key.Kind, purchase.OrderNo = "purchase", ""
	b.begins(purchase)
	other := b.order("A1", "1")
	other.Key.Seller = "other"
	b.begins(other)
	odd := b.order("单 号:.*>{}\n=", "ä/行,1")
	odd.OrderNo = "订单 *.>{x}"
	b.begins(odd)

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
	found(sellerName, odd.OrderNo, odd.Key.String())
	if _, err := b.Claim(b.ctx, ledger.ClaimRequest{
		Key: key("after odd"), Owner: "x", Hash: "x", OrderNo: odd.OrderNo, Lines: odd.Lines, StreamTime: b.now(), AuditedAt: b.now(),
	}); err == nil {
		b.Error("a line with an odd name was free")
	}

	for i := range 25 {
		many := b.order(fmt.Sprintf("M%02d", i), fmt.Sprintf("m%d", i))
		many.OrderNo = "SO-many"
		b.begins(many)
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
	b.bear()
	first := b.order("A1", "1")
	first.PlatformNos = []string{"275 ä:1", "276"}
	begun := b.begins(first)
	b.findsOnly("275 ä:1", "A1")
	if e := b.entry("A1"); !slices.Equal(e.PlatformNos, first.PlatformNos) {
		b.Errorf("platform numbers %q", e.PlatformNos)
	}
	// Given back, it may be begun with other numbers, and goes by these from then on.
	b.must(b.Release(b.ctx, begun.Claim, "not sent"))
	again := b.again(first)
	again.PlatformNos = []string{"276", "277"}
	b.begins(again)
	b.findsOnly("275 ä:1")
	b.findsOnly("276", "A1")
	b.accepts(again, "ESL1")
	b.findsOnly("277", "A1")
	b.findsOnly("SO-1", "A1")

	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Due: b.now(), Waybills: []string{"JDV1"}}))
	b.must(b.Follow(b.ctx, b.entry("A1"), ledger.Accepted, ledger.Following{Waybills: []string{"JDV1", "JDV2"}}))
	b.findsOnly("JDV1", "A1")
	b.findsOnly("JDV2", "A1")
	if f := b.entry("A1").Following; !slices.Equal(f.Waybills, []string{"JDV1", "JDV2"}) {
		b.Errorf("waybills %q", f.Waybills)
	}

	// What was begun without any is found by the others, and accepted without a begin it has all of them.
	b.accepts(b.order("A2", "2"), "ESL2")
	late := b.order("A3", "3")
	late.PlatformNos = []string{"277"}
	b.accepts(late, "ESL3")
	b.findsOnly("277", "A1", "A3")
	b.findsOnly("ESL2", "A2")
}

func testSharing(b *bench) {
	b.bear()
	order := func(no, order string, platform ...string) ledger.ClaimRequest {
		begin := b.order(no, "1")
		begin.OrderNo, begin.PlatformNos = order, platform
		return begin
	}
	shares := func(begin ledger.ClaimRequest, want ...ledger.Sharing) {
		b.Helper()
		begun := b.begins(begin)
		if !slices.Equal(begun.Sharing, want) {
			b.Errorf("%s shares with %+v, want %+v", begin.Key.No, begun.Sharing, want)
		}
	}
	first := order("A1", "SO-A", "275", "276")
	shares(first)
	shares(first) // the answer was lost
	second := order("B1", "SO-B", "274", "275")
	shares(second, ledger.Sharing{PlatformNo: "275", OrderNo: "SO-A", No: "A1"})
	shares(second, ledger.Sharing{PlatformNo: "275", OrderNo: "SO-A", No: "A1"})
	// Parts of one order share its numbers rightly; so does another seller's, or one whose order number it is by chance.
	part := order("A2", "SO-A", "276")
	part.Lines = []string{"2"}
	shares(part)
	other := order("A1", "SO-C", "275")
	other.Key.Seller = "other"
	if begun, err := b.Claim(b.ctx, other); err != nil || len(begun.Sharing) > 0 {
		b.Errorf("%+v, %v", begun.Sharing, err)
	}
	shares(order("C1", "SO-D", "SO-A"))
	// What lives no more is not named; what was accepted is.
	b.accepts(first, "ESL1")
	b.must(b.Refuse(b.ctx, ledger.Claim{Key: second.Key, Owner: second.Owner}, refusal()))
	shares(order("D1", "SO-E", "275", "999"), ledger.Sharing{PlatformNo: "275", OrderNo: "SO-A", No: "A1"})
}

func testHistory(b *bench) {
	b.bear()
	begin := b.order("A1")
	for i := range 13 {
		begin = b.again(begin)
		begin.Seq = uint64(i)
		b.must(b.Release(b.ctx, b.begins(begin).Claim, fmt.Sprintf("try %d\nof 13", i)))
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
	b.bear()
	for _, test := range []struct {
		name    string
		bring   func(ledger.ClaimRequest, ledger.Claim)
		refused bool
	}{
		{"in doubt", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.MarkUnknown(b.ctx, c, "no answer")) }, true},
		{"looked for", func(_ ledger.ClaimRequest, c ledger.Claim) { _, _, err := b.MarkNotFound(b.ctx, c); b.must(err) }, true},
		{"its worker died", func(ledger.ClaimRequest, ledger.Claim) { b.clock.Add(ledger.ClaimFor + time.Second) }, true},
		{"sent again, its worker died", func(x ledger.ClaimRequest, c ledger.Claim) {
			b.must(b.MarkUnknown(b.ctx, c, "no answer"))
			b.must(b.Resend(b.ctx, b.begins(b.again(x)).Claim))
			b.clock.Add(ledger.ClaimFor + time.Second)
		}, true},
		{"never sent", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Release(b.ctx, c, "rate limit")) }, false},
		{"refused", func(_ ledger.ClaimRequest, c ledger.Claim) { b.must(b.Refuse(b.ctx, c, refusal())) }, false},
		{"accepted", func(x ledger.ClaimRequest, _ ledger.Claim) { b.accepts(x, "N1") }, false},
	} {
		begin := b.order(test.name, test.name)
		begin.Identity = "east"
		begun := b.begins(begin)
		if begun.Claim.Identity != "east" {
			b.Errorf("%s: claimed as %q", test.name, begun.Claim.Identity)
		}
		test.bring(begin, begun.Claim)
		before := b.entry(test.name)
		if test.refused && before.Identity != "east" {
			b.Errorf("%s: kept as sent under %q", test.name, before.Identity)
		}

		other := b.again(begin)
		other.Identity = "west"
		told, err := b.Claim(b.ctx, other)
		if !test.refused {
			if err != nil {
				b.Errorf("%s: begun under another identity: %v", test.name, err)
			}
			continue
		}
		if !errors.Is(err, ledger.ErrIdentity) || told.Claim != (ledger.Claim{}) {
			b.Errorf("%s: begun under another identity: %+v, %v", test.name, told.Claim, err)
		}
		if told.Entry.State != ledger.Unknown || told.Entry.Identity != "east" {
			b.Errorf("%s: told %+v", test.name, told.Entry)
		}
		if after := b.entry(test.name); !reflect.DeepEqual(before, after) {
			b.Errorf("%s: the refused Begin wrote\n%+v\nto\n%+v", test.name, after, before)
		}

		// Neither a caller without a word for it nor the same one is kept away; what stands there stays.
		for _, same := range []string{"", "east"} {
			next := b.again(begin)
			next.Identity = same
			b.must(b.Release(b.ctx, b.begins(next).Claim, "only to look"))
			if e := b.entry(test.name); e.Identity != "east" || e.State != ledger.Unknown {
				b.Errorf("%s: after a run under %q it is %s, sent under %q", test.name, same, e.State, e.Identity)
			}
		}
		// A person saw to it: begun under the other one, and what is given back is as it was before.
		other = b.again(other)
		other.AnyIdentity = true
		b.must(b.Release(b.ctx, b.begins(other).Claim, "rate limit"))
		if e := b.entry(test.name); e.Identity != "east" || e.State != ledger.Unknown {
			b.Errorf("%s: given back as %s, sent under %q", test.name, e.State, e.Identity)
		}
		other = b.again(other)
		b.must(b.MarkUnknown(b.ctx, b.begins(other).Claim, "no answer"))
		if e := b.entry(test.name); e.Identity != "west" {
			b.Errorf("%s: sent anew under west, kept is %q", test.name, e.Identity)
		}
	}
}

func testIdentityKept(b *bench) {
	b.bear()
	// An entry of before identities were kept fits any.
	begin := b.order("A1", "1")
	b.must(b.MarkUnknown(b.ctx, b.begins(begin).Claim, "no answer"))
	begin = b.again(begin)
	begin.Identity = "east"
	b.begins(begin)
	b.accepts(begin, "N1")
	if e := b.entry("A1"); e.Identity != "east" {
		b.Errorf("accepted under %q", e.Identity)
	}

	// What is only told again is not sent: a refusal stays where it was said.
	begin = b.order("A2", "2")
	begin.Identity = "east"
	b.must(b.Refuse(b.ctx, b.begins(begin).Claim, refusal()))
	begin = b.again(begin)
	begin.Identity = "west"
	b.must(b.Release(b.ctx, b.begins(begin).Claim, "told again"))
	if e := b.entry("A2"); e.Identity != "east" || e.State != ledger.Refused {
		b.Errorf("told again, it is %s under %q", e.State, e.Identity)
	}

	// The ledger is lost between the sending and the word that no answer came.
	begin = b.order("A3", "3")
	begin.Identity = "east"
	begun := b.begins(begin)
	b.store.Wipe()
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "no answer"))
	if e := b.entry("A3"); e.Identity != "east" || !e.Reconstructed() {
		b.Errorf("after the loss: %+v", e)
	}
	begin = b.again(begin)
	begin.Identity = "west"
	if _, err := b.Claim(b.ctx, begin); !errors.Is(err, ledger.ErrIdentity) {
		b.Errorf("begun under another identity after the loss: %v", err)
	}

	// A late doubt, while another run has it in hand: what that one gives back was sent.
	begin = b.order("A4", "4")
	begin.Identity = "east"
	begun = b.begins(begin)
	b.clock.Add(ledger.ClaimFor + time.Second)
	next := b.begins(b.again(begin))
	b.must(b.MarkUnknown(b.ctx, begun.Claim, "no answer, late"))
	b.must(b.Release(b.ctx, next.Claim, "rate limit"))
	if e := b.entry("A4"); e.Identity != "east" || e.State != ledger.Unknown {
		b.Errorf("doubted late, it is %s under %q", e.State, e.Identity)
	}
}

func testUnsettled(b *bench) {
	b.bear()
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
		begin := b.order(fmt.Sprintf("A%d", i))
		b.begins(begin)
		b.accepts(begin, fmt.Sprintf("N%d", i))
		want[begin.Key.No] = ledger.Accepted
	}
	for _, no := range []string{"U1", "U2"} {
		b.must(b.MarkUnknown(b.ctx, b.begins(b.order(no)).Claim, "no answer"))
		want[no] = ledger.Unknown
	}
	b.must(b.Refuse(b.ctx, b.begins(b.order("R1")).Claim, refusal()))
	b.cancels("A7")
	delete(want, "A7")
	elsewhere := b.order("E1")
	elsewhere.Key.Seller = "other"
	b.must(b.MarkUnknown(b.ctx, b.begins(elsewhere).Claim, "no answer"))
	if found := list(); !reflect.DeepEqual(found, want) {
		b.Errorf("listed %d: %v", len(found), found)
	}

	enough, told := errors.New("enough"), 0
	if err := b.EachUnfinished(b.ctx, sellerName, kind, func(ledger.Entry) error { told++; return enough }); !errors.Is(err, enough) || told != 1 {
		b.Errorf("stopped after %d: %v", told, err)
	}
}

func testErase(b *bench) {
	b.bear()
	const words = "收件人张三 13800000000"
	key := func(no string) ledger.Key { return ledger.Key{Seller: sellerName, Kind: kind, No: no} }
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrNoEntry) {
		b.Errorf("nothing there: %v", err)
	}
	// Released, doubted, looked for, accepted: a history of others' words.
	begin := b.order("A1", "1")
	b.must(b.Release(b.ctx, b.begins(begin).Claim, words))
	claim := b.begins(b.again(begin)).Claim
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("in hand: %v", err)
	}
	b.must(b.MarkUnknown(b.ctx, claim, words))
	if err := b.Erase(b.ctx, key("A1")); !errors.Is(err, ledger.ErrBusy) {
		b.Errorf("in doubt: %v", err)
	}
	b.accepts(b.again(begin), "N1")
	b.must(b.Erase(b.ctx, key("A1")))
	e := b.entry("A1")
	if text := fmt.Sprintf("%+v", e); strings.Contains(text, "张三") || e.State != ledger.Accepted || e.Number != "N1" || e.Hash != begin.Hash || e.Following == nil {
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
	if begun, err := b.Claim(b.ctx, b.again(begin)); err != nil || begun.Claim.Owner != "" || begun.Entry.Number != "N1" {
		b.Errorf("it could be sent again: %+v, %v", begun, err)
	}

	refused := b.order("A2", "2")
	why := refusal()
	why.RemoteText = words
	b.must(b.Refuse(b.ctx, b.begins(refused).Claim, why))
	b.must(b.Erase(b.ctx, key("A2")))
	why.RemoteText = ""
	if e := b.entry("A2"); e.Reason != why || e.State != ledger.Refused {
		b.Errorf("our own words and the code stay: %+v", e)
	}
	borrowed := b.order("A3", "3")
	b.must(b.Refuse(b.ctx, b.begins(borrowed).Claim, fault.Reason{Code: "internal", ZH: words, EN: words}))
	b.must(b.Erase(b.ctx, key("A3")))
	if e := b.entry("A3"); e.Reason != (fault.Reason{Code: "internal"}) {
		b.Errorf("words of an error stay: %+v", e)
	}
}
