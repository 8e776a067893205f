package wiring

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/kinds"
)

const gaugeBudget = "stockbridge_quota_budget_calls_per_second"

// Metrics counts calls to warehouses.
type Metrics struct {
	warehouse    *callmetrics.Metrics
	calls, waits *prometheus.CounterVec
}

// NewMetrics registers them, and a gauge of the sellers' call budgets.
func NewMetrics(r prometheus.Registerer, sellers func() []*seller.Seller) *Metrics {
	labels := []string{"seller", "account", "class"}
	m := &Metrics{
		warehouse: callmetrics.New(r),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_calls_total", Help: "Calls that had their turn in the budget.",
		}, labels),
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_waits_total", Help: "Calls that were put off because their turn in the budget was too far away.",
		}, labels),
	}
	budgets := pullmetrics.New("budgets", []pullmetrics.Gauge{{
		Name: gaugeBudget, Help: "Calls a second that the account may make, all replicas together. Accounts of one application share it.",
		Labels: []string{"seller", "account"},
	}}, func(_ context.Context, observe pullmetrics.Observe) error {
		for _, s := range sellers() {
			for _, a := range s.Setup.Accounts {
				if q := kinds.Of(a).Capabilities(a).Quota; q.Key != "" {
					observe(gaugeBudget, limitOf(a, q).PerSecond, s.Name(), a.Name)
				}
			}
		}
		return nil
	})
	r.MustRegister(m.calls, m.waits, budgets)
	return m
}

// forAccount counts the calls of one account; nil counts nothing.
func (m *Metrics) forAccount(seller, account string) *quotaCounts {
	if m == nil {
		return nil
	}
	labels := prometheus.Labels{"seller": seller, "account": account}
	return &quotaCounts{calls: m.calls.MustCurryWith(labels), waits: m.waits.MustCurryWith(labels)}
}

// quotaCounts is the two counters of one account, by class.
type quotaCounts struct{ calls, waits *prometheus.CounterVec }

func (c *quotaCounts) called(class quota.Class) {
	if c != nil {
		c.calls.WithLabelValues(string(class)).Inc()
	}
}

func (c *quotaCounts) deferred(class quota.Class) {
	if c != nil {
		c.waits.WithLabelValues(string(class)).Inc()
	}
}
