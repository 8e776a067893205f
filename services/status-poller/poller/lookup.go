package poller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	oteltrace "go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

const (
	// detailsEvery is how often the details of an order are fetched that does not move: a split need not change the code of
	// the document that was split.
	detailsEvery = time.Hour
	// documentsPerOrder is the most documents that one order may be spread over.
	documentsPerOrder = 100
)

// group is the due orders of one warehouse.
type group struct {
	code string
	wh   warehouse.OrderReader // nil if err
	err  error
	due  []ledger.Entry
	// early are orders that come next. They fill up the last call, so orders that came due at different ticks share a
	// call from then on.
	early []ledger.Entry
}

// room is for how many early orders the last call has room.
func (g *group) room() int {
	if g.err != nil {
		return 0
	}
	most := g.wh.Limits().Find
	return (most - len(g.due)%most) % most
}

// lookUpDue looks up all due orders, as far as the run's time and the quota allow. The rest is due at the next tick, the
// most overdue first.
func (r *run) lookUpDue(ctx context.Context) {
	due, err := r.Ledger.Due(ctx, r.seller.Name(), kindName, r.began, perRun)
	if err != nil {
		r.failures = append(r.failures, err)
		return
	}
	groups := r.byWarehouse(due)
	if err := r.addEarly(ctx, groups, len(due)); err != nil {
		r.failures = append(r.failures, err)
		return
	}
	for _, g := range groups {
		if r.done(ctx) {
			return
		}
		r.lookUpWarehouse(ctx, g)
	}
}

// byWarehouse opens the warehouses of due orders, in the order in which they come.
func (r *run) byWarehouse(due []ledger.Entry) (groups []*group) {
	of := map[string]*group{}
	for _, e := range due {
		g := of[e.Warehouse]
		if g == nil {
			g = &group{code: e.Warehouse}
			g.wh, g.err = r.Open(r.seller, g.code, quota.Status)
			of[g.code], groups = g, append(groups, g)
		}
		g.due = append(g.due, e)
	}
	return groups
}

// addEarly adds the orders that come next, as far as calls have room; due is how many are due.
func (r *run) addEarly(ctx context.Context, groups []*group, due int) error {
	of, room := map[string]*group{}, 0
	for _, g := range groups {
		of[g.code] = g
		room += g.room()
	}
	if room == 0 {
		return nil
	}
	more, err := r.Ledger.Due(ctx, r.seller.Name(), kindName, r.began.Add(r.FollowFor), due+room)
	if err != nil {
		return err
	}
	for _, e := range more {
		g := of[e.Warehouse]
		if g != nil && following(e).Due.After(r.began) && len(g.early) < g.room() {
			g.early = append(g.early, e)
		}
	}
	return nil
}

// lookUpWarehouse looks up the due orders of one warehouse, and its early ones.
func (r *run) lookUpWarehouse(ctx context.Context, g *group) {
	code, wh, entries := g.code, g.wh, g.due
	if g.err != nil {
		r.postpone(ctx, g.err, entries)
		return
	}
	key := r.seller.Name() + "/" + code
	if r.batchRefused(key) {
		r.lookUpEach(ctx, wh, entries)
		return
	}
	for batch := range slices.Chunk(slices.Concat(entries, g.early), wh.Limits().Find) {
		if r.done(ctx) {
			return
		}
		numbers := make([]string, len(batch))
		for i, e := range batch {
			numbers[i] = e.Key.No
		}
		found, err := wh.FindOrders(ctx, numbers)
		r.Metrics.Lookups.WithLabelValues("batch").Inc()
		if errors.Is(err, warehouse.ErrNotPermitted) {
			r.rememberBatchRefused(key)
			r.standing = append(r.standing, fmt.Sprintf("warehouse %s refuses the batch call; orders are fetched one by one for %s: %v", code, batchRefusedFor, err))
			r.lookUpEach(ctx, wh, entries)
			return
		}
		r.feedBreaker(err)
		if err != nil {
			r.postpone(ctx, err, batch)
			return
		}
		r.applyBatch(ctx, wh, batch, found)
	}
}

