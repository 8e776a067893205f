package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/warehouse/memory"
	"stockbridge/pkg/worker"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/status-poller/poller"
)

// point is where to stop: the nth occurrence of a step in one worker, from 1. The zero point is nowhere.
type point struct {
	step string
	at   int
}

func (p point) String() string { return fmt.Sprintf("%s (%d)", p.step, p.at) }

var errDead = errors.New("the worker is dead")

// closed is the bus' error when its connection has given up.
const closed = "connection to NATS is CLOSED"

// process is one worker, pusher and poller together, from its start to its crash.
type process struct {
	l       *lane
	stop    point
	cable   *faultproxy.Cable
	bus     *bus.Bus
	ledger  *tappedLedger
	crashed chan struct{}
	cleaned chan struct{}
	cancel  context.CancelFunc
	runs    sync.WaitGroup
	closers []func()

	// calls is held by each call that is under way outside the cable; a crash waits for those.
	calls sync.RWMutex
	mu    sync.Mutex
	dead  bool
	trail []string
	// checked is how long the trail was at the last check.
	checked int
	seen    map[string]int
	// inHand holds the ack subjects of what was delivered and is not settled.
	inHand map[string]bool
	errs   []error
	// early is a planted bug: it acks on delivery.
	early bool
}

// start starts a worker that will crash at stop.
func (l *lane) start(t testing.TB, wh, other *memory.Warehouse, push pusher.Config, poll poller.Config, stop point) *process {
	t.Helper()
	f := &process{
		l: l, stop: stop, crashed: make(chan struct{}), cleaned: make(chan struct{}),
		seen: map[string]int{}, inHand: map[string]bool{},
	}
	var err error
	if f.cable, err = faultproxy.NewCable(l.url, f.tap); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f.cancel = cancel
	b, err := bus.Connect(ctx, bus.Options{URL: f.cable.URL(), Name: "worker", Log: l.log})
	if err != nil {
		t.Fatal(err)
	}
	f.bus = b
	f.closers = append(f.closers, b.Close)
	opened, err := l.ledger(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	f.closers = append(f.closers, func() { _ = opened.Close() })
	bucket, err := b.Bucket(ctx, bus.BucketSetup)
	if err != nil {
		t.Fatal(err)
	}
	book, err := seller.Open(ctx, bucket, l.log)
	if err != nil {
		t.Fatal(err)
	}
	f.closers = append(f.closers, book.Close)
	f.ledger = &tappedLedger{opened, f, l.redis == nil}
	if l.plant != nil {
		l.plant(f)
	}
	parts := worker.Parts{
		Log: l.log, Bus: b, Ledger: f.ledger, Sellers: book, Warehouses: &tappedWarehouses{tappedWarehouse{wh, f}, tappedWarehouse{other, f}},
		Metrics: prometheus.NewRegistry(), Grace: 10 * time.Second, Now: l.clock.now,
	}
	run := func(work func() error) {
		f.runs.Go(func() {
			if err := work(); err != nil && ctx.Err() == nil && !f.isDead() {
				f.mu.Lock()
				f.errs = append(f.errs, err)
				f.mu.Unlock()
			}
		})
	}
	run(func() error { return pusher.Run(ctx, parts.Shell(pusher.Name), push) })
	run(func() error { return poller.Run(ctx, parts.Shell(poller.Name), poll) })
	return f
}

func (f *process) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// step records what the worker does, and is where it may die.
func (f *process) step(name string) {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return
	}
	f.seen[name]++
	f.trail = append(f.trail, name)
	if (point{name, f.seen[name]}) != f.stop {
		f.mu.Unlock()
		return
	}
	f.dead = true
	f.mu.Unlock()
	f.cable.Cut()
	close(f.crashed)
}

// settleCrash waits until nothing of the dead worker is under way, and returns what it had in hand.
func (f *process) settleCrash() (hand []string) {
	f.cable.Await()
	f.calls.Lock() // calls outside the cable have ended
	defer f.calls.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for ack := range f.inHand {
		if !f.early { // else the broker takes it for handled
			hand = append(hand, ack)
		}
	}
	return hand
}

