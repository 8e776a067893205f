package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

// ErrNoDeadLetter says that there is no dead letter, or no longer one, under that number.
var ErrNoDeadLetter = errors.New("no such dead letter")

// DeadLetter is a message that was taken out of the flow and is kept whole.
type DeadLetter struct {
	// Kind is event.Dead (needs a person) or event.Held (waits for a cause).
	Kind     string
	Consumer string
	// Seq is its number among the dead letters.
	Seq uint64
	// Stream, OriginSeq, Subject, Seller, Key and ID are the original event's, also when a retry was dead-lettered;
	// Seller, Key and ID may be empty.
	Stream                   string
	OriginSeq                uint64
	Subject, Seller, Key, ID string
	// Class is a fault.Class as text; Cause is what a held message waits for.
	Class, Cause string
	Reason       fault.Reason
	// Error is the whole text, at most 4 KiB.
	Error    string
	Attempts int
	// First is when the original was stored, Last when it was dead-lettered.
	First, Last time.Time
	Trace       string
	// Earlier lists the times it was a dead letter before, oldest first, at most keepEarlier.
	Earlier []Earlier
	// Header and Body are the original's; Body is nil unless asked for. Both are nil for a group.
	Header map[string][]string
	Body   []byte
	// Group is nil for a message. For a group of messages First is when the first of them was stored, Last when the last was added;
	// Reason and Error are those of the first that was added, OriginSeq is its own.
	Group *Group
}

// Earlier is one time that a message was a dead letter before, with who replayed it and why.
type Earlier struct {
	No       uint64 `json:"no"`
	Kind     string `json:"kind"`
	Class    string `json:"class"`
	Cause    string `json:"cause,omitempty"`
	Code     string `json:"code,omitempty"`
	Attempts int    `json:"attempts"`
	// Since and Left are when it became a dead letter and when it was replayed, Left by the broker's clock.
	Since, Left time.Time
	Who, Why    string
	// Released says that the replay let it pass Cause.
	Released bool `json:"released,omitempty"`
}

const (
	// keepEarlier bounds how many earlier times travel with a message: they share its 64 KiB of headers.
	keepEarlier = 10
	// maxEarlier bounds each of their texts, bytes.
	maxEarlier = 200
)

// earlier is the history of s as headers, s itself last.
func (s DeadLetter) earlier(before []string, by By, now time.Time) []string {
	text, err := json.Marshal(Earlier{
		No: s.Seq, Kind: s.Kind, Class: s.Class, Cause: truncate(s.Cause, maxEarlier), Code: truncate(s.Reason.Code, maxEarlier), Attempts: s.Attempts,
		Since: s.Last.UTC(), Left: now.UTC(), Who: truncate(by.Who, maxEarlier), Why: truncate(by.Why, maxEarlier),
		Released: by.Release && s.Cause != "",
	})
	if err != nil {
		return before
	}
	all := append(slices.Clone(before), string(text))
	return all[max(0, len(all)-keepEarlier):]
}

// releasedAt is when the replays among earlier let a message pass which causes.
func releasedAt(earlier []string) map[string]time.Time {
	var at map[string]time.Time
	for _, text := range earlier {
		var e Earlier
		if json.Unmarshal([]byte(text), &e) != nil || !e.Released {
			continue
		}
		if at == nil {
			at = map[string]time.Time{}
		}
		at[e.Cause] = e.Left
	}
	return at
}

// DeadLetterQuery selects dead letters. Empty fields select all.
type DeadLetterQuery struct {
	Kind, Consumer, Seller, Cause string
	// Subject is the original's subject, or the event's name without the seller.
	Subject string
	// After is the last number of the previous page.
	After uint64
	// Limit of items; 0 means 100, at most 10 000.
	Limit    int
	WithBody bool
}

// By is who replays, releases or drops a dead letter, and why.
type By struct {
	Who, Why string
	// Release lets a held message pass the cause that it waits for (Delivery.Released).
	Release bool
}

