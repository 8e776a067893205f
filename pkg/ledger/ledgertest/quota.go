package ledgertest

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

const callTTL = 15 * time.Second

// asks acquires at the clock's time.
func (b *bench) asks(app string, class quota.Class, l ledger.Limit) (ledger.Permit, time.Duration) {
	b.Helper()
	p, wait, err := b.Acquire(b.ctx, app, class, l, callTTL)
	b.must(err)
	if (p.ID == "") != (wait > 0) {
		b.Fatalf("%s: permit %+v and a wait of %s", class, p, wait)
	}
	return p, wait
}

// within checks that no second, and no longer span, holds more calls than the limit.
func within(perSecond float64, starts []time.Time) error {
	for i := range starts {
		for j := i; j < len(starts); j++ {
			stretch := max(1, starts[j].Sub(starts[i]).Seconds()+1e-6)
			if n, most := j-i+1, int(math.Ceil(perSecond*stretch)); n > most {
				return fmt.Errorf("%d calls in %.6f s, at %g per second", n, stretch, perSecond)
			}
		}
	}
	return nil
}

// travelled are the arrival times of calls that travelled for up to 15 ms each.
func travelled(starts []time.Time) []time.Time {
	r := rand.New(rand.NewPCG(1, 15))
	arrived := make([]time.Time, len(starts))
	for i, at := range starts {
		arrived[i] = at.Add(time.Duration(r.Int64N(int64(15 * time.Millisecond))))
	}
	slices.SortFunc(arrived, time.Time.Compare)
	return arrived
}

// A random history of calls, over random limits, classes and pauses.
func testQuotaLimit(b *bench) {
	handles := []ledger.Ledger{b.Ledger, b.store.Open(b.clock.Now)}
	round := 0
	rapid.Check(b.T, func(t *rapid.T) {
		round++
		app := fmt.Sprintf("app-%d", round)
		limit := ledger.Limit{
			PerSecond:  rapid.SampledFrom([]float64{0.5, 1, 2.5, 7, 20, 100}).Draw(t, "per second"),
			Concurrent: rapid.IntRange(1, 6).Draw(t, "at a time"),
		}
		type call struct {
			permit ledger.Permit
			until  time.Time
		}
		var starts []time.Time
		var open []call
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			l := handles[rapid.IntRange(0, 1).Draw(t, "handle")]
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 5:
				turns, wait, err := l.AcquireBlock(b.ctx, app, rapid.SampledFrom(quota.Classes()).Draw(t, "class"), limit, rapid.IntRange(1, 40).Draw(t, "turns"), time.Minute)
				b.must(err)
				if (len(turns) == 0) != (wait > 0) || len(turns) > quota.MaxBlock {
					t.Fatalf("%d turns and a wait of %s", len(turns), wait)
				}
				open = slices.DeleteFunc(open, func(c call) bool { return !c.until.After(b.now()) })
				for _, turn := range turns {
					open = append(open, call{turn.Permit, b.now().Add(time.Minute)})
					starts = append(starts, b.now().Add(turn.In))
				}
				if len(open) > limit.Concurrent {
					t.Fatalf("%d calls at a time, %d allowed", len(open), limit.Concurrent)
				}
			case 0:
				b.clock.Add(time.Duration(rapid.IntRange(0, 2_000_000).Draw(t, "µs")) * time.Microsecond)
			case 1:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
					b.must(l.Return(b.ctx, open[i].permit))
					open = slices.Delete(open, i, i+1)
				}
			default:
				class := rapid.SampledFrom(quota.Classes()).Draw(t, "class")
				ttl := time.Duration(rapid.IntRange(100, 5000).Draw(t, "ttl ms")) * time.Millisecond
				p, wait, err := l.Acquire(b.ctx, app, class, limit, ttl)
				b.must(err)
				if p.ID == "" {
					if wait <= 0 {
						t.Fatalf("neither a permit nor a wait")
					}
					if rapid.Bool().Draw(t, "wait") {
						b.clock.Add(wait)
					}
					continue
				}
				open = slices.DeleteFunc(open, func(c call) bool { return !c.until.After(b.now()) })
				open = append(open, call{p, b.now().Add(ttl)})
				starts = append(starts, b.now())
				if len(open) > limit.Concurrent {
					t.Fatalf("%d calls at a time, %d allowed", len(open), limit.Concurrent)
				}
			}
		}
		slices.SortFunc(starts, time.Time.Compare)
		if err := within(limit.PerSecond, starts); err != nil {
			t.Fatal(err)
		}
		b.clock.Add(time.Minute)
	})
}

