package ingester

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// WindowDue reads a window, or some pages of it.
func (p *Ingester) WindowDue(ctx context.Context, d *bus.Delivery, m *vmiv1.WindowDue) ([]event.Event, error) {
	events, settle, err := p.window(ctx, d, m)
	if settle != nil {
		d.AfterStored(settle)
	}
	return events, err
}

// window returns what to publish, and what to do when that is stored (nil: nothing).
func (p *Ingester) window(ctx context.Context, d *bus.Delivery, m *vmiv1.WindowDue) ([]event.Event, func(context.Context) error, error) {
	s, ok := p.Sellers.Get(m.GetSeller())
	if !ok {
		events, err := p.reject(d, m, seller.Unknown(m.GetSeller()))
		return events, nil, err
	}
	at, ok := s.Place(m.GetWarehouse(), m.GetShopNo())
	if !ok {
		// No longer followed. Should it be followed again, what was not read is planned again.
		return nil, func(ctx context.Context) error { return p.planAgain(ctx, m) }, nil
	}
	r := &run{
		Ingester: p, seller: s, at: at, place: placeOf(m), m: m, d: d, span: intervalOf(m), seen: map[string]bool{},
		goods: map[string]bool{}, noted: map[string]int64{},
	}
	events, err := r.read(ctx)
	if err != nil {
		err = fmt.Errorf("read the flow of %s: %w", r.place, err)
	}
	if fault.Of(err) == fault.Transient && err != nil && ctx.Err() == nil && d.Attempt >= p.maxAttempts(m) {
		failed, gaveUp := p.reject(d, m, fault.Permanent(fmt.Errorf("after %d attempts: %w", d.Attempt, err)))
		return append(events, failed...), r.apply, gaveUp
	}
	return events, r.apply, err
}

// maxAttempts is how often a window is tried.
func (p *Ingester) maxAttempts(m *vmiv1.WindowDue) int {
	if m.GetWhy() == vmiv1.Why_WHY_GAP {
		return p.GapAttempts
	}
	return p.Attempts
}

// planAgain has the place's next plan, if there is one, cover a window again.
func (p *Ingester) planAgain(ctx context.Context, m *vmiv1.WindowDue) error {
	return p.store.UpdateState(ctx, placeOf(m), func(st *stock.State) bool {
		before := st.Plan
		st.Plan = planWithout(before, intervalOf(m), m.GetWhy())
		return st.Plan != before
	})
}

// run reads some pages of one window.
type run struct {
	*Ingester
	seller *seller.Seller
	at     seller.Place
	place  stock.Place
	d      *bus.Delivery
	m      *vmiv1.WindowDue
	span   stock.Interval
	state  stock.State
	linked bool

	events []event.Event
	// newRows are published, and applied when they are stored; seen are the numbers of all rows, goods what they
	// move.
	newRows []stock.Row
	seen    map[string]bool
	goods   map[string]bool
	// movements are all rows of a gap window; batch is what is applied besides newRows.
	movements []stock.Movement
	batch     stock.Batch

	pages              int
	rowCount           int64
	adjusted, repeated int64
	noted              map[string]int64
	first, last        warehouse.FlowRow
}

func (r *run) read(ctx context.Context) ([]event.Event, error) {
	wh, err := r.Open(r.seller, r.place.Warehouse)
	if err != nil {
		return r.reject(r.d, r.m, err)
	}
	if err := requireWholeFlow(r.seller, wh); err != nil {
		return r.reject(r.d, r.m, err)
	}
	r.linked = wh.FlowTerms().Linked
	if r.state, err = r.ensureBook(ctx, r.place, r.seller.Following().Flow, r.linked); err != nil {
		return nil, err
	}
	if err := checkSwitch(r.state.Plan, int32(r.seller.Following().Flow), r.span.From); err != nil {
		return r.reject(r.d, r.m, err)
	}
	gap := r.m.GetWhy() == vmiv1.Why_WHY_GAP
	if gap {
		gaps, err := r.openGaps(ctx, nil)
		if err != nil || len(gaps) == 0 {
			return nil, err // closed meanwhile
		}
		if r.m.GetPage() <= 1 { // later pages belong to the interval that the first one was read of
			r.span = widened(intervalOf(r.m), gaps, r.d.Attempt, r.state.Plan, r.Now())
		}
	}
	next, end, err := r.readParts(ctx, wh)
	if err != nil {
		if class := fault.Of(err); class == fault.Held || class == fault.Refused {
			failed, err := r.reject(r.d, r.m, err)
			return append(r.events, failed...), err
		}
		if r.pages == 0 || gap {
			return r.events, err
		}
		// Publish what was read and continue from here, so that a long window does not restart at its first page each time.
	}
	switch {
	case err == nil && end && gap:
		return r.finishGapWindow(ctx)
	case err == nil && end:
		return r.finishWindow(ctx)
	}
	for _, rest := range restOf(r.span, r.m.GetWhy(), next, r.MaxPages) {
		r.publishRest(rest)
	}
	r.certify(true, vmiv1.Continuity_CONTINUITY_UNSPECIFIED, 0)
	return r.events, nil
}

