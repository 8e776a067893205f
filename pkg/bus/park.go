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

// park stores the message as a schedule that brings it back at the given time.
//
// Each parked message has a subject of its own, because of two schedules on one subject only the last fires. The subject
// is made from where the original was stored and not from its ce-id, which a publisher may use twice. The message id
// counts the parks: under the id of an earlier park it would be taken for a duplicate and not be stored. The time is
// written out here because the library's helper cuts it to whole seconds.
func (w *server) park(ctx context.Context, t *taken, d *Delivery, at time.Time) error {
	subject := event.DelaySubject(w.row.name, d.origin)
	m := nats.NewMsg(subject)
	m.Data = t.Data
	m.Header = carry(d.header)
	d.keepTrace(m.Header)
	d.originHeaders(m.Header)
	m.Header.Set(event.HeaderDelays, strconv.Itoa(d.parks+1))
	if d.Replay {
		if d.replayed != 0 {
			m.Header.Set(event.HeaderReplay, strconv.FormatUint(d.replayed, 10))
		}
		if d.again != 0 {
			m.Header.Set(event.HeaderRedelivered, strconv.Itoa(d.again))
		}
		setAll(m.Header, event.HeaderReleased, d.Released)
		setIf(m.Header, event.HeaderBy, d.by)
		setIf(m.Header, event.HeaderWhy, d.why)
		setAll(m.Header, event.HeaderEarlier, d.earlier)
	}
	m.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano))
	m.Header.Set(jetstream.ScheduleTargetHeader, event.RetrySubject(w.row.name, d.sellerToken()))
	id := fmt.Sprintf("park/%s/%s/%d", w.row.name, d.origin, d.parks+1)
	m.Header.Set(jetstream.MsgIDHeader, id)
	acks, err := w.b.store(ctx, m)
	if err != nil || !acks[0].Duplicate {
		return err
	}
	// It was parked before a crash. A copy that is still waiting is as good as this one. If it has fired, its retry may be
	// over already, and this run knows nothing of it: park again rather than lose the message.
	waiting, err := w.b.last(ctx, streamRetry, subject)
	if err != nil || waiting != nil {
		return err
	}
	m.Header.Set(jetstream.MsgIDHeader, id+"/"+strconv.FormatInt(at.UnixNano(), 36))
	_, err = w.b.store(ctx, m)
	return err
}

// unpark removes a parked copy, if there is one.
func (w *server) unpark(ctx context.Context, d *Delivery) error {
	return ask(ctx, func(ctx context.Context) error {
		s, err := w.b.js.Stream(ctx, streamRetry)
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(event.DelaySubject(w.row.name, d.origin)))
	})
}

// last reads the newest message on subject from the stream's leader; nil when there is none.
func (b *Bus) last(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	var m *jetstream.RawStreamMsg
	err := ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		m, err = s.GetLastMsgForSubject(ctx, subject)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", subject, err)
	}
	return m, nil
}

// originHeaders says where the message first stood.
func (d *Delivery) originHeaders(h nats.Header) {
	h.Set(event.HeaderOriginSubject, d.Subject)
	h.Set(event.HeaderOriginStream, d.Stream)
	h.Set(event.HeaderOriginSeq, strconv.FormatUint(d.Seq, 10))
	h.Set(event.HeaderOriginTime, d.StreamTime.UTC().Format(time.RFC3339Nano))
}

func (d *Delivery) sellerToken() string {
	if event.ValidSeller(d.Seller) {
		return d.Seller
	}
	return event.NoSeller
}
