package jdapi

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/quota"
)

const (
	secret = "s3cr3t-for-tests"
	token  = "t0ken-for-tests"
)

// fakeJD gives set answers after checking what every request must have.
type fakeJD struct {
	t      *testing.T
	server *httptest.Server
	calls  atomic.Int64

	mu      sync.Mutex
	answer  func(token string) string
	respond func(http.ResponseWriter, *http.Request) // wins over answer
}

func (jd *fakeJD) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	jd.calls.Add(1)
	form := checkSigned(jd.t, r, secret)
	if r.Method != http.MethodPost || r.URL.Path != "/base/routerjson" {
		jd.t.Errorf("%s %s", r.Method, r.URL.Path)
	}
	jd.mu.Lock()
	answer, respond := jd.answer, jd.respond
	jd.mu.Unlock()
	if respond != nil {
		respond(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	say(w, answer(form.Get("access_token")))
}

// says sets the answer, does the whole reaction.
func (jd *fakeJD) says(answer func(token string) string) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	jd.answer = answer
}

func (jd *fakeJD) does(respond func(http.ResponseWriter, *http.Request)) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	jd.respond = respond
}

// fixed is a secret that does not change.
func fixed(text string) Source { return func() (string, error) { return text, nil } }

func dial(t *testing.T) (*Client, *fakeJD) {
	jd := &fakeJD{t: t, answer: func(string) string { return accepted }}
	jd.server = httptest.NewServer(jd)
	t.Cleanup(jd.server.Close)
	transport := NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{
		URL: jd.server.URL + "/base/routerjson", AppKey: "key", AppSecret: fixed(secret),
		Tokens: Reread{fixed(token)}, Transport: transport,
	}, jd
}

func say(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

const accepted = `{"jingdong_eclp_order_addOrder_responce":{"code":"0","eclpSoNo":"ESL1"}}`

func refused(code string) string {
	return `{"error_response":{"code":"` + code + `","zh_desc":"不行"}}`
}

func TestAnAnswerThatCannotBeTrustedIsLost(t *testing.T) {
	hijack := func(reset bool, write string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			if reset {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_, _ = conn.Write([]byte(write))
			conn.Close()
		}
	}
	for name, respond := range map[string]func(http.ResponseWriter, *http.Request){
		"end of the connection": hijack(false, ""),
		"reset":                 hijack(true, ""),
		"not HTTP":              hijack(false, "hello\r\n\r\n"),
		"cut off":               hijack(false, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"),
		"500 with a fine body": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			say(w, accepted)
		},
		"429": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"a redirect, never followed": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/base/routerjson", http.StatusTemporaryRedirect)
		},
		"more than fits, packed small":   func(w http.ResponseWriter, _ *http.Request) { flood(w) },
		"nothing":                        func(http.ResponseWriter, *http.Request) {},
		"a page":                         func(w http.ResponseWriter, _ *http.Request) { say(w, "<html>"+token+"</html>") },
		"accepted, but without a number": func(w http.ResponseWriter, _ *http.Request) { say(w, strings.Replace(accepted, "ESL1", "", 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			client, jd := dial(t)
			// net/http might repeat a request on a connection that was used before.
			if _, err := client.AddOrder(t.Context(), AddOrder{}); err != nil {
				t.Fatal(err)
			}
			jd.does(respond)
			no, err := client.AddOrder(t.Context(), AddOrder{IsvUUID: "A-1"})
			if no != "" || !errors.Is(err, ErrLost) || errors.Is(err, ErrNotSent) {
				t.Errorf("%q, %v", no, err)
			}
			if n := jd.calls.Load(); n != 2 {
				t.Errorf("%d requests", n-1)
			}
		})
	}
}

// A URL that is not the gateway's is reported with host and path and without anything secret. The call may have been
// passed on, so its answer counts as lost.
func TestAnAddressThatIsNotJDsIsSaidAsSuch(t *testing.T) {
	status := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere?secret="+secret)
			w.WriteHeader(code)
		}
	}
	for name, c := range map[string]struct {
		respond   func(http.ResponseWriter, *http.Request)
		path      string
		not, sent bool
	}{
		"404":             {respond: status(404), path: "/base/routerjson", sent: true},
		"405":             {respond: status(405), path: "/base/routerjson", sent: true},
		"410":             {respond: status(410), path: "/base/routerjson", sent: true},
		"301":             {respond: status(301), path: "/base/routerjson", sent: true},
		"307":             {respond: status(307), path: "/base/routerjson", sent: true},
		"no path":         {},
		"a slash":         {path: "/"},
		"503":             {respond: status(503), path: "/base/routerjson", not: true, sent: true},
		"400":             {respond: status(400), path: "/base/routerjson", not: true, sent: true},
		"a page with 200": {respond: func(w http.ResponseWriter, _ *http.Request) { say(w, " <html>busy</html>") }, path: "/base/routerjson", not: true, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			client, jd := dial(t)
			host := strings.TrimPrefix(jd.server.URL, "http://")
			client.URL = "http://user:" + secret + "@" + host + c.path + "?k=" + secret
			if c.respond != nil {
				jd.does(c.respond)
			}
			_, err := client.AddOrder(t.Context(), AddOrder{IsvUUID: "A-1"})
			if errors.Is(err, ErrAddress) == c.not || errors.Is(err, ErrLost) != c.sent || errors.Is(err, ErrNotSent) == c.sent {
				t.Error(err)
			}
			if text := err.Error(); !c.not && !strings.Contains(text, host+strings.TrimSuffix(c.path, "/")) || strings.Contains(text, secret) || strings.Contains(text, token) {
				t.Error(text)
			}
		})
	}
}

