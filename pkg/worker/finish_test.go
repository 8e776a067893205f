package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAServiceHasItsGraceToFinish(t *testing.T) {
	broken := errors.New("broken")
	const within = 50 * time.Second
	for _, test := range []struct {
		name string
		run  func(ctx context.Context) error
		want string
		took time.Duration
	}{
		{"it ends by itself", func(context.Context) error { time.Sleep(time.Second); return broken }, "broken", time.Second},
		{"it stops at once", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, "", time.Minute},
		{"it finishes what it has in hand", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(40 * time.Second); return nil }, "", time.Minute + 40*time.Second},
		{"it fails on the way out", func(ctx context.Context) error { <-ctx.Done(); return broken }, "broken", time.Minute},
		{"it does not end", func(ctx context.Context) error { time.Sleep(time.Hour); return nil }, "not finished 50s after", time.Minute + within},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(time.Minute, cancel)
				start := time.Now()
				err := runWithGrace(ctx, within, test.run)
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				time.Sleep(2 * time.Hour) // let the stray end
			})
		})
	}
}
