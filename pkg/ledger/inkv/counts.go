package inkv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

// count counts failed runs.
type count struct {
	N  int
	At time.Time
}

// Count implements ledger.Attempts. It may count a run twice when the answer of the bucket is lost, never less.
func (l *Ledger) Count(ctx context.Context, key string) (n int, err error) {
	err = updateKey(ctx, l, keyOf(attempts, key), func(c *count) bool {
		now := l.now()
		if now.Sub(c.At) > keepAttempts {
			c.N = 0
		}
		c.N, c.At = c.N+1, now
		n = c.N
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("count %s: %w", key, err)
	}
	return n, nil
}

// Uncount implements ledger.Attempts.
func (l *Ledger) Uncount(ctx context.Context, key string) error {
	err := updateKey(ctx, l, keyOf(attempts, key), func(c *count) bool {
		c.N--
		return c.N >= 0
	})
	if err != nil {
		return fmt.Errorf("uncount %s: %w", key, err)
	}
	return nil
}

// Forget implements ledger.Attempts.
func (l *Ledger) Forget(ctx context.Context, key string) error {
	if err := l.bucket.Delete(ctx, keyOf(attempts, key), 0); err != nil {
		return fmt.Errorf("forget %s: %w", key, err)
	}
	return nil
}

type lease struct {
	Owner string
	Until time.Time
}

// Lease implements ledger.Leases.
func (l *Ledger) Lease(ctx context.Context, name, owner string, ttl time.Duration) (got bool, err error) {
	err = updateKey(ctx, l, keyOf(leases, name), func(x *lease) bool {
		now := l.now()
		got = x.Owner == owner || !now.Before(x.Until)
		if got {
			*x = lease{owner, now.Add(ttl)}
		}
		return got
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return got, nil
}

// Unlease implements ledger.Leases.
func (l *Ledger) Unlease(ctx context.Context, name, owner string) error {
	var x lease
	revision, err := l.get(ctx, keyOf(leases, name), &x)
	if err == nil && revision != 0 && x.Owner == owner {
		err = l.bucket.Delete(ctx, keyOf(leases, name), revision)
	}
	if err != nil && !errors.Is(err, bus.ErrRevision) {
		return fmt.Errorf("unlease %s: %w", name, err)
	}
	return nil
}

// paceTimeout is for one read and write of a quota with its retries.
const paceTimeout = 5 * time.Second

// Acquire implements ledger.Quota.
func (l *Ledger) Acquire(ctx context.Context, app string, name quota.Class, limit ledger.Limit, ttl time.Duration) (ledger.Permit, time.Duration, error) {
	if err := limit.Valid(name); err != nil {
		return ledger.Permit{}, 0, fmt.Errorf("acquire %s: %w", app, err)
	}
	turns, wait, err := l.AcquireBlock(ctx, app, name, limit, 1, ttl)
	if err != nil || len(turns) == 0 {
		return ledger.Permit{}, wait, err
	}
	return turns[0].Permit, 0, nil
}

// AcquireBlock implements ledger.Quota.
func (l *Ledger) AcquireBlock(ctx context.Context, app string, name quota.Class, limit ledger.Limit, n int, ttl time.Duration) ([]ledger.Turn, time.Duration, error) {
	if err := limit.Valid(name); err != nil {
		return nil, 0, fmt.Errorf("acquire %s: %w", app, err)
	}
	id := rand.Text()
	var in []int64
	var wait int64
	err := l.pace(ctx, app, func(p *pace) {
		in, wait = p.acquire(l.now().UnixMicro(), id, name, limit, min(n, quota.MaxBlock), ttl)
	})
	if err != nil {
		return nil, 0, fmt.Errorf("acquire %s: %w", app, err)
	}
	turns := make([]ledger.Turn, len(in))
	for i, micros := range in {
		turns[i] = ledger.Turn{Permit: ledger.Permit{App: app, ID: memberOf(id, i)}, In: time.Duration(micros) * time.Microsecond}
	}
	return turns, time.Duration(wait) * time.Microsecond, nil
}

// Return implements ledger.Quota.
func (l *Ledger) Return(ctx context.Context, permits ...ledger.Permit) error {
	byApp := map[string][]string{}
	for _, p := range permits {
		if p.ID != "" {
			byApp[p.App] = append(byApp[p.App], p.ID)
		}
	}
	for app, ids := range byApp {
		err := l.pace(ctx, app, func(p *pace) {
			for _, id := range ids {
				p.end(l.now().UnixMicro(), id)
			}
		})
		if err != nil {
			return fmt.Errorf("return %s: %w", app, err)
		}
	}
	return nil
}

// pace changes the quota of app by do, which may be called several times and counts the last time only. One read and one
// write serve all calls that gathered meanwhile: alone each would wait for those before it, and write separately.
func (l *Ledger) pace(ctx context.Context, app string, do func(*pace)) error {
	failed, err := l.paces.Call(ctx, app, do)
	if err != nil {
		return err
	}
	return failed
}

func (l *Ledger) paceTogether(ctx context.Context, app string, calls []func(*pace)) []error {
	ctx, cancel := context.WithTimeout(ctx, paceTimeout)
	defer cancel()
	err := updateKey(ctx, l, keyOf(quotas, app), func(p *pace) bool {
		for _, do := range calls {
			do(p)
		}
		return true
	})
	return slices.Repeat([]error{err}, len(calls))
}

// Admit implements ledger.Trials.
func (l *Ledger) Admit(ctx context.Context, seller, no string, first int) (admitted bool, err error) {
	err = updateKey(ctx, l, keyOf(trials, seller), func(list *[]string) bool {
		admitted = slices.Contains(*list, no)
		if admitted || len(*list) >= first {
			return false
		}
		*list, admitted = append(*list, no), true
		return true
	})
	if err != nil {
		return false, fmt.Errorf("admit %s/%s: %w", seller, no, err)
	}
	return admitted, nil
}

// Admitted implements ledger.Trials.
func (l *Ledger) Admitted(ctx context.Context, seller string) ([]string, error) {
	var list []string
	if _, err := l.get(ctx, keyOf(trials, seller), &list); err != nil {
		return nil, fmt.Errorf("list admitted of %s: %w", seller, err)
	}
	return list, nil
}
