package jd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/personal"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// JD's limits for purchase orders (docs/jd-api.md, Purchase orders): texts in characters, numbers of one query.
const (
	maxPurchaseNo    = 50
	maxInboundRemark = 200
	maxReadPurchases = 100
)

var _ warehouse.Purchaser = (*Warehouse)(nil)

// Purchases returns the channel of purchase orders. It is no Finder: JD finds none by the ERP's number.
func (w *Warehouse) Purchases() warehouse.PurchaseChannel { return purchases{w} }

type purchases struct{ w *Warehouse }

func (p purchases) Identity() warehouse.Identity { return p.w.Identity() }

func (p purchases) ReadLimit() int { return maxReadPurchases }

// Plan writes the fields that production ERPs send and JD accepts, and beyond them only the lines' ids and a remark.
func (p purchases) Plan(m *purchasev1.Audited) warehouse.Plan {
	cleaned := clean.Purchase(m)
	m = cleaned.Purchase
	d := newDraft(cleaned.Changes)
	order := jdapi.AddPoOrder{
		SpPoOrderNo: m.No, DeptNo: p.w.account.Department, WhNo: p.w.no,
		InboundRemark: d.cut("remark", m.Remark, maxInboundRemark),
	}
	d.limit("no", m.No, maxPurchaseNo)
	if no, ok := p.w.seller.Supplier(m.Supplier); ok {
		order.SupplierNo = no
	} else {
		d.hold(seller.CauseSupplier(p.w.seller.Name(), m.Supplier), "supplier.unmapped", "supplier",
			"供应商 "+m.Supplier+" 没有对应的京东供应商编号，请在 suppliers 中添加", "supplier "+m.Supplier+" has no number at JD: add it to suppliers")
	}
	lists := listsOf(&d, m.Lines)
	order.LinesDeptGoodsNo, order.LinesIsvGoodsNo = lists.goodsNo, lists.isvGoodsNo
	order.LinesOrderLine, order.LinesNumApplication = lists.orderLine, lists.quantity
	status := func(l *purchasev1.Line) string { return goodsStatuses[l.Grade] }
	var known int
	if order.LinesGoodsStatus, known = column(&d, m.Lines, "grade", status); known < len(m.Lines) {
		d.refuse("grade.invalid", firstWithout(m.Lines, "grade", status), "没有这种商品状态", "is no condition of goods")
	}
	d.finish(jdapi.MethodAddPoOrder, order)
	return d.Plan
}

// Send sends the plan's body unchanged.
func (p purchases) Send(ctx context.Context, m *purchasev1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	if plan.Err != nil {
		return warehouse.Receipt{}, plan.Err
	}
	no, err := p.w.api.AddPoOrderText(ctx, plan.Body)
	if err != nil {
		supplier, _ := p.w.seller.Supplier(m.GetSupplier())
		return warehouse.Receipt{}, p.w.writeError(subject{
			"仓库拒绝了采购单，请按其说明修改后重新审核", "the warehouse refused the purchase order; fix what it names and audit again",
			map[string]given{seller.NumberWarehouse: {m.GetWarehouse(), p.w.no}, seller.NumberSupplier: {m.GetSupplier(), supplier}},
		}, err)
	}
	return warehouse.Receipt{WarehouseNo: no, Cleaned: plan.Cleaned}, nil
}

// Cancel asks JD to cancel.
func (p purchases) Cancel(ctx context.Context, number string) (warehouse.Cancellation, error) {
	if !jdapi.Text(number).Number() {
		return warehouse.Cancellation{}, fmt.Errorf("cancel purchase order %q: not a number of JD's", number)
	}
	result, err := p.w.api.CancelPoOrder(ctx, number)
	if err != nil {
		return warehouse.Cancellation{}, p.w.writeError(subject{
			zh: "仓库没有受理采购单的取消请求，请按其说明处理", en: "the warehouse did not take the request to cancel the purchase order; see what it says",
		}, err)
	}
	c := warehouse.Cancellation{Code: string(result.Code), Text: personal.Hide(string(result.Msg))}
	switch result.Code {
	case "1":
		c.Verdict = warehouse.CancelDone
	case "2":
		c.Verdict = warehouse.CancelRefused
	}
	return c, nil
}

// Read reads purchase orders by JD's numbers.
func (p purchases) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*purchasev1.Received], error) {
	nos := slices.Compact(slices.Sorted(slices.Values(numbers)))
	if len(nos) > maxReadPurchases {
		return nil, fmt.Errorf("read %d purchase orders: at most %d at a time", len(nos), maxReadPurchases)
	}
	for _, no := range nos {
		if !jdapi.Text(no).Number() {
			return nil, fmt.Errorf("read purchase order %q: not a number of JD's", no)
		}
	}
	rows, err := halving(nos, noSuchPurchase, func(nos []string) ([]jdapi.PoOrder, error) { return p.w.api.QueryPoOrder(ctx, nos) })
	if err != nil {
		return nil, fmt.Errorf("read purchase orders: %w", p.w.readError(err))
	}
	of := map[string][]jdapi.PoOrder{}
	for _, row := range rows {
		no := string(row.PoOrderNo)
		switch {
		case no == "" && row.IsvPoOrderNo == "" && len(row.Items) == 0:
			// JD has nothing under a number.
		case no == "":
			return nil, errors.New("read purchase orders: JD lists one without its number")
		case slices.Contains(nos, no):
			of[no] = append(of[no], row)
		}
	}
	documents := make(map[string]warehouse.Document[*purchasev1.Received], len(of))
	for no, rows := range of {
		documents[no] = purchaseDocument(rows)
	}
	return documents, nil
}

