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
	// windowsAtOnce is the most windows of each kind that one tick publishes; to cover more time they become longer.
	windowsAtOnce = 200
	// gapsAtOnce is the most gaps that one tick, or one window, publishes; the next ticks publish the others. Their
	// names have to fit into one write of the book (ledger.BookWriteLimit).
	gapsAtOnce = 200
	// runEnds is after how long every run that was under way has ended: above the sum of the handler's limit, the
	// time for settling, and the broker's wait for an ack.
	runEnds = 2 * time.Minute
	// A plan that is clocksDiffer seconds ahead of the present was made by a wrong clock, which was wrong by
	// clockWrong seconds at most.
	clocksDiffer = 60
	clockWrong   = 24 * 60 * 60
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
	for _, w := range p.windows(s.Following(), from, next, longest) {
		w.Seller, w.Warehouse, w.ShopNo = place.Seller, place.Warehouse, place.ShopNo
		events = append(events, Window(w, at))
	}
	gaps, names, err := p.unreportedGaps(ctx, place, st.Read)
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

// nextPlan returns the plan after a tick that the bus dates at.
func nextPlan(plan stock.Plan, f seller.Following, at, now time.Time) stock.Plan {
	until := at.Add(-f.Lag).Unix()
	if plan.Until == 0 {
		plan.Start = until // read one second at once, so that the streams show since when the place is followed
		if !f.Since.IsZero() {
			plan.Start = f.Since.Unix()
		}
		plan.Until, plan.SecondUntil, plan.Flow = plan.Start-1, plan.Start-1, int32(f.Flow)
	}
	if plan.Flow != int32(f.Flow) {
		// No time is read by both methods: no overlap, and no second look at what the other one read.
		plan.Flow, plan.SwitchedAt, plan.SecondUntil = int32(f.Flow), max(plan.SwitchedAt, plan.Until+1), plan.Until
	}
	if latest := max(at.Unix(), now.Unix()); plan.Until > latest+clocksDiffer {
		// A clock was ahead: what was read of the future was empty.
		plan.Until = max(until-clockWrong, plan.Start-1)
		plan.SecondUntil = min(plan.SecondUntil, plan.Until)
	}
	plan.Until = max(plan.Until, until)
	if f.SecondLook > 0 {
		// Small steps would cost a call per tick; being late by a quarter of SecondLook does not matter.
		upTo := min(at.Add(-f.SecondLook).Unix(), plan.Until)
		if upTo-plan.SecondUntil >= max(int64(f.Every/time.Second), int64(f.SecondLook/time.Second)/4, 1) {
			plan.SecondUntil = upTo
		}
	}
	return plan
}

// windows cuts the time between two plans into windows.
func (p *Ingester) windows(f seller.Following, from, next stock.Plan, longest time.Duration) []*vmiv1.WindowDue {
	if from.Until == 0 { // the first plan
		from = stock.Plan{Start: next.Start, Until: next.Start - 1, SecondUntil: next.Start - 1}
	}
	overlap := int64(f.Overlap / time.Second)
	news := p.cut(stock.Interval{From: max(from.Until+1-overlap, from.Start, next.SwitchedAt), To: next.Until}, from.Until+1, longest)
	why := vmiv1.Why_WHY_NEXT
	if len(news) > 1 {
		why = vmiv1.Why_WHY_CATCH_UP
	}
	var due []*vmiv1.WindowDue
	add := func(s stock.Interval, why vmiv1.Why) {
		due = append(due, &vmiv1.WindowDue{From: unixStamp(s.From), To: unixStamp(s.To), Why: why})
	}
	// Alternate between the newest and the oldest: neither waits for all of the others.
	for i, j := 0, len(news)-1; i <= j; i, j = i+1, j-1 {
		add(news[j], why)
		if i < j {
			add(news[i], why)
		}
	}
	again := max(from.SecondUntil+1, next.SwitchedAt)
	for _, s := range p.cut(stock.Interval{From: again, To: next.SecondUntil}, again, longest) {
		add(s, vmiv1.Why_WHY_SECOND_LOOK)
	}
	return due
}

// cut cuts an interval; it returns nothing when s ends before first, the first second in it that is new.
func (p *Ingester) cut(s stock.Interval, first int64, longest time.Duration) []stock.Interval {
	if s.To < first {
		return nil
	}
	all := s.To - s.From + 1
	length := max(int64(p.CatchUp/time.Second), (all+windowsAtOnce-1)/windowsAtOnce)
	if most := int64(longest / time.Second); most > 0 {
		length = min(length, most)
	}
	var parts []stock.Interval
	for at := s.From; at <= s.To; at += length {
		parts = append(parts, stock.Interval{From: at, To: min(at+length-1, s.To)})
	}
	// Do not make a window of an overlap or a few seconds.
	if n := len(parts); n > 1 && parts[n-1].To-parts[n-1].From < length/4 && parts[n-1].To-parts[n-2].From < max(int64(longest/time.Second), length) {
		parts[n-2].To = parts[n-1].To
		parts = parts[:n-1]
	}
	return parts
}

// unreportedGaps returns the events of gaps that were not published yet, and the names that mark them as published.
func (p *Ingester) unreportedGaps(ctx context.Context, place stock.Place, read stock.Coverage) (events []event.Event, names []string, err error) {
	seen := map[string]bool{}
	for from := ""; ; {
		broken, next, err := p.store.Broken(ctx, place, from)
		if err != nil {
			return nil, nil, err
		}
		maps.DeleteFunc(broken, func(goods string, _ []stock.Gap) bool { return seen[goods] })
		more, found, err := p.gaps(ctx, place, broken, read, gapsAtOnce-len(names))
		if err != nil {
			return nil, nil, err
		}
		events, names = append(events, more...), append(names, found...)
		if from = next; next == "" || len(names) >= gapsAtOnce {
			return events, names, nil
		}
		for goods := range broken {
			seen[goods] = true
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
