package syncer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/book"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/warehouse"
	stockv1 "stockbridge/proto/stock/v1"
)

// A place has a book of its own for comparing; the figures are in that of pkg/stock. Its fields:
//
//	compare     CompareProgress
//	n/<goods>   Suspicion
const (
	fieldCompare     = "compare"
	suspicionsPrefix = "n/"
)

func driftBook(p stock.Place) string { return "drift/" + p.Seller + "/" + p.Token() }

// CompareProgress is how far a place's book was compared with the warehouse's figures.
type CompareProgress struct {
	// CountID is the count that the comparison follows, Began when it began; Last when the one before it did.
	CountID string    `json:"countID"`
	Began   time.Time `json:"began"`
	Last    time.Time `json:"last,omitzero"`
	// Opening: the goods of the book were compared, and those that only the warehouse knows are next.
	Opening bool   `json:"opening,omitempty"`
	Cursor  string `json:"cursor,omitempty"`
	// Of the goods from Cursor on, in order and Together of them, those up to After were compared.
	After    string `json:"after,omitempty"`
	Together int    `json:"together,omitempty"`
	Done     bool   `json:"done,omitempty"`
}

// together is how many goods are compared in order: the last call of each time asks for fewer than it might.
const together = 1000

// rest returns which of the goods in order, read from the cursor on, are left. When they are others than before, all are.
func (p *CompareProgress) rest(nos []string) []string {
	if p.Together != len(nos) {
		p.After = ""
	}
	p.Together = len(nos)
	i, found := slices.BinarySearch(nos, p.After)
	if found {
		i++
	}
	return nos[i:]
}

// next goes on at another cursor.
func (p *CompareProgress) next(cursor string) { p.Cursor, p.After, p.Together = cursor, "", 0 }

// Suspicion is a difference that was seen once. It is published when it is seen again and nothing moved in between.
type Suspicion struct {
	Book    int64 `json:"book"`
	Counted int64 `json:"counted"`
	// Rows is how many rows made the book's figure.
	Rows int64     `json:"rows"`
	At   time.Time `json:"at"`
	// Agreed is when the two were last the same; zero when that is unknown.
	Agreed time.Time `json:"agreed,omitzero"`
	// PublishedAt is when it was published.
	PublishedAt time.Time `json:"told,omitzero"`
}

// RuleCorrection and RuleOpening are rules of stock.noted: our figure was set to the warehouse's, or its opening
// balance was.
const (
	RuleCorrection = "correction"
	RuleOpening    = "opening"
)

// compare continues with what is left to compare at the places of the warehouse.
func (r *countRun) compare(ctx context.Context, head Head) error {
	if head.CountID == "" {
		return nil
	}
	for _, at := range r.seller.Places() {
		if at.Warehouse != r.warehouse {
			continue
		}
		c := &comparison{countRun: r, at: at, place: stock.Place{Seller: r.seller.Name(), Warehouse: at.Warehouse, ShopNo: at.ShopNo}, store: &stock.Store{Books: r.Ledger, Now: r.Now}}
		c.book = driftBook(c.place)
		if err := c.run(ctx, head); err != nil {
			return fmt.Errorf("compare %s: %w", c.place, err)
		}
		if r.outOfTime(ctx) {
			return nil
		}
	}
	return nil
}

// comparison is one place in one run.
type comparison struct {
	*countRun
	at       seller.Place
	place    stock.Place
	store    *stock.Store
	book     string
	state    stock.State
	progress CompareProgress
	// compared is how many goods this run compared. When what it found is stored, rows of ours are applied to the place's
	// book, suspicions are written (nil: dropped), and then the progress.
	compared   int
	rows       []stock.Row
	suspicions map[string]*Suspicion
}

// comparedPerRun is the most goods that one run compares at a place: what it finds has to fit into memory, and into the
// time for settling. Each may be an event and a row in the place's book.
const comparedPerRun = 5000

