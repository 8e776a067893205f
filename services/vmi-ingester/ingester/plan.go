package ingester

import (
	"context"
	"fmt"
	"maps"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

const (
	// gapsAtOnce is the most gaps that one tick, or one window, publishes; the next ticks publish the others. Their
	// names have to fit into one write of the book (ledger.BookWriteLimit).
	gapsAtOnce = 200
	// runEnds is after how long every run that was under way has ended: above the sum of the handler's limit, the
	// time for settling, and the broker's wait for an ack.
	runEnds = 2 * time.Minute
)

// VMIDue plans what to read of a place next. Nothing is planned while the seller is paused; later ticks catch up.
func (p *Ingester) VMIDue(ctx context.Context, d *bus.Delivery, m *vmiv1.Due) ([]event.Event, error) {
	s, ok := p.Sellers.Get(m.GetSeller())
	if !ok || s.Pause != nil {
		return nil, nil
	}
	if _, ok := s.Place(m.GetWarehouse(), m.GetShopNo()); !ok {
		return nil, nil // no longer followed
	}
	place := placeOf(m)
	events, settle, err := p.plan(ctx, s, place, d.StreamTime)
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", place, err)
	}
	d.AfterStored(settle)
	// Release windows whose cause publishes no event when it is gone, e.g. a permission.
	_, err = p.ReleaseDue(ctx, d, &sellerv1.PollDue{Seller: s.Name()})
	return events, err
}

// plan returns the windows to publish, and what to do when they are stored.
func (p *Ingester) plan(ctx context.Context, s *seller.Seller, place stock.Place, at time.Time) ([]event.Event, func(context.Context) error, error) {
	wh, err := p.Open(s, place.Warehouse)
	if err != nil {
		return nil, nil, err
	}
	if err := requireWholeFlow(s, wh); err != nil {
		return nil, nil, err
	}
	st, err := p.ensureBook(ctx, place, s.Following().Flow, wh.FlowTerms().Linked)
	if err != nil {
		return nil, nil, err
	}
	if at.IsZero() {
		at = p.Now()
	}
	ends, err := p.streamEnds(ctx)
	if err != nil {
		return nil, nil, err
	}
	from, next := st.Plan, nextPlan(st.Plan, s.Following(), at, p.Now())
	longest := wh.FlowTerms().MaxSpan
	var events []event.Event
	for _, w := range windowsBetween(from, next, s.Following(), p.CatchUp, longest) {
		w.Seller, w.Warehouse, w.ShopNo = place.Seller, place.Warehouse, place.ShopNo
		events = append(events, Window(w, at))
	}
	gaps, names, broken, err := p.unreportedGaps(ctx, place, st.Read)
	if err != nil {
		return nil, nil, err
	}
	events = append(events, gaps...)
	settle := func(ctx context.Context) error {
		if len(names) > 0 {
			if _, err := p.store.Apply(ctx, place, stock.Batch{Done: names, Tail: ends}); err != nil {
				return err
			}
		}
		return p.store.UpdateState(ctx, place, func(now *stock.State) bool {
			if now.Plan == from {
				now.Plan = next
			}
			now.Broken = broken
			if p.Now().Sub(now.Head.Seen) >= runEnds {
				if !now.Head.Seen.IsZero() {
					now.Head.Complete = now.Head.Next
				}
				now.Head.Next, now.Head.Seen = ends, p.Now()
			}
			return true
		})
	}
	return events, settle, nil
}

// requireWholeFlow holds reading from a method that returns only some of the movements. Nothing is planned meanwhile;
// when the set-up names another method, that one reads from where the last window ended.
func requireWholeFlow(s *seller.Seller, wh warehouse.FlowReader) error {
	if !wh.FlowTerms().Partial {
		return nil
	}
	return fault.Hold(seller.CauseFlow(s.Name()), fault.Reason{
		Code: "flow.partial", Field: "stock.flow",
		ZH: "设置 stock.flow 所选的接口只返回部分流水（销售出库单），不能据此记账；请删除 stock.flow 后重新 seller apply，将从上次读到的时刻继续",
		EN: "the method that stock.flow names returns only some movements (those of sales orders), so no book can be kept by it; remove stock.flow and apply the set-up, then reading continues where it stopped",
	})
}

// unreportedGaps returns the events of gaps that were not published yet, the names that mark them as published, and how
// many goods have gaps at all.
func (p *Ingester) unreportedGaps(ctx context.Context, place stock.Place, read stock.Coverage) (events []event.Event, names []string, goods int, err error) {
	seen := map[string]bool{}
	for from := ""; ; {
		broken, next, err := p.store.Broken(ctx, place, from)
		if err != nil {
			return nil, nil, 0, err
		}
		maps.DeleteFunc(broken, func(goods string, _ []stock.Gap) bool { return seen[goods] })
		more, found, err := p.gaps(ctx, place, broken, read, gapsAtOnce-len(names))
		if err != nil {
			return nil, nil, 0, err
		}
		events, names = append(events, more...), append(names, found...)
		for goods := range broken {
			seen[goods] = true
		}
		if from = next; next == "" || len(names) >= gapsAtOnce {
			return events, names, len(seen), nil
		}
	}
}

// gaps returns the events and names of at most most gaps that lie in time that was read and were not published yet.
func (p *Ingester) gaps(ctx context.Context, place stock.Place, broken map[string][]stock.Gap, read stock.Coverage, most int) (events []event.Event, names []string, err error) {
	type goodsGap struct {
		goods string
		stock.Gap
	}
	found := map[string]goodsGap{}
	var all []string
	for goods, list := range broken {
		for _, h := range list {
			if read.Has(h.Interval()) {
				name := gapName(goods, h)
				found[name] = goodsGap{goods, h}
				all = append(all, name)
			}
		}
	}
	if len(all) == 0 {
		return nil, nil, nil
	}
	known, err := p.store.Known(ctx, place, all)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range all {
		if !known[name] && len(names) < most {
			names = append(names, name)
			events = append(events, gapEvents(place, found[name].goods, found[name].Gap, p.Now())...)
		}
	}
	p.Metrics.Gaps.Add(float64(len(names)))
	return events, names, nil
}

// streamEnds returns where the streams end now.
func (p *Ingester) streamEnds(ctx context.Context) (e stock.Positions, err error) {
	if e.Stock.Seq, e.Stock.At, err = p.Streams.End(ctx, event.StockAdjusted.Name); err == nil {
		e.VMI.Seq, e.VMI.At, err = p.Streams.End(ctx, event.VMIWindowIngested.Name)
	}
	return e, err
}
