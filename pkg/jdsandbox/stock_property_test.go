package jdsandbox_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"stockbridge/pkg/jdsandbox"
)

// TestStockAddsUp mixes orders, cancellations, acts, settings, fills, the clock and kills in any sequence, under a flow
// that leaves out, repeats, delays and shuffles. Then every row follows the one before it; the rows of each reason are
// what was done; the physical stock is what arrived minus what left; and a reader who reads long enough has read every
// row.
func TestStockAddsUp(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		file := filepath.Join(t.TempDir(), "jd.journal")
		s := still(t, stocked, func(c *jdsandbox.Config) {
			c.State, c.Seed, c.Stopped = file, rapid.Uint64().Draw(r, "seed"), false
			c.Speed = rapid.SampledFrom([]float64{1, 600}).Draw(r, "speed")
			c.Stock = append(c.Stock, jdsandbox.Stock{DeptNo: dept, WarehouseNo: warehouseNo, GoodsNo: "EMG3", Shops: map[string]int64{shopNo: 0}})
			c.Knobs.Walk = jdsandbox.DefaultWalk()
			c.Knobs.Split.Chance, c.Knobs.Short.Chance, c.Knobs.Rejected.Chance, c.Knobs.OwnCancel.Chance = 0.2, 0.2, 0.2, 0.1
			c.Knobs.Stock.ShipAt = rapid.SampledFrom([]jdsandbox.Code{"10018", "10019"}).Draw(r, "ship_at")
		})
		begin := s.clock.Now()
		goods := rapid.SampledFrom([]string{"EMG1", "EMG2", "EMG3"})
		done := map[string]int64{} // pieces by reason
		orders, requests := []string{}, 0
		moved := func(kind jdsandbox.ActKind, reason string) func(*rapid.T) {
			return func(r *rapid.T) {
				n := rapid.Int64Range(1, 9).Draw(r, "num")
				a := act(kind, n, func(a *jdsandbox.StockAct) { a.GoodsNo = goods.Draw(r, "goods") })
				a.Walks = kind == jdsandbox.Sale && rapid.Bool().Draw(r, "walks")
				if _, err := s.Move(a); err != nil {
					r.Fatal(err)
				}
				if kind != jdsandbox.Sale {
					done[reason] += n
				}
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"order": func(r *rapid.T) {
				orders = append(orders, s.add(with(anOrder(fmt.Sprintf("A-%d", len(orders))), object{
					"goodsNo": "EMG1," + goods.Draw(r, "goods"), "quantity": fmt.Sprintf("%d,2", rapid.IntRange(1, 5).Draw(r, "quantity")),
				})))
			},
			"cancel": func(r *rapid.T) {
				if len(orders) > 0 {
					if _, err := s.call("eclp.order.cancelOrder", object{"eclpSoNo": rapid.SampledFrom(orders).Draw(r, "order")}); err != nil {
						r.Fatal(err)
					}
				}
			},
			"receipt": moved(jdsandbox.Receipt, "采购入库"), "return": moved(jdsandbox.Return, "退货入库"),
			"gain": moved(jdsandbox.Gain, "盘盈"), "loss": moved(jdsandbox.Loss, "盘亏"), "sale": moved(jdsandbox.Sale, ""),
			"ratio": func(r *rapid.T) {
				s.move(act(jdsandbox.RatioChange, 0, func(a *jdsandbox.StockAct) { a.GoodsNo, a.Percent = "", rapid.Int64Range(0, 200).Draw(r, "percent") }))
			},
			"set": func(r *rapid.T) {
				requests++
				s.result("eclp.stock.setShopStockFixed", "ShopStockBaseResponse", object{
					"requestId": fmt.Sprint(requests), "deptNo": dept, "shopNo": shopNo, "warehouseNo": warehouseNo, "opUser": "x",
					"stockNum": rapid.IntRange(0, 20).Draw(r, "to"), "goodsNo": goods.Draw(r, "goods"),
				})
			},
			"time": func(r *rapid.T) { s.clock.Move(time.Duration(rapid.IntRange(1, 300).Draw(r, "seconds")) * time.Second) },
			"skip": func(r *rapid.T) { s.advance(time.Duration(rapid.IntRange(1, 300).Draw(r, "minutes")) * time.Minute) },
			"weather": func(r *rapid.T) {
				s.set(func(k *jdsandbox.Knobs) {
					k.Flow = jdsandbox.Flow{
						Order: rapid.SampledFrom([]string{"ascending", "descending", "shuffled", "seconds"}).Draw(r, "flow order"), Duplicate: 0.2,
						Drop:  jdsandbox.Missing{Chance: 0.5, Readings: rapid.IntRange(0, 3).Draw(r, "drop")},
						Late:  jdsandbox.Late{Chance: 0.5, By: jdsandbox.Range{Max: jdsandbox.Duration(time.Duration(rapid.IntRange(0, 60).Draw(r, "late")) * time.Second)}},
						Shift: jdsandbox.Shift{Repeat: 0.1, Skip: 0.1, Rows: 2},
					}
				})
			},
			"read": func(*rapid.T) { s.flow(object{"onePageNum": 10}) },
			"kill": func(r *rapid.T) {
				before := text(t, s.truth())
				if s = s.again(t); text(t, s.truth()) != before {
					r.Errorf("after a kill the rows are others:\n%s\n%s", before, text(t, s.truth()))
				}
			},
			"": func(*rapid.T) {
				sums(t, s.JD)
			},
		})
		s.advance(200 * time.Hour) // all orders come to their end
		s.clock.Move(time.Hour)
		sums(t, s.JD)
		booked, moves, physical := map[string]int64{}, map[string]int64{}, map[string]int64{"EMG1": 10, "EMG2": 7}
		out := map[string]int64{} // by document, what left less what came back
		for _, m := range s.truth() {
			booked[m.Reason] += m.Now - m.Former
			moves[m.GoodsNo] += m.Now - m.Former
			if m.Reason != "设置VMI库存" && m.Reason != "商品库存比例调整" {
				physical[m.GoodsNo] += m.Now - m.Former
			}
			if m.Reason == "销售出库" || m.Reason == "拒收入库" {
				out[m.DocumentNo] += m.Former - m.Now
			}
		}
		for reason, n := range done {
			if reason == "盘亏" {
				n = -n
			}
			if booked[reason] != n {
				r.Errorf("%s: rows make %d, done was %d", reason, booked[reason], n)
			}
		}
		for _, d := range s.Documents() {
			left := int64(0)
			back := slices.ContainsFunc(d.History, func(h jdsandbox.Status) bool { return h.Code == "10028" || h.Code == "10038" })
			if len(d.Children) == 0 && !back {
				for _, l := range d.Lines {
					left += *l.RealOutQty
				}
			}
			if out[d.EclpSoNo] != left {
				r.Errorf("%s (%s): rows make %d, %d left", d.EclpSoNo, d.Status, out[d.EclpSoNo], left)
			}
		}
		truth := s.Stock(jdsandbox.StockQuery{})
		for _, c := range truth.Shops {
			if c.Occupied != 0 || c.Num != c.Opening+moves[c.GoodsNo] {
				r.Errorf("%+v: rows make %d", c, moves[c.GoodsNo])
			}
		}
		for _, w := range truth.Warehouses {
			if w.StockStatus == "1" && (w.Total != physical[w.GoodsNo] || w.Usable != w.Total) {
				r.Errorf("%+v: rows make %d", w, physical[w.GoodsNo])
			}
		}
		s.set(func(k *jdsandbox.Knobs) { k.Flow.Shift = jdsandbox.Shift{} })
		known := map[string]int{}
		span := object{"startTime": stamp(begin), "endTime": stamp(s.clock.Now()), "onePageNum": 10}
		for range 4 { // at most three readings leave a row out
			for _, id := range s.flow(span) {
				known[id]++
			}
		}
		if want := ids(s.truth()); len(known) != len(want) {
			r.Errorf("%d rows returned of %d", len(known), len(want))
		}
	})
}
