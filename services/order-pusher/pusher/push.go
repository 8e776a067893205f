package pusher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// Push hands one audited order over and tells what came of it: order.accepted, order.held or order.failed. A known
// order is told again, which heals a crash between recording and telling.
func (p *Pusher) Push(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) ([]event.Event, error) {
	if s, yes := p.shadowed(d, o); yes {
		told, err := p.onlooker.push(ctx, d, s, o)
		if err != nil {
			err = fmt.Errorf("shadow %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
		}
		return told, err
	}
	r := &run{Pusher: p, d: d, o: clean.Order(o).Order, written: o, span: trace.SpanFromContext(ctx)}
	err := r.push(ctx)
	if err != nil {
		err = fmt.Errorf("push %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
	}
	if err != nil && len(r.told) == 0 {
		r.told = p.Unserved(d, o, err)
	}
	return append(r.told, r.aside...), err
}

// Unserved is what is told of an order that is shelved: held or failed. Nothing is told of one that will be tried
// again, or of which it cannot be read which order it is.
func (p *Pusher) Unserved(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if !o.ProtoReflect().IsValid() || o.OutboundNo == "" || !event.ValidSeller(o.Seller) && !event.ValidSeller(d.Seller) {
		return nil
	}
	if event.ValidSeller(d.Seller) && d.Seller != o.Seller {
		// Whoever published it has no say in the other seller's numbers, and has to hear that it was refused.
		o = proto.CloneOf(o)
		o.Seller = d.Seller
	}
	if _, yes := p.shadowed(d, o); yes {
		return p.onlooker.unserved(d, o, err)
	}
	o = clean.Order(o).Order
	reason := fault.ReasonOf(err, "internal")
	if reason.Code == "malformed" && !plainNumber(o.OutboundNo) {
		return nil // what was read of it may be anything
	}
	now := p.Now()
	class, cause := fault.Of(err), fault.Cause(err)
	if errors.Is(err, bus.ErrAttempts) {
		// It may have been sent: to call it failed could make the ERP refund what ships.
		class, cause = fault.Held, seller.CauseOperator(o.Seller, o.OutboundNo)
	}
	switch class {
	case fault.Held:
		return []event.Event{heldEvent(o, now, cause, reason)}
	case fault.Refused:
		if told := p.lives(o, now, reason); told != nil {
			return told
		}
		m := &orderv1.Failed{Ref: ref(o, ""), At: stamp(now), Reason: reasonMessage(reason)}
		return []event.Event{event.OrderFailed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), reason.Code)}
	default:
		return nil
	}
}

// plainNumber tells whether text is an outbound number as its rule wants it.
func plainNumber(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return text != "" && len(text) <= 100
}

// lives is what is told, instead of order.failed, of a message that is refused while an order lives under its number: to
// call that number failed could make the ERP refund what ships. nil when none lives. When nobody can say, it may.
func (p *Pusher) lives(o *orderv1.Audited, now time.Time, reason fault.Reason) []event.Event {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo})
	switch {
	case errors.Is(err, ledger.ErrNoEntry), err == nil && !entry.State.Live():
		return nil
	case err != nil:
		reason.ZH += "；此单号下可能已有有效单据，请核对"
		reason.EN += "; an order may live under this number: look"
	default:
		zh, en := alive(entry)
		reason.ZH += "；" + zh
		reason.EN += "; " + en
	}
	cause := seller.CauseOperator(o.Seller, o.OutboundNo)
	m := &orderv1.Held{Ref: ref(o, entry.Number), At: stamp(now), Cause: cause, Reason: reasonMessage(reason)}
	return []event.Event{event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause, reason.Code)}
}

func heldEvent(o *orderv1.Audited, now time.Time, cause string, reason fault.Reason) event.Event {
	m := &orderv1.Held{Ref: ref(o, ""), At: stamp(now), Cause: cause, Reason: reasonMessage(reason)}
	return event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause)
}

// errOvertaken ends the replay of an order that waited on the shelf while the ERP sent a corrected one under the same
// number: that one has its outcome, and nothing is to be told of this one.
var errOvertaken = errors.New("overtaken by a corrected order under the same number")

