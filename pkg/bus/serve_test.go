package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/faultproxy"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

func asJS(err error, target *jetstream.JetStreamError) bool { return errors.As(err, target) }

func TestAnEventIsHandledAndItsAnswerPublished(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	registry := prometheus.NewRegistry()
	serve(t, b, bus.Serving{Metrics: bus.NewMetrics(registry)}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return []event.Event{accepted(m)}, nil
	}, nil)
	e := audit("acme", "A1")
	publish(t, b, e)
	settled(t, b)
	runs := l.of("A1")
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	d := runs[0].d
	if d.ID != e.ID || d.Seller != "acme" || d.Subject != "order.audited.acme" || d.Stream != "INTAKE" || d.Seq != 1 || !d.First || d.Attempt != 1 || d.Replay {
		t.Errorf("delivery %+v", d)
	}
	if age := time.Since(d.StreamTime); age < 0 || age > time.Minute {
		t.Errorf("stored %v ago", age)
	}
	if got := published(t, b, event.OrderAccepted.Name); got["A1"] != 1 {
		t.Errorf("published %v", got)
	}
	families, err := registry.Gather()
	if err != nil || len(families) < 3 {
		t.Errorf("metrics: %d, %v", len(families), err)
	}
}

func TestFormsOfAnEvent(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	text, err := protojson.Marshal(order("acme", "J1"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := proto.Marshal(order("acme", "P1"))
	if err != nil {
		t.Fatal(err)
	}
	unknown := strings.Replace(string(text), "{", `{"future":{"x":[1,2]},`, 1)
	for i, m := range []struct {
		subject, contentType string
		body                 string
	}{
		{"order.audited", "", string(text)},
		{"order.audited.acme", "application/json; charset=utf-8", strings.ReplaceAll(string(text), "J1", "J2")},
		{"order.audited.acme", "application/protobuf", string(binary)},
		{"order.audited", "", strings.ReplaceAll(unknown, "J1", "J3")},
	} {
		h := map[string][]string{}
		if m.contentType != "" {
			h["content-type"] = []string{m.contentType}
		}
		if _, _, err := b.PublishRaw(t.Context(), m.subject, h, []byte(m.body)); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	settled(t, b)
	for _, no := range []string{"J1", "J2", "J3", "P1"} {
		runs := l.of(no)
		if len(runs) != 1 || runs[0].d.Seller != "acme" {
			t.Errorf("%s: %+v", no, runs)
		}
	}
	if r := l.of("J1"); r[0].d.ID != "INTAKE/1" {
		t.Errorf("id %q", r[0].d.ID)
	}
}

func TestUnhandledMessagesAreDeadLetteredWhole(t *testing.T) {
	b := bustest.Start(t, services()...)
	type tellings struct {
		m    *orderv1.Audited
		d    bus.Delivery
		err  error
		code string
	}
	var got [20]atomic.Pointer[tellings]
	serve(t, b, bus.Serving{}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		t.Error("handled")
		return nil, nil
	}, func(d *bus.Delivery, m *orderv1.Audited, err error) []event.Event {
		got[d.Seq].Store(&tellings{m, *d, err, fault.ReasonOf(err, "").Code})
		if m == nil {
			return nil
		}
		return []event.Event{event.OrderFailed.About(m.GetSeller(), m.GetOutboundNo(), time.Now(), &documentv1.Failed{})}
	})
	text, err := protojson.Marshal(order("acme", "X1"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	with := func(f func(*orderv1.Audited)) string {
		m := order("acme", "X1")
		f(m)
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for i, c := range []struct {
		name        string
		subject     string
		header      map[string][]string
		body        string
		code, field string
		typed       bool
		seller      string
		notIn       string // must not be repeated in reasons
	}{
		{name: "not JSON", body: "hello 张三", code: "malformed", notIn: "hello"},
		{name: "nothing", body: "", code: "malformed"},
		{name: "a text where a number belongs", body: `{"lines":[{"quantity":1},{"quantity":"two"}]}`, code: "malformed", field: "lines[1].quantity", notIn: "two"},
		{name: "a number where a text belongs", body: `{"receiver":{"mobile":13812345678}}`, code: "malformed", field: "receiver.mobile", notIn: "13812345678"},
		{name: "cut off", body: `{"seller":"acme","lines":[{"li`, code: "malformed", field: "lines[0]", typed: true, seller: "acme"},
		{name: "a time without its zone", body: `{"seller":"acme","outboundNo":"X2","auditedAt":"2026-11-30 10:00:00"}`, code: "malformed", field: "auditedAt", typed: true, seller: "acme"},
		{name: "unreadable on a seller's subject", subject: "order.audited.other", body: `{"seller":"acme","outboundNo":"X2","lines":1}`, code: "malformed", field: "lines", typed: true, seller: "other"},
		{name: "a time that is none", body: `{"audited_at":"yesterday"}`, code: "malformed", field: "audited_at", notIn: "yesterday"},
		{name: "broken protobuf", header: map[string][]string{"Content-Type": {"application/protobuf"}}, body: "\xff\xff", code: "malformed"},
		{name: "XML", header: map[string][]string{"Content-Type": {"text/xml"}}, body: "<a/>", code: "malformed", field: "Content-Type"},
		{name: "negative quantity", body: with(func(m *orderv1.Audited) { m.Lines[0].Quantity = -1 }), code: "invalid", field: "lines[0].quantity", typed: true, seller: "acme"},
		{name: "no goods", body: with(func(m *orderv1.Audited) { m.Lines[0].GoodsCode = "" }), code: "invalid", field: "lines[0]", typed: true, seller: "acme"},
		{name: "another's subject", subject: "order.audited.other", body: good, code: "seller.mismatch", field: "seller", typed: true, seller: "other"},
		{name: "too large", body: with(func(m *orderv1.Audited) { m.Lines[0].Name = strings.Repeat("x", bus.MaxBody) }), code: "body.toolarge", typed: true, seller: "acme"},
		{name: "headers too large", header: map[string][]string{"X": {strings.Repeat("y", 30_000)}, "ce-id": {"h-1"}}, body: good, code: "headers.toolarge"},
		{name: "headers near the server's limit", header: map[string][]string{"X": {strings.Repeat("y", 63_000)}, "ce-id": {"h-2"}, "ce-subject": {"X1"}}, body: good, code: "headers.toolarge"},
		{name: "what a client library takes for the server's word", header: map[string][]string{"Status": {"409"}, "Description": {"Consumer Deleted"}}, code: "malformed"},
		{name: "the same, said to be a heartbeat", header: map[string][]string{"Status": {"100"}}, code: "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			subject := c.subject
			if subject == "" {
				subject = "order.audited"
			}
			_, seq, err := b.PublishRaw(t.Context(), subject, c.header, []byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			s := parseDeadLetter(t, b, i+1)[i]
			if s.Kind != event.Dead || s.Consumer != pusher || s.Stream != "INTAKE" || s.OriginSeq != seq || s.Subject != subject || s.Seller != c.seller {
				t.Errorf("dead-lettered %+v", s)
			}
			if s.Reason.Code != c.code || s.Reason.Field != c.field || s.Class != "permanent" {
				t.Errorf("reason %+v", s.Reason)
			}
			if s.Reason.ZH == "" || s.Reason.EN == "" {
				t.Errorf("a language is missing: %+v", s.Reason)
			}
			if c.notIn != "" && (strings.Contains(fmt.Sprint(s.Reason), c.notIn) || strings.Contains(s.Error, c.notIn)) {
				t.Errorf("the reason repeats the value: %+v", s.Reason)
			}
			if string(s.Body) != c.body {
				t.Errorf("body of %d bytes, was %d", len(s.Body), len(c.body))
			}
			for k, v := range c.header {
				if len(v[0]) < 40_000 && (len(s.Header[k]) != 1 || s.Header[k][0] != v[0]) {
					t.Errorf("header %s lost", k)
				}
			}
			eventually(t, "rejected", func() bool { return got[seq].Load() != nil })
			g := got[seq].Load()
			if (g.m != nil) != c.typed || g.code != c.code || fault.Of(g.err) != fault.Refused {
				t.Errorf("rejected as %+v", g)
			}
		})
	}
	settled(t, b)
	if n := published(t, b, event.OrderFailed.Name)["X1"]; n == 0 {
		t.Error("onReject was not called for the invalid ones")
	}
}

func TestEachFaultHasItsOutcome(t *testing.T) {
	b := bustest.Start(t, services()...)
	attempts := &bustest.Attempts{}
	var l log
	boom := errors.New("boom")
	serve(t, b, bus.Serving{Attempts: attempts, MaxAttempts: 3, Backoff: func(int) time.Duration { return time.Millisecond }},
		func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			n := l.add(d, m)
			events := []event.Event{accepted(m)}
			switch no := m.GetOutboundNo(); {
			case no == "transient" && n < 3:
				return events, boom
			case no == "wait" && n < 6:
				return events, fault.RetryAfter(time.Millisecond, boom)
			case no == "held":
				return events, fault.Hold("shop:acme/S1", fault.Reason{Code: "shop.unknown", ZH: "店铺未配置", EN: "shop not set up"})
			case no == "refused":
				return events, fault.Permanent(boom)
			case no == "unknown":
				return events, fault.Unknown(boom)
			case no == "hopeless":
				return events, boom
			case no == "panics":
				panic("at the disco")
			case no == "panics-late":
				d.AfterStored(func(context.Context) error { panic("at the end") })
			}
			return events, nil
		},
		func(_ *bus.Delivery, m *orderv1.Audited, err error) []event.Event {
			if !errors.Is(err, bus.ErrAttempts) {
				t.Errorf("rejected %s: %v", m.GetOutboundNo(), err)
			}
			return []event.Event{event.OrderFailed.About(m.GetSeller(), m.GetOutboundNo(), time.Now(), &documentv1.Failed{})}
		})
	for _, no := range []string{"fine", "transient", "wait", "held", "refused", "unknown", "hopeless", "panics", "panics-late"} {
		publish(t, b, audit("acme", no))
	}
	byKey := map[string]bus.DeadLetter{}
	for _, s := range parseDeadLetter(t, b, 6) {
		byKey[s.Key] = s
	}
	settled(t, b)
	for no, want := range map[string]int{"fine": 1, "transient": 3, "wait": 6, "held": 1, "refused": 1, "unknown": 1, "hopeless": 3, "panics": 3, "panics-late": 3} {
		if got := len(l.of(no)); got != want {
			t.Errorf("%s ran %d times, want %d", no, got, want)
		}
	}
	for no, want := range map[string]struct{ kind, class, code string }{
		"held":     {event.Held, "held", "shop.unknown"},
		"refused":  {event.Dead, "permanent", "permanent"},
		"unknown":  {event.Dead, "unknown", "unknown"},
		"hopeless": {event.Dead, "transient", "attempts"},
		"panics":   {event.Dead, "transient", "attempts"},
	} {
		s := byKey[no]
		if s.Kind != want.kind || s.Class != want.class || s.Reason.Code != want.code {
			t.Errorf("%s: %s %s %+v", no, s.Kind, s.Class, s.Reason)
		}
	}
	if s := byKey["held"]; s.Cause != "shop:acme/S1" || s.Reason.ZH != "店铺未配置" {
		t.Errorf("held %+v", s)
	}
	if s := byKey["hopeless"]; s.Attempts != 3 || !strings.Contains(s.Error, "boom") {
		t.Errorf("hopeless %+v", s)
	}
	if got := published(t, b, event.OrderFailed.Name); len(got) != 3 || got["hopeless"] != 1 || got["panics"] != 1 {
		t.Errorf("failed: %v", got)
	}
	if got := published(t, b, event.OrderAccepted.Name); len(got) != 8 {
		t.Errorf("events beside errors: %v", got)
	}
	if n := attempts.Sum(); n != 0 {
		t.Errorf("%d attempts are still counted", n)
	}
	if runs := l.of("wait"); runs[5].d.Attempt != 1 || runs[5].d.First {
		t.Errorf("a wait burned an attempt: %+v", runs[5].d)
	}
	if runs := l.of("transient"); runs[2].d.Attempt != 3 {
		t.Errorf("third run is attempt %d", runs[2].d.Attempt)
	}
}

func TestEventsAreStoredThenAfterStoredThenAck(t *testing.T) {
	b := bustest.Start(t, services()...)
	var order []string
	var failOnce atomic.Bool
	serve(t, b, bus.Serving{Slots: 1, Backoff: func(int) time.Duration { return time.Millisecond }},
		func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			d.AfterStored(func(ctx context.Context) error {
				if n := published(t, b, event.OrderAccepted.Name)[m.GetOutboundNo()]; n != 1 {
					t.Errorf("AfterStored runs with %d events stored", n)
				}
				c, err := b.JS().Consumer(ctx, "INTAKE", pusher)
				if err != nil {
					t.Error(err)
				} else if c.CachedInfo().NumAckPending != 1 {
					t.Errorf("%d unacked while AfterStored runs", c.CachedInfo().NumAckPending)
				}
				order = append(order, "after")
				if failOnce.CompareAndSwap(false, true) {
					return errors.New("ledger away")
				}
				return nil
			})
			order = append(order, "handler")
			return []event.Event{accepted(m)}, nil
		}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "second run", func() bool {
		c, _ := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		return c.CachedInfo().AckFloor.Stream >= 1
	})
	if got := strings.Join(order, " "); got != "handler after handler after" {
		t.Errorf("%s", got)
	}
}

func TestKilledWorkerMidHandlerIsRedelivered(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	ackWait(t, b, time.Second)
	attempts := &bustest.Attempts{}
	victim := bustest.Connect(t, url)
	began, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	go bus.Serve(t.Context(), victim, event.OrderAudited, bus.Serving{Consumer: pusher, Slots: 1, Attempts: attempts, Grace: time.Millisecond}, //nolint:errcheck // it is killed
		func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
			close(began)
			<-release
			return nil, nil
		}, nil)
	publish(t, b, audit("acme", "A1"))
	<-began
	victim.Sever()
	var l log
	serve(t, b, bus.Serving{Attempts: attempts}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	settled(t, b)
	runs := l.of("A1")
	if len(runs) != 1 || runs[0].d.First {
		t.Fatalf("runs %+v", runs)
	}
}

// A message that kills every worker is found by counting before it runs.
func TestAMessageThatNeverEndsIsDeadLettered(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, services()...)
	ackWait(t, b, 300*time.Millisecond)
	attempts := &bustest.Attempts{}
	publish(t, b, audit("acme", "A1"))
	for range 3 { // stored before each of them started, so each run counts
		victim := bustest.Connect(t, url)
		began, release := make(chan struct{}), make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = bus.Serve(t.Context(), victim, event.OrderAudited, bus.Serving{Consumer: pusher, Slots: 1, Attempts: attempts, MaxAttempts: 3, Grace: time.Millisecond},
				func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
					close(began)
					<-release
					return nil, nil
				}, nil)
		}()
		<-began
		victim.Sever()
		t.Cleanup(func() { close(release); <-done })
	}
	serve(t, b, bus.Serving{Attempts: attempts, MaxAttempts: 3}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		t.Error("run again")
		return nil, nil
	}, nil)
	if s := parseDeadLetter(t, b, 1)[0]; s.Reason.Code != "attempts" || s.Kind != event.Dead {
		t.Errorf("%+v", s)
	}
}

