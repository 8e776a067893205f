package document

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
)

// The model is two orders, a ledger and a warehouse as plain values: a copy of the world is all that a test of one more
// sequence needs. Order 0 is audited first, order 1 supersedes it and has the same line.
//
// A blind world has one document, of a kind that the warehouse cannot look up, and a person who can. The person says at
// once what there is to see, or waits as the runbook says, looks, and says it later. What the model leaves out is the
// person who looks too early and says it too late: neither the ledger nor the message shows that. So the runbook must say:
// look when Policy.SettleFor has passed since the message was held, not before.

// depth is how many acts a sequence has. One more takes some thirty times as long.
var depth = flag.Int("depth", 4, "acts in a sequence")

// The warehouse's next answer.
type answer int

const (
	takes answer = iota
	losesAnswer
	losesAnswerLate // and shows the document only later
	dropsRequest
	rejects
	rejectsTaken     // it has the document all the same
	rejectsTakenLate // and shows it only later
	rejectsData
	rejectsSetUp
	refuses
	isBusy
	holdsMaybe
	holdsTaken
)

var answers = map[answer]string{
	takes: "takes it", losesAnswer: "answer lost", losesAnswerLate: "answer lost, shown late", dropsRequest: "request lost",
	rejects: "rejected", rejectsTaken: "rejected, taken", rejectsTakenLate: "rejected, taken, shown late", rejectsData: "rejected for its data",
	rejectsSetUp: "rejected for the set-up",
	refuses:      "refused", isBusy: "busy", holdsMaybe: "held, perhaps taken", holdsTaken: "held, taken",
}

const (
	showsAfter = 25 * time.Second // below the policy's times
	ackWait    = 30 * time.Second
)

var policy = Policy{
	ResendAfter: 5 * time.Minute, ResendLookups: 3, RefuseAfter: time.Minute, RefuseLookups: 2, RefuseFirst: 12,
	SettleFor: 30 * time.Second, FirstLookup: time.Second, BusyPause: 2 * time.Second, CallLimit: 10 * time.Second, MovedMargin: time.Minute,
}

var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// entry is the ledger's, as both ledgers keep it.
type entry struct {
	state, prior ledger.State
	owner        int
	until        time.Time
	neverSent    bool
	lookups      int
	unknownSince time.Time
	rejected     bool
	number       int
	// reconstructed: a worker wrote how its send ended after the ledger was lost.
	reconstructed bool
	// wish: somebody wants it cancelled, and has no answer yet.
	wish bool
}

// none reports whether the ledger has no entry, or only a wish.
func (e entry) none() bool { return e == entry{wish: e.wish} }

// paper is a document at the warehouse.
type paper struct {
	number    int
	shows     time.Time
	cancelled bool
	// left: goods of it are out, so the warehouse no longer cancels it. split: it has two parts, and is cancelled when both
	// are; half says that one is.
	left, split, half bool
}

// cancel is what the warehouse does with a document, or with the next part of it; false when it does not.
func (p *paper) cancel() bool {
	if p.cancelled || p.left {
		return false
	}
	p.cancelled, p.half = !p.split || p.half, p.split
	return true
}

// message is an audit on its way.
type message struct {
	published           bool
	at, due             time.Time
	pending, first      bool
	replay              bool
	held, dead          bool // as a dead letter
	accepted            int  // the number that was published
	failed, cancelled   bool
	heldOnce, mayBeBoth bool
	wantsCancel         bool // the request to cancel it was not answered yet
	// unresolved: it is held for a person who can look, since heldAt. absentAt is when a release said last that nothing is
	// there. looked: a person looked in time, and saw the document, if any.
	unresolved       bool
	heldAt, absentAt time.Time
	looked           bool
	saw              int
}

type world struct {
	now, since time.Time
	entries    [2]entry
	line       int // the order that has the line, from 1
	notFound   [2]time.Time
	papers     [2][3]paper
	count      [2]int
	numbers    int
	messages   [2]message
	owners     int
	answer     answer
	deaf       bool // the next look-up fails
	crashAfter int
	lossAfter  int
	wishAfter  int
	lost, gap  bool
	blind      bool
	// proves says that what the ledger does not know was never sent, whichever delivery it is, if it is younger than the
	// epoch: so it is where nothing can be looked up, and in a lane.
	proves bool
}

// broken is a promise that a sequence breaks.
type broken struct{ what string }

func breaks(format string, args ...any) { panic(broken{fmt.Sprintf(format, args...)}) }

func (w *world) live(o int) (number int, alive bool) {
	for _, p := range w.papers[o][:w.count[o]] {
		if !p.cancelled {
			return p.number, true
		}
	}
	return 0, false
}

