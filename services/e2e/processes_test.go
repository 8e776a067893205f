package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse/jd/jdtest"
	"stockbridge/pkg/warehouse/jd/jdtest/control"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
)

// TestTheProgramsOverRealServers tells the plain story with every part its own process: nats-server, redis-server,
// jd-sandbox, the workers, and bridgectl for whatever an operator does. A worker is killed in the middle.
func TestTheProgramsOverRealServers(t *testing.T) {
	bin := t.TempDir()
	build(t, bin, "github.com/nats-io/nats-server/v2", "stockbridge/services/jd-sandbox", "stockbridge/services/order-pusher",
		"stockbridge/services/status-poller", "stockbridge/services/bridgectl")
	nats, sandbox := free(t), free(t)
	run(t, nil, filepath.Join(bin, "nats-server"), "-js", "-sd", t.TempDir(), "-a", "127.0.0.1", "-p", port(nats))
	config := filepath.Join(t.TempDir(), "sandbox.yaml")
	write(t, config, "speed: 30000\nknobs:\n  latency: {min: 50ms, max: 150ms}\n")
	run(t, nil, filepath.Join(bin, "jd-sandbox"), "-addr", sandbox, "-config", config)
	env := []string{
		"NATS_URL=nats://" + nats, "REDIS_URL=" + redistest.Start(t).URL(), "HTTP_ADDR=127.0.0.1:0", "LOG_LEVEL=warn",
		"PUSH_SETTLE_FOR=1s", "PUSH_RESEND_AFTER=2s", "POLL_OPEN=1s", "POLL_PACKED=1s", "POLL_SHIPPED=1s",
	}
	reached(t, nats)
	reached(t, sandbox)

	ctl := func(input string, args ...string) string {
		t.Helper()
		c := exec.Command(filepath.Join(bin, "bridgectl"), args...)
		c.Env, c.Stdin = append(os.Environ(), env...), strings.NewReader(input)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("bridgectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	ctl("", "topology", "apply")
	setup, err := stack.DemoSetup(t.TempDir(), "http://"+sandbox)
	if err != nil {
		t.Fatal(err)
	}
	text, err := seller.Render(setup)
	if err != nil {
		t.Fatal(err)
	}
	ctl(string(text), "seller", "apply", "-f", "-")

	pusher := filepath.Join(bin, "order-pusher")
	first := run(t, env, pusher)
	run(t, env, filepath.Join(bin, "status-poller"))

	list := orders.New(stack.DemoSeller, 5).Make(60)
	var lines bytes.Buffer
	for _, o := range list {
		line, err := protojson.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	ctl(lines.String(), "order", "push", "-f", "-")

	jd := control.New("http://" + sandbox)
	documents := func() map[string]int {
		docs, err := jd.Documents(t.Context(), jdtest.Query{})
		if err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, d := range docs {
			n[d.IsvUUID]++
		}
		return n
	}
	until(t, "some orders are at the warehouse", func() bool { return len(documents()) > 5 })
	// Killed with calls in flight; a second one takes over.
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := run(t, env, pusher)
	until(t, "all orders are at the warehouse", func() bool { return len(documents()) == len(list) })
	for no, n := range documents() {
		if n != 1 {
			t.Errorf("%s: %d documents", no, n)
		}
	}
	until(t, "each is told to be delivered", func() bool {
		return strings.Contains(ctl("", "order", "explain", list[len(list)-1].OutboundNo), event.OrderDelivered.Name) &&
			strings.Contains(ctl("", "order", "explain", list[0].OutboundNo), event.OrderDelivered.Name)
	})
	if v, err := jd.Violations(t.Context()); err != nil || v.Total != 0 {
		t.Errorf("violations %v (%v)", v.Counts, err)
	}

	// Asked to stop, a worker ends by itself and without an error.
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func build(t *testing.T, into string, packages ...string) {
	t.Helper()
	for _, p := range packages {
		name := filepath.Base(strings.TrimSuffix(p, "/v2"))
		if out, err := exec.Command("go", "build", "-o", filepath.Join(into, name), p).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", p, err, out)
		}
	}
}

// run starts a program that is killed when the test ends, and shows what it said if the test failed.
func run(t *testing.T, env []string, program string, args ...string) *exec.Cmd {
	t.Helper()
	var said bytes.Buffer
	c := exec.Command(program, args...)
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), env...), &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed, or waited for already
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(program), said.String())
		}
	})
	return c
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func port(addr string) string {
	_, p, _ := strings.Cut(addr, ":")
	return p
}

func reached(t *testing.T, addr string) {
	t.Helper()
	until(t, addr+" answers", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// until waits for what must happen; the limit only bounds a failure.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain: " + what)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}
