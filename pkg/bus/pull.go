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
	// pulse is how often it says that it still has the request. Two missed ones: ask again.
	pulse = 3 * time.Second
)

// puller asks a consumer for messages. It belongs to one goroutine.
type puller struct {
	b                *Bus
	stream, consumer string
	inbox            string
	in               chan *nats.Msg
	sub              *nats.Subscription
	closed           chan struct{}
	asked            int
	// silent is told when the server stops or starts again to answer.
	silent func(bool)
}

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
	inbox = p.inbox + "." + strconv.Itoa(p.asked)
	return inbox, p.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+p.stream+"."+p.consumer, inbox, body)
}

// isMessage tells a stream's message from the server's word about a request. The client library looks at the headers
// instead, which a publisher writes.
func isMessage(m *nats.Msg) bool { return strings.HasPrefix(m.Reply, "$JS.ACK.") }

// next waits for one message and asks for no second one. It returns ctx's error, or ErrTopology when the consumer is
// gone.
func (p *puller) next(ctx context.Context) (*nats.Msg, error) {
	for {
		// Answers to a request that was thought lost go first.
		for len(p.in) > 0 {
			if m := <-p.in; isMessage(m) {
				return m, nil
			}
		}
		reconnected := p.b.reconnected.wait()
		inbox, err := p.ask(request{Batch: 1, Expires: askFor, Heartbeat: pulse})
		if err != nil {
			return nil, fmt.Errorf("ask consumer %s: %w", p.consumer, err)
		}
		m, err := p.answer(ctx, inbox, reconnected)
		if m != nil || err != nil {
			return m, err
		}
	}
}

// answer waits for what comes of one request. Neither a message nor an error: ask again.
func (p *puller) answer(ctx context.Context, inbox string, reconnected <-chan struct{}) (*nats.Msg, error) {
	silence := time.NewTimer(2*pulse + time.Second)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-reconnected:
			return nil, nil
		case <-silence.C:
			p.silent(true)
			return nil, p.check(ctx)
		case m := <-p.in:
			if isMessage(m) {
				p.silent(false)
				return m, nil
			}
			if m.Subject != inbox {
				continue
			}
			switch m.Header.Get("Status") {
			case "100":
				p.silent(false)
				silence.Reset(2*pulse + time.Second)
			case "404", "408":
				return nil, nil
			case "400":
				return nil, fmt.Errorf("ask consumer %s: %s", p.consumer, m.Header.Get("Description"))
			default:
				// Deleted, without a leader, shutting down, too many requests: look, and not too fast.
				if err := p.check(ctx); err != nil {
					return nil, err
				}
				return nil, sleep(ctx, 500*time.Millisecond)
			}
		}
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

// drain takes no more and gives back what was on its way. It waits for the server's word, at most until ctx ends.
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

// bell wakes all who wait.
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
	nc   *nats.Conn
	mu   sync.Mutex
	done bool
	// counted is the key under which this run was counted as an attempt; "" when it was not.
	counted string
}

// count notes, and uncounted takes away, the key.
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

func (t *taken) uncounted() (key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, t.counted = t.counted, ""
	return key
}

func (t *taken) answer(word string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		t.done = true
		_ = t.nc.Publish(t.Reply, []byte(word)) // lost: it comes back after AckWait
	}
}

func (t *taken) ack() { t.answer("+ACK") }

func (t *taken) nak(after time.Duration) {
	if after <= 0 {
		t.answer("-NAK")
		return
	}
	t.answer(fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}

// progress tells the server that it is still being worked on.
func (t *taken) progress() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.done {
		_ = t.nc.Publish(t.Reply, []byte("+WPI"))
	}
}

// beat tells progress every so often until stop, for limit at most: a handler that hangs must lose its message.
func (t *taken) beat(every, limit time.Duration) (stop func()) {
	// The first one comes early: a message may have waited for a busy handler after a reconnect.
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