func (w *world) take(o int, late time.Duration) int {
	w.numbers++
	if w.count[o] == len(w.papers[o]) {
		breaks("order %d: more documents than can be counted", o)
	}
	w.papers[o][w.count[o]] = paper{number: w.numbers, shows: w.now.Add(late)}
	w.count[o]++
	if w.count[o] > 1 {
		breaks("P1: order %d has %d documents", o, w.count[o])
	}
	if _, other := w.live(1 - o); other {
		if o == 1 || !w.lost {
			breaks("P1: both orders with the line are live")
		}
		// A known gap: the earlier audit still waited when the later one was sent, and then the ledger was lost. Nothing
		// that a run of the earlier one could read says that it was superseded.
		w.gap = true
	}
	return w.numbers
}

func (w *world) find(o int) Found {
	if w.deaf {
		w.deaf = false
		return Found{Done: true, Err: errors.New("no answer")}
	}
	f := Found{Done: true}
	for _, p := range w.papers[o][:w.count[o]] {
		if !w.now.Before(p.shows) {
			f.Numbers = append(f.Numbers, fmt.Sprint(p.number))
			f.Cancelled = p.cancelled
		}
	}
	return f
}

// entry is what the ledger answers.
func (w *world) entryOf(o int) ledger.Entry {
	e := w.entries[o]
	out := ledger.Entry{State: e.state, Lookups: e.lookups, UnknownSince: e.unknownSince, Revision: int64(o + 1)}
	if e.state != ledger.New && !e.reconstructed {
		out.Hash = "2:"
	}
	if e.number > 0 {
		out.Number = fmt.Sprint(e.number)
	}
	if e.rejected {
		out.Rejection = fault.Reason{Code: "rejected"}
	}
	if e.state == ledger.Refused {
		out.Reason = fault.Reason{Code: "refused"}
	}
	if e.wish {
		out.Cancel = &ledger.Cancel{}
	}
	return out
}

func (w *world) other(o int) Other {
	e := w.entryOf(o)
	return Other{Read: true, Exists: !w.entries[o].none(), Entry: e, SamePayload: true}
}

// claim is the ledger's Claim.
func (w *world) claim(o, owner int, d Delivery) Claim {
	e := &w.entries[o]
	c := Claim{Done: true, Claimed: ledger.Claimed{EpochSince: w.since, At: w.now}}
	switch {
	case e.state == ledger.Accepted, e.state == ledger.Cancelled:
		c.Entry = w.entryOf(o)
		return c
	case e.state == ledger.Intent && w.now.Before(e.until):
		c.Result, c.Err = Busy, ledger.ErrBusy
		return c
	case e.state == ledger.Intent:
		e.state, e.neverSent = ledger.Unknown, false
		if e.unknownSince.IsZero() {
			e.unknownSince = w.now
		}
	}
	if h := w.line - 1; h >= 0 && h != o && w.entries[h].state.Live() {
		c.Result, c.Err = LineTaken, errors.New("line is taken")
		return c
	}
	w.line = o + 1
	c.Entry = w.entryOf(o)
	e.reconstructed = false
	if e.none() {
		e.neverSent = (w.proves || d.First && !d.Replay) && d.AuditedAt.After(w.since.Add(ledger.EpochMargin))
	}
	c.NeverSent = e.state == ledger.New && e.neverSent
	c.NotFound = !c.NeverSent && w.notFound[o].Equal(w.since)
	w.notFound[o] = time.Time{}
	e.prior, e.state, e.owner, e.until = e.state, ledger.Intent, owner, w.now.Add(ledger.ClaimFor)
	c.Claim.Until = e.until
	return c
}

// run is one delivery, until it ends or the worker dies.
func (w *world) run(o int, next func(Known) Step) {
	m := &w.messages[o]
	w.owners++
	owner := w.owners
	k := Known{
		Policy:     policy,
		Delivery:   Delivery{Revision: int64(o + 1), Supersedes: o == 1, First: m.first, Replay: m.replay, AuditedAt: m.at, AbsentAt: m.absentAt},
		CannotFind: w.blind,
	}
	m.first = false
	step := next(k)
	for n := 1; !step.Final(); n++ {
		if n > 30 {
			breaks("order %d: a run does not end", o)
		}
		w.do(o, owner, step, &k)
		if n == w.lossAfter {
			w.lossAfter = 0
			w.lose()
		}
		if n == w.wishAfter {
			w.wishAfter = 0
			w.wantCancel(o)
		}
		if n == w.crashAfter {
			w.crashAfter = 0
			m.due = w.now.Add(ackWait)
			return
		}
		step = next(k)
	}
	w.crashAfter, w.lossAfter, w.wishAfter = 0, 0, 0
	w.end(o, step, m)
}

