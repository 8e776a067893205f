package reconciler

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

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
	// sellersAtOnce is how many sellers the ledger is read for in parallel at a scrape.
	sellersAtOnce = 8
)

// Metrics is what the reconciler counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Asked counts look-up calls to warehouses.
	Asked prometheus.Counter
	// Redelivered counts orders that were redelivered, Repaired those that are known since; by seller.
	Redelivered, Repaired *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Asked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_asked_total", Help: "Calls to warehouses that look up orders which the ledger does not explain.",
		}),
		Redelivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_again_total", Help: "Orders that were redelivered to the pusher because nothing explained them.",
		}, []string{"seller"}),
		Repaired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_repaired_total", Help: "Orders that were redelivered to the pusher and are known since.",
		}, []string{"seller"}),
	}
	r.MustRegister(m.Asked, m.Redelivered, m.Repaired)
	return m
}

// Collector shows how sellers stand after their last runs. Every replica reports the same.
func Collector(sellers func() []*seller.Seller, l ledger.Books, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("reconciled", []pullmetrics.Gauge{
		{Name: gaugeUnexplained, Help: "Audited orders that nothing explains.", Labels: bySeller},
		{Name: gaugeOldest, Help: "How long ago the oldest order was audited that nothing explains; 0 when there is none.", Labels: bySeller},
		{Name: gaugeOpen, Help: "Audited orders that are not settled, by reason.", Labels: []string{"seller", "why"}},
		{Name: gaugeFindings, Help: "Documents at the warehouses that no audit explains.", Labels: bySeller},
		{Name: gaugeButThere, Help: "Orders that were published as refused, and that the warehouse has.", Labels: bySeller},
		{Name: gaugeCycle, Help: "When all of a seller's audits that were old enough were last checked; 0 when never.", Labels: bySeller},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(sellersAtOnce)
		for _, s := range sellers() {
			group.Go(func() error {
				report, err := ReadReport(ctx, l, s.Name())
				if err != nil {
					return err
				}
				oldest, cycle := 0.0, 0.0
				if !report.Oldest.IsZero() {
					oldest = max(0, now().Sub(report.Oldest).Seconds())
				}
				if !report.CycleAt.IsZero() {
					cycle = float64(report.CycleAt.UnixMilli()) / 1000
				}
				observe(gaugeUnexplained, float64(report.Unexplained()), s.Name())
				observe(gaugeOldest, oldest, s.Name())
				observe(gaugeCycle, cycle, s.Name())
				observe(gaugeButThere, float64(report.RefusedButThere), s.Name())
				observe(gaugeFindings, float64(report.Findings), s.Name())
				for _, reason := range Reasons() {
					observe(gaugeOpen, float64(report.Open[reason]), s.Name(), string(reason))
				}
				return nil
			})
		}
		return group.Wait()
	})
}
