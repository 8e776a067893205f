package reconciler

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
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
	Order
	// previous is the reason it had in the open list; "" when it was not there.
	previous Reason
	entry    ledger.Entry
	// settled: it needs nothing any longer; known: because the warehouse has it. done: its Reason is decided.
	settled, known, done bool
	atWarehouse          bool
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

func (r *run) load(ctx context.Context) (err error) {
	var epoch time.Time
	if r.report, r.version, epoch, err = readHead(ctx, r.Ledger, r.seller.Name()); err != nil {
		return err
	}
	if !epoch.Equal(r.report.EpochSince) && (r.report.Cursor.Seq > 0 || r.report.Cursor.streamIndex() > 0) {
		r.report.Sweep = &Sweep{To: r.report.Cursor.Seq, Stream: r.report.Cursor.Stream}
	}
	r.report.EpochSince = epoch
	open, err := ReadOpen(ctx, r.Ledger, r.seller.Name())
	if err != nil {
		return err
	}
	r.orders = make(map[string]*item, len(open))
	for _, o := range open {
		if o.Outcome != "" && o.OutcomeAt.IsZero() { // written by an earlier build with a bare number, which means nothing in another stream
			o.Outcome, o.ReadTo = "", 0
		}
		r.orders[o.OutboundNo] = &item{Order: o, previous: o.Reason}
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
		o = &item{Order: Order{OutboundNo: m.OutboundNo, OrderNo: m.OrderNo, Shop: m.Shop, Warehouse: m.Warehouse}}
		r.orders[m.OutboundNo] = o
	}
	o.addAudit(Audit{s.Stream, s.Seq, s.At})
}

// resolve finds out how each order stands, and has lost ones redelivered.
func (r *run) resolve(ctx context.Context) error {
	if err := r.readLedger(ctx); err != nil {
		return err
	}
	left := r.unresolved()
	if len(left) == 0 {
		return nil
	}
	if err := r.readDeadLetters(ctx, left); err != nil {
		return err
	}
	left = r.unresolved()
	r.askWarehouses(ctx, left)
	if err := r.readOutcomes(ctx); err != nil {
		return err
	}
	return r.decide(ctx)
}

// unresolved returns the orders of which nothing is known yet.
func (r *run) unresolved() (left []*item) {
	for _, o := range r.orders {
		if !o.settled && !o.done {
			left = append(left, o)
		}
	}
	return left
}

// setReason sets why an order is open.
func (o *item) setReason(reason Reason, detail string) {
	o.Reason, o.Detail, o.done = reason, detail, true
}

func (o *item) settle(known bool) { o.settled, o.known = true, known }

func (r *run) readLedger(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(lookupsAtOnce)
	for _, o := range r.orders {
		if r.outOfTime(ctx) {
			o.postpone()
			r.repeatAfter(moreAfter)
			continue
		}
		group.Go(func() error { return r.readEntry(ctx, o) })
	}
	return group.Wait()
}

// postpone leaves an order as it was, for the next run.
func (o *item) postpone() {
	if o.previous == "" {
		o.setReason(Confirming, "")
		return
	}
	o.done = true
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
	switch {
	case entry.State == ledger.Accepted || entry.State == ledger.Cancelled:
		o.settle(true)
	case entry.State == ledger.Refused, entry.Hash == ledger.Shadowed && entry.State == ledger.Unknown:
		o.settle(false)
	}
	return nil
}

const deadLetterPage = 10_000

// readDeadLetters finds what waits for a cause, for a person or for a retry.
func (r *run) readDeadLetters(ctx context.Context, left []*item) error {
	before, err := r.Bus.Backlog(ctx, pusherName)
	if err != nil {
		return err
	}
	of := make(map[string]*item, len(left))
	for _, o := range left {
		of[o.OutboundNo] = o
	}
	for _, kind := range []string{event.Held, event.Dead} {
		q := bus.DeadLetterQuery{Kind: kind, Consumer: pusherName, Seller: r.seller.Name(), Limit: deadLetterPage}
		for {
			items, next, err := r.Bus.DeadLetters(ctx, q)
			if err != nil {
				return err
			}
			for _, m := range items {
				o := of[m.Key]
				switch {
				case o == nil:
				case kind == event.Held:
					o.setReason(Held, m.Cause)
				case o.done, m.OriginSeq != o.last().Seq, m.Stream != o.last().place().Stream: // a later audit replaced it
				case m.Class == fault.Refused.String() && !o.entry.State.Live():
					o.settle(false)
				default:
					o.setReason(DeadLettered, m.Reason.Code)
				}
			}
			if next == 0 {
				break
			}
			q.After = next
		}
	}
	// What left the dead letters meanwhile is in the backlog by now.
	after, err := r.Bus.Backlog(ctx, pusherName)
	if err != nil {
		return err
	}
	for _, o := range left {
		if o.settled || o.done {
			continue
		}
		if r.began.Sub(o.TriedAt) < 4*r.ConfirmAfter {
			r.repeatAfter(r.ConfirmAfter)
		}
		for _, a := range o.Audits {
			if before.Has(a.place()) || after.Has(a.place()) {
				o.setQueued()
			}
		}
		if since := o.unknownSince(); !since.IsZero() && r.began.Sub(since) < r.UnknownFor {
			o.setReason(Unknown, "")
		}
	}
	return nil
}