// cleanUp ends the goroutines of a worker, dead or alive, and everything that it opened.
func (f *process) cleanUp() {
	// A cut connection gives up within a second. Stopping before that would mean waiting for answers.
	for given := time.Now().Add(5 * time.Second); f.isDead() && f.bus.Ready().Error() != closed && time.Now().Before(given); {
		time.Sleep(20 * time.Millisecond)
	}
	f.cancel()
	close(f.cleaned)
	f.runs.Wait()
	for i := len(f.closers) - 1; i >= 0; i-- {
		f.closers[i]()
	}
	f.cable.Close()
}

// busy reports whether something is in hand, or anything was done since the last check.
func (f *process) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.checked
	f.checked = len(f.trail)
	return len(f.inHand) > 0 || before != f.checked
}

// call makes a call whose start and end are steps. onCable: the cable sees, and stops, what the call does.
func (f *process) call(name string, onCable bool, do func() error) error {
	f.step("before " + name)
	if !onCable {
		f.calls.RLock()
	}
	dead := f.isDead()
	var err error
	if !dead {
		err = do()
	}
	if !onCable {
		f.calls.RUnlock()
	}
	if !dead {
		f.step("after " + name)
	}
	if f.isDead() {
		<-f.cleaned
		return errDead
	}
	return err
}

// tap sees the worker's traffic with the broker.
func (f *process) tap(p faultproxy.Message) (pass bool) {
	name, consumer := stepOf(p)
	switch {
	case p.Delivered && !strings.Contains(consumer, "-"): // a watch's or a reader's, which is not settled: our consumers have names
		return true
	case p.Delivered:
		f.mu.Lock()
		f.inHand[p.Reply] = true
		f.mu.Unlock()
		if f.early {
			f.l.broker.Ack(p.Reply) // it stays in hand until the worker acks it too
		}
		f.step("deliver " + consumer)
		return true
	case name == "":
		return true
	case consumer == "":
		if p.Answered {
			f.step("after " + name)
		} else {
			f.step("before " + name)
		}
		return true
	}
	// The rest settles a message.
	if !p.Answered {
		f.step("before " + name)
		after := nakDelay(p.Body)
		if after == 0 || f.isDead() {
			return true
		}
		f.settled(p.Subject)
		f.l.later(f.l.clock.now().Add(after), p.Subject)
		f.step("after " + name)
		return false
	}
	f.settled(p.Subject)
	f.step("after " + name)
	return true
}

func (f *process) settled(ack string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.inHand, ack)
}

// stepOf names what a message does; "" when it changes nothing. consumer is that of a delivery or of its answer.
func stepOf(p faultproxy.Message) (name, consumer string) {
	words := strings.Split(p.Subject, ".")
	if p.Delivered {
		return "deliver", strings.Split(p.Reply, ".")[3]
	}
	first := func(n int) string { return strings.Join(words[:min(n, len(words))], ".") }
	switch {
	case strings.HasPrefix(p.Subject, "$JS.ACK."):
		word, _, _ := strings.Cut(strings.TrimLeft(string(p.Body), "+-"), " ")
		if word == "WPI" {
			return "", ""
		}
		return strings.ToLower(word) + " " + words[3], words[3]
	case words[0] == "$KV":
		return "write " + words[1] + " " + words[2], ""
	case strings.HasPrefix(p.Subject, "$JS.API.STREAM.PURGE."), strings.HasPrefix(p.Subject, "$JS.API.STREAM.MSG.DELETE."):
		return strings.ToLower(words[len(words)-2]) + " " + words[len(words)-1], ""
	case strings.HasPrefix(p.Subject, "$"), strings.HasPrefix(p.Subject, "_INBOX"):
		return "", "" // it only reads
	case words[0] == "order" || words[0] == "seller":
		return "store " + strings.Join(words[:len(words)-1], "."), "" // without the seller
	default:
		return "store " + first(2), "" // a dead letter, a delay, a replay, and whose
	}
}

