package follow

import (
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/redistest"
)

// each runs a test over both ledgers, each on a real server.
func each(t *testing.T, test func(t *testing.T, b *fixture)) {
	t.Helper()
	t.Run("redis", func(t *testing.T) {
		test(t, newFixture(t, func(now func() time.Time) (ledger.Ledger, error) {
			return inredis.Open(inredis.Options{URL: redistest.Start(t).URL(), Now: now})
		}))
	})
	t.Run("kv", func(t *testing.T) {
		test(t, newFixture(t, func(now func() time.Time) (ledger.Ledger, error) {
			server := bustest.Start(t)
			bucket, err := server.Bucket(t.Context(), bus.BucketLedger)
			if err != nil {
				return nil, err
			}
			books, err := server.Bucket(t.Context(), bus.BucketBooks)
			if err != nil {
				return nil, err
			}
			return inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: books, Identity: func() string { return "one" }, Now: now})
		}))
	})
}

// clock is moved by the test and read by everybody.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) wait(d time.Duration) { c.set(c.now().Add(d)) }

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = at
}
