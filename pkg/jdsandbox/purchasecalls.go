package jdsandbox

import (
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const addPurchase = "eclp.po.addPoOrder"

// purchaseLimits are the maximum lengths in characters.
var purchaseLimits = []struct {
	name  string
	limit int
}{
	{"spPoOrderNo", 50}, {"deptNo", 50}, {"whNo", 100}, {"supplierNo", 50}, {"referenceOrder", 500}, {"inboundRemark", 200},
	{"logicParam", 500}, {"orderMark", 50}, {"waybillNo", 500}, {"isvOutWarehouse", 100}, {"billOfLading", 100},
	{"sellerSaleOrder", 500}, {"saleOrder", 500}, {"acceptUnQcFlag", 4}, {"boxFlag", 4}, {"entirePrice", 20}, {"poReturnMode", 4},
	{"poType", 4}, {"multiReceivingFlag", 4}, {"bizType", 4},
}

// purchaseLists are the parallel lists with the maximum lengths of their elements, 0 for none. Lists of cases are parallel
// among themselves.
var (
	purchaseLists = map[string]int{
		"deptGoodsNo": 50, "isvGoodsNo": 50, "numApplication": 11, "goodsStatus": 4, "barCodeType": 0, "sidCheckout": 0, "unitPrice": 0,
		"totalPrice": 0, "qualityCheckRate": 0, "batAttrListJson": 0, "orderLine": 50, "isvLotattrs": 0, "checkLotattrs": 0,
	}
	caseLists = map[string]int{"boxNo": 100, "boxGoodsNo": 0, "boxGoodsQty": 0, "boxSerialNo": 0}
)

// readPurchase checks the parameters of addPoOrder as readOrder does those of addOrder.
func readPurchase(fields map[string]string, decimals int) ([]PurchaseLine, *Refusal) {
	for _, name := range []string{"spPoOrderNo", "deptNo", "whNo", "supplierNo", "numApplication", "goodsStatus"} {
		if strings.TrimSpace(fields[name]) == "" {
			return nil, missing(name)
		}
	}
	if fields["deptGoodsNo"] == "" && fields["isvGoodsNo"] == "" {
		return nil, missing("deptGoodsNo")
	}
	for _, l := range purchaseLimits {
		if utf8.RuneCountInString(fields[l.name]) > l.limit {
			return nil, wrong(l.name)
		}
	}
	if _, ok := isMoney(fields["entirePrice"], decimals); !ok {
		return nil, wrong("entirePrice")
	}
	count := len(split(fields["numApplication"]))
	if count > maxLines {
		return nil, wrong("numApplication")
	}
	lists, no := parallel(fields, purchaseLists, count)
	if no != nil {
		return nil, no
	}
	if _, no := parallel(fields, caseLists, len(split(fields["boxNo"]))); no != nil {
		return nil, no
	}
	at := func(name string, i int) string {
		if lists[name] == nil {
			return ""
		}
		return lists[name][i]
	}
	lines := make([]PurchaseLine, count)
	for i := range lines {
		l := &lines[i]
		*l = PurchaseLine{
			GoodsNo: at("deptGoodsNo", i), IsvGoodsNo: at("isvGoodsNo", i), OrderLine: at("orderLine", i), GoodsStatus: at("goodsStatus", i),
		}
		var err error
		l.Asked, err = strconv.ParseInt(at("numApplication", i), 10, 64)
		if err != nil || l.Asked <= 0 || l.Asked > 100_000_000 {
			return nil, wrong("numApplication")
		}
		if s := l.GoodsStatus; s != "1" && s != "2" && s != "3" && (len(s) != 3 || !isDigits(s)) {
			return nil, wrong("goodsStatus")
		}
		if l.GoodsNo == "" && l.IsvGoodsNo == "" {
			return nil, wrong("deptGoodsNo")
		}
		for _, name := range []string{"unitPrice", "totalPrice"} {
			if _, ok := isMoney(at(name, i), decimals); !ok {
				return nil, wrong(name)
			}
		}
	}
	return lines, nil
}

// parallel splits the lists that were sent: each has count elements.
func parallel(fields map[string]string, limits map[string]int, count int) (map[string][]string, *Refusal) {
	lists := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if fields[name] == "" {
			continue
		}
		limit := limits[name]
		if lists[name] = split(fields[name]); len(lists[name]) != count {
			return nil, wrong(name)
		}
		if limit > 0 && slices.ContainsFunc(lists[name], func(v string) bool { return utf8.RuneCountInString(v) > limit }) {
			return nil, wrong(name)
		}
	}
	return lists, nil
}

