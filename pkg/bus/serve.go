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

// Handler takes one event and returns those that follow. They are stored in any case, also when it returns an error
// beside them; then what it gave to AfterStored runs; then the error is settled by its fault.Class. After a crash it is
// run again with the same event, so repeating itself must do no harm. It must return when its ctx ends, which is after
// Serving.HandlerLimit.
type Handler[M proto.Message] func(ctx context.Context, d *Delivery, m M) ([]event.Event, error)

// Attempts counts runs per message; see ledger.Attempts.
type Attempts interface {
	Count(ctx context.Context, key string) (int, error)
	Uncount(ctx context.Context, key string) error
	Forget(ctx context.Context, key string) error
}

// ErrAttempts marks what unserved is told of a message that failed too often. It does not say that nothing was done: one
// of the runs may have had its effect, and only the handler's own records can tell.
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

// Delivery is what is known of a message besides its body.
type Delivery struct {
	// ID is the publisher's ce-id, else its Nats-Msg-Id, else "STREAM/seq". Publishers may repeat ids by mistake.
	ID       string
	Consumer string
	// Subject, Stream, Seq and StreamTime are those of the original event, also after parks and replays.
	Subject    string
	Stream     string
	Seq        uint64
	StreamTime time.Time
	// Seller in the subject's suffix, else the one inside the message.
	Seller string
	// First: the broker delivers the original for the first time; no retry, no replay.
	First bool
	// Returned: it came back from a park or from the shelf, and holds one of the slots that are for these (RetrySlots).
	Returned bool
	// Attempt counts runs from 1. Runs that were only too early, held or stopped by a shutdown do not count.
	Attempt int
	// Replay: it was sent again from the shelf (Bus.Replay), or from its stream (Bus.Again).
	Replay bool
	// Released are the causes past which operators let this message go, also before it waited for something else.
	Released []string
	// Trace is the traceparent of what follows: of this run where runs are traced, else the one it came with.
	Trace string

	// origin names the original by stream, number and time of storing, as one token of a subject. The time keeps apart two
	// messages that were given the same number, the second after the stream was restored from an older copy.
	origin string
	// key is the CloudEvents subject.
	key string
	// parks is how often it was parked; replayed the number on the shelf that it was replayed from, 0 when it was not; again
	// the round in which it was sent again from its stream, 0 when it was not; by whom and why.
	parks    int
	replayed uint64
	again    int
	by, why  string
	// earlier is where it stood before it was replayed (Earlier).
	earlier []string
	header  nats.Header
	after   []func(context.Context) error
}

// AfterStored lets f run when the returned events are stored and before the message is acked. An error of f counts as
// the handler's.
func (d *Delivery) AfterStored(f func(context.Context) error) { d.after = append(d.after, f) }

// Serving is how a consumer is served. Zero values mean the defaults.
type Serving struct {
	// Consumer is a name of the topology's.
	Consumer string
	// Slots is how many messages are handled at a time; 32.
	Slots int
	// HandlerLimit ends a handler's ctx; 25 s. It must stay below the consumer's AckWait (30 s).
	HandlerLimit time.Duration
	// Grace is how long Serve waits for handlers after its ctx ended; 40 s.
	Grace time.Duration
	// MaxAttempts is after how many failed runs a message goes to the shelf; 12.
	MaxAttempts int
	// Attempts is required, except for consumers of ticks.
	Attempts Attempts
	// Paused tells whether a seller's events wait: nil, or a fault.Hold. Optional.
	Paused func(seller string) error
	// Backoff is the pause after the nth failed run; by default from 1 s, doubling, at most 10 minutes, with jitter.
	Backoff func(attempt int) time.Duration
	// Metrics; optional.
	Metrics *Metrics
	// Fit is nil while messages may be taken, else why not. While it is not, nothing is asked for, and what comes all the same
	// is given back unhandled. It is asked often and must not ask anybody itself. Optional.
	Fit func() error
	// Now is the broker's clock (Bus.Now) unless a test says otherwise.
	Now func() time.Time
}

