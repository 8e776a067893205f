package jd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd/jdapi"
	sellerv1 "stockbridge/proto/seller/v1"
)

const noFlow = `{"error_response":{"code":"10500","zh_desc":"库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理"}}`

// answers is a JD that answers by method (without prefix) and parameters; a method that is missing does not exist at JD.
type answers map[string]func(p map[string]any) string

func (a answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := strings.TrimPrefix(r.FormValue("method"), "jingdong.eclp.")
	var p map[string]any
	if err := json.Unmarshal([]byte(r.FormValue("360buy_param_json")), &p); err != nil {
		panic(err)
	}
	text := `{"error_response":{"code":"15","zh_desc":"不存在的方法名"}}`
	if answer := a[method]; answer != nil {
		if text = answer(p); !strings.HasPrefix(text, "{") {
			text = `{"jingdong_eclp_` + strings.ReplaceAll(method, ".", "_") + `_responce":{"code":"0"` + text + `}}`
		}
	}
	_, _ = io.WriteString(w, text)
}

// always gives the same answer.
func always(text string) func(map[string]any) string {
	return func(map[string]any) string { return text }
}

// answeredBy makes a warehouse with this JD.
func answeredBy(t *testing.T, a answers, change func(*sellerv1.Setup)) *Warehouse {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	s := setup(server.URL + "/routerjson")
	if change != nil {
		change(s)
	}
	transport := jdapi.NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	w, err := New(Options{Seller: seller.New(s, nil), Warehouse: "W01", Class: quota.Stock, Env: env, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var morning = time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC)

func ask() warehouse.FlowQuery {
	return warehouse.FlowQuery{ShopNo: "ESP0020000009400", From: morning, To: morning.Add(time.Hour), Page: 1}
}

// Which rows the ERP books (docs/jd-api.md, Stock flow).
func TestRules(t *testing.T) {
	for _, c := range []struct {
		reason      string
		former, now int64
		want        warehouse.Rule
	}{
		{"销售出库", 10, 8, warehouse.RuleMoves},
		{"采购入库", 0, 5, warehouse.RuleMoves},
		{"whatever JD thinks of next", 3, 4, warehouse.RuleMoves},
		{"", 3, 4, warehouse.RuleMoves},
		{"设置VMI库存", 8, 100, warehouse.RuleSet},
		{" 设置VMI库存\t", 8, 100, warehouse.RuleSet},
		{"设置 VMI 库存", 8, 100, warehouse.RuleSet},
		{"商品库存比例调整", 8, 4, warehouse.RuleRatio},
		{"设置VMI库存", 8, 8, warehouse.RuleSet},
		{"设置VMI库存单", 8, 9, warehouse.RuleMoves},
		{"销售出库", -1, 3, warehouse.RuleNegative},
		{"销售出库", 1, -3, warehouse.RuleNegative},
		{"盘点", -2, -2, warehouse.RuleNegative},
		{"盘点", 2, 2, warehouse.RuleUnchanged},
	} {
		w := answeredBy(t, answers{"stock.queryVmiShopStockFlow": always(fmt.Sprintf(
			`,"vmiShopStockFlowList":[{"flowId":"1","createTime":"2021-06-18 09:30:01","goodsNo":"EMG1","formerNum":"%d","nowNum":%d,"bizTypeName":%q}]`, c.former, c.now, c.reason))}, nil)
		page, err := w.Flow(t.Context(), ask())
		if err != nil || len(page.Rows) != 1 || page.End {
			t.Fatalf("%+v, %v", page, err)
		}
		if r := page.Rows[0]; r.Rule != c.want || r.Change != c.now-c.former || r.Former != c.former || r.Now != c.now {
			t.Errorf("%q from %d to %d: %+v, want %s", c.reason, c.former, c.now, r, c.want)
		}
	}
}

func TestAFlowIsReadInJDsTimeToItsSentence(t *testing.T) {
	var asked []map[string]any
	w := answeredBy(t, answers{"stock.queryVmiShopStockFlow": func(p map[string]any) string {
		asked = append(asked, p)
		if p["startPage"].(float64) > 1 {
			return noFlow
		}
		return `,"vmiShopStockFlowList":[
			{"flowId":["77"],"createTime":"2021-06-18 09:30:01","warehouseNo":"110006341","goodsNo":"EMG1","formerNum":10,"nowNum":"8","bizTypeName":" 销售出库 "},
			{"flowId":"78","createTime":"2021-06-18 09:30:01","warehouseNo":"110009999","goodsNo":"EMG1","formerNum":10,"nowNum":"8","bizTypeName":"销售出库"},
			{"createTime":1623979802000,"goodsNo":"EMG2","formerNum":"0","nowNum":"5","bizTypeName":"采购入库"}]`
	}}, nil)
	if terms := w.FlowTerms(); !terms.Linked || terms.MaxSpan != 24*time.Hour {
		t.Errorf("%+v", terms)
	}
	q := ask()
	q.From = q.From.Add(999 * time.Millisecond)
	page, err := w.Flow(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	want := warehouse.FlowPage{Elsewhere: 1, Rows: []warehouse.FlowRow{
		{No: "77", At: morning.Add(time.Second), GoodsNo: "EMG1", Reason: "销售出库", Rule: warehouse.RuleMoves, Change: -2, Former: 10, Now: 8},
		{No: page.Rows[1].No, At: morning.Add(2 * time.Second), GoodsNo: "EMG2", Reason: "采购入库", Rule: warehouse.RuleMoves, Change: 5, Now: 5},
	}}
	if diff := cmp.Diff(want, page); diff != "" {
		t.Error(diff)
	}
	again, err := w.Flow(t.Context(), q)
	if no := page.Rows[1].No; err != nil || no == "" || len(no) > maxFlowNo || again.Rows[1].No != no {
		t.Errorf("a row without a number is %q, then %q, %v", no, again.Rows[1].No, err)
	}
	q.Page, q.GoodsNo = 2, "EMG1"
	if end, err := w.Flow(t.Context(), q); err != nil || !end.End || len(end.Rows) != 0 {
		t.Errorf("%+v, %v", end, err)
	}
	if first := asked[0]; first["startTime"] != "2021-06-18 09:30:00" || first["endTime"] != "2021-06-18 10:30:00" || first["goodsNo"] != nil ||
		first["onePageNum"] != 100.0 || first["deptNo"] != "EBU0000000006313" || first["warehouseNo"] != "110006341" {
		t.Errorf("asked %v", first)
	}
	if asked[2]["goodsNo"] != "EMG1" {
		t.Errorf("asked %v", asked[2])
	}
	for name, wrong := range map[string]func(*warehouse.FlowQuery){
		"too long":  func(q *warehouse.FlowQuery) { q.To = q.From.Add(25 * time.Hour) },
		"backwards": func(q *warehouse.FlowQuery) { q.To = q.From.Add(-time.Hour) },
		"page 0":    func(q *warehouse.FlowQuery) { q.Page = 0 },
		"no shop":   func(q *warehouse.FlowQuery) { q.ShopNo = "" },
	} {
		q, calls := ask(), len(asked)
		wrong(&q)
		if _, err := w.Flow(t.Context(), q); err == nil || len(asked) != calls {
			t.Errorf("%s: %v after %d calls", name, err, len(asked)-calls)
		}
	}
}

// No book can be built from the method that lists sales only: old settings that name it are not followed.
func TestAFlowOfSalesOnlyIsPartial(t *testing.T) {
	w := answeredBy(t, answers{}, func(s *sellerv1.Setup) { s.Stock = &sellerv1.Stock{Flow: sellerv1.Stock_FLOW_SEARCH} })
	if !w.FlowTerms().Partial || answeredBy(t, answers{}, nil).FlowTerms().Partial {
		t.Errorf("%+v", w.FlowTerms())
	}
}

// No failure is an end, and none loses a row: the page is read again, held, or waits. Only a JD that does not answer
// counts as failing.
func TestAFlowThatCannotBeReadIsNotOver(t *testing.T) {
	row := func(field, value string) string {
		fields := map[string]string{"flowId": `"1"`, "createTime": `"2021-06-18 09:30:01"`, "goodsNo": `"EMG1"`, "formerNum": "1", "nowNum": "2"}
		fields[field] = value
		var list []string
		for name, value := range fields {
			list = append(list, fmt.Sprintf("%q:%s", name, value))
		}
		return `,"vmiShopStockFlowList":[{"flowId":"2","createTime":"2021-06-18 09:30:01","goodsNo":"EMG1","formerNum":1,"nowNum":2},{` + strings.Join(list, ",") + `}]`
	}
	no := func(code, text string) string {
		return fmt.Sprintf(`{"error_response":{"code":%q,"zh_desc":%q}}`, code, text)
	}
	for _, c := range []struct {
		name, answer string
		class        fault.Class
		cause, code  string
		counts       bool // as a failure of JD, for the breaker
	}{
		{"an empty list", `,"vmiShopStockFlowList":[]`, fault.Transient, "", "flow.end", false},
		{"a row without a time", row("createTime", "null"), fault.Transient, "", "flow.row", false},
		{"a row without goods", row("goodsNo", `""`), fault.Transient, "", "flow.row", false},
		{"a row without what stood before", row("formerNum", "null"), fault.Transient, "", "flow.row", false},
		{"half a piece", row("nowNum", "2.5"), fault.Transient, "", "flow.row", false},
		{"JD's words", no("10500", "店铺信息为空"), fault.Transient, "", "stock.refused", false},
		{"a wrong parameter", no("61", "参数[shopNo]值不合法"), fault.Transient, "", "stock.refused", false},
		{"a permission", no("24", "无权调用API"), fault.Held, "permission:acme/main/stock.queryVmiShopStockFlow", "warehouse.permission", false},
		{"a method that went away", no("15", "不存在的方法名"), fault.Held, "permission:acme/main/stock.queryVmiShopStockFlow", "warehouse.permission", false},
		{"a method that was stopped", no("23", "该API已经停用"), fault.Held, "permission:acme/main/stock.queryVmiShopStockFlow", "warehouse.permission", false},
		{"a token", no("19", "无效access_token"), fault.Held, "token:acme/main", "warehouse.token", false},
		{"too many calls", no("2", "限制时间内调用失败次数"), fault.Wait, "", "warehouse.quota", false},
		{"JD's failure", no("67", "未知异常"), fault.Transient, "", "none", true},
		{"no answer to be understood", `{"x":1}`, fault.Transient, "", "none", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := answeredBy(t, answers{"stock.queryVmiShopStockFlow": always(c.answer)}, nil)
			page, err := w.Flow(t.Context(), ask())
			if err == nil || page.End || len(page.Rows) > 0 {
				t.Fatalf("%+v, %v", page, err)
			}
			if fault.Of(err) != c.class || fault.Cause(err) != c.cause || fault.ReasonOf(err, "none").Code != c.code {
				t.Errorf("%v is %v for %q, reason %q", err, fault.Of(err), fault.Cause(err), fault.ReasonOf(err, "none").Code)
			}
			if r := fault.ReasonOf(err, "none"); c.code != "none" && (r.ZH == "" || r.EN == "" || r.ZH == r.EN) {
				t.Errorf("reason %+v", r)
			}
			by, trip := guard.NewBreaker(1).Report("acme", err)
			if (trip && by == sellerv1.Paused_BY_BREAKER) != c.counts {
				t.Errorf("it counts against JD: %v by %v", trip, by)
			}
		})
	}
	// The text that ends a flow is an answer.
	w := answeredBy(t, answers{"stock.queryVmiShopStockFlow": always(noFlow)}, nil)
	if page, err := w.Flow(t.Context(), ask()); err != nil || !page.End {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestShopStock(t *testing.T) {
	row := func(goods, num string) string {
		return fmt.Sprintf(`{"shopNo":"ESP1","goodsNo":%q,"stockNum":%s,"occupyNum":"1","warehouseNo":"110006341"}`, goods, num)
	}
	list := func(rows ...string) string {
		return `,"queryvmishopstock_result":{"deptNo":"EBU1","vmiShopStocks":[` + strings.Join(rows, ",") + `]}`
	}
	page := func(p map[string]any) int { return int(p["currentPage"].(float64)) }
	for _, c := range []struct {
		name  string
		say   func(p map[string]any) string
		want  map[string]warehouse.ShopStock
		wrong string
	}{
		{"both", always(list(row("EMG1", "8"), row("EMG2", `"0"`))), map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}, "EMG2": {Occupied: 1}}, ""},
		{"one has none", func(p map[string]any) string {
			if page(p) > 1 {
				return list()
			}
			return list(row("EMG1", "8"))
		}, map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}}, ""},
		{"one has none, and JD says so in words", func(p map[string]any) string {
			if page(p) > 1 {
				return `{"error_response":{"code":"10500","zh_desc":"库存信息为空"}}`
			}
			return list(row("EMG1", "8"))
		}, map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}}, ""},
		{"the same page again", always(list(row("EMG1", "8"))), map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}}, ""},
		{"JD's pages are small", func(p map[string]any) string {
			return list(row([]string{"EMG1", "EMG2"}[page(p)-1], "8"))
		}, map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}, "EMG2": {Num: 8, Occupied: 1}}, ""},
		{"of another shop, warehouse or goods", func(p map[string]any) string {
			if page(p) > 1 {
				return list()
			}
			return list(strings.Replace(row("EMG1", "7"), "ESP1", "ESP2", 1), strings.Replace(row("EMG1", "7"), "110006341", "110009999", 1), row("EMG9", "7"), row("EMG1", "8"))
		}, map[string]warehouse.ShopStock{"EMG1": {Num: 8, Occupied: 1}}, ""},
		{"two figures", always(list(row("EMG1", "8"), row("EMG1", "9"))), nil, "stock.twice"},
		{"no figure", always(list(row("EMG1", "null"))), nil, "flow.row"},
		{"an error proves nothing", always(`{"error_response":{"code":"10500","zh_desc":"店铺信息为空"}}`), nil, "stock.refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := answeredBy(t, answers{"stock.queryVmiShopStock": c.say}, nil)
			got, err := w.ShopStock(t.Context(), "ESP1", []string{"EMG2", "EMG1", "EMG1"})
			if code := reasonOf(err).Code; (err != nil || c.wrong != "") && code != c.wrong {
				t.Fatalf("%v has %q, want %q", err, code, c.wrong)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	w := answeredBy(t, answers{}, nil)
	if _, err := w.ShopStock(t.Context(), "ESP1", slices.Collect(func(yield func(string) bool) {
		for i := range 51 {
			if !yield(fmt.Sprint(i)) {
				return
			}
		}
	})); err == nil {
		t.Error("51 goods are taken")
	}
	if got, err := w.ShopStock(t.Context(), "ESP1", nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	if _, err := w.ShopStock(t.Context(), "ESP1", []string{"EMG1,EMG2"}); err == nil {
		t.Error("a comma is taken")
	}
}

// reasonOf is the reason in err, an empty one if there is none.
func reasonOf(err error) fault.Reason {
	if err == nil {
		err = errors.New("none")
	}
	return fault.ReasonOf(err, "none")
}

func TestStockIsListedWithoutHoles(t *testing.T) {
	rows := func(from, n int, total string) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`{"warehouseNo":"110006341","goodsNo":"EMG%d","sellerGoodsSign":"sku","stockStatus":1,"stockType":"1","goodsLevel":100,"totalNum":"3","usableNum":2,"recordCount":%s}`, from+i, total))
		}
		return `,"querystock_result":[` + strings.Join(list, ",") + `]`
	}
	for _, c := range []struct {
		name   string
		page   int
		answer string
		rows   int
		last   bool
		wrong  string
	}{
		{"the first of two", 1, rows(0, 100, "150"), 100, false, ""},
		{"the second of two", 2, rows(100, 50, `"150"`), 50, true, ""},
		{"all", 1, rows(0, 7, "7"), 7, true, ""},
		{"a full last one", 2, rows(100, 100, "200"), 100, true, ""},
		{"nothing", 1, rows(0, 0, "0"), 0, true, ""},
		{"JD does not count: a short page may not be the last", 1, rows(0, 50, "null"), 50, false, ""},
		{"JD does not count: an empty one is", 2, rows(0, 0, "null"), 0, true, ""},
		{"JD's pages are shorter than asked for", 1, rows(0, 50, "150"), 0, false, "stock.page"},
		{"JD counts something else", 1, rows(0, 100, "60"), 100, false, ""},
		{"two counts", 1, rows(0, 1, "7")[:len(rows(0, 1, "7"))-1] + "," + strings.TrimPrefix(rows(1, 6, "8"), `,"querystock_result":[`), 0, false, "flow.row"},
		{"another warehouse's", 1, strings.ReplaceAll(rows(0, 1, "1"), "110006341", "110009999"), 0, false, "flow.row"},
		{"no number", 1, strings.ReplaceAll(rows(0, 1, "1"), `"usableNum":2`, `"usableNum":null`), 0, false, "flow.row"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := answeredBy(t, answers{"stock.queryStock": always(c.answer)}, nil)
			p, err := w.Stock(t.Context(), c.page)
			if code := reasonOf(err).Code; (err != nil || c.wrong != "") && code != c.wrong {
				t.Fatalf("%v has %q, want %q", err, code, c.wrong)
			}
			if len(p.Rows) != c.rows || p.Last != c.last {
				t.Errorf("%d rows, last %v", len(p.Rows), p.Last)
			}
		})
	}
	w := answeredBy(t, answers{"stock.queryStock": always(rows(0, 1, "1"))}, nil)
	for change, saleable := range map[[2]string]bool{
		{"", ""}:                                     true,
		{`"stockStatus":1`, `"stockStatus":"2"`}:     false,
		{`"stockType":"1"`, `"stockType":["5"]`}:     false,
		{`"stockType":"1"`, `"stockType":null`}:      false,
		{`"stockStatus":1`, `"stockStatus":["1.0"]`}: false,
	} {
		w := answeredBy(t, answers{"stock.queryStock": always(strings.Replace(rows(0, 1, "1"), change[0], change[1], 1))}, nil)
		p, err := w.Stock(t.Context(), 1)
		if err != nil || p.Rows[0].Saleable != saleable || p.Rows[0].Usable != 2 || p.Rows[0].Total != 3 || p.Total != 1 || p.Rows[0].GoodsCode != "sku" {
			t.Errorf("%s: %+v, %v", change[1], p, err)
		}
	}
	if _, err := w.Stock(t.Context(), 0); err == nil {
		t.Error("page 0 is taken")
	}
}

