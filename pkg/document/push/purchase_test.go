package push_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind/purchase"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// fixture is a pusher of purchase orders, which the warehouse cannot find by the ERP's numbers, over a real ledger and a
// warehouse in memory.
type fixture struct {
	*push.Pusher[*purchasev1.Audited, *purchasev1.Received]
	t      *testing.T
	wh     *memory.Warehouse
	ledger ledger.Ledger
	setup  *seller.Seller
	// identity is that of the embedded ledger's server: another one is a restart.
	identity string

	mu   sync.Mutex
	at   time.Time
	runs int
}

func (f *fixture) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

func (f *fixture) wait(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = f.at.Add(d)
}

func (f *fixture) Get(name string) (*seller.Seller, bool) { return f.setup, name == f.setup.Name() }

func (f *fixture) Pause(context.Context, string, seller.Pause) error { return nil }

// each runs a test over both ledgers, each on a real server.
func each(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, newFixture(t, func(f *fixture) (ledger.Ledger, error) {
			return inredis.Open(inredis.Options{URL: redistest.Start(t).URL(), Now: f.now})
		}))
	})
	t.Run("kv", func(t *testing.T) {
		t.Parallel()
		test(t, newFixture(t, func(f *fixture) (ledger.Ledger, error) {
			server := bustest.Start(t)
			bucket, err := server.Bucket(t.Context(), bus.BucketLedger)
			if err != nil {
				return nil, err
			}
			books, err := server.Bucket(t.Context(), bus.BucketBooks)
			if err != nil {
				return nil, err
			}
			return inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: books, Identity: func() string { return f.identity }, Now: f.now})
		}))
	})
}

// newFixture opens a ledger whose epoch began a minute ago, so that new documents were certainly never sent.
func newFixture(t *testing.T, open func(f *fixture) (ledger.Ledger, error)) *fixture {
	t.Helper()
	f := &fixture{t: t, at: time.Now().Truncate(time.Second), identity: "first"}
	var err error
	if f.ledger, err = open(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.ledger.Close() })
	f.wh = &memory.Warehouse{Now: f.now}
	f.setup = seller.New(&sellerv1.Setup{
		Name:       "acme",
		Accounts:   []*sellerv1.Account{{Name: "m", Kind: sellerv1.Account_KIND_MEMORY}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "m"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "1", Warehouses: []string{"W01"}}},
	}, nil)
	f.Pusher = push.New(push.Parts[*purchasev1.Audited, *purchasev1.Received]{
		Kind: purchase.Kind, Sellers: f, Ledger: f.ledger, Breaker: guard.NewBreaker(50), Metrics: push.NewMetrics(prometheus.NewRegistry()),
		Config:         push.Config{Slots: 8, ResendAfter: 5 * time.Minute, RefuseAfter: time.Minute, SettleFor: 30 * time.Second, ProbeAfter: 30 * time.Second},
		CancelDeadline: 5 * time.Minute,
		Open:           func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return f.wh, nil },
		Now:            f.now,
		NewOwner: func() string {
			f.runs++
			return fmt.Sprintf("run-%d", f.runs)
		},
	})
	_, _ = f.push(f.audit("WARM"), fresh) // begins the ledger's epoch
	f.wait(time.Minute)
	return f
}

func (f *fixture) audit(no string) *purchasev1.Audited {
	return &purchasev1.Audited{
		Seller: "acme", Warehouse: "W01", No: no, Revision: 1, AuditedAt: timestamppb.New(f.now()), Supplier: "S9",
		Lines: []*purchasev1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 10}},
	}
}

// The kinds of deliveries.
func fresh(d *bus.Delivery) { d.First = true }
func again(d *bus.Delivery) { d.Attempt = 2 }

// absent is a replay after a person said at at that the warehouse does not have it.
func absent(no string, at time.Time) func(*bus.Delivery) {
	return func(d *bus.Delivery) {
		cause := seller.CauseUnresolved("acme", "purchase/"+no)
		d.Replay, d.Released, d.ReleasedAt = true, []string{cause}, map[string]time.Time{cause: at}
	}
}

func replay(d *bus.Delivery) { d.Replay = true }

// push runs the handler as the bus does, and returns its events shortened.
func (f *fixture) push(m *purchasev1.Audited, how func(*bus.Delivery)) (string, error) {
	f.t.Helper()
	d := &bus.Delivery{Consumer: "document-pusher-purchase", Stream: "INTAKE", Seq: 1, StreamTime: m.AuditedAt.AsTime(), Attempt: 1, Seller: m.Seller}
	how(d)
	events, err := f.Push(f.t.Context(), d, m)
	f.stored(d)
	return f.text(events, err), err
}

