package bus

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

// This file bounds what messages cost that an ERP publishes and nobody can read, or that break the rules of their .proto. Every
// process keeps the first aloneMost of a seller's in an hour as dead letters of their own. Those beyond go into groups:
// dead letters that hold no payload, but the sequences at which the messages stand in their stream, which keeps them whole for as
// long as it keeps events.
//
// # Why
//
// A program that publishes nonsense publishes a lot of it. 32 659 such messages of one seller were 32 565 synced writes and as many
// entries, which no person reads, and delayed another seller's order by 27 s. In groups they are some thirty writes and
// one entry.
//
// The message leaves its slot when it is known to be unreadable, and is acked when its group is stored: so one write takes what came
// within groupLinger, whatever the number of slots. A crash before the write redelivers the messages. After a crash between the write
// and the ack the group has them already. Several replicas share a group by compare-and-set.
//
// Counted is by the seller in the subject, which permissions vouch for, not by the seller inside: messages of made-up sellers
// would each have a budget of their own. What comes on a subject without a seller counts together.
//
// An ERP is still answered for every message whose number can be read, by one event each, like for an order that can be read. That is
// bounded by the seller's seats, and an ERP that hears of no failure waits for ever.
//
// Tried: a group as many immutable entries, one for each write. It needs no compare-and-set, but a seller with some hundred bad
// messages an hour, all day, has as many entries as before. And a sample of the payload in the group: erasing one order would have
// to erase the entry of all others, and the first message is one read away.

const (
	// aloneMost is how many unreadable messages of a seller each process keeps as dead letters of their own within aloneFor.
	aloneMost = 100
	aloneFor  = time.Hour
	// groupLinger is how long the first message of a write waits for others. It stays far below AckWait.
	groupLinger = time.Second
	// groupBatch is the most messages of a write.
	groupBatch = 1000
	// groupWaiting is how many messages of all groups may wait for a write; then slots wait.
	groupWaiting = 4000
)

// garbage collects a consumer's unreadable messages. Its zero value is ready.
type garbage struct {
	mu      sync.Mutex
	alone   map[string]*allowance // by the seller's token
	queues  map[groupKey]*groupQueue
	waiting int
	room    sync.Cond
	writing sync.WaitGroup
}

// allowance counts the messages that were kept as dead letters of their own since a time.
type allowance struct {
	since time.Time
	n     int
}

// groupKey is what the messages of a group have in common, besides their consumer.
type groupKey struct{ seller, code string }

type groupQueue struct {
	waiting []unreadable
	full    chan struct{} // closed when a write need not linger
}

// unreadable is a message that waits for its group to be stored.
type unreadable struct {
	t *inflight
	d *Delivery
	// why it cannot be read.
	why error
}

// unread settles a message that cannot be read or is invalid.
func (w *server) unread(ctx context.Context, log zerolog.Logger, t *inflight, d *Delivery, m proto.Message, why error) string {
	together, err := w.joinsGroup(ctx, t, d, why)
	if err != nil {
		log.Error().Err(err).AnErr("because", why).Msg("cannot dead-letter; the message waits")
		t.nak(brokenPause)
		return outcomeWait
	}
	if !together {
		return w.reject(ctx, log, t, d, m, why)
	}
	failSpan(ctx, why)
	if !w.publishRejection(ctx, log, t, d, m, why) {
		return outcomeWait
	}
	w.garbage.add(w, keyOf(d, why), unreadable{t, d, why})
	return outcomeDead
}

func keyOf(d *Delivery, why error) groupKey {
	_, seller := event.Split(d.Subject)
	return groupKey{sellerToken(seller), fault.ReasonOf(why, "malformed").Code}
}

