package pusher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/order-pusher/order"
)

// Push sends one audited order and returns its outcome: order.accepted, order.held or order.failed. The outcome of a known
// order is returned again, which repairs a crash between recording and publishing.
func (p *Pusher) Push(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) ([]event.Event, error) {
	if s, yes := p.shadow.Owns(d, o); yes {
		events, err := p.shadow.Push(ctx, d, s, o)
		if err != nil {
			err = fmt.Errorf("shadow %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
		}
		return events, err
	}
	r := &run{Pusher: p, d: d, o: clean.Order(o).Order, original: o, span: trace.SpanFromContext(ctx)}
	err := r.push(ctx)
	if err != nil {
		err = fmt.Errorf("push %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
	}
	if err != nil && len(r.events) == 0 {
		r.events = p.OnReject(d, o, err)
	}
	return append(r.events, r.sellerEvents...), err
}

// OnReject returns the event of an order that is held or becomes a dead letter: order.held or order.failed. It returns none
// for an order that will be tried again, or when the order's number cannot be read.
func (p *Pusher) OnReject(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if !o.ProtoReflect().IsValid() || o.OutboundNo == "" || !event.ValidSeller(o.Seller) && !event.ValidSeller(d.Seller) {
		return nil
	}
	if event.ValidSeller(d.Seller) && d.Seller != o.Seller {
		// The publisher may not change the state of another seller's numbers, but must get the refusal.
		o = proto.CloneOf(o)
		o.Seller = d.Seller
	}
	if _, yes := p.shadow.Owns(d, o); yes {
		return p.shadow.OnReject(d, o, err)
	}
	o = clean.Order(o).Order
	reason := fault.ReasonOf(err, "internal")
	if reason.Code == "malformed" && !plainNumber(o.OutboundNo) {
		return nil // its fields may contain anything
	}
	now := p.Now()
	class, cause := fault.Of(err), fault.Cause(err)
	if errors.Is(err, bus.ErrAttempts) {
		// It may have been sent, and an ERP could refund a failed order that ships.
		class, cause = fault.Held, seller.CauseOperator(o.Seller, o.OutboundNo)
	}
	switch class {
	case fault.Held:
		return []event.Event{order.HeldEvent(o, now, cause, reason)}
	case fault.Refused:
		if events := p.heldIfLive(o, now, reason); events != nil {
			return events
		}
		m := &documentv1.Failed{Ref: order.Ref(o, ""), At: timestamppb.New(now), Reason: event.Reason(reason)}
		return []event.Event{event.OrderFailed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), reason.Code)}
	default:
		return nil
	}
}

// plainNumber reports whether text follows the rule of outbound numbers.
func plainNumber(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return text != "" && len(text) <= 100
}

// heldIfLive returns order.held in place of order.failed when an order is, or may be, live under the number: an ERP could
// refund a failed order that ships. It returns nil when none is live. When the ledger cannot be read, one may be.
func (p *Pusher) heldIfLive(o *orderv1.Audited, now time.Time, reason fault.Reason) []event.Event {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo})
	switch {
	case errors.Is(err, ledger.ErrNoEntry), err == nil && !entry.State.Live():
		return nil
	case err != nil:
		reason.ZH += "；此单号下可能已有有效单据，请核对"
		reason.EN += "; an order may be live under this number: check"
	default:
		zh, en := order.LiveText(entry)
		reason.ZH += "；" + zh
		reason.EN += "; " + en
	}
	cause := seller.CauseOperator(o.Seller, o.OutboundNo)
	m := &documentv1.Held{Ref: order.Ref(o, entry.Number), At: timestamppb.New(now), Cause: cause, Reason: event.Reason(reason)}
	return []event.Event{event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause, reason.Code)}
}
