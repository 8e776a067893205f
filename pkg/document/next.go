package document

import (
	"errors"
	"fmt"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// Next is the next step.
func Next(k Known) Step {
	switch {
	case k.Resolved.Step.Do != None:
		return afterResolve(&k)
	case k.Answer.Done:
		return afterSend(&k)
	case k.Claim.Done:
		return afterClaim(&k)
	default:
		return beforeClaim(&k)
	}
}

// beforeClaim makes all checks that need no claim. A replay that a corrected document replaced ends before these: they
// would reject it again, and its dead letter would never go.
func beforeClaim(k *Known) Step {
	switch {
	case k.Delivery.Replay && !k.Checks.Done && !k.Stored.Read:
		return Step{Do: Read}
	case k.Delivery.Replay && !k.Checks.Done && k.Stored.Err != nil:
		return fail(k.Stored.Err)
	case k.Delivery.Replay && !k.Checks.Done && replaced(k.Stored):
		return outdated(k, k.Stored.Entry)
	case !k.Checks.Done:
		return Step{Do: Check}
	case k.Checks.Err == nil:
		return Step{Do: ClaimIt}
	default:
		return checksFailed(k)
	}
}

// replaced reports whether the ledger has another payload under the number.
func replaced(o Other) bool {
	e := o.Entry
	return o.Exists && e.State != ledger.New && !e.Reconstructed() && !o.SamePayload && e.Origin != ledger.External
}

// outdated ends a replay whose number has another payload: it is ignored, unless it is the later one.
func outdated(k *Known, e ledger.Entry) Step {
	if k.Delivery.Revision > e.Revision {
		return stop(WhyReused)
	}
	return Step{Do: Ignore}
}

// checksFailed is for a document that would not be sent as things are now. If it was sent before, its known outcome counts:
// an ERP could refund a failed document that ships.
func checksFailed(k *Known) Step {
	why := k.Checks.Err
	class, e := fault.Of(why), k.Stored.Entry
	switch {
	case class != fault.Held && class != fault.Refused:
		return fail(why)
	case !k.Stored.Read:
		return Step{Do: Read}
	case k.Stored.Err != nil:
		return fail(k.Stored.Err)
	case !k.Stored.Exists, !k.Stored.SamePayload && !e.Reconstructed():
		return fail(why)
	case e.State == ledger.Accepted, e.State == ledger.Cancelled:
		return known(k, e)
	}
	return Step{Do: Stop, Err: why, Operator: e.State.Live() && class == fault.Refused}
}

// known is for a document that the warehouse has. A new audit of a cancelled one is refused: it would never ship.
func known(k *Known, e ledger.Entry) Step {
	if e.State == ledger.Cancelled && k.Delivery.Revision > e.Revision {
		return stop(WhyCancelled)
	}
	return Step{Do: Report, Number: e.Number, Known: true}
}

func afterClaim(k *Known) Step {
	c := k.Claim
	switch c.Result {
	case Busy:
		return fail(fault.RetryAfter(k.Policy.BusyPause, c.Err))
	case OtherPayload:
		if k.Delivery.Replay { // it changed since it was read before the checks
			return outdated(k, c.Entry)
		}
		return stop(WhyReused)
	case OtherIdentity:
		return stop(WhyOtherIdentity)
	case LineTaken:
		return lineTaken(k)
	case Failed:
		return fail(c.Err)
	}
	switch {
	case c.Entry.State == ledger.Accepted, c.Entry.State == ledger.Cancelled:
		return known(k, c.Entry)
	case c.Entry.State == ledger.Refused && c.Entry.Cancel != nil: // the wish was answered: it stays unsent
		return Step{Do: Release, Why: WhyCancelWanted, Known: true}
	case c.Entry.State == ledger.Refused && !k.Delivery.Replay:
		return Step{Do: Release, Err: fault.Permanent(c.Entry.Reason), Known: true}
	case c.NeverSent:
		return send(k)
	case former(k):
		return Step{Do: Release, Why: WhyFormer}
	case c.Entry.State == ledger.New && c.NotFound:
		return send(k)
	case k.CannotFind:
		return askFirst(k)
	default:
		return lookUpFirst(k)
	}
}

// former reports whether the ledger lost where the document was sent, if it was, and the seller's account changed since it
// was audited: not finding it under today's account proves nothing then. A document that is younger than the ledger and that
// it does not know was never sent.
func former(k *Known) bool {
	changed, c := k.AccountChangedAt, k.Claim
	if c.Entry.State == ledger.New && k.Delivery.AuditedAt.After(c.EpochSince.Add(ledger.EpochMargin)) {
		return false
	}
	return !changed.IsZero() && k.Claim.Entry.Identity == "" && !k.Delivery.NotFormer && k.Delivery.AuditedAt.Before(changed.Add(k.Policy.MovedMargin))
}

// lineTaken is for a line that is live under another number.
func lineTaken(k *Known) Step {
	l := k.Line
	switch {
	case !l.FreeTried:
		return Step{Do: FreeLine}
	case l.Err != nil:
		return fail(l.Err)
	case !l.Superseded && !k.Delivery.Supersedes:
		return lineLive(k)
	case !l.Holder.Read:
		return Step{Do: ReadHolder}
	case l.Holder.Err != nil:
		return fail(l.Holder.Err)
	case !l.Superseded:
		return lineLive(k)
	case l.Holder.OtherIdentity:
		return stop(WhyEarlierIdentity)
	default:
		return stop(WhySuperseding)
	}
}

// lineLive refuses the document, unless the warehouse has it: a ledger that was lost may have given its line to another. An
// ERP could refund what ships, so that is left to a person.
func lineLive(k *Known) Step {
	switch {
	case k.Delivery.First && !k.Delivery.Replay:
		return stop(WhyLine)
	case !k.Found.Done:
		return Step{Do: Find}
	case k.Found.Err != nil:
		return fail(k.Found.Err)
	}
	return Step{Do: Stop, Why: WhyLine, Operator: len(k.Found.Numbers) > 0 && !k.Found.Cancelled}
}

// earlier holds a document whose predecessor is live at the warehouse although the ledger does not know of it: a ledger
// that was lost does not know under which document a line is live. None when nothing holds it. An unknown document is
// checked too: an earlier run may have ended between its claim and this check. A predecessor that was claimed and released
// is looked up like one that the ledger does not know: its claim may be younger than a loss of the ledger.
func earlier(k *Known) Step {
	e := k.Earlier
	switch {
	case !k.Delivery.Supersedes:
		return Step{}
	case !e.Read:
		return Step{Do: ReadEarlier}
	case e.Err != nil:
		return release(e.Err)
	case e.Exists && e.Entry.Reconstructed() && e.Entry.State.Live():
		return Step{Do: Release, Why: WhySuperseding} // its lines are unknown until its own audit was handled again
	case e.Exists && e.OtherIdentity:
		return Step{Do: Release, Why: WhyEarlierIdentity}
	case e.Exists && e.Entry.State != ledger.New:
		return Step{} // the claim has checked its lines
	case !e.Found.Done:
		return Step{Do: FindEarlier}
	case e.Found.Err != nil:
		return release(e.Found.Err)
	case len(e.Found.Numbers) > 0 && !e.Found.Cancelled:
		return Step{Do: Release, Why: WhySuperseding}
	case len(e.Found.Numbers) == 0:
		return lossWindow(k, false)
	}
	return Step{}
}

// lossWindow delays the document until "not found" is certain although the ledger may have been lost. None when it is.
func lossWindow(k *Known, first bool) Step {
	c := k.Claim
	if c.LossWindowOver(first, k.Policy.SettleFor) {
		return Step{}
	}
	wait := k.Policy.SettleFor - c.At.Sub(c.EpochSince) + time.Second
	return release(fault.RetryAfter(wait, errors.New("the ledger is younger than this document; a lost send may still arrive")))
}

// lookUpFirst is for a document that may have been sent. What the look-up finds is adopted; it is sent when it is certainly
// not there.
func lookUpFirst(k *Known) Step {
	c := k.Claim
	switch {
	case !k.Found.Done:
		return Step{Do: Find}
	case k.Found.Err != nil:
		return release(k.Found.Err)
	case len(k.Found.Numbers) > 0:
		return adopt(k)
	case c.Entry.Rejection != (fault.Reason{}):
		// It is never sent again for a rejection: after the last look-up it is refused, for the warehouse's reason.
		if c.Entry.Lookups+1 < k.Policy.RefuseLookups || c.UnknownFor() < k.Policy.RefuseAfter {
			return Step{Do: MarkNotFound}
		}
		return refuse(c.Entry.Rejection)
	case c.External && !k.Delivery.Ours:
		return Step{Do: Release, Why: WhyExternal}
	}
	switch {
	case c.Entry.State == ledger.Unknown && (c.Entry.Lookups+1 < k.Policy.ResendLookups || c.UnknownFor() < k.Policy.ResendAfter):
		return Step{Do: MarkNotFound}
	case c.Entry.State == ledger.New:
		if step := earlier(k); step.Do != None {
			return step // it is held at once, whether the loss window is over or not
		}
		if step := lossWindow(k, k.Delivery.First && !k.Delivery.Replay); step.Do != None {
			return step
		}
	}
	return send(k)
}

// askFirst is lookUpFirst where only a person can look it up. What the person finds is accepted in the ledger, not here.
func askFirst(k *Known) Step {
	c := k.Claim
	switch {
	case c.Entry.State == ledger.Refused:
		return send(k) // refused is what the warehouse certainly does not have
	case !saidAbsent(k):
		return Step{Do: Release, Why: WhyUnresolved}
	case c.Entry.Rejection != (fault.Reason{}):
		return refuse(c.Entry.Rejection) // it is never sent again for that
	default:
		return send(k)
	}
}

// saidAbsent reports whether a person's word that the warehouse has nothing covers each send: the last one that the ledger
// knows of, and those of a ledger that was lost. A word that is older than a send, or that came while one could still take
// effect, proves nothing; the message carries it on through retries, crashes and replays all the same.
func saidAbsent(k *Known) bool {
	sent := k.Claim.EpochSince
	if since := k.Claim.Entry.UnknownSince; since.After(sent) {
		sent = since
	}
	return k.Delivery.AbsentAt.After(sent.Add(k.Policy.SettleFor))
}

// send is for a document that is certainly not at the warehouse.
func send(k *Known) Step {
	if k.Claim.Entry.Cancel != nil {
		return Step{Do: Refuse, Why: WhyCancelWanted}
	}
	if step := earlier(k); step.Do != None {
		return step
	}
	switch {
	case k.Claim.Entry.State == ledger.Unknown && !k.Retried.Done:
		return Step{Do: Retry}
	case k.Retried.Err != nil:
		return fail(k.Retried.Err)
	case k.Left < k.Policy.CallLimit:
		return release(fault.RetryAfter(k.Policy.BusyPause, errors.New("too little of the claim, or of the run, is left to send safely")))
	}
	return Step{Do: Send}
}

func afterSend(k *Known) Step {
	a, class := k.Answer, fault.Of(k.Answer.Err)
	switch {
	case a.Err == nil:
		return Step{Do: Accept, Number: a.Number}
	case a.Rejected && k.CannotFind:
		return rejectedUnseen(k)
	case a.Rejected:
		return rejected(k)
	case class == fault.Refused:
		return refuse(a.Reason)
	case class != fault.Unclear && !a.MaybeDone:
		return Step{Do: Release, Err: a.Err, NotFound: k.Claim.Entry.State == ledger.New}
	case k.CannotFind:
		return Step{Do: MarkUnknown, Why: WhyUnresolved, Lost: class == fault.Unclear}
	case class == fault.Unclear:
		return lost(k, a.Err)
	default:
		return Step{Do: MarkUnknown, Err: a.Err}
	}
}

// rejected is for a rejection in business words: the warehouse may have the document all the same, and may show it only
// later. So it is looked up, and looked up again before anything is published, unless the code is known to be final.
func rejected(k *Known) Step {
	a := k.Answer
	switch {
	case !k.Found.Done:
		return Step{Do: Find}
	case k.Found.Err == nil && len(k.Found.Numbers) > 0:
		return adopt(k)
	case a.Cause != "":
		return Step{Do: MarkUnknown, Err: fault.Hold(a.Cause, a.Reason)}
	case k.Found.Err == nil && (a.Final || k.Policy.RefuseAfter <= 0):
		return refuse(a.Reason)
	}
	why := a.Err
	if k.Found.Err != nil {
		why = fmt.Errorf("%w; looking it up: %w", why, k.Found.Err)
	}
	next := max(k.Policy.RefuseAfter/time.Duration(k.Policy.RefuseFirst), k.Policy.FirstLookup)
	return Step{Do: MarkRejected, Reason: a.Reason, Err: fault.RetryAfter(next, fault.Unknown(why))}
}

// rejectedUnseen is for a rejection of a document that cannot be looked up. Words that are known, about the data or the
// set-up, count as the proof that nothing was taken. Any others are for a person.
func rejectedUnseen(k *Known) Step {
	a := k.Answer
	switch {
	case a.Cause != "":
		return release(fault.Hold(a.Cause, a.Reason))
	case a.Final:
		return refuse(a.Reason)
	}
	return Step{Do: MarkRejected, Reason: a.Reason, Why: WhyUnresolved}
}

// adopt takes a document under the number as this one's own, if it is.
func adopt(k *Known) Step {
	switch {
	case k.Claim.External || k.Delivery.Confirmed:
		return Step{Do: Accept, Number: k.Found.Numbers[0], Others: k.Found.Numbers[1:]}
	case !k.Own.Done:
		return Step{Do: Compare}
	case k.Own.Err == nil:
		return Step{Do: Accept, Number: k.Own.Number, Others: k.Own.Others}
	case !k.Answer.Done:
		return release(k.Own.Err)
	case fault.Of(k.Own.Err) != fault.Held:
		return lost(k, k.Own.Err)
	default: // it was sent: after a person's decision it is looked up first
		return Step{Do: MarkUnknown, Err: k.Own.Err}
	}
}

func lost(k *Known, why error) Step {
	return Step{Do: MarkUnknown, Err: fault.RetryAfter(k.Policy.FirstLookup, fault.Unknown(why)), Lost: true}
}

func refuse(reason fault.Reason) Step {
	return Step{Do: Refuse, Reason: reason, Err: fault.Permanent(reason)}
}

// afterResolve ends the run. If the write failed, its error counts: the next delivery finds an unresolved claim and looks
// the document up.
func afterResolve(k *Known) Step {
	r := k.Resolved
	did := r.Step
	switch {
	case did.Do == Accept && r.Lost:
		return Step{Do: Stop, Why: WhyDuplicate, Number: did.Number, Operator: true} // another document is accepted: this one has not failed
	case did.Do == Accept && r.NumberTaken:
		return Step{Do: MarkUnknown, Why: WhyNumberTaken, Operator: true}
	case r.Err != nil:
		return Step{Do: Stop, Err: r.Err, Operator: did.Operator, Why: did.Why}
	case did.Do == Accept:
		return Step{Do: Report, Number: did.Number, Others: did.Others}
	case did.Do == MarkNotFound:
		return fail(nextLookup(k))
	default:
		return Step{Do: Stop, Err: did.Err, Why: did.Why, Operator: did.Operator}
	}
}

// nextLookup spreads the look-ups over the time that the policy gives them.
func nextLookup(k *Known) error {
	p, r := k.Policy, k.Resolved
	over, of, why := p.ResendAfter, p.ResendLookups, fmt.Sprintf("the answer was lost; sent again after %d look-ups", p.ResendLookups)
	if k.Claim.Entry.Rejection != (fault.Reason{}) {
		over, of, why = p.RefuseAfter, p.RefuseLookups, "the warehouse rejected it; final after look-ups"
	}
	next := over*time.Duration(r.Lookups)/time.Duration(of-1) - r.UnknownFor
	return fault.RetryAfter(max(next, p.FirstLookup), fault.Unknown(fmt.Errorf("%s over %s; look-up %d found nothing", why, over, r.Lookups)))
}
