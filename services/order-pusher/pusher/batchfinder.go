package pusher

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

// batchFinder batches look-ups: those that arrive during a call share the next one, up to the warehouse's limit.
type batchFinder struct {
	calls batch.Group[warehouse.OrderFinder, lookup, lookupResult]
}

func newBatchFinder() *batchFinder {
	f := &batchFinder{}
	f.calls.Do = findBatch
	f.calls.Cut = func(wh warehouse.OrderFinder, calls []lookup) int { return min(len(calls), wh.Limits().Find) }
	return f
}

type lookup struct {
	outboundNo string
	// span is the caller's. The call is traced below the first caller's span and linked with the others'.
	span oteltrace.Span
}

type lookupResult struct {
	found warehouse.Found
	ok    bool
	err   error
	// reported is shared by all results of a call; the first caller that reads its result sets it.
	reported *atomic.Bool
}

// panicError is a panic of the warehouse's client as an error: it does not run in a handler's goroutine, where the bus
// recovers.
type panicError struct {
	value any
	stack []byte
}

func (p panicError) Error() string { return fmt.Sprintf("looking up orders panicked: %v", p.value) }

// find returns the order that wh has under the number, if any. An error says nothing about it. first is true for exactly
// one of the callers that share a call.
func (f *batchFinder) find(ctx context.Context, wh warehouse.OrderFinder, outboundNo string) (found warehouse.Found, ok, first bool, err error) {
	ctx, span := trace.Start(ctx, oteltrace.SpanKindInternal, "ask the warehouse")
	defer span.End()
	got, err := f.calls.Call(ctx, wh, lookup{outboundNo, span})
	if err != nil {
		return warehouse.Found{}, false, false, err
	}
	first = got.reported.CompareAndSwap(false, true)
	var p panicError
	if first && errors.As(got.err, &p) {
		zerolog.Ctx(ctx).Error().Interface("panic", p.value).Bytes("stack", p.stack).Msg("looking up orders panicked")
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.Bool("stockbridge.found", got.ok))
	}
	return got.found, got.ok, first, got.err
}

func findBatch(_ context.Context, wh warehouse.OrderFinder, calls []lookup) []lookupResult {
	numbers := make([]string, len(calls))
	for i, q := range calls {
		numbers[i] = q.outboundNo
	}
	// The callers' contexts end one by one, so the call has a limit of its own.
	ctx, cancel := context.WithTimeout(oteltrace.ContextWithSpan(context.Background(), linkSpans(calls)), callLimit+time.Second)
	defer cancel()
	found, err := callFind(ctx, wh, numbers)
	reported := &atomic.Bool{}
	results := make([]lookupResult, len(calls))
	for i, q := range calls {
		one, ok := found[q.outboundNo]
		results[i] = lookupResult{one, ok && err == nil, err, reported}
	}
	return results
}

// linkSpans links the spans of all callers and returns the first: the call's parent.
func linkSpans(calls []lookup) oteltrace.Span {
	first := calls[0].span
	for _, q := range calls[1:] {
		if first.IsRecording() && q.span.IsRecording() {
			first.AddLink(oteltrace.Link{SpanContext: q.span.SpanContext()})
			q.span.AddLink(oteltrace.Link{SpanContext: first.SpanContext()})
		}
	}
	return first
}

func callFind(ctx context.Context, wh warehouse.OrderFinder, numbers []string) (found map[string]warehouse.Found, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError{v, debug.Stack()}
		}
	}()
	return wh.FindOrders(ctx, numbers)
}
