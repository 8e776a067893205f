package token

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/pullmetrics"
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

// Expiries is a collector of the times at which kept tokens expire: of the accounts with the least of their token's life left,
// whether that is a day or a year. An account without a consent shows nothing.
func (k *Keeper) Expiries() prometheus.Collector {
	const gauge = "stockbridge_token_expires_timestamp_seconds"
	return pullmetrics.New("tokens", []pullmetrics.Gauge{{
		Name: gauge, Help: "When the token of an account ends, Unix time, of those with the least of their life left. It is renewed well before.",
		Labels: []string{"seller", "account"},
	}}, func(_ context.Context, observe pullmetrics.Observe) error {
		type token struct {
			id   ID
			ends time.Time
			left float64 // of its life
		}
		var all []token
		now := k.o.Now()
		k.eachAccount(func(id ID, _ *sellerv1.Account) {
			if s, ok := k.State(id); ok {
				all = append(all, token{id, s.ExpiresAt, float64(s.ExpiresAt.Sub(now)) / float64(max(s.ExpiresAt.Sub(s.GrantedAt), 1))})
			}
		})
		slices.SortFunc(all, func(x, y token) int {
			return cmp.Or(cmp.Compare(x.left, y.left), cmp.Compare(x.id.Seller, y.id.Seller), cmp.Compare(x.id.Account, y.id.Account))
		})
		for _, t := range all[:min(len(all), pullmetrics.ShownAtMost)] {
			observe(gauge, float64(t.ends.Unix()), t.id.Seller, t.id.Account)
		}
		return nil
	})
}
