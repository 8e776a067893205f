package ingester

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// noon is when these tests begin, in seconds of Unix time.
const noon = int64(1_772_683_200)

func clock(s int64) time.Time { return time.Unix(s, 0) }

func following(change ...func(*seller.Following)) seller.Following {
	f := seller.Following{Every: 5 * time.Minute, Lag: 10 * time.Second, Overlap: time.Minute, SecondLook: time.Hour}
	for _, c := range change {
		c(&f)
	}
	return f
}

func TestWhatIsPlannedNext(t *testing.T) {
	from := func(f *seller.Following) { f.Since = clock(noon - 3600) }
	other := func(f *seller.Following) { f.Flow = sellerv1.Stock_FLOW_SEARCH }
	for name, c := range map[string]struct {
		plan    stock.Plan
		f       seller.Following
		at, now int64
		want    stock.Plan
	}{
		"the first plan reads one second, less the lag": {
			stock.Plan{}, following(), noon, noon, stock.Plan{Start: noon - 10, Until: noon - 10, SecondUntil: noon - 11},
		},
		"with a beginning it reads from there": {
			stock.Plan{}, following(from), noon, noon, stock.Plan{Start: noon - 3600, Until: noon - 10, SecondUntil: noon - 3601},
		},
		"the next one continues": {
			stock.Plan{Start: noon - 600, Until: noon - 310, SecondUntil: noon - 601}, following(), noon, noon,
			stock.Plan{Start: noon - 600, Until: noon - 10, SecondUntil: noon - 601},
		},
		"a tick that comes late, after a later one, takes nothing back": {
			stock.Plan{Start: noon - 600, Until: noon - 10, SecondUntil: noon - 601}, following(), noon - 300, noon,
			stock.Plan{Start: noon - 600, Until: noon - 10, SecondUntil: noon - 601},
		},
		"a second look waits until a quarter of its time has gathered": {
			stock.Plan{Start: noon - 9000, Until: noon - 310, SecondUntil: noon - 3600 - 899}, following(), noon, noon,
			stock.Plan{Start: noon - 9000, Until: noon - 10, SecondUntil: noon - 3600 - 899},
		},
		"then it takes all of it": {
			stock.Plan{Start: noon - 9000, Until: noon - 310, SecondUntil: noon - 3600 - 900}, following(), noon, noon,
			stock.Plan{Start: noon - 9000, Until: noon - 10, SecondUntil: noon - 3600},
		},
		"another method reads from the end of what the first one read, without a second look at that": {
			stock.Plan{Start: noon - 9000, Until: noon - 310, SecondUntil: noon - 8000}, following(other), noon, noon,
			stock.Plan{Start: noon - 9000, Until: noon - 10, SecondUntil: noon - 310, Flow: int32(sellerv1.Stock_FLOW_SEARCH), SwitchedAt: noon - 309},
		},
		"a clock that was hours ahead: what was read of the future is read again": {
			stock.Plan{Start: noon - 90000, Until: noon + 7200, SecondUntil: noon + 3600}, following(), noon, noon,
			stock.Plan{Start: noon - 90000, Until: noon - 10, SecondUntil: noon - 3600},
		},
		"a clock that is seconds ahead is none of that": {
			stock.Plan{Start: noon - 600, Until: noon + 60, SecondUntil: noon - 601}, following(), noon, noon,
			stock.Plan{Start: noon - 600, Until: noon + 60, SecondUntil: noon - 601},
		},
	} {
		if got := nextPlan(c.plan, c.f, clock(c.at), clock(c.now)); got != c.want {
			t.Errorf("%s: planned %+v, want %+v", name, got, c.want)
		}
	}
}