// joinsGroup reports whether an unreadable message goes into a group: not one of the first, and not one that its stream does not
// keep.
func (w *server) joinsGroup(ctx context.Context, t *inflight, d *Delivery, why error) (bool, error) {
	if !w.fromERP || d.Stream != w.row.Stream {
		return false, nil
	}
	key := keyOf(d, why)
	if !d.First && !d.Returned {
		// A crash may have come between the write and the ack: it must not be counted in two places.
		meta, err := t.Metadata()
		if err != nil {
			return false, err
		}
		have, err := w.b.lastMessage(ctx, streamDeadLetters, event.DeadLetterSubject(event.Dead, w.row.Name, meta.Stream, meta.Sequence.Stream))
		if err != nil {
			return false, err
		}
		if have != nil && decodeEnvelope(have.Header).from.same(d.env.from.place) {
			return false, nil
		}
		if g, err := w.b.lastGroup(ctx, event.GroupFilter(w.row.Name, key.seller, key.code)); g != nil || err != nil {
			return g != nil, err
		}
	}
	if w.garbage.allow(key.seller, w.s.Now()) {
		return false, nil
	}
	if d.Returned { // its payload may be nowhere else
		raw, err := w.b.message(ctx, d.Stream, d.Seq)
		return err == nil && raw != nil && raw.Time.Equal(d.StreamTime), err
	}
	return true, nil
}

// maxAllowances is how many sellers' counts are kept before those that ended are removed.
const maxAllowances = 1000

// allow counts a message of a seller, and reports whether it may be a dead letter of its own.
func (g *garbage) allow(seller string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.alone[seller]
	if a == nil || now.Sub(a.since) >= aloneFor {
		if g.alone == nil || len(g.alone) >= maxAllowances {
			kept := map[string]*allowance{}
			for s, a := range g.alone {
				if now.Sub(a.since) < aloneFor {
					kept[s] = a
				}
			}
			g.alone = kept
		}
		a = &allowance{since: now}
		g.alone[seller] = a
	}
	a.n++
	return a.n <= aloneMost
}

// add hands a message to its group, and waits while too many wait already.
func (g *garbage) add(w *server, key groupKey, one unreadable) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.queues == nil {
		g.queues, g.room.L = map[groupKey]*groupQueue{}, &g.mu
	}
	for g.waiting >= groupWaiting {
		g.room.Wait() // writes end in any case
	}
	g.waiting++
	q := g.queues[key]
	if q == nil {
		q = &groupQueue{full: make(chan struct{})}
		g.queues[key] = q
		g.writing.Go(func() { g.run(w, key, q) })
	}
	if q.waiting = append(q.waiting, one); len(q.waiting) == groupBatch {
		close(q.full)
	}
}

