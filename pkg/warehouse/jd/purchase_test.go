package jd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// What JD is sent for a purchase order.
func TestPurchaseOrdersInJDsFields(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*purchasev1.Audited)
	}{
		{"purchase plain", func(*purchasev1.Audited) {}},
		{"purchase by the numbers of JD", func(m *purchasev1.Audited) {
			for i, l := range m.Lines {
				l.GoodsCode, l.WarehouseGoodsNo = "", fmt.Sprintf("EMG441804834821%d", i)
			}
			m.Lines[0].Grade, m.Lines[1].Grade = purchasev1.Grade_GRADE_SAMPLE, purchasev1.Grade_GRADE_GOOD
		}},
		{"purchase texts to be cleaned", func(m *purchasev1.Audited) {
			m.Remark = "请\t整托📦入库 A&B" + strings.Repeat("。", maxInboundRemark)
			m.Lines[0].GoodsCode, m.Lines[0].Name = "SKU-1\n", "Tea, 🍵"
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := warehousetest.Purchase("PO-1")
			c.change(m)
			plan := offline(t).Purchases().Plan(m)
			if plan.Err != nil || len(plan.Findings) > 0 {
				t.Fatal(plan.Findings)
			}
			var got bytes.Buffer
			got.WriteString(plan.Call + "\n")
			if err := json.Indent(&got, []byte(plan.Body), "", "  "); err != nil {
				t.Fatal(err)
			}
			for _, cleaned := range plan.Cleaned {
				fmt.Fprintf(&got, "\n%s: %s: %s / %s", cleaned.Field, cleaned.What, cleaned.Zh, cleaned.En)
			}
			golden(t, c.name, got.String()+"\n")
		})
	}
}

