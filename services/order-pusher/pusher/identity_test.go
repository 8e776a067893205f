package pusher

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	"stockbridge/pkg/warehouse/warehousetest"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// accounts is a set-up that can be switched to another account. Its warehouse does not know what the first one took.
type accounts struct {
	*fixture
	first, second *memory.Warehouse
}

func twoAccounts(b *fixture) *accounts {
	a := &accounts{b, b.wh, &memory.Warehouse{Now: b.now, As: "memory/second"}}
	a.first.As = "memory/first"
	a.use("first")
	return a
}

// use applies the set-up with one of them.
func (a *accounts) use(name string) {
	setup := proto.CloneOf(a.book.now.Setup)
	setup.Accounts = []*sellerv1.Account{{Name: name, Kind: sellerv1.Account_KIND_MEMORY}}
	setup.Warehouses = []*sellerv1.Warehouse{{Code: "W01", Account: name}}
	a.book.now = seller.New(setup, nil)
	a.wh = map[string]*memory.Warehouse{"first": a.first, "second": a.second}[name]
}

// total is how many documents an order has in both.
func (a *accounts) total(no string) int { return len(a.first.Numbers(no)) + len(a.second.Numbers(no)) }

func TestALostAnswerIsLookedUpWhereItWasSent(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		lost, dropped := b.order("A-1"), b.order("A-2")
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		b.wants(lost, fresh, "wait")
		b.wh.Set(func(k *memory.Knobs) { k.DropBefore = 1 })
		b.wants(dropped, fresh, "wait")

		// However often and late it comes: under the other account it would not be found.
		a.use("second")
		for range lookupsBeforeResend + 1 {
			b.wait(10 * time.Minute)
			for _, o := range []*orderv1.Audited{lost, dropped} {
				b.wants(o, again, "held identity:acme/"+o.OutboundNo)
				b.wants(o, replay, "held identity:acme/"+o.OutboundNo)
			}
		}
		_, err := b.push(lost, again)
		if r := fault.ReasonOf(err, ""); r.Code != "account.changed" || !strings.Contains(r.EN, "memory/first") || !strings.Contains(r.EN, "memory/second") {
			t.Errorf("said %+v", r)
		}
		if n := a.total("A-1") + a.total("A-2"); n != 1 {
			t.Fatalf("%d documents", n)
		}
		if b.Cleared(t.Context(), seller.CauseIdentity("acme", "A-1")) {
			t.Error("cleared while the set-up is another")
		}

		// The earlier set-up is restored: both continue, the second after the look-ups of a lost answer.
		a.use("first")
		for _, no := range []string{"A-1", "A-2"} {
			if !b.Cleared(t.Context(), seller.CauseIdentity("acme", no)) {
				t.Errorf("%s is not cleared although the set-up agrees", no)
			}
		}
		b.accepts(lost, replay)
		for _, err := b.push(dropped, replay); err != nil; _, err = b.push(dropped, again) {
			if fault.Of(err) != fault.Wait {
				t.Fatal(err)
			}
			b.wait(fault.After(err))
		}
		b.has(dropped, 1)
		if !b.Cleared(t.Context(), seller.CauseIdentity("acme", "A-1")) {
			t.Error("what is accepted would wait for ever")
		}
	})
}

// A worker died while it handled the order: nobody recorded that its answer was lost.
func TestAKilledWorkersOrderIsLookedUpWhereItWasSent(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		o := b.order("A-1")
		begin := order.Terms.ClaimRequest(push.DeliveryOf(&bus.Delivery{First: true, StreamTime: b.now()}), order.Facts(o), order.PayloadHash(o), "killed")
		begin.Identity = string(b.wh.Identity())
		if _, err := b.ledger.Claim(t.Context(), begin); err != nil {
			t.Fatal(err)
		}
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		b.wait(ledger.ClaimFor + time.Second)
		a.use("second")
		b.wants(o, again, "held identity:acme/A-1")
		a.use("first")
		b.accepts(o, replay)
		if n := a.total("A-1"); n != 1 {
			t.Errorf("%d documents", n)
		}
	})
}

