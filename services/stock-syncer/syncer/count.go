package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/book"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

const (
	// readFor is how long a run starts further calls. Together with one more call (10 s) it must not exceed the
	// handler's limit (25 s).
	readFor = 14 * time.Second
	// countLease must stay above the handler's limit (25 s) and the writing that comes after it.
	countLease = ledger.ClaimFor
	// goodsPerEvent is how many goods one stock.counted carries, goodsPerUpdate how many one write takes, partsPerRun how
	// many stock.counted one run publishes: to write their goods has to fit into the time for settling (15 s).
	goodsPerEvent  = 200
	goodsPerUpdate = 40
	partsPerRun    = 32
)

// CountDue continues with what there is to do at a warehouse: scanning its stock, comparing the places' books with
// the warehouse's figures, setting shares there. While another run is at the warehouse it waits.
func (y *Syncer) CountDue(ctx context.Context, d *bus.Delivery, m *stockv1.CountDue) ([]event.Event, error) {
	events, after, err := y.runCount(ctx, m.GetSeller(), m.GetWarehouse(), d.StreamTime)
	for _, f := range after {
		d.AfterStored(f)
	}
	if err != nil {
		err = fmt.Errorf("count %s/%s: %w", m.GetSeller(), m.GetWarehouse(), err)
	}
	return events, err
}

// runCount returns what to publish, and what to do when that is stored. at is the bus's time of the tick, if it is
// known.
func (y *Syncer) runCount(ctx context.Context, name, code string, at time.Time) ([]event.Event, []func(context.Context) error, error) {
	s, ok := y.Sellers.Get(name)
	if !ok || s.Pause != nil {
		return nil, nil, nil
	}
	if _, known := s.Warehouse(code); !known {
		return nil, nil, nil
	}
	if idle, err := y.nothingToCount(ctx, s, code); idle || err != nil {
		return nil, nil, err
	}
	owner := y.NewOwner()
	lease := "count/" + s.Name() + "/" + event.Place(code)
	mine, err := y.Ledger.Lease(ctx, lease, owner, countLease)
	if err == nil && !mine {
		err = fault.RetryAfter(busyPause, errBusy)
	}
	if err != nil {
		return nil, nil, err
	}
	r := &countRun{
		Syncer: y, seller: s, warehouse: code, book: BookOf(s.Name(), code), scanBook: lease, until: y.Now().Add(readFor),
		began: y.Now(),
	}
	if !at.IsZero() && at.Before(r.began) { // a clock that is ahead would count orders as contained that are not
		r.began = at
	}
	err = r.work(ctx)
	r.after = append(r.after, func(ctx context.Context) error { return y.Ledger.Unlease(ctx, lease, owner) })
	return r.events, r.after, err
}

// errBusy keeps a tick that comes while a run is at the warehouse until that ends: the run's own tick is replaced by it, and
// a large warehouse would stand still until the next one, a third of the time.
var errBusy = errors.New("another run is at the warehouse")

// busyPause is how soon such a tick is looked at again.
const busyPause = time.Second

