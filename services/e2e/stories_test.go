// Package e2e runs stories of orders through the real workers, on both ledgers.
package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// built holds the programs of all runs of this package: linking them takes longer than a story.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if built.dir != "" {
			_ = os.RemoveAll(built.dir)
		}
		os.Exit(code)
	}))
}

const addOrder = "eclp.order.addOrder"

// each runs a story on each ledger, on both at once.
func each(t *testing.T, o testenv.Options, story func(t *testing.T, w *testenv.World)) {
	t.Helper()
	for _, l := range testenv.Ledgers {
		t.Run(l, func(t *testing.T) {
			t.Parallel()
			on(t, l, o, story)
		})
	}
}

// inTurn is each for a story whose time is short: on one ledger after the other.
func inTurn(t *testing.T, o testenv.Options, story func(t *testing.T, w *testenv.World)) {
	t.Helper()
	for _, l := range testenv.Ledgers {
		t.Run(l, func(t *testing.T) { on(t, l, o, story) })
	}
}

func on(t *testing.T, l string, o testenv.Options, story func(t *testing.T, w *testenv.World)) {
	t.Helper()
	o.Ledger = l
	w := testenv.Start(t, o)
	story(t, w)
	w.NoViolations()
}

func accepted(t *orderview.Order) bool { return len(t.Accepted) > 0 }
func failed(t *orderview.Order) bool   { return len(t.Failed) > 0 }
func held(t *orderview.Order) bool     { return len(t.Held) > 0 }

func TestAnAuditedOrderIsAcceptedShippedAndDelivered(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Speed: 30000}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(10)
		parted := list[3]
		parted.Lines[0].Quantity = 5
		if err := w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Split.Orders = []string{parted.OutboundNo} }); err != nil {
			t.Fatal(err)
		}
		w.Publish(list...)
		for _, o := range list {
			no := w.Accepted(o)
			seen := w.UntilPublished(o.OutboundNo+" is delivered", o, func(t *orderview.Order) bool { return t.Delivered > 0 })
			docs := w.JD.Documents(o.OutboundNo)
			var waybills []string
			for _, d := range docs {
				waybills = append(waybills, d.WayBills...)
			}
			slices.Sort(waybills)
			waybills = slices.Compact(waybills)
			slices.Sort(seen.Waybills)
			if seen.Complete != 1 || !slices.Equal(seen.Waybills, waybills) || seen.Cancelled != 0 {
				t.Errorf("%s (%s): published %+v, JD has waybills %v", o.OutboundNo, no, seen, waybills)
			}
			if o == parted && (len(seen.Shipped) != 2 || len(seen.Waybills) != 2) {
				t.Errorf("the split order: published %+v", seen)
			}
		}
	})
}

func TestRepeatedAndDisorderlyEventsLeadToOneDocument(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		// The same audit five times, in another layout too.
		o := w.Maker.Next()
		w.Publish(o, o, o)
		w.Accepted(o)
		w.Publish(o)
		again := proto.CloneOf(o)
		again.AuditedAt.Seconds++
		w.Publish(again)

		// The second audit of an order overtakes the first.
		first := w.Maker.Next()
		second := proto.CloneOf(first)
		second.Revision, second.OutboundNo, second.Supersedes = 2, first.OutboundNo+"-b", first.OutboundNo
		w.Publish(second)
		w.Accepted(second)
		w.Publish(first)
		seen := w.UntilPublished("the late first audit is refused", first, failed)
		if seen.Failed[0] != "line.live" || len(w.Documents(first)) != 0 {
			t.Errorf("published %+v", seen)
		}

		// The same in other words, then another content under a live number: never published as failed.
		words := proto.CloneOf(o)
		words.Receiver.Name, words.BuyerRemark = "\u200b"+words.Receiver.Name+"\n", words.BuyerRemark+" 😀"
		w.Publish(words)
		changed := proto.CloneOf(o)
		changed.Lines[0].Quantity += 5
		w.Publish(changed)
		seen = w.UntilPublished("another content is refused", o, held)
		if len(seen.Held) != 1 || len(seen.Failed) != 0 || len(seen.Accepted) != 1 || len(w.Documents(o)) != 1 {
			t.Errorf("published %+v", seen)
		}
	})
}

