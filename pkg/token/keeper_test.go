package token_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/secret"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/jd"
	sellerv1 "stockbridge/proto/seller/v1"
)

// clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// world is a JD sandbox, a broker and a seller whose token is ours.
type world struct {
	*jdsandbox.JD
	t         *testing.T
	clock     *clock
	nats, jd  string
	seller    *seller.Seller
	account   *sellerv1.Account
	log       *syncBuffer
	transport *http.Transport
}

type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

var acme = token.ID{Seller: "acme", Account: "jd"}

const appSecret = "planted-app-secret"

func start(t *testing.T, platform sellerv1.Authorization_Platform, auth jdsandbox.Auth) *world {
	t.Helper()
	_, nats := bustest.StartServer(t)
	return startOn(t, nats, platform, auth)
}

func startOn(t *testing.T, nats string, platform sellerv1.Authorization_Platform, auth jdsandbox.Auth) *world {
	t.Helper()
	c := &clock{now: time.Date(2026, 3, 5, 9, 31, 0, 0, time.UTC)}
	auth.Consent = jdsandbox.ConsentGrant
	fake, err := jdsandbox.New(jdsandbox.Config{
		Now: c.Now, Apps: []jdsandbox.App{{Key: "key", Secret: appSecret}}, Knobs: jdsandbox.Knobs{Auth: auth},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(fake)
	t.Cleanup(func() { fake.Close(); srv.Close() })
	account := &sellerv1.Account{
		Name: "jd", Kind: sellerv1.Account_KIND_JD, Url: srv.URL + "/routerjson", AppKey: "key", AppSecret: &sellerv1.SecretRef{Env: "SECRET"},
		TokenOwner: sellerv1.Account_TOKEN_OWNER_OURS, Department: "EBU1", VendorSource: "ISV1",
		Authorization: &sellerv1.Authorization{Platform: platform, Url: srv.URL},
	}
	s := seller.New(&sellerv1.Setup{
		Name: "acme", Accounts: []*sellerv1.Account{account},
		Warehouses: []*sellerv1.Warehouse{{Code: "W1", Account: "jd", WarehouseNo: "110000001"}},
	}, nil)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &world{JD: fake, t: t, clock: c, nats: nats, jd: srv.URL, seller: s, account: account, log: &syncBuffer{}, transport: transport}
}

func (w *world) All() []*seller.Seller { return []*seller.Seller{w.seller} }

func env(name string) string { return map[string]string{"SECRET": appSecret}[name] }

func (w *world) authority() *jd.Authority {
	return jd.NewAuthority(w.account, env, seller.Trust{}, w.transport)
}

// store opens the bucket over a connection of its own.
func (w *world) store(keys string) *token.Store {
	w.t.Helper()
	k, err := token.ParseKeys(keys)
	if err != nil {
		w.t.Fatal(err)
	}
	bucket, err := bustest.Connect(w.t, w.nats).Bucket(w.t.Context(), bus.BucketTokens)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := token.Open(w.t.Context(), bucket, k, zerolog.New(w.log))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

var (
	key1 = token.NewKey().Reveal()
	key2 = token.NewKey().Reveal()
)

// keeper is one process that keeps tokens.
func (w *world) keeper(change ...func(*token.Options)) *token.Keeper {
	o := token.Options{
		Sellers: w, Now: w.clock.Now, Log: zerolog.New(w.log),
		Authority: func(*sellerv1.Account) (token.Authority, error) { return w.authority(), nil },
	}
	for _, f := range change {
		f(&o)
	}
	return token.NewKeeper(w.store(key1), o)
}

// consent authorises the seller as bridgectl does.
func (w *world) consent(s *token.Store) token.Grant {
	w.t.Helper()
	link, err := w.authority().ConsentURL("http://127.0.0.1:1/", "state")
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := w.transport.RoundTrip(request(w.t, link))
	if err != nil {
		w.t.Fatal(err)
	}
	res.Body.Close()
	back, err := res.Location()
	if err != nil {
		w.t.Fatal(err)
	}
	at := w.clock.Now()
	g, err := w.authority().Exchange(w.t.Context(), back.Query().Get("code"), "http://127.0.0.1:1/", "state")
	if err == nil {
		err = s.Put(w.t.Context(), acme, "key", g, at)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

func request(t *testing.T, link string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// warehouse is what a worker calls through.
func (w *world) warehouse(k token.Source) *jd.Warehouse {
	w.t.Helper()
	wh, err := jd.New(jd.Options{Seller: w.seller, Warehouse: "W1", Class: quota.Push, Env: env, Tokens: k, Transport: w.transport, Now: w.clock.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	return wh
}

func (w *world) call(k token.Source) error {
	_, err := w.warehouse(k).Orders().Find(w.t.Context(), []string{"A-1"})
	return err
}

func (w *world) refreshes(done, refused int64) {
	w.t.Helper()
	if n := w.Counters(); n.Refreshes != done || n.RefreshesRefused != refused {
		w.t.Errorf("JD refreshed %d and refused %d, want %d and %d\n%s", n.Refreshes, n.RefreshesRefused, done, refused, w.log)
	}
}

// eventually waits for what the bucket reports a little later.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func knows(k *token.Keeper, grantedAt time.Time) func() bool {
	return func() bool { s, ok := k.State(acme); return ok && s.GrantedAt.Equal(grantedAt) }
}

var platforms = map[string]sellerv1.Authorization_Platform{
	"new": sellerv1.Authorization_PLATFORM_NEW, "old": sellerv1.Authorization_PLATFORM_OLD,
}

// Three processes with eight calls each see the token expire together: it is refreshed once.
func TestARefusedTokenIsRefreshedOnceOverAllProcesses(t *testing.T) {
	for name, platform := range platforms {
		t.Run(name, func(t *testing.T) {
			w := start(t, platform, jdsandbox.Auth{})
			keepers := []*token.Keeper{w.keeper(), w.keeper(), w.keeper()}
			w.consent(keepers[0].Store)
			began := w.clock.Now()
			for _, k := range keepers {
				eventually(t, "it hears of the consent", knows(k, began))
			}
			w.clock.Move(25 * time.Hour)
			w.refreshes(0, 0)
			var group sync.WaitGroup
			for _, k := range keepers {
				for range 8 {
					wh := w.warehouse(k) // each a client of its own: no singleflight in between
					group.Go(func() {
						if _, err := wh.Orders().Find(t.Context(), []string{"A-1"}); err != nil {
							t.Error(err)
						}
					})
				}
			}
			group.Wait()
			w.refreshes(1, 0)
			if refused := w.Counters().Codes["19"]; refused == 0 || refused > 24 {
				t.Errorf("%d calls met the old token, want one each at most", refused)
			}
		})
	}
}

func TestATokenIsRefreshedAheadOfItsEndByOneOfAll(t *testing.T) {
	for _, c := range []struct {
		name       string
		auth       jdsandbox.Auth
		quiet, due time.Duration
	}{
		{"a day", jdsandbox.Auth{}, 15 * time.Hour, 16 * time.Hour},
		{"a year", jdsandbox.Auth{Life: jdsandbox.Duration(365 * 24 * time.Hour)}, 357 * 24 * time.Hour, 358 * 24 * time.Hour},
		{"a life that gets no error", jdsandbox.Auth{NoLife: true}, 15 * time.Hour, 16 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := start(t, sellerv1.Authorization_PLATFORM_NEW, c.auth)
			registry := prometheus.NewRegistry()
			first := w.keeper(func(o *token.Options) { o.Metrics = token.NewMetrics(registry) })
			registry.MustRegister(first.Expiries())
			keepers := []*token.Keeper{first, w.keeper(), w.keeper()}
			tick := func() {
				var group sync.WaitGroup
				for _, k := range keepers {
					group.Go(func() { k.Tick(t.Context()) })
				}
				group.Wait()
			}
			tick() // nothing is stored
			w.consent(first.Store)
			began := w.clock.Now()
			for _, k := range keepers {
				eventually(t, "it hears of the consent", knows(k, began))
			}
			w.clock.Move(c.quiet)
			tick()
			w.refreshes(0, 0)
			w.clock.Move(c.due - c.quiet)
			tick()
			w.refreshes(1, 0)
			due := w.clock.Now()
			for _, k := range keepers {
				eventually(t, "it hears of the refresh", knows(k, due))
				if err := w.call(k); err != nil {
					t.Error(err)
				}
			}
			tick()
			w.refreshes(1, 0)
			if n := w.Counters().Codes["19"]; n != 0 {
				t.Errorf("%d calls met an old token", n)
			}
			life := time.Duration(c.auth.Life)
			if life == 0 {
				life = 24 * time.Hour
			}
			want := fmt.Sprintf(`
# HELP stockbridge_token_expires_timestamp_seconds When the token of an account ends, Unix time, of those with the least of their life left. It is renewed well before.
# TYPE stockbridge_token_expires_timestamp_seconds gauge
stockbridge_token_expires_timestamp_seconds{account="jd",seller="acme"} %d
`, due.Add(life).Unix())
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "stockbridge_token_expires_timestamp_seconds"); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the merchant must do is said in both languages, and nobody keeps asking meanwhile.
func TestARefusedRefreshNeedsAConsent(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	a, b := w.keeper(), w.keeper()
	w.consent(a.Store)
	eventually(t, "the other hears of it", knows(b, w.clock.Now()))
	w.Revoke(w.Issued()[0])
	for range 5 {
		for _, k := range []*token.Keeper{a, b} {
			err := w.call(k)
			reason := fault.ReasonOf(err, "")
			if !errors.Is(err, warehouse.ErrToken) || fault.Cause(err) != seller.CauseToken("acme", "jd") ||
				!strings.Contains(reason.EN, "bridgectl seller authorize acme --account jd") || !strings.Contains(reason.ZH, "重新授权") || reason.RemoteCode != "401" {
				t.Fatalf("got %v", err)
			}
		}
		w.clock.Move(time.Minute)
	}
	w.refreshes(0, 1)
	if s, _ := a.State(acme); s.Failed != token.Refused || s.Reason == nil {
		t.Errorf("it stands as %+v", s)
	}
	w.clock.Move(time.Hour)
	a.Tick(t.Context()) // long before its end by our clock: not due
	_ = w.call(b)
	w.refreshes(0, 2)

	w.consent(b.Store)
	eventually(t, "a new consent serves", func() bool { return w.call(a) == nil })
	if s, _ := a.State(acme); s.Failed != "" {
		t.Errorf("it stands as %+v", s)
	}
}

func TestALostAnswerIsTriedAgainWithTheSameRefreshToken(t *testing.T) {
	for _, reuse := range []bool{true, false} {
		t.Run(fmt.Sprintf("works twice: %v", reuse), func(t *testing.T) {
			w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{Reuse: reuse})
			k := w.keeper()
			w.consent(k.Store)
			if _, err := w.AddFault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Methods: []string{jdsandbox.RefreshCall}, Count: 1}); err != nil {
				t.Fatal(err)
			}
			w.clock.Move(17 * time.Hour)
			k.Tick(t.Context())
			w.refreshes(1, 0)
			if s, _ := k.State(acme); s.Failed != token.Lost {
				t.Fatalf("it stands as %+v", s)
			}
			for range 4 {
				k.Tick(t.Context())                  // too early
				_ = w.call(k)                        // the old token ended with the refresh
				w.clock.Move(500 * time.Millisecond) // 5 s is the first pause
			}
			w.refreshes(1, 0)
			w.clock.Move(5 * time.Second)
			k.Tick(t.Context())
			s, _ := k.State(acme)
			if reuse {
				w.refreshes(2, 0)
				if err := w.call(k); err != nil || s.Failed != "" {
					t.Errorf("%v, it stands as %+v", err, s)
				}
				return
			}
			w.refreshes(1, 1)
			if err := w.call(k); s.Failed != token.Refused || !strings.Contains(fault.ReasonOf(err, "").EN, "may have changed the tokens") {
				t.Errorf("%v, it stands as %+v", err, s)
			}
		})
	}
}

// stuck is an authorisation server that does not answer until it is released.
type stuck struct {
	token.Authority
	asked, gone chan struct{}
}

func (s stuck) Refresh(context.Context, secret.Text) (token.Grant, error) {
	close(s.asked)
	<-s.gone
	return token.Grant{}, fault.Permanent(errors.New("used already"))
}

// A process that dies, or hangs, while it refreshes keeps the others waiting for as long as its claim, and is heard no
// more afterwards.
func TestAClaimOfADeadOwnerIsTakenOver(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	hung := stuck{asked: make(chan struct{}), gone: make(chan struct{})}
	a, b := w.keeper(func(o *token.Options) {
		o.Authority = func(*sellerv1.Account) (token.Authority, error) { return hung, nil }
	}), w.keeper()
	w.consent(a.Store)
	eventually(t, "the other hears of it", knows(b, w.clock.Now()))
	w.clock.Move(25 * time.Hour)
	late := make(chan error, 1)
	go func() { late <- w.call(a) }()
	<-hung.asked

	b.Tick(t.Context()) // continues with the old one
	w.refreshes(0, 0)
	w.clock.Move(31 * time.Second)
	b.Tick(t.Context())
	w.refreshes(1, 0)
	close(hung.gone)
	if err := <-late; err != nil {
		t.Errorf("whoever came back late: %v", err)
	}
	w.refreshes(1, 0)
	if s, _ := b.State(acme); s.Failed != "" {
		t.Errorf("it stands as %+v", s)
	}
}

// A token that is refused just after it was refreshed is not refreshed again and again.
func TestAFreshTokenThatIsRefusedIsNotRefreshedAgain(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	k := w.keeper()
	w.consent(k.Store)
	w.ExpireToken(w.Issued()[0], time.Time{})
	if err := w.call(k); err != nil {
		t.Fatal(err)
	}
	w.ExpireToken(w.Issued()[0], time.Time{})
	for range 5 {
		if err := w.call(k); !errors.Is(err, warehouse.ErrToken) {
			t.Fatal(err)
		}
		w.clock.Move(time.Minute)
	}
	w.refreshes(1, 0)
	w.clock.Move(10 * time.Minute)
	if err := w.call(k); err != nil {
		t.Error(err)
	}
	w.refreshes(2, 0)
}

func TestWithoutAKeyOrAConsentItSaysWhatToDo(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	none := w.store("")
	want := func(k token.Source, en string) {
		t.Helper()
		err := w.call(k)
		var r fault.Reason
		if !errors.As(err, &r) || !errors.Is(err, warehouse.ErrToken) || !strings.Contains(r.EN, en) || r.ZH == "" {
			t.Errorf("got %v, want %s", err, en)
		}
	}
	want(token.Reader{Store: none}, "TOKEN_KEY (or TOKEN_KEY_FILE) is not set")
	if err := none.Put(t.Context(), acme, "key", token.Grant{Access: secret.New("x")}, w.clock.Now()); !errors.Is(err, token.ErrPerson) {
		t.Error(err)
	}
	k := w.keeper()
	want(k, "bridgectl seller authorize acme --account jd")

	w.consent(k.Store)
	other := w.store(key2)
	eventually(t, "the store hears of it", func() bool { _, ok := other.State(acme); return ok })
	want(token.Reader{Store: other}, "is not in TOKEN_KEY")
	w.account = proto.CloneOf(w.account)
	w.account.AppKey = "another"
	w.seller.Setup.Accounts[0] = w.account
	w.seller = seller.New(w.seller.Setup, nil)
	want(k, "for another application")
}

// An account that was set up before we refreshed tokens continues with the token that its set-up names, until a
// consent.
func TestUntilAConsentTheNamedTokenServes(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	if err := w.SetToken("key", jdsandbox.Token{Value: appSecret}); err != nil {
		t.Fatal(err)
	}
	w.account.AccessToken = &sellerv1.SecretRef{Env: "SECRET"}
	k := w.keeper()
	if err := w.call(k); err != nil {
		t.Error(err)
	}
	w.ExpireToken(appSecret, time.Time{})
	if err := w.call(k); !errors.Is(err, warehouse.ErrToken) {
		t.Error(err)
	}
	w.consent(k.Store)
	if err := w.call(k); err != nil {
		t.Error(err)
	}
}

// A token that this process cannot refresh does not make its loop spin.
func TestTheLoopRests(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	k := w.keeper()
	rests := func(what string, k *token.Keeper, want time.Duration) {
		t.Helper()
		if got := k.Wake(); got != want {
			t.Errorf("%s: it rests %v, want %v", what, got, want)
		}
	}
	rests("nothing stored", k, 30*time.Second)
	w.consent(k.Store)
	rests("far from its end", k, 30*time.Second)
	w.clock.Move(16*time.Hour - time.Second)
	rests("a second before", k, time.Second)
	blind := token.NewKeeper(w.store(key2), token.Options{Sellers: w, Now: w.clock.Now, Log: zerolog.Nop()})
	w.clock.Move(time.Hour)
	rests("due", k, 5*time.Second)
	rests("without its key", blind, 30*time.Second)
	blind.Tick(t.Context()) // has no Authority to ask
	w.account.AppKey = "another"
	rests("of another application", k, 30*time.Second)
	k.Tick(t.Context())
	w.refreshes(0, 0)
}

func TestKeysAreChangedWithoutANewConsent(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	before := w.store(key1)
	g := w.consent(before)
	both := token.NewKeeper(w.store(key2+" , "+key1), token.Options{
		Sellers: w, Now: w.clock.Now, Log: zerolog.New(w.log),
		Authority: func(*sellerv1.Account) (token.Authority, error) { return w.authority(), nil },
	})
	both.Tick(t.Context())
	after := w.store(key2)
	now, err := after.Token(acme, w.account)
	if err != nil || !now.Secret.Equal(g.Access) || now.Grant != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	eventually(t, "the old key is of no use", func() bool { _, err := before.Token(acme, w.account); return errors.Is(err, token.ErrPerson) })
	w.refreshes(0, 0)

	for _, text := range []string{"short", key1 + "," + key1, strings.Repeat("z", 64)} {
		if _, err := token.ParseKeys(text); err == nil || strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Somebody who can write to the bucket still cannot make one account use another's token.
func TestASealedTokenOpensInItsPlaceOnly(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	s := w.store(key1)
	w.consent(s)
	bucket, err := bustest.Connect(t, w.nats).Bucket(t.Context(), bus.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bucket.Get(t.Context(), "acme.jd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Create(t.Context(), "other.jd", v.Data); err != nil {
		t.Fatal(err)
	}
	moved := token.ID{Seller: "other", Account: "jd"}
	eventually(t, "the copy is seen", func() bool { _, ok := s.State(moved); return ok })
	if _, err := s.Token(moved, w.account); !errors.Is(err, token.ErrPerson) || fault.ReasonOf(err, "").Code != "token.sealed" {
		t.Error(err)
	}
	for _, junk := range []string{"junk", `{"grant":1}`, `{"grant":1,"box":"AAAA"}`} {
		if _, err := bucket.Update(t.Context(), "acme.jd", []byte(junk), 0); err == nil {
			t.Fatal("not compared")
		}
		v, err := bucket.Get(t.Context(), "acme.jd")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bucket.Update(t.Context(), "acme.jd", []byte(junk), v.Revision); err != nil {
			t.Fatal(err)
		}
		eventually(t, "junk is no token", func() bool { _, err := s.Token(acme, w.account); return errors.Is(err, token.ErrPerson) })
	}
}

// New tokens are not lost because the broker is away when they come.
func TestTokensThatCannotBeStoredAreKeptAndStoredLater(t *testing.T) {
	dir := t.TempDir()
	open := func(port int) *server.Server {
		s, err := server.Start(server.Options{Dir: filepath.Join(dir, "nats"), Port: port, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(server.RandomPort)
	if _, err := bustest.Connect(t, s.URL()).Apply(t.Context(), bus.Topology{}); err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscan(at.Port(), &port); err != nil {
		t.Fatal(err)
	}
	w := startOn(t, s.URL(), sellerv1.Authorization_PLATFORM_NEW, jdsandbox.Auth{})
	away := sync.OnceFunc(s.Stop)
	k := w.keeper(func(o *token.Options) {
		o.Authority = func(*sellerv1.Account) (token.Authority, error) { away(); return w.authority(), nil }
	})
	k.StoreFor(300 * time.Millisecond)
	w.consent(k.Store)
	w.clock.Move(25 * time.Hour)
	k.Tick(t.Context())
	w.refreshes(1, 0)
	if err := w.call(k); err != nil {
		t.Errorf("the new token is not used: %v", err)
	}
	again := open(port)
	t.Cleanup(again.Stop)
	eventually(t, "it is stored", func() bool {
		k.Tick(t.Context())
		st, ok := k.State(acme)
		return ok && st.GrantedAt.Equal(w.clock.Now())
	})
	if err := w.call(w.keeper()); err != nil {
		t.Error(err)
	}
	w.refreshes(1, 0)
}

func TestNothingSecretShows(t *testing.T) {
	w := start(t, sellerv1.Authorization_PLATFORM_OLD, jdsandbox.Auth{})
	registry := prometheus.NewRegistry()
	k := w.keeper(func(o *token.Options) { o.Metrics = token.NewMetrics(registry) })
	registry.MustRegister(k.Expiries())
	g := w.consent(k.Store)
	planted := []string{appSecret, g.Access.Reveal(), g.Refresh.Reveal(), key1}
	shown := []string{fmt.Sprintf("%v %+v %#v", g, g, g)}
	show := func(err error) {
		if err == nil { // the old platform lets the token live on though the answer was lost
			return
		}
		shown = append(shown, fmt.Sprintf("%v %+v", err, fault.ReasonOf(err, "")))
	}
	w.clock.Move(25 * time.Hour)
	for _, f := range []jdsandbox.Fault{
		{Kind: jdsandbox.LoseAnswer}, {Kind: jdsandbox.Drop}, {Kind: jdsandbox.HTML, Work: jdsandbox.WorkDone}, {Kind: jdsandbox.Truncated}, {Kind: jdsandbox.HTTP},
		{Kind: jdsandbox.Error, Code: "9", ZH: "no " + g.Refresh.Reveal() + " " + appSecret},
	} {
		f.Methods, f.Count = []string{jdsandbox.RefreshCall}, 1
		if _, err := w.AddFault(f); err != nil {
			t.Fatal(err)
		}
		show(w.call(k))
		k.Tick(t.Context())
		w.clock.Move(2 * time.Hour)
	}
	bucket, err := bustest.Connect(t, w.nats).Bucket(t.Context(), bus.BucketTokens)
	if err != nil {
		t.Fatal(err)
	}
	v, err := bucket.Get(t.Context(), "acme.jd")
	if err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	st, _ := k.State(acme)
	shown = append(shown, string(v.Data), w.log.String(), fmt.Sprint(families), fmt.Sprintf("%+v", st))
	if !strings.Contains(w.log.String(), "token not renewed") {
		t.Error("the log says nothing")
	}
	for _, text := range shown {
		for _, p := range planted {
			if strings.Contains(text, p) {
				t.Errorf("shows %s: %s", p, text)
			}
		}
	}
}
