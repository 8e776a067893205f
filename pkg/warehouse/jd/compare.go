package jd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	orderv1 "stockbridge/proto/order/v1"
)

// ownShipper is JD's own delivery, the default for an order without a carrier (docs/jd-api.md, Sales orders).
const ownShipper = "CYS0000010"

// FindByPlatform looks orders up by the platforms' order numbers. A number that cannot be part of a query counts as not
// found.
func (c orders) FindByPlatform(ctx context.Context, platformNos []string) (map[string][]document, error) {
	nos := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(platformNos))), func(no string) bool { return !queryable(no) })
	if len(nos) > maxFind {
		return nil, fmt.Errorf("find %d platform orders: at most %d at a time", len(nos), maxFind)
	}
	rows, err := c.w.lookUp(ctx, nos, byPlatform)
	if err != nil {
		return nil, c.w.readError(err)
	}
	found := map[string][]document{}
	for _, row := range rows {
		if no := string(row.SpSoNo); row.EclpSoNo != "" && slices.Contains(nos, no) {
			found[no] = append(found[no], documentOf(row))
		}
	}
	for _, list := range found {
		slices.SortFunc(list, func(a, b document) int { return cmp.Compare(a.Number, b.Number) })
	}
	return found, nil
}

// Compare compares our plan with what queryOrder returns.
func (c orders) Compare(ctx context.Context, o *orderv1.Audited, number string) (warehouse.Comparison, error) {
	theirs, err := c.w.api.QueryOrder(ctx, number)
	var no *jdapi.Error
	if errors.As(err, &no) && no.Class == jdapi.ClassBusiness || err == nil && theirs.EclpSoNo == "" {
		return warehouse.Comparison{}, fmt.Errorf("order %s: %w", number, warehouse.ErrNotFound)
	}
	if err != nil {
		return warehouse.Comparison{}, fmt.Errorf("order %s: %w", number, c.w.readError(err))
	}
	if theirs.EclpSoNo != jdapi.Text(number) {
		return warehouse.Comparison{}, fmt.Errorf("order %s: JD answers about %s", number, theirs.EclpSoNo)
	}
	ours, plan := c.w.plan(o)
	k := comparing{cleaned: map[string]string{}, split: len(theirs.SplitEclpSoNos.List()) > 0 || c.w.isPart(number)}
	for _, one := range plan.Cleaned {
		k.cleaned[one.Field] += one.What
	}
	k.fields(ours, theirs)
	k.people(ours, theirs)
	k.lines(clean.Order(o).Order.Lines, theirs.Lines)
	result := warehouse.Comparison{Differences: k.found, Foreign: k.foreign}
	for _, step := range c.w.history(theirs.Statuses) {
		if !step.At.IsZero() && (result.TakenAt.IsZero() || step.At.Before(result.TakenAt)) {
			result.TakenAt = step.At
		}
	}
	return result, nil
}

// comparing collects differences.
type comparing struct {
	found, foreign []*orderv1.Difference
	// cleaned is what was changed in which field.
	cleaned map[string]string
	// split: some of the document's lines are in its parts, or it is such a part.
	split bool
}

func (c *comparing) add(field, ours, theirs, zh, en string) {
	c.found = append(c.found, &orderv1.Difference{Field: field, Ours: ours, Theirs: theirs, Zh: zh, En: en})
}

// markForeign marks the last difference as a sign of another order.
func (c *comparing) markForeign(foreign bool) {
	if foreign {
		c.foreign = append(c.foreign, c.found[len(c.found)-1])
	}
}

// fields compares everything that is not personal data. A field that JD leaves out is skipped.
func (c *comparing) fields(ours jdapi.AddOrder, theirs jdapi.Order) {
	for _, f := range []struct {
		field, ours string
		theirs      jdapi.Text
		zh, en      string
	}{
		{"shop", ours.ShopNo, theirs.ShopNo, "店铺不同：请核对 shops 中的编号", "another shop: check the number in shops"},
		{"department", ours.DepartmentNo, theirs.DepartmentNo, "事业部不同：请核对账号的 department", "another business unit: check the account's department"},
		{"warehouse", ours.WarehouseNo, theirs.WarehouseNo, "仓库不同：请核对 warehouses 中的编号", "another warehouse: check the number in warehouses"},
		{"carrier", cmp.Or(ours.ShipperNo, ownShipper), theirs.ShipperNo, "承运商不同：请核对订单的 carrier 和 carriers 中的编号", "another carrier: check the order's carrier and its number in carriers"},
		{"platform_order_nos", ours.SalesPlatformOrderNo, theirs.PlatformNo, "平台订单号不同：我们发送 platform_order_nos 的第一个", "another platform order number: we send the first of platform_order_nos"},
		{"platform", ours.SalePlatformSource, theirs.PlatformSource, "销售平台不同：请核对 platforms 中的编号", "another sales platform: check the number in platforms"},
		{"ordered_at", ours.SalesPlatformCreateTime, theirs.PlatformTime, "下单时间不同", "another time of the order"},
		{"expected_at", ours.ExpectDate, theirs.ExpectDate, "期望发货时间不同", "another wished shipping time"},
		{"marks", ours.OrderMark, theirs.OrderMark, "订单标记（orderMark）不同：第 1 位为货到付款", "other order marks (orderMark); position 1 is cash on delivery"},
		{"receiver.province", ours.AddressProvince, theirs.Province, "省不同", "another province"},
		{"receiver.city", ours.AddressCity, theirs.City, "市不同", "another city"},
		{"receiver.county", ours.AddressCounty, theirs.County, "区县不同", "another county"},
		{"receiver.town", ours.AddressTown, theirs.Town, "乡镇街道不同", "another town"},
	} {
		if f.theirs != "" && string(f.theirs) != strings.TrimSpace(f.ours) && !clean.Masked(string(f.theirs)) {
			c.add(f.field, f.ours, string(f.theirs), f.zh, f.en)
			c.markForeign(slices.Contains([]string{"shop", "department", "warehouse"}, f.field))
		}
	}
	if theirs.Receivable != "" && !sameAmount(ours.Receivable, string(theirs.Receivable)) {
		c.add("collect", ours.Receivable, string(theirs.Receivable), "代收金额不同", "another amount to collect")
	}
}

