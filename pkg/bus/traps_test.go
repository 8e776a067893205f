package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// Behaviours of NATS that this package is built around, each as a user of the bus meets it; where it is cheap, the raw
// behaviour too, so that a release that changes it is noticed.

// raw creates a stream for one test.
func raw(t *testing.T, b *bus.Bus, c jetstream.StreamConfig) jetstream.Stream {
	t.Helper()
	s, err := b.JS().CreateStream(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, b *bus.Bus, m *nats.Msg) *jetstream.PubAck {
	t.Helper()
	ack, err := b.JS().PublishMsg(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

// A work queue forgets the ids of acked messages at a restart; a stream with limits retention does not.
func TestTrapADuplicateIsDetectedAfterARestart(t *testing.T) {
	t.Parallel()
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	s := raw(t, b, jetstream.StreamConfig{Name: "Q", Subjects: []string{"q.>"}, Retention: jetstream.WorkQueuePolicy})
	c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	header := map[string][]string{"Nats-Msg-Id": {"once"}}
	for _, subject := range []string{"order.accepted", "q.x"} {
		if stored, _, err := b.PublishRaw(t.Context(), subject, header, []byte("{}")); err != nil || !stored {
			t.Fatalf("%s: %v, %v", subject, stored, err)
		}
	}
	m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.restart()
	eventually(t, "connected", func() bool { return b.Ready() == nil })
	if stored, _, err := b.PublishRaw(t.Context(), "order.accepted", header, []byte("{}")); err != nil || stored {
		t.Errorf("public stream took it again: %v, %v", stored, err)
	}
	if stored, _, err := b.PublishRaw(t.Context(), "q.x", header, []byte("{}")); err != nil || !stored {
		t.Errorf("the work queue now remembers: %v, %v", stored, err)
	}
}

// A message whose MaxDeliver is used up becomes invisible.
func TestTrapUsedUpAttemptsMakeADeadLetter(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	for stream, name := range map[string]string{"INTAKE": pusher, "RETRY": bus.RetryName(pusher)} {
		c, err := b.JS().Consumer(t.Context(), stream, name)
		if err != nil || c.CachedInfo().Config.MaxDeliver != -1 {
			t.Fatalf("%s: MaxDeliver %d, %v", name, c.CachedInfo().Config.MaxDeliver, err)
		}
	}
	serve(t, b, bus.Serving{MaxAttempts: 2, Backoff: func(int) time.Duration { return time.Millisecond }},
		func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
			return nil, errors.New("no")
		}, nil)
	publish(t, b, audit("acme", "A1"))
	if s := parseDeadLetter(t, b, 1)[0]; s.Key != "A1" || s.Attempts != 2 {
		t.Errorf("%+v", s)
	}

	s := raw(t, b, jetstream.StreamConfig{Name: "X", Subjects: []string{"x"}})
	c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "x", AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 1, AckWait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	send(t, b, msg("x", "1"))
	if _, err := c.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "invisible", func() bool {
		i, err := c.Info(t.Context())
		return err == nil && i.NumPending == 0 && i.NumAckPending == 0
	})
	if i, err := s.Info(t.Context()); err != nil || i.State.Msgs != 1 {
		t.Errorf("the message is gone: %v, %v", i.State.Msgs, err)
	}
}

// Messages that wait inside a consumer count against MaxAckPending and block the healthy ones behind them.
func TestTrapLongRetriesDoNotBlockTheConsumer(t *testing.T) {
	b := bustest.Start(t, services()...)
	change(t, b, func(c *jetstream.ConsumerConfig) { c.MaxAckPending = 3 })
	var l log
	serve(t, b, bus.Serving{Backoff: func(int) time.Duration { return time.Hour }}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		if strings.HasPrefix(m.GetOutboundNo(), "sick") {
			return nil, errors.New("not now")
		}
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "sick1"), audit("acme", "sick2"), audit("acme", "sick3"), audit("acme", "well"))
	eventually(t, "the healthy one", func() bool { return len(l.of("well")) == 1 })
}

