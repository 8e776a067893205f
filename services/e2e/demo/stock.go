package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/stock"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

const (
	// ownShop is a 京仓 shop: JD takes its orders, and its stock is booked from the flow.
	ownShop, ownShopNo = "J01", "ESP0020000000009"
	// poolName is the stock that the cloud shop shares, cloudRatio its percentage of the warehouse's stock.
	poolName, cloudRatio = "cloud", 30
	flowMethod           = "eclp.stock.queryVmiShopStockFlow"
	// flowTrouble is what JD answers instead of a page.
	flowTrouble = "库存系统繁忙，请稍后再试"
)

// stockGoods are what this chapter moves.
var stockGoods = []string{"EMG4418000000201", "EMG4418000000202", "EMG4418000000203"}

// flow is what was published about stock.
type flow struct {
	// ids are the ids under which each row was published, by flow number.
	ids map[string]map[string]bool
	// noted are the rows that the ERP is not to book.
	noted int
	// ingested are windows that were read completely, failed those that could not be, gaps the series with a gap.
	ingested, failed, gaps int
	last                   *vmiv1.WindowIngested
	shares                 map[string]*stockv1.ShareChanged
	drifts                 int
}

// watchFlow reads all that was published about stock so far.
func (s *story) watchFlow(ctx context.Context) (*flow, error) {
	f := &flow{ids: map[string]map[string]bool{}, shares: map[string]*stockv1.ShareChanged{}}
	row := func(e bus.Stored, m *stockv1.Movement) {
		if f.ids[m.GetFlowNo()] == nil {
			f.ids[m.GetFlowNo()] = map[string]bool{}
		}
		f.ids[m.GetFlowNo()][e.ID] = true
	}
	err := s.stack.Bus.Events(ctx, bus.EventQuery{
		Names: []string{
			event.StockAdjusted.Name, event.StockNoted.Name, event.StockShareChanged.Name, event.StockDriftFound.Name,
			event.VMIWindowIngested.Name, event.VMIWindowFailed.Name, event.VMIGapFound.Name,
		},
		Seller: stack.DemoSeller,
	}, func(e bus.Stored) error {
		switch e.Name {
		case event.StockAdjusted.Name:
			m, err := bus.Decode(event.StockAdjusted, e)
			if err != nil {
				return err
			}
			row(e, m.Movement)
		case event.StockNoted.Name:
			m, err := bus.Decode(event.StockNoted, e)
			if err != nil {
				return err
			}
			if m.Movement.ShopNo == ownShopNo && m.Rule != syncer.RuleOpening { // an opening balance is our own, and no row of the flow
				row(e, m.Movement)
				f.noted++
			}
		case event.StockShareChanged.Name:
			m, err := bus.Decode(event.StockShareChanged, e)
			if err != nil {
				return err
			}
			if was := f.shares[m.GoodsNo]; was == nil || was.Version < m.Version {
				f.shares[m.GoodsNo] = m
			}
		case event.StockDriftFound.Name:
			f.drifts++
		case event.VMIWindowIngested.Name:
			m, err := bus.Decode(event.VMIWindowIngested, e)
			if err != nil {
				return err
			}
			if m.Window.ShopNo == ownShopNo {
				f.ingested++
				if m.Adjusted > 0 {
					f.last = m
				}
			}
		case event.VMIWindowFailed.Name:
			f.failed++
		case event.VMIGapFound.Name:
			f.gaps++
		}
		return nil
	})
	return f, err
}

