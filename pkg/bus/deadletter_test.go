package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// fill makes dead letters: of two sellers, held under two causes, and dead ones.
func fill(t *testing.T, b *bus.Bus, n int) (stop func()) {
	t.Helper()
	stop = serve(t, b, bus.Serving{Slots: 1}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		switch {
		case d.Replay:
			return nil, nil
		case m.GetShop() == "":
			return nil, nil
		case m.GetSeller() == "acme":
			return nil, fault.Hold("shop:acme/S1", errors.New("no shop"))
		case m.GetSeller() == "other":
			return nil, fault.Hold("shop:other/S1", errors.New("no shop"))
		default:
			return nil, fault.Permanent(errors.New("no"))
		}
	}, nil)
	for i := range n {
		publish(t, b, audit([]string{"acme", "other", "third"}[i%3], fmt.Sprintf("N%d", i)))
	}
	parseDeadLetter(t, b, n)
	settled(t, b)
	return stop
}

func TestDeadLettersAreListedInPagesAndBySelection(t *testing.T) {
	b := bustest.Start(t, services()...)
	fill(t, b, 12)
	for _, c := range []struct {
		name string
		q    bus.DeadLetterQuery
		n    int
	}{
		{"all", bus.DeadLetterQuery{}, 12},
		{"held", bus.DeadLetterQuery{Kind: event.Held}, 8},
		{"dead of the pusher", bus.DeadLetterQuery{Kind: event.Dead, Consumer: pusher}, 4},
		{"another consumer's", bus.DeadLetterQuery{Consumer: "status-poller"}, 0},
		{"a seller's", bus.DeadLetterQuery{Seller: "third"}, 4},
		{"a cause's", bus.DeadLetterQuery{Cause: "shop:other/S1"}, 4},
		{"by name", bus.DeadLetterQuery{Subject: "order.audited"}, 12},
		{"by subject", bus.DeadLetterQuery{Subject: "order.audited.acme"}, 4},
		{"by another subject", bus.DeadLetterQuery{Subject: "order.cancel.requested"}, 0},
	} {
		items, next, err := b.DeadLetters(t.Context(), c.q)
		if err != nil || next != 0 || len(items) != c.n {
			t.Errorf("%s: %d items, next %d, %v", c.name, len(items), next, err)
		}
		for _, s := range items {
			if s.Body != nil {
				t.Errorf("%s: a body nobody asked for", c.name)
			}
		}
	}
	var seqs []uint64
	q := bus.DeadLetterQuery{Kind: event.Held, Limit: 3}
	for pages := 0; ; pages++ {
		items, next, err := b.DeadLetters(t.Context(), q)
		if err != nil || pages > 3 {
			t.Fatal(pages, err)
		}
		for _, s := range items {
			seqs = append(seqs, s.Seq)
		}
		if next == 0 {
			break
		}
		q.After = next
	}
	if len(seqs) != 8 {
		t.Errorf("pages hold %v", seqs)
	}
	s, err := b.DeadLetter(t.Context(), seqs[0])
	if err != nil || len(s.Body) == 0 || s.Cause != "shop:acme/S1" || s.First.IsZero() || s.Last.Before(s.First) {
		t.Errorf("item %+v, %v", s, err)
	}
}

func TestOnlyDeadLettersCanBeDroppedOrReplayed(t *testing.T) {
	b := bustest.Start(t, services()...)
	fill(t, b, 1)
	seq := deadLetters(t, b)[0].Seq
	if err := b.Drop(t.Context(), seq, bus.By{Who: "test"}); err != nil {
		t.Fatal(err)
	}
	parseDeadLetter(t, b, 0)
	for name, err := range map[string]error{
		"drop":   b.Drop(t.Context(), seq, bus.By{}),
		"replay": b.Replay(t.Context(), seq, bus.By{}),
		"beyond": b.Replay(t.Context(), 99, bus.By{}),
	} {
		if !errors.Is(err, bus.ErrNoDeadLetter) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.DeadLetter(t.Context(), seq); !errors.Is(err, bus.ErrNoDeadLetter) {
		t.Errorf("item: %v", err)
	}
}

func TestReleaseByCauseIsResumable(t *testing.T) {
	b := bustest.Start(t, services()...)
	stop := fill(t, b, 9)
	stop()
	by := bus.By{Who: "test", Why: "mapping added"}
	q := bus.DeadLetterQuery{Kind: event.Held, Cause: "shop:acme/S1"}

	// Interrupted after the first.
	ctx, cancel := context.WithCancel(t.Context())
	n, err := b.Release(ctx, q, func(bus.DeadLetter) bool {
		if len(deadLetters(t, b)) == 8 {
			cancel()
		}
		return true
	}, 1000, by)
	if n != 1 || !errors.Is(err, context.Canceled) {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err = b.Release(t.Context(), q, nil, 0, by); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err = b.Release(t.Context(), q, nil, 0, by); err != nil || n != 0 {
		t.Fatalf("%d, %v", n, err)
	}
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	eventually(t, "three come back", func() bool { return len(l.all()) == 3 })
	settled(t, b)
	if len(l.all()) != 3 || len(deadLetters(t, b)) != 6 {
		t.Errorf("%d ran, %d left", len(l.all()), len(deadLetters(t, b)))
	}
}

// Two operators press the button at once.
func TestReplayedByTwoAtOnceRunsOnce(t *testing.T) {
	b := bustest.Start(t, services()...)
	fill(t, b, 1)()
	seq := deadLetters(t, b)[0].Seq
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.Replay(t.Context(), seq, bus.By{Who: "test"}); err != nil && !errors.Is(err, bus.ErrNoDeadLetter) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		l.add(d, m)
		return nil, nil
	}, nil)
	eventually(t, "it runs", func() bool { return len(l.all()) > 0 })
	settled(t, b)
	if n := len(l.all()); n != 1 {
		t.Errorf("%d runs", n)
	}
}