func TestFindingsOfPurchaseOrders(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*purchasev1.Audited)
		// want is "code field", holds with " → cause".
		want []string
	}{
		"nothing wrong":               {func(*purchasev1.Audited) {}, nil},
		"the supplier is not mapped":  {func(m *purchasev1.Audited) { m.Supplier = "CUP" }, []string{"supplier.unmapped supplier → supplier:acme/CUP"}},
		"a number of 50":              {func(m *purchasev1.Audited) { m.No = strings.Repeat("1", 50) }, nil},
		"a number of 51":              {func(m *purchasev1.Audited) { m.No = strings.Repeat("1", 51) }, []string{"text.long no"}},
		"a code of 51":                {func(m *purchasev1.Audited) { m.Lines[1].GoodsCode = strings.Repeat("码", 51) }, []string{"text.long lines[1].goods_code"}},
		"no lines":                    {func(m *purchasev1.Audited) { m.Lines = nil }, []string{"lines.required lines"}},
		"no quantity":                 {func(m *purchasev1.Audited) { m.Lines[1].Quantity = 0 }, []string{"quantity.invalid lines[1].quantity"}},
		"a line twice":                {func(m *purchasev1.Audited) { m.Lines[1].LineId = "1" }, []string{"line.repeated lines[1].line_id"}},
		"goods here by JD's number":   {func(m *purchasev1.Audited) { m.Lines[1].GoodsCode, m.Lines[1].WarehouseGoodsNo = "", "EMG2" }, []string{"goods.mixed lines[1].goods_code"}},
		"a code that shifts the list": {func(m *purchasev1.Audited) { m.Lines[0].GoodsCode = "a,b" }, []string{"text.comma lines[0].goods_code"}},
		"a mark inside a code":        {func(m *purchasev1.Audited) { m.Lines[0].GoodsCode = "SK\u200bU" }, []string{"text.character lines[0].goods_code"}},
		"a condition that is none":    {func(m *purchasev1.Audited) { m.Lines[0].Grade = 9 }, []string{"grade.invalid lines[0].grade"}},
		"a hold and a refusal": {func(m *purchasev1.Audited) { m.Supplier, m.Lines[0].Quantity = "CUP", -1 },
			[]string{"supplier.unmapped supplier → supplier:acme/CUP", "quantity.invalid lines[0].quantity"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := warehousetest.Purchase("PO-1")
			c.change(m)
			plan := offline(t).Purchases().Plan(m)
			var got []string
			for _, finding := range plan.Findings {
				r := fault.ReasonOf(finding, "none")
				line := r.Code + " " + r.Field
				if cause := fault.Cause(finding); cause != "" {
					line += " → " + cause
				} else if fault.Of(finding) != fault.Refused {
					t.Errorf("%v is %v", finding, fault.Of(finding))
				}
				if got = append(got, line); r.ZH == "" || r.EN == "" {
					t.Errorf("no words for it: %+v", r)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if want := fault.Refused; len(got) > 0 && fault.Of(plan.Err) != want && (len(got) > 1 || fault.Of(plan.Err) != fault.Held) || len(got) == 0 && plan.Err != nil {
				t.Errorf("error %v", plan.Err)
			}
		})
	}
}

const acceptedPurchase = `{"jingdong_eclp_po_addPoOrder_responce":{"code":"0","poOrderNo":"EPL1"}}`

// What each failure means: of a send, of a reading, of a request to cancel.
func TestEachFailureOfAPurchaseOrderHasItsMeaning(t *testing.T) {
	type fate struct{ send, read, cancel string }
	same := func(s string) fate { return fate{s, s, s} }
	lost := fate{"unknown", "transient", "unknown"}
	rejected := fate{"rejected", "transient", "rejected"}
	for answer, want := range map[string]fate{
		"":                   lost,
		"<html>":             lost,
		"{}":                 lost,
		refusedBy("1", "x"):  lost,
		refusedBy("65", "x"): lost,
		refusedBy("67", "x"): lost,
		refusedBy("2", "x"):  {"unknown", "wait", "unknown"},
		refusedBy("8", "x"):  same("transient"),
		refusedBy("19", "x"): same("held token:acme/main"),
		refusedBy("24", "x"): same("held permission:acme/main"),
		refusedBy("15", "x"): same("held account:acme/main"),
		refusedBy("17", "x"): {"rejected, waits for account:acme/main", "held account:acme/main", "rejected, waits for account:acme/main"},
		refusedBy("61", "x"): {"permanent warehouse.refused.data", "transient", "permanent warehouse.refused.data"},
		refusedBy("61", "参数[supplierNo]值不合法"):                          {"held number:acme/supplier/TEA", "transient", "permanent warehouse.refused.data"},
		refusedBy("61", "参数[deptNo]值不合法"):                              same("held number:acme/department/main"),
		refusedBy("10500", "供应商[EMS4398046512427]不存在"):                 {"rejected, waits for number:acme/supplier/TEA", "transient", "rejected"},
		refusedBy("10500", "供应商编号：EMS4398046512427 已停用"):               {"rejected, waits for number:acme/supplier/TEA", "transient", "rejected"},
		refusedBy("10500", "仓库110006341未启用"):                           {"rejected, waits for number:acme/warehouse/W01", "transient", "rejected"},
		refusedBy("10500", "事业部不存在"):                                   same("held number:acme/department/main"),
		refusedBy("10500", "店铺不存在"):                                    rejected, // JD was given none
		refusedBy("10500", "采购单已完成，不能取消"):                              rejected,
		refusedBy("10500", "单号[PO-1]已存在"):                              rejected,
		refusedBy("10500", "采购单不存在"):                                   {"rejected", "nothing", "rejected"},
		`{"x_responce":{"code":"43"}}`:                                 lost,
		`{"x_responce":{"code":"0"}}`:                                  {"unknown", "nothing", "pending"},
		`{"x_responce":{"code":"0","poOrderNo":"采购单","poResult":""}}`:  {"unknown", "nothing", "pending"},
		`{"x_responce":{"code":"0","queryPoModelList":[[]]}}`:          {"unknown", "transient", "pending"},
		`{"jingdong_eclp_order_addOrder_responce":{"poOrderNo":"E1"}}`: lost,
	} {
		t.Run(answer, func(t *testing.T) {
			p := answering(t, func(*request) string { return answer }).Purchases()
			m := warehousetest.Purchase("PO-1")
			var got fate
			receipt, err := p.Send(t.Context(), m, p.Plan(m))
			if got.send = describe(t, err); receipt.WarehouseNo != "" {
				t.Errorf("accepted: %+v", receipt)
			}
			documents, err := p.Read(t.Context(), []string{"EPL1"})
			if got.read = describe(t, err); err == nil && len(documents) == 0 {
				got.read = "nothing"
			}
			verdict, err := p.Cancel(t.Context(), "EPL1")
			if got.cancel = describe(t, err); err == nil && verdict.Verdict == warehouse.CancelPending {
				got.cancel = "pending"
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// The text of a known fault of the data is one of a purchase order's as well.
func TestAKnownSentenceAboutAPurchaseOrderIsAFaultOfTheData(t *testing.T) {
	p := answering(t, func(*request) string { return refusedBy("10500", "商品[SKU-1]没有库存信息") }).Purchases()
	m := warehousetest.Purchase("PO-1")
	_, err := p.Send(t.Context(), m, p.Plan(m))
	var no *warehouse.Rejected
	if !errors.As(err, &no) || !no.Data || no.Reason.RemoteText != "商品[SKU-1]没有库存信息" {
		t.Errorf("%+v", err)
	}
}

// A plan with a fault, and a number that is none of JD's, reach no network.
func TestWhatCannotBeSaidIsNotSent(t *testing.T) {
	calls := 0
	p := answering(t, func(*request) string { calls++; return acceptedPurchase }).Purchases()
	m := warehousetest.Purchase("PO-1")
	m.Supplier = "CUP"
	if _, err := p.Send(t.Context(), m, p.Plan(m)); fault.Cause(err) != "supplier:acme/CUP" {
		t.Error(err)
	}
	for _, no := range []string{"", "EPL1,EPL2", " EPL1", "采购单"} {
		if d, err := p.Read(t.Context(), []string{no}); err == nil {
			t.Errorf("%q: %+v", no, d)
		}
		if c, err := p.Cancel(t.Context(), no); err == nil {
			t.Errorf("%q: %+v", no, c)
		}
	}
	if d, err := p.Read(t.Context(), nil); err != nil || len(d) != 0 {
		t.Errorf("nothing asked: %+v, %v", d, err)
	}
	if calls > 0 {
		t.Errorf("%d calls", calls)
	}
}

// JD's codes of a cancellation: everything but done and refused is decided by the status later.
func TestOnlyKnownCodesOfACancellationAreVerdicts(t *testing.T) {
	for result, want := range map[string]warehouse.Cancellation{
		`{"code":"1","msg":"成功"}`: {Verdict: warehouse.CancelDone, Code: "1", Text: "成功"},
		`[{"code":1}]`:            {Verdict: warehouse.CancelDone, Code: "1"},
		`{"code":2,"msg":"已收货，张三 13800001234"}`: {Verdict: warehouse.CancelRefused, Code: "2", Text: "已收货，张三 ***"},
		`{"code":"3"}`:            {Code: "3"},
		`{"code":"0","msg":"成功"}`: {Code: "0", Text: "成功"},
		`{"code":true}`:           {Code: "true"},
		`{"code":"1.0"}`:          {Code: "1.0"},
		`{"msg":"取消成功"}`:          {Text: "取消成功"},
		`{}`:                      {}, `null`: {}, `""`: {}, `[{"code":"1"},{"code":"2"}]`: {},
	} {
		p := answering(t, func(r *request) string {
			if r.method != "po.cancalPoOrder" || r.param != `{"poOrderNo":"EPL1"}` {
				t.Errorf("%s %s", r.method, r.param)
			}
			return `{"x_responce":{"code":"0","poResult":` + result + `}}`
		}).Purchases()
		if got, err := p.Cancel(t.Context(), "EPL1"); err != nil || got != want {
			t.Errorf("%s: %+v, %v", result, got, err)
		}
	}
}

func TestAPurchaseOrderIsReportedInOurTerms(t *testing.T) {
	const line = `"goodsNo":"EMG1","isvGoodsNo":"g1","orderLine":"1","numApplication":"10","goodsStatus":"1"`
	for _, c := range []struct{ name, row, want string }{
		{"waiting for the case list", `"poOrderStatus":4`, "PO-1 STATUS_WAITING 4 等待箱明细 -; []"},
		{"waiting for serial numbers", `"poOrderStatus":"5"`, "PO-1 STATUS_WAITING 5 等待序列号清单 -; []"},
		{"new", `"poOrderStatus":"10","operTime":"2026-03-01 09:00:00","poItemModelList":[{` + line + `}]`, "PO-1 STATUS_RECEIVED 10 新建 09:00; [1 EMG1 g1 GRADE_GOOD/1 0 of 10]"},
		{"initialised", `"poOrderStatus":"20"`, "PO-1 STATUS_RECEIVED 20 初始化 -; []"},
		{"completed", `"poOrderStatus":"70","operTime":"2026-03-01 09:00:00","completeTime":"2026-03-01 10:00:00","msg":"少 2 件","poItemModelList":{` + line + `,"realInstoreQty":"8.0"}`,
			"PO-1 STATUS_COMPLETED 70 完成 10:00; [1 EMG1 g1 GRADE_GOOD/1 8 of 10] 少 2 件"},
		{"cancelling", `"poOrderStatus":"90"`, "PO-1 STATUS_CANCELLING 90 取消中 -; []"},
		{"cancelled", `"poOrderStatus":91`, "PO-1 STATUS_CANCELLED 91 取消成功 -; []"},
		{"cancellation refused", `"poOrderStatus":"92"`, "PO-1 STATUS_CANCEL_REFUSED 92 取消失败 -; []"},
		{"a state that is not known is open", `"poOrderStatus":"30","poItemModelList":[{` + line + `,"realInstoreQty":3}]`, "PO-1 STATUS_UNSPECIFIED 30  -; [1 EMG1 g1 GRADE_GOOD/1 3 of 10]"},
		{"no state", `"resultCode":"2","msg":"处理中 13800001234"`, "PO-1 STATUS_UNSPECIFIED   -; [] 处理中 ***"},
		{"another number of ours", `"isvPoOrderNo":"PO-2","poOrderStatus":"10"`, "PO-2 STATUS_RECEIVED 10 新建 -; []"},
		{"two conditions of one line stay apart", `"poOrderStatus":"70","poItemModelList":[{` + line + `,"realInstoreQty":"8","realGoodsLevel":"100"},{` + line + `,"realInstoreQty":"2","realGoodsLevel":"200","realGoodsStatus":"2"}]`,
			"PO-1 STATUS_COMPLETED 70 完成 -; [1 EMG1 g1 GRADE_GOOD/100 8 of 10, 1 EMG1 g1 GRADE_DEFECTIVE/200 2 of 10]"},
		{"the level goes before the status", `"poItemModelList":[{` + line + `,"realInstoreQty":1,"realGoodsLevel":"199","realGoodsStatus":"2"},{` + line + `,"realInstoreQty":1,"realGoodsLevel":400}]`,
			"PO-1 STATUS_UNSPECIFIED   -; [1 EMG1 g1 GRADE_GOOD/199 1 of 10, 1 EMG1 g1 GRADE_DEFECTIVE/400 1 of 10]"},
		{"the real status goes before the one asked for", `"poItemModelList":[{` + line + `,"realInstoreQty":1,"realGoodsStatus":"2"},{` + line + `,"realInstoreQty":1,"realGoodsStatus":3}]`,
			"PO-1 STATUS_UNSPECIFIED   -; [1 EMG1 g1 GRADE_DEFECTIVE/2 1 of 10, 1 EMG1 g1 GRADE_SAMPLE/3 1 of 10]"},
		{"an unknown level with a known status", `"poItemModelList":[{` + line + `,"realInstoreQty":1,"realGoodsLevel":"300","realGoodsStatus":"2"}]`,
			"PO-1 STATUS_UNSPECIFIED   -; [1 EMG1 g1 GRADE_DEFECTIVE/300 1 of 10]"},
		{"an unknown level is not the one asked for", `"poItemModelList":[{` + line + `,"realInstoreQty":1,"realGoodsLevel":"300"}]`,
			"PO-1 STATUS_UNSPECIFIED   -; [1 EMG1 g1 GRADE_UNSPECIFIED/300 1 of 10]"},
		{"a level for a status", `"poItemModelList":[{"goodsNo":"EMG1","numApplication":1,"goodsStatus":"200","realInstoreQty":1}]`,
			"PO-1 STATUS_UNSPECIFIED   -; [ EMG1  GRADE_DEFECTIVE/200 1 of 1]"},
		{"more than was asked for", `"poOrderStatus":"70","poItemModelList":[{` + line + `,"realInstoreQty":"12"}]`,
			"PO-1 STATUS_COMPLETED 70 完成 -; [1 EMG1 g1 GRADE_GOOD/1 12 of 10]"},
		{"a line of which nothing came", `"poOrderStatus":"70","poItemModelList":[{` + line + `,"realInstoreQty":null},{"goodsNo":"EMG2","numApplication":"4","realInstoreQty":"4","goodsStatus":1}]`,
			"PO-1 STATUS_COMPLETED 70 完成 -; [1 EMG1 g1 GRADE_GOOD/1 0 of 10,  EMG2  GRADE_GOOD/1 4 of 4]"},
		{"half a piece", `"poOrderStatus":"70","poItemModelList":[{` + line + `,"realInstoreQty":"1"},{"realInstoreQty":"1.5"}]`, `PO-1 STATUS_UNSPECIFIED 70 完成 -; line 1 has realInstoreQty "1.5"`},
		{"fewer than none", `"poItemModelList":[{"realInstoreQty":-1}]`, `PO-1 STATUS_UNSPECIFIED   -; line 0 has realInstoreQty "-1"`},
		{"words for a quantity", `"poItemModelList":[{"numApplication":"十"}]`, `PO-1 STATUS_UNSPECIFIED   -; line 0 has numApplication "十"`},
		{"completed without lines", `"poOrderStatus":"70"`, "PO-1 STATUS_UNSPECIFIED 70 完成 -; it is completed, and JD says of no line what arrived"},
		{"completed without quantities", `"poOrderStatus":"70","poItemModelList":[{` + line + `}]`, "PO-1 STATUS_UNSPECIFIED 70 完成 -; it is completed, and JD says of no line what arrived"},
		{"twice alike", `"poOrderStatus":"20"},{"poOrderNo":"EPL1","isvPoOrderNo":"PO-1","poOrderStatus":20`, "PO-1 STATUS_RECEIVED 20 初始化 -; []"},
		{"twice, and not alike", `"poOrderStatus":"20"},{"poOrderNo":"EPL1","isvPoOrderNo":"PO-1","poOrderStatus":"70"`, "PO-1 STATUS_UNSPECIFIED 20 初始化 -; JD lists it twice, with different content"},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := `"isvPoOrderNo":"PO-1",` + c.row
			if strings.HasPrefix(c.row, `"isvPoOrderNo"`) {
				row = c.row
			}
			p := answering(t, func(r *request) string {
				return `{"x_responce":{"code":"0","queryPoModelList":[{"poOrderNo":"EPL1",` + row + `},{"poOrderNo":"EPL9","poOrderStatus":"10"},{"poOrderNo":null}]}}`
			}).Purchases()
			got, err := p.Read(t.Context(), []string{"EPL9", "EPL1"})
			if err != nil || len(got) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			if other := got["EPL9"]; other.Err != nil || other.State.Code != "10" || other.Number != "EPL9" || other.No != "" {
				t.Errorf("the other one is %+v", other)
			}
			if diff := cmp.Diff(c.want, sketchPurchase(got["EPL1"])); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// sketchPurchase is a document on one line.
func sketchPurchase(d warehouse.Document[*purchasev1.Received]) string {
	at := "-"
	if !d.State.At.IsZero() {
		at = d.State.At.Format("15:04")
	}
	head := fmt.Sprintf("%s %v %s %s %s; ", d.No, d.State.Status, d.State.Code, d.State.Text, at)
	if d.Err != nil {
		return head + strings.TrimPrefix(d.Err.Error(), "purchase order EPL1: ")
	}
	var lines []string
	for _, l := range d.Detail.Lines {
		lines = append(lines, fmt.Sprintf("%s %s %s %v/%s %d of %d", l.LineId, l.WarehouseGoodsNo, l.GoodsCode, l.Grade, l.Level, l.Received, l.Quantity))
		if l.Received != l.ReceivedTotal {
			lines = append(lines, fmt.Sprintf("and %d in all", l.ReceivedTotal))
		}
	}
	return strings.TrimSpace(head + "[" + strings.Join(lines, ", ") + "] " + d.Detail.Text)
}

// If JD refuses to answer about numbers that it does not know, the numbers that it knows are still read.
func TestARefusalAboutOnePurchaseOrderHidesNoOther(t *testing.T) {
	known := []string{"EPL3", "EPL7"}
	for text, none := range map[string]bool{
		"采购单不存在": true, "采购入库单[EPL1]不存在": true, "未查询到采购单": true, "没有查询到对应的采购订单！": true, "查询结果为空": true, "根据入参，采购入库单信息为空，无法处理": true, "单号不存在": true,
		"系统繁忙，请稍后再试": false, "事业部不存在": false, "供应商不存在": false, "您无数据权限": false, "采购单号为空": false, "出库单[EPL1]不存在": true, "商家信息为空": false,
	} {
		calls := 0
		p := answering(t, func(r *request) string {
			calls++
			_, list, _ := strings.Cut(r.param, `"poOrderNo":"`)
			list, _, _ = strings.Cut(list, `"`)
			var rows []string
			for no := range strings.SplitSeq(list, ",") {
				if !slices.Contains(known, no) {
					return refusedBy("10500", text)
				}
				rows = append(rows, fmt.Sprintf(`{"poOrderNo":%q,"poOrderStatus":"10"}`, no))
			}
			return `{"x_responce":{"code":"0","queryPoModelList":[` + strings.Join(rows, ",") + `]}}`
		}).Purchases()
		got, err := p.Read(t.Context(), []string{"EPL1", "EPL2", "EPL3", "EPL4", "EPL5", "EPL6", "EPL7", "EPL8"})
		switch {
		case none && (err != nil || !slices.Equal(slices.Sorted(maps.Keys(got)), known)):
			t.Errorf("%s: %+v, %v", text, got, err)
		case !none && (err == nil || calls != 1):
			t.Errorf("%s: %+v, %v after %d calls", text, got, err, calls)
		}
	}
}

// A row that names our number but not its own may be about any document.
func TestAPurchaseOrderWithoutItsNumberIsNoAnswer(t *testing.T) {
	p := answering(t, func(*request) string {
		return `{"x_responce":{"queryPoModelList":[{"isvPoOrderNo":"PO-1","poOrderStatus":"70"}]}}`
	}).Purchases()
	if got, err := p.Read(t.Context(), []string{"EPL1"}); err == nil {
		t.Errorf("%+v", got)
	}
}

// JD may quote the remark; no error shows it.
func TestTheRemarkOfAPurchaseOrderDoesNotShow(t *testing.T) {
	m := warehousetest.Purchase("PO-1")
	m.Remark = "送货人王大锤，电话 13800001234，走西门"
	p := answering(t, func(*request) string {
		return refusedBy("10500", "备注“送货人王大锤，电话 13800001234”不合法，单号 PO-1")
	}).Purchases()
	_, err := p.Send(t.Context(), m, p.Plan(m))
	if text := everyWord(err); strings.Contains(text, "王大锤") || strings.Contains(text, "1380000") || !strings.Contains(text, "PO-1") {
		t.Error(text)
	}
}

// A read-only warehouse refuses to send and to cancel before the call.
func TestAReaderSendsAndCancelsNoPurchaseOrder(t *testing.T) {
	var methods []string
	w := answering(t, func(r *request) string {
		methods = append(methods, r.method)
		return `{"x_responce":{"queryPoModelList":[]}}`
	})
	w.api.ReadOnly = true
	p, m := w.Purchases(), warehousetest.Purchase("PO-1")
	_, sent := p.Send(t.Context(), m, p.Plan(m))
	_, cancelled := p.Cancel(t.Context(), "EPL1")
	for _, err := range []error{sent, cancelled} {
		if !errors.Is(err, jdapi.ErrReadOnly) || !errors.Is(err, jdapi.ErrNotSent) {
			t.Error(err)
		}
	}
	if _, err := p.Read(t.Context(), []string{"EPL1"}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(methods, []string{"po.queryPoOrder"}) {
		t.Errorf("JD saw %q", methods)
	}
	if _, finds := p.(warehouse.Finder[*purchasev1.Received]); finds {
		t.Error("nobody can find purchase orders by the ERP's number")
	}
}

// A document about which JD says something odd, or nothing at all, is open.
func TestAnOddRowConcludesNothing(t *testing.T) {
	for _, bare := range []bool{false, true} {
		w, far := open(t, jdsandbox.Knobs{Purchases: jdsandbox.PurchaseKnobs{Odd: jdsandbox.OddRow{Lot: jdsandbox.Lot{Orders: []string{"PO-1"}}, Msg: "处理失败", Bare: bare}}})
		p, m := w.Purchases(), warehousetest.Purchase("PO-1")
		receipt, err := p.Send(t.Context(), m, p.Plan(m))
		if err != nil {
			t.Fatal(err)
		}
		want := documentv1.Status_STATUS_RECEIVED
		if bare {
			want = documentv1.Status_STATUS_UNSPECIFIED
		}
		got, err := p.Read(t.Context(), []string{receipt.WarehouseNo})
		if d := got[receipt.WarehouseNo]; err != nil || d.No != "PO-1" || d.Err != nil || d.State.Status != want || d.Detail.Text != "处理失败" {
			t.Errorf("bare %v: %+v, %v", bare, d, err)
		}
		if n := len(far.jd.Purchases()); n != 1 {
			t.Errorf("%d documents", n)
		}
	}
}

// An answer that is cut off, empty or a page says nothing: neither that a document is absent nor that one was cancelled.
func TestABrokenAnswerAboutAPurchaseOrderSaysNothing(t *testing.T) {
	for _, kind := range []jdsandbox.Kind{jdsandbox.HTML, jdsandbox.Empty, jdsandbox.Truncated} {
		w, far := open(t, jdsandbox.Knobs{})
		p, m := w.Purchases(), warehousetest.Purchase("PO-1")
		receipt, err := p.Send(t.Context(), m, p.Plan(m))
		if err != nil {
			t.Fatal(err)
		}
		far.next(jdapi.MethodQueryPoOrder, jdsandbox.Fault{Kind: kind})
		if got, err := p.Read(t.Context(), []string{receipt.WarehouseNo}); err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: read %+v, %v", kind, got, err)
		}
		far.next(jdapi.MethodCancelPoOrder, jdsandbox.Fault{Kind: kind})
		if got, err := p.Cancel(t.Context(), receipt.WarehouseNo); fault.Of(err) != fault.Unclear {
			t.Errorf("%s: cancel %+v, %v", kind, got, err)
		}
		far.next(jdapi.MethodAddPoOrder, jdsandbox.Fault{Kind: kind})
		m = warehousetest.Purchase("PO-2")
		if got, err := p.Send(t.Context(), m, p.Plan(m)); fault.Of(err) != fault.Unclear {
			t.Errorf("%s: send %+v, %v", kind, got, err)
		}
	}
}

// A purchase order that passes the plan passes JD's checks of parameters, whatever its texts are, and its lists have equal
// lengths.
func FuzzPurchasePlan(f *testing.F) {
	f.Add("TEA", "SKU-1", "EMG1", "请整托入库", "1", int64(2), int32(1), uint8(2))
	f.Add("TEA", "SKU-1", "", "A&B\n"+strings.Repeat("。", 300), "", int64(10_000_000), int32(3), uint8(7))
	f.Add("CUP", "a,b", "", "\u2028❤️&", "", int64(-1), int32(9), uint8(0))
	f.Fuzz(func(t *testing.T, supplier, code, goodsNo, remark, id string, quantity int64, grade int32, lines uint8) {
		m := warehousetest.Purchase("PO-1")
		m.Supplier, m.Remark = supplier, remark
		for i := range lines % 8 {
			m.Lines = append(m.Lines, &purchasev1.Line{LineId: fmt.Sprint(id, i), GoodsCode: code, WarehouseGoodsNo: goodsNo, Quantity: quantity % 10_000_000, Grade: purchasev1.Grade(grade)})
		}
		w, far := open(t, jdsandbox.Knobs{})
		p := w.Purchases()
		receipt, err := p.Send(t.Context(), m, p.Plan(m))
		switch {
		case err != nil && far.jd.Counters().Calls["eclp.po.addPoOrder"] > 0:
			t.Errorf("JD refused what we planned: %v", err)
		case err == nil:
			if d, ok := far.jd.Purchase(receipt.WarehouseNo); !ok || len(d.Lines) != len(m.Lines) {
				t.Errorf("%d lines of %d: %+v", len(d.Lines), len(m.Lines), d)
			}
		}
	})
}
