package jdapi

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

// Each request exactly as it is sent, at a fixed time, and what is read from a fixed answer.
func TestRequestsLeaveAsJDWantsThem(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		call         func(context.Context, *Client) (any, error)
	}{
		{"addOrder", `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL4398046641940"}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.AddOrder(ctx, AddOrder{
					IsvUUID: "A-1", IsvSource: "ISV0020000000137", ShopNo: "ESP0020000009400", DepartmentNo: "EBU0000000006313",
					SalePlatformSource: "6", ConsigneeName: "王小明", ConsigneeMobile: "13800138000",
					ConsigneeAddress: "浙江省 杭州市 A&B座+1 <b>", OrderMark: "0", LinesGoodsNo: "EMG1,EMG2", LinesQuantity: "1,2",
				})
			}},
		{"ext.queryOrder", `{"jingdong_eclp_order_ext_queryOrder_responce":{"code":"0","queryorder_result":[
			{"isvUUID":"A-1","eclpSoNo":"ESL1","mainStatus":10018,"operTime":"2021-06-18 09:30:00","resultCode":1},
			{"isvUUID":["A-2"],"eclpSoNo":null}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.ExtQueryOrder(ctx, ExtQueryOrder{IsvUUIDs: []string{"A-1", "A-2"}, IsvSource: "ISV1", DepartmentNo: "EBU1"})
			}},
		{"queryOrder", `{"jingdong_eclp_order_queryOrder_responce":{"code":"0","queryorder_result":{
			"eclpSoNo":"ESL1","isvUUID":"A-1","shipperNo":"CYS0000010","shipperName":"京东","currentStatus":"10018","wayBill":"VA1,VA2",
			"splitEclpSoNos":"","orderDetailList":[{"goodsNo":"EMG1","isvGoodsNo":"g1","price":"480.00","quantity":2,"realOutQty":"2","orderLine":"1"}],
			"orderPackageList":[{"packageNo":"VA1-1-1-","packWeight":1.25,"packVolume":0,"wayBill":"VA1"}],
			"orderStatusList":[{"soStatusCode":10018,"soStatusName":"货品已打包","operateTime":"2021-06-18 09:30:00","operateUser":"u"}]}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryOrder(ctx, "ESL1") }},
		{"queryOrderStatus", `{"jingdong_eclp_order_queryOrderStatus_responce":{"code":"0","queryorderstatus_result":{"eclpSoNo":"ESL1",
			"orderStatusList":[{"soStatusCode":"10009","soStatusName":"x","operateTime":"2021-06-18 09:30:00"}]}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryOrderStatus(ctx, "ESL1") }},
		{"queryOrderPacks", `{"jingdong_eclp_order_queryOrderPacks_responce":{"code":"0","queryorderpacks_result":[{"eclpSoNo":"ESL1",
			"orderPackageList":[{"packageNo":"VA1-1-2-","soPackItemsList":[{"goodsNo":"EMG1","goodsNum":1}]},{"packageNo":"VA1-2-2-","soPackItemsList":null}]}]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryOrderPacks(ctx, "ESL1") }},
		{"queryDept", `{"jingdong_eclp_master_queryDept_responce":{"code":"0","querydept_result":[{"deptNo":"EBU1","deptName":"事业部","status":1}]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryDept(ctx, []string{"EBU1"}) }},
		{"queryWarehouse", `{"jingdong_eclp_master_queryWarehouse_responce":{"code":"0","querywarehouse_result":[{"warehouseNo":"110000001","warehouseName":"北京仓"},{"warehouseName":"x"}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.QueryWarehouse(ctx, "EBU1", []string{"110000001", "110000002"})
			}},
		{"queryShop", `{"jingdong_eclp_master_queryShop_responce":{"code":"0","queryshop_result":{"shopNo":"ESP1","shopName":"店","spSourceNo":1,"status":"2"}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryShop(ctx, "EBU1", []string{"ESP1"}) }},
		{"queryShipper", `{"jingdong_eclp_master_queryShipper_responce":{"code":"0","queryshipper_result":[{"shipperNo":"CYS0000010","shipperName":"京东快递"},{"shipperNo":"CYS2","status":0}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.QueryShipper(ctx, []string{"CYS0000010", "CYS2"})
			}},
		{"querySupplier", `{"jingdong_eclp_master_querySupplier_responce":{"code":"0","querysupplier_result":[{"eclpSupplierNo":"EMS1","supplierName":"供应商","status":"3","deptNo":"EBU1"}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.QuerySupplier(ctx, "EBU1", []string{"EMS1"})
			}},
		{"querySpSource", `{"jingdong_eclp_master_querySpSource_responce":{"code":"0","queryspsource_result":[{"spSourceNo":"1","spSourceName":"京东"}]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QuerySpSource(ctx) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			client.Now = func() time.Time { return time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC) }
			var sent strings.Builder
			jd.does(func(w http.ResponseWriter, r *http.Request) {
				record(&sent, r)
				say(w, c.answer)
			})
			read, err := c.call(t.Context(), client)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&sent, "\nread:\n%+v\n", read)
			golden(t, c.name, sent.String())
		})
	}
}

// record writes a request as it arrived and, for the reader, its business part decoded. The server's form parser has
// consumed the body, so it is rebuilt from the form; net/http's encoding is canonical.
func record(out *strings.Builder, r *http.Request) {
	body := url.Values{paramName: r.PostForm[paramName]}.Encode()
	if rest, _ := io.ReadAll(r.Body); len(rest) > 0 || int64(len(body)) != r.ContentLength {
		fmt.Fprintf(out, "the body has something else: %q\n", rest)
	}
	fmt.Fprintf(out, "%s %s?%s\nContent-Type: %s\n\n%s\n\nwhich is:\n%s\n",
		r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), body, r.PostForm.Get(paramName))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// An order that JD does not know is an empty answer, in any of its forms.
func TestAnUnknownOrderIsAnEmptyAnswer(t *testing.T) {
	for _, result := range []string{``, `,"queryorder_result":null`, `,"queryorder_result":[]`, `,"queryorder_result":{}`, `,"queryorder_result":""`} {
		client, jd := dial(t)
		jd.says(func(string) string { return `{"jingdong_eclp_order_queryOrder_responce":{"code":"0"` + result + `}}` })
		if o, err := client.QueryOrder(t.Context(), "ESL1"); err != nil || o.EclpSoNo != "" {
			t.Errorf("%s: %+v, %v", result, o, err)
		}
	}
}