// Serve hands each message of a consumer, and what comes back to it from parks and replays, to handle, until ctx ends.
// It then takes no more, lets handlers finish, gives back what is left after Grace, and returns nil. It returns an
// error when it cannot start or its consumer is gone.
//
// unserved is asked what to tell of a message that is shelved without being handled (unreadable, invalid, of a paused
// seller) or after its last attempt failed (ErrAttempts). m is a typed nil when it cannot be read, or, of an ERP's, what could be read of it. err says why, with
// a fault.Reason where there is one. unserved may be nil.
func Serve[M proto.Message](ctx context.Context, b *Bus, topic event.Topic[M], s Serving, handle Handler[M], unserved func(d *Delivery, m M, err error) []event.Event) error {
	row, err := s.check(topic.Name)
	if err != nil {
		return fmt.Errorf("serve %s: %w", s.Consumer, err)
	}
	w := &server{b: b, s: s.withDefaults(b), row: row, topic: topic.Name}
	w.fromERP = slices.ContainsFunc(event.Facts(), func(f event.Fact) bool { return f.Name == topic.Name && f.FromERP })
	w.empty = func() proto.Message { return topic.New() }
	w.handle = func(ctx context.Context, d *Delivery, m proto.Message) ([]event.Event, error) {
		return handle(ctx, d, m.(M))
	}
	w.unserved = func(d *Delivery, m proto.Message, err error) []event.Event {
		if unserved == nil {
			return nil
		}
		typed, _ := m.(M)
		return unserved(d, typed, err)
	}
	if err := w.serve(ctx); err != nil {
		return fmt.Errorf("serve %s: %w", s.Consumer, err)
	}
	return nil
}

func (s Serving) check(topic string) (consumerRow, error) {
	for _, row := range consumers {
		if row.name != s.Consumer {
			continue
		}
		switch {
		case row.topic != topic:
			return row, fmt.Errorf("takes %s, not %s", row.topic, topic)
		case s.Attempts == nil && row.stream != streamTicks:
			return row, errors.New("nothing counts its attempts")
		}
		return row, nil
	}
	return consumerRow{}, errors.New("no such consumer in the topology")
}

// RetrySlots is how many slots there are, beside so many others, for what comes back from parks and from the shelf.
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
	if s.Fit == nil {
		s.Fit = func() error { return nil }
	}
	if s.Now == nil {
		s.Now = b.Now
	}
	return s
}

// backoff is 1 s, doubling to 10 minutes, each up to a fifth shorter or longer.
func backoff(attempt int) time.Duration {
	d := 10 * time.Minute
	if attempt < 10 {
		d = min(d, time.Second<<max(attempt-1, 0))
	}
	return d + time.Duration((rand.Float64()-0.5)*0.4*float64(d)) //nolint:gosec // jitter
}

// errShutdown is the cause with which handlers are ended that outlast the grace.
var errShutdown = errors.New("shutting down")

// statusRoom is how many of the server's statuses may wait to be read, besides messages.
const statusRoom = 64

// server serves one consumer.
type server struct {
	b     *Bus
	s     Serving
	row   consumerRow
	topic string
	// fromERP: its messages are an ERP's, who may have to be told that one cannot be read.
	fromERP bool
	// empty, handle and unserved are those of Serve without their type parameter.
	empty    func() proto.Message
	handle   func(context.Context, *Delivery, proto.Message) ([]event.Event, error)
	unserved func(*Delivery, proto.Message, error) []event.Event

	ackWait time.Duration
	began   time.Time
	// soft ends when no more is taken, hard when handlers are ended too. They are kept here, against the rule, because they
	// are not a caller's: they live exactly as long as serve.
	soft, hard context.Context
	mu         sync.Mutex
	inHand     map[*taken]struct{}
	silent     atomic.Bool
	unfit      atomic.Bool
}

// ticks come again by themselves: they are neither parked nor shelved.
func (w *server) ticks() bool { return w.row.stream == streamTicks }

func (w *server) serve(ctx context.Context) error {
	consumer, err := w.b.js.Consumer(ctx, w.row.stream, w.row.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w; run bridgectl topology apply", ErrTopology)
	}
	if err != nil && ctx.Err() != nil {
		return nil // asked to stop before it began
	}
	if err != nil {
		return err
	}
	w.ackWait = consumer.CachedInfo().Config.AckWait
	w.inHand = map[*taken]struct{}{}
	w.began = w.b.Now()
	defer w.s.Metrics.backlog.serves(w.b, w.row)()
	w.s.Metrics.taken.WithLabelValues(w.row.name) // a counter that is first seen at 1 never grew

	var stop context.CancelCauseFunc
	w.soft, stop = context.WithCancelCause(ctx)
	defer stop(nil)
	var end context.CancelCauseFunc
	w.hard, end = context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)

	var slots sync.WaitGroup
	open := func(stream, consumer string, n int, retried bool) error {
		p, err := w.b.puller(stream, consumer, 2*n+statusRoom)
		if err != nil {
			return err
		}
		p.silent = w.noteSilence
		slots.Go(func() { w.deal(p, n, retried, stop) })
		return nil
	}
	err = open(w.row.stream, w.row.name, w.s.Slots, false)
	if err == nil && !w.ticks() {
		// Retries and replays have slots of their own, so that they and new messages cannot hold each other up.
		err = open(streamRetry, retryName(w.row.name), RetrySlots(w.s.Slots), true)
	}
	if err != nil {
		stop(err)
	}
	<-w.soft.Done()

	done := make(chan struct{})
	go func() { slots.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(w.s.Grace):
		end(errShutdown)
		select {
		case <-done:
		case <-time.After(time.Second): // a handler that does not listen to its ctx
		}
		w.giveBack()
	}
	if err := w.b.nc.FlushTimeout(2 * time.Second); err != nil {
		w.b.log.Debug().Err(err).Msg("cannot flush the acks; what they were for is redelivered")
	}
	if cause := context.Cause(w.soft); ctx.Err() == nil {
		return cause
	}
	return nil
}

