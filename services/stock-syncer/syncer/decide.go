package syncer

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	stockv1 "stockbridge/proto/stock/v1"
)

// This file decides, and only decides: how much each shop may offer, which shares are published, when a warehouse is
// counted, and when a difference is one. It reads nothing and writes nothing.

// facts are all that the shares of some goods are computed from, as they were at one moment.
type facts struct {
	no, code string
	// counted: a usable complete count found saleable pieces at that time.
	counted  bool
	at       time.Time
	saleable int64
	pending  []Pending
}

// maxPieces keeps products below the limit of an int64: nobody has more pieces.
const maxPieces = int64(1) << 46

// available returns how much of the goods the shops of a pool may offer together, and what is taken off for accepted
// orders: those of its own shops in full, those of others by the pool's ratio.
func (f *facts) available(p seller.Pool) (figure, pending, elsewhere int64) {
	own := map[string]bool{AllPools: true}
	for _, s := range p.Shops {
		own[s.Code] = true
	}
	for _, all := range f.pending {
		for shop := range all {
			if own[shop] {
				pending += all.of(shop)
			} else {
				elsewhere += all.of(shop)
			}
		}
	}
	left := min(max(f.saleable-elsewhere, 0), maxPieces)
	return max(left*p.Ratio/seller.Whole-pending, 0), pending, elsewhere
}

// shareOf returns a shop's part of a pool's figure.
func shareOf(figure int64, s seller.PoolShop) int64 {
	share := figure*s.Part/seller.Whole - s.Safety
	if share < max(s.Minimum, 0) || share < 0 {
		return 0
	}
	return share
}

// basis returns what a share was computed from, so that anybody can recompute it.
func (f *facts) basis(p seller.Pool, s seller.PoolShop) *stockv1.ShareChanged_Basis {
	_, pending, elsewhere := f.available(p)
	return &stockv1.ShareChanged_Basis{
		CountedAt: timestamppb.New(f.at), Saleable: f.saleable, Ratio: p.RatioText, Part: seller.FormatPercent(s.Part),
		Pending: pending, Elsewhere: elsewhere, Safety: s.Safety, Minimum: s.Minimum,
	}
}

// certainty is how far what is known of some goods can be relied on.
type certainty struct {
	// trusted: a count is known to contain what the book lacks. Without one, shares may only shrink.
	trusted bool
	// doubtful: a ratio was changed at the warehouse, and nobody has answered that yet. Shares fall but do not rise.
	doubtful bool
	// again: a run was about to publish these goods when it died. What it decided is published again, or less.
	again bool
	// from: what was published under an earlier version of the book may have been published otherwise since.
	from uint64
}

// shareChange is a share to be published.
type shareChange struct {
	shop  seller.PoolShop
	share int64
	// gone: the shop is no longer in the pool.
	gone bool
}

// decideShares returns the shares of a pool that are to be published: less are those that shrink, or of which it is
// unknown what the shop has; more are those that grow, to be published after them. waits: some may not be published
// yet. It is unknown whether a share falls that may have been published otherwise: with a doubtful ratio it waits.
func decideShares(f *facts, pool seller.Pool, known Published, c certainty) (less, more []shareChange, waits bool) {
	figure, _, _ := f.available(pool)
	for _, s := range pool.Shops {
		share := shareOf(figure, s)
		was, ok := known[s.Code]
		lost := !ok || was.Version < c.from
		if c.doubtful && !lost {
			waits = waits || share > was.Share
			share = min(share, was.Share)
		}
		switch unsure := lost || c.again; {
		case lost && c.doubtful:
			waits = true
		case unsure && c.trusted:
			less = append(less, shareChange{shop: s, share: share}) // what the shop has is unknown
		case unsure: // what shrinks by the book may grow in reality
			waits = true
		case share < was.Share:
			less = append(less, shareChange{shop: s, share: share})
		case share > was.Share && !c.trusted:
			waits = true
		case share > was.Share:
			more = append(more, shareChange{shop: s, share: share})
		}
	}
	return less, more, waits
}

// formerShops returns the shops that have a share of a pool and are no longer in it: moved ones are in another of the
// pools, which publishes their share from now on; from those that are gone it is withdrawn.
func formerShops(pool seller.Pool, pools []seller.Pool, known Published) (moved []string, gone []shareChange) {
	in := func(p seller.Pool, shop string) bool {
		return slices.ContainsFunc(p.Shops, func(s seller.PoolShop) bool { return s.Code == shop })
	}
	for code := range known {
		switch {
		case in(pool, code):
		case slices.ContainsFunc(pools, func(p seller.Pool) bool { return in(p, code) }):
			moved = append(moved, code)
		default:
			gone = append(gone, shareChange{shop: seller.PoolShop{Code: code}, gone: true})
		}
	}
	return moved, gone
}

// countIsDue reports whether a count is to begin: at once when a person asks for one or there is none that shares can be
// computed from, else every so often. A count contains what was accepted settle before it; one that begins sooner after
// tracking began could not be used.
func countIsDue(h Head, now time.Time, settle, every time.Duration) bool {
	useful := h.TrackedSince.Add(settle)
	switch {
	case h.CountRequest != nil:
		return true
	case !h.TrackedSince.IsZero() && now.Before(useful):
		return false
	case h.Counted.IsZero(), !h.TrackedSince.IsZero() && h.Counted.Before(useful):
		return true
	default:
		return !now.Before(h.Counted.Add(every))
	}
}

// verdict is what becomes of a suspicion.
type verdict string

const (
	// unchanged: what the book has of it stays.
	unchanged verdict = "unchanged"
	// agreed: the two are the same, the suspicion is dropped.
	agreed verdict = "agreed"
	// suspected: a difference is seen for the first time, or it is another one.
	suspected verdict = "suspected"
	// differs: it was seen before and nothing moved in between, so it is to be published.
	differs verdict = "differs"
)

// compared is one comparison of the book's figure with the warehouse's.
type compared struct {
	figure  stock.Figure
	counted int64
	// began is when this comparison began, last when the one before it did.
	began, last time.Time
	// readTo is up to when the flow was read.
	readTo time.Time
}

// judge returns what becomes of a suspicion (nil: there is none), and the one that takes its place when it is suspected.
func (c compared) judge(was *Suspicion, now time.Time) (verdict, *Suspicion) {
	next := &Suspicion{Book: c.figure.Num, Counted: c.counted, Rows: c.figure.Rows, At: now, Agreed: c.last}
	switch {
	case c.counted == c.figure.Num && was == nil:
		return unchanged, nil
	case c.counted == c.figure.Num:
		return agreed, nil
	case was == nil:
		return suspected, next
	case was.Book != c.figure.Num || was.Counted != c.counted || was.Rows != c.figure.Rows:
		next.Agreed = was.Agreed
		return suspected, next
	case !was.PublishedAt.IsZero() || !was.At.Before(c.began) || c.readTo.Unix() <= was.At.Unix():
		return unchanged, nil // it was published, or seen in this same comparison, or movements of that time may still come
	default:
		return differs, nil
	}
}
