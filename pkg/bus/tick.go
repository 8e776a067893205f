package bus

import (
	"context"
	"errors"
	"time"
)

// SetTick makes <kind>.due of seller come every so often (whole seconds, at least one). Setting the same again changes
// nothing, so anybody may re-assert it.
func (b *Bus) SetTick(ctx context.Context, kind, seller string, every time.Duration) error {
	return errors.New("not yet")
}

// RemoveTick ends it. Removing what is not there is no error.
func (b *Bus) RemoveTick(ctx context.Context, kind, seller string) error {
	return errors.New("not yet")
}
