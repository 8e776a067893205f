//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/procs"
)

const program = "stockbridge/services/e2e/bench"

// stand is one set of servers, with the driver's own connection.
type stand struct {
	*procs.Run
	bench  *bench
	nc     *nats.Conn
	js     jetstream.JetStream
	jd     *procs.Process // nil when the sandbox plays JD
	makers map[string]*orders.Maker
}

// shape is what a stand has, besides one nats-server.
type shape struct {
	name, sync, redis string
	// sandbox plays JD, or an answerer does with this latency.
	sandbox *jdsandbox.Config
	latency time.Duration
	// open lets the answerer find every order that it is asked for.
	open bool
}

func (b *bench) stand(ctx context.Context, s shape) (*stand, error) {
	b.say("servers for " + s.name)
	dir, err := os.MkdirTemp(b.dir, s.name+"-")
	if err != nil {
		return nil, err
	}
	run, err := procs.New(procs.Options{Dir: dir, Bin: filepath.Join(b.dir, "bin"), Built: true})
	if err != nil {
		return nil, err
	}
	st := &stand{Run: run, bench: b, makers: map[string]*orders.Maker{}}
	if err := st.start(ctx, s); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

func (s *stand) start(ctx context.Context, shape shape) error {
	err := s.Stand(ctx, procs.Shape{Sync: shape.sync, Redis: shape.redis, Sandbox: shape.sandbox})
	if err != nil {
		return err
	}
	if shape.sandbox == nil {
		settings := []string{"BENCH_PART=jd", "BENCH_LATENCY=" + shape.latency.String()}
		if shape.open {
			settings = append(settings, "BENCH_OPEN=yes")
		}
		s.jd, err = s.Worker(ctx, program, "jd", settings...)
		if err != nil {
			return err
		}
	}
	if s.nc, err = nats.Connect(s.NATS.URL()); err != nil {
		return err
	}
	s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(20_000))
	return err
}

func (s *stand) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.Close()
}

// setupOf is the set-up of a seller that is not applied yet. Sellers with the same app share a quota.
func (s *stand) setupOf(name, app string, quota *sellerv1.Quota) (*sellerv1.Setup, error) {
	setup, err := stack.DemoSetup(s.Dir(), s.jdURL())
	if err != nil {
		return nil, err
	}
	setup.Name, setup.Title = name, name
	setup.Accounts[0].VendorSource = "ISV-" + name // one seller's only
	if app != "" {
		setup.Accounts[0].AppKey = app
	}
	setup.Accounts[0].Quota = quota
	return setup, nil
}

// seller sets one up and returns its set-up.
func (s *stand) seller(ctx context.Context, name, app string, quota *sellerv1.Quota) (*sellerv1.Setup, error) {
	setup, err := s.setupOf(name, app, quota)
	if err != nil {
		return nil, err
	}
	s.makers[name] = orders.New(name, s.bench.seeds.Add(1))
	return setup, s.Apply(ctx, setup)
}

func (s *stand) jdURL() string {
	if s.jd != nil {
		return s.jd.HTTP
	}
	return s.Sandbox.Base
}

// fileOf writes a set-up where the bare loop finds it.
func (s *stand) fileOf(setup *sellerv1.Setup) (string, error) {
	text, err := seller.Render(setup)
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.Dir(), "setup.yaml")
	return file, os.WriteFile(file, text, 0o600)
}

// publish stores n new orders of sellers, in turn, under subject.<seller>, and waits until they are.
func (s *stand) publish(ctx context.Context, subject string, n int, sellers ...string) error {
	for i := range n {
		if err := s.publishOne(subject, s.makers[sellers[i%len(sellers)]].Next()); err != nil {
			return err
		}
	}
	select {
	case <-s.js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publishOne sends an order as an ERP does, without waiting.
func (s *stand) publishOne(subject string, o *orderv1.Audited) error {
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(o)
	if err != nil {
		return err
	}
	m := nats.NewMsg(subject + "." + o.Seller)
	m.Data = body
	m.Header.Set(event.HeaderContentType, "application/json")
	m.Header.Set(jetstream.MsgIDHeader, subject+"/"+o.Seller+"/"+o.OutboundNo)
	m.Header.Set(event.HeaderID, m.Header.Get(jetstream.MsgIDHeader))
	m.Header.Set(event.HeaderSubject, o.OutboundNo)
	_, err = s.js.PublishMsgAsync(m)
	return err
}

// drained waits until a consumer of orders has handled all there is. Asking costs the server something, so not too
// often.
func (s *stand) drained(ctx context.Context, consumer string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	stream := bus.StreamIntake
	switch consumer {
	case bareConsumer:
		stream = bareStream
	case pipelineConsumer:
		stream = pipelineStream
	}
	c, err := s.js.Consumer(ctx, stream, consumer)
	if err != nil {
		return err
	}
	for {
		info, err := c.Info(ctx)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", consumer, err)
		}
		if info.NumPending == 0 && info.NumAckPending == 0 {
			// What one seller has too much of may wait elsewhere.
			left, err := s.waiting(ctx, consumer)
			if err != nil || left == 0 {
				return err
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", consumer, ctx.Err())
		}
	}
}

// lastStored is when the newest outcome was stored, by the clock of this machine.
func (s *stand) lastStored(ctx context.Context) (time.Time, error) {
	str, err := s.js.Stream(ctx, bus.StreamOrders)
	if err != nil {
		return time.Time{}, err
	}
	return str.CachedInfo().State.LastTime, nil
}

// accepted is how many orders were published as accepted.
func (s *stand) accepted(ctx context.Context) (n uint64, err error) {
	str, err := s.js.Stream(ctx, bus.StreamOrders)
	if err != nil {
		return 0, err
	}
	info, err := str.Info(ctx, jetstream.WithSubjectFilter(event.OrderAccepted.Name+".*"))
	if err != nil {
		return 0, err
	}
	for _, count := range info.State.Subjects {
		n += count
	}
	return n, nil
}

// warmOrders is how many orders of each seller warm pushes.
const warmOrders = 4

// warm pushes orders of each seller and waits until later orders are certainly new to the ledger.
func (s *stand) warm(ctx context.Context, sellers ...string) error {
	if err := s.publish(ctx, event.OrderAudited.Name, warmOrders*len(sellers), sellers...); err != nil {
		return err
	}
	if err := s.drained(ctx, "order-pusher"); err != nil {
		return err
	}
	return rest(ctx, ledger.EpochMargin+time.Second)
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
