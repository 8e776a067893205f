package reconciler

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// run is one tick of one seller.
type run struct {
	*Reconciler
	seller *seller.Seller
	began  time.Time

	report  Report
	version uint64
	// orders are those of the open list and those that were walked.
	orders map[string]*item
	// findings are those to write, nil for those to remove; marks name documents that need no second check.
	findings map[string]*Finding
	marks    []ledger.Mark
	// knownFindings are those that are in the book by now, nil until they were read.
	knownFindings map[string]*Finding
	// events are what the run publishes.
	events []event.Event
	// walked: the walk reached the audits that are younger than the deadline.
	walked bool
	// wait is when to repeat the run; zero when nothing is left to do.
	wait time.Duration
}

// item is an order that is being checked.
type item struct {
	evidence
	// settled: it needs nothing any longer; known: because the ledger knows its document. done: its Reason is decided.
	settled, known, done bool
}

// take follows a decision, unless that asks for more.
func (o *item) take(s step) {
	switch s.do {
	case settle:
		o.settled, o.known = true, s.known
	case keepOpen:
		o.Reason, o.Detail, o.done = s.reason, s.detail, true
	}
}

func (r *run) all(ctx context.Context) error {
	if err := r.load(ctx); err != nil {
		return err
	}
	if err := r.walk(ctx); err != nil {
		return err
	}
	if err := r.resolve(ctx); err != nil {
		return err
	}
	if err := r.checkRefused(ctx); err != nil {
		return err
	}
	if err := r.readLists(ctx); err != nil {
		return err
	}
	if err := r.write(ctx); err != nil {
		return err
	}
	if r.wait > 0 {
		return fault.RetryAfter(r.wait, errors.New("more to check"))
	}
	return nil
}

// repeatAfter has the run repeated, at the earliest of the times asked for.
func (r *run) repeatAfter(after time.Duration) {
	if r.wait == 0 || after < r.wait {
		r.wait = after
	}
}

// outOfTime reports whether no further work may start.
func (r *run) outOfTime(ctx context.Context) bool {
	return ctx.Err() != nil || r.Now().Sub(r.began) >= readFor
}

func (r *run) load(ctx context.Context) error {
	report, t, err := readHead(ctx, r.Ledger, r.seller.Name())
	if err != nil {
		return err
	}
	if t.MayBeOlder(report.EpochSince) && (report.Cursor.Seq > 0 || report.Cursor.streamIndex() > 0) {
		report.Sweep = &Sweep{To: report.Cursor.Seq, Stream: report.Cursor.Stream}
	}
	report.EpochSince = t.EpochSince
	r.report, r.version = report, t.Version
	open, err := ReadOpen(ctx, r.Ledger, r.seller.Name())
	if err != nil {
		return err
	}
	r.orders = make(map[string]*item, len(open))
	for _, o := range open {
		if o.Outcome != "" && o.OutcomeAt.IsZero() { // written by an earlier build with a bare number, which means nothing in another stream
			o.Outcome, o.ReadTo = "", 0
		}
		r.orders[o.OutboundNo] = &item{evidence: evidence{Order: o, previous: o.Reason}}
	}
	return nil
}

// number is the form of an outbound number; see order.v1.Audited. An audit without one was refused as it came.
var number = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

var errStop = errors.New("the run ends here")

// walk takes the audits behind the cursor that are old enough, and then, with the room that is left, those before it
// that are walked again.
func (r *run) walk(ctx context.Context) error {
	err := r.walkOnce(ctx)
	if errors.Is(err, errRestored) {
		r.restartWalk()
		err = r.walkOnce(ctx)
	}
	return err
}

// restartWalk begins the walk from the start.
func (r *run) restartWalk() {
	r.Log.Warn().Str("seller", r.seller.Name()).Uint64("cursor", r.report.Cursor.Seq).Msg("the stream of orders was restored; walking it from its beginning")
	r.report.Cursor, r.report.Sweep = Audit{}, nil
}

func (r *run) walkOnce(ctx context.Context) error {
	room := min(perRun, openAtMost-len(r.orders))
	if r.report.Full = room <= 0; r.report.Full {
		return nil
	}
	at, taken, ended, err := r.read(ctx, r.report.Cursor, nil, room)
	if err != nil {
		return err
	}
	r.report.Cursor, r.walked = at, ended
	if sweep := r.report.Sweep; ended && sweep != nil {
		if room -= taken; room > 0 {
			if sweep.At, _, ended, err = r.read(ctx, sweep.At, sweep.to(), room); err != nil {
				return err
			}
		}
		if r.walked = ended && room > 0; r.walked {
			r.report.Sweep = nil
		}
	}
	if !r.walked {
		r.repeatAfter(moreAfter)
	}
	return nil
}

