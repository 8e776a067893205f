package jd_test

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/jd"
)

func TestDiagnose(t *testing.T) {
	const healthy = `
name: acme
accounts:
  - {name: jd, kind: jd, url: URL, app_key: sandbox-app, app_secret: {env: SECRET}, access_token: {env: TOKEN}, token_owner: external, department: EBU0000000000001, vendor_source: ISV0000000000001}
warehouses: [{code: W01, account: jd, warehouse_no: 110000001}]
shops: [{code: S01, shop_no: ESP0020000000001, warehouses: [W01]}]
carriers: [{code: ZTO, number: CYS4418046511112}]
`
	all := []string{"numbers", "address", "clock", "token", "order.ext.queryOrder", "order.addOrder", "order.queryOrder", "order.queryOrderStatus", "order.queryOrderPacks"}
	lists := []string{"master.queryDept", "master.queryWarehouse", "master.queryShop", "master.queryShipper"}
	stock := []string{"stock.queryVmiShopStockFlow", "stock.queryVmiShopStock", "stock.queryStock", "checkstock.queryCheckStockProfit", "checkstock.queryCheckStockLosses", "stock.queryGoodsLevelChange"}
	master := func(change func(*jdsandbox.Config)) func(*jdsandbox.Config) {
		return func(c *jdsandbox.Config) {
			c.Departments = []jdsandbox.Department{{DeptNo: "EBU0000000000001", DeptName: "事业部"}}
			c.Warehouses = []jdsandbox.Warehouse{{WarehouseNo: "110000001", WarehouseName: "北京仓"}}
			c.Shops = []jdsandbox.Shop{{ShopNo: "ESP0020000000001", ShopName: "旗舰店", DeptNo: "EBU0000000000001", SpSourceNo: "6"}}
			c.Shippers = []jdsandbox.Shipper{{ShipperNo: "CYS4418046511112", ShipperName: "中通", Status: "1"}}
			c.Suppliers = []jdsandbox.Supplier{{EclpSupplierNo: "EMS1", SupplierName: "茶厂", DeptNo: "EBU0000000000001", Status: "2"}}
			change(c)
		}
	}
	for _, test := range []struct {
		name     string
		booking  string // of the shop, if it is followed
		stock    string // of the set-up
		from, to string
		knobs    func(*jdsandbox.Config)
		env      map[string]string
		now      func() time.Time
		// rows are the expected ones, nil for all; wrong ones with a part of their text.
		rows  []string
		wrong map[string]string
	}{
		{name: "all is well"},
		{
			name: "a permission lacks", knobs: func(c *jdsandbox.Config) {
				c.Apps = []jdsandbox.App{{Key: "sandbox-app", Secret: "sandbox-secret", Tokens: []jdsandbox.Token{{Value: "sandbox-token", Denied: []string{"eclp.order.addOrder"}}}}}
			},
			wrong: map[string]string{"order.addOrder": "have JD grant this call"},
		},
		{
			name: "JD does not know a method", knobs: func(c *jdsandbox.Config) {
				c.Knobs.Faults = []jdsandbox.Fault{{Kind: jdsandbox.Error, Code: "15", Methods: []string{"eclp.order.queryOrderStatus"}, Chance: 1}}
			},
			wrong: map[string]string{"order.queryOrderStatus": "does not know this call"},
		},
		{
			name: "the token is old", env: map[string]string{"TOKEN": "old", "SECRET": "sandbox-secret"},
			rows: all[:4], wrong: map[string]string{"token": "authorise again"},
		},
		{
			name: "the secret is another's", env: map[string]string{"TOKEN": "sandbox-token", "SECRET": "wrong"},
			rows: all[:4], wrong: map[string]string{"token": "authorise again"},
		},
		{
			name: "no token on this machine", env: map[string]string{"SECRET": "sandbox-secret"},
			rows: []string{"numbers", "token"}, wrong: map[string]string{"token": "cannot be read on this machine"},
		},
		{
			name: "nobody answers", from: "URL", to: "http://127.0.0.1:1/routerjson",
			rows: []string{"numbers", "address"}, wrong: map[string]string{"address": "127.0.0.1:1"},
		},
		{
			name: "the clock is off, within what JD takes", now: func() time.Time { return time.Now().Add(-4 * time.Minute) },
			wrong: map[string]string{"clock": "behind JD's"},
		},
		{
			name: "the clock is off by an hour", now: func() time.Time { return time.Now().Add(time.Hour) },
			wrong: map[string]string{"clock": "ahead of JD's"},
		},
		{
			name: "numbers of another shape", from: "ESP0020000000001", to: "S-1",
			rows: slices.Concat([]string{"shops[S01]"}, all[1:], lists), wrong: map[string]string{"shops[S01]": "begin with ESP"},
		},
		{
			name: "JD has all numbers", knobs: master(func(*jdsandbox.Config) {}),
			stock: "suppliers: [{code: TEA, number: EMS1}]\nplatforms: [{code: tmall, number: 2}]\n",
			rows:  slices.Concat(all, lists, []string{"master.querySupplier", "master.querySpSource"}),
		},
		{
			name: "JD has other numbers", knobs: master(func(c *jdsandbox.Config) {
				c.Shops[0].ShopNo, c.Warehouses[0].WarehouseNo, c.Shippers[0].ShipperNo = "ESP9", "110000009", "CYS9"
				c.Departments[0].DeptNo = "EBU9"
			}),
			stock: "suppliers: [{code: TEA, number: EMS2}]\nplatforms: [{code: x, number: 4711}]\n",
			rows:  slices.Concat(all, []string{"department", "warehouses[W01]", "shops[S01]", "carriers[ZTO]", "suppliers[TEA]", "platforms[x]"}),
			wrong: map[string]string{
				"department": "no business unit EBU0000000000001", "warehouses[W01]": "no warehouse 110000001", "shops[S01]": "no shop ESP0020000000001",
				"carriers[ZTO]": "no carrier CYS4418046511112", "suppliers[TEA]": "no supplier EMS2", "platforms[x]": "no sales platform 4711",
			},
		},
		{
			name: "JD has disabled some", knobs: master(func(c *jdsandbox.Config) { c.Shippers[0].Status, c.Suppliers[0].Status = "0", "3" }),
			stock: "suppliers: [{code: TEA, number: EMS1}]\n",
			rows:  slices.Concat(all, lists[:3], []string{"carriers[ZTO]", "suppliers[TEA]"}),
			wrong: map[string]string{"carriers[ZTO]": "disabled carrier CYS4418046511112 (中通)", "suppliers[TEA]": "disabled supplier EMS1 (茶厂)"},
		},
		{
			name: "a shop of JD's platform with the number of the others", knobs: master(func(*jdsandbox.Config) {}),
			from: "warehouses: [W01]}", to: "warehouses: [W01], platform: jd}", stock: "platforms: [{code: jd, number: 1}]\n",
			rows:  slices.Concat(all, lists[:2], []string{"shops[S01]", "master.queryShipper", "master.querySpSource"}),
			wrong: map[string]string{"shops[S01]": "a number of the other platforms"},
		},
		{
			name: "a shop of another platform with JD's number", knobs: master(func(c *jdsandbox.Config) { c.Shops[0].SpSourceNo = "1" }),
			from: "warehouses: [W01]}", to: "warehouses: [W01], platform: taobao}",
			rows:  slices.Concat(all, lists[:2], []string{"shops[S01]", "master.queryShipper"}),
			wrong: map[string]string{"shops[S01]": "a number of JD's"},
		},
		{
			name: "a shop whose orders JD takes, with the number of the others", knobs: master(func(*jdsandbox.Config) {}), booking: "flow",
			rows:  slices.Concat(all, stock, lists[:2], []string{"shops[S01]", "master.queryShipper"}),
			wrong: map[string]string{"shops[S01]": "a number of the other platforms"},
		},
		{
			name: "JD grants no lists", knobs: func(c *jdsandbox.Config) {
				c.Apps = []jdsandbox.App{{Key: "sandbox-app", Secret: "sandbox-secret", Tokens: []jdsandbox.Token{{Value: "sandbox-token", Denied: []string{
					"eclp.master.queryDept", "eclp.master.queryWarehouse", "eclp.master.queryShop", "eclp.master.queryShipper",
				}}}}}
			},
			rows: slices.Concat(all, lists),
		},
		{
			name: "JD refuses to list the shop", knobs: func(c *jdsandbox.Config) {
				c.Knobs.Faults = []jdsandbox.Fault{{Kind: jdsandbox.Error, Code: "5001", ZH: "店铺不存在", Methods: []string{"eclp.master.queryShop"}, Chance: 1}}
			},
			rows: slices.Concat(all, lists), wrong: map[string]string{"master.queryShop": "check its number"},
		},
		{name: "stock is followed", booking: "flow", rows: slices.Concat(all, stock, lists)},
		{
			name: "stock is followed, and may be set", booking: "documents", stock: "stock: {set_at_warehouse: true}\n",
			rows: slices.Concat(all, stock, lists, []string{"stock.setShopStockFixed"}),
		},
		{
			name: "permissions for stock lack", booking: "flow", knobs: func(c *jdsandbox.Config) {
				c.Apps = []jdsandbox.App{{Key: "sandbox-app", Secret: "sandbox-secret", Tokens: []jdsandbox.Token{{Value: "sandbox-token", Denied: []string{"eclp.stock.queryVmiShopStockFlow", "eclp.stock.queryStock"}}}}}
			},
			rows: slices.Concat(all, stock, lists), wrong: map[string]string{"stock.queryVmiShopStockFlow": "have JD grant this call", "stock.queryStock": "is not counted"},
		},
		{
			name: "JD refuses the shop's flow", booking: "flow", knobs: func(c *jdsandbox.Config) {
				c.Knobs.Faults = []jdsandbox.Fault{{Kind: jdsandbox.Error, Code: "5001", ZH: "店铺不存在", Methods: []string{"eclp.stock.queryVmiShopStockFlow"}, Chance: 1}}
			},
			rows: slices.Concat(all, stock, lists), wrong: map[string]string{"stock.queryVmiShopStockFlow": "numbers of shop"},
		},
		{
			name: "JD ends flows in a way that nobody knows", booking: "flow", knobs: func(c *jdsandbox.Config) { c.Knobs.Flow.End.Style = "empty" },
			rows: slices.Concat(all, stock, lists), wrong: map[string]string{"stock.queryVmiShopStockFlow": "without the sentence"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			config := jdsandbox.Config{Stopped: true}
			if test.knobs != nil {
				test.knobs(&config)
			}
			sandbox, err := jdsandbox.New(config)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(sandbox)
			defer server.Close()
			env := test.env
			if env == nil {
				env = map[string]string{"TOKEN": "sandbox-token", "SECRET": "sandbox-secret"}
			}
			text := healthy
			if test.booking != "" {
				text = strings.Replace(text, "warehouses: [W01]}", "warehouses: [W01], booking: "+test.booking+"}", 1)
			}
			text += test.stock
			if test.from != "" {
				text = strings.Replace(text, test.from, test.to, 1)
			}
			setup, err := seller.Parse([]byte(strings.Replace(text, "URL", server.URL+"/routerjson", 1)))
			if err != nil {
				t.Fatal(err)
			}
			w, err := jd.New(jd.Options{
				Seller: seller.New(setup, nil), Warehouse: "W01", Class: quota.Status,
				Env: func(name string) string { return env[name] }, Now: test.now,
			})
			if err != nil {
				t.Fatal(err)
			}
			var rows []string
			for _, d := range w.Diagnose(t.Context()) {
				rows = append(rows, d.What)
				want, wrong := test.wrong[d.What]
				switch {
				case (d.Err != nil) != wrong:
					t.Errorf("%s: %v, %s", d.What, d.Err, d.Note)
				case wrong && !strings.Contains(d.Err.Error(), want):
					t.Errorf("%s: %v, want %q in it", d.What, d.Err, want)
				case wrong && fault.ReasonOf(d.Err, "none").ZH == "":
					t.Errorf("%s: no Chinese text", d.What)
				}
				if wrong && strings.Contains(d.Err.Error(), "sandbox-") {
					t.Errorf("%s shows a secret: %v", d.What, d.Err)
				}
			}
			want := test.rows
			if want == nil {
				want = slices.Concat(all, lists)
			}
			if !slices.Equal(rows, want) {
				t.Errorf("rows %q, want %q", rows, want)
			}
			if n := len(sandbox.Documents()); n != 0 {
				t.Errorf("the diagnosis made %d documents", n)
			}
		})
	}
}
