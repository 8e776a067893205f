package control_test

import (
	"context"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/jdsandbox/control"
)

func start(t *testing.T, cfg jdsandbox.Config) (*jdsandbox.JD, *httptest.Server) {
	t.Helper()
	jd, err := jdsandbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(jd)
	t.Cleanup(srv.Close)
	return jd, srv
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTheClientReachesEveryCall uses every call of the API once.
func TestTheClientReachesEveryCall(t *testing.T) {
	ctx := context.Background()
	jd, srv := start(t, jdsandbox.Config{Stopped: true})
	c := control.New(srv.URL + "/routerjson")

	k, err := c.SetKnobs(ctx, map[string]any{"repeat": "same", "latency": map[string]any{"max": "1ms"}, "cancel": map[string]any{"answers": map[string]any{"10017": "cancelled"}}})
	must(t, err)
	if k.Repeat != jdsandbox.SameNumber || time.Duration(k.Latency.Max) != time.Millisecond || k.Cancel.Answers["10017"] != jdsandbox.Cancelled || k.Cancel.Answers["10014"] != jdsandbox.Cancelled {
		t.Errorf("got %+v", k)
	}
	_, err = c.SetKnobs(ctx, map[string]any{"repeet": 1, "jitter": "x", "packages": 2})
	if err == nil || !strings.Contains(err.Error(), "repeet: unknown key") || !strings.Contains(err.Error(), "jitter: must be a number") {
		t.Errorf("got %v", err)
	}
	k, err = c.Knobs(ctx)
	must(t, err)
	if k.Packages != 1 {
		t.Error("a faulty patch was taken in part")
	}

	taken, err := c.Take(ctx, json.RawMessage(`{"isvUUID":"T-1","isvSource":"ISV1","shopNo":"ESP1","departmentNo":"EBU1","salePlatformSource":"6","consigneeName":"n",
		"consigneeMobile":"1","consigneeAddress":"a","orderMark":"`+strings.Repeat("0", 50)+`","isvGoodsNo":"g","quantity":"1"}`))
	must(t, err)
	if docs := jd.Documents("T-1"); len(docs) != 1 || docs[0].EclpSoNo != taken || len(jd.Calls()) != 0 {
		t.Errorf("another program's order: %q, %+v", taken, docs)
	}
	if _, err := c.Take(ctx, json.RawMessage(`{"isvUUID":"T-2"}`)); err == nil || !strings.Contains(err.Error(), "60") {
		t.Errorf("an order that JD refuses: %v", err)
	}

	f, err := c.AddFault(ctx, jdsandbox.Fault{Kind: jdsandbox.HTTP, Count: 2})
	must(t, err)
	if f.ID == "" || f.Status != 503 {
		t.Errorf("got %+v", f)
	}
	must(t, c.RemoveFault(ctx, f.ID))
	if err := c.RemoveFault(ctx, f.ID); err == nil {
		t.Error("removed twice")
	}
	if _, err := c.AddFault(ctx, jdsandbox.Fault{Kind: "x"}); err == nil {
		t.Error("a faulty fault was taken")
	}
	must(t, c.ClearFaults(ctx))

	_, err = http.Get(srv.URL + "/routerjson?method=jingdong.eclp.order.addOrder")
	must(t, err)
	calls, err := c.Calls(ctx, 0)
	must(t, err)
	if len(calls) != 1 || calls[0].Method != "eclp.order.addOrder" || calls[0].Code != "20" {
		t.Errorf("got %+v", calls)
	}
	if calls, _ = c.Calls(ctx, 1); len(calls) != 0 {
		t.Errorf("got %+v", calls)
	}
	n, err := c.Counters(ctx)
	must(t, err)
	if n.Calls["eclp.order.addOrder"] != 1 || n.Refused["20"] != 1 {
		t.Errorf("got %+v", n)
	}
	v, err := c.Violations(ctx)
	must(t, err)
	if v.Total != 0 || len(v.Counts) != 6 {
		t.Errorf("got %+v", v)
	}

	before, err := c.Clock(ctx)
	must(t, err)
	must(t, c.Advance(ctx, time.Hour))
	must(t, c.SetSpeed(ctx, 60))
	after, err := c.Clock(ctx)
	must(t, err)
	if after.Speed != 60 || after.Now.Sub(before.Now) < time.Hour {
		t.Errorf("got %+v after %+v", after, before)
	}
	if err := c.Advance(ctx, -time.Hour); err == nil {
		t.Error("the clock went back")
	}

	must(t, c.SetToken(ctx, "", jdsandbox.Token{Value: "t2", Departments: []string{"EBU1"}, Expires: time.Now().Add(time.Hour)}))
	must(t, c.ExpireToken(ctx, "t2", time.Time{}))
	if err := c.ExpireToken(ctx, "t3", time.Time{}); err == nil || strings.Contains(err.Error(), "t3") {
		t.Errorf("got %v", err)
	}
	if _, err := c.Document(ctx, "ESL1"); err == nil {
		t.Error("found what is not there")
	}
	if docs, err := c.Documents(ctx, jdsandbox.Query{}); err != nil || len(docs) != 1 {
		t.Errorf("got %v, %v", docs, err)
	}
	must(t, c.Reset(ctx))
	if jd.Knobs().Repeat != jdsandbox.SecondDocument {
		t.Error("not reset")
	}
}

// TestPagesHoldEveryDocument goes through more documents than a page holds.
func TestPagesHoldEveryDocument(t *testing.T) {
	ctx := context.Background()
	journal := t.TempDir() + "/jd.journal"
	fillJournal(t, journal, 2500)
	_, srv := start(t, jdsandbox.Config{State: journal})
	c := control.New(srv.URL)
	for _, row := range []struct {
		q     jdsandbox.Query
		count int
		first int64
	}{
		{jdsandbox.Query{}, 2500, 1},
		{jdsandbox.Query{Limit: 1100}, 1100, 1},
		{jdsandbox.Query{After: 2400}, 100, 2401},
		{jdsandbox.Query{DepartmentNo: "EBU1"}, 1250, 2},
		{jdsandbox.Query{IsvUUID: "A-7"}, 1, 7},
		{jdsandbox.Query{Status: "10019"}, 0, 0},
	} {
		docs, err := c.Documents(ctx, row.q)
		must(t, err)
		if len(docs) != row.count || row.count > 0 && docs[0].Seq != row.first {
			t.Errorf("%+v: got %d", row.q, len(docs))
		}
	}
	d, err := c.Document(ctx, "ESL7")
	must(t, err)
	if d.IsvUUID != "A-7" || d.Params["shopNo"] != "S" {
		t.Errorf("got %+v", d)
	}
	for _, q := range []string{"limit=1001", "after=x", "limit=-1"} {
		res, err := http.Get(srv.URL + "/_sandbox/documents?" + q)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != 400 {
			t.Errorf("%s: got %d", q, res.StatusCode)
		}
	}
}

func fillJournal(t *testing.T, path string, n int) {
	t.Helper()
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, `{"documents":[{"seq":%d,"no":"ESL%d","number":"A-%d","dept":"EBU%d","params":{"shopNo":"S"},"created":"2021-06-18T09:30:00Z","born":"2021-06-18T09:30:00Z","plan":[{"code":"10010","at":"2021-06-18T09:30:00Z"}],"lines":[]}]}`+"\n", i, i, i, (i+1)%2)
	}
	must(t, os.WriteFile(path, []byte(b.String()), 0o600))
}

