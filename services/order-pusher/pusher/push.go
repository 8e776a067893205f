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
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// Push sends one audited order and returns its outcome: order.accepted, order.held or order.failed. The outcome of a known
// order is returned again, which repairs a crash between recording and publishing.
func (p *Pusher) Push(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) ([]event.Event, error) {
	if s, yes := p.inShadow(d, o); yes {
		events, err := p.shadow.push(ctx, d, s, o)
		if err != nil {
			err = fmt.Errorf("shadow %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
		}
		return events, err
	}
	r := &run{Pusher: p, d: d, o: clean.Order(o).Order, original: o, span: trace.SpanFromContext(ctx)}
	err := r.push(ctx)
	if err != nil {
		err = fmt.Errorf("push %s/%s: %w", o.GetSeller(), o.GetOutboundNo(), err)
	}
	if err != nil && len(r.events) == 0 {
		r.events = p.OnReject(d, o, err)
	}
	return append(r.events, r.sellerEvents...), err
}

// OnReject returns the event of an order that is held or becomes a dead letter: order.held or order.failed. It returns none
// for an order that will be tried again, or when the order's number cannot be read.
func (p *Pusher) OnReject(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if !o.ProtoReflect().IsValid() || o.OutboundNo == "" || !event.ValidSeller(o.Seller) && !event.ValidSeller(d.Seller) {
		return nil
	}
	if event.ValidSeller(d.Seller) && d.Seller != o.Seller {
		// The publisher may not change the state of another seller's numbers, but must get the refusal.
		o = proto.CloneOf(o)
		o.Seller = d.Seller
	}
	if _, yes := p.inShadow(d, o); yes {
		return p.shadow.onReject(d, o, err)
	}
	o = clean.Order(o).Order
	reason := fault.ReasonOf(err, "internal")
	if reason.Code == "malformed" && !plainNumber(o.OutboundNo) {
		return nil // its fields may contain anything
	}
	now := p.Now()
	class, cause := fault.Of(err), fault.Cause(err)
	if errors.Is(err, bus.ErrAttempts) {
		// It may have been sent, and an ERP could refund a failed order that ships.
		class, cause = fault.Held, seller.CauseOperator(o.Seller, o.OutboundNo)
	}
	switch class {
	case fault.Held:
		return []event.Event{heldEvent(o, now, cause, reason)}
	case fault.Refused:
		if events := p.heldIfLive(o, now, reason); events != nil {
			return events
		}
		m := &orderv1.Failed{Ref: ref(o, ""), At: timestamppb.New(now), Reason: event.Reason(reason)}
		return []event.Event{event.OrderFailed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), reason.Code)}
	default:
		return nil
	}
}

// plainNumber reports whether text follows the rule of outbound numbers.
func plainNumber(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return text != "" && len(text) <= 100
}

// heldIfLive returns order.held in place of order.failed when an order is, or may be, live under the number: an ERP could
// refund a failed order that ships. It returns nil when none is live. When the ledger cannot be read, one may be.
func (p *Pusher) heldIfLive(o *orderv1.Audited, now time.Time, reason fault.Reason) []event.Event {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	entry, err := p.Ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo})
	switch {
	case errors.Is(err, ledger.ErrNoEntry), err == nil && !entry.State.Live():
		return nil
	case err != nil:
		reason.ZH += "；此单号下可能已有有效单据，请核对"
		reason.EN += "; an order may be live under this number: check"
	default:
		zh, en := liveText(entry)
		reason.ZH += "；" + zh
		reason.EN += "; " + en
	}
	cause := seller.CauseOperator(o.Seller, o.OutboundNo)
	m := &orderv1.Held{Ref: ref(o, entry.Number), At: timestamppb.New(now), Cause: cause, Reason: event.Reason(reason)}
	return []event.Event{event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause, reason.Code)}
}

func heldEvent(o *orderv1.Audited, now time.Time, cause string, reason fault.Reason) event.Event {
	m := &orderv1.Held{Ref: ref(o, ""), At: timestamppb.New(now), Cause: cause, Reason: event.Reason(reason)}
	return event.OrderHeld.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision), cause)
}

