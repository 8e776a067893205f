package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

func TestSellersThatShareAPasswordAreRejected(t *testing.T) {
	for _, sellers := range [][]string{{"a-b", "a_b"}, {"acme", "acme"}, {"ACME"}, {"a.b"}} {
		if err := bus.WriteUsers(io.Discard, services(), sellers...); err == nil {
			t.Errorf("%v are taken", sellers)
		}
	}
}

// guarded is a server that runs with the users of services and sellers.
type guarded struct {
	url      string
	operator *bus.Bus
	js       jetstream.JetStream // the operator's
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	for _, user := range []string{"ORDER_PUSHER", "RECONCILER", "STATUS_POLLER", "STOCK_SYNCER", "VMI_INGESTER", "BRIDGECTL", "ERP_ACME", "ERP_BOLT"} {
		t.Setenv(user+"_PASSWORD", "of-"+strings.ToLower(user))
	}
	// As an operator does it: the file is included.
	folder := t.TempDir()
	var users bytes.Buffer
	if err := bus.WriteUsers(&users, services(), "acme", "bolt"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"users.conf": users.Bytes(), "nats.conf": []byte("include users.conf\n")} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := natsserver.ProcessConfigFile(filepath.Join(folder, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", natsserver.RANDOM_PORT, true, t.TempDir(), true, true
	s, err := natsserver.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	g := &guarded{url: s.ClientURL()}
	g.operator = g.bus(t, bus.Operator)
	if _, err := g.operator.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	nc, _ := g.conn(t, bus.Operator)
	if g.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *guarded) urlOf(user string) string {
	return strings.Replace(g.url, "://", "://"+user+":of-"+strings.ReplaceAll(user, "-", "_")+"@", 1)
}

func (g *guarded) bus(t *testing.T, user string) *bus.Bus {
	t.Helper()
	return g.loggingBus(t, user, io.Discard)
}

func (g *guarded) loggingBus(t *testing.T, user string, to io.Writer) *bus.Bus {
	t.Helper()
	oversees := slices.ContainsFunc(services(), func(s bus.Service) bool { return s.Name == user && len(s.Oversees) > 0 })
	b, err := bus.Connect(t.Context(), bus.Options{URL: g.urlOf(user), Name: user, LeaveReaders: oversees, Log: zerolog.New(to)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// denied is what a server rejected on a connection.
type denied struct {
	mu   sync.Mutex
	said []string
}

func (d *denied) has(text string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.said, func(s string) bool { return strings.Contains(s, text) })
}

// conn is an ERP's own client, with the default inboxes.
func (g *guarded) conn(t *testing.T, user string) (*nats.Conn, *denied) {
	t.Helper()
	d := &denied{}
	options := []nats.Option{nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.said = append(d.said, err.Error())
	})}
	if !strings.HasPrefix(user, "erp-") {
		options = append(options, nats.CustomInboxPrefix(bus.InboxOf(user)))
	}
	nc, err := nats.Connect(g.urlOf(user), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, d
}

// stored counts the messages of every stream, by stream and subject.
func (g *guarded) stored(t *testing.T) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, stream := range []string{"INTAKE", "ORDERS", "SELLERS", "TICKS", "RETRY", "SHELF", "KV_SETUP", "KV_TOKENS", "KV_LEDGER", "KV_BOOKS"} {
		s, err := g.js.Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for subject, n := range info.State.Subjects {
			all[stream+" "+subject] = n
		}
	}
	return all
}

// reader creates the durable consumer of a seller's ERP, as docs/publish.md instructs the operator.
func (g *guarded) reader(t *testing.T, seller string) {
	t.Helper()
	if _, err := g.js.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{
		Durable: "erp-" + seller, AckPolicy: jetstream.AckExplicitPolicy,
		FilterSubjects: []string{"order.accepted." + seller, "order.status.changed." + seller},
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAnERPPublishesAndReadsItsOwn(t *testing.T) {
	g := startGuarded(t)
	g.reader(t, "acme")
	nc, complaints := g.conn(t, "erp-acme")
	live, err := nc.SubscribeSync("order.accepted.acme")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithDomain(nc, bus.Domain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "order.audited.acme", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	answer := func(seller string) event.Event { return accepted(order(seller, "1")) }
	publish(t, g.bus(t, "order-pusher"), answer("bolt"), answer("acme"))
	if m, err := live.NextMsg(10 * time.Second); err != nil || m.Subject != "order.accepted.acme" {
		t.Errorf("live: %v %v", m, err)
	}
	c, err := js.Consumer(t.Context(), "ORDERS", "erp-acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"order.accepted.acme"} {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject() != want {
			t.Errorf("read %s, want %s", m.Subject(), want)
		}
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Errorf("ack %s: %v", want, err)
		}
	}
	if complaints.has("ermission") {
		t.Errorf("the server complains: %v", complaints.said)
	}
}

func TestASellerCannotReachBeyondItsSubjects(t *testing.T) {
	g := startGuarded(t)
	g.reader(t, "acme")
	g.reader(t, "bolt")
	setup := []byte(`{"name":"bolt"}`)
	bucket, err := g.operator.Bucket(t.Context(), bus.BucketSetup)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Create(t.Context(), "seller.bolt", setup); err != nil {
		t.Fatal(err)
	}
	publish(t, g.operator, audit("bolt", "1"))
	for i := range 8 { // for it to read
		publish(t, g.operator, accepted(order("acme", fmt.Sprint(i))))
	}
	before := g.stored(t)

	t.Run("what it may not publish is a clear error", func(t *testing.T) {
		erp := g.bus(t, "erp-acme")
		for _, subject := range []string{
			"order.audited.bolt", "order.audited", "order.accepted.acme", "seller.resumed.acme",
			event.RetrySubject("order-pusher", "acme"), event.DelaySubject("order-pusher", "x"), event.TickSubject("poll", "acme"),
			"dlq.order-pusher.INTAKE.1", "$KV.SETUP.seller.bolt", "$KV.TOKENS.x", "$KV.LEDGER.x", "$KV.BOOKS.x",
			"$JS.API.STREAM.DELETE.INTAKE", "$JS.API.STREAM.PURGE.INTAKE", "$JS.API.STREAM.MSG.GET.INTAKE",
			"$JS.API.CONSUMER.DELETE.INTAKE.order-pusher", "$JS.API.CONSUMER.CREATE.INTAKE.mine.order.audited.bolt",
			"$JS.API.CONSUMER.MSG.NEXT.INTAKE.order-pusher", "$JS.API.CONSUMER.MSG.NEXT.ORDERS.erp-bolt",
			"$JS.API.STREAM.DELETE.ORDERS", "$JS.API.STREAM.MSG.GET.ORDERS", "$JS.API.CONSUMER.MSG.NEXT.INTAKE.erp-acme",
		} {
			_, _, err := erp.PublishRaw(t.Context(), subject, nil, []byte(`{}`))
			if !errors.Is(err, bus.ErrPermission) || !strings.Contains(err.Error(), subject) {
				t.Errorf("%s: %v", subject, err)
			}
		}
	})
	t.Run("headers that schedule, roll up or expire are refused", func(t *testing.T) {
		erp := g.bus(t, "erp-acme")
		for header, value := range map[string]string{
			jetstream.MsgRollup: jetstream.MsgRollupAll, jetstream.ScheduleHeader: "@at 2020-01-01T00:00:00Z", jetstream.MsgTTLHeader: "1s",
		} {
			h := map[string][]string{header: {value}, jetstream.ScheduleTargetHeader: {"order.audited.bolt"}}
			if _, _, err := erp.PublishRaw(t.Context(), "order.audited.acme", h, []byte(`{}`)); err == nil {
				t.Errorf("%s: %s is taken", header, value)
			}
		}
	})
	t.Run("it hears nothing of others", func(t *testing.T) {
		for _, subject := range []string{"order.>", "order.accepted.*", "order.accepted.bolt", "_INBOX.order-pusher.>", ">"} {
			nc, complaints := g.conn(t, "erp-acme")
			sub, err := nc.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(subject, "_INBOX.") { // of its own account: allowed, and empty
				publish(t, g.bus(t, "order-pusher"))
			} else {
				eventually(t, subject+" is refused", func() bool { return complaints.has("Permissions Violation for Subscription") })
			}
			if n, _, _ := sub.Pending(); n != 0 {
				t.Errorf("%s: heard %d", subject, n)
			}
		}
	})
	if after := g.stored(t); !cmp.Equal(before, after) {
		t.Errorf("what is stored changed: %s", cmp.Diff(before, after))
	}

	// JetStream answers a publish, and delivers pulled messages, to whatever subject is asked for, with its own rights.
	t.Run("answers do not carry it further", func(t *testing.T) {
		nc, _ := g.conn(t, "erp-acme")
		targets := []string{"$KV.SETUP.seller.bolt", "order.audited.bolt", event.RetrySubject("order-pusher", "bolt"), "dlq.order-pusher.INTAKE.1"}
		for _, target := range targets {
			if err := nc.PublishRequest("order.audited.acme", target, []byte(`{"seller":"bolt"}`)); err != nil {
				t.Fatal(err)
			}
			if err := nc.PublishRequest("$JS.bridge.API.CONSUMER.MSG.NEXT.ORDERS.erp-acme", target, []byte("1")); err != nil {
				t.Fatal(err)
			}
		}
		want := before
		want["INTAKE order.audited.acme"] = uint64(len(targets))
		eventually(t, "all is stored", func() bool { return g.stored(t)["INTAKE order.audited.acme"] >= uint64(len(targets)) })
		// Anything misdirected would be there by the time that a later publish is answered and a later pull is served.
		js, err := jetstream.NewWithDomain(nc, bus.Domain)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "order.audited.acme", []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		want["INTAKE order.audited.acme"]++
		c, err := js.Consumer(t.Context(), "ORDERS", "erp-acme")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if after := g.stored(t); !cmp.Equal(want, after) {
			t.Errorf("it reached further: %s", cmp.Diff(want, after))
		}
		if v, err := bucket.Get(t.Context(), "seller.bolt"); err != nil || !bytes.Equal(v.Data, setup) {
			t.Errorf("the set-up of another seller: %s %v", v.Data, err)
		}
	})
}

// A worker may do everything that settling a message can need: publish, delay, dead-letter, release, replay.
func TestAWorkerMayDoItsWork(t *testing.T) {
	g := startGuarded(t)
	var said complaints
	b := g.loggingBus(t, "order-pusher", &said)
	released := make(chan struct{})
	serve(t, b, bus.Serving{}, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		switch m.OutboundNo {
		case "later":
			return nil, fault.RetryAfter(time.Hour, errors.New("not yet"))
		case "dead":
			return nil, fault.Permanent(errors.New("never"))
		}
		select {
		case <-released:
			return []event.Event{accepted(m)}, nil
		default:
			return nil, fault.Hold("mapping:x", errors.New("not mapped"))
		}
	}, nil)
	publish(t, g.operator, audit("acme", "later"), audit("acme", "dead"), audit("acme", "held"))
	count := func(subject string) (n uint64) {
		for at, times := range g.stored(t) {
			if strings.Contains(at, " "+subject) {
				n += times
			}
		}
		return n
	}
	eventually(t, "one is delayed, one dead, one held", func() bool {
		return count("park.order-pusher.") == 1 && count("dlq.order-pusher.") == 1 && count("held.order-pusher.") == 1
	})
	close(released)
	if n, err := b.Release(t.Context(), bus.DeadLetterQuery{Kind: event.Held, Consumer: "order-pusher"}, nil, 0, bus.By{Who: "order-pusher"}); n != 1 || err != nil {
		t.Fatalf("released %d: %v", n, err)
	}
	eventually(t, "the released one is accepted", func() bool { return count("order.accepted.acme") == 1 && count("held.") == 0 })
	if text := said.String(); strings.Contains(strings.ToLower(text), "permission") {
		t.Errorf("it was refused something:\n%s", text)
	}
}

// complaints is a log that can be read while it is written.
type complaints struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *complaints) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *complaints) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func TestEveryUserOfOursMayBeReady(t *testing.T) {
	g := startGuarded(t)
	for _, u := range bus.Users(services()) {
		b := g.bus(t, u.Name)
		err := b.CheckWrites(t.Context())
		if errors.Is(err, bus.ErrPermission) {
			t.Errorf("%s: %v", u.Name, err)
			continue
		}
		eventually(t, u.Name+" is ready", func() bool { return b.CheckWrites(t.Context()) == nil })
	}
	if err := g.bus(t, "erp-acme").CheckWrites(t.Context()); !errors.Is(err, bus.ErrPermission) {
		t.Errorf("an ERP: %v", err)
	}
}