func (jd *JD) addPoOrder(c *call) (any, *Refusal) {
	lines, no := readPurchase(c.fields, jd.knobs.Decimals)
	if no != nil {
		return nil, no
	}
	p := &purchase{Number: c.fields["spPoOrderNo"], Dept: c.fields["deptNo"], Params: c.fields, Created: c.arrived, Lines: lines, Shop: jd.knobs.Purchases.Shop}
	if !c.allows(p.Dept) {
		return nil, refuse(codeNotYours, "")
	}
	if no := jd.checkPurchaseMaster(p); no != nil {
		return nil, no
	}
	twins := jd.state.purchasesOf(p.Number, p.Dept)
	if len(twins) > 0 {
		jd.count.Purchases.Repeated++
		switch jd.knobs.Purchases.Repeat {
		case SameNumber:
			c.done, c.poOrderNo = true, twins[0].No
			return twins[0].No, nil
		case RefuseRepeat:
			return nil, jd.refusal("", "采购单号["+p.Number+"]已存在，请勿重复下单", "the purchase order exists already")
		}
	}
	p.Seq = jd.state.seq + 1
	p.No = "EPL" + soNumber(p.Seq)[len("ESL"):]
	jd.knobs.Purchases.plan(p, jd.random("purchase", p.Dept, p.Number, strconv.Itoa(len(twins))), jd.shown())
	jd.change(record{Purchases: []*purchase{p}})
	jd.count.Purchases.Accepted++
	c.done, c.poOrderNo = true, p.No
	return p.No, nil
}

// checkPurchaseMaster is checkMaster for a purchase order.
func (jd *JD) checkPurchaseMaster(p *purchase) *Refusal {
	if no := jd.checkDept(p.Dept); no != nil {
		return no
	}
	if no := jd.checkWarehouse(p.Dept, p.Params["whNo"]); no != nil {
		return no
	}
	suppliers, no := jd.master.Suppliers, p.Params["supplierNo"]
	s := find(suppliers, func(s Supplier) bool { return s.EclpSupplierNo == no && s.DeptNo == p.Dept })
	return jd.checkListed("供应商", "supplier", no, len(suppliers) > 0, s != nil, s != nil && s.Status == "3")
}

func (jd *JD) cancalPoOrder(c *call) (any, *Refusal) {
	no := c.fields["poOrderNo"]
	if no == "" {
		return nil, missing("poOrderNo")
	}
	p := jd.state.purchaseByNo[no]
	if p == nil || !c.allows(p.Dept) {
		switch jd.knobs.UnknownNumber {
		case AnswerEmpty:
			return object{}, nil
		case AnswerMissing:
			return nil, nil
		}
		return nil, jd.noSuchPurchase(no)
	}
	k, now := &jd.knobs.Purchases, jd.shown()
	answer, plan := k.cancel(p, jd.random("cancel", p.No, strconv.Itoa(len(p.past(now)))), now)
	if plan != nil {
		jd.change(record{PurchasePlans: []purchaseReplan{{No: p.No, purchasePlan: *plan}}})
	}
	jd.count.Purchases.CancelAsked[answer]++
	c.done = answer != CancelRefused
	said := [2]string{"3", "取消中"}
	switch answer {
	case Cancelled:
		said = [2]string{"1", "取消成功"}
	case CancelRefused:
		said = [2]string{"2", "取消失败"}
	}
	if k.Cancel.Code != "" {
		said = [2]string{string(k.Cancel.Code), k.Cancel.Msg}
	}
	return object{"code": digits(said[0]), "msg": said[1]}, nil
}

