package ledgertest_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/inkv"
	"stockbridge/pkg/ledger/inredis"
	"stockbridge/pkg/ledger/ledgertest"
	"stockbridge/pkg/ledger/redistest"
	"stockbridge/pkg/quota"
)

// The two ledgers are written in two languages. The same calls get the same answers.
func TestTheTwoLedgersAgree(t *testing.T) {
	t.Parallel()
	redis, kv, clock, identity := both(t)
	rapid.Check(t, func(rt *rapid.T) {
		n := identity.Add(1) // each history begins with an epoch: Redis has one for each seller, the bucket one in all
		clock.Add(time.Hour)
		c := comparison{rt, t, redis, kv, fmt.Sprintf("s%d", n), clock, map[string]ledger.Claim{}, nil, time.Time{}}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			c.step()
		}
	})
}

// both opens the two ledgers on one clock. identity is that of the server of the second.
func both(t *testing.T) (redis, kv ledger.Ledger, clock *ledgertest.Clock, identity *atomic.Int64) {
	t.Helper()
	clock = ledgertest.NewClock(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))
	identity = new(atomic.Int64) // the ledger in the bucket asks for it while it watches
	return openRedis(t, clock.Now), openKV(t, func() string { return fmt.Sprint(identity.Load()) }, clock.Now), clock, identity
}

func openRedis(t testing.TB, now func() time.Time) ledger.Ledger {
	t.Helper()
	l, err := inredis.Open(inredis.Options{URL: redistest.Start(t).URL(), Now: now})
	return opened(t, l, err)
}

func openKV(t testing.TB, identity func() string, now func() time.Time) ledger.Ledger {
	t.Helper()
	return openKVOn(t, bustest.Start(t), identity, now)
}

