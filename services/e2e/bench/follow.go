//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/event"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/procs"
)

const (
	followed = 250
	// JD's methods, as the sandbox counts them.
	methodList    = "eclp.order.ext.queryOrder"
	methodDetails = "eclp.order.queryOrder"
	methodHistory = "eclp.order.queryOrderStatus"
)

// follow counts the poller's calls for orders that stand still, and for orders that move all at once.
func (b *bench) follow(ctx context.Context, report *Report) error {
	config := stack.DemoSandbox()
	config.Stopped = true
	s, err := b.stand(ctx, shape{name: "follow", sync: "2m", redis: "everysec", sandbox: &config})
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.seller(ctx, "one", "", &sellerv1.Quota{PerSecond: 200, Concurrent: 32}); err != nil {
		return err
	}
	// A young ledger looks every order up first, which does not matter here.
	if _, err := s.Worker(ctx, procs.OrderPusher, "pusher", "PUSH_SETTLE_FOR=1s", "LOG_LEVEL=warn"); err != nil {
		return err
	}
	n := b.orders(followed)
	if err := s.publish(ctx, event.OrderAudited.Name, n, "one"); err != nil {
		return err
	}
	for seen := uint64(0); seen < uint64(n); {
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		if seen, err = s.accepted(ctx); err != nil {
			return err
		}
	}
	if _, err := s.Worker(ctx, procs.StatusPoller, "poller", "POLL_OPEN=1s", "POLL_PACKED=1s", "POLL_SHIPPED=1s", "LOG_LEVEL=warn"); err != nil {
		return err
	}
	// Until the status of each order was published, which takes its details.
	last, cycle, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	cycles := []float64{cycle}
	for range b.rounds / 4 {
		now, err := s.burst(ctx, last)
		if err != nil {
			return err
		}
		cycles = append(cycles, float64(now.sum-last.sum))
		last = now
	}
	how := fmt.Sprintf("%d orders; %d calls are needed", n, (n+99)/100)
	if err := report.add("follow.cycle", how, cycles, nil); err != nil {
		return err
	}
	if err := s.Sandbox.Advance(ctx, 24*time.Hour); err != nil { // every order goes all the way
		return err
	}
	now, _, err := s.quiet(ctx)
	if err != nil {
		return err
	}
	details := float64(now.by[methodDetails] - last.by[methodDetails])
	return report.add("follow.moved", fmt.Sprintf("%d orders delivered at once", n), []float64{details / float64(n)}, map[string]float64{
		"calls for the history": float64(now.by[methodHistory]-last.by[methodHistory]) / float64(n),
	})
}

// quiet waits for a tick without a call for details, and returns the counts so far and how many calls that tick took.
func (s *stand) quiet(ctx context.Context) (now heard, calls float64, err error) {
	last, _, err := s.calls(ctx)
	for ; err == nil; last = now {
		now, err = s.burst(ctx, last)
		if now.by[methodDetails] == last.by[methodDetails] && now.by[methodList] > last.by[methodList] {
			return now, float64(now.sum - last.sum), err
		}
	}
	return now, 0, err
}

// burst waits for calls after last, and until none came for a second: ticks are further apart.
func (s *stand) burst(ctx context.Context, last heard) (heard, error) {
	const look = 250 * time.Millisecond
	before := last
	for still := time.Duration(0); ; {
		if err := rest(ctx, look); err != nil {
			return before, err
		}
		now, _, err := s.calls(ctx)
		switch {
		case err != nil:
			return before, err
		case now.sum != before.sum:
			before, still = now, 0
		case now.sum != last.sum:
			if still += look; still >= time.Second {
				return now, nil
			}
		}
	}
}