// run writes a group until no message waits for it.
func (g *garbage) run(w *server, key groupKey, q *groupQueue) {
	for {
		g.mu.Lock()
		full := q.full
		if len(q.waiting) == 0 {
			delete(g.queues, key)
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		linger := time.NewTimer(groupLinger)
		select {
		case <-linger.C:
		case <-full:
		case <-w.soft.Done():
		}
		linger.Stop()

		g.mu.Lock()
		some := slices.Clone(q.waiting[:min(len(q.waiting), groupBatch)])
		q.waiting = slices.Delete(q.waiting, 0, len(some))
		q.full = make(chan struct{})
		if len(q.waiting) >= groupBatch {
			close(q.full)
		}
		g.mu.Unlock()

		w.settleGroup(key, some)

		g.mu.Lock()
		g.waiting -= len(some)
		g.room.Broadcast()
		g.mu.Unlock()
	}
}

// settleGroup stores messages in their group and acks them.
func (w *server) settleGroup(key groupKey, some []unreadable) {
	ctx, cancel := context.WithTimeout(w.hard, settleLimit)
	defer cancel()
	log := w.b.log.With().Str("consumer", w.row.Name).Str("seller", key.seller).Str("code", key.code).Int("count", len(some)).Logger()
	if err := w.group(ctx, key, some); err != nil {
		log.Error().Err(err).Msg("cannot dead-letter a group; the messages wait")
		for _, u := range some {
			u.t.nak(brokenPause)
		}
		return
	}
	class := fault.Of(some[0].why).String()
	w.s.Metrics.deadLettered.WithLabelValues(w.row.Name, event.Dead, class).Add(float64(len(some)))
	log.Warn().Err(some[0].why).Uint64("first", some[0].d.Seq).Msg("dead-lettered in a group")
	for _, u := range some {
		u.t.ack()
	}
}

// group adds messages to the group of the key, or to new ones.
func (w *server) group(ctx context.Context, key groupKey, some []unreadable) error {
	left := slices.SortedFunc(slices.Values(some), func(x, y unreadable) int {
		return int(min(1, max(-1, int64(x.d.Seq)-int64(y.d.Seq)))) //nolint:gosec // sequences
	})
	left, err := w.withoutGrouped(ctx, key, left)
	if err != nil {
		return err
	}
	passed := map[string]bool{} // groups that cannot take what is left
	for range groupTries {
		if len(left) == 0 {
			return nil
		}
		g, err := w.growingGroup(ctx, key, passed)
		if err != nil {
			return err
		}
		if g.env.verdict.class == "" {
			g.env = w.groupEnvelope(left[0])
		}
		var rest []unreadable
		grew := false
		for _, u := range left {
			added, fits := g.add(u.d.Seq, u.d.StreamTime)
			if grew = grew || added; !fits {
				rest = append(rest, u)
			}
		}
		if grew {
			if first := left[0].d.StreamTime; first.Before(g.env.verdict.first) {
				g.env.verdict.first = first
			}
			g.env.verdict.last = w.s.Now()
			again, err := w.b.storeGroup(ctx, g)
			if err != nil {
				return err
			}
			if again {
				continue
			}
		}
		if len(rest) > 0 {
			passed[g.subject] = true
		}
		left = rest
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("dead-letter %d messages of %s: %w", len(left), key.seller, errGroupBusy)
}

// withoutGrouped leaves out the redelivered messages that a group has already.
func (w *server) withoutGrouped(ctx context.Context, key groupKey, some []unreadable) ([]unreadable, error) {
	again := func(u unreadable) bool { return !u.d.First && !u.d.Returned }
	if !slices.ContainsFunc(some, again) {
		return some, nil
	}
	subjects, err := w.b.groupSubjects(ctx, event.GroupFilter(w.row.Name, key.seller, key.code))
	if err != nil {
		return nil, err
	}
	for _, subject := range subjects {
		g, err := w.b.lastGroup(ctx, subject)
		if err != nil {
			return nil, err
		}
		if g != nil {
			some = slices.DeleteFunc(some, func(u unreadable) bool { return again(u) && g.Has(u.d.Seq, u.d.StreamTime) })
		}
	}
	return some, nil
}

// growingGroup is the group that takes messages of the key now. Its number is made of the day, so that replicas which begin one at
// the same time begin the same.
func (w *server) growingGroup(ctx context.Context, key groupKey, passed map[string]bool) (*storedGroup, error) {
	now := w.s.Now()
	today := uint64(now.Unix()/(24*60*60)) * 1000 //nolint:gosec // after 1970
	g, err := w.b.lastGroup(ctx, event.GroupFilter(w.row.Name, key.seller, key.code))
	subject := event.GroupSubject(w.row.Name, key.seller, key.code, today)
	for err == nil && (passed[subject] || g != nil && (passed[g.subject] || !g.grows(now))) {
		last := subject
		if g != nil {
			last = g.subject
		}
		n, _ := event.ParseGroup(last)
		subject = event.GroupSubject(w.row.Name, key.seller, key.code, max(n+1, today))
		g, err = w.b.lastGroup(ctx, subject)
	}
	if err != nil {
		return nil, err
	}
	if g == nil {
		g = newGroup(subject, now)
	}
	return g, nil
}

// groupEnvelope is the envelope of a group that begins with u.
func (w *server) groupEnvelope(u unreadable) envelope {
	class := fault.Of(u.why).String()
	e := envelope{from: u.d.env.from, verdict: verdict{
		class: class, text: u.why.Error(), reason: fault.ReasonOf(u.why, class), attempts: 1, first: u.d.StreamTime, last: w.s.Now(),
	}}
	_, e.verdict.seller = event.Split(u.d.Subject)
	return e
}
