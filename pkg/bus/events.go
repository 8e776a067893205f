package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// EventQuery selects events of the public streams.
type EventQuery struct {
	// Names of events; empty for all.
	Names []string
	// Seller in the subject's suffix; empty for all. Events without a suffix match too: check the body.
	Seller string
	// Key is the CloudEvents subject; empty for all. Events without one match too: check the body.
	Key string
	// Stream is the only one to read; empty for all that may hold what is selected, or held it in an earlier build
	// (Holding).
	Stream string
	// From is the first sequence; needs Stream, or Names that were only ever stored in one stream.
	From uint64
	// Since is when the first was stored, by the stream's clock; zero for no limit. Only one of From and Since may be
	// set.
	Since time.Time
}

// Stored is an event in its stream.
type Stored struct {
	Stream  string
	Seq     uint64
	At      time.Time
	Subject string
	// Seller, ID and Key may be empty; Name is the subject without its seller.
	Name, Seller, ID, Key string
	Header                map[string][]string
	Body                  []byte
}

func stored(subject string, at Place, h nats.Header, body []byte) Stored {
	name, seller := event.Split(subject)
	return Stored{
		Stream: at.Stream, Seq: at.Seq, At: at.Stored, Subject: subject, Name: name, Seller: seller,
		ID: headerOf(h, event.HeaderID), Key: headerOf(h, event.HeaderSubject), Header: h, Body: body,
	}
}

