// Package retry repeats a call in process, within seconds, that is safe to repeat: a read, a compare-and-set, the
// renewal of a lease.
//
// It is not for sending documents: the ledger decides whether those may be repeated, and the bus does longer waits (see
// fault). It does not know what it calls.
package retry

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"stockbridge/pkg/fault"
)

// Policy says how patient to be. The zero value is useful.
type Policy struct {
	// For is how long after the start of Do another run may start. Zero is 5 seconds; it cannot be infinite.
	For time.Duration
	// First is the pause after the first failed run, on average; each further one is half as long again. Zero is 50 ms.
	First time.Duration
	// Max is the longest pause, on average. Zero is one second.
	Max time.Duration
}

// Do runs call until it succeeds, fails with anything but a transient fault, For is over, or ctx ends. It returns the
// error of the last run; when ctx ended, that wraps ctx's error too. With a ctx that has ended nothing runs.
func Do(ctx context.Context, p Policy, call func(context.Context) error) error {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(or(p.First, 50*time.Millisecond)),
		backoff.WithMaxInterval(or(p.Max, time.Second)),
		backoff.WithMaxElapsedTime(or(p.For, 5*time.Second)),
	)
	var last error
	err := backoff.Retry(func() error {
		// v4 may run once more after ctx ended, and runs once before it checks.
		if ctx.Err() != nil {
			return backoff.Permanent(ctx.Err())
		}
		last = call(ctx)
		if last != nil && fault.Of(last) != fault.Transient {
			return backoff.Permanent(last)
		}
		return last
	}, backoff.WithContext(b, ctx))
	switch {
	case err == nil || last == nil:
		return err
	case ctx.Err() != nil && fault.Of(last) == fault.Transient:
		return fmt.Errorf("%w (gave up: %w)", last, ctx.Err())
	}
	return last
}

func or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
