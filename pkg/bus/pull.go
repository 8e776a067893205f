package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// pullExpires is how long the server keeps a pull request open.
	pullExpires = 30 * time.Second
	// heartbeatEvery is how often the server confirms that it still has the request.
	heartbeatEvery = 3 * time.Second
	// silentAfter is when a request counts as lost and is repeated: two heartbeats were missed.
	silentAfter = 2*heartbeatEvery + time.Second
)

// statusHeartbeat is the Status header of the server's heartbeats. Other statuses end a request.
const statusHeartbeat = "100"

// puller pulls messages from a consumer. One goroutine owns it.
type puller struct {
	b                *Bus
	stream, consumer string
	inbox            string
	in               chan *nats.Msg
	sub              *nats.Subscription
	closed           chan struct{}
	requests         int    // requests so far: each has an inbox of its own below inbox
	epoch            uint64 // of the connection, when the newest request was made
	// onSilence is called with true when the server does not answer a request, with false when it answers again.
	onSilence func(bool)
}

// puller subscribes to an inbox. room is how many messages and statuses may wait to be read; beyond it the client
// library drops.
func (b *Bus) puller(stream, consumer string, room int) (*puller, error) {
	p := &puller{
		b: b, stream: stream, consumer: consumer, inbox: b.nc.NewInbox(),
		in: make(chan *nats.Msg, room), closed: make(chan struct{}), onSilence: func(bool) {},
	}
	var err error
	if p.sub, err = b.nc.ChanSubscribe(p.inbox+".*", p.in); err != nil {
		return nil, fmt.Errorf("listen to consumer %s: %w", consumer, err)
	}
	var once sync.Once
	p.sub.SetClosedHandler(func(string) { once.Do(func() { close(p.closed) }) })
	return p, nil
}

// pullRequest is the body of a pull request, see NATS' ADR-13.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	NoWait    bool          `json:"no_wait,omitempty"`
}

// request opens a pull request. Its statuses arrive on the returned inbox, messages on their own subject.
func (p *puller) request(r pullRequest) (inbox string, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	p.requests++
	p.epoch = p.b.epoch()
	inbox = p.inbox + "." + strconv.Itoa(p.requests)
	return inbox, p.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.stream+"."+p.consumer, inbox, body)
}

// isMessage separates a stream's messages from the server's statuses: only messages carry an ack subject. The client
// library looks at headers instead, which a publisher controls.
func isMessage(m *nats.Msg) bool { return strings.HasPrefix(m.Reply, "$JS.ACK.") }

// fetch waits for at most n messages and passes each to handle. It returns when n arrived or the server has none for
// now; the caller then fetches again, with the number of its free slots. It returns ctx's error, or ErrTopology when
// the consumer is gone.
func (p *puller) fetch(ctx context.Context, n int, handle func(*nats.Msg)) (got int, err error) {
	// Messages of an earlier request, which was taken for lost, come first.
	for got < n && len(p.in) > 0 {
		if m := <-p.in; isMessage(m) {
			handle(m)
			got++
		}
	}
	if got > 0 {
		return got, nil
	}
	reconnected := p.b.reconnected.wait()
	inbox, err := p.request(pullRequest{Batch: n, Expires: pullExpires, Heartbeat: heartbeatEvery})
	if err != nil {
		return 0, fmt.Errorf("ask consumer %s: %w", p.consumer, err)
	}
	silence := time.NewTimer(silentAfter)
	defer silence.Stop()
	for got < n {
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-reconnected:
			return got, nil
		case <-silence.C:
			p.onSilence(true)
			return got, p.check(ctx)
		case m := <-p.in:
			if isMessage(m) {
				p.onSilence(false)
				silence.Reset(silentAfter)
				handle(m)
				got++
				continue
			}
			if m.Subject != inbox {
				continue
			}
			if m.Header.Get("Status") != statusHeartbeat {
				return got, p.ended(ctx, m)
			}
			p.onSilence(false)
			silence.Reset(silentAfter)
		}
	}
	return got, nil
}

// ended interprets the status with which the server ended a request: nil to request again.
func (p *puller) ended(ctx context.Context, m *nats.Msg) error {
	switch m.Header.Get("Status") {
	case "404", "408": // no message, or none in time
		return nil
	case "400": // a bad request
		return fmt.Errorf("ask consumer %s: %s", p.consumer, m.Header.Get("Description"))
	default:
		// The consumer was deleted or has no leader, the server shuts down, or too many requests are open: check that
		// the consumer still exists, and do not repeat too fast.
		if err := p.check(ctx); err != nil {
			return err
		}
		return sleep(ctx, 500*time.Millisecond)
	}
}

// check returns an error when the consumer is certainly gone.
func (p *puller) check(ctx context.Context) error {
	_, err := p.b.js.Consumer(ctx, p.stream, p.consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("consumer %s/%s is gone: %w", p.stream, p.consumer, ErrTopology)
	}
	return nil
}

