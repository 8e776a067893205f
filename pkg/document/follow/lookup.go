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

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
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

// news is what follows from one call: events, entries to be written once these are stored, and due times of documents without
// news.
type news struct {
	events []event.Event
	moves  []move
	later  map[time.Time][]ledger.Later // by until when they are taken
}

func (n *news) postpone(e taken, due time.Time) {
	if n.later == nil {
		n.later = map[time.Time][]ledger.Later{}
	}
	n.later[e.until] = append(n.later[e.until], ledger.Later{No: e.Key.No, Due: due})
}

// store stores what follows from a call. What cannot be stored is due again when it is no longer taken.
func (r *run) store(ctx context.Context, q *queue, n *news) {
	ctx = context.WithoutCancel(ctx)
	limited := func(do func(context.Context) error) bool {
		ctx, cancel := context.WithTimeout(ctx, writeFor)
		defer cancel()
		err := do(ctx)
		if err != nil {
			r.fail(err)
			r.stopWith(errEnough)
		}
		return err == nil
	}
	for until, later := range n.later {
		limited(func(ctx context.Context) error { return r.Ledger.Postpone(ctx, r.seller.Name(), q.Name, until, later) })
	}
	if len(n.events) > 0 && !limited(func(ctx context.Context) error { return r.Publish(ctx, n.events...) }) {
		return
	}
	if len(n.moves) > 0 {
		limited(func(ctx context.Context) error { return r.writeMoves(ctx, n.moves) })
	}
}

// list makes one call for documents of one kind at one warehouse, and settles what it says. It returns false when its worker is
// not to go on.
func (r *run) list(ctx context.Context, q *queue, g *group, batch []taken) (goOn bool) {
	var err error
	var settled news
	if g.ch.find == nil {
		err = r.readBatch(ctx, q, g, batch, &settled)
	} else {
		err = r.findBatch(ctx, q, g, batch, &settled)
	}
	switch {
	case err == nil:
		r.store(ctx, q, &settled)
		return true
	case g.ch.find != nil && errors.Is(err, warehouse.ErrNotPermitted):
		r.rememberBatchRefused(r.batchKey(q, g))
		r.failForLong(fmt.Sprintf("warehouse %s refuses the batch call; %ss are fetched one by one for %s: %v", g.code, q.EN, batchRefusedFor, err))
		r.readSingly(q, g, batch, &settled)
	case fault.Of(err) == fault.Wait:
		for _, e := range batch {
			settled.postpone(e, following(e.Entry).Due)
		}
		r.store(ctx, q, &settled)
		r.picking.Lock()
		q.more = true // these
		r.picking.Unlock()
		return r.mustWait(err)
	default:
		r.postpone(q, err, batch, &settled)
		r.giveUp(g, &settled)
	}
	r.store(ctx, q, &settled)
	return true
}

// readSingly lets a group's documents wait for a reading each.
func (r *run) readSingly(q *queue, g *group, batch []taken, settled *news) {
	r.picking.Lock()
	defer r.picking.Unlock()
	batch = append(batch, g.due...)
	g.due = nil
	for _, e := range batch {
		r.addReading(reading{q, g, e, q.documents(e.Entry, nil)}, settled)
	}
	r.Metrics.Lookups.WithLabelValues("single").Add(float64(len(batch)))
}

// giveUp makes no further list call to a group's warehouse in this run.
func (r *run) giveUp(g *group, settled *news) {
	r.picking.Lock()
	defer r.picking.Unlock()
	g.failed = true
	for _, e := range g.due {
		settled.postpone(e, r.began.Add(failedPause))
	}
	g.due = nil
}

// feedBreakerOnce is feedBreaker for list calls: those that fail together count once.
func (r *run) feedBreakerOnce(g *group, err error) {
	r.picking.Lock()
	failed := g.failed
	g.failed = failed || err != nil && (fault.Of(err) == fault.Transient || fault.Of(err) == fault.Unclear)
	r.picking.Unlock()
	if !failed {
		r.feedBreaker(err)
	}
}

