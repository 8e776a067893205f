package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// ErrNotStored says that no such event stands in its stream (any more), or another one under its number.
var ErrNotStored = errors.New("not in its stream")

// Place is where and when an event was stored.
type Place struct {
	Stream string
	Seq    uint64
	Stored time.Time
}

// Again sends the event that stands at the place to consumer once more: for an event whose message was lost, or whose
// effect was. It travels as a replay from the shelf does: under a message id of its own, with the business key that it
// came with, and with Delivery.Replay set. round tells this time from earlier ones; the same round sent twice within the
// window for duplicates arrives once. ErrNotStored when there is no such event.
func (b *Bus) Redeliver(ctx context.Context, consumer string, at Place, round int, by By) error {
	stream, seq, stored := at.Stream, at.Seq, at.Stored
	var raw *jetstream.RawStreamMsg
	err := ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		raw, err = s.GetMsg(ctx, seq)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && !raw.Time.Equal(stored) {
		err = ErrNotStored // or the stream was put back, and the number is another's by now
	}
	if err != nil {
		return fmt.Errorf("send %s/%d again: %w", stream, seq, err)
	}
	_, seller := event.Split(raw.Subject)
	if seller == "" {
		seller = event.NoSeller
	}
	m := nats.NewMsg(event.RetrySubject(consumer, seller))
	m.Data = raw.Data
	m.Header = carry(raw.Header)
	(&Delivery{Subject: raw.Subject, Stream: stream, Seq: seq, StreamTime: raw.Time}).originHeaders(m.Header)
	m.Header.Set(event.HeaderRedelivered, strconv.Itoa(round))
	setIf(m.Header, event.HeaderBy, cut(by.Who, maxText))
	setIf(m.Header, event.HeaderWhy, cut(by.Why, maxText))
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s#again-%d", originOf(stream, seq, raw.Time), round))
	if _, err := b.store(ctx, m); err != nil {
		return fmt.Errorf("send %s/%d again: %w", stream, seq, err)
	}
	b.log.Info().Str("subject", raw.Subject).Str("id", cut(headerOf(raw.Header, event.HeaderID), 200)).Uint64("seq", seq).
		Int("round", round).Str("by", by.Who).Str("why", by.Why).Msg("sent again")
	return nil
}

// streamOf is the stream that a consumer takes from; "" when there is no such consumer.
func streamOf(consumer string) string {
	for _, row := range consumers {
		if row.name == consumer {
			return row.stream
		}
	}
	return ""
}

// retriesRead is how many messages that came back for a retry are looked at one by one.
const retriesRead = 1000

// Outstanding is which events of a public stream a consumer has still to take: those that it was not given yet, that are
// parked, and that came back. What it has in hand, or gave back for some seconds, is not among them.
type Backlog struct {
	// delivered is the last that it was given; all behind it are outstanding.
	delivered uint64
	origins   map[string]bool
	stream    string
	// many: so many came back that any may be among them.
	many bool
}

// Has tells whether the event at the place is outstanding.
func (o Backlog) Has(at Place) bool {
	return o.many || at.Stream == o.stream && at.Seq > o.delivered || o.origins[originOf(at.Stream, at.Seq, at.Stored)]
}

// Outstanding tells what a consumer of a public stream has still to take, as things are now.
func (b *Bus) Backlog(ctx context.Context, consumer string) (Backlog, error) {
	o := Backlog{origins: map[string]bool{}}
	err := b.backlog(ctx, consumer, &o)
	if err != nil {
		return Backlog{}, fmt.Errorf("look at what %s has to take: %w", consumer, err)
	}
	return o, nil
}

func (b *Bus) backlog(ctx context.Context, consumer string, o *Backlog) error {
	o.stream = streamOf(consumer)
	if !publicStream(o.stream) {
		return errors.New("it takes nothing from a public stream")
	}
	// What fires or is released meanwhile moves from the first of these to the last, and is seen in one of them at least.
	err := b.subjects(ctx, streamRetry, event.DelaySubject(consumer, "*"), func(subject string, _ uint64) {
		if _, origin, err := event.ParseDelay(subject); err == nil {
			o.origins[plain(origin)] = true
		}
	})
	if err != nil {
		return err
	}
	var s jetstream.Stream
	var settled uint64
	err = ask(ctx, func(ctx context.Context) error {
		c, err := b.js.Consumer(ctx, o.stream, consumer)
		if err != nil {
			return err
		}
		o.delivered = c.CachedInfo().Delivered.Stream
		// A message that was acked while the disk was full stands there again after the server's restart, and is nobody's.
		if c, err = b.js.Consumer(ctx, streamRetry, retryName(consumer)); err != nil {
			return err
		}
		settled = c.CachedInfo().AckFloor.Stream
		s, err = b.js.Stream(ctx, streamRetry)
		return err
	})
	if err != nil {
		return err
	}
	for n, next := 0, settled+1; ; n++ {
		if n == retriesRead {
			o.many = true
			return nil
		}
		var m *jetstream.RawStreamMsg
		err := ask(ctx, func(ctx context.Context) (err error) {
			m, err = s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(event.RetryOf(consumer)))
			return err
		})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		next = m.Sequence + 1
		d := &Delivery{}
		d.comeBack(m.Header)
		o.origins[originOf(d.Stream, d.Seq, d.StreamTime)] = true
	}
}

// Bounds are the first and the last number of a stream; last is 0 when it never held anything. A stream that was put back
// to an older copy ends before what was read of it.
func (b *Bus) Bounds(ctx context.Context, stream string) (first, last uint64, err error) {
	err = ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, stream)
		if err == nil {
			first, last = s.CachedInfo().State.FirstSeq, s.CachedInfo().State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("look at %s: %w", stream, err)
	}
	return first, last, nil
}
