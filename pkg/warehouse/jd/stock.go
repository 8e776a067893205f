package jd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// flowSpan is the longest span of one query. JD publishes no limit; one ERP limits itself to 30 days. A day is far below
	// that: a span that JD considers too long would fail for ever, and short spans cost no more calls, because the number of
	// rows decides.
	flowSpan = 24 * time.Hour
	// flowPage is the page size of the flow: documented as below 100, and 100 works. Windows in progress continue by page
	// number: a change must make them skip the rows they have.
	flowPage = 100
	// shopStockPage and stockPage are the page sizes of a shop's and of the warehouse's stock. For the latter 100 is the
	// default and the maximum is unknown.
	shopStockPage = 100
	stockPage     = 100
	// changePage is the page size of stock-takes and level changes.
	changePage = 50
	// maxPages bounds every listing within one call; further rows are an error and are never left out silently.
	maxPages = 100
	// maxFlowNo is the longest number of a row.
	maxFlowNo = 64
	// maxRequestID is the longest request id.
	maxRequestID = 50
	// opUser is the operator that JD records for a set stock, shopTypeVMI the kind of shop (docs/jd-api.md, Shop stock).
	opUser      = "stockbridge"
	shopTypeVMI = 5
	// Saleable stock has this status and type.
	statusGood, typeSaleable = "1", "1"
)

// byReason are the rows that ERPs do not book, by JD's reason without blanks (docs/jd-api.md, Stock flow). ruleOf has the
// rest of the rules.
var byReason = map[string]warehouse.Rule{
	"设置VMI库存":  warehouse.RuleSet,
	"商品库存比例调整": warehouse.RuleRatio,
}

// ruleOf returns what a row means for the ERP's books. Not booked: a row that sets the stock or changes its ratio, a row
// with a negative balance (at JD's request), and a row that changes nothing. All others are booked. Rows of other
// warehouses were left out and counted before.
func ruleOf(reason string, change int64, stood ...int64) warehouse.Rule {
	if rule, known := byReason[strings.Join(strings.Fields(reason), "")]; known {
		return rule
	}
	switch {
	case slices.Min(stood) < 0:
		return warehouse.RuleNegative
	case change == 0:
		return warehouse.RuleUnchanged
	default:
		return warehouse.RuleMoves
	}
}

var (
	_ warehouse.StockReader = (*Warehouse)(nil)
	_ warehouse.StockSetter = (*Warehouse)(nil)
)

// usesSearchFlow reports whether the settings, accepted by an earlier version, name the method searchShopStockFlow. JD
// documents that it lists sales orders only ("销售出库单流水"): no receipts, returns, stock-takes or level changes, so no book
// can be built from it.
func (w *Warehouse) usesSearchFlow() bool {
	return w.seller.Setup.GetStock().GetFlow() == sellerv1.Stock_FLOW_SEARCH
}

// FlowTerms returns what may be asked.
func (w *Warehouse) FlowTerms() warehouse.FlowTerms {
	return warehouse.FlowTerms{MaxSpan: flowSpan, Linked: true, Partial: w.usesSearchFlow()}
}

