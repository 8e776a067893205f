package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
)

// run is the protocol for one delivery of one document: it does the steps that package document decides on.
type run[M, D proto.Message] struct {
	*Pusher[M, D]
	d *bus.Delivery
	// m is the cleaned document, original the document as the ERP published it.
	m, original M
	facts       kind.Facts
	// span is the handler's span: writes after the handler's own time is up belong to it too.
	span trace.Span
	// events are the document's own, sellerEvents those about its seller.
	events, sellerEvents []event.Event

	seller  *seller.Seller
	wh      warehouse.Channel[M, D]
	plan    warehouse.Plan
	request ledger.ClaimRequest
	// askedAt is when the claim was requested, by our own clock; claimedAt is the store's answer.
	askedAt, claimedAt time.Time
	// item is why the claim failed, taken why the warehouse's number could not be accepted.
	item  *ledger.ItemTaken
	taken *ledger.NumberTaken
	// cleaned is what the warehouse's client changed in the texts that it sent, or the entry's of a document that was found.
	cleaned    []ledger.Cleaned
	acceptedAt time.Time
}

func (r *run[M, D]) push(ctx context.Context) error {
	k := r.known()
	step := document.Next(k)
	for ; !step.Final(); step = document.Next(k) {
		r.do(ctx, step, &k)
	}
	return r.end(step, &k)
}

// known is what the message says.
func (r *run[M, D]) known() document.Known {
	f := r.facts
	no := r.Kind.CauseNo(f.No)
	audited := r.d.StreamTime
	if at := f.AuditedAt; at.Before(audited) {
		audited = at
	}
	return document.Known{
		Policy: document.Policy{
			ResendAfter: r.ResendAfter, ResendLookups: lookupsBeforeResend,
			RefuseAfter: r.RefuseAfter, RefuseLookups: lookupsBeforeRefuse, RefuseFirst: firstRejectedLookup,
			SettleFor: r.SettleFor, FirstLookup: firstLookup, BusyPause: busyPause, CallLimit: callLimit, MovedMargin: movedMargin,
		},
		Delivery: document.Delivery{
			Revision: f.Revision, Supersedes: f.Supersedes != "", First: r.d.First, Replay: r.d.Replay, AuditedAt: audited,
			Confirmed: r.released(seller.CauseOperator(f.Seller, no)), Ours: r.released(seller.CauseShadow(f.Seller, no)),
			NotFormer: r.released(seller.CauseFormer(f.Seller, no)), AbsentAt: r.d.ReleasedAt[seller.CauseUnresolved(f.Seller, no)],
		},
	}
}

func (r *run[M, D]) released(cause string) bool { return slices.Contains(r.d.Released, cause) }

