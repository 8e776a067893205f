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
	// pollTick is how often a seller's orders are looked after: bridgectl's own default.
	pollTick = 5 * time.Second
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
	if _, err := s.Worker(ctx, procs.OrderPusher, "pusher", "LOG_LEVEL=warn"); err != nil {
		return err
	}
	if err := s.warm(ctx, "one"); err != nil {
		return err
	}
	n := b.orders(followed)
	if err := s.publish(ctx, event.OrderAudited.Name, n-warmOrders, "one"); err != nil {
		return err
	}
	if err := s.drained(ctx, "order-pusher"); err != nil {
		return err
	}
	told, err := s.accepted(ctx)
	if err != nil {
		return err
	}
	if told != uint64(n) {
		return fmt.Errorf("%d orders were accepted, want %d", told, n)
	}
	if _, err := s.Worker(ctx, procs.StatusPoller, "poller", "POLL_OPEN=1s", "POLL_PACKED=1s", "POLL_SHIPPED=1s", "LOG_LEVEL=warn"); err != nil {
		return err
	}
	// Until each order was told where it stands, which takes its details.
	if err := s.quiet(ctx); err != nil {
		return err
	}
	var cycles []float64
	last, _, err := s.calls(ctx)
	if err != nil {
		return err
	}
	for range max(1, b.rounds/4) {
		if err := rest(ctx, pollTick); err != nil {
			return err
		}
		now, _, err := s.calls(ctx)
		if err != nil {
			return err
		}
		cycles = append(cycles, float64(now.sum-last.sum))
		last = now
	}
	how := fmt.Sprintf("%d orders, a cycle every %v; %d calls are needed", n, pollTick, (n+99)/100)
	if err := report.add("follow.cycle", how, cycles, nil); err != nil {
		return err
	}
	if err := s.Sandbox.Advance(ctx, 24*time.Hour); err != nil { // every order goes all the way
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	now, _, err := s.calls(ctx)
	if err != nil {
		return err
	}
	details := float64(now.by[methodDetails] - last.by[methodDetails])
	return report.add("follow.moved", fmt.Sprintf("%d orders delivered at once", n), []float64{details / float64(n)}, map[string]float64{
		"calls for the history": float64(now.by[methodHistory]-last.by[methodHistory]) / float64(n),
	})
}

// quiet waits until lists were asked for and a tick went by without a call for details.
func (s *stand) quiet(ctx context.Context) error {
	first, _, err := s.calls(ctx)
	for last := first; err == nil; {
		if err := rest(ctx, pollTick+time.Second); err != nil {
			return err
		}
		var now heard
		now, _, err = s.calls(ctx)
		if now.by[methodDetails] == last.by[methodDetails] && now.by[methodList] > first.by[methodList] {
			return err
		}
		last = now
	}
	return err
}
