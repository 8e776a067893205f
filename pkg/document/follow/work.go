package follow

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
)

// queue is what a run does for one kind.
type queue struct {
	Kind
	// groups are in the order in which their documents came. The run's picking guards them.
	groups []*group
	// more: the ledger may have more that is due. filled: nothing came since the groups were filled up. askedAt is when the
	// ledger was last asked.
	more, filled bool
	askedAt      time.Time
	// listed counts the list calls begun.
	listed int
	// missing are accepted documents that the warehouse does not know; otherAccount are those of them that were sent under
	// another identity than today's. The run's mu guards them.
	missing, otherAccount []string
}

// group is the due documents of one kind at one warehouse.
type group struct {
	code string
	ch   channel // unset if err
	err  error
	due  []taken
	// calls counts the list calls under way. failed: one failed, so no more are made in this run.
	calls  int
	failed bool
}

// reading is a document that moved, and the numbers of its documents.
type reading struct {
	q       *queue
	g       *group
	entry   taken
	numbers []string
}

// job is one call and all that follows from it. It returns false when its worker is not to go on.
type job func(ctx context.Context) (goOn bool)

// lookUpDue looks up all due documents, as far as the run's time and the quota allow. The rest is due again.
func (r *run) lookUpDue(ctx context.Context) {
	for _, k := range r.Kinds {
		q := &queue{Kind: k}
		r.queues = append(r.queues, q)
		if !r.take(ctx, q) {
			break
		}
	}
	r.working = 1
	r.workers.Go(func() { r.work(ctx) })
	r.workers.Wait()
	r.release(ctx)
}