func TestAShopsStockIsSet(t *testing.T) {
	var asked []map[string]any
	say := `,"ShopStockBaseResponse":{"success":true}`
	w := answeredBy(t, answers{"stock.setShopStockFixed": func(p map[string]any) string {
		asked = append(asked, p)
		return say
	}}, nil)
	if err := w.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", 0); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"requestId": "R-1", "deptNo": "EBU0000000006313", "shopNo": "ESP1", "warehouseNo": "110006341", "stockNum": 0.0, "goodsNo": "EMG1",
		"opUser": "stockbridge", "shopType": 5.0,
	}
	if diff := cmp.Diff(want, asked[0]); diff != "" {
		t.Error(diff)
	}
	say = `,"ShopStockBaseResponse":{"success":false,"errMsg":"商品不在店铺中"}`
	var said *warehouse.Rejected
	if err := w.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", 1); !errors.As(err, &said) || said.Reason.RemoteText != "商品不在店铺中" {
		t.Errorf("refused: %v", err)
	}
	say = `,"x":1`
	if err := w.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", 1); !errors.Is(err, jdapi.ErrLost) {
		t.Errorf("not said: %v", err)
	}
	calls := len(asked)
	if err := w.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", -1); err == nil {
		t.Error("less than nothing is set")
	}
	if err := w.SetShopStock(t.Context(), strings.Repeat("x", 51), "ESP1", "EMG1", 1); err == nil {
		t.Error("a long request id is sent")
	}
	w.api.ReadOnly = true
	if err := w.SetShopStock(t.Context(), "R-1", "ESP1", "EMG1", 1); !errors.Is(err, jdapi.ErrReadOnly) {
		t.Errorf("a reader sets stock: %v", err)
	}
	if len(asked) != calls {
		t.Errorf("%d calls too many", len(asked)-calls)
	}
}