// putDeadLetter stores the message under a subject of its own, so that storing it twice stores it once.
func (w *server) putDeadLetter(ctx context.Context, t *inflight, d *Delivery, kind string, why error) error {
	meta, err := t.Metadata()
	if err != nil {
		return err
	}
	subject := event.DeadLetterSubject(kind, w.row.Name, meta.Stream, meta.Sequence.Stream)
	class := fault.Of(why).String()
	m := envelope{
		original: d.env.original, from: d.env.from, trace: d.Trace, released: d.Released, earlier: d.env.earlier,
		verdict: verdict{
			seller: d.Seller, key: d.key, class: class, cause: fault.Cause(why), text: why.Error(), reason: fault.ReasonOf(why, class),
			attempts: d.Attempt, first: d.StreamTime, last: w.s.Now(),
		},
	}.message(subject, t.Data)

	// No message id: a message that is replayed and dead-lettered again within the duplicate window would not be stored
	// at all.
	var expected uint64
	for range 5 {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expected, 10))
		_, err := w.b.store(ctx, m)
		if !wrongLast(err) {
			return err
		}
		have, err := w.b.lastMessage(ctx, streamDeadLetters, subject)
		switch {
		case err != nil:
			return err
		case have == nil:
			expected = 0
		case decodeEnvelope(have.Header).from.same(d.env.from.place):
			return nil // stored before a crash
		default:
			// The stream was restored from an older copy and gave this number to another message. Keep both.
			expected = have.Sequence
		}
	}
	return fmt.Errorf("dead-letter %s: somebody else keeps changing it", subject)
}

func (q DeadLetterQuery) matches(s DeadLetter) bool {
	return (q.Seller == "" || s.Seller == q.Seller) &&
		(q.Cause == "" || s.Cause == q.Cause) &&
		(q.Subject == "" || s.Subject == q.Subject || s.Seller != "" && s.Subject == q.Subject+"."+s.Seller)
}

const (
	deadLetterPage    = 100
	deadLetterPageMax = 10_000
)

// DeadLetters lists a page, oldest first. next is the After of the next page, 0 when there is none.
func (b *Bus) DeadLetters(ctx context.Context, q DeadLetterQuery) (items []DeadLetter, next uint64, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = deadLetterPage
	}
	limit = min(limit, deadLetterPageMax)
	err = b.EachDeadLetter(ctx, q, func(s DeadLetter) error {
		if len(items) == limit {
			next = items[limit-1].Seq
			return errEnough
		}
		items = append(items, s)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return items, next, nil
}

// EachDeadLetter calls f for all that q selects, oldest first and without its Limit, until f returns an error, which is
// wrapped. It buffers nothing, so any number can be read. f must be quick: for slow work read pages (DeadLetters).
func (b *Bus) EachDeadLetter(ctx context.Context, q DeadLetterQuery, f func(DeadLetter) error) error {
	enough := false
	group := func(g *storedGroup) error {
		s, err := g.deadLetter()
		if err != nil || !q.matches(s) {
			return err
		}
		err = f(s)
		enough = err != nil
		return err
	}
	changed := map[string]bool{} // groups of which an old version was read, and not yet the present one
	err := b.read(ctx, reading{
		stream: streamDeadLetters, filters: []string{event.DeadLetterFilter(q.Kind, q.Consumer)}, from: q.After + 1, headersOnly: !q.WithBody,
	}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		if _, is := event.ParseGroup(m.Subject); is {
			g, err := b.lastGroup(ctx, m.Subject)
			if err != nil || g == nil {
				return err
			}
			if changed[m.Subject] = g.seq != meta.Sequence.Stream; changed[m.Subject] {
				return nil
			}
			return group(g)
		}
		s, err := decodeEnvelope(m.Header).deadLetter(m.Subject, meta.Sequence.Stream, m.Data)
		if err != nil || !q.matches(s) {
			return err
		}
		if !q.WithBody {
			s.Body = nil
		}
		err = f(s)
		enough = err != nil
		return err
	})
	for _, subject := range slices.Sorted(maps.Keys(changed)) {
		if err != nil || enough || !changed[subject] {
			continue
		}
		var g *storedGroup
		if g, err = b.lastGroup(ctx, subject); err == nil && g != nil {
			err = group(g)
		}
	}
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("list dead letters: %w", err)
	}
	return nil
}

