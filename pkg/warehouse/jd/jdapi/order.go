package jdapi

import (
	"context"
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

// readers are the methods that change nothing at JD. A new one must be added here before a seller in shadow mode may call
// it.
var readers = []string{
	MethodExtQueryOrder, MethodQueryOrder, MethodQueryOrderStatus, MethodQueryOrderPacks, MethodQueryOrderListByStatus,
	MethodQueryPoOrder,
	MethodQueryVmiShopStockFlow, MethodQueryVmiShopStock, MethodQueryStock,
	MethodQueryGoodsLevelChange, MethodQueryCheckStockProfit, MethodQueryCheckStockLosses,
	MethodQueryDept, MethodQueryWarehouse, MethodQueryShop, MethodQueryShipper, MethodQuerySupplier, MethodQuerySpSource,
}

// AddOrder is a delivery order (docs/jd-api.md, Sales orders). An empty field is left out unless JD requires it. Fields
// of lines are comma lists with one element for each line; money is decimal text with two places; times are yyyy-MM-dd
// HH:mm:ss in Beijing time.
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

// AddOrder sends an order and returns JD's number for it (ESL…). An answer without a number, or with something that
// cannot be one, is ErrLost.
func (c *Client) AddOrder(ctx context.Context, order AddOrder) (eclpSoNo string, err error) {
	return c.addOrder(ctx, order)
}

// AddOrderText is AddOrder for an order in the form of ParamJSON.
func (c *Client) AddOrderText(ctx context.Context, param string) (eclpSoNo string, err error) {
	return c.addOrder(ctx, encoded(param))
}

func (c *Client) addOrder(ctx context.Context, order any) (eclpSoNo string, err error) {
	var answer struct {
		EclpSoNo Text `json:"eclpSoNo"`
	}
	if err := c.call(ctx, MethodAddOrder, order, &answer); err != nil {
		return "", err
	}
	return acceptedNumber(MethodAddOrder, "eclpSoNo", answer.EclpSoNo)
}

// ExtQueryOrder looks orders up by the ERP's numbers (docs/jd-api.md, Order look-up).
type ExtQueryOrder struct {
	// IsvUUIDs are at most 100 numbers without commas, because JD reads a comma list. SpSoNos are the platforms' order
	// numbers, an alternative to IsvUUIDs.
	IsvUUIDs     []string
	SpSoNos      []string
	IsvSource    string
	DepartmentNo string
}

// ExtOrder is one of JD's documents. If EclpSoNo is empty, there is none.
type ExtOrder struct {
	IsvUUID    Text `json:"isvUUID"`
	SpSoNo     Text `json:"spSoNo"`
	EclpSoNo   Text `json:"eclpSoNo"`
	MainStatus Text `json:"mainStatus"`
	OperTime   Text `json:"operTime"`
}

// ExtQueryOrder looks orders up by the ERP's numbers. Numbers without a document may have a row or not.
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

// Order is one whole document. JD's documentation mentions "consignee and address fields" without their names: they are
// read under the names of addOrder and stay "" if JD uses others.
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
	// Quantity was ordered, RealOutQty left; that is "" as long as JD does not know.
	Quantity   Text `json:"quantity"`
	RealOutQty Text `json:"realOutQty"`
}

// OrderPackage is one package.
type OrderPackage struct {
	PackageNo  Text `json:"packageNo"`
	PackWeight Text `json:"packWeight"`
	WayBill    Text `json:"wayBill"`
}

// OrderStatus is one state of a document. Their sequence in a list means nothing.
type OrderStatus struct {
	Code        Text `json:"soStatusCode"`
	Name        Text `json:"soStatusName"`
	OperateTime Text `json:"operateTime"`
}

type byNumber struct {
	EclpSoNo string `json:"eclpSoNo"`
}

// QueryOrder reads one document by JD's number. If there is none, it returns an empty Order or a refusal of
// ClassBusiness: JD's behaviour is unknown.
func (c *Client) QueryOrder(ctx context.Context, eclpSoNo string) (Order, error) {
	var answer struct {
		Orders List[Order] `json:"queryorder_result"`
	}
	if err := c.call(ctx, MethodQueryOrder, byNumber{eclpSoNo}, &answer); err != nil || len(answer.Orders) == 0 {
		return Order{}, err
	}
	return answer.Orders[0], nil
}

// QueryOrderStatus reads only the states of one document.
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

// OrderPacks is the packages of one document.
type OrderPacks struct {
	EclpSoNo Text       `json:"eclpSoNo"`
	Packs    List[Pack] `json:"orderPackageList"`
}

// Pack is one package and its content.
type Pack struct {
	PackageNo Text           `json:"packageNo"`
	Items     List[PackItem] `json:"soPackItemsList"`
}

// PackItem is one kind of goods in a package.
type PackItem struct {
	GoodsNo  Text `json:"goodsNo"`
	GoodsNum Text `json:"goodsNum"`
}

// QueryOrderPacks reads which goods are in which package. No other call says so.
func (c *Client) QueryOrderPacks(ctx context.Context, eclpSoNo string) ([]OrderPacks, error) {
	var answer struct {
		Rows List[OrderPacks] `json:"queryorderpacks_result"`
	}
	err := c.call(ctx, MethodQueryOrderPacks, byNumber{eclpSoNo}, &answer)
	return answer.Rows, err
}
