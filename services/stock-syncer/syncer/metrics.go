package syncer

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/book"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeLate    = "stockbridge_stock_count_late_seconds"
	gaugeDirty   = "stockbridge_share_waiting"
	gaugeRatio   = "stockbridge_share_ratio_stale"
	gaugeTrusted = "stockbridge_share_uncounted"
)

// Metrics is what the syncer counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Counted is complete counts, Shifts places where rows moved between pages, Failed what ended a run, by reason:
	// "call", "shifted", "standing".
	Counted, Shifts prometheus.Counter
	Failed          *prometheus.CounterVec
	// Published is shares published, Drift differences found, Corrected books that were set to the warehouse's
	// figure.
	Published        prometheus.Counter
	Drift, Corrected prometheus.Counter
	// Set is shares set at the warehouse, by outcome: "ok", "failed".
	Set *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &Metrics{
		Counted:   counter("stockbridge_stock_counts_total", "Complete counts of a warehouse."),
		Shifts:    counter("stockbridge_stock_count_shifts_total", "Times that rows moved between pages while a warehouse was counted."),
		Failed:    vec("stockbridge_stock_count_failures_total", "Runs that ended without a count, by reason.", "why"),
		Published: counter("stockbridge_share_told_total", "Shares published."),
		Drift:     counter("stockbridge_stock_drift_total", "Differences between a book of stock and the warehouse that were published."),
		Corrected: counter("stockbridge_stock_corrected_total", "Books of stock that a rule set to the warehouse's figure."),
		Set:       vec("stockbridge_share_set_total", "Shares set at the warehouse, by outcome.", "outcome"),
	}
	for _, why := range []string{"call", "shifted", "standing"} {
		m.Failed.WithLabelValues(why)
	}
	for _, outcome := range []string{"ok", "failed"} {
		m.Set.WithLabelValues(outcome)
	}
	r.MustRegister(m.Counted, m.Shifts, m.Failed, m.Published, m.Drift, m.Corrected, m.Set)
	return m
}

// Collector shows which counts are late and what shares wait for. Every replica reports the same.
func Collector(sellers func() []*seller.Seller, l Ledger, settle time.Duration, now func() time.Time) prometheus.Collector {
	labels, read := []string{"seller", "warehouse"}, overviews{l, book.NewOverview[Head](l, fieldHead)}
	return pullmetrics.New("stock", []pullmetrics.Gauge{
		{Name: gaugeLate, Help: "For how long a count of a warehouse is overdue: of the latest whose sellers are not paused.", Labels: labels, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeDirty, Help: "Goods whose shares wait to be evaluated."},
		{Name: gaugeRatio, Help: "1 for a warehouse where a change of a ratio is not answered: shares do not rise. 20 at most.", Labels: labels, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeTrusted, Help: "Warehouses of which shares may only shrink, until a new count."},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var at []followed
		for _, s := range sellers() {
			for _, code := range Warehouses(s) {
				at = append(at, followed{seller: s, code: code})
			}
		}
		if err := read.read(ctx, at, settle); err != nil {
			return err
		}
		waiting, untrusted := 0, 0
		for _, c := range at {
			due := c.Head.Seen
			if counted := c.Head.Counted; !counted.IsZero() {
				due = counted.Add(c.seller.Following().CountEvery)
			}
			if !due.IsZero() && c.seller.Pause == nil {
				observe(gaugeLate, now().Sub(due).Seconds(), c.seller.Name(), c.code)
			}
			if len(c.seller.Pools(c.code)) == 0 {
				continue
			}
			waiting += c.Waiting
			if !c.Trusted {
				untrusted++
			}
			if c.Head.Ratio != nil {
				observe(gaugeRatio, 1, c.seller.Name(), c.code)
			}
		}
		observe(gaugeDirty, float64(waiting))
		observe(gaugeTrusted, float64(untrusted))
		return nil
	})
}