func TestControlIsForThisMachineOnly(t *testing.T) {
	for _, row := range []struct {
		name       string
		control    jdsandbox.Control
		from, host string
		origin     string
		status     int
	}{
		{"from here", "", "127.0.0.1:5", "127.0.0.1:18080", "", 200},
		{"from here, IPv6", "", "[::1]:5", "localhost:18080", "", 200},
		{"from elsewhere", "", "10.0.0.7:5", "10.0.0.1:18080", "", 403},
		{"from elsewhere, opened", jdsandbox.ControlAnyone, "10.0.0.7:5", "jd-sandbox:18080", "", 200},
		{"a name that somebody pointed here", "", "127.0.0.1:5", "evil.example:18080", "", 403},
		{"a page in a browser here", "", "127.0.0.1:5", "127.0.0.1:18080", "https://evil.example", 403},
	} {
		t.Run(row.name, func(t *testing.T) {
			jd, err := jdsandbox.New(jdsandbox.Config{Control: row.control})
			must(t, err)
			r := httptest.NewRequest("POST", "/_sandbox/reset", nil)
			r.RemoteAddr, r.Host = row.from, row.host
			if row.origin != "" {
				r.Header.Set("Origin", row.origin)
			}
			w := httptest.NewRecorder()
			jd.ServeHTTP(w, r)
			if w.Code != row.status {
				body, _ := io.ReadAll(w.Body)
				t.Errorf("got %d %s", w.Code, body)
			}
		})
	}
}

