package pusher

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is what the pusher counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Seconds from the event's arrival on the stream to the warehouse's acceptance.
	Seconds prometheus.Histogram
	// Doubts: sendings whose answer was lost.
	Doubts prometheus.Counter
	// Twice: outbound numbers with several documents at the warehouse. Must stay 0.
	Twice prometheus.Counter
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "stockbridge_push_seconds", Help: "From the audit's arrival on the stream to the warehouse's acceptance.",
			Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
		}),
		Doubts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_unknown_total", Help: "Sendings whose answer was lost.",
		}),
		Twice: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stockbridge_push_twice_total", Help: "Outbound numbers found with several documents at the warehouse.",
		}),
	}
	r.MustRegister(m.Seconds, m.Doubts, m.Twice)
	return m
}

func (m *Metrics) accepted(after time.Duration) { m.Seconds.Observe(after.Seconds()) }