func TestAWorkerMayNotChangeTheTopology(t *testing.T) {
	g := startGuarded(t)
	for _, s := range services() {
		user := s.Name
		b := g.bus(t, user)
		if err := b.CheckTopology(t.Context(), s); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		for _, subject := range []string{
			"$JS.API.STREAM.DELETE.INTAKE", "$JS.API.STREAM.UPDATE.INTAKE", "$JS.API.STREAM.PURGE.INTAKE", "$JS.API.STREAM.MSG.DELETE.INTAKE",
			"$JS.API.STREAM.PURGE.TICKS", "$JS.API.CONSUMER.DELETE.INTAKE.order-pusher", "$JS.API.CONSUMER.CREATE.INTAKE.x.order.>",
			"$KV.SETUP.seller.acme", "order.audited.acme", event.TickSubject("poll", "acme"),
		} {
			if user == "reconciler" && strings.HasSuffix(subject, "CREATE.INTAKE.x.order.>") {
				continue // it reads audits and outcomes
			}
			if _, _, err := b.PublishRaw(t.Context(), subject, nil, nil); !errors.Is(err, bus.ErrPermission) {
				t.Errorf("%s, %s: %v", user, subject, err)
			}
		}
	}
	// One worker may not take the other's messages, nor listen to its answers.
	nc, complaints := g.conn(t, "status-poller")
	if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.INTAKE.order-pusher", bus.InboxOf("status-poller")+".1", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.SubscribeSync("_INBOX.order-pusher.>"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are refused", func() bool { return complaints.has("MSG.NEXT") && complaints.has("_INBOX.order-pusher") })
}

