package e2e

import (
	"bytes"
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/ctl"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// oursToKeep makes the demo seller's token one that a merchant consents to, at the sandbox.
func oursToKeep(m *sellerv1.Setup) {
	a := m.Accounts[0]
	a.TokenOwner, a.AccessToken = sellerv1.Account_TOKEN_OWNER_OURS, nil
	a.Authorization = &sellerv1.Authorization{Url: strings.TrimSuffix(a.Url, "/routerjson"), RedirectUri: "http://127.0.0.1:1/back"}
}

// authorize is a merchant who opens the link that bridgectl prints and pastes the address where the browser ends.
func authorize(t *testing.T, w *testenv.World) {
	t.Helper()
	link, said := make(chan string, 1), &linkSeen{}
	said.found = func(at string) { link <- at }
	in := &lateInput{text: make(chan string, 1)}
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- ctl.Run(t.Context(), []string{"bridgectl", "seller", "authorize", stack.DemoSeller,
			"--nats-url", w.NATSURL, "--token-key-file", stack.TokenKeyFile(w.Dir()), "--seller-secrets-dir", stack.SecretsDir(w.Dir()),
		}, ctl.Streams{In: in, Out: &out, Err: said})
	}()
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer browser.CloseIdleConnections()
	select {
	case at := <-link:
		res, err := browser.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		in.text <- res.Header.Get("Location") + "\n"
	case code := <-ended:
		t.Fatalf("bridgectl ends %d without a link: %s%s", code, &out, said)
	}
	if code := <-ended; code != 0 {
		t.Fatalf("bridgectl ends %d: %s%s", code, &out, said)
	}
}

// linkSeen sends the first link that is written to it.
type linkSeen struct {
	mu    sync.Mutex
	text  bytes.Buffer
	found func(string)
}

func (s *linkSeen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	for line := range strings.Lines(string(p)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "http") && s.found != nil {
			s.found(line)
			s.found = nil
		}
	}
	return len(p), nil
}