// Flow reads one page of a shop's flow.
func (w *Warehouse) Flow(ctx context.Context, q warehouse.FlowQuery) (warehouse.FlowPage, error) {
	from, to := q.From.Truncate(time.Second), q.To.Truncate(time.Second)
	switch {
	case q.ShopNo == "" || q.Page < 1:
		return warehouse.FlowPage{}, fmt.Errorf("flow of shop %q, page %d: want a shop and a page from 1", q.ShopNo, q.Page)
	case to.Before(from) || to.Sub(from) > w.FlowTerms().MaxSpan:
		most := w.FlowTerms().MaxSpan
		return warehouse.FlowPage{}, fault.Permanent(fault.Reason{
			Code: "flow.span", Field: "to",
			ZH: fmt.Sprintf("从 %s 到 %s 的时间段无法一次读取，最长为 %v，请分段", from.Format(time.RFC3339), to.Format(time.RFC3339), most),
			EN: fmt.Sprintf("the span from %s to %s cannot be read at once: %v at most, ask for it in parts", from.Format(time.RFC3339), to.Format(time.RFC3339), most),
		})
	}
	query := jdapi.FlowQuery{
		DeptNo: w.account.Department, WarehouseNo: w.no, ShopNo: q.ShopNo, GoodsNo: q.GoodsNo, From: from, To: to, Page: q.Page, PageSize: flowPage,
	}
	rows, end, err := w.api.QueryVmiShopStockFlow(ctx, query)
	switch {
	case err != nil:
		return warehouse.FlowPage{}, fmt.Errorf("flow of shop %s: %w", q.ShopNo, w.stockReadError(jdapi.MethodQueryVmiShopStockFlow, err))
	case end:
		return warehouse.FlowPage{End: true}, nil
	case len(rows) == 0:
		return warehouse.FlowPage{}, missingEnd()
	}
	var page warehouse.FlowPage
	for i, r := range rows {
		if w.elsewhere(r.WarehouseNo) {
			page.Elsewhere++
			continue
		}
		n := fields{row: i}
		row := warehouse.FlowRow{
			No: string(r.FlowID), At: n.at("createTime", r.CreateTime), GoodsNo: n.text("goodsNo", r.GoodsNo), Reason: string(r.BizTypeName),
			Former: n.whole("formerNum", r.FormerNum), Now: n.whole("nowNum", r.NowNum),
		}
		if n.err != nil {
			return warehouse.FlowPage{}, n.err
		}
		row.Change = row.Now - row.Former
		row.Rule = ruleOf(row.Reason, row.Change, row.Former, row.Now)
		if row.No == "" || len(row.No) > maxFlowNo {
			row.No = derivedNo(row.No, row.GoodsNo, row.Reason, millis(row.At), whole(row.Former), whole(row.Now))
		}
		page.Rows = append(page.Rows, row)
	}
	return page, nil
}

// missingEnd is the error for an empty list without the text that ends a flow.
func missingEnd() error {
	return unusable("flow.end",
		"京东返回了空的库存流水列表，却没有给出表示结束的提示，无法确认流水已读完；将重新读取",
		"JD answered with an empty list and without the sentence that ends a flow, so it is unknown whether it ends there; it is read again")
}

// elsewhere reports whether a row belongs to another warehouse. A row that does not say belongs to the one that was asked
// for.
func (w *Warehouse) elsewhere(warehouseNo jdapi.Text) bool {
	return warehouseNo != "" && string(warehouseNo) != w.no
}

// derivedNo is a number for a row that has none, made of all the fields that distinguish JD's rows. Rows that are equal
// in all of them are one row: JD repeats rows.
func derivedNo(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x1f")))
	return "x" + hex.EncodeToString(sum[:])[:40]
}

func millis(at time.Time) string { return whole(at.UnixMilli()) }
func whole(n int64) string       { return strconv.FormatInt(n, 10) }

// fields reads one row and keeps the first field that cannot be read. A row with an unreadable field makes the page
// unusable, because leaving it out would lose a movement.
type fields struct {
	row int
	err error
}

func (n *fields) fail(field string, value jdapi.Text) {
	if n.err == nil {
		shown := []rune(string(value))
		text := string(shown[:min(len(shown), 40)])
		n.err = unusable("flow.row",
			fmt.Sprintf("京东返回的第 %d 行的 %s 为 %q，无法识别；本页将重新读取，若一直如此请联系京东", n.row+1, field, text),
			fmt.Sprintf("row %d has %s %q, which cannot be read; the page is read again, ask JD when that does not help", n.row+1, field, text))
	}
}

func (n *fields) whole(field string, value jdapi.Text) int64 {
	number, ok := value.Int()
	if !ok {
		n.fail(field, value)
	}
	return number
}

func (n *fields) wholeOrNone(field string, value jdapi.Text) int64 {
	if value == "" {
		return 0
	}
	return n.whole(field, value)
}

func (n *fields) text(field string, value jdapi.Text) string {
	if value == "" {
		n.fail(field, value)
	}
	return string(value)
}

func (n *fields) at(field string, value jdapi.Text) time.Time {
	at := value.Time()
	if at.IsZero() {
		n.fail(field, value)
	}
	return at
}

// ShopStockLimit is JD's.
func (w *Warehouse) ShopStockLimit() int { return maxShopStock }

