package token

import (
	"github.com/prometheus/client_golang/prometheus"

	sellerv1 "stockbridge/proto/seller/v1"
)

// Metrics counts refreshes.
type Metrics struct{ refreshes *prometheus.CounterVec }

// NewMetrics makes the metrics and registers them with r unless that is nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "stockbridge_token_refreshes_total", Help: "Tries of this process to refresh a token, by what became of them.",
	}, []string{"outcome"})}
	for _, o := range []Outcome{Renewed, Refused, Lost, NotSent} {
		m.refreshes.WithLabelValues(string(o))
	}
	if r != nil {
		r.MustRegister(m.refreshes)
	}
	return m
}

// Expiries is a collector of the times at which the kept tokens expire. An account without a consent shows nothing.
func (k *Keeper) Expiries() prometheus.Collector { return expiryGauge{k} }

type expiryGauge struct{ k *Keeper }

func expires() *prometheus.Desc {
	return prometheus.NewDesc("stockbridge_token_expires_timestamp_seconds",
		"When the token of an account ends, Unix time. It is renewed well before.", []string{"seller", "account"}, nil)
}

// Describe sends the one metric.
func (e expiryGauge) Describe(to chan<- *prometheus.Desc) { to <- expires() }

// Collect sends each kept token's expiry.
func (e expiryGauge) Collect(to chan<- prometheus.Metric) {
	desc := expires()
	e.k.eachAccount(func(id ID, _ *sellerv1.Account) {
		if s, ok := e.k.State(id); ok {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(s.ExpiresAt.Unix()), id.Seller, id.Account)
		}
	})
}
