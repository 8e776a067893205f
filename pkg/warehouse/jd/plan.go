package jd

import (
	"cmp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	orderv1 "stockbridge/proto/order/v1"
)

// Maximum lengths of JD's fields in characters (docs/jd-api.md, Sales orders). JD publishes none for the buyer's remark:
// ours is that of similar fields.
const (
	maxName        = 20
	maxAddress     = 100
	maxPhone       = 30
	maxBuyerRemark = 500
	maxSellerNote  = 200
	maxUUID        = 125
	maxPlatformNo  = 200
)

// Values of salePlatformSource.
const (
	platformJD    = "1"
	platformOther = "6"
)

// beijing is the time zone of JD's times.
var beijing = time.FixedZone("UTC+8", 8*60*60)

// Plan writes the order in JD's fields.
func (c orders) Plan(o *orderv1.Audited) warehouse.Plan {
	_, plan := c.w.plan(o)
	return plan
}

// orderDraft is an order that is being written in JD's fields.
type orderDraft struct {
	draft
	of *orderv1.Audited
}

// plan writes the order in JD's fields: those that production ERPs send and JD accepts, and beyond them only what the ERP
// asked for.
func (w *Warehouse) plan(o *orderv1.Audited) (jdapi.AddOrder, warehouse.Plan) {
	cleaned := clean.Order(o)
	o = cleaned.Order
	d := &orderDraft{of: o, draft: newDraft(cleaned.Changes)}
	r := o.GetReceiver()
	order := jdapi.AddOrder{
		IsvUUID: o.OutboundNo, IsvSource: w.account.VendorSource, DepartmentNo: w.account.Department,
		WarehouseNo: w.no, BdOwnerNo: w.account.CarrierOwner,
		SalePlatformSource: platformOther, SalesPlatformCreateTime: clock(o.OrderedAt), ExpectDate: clock(o.ExpectedAt),
		ConsigneeName: r.GetName(), ConsigneeMobile: r.GetMobile(), ConsigneePhone: r.GetPhone(),
		ConsigneeEmail: r.GetEmail(), ConsigneePostcode: r.GetPostcode(),
		AddressProvince: r.GetProvince(), AddressCity: r.GetCity(), AddressCounty: r.GetCounty(), AddressTown: r.GetTown(),
		// JD wants the full text here besides the parts: area, blank, street.
		ConsigneeAddress: join(" ", r.GetProvince(), r.GetCity(), r.GetCounty(), r.GetTown(), r.GetAddress()),
		ConsigneeRemark:  d.cut("buyer_remark", o.BuyerRemark, maxBuyerRemark),
		SellerNote:       d.cut("seller_remark", o.SellerRemark, maxSellerNote),
	}
	w.applySetup(d, &order)
	d.receiver(order)
	d.money(&order)
	d.invoice(&order)
	d.lines(&order)
	d.limit("outbound_no", o.OutboundNo, maxUUID)

	d.finish(jdapi.MethodAddOrder, order)
	return order, d.Plan
}

// applySetup translates the ERP's codes by the seller's settings.
func (w *Warehouse) applySetup(d *orderDraft, order *jdapi.AddOrder) {
	o := d.of
	if shop, ok := w.seller.Shop(o.Shop); ok {
		order.ShopNo = shop.ShopNo
	} else {
		d.hold(seller.CauseShop(w.seller.Name(), o.Shop), "shop.unknown", "shop",
			"商家设置中没有店铺 "+o.Shop+"，请在 shops 中添加", "shop "+o.Shop+" is not in the set-up: add it to shops")
	}
	if no, ok := w.seller.Carrier(o.Carrier); ok {
		order.ShipperNo = no
	} else if o.Carrier != "" { // without a carrier it is JD's own delivery, CYS0000010
		d.hold(seller.CauseCarrier(w.seller.Name(), o.Carrier), "carrier.unmapped", "carrier",
			"物流公司 "+o.Carrier+" 没有对应的京东承运商编号，请在 carriers 中添加", "carrier "+o.Carrier+" has no number at JD: add it to carriers")
	}
	if code, ok := w.seller.Platform(o.Platform); ok {
		order.SalePlatformSource = code
	}
	if len(o.PlatformOrderNos) > 0 {
		order.SalesPlatformOrderNo = o.PlatformOrderNos[0]
		d.limit("platform_order_nos[0]", order.SalesPlatformOrderNo, maxPlatformNo)
	} else if order.SalePlatformSource == platformJD { // JD requires the number for its own platform
		d.refuse("platform_order.required", "platform_order_nos",
			"平台为京东时必须提供平台订单号", "orders of JD's own platform need the platform's order number")
	}
}

