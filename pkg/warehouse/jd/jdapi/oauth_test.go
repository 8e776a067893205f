package jdapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	code    = "c0de-for-tests"
	refresh = "refre+h/for tests"
)

// observed is an answer of the new platform (docs/jd-api.md, Authorisation).
const observed = `{"access_token":"0123456789abcdef0123456789abcdefzzzz","expires_in":86400,"refresh_token":"fedcba9876543210fedcba9876543210yyyy","scope":"snsapi_base","open_id":"OPENID","uid":"0201000000","time":1659322812128,"token_type":"bearer","code":0,"xid":"o*AAT-EXAMPLE"}`

// authority is an authorisation server with one behaviour.
func authority(t *testing.T, g Generation, respond http.HandlerFunc) *OAuth {
	server := httptest.NewServer(respond)
	t.Cleanup(server.Close)
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	return &OAuth{Generation: g, URL: server.URL, AppKey: "key", AppSecret: fixed(secret), Transport: transport}
}

func TestTheRequestsOfAuthorisation(t *testing.T) {
	for _, g := range []Generation{NewPlatform, OldPlatform} {
		var got strings.Builder
		o := authority(t, g, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(&got, "%s %s\n", r.Method, r.URL)
			for _, name := range []string{"Content-Type", "Content-Length", "Transfer-Encoding"} {
				if v := r.Header.Get(name); v != "" {
					fmt.Fprintf(&got, "%s: %s\n", name, v)
				}
			}
			fmt.Fprintf(&got, "\n%s\n\n", body)
			say(w, observed)
		})
		link, err := o.ConsentURL("https://erp.example/back?a=b", "st&te")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%s\n\n", strings.Replace(link, o.URL, "https://HOST", 1))
		if _, err := o.Exchange(t.Context(), code, "https://erp.example/back?a=b", "st&te"); err != nil {
			t.Error(err)
		}
		grant, err := o.Refresh(t.Context(), NewSecret(refresh))
		if err != nil {
			t.Error(err)
		}
		if grant.Access.Reveal() != "0123456789abcdef0123456789abcdefzzzz" || grant.Refresh.Reveal() != "fedcba9876543210fedcba9876543210yyyy" ||
			grant.Life != 24*time.Hour || grant.UID != "0201000000" {
			t.Errorf("read %+v", grant)
		}
		golden(t, "oauth."+string(g), got.String())
	}
	for g, want := range map[Generation]string{"": "https://open-oauth.jd.com/oauth2/to_login?", OldPlatform: "https://oauth.jd.com/oauth/authorize?"} {
		if link, err := (&OAuth{Generation: g}).ConsentURL("r", "s"); err != nil || !strings.HasPrefix(link, want) {
			t.Errorf("%q, %v", link, err)
		}
	}
}

