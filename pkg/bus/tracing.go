package bus

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/trace"
)

// beginSpan starts the span of one run of a message: a child of the message's traceparent, else one more root of the
// trace that is named after where the original is stored. From then on d.Trace is this run's. Ticks carry no fact and
// come every few seconds: they are not traced. What a tick finds out about an order is (package poller).
func (w *server) beginSpan(ctx context.Context, d *Delivery) (context.Context, oteltrace.Span) {
	if w.ticks() || w.b.tracer == nil {
		return ctx, oteltrace.SpanFromContext(ctx)
	}
	if parent := trace.Parse(d.Trace); parent.IsValid() {
		ctx = oteltrace.ContextWithRemoteSpanContext(ctx, parent)
	} else {
		ctx = trace.Root(ctx, d.env.from.place.token())
	}
	ctx, span := w.b.tracer.Start(ctx, w.row.Topic+" process", oteltrace.WithSpanKind(oteltrace.SpanKindConsumer))
	d.Trace = trace.Format(span.SpanContext())
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.destination.name", d.Subject),
			attribute.String("messaging.consumer.group.name", w.row.Name),
			attribute.String("messaging.message.id", truncate(d.ID, 200)),
			attribute.String("stockbridge.origin", d.origin),
			attribute.Int("stockbridge.parks", d.env.delays),
		)
		if d.env.sent.replayed != 0 {
			span.SetAttributes(attribute.String("stockbridge.replayed_from", strconv.FormatUint(d.env.sent.replayed, 10)), attribute.StringSlice("stockbridge.released", d.Released))
		}
	}
	return ctx, span
}

func endSpan(span oteltrace.Span, d *Delivery, outcome string) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("stockbridge.seller", d.Seller), attribute.String("stockbridge.key", truncate(d.key, 100)),
			attribute.Int("stockbridge.attempt", d.Attempt), attribute.String("stockbridge.outcome", outcome),
		)
	}
	span.End()
}

// failSpan records how a run failed, by codes only: error texts may quote the warehouse.
func failSpan(ctx context.Context, err error) {
	if span := oteltrace.SpanFromContext(ctx); span.IsRecording() {
		trace.Fail(span, fault.Of(err).String(), fault.ReasonOf(err, "").Code)
		if cause := fault.Cause(err); cause != "" {
			span.SetAttributes(attribute.String("stockbridge.cause", truncate(cause, 200)))
		}
	}
}
