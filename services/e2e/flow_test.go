package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/stock"
	sellerv1 "stockbridge/proto/seller/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
	"stockbridge/services/bridgectl/ctl"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/vmi-ingester/ingester"
)

// flow is the demo seller's shop as its flow was published, and what the sandbox knows of it.
type flow struct {
	*testenv.World
	t     *testing.T
	place stock.Place
	dept  string
	house string
}

// followed is a set-up whose one shop is booked from its flow.
func followed(s *sellerv1.Setup) {
	s.Shops[0].Booking = sellerv1.Shop_BOOKING_FLOW
	s.Stock = &sellerv1.Stock{
		Every: durationpb.New(time.Second), Lag: durationpb.New(0), Overlap: durationpb.New(5 * time.Second), SecondLook: durationpb.New(4 * time.Second),
		Since: time.Now().Add(-20 * time.Minute).Format(time.RFC3339),
	}
}

func newFlow(t *testing.T, w *testenv.World) *flow {
	s := w.Setup()
	return &flow{
		World: w, t: t, dept: s.Accounts[0].Department, house: s.Warehouses[0].WarehouseNo,
		place: stock.Place{Seller: stack.DemoSeller, Warehouse: s.Warehouses[0].Code, ShopNo: s.Shops[0].ShopNo},
	}
}

// fill makes rows of the last ten minutes.
func (f *flow) fill(rows, goods int) {
	f.t.Helper()
	var nos []string
	for i := range goods {
		nos = append(nos, fmt.Sprintf("EMG%d", i+1))
	}
	now := time.Now()
	f.must(f.JD.FillFlow(jdsandbox.Fill{
		DeptNo: f.dept, WarehouseNo: f.house, ShopNo: f.place.ShopNo, GoodsNos: nos, Rows: rows, From: now.Add(-10 * time.Minute), To: now.Add(-5 * time.Second),
	}))
}

func (f *flow) move(kind jdsandbox.ActKind, goods string, num int64) {
	f.t.Helper()
	_, err := f.JD.Move(jdsandbox.StockAct{Kind: kind, DeptNo: f.dept, WarehouseNo: f.house, ShopNo: f.place.ShopNo, GoodsNo: goods, Num: num})
	f.must(err)
}

func (f *flow) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// failed are the spans that were published as failed.
func (f *flow) failed() (list []*vmiv1.WindowFailed) {
	f.t.Helper()
	f.must(f.Bus.Events(f.t.Context(), bus.EventQuery{Names: []string{event.VMIWindowFailed.Name}}, func(e bus.Stored) error {
		m, err := bus.Decode(event.VMIWindowFailed, e)
		list = append(list, m)
		return err
	}))
	return list
}

// complete is nil when the book equals the sandbox's stock and each movement to book was published once.
func (f *flow) complete() error {
	f.t.Helper()
	rows, _ := f.JD.Movements(jdsandbox.StockQuery{ShopNo: f.place.ShopNo})
	return flowIs(f.t, f.Bus, f.Ledger, f.place, f.JD.Stock(jdsandbox.StockQuery{ShopNo: f.place.ShopNo}).Shops, rows)
}