// A person checked the earlier account and cancelled what was there, and the order is sent under today's.
func TestAPersonLetsAnOrderGoUnderTodaysAccount(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.DropBefore = 1 })
		b.wants(o, fresh, "wait")
		a.use("second")
		b.wants(o, again, "held identity:acme/A-1")
		let := released(seller.CauseIdentity("acme", "A-1"))
		reported, err := b.push(o, let)
		for err != nil && fault.Of(err) == fault.Wait {
			b.wait(fault.After(err))
			reported, err = b.push(o, let)
		}
		if err != nil || reported != "accepted "+b.number(o) {
			t.Fatalf("reported %q: %v", reported, err)
		}
		if entry, err := b.ledger.Get(t.Context(), order.Terms.Key("acme", "A-1")); err != nil || entry.Identity != "memory/second" {
			t.Errorf("kept as sent under %q, %v", entry.Identity, err)
		}
		if n := a.total("A-1"); n != 1 {
			t.Errorf("%d documents", n)
		}
	})
}

// The ledger was lost with the record of where an order was sent, and the account changed before anybody looked it up.
func TestAnOrderThatMayBeUnderAFormerAccountIsNotSentUnderTodays(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		o := b.order("A-1")
		o.AuditedAt = timestamppb.New(b.now().Add(-time.Hour)) // older than the ledger, as after a wipe
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), o); err != nil {
			t.Fatal(err)
		}
		a.use("second")
		a.book.now.MovedAt = b.now().Add(-30 * time.Minute)
		for range lookupsBeforeResend + 1 {
			b.wants(o, again, "held former:acme/A-1")
			b.wait(10 * time.Minute)
		}
		if b.Cleared(t.Context(), seller.CauseFormer("acme", "A-1")) {
			t.Error("cleared without a person")
		}
		if n := a.total("A-1"); n != 1 {
			t.Fatalf("%d documents", n)
		}

		// What was audited after the change is looked up and sent as ever.
		later := b.order("A-2")
		later.AuditedAt = timestamppb.New(b.now())
		b.accepts(later, again)

		// So is what was audited just before it: the ledger is older, and knows of no send.
		before := b.order("A-3")
		a.book.now.MovedAt = b.now().Add(time.Second)
		b.accepts(before, again)
		a.book.now.MovedAt = b.now().Add(-30 * time.Minute)

		// A person found nothing under the earlier account.
		b.accepts(o, released(seller.CauseFormer("acme", "A-1")))
	})
}

func TestWhatSupersedesAnOrderOfAnEarlierAccountWaitsForThatAccount(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		first := b.order("A-1")
		b.accepts(first, fresh)
		audit := func(no, line string) *orderv1.Audited {
			o := proto.CloneOf(first)
			o.OutboundNo, o.Revision, o.Supersedes, o.Lines[0].LineId = no, 2, "A-1", line
			return o
		}
		a.use("second")
		same, other := audit("A-1b", "1"), audit("A-1c", "9")
		b.wants(same, fresh, "held identity:acme/A-1")
		b.wants(other, fresh, "held identity:acme/A-1")
		b.wants(same, released("identity:acme/A-1"), "held cancel:acme/A-1") // its lines are live all the same
		b.cancel(first)
		if !b.Cleared(t.Context(), "identity:acme/A-1") {
			t.Error("not cleared although the earlier one is cancelled")
		}
		b.accepts(same, replay)
		b.has(first, 0)
	})
}

// What was never sent, and what the warehouse refused, is sent under whatever account the set-up names.
func TestAnAccountChangesFreelyForWhatIsNotUnknown(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		a := twoAccounts(b)
		unsent, refused := b.order("A-1"), b.order("A-2")
		b.wh.Set(func(k *memory.Knobs) { k.Down = true })
		b.wants(unsent, fresh, "transient")
		b.wh.Set(func(k *memory.Knobs) { k.Down, k.Reject = false, 1 })
		b.wants(refused, fresh, "failed warehouse.refused")
		a.use("second")
		b.accepts(unsent, again)
		b.accepts(refused, replay)
	})
}

