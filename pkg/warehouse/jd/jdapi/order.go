package jdapi

import (
	"context"
	"fmt"
	"strings"
)

// The methods for sales orders (docs/jd-api.md, Sales orders).
const (
	MethodAddOrder         = "jingdong.eclp.order.addOrder"
	MethodExtQueryOrder    = "jingdong.eclp.order.ext.queryOrder"
	MethodQueryOrder       = "jingdong.eclp.order.queryOrder"
	MethodQueryOrderStatus = "jingdong.eclp.order.queryOrderStatus"
	MethodQueryOrderPacks  = "jingdong.eclp.order.queryOrderPacks"
)

// readers are the methods that change nothing at JD. One that is new has to be entered here before a seller in shadow may
// call it.
var readers = []string{
	MethodExtQueryOrder, MethodQueryOrder, MethodQueryOrderStatus, MethodQueryOrderPacks, MethodQueryOrderListByStatus,
	MethodQueryVmiShopStockFlow, MethodQueryVmiShopStock, MethodQueryStock,
	MethodQueryGoodsLevelChange, MethodQueryCheckStockProfit, MethodQueryCheckStockLosses,
	MethodQueryDept, MethodQueryWarehouse, MethodQueryShop, MethodQueryShipper, MethodQuerySupplier, MethodQuerySpSource,
}

// AddOrder is a delivery order (docs/jd-api.md, Sales orders). An empty field is not sent unless JD requires it. Fields of lines are comma lists
// with one element a line; money is decimal text with two places; times are yyyy-MM-dd HH:mm:ss in Beijing (docs/jd-api.md, Numbers and texts, docs/jd-api.md, Timestamp).
type AddOrder struct {
	IsvUUID                 string `json:"isvUUID"`
	IsvSource               string `json:"isvSource"`
	ShopNo                  string `json:"shopNo"`
	DepartmentNo            string `json:"departmentNo"`
	WarehouseNo             string `json:"warehouseNo,omitempty"`
	ShipperNo               string `json:"shipperNo,omitempty"`
	BdOwnerNo               string `json:"bdOwnerNo,omitempty"`
	SalesPlatformOrderNo    string `json:"salesPlatformOrderNo,omitempty"`
	SalePlatformSource      string `json:"salePlatformSource"`
	SalesPlatformCreateTime string `json:"salesPlatformCreateTime,omitempty"`
	ConsigneeName           string `json:"consigneeName"`
	ConsigneeMobile         string `json:"consigneeMobile,omitempty"`
	ConsigneePhone          string `json:"consigneePhone,omitempty"`
	ConsigneeEmail          string `json:"consigneeEmail,omitempty"`
	ExpectDate              string `json:"expectDate,omitempty"`
	AddressProvince         string `json:"addressProvince,omitempty"`
	AddressCity             string `json:"addressCity,omitempty"`
	AddressCounty           string `json:"addressCounty,omitempty"`
	AddressTown             string `json:"addressTown,omitempty"`
	ConsigneeAddress        string `json:"consigneeAddress"`
	ConsigneePostcode       string `json:"consigneePostcode,omitempty"`
	Receivable              string `json:"receivable,omitempty"`
	ConsigneeRemark         string `json:"consigneeRemark,omitempty"`
	OrderMark               string `json:"orderMark"`
	InsuredPriceFlag        string `json:"insuredPriceFlag,omitempty"`
	InsuredValue            string `json:"insuredValue,omitempty"`
	InvoiceTitle            string `json:"invoiceTitle,omitempty"`
	InvoiceContent          string `json:"invoiceContent,omitempty"`
	InvoiceState            string `json:"invoiceState,omitempty"`
	InvoiceType             string `json:"invoiceType,omitempty"`
	InvoiceTax              string `json:"invoiceTax,omitempty"`
	Urgency                 string `json:"urgency,omitempty"`
	SellerNote              string `json:"sellerNote,omitempty"`
	LinesGoodsNo            string `json:"goodsNo,omitempty"`
	LinesIsvGoodsNo         string `json:"isvGoodsNo,omitempty"`
	LinesQuantity           string `json:"quantity"`
	LinesPrice              string `json:"price,omitempty"`
	LinesOrderLine          string `json:"orderLine,omitempty"`
	LinesPackBatchNo        string `json:"packBatchNo,omitempty"`
	LinesProductionDate     string `json:"productionDate,omitempty"`
	LinesExpirationDate     string `json:"expirationDate,omitempty"`
}