func flood(w http.ResponseWriter) {
	w.Header().Set("Content-Encoding", "gzip")
	pack := gzip.NewWriter(w)
	say(pack, `{"x":"`)
	blanks := slices.Repeat([]byte(" "), 1<<20)
	for range maxAnswer >> 20 {
		_, _ = pack.Write(blanks)
	}
	say(pack, `",`+accepted[1:])
	pack.Close()
}

func TestCancelledWhileJDThinksIsLost(t *testing.T) {
	client, jd := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	jd.does(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := client.AddOrder(ctx, AddOrder{}); !errors.Is(err, ErrLost) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestEndsAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &Client{AppKey: "key", AppSecret: fixed(secret), Tokens: Reread{fixed(token)}, Transport: silent{}}
		began := time.Now()
		// A transport that does not report whether it sent anything counts as having sent it.
		if _, err := client.AddOrder(t.Context(), AddOrder{}); !errors.Is(err, ErrLost) || !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took != callLimit {
			t.Error(took)
		}
	})
}

type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: r.Context().Err()}
}

// broken quotes the URL, as http.Client does.
type broken struct{}

func (broken) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: errors.New("broken")}
}

func TestWhatNeverLeftIsNotSent(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	tooFar := errors.New("come back later")
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name  string
		ctx   context.Context
		bend  func(*Client)
		token bool
	}{
		{"nobody listens", t.Context(), func(c *Client) { c.URL = "http://" + closed.Addr().String() + "/routerjson" }, false},
		{"no such host", t.Context(), func(c *Client) { c.URL = "http://jd.invalid/routerjson" }, false},
		{"no TLS there", t.Context(), func(c *Client) { c.URL = "https" + strings.TrimPrefix(plain.URL, "http") + "/routerjson" }, false},
		{"a URL that is none", t.Context(), func(c *Client) { c.URL = "ftp://u:" + secret + "@x" }, false},
		{"no turn", t.Context(), func(c *Client) { c.Limiter = limiter(func() error { return tooFar }) }, false},
		{"already over", done, func(*Client) {}, false},
		{"no secret", t.Context(), func(c *Client) { c.AppSecret = nil }, true},
		{"an empty secret", t.Context(), func(c *Client) { c.AppSecret = fixed(" \n") }, true},
		{"no key", t.Context(), func(c *Client) { c.AppKey = "" }, true},
		{"no token", t.Context(), func(c *Client) { c.Tokens = Reread{File(filepath.Join(t.TempDir(), "none"))} }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			c.bend(client)
			no, err := client.AddOrder(c.ctx, AddOrder{})
			if no != "" || !errors.Is(err, ErrNotSent) || errors.Is(err, ErrLost) || errors.Is(err, ErrToken) != c.token {
				t.Errorf("%q, %v", no, err)
			}
			if n := jd.calls.Load(); n != 0 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		client, _ := dial(t)
		if _, err := client.AddOrder(t.Context(), AddOrder{SellerNote: strings.Repeat("x", MaxRequest)}); !errors.Is(err, ErrNotSent) {
			t.Error(err)
		}
	})
	t.Run("the limiter's own words stay readable", func(t *testing.T) {
		client, _ := dial(t)
		client.Limiter = limiter(func() error { return tooFar })
		if _, err := client.AddOrder(t.Context(), AddOrder{}); !errors.Is(err, tooFar) {
			t.Error(err)
		}
	})
}

type limiter func() error

func (l limiter) Acquire(context.Context, quota.Class) (func(), error) { return func() {}, l() }

