// Package testenv is Stockbridge with its whole environment, for stories: the real workers in this process, a real NATS
// server, either real ledger, and a JD whose faults can be set.
package testenv

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	natsserver "stockbridge/pkg/bus/server"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/status-poller/poller"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

// Ledgers are the two that each story runs on.
var Ledgers = []string{"kv", "redis"}

// Patience is how long a story waits for what must happen. It only bounds a failure.
const Patience = 90 * time.Second

// Options of a world. The zero value is a good day.
type Options struct {
	// Ledger is one of Ledgers.
	Ledger string
	// Knobs of the JD.
	Knobs jdsandbox.Knobs
	// Speed of JD's clock; 0 keeps it standing still, so that orders are accepted and do not move.
	Speed float64
	// Sandbox changes the rest of JD's settings.
	Sandbox func(*jdsandbox.Config)
	// Pusher changes the pusher's settings, Setup the demo seller's.
	Pusher func(*pusher.Config)
	Setup  func(*sellerv1.Setup)
	// Reconcile changes the reconciler's settings; its tick comes every hour unless ReconcileEvery says otherwise.
	Reconcile      func(*reconciler.Config)
	ReconcileEvery time.Duration
	// Ingest changes the ingester's settings.
	Ingest func(*ingester.Config)
	// Traces makes the spans; nil for none.
	Traces oteltrace.TracerProvider
	Log    bool
	// LogTo receives every line of the log at the lowest level, and has metrics served; nil is stderr, with Log.
	LogTo io.Writer
}

// World is running until the test ends.
type World struct {
	*stack.Stack
	Maker *orders.Maker
	// RedisURL is where the ledger is; empty when it is in the broker.
	RedisURL string
	redis    *redistest.Server
	views    map[string]*orderview.Tally
	t        testing.TB
	dir      string
	jdURL    string
}

// Start starts a world with the demo seller.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	push := pusher.Config{Config: push.Config{
		Slots: 32, MaxAttempts: 8, ResendAfter: 2 * time.Second, SettleFor: time.Second, BreakerAfter: 5, ProbeAfter: time.Second, ReleasePerSecond: 2000,
	}}
	if o.Pusher != nil {
		o.Pusher(&push)
	}
	poll := poller.Config{
		OpenEvery: time.Second, PackedEvery: time.Second, ShippedEvery: time.Second, FollowFor: time.Hour, Slots: 4,
		BreakerAfter: 5, ProbeAfter: time.Second,
	}
	reconcile := reconciler.Config{Deadline: time.Second, UnknownFor: time.Minute, ConfirmAfter: 300 * time.Millisecond, Slots: 4}
	if o.Reconcile != nil {
		o.Reconcile(&reconcile)
	}
	if o.ReconcileEvery == 0 {
		o.ReconcileEvery = time.Hour
	}
	ingest := ingester.Config{
		Slots: 2, MaxPages: 50, RunPages: 20, Attempts: 8, GapAttempts: 8, CatchUp: time.Hour, ReleasePerSecond: 100,
		BreakerAfter: 5, ProbeAfter: time.Second,
	}
	if o.Ingest != nil {
		o.Ingest(&ingest)
	}
	sync := syncer.Config{PerSecond: 1000, Settle: 2 * time.Second, Slots: 2, AcceptedSlots: 16, BreakerAfter: 5, ProbeAfter: time.Second}
	config := stack.DemoSandbox()
	config.Knobs, config.Speed, config.Stopped = o.Knobs, o.Speed, o.Speed == 0
	if o.Sandbox != nil {
		o.Sandbox(&config)
	}
	var redis worker.Secret
	var server *redistest.Server
	if o.Ledger == "redis" {
		server = redistest.Start(t)
		redis = worker.Secret(server.URL())
	}
	level := zerolog.Disabled
	if o.Log {
		level = zerolog.DebugLevel
	}
	var logTo io.Writer = os.Stderr
	probes := "off"
	if o.LogTo != nil {
		logTo, level, probes = o.LogTo, zerolog.TraceLevel, "127.0.0.1:0"
	}
	dir := t.TempDir()
	s, err := stack.Start(t.Context(), stack.Options{
		DataDir: dir, NATSPort: natsserver.RandomPort, NoSync: true, RedisURL: redis, SandboxAddr: "127.0.0.1:0", Sandbox: &config, HTTPAddr: probes,
		Settings: map[string]any{
			pusher.Name: push, poller.Name: poll, ingester.Name: ingest, reconciler.Name: reconcile, syncer.Name: sync,
		},
		Ticks:  stack.Ticks{event.TickPoll: time.Second, event.TickRelease: time.Second, event.TickReconcile: o.ReconcileEvery},
		Traces: o.Traces, Log: zerolog.New(logTo).Level(level), Grace: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		select {
		case err := <-s.Failed():
			t.Error(err)
		default:
		}
	})
	w := &World{Stack: s, RedisURL: redis.Reveal(), redis: server, Maker: orders.New(stack.DemoSeller, 1), views: map[string]*orderview.Tally{}, t: t, dir: dir, jdURL: s.SandboxURL}
	setup, err := stack.DemoSetup(dir, s.SandboxURL)
	if err != nil {
		t.Fatal(err)
	}
	if o.Setup != nil {
		o.Setup(setup)
	}
	w.Apply(setup)
	if err := s.StartWorkers(); err != nil {
		t.Fatal(err)
	}
	return w
}