// errOutdated ends the replay of an order when the ERP has published a corrected one under the same number meanwhile: that
// one has its outcome, and this one gets no event.
var errOutdated = errors.New("replaced by a corrected order under the same number")

// run is the protocol for one delivery of one order.
type run struct {
	*Pusher
	d *bus.Delivery
	// o is the cleaned order, original the order as the ERP published it.
	o, original *orderv1.Audited
	// span is the handler's span: writes after the handler's own time is up belong to it too.
	span trace.Span
	// events are the order's own, sellerEvents those about its seller.
	events, sellerEvents []event.Event

	seller  *seller.Seller
	wh      warehouse.Orders
	plan    warehouse.Plan
	request ledger.ClaimRequest
	claimed ledger.Claimed
	// askedAt is when the claim was requested, by our own clock.
	askedAt time.Time
}

// now is the store's time: its answer to Claim plus what has passed here since. Our own clock may be off.
func (r *run) now() time.Time { return r.claimed.At.Add(r.Now().Sub(r.askedAt)) }

func (r *run) push(ctx context.Context) error {
	if overtaken, err := r.outdated(ctx); err != nil || overtaken {
		return err
	}
	if err := r.prepare(ctx); err != nil {
		return r.rejectedBeforeSend(ctx, err)
	}
	if err := r.claim(ctx); errors.Is(err, errOutdated) {
		return nil
	} else if err != nil {
		return err
	}
	entry := r.claimed.Entry
	switch {
	case entry.State == ledger.Accepted, entry.State == ledger.Cancelled:
		return r.reportKnown(entry)
	case entry.State == ledger.Refused && !r.d.Replay:
		return r.resolve(fault.Permanent(entry.Reason), func(ctx context.Context) error {
			return r.Ledger.Release(ctx, r.claimed.Claim, "reported again")
		})
	}
	leave, wait := r.fairness.enter(bulkheadKey{r.o.Seller, r.d.Returned}, r.Slots, r.Now)
	if leave == nil {
		return r.release(fault.RetryAfter(wait, errors.New("the seller's orders hold enough slots; the others are for other sellers")))
	}
	defer leave()
	if r.claimed.NeverSent {
		// This order was never sent. The one that it supersedes may be older than the ledger.
		if err := r.checkSuperseded(ctx); err != nil {
			return r.release(err)
		}
		return r.send(ctx)
	}
	if r.mayBeUnderFormerAccount(entry) {
		return r.release(Forgotten(r.o))
	}
	if entry.State == ledger.New && r.notFound.take(r.request.Key, r.claimed.EpochSince) {
		return r.send(ctx)
	}
	return r.lookUpFirst(ctx)
}

// movedMargin is how long after a change of the account a worker may still have sent under the earlier one.
const movedMargin = time.Minute

// mayBeUnderFormerAccount reports whether the ledger lost where this order was sent, if it was, and the seller's account
// changed since it was audited: not finding it under today's account proves nothing then.
func (r *run) mayBeUnderFormerAccount(entry ledger.Entry) bool {
	moved := r.seller.MovedAt
	if moved.IsZero() || entry.Identity != "" || slices.Contains(r.d.Released, seller.CauseFormer(r.o.Seller, r.o.OutboundNo)) {
		return false
	}
	audited := r.request.StreamTime
	if r.request.AuditedAt.Before(audited) {
		audited = r.request.AuditedAt
	}
	return audited.Before(moved.Add(movedMargin))
}

// reportKnown reports an order that the warehouse has. It refuses a new audit of a cancelled one, which would never ship.
func (r *run) reportKnown(entry ledger.Entry) error {
	if entry.State == ledger.Cancelled && r.o.Revision > entry.Revision {
		return Cancelled(r.o)
	}
	r.emitAccepted(entry.Number, entry.Cleaned, entry.ChangedAt)
	return nil
}

