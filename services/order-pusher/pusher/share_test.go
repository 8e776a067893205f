package pusher

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// farSide is a warehouse whose answers the test decides.
type farSide struct {
	warehouse.Orders
	find func(ctx context.Context, nos []string) (map[string]warehouse.Found, error)
	take func(ctx context.Context) error
}

func (f *farSide) PlanOrder(*orderv1.Audited) warehouse.Plan { return warehouse.Plan{} }

func (f *farSide) FindOrders(ctx context.Context, nos []string) (map[string]warehouse.Found, error) {
	return f.find(ctx, nos)
}

func (f *farSide) TakeOrder(ctx context.Context, o *orderv1.Audited) (warehouse.Taken, error) {
	return warehouse.Taken{WarehouseNo: "N-" + o.OutboundNo}, f.take(ctx)
}

func (b *bench) at_(far warehouse.Orders) {
	b.Open = func(*seller.Seller, string, warehouse.Class) (warehouse.Orders, error) { return far, nil }
}

// together asks after n orders in one call, and then ends it.
func together(t *testing.T, b *bench, far *farSide, n int, end func() error) []error {
	t.Helper()
	first, rest := make(chan struct{}), make(chan struct{})
	calls := 0
	far.find = func(context.Context, []string) (map[string]warehouse.Found, error) {
		if calls++; calls == 1 {
			close(first)
			<-rest
			return nil, fault.RetryAfter(time.Second, fmt.Errorf("later"))
		}
		return nil, end()
	}
	b.at_(far)
	errs := make([]error, n+1)
	var all sync.WaitGroup
	ask := func(i int) {
		r := &run{Pusher: b.Pusher, d: &bus.Delivery{}, o: b.order(fmt.Sprint("A-", i)), wh: far}
		all.Go(func() { _, _, errs[i] = r.ask(t.Context()) })
	}
	ask(0)
	<-first
	for i := range n {
		ask(i + 1)
	}
	for { // until all wait for the next call
		b.asker.mu.Lock()
		waiting := 0
		if l := b.asker.lanes[far]; l != nil {
			waiting = len(l.waiting)
		}
		b.asker.mu.Unlock()
		if waiting == n {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(rest)
	all.Wait()
	return errs[1:]
}

func TestAFailedCallCountsOnceForTheBreaker(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		together(t, b, &farSide{}, 10, func() error { return fmt.Errorf("connection reset") })
		if p := b.book.now.Pause; p != nil {
			t.Errorf("one failed call of many askers paused the seller: %+v", p)
		}
	})
}

func TestAPanicOfTheAskedFailsTheOrdersOnly(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		for _, err := range together(t, b, &farSide{}, 3, func() error { panic("no such field") }) {
			if fault.Of(err) != fault.Transient || err == nil {
				t.Errorf("got %v", err)
			}
		}
	})
}