// Somebody else's document has the order's number.
func TestAnotherOrdersDocumentIsNotAdopted(t *testing.T) {
	for name, change := range map[string]func(*orderv1.Audited){
		"quantity": func(o *orderv1.Audited) { o.Lines[0].Quantity = 3 },
		"goods":    func(o *orderv1.Audited) { o.Lines[0].GoodsCode = "CUP" },
		"receiver": func(o *orderv1.Audited) { o.Receiver.Name = "李雷" },
		"shop":     func(o *orderv1.Audited) { o.Shop = "S02" },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, b *fixture) {
				o := b.order("A-1")
				theirs := proto.CloneOf(o)
				change(theirs)
				if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), theirs); err != nil {
					t.Fatal(err)
				}
				o.AuditedAt.Seconds -= 3600 // may have been sent, so it is looked up
				b.wants(o, fresh, "held operator:acme/A-1")
				_, err := b.push(o, again)
				if r := fault.ReasonOf(err, ""); r.Code != "warehouse.foreign" || r.RemoteText != b.number(o) || strings.Contains(r.EN+r.ZH, "李雷") || strings.Contains(r.EN+r.ZH, "王芳") {
					t.Errorf("said %+v", r)
				}
				b.has(o, 1)
				if b.Cleared(t.Context(), "operator:acme/A-1") {
					t.Error("cleared by itself")
				}
				// A person confirms that it is this order's all the same.
				b.accepts(o, released("operator:acme/A-1"))
				b.has(o, 1)
			})
		})
	}
}

// The warehouse says that it has the number already: it has, but not for this order.
func TestARefusalOverAnothersDocumentIsLeftToAPerson(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		theirs := proto.CloneOf(o)
		theirs.Lines[0].Quantity = 7
		if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), theirs); err != nil {
			t.Fatal(err)
		}
		b.wh.Set(func(k *memory.Knobs) { k.Repeat = memory.RefuseRepeat })
		b.wants(o, fresh, "held operator:acme/A-1")
		// It was sent, so it is looked up first, and not sent again.
		b.wh.Set(func(k *memory.Knobs) { k.Repeat = memory.SecondDocument })
		b.wants(o, replay, "held operator:acme/A-1")
		b.has(o, 1)
	})
}

// Of several documents under the number one is the order's own.
func TestOfSeveralDocumentsTheOrdersOwnIsAdopted(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		theirs := proto.CloneOf(o)
		theirs.Lines[0].Quantity = 7
		for _, each := range []*orderv1.Audited{theirs, o} {
			if _, err := warehousetest.Send(t.Context(), b.wh.Orders(), each); err != nil {
				t.Fatal(err)
			}
		}
		o.AuditedAt.Seconds -= 3600
		reported, err := b.push(o, fresh)
		if own := b.wh.Numbers("A-1")[1]; reported != "accepted "+own || fault.ReasonOf(err, "").Code != "warehouse.twice" {
			t.Errorf("reported %q, want %s: %v", reported, own, err)
		}
	})
}

// incomparable fails the next comparisons.
type incomparable struct {
	warehouse.OrderChannel
	times int
}

func (i *incomparable) Orders() warehouse.OrderChannel { return i }

func (i *incomparable) Compare(ctx context.Context, o *orderv1.Audited, no string) (warehouse.Comparison, error) {
	if i.times--; i.times >= 0 {
		return warehouse.Comparison{}, errors.New("connection reset")
	}
	return i.OrderChannel.Compare(ctx, o, no)
}

func TestWithoutAComparisonNothingIsAdopted(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		far := &incomparable{OrderChannel: b.wh.Orders(), times: 2}
		b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return far, nil }
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies = 1 })
		b.wants(o, fresh, "wait")
		b.wants(o, again, "transient")
		b.wants(o, again, "transient")
		b.accepts(o, again)
		b.has(o, 1)
	})
}

// A document that the warehouse split is still the order's own.
func TestASplitDocumentIsAdopted(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		o := b.order("A-1")
		b.wh.Set(func(k *memory.Knobs) { k.LoseReplies, k.Split = 1, []string{"A-1"} })
		b.wants(o, fresh, "wait")
		b.accepts(o, again)
		b.has(o, 1)
		if entry, err := b.ledger.Get(t.Context(), order.Terms.Key("acme", "A-1")); err != nil || slices.Contains([]string{"", "operator"}, entry.Number) {
			t.Errorf("%+v, %v", entry, err)
		}
	})
}
