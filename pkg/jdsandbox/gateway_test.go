package jdsandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// TestWorkedExamples sends the two examples of docs/jd-api.md, Signature.
func TestWorkedExamples(t *testing.T) {
	const key, secret, token = "DOCAPPKEY00000000000000000000001", "s3cr3t-for-docs-000000000000000000", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	s := start(t, func(c *jdsandbox.Config) {
		c.Apps = []jdsandbox.App{{Key: key, Secret: secret, Tokens: []jdsandbox.Token{{Value: token}}}}
		c.Shops = []jdsandbox.Shop{{ShopNo: "ESP0020000000001", IsvShopNo: "门店A", DeptNo: dept}, {ShopNo: "ESP0020000000002", IsvShopNo: "B", DeptNo: dept}}
	})
	system := url.Values{"app_key": {key}, "access_token": {token}, "timestamp": {"2021-06-18 09:30:00"}, "v": {"2.0"}}

	cancel := url.Values{"method": {"jingdong.eclp.order.cancelOrder"}, "format": {"json"},
		"360buy_param_json": {`{"eclpSoNo":"ESL4400000000001"}`}, "sign": {"30D62844FF9A6B4CD67A21D4D8420A2C"}}
	_, err := s.open("eclp.order.cancelOrder", get(t, s.url, system, cancel))
	refusedWith(t, err, "5001") // signed correctly; there is no such order

	shop := url.Values{"method": {"jingdong.eclp.master.queryShop"},
		"360buy_param_json": {`{"deptNo":"EBU0000000000001","isvShopNos":"门店A"}`}, "sign": {"FD34FD3E9D2D9EFED27F774587BE2C1A"}}
	answer, err := s.open("eclp.master.queryShop", get(t, s.url, system, shop))
	if err != nil {
		t.Fatal(err)
	}
	if list := rows(answer["queryshop_result"]); len(list) != 1 || list[0]["shopNo"] != "ESP0020000000001" {
		t.Errorf("got %v", list)
	}
}

func get(t *testing.T, address string, parts ...url.Values) string {
	t.Helper()
	all := url.Values{}
	for _, p := range parts {
		for name := range p {
			all.Set(name, p.Get(name))
		}
	}
	res, err := http.Get(address + "?" + all.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "application/json;charset=utf-8" {
		t.Errorf("got %d %q", res.StatusCode, ct)
	}
	return string(body)
}

// TestParametersAreTakenWhereverClientsPutThem talks as the public clients do (docs/jd-api.md, Address and transport).
func TestParametersAreTakenWhereverClientsPutThem(t *testing.T) {
	const business = `{"eclpSoNo":"ESL4400000000001","note":"100% 门店A; a+b&c=d"}`
	order := func(s *sandbox) { s.add(anOrder("A-1")) }
	for name, send := range map[string]func(*sandbox) (*http.Response, error){
		"C#: all in the body, extra format, time with fraction and zone": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["timestamp"] = s.clock.Now().Format("2006-01-02 15:04:05.000-0700")
			p["format"], p["360buy_param_json"] = "json", business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			return http.PostForm(s.url, form(p))
		},
		"Java: system and sign in the query, business in the body": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			delete(p, "360buy_param_json")
			return http.PostForm(s.url+"?"+form(p).Encode(), url.Values{"360buy_param_json": {business}})
		},
		"node: all in the query of a GET": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			return http.Get(s.url + "?" + form(p).Encode())
		},
		"Java: an empty parameter is sent but not signed": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			p["other"] = ""
			return http.PostForm(s.url, form(p))
		},
		"PHP: an empty parameter is signed, one with @ is not": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"], p["fields"] = business, ""
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			p["file"] = "@x"
			return http.PostForm(s.url, form(p))
		},
		"PHP: a multipart form": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			for name, value := range p {
				_ = form.WriteField(name, value)
			}
			file, _ := form.CreateFormFile("attachment", "x.txt")
			_, _ = io.WriteString(file, "not a parameter")
			_ = form.Close()
			return http.Post(s.url, form.FormDataContentType(), &body)
		},
		"multipart, the system parameters in the query": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			delete(p, "360buy_param_json")
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			_ = form.WriteField("360buy_param_json", business)
			_ = form.Close()
			return http.Post(s.url+"?"+urlForm(p), form.FormDataContentType(), &body)
		},
		"all in the query, JSON besides": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			return http.Post(s.url+"?"+urlForm(p), "application/json; charset=utf-8", strings.NewReader(`{"a":"x=y&z%zz"}`))
		},
		"an SDK's other, which is not signed": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			p["other"] = "x"
			return http.PostForm(s.url, form(p))
		},
		"an other that is signed": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"], p["other"] = business, "x"
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			return http.PostForm(s.url, form(p))
		},
		"blanks as %20, semicolons bare": func(s *sandbox) (*http.Response, error) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = business
			p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			body := strings.NewReplacer("+", "%20", "%3B", ";").Replace(form(p).Encode())
			return http.Post(s.url, "application/x-www-form-urlencoded;charset=UTF-8", strings.NewReader(body))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			order(s)
			res, err := send(s)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			if _, err := s.open("eclp.order.queryOrder", string(body)); err != nil {
				t.Error(err)
			}
		})
	}
}

