package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/trace"
)

// Handler handles one event and returns the events that follow. They are stored in any case, also when it returns an
// error beside them; then the functions given to AfterStored run; then the error is settled by its fault.Class. After a
// crash the handler runs again with the same event, so it must be idempotent. It must return when its ctx ends, which
// is after Serving.HandlerLimit.
type Handler[M proto.Message] func(ctx context.Context, d *Delivery, m M) ([]event.Event, error)

// Attempts counts runs per message; see ledger.Attempts.
type Attempts interface {
	Count(ctx context.Context, key string) (int, error)
	Uncount(ctx context.Context, key string) error
	Forget(ctx context.Context, key string) error
}

// ErrAttempts marks the error that onReject receives for a message that failed too often. It does not say that nothing
// was done: one of the runs may have had its effect, and only the handler's own records can say.
var ErrAttempts = errors.New("attempts used up")

// exhausted is the last error of a message that failed too often.
type exhausted struct {
	runs int
	last error
}

func (e *exhausted) Error() string {
	return fmt.Sprintf("%v after %d runs: %v", ErrAttempts, e.runs, e.last)
}

func (e *exhausted) Unwrap() []error {
	return []error{ErrAttempts, e.last, fault.Reason{
		Code: "attempts",
		ZH:   fmt.Sprintf("尝试 %d 次仍未成功：%v", e.runs, e.last),
		EN:   fmt.Sprintf("still failing after %d runs: %v", e.runs, e.last),
	}}
}

var errNoEnd = errors.New("the run never ended: a crash of the worker, or a handler that hangs")

// Delivery is everything known of a message besides its body.
type Delivery struct {
	// ID is the publisher's ce-id, else its Nats-Msg-Id, else "STREAM/seq". Publishers may repeat ids by mistake.
	ID       string
	Consumer string
	// Subject, Stream, Seq and StreamTime are the original event's, also after delays and replays.
	Subject    string
	Stream     string
	Seq        uint64
	StreamTime time.Time
	// Seller is the subject's suffix, else the seller inside the message.
	Seller string
	// First: the broker's first delivery of the original; neither retry nor replay.
	First bool
	// InLane: a lane delivers it for the first time. The main consumer may have delivered it before the lane was opened; then
	// First is false.
	InLane bool
	// Returned: it came through RETRY, as a retry or a replay.
	Returned bool
	// Attempt counts runs from 1. Runs that were too early, held or stopped by a shutdown do not count.
	Attempt int
	// Replay: it is a replayed dead letter (Bus.Replay), or was redelivered from its stream (Bus.Redeliver).
	Replay bool
	// Released are the causes that operators let this message pass, also before it waited for something else.
	Released []string
	// ReleasedAt is when an operator let it pass the cause last, by the broker's clock, for the last ten replays. Released
	// lasts; a release that counts once is compared with what happened since.
	ReleasedAt map[string]time.Time
	// Trace is the traceparent for the events that follow: that of this run where runs are traced, else that of the
	// message.
	Trace string

	// origin is the envelope's token.
	origin string
	// key is the CloudEvents subject.
	key string
	// env is the message's envelope; that of a new message holds its place and its headers.
	env   envelope
	after []func(context.Context) error
}

// AfterStored registers f to run when the returned events are stored and before the message is acked. An error of f
// counts as the handler's.
func (d *Delivery) AfterStored(f func(context.Context) error) { d.after = append(d.after, f) }

// Stored runs what AfterStored registered. The bus calls it; tests of handlers do in its place.
func (d *Delivery) Stored(ctx context.Context) error {
	var failed error
	for _, f := range d.after {
		if err := f(ctx); err != nil && failed == nil {
			failed = fmt.Errorf("after the events were stored: %w", err)
		}
	}
	return failed
}

