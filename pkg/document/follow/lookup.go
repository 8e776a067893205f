package follow

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	oteltrace "go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

const (
	// readEvery is how often a document is read that does not move: a split need not change the code of the document that
	// was split.
	readEvery = time.Hour
	// partsAtMost is the most documents of the warehouse that one of the ERP's may be spread over.
	partsAtMost = 100
)

// queue is what a run does for one kind.
type queue struct {
	Kind
	groups []*group
	// missing are accepted documents that the warehouse does not know; otherAccount are those of them that were sent under
	// another identity than today's.
	missing, otherAccount []string
}

// group is the due documents of one kind at one warehouse.
type group struct {
	code string
	ch   channel // unset if err
	err  error
	due  []ledger.Entry
	// early are documents that come next. They fill up the last call, so documents that came due at different ticks share a
	// call from then on.
	early []ledger.Entry
}

// room is for how many early documents the last call has room.
func (g *group) room() int {
	if g.err != nil {
		return 0
	}
	return (g.ch.perCall - len(g.due)%g.ch.perCall) % g.ch.perCall
}

// lookUpDue looks up all due documents, as far as the run's time and the quota allow. The rest is due at the next tick, the
// most overdue first. The kinds take turns, a call each.
func (r *run) lookUpDue(ctx context.Context) {
	if err := r.enqueue(ctx); err != nil {
		r.failures = append(r.failures, err)
		return
	}
	turns := slices.Clone(r.queues)
	for len(turns) > 0 {
		for _, q := range turns {
			if len(q.groups) == 0 {
				continue
			}
			if r.done(ctx) {
				return
			}
			if more := r.lookUp(ctx, q, q.groups[0]); !more {
				q.groups = q.groups[1:]
			}
		}
		turns = slices.DeleteFunc(turns, func(q *queue) bool { return len(q.groups) == 0 })
	}
}

// enqueue reads what is due of each kind. The kind with the most overdue document has the first turn: a run may end after
// one.
func (r *run) enqueue(ctx context.Context) error {
	due := make([][]ledger.Entry, len(r.Kinds))
	for i, k := range r.Kinds {
		var err error
		if due[i], err = r.Ledger.Due(ctx, r.seller.Name(), k.Name, r.began, perRun); err != nil {
			return err
		}
	}
	share(due, perRun)
	var since []time.Time
	for i, k := range r.Kinds {
		if len(due[i]) == 0 {
			continue
		}
		q := &queue{Kind: k, groups: r.byWarehouse(k, due[i])}
		if err := r.addEarly(ctx, q, len(due[i])); err != nil {
			return err
		}
		first := following(due[i][0]).Due
		at, _ := slices.BinarySearchFunc(since, first, time.Time.Compare)
		since, r.queues = slices.Insert(since, at, first), slices.Insert(r.queues, at, q)
	}
	return nil
}

// share cuts the lists so that they have no more than most in all. None gets less than an equal share unless it has less.
func share(lists [][]ledger.Entry, most int) {
	byLength := make([]*[]ledger.Entry, len(lists))
	for i := range lists {
		byLength[i] = &lists[i]
	}
	slices.SortStableFunc(byLength, func(a, b *[]ledger.Entry) int { return len(*a) - len(*b) })
	for i, list := range byLength {
		*list = (*list)[:min(len(*list), most/(len(byLength)-i))]
		most -= len(*list)
	}
}

