package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/trace"
	orderv1 "stockbridge/proto/order/v1"
)

// lines is a log with concurrent writers.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A message is redelivered, delayed, dead-lettered and replayed: all its runs, and the events they publish, are in one
// trace, whether or not its publisher named one.
func TestOneTraceOverAllRunsOfAMessage(t *testing.T) {
	for name, parent := range map[string]string{
		"the publisher's": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"ours":            "",
		"unreadable":      "00-4bf92f-1",
	} {
		t.Run(name, func(t *testing.T) {
			_, url := bustest.StartServer(t, services()...)
			spans := tracetest.NewInMemoryExporter()
			out := &lines{}
			b, err := bus.Connect(t.Context(), bus.Options{
				URL: url, Name: "test", Log: zerolog.New(out),
				Traces: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithIDGenerator(trace.IDs{})),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.Close)
			var seen log
			inside := make(chan string, 10)
			serve(t, b, bus.Serving{
				Backoff: func(attempt int) time.Duration {
					if attempt == 1 {
						return time.Millisecond // stays in the consumer
					}
					return time.Hour // delayed
				},
				Now: soon(time.Hour, 100*time.Millisecond),
			}, func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
				inside <- oteltrace.SpanFromContext(ctx).SpanContext().TraceID().String()
				switch seen.add(d, m) {
				case 1, 2:
					return nil, errors.New("13800000000 is not now")
				case 3:
					return nil, fault.Permanent(errors.New("never"))
				}
				return []event.Event{accepted(m)}, nil
			}, nil)
			header := map[string][]string{}
			if parent != "" {
				header[event.HeaderTrace] = []string{parent}
			}
			body := fmt.Sprintf(`{"seller":"acme","shop":"S1","warehouse":"W1","order_no":"O","outbound_no":"A1","revision":1,"audited_at":%q,"lines":[{"line_id":"1","goods_code":"G1","quantity":2}],"receiver":{"name":"张三","mobile":"13800000000","address":"中关村 1 号"}}`, time.Now().Format(time.RFC3339))
			if _, _, err := b.PublishRaw(t.Context(), "order.audited.acme", header, []byte(body)); err != nil {
				t.Fatal(err)
			}
			item := parseDeadLetter(t, b, 1)[0]
			if err := b.Replay(t.Context(), item.Seq, bus.By{Who: "test"}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is published", func() bool { return published(t, b, event.OrderAccepted.Name)["A1"] == 1 })
			settled(t, b)

			id := trace.ID(item.Trace)
			if id == "" || name == "the publisher's" && id != trace.ID(parent) {
				t.Errorf("dead-lettered with trace %q", item.Trace)
			}
			for range 4 {
				if got := <-inside; got != id {
					t.Errorf("a handler ran in trace %s, not %s", got, id)
				}
			}
			err = b.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAccepted.Name}}, func(s bus.Stored) error {
				if got := s.Header[event.HeaderTrace]; len(got) != 1 || trace.ID(got[0]) != id {
					t.Errorf("published with traceparent %v", got)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			outcomes := map[string]int{}
			for _, s := range spans.GetSpans() {
				if s.SpanContext.TraceID().String() != id {
					t.Errorf("span %s is of trace %s, not %s", s.Name, s.SpanContext.TraceID(), id)
				}
				for _, a := range s.Attributes {
					if a.Key == "stockbridge.outcome" {
						outcomes[a.Value.AsString()]++
					}
				}
			}
			if fmt.Sprint(outcomes) != "map[dead:1 done:1 retry:2]" {
				t.Errorf("runs ended %v", outcomes)
			}
			if text := fmt.Sprint(spans.GetSpans()); strings.Contains(text, "13800000000") {
				t.Error("a span quotes an error")
			}
			if !strings.Contains(out.String(), `"trace_id":"`+id+`"`) {
				t.Errorf("no trace_id in\n%s", out)
			}
		})
	}
}

// Without a tracer the trace is passed on all the same.
func TestATraceIsPassedOnThoughNothingIsTraced(t *testing.T) {
	b := bustest.Start(t, services()...)
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if d.Trace != parent {
			t.Errorf("came with %q", d.Trace)
		}
		return []event.Event{accepted(m)}, nil
	}, nil)
	e := audit("acme", "A1")
	e.Trace = parent
	publish(t, b, e)
	eventually(t, "it is published", func() bool { return published(t, b, event.OrderAccepted.Name)["A1"] == 1 })
	err := b.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAccepted.Name}}, func(s bus.Stored) error {
		if got := s.Header[event.HeaderTrace]; len(got) != 1 || got[0] != parent {
			t.Errorf("published with traceparent %v", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
