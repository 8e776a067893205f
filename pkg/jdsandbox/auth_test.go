package jdsandbox_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// authPlatform has the spellings of one of JD's two authorisation platforms.
type authPlatform struct {
	consent, token, refresh, app, secret string
}

var authPlatforms = map[string]authPlatform{
	"new": {"/oauth2/to_login", "/oauth2/access_token", "/oauth2/refresh_token", "app_key", "app_secret"},
	"old": {"/oauth/authorize", "/oauth/token", "/oauth/token", "client_id", "client_secret"},
}

func (s *sandbox) authURL(path string, q url.Values) string {
	return strings.TrimSuffix(s.url, "/routerjson") + path + "?" + q.Encode()
}

const callback = "http://127.0.0.1:1/back?x=1"

// consent opens the consent page, presses a button if there is one, and returns where it redirects to.
func (s *sandbox) consent(p authPlatform, decision string) url.Values {
	s.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	at := s.authURL(p.consent, url.Values{p.app: {jdsandbox.DefaultAppKey}, "response_type": {"code"}, "redirect_uri": {callback}, "state": {"a&b"}})
	res, err := client.Get(at)
	if err == nil && res.StatusCode == http.StatusOK {
		page, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(page), "同意授权") || !strings.Contains(string(page), "Agree") {
			s.t.Errorf("the page is %s", page)
		}
		res, err = client.PostForm(at, url.Values{"decision": {decision}})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	back, err := res.Location()
	if err != nil {
		s.t.Fatal(err)
	}
	if back.Query().Get("x") != "1" || back.Query().Get("state") != "a&b" {
		s.t.Errorf("leads back to %s", back)
	}
	return back.Query()
}

// tokens makes a token call; nil if it was refused.
func (s *sandbox) tokens(path string, q url.Values) object {
	s.t.Helper()
	res, err := http.Get(s.authURL(path, q))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer object
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		s.t.Fatal(err)
	}
	if answer["code"] != 0.0 {
		if answer["code"] != 401.0 || answer["msg"] == "" {
			s.t.Errorf("refused with %v", answer)
		}
		return nil
	}
	return answer
}

func (p authPlatform) asks(pairs ...string) url.Values {
	q := url.Values{p.app: {jdsandbox.DefaultAppKey}, p.secret: {jdsandbox.DefaultAppSecret}, "redirect_uri": {callback}}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return q
}

// works reports whether the gateway accepts the token.
func (s *sandbox) works(token any) bool {
	p := s.system("eclp.order.ext.queryOrder")
	p["access_token"] = token.(string)
	p["360buy_param_json"] = `{"isvUUID":"A-1","departmentNo":"EBU0000000000001"}`
	p["sign"] = sign(jdsandbox.DefaultAppSecret, p)
	_, body, err := s.post(p)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.open("eclp.order.ext.queryOrder", body)
	return err == nil
}

// Both platforms accept token calls by POST, with the parameters in the query or as a form, because programs send them
// so.
func TestTokenCallsMayBePosted(t *testing.T) {
	for name, p := range authPlatforms {
		s := start(t)
		for how, post := range map[string]func(q url.Values) (*http.Response, error){
			"query": func(q url.Values) (*http.Response, error) {
				return http.Post(s.authURL(p.token, q), "application/json", nil)
			},
			"form": func(q url.Values) (*http.Response, error) { return http.PostForm(s.authURL(p.token, nil), q) },
		} {
			res, err := post(p.asks("grant_type", "authorization_code", "code", s.consent(p, "grant").Get("code")))
			if err != nil {
				t.Fatal(err)
			}
			var answer object
			err = json.NewDecoder(res.Body).Decode(&answer)
			res.Body.Close()
			if err != nil || answer["access_token"] == nil || !s.works(answer["access_token"]) {
				t.Errorf("%s, %s: %v %v (%v)", name, how, res.Status, answer, err)
			}
		}
	}
}