func TestWhatFailsIsKeptWholeAndNamesTheField(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		negative := w.Maker.Next()
		negative.Lines[0].Quantity = -2
		masked := w.Maker.Next()
		masked.Receiver.Name = "张*"
		stranger := w.Maker.Next()
		stranger.Seller = "stranger"
		notJSON := []byte(`{"seller": "demo", "lines": [`)
		large := []byte(`{"seller":"demo","buyer_remark":"` + strings.Repeat("x", 300<<10) + `"}`)
		w.PublishRaw(event.OrderAudited.Name, notJSON)
		w.PublishRaw(event.OrderAudited.Name, large)
		w.Publish(negative, masked, stranger)
		noZone := w.Maker.Next()
		w.PublishRaw(event.OrderAudited.Name, []byte(`{"seller":"demo","outboundNo":"`+noZone.OutboundNo+`","auditedAt":"2026-11-30 10:00:00"}`))

		w.Until("six messages are dead-lettered", func() bool {
			return len(w.DeadLetters(event.Dead)) == 4 && len(w.DeadLetters(event.Held)) == 2
		})
		reasons := map[string]string{}
		for _, m := range append(w.DeadLetters(event.Dead), w.DeadLetters(event.Held)...) {
			item, err := w.Bus.DeadLetter(t.Context(), m.Seq)
			if err != nil {
				t.Fatal(err)
			}
			if len(item.Body) == len(large) {
				reasons["large"] = m.Reason.Code
			}
			if string(item.Body) == string(notJSON) {
				reasons["notJSON"] = m.Reason.Code
			}
			if m.Reason.ZH == "" || m.Reason.EN == "" {
				t.Errorf("no words in both languages: %+v", m.Reason)
			}
			reasons[m.Key] = m.Reason.Field
		}
		if reasons["notJSON"] == "" || reasons["large"] == "" {
			t.Errorf("the bodies are not kept whole: %v", reasons)
		}
		if seen := w.Published(stack.DemoSeller).Orders[negative.OutboundNo]; seen == nil || !slices.Contains(seen.Failed, "invalid") {
			t.Errorf("negative quantity: published %+v", seen)
		}
		if seen := w.Published(stack.DemoSeller).Orders[noZone.OutboundNo]; seen == nil || !slices.Contains(seen.Failed, "malformed") || reasons[noZone.OutboundNo] != "auditedAt" {
			t.Errorf("a time without its zone: published %+v, field %q", seen, reasons[noZone.OutboundNo])
		}
		for _, m := range w.DeadLetters(event.Dead) {
			if strings.Contains(m.Error, "quantity") && m.Reason.Field != "lines[0].quantity" {
				t.Errorf("field %q of %s", m.Reason.Field, m.Error)
			}
		}

		// Corrected, each is accepted.
		negative.Lines[0].Quantity = 2
		masked.Receiver.Name = "张三"
		w.Publish(negative, masked)
		w.Accepted(negative)
		w.Accepted(masked)
		setup := w.Setup()
		setup.Name, setup.Accounts[0].VendorSource = stranger.Seller, "ISV0000000000002"
		w.Apply(setup)
		w.Accepted(stranger)
	})
}

func TestARefusedOrderGoesThroughUnderANewNumberOrByReplay(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		id, err := w.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.Error, Methods: []string{addOrder}, Goods: []string{"EMG-GONE"}, Chance: 1, ZH: "商品不存在"})
		if err != nil {
			t.Fatal(err)
		}
		o, stays := w.Maker.Next(), w.Maker.Next()
		o.Lines[0].WarehouseGoodsNo, stays.Lines[0].WarehouseGoodsNo = "EMG-GONE", "EMG-GONE"
		w.Publish(o, stays)
		seen := w.UntilPublished("refused", o, failed)
		w.UntilPublished("refused", stays, failed)
		if seen.Failed[0] != "warehouse.refused" {
			t.Errorf("published %+v", seen)
		}
		w.Until("both are dead-lettered", func() bool { return len(w.DeadLetters(event.Dead)) == 2 })

		second := proto.CloneOf(o)
		second.Revision, second.OutboundNo, second.Supersedes = 2, o.OutboundNo+"-b", o.OutboundNo
		second.Lines[0].WarehouseGoodsNo = "EMG4418000000001"
		w.Publish(second)
		w.Accepted(second)

		w.JD.RemoveFault(id)
		for _, m := range w.DeadLetters(event.Dead) {
			if err := w.Bus.Replay(t.Context(), m.Seq, bus.By{Who: "story", Why: "the goods are known now"}); err != nil {
				t.Fatal(err)
			}
		}
		w.Accepted(stays)
		seen = w.UntilPublished("the replay of what was audited again is refused", o, func(t *orderview.Order) bool { return slices.Contains(t.Failed, "line.live") })
		if len(w.Documents(o)) != 0 {
			t.Errorf("sent twice: %+v", seen)
		}
	})
}