// Whenever ticks come, and however long a warehouse or a worker was away, each second from the beginning on is in a
// window, and in one of the second look; no window is longer than the warehouse answers, and no tick floods the bus.
func TestEachSecondIsPlanned(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		pick := func(of ...time.Duration) time.Duration { return of[r.IntN(len(of))] }
		f := following(func(f *seller.Following) {
			f.Every, f.Lag = pick(time.Second, time.Minute, 5*time.Minute), pick(0, 10*time.Second)
			f.Overlap, f.SecondLook = pick(0, time.Minute), pick(0, 4*time.Second, time.Hour)
			if r.IntN(2) == 0 {
				f.Since = clock(noon - r.Int64N(90*24*3600))
			}
		})
		catchUp, longest := pick(time.Minute, time.Hour), pick(0, 24*time.Hour)
		plan, read, again, at := stock.Plan{}, stock.Coverage{}, stock.Coverage{}, noon
		for range 12 {
			next := nextPlan(plan, f, clock(at), clock(at))
			windows := windowsBetween(plan, next, f, catchUp, longest)
			// As long as longest is not what makes them many.
			if longest == 0 && len(windows) > 2*windowsAtOnce {
				t.Fatalf("seed %d: %d windows at once", seed, len(windows))
			}
			for _, w := range windows {
				span := intervalOf(w)
				if span.To < span.From || longest > 0 && span.To-span.From+1 > int64(longest/time.Second) {
					t.Fatalf("seed %d: a window of %d s, longest is %s", seed, span.To-span.From+1, longest)
				}
				if w.GetWhy() == vmiv1.Why_WHY_SECOND_LOOK {
					again = again.With(span)
				} else {
					read = read.With(span)
				}
			}
			plan = next
			if len(read) != 1 || read[0] != (stock.Interval{From: plan.Start, To: plan.Until}) {
				t.Fatalf("seed %d: planned until %d since %d, windows of %v", seed, plan.Until, plan.Start, read)
			}
			if n := plan.SecondUntil - plan.Start + 1; f.SecondLook > 0 && n > 0 && !again.Has(stock.Interval{From: plan.Start, To: plan.SecondUntil}) {
				t.Fatalf("seed %d: looked again until %d since %d, windows of %v", seed, plan.SecondUntil, plan.Start, again)
			}
			at += 1 + r.Int64N([]int64{2, 300, 7200, 20 * 24 * 3600}[r.IntN(4)])
		}
	}
}

// A place that was away for long is caught up with from both ends: the newest movements do not wait for the oldest, nor
// these for all others.
func TestCatchingUpAlternatesBetweenTheNewestAndTheOldest(t *testing.T) {
	plan := stock.Plan{Start: noon, Until: noon + 59, SecondUntil: noon - 1}
	next := plan
	next.Until += 5 * 3600
	var begins []int64
	for _, w := range windowsBetween(plan, next, following(func(f *seller.Following) { f.Overlap = 0 }), time.Hour, 0) {
		if w.GetWhy() != vmiv1.Why_WHY_CATCH_UP {
			t.Errorf("planned as %s", w.GetWhy())
		}
		begins = append(begins, (w.GetFrom().GetSeconds()-noon-60)/3600)
	}
	if !slices.Equal(begins, []int64{4, 0, 3, 1, 2}) {
		t.Errorf("the hours come in the order %v", begins)
	}
}

// What one method read, no window of another one reads again.
func TestNoWindowReachesIntoTheTimeOfAnotherMethod(t *testing.T) {
	f := following(func(f *seller.Following) { f.Flow = sellerv1.Stock_FLOW_SEARCH })
	plan := stock.Plan{Start: noon - 9000, Until: noon - 310, SecondUntil: noon - 8000}
	next := nextPlan(plan, f, clock(noon), clock(noon))
	windows := windowsBetween(plan, next, f, time.Hour, 0)
	if len(windows) != 1 || windows[0].GetFrom().GetSeconds() != next.SwitchedAt {
		t.Errorf("windows %v, the other method from %d on", windows, next.SwitchedAt)
	}
	if err := checkSwitch(next, int32(f.Flow), next.SwitchedAt); err != nil {
		t.Errorf("the first window of the method: %v", err)
	}
	if err := checkSwitch(next, int32(f.Flow), next.SwitchedAt-1); fault.Of(err) != fault.Refused {
		t.Errorf("a window of the time before: %v", err)
	}
	if err := checkSwitch(plan, int32(f.Flow), noon-300); fault.Of(err) != fault.Wait {
		t.Errorf("before the next plan: %v", err)
	}
}

