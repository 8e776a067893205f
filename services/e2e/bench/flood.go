//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/procs"
)

const (
	// flooded is how many messages the flood has.
	flooded = 30_000
	// floodFor is how long the other seller's orders are measured beside it, at most; aloneFor is how long without it.
	floodFor, aloneFor = 60 * time.Second, 15 * time.Second
	// floodWait is how long its last orders may take.
	floodWait = 2 * time.Minute
	// floodJD is JD's answer time.
	floodJD = 5 * time.Millisecond
	// everyOther is the pause between two orders of the other seller.
	everyOther = 100 * time.Millisecond

	flooder, other = "acme", "bolt"
)

func floodRows() []budget {
	return []budget{
		{ID: "flood.orders", Group: "flood.orders", What: "another seller's orders beside a flood of 30 000 orders, of a hundred the slowest, audited stored to accepted stored", Unit: "ms", Most: bound(1000)},
		{ID: "flood.unreadable", Group: "flood.unreadable", What: "the same beside 30 000 messages that cannot be read", Unit: "ms", Most: bound(1000)},
		{ID: "flood.unreadable.letters", Group: "flood.unreadable", What: "entries in the dead letters afterwards"},
	}
}

func (b *bench) floodOrders(ctx context.Context, report *Report) error {
	return b.flood(ctx, report, "flood.orders", func(s *stand) func() ([]byte, error) {
		made := orders.New(flooder, b.seeds.Add(1))
		return func() ([]byte, error) { return protojson.MarshalOptions{UseProtoNames: true}.Marshal(made.Next()) }
	})
}

func (b *bench) floodUnreadable(ctx context.Context, report *Report) error {
	return b.flood(ctx, report, "flood.unreadable", func(*stand) func() ([]byte, error) {
		n := 0
		return func() ([]byte, error) {
			n++
			return fmt.Appendf(nil, `{"seller":"%s","outbound_no":"BAD-%d","lines":[{"quantity":"many"`, flooder, n), nil
		}
	})
}

// flood publishes an order of one seller every so often, first alone and then while another floods its own subject.
func (b *bench) flood(ctx context.Context, report *Report, id string, bodies func(*stand) func() ([]byte, error)) error {
	s, err := b.stand(ctx, shape{name: id, sync: "always", redis: "everysec", latency: floodJD})
	if err != nil {
		return err
	}
	defer s.close()
	for name, quota := range map[string]*sellerv1.Quota{flooder: {PerSecond: 400, Concurrent: 32}, other: {PerSecond: 100, Concurrent: 10}} {
		if _, err := s.seller(ctx, name, "app-"+name, quota); err != nil {
			return err
		}
	}
	worker, err := s.Worker(ctx, procs.OrderPusher, "pusher", "LOG_LEVEL=error")
	if err != nil {
		return err
	}
	if err := s.warm(ctx, flooder, other); err != nil {
		return err
	}
	scaled := func(d time.Duration) time.Duration {
		return max(2*time.Second, time.Duration(float64(d)*min(1, b.scale)))
	}

	alone, err := s.beside(ctx, scaled(aloneFor), nil)
	if err != nil {
		return err
	}
	b.say(fmt.Sprintf("%s: alone p50 %.0f ms, p99 %.0f ms", id, percentile(alone.waits, 50), percentile(alone.waits, 99)))
	n, next := b.orders(flooded), bodies(s)
	ended := make(chan error, 1)
	var stored time.Duration
	beside, err := s.beside(ctx, scaled(floodFor), func(ctx context.Context) (bool, error) {
		select {
		case err := <-ended:
			ended <- err // for the one who looks next
			if err != nil {
				return false, err
			}
			left, err := s.waiting(ctx, "order-pusher")
			return left == 0, err
		default:
			return false, nil
		}
	}, func() {
		began := time.Now()
		err := s.pour(ctx, n, next)
		stored = time.Since(began)
		ended <- err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, worker.Tail(2000))
	}
	if err := <-ended; err != nil {
		return err
	}
	how := fmt.Sprintf("%d messages stored in %.0f s, an order of the other every %v for %.0f s, JD answers in %v, the flooding seller may call 400 times a second, one order-pusher, sync always",
		n, stored.Seconds(), everyOther, beside.took.Seconds(), floodJD)
	detail := map[string]float64{
		"p50 ms": percentile(beside.waits, 50), "max ms": slices.Max(beside.waits), "orders": float64(len(beside.waits)), "not accepted in time": float64(beside.missing),
		"alone p50 ms": percentile(alone.waits, 50), "alone p99 ms": percentile(alone.waits, 99), "alone max ms": slices.Max(alone.waits),
	}
	if err := report.add(id, how, []float64{percentile(beside.waits, 99)}, detail); err != nil {
		return err
	}
	if id != "flood.unreadable" {
		return nil
	}
	letters, err := s.deadLetters(ctx, n)
	if err != nil {
		return err
	}
	return report.add("flood.unreadable.letters", fmt.Sprintf("of %d messages; an entry may stand for many", n), []float64{float64(letters.NumSubjects)}, map[string]float64{
		"MiB": float64(letters.Bytes) / (1 << 20), "messages in the stream": float64(letters.Msgs),
	})
}