// read takes at most room audits from behind at, up to the one to (nil: up to those that are too young). It returns
// the last that it took, how many, and whether none are left. errRestored: another message is stored at at.
func (r *run) read(ctx context.Context, at Audit, to *Audit, room int) (end Audit, taken int, ended bool, err error) {
	last := len(auditStreams()) - 1
	if to != nil {
		last = to.streamIndex()
	}
	for {
		var n int
		var why ending
		end, n, why, err = r.readStream(ctx, at, to, room-taken)
		taken += n
		if err != nil || why != streamEnded || end.streamIndex() >= last {
			return end, taken, why != noRoom, err
		}
		at = Audit{Stream: auditStreams()[end.streamIndex()+1]}
	}
}

// ending is why the walk through a stream ended.
type ending int

const (
	noRoom      ending = iota // or out of time
	gotThere                  // what follows is too young, or behind to
	streamEnded               // nothing follows
)

func (r *run) readStream(ctx context.Context, at Audit, to *Audit, room int) (end Audit, taken int, why ending, err error) {
	stream := at.place().Stream
	first, last, err := r.Bus.Bounds(ctx, stream)
	if err == nil && at.Seq > last {
		err = errRestored
	}
	if err != nil {
		return at, 0, noRoom, err
	}
	from, checked := at, at.Seq == 0 || at.Seq < first
	end, why = at, streamEnded
	q := bus.EventQuery{Names: []string{event.OrderAudited.Name}, Stream: stream, Seller: r.seller.Name(), From: at.Seq}
	err = r.Bus.Events(ctx, q, func(s bus.Stored) error {
		if !checked {
			if s.Seq != from.Seq || !s.At.Equal(from.Stored) {
				return errRestored
			}
			checked = true
			return nil
		}
		if r.began.Sub(s.At) < r.Deadline || to != nil && to.place().Stream == stream && s.Seq > to.Seq {
			why = gotThere
			return errStop
		}
		if taken == room || taken%100 == 99 && r.outOfTime(ctx) {
			why = noRoom
			return errStop
		}
		taken++
		end = Audit{s.Stream, s.Seq, s.At}
		r.addAudit(s)
		return nil
	})
	switch {
	case err == nil && !checked:
		return end, taken, noRoom, errRestored // nothing is stored there
	case errors.Is(err, errStop):
		err = nil
	}
	return end, taken, why, err
}

var errRestored = errors.New("the stream was restored")

// addAudit adds an audit from the stream.
func (r *run) addAudit(s bus.Stored) {
	m, err := bus.Decode(event.OrderAudited, s)
	if err != nil || m.GetSeller() != r.seller.Name() || !number.MatchString(m.GetOutboundNo()) {
		return // it was refused as it came, or belongs to another seller
	}
	o := r.orders[m.OutboundNo]
	if o == nil {
		o = &item{evidence: evidence{Order: Order{OutboundNo: m.OutboundNo, OrderNo: m.OrderNo, Shop: m.Shop, Warehouse: m.Warehouse}}}
		r.orders[m.OutboundNo] = o
	}
	o.addAudit(Audit{s.Stream, s.Seq, s.At})
}

// resolve reads what decisions about the orders need (see next), and has lost ones redelivered.
func (r *run) resolve(ctx context.Context) error {
	if err := r.readLedger(ctx); err != nil {
		return err
	}
	if err := r.readDeadLetters(ctx, r.needing(readLetters)); err != nil {
		return err
	}
	r.askWarehouses(ctx, r.needing(askWarehouse))
	if err := r.readOutcomes(ctx, r.needing(readOutcomes)); err != nil {
		return err
	}
	return r.redeliverAll(ctx, r.needing(redeliver))
}

