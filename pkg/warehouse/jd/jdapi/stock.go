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

// noFlow is the sentence by which JD ends a flow, `库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理` (docs/jd-api.md, Stock flow). What stands
// before and after its core may vary, and so may blanks and punctuation inside. Any word inside may not: that a shop's or
// a department's 信息为空 says nothing about the flow, and takes the rest of it away from whoever believes it.
var noFlow = regexp.MustCompile(`(?i)VMI[\pZ\s]*店铺[\pZ\s]*库存[\pZ\s]*流水[\pZ\pP\s]*信息[\pZ\pP\s]*为空`)

// EndsFlow tells whether err is JD saying that a flow has no (further) rows. Its code is not known, so it does not count.
func EndsFlow(err error) bool {
	var no *Error
	return errors.As(err, &no) && no.Says(noFlow)
}

// stamp is a moment as requests have it (docs/jd-api.md, Numbers and texts), to the second.
func stamp(at time.Time) string { return at.In(beijing).Format(time.DateTime) }

// stampOrNone is a moment, or none.
func stampOrNone(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return stamp(at)
}

// FlowQuery asks for a page of a shop's flow. From and To are JD's to judge; Page counts from 1.
type FlowQuery struct {
	DeptNo, WarehouseNo, ShopNo string
	// GoodsNo is the only goods that is told; all when empty (docs/jd-api.md, Stock flow: documented as required, and works without).
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

// QueryVmiShopStockFlow reads a page of a shop's flow. end is JD's sentence and nothing else: an empty list without it is
// neither rows nor the end.
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
	}{stamp(q.From), stamp(q.To), q.DeptNo, q.WarehouseNo, q.ShopNo, q.GoodsNo, q.Page, q.PageSize}
	var answer struct {
		Rows List[VmiFlow] `json:"vmiShopStockFlowList"`
	}
	err = c.call(ctx, MethodQueryVmiShopStockFlow, request, &answer)
	if EndsFlow(err) {
		return nil, true, nil
	}
	return answer.Rows, false, err
}

// complaint is a no inside an answer about stock, which quotes nobody's data. Its code is the service's own, whatever the
// gateway means by the same.
func complaint(code, text Text) *Error {
	return &Error{Code: short(string(code)), Text: short(string(text)), Class: ClassBusiness, said: string(text)}
}

// ShopStock is what a shop has of one goods in a warehouse.
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
	// GoodsNos: 50 at most (docs/jd-api.md, Shop stock).
	GoodsNos       []string
	Page, PageSize int
}

// QueryVmiShopStock asks what a shop has of some goods (docs/jd-api.md, Shop stock).
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

// Stock is what lies in a warehouse of one goods in one condition (docs/jd-api.md, Stock).
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
	// RecordCount is how many rows all pages have.
	RecordCount Text `json:"recordCount"`
}

// withoutZero leaves rows without stock out (docs/jd-api.md, Stock).
const withoutZero = 1

// QueryStock reads a page of all that lies in a warehouse, without what has no stock (docs/jd-api.md, Stock).
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

// SetShopStock overwrites what a shop has of a goods (docs/jd-api.md, Shop stock).
type SetShopStock struct {
	// RequestID has 50 characters at most.
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

// SetShopStockFixed overwrites what a shop has of a goods. It is done only when JD says so. The requestId of the answer is
// not looked at: JD documents it, of the same service behind its other gateway, as its own trace number.
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
			err = complaint(said.ResponseCode, said.ErrMsg)
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
	return changeRequest{q.DeptNo, q.Page, q.PageSize, stampOrNone(q.From), stampOrNone(q.To)}
}

// LevelChange is a document by which goods got another level (docs/jd-api.md, Stock).
type LevelChange struct {
	OrderNo     Text                    `json:"orderNo"`
	WarehouseNo Text                    `json:"warehouseNo"`
	CreateTime  Text                    `json:"createTime"`
	Details     List[LevelChangeDetail] `json:"details"`
}

// LevelChangeDetail is one goods of it.
type LevelChangeDetail struct {
	GoodsNo   Text `json:"goodsNo"`
	Qty       Text `json:"qty"`
	OutLevel  Text `json:"outLevel"`
	IntoLevel Text `json:"intoLevel"`
}

// QueryGoodsLevelChange reads a page of changes of level, 50 documents at most (docs/jd-api.md, Stock).
func (c *Client) QueryGoodsLevelChange(ctx context.Context, q ChangeQuery) ([]LevelChange, error) {
	var answer struct {
		Rows List[LevelChange] `json:"levelChangeResultList"`
	}
	err := c.call(ctx, MethodQueryGoodsLevelChange, q.request(), &answer)
	return answer.Rows, err
}

// CheckStock is a stock-take's document of gains, or of losses (docs/jd-api.md, Stock).
type CheckStock struct {
	CheckStockNo Text                   `json:"checkStockNo"`
	WarehouseID  Text                   `json:"warehouseId"`
	CreateTime   Text                   `json:"createTime"`
	Details      List[CheckStockDetail] `json:"details"`
}

// CheckStockDetail is one goods of it.
type CheckStockDetail struct {
	GoodsNo      Text `json:"goodsNo"`
	DiffQty      Text `json:"diffQty"`
	ProductLevel Text `json:"productLevel"`
}

// QueryCheckStockProfit reads a page of what stock-takes found too much, QueryCheckStockLosses of what they missed (docs/jd-api.md, Stock).
func (c *Client) QueryCheckStockProfit(ctx context.Context, q ChangeQuery) ([]CheckStock, error) {
	var answer struct {
		Rows List[CheckStock] `json:"checkstockProfitList"`
	}
	err := c.call(ctx, MethodQueryCheckStockProfit, q.request(), &answer)
	return answer.Rows, err
}

// QueryCheckStockLosses is described with QueryCheckStockProfit.
func (c *Client) QueryCheckStockLosses(ctx context.Context, q ChangeQuery) ([]CheckStock, error) {
	var answer struct {
		Rows List[CheckStock] `json:"checkstocklossesList"`
	}
	err := c.call(ctx, MethodQueryCheckStockLosses, q.request(), &answer)
	return answer.Rows, err
}
