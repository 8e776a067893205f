package jdsandbox

import (
	"slices"
	"strings"
)

// The master data calls (docs/jd-api.md, Master data). They return the Config's rows, disabled ones too, as JD does. If a
// list is empty, addOrder and addPoOrder accept any number, and a query by a number returns a row with nothing but this number.

func (jd *JD) queryWarehouse(c *call) (any, *Refusal) {
	dept, no := c.department()
	if no != nil {
		return nil, no
	}
	rows := []object{}
	for _, w := range orQueried(c, "warehouseNos", jd.master.Warehouses, func(no string) Warehouse { return Warehouse{WarehouseNo: no} }) {
		if w.serves(dept) && c.lists("warehouseNos", w.WarehouseNo) && c.lists("status", w.Status) {
			rows = append(rows, object{
				"warehouseNo": w.WarehouseNo, "warehouseName": w.WarehouseName, "isvWarehouseNo": w.IsvWarehouseNo, "status": digits(w.Status),
				"contacts": w.Contacts, "phone": w.Phone, "province": w.Province, "city": w.City, "county": w.County, "town": w.Town, "address": w.Address,
			})
		}
	}
	return rows, nil
}

func (jd *JD) queryShop(c *call) (any, *Refusal) {
	dept, no := c.department()
	if no != nil {
		return nil, no
	}
	rows := []object{}
	for _, s := range orQueried(c, "shopNos", jd.master.Shops, func(no string) Shop { return Shop{ShopNo: no, DeptNo: dept} }) {
		if s.DeptNo == dept && c.lists("shopNos", s.ShopNo) && c.lists("isvShopNos", s.IsvShopNo) {
			rows = append(rows, object{
				"shopNo": s.ShopNo, "isvShopNo": s.IsvShopNo, "shopName": s.ShopName, "deptNo": s.DeptNo, "spSourceNo": s.SpSourceNo,
				"spShopNo": s.SpShopNo, "type": s.Type, "status": digits(s.Status), "bdOwnerNo": s.BdOwnerNo, "bizType": s.BizType,
				"contacts": s.Contacts, "phone": s.Phone, "address": s.Address, "email": "", "fax": "", "outstoreRules": "",
				"afterSaleContacts": s.AfterSaleContacts, "afterSalePhone": s.AfterSalePhone, "afterSaleAddress": s.AfterSaleAddress,
			})
		}
	}
	return rows, nil
}

// queryShipper leaves status and isCod out if they are not set, as in a published sample.
func (jd *JD) queryShipper(c *call) (any, *Refusal) {
	c.done = true
	rows := []object{}
	for _, s := range orQueried(c, "shipperNos", jd.master.Shippers, func(no string) Shipper { return Shipper{ShipperNo: no} }) {
		if !c.lists("shipperNos", s.ShipperNo) {
			continue
		}
		row := object{
			"shipperNo": s.ShipperNo, "shipperName": s.ShipperName, "contacts": s.Contacts, "phone": s.Phone, "type": s.Type, "isTemplate": s.IsTemplate,
		}
		if s.Status != "" {
			row["status"] = digits(s.Status)
		}
		if s.IsCod != "" {
			row["isCod"] = digits(s.IsCod)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func (jd *JD) queryDept(c *call) (any, *Refusal) {
	c.done = true
	rows := []object{}
	for _, d := range orQueried(c, "deptNos", jd.master.Departments, func(no string) Department { return Department{DeptNo: no} }) {
		if c.allows(d.DeptNo) && c.lists("deptNos", d.DeptNo) {
			rows = append(rows, object{
				"deptNo": d.DeptNo, "deptName": d.DeptName, "sellerNo": d.SellerNo, "sellerName": d.SellerName, "status": digits(d.Status),
				"managerName": d.ManagerName, "managerPhone": d.ManagerPhone,
			})
		}
	}
	return rows, nil
}

// querySpSource has no parameters.
func (jd *JD) querySpSource(c *call) (any, *Refusal) {
	c.done = true
	list := jd.master.SpSources
	if len(list) == 0 {
		list = DefaultSpSources()
	}
	rows := []object{}
	for _, s := range list {
		rows = append(rows, object{"spSourceNo": s.SpSourceNo, "spSourceName": s.SpSourceName, "website": s.Website})
	}
	return rows, nil
}

func (jd *JD) querySupplier(c *call) (any, *Refusal) {
	dept, no := c.department()
	if no != nil {
		return nil, no
	}
	name := ""
	if i := slices.IndexFunc(jd.master.Departments, func(d Department) bool { return d.DeptNo == dept }); i >= 0 {
		name = jd.master.Departments[i].DeptName
	}
	rows := []object{}
	for _, s := range orQueried(c, "supplierNos", jd.master.Suppliers, func(no string) Supplier { return Supplier{EclpSupplierNo: no, DeptNo: dept, Status: "2"} }) {
		if s.DeptNo == dept && c.lists("supplierNos", s.EclpSupplierNo) {
			rows = append(rows, object{
				"deptNo": dept, "deptName": name, "eclpSupplierNo": s.EclpSupplierNo, "supplierName": s.SupplierName, "supplierType": s.SupplierType,
				"status": digits(s.Status), "contacts": s.Contacts, "phone": s.Phone, "fax": "", "email": "",
				"province": s.Province, "city": s.City, "county": s.County, "town": s.Town, "address": s.Address,
			})
		}
	}
	return rows, nil
}

// orQueried returns a list, or for an empty one a row for each number that the field names.
func orQueried[T any](c *call, field string, list []T, made func(no string) T) []T {
	if len(list) > 0 {
		return list
	}
	for _, no := range split(strings.TrimSpace(c.fields[field])) {
		list = append(list, made(no))
	}
	return list
}

// department is the deptNo of a master data call.
func (c *call) department() (string, *Refusal) {
	dept := c.fields["deptNo"]
	switch {
	case dept == "":
		return "", refuse(codeParamMissing, "deptNo")
	case !c.allows(dept):
		return "", refuse(codeNotYours, "")
	}
	c.done = true
	return dept, nil
}

// lists reports whether a comma list of the request names no; an absent or empty list names all.
func (c *call) lists(field, no string) bool {
	list := strings.TrimSpace(c.fields[field])
	return list == "" || slices.Contains(split(list), no)
}