// pour publishes n messages on the flooder's subject, as fast as the server stores them, over a connection of its own.
func (s *stand) pour(ctx context.Context, n int, next func() ([]byte, error)) error {
	nc, err := nats.Connect(s.NATS.URL())
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(2000))
	if err != nil {
		return err
	}
	for i := range n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m := nats.NewMsg(event.OrderAudited.Name + "." + flooder)
		if m.Data, err = next(); err != nil {
			return err
		}
		m.Header.Set(event.HeaderContentType, "application/json")
		m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("flood/%d", i))
		if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
			return fmt.Errorf("message %d of the flood: %w", i, err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waits is what the other seller's orders waited.
type waits struct {
	// waits of each, ms, in the order of storing. One that was not accepted in time counts with the time until then.
	waits   []float64
	missing int
	took    time.Duration
}

// beside starts what disturbs, publishes orders of the other seller for a while, or until over says so, and waits until
// all are accepted.
func (s *stand) beside(ctx context.Context, most time.Duration, over func(context.Context) (bool, error), disturb ...func()) (w waits, err error) {
	from, err := s.last(ctx)
	if err != nil {
		return w, err
	}
	for _, f := range disturb {
		go f()
	}
	began := time.Now()
	every := time.NewTicker(everyOther)
	defer every.Stop()
	for i := 0; time.Since(began) < most; i++ {
		select {
		case <-every.C:
		case <-ctx.Done():
			return w, ctx.Err()
		}
		if err := s.publishOne(event.OrderAudited.Name, s.makers[other].Next()); err != nil {
			return w, err
		}
		if over == nil || i%10 != 0 {
			continue
		}
		if done, err := over(ctx); done || err != nil {
			if err != nil {
				return w, err
			}
			break
		}
	}
	w.took = time.Since(began)
	audited, err := s.storedAt(ctx, bus.StreamIntake, event.OrderAudited.Name+"."+other, from.audits)
	if err != nil {
		return w, err
	}
	var accepted map[string]time.Time
	limit := time.Now().Add(floodWait)
	if end, ok := ctx.Deadline(); ok && end.Add(-4*groupEnds).Before(limit) { // the dead letters come after it
		limit = end.Add(-4 * groupEnds)
	}
	for {
		if accepted, err = s.storedAt(ctx, bus.StreamOrders, event.OrderAccepted.Name+"."+other, from.outcomes); err != nil {
			return w, err
		}
		if len(accepted) >= len(audited) || time.Now().After(limit) {
			break
		}
		if err := rest(ctx, time.Second); err != nil {
			return w, err
		}
	}
	now := time.Now()
	for no, at := range audited {
		done, ok := accepted[no]
		if !ok {
			w.missing++
			done = now
		}
		w.waits = append(w.waits, float64(done.Sub(at).Microseconds())/1000)
	}
	if len(w.waits) == 0 {
		return w, errors.New("no orders of the other seller were stored")
	}
	return w, nil
}

// percentile is the value below which p of a hundred lie.
func percentile(list []float64, p int) float64 {
	s := slices.Sorted(slices.Values(list))
	return s[min(len(s)-1, len(s)*p/100)]
}

// storedAt is when each message on a subject after the given one was stored, by its document.
func (s *stand) storedAt(ctx context.Context, stream, subject string, after uint64) (map[string]time.Time, error) {
	at := map[string]time.Time{}
	c, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, FilterSubjects: []string{subject}, HeadersOnly: true,
	})
	if err != nil {
		return nil, err
	}
	if c.CachedInfo().NumPending == 0 {
		return at, nil
	}
	messages, err := c.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		m, err := messages.Next()
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		at[m.Headers().Get(event.HeaderSubject)] = meta.Timestamp
		if meta.NumPending == 0 {
			return at, nil
		}
	}
}

// waiting is how many messages a service's consumers have not finished: those whose names begin with its own.
func (s *stand) waiting(ctx context.Context, service string) (n int, err error) {
	w, err := s.NATS.Waiting(ctx)
	for consumer, unsettled := range w.Unsettled {
		if strings.HasPrefix(consumer, service) {
			n += unsettled
		}
	}
	return n, err
}

// streamDeadLetters keeps what cannot be handled.
const streamDeadLetters = "SHELF"

// deadLetters is their stream, once it stands still: at most n entries are expected. Each has a subject of its own.
func (s *stand) deadLetters(ctx context.Context, n int) (state jetstream.StreamState, err error) {
	limit := time.Now().Add(floodWait)
	if end, ok := ctx.Deadline(); ok && end.Add(-groupEnds).Before(limit) {
		limit = end.Add(-groupEnds)
	}
	for before := uint64(0); ; {
		str, err := s.js.Stream(ctx, streamDeadLetters)
		if err != nil {
			return state, err
		}
		state = str.CachedInfo().State
		if state.NumSubjects >= uint64(n) || state.LastSeq == before && before > 0 || time.Now().After(limit) { //nolint:gosec // n is small
			return state, nil
		}
		before = state.LastSeq
		if err := rest(ctx, 3*time.Second); err != nil {
			return state, err
		}
	}
}
