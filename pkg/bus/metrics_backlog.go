package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/event"
	"stockbridge/pkg/pullmetrics"
)

// Gauges of the backlog. All replicas that serve a consumer report the same values.
const (
	gaugeConnected   = "stockbridge_bus_connected"
	gaugeRunnable    = "stockbridge_consumer_runnable"
	gaugeUnacked     = "stockbridge_consumer_unacked"
	gaugeOldest      = "stockbridge_consumer_oldest_seconds"
	gaugeLanes       = "stockbridge_consumer_lanes"
	gaugeLaneOldest  = "stockbridge_lane_oldest_seconds"
	gaugeDelayed     = "stockbridge_parked_messages"
	gaugeDeadLetters = "stockbridge_shelf_messages"
	gaugeGrouped     = "stockbridge_shelf_grouped_messages"
)

// backlogMetrics asks the broker what waits for the consumers that this process serves. Delayed and dead-lettered
// messages are counted by listing subjects, each of which belongs to one message: that needs no consumer on the server,
// which on a cluster would be a vote at each scrape.
type backlogMetrics struct {
	gauges *pullmetrics.Collector

	mu        sync.Mutex
	consumers map[*servedConsumer]struct{}
}

type servedConsumer struct {
	b   *Bus
	row Consumer
}

func newBacklogMetrics() *backlogMetrics {
	l := &backlogMetrics{consumers: map[*servedConsumer]struct{}{}}
	byConsumer := []string{"consumer"}
	l.gauges = pullmetrics.New("bus", []pullmetrics.Gauge{
		{Name: gaugeConnected, Help: "1 while the connection to NATS stands."},
		{Name: gaugeRunnable, Help: "Messages that wait and could be handled now. Also those in lanes; not those in flight, delayed or dead-lettered.", Labels: byConsumer},
		{Name: gaugeUnacked, Help: "Messages that were delivered and not settled: in flight at any replica, or delayed by seconds.", Labels: byConsumer},
		{Name: gaugeOldest, Help: "Age of the oldest message that is not settled, delayed retries included; 0 when there is none.", Labels: byConsumer},
		{Name: gaugeLanes, Help: "Sellers whose backlog has a lane, a consumer of its own.", Labels: byConsumer},
		{Name: gaugeLaneOldest, Help: "Age of the oldest message in a lane that is not settled; 0 when there is none.", Labels: byConsumer},
		{Name: gaugeDelayed, Help: "Retries that were delayed.", Labels: byConsumer},
		{Name: gaugeDeadLetters, Help: "Dead letters, by kind: dlq needs a person, held waits for a cause. A group counts as its messages.", Labels: []string{"kind", "consumer"}},
		{Name: gaugeGrouped, Help: "Unreadable messages in groups, of the 20 sellers with the most.", Labels: []string{"consumer", "seller"}},
	}, l.observe)
	return l
}

// add reports a consumer's backlog until done is called.
func (l *backlogMetrics) add(b *Bus, row Consumer) (done func()) {
	s := &servedConsumer{b, row}
	l.mu.Lock()
	l.consumers[s] = struct{}{}
	l.mu.Unlock()
	return func() {
		l.mu.Lock()
		delete(l.consumers, s)
		l.mu.Unlock()
	}
}

func (l *backlogMetrics) observe(ctx context.Context, observe pullmetrics.Observe) error {
	l.mu.Lock()
	rows := map[*Bus][]Consumer{}
	for s := range l.consumers {
		rows[s.b] = append(rows[s.b], s.row)
	}
	l.mu.Unlock()
	var errs []error
	for b, rows := range rows {
		if b.Ready() != nil {
			observe(gaugeConnected, 0)
			continue // a request would only waste its time
		}
		observe(gaugeConnected, 1)
		errs = append(errs, b.observeBacklog(ctx, rows, observe))
	}
	return errors.Join(errs...)
}