// run is one delivery of one order on its way through the protocol.
type run struct {
	*Pusher
	d *bus.Delivery
	// o is the order without noise, written as the ERP sent it.
	o, written *orderv1.Audited
	// span is the run's: what is written after the handler's own time is up belongs to it too.
	span trace.Span
	// told is the order's own outcome, aside what happened to its seller.
	told, aside []event.Event

	seller *seller.Seller
	wh     warehouse.Orders
	plan   warehouse.Plan
	begin  ledger.ClaimRequest
	begun  ledger.Claimed
	// asked is when begun was asked for, by our own clock.
	asked time.Time
}

// now is the store's time: its answer to Begin, and what went by here since. Our own clock may be off.
func (r *run) now() time.Time { return r.begun.At.Add(r.Now().Sub(r.asked)) }

func (r *run) push(ctx context.Context) error {
	if overtaken, err := r.overtaken(ctx); err != nil || overtaken {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return r.unprepared(ctx, err)
	}
	if err := r.claim(ctx); errors.Is(err, errOvertaken) {
		return nil
	} else if err != nil {
		return err
	}
	entry := r.begun.Entry
	switch {
	case entry.State == ledger.Accepted, entry.State == ledger.Cancelled:
		return r.known(entry)
	case entry.State == ledger.Refused && !r.d.Replay:
		return r.resolve(fault.Permanent(entry.Reason), func(ctx context.Context) error {
			return r.Ledger.Release(ctx, r.begun.Claim, "told again")
		})
	}
	leave, wait := r.crowd.enter(seat{r.o.Seller, r.d.Returned}, r.Slots, r.Now)
	if leave == nil {
		return r.notSent(fault.RetryAfter(wait, errors.New("enough of the seller's orders are at its warehouse; the other slots are for other sellers")))
	}
	defer leave()
	if r.begun.NeverSent {
		// The order is certainly new. What it supersedes is older, perhaps than the ledger.
		if err := r.askSuperseded(ctx); err != nil {
			return r.notSent(err)
		}
		return r.send(ctx)
	}
	if entry.State == ledger.New && r.absences.take(r.begin.Key, r.begun.EpochSince) {
		return r.send(ctx)
	}
	return r.askFirst(ctx)
}

// known tells of an order that the warehouse has. A new audit of one that was cancelled is not accepted: it would never
// ship.
func (r *run) known(entry ledger.Entry) error {
	if entry.State == ledger.Cancelled && r.o.Revision > entry.Revision {
		return Cancelled(r.o)
	}
	r.tellAccepted(entry.Number, entry.Cleaned, entry.ChangedAt)
	return nil
}

// unprepared is for an order that would not be sent as things are now. It may have been sent as they were, and then that
// is what is to be told: to call it failed could make the ERP refund what ships.
func (r *run) unprepared(ctx context.Context, why error) error {
	class := fault.Of(why)
	if class != fault.Held && class != fault.Refused {
		return why
	}
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.OutboundNo})
	switch {
	case errors.Is(err, ledger.ErrNoEntry):
		return why
	case err != nil:
		return err
	case !SamePayload(entry, r.written) && !entry.Reconstructed():
		return why
	case entry.State == ledger.Accepted, entry.State == ledger.Cancelled:
		return r.known(entry)
	case entry.State.Live() && class == fault.Refused:
		r.tellOperator(why)
	}
	return why
}

// overtaken tells whether errOvertaken would end this replay. It is asked before the order is looked at, because what
// waited for its own correction would only be found wrong again: told as held or failed after the corrected one was
// accepted, and never gone from the shelf.
func (r *run) overtaken(ctx context.Context) (bool, error) {
	if !r.d.Replay {
		return false, nil
	}
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.OutboundNo})
	if errors.Is(err, ledger.ErrNoEntry) {
		return false, nil
	}
	if err != nil || entry.State == ledger.New || entry.Reconstructed() || SamePayload(entry, r.written) || entry.Hash == ledger.Shadowed {
		return false, err
	}
	if r.o.Revision > entry.Revision {
		return false, Reused(r.o) // it is itself the later one
	}
	return true, nil
}

// prepare finds whatever can be found wrong before anything is begun.
func (r *run) prepare(ctx context.Context) error {
	o := r.o
	s, ok := r.Sellers.Get(o.Seller)
	if !ok {
		return seller.Unknown(o.Seller)
	}
	if err := s.Check(o, r.d.Released...); err != nil {
		return err
	}
	wh, err := r.Open(s, o.Warehouse, warehouse.Push)
	if err != nil {
		return err
	}
	r.seller, r.wh = s, wh
	if r.plan = wh.PlanOrder(r.written); r.plan.Err != nil {
		return r.plan.Err
	}
	return r.trial(ctx)
}

