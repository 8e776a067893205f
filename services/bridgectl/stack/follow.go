package stack

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
)

// Ticks are the intervals of a seller's ticks by kind (event.TickPoll), in whole seconds, where they are not the
// services' own.
type Ticks map[string]time.Duration

// Follow makes the workers follow a seller whose set-up of that version was stored. Repeating it changes nothing.
func Follow(ctx context.Context, b *bus.Bus, setup *sellerv1.Setup, version uint64, ticks Ticks) error {
	s := seller.New(setup, nil)
	for _, service := range all.Services() {
		if service.Ticks == nil {
			continue
		}
		for _, tick := range service.Ticks(s) {
			if every := ticks[tick.Kind]; every != 0 {
				tick.Every = every
			}
			if err := b.Schedule(ctx, s.Name(), tick); err != nil {
				return err
			}
		}
	}
	now := time.Now()
	m := &sellerv1.Changed{Seller: s.Name(), At: timestamppb.New(now)}
	return b.Publish(ctx, event.SellerChanged.About(s.Name(), s.Name(), now, m, strconv.FormatUint(version, 10)))
}