func TestAnswersOfTheAuthorisationServer(t *testing.T) {
	const tokens = `"access_token":"a","refresh_token":"r"`
	for _, c := range []struct {
		name, body string
		status     int
		life       time.Duration
		// refused is JD's code and text; lost: not an answer of JD's.
		refused string
		lost    bool
	}{
		{name: "all as text", body: `{` + tokens + `,"code":"0","expires_in":"60","time":"1659322812128","uid":201}`, life: time.Minute},
		{name: "no code at all", body: `{` + tokens + `,"expires_in":60.0}`, life: time.Minute},
		{name: "no life given", body: `{` + tokens + `,"code":0}`},
		{name: "a life of nothing", body: `{` + tokens + `,"code":0,"expires_in":0}`},
		{name: "a life of less than nothing", body: `{` + tokens + `,"code":0,"expires_in":-1}`},
		{name: "a life without end", body: `{` + tokens + `,"code":0,"expires_in":9223372036854775807}`},
		{name: "a life that is no number", body: `{` + tokens + `,"code":0,"expires_in":{"days":1}}`},
		{name: "only an access token", body: `{"access_token":"a","code":0,"expires_in":60}`, life: time.Minute},
		{name: "refused", body: `{"code":401,"msg":"refresh_token已过期","requestId":"1"}`, refused: "code 401: refresh_token已过期"},
		{name: "refused in text", body: `{"code":"401","message":"no"}`, refused: "code 401: no"},
		{name: "refused with tokens", body: `{` + tokens + `,"code":7,"msg":"no"}`, refused: "code 7: no"},
		{name: "refused with a status", status: 400, body: `{"code":400,"msg":"bad"}`, refused: "code 400: bad"},
		{name: "tokens with a status", status: 500, body: `{` + tokens + `,"code":0}`, lost: true},
		{name: "no token", body: `{"code":0}`, lost: true},
		{name: "an empty token", body: `{"code":0,"access_token":"","refresh_token":"r"}`, lost: true},
		{name: "a token that is none", body: `{"code":0,"access_token":{"x":1}}`, lost: true},
		{name: "a page", body: `<html>`, lost: true},
		{name: "nothing", lost: true},
		{name: "a list", body: `[]`, lost: true},
		{name: "too much", body: `{"x":"` + strings.Repeat("x", maxGrant) + `"}`, lost: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := authority(t, NewPlatform, func(w http.ResponseWriter, _ *http.Request) {
				if c.status != 0 {
					w.WriteHeader(c.status)
				}
				say(w, c.body)
			})
			got, err := o.Refresh(t.Context(), NewSecret(refresh))
			var no *Error
			switch {
			case c.lost:
				if !errors.Is(err, ErrLost) {
					t.Error(err)
				}
			case c.refused != "":
				if !errors.As(err, &no) || no.Error() != c.refused || errors.Is(err, ErrLost) {
					t.Error(err)
				}
			case err != nil || got.Access.Reveal() != "a" || got.Life != c.life:
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// A refresh token that is sent twice may be refused the second time, and the answer to the first is gone.
func TestARefreshIsNeverSentTwice(t *testing.T) {
	for _, g := range []Generation{NewPlatform, OldPlatform} {
		var calls atomic.Int64
		o := authority(t, g, func(w http.ResponseWriter, _ *http.Request) {
			if calls.Add(1) == 1 {
				say(w, observed)
				return
			}
			conn, _, _ := w.(http.Hijacker).Hijack() // on the connection that was used before
			conn.Close()
		})
		if _, err := o.Refresh(t.Context(), NewSecret(refresh)); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Refresh(t.Context(), NewSecret(refresh)); !errors.Is(err, ErrLost) || calls.Load() != 2 {
			t.Errorf("%s: %v after %d requests", g, err, calls.Load()-1)
		}
	}
	o := &OAuth{URL: "http://127.0.0.1:1", AppKey: "key", AppSecret: fixed(secret)}
	if _, err := o.Refresh(t.Context(), NewSecret(refresh)); !errors.Is(err, ErrNotSent) {
		t.Error(err)
	}
}

func TestErrorsOfAuthorisationShowNothingSecret(t *testing.T) {
	var shown []string
	fail := func(o *OAuth) {
		t.Helper()
		for _, err := range []error{
			func() error { _, err := o.Refresh(t.Context(), NewSecret(refresh)); return err }(),
			func() error { _, err := o.Exchange(t.Context(), code, "https://r", "s"); return err }(),
		} {
			if err == nil {
				t.Error("no error")
			}
			shown = append(shown, fmt.Sprintf("%v %+v %#v", err, err, err))
		}
	}
	// A server quotes what it was sent, encoded and decoded.
	quote := func(r *http.Request) string {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		return fmt.Sprint(r.URL, " ", string(body), r.URL.Query(), form)
	}
	for _, g := range []Generation{NewPlatform, OldPlatform} {
		for _, respond := range []http.HandlerFunc{
			func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"code":1,"msg":%q}`, quote(r)) },
			func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, `{"code":%q}`, quote(r)) },
			func(w http.ResponseWriter, r *http.Request) { say(w, quote(r)) },
			func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) },
			func(w http.ResponseWriter, r *http.Request) {
				text := quote(r)
				conn, _, _ := w.(http.Hijacker).Hijack()
				_, _ = conn.Write([]byte(text + "\r\n\r\n")) // net/http quotes what is not HTTP
				conn.Close()
			},
		} {
			fail(authority(t, g, respond))
		}
		for _, address := range []string{"http://127.0.0.1:1", "http://u:" + secret + "@127.0.0.1:1", "http://" + secret + "%zz", "\x7f" + secret} {
			fail(&OAuth{Generation: g, URL: address, AppKey: "key", AppSecret: fixed(secret)})
		}
		fail(&OAuth{Generation: g, AppKey: "key", AppSecret: fixed(secret), Transport: broken{}})
	}
	for _, text := range shown {
		for _, planted := range []string{secret, refresh, code, url.QueryEscape(refresh), url.PathEscape(refresh)} {
			if strings.Contains(text, planted) {
				t.Errorf("shows %s: %s", planted, text)
			}
		}
	}
}

func FuzzReadGrant(f *testing.F) {
	f.Add([]byte(observed))
	f.Add([]byte(`{"code":"7","msg":["x"],"access_token":1e9}`))
	f.Add([]byte(`{"access_token":"a","expires_in":"1e3"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		g, err := readGrant(body)
		var no *Error
		switch {
		case err == nil:
			if g.Access.Empty() || g.Life < 0 || g.Life > maxLife {
				t.Errorf("read %+v of %q", g, body)
			}
		case errors.As(err, &no):
			if no.Code == "" || no.Code == "0" || no.Before {
				t.Errorf("%+v of %q", no, body)
			}
		case !errors.Is(err, ErrLost):
			t.Errorf("%v of %q", err, body)
		}
	})
}
