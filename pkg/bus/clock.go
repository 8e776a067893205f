package bus

import (
	"context"
	"fmt"
	"time"

	"stockbridge/pkg/clock"
)

// Now is the broker's time, by which it fires what is parked; the host's own until Clock was measured once.
func (b *Bus) Now() time.Time { return b.clock.Now() }

// Clock is the broker's. Somebody has to measure it, at start and now and then.
func (b *Bus) Clock() *clock.Clock { return b.clock }

// askTime asks the broker what time it is. On a cluster it is the leader of a stream that answers, as it is the leader who
// fires what is parked.
func (b *Bus) askTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := b.js.Stream(ctx, streamRetry)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask NATS for its time: %w", err)
	}
	return s.CachedInfo().TimeStamp, nil
}
