package warehouse

import (
	"context"
	"time"
)

// FlowReader reads the movements of a shop's stock. If the remote has several methods for it, each numbers its rows
// differently and has its own page size: rows cannot be matched between two methods, and a window cannot continue on a
// page of another method.
type FlowReader interface {
	// FlowTerms returns what may be asked.
	FlowTerms() FlowTerms
	// Flow reads one page. Rows come in any order and may come twice. An error says nothing about any row: read the page
	// again. Only FlowPage.End marks the end of the rows.
	Flow(ctx context.Context, q FlowQuery) (FlowPage, error)
}

// FlowTerms is what a flow may be asked for and what it contains.
type FlowTerms struct {
	// MaxSpan is the longest span of one query.
	MaxSpan time.Duration
	// Linked: each row holds the balances before and after it.
	Linked bool
	// Partial: the flow lists only some of the movements, so no book can be built from it.
	Partial bool
}

// FlowQuery is one page of a span.
type FlowQuery struct {
	// ShopNo is the warehouse's number of the shop.
	ShopNo string
	// GoodsNo limits the answer to one goods number of the warehouse; empty means all.
	GoodsNo string
	// From and To are both inclusive. Fractions of a second are cut off.
	From, To time.Time
	// Page counts from 1.
	Page int
}

// FlowPage is a page of rows.
type FlowPage struct {
	Rows []FlowRow
	// Elsewhere counts the rows that were left out because they belong to another warehouse, which reads them itself. They
	// are counted so that nothing disappears unnoticed.
	Elsewhere int
	// End: there are no rows on this page or any later one. Without End, an empty page may be followed by more rows.
	End bool
}

// Rule is what a row means for the ERP's books.
type Rule string

// The rules. The ERP books only RuleMoves; all of them change the shop's stock at the warehouse.
const (
	RuleMoves Rule = "moves"
	// RuleSet: the stock was set to a figure.
	RuleSet Rule = "set"
	// RuleRatio: the shop's ratio of the warehouse's stock was changed.
	RuleRatio Rule = "ratio"
	// RuleNegative: the row has a balance below zero, and the warehouse asks not to book it.
	RuleNegative Rule = "negative"
	// RuleUnchanged: the balance did not change.
	RuleUnchanged Rule = "unchanged"
)

// FlowRow is one movement of one kind of goods.
type FlowRow struct {
	// No identifies the row within the shop. If the remote gives no number, it is derived from all fields of the row.
	No string
	// At is when it happened by the warehouse's clock, to the second or finer.
	At      time.Time
	GoodsNo string
	// GoodsCode is the ERP's code; empty if not given.
	GoodsCode string
	// DocumentNo is the document that caused it; empty if not given.
	DocumentNo string
	// Reason is the warehouse's text.
	Reason string
	Rule   Rule
	// Change is Now minus Former.
	Change int64
	// Former and Now are the balances before and after; zero unless FlowTerms.Linked.
	Former, Now int64
}

// ShopStocker reads a shop's current stock.
type ShopStocker interface {
	// ShopStock returns the stock of at most ShopStockLimit goods. Goods missing from the result have no stock there.
	ShopStock(ctx context.Context, shopNo string, goodsNos []string) (map[string]ShopStock, error)
	// ShopStockLimit is the most goods of one call of ShopStock, at least 1.
	ShopStockLimit() int
}

// ShopStock is a shop's stock of one kind of goods: the figure that the flow moves, and how much of it is reserved.
type ShopStock struct{ Num, Occupied int64 }

// StockLister reads a warehouse's stock.
type StockLister interface {
	// Stock reads one page of all goods, counted from 1. Goods without stock are left out.
	Stock(ctx context.Context, page int) (StockPage, error)
}

// StockPage is a page of a warehouse's stock. Pages belong together only while Total stays the same.
type StockPage struct {
	Rows []StockRow
	// Total is the number of rows on all pages, 0 if the remote does not say; then only the rows show whether pages shifted.
	// Last: there is no further page.
	Total int
	Last  bool
}

// StockRow is one kind of goods in one condition. The same goods may have several rows.
type StockRow struct {
	GoodsNo, GoodsCode string
	// Status, Type and Level are the remote's codes.
	Status, Type, Level string
	Total, Usable       int64
	// Saleable: the usable quantity of this row can be sold.
	Saleable bool
}

// StockSetter sets a shop's stock at the warehouse.
type StockSetter interface {
	// SetShopStock overwrites the shop's stock. requestID identifies the request: repeating it is harmless, since the same
	// figure is set again even if the remote ignores the id.
	SetShopStock(ctx context.Context, requestID, shopNo, goodsNo string, num int64) error
}

// StockExplainer lists documents that change stock without an ERP's document.
type StockExplainer interface {
	// StockChanges returns those of one kind of goods in a span, oldest first, as far as the remote lists them. An empty
	// result proves nothing.
	StockChanges(ctx context.Context, goodsNo string, from, to time.Time) ([]StockChange, error)
}

// Kinds of a StockChange.
const (
	KindStockTake   = "stock-take"
	KindLevelChange = "level-change"
)

// StockChange is a line of a stock-take or a change of a goods level.
type StockChange struct {
	// Kind is KindStockTake or KindLevelChange.
	Kind, No string
	At       time.Time
	// Quantity is how much the saleable stock grew; negative if it shrank.
	Quantity int64
}

// StockReader is every ability that changes nothing.
type StockReader interface {
	FlowReader
	ShopStocker
	StockLister
	StockExplainer
}
