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

// delay stores the message as a schedule that delivers it again at the given time.
//
// Each delayed message has a subject of its own, because only the last of two schedules on one subject fires. The
// subject is made from where the original was stored and not from its ce-id, which a publisher may use twice. The
// message id counts the delays: under the id of an earlier one the copy would count as a duplicate and not be stored.
// The time is formatted here because the library's helper cuts it to whole seconds.
func (w *server) delay(ctx context.Context, t *inflight, d *Delivery, at time.Time) error {
	subject := event.DelaySubject(w.row.Name, d.origin)
	m := nats.NewMsg(subject)
	m.Data = t.Data
	m.Header = wrapHeaders(d.header)
	d.keepTrace(m.Header)
	d.originHeaders(m.Header)
	m.Header.Set(event.HeaderDelays, strconv.Itoa(d.delays+1))
	if d.Replay {
		if d.replayed != 0 {
			m.Header.Set(event.HeaderReplay, strconv.FormatUint(d.replayed, 10))
		}
		if d.redelivery != 0 {
			m.Header.Set(event.HeaderRedelivered, strconv.Itoa(d.redelivery))
		}
		setValues(m.Header, event.HeaderReleased, d.Released)
		setNonEmpty(m.Header, event.HeaderBy, d.by)
		setNonEmpty(m.Header, event.HeaderWhy, d.why)
		setValues(m.Header, event.HeaderEarlier, d.earlier)
	}
	m.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano))
	m.Header.Set(jetstream.ScheduleTargetHeader, event.RetrySubject(w.row.Name, d.sellerToken()))
	id := fmt.Sprintf("park/%s/%s/%d", w.row.Name, d.origin, d.delays+1)
	m.Header.Set(jetstream.MsgIDHeader, id)
	acks, err := w.b.store(ctx, m)
	if err != nil || !acks[0].Duplicate {
		return err
	}
	// An earlier run delayed the message before a crash. A copy that still waits is as good as this one. If it has
	// fired, its retry may be over already, without this run knowing: delay again rather than lose the message.
	waiting, err := w.b.lastMessage(ctx, streamRetry, subject)
	if err != nil || waiting != nil {
		return err
	}
	m.Header.Set(jetstream.MsgIDHeader, id+"/"+strconv.FormatInt(at.UnixNano(), 36))
	_, err = w.b.store(ctx, m)
	return err
}

// cancelDelay removes a delayed copy, if there is one.
func (w *server) cancelDelay(ctx context.Context, d *Delivery) error {
	return withRetry(ctx, func(ctx context.Context) error {
		s, err := w.b.js.Stream(ctx, streamRetry)
		if err != nil {
			return err
		}
		return s.Purge(ctx, jetstream.WithPurgeSubject(event.DelaySubject(w.row.Name, d.origin)))
	})
}

// lastMessage reads the newest message on subject from the stream's leader; nil when there is none.
func (b *Bus) lastMessage(ctx context.Context, stream, subject string) (*jetstream.RawStreamMsg, error) {
	var m *jetstream.RawStreamMsg
	err := withRetry(ctx, func(ctx context.Context) error {
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
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return m, nil
}

// originHeaders records where the original is stored.
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
