package reconciler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
)

var (
	now     = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	audited = now.Add(-time.Hour)
	theRule = policy{now: now, Config: Config{Deadline: 10 * time.Minute, UnknownFor: 30 * time.Minute, ConfirmAfter: 15 * time.Second}}
)

// lost is an order of which every source was read and none knows it.
func lost() evidence {
	return evidence{
		Order:       Order{OutboundNo: "A", Audits: []Audit{{Stream: "ORDERS", Seq: 7, Stored: audited}}},
		lettersRead: true, lookup: notFound, outcomesRead: true,
	}
}

func letter(kind string, class fault.Class) *bus.DeadLetter {
	return &bus.DeadLetter{Kind: kind, Class: class.String(), Cause: "shop:acme:S1", Reason: fault.Reason{Code: "bad.sku"}, Stream: "ORDERS", OriginSeq: 7}
}

func (e *evidence) published(name string, at time.Time) { e.Outcome, e.OutcomeAt = name, at }

// An invalid audit may be one of many in a group, which names places and no numbers.
func TestAGroupIsTheDeadLetterOfItsAudits(t *testing.T) {
	stored := now.Add(-time.Minute)
	group := *letter(event.Dead, fault.Refused)
	group.Stream, group.Group = bus.StreamIntake, &bus.Group{Ranges: []bus.Range{{From: 5, To: 9, First: stored, Last: stored}}}
	for _, c := range []struct {
		last Audit
		in   bool
	}{
		{Audit{bus.StreamIntake, 7, stored}, true},
		{Audit{bus.StreamIntake, 10, stored}, false},
		{Audit{bus.StreamOrders, 7, stored}, false},
		{Audit{bus.StreamIntake, 7, now}, false}, // the stream was restored
	} {
		e := &evidence{Order: Order{Audits: []Audit{{bus.StreamIntake, 6, stored}, c.last}}}
		if e.addLetter(group); (e.dead != nil) != c.in {
			t.Errorf("%v: %v", c.last, e.dead)
		}
	}
}

