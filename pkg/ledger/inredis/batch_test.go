package inredis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/ledger/redistest"
)

// gathering is a ledger whose server hangs while calls queue.
type gathering struct {
	*Ledger
	t      *testing.T
	server *redistest.Server
	proxy  *redistest.Proxy

	mu   sync.Mutex
	sent []int // for each script that was sent, how many calls it did
}

func gather(t *testing.T) *gathering {
	t.Helper()
	server := redistest.Start(t)
	proxy := server.Proxy()
	l, err := Open(Options{URL: proxy.URL()})
	if err != nil {
		t.Fatal(err)
	}
	c := &gathering{Ledger: l, t: t, server: server, proxy: proxy}
	t.Cleanup(func() { _ = l.Close() })
	if err := <-c.request(t.Context(), "warm", "W"); err != nil { // the script is known to the server from here on
		t.Fatal(err)
	}
	c.until(func(trips, _ int) bool { return trips == 0 })
	l.client.AddHook(c)
	return c
}

func (*gathering) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (*gathering) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *gathering) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		c.mu.Lock()
		for _, command := range commands {
			if command.Name() == "evalsha" {
				c.sent = append(c.sent, calls(command.Args()[4:])) // evalsha, sum, 1, key
			}
		}
		c.mu.Unlock()
		return next(ctx, commands)
	}
}

// calls counts the calls in a script's arguments.
func calls(args []any) (n int) {
	for ; len(args) > 0; n++ {
		values, _ := args[0].(int)
		args = args[1+values:]
	}
	return n
}

func (c *gathering) request(ctx context.Context, seller, no string) <-chan error {
	answer := make(chan error, 1)
	go func() {
		claimed, err := c.Claim(ctx, ledger.ClaimRequest{
			Key: ledger.Key{Seller: seller, Kind: "order", No: no}, Hash: "h", Owner: "owner of " + no, Group: "SO", Items: []string{no},
		})
		if err == nil && claimed.Claim.Owner != "owner of "+no {
			err = fmt.Errorf("%s got a claim of %s", no, claimed.Claim.Owner)
		}
		answer <- err
	}()
	return answer
}

// hang stops the server and lets every round trip wait for it, so that all further calls queue.
func (c *gathering) hang() (wake func()) {
	c.t.Helper()
	wake = c.server.Hang()
	c.t.Cleanup(wake)
	for i := range maxRoundTrips {
		c.request(c.t.Context(), "busy", fmt.Sprint(i))
		c.until(func(trips, waiting int) bool { return trips == i+1 && waiting == 0 })
	}
	return wake
}

// begins queues calls and waits until all stand in the queue.
func (c *gathering) claims(ctx context.Context, numbers ...string) (answers []<-chan error) {
	c.t.Helper()
	for _, no := range numbers {
		n := c.waiting()
		answers = append(answers, c.request(ctx, "acme", no))
		c.until(func(_, waiting int) bool { return waiting == n+1 })
	}
	return answers
}

func (c *gathering) waiting() int {
	_, waiting := c.calls.calls.Load(struct{}{})
	return waiting
}

func (c *gathering) until(is func(trips, waiting int) bool) {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if is(c.calls.calls.Load(struct{}{})) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatal("the queue never became what the test needs")
		}
	}
}

func (c *gathering) tries(no string) int {
	c.t.Helper()
	e, err := c.Get(c.t.Context(), ledger.Key{Seller: "acme", Kind: "order", No: no})
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
		c.t.Fatal(err)
	}
	return e.Tries
}

func numbers(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("A%d", i))
	}
	return list
}

