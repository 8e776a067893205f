package pullmetrics_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stockbridge/pkg/pullmetrics"
)

var gauges = []pullmetrics.Gauge{{Name: "parcels", Help: "Parcels.", Labels: []string{"bay"}}}

func TestAskingIsBoundedAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		a := pullmetrics.New("parcels", gauges, func(ctx context.Context, observe pullmetrics.Observe) error {
			asked++
			if asked == 3 { // hangs
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(time.Second)
			observe("parcels", float64(asked), "a")
			return nil
		})
		for _, step := range []struct {
			name   string
			after  time.Duration
			asked  int
			shown  string
			failed string
			took   time.Duration
		}{
			{"the first scrape asks", 0, 1, "parcels{bay=\"a\"} 1\n", "0", time.Second},
			{"one soon after gets the same", time.Second, 1, "parcels{bay=\"a\"} 1\n", "0", 0},
			{"it rests in proportion to what asking took", 15 * time.Second, 1, "parcels{bay=\"a\"} 1\n", "0", 0},
			{"then it asks again", 5 * time.Second, 2, "parcels{bay=\"a\"} 2\n", "0", time.Second},
			{"without an answer nothing is reported", time.Minute, 3, "", "1", 2 * time.Second},
		} {
			time.Sleep(step.after)
			began := time.Now()
			want := "# HELP stockbridge_scrape_errors_total Scrapes at which something could not be asked for: its metrics are missing.\n" +
				"# TYPE stockbridge_scrape_errors_total counter\nstockbridge_scrape_errors_total{what=\"parcels\"} " + step.failed + "\n"
			if step.shown != "" {
				want = "# HELP parcels Parcels.\n# TYPE parcels gauge\n" + step.shown + want
			}
			r := prometheus.NewRegistry()
			r.MustRegister(a)
			if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
				t.Errorf("%s: %v", step.name, err)
			}
			if took := time.Since(began); asked != step.asked || took != step.took {
				t.Errorf("%s: asked %d times, took %v", step.name, asked, took)
			}
		}
	})
}

func TestCollectorsShareTheCounterOfFailures(t *testing.T) {
	r := prometheus.NewRegistry()
	broken := func(context.Context, pullmetrics.Observe) error { return errors.New("broken") }
	r.MustRegister(pullmetrics.New("one", nil, broken), pullmetrics.New("two", gauges, broken))
	if n, err := testutil.GatherAndCount(r, "stockbridge_scrape_errors_total"); err != nil || n != 2 {
		t.Errorf("%d counters, %v", n, err)
	}
}

// However many there are, a scrape names a few: those in most trouble.
func TestTheHighestAreShown(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(pullmetrics.New("parcels", []pullmetrics.Gauge{
		{Name: "late", Help: "Late.", Labels: []string{"bay"}, Highest: 3},
		{Name: "seen", Help: "Seen.", Labels: []string{"bay"}, Lowest: 2}, {Name: "parcels", Help: "Parcels."},
	}, func(_ context.Context, observe pullmetrics.Observe) error {
		for i := range 2000 {
			observe("late", float64(i%7), fmt.Sprintf("b%04d", i))
			observe("seen", float64(3000-i%7), fmt.Sprintf("b%04d", i))
		}
		observe("parcels", 0)
		return nil
	}))
	want := `# HELP late Late.
# TYPE late gauge
late{bay="b0006"} 6
late{bay="b0013"} 6
late{bay="b0020"} 6
# HELP parcels Parcels.
# TYPE parcels gauge
parcels 0
# HELP seen Seen.
# TYPE seen gauge
seen{bay="b0006"} 2994
seen{bay="b0013"} 2994
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "late", "parcels", "seen"); err != nil {
		t.Error(err)
	}
	none := prometheus.NewRegistry()
	none.MustRegister(pullmetrics.New("parcels", []pullmetrics.Gauge{{Name: "late", Help: "Late.", Labels: []string{"bay"}, Highest: 3}},
		func(_ context.Context, observe pullmetrics.Observe) error { observe("late", 0, "a"); return nil }))
	if n, err := testutil.GatherAndCount(none, "late"); err != nil || n != 0 {
		t.Errorf("nobody is late, %d are shown, %v", n, err)
	}
}
