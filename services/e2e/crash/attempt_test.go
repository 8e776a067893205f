package crash

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/status-poller/poller"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// inTime is the promise: an order has its outcome within ten minutes while the warehouse answers (P2). A crash may
// restart this time.
const inTime = 10 * time.Minute

// attempt is one run of a scenario: without a crash, with one, or with the same one twice.
type attempt struct {
	*lane
	s      *scenario
	seller string
	setup  *sellerv1.Setup
	wh     *memory.Warehouse
	// other is the warehouse of the account elsewhere; it does not know what wh took.
	other     *memory.Warehouse
	maker     *orders.Maker
	view      *orderview.Tally
	processes []*process
	// orders by the names that the scenario gives them.
	orders map[string]*orderv1.Audited
	// acts are the operator's acts that were done, by name.
	acts map[string]bool
}

// result of an attempt.
type result struct {
	// steps of the first process, with how often each was taken.
	steps map[string]int
	// crashes that happened, and how long the whole took by the clock.
	crashes int
	took    time.Duration
	err     error
	trails  [][]string
}

// run runs the scenario with crashes at stop, times times.
func (l *lane) run(ctx context.Context, t testing.TB, s *scenario, stop point, times int) (r result) {
	l.attempts++
	y := &attempt{
		lane: l, s: s, seller: fmt.Sprintf("s%d", l.attempts), wh: &memory.Warehouse{Now: l.clock.now, As: "memory/m"},
		other: &memory.Warehouse{Now: l.clock.now, As: "memory/" + elsewhere}, orders: map[string]*orderv1.Audited{}, acts: map[string]bool{},
	}
	y.setup = &sellerv1.Setup{
		Name:       y.seller,
		Accounts:   []*sellerv1.Account{{Name: "m", Kind: sellerv1.Account_KIND_MEMORY}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "m"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "1", Warehouses: []string{"W01"}}},
	}
	y.maker = orders.New(y.seller, 1)
	y.view = orderview.New(l.bus, y.seller)
	l.clock.ago(func() { l.remember(t, y.seller) })
	if _, err := y.book.Put(ctx, y.setup, 0); err != nil {
		return result{err: err}
	}
	push := pusher.Config{Config: push.Config{Slots: 2, MaxAttempts: 12, ResendAfter: 5 * time.Minute, RefuseAfter: time.Minute, SettleFor: 30 * time.Second, BreakerAfter: 5, ProbeAfter: 30 * time.Second, ReleasePerSecond: 10000}}
	poll := poller.Config{OpenEvery: 4 * time.Second, PackedEvery: 4 * time.Second, ShippedEvery: 4 * time.Second, FollowFor: 1440 * time.Hour, Slots: 2, BreakerAfter: 5, ProbeAfter: 30 * time.Second}
	if s.configure != nil {
		s.configure(&push, &poll)
	}
	began := l.clock.now()
	y.processes = []*process{l.start(t, y.wh, y.other, push, poll, stop)}
	y.err(l.broker.Served(ctx), &r)
	if r.err == nil {
		r.err = s.begin(y)
	}
	nextTick, ticks := time.Time{}, 0
	if s.ticks {
		nextTick = l.clock.now().Add(tickEvery)
	}
	for giveUp := time.Now().Add(patience); r.err == nil; {
		f := y.processes[len(y.processes)-1]
		select {
		case <-f.crashed:
			r.crashes++
			at := l.clock.now().Add(ackWait)
			for _, ack := range f.settleCrash() {
				l.later(at, ack)
			}
			l.cleanups.Go(f.cleanUp)
			next := point{}
			if r.crashes < times {
				next = point{stop.step, 1}
			}
			y.processes = append(y.processes, l.start(t, y.wh, y.other, push, poll, next))
			continue
		default:
		}
		quiet, err := l.quiet(ctx, f)
		switch {
		case err != nil:
			r.err = err
		case time.Now().After(giveUp):
			r.err = errors.New("the worker does not come to rest")
		case !quiet:
			time.Sleep(2 * time.Millisecond)
			continue
		}
		if r.err != nil {
			break
		}
		giveUp = time.Now().Add(patience)
		if err := y.view.Update(ctx); err != nil {
			r.err = err
			break
		}
		acted, err := s.act(y)
		if err != nil {
			r.err = err
			break
		}
		if acted {
			continue
		}
		if s.ended(y) && len(y.left(ctx)) == 0 {
			break
		}
		if limit := s.takes + inTime*time.Duration(1+r.crashes); l.clock.now().Sub(began) > limit {
			r.err = fmt.Errorf("P2: no outcome within %s", limit)
			break
		}
		y.err(l.advance(ctx, y.seller, nextTick, func() error {
			nextTick = nextTick.Add(tickEvery)
			if ticks++; s.moves && ticks > s.rests {
				y.wh.Step()
				y.wh.Step()
			}
			return l.tick(ctx, y.seller)
		}), &r)
	}
	r.took = l.clock.now().Sub(began)
	if r.err == nil {
		r.err = y.check(ctx)
	} else {
		r.err = fmt.Errorf("%w\n%s", r.err, y.state(ctx))
	}
	last := y.processes[len(y.processes)-1]
	select {
	case <-last.crashed: // at its very last step, after the outcome
		r.crashes++
		for _, ack := range last.settleCrash() {
			l.broker.ComeBack(ack)
		}
	default:
	}
	r.steps = y.processes[0].steps()
	last.cleanUp() // in order, so that it takes no message of the next attempt
	for _, f := range y.processes {
		f.mu.Lock()
		r.trails = append(r.trails, slices.Clone(f.trail))
		r.err = errors.Join(append([]error{r.err}, f.errs...)...)
		f.mu.Unlock()
	}
	return r
}

