package jdsandbox

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Names of the token calls in faults and in the log of calls. They are not methods of the gateway.
const (
	ExchangeCall = "oauth.exchange"
	RefreshCall  = "oauth.refresh"
)

// Auth is the behaviour of the authorisation server (docs/jd-api.md, Authorisation). Unknown about JD: the codes of its
// refusals, the life of codes and refresh tokens, and what happens to replaced ones.
type Auth struct {
	// Consent is the merchant's answer: ConsentAsk (default) shows a page with two buttons.
	Consent Consent `json:"consent"`
	// UID is the merchant's number, default "0201000000"; Departments are those that the tokens are valid for, empty means
	// all.
	UID         string   `json:"uid"`
	Departments []string `json:"departments"`
	// Life of new access tokens, default 24 h, that of an application in its online test.
	Life Duration `json:"life"`
	// CodeLife is how long the code of a consent can be exchanged, default 10 minutes.
	CodeLife Duration `json:"code_life"`
	// Access is what a refresh does to the access token: "same" keeps its text and extends its life, "new" replaces it.
	// Default "" depends on the platform: same on the old one, new on the new one.
	Access string `json:"access"`
	// Lingers keeps a replaced access token valid until its end; otherwise it ends when it is replaced.
	Lingers bool `json:"lingers"`
	// Reuse lets a refresh token be used again; otherwise it works once.
	Reuse bool `json:"reuse"`
	// NoLife leaves expires_in out of the answers.
	NoLife bool `json:"no_life"`
	// Refusal is the code and the text of all refusals.
	Refusal Refusal `json:"refusal"`
}

// Consent is the merchant's answer.
type Consent string

// The merchant is asked by a page, always consents, or always refuses.
const (
	ConsentAsk    Consent = "ask"
	ConsentGrant  Consent = "grant"
	ConsentRefuse Consent = "refuse"
)

func (a *Auth) setDefaults() {
	orElse(&a.Consent, ConsentAsk)
	orElse(&a.UID, "0201000000")
	orElse(&a.Life, Duration(24*time.Hour))
	orElse(&a.CodeLife, Duration(10*time.Minute))
	orElse(&a.Refusal.Code, "401")
	orElse(&a.Refusal.ZH, "授权无效或已过期")
}

func (a *Auth) check(f *faults) {
	f.oneOf("auth.consent", string(a.Consent), string(ConsentAsk), string(ConsentGrant), string(ConsentRefuse))
	f.oneOf("auth.access", a.Access, "", "same", "new")
	f.when(a.Life < 0, "auth.life", "must not be negative")
	f.when(a.CodeLife < 0, "auth.code_life", "must not be negative")
	f.when(a.Refusal.Code == "0", "auth.refusal.code", "must not be 0, which is success")
}

// platform is one of JD's two authorisation platforms.
type platform string

const (
	newPlatform platform = "new"
	oldPlatform platform = "old"
)

// names of the parameters for the application's key and secret.
func (p platform) names() (app, secret string) {
	if p == oldPlatform {
		return "client_id", "client_secret"
	}
	return "app_key", "app_secret"
}

// authorisation is one merchant's consent and its tokens.
type authorisation struct {
	app      *app
	platform platform
	redirect string
	until    time.Time // of the code
	access   string
	refresh  string // the newest
}

// authServer is the state of the authorisation server.
type authServer struct {
	codes     map[string]*authorisation
	refreshes map[string]*authorisation
	issued    int
}

func newAuthServer() authServer {
	return authServer{codes: map[string]*authorisation{}, refreshes: map[string]*authorisation{}}
}

// authPath returns the handler of a page or call of either platform.
func (jd *JD) authPath(path string) (http.HandlerFunc, bool) {
	switch {
	case strings.HasSuffix(path, "/oauth2/to_login"):
		return func(w http.ResponseWriter, r *http.Request) { jd.consent(w, r, newPlatform) }, true
	case strings.HasSuffix(path, "/oauth/authorize"):
		return func(w http.ResponseWriter, r *http.Request) { jd.consent(w, r, oldPlatform) }, true
	case strings.HasSuffix(path, "/oauth2/access_token"):
		return func(w http.ResponseWriter, r *http.Request) { jd.tokenCall(w, r, newPlatform, "authorization_code") }, true
	case strings.HasSuffix(path, "/oauth2/refresh_token"):
		return func(w http.ResponseWriter, r *http.Request) { jd.tokenCall(w, r, newPlatform, "refresh_token") }, true
	case strings.HasSuffix(path, "/oauth/token"):
		return func(w http.ResponseWriter, r *http.Request) { jd.tokenCall(w, r, oldPlatform, "") }, true
	}
	return nil, false
}