// trial lets only the listed and the first so many orders of a seller really go.
func (r *run) trial(ctx context.Context) error {
	first, on := r.seller.OnTrial()
	if !on {
		return nil
	}
	cause, besides := seller.CauseTrial(r.o.Seller), 0
	if r.seller.TrialLists(r.o.OutboundNo, r.o.OrderNo) || slices.Contains(r.d.Released, cause) {
		besides = everyOne
	}
	// Admitted once is admitted for ever: what was let go may have to be asked for after the list changed.
	admitted, err := r.Ledger.Admit(ctx, seller.TrialExtras(r.o.Seller), r.o.OutboundNo, besides)
	if err == nil && !admitted {
		admitted, err = r.Ledger.Admit(ctx, r.o.Seller, r.o.OutboundNo, first)
	}
	if err != nil || admitted {
		return err
	}
	return fault.Hold(cause, fault.Reason{
		Code: "trial.waiting",
		ZH:   "试运行中：只有指定的订单会真正推送；此订单在试运行结束后自动继续",
		EN:   "the seller is on trial: only chosen orders really go; this one goes on when the trial ends",
	})
}

// claim begins the document in the ledger, durably, before the warehouse hears of it.
func (r *run) claim(ctx context.Context) error {
	r.begin = beginOf(r.d, r.o, payloadHash(r.o), r.NewOwner())
	r.begin.Identity = string(r.wh.Identity())
	r.begin.AnyIdentity = slices.Contains(r.d.Released, seller.CauseIdentity(r.o.Seller, r.o.OutboundNo))
	err := r.beginOnce(ctx)
	var taken *ledger.LineTaken
	if errors.As(err, &taken) {
		freed, unshadowErr := r.unshadow(ctx, taken.By)
		if unshadowErr != nil {
			return unshadowErr
		}
		if freed {
			err = r.beginOnce(ctx)
		}
	}
	o := r.o
	switch {
	case errors.Is(err, ledger.ErrBusy):
		return fault.RetryAfter(busyPause, err)
	case errors.Is(err, ledger.ErrHash) && r.d.Replay && o.Revision <= r.begun.Entry.Revision: // since overtaken looked
		return errOvertaken
	case errors.Is(err, ledger.ErrHash):
		return Reused(o)
	case errors.Is(err, ledger.ErrIdentity):
		return Elsewhere(o, o.OutboundNo, r.begun.Entry.Identity, r.begin.Identity)
	case errors.As(err, &taken) && taken.Superseded:
		by, err := r.Ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: kind, No: taken.By})
		if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
			return err
		}
		return cmp.Or(r.elsewhere(by), Superseding(o))
	case errors.As(err, &taken):
		return r.lineTaken(ctx, taken)
	}
	return err
}

// elsewhere is the fault of an order whose predecessor lives under another identity: what becomes of it is not seen under
// today's.
func (r *run) elsewhere(earlier ledger.Entry) error {
	if !earlier.State.Live() || earlier.Identity == "" || r.begin.Identity == "" || earlier.Identity == r.begin.Identity ||
		slices.Contains(r.d.Released, seller.CauseIdentity(r.o.Seller, earlier.Key.No)) {
		return nil
	}
	return Elsewhere(r.o, earlier.Key.No, earlier.Identity, r.begin.Identity)
}

// lineTaken is for a line that lives under another number than the one that the order supersedes.
func (r *run) lineTaken(ctx context.Context, taken *ledger.LineTaken) error {
	if r.o.Supersedes == "" {
		return LineLive(r.o, taken.Line, taken.By)
	}
	by, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: taken.By})
	if err != nil {
		return err
	}
	superseded, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.Supersedes})
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
		return err
	}
	return LineTaken(r.o, taken.Line, by, superseded.State != ledger.New)
}

