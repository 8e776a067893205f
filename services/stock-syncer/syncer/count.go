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

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

const (
	// takeFor is how long a run asks for more. Together with one more call (10 s) it must not exceed the handler's limit (25 s).
	takeFor = 14 * time.Second
	// countLease must stay above the handler's limit (25 s) and the writing that comes after it.
	countLease = ledger.ClaimFor
	// mostTries is how often a walk is begun anew because the pages shifted under it, before it is given up until the next tick.
	mostTries = 4
	// mostAge is how long a walk may be under way: nobody went on with an older one for a while.
	mostAge = time.Hour
	// partOf is how many goods one stock.counted tells, applyOf how many one write takes.
	partOf  = 200
	applyOf = 40
	// rowsAField is how many rows are kept in one field of a walk, and fieldsAWrite how many of those are written at a time.
	rowsAField   = 100
	fieldsAWrite = 10
)

// CountDue goes on with what there is to do at a warehouse: walking through its stock, comparing the places' books with the
// far side's figures, setting shares there. A warehouse that another replica is at is left to it.
func (y *Syncer) CountDue(ctx context.Context, d *bus.Delivery, m *stockv1.CountDue) ([]event.Event, error) {
	s, ok := y.Sellers.Get(m.GetSeller())
	if !ok || s.Pause != nil {
		return nil, nil
	}
	if _, known := s.Warehouse(m.GetWarehouse()); !known {
		return nil, nil
	}
	owner := y.NewOwner()
	lease := "count/" + s.Name() + "/" + event.Place(m.GetWarehouse())
	mine, err := y.Ledger.Lease(ctx, lease, owner, countLease)
	if err != nil || !mine {
		return nil, err
	}
	r := &round{
		Syncer: y, seller: s, warehouse: m.GetWarehouse(), book: BookOf(s.Name(), m.GetWarehouse()),
		walkBook: "count/" + s.Name() + "/" + event.Place(m.GetWarehouse()), until: y.Now().Add(takeFor),
	}
	err = r.work(ctx)
	for _, f := range r.after {
		d.AfterStored(f)
	}
	d.AfterStored(func(ctx context.Context) error { return y.Ledger.Unlease(ctx, lease, owner) })
	if err != nil {
		err = fmt.Errorf("count %s/%s: %w", s.Name(), r.warehouse, err)
	}
	return r.events, err
}

// round is one tick of one warehouse.
type round struct {
	*Syncer
	seller         *seller.Seller
	warehouse      string
	book, walkBook string
	until          time.Time
	reader         warehouse.StockReader

	events []event.Event
	after  []func(context.Context) error
}

// late tells whether no more calls may begin.
func (r *round) late(ctx context.Context) bool { return ctx.Err() != nil || !r.Now().Before(r.until) }

func (r *round) work(ctx context.Context) error {
	head, err := r.head(ctx)
	if err != nil {
		return err
	}
	w, err := r.walk(ctx)
	if err != nil {
		return err
	}
	if w != nil && r.Now().Sub(w.Began) > mostAge {
		w = nil
	}
	if w == nil && !r.due(&head) {
		return r.elsewhere(ctx, head)
	}
	if r.reader, err = r.Read(r.seller, r.warehouse); err != nil {
		return r.standing(err)
	}
	if w == nil || head.Asked != nil && w.Began.Before(head.Asked.At) {
		w = r.begin(1)
	}
	return r.standing(r.count(ctx, w))
}

// head reads the warehouse's, and lets it begin to know of accepted orders where there are shares.
func (r *round) head(ctx context.Context) (head Head, err error) {
	_, err = r.shelf.update(ctx, r.book, nil, nil, func(p *page) error {
		if len(r.seller.Pools(r.warehouse)) > 0 {
			p.track(r.Now())
		}
		head = p.Head
		return nil
	})
	return head, err
}

// due tells whether a count is to begin.
func (r *round) due(h *Head) bool {
	now := r.Now()
	useful := h.From.Add(r.Settle)
	switch {
	case h.Asked != nil:
		return true
	case !h.From.IsZero() && now.Before(useful):
		return false // it could not be used for shares
	case h.Counted.IsZero(), !h.From.IsZero() && h.Counted.Before(useful):
		return true
	default:
		return !now.Before(h.Counted.Add(r.seller.Following().CountEvery))
	}
}

