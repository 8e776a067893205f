//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/smalldisk"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/procs"
)

// TestFullDisksUnderTheServers fills the disk of nats-server, then that of redis-server, both as processes, under a
// worker: it is not ready within ten seconds and says why, and after the documented step every order is at the
// warehouse, once.
func TestFullDisksUnderTheServers(t *testing.T) {
	t.Parallel()
	disks := map[string]*smalldisk.Disk{}
	data := map[string]string{}
	for _, server := range []string{"nats", "redis"} {
		d, err := smalldisk.Mount(t.TempDir(), 48<<20)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Unmount() })
		disks[server], data[server] = d, d.Dir
	}
	r, ctx := processesWith(t, procs.Options{Data: data}), t.Context()
	must(t, r.Stand(ctx, procs.Shape{Redis: "everysec", Sandbox: &jdsandbox.Config{Speed: 1}}))
	setup, err := stack.DemoSetup(r.Dir(), r.Sandbox.Base)
	must(t, err, r.Apply(ctx, setup))
	pusher, err := r.Worker(ctx, procs.OrderPusher, "pusher", "PUSH_RESEND_AFTER=2s", "PUSH_SETTLE_FOR=1s")
	must(t, err)

	readyz := func() (code int, text string) {
		res, err := http.Get(pusher.HTTP + "/readyz")
		must(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		must(t, err)
		return res.StatusCode, string(body)
	}
	notReady := func(why string, words ...string) {
		t.Helper()
		var code int
		var text string
		for end := time.Now().Add(10 * time.Second); code != http.StatusServiceUnavailable; {
			if time.Now().After(end) { // what the runbook promises
				t.Fatalf("%s: it is ready: %s", why, text)
			}
			code, text = readyz()
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is not in: %s", why, w, text)
			}
		}
	}

	erp := bustest.Connect(t, r.NATS.URL())
	made := orders.New(stack.DemoSeller, 9)
	publish := func(e event.Event, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return erp.Publish(ctx, e)
	}
	audit := func() event.Event {
		o := made.Next()
		return event.OrderAudited.About(o.GetSeller(), o.GetOutboundNo(), time.Now(), o, event.Revision(o.GetRevision()))
	}
	published := 0
	arrive := func(n int) {
		t.Helper()
		for range n {
			must(t, publish(audit(), time.Minute))
			published++
		}
		until(t, fmt.Sprintf("all %d are at the warehouse", published), func() bool {
			docs, err := r.Sandbox.Documents(ctx, jdsandbox.Query{})
			return err == nil && len(docs) >= published
		})
	}
	arrive(15)

	must(t, disks["nats"].Fill())
	notReady("NATS' disk is full", "restart nats-server", "重启 nats-server")
	o := made.Next()
	for len(o.GetLines()) < 100 { // more than the stream's last page has room for
		line := proto.CloneOf(o.GetLines()[0])
		line.LineId = fmt.Sprint(len(o.GetLines()) + 1)
		o.Lines = append(o.Lines, line)
	}
	large := event.OrderAudited.About(o.GetSeller(), o.GetOutboundNo(), time.Now(), o, event.Revision(o.GetRevision()))
	if publish(large, time.Second) == nil {
		t.Error("stored without space")
	}
	must(t, disks["nats"].Free())
	if publish(large, time.Second) == nil {
		t.Error("a closed stream opened without a restart")
	}
	notReady("there is space again, and nobody has restarted nats-server")
	must(t, r.NATS.Restart(ctx)) // the documented step
	until(t, "the worker is ready", func() bool { code, _ := readyz(); return code == http.StatusOK })
	until(t, "the ERP is connected again", func() bool { return erp.Ready() == nil })
	must(t, publish(large, time.Minute))
	published++
	arrive(5)

	must(t, disks["redis"].Fill())
	until(t, "Redis has met its full disk", func() bool {
		answer, err := r.Redis.Ask(ctx, "SET", "filler", strings.Repeat("x", 5000))
		return err == nil && strings.HasPrefix(answer, "-MISCONF")
	})
	notReady("Redis' disk is full", "MISCONF", "请释放磁盘空间")
	must(t, disks["redis"].Free()) // it continues automatically
	until(t, "the worker is ready", func() bool { code, _ := readyz(); return code == http.StatusOK })
	arrive(5)

	docs, err := r.Sandbox.Documents(ctx, jdsandbox.Query{})
	must(t, err)
	numbers := map[string]bool{}
	for _, d := range docs {
		numbers[d.IsvUUID] = true
	}
	if v, err := r.Sandbox.Violations(ctx); err != nil || v.Total != 0 || len(docs) != published || len(numbers) != published {
		t.Errorf("%d documents of %d numbers, published %d; violations %v (%v)", len(docs), len(numbers), published, v.Counts, err)
	}
}