func TestTwoAuditsOfOneLineAreNeverBothLive(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		var pairs [][2]*orderv1.Audited
		for range 20 {
			a := w.Maker.Next()
			b := proto.CloneOf(a)
			b.Revision, b.OutboundNo = 2, a.OutboundNo+"-b"
			pairs = append(pairs, [2]*orderv1.Audited{a, b})
			w.Publish(a, b)
		}
		for _, p := range pairs {
			w.Until(p[0].OrderNo+": one goes, one is refused", func() bool {
				seen := w.Published(stack.DemoSeller)
				a, b := seen.Orders[p[0].OutboundNo], seen.Orders[p[1].OutboundNo]
				return a != nil && b != nil && (accepted(a) && failed(b) || accepted(b) && failed(a))
			})
			if n := len(w.Documents(p[0])) + len(w.Documents(p[1])); n != 1 {
				t.Errorf("%s: %d documents", p[0].OrderNo, n)
			}
		}
	})
}

func TestASupersedingAuditWaitsUntilTheEarlierIsCancelled(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		a := w.Maker.Next()
		err := w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.OwnCancel.Orders = []string{a.OutboundNo} })
		if err != nil {
			t.Fatal(err)
		}
		w.Publish(a)
		w.Accepted(a)
		b := proto.CloneOf(a)
		b.Revision, b.OutboundNo, b.Supersedes = 2, a.OutboundNo+"-b", a.OutboundNo
		w.Publish(b)
		seen := w.UntilPublished("held until the earlier one is cancelled", b, held)
		if len(seen.Held) != 1 || len(w.Documents(b)) != 0 {
			t.Errorf("published %+v", seen)
		}
		// JD cancels the first on its own, once its clock is there.
		if err := w.JD.Advance(2 * time.Hour); err != nil {
			t.Fatal(err)
		}
		w.UntilPublished("published as cancelled", a, func(t *orderview.Order) bool { return t.Cancelled == 1 })
		w.Accepted(b)
	})
}

func TestALostAnswerIsAskedForNotRepeated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault jdsandbox.Fault
	}{
		{"the work is done, the answer cut", jdsandbox.Fault{Kind: jdsandbox.LoseAnswer}},
		{"half of the answer", jdsandbox.Fault{Kind: jdsandbox.Truncated}},
		{"a page in place of the answer", jdsandbox.Fault{Kind: jdsandbox.HTML, Work: jdsandbox.WorkDone}},
		{"an empty answer", jdsandbox.Fault{Kind: jdsandbox.Empty, Work: jdsandbox.WorkDone}},
		{"code 65, done all the same", jdsandbox.Fault{Kind: jdsandbox.Error, Code: "65", Work: jdsandbox.WorkDone}},
		{"HTTP 502, done all the same", jdsandbox.Fault{Kind: jdsandbox.HTTP, Status: 502, Work: jdsandbox.WorkDone}},
		{"a refusal in words, done all the same", jdsandbox.Fault{Kind: jdsandbox.Error, ZH: "处理失败", Work: jdsandbox.WorkDone}},
		{"dropped before any work", jdsandbox.Fault{Kind: jdsandbox.Drop}},
		{"code 67, not done", jdsandbox.Fault{Kind: jdsandbox.Error, Code: "67"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.fault.Methods, c.fault.Count = []string{addOrder}, 1
			w := testenv.Start(t, testenv.Options{Ledger: "redis", Knobs: jdsandbox.Knobs{Faults: []jdsandbox.Fault{c.fault}}})
			o := w.Maker.Next()
			w.Publish(o)
			w.Accepted(o)
			w.NoViolations()
		})
	}
}

func TestWhileJDIsDownOrdersWaitAndThenGo(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		id, err := w.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.HTTP, Status: 503, Chance: 1})
		if err != nil {
			t.Fatal(err)
		}
		list := w.Maker.Make(40)
		w.Publish(list...)
		w.Until("the breaker pauses the seller", func() bool {
			s, ok := w.Sellers.Get(stack.DemoSeller)
			return ok && s.Pause != nil && s.Pause.By == sellerv1.Paused_BY_BREAKER
		})
		late := w.Maker.Next()
		w.Publish(late)
		w.UntilPublished("what comes meanwhile is held", late, held)
		w.JD.RemoveFault(id)
		for _, o := range append(list, late) {
			w.Accepted(o)
		}
	})
}

