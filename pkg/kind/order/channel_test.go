package order_test

import (
	"testing"

	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
)

// A send and its repetition, a look-up, a reading and a comparison, through the contract of any kind.
func TestChannel(t *testing.T) {
	ctx := t.Context()
	c, ok := order.Channel(&memory.Warehouse{})
	if !ok {
		t.Fatal("the warehouse takes no orders")
	}
	o := &orderv1.Audited{
		OutboundNo: "A-1", Receiver: &orderv1.Receiver{Name: "x"}, Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}},
	}
	var numbers []string
	for range 2 {
		receipt, err := c.Send(ctx, o, c.Plan(o))
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, receipt.WarehouseNo)
	}
	found, err := c.(warehouse.Finder[*orderv1.Shipped]).Find(ctx, []string{"A-1", "A-2"})
	if err != nil || len(found) != 1 || len(found["A-1"]) != 2 || found["A-1"][0].Number != numbers[0] || found["A-1"][1].Number != numbers[1] {
		t.Errorf("found %+v, %v, want both under %v", found, err, numbers)
	}
	read, err := c.Read(ctx, []string{numbers[0], "MEM99999999"})
	if d := read[numbers[0]]; err != nil || len(read) != 1 || d.No != "A-1" || d.State.Code == "" || d.Detail.Lines[0].Quantity != 2 {
		t.Errorf("read %+v, %v", read, err)
	}
	if same, err := c.(warehouse.Comparer[*orderv1.Audited]).Compare(ctx, o, numbers[0]); err != nil || len(same.Differences) > 0 {
		t.Errorf("compared: %+v, %v", same, err)
	}
}

// What follows orders must not send any, whatever interface it asks for.
func TestAReadOnlyChannelCannotSend(t *testing.T) {
	c, _ := order.Channel(&memory.Warehouse{})
	r := warehouse.ReadOnly(c)
	if _, ok := r.(warehouse.Finder[*orderv1.Shipped]); !ok {
		t.Error("it does not find orders any more")
	}
	if _, ok := r.(warehouse.Channel[*orderv1.Audited, *orderv1.Shipped]); ok {
		t.Error("it sends")
	}
}