func urlForm(params map[string]string) string { return form(params).Encode() }

// TestTheEnvelopeIsSpelledByVersion: one ERP sends v=3.0 and looks for _response.
func TestTheEnvelopeIsSpelledByVersion(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) { k.Spelling = jdsandbox.SpellingByVersion }))
	for version, want := range map[string]string{"2.0": "_responce", "3.0": "_response"} {
		p := s.system("eclp.master.queryShipper")
		p["v"] = version
		p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
		_, body, err := s.post(p)
		if err != nil || !strings.Contains(body, want) {
			t.Errorf("v=%s: %s (%v)", version, body, err)
		}
	}
}

// TestTheClockWindowIsAKnob: a later text of JD's says ten minutes.
func TestTheClockWindowIsAKnob(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) { k.ClockWindow = jdsandbox.Duration(10 * time.Minute) }))
	for off, code := range map[time.Duration]string{-10 * time.Minute: "60", -10*time.Minute - time.Second: "8"} {
		p := s.system("eclp.order.queryOrder")
		p["timestamp"] = s.clock.Now().Add(off).Format("2006-01-02 15:04:05")
		p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
		_, body, err := s.post(p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.open("eclp.order.queryOrder", body)
		refusedWith(t, err, code)
	}
}

// TestDecimalsAreAKnob: ERPs keep amounts with four decimal places.
func TestDecimalsAreAKnob(t *testing.T) {
	s := start(t)
	s.add(with(anOrder("A-1"), object{"price": "480.0000,88.5000"}))
	s.set(func(k *jdsandbox.Knobs) { k.Decimals = 2 })
	_, err := s.call(addOrder, with(anOrder("A-2"), object{"price": "480.0000,88.5000"}))
	refusedWith(t, err, "61")
	s.add(with(anOrder("A-2"), object{"price": "480.00,88.5"}))
}

