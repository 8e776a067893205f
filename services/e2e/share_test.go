package e2e

import (
	"bytes"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	"stockbridge/services/bridgectl/ctl"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
)

// shared is a set-up whose one shop has 30 % of the warehouse's stock, and pushes its orders itself.
func shared(s *sellerv1.Setup) {
	s.Shops[0].Booking = sellerv1.Shop_BOOKING_DOCUMENTS
	s.Stock = &sellerv1.Stock{
		Every: durationpb.New(time.Second), Lag: durationpb.New(0), Overlap: durationpb.New(5 * time.Second), CountEvery: durationpb.New(2 * time.Second),
		Pools: []*sellerv1.Pool{{Name: "cloud", Warehouse: s.Warehouses[0].Code, Ratio: "30", Shops: []*sellerv1.PoolShop{{Shop: s.Shops[0].Code, Safety: 2}}}},
	}
}

// A shop gets its share of what JD has, less what it sold since; when all is quiet it has exactly that.
func TestAShareFollowsTheStock(t *testing.T) {
	t.Parallel()
	stocked := func(c *jdsandbox.Config) {
		setup, err := stack.DemoSetup(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			c.Stock = append(c.Stock, jdsandbox.Stock{
				DeptNo: setup.Accounts[0].Department, WarehouseNo: setup.Warehouses[0].WarehouseNo, GoodsNo: fmt.Sprintf("EMG441800000000%d", i+1),
				Shops: map[string]int64{setup.Shops[0].ShopNo: int64(1000 * (i + 1))},
			})
		}
	}
	each(t, testenv.Options{Setup: shared, Sandbox: stocked}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		seen := func() map[string]*stockv1.ShareChanged {
			latest := map[string]*stockv1.ShareChanged{}
			f.must(f.Bus.Events(t.Context(), bus.EventQuery{Names: []string{event.StockShareChanged.Name}}, func(e bus.Stored) error {
				m, err := bus.Decode(event.StockShareChanged, e)
				if err != nil {
					return err
				}
				// The share can be recomputed from the event.
				basis := m.Basis
				figure := new(big.Int).Quo(big.NewInt((basis.Saleable-basis.Elsewhere)*30), big.NewInt(100)).Int64() - basis.Pending
				if want := max(figure-basis.Safety, 0); m.Share != want {
					t.Errorf("published %d of %s, and its basis makes %d: %v", m.Share, m.GoodsNo, want, m)
				}
				if last := latest[m.GoodsNo]; last == nil || m.Version > last.Version {
					latest[m.GoodsNo] = m
				}
				return nil
			}))
			return latest
		}
		follows := func() bool {
			latest := seen()
			for _, lies := range w.JD.Stock(jdsandbox.StockQuery{}).Warehouses {
				if m := latest[lies.GoodsNo]; m == nil || m.Share != max(lies.Usable*30/100-2, 0) {
					return false
				}
			}
			return len(latest) == 4
		}
		f.Until("each share is its part of the stock", follows)
		list := w.Maker.Make(60)
		w.Publish(list...)
		for _, o := range list {
			w.UntilPublished("accepted", o, accepted)
		}
		f.Until("the shares follow what was sold", follows)
		if dead := w.DeadLetters("dlq"); len(dead) > 0 {
			t.Errorf("%d dead letters, first %s: %s", len(dead), dead[0].Consumer, dead[0].Error)
		}
		if len(seen()) != 4 || seen()["EMG4418000000001"].Share >= 298 {
			t.Errorf("published %v", seen())
		}
		f.move(jdsandbox.Receipt, "EMG4418000000001", 5000)
		f.move(jdsandbox.Loss, "EMG4418000000002", 700)
		f.Until("they follow what moved there", follows)
		for _, s := range w.JD.Stock(jdsandbox.StockQuery{}).Shops {
			if s.LowestFree < 0 {
				t.Errorf("%s was sold %d times too often", s.GoodsNo, -s.LowestFree)
			}
		}
		if out := f.ctl("stock", "shares", stack.DemoSeller); !strings.Contains(out, "EMG4418000000001") {
			t.Errorf("listed as\n%s", out)
		}
		f.ctl("stock", "count", stack.DemoSeller)

		// A ratio that is changed at JD shows in the flow, with a warning until the set-up is applied again.
		shares := func() (int, string) {
			var out, errs bytes.Buffer
			code := ctl.Run(t.Context(), []string{"bridgectl", "--nats-url", f.NATSURL, "--redis-url", f.RedisURL, "stock", "shares", stack.DemoSeller}, ctl.Streams{Out: &out, Err: &errs})
			return code, out.String()
		}
		_, err := f.JD.Move(jdsandbox.StockAct{Kind: jdsandbox.RatioChange, DeptNo: f.dept, WarehouseNo: f.house, ShopNo: f.place.ShopNo, Percent: 50})
		f.must(err)
		f.Until("the change is seen", func() bool {
			code, out := shares()
			return code == 1 && strings.Contains(out, "was changed at the warehouse")
		})
		w.Apply(w.Setup())
		f.Until("the warning is gone", func() bool { code, _ := shares(); return code == 0 })
	})
}
