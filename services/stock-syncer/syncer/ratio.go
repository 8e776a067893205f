package syncer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

// Noted handles changes of ratios at the warehouse: our shares may be too high from then on. It publishes
// stock.share.doubtful once for each change that is newer than the last answer.
func (y *Syncer) Noted(ctx context.Context, _ *bus.Delivery, m *stockv1.Noted) ([]event.Event, error) {
	if m.GetRule() != string(warehouse.RuleRatio) {
		return nil, nil
	}
	row := m.GetMovement()
	s, ok := y.Sellers.Get(row.GetSeller())
	if !ok || len(s.Pools(row.GetWarehouse())) == 0 {
		return nil, nil
	}
	at := row.GetAt().AsTime()
	doubtful := false
	err := y.books.update(ctx, BookOf(row.GetSeller(), row.GetWarehouse()), nil, nil, func(p *page) error {
		h := &p.Head
		if doubtful = h.Ratio != nil && h.Ratio.FlowNo == row.GetFlowNo(); doubtful { // the publish may have been lost
			return nil
		}
		if h.SetupAt.IsZero() || !at.After(h.ratiosAt()) || h.Ratio != nil && !at.After(h.Ratio.At) {
			return nil
		}
		h.Ratio = &RatioChange{At: at, ShopNo: row.GetShopNo(), GoodsNo: row.GetGoodsNo(), FlowNo: row.GetFlowNo()}
		doubtful = true
		return nil
	})
	if err != nil || !doubtful {
		return nil, err
	}
	key := event.Place(row.GetWarehouse())
	return []event.Event{event.StockShareDoubtful.About(s.Name(), key, at, &stockv1.ShareDoubtful{
		Seller: s.Name(), Warehouse: row.GetWarehouse(), At: timestamppb.New(at),
		ShopNo: row.GetShopNo(), GoodsNo: row.GetGoodsNo(), FlowNo: row.GetFlowNo(),
		Zh: fmt.Sprintf("店铺 %s 的库存比例在仓库方有变动：份额只减不增，直到设置中的 ratio 改变，或由运营人员确认（bridgectl stock confirm）", row.GetShopNo()),
		En: fmt.Sprintf("the ratio of shop %s was changed at the warehouse: shares fall but do not rise until the set-up's ratio changes or an operator confirms it (bridgectl stock confirm)", row.GetShopNo()),
	}, row.GetFlowNo())}, nil
}

// ratiosAt is since when the ratios count.
func (h *Head) ratiosAt() time.Time {
	if h.RatiosAt.IsZero() { // written by a build that did not keep it
		return h.SetupAt
	}
	return h.RatiosAt
}

// useRatios adopts the set-up's ratios. Ratios other than before answer a change at the warehouse.
func (h *Head) useRatios(pools []seller.Pool, now time.Time) {
	texts := make([]string, len(pools))
	for i, p := range pools {
		texts[i] = p.Name + "=" + p.RatioText
	}
	slices.Sort(texts)
	if ratios := strings.Join(texts, " "); h.Ratios != ratios || h.RatiosAt.IsZero() {
		h.Ratios, h.RatiosAt, h.Ratio = ratios, now, nil
	}
}

// ConfirmRatios records that the set-up's ratios are right although a ratio was changed at the warehouse. It returns
// the change that this answers, nil when there was none.
func ConfirmRatios(ctx context.Context, b ledger.Books, sellerName, code string, now time.Time) (*RatioChange, error) {
	var answered *RatioChange
	err := (&books{Books: b}).update(ctx, BookOf(sellerName, code), nil, nil, func(p *page) error {
		if answered = p.Head.Ratio; answered != nil {
			p.Head.Ratio, p.Head.RatiosAt = nil, now
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("confirm the ratios of %s/%s: %w", sellerName, code, err)
	}
	return answered, nil
}
