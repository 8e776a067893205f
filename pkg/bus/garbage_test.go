package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/faultproxy"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// alone is how many unreadable messages of a seller are kept one by one (garbage.go).
const alone = 100

// litter publishes n bodies of the seller that cannot be read, quickly, and returns where they stand.
func litter(t *testing.T, b *bus.Bus, n int, body func(i int) string, between ...func(i int)) (seqs []uint64) {
	t.Helper()
	js := b.JS()
	acks := make([]jetstream.PubAckFuture, n)
	for i := range n {
		for _, f := range between {
			f(i)
		}
		ack, err := js.PublishMsgAsync(&nats.Msg{Subject: "order.audited.acme", Data: []byte(body(i))})
		if err != nil {
			t.Fatal(err)
		}
		acks[i] = ack
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	for _, ack := range acks {
		select {
		case a := <-ack.Ok():
			seqs = append(seqs, a.Sequence)
		case err := <-ack.Err():
			t.Fatal(err)
		}
	}
	return seqs
}

func nonsense(i int) string { return []string{"not json", `{"lines": 1`, "\xb5\xa5\xba\xc5", ""}[i%4] }

// places are the sequences of the messages that all dead letters stand for, sorted.
func places(t *testing.T, b *bus.Bus) (seqs []uint64) {
	t.Helper()
	for _, s := range deadLetters(t, b) {
		if s.Group == nil {
			seqs = append(seqs, s.OriginSeq)
			continue
		}
		if err := s.Group.Each(func(seq uint64) error { seqs = append(seqs, seq); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// groups are the dead letters that are groups.
func groups(t *testing.T, b *bus.Bus) []bus.DeadLetter {
	t.Helper()
	return slices.DeleteFunc(deadLetters(t, b), func(s bus.DeadLetter) bool { return s.Group == nil })
}

func nothing(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
	return nil, nil
}

func TestAFloodOfGarbageIsAFewDeadLetters(t *testing.T) {
	const n = 30_000
	b := bustest.Start(t, services()...)
	metrics := bus.NewMetrics(prometheus.NewRegistry())
	var seen log
	stop := serve(t, b, bus.Serving{Metrics: metrics, Slots: 16}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		seen.add(d, m)
		return nil, nil
	}, nil)
	want := litter(t, b, n, nonsense, func(i int) {
		if i%3000 == 1500 { // valid orders between them, of this seller and of another
			publish(t, b, audit("acme", fmt.Sprintf("A%d", i)), audit("bolt", fmt.Sprintf("B%d", i)))
		}
	})
	settledWithin(t, b, time.Minute)

	if got := places(t, b); !slices.Equal(got, want) {
		t.Errorf("%d messages are dead letters, %d were published", len(got), len(want))
	}
	if runs := seen.all(); len(runs) != 20 {
		t.Errorf("%d runs of 20 valid orders", len(runs))
	}
	items := deadLetters(t, b)
	if len(items) > alone+4 {
		t.Errorf("%d entries", len(items))
	}
	s, err := b.JS().Stream(t.Context(), "SHELF")
	if err != nil {
		t.Fatal(err)
	}
	if writes := s.CachedInfo().State.LastSeq; writes > alone+n/100 {
		t.Errorf("%d writes", writes)
	}
	t.Logf("%d entries, %d writes", len(items), s.CachedInfo().State.LastSeq)

	group := groups(t, b)[0]
	if group.Seller != "acme" || group.Reason.Code != "malformed" || group.Class != fault.Refused.String() || group.Stream != bus.StreamIntake ||
		group.Subject != "order.audited.acme" || group.First.After(group.Last) || group.Consumer != pusher || group.Kind != event.Dead {
		t.Errorf("%+v", group)
	}
	whole, err := b.Grouped(t.Context(), group, group.Group.Nth(17))
	if i := slices.Index(want, whole.Seq); err != nil || i < 0 || string(whole.Body) != nonsense(i) {
		t.Errorf("payload %q, %v", whole.Body, err)
	}
	values := backlogMetrics(t, metrics)
	if total, grouped := values["stockbridge_shelf_messages dlq order-pusher"], values["stockbridge_shelf_grouped_messages order-pusher acme"]; total != n || grouped != n-alone {
		t.Errorf("metrics say %v, %v of them in groups", total, grouped)
	}
	stop()
}

// An ERP is answered for each message whose number can be read, grouped or not.
func TestAFloodIsAnsweredWhereItsNumbersCanBeRead(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, nothing, func(d *bus.Delivery, m *orderv1.Audited, err error) []event.Event {
		if m.GetOutboundNo() == "" {
			return nil
		}
		return []event.Event{event.OrderFailed.About(d.Seller, m.GetOutboundNo(), time.Now(), &documentv1.Failed{Ref: &documentv1.Ref{OutboundNo: m.GetOutboundNo()}})}
	})
	const n = alone + 50
	litter(t, b, n, func(i int) string { return fmt.Sprintf(`{"seller":"acme","outbound_no":"N%d","revision":"x"}`, i) })
	settled(t, b)
	if got := published(t, b, event.OrderFailed.Name); len(got) != n {
		t.Errorf("%d of %d were answered", len(got), n)
	}
	if items := deadLetters(t, b); len(items) != alone+1 || items[alone].Count() != n-alone {
		t.Errorf("%d entries", len(items))
	}
}

func TestReplicasShareAGroup(t *testing.T) {
	b, url := bustest.StartServer(t, services()...)
	for range 2 {
		serve(t, bustest.Connect(t, url), bus.Serving{}, nothing, nil)
	}
	want := litter(t, b, 3000, nonsense)
	settled(t, b)
	if got := places(t, b); !slices.Equal(got, want) {
		t.Errorf("%d messages are dead letters, %d were published", len(got), len(want))
	}
	if items := groups(t, b); len(items) != 1 {
		t.Errorf("%d groups", len(items))
	}
}

// cancels reads the same events as something else: a parser that was fixed.
var cancels = event.Topic[*orderv1.CancelRequested]{Name: event.OrderAudited.Name}

// newer are bodies that cancels can read and event.OrderAudited cannot.
func newer(i int) string {
	return fmt.Sprintf(`{"seller":"acme","outbound_no":"N%d","request_id":"r","requested_at":"2026-03-05T09:31:00+08:00"}`, i)
}

func serveFixed(t *testing.T, b *bus.Bus, h bus.Handler[*orderv1.CancelRequested]) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(ctx, b, cancels, bus.Serving{Consumer: pusher, Slots: 4, Attempts: &bustest.Attempts{}}, h, nil)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAReplayedGroupComesOnceEach(t *testing.T) {
	b := bustest.Start(t, services()...)
	stop := serve(t, b, bus.Serving{}, nothing, nil)
	const n = alone + 450
	litter(t, b, n, newer)
	settled(t, b)
	stop()
	group := groups(t, b)[0]
	var want []uint64
	_ = group.Group.Each(func(seq uint64) error { want = append(want, seq); return nil })
	// One of them is erased meanwhile.
	if err := b.Erase(t.Context(), bus.StreamIntake, want[7], time.Time{}); err != nil {
		t.Fatal(err)
	}

	var seen log
	serveFixed(t, b, func(_ context.Context, d *bus.Delivery, m *orderv1.CancelRequested) ([]event.Event, error) {
		seen.add(d, &orderv1.Audited{OutboundNo: m.GetOutboundNo()})
		return nil, nil
	})
	by := bus.By{Who: "somebody", Why: "the parser knows them now"}
	var sent []bus.Sent
	replay := func(most int) (n, gone int, err error) {
		return b.ReplayGroup(t.Context(), group.Seq, by, func(context.Context) error {
			if most--; most < 0 {
				return context.Canceled
			}
			return nil
		}, func(s bus.Sent) { sent = append(sent, s) })
	}
	if n, gone, err := replay(250); !errors.Is(err, context.Canceled) || n != 249 || gone != 1 {
		t.Fatalf("%d sent, %d gone, %v", n, gone, err)
	}
	if left := groups(t, b); len(left) != 1 || left[0].Count() != 200 || !left[0].Group.Replaying {
		t.Fatalf("left: %+v", left)
	}
	if n, gone, err := replay(1000); err != nil || n != 200 || gone != 0 {
		t.Fatalf("%d sent, %d gone, %v", n, gone, err)
	}
	if left := groups(t, b); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	eventually(t, "all came", func() bool { return len(seen.all()) >= len(want)-1 })
	settled(t, b)
	var got []uint64
	for _, r := range seen.all() {
		got = append(got, r.d.Seq)
		if !r.d.Replay || r.d.Seller != "acme" || r.d.Subject != "order.audited.acme" {
			t.Errorf("%+v", r.d)
		}
	}
	slices.Sort(got)
	if want = slices.Delete(want, 7, 8); !slices.Equal(got, want) {
		t.Errorf("%d came, %d were grouped", len(got), len(want))
	}
	for _, s := range sent {
		if fate, err := b.Fate(t.Context(), s); fate != bus.Done || err != nil {
			t.Errorf("%+v: %v, %v", s, fate, err)
		}
	}
	if _, _, err := replay(1); !errors.Is(err, bus.ErrNoDeadLetter) {
		t.Errorf("again: %v", err)
	}
}

// What fails again while its group is being replayed must not vanish with the group.
func TestAGroupReplayedTooEarlyIsAGroupAgain(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, nothing, nil)
	want := litter(t, b, alone+300, nonsense)
	settled(t, b)
	group := groups(t, b)[0]
	var sent []bus.Sent
	pace := func(context.Context) error { return nil }
	n, _, err := b.ReplayGroup(t.Context(), group.Seq, bus.By{Who: "somebody"}, pace, func(s bus.Sent) { sent = append(sent, s) })
	if n != 300 || err != nil {
		t.Fatal(n, err)
	}
	settled(t, b)
	eventually(t, "RETRY is empty", func() bool {
		s, err := b.JS().Stream(t.Context(), "RETRY")
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	if got := places(t, b); !slices.Equal(got, want) {
		t.Errorf("%d messages are dead letters, want %d", len(got), len(want))
	}
	for _, s := range sent {
		if fate, err := b.Fate(t.Context(), s); fate != bus.DeadLetteredAgain || err != nil {
			t.Fatalf("%+v: %v, %v", s, fate, err)
		}
	}
}

func TestAGroupIsFoundUnderItsEarlierNumberAndDropped(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, nothing, nil)
	litter(t, b, alone+10, nonsense)
	settled(t, b)
	before := groups(t, b)[0]
	litter(t, b, 10, nonsense)
	settled(t, b)
	now, err := b.DeadLetter(t.Context(), before.Seq)
	if err != nil || now.Seq == before.Seq || now.Count() != 20 {
		t.Errorf("%+v, %v", now, err)
	}
	if err := b.Replay(t.Context(), now.Seq, bus.By{}); err == nil {
		t.Error("replayed like a message")
	}
	if err := b.Drop(t.Context(), before.Seq, bus.By{Who: "somebody"}); err != nil {
		t.Error(err)
	}
	if err := b.Drop(t.Context(), before.Seq, bus.By{}); !errors.Is(err, bus.ErrNoDeadLetter) {
		t.Errorf("again: %v", err)
	}
	if items := deadLetters(t, b); len(items) != alone {
		t.Errorf("%d entries", len(items))
	}
}

func TestAGroupHoldsNothingOfAPersonAndExpires(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, nothing, nil)
	seqs := litter(t, b, alone+3, func(i int) string { return fmt.Sprintf(`{"receiver":{"name":"张三%d"},`, i) })
	settled(t, b)
	last := seqs[len(seqs)-1]
	copies := map[string]int{}
	if err := b.Copies(t.Context(), event.OrderAudited.Name, "acme", func(c bus.Copy) error {
		if strings.Contains(string(c.Original.Body), fmt.Sprintf("张三%d", alone+2)) {
			copies[c.Where]++
			return b.Erase(t.Context(), c.Stream, c.Seq, c.At)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(copies) != 1 || copies[bus.CopyPublished] != 1 {
		t.Errorf("copies %v", copies)
	}
	group := groups(t, b)[0]
	if _, err := b.Grouped(t.Context(), group, last); !errors.Is(err, bus.ErrNotStored) {
		t.Errorf("erased, and yet: %v", err)
	}
	const keep = 90 * 24 * time.Hour
	if erased, _, err := b.Age(t.Context(), pusher, time.Now().Add(keep+time.Minute), keep, fault.Reason{}); err != nil || erased != alone+1 {
		t.Errorf("%d erased, %v", erased, err)
	}
	if items := deadLetters(t, b); len(items) != 0 {
		t.Errorf("%d entries", len(items))
	}
}

// A crash at any step from the moment that a group is stored anew: its messages are redelivered, and stand in one place each.
func TestACrashAroundAGroupCountsNothingTwice(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		crashed := false
		t.Run(fmt.Sprint(step), func(t *testing.T) { crashed = crashAtGroup(t, step) })
		if !crashed || t.Failed() {
			if step < 6 {
				t.Errorf("only %d steps", step)
			}
			return
		}
	}
}

func crashAtGroup(t *testing.T, step int) bool {
	b, url := bustest.StartServer(t, services()...)
	broker := bustest.NewBroker(t, url, pusher)
	delivered := make(chan string, 1000)
	var mu sync.Mutex
	armed, crashed, steps := false, false, -1
	var c *faultproxy.Cable
	c, err := faultproxy.NewCable(url, func(m faultproxy.Message) bool {
		mu.Lock()
		defer mu.Unlock()
		if m.Delivered {
			delivered <- m.Reply
		}
		if !armed || m.Answered || m.Delivered {
			return true
		}
		if _, group := event.ParseGroup(m.Subject); group || steps >= 0 {
			steps++
		}
		if steps == step {
			crashed = true
			c.Cut()
			return false
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	doomed := bustest.Connect(t, c.URL())
	stop := serve(t, doomed, bus.Serving{Slots: 1, Grace: time.Second}, nothing, nil)
	want := litter(t, b, alone+3, nonsense)
	settled(t, b)
	mu.Lock()
	armed = true
	mu.Unlock()
	want = append(want, litter(t, b, 3, nonsense)...)
	eventually(t, "it crashed, or is done", func() bool {
		_, unsettled, err := broker.Left(t.Context())
		return err == nil && unsettled == 0 && len(places(t, b)) == len(want) || doomed.Ready() != nil
	})
	stop()
	serve(t, bustest.Connect(t, url), bus.Serving{}, nothing, nil)
	for len(delivered) > 0 {
		broker.ComeBack(<-delivered)
	}
	settled(t, b)
	if got := places(t, b); !slices.Equal(got, want) {
		t.Errorf("%v are dead letters, want %v", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	return crashed
}

// What builds store that are in use must stay readable, and an earlier build must read a group as a dead letter.
func TestAStoredGroupStaysReadable(t *testing.T) {
	b := bustest.Start(t, services()...)
	header := nats.Header{
		"Bridge-Attempts": {"1"}, "Bridge-Class": {"permanent"}, "Bridge-Count": {"6"}, "Bridge-Error": {"not JSON"},
		"Bridge-First": {"2026-03-05T01:31:00Z"}, "Bridge-Last": {"2026-03-05T01:32:00Z"},
		"Bridge-Reason": {`{"Code":"malformed","ZH":"不是合法的 JSON","EN":"not JSON"}`}, "Bridge-Seller": {"acme"},
		"Bridge-Sequence": {"5"}, "Bridge-Stored": {"2026-03-05T01:31:00Z"}, "Bridge-Stream": {"INTAKE"}, "Bridge-Subject": {"order.audited.acme"},
	}
	body := `{"id":"X","since":"2026-03-05T01:31:01Z","was":[3],"ranges":[[5,4,1772674260000,250],[3,0,-100,0]],"later":true}`
	_, seq, err := b.PublishRaw(t.Context(), event.GroupSubject(pusher, "acme", "malformed", 20517000), header, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1772674260000).UTC()
	want := &bus.Group{Ranges: []bus.Range{
		{From: 5, To: 9, First: at, Last: at.Add(250 * time.Millisecond)},
		{From: 12, To: 12, First: at.Add(-100 * time.Millisecond), Last: at.Add(-100 * time.Millisecond)},
	}}
	for _, no := range []uint64{seq, 3} {
		s, err := b.DeadLetter(t.Context(), no)
		if err != nil || s.Count() != 6 || s.Seller != "acme" || s.Reason.Code != "malformed" {
			t.Errorf("%d: %+v, %v", no, s, err)
		}
		if d := cmp.Diff(want, s.Group); d != "" {
			t.Error(d)
		}
	}
	kind, consumer, err := event.ParseDeadLetter(event.GroupSubject(pusher, "acme", "body.toolarge", 1))
	if kind != event.Dead || consumer != pusher || err != nil {
		t.Error(kind, consumer, err)
	}
}