// beginOnce begins the document. One that was in shadow stays what it is, whatever its content, and one that was begun by
// a build with another hash keeps that.
func (r *run) beginOnce(ctx context.Context) (err error) {
	r.asked = r.Now()
	r.begun, err = r.Ledger.Claim(ctx, r.begin)
	if errors.Is(err, ledger.ErrHash) && (r.begun.Entry.Hash == ledger.Shadowed || SamePayload(r.begun.Entry, r.written)) {
		r.begin.Hash = r.begun.Entry.Hash
		r.begun, err = r.Ledger.Claim(ctx, r.begin)
	}
	return err
}

func beginOf(d *bus.Delivery, o *orderv1.Audited, hash, owner string) ledger.ClaimRequest {
	lines := make([]string, len(o.Lines))
	for i, l := range o.Lines {
		lines[i] = l.LineId
	}
	return ledger.ClaimRequest{
		Key: ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo}, Hash: hash, Owner: owner,
		OrderNo: o.OrderNo, Lines: lines, Supersedes: o.Supersedes, PlatformNos: o.PlatformOrderNos, Revision: o.Revision, Shop: o.Shop, Warehouse: o.Warehouse,
		StreamTime: d.StreamTime, AuditedAt: o.AuditedAt.AsTime(), First: d.First && !d.Replay,
		Stream: d.Stream, Seq: d.Seq, Trace: d.Trace,
	}
}

// askFirst decides by what the warehouse has: its number is adopted; an absence that is certain leads to sending.
func (r *run) askFirst(ctx context.Context) error {
	found, ok, err := r.ask(ctx, r.o.OutboundNo)
	if err != nil {
		return r.notSent(err)
	}
	if ok {
		return r.adopt(ctx, found, r.notSent)
	}
	if no := r.begun.Entry.Rejection; no != (fault.Reason{}) {
		return r.stillDenied(no)
	}
	if r.begin.Hash == ledger.Shadowed && !slices.Contains(r.d.Released, seller.CauseShadow(r.o.Seller, r.o.OutboundNo)) {
		return r.notSent(ShadowWaiting(r.o))
	}
	if err := r.askSuperseded(ctx); err != nil {
		return r.notSent(err)
	}
	entry := r.begun.Entry
	switch {
	case entry.State == ledger.Unknown:
		if entry.Lookups+1 < looksBeforeResend || r.begun.UnknownFor() < r.ResendAfter {
			return r.absent(r.ResendAfter, looksBeforeResend, fmt.Sprintf("the answer was lost; sent again after %d looks", looksBeforeResend))
		}
		if err := r.Ledger.Resend(ctx, r.begun.Claim); err != nil {
			return err
		}
	case entry.State == ledger.New:
		if err := r.unsettled(r.begin.First); err != nil {
			return r.notSent(err)
		}
	}
	return r.send(ctx)
}

// askSuperseded holds an order whose predecessor lives at the warehouse although the ledger no longer knows of it: a
// ledger that was lost cannot tell which order a line is live under. What it holds is asked again with every sweep.
func (r *run) askSuperseded(ctx context.Context) error {
	if r.o.Supersedes == "" || r.begun.Entry.State != ledger.New {
		return nil
	}
	earlier, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.Supersedes})
	switch {
	case err == nil && earlier.Reconstructed() && earlier.State.Live():
		return Superseding(r.o) // nobody knows its lines until its own audit was looked at again
	case err == nil:
		return r.elsewhere(earlier) // known: the claim has looked at its lines
	case !errors.Is(err, ledger.ErrNoEntry):
		return err
	}
	found, ok, err := r.ask(ctx, r.o.Supersedes)
	if err == nil && ok && found.State.Status != orderv1.Status_STATUS_CANCELLED {
		err = Superseding(r.o)
	}
	if err == nil && !ok {
		err = r.unsettled(false)
	}
	return err
}

// unsettled waits until an absence is certain although the ledger may have been lost.
func (r *run) unsettled(first bool) error {
	if r.begun.LossWindowOver(first, r.SettleFor) {
		return nil
	}
	wait := r.SettleFor - r.begun.At.Sub(r.begun.EpochSince) + time.Second
	return fault.RetryAfter(wait, errors.New("the ledger is younger than this order; a lost sending may still arrive"))
}

// absent records a look that found nothing and comes back for the next one: so many looks are spread over a time.
func (r *run) absent(over time.Duration, of int, why string) error {
	return r.resolve(nil, func(ctx context.Context) error {
		looks, doubted, err := r.Ledger.MarkNotFound(ctx, r.begun.Claim)
		if err != nil {
			return err
		}
		next := over*time.Duration(looks)/time.Duration(of-1) - doubted
		return fault.RetryAfter(max(next, firstLook), fault.Unknown(fmt.Errorf("%s over %s; look %d found nothing", why, over, looks)))
	})
}