// rejectedBeforeSend handles an order that today's checks reject. If it was sent before, its known outcome counts: an ERP
// could refund a failed order that ships.
func (r *run) rejectedBeforeSend(ctx context.Context, why error) error {
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
	case !SamePayload(entry, r.original) && !entry.Reconstructed():
		return why
	case entry.State == ledger.Accepted, entry.State == ledger.Cancelled:
		return r.reportKnown(entry)
	case entry.State.Live() && class == fault.Refused:
		r.emitHeldForOperator(why)
	}
	return why
}

// outdated reports whether errOutdated would end this replay. It comes before all checks: these would reject an order that
// waited for its own correction again, publish it as held or failed after the corrected one was accepted, and never clear
// the dead letter.
func (r *run) outdated(ctx context.Context) (bool, error) {
	if !r.d.Replay {
		return false, nil
	}
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.OutboundNo})
	if errors.Is(err, ledger.ErrNoEntry) {
		return false, nil
	}
	if err != nil || entry.State == ledger.New || entry.Reconstructed() || SamePayload(entry, r.original) || entry.Hash == ledger.Shadowed {
		return false, err
	}
	if r.o.Revision > entry.Revision {
		return false, Reused(r.o) // this one is the later one
	}
	return true, nil
}

// prepare makes all checks that need no claim.
func (r *run) prepare(ctx context.Context) error {
	o := r.o
	s, ok := r.Sellers.Get(o.Seller)
	if !ok {
		return seller.Unknown(o.Seller)
	}
	if err := s.Check(o, r.d.Released...); err != nil {
		return err
	}
	wh, err := r.Open(s, o.Warehouse, quota.Push)
	if err != nil {
		return err
	}
	r.seller, r.wh = s, wh
	if r.plan = wh.PlanOrder(r.original); r.plan.Err != nil {
		return r.plan.Err
	}
	return r.trial(ctx)
}

// trial admits only the listed and the first n orders of a seller on trial.
func (r *run) trial(ctx context.Context) error {
	first, on := r.seller.OnTrial()
	if !on {
		return nil
	}
	cause, besides := seller.CauseTrial(r.o.Seller), 0
	if r.seller.TrialLists(r.o.OutboundNo, r.o.OrderNo) || slices.Contains(r.d.Released, cause) {
		besides = everyOne
	}
	// An admitted order stays admitted: it may have to be looked up after the list changed.
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
		EN:   "the seller is on trial: only chosen orders are really sent; this one continues when the trial ends",
	})
}

// claim claims the document in the ledger, durably, before anything is sent.
func (r *run) claim(ctx context.Context) error {
	r.request = claimRequest(r.d, r.o, payloadHash(r.o), r.NewOwner())
	r.request.Identity = string(r.wh.Identity())
	r.request.AnyIdentity = slices.Contains(r.d.Released, seller.CauseIdentity(r.o.Seller, r.o.OutboundNo))
	err := r.claimOnce(ctx)
	var taken *ledger.LineTaken
	if errors.As(err, &taken) {
		freed, unshadowErr := r.freeShadowLine(ctx, taken.By)
		if unshadowErr != nil {
			return unshadowErr
		}
		if freed {
			err = r.claimOnce(ctx)
		}
	}
	o := r.o
	switch {
	case errors.Is(err, ledger.ErrBusy):
		return fault.RetryAfter(busyPause, err)
	case errors.Is(err, ledger.ErrHash) && r.d.Replay && o.Revision <= r.claimed.Entry.Revision: // changed since outdated read it
		return errOutdated
	case errors.Is(err, ledger.ErrHash):
		return Reused(o)
	case errors.Is(err, ledger.ErrIdentity):
		return Elsewhere(o, o.OutboundNo, r.claimed.Entry.Identity, r.request.Identity)
	case errors.As(err, &taken) && taken.Superseded:
		by, err := r.Ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: kind, No: taken.By})
		if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
			return err
		}
		return cmp.Or(r.underOtherIdentity(by), Superseding(o))
	case errors.As(err, &taken):
		return r.lineTaken(ctx, taken)
	}
	return err
}

