//go:build unix

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/procs"
)

// programs is the folder with every program, which the first caller builds.
func programs(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "stockbridge-e2e-"); built.err != nil {
			return
		}
		var r *procs.Run
		if r, built.err = procs.New(procs.Options{Dir: built.dir, Bin: built.dir}); built.err != nil {
			return
		}
		defer r.Close()
		built.err = r.Build(context.Background(), procs.Programs()...) // for the other tests too
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// processes makes a run that ends with the test, and shows what the programs said if it failed.
func processes(t *testing.T) *procs.Run {
	t.Helper()
	return processesWith(t, procs.Options{})
}

func processesWith(t *testing.T, o procs.Options) *procs.Run {
	t.Helper()
	o.Bin, o.Built = programs(t), true
	o.Dir, o.On = t.TempDir(), func(h procs.Happening) { t.Log(h.At.Format("05.000"), h) }
	r, err := procs.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		all := r.Processes()
		r.Close()
		for _, p := range all {
			if p.Alive() {
				t.Errorf("%s outlives its run", p.Name)
			}
			if t.Failed() {
				t.Logf("%s:\n%s", p.Name, p.Tail(8<<10))
			}
		}
	})
	return r
}

// TestTheProgramsOverRealServers runs the plain story with every part as a process: nats-server, redis-server,
// jd-sandbox, the workers, and bridgectl for the operator. A worker is killed in the middle.
func TestTheProgramsOverRealServers(t *testing.T) {
	t.Parallel()
	r, ctx := processes(t), t.Context()
	err := r.Stand(ctx, procs.Shape{Redis: "everysec", Sandbox: &jdsandbox.Config{
		Speed: 30000, Knobs: jdsandbox.Knobs{Latency: jdsandbox.Range{Min: jdsandbox.Duration(50 * time.Millisecond), Max: jdsandbox.Duration(150 * time.Millisecond)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Setenv("PUSH_SETTLE_FOR=1s", "PUSH_RESEND_AFTER=2s", "PUSH_REFUSE_AFTER=1s", "POLL_OPEN=1s", "POLL_PACKED=1s", "POLL_SHIPPED=1s", "LOG_LEVEL=warn")
	ctl := func(input string, args ...string) string {
		t.Helper()
		out, err := r.Bridgectl(ctx, input, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	setup, err := stack.DemoSetup(r.Dir(), r.Sandbox.Base)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(ctx, setup); err != nil {
		t.Fatal(err)
	}
	worker := func(program, name string) *procs.Process {
		t.Helper()
		p, err := r.Worker(ctx, program, name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := worker(procs.OrderPusher, "pusher-1")
	worker(procs.StatusPoller, "poller-1")

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

	documents := func() map[string]int {
		docs, err := r.Sandbox.Documents(ctx, jdsandbox.Query{})
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
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	second := worker(procs.OrderPusher, "pusher-2")
	until(t, "all orders are at the warehouse", func() bool { return len(documents()) == len(list) })
	for no, n := range documents() {
		if n != 1 {
			t.Errorf("%s: %d documents", no, n)
		}
	}
	until(t, "each is published as delivered", func() bool {
		return strings.Contains(ctl("", "order", "explain", list[len(list)-1].OutboundNo), event.OrderDelivered.Name) &&
			strings.Contains(ctl("", "order", "explain", list[0].OutboundNo), event.OrderDelivered.Name)
	})
	if v, err := r.Sandbox.Violations(ctx); err != nil || v.Total != 0 {
		t.Errorf("violations %v (%v)", v.Counts, err)
	}

	// Asked to stop, a worker ends without an error.
	if err := second.Stop(ctx); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// The harness itself: servers get their ports and their data back, older copies can be restored, and a frozen process
// continues.
func TestServersRestartWithTheirData(t *testing.T) {
	t.Parallel()
	r, ctx := processes(t), t.Context()
	if err := r.Stand(ctx, procs.Shape{Nodes: 3, Redis: "always"}); err != nil {
		t.Fatal(err)
	}
	ask := func(words ...string) string {
		t.Helper()
		answer, err := r.Redis.Ask(ctx, words...)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	ask("SET", "a", "1")
	old, err := r.Redis.Copy()
	if err != nil {
		t.Fatal(err)
	}
	ask("SET", "a", "2")
	must(t, r.Redis.Kill(), r.Redis.Start(ctx))
	ask("APPEND", "a", "x")
	if got := ask("STRLEN", "a"); got != ":2" {
		t.Errorf("after a kill the length is %s, want what was answered for", got)
	}
	must(t, r.Redis.Restore(ctx, old))
	if got := ask("STRLEN", "a"); got != ":1" {
		t.Errorf("after an older copy was restored the length is %s", got)
	}
	must(t, r.Redis.Wipe(ctx))
	if got := ask("DBSIZE"); got != ":0" {
		t.Errorf("wiped, it has %s keys", got)
	}

	// A frozen server does not answer; woken, it does.
	must(t, r.Redis.Pause())
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := r.Redis.Until(brief, r.Redis.Ready); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen server: %v", err)
	}
	must(t, r.Redis.Continue(), r.Redis.Until(ctx, r.Redis.Ready))

	// The leader of a stream is killed; the others choose another, and it is started again.
	leader, err := r.NATS.Leader(ctx, "ORDERS")
	if err != nil || leader == nil {
		t.Fatal(leader, err)
	}
	must(t, leader.Kill())
	if err := leader.Kill(); err == nil {
		t.Error("a process that had ended was killed")
	}
	until(t, "another node leads", func() bool {
		next, _ := r.NATS.Leader(ctx, "ORDERS") // there is none for a while
		return next != nil && next != leader
	})
	must(t, r.NATS.Start(ctx))
	copied, err := r.NATS.Copy()
	if err != nil {
		t.Fatal(err)
	}
	must(t, r.NATS.Restore(ctx, copied))
	until(t, "the restored cluster is as it was", func() bool { // once each stream has a leader again
		out, err := r.Bridgectl(ctx, "", "topology", "diff", "--replicas", "3")
		if err != nil {
			t.Logf("%v\n%s", err, out)
		}
		return err == nil
	})
	u, err := r.NATS.Nodes[0].Usage()
	if err != nil || u.CPU <= 0 || u.Resident < 1<<20 || u.Peak < u.Resident {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := r.NATS.Nodes[0].Signal(syscall.Signal(0)); err != nil || r.NATS.Nodes[0].Runs() < 2 {
		t.Errorf("%d runs, %v", r.NATS.Nodes[0].Runs(), err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatal(fmt.Errorf("step %d: %w", i+1, err))
		}
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
