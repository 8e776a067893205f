package bus

import (
	"context"
	"fmt"

	"stockbridge/pkg/event"
)

// EachHeld calls f for each message that consumer holds, oldest first and without bodies: EachDeadLetter that costs one
// question when nothing is held, which is nearly always.
func (b *Bus) EachHeld(ctx context.Context, consumer string, f func(DeadLetter) error) error {
	q := DeadLetterQuery{Kind: event.Held, Consumer: consumer}
	if there, err := b.anyDeadLetter(ctx, q); err != nil || !there {
		return err
	}
	return b.EachDeadLetter(ctx, q, f)
}

// anyDeadLetter reports whether there is any of q's kind and consumer.
func (b *Bus) anyDeadLetter(ctx context.Context, q DeadLetterQuery) (bool, error) {
	m, err := b.lastMessage(ctx, streamDeadLetters, event.DeadLetterFilter(q.Kind, q.Consumer))
	if err != nil {
		return false, fmt.Errorf("look for dead letters: %w", err)
	}
	return m != nil, nil
}