func TestTheQuotaIsKept(t *testing.T) {
	knobs := jdsandbox.Knobs{Quota: jdsandbox.Quota{PerSecond: 25, Concurrent: 4}, Latency: jdsandbox.Range{Min: jdsandbox.Duration(20 * time.Millisecond)}}
	setup := func(s *sellerv1.Setup) { s.Accounts[0].Quota = &sellerv1.Quota{PerSecond: 20, Concurrent: 4} }
	each(t, testenv.Options{Knobs: knobs, Setup: setup}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(60)
		w.Publish(list...)
		for _, o := range list {
			w.Accepted(o)
		}
		if n := w.JD.Counters().Codes["2"]; n != 0 {
			t.Errorf("JD refused %d calls for the quota", n)
		}
	})
}

func TestAnExpiredTokenPausesTheSellerUntilItIsRenewed(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		first := w.Maker.Next()
		w.Publish(first)
		w.Accepted(first)
		w.JD.ExpireToken(jdsandbox.DefaultToken, time.Time{})
		list := w.Maker.Make(5)
		w.Publish(list...)
		w.Until("the token pauses the seller", func() bool {
			s, ok := w.Sellers.Get(stack.DemoSeller)
			return ok && s.Pause != nil && s.Pause.By == sellerv1.Paused_BY_TOKEN
		})
		for _, o := range list {
			w.UntilPublished("held", o, held)
		}
		if err := w.JD.SetToken(jdsandbox.DefaultAppKey, jdsandbox.Token{Value: jdsandbox.DefaultToken}); err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			w.Accepted(o)
		}
	})
}

func TestAPausedSellerAndAFloodDelayNobodyElse(t *testing.T) {
	t.Parallel()
	second := func(c *jdsandbox.Config) {
		c.Apps = []jdsandbox.App{
			{Key: jdsandbox.DefaultAppKey, Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{{Value: jdsandbox.DefaultToken}}},
			{Key: "slow-app", Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{{Value: "slow-token"}}},
		}
	}
	each(t, testenv.Options{Sandbox: second}, func(t *testing.T, w *testenv.World) {
		// One seller may make two calls a second and is flooded, one is paused, one is healthy.
		slow := w.Setup()
		slow.Name = "slow"
		slow.Accounts[0].AppKey = "slow-app"
		slow.Accounts[0].Quota = &sellerv1.Quota{PerSecond: 2, Concurrent: 1}
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte("slow-token"), 0o600); err != nil {
			t.Fatal(err)
		}
		slow.Accounts[0].AccessToken = &sellerv1.SecretRef{File: token}
		w.Apply(slow)
		stopped := w.Setup()
		stopped.Name, stopped.Accounts[0].VendorSource = "stopped", "ISV0000000000002"
		w.Apply(stopped)
		w.Until("the sellers are known", func() bool { return len(w.Sellers.All()) == 3 })
		if err := pause(t, w, "stopped"); err != nil {
			t.Fatal(err)
		}
		flood := orders.New("slow", 2).Make(300)
		waiting := orders.New("stopped", 3).Make(300)
		for i := range flood {
			w.Publish(flood[i], waiting[i])
		}
		healthy := w.Maker.Make(20)
		w.Publish(healthy...)
		for _, o := range healthy {
			w.Accepted(o)
		}
		// When the healthy seller is done, the flooded one must still be busy: it could not finish before.
		done := w.Published("slow").Count(accepted)
		if done == len(flood) {
			t.Errorf("the flood was done first: %d", done)
		}
		for _, o := range waiting {
			if len(w.Documents(o)) != 0 {
				t.Fatalf("%s of the paused seller was sent", o.OutboundNo)
			}
		}
	})
}