const consentPage = `<!doctype html>
<html lang="zh"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>授权 · Consent (sandbox)</title>
<body style="font-family:sans-serif;max-width:36em;margin:2em auto;padding:0 1em">
<h1>授权 · Consent</h1>
<p>应用 <b>{{.App}}</b> 请求访问您的店铺数据。这是沙箱，不是京东。</p>
<p>The application <b>{{.App}}</b> asks for access to your shop. This is a sandbox, not JD.</p>
<p>完成后返回 · Then back to: <code>{{.Redirect}}</code></p>
<form method="post"><button name="decision" value="grant">同意授权 · Agree</button>
<button name="decision" value="refuse">拒绝 · Refuse</button></form>
</body></html>
`

// consent plays the page on which a merchant consents.
func (jd *JD) consent(w http.ResponseWriter, r *http.Request, p platform) {
	q := r.URL.Query()
	appName, _ := p.names()
	redirect, err := url.Parse(q.Get("redirect_uri"))
	jd.mu.Lock()
	a, k := jd.apps[q.Get(appName)], jd.knobs.Auth
	jd.mu.Unlock()
	switch {
	case a == nil:
		err = fmt.Errorf("%s: unknown application", appName)
	case q.Get("response_type") != "code":
		err = errors.New("response_type: want code")
	case err != nil || redirect.Host == "":
		err = errors.New("redirect_uri: want an address")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	decision := k.Consent
	if decision == ConsentAsk {
		decision = Consent(r.PostFormValue("decision"))
	}
	back := redirect.Query()
	if state := q.Get("state"); state != "" {
		back.Set("state", state)
	}
	switch decision {
	case ConsentGrant:
		back.Set("code", jd.issueCode(a, p, q.Get("redirect_uri")))
	case ConsentRefuse:
		back.Set("error", "access_denied") // JD's way to say so is unknown
	default:
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		_ = template.Must(template.New("consent").Parse(consentPage)).Execute(w, struct{ App, Redirect string }{a.key, q.Get("redirect_uri")})
		return
	}
	redirect.RawQuery = back.Encode()
	http.Redirect(w, r, redirect.String(), http.StatusFound)
}

func (jd *JD) issueCode(a *app, p platform, redirect string) string {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	code := jd.secretText("code")
	jd.auth.codes[code] = &authorisation{app: a, platform: p, redirect: redirect, until: jd.gatewayTime().Add(time.Duration(jd.knobs.Auth.CodeLife))}
	return code
}

// secretText is a text that nobody guesses. The caller holds jd.mu.
func (jd *JD) secretText(what string) string {
	jd.auth.issued++
	rnd := jd.random("auth", what, strconv.Itoa(jd.auth.issued))
	return fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64())
}

// gatewayTime is the gateway's clock. The caller holds jd.mu.
func (jd *JD) gatewayTime() time.Time { return jd.now().Add(time.Duration(jd.knobs.ClockSkew)) }

// tokenCall answers an exchange or a refresh.
func (jd *JD) tokenCall(w http.ResponseWriter, r *http.Request, p platform, grantType string) {
	c := &call{arrived: jd.now(), method: ExchangeCall, gone: func() bool { return r.Context().Err() != nil }}
	params, _ := readRequest(w, r)
	if params["grant_type"] == "refresh_token" {
		c.method = RefreshCall
	}
	fate := mishap{work: true}
	jd.mu.Lock()
	appName, secretName := p.names()
	a := jd.apps[params[appName]]
	known := a != nil && params[secretName] == a.secret
	if known {
		fate = jd.mishapOf(c)
	}
	latency := jd.knobs.Latency.draw(jd.rnd)
	jd.mu.Unlock()

	jd.pause(latency + fate.before)
	var result object
	if known && fate.work {
		switch {
		case grantType != "" && params["grant_type"] != grantType:
		case c.method == RefreshCall:
			result = jd.refresh(c, a, p, params["refresh_token"])
		case params["grant_type"] == "authorization_code":
			result = jd.exchange(c, a, p, params)
		}
	}
	jd.pause(fate.after)
	jd.mu.Lock()
	k := jd.knobs.clone()
	jd.mu.Unlock()
	var no *Refusal
	switch {
	case fate.kind == Error:
		no = fate.refusal
	case result == nil && fate.kind == "":
		no = &k.Auth.Refusal
	}
	jd.finish(c, fate, no, "")
	if no != nil {
		result = object{"code": codeNumber(string(no.Code)), "msg": no.ZH, "requestId": "sandbox"}
	}
	if k.Numbers == "text" {
		for name, v := range result {
			if n, isNumber := v.(int64); isNumber {
				result[name] = strconv.FormatInt(n, 10)
			}
		}
	}
	jd.send(w, fate, encode(result))
}

