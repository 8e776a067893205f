package event_test

import (
	"fmt"
	"time"

	"stockbridge/pkg/event"
	documentv1 "stockbridge/proto/document/v1"
)

// The same fact has the same id at any time and from any publisher: a repeat is recognised.
func ExampleTopic_About() {
	accepted := &documentv1.Accepted{Ref: &documentv1.Ref{Seller: "acme", OutboundNo: "SO-1-1", WarehouseNo: "ESL1"}}
	e := event.OrderAccepted.About("acme", "SO-1-1", time.Date(2026, 3, 5, 9, 31, 0, 0, time.UTC), accepted, event.Revision(1))
	fmt.Println(e.Subject())
	fmt.Println(e.ID)
	name, seller := event.Split("order.accepted.acme")
	fmt.Println(name, seller)
	// Output:
	// order.accepted.acme
	// order.accepted/acme/SO-1-1/1
	// order.accepted acme
}