// do does one step and adds what it learned.
func (r *run[M, D]) do(ctx context.Context, step document.Step, k *document.Known) {
	switch step.Do {
	case document.Read:
		k.Stored = r.read(ctx, r.facts.No)
	case document.Check:
		k.Checks = document.Checks{Done: true, Err: r.prepare(ctx)}
		k.Stored = document.Other{} // it may have changed meanwhile
		if r.seller != nil {
			k.AccountChangedAt = r.seller.MovedAt
		}
		if r.wh != nil {
			_, finds := r.wh.(warehouse.Finder[D])
			k.CannotFind = !finds
		}
	case document.ClaimIt:
		k.Claim = r.claim(ctx)
	case document.FreeLine:
		freed, err := r.freeItem(ctx, r.item.By)
		k.Line = document.Line{FreeTried: true, Err: err, Superseded: r.item.Superseded}
		if freed {
			k.Claim, k.Line.Err = r.claim(ctx), nil
			k.Line.Superseded = r.item.Superseded
		}
	case document.ReadHolder:
		k.Line.Holder = r.read(ctx, r.item.By)
		if !r.item.Superseded {
			k.Line.Holder, k.Earlier = r.readEarlier(ctx, k.Line.Holder)
		}
	case document.ReadEarlier:
		k.Earlier = r.read(ctx, r.facts.Supersedes)
	case document.FindEarlier:
		k.Earlier.Found = r.find(ctx, r.facts.Supersedes)
	case document.Find:
		k.Found = r.find(ctx, r.facts.No)
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
func (r *run[M, D]) left(ctx context.Context, k *document.Known) time.Duration {
	left := k.Claim.Claim.Until.Sub(r.now())
	if until, limited := ctx.Deadline(); limited {
		left = min(left, time.Until(until))
	}
	return left
}

// now is the store's time: its answer to Claim plus what has passed here since. Our own clock may be off.
func (r *run[M, D]) now() time.Time { return r.claimedAt.Add(r.Now().Sub(r.askedAt)) }

func (r *run[M, D]) key(no string) ledger.Key { return r.Kind.Key(r.facts.Seller, no) }

// read reads an entry without a claim.
func (r *run[M, D]) read(ctx context.Context, no string) document.Other {
	entry, err := r.Ledger.Get(ctx, r.key(no))
	if errors.Is(err, ledger.ErrNoEntry) {
		return document.Other{Read: true}
	}
	return document.Other{
		Read: true, Exists: err == nil, Entry: entry, Err: err,
		SamePayload:   err == nil && no == r.facts.No && r.Kind.Same(entry, r.original),
		OtherIdentity: r.underOtherIdentity(entry),
	}
}

// readEarlier reads the superseded document too, because another one has the line: perhaps both wait for that.
func (r *run[M, D]) readEarlier(ctx context.Context, holder document.Other) (document.Other, document.Other) {
	switch {
	case holder.Err != nil:
		return holder, document.Other{}
	case !holder.Exists:
		holder.Err = ledger.ErrNoEntry // it was freed meanwhile
		return holder, document.Other{}
	}
	earlier := r.read(ctx, r.facts.Supersedes)
	holder.Err = earlier.Err
	return holder, earlier
}

// underOtherIdentity reports whether a document is live under another identity: its end is not visible under today's.
func (r *run[M, D]) underOtherIdentity(e ledger.Entry) bool {
	return e.State.Live() && e.Identity != "" && r.request.Identity != "" && e.Identity != r.request.Identity &&
		!r.released(seller.CauseIdentity(r.facts.Seller, r.Kind.CauseNo(e.Key.No)))
}

// prepare makes all checks that need no claim.
func (r *run[M, D]) prepare(ctx context.Context) error {
	f := r.facts
	s, ok := r.Sellers.Get(f.Seller)
	if !ok {
		return seller.Unknown(f.Seller)
	}
	if r.Ours != nil {
		if err := r.Ours(s, f, r.d); err != nil {
			return err
		}
	}
	if err := r.Kind.Check(s, r.m, r.d.Released...); err != nil {
		return err
	}
	wh, err := r.open(s, f.Warehouse, quota.Push)
	if err != nil {
		return err
	}
	r.seller, r.wh = s, wh
	if r.plan = wh.Plan(r.original); r.plan.Err != nil {
		return r.plan.Err
	}
	if r.Admit == nil {
		return nil
	}
	return r.Admit(ctx, s, f, r.d.Released)
}

// open opens the part of a warehouse that takes the kind.
func (p *Pusher[M, D]) open(s *seller.Seller, code string, class quota.Class) (warehouse.Channel[M, D], error) {
	wh, err := p.Open(s, code, class)
	if err != nil {
		return nil, err
	}
	channel, takes := p.Kind.Channel(wh)
	if !takes {
		return nil, p.Kind.NotTaken(s.Name(), code)
	}
	return channel, nil
}

// claim claims the document in the ledger, durably, before anything is sent. One that another program sends stays so,
// whatever its content, and an entry of an earlier build keeps its hash.
func (r *run[M, D]) claim(ctx context.Context) document.Claim {
	if r.request.Owner == "" {
		r.request = r.Kind.ClaimRequest(DeliveryOf(r.d), r.facts, r.Kind.Hash(r.m), r.NewOwner())
		r.request.First = r.request.First || r.ledgerProves()
		r.request.Identity = string(r.wh.Identity())
		r.request.AnyIdentity = r.released(seller.CauseIdentity(r.facts.Seller, r.Kind.CauseNo(r.facts.No)))
	}
	r.askedAt = r.Now()
	claimed, err := r.Ledger.Claim(ctx, r.request)
	if errors.Is(err, ledger.ErrHash) && (claimed.Entry.Origin == ledger.External || r.Kind.Same(claimed.Entry, r.original)) {
		r.request.Origin, r.request.Hash = claimed.Entry.Origin, claimed.Entry.Hash
		claimed, err = r.Ledger.Claim(ctx, r.request)
	}
	r.claimedAt = claimed.At
	c := document.Claim{Done: true, Err: err, Claimed: claimed, External: r.request.Origin == ledger.External}
	switch {
	case err == nil:
		c.Result = document.Granted
		c.NotFound = !c.NeverSent && c.Entry.State == ledger.New && r.notFound.take(r.request.Key, c.EpochSince)
	case errors.Is(err, ledger.ErrBusy):
		c.Result = document.Busy
	case errors.Is(err, ledger.ErrHash):
		c.Result = document.OtherPayload
	case errors.Is(err, ledger.ErrIdentity):
		c.Result = document.OtherIdentity
	case errors.As(err, &r.item):
		c.Result = document.LineTaken
	default:
		c.Result = document.Failed
	}
	return c
}

// trustLedgerFor is how old a document may be at most whose absence from the ledger proves that it was never sent. It must
// stay below the time after which the ledger forgets what is settled (90 days).
const trustLedgerFor = 60 * 24 * time.Hour

// ledgerProves reports whether a document without an entry counts as never sent also when it is delivered again or
// replayed, if it is younger than the ledger's epoch: every send since then left an entry. Where a look-up is possible it
// is made all the same. Without one a person would have to make it, for each document that was held or retried before its
// claim; and in a lane each of a backlog would cost a look-up, though the first delivery most often ended before its claim.
func (r *run[M, D]) ledgerProves() bool {
	_, finds := r.wh.(warehouse.Finder[D])
	return (!finds || r.d.InLane) && r.Now().Sub(r.d.StreamTime) < trustLedgerFor
}

// find looks a document up.
func (r *run[M, D]) find(ctx context.Context, no string) document.Found {
	docs, err := r.lookUp(ctx, r.wh, no)
	f := document.Found{Done: true, Err: err}
	for _, doc := range docs {
		f.Numbers = append(f.Numbers, doc.Number)
	}
	f.Cancelled = len(docs) > 0 && docs[0].Cancelled()
	return f
}

func (r *run[M, D]) lookUp(ctx context.Context, wh warehouse.Reader[D], no string) ([]warehouse.Document[D], error) {
	finder, ok := wh.(warehouse.Finder[D])
	if !ok {
		panic("look up a document that the warehouse cannot find: " + r.Kind.Name)
	}
	docs, events, err := r.LookUp(ctx, r.facts.Seller, finder, no)
	r.sellerEvents = append(r.sellerEvents, events...)
	if errors.Is(err, warehouse.ErrNotPermitted) {
		err = r.Kind.FindForbidden(seller.CausePermission(r.facts.Seller, FindPermission))
	}
	return docs, err
}

// chooseOwn compares the documents under the number with what would be sent, and returns the document's own: a warehouse
// may return one that somebody else created under the number, and sellers who share an account find each other's.
func (r *run[M, D]) chooseOwn(ctx context.Context, numbers []string) document.Own {
	comparer, ok := r.wh.(warehouse.Comparer[M])
	if !ok {
		return document.Own{Done: true, Number: numbers[0], Others: numbers[1:]}
	}
	var foreign error
	for i, no := range numbers {
		c, err := comparer.Compare(ctx, r.m, no)
		r.feedBreaker(err)
		if err != nil {
			return document.Own{Done: true, Err: err}
		}
		if len(c.Foreign) == 0 {
			return document.Own{Done: true, Number: no, Others: slices.Delete(slices.Clone(numbers), i, i+1)}
		}
		if foreign == nil {
			foreign = r.Kind.Foreign(r.facts.Seller, r.facts.No, no, c.Foreign)
		}
	}
	r.Metrics.Foreign.Inc()
	return document.Own{Done: true, Err: foreign}
}

// send sends the document.
func (r *run[M, D]) send(ctx context.Context) document.Answer {
	receipt, err := r.wh.Send(ctx, r.m, r.plan)
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

// noteServed notes which causes an accepted document proves to be gone, so that what is held for them is released.
func (r *run[M, D]) noteServed() {
	name := r.facts.Seller
	site, _ := r.seller.Warehouse(r.facts.Warehouse)
	r.Served(name)
	r.Served(seller.CauseNumber(name, seller.NumberWarehouse, r.facts.Warehouse))
	r.Served(seller.CauseNumber(name, seller.NumberDepartment, site.GetAccount()))
	for what, code := range r.facts.Served {
		r.Served(seller.CauseNumber(name, what, code))
	}
}

// resolve writes how the claim ends, even when the handler's own time is up.
func (r *run[M, D]) resolve(step document.Step, k *document.Known) document.Resolved {
	ctx, cancel := context.WithTimeout(trace.ContextWithSpan(context.Background(), r.span), WriteLimit)
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
		reason := step.Reason
		if step.Why != "" {
			reason = fault.ReasonOf(outcome, "internal")
		}
		done.Err = r.Ledger.Refuse(ctx, claim, reason)
	case document.MarkUnknown:
		why := outcome
		switch step.Why {
		case document.WhyNumberTaken:
			why = r.taken
		case document.WhyUnresolved:
			why = k.Answer.Err
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

// withSharingNotes adds the notes about other documents that share a platform's number. They are stored with the cleaned
// texts, so that they are published again unchanged.
func (r *run[M, D]) withSharingNotes(cleaned []ledger.Cleaned, sharing []ledger.Sharing) []ledger.Cleaned {
	if r.Notes == nil || slices.ContainsFunc(cleaned, func(c ledger.Cleaned) bool { return c.What == kind.SharedNote }) {
		return cleaned
	}
	cleaned = slices.Clip(cleaned)
	for _, s := range sharing {
		note := r.Notes(r.m, s)
		cleaned = append(cleaned, ledger.Cleaned{Field: note.Field, What: note.Code, ZH: note.ZH, EN: note.EN})
	}
	return cleaned
}

// end is what a run ends with: its events, and the error that the bus settles.
func (r *run[M, D]) end(step document.Step, k *document.Known) error {
	switch {
	case step.Do == document.Ignore:
		return nil
	case step.Do == document.Report && step.Known: // a wish to cancel it has a consumer of its own
		entry := k.Claim.Entry
		if !k.Claim.Done {
			entry = k.Stored.Entry
		}
		r.events = append(r.events, r.Kind.AcceptedEvent(r.facts, entry.Number, entry.Cleaned, entry.ChangedAt))
		return nil
	case step.Do == document.Report:
		r.Metrics.accepted(r.acceptedAt.Sub(r.d.StreamTime))
		r.events = append(r.events, r.Kind.AcceptedEvent(r.facts, step.Number, r.cleaned, r.acceptedAt))
		if len(step.Others) == 0 {
			return nil
		}
		step.Why = document.WhyDuplicate
	}
	err := r.fault(step, k)
	if step.Why == document.WhyCancelWanted && step.Do == document.Stop && k.Resolved.Err == nil {
		r.events = append(r.events, r.Kind.CancelledEvent(r.Kind.NewRef(r.facts, ""), r.Now(), k.Claim.Entry.Cancel.RequestID))
		return nil // the wish stays, or a replay would send it
	}
	if step.Why == document.WhyDuplicate {
		r.Metrics.Duplicates.Inc()
	}
	if step.Operator { // the document is, or may be, at the warehouse
		why := err
		if step.Why != "" {
			why = r.fault(document.Step{Why: step.Why, Number: step.Number}, k)
		}
		r.events = append(r.events, r.Kind.HeldEvent(r.Kind.NewRef(r.facts, ""), r.Now(), seller.CauseOperator(r.facts.Seller, r.Kind.CauseNo(r.facts.No)), fault.ReasonOf(why, "internal")))
	}
	return err
}

// fault is the error that a step names: nil for one that ends well.
func (r *run[M, D]) fault(step document.Step, k *document.Known) error {
	if step.Err != nil {
		return step.Err
	}
	f, words := r.facts, r.Kind.Terms
	switch step.Why {
	case document.WhyReused:
		return words.Reused(f.No)
	case document.WhyCancelled:
		return words.CancelledBefore(f.No)
	case document.WhyCancelWanted:
		return words.WithdrawnBefore(f.No)
	case document.WhyOtherIdentity:
		return words.Elsewhere(f.Seller, f.No, k.Claim.Entry.Identity, r.request.Identity)
	case document.WhyEarlierIdentity:
		earlier := k.Earlier.Entry
		if k.Claim.Result == document.LineTaken {
			earlier = k.Line.Holder.Entry
		}
		return words.Elsewhere(f.Seller, earlier.Key.No, earlier.Identity, r.request.Identity)
	case document.WhySuperseding:
		return words.Superseding(f.Seller, f.Supersedes)
	case document.WhyLine:
		if f.Supersedes == "" {
			return words.ItemLive(r.item.Item, r.itemField(), r.item.By)
		}
		return r.Kind.ItemTaken(f, r.item.Item, r.itemField(), k.Line.Holder.Entry, k.Earlier.Exists && k.Earlier.Entry.State != ledger.New)
	case document.WhyFormer:
		return words.Forgotten(f.Seller, f.No)
	case document.WhyExternal:
		return r.External(f)
	case document.WhyNumberTaken:
		return words.NumberTaken(r.taken)
	case document.WhyDuplicate:
		return words.Duplicate(step.Number, step.Others)
	case document.WhyUnresolved:
		return words.Unresolved(f.Seller, f.No, lastWords(k))
	case "":
		return nil
	default:
		panic("no text for: " + string(step.Why))
	}
}

// lastWords is what is known of how the sending of an unresolved document ended: the warehouse's own words.
func lastWords(k *document.Known) string {
	switch {
	case k.Answer.Rejected:
		return k.Answer.Reason.RemoteText
	case k.Claim.Done:
		return k.Claim.Entry.Rejection.RemoteText
	}
	return ""
}

func (r *run[M, D]) itemField() string {
	if r.ItemField == nil {
		return "lines"
	}
	return r.ItemField(r.m, r.item.Item)
}

// feedBreaker reports the outcome of a call to the seller's breaker and pauses the seller when it trips.
func (r *run[M, D]) feedBreaker(err error) {
	r.sellerEvents = append(r.sellerEvents, r.Pusher.feedBreaker(r.facts.Seller, err)...)
}

func (p *Pusher[M, D]) feedBreaker(sellerName string, err error) []event.Event {
	events, _ := p.guard().Report(sellerName, err)
	return events
}

func (p *Pusher[M, D]) guard() guard.Guard {
	return guard.Guard{Breaker: p.Breaker, Sellers: p.Sellers, ProbeAfter: p.ProbeAfter, Now: p.Now}
}

// freeItem frees an item that a document holds which never will be sent.
func (r *run[M, D]) freeItem(ctx context.Context, by string) (bool, error) {
	if r.FreeItem == nil {
		return false, nil
	}
	return r.FreeItem(ctx, Run[D]{
		Seller: r.seller, Facts: r.facts, Released: r.d.Released,
		Find: func(ctx context.Context, code, no string) ([]warehouse.Document[D], error) {
			if code == r.facts.Warehouse {
				return r.lookUp(ctx, r.wh, no)
			}
			wh, err := r.open(r.seller, code, quota.Push)
			if err != nil {
				return nil, err
			}
			return r.lookUp(ctx, wh, no)
		},
	}, by)
}

// DeliveryOf is what the ledger keeps of a delivery.
func DeliveryOf(d *bus.Delivery) kind.Delivery {
	return kind.Delivery{Stream: d.Stream, Seq: d.Seq, StreamTime: d.StreamTime, First: d.First && !d.Replay, Trace: d.Trace}
}

func cleanedOf(list []*documentv1.Cleaned) []ledger.Cleaned {
	out := make([]ledger.Cleaned, 0, len(list))
	for _, c := range list {
		out = append(out, ledger.Cleaned{Field: c.Field, What: c.What, ZH: c.Zh, EN: c.En})
	}
	return out
}