// ShopStock reads a shop's stock of some goods.
func (w *Warehouse) ShopStock(ctx context.Context, shopNo string, goodsNos []string) (map[string]warehouse.ShopStock, error) {
	asked := slices.Compact(slices.Sorted(slices.Values(goodsNos)))
	if len(asked) > maxShopStock {
		return nil, fmt.Errorf("stock of shop %s: %d goods are more than %d", shopNo, len(asked), maxShopStock)
	}
	for _, no := range append(asked, shopNo) {
		if !queryable(no) {
			return nil, fmt.Errorf("stock of shop %s: %q is no number that JD can be asked by", shopNo, no)
		}
	}
	stock := map[string]warehouse.ShopStock{}
	query := jdapi.ShopStockQuery{DeptNo: w.account.Department, WarehouseNo: w.no, ShopNo: shopNo, GoodsNos: asked, PageSize: shopStockPage}
	// Goods count as having no stock only after the last page; JD decides how many rows a page has.
	for query.Page = 1; len(stock) < len(asked); query.Page++ {
		if query.Page > maxPages {
			return nil, fmt.Errorf("stock of shop %s: more than %d pages", shopNo, maxPages)
		}
		rows, err := w.api.QueryVmiShopStock(ctx, query)
		err = w.stockReadError(jdapi.MethodQueryVmiShopStock, err)
		if query.Page > 1 && saysEmpty(err) {
			break // the page before had an answer to the same query
		}
		if err != nil {
			return nil, fmt.Errorf("stock of shop %s: %w", shopNo, err)
		}
		if len(rows) == 0 {
			break
		}
		before := len(stock)
		if err := w.addShopStock(stock, asked, shopNo, rows); err != nil {
			return nil, fmt.Errorf("stock of shop %s: %w", shopNo, err)
		}
		if len(stock) == before {
			break // JD repeats the page
		}
	}
	return stock, nil
}

func (w *Warehouse) addShopStock(stock map[string]warehouse.ShopStock, asked []string, shopNo string, rows []jdapi.ShopStock) error {
	for i, r := range rows {
		no := string(r.GoodsNo)
		if !slices.Contains(asked, no) || w.elsewhere(r.WarehouseNo) || r.ShopNo != "" && string(r.ShopNo) != shopNo {
			continue
		}
		n := fields{row: i}
		has := warehouse.ShopStock{Num: n.whole("stockNum", r.StockNum), Occupied: n.wholeOrNone("occupyNum", r.OccupyNum)}
		if n.err != nil {
			return n.err
		}
		if known, twice := stock[no]; twice && known != has {
			return unusable("stock.twice", fmt.Sprintf("京东对商品 %s 给出了两个不同的店铺库存：%d 和 %d，稍后重新查询", no, known.Num, has.Num),
				fmt.Sprintf("JD gives two different stocks of goods %s: %d and %d; it is asked again", no, known.Num, has.Num))
		}
		stock[no] = has
	}
	return nil
}

// Stock reads one page of all goods in the warehouse.
func (w *Warehouse) Stock(ctx context.Context, page int) (warehouse.StockPage, error) {
	if page < 1 {
		return warehouse.StockPage{}, fmt.Errorf("stock: page %d, want one from 1", page)
	}
	rows, err := w.api.QueryStock(ctx, w.account.Department, w.no, page, stockPage)
	if err != nil {
		return warehouse.StockPage{}, fmt.Errorf("stock, page %d: %w", page, w.stockReadError(jdapi.MethodQueryStock, err))
	}
	// If JD does not return the number of rows, only an empty page is the end.
	p := warehouse.StockPage{Last: len(rows) == 0}
	for i, r := range rows {
		n := fields{row: i}
		row := warehouse.StockRow{
			GoodsNo: n.text("goodsNo", r.GoodsNo), GoodsCode: string(r.SellerGoodsSign),
			Status: string(r.StockStatus), Type: string(r.StockType), Level: string(r.GoodsLevel),
			Total: n.whole("totalNum", r.TotalNum), Usable: n.whole("usableNum", r.UsableNum),
			Saleable: r.StockStatus == statusGood && r.StockType == typeSaleable,
		}
		if row.GoodsCode == "" {
			row.GoodsCode = string(r.IsvSku)
		}
		total := int(n.wholeOrNone("recordCount", r.RecordCount))
		if w.elsewhere(r.WarehouseNo) {
			n.fail("warehouseNo", r.WarehouseNo)
		}
		if i > 0 && total != p.Total {
			n.fail("recordCount", r.RecordCount)
		}
		if n.err != nil {
			return warehouse.StockPage{}, n.err
		}
		p.Total = total
		p.Rows = append(p.Rows, row)
	}
	switch read := (page-1)*stockPage + len(rows); {
	case p.Last || p.Total == 0:
	case read == p.Total:
		p.Last = true
	case read < p.Total && len(rows) < stockPage:
		return warehouse.StockPage{}, unusable("stock.page",
			fmt.Sprintf("京东称共有 %d 行库存，但第 %d 页只有 %d 行，列表不完整；将重新读取", p.Total, page, len(rows)),
			fmt.Sprintf("JD has %d rows of stock, but page %d has only %d: the list is incomplete; it is read again", p.Total, page, len(rows)))
	}
	return p, nil
}

