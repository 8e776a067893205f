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
	// settleLimit is how long storing events and settling may take after the handler. Heartbeats to the server continue
	// for HandlerLimit plus settleLimit, 40 s: longer than AckWait on purpose, and as long as the grace.
	settleLimit = 15 * time.Second
	// nakLimit is the longest pause inside the consumer. For longer ones the message is delayed on RETRY: one that
	// waits in the consumer counts against its limit of unacked messages.
	nakLimit = 10 * time.Second
	// throttleLimit is the longest pause of a seller whose messages all wait for the same, such as its quota: the cause may
	// go earlier than was said.
	throttleLimit = 10 * time.Second
	// brokenPause is the pause when the message is not to blame: the ledger or the store does not answer.
	brokenPause = 2 * time.Second
	// tickAttempt is the attempt whose pause a failed tick waits, some 16 s, and tickPause its longest pause; the next tick
	// replaces it.
	tickAttempt = 5
	tickPause   = time.Minute
)

// The outcomes of a message, as values of the metric's label.
const (
	outcomeDone     = "done"
	outcomeRetry    = "retry"
	outcomeWait     = "wait"
	outcomeHeld     = "held"
	outcomeDead     = "dead"
	outcomeReleased = "given_back"
	outcomeDropped  = "dropped"
)

// work handles a message and settles it. Errors are logged here and nowhere else.
func (w *server) work(t *inflight, d *Delivery) (outcome string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.hard), w.s.HandlerLimit+settleLimit)
	defer cancel()
	ctx, span := w.beginSpan(ctx, d)
	defer func() { endSpan(span, d, outcome) }()
	fields := w.b.log.With().Str("consumer", w.row.Name).Str("subject", d.Subject).Str("id", truncate(d.ID, 200)).Str("origin", d.origin)
	if id := trace.ID(d.Trace); id != "" {
		fields = fields.Str("trace_id", id)
	}
	log := fields.Logger()

	m, err := w.read(t, d)
	if d.key == "" && m != nil {
		d.key = event.KeyOf(m)
	}
	if d.key != "" {
		log = log.With().Str("order", truncate(d.key, 100)).Logger()
	}
	if err != nil {
		return w.unread(ctx, log, t, d, m, fault.Permanent(err))
	}
	if w.seats != nil && d.Seller != "" && w.sellerOf(t.Subject, d.Returned) == event.NoSeller {
		// Only the body names its seller, who has a seat for it too.
		leave, pause := w.seats.take(d.Seller, d.Returned)
		if leave == nil {
			t.nak(pause)
			return outcomeWait
		}
		defer leave()
	}
	if w.s.Paused != nil {
		if err := w.s.Paused(d.Seller); err != nil && !slices.Contains(d.Released, fault.Cause(err)) {
			if fault.Of(err) != fault.Held && !w.ticks() {
				return w.settle(ctx, log, t, d, m, err)
			}
			return w.reject(ctx, log, t, d, m, err)
		}
	}
	// A message that kills the process must not repeat for ever, so a run that may not be the first is counted before
	// it starts. That includes messages that were stored before this process started, even when the broker calls it a
	// first delivery: a broker that died with the worker, as the embedded one does, has forgotten its deliveries.
	if (!d.First || d.StreamTime.Before(w.startedAt)) && !w.ticks() {
		n, err := w.s.Attempts.Count(ctx, w.attemptsKey(d))
		if err != nil {
			log.Error().Err(err).Msg("cannot count the attempt; the message waits")
			t.nak(brokenPause)
			return outcomeWait
		}
		d.Attempt = n
		t.markCounted(w.attemptsKey(d))
		if n > w.s.MaxAttempts {
			return w.reject(ctx, log, t, d, m, &exhausted{n - 1, errNoEnd})
		}
	}

	events, err := w.call(log, span, d, m)
	if storeErr := w.b.publish(ctx, d.Trace, events, w.countIDTaken); storeErr != nil {
		if !causedByEvents(storeErr) {
			log.Error().Err(storeErr).Msg("cannot store the events; the message waits")
			w.uncountAttempt(ctx, log, t)
			t.nak(brokenPause)
			return outcomeWait
		}
		err = storeErr
	} else {
		if afterErr := safely(log, func() error { return d.Stored(ctx) }); afterErr != nil && err == nil {
			err = afterErr
		}
	}
	if w.ticks() {
		return w.settleTick(log, t, err)
	}
	return w.settle(ctx, log, t, d, m, err)
}

