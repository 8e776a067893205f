package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/event"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

const pusher = "order-pusher"

// audits is the pusher's consumer.
func audits() bus.Consumer {
	c := bus.ConsumerOf(pusher, event.OrderAudited)
	c.Retired = []string{bus.StreamOrders}
	return c
}

// services are one of each kind: with several consumers, with ticks only, one that reads streams, one that oversees
// another. The product's are listed in services/all.
func services() []bus.Service {
	return []bus.Service{
		{Name: pusher, Consumers: []bus.Consumer{
			audits(), bus.ConsumerOf(pusher+"-cancel", event.OrderCancelRequested), bus.ConsumerOf(pusher+"-sweep", event.ReleaseDue),
		}},
		{Name: "vmi-ingester", Consumers: []bus.Consumer{bus.ConsumerOf("vmi-ingester-window", event.VMIWindowDue)}, Reads: []string{bus.StreamStock, bus.StreamVMI}},
		{Name: "reconciler", Consumers: []bus.Consumer{bus.ConsumerOf("reconciler", event.ReconcileDue)}, Oversees: []bus.Consumer{audits()}},
		{Name: "stock-syncer", Consumers: []bus.Consumer{bus.ConsumerOf("stock-syncer-accepted", event.OrderAccepted)}},
		{Name: "status-poller", Consumers: []bus.Consumer{bus.ConsumerOf("status-poller", event.PollDue)}},
	}
}

func order(seller, no string) *orderv1.Audited {
	return &orderv1.Audited{
		Seller: seller, Shop: "S1", Warehouse: "W1", OrderNo: "O-" + no, OutboundNo: no, Revision: 1,
		AuditedAt: timestamppb.Now(),
		Lines:     []*orderv1.Line{{LineId: "1", GoodsCode: "G1", Quantity: 2}},
		Receiver:  &orderv1.Receiver{Name: "张三", Mobile: "13800000000", Address: "中关村 1 号"},
	}
}

func audit(seller, no string) event.Event {
	return event.OrderAudited.About(seller, no, time.Now(), order(seller, no), event.Revision(1))
}

