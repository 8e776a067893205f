package wiring

import (
	"context"
	"errors"
	"fmt"
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
	m := NewMetrics(r, func() []*seller.Seller { return nil })
	l := limiter{
		blocks: newBlocks(&turns{waits: []time.Duration{time.Hour, time.Hour}}), limit: ledger.Limit{PerSecond: 50, Concurrent: 5},
		count: m.forApplication("app-1"),
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
	for i := range 2000 { // each seller has an application of its own, and all wait
		m.forApplication(fmt.Sprintf("app-%d", i)).deferred("status")
	}
	want := `# HELP stockbridge_quota_calls_total Calls that had their turn in the budget.
# TYPE stockbridge_quota_calls_total counter
stockbridge_quota_calls_total{class="cancel"} 0
stockbridge_quota_calls_total{class="push"} 1
stockbridge_quota_calls_total{class="status"} 0
stockbridge_quota_calls_total{class="stock"} 0
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), "stockbridge_quota_calls_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.ToFloat64(m.waits.WithLabelValues("app-1", "push")); n != 2 {
		t.Errorf("%v calls of app-1 were put off", n)
	}
	if n := testutil.ToFloat64(m.waits.WithLabelValues("other", "status")); n != 1980 {
		t.Errorf("%v calls of applications without a name were put off", n)
	}
	if n, err := testutil.GatherAndCount(r, "stockbridge_quota_waits_total"); err != nil || n != 22 {
		t.Errorf("%d series, %v", n, err)
	}
}

// What eight sellers of one application may call is one budget.
func TestABudgetIsCountedOncePerApplication(t *testing.T) {
	jd := func(key, url string, perSecond float64, concurrent int32) *seller.Seller {
		a := &sellerv1.Account{Name: "jd", Kind: sellerv1.Account_KIND_JD, AppKey: key, Url: url}
		if perSecond > 0 {
			a.Quota = &sellerv1.Quota{PerSecond: perSecond, Concurrent: concurrent}
		}
		return seller.New(&sellerv1.Setup{Name: "s", Accounts: []*sellerv1.Account{a}}, nil)
	}
	sellers := []*seller.Seller{
		jd("own", "", 2.5, 0), jd("default", "", 0, 0), jd("shared", "http://sandbox:18080/routerjson", 30, 3),
		seller.New(&sellerv1.Setup{Name: "m", Accounts: []*sellerv1.Account{{Name: "own", Kind: sellerv1.Account_KIND_MEMORY}}}, nil),
	}
	for range 8 {
		sellers = append(sellers, jd("shared", "", 2000, 100))
	}
	r := prometheus.NewRegistry()
	NewMetrics(r, func() []*seller.Seller { return sellers })
	want := `# HELP stockbridge_quota_budget_calls_per_second Calls a second that an application may make, all replicas and all its accounts together.
# TYPE stockbridge_quota_budget_calls_per_second gauge
stockbridge_quota_budget_calls_per_second{application="app-37a8eec1"} 5
stockbridge_quota_budget_calls_per_second{application="app-5b397565"} 2.5
stockbridge_quota_budget_calls_per_second{application="app-a4d26868"} 2000
stockbridge_quota_budget_calls_per_second{application="app-a4d26868@sandbox:18080"} 30
# HELP stockbridge_quota_budget_concurrent_calls Calls at a time that an application may make, all replicas and all its accounts together.
# TYPE stockbridge_quota_budget_concurrent_calls gauge
stockbridge_quota_budget_concurrent_calls{application="app-37a8eec1"} 5
stockbridge_quota_budget_concurrent_calls{application="app-5b397565"} 5
stockbridge_quota_budget_concurrent_calls{application="app-a4d26868"} 100
stockbridge_quota_budget_concurrent_calls{application="app-a4d26868@sandbox:18080"} 3
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want), gaugeBudget, gaugeConcurrent); err != nil {
		t.Error(err)
	}

	sellers = nil
	for i := range 2000 { // each has its own
		sellers = append(sellers, jd(fmt.Sprint(i), "", 0, 0))
	}
	r = prometheus.NewRegistry()
	NewMetrics(r, func() []*seller.Seller { return sellers })
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != gaugeBudget {
			continue
		}
		sum := 0.0
		for _, m := range f.Metric {
			sum += m.GetGauge().GetValue()
		}
		if len(f.Metric) != 101 || sum != 2000*5 {
			t.Errorf("%d series say %v calls a second", len(f.Metric), sum)
		}
	}
}