// TestChecksComeInTheirOrder breaks a correct call from the first check to the last; each row keeps the later faults.
func TestChecksComeInTheirOrder(t *testing.T) {
	s := start(t, func(c *jdsandbox.Config) {
		c.Apps = []jdsandbox.App{
			{Key: jdsandbox.DefaultAppKey, Secret: jdsandbox.DefaultAppSecret, Tokens: []jdsandbox.Token{
				{Value: jdsandbox.DefaultToken}, {Value: "old", Expires: newHostClock().Now()},
				{Value: "narrow", Denied: []string{"jingdong.eclp.order.queryOrder"}, Departments: []string{"EBU2"}}}},
			{Key: "other", Secret: "s", Tokens: []jdsandbox.Token{{Value: "others"}}},
		}
	})
	at := func(d time.Duration) string { return s.clock.Now().Add(d).Format("2006-01-02 15:04:05") }
	for _, row := range []struct {
		name string
		set  map[string]string // "-" removes the parameter
		code string
	}{
		{"method missing", map[string]string{"method": "-", "app_key": "-"}, "14"},
		{"app_key missing", map[string]string{"app_key": "-", "timestamp": "-"}, "20"},
		{"app_key unknown", map[string]string{"app_key": "x", "timestamp": "-"}, "21"},
		{"timestamp missing", map[string]string{"timestamp": "-", "v": "-"}, "7"},
		{"timestamp is an epoch", map[string]string{"timestamp": "1623979800", "v": "-"}, "8"},
		{"timestamp is UTC", map[string]string{"timestamp": at(-8 * time.Hour)}, "8"},
		{"timestamp too old", map[string]string{"timestamp": at(-6*time.Minute - time.Second)}, "8"},
		{"timestamp too new", map[string]string{"timestamp": at(6*time.Minute + time.Second)}, "8"},
		{"version missing", map[string]string{"v": "-", "sign": "-"}, "4"},
		{"sign missing", map[string]string{"sign": "-", "access_token": "-"}, "11"},
		{"sign wrong", map[string]string{"sign": strings.Repeat("A", 32), "access_token": "-"}, "12"},
		{"sign in lower case", map[string]string{"sign": "lower", "access_token": "-"}, "12"},
		{"HMAC", map[string]string{"sign_method": "hmacmd5"}, "12"},
		{"token missing", map[string]string{"access_token": "-", "method": "jingdong.no.such"}, "18"},
		{"token unknown", map[string]string{"access_token": "x", "method": "jingdong.no.such"}, "19"},
		{"token of another app", map[string]string{"access_token": "others"}, "19"},
		{"token expired", map[string]string{"access_token": "old", "method": "jingdong.no.such"}, "19"},
		{"method unknown", map[string]string{"method": "jingdong.eclp.order.addorder", "360buy_param_json": "{"}, "15"},
		{"method without prefix", map[string]string{"method": "eclp.order.queryOrder"}, "15"},
		{"method not permitted", map[string]string{"access_token": "narrow", "360buy_param_json": "{"}, "24"},
		{"JSON broken", map[string]string{"360buy_param_json": `{"eclpSoNo":`}, "63"},
		{"JSON with a tail", map[string]string{"360buy_param_json": `{}{}`}, "63"},
		{"JSON not an object", map[string]string{"360buy_param_json": `["x"]`}, "62"},
		{"JSON nested", map[string]string{"360buy_param_json": `{"eclpSoNo":["x"]}`}, "62"},
		{"parameter missing", map[string]string{"360buy_param_json": `{"eclpSoNo":null}`}, "60"},
		{"no business parameters at all", map[string]string{"360buy_param_json": "-"}, "60"},
		{"version is not looked at, time within the window, extra is signed", map[string]string{"v": "3.0", "timestamp": at(-6 * time.Minute), "extra": "ß"}, "5001"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := s.system("eclp.order.queryOrder")
			p["360buy_param_json"] = `{"eclpSoNo":"ESL0"}`
			for name, value := range row.set {
				if p[name] = value; value == "-" {
					delete(p, name)
				}
			}
			switch {
			case p["sign"] == "lower":
				p["sign"] = strings.ToLower(sign(jdsandbox.DefaultAppSecret, p))
			case row.set["sign"] == "":
				p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
			}
			_, body, err := s.post(p)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.open("eclp.order.queryOrder", body)
			refusedWith(t, err, row.code)
		})
	}
	equal(t, "bad signatures", s.Violations().Counts[jdsandbox.BadSignature], 3)
}

