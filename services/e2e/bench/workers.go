//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/event"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/procs"
)

const (
	// slowJD is JD's answer time where that is the limit, fiveAtATime how many concurrent calls it allows a credential.
	slowJD      = 50 * time.Millisecond
	fiveAtATime = 5
	credentials = 4
	// perCredential is the orders of each in a round.
	perCredential = 200
)

// workers compares one worker with one credential to four with four.
func (b *bench) workers(ctx context.Context, report *Report) error {
	s, err := b.stand(ctx, shape{name: "workers", sync: "2m", redis: "everysec", latency: slowJD})
	if err != nil {
		return err
	}
	defer s.close()
	var sellers []string
	for i := range credentials {
		name := fmt.Sprintf("s%d", i+1)
		if _, err := s.seller(ctx, name, "app-"+name, &sellerv1.Quota{PerSecond: 1000, Concurrent: fiveAtATime}); err != nil {
			return err
		}
		sellers = append(sellers, name)
	}
	first, err := s.Worker(ctx, procs.OrderPusher, "pusher-1", "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	if err := s.warm(ctx, sellers...); err != nil {
		return err
	}
	var others []*procs.Process
	var ratios, one, four []float64
	n := b.orders(perCredential)
	for i := range b.rounds {
		alone, err := s.timed(ctx, n, sellers[:1])
		if err != nil {
			return err
		}
		// A worker that is only frozen would still be given orders.
		for j := 2; j <= credentials; j++ {
			if i > 0 {
				err = others[j-2].Start(ctx)
			} else {
				var p *procs.Process
				p, err = s.Worker(ctx, procs.OrderPusher, fmt.Sprintf("pusher-%d", j), "LOG_LEVEL=warn")
				others = append(others, p)
			}
			if err != nil {
				return err
			}
		}
		all, err := s.timed(ctx, n*credentials, sellers)
		if err != nil {
			return err
		}
		for _, p := range others {
			if err := p.Stop(ctx); err != nil {
				return err
			}
		}
		ratios, one, four = append(ratios, all/alone), append(one, alone), append(four, all)
		b.say(fmt.Sprintf("workers round %d of %d: %.0f/s and %.0f/s", i+1, b.rounds, alone, all))
	}
	if !first.Alive() {
		return fmt.Errorf("the first worker ended:\n%s", first.Tail(2000))
	}
	how := fmt.Sprintf("%d orders a credential, %d calls at a time each", n, fiveAtATime)
	return report.add("workers.scale", how, ratios, map[string]float64{"one /s": median(one), "four /s": median(four)})
}

// timed is the rate at which n orders that are published at once are done.
func (s *stand) timed(ctx context.Context, n int, sellers []string) (float64, error) {
	before, err := s.accepted(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.publish(ctx, event.OrderAudited.Name, n, sellers...); err != nil {
		return 0, err
	}
	if err := s.drained(ctx, "order-pusher"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	seen, err := s.accepted(ctx)
	if err != nil {
		return 0, err
	}
	if seen-before != uint64(n) {
		return 0, fmt.Errorf("%d orders were accepted, want %d", seen-before, n)
	}
	return float64(n) / took.Seconds(), nil
}
