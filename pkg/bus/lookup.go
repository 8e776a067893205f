package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// lastMessage reads the newest message on subject; nil when there is none.
func (b *Bus) lastMessage(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	m, err := b.get(ctx, stream, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetLastMsgForSubject(ctx, subject)
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return m, nil
}

// message reads the message that a stream holds under seq; nil when there is none.
func (b *Bus) message(ctx context.Context, stream string, seq uint64) (*jetstream.RawStreamMsg, error) {
	return b.get(ctx, stream, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetMsg(ctx, seq)
	})
}

// get reads a message from the stream's leader; nil when there is none.
func (b *Bus) get(ctx context.Context, stream string, get func(context.Context, jetstream.Stream) (*jetstream.RawStreamMsg, error)) (m *jetstream.RawStreamMsg, err error) {
	err = b.withStream(ctx, stream, func(ctx context.Context, s jetstream.Stream) (err error) {
		m, err = get(ctx, s)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, err
}

// purge removes the messages on a subject.
func (b *Bus) purge(ctx context.Context, stream, subject string) error {
	return b.withStream(ctx, stream, func(ctx context.Context, s jetstream.Stream) error {
		return s.Purge(ctx, jetstream.WithPurgeSubject(subject))
	})
}

// eachMessage reads the messages of a subject one by one, from a sequence on: on a work queue only its consumers may
// read several at a time. It returns f's error.
func (b *Bus) eachMessage(ctx context.Context, stream, subject string, next uint64, f func(*jetstream.RawStreamMsg) error) error {
	var s jetstream.Stream
	err := b.withStream(ctx, stream, func(_ context.Context, found jetstream.Stream) error {
		s = found
		return nil
	})
	for err == nil {
		var m *jetstream.RawStreamMsg
		err = withRetry(ctx, func(ctx context.Context) (err error) {
			m, err = s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
			return err
		})
		if err == nil {
			next, err = m.Sequence+1, f(m)
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}

// eachSubject calls f for each subject of a stream, with the number of its messages.
func (b *Bus) eachSubject(ctx context.Context, stream, filter string, observe func(subject string, n uint64)) error {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	if s.CachedInfo().State.Msgs == 0 {
		return nil
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	for subject, n := range info.State.Subjects {
		observe(subject, n)
	}
	return nil
}
