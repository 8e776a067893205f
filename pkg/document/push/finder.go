package push

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
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

// finder batches look-ups: those that arrive during a call share the next one, up to the warehouse's limit.
type finder[D proto.Message] struct {
	calls batch.Group[warehouse.Finder[D], lookup, lookupResult[D]]
}

// newFinder makes one for documents of the kind.
func newFinder[D proto.Message](kind string) *finder[D] {
	f := &finder[D]{}
	f.calls.Do = func(_ context.Context, wh warehouse.Finder[D], calls []lookup) []lookupResult[D] {
		return findBatch(kind, wh, calls)
	}
	f.calls.Cut = func(wh warehouse.Finder[D], calls []lookup) int { return min(len(calls), wh.FindLimit()) }
	return f
}

type lookup struct {
	no string
	// span is the caller's. The call is traced below the first caller's span and linked with the others'.
	span oteltrace.Span
}

type lookupResult[D proto.Message] struct {
	docs []warehouse.Document[D]
	err  error
	// reported is shared by all results of a call; the first caller that reads its result sets it.
	reported *atomic.Bool
}

// panicError is a panic of the warehouse's client as an error: it does not run in a handler's goroutine, where the bus
// recovers.
type panicError struct {
	kind  string
	value any
	stack []byte
}

func (p panicError) Error() string {
	return fmt.Sprintf("looking up documents (%s) panicked: %v", p.kind, p.value)
}

// Find returns the documents that wh has under the number. An error says nothing about them. first is true for exactly one
// of the callers that share a call.
func (f *finder[D]) Find(ctx context.Context, wh warehouse.Finder[D], no string) (docs []warehouse.Document[D], first bool, err error) {
	ctx, span := trace.Start(ctx, oteltrace.SpanKindInternal, "ask the warehouse")
	defer span.End()
	got, err := f.calls.Call(ctx, wh, lookup{no, span})
	if err != nil {
		return nil, false, err
	}
	first = got.reported.CompareAndSwap(false, true)
	var p panicError
	if first && errors.As(got.err, &p) {
		zerolog.Ctx(ctx).Error().Interface("panic", p.value).Bytes("stack", p.stack).Msg("looking up documents panicked")
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.Bool("stockbridge.found", len(got.docs) > 0))
	}
	return got.docs, first, got.err
}

func findBatch[D proto.Message](kind string, wh warehouse.Finder[D], calls []lookup) []lookupResult[D] {
	numbers := make([]string, len(calls))
	for i, q := range calls {
		numbers[i] = q.no
	}
	// The callers' contexts end one by one, so the call has a limit of its own.
	ctx, cancel := context.WithTimeout(oteltrace.ContextWithSpan(context.Background(), linkSpans(calls)), callLimit+time.Second)
	defer cancel()
	found, err := callFind(ctx, kind, wh, numbers)
	reported := &atomic.Bool{}
	results := make([]lookupResult[D], len(calls))
	for i, q := range calls {
		results[i] = lookupResult[D]{err: err, reported: reported}
		if err == nil {
			results[i].docs = found[q.no]
		}
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

func callFind[D proto.Message](ctx context.Context, kind string, wh warehouse.Finder[D], numbers []string) (found map[string][]warehouse.Document[D], err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicError{kind, v, debug.Stack()}
		}
	}()
	return wh.Find(ctx, numbers)
}
