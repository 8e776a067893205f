//go:build unix

package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/orders"
)

// erp publishes orders as a merchant's ERP does: with an id, repeated until the stream has answered, and once more from
// its own list after the stream was restored.
type erp struct {
	bus    *bus.Bus
	record *history.Recorder
	makers map[string]*orders.Maker

	// open is held for reading while something is published, for writing while the stream is restored.
	open sync.RWMutex

	mu   sync.Mutex
	list []published

	sent, acked atomic.Int64
	sending     sync.WaitGroup
}

type published struct {
	order *orderv1.Audited
	group string
	acked time.Time
}

const (
	// answerLimit is how long one attempt waits for the stream's answer.
	answerLimit = 5 * time.Second
	// retryPause is the pause before the next attempt.
	retryPause = 500 * time.Millisecond
)

func newERP(b *bus.Bus, record *history.Recorder, list []merchant, seed uint64) *erp {
	e := &erp{bus: b, record: record, makers: map[string]*orders.Maker{}}
	for i, m := range list {
		// Numbers begin with the maker's seed: one a seller.
		e.makers[m.name] = orders.New(m.name, seed*100+uint64(i))
	}
	return e
}

// publish makes the seller's next order and publishes it in the background until it is acknowledged or ctx ends.
func (e *erp) publish(ctx context.Context, seller, group string) {
	o := e.makers[seller].Next()
	e.sending.Go(func() { e.until(ctx, o, group) })
}

// litter publishes a message that nobody can read, once: an ERP that publishes such messages does not look at the answer.
func (e *erp) litter(ctx context.Context, seller string) {
	e.sending.Go(func() {
		e.open.RLock()
		defer e.open.RUnlock()
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		_, _, _ = e.bus.PublishRaw(ctx, event.OrderAudited.Name+"."+seller, nil, []byte(`{"lines": 1`))
	})
}

// until publishes an order until it is acknowledged or ctx ends.
func (e *erp) until(ctx context.Context, o *orderv1.Audited, group string) {
	e.sent.Add(1)
	for again := false; e.once(ctx, o, group, again, false) != nil; again = true {
		if !wait(ctx, retryPause) {
			return
		}
	}
	e.acked.Add(1)
}

// once publishes one order once and records it. again: it was tried before; known: it was acknowledged before.
func (e *erp) once(ctx context.Context, o *orderv1.Audited, group string, again, known bool) error {
	e.open.RLock()
	defer e.open.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(o)
	if err != nil {
		return err
	}
	id := event.OrderAudited.About(o.Seller, o.OutboundNo, o.AuditedAt.AsTime(), o, event.Revision(o.Revision))
	a := history.AuditOf(o)
	a.Sent, a.Again, a.Group = time.Now(), again, group
	stored, _, err := e.bus.PublishRaw(ctx, id.Subject(), map[string][]string{
		event.HeaderID: {id.ID}, event.HeaderType: {id.Name}, event.HeaderContentType: {"application/json"}, "Nats-Msg-Id": {id.ID},
	}, body)
	if err == nil {
		a.Acked = time.Now()
	}
	if err == nil && !stored && known {
		return nil // the stream has the one that was recorded when it was acknowledged
	}
	e.record.Audit(a)
	if err != nil {
		return fmt.Errorf("publish %s: %w", o.OutboundNo, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, published{o, group, a.Acked})
	return nil
}

// republish publishes once more what was acknowledged since, as an ERP does from its own list. It returns how many.
func (e *erp) republish(ctx context.Context, since time.Time) int {
	e.mu.Lock()
	var lost []published
	for _, p := range e.list {
		if !p.acked.Before(since) {
			lost = append(lost, p)
		}
	}
	e.mu.Unlock()
	work := make(chan published)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for p := range work {
				for e.once(ctx, p.order, p.group, true, true) != nil && wait(ctx, retryPause) {
				}
			}
		})
	}
	for _, p := range lost {
		work <- p
	}
	close(work)
	workers.Wait()
	return len(lost)
}