// work does what is to do, until there is nothing for one more worker.
func (r *run) work(ctx context.Context) {
	for {
		do := r.next(ctx)
		if do == nil {
			break
		}
		r.addWorker(ctx)
		r.callOthers(ctx)
		if !r.safely(ctx, do) {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working--
}

// addWorker starts another worker, which ends when there is nothing for it. While one waits for its turn in the quota, more would
// only wait too.
func (r *run) addWorker(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.working >= r.callsAtOnce || r.waiting {
		return
	}
	r.working++
	r.workers.Go(func() { r.work(ctx) })
}

// callOthers fires another tick of the seller now and then while there is much to do, so that another process joins: the
// schedule fires none while this one is being handled.
func (r *run) callOthers(ctx context.Context) {
	now := r.Now()
	r.mu.Lock()
	due := now.Sub(r.calledAt) >= othersEvery
	if due {
		r.calledAt = now
	}
	r.mu.Unlock()
	if !due {
		return
	}
	if err := r.Again(ctx, r.seller.Name()); err != nil {
		r.Log.Debug().Err(err).Str("seller", r.seller.Name()).Msg("cannot call other processes; this one goes on")
	}
}

// inTurn makes a call again when its turn in the quota has come. One worker of several waits for its turn; it returns the
// fault.Wait of a call that another one waits before: that worker then ends, and the last one ends the run.
func (r *run) inTurn(ctx context.Context, call func() error) error {
	for {
		err := call()
		if fault.Of(err) != fault.Wait || !r.wait(ctx, fault.After(err)) {
			return err
		}
	}
}

func (r *run) wait(ctx context.Context, d time.Duration) bool {
	r.mu.Lock()
	may := r.working > 1 && !r.waiting && d <= turnAtMost && r.stop == nil
	r.waiting = r.waiting || may
	r.mu.Unlock()
	if !may {
		return false
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	r.mu.Lock()
	r.waiting = false
	r.mu.Unlock()
	if r.done(ctx) {
		return false
	}
	r.addWorker(ctx) // it is the next to wait
	return true
}

// mustWait ends this worker, because its call had to wait. The last one ends the run.
func (r *run) mustWait(why error) (goOn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.working--
	if r.working == 0 && r.stop == nil {
		r.stop = why
	}
	return false
}

// safely turns a panic into a failure: workers do not run in the handler's goroutine, where the bus recovers.
func (r *run) safely(ctx context.Context, do job) (goOn bool) {
	defer func() {
		if v := recover(); v != nil {
			r.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Str("seller", r.seller.Name()).Msg("a look-up panicked")
			r.fail(fmt.Errorf("a look-up panicked: %v", v))
			goOn = true
		}
	}()
	return do(ctx)
}

// next chooses the next call; nil when there is none now.
func (r *run) next(ctx context.Context) job {
	r.picking.Lock()
	defer r.picking.Unlock()
	if r.done(ctx) {
		return nil
	}
	if len(r.readings) > 0 && r.read*listsPerReading < r.listed {
		return r.nextReading()
	}
	if do := r.nextList(ctx); do != nil {
		return do
	}
	if len(r.readings) > 0 {
		return r.nextReading()
	}
	return nil
}

func (r *run) nextReading() job {
	next := r.readings[0]
	r.readings = r.readings[1:]
	r.read++
	return func(ctx context.Context) bool { return r.readMoved(ctx, next) }
}

// nextList chooses a list call. A call that is not full waits until all that is due was taken; then it is filled up.
func (r *run) nextList(ctx context.Context) job {
	slices.SortStableFunc(r.queues, func(a, b *queue) int {
		return cmp.Or(cmp.Compare(a.listed, b.listed), a.oldest().Compare(b.oldest()))
	})
	for _, q := range r.queues {
		for {
			if g := q.choose(r.perWarehouse(), func(g *group) bool { return len(g.due) >= g.ch.perCall }); g != nil {
				return r.listCall(q, g)
			}
			if !r.mayHave(q) || q.held() >= r.mayHold() {
				break
			}
			if !r.take(ctx, q) {
				return nil
			}
		}
		if q.more {
			continue
		}
		if g := q.choose(r.perWarehouse(), func(*group) bool { return true }); g != nil {
			r.fillUp(ctx, q)
			return r.listCall(q, g)
		}
	}
	return nil
}

// mayHave reports whether the ledger may have something due of a kind. While others are at work, more comes due meanwhile.
func (r *run) mayHave(q *queue) bool {
	if q.more {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.working > 1 && r.Now().Sub(q.askedAt) >= askEvery
}

// listCall is the list call for the first documents of g.
func (r *run) listCall(q *queue, g *group) job {
	n := min(len(g.due), g.ch.perCall)
	batch := slices.Clone(g.due[:n])
	g.due = g.due[n:]
	g.calls++
	q.listed++
	r.listed++
	return func(ctx context.Context) bool {
		defer func() {
			r.picking.Lock()
			defer r.picking.Unlock()
			g.calls--
		}()
		return r.list(ctx, q, g, batch)
	}
}

// mayHold is how many documents of a kind may wait for their list call: enough to find those of another warehouse behind those of
// a slow one, and otherwise none that another process could look up.
func (r *run) mayHold() int {
	if len(r.seller.Setup.Warehouses) > 1 {
		return heldAtMost
	}
	return perTake
}

// perWarehouse is the most calls to one warehouse at a time.
func (r *run) perWarehouse() int { return r.callsAtOnce - r.callsAtOnce/4 }

// choose returns of the groups with fewer than most calls under way the one with the fewest calls under way, of these the most overdue; nil for
// none.
func (q *queue) choose(most int, fits func(*group) bool) (best *group) {
	for _, g := range q.groups {
		if len(g.due) == 0 || !fits(g) || g.calls >= most {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(g.calls, best.calls), g.oldest().Compare(best.oldest())) < 0 {
			best = g
		}
	}
	return best
}

// oldest is when the most overdue document was due; far ahead when there is none.
func (g *group) oldest() time.Time {
	if len(g.due) == 0 {
		return time.Unix(1<<40, 0)
	}
	return following(g.due[0].Entry).Due
}

func (q *queue) oldest() time.Time {
	oldest := time.Unix(1<<40, 0)
	for _, g := range q.groups {
		if at := g.oldest(); at.Before(oldest) {
			oldest = at
		}
	}
	return oldest
}

// held is how many documents wait for their list call.
func (q *queue) held() (n int) {
	for _, g := range q.groups {
		n += len(g.due)
	}
	return n
}

// take takes more of what is due of a kind. False: the ledger failed, and the run ends.
func (r *run) take(ctx context.Context, q *queue) bool {
	q.askedAt = r.Now()
	return r.takeSome(ctx, q, ledger.Take{Due: q.askedAt, Limit: perTake})
}

func (r *run) takeSome(ctx context.Context, q *queue, t ledger.Take) bool {
	t.Seller, t.Kind, t.Until = r.seller.Name(), q.Name, r.Now().Add(holdFor)
	entries, err := r.Ledger.TakeDue(ctx, t)
	if err != nil {
		r.fail(err)
		r.stopWith(errEnough)
		return false
	}
	if t.Room == nil {
		q.more = len(entries) == t.Limit
		q.filled = q.filled && len(entries) == 0
	}
	r.sortIn(ctx, q, entries, t.Until)
	return true
}

// sortIn sorts what was taken by warehouses.
func (r *run) sortIn(ctx context.Context, q *queue, entries []ledger.Entry, until time.Time) {
	var settled news
	for _, e := range entries {
		g := r.groupOf(q, e.Warehouse)
		this := taken{e, until}
		switch {
		case g.err != nil:
			r.failForLong(g.err.Error())
			settled.postpone(this, r.later(q, e, r.Now()).next.Due)
		case g.failed:
			settled.postpone(this, r.began.Add(failedPause))
		case g.ch.find != nil && r.batchRefused(r.batchKey(q, g)):
			r.addReading(reading{q, g, this, q.documents(e, nil)}, &settled)
			r.Metrics.Lookups.WithLabelValues("single").Inc()
		default:
			g.due = append(g.due, this)
		}
	}
	r.store(ctx, q, &settled)
}

func (r *run) batchKey(q *queue, g *group) string {
	return r.seller.Name() + "/" + g.code + "/" + q.Name
}

// groupOf is the group of a warehouse, which it opens.
func (r *run) groupOf(q *queue, code string) *group {
	if i := slices.IndexFunc(q.groups, func(g *group) bool { return g.code == code }); i >= 0 {
		return q.groups[i]
	}
	g := &group{code: code}
	g.ch, g.err = r.open(q.Kind, code)
	q.groups = append(q.groups, g)
	return g
}

func (r *run) open(k Kind, code string) (channel, error) {
	wh, err := r.Open(r.seller, code, quota.Status)
	if err != nil {
		return channel{}, err
	}
	ch, ok := k.open(wh)
	if !ok {
		return channel{}, fault.Permanent(fmt.Errorf("warehouse %s takes no %ss", code, k.EN))
	}
	return ch, nil
}

// fillUp takes what comes next, as far as calls that are not full have room. What this run looked up already is left out: it
// comes next after the shortest interval.
func (r *run) fillUp(ctx context.Context, q *queue) {
	if q.filled {
		return
	}
	q.filled = true
	room, all := map[string]int{}, 0
	for _, g := range q.groups {
		if n := len(g.due); n > 0 && n < g.ch.perCall {
			room[g.code] = g.ch.perCall - n
			all += room[g.code]
		}
	}
	if all == 0 {
		return
	}
	t := ledger.Take{Due: q.askedAt, Room: room, Limit: max(perTake, 2*all)}
	if q.listed > 0 {
		t.Before = r.began.Add(min(r.OpenEvery, r.SoonEvery, r.LateEvery))
	}
	r.takeSome(ctx, q, t)
}

// addReading lets a document that moved wait for its reading. When too many wait already, it is listed again later.
func (r *run) addReading(next reading, settled *news) {
	if len(r.readings) < readingsAtMost {
		r.readings = append(r.readings, next)
		return
	}
	settled.postpone(next.entry, r.later(next.q, next.entry.Entry, r.Now()).next.Due)
}

// release makes due again what the run took and did not look up.
func (r *run) release(ctx context.Context) {
	r.picking.Lock()
	defer r.picking.Unlock()
	for _, q := range r.queues {
		var settled news
		for _, g := range q.groups {
			for _, e := range g.due {
				settled.postpone(e, following(e.Entry).Due)
			}
			g.due = nil
		}
		for i, next := range r.readings {
			switch {
			case next.q != q:
			case i < r.read: // the next run can read them
				settled.postpone(next.entry, following(next.entry.Entry).Due)
			default:
				settled.postpone(next.entry, r.later(q, next.entry.Entry, r.Now()).next.Due)
			}
		}
		r.store(ctx, q, &settled)
	}
	r.readings = nil
}