// nothingToCount reports whether a tick finds nothing to do, in one round trip: most ticks do. A scan under way is due.
func (y *Syncer) nothingToCount(ctx context.Context, s *seller.Seller, code string) (bool, error) {
	t, err := book.Read(ctx, y.books, BookOf(s.Name(), code), []string{fieldHead, fieldResend}, nil)
	if err != nil {
		return false, err
	}
	var h Head
	if _, err := t.Get(fieldHead, &h); err != nil {
		return false, err
	}
	switch {
	case t.MayBeOlder(h.Epoch), h.Seen.IsZero(), len(s.Pools(code)) > 0 && h.TrackedSince.IsZero(),
		countIsDue(h, y.Now(), y.Settle, s.Following().CountEvery),
		s.Setup.GetStock().GetSetAtWarehouse() && (h.Set != 0 || t.Value(fieldResend) != nil):
		return false, nil
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	return h.CountID == "" || !slices.ContainsFunc(s.Places(), func(at seller.Place) bool {
		return at.Warehouse == code && y.compared[stock.Place{Seller: s.Name(), Warehouse: code, ShopNo: at.ShopNo}] != h.CountID
	}), nil
}

// countRun is one tick of one warehouse.
type countRun struct {
	*Syncer
	seller         *seller.Seller
	warehouse      string
	book, scanBook string
	began, until   time.Time
	reader         warehouse.StockReader
	// found is what a scan found that this run completed.
	found *tally

	events []event.Event
	after  []func(context.Context) error
}

// outOfTime reports whether no further calls may start.
func (r *countRun) outOfTime(ctx context.Context) bool {
	return ctx.Err() != nil || !r.Now().Before(r.until)
}

func (r *countRun) work(ctx context.Context) error {
	head, err := r.readHead(ctx)
	if err != nil {
		return err
	}
	w, err := r.readScan(ctx)
	if err != nil {
		return err
	}
	if w != nil && w.abandoned(r.Now()) {
		w = nil
	}
	if w == nil && !countIsDue(head, r.began, r.Settle, r.seller.Following().CountEvery) {
		return r.betweenCounts(ctx, head)
	}
	if r.reader, err = r.Read(r.seller, r.warehouse); err != nil {
		return r.logLasting(err)
	}
	// Once parts are published, the others are too.
	if w == nil || head.CountRequest != nil && w.Began.Before(head.CountRequest.At) && w.Parts == 0 {
		w = &scan{Began: r.began, Next: 1, Pass: 1}
	}
	return r.logLasting(r.count(ctx, w))
}

// readHead reads the warehouse's head, and starts to track accepted orders where there are shares.
func (r *countRun) readHead(ctx context.Context) (head Head, err error) {
	err = r.books.update(ctx, r.book, nil, nil, func(p *page) error {
		if len(r.seller.Pools(r.warehouse)) > 0 {
			p.startTracking(r.Now())
		}
		if p.Head.Seen.IsZero() {
			p.Head.Seen = r.Now()
		}
		head = p.Head
		return nil
	})
	return head, err
}

// logLasting handles what fails for a lasting reason: a tick is not held until its cause is gone, so the error is
// logged when it changes and then dropped.
func (r *countRun) logLasting(err error) error {
	class := fault.Of(err)
	stays := err != nil && (class == fault.Held || class == fault.Refused || errors.Is(err, warehouse.ErrNotPermitted))
	text := ""
	if stays {
		text = err.Error()
	}
	r.mu.Lock()
	changed := r.warned[r.book] != text
	r.warned[r.book] = text
	r.mu.Unlock()
	if !stays {
		return err
	}
	r.Metrics.Failed.WithLabelValues("standing").Inc()
	if changed {
		r.Log.Warn().Err(err).Str("seller", r.seller.Name()).Str("warehouse", r.warehouse).Msg("stock cannot be counted; it is tried again with every tick")
	}
	return nil
}

// reportToBreaker reports the outcome of a call to the seller's breaker, and pauses the seller when it trips.
func (r *countRun) reportToBreaker(err error) {
	events, _ := guard.Guard{Breaker: r.Breaker, Sellers: r.Sellers, ProbeAfter: r.ProbeAfter, Now: r.Now}.Report(r.seller.Name(), err)
	r.events = append(r.events, events...)
}

// count reads pages until there are no more, or the run has lasted long enough, and publishes what was counted.
func (r *countRun) count(ctx context.Context, w *scan) error {
	for w.Parts == 0 {
		if r.outOfTime(ctx) {
			return r.saveScan(w)
		}
		p, err := r.reader.Stock(ctx, w.Next)
		r.reportToBreaker(err)
		if err != nil {
			r.Metrics.Failed.WithLabelValues("call").Inc()
			return errors.Join(err, r.saveScan(w))
		}
		shifted, end, err := w.add(p)
		if shifted {
			r.Metrics.Shifts.Inc()
		}
		if err == nil && len(w.rows) >= rowsKept {
			err = r.saveRows(ctx, w)
		}
		if err == nil && end {
			err = r.endPass(ctx, w)
		}
		if errors.Is(err, errShifted) {
			r.Metrics.Failed.WithLabelValues("shifted").Inc()
			return errors.Join(err, r.books.DropBook(ctx, r.scanBook))
		}
		if err != nil {
			return err
		}
	}
	return r.publishCount(ctx, w)
}

// endPass handles a pass that read its last page: another one follows, or the count can be published.
func (r *countRun) endPass(ctx context.Context, w *scan) error {
	pages := w.Next - 1
	t, err := r.tally(ctx, w, "", "")
	if err != nil {
		return err
	}
	if len(t.rows) < w.Least {
		r.Metrics.Shifts.Inc()
		if w.Short++; w.Short >= maxPasses {
			return errShifted
		}
		w.restart()
		return nil
	}
	w.Short = 0
	known, missing := false, false
	var gone []warehouse.StockRow
	err = r.eachKnown(ctx, func(no string, g Goods) {
		known = true
		missing = missing || slices.ContainsFunc(g.Kinds, func(kind string) bool { return !t.has(no, kind) })
		if _, found := t.index[no]; !found {
			gone = append(gone, goneGoods(no, g.Code))
		}
	})
	if err != nil {
		return err
	}
	if !w.Whole && pages > 1 && (!known || missing) {
		w.Whole = true
		w.restart()
		return nil
	}
	for _, row := range gone {
		t.add(row)
	}
	w.rows = append(w.rows, gone...)
	w.Ended, w.Parts = r.Now(), max((len(t.goods)+goodsPerEvent-1)/goodsPerEvent, 1)
	if w.Parts <= partsPerRun {
		r.found = t
		return nil
	}
	nos := t.numbers()
	for i := 0; i < len(nos); i += partsPerRun * goodsPerEvent {
		w.Bounds = append(w.Bounds, nos[i])
	}
	return nil
}

// eachKnown calls each with all goods that earlier counts found.
func (r *countRun) eachKnown(ctx context.Context, each func(no string, g Goods)) error {
	return book.Scan(ctx, r.books, r.book, goodsPrefix, func(f ledger.Field) error {
		var g Goods
		if err := book.Decode(r.book, f, &g); err != nil {
			return err
		}
		each(strings.TrimPrefix(f.Name, goodsPrefix), g)
		return nil
	})
}

// errMoreParts ends a run that published some of a count's parts: the next one goes on at once.
var errMoreParts = errors.New("more goods were counted than one run may publish")

// publishCount publishes parts of a complete count, and writes their goods into the book when they are stored. A large
// count takes several runs: what is about to be published has to fit into memory and into the time for storing it.
func (r *countRun) publishCount(ctx context.Context, w *scan) error {
	last := min(w.Published+partsPerRun, w.Parts)
	if last < w.Parts {
		if err := r.saveScan(w); err != nil {
			return err
		}
	}
	t := r.found
	if t == nil {
		from, to := w.bounds()
		var err error
		if t, err = r.tally(ctx, w, from, to); err != nil {
			return err
		}
	}
	nos := t.numbers()
	part := w.Published
	for some := range slices.Chunk(nos, goodsPerEvent) {
		part++
		m := &stockv1.Counted{
			Seller: r.seller.Name(), Warehouse: r.warehouse, At: timestamppb.New(w.Began), CountId: w.id(),
			Part: int32(part), Parts: int32(w.Parts), //nolint:gosec // few
		}
		for _, no := range some {
			g := t.sum(no)
			m.Goods = append(m.Goods, &stockv1.Counted_Goods{GoodsNo: no, GoodsCode: g.code, Total: g.total, Saleable: g.saleable, Kinds: g.kinds})
		}
		r.events = append(r.events, event.StockCounted.About(r.seller.Name(), r.warehouse, w.Began, m, w.id(), fmt.Sprint(part)))
	}
	r.after = append(r.after, func(ctx context.Context) error {
		if err := r.apply(ctx, w, nos, t); err != nil {
			return err
		}
		if w.Published = last; last < w.Parts {
			return r.saveScan(w)
		}
		return r.finishCount(ctx, w)
	})
	if last < w.Parts {
		return fault.RetryAfter(100*time.Millisecond, errMoreParts)
	}
	return nil
}

// finishCount records a count all of whose goods are in the book.
func (r *countRun) finishCount(ctx context.Context, w *scan) error {
	err := r.books.update(ctx, r.book, nil, nil, func(p *page) error {
		h := &p.Head
		if w.Began.Before(h.Counted) {
			return nil
		}
		h.Counted, h.CountedTo, h.CountID = w.Began, w.Ended, w.id()
		if h.CountRequest != nil && !w.Began.Before(h.CountRequest.At) {
			h.CountRequest = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Metrics.Counted.Inc()
	if w.version > 0 {
		return r.books.DropBook(ctx, r.scanBook)
	}
	return nil
}

// apply writes what was counted into the book, some goods at a time: each of them records when it was counted.
func (r *countRun) apply(ctx context.Context, w *scan, nos []string, t *tally) error {
	for part := range slices.Chunk(nos, goodsPerUpdate) {
		found := map[string]*counted{}
		fields := queueFields(dirtyQueue, part)
		for _, no := range part {
			found[no] = t.sum(no)
			fields = append(fields, goodsPrefix+no, byNumber+no)
			if code := found[no].code; code != "" {
				fields = append(fields, byCode+code, codePrefix+code)
			}
		}
		err := r.books.update(ctx, r.book, fields, nil, func(p *page) error {
			for _, no := range part {
				if err := r.putGoods(p, w, no, found[no]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// putGoods writes one kind of goods, and drops the orders that the count contains.
func (r *countRun) putGoods(p *page, w *scan, no string, c *counted) error {
	var was Goods
	known, err := p.Get(goodsPrefix+no, &was)
	if err != nil {
		return err
	}
	if known && !was.At.Before(w.Began) {
		return nil
	}
	changed := !known || was.Saleable != c.saleable || was.Code != c.code || was.At.Before(p.Head.TrackedSince.Add(r.Settle))
	pending := []string{byNumber + no}
	if c.code != "" {
		pending = append(pending, byCode+c.code)
		p.Set(codePrefix+c.code, []byte(no))
	}
	for _, field := range pending {
		all, err := p.pending(field)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		all.dropCounted(w.Began, r.Settle)
		p.putPending(field, all)
		changed = true
	}
	g := Goods{Code: c.code, Total: c.total, Saleable: c.saleable, At: w.Began}
	for _, k := range c.kinds {
		g.Kinds = append(g.Kinds, kind{k.Status, k.Type, k.Level}.String())
	}
	p.Put(goodsPrefix+no, g)
	if changed {
		p.enqueue(dirtyQueue, no)
	}
	return nil
}

// betweenCounts does what is due between two counts.
func (r *countRun) betweenCounts(ctx context.Context, head Head) error {
	if err := r.logLasting(r.compare(ctx, head)); err != nil {
		return err
	}
	if !r.seller.Setup.GetStock().GetSetAtWarehouse() || r.outOfTime(ctx) {
		return nil
	}
	return r.logLasting(r.setShares(ctx))
}