// Serving says how a consumer is served. Zero values mean the defaults.
type Serving struct {
	// Consumer is the name of a consumer of the event served; see ConsumerOf.
	Consumer string
	// Slots is how many messages are handled concurrently; 32. Of what ERPs publish, as many more from lanes and as many
	// retries and replays are, and SeatsOf(Slots) of one seller.
	Slots int
	// Alone reports whether there is only one seller, which may then take all slots. Optional.
	Alone func() bool
	// HandlerLimit ends a handler's ctx; 25 s. It must stay below the consumer's AckWait (30 s).
	HandlerLimit time.Duration
	// Grace is how long Serve waits for handlers after its ctx ended; 40 s.
	Grace time.Duration
	// MaxAttempts is how many failed runs make a message a dead letter; 12.
	MaxAttempts int
	// Attempts is required, except for consumers of ticks.
	Attempts Attempts
	// Paused says whether a seller's events must wait: nil, or a fault.Hold. Optional.
	Paused func(seller string) error
	// Backoff is the pause after the nth failed run; by default from 1 s, doubling, at most 10 minutes, with jitter.
	Backoff func(attempt int) time.Duration
	// Metrics; optional.
	Metrics *Metrics
	// Fit is nil while the worker is fit to handle messages, else the reason why not. While it is unfit, nothing is
	// requested, and messages that still arrive are released unhandled. Fit is called often and must not do any I/O.
	// Optional.
	Fit func() error
	// Now is the broker's clock (Bus.Now); tests may replace it.
	Now func() time.Time

	laneTimes laneTimes
}

// Serve passes each message of a consumer, and its retries and replays, to handle, until ctx ends. Then it requests no
// more, lets handlers finish, releases after Grace what is still in flight, and returns nil. It returns an error when
// it cannot start or its consumer is gone.
//
// onReject returns the events to publish about a message that becomes a dead letter unhandled (unreadable, invalid, of
// a paused seller) or after its last attempt failed (ErrAttempts). m is a typed nil when the message cannot be read, or
// holds the fields that could be read if an ERP published it. err is the reason, with a fault.Reason where there is
// one. onReject may be nil.
func Serve[M proto.Message](ctx context.Context, b *Bus, topic event.Topic[M], s Serving, handle Handler[M], onReject func(d *Delivery, m M, err error) []event.Event) error {
	row := ConsumerOf(s.Consumer, topic)
	if s.Attempts == nil && !row.ticks() {
		return fmt.Errorf("serve %s: nothing counts its attempts", s.Consumer)
	}
	w := &server{b: b, s: s.withDefaults(b), row: row, topic: topic.Name}
	fact, _ := event.FactNamed(topic.Name)
	w.fromERP = fact.FromERP
	w.empty = func() proto.Message { return topic.New() }
	w.handle = func(ctx context.Context, d *Delivery, m proto.Message) ([]event.Event, error) {
		return handle(ctx, d, m.(M))
	}
	w.onReject = func(d *Delivery, m proto.Message, err error) []event.Event {
		if onReject == nil {
			return nil
		}
		typed, _ := m.(M)
		return onReject(d, typed, err)
	}
	if err := w.serve(ctx); err != nil {
		return fmt.Errorf("serve %s: %w", s.Consumer, err)
	}
	return nil
}

// RetrySlots is how many slots serve retries and replays, in addition to the given number for new messages, where sellers
// have no seats; and from how many each gets seats of its own for them, where they do.
func RetrySlots(slots int) int { return max(1, slots/4) }

func (s Serving) withDefaults(b *Bus) Serving {
	or := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	or(&s.HandlerLimit, 25*time.Second)
	or(&s.Grace, 40*time.Second)
	if s.Slots <= 0 {
		s.Slots = 32
	}
	if s.MaxAttempts <= 0 {
		s.MaxAttempts = 12
	}
	if s.Backoff == nil {
		s.Backoff = backoff
	}
	if s.Metrics == nil {
		s.Metrics = NewMetrics(nil)
	}
	if s.laneTimes == (laneTimes{}) {
		s.laneTimes = defaultLaneTimes()
	}
	if s.Alone == nil {
		s.Alone = func() bool { return false }
	}
	if s.Fit == nil {
		s.Fit = func() error { return nil }
	}
	if s.Now == nil {
		s.Now = b.Now
	}
	return s
}

