package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
)

// StockRemote controls the API of a warehouse whose stock is under test. What it does happens at Now.
type StockRemote interface {
	// Now is the warehouse's clock. Pass advances it.
	Now() time.Time
	Pass(time.Duration)
	// Receive books incoming pieces for a shop. Sell lets an order of the shop take some away.
	Receive(shopNo, goodsNo string, n int64)
	Sell(shopNo, goodsNo string, n int64)
	// TakeStock finds additional pieces of a shop, or, if below zero, missing ones.
	TakeStock(shopNo, goodsNo string, difference int64)
	// Set sets a shop's stock of some goods; Halve halves it by changing the ratio.
	Set(shopNo, goodsNo string, n int64)
	Halve(shopNo, goodsNo string)
	// Down, Busy, Deny and Expire as in Remote.
	Down(bool)
	Busy(bool)
	Deny()
	Expire()
}

// StockSubject is a warehouse whose stock is under test, without documents.
type StockSubject struct {
	warehouse.StockReader
	Setter warehouse.StockSetter
	Remote StockRemote
	// Began is when the warehouse's clock was first read.
	Began time.Time
}

// Shop and goods numbers have JD's format; other warehouses accept any.
const (
	shop, otherShop = "ESP0020000009400", "ESP0020000009401"
	tea, cup        = "EMG4418048348210", "EMG4418048348211"
)

// TestStock checks a warehouse against the abilities for stock. open makes a new one.
func TestStock(t *testing.T, open func(t *testing.T) StockSubject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, StockSubject)
	}{
		{"a flow lists every movement once, and they add up to the stock", flowAddsUp},
		{"a flow without rows ends at once", flowOfNothing},
		{"a flow is read page by page to its end", flowPages},
		{"both ends of a span belong to it, and nothing beyond", flowSpan},
		{"a flow of one goods has no others", flowOfGoods},
		{"a flow has none of another shop's rows", flowOfShop},
		{"what the ERP must not book has a rule", flowRules},
		{"a span that is too long, turned round or without a page is not asked for", flowWrong},
		{"a shop's stock is returned, and absent where there never was any", shopStock},
		{"more goods at once than the limit are refused", shopStockLimit},
		{"the warehouse's stock is listed whole, without goods that have none", listed},
		{"a shop's stock is set, and the flow shows it", setStock},
		{"less than nothing is not set", setWrong},
		{"stock-takes are listed", explained},
		{"a warehouse that cannot be reached returns nothing", stockDown},
		{"a warehouse that is busy says when to retry", stockBusy},
		{"a missing permission is held and says so", stockDenied},
		{"an expired credential is held and says so", stockExpired},
		{"a context that is over asks nothing", stockOver},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// query covers everything that happened to the shop until now, as far back as one query may reach.
func (s StockSubject) query() warehouse.FlowQuery {
	return warehouse.FlowQuery{ShopNo: shop, From: s.Began, To: s.Remote.Now(), Page: 1}
}

// flow reads a query to its end.
func flow(t *testing.T, s StockSubject, q warehouse.FlowQuery) []warehouse.FlowRow {
	t.Helper()
	var rows []warehouse.FlowRow
	for q.Page = 1; q.Page < 100; q.Page++ {
		page, err := s.Flow(t.Context(), q)
		if err != nil {
			t.Fatalf("page %d: %v", q.Page, err)
		}
		if page.Elsewhere != 0 {
			t.Errorf("page %d: %d rows of another warehouse", q.Page, page.Elsewhere)
		}
		if page.End {
			if len(page.Rows) > 0 {
				t.Errorf("page %d has %d rows and is the end", q.Page, len(page.Rows))
			}
			return rows
		}
		rows = append(rows, page.Rows...)
	}
	t.Fatal("a flow without an end")
	return nil
}

// changed leaves out rows without a change: a warehouse may list reservations for orders.
func changed(rows []warehouse.FlowRow) []warehouse.FlowRow {
	return slices.DeleteFunc(slices.Clone(rows), func(r warehouse.FlowRow) bool { return r.Rule == warehouse.RuleUnchanged })
}

func has(t *testing.T, s StockSubject, shopNo, goodsNo string) (warehouse.ShopStock, bool) {
	t.Helper()
	stock, err := s.ShopStock(t.Context(), shopNo, []string{goodsNo})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := stock[goodsNo]
	if len(stock) > 1 || len(stock) == 1 && !ok {
		t.Errorf("asked for %s, got %v", goodsNo, stock)
	}
	return got, ok
}

func flowAddsUp(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 40)
	s.Remote.Pass(time.Second)
	s.Remote.Sell(shop, tea, 3)
	s.Remote.Receive(shop, cup, 7) // in the same second
	s.Remote.Pass(2 * time.Second)
	s.Remote.TakeStock(shop, tea, -2)
	s.Remote.Pass(time.Second)
	rows := flow(t, s, s.query())
	sum, numbers := map[string]int64{}, map[string]bool{}
	var teas []warehouse.FlowRow
	for _, r := range rows {
		if numbers[r.No] {
			t.Errorf("%s occurs twice", r.No)
		}
		numbers[r.No] = true
		if r.No == "" || len(r.No) > 64 || r.At.Before(s.Began.Truncate(time.Second)) || r.At.After(s.Remote.Now()) || r.Reason == "" || r.GoodsNo != tea && r.GoodsNo != cup {
			t.Errorf("%+v", r)
		}
		if s.FlowTerms().Linked && r.Change != r.Now-r.Former {
			t.Errorf("%d from %d to %d", r.Change, r.Former, r.Now)
		}
		sum[r.GoodsNo] += r.Change
		if r.GoodsNo == tea && r.Rule != warehouse.RuleUnchanged {
			if teas = append(teas, r); r.Rule != warehouse.RuleMoves {
				t.Errorf("%+v is not to be booked", r)
			}
		}
	}
	for goods, want := range map[string]int64{tea: 35, cup: 7} {
		if got, _ := has(t, s, shop, goods); got.Num != want || sum[goods] != want {
			t.Errorf("%s: the flow adds up to %d, the shop has %d, want %d", goods, sum[goods], got.Num, want)
		}
	}
	if len(teas) != 3 {
		t.Fatalf("%d movements of tea: %+v", len(teas), teas)
	}
	if s.FlowTerms().Linked {
		slices.SortFunc(teas, func(a, b warehouse.FlowRow) int { return a.At.Compare(b.At) })
		for i, r := range teas[1:] {
			if r.Former != teas[i].Now {
				t.Errorf("%+v does not begin where %+v ended", r, teas[i])
			}
		}
	}
	again := flow(t, s, s.query())
	if !slices.Equal(again, rows) {
		t.Errorf("read again:\n%+v, was\n%+v", again, rows)
	}
}

