package syncer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	documentv1 "stockbridge/proto/document/v1"
)

// writeFor is for a write when the run's own time may be up.
const writeFor = 10 * time.Second

// Accepted takes what an accepted order sells off the shares, until a count contains it. Once per outbound number.
func (y *Syncer) Accepted(ctx context.Context, d *bus.Delivery, m *documentv1.Accepted) ([]event.Event, error) {
	ref := m.GetRef()
	s, ok := y.Sellers.Get(ref.GetSeller())
	if !ok || len(s.Pools(ref.GetWarehouse())) == 0 {
		return nil, nil // no share of it
	}
	a := &acceptance{mark: markName(ref.GetOutboundNo()), shop: ref.GetShop(), at: m.GetAt().AsTime(), pieces: map[string]int64{}}
	if d.StreamTime.After(a.at) { // the publisher's clock may be behind
		a.at = d.StreamTime
	}
	for _, l := range m.GetLines() {
		switch {
		case l.GetWarehouseGoodsNo() != "":
			a.pieces[byNumber+l.GetWarehouseGoodsNo()] += l.GetQuantity()
		case l.GetGoodsCode() != "":
			a.pieces[byCode+l.GetGoodsCode()] += l.GetQuantity()
		}
	}
	return nil, y.acceptances.add(ctx, BookOf(ref.GetSeller(), ref.GetWarehouse()), a)
}

// markName is short whatever the number is.
func markName(outboundNo string) string {
	sum := sha256.Sum256([]byte(outboundNo))
	return "a/" + hex.EncodeToString(sum[:16])
}

// acceptance is one order on its way into a book.
type acceptance struct {
	mark string
	shop string
	at   time.Time
	// pieces are by the field in which they are pending.
	pieces map[string]int64
}

// acceptanceBatcher writes the acceptances of concurrent handlers in one write each: under a flood they all write to one
// book.
type acceptanceBatcher struct {
	books  *books
	settle time.Duration
	writes batch.Group[string, *acceptance, error]
}

func newAcceptanceBatcher(books *books, settle time.Duration) *acceptanceBatcher {
	q := &acceptanceBatcher{books: books, settle: settle}
	q.writes.Max, q.writes.Cut = maxAcceptances, fitting
	q.writes.Do = func(ctx context.Context, book string, all []*acceptance) []error {
		return slices.Repeat([]error{q.write(ctx, book, all)}, len(all))
	}
	return q
}

const (
	// maxAcceptances and maxFields bound one write; see ledger.BookWriteLimit. An order has at most 500 lines.
	maxAcceptances = 400
	maxFields      = 80
)

func (q *acceptanceBatcher) add(ctx context.Context, book string, a *acceptance) error {
	failed, err := q.writes.Call(ctx, book, a)
	if err != nil {
		return err
	}
	return failed
}

// fitting is how many of the acceptances fit into one write.
func fitting(_ string, all []*acceptance) int {
	fields := map[string]bool{}
	for i, a := range all {
		for f := range a.pieces {
			fields[f] = true
		}
		if i > 0 && len(fields) > maxFields {
			return i
		}
	}
	return len(all)
}

// write writes a batch into the book. It outlives the handlers.
func (q *acceptanceBatcher) write(ctx context.Context, book string, accepted []*acceptance) error {
	ctx, cancel := context.WithTimeout(ctx, writeFor)
	defer cancel()
	var marks, pieces []string
	seen := map[string]bool{}
	for _, a := range accepted {
		marks = append(marks, a.mark)
		for field := range a.pieces {
			if !seen[field] {
				seen[field] = true
				pieces = append(pieces, field)
			}
		}
	}
	// An order of very many goods is written in parts, all but the last without its mark. When that is repeated a part is
	// pending twice until the next count, which offers too little and never too much.
	for len(pieces) > maxFields {
		if err := q.writeFields(ctx, book, accepted, pieces[:maxFields], marks, false); err != nil {
			return err
		}
		pieces = pieces[maxFields:]
	}
	return q.writeFields(ctx, book, accepted, pieces, marks, true)
}

func (q *acceptanceBatcher) writeFields(ctx context.Context, book string, accepted []*acceptance, pieces, marks []string, last bool) error {
	goods := map[string]string{} // by the field in which its pieces are pending
	var codes []string
	for _, field := range pieces {
		if no, numbered := strings.CutPrefix(field, byNumber); numbered {
			goods[field] = no
		} else {
			code, _ := strings.CutPrefix(field, byCode)
			codes = append(codes, codePrefix+code)
		}
	}
	if len(codes) > 0 {
		known, err := q.books.ReadBook(ctx, book, codes, nil)
		if err != nil {
			return err
		}
		for code, no := range known.Fields {
			rest, _ := strings.CutPrefix(code, codePrefix)
			goods[byCode+rest] = string(no)
		}
	}
	var nos []string
	for _, no := range goods {
		nos = append(nos, no)
	}
	fields := append(append([]string{}, pieces...), queueFields(dirtyQueue, nos)...)
	err := q.books.update(ctx, book, fields, marks, func(p *page) error {
		p.startTracking(q.books.now())
		for _, a := range accepted {
			if p.Marked[a.mark] || !p.Head.mayMiss(a.at, q.settle) {
				continue
			}
			if len(a.pieces) == 0 {
				p.Head.IncompleteOrders++
			}
			for field, n := range a.pieces {
				if !slices.Contains(pieces, field) {
					continue
				}
				all, err := p.pending(field)
				if err != nil {
					return err
				}
				all.add(a.shop, a.at, n)
				p.Put(field, all)
				if no := goods[field]; no != "" {
					p.enqueue(dirtyQueue, no)
				}
			}
			if last {
				p.Mark(a.mark, a.at) // counts once although it is twice in the batch
			}
		}
		return nil
	})
	return err
}

// startTracking starts to record every order that is accepted.
func (p *page) startTracking(now time.Time) {
	if p.Head.TrackedSince.IsZero() {
		p.Head.TrackedSince = now
	}
}

// mayMiss reports whether a count that is or will be used may not contain an order that was accepted then.
func (h *Head) mayMiss(at time.Time, settle time.Duration) bool {
	return at.After(h.TrackedSince) && !at.Add(settle+batchSeconds*time.Second).Before(h.Counted)
}
