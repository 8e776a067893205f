//go:build unix

package plant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/checker"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/procs"
	"stockbridge/services/e2e/scenario"
	"stockbridge/services/order-pusher/pusher"
)

// Options of a run of a scenario.
type Options struct {
	// Dir is the run's own folder, Bin where binaries are built: one for each overlay.
	Dir, Bin string
	// Overlay is a Bug's, or empty for the healthy build.
	Overlay string
	// Source is a folder inside the repository.
	Source string
	// Say receives events of processes; may be nil.
	Say func(line string)
}

// Ran is the result of it.
type Ran struct {
	Report *checker.Report
	// Operations are audits published, acts of operators and faults; Took is the time from the first of them to rest.
	Operations int
	Took       time.Duration
}

// Play runs a scenario over real processes, records it and has it judged. An error means that it could not be played.
func (s Scenario) Play(ctx context.Context, o Options) (Ran, error) {
	ran, err := s.play(ctx, o)
	if err != nil {
		return Ran{}, fmt.Errorf("play %s: %w", s.Name, err)
	}
	return ran, nil
}

func (s Scenario) play(ctx context.Context, o Options) (Ran, error) {
	script, ok := scripts()[s.Name]
	if !ok {
		return Ran{}, errors.New("nobody wrote down how")
	}
	sandbox := stack.DemoSandbox()
	sandbox.Stopped = true // orders are accepted and do not move
	run, err := scenario.Open(ctx, scenario.Setup{
		Folder: filepath.Join(o.Dir, "history"),
		History: history.Setting{
			Began: time.Now(), What: s.Name, DeadlineSeconds: s.DeadlineSeconds, GraceSeconds: 20, MaxAttempts: 12, Reconciles: s.Reconciles,
			Apps: []history.App{{Key: jdsandbox.DefaultAppKey, PerSecond: 200, Concurrent: 32}},
		},
		Processes: procs.Options{
			Dir: o.Dir, Bin: o.Bin, Overlay: o.Overlay, Source: o.Source,
			On: func(h procs.Happening) {
				if o.Say != nil {
					o.Say(h.String())
				}
			},
		},
		Judged: func(h procs.Happening) bool { return h.Program == pusher.Name },
		Shape:  procs.Shape{Redis: "always", Sandbox: &sandbox},
	})
	if err != nil {
		return Ran{}, err
	}
	defer run.Close()
	run.Procs.Setenv("PUSH_SETTLE_FOR=1s", "PUSH_RESEND_AFTER=2s", "PUSH_REFUSE_AFTER=1s", "GRACE=20s")
	st := &stage{
		Scenario: s, Run: run, maker: orders.New(stack.DemoSeller, 1), view: orderview.New(run.Bus, stack.DemoSeller),
		sent: map[string]time.Time{}, began: time.Now(),
	}
	if err := script(ctx, st); err != nil {
		return Ran{}, err
	}
	ran := Ran{Operations: st.operations, Took: time.Since(st.began)}
	if err := run.Finish(ctx); err != nil {
		return Ran{}, err
	}
	ran.Report, err = checker.Read(run.Folder)
	return ran, err
}

// stage is a scenario under way.
type stage struct {
	Scenario
	*scenario.Run
	maker *orders.Maker
	view  *orderview.Tally

	began      time.Time
	operations int
	sent       map[string]time.Time
}

// seller sets the demo seller up; jd is where its orders go.
func (s *stage) seller(ctx context.Context, jd string) error {
	setup, err := stack.DemoSetup(s.Procs.Dir(), jd)
	if err != nil {
		return err
	}
	return s.Procs.Apply(ctx, setup)
}

func (s *stage) pusher(ctx context.Context, name string, settings ...string) (*procs.Process, error) {
	return s.Procs.Worker(ctx, procs.OrderPusher, name, append(slices.Clone(s.Settings), settings...)...)
}

