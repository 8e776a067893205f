package ingester

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/stock"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// errMoreToRebuild ends a run that rebuilds a book: the next one continues.
var errMoreToRebuild = errors.New("more of the stream than one run may read")

// ensureBook returns the state of a place's book that contains what the streams hold. It rebuilds the book where it
// may not.
//
// In another epoch the ledger may be an older copy, or empty: the events since the book was complete are applied
// again, which changes nothing where they were applied. A stream that no longer holds what it held was restored: the
// book contains rows whose events are gone, so it is dropped and rebuilt from what is left. The plan's start is kept,
// and everything is read again, because it is unknown which rows the stream lost.
//
// flow is the method that reads now, and linked says whether its rows carry balances.
func (p *Ingester) ensureBook(ctx context.Context, place stock.Place, flow sellerv1.Stock_Flow, linked bool) (stock.State, error) {
	st, err := p.store.State(ctx, place)
	if err != nil {
		return stock.State{}, err
	}
	whole, err := p.holds(ctx, st.Head)
	if err != nil || whole && !st.MayBeOlder() {
		return st, err
	}
	lease, owner := "vmi-make/"+place.Book(), p.NewOwner()
	mine, err := p.Leases.Lease(ctx, lease, owner, leaseFor)
	if err != nil {
		return stock.State{}, err
	}
	if !mine {
		return stock.State{}, fault.RetryAfter(2*time.Second, errors.New("another replica rebuilds the book"))
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
		defer cancel()
		_ = p.Leases.Unlease(ctx, lease, owner) // it expires
	}()
	if st, err = p.store.State(ctx, place); err != nil { // another may have rebuilt it since
		return stock.State{}, err
	}
	if whole, err = p.holds(ctx, st.Head); err != nil {
		return stock.State{}, err
	}
	if !whole {
		if err := p.store.Drop(ctx, place); err != nil {
			return stock.State{}, err
		}
		plan := st.Plan
		if plan.Until != 0 {
			plan.Until = plan.Start - 1
		}
		st = stock.State{Plan: plan, Epoch: st.Epoch}
		err := p.store.UpdateState(ctx, place, func(now *stock.State) bool { now.Plan = plan; return true })
		if err != nil {
			return stock.State{}, err
		}
	}
	return p.rebuild(ctx, place, st, flow, linked)
}