// A plain nak redelivers at once, whatever BackOff says.
func TestTrapARetryWaitsForItsPause(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	const pause = 400 * time.Millisecond
	serve(t, b, bus.Serving{Backoff: func(int) time.Duration { return pause }}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if l.add(d, m) == 1 {
			return nil, errors.New("not now")
		}
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "second run", func() bool { return len(l.of("A1")) == 2 })
	if runs := l.of("A1"); runs[1].at.Sub(runs[0].at) < pause {
		t.Errorf("came back after %v", runs[1].at.Sub(runs[0].at))
	}
}

// A message that is published again under its id, within the duplicate window, is not stored.
func TestTrapAReplayIsStoredInsideTheDuplicateWindow(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if l.add(d, m) < 4 {
			return nil, fault.Permanent(errors.New("no"))
		}
		return nil, nil
	}, nil)
	e := audit("acme", "A1")
	publish(t, b, e)
	for n := 1; n < 4; n++ {
		s := parseDeadLetter(t, b, 1)[0]
		if s.ID != e.ID || s.Subject != "order.audited.acme" || s.Stream != "INTAKE" || s.OriginSeq != 1 {
			t.Errorf("shelved the %d. time as %+v", n, s)
		}
		if err := b.Replay(t.Context(), s.Seq, bus.By{Who: "test", Why: "mended"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "replay is run", func() bool { return len(l.of("A1")) == n+1 })
		settled(t, b)
	}
	parseDeadLetter(t, b, 0)
	runs := l.of("A1")
	first := runs[0].d.StreamTime
	for _, r := range runs[1:] {
		if !r.d.Replay || r.d.First || r.d.ID != e.ID || !r.d.StreamTime.Equal(first) || r.d.Attempt != 1 {
			t.Errorf("replayed as %+v", r.d)
		}
	}
	// Our own event, published again meanwhile, is recognised by its id.
	publish(t, b, accepted(order("acme", "A1")))
	publish(t, b, accepted(order("acme", "A1")))
	if n := published(t, b, event.OrderAccepted.Name)["A1"]; n != 1 {
		t.Errorf("published twice, stored %d times", n)
	}
}

// The library's helper cuts a schedule's time to seconds, and a fired message has lost its id; an overdue schedule
// fires after a restart.
func TestTrapADelayedMessageFiresWholeAndNotEarly(t *testing.T) {
	t.Parallel()
	k := newBroker(t)
	b := bustest.Connect(t, k.s.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	var l log
	var due time.Time
	clock := soon(time.Hour, 1700*time.Millisecond)
	serve(t, b, bus.Serving{Now: func() time.Time {
		now := clock()
		due = now.Add(time.Hour)
		return now
	}}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if l.add(d, m) == 1 {
			return nil, fault.RetryAfter(time.Hour, errors.New("later"))
		}
		return nil, nil
	}, nil)
	e := audit("acme", "A1")
	publish(t, b, e)
	eventually(t, "delayed", func() bool { return len(subjects(t, b, "RETRY", "park.>")) == 1 })
	eventually(t, "back", func() bool { return len(l.of("A1")) == 2 })
	runs := l.of("A1")
	if runs[1].at.Before(due) {
		t.Errorf("%v early", due.Sub(runs[1].at))
	}
	if d := runs[1].d; d.ID != e.ID || d.First || d.Replay || d.Subject != "order.audited.acme" || d.Stream != "INTAKE" || d.Seq != 1 ||
		!d.StreamTime.Equal(runs[0].d.StreamTime) || d.Seller != "acme" {
		t.Errorf("came back as %+v", d)
	}
	// Nothing piles up.
	settled(t, b)
	eventually(t, "RETRY is empty", func() bool { return len(subjects(t, b, "RETRY", ">")) == 0 })

	publish(t, b, audit("acme", "A2"))
	func() {
		eventually(t, "delayed", func() bool { return len(subjects(t, b, "RETRY", "park.>")) == 1 })
		k.s.Stop()
		defer k.start()
		pass(time.Until(due)) // it falls due while the server is down
	}()
	eventually(t, "back after the restart", func() bool { return len(l.of("A2")) == 2 })
	settled(t, b)
}

