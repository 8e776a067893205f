package ledgertest

import (
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"stockbridge/pkg/ledger"
)

// hold is how long the tests take documents for.
const hold = 40 * time.Second

// follows accepts a document at a warehouse and makes it due.
func (b *bench) follows(warehouse, no string, due time.Time) {
	b.Helper()
	request := b.order(no, "line of "+no)
	request.Warehouse = warehouse
	b.accepts(request, "N-"+no)
	b.must(b.Follow(b.ctx, b.entry(no), ledger.Accepted, ledger.Following{Due: due, Phase: "open", State: []byte(`{"Code":"1"}`)}))
}

// takes takes what is due now on a ledger, and returns the numbers.
func (b *bench) takes(l ledger.Ledger) []string {
	b.Helper()
	return b.taken(l, ledger.Take{Due: b.now(), Limit: 10})
}

func (b *bench) taken(l ledger.Ledger, t ledger.Take) (nos []string) {
	b.Helper()
	t.Seller, t.Kind, t.Until = sellerName, kind, b.now().Add(hold)
	entries, err := l.TakeDue(b.ctx, t)
	b.must(err)
	for _, e := range entries {
		nos = append(nos, e.Key.No)
	}
	return nos
}

func (b *bench) same(what string, got, want any) {
	b.Helper()
	if !reflect.DeepEqual(got, want) {
		b.Errorf("%s: %v, want %v", what, got, want)
	}
}

func testTakeDue(b *bench) {
	b.age()
	for i, no := range []string{"C", "A", "B"} {
		b.follows("W", no, b.now().Add(time.Duration(i)*time.Second))
	}
	b.follows("W", "later", b.now().Add(time.Hour))
	b.follows("W", "over", time.Time{})
	b.clock.Add(5 * time.Second)
	before := b.entry("C")

	entries, err := b.TakeDue(b.ctx, ledger.Take{Seller: sellerName, Kind: kind, Due: b.now(), Until: b.now().Add(hold), Limit: 1})
	b.must(err)
	if len(entries) != 1 || !reflect.DeepEqual(entries[0], before.Followed()) {
		b.Fatalf("took %+v, want %+v", entries, before.Followed())
	}
	if after := b.entry("C"); !reflect.DeepEqual(after, before) {
		b.Errorf("taking wrote %+v", after)
	}
	b.same("the rest", b.takes(b.Ledger), []string{"A", "B"})
	b.same("again", b.takes(b.Ledger), []string(nil))
	other := b.store.Open(b.clock.Now)
	b.same("by another process", b.takes(other), []string(nil))
	if due, err := b.Due(b.ctx, sellerName, kind, b.now(), 10); err != nil || len(due) != 0 {
		b.Errorf("due while taken: %v, %v", due, err)
	}
	if n, err := b.CountFollowed(b.ctx, kind, sellerName); err != nil || n[0].N != 4 {
		b.Errorf("%+v are followed, %v", n, err)
	}
	// The one that took them is gone. A write that is not about following leaves them taken.
	_, err = b.WantCancel(b.ctx, key("A"), ledger.Cancel{RequestID: "R"})
	b.must(err)
	b.same("before its time", b.takes(b.Ledger), []string(nil))
	b.clock.Add(hold + time.Minute)
	var again []string
	b.eventually("another process takes them", func() bool {
		again = append(again, b.takes(other)...)
		slices.Sort(again)
		return slices.Equal(again, []string{"A", "B", "C"})
	})
}

