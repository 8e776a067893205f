package jdapi

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The two examples of docs/jd-api.md, Signature.
func TestTheWorkedExamplesAreSignedAlike(t *testing.T) {
	system := func(method, param string) map[string]string {
		return map[string]string{
			"method": method, paramName: param, "v": "2.0",
			"app_key":      "DOCAPPKEY00000000000000000000001",
			"access_token": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
			"timestamp":    "2021-06-18 09:30:00",
		}
	}
	withFormat := system("jingdong.eclp.order.cancelOrder", `{"eclpSoNo":"ESL4400000000001"}`)
	withFormat["format"] = "json"
	for _, c := range []struct {
		name       string
		parameters map[string]string
		want       string
	}{
		{"with a format", withFormat, "30D62844FF9A6B4CD67A21D4D8420A2C"},
		{"raw UTF-8, no format", system("jingdong.eclp.master.queryShop", `{"deptNo":"EBU0000000000001","isvShopNos":"门店A"}`), "FD34FD3E9D2D9EFED27F774587BE2C1A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Sign("s3cr3t-for-docs-000000000000000000", c.parameters); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			c.parameters["other"], c.parameters[""] = "", "x"
			if got := Sign("s3cr3t-for-docs-000000000000000000", c.parameters); got != c.want {
				t.Errorf("a pair without name or value changed it to %s", got)
			}
		})
	}
}

// What JD reads from the wire must have the signature of what JD reads from the wire.
func FuzzSign(f *testing.F) {
	f.Add("secret", "token", "key", "门店A&b=c +%2B\n\"\\ \u2028")
	f.Add("s", "t%20=", "k+", "")
	f.Fuzz(func(t *testing.T, secret, token, key, text string) {
		if token == "" || key == "" {
			return
		}
		c := &Client{AppKey: key, Now: func() time.Time { return time.Date(2021, 6, 18, 1, 30, 0, 0, time.UTC) }}
		param, err := ParamJSON(map[string]string{"isvUUID": text})
		if err != nil {
			t.Fatal(err)
		}
		request, err := c.request(t.Context(), MethodAddOrder, param, NewSecret(secret), NewSecret(token))
		if err != nil {
			t.Fatal(err)
		}
		if err := request.ParseForm(); err != nil {
			t.Fatal(err)
		}
		got := checkSigned(t, request, secret)
		if got.Get("access_token") != token || got.Get("app_key") != key || got.Get(paramName) != param {
			t.Errorf("sent %q", got)
		}
	})
}

// checkSigned does what JD does: merge query and body, sign all but sign, compare.
func checkSigned(t *testing.T, r *http.Request, secret string) url.Values {
	t.Helper()
	if err := r.ParseForm(); err != nil {
		t.Error(err)
	}
	received := map[string]string{}
	for name := range r.Form {
		if len(r.Form[name]) != 1 || r.Form.Get(name) == "" {
			t.Errorf("parameter %s: %q", name, r.Form[name])
		}
		if name != "sign" {
			received[name] = r.Form.Get(name)
		}
	}
	if sign := r.Form.Get("sign"); sign != Sign(secret, received) || len(sign) != 32 || strings.ToUpper(sign) != sign {
		t.Errorf("signature %q of %q", sign, received)
	}
	return r.Form
}