func TestWhatBecomesOfAnAudit(t *testing.T) {
	keep := func(reason Reason, detail string) step { return step{do: keepOpen, reason: reason, detail: detail} }
	soon := func(s step) step { s.confirm = true; return s }
	for _, c := range []struct {
		name string
		set  func(*evidence, *policy)
		want step
	}{
		{"an accepted order is known", func(e *evidence, _ *policy) { e.entry.State, e.entry.Hash = ledger.Accepted, "h" }, step{do: settle, known: true}},
		{"so is a cancelled one", func(e *evidence, _ *policy) { e.entry.State = ledger.Cancelled }, step{do: settle, known: true}},
		{"a refused order is settled, and no document is known", func(e *evidence, _ *policy) { e.entry.State = ledger.Refused }, step{do: settle}},
		{"an order that another program sends is settled", func(e *evidence, _ *policy) { e.entry.State, e.entry.Origin = ledger.Unknown, ledger.External }, step{do: settle}},
		{"a reconstructed entry is settled like any other", func(e *evidence, _ *policy) { e.entry = ledger.Entry{State: ledger.Accepted, Hash: ""} }, step{do: settle, known: true}},

		{"without an entry the dead letters are read", func(e *evidence, _ *policy) { e.lettersRead = false }, step{do: readLetters}},
		{"a held order waits for its cause", func(e *evidence, _ *policy) { e.held = letter(event.Held, fault.Held) }, keep(Held, "shop:acme:S1")},
		{"a dead letter waits for a person", func(e *evidence, _ *policy) { e.dead = letter(event.Dead, fault.Transient) }, keep(DeadLettered, "bad.sku")},
		{"a dead letter that was refused is settled", func(e *evidence, _ *policy) { e.dead = letter(event.Dead, fault.Refused) }, step{do: settle}},
		{"unless something was sent before", func(e *evidence, _ *policy) {
			e.dead, e.entry.State = letter(event.Dead, fault.Refused), ledger.Unknown
		}, keep(DeadLettered, "bad.sku")},
		{"a hold counts more than an earlier dead letter", func(e *evidence, _ *policy) {
			e.held, e.dead = letter(event.Held, fault.Held), letter(event.Dead, fault.Refused)
		}, keep(Held, "shop:acme:S1")},

		{"an order in the backlog waits for the pusher", func(e *evidence, _ *policy) { e.inBacklog = true }, keep(Queued, "")},
		{"one that was redelivered is being repaired", func(e *evidence, _ *policy) { e.inBacklog, e.Tries = true, 1 }, keep(Repairing, "")},
		{"an unknown outcome explains itself for a while", func(e *evidence, _ *policy) {
			e.entry = ledger.Entry{State: ledger.Unknown, UnknownSince: now.Add(-29 * time.Minute)}
		}, keep(Unknown, "")},
		{"an intent counts from its last change", func(e *evidence, _ *policy) {
			e.entry = ledger.Entry{State: ledger.Intent, ChangedAt: now.Add(-29 * time.Minute)}
		}, keep(Unknown, "")},
		{"an outcome unknown for too long is redelivered: the pusher looks up before it sends", func(e *evidence, _ *policy) {
			e.entry = ledger.Entry{State: ledger.Unknown, UnknownSince: now.Add(-31 * time.Minute)}
		}, step{do: redeliver}},

		{"the warehouse of a paused seller is not asked", func(e *evidence, p *policy) { e.lookup, p.paused, p.pauseReason = notAsked, true, "stock-taking" }, keep(Paused, "stock-taking")},
		{"the warehouse is asked when our own sources know nothing", func(e *evidence, _ *policy) { e.lookup = notAsked }, step{do: askWarehouse}},
		{"one that cannot be asked is named at once", func(e *evidence, _ *policy) { e.lookup, e.lookupError = failed, "no permission" }, keep(Unasked, "no permission")},
		{"what the warehouse does not have is searched in the outcomes", func(e *evidence, _ *policy) { e.outcomesRead = false }, step{do: readOutcomes}},
		{"what it has needs no outcome", func(e *evidence, _ *policy) { e.lookup, e.outcomesRead = found, false }, step{do: redeliver}},
		{"unless one of several audits was refused", func(e *evidence, _ *policy) {
			e.lookup, e.outcomesRead, e.Audits = found, false, append(e.Audits, Audit{Seq: 8})
		}, step{do: readOutcomes}},

		{"an order without an outcome was lost, and is redelivered", func(*evidence, *policy) {}, step{do: redeliver}},
		{"one that was published as failed is settled", func(e *evidence, _ *policy) { e.published(event.OrderFailed.Name, audited.Add(time.Second)) }, step{do: settle}},
		{"a failure of an earlier audit says nothing about a later one", func(e *evidence, _ *policy) { e.published(event.OrderFailed.Name, audited.Add(-time.Second)) }, step{do: redeliver}},
		{"a delivered order is settled although the warehouse removed it", func(e *evidence, _ *policy) { e.published(event.OrderDelivered.Name, audited.Add(-time.Second)) }, step{do: settle}},
		{"an accepted order that the warehouse does not have is never sent again, and named when it stays so",
			func(e *evidence, _ *policy) { e.published(event.OrderAccepted.Name, audited.Add(time.Second)) }, soon(keep(Confirming, ""))},
		{"it is named in the next run", func(e *evidence, _ *policy) {
			e.published(event.OrderAccepted.Name, audited.Add(time.Second))
			e.previous = Confirming
		}, keep(Absent, "")},
		{"it is redelivered when the warehouse has it", func(e *evidence, _ *policy) {
			e.published(event.OrderAccepted.Name, audited.Add(time.Second))
			e.lookup = found
		}, step{do: redeliver}},
		{"a held order that left the dead letters was dropped, perhaps", func(e *evidence, _ *policy) {
			e.published(event.OrderHeld.Name, audited.Add(time.Second))
			e.previous = Left
		}, keep(Left, "")},

		{"an order is redelivered once per deadline", func(e *evidence, _ *policy) { e.Tries, e.TriedAt = 1, now.Add(-9*time.Minute) }, keep(Repairing, "")},
		{"the run repeats soon after a redelivery", func(e *evidence, _ *policy) { e.Tries, e.TriedAt = 1, now.Add(-30*time.Second) }, soon(keep(Repairing, ""))},
		{"after the deadline it is redelivered again", func(e *evidence, _ *policy) { e.Tries, e.TriedAt = 1, now.Add(-11*time.Minute) }, step{do: redeliver}},
		{"three times in all", func(e *evidence, _ *policy) { e.Tries, e.TriedAt = MaxTries, now.Add(-11*time.Minute) }, keep(Lost, "")},

		{"a run without time leaves an order as it was", func(e *evidence, _ *policy) {
			e.postponed, e.previous, e.Reason, e.Detail = true, Held, Held, "shop:acme:S1"
		}, keep(Held, "shop:acme:S1")},
		{"and a new one unnamed", func(e *evidence, _ *policy) { e.postponed = true }, keep(Confirming, "")},
	} {
		e, p := lost(), theRule
		if c.set(&e, &p); next(&e, p) != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, next(&e, p), c.want)
		}
	}
}