func testPostpone(b *bench) {
	b.age()
	for _, no := range []string{"A", "B", "C", "D"} {
		b.follows("W", no, b.now())
	}
	until := b.now().Add(hold)
	b.same("taken", b.takes(b.Ledger), []string{"A", "B", "C", "D"})
	before := b.entry("A")
	b.must(b.Follow(b.ctx, b.entry("B"), ledger.Accepted, ledger.Following{Due: b.now().Add(5 * time.Second)}))
	b.must(b.Follow(b.ctx, b.entry("C"), ledger.Accepted, ledger.Following{}))
	minute := b.now().Add(time.Minute)
	all := []ledger.Later{{No: "A", Due: minute}, {No: "B", Due: minute}, {No: "C", Due: minute}, {No: "nobody", Due: minute}}
	b.must(b.Postpone(b.ctx, sellerName, kind, until, all))
	b.must(b.Postpone(b.ctx, sellerName, kind, until, []ledger.Later{{No: "A", Due: b.now()}})) // it is no longer taken
	b.must(b.Postpone(b.ctx, sellerName, kind, until.Add(time.Second), []ledger.Later{{No: "D", Due: b.now()}}))
	if after := b.entry("A"); !reflect.DeepEqual(after, before) {
		b.Errorf("postponing wrote %+v", after)
	}
	b.same("at once", b.takes(b.Ledger), []string(nil))
	b.clock.Add(5 * time.Second)
	b.same("what was followed", b.takes(b.Ledger), []string{"B"})
	b.clock.Add(hold - 5*time.Second)
	b.same("what was neither", b.takes(b.Ledger), []string{"D"})
	_, err := b.WantCancel(b.ctx, key("A"), ledger.Cancel{RequestID: "R"})
	b.must(err)
	b.same("after a write that is not about following", b.takes(b.Ledger), []string(nil))
	b.clock.Add(20 * time.Second)
	due, err := b.Due(b.ctx, sellerName, kind, b.now(), 10)
	if err != nil || len(due) != 2 || due[1].Key.No != "A" || !due[1].Following.Due.Equal(minute) {
		b.Errorf("due then: %+v, %v", due, err)
	}
	b.same("what was postponed", b.takes(b.Ledger), []string{"B", "A"})
	// Due again as before.
	b.must(b.Postpone(b.ctx, sellerName, kind, b.now().Add(hold), []ledger.Later{{No: "A", Due: minute}}))
	b.same("due as before", b.takes(b.Ledger), []string{"A"})
	// The seller is named again for it, although nothing of it was due a moment ago.
	b.clock.Add(lookEvery)
	if names, _ := b.dueSellers(10); len(names) != 0 {
		b.Errorf("named while all is taken: %v", names)
	}
	b.must(b.Postpone(b.ctx, sellerName, kind, b.now().Add(hold-lookEvery), []ledger.Later{{No: "A", Due: b.now()}}))
	if names, _ := b.dueSellers(10); !slices.Equal(names, []string{sellerName}) {
		b.Errorf("named: %v", names)
	}
}

func testTakeNext(b *bench) {
	b.age()
	for i := range 6 {
		warehouse := []string{"W1", "W2"}[i%2]
		b.follows(warehouse, fmt.Sprint("A", i), b.now().Add(time.Duration(i)*time.Minute))
	}
	next := func(room map[string]int, before time.Time, limit int) []string {
		b.Helper()
		return b.taken(b.Ledger, ledger.Take{Due: b.now(), Room: room, Before: before, Limit: limit})
	}
	b.same("due", b.takes(b.Ledger), []string{"A0"})
	b.same("of no warehouse", next(map[string]int{}, time.Time{}, 10), []string(nil))
	b.same("too soon", next(map[string]int{"W2": 5}, b.now().Add(time.Minute), 10), []string(nil))
	b.same("of one warehouse", next(map[string]int{"W2": 2, "W3": 1}, time.Time{}, 10), []string{"A1", "A3"})
	b.same("among few", next(map[string]int{"W2": 2}, time.Time{}, 3), []string(nil))
	b.same("what is left", next(map[string]int{"W1": 9, "W2": 9}, time.Time{}, 10), []string{"A2", "A4", "A5"})
}

func testTakeRace(b *bench) {
	b.age()
	const n = 60
	for i := range n {
		b.follows("W", fmt.Sprintf("A%02d", i), b.now())
	}
	var mu sync.Mutex
	var all []string
	var group sync.WaitGroup
	for _, l := range []ledger.Ledger{b.Ledger, b.store.Open(b.clock.Now), b.store.Open(b.clock.Now)} {
		for range 3 {
			group.Go(func() {
				for {
					entries, err := l.TakeDue(b.ctx, ledger.Take{Seller: sellerName, Kind: kind, Due: b.now(), Until: b.now().Add(hold), Limit: 7})
					if err != nil {
						b.Error(err)
					}
					if len(entries) == 0 {
						return
					}
					mu.Lock()
					for _, e := range entries {
						all = append(all, e.Key.No)
					}
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	slices.Sort(all)
	if len(all) != n || len(slices.Compact(all)) != n {
		b.Errorf("taken: %v", all)
	}
}
