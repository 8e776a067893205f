package inredis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"stockbridge/pkg/batch"
)

const (
	// maxRoundTrips is how many round trips may be under way at the same time.
	maxRoundTrips = 2
	// maxBatch is how many calls travel in one round trip. The server does nothing else meanwhile: some 30 µs a call.
	maxBatch = 128
	// maxWaiting is how many calls may wait for a round trip; more are refused at once.
	maxWaiting = 10_000
	// batchTimeout is for a round trip with its retries. Callers leave earlier, each by its own context.
	batchTimeout = 10 * time.Second
	// closeTimeout is how long closing waits for answers under way.
	closeTimeout = time.Second
)

// batcher sends calls together that are made at the same time.
//
// A call whose caller has left is no longer sent; if it was sent already it may or may not be done, as with any call
// whose answer is lost. When the connection breaks the client sends the whole batch again; each call in it recognises
// its own earlier run (package comment).
type batcher struct {
	client *redis.Client
	calls  batch.Group[struct{}, call, reply]
}

func newBatcher(client *redis.Client) *batcher {
	b := &batcher{client: client}
	b.calls.Do, b.calls.Max, b.calls.Parallel, b.calls.MaxWaiting = b.send, maxBatch, maxRoundTrips, maxWaiting
	return b
}

// target is what a call is about: one run of its script does all calls of a batch with the same target.
type target struct {
	script *script
	key    string
}

type call struct {
	target
	args []any // as the script wants them
	due  int64 // when its document is due next, milliseconds; 0 for not
}

type reply struct {
	answer
	err error
}

// do does one call of an operation of the target's script, whose file has the order of its arguments.
func (b *batcher) do(ctx context.Context, at target, op string, now int64, args ...any) (answer, error) {
	if want, ok := at.script.params[op]; !ok || want != len(args) {
		return nil, fmt.Errorf("%s takes %d arguments, not %d", op, want, len(args))
	}
	got, err := b.calls.Call(ctx, struct{}{}, call{at, append([]any{len(args) + 2, op, now}, args...), at.script.dueOf(op, args)})
	if err != nil {
		return nil, err
	}
	return got.answer, got.err
}

// close refuses calls, waiting ones too, and lets round trips under way end.
func (b *batcher) close() error {
	b.calls.Close()
	ended := make(chan struct{})
	go func() { b.calls.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(closeTimeout): // a server that hangs
	}
	err := b.client.Close() // ends what is still under way
	<-ended
	return err
}

// send makes one round trip and returns the answer of each call.
func (b *batcher) send(ctx context.Context, _ struct{}, calls []call) []reply {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	var runs []*run
	at := map[target]*run{}
	for i, c := range calls {
		r := at[c.target]
		if r == nil {
			r = &run{target: c.target}
			at[c.target], runs = r, append(runs, r)
		}
		r.calls, r.args = append(r.calls, i), append(r.args, c.args...)
		if c.due != 0 && (r.due == 0 || c.due < r.due) {
			r.due = c.due
		}
	}
	// A server that was restarted has forgotten the scripts.
	if unknown := b.run(ctx, runs, (*redis.Script).EvalSha); len(unknown) > 0 {
		b.run(ctx, unknown, (*redis.Script).Eval)
	}
	replies := make([]reply, len(calls))
	for _, r := range runs {
		r.distribute(replies)
	}
	return replies
}

// run is one run of a script, and the indices of the calls that it does.
type run struct {
	target
	calls  []int
	args   []any
	due    int64 // the earliest of the calls'
	result *redis.Cmd
}

type eval func(s *redis.Script, ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

func (b *batcher) run(ctx context.Context, runs []*run, how eval) (unknown []*run) {
	pipe := b.client.Pipeline()
	for _, r := range runs {
		r.result = how(r.script.Script, ctx, pipe, []string{r.key}, r.args...)
	}
	hintDue(ctx, pipe, runs)
	_, _ = pipe.Exec(ctx) // each result has its own error
	for _, r := range runs {
		if redis.HasErrorPrefix(r.result.Err(), "NOSCRIPT") {
			unknown = append(unknown, r)
		}
	}
	return unknown
}

// distribute gives each call its own answer.
func (r *run) distribute(replies []reply) {
	answers, err := r.result.Slice()
	if err == nil && len(answers) != len(r.calls) {
		err = fmt.Errorf("%d answers to %d calls", len(answers), len(r.calls))
	}
	for i, at := range r.calls {
		if err != nil {
			replies[at].err = err
			continue
		}
		own, _ := answers[i].([]any)
		replies[at].answer = own
		if replies[at].text(0) == "error" {
			replies[at] = reply{err: errors.New(replies[at].text(1))}
		}
	}
}