// Stopping a consumer that prefetched leaves messages locked until AckWait.
func TestTrapStoppingLeavesNothingLocked(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	h := func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}
	stop := serve(t, b, bus.Serving{Slots: 8}, h, nil)
	var events []event.Event
	for i := range 500 {
		events = append(events, audit("acme", fmt.Sprintf("A%d", i)))
	}
	publish(t, b, events...)
	eventually(t, "some are handled", func() bool { return len(l.all()) > 20 })
	stop()
	serve(t, b, bus.Serving{Slots: 8}, h, nil)
	// Sooner than AckWait (30 s), after which anything is redelivered. On a cluster a node that does not know yet that
	// nobody listens may send one more: that one is redelivered then.
	limit := 15 * time.Second
	if bustest.Clustered() {
		limit += 30 * time.Second
	}
	settledWithin(t, b, limit)
	for i := range events {
		if n := len(l.of(fmt.Sprintf("A%d", i))); n != 1 {
			t.Errorf("A%d ran %d times", i, n)
		}
	}
}

// A paused consumer delivers nothing until it is resumed; its worker then continues.
func TestTrapAPausedConsumerContinuesAfterResume(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	if _, err := b.JS().PauseConsumer(t.Context(), "INTAKE", pusher, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its leader knows of it", func() bool { // on a cluster the answer comes earlier
		c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		return err == nil && c.CachedInfo().Paused
	})
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "it asks", func() bool {
		c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
		return err == nil && c.CachedInfo().NumWaiting > 0
	})
	if len(l.all()) != 0 {
		t.Error("delivered while paused")
	}
	if _, err := b.JS().ResumeConsumer(t.Context(), "INTAKE", pusher); err != nil {
		t.Fatal(err)
	}
	settled(t, b)
	if len(l.of("A1")) != 1 {
		t.Error("not delivered after resume")
	}
}

// A handler that takes longer than AckWait runs again elsewhere unless it reports progress.
func TestTrapASlowHandlerRunsOnce(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	ackWait(t, b, time.Second)
	var l log
	h := func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		pass(2500 * time.Millisecond) // more than twice AckWait
		return nil, nil
	}
	serve(t, b, bus.Serving{}, h, nil)
	serve(t, b, bus.Serving{}, h, nil)
	publish(t, b, audit("acme", "A1"))
	settled(t, b)
	if n := len(l.of("A1")); n != 1 {
		t.Errorf("ran %d times", n)
	}
}

// A handler that hangs loses its message: heartbeats are bounded.
func TestTrapAHangingHandlerLosesItsMessage(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	ackWait(t, b, 200*time.Millisecond)
	var l log
	serve(t, b, bus.Serving{HandlerLimit: 100 * time.Millisecond, Backoff: func(int) time.Duration { return time.Millisecond }},
		func(ctx context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
			if l.add(d, m) == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}, nil)
	publish(t, b, audit("acme", "A1"))
	settled(t, b)
	if runs := l.of("A1"); len(runs) != 2 || runs[1].d.Attempt != 2 {
		t.Errorf("%+v", runs)
	}
}

// AckWait runs for a message that waits in the client: prefetching leads to double runs without any fault.
func TestTrapExactlyAsManyMessagesAsSlots(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	ackWait(t, b, time.Second)
	var l log
	h := func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		pass(400 * time.Millisecond) // six rounds of four take more than twice AckWait
		return nil, nil
	}
	for i := range 24 {
		publish(t, b, audit("acme", fmt.Sprintf("A%d", i)))
	}
	serve(t, b, bus.Serving{Slots: 2}, h, nil)
	serve(t, b, bus.Serving{Slots: 2}, h, nil)
	eventually(t, "some", func() bool { return len(l.all()) >= 4 })
	c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
	if err != nil || c.CachedInfo().NumAckPending > 4 {
		t.Errorf("%d messages in 4 slots, %v", c.CachedInfo().NumAckPending, err)
	}
	settled(t, b)
	if n := len(l.all()); n != 24 {
		t.Errorf("%d runs of 24", n)
	}
}

