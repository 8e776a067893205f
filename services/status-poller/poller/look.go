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
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/trace"
	"stockbridge/pkg/warehouse"
)

const (
	// fullLookEvery: an order that does not move is asked about in full this often all the same, because a split need
	// not move the code of the document that was split.
	fullLookEvery = time.Hour
	// documentsPerOrder is the most documents that one order may be spread over.
	documentsPerOrder = 100
)

// look asks about all that is due, as far as the run's time and the quota go. What is left is due at the next tick,
// the longest due first.
func (r *run) look(ctx context.Context) {
	due, early, err := r.due(ctx)
	if err != nil {
		r.failures = append(r.failures, err)
		return
	}
	var codes []string
	groups := map[string][]ledger.Entry{}
	for _, e := range due {
		if _, known := groups[e.Warehouse]; !known {
			codes = append(codes, e.Warehouse)
		}
		groups[e.Warehouse] = append(groups[e.Warehouse], e)
	}
	for _, code := range codes {
		if r.done(ctx) {
			return
		}
		r.group(ctx, code, groups[code], early[code])
	}
}

// due reads the orders that are due, and by warehouse those that come next: they fill up the last call, so that orders
// which came due at different ticks go together from then on.
func (r *run) due(ctx context.Context) (due []ledger.Entry, early map[string][]ledger.Entry, err error) {
	due, err = r.Ledger.Due(ctx, r.seller.Name(), kind, r.began, perRun)
	if err != nil {
		return nil, nil, err
	}
	if len(due)%warehouse.FindLimit == 0 {
		return due, nil, nil
	}
	full := (len(due)/warehouse.FindLimit + 1) * warehouse.FindLimit
	more, err := r.Ledger.Due(ctx, r.seller.Name(), kind, r.began.Add(r.FollowFor), full)
	if err != nil {
		return nil, nil, err
	}
	early = map[string][]ledger.Entry{}
	for _, e := range more {
		if following(e).Due.After(r.began) {
			early[e.Warehouse] = append(early[e.Warehouse], e)
		}
	}
	return due, early, nil
}

// group asks one warehouse about what is due, and about early ones as far as calls have room.
func (r *run) group(ctx context.Context, code string, entries, early []ledger.Entry) {
	wh, err := r.Open(r.seller, code, warehouse.Status)
	if err != nil {
		r.fail(ctx, err, entries)
		return
	}
	key := r.seller.Name() + "/" + code
	if r.oneByOne(key) {
		r.singly(ctx, wh, entries)
		return
	}
	room := (warehouse.FindLimit - len(entries)%warehouse.FindLimit) % warehouse.FindLimit
	together := append(slices.Clone(entries), early[:min(room, len(early))]...)
	for batch := range slices.Chunk(together, warehouse.FindLimit) {
		if r.done(ctx) {
			return
		}
		numbers := make([]string, len(batch))
		for i, e := range batch {
			numbers[i] = e.Key.No
		}
		found, err := wh.FindOrders(ctx, numbers)
		r.Metrics.Looks.WithLabelValues("batch").Inc()
		if errors.Is(err, warehouse.ErrNotPermitted) {
			r.rememberOneByOne(key)
			r.standing = append(r.standing, fmt.Sprintf("warehouse %s refuses the batch call; orders are asked about one by one for %s: %v", code, singlesFor, err))
			r.singly(ctx, wh, entries)
			return
		}
		r.watch(err)
		if err != nil {
			r.fail(ctx, err, batch)
			return
		}
		r.batch(ctx, wh, batch, found)
	}
}

// batch sorts a batch into what is gone, what did not move, and what has to be asked about in full.
func (r *run) batch(ctx context.Context, wh warehouse.OrderReader, batch []ledger.Entry, found map[string]warehouse.Found) {
	var still []move // nothing is told of these, so nothing has to be stored before they are written
	var full []ledger.Entry
	var numbers [][]string
	for _, e := range batch {
		f, ok := found[e.Key.No]
		ok = ok && (!elsewhere(wh, e) || slices.Contains(documents(e, warehouse.Found{}), f.WarehouseNo) || slices.Contains(f.Others, e.Number))
		if ok && r.wantsAll(e, f) {
			full = append(full, e)
			numbers = append(numbers, documents(e, f))
			continue
		}
		if !ok {
			r.gone(wh, e)
		}
		if m := r.unmoved(e); m.next.Due.IsZero() {
			r.moves = append(r.moves, m)
		} else {
			still = append(still, m)
		}
	}
	if err := r.follow(ctx, still); err != nil {
		r.failures = append(r.failures, err)
		r.stop = errEnough
		return
	}
	r.inspect(ctx, wh, full, numbers)
}