// stocked is the chapter of stock: a 京仓 shop whose flow cannot be read for a while and omits rows, and a cloud shop
// that may offer its part of what is there.
func (s *story) stocked(ctx context.Context) error {
	for _, step := range []func(context.Context) error{s.openStock, s.failWindow, s.openGap, s.follow, s.certify} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// openStock stocks the warehouse and has both shops followed.
func (s *story) openStock(ctx context.Context) error {
	fmt.Fprintln(s.out)
	for _, goods := range stockGoods {
		err := s.jd.StockGoods(ctx, jdsandbox.Stock{
			DeptNo: stack.DemoDepartment, WarehouseNo: stack.DemoWarehouse, GoodsNo: goods, Shops: map[string]int64{ownShopNo: 700, stack.DemoShop: 300},
		})
		if err != nil {
			return err
		}
	}
	now, ok := s.stack.Sellers.Get(stack.DemoSeller)
	if !ok {
		return errors.New("the demo seller is gone")
	}
	setup := proto.CloneOf(now.Setup)
	for _, shop := range setup.Shops {
		shop.Booking = sellerv1.Shop_BOOKING_DOCUMENTS
	}
	setup.Shops = append(setup.Shops, &sellerv1.Shop{Code: ownShop, ShopNo: ownShopNo, Warehouses: []string{"W01"}, Booking: sellerv1.Shop_BOOKING_FLOW})
	setup.Stock = &sellerv1.Stock{
		Every: durationpb.New(time.Second), Lag: durationpb.New(time.Second), Overlap: durationpb.New(time.Second), SecondLook: durationpb.New(4 * time.Second),
		CountEvery: durationpb.New(time.Second),
		Pools:      []*sellerv1.Pool{{Name: poolName, Warehouse: "W01", Ratio: fmt.Sprint(cloudRatio), Shops: []*sellerv1.PoolShop{{Shop: setup.Shops[0].Code}}}},
	}
	if err := s.stack.Apply(ctx, setup); err != nil {
		return err
	}
	// Rows count from the first plan of the place.
	if err := s.untilFlow(ctx, "reading", "读取流水", func(f *flow) (int, int) { return min(f.ingested, 1), 1 }); err != nil {
		return err
	}
	if err := s.move(ctx, 60); err != nil {
		return err
	}
	return s.untilFlow(ctx, "movements published", "已通知库存变动", s.allPublished)
}

// move lets n things happen in the warehouse: sales mostly, receipts, a stock-take, and rows that are not booked.
func (s *story) move(ctx context.Context, n int) error {
	kinds := []jdsandbox.ActKind{jdsandbox.Sale, jdsandbox.Sale, jdsandbox.Sale, jdsandbox.Receipt, jdsandbox.Sale, jdsandbox.Loss, jdsandbox.Sale, jdsandbox.SetStock}
	for i := range n {
		act := jdsandbox.StockAct{
			Kind: kinds[i%len(kinds)], DeptNo: stack.DemoDepartment, WarehouseNo: stack.DemoWarehouse, ShopNo: ownShopNo,
			GoodsNo: stockGoods[i%len(stockGoods)], Num: int64(1 + i%3),
		}
		switch act.Kind {
		case jdsandbox.Receipt:
			act.Num = 10
		case jdsandbox.SetStock:
			act.Num = 650
		}
		made, err := s.jd.Move(ctx, act)
		if err != nil {
			return err
		}
		s.moved += len(made)
	}
	return nil
}

// failWindow has JD refuse the flow until a window is dead-lettered, and fetches it again.
func (s *story) failWindow(ctx context.Context) error {
	_, err := s.jd.AddFault(ctx, jdsandbox.Fault{ID: "flow", Kind: jdsandbox.Error, Methods: []string{flowMethod}, Shops: []string{ownShopNo}, Chance: 1, ZH: flowTrouble})
	if err != nil {
		return err
	}
	if err := s.move(ctx, 20); err != nil {
		return err
	}
	if err := s.untilFlow(ctx, "window dead-lettered", "失败的时间段", func(f *flow) (int, int) { return min(f.failed, 1), 1 }); err != nil {
		return err
	}
	if err := s.jd.RemoveFault(ctx, "flow"); err != nil {
		return err
	}
	was, err := s.watchFlow(ctx)
	if err != nil {
		return err
	}
	if err := s.move(ctx, 10); err != nil {
		return err
	}
	if err := s.untilFlow(ctx, "later windows read", "之后的时间段照常读取", func(f *flow) (int, int) { return min(f.ingested-was.ingested, 2), 2 }); err != nil {
		return err
	}
	items, _, err := s.stack.Bus.DeadLetters(ctx, bus.DeadLetterQuery{Kind: event.Dead, Consumer: ingester.Windows})
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := s.stack.Bus.Replay(ctx, item.Seq, bus.By{Who: "demo", Why: "JD answers again"}); err != nil {
			return err
		}
		s.refetched++
	}
	if s.refetched == 0 {
		return errors.New("a window failed, and none is dead-lettered")
	}
	s.print(fmt.Sprintf("%d windows fetched again (补抓); JD had said: %s", s.refetched, flowTrouble), fmt.Sprintf("补抓 %d 个时间段", s.refetched), "")
	return s.untilFlow(ctx, "movements published", "已通知库存变动", s.allPublished)
}