// readParts reads an interval. That of a gap window may be longer than the warehouse answers at once.
func (r *run) readParts(ctx context.Context, wh warehouse.FlowReader) (next int, end bool, err error) {
	began, all := r.Now(), r.span
	most := int64(wh.FlowTerms().MaxSpan / time.Second)
	if r.m.GetWhy() != vmiv1.Why_WHY_GAP || most <= 0 || all.To-all.From <= most {
		return r.readPages(ctx, wh, all)
	}
	for part := all; part.From <= all.To; part.From = part.To + 1 {
		part.To = min(part.From+most, all.To)
		next, end, err = r.readPages(ctx, wh, part)
		if err == nil && (!end || part.To < all.To && r.Now().Sub(began) >= readFor) {
			err = errLongGap
		}
		if err != nil {
			return next, false, err
		}
	}
	return next, true, nil
}

// errLongGap has the window retried; what was found so far is published.
var errLongGap = errors.New("the time in which movements are missing is longer than one run can read")

// readPages reads pages until the end of the rows, the end of the run, or an error. next is the page to continue
// with.
func (r *run) readPages(ctx context.Context, wh warehouse.FlowReader, span stock.Interval) (next int, end bool, err error) {
	began := r.Now()
	from, to := span.Times()
	q := warehouse.FlowQuery{ShopNo: r.place.ShopNo, GoodsNo: r.m.GetGoodsNo(), From: from, To: to}
	start := max(int(r.m.GetPage()), 1)
	for next = start; ; next++ {
		if next > r.MaxPages && r.span.From < r.span.To && r.m.GetGoodsNo() == "" ||
			next > start && (next-start >= r.RunPages || r.rowCount >= runRows || r.Now().Sub(began) >= readFor) {
			return next, false, nil
		}
		q.Page = next
		page, err := wh.Flow(ctx, q)
		r.events = append(r.events, r.reportToBreaker(r.seller, err)...)
		if err != nil {
			return next, false, transientReason(err)
		}
		r.Metrics.Pages.Inc()
		if r.pages++; r.pages == 1 {
			r.Served(r.seller.Name())
		}
		if err := r.add(ctx, page.Rows); err != nil {
			return next, false, err
		}
		if page.Elsewhere > 0 {
			r.rowCount += int64(page.Elsewhere)
			r.noted[ruleElsewhere] += int64(page.Elsewhere)
		}
		if page.End {
			return next, true, nil
		}
	}
}

// transientReason turns a lost answer, and a rejection in the warehouse's words, into a transient failure that says
// why: reading changes nothing, so it is simply repeated.
func transientReason(err error) error {
	var no *warehouse.Rejected
	if errors.As(err, &no) {
		return no.Reason
	}
	if fault.Of(err) != fault.Unclear {
		return err
	}
	return fault.ReasonOf(err, "window.read")
}

