// Each script in testdata is a session at a shell with the expected output; together they are bridgectl's manual. The
// test binary acts as the command. Each script has its own broker at $NATS_URL.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/all"
	"stockbridge/services/bridgectl/ctl"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/document-pusher/documents"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
	"stockbridge/services/status-poller/poller"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bridgectl": ctl.Main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			t := env.T().(testing.TB)
			s, err := server.Start(server.Options{Dir: t.TempDir(), Port: server.RandomPort, Log: zerolog.Nop()})
			if err != nil {
				return err
			}
			env.Defer(s.Stop)
			jd, err := jdsandbox.New(jdsandbox.Config{Speed: 1, Stopped: true})
			if err != nil {
				return err
			}
			sandbox := httptest.NewServer(jd)
			env.Defer(sandbox.Close)
			env.Values["jd"] = jd
			env.Setenv("NATS_URL", s.URL())
			env.Setenv("SANDBOX", sandbox.URL+"/routerjson")
			env.Setenv("SANDBOX_OAUTH", sandbox.URL)
			env.Setenv("JD_APP_SECRET", jdsandbox.DefaultAppSecret)
			env.Setenv("JD_ACCESS_TOKEN", jdsandbox.DefaultToken)
			env.Setenv("SELLER_SECRETS_DIR", env.WorkDir)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("NOW", time.Now().Format(time.RFC3339))
			env.Setenv("TZ", "Asia/Shanghai")
			env.Setenv("LANG", "C.UTF-8")
			env.Setenv("BRIDGECTL_USER", "ops")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else every command of a -race build sleeps a second at its end
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"prints": prints, "until": until, "publish": publish, "protobuf": publishProto, "workers": workers, "jd": knob, "expand": expand, "consent": consent, "waybill": waybill,
		},
	})
}

