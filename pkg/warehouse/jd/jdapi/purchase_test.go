package jdapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Each request about purchase orders exactly as it is sent, at a fixed time, and what is read from a fixed answer.
func TestRequestsAboutPurchasesLeaveAsJDWantsThem(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		call         func(context.Context, *Client) (any, error)
	}{
		{"addPoOrder", `{"jingdong_eclp_po_addPoOrder_responce":{"code":"0","poOrderNo":"EPL4398046516113"}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.AddPoOrder(ctx, AddPoOrder{
					SpPoOrderNo: "PO-1", DeptNo: "EBU0000000006313", WhNo: "110006341", SupplierNo: "EMS4398046512427", InboundRemark: "A&B座+1 <b>",
					LinesDeptGoodsNo: "EMG1,EMG2", LinesNumApplication: "10,3", LinesGoodsStatus: "1,2", LinesOrderLine: "1,2",
				})
			}},
		{"cancalPoOrder", `{"jingdong_eclp_po_cancalPoOrder_responce":{"code":"0","poResult":{"code":1,"msg":"成功"}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.CancelPoOrder(ctx, "EPL4398046516113") }},
		{"queryPoOrder", `{"jingdong_eclp_po_queryPoOrder_responce":{"code":"0","queryPoModelList":[
			{"poOrderNo":"EPL1","isvPoOrderNo":"PO-1","deptNo":"EBU1","whNo":110006341,"supplierNo":"EMS1","poOrderStatus":70,"createTime":"2021-06-18 09:00:00",
			"completeTime":["2021-06-18 09:30:00"],"storageStatus":"1","resultCode":"1","msg":null,"poItemModelList":[
			{"goodsNo":"EMG1","numApplication":"10","goodsStatus":1,"realInstoreQty":"8.0","shortQty":"2","realGoodsStatus":["1"],"realGoodsLevel":"100","orderLine":"1","isvGoodsNo":"g1"}]},
			{"poOrderNo":"EPL2","poItemModelList":{"goodsNo":"EMG1"}}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.QueryPoOrder(ctx, []string{"EPL1", "EPL2"})
			}},
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

// A purchase order that JD accepted has a number; everything else that looks like a success is a lost answer.
func TestAPurchaseOrderIsAcceptedByItsNumberOnly(t *testing.T) {
	for inner, want := range map[string]string{
		`{"code":"0","poOrderNo":"EPL4398046516113"}`: "EPL4398046516113",
		`{"code":"0","poOrderNo":["EPL1"]}`:           "EPL1",
		`{"code":"0","poOrderNo":4398046516113}`:      "4398046516113",
		`{"code":"0"}`:                                "",
		`{"code":"0","poOrderNo":null}`:               "",
		`{"code":"0","poOrderNo":"采购单下发成功"}`:          "",
		`{"code":"0","poOrderNo":"EPL1,EPL2"}`:        "",
		`{"code":"0","poOrderNo":["EPL1","EPL2"]}`:    "",
		`{"code":"0","poOrderNo":{}}`:                 "",
		`{"code":"1","poOrderNo":"EPL1"}`:             "",
		`{"code":"0","eclpSoNo":"ESL1"}`:              "",
		`null`:                                        "",
	} {
		client, jd := dial(t)
		jd.says(func(string) string { return `{"jingdong_eclp_po_addPoOrder_responce":` + inner + `}` })
		no, err := client.AddPoOrder(t.Context(), AddPoOrder{SpPoOrderNo: "PO-1"})
		if no != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrLost) {
			t.Errorf("%s: %q, %v", inner, no, err)
		}
	}
}

// A request to cancel has the code that JD gives inside, and none if JD gives none.
func TestARequestToCancelHasTheCodeInside(t *testing.T) {
	for result, want := range map[string]PoResult{
		`,"poResult":{"code":"1","msg":"成功"}`:    {"1", "成功"},
		`,"poResult":[{"code":2,"msg":["已收货"]}]`: {"2", "已收货"},
		`,"poResult":{"code":true}`:              {"true", ""},
		`,"poResult":{}`:                         {},
		`,"poResult":null`:                       {},
		`,"poResult":""`:                         {},
		`,"poResult":[{"code":1},{"code":1}]`:    {},
		``:                                       {},
	} {
		client, jd := dial(t)
		jd.says(func(string) string { return `{"jingdong_eclp_po_cancalPoOrder_responce":{"code":"0"` + result + `}}` })
		if got, err := client.CancelPoOrder(t.Context(), "EPL1"); err != nil || got != want {
			t.Errorf("%s: %+v, %v", result, got, err)
		}
	}
}

// A read-only client asks about purchase orders and writes none.
func TestAReaderWritesNoPurchaseOrder(t *testing.T) {
	client, jd := dial(t)
	client.ReadOnly = true
	_, sent := client.AddPoOrder(t.Context(), AddPoOrder{SpPoOrderNo: "PO-1"})
	_, cancelled := client.CancelPoOrder(t.Context(), "EPL1")
	for _, err := range []error{sent, cancelled} {
		if !errors.Is(err, ErrReadOnly) || !errors.Is(err, ErrNotSent) {
			t.Error(err)
		}
	}
	if n := jd.calls.Load(); n != 0 {
		t.Errorf("%d requests", n)
	}
	jd.says(func(string) string {
		return `{"jingdong_eclp_po_queryPoOrder_responce":{"code":"0","queryPoModelList":null}}`
	})
	if rows, err := client.QueryPoOrder(t.Context(), []string{"EPL1"}); err != nil || len(rows) != 0 {
		t.Errorf("%+v, %v", rows, err)
	}
}

// Whatever JD answers about purchase orders, nothing panics, no quantity is invented, and a success has a number.
func FuzzPurchase(f *testing.F) {
	for _, body := range []string{
		`{"a_responce":{"code":"0","poOrderNo":"EPL4398046516113"}}`,
		`{"a_responce":{"poResult":[{"code":["1"],"msg":"成功"}]}}`,
		`{"a_responce":{"queryPoModelList":{"poOrderNo":["EPL1"],"poOrderStatus":70,"completeTime":"2021-06-18 09:30:00","poItemModelList":{"realInstoreQty":"8.0","numApplication":10}}}}`,
		`{"a_responce":{"queryPoModelList":[null,{"poItemModelList":[null,{"realInstoreQty":[]}]}]}}`,
		`{"error_response":{"code":"10500","zh_desc":"采购单不存在"}}`, ``,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		inner, err := openEnvelope(MethodQueryPoOrder, body)
		if err != nil {
			return
		}
		var one struct {
			Number  Text           `json:"poOrderNo"`
			Results List[PoResult] `json:"poResult"`
			Rows    List[PoOrder]  `json:"queryPoModelList"`
		}
		if json.Unmarshal(inner, &one) != nil {
			return
		}
		if no, err := acceptedNumber(MethodAddPoOrder, "poOrderNo", one.Number); (err == nil) != (no != "") || strings.ContainsAny(no, ", \n\"") {
			t.Errorf("%q, %v", no, err)
		}
		for _, r := range one.Rows {
			r.CompleteTime.Time()
			for _, i := range r.Items {
				for _, n := range []Text{i.NumApplication, i.RealInstoreQty} {
					if v, ok := n.Int(); ok && v != 0 && !strings.ContainsAny(string(n), "123456789") {
						t.Errorf("%q is %d", n, v)
					}
				}
			}
		}
	})
}
