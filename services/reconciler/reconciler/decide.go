package reconciler

import (
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
)

// This file decides, and only decides: what becomes of an audited order, given what a run has read so far, and what a
// document is that the ledger does not know. It reads nothing and writes nothing.

// evidence is what a run found out about one order. Each part counts only once it was read.
type evidence struct {
	Order
	// previous is the reason it had in the open list; "" when it was not there.
	previous Reason
	// postponed: the run ran out of time or quota before it read all that it needs.
	postponed bool

	entry ledger.Entry
	// lettersRead: held is its last held message, dead the first dead letter of its last audit, nil when there is none;
	// inBacklog says that one of its audits waits for the pusher.
	lettersRead bool
	held, dead  *bus.DeadLetter
	inBacklog   bool
	// lookup is what the warehouse answered, lookupError why it could not be asked.
	lookup      lookup
	lookupError string
	// outcomesRead: the outcomes in Order are those published until now.
	outcomesRead bool
}

type lookup int

const (
	notAsked lookup = iota
	notFound
	found
	failed
)

// policy is what decisions depend on besides the evidence.
type policy struct {
	Config
	now    time.Time
	paused bool
	// pauseReason is why the seller is paused.
	pauseReason string
}

// action is what to do with an order next.
type action string

const (
	// readLetters, askWarehouse and readOutcomes ask for more evidence.
	readLetters  action = "read dead letters"
	askWarehouse action = "ask the warehouse"
	readOutcomes action = "read outcomes"
	// settle: the order needs nothing any longer. keepOpen: it stays in the open list with a reason. redeliver: its audit is
	// given to the pusher once more.
	settle    action = "settle"
	keepOpen  action = "keep open"
	redeliver action = "redeliver"
)

// step is a decision about an order.
type step struct {
	do action
	// known: it is settled because the ledger knows its document.
	known bool
	// reason and detail are why it stays open.
	reason Reason
	detail string
	// confirm: the run is to be repeated after Config.ConfirmAfter.
	confirm bool
}

// next decides about one order. Sources are read in the order of the package comment, and only as far as needed.
func next(e *evidence, p policy) step {
	switch {
	case e.postponed && e.previous == "":
		return step{do: keepOpen, reason: Confirming}
	case e.postponed:
		return step{do: keepOpen, reason: e.Reason, detail: e.Detail}
	}
	if s, settled := byLedger(e.entry); settled {
		return s
	}
	switch {
	case !e.lettersRead:
		return step{do: readLetters}
	case e.held != nil:
		return step{do: keepOpen, reason: Held, detail: e.held.Cause}
	case e.dead != nil && e.dead.Class == fault.Refused.String() && !e.entry.State.Live():
		return step{do: settle}
	case e.dead != nil:
		return step{do: keepOpen, reason: DeadLettered, detail: e.dead.Reason.Code}
	}
	s := withoutLetters(e, p)
	s.confirm = s.confirm || p.now.Sub(e.TriedAt) < 4*p.ConfirmAfter // what was redelivered lately
	return s
}

// byLedger settles what the ledger settles.
func byLedger(entry ledger.Entry) (s step, settled bool) {
	switch {
	case entry.State == ledger.Accepted || entry.State == ledger.Cancelled:
		return step{do: settle, known: true}, true
	case entry.State == ledger.Refused, entry.Origin == ledger.External && entry.State == ledger.Unknown:
		return step{do: settle}, true
	}
	return step{}, false
}

// withoutLetters decides about an order that is not among the dead letters.
func withoutLetters(e *evidence, p policy) step {
	since := unknownSince(e.entry)
	switch {
	case !since.IsZero() && p.now.Sub(since) < p.UnknownFor:
		return step{do: keepOpen, reason: Unknown}
	case e.inBacklog && e.Tries > 0:
		return step{do: keepOpen, reason: Repairing}
	case e.inBacklog:
		return step{do: keepOpen, reason: Queued}
	case p.paused:
		return step{do: keepOpen, reason: Paused, detail: p.pauseReason}
	case e.lookup == notAsked:
		return step{do: askWarehouse}
	case e.lookup == failed:
		return step{do: keepOpen, reason: Unasked, detail: e.lookupError}
	case !e.outcomesRead && (e.lookup == notFound || len(e.Audits) != 1):
		return step{do: readOutcomes}
	}
	outcome := e.Outcome
	if outcome != event.OrderAccepted.Name && !e.finished() && e.OutcomeAt.Before(e.last().Stored) {
		outcome = "" // of an earlier audit
	}
	switch {
	case e.lookup == found, outcome == "", e.entry.State.Live():
		return byTries(e, p)
	case outcome == event.OrderAccepted.Name:
		return unexplained(e, Absent)
	case outcome == event.OrderHeld.Name:
		return unexplained(e, Left)
	default: // failed, cancelled, delivered, shadowed
		return step{do: settle}
	}
}

// byTries redelivers a lost order, at most once per deadline and MaxTries times.
func byTries(e *evidence, p policy) step {
	switch {
	case !e.TriedAt.IsZero() && p.now.Sub(e.TriedAt) < p.Deadline:
		return step{do: keepOpen, reason: Repairing}
	case e.Tries >= MaxTries:
		return step{do: keepOpen, reason: Lost}
	default:
		return step{do: redeliver}
	}
}

// unexplained names an order that nothing explains if the previous run found the same: it may just have been moving from
// one place to another.
func unexplained(e *evidence, reason Reason) step {
	if e.previous == reason || e.previous == Confirming {
		return step{do: keepOpen, reason: reason}
	}
	return step{do: keepOpen, reason: Confirming, confirm: true}
}