func TestShutdownBurnsNoAttemptAndReleases(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	attempts := &bustest.Attempts{}
	var l log
	began, hears := make(chan struct{}, 10), make(chan struct{})
	stop := serve(t, b, bus.Serving{Slots: 2, Attempts: attempts, Grace: 50 * time.Millisecond}, func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		began <- struct{}{}
		<-ctx.Done()
		if m.GetOutboundNo() == "deaf" {
			<-hears // ignores its ctx
		}
		return nil, ctx.Err()
	}, nil)
	publish(t, b, audit("acme", "A1"), audit("acme", "deaf"), audit("acme", "A3"))
	<-began
	<-began
	stop()
	close(hears)
	if n := attempts.Sum(); n != 0 {
		t.Errorf("%d attempts burned", n)
	}
	// Released: another worker gets them at once, long before AckWait (30 s).
	serve(t, b, bus.Serving{Attempts: attempts}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	settled(t, b)
	for no, want := range map[string]int{"A1": 2, "deaf": 2, "A3": 1} {
		runs := l.of(no)
		if len(runs) != want || runs[want-1].d.Attempt != 1 {
			t.Errorf("%s: %+v", no, runs)
		}
	}
	if items := deadLetters(t, b); len(items) != 0 {
		t.Errorf("dead-lettered %+v", items)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	b := bustest.Start(t, services()...)
	began, finish := make(chan struct{}), make(chan struct{})
	stop := serve(t, b, bus.Serving{Slots: 1}, func(ctx context.Context, _ *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		close(began)
		<-finish
		return []event.Event{accepted(m)}, ctx.Err()
	}, nil)
	publish(t, b, audit("acme", "A1"))
	<-began
	time.AfterFunc(100*time.Millisecond, func() { close(finish) })
	stop()
	settled(t, b)
	if published(t, b, event.OrderAccepted.Name)["A1"] != 1 {
		t.Error("not rejected")
	}
}

func TestPausedSellerIsHeldAndReleased(t *testing.T) {
	b := bustest.Start(t, services()...)
	attempts := &bustest.Attempts{}
	var l log
	var paused atomic.Bool
	paused.Store(true)
	serve(t, b, bus.Serving{Attempts: attempts, Paused: func(seller string) error {
		if seller == "acme" && paused.Load() {
			return fault.Hold("pause:acme", fault.Reason{Code: "seller.paused", ZH: "商家已暂停", EN: "seller is paused"})
		}
		return nil
	}}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, func(d *bus.Delivery, m *orderv1.Audited, err error) []event.Event {
		return []event.Event{event.OrderHeld.About(m.GetSeller(), m.GetOutboundNo(), time.Now(), &documentv1.Held{Cause: fault.Cause(err)}, "pause")}
	})
	for i := range 5 {
		publish(t, b, audit("acme", fmt.Sprintf("A%d", i)), audit("other", fmt.Sprintf("B%d", i)))
	}
	items := parseDeadLetter(t, b, 5)
	settled(t, b)
	if len(l.all()) != 5 || len(published(t, b, event.OrderHeld.Name)) != 5 {
		t.Fatalf("ran %d, held %v", len(l.all()), published(t, b, event.OrderHeld.Name))
	}
	for _, s := range items {
		if s.Kind != event.Held || s.Cause != "pause:acme" || s.Seller != "acme" || s.Attempts != 1 {
			t.Errorf("%+v", s)
		}
	}

	// Released while still paused: held again, unless an operator lets it pass that very cause.
	if err := b.Replay(t.Context(), items[0].Seq, bus.By{Who: "test"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "held again", func() bool { i := deadLetters(t, b); return len(i) == 5 && i[4].Seq > items[4].Seq })
	if err := b.Replay(t.Context(), deadLetters(t, b)[0].Seq, bus.By{Who: "test", Release: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one went past", func() bool { return len(l.all()) == 6 })

	paused.Store(false)
	n, err := b.Release(t.Context(), bus.DeadLetterQuery{Kind: event.Held, Cause: "pause:acme"}, func(s bus.DeadLetter) bool { return s.Seller == "acme" }, 100, bus.By{Who: "test", Why: "resumed"})
	if err != nil || n != 4 {
		t.Fatalf("released %d, %v", n, err)
	}
	eventually(t, "all handled", func() bool { return len(l.all()) == 10 })
	settled(t, b)
	parseDeadLetter(t, b, 0)
	for i := range 5 {
		runs := l.of(fmt.Sprintf("A%d", i))
		if len(runs) != 1 || runs[0].d.First || !runs[0].d.Replay || runs[0].d.Seq == 0 || runs[0].d.Stream != "INTAKE" {
			t.Errorf("A%d: %+v", i, runs)
		}
	}
	if attempts.Sum() != 0 {
		t.Errorf("attempts burned: %d", attempts.Sum())
	}
}

func TestFloodOfOneSellerDoesNotDelayAnother(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{Slots: 4}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		if m.GetSeller() == "flood" {
			return nil, fault.RetryAfter(time.Hour, errors.New("its budget is used up"))
		}
		return nil, nil
	}, nil)
	var flood []event.Event
	for i := range 300 {
		flood = append(flood, audit("flood", fmt.Sprintf("F%d", i)))
	}
	publish(t, b, flood...)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "the other's order", func() bool { return len(l.of("A1")) == 1 })
	eventually(t, "the flood is delayed", func() bool { return len(subjects(t, b, "RETRY", "park.>")) == 300 })
	settled(t, b)
}

func TestForgedHeadersAreNotBelieved(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, fault.Permanent(errors.New("no"))
	}, nil)
	body, err := protojson.Marshal(order("acme", "A1"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.PublishRaw(t.Context(), "order.audited.acme", map[string][]string{
		event.HeaderReleased: {"hold:acme/A1"}, event.HeaderReplay: {"7"}, event.HeaderOriginSubject: {"order.audited.other"},
		event.HeaderOriginSeq: {"99"}, event.HeaderOriginStream: {"X"}, event.HeaderSeller: {"other"}, "bridge-why": {"x"},
	}, body)
	if err != nil {
		t.Fatal(err)
	}
	s := parseDeadLetter(t, b, 1)[0]
	if s.Seller != "acme" || s.OriginSeq != 1 || s.Stream != "INTAKE" || len(s.Header) != 0 {
		t.Errorf("dead-lettered as %+v", s)
	}
	d := l.all()[0].d
	if d.Released != nil || d.Returned || d.Replay || !d.First || d.Seq != 1 || d.Subject != "order.audited.acme" {
		t.Errorf("delivered as %+v", d)
	}
}

func TestServeNeedsItsConsumer(t *testing.T) {
	b := bustest.Start(t, services()...)
	none := func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) { return nil, nil }
	for name, s := range map[string]bus.Serving{
		"unknown consumer": {Consumer: "nobody", Attempts: &bustest.Attempts{}},
		"another topic":    {Consumer: "status-poller", Attempts: &bustest.Attempts{}},
		"nothing counts":   {Consumer: pusher},
	} {
		if err := bus.Serve(t.Context(), b, event.OrderAudited, s, none, nil); err == nil {
			t.Errorf("%s: served", name)
		}
	}
	// Deleted while it is served.
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(t.Context(), b, event.OrderAudited, bus.Serving{Consumer: pusher, Attempts: &bustest.Attempts{}}, none, nil)
	}()
	eventually(t, "it asks", func() bool {
		c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		return err == nil && c.CachedInfo().NumWaiting > 0
	})
	if err := b.JS().DeleteConsumer(t.Context(), "INTAKE", pusher); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, bus.ErrTopology) {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("Serve goes on without its consumer")
	}
	if err := bus.Serve(t.Context(), b, event.OrderAudited, bus.Serving{Consumer: pusher, Attempts: &bustest.Attempts{}}, none, nil); !errors.Is(err, bus.ErrTopology) {
		t.Errorf("start without consumer: %v", err)
	}
}

