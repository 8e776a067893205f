package wiring

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

// turns is a quota that answers with these waits one after the other, and then with a permit.
type turns struct {
	mu       sync.Mutex // permits are returned in the background
	waits    []time.Duration
	fail     error
	asked    int
	app      string
	class    quota.Class
	limit    ledger.Limit
	returned []ledger.Permit
}

func (q *turns) Acquire(_ context.Context, app string, class quota.Class, l ledger.Limit, ttl time.Duration) (ledger.Permit, time.Duration, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	q.app, q.class, q.limit = app, class, l
	if ttl <= 10*time.Second {
		return ledger.Permit{}, 0, errors.New("the permit ends before the call's limit")
	}
	if q.fail != nil {
		return ledger.Permit{}, 0, q.fail
	}
	if len(q.waits) > 0 {
		wait := q.waits[0]
		q.waits = q.waits[1:]
		return ledger.Permit{}, wait, nil
	}
	return ledger.Permit{App: app, ID: "1"}, 0, nil
}

func (q *turns) AcquireBlock(context.Context, string, quota.Class, ledger.Limit, int, time.Duration) ([]ledger.Turn, time.Duration, error) {
	return nil, 0, errors.New("a block of a limit that has none")
}

func (q *turns) Return(ctx context.Context, permits ...ledger.Permit) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.returned = append(q.returned, permits...)
	return ctx.Err()
}

func TestACallWaitsForANearSlotOnly(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name  string
		waits []time.Duration
		asked int
		took  time.Duration
		after time.Duration // of the RetryAfter; 0: a permit
		rate  float64
	}{
		{"a free slot", nil, 1, 0, 0, 50},
		{"a near slot is waited for", []time.Duration{50 * ms}, 2, 50 * ms, 0, 50},
		{"also twice", []time.Duration{150 * ms, 50 * ms}, 3, 200 * ms, 0, 50},
		{"a far slot delays the message", []time.Duration{201 * ms}, 1, 0, 201 * ms, 50},
		{"one that moved away too", []time.Duration{150 * ms, 51 * ms}, 2, 150 * ms, 51 * ms, 50},
		{"where slots are far apart the next one is near", []time.Duration{503 * ms, 10 * ms}, 3, 513 * ms, 0, 2},
		{"and the one after that is far", []time.Duration{1005 * ms}, 1, 0, 1005 * ms, 2},
		{"however far apart they are, the call needs time too", []time.Duration{7000 * ms}, 1, 0, 7000 * ms, 0.01},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &turns{waits: test.waits}
				l := limiter{blocks: newBlocks(q), app: "KEY", limit: ledger.Limit{PerSecond: test.rate, Concurrent: 5}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				start := time.Now()
				release, err := l.Acquire(ctx, "push")
				if took := time.Since(start); took != test.took {
					t.Errorf("took %v", took)
				}
				if q.asked != test.asked || q.app != "KEY" || q.class != "push" || q.limit != l.limit {
					t.Errorf("asked %d times: %+v", q.asked, q)
				}
				if test.after != 0 {
					if fault.Of(err) != fault.Wait || fault.After(err) != test.after || release != nil {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				cancel()
				release()
				l.blocks.returning.Wait()
				if len(q.returned) != 1 || q.returned[0] != (ledger.Permit{App: "KEY", ID: "1"}) {
					t.Errorf("returned %v", q.returned)
				}
			})
		})
	}

	t.Run("the ledger fails", func(t *testing.T) {
		away := errors.New("away")
		_, err := limiter{blocks: newBlocks(&turns{fail: away}), limit: ledger.Limit{PerSecond: 5}}.Acquire(t.Context(), "push")
		if !errors.Is(err, away) || fault.Of(err) != fault.Wait {
			t.Error(err)
		}
		if _, trip := guard.NewBreaker(1).Report("acme", err); trip {
			t.Error("our own ledger's failure pauses the seller")
		}
	})
	t.Run("the call is given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := (limiter{blocks: newBlocks(&turns{waits: []time.Duration{time.Millisecond}}), limit: ledger.Limit{PerSecond: 5}}).Acquire(ctx, "push"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestQuotaCallsAreCounted(t *testing.T) {
	r := prometheus.NewRegistry()
	m := NewMetrics(r, func() []*seller.Seller {
		return []*seller.Seller{seller.New(&sellerv1.Setup{Name: "acme", Accounts: []*sellerv1.Account{
			{Name: "main", Kind: sellerv1.Account_KIND_JD, Quota: &sellerv1.Quota{PerSecond: 2.5}},
			{Name: "plain", Kind: sellerv1.Account_KIND_JD},
			{Name: "own", Kind: sellerv1.Account_KIND_MEMORY},
		}}, nil)}
	})
	l := limiter{
		blocks: newBlocks(&turns{waits: []time.Duration{time.Hour, time.Hour}}), limit: ledger.Limit{PerSecond: 50, Concurrent: 5},
		count: m.forAccount("acme", "main"),
	}
	for _, put := range []bool{true, true, false} {
		release, err := l.Acquire(t.Context(), "push")
		if (fault.Of(err) == fault.Wait) != put {
			t.Fatal(err)
		}
		if err == nil {
			release()
		}
	}
	want := `# HELP stockbridge_quota_budget_calls_per_second Calls a second that the account may make, all replicas together. Accounts of one application share it.
# TYPE stockbridge_quota_budget_calls_per_second gauge
stockbridge_quota_budget_calls_per_second{account="main",seller="acme"} 2.5
stockbridge_quota_budget_calls_per_second{account="plain",seller="acme"} 5
# HELP stockbridge_quota_calls_total Calls that had their turn in the budget.
# TYPE stockbridge_quota_calls_total counter
stockbridge_quota_calls_total{account="main",class="push",seller="acme"} 1
# HELP stockbridge_quota_waits_total Calls that were put off because their turn in the budget was too far away.
# TYPE stockbridge_quota_waits_total counter
stockbridge_quota_waits_total{account="main",class="push",seller="acme"} 2
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "stockbridge_quota_budget_calls_per_second", "stockbridge_quota_calls_total", "stockbridge_quota_waits_total"); err != nil {
		t.Error(err)
	}
}