// codeNumber writes a code as JD does: as a number if it is one.
func codeNumber(code string) any {
	if n, err := strconv.ParseInt(code, 10, 64); err == nil {
		return n
	}
	return code
}

func (jd *JD) exchange(c *call, a *app, p platform, params map[string]string) object {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	z := jd.auth.codes[params["code"]]
	if z == nil || z.app != a || z.platform != p || !jd.gatewayTime().Before(z.until) || p == oldPlatform && params["redirect_uri"] != z.redirect {
		return nil
	}
	delete(jd.auth.codes, params["code"])
	c.done = true
	jd.count.Exchanges++
	return jd.grant(z, true)
}

func (jd *JD) refresh(c *call, a *app, p platform, token string) object {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	z := jd.auth.refreshes[token]
	if z == nil || z.app != a || z.platform != p || token != z.refresh && !jd.knobs.Auth.Reuse {
		jd.count.RefreshesRefused++
		return nil
	}
	c.done = true
	jd.count.Refreshes++
	how := jd.knobs.Auth.Access
	return jd.grant(z, how == "new" || how == "" && p == newPlatform)
}

// grant issues tokens, the access token with a new text or the same. The caller holds jd.mu.
func (jd *JD) grant(z *authorisation, fresh bool) object {
	k := jd.knobs.Auth
	now := jd.gatewayTime()
	if fresh {
		if old, live := jd.tokens[z.access]; live && !k.Lingers {
			old.Expires = now
			jd.tokens[z.access] = old
		}
		z.access = jd.tokenText(z.platform, "access")
	}
	z.refresh = jd.tokenText(z.platform, "refresh")
	jd.auth.refreshes[z.refresh] = z
	jd.tokens[z.access] = grant{app: z.app, Token: Token{Value: z.access, Expires: now.Add(time.Duration(k.Life)), Departments: k.Departments}}
	answer := object{
		"access_token": z.access, "refresh_token": z.refresh, "uid": k.UID, "code": int64(0), "token_type": "bearer", "time": now.UnixMilli(),
	}
	if z.platform == oldPlatform {
		answer["scope"], answer["user_nick"], answer["time"] = "read", "示例商家", strconv.FormatInt(now.UnixMilli(), 10)
	} else {
		answer["scope"], answer["open_id"], answer["xid"] = "snsapi_base", "sandbox-open-id", "o*sandbox"
	}
	if !k.NoLife {
		answer["expires_in"] = int64(time.Duration(k.Life) / time.Second)
	}
	return answer
}

// tokenText has the format of JD's tokens: like a UUID on the old platform, 32 hex digits and four letters on the new
// one.
func (jd *JD) tokenText(p platform, what string) string {
	text := jd.secretText(what)
	if p == oldPlatform {
		return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
	}
	return text + strings.Map(func(r rune) rune { return 'a' + r%26 }, text[:4])
}

// Revoke ends a token of a consent and its refresh token, as when the merchant changes the main account's password. It
// returns false if there is no such token.
func (jd *JD) Revoke(access string) bool {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	found := false
	for text, z := range jd.auth.refreshes {
		if z.access == access {
			delete(jd.auth.refreshes, text)
			found = true
		}
	}
	if found {
		g := jd.tokens[access]
		g.Expires = jd.gatewayTime()
		jd.tokens[access] = g
	}
	return found
}

// Issued returns the valid access tokens of all consents, the newest of each.
func (jd *JD) Issued() []string {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	var live []string
	for text, z := range jd.auth.refreshes {
		if g := jd.tokens[z.access]; text == z.refresh && jd.gatewayTime().Before(g.Expires) {
			live = append(live, z.access)
		}
	}
	return live
}