func TestServingContinuesAfterTheBrokerRestarts(t *testing.T) {
	t.Parallel()
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return []event.Event{accepted(m)}, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "before", func() bool { return len(l.of("A1")) == 1 })
	k.s.Stop()
	if b.Ready() == nil {
		eventually(t, "not ready", func() bool { return b.Ready() != nil })
	}
	// Published while the broker is down: waits, is stored once.
	done := make(chan error, 1)
	go func() { done <- b.Publish(t.Context(), audit("acme", "A2")) }()
	k.start()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	eventually(t, "after", func() bool { return len(l.of("A2")) == 1 })
	if b.Ready() != nil {
		t.Error(b.Ready())
	}
	settled(t, b)
}

// One request asks for as many as there are free slots: the server keeps one for an idle worker, however many slots it
// has. Single messages find the other slots all the same.
func TestOneRequestServesAllSlots(t *testing.T) {
	b := bustest.Start(t, services()...)
	const slots = 8
	begun, hold := make(chan struct{}, 2*slots), make(chan struct{})
	serve(t, b, bus.Serving{Slots: slots}, func(ctx context.Context, _ *bus.Delivery, _ *orderv1.Audited) ([]event.Event, error) {
		begun <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, nil
	}, nil)
	waiting := func() int {
		c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		if err != nil {
			return -1
		}
		return c.CachedInfo().NumWaiting
	}
	eventually(t, "one request is open", func() bool { return waiting() == 1 })
	for i := range slots {
		publish(t, b, audit("acme", fmt.Sprintf("A%d", i)))
		<-begun // while all before it are held
	}
	eventually(t, "nothing is asked for while all slots are busy", func() bool { return waiting() == 0 })
	close(hold)
	eventually(t, "idle again", func() bool { return waiting() == 1 })
}

// A leader that steps down no longer answers pending requests, and a request ends only with its caller's deadline,
// which is that of all the handler's work.
func TestAnUnansweredRequestIsRepeated(t *testing.T) {
	b, url := bustest.StartServer(t, services()...)
	var lost atomic.Bool
	c, err := faultproxy.NewCable(url, func(m faultproxy.Message) bool {
		return m.Subject != "$JS.API.STREAM.INFO.RETRY" || lost.Swap(true)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var l log
	serve(t, bustest.Connect(t, c.URL()), bus.Serving{Backoff: func(int) time.Duration { return time.Millisecond }},
		func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			if l.add(d, m) == 1 {
				return nil, errors.New("not now")
			}
			return nil, nil
		}, nil)
	publish(t, b, audit("acme", "A-1"))
	eventually(t, "it ran twice", func() bool { return len(l.all()) == 2 })
	settled(t, b)
	if !lost.Load() {
		t.Error("nothing was asked")
	}
}
