//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/procs"
)

// allowed is how many calls a second JD allows in the row of the quota.
const allowed = 50

// codeTooMany is JD's answer to a call beyond the quota (docs/jd-api.md, Error codes).
const codeTooMany = "2"

func (b *bench) quota(ctx context.Context, report *Report) error {
	config := stack.DemoSandbox()
	config.Stopped = true
	config.Knobs.Quota = jdsandbox.Quota{PerSecond: allowed, Concurrent: 5}
	s, err := b.stand(ctx, shape{name: "quota", sync: "2m", redis: "everysec", sandbox: &config})
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.seller(ctx, "one", "", &sellerv1.Quota{PerSecond: allowed, Concurrent: 5}); err != nil {
		return err
	}
	if _, err := s.Worker(ctx, procs.OrderPusher, "pusher", "LOG_LEVEL=warn"); err != nil {
		return err
	}
	if err := s.warm(ctx, "one"); err != nil {
		return err
	}
	if err := s.publish(ctx, event.OrderAudited.Name, allowed*(b.rounds+5), "one"); err != nil {
		return err
	}
	if err := rest(ctx, 2*time.Second); err != nil { // until it runs evenly
		return err
	}
	var used, refused []float64
	last, at, err := s.calls(ctx)
	if err != nil {
		return err
	}
	for range b.rounds {
		if err := rest(ctx, time.Second); err != nil {
			return err
		}
		now, then, err := s.calls(ctx)
		if err != nil {
			return err
		}
		used = append(used, float64(now.sum-last.sum)/(then.Sub(at).Seconds()*allowed))
		refused = append(refused, float64(now.refused))
		last, at = now, then
	}
	how := fmt.Sprintf("a backlog, %d calls a second allowed, one second a round", allowed)
	if err := report.add("quota.used", how, used, nil); err != nil {
		return err
	}
	return report.add("quota.refused", "refused by the sandbox in all", refused[len(refused)-1:], nil)
}

// heard is what the sandbox counted.
type heard struct {
	sum, refused int64
	by           map[string]int64
}

func (s *stand) calls(ctx context.Context) (heard, time.Time, error) {
	n, err := s.Sandbox.Counters(ctx)
	h := heard{by: n.Calls, refused: n.Codes[codeTooMany]}
	for _, v := range n.Calls {
		h.sum += v
	}
	return h, time.Now(), err
}
