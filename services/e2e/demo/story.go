package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/status-poller/poller"
	"stockbridge/services/stock-syncer/syncer"
	"stockbridge/services/vmi-ingester/ingester"
)

const (
	// goneGoods are refused by JD until they are in stock, badGoods for good.
	goneGoods = "EMG4418000000098"
	badGoods  = "EMG4418000000099"
	// outOfStock is JD's text for goneGoods.
	outOfStock = "商品库存不足，无法下发"
	// newShop is not set up when its first orders come.
	newShop = "S02"
	// speed makes a day and a half at the warehouse pass in some seconds.
	speed = 15000
)

// story is one run of the demo.
type story struct {
	orders int
	seed   uint64
	limit  time.Duration
	out    io.Writer

	began time.Time
	stack *stack.Stack
	jd    *control.Client
	view  *orderview.Tally
	made  []*orderv1.Audited
	// record writes what happens into the folder history, for the checker; unfollow ends its reading along.
	record   *history.Recorder
	history  string
	unfollow func()
	// The role of each order, by outbound number.
	held, gone, bad, repeated []string
	split                     string
	// unread is how many messages were published that name no order; invalid, the outbound number with a bad quantity.
	unread  int
	invalid string
	// replayed counts the dead letters that an operator replayed, refetched the windows that were fetched again.
	replayed, dropped, refetched int
	// moved counts the movements that the sandbox made.
	moved int
}

