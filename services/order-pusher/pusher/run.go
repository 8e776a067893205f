package pusher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/order-pusher/order"
	"stockbridge/services/order-pusher/shadow"
)

// run is the protocol for one delivery of one order: it does the steps that package document decides on.
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
	// askedAt is when the claim was requested, by our own clock; claimedAt is the store's answer.
	askedAt, claimedAt time.Time
	// line is why the claim failed, taken why the warehouse's number could not be accepted.
	line  *ledger.ItemTaken
	taken *ledger.NumberTaken
	// cleaned is what the warehouse's client changed in the texts that it sent, or the entry's of a document that was found.
	cleaned    []ledger.Cleaned
	acceptedAt time.Time
	// leave gives the slot back.
	leave func()
}

func (r *run) push(ctx context.Context) error {
	defer func() {
		if r.leave != nil {
			r.leave()
		}
	}()
	k := r.known()
	step := document.Next(k)
	for ; !step.Final(); step = document.Next(k) {
		r.do(ctx, step, &k)
	}
	return r.end(step, &k)
}

// known is what the message says.
func (r *run) known() document.Known {
	name, no := r.o.Seller, r.o.OutboundNo
	audited := r.d.StreamTime
	if at := r.o.AuditedAt.AsTime(); at.Before(audited) {
		audited = at
	}
	return document.Known{
		Policy: document.Policy{
			ResendAfter: r.ResendAfter, ResendLookups: lookupsBeforeResend,
			RefuseAfter: r.RefuseAfter, RefuseLookups: lookupsBeforeRefuse, RefuseFirst: firstRejectedLookup,
			SettleFor: r.SettleFor, FirstLookup: firstLookup, BusyPause: busyPause, CallLimit: callLimit, MovedMargin: movedMargin,
		},
		Delivery: document.Delivery{
			Revision: r.o.Revision, Supersedes: r.o.Supersedes != "", First: r.d.First, Replay: r.d.Replay, AuditedAt: audited,
			Confirmed: r.released(seller.CauseOperator(name, no)), Ours: r.released(seller.CauseShadow(name, no)),
			NotFormer: r.released(seller.CauseFormer(name, no)),
		},
	}
}

func (r *run) released(cause string) bool { return slices.Contains(r.d.Released, cause) }

// do does one step and adds what it learned.
func (r *run) do(ctx context.Context, step document.Step, k *document.Known) {
	switch step.Do {
	case document.Read:
		k.Stored = r.read(ctx, r.o.OutboundNo)
	case document.Check:
		k.Checks = document.Checks{Done: true, Err: r.prepare(ctx)}
		k.Stored = document.Other{} // it may have changed meanwhile
		if r.seller != nil {
			k.AccountChangedAt = r.seller.MovedAt
		}
	case document.ClaimIt:
		k.Claim = r.claim(ctx)
	case document.FreeLine:
		freed, err := r.freeShadowLine(ctx, r.line.By)
		k.Line = document.Line{FreeTried: true, Err: err, Superseded: r.line.Superseded}
		if freed {
			k.Claim, k.Line.Err = r.claim(ctx), nil
			k.Line.Superseded = r.line.Superseded
		}
	case document.ReadHolder:
		k.Line.Holder = r.read(ctx, r.line.By)
		if !r.line.Superseded {
			k.Line.Holder, k.Earlier = r.readEarlier(ctx, k.Line.Holder)
		}
	case document.TakeSlot:
		k.Slot = r.takeSlot(k)
	case document.ReadEarlier:
		k.Earlier = r.read(ctx, r.o.Supersedes)
	case document.FindEarlier:
		k.Earlier.Found = r.find(ctx, r.o.Supersedes)
	case document.Find:
		k.Found = r.find(ctx, r.o.OutboundNo)
		r.cleaned = k.Claim.Entry.Cleaned
	case document.Compare:
		k.Own = r.chooseOwn(ctx, k.Found.Numbers)
	case document.Retry:
		k.Retried = document.Retried{Done: true, Err: r.Ledger.Resend(ctx, k.Claim.Claim)}
	case document.Send:
		k.Answer, k.Found = r.send(ctx), document.Found{}
	default:
		k.Resolved = r.resolve(step, k)
	}
	k.Left = r.left(ctx, k)
}

// left is the time that is left to send in.
func (r *run) left(ctx context.Context, k *document.Known) time.Duration {
	left := k.Claim.Claim.Until.Sub(r.now())
	if until, limited := ctx.Deadline(); limited {
		left = min(left, time.Until(until))
	}
	return left
}

