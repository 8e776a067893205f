package memory_test

import (
	"context"
	"fmt"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
)

// An answer is lost: the warehouse has the order, and the caller does not know. It looks the order up under its own number
// before it sends anything again.
func Example() {
	wh := &memory.Warehouse{Knobs: memory.Knobs{LoseReplies: 1}}
	order := &orderv1.Audited{
		Seller: "acme", OutboundNo: "SO-1-1", Receiver: &orderv1.Receiver{Name: "张三", Mobile: "13800000000", Address: "示例路 1 号"},
		Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "TEA-250", Quantity: 2}},
	}
	orders := wh.Orders()
	_, err := orders.Send(context.Background(), order, orders.Plan(order))
	fmt.Println(fault.Of(err))

	found, err := orders.Find(context.Background(), []string{"SO-1-1", "SO-2-1"})
	fmt.Println(found["SO-1-1"][0].Number, err)
	_, there := found["SO-2-1"]
	fmt.Println(there)
	// Output:
	// unknown
	// MEM00000001 <nil>
	// false
}
