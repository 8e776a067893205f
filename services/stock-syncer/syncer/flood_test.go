package syncer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/ledger"
	documentv1 "stockbridge/proto/document/v1"
	stockv1 "stockbridge/proto/stock/v1"
)

// P5: whatever happens at the same time, no share is published that the facts in the book do not allow, and when all
// is quiet each shop has exactly its share.
func TestSharesUnderAFlood(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		f := newFlood(b, nil)
		f.run(1)
		if faults := f.judge(); len(faults) > 0 {
			t.Errorf("%d faults, first %s", len(faults), strings.Join(faults[:min(5, len(faults))], "\n"))
		}
		t.Logf("%d shares published, %d writes, %d of them lost to others", len(b.published), len(f.history.writes), f.history.conflicts)
		if len(b.published) < 30 || f.history.conflicts == 0 {
			t.Error("this was no flood")
		}
	})
}

// The judge must find what is broken on purpose, else it proves nothing.
func TestPlantedOversellingIsFound(t *testing.T) {
	for name, plant := range map[string]func(*recorded) Ledger{
		"accepted orders are forgotten": func(r *recorded) Ledger { return &forgetful{r} },
		"a stale share is published":    func(r *recorded) Ledger { return &blind{recorded: r} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newFixture(t, redisLedger(t))
			for seed := uint64(1); ; seed++ {
				f := newFlood(b, plant)
				f.run(seed)
				if faults := f.judge(); len(faults) > 0 {
					t.Logf("found: %s", faults[0])
					return
				}
				if seed == 5 {
					t.Fatal("the judge found nothing")
				}
				b = newFixture(t, redisLedger(t))
			}
		})
	}
}

// flood is replicas at work at the same time, and all their writes.
type flood struct {
	*fixture
	replicas []*Syncer
	history  *history

	mu     sync.Mutex
	orders map[string]*order
	next   int
}

type order struct {
	shop  string
	at    time.Time
	goods string
	n     int64
}

func newFlood(b *fixture, plant func(*recorded) Ledger) *flood {
	f := &flood{fixture: b, history: &history{}, orders: map[string]*order{}}
	for range 3 {
		r := &recorded{Ledger: b.store, h: f.history}
		var l Ledger = r
		if plant != nil {
			l = plant(r)
		}
		f.replicas = append(f.replicas, b.replica(l))
	}
	return f
}

var (
	floodGoods = []string{"G1", "G2", "G3", "G4"}
	floodShops = []string{"A", "B", "C", "D"}
)

// run plays orders, movements, counts and ticks at the same time, with crashes, and then lets everything settle.
func (f *flood) run(seed uint64) {
	ctx := f.t.Context()
	for i, g := range floodGoods {
		f.wh.put(g, int64(40+200*i))
	}
	f.Syncer = f.replicas[0]
	f.count()
	var all sync.WaitGroup
	const ordersEach = 60
	for i, y := range f.replicas {
		chance := rand.New(rand.NewPCG(seed, uint64(i)))
		for range 4 {
			own := rand.New(rand.NewPCG(seed, chance.Uint64()))
			all.Go(func() {
				for range ordersEach {
					f.order(y, own)
				}
			})
		}
		all.Go(func() { // ticks of shares, some of them by a run that is killed
			own := rand.New(rand.NewPCG(seed, chance.Uint64()))
			for range 60 {
				r := f.shareBy(y)
				killed := own.IntN(6)
				if killed != 0 {
					f.recordPublished(r)
				}
				if killed > 1 {
					for _, after := range r.after {
						if err := after(ctx); err != nil {
							f.t.Error(err)
						}
					}
				}
				f.advance(100 * time.Millisecond)
				if len(r.after) == 0 {
					f.advance(500 * time.Millisecond) // another run holds the lease, or was killed
				}
			}
		})
	}
	all.Go(func() {
		own := rand.New(rand.NewPCG(seed, 99))
		for i := range 12 {
			f.wh.add(floodGoods[own.IntN(len(floodGoods))], own.Int64N(200)-100)
			f.advance(20 * time.Second)
			if err := RequestCount(ctx, &recorded{Ledger: f.store, h: f.history}, "acme", "W1", "somebody", f.now()); err != nil {
				f.t.Error(err)
			}
			y := f.replicas[i%len(f.replicas)]
			_, after, err := y.runCount(ctx, "acme", "W1", time.Time{})
			if err != nil {
				f.t.Error(err)
			}
			if own.IntN(5) == 0 {
				f.advance(countLease) // killed before it was stored
				continue
			}
			for _, a := range after {
				if err := a(ctx); err != nil {
					f.t.Error(err)
				}
			}
		}
	})
	all.Wait()
	// Quiet: a count that contains everything, and time to publish.
	f.advance(5 * time.Minute)
	if err := RequestCount(ctx, &recorded{Ledger: f.store, h: f.history}, "acme", "W1", "somebody", f.now()); err != nil {
		f.t.Error(err)
	}
	f.count()
	for range 20 {
		f.advance(shareLease)
		f.share()
	}
}

