package syncer

import (
	"testing"
	"time"

	documentv1 "stockbridge/proto/document/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// What a pool's shops may offer, to the piece.
func TestWhatIsShared(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 101)
		b.wants(b.share()) // nothing was counted
		parts := b.count()
		if len(parts) != 1 || len(parts[0].Goods) != 1 || parts[0].Goods[0].Saleable != 101 || parts[0].Goods[0].Total != 109 || len(parts[0].Goods[0].Kinds) != 2 {
			t.Fatalf("counted %v", parts)
		}
		// cloud: floor(30.3) = 30: A floor(15), B floor(9.999) - 1; west: floor(20.705) = 20.
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
		b.wants(b.share())

		// Accepted: off the pool at once, and only once.
		accepted := b.now()
		for range 2 {
			if err := b.accepted("X1", "A", accepted, line("G1", 20)); err != nil {
				t.Fatal(err)
			}
		}
		// cloud: 30 - 20 = 10: A 5, B 2 (3.333 - 1); west: floor(20.5 % of 101 - 20) = 16.
		b.wants(b.share(), "A G1 5", "B G1 2", "C G1 16")

		// Sold by a shop in no pool: off every pool by its ratio. By the ERP's code.
		if err := b.accepted("X2", "D", b.now(), &documentv1.AcceptedLine{GoodsCode: "c-G1", Quantity: 30}); err != nil {
			t.Fatal(err)
		}
		// cloud: floor(30 % of 71) = 21 - 20 = 1; west: floor(20.5 % of 51) = 10.
		b.wants(b.share(), "A G1 0", "B G1 0", "C G1 10")

		// A count that began too soon after the acceptance may contain it: it is taken off all the same.
		b.wh.put("G1", 51)
		b.requestCount()
		b.count()
		b.wants(b.share(), "C G1 0") // 20.5 % of (51 - 50)
		// One that began later contains it.
		b.advance(2 * time.Minute)
		b.requestCount()
		b.count()
		b.wants(b.share(), "A G1 7", "B G1 3", "C G1 10")
		if last := b.published[len(b.published)-1]; last.Basis.Pending != 0 || last.Basis.Saleable != 51 || last.GoodsCode != "c-G1" || last.Version == 0 {
			t.Errorf("published %v", last)
		}

		// What is no longer there has no stock.
		b.wh.put("G1", 0)
		b.requestCount()
		if parts := b.count(); len(parts) != 1 || parts[0].Goods[0].GoodsNo != "G1" || parts[0].Goods[0].Saleable != 0 {
			t.Errorf("counted %v", parts)
		}
		b.wants(b.share(), "A G1 0", "B G1 0", "C G1 0")
	})
}

// A killed run may have published what it was about to: the next one publishes it again.
func TestAShareThatMayNotHaveBeenPublishedIsPublishedAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.count()
		b.wants(lines(b.shareBy(b.Syncer)), "A G1 15", "B G1 8", "C G1 20") // and then it dies
		b.advance(shareLease + time.Second)
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
		b.wants(b.share())
	})
}

// Another set-up has all shares evaluated again; shops without one any longer have it withdrawn.
func TestSharesFollowTheSetup(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.wh.put("G2", 10)
		b.count()
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20", "A G2 1", "B G2 0", "C G2 2")
		b.apply(func(s *sellerv1.Setup) { // B moves to the other pool, C leaves
			s.Stock.Pools[0].Shops = s.Stock.Pools[0].Shops[:1]
			s.Stock.Pools[1].Shops = []*sellerv1.PoolShop{{Shop: "B"}}
		})
		b.wants(b.share(), "C G1 0", "C G2 0", "B G1 20", "B G2 2")
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
		b.wants(b.share(), "A G1 0", "A G2 0", "B G1 0", "B G2 0")
		b.wants(b.share())
		b.apply(func(*sellerv1.Setup) {})
		b.wants(b.share()) // orders were not tracked meanwhile: a new count is needed
		b.advance(2 * time.Minute)
		b.count()
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20", "A G2 1", "B G2 0", "C G2 2")
	})
}

