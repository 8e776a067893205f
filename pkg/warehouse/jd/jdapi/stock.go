package jdapi

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The methods for stock (docs/jd-api.md, Stock).
const (
	MethodQueryVmiShopStockFlow = "jingdong.eclp.stock.queryVmiShopStockFlow"
	MethodQueryVmiShopStock     = "jingdong.eclp.stock.queryVmiShopStock"
	MethodQueryStock            = "jingdong.eclp.stock.queryStock"
	MethodSetShopStockFixed     = "jingdong.eclp.stock.setShopStockFixed"
	MethodQueryGoodsLevelChange = "jingdong.eclp.stock.queryGoodsLevelChange"
	MethodQueryCheckStockProfit = "jingdong.eclp.checkstock.queryCheckStockProfit"
	MethodQueryCheckStockLosses = "jingdong.eclp.checkstock.queryCheckStockLosses"
)

// noFlow matches the text that ends a flow, `库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理` (docs/jd-api.md, Stock flow). The parts
// before and after its core may vary, and so may blanks and punctuation inside. Other words inside may not: that the 信息
// of a shop or a department is 为空 says nothing about the flow, and taking it for the end would lose the rest of the flow.
var noFlow = regexp.MustCompile(`(?i)VMI[\pZ\s]*店铺[\pZ\s]*库存[\pZ\s]*流水[\pZ\pP\s]*信息[\pZ\pP\s]*为空`)

// EndsFlow reports whether err is JD's text that a flow has no further rows. Its code is unknown, so it is ignored.
func EndsFlow(err error) bool {
	var no *Error
	return errors.As(err, &no) && no.Matches(noFlow)
}

// formatTime formats a time for a request, to the second.
func formatTime(at time.Time) string { return at.In(beijing).Format(time.DateTime) }

// formatTimeOrNone is formatTime, and "" for the zero time.
func formatTimeOrNone(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return formatTime(at)
}

// FlowQuery asks for a page of a shop's flow. Page counts from 1.
type FlowQuery struct {
	DeptNo, WarehouseNo, ShopNo string
	// GoodsNo limits the answer to one kind of goods; empty means all (documented as required, but works without).
	GoodsNo        string
	From, To       time.Time
	Page, PageSize int
}

// VmiFlow is one movement (docs/jd-api.md, Stock flow).
type VmiFlow struct {
	FlowID      Text `json:"flowId"`
	CreateTime  Text `json:"createTime"`
	WarehouseNo Text `json:"warehouseNo"`
	GoodsNo     Text `json:"goodsNo"`
	FormerNum   Text `json:"formerNum"`
	NowNum      Text `json:"nowNum"`
	BizTypeName Text `json:"bizTypeName"`
}

// QueryVmiShopStockFlow reads a page of a shop's flow. end is set only by JD's text: an empty list without it is neither
// rows nor the end.
func (c *Client) QueryVmiShopStockFlow(ctx context.Context, q FlowQuery) (rows []VmiFlow, end bool, err error) {
	request := struct {
		StartTime   string `json:"startTime"`
		EndTime     string `json:"endTime"`
		DeptNo      string `json:"deptNo"`
		WarehouseNo string `json:"warehouseNo"`
		ShopNo      string `json:"shopNo"`
		GoodsNo     string `json:"goodsNo,omitempty"`
		StartPage   int    `json:"startPage"`
		OnePageNum  int    `json:"onePageNum"`
	}{formatTime(q.From), formatTime(q.To), q.DeptNo, q.WarehouseNo, q.ShopNo, q.GoodsNo, q.Page, q.PageSize}
	var answer struct {
		Rows List[VmiFlow] `json:"vmiShopStockFlowList"`
	}
	err = c.call(ctx, MethodQueryVmiShopStockFlow, request, &answer)
	if EndsFlow(err) {
		return nil, true, nil
	}
	return answer.Rows, false, err
}

// innerError is a refusal inside an answer about stock, which contains no personal data. Its code is the service's own,
// whatever the same code means at the gateway.
func innerError(code, text Text) *Error {
	return &Error{Code: shorten(string(code)), Text: shorten(string(text)), Class: ClassBusiness, raw: string(text)}
}

