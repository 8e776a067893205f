package syncer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
)

var noon = time.Date(2026, 3, 5, 12, 0, 0, 0, time.UTC)

// pending is pieces of accepted orders by shop.
func pending(of map[string]int64) []Pending {
	p := Pending{}
	for shop, pieces := range of {
		p.add(shop, noon, pieces)
	}
	return []Pending{p}
}

func TestWhatAShopMayOffer(t *testing.T) {
	cloud := seller.Pool{Name: "cloud", Ratio: 3000, Shops: []seller.PoolShop{{Code: "A", Part: 5000}, {Code: "B", Part: 3333, Safety: 1}}}
	west := seller.Pool{Name: "west", Ratio: 2050, Shops: []seller.PoolShop{{Code: "C", Part: seller.Whole, Minimum: 5}}}
	for name, c := range map[string]struct {
		saleable int64
		pending  map[string]int64
		a, b, c  int64
	}{
		"parts are rounded down, a safety stock is kept":                   {101, nil, 15, 8, 20},
		"orders of a pool's own shops are taken off it in full":            {101, map[string]int64{"A": 20}, 5, 2, 16},
		"orders of a shop in no pool by the pool's ratio":                  {101, map[string]int64{"A": 20, "D": 30}, 0, 0, 10},
		"orders whose shop is no longer kept apart in full, of every pool": {101, map[string]int64{AllPools: 12}, 9, 4, 8},
		"below its minimum a shop offers nothing":                          {20, nil, 3, 0, 0},
		"at its minimum it offers all":                                     {25, nil, 3, 1, 5},
		"more is sold than there is":                                       {10, map[string]int64{"A": 40}, 0, 0, 0},
		"nothing is there":                                                 {0, nil, 0, 0, 0},
		"the warehouse owes pieces":                                        {-7, nil, 0, 0, 0},
		"a figure beyond all sense overflows nothing":                      {1 << 62, nil, maxPieces * 3000 / seller.Whole / 2, maxPieces*3000/seller.Whole*3333/seller.Whole - 1, maxPieces * 2050 / seller.Whole},
	} {
		f := &facts{no: "G", saleable: c.saleable, pending: pending(c.pending)}
		inCloud, _, _ := f.available(cloud)
		inWest, _, _ := f.available(west)
		got := []int64{shareOf(inCloud, cloud.Shops[0]), shareOf(inCloud, cloud.Shops[1]), shareOf(inWest, west.Shops[0])}
		if !slices.Equal(got, []int64{c.a, c.b, c.c}) {
			t.Errorf("%s: A, B and C may offer %v, want %v", name, got, []int64{c.a, c.b, c.c})
		}
	}
}

// However a warehouse is shared out, all shops together offer no more than what is there and not sold yet.
func TestShopsTogetherNeverOfferMoreThanThereIs(t *testing.T) {
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var pools []seller.Pool
		sold, left := map[string]int64{}, int64(seller.Whole)
		for p := range 1 + r.IntN(4) {
			pool := seller.Pool{Name: fmt.Sprint(p), Ratio: r.Int64N(left + 1)}
			left -= pool.Ratio
			rest := int64(seller.Whole)
			for s := range 1 + r.IntN(4) {
				shop := seller.PoolShop{Code: fmt.Sprint(p, "-", s), Part: r.Int64N(rest + 1), Safety: r.Int64N(3), Minimum: r.Int64N(5)}
				rest -= shop.Part
				pool.Shops = append(pool.Shops, shop)
				sold[shop.Code] = r.Int64N(30)
			}
			pools = append(pools, pool)
		}
		sold["in no pool"] = r.Int64N(30)
		all := int64(0)
		for _, pieces := range sold {
			all += pieces
		}
		f := &facts{no: "G", saleable: r.Int64N(1000), pending: pending(sold)}
		offered := int64(0)
		for _, p := range pools {
			figure, _, _ := f.available(p)
			for _, s := range p.Shops {
				offered += shareOf(figure, s)
			}
		}
		if offered > max(f.saleable-all, 0) {
			t.Fatalf("seed %d: %d offered of %d, of which %d are sold", seed, offered, f.saleable, all)
		}
	}
}

