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

// Each request about stock exactly as it is sent, and what is read from a fixed answer in JD's formats.
func TestRequestsAboutStockLeaveAsJDWantsThem(t *testing.T) {
	from := time.Date(2021, 6, 18, 1, 30, 0, 999, time.UTC)
	flow := FlowQuery{
		DeptNo: "EBU1", WarehouseNo: "110006341", ShopNo: "ESP1", GoodsNo: "EMG1", From: from, To: from.Add(time.Hour), Page: 2, PageSize: 100,
	}
	shop := ShopStockQuery{DeptNo: "EBU1", WarehouseNo: "110006341", ShopNo: "ESP1", GoodsNos: []string{"EMG1", "EMG2"}, Page: 1, PageSize: 100}
	changes := ChangeQuery{DeptNo: "EBU1", From: from, To: from.Add(time.Hour), Page: 1, PageSize: 50}
	type page struct {
		Rows any
		End  bool
	}
	for _, c := range []struct {
		name, answer string
		call         func(context.Context, *Client) (any, error)
	}{
		{"queryVmiShopStockFlow", `{"jingdong_eclp_stock_queryVmiShopStockFlow_responce":{"code":"0","vmiShopStockFlowList":[
			{"flowId":9007199254740993,"createTime":"2021-06-18 09:30:01","deptNo":"EBU1","warehouseNo":110006341,"goodsNo":["EMG1"],
			"spGoodsNo":null,"formerNum":"10","nowNum":8.00,"bizTypeName":" 销售出库 "}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				rows, end, err := c.QueryVmiShopStockFlow(ctx, flow)
				return page{rows, end}, err
			}},
		{"queryVmiShopStockFlow.all", `{"error_response":{"code":"x","zh_desc":"库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理"}}`,
			func(ctx context.Context, c *Client) (any, error) {
				all := flow
				all.GoodsNo = ""
				rows, end, err := c.QueryVmiShopStockFlow(ctx, all)
				return page{rows, end}, err
			}},
		{"queryVmiShopStock", `{"jingdong_eclp_stock_queryVmiShopStock_responce":{"code":"0","queryvmishopstock_result":{"deptNo":"EBU1","vmiShopStocks":[
			{"shopNo":"ESP1","goodsNo":"EMG1","spGoodsNo":"sp","stockNum":"8","occupyNum":1,"warehouseNo":"110006341"}]}}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryVmiShopStock(ctx, shop) }},
		{"queryStock", `{"jingdong_eclp_stock_queryStock_responce":{"code":"0","querystock_result":[{"deptNo":"EBU1","warehouseNo":"110006341","goodsNo":"EMG1",
			"sellerGoodsSign":"sku-1","stockStatus":1,"stockType":"1","goodsLevel":"100","totalNum":10,"usableNum":"8","recordCount":1}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return c.QueryStock(ctx, "EBU1", "110006341", 3, 100)
			}},
		{"setShopStockFixed", `{"jingdong_eclp_stock_setShopStockFixed_responce":{"code":"0","ShopStockBaseResponse":{"responseCode":1,"success":true,"requestId":"R-3"}}}`,
			func(ctx context.Context, c *Client) (any, error) {
				return nil, c.SetShopStockFixed(ctx, SetShopStock{
					RequestID: "R-3", DeptNo: "EBU1", ShopNo: "ESP1", WarehouseNo: "110006341", StockNum: 0, GoodsNo: "EMG1", OpUser: "stockbridge", ShopType: 5,
				})
			}},
		{"queryGoodsLevelChange", `{"jingdong_eclp_stock_queryGoodsLevelChange_responce":{"code":"0","levelChangeResultList":[{"orderNo":"L1","warehouseNo":"110006341",
			"createTime":"2021-06-18 09:30:01","details":{"goodsNo":"EMG1","qty":"3","outLevel":100,"intoLevel":"200"}}]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryGoodsLevelChange(ctx, changes) }},
		{"queryCheckStockProfit", `{"jingdong_eclp_checkstock_queryCheckStockProfit_responce":{"code":"0","checkstockProfitList":[{"checkStockNo":"P1",
			"warehouseId":"1","createTime":"2021-06-18 09:30:01","details":[{"goodsNo":"EMG1","diffQty":2,"productLevel":"100"}]}]}}`,
			func(ctx context.Context, c *Client) (any, error) { return c.QueryCheckStockProfit(ctx, changes) }},
		{"queryCheckStockLosses", `{"jingdong_eclp_checkstock_queryCheckStockLosses_responce":{"code":"0","checkstocklossesList":[{"checkStockNo":"P2",
			"warehouseId":"1","createTime":"2021-06-18 09:30:01","details":[{"goodsNo":"EMG1","diffQty":"2"}]}]}}`,
			func(ctx context.Context, c *Client) (any, error) {
				open := changes
				open.From, open.To = time.Time{}, time.Time{}
				return c.QueryCheckStockLosses(ctx, open)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			client.Now = func() time.Time { return time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC) }
			client.ReadOnly = !strings.HasPrefix(c.name, "set")
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

func TestAReaderSetsNoStock(t *testing.T) {
	client, jd := dial(t)
	client.ReadOnly = true
	if err := client.SetShopStockFixed(t.Context(), SetShopStock{}); !errors.Is(err, ErrReadOnly) || !errors.Is(err, ErrNotSent) || jd.calls.Load() != 0 {
		t.Errorf("%v after %d calls", err, jd.calls.Load())
	}
}

// Only JD's text ends a flow, whatever its code.
func TestAFlowEndsWithJDsSentenceOnly(t *testing.T) {
	refusal := func(code, text string) string {
		body, _ := json.Marshal(map[string]any{"error_response": map[string]any{"code": code, "zh_desc": text}})
		return string(body)
	}
	const sentence = "库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理"
	older := func(result string) string {
		return `{"jingdong_eclp_stock_queryVmiShopStockFlow_responce":{"code":"0"` + result + `}}`
	}
	for _, c := range []struct {
		name, body string
		want       string // "end", "rows", "none" (neither), "lost", or JD's code
	}{
		{"the sentence", refusal("5001", sentence), "end"},
		{"under a code of the gateway's", refusal("69", sentence), "end"},
		{"under no code", refusal("", sentence), "end"},
		{"with blanks around it", refusal("x", "  "+sentence+"\n"), "end"},
		{"without blanks", refusal("x", "库存系统根据入参，查询VMI店铺库存流水信息为空，无法处理"), "end"},
		{"with other words around its core", refusal("x", "根据条件，查询 vmi店铺库存流水，信息为空。"), "end"},
		{"another thing is empty", refusal("x", "库存系统 根据 入参，查询 VMI店铺库存流水 失败：事业部信息为空"), "x"},
		{"another thing is empty, close to it", refusal("x", "查询 VMI店铺库存流水 店铺信息为空，无法处理"), "x"},
		{"another flow is empty", refusal("x", "查询 店铺库存 信息为空"), "x"},
		{"a failure", refusal("67", "平台连接后端服务处理过程中出现未知异常信息"), "67"},
		{"an empty list", older(`,"vmiShopStockFlowList":[]`), "none"},
		{"no list", older(``), "none"},
		{"rows", older(`,"vmiShopStockFlowList":[{"flowId":"1"}]`), "rows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			jd.says(func(string) string { return c.body })
			list, end, err := client.QueryVmiShopStockFlow(t.Context(), FlowQuery{})
			rows := len(list)
			got := "none"
			var no *Error
			switch {
			case errors.As(err, &no):
				got = no.Code
			case errors.Is(err, ErrLost):
				got = "lost"
			case err != nil:
				t.Fatal(err)
			case end && rows == 0:
				got = "end"
			case rows > 0 && !end:
				got = "rows"
			}
			if got != c.want {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
}

// A stock is set only if JD says so.
func TestAStockIsSetWhenJDSaysSo(t *testing.T) {
	for body, want := range map[string]string{
		`"ShopStockBaseResponse":{"success":true}`:                                         "",
		`"ShopStockBaseResponse":{"success":"true","requestId":"R"}`:                       "",
		`"ShopStockBaseResponse":{"success":false,"responseCode":"7","errMsg":"商品不在店铺中"}`:  "7",
		`"ShopStockBaseResponse":{"responseCode":"200"}`:                                   "lost",
		`"ShopStockBaseResponse":{"success":true,"requestId":"JD-trace"}`:                  "",
		`"ShopStockBaseResponse":[]`:                                                       "lost",
		`"shopStockBaseResult":{"success":true}`:                                           "lost",
		`"ShopStockBaseResponse":{"success":1}`:                                            "lost",
		`"ShopStockBaseResponse":[{"success":["true"],"requestId":null,"responseCode":1}]`: "",
	} {
		client, jd := dial(t)
		jd.says(func(string) string {
			return `{"jingdong_eclp_stock_setShopStockFixed_responce":{"code":"0",` + body + `}}`
		})
		err := client.SetShopStockFixed(t.Context(), SetShopStock{RequestID: "R"})
		got := ""
		var no *Error
		switch {
		case errors.As(err, &no):
			got = no.Code
		case errors.Is(err, ErrLost):
			got = "lost"
		case err != nil:
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: %q (%v), want %q", body, got, err, want)
		}
	}
}

// Whatever JD answers about stock, nothing panics, no number is invented, and only the text ends a flow.
func FuzzStock(f *testing.F) {
	for _, body := range []string{
		`{"a_responce":{"vmiShopStockFlowList":[{"flowId":1,"createTime":["2021-06-18 09:30:00"],"formerNum":"1.0","nowNum":null}]}}`,
		`{"a_responce":{"queryvmishopstock_result":[{"vmiShopStocks":{"stockNum":"8"}}],"x":{"data":[null]}}}`,
		`{"a_responce":{"querystock_result":{"usableNum":[8],"recordCount":"1"},"ShopStockBaseResponse":{"success":"true"}}}`,
		`{"a_responce":{"levelChangeResultList":[{"details":[{"qty":1}]}],"checkstockProfitList":"","checkstocklossesList":[{"details":{}}]}}`,
		`{"error_response":{"code":"x","zh_desc":"库存系统 根据 入参，查询 VMI店铺库存流水 信息为空，无法处理"}}`,
		`{"error_response":{"code":1,"zh_desc":"VMI店铺库存流水 店铺信息为空"}}`, ``,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		inner, err := openEnvelope(MethodQueryVmiShopStockFlow, body)
		if EndsFlow(err) {
			var no *Error
			if !errors.As(err, &no) || !strings.Contains(no.Text, "流水") || !strings.Contains(no.Text, "为空") {
				t.Errorf("%q ends a flow", err)
			}
		}
		if err != nil {
			return
		}
		var one struct {
			Flow List[VmiFlow] `json:"vmiShopStockFlowList"`
			Shop List[struct {
				Rows List[ShopStock] `json:"vmiShopStocks"`
			}] `json:"queryvmishopstock_result"`
			Stock  List[Stock]       `json:"querystock_result"`
			Levels List[LevelChange] `json:"levelChangeResultList"`
			Profit List[CheckStock]  `json:"checkstockProfitList"`
			Losses List[CheckStock]  `json:"checkstocklossesList"`
		}
		if json.Unmarshal(inner, &one) != nil {
			return
		}
		numbers := []Text{}
		for _, r := range one.Flow {
			r.CreateTime.Time()
			numbers = append(numbers, r.FormerNum, r.NowNum)
		}
		for _, r := range one.Stock {
			numbers = append(numbers, r.TotalNum, r.UsableNum, r.RecordCount)
		}
		for _, n := range numbers {
			if v, ok := n.Int(); ok && v != 0 && !strings.ContainsAny(string(n), "123456789") {
				t.Errorf("%q is %d", n, v)
			}
		}
	})
}