// The pauses between two attempts of a message. What relies on their sum: Serving.MaxAttempts, and the runbooks that say
// for how long a worker retries.
const (
	firstPause   = time.Second
	longestPause = 10 * time.Minute
)

// backoff is firstPause, doubling to longestPause, each up to a fifth shorter or longer.
func backoff(attempt int) time.Duration {
	d := longestPause
	if doublings := max(attempt-1, 0); doublings < 9 {
		d = min(d, firstPause<<doublings)
	}
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d)) //nolint:gosec // jitter
}

// errShutdown is the cancel cause of handlers that exceed the grace period.
var errShutdown = errors.New("shutting down")

// statusRoom is how many statuses of the server may wait to be read, in addition to messages.
const statusRoom = 64

// server serves one consumer.
type server struct {
	b     *Bus
	s     Serving
	row   Consumer
	topic string
	// fromERP: an ERP publishes these messages, and must be answered also when one cannot be read.
	fromERP bool
	// empty, handle and onReject are Serve's, without the type parameter.
	empty    func() proto.Message
	handle   func(context.Context, *Delivery, proto.Message) ([]event.Event, error)
	onReject func(*Delivery, proto.Message, error) []event.Event

	ackWait   time.Duration
	startedAt time.Time
	// soft ends when no more messages are taken, hard when handlers must end too. They are kept here, against the rule,
	// because no caller owns them: they live exactly as long as serve.
	soft, hard context.Context
	mu         sync.Mutex
	inFlight   map[*inflight]struct{}
	garbage    garbage
	silent     atomic.Bool
	unfit      atomic.Bool
	// hold is how long a message is in a slot, a moving average in nanoseconds.
	hold atomic.Int64
	// seats and lanes keep sellers apart; nil for what is not from ERPs. laneSlots are those that all lanes share.
	seats     *seats
	lanes     *lanes
	laneSlots chan struct{}
}

func (w *server) ticks() bool { return w.row.ticks() }

func (w *server) serve(ctx context.Context) error {
	consumer, err := w.b.js.Consumer(ctx, w.row.Stream, w.row.Name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w; run bridgectl topology apply", ErrTopology)
	}
	if err != nil && ctx.Err() != nil {
		return nil // asked to stop before it started
	}
	if err != nil {
		return err
	}
	config := consumer.CachedInfo().Config
	if filters := filtersOf(config); !slices.Equal(filters, slices.Sorted(slices.Values(w.row.Filters))) {
		return fmt.Errorf("takes %s, not %s", strings.Join(filters, " "), w.row.Topic)
	}
	w.ackWait = config.AckWait
	w.inFlight = map[*inflight]struct{}{}
	w.s.Metrics.slots.WithLabelValues(w.row.Name).Set(float64(w.s.Slots))
	w.startedAt = w.b.Now()
	defer w.s.Metrics.backlog.add(w.b, w.row)()
	w.s.Metrics.idTaken.WithLabelValues(w.row.Name) // a counter whose first sample is 1 shows no increase

	var stop context.CancelCauseFunc
	w.soft, stop = context.WithCancelCause(ctx)
	defer stop(nil)
	var end context.CancelCauseFunc
	w.hard, end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)

	var slots, beating sync.WaitGroup
	beats, stopBeats := context.WithCancel(context.WithoutCancel(ctx))
	beating.Go(func() { w.beat(beats) })
	defer func() { stopBeats(); beating.Wait() }()
	open := func(stream, consumer string, h *hand) error {
		p, err := w.b.puller(stream, consumer, 2*(h.slots+h.ahead)+h.pass+statusRoom)
		if err != nil {
			return err
		}
		p.onSilence = w.logSilence
		slots.Go(func() { w.dispatch(p, h, stop) })
		return nil
	}
	retries, pass := RetrySlots(w.s.Slots), 0
	if w.row.lanes() {
		pass = maxPassBatch
		w.seats, w.lanes = newSeats(w.s.Slots, w.s.Alone), newLanes(w)
		w.laneSlots = make(chan struct{}, w.s.Slots)
		retries = w.s.Slots // seats bound each seller
		slots.Go(w.lanes.run)
	}
	err = open(w.row.Stream, w.row.Name, &hand{slots: w.s.Slots, ahead: w.ahead(), pass: pass})
	if err == nil && !w.ticks() {
		// Retries and replays have slots of their own, so that they and new messages cannot block each other.
		err = open(streamRetry, retryName(w.row.Name), &hand{slots: retries, retried: true})
	}
	if err != nil {
		stop(err)
	}
	<-w.soft.Done()

	done := make(chan struct{})
	go func() { slots.Wait(); w.garbage.writing.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(w.s.Grace):
		end(errShutdown)
		select {
		case <-done:
		case <-time.After(time.Second): // a handler that ignores its ctx
		}
		w.releaseInFlight()
	}
	if err := w.b.nc.FlushTimeout(2 * time.Second); err != nil {
		w.b.log.Debug().Err(err).Msg("cannot flush the acks; what they were for is redelivered")
	}
	if cause := context.Cause(w.soft); ctx.Err() == nil {
		return cause
	}
	return nil
}

