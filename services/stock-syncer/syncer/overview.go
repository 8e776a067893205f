package syncer

import (
	"context"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/book"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
)

// Warehouses returns those of a seller that are counted: where shops have a booking, or share a pool.
func Warehouses(s *seller.Seller) []string {
	var codes []string
	for _, p := range s.Places() {
		if !slices.Contains(codes, p.Warehouse) {
			codes = append(codes, p.Warehouse)
		}
	}
	for _, p := range s.Setup.GetStock().GetPools() {
		if !slices.Contains(codes, p.GetWarehouse()) {
			codes = append(codes, p.GetWarehouse())
		}
	}
	slices.Sort(codes)
	return codes
}

// Overview is the state of a warehouse's book.
type Overview struct {
	Head Head
	// Waiting is how many goods are to be evaluated. Trusted: a count began long enough after the book started to
	// track orders; else shares only shrink.
	Waiting int
	Trusted bool
}

// ReadOverview reads a warehouse's overview and changes nothing.
func ReadOverview(ctx context.Context, b ledger.Books, s *seller.Seller, code string, settle time.Duration) (Overview, error) {
	fields := append(allQueues(dirtyQueue), fieldHead)
	t, err := book.Read(ctx, b, BookOf(s.Name(), code), fields, nil)
	if err != nil {
		return Overview{}, err
	}
	p := &page{Tx: t}
	if _, err := p.Get(fieldHead, &p.Head); err != nil {
		return Overview{}, err
	}
	p.checkEpoch()
	return Overview{Head: p.Head, Waiting: p.waiting(), Trusted: p.Head.trusts(p.Head.Counted, settle)}, nil
}

// followed is a warehouse of a seller and what overviews.read found of its book.
type followed struct {
	seller *seller.Seller
	code   string
	Overview
}

// overviews reads the overviews of many warehouses in few round trips. One goroutine at a time may use it.
type overviews struct {
	books ledger.Books
	heads *book.Overview[Head]
}

// read reads first all heads, then the queues of those that have any. Whether a new epoch of the ledger began since a book was
// written last shows when the book is used, not here.
func (o overviews) read(ctx context.Context, all []followed, settle time.Duration) error {
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = BookOf(c.seller.Name(), c.code)
	}
	heads, err := o.heads.Read(ctx, names)
	if err != nil {
		return err
	}
	var queued []int
	var of []string
	for i, head := range heads {
		all[i].Overview = Overview{Head: head, Trusted: head.trusts(head.Counted, settle)}
		if head.Dirty != 0 {
			queued, of = append(queued, i), append(of, names[i])
		}
	}
	queues, err := o.books.ReadMany(ctx, of, allQueues(dirtyQueue))
	if err != nil {
		return err
	}
	for i, fields := range queues {
		p := page{Tx: &book.Tx{Book: ledger.Book{Fields: fields}}}
		all[queued[i]].Waiting = p.waiting()
	}
	return nil
}

// allQueues are the fields of a queue.
func allQueues(kind string) []string {
	fields := make([]string, queues)
	for i := range queues {
		fields[i] = queueField(kind, i)
	}
	return fields
}

// waiting is how many goods the queues hold whose shares are to be evaluated.
func (p *page) waiting() int {
	n := 0
	for i := range queues {
		n += len(p.queue(dirtyQueue, i))
	}
	return n
}

// trusts reports whether a count that began then is known to contain everything that the book lacks.
func (h *Head) trusts(counted time.Time, settle time.Duration) bool {
	return !h.TrackedSince.IsZero() && !counted.IsZero() && !counted.Before(h.TrackedSince.Add(settle))
}

// Share is what a shop may offer of some goods.
type Share struct {
	GoodsNo, GoodsCode string
	Pool, Shop         string
	// Published is the shop's last published share, under Version; Known is false when none was. Now is what the
	// facts allow at the moment.
	Published int64
	Version   uint64
	Known     bool
	Now       int64
	// Saleable is by the last count; Pending and Elsewhere are taken off for accepted orders that it does not
	// contain.
	Saleable, Pending, Elsewhere int64
	CountedAt                    time.Time
}