// cancel runs the request r of a document that was published at at.
func (f *fixture) cancel(no, r string, at time.Time) (string, error) {
	f.t.Helper()
	d := &bus.Delivery{Consumer: "document-pusher-purchase-cancel", Stream: "INTAKE", Seq: 2, StreamTime: at, Attempt: 1, Seller: "acme"}
	events, err := f.Cancel(f.t.Context(), d, &documentv1.CancelRequested{Seller: "acme", No: no, RequestId: r, RequestedAt: timestamppb.New(at)})
	f.stored(d)
	return f.text(events, err), err
}

// stored runs what waits for the events to be stored.
func (f *fixture) stored(d *bus.Delivery) {
	f.t.Helper()
	if err := d.Stored(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) text(events []event.Event, err error) string {
	var said []string
	for _, e := range events {
		switch m := e.Message.(type) {
		case *documentv1.Accepted:
			said = append(said, "accepted "+m.Ref.WarehouseNo)
		case *documentv1.Held:
			said = append(said, "held "+m.Cause)
		case *documentv1.Failed:
			said = append(said, "failed "+m.Reason.Code)
		case *documentv1.Cancelled:
			said = append(said, strings.TrimSpace("cancelled "+m.RequestId))
		case *documentv1.CancelRefused:
			said = append(said, "refused "+m.Reason.Code)
		case *documentv1.CancelUnknown:
			said = append(said, "unknown "+m.Reason.Code)
		default:
			said = append(said, e.Name)
		}
	}
	if err != nil && len(said) == 0 {
		return fault.Of(err).String()
	}
	return strings.Join(said, "; ")
}

func (f *fixture) wants(m *purchasev1.Audited, how func(*bus.Delivery), want string) {
	f.t.Helper()
	if got, err := f.push(m, how); got != want {
		f.t.Fatalf("%s: reported %q, want %q (%v)", m.No, got, want, err)
	}
}

func (f *fixture) wantsCancel(no, r string, at time.Time, want string) {
	f.t.Helper()
	if got, err := f.cancel(no, r, at); got != want {
		f.t.Fatalf("cancel %s: reported %q, want %q (%v)", no, got, want, err)
	}
}

// has checks the documents at the warehouse.
func (f *fixture) has(no string, n int) {
	f.t.Helper()
	if got := f.wh.PurchaseNumbers(no); len(got) != n {
		f.t.Errorf("%s: the warehouse has %v, want %d", no, got, n)
	}
}

func (f *fixture) state(no string, want ledger.State) {
	f.t.Helper()
	e, err := f.ledger.Get(f.t.Context(), purchase.Kind.Key("acme", no))
	if err != nil || e.State != want {
		f.t.Errorf("%s: the ledger has %q, want %q (%v)", no, e.State, want, err)
	}
}

// resolve is what `bridgectl purchase resolve --number` writes.
func (f *fixture) resolve(m *purchasev1.Audited, number string) {
	f.t.Helper()
	request := purchase.Kind.ClaimRequest(push.DeliveryOf(&bus.Delivery{StreamTime: f.now()}), purchase.Kind.Facts(m), purchase.Kind.Hash(m), "person")
	if err := f.ledger.Accept(f.t.Context(), request, number, nil, f.now()); err != nil {
		f.t.Fatal(err)
	}
}

const unresolved = "held unresolved:acme/purchase/A-1"

func TestAPurchaseOrderIsSentOnce(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		m := f.audit("A-1")
		f.wants(m, fresh, "accepted MEP00000001")
		f.wants(m, again, "accepted MEP00000001")
		other := f.audit("A-1")
		other.Lines[0].Quantity = 11
		f.wants(other, fresh, "held operator:acme/purchase/A-1") // one is live under the number
		f.has("A-1", 1)
	})
}