func (w *server) logSilence(silent bool) {
	if w.silent.Swap(silent) == silent {
		return
	}
	if silent {
		w.b.log.Warn().Str("consumer", w.row.Name).Msg("the server no longer answers requests for messages; asking again")
	} else {
		w.b.log.Info().Str("consumer", w.row.Name).Msg("the server answers again")
	}
}

// hand is what one consumer's dispatch has in hand.
type hand struct {
	slots, ahead int
	// pass is how many more may be asked for while they are passed over; 0 where there are no lanes.
	pass    int
	retried bool

	n     atomic.Int64
	freed chan struct{}
	// passing is how many messages the next request asks for because nearly all of the last one were passed over; 0 when they
	// were not.
	passing int
}

// shortHold is how long a message is in a slot at most for more to be fetched than there are free slots: longer ones would
// wait here although another replica may be idle, and the round trip for the next request does not count beside them.
const shortHold = 50 * time.Millisecond

// fewSlots is up to how many slots nothing is fetched ahead of free ones: it pays where requests get many at a time.
const fewSlots = 8

// passBatch and maxPassBatch are how many messages are asked for while most are passed over, twice as many each time: while
// a server stores a flood, a request takes it 0.3 s, however many messages it is for. Those of other sellers among them wait
// for a slot.
const passBatch, maxPassBatch = 1024, 4096

// nextPass is how many messages to ask for after a request that got so many and passed so many over.
func nextPass(was, got, passed int) int {
	switch {
	case passed <= got*3/4:
		return 0
	case was == 0:
		return passBatch
	default:
		return min(2*was, maxPassBatch)
	}
}

// ahead is how many messages may be fetched ahead of free slots: their heartbeats keep them.
func (w *server) ahead() int {
	if w.ticks() || w.s.Slots <= fewSlots {
		return 0
	}
	return w.s.Slots
}

// room is how many messages may be fetched now. While messages are handled fast, it is none until half of what may wait
// ahead is used up, so that one request gets many.
func (w *server) room(h *hand) int {
	in := int(h.n.Load())
	if h.passing > 0 {
		return h.passing - in
	}
	if hold := time.Duration(w.hold.Load()); h.ahead == 0 || hold == 0 || hold > shortHold {
		return h.slots - in
	}
	if room := h.slots + h.ahead - in; room >= h.ahead/2 {
		return room
	}
	return 0
}