// drain stops receiving and releases what was in transit. It waits until the server has confirmed that nothing else
// comes, at most until ctx ends.
func (p *puller) drain(ctx context.Context) {
	if err := p.sub.Drain(); err == nil {
		select {
		case <-p.closed:
		case <-ctx.Done():
		}
	}
	for {
		select {
		case m := <-p.in:
			if isMessage(m) {
				_ = p.b.nc.Publish(m.Reply, []byte("-NAK")) // if lost, it is redelivered after AckWait
			}
		default:
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// broadcast wakes all waiters; later waiters wait for the next notify.
type broadcast struct {
	mu sync.Mutex
	c  chan struct{}
}

func (l *broadcast) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c == nil {
		l.c = make(chan struct{})
	}
	return l.c
}

func (l *broadcast) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c != nil {
		close(l.c)
		l.c = nil
	}
}

// inflight is a message that this process has yet to settle. It is settled once; later calls do nothing.
type inflight struct {
	*nats.Msg
	b *Bus
	// epoch of the connection when the message was requested.
	epoch uint64
	// meta is the server's, seat gives the seller's seat back; nil without seats.
	meta *nats.MsgMetadata
	seat func()
	// lane is what delivered the message, nil for the main consumer and for RETRY.
	lane *lane
	// unseated is for how long a message is delayed that found no seat; 0 for one that has one.
	unseated time.Duration
	// beats are what keeps the message from being redelivered.
	beats beats
	mu    sync.Mutex
	done  bool
	// countedKey is the key under which this run was counted as an attempt; "" when it was not. A shutdown that
	// releases the message also uncounts the attempt, while its handler may still be running: hence under mu.
	countedKey string
}

// markCounted records the key under which this run was counted.
func (t *inflight) markCounted(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.countedKey = key
}

func (t *inflight) isCounted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.countedKey != ""
}

// takeCountedKey hands the key to the caller that uncounts or forgets the attempt, so that only one does.
func (t *inflight) takeCountedKey() (key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, t.countedKey = t.countedKey, ""
	return key
}

// settle sends one of JetStream's acks. A lost one does no harm: the message is redelivered after AckWait.
func (t *inflight) settle(word string, limit time.Duration) {
	t.mu.Lock()
	first := !t.done
	t.done = true
	t.mu.Unlock()
	if first {
		t.reply(word, limit)
	}
}

func (t *inflight) ack() { t.settle("+ACK", replyLimit) }

func (t *inflight) nak(after time.Duration) {
	if after <= 0 {
		t.settle("-NAK", replyLimit)
		return
	}
	t.settle(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()), replyLimit)
}

// release is nak without patience for an unreachable broker.
func (t *inflight) release() { t.settle("-NAK", 200*time.Millisecond) }

// progress reports to the server that work on the message continues.
func (t *inflight) progress() {
	t.mu.Lock()
	done := t.done
	t.mu.Unlock()
	if !done {
		t.reply("+WPI", time.Second)
	}
}

// replyLimit is how long an ack waits for an unreachable broker. It stays below AckWait, after which the message is
// redelivered anyhow.
const replyLimit = 10 * time.Second

// reply sends one of JetStream's acks for this message. An ack names the message by its sequence only, and after the
// stream was restored from an older copy that sequence may be another message's, which would be settled without ever
// being handled. While the connection stands this cannot have happened. After a reconnect the stream is read first, and
// the server confirms the ack, because its consumer may not listen yet.
func (t *inflight) reply(word string, limit time.Duration) {
	if t.b.Ready() == nil && t.b.epoch() == t.epoch {
		_ = t.b.nc.Publish(t.Reply, []byte(word))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		reconnected := t.b.reconnected.wait()
		if t.b.Ready() == nil && t.replyAfterReconnect(ctx, word) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-reconnected:
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// replyAfterReconnect returns false when it must be tried again.
func (t *inflight) replyAfterReconnect(ctx context.Context, word string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	meta, err := t.Metadata()
	if err != nil {
		return true
	}
	stored, err := t.b.storedAt(ctx, meta.Stream, meta.Sequence.Stream)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound), err == nil && !stored.Equal(meta.Timestamp):
		t.b.log.Warn().Str("subject", t.Subject).Uint64("seq", meta.Sequence.Stream).
			Msg("the stream was restored and no longer has this message; nothing is settled")
		return true
	case err != nil:
		return false
	}
	_, err = t.b.nc.RequestWithContext(ctx, t.Reply, []byte(word))
	return err == nil
}

// storedAt is when the message that has the sequence now was stored.
func (b *Bus) storedAt(ctx context.Context, stream string, seq uint64) (time.Time, error) {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return time.Time{}, err
	}
	m, err := s.GetMsg(ctx, seq)
	if err != nil {
		return time.Time{}, err
	}
	return m.Time, nil
}

// epoch counts the reconnects.
func (b *Bus) epoch() uint64 { return b.nc.Stats().Reconnects }

// beats say when a message's next heartbeat is due. The server's mu guards them.
type beats struct {
	next time.Time
	// until is when they end: a handler that hangs must lose its message. The zero time until its handler starts.
	until time.Time
}

const (
	// firstBeat is early, because AckWait may have started before the message was read.
	firstBeat = 2 * time.Second
	// beatEvery is how often it is looked which heartbeats are due, at most.
	beatEvery = 500 * time.Millisecond
)

// beat sends the heartbeats of all messages in hand until ctx ends. One loop for all: a timer for each message would be
// set and stopped a thousand times a second.
func (w *server) beat(ctx context.Context) {
	tick := time.NewTicker(min(beatEvery, w.ackWait/6))
	defer tick.Stop()
	var due []*inflight
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.b.Ready() != nil {
			continue
		}
		now := time.Now()
		due = due[:0]
		w.mu.Lock()
		for t := range w.inFlight {
			if now.Before(t.beats.next) || !t.beats.until.IsZero() && now.After(t.beats.until) {
				continue
			}
			t.beats.next = now.Add(w.ackWait / 3)
			due = append(due, t)
		}
		w.mu.Unlock()
		for _, t := range due {
			if t.epoch == w.b.epoch() {
				t.progress()
			} else {
				go t.progress() // it asks the server first
			}
		}
	}
}