// Where nobody but a person can look, an order that may have been sent is never sent again by itself.
func TestALostAnswerIsForAPersonWhereNothingCanBeLookedUp(t *testing.T) {
	for _, there := range []bool{true, false} {
		t.Run(fmt.Sprintf("it is there: %v", there), func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				f.wh.Set(func(k *memory.Knobs) {
					if there {
						k.LoseReplies = 1
					} else {
						k.DropBefore = 1
					}
				})
				m := f.audit("A-1")
				f.wants(m, fresh, unresolved)
				f.state("A-1", ledger.Unknown)
				for _, how := range []func(*bus.Delivery){again, replay, again} {
					f.wait(10 * time.Minute)
					f.wants(m, how, unresolved)
				}
				if gone, decided := f.Gone(t.Context(), "unresolved:acme/purchase/A-1"); gone || !decided {
					t.Errorf("released by itself: %v, %v", gone, decided)
				}
				if there {
					f.resolve(m, f.wh.PurchaseNumbers("A-1")[0])
					if gone, _ := f.Gone(t.Context(), "unresolved:acme/purchase/A-1"); !gone {
						t.Error("it is not released when a person entered the number")
					}
					f.wants(m, replay, "accepted MEP00000001")
				} else {
					f.wants(m, absent("A-1", f.now()), "accepted MEP00000001")
				}
				f.has("A-1", 1)
				f.state("A-1", ledger.Accepted)
			})
		})
	}
}

func TestARefusalThatProvesNothingIsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.wh.Set(func(k *memory.Knobs) { k.Refuse = 1 })
		m := f.audit("A-1")
		f.wants(m, fresh, unresolved)
		f.wait(time.Minute)
		f.wants(m, absent("A-1", f.now()), "failed warehouse.refused") // with the warehouse's words, and never sent again
		f.has("A-1", 0)
		f.wh.Set(func(k *memory.Knobs) { k.RefuseTaken = 1 })
		taken := f.audit("A-2")
		f.wants(taken, fresh, "held unresolved:acme/purchase/A-2")
		f.resolve(taken, f.wh.PurchaseNumbers("A-2")[0])
		f.wants(taken, replay, "accepted "+f.wh.PurchaseNumbers("A-2")[0])
	})
}

// A ledger that was restarted does not know whether it forgot.
func TestAnAuditOlderThanTheLedgerIsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		m := f.audit("A-1")
		m.AuditedAt = timestamppb.New(f.now().Add(-time.Hour))
		f.wants(m, again, unresolved)
		f.has("A-1", 0)
		f.wants(m, absent("A-1", f.now()), "accepted MEP00000001")
		f.has("A-1", 1)
	})
}

// What waited for the set-up, or failed before its claim, was never sent: the ledger would know.
func TestWhatWasHeldBeforeItsClaimIsSentWithoutAPerson(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		m := f.audit("A-1")
		whole := f.setup
		f.setup = seller.New(&sellerv1.Setup{Name: "acme"}, nil)
		f.wants(m, fresh, "held warehouse:acme/W01")
		f.setup = whole
		f.wait(time.Hour)
		f.wants(m, replay, "accepted MEP00000001")
		// So long afterwards the ledger may have forgotten what became of it.
		old := f.audit("A-2")
		f.wait(61 * 24 * time.Hour)
		f.wants(old, replay, "held unresolved:acme/purchase/A-2")
	})
}

func TestAWishBeforeThePushKeepsItFromBeingSent(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.now()
		f.wantsCancel("A-1", "stop-1", at, "wait")
		m := f.audit("A-1")
		f.wants(m, fresh, "cancelled stop-1")
		f.wants(m, again, "cancelled stop-1")
		f.wants(m, replay, "cancelled stop-1")
		f.wantsCancel("A-1", "stop-1", at, "cancelled stop-1")
		f.wantsCancel("A-1", "stop-2", at, "cancelled stop-2")
		f.wants(m, replay, "cancelled stop-1")
		f.has("A-1", 0)
		f.state("A-1", ledger.Refused)
	})
}

// A person's word is about the sends before it, and comes when none of them can take effect any more.
func TestAPersonsWordIsAboutTheSendsBeforeIt(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.wh.Set(func(k *memory.Knobs) { k.DropBefore = 1 })
		m := f.audit("A-1")
		f.wants(m, fresh, unresolved)
		f.wait(10 * time.Second)
		f.wants(m, absent("A-1", f.now()), unresolved) // too early
		f.wait(time.Minute)
		word := absent("A-1", f.now())
		f.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		f.wants(m, word, unresolved) // it was sent again, and arrived
		f.wait(10 * time.Minute)
		f.wants(m, word, unresolved)
		f.has("A-1", 1)
	})
}

