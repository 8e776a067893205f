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

	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// Group is what a dead letter holds that stands for many messages: where they are in their stream. They are complete
// there for as long as the stream keeps events.
type Group struct {
	// Ranges are ascending, and do not overlap.
	Ranges []Range
	// Replaying: a replay began and did not end. Nothing is added to such a group.
	Replaying bool
}

// Range is a run of messages of a group.
type Range struct {
	// From and To are sequences, both included.
	From, To uint64
	// First and Last are the earliest and the latest time that one of them was stored, by milliseconds.
	First, Last time.Time
}

// Count is how many messages a dead letter stands for: 1, or those of its group.
func (s DeadLetter) Count() int {
	if s.Group == nil {
		return 1
	}
	n := uint64(0)
	for _, r := range s.Group.Ranges {
		n += r.To - r.From + 1
	}
	return int(n) //nolint:gosec // far below
}

// Nth is the sequence of the group's nth message, counted from 1; 0 when it has fewer.
func (g *Group) Nth(n int) uint64 {
	if n < 1 {
		return 0
	}
	left := uint64(n - 1)
	for _, r := range g.Ranges {
		if size := r.To - r.From + 1; left >= size {
			left -= size
			continue
		}
		return r.From + left
	}
	return 0
}

// Each calls f for the sequences of the group's messages, ascending, until f returns an error, which is returned.
func (g *Group) Each(f func(seq uint64) error) error {
	for _, r := range g.Ranges {
		for seq := r.From; seq <= r.To; seq++ {
			if err := f(seq); err != nil {
				return err
			}
		}
	}
	return nil
}

// Has reports whether the group holds the message that was stored under the sequence at that time.
func (g *Group) Has(seq uint64, stored time.Time) bool {
	i, in := g.find(seq)
	return in && g.Ranges[i].has(stored)
}

// Holds reports whether the group holds a message under the sequence.
func (g *Group) Holds(seq uint64) bool {
	_, in := g.find(seq)
	return in
}

func (r Range) has(stored time.Time) bool {
	ms := stored.UnixMilli()
	return r.First.UnixMilli() <= ms && ms <= r.Last.UnixMilli()
}

// find is the range that holds seq, or the index at which one would be inserted.
func (g *Group) find(seq uint64) (i int, in bool) {
	return slices.BinarySearchFunc(g.Ranges, seq, func(r Range, seq uint64) int {
		switch {
		case r.To < seq:
			return -1
		case r.From > seq:
			return 1
		default:
			return 0
		}
	})
}

// rangeGap is how far apart in time two neighbours of a range may be. After a restore of the stream the next sequence is
// given again, much later: such a message begins a range of its own.
const rangeGap = time.Minute

// add adds a message. added is false when the group has it, fits when it can take it: under the same number it may hold a
// message that a restore of the stream removed.
func (g *Group) add(seq uint64, stored time.Time) (added, fits bool) {
	i, in := g.find(seq)
	if in {
		return false, g.Ranges[i].has(stored)
	}
	near := func(r Range) bool {
		return stored.Sub(r.Last) < rangeGap && r.First.Sub(stored) < rangeGap
	}
	before := i > 0 && g.Ranges[i-1].To+1 == seq && near(g.Ranges[i-1])
	after := i < len(g.Ranges) && g.Ranges[i].From == seq+1 && near(g.Ranges[i])
	one := Range{seq, seq, stored, stored}
	switch {
	case before && after:
		g.Ranges[i-1] = g.Ranges[i-1].with(one).with(g.Ranges[i])
		g.Ranges = slices.Delete(g.Ranges, i, i+1)
	case before:
		g.Ranges[i-1] = g.Ranges[i-1].with(one)
	case after:
		g.Ranges[i] = one.with(g.Ranges[i])
	case len(g.Ranges) >= groupRanges:
		return false, false
	default:
		g.Ranges = slices.Insert(g.Ranges, i, one)
	}
	return true, true
}

// with is r and the range behind it as one.
func (r Range) with(next Range) Range {
	r.To = next.To
	if next.First.Before(r.First) {
		r.First = next.First
	}
	if next.Last.After(r.Last) {
		r.Last = next.Last
	}
	return r
}

// removeUpTo removes all messages up to seq.
func (g *Group) removeUpTo(seq uint64) {
	i, in := g.find(seq)
	if in {
		if g.Ranges[i].From = seq + 1; g.Ranges[i].From > g.Ranges[i].To {
			i++
		}
	}
	g.Ranges = slices.Delete(g.Ranges, 0, i)
}

