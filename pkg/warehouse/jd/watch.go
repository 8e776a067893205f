package jd

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse/jd/jdapi"
)

// Metrics counts calls to JD.
type Metrics struct {
	seconds *prometheus.HistogramVec
	refused *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "stockbridge_warehouse_call_seconds",
			Help: "Requests to the warehouse from the moment their turn came, by what came of them.",
			// From a sandbox on the same host to the limit of a call, 10 s.
			Buckets: []float64{.005, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"method", "class", "outcome"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stockbridge_quota_refused_total", Help: "Requests that the warehouse refused because there were too many.",
		}, []string{"seller", "account"}),
	}
	r.MustRegister(m.seconds, m.refused)
	return m
}

// watch returns what observes each request; nil without metrics.
func (o Options) watch(account string) func(context.Context, string) (context.Context, func(error)) {
	if o.Metrics == nil {
		return nil
	}
	m, class := o.Metrics, string(o.Class)
	refused := m.refused.WithLabelValues(o.Seller.Name(), account) // shown as 0 from the start
	return func(ctx context.Context, method string) (context.Context, func(error)) {
		span := oteltrace.SpanFromContext(ctx)
		traced := span.IsRecording()
		if traced { // building the name allocates
			ctx, span = trace.Start(ctx, oteltrace.SpanKindClient, "jd "+method)
		}
		began := time.Now()
		return ctx, func(err error) {
			outcome := outcomeOf(err)
			m.seconds.WithLabelValues(method, class, outcome).Observe(time.Since(began).Seconds())
			var no *jdapi.Error
			said := errors.As(err, &no)
			if said && no.Class == jdapi.ClassQuota {
				refused.Inc()
			}
			if !traced {
				return
			}
			// JD's texts are left out: they may quote what was sent.
			span.SetAttributes(attribute.String("jd.method", method), attribute.String("stockbridge.class", class), attribute.String("stockbridge.outcome", outcome))
			if said {
				span.SetAttributes(attribute.String("jd.code", no.Code))
			}
			if err != nil && outcome != outcomeEnd {
				trace.Fail(span, outcome, "")
			}
			span.End()
		}
	}
}

// outcomeEnd is the text that ends a flow: for us an answer, for JD a failed call.
const outcomeEnd = "end"

// outcomeOf names the outcome of a request: "ok", "end", the class of JD's refusal, or how it was lost.
func outcomeOf(err error) string {
	var no *jdapi.Error
	switch {
	case err == nil:
		return "ok"
	case jdapi.EndsFlow(err):
		return outcomeEnd
	case errors.As(err, &no):
		return no.Class.String()
	case errors.Is(err, jdapi.ErrNotSent):
		return "not_sent"
	default:
		return "lost"
	}
}
