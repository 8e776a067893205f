package e2e

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/vmi-ingester/ingester"
)

var (
	flowStories = flag.Int("flow-stories", 2, "how many drawn stories of a flow are played, on each ledger in turns")
	flowStory   = flag.Int("flow-story", 1, "the first of them")
)

// weather is a drawn story: what the sandbox does to its flow, what moves, and when the ledger is lost.
type weather struct {
	knobs  jdsandbox.Knobs
	acts   []jdsandbox.StockAct
	wipeAt int
}

var weathers = rapid.Custom(func(t *rapid.T) weather {
	chance := func(name string, of ...float64) float64 { return rapid.SampledFrom(of).Draw(t, name) }
	w := weather{knobs: jdsandbox.Knobs{
		Flow: jdsandbox.Flow{
			Order:     rapid.SampledFrom([]string{"ascending", "descending", "shuffled", "seconds"}).Draw(t, "order"),
			Duplicate: chance("duplicate", 0, 0.3), Drop: jdsandbox.Missing{Chance: chance("drop", 0, 0.1, 0.4), Readings: rapid.IntRange(1, 2).Draw(t, "readings")},
			Late:  jdsandbox.Late{Chance: chance("late", 0, 0.3), By: jdsandbox.Range{Max: jdsandbox.Duration(3 * time.Second)}},
			Shift: jdsandbox.Shift{Repeat: chance("repeat", 0, 0.3), Skip: chance("skip", 0, 0.1), Rows: rapid.IntRange(1, 20).Draw(t, "rows")},
			End:   jdsandbox.End{Wrong: chance("wrong ends", 0, 0.3)},
		},
	}}
	for _, fault := range []jdsandbox.Fault{{Kind: jdsandbox.Error, Code: "65"}, {Kind: jdsandbox.HTML}, {Kind: jdsandbox.Truncated}} {
		if fault.Chance = chance(string(fault.Kind), 0, 0.1); fault.Chance > 0 {
			fault.Methods = []string{flowMethod}
			w.knobs.Faults = append(w.knobs.Faults, fault)
		}
	}
	kinds := []jdsandbox.ActKind{jdsandbox.Sale, jdsandbox.Sale, jdsandbox.Receipt, jdsandbox.Return, jdsandbox.Gain, jdsandbox.Loss, jdsandbox.SetStock, jdsandbox.RatioChange}
	for range rapid.IntRange(5, 40).Draw(t, "acts") {
		act := jdsandbox.StockAct{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
		if act.Kind == jdsandbox.RatioChange {
			act.Percent = rapid.Int64Range(50, 150).Draw(t, "percent")
		} else {
			act.GoodsNo, act.Num = fmt.Sprintf("EMG%d", rapid.IntRange(1, 4).Draw(t, "goods")), rapid.Int64Range(1, 9).Draw(t, "num")
		}
		w.acts = append(w.acts, act)
	}
	w.wipeAt = rapid.IntRange(0, len(w.acts)-1).Draw(t, "wipe")
	return w
})

// The sandbox omits, repeats, mixes up and delays rows or answers something else, and the ledger is lost midway. Still
// the book equals the sandbox's stock in the end, each movement to book is published under one id, and JD is not
// flooded. No stock is queried.
func TestWhateverTheSandboxDoesTheBookBecomesItsStock(t *testing.T) {
	t.Parallel()
	for n := *flowStory; n < *flowStory+*flowStories; n++ {
		drawn := weathers.Example(n)
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Logf("flow %+v, faults %+v, %d acts, the ledger lost after %d", drawn.knobs.Flow, drawn.knobs.Faults, len(drawn.acts), drawn.wipeAt)
			playFlow(t, drawn, testenv.Ledgers[n%len(testenv.Ledgers)])
		})
	}
}

func playFlow(t *testing.T, drawn weather, ledger string) {
	began := time.Now()
	setup := func(s *sellerv1.Setup) {
		followed(s)
		s.Stock.Lag, s.Stock.CountEvery = durationpb.New(time.Second), durationpb.New(24*time.Hour)
	}
	w := testenv.Start(t, testenv.Options{Ledger: ledger, Setup: setup, Knobs: drawn.knobs, Ingest: func(c *ingester.Config) { c.Attempts, c.GapAttempts, c.BreakerAfter = 50, 50, 1000 }})
	f := newFlow(t, w)
	f.fill(150, 4)
	for i, act := range drawn.acts {
		if i == drawn.wipeAt {
			w.WipeLedger()
		}
		act.DeptNo, act.WarehouseNo, act.ShopNo = f.dept, f.house, f.place.ShopNo
		_, err := f.JD.Move(act)
		f.must(err)
	}
	// What is missing at the very end shows only when something follows: one row that the faults do not touch.
	f.must(f.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Flow.Drop, k.Flow.Late = jdsandbox.Missing{}, jdsandbox.Late{} }))
	for goods := range 4 {
		f.move(jdsandbox.Receipt, fmt.Sprintf("EMG%d", goods+1), 1)
	}
	f.untilComplete()

	windows, gaps, asked := 0, 0, f.JD.Counters().Calls
	f.must(f.Bus.Events(t.Context(), bus.EventQuery{Names: []string{event.VMIWindowDue.Name, event.VMIGapFound.Name}}, func(e bus.Stored) error {
		if e.Name == event.VMIGapFound.Name {
			gaps++
		} else {
			windows++
		}
		return nil
	}))
	ticks := int(time.Since(began)/time.Second) + 1
	if most := 4*ticks + 20 + 2*gaps; windows > most {
		t.Errorf("%d windows in %d ticks with %d gaps, want at most %d", windows, ticks, gaps, most)
	}
	if calls, most := int(asked[flowMethod]), 12*windows+60*gaps; calls > most {
		t.Errorf("%d calls for %d windows and %d gaps, want at most %d", calls, windows, gaps, most)
	}
}
