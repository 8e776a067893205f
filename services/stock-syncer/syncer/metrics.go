package syncer

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeLate    = "stockbridge_stock_count_late_seconds"
	gaugeDirty   = "stockbridge_share_waiting"
	gaugeRatio   = "stockbridge_share_ratio_stale"
	gaugeTrusted = "stockbridge_share_uncounted"
	// warehousesAtOnce is how many warehouses the ledger is read for in parallel at a scrape.
	warehousesAtOnce = 8
)

// Metrics is what the syncer counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Counted is complete counts, Shifts places where rows moved between pages, Failed what ended a run, by reason:
	// "call", "shifted", "standing".
	Counted, Shifts prometheus.Counter
	Failed          *prometheus.CounterVec
	// Published is shares published, Drift differences found, Corrected books that were set to the warehouse's
	// figure.
	Published        *prometheus.CounterVec
	Drift, Corrected *prometheus.CounterVec
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
		Published: vec("stockbridge_share_told_total", "Shares published.", "seller"),
		Drift:     vec("stockbridge_stock_drift_total", "Differences between a book of stock and the warehouse that were published.", "seller"),
		Corrected: vec("stockbridge_stock_corrected_total", "Books of stock that a rule set to the warehouse's figure.", "seller"),
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

func (m *Metrics) countPublished(seller string, n int) {
	if n > 0 {
		m.Published.WithLabelValues(seller).Add(float64(n))
	}
}

// Collector shows how old counts are and what shares wait for. Every replica reports the same.
func Collector(sellers func() []*seller.Seller, l Ledger, settle time.Duration, now func() time.Time) prometheus.Collector {
	labels := []string{"seller", "warehouse"}
	return pullmetrics.New("stock", []pullmetrics.Gauge{
		{Name: gaugeLate, Help: "For how long a count of a warehouse is overdue; also while its seller is paused.", Labels: labels},
		{Name: gaugeDirty, Help: "Goods whose shares wait to be evaluated.", Labels: labels},
		{Name: gaugeRatio, Help: "1 while a change of a ratio at the warehouse is not answered: shares do not rise.", Labels: labels},
		{Name: gaugeTrusted, Help: "1 while shares may only shrink, until a new count.", Labels: labels},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(warehousesAtOnce)
		for _, s := range sellers() {
			for _, code := range Warehouses(s) {
				group.Go(func() error {
					o, err := ReadOverview(ctx, l, s, code, settle)
					if err != nil {
						return err
					}
					bit := func(b bool) float64 {
						if b {
							return 1
						}
						return 0
					}
					due := o.Head.Seen
					if counted := o.Head.Counted; !counted.IsZero() {
						due = counted.Add(s.Following().CountEvery)
					}
					if !due.IsZero() {
						observe(gaugeLate, max(0, now().Sub(due).Seconds()), s.Name(), code)
					}
					if len(s.Pools(code)) > 0 {
						observe(gaugeDirty, float64(o.Waiting), s.Name(), code)
						observe(gaugeRatio, bit(o.Head.Ratio != nil), s.Name(), code)
						observe(gaugeTrusted, bit(!o.Trusted), s.Name(), code)
					}
					return nil
				})
			}
		}
		return group.Wait()
	})
}
