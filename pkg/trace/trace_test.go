package trace_test

import (
	"testing"

	oteltrace "go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/trace"
)

func TestATraceparentIsReadAndWritten(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for given, want := range map[string]string{
		good: good,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00":       "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later": good, // of a later version of the standard
		"": "", "x": "", good + "-more": "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "",
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01": "",
	} {
		if got := trace.Format(trace.Parse(given)); got != want {
			t.Errorf("%q is read as %q, want %q", given, got, want)
		}
	}
	if id := trace.ID(good); id != "4bf92f3577b34da6a3ce929d0e0e4736" {
		t.Errorf("its id is %q", id)
	}
}

func TestARootIsNamedByItsOrigin(t *testing.T) {
	ids := trace.IDs{}
	of := func(origin string) (oteltrace.TraceID, oteltrace.SpanID) {
		return ids.NewIDs(trace.Root(t.Context(), origin))
	}
	one, first := of("ORDERS-1")
	again, second := of("ORDERS-1")
	other, _ := of("ORDERS-2")
	if one != again || one == other || first == second {
		t.Errorf("%v %v and %v %v; another is %v", one, first, again, second, other)
	}
	if a, _ := ids.NewIDs(t.Context()); !a.IsValid() {
		t.Error("a root without an origin has no id")
	}
}

// Without an exporter tracing costs nothing on the path of an order.
func TestNothingIsAllocatedWithoutAnExporter(t *testing.T) {
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, span := trace.Start(ctx, oteltrace.SpanKindInternal, "x")
		trace.Fail(span, "transient", "x")
		span.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
