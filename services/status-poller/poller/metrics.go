package poller

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeOpen = "stockbridge_poll_open_orders"
	gaugeLate = "stockbridge_poll_late_seconds"
	// sellersAtOnce is how many sellers the ledger is asked about at a time at a scrape.
	sellersAtOnce = 8
)

// Metrics is what the poller counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Looks by how: "batch", "single", "probe"; Details are the further calls for orders that moved.
	Looks   *prometheus.CounterVec
	Details prometheus.Counter
	// Absent: looks at accepted orders that the warehouse did not know.
	Absent prometheus.Counter
	// Exceptions by reason code: what a person has to look at.
	Exceptions *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_poll_looks_total", Help: "Calls that ask where orders stand.",
		}, []string{"how"}),
		Details: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_poll_details_total", Help: "Calls that ask for one document in full.",
		}),
		Absent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_poll_absent_total", Help: "Looks at accepted orders that the warehouse did not know.",
		}),
		Exceptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_poll_exceptions_total", Help: "Orders that need a person, by reason.",
		}, []string{"code"}),
	}
	// Shown as 0 from the start: of a counter that appears with 1 Prometheus sees no increase.
	for _, code := range []string{"warehouse.twice", "cancelled.after.shipped", "follow.ended"} {
		m.Exceptions.WithLabelValues(code)
	}
	r.MustRegister(m.Looks, m.Details, m.Absent, m.Exceptions)
	return m
}

// Followed shows how much is followed and how late the looks are. Every replica tells the same, whether it looks or not.
func Followed(sellers func() []*seller.Seller, l Ledger, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("followed", []pullmetrics.Gauge{
		{Name: gaugeOpen, Help: "Orders that are followed.", Labels: bySeller},
		{Name: gaugeLate, Help: "How long the most overdue order waits for its look; also while its seller is paused.", Labels: bySeller},
	}, func(ctx context.Context, tell pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(sellersAtOnce)
		for _, s := range sellers() {
			group.Go(func() error {
				open, err := l.CountFollowed(ctx, s.Name(), kind)
				if err != nil {
					return err
				}
				at, late := now(), 0.0
				due, err := l.Due(ctx, s.Name(), kind, at, 1)
				if err != nil {
					return err
				}
				if len(due) > 0 {
					late = max(0, at.Sub(following(due[0]).Due).Seconds())
				}
				tell(gaugeOpen, float64(open), s.Name())
				tell(gaugeLate, late, s.Name())
				return nil
			})
		}
		return group.Wait()
	})
}