// TestTheClientMovesStock uses every call about stock once.
func TestTheClientMovesStock(t *testing.T) {
	ctx := context.Background()
	jd, srv := start(t, jdsandbox.Config{})
	c := control.New(srv.URL)
	must(t, c.StockGoods(ctx, jdsandbox.Stock{DeptNo: "EBU1", WarehouseNo: "11", GoodsNo: "EMG1", Shops: map[string]int64{"ESP1": 5}}))
	if err := c.StockGoods(ctx, jdsandbox.Stock{DeptNo: "EBU1", WarehouseNo: "11", GoodsNo: "EMG1"}); err == nil || !strings.Contains(err.Error(), "[0].goodsNo: EMG1 is there already") {
		t.Errorf("stocked twice: %v", err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	sale := jdsandbox.StockAct{Kind: jdsandbox.Sale, DeptNo: "EBU1", WarehouseNo: "11", ShopNo: "ESP1", GoodsNo: "EMG1", Num: 2, At: at}
	rows, err := c.Move(ctx, sale)
	must(t, err)
	if len(rows) != 1 || rows[0].Former != 5 || rows[0].Now != 3 || !rows[0].At.Equal(at) {
		t.Errorf("got %+v", rows)
	}
	before, none := sale, jdsandbox.StockAct{Kind: "theft"}
	before.At = at.Add(-time.Millisecond)
	_, err = c.Move(ctx, sale, before, none)
	for _, want := range []string{"[1].at: must not be before", "[2].kind: \"theft\" is not one of", "[2].warehouseNo: is required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	must(t, c.FillFlow(ctx, jdsandbox.Fill{DeptNo: "EBU1", WarehouseNo: "11", ShopNo: "ESP1", GoodsNos: []string{"EMG1", "EMG2"}, Rows: 12_000, From: at, To: at.Add(time.Hour)}))
	if err := c.FillFlow(ctx, jdsandbox.Fill{}); err == nil || !strings.Contains(err.Error(), "goodsNos: is required") {
		t.Errorf("an empty fill: %v", err)
	}
	all, err := c.Movements(ctx, jdsandbox.StockQuery{ShopNo: "ESP1"})
	must(t, err)
	if first, want := all[0], rows[0]; len(all) != 12_001 || first != want {
		t.Errorf("%d rows, the first %+v", len(all), first)
	}
	some, err := c.Movements(ctx, jdsandbox.StockQuery{GoodsNo: "EMG2", Limit: 3})
	must(t, err)
	if len(some) != 3 || some[0].GoodsNo != "EMG2" {
		t.Errorf("got %+v", some)
	}
	truth, err := c.Stock(ctx, jdsandbox.StockQuery{GoodsNo: "EMG1"})
	must(t, err)
	if len(truth.Shops) != 1 || len(truth.Warehouses) != 1 || truth.Shops[0].Rows == 0 {
		t.Errorf("got %+v", truth)
	}
	if len(jd.Calls()) != 0 {
		t.Error("control calls stand among JD's")
	}
}

// TestTheClientReceivesPurchases uses every call about purchase orders.
func TestTheClientReceivesPurchases(t *testing.T) {
	ctx := context.Background()
	jd, srv := start(t, jdsandbox.Config{Stopped: true, Knobs: jdsandbox.Knobs{Purchases: jdsandbox.PurchaseKnobs{Wait: jdsandbox.PurchaseWait{At: "10"}}}})
	c := control.New(srv.URL)
	for n := range 3 {
		jdParam(t, srv.URL, "eclp.po.addPoOrder", fmt.Sprintf(`{"spPoOrderNo":"P-%d","deptNo":"EBU1","whNo":"11","supplierNo":"EMS1","deptGoodsNo":"EMG1","numApplication":"5","goodsStatus":"1"}`, n+1))
	}
	all, err := c.Purchases(ctx, jdsandbox.PurchaseQuery{})
	must(t, err)
	if len(all) != 3 || len(jd.Purchases()) != 3 || all[2].SpPoOrderNo != "P-3" || all[0].Status != "10" || !all[0].Waits {
		t.Fatalf("got %+v", all)
	}
	some, err := c.Purchases(ctx, jdsandbox.PurchaseQuery{DeptNo: "EBU1", Status: "10", After: all[0].Seq, Limit: 1})
	must(t, err)
	if len(some) != 1 || some[0].SpPoOrderNo != "P-2" {
		t.Errorf("got %+v", some)
	}
	p, err := c.ReceivePurchase(ctx, all[0].PoOrderNo, jdsandbox.PurchaseReceipt{Goods: []jdsandbox.PurchaseGoods{{Line: 1, Num: 2}}, Finish: true})
	must(t, err)
	if p.Status != "70" || p.Lines[0].Real != 2 || p.Lines[0].Asked != 5 || p.Params["whNo"] != "11" {
		t.Errorf("got %+v", p)
	}
	if _, err := c.ReceivePurchase(ctx, all[0].PoOrderNo, jdsandbox.PurchaseReceipt{Rest: true}); err == nil || !strings.Contains(err.Error(), "完成") {
		t.Errorf("received after the end: %v", err)
	}
	p, err = c.ReleasePurchase(ctx, all[1].PoOrderNo)
	must(t, err)
	if p.Waits {
		t.Errorf("got %+v", p)
	}
	must(t, c.Advance(ctx, 24*time.Hour))
	p, err = c.Purchase(ctx, all[1].PoOrderNo)
	must(t, err)
	if p.Status != "70" || p.Lines[0].Real != 5 {
		t.Errorf("got %+v", p)
	}
	for _, do := range []func() error{
		func() error { _, err := c.Purchase(ctx, "EPL0"); return err },
		func() error { _, err := c.ReleasePurchase(ctx, "EPL0"); return err },
		func() error {
			_, err := c.ReceivePurchase(ctx, "EPL0", jdsandbox.PurchaseReceipt{Finish: true})
			return err
		},
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "no such purchase order") {
			t.Errorf("got %v", err)
		}
	}
}

// jdParam makes a call of JD's.
func jdParam(t *testing.T, address, method, param string) {
	t.Helper()
	params := [][2]string{
		{"360buy_param_json", param}, {"access_token", jdsandbox.DefaultToken}, {"app_key", jdsandbox.DefaultAppKey}, {"method", "jingdong." + method},
		{"timestamp", time.Now().In(time.FixedZone("", 8*60*60)).Format("2006-01-02 15:04:05")}, {"v", "2.0"},
	}
	form, signed := url.Values{}, jdsandbox.DefaultAppSecret
	for _, p := range params {
		form.Set(p[0], p[1])
		signed += p[0] + p[1]
	}
	form.Set("sign", fmt.Sprintf("%X", md5.Sum([]byte(signed+jdsandbox.DefaultAppSecret))))
	res, err := http.PostForm(address+"/routerjson", form)
	must(t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	must(t, err)
	if strings.Contains(string(raw), "error_response") {
		t.Fatal(string(raw))
	}
}
