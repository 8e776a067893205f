package pusher

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	orderv1 "stockbridge/proto/order/v1"
)

// The warehouse rejects the order, has it all the same, and shows it three seconds later.
func TestARefusalThatWasNoneIsNeverPublished(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.RefuseAfter = time.Minute
		const orders = 20
		b.wh.Set(func(k *memory.Knobs) { k.RefuseTaken, k.Late = orders, 3*time.Second })
		accepted, failed := 0, 0
		for n := range orders {
			o := b.order(fmt.Sprintf("A-%d", n))
			for how := fresh; ; how = again {
				reported, err := b.push(o, how)
				if fault.Of(err) == fault.Wait && reported == "wait" {
					b.wait(fault.After(err))
					continue
				}
				if reported == "accepted "+b.number(o) {
					accepted++
				} else {
					failed++
				}
				break
			}
			b.has(o, 1)
		}
		if accepted != orders || failed != 0 {
			t.Errorf("%d accepted, %d failed", accepted, failed)
		}
	})
}

// A refusal is published after look-ups at once, after five seconds and after a minute, whatever crashes in between, and the
// order is never sent again for it.
func TestARefusalIsPublishedAfterItsLookUps(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.RefuseAfter = time.Minute
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.Refuse = 1 }) // a second send would be accepted
		waits := func(how time.Duration) {
			t.Helper()
			reported, err := b.push(o, again)
			if reported != "wait" || fault.After(err) != how {
				t.Fatalf("reported %q, comes back after %s: %v", reported, fault.After(err), err)
			}
			b.wait(how)
		}
		began := b.now()
		if reported, err := b.push(o, fresh); reported != "wait" || fault.After(err) != 5*time.Second {
			t.Fatalf("reported %q, comes back after %s: %v", reported, fault.After(err), err)
		}
		b.wait(5 * time.Second)
		entry, err := b.ledger.Get(t.Context(), order.Terms.Key("acme", "A-1"))
		if err != nil || entry.State != ledger.Unknown || entry.Rejection.RemoteText != "业务处理失败" {
			t.Errorf("meanwhile: %+v, %v", entry, err)
		}
		waits(55 * time.Second)
		// A worker dies during the last look-up.
		if _, err := b.ledger.Claim(t.Context(), ledger.ClaimRequest{Key: entry.Key, Hash: order.PayloadHash(o), Owner: "dies", Group: o.OrderNo, Items: []string{"1"}}); err != nil {
			t.Fatal(err)
		}
		waits(busyPause)
		b.wait(ledger.ClaimFor)
		reported, err := b.push(o, again)
		if reason := fault.ReasonOf(err, ""); reported != "failed warehouse.refused" || fault.Of(err) != fault.Refused || reason.RemoteText != "业务处理失败" {
			t.Fatalf("reported %q: %v", reported, err)
		}
		if b.now().Sub(began) < time.Minute {
			t.Errorf("published after %s", b.now().Sub(began))
		}
		b.wants(o, again, reported)
		b.has(o, 0)
		b.expectUnknown(0, 0)
		// A person replays it: it is sent again, once the warehouse's side is fixed.
		b.accepts(o, replay)
		b.has(o, 1)
	})
}

// When the immediate look-up failed, the rejection is recorded all the same: the order is not sent again.
func TestARefusalWhoseLookUpFailedIsNotSentAgain(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.RefuseAfter = time.Minute
		o := b.order("A-1")
		far := &rejecting{OrderChannel: b.wh.Orders(), no: &warehouse.Rejected{Reason: fault.Reason{Code: "warehouse.refused"}}, deaf: 1}
		b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return far, nil }
		for how, n := fresh, 0; ; how, n = again, n+1 {
			reported, err := b.push(o, how)
			if fault.Of(err) == fault.Refused && reported == "failed warehouse.refused" && n >= lookupsBeforeRefuse {
				break
			}
			if fault.Of(err) != fault.Wait || n > lookupsBeforeRefuse {
				t.Fatalf("run %d: reported %q: %v", n, reported, err)
			}
			b.wait(fault.After(err))
		}
		if far.sent != 1 {
			t.Errorf("sent %d times", far.sent)
		}
	})
}

// rejecting rejects every order with no; the next look-ups get no answer.
type rejecting struct {
	warehouse.OrderChannel
	no         *warehouse.Rejected
	deaf, sent int
}

func (f *rejecting) Orders() warehouse.OrderChannel { return f }

func (f *rejecting) Send(context.Context, *orderv1.Audited, warehouse.Plan) (warehouse.Receipt, error) {
	f.sent++
	return warehouse.Receipt{}, f.no
}

func (f *rejecting) Find(ctx context.Context, numbers []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	if f.deaf--; f.deaf >= 0 {
		return nil, context.DeadlineExceeded
	}
	return f.OrderChannel.Find(ctx, numbers)
}

func TestAKnownFaultOfTheDataIsPublishedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		b.RefuseAfter = time.Minute
		far := &rejecting{OrderChannel: b.wh.Orders(), no: &warehouse.Rejected{Reason: fault.Reason{Code: "warehouse.refused"}, Data: true}}
		b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return far, nil }
		b.wants(b.order("A-1"), fresh, "failed warehouse.refused")
	})
}

// A worker's clock is ten minutes off, answers are lost, and the warehouse shows what it took only after 25 seconds: nothing
// is sent twice, and everything ends as soon as with a right clock.
func TestAClockThatIsOffSendsNothingTwice(t *testing.T) {
	for _, skew := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		each(t, func(t *testing.T, b *fixture) {
			b.skew = skew
			const orders, late = 300, 30
			b.wh.Set(func(k *memory.Knobs) { k.LoseReplies, k.Late = late, 25*time.Second })
			due := map[*orderv1.Audited]time.Time{}
			var waiting []*orderv1.Audited
			for n := range orders {
				o := b.order(fmt.Sprintf("A-%d", n))
				if _, err := b.push(o, fresh); err != nil {
					due[o], waiting = b.now().Add(fault.After(err)), append(waiting, o)
				}
			}
			if len(waiting) != late {
				t.Fatalf("%d answers lost", len(waiting))
			}
			began, doubles := b.now(), 0
			for len(waiting) > 0 && b.now().Sub(began) < 6*time.Minute {
				slices.SortStableFunc(waiting, func(x, y *orderv1.Audited) int { return due[x].Compare(due[y]) })
				o := waiting[0]
				b.wait(max(0, due[o].Sub(b.now())))
				_, err := b.push(o, again)
				if err == nil {
					waiting = waiting[1:]
					continue
				}
				if fault.Of(err) != fault.Wait {
					t.Fatal(err)
				}
				due[o] = b.now().Add(fault.After(err))
			}
			for n := range orders {
				if len(b.wh.Numbers(fmt.Sprintf("A-%d", n))) != 1 {
					doubles++
				}
			}
			if doubles != 0 || len(waiting) != 0 {
				t.Errorf("clock %s: %d of %d not exactly once at the warehouse, %d not done", skew, doubles, orders, len(waiting))
			}
		})
	}
}
