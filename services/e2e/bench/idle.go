//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"stockbridge/services/e2e/procs"
)

// settles is how long a worker is left alone before its memory is measured.
const settles = 5 * time.Second

func (b *bench) idle(ctx context.Context, report *Report) error {
	s, err := b.stand(ctx, shape{name: "idle", sync: "always", redis: "everysec"})
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.seller(ctx, "one", "", plenty()); err != nil {
		return err
	}
	var memory, start []float64
	for i := range min(b.rounds, 5) {
		began := time.Now()
		p, err := s.Worker(ctx, procs.OrderPusher, fmt.Sprintf("pusher-%d", i+1))
		if err != nil {
			return err
		}
		start = append(start, time.Since(began).Seconds())
		if err := rest(ctx, settles); err != nil {
			return err
		}
		u, err := p.Usage()
		if err != nil {
			return err
		}
		memory = append(memory, float64(u.Resident)/(1<<20))
		if err := p.Stop(ctx); err != nil {
			return err
		}
	}
	if err := report.add("idle.memory", fmt.Sprintf("order-pusher, %v after it was ready", settles), memory, nil); err != nil {
		return err
	}
	return report.add("idle.start", "order-pusher, until /readyz", start, nil)
}