// people compares personal data and shows none of it.
func (c *comparing) people(ours jdapi.AddOrder, theirs jdapi.Order) {
	for _, f := range []struct {
		field, ours string
		theirs      jdapi.Text
		zh, en      string
		number      bool
	}{
		{"receiver.name", ours.ConsigneeName, theirs.Name, "收件人姓名不同", "another name", false},
		{"receiver.mobile", ours.ConsigneeMobile, theirs.Mobile, "手机号不同", "another mobile number", true},
		{"receiver.phone", ours.ConsigneePhone, theirs.Phone, "电话不同", "another phone number", true},
		{"receiver.address", ours.ConsigneeAddress, theirs.Address, "地址不同", "another address", false},
		{"buyer_remark", ours.ConsigneeRemark, theirs.Remark, "买家留言不同", "another remark", false},
	} {
		text := string(f.theirs)
		// JD may mask what it returns; then there is nothing to compare.
		if text == "" || text == strings.TrimSpace(f.ours) || clean.Masked(text) || f.number && clean.Ciphered(text) {
			continue
		}
		zh, en, foreign := f.zh, f.en, false
		switch {
		case c.cleaned[f.field] != "" && clean.Text(text) == strings.TrimSpace(f.ours):
			zh, en = zh+"：仅因我们去除或替换了京东不接受的字符", en+": only because we remove or replace characters that JD does not take"
		case strings.Contains(c.cleaned[f.field], "repeated") && repeatsArea(withoutBlanks(clean.Text(text)), ours):
			zh, en = zh+"：仅因街道开头重复的省市区我们只发送一次", en+": only because we send the area at the head of the street once"
		case withoutBlanks(text) == withoutBlanks(f.ours):
			zh, en = zh+"：仅空格不同", en+": only in blanks"
		case strings.HasPrefix(f.ours, text):
			zh, en = zh+"：对方的较短，可能被截断", en+": theirs is shorter, perhaps cut"
		case f.field == "buyer_remark", f.ours == "", clean.Masked(f.ours):
		case f.number:
			foreign = !slices.ContainsFunc([]string{ours.ConsigneeMobile, ours.ConsigneePhone}, func(own string) bool { return sameNumber(own, text) })
		default: // JD may put the area before the street, or leave it out
			foreign = !strings.HasSuffix(withoutBlanks(f.ours), withoutBlanks(text)) && !strings.HasSuffix(withoutBlanks(text), withoutBlanks(f.ours))
		}
		c.add(f.field, veiled(f.ours, f.number), veiled(text, f.number), zh, en)
		c.markForeign(foreign)
	}
}

// repeatsArea reports whether an address is ours with additional text between area and street.
func repeatsArea(address string, ours jdapi.AddOrder) bool {
	area := withoutBlanks(ours.AddressProvince + ours.AddressCity + ours.AddressCounty + ours.AddressTown)
	street := strings.TrimPrefix(withoutBlanks(ours.ConsigneeAddress), area)
	return len(address) > len(area)+len(street) && strings.HasPrefix(address, area) && strings.HasSuffix(address, street)
}

// sameNumber reports whether two texts are the same telephone number, one of them perhaps with a country or area code.
func sameNumber(a, b string) bool {
	digits := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < '0' || r > '9' {
				return -1
			}
			return r
		}, s)
	}
	a, b = digits(a), digits(b)
	return min(len(a), len(b)) >= 7 && (strings.HasSuffix(a, b) || strings.HasSuffix(b, a))
}

// withoutBlanks removes all blanks.
func withoutBlanks(text string) string { return strings.Join(strings.Fields(text), "") }

