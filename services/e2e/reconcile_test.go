package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	class "stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
)

// reconciled asks for a run and waits until a cycle that began after that is complete.
func reconciled(t *testing.T, w *testenv.World) reconciler.Report {
	t.Helper()
	asked := time.Now()
	if err := w.Bus.Tick(t.Context(), event.TickReconcile, stack.DemoSeller); err != nil {
		t.Fatal(err)
	}
	var s reconciler.Report
	w.Until("a cycle is complete", func() bool {
		s = standing(t, w)
		return s.CycleAt.After(asked)
	})
	return s
}

func standing(t *testing.T, w *testenv.World) reconciler.Report {
	t.Helper()
	s, err := reconciler.ReadReport(t.Context(), w.Ledger, stack.DemoSeller)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, w *testenv.World) map[string]reconciler.Order {
	t.Helper()
	list, err := reconciler.ReadOpen(t.Context(), w.Ledger, stack.DemoSeller)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]reconciler.Order{}
	for _, o := range list {
		of[o.OutboundNo] = o
	}
	return of
}

// old waits until the orders are old enough to be checked.
func old(t *testing.T, w *testenv.World, list ...*orderv1.Audited) {
	t.Helper()
	w.Until("the orders are old enough", func() bool {
		n := 0
		err := w.Bus.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAudited.Name}}, func(s bus.Stored) error {
			if time.Since(s.At) > 1100*time.Millisecond {
				n++
			}
			return nil
		})
		return err == nil && n >= len(list)
	})
}

// known reports whether the ledger knows the order under JD's number.
func known(t *testing.T, w *testenv.World, o *orderv1.Audited) bool {
	t.Helper()
	e, err := w.Ledger.Get(t.Context(), ledger.Key{Seller: o.Seller, Kind: "order", No: o.OutboundNo})
	if errors.Is(err, ledger.ErrNoEntry) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	docs := w.Documents(o)
	return e.State == ledger.Accepted && len(docs) == 1 && docs[0].EclpSoNo == e.Number
}

// swallow removes the pusher's messages unhandled: as after a consumer was advanced by hand, or by a worker with a bug.
func swallow(t *testing.T, w *testenv.World, list ...*orderv1.Audited) {
	t.Helper()
	if err := w.StopWorkers(); err != nil {
		t.Fatal(err)
	}
	w.Publish(list...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	took := make(chan string, len(list))
	go func() {
		s := w.Shell("swallows").Serving(pusher.Name)
		done <- bus.Serve(ctx, w.Bus, event.OrderAudited, s, func(_ context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			took <- m.OutboundNo
			return nil, nil
		}, nil)
	}()
	for range list {
		<-took
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	old(t, w, list...)
	if err := w.StartWorkers(); err != nil {
		t.Fatal(err)
	}
}

func TestAWipedLedgerIsKnownAgainAfterOneCycle(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(50)
		w.Publish(list...)
		numbers := map[string]string{}
		for _, o := range list {
			numbers[o.OutboundNo] = w.Accepted(o)
		}
		old(t, w, list...)
		if s := reconciled(t, w); s.Settled < 50 || len(s.Open) != 0 {
			t.Errorf("before: %+v", s)
		}
		w.WipeLedger()
		for _, o := range list {
			if known(t, w, o) {
				t.Fatalf("%s is known although the ledger was wiped", o.OutboundNo)
			}
		}
		s := reconciled(t, w)
		w.Until("all are known again", func() bool {
			for _, o := range list {
				if !known(t, w, o) {
					return false
				}
			}
			return true
		})
		if s.Unexplained() != 0 {
			t.Errorf("after: %+v", s)
		}
		for _, o := range list {
			seen := w.Published(o.Seller).Orders[o.OutboundNo]
			if len(seen.Accepted) != 1 || seen.Accepted[0] != numbers[o.OutboundNo] || len(seen.Failed)+len(seen.Held) != 0 {
				t.Errorf("%s: published %+v", o.OutboundNo, seen)
			}
		}
		w.Until("it says what it repaired", func() bool { s = reconciled(t, w); return len(s.Open) == 0 })
		if s.Repaired != 50 {
			t.Errorf("repaired %d", s.Repaired)
		}
	})
}