// dispatch hands messages to slots until soft ends. It fetches as many as there are free slots, and some ahead if these
// are soon free, and fetches again when these have arrived. It neither hands on nor holds a message whose seller has no
// seat.
func (w *server) dispatch(p *puller, h *hand, stop context.CancelCauseFunc) {
	work := make(chan *inflight, h.slots+h.ahead+h.pass)
	h.freed = make(chan struct{}, 1)
	var slots sync.WaitGroup
	for range h.slots {
		slots.Go(func() {
			for t := range work {
				w.process(t, h.retried)
				h.n.Add(-1)
				signal(h.freed)
			}
		})
	}
	for w.waitUntilFit() {
		room := w.room(h)
		if room <= 0 {
			select {
			case <-h.freed:
			case <-w.soft.Done():
			}
			continue
		}
		passed := 0
		got, err := p.fetch(w.soft, room, func(m *nats.Msg) {
			t, lane := w.receive(m, p, h.retried)
			switch {
			case t != nil:
				h.n.Add(1)
				work <- t
			case lane:
				passed++
			}
		})
		h.passing = nextPass(h.passing, got, passed)
		if err != nil && w.soft.Err() == nil {
			stop(err)
		}
	}
	close(work)
	w.drain(p)
	slots.Wait()
}

// drain releases what p received and nobody took.
func (w *server) drain(p *puller) {
	ctx, cancel := context.WithTimeout(w.hard, 5*time.Second)
	defer cancel()
	p.drain(ctx)
}

// receive takes a message in hand: from now on it has heartbeats. It returns nil for one that it settled at once, because
// a lane has it (passed) or its seller has no seat, and for one that is not from JetStream and cannot be acked.
func (w *server) receive(m *nats.Msg, p *puller, retried bool) (t *inflight, passed bool) {
	t = &inflight{Msg: m, b: w.b, epoch: p.epoch}
	var err error
	if t.meta, err = m.Metadata(); err != nil {
		w.b.log.Error().Err(err).Str("subject", t.Subject).Msg("message without metadata ignored")
		return nil, false
	}
	if w.seats != nil {
		if w.passOver(t, retried) {
			return nil, true
		}
		if !w.seat(t, retried) {
			return nil, false
		}
	}
	t.beats.next = time.Now().Add(min(firstBeat, w.ackWait/3))
	w.mu.Lock()
	w.inFlight[t] = struct{}{}
	w.mu.Unlock()
	return t, false
}

// fromMain reports whether the main consumer delivered the message, and no lane.
func (w *server) fromMain(t *inflight, retried bool) bool {
	return !retried && t.meta.Consumer == w.row.Name
}

// passOver acks a message unread that a lane delivers.
func (w *server) passOver(t *inflight, retried bool) bool {
	if !w.fromMain(t, retried) || !w.lanes.passes(t.Subject, t.meta.Sequence.Stream) {
		return false
	}
	t.ack()
	w.s.Metrics.passedOver.WithLabelValues(w.row.Name).Inc()
	return true
}

// seat takes a seat of the message's seller. Without one the message waits in its consumer until one is likely to be free,
// unless too many do: then it is delayed on RETRY, out of a slot, because that takes a write. A message of a lane, which
// fetches no more than there are seats, waits for its seat in hand.
func (w *server) seat(t *inflight, retried bool) bool {
	main, seq := w.fromMain(t, retried), t.meta.Sequence.Stream
	if !main && !retried {
		return true
	}
	leave, pause := w.seats.take(w.sellerOf(t.Subject, retried), retried)
	switch {
	case leave != nil:
		t.seat = leave
		if main {
			w.lanes.noteSeated(t.Subject, seq)
		}
		return true
	case main && w.lanes.noteWaiting(t.Subject, seq, pause):
		t.unseated = pause + nakLimit
		return true
	default:
		t.nak(pause)
		return false
	}
}

// delayUnseated delays a message on RETRY that found no seat, so that it does not wait in the consumer with too many.
func (w *server) delayUnseated(t *inflight) {
	d := w.delivery(t, false)
	d.Seller = w.sellerOf(t.Subject, false)
	ctx, cancel := context.WithTimeout(w.hard, settleLimit)
	defer cancel()
	if err := w.delay(ctx, t, d, w.s.Now().Add(t.unseated)); err != nil {
		w.b.log.Error().Err(err).Msg("cannot delay the message; it stays in the consumer")
		t.nak(nakLimit)
		return
	}
	w.s.Metrics.delayed.WithLabelValues(w.row.Name).Inc()
	t.ack()
}

