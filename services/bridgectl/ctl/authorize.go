package ctl

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/wiring"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// consentFor is how long a merchant may take.
	consentFor = 15 * time.Minute
	// exchangeFor bounds the exchange of a code for a token.
	exchangeFor = 15 * time.Second
	// maxPasted bounds an address that is read from standard input, in bytes.
	maxPasted = 16 << 10
)

type sellerAuthorizeCmd struct {
	Name        string `arg:"" help:"Seller."`
	Account     string `placeholder:"NAME" help:"Account; not needed when only one has token_owner ours."`
	RedirectURI string `name:"redirect-uri" placeholder:"URL" help:"Where the merchant is sent back to, as registered with the application (default: the set-up's authorization.redirect_uri)."`
	Listen      string `placeholder:"HOST:PORT" help:"Wait there, on this machine only, for the merchant to return; the redirect URI is http://HOST:PORT/ unless one is given."`
	Code        string `placeholder:"CODE" help:"The code of a consent that was given already. Whose it is cannot be checked."`
	AnotherUser bool   `name:"another-user" help:"Take the consent although another user of the warehouse gave the previous one."`
	because
}

func (sellerAuthorizeCmd) Help() string {
	return `Prints a link on which the merchant consents, takes the code that comes back, and stores the tokens sealed with TOKEN_KEY
(TOKEN_KEY_FILE; without either, and with no broker named, the key that "up" keeps in ./data). The workers use them at once and
refresh them in time; what waited for them continues automatically.

Without --listen and --code: open the link, consent, and paste the whole address that the browser ends at, even if nothing is
shown there.

A new consent replaces the previous one. To revoke it, the merchant withdraws it at the warehouse.`
}

// consented is a code and the state that came with it.
type consented struct{ code, state string }

func (c sellerAuthorizeCmd) Run(ctx context.Context, a *app) error {
	if c.Code != "" && c.Listen != "" {
		return misused("--code and --listen: give one")
	}
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	account, err := c.account(s)
	if err != nil {
		return err
	}
	id := token.ID{Seller: s.Name(), Account: account.Name}
	keys, err := a.tokenKeys()
	if err != nil {
		return err
	}
	if keys.None() {
		return hint(fault.Reason{
			Code: "token.key", ZH: "未设置 TOKEN_KEY（或 TOKEN_KEY_FILE），无法保管令牌", EN: "TOKEN_KEY (or TOKEN_KEY_FILE) is not set: tokens cannot be kept",
		}, "`openssl rand -base64 32 > token-key` makes one; all workers and bridgectl need the same")
	}
	tokens, err := a.tokens(ctx, keys)
	if err != nil {
		return err
	}
	defer tokens.Close()
	ws := wiring.NewWarehouses(nil)
	defer ws.Close()
	if ws.Trust, err = a.trust(); err != nil {
		return err
	}
	authority, err := ws.Authority(account)
	if err != nil {
		return err
	}
	redirect := c.RedirectURI
	if redirect == "" && c.Listen == "" {
		redirect = account.GetAuthorization().GetRedirectUri()
	}
	given, redirect, err := c.consent(ctx, a, authority, redirect)
	if err != nil {
		return err
	}
	at := a.now()
	asking, cancel := context.WithTimeout(ctx, exchangeFor)
	grant, err := authority.Exchange(asking, given.code, redirect, given.state)
	cancel()
	if err != nil {
		return hint(fmt.Errorf("authorise %s: %w", id, err), "run the same again for a new link: a code works once")
	}
	before, known := tokens.State(id)
	if known && before.Owner != "" && grant.Owner != "" && before.Owner != grant.Owner && !c.AnotherUser {
		return hint(fault.Reason{
			Code: "token.user",
			ZH:   fmt.Sprintf("授权的用户是 %s，而此前是 %s：%s 的订单会进入另一个商家；未保存", grant.Owner, before.Owner, id),
			EN:   fmt.Sprintf("user %s consented, and before it was %s: orders of %s would go to another merchant; nothing is stored", grant.Owner, before.Owner, id),
		}, "log out at the warehouse and in again as the right user; --another-user if this is intended")
	}
	return a.do(ctx, deed{"seller authorize", id.Seller, "account " + id.Account, c.Why}, func() (int, error) {
		if err := tokens.Put(ctx, id, account.AppKey, grant, at); err != nil {
			return 0, err
		}
		return 1, c.done(ctx, a, registry, id, tokens)
	})
}