func (c *comparison) run(ctx context.Context, head Head) error {
	t, err := book.Read(ctx, c.books, c.book, []string{fieldCompare}, nil)
	if err != nil {
		return err
	}
	if _, err := t.Get(fieldCompare, &c.progress); err != nil {
		return err
	}
	if c.progress.CountID == head.CountID && c.progress.Done {
		c.noteCompared(c.place, head.CountID)
		return nil
	}
	if c.progress.CountID != head.CountID && (c.progress.Done || c.progress.CountID == "") {
		c.progress = CompareProgress{CountID: head.CountID, Began: c.Now(), Last: c.progress.Began}
	}
	if c.state, err = c.store.State(ctx, c.place); err != nil {
		return err
	}
	if len(c.state.Read) == 0 {
		return nil // its flow was never read: nothing to compare
	}
	if c.reader, err = c.Read(c.seller, c.warehouse); err != nil {
		return err
	}
	c.suspicions = map[string]*Suspicion{}
	c.after = append(c.after, c.settle)
	for !c.progress.Done && !c.hasEnough(ctx) {
		if err := c.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// settle stores what was found, and then how far it got: after a crash the same goods are compared again.
func (c *comparison) settle(ctx context.Context) error {
	if _, err := c.store.Apply(ctx, c.place, stock.Batch{Rows: c.rows}); err != nil {
		return err
	}
	for fields := range slices.Chunk(slices.Sorted(maps.Keys(c.suspicions)), suspicionsPerWrite) {
		err := book.Update(ctx, c.books, c.book, fields, nil, func(t *book.Tx) error {
			for _, field := range fields {
				if s := c.suspicions[field]; s != nil {
					t.Put(field, s)
				} else {
					t.Drop(field)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if c.progress.Done {
		c.noteCompared(c.place, c.progress.CountID)
	}
	return book.Update(ctx, c.books, c.book, nil, nil, func(t *book.Tx) error {
		t.Put(fieldCompare, c.progress)
		return nil
	})
}

// suspicionsPerWrite keeps one write within ledger.BookWriteLimit.
const suspicionsPerWrite = 200

// step compares some goods.
func (c *comparison) step(ctx context.Context) error {
	if c.progress.Opening {
		return c.takeOpeningBalances(ctx)
	}
	figures, next := map[string]stock.Figure{}, c.progress.Cursor
	for len(figures) < together {
		some, to, err := c.store.Figures(ctx, c.place, next)
		if err != nil {
			return err
		}
		for _, f := range some {
			figures[f.GoodsNo] = f
		}
		if next = to; next == "" {
			break
		}
	}
	for some := range slices.Chunk(c.progress.rest(slices.Sorted(maps.Keys(figures))), c.reader.ShopStockLimit()) {
		if c.hasEnough(ctx) {
			return nil
		}
		list := make([]stock.Figure, len(some))
		for i, no := range some {
			list[i] = figures[no]
		}
		if err := c.compareGoods(ctx, list); err != nil {
			return err
		}
		c.progress.After = some[len(some)-1]
	}
	c.progress.Opening = next == ""
	c.progress.next(next)
	return nil
}

// hasEnough reports whether the run is to end.
func (c *comparison) hasEnough(ctx context.Context) bool {
	return c.outOfTime(ctx) || c.compared >= comparedPerRun
}

// takeOpeningBalances adopts what only the warehouse knows: goods that did not move since the flow is read.
func (c *comparison) takeOpeningBalances(ctx context.Context) error {
	codes, next := map[string]string{}, c.progress.Cursor
	for len(codes) < together {
		fields, to, err := c.books.ScanBook(ctx, c.countRun.book, goodsPrefix, next)
		if err != nil {
			return err
		}
		for _, f := range fields {
			var g Goods
			if err := book.Decode(c.countRun.book, f, &g); err != nil {
				return err
			}
			if g.Total > 0 {
				codes[strings.TrimPrefix(f.Name, goodsPrefix)] = g.Code
			}
		}
		if next = to; next == "" {
			break
		}
	}
	left := c.progress.rest(slices.Sorted(maps.Keys(codes)))
	series, err := c.store.Series(ctx, c.place, left)
	if err != nil {
		return err
	}
	c.compared += len(left)
	unknown := slices.DeleteFunc(left, func(no string) bool { return series[no].Rows > 0 })
	for some := range slices.Chunk(unknown, c.reader.ShopStockLimit()) {
		if c.outOfTime(ctx) {
			return nil
		}
		theirs, err := c.remoteStock(ctx, some)
		if err != nil {
			return err
		}
		for _, no := range some {
			if n := theirs[no].Num; n != 0 {
				c.publishRow(OpeningBalance(c.at, c.place, no, codes[no], n, c.Now()))
			}
		}
		c.progress.After = some[len(some)-1]
	}
	c.progress.next(next)
	c.progress.Done = next == ""
	return nil
}

// publishRow publishes a row of ours, and applies it to the place's book when it is stored.
func (c *comparison) publishRow(e event.Event) {
	c.events = append(c.events, e)
	c.rows = append(c.rows, rowOf(e.Message.(*stockv1.Noted).GetMovement()))
}

func (c *comparison) remoteStock(ctx context.Context, nos []string) (map[string]warehouse.ShopStock, error) {
	theirs, err := c.reader.ShopStock(ctx, c.place.ShopNo, nos)
	c.reportToBreaker(err)
	return theirs, err
}

// compareGoods compares some goods.
func (c *comparison) compareGoods(ctx context.Context, figures []stock.Figure) error {
	nos, fields := make([]string, len(figures)), make([]string, len(figures))
	for i, f := range figures {
		nos[i], fields[i] = f.GoodsNo, suspicionsPrefix+f.GoodsNo
	}
	theirs, err := c.remoteStock(ctx, nos)
	if err != nil {
		return err
	}
	t, err := book.Read(ctx, c.books, c.book, fields, nil)
	if err != nil {
		return err
	}
	c.compared += len(figures)
	for _, f := range figures {
		field := suspicionsPrefix + f.GoodsNo
		was := &Suspicion{}
		if found, err := t.Get(field, was); err != nil {
			return err
		} else if !found {
			was = nil
		}
		seen := compared{
			figure: f, counted: theirs[f.GoodsNo].Num, began: c.progress.Began, last: c.progress.Last,
			readTo: time.Unix(c.state.Read[len(c.state.Read)-1].To, 0),
		}
		switch becomes, next := seen.judge(was, c.Now()); becomes {
		case unchanged:
		case agreed:
			c.suspicions[field] = nil
		case suspected:
			c.suspicions[field] = next
		case differs:
			published, err := c.publishDrift(ctx, f, was)
			if err != nil {
				return err
			}
			if published {
				was.PublishedAt = c.Now()
				c.suspicions[field] = was
			}
		}
	}
	return nil
}

// publishDrift publishes a difference. It returns false when what explains it could not be read yet.
func (c *comparison) publishDrift(ctx context.Context, f stock.Figure, s *Suspicion) (bool, error) {
	why, err := c.explain(ctx, f, s)
	if err != nil {
		return false, err
	}
	now := c.Now()
	m := &stockv1.DriftFound{
		Seller: c.place.Seller, Warehouse: c.place.Warehouse, ShopNo: c.place.ShopNo, GoodsNo: f.GoodsNo, GoodsCode: f.GoodsCode,
		At: timestamppb.New(now), Book: s.Book, Counted: s.Counted, Difference: s.Counted - s.Book, Explanation: why,
	}
	most := c.seller.Setup.GetStock().GetCorrectUpTo()
	// Do not correct while rows may still come: they would be booked a second time.
	m.Corrected = max(m.Difference, -m.Difference) <= most && f.Proof != stock.Broken && len(c.state.Read.Unread()) == 0
	key := strings.Join([]string{c.place.Warehouse, c.place.ShopNo, f.GoodsNo}, "/")
	c.events = append(c.events, event.StockDriftFound.About(c.place.Seller, key, now, m, fmt.Sprint(s.Book), fmt.Sprint(s.Counted), fmt.Sprint(s.Rows)))
	c.Metrics.Drift.Inc()
	if m.Corrected {
		c.Metrics.Corrected.Inc()
		c.publishRow(Correction(c.at, c.place, f, s.Counted, "stock.correct_up_to", now))
	}
	return true, nil
}

// explain finds the first thing since the two agreed that can explain why they no longer do; nil when there is none.
func (c *comparison) explain(ctx context.Context, f stock.Figure, s *Suspicion) (*stockv1.DriftFound_Explanation, error) {
	var found []*stockv1.DriftFound_Explanation
	add := func(kind, no string, at time.Time, quantity int64, zh, en string) {
		if !at.Before(s.Agreed) {
			found = append(found, &stockv1.DriftFound_Explanation{Kind: kind, No: no, At: timestamppb.New(at), Quantity: quantity, Zh: zh, En: en})
		}
	}
	for _, h := range f.Gaps {
		from, to := h.Interval().Times()
		add("gap", spanText(from, to), to, h.Right.Value-h.Left.Value, "此时段的流水缺失，正在补抓", "movements of this time are missing and are fetched again")
	}
	for _, u := range c.state.Read.Unread() {
		from, to := u.Times()
		add("window", spanText(from, to), to, 0, "此时段的流水尚未读取成功，见 bridgectl window ls", "this time could not be read yet: see bridgectl window ls")
	}
	from := s.Agreed
	if from.IsZero() {
		from = s.At.Add(-lookBack)
	}
	changes, err := c.reader.StockChanges(ctx, f.GoodsNo, from, c.Now())
	c.reportToBreaker(err)
	switch class := fault.Of(err); {
	case errors.Is(err, warehouse.ErrNotPermitted), class == fault.Held, class == fault.Refused:
		// Publish without it.
	case err != nil:
		return nil, err
	}
	for _, change := range changes {
		zh, en := "仓库盘点", "a stock-take"
		if change.Kind != "stock-take" {
			zh, en = "商品等级变更", "a change of the goods' level"
		}
		add(change.Kind, change.No, change.At, change.Quantity, zh, en)
	}
	if len(found) == 0 {
		return nil, nil
	}
	return slices.MinFunc(found, func(a, b *stockv1.DriftFound_Explanation) int { return a.At.AsTime().Compare(b.At.AsTime()) }), nil
}

// lookBack is how far back documents are searched when it is unknown when the two agreed.
const lookBack = 7 * 24 * time.Hour

func spanText(from, to time.Time) string {
	return from.UTC().Format(time.RFC3339) + "/" + to.UTC().Format(time.RFC3339)
}

// Correction returns the event that sets our figure of some goods to the warehouse's, by a person or a rule. It
// changes our book only: what the ERP books is the ERP's decision. Only another correction undoes it.
func Correction(at seller.Place, p stock.Place, f stock.Figure, counted int64, by string, now time.Time) event.Event {
	m := &stockv1.Movement{
		Seller: p.Seller, Warehouse: p.Warehouse, ShopNo: p.ShopNo, Shops: at.Shops, GoodsNo: f.GoodsNo, GoodsCode: f.GoodsCode,
		FlowNo: fmt.Sprintf("correction/%s/%d/%d/%d", f.GoodsNo, f.Rows, f.Num, counted), Reason: by, At: timestamppb.New(now.Truncate(time.Second)), Change: counted - f.Num,
	}
	switch before := f.Num; {
	case f.Rows == 0:
		m.Change, m.Before, m.After = 0, &counted, &counted // an opening balance, see OpeningBalance
	case f.Proof != stock.Broken:
		m.Before, m.After = &before, &counted
	}
	return correction(m, p, now)
}

// FillGap returns the event that replaces a gap by one synthetic movement with the same net change, where nothing
// will bring the missing movements any longer. Should they be found all the same, they are booked beside it.
func FillGap(at seller.Place, p stock.Place, f stock.Figure, h stock.Gap, by string, now time.Time) event.Event {
	from, to := h.Interval().Times()
	m := &stockv1.Movement{
		Seller: p.Seller, Warehouse: p.Warehouse, ShopNo: p.ShopNo, Shops: at.Shops, GoodsNo: f.GoodsNo, GoodsCode: f.GoodsCode,
		FlowNo: fmt.Sprintf("correction/%s/%d-%d/%d-%d", f.GoodsNo, from.Unix(), to.Unix(), h.Left.Value, h.Right.Value), Reason: by,
		At: timestamppb.New(to), Change: h.Right.Value - h.Left.Value, Before: &h.Left.Value, After: &h.Right.Value,
	}
	return correction(m, p, now)
}

func correction(m *stockv1.Movement, p stock.Place, now time.Time) event.Event {
	n := &stockv1.Noted{Movement: m, Rule: RuleCorrection,
		Zh: "账面已改为仓库方的数量；ERP 是否入账由 ERP 决定", En: "our book was set to the warehouse's figure; what the ERP books is its own decision"}
	return event.StockNoted.About(p.Seller, m.FlowNo, now, n, p.Token())
}

// OpeningBalance returns the event that adopts the warehouse's figure for goods of which our book knows nothing. It
// changes nothing else: a row that is found later and lies before it links up with it.
func OpeningBalance(at seller.Place, p stock.Place, goods, code string, counted int64, now time.Time) event.Event {
	m := &stockv1.Movement{
		Seller: p.Seller, Warehouse: p.Warehouse, ShopNo: p.ShopNo, Shops: at.Shops, GoodsNo: goods, GoodsCode: code,
		FlowNo: "opening/" + goods, At: timestamppb.New(now.Truncate(time.Second)), Before: &counted, After: &counted,
	}
	n := &stockv1.Noted{Movement: m, Rule: RuleOpening, Zh: "期初：账面原无此商品，采用仓库方的数量", En: "an opening balance: our book knew nothing of the goods and adopts the warehouse's figure"}
	return event.StockNoted.About(p.Seller, m.FlowNo, now, n, p.Token())
}

// ApplyEvent is ApplyNoted for what Correction, FillGap and OpeningBalance made.
func ApplyEvent(ctx context.Context, store *stock.Store, e event.Event) error {
	return ApplyNoted(ctx, store, e.Message.(*stockv1.Noted))
}

// ApplyNoted applies a row of ours to the place's book. Repeating it does nothing.
func ApplyNoted(ctx context.Context, store *stock.Store, n *stockv1.Noted) error {
	m := n.GetMovement()
	_, err := store.Apply(ctx, stock.Place{Seller: m.Seller, Warehouse: m.Warehouse, ShopNo: m.ShopNo}, stock.Batch{Rows: []stock.Row{rowOf(m)}})
	return err
}

// rowOf is a movement as a place's book applies it.
func rowOf(m *stockv1.Movement) stock.Row {
	return stock.Row{
		Movement: stock.Movement{
			No: m.FlowNo, At: m.At.GetSeconds(), Before: m.GetBefore(), After: m.GetAfter(), Change: m.Change, Linked: m.Before != nil && m.After != nil,
		},
		GoodsNo: m.GoodsNo, GoodsCode: m.GoodsCode,
	}
}

// Difference is a suspicion of a place as it is now.
type Difference struct {
	GoodsNo string
	Suspicion
}

// Differences returns the differences seen at a place, some at a time in any order. Begin with from = "" and continue
// with next until it is "".
func Differences(ctx context.Context, b ledger.Books, p stock.Place, from string) (found []Difference, next string, err error) {
	fields, next, err := b.ScanBook(ctx, driftBook(p), suspicionsPrefix, from)
	if err != nil {
		return nil, "", err
	}
	for _, f := range fields {
		d := Difference{GoodsNo: strings.TrimPrefix(f.Name, suspicionsPrefix)}
		if err := book.Decode(driftBook(p), f, &d.Suspicion); err != nil {
			return nil, "", err
		}
		found = append(found, d)
	}
	return found, next, nil
}