// SetShopStock overwrites a shop's stock of one kind of goods.
func (w *Warehouse) SetShopStock(ctx context.Context, requestID, shopNo, goodsNo string, num int64) error {
	if requestID == "" || len(requestID) > maxRequestID || shopNo == "" || goodsNo == "" || num < 0 {
		return fmt.Errorf("set stock of shop %q, goods %q to %d: want a request id of at most %d characters, and nothing below zero", shopNo, goodsNo, num, maxRequestID)
	}
	err := w.api.SetShopStockFixed(ctx, jdapi.SetShopStock{
		RequestID: requestID, DeptNo: w.account.Department, ShopNo: shopNo, WarehouseNo: w.no, StockNum: num, GoodsNo: goodsNo,
		OpUser: opUser, ShopType: shopTypeVMI,
	})
	if err != nil {
		return fmt.Errorf("set stock of shop %s, goods %s: %w", shopNo, goodsNo, w.stockReadError(jdapi.MethodSetShopStockFixed, err))
	}
	return nil
}

// emptyText matches texts by which JD may say that there is no such page; the real ones are unknown. It is used only
// where a mistake does little harm.
var emptyText = regexp.MustCompile(`为空|(暂无|没有|无|未查询到|未查到|未找到)[^，。；;]*(数据|记录|结果|单据|信息)|不存在`)

func saysEmpty(err error) bool {
	var no *warehouse.Rejected
	return errors.As(err, &no) && emptyText.MatchString(no.Reason.RemoteText)
}

// StockChanges returns the stock-takes and level changes of one kind of goods. Documents of the seller's other warehouses
// are left out if JD says so: stock-takes have a warehouseId, which may not be the number that we know.
func (w *Warehouse) StockChanges(ctx context.Context, goodsNo string, from, to time.Time) ([]warehouse.StockChange, error) {
	var changes []warehouse.StockChange
	add := func(kind string, no jdapi.Text, at jdapi.Text, quantity int64) {
		c := warehouse.StockChange{Kind: kind, No: string(no), At: at.Time(), Quantity: quantity}
		outside := !c.At.IsZero() && (c.At.Before(from) || c.At.After(to))
		if quantity != 0 && !outside && !slices.Contains(changes, c) {
			changes = append(changes, c)
		}
	}
	takes := func(sign int64) func([]jdapi.CheckStock) {
		return func(rows []jdapi.CheckStock) {
			for _, r := range rows {
				for _, d := range r.Details {
					n, given := d.DiffQty.Int()
					if given && string(d.GoodsNo) == goodsNo && !w.atOurOther(string(r.WarehouseID)) && (d.ProductLevel == "" || goodLevel(d.ProductLevel)) {
						add(warehouse.KindStockTake, r.CheckStockNo, r.CreateTime, sign*max(n, -n))
					}
				}
			}
		}
	}
	levels := func(rows []jdapi.LevelChange) {
		for _, r := range rows {
			for _, d := range r.Details {
				n, given := d.Qty.Int()
				if !given || string(d.GoodsNo) != goodsNo || w.elsewhere(r.WarehouseNo) || d.OutLevel == "" || d.IntoLevel == "" {
					continue
				}
				switch out, into := goodLevel(d.OutLevel), goodLevel(d.IntoLevel); {
				case out && !into:
					add(warehouse.KindLevelChange, r.OrderNo, r.CreateTime, -n)
				case into && !out:
					add(warehouse.KindLevelChange, r.OrderNo, r.CreateTime, n)
				}
			}
		}
	}
	q := jdapi.ChangeQuery{DeptNo: w.account.Department, From: from, To: to}
	err := documents(ctx, w, jdapi.MethodQueryCheckStockProfit, q, w.api.QueryCheckStockProfit, takes(1))
	if err == nil {
		err = documents(ctx, w, jdapi.MethodQueryCheckStockLosses, q, w.api.QueryCheckStockLosses, takes(-1))
	}
	if err == nil {
		err = documents(ctx, w, jdapi.MethodQueryGoodsLevelChange, q, w.api.QueryGoodsLevelChange, levels)
	}
	if err != nil {
		return nil, fmt.Errorf("changes of goods %s: %w", goodsNo, err)
	}
	slices.SortStableFunc(changes, func(a, b warehouse.StockChange) int { return a.At.Compare(b.At) })
	return changes, nil
}