// whyLost says why an order is redelivered.
func whyLost(e *evidence) string {
	switch {
	case e.lookup == found:
		return "the warehouse has it, the ledger does not know it"
	case e.entry.State.Live():
		return "its outcome has been unknown for too long"
	default:
		return "neither the ledger nor the warehouse knows it"
	}
}

// unknownSince is since when the outcome of a send has been unknown; zero when it is not.
func unknownSince(entry ledger.Entry) time.Time {
	switch {
	case entry.State != ledger.Unknown && entry.State != ledger.Intent:
		return time.Time{}
	case !entry.UnknownSince.IsZero():
		return entry.UnknownSince
	default:
		return entry.ChangedAt
	}
}

// addLetter notes one of the order's dead letters, or a group that may hold its last audit.
func (e *evidence) addLetter(l bus.DeadLetter) {
	last := e.last()
	switch {
	case l.Group != nil:
		if e.dead == nil && l.Stream == last.place().Stream && l.Group.Has(last.Seq, last.Stored) {
			e.dead = &l
		}
	case l.Kind == event.Held:
		e.held = &l
	case e.dead == nil && l.OriginSeq == last.Seq && l.Stream == last.place().Stream: // else a later audit replaced it
		e.dead = &l
	}
}

// reusedCode is the reason of an audit whose number belongs to another content.
const reusedCode = "outbound.reused"

// finished reports whether a final event was published: the warehouse may have removed the order since.
func (o Order) finished() bool {
	return o.Outcome == event.OrderCancelled.Name || o.Outcome == event.OrderDelivered.Name
}

// addOutcome notes a published outcome. A later outcome of another content under the same number does not undo an
// acceptance.
func (o *Order) addOutcome(s bus.Stored) {
	if strings.HasSuffix(s.ID, "/"+reusedCode) { // published as held while the first one lives, else as failed
		o.Reused = true
	}
	final := s.Name == event.OrderCancelled.Name || s.Name == event.OrderDelivered.Name
	if o.finished() || o.Outcome == event.OrderAccepted.Name && !final {
		return
	}
	o.Outcome, o.OutcomeAt = s.Name, s.At
}

// document is what a run does with a listed document.
type document string

const (
	// explained: it needs no second check. ofWarehouse: the warehouse made it itself.
	explained   document = "explained"
	ofWarehouse document = "of the warehouse"
	// undecided: its order is still being handled. needsLookup: its order has to be looked up first.
	undecided   document = "undecided"
	needsLookup document = "needs a look-up"
	// isFinding: it is to be named.
	isFinding document = "a finding"
)

// judgeDocument says what a document is whose number, no, the ledger does not know. outboundNo is the number under which it
// was sent, open whether that order is in the open list, entry what the ledger knows of that order, and docs what the
// warehouse has of it once it was looked up.
func judgeDocument(no, outboundNo string, open bool, entry ledger.Entry, lookedUp bool, docs []order) (document, FindingKind) {
	switch {
	case outboundNo == "":
		return ofWarehouse, ""
	case open, entry.State == ledger.Intent, entry.State == ledger.Unknown:
		return undecided, ""
	case entry.State == ledger.Refused:
		return isFinding, RefusedButThere
	case entry.State != ledger.Accepted && entry.State != ledger.Cancelled:
		return isFinding, UnknownDocument
	case !lookedUp:
		return needsLookup, ""
	case slices.IndexFunc(docs, func(d order) bool { return d.Number == no }) > 0:
		return isFinding, DuplicateDocument
	default: // a part of its order
		return explained, ""
	}
}

// order is an order as a warehouse has it.
type order = warehouse.Document[*orderv1.Shipped]

// exists returns the number of the document that a look-up found of an order, if that is not cancelled.
func exists(found map[string][]order, no string) (number string, yes bool) {
	docs := found[no]
	if len(docs) == 0 || docs[0].Cancelled() {
		return "", false
	}
	return docs[0].Number, true
}

// stands reports whether a finding still holds, given what the ledger knows of its order.
func (f Finding) stands(entry ledger.Entry, now time.Time) bool {
	switch {
	case now.Sub(f.Seen) > findingsKept:
		return false
	case f.Kind == UnknownDocument:
		return !entry.State.Live() // else its audit came, and the document was adopted
	case f.Kind == RefusedButThere:
		return entry.State == ledger.Refused // else a replay adopted it
	default:
		return true
	}
}

// publishAgain reports whether the run that named a finding may have died before it published it. Only a refused order that
// exists is published.
func (f Finding) publishAgain() bool { return f.Kind == RefusedButThere && !f.Published }

// keepFor is how long an unexplained order is remembered: longer than streams keep events.
const keepFor = 120 * 24 * time.Hour

// closes reports whether an order leaves the open list.
func (o *item) closes(now time.Time) bool {
	return o.settled || !o.Reason.Explains() && now.Sub(o.First()) > keepFor
}

// summarize returns the report of a run that ended at now: open and closed orders are counted into it.
func summarize(report Report, orders map[string]*item, walked bool, began, now time.Time) Report {
	report.Open, report.Oldest, report.RanAt = map[Reason]int{}, time.Time{}, now
	for _, o := range orders {
		if o.closes(began) {
			report.Settled++
			if o.known && o.Tries > 0 {
				report.Repaired++
			}
			continue
		}
		report.Open[o.Reason]++
		if !o.Reason.Explains() && (report.Oldest.IsZero() || o.First().Before(report.Oldest)) {
			report.Oldest = o.First()
		}
	}
	if walked && report.Open[Confirming] == 0 && !report.Full {
		report.CycleAt = now
	}
	return report
}