// Shops that share no stock for a moment offer nothing that was sold meanwhile, also when the withdrawal did not
// reach all of them.
func TestSharesThatWereGivenUpForAMomentNeedACount(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		goods := []string{"G1", "G2", "G3", "G4"}
		var sold []*documentv1.AcceptedLine
		for _, g := range goods {
			b.wh.put(g, 100)
			sold = append(sold, line(g, 10))
		}
		b.count()
		b.share()
		b.PerSecond = 1
		pools := b.seller.Setup.Stock.Pools
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = nil })
		if published := b.share(); len(published) == 0 || len(published) == 12 {
			t.Fatalf("published %q: want some of it", published)
		}
		if err := b.accepted("X1", "A", b.now(), sold...); err != nil {
			t.Fatal(err)
		}
		b.apply(func(s *sellerv1.Setup) { s.Stock.Pools = pools })
		b.PerSecond = 100
		b.advance(time.Second)
		b.wants(b.share())
	})
}

// A replica whose clock was ahead does not keep the others from publishing what shrank.
func TestAClockThatIsAheadSilencesNoShares(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.count()
		b.advance(time.Hour)
		b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
		b.advance(-time.Hour)
		if err := b.accepted("X1", "A", b.now(), line("G1", 10)); err != nil {
			t.Fatal(err)
		}
		b.wants(b.share(), "A G1 10", "B G1 5", "C G1 18")
	})
}

// The counting worker's clock may be ahead, and the publisher's behind: the bus's clock decides what a count
// contains.
func TestWorkersClocksDecideNothing(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.wh.put("G1", 100)
		b.count()
		b.share()
		right := b.now()
		b.advance(10 * time.Minute)
		b.requestCount()
		b.bus = right.Add(time.Minute)
		b.count()
		b.advance(-9 * time.Minute)
		b.bus = b.now()
		if err := b.accepted("X1", "A", b.now(), line("G1", 10)); err != nil {
			t.Fatal(err)
		}
		b.wants(b.share(), "A G1 10", "B G1 5", "C G1 18")
		b.bus = b.now()
		if err := b.accepted("X2", "A", b.now().Add(-30*time.Minute), line("G1", 10)); err != nil {
			t.Fatal(err)
		}
		b.wants(b.share(), "A G1 5", "B G1 2", "C G1 16")
	})
}

// No more shares of a shop are published in a second than the setting allows, and what shrinks goes first.
func TestSharesArePublishedNoFasterThanTheSettingSays(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.PerSecond = 2
		for _, g := range []string{"G1", "G2", "G3", "G4"} {
			b.wh.put(g, 100)
		}
		b.count()
		for range 2 {
			if published := b.share(); len(published) != 6 {
				t.Errorf("published %q: want two goods of three shops", published)
			}
		}
		b.wants(b.share())
		for _, g := range []string{"G1", "G2", "G3"} {
			b.wh.put(g, 200)
		}
		b.wh.put("G4", 10)
		b.advance(2 * time.Minute)
		b.requestCount()
		b.count()
		published := b.share()
		if len(published) != 6 {
			t.Errorf("published %q", published)
		}
		for _, want := range []string{"A G4 1", "B G4 0", "C G4 2"} {
			if !contains(published, want) {
				t.Errorf("published %q first, not %q", published, want)
			}
		}
		b.share()
		b.share()
		b.wants(b.share())
	})
}

// A ledger that was lost or restored knows less than was accepted: nothing is published until a later count.
func TestAfterALossOfTheLedgerNothingIsPublishedBeforeACount(t *testing.T) {
	b := newFixture(t, redisLedger(t))
	b.wh.put("G1", 100)
	b.count()
	b.wants(b.share(), "A G1 15", "B G1 8", "C G1 20")
	if err := b.accepted("X1", "A", b.now(), line("G1", 10)); err != nil {
		t.Fatal(err)
	}
	b.wants(b.share(), "A G1 10", "B G1 5", "C G1 18")
	copied := b.redis.Copy()
	if err := b.accepted("X2", "A", b.now(), line("G1", 10)); err != nil {
		t.Fatal(err)
	}
	b.wants(b.share(), "A G1 5", "B G1 2", "C G1 16")
	b.advance(time.Second)
	b.redis.Restore(copied) // X2 is forgotten, and so is its publication
	b.wants(b.share())
	if err := b.accepted("X3", "C", b.now().Add(time.Second), line("G1", 1)); err != nil {
		t.Fatal(err)
	}
	b.wants(b.share()) // A has 9 by this book, and 5 was published
	b.wh.put("G1", 79)
	b.advance(2 * time.Minute)
	b.count()
	b.wants(b.share(), "A G1 11", "B G1 6", "C G1 16")

	b.redis.Wipe()
	b.wants(b.share())
	b.advance(2 * time.Minute)
	b.count()
	b.wants(b.share(), "A G1 11", "B G1 6", "C G1 16")
}