// add publishes the rows of a page that the book does not contain.
func (r *run) add(ctx context.Context, rows []warehouse.FlowRow) error {
	var names []string
	for _, row := range rows {
		if !r.seen[row.No] {
			names = append(names, row.No)
		}
	}
	known, err := r.store.Known(ctx, r.place, names)
	if err != nil {
		return err
	}
	for _, row := range rows {
		r.rowCount++
		if r.first.No == "" || row.At.Before(r.first.At) {
			r.first = row
		}
		if !row.At.Before(r.last.At) {
			r.last = row
		}
		again := r.seen[row.No]
		r.seen[row.No], r.goods[row.GoodsNo] = true, true
		m := movement(r.place, r.at, row, r.linked)
		if r.m.GetWhy() == vmiv1.Why_WHY_GAP && !again {
			r.movements = append(r.movements, rowOf(m).Movement)
		}
		if again || known[row.No] || readLongAgo(row.At, r.Now(), r.state) {
			r.repeated++
			continue
		}
		e, rule := movementEvent(m, row.Rule, r.at.Booking == sellerv1.Shop_BOOKING_DOCUMENTS, r.Now())
		if rule == "" {
			r.adjusted++
		} else {
			r.noted[rule]++
		}
		r.events = append(r.events, e)
		r.newRows = append(r.newRows, rowOf(m))
	}
	return nil
}

// apply applies what was published, when it is stored.
func (r *run) apply(ctx context.Context) error {
	b := r.batch
	b.Rows = r.newRows
	if len(b.Rows)+len(b.Read)+len(b.Done)+len(b.Consistent) == 0 {
		return nil
	}
	var err error
	if b.Tail, err = r.streamEnds(ctx); err != nil {
		return err
	}
	if _, err := r.store.Apply(ctx, r.place, b); err != nil {
		return err
	}
	noted := int64(0)
	for _, rows := range r.noted {
		noted += rows
	}
	r.Metrics.Rows.WithLabelValues("adjusted").Add(float64(r.adjusted))
	r.Metrics.Rows.WithLabelValues("noted").Add(float64(noted))
	r.Metrics.Rows.WithLabelValues("repeated").Add(float64(r.repeated))
	return nil
}

// finishWindow ends a window whose last page was read, with its certificate and the gaps in it that were not
// published yet.
func (r *run) finishWindow(ctx context.Context) ([]event.Event, error) {
	read := r.state.Read
	if r.m.GetGoodsNo() == "" {
		r.batch.Read = []stock.Interval{r.span}
		read = read.With(r.span)
	}
	series, err := r.store.Series(ctx, r.place, slices.Sorted(maps.Keys(r.goods)))
	if err != nil {
		r.batch = stock.Batch{}
		return r.events, err
	}
	for _, row := range r.newRows { // as they will be applied
		series[row.GoodsNo].Add(row.Movement)
	}
	broken := map[string][]stock.Gap{}
	breaks := 0
	for goods, c := range series {
		if gaps := c.Gaps(); len(gaps) > 0 {
			broken[goods] = gaps
			if slices.ContainsFunc(gaps, func(h stock.Gap) bool { return overlaps(h.Interval(), r.span) }) {
				breaks++
			}
		}
	}
	events, names, err := r.gaps(ctx, r.place, broken, read, gapsAtOnce)
	if err != nil {
		r.batch = stock.Batch{}
		return r.events, err
	}
	r.events = append(r.events, events...)
	r.batch.Done = names
	continuity := vmiv1.Continuity_CONTINUITY_PROVED
	switch {
	case !r.linked:
		continuity = vmiv1.Continuity_CONTINUITY_UNPROVED
	case breaks > 0:
		continuity = vmiv1.Continuity_CONTINUITY_BROKEN
	}
	r.certify(false, continuity, breaks)
	return r.events, nil
}

// finishGapWindow ends a search for missing movements. While some are missing it fails, so that the bus retries with
// growing delays, and each attempt searches a wider interval.
func (r *run) finishGapWindow(ctx context.Context) ([]event.Event, error) {
	gaps, err := r.openGaps(ctx, r.newRows)
	if err != nil {
		return r.events, err
	}
	if len(gaps) > 0 && r.m.GetPage() <= 1 && len(r.newRows) == 0 && len(r.movements) > 0 && stock.Consistent(r.movements) {
		// All rows are known and consistent: two equal balances were linked the wrong way round.
		series, err := r.store.Series(ctx, r.place, []string{r.m.GetGoodsNo()})
		if err != nil {
			return r.events, err
		}
		c := series[r.m.GetGoodsNo()]
		c.LinkWithin(r.span)
		if gaps = overlapping(c.Gaps(), intervalOf(r.m)); len(gaps) == 0 {
			r.batch.Consistent = map[string]stock.Interval{r.m.GetGoodsNo(): r.span}
		}
	}
	if len(gaps) == 0 {
		r.Metrics.Healed.Inc()
		r.certify(false, vmiv1.Continuity_CONTINUITY_PROVED, 0)
		return r.events, nil
	}
	span := gaps[0].Interval()
	from, to := span.Times()
	missing := fault.Reason{
		Code: "gap.open", Field: "goods_no",
		ZH: fmt.Sprintf("商品 %s 在 %s 至 %s 之间缺少流水（库存从 %d 变为 %d）；请在仓库方系统核对该商品流水，补齐后执行 bridgectl window refetch",
			r.m.GetGoodsNo(), from.Format(time.RFC3339), to.Format(time.RFC3339), gaps[0].Left.Value, gaps[0].Right.Value),
		EN: fmt.Sprintf("movements of goods %s are missing between %s and %s (the stock went from %d to %d): look at its flow at the warehouse, then bridgectl window refetch",
			r.m.GetGoodsNo(), from.Format(time.RFC3339), to.Format(time.RFC3339), gaps[0].Left.Value, gaps[0].Right.Value),
	}
	return r.events, missing
}