func (jd *JD) noSuchPurchase(no string) *Refusal {
	return jd.refusal("", "采购单["+no+"]不存在", "no such purchase order")
}

func (jd *JD) queryPoOrder(c *call) (any, *Refusal) {
	asked := split(c.fields["poOrderNo"])
	switch {
	case len(asked) == 0:
		return nil, missing("poOrderNo")
	case len(asked) > maxNumbers:
		return nil, wrong("poOrderNo")
	}
	rows := []object{}
	for _, no := range asked {
		p := jd.state.purchaseByNo[no]
		if p != nil && c.allows(p.Dept) && c.arrived.Sub(p.Created) >= time.Duration(jd.knobs.FindLag) {
			rows = append(rows, jd.purchaseRow(p))
			continue
		}
		switch jd.knobs.Purchases.Unknown {
		case AnswerRow:
			rows = append(rows, object{"poOrderNo": "", "resultCode": digits("2"), "msg": "采购单[" + no + "]不存在"})
		case AnswerError:
			return nil, jd.noSuchPurchase(no)
		}
	}
	c.done = true
	return rows, nil
}

func (jd *JD) purchaseRow(p *purchase) object {
	v := viewPurchase(p, jd.shown())
	row := object{"poOrderNo": v.PoOrderNo, "isvPoOrderNo": v.SpPoOrderNo, "resultCode": digits("1"), "msg": ""}
	if p.Odd {
		row["resultCode"], row["msg"] = digits(jd.knobs.Purchases.Odd.Code), jd.knobs.Purchases.Odd.Msg
		if jd.knobs.Purchases.Odd.Bare {
			return row
		}
	}
	row["deptNo"], row["whNo"], row["supplierNo"], row["createUser"] = v.DeptNo, v.WhNo, v.SupplierNo, "JD"
	row["poOrderStatus"] = digits(v.Status)
	row["createTime"], row["completeTime"] = v.Created.In(beijing).Format(timeLayout), ""
	if end := v.History[len(v.History)-1]; end.Code == purchaseFinished {
		row["completeTime"] = end.At.In(beijing).Format(timeLayout)
	}
	items := []object{}
	for _, l := range v.Lines {
		items = append(items, jd.purchaseItems(v, l, begun(p.past(jd.shown())))...)
	}
	if jd.knobs.Purchases.RowsShuffled {
		jd.random("rows", p.No, strconv.Itoa(len(items))).Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	}
	row["poItemModelList"] = items
	return row
}

// purchaseItems are the rows of a line: one, or one for each condition that was received of it.
func (jd *JD) purchaseItems(v Purchase, l PurchaseLine, begun bool) []object {
	if l.GoodsNo == "" {
		l.GoodsNo = jd.state.stock.goodsNo(v.DeptNo, Line{IsvGoodsNo: l.IsvGoodsNo})
	}
	if l.IsvGoodsNo == "" {
		l.IsvGoodsNo = jd.state.stock.goods[goodsKey{v.DeptNo, l.GoodsNo}].IsvGoodsNo
	}
	text := func(n int64) digits { return digits(strconv.FormatInt(n, 10)) }
	parts := l.Goods
	if len(parts) == 0 {
		parts = []ReceivedGoods{conditionOf(l.GoodsStatus)}
	}
	rows := make([]object, len(parts))
	for i, g := range parts {
		row := object{
			"goodsNo": l.GoodsNo, "isvGoodsNo": l.IsvGoodsNo, "orderLine": l.OrderLine, "goodsStatus": digits(l.GoodsStatus),
			"numApplication": text(l.Asked), "remark": "", "batchCode": "",
		}
		for _, name := range []string{"shortQty", "damagedQty", "emptyQty", "expiredQty", "otherQty", "goodsDamagedQty", "deformedQty", "errorQty",
			"excessQty", "barcodeScanFailQty", "expirationDateErrorQty", "barcodeErrorQty", "pollutionQty", "markUnclearQty"} {
			row[name] = digits("0")
		}
		if jd.knobs.Purchases.NoOrderLine {
			delete(row, "orderLine")
		}
		if len(parts) > 1 && jd.knobs.Purchases.SplitAsked == "part" {
			row["numApplication"] = text(g.Num)
		}
		if begun {
			row["realInstoreQty"], row["realGoodsStatus"], row["realGoodsLevel"] = text(g.Num), digits(g.GoodsStatus), digits(g.GoodsLevel)
		}
		if g.GoodsStatus == "2" && conditionOf(l.GoodsStatus).GoodsStatus != "2" {
			row["damagedQty"] = text(g.Num)
		}
		if over := l.Real - l.Asked; i == 0 && over > 0 {
			row["excessQty"] = text(over)
		} else if i == 0 && over < 0 && v.Status == purchaseFinished {
			row["shortQty"] = text(-over)
		}
		rows[i] = row
	}
	return rows
}

