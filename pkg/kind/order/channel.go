package order

import (
	"context"
	"errors"

	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// Channel is the part of an open warehouse that takes orders; false when it takes none. It is a Finder and a Comparer too.
func Channel(wh warehouse.Identified) (warehouse.Channel[*orderv1.Audited, *orderv1.Shipped], bool) {
	orders, ok := wh.(warehouse.Orders)
	if !ok {
		return nil, false
	}
	return channel{orders}, true
}

// channel reads the contract of orders as that of any kind.
type channel struct{ orders warehouse.Orders }

var (
	_ warehouse.Finder[*orderv1.Shipped]   = channel{}
	_ warehouse.Comparer[*orderv1.Audited] = channel{}
)

func (c channel) Identity() warehouse.Identity { return c.orders.Identity() }

func (c channel) Plan(o *orderv1.Audited) warehouse.Plan { return c.orders.PlanOrder(o) }

func (c channel) Send(ctx context.Context, o *orderv1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	return c.orders.SendPlanned(ctx, o, plan)
}

func (c channel) Compare(ctx context.Context, o *orderv1.Audited, number string) (warehouse.Comparison, error) {
	return c.orders.CompareOrder(ctx, o, number)
}

func (c channel) Find(ctx context.Context, nos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	return finder{c.orders}.Find(ctx, nos)
}

func (c channel) FindLimit() int { return c.orders.Limits().Find }

func (c channel) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*orderv1.Shipped], error) {
	docs := make(map[string]warehouse.Document[*orderv1.Shipped], len(numbers))
	for _, number := range numbers {
		d, err := c.orders.OrderDetails(ctx, number)
		if errors.Is(err, warehouse.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		docs[number] = warehouse.Document[*orderv1.Shipped]{
			Number: number, No: d.OutboundNo, State: d.State, History: d.History, Children: d.Children,
			Detail: &orderv1.Shipped{
				CarrierNo: d.CarrierNo, CarrierName: d.CarrierName, Waybills: d.Waybills, Packages: d.Packages, Lines: d.Lines,
			},
		}
	}
	return docs, nil
}

// ReadLimit is 1: details are read one document at a time.
func (c channel) ReadLimit() int { return 1 }

// Finder finds orders as documents of any kind are found.
func Finder(orders warehouse.OrderFinder) warehouse.Finder[*orderv1.Shipped] { return finder{orders} }

type finder struct{ orders warehouse.OrderFinder }

// Find leaves the state of further documents under a number empty: it is known from their details only.
func (f finder) Find(ctx context.Context, nos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	found, err := f.orders.FindOrders(ctx, nos)
	if err != nil {
		return nil, err
	}
	docs := make(map[string][]warehouse.Document[*orderv1.Shipped], len(found))
	for no, order := range found {
		docs[no] = []warehouse.Document[*orderv1.Shipped]{{Number: order.WarehouseNo, No: order.OutboundNo, State: order.State}}
		for _, other := range order.Others {
			docs[no] = append(docs[no], warehouse.Document[*orderv1.Shipped]{Number: other, No: order.OutboundNo})
		}
	}
	return docs, nil
}

func (f finder) FindLimit() int { return f.orders.Limits().Find }
