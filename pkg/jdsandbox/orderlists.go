package jdsandbox

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// maxOrderPage bounds a page of the lists; JD's limit is unknown.
const maxOrderPage = 1000

// queryOrderListByStatus lists orders that were created within the span and are at the status now (docs/jd-api.md, Order
// look-up).
func (jd *JD) queryOrderListByStatus(c *call) (any, *Refusal) {
	a := params{c: c}
	dept, status := a.dept(), Code(a.text("soStatus"))
	from, to := a.span("startDate", "endDate", math.MaxInt64)
	no, size := a.count("pageNo", 0, math.MaxInt32), a.count("pageSize", 0, maxOrderPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	list := []any{}
	for _, d := range jd.created(dept, from, to) {
		if c.lists("soNo", d.No) && last(jd.state.history(d, jd.shown(), jd.knobs.Split.ParentStays)) == status {
			list = append(list, d.No)
		}
	}
	return object{"resultCode": digits("1"), "errMsg": "", "soNoList": page(list, no, size)}, nil
}

// created are a department's documents that arrived within a span of the host's clock.
func (jd *JD) created(dept string, from, to int64) []*document {
	var docs []*document
	for _, d := range jd.state.all {
		if at := d.Created.UnixMilli(); d.Dept == dept && at >= from && at < to && d.exists(jd.shown()) {
			docs = append(docs, d)
		}
	}
	return docs
}

// queryOrderList lists a shop's orders with their lines, including those that JD created itself (docs/jd-api.md, Order
// look-up).
func (jd *JD) queryOrderList(c *call) (any, *Refusal) {
	a := params{c: c}
	dept, shop := a.dept(), a.text("shopNo")
	from, to := int64(math.MinInt64), int64(math.MaxInt64)
	if c.fields["salePlatformOrderNo"] == "" || c.fields["startDate"] != "" {
		from, to = a.span("startDate", "endDate", math.MaxInt64)
	}
	no, size := a.count("pageNo", 0, math.MaxInt32), a.count("pageSize", 0, maxOrderPage)
	if a.no != nil {
		return nil, a.no
	}
	c.done = true
	var docs []*document
	for _, d := range jd.created(dept, from, to) {
		root := d
		if d.Parent != "" {
			root = jd.state.byNo[d.Parent]
		}
		p := root.Params
		if p["shopNo"] == shop && (root.Own || !jd.knobs.Stock.OwnOrders) && c.lists("warehouseNo", p["warehouseNo"]) &&
			c.lists("salePlatformOrderNo", p["salesPlatformOrderNo"]) &&
			c.lists("orderStatus", string(last(jd.state.history(d, jd.shown(), jd.knobs.Split.ParentStays)))) {
			docs = append(docs, d)
		}
	}
	rows := []object{}
	for _, d := range page(docs, no, size) {
		v := jd.view(d)
		params := d.Params
		if d.Parent != "" {
			params = jd.state.byNo[d.Parent].Params
		}
		lines := make([]object, len(v.Lines))
		for i, l := range v.Lines {
			lines[i] = object{
				"goodsNo": l.GoodsNo, "isvGoodsNo": l.IsvGoodsNo, "price": l.Price, "orderLine": l.OrderLine, "quantity": n64(l.Quantity),
			}
			if l.RealOutQty != nil {
				lines[i]["realOutQty"] = n64(*l.RealOutQty)
			}
		}
		rows = append(rows, object{
			"eclpSoNo": v.EclpSoNo, "isvUUID": v.IsvUUID, "shopNo": v.ShopNo, "departmentNo": v.DepartmentNo, "warehouseNo": v.WarehouseNo,
			"shipperNo": v.ShipperNo, "shipperName": jd.shipperName(v.ShipperNo), "salesPlatformOrderNo": v.SalesPlatformOrderNo,
			"salePlatformSource": params["salePlatformSource"], "salesPlatformCreateTime": params["salesPlatformCreateTime"],
			"receivable": params["receivable"], "consigneeRemark": params["consigneeRemark"],
			"currentStatus": digits(v.Status), "currentStatusName": v.Status.name(), "wayBill": strings.Join(v.WayBills, ","),
			"totalPage": pages(len(docs), size), "totalNum": number(strconv.Itoa(len(docs))), "orderDetailList": lines,
			"createTime": time.UnixMilli(d.Created.UnixMilli()).In(beijing).Format(timeLayout),
		})
	}
	return rows, nil
}