// setQueued notes that an order waits for the pusher.
func (o *item) setQueued() {
	if o.Tries > 0 {
		o.setReason(Repairing, "")
		return
	}
	o.setReason(Queued, "")
}

// unknownSince is since when the outcome of a send has been unknown; zero when it is not.
func (o *item) unknownSince() time.Time {
	switch {
	case o.entry.State != ledger.Unknown && o.entry.State != ledger.Intent:
		return time.Time{}
	case !o.entry.UnknownSince.IsZero():
		return o.entry.UnknownSince
	default:
		return o.entry.ChangedAt
	}
}

// askWarehouses looks the orders up at the warehouses.
func (r *run) askWarehouses(ctx context.Context, left []*item) {
	by := map[string][]*item{}
	for _, o := range left {
		if o.settled || o.done {
			continue
		}
		if r.seller.Pause != nil {
			o.setReason(Paused, r.seller.Pause.Reason)
			continue
		}
		by[o.Warehouse] = append(by[o.Warehouse], o)
	}
	for code, list := range by {
		wh, err := r.Open(r.seller, code, warehouse.Status)
		for len(list) > 0 {
			n := min(len(list), warehouse.FindLimit)
			if r.outOfTime(ctx) {
				err = fault.RetryAfter(moreAfter, errStop)
			}
			var found map[string]warehouse.Found
			if err == nil {
				found, err = r.findOrders(ctx, wh, list[:n])
			}
			for _, o := range list[:n] {
				switch {
				case err == nil:
					_, o.atWarehouse = found[o.OutboundNo]
				case fault.Of(err) == fault.Wait: // the quota is used up
					o.postpone()
				default:
					o.setReason(Unasked, fault.ReasonOf(err, "internal").Error())
				}
			}
			list = list[n:]
		}
		if fault.Of(err) == fault.Wait {
			r.repeatAfter(max(fault.After(err), moreAfter))
		}
	}
}

func (r *run) findOrders(ctx context.Context, wh warehouse.OrderFinder, list []*item) (map[string]warehouse.Found, error) {
	nos := make([]string, len(list))
	for i, o := range list {
		nos[i] = o.OutboundNo
	}
	r.Metrics.Asked.Inc()
	return wh.FindOrders(ctx, nos)
}

// outcomes are the events that say what became of an audit.
var outcomes = []string{
	event.OrderAccepted.Name, event.OrderHeld.Name, event.OrderFailed.Name, event.OrderShadowed.Name, event.OrderCancelled.Name,
	event.OrderDelivered.Name,
}

// readOutcomes reads the published outcomes of orders that the warehouses do not have, and of those with several
// audits.
func (r *run) readOutcomes(ctx context.Context) error {
	of, since := map[string]*item{}, time.Time{}
	for _, o := range r.unresolved() {
		if o.atWarehouse && len(o.Audits) == 1 {
			continue
		}
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
		if err != nil {
			o.postpone()
			r.repeatAfter(moreAfter)
		}
	}
	return nil
}

// clocksApart is by how much the clocks of the servers that lead two streams may differ.
const clocksApart = time.Minute

// reusedCode is the reason of an audit whose number belongs to another content.
const reusedCode = "outbound.reused"

// finished reports whether a final event was published: the warehouse may have removed the order since.
func (o Order) finished() bool {
	return o.Outcome == event.OrderCancelled.Name || o.Outcome == event.OrderDelivered.Name
}

// addOutcome notes a published outcome. A later outcome of another content under the same number does not undo an
// acceptance.
func (o *item) addOutcome(s bus.Stored) {
	if strings.HasSuffix(s.ID, "/"+reusedCode) { // published as held while the first one lives, else as failed
		o.Reused = true
	}
	final := s.Name == event.OrderCancelled.Name || s.Name == event.OrderDelivered.Name
	if o.finished() || o.Outcome == event.OrderAccepted.Name && !final {
		return
	}
	o.Outcome, o.OutcomeAt = s.Name, s.At
}