// Shares returns what the shops of a warehouse may offer, some goods at a time in any order. Begin with from = "" and
// continue with next until it is "".
func Shares(ctx context.Context, b ledger.Books, s *seller.Seller, code, from string) (shares []Share, next string, err error) {
	name := BookOf(s.Name(), code)
	pools := s.Pools(code)
	fields, next, err := b.ScanBook(ctx, name, goodsPrefix, from)
	if err != nil {
		return nil, "", err
	}
	for some := range slices.Chunk(fields, max(1, 400/(2+len(pools)))) {
		var names []string
		goods := make([]Goods, len(some))
		for i, f := range some {
			no := strings.TrimPrefix(f.Name, goodsPrefix)
			if err := book.Decode(name, f, &goods[i]); err != nil {
				return nil, "", err
			}
			names = append(names, byNumber+no)
			if goods[i].Code != "" {
				names = append(names, byCode+goods[i].Code)
			}
			for _, p := range pools {
				names = append(names, publishedField(p.Name, no))
			}
		}
		t, err := book.Read(ctx, b, name, names, nil)
		if err != nil {
			return nil, "", err
		}
		p := &page{Tx: t}
		for i, f := range some {
			of, err := sharesOf(p, pools, strings.TrimPrefix(f.Name, goodsPrefix), goods[i])
			if err != nil {
				return nil, "", err
			}
			shares = append(shares, of...)
		}
	}
	return shares, next, nil
}

func sharesOf(p *page, pools []seller.Pool, no string, g Goods) ([]Share, error) {
	f := &facts{no: no, code: g.Code, counted: true, at: g.At, saleable: g.Saleable}
	for _, field := range []string{byNumber + no, byCode + g.Code} {
		all, err := p.pending(field)
		if err != nil {
			return nil, err
		}
		f.pending = append(f.pending, all)
	}
	var shares []Share
	for _, pool := range pools {
		figure, pending, elsewhere := f.available(pool)
		published := Published{}
		if _, err := p.Get(publishedField(pool.Name, no), &published); err != nil {
			return nil, err
		}
		for _, shop := range pool.Shops {
			last, known := published[shop.Code]
			shares = append(shares, Share{
				GoodsNo: no, GoodsCode: g.Code, Pool: pool.Name, Shop: shop.Code, Published: last.Share, Version: last.Version, Known: known,
				Now: shareOf(figure, shop), Saleable: g.Saleable, Pending: pending, Elsewhere: elsewhere, CountedAt: g.At,
			})
		}
	}
	return shares, nil
}

// RequestCount has a warehouse counted with the next tick, whatever is in progress.
func RequestCount(ctx context.Context, b ledger.Books, sellerName, code, by string, now time.Time) error {
	err := (&books{Books: b}).update(ctx, BookOf(sellerName, code), nil, nil, func(p *page) error {
		p.Head.CountRequest = &CountRequest{By: by, At: now}
		return nil
	})
	return err
}

// HeadOf reads what is known of a warehouse as a whole.
func HeadOf(ctx context.Context, b ledger.Books, sellerName, code string) (Head, error) {
	t, err := book.Read(ctx, b, BookOf(sellerName, code), []string{fieldHead}, nil)
	if err != nil {
		return Head{}, err
	}
	var h Head
	_, err = t.Get(fieldHead, &h)
	return h, err
}

// GoodsOf reads what the last count found of some goods; false when none ever found it.
func GoodsOf(ctx context.Context, b ledger.Books, sellerName, code, no string) (g Goods, known bool, err error) {
	t, err := book.Read(ctx, b, BookOf(sellerName, code), []string{goodsPrefix + no}, nil)
	if err != nil {
		return g, false, err
	}
	known, err = t.Get(goodsPrefix+no, &g)
	return g, known, err
}