// AddOrder hands an order over and tells JD's number of it (ESL…). An answer without the number, or with something that
// cannot be one, is ErrLost (docs/jd-api.md, Sales orders).
func (c *Client) AddOrder(ctx context.Context, order AddOrder) (eclpSoNo string, err error) {
	return c.addOrder(ctx, order)
}

// AddOrderText is AddOrder of an order that ParamJSON has written.
func (c *Client) AddOrderText(ctx context.Context, param string) (eclpSoNo string, err error) {
	return c.addOrder(ctx, written(param))
}

func (c *Client) addOrder(ctx context.Context, order any) (eclpSoNo string, err error) {
	var answer struct {
		EclpSoNo Text `json:"eclpSoNo"`
	}
	if err := c.call(ctx, MethodAddOrder, order, &answer); err != nil {
		return "", err
	}
	switch no := answer.EclpSoNo; {
	case no == "":
		return "", fmt.Errorf("jd order.addOrder: %w: no eclpSoNo in it", ErrLost)
	case !no.Number():
		return "", fmt.Errorf("jd order.addOrder: %w: eclpSoNo is no number: %d bytes", ErrLost, len(no))
	default:
		return string(no), nil
	}
}

// ExtQueryOrder asks after orders by the ERP's numbers (docs/jd-api.md, Order look-up).
type ExtQueryOrder struct {
	// IsvUUIDs are at most 100 numbers (docs/jd-api.md, Order look-up), none with a comma in it: JD reads a comma list. SpSoNos are the platforms'
	// order numbers, which JD asks for in the other's stead.
	IsvUUIDs     []string
	SpSoNos      []string
	IsvSource    string
	DepartmentNo string
}

// ExtOrder is one of JD's documents. A row without EclpSoNo means that there is none.
type ExtOrder struct {
	IsvUUID    Text `json:"isvUUID"`
	SpSoNo     Text `json:"spSoNo"`
	EclpSoNo   Text `json:"eclpSoNo"`
	MainStatus Text `json:"mainStatus"`
	OperTime   Text `json:"operTime"`
}

// ExtQueryOrder asks after orders by the ERP's numbers. Numbers without a document may have a row or not (docs/jd-api.md, Order look-up).
func (c *Client) ExtQueryOrder(ctx context.Context, query ExtQueryOrder) ([]ExtOrder, error) {
	request := struct {
		IsvUUID      string `json:"isvUUID,omitempty"`
		SpSoNos      string `json:"spSoNos,omitempty"`
		IsvSource    string `json:"isvSource,omitempty"`
		DepartmentNo string `json:"departmentNo,omitempty"`
	}{strings.Join(query.IsvUUIDs, ","), strings.Join(query.SpSoNos, ","), query.IsvSource, query.DepartmentNo}
	var answer struct {
		Rows List[ExtOrder] `json:"queryorder_result"`
	}
	err := c.call(ctx, MethodExtQueryOrder, request, &answer)
	return answer.Rows, err
}

