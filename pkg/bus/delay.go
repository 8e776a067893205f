package bus

import (
	"context"
	"fmt"
	"strconv"
	"time"

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
	e := envelope{original: d.env.original, from: d.env.from, trace: d.Trace, delays: d.env.delays + 1}
	if d.Replay {
		e.sent, e.released, e.earlier = d.env.sent, d.Released, d.env.earlier
		e.sent.call = "" // only where it was sent to
	}
	m := e.message(subject, t.Data)
	m.Header.Set(jetstream.ScheduleHeader, "@at "+at.UTC().Format(time.RFC3339Nano))
	m.Header.Set(jetstream.ScheduleTargetHeader, event.RetrySubject(w.row.Name, sellerToken(d.Seller)))
	id := fmt.Sprintf("park/%s/%s/%d", w.row.Name, d.origin, e.delays)
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
	return w.b.purge(ctx, streamRetry, event.DelaySubject(w.row.Name, d.origin))
}

// sellerToken is the seller as a token of an internal subject.
func sellerToken(seller string) string {
	if event.ValidSeller(seller) {
		return seller
	}
	return event.NoSeller
}
