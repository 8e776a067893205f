package worker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/worker"
)

// output is what a service writes, readable at the same time.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is a running service.
type running struct {
	out  *output
	stop context.CancelFunc
	// shell is sent when the service serves, ended when Run returned.
	shell chan *worker.Shell
	ended chan error
}

type noConfig struct{}

// packer is a service with that function.
func packer[C any](run func(context.Context, *worker.Shell, C) error) worker.Service {
	return worker.Define(worker.Service{Service: bus.Service{Name: "packer"}}, run)
}

// start runs a service that serves until it is asked to stop.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{out: &output{}, stop: cancel, shell: make(chan *worker.Shell, 1), ended: make(chan error, 1)}
	go func() {
		r.ended <- worker.Run(ctx, packer(func(ctx context.Context, s *worker.Shell, _ noConfig) error {
			r.shell <- s
			<-ctx.Done()
			return ctx.Err()
		}), append([]string{"--http-addr=127.0.0.1:0"}, args...), nil, r.out)
	}()
	t.Cleanup(cancel)
	return r
}

// get calls a probe once the service has logged its address.
func (r *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	var at string
	eventually(t, "it logs where its probes are", func() bool {
		m := regexp.MustCompile(`"http":"([^"]+)"`).FindStringSubmatch(r.out.String())
		if m != nil {
			at = m[1]
		}
		return m != nil
	})
	response, err := http.Get("http://" + at + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func (r *running) serves(t *testing.T) *worker.Shell {
	t.Helper()
	select {
	case s := <-r.shell:
		return s
	case err := <-r.ended:
		t.Fatalf("it ended: %v\n%s", err, r.out)
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not serve; it wrote\n%s", r.out)
	}
	return nil
}

func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not end; it wrote\n%s", r.out)
		return nil
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestAServiceStartsServesAndStops(t *testing.T) {
	_, url := bustest.StartServer(t)
	before := goleak.IgnoreCurrent()
	r := start(t, "--nats-url", url)
	s := r.serves(t)
	if s.Name != "packer" || s.Bus == nil || s.Ledger == nil || s.Sellers == nil || s.Warehouses == nil || s.Grace != 40*time.Second {
		t.Errorf("the shell lacks something: %+v", s)
	}
	if got := s.Serving("order-pusher"); got.Consumer != "order-pusher" || got.Attempts == nil || got.Metrics == nil || got.Grace != s.Grace {
		t.Errorf("serving: %+v", got)
	}
	if code, body := r.get(t, "/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz: %d %s", code, body)
	}
	eventually(t, "it is ready", func() bool { code, _ := r.get(t, "/readyz"); return code == 200 })
	s.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "parcels"}, func() float64 { return 7 }))
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, `parcels{service="packer"} 7`) || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics:\n%s", body)
	}
	if code, _ := r.get(t, "/else"); code != 404 {
		t.Errorf("else: %d", code)
	}
	r.stop()
	if err := r.end(t); err != nil {
		t.Errorf("asked to stop: %v", err)
	}
	if s.Bus.Ready() == nil {
		t.Error("the connection is left open")
	}
	http.DefaultClient.CloseIdleConnections()
	// The server runs in this process too, and ends its side of the connection a little later.
	left := goleak.Find(before)
	for n := 0; left != nil && n < 20; n++ {
		left = goleak.Find(before)
	}
	if left != nil {
		t.Error(left)
	}
	for _, want := range []string{`"level":"info"`, `"service":"packer"`, `"message":"serving"`, `"message":"stopped"`} {
		if !strings.Contains(r.out.String(), want) {
			t.Errorf("no %s in\n%s", want, r.out)
		}
	}
}

func TestTheHealthCheckAsksTheServiceBesideIt(t *testing.T) {
	r := start(t, "--nats-url", "nats://127.0.0.1:1") // waiting for NATS is not a reason to be killed
	r.get(t, "/healthz")
	at := regexp.MustCompile(`"http":"([^"]+)"`).FindStringSubmatch(r.out.String())[1]
	ask := func(args []string, environ ...string) error {
		return worker.Run(t.Context(), packer(func(context.Context, *worker.Shell, noConfig) error {
			t.Error("a second service runs")
			return nil
		}), args, environ, io.Discard)
	}
	if err := ask([]string{"--healthcheck"}, "HTTP_ADDR="+at); err != nil {
		t.Errorf("it lives: %v", err)
	}
	if err := ask([]string{"--http-addr", at, "--healthcheck"}); err != nil {
		t.Errorf("it lives, by flag: %v", err)
	}
	r.stop()
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if err := ask([]string{"--healthcheck"}, "HTTP_ADDR="+at); err == nil {
		t.Error("it stopped, and passes for alive")
	}
	if err := ask([]string{"--healthcheck"}, "HTTP_ADDR=off"); err == nil || !strings.Contains(err.Error(), "HTTP_ADDR") {
		t.Errorf("nothing to ask: %v", err)
	}
}