// account finds the account that is to be authorised.
func (c sellerAuthorizeCmd) account(s *seller.Seller) (*sellerv1.Account, error) {
	var ours []string
	for _, a := range s.Setup.Accounts {
		if token.Ours(a) {
			ours = append(ours, a.Name)
		}
	}
	name := c.Account
	if name == "" && len(ours) == 1 {
		name = ours[0]
	}
	account, known := s.Account(name)
	switch {
	case name == "" && len(ours) > 1:
		return nil, misused("--account: say which of %s", strings.Join(ours, ", "))
	case name != "" && !known:
		return nil, misused("--account: seller %s has no account %s", s.Name(), name)
	case name == "" || !token.Ours(account):
		return nil, hint(fault.Reason{
			Code: "token.external", ZH: "此账号的令牌由 ERP 维护（token_owner 不是 ours），无需在此授权",
			EN: "the ERP keeps this account's token (token_owner is not ours): there is nothing to authorise here",
		}, "token_owner: ours in the set-up makes it ours to refresh")
	}
	return account, nil
}

// consent waits for the merchant's consent and returns the code, and the redirect address that was used.
func (c sellerAuthorizeCmd) consent(ctx context.Context, a *app, authority token.Authority, redirect string) (consented, string, error) {
	if c.Code != "" {
		return consented{code: c.Code}, redirect, nil
	}
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	state := hex.EncodeToString(raw)
	var wait func(context.Context) (url.Values, error)
	if c.Listen != "" {
		at, back, stop, err := listen(c.Listen, state, a)
		if err != nil {
			return consented{}, "", err
		}
		defer stop()
		if redirect == "" {
			redirect = "http://" + at + "/"
		}
		wait = back
	} else {
		wait = func(ctx context.Context) (url.Values, error) { return pasted(ctx, a.In) }
	}
	if redirect == "" {
		return consented{}, "", misused("--redirect-uri: say where the merchant is sent back to, or set authorization.redirect_uri in the set-up, or --listen")
	}
	link, err := authority.ConsentURL(redirect, state)
	if err != nil {
		return consented{}, "", err
	}
	if a.lang == "zh" {
		fmt.Fprintf(a.Err, "请以商家主账号登录并打开此链接，同意授权（%d 分钟内）：\n\n%s\n\n", consentFor/time.Minute, link)
	} else {
		fmt.Fprintf(a.Err, "Open this link as the merchant's main account, and consent (within %d minutes):\n\n%s\n\n", consentFor/time.Minute, link)
	}
	if c.Listen == "" {
		a.note("%s", map[string]string{"zh": "然后把浏览器最后停留的完整地址粘贴到这里，按回车：", "en": "Then paste the whole address that the browser ends at here, and press enter:"}[a.lang])
	}
	ctx, cancel := context.WithTimeout(ctx, consentFor)
	defer cancel()
	back, err := wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return consented{}, "", hint(errors.New("nobody consented in time"), "run the same again for a new link")
	}
	if err != nil {
		return consented{}, "", err
	}
	code, err := codeOf(back, state)
	return consented{code, state}, redirect, err
}

// codeOf returns the code of a redirect, if it belongs to the link with this state.
func codeOf(back url.Values, state string) (string, error) {
	switch no := back.Get("error"); {
	case !sameState(back, state):
		return "", hint(fault.Reason{
			Code: "token.state", ZH: "地址中的 state 与本次链接不符：它属于另一次授权，未使用",
			EN: "the state in the address is not that of this link: it belongs to another consent, and was not used",
		}, "open the link that was printed last, and paste the address it ends at")
	case no != "" || back.Get("code") == "":
		if len(no) > 100 {
			no = no[:100]
		}
		return "", hint(fault.Reason{
			Code: "token.declined", ZH: "商家没有同意授权，没有返回授权码", EN: "the merchant did not consent: no code came back", RemoteText: no,
		}, "run the same again for a new link")
	}
	return back.Get("code"), nil
}

func sameState(back url.Values, state string) bool {
	return subtle.ConstantTimeCompare([]byte(back.Get("state")), []byte(state)) == 1
}

// pasted reads an address from standard input.
func pasted(ctx context.Context, in io.Reader) (url.Values, error) {
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() { // ends with the process when nothing is typed
		text, err := bufio.NewReader(io.LimitReader(in, maxPasted)).ReadString('\n')
		read <- line{strings.TrimSpace(text), err}
	}()
	var got line
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got = <-read:
	}
	if got.text == "" {
		return nil, misused("standard input: no address was pasted")
	}
	u, err := url.Parse(got.text)
	if err != nil || u.RawQuery == "" { // the text is not repeated: it holds the code
		return nil, hint(misused("standard input: want the whole address, with everything after the question mark"), "--code CODE takes a code alone")
	}
	return u.Query(), nil
}

