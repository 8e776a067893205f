package jd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

// numbersPerCall is how many numbers one query names. JD publishes no limit for these lists.
const numbersPerCall = 20

// number is one number in the settings, and its field there.
type number struct {
	field, no string
	// shop is the shop whose number it is; nil for others.
	shop *sellerv1.Shop
}

// list is one of JD's lists, and the numbers of the settings that it should contain.
type list struct {
	method string
	// zh and en name one of its rows.
	zh, en  string
	numbers []number
	// disabled is JD's code for a disabled row; empty if none is published.
	disabled string
	ask      func(ctx context.Context, nos []string) ([]jdapi.Master, error)
}

// lists compares the settings with JD's lists. Each number that JD does not have, or has disabled, is a finding. A list
// that JD does not return is reported as not compared: orders need none of them.
func (w *Warehouse) lists(ctx context.Context, api *jdapi.Client) []warehouse.Diagnosis {
	var rows []warehouse.Diagnosis
	for _, l := range w.listed(api) {
		if len(l.numbers) > 0 {
			rows = append(rows, w.compare(ctx, l)...)
		}
	}
	return rows
}

func (w *Warehouse) listed(api *jdapi.Client) []list {
	setup, dept := w.seller.Setup, w.account.Department
	mapped := func(field string, mappings []*sellerv1.Mapping) (numbers []number) {
		for _, m := range mappings {
			numbers = append(numbers, number{field: field + "[" + m.Code + "]", no: m.Number})
		}
		return numbers
	}
	ours := map[string]bool{}
	var warehouses, shops []number
	for _, site := range setup.Warehouses {
		if site.Account == w.account.Name {
			ours[site.Code] = true
			warehouses = append(warehouses, number{field: "warehouses[" + site.Code + "]", no: site.WarehouseNo})
		}
	}
	for _, s := range setup.Shops {
		if slices.ContainsFunc(s.Warehouses, func(code string) bool { return ours[code] }) {
			shops = append(shops, number{"shops[" + s.Code + "]", s.ShopNo, s})
		}
	}
	return []list{
		{jdapi.MethodQueryDept, "事业部", "business unit", []number{{field: "department", no: dept}}, "", api.QueryDept},
		{jdapi.MethodQueryWarehouse, "仓库", "warehouse", warehouses, "", func(ctx context.Context, nos []string) ([]jdapi.Master, error) {
			return api.QueryWarehouse(ctx, dept, nos)
		}},
		{jdapi.MethodQueryShop, "店铺", "shop", shops, "", func(ctx context.Context, nos []string) ([]jdapi.Master, error) {
			return api.QueryShop(ctx, dept, nos)
		}},
		{jdapi.MethodQueryShipper, "承运商", "carrier", mapped("carriers", setup.Carriers), "0", api.QueryShipper},
		{jdapi.MethodQuerySupplier, "供应商", "supplier", mapped("suppliers", setup.Suppliers), "3", func(ctx context.Context, nos []string) ([]jdapi.Master, error) {
			return api.QuerySupplier(ctx, dept, nos)
		}},
		{jdapi.MethodQuerySpSource, "销售平台", "sales platform", mapped("platforms", setup.Platforms), "", func(ctx context.Context, _ []string) ([]jdapi.Master, error) {
			return api.QuerySpSource(ctx)
		}},
	}
}

// compare reads a list and compares the numbers with it.
func (w *Warehouse) compare(ctx context.Context, l list) []warehouse.Diagnosis {
	var nos []string
	for _, n := range l.numbers {
		nos = append(nos, n.no)
	}
	slices.Sort(nos)
	nos = slices.Compact(nos)
	known := map[string]jdapi.Master{}
	for some := range slices.Chunk(nos, numbersPerCall) {
		err := inTurn(ctx, func(ctx context.Context) error {
			rows, err := l.ask(ctx, some)
			for _, m := range rows {
				known[m.No] = m
			}
			return err
		})
		if err != nil {
			return []warehouse.Diagnosis{l.notCompared(err)}
		}
	}
	var wrong []warehouse.Diagnosis
	for _, n := range l.numbers {
		m, has := known[n.no]
		var reason *fault.Reason
		switch {
		case !has:
			reason = &fault.Reason{
				Code: "setup.number", ZH: fmt.Sprintf("京东没有编号为 %s 的%s，请核对", n.no, l.zh),
				EN: fmt.Sprintf("JD has no %s %s: correct the number", l.en, n.no),
			}
		case l.disabled != "" && m.Status == l.disabled:
			reason = &fault.Reason{
				Code: "setup.disabled", ZH: fmt.Sprintf("%s %s（%s）在京东已停用", l.zh, n.no, m.Name),
				EN: fmt.Sprintf("JD has disabled %s %s (%s)", l.en, n.no, m.Name),
			}
		case n.shop != nil:
			reason = w.platformOf(n.shop, m)
		}
		if reason != nil {
			wrong = append(wrong, warehouse.Diagnosis{What: n.field, Err: *reason})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	note := fmt.Sprintf("JD has all %d", len(nos))
	if len(nos) == 1 {
		note = "JD has " + nos[0]
		if name := known[nos[0]].Name; name != "" {
			note += " (" + name + ")"
		}
	}
	return []warehouse.Diagnosis{{What: shortMethod(l.method), Note: note}}
}

// notCompared reports a list that JD did not return. A refusal in business terms is a finding about the numbers; any
// other error is not.
func (l list) notCompared(err error) warehouse.Diagnosis {
	d := warehouse.Diagnosis{What: shortMethod(l.method)}
	var no *jdapi.Error
	switch {
	case errors.As(err, &no) && (no.Class == jdapi.ClassBusiness || no.Class == jdapi.ClassData):
		d.Err = refusal(no, "setup.number", "京东拒绝查询"+l.zh+"，请核对编号", "JD refuses to list this "+l.en+": check its number")
	case errors.As(err, &no) && no.Class == jdapi.ClassPermission:
		d.Note = "not compared: JD does not grant this call; orders do not need it"
	default:
		d.Note = "not compared: " + err.Error()
	}
	return d
}

// platformOf returns the fault of a shop whose number belongs to the other kind of platform: shops on JD's own platform
// and all others are numbered separately. Which kind it is follows from the platform in the settings, or from a booking
// by the flow, which only shops on JD's platform have.
func (w *Warehouse) platformOf(shop *sellerv1.Shop, m jdapi.Master) *fault.Reason {
	if m.Platform == "" {
		return nil
	}
	var ours string
	switch {
	case shop.GetPlatform() != "":
		ours, _ = w.seller.Platform(shop.GetPlatform())
	case shop.GetBooking() == sellerv1.Shop_BOOKING_FLOW:
		ours = platformJD
	default:
		return nil
	}
	switch {
	case ours == platformJD && m.Platform != platformJD:
		return &fault.Reason{
			Code: "setup.platform", ZH: fmt.Sprintf("店铺 %s 是京东平台店铺，但编号 %s（%s）属于其他平台", shop.Code, m.No, m.Name),
			EN: fmt.Sprintf("shop %s is on JD's own platform, but %s (%s) is a number of the other platforms", shop.Code, m.No, m.Name),
		}
	case ours != platformJD && m.Platform == platformJD:
		return &fault.Reason{
			Code: "setup.platform", ZH: fmt.Sprintf("店铺 %s 不是京东平台店铺，但编号 %s（%s）属于京东平台", shop.Code, m.No, m.Name),
			EN: fmt.Sprintf("shop %s is not on JD's own platform, but %s (%s) is a number of JD's", shop.Code, m.No, m.Name),
		}
	}
	return nil
}