// Limits of groups. docs/operations.md says them.
const (
	// groupRanges bounds the ranges of a group; another begins then. Some 15 bytes each, they are stored anew whenever the
	// group grows. Messages of one seller that follow each other without another's between them are one range.
	groupRanges = 4096
	// groupAge is how long a group grows.
	groupAge = 7 * 24 * time.Hour
	// groupNumbers is how many of its earlier numbers a group is found by.
	groupNumbers = 256
)

// groupBody is a group as it is stored. Other builds read it during an upgrade: names must stay.
type groupBody struct {
	// ID separates its replays from those of other groups.
	ID string `json:"id"`
	// Since is when it began.
	Since     time.Time `json:"since"`
	Replaying bool      `json:"replaying,omitempty"`
	// Was are its earlier numbers among the dead letters, the first and the last groupNumbers.
	Was []uint64 `json:"was,omitempty"`
	// Ranges are distances: of From to the To before, of To to From, of First to the First before, of Last to First, both in
	// milliseconds. They start from 0 and from Unix' epoch.
	Ranges [][4]int64 `json:"ranges"`
}

// storedGroup is a group among the dead letters.
type storedGroup struct {
	subject string
	// seq is its number; 0 when it is not stored yet.
	seq uint64
	env envelope
	groupBody
	Group
}

func newGroup(subject string, now time.Time) *storedGroup {
	return &storedGroup{subject: subject, groupBody: groupBody{ID: rand.Text(), Since: now}}
}

// decodeGroup reads a stored group.
func decodeGroup(m *jetstream.RawStreamMsg) (*storedGroup, error) {
	g := &storedGroup{subject: m.Subject, seq: m.Sequence, env: decodeEnvelope(m.Header)}
	if err := json.Unmarshal(m.Data, &g.groupBody); err != nil {
		return nil, fmt.Errorf("read group %d: %w", m.Sequence, err)
	}
	g.Group.Replaying = g.groupBody.Replaying
	var to, first int64
	for _, d := range g.groupBody.Ranges {
		from := to + d[0]
		to = from + d[1]
		first += d[2]
		g.Group.Ranges = append(g.Group.Ranges, Range{
			uint64(from), uint64(to), time.UnixMilli(first).UTC(), time.UnixMilli(first + d[3]).UTC(), //nolint:gosec // sequences
		})
	}
	return g, nil
}

func (g *storedGroup) encode() ([]byte, error) {
	g.groupBody.Replaying, g.groupBody.Ranges = g.Group.Replaying, make([][4]int64, len(g.Group.Ranges))
	var to, first int64
	for i, r := range g.Group.Ranges {
		d := [4]int64{int64(r.From) - to, int64(r.To - r.From), r.First.UnixMilli() - first, r.Last.UnixMilli() - r.First.UnixMilli()} //nolint:gosec // sequences
		g.groupBody.Ranges[i] = d
		to, first = int64(r.To), r.First.UnixMilli() //nolint:gosec // a sequence
	}
	return json.Marshal(g.groupBody)
}

// grows reports whether messages may be added.
func (g *storedGroup) grows(now time.Time) bool {
	return !g.Group.Replaying && now.Sub(g.Since) < groupAge && len(g.Group.Ranges) < groupRanges
}

// hadNumber reports whether the group was stored under that number.
func (g *storedGroup) hadNumber(seq uint64) bool { return slices.Contains(g.Was, seq) }

// number is the first number that the group had.
func (g *storedGroup) number() uint64 {
	if len(g.Was) > 0 {
		return g.Was[0]
	}
	return g.seq
}

func (g *storedGroup) deadLetter() (DeadLetter, error) {
	s, err := g.env.deadLetter(g.subject, g.seq, nil)
	s.Group = &g.Group
	return s, err
}

// lastGroup is the newest of the groups that filter covers; nil when there is none.
func (b *Bus) lastGroup(ctx context.Context, filter string) (*storedGroup, error) {
	m, err := b.lastMessage(ctx, streamDeadLetters, filter)
	if m == nil || err != nil {
		return nil, err
	}
	return decodeGroup(m)
}