func (s *linkSeen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// lateInput is a terminal at which somebody types later.
type lateInput struct{ text chan string }

func (in *lateInput) Read(p []byte) (int, error) { return copy(p, <-in.text), nil }

// morePushers runs pushers like further processes: with their own connections, ledger, set-ups and tokens.
func morePushers(t *testing.T, w *testenv.World, n int, metrics []*prometheus.Registry) {
	t.Helper()
	key, err := os.ReadFile(stack.TokenKeyFile(w.Dir()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running errgroup.Group
	var closing []func()
	t.Cleanup(func() {
		stop()
		if err := running.Wait(); err != nil {
			t.Error(err)
		}
		for _, f := range slices.Backward(closing) {
			f()
		}
	})
	for i := range n {
		b, err := bus.Connect(t.Context(), bus.Options{URL: w.NATSURL, Name: "another-pusher", Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		closing = append(closing, b.Close)
		parts, closeParts, err := worker.Open(t.Context(), b, worker.Options{
			RedisURL: worker.Secret(w.RedisURL), TokenKey: worker.Secret(key), Log: zerolog.Nop(), Metrics: metrics[i], Grace: 10 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		closing = append(closing, closeParts)
		config, err := worker.FromEnvironment[pusher.Config]()
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() error { return pusher.Run(ctx, parts.Shell(pusher.Name), config) })
	}
}

// A seller is authorised by a link, and its token passes its refresh time and its expiry while three pushers work: it
// is refreshed once, ahead of its expiry, and no order notices.
func TestATokenIsRefreshedUnderWayWithoutAnyOrderNoticing(t *testing.T) {
	const life = 3 * time.Second // so it is due after two
	inTurn(t, testenv.Options{Setup: oursToKeep, Knobs: jdsandbox.Knobs{Auth: jdsandbox.Auth{Consent: jdsandbox.ConsentGrant, Life: jdsandbox.Duration(life)}}}, func(t *testing.T, w *testenv.World) {
		metrics := []*prometheus.Registry{prometheus.NewRegistry(), prometheus.NewRegistry()}
		morePushers(t, w, 2, metrics)
		authorize(t, w)
		ends := time.Now().Add(life)
		if err := w.JD.SetKnobs(func(k *jdsandbox.Knobs) { k.Auth.Life = jdsandbox.Duration(24 * time.Hour) }); err != nil {
			t.Fatal(err)
		}
		var list []*orderv1.Audited
		w.Until("the first token ended", func() bool {
			more := w.Maker.Make(2)
			list = append(list, more...)
			w.Publish(more...)
			return time.Now().After(ends.Add(time.Second))
		})
		for _, o := range list {
			w.Accepted(o)
			if seen := w.Published(o.Seller).Orders[o.OutboundNo]; len(seen.Held)+len(seen.Failed) > 0 {
				t.Errorf("%s: held %v, failed %v", o.OutboundNo, seen.Held, seen.Failed)
			}
		}
		n := w.JD.Counters()
		if n.Exchanges != 1 || n.Refreshes != 1 || n.RefreshesRefused != 0 {
			t.Errorf("JD gave tokens for %d codes and %d refresh tokens, and refused %d", n.Exchanges, n.Refreshes, n.RefreshesRefused)
		}
		// The sandbox ends the old token at once: calls under way at that moment meet code 19, and continue with the
		// new one.
		if n.Codes["19"] > 3*32 {
			t.Errorf("%d calls met an old token", n.Codes["19"])
		}
		t.Logf("%d orders, %d calls, code 19 %d times", len(list), n.Codes["0"], n.Codes["19"])
		for _, r := range metrics {
			if at := gauge(t, r, "stockbridge_token_expires_timestamp_seconds"); time.Until(at) < 23*time.Hour {
				t.Errorf("a pusher shows that the token ends at %s", at)
			}
		}
	})
}

// gauge is the time that a gauge holds.
func gauge(t *testing.T, r *prometheus.Registry, name string) time.Time {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.GetMetric()) == 1 {
			return time.Unix(int64(f.GetMetric()[0].GetGauge().GetValue()), 0)
		}
	}
	t.Errorf("no %s", name)
	return time.Time{}
}

// The merchant revokes the token: it is refreshed once, refused, and the seller waits with the reason until the
// merchant consents again. Then everything continues automatically.
func TestARevokedTokenPausesTheSellerUntilTheNextConsent(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{Setup: oursToKeep, Knobs: jdsandbox.Knobs{Auth: jdsandbox.Auth{Consent: jdsandbox.ConsentGrant}}}, func(t *testing.T, w *testenv.World) {
		early := w.Maker.Next() // before any consent
		w.Publish(early)
		w.UntilPublished("held", early, held)
		authorize(t, w)
		w.Accepted(early)

		issued := w.JD.Issued()
		if len(issued) != 1 || !w.JD.Revoke(issued[0]) {
			t.Fatalf("issued %v", issued)
		}
		list := w.Maker.Make(20)
		w.Publish(list...)
		for _, o := range list {
			w.UntilPublished("held", o, held)
		}
		var pause seller.Pause
		began := time.Now()
		w.Until("the seller was probed in vain", func() bool {
			s, _ := w.Sellers.Get(stack.DemoSeller)
			if s.Pause != nil {
				pause = *s.Pause
			}
			return pause.By == sellerv1.Paused_BY_TOKEN && pause.At.After(began)
		})
		if !strings.Contains(pause.Reason, "bridgectl seller authorize demo --account sandbox") {
			t.Errorf("paused because %s", pause.Reason)
		}
		for _, m := range w.DeadLetters(event.Held) {
			if !slices.Contains([]string{seller.CauseToken(stack.DemoSeller, "sandbox"), seller.CausePause(stack.DemoSeller)}, m.Cause) || m.Reason.ZH == "" {
				t.Errorf("%s waits for %s: %+v", m.Key, m.Cause, m.Reason)
			}
		}
		if n := w.JD.Counters(); n.Refreshes != 0 || n.RefreshesRefused != 1 {
			t.Errorf("JD refreshed %d and refused %d", n.Refreshes, n.RefreshesRefused)
		}
		authorize(t, w)
		for _, o := range list {
			w.Accepted(o)
		}
		w.Until("nothing waits and the seller runs", func() bool {
			s, _ := w.Sellers.Get(stack.DemoSeller)
			return s.Pause == nil && len(w.DeadLetters(event.Held)) == 0
		})
		st, _ := w.Tokens.State(token.ID{Seller: stack.DemoSeller, Account: "sandbox"})
		if st.Failed != "" {
			t.Errorf("it stands as %+v", st)
		}
		nowhere(t, w, append(issued, append(w.JD.Issued(), jdsandbox.DefaultAppSecret)...))
	})
}

// nowhere checks that the broker stored no secret on the disk: events, dead letters, set-ups, tokens, ledger.
func nowhere(t *testing.T, w *testenv.World, secrets []string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(w.Dir(), "nats"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil // it was deleted meanwhile
		}
		files++
		for _, s := range secrets {
			if bytes.Contains(text, []byte(s)) {
				t.Errorf("%s stands in %s", s, path)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%d files, %v", files, err)
	}
}
