package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// Where a copy of an event is, besides event.Dead and event.Held.
const (
	// CopyPublished: in the public stream, as its publisher sent it.
	CopyPublished = "published"
	// CopyDelayed: waits for its next attempt. CopyRetry: due for it, or replayed, and maybe in flight.
	CopyDelayed = "parked"
	CopyRetry   = "retry"
)

// Copy is one complete copy of an event.
type Copy struct {
	// Where is one of the above, event.Dead or event.Held.
	Where string
	// Stream, Seq and At are the copy's own, At zero for a dead letter; Consumer is the one it belongs to, except for
	// CopyPublished.
	Stream   string
	Seq      uint64
	At       time.Time
	Consumer string
	// Original is the event as it was published; its Seq, Stream and At are 0 where the copy does not record them.
	Original Stored
}

// Copies calls f for every copy of the events of that name, of one seller or of all, until f returns an error, which is
// returned: first those on RETRY, then the dead letters, then the published ones. It may miss a copy that moves
// meanwhile: call it again.
func (b *Bus) Copies(ctx context.Context, name, seller string, f func(Copy) error) error {
	emit := func(c Copy) error {
		if c.Original.Name != name || seller != "" && c.Original.Seller != "" && c.Original.Seller != seller {
			return nil
		}
		return f(c)
	}
	for _, subject := range event.RetrySubjects {
		err := b.eachMessage(ctx, streamRetry, subject, 1, func(m *jetstream.RawStreamMsg) error {
			e := decodeRetry(m.Header, "", Place{})
			c := Copy{Where: CopyRetry, Stream: streamRetry, Seq: m.Sequence, At: m.Time, Original: stored(e.from.subject, e.from.place, e.original, m.Data)}
			if subject == event.DelayedSubjects {
				c.Where = CopyDelayed
			}
			if token := strings.Split(m.Subject, "."); len(token) > 1 {
				c.Consumer = token[1]
			}
			return emit(c)
		})
		if err != nil {
			return fmt.Errorf("find copies: %w", err)
		}
	}
	err := b.eachByPage(ctx, DeadLetterQuery{WithBody: true}, func(s DeadLetter) error {
		if s.Group != nil {
			return nil // it holds no copy: its messages are the published ones
		}
		original := stored(s.Subject, Place{s.Stream, s.OriginSeq, s.First}, s.Header, s.Body)
		return emit(Copy{Where: s.Kind, Stream: streamDeadLetters, Seq: s.Seq, Consumer: s.Consumer, Original: original})
	})
	if err != nil {
		return err
	}
	return b.Events(ctx, EventQuery{Names: []string{name}, Seller: seller}, func(s Stored) error {
		return emit(Copy{Where: CopyPublished, Stream: s.Stream, Seq: s.Seq, At: s.At, Original: s})
	})
}

// Erase overwrites and removes the message that the stream holds under the sequence since that time, so that it is gone
// from the server's files too. It is no error if the message is gone or another one has its number.
func (b *Bus) Erase(ctx context.Context, stream string, seq uint64, at time.Time) error {
	err := b.withStream(ctx, stream, func(ctx context.Context, s jetstream.Stream) error {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && !at.IsZero() && !m.Time.Equal(at) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.SecureDeleteMsg(ctx, seq)
		if err != nil && !unanswered(err) {
			// The server's error for a missing message differs between stores: read it.
			if _, gone := s.GetMsg(ctx, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("erase %s/%d: %w", stream, seq, err)
	}
	return nil
}
