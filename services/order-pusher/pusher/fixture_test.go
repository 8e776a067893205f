package pusher

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// The protocol's figures, see document/push.
const (
	lookupsBeforeResend = 3
	lookupsBeforeRefuse = 2
	firstLookup         = time.Second
	callLimit           = 10 * time.Second
	busyPause           = 2 * time.Second
)

// fixture is a pusher over a real ledger and a warehouse in memory, with a clock that the test moves.
type fixture struct {
	*Pusher
	t      *testing.T
	wh     *memory.Warehouse
	ledger ledger.Ledger
	book   *book
	// identity is that of the embedded ledger's server: another one is a restart.
	identity string

	mu   sync.Mutex
	at   time.Time
	runs int
	// skew is how far the worker's own clock is ahead of the ledger's and the warehouse's.
	skew time.Duration
}

// ownClock is the worker's own clock.
func (b *fixture) ownClock() time.Time { return b.now().Add(b.skew) }

func (b *fixture) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *fixture) wait(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

// book is one seller's set-up and pause.
type book struct{ now *seller.Seller }

func (b *book) Get(name string) (*seller.Seller, bool) { return b.now, b.now.Name() == name }

func (b *book) Pause(_ context.Context, _ string, p seller.Pause) error {
	if b.now.Pause != nil {
		return seller.ErrPaused
	}
	b.now = seller.New(b.now.Setup, &p)
	return nil
}

// each runs a test over both ledgers, each on a real server.
func each(t *testing.T, test func(t *testing.T, b *fixture)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		test(t, newFixture(t, func(b *fixture) (ledger.Ledger, error) {
			return inredis.Open(inredis.Options{URL: redistest.Start(t).URL(), Now: b.now})
		}))
	})
	t.Run("kv", func(t *testing.T) {
		test(t, newFixture(t, func(b *fixture) (ledger.Ledger, error) {
			server := bustest.Start(t)
			bucket, err := server.Bucket(t.Context(), bus.BucketLedger)
			if err != nil {
				return nil, err
			}
			books, err := server.Bucket(t.Context(), bus.BucketBooks)
			if err != nil {
				return nil, err
			}
			return inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: books, Identity: func() string { return b.identity }, Now: b.now})
		}))
	})
}

// newFixture opens a ledger whose epoch began a minute ago, so that new orders were certainly never sent.
func newFixture(t *testing.T, open func(b *fixture) (ledger.Ledger, error)) *fixture {
	t.Helper()
	b := &fixture{t: t, at: time.Now().Truncate(time.Second), identity: "first"}
	var err error
	if b.ledger, err = open(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.ledger.Close() })
	b.wh = &memory.Warehouse{Now: b.now}
	b.book = &book{now: seller.New(&sellerv1.Setup{
		Name:       "acme",
		Accounts:   []*sellerv1.Account{{Name: "m", Kind: sellerv1.Account_KIND_MEMORY}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "m"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "1", Warehouses: []string{"W01"}}},
	}, nil)}
	b.Pusher = New(Parts{
		Sellers: b.book, Ledger: b.ledger, Breaker: guard.NewBreaker(3), Metrics: push.NewMetrics(prometheus.NewRegistry()),
		Config: Config{Config: push.Config{ResendAfter: 5 * time.Minute, SettleFor: 30 * time.Second, ProbeAfter: 30 * time.Second}, ShadowLookAfter: 10 * time.Minute, ShadowGiveUp: 2 * time.Hour},
		Open: func(_ *seller.Seller, _ string, class quota.Class) (warehouse.Identified, error) {
			if class != quota.Push {
				t.Errorf("opened for class %s", class)
			}
			return b.wh, nil
		},
		Read: func(_ *seller.Seller, _ string, class quota.Class) (warehouse.OrderReader, error) {
			if class != quota.Status {
				t.Errorf("opened for class %s", class)
			}
			return b.wh.Orders(), nil
		},
		Now: b.ownClock,
		NewOwner: func() string {
			b.runs++
			return fmt.Sprintf("run-%d", b.runs)
		},
	})
	warm := b.order("WARM")
	b.wh.Set(func(k *memory.Knobs) { k.Refuse = 1 })
	_, _ = b.push(warm, fresh) // begins the ledger's epoch
	b.wait(time.Minute)
	return b
}