func (b *Bus) observeBacklog(ctx context.Context, rows []Consumer, observe pullmetrics.Observe) error {
	var group errgroup.Group
	var delayed map[string]delayedCount
	if slices.ContainsFunc(rows, func(c Consumer) bool { return !c.ticks() }) { // ticks are neither delayed nor dead-lettered
		group.Go(func() (err error) {
			delayed, err = b.delayedByConsumer(ctx)
			return err
		})
		group.Go(func() error { return b.observeDeadLetters(ctx, rows, observe) })
	} else {
		delayed = map[string]delayedCount{}
	}
	type age struct {
		row    Consumer
		oldest time.Time
	}
	oldest := make([]age, len(rows))
	for i, row := range rows {
		group.Go(func() error {
			at, err := b.observeConsumer(ctx, row, observe)
			if err == nil {
				oldest[i] = age{row, at}
			}
			return err
		})
	}
	err := group.Wait()
	if delayed == nil {
		return err // a delayed message may be the oldest
	}
	now := b.Now()
	for _, o := range oldest {
		if o.row.Name == "" {
			continue
		}
		if !o.row.ticks() {
			p := delayed[o.row.Name]
			observe(gaugeDelayed, float64(p.n), o.row.Name)
			o.oldest = earlier(o.oldest, p.oldest)
		}
		age := 0.0
		if !o.oldest.IsZero() {
			age = max(0, now.Sub(o.oldest).Seconds())
		}
		observe(gaugeOldest, age, o.row.Name)
	}
	return err
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// observeConsumer reports what waits for one consumer and returns when the oldest of it was stored, the zero time when
// nothing waits.
func (b *Bus) observeConsumer(ctx context.Context, row Consumer, observe pullmetrics.Observe) (oldest time.Time, err error) {
	type place struct {
		stream, consumer string
		filters          []string
	}
	places := []place{{row.Stream, row.Name, row.Filters}}
	if !row.ticks() {
		places = append(places, place{streamRetry, retryName(row.Name), []string{event.RetryOf(row.Name)}})
	}
	var runnable, unacked uint64
	if row.lanes() {
		oldest, runnable, unacked, err = b.observeLanes(ctx, row, observe)
		if err != nil {
			return oldest, err
		}
	}
	for _, p := range places {
		c, err := b.js.Consumer(ctx, p.stream, p.consumer)
		if err != nil {
			return oldest, fmt.Errorf("read consumer %s: %w", p.consumer, err)
		}
		info := c.CachedInfo()
		runnable += info.NumPending
		unacked += uint64(max(0, info.NumAckPending)) //nolint:gosec // never negative
		if info.NumPending == 0 && info.NumAckPending == 0 {
			continue
		}
		at, err := b.firstAfter(ctx, p.stream, p.filters, info.AckFloor.Stream)
		if err != nil {
			return oldest, err
		}
		oldest = earlier(oldest, at)
	}
	observe(gaugeRunnable, float64(runnable), row.Name)
	observe(gaugeUnacked, float64(unacked), row.Name)
	return oldest, nil
}

// observeLanes reports on a consumer's lanes, and returns when the oldest message in them was stored, and how many wait and
// are in flight.
func (b *Bus) observeLanes(ctx context.Context, row Consumer, observe pullmetrics.Observe) (oldest time.Time, waiting, unacked uint64, err error) {
	all, err := b.lanesOf(ctx, row)
	if err != nil {
		return oldest, 0, 0, err
	}
	open := 0
	for _, of := range all {
		if !of.closing {
			open++
		}
		waiting += of.info.NumPending
		unacked += uint64(max(0, of.info.NumAckPending)) //nolint:gosec // never negative
		if of.info.NumPending == 0 && of.info.NumAckPending == 0 {
			continue
		}
		at, err := b.firstAfter(ctx, row.Stream, []string{of.subject}, max(of.info.AckFloor.Stream, of.start-1))
		if err != nil {
			return oldest, 0, 0, err
		}
		oldest = earlier(oldest, at)
	}
	age := 0.0
	if !oldest.IsZero() {
		age = max(0, b.Now().Sub(oldest).Seconds())
	}
	observe(gaugeLanes, float64(open), row.Name)
	observe(gaugeLaneOldest, age, row.Name)
	return oldest, waiting, unacked, nil
}

// firstAfter is when the first message after seq was first stored; the zero time when there is none.
func (b *Bus) firstAfter(ctx context.Context, stream string, filters []string, seq uint64) (at time.Time, err error) {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return at, fmt.Errorf("read %s: %w", stream, err)
	}
	for _, filter := range filters {
		m, err := s.GetMsg(ctx, seq+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return at, fmt.Errorf("read %s: %w", stream, err)
		}
		stored := m.Time
		if stream == streamRetry {
			if first := decodeEnvelope(m.Header).from.place.Stored; !first.IsZero() {
				stored = first
			}
		}
		at = earlier(at, stored)
	}
	return at, nil
}