// All combinations of what the sources may say: some 500 000 of them.
func TestEveryAuditIsDecidedAndNoneIsSentTwice(t *testing.T) {
	entries := []ledger.Entry{
		{}, {State: ledger.Intent, ChangedAt: now}, {State: ledger.Intent, ChangedAt: audited}, {State: ledger.Unknown, UnknownSince: now},
		{State: ledger.Unknown, UnknownSince: audited}, {State: ledger.Unknown, Origin: ledger.External}, {State: ledger.Accepted},
		{State: ledger.Accepted, Hash: "h"}, {State: ledger.Refused}, {State: ledger.Cancelled},
	}
	letters := []*bus.DeadLetter{nil, letter(event.Dead, fault.Refused), letter(event.Dead, fault.Transient)}
	lookups := []lookup{notFound, found, failed}
	names := append([]string{""}, outcomes...)
	previous := append([]Reason{""}, Reasons()...)
	tried := []time.Time{{}, now.Add(-time.Second), now.Add(-time.Minute), audited}
	combinations := 0
	each := func(f func(full evidence, p policy)) {
		for _, entry := range entries {
			for _, held := range []*bus.DeadLetter{nil, letter(event.Held, fault.Held)} {
				for _, dead := range letters {
					for _, answer := range lookups {
						for _, name := range names {
							for _, at := range []time.Time{audited.Add(-time.Minute), audited.Add(time.Minute)} {
								for _, was := range previous {
									for i, triedAt := range tried {
										for bits := range 4 {
											e := lost()
											e.entry, e.held, e.dead, e.lookup, e.inBacklog = entry, held, dead, answer, bits&1 > 0
											e.published(name, at)
											e.previous, e.Reason, e.TriedAt, e.Tries = was, was, triedAt, i
											p := theRule
											p.paused = bits&2 > 0
											combinations++
											f(e, p)
										}
									}
								}
							}
						}
					}
				}
			}
		}
	}
	each(func(full evidence, p policy) {
		// As a run does: nothing is read yet, and each step reads what the one before asked for.
		e := full
		e.lettersRead, e.held, e.dead, e.inBacklog = false, nil, nil, false
		e.lookup, e.outcomesRead, e.Outcome, e.OutcomeAt = notAsked, false, "", time.Time{}
		var s step
		for reads := 0; ; reads++ {
			s = next(&e, p)
			switch s.do {
			case readLetters:
				e.lettersRead, e.held, e.dead, e.inBacklog = true, full.held, full.dead, full.inBacklog
			case askWarehouse:
				e.lookup = full.lookup
			case readOutcomes:
				e.outcomesRead, e.Outcome, e.OutcomeAt = true, full.Outcome, full.OutcomeAt
			default:
				reads = 10
			}
			if reads >= 10 {
				break
			}
			if reads == 3 {
				t.Fatalf("%+v asks for a fourth source: %+v", full, s)
			}
		}
		wrong := func(why string) { t.Fatalf("%s: %+v of %+v", why, s, full) }
		state := full.entry.State
		switch s.do {
		case settle:
			if s.known != (state == ledger.Accepted || state == ledger.Cancelled) {
				wrong("known without the ledger, or not known by it")
			}
		case keepOpen:
			if !slices.Contains(Reasons(), s.reason) {
				wrong("no reason")
			}
			if (s.reason == Absent || s.reason == Left) && full.previous != s.reason && full.previous != Confirming {
				wrong("named the first time it was seen")
			}
			if s.reason == Lost && full.Tries < MaxTries {
				wrong("given up too early")
			}
		case redeliver:
			switch {
			case full.held != nil, full.dead != nil, full.inBacklog:
				wrong("redelivered although it waits")
			case p.paused, e.lookup != found && e.lookup != notFound:
				wrong("redelivered without asking the warehouse")
			case e.lookup == notFound && full.Outcome == event.OrderAccepted.Name && !state.Live():
				wrong("sent again although it was published as accepted")
			case state != ledger.New && !state.Live():
				wrong("redelivered although the ledger has its end")
			case full.Tries >= MaxTries, now.Sub(full.TriedAt) < p.Deadline:
				wrong("redelivered too often")
			}
		default:
			wrong("no decision")
		}
	})
	t.Logf("%d combinations", combinations)
}