// stillDenied is for an order that the warehouse refused in its own words and that a later look did not find either. It is
// never sent again for that: when the looks are over it is refused, as the warehouse said.
func (r *run) stillDenied(no fault.Reason) error {
	if r.begun.Entry.Lookups+1 < looksAtRefused || r.begun.UnknownFor() < r.RefuseAfter {
		return r.absent(r.RefuseAfter, looksAtRefused, "the warehouse refused it; believed after looks")
	}
	return r.refuse(no)
}

// send hands over and writes what came of it before anything is told.
func (r *run) send(ctx context.Context) error {
	until, limited := ctx.Deadline()
	if r.now().Add(callLimit).After(r.begun.Claim.Until) || limited && time.Until(until) < callLimit {
		return r.notSent(fault.RetryAfter(busyPause, errors.New("too little of the claim, or of the run, is left to send safely")))
	}
	taken, err := r.wh.SendPlanned(ctx, r.o, r.plan)
	r.watch(err)
	if err == nil {
		r.served()
		return r.accept(taken.WarehouseNo, cleanedOf(taken.Cleaned))
	}
	var no *warehouse.Rejected
	if errors.As(err, &no) {
		return r.saidNo(ctx, no)
	}
	switch class := fault.Of(err); {
	case class == fault.Unclear:
		return r.doubt(err)
	case class == fault.Refused:
		return r.refuse(fault.ReasonOf(err, "warehouse.refused"))
	case errors.Is(err, warehouse.ErrOutcomeUnknown):
		return r.holdInDoubt(err)
	default:
		if r.begun.Entry.State == ledger.New {
			r.absences.keep(r.begin.Key, r.begun.EpochSince) // or each wait for a turn would cost a look
		}
		return r.notSent(err)
	}
}

// saidNo asks whether a refusal in business words took the order all the same ("number exists already"). What does not show
// at once may show later, so unless the words are known it is looked for again before anything is published.
func (r *run) saidNo(ctx context.Context, no *warehouse.Rejected) error {
	found, ok, err := r.ask(ctx, r.o.OutboundNo)
	switch {
	case err == nil && ok:
		return r.adopt(ctx, found, r.unproven)
	case no.Cause != "":
		return r.holdInDoubt(fault.Hold(no.Cause, no.Reason))
	case err == nil && (no.Data || r.RefuseAfter <= 0):
		return r.refuse(no.Reason)
	case err != nil:
		return r.deny(no.Reason, fmt.Errorf("%w; asking after it: %w", no, err))
	default:
		return r.deny(no.Reason, no)
	}
}

// deny writes down that the warehouse refused it in its own words, and comes back to look for it.
func (r *run) deny(no fault.Reason, why error) error {
	next := max(r.RefuseAfter/deniedLook, firstLook)
	return r.resolve(fault.RetryAfter(next, fault.Unknown(why)), func(ctx context.Context) error {
		return r.Ledger.MarkRejected(ctx, r.begun.Claim, no)
	})
}

// served notes what an order that was taken shows to be in order, so that what waits for it goes on.
func (r *run) served() {
	name := r.o.Seller
	r.Served(name)
	r.Served(seller.CauseNumber(name, seller.NumberShop, r.o.Shop))
	r.Served(seller.CauseNumber(name, seller.NumberWarehouse, r.o.Warehouse))
	site, _ := r.seller.Warehouse(r.o.Warehouse)
	r.Served(seller.CauseNumber(name, seller.NumberDepartment, site.GetAccount()))
	if r.o.Carrier != "" {
		r.Served(seller.CauseNumber(name, seller.NumberCarrier, r.o.Carrier))
	}
}

func (r *run) ask(ctx context.Context, outboundNo string) (warehouse.Found, bool, error) {
	return r.askAt(ctx, r.wh, outboundNo)
}

