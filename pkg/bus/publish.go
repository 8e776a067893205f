package bus

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/event"
)

const (
	// maxUnstored bounds the messages of one connection that wait for the store's answer.
	maxUnstored = 4000
	// publishedAtOnce bounds how many events of one call are in transit concurrently.
	publishedAtOnce = 128
	// storeTimeout is how long one try waits for the store's answer before the message is sent again under its id.
	storeTimeout = 5 * time.Second
	// storeLimit is how long a caller without a deadline waits in all.
	storeLimit = 30 * time.Second
)

// ErrPermission says that this NATS user may not publish to the subject.
var ErrPermission = errors.New("no permission to publish")

// ErrIDTaken says that the stream treated a message as a duplicate of another, because of its Nats-Msg-Id, and stored
// nothing.
var ErrIDTaken = errors.New("another message has its Nats-Msg-Id")

// ErrTooLarge says that a message exceeds what the server or the stream accepts.
var ErrTooLarge = errors.New("message too large")

// Publish stores events: JSON body, CloudEvents headers, Nats-Msg-Id = ce-id. It waits until all are stored. A try that
// times out is repeated under the same id, so an event may be stored twice when that takes longer than the stream's
// duplicate window (2 minutes): consumers key on ce-id. After an error some may be stored. An event whose message id
// another message has is stored under another message id: its ce-id stays.
func (b *Bus) Publish(ctx context.Context, events ...event.Event) error {
	return b.publish(ctx, "", events, func() {})
}

// publish calls onIDTaken for each event whose message id another message had.
func (b *Bus) publish(ctx context.Context, trace string, events []event.Event, onIDTaken func()) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	// A message in transit takes several times the memory of its event: send some at a time.
	for some := range slices.Chunk(events, publishedAtOnce) {
		msgs := make([]*nats.Msg, len(some))
		for i, e := range some {
			m, err := b.encode(e, trace)
			if err != nil {
				return fmt.Errorf("publish %s: %w", e.ID, err)
			}
			msgs[i] = m
		}
		acks, err := b.store(ctx, msgs...)
		if err != nil {
			return err
		}
		for i, ack := range acks {
			if !ack.Duplicate {
				continue
			}
			if err := b.storeUnderNewID(ctx, msgs[i], ack, onIDTaken); err != nil {
				return err
			}
		}
	}
	return nil
}

// storeUnderNewID stores an event that the stream called a duplicate, unless the stream really has it.
func (b *Bus) storeUnderNewID(ctx context.Context, m *nats.Msg, ack *jetstream.PubAck, onIDTaken func()) error {
	id := m.Header.Get(event.HeaderID)
	have, err := b.duplicateOf(ctx, ack)
	if err != nil {
		return fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	if have != nil && have.Subject == m.Subject && have.Header.Get(event.HeaderID) == id {
		return nil
	}
	other := "" // it is gone by now
	if have != nil {
		other = have.Subject
	}
	b.log.Warn().Str("subject", m.Subject).Str("id", truncate(id, 200)).Str("stream", ack.Stream).Uint64("seq", ack.Sequence).Str("other", truncate(other, 200)).
		Msg("another message has this one's Nats-Msg-Id; stored under a new one")
	onIDTaken()
	m.Header.Set(jetstream.MsgIDHeader, id+"#"+rand.Text()) // nobody can have used this one
	_, err = b.store(ctx, m)
	return err
}

// duplicateOf is the message that a publish is said to be a duplicate of; nil when it is gone.
func (b *Bus) duplicateOf(ctx context.Context, ack *jetstream.PubAck) (m *jetstream.RawStreamMsg, err error) {
	m, err = b.message(ctx, ack.Stream, ack.Sequence)
	if err != nil {
		return nil, fmt.Errorf("read %s/%d, which is said to be a duplicate: %w", ack.Stream, ack.Sequence, err)
	}
	return m, nil
}

func (b *Bus) encode(e event.Event, trace string) (*nats.Msg, error) {
	if !event.ValidSeller(e.Seller) {
		return nil, fmt.Errorf("seller %q cannot stand in a subject", e.Seller)
	}
	// Field names as in the .proto files, which reasons and the documentation use too.
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e.Message)
	if err != nil {
		return nil, err
	}
	m := &nats.Msg{Subject: e.Subject(), Data: body, Header: make(nats.Header, 9)}
	m.Header.Set(event.HeaderSpec, "1.0")
	m.Header.Set(event.HeaderID, e.ID)
	m.Header.Set(event.HeaderType, e.Name)
	m.Header.Set(event.HeaderSource, b.source)
	m.Header.Set(event.HeaderSubject, e.Key)
	m.Header.Set(event.HeaderTime, e.At.Format(time.RFC3339Nano))
	m.Header.Set(event.HeaderContentType, typeJSON)
	m.Header.Set(jetstream.MsgIDHeader, e.ID)
	if e.Trace != "" {
		trace = e.Trace
	}
	if trace != "" {
		m.Header.Set(event.HeaderTrace, trace)
	}
	return m, nil
}

