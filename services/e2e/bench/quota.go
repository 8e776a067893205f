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

// quotaPlace is a limit of JD's that binds.
type quotaPlace struct {
	id    string
	limit jdsandbox.Quota
	// takes is JD's answer time, perSecond how many calls a second the limit comes to.
	takes     time.Duration
	perSecond float64
	// seconds of a round.
	seconds time.Duration
	what    string
}

var quotaPlaces = []quotaPlace{
	{"quota", jdsandbox.Quota{PerSecond: allowed, Concurrent: 5}, 0, allowed, time.Second, fmt.Sprintf("%d calls a second", allowed)},
	{"quota.concurrent", jdsandbox.Quota{PerSecond: 1000, Concurrent: 5}, 250 * time.Millisecond, 20, 2 * time.Second, "5 calls at a time, of 250 ms each"},
}

func quotaRows() (rows []budget) {
	for _, at := range quotaPlaces {
		what := "share of the calls that JD allows"
		if at.takes > 0 {
			what += ", where the limit is of calls at a time"
		}
		rows = append(rows,
			budget{ID: at.id + ".used", Group: at.id, What: what, Least: bound(0.97)},
			budget{ID: at.id + ".refused", Group: at.id, What: "calls that JD refused as too many", Most: bound(0)},
		)
	}
	return rows
}

// quota lets two workers share a limit that binds.
func (b *bench) quota(ctx context.Context, at quotaPlace, report *Report) error {
	config := stack.DemoSandbox()
	config.Stopped = true
	config.Knobs.Quota = at.limit
	config.Knobs.Latency.Min, config.Knobs.Latency.Max = jdsandbox.Duration(at.takes), jdsandbox.Duration(at.takes)
	s, err := b.stand(ctx, shape{name: at.id, sync: "2m", redis: "everysec", sandbox: &config})
	if err != nil {
		return err
	}
	defer s.close()
	if _, err := s.seller(ctx, "one", "", &sellerv1.Quota{PerSecond: float64(at.limit.PerSecond), Concurrent: int32(at.limit.Concurrent)}); err != nil {
		return err
	}
	for i := range 2 {
		if _, err := s.Worker(ctx, procs.OrderPusher, fmt.Sprintf("pusher-%d", i+1), "LOG_LEVEL=warn"); err != nil {
			return err
		}
	}
	if err := s.warm(ctx, "one"); err != nil {
		return err
	}
	lasts := float64(b.rounds+2)*at.seconds.Seconds() + 5
	if err := s.publish(ctx, event.OrderAudited.Name, int(at.perSecond*lasts), "one"); err != nil {
		return err
	}
	if err := rest(ctx, 2*time.Second); err != nil { // until it runs evenly
		return err
	}
	var used, refused []float64
	last, from, err := s.calls(ctx)
	if err != nil {
		return err
	}
	for range b.rounds {
		if err := rest(ctx, at.seconds); err != nil {
			return err
		}
		now, then, err := s.calls(ctx)
		if err != nil {
			return err
		}
		used = append(used, float64(now.sum-last.sum)/(then.Sub(from).Seconds()*at.perSecond))
		refused = append(refused, float64(now.refused))
		last, from = now, then
	}
	how := fmt.Sprintf("a backlog, two workers, %s, %v a round", at.what, at.seconds)
	if err := report.add(at.id+".used", how, used, nil); err != nil {
		return err
	}
	return report.add(at.id+".refused", "refused by the sandbox in all", refused[len(refused)-1:], nil)
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
