package jd

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/callmetrics"
	"stockbridge/pkg/warehouse/jd/jdapi"
	"stockbridge/pkg/warehouse/warehousetest"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

const accepted = `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`

type request struct {
	*http.Request
	method, param, body string
}

// answering is a warehouse whose JD gives this answer; "" cuts the connection.
func answering(t *testing.T, answer func(*request) string, change ...func(*sellerv1.Setup)) *Warehouse {
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		text := answer(&request{r, strings.TrimPrefix(strings.TrimPrefix(r.URL.Query().Get("method"), "jingdong.eclp."), "order."), form.Get("360buy_param_json"), string(body)})
		if text == "" {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(rw, text)
	}))
	t.Cleanup(server.Close)
	s := setup(server.URL + "/routerjson")
	for _, c := range change {
		c(s)
	}
	transport := jdapi.NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	w, err := New(Options{
		Seller: seller.New(s, nil), Warehouse: "W01", Class: quota.Push, Env: env, Transport: transport,
		Metrics: callmetrics.New(prometheus.NewRegistry()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func refusedBy(code, text string) string {
	return fmt.Sprintf(`{"error_response":{"code":%q,"zh_desc":%q}}`, code, text)
}

// What each failure means: of a send, of a look-up by our number, of one by JD's.
func TestEachFailureHasItsMeaning(t *testing.T) {
	type fate struct{ take, find, read string }
	lost := fate{"unknown", "transient", "transient"}
	token := fate{"held token:acme/main", "held token:acme/main", "held token:acme/main"}
	permission := fate{"held permission:acme/main", "held permission:acme/main", "held permission:acme/main"}
	data := fate{"permanent warehouse.refused.data", "transient", "transient"}
	account := fate{"held account:acme/main", "held account:acme/main", "held account:acme/main"}
	department := fate{"held number:acme/department/main", "held number:acme/department/main", "held number:acme/department/main"}
	shop := fate{"rejected, waits for number:acme/shop/S01", "transient", "not found"}
	site := fate{"rejected, waits for number:acme/warehouse/W01", "transient", "not found"}
	for answer, want := range map[string]fate{
		"":                     lost,
		"<html>":               lost,
		"{}":                   lost,
		refusedBy("1", "x"):    lost,
		refusedBy("43", "x"):   lost,
		refusedBy("65", "x"):   lost,
		refusedBy("66", "x"):   lost,
		refusedBy("67", "x"):   lost,
		refusedBy("69", "x"):   lost,
		refusedBy("2", "x"):    {"unknown", "wait", "wait"},
		refusedBy("8", "x"):    {"transient", "transient", "transient"},
		refusedBy("12", "x"):   token,
		refusedBy("18", "x"):   token,
		refusedBy("19", "x"):   token,
		refusedBy("20", "x"):   token,
		refusedBy("21", "x"):   token,
		refusedBy("22", "x"):   token,
		refusedBy("3", "x"):    permission,
		refusedBy("23", "x"):   permission,
		refusedBy("24", "x"):   permission,
		refusedBy("25", "x"):   permission,
		refusedBy("64", "x"):   permission,
		refusedBy("72", "x"):   permission,
		refusedBy("73", "x"):   permission,
		refusedBy("71", "x"):   {"rejected", permission.find, permission.read}, // proves nothing
		refusedBy("60", "x"):   data,
		refusedBy("61", "x"):   data,
		refusedBy("63", "x"):   data,
		refusedBy("1100", "x"): data,
		refusedBy("68", "x"):   {"rejected", "transient", "transient"},
		refusedBy("11", "x"):   account,
		refusedBy("13", "x"):   account,
		refusedBy("14", "x"):   account,
		refusedBy("15", "x"):   account,
		refusedBy("16", "x"):   account,
		refusedBy("50", "x"):   account,
		refusedBy("4", "x"):    account,
		// It says that something exists already, so the order has to be looked up.
		refusedBy("17", "x"): {"rejected, waits for account:acme/main", account.find, account.read},
		// JD says that a number of the settings does not exist or is disabled.
		refusedBy("10500", "店铺[ESP1]不存在"):                                                                                shop,
		refusedBy("10500", "店铺不存在"):                                                                                      shop,
		refusedBy("10500", "未找到店铺，请核对"):                                                                                  shop,
		refusedBy("10500", "店铺编号：ESP1 已停用"):                                                                              shop,
		refusedBy("10500", "仓库110006341未启用"):                                                                             site,
		refusedBy("10500", "查询不到对应的仓库信息"):                                                                                site,
		refusedBy("10500", "承运商【CYS0000010】已停用"):                                                                         {"rejected, waits for number:acme/carrier/YTO", "transient", "not found"},
		refusedBy("10500", "事业部[EBU1]不存在"):                                                                               department,
		refusedBy("10500", "没有找到该事业部"):                                                                                   department,
		refusedBy("61", "参数[departmentNo]值不合法"):                                                                          department,
		refusedBy("61", "参数[shopNo]值不合法"):                                                                                {"held number:acme/shop/S01", "transient", "transient"},
		refusedBy("61", "参数[consigneeMobile]值不合法"):                                                                       data,
		refusedBy("10500", "店铺[ESP1]下商品[EMG1]不存在"):                                                                       {"rejected", "transient", "not found"},
		refusedBy("10500", "仓库库存不足"):                                                                                     {"rejected", "transient", "not found"},
		refusedBy("10500", "店铺商品不存在"):                                                                                    {"rejected", "transient", "not found"},
		refusedBy("70", "x"):                                                                                             {"rejected", "transient", "not found"},
		refusedBy("10500", "库存不足"):                                                                                       {"rejected", "transient", "not found"},
		refusedBy("", "库存不足"):                                                                                            {"rejected", "transient", "not found"},
		`{"jingdong_eclp_order_addOrder_responce":{"code":"43"}}`:                                                        {"unknown", "transient", "transient"},
		`{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":""}}`:                                           lost,
		`{"x_responce":{"code":"0","queryorder_result":[{"x":1}]}}`:                                                      {"unknown", "nothing", "not found"},
		`{"x_responce":{"code":"0","eclpSoNo":"ESL\u001b1","queryorder_result":[{"isvUUID":"A-1","eclpSoNo":"ESL 1"}]}}`: lost,
		`{"jingdong_eclp_order_queryOrder_responce":{"code":"0","queryorder_result":[{"x":1}]}}`:                         {"unknown", "transient", "not found"},
	} {
		t.Run(answer, func(t *testing.T) {
			w := answering(t, func(*request) string { return answer }, func(s *sellerv1.Setup) {
				s.Carriers = []*sellerv1.Mapping{{Code: "YTO", Number: "CYS1"}}
			})
			o := warehousetest.Order("A-1")
			o.Carrier = "YTO"
			taken, err := warehousetest.Send(t.Context(), w.Orders(), o)
			var got fate
			got.take = describe(t, err)
			if taken.WarehouseNo != "" {
				t.Errorf("taken: %+v", taken)
			}
			found, err := w.Orders().Find(t.Context(), []string{"A-1"})
			if got.find = describe(t, err); err == nil && len(found) == 0 {
				got.find = "nothing"
			}
			docs, err := w.Orders().Read(t.Context(), []string{"ESL1"})
			if got.read = describe(t, err); err == nil && len(docs) == 0 {
				got.read = "not found"
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func describe(t *testing.T, err error) string {
	t.Helper()
	var no *warehouse.Rejected
	class := fault.Of(err)
	if err != nil && class != fault.Transient && class != fault.Unclear || errors.As(err, &no) {
		r := fault.ReasonOf(err, "")
		if no != nil {
			r = no.Reason
		}
		if r.Code == "" || r.ZH == "" || r.EN == "" || r.RemoteText == "" {
			t.Errorf("reason of %v: %+v", err, r)
		}
	}
	ours := strings.HasPrefix(fault.Cause(err), "account:") || strings.HasPrefix(fault.Cause(err), "number:")
	if (class == fault.Held) != (errors.Is(err, warehouse.ErrToken) || errors.Is(err, warehouse.ErrNotPermitted) || ours) {
		t.Errorf("%v is %v", err, class)
	}
	switch {
	case err == nil:
		return "none"
	case no != nil && no.Cause != "":
		return "rejected, waits for " + no.Cause
	case no != nil:
		return "rejected"
	case class == fault.Held:
		return "held " + fault.Cause(err)
	case class == fault.Refused:
		return "permanent " + fault.ReasonOf(err, "").Code
	default:
		return class.String()
	}
}

// A URL of another site is a fault of the settings: the order is held, with host and path in the reason, and looked up
// before it is sent again.
func TestAURLThatIsNotJDsHolds(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		status int
		unsure bool
	}{
		"no path": {"", 200, false}, "not found": {"/router", 404, true}, "moved": {"/routerjson", 302, true}, "not to be posted to": {"/x", 405, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(c.status) }))
			t.Cleanup(server.Close)
			w := answering(t, func(*request) string { return "" }, func(s *sellerv1.Setup) {
				s.Accounts[0].Url = strings.Replace(server.URL, "//", "//user:s3cret@", 1) + c.path + "?key=s3cret"
			})
			for what, call := range map[string]func() error{
				"write": func() error {
					_, err := warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order("A-1"))
					return err
				},
				"read": func() error { _, err := w.Orders().Find(t.Context(), []string{"A-1"}); return err },
			} {
				err := call()
				r := fault.ReasonOf(err, "")
				host := strings.TrimPrefix(server.URL, "http://")
				if fault.Cause(err) != "account:acme/main" || fault.Of(err) != fault.Held || r.Code != "warehouse.address" || errors.Is(err, warehouse.ErrOutcomeUnknown) != c.unsure {
					t.Errorf("%s: %v (%+v) for %q", what, err, r, fault.Cause(err))
				}
				if !strings.Contains(r.EN, host+c.path) || !strings.Contains(r.ZH, host+c.path) || strings.Contains(err.Error()+r.EN+r.ZH, "s3cret") {
					t.Errorf("%s: %v", what, r)
				}
			}
		})
	}
}

// A token that cannot be read is a fault of the settings; the reason names the file.
func TestATokenThatCannotBeReadIsTheSetupsFault(t *testing.T) {
	w := answering(t, func(*request) string { return accepted }, func(s *sellerv1.Setup) {
		s.Accounts[0].AccessToken = &sellerv1.SecretRef{File: "/nowhere/token"}
	})
	_, err := warehousetest.Send(t.Context(), w.Orders(), warehousetest.Order("A-1"))
	if fault.Cause(err) != "token:acme/main" || !errors.Is(err, warehouse.ErrToken) || !strings.Contains(err.Error(), "/nowhere/token") {
		t.Errorf("%v holds for %q", err, fault.Cause(err))
	}
}

// JD may quote the receiver in any answer, but no error shows it. Numbers and goods in JD's text stay.
func TestReceiverDoesNotShow(t *testing.T) {
	o := warehousetest.Order("A-20261130001")
	o.Receiver.Name, o.Receiver.Mobile, o.Receiver.Phone, o.Receiver.Email = "欧阳小明", "13800001234", "0755-88886666", "xiaoming@example.com"
	o.Receiver.Address, o.BuyerRemark, o.SellerRemark = "望京示例路 18 号院 7 号楼 2 单元 301", "放门口快递柜，打给家人王大锤", "老客户赠品发双份"
	o.Invoice = &orderv1.Invoice{Title: "小明的某某贸易商行"}
	words := "参数不合法：收件人欧阳小明，手机 13800001234 / +86 138-0000-1234 / １３８００００１２３４，尾号1234，座机0755 8888 6666，邮箱 xiaoming@example.com，" +
		"地址[望京示例路18号院7号楼2单元301]，即示例路 18 号院…，留言“放门口快递柜，打给家人王大锤”，备注“老客户赠品”，抬头“小明的某某贸易商行”，" +
		"订单 A-20261130001，商品 " + o.Lines[0].GoodsCode
	pieces := []string{"欧阳小明", "1380000", "1234", "0000-12", "００００", "8888", "6666", "xiaoming", "示例路", "18号院", "号楼", "单元", "王大锤", "快递柜", "赠品", "某某贸易", jdsandbox.DefaultToken, jdsandbox.DefaultAppSecret}
	answers := map[string]string{
		"no code": refusedBy("", words), "not JSON": words, "an envelope's code": `{"x_responce":{"code":"` + words + `"}}`,
		"a code of words": refusedBy(words, words), "HTTP": "",
	}
	for code := range 100 { // the gateway's codes, and unpublished ones
		answers[strconv.Itoa(code)] = refusedBy(strconv.Itoa(code), words)
	}
	for _, code := range []string{"1100", "5001", "10500", "7654321", "-1"} {
		answers[code] = refusedBy(code, words)
	}
	var answer string
	w := answering(t, func(r *request) string {
		return strings.ReplaceAll(answer, "参数不合法", "参数不合法 "+r.URL.Query().Get("access_token"))
	})
	direct := w.api.Transport
	for name, said := range answers {
		t.Run(name, func(t *testing.T) {
			answer, w.api.Transport = said, direct
			if name == "HTTP" { // net/http quotes an answer that is not HTTP
				w.api.Transport = quoting(words)
			}
			_, err := warehousetest.Send(t.Context(), w.Orders(), o)
			text := everyWord(err)
			_, err = w.Orders().Find(t.Context(), []string{"A-20261130001"})
			found := everyWord(err)
			for _, hidden := range pieces {
				if strings.Contains(text, hidden) {
					t.Errorf("shows %s: %s", hidden, text)
				}
			}
			for _, hidden := range []string{"1380000", "0000-12", "8888", "6666", "xiaoming", jdsandbox.DefaultToken} {
				if strings.Contains(found, hidden) {
					t.Errorf("a question's answer shows %s: %s", hidden, found)
				}
			}
			if _, err := strconv.Atoi(name); err == nil && (!strings.Contains(text, "参数不合法") || !strings.Contains(text, "A-20261130001") || !strings.Contains(text, o.Lines[0].GoodsCode)) {
				t.Errorf("hides too much: %s", text)
			}
		})
	}
}

// everyWord is everything that an error and the errors it wraps would print.
func everyWord(err error) string {
	var b strings.Builder
	var walk func(error)
	walk = func(err error) {
		if err == nil {
			return
		}
		fmt.Fprintf(&b, "%v %+v\n", err, err)
		if no, ok := errors.AsType[*warehouse.Rejected](err); ok {
			fmt.Fprintf(&b, "%+v\n", no.Reason)
		}
		switch u := err.(type) { //nolint:errorlint // each layer separately
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	if err != nil {
		fmt.Fprintf(&b, "%+v\n", fault.ReasonOf(err, ""))
	}
	return b.String()
}

type quoting string

func (q quoting) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("net/http: HTTP/1.x transport connection broken: malformed HTTP response %q", string(q))
}

// If JD refuses to answer about numbers that it does not know, the numbers that it knows are still found.
func TestARefusalAboutOneNumberHidesNoOther(t *testing.T) {
	known := []string{"A-3", "A-7"}
	for text, none := range map[string]bool{
		"根据入参，查询订单信息为空，无法处理": true, "出库单[A-1]不存在": true, "未查询到出库单": true, "单号不存在": true, "查不到该单": true,
		"系统繁忙，请稍后再试": false, "事业部不存在": false, "departmentNo不能为空": false, "店铺[S01]不存在": false, "订单所属商家不存在": false,
		"未查询到符合条件的数据": true, "没有找到A-1对应的订单！": true, "查询结果为空": true, "无数据": true,
		// These say that something else does not exist: to take them for the order would send it twice.
		"您无数据权限": false, "查询事业部信息为空": false, "商家信息为空，无法处理": false, "未查询到事业部": false, "没有找到授权信息": false,
		"未查询到订单所属店铺": false, "IP白名单不存在": false, "订单号为空": false, "未找到商家数据": false,
	} {
		w := answering(t, func(r *request) string {
			nos := numbers(r.param)
			if slices.ContainsFunc(nos, func(no string) bool { return !slices.Contains(known, no) }) {
				return refusedBy("10500", text)
			}
			var rows []string
			for _, no := range nos {
				rows = append(rows, fmt.Sprintf(`{"isvUUID":%q,"eclpSoNo":"ESL%s"}`, no, no))
			}
			return `{"x_responce":{"code":"0","queryorder_result":[` + strings.Join(rows, ",") + `]}}`
		})
		found, err := w.Orders().Find(t.Context(), []string{"A-1", "A-2", "A-3", "A-4", "A-5", "A-6", "A-7", "A-8"})
		switch {
		case none && (err != nil || len(found) != 2 || found["A-3"][0].Number != "ESLA-3" || found["A-7"][0].Number != "ESLA-7"):
			t.Errorf("%s: %+v, %v", text, found, err)
		case !none && (err == nil || fault.Of(err) != fault.Transient && fault.Of(err) != fault.Held):
			t.Errorf("%s: %+v, %v", text, found, err)
		}
	}
}

// numbers are those in the query of an ext.queryOrder.
func numbers(param string) []string {
	_, list, _ := strings.Cut(param, `"isvUUID":"`)
	list, _, _ = strings.Cut(list, `"`)
	return strings.Split(list, ",")
}

func TestRowsOfOneNumberBecomeOneAnswer(t *testing.T) {
	rows := func(r string) string { return `{"x_responce":{"code":"0","queryorder_result":` + r + `}}` }
	order := func(no, split string) string {
		return `{"x_responce":{"code":"0","queryorder_result":{"eclpSoNo":"` + no + `","splitEclpSoNos":"` + split + `"}}}`
	}
	for _, c := range []struct {
		name, rows string
		orders     map[string]string // answers to queryOrder
		want       string            // number, then others; "-" for none, "error"
	}{
		{"none", `[]`, nil, "-"},
		{"a row without a document", `[{"isvUUID":"A-1","eclpSoNo":null,"resultCode":"0"}]`, nil, "-"},
		{"a row of another number", `[{"isvUUID":"B-1","eclpSoNo":"ESL1"}]`, nil, "-"},
		{"a row that does not say of which number", `[{"eclpSoNo":"ESL1"}]`, nil, "error"},
		{"one", `[{"isvUUID":"A-1","eclpSoNo":"ESL1"}]`, nil, "ESL1"},
		{"one object", `{"isvUUID":["A-1"],"eclpSoNo":"ESL1"}`, nil, "ESL1"},
		{"one twice", `[{"isvUUID":"A-1","eclpSoNo":"ESL1"},{"isvUUID":"A-1","eclpSoNo":"ESL1"}]`, nil, "ESL1"},
		{"two", `[{"isvUUID":"A-1","eclpSoNo":"ESL2"},{"isvUUID":"A-1","eclpSoNo":"ESL1"}]`,
			map[string]string{"ESL1": order("ESL1", ""), "ESL2": order("ESL2", "")}, "ESL1 ESL2"},
		{"two, the older cancelled", `[{"isvUUID":"A-1","eclpSoNo":"ESL1","mainStatus":10028},{"isvUUID":"A-1","eclpSoNo":"ESL2","mainStatus":"10015"}]`,
			map[string]string{"ESL1": order("ESL1", ""), "ESL2": order("ESL2", "")}, "ESL2 ESL1"},
		{"a split order and its parts", `[{"isvUUID":"A-1","eclpSoNo":"ESL3"},{"isvUUID":"A-1","eclpSoNo":"ESL1"},{"isvUUID":"A-1","eclpSoNo":"ESL2"}]`,
			map[string]string{"ESL1": order("ESL1", "ESL2,ESL3,ESL1")}, "ESL1"},
		{"parts that name each other", `[{"isvUUID":"A-1","eclpSoNo":"ESL2"},{"isvUUID":"A-1","eclpSoNo":"ESL3"}]`,
			map[string]string{"ESL2": order("ESL2", "ESL2,ESL3")}, "ESL2"},
		{"a split order and a double one", `[{"isvUUID":"A-1","eclpSoNo":"ESL1"},{"isvUUID":"A-1","eclpSoNo":"ESL2"},{"isvUUID":"A-1","eclpSoNo":"ESL9"}]`,
			map[string]string{"ESL1": order("ESL1", "ESL2"), "ESL9": order("ESL9", "")}, "ESL1 ESL9"},
		{"two, and JD does not let us look closer", `[{"isvUUID":"A-1","eclpSoNo":"ESL1"},{"isvUUID":"A-1","eclpSoNo":"ESL2"}]`,
			map[string]string{"ESL1": refusedBy("24", "x"), "ESL2": refusedBy("10500", "x")}, "ESL1 ESL2"},
		{"two, and the answer is lost", `[{"isvUUID":"A-1","eclpSoNo":"ESL1"},{"isvUUID":"A-1","eclpSoNo":"ESL2"}]`, nil, "error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := answering(t, func(r *request) string {
				if r.method == "ext.queryOrder" {
					return rows(c.rows)
				}
				return c.orders[strings.Trim(strings.TrimPrefix(r.param, `{"eclpSoNo":`), `"}`)]
			})
			for range 2 { // what was learned about parts stays true
				found, err := w.Orders().Find(t.Context(), []string{"A-1", "A-1"})
				var numbers []string
				for _, d := range found["A-1"] {
					numbers = append(numbers, d.Number)
				}
				got := strings.Join(numbers, " ")
				switch {
				case err != nil:
					got = "error"
				case len(numbers) == 0:
					got = "-"
				}
				if got != c.want {
					t.Errorf("got %q (%v), want %q", got, err, c.want)
				}
			}
		})
	}

	t.Run("numbers that cannot be asked for", func(t *testing.T) {
		w := answering(t, func(*request) string { return rows(`[]`) })
		for _, no := range []string{"", "A-1,A-2", " A-1"} {
			if found, err := w.Orders().Find(t.Context(), []string{no}); err == nil {
				t.Errorf("%q: %+v", no, found)
			}
		}
	})
	t.Run("a part asked for alone is no error", func(t *testing.T) {
		w := answering(t, func(r *request) string {
			if r.method == "queryOrder" {
				return order("ESL1", "ESL2")
			}
			return rows(`[{"isvUUID":"A-1","eclpSoNo":"ESL2"}]`)
		})
		if _, err := w.Orders().Read(t.Context(), []string{"ESL1"}); err != nil {
			t.Error(err)
		}
		if found, err := w.Orders().Find(t.Context(), []string{"A-1"}); err != nil || len(found["A-1"]) != 1 || found["A-1"][0].Number != "ESL2" {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

func TestADocumentIsReportedInOurTerms(t *testing.T) {
	step := func(code, at string) string { return `{"soStatusCode":` + code + `,"operateTime":"` + at + `"}` }
	const (
		t1, t2, t3 = "2026-03-01 09:00:00", "2026-03-01 10:00:00", "2026-03-01 11:00:00"
		oneLine    = `,"orderDetailList":[{"goodsNo":"EMG1","isvGoodsNo":"g1","orderLine":"1","quantity":"2.0"}]`
		twoPacks   = `,"orderPackageList":[{"packageNo":"VA1-1-2-","packWeight":1.50},{"packageNo":"VA1-2-2-","packWeight":"kg","wayBill":"VA9"}]`
	)
	for _, c := range []struct {
		name, order, packs string
		change             func(*sellerv1.Setup)
		want               string
		packsAsked         int64
	}{
		{name: "JD's own word goes before a later step", order: `"currentStatus":"10028","orderStatusList":[` + step("10019", t3) + `,` + step("10028", t2) + `]`,
			want: "STATUS_CANCELLED 10028 10:00; 10028 10019; waybills []; 0 packages []; lines []; children []"},
		{name: "a step that was cancelled earlier does not count against JD's word", order: `"currentStatus":10019,"orderStatusList":[` + step("10019", t3) + `,` + step("10028", t2) + `]`,
			want: "STATUS_SHIPPED 10019 11:00; 10028 10019; waybills []; 0 packages []; lines []; children []"},
		{name: "without JD's word a cancellation overrules the rest", order: `"orderStatusList":[` + step("10019", t3) + `,` + step("10028", t2) + `]`,
			want: "STATUS_CANCELLED 10028 10:00; 10028 10019; waybills []; 0 packages []; lines []; children []"},
		{name: "without JD's word the latest step counts", order: `"orderStatusList":[` + step("10019", t3) + `,` + step("100130", t1) + `,` + step("10018", t2) + `]`,
			want: "STATUS_SHIPPED 10019 11:00; 100130 10018 10019; waybills []; 0 packages []; lines []; children []"},
		{name: "a code without a word of ours", order: `"currentStatus":"10041"`,
			want: "STATUS_UNSPECIFIED 10041 -; ; waybills []; 0 packages []; lines []; children []"},
		{name: "no status at all: the steps are asked for", order: `"isvUUID":"A-1"`,
			want: "STATUS_PICKING 10015 09:00; 10015; waybills []; 0 packages []; lines []; children []"},
		{name: "packed is not shipped", order: `"currentStatus":"10018"` + oneLine + twoPacks,
			want: "STATUS_PACKED 10018 -; ; waybills [VA1 VA9]; 2 packages [VA1 1.50 []; VA9  []]; lines [1 2/2]; children []"},
		{name: "what really left", order: `"currentStatus":"10019","orderDetailList":[{"orderLine":"1","quantity":2,"realOutQty":"0"}]`,
			want: "STATUS_SHIPPED 10019 -; ; waybills []; 0 packages []; lines [1 0/2]; children []"},
		{name: "one parcel holds all", order: `"currentStatus":"10019","wayBill":"VA1, VA1,"` + oneLine + `,"orderPackageList":[{"packageNo":"VA1-1-1-"}]`,
			want: "STATUS_SHIPPED 10019 -; ; waybills [VA1]; 1 packages [VA1  [1 2]]; lines [1 2/2]; children []"},
		{name: "what lies in which parcel is asked for", order: `"currentStatus":"10019"` + oneLine + twoPacks, packsAsked: 2,
			packs: `[{"eclpSoNo":"ESL1","orderPackageList":[{"packageNo":"VA1-1-2-","soPackItemsList":[{"goodsNo":"EMG1","goodsNum":1}]},
				{"packageNo":"VA1-2-2-","soPackItemsList":{"goodsNo":"EMG9","goodsNum":"1"}},{"packageNo":"?","soPackItemsList":[]}]}]`,
			want: "STATUS_SHIPPED 10019 -; ; waybills [VA1 VA9]; 2 packages [VA1 1.50 [1 1]; VA9  [ 1]]; lines [1 2/2]; children []"},
		{name: "a missing list of the packages' content is no failure, and is not asked for again", order: `"currentStatus":"10019"` + oneLine + twoPacks, packsAsked: 1,
			packs: refusedBy("24", "x"),
			want:  "STATUS_SHIPPED 10019 -; ; waybills [VA1 VA9]; 2 packages [VA1 1.50 []; VA9  []]; lines [1 2/2]; children []"},
		{name: "neither is a lost answer", order: `"currentStatus":"10019"` + oneLine + twoPacks, packsAsked: 2,
			want: "STATUS_SHIPPED 10019 -; ; waybills [VA1 VA9]; 2 packages [VA1 1.50 []; VA9  []]; lines [1 2/2]; children []"},
		{name: "a split order has parts, and nothing left of itself", order: `"currentStatus":"10019","splitEclpSoNos":"ESL1,ESL2, ESL3"` + oneLine,
			want: "STATUS_SHIPPED 10019 -; ; waybills []; 0 packages []; lines [1 0/2]; children [ESL2 ESL3]"},
		{name: "another carrier's waybill", order: `"currentStatus":"10019","tpWayBill":"SF1"`,
			want: "STATUS_SHIPPED 10019 -; ; waybills [SF1]; 0 packages []; lines []; children []"},
		{name: "half a piece", order: `"currentStatus":"10019","orderDetailList":[{"quantity":"1.5"}]`, want: "error"},
		{name: "another order", order: `"eclpSoNo":"ESL2"`, want: "error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int64
			var changes []func(*sellerv1.Setup)
			if c.change != nil {
				changes = append(changes, c.change)
			}
			w := answering(t, func(r *request) string {
				switch r.method {
				case "queryOrderPacks":
					asked.Add(1)
					if strings.HasPrefix(c.packs, "[") {
						return `{"x_responce":{"queryorderpacks_result":` + c.packs + `}}`
					}
					return c.packs
				case "queryOrderStatus":
					return `{"x_responce":{"queryorderstatus_result":{"orderStatusList":[` + step("10015", t1) + `]}}}`
				default:
					return `{"x_responce":{"queryorder_result":{"eclpSoNo":"ESL1",` + c.order + `}}}`
				}
			}, changes...)
			for range 2 {
				docs, err := w.Orders().Read(t.Context(), []string{"ESL1"})
				got := "error"
				if err == nil {
					got = sketch(docs["ESL1"])
				} else if c.want != "error" {
					t.Error(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			}
			if n := asked.Load(); n != c.packsAsked {
				t.Errorf("asked for parcels %d times", n)
			}
		})
	}
}

// sketch is an order on one line.
func sketch(d document) string {
	at := "-"
	if !d.State.At.IsZero() {
		at = d.State.At.Format("15:04")
	}
	var history, packs, lines []string
	for _, s := range d.History {
		history = append(history, s.Code)
	}
	for _, p := range d.Detail.Packages {
		var in []string
		for _, l := range p.Lines {
			in = append(in, fmt.Sprintf("%s %d", l.LineId, l.Shipped))
		}
		packs = append(packs, fmt.Sprintf("%s %s %v", p.Waybill, p.Weight, in))
	}
	for _, l := range d.Detail.Lines {
		lines = append(lines, fmt.Sprintf("%s %d/%d", l.LineId, l.Shipped, l.Quantity))
	}
	return fmt.Sprintf("%v %s %s; %s; waybills %v; %d packages [%s]; lines %v; children %v", d.State.Status, d.State.Code, at,
		strings.Join(history, " "), d.Detail.Waybills, len(d.Detail.Packages), strings.Join(packs, "; "), lines, d.Children)
}

func TestAPackagesNumberGivesItsWaybill(t *testing.T) {
	for no, want := range map[string]string{"VA1-1-1-": "VA1", "VA1-12-13": "VA1", "JD-2-1-2-": "JD-2", "VA1": "VA1", "VA1-x-1-": "VA1-x-1-", "": "", "-1-1-": "-1-1-"} {
		if got := waybillOf(no); got != want {
			t.Errorf("%q is of %q, want %q", no, got, want)
		}
	}
}

// Every code of JD's list has a meaning and a text here, and is among those by which documents are listed.
func TestEveryDocumentedCodeHasAMeaning(t *testing.T) {
	documented := strings.Fields("10010 100130 10014 10015 10016 10017 10018 10019 10020 10027 10028 10029 10031 10032 10033 10034 10035 10036 10037 10038 10050 10051 10054")
	for _, code := range documented {
		of := statuses[code]
		if of.text == "" || of.status == documentv1.Status_STATUS_UNSPECIFIED && code != "10050" && code != "10051" { // these are about purchases
			t.Errorf("%s: %+v", code, of)
		}
		if !slices.Contains(lifecycle, code) {
			t.Errorf("%s is never listed", code)
		}
	}
	for code, of := range statuses {
		if !slices.Contains(documented, code) && of.text != "" {
			t.Errorf("%s has a text that JD never said: %s", code, of.text)
		}
		if !slices.Contains(lifecycle, code) {
			t.Errorf("%s is never listed", code)
		}
	}
}
