package ledgertest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"stockbridge/pkg/ledger"
)

func testAttempts(b *bench) {
	count := func(key string, want int) {
		b.Helper()
		if n, err := b.Count(b.ctx, key); err != nil || n != want {
			b.Errorf("%s: %d, %v, want %d", key, n, err, want)
		}
	}
	count("order-pusher/ORDERS/7", 1)
	count("order-pusher/ORDERS/7", 2)
	count("order-pusher/ORDERS/8", 1)
	b.must(b.Uncount(b.ctx, "order-pusher/ORDERS/7"))
	count("order-pusher/ORDERS/7", 2)
	b.must(b.Forget(b.ctx, "order-pusher/ORDERS/7"))
	b.must(b.Forget(b.ctx, "order-pusher/ORDERS/7"))
	b.must(b.Uncount(b.ctx, "order-pusher/ORDERS/7"))
	count("order-pusher/ORDERS/7", 1)

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := b.Count(b.ctx, "at once"); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	count("at once", 9)
}

func testLeases(b *bench) {
	lease := func(name, owner string, want bool) {
		b.Helper()
		if got, err := b.Lease(b.ctx, name, owner, 10*time.Second); err != nil || got != want {
			b.Errorf("%s for %s: %v, %v", name, owner, got, err)
		}
	}
	lease("poll/acme", "w1", true)
	lease("poll/acme", "w2", false)
	lease("poll/other", "w2", true)
	b.clock.Add(6 * time.Second)
	lease("poll/acme", "w1", true)
	b.clock.Add(6 * time.Second)
	lease("poll/acme", "w2", false) // it was extended
	b.clock.Add(4 * time.Second)
	lease("poll/acme", "w2", true)
	lease("poll/acme", "w1", false)
	b.must(b.Unlease(b.ctx, "poll/acme", "w1"))
	lease("poll/acme", "w1", false)
	b.must(b.Unlease(b.ctx, "poll/acme", "w2"))
	b.must(b.Unlease(b.ctx, "poll/acme", "w2"))
	lease("poll/acme", "w1", true)

	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for i := range 8 {
		owner := fmt.Sprint(i)
		wg.Go(func() {
			ok, err := b.Lease(b.ctx, "at once", owner, time.Second)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				b.Error(err)
			}
			if ok {
				got = append(got, owner)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 {
		b.Errorf("leased to %v at once", got)
	}
}

func testTrials(b *bench) {
	admit := func(seller, no string, first int, want bool) {
		b.Helper()
		if got, err := b.Admit(b.ctx, seller, no, first); err != nil || got != want {
			b.Errorf("%s/%s among the first %d: %v, %v", seller, no, first, got, err)
		}
	}
	admit(sellerName, "A1", 0, false)
	admit(sellerName, "A2", 2, true)
	admit(sellerName, "A1", 2, true)
	admit(sellerName, "A3", 2, false)
	admit(sellerName, "A2", 2, true)
	admit(sellerName, "A1", 0, true)
	admit("other", "A3", 1, true)
	admit(sellerName, "A3", 3, true)
	if list, err := b.Admitted(b.ctx, sellerName); err != nil || !slices.Equal(list, []string{"A2", "A1", "A3"}) {
		b.Errorf("admitted %v, %v", list, err)
	}
	if list, err := b.Admitted(b.ctx, "nobody"); err != nil || len(list) != 0 {
		b.Errorf("admitted %v, %v", list, err)
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := b.Admit(b.ctx, "rush", fmt.Sprint(i), 3); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := b.Admitted(b.ctx, "rush"); err != nil || len(list) != 3 {
		b.Errorf("admitted %v, %v", list, err)
	}
}

// testMany runs the whole protocol from many goroutines over two handles; the race detector looks on.
func testMany(b *bench) {
	b.age()
	handles := []ledger.Ledger{b.Ledger, b.store.Open(b.clock.Now)}
	const workers, each = 8, 10
	var begins [workers][each]ledger.ClaimRequest
	for w := range workers {
		for i := range each {
			begins[w][i] = b.order(fmt.Sprintf("%d-%d", w, i), fmt.Sprintf("line %d-%d", w, i))
		}
	}
	var wg sync.WaitGroup
	for w := range workers {
		l := handles[w%2]
		wg.Go(func() {
			for i := range each {
				request := begins[w][i]
				claimed, err := l.Claim(b.ctx, request)
				if err != nil || !claimed.NeverSent {
					b.Errorf("%s: never sent %v, %v", request.Key, claimed.NeverSent, err)
					return
				}
				switch i % 3 {
				case 0:
					err = l.Accept(b.ctx, request, "N"+request.Key.No, nil, b.now())
				case 1:
					err = l.Refuse(b.ctx, claimed.Claim, refusal())
				default:
					err = l.MarkUnknown(b.ctx, claimed.Claim, "x")
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.eventually("all accepted ones are followed", func() bool {
		n, err := b.CountFollowed(b.ctx, kind, sellerName)
		return err == nil && n[0].N == workers*4
	})
}
