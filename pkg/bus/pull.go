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
	// askFor is how long the server keeps a request for a message open.
	askFor = 30 * time.Second
	// pulse is how often the server says that it still has the request.
	pulse = 3 * time.Second
	// silentAfter is when a request counts as lost and is made again: two heartbeats were missed.
	silentAfter = 2*pulse + time.Second
)

// statusHeartbeat is the Status header of the server's heartbeats. Other statuses end a request.
const statusHeartbeat = "100"

// puller asks a consumer for messages. It belongs to one goroutine.
type puller struct {
	b                *Bus
	stream, consumer string
	inbox            string
	in               chan *nats.Msg
	sub              *nats.Subscription
	closed           chan struct{}
	asked            int    // requests so far: each has an inbox of its own below inbox
	life             uint64 // of the connection, when the newest request was made
	// silent is called with true when the server does not answer a request, with false when it does again.
	silent func(bool)
}

// puller listens for messages. room is how many may wait for its owner to read them, the server's statuses included;
// beyond it the client library drops.
func (b *Bus) puller(stream, consumer string, room int) (*puller, error) {
	p := &puller{
		b: b, stream: stream, consumer: consumer, inbox: b.nc.NewInbox(),
		in: make(chan *nats.Msg, room), closed: make(chan struct{}), silent: func(bool) {},
	}
	var err error
	if p.sub, err = b.nc.ChanSubscribe(p.inbox+".*", p.in); err != nil {
		return nil, fmt.Errorf("listen to consumer %s: %w", consumer, err)
	}
	var once sync.Once
	p.sub.SetClosedHandler(func(string) { once.Do(func() { close(p.closed) }) })
	return p, nil
}

// request is the body of a pull, see NATS' ADR-13.
type request struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat,omitempty"`
	NoWait    bool          `json:"no_wait,omitempty"`
}

// ask opens a request; answers to it arrive on the returned inbox, or on their own subject when they are messages.
func (p *puller) ask(r request) (inbox string, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	p.asked++
	p.life = p.b.life()
	inbox = p.inbox + "." + strconv.Itoa(p.asked)
	return inbox, p.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.stream+"."+p.consumer, inbox, body)
}

// isMessage tells a stream's message from the server's status of a request: only messages carry a subject for the ack.
// The client library looks at the headers instead, which a publisher writes.
func isMessage(m *nats.Msg) bool { return strings.HasPrefix(m.Reply, "$JS.ACK.") }

// some waits for messages, n at most, and tells each. It returns when n came or the server has none for now; how many
// came is then for the caller, who asks again for as many as he can take at once. It returns ctx's error, or ErrTopology
// when the consumer is gone.
func (p *puller) some(ctx context.Context, n int, tell func(*nats.Msg)) (got int, err error) {
	// Messages for an earlier request, which was taken for lost, go first.
	for got < n && len(p.in) > 0 {
		if m := <-p.in; isMessage(m) {
			tell(m)
			got++
		}
	}
	if got > 0 {
		return got, nil
	}
	reconnected := p.b.reconnected.wait()
	inbox, err := p.ask(request{Batch: n, Expires: askFor, Heartbeat: pulse})
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
			p.silent(true)
			return got, p.check(ctx)
		case m := <-p.in:
			if isMessage(m) {
				p.silent(false)
				silence.Reset(silentAfter)
				tell(m)
				got++
				continue
			}
			if m.Subject != inbox {
				continue
			}
			if m.Header.Get("Status") != statusHeartbeat {
				return got, p.ended(ctx, m)
			}
			p.silent(false)
			silence.Reset(silentAfter)
		}
	}
	return got, nil
}