func flowOfNothing(t *testing.T, s StockSubject) {
	if rows := flow(t, s, s.query()); len(rows) != 0 {
		t.Errorf("%+v", rows)
	}
	page, err := s.Flow(t.Context(), s.query())
	if err != nil || !page.End {
		t.Errorf("%+v, %v", page, err)
	}
}

func flowPages(t *testing.T, s StockSubject) {
	const movements = 1203 // more than two pages of any known size, and not a whole number of them
	for range movements {
		s.Remote.Receive(shop, tea, 1)
	}
	rows := flow(t, s, s.query())
	numbers := map[string]bool{}
	for _, r := range rows {
		numbers[r.No] = true
	}
	if len(rows) != movements || len(numbers) != movements {
		t.Errorf("%d rows with %d numbers, want %d", len(rows), len(numbers), movements)
	}
	q := s.query()
	q.Page = 1000
	if page, err := s.Flow(t.Context(), q); err != nil || !page.End {
		t.Errorf("far behind the end: %d rows, %v", len(page.Rows), err)
	}
}

func flowSpan(t *testing.T, s StockSubject) {
	var at []time.Time
	for i := range int64(4) {
		at = append(at, s.Remote.Now().Truncate(time.Second))
		s.Remote.Receive(shop, tea, 1+i)
		s.Remote.Pass(3 * time.Second)
	}
	rows := flow(t, s, warehouse.FlowQuery{ShopNo: shop, From: at[1], To: at[2]})
	if len(rows) != 2 || rows[0].Change+rows[1].Change != 5 {
		t.Errorf("%+v", rows)
	}
	if rows := flow(t, s, warehouse.FlowQuery{ShopNo: shop, From: at[3], To: at[3].Add(900 * time.Millisecond)}); len(rows) != 1 || rows[0].Change != 4 {
		t.Errorf("one second: %+v", rows)
	}
}

func flowOfGoods(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Receive(shop, cup, 6)
	q := s.query()
	q.GoodsNo = cup
	if rows := flow(t, s, q); len(rows) != 1 || rows[0].GoodsNo != cup || rows[0].Change != 6 {
		t.Errorf("%+v", rows)
	}
}

func flowOfShop(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Receive(otherShop, tea, 6)
	if rows := flow(t, s, s.query()); len(rows) != 1 || rows[0].Change != 5 {
		t.Errorf("%+v", rows)
	}
	if got, _ := has(t, s, otherShop, tea); got.Num != 6 {
		t.Errorf("the other shop has %+v", got)
	}
}

