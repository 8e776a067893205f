package clock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/clock"
)

// host is a host whose clock is off, and can be corrected.
type host struct{ off time.Duration }

func (h *host) now() time.Time { return time.Now().Add(h.off) }

func TestTheServersTimeDoesNotDependOnTheHostsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{off: 10 * time.Minute}
		trip := []time.Duration{400 * time.Millisecond, 20 * time.Millisecond, time.Second}
		c := clock.New(func(context.Context) (time.Time, error) {
			took := trip[0]
			trip = append(trip[1:], took)
			time.Sleep(took / 2)
			defer time.Sleep(took / 2)
			return time.Now().Round(0), nil
		}, h.now)
		if _, measured := c.Skew(); measured || !c.Now().Equal(h.now()) {
			t.Error("set before it was measured")
		}
		is := func(want time.Duration) {
			t.Helper()
			if off := time.Until(c.Now()); off.Abs() > time.Millisecond {
				t.Errorf("the server's time is off by %s", off)
			}
			if got, measured := c.Skew(); !measured || (got-want).Abs() > time.Millisecond {
				t.Errorf("skew %s, want %s", got, want)
			}
		}
		if err := c.Measure(t.Context()); err != nil {
			t.Fatal(err)
		}
		is(10 * time.Minute)
		time.Sleep(time.Hour)
		is(10 * time.Minute)
		h.off = -time.Second // somebody corrected it
		is(-time.Second)
	})
}

func TestAServerThatDoesNotAnswerLeavesWhatWasMeasured(t *testing.T) {
	away := false
	c := clock.New(func(context.Context) (time.Time, error) {
		if away {
			return time.Time{}, errors.New("away")
		}
		return time.Now().Add(-time.Minute), nil
	}, nil)
	if err := c.Measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	away = true
	if err := c.Measure(t.Context()); err == nil {
		t.Error("no error")
	}
	if got, measured := c.Skew(); !measured || (got-time.Minute).Abs() > 10*time.Second {
		t.Errorf("skew %s", got)
	}
}
