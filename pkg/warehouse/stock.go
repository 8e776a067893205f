package warehouse

import (
	"context"
	"time"
)

// FlowReader reads what moved a shop's stock. Where the far side has several methods, their rows have numbers of their own,
// and their pages another size: what one of them told is not known again by another, and no window goes on from a page of
// another.
type FlowReader interface {
	// FlowTerms says what may be asked.
	FlowTerms() FlowTerms
	// Flow reads one page. Rows come in any order, and one may come twice. An error says nothing about any row: the page is
	// to be read again. The end of the rows is told by FlowPage.End and by nothing else.
	Flow(ctx context.Context, q FlowQuery) (FlowPage, error)
}

// FlowTerms is what a flow can be asked for, and what it tells.
type FlowTerms struct {
	// MaxSpan is the longest span of one query.
	MaxSpan time.Duration
	// Linked: rows tell what stood before and after them.
	Linked bool
	// Partial: it tells only some of the movements, so no book can be made of it.
	Partial bool
}

// FlowQuery names a page of a span.
type FlowQuery struct {
	// ShopNo is the far side's.
	ShopNo string
	// GoodsNo is the far side's number of the only goods to be told; empty for all.
	GoodsNo string
	// From and To both belong to the span. Fractions of seconds are cut off.
	From, To time.Time
	// Page counts from 1.
	Page int
}

// FlowPage is a page of rows.
type FlowPage struct {
	Rows []FlowRow
	// Elsewhere is how many rows were left out because they say that they are of another warehouse. Each place reads its own;
	// they are counted here so that nothing disappears unseen.
	Elsewhere int
	// End: there are no rows on this page nor on any later one. Without it a page may be empty, and there are more.
	End bool
}

// Rule says what a row means to the ERP's books.
type Rule string

// The rules. RuleMoves is the only one by which the ERP books the row; all of them move the shop's stock at the far side.
const (
	RuleMoves Rule = "moves"
	// RuleSet: the stock was set to a figure.
	RuleSet Rule = "set"
	// RuleRatio: the shop's part of the warehouse's stock was changed.
	RuleRatio Rule = "ratio"
	// RuleNegative: the row tells of a stock below zero, and the far side asks not to book it.
	RuleNegative Rule = "negative"
	// RuleUnchanged: the stock after is the stock before.
	RuleUnchanged Rule = "unchanged"
)

// FlowRow is one movement of one goods.
type FlowRow struct {
	// No tells the row from all others of the shop. Where the far side has no number it is made of all that the row says.
	No string
	// At is when it happened, to the second or finer, by the far side's clock.
	At      time.Time
	GoodsNo string
	// GoodsCode is the ERP's; empty when not told.
	GoodsCode string
	// DocumentNo caused it; empty when not told.
	DocumentNo string
	// Reason is the far side's word.
	Reason string
	Rule   Rule
	// Change is Now less Former.
	Change int64
	// Former and Now are what stood before and after; zero unless FlowTerms.Linked.
	Former, Now int64
}

// ShopStockLimit is the most goods that one ShopStock takes (for JD: docs/jd-api.md, Shop stock).
const ShopStockLimit = 50

// ShopStocker tells a shop's stock as it stands now.
type ShopStocker interface {
	// ShopStock tells the stock of at most ShopStockLimit goods. A goods that is not in the answer has no stock there.
	ShopStock(ctx context.Context, shopNo string, goodsNos []string) (map[string]ShopStock, error)
}

// ShopStock is what a shop has of one goods: the figure that the flow moves, and what of it is taken.
type ShopStock struct{ Num, Occupied int64 }

// StockLister tells what lies in the warehouse.
type StockLister interface {
	// Stock reads one page of all goods, from 1. Goods without stock are left out.
	Stock(ctx context.Context, page int) (StockPage, error)
}

// StockPage is a page of a warehouse's stock. It is a part of a whole only while Total stays the same from page to page.
type StockPage struct {
	Rows []StockRow
	// Total is how many rows all pages have, 0 where the far side does not tell: then only the rows show whether pages moved.
	// Last: there is no further page.
	Total int
	Last  bool
}

// StockRow is one goods in one condition. A goods has several rows.
type StockRow struct {
	GoodsNo, GoodsCode string
	// Status, Type and Level are the far side's codes.
	Status, Type, Level string
	Total, Usable       int64
	// Saleable: what is usable of this row can be sold.
	Saleable bool
}

// StockSetter sets a shop's stock at the far side.
type StockSetter interface {
	// SetShopStock overwrites what stands there. requestID tells one wish from the next: repeated with the same one it has
	// one effect at most where the far side looks at it, and the same effect anyway.
	SetShopStock(ctx context.Context, requestID, shopNo, goodsNo string, num int64) error
}

// StockExplainer tells of documents that change stock without an ERP's document.
type StockExplainer interface {
	// StockChanges tells those of one goods in a span, the oldest first, as far as the far side does. That there is none proves
	// nothing.
	StockChanges(ctx context.Context, goodsNo string, from, to time.Time) ([]StockChange, error)
}

// Kinds of a StockChange.
const (
	KindStockTake   = "stock-take"
	KindLevelChange = "level-change"
)

// StockChange is a stock-take's line or a change of a goods' level.
type StockChange struct {
	// Kind is KindStockTake or KindLevelChange.
	Kind, No string
	At       time.Time
	// Quantity is what was added to what can be sold; negative when it was taken away.
	Quantity int64
}

// StockReader is all that changes nothing.
type StockReader interface {
	FlowReader
	ShopStocker
	StockLister
	StockExplainer
}