func flowRules(t *testing.T, s StockSubject) {
	for _, act := range []func(){
		func() { s.Remote.Receive(shop, tea, 8) },
		func() { s.Remote.Set(shop, tea, 20) },
		func() { s.Remote.Halve(shop, tea) },
		func() { s.Remote.TakeStock(shop, tea, -15) }, // below zero
		func() { s.Remote.Receive(shop, tea, 1) },     // still
		func() { s.Remote.Set(shop, tea, 4) },
		func() { s.Remote.TakeStock(shop, tea, 3) },
	} {
		act()
		s.Remote.Pass(time.Second)
	}
	rows := changed(flow(t, s, s.query()))
	slices.SortFunc(rows, func(a, b warehouse.FlowRow) int { return a.At.Compare(b.At) })
	type booked struct {
		rule   warehouse.Rule
		change int64
	}
	var got []booked
	for _, r := range rows {
		got = append(got, booked{r.Rule, r.Change})
	}
	want := []booked{
		{warehouse.RuleMoves, 8}, {warehouse.RuleSet, 12}, {warehouse.RuleRatio, -10}, {warehouse.RuleNegative, -15},
		{warehouse.RuleNegative, 1}, {warehouse.RuleSet, 8}, {warehouse.RuleMoves, 3},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if stock, _ := has(t, s, shop, tea); stock.Num != 7 {
		t.Errorf("%+v", stock)
	}
}

func flowWrong(t *testing.T, s StockSubject) {
	for name, wrong := range map[string]func(*warehouse.FlowQuery){
		"too long":    func(q *warehouse.FlowQuery) { q.From = q.To.Add(-s.FlowTerms().MaxSpan - 2*time.Second) },
		"turned":      func(q *warehouse.FlowQuery) { q.From, q.To = q.To, q.To.Add(-time.Hour) },
		"page 0":      func(q *warehouse.FlowQuery) { q.Page = 0 },
		"page before": func(q *warehouse.FlowQuery) { q.Page = -1 },
	} {
		q := s.query()
		if wrong(&q); q.From.Equal(q.To) {
			continue
		}
		if page, err := s.Flow(t.Context(), q); err == nil {
			t.Errorf("%s: %+v", name, page)
		}
	}
	q := s.query()
	q.From = q.To.Add(-s.FlowTerms().MaxSpan)
	if _, err := s.Flow(t.Context(), q); err != nil {
		t.Errorf("the longest span: %v", err)
	}
}

func shopStock(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	got, err := s.ShopStock(t.Context(), shop, []string{tea, cup, "EMG0000000000009"})
	if err != nil || len(got) != 1 || got[tea].Num != 5 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := s.ShopStock(t.Context(), otherShop, []string{tea}); err != nil || got[tea].Num != 0 {
		t.Errorf("in the other shop: %v, %v", got, err)
	}
	if got, err := s.ShopStock(t.Context(), shop, nil); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
}

func shopStockLimit(t *testing.T, s StockSubject) {
	var goods []string
	for i := range s.ShopStockLimit() {
		goods = append(goods, fmt.Sprintf("EMG%013d", i))
		s.Remote.Receive(shop, goods[i], int64(i+1))
	}
	got, err := s.ShopStock(t.Context(), shop, goods)
	if err != nil || len(got) != len(goods) || got[goods[7]].Num != 8 {
		t.Errorf("%d of %d goods, %v", len(got), len(goods), err)
	}
	if got, err := s.ShopStock(t.Context(), shop, append(goods, tea)); err == nil {
		t.Errorf("%d goods are returned", len(got))
	}
}

func listed(t *testing.T, s StockSubject) {
	const goods = 230
	want := map[string]int64{}
	for i := range goods {
		no := fmt.Sprintf("EMG%013d", i)
		want[no] = int64(i + 1)
		s.Remote.Receive(shop, no, want[no])
	}
	s.Remote.Receive(shop, tea, 5)
	s.Remote.TakeStock(shop, tea, -5)
	s.Remote.Sell(shop, "EMG0000000000009", 4)
	want["EMG0000000000009"] -= 4
	got, total, read := map[string]int64{}, 0, 0
	for page := 1; ; page++ {
		p, err := s.Stock(t.Context(), page)
		if err != nil || page > 100 {
			t.Fatalf("page %d: %v", page, err)
		}
		for _, r := range p.Rows {
			read++
			if r.Usable > r.Total || r.GoodsNo == tea {
				t.Errorf("%+v", r)
			}
			if r.Saleable {
				got[r.GoodsNo] += r.Usable
			}
		}
		if page == 1 {
			total = p.Total
		} else if len(p.Rows) > 0 && p.Total != total {
			t.Errorf("page %d has %d rows, the first of %d", page, p.Total, total)
		}
		if p.Last {
			break
		}
	}
	if len(got) != goods || total != 0 && read != total {
		t.Errorf("%d goods in %d of %d rows, want %d", len(got), read, total, goods)
	}
	for no, n := range want {
		if got[no] != n {
			t.Errorf("%s: %d, want %d", no, got[no], n)
		}
	}
}

func setStock(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Pass(time.Second)
	for range 2 {
		if err := s.Setter.SetShopStock(t.Context(), "R-1", shop, tea, 9); err != nil {
			t.Fatal(err)
		}
		if got, _ := has(t, s, shop, tea); got.Num != 9 {
			t.Errorf("%+v", got)
		}
	}
	if err := s.Setter.SetShopStock(t.Context(), "R-2", shop, tea, 0); err != nil {
		t.Fatal(err)
	}
	if got, _ := has(t, s, shop, tea); got.Num != 0 {
		t.Errorf("%+v", got)
	}
	p, err := s.Stock(t.Context(), 1)
	if err != nil || len(p.Rows) != 1 || p.Rows[0].Usable != 5 {
		t.Errorf("in the warehouse nothing moved: %+v, %v", p, err)
	}
}

func setWrong(t *testing.T, s StockSubject) {
	if err := s.Setter.SetShopStock(t.Context(), "R-1", shop, tea, -1); err == nil {
		t.Error("it is set")
	}
	if got, _ := has(t, s, shop, tea); got.Num != 0 {
		t.Errorf("%+v", got)
	}
}

func explained(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Pass(time.Second)
	s.Remote.TakeStock(shop, tea, -2)
	s.Remote.TakeStock(shop, cup, 4)
	s.Remote.Pass(time.Minute)
	s.Remote.TakeStock(shop, tea, 1)
	s.Remote.Pass(time.Minute)
	got, err := s.StockChanges(t.Context(), tea, s.Began, s.Remote.Now())
	if err != nil || len(got) != 2 || got[0].Quantity != -2 || got[1].Quantity != 1 || !got[0].At.Before(got[1].At) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, c := range got {
		if c.Kind != warehouse.KindStockTake || c.No == "" {
			t.Errorf("%+v", c)
		}
	}
	if later, err := s.StockChanges(t.Context(), tea, s.Remote.Now().Add(-90*time.Second), s.Remote.Now()); err != nil || len(later) != 1 || later[0].No != got[1].No {
		t.Errorf("the later one: %+v, %v", later, err)
	}
}

// ask makes every call about stock.
func ask(ctx context.Context, s StockSubject, check func(call string, err error)) {
	page, err := s.Flow(ctx, s.query())
	if page.End || len(page.Rows) > 0 {
		err = errors.Join(err, errors.New("it returns rows, or the end"))
	}
	check("flow", err)
	_, err = s.ShopStock(ctx, shop, []string{tea})
	check("shop stock", err)
	list, err := s.Stock(ctx, 1)
	if list.Last || len(list.Rows) > 0 {
		err = errors.Join(err, errors.New("it returns rows, or the end"))
	}
	check("stock", err)
	_, err = s.StockChanges(ctx, tea, s.Began, s.Remote.Now())
	check("changes", err)
	check("set", s.Setter.SetShopStock(ctx, "R-1", shop, tea, 3))
}

// nothingSet checks that the stock is unchanged.
func nothingSet(t *testing.T, s StockSubject) {
	t.Helper()
	if got, _ := has(t, s, shop, tea); got.Num != 5 {
		t.Errorf("the stock is %+v", got)
	}
}

func stockDown(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Down(true)
	ask(t.Context(), s, func(call string, err error) {
		if err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	})
	s.Remote.Down(false)
	nothingSet(t, s)
}

func stockBusy(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Busy(true)
	ask(t.Context(), s, func(call string, err error) {
		if fault.Of(err) != fault.Wait || fault.After(err) <= 0 {
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	})
	s.Remote.Busy(false)
	nothingSet(t, s)
}

func stockDenied(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Deny()
	heldWith(t, s, warehouse.ErrNotPermitted)
}

func stockExpired(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	s.Remote.Expire()
	heldWith(t, s, warehouse.ErrToken)
}

func heldWith(t *testing.T, s StockSubject, want error) {
	t.Helper()
	ask(t.Context(), s, func(call string, err error) {
		if !errors.Is(err, want) || fault.Of(err) != fault.Held || fault.Cause(err) == "" {
			t.Errorf("%s: %v is %v for %q", call, err, fault.Of(err), fault.Cause(err))
		}
		if reason := fault.ReasonOf(err, ""); reason.Code == "" || reason.ZH == reason.EN {
			t.Errorf("%s: reason %+v", call, reason)
		}
	})
}

func stockOver(t *testing.T, s StockSubject) {
	s.Remote.Receive(shop, tea, 5)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ask(ctx, s, func(call string, err error) {
		if err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	})
	nothingSet(t, s)
}
