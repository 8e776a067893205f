// Package batch puts calls together that are made at the same time. It knows neither what they are nor where they go.
//
// # Why
//
// Carrying a call costs more than doing it, so calls that arrive while a batch is under way are worth one trip. There is
// no timer: a lone call is done at once, and waiting for company would take longer than the trip that it saves.
package batch

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

var (
	// ErrClosed: the group is closed; the call was not done.
	ErrClosed = errors.New("closed")
	// ErrFull: MaxWaiting calls wait already; the call was not done.
	ErrFull = errors.New("too many calls wait")
)

// Group does calls in batches, each key's on its own. A call joins the next batch of its key. Set the fields before the
// first Call. Many goroutines may use it.
type Group[K comparable, In, Out any] struct {
	// Do does a batch, which is never empty, and returns an answer for each call, in their order. Its ctx has the first
	// call's values and never ends: callers leave one by one. A panic is passed on to all callers of the batch.
	Do func(ctx context.Context, key K, calls []In) []Out
	// Max is the most calls of a batch; 0 is no limit.
	Max int
	// Cut, if set, returns how many of these calls (at most Max) the key's next batch takes, at least one.
	Cut func(key K, calls []In) int
	// Parallel is how many batches of a key may be under way at the same time; 0 is one.
	Parallel int
	// MaxWaiting is how many calls of a key may wait; 0 is no limit.
	MaxWaiting int

	mu      sync.Mutex
	queues  map[K]*queue[In, Out]
	closed  bool
	running sync.WaitGroup
}

// queue is the calls of a key that wait, and the number of goroutines that do them.
type queue[In, Out any] struct {
	waiting []*call[In, Out]
	running int
}

type call[In, Out any] struct {
	ctx  context.Context // the caller's: a call whose caller has left before its batch starts is dropped
	in   In
	done chan answer[Out]
}

type answer[Out any] struct {
	out      Out
	err      error
	panicked any
}

// Call does one call. An error is the end of ctx, ErrClosed or ErrFull; after the end of ctx the call may have been done.
func (g *Group[K, In, Out]) Call(ctx context.Context, key K, in In) (out Out, err error) {
	if err := ctx.Err(); err != nil {
		return out, err
	}
	c := &call[In, Out]{ctx: ctx, in: in, done: make(chan answer[Out], 1)}
	if err := g.enqueue(key, c); err != nil {
		return out, err
	}
	select {
	case a := <-c.done:
		if a.panicked != nil {
			panic(a.panicked)
		}
		return a.out, a.err
	case <-ctx.Done():
		return out, ctx.Err()
	}
}

// Load is how many batches of key are under way and how many of its calls wait.
func (g *Group[K, In, Out]) Load(key K) (running, waiting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if q := g.queues[key]; q != nil {
		return q.running, len(q.waiting)
	}
	return 0, 0
}

// Close makes calls that wait, and later ones, return ErrClosed. Batches under way go on; see Wait.
func (g *Group[K, In, Out]) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, q := range g.queues {
		for _, c := range q.waiting {
			c.done <- answer[Out]{err: ErrClosed}
		}
		q.waiting = nil
	}
}

// Wait waits for the batches under way. Call it after Close.
func (g *Group[K, In, Out]) Wait() { g.running.Wait() }

func (g *Group[K, In, Out]) enqueue(key K, c *call[In, Out]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	q := g.queues[key]
	if q == nil {
		if g.queues == nil {
			g.queues = map[K]*queue[In, Out]{}
		}
		q = &queue[In, Out]{}
		g.queues[key] = q
	}
	if g.MaxWaiting > 0 && len(q.waiting) >= g.MaxWaiting {
		return ErrFull
	}
	q.waiting = append(q.waiting, c)
	if q.running < max(g.Parallel, 1) {
		q.running++
		g.running.Go(func() { g.run(key, q) })
	}
	return nil
}

// run does batches until no call waits.
func (g *Group[K, In, Out]) run(key K, q *queue[In, Out]) {
	for {
		batch, calls := g.next(key, q)
		if batch == nil {
			return
		}
		g.do(key, batch, calls)
	}
}

// next takes a batch off the queue; none when no call waits, and then its goroutine ends.
func (g *Group[K, In, Out]) next(key K, q *queue[In, Out]) (batch []*call[In, Out], calls []In) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for ; n < len(q.waiting) && (g.Max == 0 || len(batch) < g.Max); n++ {
		if c := q.waiting[n]; c.ctx.Err() == nil {
			batch, calls = append(batch, c), append(calls, c.in)
		}
	}
	rest := q.waiting[n:]
	if g.Cut != nil && len(calls) > 1 {
		if cut := g.Cut(key, calls); cut < len(calls) {
			rest = append(batch[cut:len(batch):len(batch)], rest...)
			batch, calls = batch[:cut], calls[:cut]
		}
	}
	if q.waiting = rest; len(rest) == 0 {
		q.waiting = nil
	}
	if batch == nil {
		if q.running--; q.running == 0 {
			delete(g.queues, key)
		}
	}
	return batch, calls
}

func (g *Group[K, In, Out]) do(key K, batch []*call[In, Out], calls []In) {
	outs, panicked := g.try(context.WithoutCancel(batch[0].ctx), key, calls)
	for i, c := range batch {
		if panicked != nil {
			c.done <- answer[Out]{panicked: panicked}
		} else {
			c.done <- answer[Out]{out: outs[i]}
		}
	}
}

func (g *Group[K, In, Out]) try(ctx context.Context, key K, calls []In) (outs []Out, panicked any) {
	defer func() {
		if v := recover(); v != nil {
			panicked = fmt.Sprintf("%v\n%s", v, debug.Stack())
		}
	}()
	outs = g.Do(ctx, key, calls)
	if len(outs) != len(calls) {
		panic(fmt.Sprintf("%d answers to %d calls", len(outs), len(calls)))
	}
	return outs, nil
}