// turns counts the turns in use and those given.
type turns struct{ out, given atomic.Int64 }

func (l *turns) Acquire(_ context.Context, class quota.Class) (func(), error) {
	if class != "push" {
		return nil, errors.New("class " + string(class))
	}
	l.out.Add(1)
	l.given.Add(1)
	return func() { l.out.Add(-1) }, nil
}

func TestEachRequestTakesATurn(t *testing.T) {
	client, jd := dial(t)
	l := &turns{}
	client.Limiter, client.Class = l, "push"
	jd.does(func(w http.ResponseWriter, _ *http.Request) {
		if l.out.Load() != 1 {
			t.Errorf("%d turns are out during a request", l.out.Load())
		}
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		say(w, refused("8"))
	})
	_, err := client.AddOrder(t.Context(), AddOrder{})
	if n := l.given.Load(); n != 2 || l.out.Load() != 0 || n != jd.calls.Load() {
		t.Errorf("%d turns, %d not given back, %d requests: %v", n, l.out.Load(), jd.calls.Load(), err)
	}
}

func TestTheClockIsCorrectedByJDsOnce(t *testing.T) {
	jdNow := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	client, jd := dial(t)
	client.Now = func() time.Time { return jdNow.Add(-time.Hour) }
	jd.does(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", jdNow.Format(http.TimeFormat))
		at, err := time.ParseInLocation(time.DateTime, r.FormValue("timestamp"), time.FixedZone("", 8*3600))
		if err != nil || jdNow.Sub(at).Abs() > 6*time.Minute {
			say(w, refused("8"))
			return
		}
		say(w, accepted)
	})
	for call, requests := range []int64{2, 3} { // corrected once and remembered
		if no, err := client.AddOrder(t.Context(), AddOrder{}); no != "ESL1" || jd.calls.Load() != requests {
			t.Errorf("call %d: %q, %v after %d requests", call, no, err, jd.calls.Load())
		}
	}

	jd.does(func(w http.ResponseWriter, _ *http.Request) { say(w, refused("8")) })
	_, err := client.AddOrder(t.Context(), AddOrder{})
	var no *Error
	if !errors.As(err, &no) || no.Class != ClassClock || !no.Before || jd.calls.Load() != 5 {
		t.Errorf("a clock that cannot be corrected: %v after %d requests", err, jd.calls.Load())
	}
}

// renewing counts how often a new token is requested.
type renewing struct {
	mu      sync.Mutex
	current string
	next    string
	grant   uint64
	renewed int
	gate    chan struct{}
	err     error
}

func (r *renewing) Token(context.Context) (Token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Token{Secret: NewSecret(r.current), Grant: r.grant}, nil
}

func (r *renewing) Renew(_ context.Context, old Token) (Token, error) {
	if r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return Token{}, r.err
	}
	if old.Grant == r.grant {
		r.renewed++
		r.grant++
		r.current = r.next
	}
	return Token{Secret: NewSecret(r.current), Grant: r.grant}, nil
}

// once19 refuses the first call only.
func once19() func(string) string {
	var calls atomic.Int64
	return func(string) string {
		if calls.Add(1) == 1 {
			return refused("19")
		}
		return accepted
	}
}

func TestARefusedTokenIsReadAnewOnce(t *testing.T) {
	onlyNew := func(got string) string {
		if got == "new" {
			return accepted
		}
		return refused("19")
	}
	for _, c := range []struct {
		name     string
		next     string
		err      error
		answer   func(string) string
		requests int64
		want     error
	}{
		{"renewed", "new", nil, onlyNew, 2, nil},
		{"the same lives longer", "old", nil, once19(), 2, nil},
		{"the same is refused as well", "old", nil, onlyNew, 2, ErrToken},
		{"the other is refused as well", "newer", nil, onlyNew, 2, ErrToken},
		{"renewing fails", "new", errors.New("down"), onlyNew, 1, ErrNotSent},
		{"renewing takes a person", "new", ErrToken, onlyNew, 1, ErrToken},
		{"not a merchant", "new", nil, func(string) string { return refused("22") }, 1, ErrToken},
		{"a wrong secret", "new", nil, func(string) string { return refused("12") }, 1, ErrToken},
		{"another refusal", "new", nil, func(string) string { return refused("24") }, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, jd := dial(t)
			tokens := &renewing{current: "old", next: c.next, err: c.err}
			client.Tokens = tokens
			jd.says(c.answer)
			_, err := client.AddOrder(t.Context(), AddOrder{})
			if c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, ErrToken) || errors.Is(err, ErrLost) {
				t.Error(err)
			}
			if jd.calls.Load() != c.requests {
				t.Errorf("%d requests", jd.calls.Load())
			}
		})
	}

	t.Run("many at once renew once", func(t *testing.T) {
		const callers = 8
		client, jd := dial(t)
		tokens := &renewing{current: "old", next: "new", gate: make(chan struct{})}
		client.Tokens = tokens
		var refusals atomic.Int64
		jd.says(func(got string) string {
			if got != "new" && refusals.Add(1) == callers {
				close(tokens.gate)
			}
			return onlyNew(got)
		})
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				if _, err := client.AddOrder(t.Context(), AddOrder{}); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if tokens.renewed != 1 || jd.calls.Load() != 2*callers {
			t.Errorf("renewed %d times, %d requests", tokens.renewed, jd.calls.Load())
		}
	})

	t.Run("a file is read again", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		write := func(text string) {
			if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		client, jd := dial(t)
		client.Tokens = Reread{File(path)}
		jd.says(onlyNew)
		write("old")
		if _, err := client.AddOrder(t.Context(), AddOrder{}); !errors.Is(err, ErrToken) {
			t.Error(err)
		}
		write("new")
		if _, err := client.AddOrder(t.Context(), AddOrder{}); err != nil {
			t.Error(err)
		}
		write(strings.Repeat("x", maxSecret+1))
		if _, err := client.AddOrder(t.Context(), AddOrder{}); !errors.Is(err, ErrToken) {
			t.Error(err)
		}
	})
}