// nakDelay is the delay that a -NAK asks for.
func nakDelay(body []byte) time.Duration {
	rest, ok := strings.CutPrefix(string(body), "-NAK ")
	if !ok {
		return 0
	}
	var nak struct{ Delay time.Duration }
	if err := json.Unmarshal([]byte(rest), &nak); err != nil {
		panic(err) // our own bus wrote it
	}
	return nak.Delay
}

// elsewhere is the account whose warehouse is the other one.
const elsewhere = "elsewhere"

// tappedWarehouses opens the one warehouse for every account but elsewhere.
type tappedWarehouses struct{ one, other tappedWarehouse }

// Open implements worker.Warehouses.
func (w *tappedWarehouses) Open(s *seller.Seller, code string, _ quota.Class) (warehouse.Identified, error) {
	return w.open(s, code)
}

func (w *tappedWarehouses) open(s *seller.Seller, code string) (*tappedWarehouse, error) {
	site, ok := s.Warehouse(code)
	switch {
	case !ok:
		return nil, fault.Hold(seller.CauseWarehouse(s.Name(), code), errors.New("not in the set-up"))
	case site.Account == elsewhere:
		return &w.other, nil
	default:
		return &w.one, nil
	}
}

// Stock is not used by any worker here.
func (w *tappedWarehouses) Stock(*seller.Seller, string) (warehouse.StockReader, error) {
	return nil, errors.New("no stock here")
}

// Read implements worker.Warehouses.
func (w *tappedWarehouses) Read(s *seller.Seller, code string, _ quota.Class) (warehouse.OrderReader, error) {
	wh, err := w.open(s, code)
	if err != nil {
		return nil, err
	}
	return wh.Orders(), nil
}

// Documents implements worker.Warehouses.
func (w *tappedWarehouses) Documents(s *seller.Seller, code string, _ quota.Class) (warehouse.Identified, error) {
	return w.open(s, code)
}

// SetStock implements worker.Warehouses.
func (w *tappedWarehouses) SetStock(s *seller.Seller, _ string) (warehouse.StockSetter, error) {
	return nil, fault.Hold(seller.CauseUnknown(s.Name()), errors.New("it has no stock"))
}

// tappedWarehouse makes steps of the calls to a warehouse.
type tappedWarehouse struct {
	*memory.Warehouse
	f *process
}

// Orders is the channel of orders, tapped.
func (w *tappedWarehouse) Orders() warehouse.OrderChannel {
	return tappedOrders{w.Warehouse.Orders(), w.f}
}

type tappedOrders struct {
	warehouse.OrderChannel
	f *process
}

func (w tappedOrders) Send(ctx context.Context, o *orderv1.Audited, plan warehouse.Plan) (taken warehouse.Receipt, err error) {
	err = w.f.call("send", false, func() error { taken, err = w.OrderChannel.Send(ctx, o, plan); return err })
	return taken, err
}

func (w tappedOrders) Find(ctx context.Context, nos []string) (found map[string][]warehouse.Document[*orderv1.Shipped], err error) {
	err = w.f.call("find", false, func() error { found, err = w.OrderChannel.Find(ctx, nos); return err })
	return found, err
}

func (w tappedOrders) Compare(ctx context.Context, o *orderv1.Audited, no string) (c warehouse.Comparison, err error) {
	err = w.f.call("compare", false, func() error { c, err = w.OrderChannel.Compare(ctx, o, no); return err })
	return c, err
}

func (w tappedOrders) Read(ctx context.Context, numbers []string) (docs map[string]warehouse.Document[*orderv1.Shipped], err error) {
	err = w.f.call("read", false, func() error { docs, err = w.OrderChannel.Read(ctx, numbers); return err })
	return docs, err
}

// tappedLedger makes steps of the calls to a ledger.
type tappedLedger struct {
	ledger.Ledger
	f       *process
	onCable bool
}

func (l *tappedLedger) call(name string, do func() error) error { return l.f.call(name, l.onCable, do) }