// decide says what becomes of the orders that are left: the ledger does not know them, or their outcome has been
// unknown for too long.
func (r *run) decide(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(lookupsAtOnce)
	var mu sync.Mutex
	for _, o := range r.unresolved() {
		outcome := o.Outcome
		if outcome != event.OrderAccepted.Name && !o.finished() && o.OutcomeAt.Before(o.last().Stored) {
			outcome = "" // of an earlier audit
		}
		switch {
		case o.atWarehouse || outcome == "" || o.entry.State.Live():
			group.Go(func() error {
				soon, err := r.redeliver(ctx, o)
				mu.Lock()
				defer mu.Unlock()
				if soon {
					r.repeatAfter(r.ConfirmAfter)
				}
				return err
			})
		case outcome == event.OrderAccepted.Name:
			r.nameUnexplained(o, Absent, "")
		case outcome == event.OrderHeld.Name:
			r.nameUnexplained(o, Left, "")
		default: // failed, cancelled, delivered, shadowed
			o.settle(false)
		}
	}
	return group.Wait()
}

// nameUnexplained names an order that nothing explains if the previous run found the same: it may just have been
// moving from one place to another.
func (r *run) nameUnexplained(o *item, reason Reason, detail string) {
	if o.previous == reason || o.previous == Confirming {
		o.setReason(reason, detail)
		return
	}
	o.setReason(Confirming, "")
	r.repeatAfter(r.ConfirmAfter)
}

// redeliver has an order's audit redelivered, and reports whether to check soon what came of it.
func (r *run) redeliver(ctx context.Context, o *item) (soon bool, err error) {
	switch {
	case !o.TriedAt.IsZero() && r.began.Sub(o.TriedAt) < r.Deadline:
		o.setReason(Repairing, "")
		return false, nil
	case o.Tries >= MaxTries:
		o.setReason(Lost, "")
		return false, nil
	case r.outOfTime(ctx):
		o.postpone()
		return true, nil
	}
	// The pusher may have been handling it until now.
	if err := r.readEntry(ctx, o); err != nil || o.settled {
		return false, err
	}
	why := "neither the ledger nor the warehouse knows it"
	switch {
	case o.atWarehouse:
		why = "the warehouse has it, the ledger does not know it"
	case o.entry.State.Live():
		why = "its outcome has been unknown for too long"
	}
	a := o.auditToRedeliver()
	err = r.Bus.Redeliver(ctx, pusherName, a.place(), o.Tries+1, bus.By{Who: Name, Why: why})
	if errors.Is(err, bus.ErrNotStored) {
		o.setReason(Gone, "")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o.Tries, o.TriedAt = o.Tries+1, r.began
	o.setReason(Repairing, "")
	r.Metrics.Redelivered.WithLabelValues(r.seller.Name()).Inc()
	return true, nil
}

// keepFor is how long an unexplained order is remembered: longer than streams keep events.
const keepFor = 120 * 24 * time.Hour

func (r *run) write(ctx context.Context) error {
	// Write what was found even when the handler's own time is up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeFor)
	defer cancel()
	c := bookChanges{seller: r.seller.Name(), version: r.version, fields: map[string][]byte{}}
	head := r.report
	head.Open, head.Oldest = map[Reason]int{}, time.Time{}
	confirming := 0
	for no, o := range r.orders {
		if o.settled || !o.Reason.Explains() && r.began.Sub(o.First()) > keepFor {
			head.Settled++
			if o.known && o.Tries > 0 {
				head.Repaired++
				r.Metrics.Repaired.WithLabelValues(r.seller.Name()).Inc()
			}
			if o.previous != "" {
				c.remove(no)
			}
			continue
		}
		if o.Reason != o.previous {
			o.Since = r.began
			r.log(o)
		}
		head.Open[o.Reason]++
		if o.Reason == Confirming {
			confirming++
		}
		if !o.Reason.Explains() && (head.Oldest.IsZero() || o.First().Before(head.Oldest)) {
			head.Oldest = o.First()
		}
		if err := c.set(o.Order); err != nil {
			return err
		}
	}
	if err := c.setFindings(r.findings); err != nil {
		return err
	}
	c.marks = r.marks
	head.RanAt = r.Now()
	if r.walked && confirming == 0 && !head.Full {
		head.CycleAt = head.RanAt
	}
	return c.write(ctx, r.Ledger, head, r.NewOwner)
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