func (y *attempt) err(err error, r *result) {
	if r.err == nil {
		r.err = err
	}
}

// apply applies the set-up, as an operator does.
func (y *attempt) apply(ctx context.Context) error {
	var version uint64
	if now, ok := y.book.Get(y.seller); ok {
		version = now.Version
	}
	version, err := y.book.Put(ctx, y.setup, version)
	if err != nil {
		return err
	}
	now := y.clock.now()
	m := &sellerv1.Changed{Seller: y.seller, At: timestamppb.New(now)}
	return y.bus.Publish(ctx, event.SellerChanged.About(y.seller, y.seller, now, m, fmt.Sprint(version)))
}

// order makes an order under one of the scenario's names.
func (y *attempt) order(name string) *orderv1.Audited {
	o := y.maker.Next()
	y.orders[name] = o
	return o
}

// publish publishes orders as an ERP does.
func (y *attempt) publish(list ...*orderv1.Audited) error {
	for _, o := range list {
		body, err := protojson.Marshal(o)
		if err != nil {
			return err
		}
		if _, _, err := y.bus.PublishRaw(y.t.Context(), event.OrderAudited.Name+"."+y.seller, nil, body); err != nil {
			return err
		}
	}
	return nil
}

// published is what the streams have of an order.
func (y *attempt) published(name string) orderview.Order {
	o := y.view.Orders[y.orders[name].GetOutboundNo()]
	if o == nil {
		return orderview.Order{}
	}
	return *o
}

// deadLetters lists the seller's dead letters of a kind.
func (y *attempt) deadLetters(ctx context.Context, kind string) ([]bus.DeadLetter, error) {
	items, _, err := y.bus.DeadLetters(ctx, bus.DeadLetterQuery{Kind: kind, Seller: y.seller, Limit: 1000})
	return items, err
}

// left names what is under way on RETRY.
func (y *attempt) left(ctx context.Context) []string {
	delayed, err := y.broker.Delayed(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, p := range delayed {
		left = append(left, "delayed until "+p.At.Format(time.TimeOnly))
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, w := range y.waits {
		left = append(left, "to be redelivered at "+w.at.Format(time.TimeOnly)+": "+w.ack)
	}
	return left
}

// check checks all orders against the promises.
func (y *attempt) check(ctx context.Context) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, want := range y.s.outcomes {
		o := y.orders[name]
		seen, docs := y.published(name), append(y.wh.Numbers(o.OutboundNo), y.other.Numbers(o.OutboundNo)...)
		if len(docs) != want.documents {
			wrong("P1: %s: the warehouse has %v", name, docs)
		}
		if len(seen.Accepted) != want.documents || len(docs) == 1 && len(seen.Accepted) == 1 && seen.Accepted[0] != docs[0] {
			wrong("P1: %s: published accepted %v, the warehouse has %v", name, seen.Accepted, docs)
		}
		if got := strings.Join(seen.Failed, " "); got != want.failed {
			wrong("P2: %s: published failed %q, want %q", name, got, want.failed)
		}
		if got := len(seen.Held) > 0; got != want.held && !want.mayBeHeld {
			wrong("P2: %s: published held %v", name, seen.Held)
		}
		if seen.Delivered != want.delivered || seen.Cancelled != want.cancelled || len(seen.Shipped) != want.shipped || seen.Complete != min(1, want.shipped) {
			wrong("%s: published %+v", name, seen)
		}
		entry, err := y.known.Get(ctx, ledger.Key{Seller: y.seller, Kind: "order", No: o.OutboundNo})
		if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
			wrong("%s: %w", name, err)
		}
		if entry.State != want.state {
			wrong("P6: %s: the ledger has it as %q, want %q: %+v", name, entry.State, want.state, entry.Attempts)
		}
		if want.state == ledger.Accepted && entry.Number != strings.Join(docs, " ") {
			wrong("P1: %s: the ledger has %s, the warehouse %s", name, entry.Number, docs)
		}
	}
	for kind, want := range map[string]int{event.Dead: y.s.dead, event.Held: y.s.held} {
		items, err := y.deadLetters(ctx, kind)
		if err != nil {
			wrong("%w", err)
		}
		if len(items) != want {
			wrong("P6: %d dead letters (%s), want %d: %+v", len(items), kind, want, items)
		}
	}
	return errors.Join(errs...)
}

// state is printed for a failed attempt.
func (y *attempt) state(ctx context.Context) string {
	var text strings.Builder
	waiting, unsettled, err := y.broker.Left(ctx)
	fmt.Fprintf(&text, "messages wait: %v, unsettled %d (%v), %v\n", waiting, unsettled, err, y.left(ctx))
	for name, o := range y.orders {
		entry, err := y.known.Get(ctx, ledger.Key{Seller: y.seller, Kind: "order", No: o.OutboundNo})
		fmt.Fprintf(&text, "%s: published %+v; warehouse %v; ledger %q (%v)\n", name, y.published(name), y.wh.Numbers(o.OutboundNo), entry.State, err)
	}
	for _, kind := range []string{event.Dead, event.Held} {
		items, err := y.deadLetters(ctx, kind)
		for _, m := range items {
			fmt.Fprintf(&text, "%s: %s %s: %s\n", kind, m.Key, m.Cause, m.Error)
		}
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	return text.String()
}

// steps is what the worker did, with how often.
func (f *process) steps() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := map[string]int{}
	for name, n := range f.seen {
		steps[name] = n
	}
	return steps
}
