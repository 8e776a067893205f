package syncer

import (
	"context"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

// Noted looks for changes of ratios at the warehouse: ours may be stale from then on, until the set-up is applied again.
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
	err := y.shelf.update(ctx, BookOf(row.GetSeller(), row.GetWarehouse()), nil, nil, func(p *page) error {
		h := &p.Head
		if h.SetupAt.IsZero() || !at.After(h.SetupAt) || h.Ratio != nil && !at.After(h.Ratio.At) {
			return nil
		}
		h.Ratio = &RatioChange{At: at, ShopNo: row.GetShopNo(), GoodsNo: row.GetGoodsNo(), FlowNo: row.GetFlowNo()}
		return nil
	})
	return nil, err
}
