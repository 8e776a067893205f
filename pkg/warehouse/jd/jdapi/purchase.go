package jdapi

import (
	"context"
	"fmt"
	"strings"
)

// The methods for purchase orders (docs/jd-api.md, Purchase orders). The second one is JD's spelling.
const (
	MethodAddPoOrder    = "jingdong.eclp.po.addPoOrder"
	MethodCancelPoOrder = "jingdong.eclp.po.cancalPoOrder"
	MethodQueryPoOrder  = "jingdong.eclp.po.queryPoOrder"
)

// AddPoOrder is a purchase order. An empty field is left out unless JD requires it. Fields of lines are comma lists with
// one element for each line.
type AddPoOrder struct {
	SpPoOrderNo         string `json:"spPoOrderNo"`
	DeptNo              string `json:"deptNo"`
	WhNo                string `json:"whNo"`
	SupplierNo          string `json:"supplierNo"`
	InboundRemark       string `json:"inboundRemark,omitempty"`
	LinesDeptGoodsNo    string `json:"deptGoodsNo,omitempty"`
	LinesIsvGoodsNo     string `json:"isvGoodsNo,omitempty"`
	LinesNumApplication string `json:"numApplication"`
	LinesGoodsStatus    string `json:"goodsStatus"`
	LinesOrderLine      string `json:"orderLine,omitempty"`
}

// AddPoOrder sends a purchase order and returns JD's number for it (EPL…). An answer without a number, or with something
// that cannot be one, is ErrLost.
func (c *Client) AddPoOrder(ctx context.Context, order AddPoOrder) (poOrderNo string, err error) {
	return c.addPoOrder(ctx, order)
}

// AddPoOrderText is AddPoOrder for a purchase order in the form of ParamJSON.
func (c *Client) AddPoOrderText(ctx context.Context, param string) (poOrderNo string, err error) {
	return c.addPoOrder(ctx, encoded(param))
}

func (c *Client) addPoOrder(ctx context.Context, order any) (poOrderNo string, err error) {
	var answer struct {
		PoOrderNo Text `json:"poOrderNo"`
	}
	if err := c.call(ctx, MethodAddPoOrder, order, &answer); err != nil {
		return "", err
	}
	return acceptedNumber(MethodAddPoOrder, "poOrderNo", answer.PoOrderNo)
}

// acceptedNumber is JD's number in the answer to a method that creates a document; ErrLost if it is none.
func acceptedNumber(method, field string, no Text) (string, error) {
	switch {
	case no == "":
		return "", fmt.Errorf("jd %s: %w: no %s in it", shortOf(method), ErrLost, field)
	case !no.Number():
		return "", fmt.Errorf("jd %s: %w: %s is no number: %d bytes", shortOf(method), ErrLost, field, len(no))
	default:
		return string(no), nil
	}
}

// PoResult is JD's answer to a request to cancel. Code is "" if there is none: then nothing is known.
type PoResult struct {
	Code Text `json:"code"`
	Msg  Text `json:"msg"`
}

type byPoNumbers struct {
	PoOrderNo string `json:"poOrderNo"`
}

// CancelPoOrder asks JD to cancel a purchase order.
func (c *Client) CancelPoOrder(ctx context.Context, poOrderNo string) (PoResult, error) {
	var answer struct {
		Results List[PoResult] `json:"poResult"`
	}
	if err := c.call(ctx, MethodCancelPoOrder, byPoNumbers{poOrderNo}, &answer); err != nil || len(answer.Results) != 1 {
		return PoResult{}, err
	}
	return answer.Results[0], nil
}

// PoOrder is one of JD's purchase orders. If PoOrderNo is empty, there is none.
type PoOrder struct {
	PoOrderNo     Text         `json:"poOrderNo"`
	IsvPoOrderNo  Text         `json:"isvPoOrderNo"`
	DeptNo        Text         `json:"deptNo"`
	WhNo          Text         `json:"whNo"`
	SupplierNo    Text         `json:"supplierNo"`
	PoOrderStatus Text         `json:"poOrderStatus"`
	CompleteTime  Text         `json:"completeTime"`
	OperTime      Text         `json:"operTime"`
	Msg           Text         `json:"msg"`
	Items         List[PoItem] `json:"poItemModelList"`
}

// PoItem is one line of a purchase order, or what arrived of it in one condition.
type PoItem struct {
	GoodsNo    Text `json:"goodsNo"`
	IsvGoodsNo Text `json:"isvGoodsNo"`
	OrderLine  Text `json:"orderLine"`
	// NumApplication was asked for, in the condition GoodsStatus. RealInstoreQty arrived, in the condition RealGoodsLevel
	// or RealGoodsStatus; all three are "" as long as JD does not know.
	NumApplication  Text `json:"numApplication"`
	GoodsStatus     Text `json:"goodsStatus"`
	RealInstoreQty  Text `json:"realInstoreQty"`
	RealGoodsStatus Text `json:"realGoodsStatus"`
	RealGoodsLevel  Text `json:"realGoodsLevel"`
}

// QueryPoOrder reads purchase orders by JD's numbers, at most 100 without commas. Numbers without a document may have a
// row or not.
func (c *Client) QueryPoOrder(ctx context.Context, poOrderNos []string) ([]PoOrder, error) {
	var answer struct {
		Rows List[PoOrder] `json:"queryPoModelList"`
	}
	err := c.call(ctx, MethodQueryPoOrder, byPoNumbers{strings.Join(poOrderNos, ",")}, &answer)
	return answer.Rows, err
}