func (r *run) askAt(ctx context.Context, wh warehouse.OrderFinder, outboundNo string) (warehouse.Found, bool, error) {
	found, ok, first, err := r.asker.ask(ctx, wh, outboundNo)
	if first { // one call that fails is one failure, however many were waiting for it
		r.watch(err)
		if err == nil {
			r.Served(seller.CausePermission(r.o.Seller, findOrders))
		}
	}
	if errors.Is(err, warehouse.ErrNotPermitted) {
		err = fault.Hold(seller.CausePermission(r.o.Seller, findOrders), fault.Reason{
			Code: "warehouse.find.forbidden",
			ZH:   "此订单可能已推送，但仓库不允许按单号查询，无法确认；请为该商家开通查询权限，或人工确认后放行",
			EN:   "this order may have been sent, but the warehouse does not let this seller ask by number; have the permission granted, or release after checking by hand",
		})
	}
	return found, ok, err
}

// adopt takes a document that stands under the order's number for the order's own, if it is. giveBack ends the run when
// that cannot be said.
func (r *run) adopt(ctx context.Context, found warehouse.Found, giveBack func(error) error) error {
	number, others, err := r.own(ctx, found)
	if err != nil {
		return giveBack(err)
	}
	if err := r.accept(number, r.begun.Entry.Cleaned); err != nil || len(others) == 0 {
		return err
	}
	return r.twice(number, others)
}

// own compares what stands under the order's number with what would be sent, and tells which document is the order's own:
// JD may give back the number of a document that somebody else made under it, and sellers who share an account find each
// other's. What the ERP's own program sent in shadow was compared then.
func (r *run) own(ctx context.Context, found warehouse.Found) (number string, others []string, err error) {
	all := append([]string{found.WarehouseNo}, found.Others...)
	if r.begin.Hash == ledger.Shadowed || slices.Contains(r.d.Released, seller.CauseOperator(r.o.Seller, r.o.OutboundNo)) {
		return all[0], all[1:], nil
	}
	var foreign error
	for i, no := range all {
		c, err := r.wh.CompareOrder(ctx, r.o, no)
		r.watch(err)
		if err != nil {
			return "", nil, err
		}
		if len(c.Foreign) == 0 {
			return no, slices.Delete(all, i, i+1), nil
		}
		if foreign == nil {
			foreign = Foreign(r.o, no, c.Foreign)
		}
	}
	r.Metrics.Foreign.Inc()
	return "", nil, foreign
}

func (r *run) accept(number string, cleaned []ledger.Cleaned) error {
	now := r.now()
	cleaned = r.noted(cleaned)
	err := r.resolve(nil, func(ctx context.Context) error {
		return r.Ledger.Accept(ctx, r.begin, number, cleaned, now)
	})
	if errors.Is(err, ledger.ErrLost) {
		err = r.twice(number, nil)
		r.tellOperator(err) // another document is accepted: this order has not failed
		return err
	}
	var taken *ledger.NumberTaken
	if errors.As(err, &taken) {
		return r.anothers(taken)
	}
	if err != nil {
		return err
	}
	r.Metrics.accepted(now.Sub(r.d.StreamTime))
	r.tellAccepted(number, cleaned, now)
	return nil
}

// noted adds which other orders share a platform's number. It is kept with what was cleaned, so that it is told again in
// the same words.
func (r *run) noted(cleaned []ledger.Cleaned) []ledger.Cleaned {
	if slices.ContainsFunc(cleaned, func(c ledger.Cleaned) bool { return c.What == sharedNote }) {
		return cleaned
	}
	cleaned = slices.Clip(cleaned)
	for _, s := range r.begun.Sharing {
		note := Shared(r.o, s)
		cleaned = append(cleaned, ledger.Cleaned{Field: note.Field, What: note.Code, ZH: note.ZH, EN: note.EN})
	}
	return cleaned
}

// anothers is for a number that another order of the seller's has: it proves nothing of this one. A person asks the warehouse,
// then a replay looks for this order first.
func (r *run) anothers(taken *ledger.NumberTaken) error {
	why := fault.Permanent(fault.Reason{
		Code: "warehouse.number.taken", Field: "outbound_no", RemoteText: taken.Number,
		ZH: "仓库为此订单返回的单号 " + taken.Number + " 属于出库单 " + taken.By + "，不能证明此订单已被接收；请与仓库核对后重放 (dlq replay)，重放时会先查询",
		EN: "the warehouse answered with number " + taken.Number + ", which is that of " + taken.By + " and no proof that it has this order; ask the warehouse, then replay it (dlq replay): it is looked for first",
	})
	err := r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.begun.Claim, taken.Error())
	})
	r.tellOperator(why)
	return err
}

