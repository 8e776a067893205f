package syncer

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/seller"
	stockv1 "stockbridge/proto/stock/v1"
)

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