// underOtherIdentity returns the fault of an order whose predecessor is live under another identity: its end is not visible
// under today's.
func (r *run) underOtherIdentity(earlier ledger.Entry) error {
	if !earlier.State.Live() || earlier.Identity == "" || r.request.Identity == "" || earlier.Identity == r.request.Identity ||
		slices.Contains(r.d.Released, seller.CauseIdentity(r.o.Seller, earlier.Key.No)) {
		return nil
	}
	return Elsewhere(r.o, earlier.Key.No, earlier.Identity, r.request.Identity)
}

// lineTaken returns the fault of a line that is live under another number than the superseded one.
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

// claimOnce claims the document. An order of shadow mode stays one, whatever its content, and an entry of an earlier build
// keeps its hash.
func (r *run) claimOnce(ctx context.Context) (err error) {
	r.askedAt = r.Now()
	r.claimed, err = r.Ledger.Claim(ctx, r.request)
	if errors.Is(err, ledger.ErrHash) && (r.claimed.Entry.Hash == ledger.Shadowed || SamePayload(r.claimed.Entry, r.original)) {
		r.request.Hash = r.claimed.Entry.Hash
		r.claimed, err = r.Ledger.Claim(ctx, r.request)
	}
	return err
}

func claimRequest(d *bus.Delivery, o *orderv1.Audited, hash, owner string) ledger.ClaimRequest {
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

// lookUpFirst looks up the order. It adopts a document that it finds, and sends when the order is certainly not there.
func (r *run) lookUpFirst(ctx context.Context) error {
	found, ok, err := r.lookUp(ctx, r.o.OutboundNo)
	if err != nil {
		return r.release(err)
	}
	if ok {
		return r.adopt(ctx, found, r.release)
	}
	if no := r.claimed.Entry.Rejection; no != (fault.Reason{}) {
		return r.stillRejected(no)
	}
	if r.request.Hash == ledger.Shadowed && !slices.Contains(r.d.Released, seller.CauseShadow(r.o.Seller, r.o.OutboundNo)) {
		return r.release(ShadowWaiting(r.o))
	}
	if err := r.checkSuperseded(ctx); err != nil {
		return r.release(err)
	}
	entry := r.claimed.Entry
	switch {
	case entry.State == ledger.Unknown:
		if entry.Lookups+1 < lookupsBeforeResend || r.claimed.UnknownFor() < r.ResendAfter {
			return r.markNotFound(r.ResendAfter, lookupsBeforeResend, fmt.Sprintf("the answer was lost; sent again after %d look-ups", lookupsBeforeResend))
		}
		if err := r.Ledger.Resend(ctx, r.claimed.Claim); err != nil {
			return err
		}
	case entry.State == ledger.New:
		if err := r.awaitLossWindow(r.request.First); err != nil {
			return r.release(err)
		}
	}
	return r.send(ctx)
}

// checkSuperseded holds an order whose predecessor is live at the warehouse although the ledger does not know of it: a
// ledger that was lost does not know under which order a line is live. Each sweep checks held orders again.
func (r *run) checkSuperseded(ctx context.Context) error {
	if r.o.Supersedes == "" || r.claimed.Entry.State != ledger.New {
		return nil
	}
	earlier, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: r.o.Supersedes})
	switch {
	case err == nil && earlier.Reconstructed() && earlier.State.Live():
		return Superseding(r.o) // its lines are unknown until its own audit was handled again
	case err == nil:
		return r.underOtherIdentity(earlier) // known: the claim has checked its lines
	case !errors.Is(err, ledger.ErrNoEntry):
		return err
	}
	found, ok, err := r.lookUp(ctx, r.o.Supersedes)
	if err == nil && ok && found.State.Status != orderv1.Status_STATUS_CANCELLED {
		err = Superseding(r.o)
	}
	if err == nil && !ok {
		err = r.awaitLossWindow(false)
	}
	return err
}

