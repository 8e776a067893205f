package ctl

import (
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/purchase"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/worker"
	purchasev1 "stockbridge/proto/purchase/v1"
	"stockbridge/services/all"
)

// resolvable is a broker without workers, a ledger and a warehouse.
type resolvable struct {
	t   *testing.T
	url string
	b   *bus.Bus
	l   ledger.Ledger
	wh  warehouse.PurchaseChannel
	// behind is how long ago the ledger takes what is written to have happened.
	behind time.Duration
	seq    uint64
}

func newResolvable(t *testing.T) *resolvable {
	t.Helper()
	t.Setenv("JD_APP_SECRET", jdsandbox.DefaultAppSecret)
	t.Setenv("JD_ACCESS_TOKEN", jdsandbox.DefaultToken)
	t.Setenv("SELLER_SECRETS_ENV", "JD_")
	jd, err := jdsandbox.New(jdsandbox.Config{Speed: 1, Stopped: true})
	if err != nil {
		t.Fatal(err)
	}
	sandbox := httptest.NewServer(jd)
	t.Cleanup(sandbox.Close)
	b, url := bustest.StartServer(t, all.Bus()...)
	r := &resolvable{t: t, url: url, b: b, behind: 10 * time.Minute}
	r.l = r.ledger()

	a := &app{Config: &Config{NATSURL: worker.Secret(url), SecretsEnv: "JD_"}, Streams: Streams{Err: os.Stderr}, now: time.Now}
	t.Cleanup(a.close)
	registry, err := a.registry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	setup, err := seller.Parse([]byte(`
name: demo
accounts:
  - {name: jd, kind: jd, url: "` + sandbox.URL + `/routerjson", app_key: sandbox-app, app_secret: {env: JD_APP_SECRET}, access_token: {env: JD_ACCESS_TOKEN}, token_owner: external, department: EBU0000000000001, vendor_source: ISV0000000000001}
warehouses: [{code: W01, account: jd, warehouse_no: 110000001}]
shops: [{code: S01, shop_no: ESP0020000000001, warehouses: [W01]}]
suppliers: [{code: SUP-8, number: EMS0010000000001}]`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Put(t.Context(), setup, 0); err != nil {
		t.Fatal(err)
	}
	ws, _, done, err := a.calling(t.Context(), r.l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	wh, err := ws.Open(seller.New(setup, nil), "W01", quota.Push)
	if err != nil {
		t.Fatal(err)
	}
	r.wh = wh.(warehouse.Purchaser).Purchases()
	return r
}

// begins begins the ledger's epoch.
func (r *resolvable) begins() {
	r.t.Helper()
	if err := r.l.Release(r.t.Context(), r.claims("0"), "begins"); err != nil {
		r.t.Fatal(err)
	}
}

// ledger is the broker's, by a clock that is late.
func (r *resolvable) ledger() ledger.Ledger {
	r.t.Helper()
	documents, err := r.b.Bucket(r.t.Context(), bus.BucketLedger)
	if err != nil {
		r.t.Fatal(err)
	}
	books, err := r.b.Bucket(r.t.Context(), bus.BucketBooks)
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := inkv.Open(r.t.Context(), inkv.Options{
		Bucket: documents, Books: books, Identity: r.b.ServerID, Now: func() time.Time { return time.Now().Add(-r.behind) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = l.Close() })
	return l
}

func (r *resolvable) audited(no string) *purchasev1.Audited {
	return &purchasev1.Audited{
		Seller: "demo", Warehouse: "W01", No: no, Revision: 1, AuditedAt: timestamppb.New(time.Unix(1_772_000_000, 0)), Supplier: "SUP-8",
		Lines: []*purchasev1.Line{{LineId: "1", GoodsCode: "TEA", WarehouseGoodsNo: "EMG0010000000001", Quantity: 5}},
	}
}

// sends sends it without anybody's knowing, and returns the warehouse's number.
func (r *resolvable) sends(no string) string {
	r.t.Helper()
	m := r.audited(no)
	got, err := r.wh.Send(r.t.Context(), m, r.wh.Plan(m))
	if err != nil {
		r.t.Fatal(err)
	}
	return got.WarehouseNo
}

func (r *resolvable) request(no, owner string) ledger.ClaimRequest {
	m := r.audited(no)
	req := purchase.Kind.ClaimRequest(kind.Delivery{StreamTime: time.Now()}, purchase.Kind.Facts(m), purchase.Kind.Hash(m), owner)
	req.Identity = string(r.wh.Identity())
	return req
}

func (r *resolvable) claims(no string) ledger.Claim {
	r.t.Helper()
	claimed, err := r.l.Claim(r.t.Context(), r.request(no, "worker-"+no))
	if err != nil {
		r.t.Fatal(err)
	}
	return claimed.Claim
}

// lost is a document whose answer was lost, some minutes ago.
func (r *resolvable) lost(no string) {
	r.t.Helper()
	if err := r.l.MarkUnknown(r.t.Context(), r.claims(no), "no answer"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *resolvable) accepted(no, number string) {
	r.t.Helper()
	if err := r.l.Accept(r.t.Context(), r.request(no, "worker-"+no), number, nil, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

// deadLetter stores its message as a worker does.
func (r *resolvable) deadLetter(kind, no, cause string) {
	r.t.Helper()
	text, err := protojson.Marshal(r.audited(no))
	if err != nil {
		r.t.Fatal(err)
	}
	r.seq++
	now := time.Now().UTC().Format(time.RFC3339Nano)
	class := "permanent"
	if cause != "" {
		class = "hold"
	}
	if _, _, err := r.b.PublishRaw(r.t.Context(), event.DeadLetterSubject(kind, "document-pusher-purchase", "INTAKE", r.seq), map[string][]string{
		event.HeaderID: {fmt.Sprintf("purchase.audited/demo/%s/%d", no, r.seq)}, event.HeaderOriginSubject: {"purchase.audited.demo"},
		event.HeaderOriginStream: {"INTAKE"}, event.HeaderOriginSeq: {fmt.Sprint(r.seq)}, event.HeaderOriginTime: {now},
		event.HeaderSeller: {"demo"}, event.HeaderKey: {no}, event.HeaderClass: {class}, event.HeaderCause: {cause},
		event.HeaderReason: {`{"Code":"purchase.unresolved"}`}, event.HeaderAttempts: {"1"}, event.HeaderLast: {now},
	}, text); err != nil {
		r.t.Fatal(err)
	}
}

func (r *resolvable) held(no string) {
	r.t.Helper()
	r.deadLetter(event.Held, no, seller.CauseUnresolved("demo", "purchase/"+no))
}

func (r *resolvable) left() int {
	r.t.Helper()
	items, _, err := r.b.DeadLetters(r.t.Context(), bus.DeadLetterQuery{})
	if err != nil {
		r.t.Fatal(err)
	}
	return len(items)
}

func (r *resolvable) state(no string) string {
	r.t.Helper()
	e, err := r.l.Get(r.t.Context(), purchase.Kind.Key("demo", no))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(e.State) + " " + e.Number)
}

func (r *resolvable) run(in string, terminal bool, args ...string) ran {
	return runs(r.t.Context(), r.url, in, terminal, slices.Concat([]string{"purchase", "resolve", "demo"}, args, []string{"--wait", "0s"})...)
}

// What a person says of the warehouse is believed only where it can be true, and nothing is done otherwise.
func TestWhatIsAtTheWarehouseIsSaidByAPerson(t *testing.T) {
	r := newResolvable(t)
	r.begins()
	there, late, twice, other := r.sends("A-1"), r.sends("A-12"), r.sends("A-13"), r.sends("B-1")
	inHand := func(no string) {
		r.behind = 0
		r.claims(no)
		r.behind = 10 * time.Minute
		r.held(no)
	}
	for _, c := range []struct {
		name  string
		no    string
		given func(no string)
		args  []string
		code  int
		says  string
		// state of the ledger and number of messages left afterwards.
		state string
		left  int
	}{
		{"it is there, and the ledger was lost since", "A-1", func(no string) { r.held(no) }, []string{"--number", there}, exitOK, "accepted " + there, "accepted " + there, 0},
		{"that was said before, and the command ended before the release", "A-1", func(no string) { r.held(no) }, []string{"--number", there}, exitOK, "accepted " + there, "accepted " + there, 0},
		{"it was accepted by a worker under another number", "A-1", func(no string) { r.held(no) }, []string{"--number", other}, exitWrong, "the warehouse has it as " + there, "accepted " + there, 1},
		{"it was accepted by a worker, and somebody says that it is not there", "A-1", func(no string) { r.held(no) }, []string{"--absent"}, exitWrong, "the warehouse has it as " + there, "accepted " + there, 1},
		{"the number is another purchase order's", "A-2", func(no string) { r.lost(no); r.held(no) }, []string{"--number", other}, exitWrong, "is that of purchase order B-1, not of A-2", "unknown", 1},
		{"a worker has it in hand", "A-3", inHand, []string{"--absent"}, exitWrong, "is being handled at this moment: nothing was done", "intent", 1},
		{"a worker has it in hand, and it is there", "A-11", inHand, []string{"--number", there}, exitWrong, "is being handled at this moment: nothing was done", "intent", 1},
		{"a worker had it in hand and was killed", "A-12", func(no string) { r.claims(no); r.held(no) }, []string{"--number", late}, exitOK, "accepted " + late, "accepted " + late, 0},
		{"it is not there", "A-4", func(no string) { r.lost(no); r.held(no) }, []string{"--absent"}, exitOK, "unknown; released 1 message", "unknown", 0},
		{"it is not there, and was published twice", "A-5", func(no string) { r.lost(no); r.held(no); r.held(no) }, []string{"--absent"}, exitOK, "released 1 message", "unknown", 1},
		{"the ledger has its number under another one", "A-13", func(no string) { r.accepted("C-1", twice); r.lost(no); r.held(no) }, []string{"--number", twice}, exitWrong, twice + " is the number of C-1\nhint: which of the two has it? bridgectl purchase explain " + twice, "unknown", 1},
		{"it failed", "A-6", func(no string) {
			if err := r.l.Refuse(t.Context(), r.claims(no), fault.Reason{Code: "x", EN: "no such goods"}); err != nil {
				t.Fatal(err)
			}
			r.held(no)
		}, []string{"--number", other}, exitWrong, "has failed: no such goods\nhint: the ERP knows that it failed: have document " + other, "refused", 1},
		{"it waits for something else", "A-7", func(no string) { r.lost(no); r.deadLetter(event.Held, no, "seller:demo") }, []string{"--absent"}, exitWrong, "it waits for something else: bridgectl held show", "unknown", 1},
		{"it waited too long", "A-8", func(no string) { r.lost(no); r.deadLetter(event.Dead, no, "") }, []string{"--absent"}, exitWrong, "it is a dead letter: bridgectl dlq replay", "unknown", 1},
		{"nobody knows it", "A-9", func(string) {}, []string{"--absent"}, exitWrong, "the ledger does not know it", "", 0},
		{"it was sent under another account", "A-10", func(no string) {
			req := r.request(no, "w")
			req.Identity = "another"
			claimed, err := r.l.Claim(t.Context(), req)
			if err == nil {
				err = r.l.MarkUnknown(t.Context(), claimed.Claim, "no answer")
			}
			if err != nil {
				t.Fatal(err)
			}
			r.held(no)
		}, []string{"--number", other}, exitWrong, "was sent under the earlier account another", "unknown", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, m := range must(r.b.DeadLetters(t.Context(), bus.DeadLetterQuery{})) {
				if err := r.b.Drop(t.Context(), m.Seq, bus.By{Who: "test"}); err != nil {
					t.Fatal(err)
				}
			}
			c.given(c.no)
			got := r.run("", false, append([]string{c.no}, c.args...)...)
			if got.code != c.code || !strings.Contains(got.out+got.err, c.says) {
				t.Errorf("ended %d, want %d and %q\n%s%s", got.code, c.code, c.says, got.out, got.err)
			}
			if state := r.state(c.no); state != c.state || r.left() != c.left {
				t.Errorf("the ledger has %q, want %q; %d messages left, want %d", state, c.state, r.left(), c.left)
			}
		})
	}
}

func must(items []bus.DeadLetter, _ uint64, err error) []bus.DeadLetter {
	if err != nil {
		panic(err)
	}
	return items
}

// As long as what was sent may still arrive, nobody can know that it is not there.
func TestNobodySaysTooSoonThatItIsNotThere(t *testing.T) {
	r := newResolvable(t)
	r.behind = 0
	r.lost("A-1")
	r.held("A-1")
	r.held("A-2") // the ledger began a moment ago: it does not know what was sent before
	for _, no := range []string{"A-1", "A-2"} {
		got := r.run("", false, no, "--absent")
		if got.code != exitWrong || !strings.Contains(got.err, "may still arrive: nothing was done\nhint: wait ") || !strings.Contains(got.err, "look at the warehouse again") {
			t.Errorf("%s: ended %d\n%s%s", no, got.code, got.out, got.err)
		}
	}
	if r.left() != 2 || r.state("A-1") != "unknown" || r.state("A-2") != "" {
		t.Errorf("%d messages left, states %q and %q", r.left(), r.state("A-1"), r.state("A-2"))
	}
}

// A person at a terminal is asked, after the warehouse was.
func TestAPersonIsAskedBeforeAnAnswerCounts(t *testing.T) {
	r := newResolvable(t)
	number := r.sends("A-1")
	r.lost("A-1")
	r.held("A-1")
	got := r.run("n\n", true, "A-1", "--number", number)
	if got.code != exitWrong || !strings.Contains(got.err, "the warehouse has it as "+number+": it is accepted\n") || !strings.Contains(got.err, "not confirmed: nothing was done") || r.state("A-1") != "unknown" || r.left() != 1 {
		t.Errorf("a person says no: %+v, %s", got, r.state("A-1"))
	}
	if n := len(acts(t, r.b)); n != 0 {
		t.Errorf("%d acts are recorded", n)
	}
	got = r.run("y\n", true, "A-1", "--number", number)
	if got.code != exitOK || r.state("A-1") != "accepted "+number || r.left() != 0 {
		t.Errorf("a person says yes: %+v, %s", got, r.state("A-1"))
	}
	recorded := acts(t, r.b)
	if len(recorded) != 2 || recorded[0].Verb != "purchase resolve" || recorded[0].Target != "A-1 --number "+number || len(recorded[0].Items) != 1 || recorded[1].Count != 1 {
		t.Errorf("acts: %v", recorded)
	}
}