// standing is for what fails for a reason that stays: nothing holds a tick until its cause is gone. It is logged when it
// changes.
func (r *round) standing(err error) error {
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

// watch feeds the seller's breaker with the outcome of a call and pauses the seller when it trips.
func (r *round) watch(err error) {
	by, trip := r.Breaker.Report(r.seller.Name(), err)
	if !trip {
		return
	}
	now := r.Now()
	pause := seller.Pause{By: by, Reason: err.Error(), At: now, ProbeAfter: r.ProbeAfter, ProbeAt: now.Add(r.ProbeAfter)}
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	if r.Sellers.Pause(ctx, r.seller.Name(), pause) == nil {
		r.events = append(r.events, seller.PausedEvent(r.seller.Name(), pause))
	}
}

// walk is a way through all pages of a warehouse's stock, kept between runs.
type walk struct {
	Began time.Time `json:"began"`
	// Next is the page to read, Total how many rows there are, Read how many of them were.
	Next  int `json:"next"`
	Total int `json:"total"`
	Read  int `json:"read"`
	// Fields is how many fields of rows are kept.
	Fields int `json:"fields"`
	Tries  int `json:"tries"`

	// version of the book that it was read from; rows of this run, which are not kept yet.
	version uint64
	rows    []warehouse.StockRow
}

const fieldWalk = "walk"

func rowsField(i int) string { return fmt.Sprintf("r/%06d", i) }

// id names a count.
func (w *walk) id() string { return w.Began.UTC().Format("20060102T150405.000Z") }

func (r *round) begin(try int) *walk {
	return &walk{Began: r.Now(), Next: 1, Tries: try}
}

// walk reads the one that is under way, nil when there is none.
func (r *round) walk(ctx context.Context) (*walk, error) {
	b, err := r.shelf.ReadBook(ctx, r.walkBook, []string{fieldWalk}, nil)
	if err != nil || b.Fields[fieldWalk] == nil {
		return nil, err
	}
	w := &walk{version: b.Version}
	if err := json.Unmarshal(b.Fields[fieldWalk], w); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errBook, r.walkBook, err)
	}
	return w, nil
}

// errShifted: pages moved while they were read, as often as it was tried.
var errShifted = errors.New("the warehouse's stock moved between its pages each time they were read; the next tick begins anew")

// count reads pages until there are no more, or the run has lasted long enough.
func (r *round) count(ctx context.Context, w *walk) error {
	for {
		if r.late(ctx) {
			return r.keep(w)
		}
		p, err := r.reader.Stock(ctx, w.Next)
		r.watch(err)
		if err != nil {
			r.Metrics.Failed.WithLabelValues("call").Inc()
			return errors.Join(err, r.keep(w))
		}
		shifted := w.Next > 1 && p.Total != w.Total
		if !shifted {
			w.Total, w.Read, w.Next = p.Total, w.Read+len(p.Rows), w.Next+1
			w.rows = append(w.rows, p.Rows...)
			if !p.Last {
				continue
			}
			all, err := r.rows(ctx, w)
			if err != nil {
				return err
			}
			if found, whole := addUp(all, w.Total); whole {
				return r.found(ctx, w, found)
			}
		}
		r.Metrics.Shifts.Inc()
		if w.Tries >= mostTries {
			r.Metrics.Failed.WithLabelValues("shifted").Inc()
			return errors.Join(errShifted, r.shelf.DropBook(ctx, r.walkBook))
		}
		if w.version > 0 {
			if err := r.shelf.DropBook(ctx, r.walkBook); err != nil {
				return err
			}
		}
		w = r.begin(w.Tries + 1)
	}
}

// keep writes how far a walk got, also when the run's own time is up.
func (r *round) keep(w *walk) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeFor)
	defer cancel()
	fields := slices.Collect(slices.Chunk(w.rows, rowsAField))
	for len(fields) > 0 {
		write := map[string][]byte{}
		for len(fields) > 0 && len(write) < fieldsAWrite {
			raw, err := json.Marshal(fields[0])
			if err != nil {
				return err
			}
			write[rowsField(w.Fields)] = raw
			w.Fields++
			fields = fields[1:]
		}
		if err := r.keepFields(ctx, w, write); err != nil {
			return err
		}
	}
	w.rows = nil
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	// The rows first: a walk that says it was further than its rows would lose them.
	return r.keepFields(ctx, w, map[string][]byte{fieldWalk: raw})
}

func (r *round) keepFields(ctx context.Context, w *walk, write map[string][]byte) error {
	if w.version == 0 { // whatever an earlier walk left
		b, err := r.shelf.ReadBook(ctx, r.walkBook, nil, nil)
		if err != nil {
			return err
		}
		if w.version = b.Version; b.Version > 0 {
			if err := r.shelf.DropBook(ctx, r.walkBook); err != nil {
				return err
			}
			w.version = 0
		}
	}
	version, err := r.shelf.WriteBook(ctx, r.walkBook, ledger.BookWrite{Version: w.version, Owner: r.NewOwner(), Fields: write})
	if err == nil {
		w.version = version
	}
	return err
}