// Nothing that can be printed contains a secret, whatever goes wrong.
func TestSecretsDoNotShow(t *testing.T) {
	var shown []string
	show := func(values ...any) {
		for _, v := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				shown = append(shown, fmt.Sprintf(verb, v))
			}
			if text, err := json.Marshal(v); err == nil {
				shown = append(shown, string(text))
			}
		}
	}
	type holder struct{ hidden Secret }
	show(NewSecret(secret), &holder{NewSecret(secret)}, holder{NewSecret(secret)}, Secret{}, []Secret{NewSecret(token)})

	client, jd := dial(t)
	show(client.AppKey, client.AppSecret, client.Tokens, client.URL)
	for _, respond := range []func(http.ResponseWriter, *http.Request){
		func(w http.ResponseWriter, r *http.Request) {
			// JD quotes what was sent.
			quote, _ := json.Marshal(r.URL.String() + secret + strings.Repeat("长", maxErrorText-50) + r.FormValue("access_token"))
			say(w, fmt.Sprintf(`{"error_response":{"code":"10500","zh_desc":%s}}`, quote))
		},
		func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			say(w, r.URL.String())
		},
		func(w http.ResponseWriter, r *http.Request) { say(w, r.URL.String()) },
		func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) },
		func(w http.ResponseWriter, _ *http.Request) { conn, _, _ := w.(http.Hijacker).Hijack(); conn.Close() },
		func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Length"] = []string{r.URL.String()}
			say(w, "x")
		},
	} {
		jd.does(respond)
		_, err := client.AddOrder(t.Context(), AddOrder{})
		if err == nil {
			t.Fatal("no error")
		}
		show(err)
	}
	for _, address := range []string{"http://127.0.0.1:1", "http://u:" + secret + "@127.0.0.1:1/", "http://" + secret + "%zz", "http://x.invalid/?k=" + secret, "\x7f" + secret} {
		client.URL = address
		_, err := client.AddOrder(t.Context(), AddOrder{})
		show(err)
	}
	client.Transport, client.URL = broken{}, ""
	_, err := client.AddOrder(t.Context(), AddOrder{})
	show(err)

	for _, text := range shown {
		for _, planted := range []string{secret, token, url.QueryEscape(token), fmt.Sprintf("%x", secret), fmt.Sprintf("%x", token)} {
			if strings.Contains(text, planted) {
				t.Errorf("shows %s: %s", planted, text)
			}
		}
	}
}

// The codes that prove that nothing was processed. Code 17 is not one: what it says exists already may be the document.
func TestOnlyDocumentedCodesProveThatNothingWasDone(t *testing.T) {
	for code, k := range codes {
		var n int
		if _, err := fmt.Sscan(code, &n); err != nil {
			t.Fatal(err)
		}
		proves := n >= 3 && n <= 27 && n != 17 || n == 50 || n >= 60 && n <= 64 || n == 72 || n == 73 || n == 1100
		if k.before != proves {
			t.Errorf("code %s: %v", code, k.before)
		}
	}
	if e := refusal("10500", "", "no"); e.Class != ClassBusiness || e.Before || e.Text != "no" {
		t.Errorf("%+v", e)
	}
}