// eachByPage is EachDeadLetter for an f that takes its time: f is called when a page, of q.Limit, is read. It returns f's
// error as it is.
func (b *Bus) eachByPage(ctx context.Context, q DeadLetterQuery, f func(DeadLetter) error) error {
	for {
		items, next, err := b.DeadLetters(ctx, q)
		if err != nil {
			return err
		}
		for _, s := range items {
			if err := f(s); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		q.After = next
	}
}

// DeadLetter reads one, with its body; ErrNoDeadLetter. A group is found under its earlier numbers, too.
func (b *Bus) DeadLetter(ctx context.Context, seq uint64) (DeadLetter, error) {
	g, err := b.groupNumbered(ctx, seq)
	if err != nil {
		return DeadLetter{}, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	if g != nil {
		return g.deadLetter()
	}
	_, m, err := b.deadLetterMessage(ctx, seq)
	if err != nil {
		return DeadLetter{}, err
	}
	return decodeEnvelope(m.Header).deadLetter(m.Subject, seq, m.Data)
}

func (b *Bus) deadLetterMessage(ctx context.Context, seq uint64) (s jetstream.Stream, m *jetstream.RawStreamMsg, err error) {
	m, err = b.get(ctx, streamDeadLetters, func(ctx context.Context, stream jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		s = stream
		return s.GetMsg(ctx, seq)
	})
	if err == nil && m == nil {
		err = ErrNoDeadLetter
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read dead letter %d: %w", seq, err)
	}
	return s, m, nil
}

// deadLetter is the dead letter seq, which is on subject.
func (e envelope) deadLetter(subject string, seq uint64, body []byte) (DeadLetter, error) {
	kind, consumer, err := event.ParseDeadLetter(subject)
	if err != nil {
		return DeadLetter{}, err
	}
	from, v := e.from.place, e.verdict
	s := DeadLetter{
		Kind: kind, Consumer: consumer, Seq: seq, Stream: from.Stream, OriginSeq: from.Seq, Subject: e.from.subject,
		Seller: v.seller, Key: v.key, ID: headerOf(e.original, event.HeaderID), Class: v.class, Cause: v.cause, Reason: v.reason, Error: v.text,
		Attempts: v.attempts, First: v.first, Last: v.last, Trace: headerOf(e.original, event.HeaderTrace), Header: e.original, Body: body,
	}
	for _, text := range e.earlier {
		var was Earlier
		if json.Unmarshal([]byte(text), &was) == nil {
			s.Earlier = append(s.Earlier, was)
		}
	}
	return s, nil
}

// Sent is a replayed message.
type Sent struct {
	// No is the number of the dead letter that was replayed.
	No       uint64
	Consumer string
	// seq is its number on RETRY; origin names it while it is delayed; at is where the original stands, of that seller.
	seq    uint64
	origin string
	seller string
	at     Place
}

// Replay sends a message to its consumer again, under a new message id, and removes the dead letter. ErrNoDeadLetter
// when there is none, or somebody else has just replayed it: of several concurrent calls one succeeds.
func (b *Bus) Replay(ctx context.Context, seq uint64, by By) error {
	_, err := b.Send(ctx, seq, by)
	return err
}

// errGroup: the dead letter stands for many messages.
var errGroup = errors.New("it is a group of messages: replay it as one (ReplayGroup)")

// Send is Replay for callers that follow the message's Fate.
func (b *Bus) Send(ctx context.Context, seq uint64, by By) (Sent, error) {
	stream, raw, err := b.deadLetterMessage(ctx, seq)
	if err != nil {
		return Sent{}, err
	}
	was := decodeEnvelope(raw.Header)
	s, err := was.deadLetter(raw.Subject, seq, raw.Data)
	if _, group := event.ParseGroup(raw.Subject); group {
		err = errGroup
	}
	if err != nil {
		return Sent{}, fmt.Errorf("replay dead letter %d: %w", seq, err)
	}
	call := rand.Text()
	e := envelope{
		original: was.original, from: was.from, sent: sending{replayed: seq, call: call, who: by.Who, why: by.Why},
		released: slices.Clone(was.released), earlier: s.earlier(was.earlier, by, stream.CachedInfo().TimeStamp),
	}
	if by.Release && s.Cause != "" && !slices.Contains(e.released, s.Cause) {
		e.released = append(e.released, s.Cause)
	}
	m := e.message(event.RetrySubject(s.Consumer, sellerToken(s.Seller)), raw.Data)
	id := s.ID
	if id == "" {
		id = s.Stream + "/" + strconv.FormatUint(s.OriginSeq, 10)
	}
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s#replay-%d", truncate(id, 200), seq))
	acks, err := b.store(ctx, m)
	if err != nil {
		return Sent{}, fmt.Errorf("replay dead letter %d: %w", seq, err)
	}
	// A duplicate was sent by somebody else, by a call that did not get to removing the dead letter, or by an earlier
	// try of this call whose answer was lost. In each case the message is in flight and the dead letter must go; only
	// the last is this call's.
	ours := true
	if acks[0].Duplicate {
		if ours, err = b.calledBy(ctx, acks[0].Sequence, call); err != nil {
			return Sent{}, fmt.Errorf("replay dead letter %d: %w", seq, err)
		}
	}
	if err := removeDeadLetter(ctx, stream, seq); err != nil && !errors.Is(err, ErrNoDeadLetter) {
		return Sent{}, fmt.Errorf("replay dead letter %d: %w", seq, err)
	}
	if !ours {
		return Sent{}, fmt.Errorf("replay dead letter %d: %w: somebody else replayed it", seq, ErrNoDeadLetter)
	}
	b.log.Info().Uint64("shelf", seq).Str("subject", s.Subject).Str("id", truncate(s.ID, 200)).Str("by", by.Who).Str("why", by.Why).Msg("replayed")
	sent := Sent{No: seq, Consumer: s.Consumer, seq: acks[0].Sequence, at: e.from.place}
	_, sent.seller = event.Split(s.Subject)
	if !e.from.place.Stored.IsZero() {
		sent.origin = e.token()
	}
	return sent, nil
}

// calledBy reports whether that call sent the retry under seq; false when the retry is handled already.
func (b *Bus) calledBy(ctx context.Context, seq uint64, call string) (bool, error) {
	m, err := b.message(ctx, streamRetry, seq)
	return m != nil && decodeEnvelope(m.Header).sent.call == call, err
}

// Fate is what became of a replayed message.
type Fate int

// Fates.
const (
	// InFlight: it waits for its worker, or the worker has it.
	InFlight Fate = iota
	// Waiting: its next attempt is delayed.
	Waiting
	// Done: its worker is done with it.
	Done
	// HeldAgain and DeadLetteredAgain: it is a dead letter again, under another number.
	HeldAgain
	DeadLetteredAgain
)

// Fate reports what became of a replayed message so far. When a message that was Waiting has had its next attempt, Fate
// answers Done although that attempt may have failed too: callers that poll stop at Waiting.
func (b *Bus) Fate(ctx context.Context, s Sent) (Fate, error) {
	// In this order: a message is dead-lettered or delayed before it leaves RETRY.
	m, err := b.message(ctx, streamRetry, s.seq)
	if err != nil || m != nil {
		return InFlight, err
	}
	for kind, fate := range map[string]Fate{event.Dead: DeadLetteredAgain, event.Held: HeldAgain} {
		there, err := b.lastMessage(ctx, streamDeadLetters, event.DeadLetterSubject(kind, s.Consumer, streamRetry, s.seq))
		if err != nil || there != nil {
			return fate, err
		}
	}
	if s.at.Stream == StreamIntake {
		if again, err := b.grouped(ctx, s.Consumer, s.seller, s.at); err != nil || again {
			return DeadLetteredAgain, err
		}
	}
	if s.origin != "" {
		delayed, err := b.lastMessage(ctx, streamRetry, event.DelaySubject(s.Consumer, s.origin))
		if err != nil || delayed != nil {
			return Waiting, err
		}
	}
	return Done, nil
}

// Drop removes a dead letter for good; ErrNoDeadLetter.
func (b *Bus) Drop(ctx context.Context, seq uint64, by By) error {
	if dropped, err := b.dropGroup(ctx, seq, by); dropped || err != nil {
		return err
	}
	stream, m, err := b.deadLetterMessage(ctx, seq)
	if err != nil {
		return err
	}
	if err := removeDeadLetter(ctx, stream, seq); err != nil {
		return fmt.Errorf("drop dead letter %d: %w", seq, err)
	}
	b.log.Info().Uint64("shelf", seq).Str("subject", decodeEnvelope(m.Header).from.subject).Str("by", by.Who).Str("why", by.Why).Msg("dropped")
	return nil
}

// dropGroup drops the group with that number; false when there is none.
func (b *Bus) dropGroup(ctx context.Context, seq uint64, by By) (dropped bool, err error) {
	for range groupTries { // it may grow meanwhile
		var g *storedGroup
		if g, err = b.groupNumbered(ctx, seq); g == nil || err != nil {
			break
		}
		if err = b.removeGroup(ctx, g); err == nil {
			b.log.Info().Uint64("shelf", seq).Str("subject", g.env.from.subject).Int("count", DeadLetter{Group: &g.Group}.Count()).
				Str("by", by.Who).Str("why", by.Why).Msg("dropped")
			return true, nil
		}
		if !errors.Is(err, ErrNoDeadLetter) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("drop dead letter %d: %w", seq, err)
	}
	return false, nil
}

func removeDeadLetter(ctx context.Context, s jetstream.Stream, seq uint64) error {
	unsure := false // the answer to an earlier try was lost
	return withRetry(ctx, func(ctx context.Context) error {
		err := s.DeleteMsg(ctx, seq)
		if err == nil || unanswered(err) {
			unsure = true
			return err
		}
		// The server's error for a missing message differs between stores: read it.
		if _, getErr := s.GetMsg(ctx, seq); !errors.Is(getErr, jetstream.ErrMsgNotFound) {
			return err
		}
		if unsure {
			return nil
		}
		return ErrNoDeadLetter
	})
}

// Release replays, oldest first, what q selects and match (if not nil) accepts, at most perSecond a second (0: no
// limit). It can be interrupted and called again: what was sent is no longer a dead letter.
func (b *Bus) Release(ctx context.Context, q DeadLetterQuery, match func(DeadLetter) bool, perSecond float64, by By) (n int, err error) {
	q.Limit = 0
	if there, err := b.anyDeadLetter(ctx, q); err != nil || !there {
		return 0, err
	}
	// Messages that become dead letters meanwhile are left alone: they would be replayed for ever.
	_, last, err := b.Bounds(ctx, streamDeadLetters)
	if err != nil {
		return 0, fmt.Errorf("release: %w", err)
	}
	err = b.eachByPage(ctx, q, func(s DeadLetter) error {
		if s.Seq > last {
			return errEnough
		}
		if match != nil && !match(s) {
			return nil
		}
		if n > 0 && perSecond > 0 {
			if err := sleep(ctx, time.Duration(float64(time.Second)/perSecond)); err != nil {
				return err
			}
		}
		err := b.Replay(ctx, s.Seq, by)
		if errors.Is(err, ErrNoDeadLetter) {
			return nil // another was faster
		}
		if err == nil {
			n++
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return n, fmt.Errorf("release: %w", err)
	}
	return n, nil
}