// text names shares as shop and figure.
func text(list []shareChange) string {
	var words []string
	for _, w := range list {
		if w.gone {
			words = append(words, w.shop.Code+" gone")
		} else {
			words = append(words, fmt.Sprint(w.shop.Code, " ", w.share))
		}
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// Three shops of a third each of 30 pieces: A has 5, so its share grows; B has 10, the same; C has 12, so it shrinks.
func TestWhichSharesArePublished(t *testing.T) {
	pool := seller.Pool{Ratio: seller.Whole, Shops: []seller.PoolShop{{Code: "A", Part: 3334}, {Code: "B", Part: 3334}, {Code: "C", Part: 3334}}}
	has := Published{"A": {5, 7}, "B": {10, 7}, "C": {12, 7}}
	for name, c := range map[string]struct {
		has   Published
		sure  certainty
		less  string
		more  string
		waits bool
	}{
		"what shrinks comes first, then what grows":         {has, certainty{trusted: true}, "C 10", "A 10", false},
		"without a usable count shares only shrink":         {has, certainty{}, "C 10", "", true},
		"nor do they grow while a ratio is doubtful":        {has, certainty{trusted: true, doubtful: true}, "C 10", "", true},
		"a shop of which nothing was published comes first": {Published{"A": {5, 7}, "B": {10, 7}}, certainty{trusted: true}, "C 10", "A 10", false},
		"unless there is no usable count":                   {Published{"A": {5, 7}, "B": {10, 7}}, certainty{}, "", "", true},
		"nor with a doubtful ratio":                         {Published{"A": {5, 7}, "B": {10, 7}}, certainty{trusted: true, doubtful: true}, "", "", true},
		"after a run that died all are published again":     {has, certainty{trusted: true, again: true}, "A 10, B 10, C 10", "", false},
		"or none": {has, certainty{again: true}, "", "", true},
		"and with a doubtful ratio no more than was":                   {has, certainty{trusted: true, doubtful: true, again: true}, "A 5, B 10, C 10", "", true},
		"after a loss of the ledger it is unknown what the shops have": {has, certainty{trusted: true, from: 8}, "A 10, B 10, C 10", "", false},
		"so without a count nothing is published, not even less":       {has, certainty{from: 8}, "", "", true},
		"what was published since is known":                            {has, certainty{trusted: true, from: 7}, "C 10", "A 10", false},
		"nothing changed":                                              {Published{"A": {10, 1}, "B": {10, 2}, "C": {10, 3}}, certainty{trusted: true}, "", "", false},
	} {
		less, more, waits := decideShares(&facts{no: "G", saleable: 30}, pool, c.has, c.sure)
		if text(less) != c.less || text(more) != c.more || waits != c.waits {
			t.Errorf("%s: first %q, then %q, waits %v; want %q, %q, %v", name, text(less), text(more), waits, c.less, c.more, c.waits)
		}
	}
}

func TestWhatBecomesOfShopsThatLeaveAPool(t *testing.T) {
	pool := seller.Pool{Name: "cloud", Shops: []seller.PoolShop{{Code: "A"}}}
	west := seller.Pool{Name: "west", Shops: []seller.PoolShop{{Code: "B"}}}
	moved, gone := formerShops(pool, []seller.Pool{pool, west}, Published{"A": {1, 1}, "B": {2, 1}, "C": {3, 1}})
	if !slices.Equal(moved, []string{"B"}) || text(gone) != "C gone" {
		t.Errorf("moved %v, gone %q", moved, text(gone))
	}
}

func TestWhenACountIsDue(t *testing.T) {
	const settle, every = time.Minute, time.Hour
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	for name, c := range map[string]struct {
		head Head
		want bool
	}{
		"nothing was ever counted":                            {Head{}, true},
		"an hour has passed":                                  {Head{Counted: ago(time.Hour)}, true},
		"an hour has not passed":                              {Head{Counted: ago(time.Hour - time.Second)}, false},
		"a person asks for one":                               {Head{Counted: ago(time.Second), CountRequest: &CountRequest{By: "ops"}}, true},
		"orders are tracked since a moment ago":               {Head{TrackedSince: ago(settle - time.Second)}, false},
		"orders are tracked for long enough":                  {Head{TrackedSince: ago(settle)}, true},
		"the last count began before that, so none is usable": {Head{TrackedSince: ago(10 * time.Minute), Counted: ago(9*time.Minute + time.Second)}, true},
		"the last count is usable":                            {Head{TrackedSince: ago(10 * time.Minute), Counted: ago(9 * time.Minute)}, false},
	} {
		if got := countIsDue(c.head, noon, settle, every); got != c.want {
			t.Errorf("%s: due %v", name, got)
		}
	}
}

func TestWhenADifferenceIsOne(t *testing.T) {
	ago := func(d time.Duration) time.Time { return noon.Add(-d) }
	figure := stock.Figure{GoodsNo: "G", Num: 10, Rows: 3}
	seen := &Suspicion{Book: 10, Counted: 12, Rows: 3, At: ago(time.Hour), Agreed: ago(2 * time.Hour)}
	published := *seen
	published.PublishedAt = ago(time.Hour)
	other := compared{figure: figure, counted: 12, began: ago(time.Minute), last: ago(time.Hour), readTo: ago(time.Minute)}
	same, more, early, late := other, other, other, other
	same.counted, more.counted, early.began, late.readTo = 10, 13, ago(time.Hour), ago(time.Hour)
	for name, c := range map[string]struct {
		compared
		was  *Suspicion
		want verdict
		next *Suspicion
	}{
		"the two agree":                          {same, nil, unchanged, nil},
		"they agree again":                       {same, seen, agreed, nil},
		"they agree after it was published":      {same, &published, agreed, nil},
		"they differ for the first time":         {other, nil, suspected, &Suspicion{Book: 10, Counted: 12, Rows: 3, At: noon, Agreed: ago(time.Hour)}},
		"they differ otherwise than before":      {more, seen, suspected, &Suspicion{Book: 10, Counted: 13, Rows: 3, At: noon, Agreed: ago(2 * time.Hour)}},
		"they differ as before":                  {other, seen, differs, nil},
		"which was published":                    {other, &published, unchanged, nil},
		"which was seen in this same comparison": {early, seen, unchanged, nil},
		"and movements of then may still come":   {late, seen, unchanged, nil},
	} {
		becomes, next := c.judge(c.was, noon)
		if becomes != c.want || (next == nil) != (c.next == nil) || next != nil && *next != *c.next {
			t.Errorf("%s: %s, %+v; want %s, %+v", name, becomes, next, c.want, c.next)
		}
	}
	moved := other
	moved.figure.Rows = 4
	if becomes, _ := moved.judge(seen, noon); becomes != suspected {
		t.Errorf("something moved in between: %s", becomes)
	}
}
