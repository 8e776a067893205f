package follow

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
	// sellersAtOnce limits the concurrent ledger reads of one scrape.
	sellersAtOnce = 8
)

// Metrics is what a Follower counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Lookups by how: "batch", "single", "probe". Details are the further calls for documents that moved.
	Lookups *prometheus.CounterVec
	Details prometheus.Counter
	// NotFound counts look-ups of accepted documents that the warehouse did not know.
	NotFound prometheus.Counter
	// Exceptions by reason code: documents that need a person.
	Exceptions *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_poll_looks_total", Help: "Calls that look up where orders stand.",
		}, []string{"how"}),
		Details: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_poll_details_total", Help: "Calls that fetch one document's details.",
		}),
		NotFound: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_poll_absent_total", Help: "Look-ups of accepted orders that the warehouse did not know.",
		}),
		Exceptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_poll_exceptions_total", Help: "Orders that need a person, by reason.",
		}, []string{"code"}),
	}
	// Shown as 0 from the start: Prometheus sees no increase in a counter that first appears as 1.
	for _, code := range []string{"warehouse.twice", "warehouse.foreign", "cancelled.after.shipped", "cancelled.after.received", "follow.ended"} {
		m.Exceptions.WithLabelValues(code)
	}
	r.MustRegister(m.Lookups, m.Details, m.NotFound, m.Exceptions)
	return m
}

// Followed shows how many documents of the kinds are followed and how late their look-ups are. Every replica shows the same,
// whether it polls or not.
func Followed(kinds []Kind, sellers func() []*seller.Seller, l Ledger, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("followed", []pullmetrics.Gauge{
		{Name: gaugeOpen, Help: "Orders that are followed.", Labels: bySeller},
		{Name: gaugeLate, Help: "How long the most overdue order waits for its look-up; also while its seller is paused.", Labels: bySeller},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		var group errgroup.Group
		group.SetLimit(sellersAtOnce)
		for _, s := range sellers() {
			group.Go(func() error {
				at, open, late := now(), 0, 0.0
				for _, k := range kinds {
					n, err := l.CountFollowed(ctx, s.Name(), k.Name)
					if err != nil {
						return err
					}
					open += n
					due, err := l.Due(ctx, s.Name(), k.Name, at, 1)
					if err != nil {
						return err
					}
					if len(due) > 0 {
						late = max(late, at.Sub(following(due[0]).Due).Seconds())
					}
				}
				observe(gaugeOpen, float64(open), s.Name())
				observe(gaugeLate, late, s.Name())
				return nil
			})
		}
		return group.Wait()
	})
}
