package stack

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
)

// Ticks are the intervals of ticks by kind (event.TickPoll), in whole seconds, where they are not the services' own.
type Ticks map[string]time.Duration

// of are the services with these intervals for their own ticks.
func (t Ticks) of(services []bus.Service) []bus.Service {
	for i := range services {
		own := slices.Clone(services[i].Ticks)
		for j := range own {
			own[j].Every = cmp.Or(t[own[j].Kind], own[j].Every)
		}
		services[i].Ticks = own
	}
	return services
}

// Follow makes the workers follow a seller whose set-up of that version was stored. Repeating it changes nothing.
func Follow(ctx context.Context, b *bus.Bus, setup *sellerv1.Setup, version uint64, ticks Ticks) error {
	s := seller.New(setup, nil)
	for _, service := range all.Services() {
		if service.SellerTicks == nil {
			continue
		}
		for _, tick := range service.SellerTicks(s) {
			tick.Every = cmp.Or(ticks[tick.Kind], tick.Every)
			if err := b.Schedule(ctx, s.Name(), tick); err != nil {
				return err
			}
		}
	}
	now := time.Now()
	m := &sellerv1.Changed{Seller: s.Name(), At: timestamppb.New(now)}
	return b.Publish(ctx, event.SellerChanged.About(s.Name(), s.Name(), now, m, strconv.FormatUint(version, 10)))
}
