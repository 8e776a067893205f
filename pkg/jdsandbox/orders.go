package jdsandbox

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// method is a call of the API: the key of its result (docs/jd-api.md, Envelopes) and its handler, which holds jd.mu. A
// nil result leaves the key out.
type method struct {
	key   string
	write bool
	do    func(*JD, *call) (any, *Refusal)
}

var methods = map[string]method{
	"eclp.order.addOrder":                   {key: "eclpSoNo", write: true, do: (*JD).addOrder},
	"eclp.order.cancelOrder":                {key: "cancelorder_result", write: true, do: (*JD).cancelOrder},
	"eclp.order.queryOrder":                 {key: "queryorder_result", do: (*JD).queryOrder},
	"eclp.order.queryOrderStatus":           {key: "queryorderstatus_result", do: (*JD).queryOrderStatus},
	"eclp.order.queryOrderPacks":            {key: "queryorderpacks_result", do: (*JD).queryOrderPacks},
	"eclp.order.ext.queryOrder":             {key: "queryorder_result", do: (*JD).extQueryOrder},
	"eclp.order.queryOrderList":             {key: "queryordervmi_result", do: (*JD).queryOrderList},
	"eclp.order.queryOrderListByStatus":     {key: "orderQueryResult", do: (*JD).queryOrderListByStatus},
	addPurchase:                             {key: "poOrderNo", write: true, do: (*JD).addPoOrder},
	"eclp.po.cancalPoOrder":                 {key: "poResult", write: true, do: (*JD).cancalPoOrder},
	"eclp.po.queryPoOrder":                  {key: "queryPoModelList", do: (*JD).queryPoOrder},
	"eclp.stock.queryStock":                 {key: "querystock_result", do: (*JD).queryStock},
	"eclp.stock.queryVmiShopStockFlow":      {key: "vmiShopStockFlowList", do: (*JD).queryVmiShopStockFlow},
	"eclp.stock.queryVmiShopStock":          {key: "queryvmishopstock_result", do: (*JD).queryVmiShopStock},
	"eclp.stock.searchShopStock":            {key: "shopStockSearchResponse", do: (*JD).searchShopStock},
	"eclp.stock.searchShopStockFlow":        {key: "shopStockSearchFlowResponse", do: (*JD).searchShopStockFlow},
	"eclp.stock.setShopStockFixed":          {key: "ShopStockBaseResponse", write: true, do: (*JD).setShopStockFixed},
	"eclp.stock.queryGoodsLevelChange":      {key: "levelChangeResultList", do: (*JD).queryGoodsLevelChange},
	"eclp.checkstock.queryCheckStockProfit": {key: "checkstockProfitList", do: (*JD).queryCheckStockProfit},
	"eclp.checkstock.queryCheckStockLosses": {key: "checkstocklossesList", do: (*JD).queryCheckStockLosses},
	"eclp.master.queryWarehouse":            {key: "querywarehouse_result", do: (*JD).queryWarehouse},
	"eclp.master.queryShop":                 {key: "queryshop_result", do: (*JD).queryShop},
	"eclp.master.queryShipper":              {key: "queryshipper_result", do: (*JD).queryShipper},
	"eclp.master.queryDept":                 {key: "querydept_result", do: (*JD).queryDept},
	"eclp.master.querySpSource":             {key: "queryspsource_result", do: (*JD).querySpSource},
	"eclp.master.querySupplier":             {key: "querysupplier_result", do: (*JD).querySupplier},
}

const (
	// defaultShipper is JD's own delivery.
	defaultShipper = "CYS0000010"
	// maxNumbers is the maximum of numbers in ext.queryOrder and queryPoOrder.
	maxNumbers = 100
	// maxLines bounds an order; JD's limit is unknown.
	maxLines = 1000
)

func (jd *JD) serve(c *call) (any, *Refusal) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	return methods[c.method].do(jd, c)
}