// countIDTaken counts an event whose message id another message had.
func (w *server) countIDTaken() { w.s.Metrics.idTaken.WithLabelValues(w.row.Name).Inc() }

// causedByEvents reports whether storing failed because of the events themselves (too large, say): waiting does not
// help then, and it counts as the handler's error. A missing permission is fixed by an operator, a connection recovers
// automatically.
func causedByEvents(err error) bool {
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

// safely turns a panic of f into an error: the message fails, the worker survives.
func safely(log zerolog.Logger, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = panicked{v}
		}
	}()
	return f()
}

// settle decides what becomes of a handled message. Its events are stored.
func (w *server) settle(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, m proto.Message, err error) string {
	if err == nil {
		w.forgetAttempts(ctx, log, t, d)
		t.ack()
		return outcomeDone
	}
	failSpan(ctx, err)
	if context.Cause(w.hard) != nil {
		// The shutdown ended the handler: its error comes from that.
		w.uncountAttempt(ctx, log, t)
		t.nak(0)
		return outcomeReleased
	}
	switch fault.Of(err) {
	case fault.Wait:
		w.uncountAttempt(ctx, log, t)
		after := max(fault.After(err), 10*time.Millisecond)
		log.Debug().Err(err).Dur("after", after).Msg("too early")
		if w.seats != nil && fault.Throttled(err) {
			w.seats.block(d.Seller, min(after/2, throttleLimit))
		}
		w.retryLater(ctx, log, t, d, after)
		return outcomeWait
	case fault.Held:
		w.uncountAttempt(ctx, log, t)
		return w.deadLetter(ctx, log, t, d, event.Held, err)
	case fault.Refused, fault.Unclear:
		w.forgetAttempts(ctx, log, t, d)
		return w.deadLetter(ctx, log, t, d, event.Dead, err)
	default:
		if !t.isCounted() {
			n, countErr := w.s.Attempts.Count(ctx, w.attemptsKey(d))
			if countErr != nil {
				log.Error().Err(countErr).Msg("cannot count the attempt; taken for the first")
				n = 1
			}
			d.Attempt = n
			t.markCounted(w.attemptsKey(d))
		}
		if d.Attempt >= w.s.MaxAttempts {
			return w.reject(ctx, log, t, d, m, &exhausted{d.Attempt, err})
		}
		after := max(w.s.Backoff(d.Attempt), 10*time.Millisecond)
		log.Warn().Err(err).Int("attempt", d.Attempt).Dur("after", after).Msg("to be tried again")
		w.retryLater(ctx, log, t, d, after)
		return outcomeRetry
	}
}