func TestAnAuditWhoseMessageWasLostIsHandedOverAgain(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(5)
		swallow(t, w, list...)
		reconciled(t, w)
		for _, o := range list {
			w.Accepted(o)
		}
		w.Until("nothing is open", func() bool { return len(reconciled(t, w).Open) == 0 })
	})
}

func TestWhatWaitsIsExplainedAndLeftAlone(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		refused, masked, fine := w.Maker.Next(), w.Maker.Next(), w.Maker.Next()
		if _, err := w.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.Error, Methods: []string{addOrder}, Orders: []string{refused.OutboundNo}, Count: 1, ZH: "商品不存在"}); err != nil {
			t.Fatal(err)
		}
		masked.Receiver.Name = "张*"
		w.Publish(refused, masked, fine)
		w.Accepted(fine)
		w.UntilPublished("refused", refused, failed)
		w.UntilPublished("held", masked, held)
		w.Until("both are dead-lettered", func() bool { return len(w.DeadLetters(event.Dead)) == 1 && len(w.DeadLetters(event.Held)) == 1 })
		old(t, w, refused, masked, fine)
		s := reconciled(t, w)
		of := open(t, w)
		if len(of) != 1 || of[masked.OutboundNo].Reason != reconciler.Held || of[masked.OutboundNo].Detail != "receiver:demo/"+masked.OutboundNo || s.Unexplained() != 0 {
			t.Errorf("%+v: %+v", s, of)
		}

		// A person drops it: that is not undone, but it is reported until its audit is published again.
		for _, m := range w.DeadLetters(event.Held) {
			if err := w.Bus.Drop(t.Context(), m.Seq, bus.By{Who: "story", Why: "nobody wants it"}); err != nil {
				t.Fatal(err)
			}
		}
		w.Until("it is named", func() bool { s = reconciled(t, w); return s.Unexplained() == 1 })
		if of = open(t, w); of[masked.OutboundNo].Reason != reconciler.Left || s.Oldest.IsZero() || len(w.Documents(masked)) != 0 {
			t.Errorf("%+v: %+v", s, of)
		}
		masked.Receiver.Name = "张三"
		w.Publish(masked)
		w.Accepted(masked)
		w.Until("it is settled", func() bool { s = reconciled(t, w); return len(s.Open) == 0 })
		if !s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// An accepted order that neither the ledger nor JD knows is never sent automatically: the set-up may name another
// account by now.
func TestWhatWasAcceptedIsNotSentElsewhere(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		o := w.Maker.Next()
		w.Publish(o)
		w.Accepted(o)
		old(t, w, o)
		setup := w.Setup()
		setup.Accounts[0].Department = "EBU4418000000002"
		w.Apply(setup)
		w.WipeLedger()
		var s reconciler.Report
		w.Until("it is named", func() bool { s = reconciled(t, w); return s.Unexplained() == 1 })
		if got := open(t, w)[o.OutboundNo]; got.Reason != reconciler.Absent || got.Tries != 0 {
			t.Errorf("%+v", got)
		}
		if docs := w.Documents(o); len(docs) != 1 {
			t.Errorf("JD has %d documents", len(docs))
		}
	})
}

// While JD is down, or the seller is paused, nothing is concluded; the next run continues.
func TestReconcilingContinuesWhenJDIsBack(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(3)
		w.Publish(list...)
		for _, o := range list {
			w.Accepted(o)
		}
		old(t, w, list...)
		id, err := w.JD.AddFault(jdsandbox.Fault{Kind: jdsandbox.Drop, Methods: []string{"eclp.order.ext.queryOrder"}, Chance: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.WipeLedger()
		w.Until("they are named", func() bool { return reconciled(t, w).Unexplained() == 3 })
		for _, o := range open(t, w) {
			if o.Reason != reconciler.Unasked || o.Tries != 0 {
				t.Errorf("%+v", o)
			}
		}
		w.JD.RemoveFault(id)
		w.Until("they are known again", func() bool {
			s := reconciled(t, w)
			return len(s.Open) == 0 && s.Repaired == 3
		})
	})
}

