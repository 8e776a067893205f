package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// answerTimeout is how long one try of a request to the server waits for its answer.
	answerTimeout = 2 * time.Second
	// answerLimit is how long a caller without a deadline waits in all.
	answerLimit = 10 * time.Second
	// writeTimeout is how long a write that must not be repeated waits for its answer.
	writeTimeout = 5 * time.Second
)

// withRetry makes an idempotent request to the server, and repeats it when no answer comes: on a cluster the leader
// that was asked may just have stepped down, and then nobody ever answers. The caller's own deadline does not help: it
// bounds all of the caller's work.
func withRetry(ctx context.Context, call func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answerLimit)
		defer cancel()
	}
	for {
		once, cancel := context.WithTimeout(ctx, answerTimeout)
		err := call(once)
		cancel()
		if err == nil || !unanswered(err) || sleep(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// withStream is withRetry for a request about a stream, which it looks up first.
func (b *Bus) withStream(ctx context.Context, name string, call func(context.Context, jetstream.Stream) error) error {
	return withRetry(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, name)
		if err != nil {
			return err
		}
		return call(ctx, s)
	})
}

// unanswered reports whether a request failed because nobody answered, or there was no leader to ask.
func unanswered(err error) bool {
	var api jetstream.JetStreamError
	if errors.As(err, &api) && api.APIError() != nil {
		return api.APIError().Code == 503
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)
}