func (l *tappedLedger) Claim(ctx context.Context, b ledger.ClaimRequest) (out ledger.Claimed, err error) {
	err = l.call("claim", func() error { out, err = l.Ledger.Claim(ctx, b); return err })
	return out, err
}

func (l *tappedLedger) Accept(ctx context.Context, b ledger.ClaimRequest, no string, cleaned []ledger.Cleaned, now time.Time) error {
	return l.call("accept", func() error { return l.Ledger.Accept(ctx, b, no, cleaned, now) })
}

func (l *tappedLedger) Refuse(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return l.call("refuse", func() error { return l.Ledger.Refuse(ctx, c, why) })
}

func (l *tappedLedger) MarkUnknown(ctx context.Context, c ledger.Claim, why string) error {
	return l.call("mark unknown", func() error { return l.Ledger.MarkUnknown(ctx, c, why) })
}

func (l *tappedLedger) MarkRejected(ctx context.Context, c ledger.Claim, why fault.Reason) error {
	return l.call("mark rejected", func() error { return l.Ledger.MarkRejected(ctx, c, why) })
}

func (l *tappedLedger) MarkNotFound(ctx context.Context, c ledger.Claim) (lookups int, unknownFor time.Duration, err error) {
	err = l.call("mark not found", func() error { lookups, unknownFor, err = l.Ledger.MarkNotFound(ctx, c); return err })
	return lookups, unknownFor, err
}

func (l *tappedLedger) Release(ctx context.Context, c ledger.Claim, why string) error {
	return l.call("release", func() error { return l.Ledger.Release(ctx, c, why) })
}

func (l *tappedLedger) Resend(ctx context.Context, c ledger.Claim) error {
	return l.call("resend", func() error { return l.Ledger.Resend(ctx, c) })
}

func (l *tappedLedger) Get(ctx context.Context, k ledger.Key) (e ledger.Entry, err error) {
	err = l.call("get", func() error { e, err = l.Ledger.Get(ctx, k); return err })
	return e, err
}

func (l *tappedLedger) Due(ctx context.Context, name, kind string, now time.Time, limit int) (list []ledger.Entry, err error) {
	err = l.call("due", func() error { list, err = l.Ledger.Due(ctx, name, kind, now, limit); return err })
	return list, err
}

func (l *tappedLedger) TakeDue(ctx context.Context, t ledger.Take) (list []ledger.Entry, err error) {
	err = l.call("take due", func() error { list, err = l.Ledger.TakeDue(ctx, t); return err })
	return list, err
}

func (l *tappedLedger) Postpone(ctx context.Context, name, kind string, until time.Time, later []ledger.Later) error {
	return l.call("postpone", func() error { return l.Ledger.Postpone(ctx, name, kind, until, later) })
}

func (l *tappedLedger) Follow(ctx context.Context, e ledger.Entry, state ledger.State, f ledger.Following) error {
	return l.call("follow", func() error { return l.Ledger.Follow(ctx, e, state, f) })
}

func (l *tappedLedger) Count(ctx context.Context, key string) (n int, err error) {
	err = l.call("count", func() error { n, err = l.Ledger.Count(ctx, key); return err })
	return n, err
}

func (l *tappedLedger) Uncount(ctx context.Context, key string) error {
	return l.call("uncount", func() error { return l.Ledger.Uncount(ctx, key) })
}

func (l *tappedLedger) Forget(ctx context.Context, key string) error {
	return l.call("forget", func() error { return l.Ledger.Forget(ctx, key) })
}

func (l *tappedLedger) Lease(ctx context.Context, name, owner string, ttl time.Duration) (ok bool, err error) {
	err = l.call("lease", func() error { ok, err = l.Ledger.Lease(ctx, name, owner, ttl); return err })
	return ok, err
}

func (l *tappedLedger) Unlease(ctx context.Context, name, owner string) error {
	return l.call("unlease", func() error { return l.Ledger.Unlease(ctx, name, owner) })
}
