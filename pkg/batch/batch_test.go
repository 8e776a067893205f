package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stockbridge/pkg/batch"
)

// trips records the batches that a group does. Each takes a second.
type trips struct {
	mu   sync.Mutex
	done []string
}

func (s *trips) do(_ context.Context, key string, calls []int) []string {
	time.Sleep(time.Second)
	s.mu.Lock()
	s.done = append(s.done, fmt.Sprint(key, calls))
	s.mu.Unlock()
	outs := make([]string, len(calls))
	for i, n := range calls {
		outs[i] = fmt.Sprint(key, n)
	}
	return outs
}

// call makes n calls one after the other without waiting for their answers; each answer must be its own.
func call(t *testing.T, all *sync.WaitGroup, g *batch.Group[string, int, string], key string, from, to int) {
	for i := from; i <= to; i++ {
		all.Go(func() {
			if out, err := g.Call(t.Context(), key, i); err != nil || out != fmt.Sprint(key, i) {
				t.Errorf("%s%d: %q, %v", key, i, out, err)
			}
		})
		synctest.Wait()
	}
}

func ExampleGroup() {
	squares := batch.Group[string, int, int]{
		Do: func(_ context.Context, _ string, calls []int) []int {
			outs := make([]int, len(calls))
			for i, n := range calls {
				outs[i] = n * n
			}
			return outs
		},
	}
	fmt.Println(squares.Call(context.Background(), "key", 3))
	// Output: 9 <nil>
}

func TestCallsThatArriveDuringABatchShareTheNext(t *testing.T) {
	for _, test := range []struct {
		name  string
		group *batch.Group[string, int, string]
		want  []string
	}{
		{"one batch at a time", &batch.Group[string, int, string]{}, []string{"a[1]", "b[9]", "a[2 3 4 5 6]"}},
		{"two at a time", &batch.Group[string, int, string]{Parallel: 2}, []string{"a[1]", "a[2]", "b[9]", "a[3 4 5 6]"}},
		{"a batch has a limit", &batch.Group[string, int, string]{Max: 3}, []string{"a[1]", "b[9]", "a[2 3 4]", "a[5 6]"}},
		{"a batch is cut by its content", &batch.Group[string, int, string]{Cut: func(_ string, calls []int) int {
			return max(slices.Index(calls, 4), 1)
		}}, []string{"a[1]", "b[9]", "a[2 3]", "a[4]", "a[5]", "a[6]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &trips{}
				g := test.group
				g.Do = s.do
				var all sync.WaitGroup
				call(t, &all, g, "a", 1, 6)
				call(t, &all, g, "b", 9, 9)
				all.Wait()
				synctest.Wait()
				slices.Sort(s.done)
				slices.Sort(test.want)
				if !slices.Equal(s.done, test.want) {
					t.Errorf("%v, want %v", s.done, test.want)
				}
				if running, waiting := g.Load("a"); running != 0 || waiting != 0 {
					t.Errorf("at the end %d run and %d wait", running, waiting)
				}
			})
		})
	}
}

func TestACallWhoseCallerLeftIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &trips{}
		g := &batch.Group[string, int, string]{Do: s.do}
		var all sync.WaitGroup
		call(t, &all, g, "a", 1, 1)
		ctx, leave := context.WithCancel(t.Context())
		all.Go(func() {
			if _, err := g.Call(ctx, "a", 2); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		call(t, &all, g, "a", 3, 3)
		leave()
		if _, err := g.Call(ctx, "a", 4); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		all.Wait()
		if want := []string{"a[1]", "a[3]"}; !slices.Equal(s.done, want) {
			t.Errorf("%v, want %v", s.done, want)
		}
	})
}

// The first caller leaves while its batch is under way: the others get their answers.
func TestABatchOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		g := &batch.Group[string, int, string]{Do: func(ctx context.Context, _ string, calls []int) []string {
			time.Sleep(time.Second)
			return slices.Repeat([]string{fmt.Sprint(ctx.Value(key{}), ctx.Err())}, len(calls))
		}}
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "first"), time.Millisecond)
		defer cancel()
		if _, err := g.Call(ctx, "a", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				if out, err := g.Call(context.WithValue(t.Context(), key{}, "later"), "a", 2); err != nil || out != "later<nil>" {
					t.Error(out, err)
				}
			})
		}
		all.Wait()
	})
}

func TestTheQueueHasALimitAndCanBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &trips{}
		g := &batch.Group[string, int, string]{Do: s.do, MaxWaiting: 2}
		var all sync.WaitGroup
		call(t, &all, g, "a", 1, 1)
		for i := range 2 {
			all.Go(func() {
				if _, err := g.Call(t.Context(), "a", i); !errors.Is(err, batch.ErrClosed) {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if _, err := g.Call(t.Context(), "a", 4); !errors.Is(err, batch.ErrFull) {
			t.Error(err)
		}
		g.Close()
		if _, err := g.Call(t.Context(), "a", 5); !errors.Is(err, batch.ErrClosed) {
			t.Error(err)
		}
		g.Wait()
		all.Wait()
		if want := []string{"a[1]"}; !slices.Equal(s.done, want) {
			t.Errorf("%v, want %v", s.done, want)
		}
	})
}

func TestAPanicReachesEveryCallerAndTheGroupGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &batch.Group[string, int, string]{Do: func(_ context.Context, _ string, calls []int) []string {
			time.Sleep(time.Second)
			if slices.Contains(calls, 13) {
				panic("unlucky")
			}
			return make([]string, len(calls)-calls[0]) // one short for 1
		}}
		try := func(n int) (said string) {
			defer func() { said = fmt.Sprint(recover()) }()
			_, _ = g.Call(t.Context(), "a", n)
			return ""
		}
		var all sync.WaitGroup
		for i, want := range []string{"<nil>", "unlucky", "unlucky"} {
			all.Go(func() {
				if said := try(i * 13 / max(i, 1)); !strings.HasPrefix(said, want) {
					t.Errorf("call %d: %s, want %s", i, said, want)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		if said := try(1); !strings.HasPrefix(said, "0 answers to 1 calls") {
			t.Error(said)
		}
		if said := try(0); said != "<nil>" {
			t.Error(said)
		}
	})
}
