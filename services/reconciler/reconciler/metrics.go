package reconciler

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/book"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeUnexplained = "stockbridge_reconcile_unexplained"
	gaugeOldest      = "stockbridge_reconcile_oldest_unexplained_seconds"
	gaugeOpen        = "stockbridge_reconcile_open"
	gaugeFindings    = "stockbridge_reconcile_strangers"
	gaugeButThere    = "stockbridge_reconcile_refused_but_there"
	gaugeCycle       = "stockbridge_reconcile_cycle_timestamp_seconds"
)

// Metrics is what the reconciler counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Asked counts look-up calls to warehouses.
	Asked prometheus.Counter
	// Redelivered counts orders that were redelivered, Repaired those that are known since.
	Redelivered, Repaired prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Asked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_asked_total", Help: "Calls to warehouses that look up orders which the ledger does not explain.",
		}),
		Redelivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_again_total", Help: "Orders that were redelivered to the pusher because nothing explained them.",
		}),
		Repaired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_repaired_total", Help: "Orders that were redelivered to the pusher and are known since.",
		}),
	}
	r.MustRegister(m.Asked, m.Redelivered, m.Repaired)
	return m
}

// Collector shows how sellers stand after their last runs. Every replica reports the same.
func Collector(sellers func() []*seller.Seller, l ledger.Books, now func() time.Time) prometheus.Collector {
	bySeller, heads := []string{"seller"}, book.NewOverview[Report](l, headField)
	return pullmetrics.New("reconciled", []pullmetrics.Gauge{
		{Name: gaugeUnexplained, Help: "Audited orders that nothing explains."},
		{Name: gaugeOldest, Help: "How long ago a seller's oldest order was audited that nothing explains: of the sellers with the oldest.", Labels: bySeller, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeOpen, Help: "Audited orders that are not settled, by reason.", Labels: []string{"why"}},
		{Name: gaugeFindings, Help: "Documents at the warehouses that no audit explains."},
		{Name: gaugeButThere, Help: "Orders that were published as refused, and that the warehouse has: of the sellers with the most.", Labels: bySeller, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeCycle, Help: "When all of a seller's audits that were old enough were last checked; 0 when never. Of the sellers for whom that is longest ago.", Labels: bySeller, Lowest: pullmetrics.ShownAtMost},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		names := seller.Names(sellers())
		books := make([]string, len(names))
		for i, name := range names {
			books[i] = bookOf(name)
		}
		reports, err := heads.Read(ctx, books)
		if err != nil {
			return err
		}
		unexplained, findings, open, at := 0, 0, map[Reason]int{}, now()
		for i, name := range names {
			report := reports[i]
			if !report.Oldest.IsZero() {
				observe(gaugeOldest, at.Sub(report.Oldest).Seconds(), name)
			}
			cycle := 0.0
			if !report.CycleAt.IsZero() {
				cycle = float64(report.CycleAt.UnixMilli()) / 1000
			}
			observe(gaugeCycle, cycle, name)
			observe(gaugeButThere, float64(report.RefusedButThere), name)
			unexplained, findings = unexplained+report.Unexplained(), findings+report.Findings
			for reason, n := range report.Open {
				open[reason] += n
			}
		}
		observe(gaugeUnexplained, float64(unexplained))
		observe(gaugeFindings, float64(findings))
		for _, reason := range Reasons() {
			observe(gaugeOpen, float64(open[reason]), string(reason))
		}
		return nil
	})
}