func testQuotaConcurrent(b *bench) {
	limit := ledger.Limit{PerSecond: 1000, Concurrent: 3}
	var permits []ledger.Permit
	take := func(want bool) {
		b.Helper()
		b.clock.Add(time.Second)
		p, wait := b.asks("app", "push", limit)
		if got := p.ID != ""; got != want {
			b.Fatalf("a call may start: %v, wait %s", got, wait)
		}
		if want {
			permits = append(permits, p)
		}
	}
	take(true)
	take(true)
	take(true)
	take(false)
	b.must(b.Return(b.ctx, permits[0]))
	b.must(b.Return(b.ctx, permits[0]))
	b.must(b.Return(b.ctx, ledger.Permit{}))
	take(true)
	take(false)
	// Another credential has its own.
	if p, _ := b.asks("other", "push", limit); p.ID == "" {
		b.Error("one credential's calls count against another's")
	}
	// A worker died with its calls: they expire.
	b.clock.Add(callTTL)
	take(true)
	take(true)
	take(true)
	take(false)

	// Over replicas, at once.
	handles := []ledger.Ledger{b.Ledger, b.store.Open(b.clock.Now)}
	limit = ledger.Limit{PerSecond: 1e6, Concurrent: 4}
	var running, most, done atomic.Int64
	var wg sync.WaitGroup
	for w := range 12 {
		l := handles[w%2]
		wg.Go(func() {
			for range 30 {
				b.clock.Add(50 * time.Millisecond)
				p, _, err := l.Acquire(b.ctx, "busy", "push", limit, time.Hour)
				if err != nil {
					b.Error(err)
					return
				}
				if p.ID == "" {
					continue
				}
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				running.Add(-1)
				done.Add(1)
				if err := l.Return(b.ctx, p); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if most.Load() > 4 || done.Load() == 0 {
		b.Errorf("%d calls at a time of 4, %d in all", most.Load(), done.Load())
	}
}

func testQuotaClasses(b *bench) {
	limit := ledger.Limit{PerSecond: 10, Concurrent: 100}
	start := func(class quota.Class, want bool) {
		b.Helper()
		if p, wait := b.asks("app", class, limit); (p.ID != "") != want {
			b.Fatalf("%s may start: %v, wait %s", class, p.ID != "", wait)
		}
	}
	waits := func(class quota.Class) time.Duration {
		b.Helper()
		p, wait := b.asks("app", class, limit)
		if p.ID != "" {
			b.Fatalf("%s need not wait", class)
		}
		return wait
	}
	// Both wait: the cancel is first, although it came later and the push asks first.
	start("push", true)
	waits("push")
	b.clock.Add(waits("cancel"))
	start("push", false)
	start("cancel", true)

	// No better class waits: each takes everything.
	for _, class := range quota.Classes() {
		b.clock.Add(time.Minute)
		for range 30 {
			start(class, true)
			b.clock.Add(110 * time.Millisecond)
		}
	}

	// A caller that does not use its reservation does not block the slot for long.
	start("push", true)
	b.clock.Add(waits("cancel"))
	b.clock.Add(2 * time.Second)
	start("stock", true)
}

func testQuotaFloors(b *bench) {
	const seconds = 40
	for _, perSecond := range []float64{4, 20} {
		b.clock.Add(time.Hour)
		s := newTraffic(b, fmt.Sprintf("app-%g", perSecond), ledger.Limit{PerSecond: perSecond, Concurrent: 50}, 100*time.Millisecond)
		for range int(perSecond * 3) {
			s.forever("push")
		}
		s.forever("status", "status", "status", "stock", "stock")
		for at := range seconds {
			s.after(time.Duration(at)*time.Second, func() { s.message("cancel", nil) })
		}
		s.run(seconds * time.Second)
		s.within()
		total := perSecond * seconds
		if got := float64(len(s.starts["status"])); got < 0.15*total*0.93 {
			b.Errorf("%g/s: status got %.1f %%", perSecond, 100*got/total)
		}
		if got := float64(len(s.starts["stock"])); got < 0.10*total*0.93 {
			b.Errorf("%g/s: stock got %.1f %%", perSecond, 100*got/total)
		}
		if got := len(s.starts["cancel"]); got < seconds-2 {
			b.Errorf("%g/s: %d of %d cancels got through", perSecond, got, seconds)
		}
		if most := slices.Max(s.waited["cancel"]); most > time.Duration(6.2/perSecond*float64(time.Second))+100*time.Millisecond {
			b.Errorf("%g/s: a cancel waited %s", perSecond, most)
		}
		if got := float64(len(s.all)); got < 0.935*total {
			b.Errorf("%g/s: only %.1f %% used", perSecond, 100*got/total)
		}
	}

	// Asking now and then is enough to keep one's share.
	b.clock.Add(time.Hour)
	s := newTraffic(b, "now and then", ledger.Limit{PerSecond: 10, Concurrent: 50}, 100*time.Millisecond)
	for range 60 {
		s.forever("push")
	}
	for at := 5; at < seconds; at += 5 {
		s.after(time.Duration(at)*time.Second, func() {
			for range 5 {
				s.message("status", nil)
			}
		})
	}
	s.run(seconds * time.Second)
	if got := len(s.starts["status"]); got < 34 {
		b.Errorf("%d of 35 status calls got through", got)
	}
	slices.Sort(s.waited["status"])
	if half := s.waited["status"][len(s.waited["status"])/2]; half > 1500*time.Millisecond {
		b.Errorf("half of the status calls waited more than %s, although their share accrued", half)
	}
}

func testQuotaFloorEnds(b *bench) {
	s := newTraffic(b, "app", ledger.Limit{PerSecond: 20, Concurrent: 50}, 50*time.Millisecond)
	for range 60 {
		s.forever("push")
	}
	s.message("status", nil)
	s.message("stock", nil)
	s.run(20 * time.Second)
	if got := float64(len(s.starts["push"])); got < 0.97*20*20-2 {
		b.Errorf("push got %.0f of 400 although nobody else asks", got)
	}

	// An unused share accrues for ten seconds, not for ever.
	limit := ledger.Limit{PerSecond: 10, Concurrent: 1000}
	for range 20 {
		b.asks("thrifty", "status", limit)
		b.clock.Add(9 * time.Second)
	}
	b.asks("thrifty", "push", limit)
	first := 0
	for range 60 {
		_, wait := b.asks("thrifty", "push", limit) // a push always waits
		b.clock.Add(wait)
		if p, _ := b.asks("thrifty", "status", limit); p.ID != "" {
			first++
		} else {
			b.asks("thrifty", "push", limit)
		}
	}
	if first < 15 || first > 15+9+1 { // 10 s at 1.5 a second, and what accrues in these 6 s
		b.Errorf("%d status calls went before pushes", first)
	}
}

// A backlog much longer than the limit allows at once: as many handlers as a worker has.
func testQuotaReturn(b *bench) {
	for _, perSecond := range []float64{5, 30} {
		b.clock.Add(time.Hour)
		s := newTraffic(b, fmt.Sprintf("app-%g", perSecond), ledger.Limit{PerSecond: perSecond, Concurrent: 50}, 100*time.Millisecond)
		n := int(perSecond * 20)
		for range n {
			s.message("push", nil)
		}
		s.run(time.Duration(float64(n) / perSecond / 0.97 * float64(time.Second)))
		s.within()
		if err := within(perSecond, travelled(s.all)); err != nil {
			b.Errorf("as the warehouse counts: %v", err)
		}
		if got := len(s.all); got < n-1 {
			b.Errorf("%g/s: %d of %d calls in the time that 97 %% of the limit takes", perSecond, got, n)
		}
		if each := float64(s.asked["push"]) / float64(len(s.all)); each > 4 {
			b.Errorf("%g/s: asked %.1f times a call", perSecond, each)
		}
	}

	// Long calls: Concurrent is the limit.
	b.clock.Add(time.Hour)
	s := newTraffic(b, "slow", ledger.Limit{PerSecond: 100, Concurrent: 5}, 500*time.Millisecond)
	for range 300 {
		s.message("push", nil)
	}
	s.run(20 * time.Second)
	if got := float64(len(s.all)); got < 0.85*200 {
		b.Errorf("%.0f of 200 calls that can be made five at a time", got)
	}
}

func testQuotaGone(b *bench) {
	limit := ledger.Limit{PerSecond: 10, Concurrent: 50}
	var far time.Duration
	for range 1000 {
		_, wait := b.asks("app", "push", limit)
		far = max(far, wait)
	}
	if far < 60*time.Second {
		b.Fatalf("1000 askers at 10 a second: the last must wait %s", far)
	}
	if far > 5*time.Minute {
		b.Errorf("must wait %s", far)
	}
	b.clock.Add(10 * time.Second)
	if p, _ := b.asks("app", "push", limit); p.ID == "" {
		b.Fatal("nobody came, and yet there is no slot")
	}
	for range 30 {
		if _, wait := b.asks("app", "push", limit); wait > 5*time.Second {
			b.Fatalf("30 askers get to wait %s for those who never came", wait)
		}
	}

	// The limit is raised: reservations at the old pace no longer count.
	slow := ledger.Limit{PerSecond: 0.01, Concurrent: 1}
	p, _ := b.asks("raised", "push", slow)
	b.must(b.Return(b.ctx, p))
	b.asks("raised", "push", limit)
	b.clock.Add(time.Second)
	if p, wait := b.asks("raised", "push", limit); p.ID == "" {
		b.Errorf("after the limit was raised: wait %s", wait)
	}
}

func testQuotaClockBack(b *bench) {
	limit := ledger.Limit{PerSecond: 10, Concurrent: 2}
	for range 20 {
		b.asks("app", "push", limit)
		b.asks("app", "status", limit)
		b.clock.Add(100 * time.Millisecond)
	}
	b.clock.Add(-time.Hour)
	b.asks("app", "push", limit)
	b.clock.Add(200 * time.Millisecond)
	if p, wait := b.asks("app", "push", limit); p.ID == "" {
		b.Errorf("a clock that was set back an hour stops all calls: wait %s", wait)
	}
	b.clock.Add(-10 * time.Millisecond)
	b.asks("app", "push", limit)
}

func testQuotaNonsense(b *bench) {
	for _, limit := range []ledger.Limit{{}, {PerSecond: 1}, {Concurrent: 1}, {PerSecond: -1, Concurrent: 1}, {PerSecond: math.NaN(), Concurrent: 1}, {PerSecond: math.Inf(1), Concurrent: 1}} {
		if _, _, err := b.Acquire(b.ctx, "app", "push", limit, time.Second); err == nil {
			b.Errorf("%+v paces calls", limit)
		}
	}
	if _, _, err := b.Acquire(b.ctx, "app", "urgent", ledger.Limit{PerSecond: 1, Concurrent: 1}, time.Second); err == nil {
		b.Error("a class that does not exist gets a permit")
	}
}

// Turns in a row for callers of one worker, while that takes nothing from others.
func testQuotaBlocks(b *bench) {
	fast := ledger.Limit{PerSecond: 1000, Concurrent: 100}
	take := func(app string, class quota.Class, l ledger.Limit, n, want int) []ledger.Turn {
		b.Helper()
		turns, wait, err := b.AcquireBlock(b.ctx, app, class, l, n, callTTL)
		b.must(err)
		if len(turns) != want || (want == 0) != (wait > 0) {
			b.Fatalf("%d turns and a wait of %s, want %d", len(turns), wait, want)
		}
		for i, turn := range turns {
			if turn.Permit.ID == "" || i == 0 && turn.In != 0 || i > 0 && turn.In < turns[i-1].In || turn.In > quota.BlockAhead+2*time.Millisecond {
				b.Fatalf("turn %d: %+v after %s", i, turn, turns[max(0, i-1)].In)
			}
		}
		return turns
	}
	start := func(app string, class quota.Class, want bool) {
		b.Helper()
		if p, wait := b.asks(app, class, fast); (p.ID != "") != want || wait > quota.BlockAhead+2*time.Millisecond {
			b.Fatalf("%s may start: %v, wait %s", class, p.ID != "", wait)
		}
	}
	take("slow", "push", ledger.Limit{PerSecond: 5, Concurrent: 100}, 8, 1)
	take("status", "status", fast, 8, 1)
	b.clock.Add(time.Minute)
	take("app", "push", fast, 8, 8)
	b.clock.Add(time.Minute)
	take("app", "push", fast, 100, 25) // those of the 5 ms that a call may be late, and of 20 ms ahead
	// Its worker died. The next caller waits for 20 ms at most, and then for nobody.
	start("app", "cancel", false)
	b.clock.Add(quota.BlockAhead + 2*time.Millisecond)
	start("app", "cancel", true)

	// Somebody waits: a turn for one only.
	b.clock.Add(time.Minute)
	hundred := ledger.Limit{PerSecond: 100, Concurrent: 100}
	b.asks("crowd", "push", hundred)
	_, wait := b.asks("crowd", "push", hundred)
	if _, next := b.asks("crowd", "push", hundred); wait <= 0 || next <= wait {
		b.Fatalf("the first waits %s, the second %s", wait, next)
	}
	b.clock.Add(wait)
	take("crowd", "push", hundred, 8, 1)
	b.clock.Add(time.Minute)
	take("crowd", "push", hundred, 8, 3)

	// No more than half of the calls at a time.
	few := ledger.Limit{PerSecond: 1000, Concurrent: 10}
	turns := take("few", "push", few, 8, 5)
	b.clock.Add(100 * time.Millisecond)
	take("few", "push", few, 8, 1)
	var permits []ledger.Permit
	for _, turn := range turns {
		permits = append(permits, turn.Permit)
	}
	b.must(b.Return(b.ctx, permits...))
	b.must(b.Return(b.ctx, permits...))
	b.clock.Add(100 * time.Millisecond)
	take("few", "push", few, 8, 4)

	// Four workers of 32 handlers, a backlog, and the other classes beside it.
	const seconds = 5
	b.clock.Add(time.Hour)
	s := newTraffic(b, "blocks", ledger.Limit{PerSecond: 300, Concurrent: 1000}, 50*time.Millisecond)
	s.workers, s.handlers = 4, 128
	for range 300 {
		s.forever("push")
	}
	s.forever("status", "status", "status", "status", "status", "status", "status", "stock", "stock", "stock", "stock", "stock")
	for at := range seconds * 10 {
		s.after(time.Duration(at)*100*time.Millisecond, func() { s.message("cancel", nil) })
	}
	s.run(seconds * time.Second)
	slices.SortFunc(s.all, time.Time.Compare)
	s.within()
	if err := within(s.limit.PerSecond, travelled(s.all)); err != nil {
		b.Errorf("as the warehouse counts: %v", err)
	}
	total := s.limit.PerSecond * seconds
	if got := float64(len(s.all)); got < 0.97*total {
		b.Errorf("only %.1f %% used", 100*got/total)
	}
	if got := float64(len(s.starts["status"])); got < 0.15*total*0.93 {
		b.Errorf("status got %.1f %%", 100*got/total)
	}
	if got := float64(len(s.starts["stock"])); got < 0.10*total*0.93 {
		b.Errorf("stock got %.1f %%", 100*got/total)
	}
	if most := slices.Max(s.waited["cancel"]); most > 150*time.Millisecond {
		b.Errorf("a cancel waited %s", most)
	}

	// The same workers without a backlog: most turns come in blocks.
	b.clock.Add(time.Hour)
	s = newTraffic(b, "ample", ledger.Limit{PerSecond: 10_000, Concurrent: 1000}, 10*time.Millisecond)
	s.workers, s.handlers = 4, 128
	for range 64 {
		s.forever("push")
	}
	s.run(time.Second)
	slices.SortFunc(s.all, time.Time.Compare)
	s.within()
	if each := float64(len(s.all)) / float64(s.asked["push"]); each < 2 {
		b.Errorf("%.1f turns each time somebody asked, %d in all", each, len(s.all))
	}
}

// traffic simulates workers that call under a quota, on the suite's clock. A message has a handler; a short wait is
// spent there, after a longer one the message returns a little late and waits for a free handler.
type traffic struct {
	*bench
	app      string
	limit    ledger.Limit
	takes    time.Duration
	random   *rand.Rand
	events   events
	handlers int
	queue    []func()
	// workers, if any, ask for the turns of those of their handlers together that wait at the same time, and one by one for a
	// second after they got fewer.
	workers int
	waiting []chance
	next    int
	tight   time.Time

	starts map[quota.Class][]time.Time
	all    []time.Time
	waited map[quota.Class][]time.Duration
	asked  map[quota.Class]int
}

func newTraffic(b *bench, app string, limit ledger.Limit, takes time.Duration) *traffic {
	return &traffic{
		bench: b, app: app, limit: limit, takes: takes, random: rand.New(rand.NewPCG(1, 2)), handlers: 32,
		starts: map[quota.Class][]time.Time{}, waited: map[quota.Class][]time.Duration{}, asked: map[quota.Class]int{},
	}
}

func (s *traffic) after(d time.Duration, do func()) {
	heap.Push(&s.events, moment{s.now().Add(d), s.events.next(), do})
}

// run advances the time.
func (s *traffic) run(d time.Duration) {
	for end := s.now().Add(d); ; {
		if len(s.events.list) == 0 || s.events.list[0].at.After(end) {
			s.clock.Add(end.Sub(s.now()))
			return
		}
		m := heap.Pop(&s.events).(moment)
		s.clock.Add(m.at.Sub(s.now()))
		m.do()
	}
}

func (s *traffic) jitter(most time.Duration) time.Duration {
	return time.Duration(s.random.Int64N(int64(most)))
}

// forever starts callers that call again as soon as they are done.
func (s *traffic) forever(classes ...quota.Class) {
	for _, class := range classes {
		var again func()
		again = func() { s.message(class, again) }
		again()
	}
}

func (s *traffic) message(class quota.Class, then func()) {
	came := s.now()
	s.handle(func() { s.call(class, came, then) })
}

func (s *traffic) handle(do func()) {
	if s.handlers == 0 {
		s.queue = append(s.queue, do)
		return
	}
	s.handlers--
	s.after(s.jitter(time.Millisecond), do)
}

func (s *traffic) free() {
	s.handlers++
	if len(s.queue) > 0 {
		do := s.queue[0]
		s.queue = s.queue[1:]
		s.handle(do)
	}
}

// chance is a call that waits for a block.
type chance struct {
	worker int
	class  quota.Class
	came   time.Time
	then   func()
}

// together waits a millisecond for others of the worker.
func (s *traffic) together(c chance) {
	s.waiting = append(s.waiting, c)
	if slices.ContainsFunc(s.waiting[:len(s.waiting)-1], func(o chance) bool { return o.worker == c.worker && o.class == c.class }) {
		return // a block is on its way
	}
	s.after(time.Millisecond, func() { s.block(c) })
}

// block asks for those that wait like c; the rest waits another millisecond.
func (s *traffic) block(c chance) {
	like := func(o chance) bool { return o.worker == c.worker && o.class == c.class }
	var all []chance
	s.waiting = slices.DeleteFunc(s.waiting, func(o chance) bool {
		mine := like(o) && len(all) < quota.Block(s.limit.PerSecond)
		if mine {
			all = append(all, o)
		}
		return mine
	})
	if slices.ContainsFunc(s.waiting, like) {
		s.after(time.Millisecond, func() { s.block(c) })
	}
	s.asked[c.class]++
	turns, wait, err := s.AcquireBlock(s.ctx, s.app, c.class, s.limit, len(all), callTTL)
	s.must(err)
	if len(turns) < len(all) {
		s.tight = s.now().Add(time.Second)
	}
	for i, o := range all {
		switch {
		case i < len(turns):
			s.after(turns[i].In, func() { s.begin(o.class, o.came, o.then, turns[i].Permit) })
		case i == 0:
			s.wait(o.class, o.came, o.then, wait)
		default:
			s.call(o.class, o.came, o.then)
		}
	}
}

func (s *traffic) begin(class quota.Class, came time.Time, then func(), p ledger.Permit) {
	now := s.now()
	s.starts[class], s.all = append(s.starts[class], now), append(s.all, now)
	s.waited[class] = append(s.waited[class], now.Sub(came))
	s.after(s.takes/2+s.jitter(s.takes), func() {
		s.must(s.Return(s.ctx, p))
		s.free()
		if then != nil {
			then()
		}
	})
}

func (s *traffic) call(class quota.Class, came time.Time, then func()) {
	if s.workers > 0 && class.Floor() == 0 && s.now().After(s.tight) && quota.Block(s.limit.PerSecond) > 1 {
		s.next++
		s.together(chance{s.next % s.workers, class, came, then})
		return
	}
	s.asked[class]++
	p, wait := s.asks(s.app, class, s.limit)
	if p.ID != "" {
		s.begin(class, came, then, p)
		return
	}
	s.wait(class, came, then, wait)
}

func (s *traffic) wait(class quota.Class, came time.Time, then func(), wait time.Duration) {
	switch {
	case wait <= 200*time.Millisecond:
		s.after(wait+100*time.Microsecond+s.jitter(time.Millisecond), func() { s.call(class, came, then) })
	default:
		s.after(wait+s.jitter(50*time.Millisecond), func() { s.handle(func() { s.call(class, came, then) }) })
		s.free()
	}
}

func (s *traffic) within() {
	s.Helper()
	if err := within(s.limit.PerSecond, s.all); err != nil {
		s.Error(err)
	}
}

type moment struct {
	at time.Time
	n  int
	do func()
}

// events is a heap by time, then by order of planning.
type events struct {
	list []moment
	n    int
}

func (e *events) next() int     { e.n++; return e.n }
func (e *events) Len() int      { return len(e.list) }
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(moment)) }
func (e *events) Less(i, j int) bool {
	a, b := e.list[i], e.list[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.n < b.n
}
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}
