// Package callmetrics counts and traces the calls of warehouse adapters. Every adapter reports its calls here, so all of
// them have the same metrics. It does not know what a call is about.
package callmetrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/quota"
	"stockbridge/pkg/trace"
)

// Metrics counts calls to all warehouses of a process.
type Metrics struct {
	seconds *prometheus.HistogramVec
	refused *prometheus.CounterVec
	names   Names
}

// New registers the metrics.
func New(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stockbridge_warehouse_call_seconds",
			Help: "Requests to the warehouse from the moment their turn came, by what came of them.",
			// From a sandbox on the same host to the limit of a call, 10 s.
			Buckets: []float64{.005, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"method", "class", "outcome"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_refused_total", Help: "Requests that the warehouse refused because there were too many.",
		}, []string{"application"}),
	}
	r.MustRegister(m.seconds, m.refused)
	return m
}

// Account counts the calls of one account with one class.
type Account struct {
	metrics     *Metrics
	adapter     string
	application string
	class       string
}

// Account returns what counts an account's calls. adapter is the prefix of span names and attributes, such as "jd";
// application is warehouse.Quota's.
func (m *Metrics) Account(adapter, application string, class quota.Class) *Account {
	return &Account{m, adapter, application, string(class)}
}

// Other is the label of all applications that a metric does not name.
const Other = "other"

// namedAtMost is how many applications the metrics of a process name: those that were counted first. It is a limit and no
// choice: installations have few applications, unless each of their sellers has its own.
const namedAtMost = 20

// Names gives applications their label in metrics. Counters stay complete, however many applications there are.
type Names struct {
	mu    sync.Mutex
	named map[string]bool
}

// Of is the label of an application.
func (n *Names) Of(application string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.named == nil {
		n.named = map[string]bool{}
	}
	if !n.named[application] && len(n.named) >= namedAtMost {
		return Other
	}
	n.named[application] = true
	return application
}

// Outcome is how a call ended.
type Outcome struct {
	// Name is the metric's label, such as "ok", "lost" or a class of refusals.
	Name string
	// Failed marks the call's span as failed.
	Failed bool
	// TooMany: the warehouse refused the call because there were too many.
	TooMany bool
	// Code is the warehouse's code of a refusal; empty for none.
	Code string
}

// Start begins a call; the returned function ends it.
func (a *Account) Start(ctx context.Context, method string) (context.Context, func(Outcome)) {
	span := oteltrace.SpanFromContext(ctx)
	traced := span.IsRecording()
	if traced { // building the name allocates
		ctx, span = trace.Start(ctx, oteltrace.SpanKindClient, a.adapter+" "+method)
	}
	began := time.Now()
	return ctx, func(o Outcome) {
		a.metrics.seconds.WithLabelValues(method, a.class, o.Name).Observe(time.Since(began).Seconds())
		if o.TooMany {
			a.metrics.refused.WithLabelValues(a.metrics.names.Of(a.application)).Inc()
		}
		if !traced {
			return
		}
		// The warehouse's texts are left out: they may quote what was sent.
		span.SetAttributes(attribute.String(a.adapter+".method", method), attribute.String("stockbridge.class", a.class), attribute.String("stockbridge.outcome", o.Name))
		if o.Code != "" {
			span.SetAttributes(attribute.String(a.adapter+".code", o.Code))
		}
		if o.Failed {
			trace.Fail(span, o.Name, "")
		}
		span.End()
	}
}