// settleTick is settle for ticks. The next tick of the same kind and seller replaces a waiting one.
func (w *server) settleTick(log zerolog.Logger, t *inflight, err error) string {
	class := fault.Of(err)
	switch {
	case err == nil:
		t.ack()
		return outcomeDone
	case context.Cause(w.hard) != nil:
		t.nak(0)
		return outcomeReleased
	case class == fault.Wait:
		log.Debug().Err(err).Msg("too early")
		t.nak(min(max(fault.After(err), 100*time.Millisecond), tickPause))
		return outcomeWait
	case class == fault.Transient && !errors.As(err, new(panicked)):
		log.Warn().Err(err).Msg("tick is retried")
		t.nak(min(w.s.Backoff(tickAttempt), tickPause))
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

// reject publishes the events of onReject for a message that is not, or no longer, handled, and dead-letters it.
func (w *server) reject(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, m proto.Message, err error) string {
	if w.ticks() {
		return w.settleTick(log, t, err)
	}
	failSpan(ctx, err)
	if !w.publishRejection(ctx, log, t, d, m, err) {
		return outcomeWait
	}
	kind := event.Dead
	if fault.Of(err) == fault.Held {
		kind = event.Held
		w.uncountAttempt(ctx, log, t)
	} else {
		// Before it becomes a dead letter: a crash in between gives it more attempts, and that is all. In the other
		// order, a message that is replayed before the broker redelivers it would be dead-lettered again, for attempts
		// that it has not used.
		w.forgetAttempts(ctx, log, t, d)
	}
	return w.deadLetter(ctx, log, t, d, kind, err)
}

// publishRejection publishes the events of onReject. It is false when they could not be stored and the message waits.
func (w *server) publishRejection(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, m proto.Message, err error) bool {
	events := w.rejectionEvents(log, d, m, err)
	storeErr := w.b.publish(ctx, d.Trace, events, w.countIDTaken)
	if storeErr == nil {
		return true
	}
	log.Error().Err(storeErr).Msg("cannot store the events about a message that is not handled")
	if causedByEvents(storeErr) {
		return true
	}
	w.uncountAttempt(ctx, log, t)
	t.nak(brokenPause)
	return false
}

func (w *server) rejectionEvents(log zerolog.Logger, d *Delivery, m proto.Message, err error) (events []event.Event) {
	_ = safely(log, func() error { // logged; the message becomes a dead letter all the same
		events = w.onReject(d, m, err)
		return nil
	})
	return events
}

// retryLater schedules the next attempt.
func (w *server) retryLater(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, after time.Duration) {
	if after <= nakLimit {
		t.nak(after)
		return
	}
	if err := w.delay(ctx, t, d, w.s.Now().Add(after)); err != nil {
		log.Error().Err(err).Msg("cannot delay the retry; the message stays in the consumer")
		t.nak(nakLimit)
		return
	}
	w.s.Metrics.delayed.WithLabelValues(w.row.Name).Inc()
	t.ack()
}

// deadLetter stores the message as a dead letter and acks it.
func (w *server) deadLetter(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, kind string, err error) string {
	if storeErr := w.putDeadLetter(ctx, t, d, kind, err); storeErr != nil {
		log.Error().Err(storeErr).AnErr("because", err).Msg("cannot dead-letter; the message waits")
		t.nak(brokenPause)
		return outcomeWait
	}
	class := fault.Of(err).String()
	w.s.Metrics.deadLettered.WithLabelValues(w.row.Name, kind, class).Inc()
	level := zerolog.WarnLevel
	if kind == event.Held {
		level = zerolog.InfoLevel // it is released automatically; a paused seller may hold thousands
	}
	log.WithLevel(level).Err(err).Str("kind", kind).Str("class", class).Int("attempt", d.Attempt).Msg("dead-lettered")
	t.ack()
	if kind == event.Held {
		return outcomeHeld
	}
	return outcomeDead
}

func (w *server) attemptsKey(d *Delivery) string { return w.row.Name + "/" + d.origin }

func (w *server) uncountAttempt(ctx context.Context, log zerolog.Logger, t *inflight) {
	key := t.takeCountedKey()
	if key == "" {
		return
	}
	if err := w.s.Attempts.Uncount(ctx, key); err != nil {
		log.Warn().Err(err).Msg("cannot take the attempt back")
	}
}

// forgetAttempts clears what earlier runs of this message left: the count, and a copy that was delayed right before a
// crash.
func (w *server) forgetAttempts(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery) {
	key := t.takeCountedKey()
	if key == "" {
		return
	}
	if err := w.s.Attempts.Forget(ctx, key); err != nil {
		log.Warn().Err(err).Msg("cannot forget the attempts")
	}
	if d.First {
		return
	}
	if err := w.cancelDelay(ctx, d); err != nil {
		log.Warn().Err(err).Msg("cannot remove the delayed copy; the message runs once more")
	}
}
