// Package orderview reads the streams and derives what became of each order, so that it can be compared with what the
// warehouse has.
package orderview

import (
	"context"
	"fmt"
	"slices"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	documentv1 "stockbridge/proto/document/v1"
)

// Order is what the streams have of one outbound number. Repeats under the same id count once.
type Order struct {
	OutboundNo string
	// Audits counts the audit messages, repeats included.
	Audits int
	// Accepted are the warehouse's numbers that were published; more than one is a broken promise.
	Accepted []string
	// Held are the causes, Failed the reasons' codes.
	Held, Failed []string
	// Shipped are the documents published as shipped; Waybills are all of theirs.
	Shipped, Waybills []string
	// Complete counts order.shipped with complete set.
	Complete int
	// Delivered and Cancelled count the documents.
	Delivered, Cancelled int
	// Unknown counts status changes to a status that is not known.
	Unknown int
}

// Tally is what the streams have of all orders. It is for one goroutine.
type Tally struct {
	Orders map[string]*Order
	// Unreadable counts audits that name no order.
	Unreadable int
	// Events counts by name, repeats included.
	Events map[string]int

	bus    *bus.Bus
	seller string
	next   map[string]uint64
	seen   map[string]bool
}

// New makes an empty tally of seller (empty: of all).
func New(b *bus.Bus, seller string) *Tally {
	return &Tally{Orders: map[string]*Order{}, Events: map[string]int{}, bus: b, seller: seller, next: map[string]uint64{}, seen: map[string]bool{}}
}

// names are what is counted, by stream.
var names = map[string][]string{
	bus.StreamIntake: {event.OrderAudited.Name},
	bus.StreamOrders: outcomes,
}

var outcomes = []string{
	event.OrderAccepted.Name, event.OrderHeld.Name, event.OrderFailed.Name,
	event.OrderStatusChanged.Name, event.OrderShipped.Name, event.OrderDelivered.Name, event.OrderReturning.Name,
	event.OrderCancelled.Name,
}

// Update reads to the streams' present end: the audits after the outcomes, so that no outcome lacks its audit.
func (t *Tally) Update(ctx context.Context) error {
	for _, stream := range []string{bus.StreamOrders, bus.StreamIntake} {
		if err := t.update(ctx, stream); err != nil {
			return fmt.Errorf("read the streams: %w", err)
		}
	}
	return nil
}

func (t *Tally) update(ctx context.Context, stream string) error {
	q := bus.EventQuery{Stream: stream, Names: names[stream], Seller: t.seller, From: max(t.next[stream], 1)}
	return t.bus.Events(ctx, q, func(s bus.Stored) error {
		t.next[stream] = s.Seq + 1
		t.Events[s.Name]++
		if s.Name == event.OrderAudited.Name {
			m, err := bus.Decode(event.OrderAudited, s)
			if err != nil || m.OutboundNo == "" {
				t.Unreadable++
				return nil
			}
			t.order(m.OutboundNo).Audits++
			return nil
		}
		if t.seen[s.ID] {
			return nil
		}
		t.seen[s.ID] = true
		return t.add(s)
	})
}

func (t *Tally) order(no string) *Order {
	o, ok := t.Orders[no]
	if !ok {
		o = &Order{OutboundNo: no}
		t.Orders[no] = o
	}
	return o
}

func (t *Tally) add(s bus.Stored) error {
	switch s.Name {
	case event.OrderAccepted.Name:
		m, err := bus.Decode(event.OrderAccepted, s)
		if err != nil {
			return err
		}
		o := t.order(m.Ref.OutboundNo)
		o.Accepted = with(o.Accepted, m.Ref.WarehouseNo)
	case event.OrderHeld.Name:
		m, err := bus.Decode(event.OrderHeld, s)
		if err != nil {
			return err
		}
		o := t.order(m.Ref.OutboundNo)
		o.Held = with(o.Held, m.Cause)
	case event.OrderFailed.Name:
		m, err := bus.Decode(event.OrderFailed, s)
		if err != nil {
			return err
		}
		o := t.order(m.Ref.OutboundNo)
		o.Failed = with(o.Failed, m.Reason.Code)
	case event.OrderShipped.Name:
		m, err := bus.Decode(event.OrderShipped, s)
		if err != nil {
			return err
		}
		o := t.order(m.Ref.OutboundNo)
		o.Shipped = with(o.Shipped, m.Ref.WarehouseNo)
		for _, w := range m.Waybills {
			o.Waybills = with(o.Waybills, w)
		}
		if m.Complete {
			o.Complete++
		}
	case event.OrderDelivered.Name:
		m, err := bus.Decode(event.OrderDelivered, s)
		if err != nil {
			return err
		}
		t.order(m.Ref.OutboundNo).Delivered++
	case event.OrderCancelled.Name:
		m, err := bus.Decode(event.OrderCancelled, s)
		if err != nil {
			return err
		}
		t.order(m.Ref.OutboundNo).Cancelled++
	case event.OrderStatusChanged.Name:
		m, err := bus.Decode(event.OrderStatusChanged, s)
		if err != nil {
			return err
		}
		if m.Status == documentv1.Status_STATUS_UNSPECIFIED {
			t.order(m.Ref.OutboundNo).Unknown++
		}
	}
	return nil
}

func with(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// Count counts the orders that match.
func (t *Tally) Count(match func(*Order) bool) int {
	n := 0
	for _, o := range t.Orders {
		if match(o) {
			n++
		}
	}
	return n
}
