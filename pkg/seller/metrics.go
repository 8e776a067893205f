package seller

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/pullmetrics"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	gaugeSellers  = "stockbridge_sellers"
	gaugePausedBy = "stockbridge_sellers_paused"
	gaugePaused   = "stockbridge_seller_paused"
)

// Names are the names of sellers, in their order.
func Names(all []*Seller) []string {
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name()
	}
	return names
}

// pausers are the values of the label by.
func pausers() []string {
	var all []string
	for _, name := range sellerv1.Paused_By_name {
		if by := pausedBy(name); by != "unspecified" {
			all = append(all, by)
		}
	}
	return all
}

func pausedBy(by string) string { return strings.ToLower(strings.TrimPrefix(by, "BY_")) }

// Metrics shows how many sellers are paused, and which for longest. Every replica shows the same.
func (r *Registry) Metrics() prometheus.Collector {
	return pullmetrics.New("sellers", []pullmetrics.Gauge{
		{Name: gaugeSellers, Help: "Sellers that are set up."},
		{Name: gaugePausedBy, Help: "Sellers that are paused, by operator, breaker or token.", Labels: []string{"by"}},
		{Name: gaugePaused, Help: "1 for a seller that is paused, by operator, breaker or token: of each the sellers that are paused for longest.", Labels: []string{"seller", "by"}},
	}, func(_ context.Context, observe pullmetrics.Observe) error {
		all := r.All()
		paused := map[string][]*Seller{}
		for _, s := range all {
			if s.Pause != nil {
				by := pausedBy(s.Pause.By.String())
				paused[by] = append(paused[by], s)
			}
		}
		observe(gaugeSellers, float64(len(all)))
		for _, by := range pausers() {
			of := paused[by]
			observe(gaugePausedBy, float64(len(of)), by)
			slices.SortFunc(of, func(x, y *Seller) int {
				return cmp.Or(x.Pause.At.Compare(y.Pause.At), cmp.Compare(x.Name(), y.Name()))
			})
			for _, s := range of[:min(len(of), pullmetrics.ShownAtMost)] {
				observe(gaugePaused, 1, s.Name(), by)
			}
		}
		return nil
	})
}
