package pusher

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.opentelemetry.io/otel/attribute"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

// batchFinder batches look-ups: those that arrive during a call share the next one, up to the warehouse's limit. There is no
// timer; a single look-up goes out at once.
type batchFinder struct {
	mu     sync.Mutex
	queues map[warehouse.OrderFinder]*findQueue
}

type findQueue struct {
	waiting []lookup
}

type lookup struct {
	outboundNo string
	// span is the caller's. The call is traced below the first caller's span and linked with the others'.
	span   oteltrace.Span
	result chan lookupResult
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
	q := lookup{outboundNo: outboundNo, span: span, result: make(chan lookupResult, 1)}
	f.mu.Lock()
	queue, busy := f.queues[wh]
	if !busy {
		queue = &findQueue{}
		f.queues[wh] = queue
		go f.drain(wh, queue)
	}
	queue.waiting = append(queue.waiting, q)
	f.mu.Unlock()
	select {
	case got := <-q.result:
		first := got.reported.CompareAndSwap(false, true)
		var p panicError
		if first && errors.As(got.err, &p) {
			zerolog.Ctx(ctx).Error().Interface("panic", p.value).Bytes("stack", p.stack).Msg("looking up orders panicked")
		}
		if span.IsRecording() {
			span.SetAttributes(attribute.Bool("stockbridge.found", got.ok))
		}
		return got.found, got.ok, first, got.err
	case <-ctx.Done():
		return warehouse.Found{}, false, false, ctx.Err()
	}
}

// drain makes calls until no look-up waits.
func (f *batchFinder) drain(wh warehouse.OrderFinder, queue *findQueue) {
	for {
		f.mu.Lock()
		if len(queue.waiting) == 0 {
			delete(f.queues, wh)
			f.mu.Unlock()
			return
		}
		n := min(len(queue.waiting), wh.Limits().Find)
		batch := queue.waiting[:n:n]
		queue.waiting = queue.waiting[n:]
		f.mu.Unlock()
		findBatch(wh, batch)
	}
}

func findBatch(wh warehouse.OrderFinder, batch []lookup) {
	numbers := make([]string, len(batch))
	for i, q := range batch {
		numbers[i] = q.outboundNo
	}
	// The callers' contexts end one by one, so the call has a limit of its own.
	ctx, cancel := context.WithTimeout(oteltrace.ContextWithSpan(context.Background(), linkSpans(batch)), callLimit+time.Second)
	defer cancel()
	found, err := callFind(ctx, wh, numbers)
	reported := &atomic.Bool{}
	for _, q := range batch {
		one, ok := found[q.outboundNo]
		q.result <- lookupResult{one, ok && err == nil, err, reported}
	}
}

// linkSpans links the spans of all callers and returns the first: the call's parent.
func linkSpans(batch []lookup) oteltrace.Span {
	first := batch[0].span
	for _, q := range batch[1:] {
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
