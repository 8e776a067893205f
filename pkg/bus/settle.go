package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/trace"
)

const (
	// settleLimit is how long storing events and settling may take after the handler. Heartbeats to the server go on for
	// HandlerLimit and settleLimit together, 40 s: longer than AckWait on purpose, and as long as the grace.
	settleLimit = 15 * time.Second
	// nakLimit is the longest pause inside the consumer. Longer ones are parked: a message that waits there counts
	// against the consumer's limit of unacked ones.
	nakLimit = 10 * time.Second
	// brokenPause is the pause when it is not the message's fault: the ledger or the store does not answer.
	brokenPause = 2 * time.Second
	// tickPause is the longest pause before a failed tick is tried again; the next tick replaces it.
	tickPause = time.Minute
)

// What became of a message, as metrics tell it.
const (
	outcomeDone    = "done"
	outcomeRetry   = "retry"
	outcomeWait    = "wait"
	outcomeHeld    = "held"
	outcomeDead    = "dead"
	outcomeBack    = "given_back"
	outcomeDropped = "dropped"
)

// work handles a message and settles it. Errors are logged here and nowhere else.
func (w *server) work(t *taken, d *Delivery) (outcome string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.hard), w.s.HandlerLimit+settleLimit)
	defer cancel()
	ctx, span := w.beginSpan(ctx, d)
	defer func() { endSpan(span, d, outcome) }()
	fields := w.b.log.With().Str("consumer", w.row.name).Str("subject", d.Subject).Str("id", cut(d.ID, 200)).Str("origin", d.origin)
	if id := trace.ID(d.Trace); id != "" {
		fields = fields.Str("trace_id", id)
	}
	log := fields.Logger()

	m, err := w.read(t, d)
	if d.key == "" && m != nil {
		d.key = event.KeyOf(m)
	}
	if d.key != "" {
		log = log.With().Str("order", cut(d.key, 100)).Logger()
	}
	if err != nil {
		return w.refuse(ctx, log, t, d, m, fault.Permanent(err))
	}
	if w.s.Paused != nil {
		if err := w.s.Paused(d.Seller); err != nil && !slices.Contains(d.Released, fault.Cause(err)) {
			if fault.Of(err) != fault.Held && !w.ticks() {
				return w.settle(ctx, log, t, d, m, err)
			}
			return w.refuse(ctx, log, t, d, m, err)
		}
	}
	// A message that kills the process must not come back for ever, so whatever may have run before is counted before it
	// runs. That includes what was stored before this process began, even when the broker calls it a first delivery: a
	// broker that was killed along with us, as the embedded one is, has forgotten its deliveries.
	if (!d.First || d.StreamTime.Before(w.began)) && !w.ticks() {
		n, err := w.s.Attempts.Count(ctx, w.attemptsKey(d))
		if err != nil {
			log.Error().Err(err).Msg("cannot count the attempt; the message waits")
			t.nak(brokenPause)
			return outcomeWait
		}
		d.Attempt = n
		t.count(w.attemptsKey(d))
		if n > w.s.MaxAttempts {
			return w.refuse(ctx, log, t, d, m, &exhausted{n - 1, errNoEnd})
		}
	}

	events, err := w.call(log, span, d, m)
	if storeErr := w.b.publish(ctx, d.Trace, events, w.taken); storeErr != nil {
		if !ofTheMessage(storeErr) {
			log.Error().Err(storeErr).Msg("cannot store the events; the message waits")
			w.uncount(ctx, log, t)
			t.nak(brokenPause)
			return outcomeWait
		}
		err = storeErr
	} else {
		for _, f := range d.after {
			if afterErr := safely(log, func() error { return f(ctx) }); afterErr != nil && err == nil {
				err = fmt.Errorf("after the events were stored: %w", afterErr)
			}
		}
	}
	if w.ticks() {
		return w.settleTick(log, t, err)
	}
	return w.settle(ctx, log, t, d, m, err)
}

// taken counts an event whose message id another message had.
func (w *server) taken() { w.s.Metrics.taken.WithLabelValues(w.row.name).Inc() }