func (w *world) do(o, owner int, step Step, k *Known) {
	e := &w.entries[o]
	mine := e.state == ledger.Intent && e.owner == owner
	switch step.Do {
	case Read:
		k.Stored = w.other(o)
	case Check:
		k.Checks = Checks{Done: true}
	case ClaimIt:
		k.Claim = w.claim(o, owner, k.Delivery)
	case FreeLine:
		k.Line = Line{FreeTried: true, Superseded: o == 1}
	case ReadHolder:
		k.Line.Holder = w.other(1 - o)
	case ReadEarlier:
		k.Earlier = w.other(0)
	case FindEarlier:
		k.Earlier.Found = w.find(0)
	case Find:
		k.Found = w.find(o)
	case Compare:
		k.Own = Own{Done: true, Number: k.Found.Numbers[0], Others: k.Found.Numbers[1:]}
	case Retry:
		e.lookups, e.unknownSince, e.rejected, e.prior = 0, time.Time{}, false, ledger.Unknown
		k.Retried.Done = true
	case Send:
		lookedUp := k.Found.Done && k.Found.Err == nil && len(k.Found.Numbers) == 0
		switch {
		case !mine && w.since.Equal(k.Claim.EpochSince):
			breaks("P1: order %d is sent without an intent in the ledger", o)
		case !w.blind && !k.Claim.NeverSent && !lookedUp && !k.Claim.NotFound:
			breaks("P1: order %d is sent without a look-up", o)
		case w.blind && k.Claim.Entry.Rejection != (fault.Reason{}):
			breaks("P2: order %d is sent again although it was rejected", o)
		case w.messages[o].cancelled && w.lost:
			w.gap = true // A known gap: the ledger that was lost had what kept it from being sent.
		case w.messages[o].cancelled:
			breaks("P3: order %d is sent after it was answered as cancelled", o)
		case k.Claim.Entry.Cancel != nil:
			breaks("P3: order %d is sent although it is to be cancelled", o)
		}
		k.Answer, k.Found = w.send(o), Found{}
	default:
		k.Resolved = w.resolve(o, mine, step)
	}
	k.Left = k.Claim.Claim.Until.Sub(w.now)
}

func (w *world) send(o int) Answer {
	how := w.answer
	w.answer = takes
	rejection := Answer{Done: true, Err: errors.New("no"), Rejected: true, Reason: fault.Reason{Code: "rejected"}}
	lost := Answer{Done: true, Err: fault.Unknown(errors.New("no answer"))}
	switch how {
	case losesAnswer:
		w.take(o, 0)
		return lost
	case losesAnswerLate:
		w.take(o, showsAfter)
		return lost
	case dropsRequest:
		return lost
	case rejects:
		return rejection
	case rejectsTaken:
		w.take(o, 0)
		return rejection
	case rejectsTakenLate:
		w.take(o, showsAfter)
		return rejection
	case rejectsData:
		rejection.Final = true
		return rejection
	case rejectsSetUp:
		rejection.Cause = "set-up"
		return rejection
	case refuses:
		return Answer{Done: true, Err: fault.Permanent(errors.New("no")), Reason: fault.Reason{Code: "refused"}}
	case isBusy:
		return Answer{Done: true, Err: fault.RetryAfter(time.Second, errors.New("busy"))}
	case holdsTaken:
		w.take(o, 0)
		fallthrough
	case holdsMaybe:
		return Answer{Done: true, Err: fault.Hold("set-up", errors.New("held")), MaybeDone: true}
	default:
		return Answer{Done: true, Number: fmt.Sprint(w.take(o, 0))}
	}
}

// resolve is the ledger's writes that end a claim.
func (w *world) resolve(o int, mine bool, step Step) Resolved {
	e, r := &w.entries[o], Resolved{Step: step}
	if !mine && step.Do != Accept && step.Do != MarkUnknown && step.Do != MarkRejected {
		r.Err = ledger.ErrLost
		return r
	}
	switch step.Do {
	case Accept:
		number := 0
		_, _ = fmt.Sscan(step.Number, &number)
		*e = entry{state: ledger.Accepted, number: number, wish: e.wish}
		w.line = o + 1
	case Refuse:
		*e = entry{state: ledger.Refused, wish: e.wish}
	case MarkUnknown, MarkRejected:
		*e = entry{state: ledger.Unknown, unknownSince: w.now, rejected: step.Do == MarkRejected, reconstructed: e.none() || e.reconstructed, wish: e.wish}
	case MarkNotFound:
		e.state, e.neverSent = ledger.Unknown, false
		if e.lookups++; e.unknownSince.IsZero() {
			e.unknownSince = w.now
		}
		r.Lookups, r.UnknownFor = e.lookups, w.now.Sub(e.unknownSince)
	case Release:
		if step.NotFound {
			w.notFound[o] = w.since
		}
		e.state = e.prior
	default:
		breaks("order %d: no such step: %d", o, step.Do)
	}
	return r
}

