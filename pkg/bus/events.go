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

// EventQuery selects from the public streams.
type EventQuery struct {
	// Names of events; empty for all.
	Names []string
	// Seller in the subject's suffix; empty for all. Events without a suffix are told too: look inside.
	Seller string
	// Key is the CloudEvents subject; empty for all. Events without one are told too: look inside.
	Key string
	// From is the first sequence; needs Names of one stream.
	From uint64
}

// Stored is an event as it stands in a stream.
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

// Events reads from the beginning to the present end, each stream in its order, until f returns an error, which is
// returned.
func (b *Bus) Events(ctx context.Context, q EventQuery, f func(Stored) error) error {
	for _, row := range streams {
		if !row.public {
			continue
		}
		filters := row.subjects
		if len(q.Names) > 0 {
			filters = nil
			for _, name := range q.Names {
				if !slices.ContainsFunc(row.subjects, func(s string) bool { return strings.HasPrefix(name, strings.TrimSuffix(s, ">")) }) {
					continue
				}
				if q.Seller != "" {
					filters = append(filters, name, name+"."+q.Seller)
				} else {
					filters = append(filters, name, name+".*")
				}
			}
			if len(filters) == 0 {
				continue
			}
			slices.Sort(filters)
			filters = slices.Compact(filters)
		}
		err := b.read(ctx, reading{stream: row.name, filters: filters, from: q.From}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
			s := Stored{
				Stream: meta.Stream, Seq: meta.Sequence.Stream, At: meta.Timestamp, Subject: m.Subject,
				ID: headerOf(m.Header, event.HeaderID), Key: headerOf(m.Header, event.HeaderSubject),
				Header: m.Header, Body: m.Data,
			}
			s.Name, s.Seller = event.Split(m.Subject)
			if len(q.Names) > 0 && !slices.Contains(q.Names, s.Name) ||
				q.Seller != "" && s.Seller != "" && s.Seller != q.Seller ||
				q.Key != "" && s.Key != "" && s.Key != q.Key {
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

// reading is what read reads.
type reading struct {
	stream      string
	filters     []string
	from        uint64
	headersOnly bool
}

// errEnough ends a reading early without being an error.
var errEnough = errors.New("enough")

// readBatch is how many messages are on their way at a time; each is at most 1 MiB.
const readBatch = 64

// read tells the messages of a stream up to its present end. Nothing is left out: a gap is an error.
func (b *Bus) read(ctx context.Context, r reading, f func(*nats.Msg, *nats.MsgMetadata) error) error {
	c, err := b.js.CreateConsumer(ctx, r.stream, jetstream.ConsumerConfig{
		FilterSubjects: r.filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(r.from, 1),
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: r.headersOnly, MemoryStorage: true, Replicas: 1,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	name := c.CachedInfo().Name
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = b.js.DeleteConsumer(ctx, r.stream, name) // it goes away by itself after a minute
	}()
	p, err := b.puller(r.stream, name, 2*readBatch)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.stream, err)
	}
	defer p.sub.Unsubscribe() //nolint:errcheck // nothing is left to lose
	pending, got := c.CachedInfo().NumPending, uint64(0)
	for pending > 0 {
		reconnected := b.reconnected.wait()
		inbox, err := p.ask(request{Batch: readBatch, NoWait: true})
		if err != nil {
			return fmt.Errorf("read %s: %w", r.stream, err)
		}
		quiet := time.NewTimer(10 * time.Second)
		for n, end := 0, false; n < readBatch && !end && pending > 0; {
			select {
			case <-ctx.Done():
				quiet.Stop()
				return fmt.Errorf("read %s: %w", r.stream, ctx.Err())
			case <-reconnected:
				quiet.Stop()
				return fmt.Errorf("read %s: %w", r.stream, nats.ErrDisconnected)
			case <-quiet.C:
				return fmt.Errorf("read %s: %w", r.stream, nats.ErrTimeout)
			case m := <-p.in:
				if !isMessage(m) {
					end = m.Subject == inbox && m.Header.Get("Status") != "100"
					continue
				}
				n++
				got++
				meta, err := m.Metadata()
				if err == nil && meta.Sequence.Consumer != got {
					err = fmt.Errorf("message %d came as number %d", got, meta.Sequence.Consumer)
				}
				if err == nil {
					pending = meta.NumPending
					err = f(m, meta)
				}
				if errors.Is(err, errEnough) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("read %s: %w", r.stream, err)
				}
			}
		}
		quiet.Stop()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read %s: %w", r.stream, err)
		}
		// What was deleted meanwhile never comes.
		if pending > 0 {
			info, err := c.Info(ctx)
			if err != nil {
				return fmt.Errorf("read %s: %w", r.stream, err)
			}
			pending = info.NumPending
		}
	}
	return nil
}