func (s *story) run(ctx context.Context) error {
	s.began = time.Now()
	dir, err := os.MkdirTemp("", "stockbridge-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = s.start(ctx, dir)
	for _, step := range []func(context.Context) error{s.publish, s.quiet, s.repair, s.settled, s.judge, s.stocked} {
		if err == nil {
			err = step(ctx)
		}
	}
	if s.record != nil {
		s.unfollow()
		s.record.Abandon()
	}
	if s.stack != nil {
		err = errors.Join(err, s.stack.Stop())
	}
	return err
}

func (s *story) start(ctx context.Context, dir string) error {
	push := pusher.Config{Config: push.Config{
		Slots: 32, MaxAttempts: 12, ResendAfter: 4 * time.Second, RefuseAfter: 2 * time.Second, SettleFor: 2 * time.Second, BreakerAfter: 20, ProbeAfter: 2 * time.Second, ReleasePerSecond: 500,
	}}
	poll := poller.Config{
		OpenEvery: time.Second, PackedEvery: time.Second, ShippedEvery: 2 * time.Second, FollowFor: time.Hour, Slots: 4,
		BreakerAfter: 20, ProbeAfter: 2 * time.Second,
	}
	ingest := ingester.Config{
		Slots: 4, MaxPages: 50, RunPages: 20, Attempts: 2, GapAttempts: 8, CatchUp: time.Hour, ReleasePerSecond: 100, BreakerAfter: 1000, ProbeAfter: 2 * time.Second,
	}
	sync := syncer.Config{PerSecond: 100, Settle: time.Second, Slots: 2, AcceptedSlots: 16, BreakerAfter: 1000, ProbeAfter: 2 * time.Second}
	sandbox := stack.DemoSandbox()
	sandbox.Seed, sandbox.Speed = s.seed, speed
	var err error
	s.stack, err = stack.Start(ctx, stack.Options{
		DataDir: dir, NATSPort: server.RandomPort, SandboxAddr: "127.0.0.1:0", Sandbox: &sandbox,
		Settings: map[string]any{pusher.Name: push, poller.Name: poll, ingester.Name: ingest, syncer.Name: sync},
		Ticks:    stack.Ticks{event.TickPoll: time.Second, event.TickRelease: 2 * time.Second}, Log: zerolog.New(os.Stderr).Level(zerolog.ErrorLevel),
	})
	if err != nil {
		return err
	}
	s.jd = control.New(s.stack.SandboxURL)
	s.view = orderview.New(s.stack.Bus, stack.DemoSeller)
	s.history = filepath.Join(dir, "history")
	s.record, err = history.New(s.history, history.Setting{
		Began: s.began, What: "demo", Seed: s.seed, DeadlineSeconds: s.limit.Seconds(), MaxAttempts: push.MaxAttempts, Apps: []history.App{{Key: jdsandbox.DefaultAppKey}},
	})
	if err != nil {
		return err
	}
	s.unfollow = s.record.Watch(ctx, s.stack.Bus, s.jd)
	setup, err := stack.DemoSetup(dir, s.stack.SandboxURL)
	if err != nil {
		return err
	}
	if err := s.stack.Apply(ctx, setup); err != nil {
		return err
	}
	if err := s.stack.StartWorkers(); err != nil {
		return err
	}
	s.print("embedded NATS, ledger, workers and sandbox run", "内置 NATS、账本、工作进程与沙箱已启动", filepath.Base(dir))
	return nil
}

// publish makes the orders, sets the sandbox's faults, and publishes as an ERP does.
func (s *story) publish(ctx context.Context) error {
	maker := orders.New(stack.DemoSeller, s.seed)
	s.made = maker.Make(s.orders)
	every := max(s.orders/50, 10)
	for i, o := range s.made {
		switch i % every {
		case 1: // a shop that is not set up yet
			o.Shop = newShop
			s.held = append(s.held, o.OutboundNo)
		case 2:
			if i%(2*every) == 2 {
				o.Lines[0].WarehouseGoodsNo = goneGoods
				s.gone = append(s.gone, o.OutboundNo)
			} else {
				o.Lines[0].WarehouseGoodsNo = badGoods
				s.bad = append(s.bad, o.OutboundNo)
			}
		case 3: // the ERP's timer publishes it twice
			s.repeated = append(s.repeated, o.OutboundNo)
		}
	}
	parted := s.made[4]
	parted.Lines[0].Quantity = 4
	s.split = parted.OutboundNo
	if err := s.trouble(ctx); err != nil {
		return err
	}
	for _, o := range s.made {
		times := 1
		if slices.Contains(s.repeated, o.OutboundNo) {
			times = 2
		}
		for i := range times {
			if err := s.send(ctx, o, i > 0); err != nil {
				return err
			}
		}
	}
	// What no ERP should send: no JSON, and a quantity below zero.
	if _, _, err := s.stack.Bus.PublishRaw(ctx, event.OrderAudited.Name, nil, []byte(`{"seller":"demo","lines":[`)); err != nil {
		return err
	}
	s.unread++
	wrong := maker.Next()
	wrong.Lines[0].Quantity = -1
	s.invalid = wrong.OutboundNo
	if err := s.send(ctx, wrong, false); err != nil {
		return err
	}
	s.print(fmt.Sprintf("%d orders published, %d of them twice, and 2 that nobody can send", s.orders, len(s.repeated)),
		fmt.Sprintf("已发布 %d 张订单，其中 %d 张重复发布，另有 2 条无法推送", s.orders, len(s.repeated)), "")
	return nil
}

// trouble turns the sandbox's knobs: answers are lost, calls dropped, the gateway fails at times, goods are refused.
func (s *story) trouble(ctx context.Context) error {
	const add = "eclp.order.addOrder"
	if _, err := s.jd.SetKnobs(ctx, map[string]any{"split": map[string]any{"orders": []string{s.split}, "parts": 2}}); err != nil {
		return err
	}
	for _, f := range []jdsandbox.Fault{
		{ID: "gone", Kind: jdsandbox.Error, Methods: []string{add}, Goods: []string{goneGoods}, Chance: 1, ZH: outOfStock},
		{ID: "bad", Kind: jdsandbox.Error, Methods: []string{add}, Goods: []string{badGoods}, Chance: 1, ZH: "商品不存在或已停用"},
		{ID: "lost", Kind: jdsandbox.LoseAnswer, Methods: []string{add}, Chance: 0.04},
		{ID: "dropped", Kind: jdsandbox.Drop, Methods: []string{add}, Chance: 0.01},
		{ID: "timeout-done", Kind: jdsandbox.Error, Work: jdsandbox.WorkDone, Methods: []string{add}, Chance: 0.01, Code: "65"},
		{ID: "timeout-not", Kind: jdsandbox.Error, Work: jdsandbox.WorkNone, Methods: []string{add}, Chance: 0.01, Code: "65"},
		{ID: "hiccup", Kind: jdsandbox.HTTP, Methods: []string{add, "eclp.order.queryOrder"}, Chance: 0.005, Status: 502},
	} {
		if _, err := s.jd.AddFault(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) send(ctx context.Context, o *orderv1.Audited, again bool) error {
	body, err := protojson.Marshal(o)
	if err != nil {
		return err
	}
	audit := history.AuditOf(o)
	audit.Sent, audit.Again = time.Now(), again
	_, _, err = s.stack.Bus.PublishRaw(ctx, event.OrderAudited.Name+"."+o.Seller, map[string][]string{"Content-Type": {"application/json"}}, body)
	if err == nil {
		audit.Acked = time.Now()
	}
	s.record.Audit(audit)
	return err
}

// quiet waits until each order has its first outcome: accepted, held or failed.
func (s *story) quiet(ctx context.Context) error {
	err := s.until(ctx, func(t *orderview.Tally) (done, of int) {
		n := t.Count(func(o *orderview.Order) bool { return len(o.Accepted)+len(o.Held)+len(o.Failed) > 0 })
		return n, s.orders + 1
	}, "first outcomes", "已有首次结果")
	if err != nil {
		return err
	}
	s.print("every order was accepted, held or refused", "每张订单都已被接收、挂起或拒绝", "")
	return nil
}

// repair does what an operator does: it sets the missing shop up, replays what JD refused once its stock is there, and
// drops what cannot be read.
func (s *story) repair(ctx context.Context) error {
	now, ok := s.stack.Sellers.Get(stack.DemoSeller)
	if !ok {
		return errors.New("the demo seller is gone")
	}
	setup := stack.WithShop(now.Setup, newShop)
	if err := s.stack.Apply(ctx, setup); err != nil {
		return err
	}
	if err := s.jd.RemoveFault(ctx, "gone"); err != nil {
		return err
	}
	by := bus.By{Who: "demo", Why: "stock is there again"}
	var after uint64
	for {
		items, next, err := s.stack.Bus.DeadLetters(ctx, bus.DeadLetterQuery{Kind: event.Dead, After: after})
		if err != nil {
			return err
		}
		for _, m := range items {
			switch {
			case m.Reason.RemoteText == outOfStock:
				if err := s.stack.Bus.Replay(ctx, m.Seq, by); err != nil {
					return err
				}
				s.record.Act(history.Act{Seller: m.Seller, OutboundNo: m.Key, What: history.Replayed, At: time.Now()})
				s.replayed++
			case m.Reason.Code == "malformed":
				if err := s.stack.Bus.Drop(ctx, m.Seq, bus.By{Who: "demo", Why: "not an order"}); err != nil {
					return err
				}
				s.dropped++
			}
		}
		if next == 0 {
			break
		}
		after = next
	}
	s.print(fmt.Sprintf("the shop is set up, %d refused orders replayed, %d unreadable dropped", s.replayed, s.dropped),
		fmt.Sprintf("已补设店铺，重放 %d 张被拒订单，丢弃 %d 条无法识别的消息", s.replayed, s.dropped), "")
	return nil
}

// settled waits until every accepted order was published as shipped.
func (s *story) settled(ctx context.Context) error {
	want := s.orders - len(s.bad)
	return s.until(ctx, func(t *orderview.Tally) (done, of int) {
		return t.Count(func(o *orderview.Order) bool { return len(o.Accepted) > 0 && o.Complete > 0 }), want
	}, "shipped", "已发货")
}

// until reads the streams again and again until enough is done, and shows the progress.
func (s *story) until(ctx context.Context, progress func(*orderview.Tally) (done, of int), en, zh string) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := -1
	for {
		if err := s.view.Update(ctx); err != nil {
			return err
		}
		done, of := progress(s.view)
		if done != last {
			last = done
			s.print(fmt.Sprintf("%s: %d of %d", en, done, of), fmt.Sprintf("%s %d/%d", zh, done, of), "")
		}
		if done >= of {
			return nil
		}
		select {
		case <-tick.C:
		case err := <-s.stack.Failed():
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s: %d of %d when the time was up: %w", en, done, of, ctx.Err())
		}
	}
}

func (s *story) print(en, zh, detail string) {
	if detail != "" {
		detail = "  " + detail
	}
	fmt.Fprintf(s.out, "%5.1f s  %s  %s%s\n", time.Since(s.began).Seconds(), zh, en, detail)
}
