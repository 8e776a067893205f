//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/procs"
)

const (
	// manyGoods lie in one place; each moved manyMoves times in manyFor.
	manyGoods, manyMoves = 50_000, 2
	manyFor              = 24 * time.Hour
	// How long each part may take.
	ingestWithin, countWithin, shareWithin = 120 * time.Second, 110 * time.Second, 60 * time.Second
	// sharesPerSecond is SHARE_PER_SECOND: the pace is not what is measured.
	sharesPerSecond = 20_000
	// sharingShop has a share of the place's stock; what moved is another's.
	sharingShop = "ESP0020000000002"
)

func vmiRows() []budget {
	return []budget{
		{ID: "vmi.rate", Group: "vmi", What: "movements a second, in a catch-up", Unit: "/s"},
		{ID: "vmi.memory", Group: "vmi", What: "the most memory that the worker took for it", Unit: "MiB", Most: bound(64)},
		{ID: "vmi.growth", Group: "vmi", What: "the same, against the most after a quarter of the rows", Most: bound(1.2)},
		{ID: "vmi.cpu", Group: "vmi", What: "CPU of the worker per movement", Unit: "µs"},
		{ID: "vmi.goods.rate", Group: "vmi.goods", What: "movements a second, of 50 000 goods in one place", Unit: "/s"},
		{ID: "vmi.goods.memory", Group: "vmi.goods", What: "the most memory that vmi-ingester took for it", Unit: "MiB", Most: bound(64)},
		{ID: "vmi.goods.count", Group: "vmi.goods", What: "the most memory that stock-syncer took to count them", Unit: "MiB", Most: bound(64)},
		{ID: "vmi.goods.share", Group: "vmi.goods", What: "the same, after their shares were published too", Unit: "MiB", Most: bound(64)},
	}
}