// ShopStock is a shop's stock of one kind of goods in a warehouse.
type ShopStock struct {
	ShopNo      Text `json:"shopNo"`
	WarehouseNo Text `json:"warehouseNo"`
	GoodsNo     Text `json:"goodsNo"`
	SpGoodsNo   Text `json:"spGoodsNo"`
	StockNum    Text `json:"stockNum"`
	OccupyNum   Text `json:"occupyNum"`
}

// ShopStockQuery asks for a page of a shop's stock.
type ShopStockQuery struct {
	DeptNo, WarehouseNo, ShopNo string
	// GoodsNos are at most 50.
	GoodsNos       []string
	Page, PageSize int
}

// QueryVmiShopStock reads a shop's stock of some goods (docs/jd-api.md, Shop stock).
func (c *Client) QueryVmiShopStock(ctx context.Context, q ShopStockQuery) ([]ShopStock, error) {
	request := struct {
		GoodsNos    string `json:"goodsNos"`
		ShopNos     string `json:"shopNos"`
		DeptNo      string `json:"deptNo"`
		WarehouseNo string `json:"warehouseNo,omitempty"`
		CurrentPage int    `json:"currentPage"`
		PageSize    int    `json:"pageSize"`
	}{strings.Join(q.GoodsNos, ","), q.ShopNo, q.DeptNo, q.WarehouseNo, q.Page, q.PageSize}
	var answer struct {
		Result List[struct {
			Rows List[ShopStock] `json:"vmiShopStocks"`
		}] `json:"queryvmishopstock_result"`
	}
	if err := c.call(ctx, MethodQueryVmiShopStock, request, &answer); err != nil || len(answer.Result) == 0 {
		return nil, err
	}
	return answer.Result[0].Rows, nil
}

// Stock is a warehouse's stock of one kind of goods in one condition.
type Stock struct {
	WarehouseNo     Text `json:"warehouseNo"`
	GoodsNo         Text `json:"goodsNo"`
	SellerGoodsSign Text `json:"sellerGoodsSign"`
	IsvSku          Text `json:"isvSku"`
	StockStatus     Text `json:"stockStatus"`
	StockType       Text `json:"stockType"`
	GoodsLevel      Text `json:"goodsLevel"`
	TotalNum        Text `json:"totalNum"`
	UsableNum       Text `json:"usableNum"`
	// RecordCount is the number of rows on all pages.
	RecordCount Text `json:"recordCount"`
}

// withoutZero leaves out rows without stock.
const withoutZero = 1

// QueryStock reads a page of a warehouse's stock, without rows that have none.
func (c *Client) QueryStock(ctx context.Context, deptNo, warehouseNo string, page, pageSize int) ([]Stock, error) {
	request := struct {
		DeptNo          string `json:"deptNo"`
		WarehouseNo     string `json:"warehouseNo"`
		CurrentPage     int    `json:"currentPage"`
		PageSize        int    `json:"pageSize"`
		ReturnZeroStock int    `json:"returnZeroStock"`
	}{deptNo, warehouseNo, page, pageSize, withoutZero}
	var answer struct {
		Rows List[Stock] `json:"querystock_result"`
	}
	err := c.call(ctx, MethodQueryStock, request, &answer)
	return answer.Rows, err
}

// SetShopStock overwrites a shop's stock of some goods (docs/jd-api.md, Shop stock).
type SetShopStock struct {
	// RequestID has at most 50 characters.
	RequestID   string `json:"requestId"`
	DeptNo      string `json:"deptNo"`
	ShopNo      string `json:"shopNo"`
	WarehouseNo string `json:"warehouseNo"`
	StockNum    int64  `json:"stockNum"`
	GoodsNo     string `json:"goodsNo"`
	OpUser      string `json:"opUser"`
	// ShopType 5 is VMI.
	ShopType int `json:"shopType,omitempty"`
}