// end is what the worker and the bus do with a final step.
func (w *world) end(o int, step Step, m *message) {
	m.pending, m.replay = false, false
	number, alive := w.live(o)
	switch step.Do {
	case Report:
		_, _ = fmt.Sscan(step.Number, &m.accepted)
		if alive && m.accepted != number {
			breaks("P1: order %d is accepted as %d, the warehouse has %d", o, m.accepted, number)
		}
		if len(step.Others) > 0 {
			breaks("P1: order %d has several documents", o)
		}
		return
	case Ignore:
		return
	}
	class := fault.Of(step.Err)
	switch step.Why {
	case WhyCancelWanted:
		if m.cancelled = true; alive {
			breaks("P3: order %d counts as cancelled, the warehouse has it", o)
		}
		return
	case WhySuperseding, WhyUnresolved:
		class = fault.Held
	case WhyReused, WhyCancelled, WhyLine, WhyDuplicate, WhyNumberTaken:
		class = fault.Refused
	}
	switch class {
	case fault.Wait, fault.Unclear:
		m.pending, m.due = true, w.now.Add(max(time.Second, fault.After(step.Err)))
	case fault.Transient:
		m.pending, m.due = true, w.now.Add(time.Second)
	case fault.Held:
		m.held, m.heldOnce = true, true
		m.unresolved, m.heldAt, m.looked = step.Why == WhyUnresolved, w.now, false
	case fault.Refused:
		m.dead = true
		if w.entries[o].state.Live() || step.Operator {
			m.heldOnce = true
			return
		}
		if m.cancelled && !m.failed && !m.mayBeBoth && step.Why != WhyLine { // another has its line: nothing is there either way
			breaks("P3: order %d is published as failed after it was answered as cancelled", o)
		}
		if m.failed = true; alive && step.Why == WhyLine && w.lost && len(w.find(o).Numbers) == 0 {
			// A known gap: the ledger was lost, the later audit got the line, and the warehouse does not show the earlier
			// document yet.
			w.gap = true
		} else if alive {
			breaks("P2: order %d is published as failed, the warehouse has it", o)
		}
	}
}

// settle runs all that is due, as it becomes due, and all that others do meanwhile: the poller, sweeps.
func (w *world) settle(next func(Known) Step) {
	for n := 0; ; n++ {
		if n > 60 {
			breaks("P2: it does not end")
		}
		w.poll()
		first := -1
		for o := range w.messages {
			if m := &w.messages[o]; m.pending && (first < 0 || m.due.Before(w.messages[first].due)) {
				first = o
			}
		}
		if first >= 0 {
			if due := w.messages[first].due; due.After(w.now) {
				w.now = due
			}
			w.run(first, next)
			continue
		}
		if !w.sweep() {
			return
		}
	}
}

// poll is what others record: the poller a document that the warehouse cancelled, the consumer of a request to cancel the
// wish, again after a loss, and its answer once there is one.
func (w *world) poll() {
	for o := range w.entries {
		e, m := &w.entries[o], &w.messages[o]
		if _, alive := w.live(o); e.state == ledger.Accepted && w.count[o] > 0 && !alive {
			e.state = ledger.Cancelled
		}
		if !m.wantsCancel {
			continue
		}
		e.wish = true
		stays := false
		switch e.state {
		case ledger.Accepted:
			for i := range w.papers[o][:w.count[o]] {
				for w.papers[o][i].cancel() { // part by part
				}
			}
			if _, alive := w.live(o); alive {
				e.wish, m.wantsCancel = false, false // the warehouse refuses: it left
				continue
			}
			e.state = ledger.Cancelled
		case ledger.Cancelled:
		case ledger.Refused:
			stays = true // else a replay would send what was answered as cancelled
		default:
			continue // it is not sent yet, or may be there
		}
		e.wish, m.wantsCancel, m.cancelled = stays, false, true
		if _, alive := w.live(o); alive && !w.gap {
			breaks("P3: order %d is answered as cancelled, the warehouse has it", o)
		}
	}
}

func (w *world) wantCancel(o int) bool {
	m := &w.messages[o]
	if !m.published || m.wantsCancel || m.cancelled {
		return false
	}
	m.wantsCancel, w.entries[o].wish = true, true
	return true
}