// awaitLossWindow delays the order until "not found" is certain although the ledger may have been lost.
func (r *run) awaitLossWindow(first bool) error {
	if r.claimed.LossWindowOver(first, r.SettleFor) {
		return nil
	}
	wait := r.SettleFor - r.claimed.At.Sub(r.claimed.EpochSince) + time.Second
	return fault.RetryAfter(wait, errors.New("the ledger is younger than this order; a lost send may still arrive"))
}

// markNotFound records a look-up that found nothing and delays the order until the next one: n look-ups are spread over a
// time.
func (r *run) markNotFound(over time.Duration, of int, why string) error {
	return r.resolve(nil, func(ctx context.Context) error {
		lookups, unknownFor, err := r.Ledger.MarkNotFound(ctx, r.claimed.Claim)
		if err != nil {
			return err
		}
		next := over*time.Duration(lookups)/time.Duration(of-1) - unknownFor
		return fault.RetryAfter(max(next, firstLookup), fault.Unknown(fmt.Errorf("%s over %s; look-up %d found nothing", why, over, lookups)))
	})
}

// stillRejected handles an order that the warehouse rejected and that a later look-up did not find either. It is never sent
// again for that: after the last look-up it is refused, for the warehouse's reason.
func (r *run) stillRejected(no fault.Reason) error {
	if r.claimed.Entry.Lookups+1 < lookupsBeforeRefuse || r.claimed.UnknownFor() < r.RefuseAfter {
		return r.markNotFound(r.RefuseAfter, lookupsBeforeRefuse, "the warehouse rejected it; final after look-ups")
	}
	return r.refuse(no)
}

// send sends the order and records the result before anything is published.
func (r *run) send(ctx context.Context) error {
	until, limited := ctx.Deadline()
	if r.now().Add(callLimit).After(r.claimed.Claim.Until) || limited && time.Until(until) < callLimit {
		return r.release(fault.RetryAfter(busyPause, errors.New("too little of the claim, or of the run, is left to send safely")))
	}
	receipt, err := r.wh.SendPlanned(ctx, r.o, r.plan)
	r.feedBreaker(err)
	if err == nil {
		r.noteServed()
		return r.accept(receipt.WarehouseNo, cleanedOf(receipt.Cleaned))
	}
	var no *warehouse.Rejected
	if errors.As(err, &no) {
		return r.rejected(ctx, no)
	}
	switch class := fault.Of(err); {
	case class == fault.Unclear:
		return r.markUnknown(err)
	case class == fault.Refused:
		return r.refuse(fault.ReasonOf(err, "warehouse.refused"))
	case errors.Is(err, warehouse.ErrOutcomeUnknown):
		return r.holdUnknown(err)
	default:
		if r.claimed.Entry.State == ledger.New {
			r.notFound.put(r.request.Key, r.claimed.EpochSince) // else each wait for quota would cost a look-up
		}
		return r.release(err)
	}
}

// rejected looks up an order that the warehouse rejected in business words: it may have the order all the same ("number
// exists already"). A document may appear only later, so unless the code is known to be final, it is looked up again before
// anything is published.
func (r *run) rejected(ctx context.Context, no *warehouse.Rejected) error {
	found, ok, err := r.lookUp(ctx, r.o.OutboundNo)
	switch {
	case err == nil && ok:
		return r.adopt(ctx, found, r.notProven)
	case no.Cause != "":
		return r.holdUnknown(fault.Hold(no.Cause, no.Reason))
	case err == nil && (no.Data || r.RefuseAfter <= 0):
		return r.refuse(no.Reason)
	case err != nil:
		return r.markRejected(no.Reason, fmt.Errorf("%w; looking it up: %w", no, err))
	default:
		return r.markRejected(no.Reason, no)
	}
}

// markRejected records that the warehouse rejected the order, and delays it until the next look-up.
func (r *run) markRejected(no fault.Reason, why error) error {
	next := max(r.RefuseAfter/firstRejectedLookup, firstLookup)
	return r.resolve(fault.RetryAfter(next, fault.Unknown(why)), func(ctx context.Context) error {
		return r.Ledger.MarkRejected(ctx, r.claimed.Claim, no)
	})
}

