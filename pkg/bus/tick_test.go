package bus_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	sellerv1 "stockbridge/proto/seller/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

func TestTicksContinueAfterAFailureAndAPanic(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var ticks, failed atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- bus.Serve(ctx, b, event.PollDue, bus.Serving{Consumer: "status-poller", Slots: 2}, func(_ context.Context, d *bus.Delivery, m *sellerv1.PollDue) ([]event.Event, error) {
			if m.GetSeller() != "acme" || d.Seller != "acme" {
				t.Errorf("tick of %q", m.GetSeller())
			}
			switch ticks.Add(1) {
			case 1:
				return nil, fault.RetryAfter(time.Millisecond, errors.New("too early"))
			case 2:
				failed.Add(1)
				return nil, fault.Permanent(errors.New("no"))
			case 3:
				panic("tick")
			}
			return nil, nil
		}, nil)
	}()
	if err := b.SetTick(t.Context(), event.TickPoll, "acme", time.Second); err != nil {
		t.Fatal(err)
	}
	last := func() uint64 {
		s, err := b.JS().Stream(t.Context(), "TICKS")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.LastSeq
	}
	before := last()
	for range 3 {
		if err := b.SetTick(t.Context(), event.TickPoll, "acme", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if after := last(); before == 1 && after > 2 {
		t.Errorf("setting the same tick again wrote: %d to %d", before, after)
	}
	eventually(t, "ticks go on after a failure and a panic", func() bool { return ticks.Load() >= 4 && failed.Load() == 1 })
	if items := deadLetters(t, b); len(items) != 0 {
		t.Errorf("ticks were dead-lettered: %+v", items)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestEachPlaceHasItsOwnTick(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	place := func(shop string) (string, proto.Message) {
		return event.Place("W01", shop), &vmiv1.Due{Seller: "acme", Warehouse: "W01", ShopNo: shop}
	}
	set := func(shops ...string) {
		t.Helper()
		places := map[string]proto.Message{}
		for _, shop := range shops {
			name, m := place(shop)
			places[name] = m
		}
		if err := b.SetTicks(t.Context(), event.TickVMI, "acme", places, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	standing := func() []string {
		t.Helper()
		return slices.Sorted(maps.Keys(subjects(t, b, "TICKS", "tick.>")))
	}
	if err := b.SetTick(t.Context(), event.TickPoll, "acme", time.Hour); err != nil {
		t.Fatal(err)
	}
	set("ESP1", "ESP2")
	one, _ := place("ESP1")
	two, _ := place("ESP2")
	want := []string{"tick.poll.acme", "tick.vmi.acme." + one, "tick.vmi.acme." + two}
	if got := standing(); !slices.Equal(got, want) {
		t.Errorf("set: %v, want %v", got, want)
	}
	set("ESP2")
	if got := standing(); !slices.Equal(got, []string{want[0], want[2]}) {
		t.Errorf("after a place went: %v", got)
	}
	set()
	if got := standing(); !slices.Equal(got, want[:1]) {
		t.Errorf("after all places went: %v", got)
	}
}

func TestTickChangesItsPace(t *testing.T) {
	b := bustest.Start(t, services()...)
	for _, every := range []time.Duration{time.Hour, 2 * time.Hour} {
		if err := b.SetTick(t.Context(), event.TickPoll, "acme", every); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.JS().Stream(t.Context(), "TICKS")
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(t.Context(), event.TickSubject(event.TickPoll, "acme"))
	if err != nil || m.Header.Get("Nats-Schedule") != "@every 2h0m0s" || s.CachedInfo().State.Msgs != 1 {
		t.Errorf("%v, %v", m, err)
	}
	if err := b.SetTick(t.Context(), event.TickPoll, "a.b", time.Hour); err == nil {
		t.Error("a seller that cannot stand in a subject")
	}
}

// A service has one tick of a kind, however many sellers there are. Apply sets it, and removes the schedules that earlier
// builds kept for each seller; other kinds of ticks of sellers stay.
func TestApplySetsTheTicksOfServices(t *testing.T) {
	t.Parallel()
	layout := services()
	b := bustest.Start(t, layout...)
	ctx := t.Context()
	for _, name := range []string{"acme", "bolt"} {
		if err := b.SetTick(ctx, event.TickPoll, name, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := b.SetTick(ctx, event.TickReconcile, name, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	poller := len(layout) - 1
	layout[poller].Ticks = []bus.Tick{{Kind: event.TickPoll, Every: time.Hour}}
	if err := b.CheckTopology(ctx, layout[poller]); !errors.Is(err, bus.ErrTopology) || !strings.Contains(err.Error(), "tick poll: missing") {
		t.Errorf("a worker that starts without its tick: %v", err)
	}
	changes, err := b.Apply(ctx, bustest.Topology(layout...))
	if err != nil || len(changes) != 1 || changes[0].String() != "tick poll: missing, 2 of single sellers, should be none" {
		t.Errorf("applied %v, %v", changes, err)
	}
	want := []string{"tick.poll._", "tick.reconcile.acme", "tick.reconcile.bolt"}
	if got := slices.Sorted(maps.Keys(subjects(t, b, "TICKS", "tick.>"))); !slices.Equal(got, want) {
		t.Errorf("ticks %v, want %v", got, want)
	}
	if err := b.CheckTopology(ctx, layout[poller]); err != nil {
		t.Error(err)
	}
	layout[poller].Ticks = []bus.Tick{{Kind: event.TickPoll, Every: 2 * time.Hour}}
	if err := b.CheckTopology(ctx, layout[poller]); err != nil {
		t.Errorf("the interval is the operator's: %v", err)
	}
	for _, n := range []int{1, 0} {
		if changes, err := b.Apply(ctx, bustest.Topology(layout...)); err != nil || len(changes) != n {
			t.Errorf("applied %v, %v, want %d", changes, err, n)
		}
	}
}

// A tick that waits keeps its place when its seller is fired again; one that is handled can come again.
func TestATickThatWaitsKeepsItsPlace(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	fire := func(names ...string) {
		t.Helper()
		if err := b.TickEach(t.Context(), event.TickPoll, names); err != nil {
			t.Fatal(err)
		}
	}
	fire("acme", "bolt")
	fire("cord", "acme", event.NoSeller)
	fire()
	c, err := b.JS().Consumer(t.Context(), "TICKS", "status-poller")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 4 {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(m.Subject(), "due.poll."))
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(got[:2])
	slices.Sort(got[2:])
	if !slices.Equal(got, []string{"acme", "bolt", event.NoSeller, "cord"}) {
		t.Errorf("ticks came as %v", got)
	}
	fire("acme")
	if n := subjects(t, b, "TICKS", "due.>"); n["due.poll.acme"] != 1 || len(n) != 1 {
		t.Errorf("after they were handled: %v", n)
	}
	if err := b.TickEach(t.Context(), event.TickPoll, []string{"a.b"}); err == nil {
		t.Error("a seller that cannot stand in a subject")
	}
}