func TestStockChanges(t *testing.T) {
	w := answeredBy(t, answers{
		"checkstock.queryCheckStockProfit": func(p map[string]any) string {
			if p["pageNo"].(float64) == 1 { // a full page, then the rest
				return `,"checkstockProfitList":[` + strings.Repeat(`{"checkStockNo":"P0","details":[{"goodsNo":"EMG9","diffQty":1}]},`, 49) +
					`{"checkStockNo":"P0","details":[]}]`
			}
			return `,"checkstockProfitList":[
				{"checkStockNo":"P1","warehouseId":"7","createTime":"2021-06-18 10:00:00","details":[{"goodsNo":"EMG9","diffQty":5},{"goodsNo":"EMG1","diffQty":"2","productLevel":"100"}]},
				{"checkStockNo":"P2","warehouseId":"110009999","createTime":"2021-06-18 10:00:00","details":[{"goodsNo":"EMG1","diffQty":"2"}]},
				{"checkStockNo":"P3","createTime":"2021-06-18 10:00:00","details":[{"goodsNo":"EMG1","diffQty":"2","productLevel":"200"}]},
				{"checkStockNo":"P4","createTime":"2021-06-19 10:00:00","details":[{"goodsNo":"EMG1","diffQty":"2"}]}]`
		},
		"checkstock.queryCheckStockLosses": always(`,"checkstocklossesList":[
			{"checkStockNo":"L1","createTime":"2021-06-18 09:45:00","details":{"goodsNo":"EMG1","diffQty":3}},
			{"checkStockNo":"L2","createTime":"2021-06-18 09:46:00","details":{"goodsNo":"EMG1","diffQty":-4}}]`),
		"stock.queryGoodsLevelChange": always(`,"levelChangeResultList":[
			{"orderNo":"V1","warehouseNo":"110006341","createTime":"2021-06-18 09:40:00","details":[{"goodsNo":"EMG1","qty":1,"outLevel":"100","intoLevel":200}]},
			{"orderNo":"V2","createTime":"2021-06-18 09:41:00","details":[{"goodsNo":"EMG1","qty":6,"outLevel":"200","intoLevel":"100"},{"goodsNo":"EMG1","qty":9,"outLevel":"100","intoLevel":"101"}]},
			{"orderNo":"V3","warehouseNo":"110009999","createTime":"2021-06-18 09:42:00","details":[{"goodsNo":"EMG1","qty":1,"outLevel":"100","intoLevel":"200"}]}]`),
	}, func(s *sellerv1.Setup) {
		s.Warehouses = append(s.Warehouses, &sellerv1.Warehouse{Code: "W02", Account: "main", WarehouseNo: "110009999"})
	})
	got, err := w.StockChanges(t.Context(), "EMG1", morning, morning.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	at := func(minutes int) time.Time { return morning.Add(time.Duration(minutes) * time.Minute) }
	want := []warehouse.StockChange{
		{Kind: "level-change", No: "V1", At: at(10), Quantity: -1}, {Kind: "level-change", No: "V2", At: at(11), Quantity: 6},
		{Kind: "stock-take", No: "L1", At: at(15), Quantity: -3}, {Kind: "stock-take", No: "L2", At: at(16), Quantity: -4},
		{Kind: "stock-take", No: "P1", At: at(30), Quantity: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	none := `{"error_response":{"code":"10500","zh_desc":"查询盘盈单信息为空"}}`
	refused := `{"error_response":{"code":"10501","zh_desc":"事业部未开通盘点服务"}}`
	w = answeredBy(t, answers{
		"checkstock.queryCheckStockProfit": always(none), "checkstock.queryCheckStockLosses": always(refused),
		"stock.queryGoodsLevelChange": always(`,"levelChangeResultList":null`),
	}, nil)
	if got, err := w.StockChanges(t.Context(), "EMG1", morning, morning.Add(time.Hour)); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	w = answeredBy(t, answers{"checkstock.queryCheckStockProfit": always(none)}, nil)
	if _, err := w.StockChanges(t.Context(), "EMG1", morning, morning.Add(time.Hour)); fault.Cause(err) != "permission:acme/main/checkstock.queryCheckStockLosses" {
		t.Errorf("a part that cannot be read: %v", err)
	}
}
