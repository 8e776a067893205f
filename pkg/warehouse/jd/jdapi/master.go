package jdapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// The methods for master data. Each lists what the account may use; a list of numbers narrows it.
const (
	MethodQueryDept      = "jingdong.eclp.master.queryDept"
	MethodQueryWarehouse = "jingdong.eclp.master.queryWarehouse"
	MethodQueryShop      = "jingdong.eclp.master.queryShop"
	MethodQueryShipper   = "jingdong.eclp.master.queryShipper"
	MethodQuerySupplier  = "jingdong.eclp.master.querySupplier"
	MethodQuerySpSource  = "jingdong.eclp.master.querySpSource"
)

// Master is a row of JD's master data.
type Master struct {
	No, Name string
	// Status is JD's code: 0 is a disabled carrier, 3 a disabled supplier. For departments, warehouses and shops it is not
	// published.
	Status string
	// Platform is a shop's sales platform.
	Platform string
}

// QueryDept lists departments.
func (c *Client) QueryDept(ctx context.Context, nos []string) ([]Master, error) {
	return c.master(ctx, MethodQueryDept, map[string]string{"deptNos": strings.Join(nos, ",")},
		func(r masterRow) Master { return Master{No: string(r.DeptNo), Name: string(r.DeptName)} })
}

// QueryWarehouse lists the warehouses of a department.
func (c *Client) QueryWarehouse(ctx context.Context, dept string, nos []string) ([]Master, error) {
	return c.master(ctx, MethodQueryWarehouse, map[string]string{"deptNo": dept, "warehouseNos": strings.Join(nos, ",")},
		func(r masterRow) Master { return Master{No: string(r.WarehouseNo), Name: string(r.WarehouseName)} })
}

// QueryShop lists the shops of a department.
func (c *Client) QueryShop(ctx context.Context, dept string, nos []string) ([]Master, error) {
	return c.master(ctx, MethodQueryShop, map[string]string{"deptNo": dept, "shopNos": strings.Join(nos, ",")},
		func(r masterRow) Master {
			return Master{No: string(r.ShopNo), Name: string(r.ShopName), Platform: string(r.SpSourceNo)}
		})
}

// QueryShipper lists carriers.
func (c *Client) QueryShipper(ctx context.Context, nos []string) ([]Master, error) {
	return c.master(ctx, MethodQueryShipper, map[string]string{"shipperNos": strings.Join(nos, ",")},
		func(r masterRow) Master { return Master{No: string(r.ShipperNo), Name: string(r.ShipperName)} })
}

// QuerySupplier lists the suppliers of a department.
func (c *Client) QuerySupplier(ctx context.Context, dept string, nos []string) ([]Master, error) {
	return c.master(ctx, MethodQuerySupplier, map[string]string{"deptNo": dept, "supplierNos": strings.Join(nos, ",")},
		func(r masterRow) Master { return Master{No: string(r.EclpSupplierNo), Name: string(r.SupplierName)} })
}

// QuerySpSource lists all sales platforms.
func (c *Client) QuerySpSource(ctx context.Context) ([]Master, error) {
	return c.master(ctx, MethodQuerySpSource, map[string]string{},
		func(r masterRow) Master { return Master{No: string(r.SpSourceNo), Name: string(r.SpSourceName)} })
}

// masterRow has the fields of all lists that we read.
type masterRow struct {
	DeptNo         Text `json:"deptNo"`
	DeptName       Text `json:"deptName"`
	WarehouseNo    Text `json:"warehouseNo"`
	WarehouseName  Text `json:"warehouseName"`
	ShopNo         Text `json:"shopNo"`
	ShopName       Text `json:"shopName"`
	ShipperNo      Text `json:"shipperNo"`
	ShipperName    Text `json:"shipperName"`
	EclpSupplierNo Text `json:"eclpSupplierNo"`
	SupplierName   Text `json:"supplierName"`
	SpSourceNo     Text `json:"spSourceNo"`
	SpSourceName   Text `json:"spSourceName"`
	Status         Text `json:"status"`
}

// master reads a list. An answer without the method's list is ErrLost; an empty list is fine.
func (c *Client) master(ctx context.Context, method string, request map[string]string, row func(masterRow) Master) ([]Master, error) {
	var answer map[string]json.RawMessage
	if err := c.call(ctx, method, request, &answer); err != nil {
		return nil, err
	}
	key := strings.ToLower(method[strings.LastIndexByte(method, '.')+1:]) + "_result"
	raw, ok := answer[key]
	if !ok {
		return nil, fmt.Errorf("jd %s: %w: no %s in it", shortOf(method), ErrLost, key)
	}
	var rows List[masterRow]
	if err := json.Unmarshal(raw, &rows); err != nil {
		return nil, fmt.Errorf("jd %s: %w: unreadable: %w", shortOf(method), ErrLost, err)
	}
	list := make([]Master, 0, len(rows))
	for _, r := range rows {
		m := row(r)
		if m.Status = string(r.Status); m.No != "" {
			list = append(list, m)
		}
	}
	return list, nil
}
