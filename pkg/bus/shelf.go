package bus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

// ErrNoDeadLetter says that no message stands on the shelf under that number (any more).
var ErrNoDeadLetter = errors.New("not on the shelf")

// Shelved is a message that could not go on.
type DeadLetter struct {
	// Kind is event.Dead (needs a person) or event.Held (waits for a cause).
	Kind     string
	Consumer string
	// Seq is the shelf's own number.
	Seq uint64
	// Stream, OriginSeq, Subject, Seller, Key and ID are the original event's, also when a retry was shelved; Seller,
	// Key and ID may be empty.
	Stream                   string
	OriginSeq                uint64
	Subject, Seller, Key, ID string
	// Class is a fault.Class as text; Cause is what a held one waits for.
	Class, Cause string
	Reason       fault.Reason
	// Error is the whole text, at most 4 KiB.
	Error    string
	Attempts int
	// First is when the original was stored, Last when it was shelved.
	First, Last time.Time
	Trace       string
	// Earlier is where it stood before it was replayed, oldest first, the last keepEarlier times.
	Earlier []Earlier
	// Header and Body are the original's; Body is nil unless asked for.
	Header map[string][]string
	Body   []byte
}

// Earlier is a time that a message stood on the shelf before, and who replayed it then, and why.
type Earlier struct {
	No          uint64 `json:"no"`
	Kind        string `json:"kind"`
	Class       string `json:"class"`
	Cause       string `json:"cause,omitempty"`
	Code        string `json:"code,omitempty"`
	Attempts    int    `json:"attempts"`
	Since, Left time.Time
	Who, Why    string
}

const (
	// keepEarlier is how many earlier times travel with a message: they share its 64 KiB of headers.
	keepEarlier = 10
	// maxEarlier bounds each of their texts, bytes.
	maxEarlier = 200
)

// earlier is what stood on the shelf before s, and s itself, as headers.
func (s DeadLetter) earlier(before []string, by By, now time.Time) []string {
	text, err := json.Marshal(Earlier{
		No: s.Seq, Kind: s.Kind, Class: s.Class, Cause: cut(s.Cause, maxEarlier), Code: cut(s.Reason.Code, maxEarlier), Attempts: s.Attempts,
		Since: s.Last.UTC(), Left: now.UTC(), Who: cut(by.Who, maxEarlier), Why: cut(by.Why, maxEarlier),
	})
	if err != nil {
		return before
	}
	all := append(slices.Clone(before), string(text))
	return all[max(0, len(all)-keepEarlier):]
}

// DeadLetterQuery selects from the shelf. Empty fields select all.
type DeadLetterQuery struct {
	Kind, Consumer, Seller, Cause string
	// Subject is the original's, or the event's name without its seller.
	Subject string
	// After is the last number of the page before.
	After uint64
	// Limit of items; 0 means 100, at most 10 000.
	Limit    int
	WithBody bool
}

// By says who moves something off the shelf, and why.
type By struct {
	Who, Why string
	// Release lets a held message go past the very cause it waits for (Delivery.Released).
	Release bool
}

// putOnShelf stores the message under the name of its own that makes shelving twice once.
func (w *server) putOnShelf(ctx context.Context, t *taken, d *Delivery, kind string, why error) error {
	meta, err := t.Metadata()
	if err != nil {
		return err
	}
	now := w.s.Now()
	subject := event.DeadLetterSubject(kind, w.row.name, meta.Stream, meta.Sequence.Stream)
	m := nats.NewMsg(subject)
	m.Data = t.Data
	m.Header = carry(d.header)
	d.keepTrace(m.Header)
	d.originHeaders(m.Header)
	class := fault.Of(why)
	setIf(m.Header, event.HeaderSeller, d.Seller)
	setIf(m.Header, event.HeaderKey, cut(d.key, maxText))
	setAll(m.Header, event.HeaderReleased, d.Released)
	setAll(m.Header, event.HeaderEarlier, d.earlier)
	m.Header.Set(event.HeaderClass, class.String())
	setIf(m.Header, event.HeaderCause, cut(fault.Cause(why), maxText))
	m.Header.Set(event.HeaderReason, reasonText(fault.ReasonOf(why, class.String())))
	m.Header.Set(event.HeaderError, cut(why.Error(), maxError))
	m.Header.Set(event.HeaderAttempts, strconv.Itoa(d.Attempt))
	m.Header.Set(event.HeaderFirst, d.StreamTime.UTC().Format(time.RFC3339Nano))
	m.Header.Set(event.HeaderLast, now.UTC().Format(time.RFC3339Nano))

	// No message id: a message that is replayed, comes back and is shelved again within the window for duplicates
	// would be stored nowhere.
	var expected uint64
	for range 5 {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expected, 10))
		_, err := w.b.store(ctx, m)
		if !wrongLast(err) {
			return err
		}
		have, err := w.b.last(ctx, streamShelf, subject)
		switch {
		case err != nil:
			return err
		case have == nil:
			expected = 0
		case sameOrigin(have.Header, m.Header):
			return nil // shelved before a crash
		default:
			// The stream was put back to an older copy and gave this number to another message. Keep both.
			expected = have.Sequence
		}
	}
	return fmt.Errorf("shelve %s: the shelf keeps changing", subject)
}