func (w *server) noteSilence(silent bool) {
	if w.silent.Swap(silent) == silent {
		return
	}
	if silent {
		w.b.log.Warn().Str("consumer", w.row.name).Msg("the server no longer answers requests for messages; asking again")
	} else {
		w.b.log.Info().Str("consumer", w.row.name).Msg("the server answers again")
	}
}

// deal hands messages to n slots until soft ends. It asks for as many as there are idle slots, so that no message waits
// for one, and again when those came.
func (w *server) deal(p *puller, n int, retried bool, stop context.CancelCauseFunc) {
	work, idle := make(chan *taken), make(chan struct{}, n)
	var slots sync.WaitGroup
	for range n {
		idle <- struct{}{}
		slots.Go(func() {
			for t := range work {
				w.take(t, retried)
				idle <- struct{}{}
			}
		})
	}
	for w.fit() {
		free := w.idle(idle)
		if free == 0 {
			break
		}
		got, err := p.some(w.soft, free, func(m *nats.Msg) { work <- &taken{Msg: m, b: w.b, life: p.life} })
		for range free - got {
			idle <- struct{}{}
		}
		if err != nil && w.soft.Err() == nil {
			stop(err)
		}
	}
	close(work)
	ctx, cancel := context.WithTimeout(w.hard, 5*time.Second)
	defer cancel()
	p.drain(ctx)
	slots.Wait()
}

// unfitPause is how often one who may take nothing looks whether that is over.
const unfitPause = time.Second

// fit waits until messages may be taken; false when soft ends first.
func (w *server) fit() bool {
	for w.soft.Err() == nil {
		if w.noteFit() == nil {
			return true
		}
		if sleep(w.soft, unfitPause) != nil {
			break
		}
	}
	return false
}

// noteFit is Serving.Fit, and says so when that changes.
func (w *server) noteFit() error {
	err := w.s.Fit()
	if was := w.unfit.Swap(err != nil); was == (err != nil) {
		return err
	}
	if err != nil {
		w.b.log.Error().Err(err).Str("consumer", w.row.name).Msg("takes no more messages until this is mended")
	} else {
		w.b.log.Info().Str("consumer", w.row.name).Msg("takes messages again")
	}
	return err
}

// idle waits for idle slots and takes all there are: none when soft ends first.
func (w *server) idle(slots <-chan struct{}) (n int) {
	select {
	case <-slots:
		n++
	case <-w.soft.Done():
		return 0
	}
	for {
		select {
		case <-slots:
			n++
		default:
			return n
		}
	}
}

func (w *server) take(t *taken, retried bool) {
	if w.soft.Err() != nil {
		t.nak(0)
		return
	}
	if w.noteFit() != nil { // it was asked for before
		t.nak(brokenPause)
		return
	}
	d, err := w.delivery(t, retried)
	if err != nil { // not from JetStream: cannot be answered
		w.b.log.Error().Err(err).Str("subject", t.Subject).Msg("message without metadata passed over")
		return
	}
	w.mu.Lock()
	w.inHand[t] = struct{}{}
	w.mu.Unlock()
	stopBeat := t.beat(w.ackWait/3, w.s.HandlerLimit+settleLimit)
	flight := w.s.Metrics.inFlight.WithLabelValues(w.row.name)
	flight.Inc()
	began := time.Now()

	outcome := w.work(t, d)

	stopBeat()
	flight.Dec()
	w.s.Metrics.seconds.WithLabelValues(w.row.name).Observe(time.Since(began).Seconds())
	w.s.Metrics.handled.WithLabelValues(w.row.name, outcome).Inc()
	w.mu.Lock()
	delete(w.inHand, t)
	w.mu.Unlock()
}