// now is the store's time: its answer to Claim plus what has passed here since. Our own clock may be off.
func (r *run) now() time.Time { return r.claimedAt.Add(r.Now().Sub(r.askedAt)) }

func (r *run) key(no string) ledger.Key { return ledger.Key{Seller: r.o.Seller, Kind: kind, No: no} }

// read reads an entry without a claim.
func (r *run) read(ctx context.Context, no string) document.Other {
	entry, err := r.Ledger.Get(ctx, r.key(no))
	if errors.Is(err, ledger.ErrNoEntry) {
		return document.Other{Read: true}
	}
	return document.Other{
		Read: true, Exists: err == nil, Entry: entry, Err: err,
		SamePayload:   err == nil && no == r.o.OutboundNo && order.SamePayload(entry, r.original),
		OtherIdentity: r.underOtherIdentity(entry),
	}
}

// readEarlier reads the superseded order too, because another one has the line: perhaps both wait for that.
func (r *run) readEarlier(ctx context.Context, holder document.Other) (document.Other, document.Other) {
	switch {
	case holder.Err != nil:
		return holder, document.Other{}
	case !holder.Exists:
		holder.Err = ledger.ErrNoEntry // it was freed meanwhile
		return holder, document.Other{}
	}
	earlier := r.read(ctx, r.o.Supersedes)
	holder.Err = earlier.Err
	return holder, earlier
}