func openKVOn(t testing.TB, server *bus.Bus, identity func() string, now func() time.Time) ledger.Ledger {
	t.Helper()
	bucket, err := server.Bucket(t.Context(), bus.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	books, err := server.Bucket(t.Context(), bus.BucketBooks)
	if err != nil {
		t.Fatal(err)
	}
	l, err := inkv.Open(t.Context(), inkv.Options{Bucket: bucket, Books: books, Identity: identity, Now: now})
	return opened(t, l, err)
}

func opened(t testing.TB, l ledger.Ledger, err error) ledger.Ledger {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

type comparison struct {
	*rapid.T
	t         *testing.T
	redis, kv ledger.Ledger
	seller    string
	clock     *ledgertest.Clock
	claims    map[string]ledger.Claim
	permits   [][2]ledger.Permit
	// until is of the last take.
	until time.Time
}

// same makes the same call on both and compares the answers.
func (c *comparison) same(what string, ask func(ledger.Ledger) (any, error)) {
	a, errA := ask(c.redis)
	b, errB := ask(c.kv)
	if diff := cmp.Diff(said(errA), said(errB)); diff != "" {
		c.Fatalf("%s: errors differ (-redis +kv):\n%s", what, diff)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		c.Fatalf("%s: answers differ (-redis +kv):\n%s", what, diff)
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (c *comparison) step() {
	ctx := c.t.Context()
	no := rapid.SampledFrom([]string{"A", "B", "C"}).Draw(c.T, "document")
	key := ledger.Key{Seller: c.seller, Kind: "order", No: no}
	owner := rapid.SampledFrom([]string{"w1", "w2", "w3"}).Draw(c.T, "owner")
	now := c.clock.Now()
	request := ledger.ClaimRequest{
		Key: key, Hash: rapid.SampledFrom([]string{"h", "h", "h", "other"}).Draw(c.T, "hash"), Owner: owner,
		Group:       map[string]string{"A": "SO", "B": "SO", "C": "SO-2"}[no],
		PlatformNos: rapid.SampledFrom([][]string{nil, {"P1"}, {"P1", "P2"}, {"SO", "P2"}}).Draw(c.T, "platform numbers"),
		Items:       map[string][]string{"A": {"1", "2"}, "B": {"2", "3"}, "C": nil}[no],
		Supersedes:  rapid.SampledFrom([]string{"", "A"}).Draw(c.T, "supersedes"), Revision: 2, Shop: "S", Warehouse: "W",
		StreamTime: now, AuditedAt: now, First: rapid.Bool().Draw(c.T, "first"), Stream: "ORDERS", Seq: 7,
		Identity: rapid.SampledFrom([]string{"", "x", "x", "y"}).Draw(c.T, "identity"), AnyIdentity: rapid.IntRange(0, 4).Draw(c.T, "any") == 0,
	}
	claim := ledger.Claim{Key: key, Owner: owner, Identity: request.Identity}
	switch what := rapid.IntRange(0, 21).Draw(c.T, "what"); what {
	case 19, 20:
		take := ledger.Take{Seller: c.seller, Kind: "order", Due: now, Limit: rapid.IntRange(1, 2).Draw(c.T, "limit"), Until: now.Add(time.Minute)}
		if rapid.Bool().Draw(c.T, "next") {
			take.Room, take.Limit = map[string]int{"W": 1}, 3
		}
		c.until = take.Until
		c.same("take", func(l ledger.Ledger) (any, error) { return l.TakeDue(ctx, take) })
	case 21:
		later := []ledger.Later{{No: no, Due: now.Add(time.Duration(rapid.IntRange(0, 3).Draw(c.T, "later")) * time.Minute)}}
		c.same("postpone", func(l ledger.Ledger) (any, error) { return nil, l.Postpone(ctx, c.seller, "order", c.until, later) })
	case 0, 1, 2:
		c.same("begin", func(l ledger.Ledger) (any, error) {
			claimed, err := l.Claim(ctx, request)
			claimed.Claim.Until = claimed.Claim.Until.UTC()
			return claimed, err
		})
	case 3:
		number := rapid.SampledFrom([]string{"N1", "N1", "N2"}).Draw(c.T, "number")
		c.same("accept", func(l ledger.Ledger) (any, error) {
			return nil, l.Accept(ctx, request, number, []ledger.Cleaned{{Field: "f"}}, now)
		})
	case 4:
		c.same("refuse", func(l ledger.Ledger) (any, error) {
			return nil, l.Refuse(ctx, claim, fault.Reason{Code: "x", ZH: "不"})
		})
	case 5:
		c.same("doubt", func(l ledger.Ledger) (any, error) { return nil, l.MarkUnknown(ctx, claim, "why") })
	case 15:
		c.same("deny", func(l ledger.Ledger) (any, error) {
			return nil, l.MarkRejected(ctx, claim, fault.Reason{Code: "y", RemoteText: "系统处理中"})
		})
	case 16, 17:
		id := rapid.SampledFrom([]string{"R1", "R1", "R2"}).Draw(c.T, "request")
		c.same("want cancelled", func(l ledger.Ledger) (any, error) {
			return l.WantCancel(ctx, key, ledger.Cancel{RequestID: id, Cause: "退款"})
		})
	case 18:
		id := rapid.SampledFrom([]string{"R1", "R1", "R2"}).Draw(c.T, "request")
		state := rapid.SampledFrom([]ledger.State{"", ledger.Cancelled, ledger.Refused}).Draw(c.T, "state")
		c.same("end cancel", func(l ledger.Ledger) (any, error) { return nil, l.EndCancel(ctx, key, id, state) })
	case 6:
		c.same("absent", func(l ledger.Ledger) (any, error) {
			lookups, unknownFor, err := l.MarkNotFound(ctx, claim)
			return fmt.Sprint(lookups, unknownFor), err
		})
	case 7:
		c.same("release", func(l ledger.Ledger) (any, error) { return nil, l.Release(ctx, claim, "why") })
	case 8:
		c.same("resend", func(l ledger.Ledger) (any, error) { return nil, l.Resend(ctx, claim) })
	case 9:
		e, err := c.redis.Get(ctx, key)
		if errors.Is(err, ledger.ErrNoEntry) || e.Following == nil {
			return
		}
		state := rapid.SampledFrom([]ledger.State{ledger.Accepted, ledger.Cancelled}).Draw(c.T, "state")
		f := ledger.Following{State: []byte(`{"Code":"10019"}`), Due: now.Add(time.Duration(rapid.IntRange(0, 3).Draw(c.T, "due")) * time.Minute)}
		f.Numbers = rapid.SampledFrom([][]string{nil, {"Y1"}, {"Y1", "Y2"}}).Draw(c.T, "waybills")
		e.Version -= int64(rapid.IntRange(0, 1).Draw(c.T, "old"))
		c.same("follow", func(l ledger.Ledger) (any, error) { return nil, l.Follow(ctx, e, state, f) })
	case 10:
		c.clock.Add(time.Duration(rapid.IntRange(1, 50).Draw(c.T, "seconds")) * time.Second)
	case 11:
		c.clock.Add(time.Duration(rapid.IntRange(1, 999).Draw(c.T, "ms")) * time.Millisecond)
	case 12:
		if len(c.permits) > 0 {
			p := c.permits[0]
			c.permits = c.permits[1:]
			i := 0
			c.same("return", func(l ledger.Ledger) (any, error) { i++; return nil, l.Return(ctx, p[i-1]) })
		}
	default:
		limit := ledger.Limit{PerSecond: 3, Concurrent: 2}
		class := rapid.SampledFrom(quota.Classes()).Draw(c.T, "class")
		var permits []ledger.Permit
		c.same("acquire", func(l ledger.Ledger) (any, error) {
			p, wait, err := l.Acquire(ctx, c.seller, class, limit, 20*time.Second)
			permits = append(permits, p)
			return wait, err
		})
		if permits[0].ID != "" {
			c.permits = append(c.permits, [2]ledger.Permit{permits[0], permits[1]})
		}
	}
	for _, no := range []string{"A", "B", "C"} {
		c.same("get", func(l ledger.Ledger) (any, error) {
			return l.Get(ctx, ledger.Key{Seller: c.seller, Kind: "order", No: no})
		})
	}
	for _, no := range []string{"A", "SO", "SO-2", "P1", "P2", "Y1", "Y2"} {
		c.same("find "+no, func(l ledger.Ledger) (any, error) {
			entries, err := l.Find(ctx, c.seller, no)
			found := map[string]bool{}
			for _, e := range entries {
				found[e.Key.No] = true
			}
			return found, err
		})
	}
	c.same("due", func(l ledger.Ledger) (any, error) { return l.Due(ctx, c.seller, "order", c.clock.Now(), 2) })
	c.same("unsettled", func(l ledger.Ledger) (any, error) {
		of := map[string]ledger.State{}
		err := l.EachUnfinished(ctx, c.seller, "order", func(e ledger.Entry) error { of[e.Key.No] = e.State; return nil })
		return of, err
	})
	c.same("refusals", func(l ledger.Ledger) (any, error) {
		return l.Refusals(ctx, c.seller, "order", c.clock.Now().Add(-time.Minute), 2)
	})
	c.same("open", func(l ledger.Ledger) (any, error) { return l.CountFollowed(ctx, "order", c.seller) })
}
