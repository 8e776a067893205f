// Package trace carries one trace from the ERP's event to all that follows from it. It knows the W3C header and how to
// start spans; package worker decides where spans go, and the callers what they say.
//
// # Why
//
// An event without a traceparent gets a trace of its own whose id is made from where the event is stored (Root). So a
// redelivery, a retry, a replay and another worker after a crash join the same trace without any message between them,
// and a sampler that decides by the trace id decides the same for all of them.
//
// Children are started through the span in the context, so that only the bus and the poller need a tracer. Without an
// exporter there is no such span: starting one then costs a look into the context, and no memory.
package trace

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Scope names the spans' instrumentation.
const Scope = "stockbridge"

const header = "traceparent"

// Parse reads a traceparent; the result is not valid if it is none.
func Parse(traceparent string) trace.SpanContext {
	if traceparent == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{header: traceparent})
	return trace.SpanContextFromContext(ctx)
}

// Format writes the traceparent for what follows from a span; empty if the span is not valid.
func Format(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + (sc.TraceFlags() & trace.FlagsSampled).String()
}

// ID is the trace's id in a traceparent, "" when there is none.
func ID(traceparent string) string {
	sc := Parse(traceparent)
	if !sc.IsValid() {
		return ""
	}
	return sc.TraceID().String()
}

// Below makes spans that start in the context children of the traceparent.
func Below(ctx context.Context, traceparent string) context.Context {
	return trace.ContextWithRemoteSpanContext(ctx, Parse(traceparent))
}

type rootKey struct{}

// Root makes spans that start in the context without a parent belong to the trace of origin.
func Root(ctx context.Context, origin string) context.Context {
	sum := sha256.Sum256([]byte(origin))
	return context.WithValue(ctx, rootKey{}, trace.TraceID(sum[:16]))
}

// IDs generates the ids of spans (an sdk/trace.IDGenerator): random ones, except for traces that Root names.
type IDs struct{}

// NewIDs generates the ids of a span without a parent.
func (IDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	id, ok := ctx.Value(rootKey{}).(trace.TraceID)
	for !ok || !id.IsValid() {
		id, ok = trace.TraceID(random(16)), true
	}
	return id, IDs{}.NewSpanID(ctx, id)
}

// NewSpanID generates the id of a span.
func (IDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID {
	for {
		if id := trace.SpanID(random(8)); id.IsValid() {
			return id
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		r := rand.Uint64() //nolint:gosec // names, not secrets
		for j := range 8 {
			b[i+j] = byte(r >> (8 * j))
		}
	}
	return b
}

// Start starts a span of the given kind below the one in the context. When that is not recorded, nothing starts, and
// the returned span ignores all calls.
func Start(ctx context.Context, kind trace.SpanKind, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	return parent.TracerProvider().Tracer(Scope).Start(ctx, name, trace.WithSpanKind(kind))
}

// Fail marks the span: class is the kind of failure, code the failure; neither may hold free text.
func Fail(span trace.Span, class, code string) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.String("error.type", class))
	span.SetStatus(codes.Error, code)
}