// errNoPurchase: the control API answers 404.
var errNoPurchase = errors.New("no such purchase order")

// PurchaseQuery selects purchase orders. Empty fields select all.
type PurchaseQuery struct {
	SpPoOrderNo, DeptNo string
	Status              Code
	// After is the Seq of the last one known; Limit is the maximum, 0 means all.
	After int64
	Limit int
}

// PurchasePage is a page of purchase orders. Next is the `after` of the following page; 0 means none.
type PurchasePage struct {
	Purchases []Purchase `json:"purchases"`
	Next      int64      `json:"next,omitempty"`
}

func (jd *JD) purchasePage(q PurchaseQuery) PurchasePage {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	page := PurchasePage{Purchases: []Purchase{}}
	for _, p := range jd.state.purchases {
		if p.Seq <= q.After || q.SpPoOrderNo != "" && p.Number != q.SpPoOrderNo || q.DeptNo != "" && p.Dept != q.DeptNo ||
			q.Status != "" && p.status(jd.shown()) != q.Status {
			continue
		}
		if q.Limit > 0 && len(page.Purchases) == q.Limit {
			page.Next = page.Purchases[q.Limit-1].Seq
			break
		}
		page.Purchases = append(page.Purchases, viewPurchase(p, jd.shown()))
	}
	return page
}

// routePurchases registers what is known of purchase orders, and their receipt by hand.
func (jd *JD) routePurchases(handle route) {
	handle("GET purchases", func(r *http.Request) (any, error) {
		p := query{r.URL.Query(), nil}
		q := PurchaseQuery{
			SpPoOrderNo: p.Get("spPoOrderNo"), DeptNo: p.Get("deptNo"), Status: Code(p.Get("status")),
			After: p.number("after", 0, math.MaxInt64-1), Limit: int(p.number("limit", defaultLimit, pageLimit)),
		}
		if p.wrong != nil {
			return nil, bad(p.wrong)
		}
		return jd.purchasePage(q), nil
	})
	changed := func(no string, err error) (any, error) {
		p, found := jd.Purchase(no)
		if !found {
			return nil, problem{http.StatusNotFound, errNoPurchase}
		}
		return p, bad(err)
	}
	handle("GET purchases/{no}", func(r *http.Request) (any, error) { return changed(r.PathValue("no"), nil) })
	handle("POST purchases/{no}/receive", func(r *http.Request) (any, error) {
		var receipt PurchaseReceipt
		err := read(r, &receipt)
		if err == nil {
			err = jd.ReceivePurchase(r.PathValue("no"), receipt)
		}
		return changed(r.PathValue("no"), err)
	})
	handle("POST purchases/{no}/release", func(r *http.Request) (any, error) {
		return changed(r.PathValue("no"), jd.ReleasePurchase(r.PathValue("no")))
	})
}
