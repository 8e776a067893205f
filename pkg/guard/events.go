package guard

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// PausedEvent reports that the seller was paused.
func PausedEvent(name string, p seller.Pause) event.Event {
	return event.SellerPaused.About(name, name, p.At, p.Message(name), pauseID(p.At))
}

// ResumedEvent reports that the pause that began at since has ended.
func ResumedEvent(name string, by sellerv1.Paused_By, since, now time.Time) event.Event {
	m := &sellerv1.Resumed{Seller: name, At: timestamppb.New(now), By: by}
	return event.SellerResumed.About(name, name, now, m, pauseID(since))
}

// pauseID distinguishes pauses in event ids.
func pauseID(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ResumeToken ends a pause that a refused token caused, and publishes it: there is a new token. It returns whether
// there was such a pause; other pauses stay.
func ResumeToken(ctx context.Context, b *seller.Registry, publish func(context.Context, ...event.Event) error, name string, now time.Time) (bool, error) {
	s, known := b.Get(name)
	if !known || s.Pause == nil || s.Pause.By != sellerv1.Paused_BY_TOKEN {
		return false, nil
	}
	err := b.Resume(ctx, name, sellerv1.Paused_BY_TOKEN)
	if errors.Is(err, seller.ErrNotPaused) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, publish(ctx, ResumedEvent(name, s.Pause.By, s.Pause.At, now))
}