// ended is what the server's status that ends a request means: nil to ask again.
func (p *puller) ended(ctx context.Context, m *nats.Msg) error {
	switch m.Header.Get("Status") {
	case "404", "408": // no message, or none in time
		return nil
	case "400": // a bad request
		return fmt.Errorf("ask consumer %s: %s", p.consumer, m.Header.Get("Description"))
	default:
		// The consumer was deleted or has no leader, the server shuts down, too many requests are open: look
		// whether the consumer is still there, and do not ask again too fast.
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

// drain takes no more and gives back what was on its way. It waits until the server has confirmed that nothing else
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
				_ = p.b.nc.Publish(m.Reply, []byte("-NAK")) // lost: it comes back after AckWait
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

// bell wakes all who wait for it; whoever waits afterwards waits for the next ring.
type bell struct {
	mu sync.Mutex
	c  chan struct{}
}

func (l *bell) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c == nil {
		l.c = make(chan struct{})
	}
	return l.c
}

func (l *bell) ring() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c != nil {
		close(l.c)
		l.c = nil
	}
}

// taken is a message in hand. It is answered once; later answers do nothing.
type taken struct {
	*nats.Msg
	b *Bus
	// life of the connection when the message was asked for.
	life uint64
	mu   sync.Mutex
	done bool
	// counted is the key under which this run was counted as an attempt; "" when it was not. A shutdown that gives the
	// message back takes the attempt back too, while its handler may still be running: hence under mu.
	counted string
}

// count remembers the key under which this run was counted.
func (t *taken) count(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counted = key
}

func (t *taken) isCounted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counted != ""
}

// uncounted gives the key up to whoever takes the attempt back or forgets it, so that only one of them does.
func (t *taken) uncounted() (key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, t.counted = t.counted, ""
	return key
}

// answer settles the message with one of JetStream's words. An answer that does not arrive is no harm: the message comes
// again after AckWait.
func (t *taken) answer(word string, limit time.Duration) {
	t.mu.Lock()
	first := !t.done
	t.done = true
	t.mu.Unlock()
	if first {
		t.say(word, limit)
	}
}

func (t *taken) ack() { t.answer("+ACK", sayLimit) }

func (t *taken) nak(after time.Duration) {
	if after <= 0 {
		t.answer("-NAK", sayLimit)
		return
	}
	t.answer(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()), sayLimit)
}

// giveBack is nak when there is no time left for a broker that is away.
func (t *taken) giveBack() { t.answer("-NAK", 200*time.Millisecond) }

// progress tells the server that it is still being worked on.
func (t *taken) progress() {
	t.mu.Lock()
	done := t.done
	t.mu.Unlock()
	if !done {
		t.say("+WPI", time.Second)
	}
}

// sayLimit is how long an answer waits for a broker that is away. It stays below AckWait, after which the message comes
// again anyhow.
const sayLimit = 10 * time.Second

// say tells the server one of JetStream's words about this message. It names the message by its number only, and after
// the stream was put back to an older copy the number may be another message's, which would be settled in its place
// without ever having been handled. While the connection stands nothing of this kind can have happened. After it was made
// anew the stream is asked first, and the server confirms, because its consumer may not listen yet.
func (t *taken) say(word string, limit time.Duration) {
	if t.b.Ready() == nil && t.b.life() == t.life {
		_ = t.b.nc.Publish(t.Reply, []byte(word))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		again := t.b.reconnected.wait()
		if t.b.Ready() == nil && t.sayAnew(ctx, word) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// sayAnew is false when it is to be tried again.
func (t *taken) sayAnew(ctx context.Context, word string) bool {
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
			Msg("the stream was put back and does not have this message any more; nothing is settled")
		return true
	case err != nil:
		return false
	}
	_, err = t.b.nc.RequestWithContext(ctx, t.Reply, []byte(word))
	return err == nil
}

// storedAt is when the message was stored that now has the number.
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

// life counts how often the connection was made anew.
func (b *Bus) life() uint64 { return b.nc.Stats().Reconnects }

// beat tells progress every so often until stop, for limit at most: a handler that hangs must lose its message.
func (t *taken) beat(every, limit time.Duration) (stop func()) {
	// The first one comes early, because AckWait may have been running before the message was read.
	first := min(every, 2*time.Second)
	began := time.Now()
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	var timer *time.Timer
	stopped := false
	timer = time.AfterFunc(first, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped && time.Since(began) < limit {
			t.progress()
			timer.Reset(every)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