func (b *fixture) order(no string) *orderv1.Audited {
	return &orderv1.Audited{
		Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO-" + no, OutboundNo: no, Revision: 1,
		AuditedAt: timestamppb.New(b.now()), Receiver: &orderv1.Receiver{Name: "王芳", Mobile: "13800000000", Address: "长安路1号"},
		Lines: []*orderv1.Line{{LineId: "1", GoodsCode: "TEA", Quantity: 2}},
	}
}

// The kinds of deliveries.
func fresh(d *bus.Delivery)  { d.First = true }
func again(d *bus.Delivery)  { d.Attempt = 2 }
func replay(d *bus.Delivery) { d.Replay = true }

// push runs the handler as the bus does, and returns its events shortened.
func (b *fixture) push(o *orderv1.Audited, how func(*bus.Delivery)) (string, error) {
	b.t.Helper()
	d := &bus.Delivery{Consumer: Name, Stream: "ORDERS", Seq: 1, StreamTime: o.AuditedAt.AsTime(), Attempt: 1, Seller: o.Seller}
	how(d)
	events, err := b.Push(b.t.Context(), d, o)
	text := ""
	for _, e := range events {
		switch m := e.Message.(type) {
		case *documentv1.Accepted:
			text += "accepted " + m.Ref.WarehouseNo
		case *documentv1.Held:
			text += "held " + m.Cause
		case *documentv1.Failed:
			text += "failed " + m.Reason.Code
		case *orderv1.Shadowed:
			text += verdictOf(m)
		default:
			text += " " + e.Name
		}
	}
	if err != nil && text == "" {
		text = fault.Of(err).String()
	}
	return text, err
}

// wants pushes and compares.
func (b *fixture) wants(o *orderv1.Audited, how func(*bus.Delivery), want string) {
	b.t.Helper()
	if got, err := b.push(o, how); got != want {
		b.t.Fatalf("%s: reported %q, want %q (%v)", o.OutboundNo, got, want, err)
	}
}

// accepts pushes and expects order.accepted with the warehouse's own number.
func (b *fixture) accepts(o *orderv1.Audited, how func(*bus.Delivery)) {
	b.t.Helper()
	got, err := b.push(o, how)
	if err != nil || got != "accepted "+b.number(o) {
		b.t.Fatalf("%s: reported %q, want it accepted (%v)", o.OutboundNo, got, err)
	}
}

// has checks how many documents the warehouse has.
func (b *fixture) has(o *orderv1.Audited, want int) {
	b.t.Helper()
	if got := b.wh.Numbers(o.OutboundNo); len(got) != want {
		b.t.Errorf("%s: the warehouse has %v, want %d", o.OutboundNo, got, want)
	}
}

func (b *fixture) number(o *orderv1.Audited) string {
	b.t.Helper()
	numbers := b.wh.Numbers(o.OutboundNo)
	if len(numbers) == 0 {
		b.t.Fatalf("%s: the warehouse has none", o.OutboundNo)
	}
	return numbers[0]
}

// expectUnknown checks the gauges of orders whose outcome is unknown.
func (b *fixture) expectUnknown(n int, oldest time.Duration) {
	b.t.Helper()
	r := prometheus.NewRegistry()
	s, _ := b.Sellers.Get("acme")
	r.MustRegister(push.Unknown([]string{order.Terms.Name}, func() []*seller.Seller { return []*seller.Seller{s} }, b.Ledger, b.now))
	want := fmt.Sprintf(`# HELP stockbridge_push_unknown_orders Orders whose answer was lost and which are being looked up now.
# TYPE stockbridge_push_unknown_orders gauge
stockbridge_push_unknown_orders %d
`, n)
	if oldest > 0 {
		want = fmt.Sprintf(`# HELP stockbridge_push_unknown_oldest_seconds How long a seller's oldest of them is unknown: of the sellers with the oldest.
# TYPE stockbridge_push_unknown_oldest_seconds gauge
stockbridge_push_unknown_oldest_seconds{seller="acme"} %v
`, oldest.Seconds()) + want
	}
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "stockbridge_push_unknown_orders", "stockbridge_push_unknown_oldest_seconds"); err != nil {
		b.t.Error(err)
	}
}