// release lets a held message run again.
func (w *world) release(m *message) {
	m.held, m.pending, m.replay, m.due = false, true, true, w.now
}

// look is what a person finds at the warehouse, 0 for nothing.
func (w *world) look() int {
	for _, p := range w.papers[0][:w.count[0]] {
		if !w.now.Before(p.shows) {
			return p.number
		}
	}
	return 0
}

// say is what bridgectl does with what the person saw: the ledger accepts the number, and the message is released.
func (w *world) say(number int) {
	if e := &w.entries[0]; number > 0 && e.state != ledger.Accepted && e.state != ledger.Cancelled {
		*e = entry{state: ledger.Accepted, number: number, wish: e.wish}
	}
	w.messages[0].absentAt = w.now
	w.release(&w.messages[0])
}

// lookInTime is what the runbook says.
func (w *world) lookInTime() {
	m := &w.messages[0]
	if from := m.heldAt.Add(policy.SettleFor + time.Second); w.now.Before(from) {
		w.now = from
	}
	m.looked, m.saw = true, w.look()
}

// sweep releases what is held when its cause is gone.
func (w *world) sweep() (released bool) {
	for o := range w.messages {
		m := &w.messages[o]
		if !m.held || o == 1 && w.entries[0].state.Live() {
			continue
		}
		if m.unresolved {
			w.resolveHeld(m)
			released = true
			continue
		}
		if o == 1 && w.entries[0].none() {
			if _, alive := w.live(0); alive {
				continue // the ledger was lost: it would be looked up and held again with each sweep
			}
		}
		w.release(m)
		released = true
	}
	return released
}

// resolveHeld releases a message that waits for a person: the sweep, when the ledger knows how the document ended, or else
// the person.
func (w *world) resolveHeld(m *message) {
	switch w.entries[0].state {
	case ledger.Accepted, ledger.Cancelled, ledger.Refused:
		m.absentAt = w.now
		w.release(m)
	default:
		if !m.looked {
			w.lookInTime()
		}
		w.say(m.saw)
	}
}

// check is what must hold in the end.
func (w *world) check() {
	if w.gap {
		return
	}
	for o, m := range w.messages {
		if !m.published {
			continue
		}
		number, alive := w.live(o)
		switch {
		case alive && m.cancelled:
			breaks("P3: order %d was answered as cancelled, the warehouse has it", o)
		case alive && m.accepted != number && (!m.dead || !m.heldOnce): // nor a person
			breaks("P2: the warehouse has order %d, and nobody was told", o)
		case alive && w.entries[o].state == ledger.Refused:
			breaks("P2: the warehouse has order %d, the ledger has it as refused", o)
		case m.failed && m.accepted > 0 && !m.mayBeBoth:
			breaks("P2: order %d has two outcomes", o)
		case m.accepted == 0 && !m.failed && !m.cancelled && !m.heldOnce:
			breaks("P2: order %d has no outcome", o)
		}
	}
}

// act is something that happens; it returns false when it would change nothing.
type act struct {
	name string
	do   func(w *world, next func(Known) Step) bool
	// later: it takes effect in the next run. Two of these in a row are tried in one order only.
	later bool
}

func acts() []act {
	list := []act{
		{name: "audit", do: func(w *world, next func(Known) Step) bool { return w.audit(0, next) }},
		{name: "re-audit", do: func(w *world, next func(Known) Step) bool { return w.messages[0].published && w.audit(1, next) }},
		{name: "time passes", do: func(w *world, next func(Known) Step) bool {
			for o := range w.messages {
				if m := &w.messages[o]; m.pending {
					if m.due.After(w.now) {
						w.now = m.due
					}
					w.run(o, next)
					return true
				}
			}
			return false
		}},
		{name: "the ledger is lost", do: func(w *world, _ func(Known) Step) bool {
			w.lose()
			return true
		}},
		{name: "a look-up fails", do: func(w *world, _ func(Known) Step) bool {
			if w.deaf || !w.messages[0].published {
				return false
			}
			w.deaf = true
			return true
		}},
		{name: "redelivered", do: func(w *world, next func(Known) Step) bool { return w.redeliver(0, next) }},
		{name: "re-audit redelivered", do: func(w *world, next func(Known) Step) bool { return w.redeliver(1, next) }},
		{name: "replayed", do: func(w *world, next func(Known) Step) bool {
			m := &w.messages[0]
			if !m.dead {
				return false
			}
			m.dead, m.replay, m.mayBeBoth, m.pending = false, true, true, true
			w.run(0, next)
			return true
		}},
		{name: "walks out", do: walksOut},
		{name: "is split", do: func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || w.papers[0][0].split || w.papers[0][0].cancelled {
				return false
			}
			w.papers[0][0].split = true
			return true
		}},
		{name: "is cancelled by the warehouse, or a part of it", do: func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || w.now.Before(w.papers[0][0].shows) || !w.papers[0][0].cancel() {
				return false
			}
			w.poll()
			return true
		}},
		{name: "the ERP wants to cancel", do: func(w *world, _ func(Known) Step) bool { return w.wantCancel(0) }},
	}
	return append(list, faults(5)...)
}

