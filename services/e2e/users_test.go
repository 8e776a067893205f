//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/all"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
	"stockbridge/services/e2e/procs"
)

// TestEachConnectsAsItsOwnUser runs an order's story over a server that lets each program do only what its user may:
// the ERP's audit goes out, the shipment comes back, and nothing is refused on the way. The ledger is in JetStream too,
// so that its subjects are tried as well.
func TestEachConnectsAsItsOwnUser(t *testing.T) {
	t.Parallel()
	r, ctx := processes(t), t.Context()
	program := r.Binary
	addr, err := r.Addr()
	must(t, err)
	watch, err := r.Addr()
	must(t, err)

	config, err := exec.Command(program("bridgectl"), "topology", "users", "--seller", stack.DemoSeller, "--seller", "bolt").Output()
	must(t, err)
	main := fmt.Sprintf("listen: %q\nhttp: %q\njetstream { store_dir: %q }\ninclude users.conf\n", addr, watch, filepath.Join(r.Dir(), "js"))
	must(t, os.WriteFile(filepath.Join(r.Dir(), "users.conf"), config, 0o600), os.WriteFile(filepath.Join(r.Dir(), "nats.conf"), []byte(main), 0o600))
	env := []string{"HOME=" + r.Dir()}
	users := []string{"bridgectl", "erp-demo", "erp-bolt"}
	for _, service := range all.Services() {
		users = append(users, service.Name)
	}
	for _, user := range users {
		variable := strings.ReplaceAll(user, "-", "_")
		env = append(env, strings.ToUpper(variable)+"_PASSWORD=of-"+variable)
	}
	answers := func(url string) error {
		res, err := http.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	}
	start := func(name, program string, env []string, ready string, args ...string) *procs.Process {
		t.Helper()
		p, err := r.Start(ctx, procs.Spec{Name: name, Program: program, Env: env, Args: args})
		must(t, err)
		until(t, name+" is ready", func() bool { return answers(ready) == nil })
		return p
	}
	server := start("nats", program("nats-server"), env, "http://"+watch+"/healthz", "-c", filepath.Join(r.Dir(), "nats.conf"))
	must(t, r.StartSandbox(ctx, jdsandbox.Config{Speed: 30000}))

	as := func(user string) []string {
		return []string{"HOME=" + r.Dir(), "SELLER_SECRETS_DIR=" + r.Dir(), "NATS_URL=nats://" + user + ":of-" + strings.ReplaceAll(user, "-", "_") + "@" + addr}
	}
	ctl := func(user, input string, args ...string) (string, error) {
		c := exec.Command(program("bridgectl"), args...)
		c.Env, c.Stdin = as(user), strings.NewReader(input)
		out, err := c.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: bridgectl %s: %w\n%s", user, strings.Join(args, " "), err, out)
		}
		return string(out), err
	}
	_, err = ctl("bridgectl", "", "topology", "apply")
	must(t, err)
	setup, err := stack.DemoSetup(r.Dir(), r.Sandbox.Base)
	must(t, err)
	setup.Shops[0].Booking = sellerv1.Shop_BOOKING_DOCUMENTS
	setup.Stock = &sellerv1.Stock{Every: durationpb.New(time.Second), Lag: durationpb.New(0), Since: time.Now().Add(-time.Minute).Format(time.RFC3339)}
	text, err := seller.Render(setup)
	must(t, err)
	_, err = ctl("bridgectl", string(text), "seller", "apply", "-f", "-")
	must(t, err)
	for _, service := range all.Services() {
		at, err := r.Addr()
		must(t, err)
		start(service.Name, program(service.Name), append(as(service.Name), "HTTP_ADDR="+at, "PUSH_SETTLE_FOR=1s", "POLL_OPEN=1s", "POLL_PACKED=1s", "POLL_SHIPPED=1s", "RECONCILE_DEADLINE=1s", "RECONCILE_CONFIRM_AFTER=1s"), "http://"+at+"/readyz")
	}

	list := orders.New(stack.DemoSeller, 5).Make(2)
	o, masked := list[0], list[1]
	masked.Receiver.Name = "张*"
	line, err := protojson.Marshal(o)
	must(t, err)
	_, err = ctl("erp-demo", string(line), "order", "push", "-f", "-")
	must(t, err)
	until(t, "it is published as shipped", func() bool {
		out, err := ctl("bridgectl", "", "order", "explain", o.OutboundNo)
		return err == nil && strings.Contains(out, event.OrderShipped.Name)
	})
	until(t, "the flow of its shop is read", func() bool {
		out, err := ctl("bridgectl", "", "window", "ls", "-o", "json")
		return err == nil && strings.Contains(out, `"read"`)
	})
	// One is held and a person drops it: the reconciler reads everywhere.
	line2, err := protojson.Marshal(masked)
	must(t, err)
	_, err = ctl("erp-demo", string(line2), "order", "push", "-f", "-")
	must(t, err)
	until(t, "it is explained", func() bool {
		out, _ := ctl("bridgectl", "", "reconcile", "--now", "-o", "json")
		return strings.Contains(out, `"held": 1`)
	})
	_, err = ctl("bridgectl", "", "held", "drop", "--cause", "receiver:"+stack.DemoSeller, "--yes", "--why", "a test")
	must(t, err)
	until(t, "it is named", func() bool {
		out, _ := ctl("bridgectl", "", "reconcile", "--now", "-o", "json")
		return strings.Contains(out, `"left": 1`)
	})
	// Refusals so far are in the server's log.
	log, err := os.ReadFile(server.LogFile())
	must(t, err)
	if strings.Contains(string(log), "Violation") {
		t.Errorf("somebody was refused something:\n%s", log)
	}

	_, err = ctl("erp-bolt", string(line), "order", "push", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "no permission to publish to order.audited."+stack.DemoSeller) {
		t.Errorf("another seller's order: %v", err)
	}
}