// PublishRaw publishes a message made elsewhere: by an ERP, in a file. stored is false when the stream has the same
// message, subject and body, under the same Nats-Msg-Id in its duplicate window; seq is then that message's. ErrIDTaken
// when another message has the id.
func (b *Bus) PublishRaw(ctx context.Context, subject string, header map[string][]string, body []byte) (stored bool, seq uint64, err error) {
	acks, err := b.store(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	if err != nil {
		return false, 0, err
	}
	ack := acks[0]
	if !ack.Duplicate {
		return true, ack.Sequence, nil
	}
	have, err := b.duplicateOf(ctx, ack)
	if err != nil {
		return false, 0, fmt.Errorf("publish %s: %w", subject, err)
	}
	if have == nil || have.Subject != subject || !bytes.Equal(have.Data, body) {
		return false, 0, fmt.Errorf("publish %s: %w (%s/%d): nothing was stored; publish it without one, or with one made of seller, number and content",
			subject, ErrIDTaken, ack.Stream, ack.Sequence)
	}
	return false, ack.Sequence, nil
}

// store sends messages and waits until the stream has answered for each. It sends again what timed out, if the stream
// can detect the repetition.
func (b *Bus) store(ctx context.Context, msgs ...*nats.Msg) ([]*jetstream.PubAck, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	acks := make([]*jetstream.PubAck, len(msgs))
	open := make([]int, len(msgs))
	for i := range msgs {
		open[i] = i
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var again []int
		var last error
		for i, err := range b.storeOnce(ctx, msgs, open, acks) {
			if !repeatable(err) || ctx.Err() != nil || !idempotent(msgs[i]) {
				return nil, fmt.Errorf("publish %s: %w", msgs[i].Subject, err)
			}
			again, last = append(again, i), err
		}
		if len(again) == 0 {
			return acks, nil
		}
		open = again
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("publish %s: %w", msgs[open[0]].Subject, errors.Join(ctx.Err(), last))
		case <-time.After(pause):
		}
	}
}

// limited gives a deadline to callers without one.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, storeLimit)
}

// idempotent reports whether the stream detects a repetition of m.
func idempotent(m *nats.Msg) bool {
	return m.Header.Get(jetstream.MsgIDHeader) != "" || m.Header.Get(jetstream.ExpectedLastSubjSeqHeader) != ""
}

// storeOnce sends the open ones of msgs and returns the errors of those that were not stored.
func (b *Bus) storeOnce(ctx context.Context, msgs []*nats.Msg, open []int, acks []*jetstream.PubAck) map[int]error {
	failed := make(map[int]error, len(open))
	futures := make(map[int]jetstream.PubAckFuture, len(open))
	denied := make(map[int]*denial, len(open))
	epoch, began := b.epoch(), time.Now()
	defer func() {
		ended := time.Now()
		for _, i := range open {
			b.writes.note(epoch, msgs[i].Subject, began, ended, failed[i])
		}
	}()
	for _, i := range open {
		var done func()
		denied[i], done = b.denials.wait(msgs[i].Subject)
		defer done()
		f, err := b.js.PublishMsgAsync(msgs[i])
		if err != nil {
			failed[i] = classify(err)
			continue
		}
		futures[i] = f
	}
	for i, f := range futures {
		select {
		case acks[i] = <-f.Ok():
		case err := <-f.Err():
			failed[i] = classify(err)
		case <-denied[i].closed:
			failed[i] = denied[i].err
		case <-ctx.Done():
			failed[i] = ctx.Err()
		}
	}
	return failed
}

// classify marks the errors that a caller can act on, which the library reports in several ways.
func classify(err error) error {
	var api jetstream.JetStreamError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.As(err, &api) && api.APIError() != nil && api.APIError().ErrorCode == codeTooLarge:
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("no stream takes it: %w", err)
	default:
		return err
	}
}

// codeTooLarge is the server's "message size exceeds maximum allowed".
const codeTooLarge = 10054

// codeInProcess is a replicated stream's "duplicate message id is in process": the same message is being stored for
// somebody else, or for an earlier try. A moment later it is a duplicate, or was not stored.
const codeInProcess = 10158

// repeatable reports whether repeating may succeed. What the server refuses it refuses again, except that a stream has
// no leader for a moment, or is storing the same message.
func repeatable(err error) bool {
	var api jetstream.JetStreamError
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrPermission), errors.Is(err, nats.ErrConnectionClosed):
		return false
	case errors.As(err, &api) && api.APIError() != nil:
		return api.APIError().Code == 503 || api.APIError().ErrorCode == codeInProcess
	default:
		return true
	}
}

// denials turns the server's report that a publish was not allowed into an error for the callers that wait for its
// answer. The report comes asynchronously, on the connection, and names only the subject; the publish itself would just
// time out.
type denials struct {
	mu      sync.Mutex
	waiting map[string]*denial
}

type denial struct {
	waiters int
	closed  chan struct{}
	err     error // set before closed is closed
}

// wait must be called before the publish, because the report may come at once.
func (d *denials) wait(subject string) (n *denial, done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[string]*denial{}
	}
	n = d.waiting[subject]
	if n == nil {
		n = &denial{closed: make(chan struct{})}
		d.waiting[subject] = n
	}
	n.waiters++
	return n, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n.waiters--; n.waiters == 0 && d.waiting[subject] == n {
			delete(d.waiting, subject)
		}
	}
}

func (d *denials) deny(subject string, err error) (heard bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.waiting[subject]
	if n == nil {
		return false
	}
	n.err = err
	close(n.closed)
	delete(d.waiting, subject)
	return true
}

var publishDenied = regexp.MustCompile(`(?i)permissions violation for publish to "([^"]+)"`)

func (b *Bus) onAsyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if m := publishDenied.FindStringSubmatch(err.Error()); m != nil {
		if b.denials.deny(m[1], fmt.Errorf("%w to %s: allow this NATS user to", ErrPermission, m[1])) {
			return
		}
	}
	b.log.Error().Err(err).Msg("NATS reports an error")
}