// flowIs is nil when the book of a place equals the stock of its shop at the sandbox, and each of the movements to book
// was published under one id, however often.
func flowIs(t *testing.T, b *bus.Bus, l ledger.Books, place stock.Place, shops []jdsandbox.ShopStock, rows []jdsandbox.Movement) error {
	t.Helper()
	seen := map[string][]string{}
	err := b.Events(t.Context(), bus.EventQuery{Names: []string{event.StockAdjusted.Name}}, func(e bus.Stored) error {
		m, err := bus.Decode(event.StockAdjusted, e)
		if no := m.GetMovement().GetFlowNo(); !slices.Contains(seen[no], e.ID) {
			seen[no] = append(seen[no], e.ID)
		}
		return err
	})
	if err != nil {
		return err
	}
	books := &stock.Store{Books: l}
	figures, from := map[string]stock.Figure{}, ""
	for {
		some, next, err := books.Figures(t.Context(), place, from)
		if err != nil {
			return err
		}
		for _, x := range some {
			figures[x.GoodsNo] = x
		}
		if from = next; next == "" {
			break
		}
	}
	var errs []error
	for _, s := range shops {
		if x := figures[s.GoodsNo]; x.Num != s.Num || x.Proof != stock.Proved {
			errs = append(errs, fmt.Errorf("%s: the book says %d (%s), the warehouse %d; %v", s.GoodsNo, x.Num, x.Proof, s.Num, x.Gaps))
		}
	}
	for _, r := range rows {
		if ids := seen[r.FlowID]; booked(r) && len(ids) != 1 || !booked(r) && len(ids) != 0 {
			errs = append(errs, fmt.Errorf("movement %s (%s, %d to %d) published as %v", r.FlowID, r.Reason, r.Former, r.Now, ids))
		}
	}
	return errors.Join(errs...)
}

func (f *flow) untilComplete() {
	f.t.Helper()
	var last error
	defer func() {
		if f.t.Failed() {
			f.t.Logf("%.2000v", last)
		}
	}()
	f.Until("the book is the warehouse's stock", func() bool { last = f.complete(); return last == nil })
}

// Rows may come twice, mixed up, late, or not at the first reading: each movement is published once.
func TestMovementsArePublishedOnceForAnyFlow(t *testing.T) {
	t.Parallel()
	weather := jdsandbox.Knobs{Flow: jdsandbox.Flow{
		Order: "shuffled", Duplicate: 0.2, Drop: jdsandbox.Missing{Chance: 0.2, Readings: 1},
		Late:  jdsandbox.Late{Chance: 0.1, By: jdsandbox.Range{Max: jdsandbox.Duration(3 * time.Second)}},
		Shift: jdsandbox.Shift{Repeat: 0.2, Rows: 3}, End: jdsandbox.End{Wrong: 0.2},
	}, Faults: []jdsandbox.Fault{
		{Kind: jdsandbox.Error, Methods: []string{flowMethod}, Chance: 0.1, Code: "65"}, {Kind: jdsandbox.Truncated, Methods: []string{flowMethod}, Chance: 0.1},
	}}
	each(t, testenv.Options{Setup: followed, Knobs: weather, Ingest: func(c *ingester.Config) { c.Attempts, c.BreakerAfter = 50, 1000 }}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		f.fill(400, 6)
		f.untilComplete()
		f.move(jdsandbox.Receipt, "EMG1", 7)
		f.move(jdsandbox.SetStock, "EMG2", 5)
		f.move(jdsandbox.Loss, "EMG1", 2)
		f.untilComplete()
	})
}

const flowMethod = "eclp.stock.queryVmiShopStockFlow"

// booked reports whether the ERP books a movement.
func booked(r jdsandbox.Movement) bool {
	return r.Former != r.Now && r.Former >= 0 && r.Now >= 0 && r.Reason != "设置VMI库存" && r.Reason != "商品库存比例调整"
}

// A span that cannot be read is published, dead-lettered, and blocks no other; read again it is applied once.
func TestASpanThatFailsIsReadAgainLater(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Setup: followed, Ingest: func(c *ingester.Config) { c.Attempts, c.GapAttempts, c.BreakerAfter = 2, 2, 1000 }}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		f.must(w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Flow.End.Wrong = 1 }))
		f.fill(20, 2)
		f.Until("a span fails", func() bool { return len(f.failed()) > 0 })
		for _, m := range f.failed() {
			if m.Reason.GetCode() == "" || m.Reason.GetZh() == "" || m.Reason.GetEn() == "" {
				t.Errorf("no reason: %v", m)
			}
		}
		f.must(w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Flow.End.Wrong = 0 }))
		f.move(jdsandbox.Receipt, "EMG9", 3)
		f.Until("later movements are read", func() bool {
			x, err := (&stock.Store{Books: f.Ledger}).Figure(t.Context(), f.place, "EMG9")
			f.must(err)
			return x.Num == 3
		})
		if out := f.ctl("window", "ls"); !strings.Contains(out, f.place.Warehouse+"/"+f.place.ShopNo) || !strings.Contains(out, "JD") {
			t.Errorf("listed as\n%s", out)
		}
		if out := f.ctl("window", "refetch", "--seller", stack.DemoSeller, "--dry-run"); !strings.Contains(out, "would be read again:") {
			t.Errorf("the plan is\n%s", out)
		}
		f.ctl("window", "refetch", "--seller", stack.DemoSeller, "--why", "the last movement is published right again")
		f.untilComplete()
		f.readAgain()
		f.must(f.complete())
	})
}

