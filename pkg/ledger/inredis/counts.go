package inredis

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

// keepAttempts is how long a count of attempts stays after the last one.
const keepAttempts = 7 * 24 * time.Hour

// Count implements ledger.Attempts.
func (l *Ledger) Count(ctx context.Context, key string) (int, error) {
	n, err := l.add(ctx, key, 1)
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", key, err)
	}
	return n, nil
}

// Uncount implements ledger.Attempts.
func (l *Ledger) Uncount(ctx context.Context, key string) error {
	if _, err := l.add(ctx, key, -1); err != nil {
		return fmt.Errorf("uncount %s: %w", key, err)
	}
	return nil
}

func (l *Ledger) add(ctx context.Context, key string, by int) (int, error) {
	return l.scripts.count.Run(ctx, l.client, []string{prefix + "attempts:" + key}, rand.Text(), by, int(keepAttempts.Seconds())).Int()
}

// Forget implements ledger.Attempts.
func (l *Ledger) Forget(ctx context.Context, key string) error {
	if err := l.client.Del(ctx, prefix+"attempts:"+key).Err(); err != nil {
		return fmt.Errorf("forget %s: %w", key, err)
	}
	return nil
}

// Lease implements ledger.Leases.
func (l *Ledger) Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	r, err := l.lease(ctx, name, "lease", owner, ttl.Microseconds())
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return r.text(0) == "held", nil
}

// Unlease implements ledger.Leases.
func (l *Ledger) Unlease(ctx context.Context, name, owner string) error {
	if _, err := l.lease(ctx, name, "unlease", owner); err != nil {
		return fmt.Errorf("unlease %s: %w", name, err)
	}
	return nil
}

func (l *Ledger) lease(ctx context.Context, name, op string, args ...any) (answer, error) {
	return l.calls.do(ctx, target{l.scripts.lease, prefix + "lease:" + name}, op, l.clock(), args...)
}

func quotaKey(app string) string { return prefix + "{quota:" + app + "}" }

// Acquire implements ledger.Quota.
func (l *Ledger) Acquire(ctx context.Context, app string, class quota.Class, limit ledger.Limit, ttl time.Duration) (ledger.Permit, time.Duration, error) {
	if err := limit.Valid(class); err != nil {
		return ledger.Permit{}, 0, fmt.Errorf("acquire %s: %w", app, err)
	}
	id := rand.Text()
	r, err := l.acquire(ctx, id, app, class, limit, 1, ttl)
	if err != nil {
		return ledger.Permit{}, 0, err
	}
	if r.text(0) == "wait" {
		return ledger.Permit{}, r.micros(1), nil
	}
	return permitOf(app, id, r.text(1)), 0, nil
}

func (l *Ledger) acquire(ctx context.Context, id, app string, class quota.Class, limit ledger.Limit, n int, ttl time.Duration) (answer, error) {
	r, err := l.calls.do(ctx, target{l.scripts.quota, quotaKey(app)}, "acquire", l.clock(),
		id, string(class), limit.PerSecond, limit.Concurrent, ttl.Microseconds(), n)
	if err != nil {
		return nil, fmt.Errorf("acquire %s: %w", app, err)
	}
	return r, nil
}

// permitOf is the permit of a member of the calls under way, with when it began.
func permitOf(app, member, began string) ledger.Permit {
	return ledger.Permit{App: app, ID: member + "@" + began}
}

// AcquireBlock implements ledger.Quota.
func (l *Ledger) AcquireBlock(ctx context.Context, app string, class quota.Class, limit ledger.Limit, n int, ttl time.Duration) ([]ledger.Turn, time.Duration, error) {
	if err := limit.Valid(class); err != nil {
		return nil, 0, fmt.Errorf("acquire %s: %w", app, err)
	}
	id := rand.Text()
	r, err := l.acquire(ctx, id, app, class, limit, min(n, quota.MaxBlock), ttl)
	if err != nil {
		return nil, 0, err
	}
	if r.text(0) == "wait" {
		return nil, r.micros(1), nil
	}
	turns := make([]ledger.Turn, 1+r.int(2))
	turns[0].Permit = permitOf(app, id, r.text(1))
	first, interval := r.micros(3), r.micros(4)
	for i := 1; i < len(turns); i++ {
		turns[i] = ledger.Turn{
			Permit: permitOf(app, id+"."+strconv.Itoa(i), r.text(1)), In: max(0, first+time.Duration(i-1)*interval),
		}
	}
	return turns, 0, nil
}

// Return implements ledger.Quota.
func (l *Ledger) Return(ctx context.Context, permits ...ledger.Permit) error {
	byApp := map[string][]string{}
	began := map[string]int64{}
	for _, p := range permits {
		id, from, ok := strings.Cut(p.ID, "@")
		if !ok {
			continue
		}
		at, err := strconv.ParseInt(from, 10, 64)
		if err != nil {
			return fmt.Errorf("return %s: no permit of this ledger: %q", p.App, p.ID)
		}
		byApp[p.App] = append(byApp[p.App], id)
		began[p.App] += at
	}
	for app, ids := range byApp {
		// How long calls take is an average anyway: that of the block will do.
		if _, err := l.calls.do(ctx, target{l.scripts.quota, quotaKey(app)}, "return", l.clock(), strings.Join(ids, " "), began[app]/int64(len(ids))); err != nil {
			return fmt.Errorf("return %s: %w", app, err)
		}
	}
	return nil
}

func trialKey(seller string) string { return sellerKey(seller) + "trial" }

// Admit implements ledger.Trials.
func (l *Ledger) Admit(ctx context.Context, seller, no string, first int) (bool, error) {
	admitted, err := l.scripts.admit.Run(ctx, l.client, []string{trialKey(seller)}, no, first).Bool()
	if err != nil {
		return false, fmt.Errorf("admit %s/%s: %w", seller, no, err)
	}
	return admitted, nil
}

// Admitted implements ledger.Trials.
func (l *Ledger) Admitted(ctx context.Context, seller string) ([]string, error) {
	list, err := l.client.ZRange(ctx, trialKey(seller), 0, -1).Result()
	if err != nil {
		return nil, fmt.Errorf("list admitted of %s: %w", seller, err)
	}
	return list, nil
}