// walksOut is the walk of a document at the warehouse up to where it can no longer be cancelled.
func walksOut(w *world, _ func(Known) Step) bool {
	if w.count[0] == 0 || w.papers[0][0].left || w.papers[0][0].cancelled {
		return false
	}
	w.papers[0][0].left = true
	w.poll()
	return true
}

// blindActs are those of a blind world.
func blindActs() []act {
	held := func(w *world) (*message, bool) {
		m := &w.messages[0]
		return m, m.held && m.unresolved
	}
	list := []act{
		{name: "push", do: func(w *world, next func(Known) Step) bool { return w.audit(0, next) }},
		{name: "redelivered", do: func(w *world, next func(Known) Step) bool {
			m := &w.messages[0]
			if !m.published || m.held || m.dead {
				return false
			}
			if m.due.After(w.now) {
				w.now = m.due
			}
			m.pending = true
			w.run(0, next)
			return true
		}},
		{name: "the ledger is lost", do: func(w *world, _ func(Known) Step) bool {
			w.lose()
			return true
		}},
		{name: "replayed", do: func(w *world, next func(Known) Step) bool {
			m := &w.messages[0]
			if !m.dead && !m.held {
				return false
			}
			m.mayBeBoth, m.dead = true, false
			w.release(m)
			w.run(0, next)
			return true
		}},
		{name: "replayed later", do: func(w *world, next func(Known) Step) bool {
			m := &w.messages[0]
			if !m.held {
				return false
			}
			w.now = w.now.Add(2 * policy.SettleFor)
			w.release(m)
			w.run(0, next)
			return true
		}},
		{name: "a person looks at once", do: func(w *world, next func(Known) Step) bool {
			_, waits := held(w)
			if waits {
				w.now = w.now.Add(time.Second)
				w.say(w.look())
				w.run(0, next)
			}
			return waits
		}},
		{name: "a person looks in time", do: func(w *world, _ func(Known) Step) bool {
			m, waits := held(w)
			if !waits || m.looked {
				return false
			}
			w.lookInTime()
			return true
		}},
		{name: "the person says it", do: func(w *world, next func(Known) Step) bool {
			m, waits := held(w)
			if !waits || !m.looked {
				return false
			}
			w.say(m.saw)
			w.run(0, next)
			return true
		}},
		{name: "a number is entered, and nothing is released", do: func(w *world, _ func(Known) Step) bool {
			m, waits := held(w)
			if !waits || w.look() == 0 || w.entries[0].state == ledger.Accepted {
				return false
			}
			w.say(w.look())
			m.held, m.pending, m.replay = true, false, false
			return true
		}},
		{name: "walks out", do: walksOut},
		{name: "is cancelled by the warehouse", do: func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || !w.papers[0][0].cancel() {
				return false
			}
			w.poll()
			return true
		}},
		{name: "the ERP wants to cancel", do: func(w *world, _ func(Known) Step) bool { return w.wantCancel(0) }},
		{name: "the request to cancel is handled", do: func(w *world, _ func(Known) Step) bool {
			if !w.messages[0].wantsCancel {
				return false
			}
			w.poll()
			return true
		}},
	}
	return append(list, faults(7)...)
}

// faults are what goes wrong in the next run: the warehouse's answer, a crash, a loss, a wish to cancel in its midst.
func faults(lossUpTo int) (list []act) {
	for how := losesAnswer; how <= holdsTaken; how++ {
		list = append(list, act{name: "next answer: " + answers[how], later: true, do: func(w *world, _ func(Known) Step) bool {
			if w.answer != takes {
				return false
			}
			w.answer = how
			return true
		}})
	}
	after := func(name string, from, to int, of func(w *world) *int) {
		for n := from; n <= to; n++ {
			list = append(list, act{name: fmt.Sprintf("%s after step %d", name, n), later: true, do: func(w *world, _ func(Known) Step) bool {
				if *of(w) != 0 {
					return false
				}
				*of(w) = n
				return true
			}})
		}
	}
	after("crash", 1, 7, func(w *world) *int { return &w.crashAfter })
	after("the ledger is lost", 2, lossUpTo, func(w *world) *int { return &w.lossAfter })
	after("the ERP wants to cancel", 3, 4, func(w *world) *int { return &w.wishAfter })
	return list
}