func TestRunWaitsForNATS(t *testing.T) {
	port := freePort(t)
	r := start(t, "--nats-url", "nats://packer:planted@127.0.0.1:"+strconv.Itoa(port))
	if code, body := r.get(t, "/readyz"); code != 503 || body != "not ready: waiting for NATS\n" {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _ := r.get(t, "/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}

	srv, err := server.Start(server.Options{Dir: t.TempDir(), Port: port, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	err = r.end(t)
	if !errors.Is(err, bus.ErrTopology) || !strings.Contains(err.Error(), "bridgectl topology apply") {
		t.Errorf("without topology: %v", err)
	}

	if _, err := bustest.Connect(t, srv.URL()).Apply(t.Context(), bus.Topology{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	again := start(t, "--nats-url", srv.URL())
	again.serves(t)
	again.stop()
	if err := again.end(t); err != nil {
		t.Error(err)
	}
	if strings.Contains(r.out.String(), "planted") {
		t.Errorf("a secret in\n%s", r.out)
	}
}

func TestRunStopsWhileItWaits(t *testing.T) {
	r := start(t, "--nats-url", "nats://packer:planted@127.0.0.1:"+strconv.Itoa(freePort(t)))
	r.get(t, "/readyz")
	r.stop()
	if err := r.end(t); err != nil {
		t.Errorf("asked to stop: %v", err)
	}
}

func TestRunHidesSecrets(t *testing.T) {
	_, url := bustest.StartServer(t)
	withUser := strings.Replace(url, "nats://", "nats://packer:planted1@", 1)
	redis := "redis://packer:planted2@127.0.0.1:" + strconv.Itoa(freePort(t)) + "/0"
	r := start(t, "--nats-url", withUser, "--redis-url", redis, "--log-level=trace")
	eventually(t, "it says that the ledger is away", func() bool { return strings.Contains(r.out.String(), "waiting for the ledger") })
	_, ready := r.get(t, "/readyz")
	_, metrics := r.get(t, "/metrics")
	r.stop()
	err := r.end(t)
	if err != nil {
		t.Error(err)
	}
	for _, text := range []string{r.out.String(), ready, metrics} {
		if strings.Contains(text, "planted") {
			t.Errorf("a secret in\n%s", text)
		}
	}
}

func TestRunReturnsItsError(t *testing.T) {
	_, url := bustest.StartServer(t)
	broken := errors.New("broken")
	err := worker.Run(t.Context(), packer(func(context.Context, *worker.Shell, noConfig) error { return broken }), []string{"--http-addr=off", "--nats-url", url}, nil, &output{})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = worker.Run(t.Context(), packer(func(context.Context, *worker.Shell, noConfig) error { return nil }), []string{"--nats-url", url, "--http-addr", l.Addr().String()}, nil, &output{})
	if err == nil || !strings.HasPrefix(err.Error(), "HTTP_ADDR: ") {
		t.Errorf("got %v", err)
	}
}

func TestRunRefusesALedgerThatForgets(t *testing.T) {
	_, url := bustest.StartServer(t)
	redis := redistest.Start(t, "maxmemory-policy allkeys-lru")
	r := start(t, "--nats-url", url, "--redis-url", redis.URL())
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "noeviction") {
		t.Errorf("got %v", err)
	}
}

func TestShellsShareParts(t *testing.T) {
	b := bustest.Start(t)
	r := prometheus.NewRegistry()
	parts, closeParts, err := worker.Open(t.Context(), b, worker.Options{Log: zerolog.Nop(), Metrics: r, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer closeParts()
	one, two := parts.Shell("one"), parts.Shell("two")
	if one.Bus != two.Bus || one.Sellers != two.Sellers || one.Ledger != two.Ledger {
		t.Error("they do not share")
	}
	for _, s := range []*worker.Shell{one, two} {
		s.Metrics.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "same"}))
	}
	if err := parts.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
