package crash

import (
	"context"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse/memory"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/status-poller/poller"
)

// outcome is how an order must end, whatever happens on the way.
type outcome struct {
	documents int
	failed    string
	// held: it is published as held on the way; mayBeHeld: that depends on timing.
	held, mayBeHeld               bool
	shipped, delivered, cancelled int
	state                         ledger.State
}

// scenario is a story of a few orders. Its acts must be repeatable: an act is done when its precondition was published.
type scenario struct {
	name string
	// configure changes the workers' settings.
	configure func(*pusher.Config, *poller.Config)
	// ticks come; with each the warehouse advances, if moves, but for the first rests.
	ticks, moves bool
	rests        int
	// takes is how long it takes by design, without crashes.
	takes time.Duration
	begin func(y *attempt) error
	// then is what others do meanwhile, each act once. nil: nothing.
	then     func(y *attempt, once func(name string, do func() error) error) error
	outcomes map[string]outcome
	// dead and held are the messages that stay dead-lettered or held.
	dead, held int
}

// act does what is to be done now, and reports whether anything was.
func (s *scenario) act(y *attempt) (acted bool, err error) {
	if s.then == nil {
		return false, nil
	}
	err = s.then(y, func(name string, do func() error) error {
		if y.acts[name] {
			return nil
		}
		acted, y.acts[name] = true, true
		return do()
	})
	return acted, err
}

// ended reports whether every order has its expected outcome. Whether it has more is checked afterwards.
func (s *scenario) ended(y *attempt) bool {
	for name, want := range s.outcomes {
		seen := y.published(name)
		if len(seen.Accepted) < want.documents || want.failed != "" && len(seen.Failed) == 0 || want.held && len(seen.Held) == 0 ||
			seen.Delivered < want.delivered || seen.Cancelled < want.cancelled || len(seen.Shipped) < want.shipped {
			return false
		}
		if want.delivered+want.cancelled > 0 && y.followed(name) {
			return false
		}
	}
	if s.dead+s.held == 0 {
		return true
	}
	dead, _ := y.deadLetters(y.t.Context(), event.Dead)
	held, _ := y.deadLetters(y.t.Context(), event.Held)
	return len(dead) >= s.dead && len(held) >= s.held
}

var by = bus.By{Who: "story", Why: "the cause is gone"}

// replay replays all dead letters of a kind.
func (y *attempt) replay(ctx context.Context, kind string, by bus.By) error {
	items, err := y.deadLetters(ctx, kind)
	if err != nil {
		return err
	}
	for _, m := range items {
		if err := y.bus.Replay(ctx, m.Seq, by); err != nil {
			return err
		}
	}
	return nil
}

func simply(name string) func(y *attempt) error {
	return func(y *attempt) error { return y.publish(y.order(name)) }
}

func with(knobs func(*memory.Knobs), begin func(y *attempt) error) func(y *attempt) error {
	return func(y *attempt) error {
		y.wh.Set(knobs)
		return begin(y)
	}
}

var accepted = outcome{documents: 1, state: ledger.Accepted}

func scenarios() []*scenario { return append(pushes(), polls()...) }