// underOtherIdentity reports whether a document is live under another identity: its end is not visible under today's.
func (r *run) underOtherIdentity(e ledger.Entry) bool {
	return e.State.Live() && e.Identity != "" && r.request.Identity != "" && e.Identity != r.request.Identity &&
		!r.released(seller.CauseIdentity(r.o.Seller, e.Key.No))
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

// claim claims the document in the ledger, durably, before anything is sent. An order of shadow mode stays one, whatever its
// content, and an entry of an earlier build keeps its hash.
func (r *run) claim(ctx context.Context) document.Claim {
	if r.request.Owner == "" {
		r.request = order.ClaimRequest(r.d, r.o, order.Hash(r.o), r.NewOwner())
		r.request.Identity = string(r.wh.Identity())
		r.request.AnyIdentity = r.released(seller.CauseIdentity(r.o.Seller, r.o.OutboundNo))
	}
	r.askedAt = r.Now()
	claimed, err := r.Ledger.Claim(ctx, r.request)
	if errors.Is(err, ledger.ErrHash) && (claimed.Entry.Origin == ledger.External || order.SamePayload(claimed.Entry, r.original)) {
		r.request.Origin, r.request.Hash = claimed.Entry.Origin, claimed.Entry.Hash
		claimed, err = r.Ledger.Claim(ctx, r.request)
	}
	r.claimedAt = claimed.At
	c := document.Claim{Done: true, Err: err, Claimed: claimed, External: r.request.Origin == ledger.External}
	switch {
	case err == nil:
		c.Result = document.Granted
	case errors.Is(err, ledger.ErrBusy):
		c.Result = document.Busy
	case errors.Is(err, ledger.ErrHash):
		c.Result = document.OtherPayload
	case errors.Is(err, ledger.ErrIdentity):
		c.Result = document.OtherIdentity
	case errors.As(err, &r.line):
		c.Result = document.LineTaken
	default:
		c.Result = document.Failed
	}
	return c
}

// takeSlot takes one of the seller's slots.
func (r *run) takeSlot(k *document.Known) document.Slot {
	var wait time.Duration
	if r.leave, wait = r.fairness.enter(bulkheadKey{r.o.Seller, r.d.Returned}, r.Slots, r.Now); r.leave == nil {
		return document.Slot{Done: true, Err: fault.RetryAfter(wait, errors.New("the seller's orders hold enough slots; the others are for other sellers"))}
	}
	c := k.Claim
	return document.Slot{Done: true, NotFound: !c.NeverSent && c.Entry.State == ledger.New && r.notFound.take(r.request.Key, c.EpochSince)}
}

// find looks an order up.
func (r *run) find(ctx context.Context, no string) document.Found {
	found, ok, err := r.lookUp(ctx, no)
	f := document.Found{Done: true, Err: err}
	if err == nil && ok {
		f.Numbers = append([]string{found.WarehouseNo}, found.Others...)
		f.Cancelled = found.State.Status == documentv1.Status_STATUS_CANCELLED
	}
	return f
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

// chooseOwn compares the documents under the order's number with what would be sent, and returns the order's own: JD may
// return a document that somebody else created under the number, and sellers who share an account find each other's.
func (r *run) chooseOwn(ctx context.Context, numbers []string) document.Own {
	var foreign error
	for i, no := range numbers {
		c, err := r.wh.CompareOrder(ctx, r.o, no)
		r.feedBreaker(err)
		if err != nil {
			return document.Own{Done: true, Err: err}
		}
		if len(c.Foreign) == 0 {
			return document.Own{Done: true, Number: no, Others: slices.Delete(slices.Clone(numbers), i, i+1)}
		}
		if foreign == nil {
			foreign = order.Foreign(r.o, no, c.Foreign)
		}
	}
	r.Metrics.Foreign.Inc()
	return document.Own{Done: true, Err: foreign}
}

// send sends the order.
func (r *run) send(ctx context.Context) document.Answer {
	receipt, err := r.wh.SendPlanned(ctx, r.o, r.plan)
	r.feedBreaker(err)
	if err == nil {
		r.noteServed()
		r.cleaned = cleanedOf(receipt.Cleaned)
		return document.Answer{Done: true, Number: receipt.WarehouseNo}
	}
	a := document.Answer{Done: true, Err: err, Reason: fault.ReasonOf(err, "warehouse.refused"), MaybeDone: errors.Is(err, warehouse.ErrOutcomeUnknown)}
	var no *warehouse.Rejected
	if errors.As(err, &no) {
		a.Err, a.Rejected, a.Reason, a.Final, a.Cause = no, true, no.Reason, no.Data, no.Cause
	}
	return a
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

// resolve writes how the claim ends, even when the handler's own time is up.
func (r *run) resolve(step document.Step, k *document.Known) document.Resolved {
	ctx, cancel := context.WithTimeout(trace.ContextWithSpan(context.Background(), r.span), writeLimit)
	defer cancel()
	claim, outcome := k.Claim.Claim, r.fault(step, k)
	done := document.Resolved{Step: step}
	switch step.Do {
	case document.Accept:
		r.acceptedAt = r.now()
		r.cleaned = r.withSharingNotes(r.cleaned, k.Claim.Sharing)
		done.Err = r.Ledger.Accept(ctx, r.request, step.Number, r.cleaned, r.acceptedAt)
		done.Lost, done.NumberTaken = errors.Is(done.Err, ledger.ErrLost), errors.As(done.Err, &r.taken)
	case document.Refuse:
		done.Err = r.Ledger.Refuse(ctx, claim, step.Reason)
	case document.MarkUnknown:
		why := outcome
		if step.Why == document.WhyNumberTaken {
			why = r.taken
		}
		if step.Lost {
			r.Metrics.Unknown.Inc()
		}
		done.Err = r.Ledger.MarkUnknown(ctx, claim, why.Error())
	case document.MarkRejected:
		done.Err = r.Ledger.MarkRejected(ctx, claim, step.Reason)
	case document.MarkNotFound:
		done.Lookups, done.UnknownFor, done.Err = r.Ledger.MarkNotFound(ctx, claim)
	case document.Release:
		if step.NotFound {
			r.notFound.put(r.request.Key, k.Claim.EpochSince) // else each wait for quota would cost a look-up
		}
		why := outcome.Error()
		if step.Known {
			why = "reported again"
		}
		done.Err = r.Ledger.Release(ctx, claim, why)
	default:
		panic(fmt.Sprintf("no such step: %d", step.Do))
	}
	if done.Err != nil && outcome != nil {
		done.Err = fmt.Errorf("%w (while recording: %w)", done.Err, errors.New(outcome.Error()))
	}
	return done
}

// withSharingNotes adds the notes about other orders that share a platform's number. They are stored with the cleaned texts,
// so that they are published again unchanged.
func (r *run) withSharingNotes(cleaned []ledger.Cleaned, sharing []ledger.Sharing) []ledger.Cleaned {
	if slices.ContainsFunc(cleaned, func(c ledger.Cleaned) bool { return c.What == order.SharedNote }) {
		return cleaned
	}
	cleaned = slices.Clip(cleaned)
	for _, s := range sharing {
		note := order.Shared(r.o, s)
		cleaned = append(cleaned, ledger.Cleaned{Field: note.Field, What: note.Code, ZH: note.ZH, EN: note.EN})
	}
	return cleaned
}

// end is what a run ends with: its events, and the error that the bus settles.
func (r *run) end(step document.Step, k *document.Known) error {
	switch {
	case step.Do == document.Ignore:
		return nil
	case step.Do == document.Report && step.Known:
		entry := k.Claim.Entry
		if !k.Claim.Done {
			entry = k.Stored.Entry
		}
		r.events = append(r.events, order.AcceptedEvent(r.o, entry.Number, entry.Cleaned, entry.ChangedAt))
		return nil
	case step.Do == document.Report:
		r.Metrics.accepted(r.acceptedAt.Sub(r.d.StreamTime))
		r.events = append(r.events, order.AcceptedEvent(r.o, step.Number, r.cleaned, r.acceptedAt))
		if len(step.Others) == 0 {
			return nil
		}
		step.Why = document.WhyDuplicate
	}
	err := r.fault(step, k)
	if step.Why == document.WhyDuplicate {
		r.Metrics.Duplicates.Inc()
	}
	if step.Operator { // the order is, or may be, at the warehouse
		why := err
		if step.Why != "" {
			why = r.fault(document.Step{Why: step.Why, Number: step.Number}, k)
		}
		r.events = append(r.events, order.HeldEvent(r.o, r.Now(), seller.CauseOperator(r.o.Seller, r.o.OutboundNo), fault.ReasonOf(why, "internal")))
	}
	return err
}

// fault is the error that a step names: nil for one that ends well.
func (r *run) fault(step document.Step, k *document.Known) error {
	if step.Err != nil {
		return step.Err
	}
	o := r.o
	switch step.Why {
	case document.WhyReused:
		return order.Reused(o)
	case document.WhyCancelled:
		return order.Cancelled(o)
	case document.WhyOtherIdentity:
		return order.Elsewhere(o, o.OutboundNo, k.Claim.Entry.Identity, r.request.Identity)
	case document.WhyEarlierIdentity:
		earlier := k.Earlier.Entry
		if k.Claim.Result == document.LineTaken {
			earlier = k.Line.Holder.Entry
		}
		return order.Elsewhere(o, earlier.Key.No, earlier.Identity, r.request.Identity)
	case document.WhySuperseding:
		return order.Superseding(o)
	case document.WhyLine:
		if o.Supersedes == "" {
			return order.LineLive(o, r.line.Item, r.line.By)
		}
		return order.LineTaken(o, r.line.Item, k.Line.Holder.Entry, k.Earlier.Exists && k.Earlier.Entry.State != ledger.New)
	case document.WhyFormer:
		return order.Forgotten(o)
	case document.WhyExternal:
		return order.ShadowWaiting(o)
	case document.WhyNumberTaken:
		return order.NumberTaken(r.taken)
	case document.WhyDuplicate:
		return order.Duplicate(step.Number, step.Others)
	case "":
		return nil
	default:
		panic("no text for: " + string(step.Why))
	}
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run) feedBreaker(err error) {
	r.sellerEvents = append(r.sellerEvents, r.Pusher.feedBreaker(r.o.Seller, err)...)
}

func (p *Pusher) feedBreaker(sellerName string, err error) []event.Event {
	events, _ := guard.Guard{Breaker: p.Breaker, Sellers: p.Sellers, ProbeAfter: p.ProbeAfter, Now: p.Now}.Report(sellerName, err)
	return events
}

// freeShadowLine frees a line of one of our orders that an order in shadow holds: when that is cancelled at the warehouse, or
// when it is not found and a person has confirmed that it never will be.
func (r *run) freeShadowLine(ctx context.Context, no string) (freed bool, err error) {
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: no})
	if errors.Is(err, ledger.ErrNoEntry) || err == nil && (entry.Origin != ledger.External || entry.State == ledger.Accepted) {
		return false, nil // not in shadow, or adopted: then it is followed
	}
	if err != nil {
		return false, err
	}
	wh := r.wh
	if entry.Warehouse != r.o.Warehouse {
		if wh, err = r.Open(r.seller, entry.Warehouse, quota.Push); err != nil {
			return false, err
		}
	}
	found, ok, err := r.lookUpAt(ctx, wh, no)
	if err != nil {
		return false, err
	}
	over := ok && found.State.Status == documentv1.Status_STATUS_CANCELLED
	if !over && (ok || !slices.Contains(r.d.Released, seller.CauseShadow(r.o.Seller, no))) {
		return false, order.ShadowLine(r.o, no)
	}
	return shadow.FreeLines(ctx, r.Ledger, r.o.Seller, no, entry.Revision, r.NewOwner())
}
