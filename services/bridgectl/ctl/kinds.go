package ctl

import (
	"encoding/json"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
)

// kind is an event's name with its message type.
type kind struct {
	name    string
	message protoreflect.MessageDescriptor
	decode  func(bus.Stored) (proto.Message, error)
}

func of[M proto.Message](t event.Topic[M]) kind {
	return kind{t.Name, t.New().ProtoReflect().Descriptor(), func(s bus.Stored) (proto.Message, error) { return bus.Decode(t, s) }}
}

// kinds are the events that are shown to people.
var kinds = []kind{
	of(event.OrderAudited), of(event.OrderCancelRequested),
	of(event.OrderAccepted), of(event.OrderHeld), of(event.OrderFailed), of(event.OrderShadowed), of(event.OrderStatusChanged), of(event.OrderShipped),
	of(event.OrderDelivered), of(event.OrderReturning), of(event.OrderCancelled), of(event.OrderCancelRefused),
	of(event.OrderCancelUnknown),
	of(event.SellerChanged), of(event.SellerPaused), of(event.SellerResumed),
}

// kindOn is the message type of a subject; nil when it is not known here.
func kindOn(subject string) protoreflect.MessageDescriptor {
	name, _ := event.Split(subject)
	for _, k := range kinds {
		if k.name == name {
			return k.message
		}
	}
	return nil
}

// decoded reads an event; nil without an error when its name is not known here.
func decoded(s bus.Stored) (proto.Message, error) {
	for _, k := range kinds {
		if k.name == s.Name {
			return k.decode(s)
		}
	}
	return nil, nil
}

// numberIn finds the outbound number in a body that has no headers about it and may not be valid.
func numberIn(body []byte) string {
	var m struct {
		OutboundNo string `json:"outboundNo"`
		Snake      string `json:"outbound_no"`
	}
	_ = json.Unmarshal(body, &m) // an unreadable body has no number
	if m.OutboundNo == "" {
		m.OutboundNo = m.Snake
	}
	return m.OutboundNo
}

// about returns the seller and the outbound number of a message, and all numbers in it that a person may ask by.
func about(m proto.Message) (seller, outboundNo string, numbers []string) {
	switch m := m.(type) {
	case *orderv1.Audited:
		return m.Seller, m.OutboundNo, append([]string{m.OutboundNo, m.OrderNo, m.Supersedes}, m.PlatformOrderNos...)
	case *orderv1.CancelRequested:
		return m.Seller, m.OutboundNo, []string{m.OutboundNo}
	case interface{ GetRef() *orderv1.Ref }:
		r := m.GetRef()
		numbers = []string{r.GetOutboundNo(), r.GetOrderNo(), r.GetWarehouseNo()}
		if s, ok := m.(*orderv1.Shipped); ok {
			numbers = append(append(numbers, s.Waybills...), s.SplitOf)
		}
		return r.GetSeller(), r.GetOutboundNo(), numbers
	default:
		return "", "", nil
	}
}
