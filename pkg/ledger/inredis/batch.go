package inredis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// writers is how many round trips may be under way at the same time.
	writers = 2
	// batchMost is how many calls travel in one round trip. The server does nothing else meanwhile: some 30 µs a call.
	batchMost = 128
	// waitMost is how many calls may wait for a round trip; more are refused at once.
	waitMost = 10_000
	// batchLimit is for a round trip with its repeats. Callers leave earlier, each by its own context.
	batchLimit = 10 * time.Second
	// closeLimit is how long closing waits for answers under way.
	closeLimit = time.Second
)

var (
	errClosed  = errors.New("the ledger is closed")
	errCrowded = fmt.Errorf("%d calls wait for Redis already", waitMost)
)

// batcher sends calls together that are made at the same time. There is no timer: a lone call goes out at once, and
// those that come while round trips are under way go with the next one.
//
// A call whose caller has left is not sent any more, unless it was already: then it may or may not be done, as with any
// call whose answer is lost. When the connection breaks the client sends the whole batch again; each call in it knows
// its own earlier run (package comment).
type batcher struct {
	client *redis.Client

	mu      sync.Mutex
	waiting []*call
	writers int
	closed  bool
	running sync.WaitGroup
}

// place is what a call is about: calls of the same place are done by one run of its script.
type place struct {
	script *redis.Script
	key    string
}

type call struct {
	place
	args   []any       // as the script wants them
	left   atomic.Bool // the caller waits no more
	answer chan answered
}

type answered struct {
	answer
	err error
}

// do does one call. Its arguments, as JSON, name the operation.
func (b *batcher) do(ctx context.Context, at place, args any) (answer, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	return b.await(ctx, at, []any{raw})
}

// doPlain does one call of an operation that takes its arguments one by one (together.lua).
func (b *batcher) doPlain(ctx context.Context, at place, op string, now int64, args ...any) (answer, error) {
	return b.await(ctx, at, append([]any{len(args) + 2, op, now}, args...))
}

func (b *batcher) await(ctx context.Context, at place, args []any) (answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &call{place: at, args: args, answer: make(chan answered, 1)}
	if err := b.queue(c); err != nil {
		return nil, err
	}
	select {
	case got := <-c.answer:
		return got.answer, got.err
	case <-ctx.Done():
		c.left.Store(true)
		return nil, ctx.Err()
	}
}

func (b *batcher) queue(c *call) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case len(b.waiting) >= waitMost:
		return errCrowded
	}
	b.waiting = append(b.waiting, c)
	if b.writers < writers {
		b.writers++
		b.running.Go(b.write)
	}
	return nil
}

// close refuses calls, those that wait too, and lets round trips under way end.
func (b *batcher) close() error {
	b.mu.Lock()
	b.closed = true
	for _, c := range b.waiting {
		c.answer <- answered{err: errClosed}
	}
	b.waiting = nil
	b.mu.Unlock()
	ended := make(chan struct{})
	go func() { b.running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(closeLimit): // a server that hangs
	}
	err := b.client.Close() // ends what is still under way
	<-ended
	return err
}

// write makes round trips until nothing waits.
func (b *batcher) write() {
	for {
		batch := b.take()
		if batch == nil {
			return
		}
		b.send(batch)
	}
}

// take takes the next batch off the queue; nil when there is none, and the writer is to end.
func (b *batcher) take() (batch []*call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for ; n < len(b.waiting) && len(batch) < batchMost; n++ {
		if c := b.waiting[n]; !c.left.Load() {
			batch = append(batch, c)
		}
	}
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	if batch == nil {
		b.writers--
	}
	return batch
}

// send makes one round trip and answers each call.
func (b *batcher) send(batch []*call) {
	ctx, cancel := context.WithTimeout(context.Background(), batchLimit)
	defer cancel()
	var runs []*run
	at := map[place]*run{}
	for _, c := range batch {
		r := at[c.place]
		if r == nil {
			r = &run{place: c.place}
			at[c.place], runs = r, append(runs, r)
		}
		r.calls = append(r.calls, c)
	}
	// A server that was restarted has forgotten the scripts.
	if unknown := b.run(ctx, runs, (*run).bySum); len(unknown) > 0 {
		b.run(ctx, unknown, (*run).byText)
	}
	for _, r := range runs {
		r.tell()
	}
}

// run is one run of a script on its way, and the calls that it does.
type run struct {
	place
	calls []*call
	reply *redis.Cmd
}

func (b *batcher) run(ctx context.Context, runs []*run, how func(*run, context.Context, redis.Pipeliner)) (unknown []*run) {
	pipe := b.client.Pipeline()
	for _, r := range runs {
		how(r, ctx, pipe)
	}
	_, _ = pipe.Exec(ctx) // each reply has its own error
	for _, r := range runs {
		if redis.HasErrorPrefix(r.reply.Err(), "NOSCRIPT") {
			unknown = append(unknown, r)
		}
	}
	return unknown
}

func (r *run) bySum(ctx context.Context, pipe redis.Pipeliner) {
	r.reply = r.script.EvalSha(ctx, pipe, []string{r.key}, r.args()...)
}

func (r *run) byText(ctx context.Context, pipe redis.Pipeliner) {
	r.reply = r.script.Eval(ctx, pipe, []string{r.key}, r.args()...)
}

func (r *run) args() []any {
	n := 0
	for _, c := range r.calls {
		n += len(c.args)
	}
	args := make([]any, 0, n)
	for _, c := range r.calls {
		args = append(args, c.args...)
	}
	return args
}

// tell gives each call its own answer.
func (r *run) tell() {
	answers, err := r.reply.Slice()
	if err == nil && len(answers) != len(r.calls) {
		err = fmt.Errorf("%d answers to %d calls", len(answers), len(r.calls))
	}
	for i, c := range r.calls {
		if err != nil {
			c.answer <- answered{err: err}
			continue
		}
		own, _ := answers[i].([]any)
		got := answered{answer: own}
		if got.text(0) == "error" {
			got = answered{err: errors.New(got.text(1))}
		}
		c.answer <- got
	}
}
