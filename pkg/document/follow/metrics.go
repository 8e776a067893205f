package follow

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeOpen = "stockbridge_poll_open_orders"
	gaugeMost = "stockbridge_poll_open_orders_top"
	gaugeLate = "stockbridge_poll_late_seconds"
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

// Followed shows how many documents of the kinds are followed and whose look-ups are late. Every replica shows the same,
// whether it polls or not.
func Followed(kinds []Kind, sellers func() []*seller.Seller, l Ledger, now func() time.Time) prometheus.Collector {
	bySeller := []string{"seller"}
	return pullmetrics.New("followed", []pullmetrics.Gauge{
		{Name: gaugeOpen, Help: "Orders that are followed."},
		{Name: gaugeMost, Help: "Orders that are followed, of the sellers with the most.", Labels: bySeller, Highest: pullmetrics.ShownAtMost},
		{Name: gaugeLate, Help: "How long a seller's most overdue order waits for its look-up: of the latest sellers that are not paused.", Labels: bySeller, Highest: pullmetrics.ShownAtMost},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		all := sellers()
		names, open, late := seller.Names(all), make([]int, len(all)), make([]time.Duration, len(all))
		for _, k := range kinds {
			counts, err := l.CountFollowed(ctx, k.Name, names...)
			if err != nil {
				return err
			}
			at := now()
			for i, c := range counts {
				if open[i] += c.N; c.N > 0 {
					late[i] = max(late[i], at.Sub(c.Since))
				}
			}
		}
		sum := 0
		for i, s := range all {
			sum += open[i]
			observe(gaugeMost, float64(open[i]), s.Name())
			if s.Pause == nil {
				observe(gaugeLate, late[i].Seconds(), s.Name())
			}
		}
		observe(gaugeOpen, float64(sum))
		return nil
	})
}