// findBatch looks up documents by the ERP's numbers, and sorts them into missing, unchanged, and those that are to be read.
func (r *run) findBatch(ctx context.Context, q *queue, g *group, batch []taken, settled *news) error {
	nos := make([]string, len(batch))
	for i, e := range batch {
		nos[i] = e.Key.No
	}
	var found map[string][]document
	err := r.inTurn(ctx, func() (err error) {
		found, err = g.ch.find(ctx, nos)
		return err
	})
	r.Metrics.Lookups.WithLabelValues("batch").Inc()
	if errors.Is(err, warehouse.ErrNotPermitted) {
		return err
	}
	r.feedBreakerOnce(g, err)
	if err != nil {
		return err
	}
	var moved []reading
	for _, e := range batch {
		docs := found[e.Key.No]
		ok := len(docs) > 0
		if ok && otherIdentity(g.ch, e.Entry) {
			known := q.documents(e.Entry, nil)
			ok = slices.ContainsFunc(docs, func(d document) bool { return slices.Contains(known, d.Number) })
		}
		if ok && r.unread(q, e.Entry, docs) {
			moved = append(moved, reading{q, g, e, q.documents(e.Entry, docs)})
			continue
		}
		if !ok {
			r.noteMissing(q, g.ch, e.Entry)
		}
		r.unchanged(q, e, settled)
	}
	r.picking.Lock()
	defer r.picking.Unlock()
	for _, next := range moved {
		r.addReading(next, settled)
	}
	return nil
}

// readBatch reads documents by the warehouse's numbers, all in one call.
func (r *run) readBatch(ctx context.Context, q *queue, g *group, batch []taken, settled *news) error {
	accepted := make([]string, len(batch))
	for i, e := range batch {
		accepted[i] = e.Number
	}
	var docs map[string]document
	err := r.inTurn(ctx, func() (err error) {
		docs, err = g.ch.read(ctx, accepted)
		return err
	})
	r.Metrics.Lookups.WithLabelValues("batch").Inc()
	r.feedBreakerOnce(g, err)
	if err != nil {
		return err
	}
	for _, e := range batch {
		if d, ok := docs[e.Number]; ok && d.No != "" && d.No != e.Key.No && otherIdentity(g.ch, e.Entry) {
			delete(docs, e.Number) // that account's own
		}
	}
	answer := &answered{asked: accepted, docs: docs}
	for _, e := range batch {
		if err := r.readOne(ctx, reading{q, g, e, q.documents(e.Entry, nil)}, answer, settled); err != nil {
			r.stopWith(err)
		}
	}
	return nil
}