// listen waits on this machine for the merchant's browser to return with the state.
func listen(addr, state string, a *app) (at string, wait func(context.Context) (url.Values, error), stop func(), err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, nil, misused("--listen: want HOST:PORT, such as 127.0.0.1:8765")
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return "", nil, nil, misused("--listen: only an address of this machine itself, such as 127.0.0.1:8765: anybody who can reach it could send a code of their own")
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return "", nil, nil, fmt.Errorf("--listen: %w", err)
	}
	came := make(chan url.Values, 1)
	page := func(w http.ResponseWriter, status int, zh, en string) {
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.Header().Set("Referrer-Policy", "no-referrer") // the address holds the code
		w.WriteHeader(status)
		fmt.Fprintf(w, "<!doctype html><meta charset=\"utf-8\"><title>Stockbridge</title><p>%s</p><p>%s</p>\n", html.EscapeString(zh), html.EscapeString(en))
	}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: maxPasted,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			if !sameState(q, state) {
				if q.Has("code") || q.Has("state") {
					a.note("somebody came back with another state; still waiting")
				}
				page(w, http.StatusBadRequest, "此地址不属于正在进行的授权。", "This is not the consent that is waited for.")
				return
			}
			page(w, http.StatusOK, "已返回 Stockbridge，可以关闭此页面；结果见终端。", "Back at Stockbridge: you can close this page; the terminal shows the outcome.")
			select {
			case came <- q:
			default:
			}
		}),
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // the page is still being delivered
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		<-ended
	}
	wait = func(ctx context.Context) (url.Values, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case q := <-came:
			return q, nil
		}
	}
	return listener.Addr().String(), wait, stop, nil
}

// done releases what waited for the token, and prints the result.
func (c sellerAuthorizeCmd) done(ctx context.Context, a *app, registry *seller.Registry, id token.ID, tokens *token.Store) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	resumed, err := guard.ResumeToken(ctx, registry, b.Publish, id.Seller, a.now())
	if err != nil {
		return hint(err, "the tokens are stored; the workers notice within five minutes, or `bridgectl seller resume %s`", id.Seller)
	}
	state, _ := tokens.State(id)
	doc := struct {
		Seller string `json:"seller"`
		tokenJSON
		Resumed bool `json:"resumed"`
	}{id.Seller, tokenOf(id.Account, state, true), resumed}
	return a.show(doc, func(w io.Writer) error {
		fmt.Fprintf(w, "%s authorised: %s, refreshed by the workers from %s\n", id, life(state, a.now()), when(state.RefreshAt))
		if !state.Renewable {
			fmt.Fprintln(w, "no refresh token came with it: it has to be authorised again before it ends")
		}
		if resumed {
			fmt.Fprintf(w, "seller %s resumed: what waited continues\n", id.Seller)
		}
		return nil
	})
}

// tokenJSON is the state of a token.
type tokenJSON struct {
	Account    string `json:"account"`
	Authorized bool   `json:"authorized"`
	// User is who consented, by the warehouse's number.
	User      string    `json:"user,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	RefreshAt time.Time `json:"refresh_at,omitzero"`
	// Failed is how the last refresh failed: refused, lost, not_sent.
	Failed  string      `json:"failed,omitempty"`
	NextTry time.Time   `json:"next_try,omitzero"`
	Reason  *reasonJSON `json:"reason,omitempty"`
}

func tokenOf(account string, s token.State, known bool) tokenJSON {
	if !known {
		return tokenJSON{Account: account}
	}
	t := tokenJSON{
		Account: account, Authorized: true, User: s.Owner, ExpiresAt: s.ExpiresAt, RefreshAt: s.RefreshAt,
		Failed: string(s.Failed), NextTry: s.NextTry,
	}
	if s.Reason != nil {
		r := reasonJSON(*s.Reason)
		t.Reason = &r
	}
	return t
}

// life describes how long a token lasts.
func life(s token.State, now time.Time) string {
	left := s.ExpiresAt.Sub(now)
	about := ""
	if s.Assumed {
		about = " (assumed)"
	}
	switch {
	case left <= 0:
		return "ended"
	case left < time.Hour:
		return fmt.Sprintf("%d min left%s", left/time.Minute, about)
	case left < 48*time.Hour:
		return fmt.Sprintf("%d h left%s", left/time.Hour, about)
	default:
		return fmt.Sprintf("%d days left%s", left/(24*time.Hour), about)
	}
}

// tokenLine summarises the tokens of a seller that Stockbridge keeps.
func tokenLine(list []tokenJSON, states map[string]token.State, now time.Time) string {
	var words []string
	for _, t := range list {
		word := "not authorised"
		switch {
		case t.Failed == string(token.Refused):
			word = "consent needed, " + life(states[t.Account], now)
		case t.Authorized:
			word = life(states[t.Account], now)
		}
		if len(list) > 1 {
			word = t.Account + " " + word
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// tokensOf returns the state of those tokens of a seller that Stockbridge keeps.
func tokensOf(s *seller.Seller, store *token.Store) (list []tokenJSON, states map[string]token.State) {
	states = map[string]token.State{}
	for _, a := range s.Setup.Accounts {
		if token.Ours(a) {
			state, known := store.State(token.ID{Seller: s.Name(), Account: a.Name})
			list, states[a.Name] = append(list, tokenOf(a.Name, state, known)), state
		}
	}
	return list, states
}