// ofTheMessage tells whether storing events failed because of the events themselves (too large, say): then waiting does
// not mend it, and it counts as the handler's error. A permission is mended by an operator, a connection by itself.
func ofTheMessage(err error) bool {
	return !repeatable(err) && !errors.Is(err, ErrPermission) && !errors.Is(err, nats.ErrConnectionClosed)
}

// panicked is a handler's panic as an error.
type panicked struct{ value any }

func (p panicked) Error() string { return fmt.Sprintf("handler panicked: %v", p.value) }

func (w *server) call(log zerolog.Logger, span oteltrace.Span, d *Delivery, m proto.Message) (events []event.Event, err error) {
	ctx, cancel := context.WithTimeout(w.hard, w.s.HandlerLimit)
	defer cancel()
	err = safely(log, func() error {
		ctx := log.WithContext(ctx)
		if span.IsRecording() {
			ctx = oteltrace.ContextWithSpan(ctx, span)
		}
		events, err = w.handle(ctx, d, m)
		return err
	})
	return events, err
}

// safely makes a panic of f an error: a message that panics fails, the worker does not.
func safely(log zerolog.Logger, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = panicked{v}
		}
	}()
	return f()
}

// settle decides what becomes of a message that was handled. Its events are stored.
func (w *server) settle(ctx context.Context, log zerolog.Logger, t *taken, d *Delivery, m proto.Message, err error) string {
	if err == nil {
		w.forget(ctx, log, t, d)
		t.ack()
		return outcomeDone
	}
	failSpan(ctx, err)
	if context.Cause(w.hard) != nil {
		// We ended the handler at a shutdown: whatever error it returns comes from that.
		w.uncount(ctx, log, t)
		t.nak(0)
		return outcomeBack
	}
	switch fault.Of(err) {
	case fault.Wait:
		w.uncount(ctx, log, t)
		after := max(fault.After(err), 10*time.Millisecond)
		log.Debug().Err(err).Dur("after", after).Msg("too early")
		w.later(ctx, log, t, d, after)
		return outcomeWait
	case fault.Held:
		w.uncount(ctx, log, t)
		return w.shelve(ctx, log, t, d, event.Held, err)
	case fault.Refused, fault.Unclear:
		w.forget(ctx, log, t, d)
		return w.shelve(ctx, log, t, d, event.Dead, err)
	default:
		if !t.isCounted() {
			n, countErr := w.s.Attempts.Count(ctx, w.attemptsKey(d))
			if countErr != nil {
				log.Error().Err(countErr).Msg("cannot count the attempt; taken for the first")
				n = 1
			}
			d.Attempt = n
			t.count(w.attemptsKey(d))
		}
		if d.Attempt >= w.s.MaxAttempts {
			return w.refuse(ctx, log, t, d, m, &exhausted{d.Attempt, err})
		}
		after := max(w.s.Backoff(d.Attempt), 10*time.Millisecond)
		log.Warn().Err(err).Int("attempt", d.Attempt).Dur("after", after).Msg("to be tried again")
		w.later(ctx, log, t, d, after)
		return outcomeRetry
	}
}

// settleTick is settle for ticks. The next tick of the same kind and seller takes the place of one that waits.
func (w *server) settleTick(log zerolog.Logger, t *taken, err error) string {
	class := fault.Of(err)
	switch {
	case err == nil:
		t.ack()
		return outcomeDone
	case context.Cause(w.hard) != nil:
		t.nak(0)
		return outcomeBack
	case class == fault.Wait:
		log.Debug().Err(err).Msg("too early")
		t.nak(min(max(fault.After(err), 100*time.Millisecond), tickPause))
		return outcomeWait
	case class == fault.Transient && !errors.As(err, new(panicked)):
		log.Warn().Err(err).Msg("tick to be tried again")
		t.nak(min(w.s.Backoff(5), tickPause))
		return outcomeRetry
	case class == fault.Held:
		log.Debug().Err(err).Msg("tick held; the next one comes")
		t.ack()
		return outcomeHeld
	default:
		log.Error().Err(err).Msg("tick failed; the next one comes")
		t.ack()
		return outcomeDropped
	}
}