// The reconciler may read everything about the pusher's messages, and redeliver them; it may not take them.
func TestTheReconcilerMayOversee(t *testing.T) {
	g := startGuarded(t)
	publish(t, g.operator, audit("acme", "A"))
	b := g.bus(t, "reconciler")
	s := at(t, b, "A")
	if err := b.Redeliver(t.Context(), pusher, placeOf(s), 1, bus.By{Who: "reconciler"}); err != nil {
		t.Fatal(err)
	}
	if o, err := b.Backlog(t.Context(), audits()); err != nil || !o.Has(placeOf(s)) {
		t.Errorf("not outstanding: %v", err)
	}
	serve(t, g.bus(t, pusher), bus.Serving{}, nothing, nil)
	litter(t, g.operator, alone+3, nonsense) // a group needs more rights, of the pusher too
	settled(t, g.operator)
	for _, kind := range []string{event.Held, event.Dead} {
		items, _, err := b.DeadLetters(t.Context(), bus.DeadLetterQuery{Kind: kind, Consumer: pusher, Seller: "acme", Limit: 1000})
		if err != nil || kind == event.Dead && (len(items) == 0 || items[len(items)-1].Count() != 3) {
			t.Errorf("%d items, %v", len(items), err)
		}
	}
	for _, subject := range []string{event.DelaySubject(pusher, "x"), event.RetrySubject("vmi-ingester-window", "acme"), "$JS.API.STREAM.PURGE.RETRY", "order.audited.acme"} {
		if _, _, err := b.PublishRaw(t.Context(), subject, nil, nil); !errors.Is(err, bus.ErrPermission) {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

// The operator asks all workers at once, and each may answer that question only.
func TestWorkersAnswerTheOperator(t *testing.T) {
	g := startGuarded(t)
	if answers, err := g.operator.Gather(t.Context(), event.WorkersAsked, time.Second); err != nil || len(answers) != 0 {
		t.Errorf("nobody answers: %q, %v", answers, err)
	}
	for _, name := range []string{"order-pusher", "reconciler"} {
		stop, err := g.bus(t, name).Answer(event.WorkersAsked, func() []byte { return []byte(name) })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	var got []string
	eventually(t, "both answer", func() bool {
		answers, err := g.operator.Gather(t.Context(), event.WorkersAsked, 500*time.Millisecond)
		got = nil
		for _, a := range answers {
			got = append(got, string(a))
		}
		slices.Sort(got)
		return err == nil && slices.Equal(got, []string{"order-pusher", "reconciler"})
	})
}