func sameOrigin(a, b nats.Header) bool {
	for _, name := range []string{event.HeaderOriginStream, event.HeaderOriginSeq, event.HeaderOriginTime} {
		if a.Get(name) != b.Get(name) {
			return false
		}
	}
	return true
}

func (q DeadLetterQuery) matches(s DeadLetter) bool {
	return (q.Seller == "" || s.Seller == q.Seller) &&
		(q.Cause == "" || s.Cause == q.Cause) &&
		(q.Subject == "" || s.Subject == q.Subject || s.Seller != "" && s.Subject == q.Subject+"."+s.Seller)
}

const (
	shelfPage    = 100
	shelfPageMax = 10_000
)

// Shelf lists what stands there, oldest first. next is the After of the next page, 0 when there is none.
func (b *Bus) DeadLetters(ctx context.Context, q DeadLetterQuery) (items []DeadLetter, next uint64, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = shelfPage
	}
	limit = min(limit, shelfPageMax)
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

// EachDeadLetter tells all that q selects, oldest first and without its Limit, until f returns an error, which is wrapped. It
// keeps nothing, so that any number can be read. f must be quick: for what takes time, take pages (Shelf).
func (b *Bus) EachDeadLetter(ctx context.Context, q DeadLetterQuery, f func(DeadLetter) error) error {
	err := b.read(ctx, reading{
		stream: streamShelf, filters: []string{event.DeadLetterFilter(q.Kind, q.Consumer)}, from: q.After + 1, headersOnly: !q.WithBody,
	}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		s, err := shelved(m.Subject, meta.Sequence.Stream, m.Header, m.Data)
		if err != nil || !q.matches(s) {
			return err
		}
		if !q.WithBody {
			s.Body = nil
		}
		return f(s)
	})
	if err != nil {
		return fmt.Errorf("list shelf: %w", err)
	}
	return nil
}

// DeadLetter reads one, with its body; ErrNoDeadLetter.
func (b *Bus) DeadLetter(ctx context.Context, seq uint64) (DeadLetter, error) {
	_, m, err := b.shelfMessage(ctx, seq)
	if err != nil {
		return DeadLetter{}, err
	}
	return shelved(m.Subject, m.Sequence, m.Header, m.Data)
}