// openGaps returns the gaps of the window's goods in its interval, with more rows applied that are not in the book
// yet.
func (r *run) openGaps(ctx context.Context, more []stock.Row) ([]stock.Gap, error) {
	series, err := r.store.Series(ctx, r.place, []string{r.m.GetGoodsNo()})
	if err != nil {
		return nil, err
	}
	c := series[r.m.GetGoodsNo()]
	for _, row := range more {
		if row.GoodsNo == r.m.GetGoodsNo() {
			c.Add(row.Movement)
		}
	}
	return overlapping(c.Gaps(), intervalOf(r.m)), nil
}

// publishRest publishes a window for a rest of this one.
func (r *run) publishRest(of part) {
	rest := proto.CloneOf(r.m)
	rest.From, rest.To, rest.Why, rest.Page = unixStamp(of.From), unixStamp(of.To), of.why, int32(of.page) //nolint:gosec // as many as the warehouse has
	r.events = append(r.events, Window(rest, r.Now(), shortHash(r.d.ID)))
}

// certify publishes what was read.
func (r *run) certify(partial bool, continuity vmiv1.Continuity, breaks int) {
	m := &vmiv1.WindowIngested{
		Window: r.m, At: timestamppb.New(r.Now()), Pages: int32(r.pages), Rows: r.rowCount, Adjusted: r.adjusted, Repeated: r.repeated, //nolint:gosec // small
		FirstFlow: r.first.No, LastFlow: r.last.No, Continuity: continuity, Breaks: int32(breaks), Partial: partial, //nolint:gosec // small
	}
	for _, rule := range slices.Sorted(maps.Keys(r.noted)) {
		m.Noted = append(m.Noted, &vmiv1.Count{Rule: rule, Rows: r.noted[rule]})
	}
	r.events = append(r.events, event.VMIWindowIngested.About(r.place.Seller, r.place.Token(), r.Now(), m, append(windowKey(r.m), shortHash(r.d.ID))...))
}

// reject publishes that a window was held or dead-lettered because of err.
func (p *Ingester) reject(d *bus.Delivery, m *vmiv1.WindowDue, err error) ([]event.Event, error) {
	return p.OnReject(d, m, err), err
}

// OnReject returns the event of a window that is held or becomes a dead letter.
func (p *Ingester) OnReject(d *bus.Delivery, m *vmiv1.WindowDue, err error) []event.Event {
	if m == nil || !event.ValidSeller(m.GetSeller()) || fault.Of(err) != fault.Held && fault.Of(err) != fault.Refused && !errors.Is(err, bus.ErrAttempts) {
		return nil
	}
	reason := fault.ReasonOf(err, fault.Of(err).String())
	p.Metrics.Failed.WithLabelValues(fault.Of(err).String()).Inc()
	failed := &vmiv1.WindowFailed{
		Window: m, At: timestamppb.New(p.Now()), Reason: event.Reason(reason), Cause: fault.Cause(err), Attempts: int32(d.Attempt), //nolint:gosec // small
	}
	key := append(windowKey(m), reason.Code, shortHash(d.ID))
	return []event.Event{event.VMIWindowFailed.About(m.GetSeller(), placeOf(m).Token(), p.Now(), failed, key...)}
}