func TestOnlyADeadLetterOfTheLastAuditCounts(t *testing.T) {
	e := lost()
	e.addAudit(Audit{Stream: "ORDERS", Seq: 9, Stored: audited.Add(time.Minute)})
	e.addLetter(*letter(event.Dead, fault.Refused))
	if e.dead != nil {
		t.Error("the dead letter of an audit counts that a later one replaced")
	}
	of := letter(event.Dead, fault.Transient)
	of.OriginSeq = 9
	e.addLetter(*of)
	e.addLetter(*letter(event.Held, fault.Held))
	if e.dead == nil || e.held == nil {
		t.Errorf("dead %v, held %v", e.dead, e.held)
	}
}

func TestWhatTheWarehouseHasThatWeDoNotKnow(t *testing.T) {
	one, two := []order{{Number: "E1"}}, []order{{Number: "E1"}, {Number: "E2"}}
	for _, c := range []struct {
		name       string
		outboundNo string
		open       bool
		state      ledger.State
		docs       []order
		want       document
		kind       FindingKind
	}{
		{"without a number of ours it is the warehouse's own", "", false, ledger.New, nil, ofWarehouse, ""},
		{"of an order in the open list nothing is decided yet", "A", true, ledger.New, nil, undecided, ""},
		{"nor of one that is being sent", "A", false, ledger.Intent, nil, undecided, ""},
		{"nor of one whose answer was lost", "A", false, ledger.Unknown, nil, undecided, ""},
		{"nobody audited its number", "A", false, ledger.New, nil, isFinding, UnknownDocument},
		{"its order was published as refused", "A", false, ledger.Refused, nil, isFinding, RefusedButThere},
		{"its order is known: a look-up says whether it is a part", "A", false, ledger.Accepted, nil, needsLookup, ""},
		{"a part of its order is no finding", "A", false, ledger.Accepted, one, explained, ""},
		{"a second document of its order is", "A", false, ledger.Accepted, two, isFinding, DuplicateDocument},
		{"also when the order was cancelled", "A", false, ledger.Cancelled, two, isFinding, DuplicateDocument},
	} {
		what, kind := judgeDocument("E2", c.outboundNo, c.open, ledger.Entry{State: c.state}, c.docs != nil, c.docs)
		if what != c.want || kind != c.kind {
			t.Errorf("%s: %s %s, want %s %s", c.name, what, kind, c.want, c.kind)
		}
	}
}