func (f *flood) order(y *Syncer, chance *rand.Rand) {
	goods, shop, n := floodGoods[chance.IntN(len(floodGoods))], floodShops[chance.IntN(len(floodShops))], 1+chance.Int64N(3)
	f.advance(time.Duration(chance.IntN(200)) * time.Millisecond)
	f.mu.Lock()
	f.next++
	no := fmt.Sprintf("X%d", f.next)
	at := f.now()
	f.orders[no] = &order{shop, at, goods, n}
	f.mu.Unlock()
	f.wh.add(goods, -n) // the warehouse deducts it
	l := line(goods, n)
	if chance.IntN(3) == 0 {
		l = &documentv1.AcceptedLine{GoodsCode: "c-" + goods, Quantity: n}
	}
	for range 1 + chance.IntN(2) { // published twice at times
		if err := f.acceptedBy(y, no, shop, at, l); err != nil {
			f.t.Error(err)
		}
	}
}

// judge compares each published share with what the book held at its version, computed in another way.
func (f *flood) judge() []string {
	var faults []string
	find := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	slices.SortFunc(f.history.writes, func(a, b write) int { return cmp.Compare(a.version, b.version) })
	byVersion := map[uint64][]*stockv1.ShareChanged{}
	for _, m := range f.published {
		byVersion[m.Version] = append(byVersion[m.Version], m)
	}
	pools := f.seller.Pools("W1")
	counts, marked := map[string]Goods{}, map[string]bool{}
	published := map[string]map[string]int64{} // by goods and shop
	// most is how much of some goods the shops of a pool may have together, by the orders that were applied so far.
	most := func(goods, pool string) *big.Rat {
		own, elsewhere := int64(0), int64(0)
		for no, o := range f.orders {
			// A count contains what was accepted a settling time before it began.
			if o.goods != goods || !marked[markName(no)] || o.at.Before(counts[goods].At.Add(-f.Settle)) {
				continue
			}
			in := map[string]string{"A": "cloud", "B": "cloud", "C": "west"}[o.shop]
			if in == pool {
				own += o.n
			} else {
				elsewhere += o.n
			}
		}
		ratio := map[string]*big.Rat{"cloud": big.NewRat(30, 100), "west": big.NewRat(205, 1000)}[pool]
		left := new(big.Rat).Mul(ratio, new(big.Rat).SetInt64(max(counts[goods].Saleable-elsewhere, 0)))
		left = new(big.Rat).SetInt(new(big.Int).Quo(left.Num(), left.Denom()))
		if left.Sub(left, new(big.Rat).SetInt64(own)); left.Sign() < 0 {
			left.SetInt64(0)
		}
		return left
	}
	part := map[string]*big.Rat{"A": big.NewRat(1, 2), "B": big.NewRat(3333, 10000), "C": big.NewRat(1, 1)}
	share := func(goods, pool, shop string) int64 {
		v := new(big.Rat).Mul(most(goods, pool), part[shop])
		n := new(big.Int).Quo(v.Num(), v.Denom()).Int64()
		if shop == "B" {
			if n--; n < 2 {
				n = 0
			}
		}
		return n
	}
	known := map[string]Published{}
	seen := uint64(0)
	check := func(version uint64) { // what was published by the book as it was at version
		for _, m := range byVersion[version] {
			if published[m.GoodsNo] == nil {
				published[m.GoodsNo] = map[string]int64{}
			}
			if allowed := share(m.GoodsNo, m.Pool, m.Shop); m.Share > allowed {
				find("version %d: %s got %d of %s, its share was %d", version, m.Shop, m.Share, m.GoodsNo, allowed)
			}
		}
		grew := map[[2]string]bool{}
		for _, m := range byVersion[version] {
			if m.Share > published[m.GoodsNo][m.Shop] {
				grew[[2]string{m.GoodsNo, m.Pool}] = true
			}
			published[m.GoodsNo][m.Shop] = m.Share
		}
		for at := range grew {
			sum := int64(0)
			for _, p := range pools {
				if p.Name == at[1] {
					for _, s := range p.Shops {
						sum += published[at[0]][s.Code]
					}
				}
			}
			if m := most(at[0], at[1]); new(big.Rat).SetInt64(sum).Cmp(m) > 0 {
				find("version %d: pool %s has %s of %s, and its shops got %d", version, at[1], m.FloatString(0), at[0], sum)
			}
		}
		delete(byVersion, version)
	}
	for _, w := range f.history.writes {
		if w.version == seen {
			find("two writes made version %d", w.version)
		}
		before := seen
		seen = w.version
		for field, value := range w.fields {
			if rest, ok := strings.CutPrefix(field, publishedPrefix); ok && value != nil {
				written := Published{}
				if err := json.Unmarshal(value, &written); err != nil {
					find("%v", err)
				}
				for shop, now := range written {
					if now != known[rest][shop] && now.Version != before {
						find("%s of %s was computed from version %d, and the newest was %d", shop, rest, now.Version, before)
					}
				}
				known[rest] = written
			}
			if no, ok := strings.CutPrefix(field, goodsPrefix); ok && value != nil {
				var g Goods
				if err := json.Unmarshal(value, &g); err != nil {
					find("%v", err)
				}
				counts[no] = g
			}
		}
		for _, m := range w.marks {
			marked[m] = true
		}
		check(w.version)
	}
	for version := range byVersion {
		find("published by version %d, which was never written", version)
	}
	for no := range f.orders {
		if !marked[markName(no)] && !f.orders[no].at.Before(counts[f.orders[no].goods].At.Add(-f.Settle)) {
			find("order %s is not in the book", no)
		}
	}
	// Quiet: everything is counted, and each shop has exactly its share.
	for _, g := range floodGoods {
		if counts[g].Saleable != f.wh.goods[g] {
			find("%s: counted %d of %d", g, counts[g].Saleable, f.wh.goods[g])
		}
		for pool, shops := range map[string][]string{"cloud": {"A", "B"}, "west": {"C"}} {
			for _, shop := range shops {
				if want := share(g, pool, shop); published[g][shop] != want {
					find("quiet: %s has %d of %s, its share is %d", shop, published[g][shop], g, want)
				}
			}
		}
	}
	return faults
}