var (
	stamp = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`)
	place = regexp.MustCompile(`INTAKE \d+`)
)

// prints compares what the last command printed with a file. All times are replaced by 2026-03-05 09:31:00, and message
// numbers count from 1.
func prints(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: prints stdout|stderr FILE")
	}
	got := stamp.ReplaceAllString(ts.ReadFile(args[0]), "2026-03-05 09:31:00")
	got = place.ReplaceAllString(got, "INTAKE 1")
	if want := ts.ReadFile(args[1]); got != want && *update {
		ts.Logf("update by hand: %s is\n%s", args[1], got)
	} else if got != want {
		ts.Fatalf("%s is\n%s\nwant\n%s", args[0], got, want)
	}
}

// until repeats a bridgectl command until its output matches, because workers need a moment.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if want.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never printed %q: %v\n%s%s", strings.Join(args[1:], " "), args[0], err, out, ts.ReadFile("stderr"))
		}
	}
}

var shipped = regexp.MustCompile(`order\.shipped +ESL\d+ by [^,]*, (\S+)`)

// waybill runs bridgectl and sets a variable to the waybill in its output.
func waybill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: waybill VARIABLE COMMAND...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	found := shipped.FindStringSubmatch(ts.ReadFile("stdout"))
	if found == nil {
		ts.Fatalf("no waybill in\n%s", ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

// expand replaces environment variables in a file.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// publish publishes a file unchanged, as an ERP would.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: publish SUBJECT FILE")
	}
	publishRaw(ts, args[0], nil, []byte(ts.ReadFile(args[1])))
}

// publishProto publishes the order in a file as protobuf, as an ERP would.
func publishProto(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: protobuf SUBJECT FILE")
	}
	var o orderv1.Audited
	ts.Check(protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal([]byte(ts.ReadFile(args[1])), &o))
	body, err := proto.Marshal(&o)
	ts.Check(err)
	publishRaw(ts, args[0], map[string][]string{"Content-Type": {"application/protobuf"}}, body)
}

func publishRaw(ts *testscript.TestScript, subject string, header map[string][]string, body []byte) {
	b := connect(ts)
	defer b.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, _, err := b.PublishRaw(ctx, subject, header, body)
	ts.Check(err)
}

func connect(ts *testscript.TestScript) *bus.Bus {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Options{URL: ts.Getenv("NATS_URL"), Name: "erp", Log: zerolog.Nop()})
	ts.Check(err)
	return b
}

// workers starts the workers in this process until the script ends.
func workers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: workers")
	}
	for _, name := range []string{"JD_APP_SECRET", "JD_ACCESS_TOKEN"} {
		ts.Check(os.Setenv(name, ts.Getenv(name))) // the same in all scripts
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ts.Check(old(ctx, connect(ts)))
	_, impatient, err := worker.Settings[poller.Config]([]string{"--poll-open=1s", "--poll-packed=1s", "--poll-shipped=1s"}, nil)
	ts.Check(err)
	_, soon, err := worker.Settings[pusher.Config]([]string{"--shadow-look-after=1s", "--shadow-give-up=3s"}, nil)
	ts.Check(err)
	_, early, err := worker.Settings[reconciler.Config]([]string{"--reconcile-deadline=1s", "--reconcile-confirm-after=1s"}, nil)
	ts.Check(err)
	_, settled, err := worker.Settings[documents.Config]([]string{"--push-settle-for=1s"}, nil)
	ts.Check(err)
	s, err := stack.Start(ctx, stack.Options{
		DataDir: ts.MkAbs("data"), NATSURL: worker.Secret(ts.Getenv("NATS_URL")), Settings: map[string]any{pusher.Name: soon, poller.Name: impatient, reconciler.Name: early, documents.Name: settled}, Log: zerolog.Nop(), Grace: 10 * time.Second,
	})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Stop()) })
	ts.Check(s.StartWorkers())
}

// old backdates the ledger's epoch by a minute. A younger ledger delays replayed orders, because it cannot know what
// was sent before its epoch.
func old(ctx context.Context, b *bus.Bus) error {
	defer b.Close()
	if _, err := b.Apply(ctx, bus.Topology{Services: all.Bus()}); err != nil {
		return err
	}
	bucket, err := b.Bucket(ctx, bus.BucketLedger)
	if err != nil {
		return err
	}
	books, err := b.Bucket(ctx, bus.BucketBooks)
	if err != nil {
		return err
	}
	l, err := inkv.Open(ctx, inkv.Options{Bucket: bucket, Books: books, Identity: b.ServerID, Now: func() time.Time { return time.Now().Add(-time.Minute) }})
	if err != nil {
		return err
	}
	defer l.Close()
	first, err := l.Claim(ctx, ledger.ClaimRequest{Key: ledger.Key{Seller: "script", Kind: "order", No: "0"}, Owner: "script"})
	if err != nil {
		return err
	}
	return l.Release(ctx, first.Claim, "the script begins")
}

// knob turns a knob of the sandbox.
func knob(ts *testscript.TestScript, neg bool, args []string) {
	jd := ts.Value("jd").(*jdsandbox.JD)
	switch {
	case len(args) == 1 && args[0] == "documents":
		fmt.Fprintln(ts.Stdout(), len(jd.Documents()))
	case len(args) == 1 && args[0] == "purchases":
		fmt.Fprintln(ts.Stdout(), len(jd.Purchases()))
	case len(args) == 1 && args[0] == "refuse": // to cancel a purchase order
		ts.Check(jd.SetKnobs(func(k *jdsandbox.Knobs) {
			k.Purchases.Cancel.Answers = map[jdsandbox.Code]jdsandbox.CancelAnswer{"10": jdsandbox.CancelRefused}
		}))
	case len(args) == 2 && args[0] == "number": // JD's of a purchase order
		ts.Setenv("NUMBER", jd.Purchases(args[1])[0].PoOrderNo)
	case len(args) == 2 && (args[0] == "lose" || args[0] == "drop"): // the next answer, or the next request
		_, err := jd.AddFault(jdsandbox.Fault{Kind: map[string]jdsandbox.Kind{"lose": jdsandbox.LoseAnswer, "drop": jdsandbox.Drop}[args[0]], Methods: args[1:], Count: 1})
		ts.Check(err)
	case len(args) == 2 && args[0] == "take": // the ERP's own program sends the order in a file
		_, err := jd.Take(ts.ReadFile(args[1]))
		ts.Check(err)
	case len(args) == 1 && args[0] == "writes":
		n := jd.Counters().Calls
		fmt.Fprintln(ts.Stdout(), n["eclp.order.addOrder"]+n["eclp.order.cancelOrder"])
	case len(args) == 2 && args[0] == "advance":
		by, err := time.ParseDuration(args[1])
		ts.Check(err)
		ts.Check(jd.Advance(by))
	case len(args) == 1 && args[0] == "revoke":
		for _, access := range jd.Issued() {
			jd.Revoke(access)
		}
	case len(args) == 2 && args[0] == "user":
		ts.Check(jd.SetKnobs(func(k *jdsandbox.Knobs) { k.Auth.UID = args[1] }))
	default:
		ts.Fatalf("usage: jd documents | jd purchases | jd number NO | jd lose METHOD | jd drop METHOD | jd refuse | jd writes | jd take FILE | jd advance DURATION | jd revoke | jd user UID")
	}
}

var link = regexp.MustCompile(`(?m)^https?://\S+$`)

// consent runs bridgectl while a merchant uses a browser: the merchant opens the link, grants or refuses, and follows
// the redirect or pastes the address. "elsewhere" grants, but returns the state of another link.
func consent(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: consent grant|refuse|elsewhere ARGS...")
	}
	program, err := exec.LookPath("bridgectl")
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	for _, name := range []string{"PATH", "NATS_URL", "JD_APP_SECRET", "HOME", "TZ", "LANG", "BRIDGECTL_USER", "GORACE", "TOKEN_KEY_FILE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	said, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines, visited := bufio.NewScanner(said), false
	for lines.Scan() {
		fmt.Fprintln(ts.Stderr(), lines.Text())
		if at := link.FindString(lines.Text()); at != "" && !visited {
			visited = true
			back := visit(ts, at, args[0])
			if slices.Contains(args, "--listen") {
				res, err := http.Get(back)
				ts.Check(err)
				res.Body.Close()
				fmt.Fprintf(ts.Stderr(), "the browser shows %s\n", res.Status)
				if args[0] == "elsewhere" { // the merchant tries again
					_, err := http.Get(visit(ts, at, "grant"))
					ts.Check(err)
				}
			} else {
				fmt.Fprintln(in, back)
			}
		}
	}
	printed, err := io.ReadAll(out)
	ts.Check(err)
	_, _ = ts.Stdout().Write(printed)
	if err := cmd.Wait(); (err != nil) != neg {
		ts.Fatalf("bridgectl %s: %v\n%s", strings.Join(args[1:], " "), err, printed)
	}
}

func visit(ts *testscript.TestScript, at, decision string) string {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if decision == "elsewhere" {
		u, err := url.Parse(at)
		ts.Check(err)
		q := u.Query()
		q.Set("state", "another")
		u.RawQuery = q.Encode()
		at, decision = u.String(), "grant"
	}
	res, err := client.PostForm(at, url.Values{"decision": {decision}})
	ts.Check(err)
	defer res.Body.Close()
	back, err := res.Location()
	ts.Check(err)
	return back.String()
}