func TestRequestIsBounded(t *testing.T) {
	s := start(t)
	for name, body := range map[string]string{
		"body":       "method=" + strings.Repeat("x", 1<<20),
		"parameters": strings.Repeat("a=1&", 10) + manyParams(300),
		"escape":     "method=%zz",
	} {
		res, err := http.Post(s.url, "application/x-www-form-urlencoded", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if _, err := s.open("", string(text)); err == nil || !strings.HasPrefix(err.Error(), "13 ") {
			t.Errorf("%s: got %v, want code 13", name, err)
		}
	}
	for path, want := range map[string]int{"/router": 404, "/": 404} {
		res, err := http.Get(strings.TrimSuffix(s.url, "/routerjson") + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		equal(t, path, res.StatusCode, want)
	}
	req, _ := http.NewRequest(http.MethodPut, s.url, nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	equal(t, "PUT", res.StatusCode, 405)
}

func manyParams(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "p%d=1&", i)
	}
	return b.String()
}

func TestClockSkewShowsInDate(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) { k.ClockSkew = jdsandbox.Duration(10 * time.Minute) }))
	p := s.system("eclp.order.queryOrder")
	p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
	res, body, err := s.post(p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.open("eclp.order.queryOrder", body)
	refusedWith(t, err, "8")

	at, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	p["timestamp"] = at.In(beijing).Format("2006-01-02 15:04:05")
	p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
	_, body, err = s.post(p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.open("eclp.order.queryOrder", body)
	refusedWith(t, err, "60") // accepted by the Date header
}

func TestTokensExpireAndAreReplaced(t *testing.T) {
	s := start(t)
	no := s.add(anOrder("A-1"))
	if s.ExpireToken("nobody's", time.Time{}) {
		t.Error("an unknown token expired")
	}
	s.ExpireToken(jdsandbox.DefaultToken, s.clock.Now().Add(time.Minute))
	s.query(no)
	s.clock.Move(time.Minute)
	_, err := s.call("eclp.order.queryOrder", object{"eclpSoNo": no})
	refusedWith(t, err, "19")
	if err := s.SetToken("", jdsandbox.Token{Value: jdsandbox.DefaultToken, Departments: []string{dept}}); err != nil {
		t.Fatal(err)
	}
	s.query(no)
	s.ExpireToken(jdsandbox.DefaultToken, time.Time{})
	_, err = s.call("eclp.order.queryOrder", object{"eclpSoNo": no})
	refusedWith(t, err, "19")
	if err := s.SetToken("x", jdsandbox.Token{Value: "t"}); err == nil {
		t.Error("a token of an unknown app was taken")
	}
}

// TestATokenActsForItsDepartmentsOnly: a token is valid for its departments only, and does not see others' documents.
func TestATokenActsForItsDepartmentsOnly(t *testing.T) {
	s := start(t)
	no := s.add(anOrder("A-1"))
	if err := s.SetToken("", jdsandbox.Token{Value: jdsandbox.DefaultToken, Departments: []string{"EBU2"}}); err != nil {
		t.Fatal(err)
	}
	_, err := s.call(addOrder, anOrder("A-2"))
	refusedWith(t, err, "71")
	_, err = s.call("eclp.order.queryOrder", object{"eclpSoNo": no})
	refusedWith(t, err, "5001")
	_, err = s.call("eclp.order.ext.queryOrder", object{"isvUUID": "A-1", "departmentNo": dept})
	refusedWith(t, err, "71")
	equal(t, "rows", len(s.find(object{"isvUUID": "A-1"})), 0)
	s.add(with(anOrder("A-1"), object{"departmentNo": "EBU2"})) // the same number in another department is another order
	equal(t, "violations", s.Violations().Total, 0)
	_, err = s.call("eclp.master.queryShop", object{"deptNo": dept})
	refusedWith(t, err, "71")
}

func TestRefusedCallsCountAgainstTheQuota(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) { k.Quota.PerSecond = 3 }))
	call := func() error {
		_, err := s.call("eclp.order.ext.queryOrder", object{}) // fails, and counts all the same
		return err
	}
	refusedWith(t, call(), "60")
	s.clock.Move(500 * time.Millisecond)
	refusedWith(t, call(), "60")
	refusedWith(t, call(), "60")
	refusedWith(t, call(), "2")
	s.clock.Move(500 * time.Millisecond) // the first is a second ago, but the refused one counts
	refusedWith(t, call(), "2")
	s.clock.Move(time.Second)
	refusedWith(t, call(), "60")
	v := s.Violations()
	equal(t, "quota violations", v.Counts[jdsandbox.QuotaExceeded], 2)
	equal(t, "app", v.Items[0].App, jdsandbox.DefaultAppKey)
	equal(t, "code 2", s.Counters().Codes["2"], 2)
	s.set(func(k *jdsandbox.Knobs) { k.Quota.PerSecond = 0 })
	for range 10 {
		refusedWith(t, call(), "60")
	}
}

func TestTooManyCallsAtATimeAreRefused(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) {
		k.Quota.Concurrent = 1
		k.Faults = []jdsandbox.Fault{{Kind: jdsandbox.Slow, Delay: jdsandbox.Duration(time.Minute), Orders: []string{"A-1"}, Count: 1}}
	}))
	slow := make(chan error, 1)
	go func() {
		_, err := s.call(addOrder, anOrder("A-1"))
		slow <- err
	}()
	eventually(t, func() bool { return len(s.Documents("A-1")) == 1 })
	_, err := s.call(addOrder, anOrder("A-2"))
	refusedWith(t, err, "2")
	equal(t, "violations", s.Violations().Counts[jdsandbox.ConcurrencyExceeded], 1)
	equal(t, "most in flight", s.Counters().MostInFlight, 2)
	s.Close() // the slow one continues at once
	if err := <-slow; err != nil {
		t.Error(err)
	}
	if _, err := s.call(addOrder, anOrder("A-2")); err != nil {
		t.Error("the place was not freed:", err)
	}
}