func TestAWindowOfTooManyPagesIsHalved(t *testing.T) {
	span := stock.Interval{From: noon, To: noon + 3600}
	if got := restOf(span, vmiv1.Why_WHY_NEXT, 11, 50); len(got) != 1 || got[0] != (part{span, vmiv1.Why_WHY_NEXT, 11}) {
		t.Errorf("after ten of fifty pages: %v", got)
	}
	if got := restOf(span, vmiv1.Why_WHY_NEXT, 50, 50); len(got) != 1 || got[0].page != 50 {
		t.Errorf("before the last of fifty pages: %v", got)
	}
	if got := restOf(span, vmiv1.Why_WHY_GAP, 51, 50); len(got) != 1 || got[0] != (part{span, vmiv1.Why_WHY_GAP, 51}) {
		t.Errorf("a gap window: %v", got)
	}
	// Halved as often as possible, it is a window for each second, and all of them together are the window.
	seconds, widest := map[int64]int{}, []part{{span, vmiv1.Why_WHY_NEXT, 1}}
	for len(widest) > 0 {
		w := widest[0]
		widest = widest[1:]
		rest := restOf(w.Interval, w.why, 51, 50)
		if w.From > w.To {
			t.Fatalf("a half is empty: %+v", w)
		}
		if w.From == w.To {
			seconds[w.From]++
			if len(rest) != 1 || rest[0].page != 51 {
				t.Fatalf("one second: %v", rest)
			}
			continue
		}
		for _, half := range rest {
			if half.page != 1 || half.why != vmiv1.Why_WHY_HALF {
				t.Fatalf("a half is %+v", half)
			}
		}
		widest = append(widest, rest...)
	}
	for s := span.From; s <= span.To; s++ {
		if seconds[s] != 1 {
			t.Fatalf("second %d is in %d windows", s-noon, seconds[s])
		}
	}
	if len(seconds) != 3601 {
		t.Errorf("%d seconds", len(seconds))
	}
}

func TestWhereMissingMovementsAreSearched(t *testing.T) {
	window := stock.Interval{From: noon, To: noon + 60}
	gap := stock.Gap{Left: stock.Balance{Value: 5, At: noon - 30}, Right: stock.Balance{Value: 9, At: noon + 20}}
	followed := stock.Plan{Start: noon - 90000}
	for name, c := range map[string]struct {
		gaps    []stock.Gap
		attempt int
		plan    stock.Plan
		now     int64
		want    stock.Interval
	}{
		"at first a little beyond the window": {nil, 1, followed, noon + 7200, stock.Interval{From: noon - 5, To: noon + 65}},
		"and beyond its gaps":                 {[]stock.Gap{gap}, 1, followed, noon + 7200, stock.Interval{From: noon - 35, To: noon + 65}},
		"each attempt twice as far":           {nil, 4, followed, noon + 7200, stock.Interval{From: noon - 40, To: noon + 100}},
		"up to half an hour":                  {nil, 99, followed, noon + 7200, stock.Interval{From: noon - 1800, To: noon + 1860}},
		"not before it is followed":           {nil, 9, stock.Plan{Start: noon - 7}, noon + 7200, stock.Interval{From: noon - 7, To: noon + 1340}},
		"not into another method's time":      {nil, 9, stock.Plan{Start: noon - 90, SwitchedAt: noon - 3}, noon + 7200, stock.Interval{From: noon - 3, To: noon + 1340}},
		"not into the future":                 {nil, 9, followed, noon + 100, stock.Interval{From: noon - 1280, To: noon + 100}},
		"a window of the future stays whole":  {nil, 9, followed, noon + 50, stock.Interval{From: noon - 1280, To: noon + 60}},
	} {
		if got := widened(window, c.gaps, c.attempt, c.plan, clock(c.now)); got != c.want {
			t.Errorf("%s: from %d to %d, want from %d to %d", name, got.From-noon, got.To-noon, c.want.From-noon, c.want.To-noon)
		}
	}
}