func (b *Bus) shelfMessage(ctx context.Context, seq uint64) (s jetstream.Stream, m *jetstream.RawStreamMsg, err error) {
	err = ask(ctx, func(ctx context.Context) error {
		if s, err = b.js.Stream(ctx, streamShelf); err != nil {
			return err
		}
		m, err = s.GetMsg(ctx, seq)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		err = ErrNoDeadLetter
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read shelf %d: %w", seq, err)
	}
	return s, m, nil
}

func shelved(subject string, seq uint64, h nats.Header, body []byte) (DeadLetter, error) {
	kind, consumer, err := event.ParseDeadLetter(subject)
	if err != nil {
		return DeadLetter{}, err
	}
	original := uncarry(h)
	s := DeadLetter{
		Kind: kind, Consumer: consumer, Stream: h.Get(event.HeaderOriginStream), Seq: seq,
		Subject: h.Get(event.HeaderOriginSubject), Seller: h.Get(event.HeaderSeller),
		Key: h.Get(event.HeaderKey), ID: headerOf(original, event.HeaderID),
		Class: h.Get(event.HeaderClass), Cause: h.Get(event.HeaderCause),
		Reason: reasonFrom(h.Get(event.HeaderReason)), Error: h.Get(event.HeaderError),
		Trace: headerOf(original, event.HeaderTrace), Header: original, Body: body,
	}
	s.OriginSeq, _ = strconv.ParseUint(h.Get(event.HeaderOriginSeq), 10, 64)
	s.Attempts, _ = strconv.Atoi(h.Get(event.HeaderAttempts))
	s.First, _ = time.Parse(time.RFC3339Nano, h.Get(event.HeaderFirst))
	s.Last, _ = time.Parse(time.RFC3339Nano, h.Get(event.HeaderLast))
	for _, text := range h.Values(event.HeaderEarlier) {
		var e Earlier
		if json.Unmarshal([]byte(text), &e) == nil {
			s.Earlier = append(s.Earlier, e)
		}
	}
	return s, nil
}

// Sent is a message that was replayed.
type Sent struct {
	// No is the number that it stood under.
	No       uint64
	Consumer string
	// seq is its number on the stream of retries; origin names it while it is parked.
	seq    uint64
	origin string
}

// Replay sends a message to its consumer again, under a new message id, and takes it off the shelf. ErrNoDeadLetter when it
// is not there, or somebody else has just replayed it: of several who replay it at once one succeeds.
func (b *Bus) Replay(ctx context.Context, seq uint64, by By) error {
	_, err := b.Send(ctx, seq, by)
	return err
}

// Send is Replay for those who want to know what becomes of it (Fate).
func (b *Bus) Send(ctx context.Context, seq uint64, by By) (Sent, error) {
	stream, raw, err := b.shelfMessage(ctx, seq)
	if err != nil {
		return Sent{}, err
	}
	s, err := shelved(raw.Subject, raw.Sequence, raw.Header, raw.Data)
	if err != nil {
		return Sent{}, fmt.Errorf("replay shelf %d: %w", seq, err)
	}
	seller := s.Seller
	if !event.ValidSeller(seller) {
		seller = event.NoSeller
	}
	m := nats.NewMsg(event.RetrySubject(s.Consumer, seller))
	m.Data = raw.Data
	m.Header = carry(s.Header)
	for _, name := range []string{event.HeaderOriginSubject, event.HeaderOriginStream, event.HeaderOriginSeq, event.HeaderOriginTime} {
		m.Header.Set(name, raw.Header.Get(name))
	}
	m.Header.Set(event.HeaderReplay, strconv.FormatUint(seq, 10))
	setIf(m.Header, event.HeaderBy, cut(by.Who, maxText))
	setIf(m.Header, event.HeaderWhy, cut(by.Why, maxText))
	call := rand.Text()
	m.Header.Set(event.HeaderCall, call)
	setAll(m.Header, event.HeaderEarlier, s.earlier(raw.Header.Values(event.HeaderEarlier), by, time.Now()))
	released := slices.Clone(raw.Header.Values(event.HeaderReleased))
	if by.Release && s.Cause != "" && !slices.Contains(released, s.Cause) {
		released = append(released, s.Cause)
	}
	setAll(m.Header, event.HeaderReleased, released)
	id := s.ID
	if id == "" {
		id = s.Stream + "/" + strconv.FormatUint(s.OriginSeq, 10)
	}
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s#replay-%d", cut(id, 200), seq))
	acks, err := b.store(ctx, m)
	if err != nil {
		return Sent{}, fmt.Errorf("replay shelf %d: %w", seq, err)
	}
	// A duplicate was sent by somebody else, by a call that did not get to taking it off, or by an earlier try of this one
	// whose answer was lost. In each case it is on its way and has to leave the shelf; only the last is this call's.
	ours := true
	if acks[0].Duplicate {
		if ours, err = b.calledBy(ctx, acks[0].Sequence, call); err != nil {
			return Sent{}, fmt.Errorf("replay shelf %d: %w", seq, err)
		}
	}
	if err := takeOff(ctx, stream, seq); err != nil && !errors.Is(err, ErrNoDeadLetter) {
		return Sent{}, fmt.Errorf("replay shelf %d: %w", seq, err)
	}
	if !ours {
		return Sent{}, fmt.Errorf("replay shelf %d: %w: somebody else replayed it", seq, ErrNoDeadLetter)
	}
	b.log.Info().Uint64("shelf", seq).Str("subject", s.Subject).Str("id", cut(s.ID, 200)).Str("by", by.Who).Str("why", by.Why).Msg("replayed")
	sent := Sent{No: seq, Consumer: s.Consumer, seq: acks[0].Sequence}
	if at, err := time.Parse(time.RFC3339Nano, raw.Header.Get(event.HeaderOriginTime)); err == nil {
		sent.origin = originOf(s.Stream, s.OriginSeq, at) + "-r" + strconv.FormatUint(seq, 10)
	}
	return sent, nil
}

// calledBy tells whether the retry under seq was sent by that call. Of one that is done already nobody knows: then not.
func (b *Bus) calledBy(ctx context.Context, seq uint64, call string) (bool, error) {
	m, err := b.retryMessage(ctx, seq)
	return m != nil && m.Header.Get(event.HeaderCall) == call, err
}

// retryMessage reads a message of the stream of retries; nil when it is done.
func (b *Bus) retryMessage(ctx context.Context, seq uint64) (m *jetstream.RawStreamMsg, err error) {
	err = ask(ctx, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, streamRetry)
		if err != nil {
			return err
		}
		m, err = s.GetMsg(ctx, seq)
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, err
}

// Fate is what became of a message that was replayed.
type Fate int

// Fates.
const (
	// OnTheWay: it waits for its worker, or the worker has it.
	InFlight Fate = iota
	// Waiting: it is tried again later.
	Waiting
	// Through: its worker is done with it.
	Done
	// HeldAgain and DeadAgain: it came back to the shelf, under another number.
	HeldAgain
	DeadLetteredAgain
)

// Fate tells what became of a replayed message so far. Asked when a message that was Waiting has been tried again, it
// answers Through although that one may have come back: whoever asks repeatedly stops at Waiting.
func (b *Bus) Fate(ctx context.Context, s Sent) (Fate, error) {
	// In this order: a message is shelved or parked before it leaves the stream of retries.
	m, err := b.retryMessage(ctx, s.seq)
	if err != nil || m != nil {
		return InFlight, err
	}
	for kind, fate := range map[string]Fate{event.Dead: DeadLetteredAgain, event.Held: HeldAgain} {
		there, err := b.last(ctx, streamShelf, event.DeadLetterSubject(kind, s.Consumer, streamRetry, s.seq))
		if err != nil || there != nil {
			return fate, err
		}
	}
	if s.origin != "" {
		parked, err := b.last(ctx, streamRetry, event.DelaySubject(s.Consumer, s.origin))
		if err != nil || parked != nil {
			return Waiting, err
		}
	}
	return Done, nil
}

// Drop takes a message off the shelf for good; ErrNoDeadLetter.
func (b *Bus) Drop(ctx context.Context, seq uint64, by By) error {
	stream, m, err := b.shelfMessage(ctx, seq)
	if err != nil {
		return err
	}
	if err := takeOff(ctx, stream, seq); err != nil {
		return fmt.Errorf("drop shelf %d: %w", seq, err)
	}
	b.log.Info().Uint64("shelf", seq).Str("subject", m.Header.Get(event.HeaderOriginSubject)).Str("by", by.Who).Str("why", by.Why).Msg("dropped")
	return nil
}

func takeOff(ctx context.Context, s jetstream.Stream, seq uint64) error {
	unsure := false // an earlier try's answer was lost
	return ask(ctx, func(ctx context.Context) error {
		err := s.DeleteMsg(ctx, seq)
		if err == nil || unanswered(err) {
			unsure = true
			return err
		}
		// The server's word for "it is not there" differs between stores: look.
		if _, getErr := s.GetMsg(ctx, seq); !errors.Is(getErr, jetstream.ErrMsgNotFound) {
			return err
		}
		if unsure {
			return nil
		}
		return ErrNoDeadLetter
	})
}

// Release replays, oldest first, what q selects and match (if not nil) agrees to, at most perSecond a second (0: no
// limit). Broken off, it is simply called again: what was sent is off the shelf.
func (b *Bus) Release(ctx context.Context, q DeadLetterQuery, match func(DeadLetter) bool, perSecond float64, by By) (n int, err error) {
	// What comes back to the shelf meanwhile is left there: it would go round for ever.
	var last uint64
	err = ask(ctx, func(ctx context.Context) error {
		stream, err := b.js.Stream(ctx, streamShelf)
		if err == nil {
			last = stream.CachedInfo().State.LastSeq
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("release: %w", err)
	}
	q.Limit = shelfPage
	for {
		items, next, err := b.DeadLetters(ctx, q)
		if err != nil {
			return n, fmt.Errorf("release: %w", err)
		}
		for _, s := range items {
			if s.Seq > last {
				return n, nil
			}
			if match != nil && !match(s) {
				continue
			}
			if n > 0 && perSecond > 0 {
				if err := sleep(ctx, time.Duration(float64(time.Second)/perSecond)); err != nil {
					return n, fmt.Errorf("release: %w", err)
				}
			}
			if err := b.Replay(ctx, s.Seq, by); errors.Is(err, ErrNoDeadLetter) {
				continue // another was faster
			} else if err != nil {
				return n, fmt.Errorf("release: %w", err)
			}
			n++
		}
		if next == 0 {
			return n, nil
		}
		q.After = next
	}
}