// storeGroup stores g in place of the version that was read; again is true when somebody else changed it meanwhile, and
// nothing was stored. A group without messages is removed.
func (b *Bus) storeGroup(ctx context.Context, g *storedGroup) (again bool, err error) {
	was := g.seq
	if len(g.Group.Ranges) == 0 {
		err := b.removeGroup(ctx, g)
		if errors.Is(err, ErrNoDeadLetter) {
			return true, nil
		}
		return false, err
	}
	if was != 0 {
		g.Was = append(g.Was, was)
		if len(g.Was) > groupNumbers {
			g.Was = slices.Delete(g.Was, 1, len(g.Was)-groupNumbers+1)
		}
	}
	body, err := g.encode()
	if err != nil {
		return false, err
	}
	m := g.env.message(g.subject, body)
	m.Header.Set(event.HeaderCount, strconv.Itoa(DeadLetter{Group: &g.Group}.Count()))
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(was, 10))
	acks, err := b.store(ctx, m)
	if wrongLast(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	g.seq = acks[0].Sequence
	if was != 0 {
		// If this fails, readers leave the old version out, and the next writer removes it.
		if err := b.removeVersions(ctx, g.subject, g.Was...); err != nil {
			b.log.Warn().Err(err).Str("subject", g.subject).Msg("cannot remove the old version of a group")
		}
	}
	return false, nil
}

// removeVersions removes the last two of a group's versions, older first, as far as they are still there: a crash may have left
// the older one, which would stand for the group again when the newer is gone.
func (b *Bus) removeVersions(ctx context.Context, subject string, seqs ...uint64) error {
	return b.withStream(ctx, streamDeadLetters, func(ctx context.Context, s jetstream.Stream) error {
		for _, seq := range seqs[max(0, len(seqs)-2):] {
			m, err := s.GetMsg(ctx, seq)
			if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Subject != subject {
				continue
			}
			if err == nil {
				err = removeDeadLetter(ctx, s, seq)
			}
			if err != nil && !errors.Is(err, ErrNoDeadLetter) {
				return err
			}
		}
		return nil
	})
}

// removeGroup removes a group for good. ErrNoDeadLetter when it has been changed since it was read.
func (b *Bus) removeGroup(ctx context.Context, g *storedGroup) error {
	if err := b.removeVersions(ctx, g.subject, g.Was...); err != nil {
		return err
	}
	return b.withStream(ctx, streamDeadLetters, func(ctx context.Context, s jetstream.Stream) error {
		return removeDeadLetter(ctx, s, g.seq)
	})
}

// groupNumbered is the group with that number, or that had it; nil when there is none. An earlier number finds it because a
// person may have read the list before the group grew.
func (b *Bus) groupNumbered(ctx context.Context, seq uint64) (*storedGroup, error) {
	m, err := b.message(ctx, streamDeadLetters, seq)
	if err != nil {
		return nil, err
	}
	if m != nil {
		if _, group := event.ParseGroup(m.Subject); !group {
			return nil, nil
		}
		return b.lastGroup(ctx, m.Subject)
	}
	subjects, err := b.groupSubjects(ctx, event.DeadLetterFilter(event.Dead, ""))
	if err != nil {
		return nil, err
	}
	for _, subject := range subjects {
		g, err := b.lastGroup(ctx, subject)
		if err != nil || g != nil && g.hadNumber(seq) {
			return g, err
		}
	}
	return nil, nil
}

// groupSubjects are the subjects of the groups that filter covers, sorted.
func (b *Bus) groupSubjects(ctx context.Context, filter string) (subjects []string, err error) {
	err = b.eachSubject(ctx, streamDeadLetters, filter, func(subject string, _ uint64) {
		if _, group := event.ParseGroup(subject); group {
			subjects = append(subjects, subject)
		}
	})
	slices.Sort(subjects)
	return subjects, err
}

// changeGroup changes a stored group by compare-and-set, and returns it as it is then; ErrNoDeadLetter when it is gone.
func (b *Bus) changeGroup(ctx context.Context, g *storedGroup, change func(*Group)) (*storedGroup, error) {
	id := g.ID
	for range groupTries {
		change(&g.Group)
		again, err := b.storeGroup(ctx, g)
		if err != nil || !again {
			return g, err
		}
		if g, err = b.lastGroup(ctx, g.subject); err != nil {
			return nil, err
		}
		if g == nil || g.ID != id {
			return nil, ErrNoDeadLetter
		}
	}
	return nil, errGroupBusy
}

// groupTries is how often a writer of a group tries again because another writer was faster.
const groupTries = 10

var errGroupBusy = errors.New("others keep changing the group")

// Grouped reads a message of a group from its stream, which keeps it whole. ErrNotStored when the group has no such message, or the
// stream no longer has it.
func (b *Bus) Grouped(ctx context.Context, s DeadLetter, seq uint64) (Stored, error) {
	m, err := b.message(ctx, s.Stream, seq)
	if err == nil && (m == nil || s.Group == nil || !s.Group.Has(seq, m.Time)) {
		err = ErrNotStored
	}
	if err != nil {
		return Stored{}, fmt.Errorf("read %s/%d: %w", s.Stream, seq, err)
	}
	return stored(m.Subject, Place{s.Stream, seq, m.Time}, m.Header, m.Data), nil
}