func TestCancelling(t *testing.T) {
	for _, test := range []struct {
		name  string
		knobs func(*memory.Knobs)
		first string
		then  string
		state ledger.State
	}{
		{"done", nil, "cancelled stop-1", "cancelled stop-1", ledger.Cancelled},
		{"refused", func(k *memory.Knobs) { k.CancelRefused = 9 }, "refused cancel.refused", "refused cancel.refused", ledger.Accepted},
		{"under way, then done", func(k *memory.Knobs) { k.CancelPending = 1 }, "wait", "cancelled stop-1", ledger.Cancelled},
		{"under way, then refused", func(k *memory.Knobs) { k.CancelPending, k.PendingRefused = 1, true }, "wait", "refused cancel.refused", ledger.Accepted},
		{"done, and the answer is lost", func(k *memory.Knobs) { k.CancelLost = 1 }, "wait", "cancelled stop-1", ledger.Cancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, f *fixture) {
				m := f.audit("A-1")
				f.wants(m, fresh, "accepted MEP00000001")
				if test.knobs != nil {
					f.wh.Set(test.knobs)
				}
				f.wait(time.Second)
				at := f.now()
				f.wantsCancel("A-1", "stop-1", at, test.first)
				f.wait(time.Second)
				f.wh.Step()
				f.wantsCancel("A-1", "stop-1", at, test.then)
				f.state("A-1", test.state)
				e, err := f.ledger.Get(t.Context(), purchase.Kind.Key("acme", "A-1"))
				if err != nil || e.Cancel != nil {
					t.Errorf("the wish is still open: %+v, %v", e.Cancel, err)
				}
				if test.state == ledger.Cancelled {
					f.wants(m, again, "accepted MEP00000001") // what was, said again
				}
			})
		})
	}
}

// At the deadline what is known is published; what comes later is a push's or the follower's to publish.
func TestNoAnswerByTheDeadline(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		at := f.now()
		f.wantsCancel("NONE", "stop-1", at, "wait")
		f.wait(6 * time.Minute)
		f.wantsCancel("NONE", "stop-1", at, "unknown cancel.nothing")
		f.wants(f.audit("NONE"), fresh, "cancelled stop-1")
		f.has("NONE", 0)

		f.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		f.wants(f.audit("A-1"), fresh, unresolved)
		at = f.now()
		f.wantsCancel("A-1", "stop-2", at, "wait")
		f.wait(6 * time.Minute)
		f.wantsCancel("A-1", "stop-2", at, "unknown cancel.unsent") // never cancelled: it is there
		f.has("A-1", 1)
	})
}

func TestWhatHasArrivedIsNotCancelled(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.wants(f.audit("A-1"), fresh, "accepted MEP00000001")
		f.wh.Complete("A-1")
		f.wantsCancel("A-1", "stop-1", f.now(), "refused cancel.late")
		// Nor is the warehouse asked where the ledger knows.
		e, err := f.ledger.Get(t.Context(), purchase.Kind.Key("acme", "A-1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.ledger.Follow(t.Context(), e, ledger.Accepted, ledger.Following{State: []byte(fmt.Sprintf(`{"Status":%d}`, documentv1.Status_STATUS_COMPLETED))}); err != nil {
			t.Fatal(err)
		}
		f.wh.Set(func(k *memory.Knobs) { k.Down = true })
		f.wantsCancel("A-1", "stop-2", f.now(), "refused cancel.late")
	})
}

func TestTwoRequestsAreAnsweredOneAfterTheOther(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		f.wants(f.audit("A-1"), fresh, "accepted MEP00000001")
		f.wh.Set(func(k *memory.Knobs) { k.CancelPending = 1 })
		at := f.now()
		f.wantsCancel("A-1", "stop-1", at, "wait")
		f.wantsCancel("A-1", "stop-2", at, "wait")
		f.wait(time.Second)
		f.wh.Step()
		f.wantsCancel("A-1", "stop-1", at, "cancelled stop-1")
		f.wantsCancel("A-1", "stop-2", at, "cancelled stop-2")
	})
}

func TestARequestThatBreaksARuleIsAnswered(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		err := fault.Permanent(fault.Reason{Code: "request.invalid", Field: "request_id"})
		events := f.OnCancelReject(&bus.Delivery{}, &documentv1.CancelRequested{Seller: "acme", No: "A-1", RequestId: "with a blank"}, err)
		if len(events) != 1 || strings.Contains(events[0].ID, " ") || f.text(events, nil) != "unknown request.invalid" {
			t.Errorf("%+v", events)
		}
		if events := f.OnCancelReject(&bus.Delivery{}, &documentv1.CancelRequested{Seller: "acme", No: "a/b"}, err); events != nil {
			t.Errorf("answered for no document: %+v", events)
		}
	})
}