// giveBack returns what is still in hand to the server.
func (w *server) giveBack() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.hard), 2*time.Second)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.inHand {
		w.uncount(ctx, w.b.log, t)
		t.giveBack()
		w.b.log.Warn().Str("consumer", w.row.name).Str("subject", t.Subject).Msg("handler did not end in time; message given back")
	}
}

// delivery tells what is known of a message before it is read. Bridge- headers are believed only when retried, which is
// on the RETRY stream: on others anybody may have written them.
func (w *server) delivery(t *taken, retried bool) (*Delivery, error) {
	meta, err := t.Metadata()
	if err != nil {
		return nil, err
	}
	d := &Delivery{
		Consumer: w.row.name, Subject: t.Subject, Stream: meta.Stream, Seq: meta.Sequence.Stream, StreamTime: meta.Timestamp,
		First: meta.NumDelivered == 1 && !retried, Returned: retried, Attempt: 1, header: t.Header,
	}
	if retried {
		d.comeBack(t.Header)
	}
	d.ID = headerOf(d.header, event.HeaderID)
	if d.ID == "" {
		d.ID = d.header.Get(jetstream.MsgIDHeader)
	}
	if d.ID == "" {
		d.ID = d.Stream + "/" + strconv.FormatUint(d.Seq, 10)
	}
	d.key = headerOf(d.header, event.HeaderSubject)
	d.Trace = trace.Format(trace.Parse(headerOf(d.header, event.HeaderTrace)))
	d.origin = originOf(d.Stream, d.Seq, d.StreamTime)
	if d.replayed != 0 {
		d.origin += "-r" + strconv.FormatUint(d.replayed, 10)
	}
	if d.again != 0 {
		d.origin += "-a" + strconv.Itoa(d.again)
	}
	return d, nil
}

// originOf names where and when a message was first stored, as one token of a subject.
func originOf(stream string, seq uint64, at time.Time) string {
	return stream + "-" + strconv.FormatUint(seq, 10) + "-" + strconv.FormatInt(at.UnixMilli(), 36)
}

// plain is the origin without what replays and rounds add to it.
func plain(origin string) string {
	parts := strings.Split(origin, "-")
	return strings.Join(parts[:min(len(parts), 3)], "-")
}

// originTime is when the message that goes by the origin was first stored.
func originTime(origin string) (time.Time, bool) {
	parts := strings.Split(origin, "-")
	if len(parts) < 3 {
		return time.Time{}, false
	}
	ms, err := strconv.ParseInt(parts[2], 36, 64)
	return time.UnixMilli(ms), err == nil
}

// comeBack reads what park and Replay wrote.
func (d *Delivery) comeBack(h nats.Header) {
	d.header = uncarry(h)
	if seq, err := strconv.ParseUint(h.Get(event.HeaderOriginSeq), 10, 64); err == nil {
		d.Subject, d.Stream, d.Seq = h.Get(event.HeaderOriginSubject), h.Get(event.HeaderOriginStream), seq
		if at, err := time.Parse(time.RFC3339Nano, h.Get(event.HeaderOriginTime)); err == nil {
			d.StreamTime = at
		}
	}
	d.parks, _ = strconv.Atoi(h.Get(event.HeaderDelays))
	d.replayed, _ = strconv.ParseUint(h.Get(event.HeaderReplay), 10, 64)
	d.again, _ = strconv.Atoi(h.Get(event.HeaderRedelivered))
	d.Replay = d.replayed != 0 || d.again != 0
	d.Released = h.Values(event.HeaderReleased)
	d.by, d.why = h.Get(event.HeaderBy), h.Get(event.HeaderWhy)
	d.earlier = h.Values(event.HeaderEarlier)
}

// read turns a message into its type and checks it. Of one that cannot be read m is nil, or what could be read of one that
// an ERP published: whose it is.
func (w *server) read(t *taken, d *Delivery) (proto.Message, error) {
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
	readable, wrong, err := read(d.header, t.Data, m)
	inside := event.SellerIn(m)
	if suffix == "" && event.ValidSeller(inside) {
		d.Seller = inside
	}
	switch {
	case err != nil:
		return m, err
	case !readable && (!w.fromERP || inside == "" && suffix == ""):
		return nil, oneOf(wrong)
	case !readable:
		return m, oneOf(wrong)
	}
	if subjectErr != nil {
		return m, fault.Reason{Code: "subject.invalid", ZH: "主题不合规：" + cut(d.Subject, 200), EN: subjectErr.Error()}
	}
	if len(wrong) > 0 {
		return m, oneOf(wrong)
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