// dispatchLane serves a lane until ctx ends: as many messages as its seller has seats, which take turns with those of the
// other lanes for the slots of all lanes.
func (w *server) dispatchLane(ctx context.Context, of lane) {
	p, err := w.b.puller(w.row.Stream, of.name, 2*w.s.Slots+statusRoom)
	if err != nil {
		w.b.log.Warn().Err(err).Str("lane", of.name).Msg("cannot listen to a lane")
		return
	}
	p.onSilence = w.logSilence
	seller := w.sellerOf(of.subject, false)
	var handlers sync.WaitGroup
	var waiting atomic.Int64 // for a seat
	for ctx.Err() == nil && w.waitUntilFit() {
		free, more, wait := w.seats.free(seller)
		if free -= int(waiting.Load()); free <= 0 {
			if wait <= 0 {
				wait = time.Minute
			}
			timer := time.NewTimer(wait)
			select {
			case <-more:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		_, err := p.fetch(ctx, free, func(m *nats.Msg) {
			t, _ := w.receive(m, p, false)
			if t == nil {
				return
			}
			t.lane = &of
			if t.seat, _ = w.seats.take(seller, false); t.seat == nil { // others of the seller took them meanwhile
				waiting.Add(1)
			}
			handlers.Go(func() {
				if t.seat == nil {
					t.seat = w.seats.wait(w.soft, seller) // nil after soft: process releases the message
					waiting.Add(-1)
				}
				w.laneSlots <- struct{}{} // channels are fair: no lane waits longer than another
				defer func() { <-w.laneSlots }()
				w.process(t, false)
			})
		})
		if err != nil && ctx.Err() == nil {
			w.b.log.Debug().Err(err).Str("lane", of.name).Msg("cannot pull from a lane")
			_ = sleep(ctx, w.s.laneTimes.look) // it was deleted, and the next list says so
		}
	}
	w.drain(p)
	handlers.Wait()
}

// unfitPause is how often an unfit worker checks whether it is fit again.
const unfitPause = time.Second

// waitUntilFit waits until messages may be handled; false when soft ends first.
func (w *server) waitUntilFit() bool {
	for w.soft.Err() == nil {
		if w.checkFit() == nil {
			return true
		}
		if sleep(w.soft, unfitPause) != nil {
			break
		}
	}
	return false
}

// checkFit calls Serving.Fit, and logs when the answer changes.
func (w *server) checkFit() error {
	err := w.s.Fit()
	if was := w.unfit.Swap(err != nil); was == (err != nil) {
		return err
	}
	if err != nil {
		w.b.log.Error().Err(err).Str("consumer", w.row.Name).Msg("takes no more messages until this is fixed")
	} else {
		w.b.log.Info().Str("consumer", w.row.Name).Msg("takes messages again")
	}
	return err
}

func (w *server) process(t *inflight, retried bool) {
	defer w.drop(t)
	if w.soft.Err() != nil {
		t.nak(0)
		return
	}
	if w.checkFit() != nil { // fetched before the worker became unfit
		t.nak(brokenPause)
		return
	}
	if t.unseated > 0 {
		w.delayUnseated(t)
		return
	}
	d := w.delivery(t, retried)
	began := time.Now()
	w.mu.Lock()
	t.beats.until = began.Add(w.s.HandlerLimit + settleLimit)
	w.mu.Unlock()
	flight := w.s.Metrics.inFlight.WithLabelValues(w.row.Name)
	flight.Inc()

	outcome := w.work(t, d)

	flight.Dec()
	took := time.Since(began)
	was := w.hold.Load()
	w.hold.Store(was + (int64(took)-was)/8) // lost updates do not matter
	w.s.Metrics.seconds.WithLabelValues(w.row.Name).Observe(took.Seconds())
	w.s.Metrics.handled.WithLabelValues(w.row.Name, outcome).Inc()
}

// drop lets go of a message that is settled.
func (w *server) drop(t *inflight) {
	w.mu.Lock()
	delete(w.inFlight, t)
	w.mu.Unlock()
	if t.seat != nil {
		t.seat()
	}
}

// releaseInFlight returns what is still in flight to the server.
func (w *server) releaseInFlight() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.hard), 2*time.Second)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.inFlight {
		w.uncountAttempt(ctx, w.b.log, t)
		t.release()
		w.b.log.Warn().Str("consumer", w.row.Name).Str("subject", t.Subject).Msg("handler did not end in time; message released")
	}
}