// applyBatch sorts the orders of one call into missing, unchanged, and those whose details it fetches.
func (r *run) applyBatch(ctx context.Context, wh warehouse.OrderReader, batch []ledger.Entry, found map[string]warehouse.Found) {
	var still []move // they lead to no event, so they can be written at once
	var full []ledger.Entry
	var numbers [][]string
	for _, e := range batch {
		f, ok := found[e.Key.No]
		ok = ok && (!otherIdentity(wh, e) || slices.Contains(documents(e, warehouse.Found{}), f.WarehouseNo) || slices.Contains(f.Others, e.Number))
		if ok && r.needsDetails(e, f) {
			full = append(full, e)
			numbers = append(numbers, documents(e, f))
			continue
		}
		if !ok {
			r.noteMissing(wh, e)
		}
		if m := r.unchanged(e); m.next.Due.IsZero() {
			r.moves = append(r.moves, m)
		} else {
			still = append(still, m)
		}
	}
	if err := r.writeMoves(ctx, still); err != nil {
		r.failures = append(r.failures, err)
		r.stop = errEnough
		return
	}
	r.fetchDetails(ctx, wh, full, numbers)
}

// documents lists the numbers that belong to the order: the accepted one first, then those that the warehouse returned
// and those known from earlier look-ups.
func documents(e ledger.Entry, found warehouse.Found) []string {
	numbers := []string{e.Number}
	more := append([]string{found.WarehouseNo}, found.Others...)
	for _, n := range append(more, slices.Sorted(maps.Keys(stateOf(e).Children))...) {
		if n != "" && !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// needsDetails reports whether the details must be fetched: the order moved, has several documents, left and its shipping
// is not published yet, or its details are too old.
func (r *run) needsDetails(e ledger.Entry, f warehouse.Found) bool {
	known := stateOf(e)
	if f.State.Code != known.Code || len(documents(e, f)) > 1 {
		return true
	}
	if hasLeft(known.Status, r.seller.Setup.ShippedWhenPacked) && !known.Shipped {
		return true
	}
	since := known.StatusAt
	if since.IsZero() {
		since = e.FirstClaimedAt
	}
	return r.began.Sub(since)/detailsEvery > e.ChangedAt.Sub(since)/detailsEvery
}

// unchanged is the move of an order without news: it is due again later.
func (r *run) unchanged(e ledger.Entry) move {
	next := following(e)
	next.Due = r.nextDue(r.began, stateOf(e).Status)
	return r.endIfTooOld(move{e, e.State, next})
}

// otherIdentity reports whether the order was sent under another identity than today's. Then only the order's own
// document counts, and not finding it proves nothing.
func otherIdentity(wh warehouse.Identified, e ledger.Entry) bool {
	now := string(wh.Identity())
	return e.Identity != "" && now != "" && e.Identity != now
}

// noteMissing notes an accepted order that the warehouse does not know. Nothing is concluded from that.
func (r *run) noteMissing(wh warehouse.Identified, e ledger.Entry) {
	if otherIdentity(wh, e) {
		r.otherAccount = append(r.otherAccount, e.Key.No)
		return
	}
	r.Metrics.NotFound.Inc()
	r.missing = append(r.missing, e.Key.No)
}

// endIfTooOld stops following an order that is older than FollowFor and still open, and raises that.
func (r *run) endIfTooOld(m move) move {
	e := m.entry
	if m.next.Due.IsZero() || e.FirstClaimedAt.IsZero() || r.began.Sub(e.FirstClaimedAt) < r.FollowFor {
		return m
	}
	m.next.Due = time.Time{}
	reason := fault.Reason{
		Code: "follow.ended", RemoteCode: kind.StateOf[kind.Seen](ledger.Entry{Following: &m.next}).Code,
		ZH: fmt.Sprintf("出库单 %s 已跟踪 %s 仍未结束，已停止跟踪；请向仓库核实", e.Key.No, r.FollowFor),
		EN: fmt.Sprintf("%s was followed for %s and has not ended; it is no longer followed: look it up at the warehouse", e.Key.No, r.FollowFor),
	}
	r.raise(e, exception{e.Number, reason})
	return m
}

// raise publishes what needs a person, and makes the run return it.
func (r *run) raise(e ledger.Entry, x exception) {
	r.Metrics.Exceptions.WithLabelValues(x.reason.Code).Inc()
	r.exceptions = append(r.exceptions, fmt.Errorf("%s: %w", e.Key, x.reason))
	ev := x.event(e, r.began)
	ev.Trace = e.Trace
	r.events = append(r.events, ev)
}

// lookUpEach fetches the details of each order, where the warehouse does not permit the batch call.
func (r *run) lookUpEach(ctx context.Context, wh warehouse.OrderReader, entries []ledger.Entry) {
	entries = entries[:min(len(entries), singlesPerRun)]
	numbers := make([][]string, len(entries))
	for i, e := range entries {
		numbers[i] = documents(e, warehouse.Found{})
	}
	r.Metrics.Lookups.WithLabelValues("single").Add(float64(len(entries)))
	r.fetchDetails(ctx, wh, entries, numbers)
}

// fetchDetails fetches the details of orders and derives their events. numbers[i] are the known documents of entries[i].
func (r *run) fetchDetails(ctx context.Context, wh warehouse.OrderReader, entries []ledger.Entry, numbers [][]string) {
	outcomes := make([]*outcome, len(entries))
	errs := make([]error, len(entries))
	var group errgroup.Group
	group.SetLimit(detailsAtOnce)
	for i, e := range entries {
		group.Go(func() error {
			if r.done(ctx) {
				return nil
			}
			outcomes[i], errs[i] = r.fetchOne(ctx, wh, e, numbers[i])
			if fault.Of(errs[i]) == fault.Wait {
				r.stopWith(errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the goroutines return nothing

	for i, e := range entries {
		switch {
		case errors.Is(errs[i], errAllMissing):
			r.noteMissing(wh, e)
			r.moves = append(r.moves, r.unchanged(e))
		case errs[i] != nil:
			r.postpone(ctx, errs[i], entries[i:i+1])
		case outcomes[i] != nil:
			r.apply(e, *outcomes[i])
		}
	}
}

// fetchOne turns a panic into an error. It does not run in a handler's goroutine, where the bus recovers, and one
// unexpected answer must not crash the worker again and again.
func (r *run) fetchOne(ctx context.Context, wh warehouse.OrderReader, e ledger.Entry, numbers []string) (o *outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Str("order", e.Key.String()).Msg("fetching an order's details panicked")
			o, err = nil, fmt.Errorf("fetching the details of %s panicked: %v", e.Key, v)
		}
	}()
	traceparent := e.Trace
	if r.Tracer != nil && e.Trace != "" {
		var span oteltrace.Span
		ctx, span = r.Tracer.Start(trace.Below(ctx, e.Trace), "look at the order")
		defer span.End()
		traceparent = trace.Format(span.SpanContext())
	}
	docs, err := r.fetchDocuments(ctx, wh, numbers)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	news := progressOf(e, docs, r.seller.Setup.ShippedWhenPacked, r.began)
	for i := range news.events {
		news.events[i].Trace = traceparent
	}
	return &news, nil
}

// apply adds one order's outcome to the run.
func (r *run) apply(e ledger.Entry, o outcome) {
	r.events = append(r.events, o.events...)
	for _, x := range o.exceptions {
		r.raise(e, x)
	}
	next := ledger.Following{Numbers: o.waybills, State: kind.Stored(o.next)}
	if o.open {
		next.Due = r.nextDue(r.began, o.phase)
	}
	r.moves = append(r.moves, r.endIfTooOld(move{e, o.state, next}))
}

// errAllMissing says that the warehouse knows none of an order's documents.
var errAllMissing = errors.New("not known at the warehouse")

// fetchDocuments fetches the documents and all that they were split into. The accepted document comes first, each
// document before its children.
func (r *run) fetchDocuments(ctx context.Context, wh warehouse.OrderReader, numbers []string) ([]document, error) {
	var docs []document
	known := false
	for _, number := range numbers {
		for queue := []document{{number: number}}; len(queue) > 0; queue = queue[1:] {
			doc := queue[0]
			if slices.ContainsFunc(docs, func(d document) bool { return d.number == doc.number }) {
				continue
			}
			if len(docs) == documentsPerOrder {
				return nil, fmt.Errorf("order under %s is spread over more than %d documents", numbers[0], documentsPerOrder)
			}
			details, err := wh.OrderDetails(ctx, doc.number)
			r.Metrics.Details.Inc()
			if errors.Is(err, warehouse.ErrNotFound) {
				doc.missing, err = true, nil
			}
			r.feedBreaker(err)
			if err != nil {
				return nil, err
			}
			doc.Details = details
			docs = append(docs, doc)
			known = known || !doc.missing
			for _, child := range details.Children {
				queue = append(queue, document{number: child, splitOf: doc.number})
			}
		}
	}
	if !known {
		return nil, errAllMissing
	}
	return docs, nil
}

// postpone delays orders whose warehouse could not be called, so that they do not block others.
func (r *run) postpone(ctx context.Context, err error, entries []ledger.Entry) {
	switch fault.Of(err) {
	case fault.Wait:
		r.stopWith(err)
		return
	case fault.Held, fault.Refused:
		r.standing = append(r.standing, err.Error())
	default:
		r.failures = append(r.failures, err)
	}
	moves := make([]move, len(entries))
	for i, e := range entries {
		next := following(e)
		next.Due = r.nextDue(r.Now(), stateOf(e).Status)
		moves[i] = move{e, e.State, next}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
	defer cancel()
	if err := r.writeMoves(ctx, moves); err != nil {
		r.failures = append(r.failures, err)
	}
}

// stopWith makes the run start on no further orders, for the reason that the warehouse gave.
func (r *run) stopWith(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		r.stop = why
	}
}

// writeMoves writes moves to the ledger. It leaves an entry that somebody else changed meanwhile as it is.
func (r *run) writeMoves(ctx context.Context, moves []move) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writesAtOnce)
	for _, m := range moves {
		group.Go(func() error {
			err := r.Ledger.Follow(ctx, m.entry, m.state, m.next)
			if errors.Is(err, ledger.ErrVersion) || errors.Is(err, ledger.ErrNoEntry) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

func (p *Poller) batchRefused(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Now().Before(p.batchRefusedUntil[key])
}

func (p *Poller) rememberBatchRefused(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batchRefusedUntil[key] = p.Now().Add(batchRefusedFor)
}

// logStanding logs a seller's lasting problems, once, until they change.
func (r *run) logStanding() {
	lines := slices.Clone(r.standing)
	slices.Sort(r.missing) // so the same orders give the same text, whatever order they came in
	slices.Sort(r.otherAccount)
	if n := len(r.missing); n > 0 {
		lines = append(lines, fmt.Sprintf("%d accepted orders are not known at the warehouse, among them %s", n, strings.Join(r.missing[:min(n, 5)], " ")))
	}
	if n := len(r.otherAccount); n > 0 {
		lines = append(lines, fmt.Sprintf("%d accepted orders were sent under an earlier account and are not seen under today's, among them %s: "+
			"restore the earlier set-up, or follow them at the warehouse by hand", n, strings.Join(r.otherAccount[:min(n, 5)], " ")))
	}
	text := strings.Join(lines, "; ")
	r.Poller.mu.Lock()
	changed := r.lastWarning[r.seller.Name()] != text
	r.lastWarning[r.seller.Name()] = text
	r.Poller.mu.Unlock()
	if changed && text != "" {
		r.Log.Warn().Str("seller", r.seller.Name()).Err(errors.New(text)).Msg("some orders cannot be followed")
	}
}

func stateOf(e ledger.Entry) order.State { return kind.StateOf[order.State](e) }

// following is e's progress so far.
func following(e ledger.Entry) ledger.Following {
	if e.Following == nil {
		return ledger.Following{}
	}
	return *e.Following
}