// veiled shows no more of a person's data than a parcel's label does: the last four digits of a number; the length of a
// text and, if it is long enough, its first character.
func veiled(text string, number bool) string {
	n := utf8.RuneCountInString(text)
	switch {
	case n == 0:
		return ""
	case number && n > 7:
		return "***" + text[len(text)-4:]
	case number || n < 2:
		return fmt.Sprintf("*** (%d)", n)
	}
	first, _ := utf8.DecodeRuneInString(text)
	return fmt.Sprintf("%c** (%d)", first, n)
}

func sameAmount(a, b string) bool {
	tidy := func(s string) string {
		whole, fraction, _ := strings.Cut(s, ".")
		return strings.TrimLeft(whole, "0") + "." + strings.TrimRight(fraction, "0")
	}
	return tidy(a) == tidy(b)
}

// sum adds up all lines of the same goods, because one side may merge what the other sends as two lines.
type sum struct {
	name            string
	ours, theirs    int64
	lines, rows     int
	price, rowPrice string
	line, rowLine   string
	// no and code: which of the two numbers identify the goods here. vague: JD does not give a quantity.
	no, code, vague bool
}

// lines compares the goods. JD may return either of their two numbers, so a match of one is enough.
func (c *comparing) lines(ours []*orderv1.Line, theirs []jdapi.OrderLine) {
	if len(theirs) == 0 {
		return // JD returns no lines
	}
	var sums []*sum
	of := map[string]*sum{}
	for _, l := range ours {
		keys := []string{"no:" + l.WarehouseGoodsNo, "code:" + l.GoodsCode}
		s := cmp.Or(of[keys[0]], of[keys[1]])
		if s == nil {
			s = &sum{name: cmp.Or(l.GoodsCode, l.WarehouseGoodsNo), price: l.Price, line: l.LineId, no: l.WarehouseGoodsNo != "", code: l.GoodsCode != ""}
			sums = append(sums, s)
		}
		for _, k := range keys {
			if !strings.HasSuffix(k, ":") {
				of[k] = s
			}
		}
		s.ours += l.Quantity
		s.lines++
	}
	for _, row := range theirs {
		keys := []string{"no:" + string(row.GoodsNo), "code:" + string(row.IsvGoodsNo)}
		s := cmp.Or(of[keys[0]], of[keys[1]])
		if s == nil {
			s = &sum{name: cmp.Or(string(row.IsvGoodsNo), string(row.GoodsNo)), no: row.GoodsNo != "", code: row.IsvGoodsNo != ""}
			sums = append(sums, s)
			for _, k := range keys {
				if !strings.HasSuffix(k, ":") {
					of[k] = s
				}
			}
		}
		n, known := row.Quantity.Int()
		s.theirs += n
		s.vague = s.vague || !known || row.Quantity == ""
		s.rows++
		s.rowPrice, s.rowLine = string(row.Price), string(row.OrderLine)
	}
	nameless := sameNames(sums)
	pieces := func(name string, n int64) string { return fmt.Sprintf("%s × %d", name, n) }
	for _, s := range sums {
		switch {
		case s.rows == 0:
			c.add("lines", pieces(s.name, s.ours), "", "对方没有此商品", "they did not send these goods")
			c.markForeign(!c.split && !nameless)
		case s.lines == 0:
			c.add("lines", "", pieces(s.name, s.theirs), "我们不会发送此商品", "we would not send these goods")
			c.markForeign(!nameless)
		case s.ours != s.theirs:
			c.add("lines.quantity", pieces(s.name, s.ours), pieces(s.name, s.theirs), "数量不同", "another quantity")
			c.markForeign(!s.vague && (!c.split || s.theirs > s.ours))
		}
		if s.lines != 1 || s.rows != 1 {
			continue
		}
		if s.price != "" && s.rowPrice != "" && !sameAmount(s.price, s.rowPrice) {
			c.add("lines.price", s.name+" "+s.price, s.name+" "+s.rowPrice, "单价不同", "another price")
		}
		if s.line != "" && s.rowLine != "" && s.line != s.rowLine {
			c.add("lines.line_id", s.name+" "+s.line, s.name+" "+s.rowLine, "行号不同", "another line id")
		}
	}
}

// sameNames reports whether the unmatched goods of both sides may be the same, because JD uses one of their numbers and
// the ERP the other. Then the total quantities must be equal.
func sameNames(sums []*sum) bool {
	var ours, theirs sum
	for _, s := range sums {
		of, n := &ours, s.ours
		if s.lines == 0 {
			of, n = &theirs, s.theirs
		} else if s.rows > 0 {
			continue
		}
		of.no, of.code, of.lines, of.ours = of.no || s.no, of.code || s.code, of.lines+1, of.ours+n
	}
	if ours.no && theirs.no || ours.code && theirs.code {
		return false
	}
	return ours.lines > 0 && theirs.lines > 0 && ours.ours == theirs.ours
}
