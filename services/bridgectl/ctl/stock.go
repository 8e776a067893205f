package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/stock"
	"stockbridge/pkg/worker"
	"stockbridge/services/stock-syncer/syncer"
)

type stockCmd struct {
	Diff    stockDiffCmd    `cmd:"" help:"Our books of shops' stock beside the warehouse's figures, and what lies there."`
	Count   stockCountCmd   `cmd:"" help:"Count warehouses now, and compare."`
	Shares  stockSharesCmd  `cmd:"" help:"What shops that share stock may offer, and why."`
	Confirm stockConfirmCmd `cmd:"" help:"Say that the set-up's ratios are right although one was changed at the warehouse."`
	Correct stockCorrectCmd `cmd:"" help:"Set our book of one item to the warehouse's figure."`
}

// stockOf names the seller of the commands below.
type stockOf struct {
	Seller    string `arg:"" help:"Seller."`
	Warehouse string `placeholder:"CODE" help:"Only this warehouse, by the ERP's code."`
}

// open finds the seller and the ledger, and the warehouses that are counted.
func (c stockOf) open(ctx context.Context, a *app) (*seller.Seller, ledger.Ledger, []string, error) {
	registry, s, err := a.sellerNamed(ctx, c.Seller)
	if err != nil {
		return nil, nil, nil, err
	}
	registry.Close()
	l, err := a.ledger(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	codes := syncer.Warehouses(s)
	if c.Warehouse != "" {
		if !slices.Contains(codes, c.Warehouse) {
			return nil, nil, nil, hint(fmt.Errorf("warehouse %s of %s is not counted: no shop of it has a booking or is in a pool", c.Warehouse, c.Seller), "bridgectl seller show %s", c.Seller)
		}
		codes = []string{c.Warehouse}
	}
	return s, l, codes, nil
}

// goodsList limits a list of goods.
type goodsList struct {
	Goods string `placeholder:"NO" help:"Only this item, by the warehouse's number."`
	After string `placeholder:"NO" help:"Only items after this number: continue a list."`
	Limit int    `default:"200" placeholder:"N" help:"At most so many lines (default 200)."`
}

func (p goodsList) check() error {
	if p.Limit < 1 {
		return misused("--limit must be 1 at least")
	}
	return nil
}

func (p goodsList) takes(goods string) bool {
	return (p.Goods == "" || p.Goods == goods) && (p.After == "" || goods > p.After)
}

// cut keeps the first rows, in whole groups per item, and returns after which item to continue; "" when that is all.
func cut[T any](rows []T, limit int, goods func(T) string) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	n := limit
	for n > 0 && goods(rows[n-1]) == goods(rows[n]) {
		n--
	}
	if n == 0 { // one item has more rows than the limit
		for n = limit; n < len(rows) && goods(rows[n]) == goods(rows[n-1]); n++ {
		}
		if n == len(rows) {
			return rows, ""
		}
	}
	return rows[:n], goods(rows[n-1])
}

func (a *app) more(w io.Writer, next string) {
	if next != "" {
		fmt.Fprintf(w, "there are more: --after %s\n", clean(next))
	}
}

type shareJSON struct {
	Warehouse string `json:"warehouse"`
	Pool      string `json:"pool"`
	Shop      string `json:"shop"`
	GoodsNo   string `json:"goods_no"`
	GoodsCode string `json:"goods_code,omitempty"`
	// Published is absent when nothing was published yet; Share is what the current facts yield.
	Published *int64    `json:"told,omitempty"`
	Version   uint64    `json:"version,omitempty"`
	Share     int64     `json:"share"`
	Saleable  int64     `json:"saleable"`
	Pending   int64     `json:"pending"`
	Elsewhere int64     `json:"elsewhere"`
	CountedAt time.Time `json:"counted_at"`
}