// openGap has JD omit rows, so that the balances do not connect, until the gap is noticed and closed.
func (s *story) openGap(ctx context.Context) error {
	if _, err := s.jd.SetKnobs(ctx, map[string]any{"flow": map[string]any{"drop": map[string]any{"chance": 0.3, "readings": 3}}}); err != nil {
		return err
	}
	was, err := s.watchFlow(ctx)
	if err != nil {
		return err
	}
	if err := s.move(ctx, 30); err != nil {
		return err
	}
	if err := s.untilFlow(ctx, "gap found", "发现流水断点", func(f *flow) (int, int) { return min(f.gaps-was.gaps, 1), 1 }); err != nil {
		return err
	}
	if _, err := s.jd.SetKnobs(ctx, map[string]any{"flow": map[string]any{"drop": map[string]any{"chance": 0, "readings": 0}}}); err != nil {
		return err
	}
	// A row that is missing at the very end shows when the next one comes.
	if err := s.move(ctx, 6); err != nil {
		return err
	}
	return s.untilFlow(ctx, "movements published", "已通知库存变动", s.allPublished)
}

// allPublished compares the published rows with those that the sandbox made.
func (s *story) allPublished(f *flow) (done, of int) { return len(f.ids), s.moved }

// follow waits until the cloud shop's share is right, moves stock, and waits again.
func (s *story) follow(ctx context.Context) error {
	settled := func() error {
		want, err := s.shares(ctx)
		if err != nil {
			return err
		}
		return s.untilFlow(ctx, "shares as the stock is", "共享库存与实物一致", func(f *flow) (int, int) {
			right := 0
			for goods, share := range want {
				if seen := f.shares[goods]; seen != nil && seen.Share == share {
					right++
				}
			}
			return right, len(want)
		})
	}
	if err := settled(); err != nil {
		return err
	}
	if err := s.move(ctx, 12); err != nil {
		return err
	}
	if err := settled(); err != nil {
		return err
	}
	return s.untilFlow(ctx, "movements published", "已通知库存变动", s.allPublished)
}

// shares is what the cloud shop may offer, from the sandbox's own figures.
func (s *story) shares(ctx context.Context) (map[string]int64, error) {
	truth, err := s.jd.Stock(ctx, jdsandbox.StockQuery{DeptNo: stack.DemoDepartment})
	if err != nil {
		return nil, err
	}
	shares := map[string]int64{}
	for _, w := range truth.Warehouses {
		if w.StockStatus == "1" && w.StockType == "1" && slices.Contains(stockGoods, w.GoodsNo) {
			shares[w.GoodsNo] += w.Usable
		}
	}
	for goods, saleable := range shares {
		shares[goods] = saleable * cloudRatio / 100
	}
	return shares, nil
}