// refuse tells of a message that is not handled (any more), and shelves it.
func (w *server) refuse(ctx context.Context, log zerolog.Logger, t *taken, d *Delivery, m proto.Message, err error) string {
	if w.ticks() {
		return w.settleTick(log, t, err)
	}
	failSpan(ctx, err)
	events := w.tell(log, d, m, err)
	if storeErr := w.b.publish(ctx, d.Trace, events, w.taken); storeErr != nil {
		log.Error().Err(storeErr).Msg("cannot store what is told of a message that is not handled")
		if !ofTheMessage(storeErr) {
			w.uncount(ctx, log, t)
			t.nak(brokenPause)
			return outcomeWait
		}
	}
	kind := event.Dead
	if fault.Of(err) == fault.Held {
		kind = event.Held
		w.uncount(ctx, log, t)
	} else {
		// Before it is on the shelf: a crash in between gives it more attempts, which is all. The other way round, one that is
		// replayed from the shelf before the broker redelivers it would be shelved again for attempts it no longer lacks.
		w.forget(ctx, log, t, d)
	}
	return w.shelve(ctx, log, t, d, kind, err)
}

func (w *server) tell(log zerolog.Logger, d *Delivery, m proto.Message, err error) (events []event.Event) {
	_ = safely(log, func() error { // logged; the message is shelved all the same
		events = w.unserved(d, m, err)
		return nil
	})
	return events
}

// later brings the message back after a while.
func (w *server) later(ctx context.Context, log zerolog.Logger, t *taken, d *Delivery, after time.Duration) {
	if after <= nakLimit {
		t.nak(after)
		return
	}
	if err := w.park(ctx, t, d, w.s.Now().Add(after)); err != nil {
		log.Error().Err(err).Msg("cannot park; the message stays in the consumer")
		t.nak(nakLimit)
		return
	}
	w.s.Metrics.parked.WithLabelValues(w.row.name).Inc()
	t.ack()
}

// shelve puts the message on the shelf and acks it.
func (w *server) shelve(ctx context.Context, log zerolog.Logger, t *taken, d *Delivery, kind string, err error) string {
	if shelfErr := w.putOnShelf(ctx, t, d, kind, err); shelfErr != nil {
		log.Error().Err(shelfErr).AnErr("because", err).Msg("cannot shelve; the message waits")
		t.nak(brokenPause)
		return outcomeWait
	}
	class := fault.Of(err).String()
	w.s.Metrics.shelved.WithLabelValues(w.row.name, kind, class).Inc()
	level := zerolog.WarnLevel
	if kind == event.Held {
		level = zerolog.InfoLevel // it goes on by itself; a paused seller may hold thousands
	}
	log.WithLevel(level).Err(err).Str("kind", kind).Str("class", class).Int("attempt", d.Attempt).Msg("shelved")
	t.ack()
	if kind == event.Held {
		return outcomeHeld
	}
	return outcomeDead
}

func (w *server) attemptsKey(d *Delivery) string { return w.row.name + "/" + d.origin }

func (w *server) uncount(ctx context.Context, log zerolog.Logger, t *taken) {
	key := t.uncounted()
	if key == "" {
		return
	}
	if err := w.s.Attempts.Uncount(ctx, key); err != nil {
		log.Warn().Err(err).Msg("cannot take the attempt back")
	}
}

// forget clears what earlier runs of this message left: the count, and a copy that was parked right before a crash.
func (w *server) forget(ctx context.Context, log zerolog.Logger, t *taken, d *Delivery) {
	key := t.uncounted()
	if key == "" {
		return
	}
	if err := w.s.Attempts.Forget(ctx, key); err != nil {
		log.Warn().Err(err).Msg("cannot forget the attempts")
	}
	if d.First {
		return
	}
	if err := w.unpark(ctx, d); err != nil {
		log.Warn().Err(err).Msg("cannot remove the parked copy; the message runs once more")
	}
}