// Dir holds what the stack keeps.
func (w *World) Dir() string { return w.dir }

// Dirs hold what the broker and the ledger keep.
func (w *World) Dirs() []string {
	dirs := []string{filepath.Join(w.dir, "nats")}
	if w.redis != nil {
		dirs = append(dirs, w.redis.Dir())
	}
	return dirs
}

// WipeLedger deletes all that the ledger knows, while everybody works on.
func (w *World) WipeLedger() {
	w.t.Helper()
	if w.redis != nil {
		w.redis.Wipe()
		return
	}
	for _, name := range []string{bus.BucketLedger, bus.BucketBooks} {
		bucket, err := w.Bus.Bucket(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		keys, err := bucket.Keys(w.t.Context(), "")
		if err != nil {
			w.t.Fatal(err)
		}
		for _, key := range keys {
			if err := bucket.Delete(w.t.Context(), key, 0); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// LedgerAsItIs copies what the ledger knows; restore returns to the copy. Only with a ledger in Redis.
func (w *World) LedgerAsItIs() (restore func()) {
	copied := w.redis.Copy()
	return func() { w.redis.Restore(copied) }
}

// Apply sets a seller up.
func (w *World) Apply(setup *sellerv1.Setup) {
	w.t.Helper()
	if err := w.Stack.Apply(w.t.Context(), setup); err != nil {
		w.t.Fatal(err)
	}
}

// Setup is the demo seller's set-up, to be copied under another name or changed and applied.
func (w *World) Setup() *sellerv1.Setup {
	w.t.Helper()
	setup, err := stack.DemoSetup(w.dir, w.jdURL)
	if err != nil {
		w.t.Fatal(err)
	}
	return setup
}

// Publish publishes orders as an ERP does.
func (w *World) Publish(list ...*orderv1.Audited) {
	w.t.Helper()
	for _, o := range list {
		body, err := protojson.Marshal(o)
		if err != nil {
			w.t.Fatal(err)
		}
		w.PublishRaw(event.OrderAudited.Name+"."+o.Seller, body)
	}
}

// PublishRaw publishes any bytes.
func (w *World) PublishRaw(subject string, body []byte) {
	w.t.Helper()
	if _, _, err := w.Bus.PublishRaw(w.t.Context(), subject, nil, body); err != nil {
		w.t.Fatal(err)
	}
}

// Published is what the streams have of a seller's orders now.
func (w *World) Published(seller string) *orderview.Tally {
	w.t.Helper()
	t, ok := w.views[seller]
	if !ok {
		t = orderview.New(w.Bus, seller)
		w.views[seller] = t
	}
	if err := t.Update(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return t
}

// Until waits until cond holds; what describes it in the failure's text.
func (w *World) Until(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(Patience)
	for !cond() {
		select {
		case err := <-w.Failed():
			w.t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited %s for: %s\n%s", Patience, what, w.state())
		}
	}
}

// UntilPublished waits until the streams have the wanted events of the demo seller's order.
func (w *World) UntilPublished(what string, o *orderv1.Audited, cond func(*orderview.Order) bool) *orderview.Order {
	w.t.Helper()
	var order *orderview.Order
	w.Until(what, func() bool {
		order = w.Published(o.Seller).Orders[o.OutboundNo]
		return order != nil && cond(order)
	})
	return order
}

// Accepted waits until the order is accepted, and checks that JD has it once, under the published number.
func (w *World) Accepted(o *orderv1.Audited) string {
	w.t.Helper()
	seen := w.UntilPublished(o.OutboundNo+" is accepted", o, func(t *orderview.Order) bool { return len(t.Accepted) > 0 })
	docs := w.Documents(o)
	if len(seen.Accepted) != 1 || len(docs) != 1 || docs[0].EclpSoNo != seen.Accepted[0] {
		w.t.Fatalf("%s: published %v, JD has %d documents", o.OutboundNo, seen.Accepted, len(docs))
	}
	return seen.Accepted[0]
}

// Documents is what JD has of an order, children of splits left out.
func (w *World) Documents(o *orderv1.Audited) []jdsandbox.Document {
	var docs []jdsandbox.Document
	for _, d := range w.JD.Documents(o.OutboundNo) {
		if d.Parent == "" {
			docs = append(docs, d)
		}
	}
	return docs
}

// DeadLetters lists the dead letters of a kind.
func (w *World) DeadLetters(kind string) []bus.DeadLetter {
	w.t.Helper()
	items, _, err := w.Bus.DeadLetters(w.t.Context(), bus.DeadLetterQuery{Kind: kind, Limit: 10000})
	if err != nil {
		w.t.Fatal(err)
	}
	return items
}

// NoViolations checks what the sandbox counted.
func (w *World) NoViolations() {
	w.t.Helper()
	if v := w.JD.Violations(); v.Total != 0 {
		w.t.Errorf("the sandbox counts %v, for example %+v", v.Counts, v.Items[0])
	}
}

// state is printed for a failed wait.
func (w *World) state() string {
	var text strings.Builder
	for _, kind := range []string{event.Dead, event.Held} {
		items, _, err := w.Bus.DeadLetters(context.WithoutCancel(w.t.Context()), bus.DeadLetterQuery{Kind: kind, Limit: 5})
		if err != nil {
			return err.Error()
		}
		for _, m := range items {
			text.WriteString(kind + " " + m.Consumer + " " + m.Key + " " + m.Class + " " + m.Cause + " " + m.Error + "\n")
		}
	}
	return text.String()
}