func (w *world) lose() {
	w.lost = true
	w.entries, w.line, w.since, w.now = [2]entry{}, 0, w.now.Add(time.Second), w.now.Add(time.Second)
	for o := range w.messages {
		w.messages[o].mayBeBoth = true
	}
}

func (w *world) audit(o int, next func(Known) Step) bool {
	if w.messages[o].published {
		return false
	}
	w.now = w.now.Add(10 * time.Second)
	w.messages[o] = message{published: true, at: w.now, due: w.now, pending: true, first: true, mayBeBoth: w.messages[o].mayBeBoth}
	w.run(o, next)
	return true
}

func (w *world) redeliver(o int, next func(Known) Step) bool {
	m := &w.messages[o]
	if !m.published || m.held || m.dead {
		return false
	}
	m.pending = true
	w.run(o, next)
	return true
}

// explored counts sequences, and names the first that breaks a promise.
type explored struct {
	sequences, violations, gaps int
	first                       string
	kinds                       map[string]string // the first of each kind
}

// explore tries all sequences of up to depth acts, from a world in which nothing happened. After each the world is let come
// to rest.
func explore(next func(Known) Step, start world, depth int, stopAtFirst bool) explored {
	e := explored{kinds: map[string]string{}}
	list := acts()
	if start.blind {
		list = blindActs()
	}
	var names []string
	try := func(do func()) (ok bool) {
		defer func() {
			if v := recover(); v != nil {
				b, promise := v.(broken)
				if !promise {
					panic(v)
				}
				if _, known := e.kinds[b.what]; !known {
					e.kinds[b.what] = strings.Join(names, ", ")
				}
				if e.violations++; e.first == "" {
					e.first = strings.Join(names, ", ") + ": " + b.what
				}
			}
		}()
		do()
		return true
	}
	var walk func(w world, last, left int)
	walk = func(w world, last, left int) {
		e.sequences++
		rest := w
		well := try(func() { rest.settle(next); rest.check() })
		if rest.gap {
			e.gaps++
		}
		if !well || left == 0 {
			return
		}
		for i, a := range list {
			if a.later && i < last && list[last].later {
				continue
			}
			if stopAtFirst && e.violations > 0 {
				return
			}
			then, happened := w, false
			names = append(names, a.name)
			if try(func() { happened = a.do(&then, next) }) && happened {
				walk(then, i, left-1)
			}
			names = names[:len(names)-1]
		}
	}
	start.now, start.since = epoch.Add(time.Hour), epoch
	walk(start, 0, depth)
	return e
}

func TestNoSequenceBreaksAPromise(t *testing.T) {
	for name, start := range map[string]world{
		"orders": {}, "orders in a lane": {proves: true}, "a kind that cannot be looked up": {blind: true, proves: true},
	} {
		began := time.Now()
		e := explore(Next, start, *depth, false)
		fmt.Printf("document.Next, %s: %d sequences of up to %d acts explored in %s, %d violations, %d in the known gap\n",
			name, e.sequences, *depth, time.Since(began).Round(time.Millisecond), e.violations, e.gaps)
		if e.violations > 0 {
			t.Errorf("%s: %d of %d sequences break a promise", name, e.violations, e.sequences)
			for what, names := range e.kinds {
				t.Logf("%s: %s", names, what)
			}
		}
		if e.sequences < 10_000 {
			t.Errorf("%s: only %d sequences were explored", name, e.sequences)
		}
	}
}