func TestAConsentLeadsToTokensThatCanBeRefreshed(t *testing.T) {
	for name, p := range authPlatforms {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			q := p.asks("grant_type", "authorization_code", "code", s.consent(p, "grant").Get("code"))
			first := s.tokens(p.token, q)
			if first == nil || !s.works(first["access_token"]) || first["expires_in"] != 86400.0 {
				t.Fatalf("got %v", first)
			}
			if s.tokens(p.token, q) != nil {
				t.Error("a code worked twice")
			}

			again := p.asks("grant_type", "refresh_token", "refresh_token", first["refresh_token"].(string))
			s.clock.Move(23 * time.Hour)
			second := s.tokens(p.refresh, again)
			if second == nil || (second["access_token"] == first["access_token"]) != (name == "old") {
				t.Fatalf("got %v after %v", second, first)
			}
			equal(t, "the first token works", s.works(first["access_token"]), name == "old")
			s.clock.Move(2 * time.Hour)
			equal(t, "the second works after the first one's end", s.works(second["access_token"]), true)
			if s.tokens(p.refresh, again) != nil {
				t.Error("a refresh token worked twice")
			}
			s.clock.Move(22 * time.Hour)
			equal(t, "the second works after its end", s.works(second["access_token"]), false)

			third := s.tokens(p.refresh, p.asks("grant_type", "refresh_token", "refresh_token", second["refresh_token"].(string)))
			equal(t, "issued", len(s.Issued()), 1)
			if !s.Revoke(third["access_token"].(string)) || s.works(third["access_token"]) ||
				s.tokens(p.refresh, p.asks("grant_type", "refresh_token", "refresh_token", third["refresh_token"].(string))) != nil {
				t.Error("a revoked token lives")
			}
			n := s.Counters()
			equal(t, "counted", say(n.Exchanges, n.Refreshes, n.RefreshesRefused), "1 2 2")
		})
	}
}

func TestWhatTheAuthorisationServerRefuses(t *testing.T) {
	s := start(t)
	newer, older := authPlatforms["new"], authPlatforms["old"]
	equal(t, "refused by the merchant", s.consent(newer, "refuse").Get("code"), "")
	code := func() string { return s.consent(newer, "grant").Get("code") }
	late := code()
	s.clock.Move(11 * time.Minute)
	for name, q := range map[string]url.Values{
		"an old code":          newer.asks("grant_type", "authorization_code", "code", late),
		"no code":              newer.asks("grant_type", "authorization_code"),
		"a wrong secret":       newer.asks("grant_type", "authorization_code", "code", code(), "app_secret", "x"),
		"another grant":        newer.asks("grant_type", "password", "code", code()),
		"an unknown refresher": newer.asks("grant_type", "refresh_token", "refresh_token", "x"),
	} {
		if s.tokens(newer.token, q) != nil {
			t.Errorf("%s was taken", name)
		}
	}
	if s.tokens(older.token, older.asks("grant_type", "authorization_code", "code", code())) != nil {
		t.Error("the old platform took a code of the new one")
	}
	if s.tokens(older.token, older.asks("grant_type", "authorization_code", "code", s.consent(older, "grant").Get("code"), "redirect_uri", "http://x/")) != nil {
		t.Error("another redirect_uri was taken")
	}
	for _, q := range []url.Values{{}, {"app_key": {"x"}}, {"app_key": {jdsandbox.DefaultAppKey}, "response_type": {"code"}, "redirect_uri": {"nowhere"}}} {
		res, err := http.Get(s.authURL(newer.consent, q))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		equal(t, "status", res.StatusCode, http.StatusBadRequest)
	}
}

func TestKnobsOfTheAuthorisationServer(t *testing.T) {
	s := start(t, knobs(func(k *jdsandbox.Knobs) {
		k.Numbers = "text"
		k.Auth = jdsandbox.Auth{Consent: jdsandbox.ConsentGrant, Access: "same", Reuse: true, NoLife: true, Departments: []string{"EBU2"}}
	}))
	p := authPlatforms["new"]
	// net/http would repeat a GET whose answer was lost on a connection that was used before.
	once := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(path string, q url.Values) object {
		res, err := once.Get(s.authURL(path, q))
		if err != nil {
			return nil
		}
		defer res.Body.Close()
		var answer object
		_ = json.NewDecoder(res.Body).Decode(&answer)
		return answer
	}
	first := ask(p.token, p.asks("grant_type", "authorization_code", "code", s.consent(p, "").Get("code")))
	if first["code"] != "0" || first["expires_in"] != nil || s.works(first["access_token"]) {
		t.Errorf("got %v", first)
	}
	again := p.asks("grant_type", "refresh_token", "refresh_token", first["refresh_token"].(string))
	s.fault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{jdsandbox.RefreshCall}, Count: 1})
	if ask(p.refresh, again) != nil {
		t.Error("the answer was not lost")
	}
	if second := ask(p.refresh, again); second["access_token"] != first["access_token"] {
		t.Errorf("got %v", second)
	}
	equal(t, "refreshes", s.Counters().Refreshes, 2)
	calls := s.Calls()
	equal(t, "the log", say(calls[2].Method, calls[2].Done, calls[2].Answer), "oauth.refresh true lose_answer")
}
