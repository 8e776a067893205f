package fault_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"stockbridge/pkg/fault"
)

func TestOutermostMarkDecides(t *testing.T) {
	base := errors.New("read: connection reset")
	for _, c := range []struct {
		name  string
		err   error
		class fault.Class
		after time.Duration
		cause string
	}{
		{"no mark is transient", base, fault.Transient, 0, ""},
		{"wrapping keeps the mark", fmt.Errorf("push A-1: %w", fault.Permanent(base)), fault.Refused, 0, ""},
		{"a wait says how long", fault.RetryAfter(time.Second, base), fault.Wait, time.Second, ""},
		{"a hold says for what", fault.Hold("shop:a/S1", base), fault.Held, 0, "shop:a/S1"},
		{"a wait round an unknown is a wait", fault.RetryAfter(time.Minute, fault.Unknown(base)), fault.Wait, time.Minute, ""},
		{"nil stays nil", fault.Permanent(nil), fault.Transient, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fault.Of(c.err); got != c.class {
				t.Errorf("class %v, want %v", got, c.class)
			}
			if got := fault.After(c.err); got != c.after {
				t.Errorf("after %v, want %v", got, c.after)
			}
			if got := fault.Cause(c.err); got != c.cause {
				t.Errorf("cause %q, want %q", got, c.cause)
			}
			if c.err != nil && !errors.Is(c.err, base) {
				t.Error("the mark hides the error it marks")
			}
		})
	}
	if fault.Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
	}
}

func TestReasonIsFoundThroughMarks(t *testing.T) {
	want := fault.Reason{Code: "quantity.invalid", Field: "lines[0].quantity", ZH: "数量须大于零", EN: "must be above zero"}
	err := fmt.Errorf("check A-1: %w", fault.Permanent(fmt.Errorf("line 1: %w", want)))
	if got := fault.ReasonOf(err, "other"); got != want {
		t.Errorf("got %+v", got)
	}
	if got := fault.ReasonOf(errors.New("boom"), "internal"); got.Code != "internal" || got.EN != "boom" {
		t.Errorf("a plain error becomes %+v", got)
	}
}