// vmiGoods lets the workers book, count and share many goods of one place.
func (b *bench) vmiGoods(ctx context.Context, report *Report) error {
	config := stack.DemoSandbox()
	config.Speed = 1
	config.Shops = append(config.Shops, jdsandbox.Shop{ShopNo: sharingShop, ShopName: "示例店二", DeptNo: stack.DemoDepartment})
	s, err := b.stand(ctx, shape{name: "vmi.goods", sync: "always", redis: "everysec", sandbox: &config})
	if err != nil {
		return err
	}
	defer s.close()
	goods, now := max(300, b.orders(manyGoods)), time.Now()
	rows, since := goods*manyMoves, now.Add(-manyFor)
	fill := jdsandbox.Fill{
		DeptNo: stack.DemoDepartment, WarehouseNo: stack.DemoWarehouse, ShopNo: stack.DemoShop, Rows: rows, From: since, To: now.Add(-time.Minute),
	}
	for i := range goods {
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
	setup.Shops = append(setup.Shops, &sellerv1.Shop{Code: "S02", ShopNo: sharingShop, Warehouses: []string{"W01"}, Booking: sellerv1.Shop_BOOKING_DOCUMENTS})
	setup.Stock = &sellerv1.Stock{
		Since: since.Add(-time.Minute).Format(time.RFC3339), Every: durationpb.New(5 * time.Second), SecondLook: durationpb.New(0),
		Pools: []*sellerv1.Pool{{Name: "all", Warehouse: "W01", Ratio: "100", Shops: []*sellerv1.PoolShop{{Shop: "S02"}}}},
	}
	if err := s.Apply(ctx, setup); err != nil {
		return err
	}
	ingester, err := s.Worker(ctx, procs.VMIIngester, "ingester", "LOG_LEVEL=warn")
	if err != nil {
		return err
	}
	began := time.Now()
	seen, err := s.until(ctx, ingestWithin, rows, s.moved)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, ingester.Tail(2000))
	}
	b.say(fmt.Sprintf("vmi.goods: %d of %d movements after %.0f s", seen, rows, time.Since(began).Seconds()))
	str, err := s.js.Stream(ctx, streamStock)
	if err != nil {
		return err
	}
	state := str.CachedInfo().State
	took := max(state.LastTime.Sub(state.FirstTime), time.Millisecond)
	used, err := ingester.Usage()
	if err != nil {
		return err
	}
	how := fmt.Sprintf("%d movements of %d goods, one worker, no limit by quota, sync always, Redis AOF everysec", rows, goods)
	detail := map[string]float64{"s": took.Seconds(), "CPU µs each": float64(used.CPU.Microseconds()) / float64(max(1, seen))}
	if seen < rows {
		detail["given up"] = float64(rows - seen)
	}
	if err := report.add("vmi.goods.rate", how, []float64{float64(seen) / took.Seconds()}, detail); err != nil {
		return err
	}
	if err := report.add("vmi.goods.memory", "peak of the worker", []float64{mib(used.Peak)}, nil); err != nil {
		return err
	}
	if seen < rows {
		report.unfinished()
	}
	syncer, err := s.Worker(ctx, procs.StockSyncer, "syncer", "LOG_LEVEL=warn", fmt.Sprintf("SHARE_PER_SECOND=%d", sharesPerSecond), "SHARE_SETTLE=1s")
	if err != nil {
		return err
	}
	for _, part := range []struct {
		id, what, fact string
		within         time.Duration
		want           int
	}{
		// Each event of a count holds up to 200 goods.
		{"vmi.goods.count", "events of the count", event.StockCounted.Name, countWithin, (goods + goodsPerCount - 1) / goodsPerCount},
		{"vmi.goods.share", "shares", event.StockShareChanged.Name, shareWithin, goods},
	} {
		began := time.Now()
		seen, err := s.until(ctx, part.within, part.want, func(ctx context.Context) (int, error) { return s.stored(ctx, part.fact) })
		if err != nil {
			return fmt.Errorf("%w\n%s", err, syncer.Tail(2000))
		}
		took := time.Since(began)
		used, err := syncer.Usage()
		if err != nil {
			return err
		}
		b.say(fmt.Sprintf("%s: %d of %d %s after %.0f s", part.id, seen, part.want, part.what, took.Seconds()))
		detail := map[string]float64{"s": took.Seconds(), "CPU s so far": used.CPU.Seconds(), part.what: float64(seen)}
		if seen < part.want {
			detail["given up"] = float64(part.want - seen)
		}
		if err := report.add(part.id, fmt.Sprintf("peak of stock-syncer, %d goods, %d shares a second allowed", goods, sharesPerSecond), []float64{mib(used.Peak)}, detail); err != nil {
			return err
		}
		if seen < part.want {
			report.unfinished()
		}
	}
	return nil
}

// goodsPerCount is how many goods one event of a count holds.
const goodsPerCount = 200

// groupEnds is how long before the end of its time a group stops waiting.
const groupEnds = 10 * time.Second

// until waits until as many were seen, or for a while; it returns how many were.
func (s *stand) until(ctx context.Context, within time.Duration, want int, look func(context.Context) (int, error)) (seen int, err error) {
	limit := time.Now().Add(within)
	// The group still has to say what it saw.
	if end, ok := ctx.Deadline(); ok && end.Add(-groupEnds).Before(limit) {
		limit = end.Add(-groupEnds)
	}
	for {
		if seen, err = look(ctx); err != nil || seen >= want || time.Now().After(limit) {
			return seen, err
		}
		if err := rest(ctx, 200*time.Millisecond); err != nil {
			return seen, err
		}
	}
}

// stored is how many events of a name are in the stream of stock.
func (s *stand) stored(ctx context.Context, name string) (n int, err error) {
	str, err := s.js.Stream(ctx, streamStock)
	if err != nil {
		return 0, err
	}
	info, err := str.Info(ctx, jetstream.WithSubjectFilter(name+".>"))
	if err != nil {
		return 0, err
	}
	for _, count := range info.State.Subjects {
		n += int(count) //nolint:gosec // counts are far smaller
	}
	return n, nil
}
