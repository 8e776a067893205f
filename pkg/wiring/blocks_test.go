package wiring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

// slots is a quota a millisecond away, with a turn each millisecond. A block has at most so many.
type slots struct {
	mu       sync.Mutex
	most     int
	fail     error
	alone    int
	blocks   []int // how many turns each was asked for
	given    int
	returned [][]ledger.Permit
}

func (s *slots) Acquire(_ context.Context, app string, _ quota.Class, _ ledger.Limit, _ time.Duration) (ledger.Permit, time.Duration, error) {
	time.Sleep(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alone++
	s.given++
	return ledger.Permit{App: app, ID: fmt.Sprint(s.given)}, 0, s.fail
}

func (s *slots) AcquireBlock(_ context.Context, app string, _ quota.Class, _ ledger.Limit, n int, ttl time.Duration) (turns []ledger.Turn, _ time.Duration, _ error) {
	time.Sleep(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ttl <= 10*time.Second {
		return nil, 0, errors.New("the permits end before the call's limit")
	}
	s.blocks = append(s.blocks, n)
	for i := range min(n, s.most) {
		s.given++
		turns = append(turns, ledger.Turn{Permit: ledger.Permit{App: app, ID: fmt.Sprint(s.given)}, In: time.Duration(i) * time.Millisecond})
	}
	return turns, time.Minute, s.fail
}

func (s *slots) Return(_ context.Context, permits ...ledger.Permit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.returned = append(s.returned, permits)
	return nil
}

// called makes n callers of the class that wait at the same time, and returns in which millisecond each began, in order.
func called(t *testing.T, s *slots, class quota.Class, perSecond float64, n int) (b *blocks, began []int) {
	t.Helper()
	b = newBlocks(s)
	l := limiter{blocks: b, app: "KEY", limit: ledger.Limit{PerSecond: perSecond, Concurrent: 100}}
	var mu sync.Mutex
	var callers sync.WaitGroup
	start := time.Now()
	for range n {
		callers.Go(func() {
			release, err := l.Acquire(t.Context(), class)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			began = append(began, int(time.Since(start).Milliseconds()))
			mu.Unlock()
			release()
		})
	}
	callers.Wait()
	b.returning.Wait()
	slices.Sort(began)
	return b, began
}

func (s *slots) permits() (n int) {
	for _, each := range s.returned {
		n += len(each)
	}
	return n
}

func TestCallersThatWaitTogetherAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slots{most: 100}
		_, began := called(t, s, quota.Push, 1000, 11)
		// How many wait together is the scheduler's choice. In a block each starts in its own millisecond.
		asked := 0
		for _, n := range s.blocks {
			asked += n
		}
		if asked != 11 || len(s.blocks) > 4 || s.alone != 0 || len(began) != 11 || slices.Max(began) < slices.Max(s.blocks) {
			t.Errorf("began at %v ms; asked for %v, and %d times alone", began, s.blocks, s.alone)
		}
		if s.permits() != 11 || len(s.returned) > 4 {
			t.Errorf("returned %v", s.returned)
		}
	})
}

func TestNoBlockIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		class     quota.Class
		perSecond float64
	}{"at five calls a second": {quota.Push, 5}, "at fifty": {quota.Push, 50}, "by a class with a floor": {quota.Status, 1000}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slots{most: 100}
				if called(t, s, c.class, c.perSecond, 8); len(s.blocks) != 0 || s.alone != 8 || s.permits() != 8 {
					t.Errorf("asked for %v, and %d times alone; returned %v", s.blocks, s.alone, s.returned)
				}
			})
		})
	}
}

func TestWhereOthersWaitEachAsksAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slots{most: 3}
		b, began := called(t, s, quota.Push, 1000, 11)
		// Each block gives three turns at most; whether the first asks before the others come is the scheduler's choice.
		given := 0
		for _, n := range s.blocks {
			given += min(n, s.most)
		}
		asked, alone := len(s.blocks), s.alone
		if len(began) != 11 || asked > 4 || alone != 11-given || s.permits() != 11 {
			t.Errorf("%d began; asked for %v, and %d times alone; returned %v", len(began), s.blocks, s.alone, s.returned)
		}
		// The next ones do not try a block, and return at once what others wait for.
		l := limiter{blocks: b, app: "KEY", limit: ledger.Limit{PerSecond: 1000, Concurrent: 100}}
		release, err := l.Acquire(t.Context(), quota.Push)
		if err != nil || s.alone != alone+1 {
			t.Fatalf("alone %d times, %v", s.alone, err)
		}
		release()
		synctest.Wait()
		if s.permits() != 12 {
			t.Errorf("returned %v", s.returned)
		}
		time.Sleep(tightFor)
		if release, err = l.Acquire(t.Context(), quota.Push); err != nil || len(s.blocks) != asked+1 {
			t.Fatalf("%d blocks after a second, %v", len(s.blocks), err)
		}
		release()
		b.returning.Wait()
	})
}

func TestWhoLeavesGivesItsTurnBack(t *testing.T) {
	for name, after := range map[string]time.Duration{"before the answer": 500 * time.Microsecond, "before its turn": 2500 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slots{most: 100}
				l := limiter{blocks: newBlocks(s), app: "KEY", limit: ledger.Limit{PerSecond: 1000, Concurrent: 100}}
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				var callers sync.WaitGroup
				for range 10 {
					callers.Go(func() {
						release, err := l.Acquire(ctx, quota.Push)
						if err == nil {
							release()
						} else if !errors.Is(err, context.DeadlineExceeded) {
							t.Error(err)
						}
					})
				}
				callers.Wait()
				time.Sleep(time.Second)
				l.blocks.returning.Wait()
				if s.permits() != s.given {
					t.Errorf("%d turns given, %d returned", s.given, s.permits())
				}
			})
		})
	}
}

func TestABlockFailsForAllItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slots{most: 100, fail: errors.New("away")}
		l := limiter{blocks: newBlocks(s), app: "KEY", limit: ledger.Limit{PerSecond: 1000, Concurrent: 100}}
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() {
				if _, err := l.Acquire(t.Context(), quota.Push); !errors.Is(err, s.fail) {
					t.Error(err)
				}
			})
		}
		callers.Wait()
	})
}