// byWarehouse opens the warehouses of due documents, in the order in which they come.
func (r *run) byWarehouse(k Kind, due []ledger.Entry) (groups []*group) {
	of := map[string]*group{}
	for _, e := range due {
		g := of[e.Warehouse]
		if g == nil {
			g = &group{code: e.Warehouse}
			g.ch, g.err = r.open(k, g.code)
			of[g.code], groups = g, append(groups, g)
		}
		g.due = append(g.due, e)
	}
	return groups
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

// addEarly adds the documents that come next, as far as calls have room; due is how many are due.
func (r *run) addEarly(ctx context.Context, q *queue, due int) error {
	of, room := map[string]*group{}, 0
	for _, g := range q.groups {
		of[g.code] = g
		room += g.room()
	}
	if room == 0 {
		return nil
	}
	more, err := r.Ledger.Due(ctx, r.seller.Name(), q.Name, r.began.Add(r.FollowFor), due+room)
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

// lookUp makes one call for documents of one kind at one warehouse, and reads those that moved. It reports whether there is
// more to do there in this run.
func (r *run) lookUp(ctx context.Context, q *queue, g *group) (more bool) {
	if g.err != nil {
		r.postpone(ctx, q, g.err, g.due)
		return false
	}
	key := r.seller.Name() + "/" + g.code + "/" + q.Name
	if g.ch.find != nil && r.batchRefused(key) {
		r.readEach(ctx, q, g, g.due)
		return false
	}
	due := g.due[:min(len(g.due), g.ch.perCall)]
	batch := slices.Clone(due)
	if len(due) == len(g.due) {
		batch = append(batch, g.early...)
	}
	var err error
	if g.ch.find == nil {
		err = r.readBatch(ctx, q, g, batch)
	} else {
		err = r.findBatch(ctx, q, g, batch)
	}
	if g.ch.find != nil && errors.Is(err, warehouse.ErrNotPermitted) {
		r.rememberBatchRefused(key)
		r.standing = append(r.standing, fmt.Sprintf("warehouse %s refuses the batch call; %ss are fetched one by one for %s: %v", g.code, q.EN, batchRefusedFor, err))
		r.readEach(ctx, q, g, g.due)
		return false
	}
	if err != nil {
		r.postpone(ctx, q, err, batch)
		return false
	}
	g.due = g.due[len(due):]
	return len(g.due) > 0
}

// findBatch looks up documents by the ERP's numbers, and reads those that moved.
func (r *run) findBatch(ctx context.Context, q *queue, g *group, batch []ledger.Entry) error {
	nos := make([]string, len(batch))
	for i, e := range batch {
		nos[i] = e.Key.No
	}
	found, err := g.ch.find(ctx, nos)
	r.Metrics.Lookups.WithLabelValues("batch").Inc()
	if errors.Is(err, warehouse.ErrNotPermitted) {
		return err
	}
	r.feedBreaker(err)
	if err != nil {
		return err
	}
	r.applyFound(ctx, q, g, batch, found)
	return nil
}

// readBatch reads documents by the warehouse's numbers, all in one call.
func (r *run) readBatch(ctx context.Context, q *queue, g *group, batch []ledger.Entry) error {
	numbers := make([][]string, len(batch))
	accepted := make([]string, len(batch))
	for i, e := range batch {
		numbers[i], accepted[i] = q.documents(e, nil), e.Number
	}
	docs, err := g.ch.read(ctx, accepted)
	r.Metrics.Lookups.WithLabelValues("batch").Inc()
	r.feedBreaker(err)
	if err != nil {
		return err
	}
	for _, e := range batch {
		if d, ok := docs[e.Number]; ok && d.No != "" && d.No != e.Key.No && otherIdentity(g.ch, e) {
			delete(docs, e.Number) // that account's own
		}
	}
	r.read(ctx, q, g, batch, numbers, &reading{asked: accepted, docs: docs})
	return nil
}

// applyFound sorts the documents of one call into missing, unchanged, and those that it reads.
func (r *run) applyFound(ctx context.Context, q *queue, g *group, batch []ledger.Entry, found map[string][]document) {
	var still []move // they lead to no event, so they can be written at once
	var moved []ledger.Entry
	var numbers [][]string
	for _, e := range batch {
		docs := found[e.Key.No]
		ok := len(docs) > 0
		if ok && otherIdentity(g.ch, e) {
			known := q.documents(e, nil)
			ok = slices.ContainsFunc(docs, func(d document) bool { return slices.Contains(known, d.Number) })
		}
		if ok && r.unread(q, e, docs) {
			moved = append(moved, e)
			numbers = append(numbers, q.documents(e, docs))
			continue
		}
		if !ok {
			r.noteMissing(q, g.ch, e)
		}
		if m := r.unchanged(q, e); m.next.Due.IsZero() {
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
	r.read(ctx, q, g, moved, numbers, nil)
}

// unread reports whether a document must be read: there are several, somebody waits for its cancellation, its kind says so,
// or it was not read for too long.
func (r *run) unread(q *queue, e ledger.Entry, found []document) bool {
	if len(q.documents(e, found)) > 1 || e.Cancel != nil || q.Kind.unread(e, found, r.seller) {
		return true
	}
	since := kind.StateOf[kind.Seen](e).StatusAt
	if since.IsZero() {
		since = e.FirstClaimedAt
	}
	return r.began.Sub(since)/readEvery > e.ChangedAt.Sub(since)/readEvery
}

// unchanged is the move of a document without news: it is due again later.
func (r *run) unchanged(q *queue, e ledger.Entry) move {
	return r.endIfTooOld(q, r.later(q, e, r.began))
}

// later is the move of a document that is looked up again, as seen from now.
func (r *run) later(q *queue, e ledger.Entry, now time.Time) move {
	next := following(e)
	next.Phase = q.phase(e)
	next.Due = r.nextDue(now, next.Phase)
	return move{entry: e, state: e.State, next: next}
}

// otherIdentity reports whether the document was sent under another identity than today's. Then only its own document at the
// warehouse counts, and not finding it proves nothing.
func otherIdentity(wh warehouse.Identified, e ledger.Entry) bool {
	now := string(wh.Identity())
	return e.Identity != "" && now != "" && e.Identity != now
}

// noteMissing notes an accepted document that the warehouse does not know. Nothing is concluded from that.
func (r *run) noteMissing(q *queue, wh warehouse.Identified, e ledger.Entry) {
	if otherIdentity(wh, e) {
		q.otherAccount = append(q.otherAccount, e.Key.No)
		return
	}
	r.Metrics.NotFound.Inc()
	q.missing = append(q.missing, e.Key.No)
}

// endIfTooOld stops following a document that is older than FollowFor and still open, and raises that.
func (r *run) endIfTooOld(q *queue, m move) move {
	e := m.entry
	if m.next.Due.IsZero() || e.FirstClaimedAt.IsZero() || r.began.Sub(e.FirstClaimedAt) < r.FollowFor {
		return m
	}
	m.next.Due = time.Time{}
	e.Following = &m.next
	reason := fault.Reason{
		Code: "follow.ended", RemoteCode: kind.StateOf[kind.Seen](e).Code,
		ZH: fmt.Sprintf("%s %s 已跟踪 %s 仍未结束，已停止跟踪；请向仓库核实", strings.TrimSuffix(q.NoZH, "号"), e.Key.No, r.FollowFor),
		EN: fmt.Sprintf("%s was followed for %s and has not ended; it is no longer followed: look it up at the warehouse", e.Key.No, r.FollowFor),
	}
	r.raise(q, m.entry, kind.Exception{Documents: e.Number, Reason: reason})
	return m
}

// raise publishes what needs a person, and makes the run return it.
func (r *run) raise(q *queue, e ledger.Entry, x kind.Exception) {
	r.Metrics.Exceptions.WithLabelValues(x.Reason.Code).Inc()
	r.exceptions = append(r.exceptions, fmt.Errorf("%s: %w", e.Key, x.Reason))
	ev := q.ExceptionEvent(e, x, r.began)
	ev.Trace = e.Trace
	r.events = append(r.events, ev)
}

// readEach reads each document, where the warehouse does not permit the batch call.
func (r *run) readEach(ctx context.Context, q *queue, g *group, entries []ledger.Entry) {
	entries = entries[:min(len(entries), singlesPerRun)]
	numbers := make([][]string, len(entries))
	for i, e := range entries {
		numbers[i] = q.documents(e, nil)
	}
	r.Metrics.Lookups.WithLabelValues("single").Add(float64(len(entries)))
	r.read(ctx, q, g, entries, numbers, nil)
}

// reading is the answer to a call for several documents.
type reading struct {
	asked []string
	docs  map[string]document
}

// read reads documents and derives their events. numbers[i] are the known documents of entries[i]; batch has some of them
// already, or is nil.
func (r *run) read(ctx context.Context, q *queue, g *group, entries []ledger.Entry, numbers [][]string, batch *reading) {
	outcomes := make([]*kind.Outcome, len(entries))
	errs := make([]error, len(entries))
	var group errgroup.Group
	group.SetLimit(detailsAtOnce)
	for i, e := range entries {
		group.Go(func() error {
			if batch == nil && r.done(ctx) {
				return nil
			}
			outcomes[i], errs[i] = r.readOne(ctx, q, g, e, numbers[i], batch)
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
			r.noteMissing(q, g.ch, e)
			r.moves = append(r.moves, r.unchanged(q, e))
		case errs[i] != nil:
			r.postpone(ctx, q, errs[i], entries[i:i+1])
		case outcomes[i] != nil:
			r.apply(q, e, *outcomes[i])
		}
	}
}

// readOne turns a panic into an error. It does not run in a handler's goroutine, where the bus recovers, and one
// unexpected answer must not crash the worker again and again.
func (r *run) readOne(ctx context.Context, q *queue, g *group, e ledger.Entry, numbers []string, batch *reading) (o *kind.Outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Str(q.Name, e.Key.String()).Msg("reading a document panicked")
			o, err = nil, fmt.Errorf("reading %s panicked: %v", e.Key, v)
		}
	}()
	traceparent := e.Trace
	if r.Tracer != nil && e.Trace != "" && batch == nil {
		var span oteltrace.Span
		ctx, span = r.Tracer.Start(trace.Below(ctx, e.Trace), "look at the "+q.EN)
		defer span.End()
		traceparent = trace.Format(span.SpanContext())
	}
	docs, err := r.readParts(ctx, q, g, numbers, batch)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	news := q.progress(e, docs, r.seller, r.began)
	for i := range news.Events {
		news.Events[i].Trace = traceparent
	}
	return &news, nil
}

// apply adds one document's outcome to the run.
func (r *run) apply(q *queue, e ledger.Entry, o kind.Outcome) {
	answered := q.answer(e, &o, r.began)
	r.events = append(r.events, o.Events...)
	for _, x := range o.Exceptions {
		r.raise(q, e, x)
	}
	o.Following.Due = time.Time{}
	if o.Following.Phase != "" {
		o.Following.Due = r.nextDue(r.began, o.Following.Phase)
	}
	r.moves = append(r.moves, r.endIfTooOld(q, move{e, o.State, o.Following, answered}))
}

// errAllMissing says that the warehouse knows none of an entry's documents.
var errAllMissing = errors.New("not known at the warehouse")

// readParts reads the documents and all that they were split into. The accepted document comes first, each document before
// its children.
func (r *run) readParts(ctx context.Context, q *queue, g *group, numbers []string, batch *reading) ([]part, error) {
	var parts []part
	known := false
	for _, number := range numbers {
		for todo := []part{partOf(number, "")}; len(todo) > 0; todo = todo[1:] {
			p := todo[0]
			if slices.ContainsFunc(parts, func(d part) bool { return d.Number == p.Number }) {
				continue
			}
			if len(parts) == partsAtMost {
				return nil, fmt.Errorf("%s under %s is spread over more than %d documents", q.EN, numbers[0], partsAtMost)
			}
			doc, ok, err := r.readDocument(ctx, g, p.Number, batch)
			if err != nil {
				return nil, err
			}
			p.Missing = !ok
			if doc.Err != nil {
				return nil, fault.Permanent(fmt.Errorf("%s %s cannot be understood, have it looked at there: %w", q.EN, p.Number, doc.Err))
			}
			if ok {
				doc.Number, p.Document = p.Number, doc
			}
			parts = append(parts, p)
			known = known || ok
			for _, child := range p.Children {
				todo = append(todo, partOf(child, p.Number))
			}
		}
	}
	if !known {
		return nil, errAllMissing
	}
	return parts, nil
}

func partOf(number, splitOf string) part {
	return part{Document: document{Number: number}, SplitOf: splitOf}
}

// readDocument is one document: from batch if it was asked for there. ok is false when the warehouse does not know it.
func (r *run) readDocument(ctx context.Context, g *group, number string, batch *reading) (doc document, ok bool, err error) {
	if batch != nil && slices.Contains(batch.asked, number) {
		doc, ok = batch.docs[number]
		return doc, ok, nil
	}
	docs, err := g.ch.read(ctx, []string{number})
	r.Metrics.Details.Inc()
	r.feedBreaker(err)
	doc, ok = docs[number]
	return doc, ok, err
}

// postpone delays documents whose warehouse could not be called, so that they do not block others.
func (r *run) postpone(ctx context.Context, q *queue, err error, entries []ledger.Entry) {
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
		moves[i] = r.later(q, e, r.Now())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
	defer cancel()
	if err := r.writeMoves(ctx, moves); err != nil {
		r.failures = append(r.failures, err)
	}
}

// stopWith makes the run start on no further documents, for the reason that the warehouse gave.
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
			err := r.write(ctx, m)
			if errors.Is(err, ledger.ErrVersion) || errors.Is(err, ledger.ErrNoEntry) {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

func (f *Follower) batchRefused(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Now().Before(f.batchRefusedUntil[key])
}

func (f *Follower) rememberBatchRefused(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batchRefusedUntil[key] = f.Now().Add(batchRefusedFor)
}

// logStanding logs a seller's lasting problems, once, until they change.
func (r *run) logStanding() {
	lines := slices.Clone(r.standing)
	queues := slices.SortedFunc(slices.Values(r.queues), func(a, b *queue) int { return strings.Compare(a.Name, b.Name) })
	for _, q := range queues {
		slices.Sort(q.missing) // so the same documents give the same text, whatever order they came in
		slices.Sort(q.otherAccount)
		if n := len(q.missing); n > 0 {
			lines = append(lines, fmt.Sprintf("%d accepted %ss are not known at the warehouse, among them %s", n, q.EN, strings.Join(q.missing[:min(n, 5)], " ")))
		}
		if n := len(q.otherAccount); n > 0 {
			lines = append(lines, fmt.Sprintf("%d accepted %ss were sent under an earlier account and are not seen under today's, among them %s: "+
				"restore the earlier set-up, or follow them at the warehouse by hand", n, q.EN, strings.Join(q.otherAccount[:min(n, 5)], " ")))
		}
	}
	text := strings.Join(lines, "; ")
	r.Follower.mu.Lock()
	changed := r.lastWarning[r.seller.Name()] != text
	r.lastWarning[r.seller.Name()] = text
	r.Follower.mu.Unlock()
	if changed && text != "" {
		r.Log.Warn().Str("seller", r.seller.Name()).Err(errors.New(text)).Msg("some documents cannot be followed")
	}
}