// history is all writes to the book of the warehouse.
type history struct {
	mu        sync.Mutex
	writes    []write
	conflicts int
}

type write struct {
	version uint64
	fields  map[string][]byte
	marks   []string
}

// recorded notes each successful write under its version.
type recorded struct {
	Ledger
	h *history
}

func (r *recorded) WriteBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	version, err := r.Ledger.WriteBook(ctx, name, w)
	if name != BookOf("acme", "W1") {
		return version, err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	switch {
	case errors.Is(err, ledger.ErrVersion):
		r.h.conflicts++
	case err == nil:
		noted := write{version: version, fields: maps.Clone(w.Fields)}
		for _, m := range w.Marks {
			noted.marks = append(noted.marks, m.Name)
		}
		r.h.writes = append(r.h.writes, noted)
	}
	return version, err
}

// forgetful is a bug: a run that publishes shares does not see what is pending.
type forgetful struct{ *recorded }

func (l *forgetful) ReadBook(ctx context.Context, name string, fields, marks []string) (ledger.Book, error) {
	b, err := l.recorded.ReadBook(ctx, name, fields, marks)
	if slices.Contains(fields, fieldInFlight) {
		for f := range b.Fields {
			if strings.HasPrefix(f, byNumber) || strings.HasPrefix(f, byCode) {
				delete(b.Fields, f)
			}
		}
	}
	return b, err
}

// blind is a bug: what was computed is written and published although facts arrived in between.
type blind struct{ *recorded }

func (l *blind) WriteBook(ctx context.Context, name string, w ledger.BookWrite) (uint64, error) {
	for {
		version, err := l.recorded.WriteBook(ctx, name, w)
		if _, publishes := w.Fields[fieldInFlight]; !publishes || !errors.Is(err, ledger.ErrVersion) {
			return version, err
		}
		now, err := l.ReadBook(ctx, name, nil, nil)
		if err != nil {
			return 0, err
		}
		w.Version, w.Owner = now.Version, w.Owner+"'"
	}
}