func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never came true")
		}
	}
}

func TestTheEnvelopeIsSpeltAsTheKnobSays(t *testing.T) {
	s := start(t)
	s.set(func(k *jdsandbox.Knobs) { k.Spelling, k.ExtraKeys = "response", true })
	p := s.system("eclp.master.queryShipper")
	p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
	_, body, err := s.post(p)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"jingdong_eclp_master_queryShipper_response":{"code":"0","queryshipper_result":[],"sandboxTrace":{"id":"1"}}}`; body != want {
		t.Errorf("got %s\nwant %s", body, want)
	}
	p["sign"] = "x"
	_, body, _ = s.post(p)
	if want := `{"error_response":{"code":"12","en_desc":"Invalid Signature","zh_desc":"无效签名"}}`; body != want {
		t.Errorf("got %s\nwant %s", body, want)
	}
}

// FuzzAddOrder sends any business parameters, correctly signed: what is accepted can be followed to its end.
func FuzzAddOrder(f *testing.F) {
	for _, change := range []object{nil, {"quantity": "1,99999999"}, {"goodsNo": ",", "isvGoodsNo": "a,"}, {"orderLine": "\xff,\x00"}, {"price": ".,."}} {
		raw, err := json.Marshal(with(anOrder("A-1"), change))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw))
	}
	f.Add(`{"isvUUID":1e9,"quantity":true}`)
	f.Fuzz(func(t *testing.T, business string) {
		s := still(t, func(c *jdsandbox.Config) {
			c.Knobs.Split.Chance, c.Knobs.Short.Chance, c.Knobs.Packages = 1, 1, 9
		})
		p := s.system(addOrder)
		p["360buy_param_json"] = business
		p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
		_, body, err := s.post(p)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.open(addOrder, body)
		if err != nil {
			return
		}
		s.advance(time.Hour)
		q := s.query(answer["eclpSoNo"].(string))
		equal[any](t, "end", q["currentStatus"], "10034")
	})
}

// FuzzRequest sends anything: the gateway answers 200 with one envelope, and nothing unsigned is accepted.
func FuzzRequest(f *testing.F) {
	jd, err := jdsandbox.New(jdsandbox.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("method=jingdong.eclp.order.addOrder&v=2.0&app_key=sandbox-app", "360buy_param_json=%7B%7D&sign=X", true)
	f.Add("a=%", "&&=&;=b&c", false)
	f.Add("", "\x00=\xff&method", true)
	f.Fuzz(func(t *testing.T, query, body string, post bool) {
		verb := http.MethodGet
		if post {
			verb = http.MethodPost
		}
		r := httptest.NewRequest(verb, "/routerjson", strings.NewReader(body))
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		jd.ServeHTTP(w, r)
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"error_response":{"code":"`) {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
	})
}

// TestACallerThatHangsUpShowsInTheLog: a test that kills a client needs to know which of its calls were under way.
func TestACallerThatHangsUpShowsInTheLog(t *testing.T) {
	s := start(t)
	arrived, gone := make(chan struct{}, 1), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		context.AfterFunc(r.Context(), func() { close(gone) })
		arrived <- struct{}{}
		s.JD.ServeHTTP(w, r)
	}))
	s.fault(jdsandbox.Fault{Kind: jdsandbox.Slow, Delay: jdsandbox.Duration(time.Minute), Count: 1})
	params := s.system("eclp.order.queryOrder")
	params["360buy_param_json"] = `{"eclpSoNo":"CSL1"}`
	params["sign"] = sign(jdsandbox.DefaultAppSecret, params)
	ctx, hangUp := context.WithCancel(t.Context())
	go func() {
		<-arrived
		hangUp()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/routerjson", strings.NewReader(form(params).Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultClient.Do(req); err == nil {
		res.Body.Close()
		t.Fatal("it was answered: the test proves nothing")
	}
	<-gone
	s.JD.Close() // so that the call need not last its minute
	srv.Close()
	if calls := s.Calls(); len(calls) != 1 || !calls[0].Gone {
		t.Errorf("%+v", calls)
	}
}