// noteServed notes which causes an accepted order proves to be gone, so that orders held for them are released.
func (r *run) noteServed() {
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

func (r *run) lookUp(ctx context.Context, outboundNo string) (warehouse.Found, bool, error) {
	return r.lookUpAt(ctx, r.wh, outboundNo)
}

func (r *run) lookUpAt(ctx context.Context, wh warehouse.OrderFinder, outboundNo string) (warehouse.Found, bool, error) {
	found, ok, first, err := r.finder.find(ctx, wh, outboundNo)
	if first { // a failed call is one failure, however many orders shared it
		r.feedBreaker(err)
		if err == nil {
			r.Served(seller.CausePermission(r.o.Seller, findOrders))
		}
	}
	if errors.Is(err, warehouse.ErrNotPermitted) {
		err = fault.Hold(seller.CausePermission(r.o.Seller, findOrders), fault.Reason{
			Code: "warehouse.find.forbidden",
			ZH:   "此订单可能已推送，但仓库不允许按单号查询，无法确认；请为该商家开通查询权限，或人工确认后放行",
			EN:   "this order may have been sent, but the warehouse does not permit this seller to look up by number; have the permission granted, or release it after checking by hand",
		})
	}
	return found, ok, err
}

// adopt takes a document under the order's number as the order's own, if it is. giveUp ends the run when that cannot be
// determined.
func (r *run) adopt(ctx context.Context, found warehouse.Found, giveUp func(error) error) error {
	number, others, err := r.chooseOwn(ctx, found)
	if err != nil {
		return giveUp(err)
	}
	if err := r.accept(number, r.claimed.Entry.Cleaned); err != nil || len(others) == 0 {
		return err
	}
	return r.duplicateDocument(number, others)
}

// chooseOwn compares the documents under the order's number with what would be sent, and returns the order's own: JD may
// return a document that somebody else created under the number, and sellers who share an account find each other's.
// Documents of shadow mode were compared then.
func (r *run) chooseOwn(ctx context.Context, found warehouse.Found) (number string, others []string, err error) {
	all := append([]string{found.WarehouseNo}, found.Others...)
	if r.request.Hash == ledger.Shadowed || slices.Contains(r.d.Released, seller.CauseOperator(r.o.Seller, r.o.OutboundNo)) {
		return all[0], all[1:], nil
	}
	var foreign error
	for i, no := range all {
		c, err := r.wh.CompareOrder(ctx, r.o, no)
		r.feedBreaker(err)
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
	cleaned = r.withSharingNotes(cleaned)
	err := r.resolve(nil, func(ctx context.Context) error {
		return r.Ledger.Accept(ctx, r.request, number, cleaned, now)
	})
	if errors.Is(err, ledger.ErrLost) {
		err = r.duplicateDocument(number, nil)
		r.emitHeldForOperator(err) // another document is accepted: the order has not failed
		return err
	}
	var taken *ledger.NumberTaken
	if errors.As(err, &taken) {
		return r.numberOfAnother(taken)
	}
	if err != nil {
		return err
	}
	r.Metrics.accepted(now.Sub(r.d.StreamTime))
	r.emitAccepted(number, cleaned, now)
	return nil
}

// withSharingNotes adds the notes about other orders that share a platform's number. They are stored with the cleaned texts,
// so that they are published again unchanged.
func (r *run) withSharingNotes(cleaned []ledger.Cleaned) []ledger.Cleaned {
	if slices.ContainsFunc(cleaned, func(c ledger.Cleaned) bool { return c.What == sharedNote }) {
		return cleaned
	}
	cleaned = slices.Clip(cleaned)
	for _, s := range r.claimed.Sharing {
		note := Shared(r.o, s)
		cleaned = append(cleaned, ledger.Cleaned{Field: note.Field, What: note.Code, ZH: note.ZH, EN: note.EN})
	}
	return cleaned
}

// numberOfAnother handles a number that another order of the seller has: it proves nothing about this one. A person asks the
// warehouse, then a replay looks this order up first.
func (r *run) numberOfAnother(taken *ledger.NumberTaken) error {
	why := fault.Permanent(fault.Reason{
		Code: "warehouse.number.taken", Field: "outbound_no", RemoteText: taken.Number,
		ZH: "仓库为此订单返回的单号 " + taken.Number + " 属于出库单 " + taken.By + "，不能证明此订单已被接收；请与仓库核对后重放 (dlq replay)，重放时会先查询",
		EN: "the warehouse answered with number " + taken.Number + ", which belongs to " + taken.By + " and does not prove that it has this order; ask the warehouse, then replay it (dlq replay): it is looked up first",
	})
	err := r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.claimed.Claim, taken.Error())
	})
	r.emitHeldForOperator(why)
	return err
}

