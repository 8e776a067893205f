package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/event"
	"stockbridge/pkg/pullmetrics"
)

// Gauges of the backlog. Every replica that serves a consumer tells the same of it.
const (
	gaugeConnected = "stockbridge_bus_connected"
	gaugeRunnable  = "stockbridge_consumer_runnable"
	gaugeInHand    = "stockbridge_consumer_unacked"
	gaugeOldest    = "stockbridge_consumer_oldest_seconds"
	gaugeParked    = "stockbridge_parked_messages"
	gaugeShelf     = "stockbridge_shelf_messages"
)

// backlog asks the broker what waits for the consumers that this process serves. Counting what is parked and shelved
// reads the names of their subjects, each of which belongs to one message: no consumer has to be made on the server for
// it, which on a cluster would be a vote at each scrape.
type backlog struct {
	asked *pullmetrics.Asked

	mu     sync.Mutex
	served map[*servedConsumer]struct{}
}

type servedConsumer struct {
	b   *Bus
	row consumerRow
}

func newBacklog() *backlog {
	l := &backlog{served: map[*servedConsumer]struct{}{}}
	byConsumer := []string{"consumer"}
	l.asked = pullmetrics.New("bus", []pullmetrics.Gauge{
		{Name: gaugeConnected, Help: "1 while the connection to NATS stands."},
		{Name: gaugeRunnable, Help: "Messages that wait and could be handled now. Not those in hand, delayed, parked or on the shelf.", Labels: byConsumer},
		{Name: gaugeInHand, Help: "Messages that were delivered and are not settled: in hand of any replica, or delayed by seconds.", Labels: byConsumer},
		{Name: gaugeOldest, Help: "Age of the oldest message that is not settled, parked ones included; 0 when there is none.", Labels: byConsumer},
		{Name: gaugeParked, Help: "Messages parked for a later retry.", Labels: byConsumer},
		{Name: gaugeShelf, Help: "Messages on the shelf, by kind: dlq needs a person, held waits for a cause.", Labels: []string{"kind", "consumer"}},
	}, l.ask)
	return l
}

// serves makes a consumer's backlog known until done is called.
func (l *backlog) serves(b *Bus, row consumerRow) (done func()) {
	s := &servedConsumer{b, row}
	l.mu.Lock()
	l.served[s] = struct{}{}
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		delete(l.served, s)
		l.mu.Unlock()
	}
}

func (l *backlog) ask(ctx context.Context, tell pullmetrics.Observe) error {
	l.mu.Lock()
	rows := map[*Bus][]consumerRow{}
	for s := range l.served {
		rows[s.b] = append(rows[s.b], s.row)
	}
	l.mu.Unlock()
	var errs []error
	for b, rows := range rows {
		if b.Ready() != nil {
			tell(gaugeConnected, 0)
			continue // asking would only take its time
		}
		tell(gaugeConnected, 1)
		errs = append(errs, b.tellBacklog(ctx, rows, tell))
	}
	return errors.Join(errs...)
}