func TestCallsThatWaitTravelTogether(t *testing.T) {
	c := gather(t)
	wake := c.hang()
	answers := c.claims(t.Context(), numbers(50)...)
	wake()
	for i, answer := range answers {
		if err := <-answer; err != nil {
			t.Errorf("A%d: %v", i, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := fmt.Sprint(c.sent); got != "[1 1 50]" {
		t.Errorf("scripts did %s calls, want the 50 that waited in one", got)
	}
}

func TestAnAbandonedCallFailsNoOtherAndIsNotSent(t *testing.T) {
	c := gather(t)
	wake := c.hang()
	before := c.claims(t.Context(), "A0")
	ctx, leave := context.WithCancel(t.Context())
	left := c.claims(ctx, "A1")
	after := c.claims(t.Context(), "A2")
	leave()
	if err := <-left[0]; !errors.Is(err, context.Canceled) {
		t.Errorf("the abandoned call got %v", err)
	}
	wake()
	if err := errors.Join(<-before[0], <-after[0]); err != nil {
		t.Errorf("the others get %v", err)
	}
	if n := c.tries("A1"); n != 0 {
		t.Errorf("a call that nobody waited for was begun %d times", n)
	}
}

func TestAnErrorFailsOnlyItsOwnCall(t *testing.T) {
	c := gather(t)
	c.server.Command("SET", "stockbridge:{acme}:entry:order:A1", "spoilt")
	wake := c.hang()
	answers := c.claims(t.Context(), numbers(3)...)
	wake()
	if err := errors.Join(<-answers[0], <-answers[2]); err != nil {
		t.Errorf("its neighbours get %v", err)
	}
	if err := <-answers[1]; err == nil {
		t.Error("an entry that is none was begun")
	}
	for _, no := range []string{"A0", "A2"} {
		if n := c.tries(no); n != 1 {
			t.Errorf("%s was begun %d times", no, n)
		}
	}
}

// The whole batch is sent again, and each call recognises its own first run.
func TestALostAnswerOfABatchIsGivenAgain(t *testing.T) {
	c := gather(t)
	wake := c.hang()
	answers := c.claims(t.Context(), numbers(20)...)
	c.proxy.CutAnswer("{acme}")
	wake()
	for i, answer := range answers {
		if err := <-answer; err != nil {
			t.Errorf("A%d was claimed and got %v", i, err)
		}
	}
	c.proxy.WantCuts(t, 1)
	for _, no := range numbers(20) {
		if n := c.tries(no); n != 1 {
			t.Errorf("%s was begun %d times", no, n)
		}
	}
}

func TestABatchIsDoneByAServerThatForgotTheScripts(t *testing.T) {
	c := gather(t)
	c.server.Command("SCRIPT", "FLUSH")
	wake := c.hang()
	answers := c.claims(t.Context(), numbers(5)...)
	wake()
	for i, answer := range answers {
		if err := <-answer; err != nil {
			t.Errorf("A%d: %v", i, err)
		}
	}
}

func TestCloseWhileCallsWait(t *testing.T) {
	t.Parallel()
	c := gather(t)
	c.hang() // for good
	answers := c.claims(t.Context(), numbers(5)...)
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	for i, answer := range answers {
		if err := <-answer; !errors.Is(err, batch.ErrClosed) {
			t.Errorf("A%d waited and got %v", i, err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := <-c.request(t.Context(), "acme", "late"); !errors.Is(err, batch.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// Permits of one batch are counted one by one, and so are returns between them.
func TestPermitsOfOneBatchKeepTheLimit(t *testing.T) {
	c := gather(t)
	limit := ledger.Limit{PerSecond: 1e6, Concurrent: 5}
	first, _, err := c.Acquire(t.Context(), "app", "push", limit, time.Minute)
	if err != nil || first.ID == "" {
		t.Fatalf("the first of five: %+v, %v", first, err)
	}
	c.until(func(trips, _ int) bool { return trips == 0 })
	wake := c.hang()
	var asking sync.WaitGroup
	permits := make(chan ledger.Permit, 20)
	for i := range cap(permits) {
		n := c.waiting()
		asking.Go(func() {
			if i == 10 {
				if err := c.Return(t.Context(), first); err != nil {
					t.Error(err)
				}
				return
			}
			p, wait, err := c.Acquire(t.Context(), "app", "push", limit, time.Minute)
			switch {
			case err != nil:
				t.Error(err)
			case p.ID != "":
				permits <- p
			case wait <= 0:
				t.Error("neither a permit nor a wait")
			}
		})
		c.until(func(_, waiting int) bool { return waiting == n+1 })
	}
	wake()
	asking.Wait()
	if len(permits) != 5 {
		t.Errorf("%d permits are out, want the 4 that were left and the returned one", len(permits))
	}
}