// needing decides about the orders that are not decided yet, and returns those for which do is next.
func (r *run) needing(do action) (list []*item) {
	p := policy{Config: r.Config, now: r.began}
	if pause := r.seller.Pause; pause != nil {
		p.paused, p.pauseReason = true, pause.Reason
	}
	for _, o := range r.orders {
		if o.settled || o.done {
			continue
		}
		s := next(&o.evidence, p)
		if s.confirm {
			r.repeatAfter(r.ConfirmAfter)
		}
		if o.take(s); s.do == do {
			list = append(list, o)
		}
	}
	return list
}

func (r *run) readLedger(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(lookupsAtOnce)
	for _, o := range r.orders {
		if r.outOfTime(ctx) {
			o.postponed = true
			r.repeatAfter(moreAfter)
			continue
		}
		group.Go(func() error { return r.readEntry(ctx, o) })
	}
	return group.Wait()
}

// readEntry reads the ledger's entry.
func (r *run) readEntry(ctx context.Context, o *item) error {
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.seller.Name(), Kind: kind, No: o.OutboundNo})
	if errors.Is(err, ledger.ErrNoEntry) {
		o.entry = ledger.Entry{}
		return nil
	}
	if err != nil {
		return err
	}
	o.entry = entry
	return nil
}

const deadLetterPage = 10_000

// readDeadLetters finds what waits for a cause, for a person or for a retry.
func (r *run) readDeadLetters(ctx context.Context, list []*item) error {
	if len(list) == 0 {
		return nil
	}
	before, err := r.Bus.Backlog(ctx, audits())
	if err != nil {
		return err
	}
	of := make(map[string]*item, len(list))
	for _, o := range list {
		of[o.OutboundNo] = o
	}
	for _, kind := range []string{event.Held, event.Dead} {
		q := bus.DeadLetterQuery{Kind: kind, Consumer: pusherName, Seller: r.seller.Name(), Limit: deadLetterPage}
		for {
			letters, after, err := r.Bus.DeadLetters(ctx, q)
			if err != nil {
				return err
			}
			for _, l := range letters {
				if o := of[l.Key]; o != nil {
					o.addLetter(l)
				}
				for i := 0; l.Group != nil && i < len(list); i++ { // a group names no number
					list[i].addLetter(l)
				}
			}
			if after == 0 {
				break
			}
			q.After = after
		}
	}
	// What left the dead letters meanwhile is in the backlog by now.
	after, err := r.Bus.Backlog(ctx, audits())
	if err != nil {
		return err
	}
	for _, o := range list {
		o.lettersRead = true
		o.inBacklog = slices.ContainsFunc(o.Audits, func(a Audit) bool { return before.Has(a.place()) || after.Has(a.place()) })
	}
	return nil
}

// askWarehouses looks orders up at their warehouses.
func (r *run) askWarehouses(ctx context.Context, orders []*item) {
	by := map[string][]*item{}
	for _, o := range orders {
		by[o.Warehouse] = append(by[o.Warehouse], o)
	}
	for code, list := range by {
		wh, err := r.Open(r.seller, code, quota.Status)
		for len(list) > 0 {
			n := len(list)
			if err == nil {
				n = min(n, wh.FindLimit())
			}
			if r.outOfTime(ctx) {
				err = fault.RetryAfter(moreAfter, errStop)
			}
			var answer map[string][]order
			if err == nil {
				answer, err = r.findOrders(ctx, wh, list[:n])
			}
			for _, o := range list[:n] {
				_, there := answer[o.OutboundNo]
				switch {
				case err == nil && there:
					o.lookup = found
				case err == nil:
					o.lookup = notFound
				case fault.Of(err) == fault.Wait: // the quota is used up
					o.postponed = true
				default:
					o.lookup, o.lookupError = failed, fault.ReasonOf(err, "internal").Error()
				}
			}
			list = list[n:]
		}
		if fault.Of(err) == fault.Wait {
			r.repeatAfter(max(fault.After(err), moreAfter))
		}
	}
}

func (r *run) findOrders(ctx context.Context, wh warehouse.Finder[*orderv1.Shipped], list []*item) (map[string][]order, error) {
	nos := make([]string, len(list))
	for i, o := range list {
		nos[i] = o.OutboundNo
	}
	r.Metrics.Asked.Inc()
	return wh.Find(ctx, nos)
}

// outcomes are the events that say what became of an audit.
var outcomes = []string{
	event.OrderAccepted.Name, event.OrderHeld.Name, event.OrderFailed.Name, event.OrderShadowed.Name, event.OrderCancelled.Name,
	event.OrderDelivered.Name,
}

