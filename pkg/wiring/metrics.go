package wiring

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/pullmetrics"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/kinds"
)

const (
	gaugeBudget     = "stockbridge_quota_budget_calls_per_second"
	gaugeConcurrent = "stockbridge_quota_budget_concurrent_calls"
	// applicationsShown is how many applications have a series of their own: those with the largest budgets. The rest is
	// added up, because each seller may have its own.
	applicationsShown = 100
)

// Metrics counts calls to warehouses.
type Metrics struct {
	warehouse    *callmetrics.Metrics
	calls, waits *prometheus.CounterVec
	names        callmetrics.Names
}

// NewMetrics registers them, and gauges of the applications' call budgets.
func NewMetrics(r prometheus.Registerer, sellers func() []*seller.Seller) *Metrics {
	m := &Metrics{
		warehouse: callmetrics.New(r),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_calls_total", Help: "Calls that had their turn in the budget.",
		}, []string{"class"}),
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_waits_total", Help: "Calls that were put off because their turn in the budget was too far away.",
		}, []string{"application", "class"}),
	}
	for _, class := range quota.Classes() {
		m.calls.WithLabelValues(string(class)) // shown as 0 from the start
	}
	byApplication := []string{"application"}
	budgets := pullmetrics.New("budgets", []pullmetrics.Gauge{
		{Name: gaugeBudget, Help: "Calls a second that an application may make, all replicas and all its accounts together.", Labels: byApplication},
		{Name: gaugeConcurrent, Help: "Calls at a time that an application may make, all replicas and all its accounts together.", Labels: byApplication},
	}, func(_ context.Context, observe pullmetrics.Observe) error {
		for _, b := range budgetsOf(sellers()) {
			observe(gaugeBudget, b.limit.PerSecond, b.application)
			observe(gaugeConcurrent, float64(b.limit.Concurrent), b.application)
		}
		return nil
	})
	r.MustRegister(m.calls, m.waits, budgets)
	return m
}

// budget is what the accounts of one application may call together.
type budget struct {
	application string
	limit       ledger.Limit
}

// budgetsOf are the budgets of all applications, each once: the largest by calls a second, and the sum of the others. Accounts
// of one application that say different limits share the largest.
func budgetsOf(sellers []*seller.Seller) []budget {
	of := map[string]budget{}
	for _, s := range sellers {
		for _, a := range s.Setup.Accounts {
			q := kinds.Of(a).Capabilities(a).Quota
			if q.Key == "" {
				continue
			}
			b, limit := of[q.Application], limitOf(a, q)
			b.application = q.Application
			b.limit.PerSecond, b.limit.Concurrent = max(b.limit.PerSecond, limit.PerSecond), max(b.limit.Concurrent, limit.Concurrent)
			of[q.Application] = b
		}
	}
	all := slices.SortedFunc(maps.Values(of), func(x, y budget) int {
		return cmp.Or(cmp.Compare(y.limit.PerSecond, x.limit.PerSecond), cmp.Compare(x.application, y.application))
	})
	if len(all) <= applicationsShown {
		return all
	}
	rest := budget{application: callmetrics.Other}
	for _, b := range all[applicationsShown:] {
		rest.limit.PerSecond += b.limit.PerSecond
		rest.limit.Concurrent += b.limit.Concurrent
	}
	return append(all[:applicationsShown], rest)
}

// forApplication counts the calls of one application; nil counts nothing.
func (m *Metrics) forApplication(application string) *quotaCounts {
	if m == nil {
		return nil
	}
	return &quotaCounts{m, application}
}

// quotaCounts counts for one application.
type quotaCounts struct {
	metrics     *Metrics
	application string
}

func (c *quotaCounts) called(class quota.Class) {
	if c != nil {
		c.metrics.calls.WithLabelValues(string(class)).Inc()
	}
}

func (c *quotaCounts) deferred(class quota.Class) {
	if c != nil {
		c.metrics.waits.WithLabelValues(c.metrics.names.Of(c.application), string(class)).Inc()
	}
}
