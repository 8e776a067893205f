package poller

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what the poller counts beyond what the bus counts of every consumer.
type Metrics struct {
	// Looks by how: "batch", "single", "probe"; Details are the further calls for orders that moved.
	Looks   *prometheus.CounterVec
	Details prometheus.Counter
	// Absent: looks at accepted orders that the warehouse did not know.
	Absent prometheus.Counter
	// Exceptions by reason code: what a person has to look at.
	Exceptions *prometheus.CounterVec
	// Open orders by seller, and how many seconds the most overdue one waits for its look.
	Open, Late *prometheus.GaugeVec
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
		Open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stockbridge_poll_open_orders", Help: "Orders that are followed.",
		}, []string{"seller"}),
		Late: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stockbridge_poll_late_seconds", Help: "How long the most overdue order waits for its look.",
		}, []string{"seller"}),
	}
	r.MustRegister(m.Looks, m.Details, m.Absent, m.Exceptions, m.Open, m.Late)
	return m
}