// The parameters that addOrder always requires (docs/jd-api.md, Sales orders).
var required = []string{"isvUUID", "isvSource", "departmentNo", "salePlatformSource", "consigneeName", "consigneeAddress", "orderMark", "quantity"}

// limits are the maximum lengths in characters. sellerNote has none: JD cuts it. orderMark is checked separately.
var limits = []struct {
	name  string
	limit int
}{
	{"isvUUID", 125}, {"bdOwnerNo", 50}, {"salesPlatformOrderNo", 200}, {"consigneeName", 20}, {"consigneeMobile", 30},
	{"consigneePhone", 30}, {"consigneeEmail", 100}, {"addressProvince", 100}, {"addressCity", 100}, {"addressCounty", 100},
	{"addressTown", 100}, {"consigneeAddress", 100}, {"thirdWayBill", 200}, {"packageMark", 50}, {"businessType", 50},
	{"destinationCode", 50}, {"sendWebsiteCode", 50}, {"monthlyAccount", 50}, {"appointDeliveryTime", 50},
	{"destinationName", 200}, {"sendWebsiteName", 200}, {"sendMode", 4}, {"receiveMode", 4}, {"thirdPayment", 4},
	{"insuredValue", 14}, {"shipment", 100}, {"sellerRemark", 500}, {"thirdSite", 500}, {"storeName", 100}, {"signIDCode", 6},
	{"supplierNo", 50}, {"agingType", 4}, {"agingProductType", 4}, {"isvPackTypeNo", 30},
}

// lineLimits are the maximum lengths of list elements.
var lineLimits = map[string]int{"isvGoodsNo": 50, "orderLine": 50, "packBatchNo": 50, "poNo": 50, "lot": 50}

// lineLists are the parallel lists. Those that carry JSON write _$_ for its commas, so they split alike.
var lineLists = []string{
	"goodsNo", "isvGoodsNo", "quantity", "skuGoodsLevel", "price", "goodsName", "type", "unit", "remark", "rate", "amount",
	"pAttributes", "isvLotattrs", "installVenderId", "orderLine", "batAttrs", "productionDate", "expirationDate",
	"packBatchNo", "poNo", "lot", "serialNo", "jdPackageType", "serviceProductJson", "payAmount", "sellerGoodsRemark",
	"leftExpirationPercent", "leftExpirationPercentOperate", "batAttrRangeJson", "cloudPrintInfoJson", "goodsDiscountPrice",
}

// readOrder checks the parameters of addOrder: code 60 for a missing one, 61 for an invalid value.
func readOrder(fields map[string]string, decimals int) (order, *Refusal) {
	if no := checkFields(fields, decimals); no != nil {
		return order{}, no
	}
	lines, no := readLines(fields, decimals)
	if no != nil {
		return order{}, no
	}
	return order{number: fields["isvUUID"], dept: fields["departmentNo"], params: fields, lines: lines}, nil
}

func missing(name string) *Refusal { return refuse(codeParamMissing, name) }

func wrong(name string) *Refusal { return refuse(codeParamValue, name) }

