package jdtest

import (
	"slices"
	"strings"
)

func (jd *JD) queryWarehouse(c *call) (any, *Refusal) {
	dept, no := c.department()
	if no != nil {
		return nil, no
	}
	rows := []object{}
	for _, w := range jd.master.Warehouses {
		if w.serves(dept) && c.lists("warehouseNos", w.WarehouseNo) && c.lists("status", w.Status) {
			rows = append(rows, object{
				"warehouseNo": w.WarehouseNo, "warehouseName": w.WarehouseName, "isvWarehouseNo": w.IsvWarehouseNo, "status": digits(w.Status),
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
	for _, s := range jd.master.Shops {
		if s.DeptNo == dept && c.lists("shopNos", s.ShopNo) && c.lists("isvShopNos", s.IsvShopNo) {
			rows = append(rows, object{
				"shopNo": s.ShopNo, "isvShopNo": s.IsvShopNo, "shopName": s.ShopName, "deptNo": s.DeptNo, "spSourceNo": s.SpSourceNo,
				"spShopNo": s.SpShopNo, "status": digits(s.Status), "bdOwnerNo": s.BdOwnerNo,
			})
		}
	}
	return rows, nil
}

// queryShipper leaves status and isCod out where they are not set, as a published sample does (reference/jd-eclp.md §3.2).
func (jd *JD) queryShipper(c *call) (any, *Refusal) {
	c.done = true
	rows := []object{}
	for _, s := range jd.master.Shippers {
		if !c.lists("shipperNos", s.ShipperNo) {
			continue
		}
		row := object{"shipperNo": s.ShipperNo, "shipperName": s.ShipperName}
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

// lists says whether a comma list of the request names no; an absent or empty list names all.
func (c *call) lists(field, no string) bool {
	list := strings.TrimSpace(c.fields[field])
	return list == "" || slices.Contains(split(list), no)
}
