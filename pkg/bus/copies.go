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

// Where a copy of an event stands, besides event.Dead and event.Held.
const (
	// CopyPublished: in the public stream, as its publisher sent it.
	CopyPublished = "published"
	// CopyParked: waits for its next try. CopyRetry: came back for it, or was replayed, and may be in a worker's hand.
	CopyDelayed = "parked"
	CopyRetry   = "retry"
)

// Copy is one place in which an event stands, whole.
type Copy struct {
	// Where is one of the above, event.Dead or event.Held.
	Where string
	// Stream, Seq and At are the copy's own, At zero on the shelf; Consumer is whose it is, unless it is CopyPublished.
	Stream   string
	Seq      uint64
	At       time.Time
	Consumer string
	// Original is the event as it was published; its Seq, Stream and At are 0 where the copy does not tell them.
	Original Stored
}

// Copies tells every copy of the events of that name, of a seller or of all, until f returns an error, which is returned:
// first those that somebody still waits for, then those on the shelf, then the published ones. A copy that moves on
// meanwhile may be missed: look again.
func (b *Bus) Copies(ctx context.Context, name, seller string, f func(Copy) error) error {
	tell := func(c Copy) error {
		c.Original.Name, c.Original.Seller = event.Split(c.Original.Subject)
		if c.Original.Name != name || seller != "" && c.Original.Seller != "" && c.Original.Seller != seller {
			return nil
		}
		c.Original.ID, c.Original.Key = headerOf(c.Original.Header, event.HeaderID), headerOf(c.Original.Header, event.HeaderSubject)
		return f(c)
	}
	for _, subject := range event.RetrySubjects {
		err := b.each(ctx, streamRetry, subject, func(m *jetstream.RawStreamMsg) error {
			d := &Delivery{}
			d.comeBack(m.Header)
			c := Copy{Where: CopyRetry, Stream: streamRetry, Seq: m.Sequence, At: m.Time, Original: Stored{
				Stream: d.Stream, Seq: d.Seq, At: d.StreamTime, Subject: d.Subject, Header: d.header, Body: m.Data,
			}}
			if subject == event.DelayedSubjects {
				c.Where = CopyDelayed
			}
			if token := strings.Split(m.Subject, "."); len(token) > 1 {
				c.Consumer = token[1]
			}
			return tell(c)
		})
		if err != nil {
			return fmt.Errorf("look for copies: %w", err)
		}
	}
	for q := (DeadLetterQuery{Limit: copiesPage, WithBody: true}); ; {
		items, next, err := b.DeadLetters(ctx, q)
		if err != nil {
			return err
		}
		for _, s := range items {
			err := tell(Copy{Where: s.Kind, Stream: streamShelf, Seq: s.Seq, Consumer: s.Consumer, Original: Stored{
				Stream: s.Stream, Seq: s.OriginSeq, At: s.First, Subject: s.Subject, Header: s.Header, Body: s.Body,
			}})
			if err != nil {
				return err
			}
		}
		if q.After = next; next == 0 {
			break
		}
	}
	return b.Events(ctx, EventQuery{Names: []string{name}, Seller: seller}, func(s Stored) error {
		return tell(Copy{Where: CopyPublished, Stream: s.Stream, Seq: s.Seq, At: s.At, Original: s})
	})
}

// copiesPage is how many messages of the shelf are read at a time, with their bodies.
const copiesPage = 100

// each tells the messages of a stream on a subject one by one: of one whose messages go when they are acked nobody but
// its consumers may read more at a time.
func (b *Bus) each(ctx context.Context, stream, subject string, f func(*jetstream.RawStreamMsg) error) error {
	var s jetstream.Stream
	err := ask(ctx, func(ctx context.Context) (err error) {
		s, err = b.js.Stream(ctx, stream)
		return err
	})
	for next := uint64(1); err == nil; {
		var m *jetstream.RawStreamMsg
		err = ask(ctx, func(ctx context.Context) (err error) {
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

// Erase overwrites the message that stands under the number in the stream since that time, and removes it; so that it is
// gone from the server's files too. One that is gone already, or another under its number, is no error.
func (b *Bus) Erase(ctx context.Context, stream string, seq uint64, at time.Time) error {
	err := ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && !at.IsZero() && !m.Time.Equal(at) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.SecureDeleteMsg(ctx, seq)
		if err != nil && !unanswered(err) {
			// The server's word for "it is not there" differs between stores: look.
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