// Events calls f for the selected events from the beginning to the present end, each stream in its order, until f
// returns an error, which is returned. The order between streams says nothing about what happened first.
func (b *Bus) Events(ctx context.Context, q EventQuery, f func(Stored) error) error {
	for _, row := range streams {
		if !row.public || q.Stream != "" && q.Stream != row.name {
			continue
		}
		filters := q.filters(row)
		if len(filters) == 0 {
			continue
		}
		err := b.read(ctx, reading{stream: row.name, filters: filters, from: q.From, since: q.Since}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
			s := stored(m.Subject, placeOf(meta), m.Header, m.Data)
			if !q.selects(s) {
				return nil
			}
			return f(s)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Holding are the public streams that may hold events of the name, those of earlier builds first: new ones go only to
// the last.
func Holding(name string) (names []string) {
	for _, row := range streams {
		q := EventQuery{Names: []string{name}}
		switch {
		case !row.public || len(q.filters(row)) == 0:
		case covers(row.subjects, name):
			names = append(names, row.name)
		default:
			names = append([]string{row.name}, names...)
		}
	}
	return names
}

// End is the sequence and time of the last message in the public stream for events of the name; 0 when nothing was ever
// stored there.
func (b *Bus) End(ctx context.Context, name string) (seq uint64, at time.Time, err error) {
	err = b.stream(ctx, name, func(_ context.Context, s jetstream.Stream) error {
		state := s.CachedInfo().State
		seq, at = state.LastSeq, state.LastTime
		return nil
	})
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read the end of the stream of %s: %w", name, err)
	}
	return seq, at, nil
}

// Holds reports whether the public stream for events of the name has, or had before its retention, the message that was
// stored under the sequence at that time. It is false when the stream was restored from an older copy.
func (b *Bus) Holds(ctx context.Context, name string, seq uint64, at time.Time) (holds bool, err error) {
	if seq == 0 {
		return true, nil
	}
	err = b.stream(ctx, name, func(ctx context.Context, s jetstream.Stream) error {
		state := s.CachedInfo().State
		if holds = seq <= state.LastSeq; !holds || seq < state.FirstSeq {
			return nil
		}
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil // deleted
		}
		if err == nil {
			holds = m.Time.Equal(at)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("find message %d in the stream of %s: %w", seq, name, err)
	}
	return holds, nil
}

func (b *Bus) stream(ctx context.Context, name string, f func(context.Context, jetstream.Stream) error) error {
	for _, row := range streams {
		if row.public && covers(row.subjects, name) {
			return b.withStream(ctx, row.name, f)
		}
	}
	return errors.New("no stream holds such events")
}

// filters are the subjects to read of a stream; none when it holds nothing that the query selects.
func (q EventQuery) filters(row streamRow) []string {
	if len(q.Names) == 0 {
		return slices.Concat(row.subjects, row.earlier)
	}
	var filters []string
	for _, name := range q.Names {
		if !covers(row.subjects, name) && !covers(row.earlier, name) {
			continue
		}
		if q.Seller != "" {
			filters = append(filters, name, name+"."+q.Seller)
		} else {
			filters = append(filters, name, name+".*")
		}
	}
	slices.Sort(filters)
	return slices.Compact(filters)
}

// covers reports whether the subjects include events of the name.
func covers(subjects []string, name string) bool {
	return slices.ContainsFunc(subjects, func(s string) bool {
		prefix, all := strings.CutSuffix(s, ">")
		return s == name || all && strings.HasPrefix(name, prefix)
	})
}

// selects reports whether the query selects s: filters are wider than names, and do not cover keys.
func (q EventQuery) selects(s Stored) bool {
	return (len(q.Names) == 0 || slices.Contains(q.Names, s.Name)) &&
		(q.Seller == "" || s.Seller == "" || s.Seller == q.Seller) &&
		(q.Key == "" || s.Key == "" || s.Key == q.Key)
}

// reading is what to read of a stream.
type reading struct {
	stream  string
	filters []string
	from    uint64
	// since is used when from is 0.
	since       time.Time
	headersOnly bool
}

// errEnough ends a reading early without being an error.
var errEnough = errors.New("enough")

const (
	// readBatch is how many messages are in transit at a time; each is at most 1 MiB.
	readBatch = 64
	// batchLimit is how long a batch may take, including what f does with its messages.
	batchLimit = 10 * time.Second
)

// read calls f for the messages of a stream up to its present end. Nothing is left out: a gap is an error.
func (b *Bus) read(ctx context.Context, r reading, f func(*nats.Msg, *nats.MsgMetadata) error) error {
	err := b.readAll(ctx, r, f)
	if err == nil || errors.Is(err, errEnough) {
		return nil
	}
	return fmt.Errorf("read %s: %w", r.stream, err)
}

func (b *Bus) readAll(ctx context.Context, r reading, f func(*nats.Msg, *nats.MsgMetadata) error) error {
	config := jetstream.ConsumerConfig{
		FilterSubjects: r.filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(r.from, 1),
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: r.headersOnly, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: time.Minute,
	}
	if r.from == 0 && !r.since.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &r.since
	}
	if len(r.filters) == 1 {
		// With one filter it is part of the API subject, so permissions can say who may read what (User).
		config.FilterSubject, config.FilterSubjects = r.filters[0], nil
	}
	var c jetstream.Consumer
	err := withRetry(ctx, func(ctx context.Context) (err error) { // one whose answer was lost expires
		c, err = b.js.CreateConsumer(ctx, r.stream, config)
		return err
	})
	if err != nil {
		return err
	}
	name := c.CachedInfo().Name
	defer func() {
		if b.leaveReaders && publicStream(r.stream) {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = b.js.DeleteConsumer(ctx, r.stream, name) // otherwise it expires after a minute
	}()
	p, err := b.puller(r.stream, name, 2*readBatch)
	if err != nil {
		return err
	}
	defer p.sub.Unsubscribe() //nolint:errcheck // nothing is left to lose
	to := &reader{puller: p, handle: f, pending: c.CachedInfo().NumPending}
	for to.pending > 0 {
		if err := to.batch(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if to.pending == 0 {
			return nil
		}
		// A message that was deleted meanwhile never comes: ask how many are left.
		var info *jetstream.ConsumerInfo
		err := withRetry(ctx, func(ctx context.Context) (err error) {
			info, err = c.Info(ctx)
			return err
		})
		if err != nil {
			return err
		}
		to.pending = info.NumPending
	}
	return nil
}

// reader is a reading in progress.
type reader struct {
	*puller
	handle func(*nats.Msg, *nats.MsgMetadata) error
	// got is how many messages arrived, pending how many are still to come.
	got, pending uint64
}

// batch requests the next messages and handles them.
func (r *reader) batch(ctx context.Context) error {
	reconnected := r.b.reconnected.wait()
	inbox, err := r.request(pullRequest{Batch: readBatch, NoWait: true})
	if err != nil {
		return err
	}
	limit := time.NewTimer(batchLimit)
	defer limit.Stop()
	for n := 0; n < readBatch && r.pending > 0; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-reconnected:
			return nats.ErrDisconnected // the consumer is in the server's memory, and may be gone
		case <-limit.C:
			return nats.ErrTimeout
		case m := <-r.in:
			if !isMessage(m) {
				if m.Subject == inbox && m.Header.Get("Status") != statusHeartbeat {
					return nil // none left for this request
				}
				continue
			}
			n++
			if err := r.accept(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) accept(m *nats.Msg) error {
	r.got++
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if meta.Sequence.Consumer != r.got {
		return fmt.Errorf("message %d came as number %d", r.got, meta.Sequence.Consumer)
	}
	r.pending = meta.NumPending
	return r.handle(m, meta)
}