// duplicateDocument is the fault of one outbound number with two documents. It must never go unnoticed.
func (r *run) duplicateDocument(number string, others []string) error {
	r.Metrics.Duplicates.Inc()
	return fault.Permanent(fault.Reason{
		Code: "warehouse.twice", Field: "outbound_no", RemoteText: fmt.Sprint(append([]string{number}, others...)),
		ZH: "仓库中同一出库单号有多张单据，请立即联系仓库，只保留一张，取消其余单据",
		EN: "the warehouse has several documents under this outbound number; have all but one cancelled at once",
	})
}

func (r *run) refuse(reason fault.Reason) error {
	return r.resolve(fault.Permanent(reason), func(ctx context.Context) error {
		return r.Ledger.Refuse(ctx, r.claimed.Claim, reason)
	})
}

func (r *run) markUnknown(why error) error {
	r.Metrics.Unknown.Inc()
	return r.resolve(fault.RetryAfter(firstLookup, fault.Unknown(why)), func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.claimed.Claim, why.Error())
	})
}

// notProven ends a run that sent the order and then could not determine whether the document under its number is its own.
func (r *run) notProven(why error) error {
	if fault.Of(why) != fault.Held {
		return r.markUnknown(why)
	}
	return r.holdUnknown(why)
}

// holdUnknown holds an order for its set-up. When that is fixed, the order is looked up before it is sent again: the
// rejection alone does not prove that the warehouse has nothing.
func (r *run) holdUnknown(why error) error {
	return r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.MarkUnknown(ctx, r.claimed.Claim, why.Error())
	})
}

func (r *run) release(why error) error {
	return r.resolve(why, func(ctx context.Context) error {
		return r.Ledger.Release(ctx, r.claimed.Claim, why.Error())
	})
}

// resolve writes the outcome even when the handler's own time is up, then returns it. If the write fails, its error is
// returned: the next delivery finds an unresolved claim and looks the order up.
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

func (r *run) emitAccepted(number string, cleaned []ledger.Cleaned, at time.Time) {
	r.events = append(r.events, acceptedEvent(r.o, number, cleaned, at))
}

func acceptedEvent(o *orderv1.Audited, number string, cleaned []ledger.Cleaned, at time.Time) event.Event {
	m := &orderv1.Accepted{Ref: ref(o, number), At: timestamppb.New(at)}
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

// emitHeldForOperator publishes that a person must handle an order that is, or may be, at the warehouse.
func (r *run) emitHeldForOperator(why error) {
	r.events = append(r.events, heldEvent(r.o, r.Now(), seller.CauseOperator(r.o.Seller, r.o.OutboundNo), fault.ReasonOf(why, "internal")))
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run) feedBreaker(err error) {
	r.sellerEvents = append(r.sellerEvents, r.Pusher.feedBreaker(r.o.Seller, err)...)
}

func (p *Pusher) feedBreaker(sellerName string, err error) []event.Event {
	events, _ := guard.Guard{Breaker: p.Breaker, Sellers: p.Sellers, ProbeAfter: p.ProbeAfter, Now: p.Now}.Report(sellerName, err)
	return events
}