// purchaseDocument reads the rows of one purchase order. There is one, unless JD repeats it.
func purchaseDocument(rows []jdapi.PoOrder) warehouse.Document[*purchasev1.Received] {
	row := rows[0]
	d := warehouse.Document[*purchasev1.Received]{Number: string(row.PoOrderNo), No: string(row.IsvPoOrderNo)}
	at := row.OperTime
	if row.PoOrderStatus == purchaseCompleted {
		at = cmp.Or(row.CompleteTime, at)
	}
	d.State = stateIn(purchaseStatuses, row.PoOrderStatus, "", at)
	var err error
	if d.Detail, err = received(row); err == nil && slices.ContainsFunc(rows, func(r jdapi.PoOrder) bool { return !reflect.DeepEqual(r, row) }) {
		err = errors.New("JD lists it twice, with different content")
	}
	if err != nil {
		d.State.Status, d.Detail = documentv1.Status_STATUS_UNSPECIFIED, nil
		d.Err = fmt.Errorf("purchase order %s: %w", d.Number, err)
	}
	return d
}

// purchaseCompleted is the status at which all that will arrive has arrived.
const purchaseCompleted = "70"

// purchaseStatuses are JD's codes of a purchase order, listed with their sources in docs/jd-api.md, Purchase orders.
var purchaseStatuses = map[string]step{
	"4":               {documentv1.Status_STATUS_WAITING, "等待箱明细"},
	"5":               {documentv1.Status_STATUS_WAITING, "等待序列号清单"},
	"10":              {documentv1.Status_STATUS_RECEIVED, "新建"},
	"20":              {documentv1.Status_STATUS_RECEIVED, "初始化"},
	purchaseCompleted: {documentv1.Status_STATUS_COMPLETED, "完成"},
	"90":              {documentv1.Status_STATUS_CANCELLING, "取消中"},
	"91":              {documentv1.Status_STATUS_CANCELLED, "取消成功"},
	"92":              {documentv1.Status_STATUS_CANCEL_REFUSED, "取消失败"},
}

// received is what arrived so far. A completed purchase order that says of no line what arrived is an incomplete answer.
func received(row jdapi.PoOrder) (*purchasev1.Received, error) {
	r := &purchasev1.Received{Text: personal.Hide(string(row.Msg))}
	said := false
	for i, item := range row.Items {
		grade, level := condition(item)
		l := &purchasev1.ReceivedLine{
			LineId: string(item.OrderLine), GoodsCode: string(item.IsvGoodsNo), WarehouseGoodsNo: string(item.GoodsNo), Grade: grade, Level: level,
		}
		var err error
		if l.Quantity, err = pieces(i, "numApplication", item.NumApplication); err != nil {
			return nil, err
		}
		if l.Received, err = pieces(i, "realInstoreQty", item.RealInstoreQty); err != nil {
			return nil, err
		}
		l.ReceivedTotal = l.Received
		said = said || item.RealInstoreQty != ""
		r.Lines = append(r.Lines, l)
	}
	if row.PoOrderStatus == purchaseCompleted && !said {
		return nil, errors.New("it is completed, and JD says of no line what arrived")
	}
	return r, nil
}

// pieces is the quantity in a field of line i; 0 if JD gives none.
func pieces(i int, field string, text jdapi.Text) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, whole := text.Int()
	if !whole || n < 0 {
		return 0, fmt.Errorf("line %d has %s %q", i, field, text)
	}
	return n, nil
}

// goodsStatuses are the values of goodsStatus.
var goodsStatuses = map[purchasev1.Grade]string{
	purchasev1.Grade_GRADE_UNSPECIFIED: "1", purchasev1.Grade_GRADE_GOOD: "1",
	purchasev1.Grade_GRADE_DEFECTIVE: "2", purchasev1.Grade_GRADE_SAMPLE: "3",
}

// condition is the condition in which goods arrived: by their real level, else by their real status, else, if JD says
// neither, by the one that was asked for. A real condition that is not understood has no grade.
func condition(item jdapi.PoItem) (grade purchasev1.Grade, level string) {
	code := cmp.Or(item.RealGoodsLevel, item.RealGoodsStatus, item.GoodsStatus)
	if grade = gradeOf(code); grade == purchasev1.Grade_GRADE_UNSPECIFIED {
		grade = gradeOf(item.RealGoodsStatus)
	}
	return grade, string(code)
}

// gradeOf is the grade of a goodsStatus or of a goods level (docs/jd-api.md, Numbers and texts).
func gradeOf(code jdapi.Text) purchasev1.Grade {
	switch n, _ := code.Int(); {
	case n == 1, n >= 100 && n <= 199:
		return purchasev1.Grade_GRADE_GOOD
	case n == 2, n >= 200 && n <= 299, n == 400:
		return purchasev1.Grade_GRADE_DEFECTIVE
	case n == 3:
		return purchasev1.Grade_GRADE_SAMPLE
	default:
		return purchasev1.Grade_GRADE_UNSPECIFIED
	}
}