// pushes are the scenarios of the pusher.
func pushes() []*scenario {
	return []*scenario{
		{
			name: "an order is accepted", begin: simply("o"), outcomes: map[string]outcome{"o": accepted},
		}, {
			name:  "the answer is lost, the order is there",
			begin: with(func(k *memory.Knobs) { k.LoseReplies = 1 }, simply("o")), outcomes: map[string]outcome{"o": accepted},
		}, {
			name: "the warehouse says no, has the order and shows it later", takes: time.Minute,
			begin:    with(func(k *memory.Knobs) { k.RefuseTaken, k.Late = 1, 3*time.Second }, simply("o")),
			outcomes: map[string]outcome{"o": accepted},
		}, {
			name: "the answer is lost, and the set-up names another account for a while", ticks: true, takes: 6 * time.Minute,
			begin:    with(func(k *memory.Knobs) { k.LoseReplies = 1 }, simply("o")),
			outcomes: map[string]outcome{"o": {documents: 1, mayBeHeld: true, state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				account := func(name string) func() error {
					return func() error {
						y.setup.Accounts[0].Name, y.setup.Warehouses[0].Account = name, name
						return y.apply(y.t.Context())
					}
				}
				if len(y.wh.Numbers(y.orders["o"].OutboundNo)) == 0 || len(y.published("o").Accepted) > 0 {
					return nil
				}
				if err := once("move", account(elsewhere)); err != nil {
					return err
				}
				if items, err := y.deadLetters(y.t.Context(), event.Held); err != nil || len(items) == 0 {
					return err
				}
				return once("back", account("m"))
			},
		}, {
			name: "the order is lost on its way", takes: 5 * time.Minute,
			begin: with(func(k *memory.Knobs) { k.DropBefore = 1 }, simply("o")), outcomes: map[string]outcome{"o": accepted},
		}, {
			name:     "refused with a business error, corrected and replayed",
			takes:    time.Minute,
			begin:    with(func(k *memory.Knobs) { k.Refuse = 1 << 20 }, simply("o")),
			outcomes: map[string]outcome{"o": {documents: 1, failed: "warehouse.refused", state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if items, err := y.deadLetters(y.t.Context(), event.Dead); err != nil || len(items) == 0 {
					return err
				}
				return once("correct", func() error {
					y.wh.Set(func(k *memory.Knobs) { k.Refuse = 0 })
					return y.replay(y.t.Context(), event.Dead, by)
				})
			},
		}, {
			name:     "refused for good",
			begin:    with(func(k *memory.Knobs) { k.Reject = 1 << 20 }, simply("o")),
			outcomes: map[string]outcome{"o": {failed: "warehouse.refused", state: ledger.Refused}}, dead: 1,
		}, {
			name: "held for a mapping, and released by it",
			begin: func(y *attempt) error {
				o := y.order("o")
				o.Shop = "S77"
				return y.publish(o)
			},
			outcomes: map[string]outcome{"o": {documents: 1, held: true, state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if items, err := y.deadLetters(y.t.Context(), event.Held); err != nil || len(items) == 0 {
					return err
				}
				return once("map", func() error {
					y.setup.Shops = append(y.setup.Shops, &sellerv1.Shop{Code: "S77", ShopNo: "77", Warehouses: []string{"W01"}})
					return y.apply(y.t.Context())
				})
			},
		}, {
			name: "the warehouse is busy for long, so the order is delayed", takes: 3 * time.Minute,
			begin:    with(func(k *memory.Knobs) { k.Busy = 90 * time.Second }, simply("o")),
			outcomes: map[string]outcome{"o": accepted},
			then: func(y *attempt, once func(string, func() error) error) error {
				if delayed, err := y.broker.Delayed(y.t.Context()); err != nil || len(delayed) == 0 {
					return err
				}
				return once("calm", func() error { y.wh.Set(func(k *memory.Knobs) { k.Busy = 0 }); return nil })
			},
		}, {
			name: "the warehouse is away until the attempts are used up, then it is replayed", takes: 5 * time.Minute,
			configure: func(push *pusher.Config, _ *poller.Config) { push.MaxAttempts, push.BreakerAfter = 6, 1000 },
			begin:     with(func(k *memory.Knobs) { k.Down = true }, simply("o")),
			outcomes:  map[string]outcome{"o": {documents: 1, held: true, state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if items, err := y.deadLetters(y.t.Context(), event.Dead); err != nil || len(items) == 0 {
					return err
				}
				return once("repair", func() error {
					y.wh.Set(func(k *memory.Knobs) { k.Down = false })
					return y.replay(y.t.Context(), event.Dead, by)
				})
			},
		}, {
			name: "unreadable, and of a number used before",
			begin: func(y *attempt) error {
				o, changed := y.order("o"), y.order("changed")
				changed.OutboundNo = o.OutboundNo
				if err := y.publish(o); err != nil {
					return err
				}
				_, _, err := y.bus.PublishRaw(y.t.Context(), event.OrderAudited.Name+"."+y.seller, nil, []byte("{"))
				return err
			},
			outcomes: map[string]outcome{"o": {documents: 1, held: true, state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if len(y.published("o").Accepted) == 0 {
					return nil
				}
				return once("change", func() error { return y.publish(y.orders["changed"]) })
			},
			dead: 2,
		}, {
			name: "two orders at a time, each twice",
			begin: func(y *attempt) error {
				a, b := y.order("a"), y.order("b")
				return y.publish(a, b, a, b)
			},
			outcomes: map[string]outcome{"a": accepted, "b": accepted},
		}, {
			name: "two audits of one order's lines",
			begin: func(y *attempt) error {
				a, b := y.order("a"), y.order("b")
				b.OrderNo, b.Lines = a.OrderNo, a.Lines
				return y.publish(a)
			},
			outcomes: map[string]outcome{"a": accepted, "b": {failed: "line.live"}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if len(y.published("a").Accepted) == 0 {
					return nil
				}
				return once("b", func() error { return y.publish(y.orders["b"]) })
			},
			dead: 1,
		},
	}
}

var delivered = outcome{documents: 1, shipped: 1, delivered: 1, state: ledger.Accepted}

// followed reports whether an order is due for another look-up.
func (y *attempt) followed(name string) bool {
	entry, err := y.known.Get(y.t.Context(), ledger.Key{Seller: y.seller, Kind: "order", No: y.orders[name].OutboundNo})
	return err != nil || entry.Following == nil || !entry.Following.Due.IsZero()
}

// paused reports whether the seller is paused, as an operator sees it.
func (y *attempt) paused() bool {
	s, ok := y.book.Get(y.seller)
	return ok && s.Pause != nil
}

// polls are the scenarios of the poller.
func polls() []*scenario {
	return []*scenario{
		{
			name: "an order is followed to its delivery", ticks: true, moves: true, takes: time.Minute,
			begin: simply("o"), outcomes: map[string]outcome{"o": delivered},
		}, {
			name: "an order that stands still is looked up again", ticks: true, moves: true, rests: 4, takes: 2 * time.Minute,
			begin: simply("o"), outcomes: map[string]outcome{"o": delivered},
		}, {
			name: "a split order is followed", ticks: true, moves: true, takes: time.Minute,
			begin: func(y *attempt) error {
				o := y.order("o")
				y.wh.Set(func(k *memory.Knobs) { k.Split = []string{o.OutboundNo} })
				return y.publish(o)
			},
			outcomes: map[string]outcome{"o": {documents: 1, shipped: 2, delivered: 1, state: ledger.Accepted}},
		}, {
			name: "the warehouse cancels, and the next audit may go", ticks: true, moves: true, takes: 2 * time.Minute,
			begin: func(y *attempt) error {
				a, b := y.order("a"), y.order("b")
				y.wh.Set(func(k *memory.Knobs) { k.Cancel = []string{a.OutboundNo} })
				b.OrderNo, b.Lines, b.Supersedes, b.Revision = a.OrderNo, a.Lines, a.OutboundNo, 2
				return y.publish(a)
			},
			outcomes: map[string]outcome{
				"a": {documents: 1, cancelled: 1, state: ledger.Cancelled},
				"b": {documents: 1, mayBeHeld: true, shipped: 1, delivered: 1, state: ledger.Accepted},
			},
			then: func(y *attempt, once func(string, func() error) error) error {
				if len(y.published("a").Accepted) == 0 {
					return nil
				}
				return once("b", func() error { return y.publish(y.orders["b"]) })
			},
		}, {
			name: "the seller is paused by failures, probed and resumed", ticks: true, takes: 5 * time.Minute,
			configure: func(push *pusher.Config, _ *poller.Config) { push.BreakerAfter = 2 },
			begin:     with(func(k *memory.Knobs) { k.Down = true }, simply("o")),
			outcomes:  map[string]outcome{"o": {documents: 1, mayBeHeld: true, state: ledger.Accepted}, "late": {documents: 1, mayBeHeld: true, state: ledger.Accepted}},
			then: func(y *attempt, once func(string, func() error) error) error {
				if y.orders["late"] == nil {
					y.order("late")
				}
				if !y.paused() {
					return nil
				}
				return once("late", func() error {
					y.wh.Set(func(k *memory.Knobs) { k.Down = false })
					return y.publish(y.orders["late"])
				})
			},
		},
	}
}
