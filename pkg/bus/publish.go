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
	// maxUnstored is how many messages of one connection may wait for the store's answer.
	maxUnstored = 4000
	// publishedAtOnce is how many of the events that are told together are on their way at the same time.
	publishedAtOnce = 128
	// storeTimeout is how long one try waits for the store's answer before the message is sent again under its id.
	storeTimeout = 5 * time.Second
	// storeLimit is how long a caller without a deadline waits in all.
	storeLimit = 30 * time.Second
)

// ErrPermission says that this NATS user may not publish there.
var ErrPermission = errors.New("no permission to publish")

// ErrIDTaken says that the stream took a message for one that it has, because of its Nats-Msg-Id, and stored nothing.
var ErrIDTaken = errors.New("another message has its Nats-Msg-Id")

// ErrTooLarge says that a message is larger than the server or the stream takes.
var ErrTooLarge = errors.New("message too large")

// Publish tells events: JSON body, CloudEvents headers, Nats-Msg-Id = ce-id. It waits until all are stored. A try that
// times out is repeated under the same id, so an event may be stored twice when that takes longer than the stream's
// window for duplicates (2 minutes): consumers key on ce-id. After an error some may be stored. An event whose message id
// another message has is stored under another one: its ce-id stays.
func (b *Bus) Publish(ctx context.Context, events ...event.Event) error {
	return b.publish(ctx, "", events, func() {})
}

// publish calls taken for each event whose message id another message had.
func (b *Bus) publish(ctx context.Context, trace string, events []event.Event, taken func()) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	// A message on its way takes several times what its event does: some at a time.
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
			if err := b.storeAnyway(ctx, msgs[i], ack, taken); err != nil {
				return err
			}
		}
	}
	return nil
}

// storeAnyway stores an event that the stream took for one that it has, unless it is that one.
func (b *Bus) storeAnyway(ctx context.Context, m *nats.Msg, ack *jetstream.PubAck, taken func()) error {
	id := m.Header.Get(event.HeaderID)
	have, err := b.answered(ctx, ack)
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
	b.log.Warn().Str("subject", m.Subject).Str("id", cut(id, 200)).Str("stream", ack.Stream).Uint64("seq", ack.Sequence).Str("other", cut(other, 200)).
		Msg("another message has this one's Nats-Msg-Id; stored under a new one")
	taken()
	m.Header.Set(jetstream.MsgIDHeader, id+"#"+rand.Text()) // which nobody can have used before
	_, err = b.store(ctx, m)
	return err
}

// answered is the message that a stream answered a duplicate with; nil when it is gone.
func (b *Bus) answered(ctx context.Context, ack *jetstream.PubAck) (m *jetstream.RawStreamMsg, err error) {
	err = ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, ack.Stream)
		if err != nil {
			return err
		}
		m, err = s.GetMsg(ctx, ack.Sequence)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s/%d, which is said to be a duplicate: %w", ack.Stream, ack.Sequence, err)
	}
	return m, nil
}

func (b *Bus) encode(e event.Event, trace string) (*nats.Msg, error) {
	if !event.ValidSeller(e.Seller) {
		return nil, fmt.Errorf("seller %q cannot stand in a subject", e.Seller)
	}
	// Field names as in the .proto files: the same words as in reasons and in the documentation.
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

// PublishRaw publishes what somebody else made: an ERP, a file. stored is false when the stream has the same message, subject
// and body, under the same Nats-Msg-Id in its window; seq is then that message's. ErrIDTaken when it has another one.
func (b *Bus) PublishRaw(ctx context.Context, subject string, header map[string][]string, body []byte) (stored bool, seq uint64, err error) {
	acks, err := b.store(ctx, &nats.Msg{Subject: subject, Header: header, Data: body})
	if err != nil {
		return false, 0, err
	}
	ack := acks[0]
	if !ack.Duplicate {
		return true, ack.Sequence, nil
	}
	have, err := b.answered(ctx, ack)
	if err != nil {
		return false, 0, fmt.Errorf("publish %s: %w", subject, err)
	}
	if have == nil || have.Subject != subject || !bytes.Equal(have.Data, body) {
		return false, 0, fmt.Errorf("publish %s: %w (%s/%d): nothing was stored; publish it without one, or with one made of seller, number and content",
			subject, ErrIDTaken, ack.Stream, ack.Sequence)
	}
	return false, ack.Sequence, nil
}

// store sends messages and waits until the stream has answered for each. What timed out is sent again, if the stream
// notices repetition.
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

// limited ends a caller's wait that has no end of its own.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, storeLimit)
}

// idempotent tells whether the stream notices a message that it has already.
func idempotent(m *nats.Msg) bool {
	return m.Header.Get(jetstream.MsgIDHeader) != "" || m.Header.Get(jetstream.ExpectedLastSubjSeqHeader) != ""
}

// storeOnce sends the open ones of msgs and tells what became of each.
func (b *Bus) storeOnce(ctx context.Context, msgs []*nats.Msg, open []int, acks []*jetstream.PubAck) map[int]error {
	failed := make(map[int]error, len(open))
	futures := make(map[int]jetstream.PubAckFuture, len(open))
	denied := make(map[int]*denial, len(open))
	life, began := b.life(), time.Now()
	defer func() {
		ended := time.Now()
		for _, i := range open {
			b.stored.note(life, msgs[i].Subject, began, ended, failed[i])
		}
	}()
	for _, i := range open {
		var done func()
		denied[i], done = b.denials.wait(msgs[i].Subject)
		defer done()
		f, err := b.js.PublishMsgAsync(msgs[i])
		if err != nil {
			failed[i] = clearer(err)
			continue
		}
		futures[i] = f
	}
	for i, f := range futures {
		select {
		case acks[i] = <-f.Ok():
		case err := <-f.Err():
			failed[i] = clearer(err)
		case <-denied[i].told:
			failed[i] = denied[i].err
		case <-ctx.Done():
			failed[i] = ctx.Err()
		}
	}
	return failed
}

// clearer marks the errors that a caller can do something about, which the library tells in several ways.
func clearer(err error) error {
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

// repeatable tells whether nothing but time is needed. What the server refuses it refuses again, except that a stream
// has no leader for a moment, or has the same message in hand.
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

// denials turns the server's report that a publish was not allowed into an error for those who wait for its answer. The
// report comes asynchronously, on the connection, and names only the subject; the publish itself would just time out.
type denials struct {
	mu      sync.Mutex
	waiting map[string]*denial
}

type denial struct {
	waiters int
	told    chan struct{}
	err     error // once told is closed
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
		n = &denial{told: make(chan struct{})}
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

func (d *denials) tell(subject string, err error) (heard bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.waiting[subject]
	if n == nil {
		return false
	}
	n.err = err
	close(n.told)
	delete(d.waiting, subject)
	return true
}

var publishDenied = regexp.MustCompile(`(?i)permissions violation for publish to "([^"]+)"`)

func (b *Bus) onAsyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if m := publishDenied.FindStringSubmatch(err.Error()); m != nil {
		if b.denials.tell(m[1], fmt.Errorf("%w to %s: allow this NATS user to", ErrPermission, m[1])) {
			return
		}
	}
	b.log.Error().Err(err).Msg("NATS reports an error")
}
