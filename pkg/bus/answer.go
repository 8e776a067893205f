package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Answer answers the questions that Gather sends to subject, until stop. answer runs in one goroutine at a time.
func (b *Bus) Answer(subject string, answer func() []byte) (stop func(), err error) {
	sub, err := b.nc.Subscribe(subject, func(m *nats.Msg) {
		if err := m.Respond(answer()); err != nil {
			b.log.Debug().Err(err).Str("subject", subject).Msg("cannot answer a question")
		}
	})
	if err != nil {
		return nil, fmt.Errorf("answer %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // the connection ends it at the latest
}

// Gather sends a question to all who Answer on subject, and returns the answers that came within the time; none when
// nobody listens.
func (b *Bus) Gather(ctx context.Context, subject string, within time.Duration) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends it at the latest
	if err := b.nc.PublishRequest(subject, inbox, nil); err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	var answers [][]byte
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrNoResponders):
			return answers, nil
		case err != nil:
			return answers, fmt.Errorf("ask %s: %w", subject, err)
		case len(m.Data) == 0 && m.Header.Get("Status") == noResponders:
			return nil, nil
		}
		answers = append(answers, m.Data)
	}
}

// noResponders is the server's status when nobody listens.
const noResponders = "503"