// For a paused seller nothing is looked up and nothing handed over; what its pause holds is explained.
func TestAPausedSellerIsLeftAlone(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		before, during := w.Maker.Next(), w.Maker.Next()
		w.Publish(before)
		w.Accepted(before)
		if err := w.Sellers.Pause(t.Context(), stack.DemoSeller, seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "stock-take", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		w.Publish(during)
		w.Until("it is held", func() bool { return len(w.DeadLetters(event.Held)) == 1 })
		old(t, w, before, during)
		w.WipeLedger()
		asked := w.JD.Counters().Calls["eclp.order.ext.queryOrder"]
		s := reconciled(t, w)
		of := open(t, w)
		if s.Unexplained() != 0 || of[before.OutboundNo].Reason != reconciler.Paused || of[during.OutboundNo].Reason != reconciler.Held {
			t.Errorf("%+v: %+v", s, of)
		}
		if now := w.JD.Counters().Calls["eclp.order.ext.queryOrder"]; now != asked {
			t.Errorf("JD was asked %d times", now-asked)
		}
		if err := w.Sellers.Resume(t.Context(), stack.DemoSeller, sellerv1.Paused_BY_OPERATOR); err != nil {
			t.Fatal(err)
		}
		w.Until("both are known", func() bool { return len(reconciled(t, w).Open) == 0 && known(t, w, before) && known(t, w, during) })
	})
}

// Many audits are walked in pieces, and two concurrent replicas do each other no harm.
func TestManyAuditsAreWalkedInPieces(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Ledger: "redis", Knobs: jdsandbox.Knobs{}})
	if err := w.StopWorkers(); err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	var list []*orderv1.Audited
	for range n {
		o := w.Maker.Next()
		list = append(list, o)
		accept := ledger.ClaimRequest{
			Key: ledger.Key{Seller: o.Seller, Kind: "order", No: o.OutboundNo}, Hash: order.PayloadHash(o), Group: o.OrderNo,
			Owner: o.OutboundNo, Items: []string{"1"}, Revision: 1, Shop: o.Shop, Warehouse: o.Warehouse,
		}
		if err := w.Ledger.Accept(t.Context(), accept, "ESL"+o.OutboundNo, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	w.Publish(list...)
	old(t, w, list...)
	parts := reconciler.Parts{
		Sellers: w.Sellers, Ledger: w.Ledger, Bus: w.Bus, Open: w.Warehouses.Read, Metrics: reconciler.NewMetrics(prometheus.NewRegistry()),
		Config: reconciler.Config{Deadline: time.Second, UnknownFor: time.Minute, ConfirmAfter: time.Second},
	}
	runs := 0
	for ; ; runs++ {
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := reconciler.New(parts).ReconcileDue(t.Context(), nil, dueOf(stack.DemoSeller))
				errs <- err
			}()
		}
		for range 2 {
			if err := <-errs; err != nil && !errors.Is(err, context.Canceled) && !isWait(err) {
				t.Fatal(err)
			}
		}
		if s := standing(t, w); !s.CycleAt.IsZero() {
			if s.Settled != n || len(s.Open) != 0 {
				t.Errorf("%+v", s)
			}
			break
		}
		if runs > 10 {
			t.Fatal(fmt.Errorf("not done after %d runs", runs))
		}
	}
	if runs == 0 {
		t.Error("all in one run")
	}
}

func dueOf(name string) *sellerv1.PollDue { return &sellerv1.PollDue{Seller: name} }

func isWait(err error) bool { return class.Of(err) == class.Wait }