// delivery builds the Delivery of a message before its body is read. It trusts Bridge- headers only on RETRY (retried):
// on other streams anybody may have written them.
func (w *server) delivery(t *inflight, retried bool) *Delivery {
	own := placeOf(t.meta)
	e := envelope{original: t.Header, from: origin{t.Subject, own, true}}
	if retried {
		e = decodeRetry(t.Header, t.Subject, own)
	}
	d := &Delivery{
		Consumer: w.row.Name, Subject: e.from.subject, Stream: e.from.place.Stream, Seq: e.from.place.Seq, StreamTime: e.from.place.Stored,
		First:  t.meta.NumDelivered == 1 && !retried && (t.lane == nil || t.lane.firstOf(own.Seq)),
		InLane: t.lane != nil && t.meta.NumDelivered == 1, Returned: retried, Attempt: 1,
		Replay: e.sent.replayed != 0 || e.sent.round != 0, Released: e.released, ReleasedAt: releasedAt(e.earlier), env: e, origin: e.token(),
	}
	d.ID = headerOf(d.env.original, event.HeaderID)
	if d.ID == "" {
		d.ID = d.env.original.Get(jetstream.MsgIDHeader)
	}
	if d.ID == "" {
		d.ID = d.Stream + "/" + strconv.FormatUint(d.Seq, 10)
	}
	d.key = headerOf(d.env.original, event.HeaderSubject)
	d.Trace = trace.Format(trace.Parse(headerOf(d.env.original, event.HeaderTrace)))
	return d
}

// placeOf is where a message was stored that the server delivered.
func placeOf(meta *nats.MsgMetadata) Place {
	return Place{meta.Stream, meta.Sequence.Stream, meta.Timestamp}
}

// read decodes a message and validates it. For an unreadable message m is nil, or holds what could be read if an ERP
// published it: whose it is.
func (w *server) read(t *inflight, d *Delivery) (proto.Message, error) {
	suffix, subjectErr := event.SellerOn(w.topic, d.Subject)
	d.Seller = suffix
	if size := headersSize(t.Header); size > maxHeaders {
		return nil, fault.Reason{
			Code: "headers.toolarge",
			ZH:   fmt.Sprintf("消息头共 %d 字节，最多 %d 字节", size, maxHeaders),
			EN:   fmt.Sprintf("headers of %d bytes, at most %d", size, maxHeaders),
		}
	}
	m := w.empty()
	readable, wrong, err := decodeAndValidate(d.env.original, t.Data, m)
	inside := event.SellerIn(m)
	if suffix == "" && event.ValidSeller(inside) {
		d.Seller = inside
	}
	switch {
	case err != nil:
		return m, err
	case !readable && (!w.fromERP || inside == "" && suffix == ""):
		return nil, joinReasons(wrong)
	case !readable:
		return m, joinReasons(wrong)
	}
	if subjectErr != nil {
		return m, fault.Reason{Code: "subject.invalid", ZH: "主题不合规：" + truncate(d.Subject, 200), EN: subjectErr.Error()}
	}
	if len(wrong) > 0 {
		return m, joinReasons(wrong)
	}
	if suffix != "" && inside != suffix {
		return m, fault.Reason{
			Code: "seller.mismatch", Field: "seller",
			ZH: fmt.Sprintf("正文中的商家 %q 与主题后缀 %q 不一致", inside, suffix),
			EN: fmt.Sprintf("seller %q inside, but the subject ends in %q", inside, suffix),
		}
	}
	return m, nil
}