func TestAMappingReleasesWhatItHeld(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		shop, carrier, category := w.Maker.Next(), w.Maker.Next(), w.Maker.Next()
		shop.Shop = "S77"
		carrier.Carrier = "SF"
		category.Lines[0].WarehouseGoodsNo, category.Lines[0].Category = "", "cups"
		asked := w.Maker.Next()
		asked.Hold = &orderv1.Hold{Reason: "the buyer is away"}
		w.Publish(shop, carrier, category, asked)
		for _, o := range []*orderv1.Audited{shop, carrier, category, asked} {
			w.UntilPublished("held", o, held)
		}
		setup := stack.WithShop(w.Setup(), "S77")
		setup.Carriers = append(setup.Carriers, &sellerv1.Mapping{Code: "SF", Number: "CYS0000010"})
		setup.Categories = append(setup.Categories, &sellerv1.Mapping{Code: "cups", Number: "7373"})
		w.Apply(setup)
		w.Accepted(shop)
		w.Accepted(carrier)
		w.Accepted(category)
		if len(w.Documents(asked)) != 0 {
			t.Fatal("an order on hold was sent")
		}
		for _, m := range w.DeadLetters(event.Held) {
			if err := w.Bus.Replay(t.Context(), m.Seq, bus.By{Who: "story", Why: "the buyer is back", Release: true}); err != nil {
				t.Fatal(err)
			}
		}
		w.Accepted(asked)
	})
}

func TestATrialLetsOnlySomeOrdersGo(t *testing.T) {
	t.Parallel()
	setup := func(s *sellerv1.Setup) { s.Trial = &sellerv1.Trial{First: 3, Orders: []string{"SO0001-000009"}} }
	each(t, testenv.Options{Setup: setup}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(10)
		w.Publish(list...)
		w.Until("four go and six wait", func() bool {
			seen := w.Published(stack.DemoSeller)
			return seen.Count(accepted) == 4 && seen.Count(held) == 6
		})
		w.Accepted(list[8])
		over := w.Setup()
		w.Apply(over)
		for _, o := range list {
			w.Accepted(o)
		}
	})
}

func TestTenThousandOrdersAndRandomTrouble(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	knobs := jdsandbox.Knobs{
		HistoryShuffled: true, ScalarsAsArrays: true, Split: jdsandbox.Split{Lot: jdsandbox.Lot{Chance: 0.01}},
		Faults: []jdsandbox.Fault{ // the first that applies decides
			{Kind: jdsandbox.Error, ZH: "商品不存在", Goods: []string{"EMG-BAD"}, Methods: []string{addOrder}, Chance: 1},
			{Kind: jdsandbox.LoseAnswer, Methods: []string{addOrder}, Chance: 0.02},
			{Kind: jdsandbox.Drop, Methods: []string{addOrder}, Chance: 0.005},
			{Kind: jdsandbox.Error, Code: "65", Work: jdsandbox.WorkDone, Methods: []string{addOrder}, Chance: 0.01},
			{Kind: jdsandbox.Error, Code: "43", Methods: []string{addOrder}, Chance: 0.005},
			{Kind: jdsandbox.HTML, Work: jdsandbox.WorkDone, Methods: []string{addOrder}, Chance: 0.005},
			{Kind: jdsandbox.Truncated, Methods: []string{addOrder}, Chance: 0.005},
			{Kind: jdsandbox.HTTP, Status: 502, Chance: 0.002},
		},
	}
	w := testenv.Start(t, testenv.Options{
		Ledger: "redis", Knobs: knobs,
		Setup:  func(s *sellerv1.Setup) { s.Accounts[0].Quota = &sellerv1.Quota{PerSecond: 5000, Concurrent: 64} },
		Pusher: func(c *pusher.Config) { c.Slots, c.BreakerAfter = 64, 50 },
	})
	list := w.Maker.Make(n)
	bad := map[string]bool{}
	for i, o := range list {
		if i%200 == 0 {
			o.Lines[0].WarehouseGoodsNo = "EMG-BAD"
			bad[o.OutboundNo] = true
		}
		w.Publish(o)
		if i%50 == 1 {
			w.Publish(o)
		}
	}
	w.Until("each has its outcome", func() bool {
		seen := w.Published(stack.DemoSeller)
		return seen.Count(func(o *orderview.Order) bool { return accepted(o) || failed(o) }) == n
	})
	seen := w.Published(stack.DemoSeller)
	for _, o := range list {
		order, docs := seen.Orders[o.OutboundNo], w.Documents(o)
		want := 1
		if bad[o.OutboundNo] {
			want = 0
		}
		if len(docs) != want || len(order.Accepted) != want || len(order.Failed) != 1-want {
			t.Errorf("%s: JD has %d documents, published accepted %v, failed %v", o.OutboundNo, len(docs), order.Accepted, order.Failed)
		}
	}
	w.NoViolations()
	lost := w.JD.Counters().LostAnswers
	if lost == 0 {
		t.Error("no answer was lost: the story proves nothing")
	}
	t.Logf("%d orders, %d answers lost, %d documents", n, lost, len(w.JD.Documents()))
}
