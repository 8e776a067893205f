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

// asker puts questions after single orders together: whoever asks while a call is under way goes along with the next
// one, up to warehouse.FindLimit. There is no timer; a lone question goes out at once.
type asker struct {
	mu    sync.Mutex
	lanes map[warehouse.OrderFinder]*lane
}

type lane struct {
	waiting []question
}

type question struct {
	outboundNo string
	// span is the asker's: the call is traced below that of the first who asks, and linked with the others'.
	span   oteltrace.Span
	answer chan answer
}

type answer struct {
	found warehouse.Found
	ok    bool
	err   error
	// heard is one for all answers of a call: the first who hears of it sets it.
	heard *atomic.Bool
}

// panicked is the far side's code panicking, as an error: it runs in no handler's goroutine, where the bus would see
// to it.
type panicked struct {
	value any
	stack []byte
}

func (p panicked) Error() string { return fmt.Sprintf("asking the warehouse panicked: %v", p.value) }

// ask tells whether wh has the order. An error says nothing about it. first is true for one of those who were answered
// by the same call.
func (a *asker) ask(ctx context.Context, wh warehouse.OrderFinder, outboundNo string) (found warehouse.Found, ok, first bool, err error) {
	ctx, span := trace.Start(ctx, oteltrace.SpanKindInternal, "ask the warehouse")
	defer span.End()
	q := question{outboundNo: outboundNo, span: span, answer: make(chan answer, 1)}
	a.mu.Lock()
	l, busy := a.lanes[wh]
	if !busy {
		l = &lane{}
		a.lanes[wh] = l
		go a.drive(wh, l)
	}
	l.waiting = append(l.waiting, q)
	a.mu.Unlock()
	select {
	case got := <-q.answer:
		first := got.heard.CompareAndSwap(false, true)
		var p panicked
		if first && errors.As(got.err, &p) {
			zerolog.Ctx(ctx).Error().Interface("panic", p.value).Bytes("stack", p.stack).Msg("asking the warehouse panicked")
		}
		if span.IsRecording() {
			span.SetAttributes(attribute.Bool("stockbridge.found", got.ok))
		}
		return got.found, got.ok, first, got.err
	case <-ctx.Done():
		return warehouse.Found{}, false, false, ctx.Err()
	}
}

// drive asks until nobody waits, then leaves.
func (a *asker) drive(wh warehouse.OrderFinder, l *lane) {
	for {
		a.mu.Lock()
		if len(l.waiting) == 0 {
			delete(a.lanes, wh)
			a.mu.Unlock()
			return
		}
		n := min(len(l.waiting), warehouse.FindLimit)
		batch := l.waiting[:n:n]
		l.waiting = l.waiting[n:]
		a.mu.Unlock()
		askTogether(wh, batch)
	}
}

func askTogether(wh warehouse.OrderFinder, batch []question) {
	numbers := make([]string, len(batch))
	for i, q := range batch {
		numbers[i] = q.outboundNo
	}
	// The askers' own contexts end one by one; the call is bounded by itself.
	ctx, cancel := context.WithTimeout(oteltrace.ContextWithSpan(context.Background(), linked(batch)), callLimit+time.Second)
	defer cancel()
	found, err := find(ctx, wh, numbers)
	heard := &atomic.Bool{}
	for _, q := range batch {
		f, ok := found[q.outboundNo]
		q.answer <- answer{f, ok && err == nil, err, heard}
	}
}

// linked is the span under which a call for all of batch is made.
func linked(batch []question) oteltrace.Span {
	first := batch[0].span
	for _, q := range batch[1:] {
		if first.IsRecording() && q.span.IsRecording() {
			first.AddLink(oteltrace.Link{SpanContext: q.span.SpanContext()})
			q.span.AddLink(oteltrace.Link{SpanContext: first.SpanContext()})
		}
	}
	return first
}

func find(ctx context.Context, wh warehouse.OrderFinder, numbers []string) (found map[string]warehouse.Found, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked{v, debug.Stack()}
		}
	}()
	return wh.FindOrders(ctx, numbers)
}