// certify compares the book and the published movements with the sandbox's figures, and prints both.
func (s *story) certify(ctx context.Context) error {
	f, err := s.watchFlow(ctx)
	if err != nil {
		return err
	}
	truth, err := s.jd.Stock(ctx, jdsandbox.StockQuery{ShopNo: ownShopNo})
	if err != nil {
		return err
	}
	rows, err := s.jd.Movements(ctx, jdsandbox.StockQuery{ShopNo: ownShopNo})
	if err != nil {
		return err
	}
	shares, err := s.shares(ctx)
	if err != nil {
		return err
	}
	books := stock.Store{Books: s.stack.Ledger}
	place := stock.Place{Seller: stack.DemoSeller, Warehouse: "W01", ShopNo: ownShopNo}
	var broken []error
	breaks := func(format string, args ...any) { broken = append(broken, fmt.Errorf("P4 "+format, args...)) }
	for _, r := range rows {
		if ids := f.ids[r.FlowID]; len(ids) != 1 {
			breaks("movement %s: published under %d ids", r.FlowID, len(ids))
		}
	}
	if len(f.ids) != len(rows) {
		breaks("%d movements published, the sandbox made %d", len(f.ids), len(rows))
	}
	open := 0
	fmt.Fprintln(s.out)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "stock\tbook\tsandbox\t库存")
	for _, at := range truth.Shops {
		figure, err := books.Figure(ctx, place, at.GoodsNo)
		if err != nil {
			return err
		}
		open += len(figure.Gaps)
		if figure.Num != at.Num || figure.Proof != stock.Proved {
			breaks("%s: the book says %d (%s), the sandbox %d", at.GoodsNo, figure.Num, figure.Proof, at.Num)
		}
		seen := f.shares[at.GoodsNo]
		if seen.GetShare() != shares[at.GoodsNo] {
			breaks("%s: shop %s may offer %d, should be %d", at.GoodsNo, seen.GetShop(), seen.GetShare(), shares[at.GoodsNo])
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t京仓店铺库存\n", at.GoodsNo, figure.Num, at.Num)
		fmt.Fprintf(w, "  share of %s\t%d\t%d\t云仓店铺可售（%d%%）\n", seen.GetShop(), seen.GetShare(), shares[at.GoodsNo], cloudRatio)
	}
	fmt.Fprintf(w, "movements\t%d\t%d\t流水条数\n", len(f.ids), len(rows))
	fmt.Fprintf(w, "  of them not to be booked\t%d\t\t其中不记账\n", f.noted)
	fmt.Fprintf(w, "windows read\t%d\t\t已读取的时间段\n", f.ingested)
	fmt.Fprintf(w, "windows failed, fetched again\t%d, %d\t\t失败的时间段与补抓\n", f.failed, s.refetched)
	fmt.Fprintf(w, "gaps found, still open\t%d, %d\t\t断点：发现与未修复\n", f.gaps, open)
	if err := w.Flush(); err != nil {
		return err
	}
	if c := f.last; c != nil {
		fmt.Fprintf(s.out, "certificate of the last window with new rows: %s to %s, rows %d = adjusted %d + repeated %d + noted %d; flow %s to %s; %s\n",
			c.Window.From.AsTime().Format(time.TimeOnly), c.Window.To.AsTime().Format(time.TimeOnly), c.Rows, c.Adjusted, c.Repeated,
			c.Rows-c.Adjusted-c.Repeated, c.FirstFlow, c.LastFlow, c.Continuity)
	}
	if f.failed == 0 || f.gaps == 0 || open > 0 || f.drifts > 0 {
		breaks("failed windows %d, gaps found %d, open %d, differences between book and warehouse %d", f.failed, f.gaps, open, f.drifts)
	}
	if len(broken) > 0 {
		return errors.Join(broken...)
	}
	s.print("each movement once, book and sandbox agree, shares are right", "每条流水恰好一次，账面与沙箱一致，共享库存正确", "")
	return nil
}

// untilFlow waits until enough is published, and shows the progress.
func (s *story) untilFlow(ctx context.Context, en, zh string, progress func(*flow) (done, of int)) error {
	last := -1
	for {
		f, err := s.watchFlow(ctx)
		if err != nil {
			return err
		}
		done, of := progress(f)
		if done != last {
			last = done
			s.print(fmt.Sprintf("%s: %d of %d", en, done, of), fmt.Sprintf("%s %d/%d", zh, done, of), "")
		}
		if done >= of {
			return nil
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case err := <-s.stack.Failed():
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s: %d of %d when the time was up: %w", en, done, of, ctx.Err())
		}
	}
}