// receiver checks the receiver. Name and address are never cut but refused if too long: a parcel must arrive.
func (d *orderDraft) receiver(order jdapi.AddOrder) {
	r := d.of.GetReceiver()
	hidden := map[string]bool{}
	for _, f := range []struct {
		field, value string
		number       bool
	}{
		{"receiver.name", r.GetName(), false},
		{"receiver.mobile", r.GetMobile(), true},
		{"receiver.phone", r.GetPhone(), true},
		{"receiver.address", r.GetAddress(), false},
	} {
		if clean.Masked(f.value) || f.number && clean.Ciphered(f.value) {
			hidden[f.field] = true
			d.hold(seller.CauseReceiver(d.of.Seller, d.of.OutboundNo), "receiver.masked", f.field,
				"收件信息是脱敏或加密的，仓库无法发货；请提供明文", "the receiver's data is masked or ciphered, so nobody could deliver; send it in the clear")
		}
	}
	for _, f := range []struct {
		field, value string
		most         int
	}{
		{"receiver.name", order.ConsigneeName, maxName},
		{"receiver.mobile", order.ConsigneeMobile, maxPhone},
		{"receiver.phone", order.ConsigneePhone, maxPhone},
		{"receiver.address", order.ConsigneeAddress, maxAddress},
	} {
		if !hidden[f.field] { // the length of a masked text says nothing about the real one
			d.limit(f.field, f.value, f.most)
		}
	}
	need := func(field string, missing bool) {
		if missing {
			d.refuse("text.required", field, "必填", "is required")
		}
	}
	need("receiver.name", order.ConsigneeName == "")
	need("receiver.address", strings.TrimSpace(r.GetAddress()) == "")
	need("receiver.mobile", order.ConsigneeMobile == "" && order.ConsigneePhone == "")
}

// money sets the amount to collect, the insured value, and the marks. Of the 50 positions of orderMark only the first,
// cash on delivery, is certain (docs/jd-api.md, Sales orders).
func (d *orderDraft) money(order *jdapi.AddOrder) {
	order.OrderMark = strings.Repeat("0", 50)
	if text, some := d.amount("collect", d.of.Collect); some {
		order.Receivable, order.OrderMark = text, "1"+order.OrderMark[1:]
	}
	if text, some := d.amount("marks.insured_value", d.of.GetMarks().GetInsuredValue()); some {
		order.InsuredPriceFlag, order.InsuredValue = "1", text
	}
	if d.of.GetMarks().GetUrgent() {
		order.Urgency = "1"
	}
}

// invoice sets the buyer's invoice in JD's values of invoiceState and invoiceType.
func (d *orderDraft) invoice(order *jdapi.AddOrder) {
	invoice := d.of.Invoice
	if invoice == nil {
		return
	}
	order.InvoiceState = "1"
	order.InvoiceTitle = invoice.Title
	order.InvoiceContent = invoice.Content
	order.InvoiceTax = invoice.TaxNo
	switch invoice.Kind {
	case orderv1.Invoice_KIND_ORDINARY:
		order.InvoiceType = "1"
	case orderv1.Invoice_KIND_ELECTRONIC:
		order.InvoiceType = "2"
	case orderv1.Invoice_KIND_VAT:
		order.InvoiceType = "3"
	}
}

// lines sets the comma lists. A list that is only additional information is left out if some lines have no value; where
// a wish of the ERP would be lost, the order is refused.
func (d *orderDraft) lines(order *jdapi.AddOrder) {
	of := d.of.Lines
	common := listsOf(&d.draft, of)
	order.LinesGoodsNo, order.LinesIsvGoodsNo = common.goodsNo, common.isvGoodsNo
	order.LinesOrderLine, order.LinesQuantity = common.orderLine, common.quantity

	prices, priced := make([]string, len(of)), true
	for i, l := range of {
		if l.Price != "" {
			prices[i], _ = d.amount(lineField(i, "price"), l.Price)
		}
		priced = priced && prices[i] != ""
	}
	if priced {
		order.LinesPrice = strings.Join(prices, ",")
	}

	for _, f := range []struct {
		name  string
		to    *string
		value func(*orderv1.Line) string
	}{
		{"batch.batch_no", &order.LinesPackBatchNo, func(l *orderv1.Line) string { return l.GetBatch().GetBatchNo() }},
		{"batch.production_date", &order.LinesProductionDate, func(l *orderv1.Line) string { return l.GetBatch().GetProductionDate() }},
		{"batch.expiry_date", &order.LinesExpirationDate, func(l *orderv1.Line) string { return l.GetBatch().GetExpiryDate() }},
	} {
		list, have := column(&d.draft, of, f.name, f.value)
		if *f.to = list; have > 0 && have < len(of) {
			d.refuse("batch.partial", firstWithout(of, f.name, f.value),
				"同一订单的所有商品行必须都指定该批次信息，或都不指定", "JD takes this of all lines of an order or of none")
		}
	}
}

// amount returns money with two decimal places, and whether it is more than zero.
func (d *draft) amount(field, text string) (two string, some bool) {
	if text == "" {
		return "", false
	}
	whole, fraction, dot := strings.Cut(text, ".")
	if len(fraction) > 2 { // many systems write zeros after the second decimal place
		fraction = fraction[:2] + strings.TrimRight(fraction[2:], "0")
	}
	if !digits(whole) || dot && (!digits(fraction) || len(fraction) > 2) {
		d.refuse("money.invalid", field, "金额最多两位小数", "must be an amount with at most two decimal places")
		return "", false
	}
	return cmp.Or(strings.TrimLeft(whole, "0"), "0") + "." + (fraction + "00")[:2], strings.Trim(text, "0.") != ""
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// clock formats a time for JD; "" if there is none.
func clock(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	return at.AsTime().In(beijing).Format(time.DateTime)
}

func join(by string, parts ...string) string {
	var some []string
	for _, p := range parts {
		if p != "" {
			some = append(some, p)
		}
	}
	return strings.Join(some, by)
}
