package wiring

import (
	"context"
	"sync"
	"time"

	"stockbridge/pkg/batch"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

const (
	// returnAfter is how long a permit on its way back waits for others, where the budget is ample.
	returnAfter = 5 * time.Millisecond
	// tightFor is how long callers ask one by one after the ledger gave a block fewer turns than it asked for.
	tightFor = time.Second
)

// blocks asks the ledger for the turns of several callers at once, and returns their permits so, where the limit allows
// many calls a second and nobody waits. Where it does not, each caller asks and returns alone.
//
// # Why
//
// A turn of its own for each order cost a sixth of an order's CPU. Only callers that wait at the moment share a block: no
// turn is taken in advance, so none is lost with a worker that is slow, and one that dies loses those of its calls, as
// before. Callers elsewhere wait for a block 20 ms longer at most (quota.BlockAhead).
type blocks struct {
	quota ledger.Quota
	turns batch.Group[blockKey, *caller, struct{}]

	mu sync.Mutex
	// tight is until when callers of an application ask one by one.
	tight map[string]time.Time
	// back are permits on their way back, by application.
	back map[string][]ledger.Permit
	// returning counts the calls that return them.
	returning sync.WaitGroup
}

// blockKey is what the callers of a block have in common.
type blockKey struct {
	app   string
	class quota.Class
	limit ledger.Limit
}

// caller is one that waits for its turn.
type caller struct {
	mu    sync.Mutex
	gone  bool
	turn  ledger.Turn // of a caller that got one
	alone bool        // ask alone
	wait  time.Duration
	err   error
}

func newBlocks(q ledger.Quota) *blocks {
	b := &blocks{quota: q, tight: map[string]time.Time{}, back: map[string][]ledger.Permit{}}
	b.turns.Do, b.turns.Max = b.take, quota.MaxBlock
	return b
}

// acquire is Quota.Acquire, with others if that is of use. The permit's call may start when it returns.
func (b *blocks) acquire(ctx context.Context, app string, class quota.Class, l ledger.Limit) (ledger.Permit, time.Duration, error) {
	if quota.Block(l.PerSecond) > 1 && class.Floor() == 0 && !b.isTight(app) {
		c := &caller{}
		if _, err := b.turns.Call(ctx, blockKey{app, class, l}, c); err != nil {
			b.leave(c)
			return ledger.Permit{}, 0, err
		}
		if c.err != nil || c.wait > 0 {
			return ledger.Permit{}, c.wait, c.err
		}
		if !c.alone {
			return c.turn.Permit, 0, b.sleep(ctx, c.turn)
		}
	}
	return b.quota.Acquire(ctx, app, class, l, permitTTL)
}

// sleep waits for the turn, which a caller that leaves before gives back.
func (b *blocks) sleep(ctx context.Context, t ledger.Turn) error {
	if t.In <= 0 {
		return nil
	}
	timer := time.NewTimer(t.In)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		b.giveBack(t.Permit)
		return ctx.Err()
	}
}

// leave makes sure that a turn that c may have got meanwhile is not lost.
func (b *blocks) leave(c *caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	if c.turn.Permit.ID != "" {
		b.giveBack(c.turn.Permit)
	}
}

// take asks for the turns of callers that wait.
func (b *blocks) take(ctx context.Context, key blockKey, callers []*caller) []struct{} {
	most := min(len(callers), quota.Block(key.limit.PerSecond))
	turns, wait, err := b.quota.AcquireBlock(ctx, key.app, key.class, key.limit, most, permitTTL)
	if err == nil && len(turns) < most {
		b.mu.Lock()
		b.tight[key.app] = time.Now().Add(tightFor)
		b.mu.Unlock()
	}
	for i, c := range callers {
		c.mu.Lock()
		switch {
		case err != nil:
			c.err = err
		case i < len(turns):
			if c.turn = turns[i]; c.gone {
				b.giveBack(turns[i].Permit)
			}
		case i == 0:
			c.wait = wait
		default:
			c.alone = true
		}
		c.mu.Unlock()
	}
	return make([]struct{}, len(callers))
}

func (b *blocks) isTight(app string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	until, known := b.tight[app]
	if !known {
		return false
	}
	if time.Now().Before(until) {
		return true
	}
	delete(b.tight, app)
	return false
}

// release returns the permit of a call that ended: at once where turns are few, else together with others.
func (b *blocks) release(p ledger.Permit, l ledger.Limit) {
	if quota.Block(l.PerSecond) == 1 || b.isTight(p.App) {
		b.giveBack(p)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.back[p.App] = append(b.back[p.App], p)
	switch len(b.back[p.App]) {
	case 1:
		b.returning.Add(1)
		time.AfterFunc(returnAfter, func() {
			defer b.returning.Done()
			b.mu.Lock()
			permits := b.back[p.App]
			delete(b.back, p.App)
			b.mu.Unlock()
			if len(permits) > 0 {
				b.giveBack(permits...)
			}
		})
	case quota.MaxBlock:
		b.giveBack(b.back[p.App]...)
		b.back[p.App] = nil
	}
}

// giveBack returns permits in the background: nobody waits for it. If that fails, they expire.
func (b *blocks) giveBack(permits ...ledger.Permit) {
	b.returning.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = b.quota.Return(ctx, permits...)
	})
}
