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

	"stockbridge/pkg/warehouse"
)

// mostRefused is how many goods a run tries that the far side does not take.
const maxRefused = 10

// set sets shares at the warehouse that were told since. Shops that share one of the far side's numbers have the sum of their
// shares there.
//
// # Why
//
// It works through a queue of goods that telling fills, and not as a part of telling: a far side that is slow or fails must
// not keep shops from hearing that they have less. What stands in the book as told is what is set; where that changes
// meanwhile the goods is told again, and so set again.
func (r *countRun) setShares(ctx context.Context) error {
	var waiting []string
	fields := make([]string, 0, queues)
	for i := range queues {
		fields = append(fields, queueField(setQueue, i))
	}
	err := r.books.update(ctx, r.book, fields, nil, func(p *page) error {
		waiting = nil
		for i := range queues {
			waiting = append(waiting, p.queue(setQueue, i)...)
		}
		return nil
	})
	if err != nil || len(waiting) == 0 {
		return err
	}
	setter, err := r.Set(r.seller, r.warehouse)
	if err != nil {
		return err
	}
	// Goods that the far side does not take stand in nobody's way for ever.
	at := rand.IntN(len(waiting))
	waiting = append(waiting[at:len(waiting):len(waiting)], waiting[:at]...)
	var failures []error
	for _, no := range waiting {
		if r.outOfTime(ctx) {
			break
		}
		wanted, version, err := r.desiredShares(ctx, no)
		if err != nil {
			return err
		}
		var failed error
		for _, shopNo := range slices.Sorted(maps.Keys(wanted)) {
			// The same wish has the same id: which goods of which shop, how many, by which state of the book.
			id := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%s/%d/%d", r.book, shopNo, no, wanted[shopNo], version)))
			err := setter.SetShopStock(ctx, hex.EncodeToString(id[:16]), shopNo, no, wanted[shopNo])
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
			continue // it is about this goods; the next tick tries it again
		}
		if failed != nil {
			break // the next tick goes on
		}
		if err := r.markSet(ctx, no, version); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

// wanted is what is to be set of one goods by the far side's number of the shop, and the latest version that it was told by.
func (r *countRun) desiredShares(ctx context.Context, no string) (map[string]int64, uint64, error) {
	pools := r.seller.Pools(r.warehouse)
	var fields []string
	for _, p := range pools {
		fields = append(fields, publishedField(p.Name, no))
	}
	b, err := r.books.ReadBook(ctx, r.book, fields, nil)
	if err != nil {
		return nil, 0, err
	}
	wanted, version := map[string]int64{}, uint64(0)
	p := &page{Book: b}
	for _, pool := range pools {
		told := Published{}
		if _, err := p.get(publishedField(pool.Name, no), &told); err != nil {
			return nil, 0, err
		}
		for code, f := range told {
			if shop, known := r.seller.Shop(code); known {
				wanted[shop.GetShopNo()] += f.Share
				version = max(version, f.Version)
			}
		}
	}
	return wanted, version, nil
}

// wasSet takes goods off the queue unless they were told anew.
func (r *countRun) markSet(ctx context.Context, no string, version uint64) error {
	fields := queueFields(setQueue, []string{no})
	pools := r.seller.Pools(r.warehouse)
	for _, p := range pools {
		fields = append(fields, publishedField(p.Name, no))
	}
	return r.books.update(ctx, r.book, fields, nil, func(p *page) error {
		for _, pool := range pools {
			told := Published{}
			if _, err := p.get(publishedField(pool.Name, no), &told); err != nil {
				return err
			}
			for _, f := range told {
				if f.Version > version {
					return nil
				}
			}
		}
		p.dequeue(setQueue, no)
		return nil
	})
}