// Each of these is a mistake in Next that somebody could make.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, c := range []struct {
		bug   string
		blind bool
		do    func(Known, Step) Step
	}{
		{"an order that may have been sent is sent without a look-up", false, func(k Known, s Step) Step {
			if s.Do == Find && !k.Answer.Done {
				s.Do = Send
			}
			return s
		}},
		{"a lost answer counts as refused", false, func(_ Known, s Step) Step {
			if s.Lost {
				return refuse(fault.Reason{Code: "lost"})
			}
			return s
		}},
		{"an unknown order is sent again after one look-up", false, func(k Known, s Step) Step {
			if s.Do == MarkNotFound && !rejectedBefore(k) {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a rejection is final after the immediate look-up", false, func(_ Known, s Step) Step {
			if s.Do == MarkRejected {
				return refuse(s.Reason)
			}
			return s
		}},
		{"a rejected order is sent again", false, func(k Known, s Step) Step {
			if (s.Do == MarkNotFound || s.Do == Refuse) && rejectedBefore(k) {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a rejection is believed without a look-up", false, func(k Known, s Step) Step {
			if s.Do == Find && k.Answer.Rejected {
				return refuse(k.Answer.Reason)
			}
			return s
		}},
		{"an order whose ledger was lost is sent when the first look-up finds nothing", false, func(k Known, s Step) Step {
			if s.Do == Release && k.Found.Done && k.Claim.Entry.State == ledger.New && !k.Answer.Done {
				s = Step{Do: Send}
			}
			return s
		}},
		{"the superseded order is not looked up", false, func(k Known, s Step) Step {
			if s.Do == FindEarlier {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a live superseded order does not hold its successor", false, func(_ Known, s Step) Step {
			if s.Why == WhySuperseding && s.Do == Release {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a known order is refused", false, func(_ Known, s Step) Step {
			if s.Do == Report && s.Known {
				return fail(fault.Permanent(errors.New("known")))
			}
			return s
		}},
		{"what a look-up found is not accepted", false, func(k Known, s Step) Step {
			if s.Do == Accept && !k.Answer.Done {
				return release(fault.Permanent(errors.New("there is one already")))
			}
			return s
		}},
		{"a document that is to be cancelled is sent", false, func(k Known, s Step) Step {
			if s.Why == WhyCancelWanted && s.Do == Refuse {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a document that may be there counts as cancelled", false, func(k Known, s Step) Step {
			if k.Claim.Entry.Cancel != nil && s.Do == MarkNotFound {
				return Step{Do: Refuse, Why: WhyCancelWanted}
			}
			return s
		}},
		{"a lost answer is not recorded", false, func(_ Known, s Step) Step {
			if s.Lost {
				s.Do = Release
			}
			return s
		}},
		{"what was answered as cancelled is sent by a replay", false, func(k Known, _ Step) Step {
			k.Claim.Entry.Cancel = nil
			return Next(k)
		}},

		{"a document that may be there is sent without a person's word", true, func(_ Known, s Step) Step {
			if s.Do == Release && s.Why == WhyUnresolved {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a lost answer counts as refused, where nobody can look it up", true, func(_ Known, s Step) Step {
			if s.Lost {
				return refuse(fault.Reason{Code: "lost"})
			}
			return s
		}},
		{"a send that was held, and may have had its effect, counts as refused", true, func(k Known, s Step) Step {
			if s.Do == MarkUnknown && k.Answer.MaybeDone {
				return refuse(fault.Reason{Code: "held"})
			}
			return s
		}},
		{"any rejection counts as refused", true, func(_ Known, s Step) Step {
			if s.Do == MarkRejected {
				return refuse(s.Reason)
			}
			return s
		}},
		{"a rejected document is sent again on a person's word", true, func(k Known, s Step) Step {
			if s.Do == Refuse && rejectedBefore(k) {
				s = Step{Do: Retry}
				if k.Retried.Done {
					s.Do = Send
				}
			}
			return s
		}},
		{"a person's word counts for ever", true, func(k Known, _ Step) Step {
			if !k.Delivery.AbsentAt.IsZero() {
				k.Delivery.AbsentAt = epoch.AddDate(1, 0, 0)
			}
			return Next(k)
		}},
		{"a person's word counts at once", true, func(k Known, _ Step) Step {
			k.Policy.SettleFor = 0
			return Next(k)
		}},
		{"a person's word outlives the ledger", true, func(k Known, _ Step) Step {
			k.Claim.EpochSince = epoch
			return Next(k)
		}},
		{"a document that is to be cancelled is sent on a person's word", true, func(k Known, _ Step) Step {
			k.Claim.Entry.Cancel = nil
			return Next(k)
		}},
		{"a document that may be there counts as cancelled, where nobody can look it up", true, func(k Known, s Step) Step {
			if k.Claim.Entry.Cancel != nil && s.Why == WhyUnresolved && !k.Answer.Done {
				return Step{Do: Refuse, Why: WhyCancelWanted}
			}
			return s
		}},
		{"a number that a person entered is not accepted", true, func(k Known, s Step) Step {
			if s.Do == Report && s.Known && k.Delivery.Replay {
				return fail(fault.Permanent(errors.New("known")))
			}
			return s
		}},
	} {
		t.Run(c.bug, func(t *testing.T) {
			e := explore(func(k Known) Step { return c.do(k, Next(k)) }, world{blind: c.blind, proves: c.blind}, *depth, true)
			if e.violations == 0 {
				t.Errorf("%d sequences do not notice", e.sequences)
				return
			}
			t.Log(e.first)
		})
	}
}

func rejectedBefore(k Known) bool { return k.Claim.Entry.Rejection != (fault.Reason{}) }