func (b *Bus) tellBacklog(ctx context.Context, rows []consumerRow, tell pullmetrics.Observe) error {
	var group errgroup.Group
	var parked map[string]parkedOf
	group.Go(func() (err error) {
		parked, err = b.delayed(ctx, rows)
		return err
	})
	group.Go(func() error { return b.tellShelf(ctx, rows, tell) })
	type told struct {
		row    consumerRow
		oldest time.Time
	}
	oldest := make([]told, len(rows))
	for i, row := range rows {
		group.Go(func() error {
			at, err := b.tellConsumer(ctx, row, tell)
			if err == nil {
				oldest[i] = told{row, at}
			}
			return err
		})
	}
	err := group.Wait()
	if parked == nil {
		return err // what is parked may be the oldest
	}
	now := b.Now()
	for _, o := range oldest {
		if o.row.name == "" {
			continue
		}
		if o.row.stream != streamTicks {
			p := parked[o.row.name]
			tell(gaugeParked, float64(p.n), o.row.name)
			o.oldest = earlier(o.oldest, p.oldest)
		}
		age := 0.0
		if !o.oldest.IsZero() {
			age = max(0, now.Sub(o.oldest).Seconds())
		}
		tell(gaugeOldest, age, o.row.name)
	}
	return err
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// tellConsumer tells what waits for one consumer and when the oldest of it was stored, the zero time when nothing waits.
func (b *Bus) tellConsumer(ctx context.Context, row consumerRow, tell pullmetrics.Observe) (oldest time.Time, err error) {
	type place struct {
		stream, consumer string
		filters          []string
	}
	places := []place{{row.stream, row.name, row.filters}}
	if row.stream != streamTicks {
		places = append(places, place{streamRetry, retryName(row.name), []string{event.RetryOf(row.name)}})
	}
	var runnable, inHand uint64
	for _, p := range places {
		c, err := b.js.Consumer(ctx, p.stream, p.consumer)
		if err != nil {
			return oldest, fmt.Errorf("look at consumer %s: %w", p.consumer, err)
		}
		info := c.CachedInfo()
		runnable += info.NumPending
		inHand += uint64(max(0, info.NumAckPending)) //nolint:gosec // never negative
		if info.NumPending == 0 && info.NumAckPending == 0 {
			continue
		}
		at, err := b.firstAfter(ctx, p.stream, p.filters, info.AckFloor.Stream)
		if err != nil {
			return oldest, err
		}
		oldest = earlier(oldest, at)
	}
	tell(gaugeRunnable, float64(runnable), row.name)
	tell(gaugeInHand, float64(inHand), row.name)
	return oldest, nil
}

// firstAfter is when the first message behind seq was first stored; the zero time when there is none any more.
func (b *Bus) firstAfter(ctx context.Context, stream string, filters []string, seq uint64) (at time.Time, err error) {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return at, fmt.Errorf("look at %s: %w", stream, err)
	}
	for _, filter := range filters {
		m, err := s.GetMsg(ctx, seq+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return at, fmt.Errorf("look at %s: %w", stream, err)
		}
		stored := m.Time
		if stream == streamRetry {
			if first, err := time.Parse(time.RFC3339Nano, m.Header.Get(event.HeaderOriginTime)); err == nil {
				stored = first
			}
		}
		at = earlier(at, stored)
	}
	return at, nil
}

type parkedOf struct {
	n      uint64
	oldest time.Time
}

// Parked counts the retries that wait for their time, of all consumers. A message that was acked while the disk was full may
// stay in RETRY after the server's restart: it is nobody's any more, and not counted.
func (b *Bus) Delayed(ctx context.Context) (n int, err error) {
	of, err := b.delayed(ctx, consumers)
	for _, p := range of {
		n += int(p.n) //nolint:gosec // far below
	}
	return n, err
}

// parked counts what is parked, by consumer; nothing is asked when all of rows are ticks, which are never parked.
func (b *Bus) delayed(ctx context.Context, rows []consumerRow) (map[string]parkedOf, error) {
	of := map[string]parkedOf{}
	if onlyTicks(rows) {
		return of, nil
	}
	err := b.subjects(ctx, streamRetry, event.DelayedSubjects, func(subject string, n uint64) {
		consumer, origin, err := event.ParseDelay(subject)
		if err != nil {
			return
		}
		p := of[consumer]
		p.n += n
		if at, ok := originTime(origin); ok {
			p.oldest = earlier(p.oldest, at)
		}
		of[consumer] = p
	})
	if err != nil {
		return nil, err
	}
	return of, nil
}

func (b *Bus) tellShelf(ctx context.Context, rows []consumerRow, tell pullmetrics.Observe) error {
	if onlyTicks(rows) {
		return nil
	}
	type board struct{ kind, consumer string }
	on := map[board]uint64{}
	err := b.subjects(ctx, streamShelf, event.DeadLetterFilter("", ""), func(subject string, n uint64) {
		if kind, consumer, err := event.ParseDeadLetter(subject); err == nil {
			on[board{kind, consumer}] += n
		}
	})
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.stream == streamTicks {
			continue
		}
		for _, kind := range []string{event.Dead, event.Held} {
			tell(gaugeShelf, float64(on[board{kind, row.name}]), kind, row.name)
		}
	}
	return nil
}

func onlyTicks(rows []consumerRow) bool {
	for _, row := range rows {
		if row.stream != streamTicks {
			return false
		}
	}
	return true
}

// subjects tells each subject of a stream and how many messages stand there.
func (b *Bus) subjects(ctx context.Context, stream, filter string, tell func(subject string, n uint64)) error {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("look at %s: %w", stream, err)
	}
	if s.CachedInfo().State.Msgs == 0 {
		return nil
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return fmt.Errorf("look at %s: %w", stream, err)
	}
	for subject, n := range info.State.Subjects {
		tell(subject, n)
	}
	return nil
}