// checkFields checks the parameters of the whole order.
func checkFields(fields map[string]string, decimals int) *Refusal {
	for _, name := range required {
		if strings.TrimSpace(fields[name]) == "" {
			return missing(name)
		}
	}
	soType := fields["soType"]
	switch {
	case fields["shopNo"] == "" && soType != "2":
		return missing("shopNo")
	case fields["consigneeMobile"] == "" && fields["consigneePhone"] == "":
		return missing("consigneeMobile")
	case fields["salePlatformSource"] == "1" && fields["salesPlatformOrderNo"] == "":
		return missing("salesPlatformOrderNo")
	case fields["goodsNo"] == "" && fields["isvGoodsNo"] == "":
		return missing("goodsNo")
	}
	for _, name := range []string{"soType", "salePlatformSource", "insuredPriceFlag", "urgency"} {
		if v := fields[name]; v != "" && !isDigits(v) {
			return wrong(name)
		}
	}
	for _, l := range limits {
		if utf8.RuneCountInString(fields[l.name]) > l.limit {
			return wrong(l.name)
		}
	}
	mark := fields["orderMark"]
	if len(mark) != 50 || !isDigits(mark) {
		return wrong("orderMark")
	}
	if collect, ok := isMoney(fields["receivable"], decimals); !ok || collect != (mark[0] == '1') {
		return wrong("receivable") // an amount with cash on delivery, none without
	}
	if _, ok := isMoney(fields["insuredValue"], decimals); !ok {
		return wrong("insuredValue")
	}
	for _, name := range []string{"salesPlatformCreateTime", "expectDate"} {
		if v := fields[name]; v != "" && !isDigits(v) {
			if _, err := time.ParseInLocation(timeLayout, v, beijing); err != nil {
				return wrong(name)
			}
		}
	}
	return nil
}