func publish(t *testing.T, b *bus.Bus, events ...event.Event) {
	t.Helper()
	if err := b.Publish(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
}

// accepted is what a handler publishes.
func accepted(m *orderv1.Audited) event.Event {
	return event.OrderAccepted.About(m.GetSeller(), m.GetOutboundNo(), time.Now(), &documentv1.Accepted{Ref: &documentv1.Ref{OutboundNo: m.GetOutboundNo()}})
}

type handler = bus.Handler[*orderv1.Audited]

// serve runs Serve until stop, which waits for it. It fills in Attempts and short limits.
func serve(t *testing.T, b *bus.Bus, s bus.Serving, h handler, onReject func(*bus.Delivery, *orderv1.Audited, error) []event.Event) (stop func()) {
	t.Helper()
	s.Consumer = pusher
	if s.Attempts == nil {
		s.Attempts = &bustest.Attempts{}
	}
	if s.Slots == 0 {
		s.Slots = 4
	}
	if s.Alone == nil {
		s.Alone = func() bool { return true } // no lanes: tests of these say so
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- bus.Serve(ctx, b, event.OrderAudited, s, h, onReject) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve does not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

// log is what handlers saw, by outbound number.
type log struct {
	mu   sync.Mutex
	runs []run
}

type run struct {
	no string
	d  bus.Delivery
	at time.Time
}

// add records a run and returns its number among this order's runs, from 1.
func (l *log) add(d *bus.Delivery, m *orderv1.Audited) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = append(l.runs, run{m.GetOutboundNo(), *d, time.Now()})
	n := 0
	for _, r := range l.runs {
		if r.no == m.GetOutboundNo() {
			n++
		}
	}
	return n
}

func (l *log) all() []run {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.runs)
}

func (l *log) of(no string) (runs []run) {
	for _, r := range l.all() {
		if r.no == no {
			runs = append(runs, r)
		}
	}
	return runs
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, 15*time.Second, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// pass lets real time pass. Only for what the server's own clock decides, which no test can move: AckWait, schedules.
func pass(d time.Duration) { time.Sleep(d) }

// deadLetters lists all dead letters, with bodies.
func deadLetters(t *testing.T, b *bus.Bus) []bus.DeadLetter {
	t.Helper()
	items, next, err := b.DeadLetters(t.Context(), bus.DeadLetterQuery{WithBody: true, Limit: 1000})
	if err != nil || next != 0 {
		t.Fatalf("dead letters: %v (next %d)", err, next)
	}
	return items
}

func parseDeadLetter(t *testing.T, b *bus.Bus, n int) []bus.DeadLetter {
	t.Helper()
	eventually(t, fmt.Sprintf("%d dead letters", n), func() bool { return len(deadLetters(t, b)) == n })
	return deadLetters(t, b)
}

// published counts the events of a name, by key.
func published(t *testing.T, b *bus.Bus, name string) map[string]int {
	t.Helper()
	keys := map[string]int{}
	err := b.Events(t.Context(), bus.EventQuery{Names: []string{name}}, func(s bus.Stored) error {
		keys[s.Key]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// settled waits until the pusher has nothing left, not even unacked. What a consumer reports of itself lags behind the
// stream, so that it has had the newest message is checked too.
func settled(t *testing.T, b *bus.Bus) {
	t.Helper()
	settledWithin(t, b, 15*time.Second)
}

func settledWithin(t *testing.T, b *bus.Bus, limit time.Duration) {
	t.Helper()
	within(t, limit, "nothing left to do", func() bool {
		c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		if err != nil {
			t.Fatal(err)
		}
		i := c.CachedInfo()
		if i.NumPending > 0 {
			return false
		}
		left, err := b.LanesLeft(t.Context(), audits()) // after the main consumer, which leaves messages to them
		if err != nil {
			t.Fatal(err)
		}
		return left == 0 && i.NumPending == 0 && i.NumAckPending == 0 && i.Delivered.Stream >= newestAudit(t, b) &&
			len(subjects(t, b, "RETRY", event.RetryOf(pusher))) == 0
	})
}

// newestAudit is the sequence of the last audit in INTAKE; 0 when there is none.
func newestAudit(t *testing.T, b *bus.Bus) (seq uint64) {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), "INTAKE")
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range event.OrderAudited.Subjects() {
		for subject := range subjects(t, b, "INTAKE", filter) {
			m, err := s.GetLastMsgForSubject(t.Context(), subject)
			if err != nil {
				t.Fatal(err)
			}
			seq = max(seq, m.Sequence)
		}
	}
	return seq
}

// subjects lists the subjects of a stream, with counts.
func subjects(t *testing.T, b *bus.Bus, stream, filter string) map[string]uint64 {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects
}

func ackWait(t *testing.T, b *bus.Bus, d time.Duration) {
	change(t, b, func(c *jetstream.ConsumerConfig) { c.AckWait = d })
}

// change alters both of the pusher's consumers.
func change(t *testing.T, b *bus.Bus, f func(*jetstream.ConsumerConfig)) {
	t.Helper()
	for stream, name := range map[string]string{"INTAKE": pusher, "RETRY": bus.RetryName(pusher)} {
		c, err := b.JS().Consumer(t.Context(), stream, name)
		if err != nil {
			t.Fatal(err)
		}
		config := c.CachedInfo().Config
		f(&config)
		if _, err := b.JS().UpdateConsumer(t.Context(), stream, config); err != nil {
			t.Fatal(err)
		}
	}
}

// soon is a clock by which a delay of d fires after in.
func soon(d, in time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(in - d) }
}

// broker is a server that can be stopped and started again.
type broker struct {
	t *testing.T
	o server.Options
	s *server.Server
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	k := &broker{t: t, o: server.Options{Dir: t.TempDir(), Port: server.RandomPort, Log: zerolog.Nop()}}
	k.start()
	t.Cleanup(func() { k.s.Stop() })
	return k
}

func (k *broker) start() {
	k.t.Helper()
	s, err := server.Start(k.o)
	if err != nil {
		k.t.Fatal(err)
	}
	k.s = s
	if k.o.Port == server.RandomPort { // the same one next time
		if _, err := fmt.Sscanf(s.URL()[strings.LastIndex(s.URL(), ":"):], ":%d", &k.o.Port); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *broker) restart() {
	k.t.Helper()
	k.s.Stop()
	k.start()
}

func apiCode(err error) int {
	var e jetstream.JetStreamError
	if err == nil {
		return 0
	}
	if ok := asJS(err, &e); ok && e.APIError() != nil {
		return int(e.APIError().ErrorCode)
	}
	return -1
}

func msg(subject, body string, headers ...string) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = []byte(body)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	return m
}

func placeOf(s bus.Stored) bus.Place { return bus.Place{Stream: s.Stream, Seq: s.Seq, Stored: s.At} }
