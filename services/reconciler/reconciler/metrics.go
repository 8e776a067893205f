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
	// sellersAtOnce is how many sellers the ledger is asked about at a time at a scrape.
	sellersAtOnce = 8
)

// Metrics is what the reconciler counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Asked counts the calls that ask warehouses.
	Asked prometheus.Counter
	// Again counts orders that were handed over again, Repaired those that are known since; by seller.
	Redelivered, Repaired *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Asked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_asked_total", Help: "Calls that ask warehouses after orders which the ledger does not explain.",
		}),
		Redelivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_again_total", Help: "Orders that were handed over again because nothing explained them.",
		}, []string{"seller"}),
		Repaired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_reconcile_repaired_total", Help: "Orders that were handed over again and are known since.",
		}, []string{"seller"}),
	}
	r.MustRegister(m.Asked, m.Redelivered, m.Repaired)
	return m
}

// Collected shows how sellers stand after their last runs. Every replica tells the same, whether it looks or not.
func Collector(sellers func() []*seller.Seller, l ledger.Books, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("reconciled", []pullmetrics.Gauge{
		{Name: gaugeUnexplained, Help: "Audited orders that nothing explains.", Labels: bySeller},
		{Name: gaugeOldest, Help: "How long ago the oldest order was audited that nothing explains; 0 when there is none.", Labels: bySeller},
		{Name: gaugeOpen, Help: "Audited orders that are not settled, by why.", Labels: []string{"seller", "why"}},
		{Name: gaugeFindings, Help: "Documents at the warehouses that no audit of ours tells of.", Labels: bySeller},
		{Name: gaugeButThere, Help: "Orders that were published as refused, and that the warehouse has.", Labels: bySeller},
		{Name: gaugeCycle, Help: "When all of a seller's audits were last looked at that were old enough; 0 when never.", Labels: bySeller},
	}, func(ctx context.Context, tell pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(sellersAtOnce)
		for _, s := range sellers() {
			group.Go(func() error {
				standing, err := ReadReport(ctx, l, s.Name())
				if err != nil {
					return err
				}
				oldest, cycle := 0.0, 0.0
				if !standing.Oldest.IsZero() {
					oldest = max(0, now().Sub(standing.Oldest).Seconds())
				}
				if !standing.CycleAt.IsZero() {
					cycle = float64(standing.CycleAt.UnixMilli()) / 1000
				}
				tell(gaugeUnexplained, float64(standing.Unexplained()), s.Name())
				tell(gaugeOldest, oldest, s.Name())
				tell(gaugeCycle, cycle, s.Name())
				tell(gaugeButThere, float64(standing.RefusedButThere), s.Name())
				tell(gaugeFindings, float64(standing.Findings), s.Name())
				for _, why := range Reasons() {
					tell(gaugeOpen, float64(standing.Open[why]), s.Name(), string(why))
				}
				return nil
			})
		}
		return group.Wait()
	})
}
