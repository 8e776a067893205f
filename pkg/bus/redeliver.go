package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// ErrNotStored says that the event is not, or no longer, in its stream, or that another message has its number.
var ErrNotStored = errors.New("not in its stream")

// Place is where and when an event was stored.
type Place struct {
	Stream string
	Seq    uint64
	Stored time.Time
}

// Redeliver sends a stored event to consumer once more: for an event whose message or effect was lost. It travels like
// a replayed dead letter: under a message id of its own, with its original business key, and with Delivery.Replay set.
// round separates this call from earlier ones: the same round sent twice within the stream's duplicate window arrives
// once. ErrNotStored when there is no such event.
func (b *Bus) Redeliver(ctx context.Context, consumer string, at Place, round int, by By) error {
	raw, err := b.message(ctx, at.Stream, at.Seq)
	if err == nil && (raw == nil || !raw.Time.Equal(at.Stored)) {
		err = ErrNotStored // or the stream was restored, and the number is another message's now
	}
	if err != nil {
		return fmt.Errorf("send %s/%d again: %w", at.Stream, at.Seq, err)
	}
	_, seller := event.Split(raw.Subject)
	e := envelope{original: raw.Header, from: origin{raw.Subject, at, true}, sent: sending{round: round, who: by.Who, why: by.Why}}
	m := e.message(event.RetrySubject(consumer, sellerToken(seller)), raw.Data)
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s#again-%d", at.token(), round))
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("send %s/%d again: %w", at.Stream, at.Seq, err)
	}
	b.log.Info().Str("subject", raw.Subject).Str("id", truncate(headerOf(raw.Header, event.HeaderID), 200)).Uint64("seq", at.Seq).
		Int("round", round).Str("by", by.Who).Str("why", by.Why).Msg("sent again")
	return nil
}

// retriesRead bounds how many messages on RETRY are read one by one.
const retriesRead = 1000

// Backlog is the set of a public stream's events that a consumer has yet to handle: not delivered, delayed, or back on
// RETRY. Messages that are in flight, or negatively acknowledged for some seconds, are not in it.
type Backlog struct {
	// delivered is the last sequence that the consumer was given; all later ones are in the backlog.
	delivered uint64
	origins   map[string]bool
	stream    string
	// many: RETRY held so many that any event may be among them.
	many bool
}

// Has reports whether the event at the place is in the backlog.
func (o Backlog) Has(at Place) bool {
	return o.many || at.Stream == o.stream && at.Seq > o.delivered || o.origins[at.token()]
}

// Backlog reads what a consumer of a public stream has yet to handle now.
func (b *Bus) Backlog(ctx context.Context, consumer Consumer) (Backlog, error) {
	o := Backlog{origins: map[string]bool{}}
	err := b.fillBacklog(ctx, consumer, &o)
	if err != nil {
		return Backlog{}, fmt.Errorf("read the backlog of %s: %w", consumer.Name, err)
	}
	return o, nil
}

func (b *Bus) fillBacklog(ctx context.Context, consumer Consumer, o *Backlog) error {
	o.stream = consumer.Stream
	if !publicStream(o.stream) {
		return errors.New("it takes nothing from a public stream")
	}
	// Delayed first, RETRY last: a message that fires or is released meanwhile moves from the first to the last, and is
	// seen in at least one of them.
	err := b.eachSubject(ctx, streamRetry, event.DelaySubject(consumer.Name, "*"), func(subject string, _ uint64) {
		if _, origin, err := event.ParseDelay(subject); err == nil {
			place, _ := readToken(origin)
			o.origins[place] = true
		}
	})
	if err != nil {
		return err
	}
	var settled uint64
	err = withRetry(ctx, func(ctx context.Context) error {
		c, err := b.js.Consumer(ctx, o.stream, consumer.Name)
		if err != nil {
			return err
		}
		o.delivered = c.CachedInfo().Delivered.Stream
		// A message that was acked while the disk was full reappears after the server's restart, and belongs to nobody:
		// hence only those above the ack floor.
		if c, err = b.js.Consumer(ctx, streamRetry, retryName(consumer.Name)); err != nil {
			return err
		}
		settled = c.CachedInfo().AckFloor.Stream
		return nil
	})
	if err != nil {
		return err
	}
	n := 0
	err = b.eachMessage(ctx, streamRetry, event.RetryOf(consumer.Name), settled+1, func(m *jetstream.RawStreamMsg) error {
		o.origins[decodeRetry(m.Header, "", Place{}).from.place.token()] = true
		if n++; n == retriesRead {
			o.many = true
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Bounds are the first and last sequence of a stream; last is 0 when it never held a message. A stream that was
// restored from an older copy ends before what was read of it.
func (b *Bus) Bounds(ctx context.Context, stream string) (first, last uint64, err error) {
	err = b.withStream(ctx, stream, func(_ context.Context, s jetstream.Stream) error {
		first, last = s.CachedInfo().State.FirstSeq, s.CachedInfo().State.LastSeq
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", stream, err)
	}
	return first, last, nil
}