// Some settings cannot be changed, and the server adds metadata of its own; drift is named.
func TestTrapDriftIsNamed(t *testing.T) {
	b := bustest.Start(t, services()...)
	c, err := b.JS().Consumer(t.Context(), "INTAKE", pusher)
	if err != nil {
		t.Fatal(err)
	}
	config := c.CachedInfo().Config
	own := 0
	for k := range config.Metadata {
		if strings.HasPrefix(k, "_nats.") {
			own++
		}
	}
	if own == 0 {
		t.Error("the server no longer adds metadata of its own")
	}
	if err := b.CheckTopology(t.Context(), services()...); err != nil {
		t.Errorf("the server's metadata counts as drift: %v", err)
	}
	config.DeliverPolicy = jetstream.DeliverNewPolicy
	if _, err := b.JS().UpdateConsumer(t.Context(), "INTAKE", config); apiCode(err) != 10012 {
		t.Errorf("deliver policy changed: %v", err)
	}

	change(t, b, func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 5 })
	err = b.CheckTopology(t.Context(), services()...)
	if !errors.Is(err, bus.ErrTopology) || !strings.Contains(err.Error(), "max_deliver") || !strings.Contains(err.Error(), "INTAKE/order-pusher") {
		t.Errorf("drift: %v", err)
	}
	changes, err := b.Diff(t.Context(), bustest.Topology(services()...))
	if err != nil || len(changes) != 2 {
		t.Errorf("diff %v, %v", changes, err)
	}
	if _, err := b.Apply(t.Context(), bustest.Topology(services()...)); err != nil {
		t.Fatal(err)
	}
	if err := b.CheckTopology(t.Context(), services()...); err != nil {
		t.Errorf("after apply: %v", err)
	}
}

func TestAWorkerChecksItsOwnConsumersOnly(t *testing.T) {
	b := bustest.Start(t, services()...)
	if err := b.JS().DeleteConsumer(t.Context(), "INTAKE", pusher); err != nil {
		t.Fatal(err)
	}
	for _, s := range services() {
		err := b.CheckTopology(t.Context(), s)
		if own := s.Name == pusher; own != errors.Is(err, bus.ErrTopology) || own && !strings.Contains(err.Error(), "consumer INTAKE/"+pusher+": missing") {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
}

// Only the last of several schedules on one subject fires.
func TestTrapEveryDelayedMessageFires(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{Now: soon(time.Minute, time.Second)}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if l.add(d, m) == 1 {
			return nil, fault.RetryAfter(time.Minute, errors.New("later"))
		}
		return nil, nil
	}, nil)
	// Three of one seller, two of them under the same ce-id by the ERP's mistake.
	for _, no := range []string{"A1", "A2", "A3"} {
		e := audit("acme", no)
		if no != "A1" {
			e.ID = "not-unique"
		}
		publish(t, b, e)
		if no == "A2" { // so that A3 under the same id is stored and not taken for a duplicate of A2
			forgetIDs(t, b)
		}
	}
	for _, no := range []string{"A1", "A2", "A3"} {
		eventually(t, no+" is back", func() bool { return len(l.of(no)) == 2 })
	}

	raw(t, b, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowMsgSchedules: true, AllowRollup: true})
	at := "@at " + time.Now().Add(500*time.Millisecond).UTC().Format(time.RFC3339Nano)
	for i := range 3 {
		send(t, b, msg("s.park", fmt.Sprint(i), "Nats-Schedule", at, "Nats-Schedule-Target", "s.out"))
	}
	eventually(t, "fired", func() bool { return subjects(t, b, "S", "s.park")["s.park"] == 0 })
	if n := subjects(t, b, "S", "s.out")["s.out"]; n != 1 {
		t.Errorf("%d of three schedules on one subject fired", n)
	}
}

