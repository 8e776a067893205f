package ctl

import (
	"cmp"
	"encoding/json"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/event"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// kindOn is the message type of an event published on subject; nil when it is no fact's subject.
func kindOn(subject string) protoreflect.MessageDescriptor {
	name, _ := event.Split(subject)
	if f, known := event.FactNamed(name); known {
		return f.New().ProtoReflect().Descriptor()
	}
	return nil
}

// numberIn finds the ERP's number of the document in a body that has no headers about it and may not be valid.
func numberIn(body []byte) string {
	var m struct {
		OutboundNo string `json:"outboundNo"`
		Snake      string `json:"outbound_no"`
		No         string `json:"no"`
	}
	_ = json.Unmarshal(body, &m) // an unreadable body has no number
	return cmp.Or(m.OutboundNo, m.Snake, m.No)
}

// about returns the seller and the ERP's number of the document that a message is about, and all numbers in it that a
// person may ask by.
func about(m proto.Message) (seller, no string, numbers []string) {
	switch m := m.(type) {
	case *orderv1.Audited:
		return m.Seller, m.OutboundNo, append([]string{m.OutboundNo, m.OrderNo, m.Supersedes}, m.PlatformOrderNos...)
	case *orderv1.CancelRequested:
		return m.Seller, m.OutboundNo, []string{m.OutboundNo}
	case interface{ GetRef() *documentv1.Ref }:
		r := m.GetRef()
		no = cmp.Or(r.GetNo(), r.GetOutboundNo()) // earlier builds set the latter only
		numbers = []string{no, r.GetOrderNo(), r.GetWarehouseNo()}
		if s, ok := m.(*orderv1.Shipped); ok {
			numbers = append(append(numbers, s.Waybills...), s.SplitOf)
		}
		return r.GetSeller(), no, numbers
	case interface {
		GetSeller() string
		GetNo() string
	}:
		return m.GetSeller(), m.GetNo(), []string{m.GetNo()}
	default:
		return "", "", nil
	}
}
