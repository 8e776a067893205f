package ctl

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

type orderCmd struct {
	Push    pushCmd[ofOrders]    `cmd:"" help:"Publish audited orders from a file."`
	Check   orderCheckCmd        `cmd:"" help:"Print what would be sent for orders and everything that is wrong with them; sends nothing."`
	Erase   orderEraseCmd        `cmd:"" help:"Erase a receiver's data from our copies of an order."`
	Explain explainCmd[ofOrders] `cmd:"" help:"Show all that is known of one order, in order of time."`
}

// orderKind is the kind of an order's ledger key.
const orderKind = "order"

// unknownFields are the paths in text that kind does not have. They are tolerated, but may be misspelt.
func unknownFields(text []byte, kind protoreflect.MessageDescriptor) []string {
	var found []string
	var look func(path string, v any, s shape)
	look = func(path string, v any, s shape) {
		switch v := v.(type) {
		case []any:
			for i, item := range v {
				look(fmt.Sprintf("%s[%d]", path, i), item, s)
			}
		case map[string]any:
			if s.message == nil {
				return
			}
			for _, key := range slices.Sorted(maps.Keys(v)) {
				at := strings.TrimPrefix(path+"."+key, ".")
				if field := fieldOf(s.message, key); field != nil {
					look(at, v[key], shapeOf(s.message, key))
				} else {
					found = append(found, at)
				}
			}
		}
	}
	var v any
	if json.Unmarshal(text, &v) == nil {
		look("", v, shape{message: kind})
	}
	return found
}

// headerOf returns the headers of an event: the attributes of CloudEvents' NATS binding, and the id by which the broker
// recognises a repeat.
func headerOf(e event.Event) map[string][]string {
	return map[string][]string{
		event.HeaderSpec: {"1.0"}, event.HeaderID: {e.ID}, event.HeaderType: {e.Name}, event.HeaderSource: {"bridgectl"},
		event.HeaderSubject: {e.Key}, event.HeaderTime: {e.At.UTC().Format(time.RFC3339Nano)},
		event.HeaderContentType: {"application/json"}, "Nats-Msg-Id": {e.ID},
	}
}

// finding is one fault of an order, or one change that was made to it.
type finding struct {
	// Outcome is what would become of the order: "held", "failed", or "note" when it is sent all the same.
	Outcome string `json:"outcome"`
	Cause   string `json:"cause,omitempty"`
	reasonJSON
}

func (f finding) reason() fault.Reason { return fault.Reason(f.reasonJSON) }

func findingOf(err error) finding {
	f := finding{Outcome: "failed", Cause: fault.Cause(err), reasonJSON: reasonJSON(fault.ReasonOf(err, "internal"))}
	if fault.Of(err) == fault.Held {
		f.Outcome = "held"
	}
	return f
}