// forgetIDs makes INTAKE forget its message ids, by shortening its duplicate window and waiting until that is over.
func forgetIDs(t *testing.T, b *bus.Bus) {
	t.Helper()
	s, err := b.JS().Stream(t.Context(), "INTAKE")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	if _, err := b.JS().UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	pass(300 * time.Millisecond)
}

// A schedule cannot fire to its own subject or into another stream.
func TestTrapDelayAndRetryShareAStream(t *testing.T) {
	b := bustest.Start(t, services()...)
	at := "@at " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	for target, want := range map[string]int{
		event.DelaySubject(pusher, "x"):   10190,
		"order.audited.acme":              10190,
		event.RetrySubject(pusher, "s1"):  0,
		event.RetrySubject("nobody", "_"): 0,
	} {
		_, err := b.JS().PublishMsg(t.Context(), msg(event.DelaySubject(pusher, "x"), "", "Nats-Schedule", at, "Nats-Schedule-Target", target))
		if apiCode(err) != want {
			t.Errorf("target %s: %v", target, err)
		}
	}
}

// A stream whose age is shorter than the delay loses the delayed message.
func TestTrapInternalStreamsHaveNoAge(t *testing.T) {
	b := bustest.Start(t, services()...)
	for _, name := range []string{"TICKS", "RETRY", "SHELF"} {
		s, err := b.JS().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		config := s.CachedInfo().Config
		if config.MaxAge != 0 || config.MaxBytes != -1 || config.MaxMsgs != -1 {
			t.Errorf("%s is limited: %+v", name, config)
		}
		config.MaxAge = time.Hour
		if _, err := b.JS().UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		if err := b.CheckTopology(t.Context(), services()...); !errors.Is(err, bus.ErrTopology) || !strings.Contains(err.Error(), "stream "+name+": max_age") {
			t.Errorf("an age on %s: %v", name, err)
		}
	}
	// The age of public streams, and of ACTS, is the operator's choice.
	shorter := bustest.Topology(services()...)
	shorter.KeepFor = 48 * time.Hour
	changes, err := b.Apply(t.Context(), shorter)
	for _, stream := range []string{"INTAKE", "ORDERS", "TICKS", "RETRY", "SHELF", "ACTS"} {
		if err != nil || !strings.Contains(fmt.Sprint(changes), "stream "+stream+": max_age") {
			t.Errorf("%s: %v, %v", stream, changes, err)
		}
	}
	if err := b.CheckTopology(t.Context(), services()...); err != nil {
		t.Error(err)
	}
}

// Delayed again under the id of an earlier delay that fired, a message is not stored.
func TestTrapAMessageCanBeDelayedAgainAndAgain(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{Now: soon(time.Minute, 600*time.Millisecond)}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		if l.add(d, m) < 4 {
			return nil, fault.RetryAfter(time.Minute, errors.New("later"))
		}
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "fourth run", func() bool { return len(l.of("A1")) == 4 })
	settled(t, b)
	for _, r := range l.of("A1") {
		if r.d.Attempt != 1 {
			t.Errorf("waiting burned an attempt: %+v", r.d)
		}
	}
}

