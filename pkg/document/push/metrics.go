package push

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/seller"
)

const (
	gaugeUnknown      = "stockbridge_push_unknown_orders"
	gaugeUnknownSince = "stockbridge_push_unknown_oldest_seconds"
)

// Metrics is what the pusher counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Seconds is the time from the event's arrival on the stream to the warehouse's acceptance.
	Seconds prometheus.Histogram
	// Unknown counts sends whose answer was lost.
	Unknown prometheus.Counter
	// Duplicates counts outbound numbers with several documents at the warehouse. It must stay 0.
	Duplicates prometheus.Counter
	// Foreign counts documents found under an order's number that are another order's.
	Foreign prometheus.Counter
	// Expired counts dead letters erased for their age ("dlq"), and held orders that became dead letters ("held").
	Expired *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stockbridge_push_seconds", Help: "From the audit's arrival on the stream to the warehouse's acceptance.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
		Unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_unknown_total", Help: "Sends whose answer was lost.",
		}),
		Duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_twice_total", Help: "Outbound numbers found with several documents at the warehouse.",
		}),
		Foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_foreign_total", Help: "Times that another order's document was found under an order's number, and not taken for its own.",
		}),
		Expired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_push_aged_total", Help: "Dead letters erased because they were too old (dlq), and orders held so long that they became dead letters (held).",
		}, []string{"kind"}),
	}
	r.MustRegister(m.Seconds, m.Unknown, m.Duplicates, m.Foreign, m.Expired)
	for _, kind := range []string{event.Dead, event.Held} {
		m.Expired.WithLabelValues(kind) // shown as 0 from the start
	}
	return m
}

func (m *Metrics) accepted(after time.Duration) { m.Seconds.Observe(after.Seconds()) }

// Unknown shows of how many documents of the kinds the outcome is unknown now, and of which sellers for longest. Every replica
// shows the same.
func Unknown(kinds []string, sellers func() []*seller.Seller, l ledger.Documents, now func() time.Time) prometheus.Collector {
	return pullmetrics.New("unknown", []pullmetrics.Gauge{
		{Name: gaugeUnknown, Help: "Orders whose answer was lost and which are being looked up now."},
		{Name: gaugeUnknownSince, Help: "How long a seller's oldest of them is unknown: of the sellers with the oldest.", Labels: []string{"seller"}, Highest: pullmetrics.ShownAtMost},
	}, func(ctx context.Context, observe pullmetrics.Observe) error {
		names := seller.Names(sellers())
		sum, age := 0, make([]time.Duration, len(names))
		for _, k := range kinds {
			counts, err := l.CountUnknown(ctx, k, names...)
			if err != nil {
				return err
			}
			at := now()
			for i, c := range counts {
				if sum += c.N; c.N > 0 {
					age[i] = max(age[i], at.Sub(c.Since))
				}
			}
		}
		for i, name := range names {
			observe(gaugeUnknownSince, age[i].Seconds(), name)
		}
		observe(gaugeUnknown, float64(sum))
		return nil
	})
}
