package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/retry"
)

var errBusy = errors.New("busy")

func TestOnlyTransientFaultsAreRepeated(t *testing.T) {
	failing := func(times int, err error) func(int) error {
		return func(run int) error {
			if run <= times {
				return err
			}
			return nil
		}
	}
	for _, test := range []struct {
		name   string
		policy retry.Policy
		call   func(run int) error
		runs   int // exact, or 0 for "several"
		want   error
		atMost time.Duration
	}{
		{name: "succeeds at once", call: failing(0, nil), runs: 1},
		{name: "a transient fault is tried again", call: failing(3, errBusy), runs: 4, atMost: time.Second},
		{name: "it gives up after the default five seconds, not fifteen minutes", call: failing(1e9, errBusy), want: errBusy, atMost: 5 * time.Second},
		{name: "it gives up after For", policy: retry.Policy{For: time.Second}, call: failing(1e9, errBusy), want: errBusy, atMost: time.Second},
		{name: "a refusal is final", call: failing(1e9, fault.Permanent(errBusy)), runs: 1, want: errBusy},
		{name: "a hold is final", call: failing(1e9, fault.Hold("seller:s", errBusy)), runs: 1, want: errBusy},
		{name: "an unknown outcome is never repeated", call: failing(1e9, fault.Unknown(errBusy)), runs: 1, want: errBusy},
		{name: "too early is for the bus", call: failing(1e9, fault.RetryAfter(time.Minute, errBusy)), runs: 1, want: errBusy},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, runs := time.Now(), 0
				err := retry.Do(t.Context(), test.policy, func(context.Context) error {
					runs++
					return test.call(runs)
				})
				if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
					t.Errorf("got error %v, want %v", err, test.want)
				}
				if test.runs != 0 && runs != test.runs || test.runs == 0 && runs < 3 {
					t.Errorf("ran %d times, want %d", runs, test.runs)
				}
				if took := time.Since(start); took > test.atMost {
					t.Errorf("took %v, want at most %v", took, test.atMost)
				}
			})
		})
	}
}

func TestTheMarkOfAnErrorIsKept(t *testing.T) {
	err := retry.Do(t.Context(), retry.Policy{}, func(context.Context) error { return fault.Hold("seller:s", errBusy) })
	if fault.Cause(err) != "seller:s" {
		t.Errorf("got %v without its cause", err)
	}
}

func TestRepeatingStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := retry.Do(ctx, retry.Policy{For: time.Hour, Max: time.Minute, First: 100 * time.Millisecond}, func(context.Context) error { return errBusy })
		if !errors.Is(err, errBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want both the last fault and the deadline", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v, want to stop with the context", took)
		}

		runs := 0
		err = retry.Do(ctx, retry.Policy{}, func(context.Context) error { runs++; return nil })
		if runs != 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ran %d times with %v after the context ended", runs, err)
		}

		// The context ends during a run that fails: no further run.
		ctx, cancel = context.WithCancel(t.Context())
		err = retry.Do(ctx, retry.Policy{}, func(context.Context) error { runs++; cancel(); return errBusy })
		if runs != 1 || !errors.Is(err, errBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("ran %d times with %v, want once", runs, err)
		}
	})
}