// What a release sends while the cause still exists is held again; it must not loop for ever.
func TestReleaseEndsThoughAllAreHeldAgain(t *testing.T) {
	b := bustest.Start(t, services()...)
	serve(t, b, bus.Serving{}, func(context.Context, *bus.Delivery, *orderv1.Audited) ([]event.Event, error) {
		return nil, fault.Hold("shop:acme/S1", errors.New("no shop"))
	}, nil)
	for i := range 5 {
		publish(t, b, audit("acme", fmt.Sprintf("A%d", i)))
	}
	parseDeadLetter(t, b, 5)
	n, err := b.Release(t.Context(), bus.DeadLetterQuery{}, nil, 50, bus.By{Who: "test"})
	if err != nil || n != 5 {
		t.Errorf("%d, %v", n, err)
	}
	parseDeadLetter(t, b, 5)
}

// An operator lets an order pass two causes, one after the other, and in between it waits for something else: what was
// released once stays released, or the two causes would alternate for ever.
func TestReleasedStaysReleased(t *testing.T) {
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		n := l.add(d, m)
		for _, cause := range []string{"hold:acme/A1", "trial:acme"} {
			if !slices.Contains(d.Released, cause) {
				return nil, fault.Hold(cause, errors.New("waits"))
			}
		}
		if n == 3 {
			return nil, fault.Hold("pause:acme", errors.New("paused"))
		}
		return nil, nil
	}, nil)
	publish(t, b, audit("acme", "A1"))
	began := time.Now().Add(-time.Second)
	for _, by := range []bus.By{{Who: "test", Release: true}, {Who: "test", Release: true}, {Who: "the sweep"}} {
		if err := b.Replay(t.Context(), parseDeadLetter(t, b, 1)[0].Seq, by); err != nil {
			t.Fatal(err)
		}
		settled(t, b)
	}
	parseDeadLetter(t, b, 0)
	runs := l.of("A1")
	if len(runs) != 4 {
		t.Fatalf("%d runs", len(runs))
	}
	// A replay that releases nothing does not renew what was released before it.
	first, second := runs[3].d.ReleasedAt["hold:acme/A1"], runs[3].d.ReleasedAt["trial:acme"]
	if !first.After(began) || !second.After(first) || second.After(time.Now().Add(time.Second)) || !second.Equal(runs[2].d.ReleasedAt["trial:acme"]) {
		t.Errorf("released at %s and %s", first, second)
	}
	if at := runs[3].d.ReleasedAt["pause:acme"]; !at.IsZero() || !runs[0].d.ReleasedAt["hold:acme/A1"].IsZero() {
		t.Errorf("released at %s though nobody did", at)
	}
}

// A message that was replayed with its cause released keeps that over delays.
func TestReleasedSurvivesDelays(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	var l log
	serve(t, b, bus.Serving{Now: soon(time.Minute, 500*time.Millisecond)}, func(_ context.Context, d *bus.Delivery, m *orderv1.Audited) ([]event.Event, error) {
		n := l.add(d, m)
		switch {
		case !slices.Contains(d.Released, "hold:acme/A1"):
			return nil, fault.Hold("hold:acme/A1", errors.New("waits"))
		case n == 2:
			return nil, fault.RetryAfter(time.Minute, errors.New("later"))
		}
		return nil, nil
	}, nil)
	e := audit("acme", "A1")
	publish(t, b, e)
	if err := b.Replay(t.Context(), parseDeadLetter(t, b, 1)[0].Seq, bus.By{Who: "test", Why: "checked", Release: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "third run", func() bool { return len(l.of("A1")) == 3 })
	settled(t, b)
	if d := l.of("A1")[2].d; !slices.Contains(d.Released, "hold:acme/A1") || !d.Returned || !d.Replay || d.ID != e.ID || d.Stream != "INTAKE" {
		t.Errorf("%+v", d)
	}
	parseDeadLetter(t, b, 0)
}
