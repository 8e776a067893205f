package follow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// A JD splits, cancels, ships short, shuffles its history and fails now and then. A poller follows it and dies now and
// then between publishing and writing. In the end the published events of each order are what JD has, each fact once.
func TestOverJD(t *testing.T) {
	const orderCount, seed = 50, 2
	each(t, func(t *testing.T, b *fixture) {
		sandbox, err := jdsandbox.New(jdsandbox.Config{
			Seed: seed, Stopped: true,
			Knobs: jdsandbox.Knobs{
				Split:     jdsandbox.Split{Lot: jdsandbox.Lot{Chance: .3}, At: "10014", ListChildren: true},
				OwnCancel: jdsandbox.OwnCancel{Lot: jdsandbox.Lot{Chance: .2}},
				Short:     jdsandbox.Lot{Chance: .2}, Rejected: jdsandbox.Lot{Chance: .2}, Packages: 3, Jitter: .5,
				HistoryShuffled: true, HistoryDoubled: true, ScalarsAsArrays: true, ExtraKeys: true,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		wh := overJD(t, b, sandbox)

		var numbers []string
		for _, o := range manyOrders(seed, orderCount) {
			taken, err := warehousetest.Send(t.Context(), wh.Orders(), o)
			if err != nil {
				t.Fatal(err)
			}
			b.recordAccepted("W01", o.OutboundNo, taken.WarehouseNo)
			numbers = append(numbers, o.OutboundNo)
		}
		if _, err := sandbox.AddFault(jdsandbox.Fault{Kind: jdsandbox.HTTP, Chance: .05}); err != nil {
			t.Fatal(err)
		}

		chance := rand.New(rand.NewPCG(seed, 1))
		reported := map[string]event.Event{}
		for step := 0; b.open() > 0; step++ {
			if step == 1000 {
				t.Fatalf("%d orders are still followed", b.open())
			}
			f := b.Follower
			dies := chance.IntN(5) == 0
			if dies { // after publishing
				parts := b.Parts
				parts.Ledger = lossy{b.all}
				f = New(parts)
			}
			events, err := b.tickOf(f)
			if err != nil && !dies && !strings.Contains(err.Error(), "503") {
				t.Fatal(err)
			}
			for _, e := range events {
				reported[e.ID] = e
			}
			b.wait(time.Hour)
			if err := sandbox.Advance(time.Hour); err != nil {
				t.Fatal(err)
			}
		}

		byOrder := map[string][]event.Event{}
		for _, e := range reported {
			byOrder[e.Key] = append(byOrder[e.Key], e)
		}
		kinds := map[string]int{}
		for _, no := range numbers {
			kinds[compareWithJD(t, sandbox, no, byOrder[no])]++
		}
		for _, kind := range []string{"shipped", "shipped split", "cancelled", "shipped split, a part cancelled"} {
			if kinds[kind] == 0 {
				t.Errorf("no order was %s: another seed shows more (%v)", kind, kinds)
			}
		}
	})
}

// manyOrders are orders of one to three lines.
func manyOrders(seed uint64, n int) []*orderv1.Audited {
	chance := rand.New(rand.NewPCG(seed, 7))
	all := make([]*orderv1.Audited, n)
	for i := range all {
		no := fmt.Sprintf("%04d-%03d", seed, i)
		o := &orderv1.Audited{
			Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO" + no, OutboundNo: "OUT" + no, Revision: 1, Platform: "other",
			PlatformOrderNos: []string{"P" + no}, AuditedAt: timestamppb.Now(), OrderedAt: timestamppb.Now(),
			Receiver: &orderv1.Receiver{Name: "王芳", Mobile: "13800138000", Province: "北京", City: "朝阳区", County: "望京街道", Address: "长安路1号"},
		}
		for line := range 1 + chance.IntN(3) {
			o.Lines = append(o.Lines, &orderv1.Line{
				LineId: fmt.Sprint(line + 1), GoodsCode: fmt.Sprint("G", line), WarehouseGoodsNo: fmt.Sprintf("EMG441800000000%d", line+1),
				Quantity: 1 + chance.Int64N(4), Price: "39.90",
			})
		}
		all[i] = o
	}
	return all
}

// overJD lets b follow orders of a JD.
func overJD(t *testing.T, b *fixture, sandbox *jdsandbox.JD) *jd.Warehouse {
	t.Helper()
	server := httptest.NewServer(sandbox)
	t.Cleanup(server.Close)
	b.book.now = seller.New(&sellerv1.Setup{
		Name: "acme",
		Accounts: []*sellerv1.Account{{
			Name: "jd", Kind: sellerv1.Account_KIND_JD, Url: server.URL + "/routerjson", AppKey: jdsandbox.DefaultAppKey,
			AppSecret: &sellerv1.SecretRef{Env: "SECRET"}, AccessToken: &sellerv1.SecretRef{Env: "TOKEN"},
			Department: "EBU0000000000001", VendorSource: "ISV0000000000001",
		}},
		Warehouses: []*sellerv1.Warehouse{{Code: "W01", Account: "jd", WarehouseNo: "110006341"}},
		Shops:      []*sellerv1.Shop{{Code: "S01", ShopNo: "ESP0020000000001", Warehouses: []string{"W01"}}},
	}, nil)
	wh, err := jd.New(jd.Options{
		Seller: b.book.now, Warehouse: "W01", Class: quota.Status,
		Env: func(name string) string {
			return map[string]string{"SECRET": jdsandbox.DefaultAppSecret, "TOKEN": jdsandbox.DefaultToken}[name]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Open = func(*seller.Seller, string, quota.Class) (warehouse.Identified, error) { return wh, nil }
	b.Breaker = guard.NewBreaker(1000)
	return wh
}

// Goods have left at the first step that says so, whichever it is, and not with their waybill. Returns are reported.
func TestEveryStepOfJDsIsUnderstood(t *testing.T) {
	each(t, func(t *testing.T, b *fixture) {
		reported := map[string]string{} // the events besides the steps, each with the code of its step
		sandbox, err := jdsandbox.New(jdsandbox.Config{Stopped: true})
		if err != nil {
			t.Fatal(err)
		}
		wh := overJD(t, b, sandbox)
		rows := map[string]string{
			"a waybill is no sign of shipping":               "10010 100130 10014 10015 10016 10017 10018: ",
			"handed over":                                    "10010 100130 10018 10019: shipped 10019",
			"handed over, and the parcel left":               "10010 100130 10018 10019 10020 10054 10032: shipped 10019",
			"the parcel left":                                "10010 100130 10018 10020 10032: shipped 10020",
			"first seen at the sorting centre":               "10010 100130 10018 10032 10054: shipped 10032",
			"first seen when the sorting centre sends it on": "10010 100130 10018 10054: shipped 10054",
			"pulled back":                                    "10010 100130 10018 10019 10031: returning 10031, shipped 10019",
			"received on its way back":                       "10010 100130 10018 10019 10035 10036: returning 10035, returning 10036, shipped 10019",
			"being cancelled, and cancelled":                 "10010 100130 10014 10027 10028: cancelled 10028",
			"being cancelled, and not cancelled":             "10010 100130 10014 10027 10029 10018 10019: shipped 10019",
			"purchased for it, which we have no word for":    "10010 10050 10014 10018 10019: shipped 10019",
		}
		walks := map[string]string{} // by outbound number
		for i, name := range slices.Sorted(maps.Keys(rows)) {
			walk, _, _ := strings.Cut(rows[name], ": ")
			err := sandbox.SetKnobs(func(k *jdsandbox.Knobs) {
				k.Walk = nil
				for n, code := range strings.Fields(walk) {
					k.Walk = append(k.Walk, jdsandbox.Step{Code: jdsandbox.Code(code), After: jdsandbox.Duration(min(n, 1)) * jdsandbox.Duration(time.Minute)})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			o := manyOrders(uint64(i), 1)[0]
			o.OutboundNo = fmt.Sprintf("A-%d", i)
			taken, err := warehousetest.Send(t.Context(), wh.Orders(), o)
			if err != nil {
				t.Fatal(err)
			}
			b.recordAccepted("W01", o.OutboundNo, taken.WarehouseNo)
			walks[o.OutboundNo] = name
		}
		for range 10 {
			events, err := b.tick()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				var what string
				var at time.Time
				switch m := e.Message.(type) {
				case *orderv1.Shipped:
					what, at = "shipped", m.At.AsTime()
				case *orderv1.Returning:
					what, at = "returning", m.At.AsTime()
				case *documentv1.Cancelled:
					what, at = "cancelled", m.At.AsTime()
				default:
					continue
				}
				for _, s := range sandbox.Documents(e.Key)[0].History {
					if s.At.Truncate(time.Second).Equal(at) {
						what += " " + string(s.Code)
					}
				}
				reported[walks[e.Key]] += what + ", "
			}
			b.wait(time.Hour)
			if err := sandbox.Advance(2 * time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		for name, row := range rows {
			_, want, _ := strings.Cut(row, ": ")
			got := strings.Split(strings.TrimSuffix(reported[name], ", "), ", ")
			slices.Sort(got)
			if got := strings.Join(got, ", "); got != want {
				t.Errorf("%s: reported %q, want %q", name, got, want)
			}
		}
	})
}

// compareWithJD compares the events of one order with what JD has, and returns what kind of order it was.
func compareWithJD(t *testing.T, sandbox *jdsandbox.JD, no string, reported []event.Event) string {
	t.Helper()
	shipped := map[string]*orderv1.Shipped{}
	complete, delivered, cancelled := 0, 0, 0
	steps := map[string]bool{}
	returning := map[string]bool{}
	for _, e := range reported {
		switch m := e.Message.(type) {
		case *orderv1.Shipped:
			shipped[m.Ref.WarehouseNo] = m
			if m.Complete {
				complete++
			}
		case *orderv1.Delivered:
			delivered++
		case *documentv1.Cancelled:
			cancelled++
		case *orderv1.Returning:
			returning[m.Ref.WarehouseNo] = true
		case *documentv1.StatusChanged:
			steps[m.Ref.WarehouseNo+" "+m.Code] = true
		}
	}
	left, gone, refused, split := 0, 0, 0, false
	for _, doc := range sandbox.Documents(no) {
		if len(doc.Children) > 0 {
			split = true
			continue
		}
		for _, s := range doc.History {
			if !steps[doc.EclpSoNo+" "+string(s.Code)] {
				t.Errorf("%s: step %s of %s was not reported", no, s.Code, doc.EclpSoNo)
			}
		}
		m := shipped[doc.EclpSoNo]
		if doc.Status == "10028" {
			gone++
			if m != nil && (len(m.Waybills) > 0 || slices.ContainsFunc(m.Lines, func(l *orderv1.ShippedLine) bool { return l.Shipped != 0 })) {
				t.Errorf("%s: %s was cancelled and shipped: %v", no, doc.EclpSoNo, m)
			}
			continue
		}
		left++
		if m == nil {
			t.Errorf("%s: %s left (%s) and was not reported", no, doc.EclpSoNo, doc.Status)
			continue
		}
		if doc.Parent != m.SplitOf || fmt.Sprint(doc.WayBills) != fmt.Sprint(m.Waybills) || len(doc.Packages) != len(m.Packages) {
			t.Errorf("%s: %s has %v in %d packages, split of %q; reported %v", no, doc.EclpSoNo, doc.WayBills, len(doc.Packages), doc.Parent, m)
		}
		for i, l := range doc.Lines {
			if l.RealOutQty == nil || m.Lines[i].Shipped != *l.RealOutQty || m.Lines[i].Quantity != l.Quantity {
				t.Errorf("%s: line %s of %s: reported %v", no, l.OrderLine, doc.EclpSoNo, m.Lines[i])
			}
		}
		if doc.Status == "10038" {
			refused++
			if !returning[doc.EclpSoNo] {
				t.Errorf("%s: %s came back and was not reported", no, doc.EclpSoNo)
			}
		}
	}
	want := func(what string, got, want int) {
		if got != want {
			t.Errorf("%s: %d × %s, want %d (%d documents left, %d cancelled, %d came back)", no, got, what, want, left, gone, refused)
		}
	}
	if left == 0 {
		want("cancelled", cancelled, 1)
		want("shipped", len(shipped), 0)
		return "cancelled"
	}
	want("cancelled", cancelled, 0)
	want("complete", complete, 1)
	want("delivered", delivered, map[bool]int{true: 1}[refused == 0])
	switch {
	case split && gone > 0:
		return "shipped split, a part cancelled"
	case split:
		return "shipped split"
	default:
		return "shipped"
	}
}