// begin is the usual start of a scenario: a seller, one pusher, and an order that succeeds. It creates the ledger's
// epoch and loads the scripts into the server; and a build that accepts no order at all must not pass for a bug that
// was caught.
func (s *stage) begin(ctx context.Context, settings ...string) (*procs.Process, error) {
	if err := s.seller(ctx, s.Procs.Sandbox.Base); err != nil {
		return nil, err
	}
	p, err := s.pusher(ctx, "pusher-1", settings...)
	if err != nil {
		return nil, err
	}
	o := s.maker.Next()
	if err := s.publish(ctx, o); err != nil {
		return nil, err
	}
	accepted, err := s.accepted(ctx, o)
	if err == nil && !accepted {
		err = fmt.Errorf("this build does not take a plain order\n%s", p.Tail(2<<10))
	}
	if err != nil {
		return nil, err
	}
	// Its acknowledgement follows its outcome, and must not be taken for that of a later order.
	_, err = s.until(ctx, func() (bool, error) {
		waiting, err := s.Procs.NATS.Waiting(ctx)
		return waiting.Unsettled[pusher.Name] == 0, err
	})
	return p, err
}

// accepted waits until the order is published as accepted; false when the deadline came first.
func (s *stage) accepted(ctx context.Context, o *orderv1.Audited) (bool, error) {
	return s.until(ctx, func() (bool, error) {
		if err := s.view.Update(ctx); err != nil {
			return false, err
		}
		seen := s.view.Orders[o.OutboundNo]
		return seen != nil && len(seen.Accepted) > 0, nil
	})
}

// publish publishes an order as an ERP does, without a message id: each time is a new message.
func (s *stage) publish(ctx context.Context, o *orderv1.Audited) error {
	body, err := protojson.Marshal(o)
	if err != nil {
		return err
	}
	a := history.AuditOf(o)
	_, a.Again = s.sent[o.OutboundNo]
	a.Sent = time.Now()
	_, _, err = s.Bus.PublishRaw(ctx, event.OrderAudited.Name+"."+o.Seller, nil, body)
	if err == nil {
		a.Acked = time.Now()
		s.sent[o.OutboundNo] = a.Acked
	}
	s.operations++
	s.Record.Audit(a)
	return err
}

func (s *stage) fault(f history.Fault) {
	s.operations++
	s.Record.Fault(f)
}