// readLines splits the parallel lists: each has an element for every line, or is left out.
func readLines(fields map[string]string, decimals int) ([]Line, *Refusal) {
	quantities := split(fields["quantity"])
	lists := map[string][]string{}
	for _, name := range lineLists {
		if fields[name] == "" {
			continue
		}
		if lists[name] = split(fields[name]); len(lists[name]) != len(quantities) {
			return nil, wrong(name)
		}
		limit, limited := lineLimits[name]
		if limited && slices.ContainsFunc(lists[name], func(v string) bool { return utf8.RuneCountInString(v) > limit }) {
			return nil, wrong(name)
		}
	}
	if len(quantities) > maxLines {
		return nil, wrong("quantity")
	}
	lines := make([]Line, len(quantities))
	at := func(name string, i int) string {
		if lists[name] == nil {
			return ""
		}
		return lists[name][i]
	}
	for i := range lines {
		quantity, err := strconv.ParseInt(quantities[i], 10, 64)
		if err != nil || quantity <= 0 || quantity > 100_000_000 {
			return nil, wrong("quantity")
		}
		lines[i] = Line{
			GoodsNo: at("goodsNo", i), IsvGoodsNo: at("isvGoodsNo", i), OrderLine: at("orderLine", i), Price: at("price", i),
			Quantity: quantity,
		}
		if _, ok := isMoney(lines[i].Price, decimals); !ok {
			return nil, wrong("price")
		}
		if lines[i].GoodsNo == "" && lines[i].IsvGoodsNo == "" {
			return nil, wrong("goodsNo")
		}
	}
	return lines, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// isMoney accepts decimal text that is not negative, with at most so many decimals; empty means none. positive reports
// whether it is above zero.
func isMoney(s string, decimals int) (positive, ok bool) {
	whole, fraction, point := strings.Cut(s, ".")
	if s != "" && (!isDigits(whole) || point && !isDigits(fraction) || len(fraction) > decimals) {
		return false, false
	}
	return strings.Trim(s, "0.") != "", true
}

func (jd *JD) addOrder(c *call) (any, *Refusal) {
	o, no := readOrder(c.fields, jd.knobs.Decimals)
	if no != nil {
		return nil, no
	}
	if !c.allows(o.dept) {
		return nil, refuse(codeNotYours, "")
	}
	if no := jd.checkMaster(o); no != nil {
		return nil, no
	}
	twins := jd.state.numbered(o.number, o.dept)
	if len(twins) > 0 {
		jd.count.Repeated++
		switch jd.knobs.Repeat {
		case SameNumber:
			c.done = true
			return c.made(twins[0]), nil
		case RefuseRepeat:
			return nil, jd.refusal("", "单号["+o.number+"]已存在，请勿重复下单", "the order exists already")
		}
	}
	jd.settle()
	if no := jd.lacks(o); no != nil {
		return nil, no
	}
	rnd := jd.random("order", o.dept, o.number, strconv.Itoa(len(twins)))
	docs := jd.knobs.plan(o, rnd, jd.state.seq+1, c.arrived, jd.shown())
	if jd.state.stock.used() {
		for _, d := range docs {
			d.ShipAt = jd.knobs.Stock.ShipAt
		}
	}
	jd.change(record{Documents: docs})
	jd.count.Accepted++
	jd.count.Children += int64(len(docs) - 1)
	c.done = true
	return c.made(docs[0]), nil
}

// made records the document for the log and answers with its number.
func (c *call) made(d *document) string {
	c.eclpSoNo = d.No
	return d.No
}

// checkMaster refuses departments, shops, warehouses and carriers that the master data does not list, or that are
// disabled.
func (jd *JD) checkMaster(o order) *Refusal {
	m := &jd.master
	if no := jd.checkDept(o.dept); no != nil {
		return no
	}
	s := find(m.Shops, func(s Shop) bool { return s.ShopNo == o.params["shopNo"] && s.DeptNo == o.dept })
	if no := jd.checkListed("店铺", "shop", o.params["shopNo"], len(m.Shops) > 0, s != nil, s != nil && s.Disabled); no != nil {
		return no
	}
	if no := jd.checkWarehouse(o.dept, o.params["warehouseNo"]); no != nil {
		return no
	}
	p := find(m.Shippers, func(s Shipper) bool { return s.ShipperNo == o.params["shipperNo"] })
	return jd.checkListed("承运商", "carrier", o.params["shipperNo"], len(m.Shippers) > 0, p != nil, p != nil && p.Status == "0")
}

func (jd *JD) checkDept(dept string) *Refusal {
	d := find(jd.master.Departments, func(d Department) bool { return d.DeptNo == dept })
	return jd.checkListed("事业部", "department", dept, len(jd.master.Departments) > 0, d != nil, d != nil && d.Disabled)
}

func (jd *JD) checkWarehouse(dept, no string) *Refusal {
	w := find(jd.master.Warehouses, func(w Warehouse) bool { return w.WarehouseNo == no && w.serves(dept) })
	return jd.checkListed("仓库", "warehouse", no, len(jd.master.Warehouses) > 0, w != nil, w != nil && w.Disabled)
}

// checkListed refuses a number that a list does not have (if there is a list), or that is disabled. JD's texts for it are
// not published.
func (jd *JD) checkListed(what, en, no string, listed, known, disabled bool) *Refusal {
	switch {
	case no == "" || !listed || known && !disabled:
		return nil
	case known:
		return jd.refusal("", what+"["+no+"]已停用", en+" is disabled")
	default:
		return jd.refusal("", what+"["+no+"]不存在", en+" is unknown")
	}
}

// find is the first that fits, or nil.
func find[T any](list []T, fits func(T) bool) *T {
	if i := slices.IndexFunc(list, fits); i >= 0 {
		return &list[i]
	}
	return nil
}

func (w *Warehouse) serves(dept string) bool {
	return len(w.Departments) == 0 || slices.Contains(w.Departments, dept)
}

// find returns the one document that the call is about, or the answer if there is none.
func (jd *JD) find(c *call) (d *document, answer any, no *Refusal) {
	if c.eclpSoNo == "" {
		return nil, nil, refuse(codeParamMissing, "eclpSoNo")
	}
	d = jd.state.byNo[c.eclpSoNo]
	if d != nil && d.exists(jd.shown()) && c.allows(d.Dept) {
		return d, nil, nil
	}
	switch jd.knobs.UnknownNumber {
	case AnswerEmpty:
		return nil, object{}, nil
	case AnswerMissing:
		return nil, nil, nil
	default:
		return nil, nil, jd.refusal("", "出库单["+c.eclpSoNo+"]不存在", "no such order")
	}
}

func (jd *JD) cancelOrder(c *call) (any, *Refusal) {
	d, answer, no := jd.find(c)
	if d == nil {
		return answer, no
	}
	now := jd.shown()
	rnd := jd.random("cancel", d.No, strconv.Itoa(len(d.history(now))))
	result, plans := jd.knobs.cancel(jd.state, d, rnd, now)
	if len(plans) > 0 {
		jd.change(record{Plans: plans})
	}
	jd.count.CancelAsked[result]++
	c.done = result != CancelRefused
	said := map[CancelAnswer][2]string{Cancelled: {"1", "取消成功"}, Cancelling: {"3", "取消中"}, CancelRefused: {"2", "取消失败，订单已在出库"}}[result]
	return object{"code": digits(said[0]), "msg": said[1]}, nil
}

func (jd *JD) queryOrder(c *call) (any, *Refusal) {
	d, answer, no := jd.find(c)
	if d == nil {
		return answer, no
	}
	c.done = true
	v := jd.view(d)
	lines := make([]object, len(v.Lines))
	for i, l := range v.Lines {
		lines[i] = object{
			"goodsNo": l.GoodsNo, "isvGoodsNo": l.IsvGoodsNo, "price": l.Price, "orderLine": l.OrderLine,
			"quantity": number(strconv.FormatInt(l.Quantity, 10)),
		}
		if l.RealOutQty != nil {
			lines[i]["realOutQty"] = number(strconv.FormatInt(*l.RealOutQty, 10))
		}
	}
	packages := make([]object, len(v.Packages))
	for i, p := range v.Packages {
		packages[i] = object{
			"packageNo": p.PackageNo, "packWeight": number(p.PackWeight), "packVolume": number("0"), "wayBill": p.WayBill,
		}
	}
	splitFlag := "0"
	if len(v.Children) > 0 {
		splitFlag = "1"
	}
	result := object{
		"eclpSoNo": v.EclpSoNo, "isvUUID": v.IsvUUID, "shopNo": v.ShopNo, "departmentNo": v.DepartmentNo,
		"warehouseNo": v.WarehouseNo, "shipperNo": v.ShipperNo, "shipperName": jd.shipperName(v.ShipperNo),
		"salesPlatformOrderNo": v.SalesPlatformOrderNo, "currentStatus": digits(v.Status),
		"wayBill": strings.Join(v.WayBills, ","), "splitFlag": digits(splitFlag), "splitEclpSoNos": strings.Join(v.Children, ","),
		"orderDetailList": lines, "orderPackageList": packages, "orderStatusList": jd.statusList(d, v.History),
	}
	params := d.Params
	if d.Parent != "" {
		params = jd.state.byNo[d.Parent].Params
	}
	for _, name := range []string{"salePlatformSource", "consigneeName", "consigneeMobile", "consigneePhone", "consigneeAddress",
		"addressProvince", "addressCity", "addressCounty", "addressTown", "receivable", "consigneeRemark", "orderMark", "salesPlatformCreateTime"} {
		if params[name] != "" {
			result[name] = params[name]
		}
	}
	return result, nil
}

// view is the present document, by the knobs.
func (jd *JD) view(d *document) Document {
	return jd.state.view(d, jd.shown(), jd.knobs.Split.ParentStays)
}

func (jd *JD) statusList(d *document, history []Status) []object {
	list := make([]object, 0, 2*len(history))
	for _, s := range history {
		entry := object{
			"soStatusCode": number(s.Code), "soStatusName": s.Name, "operateUser": s.User,
			"operateTime": s.At.In(beijing).Format(timeLayout),
		}
		if list = append(list, entry); jd.knobs.HistoryDoubled {
			list = append(list, entry)
		}
	}
	if jd.knobs.HistoryShuffled {
		jd.random("shuffle", d.No, strconv.Itoa(len(list))).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	return list
}

func (jd *JD) shipperName(no string) string {
	for _, s := range jd.master.Shippers {
		if s.ShipperNo == no {
			return s.ShipperName
		}
	}
	if no == defaultShipper {
		return "京东快递"
	}
	return ""
}

func (jd *JD) queryOrderStatus(c *call) (any, *Refusal) {
	d, answer, no := jd.find(c)
	if d == nil {
		return answer, no
	}
	c.done = true
	return object{"eclpSoNo": d.No, "isvUUID": d.Number, "orderStatusList": jd.statusList(d, jd.view(d).History)}, nil
}

// queryOrderPacks leaves out documents that do not exist and those without packages yet.
func (jd *JD) queryOrderPacks(c *call) (any, *Refusal) {
	if c.eclpSoNo == "" {
		return nil, refuse(codeParamMissing, "eclpSoNo")
	}
	c.done = true
	rows := []object{}
	for _, no := range split(c.eclpSoNo) {
		d := jd.state.byNo[no]
		if d == nil || !d.exists(jd.shown()) || !c.allows(d.Dept) {
			continue
		}
		v := jd.view(d)
		if len(v.Packages) == 0 {
			continue
		}
		packages := make([]object, len(v.Packages))
		for i, p := range v.Packages {
			goods := make([]object, len(p.Goods))
			for j, g := range p.Goods {
				goods[j] = object{"goodsNo": g.GoodsNo, "goodsNum": number(strconv.FormatInt(g.GoodsNum, 10))}
			}
			packages[i] = object{"packageNo": p.PackageNo, "packWeight": number(p.PackWeight), "thirdWayBill": "", "soPackItemsList": goods}
		}
		rows = append(rows, object{
			"eclpSoNo": v.EclpSoNo, "isvUUID": v.IsvUUID, "wayBill": strings.Join(v.WayBills, ","), "shipperNo": v.ShipperNo,
			"shipperName": jd.shipperName(v.ShipperNo), "packCount": number(strconv.Itoa(len(packages))), "orderPackageList": packages,
		})
	}
	return rows, nil
}

func (jd *JD) extQueryOrder(c *call) (any, *Refusal) {
	name, index := "isvUUID", jd.state.byNumber
	if c.fields[name] == "" {
		name, index = "spSoNos", jd.state.bySpNo
	}
	asked := split(c.fields[name])
	switch {
	case len(asked) == 0:
		return nil, refuse(codeParamMissing, "isvUUID")
	case len(asked) > maxNumbers:
		return nil, refuse(codeParamValue, name)
	}
	dept := c.fields["departmentNo"]
	if !c.allows(dept) {
		return nil, refuse(codeNotYours, "")
	}
	c.done = true
	now, rows := jd.shown(), []object{}
	for _, no := range asked {
		known := false
		for _, d := range index[no] {
			if !c.allows(d.Dept) || dept != "" && d.Dept != dept || c.arrived.Sub(d.Created) < time.Duration(jd.knobs.FindLag) {
				continue
			}
			known = true
			rows = append(rows, jd.extRow(d))
			if jd.knobs.Split.ListChildren {
				for _, child := range jd.state.split(d, now) {
					rows = append(rows, jd.extRow(child))
				}
			}
		}
		if !known && jd.knobs.AbsentRows {
			row := object{"isvUUID": "", "spSoNo": "", "eclpSoNo": "", "resultCode": digits("0"), "resultMessage": "单号不存在"}
			row[map[string]string{"isvUUID": "isvUUID", "spSoNos": "spSoNo"}[name]] = no
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (jd *JD) extRow(d *document) object {
	v := jd.view(d)
	row := object{
		"isvUUID": v.IsvUUID, "spSoNo": v.SalesPlatformOrderNo, "eclpSoNo": v.EclpSoNo, "wayBill": strings.Join(v.WayBills, ","),
		"mainStatus": digits(v.Status), "resultCode": digits("1"), "resultMessage": "",
	}
	if n := len(v.History); n > 0 {
		row["operTime"] = v.History[n-1].At.In(beijing).Format(timeLayout)
	}
	return row
}