// replayPart is how many messages of a group are sent between two notes of how far it came.
const replayPart = 200

// ReplayGroup sends all messages of a group to their consumer again, like Replay, in the order of their stream, and removes the group.
// From its beginning nothing is added to the group. pace is called before each message, sent after it. gone counts messages that
// their stream no longer has. It can be interrupted and called again: it goes on where it was; after a crash up to 200 messages
// are sent once more under the same message ids. ErrNoDeadLetter when there is no such group.
func (b *Bus) ReplayGroup(ctx context.Context, seq uint64, by By, pace func(context.Context) error, sent func(Sent)) (n, gone int, err error) {
	g, err := b.groupNumbered(ctx, seq)
	if err == nil && g == nil {
		err = ErrNoDeadLetter
	}
	if err == nil && !g.Group.Replaying {
		g, err = b.changeGroup(ctx, g, func(g *Group) { g.Replaying = true })
	}
	for err == nil && len(g.Group.Ranges) > 0 {
		var ns, gones int
		ns, gones, g, err = b.replaySome(ctx, g, by, pace, sent)
		n, gone = n+ns, gone+gones
	}
	if errors.Is(err, ErrNoDeadLetter) && n+gone > 0 {
		err = nil // another replay sent the rest
	}
	if err != nil {
		return n, gone, fmt.Errorf("replay group %d: %w", seq, err)
	}
	return n, gone, nil
}

// replaySome sends the next messages of g and removes them from it.
func (b *Bus) replaySome(ctx context.Context, g *storedGroup, by By, pace func(context.Context) error, sent func(Sent)) (n, gone int, now *storedGroup, err error) {
	var last uint64
	failed := g.Group.Each(func(seq uint64) error {
		if err := pace(ctx); err != nil {
			return err
		}
		s, err := b.sendGrouped(ctx, g, seq, by)
		switch {
		case errors.Is(err, ErrNotStored):
			gone++
		case err != nil:
			return err
		default:
			n++
			sent(s)
		}
		if last = seq; n+gone == replayPart {
			return errEnough
		}
		return nil
	})
	if last != 0 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit) // what was sent is noted also after an interruption
		defer cancel()
		g, err = b.changeGroup(ctx, g, func(g *Group) { g.removeUpTo(last) })
	}
	if failed != nil && !errors.Is(failed, errEnough) {
		err = failed
	}
	return n, gone, g, err
}

// sendGrouped replays one message of a group.
func (b *Bus) sendGrouped(ctx context.Context, g *storedGroup, seq uint64, by By) (Sent, error) {
	s, err := g.deadLetter()
	if err != nil {
		return Sent{}, err
	}
	one, err := b.Grouped(ctx, s, seq)
	if err != nil {
		return Sent{}, err
	}
	at := Place{one.Stream, one.Seq, one.At}
	e := envelope{
		original: one.Header, from: origin{one.Subject, at, true},
		sent: sending{replayed: g.number(), who: by.Who, why: by.Why}, earlier: s.earlier(nil, by, b.Now()),
	}
	m := e.message(event.RetrySubject(s.Consumer, sellerToken(one.Seller)), one.Body)
	m.Header.Set(jetstream.MsgIDHeader, at.token()+"#replay-"+g.ID)
	acks, err := b.store(ctx, m)
	if err != nil {
		return Sent{}, err
	}
	b.log.Info().Uint64("shelf", g.number()).Str("subject", one.Subject).Uint64("seq", seq).Str("by", by.Who).Str("why", by.Why).Msg("replayed")
	return Sent{No: g.number(), Consumer: s.Consumer, seq: acks[0].Sequence, origin: e.token(), seller: one.Seller, at: at}, nil
}

// grouped reports whether a group of the consumer's holds the message that stood at the place. It looks into the newest group of
// each code that an unreadable message can have.
func (b *Bus) grouped(ctx context.Context, consumer, seller string, at Place) (bool, error) {
	for _, code := range unreadCodes {
		g, err := b.lastGroup(ctx, event.GroupFilter(consumer, sellerToken(seller), code))
		if err != nil {
			return false, err
		}
		if g != nil && g.env.from.place.Stream == at.Stream && !g.Group.Replaying && g.Group.Has(at.Seq, at.Stored) {
			return true, nil
		}
	}
	return false, nil
}

// unreadCodes are the codes of the reasons with which a message is not read (server.read).
var unreadCodes = []string{"malformed", "invalid", "body.toolarge", "headers.toolarge", "subject.invalid", "seller.mismatch"}