// until waits until cond is true; it gives up without an error when the deadline of all published orders is over,
// because then the checker decides.
func (s *stage) until(ctx context.Context, cond func() (bool, error)) (met bool, err error) {
	for {
		met, err := cond()
		if met || err != nil {
			return met, err
		}
		last := s.began
		for _, at := range s.sent {
			if at.After(last) {
				last = at
			}
		}
		if time.Since(last) > time.Duration(s.DeadlineSeconds*float64(time.Second))+time.Second {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// settled waits until each order was accepted, failed or dead-lettered.
func (s *stage) settled(ctx context.Context, list ...*orderv1.Audited) error {
	_, err := s.until(ctx, func() (bool, error) {
		dead, err := s.deadLetters(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // the broker is down; the deadline ends it
		}
		if err := s.view.Update(ctx); err != nil {
			return false, nil //nolint:nilerr // as above
		}
		for _, o := range list {
			seen := s.view.Orders[o.OutboundNo]
			if seen == nil || len(seen.Accepted)+len(seen.Failed) == 0 && dead[o.OutboundNo] == 0 {
				return false, nil
			}
		}
		return true, nil
	})
	return err
}

// deadLetters maps each order to the number of its dead letter.
func (s *stage) deadLetters(ctx context.Context) (map[string]uint64, error) {
	items, _, err := s.Bus.DeadLetters(ctx, bus.DeadLetterQuery{Limit: 1000})
	if err != nil {
		return nil, err
	}
	at := map[string]uint64{}
	for _, i := range items {
		at[i.Key] = i.Seq
	}
	return at, nil
}

// scripts are the implementations of the scenarios.
func scripts() map[string]func(context.Context, *stage) error {
	return map[string]func(context.Context, *stage) error{
		AuditedTwice: auditedTwice, ClaimCut: claimCut, AnswersLost: answersLost, ReplayedTwice: replayedTwice,
		KilledAtAck: killedAtAck, LedgerRestored: ledgerRestored, StreamRestored: streamRestored, BrokerRestored: brokerRestored,
		LedgerWiped: ledgerWiped,
	}
}

const (
	addOrder = "eclp.order.addOrder"
	// slow is how long JD takes: three deliveries of an order that is redelivered every two seconds.
	slow = 7 * time.Second
)

func auditedTwice(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	// An order is certainly new, and not looked up, only when it is that much later than the epoch.
	if err := pause(ctx, epochMargin); err != nil {
		return err
	}
	began := time.Now()
	if _, err := s.Procs.Sandbox.AddFault(ctx, jdsandbox.Fault{
		Kind: jdsandbox.Slow, Methods: []string{addOrder}, Delay: jdsandbox.Duration(slow), Count: 10,
	}); err != nil {
		return err
	}
	o := s.maker.Next()
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	if _, err := s.until(ctx, func() (bool, error) {
		docs, err := s.Procs.Sandbox.Documents(ctx, jdsandbox.Query{IsvUUID: o.OutboundNo})
		return len(docs) > 0, err
	}); err != nil {
		return err
	}
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	if err := s.settled(ctx, o); err != nil {
		return err
	}
	// The second message is redelivered every two seconds, and gets the outcome of the first.
	if _, err := s.until(ctx, func() (bool, error) { return time.Since(began) > slow+3*time.Second, nil }); err != nil {
		return err
	}
	s.fault(history.Fault{Kind: history.JDSlow, Began: began, Ended: time.Now()})
	return nil
}

// claims matches the ledger's command that claims the order.
func claims(no string) func(command []byte) bool {
	return func(command []byte) bool {
		return bytes.Contains(command, []byte("\r\nclaim\r\n")) && bytes.Contains(command, []byte("\r\n"+no+"\r\n"))
	}
}

func claimCut(ctx context.Context, s *stage) error {
	t, err := faultproxy.Start("127.0.0.1:0", s.Procs.Redis.Addr(), faultproxy.RESP)
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := s.begin(ctx, "REDIS_URL=redis://"+t.Addr()+"/0"); err != nil {
		return err
	}
	o := s.maker.Next()
	met := t.LoseAnswer(claims(o.OutboundNo))
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	if err := wait(ctx, met, "the claim"); err != nil {
		return err
	}
	s.fault(history.Fault{Kind: history.RedisCut, Began: time.Now()})
	return s.settled(ctx, o)
}

func answersLost(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	const n = 3
	began := time.Now()
	if _, err := s.Procs.Sandbox.AddFault(ctx, jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{addOrder}, Count: n}); err != nil {
		return err
	}
	list := s.maker.Make(n)
	for _, o := range list {
		if err := s.publish(ctx, o); err != nil {
			return err
		}
	}
	err := s.settled(ctx, list...)
	s.fault(history.Fault{Kind: history.JDLost, Began: began, Ended: time.Now()})
	return err
}

func replayedTwice(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	const refusals = 2
	if _, err := s.Procs.Sandbox.AddFault(ctx, jdsandbox.Fault{Kind: jdsandbox.Error, Methods: []string{addOrder}, Count: refusals, ZH: "库存不足"}); err != nil {
		return err
	}
	o := s.maker.Next()
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	last := uint64(0)
	for range refusals {
		dead, err := s.until(ctx, func() (bool, error) {
			at, err := s.deadLetters(ctx)
			if seq := at[o.OutboundNo]; err == nil && seq > last {
				last = seq
				return true, nil
			}
			return false, err
		})
		if err != nil {
			return err
		}
		if !dead {
			return nil
		}
		s.operations++
		s.Record.Act(history.Act{Seller: o.Seller, OutboundNo: o.OutboundNo, What: history.Replayed, At: time.Now()})
		if _, err := s.Procs.Bridgectl(ctx, "", "dlq", "replay", fmt.Sprint(last)); err != nil {
			return err
		}
	}
	_, err := s.accepted(ctx, o)
	return err
}

func killedAtAck(ctx context.Context, s *stage) error {
	t, err := faultproxy.Start("127.0.0.1:0", s.Procs.NATS.Addrs()[0], faultproxy.NATS)
	if err != nil {
		return err
	}
	defer t.Close()
	p, err := s.begin(ctx, "NATS_URL=nats://"+t.Addr())
	if err != nil {
		return err
	}
	met := t.HoldAfter(regexp.MustCompile(`\$JS\.ACK\.[^\r]*\.order-pusher\.[^\r]*\r\n\+ACK\r\n`).Match)
	o := s.maker.Next()
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	if err := wait(ctx, met, "an acknowledgement"); err != nil {
		return err
	}
	if err := p.Kill(); err != nil {
		return err
	}
	s.fault(history.Fault{Kind: history.Killed, Target: p.Name, Began: time.Now()})
	if _, err := s.pusher(ctx, "pusher-2"); err != nil {
		return err
	}
	return s.settled(ctx, o)
}

func ledgerRestored(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	copied := time.Now()
	old, err := s.Procs.Redis.Copy()
	if err != nil {
		return err
	}
	// Orders are certainly new only when they are that much later than the epoch.
	if err := pause(ctx, epochMargin); err != nil {
		return err
	}
	list := s.maker.Make(3)
	for _, o := range list {
		if err := s.publish(ctx, o); err != nil {
			return err
		}
	}
	if err := s.settled(ctx, list...); err != nil {
		return err
	}
	began := time.Now()
	if err := s.Procs.Redis.Restore(ctx, old); err != nil {
		return err
	}
	s.fault(history.Fault{Kind: history.RedisRestored, Began: began, Ended: time.Now(), Outage: true, Copied: copied})
	for _, o := range list {
		if err := s.publish(ctx, o); err != nil {
			return err
		}
	}
	// They are published again under the same ids, which the stream recognises: read the ledger for their end.
	return s.known(ctx, list...)
}

// known waits until the ledger has each order as accepted.
func (s *stage) known(ctx context.Context, list ...*orderv1.Audited) error {
	l, err := s.Ledger(ctx)
	if err != nil {
		return err
	}
	_, err = s.until(ctx, func() (bool, error) {
		for _, o := range list {
			entry, err := l.Get(ctx, ledger.Key{Seller: o.Seller, Kind: "order", No: o.OutboundNo})
			if errors.Is(err, ledger.ErrNoEntry) || err == nil && entry.State != ledger.Accepted {
				return false, nil
			}
			if err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return err
}

func ledgerWiped(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	list := s.maker.Make(3)
	for _, o := range list {
		if err := s.publish(ctx, o); err != nil {
			return err
		}
	}
	if err := s.settled(ctx, list...); err != nil {
		return err
	}
	began := time.Now()
	if err := s.Procs.Redis.Wipe(ctx); err != nil {
		return err
	}
	s.fault(history.Fault{Kind: history.RedisWiped, Began: began, Ended: time.Now()})
	if _, err := s.Procs.Worker(ctx, procs.Reconciler, "reconciler-1", "RECONCILE_DEADLINE=2s", "RECONCILE_CONFIRM_AFTER=1s"); err != nil {
		return err
	}
	if err := s.Bus.SetTick(ctx, event.TickReconcile, stack.DemoSeller, time.Second); err != nil {
		return err
	}
	return s.known(ctx, list...)
}

func streamRestored(ctx context.Context, s *stage) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	copied := time.Now()
	older, err := s.Procs.NATS.Copy()
	if err != nil {
		return err
	}
	began := time.Now()
	gone, next := s.maker.Next(), s.maker.Next()
	const hold = 4 * time.Second // longer than a restore takes
	for _, f := range []jdsandbox.Fault{
		{Kind: jdsandbox.Slow, Methods: []string{addOrder}, Orders: []string{gone.OutboundNo, next.OutboundNo}, Delay: jdsandbox.Duration(hold), Count: 2},
		{Kind: jdsandbox.Drop, Methods: []string{addOrder}, Orders: []string{next.OutboundNo}, Count: 1},
	} {
		if _, err := s.Procs.Sandbox.AddFault(ctx, f); err != nil {
			return err
		}
	}
	if err := s.publish(ctx, gone); err != nil {
		return err
	}
	// JD has it, and the worker waits for the answer.
	if _, err := s.until(ctx, func() (bool, error) {
		docs, err := s.Procs.Sandbox.Documents(ctx, jdsandbox.Query{IsvUUID: gone.OutboundNo})
		return len(docs) > 0, err
	}); err != nil {
		return err
	}
	restored := time.Now()
	if err := s.Procs.NATS.Restore(ctx, older); err != nil {
		return err
	}
	s.Record.RolledBack(copied)
	s.fault(history.Fault{Kind: history.BrokerRestored, Began: restored, Ended: time.Now(), Outage: true, Copied: copied})
	s.view = orderview.New(s.Bus, stack.DemoSeller) // the old view has read further than there is
	if err := s.publish(ctx, next); err != nil {
		return err
	}
	if err := s.publish(ctx, gone); err != nil { // as an ERP does after a restore
		return err
	}
	if time.Since(restored) > hold {
		return errors.New("the restore took longer than the order was in hand")
	}
	_, err = s.accepted(ctx, next)
	if err == nil {
		_, err = s.accepted(ctx, gone)
	}
	now := time.Now()
	s.fault(history.Fault{Kind: history.JDSlow, Began: began, Ended: now})
	s.fault(history.Fault{Kind: history.JDLost, Began: began, Ended: now})
	return err
}

// brokerRestored kills the broker as a power cut does that loses its newest notes: the order is stored, but its
// deliveries are forgotten. nats-server writes consumer state less often than messages.
func brokerRestored(ctx context.Context, s *stage) error {
	nowhere, err := s.Procs.Addr() // nobody listens there: nothing is sent, so each attempt is simply repeated
	if err != nil {
		return err
	}
	if err := s.seller(ctx, "http://"+nowhere); err != nil {
		return err
	}
	o := s.maker.Next()
	if err := s.publish(ctx, o); err != nil {
		return err
	}
	copied := time.Now()
	undelivered, err := s.Procs.NATS.Copy()
	if err != nil {
		return err
	}
	p, err := s.pusher(ctx, "pusher-1")
	if err != nil {
		return err
	}
	down, seen := time.Now(), 0
	_, err = s.until(ctx, func() (bool, error) {
		if dead, err := s.deadLetters(ctx); err == nil && dead[o.OutboundNo] > 0 {
			return true, nil
		}
		failed, err := logged(p, "to be tried again")
		if err != nil || failed <= seen {
			return false, err
		}
		seen = failed
		began := time.Now()
		if err := s.Procs.NATS.Restore(ctx, undelivered); err != nil {
			return false, err
		}
		s.Record.RolledBack(copied)
		// Too short to excuse anything.
		s.fault(history.Fault{Kind: history.BrokerRestored, Began: began, Ended: time.Now(), Copied: copied})
		return false, nil
	})
	s.fault(history.Fault{Kind: history.JDDown, Began: down, Ended: time.Now()})
	if err == nil && seen < 3 {
		err = fmt.Errorf("the order was tried %d times only", seen)
	}
	return err
}

// epochMargin is the ledger's own margin plus a little.
const epochMargin = 6 * time.Second

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// wait waits for what must happen for the scenario to count.
func wait(ctx context.Context, met <-chan struct{}, what string) error {
	select {
	case <-met:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return fmt.Errorf("waited in vain for %s", what)
	}
}