// readOutcomes reads the published outcomes of orders.
func (r *run) readOutcomes(ctx context.Context, list []*item) error {
	of, since := map[string]*item{}, time.Time{}
	for _, o := range list {
		of[o.OutboundNo] = o
		at := o.ReadUntil
		if at.IsZero() {
			at = o.first().Stored.Add(-clocksApart)
		}
		if since.IsZero() || at.Before(since) {
			since = at
		}
	}
	if len(of) == 0 {
		return nil
	}
	read, until, n := uint64(0), time.Time{}, 0
	err := r.Bus.Events(ctx, bus.EventQuery{Names: outcomes, Seller: r.seller.Name(), Since: since}, func(s bus.Stored) error {
		if n++; n%100 == 0 && r.outOfTime(ctx) {
			return errStop
		}
		read, until = s.Seq, s.At
		if o := of[s.Key]; o != nil && s.Seq > o.ReadTo {
			o.addOutcome(s)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	for _, o := range of {
		if read > o.ReadTo {
			o.ReadTo, o.ReadUntil = read, until
		}
		if o.outcomesRead = err == nil; !o.outcomesRead {
			o.postponed = true
			r.repeatAfter(moreAfter)
		}
	}
	return nil
}

// clocksApart is by how much the clocks of the servers that lead two streams may differ.
const clocksApart = time.Minute

// redeliverAll has the audits of lost orders redelivered.
func (r *run) redeliverAll(ctx context.Context, list []*item) error {
	var group errgroup.Group
	group.SetLimit(lookupsAtOnce)
	var mu sync.Mutex
	for _, o := range list {
		group.Go(func() error {
			soon, err := r.redeliver(ctx, o)
			mu.Lock()
			defer mu.Unlock()
			if soon {
				r.repeatAfter(r.ConfirmAfter)
			}
			return err
		})
	}
	return group.Wait()
}

// redeliver has an order's audit redelivered, and reports whether to check soon what came of it.
func (r *run) redeliver(ctx context.Context, o *item) (soon bool, err error) {
	if r.outOfTime(ctx) {
		o.postponed = true
		o.take(next(&o.evidence, policy{}))
		return true, nil
	}
	// The pusher may have been handling it until now.
	if err := r.readEntry(ctx, o); err != nil {
		return false, err
	}
	if s, settled := byLedger(o.entry); settled {
		o.take(s)
		return false, nil
	}
	a := o.auditToRedeliver()
	err = r.Bus.Redeliver(ctx, pusherName, a.place(), o.Tries+1, bus.By{Who: Name, Why: whyLost(&o.evidence)})
	if errors.Is(err, bus.ErrNotStored) {
		o.take(step{do: keepOpen, reason: Gone})
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o.Tries, o.TriedAt = o.Tries+1, r.began
	o.take(step{do: keepOpen, reason: Repairing})
	r.Metrics.Redelivered.Inc()
	return true, nil
}

func (r *run) write(ctx context.Context) error {
	// Write what was found even when the handler's own time is up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
	defer cancel()
	c := bookChanges{seller: r.seller.Name(), version: r.version, fields: map[string][]byte{}}
	for no, o := range r.orders {
		if o.closes(r.began) {
			if o.previous != "" {
				c.remove(no)
			}
			continue
		}
		if o.Reason != o.previous {
			o.Since = r.began
			r.log(o)
		}
		if err := c.set(o.Order); err != nil {
			return err
		}
	}
	if err := c.setFindings(r.findings); err != nil {
		return err
	}
	c.marks = r.marks
	report := summarize(r.report, r.orders, r.walked, r.began, r.Now())
	if n := report.Repaired - r.report.Repaired; n > 0 {
		r.Metrics.Repaired.Add(float64(n))
	}
	return c.write(ctx, r.Ledger, report, r.NewOwner)
}

// writeFor is for writing what a run found.
const writeFor = 10 * time.Second

// log reports what changed about an order that a person may have to handle.
func (r *run) log(o *item) {
	e := r.Log.Debug()
	switch {
	case !o.Reason.Explains():
		e = r.Log.Warn()
	case o.Reason == Repairing:
		e = r.Log.Info()
	}
	e.Str("seller", r.seller.Name()).Str("order", o.OutboundNo).Str("why", string(o.Reason)).Str("detail", o.Detail).
		Time("audited", o.First()).Int("tries", o.Tries).Msg("order is not settled")
}
