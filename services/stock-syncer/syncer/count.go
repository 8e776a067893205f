package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

const (
	// readFor is how long a run starts further calls. Together with one more call (10 s) it must not exceed the
	// handler's limit (25 s).
	readFor = 14 * time.Second
	// countLease must stay above the handler's limit (25 s) and the writing that comes after it.
	countLease = ledger.ClaimFor
	// maxTries is how often a scan is restarted because the pages shifted under it, before it is left to the next
	// tick.
	maxTries = 4
	// maxScanAge is how old a scan in progress may be: an older one was abandoned.
	maxScanAge = time.Hour
	// goodsPerEvent is how many goods one stock.counted carries, goodsPerUpdate how many one write takes.
	goodsPerEvent  = 200
	goodsPerUpdate = 40
	// rowsPerField is how many rows one field of a scan holds, and fieldsPerWrite how many of those are written at a
	// time.
	rowsPerField   = 100
	fieldsPerWrite = 10
)

// CountDue continues with what there is to do at a warehouse: scanning its stock, comparing the places' books with
// the warehouse's figures, setting shares there. It does nothing while another replica is at the warehouse.
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
	owner := y.NewOwner()
	lease := "count/" + s.Name() + "/" + event.Place(code)
	mine, err := y.Ledger.Lease(ctx, lease, owner, countLease)
	if err != nil || !mine {
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

// countRun is one tick of one warehouse.
type countRun struct {
	*Syncer
	seller         *seller.Seller
	warehouse      string
	book, scanBook string
	began, until   time.Time
	reader         warehouse.StockReader

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
	if w != nil && r.Now().Sub(w.Began) > maxScanAge {
		w = nil
	}
	if w == nil && !countIsDue(head, r.began, r.Settle, r.seller.Following().CountEvery) {
		return r.betweenCounts(ctx, head)
	}
	if r.reader, err = r.Read(r.seller, r.warehouse); err != nil {
		return r.logLasting(err)
	}
	if w == nil || head.CountRequest != nil && w.Began.Before(head.CountRequest.At) {
		w = &scan{Began: r.began, Next: 1, Try: 1}
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

// scan is a pass through all pages of a warehouse's stock, kept between runs.
type scan struct {
	Began time.Time `json:"began"`
	// Next is the page to read, Total how many rows there are, Read how many of them were read.
	Next  int `json:"next"`
	Total int `json:"total"`
	Read  int `json:"read"`
	// Fields is how many fields of rows are stored, of all tries.
	Fields int `json:"fields"`
	// Try counts the tries. First is the one that came to its end and lacked rows that the last count had, 0 for
	// none: the scan is then repeated once.
	Try   int `json:"try"`
	First int `json:"first,omitempty"`

	// version is the book's; rows are those of this run that are not stored yet.
	version uint64
	rows    []warehouse.StockRow
}

// savedRows are rows of one try.
type savedRows struct {
	Try  int                  `json:"try"`
	Rows []warehouse.StockRow `json:"rows"`
}

// restart begins another try.
func (w *scan) restart() { w.Try, w.Next, w.Total, w.Read = w.Try+1, 1, 0, 0 }

const fieldScan = "walk"

func rowsField(i int) string { return fmt.Sprintf("r/%06d", i) }

// id names a count.
func (w *scan) id() string { return w.Began.UTC().Format("20060102T150405.000Z") }

// readScan reads the scan in progress, nil when there is none.
func (r *countRun) readScan(ctx context.Context) (*scan, error) {
	t, err := book.Read(ctx, r.books, r.scanBook, []string{fieldScan}, nil)
	if err != nil {
		return nil, err
	}
	w := &scan{version: t.Version}
	found, err := t.Get(fieldScan, w)
	if err != nil || !found {
		return nil, err
	}
	return w, nil
}

// errShifted: pages shifted while they were read, as often as it was tried.
var errShifted = errors.New("the warehouse's stock moved between its pages each time they were read; the next tick starts over")

// count reads pages until there are no more, or the run has lasted long enough.
//
// # Why
//
// Pages are numbered, so a row that disappears while they are read moves all others up, and the first of the next
// page is missed. Mostly the number of rows shows it, and the try is restarted. It does not where another row
// appeared at the same time. Then something that the last count had seems to be gone: the scan is repeated, as for
// the very first count, and only what both tries lack is gone. What only one of them has was there after the count
// began.
func (r *countRun) count(ctx context.Context, w *scan) error {
	for {
		if r.outOfTime(ctx) {
			return r.saveScan(w)
		}
		p, err := r.reader.Stock(ctx, w.Next)
		r.reportToBreaker(err)
		if err != nil {
			r.Metrics.Failed.WithLabelValues("call").Inc()
			return errors.Join(err, r.saveScan(w))
		}
		if w.Next == 1 {
			w.Total = p.Total
		}
		if p.Total == w.Total {
			w.Read, w.Next = w.Read+len(p.Rows), w.Next+1
			w.rows = append(w.rows, p.Rows...)
			if !p.Last {
				continue
			}
			done, err := r.endTry(ctx, w)
			if done || err != nil {
				return err
			}
			continue
		}
		if err := r.restartTry(ctx, w); err != nil {
			return err
		}
	}
}

// restartTry restarts a try whose pages shifted.
func (r *countRun) restartTry(ctx context.Context, w *scan) error {
	r.Metrics.Shifts.Inc()
	if w.Try-w.First >= maxTries {
		r.Metrics.Failed.WithLabelValues("shifted").Inc()
		return errors.Join(errShifted, r.books.DropBook(ctx, r.scanBook))
	}
	w.rows = slices.Clip(w.rows)
	if err := r.saveRows(ctx, w); err != nil {
		return err
	}
	w.restart()
	return nil
}

// endTry handles a try that read its last page. It returns false when the scan is to be repeated.
func (r *countRun) endTry(ctx context.Context, w *scan) (bool, error) {
	pages := w.Next - 1
	if pages > 1 { // all rows of the try are needed, stored or not
		if err := r.saveRows(ctx, w); err != nil {
			return false, err
		}
	}
	rows, err := r.rowsOf(ctx, w, w.Try)
	if err != nil {
		return false, err
	}
	if !isComplete(rows, w.Total) {
		return false, r.restartTry(ctx, w)
	}
	known, err := r.knownGoods(ctx)
	if err != nil {
		return false, err
	}
	if w.First > 0 {
		first, err := r.rowsOf(ctx, w, w.First)
		if err != nil {
			return false, err
		}
		rows = union(rows, first)
	} else if pages > 1 && (len(known) == 0 || misses(rows, known)) {
		w.First = w.Try
		w.restart()
		return false, nil
	}
	r.publishCount(w, addUp(rows), known)
	return true, nil
}

// saveScan stores how far a scan got, also when the run's own time is up.
func (r *countRun) saveScan(w *scan) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	if err := r.saveRows(ctx, w); err != nil {
		return err
	}
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	// The rows first: a scan that says it got further than its rows would lose them.
	return r.saveFields(ctx, w, map[string][]byte{fieldScan: raw})
}

// saveRows stores the rows that are not stored yet.
func (r *countRun) saveRows(ctx context.Context, w *scan) error {
	fields := slices.Collect(slices.Chunk(w.rows, rowsPerField))
	w.rows = nil
	for len(fields) > 0 {
		write := map[string][]byte{}
		for len(fields) > 0 && len(write) < fieldsPerWrite {
			raw, err := json.Marshal(savedRows{w.Try, fields[0]})
			if err != nil {
				return err
			}
			write[rowsField(w.Fields)] = raw
			w.Fields++
			fields = fields[1:]
		}
		if err := r.saveFields(ctx, w, write); err != nil {
			return err
		}
	}
	return nil
}

func (r *countRun) saveFields(ctx context.Context, w *scan, write map[string][]byte) error {
	if w.version == 0 { // remove what an earlier scan left
		b, err := r.books.ReadBook(ctx, r.scanBook, nil, nil)
		if err != nil {
			return err
		}
		if w.version = b.Version; b.Version > 0 {
			if err := r.books.DropBook(ctx, r.scanBook); err != nil {
				return err
			}
			w.version = 0
		}
	}
	version, err := r.books.WriteBook(ctx, r.scanBook, ledger.BookWrite{Version: w.version, Owner: r.NewOwner(), Fields: write})
	if err == nil {
		w.version = version
	}
	return err
}

// rowsOf returns all rows that a try has read.
func (r *countRun) rowsOf(ctx context.Context, w *scan, try int) ([]warehouse.StockRow, error) {
	var all []warehouse.StockRow
	names := make([]string, w.Fields)
	for i := range names {
		names[i] = rowsField(i)
	}
	for some := range slices.Chunk(names, 50) {
		t, err := book.Read(ctx, r.books, r.scanBook, some, nil)
		if err != nil {
			return nil, err
		}
		if t.Version != w.version {
			return nil, errors.New("somebody else counts the same warehouse")
		}
		for _, name := range some {
			var kept savedRows
			if found, err := t.Get(name, &kept); err != nil || !found {
				return nil, errors.Join(err, fmt.Errorf("%w: %s %s", book.ErrField, r.scanBook, name))
			}
			if kept.Try == try {
				all = append(all, kept.Rows...)
			}
		}
	}
	if try == w.Try {
		all = append(all, w.rows...)
	}
	return all, nil
}

// counted is what a scan found of some goods.
type counted struct {
	code            string
	total, saleable int64
	kinds           []*stockv1.Counted_Kind
}

// kindOf names the condition of a row among those of its goods.
func kindOf(row warehouse.StockRow) string { return row.Status + "/" + row.Type + "/" + row.Level }

type condition struct{ goods, kind string }

func conditionOf(row warehouse.StockRow) condition { return condition{row.GoodsNo, kindOf(row)} }

// isComplete reports whether no row is missing and none came twice. Where the warehouse does not say how many rows
// there are, only the second shows.
func isComplete(rows []warehouse.StockRow, total int) bool {
	seen := map[condition]bool{}
	for _, row := range rows {
		if c := conditionOf(row); seen[c] {
			return false
		} else {
			seen[c] = true
		}
	}
	return len(rows) == total || total == 0
}

// union returns rows and those of first that it lacks.
func union(rows, first []warehouse.StockRow) []warehouse.StockRow {
	seen := map[condition]bool{}
	for _, row := range rows {
		seen[conditionOf(row)] = true
	}
	return append(rows, slices.DeleteFunc(slices.Clone(first), func(row warehouse.StockRow) bool { return seen[conditionOf(row)] })...)
}

// misses reports whether something that the last count had is not among rows.
func misses(rows []warehouse.StockRow, known map[string]Goods) bool {
	seen := map[condition]bool{}
	for _, row := range rows {
		seen[conditionOf(row)] = true
	}
	for no, g := range known {
		for _, kind := range g.Kinds {
			if !seen[condition{no, kind}] {
				return true
			}
		}
	}
	return false
}

// addUp sums the rows of each kind of goods.
func addUp(rows []warehouse.StockRow) map[string]*counted {
	found := map[string]*counted{}
	for _, row := range rows {
		g := found[row.GoodsNo]
		if g == nil {
			g = &counted{}
			found[row.GoodsNo] = g
		}
		if row.GoodsCode != "" {
			g.code = row.GoodsCode
		}
		g.total += row.Total
		if row.Saleable {
			g.saleable += max(row.Usable, 0)
		}
		g.kinds = append(g.kinds, &stockv1.Counted_Kind{Status: row.Status, Type: row.Type, Level: row.Level, Total: row.Total, Usable: row.Usable})
	}
	return found
}

// knownGoods returns all goods that earlier counts found.
func (r *countRun) knownGoods(ctx context.Context) (map[string]Goods, error) {
	known := map[string]Goods{}
	err := book.Scan(ctx, r.books, r.book, goodsPrefix, func(f ledger.Field) error {
		var g Goods
		if err := book.Decode(r.book, f, &g); err != nil {
			return err
		}
		known[strings.TrimPrefix(f.Name, goodsPrefix)] = g
		return nil
	})
	return known, err
}

// publishCount publishes a complete count, and writes it into the book when it is stored.
func (r *countRun) publishCount(w *scan, found map[string]*counted, known map[string]Goods) {
	ended := r.Now()
	for no, g := range known {
		if found[no] == nil {
			found[no] = &counted{code: g.Code}
		}
	}
	nos := slices.Sorted(maps.Keys(found))
	parts := slices.Collect(slices.Chunk(nos, goodsPerEvent))
	for i, part := range parts {
		m := &stockv1.Counted{
			Seller: r.seller.Name(), Warehouse: r.warehouse, At: timestamppb.New(w.Began), CountId: w.id(),
			Part: int32(i + 1), Parts: int32(len(parts)), //nolint:gosec // few
		}
		for _, no := range part {
			g := found[no]
			m.Goods = append(m.Goods, &stockv1.Counted_Goods{GoodsNo: no, GoodsCode: g.code, Total: g.total, Saleable: g.saleable, Kinds: g.kinds})
		}
		r.events = append(r.events, event.StockCounted.About(r.seller.Name(), r.warehouse, w.Began, m, w.id(), fmt.Sprint(i+1)))
	}
	r.after = append(r.after, func(ctx context.Context) error {
		if err := r.apply(ctx, w, nos, found); err != nil {
			return err
		}
		err := r.books.update(ctx, r.book, nil, nil, func(p *page) error {
			h := &p.Head
			if w.Began.Before(h.Counted) {
				return nil
			}
			h.Counted, h.CountedTo, h.CountID = w.Began, ended, w.id()
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
	})
}

// apply writes what was counted into the book, some goods at a time: each of them records when it was counted.
func (r *countRun) apply(ctx context.Context, w *scan, nos []string, found map[string]*counted) error {
	for part := range slices.Chunk(nos, goodsPerUpdate) {
		fields := queueFields(dirtyQueue, part)
		for _, no := range part {
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
		g.Kinds = append(g.Kinds, kindOf(warehouse.StockRow{Status: k.Status, Type: k.Type, Level: k.Level}))
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
