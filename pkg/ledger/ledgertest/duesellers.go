package ledgertest

import (
	"fmt"
	"slices"
	"time"

	"stockbridge/pkg/ledger"
)

// lookEvery is how often these tests ask.
const lookEvery = 5 * time.Second

// dueSellers asks once which sellers have something due.
func (b *bench) dueSellers(limit int) (names []string, more bool) {
	b.Helper()
	names, more, err := b.DueSellers(b.ctx, []string{"purchase", kind}, b.now(), lookEvery, limit)
	b.must(err)
	return names, more
}

// named asks every lookEvery, for as long as a ledger may take to find what became due, whether acme has something due, and
// returns after how long it has.
func (b *bench) named() (after time.Duration, found bool) {
	b.Helper()
	for ; after <= ledger.LookAgain+lookEvery; after += lookEvery {
		if names, _ := b.dueSellers(10); slices.Contains(names, sellerName) {
			return after, true
		}
		b.clock.Add(lookEvery)
	}
	return after, false
}

// acceptOf accepts a document of a seller: it is due at once.
func (b *bench) acceptOf(seller, no string) ledger.Key {
	b.Helper()
	request := b.order(no)
	request.Key.Seller = seller
	b.claims(request)
	b.accepts(request, "WH-"+no)
	return request.Key
}

func (b *bench) followTo(k ledger.Key, due time.Time) {
	b.Helper()
	e, err := b.Get(b.ctx, k)
	b.must(err)
	b.must(b.Follow(b.ctx, e, ledger.Accepted, ledger.Following{Due: due}))
}

func testDueSellers(b *bench) {
	if names, more := b.dueSellers(10); len(names) != 0 || more {
		b.Fatalf("with nothing followed: %v, %v", names, more)
	}
	b.claims(b.order("claimed"))
	if names, _ := b.dueSellers(10); len(names) != 0 {
		b.Fatalf("with something that is only claimed: %v", names)
	}
	one := b.acceptOf("acme", "A-1")
	if names, _ := b.dueSellers(10); !slices.Equal(names, []string{"acme"}) {
		b.Fatalf("with a document that was just accepted: %v", names)
	}
	if names, _ := b.dueSellers(10); len(names) != 0 {
		b.Fatalf("again at the same time: %v", names)
	}
	b.clock.Add(lookEvery)
	if names, _ := b.dueSellers(10); !slices.Equal(names, []string{"acme"}) {
		b.Fatalf("nobody looked the document up, and the seller is no longer named: %v", names)
	}
	// Looked up, and due later: not named before.
	b.followTo(one, b.now().Add(10*time.Minute))
	if _, found := b.named(); found {
		b.Fatal("named although its only document is due later")
	}
	b.clock.Add(10 * time.Minute)
	if _, found := b.named(); !found {
		b.Fatal("not named when its document is due")
	}
	// A further document is due at once, however late the first one is.
	b.followTo(one, b.now().Add(time.Hour))
	if _, found := b.named(); found {
		b.Fatal("named with nothing due")
	}
	two := b.acceptOf("acme", "A-2")
	if after, found := b.named(); !found || after > 0 {
		b.Fatalf("a document that was just accepted is found after %v, %v", after, found)
	}
	// No longer followed.
	for _, k := range []ledger.Key{one, two} {
		b.followTo(k, time.Time{})
	}
	b.clock.Add(2 * time.Hour)
	if _, found := b.named(); found {
		b.Fatal("named with nothing followed")
	}
	b.acceptOf("acme", "A-3")
	if _, found := b.named(); !found {
		b.Fatal("not named when something is followed again")
	}
}

func testDueSellersSooner(b *bench) {
	k := b.acceptOf("acme", "A-1")
	b.dueSellers(10)
	b.followTo(k, b.now().Add(time.Hour))
	b.clock.Add(lookEvery)
	b.dueSellers(10)
	b.followTo(k, b.now().Add(lookEvery))
	b.clock.Add(lookEvery)
	if after, found := b.named(); !found || after > 0 {
		b.Fatalf("a document that is due sooner than it was is found after %v, %v", after, found)
	}
}

func testDueSellersPages(b *bench) {
	var all []string
	for i := range 7 {
		name := fmt.Sprintf("seller-%d", i)
		b.acceptOf(name, name)
		all = append(all, name)
		b.clock.Add(time.Millisecond)
	}
	var got []string
	for more := true; more; {
		var names []string
		if names, more = b.dueSellers(3); len(names) > 3 {
			b.Fatalf("%d sellers, wanted 3 at most", len(names))
		}
		if got = append(got, names...); len(got) > len(all) {
			b.Fatalf("twice: %v", got)
		}
	}
	if !slices.Equal(got, all) {
		b.Fatalf("named %v, want %v: the longest overdue first", got, all)
	}
}

func testRepairDueSellers(b *bench) {
	b.acceptOf("acme", "A-1")
	k := b.acceptOf("bolt", "B-1")
	b.followTo(k, time.Time{})
	b.must(b.RepairDueSellers(b.ctx, []string{kind}, []string{"acme", "bolt", "nobody"}))
	if names, _ := b.dueSellers(10); !slices.Equal(names, []string{"acme"}) {
		b.Fatalf("after a repair that had nothing to do: %v", names)
	}
}

func testInstance(b *bench) {
	instance := func() string {
		b.Helper()
		name, err := b.Instance(b.ctx)
		b.must(err)
		b.clock.Add(time.Second)
		return name
	}
	first := instance()
	b.must(b.BeginEpoch(b.ctx, sellerName))
	b.age()
	if now := instance(); now != first {
		b.Fatalf("it was %s and is %s, and nothing happened", first, now)
	}
	b.store.Restart()
	second := instance()
	if second == first {
		b.Fatalf("after a restart it is still %s", second)
	}
	b.store.Wipe()
	if now := instance(); now == second {
		b.Fatalf("without its data it is still %s", now)
	}
}
