package syncer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"stockbridge/pkg/book"
	"stockbridge/pkg/warehouse"
)

// maxRefused is how many goods that the warehouse refuses a run tries.
const maxRefused = 10

// setShares sets published shares at the warehouse. Shops that have the same number at the warehouse have the sum of
// their shares there.
//
// # Why
//
// It works through a queue of goods that publishing fills, and is not a part of publishing: a warehouse that is slow
// or fails must not keep shops from learning that they have less. It sets what the book has as published; when that
// changes meanwhile the goods are published again, and so set again.
func (r *countRun) setShares(ctx context.Context) error {
	var waiting []string
	fields := make([]string, 0, queues)
	for i := range queues {
		fields = append(fields, queueField(setQueue, i))
	}
	var resend Sweep
	err := r.books.update(ctx, r.book, append(fields, fieldResend), nil, func(p *page) (err error) {
		waiting = nil
		for i := range queues {
			waiting = append(waiting, p.queue(setQueue, i)...)
		}
		resend, err = p.sweep(fieldResend)
		return err
	})
	if err == nil && resend.Active && len(waiting) < resendBelow {
		var more []string
		more, err = r.enqueueForSetting(ctx, resend.Cursor)
		waiting = append(waiting, more...)
	}
	if err != nil || len(waiting) == 0 {
		return err
	}
	setter, err := r.Set(r.seller, r.warehouse)
	if err != nil {
		return err
	}
	// Start at a random place: goods that the warehouse refuses must not block the others.
	at := rand.IntN(len(waiting))
	waiting = append(waiting[at:len(waiting):len(waiting)], waiting[:at]...)
	var failures []error
	for _, no := range waiting {
		if r.outOfTime(ctx) {
			break
		}
		desired, version, err := r.desiredShares(ctx, no)
		if err != nil {
			return err
		}
		var failed error
		for _, shopNo := range slices.Sorted(maps.Keys(desired)) {
			// The same request has the same id: which goods of which shop, how many, by which version of the book.
			id := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%s/%d/%d", r.book, shopNo, no, desired[shopNo], version)))
			err := setter.SetShopStock(ctx, hex.EncodeToString(id[:16]), shopNo, no, desired[shopNo])
			r.reportToBreaker(err)
			if err != nil {
				r.Metrics.Set.WithLabelValues("failed").Inc()
				failures = append(failures, fmt.Errorf("set %s of %s: %w", no, shopNo, err))
				failed = err
				break
			}
			r.Metrics.Set.WithLabelValues("ok").Inc()
		}
		var said *warehouse.Rejected
		if failed != nil && errors.As(failed, &said) && len(failures) < maxRefused {
			continue // only these goods were rejected; the next tick tries them again
		}
		if failed != nil {
			break // the next tick continues
		}
		if err := r.markSet(ctx, no, version); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

// resendBelow is how few goods wait when the next ones are enqueued that the queue had no room for.
const resendBelow = 200

// enqueueForSetting enqueues some goods from a place of the sweep on, and returns them: the queue has no room for all
// goods of a large warehouse.
func (r *countRun) enqueueForSetting(ctx context.Context, from string) ([]string, error) {
	goods, next, err := r.books.someGoods(ctx, r.book, from)
	if err != nil {
		return nil, err
	}
	for some := range slices.Chunk(goods, 100) {
		err := r.books.update(ctx, r.book, append(queueFields(setQueue, some), fieldResend), nil, func(p *page) error {
			resend, err := p.sweep(fieldResend)
			if err != nil {
				return err
			}
			if !p.enqueue(setQueue, some...) {
				resend.begin()
			}
			p.putSweep(fieldResend, resend)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return goods, r.books.update(ctx, r.book, []string{fieldResend}, nil, func(p *page) error {
		resend, err := p.sweep(fieldResend)
		if err == nil {
			resend.advance(from, next)
			p.putSweep(fieldResend, resend)
		}
		return err
	})
}

// desiredShares returns what is to be set of some goods by the warehouse's number of the shop, and the latest version
// under which it was published.
func (r *countRun) desiredShares(ctx context.Context, no string) (map[string]int64, uint64, error) {
	pools := r.seller.Pools(r.warehouse)
	var fields []string
	for _, p := range pools {
		fields = append(fields, publishedField(p.Name, no))
	}
	t, err := book.Read(ctx, r.books, r.book, fields, nil)
	if err != nil {
		return nil, 0, err
	}
	desired, version := map[string]int64{}, uint64(0)
	for _, pool := range pools {
		published := Published{}
		if _, err := t.Get(publishedField(pool.Name, no), &published); err != nil {
			return nil, 0, err
		}
		for code, f := range published {
			if shop, known := r.seller.Shop(code); known {
				desired[shop.GetShopNo()] += f.Share
				version = max(version, f.Version)
			}
		}
	}
	return desired, version, nil
}

// markSet removes goods from the queue unless they were published again.
func (r *countRun) markSet(ctx context.Context, no string, version uint64) error {
	fields := queueFields(setQueue, []string{no})
	pools := r.seller.Pools(r.warehouse)
	for _, p := range pools {
		fields = append(fields, publishedField(p.Name, no))
	}
	return r.books.update(ctx, r.book, fields, nil, func(p *page) error {
		for _, pool := range pools {
			published := Published{}
			if _, err := p.Get(publishedField(pool.Name, no), &published); err != nil {
				return err
			}
			for _, f := range published {
				if f.Version > version {
					return nil
				}
			}
		}
		p.dequeue(setQueue, no)
		return nil
	})
}