type countedJSON struct {
	Warehouse string    `json:"warehouse"`
	CountedAt time.Time `json:"counted_at,omitzero"`
	// Waiting counts items that are still to be checked. Uncounted: shares only shrink until the next count.
	Waiting   int  `json:"waiting"`
	Uncounted bool `json:"uncounted"`
	// Ratio is a changed ratio at the warehouse that nobody confirmed yet: shares do not rise.
	Ratio *syncer.RatioChange `json:"ratio_changed,omitempty"`
}

type stockSharesCmd struct {
	stockOf
	Shop string `placeholder:"CODE" help:"Only this shop, by the ERP's code."`
	goodsList
}

func (stockSharesCmd) Help() string {
	return `pool = floor(ratio × (saleable − elsewhere)) − pending, share = floor(part × pool) − safety, and 0 below minimum.
Ends 1 when a ratio was changed at the warehouse while the set-up's stayed: shares fall but do not rise until you apply another
ratio, or confirm that it is right (stock confirm).

  bridgectl stock shares acme --goods EMG4418000000001
  bridgectl stock shares acme --shop S01 -o json`
}

func (c stockSharesCmd) Run(ctx context.Context, a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	s, l, codes, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	settings, err := worker.FromEnvironment[syncer.Config]()
	if err != nil {
		return err
	}
	doc := struct {
		Warehouses []countedJSON `json:"warehouses"`
		Shares     []shareJSON   `json:"shares"`
		Next       string        `json:"next,omitempty"`
	}{[]countedJSON{}, []shareJSON{}, ""}
	stale := false
	for _, code := range codes {
		if len(s.Pools(code)) == 0 {
			continue
		}
		o, err := syncer.ReadOverview(ctx, l, s, code, settings.Settle)
		if err != nil {
			return err
		}
		doc.Warehouses = append(doc.Warehouses, countedJSON{code, o.Head.Counted, o.Waiting, !o.Trusted, o.Head.Ratio})
		stale = stale || o.Head.Ratio != nil
		for from := ""; ; {
			shares, next, err := syncer.Shares(ctx, l, s, code, from)
			if err != nil {
				return err
			}
			for _, x := range shares {
				if !c.takes(x.GoodsNo) || c.Shop != "" && x.Shop != c.Shop {
					continue
				}
				j := shareJSON{Warehouse: code, Pool: x.Pool, Shop: x.Shop, GoodsNo: x.GoodsNo, GoodsCode: x.GoodsCode, Version: x.Version,
					Share: x.Now, Saleable: x.Saleable, Pending: x.Pending, Elsewhere: x.Elsewhere, CountedAt: x.CountedAt.UTC()}
				if x.Known {
					j.Published = &x.Published
				}
				doc.Shares = append(doc.Shares, j)
			}
			if from = next; next == "" {
				break
			}
		}
	}
	slices.SortFunc(doc.Shares, func(x, y shareJSON) int {
		return slices.Compare([]string{x.GoodsNo, x.Warehouse, x.Pool, x.Shop}, []string{y.GoodsNo, y.Warehouse, y.Pool, y.Shop})
	})
	doc.Shares = slices.CompactFunc(doc.Shares, func(x, y shareJSON) bool {
		return x.GoodsNo == y.GoodsNo && x.Warehouse == y.Warehouse && x.Pool == y.Pool && x.Shop == y.Shop
	})
	doc.Shares, doc.Next = cut(doc.Shares, c.Limit, func(x shareJSON) string { return x.GoodsNo })
	err = a.show(doc, func(w io.Writer) error {
		if len(doc.Warehouses) == 0 {
			_, err := fmt.Fprintf(w, "seller %s has no pools\n", c.Seller)
			return err
		}
		for _, h := range doc.Warehouses {
			a.counted(w, h)
		}
		t := table{head: []string{"WAREHOUSE", "POOL", "SHOP", "GOODS", "TOLD", "NOW", "SALEABLE", "PENDING", "ELSEWHERE", "CODE"}}
		n := func(v int64) string { return strconv.FormatInt(v, 10) }
		for _, x := range doc.Shares {
			published := "-"
			if x.Published != nil {
				published = n(*x.Published)
			}
			t.add(x.Warehouse, x.Pool, x.Shop, x.GoodsNo, published, n(x.Share), n(x.Saleable), n(x.Pending), n(x.Elsewhere), orDash(x.GoodsCode))
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		a.more(w, doc.Next)
		return nil
	})
	if err == nil && stale {
		err = errWrong
	}
	return err
}

// counted describes the state of a warehouse's count, and what to do about it, in the operator's language.
func (a *app) counted(w io.Writer, h countedJSON) {
	say := func(zh, en string) {
		if a.lang == "zh" {
			en = zh
		}
		fmt.Fprintln(w, clean(en))
	}
	switch {
	case h.CountedAt.IsZero():
		say(fmt.Sprintf("仓库 %s 尚未盘点", h.Warehouse), fmt.Sprintf("warehouse %s was not counted yet", h.Warehouse))
	case h.Uncounted:
		say(fmt.Sprintf("仓库 %s 盘点于 %s；账本此后重建，下次盘点前份额只减不增", h.Warehouse, when(h.CountedAt)),
			fmt.Sprintf("warehouse %s was counted at %s, and the ledger has a new epoch since: shares only shrink until the next count", h.Warehouse, when(h.CountedAt)))
	default:
		say(fmt.Sprintf("仓库 %s 盘点于 %s", h.Warehouse, when(h.CountedAt)), fmt.Sprintf("warehouse %s was counted at %s", h.Warehouse, when(h.CountedAt)))
	}
	if r := h.Ratio; r != nil {
		say(fmt.Sprintf("警告：店铺 %s 的库存比例于 %s 在仓库方有变动，份额只减不增；核对后修改 ratio 并 seller apply，或用 stock confirm 确认", r.ShopNo, when(r.At)),
			fmt.Sprintf("warning: the ratio of shop %s was changed at the warehouse at %s, so shares do not rise: compare, then seller apply another ratio, or stock confirm", r.ShopNo, when(r.At)))
	}
}

type stockConfirmCmd struct {
	stockOf
	because
}

func (stockConfirmCmd) Help() string {
	return `When a ratio is changed at the warehouse, shares of that warehouse fall but do not rise, because ours may be too high. Compare the
ratio of each pool with the warehouse's own screen. Where they differ, change the set-up and apply it: that answers the question too.
This command says that the set-up is right. It cannot be undone; the next change at the warehouse asks again.

  bridgectl stock confirm acme
  bridgectl stock confirm acme --warehouse W01`
}

// confirmedJSON is a warehouse whose ratios were confirmed.
type confirmedJSON struct {
	Warehouse string             `json:"warehouse"`
	Change    syncer.RatioChange `json:"change"`
}

func (c stockConfirmCmd) Run(ctx context.Context, a *app) error {
	_, l, codes, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	doc := []confirmedJSON{}
	if err := a.do(ctx, deed{"stock confirm", c.Seller, "warehouses " + strings.Join(codes, ", "), c.Why}, func() (int, error) {
		for _, code := range codes {
			change, err := syncer.ConfirmRatios(ctx, l, c.Seller, code, a.now())
			if err != nil {
				return len(doc), err
			}
			if change != nil {
				doc = append(doc, confirmedJSON{code, *change})
			}
		}
		return len(doc), nil
	}); err != nil {
		return err
	}
	return a.show(doc, func(w io.Writer) error {
		for _, d := range doc {
			fmt.Fprintf(w, "warehouse %s: the ratios of the set-up are right although that of shop %s was changed at %s\n", clean(d.Warehouse), clean(d.Change.ShopNo), when(d.Change.At))
		}
		if len(doc) == 0 {
			fmt.Fprintf(w, "no ratio of seller %s waits for confirmation\n", c.Seller)
		}
		return nil
	})
}

type stockCountCmd struct {
	stockOf
	because
	Wait time.Duration `default:"2m" placeholder:"DURATION" help:"How long to wait for it; 0s does not (default 2m)."`
}

func (stockCountCmd) Help() string {
	return `A count that is under way starts again. It costs a call for each hundred rows of the warehouse's stock; a large one takes minutes
at a small quota, and continues in the background.`
}

func (c stockCountCmd) Run(ctx context.Context, a *app) error {
	_, l, codes, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	asked := a.now()
	if err := a.do(ctx, deed{"stock count", c.Seller, "warehouses " + strings.Join(codes, ", "), c.Why}, func() (int, error) {
		for i, code := range codes {
			if err := syncer.RequestCount(ctx, l, c.Seller, code, a.Who, asked); err != nil {
				return i, err
			}
		}
		return len(codes), nil
	}); err != nil {
		return err
	}
	doc := []countedJSON{}
	waiting := codes
	if c.Wait > 0 {
		a.note("counting %s of %s …", strings.Join(codes, ", "), c.Seller)
	}
	for until := asked.Add(c.Wait); len(waiting) > 0 && a.now().Before(until); {
		head, err := syncer.HeadOf(ctx, l, c.Seller, waiting[0])
		if err != nil {
			return err
		}
		if head.CountRequest == nil && !head.Counted.Before(asked) {
			doc = append(doc, countedJSON{Warehouse: waiting[0], CountedAt: head.Counted.UTC(), Ratio: head.Ratio})
			waiting = waiting[1:]
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	err = a.show(doc, func(w io.Writer) error {
		for _, h := range doc {
			a.counted(w, h)
		}
		for _, code := range waiting {
			fmt.Fprintf(w, "warehouse %s: asked for\n", clean(code))
		}
		return nil
	})
	if err == nil && len(waiting) > 0 && c.Wait > 0 {
		return hint(errWrong, "it was not counted within %v: does stock-syncer run, and is the seller paused?", c.Wait)
	}
	return err
}

// diffJSON is one item of a place.
type diffJSON struct {
	Warehouse string `json:"warehouse"`
	ShopNo    string `json:"shop_no"`
	GoodsNo   string `json:"goods_no"`
	GoodsCode string `json:"goods_code,omitempty"`
	// Book is our figure, and Proof how far it can be trusted; Counted is the warehouse's figure when the two last
	// differed.
	Book       int64       `json:"book"`
	Proof      stock.Proof `json:"proof"`
	Counted    *int64      `json:"counted,omitempty"`
	Difference int64       `json:"difference"`
	// Since is when the difference was first seen, Published when it was published as one that stays.
	Since     time.Time `json:"since,omitzero"`
	Published time.Time `json:"told,omitzero"`
	// Total and Saleable are the warehouse's stock of all shops, by the last count.
	Total    *int64 `json:"total,omitempty"`
	Saleable *int64 `json:"saleable,omitempty"`
}

type stockDiffCmd struct {
	stockOf
	ShopNo string `placeholder:"NO" help:"Only this shop, by the warehouse's number."`
	All    bool   `help:"Every item, also where the two agree."`
	goodsList
}

func (stockDiffCmd) Help() string {
	return `The book is the sum of the movements of a shop's stock; beside it is the warehouse's figure of the shop's stock as of the last
comparison, and the warehouse's stock of all shops. "seen" is a difference that may be a delay; one that stays is published
as stock.drift.found. Ends 1 when there is one of those.

  bridgectl stock diff acme
  bridgectl stock diff acme --all --goods EMG4418000000001 -o json`
}

func (c stockDiffCmd) Run(ctx context.Context, a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	s, l, codes, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	doc := struct {
		Goods []diffJSON `json:"goods"`
		Next  string     `json:"next,omitempty"`
	}{[]diffJSON{}, ""}
	for _, at := range s.Places() {
		if !slices.Contains(codes, at.Warehouse) || c.ShopNo != "" && at.ShopNo != c.ShopNo {
			continue
		}
		rows, err := c.place(ctx, l, stock.Place{Seller: s.Name(), Warehouse: at.Warehouse, ShopNo: at.ShopNo})
		if err != nil {
			return err
		}
		doc.Goods = append(doc.Goods, rows...)
	}
	slices.SortFunc(doc.Goods, func(x, y diffJSON) int {
		return slices.Compare([]string{x.GoodsNo, x.Warehouse, x.ShopNo}, []string{y.GoodsNo, y.Warehouse, y.ShopNo})
	})
	stays := slices.ContainsFunc(doc.Goods, func(d diffJSON) bool { return !d.Published.IsZero() })
	doc.Goods, doc.Next = cut(doc.Goods, c.Limit, func(d diffJSON) string { return d.GoodsNo })
	for i, d := range doc.Goods {
		g, ok, err := syncer.GoodsOf(ctx, l, s.Name(), d.Warehouse, d.GoodsNo)
		if err != nil {
			return err
		}
		if ok {
			doc.Goods[i].Total, doc.Goods[i].Saleable = &g.Total, &g.Saleable
			if d.GoodsCode == "" {
				doc.Goods[i].GoodsCode = g.Code
			}
		}
	}
	err = a.show(doc, func(w io.Writer) error {
		if len(doc.Goods) == 0 {
			_, err := fmt.Fprintln(w, "no differences")
			return err
		}
		t := table{head: []string{"PLACE", "GOODS", "BOOK", "COUNTED", "DIFFERENCE", "PHYSICAL", "SALEABLE", "PROOF", "STATE"}}
		number := func(v *int64) string {
			if v == nil {
				return "-"
			}
			return strconv.FormatInt(*v, 10)
		}
		for _, d := range doc.Goods {
			state, difference := "-", "-"
			if d.Counted != nil {
				difference = fmt.Sprintf("%+d", d.Difference)
				state = "seen at " + when(d.Since)
				if !d.Published.IsZero() {
					state = "published at " + when(d.Published)
				}
			}
			t.add(d.Warehouse+"/"+d.ShopNo, d.GoodsNo, strconv.FormatInt(d.Book, 10), number(d.Counted), difference, number(d.Total), number(d.Saleable), string(d.Proof), state)
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		a.more(w, doc.Next)
		return nil
	})
	if err == nil && stays {
		err = errWrong
	}
	return err
}

// place lists the items of one place.
func (c stockDiffCmd) place(ctx context.Context, l ledger.Ledger, p stock.Place) ([]diffJSON, error) {
	seen := map[string]syncer.Difference{}
	for from := ""; ; {
		some, next, err := syncer.Differences(ctx, l, p, from)
		if err != nil {
			return nil, err
		}
		for _, d := range some {
			seen[d.GoodsNo] = d
		}
		if from = next; next == "" {
			break
		}
	}
	store := &stock.Store{Books: l}
	found := map[string]stock.Figure{}
	if c.All {
		for from := ""; ; {
			some, next, err := store.Figures(ctx, p, from)
			if err != nil {
				return nil, err
			}
			for _, f := range some {
				found[f.GoodsNo] = f
			}
			if from = next; next == "" {
				break
			}
		}
	}
	for no := range seen {
		f, err := store.Figure(ctx, p, no)
		if err != nil {
			return nil, err
		}
		found[no] = f
	}
	var rows []diffJSON
	for no, f := range found {
		if !c.takes(no) {
			continue
		}
		row := diffJSON{Warehouse: p.Warehouse, ShopNo: p.ShopNo, GoodsNo: no, GoodsCode: f.GoodsCode, Book: f.Num, Proof: f.Proof}
		if d, differs := seen[no]; differs {
			row.Counted, row.Difference, row.Since, row.Published = &d.Counted, d.Counted-f.Num, d.At.UTC(), d.PublishedAt.UTC()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

type stockCorrectCmd struct {
	Seller    string `arg:"" help:"Seller."`
	Warehouse string `required:"" placeholder:"CODE" help:"Warehouse, by the ERP's code."`
	ShopNo    string `required:"" placeholder:"NO" help:"Shop, by the warehouse's number."`
	Goods     string `required:"" placeholder:"NO" help:"Item, by the warehouse's number."`
	To        *int64 `placeholder:"N" help:"The warehouse's figure; that of the last comparison when it is not given."`
	Why       string `required:"" placeholder:"TEXT" help:"Why, kept with it."`
}

func (stockCorrectCmd) Help() string {
	return `Our book of the item is set to the warehouse's figure, and that is published as stock.noted with your name and reason. The ERP's own
stock does not change: what the ERP books is for the ERP to decide. It cannot be undone, except by another correction. Where movements
are missing that are still being fetched, wait for them: they would be booked beside the correction.`
}

func (c stockCorrectCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Seller)
	if err != nil {
		return err
	}
	registry.Close()
	at, ok := s.Place(c.Warehouse, c.ShopNo)
	if !ok {
		return hint(fmt.Errorf("%s/%s is no place of %s's whose stock is followed", c.Warehouse, c.ShopNo, c.Seller), "bridgectl window ls")
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	p := stock.Place{Seller: c.Seller, Warehouse: c.Warehouse, ShopNo: c.ShopNo}
	store := &stock.Store{Books: l}
	f, err := store.Figure(ctx, p, c.Goods)
	if err != nil {
		return err
	}
	to, err := c.figure(ctx, l, p)
	if err != nil {
		return err
	}
	if f.Rows > 0 && f.Num == to && len(f.Gaps) == 0 {
		return fmt.Errorf("the book of %s has %d already", c.Goods, to)
	}
	f.GoodsNo = c.Goods
	target := fmt.Sprintf("%s/%s goods %s from %d to %d", c.Warehouse, c.ShopNo, c.Goods, f.Num, to)
	if err := a.do(ctx, deed{"stock correct", c.Seller, target, c.Why}, func() (int, error) { return 1, c.set(ctx, a, at, p, store, f, to) }); err != nil {
		return err
	}
	doc := struct {
		Place   string `json:"place"`
		GoodsNo string `json:"goods_no"`
		Was     int64  `json:"was"`
		Is      int64  `json:"is"`
	}{p.Warehouse + "/" + p.ShopNo, c.Goods, f.Num, to}
	return a.show(doc, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s at %s: book set from %d to %d; the ERP's own stock is unchanged\n", clean(c.Goods), clean(doc.Place), f.Num, to)
		return err
	})
}

// set books the movement that turns our figure into the given one.
func (c stockCorrectCmd) set(ctx context.Context, a *app, at seller.Place, p stock.Place, store *stock.Store, is stock.Figure, to int64) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	by := c.Why + " (" + a.Who + ")"
	for len(is.Gaps) > 0 || is.Rows == 0 || is.Num != to {
		e := syncer.Correction(at, p, is, to, by, a.now())
		if len(is.Gaps) > 0 { // a gap is replaced by one synthetic movement: else the figures would never be consistent again
			e = syncer.FillGap(at, p, is, is.Gaps[0], by, a.now())
			a.note("warning: movements of %s are missing; should they be found, they are booked beside this correction", c.Goods)
		}
		if err := b.Publish(ctx, e); err != nil {
			return err
		}
		if err := syncer.ApplyEvent(ctx, store, e); err != nil {
			return hint(err, "it is published, but not in the book yet: repeat the command")
		}
		was := is
		if is, err = store.Figure(ctx, p, c.Goods); err != nil {
			return err
		}
		if is.Num == was.Num && is.Rows == was.Rows {
			return fmt.Errorf("the book of %s did not change: it was corrected the same way before", c.Goods)
		}
	}
	return nil
}

var errNoFigure = errors.New("no comparison found a difference for this item")

// figure is the warehouse's figure.
func (c stockCorrectCmd) figure(ctx context.Context, l ledger.Ledger, p stock.Place) (int64, error) {
	if c.To != nil {
		return *c.To, nil
	}
	for from := ""; ; {
		some, next, err := syncer.Differences(ctx, l, p, from)
		if err != nil {
			return 0, err
		}
		for _, d := range some {
			if d.GoodsNo == c.Goods {
				return d.Counted, nil
			}
		}
		if from = next; next == "" {
			return 0, hint(errNoFigure, "give the figure with --to, or `bridgectl stock count %s` and look again", c.Seller)
		}
	}
}
