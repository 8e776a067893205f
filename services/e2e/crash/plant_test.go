package crash

import (
	"context"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/ledger"
)

// blind sends without asking, whatever the ledger knows.
type blind struct{ ledger.Ledger }

func (l blind) Claim(ctx context.Context, b ledger.ClaimRequest) (ledger.Claimed, error) {
	claimed, err := l.Ledger.Claim(ctx, b)
	if claimed.Entry.State == ledger.Unknown {
		claimed.Entry, claimed.NeverSent = ledger.Entry{Key: b.Key}, true
	}
	return claimed, err
}

// tardy records an acceptance only after it is published and acked.
type tardy struct {
	ledger.Ledger
	f *process
}

func (l tardy) Accept(ctx context.Context, b ledger.ClaimRequest, no string, cleaned []ledger.Cleaned, now time.Time) error {
	ctx = context.WithoutCancel(ctx)
	l.f.runs.Go(func() {
		for l.f.count("after ack order-pusher") == 0 && !l.f.isDead() {
			time.Sleep(time.Millisecond)
		}
		if !l.f.isDead() {
			_ = l.Ledger.Accept(ctx, b, no, cleaned, now) // the ledger has the result
		}
	})
	return nil
}

func (f *process) count(step string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[step]
}

// Each of these bugs is invisible on a good day.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, c := range []struct {
		bug, promise string
		plant        func(f *process)
		stop         string
	}{
		{"a message is acked before it is handled", "nothing of s1 is in hand, waits, or will come", func(f *process) {
			f.early = true
		}, "before send"},
		{"an order of which an answer is missing is sent again, unasked", "P1: o: the warehouse has", func(f *process) {
			f.ledger.Ledger = blind{f.ledger.Ledger}
		}, "after send"},
		{"what was accepted is recorded after the ack", "the ledger has it as", func(f *process) {
			f.ledger.Ledger = tardy{f.ledger.Ledger, f}
		}, "after ack order-pusher"},
	} {
		t.Run(c.bug, func(t *testing.T) {
			l := newLane(t, "redis")
			s := pushes()[0]
			l.plant = c.plant
			if r := l.run(t.Context(), t, s, point{}, 0); r.err != nil {
				t.Fatalf("it shows without a crash: %v", r.err)
			}
			r := l.run(t.Context(), t, s, point{c.stop, 1}, 1)
			if r.err == nil || !strings.Contains(strings.ReplaceAll(r.err.Error(), "s2", "s1"), c.promise) {
				t.Errorf("crash at %q: found %v\n%s", c.stop, r.err, trail(r))
			}
		})
	}
}
