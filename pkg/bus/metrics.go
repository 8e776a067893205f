package bus

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what is served, and measures the backlog at each scrape.
type Metrics struct {
	backlog      *backlogMetrics
	handled      *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	delayed      *prometheus.CounterVec
	deadLettered *prometheus.CounterVec
	idTaken      *prometheus.CounterVec
	inFlight     *prometheus.GaugeVec
	passedOver   *prometheus.CounterVec
	slots        *prometheus.GaugeVec
}

// NewMetrics creates the metrics and registers them with r unless that is nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		backlog: newBacklogMetrics(),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_bus_handled_total", Help: "Messages settled, by what became of them.",
		}, []string{"consumer", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stockbridge_bus_handling_seconds", Help: "From the start of the handler to the ack.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 25},
		}, []string{"consumer"}),
		delayed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_bus_parked_total", Help: "Retries that were delayed.",
		}, []string{"consumer"}),
		deadLettered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_bus_shelved_total", Help: "Messages that became dead letters, by kind (dlq, held) and class.",
		}, []string{"consumer", "kind", "class"}),
		idTaken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_bus_id_taken_total", Help: "Events whose Nats-Msg-Id another message had; they were stored under a new one.",
		}, []string{"consumer"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stockbridge_bus_in_flight", Help: "Messages being handled now.",
		}, []string{"consumer"}),
	}
	m.passedOver = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "stockbridge_bus_passed_over_total", Help: "Messages that the main consumer left to a lane of their seller.",
	}, []string{"consumer"})
	m.slots = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "stockbridge_bus_slots", Help: "How many messages of a consumer this process handles at a time.",
	}, []string{"consumer"})
	if r != nil {
		r.MustRegister(m.backlog.gauges, m.handled, m.seconds, m.delayed, m.deadLettered, m.idTaken, m.inFlight, m.passedOver, m.slots)
	}
	return m
}