// documents lists the numbers that belong to the order, the one that was accepted first: what the warehouse tells and
// what is known from earlier looks.
func documents(e ledger.Entry, found warehouse.Found) []string {
	numbers := []string{e.Number}
	more := append([]string{found.WarehouseNo}, found.Others...)
	for _, n := range append(more, slices.Sorted(maps.Keys(following(e).Children))...) {
		if n != "" && !slices.Contains(numbers, n) {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// wantsAll tells whether a look is not enough: the order moved, is spread over several documents, left without this
// being told yet, or has not been asked about in full for long.
func (r *run) wantsAll(e ledger.Entry, f warehouse.Found) bool {
	known := following(e)
	if f.State.Code != known.Code || len(documents(e, f)) > 1 {
		return true
	}
	if left(known.Status, r.seller.Setup.ShippedWhenPacked) && !known.Shipped {
		return true
	}
	since := known.StatusAt
	if since.IsZero() {
		since = e.FirstClaimedAt
	}
	return r.began.Sub(since)/fullLookEvery > e.ChangedAt.Sub(since)/fullLookEvery
}

// unmoved is looked at again later.
func (r *run) unmoved(e ledger.Entry) move {
	next := following(e)
	next.Due = r.next(r.began, next.Status)
	return r.orGiveUp(move{e, e.State, next})
}

// elsewhere tells whether the order was sent under another identity than that which is asked under now: only its own
// document counts then, and that it is not found proves nothing.
func elsewhere(wh warehouse.Identified, e ledger.Entry) bool {
	now := string(wh.Identity())
	return e.Identity != "" && now != "" && e.Identity != now
}

// gone: the ledger knows that the warehouse took it, the warehouse does not. Nothing is concluded from that.
func (r *run) gone(wh warehouse.Identified, e ledger.Entry) {
	if elsewhere(wh, e) {
		r.earlier = append(r.earlier, e.Key.No)
		return
	}
	r.Metrics.Absent.Inc()
	r.absent = append(r.absent, e.Key.No)
}

// orGiveUp ends the following of an order that is older than FollowFor and still open, visibly.
func (r *run) orGiveUp(m move) move {
	e := m.entry
	if m.next.Due.IsZero() || e.FirstClaimedAt.IsZero() || r.began.Sub(e.FirstClaimedAt) < r.FollowFor {
		return m
	}
	m.next.Due = time.Time{}
	reason := fault.Reason{
		Code: "follow.ended", RemoteCode: m.next.Code,
		ZH: fmt.Sprintf("出库单 %s 已跟踪 %s 仍未结束，已停止跟踪；请向仓库核实", e.Key.No, r.FollowFor),
		EN: fmt.Sprintf("%s was followed for %s and has not ended; it is no longer followed: look it up at the warehouse", e.Key.No, r.FollowFor),
	}
	r.except(e, exception{e.Number, reason})
	return m
}

// except tells the ERP what a person has to look at, and makes the run end with it.
func (r *run) except(e ledger.Entry, x exception) {
	r.Metrics.Exceptions.WithLabelValues(x.reason.Code).Inc()
	r.exceptions = append(r.exceptions, fmt.Errorf("%s: %w", e.Key, x.reason))
	told := x.event(e, r.began)
	told.Trace = e.Trace
	r.events = append(r.events, told)
}

// singly asks about each order in full, where the warehouse does not grant the batch call.
func (r *run) singly(ctx context.Context, wh warehouse.OrderReader, entries []ledger.Entry) {
	entries = entries[:min(len(entries), singlesPerRun)]
	numbers := make([][]string, len(entries))
	for i, e := range entries {
		numbers[i] = documents(e, warehouse.Found{})
	}
	r.Metrics.Looks.WithLabelValues("single").Add(float64(len(entries)))
	r.inspect(ctx, wh, entries, numbers)
}

// inspect asks about orders in full and works out what to tell. numbers[i] are the known documents of entries[i].
func (r *run) inspect(ctx context.Context, wh warehouse.OrderReader, entries []ledger.Entry, numbers [][]string) {
	outcomes := make([]*outcome, len(entries))
	errs := make([]error, len(entries))
	var group errgroup.Group
	group.SetLimit(detailsAtOnce)
	for i, e := range entries {
		group.Go(func() error {
			if r.done(ctx) {
				return nil
			}
			outcomes[i], errs[i] = r.inspectOne(ctx, wh, e, numbers[i])
			if fault.Of(errs[i]) == fault.Wait {
				r.halt(errs[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the goroutines return nothing

	for i, e := range entries {
		switch {
		case errors.Is(errs[i], errNone):
			r.gone(wh, e)
			r.moves = append(r.moves, r.unmoved(e))
		case errs[i] != nil:
			r.fail(ctx, errs[i], entries[i:i+1])
		case outcomes[i] != nil:
			r.take(e, *outcomes[i])
		}
	}
}

// inspectOne makes a panic an error: it runs in no handler's goroutine, where the bus would see to it, and one answer that
// nobody thought of must not end the worker again and again.
func (r *run) inspectOne(ctx context.Context, wh warehouse.OrderReader, e ledger.Entry, numbers []string) (o *outcome, err error) {
	defer func() {
		if v := recover(); v != nil {
			r.Log.Error().Interface("panic", v).Bytes("stack", debug.Stack()).Str("order", e.Key.String()).Msg("looking at an order panicked")
			o, err = nil, fmt.Errorf("looking at %s panicked: %v", e.Key, v)
		}
	}()
	traceparent := e.Trace
	if r.Tracer != nil && e.Trace != "" {
		var span oteltrace.Span
		ctx, span = r.Tracer.Start(trace.Below(ctx, e.Trace), "look at the order")
		defer span.End()
		traceparent = trace.Format(span.SpanContext())
	}
	docs, err := r.gather(ctx, wh, numbers)
	if err != nil || len(docs) == 0 {
		return nil, err
	}
	told := tell(e, docs, r.seller.Setup.ShippedWhenPacked, r.began)
	for i := range told.events {
		told.events[i].Trace = traceparent
	}
	return &told, nil
}

// take notes what is to be told and written of one order.
func (r *run) take(e ledger.Entry, o outcome) {
	r.events = append(r.events, o.events...)
	for _, x := range o.exceptions {
		r.except(e, x)
	}
	if o.open {
		o.next.Due = r.next(r.began, o.phase)
	}
	r.moves = append(r.moves, r.orGiveUp(move{e, o.state, o.next}))
}

// errNone: the warehouse knows none of an order's documents.
var errNone = errors.New("not known at the warehouse")

// gather asks for the documents and for all that they were split into. The accepted document and its children come
// first, so that what is known of old is found in its place among them.
func (r *run) gather(ctx context.Context, wh warehouse.OrderReader, numbers []string) ([]document, error) {
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
			r.watch(err)
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
		return nil, errNone
	}
	return docs, nil
}

// fail puts orders off whose warehouse could not be asked, so that they do not stand in the way of others.
func (r *run) fail(ctx context.Context, err error, entries []ledger.Entry) {
	switch fault.Of(err) {
	case fault.Wait:
		r.halt(err)
		return
	case fault.Held, fault.Refused:
		r.standing = append(r.standing, err.Error())
	default:
		r.failures = append(r.failures, err)
	}
	moves := make([]move, len(entries))
	for i, e := range entries {
		next := following(e)
		next.Due = r.next(r.Now(), next.Status)
		moves[i] = move{e, e.State, next}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
	defer cancel()
	if err := r.follow(ctx, moves); err != nil {
		r.failures = append(r.failures, err)
	}
}

// halt ends the taking of orders for the far side's own reason.
func (r *run) halt(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		r.stop = why
	}
}

// follow writes moves. One that somebody else was faster with is theirs.
func (r *run) follow(ctx context.Context, moves []move) error {
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

func (p *Poller) oneByOne(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Now().Before(p.singles[key])
}

func (p *Poller) rememberOneByOne(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.singles[key] = p.Now().Add(singlesFor)
}

// report logs what stays wrong with a seller, once, until it changes.
func (r *run) report() {
	lines := slices.Clone(r.standing)
	slices.Sort(r.absent) // the same ones are said once, in whatever order they came
	slices.Sort(r.earlier)
	if n := len(r.absent); n > 0 {
		lines = append(lines, fmt.Sprintf("%d accepted orders are not known at the warehouse, among them %s", n, strings.Join(r.absent[:min(n, 5)], " ")))
	}
	if n := len(r.earlier); n > 0 {
		lines = append(lines, fmt.Sprintf("%d accepted orders were sent under an earlier account and are not seen under today's, among them %s: "+
			"put the earlier set-up back, or follow them at the warehouse by hand", n, strings.Join(r.earlier[:min(n, 5)], " ")))
	}
	text := strings.Join(lines, "; ")
	r.Poller.mu.Lock()
	changed := r.warned[r.seller.Name()] != text
	r.warned[r.seller.Name()] = text
	r.Poller.mu.Unlock()
	if changed && text != "" {
		r.Log.Warn().Str("seller", r.seller.Name()).Err(errors.New(text)).Msg("some orders cannot be followed")
	}
}

// following is what is known of e. Its map is e's own: clone it before writing.
func following(e ledger.Entry) ledger.Following {
	if e.Following == nil {
		return ledger.Following{}
	}
	return *e.Following
}