// holds reports whether the streams hold what they held when the book was written. A stream that has the later of two
// messages has the earlier one: a restored one ends before it, or has another under its number.
func (p *Ingester) holds(ctx context.Context, h stock.Head) (bool, error) {
	for _, at := range []struct {
		name string
		stock.Position
	}{
		{event.StockAdjusted.Name, h.Complete.Stock.Later(h.Tail.Stock)}, {event.VMIWindowIngested.Name, h.Complete.VMI.Later(h.Tail.VMI)},
	} {
		if ok, err := p.Streams.Holds(ctx, at.name, at.Seq, at.At); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// rebuild applies what the streams hold since the book was complete.
func (p *Ingester) rebuild(ctx context.Context, place stock.Place, st stock.State, flow sellerv1.Stock_Flow, linked bool) (stock.State, error) {
	began := p.Now()
	ends, err := p.streamEnds(ctx)
	if err != nil {
		return stock.State{}, err
	}
	at := st.Head.Complete
	epoch := st.Epoch
	if !book.MayBeOlder(st.Head.RebuildEpoch, epoch) {
		at = st.Head.Rebuilding
	}
	p.Metrics.Rebuilds.Inc()
	var batch stock.Batch
	seen := 0
	start, switchedAt := st.Plan.Start, st.Plan.SwitchedAt
	apply := func() error {
		_, err := p.store.Apply(ctx, place, batch)
		batch = stock.Batch{}
		return err
	}
	advance := func(seq uint64, to *stock.Position) error {
		to.Seq = seq
		if seen++; len(batch.Rows) < 200 && seen%1000 != 0 {
			return nil
		}
		if err := apply(); err != nil {
			return err
		}
		if p.Now().Sub(began) >= rebuildFor {
			return errMoreToRebuild
		}
		return nil
	}
	query := func(from uint64, names ...string) bus.EventQuery {
		return bus.EventQuery{Names: names, Seller: place.Seller, From: from + 1}
	}
	if at.Stock.Seq < ends.Stock.Seq {
		err = p.Streams.Events(ctx, query(at.Stock.Seq, event.StockAdjusted.Name, event.StockNoted.Name), func(e bus.Stored) error {
			if row, read, ours := decodeRow(e, place); ours {
				batch.Rows = append(batch.Rows, row)
				if read && row.Linked != linked { // read by the other method
					switchedAt = max(switchedAt, row.At+1)
				}
			}
			return advance(e.Seq, &at.Stock)
		})
	}
	if err == nil && at.VMI.Seq < ends.VMI.Seq {
		err = p.Streams.Events(ctx, query(at.VMI.Seq, event.VMIWindowDue.Name, event.VMIWindowIngested.Name), func(e bus.Stored) error {
			if span, ours := decodeRead(e, place); ours {
				batch.Read = append(batch.Read, span)
			}
			if from, ours := decodePlanned(e, place); ours && st.Plan.Until == 0 && (start == 0 || from < start) {
				start = from
			}
			return advance(e.Seq, &at.VMI)
		})
	}
	if err == nil || errors.Is(err, errMoreToRebuild) {
		if applyErr := apply(); applyErr != nil {
			err = applyErr
		}
	}
	done := err == nil
	if err != nil && !errors.Is(err, errMoreToRebuild) {
		return stock.State{}, fmt.Errorf("rebuild the book of %s: %w", place, err)
	}
	var now stock.State
	err = p.store.UpdateState(ctx, place, func(st *stock.State) bool {
		st.Head.Rebuilding, st.Head.RebuildEpoch = at, epoch
		st.Plan.SwitchedAt = max(st.Plan.SwitchedAt, switchedAt)
		if st.Plan.Until == 0 {
			st.Plan.Start = start
		}
		if done {
			if st.Plan.Until == 0 && start == 0 {
				st.Head.NewSince = p.Now()
			}
			if st.Plan.Until == 0 && start != 0 {
				// What was planned and not read may have been lost: plan it again.
				st.Plan.SecondUntil = start - 1
				if st.Plan.Until = start - 1; st.Read.Has(stock.Interval{From: start, To: start}) {
					st.Plan.Until = st.Read.Until(start)
				}
				st.Plan.Flow = int32(flow)
			}
			// Rows that runs stored while the streams were read enter the book when those runs end.
			st.Head.Epoch, st.Head.Next, st.Head.Seen = epoch, ends, p.Now()
			st.Head.Rebuilding, st.Head.RebuildEpoch = stock.Positions{}, time.Time{}
		}
		now = *st
		return true
	})
	// After a long rebuild the run has no time left for its own work.
	if took := p.Now().Sub(began); err == nil && (!done || took > writeFor) {
		err = fault.RetryAfter(100*time.Millisecond, errMoreToRebuild)
	}
	return now, err
}

// decodeRow reads a row of the place out of a stored event. read reports whether it came from the stock flow:
// corrections and opening balances did not. Messages that are not ours are skipped: nobody else may publish such
// events.
func decodeRow(e bus.Stored, place stock.Place) (row stock.Row, read, ours bool) {
	var m *stockv1.Movement
	if e.Name == event.StockAdjusted.Name {
		a, err := bus.Decode(event.StockAdjusted, e)
		if err == nil {
			m, read = a.GetMovement(), true
		}
	} else {
		n, err := bus.Decode(event.StockNoted, e)
		if err == nil {
			m = n.GetMovement()
			_, read = rules[n.GetRule()]
		}
	}
	if m == nil || placeOf(m) != place {
		return stock.Row{}, false, false
	}
	return rowOf(m), read, true
}

// decodeRead reads an interval of the place that was read to its end for all goods out of a stored event.
func decodeRead(e bus.Stored, place stock.Place) (stock.Interval, bool) {
	if e.Name != event.VMIWindowIngested.Name {
		return stock.Interval{}, false
	}
	m, err := bus.Decode(event.VMIWindowIngested, e)
	if err != nil || m.GetPartial() || m.GetWindow().GetGoodsNo() != "" || placeOf(m.GetWindow()) != place {
		return stock.Interval{}, false
	}
	return intervalOf(m.GetWindow()), true
}

// decodePlanned reads the first second of a planned window out of a stored event. Windows that a person requested say
// nothing about since when the place is followed.
func decodePlanned(e bus.Stored, place stock.Place) (int64, bool) {
	if e.Name != event.VMIWindowDue.Name {
		return 0, false
	}
	m, err := bus.Decode(event.VMIWindowDue, e)
	if err != nil || m.GetWhy() != vmiv1.Why_WHY_NEXT && m.GetWhy() != vmiv1.Why_WHY_CATCH_UP || placeOf(m) != place {
		return 0, false
	}
	return intervalOf(m).From, true
}
