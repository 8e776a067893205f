package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/trace"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/testenv"
)

const (
	erpsTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	erpsParent = "00-" + erpsTrace + "-00f067aa0ba902b7-01"
)

// tracedBy is a provider like package worker's, but exporting into memory.
func tracedBy(spans *tracetest.InMemoryExporter) *sdktrace.TracerProvider {
	return sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithIDGenerator(trace.IDs{}))
}

// publishTraced publishes an order as an ERP with tracing does; an empty parent is an ERP without.
func publishTraced(t *testing.T, w *testenv.World, o *orderv1.Audited, parent string) {
	t.Helper()
	body, err := protojson.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	header := map[string][]string{}
	if parent != "" {
		header[event.HeaderTrace] = []string{parent}
	}
	if _, _, err := w.Bus.PublishRaw(t.Context(), event.OrderAudited.Name+"."+o.Seller, header, body); err != nil {
		t.Fatal(err)
	}
}

// oneTrace checks that all events of the order, its ledger entry, and all spans of its runs belong to one trace. It
// returns the trace with the names of its spans. published names events that must be among them.
func oneTrace(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter, o *orderv1.Audited, seen ...string) (id string, names []string) {
	t.Helper()
	var heard []string
	err := w.Bus.Events(t.Context(), bus.EventQuery{Seller: o.Seller, Key: o.OutboundNo}, func(s bus.Stored) error {
		if s.Name == event.OrderAudited.Name || s.Key != o.OutboundNo {
			return nil
		}
		heard = append(heard, s.Name)
		of := trace.ID(strings.Join(s.Header[event.HeaderTrace], ""))
		if id == "" {
			id = of
		}
		if of == "" || of != id {
			t.Errorf("%s is of trace %q, others of %q", s.Name, of, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range seen {
		if !slices.Contains(heard, name) {
			t.Errorf("no %s among %v", name, heard)
		}
	}
	entry, err := w.Ledger.Get(t.Context(), ledger.Key{Seller: o.Seller, Kind: "order", No: o.OutboundNo})
	if err != nil || trace.ID(entry.Trace) != id {
		t.Errorf("the ledger keeps trace %q, not %q (%v)", entry.Trace, id, err)
	}
	for _, s := range spans.GetSpans() {
		ofTrace := s.SpanContext.TraceID().String() == id
		if ofTrace {
			names = append(names, s.Name)
		}
		for _, a := range s.Attributes {
			if a.Key == "stockbridge.key" && a.Value.AsString() == o.OutboundNo && !ofTrace {
				t.Errorf("span %q of the order is of trace %s, not %s", s.Name, s.SpanContext.TraceID(), id)
			}
		}
	}
	return id, names
}

func fault(t *testing.T, w *testenv.World, f jdsandbox.Fault) {
	t.Helper()
	if _, err := w.JD.AddFault(f); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, names []string, want ...string) {
	t.Helper()
	for _, name := range want {
		if !slices.Contains(names, name) {
			t.Errorf("no span %q among %v", name, names)
		}
	}
}

func count(names []string, name string) (n int) {
	for _, have := range names {
		if have == name {
			n++
		}
	}
	return n
}

// traced runs a story on each ledger, with the spans of its world.
func traced(t *testing.T, o testenv.Options, story func(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter)) {
	t.Helper()
	for _, l := range testenv.Ledgers {
		t.Run(l, func(t *testing.T) {
			t.Parallel()
			spans, o := tracetest.NewInMemoryExporter(), o
			o.Traces = tracedBy(spans)
			on(t, l, o, func(t *testing.T, w *testenv.World) {
				spans.Reset()
				story(t, w, spans)
			})
		})
	}
}

const (
	runSpan    = "order.audited process"
	sendSpan   = "jd order.addOrder"
	findSpan   = "jd order.ext.queryOrder"
	lookupSpan = "look at the order"
)

func TestOneTraceFromTheERPThroughALostAnswerToShipping(t *testing.T) {
	t.Parallel()
	traced(t, testenv.Options{Speed: 30000}, func(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter) {
		fault(t, w, jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{addOrder}, Count: 1})
		o := w.Maker.Next()
		publishTraced(t, w, o, erpsParent)
		w.Accepted(o)
		w.UntilPublished("shipped", o, func(t *orderview.Order) bool { return len(t.Shipped) > 0 })
		id, names := oneTrace(t, w, spans, o, event.OrderAccepted.Name, event.OrderShipped.Name)
		if id != erpsTrace {
			t.Errorf("the trace is %s, not the ERP's", id)
		}
		has(t, names, runSpan, sendSpan, findSpan, lookupSpan, "jd order.queryOrder", "ledger begin", "ledger doubt", "ledger accept", "ask the warehouse")
		if count(names, runSpan) < 2 || count(names, sendSpan) != 1 {
			t.Errorf("runs and sendings in %v", names)
		}
		private(t, w, spans, o)
	})
}

func TestOneTraceOverAHoldAndItsRelease(t *testing.T) {
	t.Parallel()
	traced(t, testenv.Options{}, func(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter) {
		o := w.Maker.Next()
		o.Shop = "S99"
		publishTraced(t, w, o, "") // the ERP does not trace: the trace is ours
		w.UntilPublished("held", o, held)
		w.Apply(stack.WithShop(w.Setup(), "S99"))
		w.Accepted(o)
		_, names := oneTrace(t, w, spans, o, event.OrderHeld.Name, event.OrderAccepted.Name)
		has(t, names, sendSpan)
		if count(names, runSpan) < 2 {
			t.Errorf("runs in %v", names)
		}
	})
}

func TestOneTraceOverADeadLetterAndAReplay(t *testing.T) {
	t.Parallel()
	traced(t, testenv.Options{}, func(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter) {
		fault(t, w, jdsandbox.Fault{Kind: jdsandbox.Error, ZH: "商品不存在", Methods: []string{addOrder}, Count: 1})
		o := w.Maker.Next()
		publishTraced(t, w, o, erpsParent)
		w.UntilPublished("failed", o, failed)
		w.Until("it is dead-lettered", func() bool { return len(w.DeadLetters(event.Dead)) == 1 })
		item := w.DeadLetters(event.Dead)[0]
		if trace.ID(item.Trace) != erpsTrace {
			t.Errorf("dead letter with trace %q", item.Trace)
		}
		if err := w.Bus.Replay(t.Context(), item.Seq, bus.By{Who: "test"}); err != nil {
			t.Fatal(err)
		}
		w.Accepted(o)
		id, names := oneTrace(t, w, spans, o, event.OrderFailed.Name, event.OrderAccepted.Name)
		if id != erpsTrace || count(names, runSpan) < 2 || count(names, sendSpan) != 2 {
			t.Errorf("trace %s of %v", id, names)
		}
	})
}

// private searches spans for what they must not hold.
func private(t *testing.T, w *testenv.World, spans *tracetest.InMemoryExporter, o *orderv1.Audited) {
	t.Helper()
	text, err := json.Marshal(spans.GetSpans())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{o.Receiver.Name, o.Receiver.Mobile, o.Receiver.Address, jdsandbox.DefaultAppSecret, jdsandbox.DefaultToken} {
		if strings.Contains(string(text), secret) {
			t.Errorf("a span holds %q", secret)
		}
	}
}