func TestARestoredLedgerIsWalkedAgain(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{Ledger: "redis"})
	early := w.Maker.Make(3)
	w.Publish(early...)
	for _, o := range early {
		w.Accepted(o)
	}
	old(t, w, early...)
	reconciled(t, w)
	restore := w.LedgerAsItIs()
	late := w.Maker.Make(5)
	w.Publish(late...)
	for _, o := range late {
		w.Accepted(o)
	}
	old(t, w, append(early, late...)...)
	reconciled(t, w)
	if err := w.StopWorkers(); err != nil {
		t.Fatal(err)
	}
	restore()
	for _, o := range late {
		if known(t, w, o) {
			t.Fatalf("%s is known although the ledger was restored", o.OutboundNo)
		}
	}
	if err := w.StartWorkers(); err != nil {
		t.Fatal(err)
	}
	w.Until("all are known again", func() bool {
		s := reconciled(t, w)
		for _, o := range append(early, late...) {
			if !known(t, w, o) {
				return false
			}
		}
		return s.Unexplained() == 0 && len(s.Open) == 0
	})
	w.NoViolations()
}

// A document that nobody audited is named once. The audit that was lost with the stream is adopted when it is published
// again, and a document that JD created itself is only counted.
func TestADocumentThatNobodyAuditedIsNamed(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Reconcile: func(c *reconciler.Config) { c.ListEvery, c.ListBack = time.Second, time.Hour }}, func(t *testing.T, w *testenv.World) {
		s, _ := w.Sellers.Get(stack.DemoSeller)
		wh, err := w.Warehouses.Read(s, s.Setup.Warehouses[0].Code, quota.Status)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs, split := w.Maker.Next(), w.Maker.Next(), w.Maker.Next()
		split.Lines[0].Quantity = 5
		if err := w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Split.Orders = []string{split.OutboundNo} }); err != nil {
			t.Fatal(err)
		}
		w.Publish(ours, split)
		w.Accepted(ours)
		w.Accepted(split)
		no, err := w.JD.Take(wh.Plan(theirs).Body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.JD.Move(jdsandbox.StockAct{
			Kind: jdsandbox.Sale, DeptNo: s.Setup.Accounts[0].Department, WarehouseNo: s.Setup.Warehouses[0].WarehouseNo, ShopNo: s.Setup.Shops[0].ShopNo,
			GoodsNo: "EMG4418000000001", Num: 1,
		}); err != nil {
			t.Fatal(err)
		}
		old(t, w, ours, split)
		var stands reconciler.Report
		w.Until("it is named", func() bool { stands = reconciled(t, w); return stands.Findings > 0 && stands.Own > 0 })
		strangers := func() []reconciler.Finding {
			t.Helper()
			list, err := reconciler.ReadFindings(t.Context(), w.Ledger, stack.DemoSeller)
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		if got := strangers(); len(got) != 1 || got[0].WarehouseNo != no || got[0].OutboundNo != theirs.OutboundNo || got[0].Kind != reconciler.UnknownDocument || stands.Own != 1 {
			t.Errorf("%+v: %+v", stands, got)
		}
		if stands.Unexplained() != 0 || len(open(t, w)) != 0 {
			t.Errorf("%+v", stands)
		}
		w.Publish(theirs)
		w.Accepted(theirs)
		w.Until("it is known", func() bool { reconciled(t, w); return len(strangers()) == 0 })
	})
}

func TestASecondDocumentUnderANumberIsNamed(t *testing.T) {
	t.Parallel()
	w := testenv.Start(t, testenv.Options{
		Ledger:    "redis",
		Reconcile: func(c *reconciler.Config) { c.ListEvery, c.ListBack = time.Second, time.Hour },
	})
	s, _ := w.Sellers.Get(stack.DemoSeller)
	wh, err := w.Warehouses.Read(s, s.Setup.Warehouses[0].Code, quota.Status)
	if err != nil {
		t.Fatal(err)
	}
	o := w.Maker.Next()
	w.Publish(o)
	w.Accepted(o)
	no, err := w.JD.Take(wh.Plan(o).Body)
	if err != nil {
		t.Fatal(err)
	}
	old(t, w, o)
	var list []reconciler.Finding
	w.Until("it is named", func() bool {
		reconciled(t, w)
		list, err = reconciler.ReadFindings(t.Context(), w.Ledger, stack.DemoSeller)
		return err != nil || len(list) > 0
	})
	if err != nil || len(list) != 1 || list[0].Kind != reconciler.DuplicateDocument || list[0].OutboundNo != o.OutboundNo || list[0].WarehouseNo != no {
		t.Errorf("%+v, %v; want %s", list, err, no)
	}
}
