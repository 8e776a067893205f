package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

// Status is a worker's answer to AskWorkers. It holds nothing secret.
type Status struct {
	// Service is the worker's name, Instance its host and process.
	Service  string `json:"service"`
	Instance string `json:"instance"`
	Ready    bool   `json:"ready"`
	// Why is the worker's own text when it is not ready.
	Why string `json:"why,omitempty"`
	// LedgerSkew and NATSSkew are how far its host's clock is ahead of these, nanoseconds; negative when it is
	// behind.
	LedgerSkew time.Duration `json:"ledger_skew"`
	NATSSkew   time.Duration `json:"nats_skew"`
}

const (
	// statusTimeout is how long a worker checks its readiness before it answers; askTimeout, how long answers are
	// awaited, is longer.
	statusTimeout = 2 * time.Second
	askTimeout    = 3 * time.Second
)

// status is this worker's answer.
func (p Parts) status(service string) []byte {
	host, _ := os.Hostname() // it only distinguishes workers; empty serves too
	s := Status{Service: service, Instance: fmt.Sprintf("%s/%d", host, os.Getpid())}
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		s.Why = err.Error()
	}
	s.Ready = s.Why == ""
	if p.Clocks != nil {
		s.LedgerSkew, s.NATSSkew = p.Clocks.Skews()
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return nil // cannot happen: text and numbers
	}
	return raw
}

// AskWorkers asks all running workers for their status, sorted by service and instance. Workers that do not answer in
// time are missing.
func AskWorkers(ctx context.Context, b *bus.Bus) ([]Status, error) {
	answers, err := b.Gather(ctx, event.WorkersAsked, askTimeout)
	if err != nil {
		return nil, err
	}
	var list []Status
	for _, raw := range answers {
		var s Status
		if json.Unmarshal(raw, &s) == nil && s.Service != "" {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return list, nil
}