// A delay that was stored right before a crash is a duplicate of itself; one that already fired is not lost.
func TestTrapADuplicateCountsOnlyWhileItWaits(t *testing.T) {
	b := bustest.Start(t, services()...)
	gate := make(chan struct{}, 10)
	var l log
	serve(t, b, bus.Serving{Slots: 1}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		<-gate
		return nil, fault.RetryAfter(time.Hour, errors.New("later"))
	}, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "running", func() bool { return len(l.of("A1")) == 1 })
	// An earlier run's delay, which then fired and was handled: its id is known, its subject is empty.
	d := l.of("A1")[0].d
	id := "park/" + pusher + "/" + d.Origin() + "/1"
	send(t, b, msg(event.DelaySubject(pusher, "another"), "", "Nats-Msg-Id", id))
	gate <- struct{}{}
	eventually(t, "delayed again", func() bool { return subjects(t, b, "RETRY", "park.>")[event.DelaySubject(pusher, d.Origin())] == 1 })
	settled(t, b)
}

// Where a stream accepts schedules, roll-ups or TTLs, one seller reaches all others' events.
func TestTrapOneSellerCannotReachAnothers(t *testing.T) {
	b := bustest.Start(t, services()...)
	publish(t, b, audit("victim", "V1"))
	at := "@at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)
	for name, c := range map[string]struct {
		m    *nats.Msg
		code int
	}{
		"schedule onto another's subject": {msg("order.audited.evil", "{}", "Nats-Schedule", at, "Nats-Schedule-Target", "order.audited.victim"), 10188},
		"roll-up of the whole stream":     {msg("order.audited.evil", "{}", "Nats-Rollup", "all"), 10111},
		"roll-up of a subject":            {msg("order.audited", "{}", "Nats-Rollup", "sub"), 10111},
		"time to live":                    {msg("order.audited.evil", "{}", "Nats-TTL", "1s"), 10166},
	} {
		if _, err := b.JS().PublishMsg(t.Context(), c.m); apiCode(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"INTAKE", "ORDERS", "SELLERS"} {
		s, err := b.JS().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Purge(t.Context()); err == nil {
			t.Errorf("%s can be purged", name)
		}
		if i, err := s.Info(t.Context()); err != nil || name == "INTAKE" && i.State.Msgs != 1 {
			t.Errorf("%s holds %d, %v", name, i.State.Msgs, err)
		}
	}
}

// A publish without permission just times out; the reason comes asynchronously.
func TestTrapAMissingPermissionIsAClearError(t *testing.T) {
	ns, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*natsserver.User{
			{Username: "owner", Password: "o"},
			{Username: "s1", Password: "s", Permissions: &natsserver.Permissions{
				Publish:   &natsserver.SubjectPermission{Allow: []string{"order.audited.s1", "$JS.API.>"}},
				Subscribe: &natsserver.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	url := func(user string) string { return strings.Replace(ns.ClientURL(), "nats://", "nats://"+user+"@", 1) }
	owner := bustest.Connect(t, url("owner:o"))
	if _, err := owner.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	seller := bustest.Connect(t, url("s1:s"))
	if err := seller.Publish(t.Context(), audit("s1", "A1")); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	err = seller.Publish(t.Context(), audit("s2", "A1"))
	if !errors.Is(err, bus.ErrPermission) || !strings.Contains(err.Error(), "order.audited.s2") {
		t.Errorf("what is not: %v", err)
	}
	if _, _, err := seller.PublishRaw(t.Context(), "order.audited", nil, []byte("{}")); !errors.Is(err, bus.ErrPermission) {
		t.Errorf("raw: %v", err)
	}
}

// A broker that is killed forgets how often it delivered. Our count does not.
func TestTrapAttemptsSurviveTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := server.Start(server.Options{Dir: dir, Port: server.RandomPort, SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(first.Stop)
	b := bustest.Connect(t, first.URL())
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	ackWait(t, b, time.Second)
	attempts := &bustest.Attempts{}
	var runs atomic.Int32
	fail := func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		runs.Add(1)
		return nil, errors.New("no")
	}
	s := bus.Serving{Attempts: attempts, MaxAttempts: 7, Backoff: func(n int) time.Duration {
		if n >= 5 {
			return 9 * time.Second
		}
		return time.Millisecond
	}}
	stop := serve(t, b, s, fail, nil)
	publish(t, b, audit("acme", "A1"))
	eventually(t, "five runs", func() bool { return runs.Load() == 5 })
	// The files as a kill leaves them.
	var killed string
	eventually(t, "the files are copied between two writes of the server's", func() bool {
		killed = t.TempDir()
		err := os.CopyFS(killed, os.DirFS(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	})
	stop()
	second, err := server.Start(server.Options{Dir: killed, Port: server.RandomPort, SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Stop)
	b = bustest.Connect(t, second.URL())
	s.Backoff = func(int) time.Duration { return time.Millisecond }
	serve(t, b, s, fail, nil)
	item := parseDeadLetter(t, b, 1)[0]
	if n := runs.Load(); n != 7 || item.Attempts != 7 {
		t.Errorf("%d runs, shelved after %d attempts", n, item.Attempts)
	}
}

// DiscardNew and schedules exclude each other; ticks that nobody handles do not pile up all the same.
func TestTrapTicksDoNotPileUp(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	_, err := b.JS().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, AllowMsgSchedules: true, AllowRollup: true, Discard: jetstream.DiscardNew})
	if apiCode(err) != 10052 {
		t.Errorf("DiscardNew with schedules: %v", err)
	}
	if err := b.SetTick(t.Context(), event.TickPoll, "acme", time.Second); err != nil {
		t.Fatal(err)
	}
	s, err := b.JS().Stream(t.Context(), "TICKS")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three fired", func() bool {
		i, err := s.Info(t.Context())
		return err == nil && i.State.LastSeq >= 4
	})
	if n := subjects(t, b, "TICKS", "due.>")[event.DueSubject(event.TickPoll, "acme")]; n != 1 {
		t.Errorf("%d ticks wait", n)
	}
}

// After a crash between storing a dead letter and the ack the message is dead-lettered again.
func TestTrapDeadLetteredTwiceIsOnce(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	stop := serve(t, b, bus.Serving{Slots: 1}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, fault.Permanent(errors.New("no"))
	}, nil)
	publish(t, b, audit("acme", "A1"))
	first := parseDeadLetter(t, b, 1)[0]
	settled(t, b)
	stop()
	// The ack was lost: the consumer gets all of it again.
	if err := b.JS().DeleteConsumer(t.Context(), "INTAKE", pusher); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Apply(t.Context(), bus.Topology{Services: services()}); err != nil {
		t.Fatal(err)
	}
	stop = serve(t, b, bus.Serving{Slots: 1}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, fault.Permanent(errors.New("no"))
	}, nil)
	settled(t, b)
	stop()
	if len(l.all()) != 2 {
		t.Fatalf("%d runs", len(l.all()))
	}
	if items := deadLetters(t, b); len(items) != 1 || items[0].Seq != first.Seq {
		t.Errorf("shelved as %+v", items)
	}
	m := msg(event.DeadLetterSubject(event.Dead, pusher, "INTAKE", 1), "", "Nats-Expected-Last-Subject-Sequence", "0")
	if _, err := b.JS().PublishMsg(t.Context(), m); apiCode(err) != 10071 {
		t.Errorf("raw: %v", err)
	}
}

// A stream that was restored from an older copy issues its sequences again: the new message must not pass for the old
// one.
func TestTrapAnotherMessageUnderTheSameNumberIsKept(t *testing.T) {
	b := bustest.Start(t, services()...)
	send(t, b, msg(event.DeadLetterSubject(event.Dead, pusher, "INTAKE", 1), "old", event.HeaderOriginStream, "INTAKE", event.HeaderOriginSeq, "1", event.HeaderOriginTime, "2020-01-01T00:00:00Z"))
	serve(t, b, bus.Serving{}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		return nil, fault.Permanent(errors.New("no"))
	}, nil)
	publish(t, b, audit("acme", "A1"))
	items := parseDeadLetter(t, b, 2)
	if string(items[0].Body) != "old" || items[1].Key != "A1" {
		t.Errorf("%+v", items)
	}
}