// documents reads all pages. A refusal in business terms counts as an empty list: JD's text for "none" is unknown, and a
// difference in stock is reported whether or not it can be explained.
func documents[T any](ctx context.Context, w *Warehouse, method string, q jdapi.ChangeQuery, read func(context.Context, jdapi.ChangeQuery) ([]T, error), each func([]T)) error {
	q.PageSize = changePage
	for q.Page = 1; q.Page <= maxPages; q.Page++ {
		rows, err := read(ctx, q)
		err = w.stockReadError(method, err)
		var said *warehouse.Rejected
		if errors.As(err, &said) {
			return nil
		}
		if err != nil {
			return err
		}
		each(rows)
		if len(rows) < changePage {
			return nil
		}
	}
	return fmt.Errorf("more than %d documents; ask for a shorter span", maxPages*changePage)
}

// goodLevel reports whether goods of this level can be sold.
func goodLevel(level jdapi.Text) bool {
	n, ok := level.Int()
	return ok && n >= 100 && n <= 199
}

// atOurOther reports whether id is the number of another of the seller's warehouses.
func (w *Warehouse) atOurOther(id string) bool {
	return id != w.no && slices.ContainsFunc(w.seller.Setup.Warehouses, func(site *sellerv1.Warehouse) bool { return site.WarehouseNo == id })
}

// stockReadError returns what a failed call about stock means; nil for no error. A missing permission is held by method,
// so that orders do not wait for it. A refusal in business terms is a warehouse.Rejected: it may be about this shop only,
// and does not count as a failure of JD.
func (w *Warehouse) stockReadError(method string, err error) error {
	var no *jdapi.Error
	known := errors.As(err, &no)
	switch {
	case err == nil:
		return nil
	case known && !errors.Is(err, jdapi.ErrToken) && (no.Class == jdapi.ClassPermission || no.Code == codeNoMethod):
		short := shortMethod(method)
		zh, en := "请在京东开放平台开通", "have it granted at JD"
		return fault.Hold(seller.CausePermission(w.seller.Name(), w.account.Name+"/"+short), fmt.Errorf("%w: %w: %w", warehouse.ErrNotPermitted,
			refusal(no, "warehouse.permission", "京东不允许账号 "+w.account.Name+" 调用 "+short+"，"+zh, "JD does not let account "+w.account.Name+" call "+short+": "+en), err))
	}
	if held := w.setupError(err); held != nil {
		return held
	}
	if known && no.Class != jdapi.ClassTransient && no.Class != jdapi.ClassClock {
		return &warehouse.Rejected{Reason: refusal(no, "stock.refused",
			"京东没有执行关于库存的请求，请按其说明处理（店铺、仓库、商品编号是否正确）", "JD did not do what was asked about stock; see what it says (are the numbers of shop, warehouse and goods right?)")}
	}
	return err
}

// shortMethod is a method's name as operators know it.
func shortMethod(method string) string { return strings.TrimPrefix(method, "jingdong.eclp.") }

// unusable is the error for an answer that cannot be used: ask again, and do not count it as a failure of JD.
func unusable(code, zh, en string) error {
	return &warehouse.Rejected{Reason: fault.Reason{Code: code, ZH: zh, EN: en}}
}
