//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/procs"
)

const (
	// caughtUp is how many rows of the flow a worker catches up with, of movedGoods goods in flowTime. With fewer rows
	// the time is shorter, so that each window has as many.
	caughtUp   = 200_000
	movedGoods = 1000
	flowTime   = 5 * 24 * time.Hour
)

// vmi lets a worker that was down for days catch up with the flow of one shop.
func (b *bench) vmi(ctx context.Context, report *Report) error {
	config := stack.DemoSandbox()
	config.Speed = 1
	s, err := b.stand(ctx, shape{name: "vmi", sync: "always", redis: "everysec", sandbox: &config})
	if err != nil {
		return err
	}
	defer s.close()
	n, now := b.orders(caughtUp), time.Now()
	since := now.Add(-time.Duration(float64(flowTime) * b.scale))
	fill := jdsandbox.Fill{
		DeptNo: stack.DemoDepartment, WarehouseNo: stack.DemoWarehouse, ShopNo: stack.DemoShop, Rows: n, From: since, To: now.Add(-time.Minute),
	}
	for i := range movedGoods {
		fill.GoodsNos = append(fill.GoodsNos, fmt.Sprintf("EMG44180%08d", i))
	}
	if err := s.Sandbox.FillFlow(ctx, fill); err != nil {
		return err
	}
	setup, err := s.seller(ctx, "one", "", plenty())
	if err != nil {
		return err
	}
	setup.Shops[0].Booking = sellerv1.Shop_BOOKING_FLOW
	setup.Stock = &sellerv1.Stock{
		Since: since.Add(-time.Minute).Format(time.RFC3339), Every: durationpb.New(5 * time.Second),
		SecondLook: durationpb.New(0), // each row is read once
	}
	if err := s.Apply(ctx, setup); err != nil {
		return err
	}
	worker, err := s.Worker(ctx, procs.VMIIngester, "ingester", "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	idle, err := worker.Usage()
	if err != nil {
		return err
	}
	spent := map[string]time.Duration{}
	servers := map[string]*procs.Process{"nats-server": s.NATS.Nodes[0], "redis-server": s.Redis.Process}
	for name, p := range servers {
		u, err := p.Usage()
		if err != nil {
			return err
		}
		spent[name] = -u.CPU
	}
	var quarter, whole procs.Usage
	for seen := 0; seen < n; {
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d rows: %w\n%s", seen, n, err, worker.Tail(2000))
		}
		if seen, err = s.moved(ctx); err != nil {
			return err
		}
		if seen >= n/4 && quarter.Peak == 0 {
			if quarter, err = worker.Usage(); err != nil {
				return err
			}
			b.say(fmt.Sprintf("%d rows of %d", seen, n))
		}
	}
	if whole, err = worker.Usage(); err != nil {
		return err
	}
	for name, p := range servers {
		u, err := p.Usage()
		if err != nil {
			return err
		}
		spent[name] += u.CPU
	}
	// What is still read repeats movements and publishes nothing new.
	if err := rest(ctx, time.Second); err != nil {
		return err
	}
	seen, err := s.moved(ctx)
	if err != nil {
		return err
	}
	if seen != n {
		return fmt.Errorf("%d rows were published, want %d", seen, n)
	}
	str, err := s.js.Stream(ctx, streamStock)
	if err != nil {
		return err
	}
	state := str.CachedInfo().State
	calls, _, err := s.calls(ctx)
	if err != nil {
		return err
	}
	took := state.LastTime.Sub(state.FirstTime).Seconds()
	each := func(d time.Duration) float64 { return d.Seconds() * 1e6 / float64(n) }
	how := fmt.Sprintf("%d rows of %d goods in %.0f h, one worker, quota no limit, sync always, Redis AOF everysec", n, len(fill.GoodsNos), now.Sub(since).Hours())
	for _, row := range []struct {
		id, how string
		figure  float64
		detail  map[string]float64
	}{
		{"vmi.rate", how, float64(n) / took, map[string]float64{"calls": float64(calls.by[methodFlow]), "s": took}},
		{"vmi.memory", fmt.Sprintf("peak of the worker after %d rows", n), mib(whole.Peak), map[string]float64{"before MiB": mib(idle.Peak)}},
		{"vmi.growth", fmt.Sprintf("after %d rows and after %d", n, n/4), float64(whole.Peak) / float64(quarter.Peak), map[string]float64{
			"a quarter MiB": mib(quarter.Peak),
		}},
		{"vmi.cpu", "user and system time", each(whole.CPU - idle.CPU), map[string]float64{
			"nats-server µs": each(spent["nats-server"]), "redis-server µs": each(spent["redis-server"]),
		}},
	} {
		if err := report.add(row.id, row.how, []float64{row.figure}, row.detail); err != nil {
			return err
		}
	}
	return nil
}

const (
	streamStock = "STOCK"
	methodFlow  = "eclp.stock.queryVmiShopStockFlow"
)

// moved is how many rows of the flow were published.
func (s *stand) moved(ctx context.Context) (n int, err error) {
	for _, fact := range []string{event.StockAdjusted.Name, event.StockNoted.Name} {
		some, err := s.stored(ctx, fact)
		if err != nil {
			return 0, err
		}
		n += some
	}
	return n, nil
}