type delayedCount struct {
	n      uint64
	oldest time.Time
}

// Delayed counts the delayed retries of all consumers. A message that was acked while the disk was full may stay in
// RETRY after the server's restart: it belongs to nobody and is not counted.
func (b *Bus) Delayed(ctx context.Context) (n int, err error) {
	of, err := b.delayedByConsumer(ctx)
	for _, p := range of {
		n += int(p.n) //nolint:gosec // far below
	}
	return n, err
}

// delayedByConsumer counts delayed messages.
func (b *Bus) delayedByConsumer(ctx context.Context) (map[string]delayedCount, error) {
	of := map[string]delayedCount{}
	err := b.eachSubject(ctx, streamRetry, event.DelayedSubjects, func(subject string, n uint64) {
		consumer, origin, err := event.ParseDelay(subject)
		if err != nil {
			return
		}
		p := of[consumer]
		p.n += n
		_, stored := readToken(origin)
		p.oldest = earlier(p.oldest, stored)
		of[consumer] = p
	})
	if err != nil {
		return nil, err
	}
	return of, nil
}

func (b *Bus) observeDeadLetters(ctx context.Context, rows []Consumer, observe pullmetrics.Observe) error {
	type key struct{ kind, consumer string }
	counts := map[key]uint64{}
	var groups []string
	err := b.eachSubject(ctx, streamDeadLetters, event.DeadLetterFilter("", ""), func(subject string, n uint64) {
		kind, consumer, err := event.ParseDeadLetter(subject)
		if _, group := event.ParseGroup(subject); group {
			groups = append(groups, subject)
		} else if err == nil {
			counts[key{kind, consumer}] += n
		}
	})
	if err != nil {
		return err
	}
	grouped, err := b.countGrouped(ctx, groups)
	if err != nil {
		return err
	}
	for of, n := range grouped {
		counts[key{event.Dead, of.consumer}] += n
	}
	for _, row := range rows {
		if row.ticks() {
			continue
		}
		for _, kind := range []string{event.Dead, event.Held} {
			observe(gaugeDeadLetters, float64(counts[key{kind, row.Name}]), kind, row.Name)
		}
	}
	most := slices.SortedFunc(maps.Keys(grouped), func(x, y groupedBy) int {
		return cmp.Or(cmp.Compare(grouped[y], grouped[x]), cmp.Compare(x.seller, y.seller), cmp.Compare(x.consumer, y.consumer))
	})
	most = slices.DeleteFunc(most, func(of groupedBy) bool {
		return !slices.ContainsFunc(rows, func(c Consumer) bool { return c.Name == of.consumer })
	})
	for _, of := range most[:min(len(most), groupedSellers)] {
		observe(gaugeGrouped, float64(grouped[of]), of.consumer, of.seller)
	}
	return nil
}

// groupedSellers bounds the series of gaugeGrouped.
const groupedSellers = 20

type groupedBy struct{ consumer, seller string }

// countGrouped counts the messages of groups. The seller is event.NoSeller where subjects name none.
func (b *Bus) countGrouped(ctx context.Context, subjects []string) (map[groupedBy]uint64, error) {
	counts := map[groupedBy]uint64{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, subject := range subjects {
		group.Go(func() error {
			m, err := b.lastMessage(ctx, streamDeadLetters, subject)
			if err != nil || m == nil {
				return err
			}
			_, consumer, _ := event.ParseDeadLetter(subject)
			n, _ := strconv.ParseUint(m.Header.Get(event.HeaderCount), 10, 64)
			mu.Lock()
			defer mu.Unlock()
			counts[groupedBy{consumer, sellerToken(decodeEnvelope(m.Header).verdict.seller)}] += n
			return nil
		})
	}
	return counts, group.Wait()
}