// Order is all of one document (docs/jd-api.md, Sales orders). docs/jd-api.md, Sales orders lists "consignee and address fields" without their names [B]: they are read
// under those of addOrder (docs/jd-api.md, Sales orders), and are "" should JD call them otherwise.
type Order struct {
	EclpSoNo       Text               `json:"eclpSoNo"`
	IsvUUID        Text               `json:"isvUUID"`
	ShopNo         Text               `json:"shopNo"`
	DepartmentNo   Text               `json:"departmentNo"`
	WarehouseNo    Text               `json:"warehouseNo"`
	PlatformNo     Text               `json:"salesPlatformOrderNo"`
	PlatformSource Text               `json:"salePlatformSource"`
	PlatformTime   Text               `json:"salesPlatformCreateTime"`
	ExpectDate     Text               `json:"expectDate"`
	Receivable     Text               `json:"receivable"`
	OrderMark      Text               `json:"orderMark"`
	Remark         Text               `json:"consigneeRemark"`
	Name           Text               `json:"consigneeName"`
	Mobile         Text               `json:"consigneeMobile"`
	Phone          Text               `json:"consigneePhone"`
	Address        Text               `json:"consigneeAddress"`
	Province       Text               `json:"addressProvince"`
	City           Text               `json:"addressCity"`
	County         Text               `json:"addressCounty"`
	Town           Text               `json:"addressTown"`
	ShipperNo      Text               `json:"shipperNo"`
	ShipperName    Text               `json:"shipperName"`
	CurrentStatus  Text               `json:"currentStatus"`
	WayBill        Text               `json:"wayBill"`
	TpWayBill      Text               `json:"tpWayBill"`
	SplitEclpSoNos Text               `json:"splitEclpSoNos"`
	Lines          List[OrderLine]    `json:"orderDetailList"`
	Packages       List[OrderPackage] `json:"orderPackageList"`
	Statuses       List[OrderStatus]  `json:"orderStatusList"`
}

// OrderLine is one line of a document.
type OrderLine struct {
	GoodsNo    Text `json:"goodsNo"`
	IsvGoodsNo Text `json:"isvGoodsNo"`
	OrderLine  Text `json:"orderLine"`
	Price      Text `json:"price"`
	// Quantity is what was asked for, RealOutQty what left; that is "" before JD knows.
	Quantity   Text `json:"quantity"`
	RealOutQty Text `json:"realOutQty"`
}

// OrderPackage is one parcel.
type OrderPackage struct {
	PackageNo  Text `json:"packageNo"`
	PackWeight Text `json:"packWeight"`
	WayBill    Text `json:"wayBill"`
}

// OrderStatus is one step of a document. Their order in a list means nothing.
type OrderStatus struct {
	Code        Text `json:"soStatusCode"`
	Name        Text `json:"soStatusName"`
	OperateTime Text `json:"operateTime"`
}

type byNumber struct {
	EclpSoNo string `json:"eclpSoNo"`
}

// QueryOrder asks for one document by JD's number. None is an empty Order, or a refusal of ClassBusiness (docs/jd-api.md, Sales orders).
func (c *Client) QueryOrder(ctx context.Context, eclpSoNo string) (Order, error) {
	var answer struct {
		Orders List[Order] `json:"queryorder_result"`
	}
	if err := c.call(ctx, MethodQueryOrder, byNumber{eclpSoNo}, &answer); err != nil || len(answer.Orders) == 0 {
		return Order{}, err
	}
	return answer.Orders[0], nil
}

// QueryOrderStatus asks only for the steps of one document (docs/jd-api.md, Order look-up).
func (c *Client) QueryOrderStatus(ctx context.Context, eclpSoNo string) ([]OrderStatus, error) {
	var answer struct {
		Orders List[struct {
			Statuses List[OrderStatus] `json:"orderStatusList"`
		}] `json:"queryorderstatus_result"`
	}
	if err := c.call(ctx, MethodQueryOrderStatus, byNumber{eclpSoNo}, &answer); err != nil || len(answer.Orders) == 0 {
		return nil, err
	}
	return answer.Orders[0].Statuses, nil
}

// OrderPacks is the parcels of one document (docs/jd-api.md, Sales orders).
type OrderPacks struct {
	EclpSoNo Text       `json:"eclpSoNo"`
	Packs    List[Pack] `json:"orderPackageList"`
}

// Pack is one parcel and what lies in it.
type Pack struct {
	PackageNo Text           `json:"packageNo"`
	Items     List[PackItem] `json:"soPackItemsList"`
}

// PackItem is one goods in a parcel.
type PackItem struct {
	GoodsNo  Text `json:"goodsNo"`
	GoodsNum Text `json:"goodsNum"`
}

// QueryOrderPacks asks which goods lie in which parcel. No other call says so.
func (c *Client) QueryOrderPacks(ctx context.Context, eclpSoNo string) ([]OrderPacks, error) {
	var answer struct {
		Rows List[OrderPacks] `json:"queryorderpacks_result"`
	}
	err := c.call(ctx, MethodQueryOrderPacks, byNumber{eclpSoNo}, &answer)
	return answer.Rows, err
}
