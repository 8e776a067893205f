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
	refuses
	isBusy
	holdsMaybe
)

var answers = map[answer]string{
	takes: "takes it", losesAnswer: "answer lost", losesAnswerLate: "answer lost, shown late", dropsRequest: "request lost",
	rejects: "rejected", rejectsTaken: "rejected, taken", rejectsTakenLate: "rejected, taken, shown late", rejectsData: "rejected for its data",
	refuses: "refused", isBusy: "busy", holdsMaybe: "held, perhaps taken",
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
}

// paper is a document at the warehouse.
type paper struct {
	number    int
	shows     time.Time
	cancelled bool
	walked    int
	split     bool
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
	wantsCancel         bool
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
	lost, gap  bool
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
	return out
}

func (w *world) other(o int) Other {
	e := w.entryOf(o)
	return Other{Read: true, Exists: w.entries[o] != entry{}, Entry: e, SamePayload: true}
}

// claim is the ledger's Claim.
func (w *world) claim(o, owner int, m *message) Claim {
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
	if *e == (entry{}) {
		e.neverSent = m.first && !m.replay && m.at.After(w.since.Add(ledger.EpochMargin))
	}
	c.NeverSent = e.state == ledger.New && e.neverSent
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
		Policy:       policy,
		Delivery:     Delivery{Revision: int64(o + 1), Supersedes: o == 1, First: m.first, Replay: m.replay, AuditedAt: m.at},
		CancelWanted: m.wantsCancel,
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
		if n == w.crashAfter {
			w.crashAfter = 0
			m.due = w.now.Add(ackWait)
			return
		}
		step = next(k)
	}
	w.crashAfter, w.lossAfter = 0, 0
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
		k.Claim = w.claim(o, owner, &w.messages[o])
	case FreeLine:
		k.Line = Line{FreeTried: true, Superseded: o == 1}
	case ReadHolder:
		k.Line.Holder = w.other(1 - o)
	case TakeSlot:
		k.Slot = Slot{Done: true, NotFound: !k.Claim.NeverSent && w.notFound[o].Equal(w.since)}
		w.notFound[o] = time.Time{}
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
		case !k.Claim.NeverSent && !lookedUp && !k.Slot.NotFound:
			breaks("P1: order %d is sent without a look-up", o)
		case w.messages[o].wantsCancel:
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
	case refuses:
		return Answer{Done: true, Err: fault.Permanent(errors.New("no")), Reason: fault.Reason{Code: "refused"}}
	case isBusy:
		return Answer{Done: true, Err: fault.RetryAfter(time.Second, errors.New("busy"))}
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
		*e = entry{state: ledger.Accepted, number: number}
		w.line = o + 1
	case Refuse:
		*e = entry{state: ledger.Refused}
	case MarkUnknown, MarkRejected:
		*e = entry{state: ledger.Unknown, unknownSince: w.now, rejected: step.Do == MarkRejected, reconstructed: *e == (entry{}) || e.reconstructed}
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
	case Cancel:
		for i := range w.papers[o][:w.count[o]] {
			w.papers[o][i].cancelled = true
		}
		w.entries[o].state = ledger.Cancelled
		m.cancelled = true
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
	case WhySuperseding:
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
	case fault.Refused:
		m.dead = true
		if w.entries[o].state.Live() || step.Operator {
			m.heldOnce = true
			return
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

// poll is what the poller records: a document that the warehouse cancelled.
func (w *world) poll() {
	for o := range w.entries {
		if _, alive := w.live(o); w.entries[o].state == ledger.Accepted && w.count[o] > 0 && !alive {
			w.entries[o].state = ledger.Cancelled
		}
	}
}

// sweep releases what is held when its cause is gone.
func (w *world) sweep() (released bool) {
	for o := range w.messages {
		m := &w.messages[o]
		if !m.held || o == 1 && w.entries[0].state.Live() {
			continue
		}
		if o == 1 && w.entries[0] == (entry{}) {
			if _, alive := w.live(0); alive {
				continue // the ledger was lost: it would be looked up and held again with each sweep
			}
		}
		m.held, m.pending, m.replay, m.due = false, true, true, w.now
		released = true
	}
	return released
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
		case alive && m.accepted != number && !m.cancelled && (!m.dead || !m.heldOnce): // nor a person
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
}

func acts() []act {
	list := []act{
		{"audit", func(w *world, next func(Known) Step) bool { return w.audit(0, next) }},
		{"re-audit", func(w *world, next func(Known) Step) bool { return w.messages[0].published && w.audit(1, next) }},
		{"time passes", func(w *world, next func(Known) Step) bool {
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
		{"the ledger is lost", func(w *world, _ func(Known) Step) bool {
			w.lose()
			return true
		}},
		{"a look-up fails", func(w *world, _ func(Known) Step) bool {
			if w.deaf || !w.messages[0].published {
				return false
			}
			w.deaf = true
			return true
		}},
		{"redelivered", func(w *world, next func(Known) Step) bool { return w.redeliver(0, next) }},
		{"re-audit redelivered", func(w *world, next func(Known) Step) bool { return w.redeliver(1, next) }},
		{"replayed", func(w *world, next func(Known) Step) bool {
			m := &w.messages[0]
			if !m.dead {
				return false
			}
			m.dead, m.replay, m.mayBeBoth, m.pending = false, true, true, true
			w.run(0, next)
			return true
		}},
		{"walks on", func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || w.papers[0][0].walked > 0 {
				return false
			}
			w.papers[0][0].walked++
			return true
		}},
		{"is split", func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || w.papers[0][0].split {
				return false
			}
			w.papers[0][0].split = true
			return true
		}},
		{"is cancelled by the warehouse", func(w *world, _ func(Known) Step) bool {
			if w.count[0] == 0 || w.papers[0][0].cancelled || w.now.Before(w.papers[0][0].shows) {
				return false
			}
			w.papers[0][0].cancelled = true
			w.poll()
			return true
		}},
		{"the ERP wants to cancel", func(w *world, _ func(Known) Step) bool {
			if m := &w.messages[0]; !m.published || m.wantsCancel {
				return false
			}
			w.messages[0].wantsCancel = true
			return true
		}},
	}
	for how := losesAnswer; how <= holdsMaybe; how++ {
		list = append(list, act{"next answer: " + answers[how], func(w *world, _ func(Known) Step) bool {
			if w.answer == how {
				return false
			}
			w.answer = how
			return true
		}})
	}
	for n := 1; n <= 7; n++ {
		list = append(list, act{fmt.Sprintf("crash after step %d", n), func(w *world, _ func(Known) Step) bool {
			if w.crashAfter != 0 {
				return false
			}
			w.crashAfter = n
			return true
		}})
	}
	for n := 2; n <= 5; n++ {
		list = append(list, act{fmt.Sprintf("the ledger is lost after step %d", n), func(w *world, _ func(Known) Step) bool {
			if w.lossAfter != 0 {
				return false
			}
			w.lossAfter = n
			return true
		}})
	}
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

// explore tries all sequences of up to depth acts. After each the world is let come to rest.
func explore(next func(Known) Step, depth int, stopAtFirst bool) explored {
	e := explored{kinds: map[string]string{}}
	list := acts()
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
	var walk func(w world, left int)
	walk = func(w world, left int) {
		e.sequences++
		rest := w
		well := try(func() { rest.settle(next); rest.check() })
		if rest.gap {
			e.gaps++
		}
		if !well || left == 0 {
			return
		}
		for _, a := range list {
			if stopAtFirst && e.violations > 0 {
				return
			}
			then, happened := w, false
			names = append(names, a.name)
			if try(func() { happened = a.do(&then, next) }) && happened {
				walk(then, left-1)
			}
			names = names[:len(names)-1]
		}
	}
	walk(world{now: epoch.Add(time.Hour), since: epoch}, depth)
	return e
}

func TestNoSequenceBreaksAPromise(t *testing.T) {
	began := time.Now()
	e := explore(Next, *depth, false)
	fmt.Printf("document.Next: %d sequences of up to %d acts explored in %s, %d violations, %d in the known gap\n",
		e.sequences, *depth, time.Since(began).Round(time.Millisecond), e.violations, e.gaps)
	if e.violations > 0 {
		t.Errorf("%d of %d sequences break a promise", e.violations, e.sequences)
		for what, names := range e.kinds {
			t.Logf("%s: %s", names, what)
		}
	}
	if e.sequences < 10_000 {
		t.Errorf("only %d sequences were explored", e.sequences)
	}
}

// Each of these is a mistake in Next that somebody could make.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, c := range []struct {
		bug string
		do  func(Known, Step) Step
	}{
		{"an order that may have been sent is sent without a look-up", func(k Known, s Step) Step {
			if s.Do == Find && !k.Answer.Done {
				s.Do = Send
			}
			return s
		}},
		{"a lost answer counts as refused", func(_ Known, s Step) Step {
			if s.Lost {
				return refuse(fault.Reason{Code: "lost"})
			}
			return s
		}},
		{"an unknown order is sent again after one look-up", func(k Known, s Step) Step {
			if s.Do == MarkNotFound && !rejectedBefore(k) {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a rejection is final after the immediate look-up", func(_ Known, s Step) Step {
			if s.Do == MarkRejected {
				return refuse(s.Reason)
			}
			return s
		}},
		{"a rejected order is sent again", func(k Known, s Step) Step {
			if (s.Do == MarkNotFound || s.Do == Refuse) && rejectedBefore(k) {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a rejection is believed without a look-up", func(k Known, s Step) Step {
			if s.Do == Find && k.Answer.Rejected {
				return refuse(k.Answer.Reason)
			}
			return s
		}},
		{"an order whose ledger was lost is sent when the first look-up finds nothing", func(k Known, s Step) Step {
			if s.Do == Release && k.Found.Done && k.Claim.Entry.State == ledger.New && !k.Answer.Done {
				s = Step{Do: Send}
			}
			return s
		}},
		{"the superseded order is not looked up", func(k Known, s Step) Step {
			if s.Do == FindEarlier {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a live superseded order does not hold its successor", func(_ Known, s Step) Step {
			if s.Why == WhySuperseding && s.Do == Release {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a known order is refused", func(_ Known, s Step) Step {
			if s.Do == Report && s.Known {
				return fail(fault.Permanent(errors.New("known")))
			}
			return s
		}},
		{"what a look-up found is not accepted", func(k Known, s Step) Step {
			if s.Do == Accept && !k.Answer.Done {
				return release(fault.Permanent(errors.New("there is one already")))
			}
			return s
		}},
		{"a document that is to be cancelled is sent", func(k Known, s Step) Step {
			if s.Why == WhyCancelWanted && s.Do == Refuse {
				s = Step{Do: Send}
			}
			return s
		}},
		{"a document that may be there counts as cancelled", func(k Known, s Step) Step {
			if k.CancelWanted && s.Do == MarkNotFound {
				return Step{Do: Refuse, Why: WhyCancelWanted}
			}
			return s
		}},
		{"a lost answer is not recorded", func(_ Known, s Step) Step {
			if s.Lost {
				s.Do = Release
			}
			return s
		}},
	} {
		t.Run(c.bug, func(t *testing.T) {
			e := explore(func(k Known) Step { return c.do(k, Next(k)) }, *depth, true)
			if e.violations == 0 {
				t.Errorf("%d sequences do not notice", e.sequences)
				return
			}
			t.Log(e.first)
		})
	}
}

func rejectedBefore(k Known) bool { return k.Claim.Entry.Rejection != (fault.Reason{}) }