// SetShopStockFixed overwrites a shop's stock of some goods. It succeeded only if JD says so. The requestId in the answer
// is ignored: for the same service behind its newer gateway JD documents it as its own trace number.
func (c *Client) SetShopStockFixed(ctx context.Context, request SetShopStock) error {
	var answer struct {
		Result List[struct {
			ResponseCode Text `json:"responseCode"`
			ErrMsg       Text `json:"errMsg"`
			Success      Text `json:"success"`
		}] `json:"ShopStockBaseResponse"`
	}
	if err := c.call(ctx, MethodSetShopStockFixed, request, &answer); err != nil {
		return err
	}
	err := fmt.Errorf("%w: it does not say whether it was done", ErrLost)
	if len(answer.Result) == 1 {
		switch said := answer.Result[0]; {
		case strings.EqualFold(string(said.Success), "true"):
			return nil
		case strings.EqualFold(string(said.Success), "false"):
			err = innerError(said.ResponseCode, said.ErrMsg)
		}
	}
	return fmt.Errorf("jd %s: %w", shortOf(MethodSetShopStockFixed), err)
}

// ChangeQuery asks for a page of documents of a span; a zero end is open.
type ChangeQuery struct {
	DeptNo         string
	From, To       time.Time
	Page, PageSize int
}

type changeRequest struct {
	DeptNo    string `json:"deptNo"`
	PageNo    int    `json:"pageNo"`
	PageSize  int    `json:"pageSize"`
	StartTime string `json:"startTime,omitempty"`
	EndTime   string `json:"endTime,omitempty"`
}

func (q ChangeQuery) request() changeRequest {
	return changeRequest{q.DeptNo, q.Page, q.PageSize, formatTimeOrNone(q.From), formatTimeOrNone(q.To)}
}

// LevelChange is a document that changed the level of goods.
type LevelChange struct {
	OrderNo     Text                    `json:"orderNo"`
	WarehouseNo Text                    `json:"warehouseNo"`
	CreateTime  Text                    `json:"createTime"`
	Details     List[LevelChangeDetail] `json:"details"`
}

// LevelChangeDetail is one kind of goods in it.
type LevelChangeDetail struct {
	GoodsNo   Text `json:"goodsNo"`
	Qty       Text `json:"qty"`
	OutLevel  Text `json:"outLevel"`
	IntoLevel Text `json:"intoLevel"`
}

// QueryGoodsLevelChange reads a page of level changes, at most 50 documents.
func (c *Client) QueryGoodsLevelChange(ctx context.Context, q ChangeQuery) ([]LevelChange, error) {
	var answer struct {
		Rows List[LevelChange] `json:"levelChangeResultList"`
	}
	err := c.call(ctx, MethodQueryGoodsLevelChange, q.request(), &answer)
	return answer.Rows, err
}

// CheckStock is the document of a stock-take's gains or losses.
type CheckStock struct {
	CheckStockNo Text                   `json:"checkStockNo"`
	WarehouseID  Text                   `json:"warehouseId"`
	CreateTime   Text                   `json:"createTime"`
	Details      List[CheckStockDetail] `json:"details"`
}

// CheckStockDetail is one kind of goods in it.
type CheckStockDetail struct {
	GoodsNo      Text `json:"goodsNo"`
	DiffQty      Text `json:"diffQty"`
	ProductLevel Text `json:"productLevel"`
}

// QueryCheckStockProfit reads a page of the gains that stock-takes found.
func (c *Client) QueryCheckStockProfit(ctx context.Context, q ChangeQuery) ([]CheckStock, error) {
	var answer struct {
		Rows List[CheckStock] `json:"checkstockProfitList"`
	}
	err := c.call(ctx, MethodQueryCheckStockProfit, q.request(), &answer)
	return answer.Rows, err
}

// QueryCheckStockLosses reads a page of the losses that stock-takes found.
func (c *Client) QueryCheckStockLosses(ctx context.Context, q ChangeQuery) ([]CheckStock, error) {
	var answer struct {
		Rows List[CheckStock] `json:"checkstocklossesList"`
	}
	err := c.call(ctx, MethodQueryCheckStockLosses, q.request(), &answer)
	return answer.Rows, err
}
