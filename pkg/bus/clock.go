package bus

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/clock"
)

// Now is the broker's time, which fires delayed messages; the host's own until Clock was measured.
func (b *Bus) Now() time.Time { return b.clock.Now() }

// Clock is the broker's clock. The process must measure it at start and now and then.
func (b *Bus) Clock() *clock.Clock { return b.clock }

// serverTime asks the broker for its time. On a cluster a stream's leader answers, as it is the leader that fires
// delayed messages.
func (b *Bus) serverTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, streamRetry)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask NATS for its time: %w", err)
	}
	return s.CachedInfo().TimeStamp, nil
}