// readAgain asks for the last quarter of an hour and waits until it was read: any span of a place, as often as needed.
func (f *flow) readAgain() {
	f.t.Helper()
	now := time.Now()
	f.ctl("window", "refetch", "--seller", stack.DemoSeller, "--place", f.place.Warehouse+"/"+f.place.ShopNo,
		"--from", now.Add(-15*time.Minute).Format(time.RFC3339), "--to", now.Add(-time.Second).Format(time.RFC3339))
	f.Until("the span was read again", func() bool {
		read := false
		f.must(f.Bus.Events(f.t.Context(), bus.EventQuery{Names: []string{event.VMIWindowIngested.Name}}, func(e bus.Stored) error {
			m, err := bus.Decode(event.VMIWindowIngested, e)
			read = read || m.GetWindow().GetWhy() == vmiv1.Why_WHY_REFETCH && m.GetRepeated() > 0 && m.GetAdjusted() == 0
			return err
		}))
		return read
	})
}

// ctl runs bridgectl and returns what it printed.
func (f *flow) ctl(args ...string) string {
	f.t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"bridgectl", "--nats-url", f.NATSURL, "--redis-url", f.RedisURL, "--who", "test"}, args...)
	if code := ctl.Run(f.t.Context(), args, ctl.Streams{Out: &out, Err: &errs}); code != 0 {
		f.t.Fatalf("%v ended %d\n%s%s", args, code, &out, &errs)
	}
	return out.String()
}

// What a paused seller missed is caught up with.
func TestAPausedSellersFlowCatchesUp(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Setup: followed}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		f.must(pause(t, w, stack.DemoSeller))
		f.fill(30, 3)
		f.must(w.Sellers.Resume(t.Context(), stack.DemoSeller, sellerv1.Paused_BY_OPERATOR))
		f.untilComplete()
	})
}

// The ledger is lost while movements come: the book is rebuilt from the streams, and nothing is published under another
// id.
func TestALostLedgerPublishesNoMovementTwice(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Setup: followed}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		f.fill(60, 4)
		f.untilComplete()
		w.WipeLedger()
		f.move(jdsandbox.Receipt, "EMG1", 7)
		f.move(jdsandbox.Loss, "EMG2", 1)
		f.untilComplete()
	})
}

// A token that the warehouse no longer accepts stops the reading; with a new one it continues automatically.
func TestALapsedTokenHoldsTheFlowUntilItIsRenewed(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Setup: followed}, func(t *testing.T, w *testenv.World) {
		f := newFlow(t, w)
		f.move(jdsandbox.Receipt, "EMG1", 7)
		f.untilComplete()
		w.JD.ExpireToken(jdsandbox.DefaultToken, time.Time{})
		f.move(jdsandbox.Receipt, "EMG1", 2)
		f.Until("the seller is paused", func() bool {
			s, ok := w.Sellers.Get(stack.DemoSeller)
			return ok && s.Pause != nil
		})
		f.must(w.JD.SetToken(jdsandbox.DefaultAppKey, jdsandbox.Token{Value: jdsandbox.DefaultToken}))
		f.untilComplete()
	})
}
