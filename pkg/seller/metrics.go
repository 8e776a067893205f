package seller

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/pullmetrics"
)

const (
	gaugeSellers = "stockbridge_sellers"
	gaugePaused  = "stockbridge_seller_paused"
)

// Metrics shows which sellers are paused. Every replica shows the same.
func (r *Registry) Metrics() prometheus.Collector {
	return pullmetrics.New("sellers", []pullmetrics.Gauge{
		{Name: gaugeSellers, Help: "Sellers that are set up."},
		{Name: gaugePaused, Help: "1 while the seller is paused, by operator, breaker or token. Missing while it is not.", Labels: []string{"seller", "by"}},
	}, func(_ context.Context, observe pullmetrics.Observe) error {
		all := r.All()
		observe(gaugeSellers, float64(len(all)))
		for _, s := range all {
			if s.Pause != nil {
				observe(gaugePaused, 1, s.Name(), strings.ToLower(strings.TrimPrefix(s.Pause.By.String(), "BY_")))
			}
		}
		return nil
	})
}