// rows are all that the walk has read, those of earlier runs first.
func (r *round) rows(ctx context.Context, w *walk) ([]warehouse.StockRow, error) {
	var all []warehouse.StockRow
	names := make([]string, w.Fields)
	for i := range names {
		names[i] = rowsField(i)
	}
	for some := range slices.Chunk(names, 50) {
		b, err := r.shelf.ReadBook(ctx, r.walkBook, some, nil)
		if err != nil {
			return nil, err
		}
		if b.Version != w.version {
			return nil, errors.New("somebody else counts the same warehouse")
		}
		for _, name := range some {
			var rows []warehouse.StockRow
			if err := json.Unmarshal(b.Fields[name], &rows); err != nil {
				return nil, fmt.Errorf("%w: %s %s: %w", errBook, r.walkBook, name, err)
			}
			all = append(all, rows...)
		}
	}
	return append(all, w.rows...), nil
}

// counted is what a walk found of one goods.
type counted struct {
	code            string
	total, saleable int64
	kinds           []*stockv1.Counted_Kind
}

// addUp adds the rows of each goods up. It is false when they are not a whole: a row is missing, or came twice.
func addUp(rows []warehouse.StockRow, total int) (map[string]*counted, bool) {
	if len(rows) != total {
		return nil, false
	}
	type condition struct{ goods, status, kind, level string }
	found, seen := map[string]*counted{}, map[condition]bool{}
	for _, row := range rows {
		c := condition{row.GoodsNo, row.Status, row.Type, row.Level}
		if seen[c] {
			return nil, false
		}
		seen[c] = true
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
	return found, true
}

// found tells a complete count, and puts it into the book when it is stored.
func (r *round) found(ctx context.Context, w *walk, found map[string]*counted) error {
	ended := r.Now()
	// What a count before this one found and this one did not has no stock.
	err := r.shelf.scan(ctx, r.book, goodsPrefix, func(f ledger.Field) error {
		no := strings.TrimPrefix(f.Name, goodsPrefix)
		if found[no] != nil {
			return nil
		}
		var g Goods
		if err := json.Unmarshal(f.Value, &g); err != nil {
			return fmt.Errorf("%w: %s: %w", errBook, f.Name, err)
		}
		found[no] = &counted{code: g.Code}
		return nil
	})
	if err != nil {
		return err
	}
	nos := slices.Sorted(maps.Keys(found))
	parts := slices.Collect(slices.Chunk(nos, partOf))
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
		_, err := r.shelf.update(ctx, r.book, nil, nil, func(p *page) error {
			h := &p.Head
			if w.Began.Before(h.Counted) {
				return nil
			}
			h.Counted, h.CountedTo, h.CountID = w.Began, ended, w.id()
			if h.Asked != nil && !w.Began.Before(h.Asked.At) {
				h.Asked = nil
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.Metrics.Counted.Inc()
		if w.version > 0 {
			return r.shelf.DropBook(ctx, r.walkBook)
		}
		return nil
	})
	return nil
}

// apply puts what was counted into the book, some goods at a time: each of them says itself when it was counted.
func (r *round) apply(ctx context.Context, w *walk, nos []string, found map[string]*counted) error {
	for part := range slices.Chunk(nos, applyOf) {
		fields := queueFields(dirtyQueue, part)
		for _, no := range part {
			fields = append(fields, goodsPrefix+no, byNumber+no)
			if code := found[no].code; code != "" {
				fields = append(fields, byCode+code, codePrefix+code)
			}
		}
		_, err := r.shelf.update(ctx, r.book, fields, nil, func(p *page) error {
			for _, no := range part {
				if err := r.put(p, w, no, found[no]); err != nil {
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

// put writes one goods, and drops the orders that the count contains.
func (r *round) put(p *page, w *walk, no string, c *counted) error {
	var was Goods
	known, err := p.get(goodsPrefix+no, &was)
	if err != nil {
		return err
	}
	if known && !was.At.Before(w.Began) {
		return nil
	}
	changed := !known || was.Saleable != c.saleable || was.Code != c.code || was.At.Before(p.Head.From.Add(r.Settle))
	pending := []string{byNumber + no}
	if c.code != "" {
		pending = append(pending, byCode+c.code)
		p.write[codePrefix+c.code] = []byte(no)
	}
	for _, field := range pending {
		all, err := p.pending(field)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		all.contained(w.Began, r.Settle)
		p.putPending(field, all)
		changed = true
	}
	p.put(goodsPrefix+no, Goods{Code: c.code, Total: c.total, Saleable: c.saleable, At: w.Began})
	if changed {
		p.enqueue(dirtyQueue, no)
	}
	return nil
}

// elsewhere is what is done between two counts.
func (r *round) elsewhere(ctx context.Context, head Head) error {
	return nil
}
