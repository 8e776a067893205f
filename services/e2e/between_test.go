//go:build unix

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/seller"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/procs"
)

// TestSellersDoNotSilenceEachOther has two ERPs, each with its own user of a guarded server, do what once lost orders:
// by accident they use the same numbers and ids, and on purpose one uses the ids of the events that the other's orders
// will have.
func TestSellersDoNotSilenceEachOther(t *testing.T) {
	t.Parallel()
	r, ctx := processes(t), t.Context()
	program := r.Binary
	addr, err := r.Addr()
	must(t, err)
	watch, err := r.Addr()
	must(t, err)
	users, err := exec.Command(program("bridgectl"), "topology", "users", "--seller", "acme", "--seller", "bolt").Output()
	must(t, err)
	main := fmt.Sprintf("listen: %q\nhttp: %q\njetstream { store_dir: %q }\ninclude users.conf\n", addr, watch, filepath.Join(r.Dir(), "js"))
	must(t, os.WriteFile(filepath.Join(r.Dir(), "users.conf"), users, 0o600), os.WriteFile(filepath.Join(r.Dir(), "nats.conf"), []byte(main), 0o600))
	env := []string{"HOME=" + r.Dir()}
	// As users.conf names them.
	for _, variable := range regexp.MustCompile(`\$([A-Z_]+)_PASSWORD`).FindAllStringSubmatch(string(users), -1) {
		env = append(env, variable[1]+"_PASSWORD=of-"+strings.ToLower(variable[1]))
	}
	get := func(url string) (text string, ok bool) {
		res, err := http.Get(url)
		if err != nil {
			return "", false
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		return string(raw), err == nil && res.StatusCode == http.StatusOK
	}
	start := func(name, program string, env []string, ready string, args ...string) {
		t.Helper()
		_, err := r.Start(ctx, procs.Spec{Name: name, Program: program, Env: env, Args: args})
		must(t, err)
		until(t, name+" is ready", func() bool { _, ok := get(ready); return ok })
	}
	start("nats", program("nats-server"), env, "http://"+watch+"/healthz", "-c", filepath.Join(r.Dir(), "nats.conf"))
	must(t, r.StartSandbox(ctx, jdsandbox.Config{Stopped: true}))
	urlOf := func(user string) string {
		return "nats://" + user + ":of-" + strings.ReplaceAll(user, "-", "_") + "@" + addr
	}
	ctl := func(input string, args ...string) {
		t.Helper()
		c := exec.Command(program("bridgectl"), args...)
		c.Env, c.Stdin = []string{"HOME=" + r.Dir(), "SELLER_SECRETS_DIR=" + r.Dir(), "NATS_URL=" + urlOf("bridgectl")}, strings.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("bridgectl %v: %v\n%s", args, err, out)
		}
	}
	ctl("", "topology", "apply")
	for i, name := range []string{"acme", "bolt"} {
		setup, err := stack.DemoSetup(r.Dir(), r.Sandbox.Base)
		must(t, err)
		setup.Name, setup.Accounts[0].Department = name, fmt.Sprintf("EBU000000000000%d", i+1)
		text, err := seller.Render(setup)
		must(t, err)
		ctl(string(text), "seller", "apply", "-f", "-")
	}
	at, err := r.Addr()
	must(t, err)
	start("order-pusher", program("order-pusher"), []string{"HOME=" + r.Dir(), "SELLER_SECRETS_DIR=" + r.Dir(), "NATS_URL=" + urlOf("order-pusher"), "HTTP_ADDR=" + at, "PUSH_SETTLE_FOR=1s"}, "http://"+at+"/readyz")

	acme, bolt := bustest.NewERP(t, urlOf("erp-acme")), bustest.NewERP(t, urlOf("erp-bolt"))
	const n = 20
	list := map[string][]*orderv1.Audited{"acme": orders.New("acme", 3).Make(n), "bolt": orders.New("bolt", 3).Make(n)}
	// On purpose: acme has used the ids of bolt's coming events.
	for _, o := range list["bolt"] {
		for _, name := range []string{event.OrderAccepted.Name, event.OrderHeld.Name, event.OrderFailed.Name} {
			acme.Publish("order.audited.acme", fmt.Sprintf("%s/bolt/%s/1", name, o.OutboundNo), []byte("x"))
		}
	}
	// By accident: equal numbers, and the id that the docs once showed.
	for i := range n {
		for name, erp := range map[string]*bustest.ERP{"acme": acme, "bolt": bolt} {
			o := list[name][i]
			body, err := protojson.Marshal(o)
			must(t, err)
			erp.Publish("order.audited."+name, fmt.Sprintf("order.audited/%s/1", o.OutboundNo), body)
		}
	}

	b, err := bus.Connect(ctx, bus.Options{URL: urlOf("bridgectl"), Name: "bridgectl", Log: zerolog.Nop()})
	must(t, err)
	t.Cleanup(b.Close)
	for name, list := range list {
		seen := orderview.New(b, name)
		until(t, "all orders of "+name+" have outcomes", func() bool {
			must(t, seen.Update(context.WithoutCancel(ctx)))
			for _, o := range list {
				if got := seen.Orders[o.OutboundNo]; got == nil || len(got.Accepted) != 1 {
					return false
				}
			}
			return true
		})
	}
	for _, o := range list["bolt"] {
		a, err := r.Sandbox.Documents(ctx, jdsandbox.Query{IsvUUID: o.OutboundNo})
		must(t, err)
		if len(a) != 2 { // one of each seller, in separate departments
			t.Errorf("JD has %d documents under %s", len(a), o.OutboundNo)
		}
	}
	// A request to cancel is answered over the same permissions.
	acme.Publish("order.cancel.requested.acme", "c-1", fmt.Appendf(nil, `{"seller":"acme","outboundNo":%q,"requestId":"refund-1","cause":"CAUSE_REFUND","requestedAt":"2026-03-05T10:00:00+08:00"}`, list["acme"][0].OutboundNo))
	until(t, "the request to cancel is answered", func() bool {
		answered := false
		err := b.Events(ctx, bus.EventQuery{Names: []string{event.OrderCancelUnknown.Name}, Seller: "acme"}, func(bus.Stored) error {
			answered = true
			return nil
		})
		must(t, err)
		return answered
	})
	text, _ := get("http://" + at + "/metrics")
	if !strings.Contains(text, `stockbridge_bus_id_taken_total{consumer="order-pusher",service="order-pusher"} 0`) {
		t.Error("an id of an ERP's was that of an outcome: they are not in streams of their own")
	}
}