// readMoved reads one document, and settles what it says. It returns false when its worker is not to go on.
func (r *run) readMoved(ctx context.Context, next reading) (goOn bool) {
	var settled news
	wait := r.readOne(ctx, next, nil, &settled)
	r.store(ctx, next.q, &settled)
	if wait != nil {
		return r.mustWait(wait)
	}
	return true
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

// unchanged makes a document without news due again later.
func (r *run) unchanged(q *queue, e taken, settled *news) {
	m := r.later(q, e.Entry, r.Now())
	if ended := r.endIfTooOld(q, m, settled); ended.next.Due.IsZero() {
		settled.moves = append(settled.moves, ended)
		return
	}
	settled.postpone(e, m.next.Due)
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
	r.mu.Lock()
	defer r.mu.Unlock()
	if otherIdentity(wh, e) {
		q.otherAccount = append(q.otherAccount, e.Key.No)
		return
	}
	r.Metrics.NotFound.Inc()
	q.missing = append(q.missing, e.Key.No)
}

// endIfTooOld stops following a document that is older than FollowFor and still open, and raises that.
func (r *run) endIfTooOld(q *queue, m move, settled *news) move {
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
	r.raise(q, m.entry, kind.Exception{Documents: e.Number, Reason: reason}, settled)
	return m
}

// raise publishes what needs a person, and makes the run return it.
func (r *run) raise(q *queue, e ledger.Entry, x kind.Exception, settled *news) {
	r.Metrics.Exceptions.WithLabelValues(x.Reason.Code).Inc()
	ev := q.ExceptionEvent(e, x, r.began)
	ev.Trace = e.Trace
	settled.events = append(settled.events, ev)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exceptions = append(r.exceptions, fmt.Errorf("%s: %w", e.Key, x.Reason))
}

// answered is the answer to a call for several documents.
type answered struct {
	asked []string
	docs  map[string]document
}

// readOne reads a document and derives its events; batch has some of its documents already, or is nil. It returns a fault.Wait
// when the warehouse asks to wait; the document is then due again at once.
func (r *run) readOne(ctx context.Context, next reading, batch *answered, settled *news) (wait error) {
	q, e := next.q, next.entry
	outcome, err := r.derive(ctx, next, batch)
	switch {
	case errors.Is(err, errAllMissing):
		r.noteMissing(q, next.g.ch, e.Entry)
		r.unchanged(q, e, settled)
	case fault.Of(err) == fault.Wait:
		settled.postpone(e, following(e.Entry).Due)
		return err
	case err != nil:
		r.postpone(q, err, []taken{e}, settled)
	default:
		r.apply(q, e.Entry, *outcome, settled)
	}
	return nil
}

// derive turns a panic into an error: one unexpected answer must not delay all others again and again.
func (r *run) derive(ctx context.Context, next reading, batch *answered) (o *kind.Outcome, err error) {
	q, e := next.q, next.entry.Entry
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
	docs, err := r.readParts(ctx, q, next.g, next.numbers, batch)
	if err != nil {
		return nil, err
	}
	news := q.progress(e, docs, r.seller, r.began)
	for i := range news.Events {
		news.Events[i].Trace = traceparent
	}
	return &news, nil
}

// apply adds one document's outcome to what follows.
func (r *run) apply(q *queue, e ledger.Entry, o kind.Outcome, settled *news) {
	answered := q.answer(e, &o, r.began)
	settled.events = append(settled.events, o.Events...)
	for _, x := range o.Exceptions {
		r.raise(q, e, x, settled)
	}
	o.Following.Due = time.Time{}
	if o.Following.Phase != "" {
		o.Following.Due = r.nextDue(r.Now(), o.Following.Phase)
	}
	settled.moves = append(settled.moves, r.endIfTooOld(q, move{e, o.State, o.Following, answered}, settled))
}

// errAllMissing says that the warehouse knows none of an entry's documents.
var errAllMissing = errors.New("not known at the warehouse")

// readParts reads the documents and all that they were split into. The accepted document comes first, each document before
// its children.
func (r *run) readParts(ctx context.Context, q *queue, g *group, numbers []string, batch *answered) ([]part, error) {
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
func (r *run) readDocument(ctx context.Context, g *group, number string, batch *answered) (doc document, ok bool, err error) {
	if batch != nil && slices.Contains(batch.asked, number) {
		doc, ok = batch.docs[number]
		return doc, ok, nil
	}
	var docs map[string]document
	err = r.inTurn(ctx, func() (err error) {
		docs, err = g.ch.read(ctx, []string{number})
		return err
	})
	r.Metrics.Details.Inc()
	r.feedBreaker(err)
	doc, ok = docs[number]
	return doc, ok, err
}

// postpone delays documents whose warehouse could not be called, so that they do not block others.
func (r *run) postpone(q *queue, err error, entries []taken, settled *news) {
	switch fault.Of(err) {
	case fault.Held, fault.Refused:
		r.failForLong(err.Error())
	default:
		r.fail(err)
	}
	for _, e := range entries {
		settled.postpone(e, r.later(q, e.Entry, r.Now()).next.Due)
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
	if text == "" && r.listed+r.read == 0 {
		return // nothing was due
	}
	r.Follower.mu.Lock()
	changed := r.lastWarning[r.seller.Name()] != text
	r.lastWarning[r.seller.Name()] = text
	r.Follower.mu.Unlock()
	if changed && text != "" {
		r.Log.Warn().Str("seller", r.seller.Name()).Err(errors.New(text)).Msg("some documents cannot be followed")
	}
}