func TestAWindowThatWasNotReadIsPlannedAgain(t *testing.T) {
	plan := stock.Plan{Start: noon, Until: noon + 600, SecondUntil: noon + 300}
	window := stock.Interval{From: noon + 100, To: noon + 200}
	for name, c := range map[string]struct {
		plan   stock.Plan
		window stock.Interval
		why    vmiv1.Why
		want   stock.Plan
	}{
		"a window of the plan":      {plan, window, vmiv1.Why_WHY_NEXT, stock.Plan{Start: noon, Until: noon + 99, SecondUntil: noon + 99}},
		"half of one":               {plan, window, vmiv1.Why_WHY_HALF, stock.Plan{Start: noon, Until: noon + 99, SecondUntil: noon + 99}},
		"a second look":             {plan, window, vmiv1.Why_WHY_SECOND_LOOK, stock.Plan{Start: noon, Until: noon + 600, SecondUntil: noon + 99}},
		"what a person asked for":   {plan, window, vmiv1.Why_WHY_REFETCH, plan},
		"nothing is planned yet":    {stock.Plan{}, window, vmiv1.Why_WHY_NEXT, stock.Plan{}},
		"it begins before the plan": {plan, stock.Interval{From: noon - 50, To: noon}, vmiv1.Why_WHY_GAP, stock.Plan{Start: noon, Until: noon - 1, SecondUntil: noon - 1}},
		"it is planned already":     {plan, stock.Interval{From: noon + 700, To: noon + 800}, vmiv1.Why_WHY_NEXT, plan},
	} {
		if got := planWithout(c.plan, c.window, c.why); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestWhichRowsAreBooked(t *testing.T) {
	for name, c := range map[string]struct {
		change    int64
		row       warehouse.Rule
		documents bool
		want      string
	}{
		"stock came":                                     {7, warehouse.RuleMoves, false, ""},
		"stock left":                                     {-7, warehouse.RuleMoves, false, ""},
		"nothing changed":                                {0, warehouse.RuleMoves, false, "unchanged"},
		"the shop is booked from its documents":          {7, warehouse.RuleMoves, true, "documents"},
		"nothing changed, and it is":                     {0, warehouse.RuleMoves, true, "unchanged"},
		"the stock was set, whatever the change":         {7, warehouse.RuleSet, false, "set"},
		"the ratio was changed, of such a shop too":      {7, warehouse.RuleRatio, true, "ratio"},
		"a balance below zero is the warehouse's affair": {-7, warehouse.RuleNegative, false, "negative"},
	} {
		rule := ruleOf(c.change, c.row, c.documents)
		if rule != c.want {
			t.Errorf("%s: %q, want %q", name, rule, c.want)
		}
		if why := rules[rule]; rule != "" && (why.zh == "" || why.en == "") {
			t.Errorf("%s: nothing says in words why it is not booked", name)
		}
	}
}

// A row without a mark was published before when its time was read and the mark may have expired.
func TestARowWhoseMarkExpiredIsNotPublishedAgain(t *testing.T) {
	now := clock(noon)
	read := stock.Coverage{{From: noon - 80*24*3600, To: noon}}
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		age, bookAge time.Duration
		read         stock.Coverage
		want         bool
	}{
		"of last week: its mark would be there":      {7 * day, 80 * day, read, false},
		"its mark is about to expire":                {ledger.KeepMarks - 4*day, 80 * day, read, true},
		"its mark expired":                           {ledger.KeepMarks + day, 80 * day, read, true},
		"old, and its time was never read":           {ledger.KeepMarks + day, 80 * day, nil, false},
		"old, and the book is younger than any mark": {ledger.KeepMarks + day, 7 * day, read, false},
	} {
		st := stock.State{Read: c.read, Head: stock.Head{NewSince: now.Add(-c.bookAge)}}
		if got := readLongAgo(now.Add(-c.age), now, st); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A book that was rebuilt lacks the marks of old rows.
	if !readLongAgo(now.Add(-ledger.KeepMarks), now, stock.State{Read: read}) {
		t.Error("a rebuilt book knows every old row")
	}
}