func TestWhenAFindingStandsAndWhenItIsPublishedAgain(t *testing.T) {
	for _, c := range []struct {
		name    string
		finding Finding
		state   ledger.State
		stands  bool
	}{
		{"an unknown document stays named", Finding{Kind: UnknownDocument, Seen: audited}, ledger.New, true},
		{"until its audit came and adopted it", Finding{Kind: UnknownDocument, Seen: audited}, ledger.Accepted, false},
		{"for thirty days", Finding{Kind: UnknownDocument, Seen: now.Add(-findingsKept - time.Second)}, ledger.New, false},
		{"a refused order that exists stays named", Finding{Kind: RefusedButThere, Seen: audited}, ledger.Refused, true},
		{"until a replay adopted it", Finding{Kind: RefusedButThere, Seen: audited}, ledger.Accepted, false},
		{"a duplicate stays whatever its order becomes", Finding{Kind: DuplicateDocument, Seen: audited}, ledger.Cancelled, true},
	} {
		if got := c.finding.stands(ledger.Entry{State: c.state}, now); got != c.stands {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if !(Finding{Kind: RefusedButThere}).publishAgain() || (Finding{Kind: RefusedButThere, Published: true}).publishAgain() || (Finding{Kind: UnknownDocument}).publishAgain() {
		t.Error("only a refused order that exists is published, until that is certain")
	}
}

func TestACancelledDocumentDoesNotCount(t *testing.T) {
	answer := map[string][]order{"A": {{}}, "B": {{State: warehouse.State{Status: documentv1.Status_STATUS_CANCELLED}}}}
	for no, want := range map[string]bool{"A": true, "B": false, "C": false} {
		if _, ok := exists(answer, no); ok != want {
			t.Errorf("%s: %v", no, ok)
		}
	}
}

func TestTheReportCountsWhatARunFound(t *testing.T) {
	orders := map[string]*item{}
	add := func(reason Reason, change func(*item)) {
		e := lost()
		e.OutboundNo, e.Reason = fmt.Sprint(len(orders)), reason
		o := &item{evidence: e}
		change(o)
		orders[e.OutboundNo] = o
	}
	same := func(*item) {}
	add(Queued, same)
	add(Absent, same)
	add(Absent, func(o *item) { o.Audits[0].Stored = audited.Add(-keepFor) })     // forgotten
	add("", func(o *item) { o.settled = true })                                   // refused
	add(Repairing, func(o *item) { o.settled, o.known, o.Tries = true, true, 1 }) // repaired
	add(Absent, func(o *item) { o.Audits[0].Stored = audited.Add(-time.Hour) })   // the oldest
	r := summarize(Report{Settled: 10, CycleAt: audited}, orders, true, now, now.Add(time.Second))
	if r.Settled != 13 || r.Repaired != 1 || r.Open[Absent] != 2 || r.Open[Queued] != 1 || r.Unexplained() != 2 || !r.Oldest.Equal(audited.Add(-time.Hour)) {
		t.Errorf("%+v", r)
	}
	if !r.CycleAt.Equal(now.Add(time.Second)) {
		t.Error("the cycle did not end")
	}
	add(Confirming, same)
	if r := summarize(Report{CycleAt: audited}, orders, true, now, now); !r.CycleAt.Equal(audited) {
		t.Error("the cycle ended while an order is checked a second time")
	}
	delete(orders, "6")
	if r := summarize(Report{CycleAt: audited}, orders, false, now, now); !r.CycleAt.Equal(audited) {
		t.Error("the cycle ended although audits are left")
	}
}