// twice is the exception that must never be quiet: one outbound number, two documents.
func (r *run) twice(number string, others []string) error {
	r.Metrics.Twice.Inc()
	return fault.Permanent(fault.Reason{
		Code: "warehouse.twice", Field: "outbound_no", RemoteText: fmt.Sprint(append([]string{number}, others...)),
		ZH: "仓库中同一出库单号有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this outbound number; have all but one cancelled at once",
	})
}

func (r *run) refuse(reason fault.Reason) error {
	return r.resolve(fault.Permanent(reason), func(ctx context.Context) error {
		return r.Ledger.Refuse(ctx, r.begun.Claim, reason)
	})
}

func (r *run) doubt(why error) error {
	r.Metrics.Doubts.Inc()
	return r.resolve(fault.RetryAfter(firstLook, fault.Unknown(why)), func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.begun.Claim, why.Error())
	})
}

// unproven ends a run that sent the order, and then could not say that what stands under its number is it.
func (r *run) unproven(why error) error {
	if fault.Of(why) != fault.Held {
		return r.doubt(why)
	}
	return r.holdInDoubt(why)
}

// holdInDoubt holds an order for its set-up. When that is mended the warehouse is asked before it is sent again: that it was
// refused is its word only.
func (r *run) holdInDoubt(why error) error {
	return r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.begun.Claim, why.Error())
	})
}

func (r *run) notSent(why error) error {
	return r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.Release(ctx, r.begun.Claim, why.Error())
	})
}

// resolve writes the outcome even when the handler's own time is up, then returns it. A failed write wins: the next
// delivery finds an unresolved claim and asks.
func (r *run) resolve(outcome error, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(trace.ContextWithSpan(context.Background(), r.span), writeLimit)
	defer cancel()
	if err := write(ctx); err != nil {
		if outcome != nil {
			return fmt.Errorf("%w (while recording: %w)", err, errors.New(outcome.Error()))
		}
		return err
	}
	return outcome
}

func (r *run) tellAccepted(number string, cleaned []ledger.Cleaned, at time.Time) {
	r.told = append(r.told, acceptedEvent(r.o, number, cleaned, at))
}

func acceptedEvent(o *orderv1.Audited, number string, cleaned []ledger.Cleaned, at time.Time) event.Event {
	m := &orderv1.Accepted{Ref: ref(o, number), At: stamp(at)}
	for _, c := range cleaned {
		if c.What == sharedNote {
			m.Notes = append(m.Notes, &orderv1.Reason{Code: c.What, Field: c.Field, Zh: c.ZH, En: c.EN})
			continue
		}
		m.Cleaned = append(m.Cleaned, &orderv1.Cleaned{Field: c.Field, What: c.What, Zh: c.ZH, En: c.EN})
	}
	for _, l := range o.Lines {
		m.Lines = append(m.Lines, &orderv1.AcceptedLine{
			LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity,
		})
	}
	return event.OrderAccepted.About(o.Seller, o.OutboundNo, at, m, event.Revision(o.Revision))
}

// tellOperator says that a person has to see to an order that is, or may be, at the warehouse.
func (r *run) tellOperator(why error) {
	r.told = append(r.told, heldEvent(r.o, r.Now(), seller.CauseOperator(r.o.Seller, r.o.OutboundNo), fault.ReasonOf(why, "internal")))
}

// watch feeds the seller's breaker with the outcome of a call and pauses the seller when it trips.
func (r *run) watch(err error) { r.aside = append(r.aside, r.Pusher.watch(r.o.Seller, err)...) }

func (p *Pusher) watch(sellerName string, err error) []event.Event {
	by, trip := p.Breaker.Report(sellerName, err)
	if !trip {
		return nil
	}
	now := p.Now()
	pause := seller.Pause{By: by, Reason: err.Error(), At: now, ProbeAfter: p.ProbeAfter, ProbeAt: now.Add(p.ProbeAfter)}
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	if err := p.Sellers.Pause(ctx, sellerName, pause); err != nil {
		return nil // another worker paused it, or the next failure tries again
	}
	return []event.Event{seller.PausedEvent(sellerName, pause)}
}
