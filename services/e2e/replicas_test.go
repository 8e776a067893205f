//go:build unix

package e2e

import (
	"fmt"
	"testing"
	"time"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/wiring"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/procs"
)

// Three replicas read a shop's flow and one is killed meanwhile: no movement is lost or published under two ids, and
// the next tick continues. Then JetStream is restored to an older copy: what it lost is published again.
func TestReplicasOfTheIngesterLoseNoMovement(t *testing.T) {
	t.Parallel()
	r, ctx := processes(t), t.Context()
	must(t, r.Stand(ctx, procs.Shape{Redis: "everysec", Sandbox: &jdsandbox.Config{
		Warehouses: stack.DemoSandbox().Warehouses, Shops: stack.DemoSandbox().Shops,
		Knobs: jdsandbox.Knobs{Latency: jdsandbox.Range{Min: jdsandbox.Duration(150 * time.Millisecond), Max: jdsandbox.Duration(250 * time.Millisecond)}},
	}}))
	r.Setenv("LOG_LEVEL=warn", "VMI_SLOTS=2", "VMI_RUN_PAGES=5", "VMI_CATCH_UP=1m")
	setup, err := stack.DemoSetup(r.Dir(), r.Sandbox.Base)
	must(t, err)
	followed(setup)
	place := stock.Place{Seller: setup.Name, Warehouse: setup.Warehouses[0].Code, ShopNo: setup.Shops[0].ShopNo}
	query := jdsandbox.StockQuery{ShopNo: place.ShopNo}
	now := time.Now()
	var goods []string
	for i := range 8 {
		goods = append(goods, fmt.Sprint("EMG", i))
	}
	must(t, r.Sandbox.FillFlow(ctx, jdsandbox.Fill{
		DeptNo: setup.Accounts[0].Department, WarehouseNo: setup.Warehouses[0].WarehouseNo, ShopNo: place.ShopNo, GoodsNos: goods,
		Rows: 4000, From: now.Add(-18 * time.Minute), To: now.Add(-time.Minute),
	}), r.Apply(ctx, setup))
	var replicas []*procs.Process
	for i := range 3 {
		p, err := r.Worker(ctx, procs.VMIIngester, fmt.Sprint("ingester-", i))
		must(t, err)
		replicas = append(replicas, p)
	}

	b := bustest.Connect(t, r.NATS.URL())
	l, err := wiring.Ledger(ctx, r.Redis.URL(), b)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	rows := func() int64 {
		n := int64(0)
		for _, no := range goods {
			f, err := (&stock.Store{Books: l}).Figure(ctx, place, no)
			must(t, err)
			n += f.Rows
		}
		return n
	}
	var last error
	complete := func() bool {
		truth, err := r.Sandbox.Stock(ctx, query)
		must(t, err)
		all, err := r.Sandbox.Movements(ctx, query)
		must(t, err)
		last = flowIs(t, b, l, place, truth.Shops, all)
		return last == nil
	}
	defer func() {
		if t.Failed() {
			t.Logf("%.2000v", last)
		}
	}()
	until(t, "some rows are read", func() bool { return rows() > 300 })
	must(t, replicas[0].Kill())
	if n := rows(); n > 3900 {
		t.Errorf("%d rows were read before the kill: it proves nothing", n)
	}
	until(t, "all is read and published once", complete)

	move := func(num int64) {
		_, err := r.Sandbox.Move(ctx, jdsandbox.StockAct{
			Kind: jdsandbox.Receipt, DeptNo: setup.Accounts[0].Department, WarehouseNo: setup.Warehouses[0].WarehouseNo, ShopNo: place.ShopNo, GoodsNo: "EMG1", Num: num,
		})
		must(t, err)
	}
	copied, err := r.NATS.Copy()
	must(t, err)
	move(3)
	until(t, "the next tick continues", complete)
	must(t, r.NATS.Restore(ctx, copied))
	move(4)
	until(t, "what JetStream lost is published again", complete)
}
