// Package clock gives the time of a server that many processes share. It does not know which server that is.
//
// # Why
//
// Processes on many hosts decide by elapsed time: whether a claim still stands, whether a lost answer was looked up for
// long enough. Their own clocks differ, by minutes where nobody looks after them, and jump. So durations come from one
// clock, the store's: it is measured now and then, and continued by this process's monotonic clock in between, which
// never jumps. How far the host's own clock is off follows at any moment, without asking again.
package clock

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// samples is how many requests one measurement makes; the fastest answer counts.
const samples = 3

// Clock is the time of a server. It is safe for concurrent use.
type Clock struct {
	ask  func(ctx context.Context) (time.Time, error)
	wall func() time.Time

	mu sync.Mutex
	// at is when it was remote there, by the process's monotonic clock; zero when never measured.
	at, remote time.Time
}

// New makes a clock from the answers of ask. wall is the host's own clock, time.Now when nil.
func New(ask func(ctx context.Context) (time.Time, error), wall func() time.Time) *Clock {
	if wall == nil {
		wall = time.Now
	}
	return &Clock{ask: ask, wall: wall}
}

// Measure asks the server. After an error the previous measurement stays in use.
func (c *Clock) Measure(ctx context.Context) error {
	var at, remote time.Time
	best := time.Duration(-1)
	for range samples {
		asked := time.Now()
		answer, err := c.ask(ctx)
		took := time.Since(asked)
		if err != nil {
			return fmt.Errorf("measure a clock: %w", err)
		}
		if best < 0 || took < best {
			best, at, remote = took, asked.Add(took/2), answer // answered half way, as far as one can know
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.remote = at, remote.UTC()
	return nil
}

// Now is the server's time; the host's own before the first measurement.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return c.wall()
	}
	return c.remote.Add(time.Since(c.at))
}

// Skew is how far the host's own clock is ahead of the server's, negative when it is behind; false when it was never
// measured.
func (c *Clock) Skew() (ahead time.Duration, measured bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return 0, false
	}
	return c.wall().Sub(c.remote.Add(time.Since(c.at))), true // remote has no monotonic reading: the wall clocks are compared
}
