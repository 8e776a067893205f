package checker

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/services/e2e/history"
)

// once checks P1.
func (c *run) once() Promise {
	p := Promise{Name: "P1", Says: "at most one document per outbound number, at most one live outbound number per order line"}
	type line struct{ seller, order, line string }
	holders := map[line][]*order{}
	for _, o := range c.sorted() {
		p.Checked++
		if len(o.docs) > 1 {
			p.breaks(o.no, fmt.Sprintf("shipped twice: the warehouse has %d documents", len(o.docs)), o.story())
		}
		if !slices.ContainsFunc(o.docs, document.live) {
			continue
		}
		a := o.audits[0]
		for _, l := range a.Lines {
			key := line{a.Seller, a.OrderNo, l}
			holders[key] = append(holders[key], o)
		}
	}
	p.count("order lines", len(holders))
	seen := map[string]bool{}
	for key, held := range holders {
		if len(held) < 2 || seen[key.seller+"/"+key.order] {
			continue
		}
		seen[key.seller+"/"+key.order] = true
		var evidence []string
		for _, o := range held {
			evidence = append(evidence, o.story()...)
		}
		p.breaks(held[0].no, fmt.Sprintf("shipped twice: line %s of %s lives under %d numbers", key.line, key.order, len(held)), evidence)
	}
	for _, d := range c.foreign {
		p.breaks(d.number, "the warehouse has a document under a number that nobody audited", []string{at(d.created) + " document " + d.no})
	}
	for _, kind := range []jdsandbox.ViolationKind{jdsandbox.TwoDocuments, jdsandbox.LineLiveTwice} {
		p.count("counted by the sandbox itself: "+string(kind), int(c.violations.Counts[kind]))
		// What shows at the end was named above; only this count shows a line that was live twice for a while.
		if n := c.violations.Counts[kind]; n > 0 && (kind == jdsandbox.LineLiveTwice && len(seen) == 0 || p.Broken == 0) {
			p.breaks(string(kind), fmt.Sprintf("the sandbox counted it %d times while it went on", n), violationLines(c.violations, kind))
		}
	}
	return p
}

func violationLines(v jdsandbox.Violations, kind jdsandbox.ViolationKind) []string {
	var lines []string
	for _, x := range v.Items {
		if x.Kind == kind && len(lines) < shownEvidence {
			lines = append(lines, fmt.Sprintf("%s %s %s %s", at(x.At), x.IsvUUID, x.App, list(x.EclpSoNos)))
		}
	}
	return lines
}

// outcomes checks P2.
func (c *run) outcomes() Promise {
	deadline := seconds(c.settings.DeadlineSeconds)
	p := Promise{Name: "P2", Says: fmt.Sprintf("each acknowledged audit comes to one visible outcome, within %s net of outages", deadline)}
	count := map[string]int{}
	var worst time.Duration
	for _, o := range c.sorted() {
		contents := map[string]time.Time{} // content → since when it is promised
		for _, a := range o.audits {
			if a.Acked.IsZero() {
				continue
			}
			if since, ok := contents[a.Hash]; !ok || c.rolledBack(since) && !c.rolledBack(a.Acked) {
				contents[a.Hash] = a.Acked
			}
		}
		if len(contents) == 0 {
			count["never acknowledged: nothing is promised"]++
			continue
		}
		p.Checked++
		c.oneOutcome(&p, o, contents)
		for _, hash := range slices.Sorted(maps.Keys(contents)) {
			c.inTime(&p, o, hash, contents, deadline, count, &worst)
		}
	}
	c.garbage(&p, deadline, count)
	for _, what := range slices.Sorted(maps.Keys(count)) {
		p.count(what, count[what])
	}
	p.note("longest time to an outcome, net of outages: %s", worst.Round(time.Millisecond))
	return p
}

// garbage checks that each audit which nobody can read is a dead letter, of its own or in a group.
func (c *run) garbage(p *Promise, deadline time.Duration, count map[string]int) {
	for _, at := range c.unreadable {
		p.Checked++
		name := fmt.Sprintf("%s/%d", at.stream, at.seq)
		age, _ := c.net(time.Unix(0, at.stored), c.ended)
		switch {
		case c.dead[at]:
			count["unreadable, a dead letter"]++
		case age <= deadline:
			p.gap("%s is no dead letter, but only %s went by since it was stored: let the run come to rest", name, age.Round(time.Millisecond))
		default:
			p.breaks(name, fmt.Sprintf("forgotten: it cannot be read, and is no dead letter after %s", age.Round(time.Millisecond)), nil)
		}
	}
}

// rolledBack reports whether a restore of JetStream removed what was stored then.
func (c *run) rolledBack(stored time.Time) bool {
	return slices.ContainsFunc(c.losses, func(f history.Fault) bool {
		return f.Kind == history.BrokerRestored && !stored.Before(f.Copied) && !stored.After(f.Ended)
	})
}

// inTime checks that one content had an outcome, and when.
func (c *run) inTime(p *Promise, o *order, hash string, contents map[string]time.Time, deadline time.Duration, count map[string]int, worst *time.Duration) {
	since := contents[hash]
	first, what := o.outcome(hash, len(contents) > 1)
	if what == "" {
		age, _ := c.net(since, c.ended)
		switch {
		case !o.present[hash] && c.rolledBack(since):
			count["taken away by a restore of JetStream and not published again: reconcile's"]++
		case !o.present[hash]:
			p.breaks(o.no, "lost: acknowledged, and the stream does not have it", o.story())
		case age <= deadline:
			p.gap("%s has no outcome, but only %s went by since it was acknowledged: let the run come to rest", o.no, age.Round(time.Millisecond))
		default:
			p.breaks(o.no, fmt.Sprintf("forgotten: no outcome and no dead letter %s after it was acknowledged", age.Round(time.Millisecond)), o.story())
		}
		return
	}
	count[what]++
	took, excused := c.net(since, first)
	*worst = max(*worst, took)
	if excused > 0 && took+excused > deadline {
		count["late only because of an outage"]++
	}
	if took > deadline {
		p.breaks(o.no, fmt.Sprintf("late: %s to an outcome, net of %s of outages", took.Round(time.Millisecond), excused.Round(time.Millisecond)), o.story())
	}
}

// outcome is the order's final state, and when it first had a visible outcome. Each of several contents under one
// number must show: one may be accepted, the others are dead letters or failed.
func (o *order) outcome(hash string, several bool) (first time.Time, what string) {
	var accepted, failed, held, cancelled []history.Event
	for _, e := range o.events {
		switch e.Name {
		case event.OrderAccepted.Name:
			accepted = append(accepted, e)
		case event.OrderFailed.Name:
			failed = append(failed, e)
		case event.OrderHeld.Name:
			held = append(held, e)
		case event.OrderCancelled.Name:
			cancelled = append(cancelled, e)
		}
	}
	see := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, e := range slices.Concat(accepted, failed, held, cancelled) {
		see(e.Stored)
	}
	waiting := ""
	for _, s := range o.deadLetters {
		if s.Hash == hash || s.Hash == "" || !several {
			see(s.Last)
			if waiting == "" || s.Kind == event.Dead {
				waiting = s.Kind
			}
		}
	}
	dropped := slices.ContainsFunc(o.acts, func(a history.Act) bool { return a.What == history.Dropped })
	switch {
	case waiting == event.Held:
		return first, "held, waiting"
	case waiting == event.Dead && len(failed) > 0:
		return first, "failed, dead-lettered"
	case waiting == event.Dead:
		return first, "an exception, dead-lettered"
	case len(accepted) > 0:
		return first, "accepted"
	case len(cancelled) > 0:
		return first, "cancelled"
	case len(failed) > 0:
		return first, "failed"
	case dropped:
		return o.acts[0].At, "dropped by an operator"
	}
	// Published as held, and no longer held: it was released and has no outcome.
	return time.Time{}, ""
}

// oneOutcome checks that the published events agree with each other and with what the warehouse has.
func (c *run) oneOutcome(p *Promise, o *order, contents map[string]time.Time) {
	numbers := map[string]bool{}
	var accepted time.Time
	for _, e := range o.find(event.OrderAccepted.Name) {
		numbers[e.Number] = true
		if accepted.IsZero() {
			accepted = e.Stored
		}
	}
	failed := o.find(event.OrderFailed.Name)
	acted := len(o.acts) > 0
	has := func(number string) bool {
		return slices.ContainsFunc(o.docs, func(d document) bool { return d.no == number })
	}
	switch {
	case len(numbers) > 1:
		p.breaks(o.no, "accepted under several of the warehouse's numbers: "+list(slices.Sorted(maps.Keys(numbers))), o.story())
	case len(numbers) == 1 && !has(slices.Collect(maps.Keys(numbers))[0]):
		p.breaks(o.no, "published as accepted under a number that the warehouse does not have: it will never ship", o.story())
	case len(numbers) == 1 && len(failed) > 0 && len(contents) == 1 && !acted:
		p.breaks(o.no, "two outcomes, accepted and failed: the ERP may refund what ships", o.story())
	case len(numbers) == 0 && len(o.docs) > 0 && len(failed) > 0 && len(contents) == 1:
		p.breaks(o.no, "published as failed, and the warehouse ships it: the ERP may refund what ships", o.story())
	case len(numbers) == 0 && len(o.docs) > 0 && len(o.deadLetters) == 0 && len(o.find(event.OrderCancelled.Name)) == 0:
		p.breaks(o.no, "the warehouse ships it and nothing was published", o.story())
	}
}

// recording is added to the grace, for the time between the signal, the end and their recording.
const recording = 2 * time.Second

// stops checks P6.
func (c *run) stops() Promise {
	grace := seconds(c.settings.GraceSeconds)
	p := Promise{Name: "P6", Says: fmt.Sprintf("a worker asked to stop ends within %s without an error, loses nothing and burns no attempt", grace)}
	count := map[string]int{}
	var stops []time.Time
	for i, term := range c.processes {
		if term.What != history.Termed {
			continue
		}
		p.Checked++
		stops = append(stops, term.At)
		ended, killed := history.Process{}, false
		for _, later := range c.processes[i+1:] {
			if later.PID != term.PID || later.Name != term.Name {
				continue
			}
			if later.What == history.Kill {
				killed = true
			}
			if later.What == history.Ended {
				ended = later
				break
			}
		}
		evidence := []string{at(term.At) + " SIGTERM to " + term.Name, at(ended.At) + fmt.Sprintf(" it ended with %d", ended.Code)}
		switch took := ended.At.Sub(term.At); {
		case killed:
			count["killed while they were ending"]++
		case ended.At.IsZero():
			p.breaks(term.Name, "asked to stop, it never ended", evidence)
		case ended.Code != 0:
			p.breaks(term.Name, fmt.Sprintf("asked to stop, it ended with an error (%d)", ended.Code), evidence)
		case took > grace+recording:
			p.breaks(term.Name, fmt.Sprintf("it took %s to stop", took.Round(time.Millisecond)), evidence)
		}
	}
	c.attempts(&p, stops, count)
	for _, what := range slices.Sorted(maps.Keys(count)) {
		p.count(what, count[what])
	}
	return p
}

// attempts checks for runs that never ended, and for orders that used up their attempts without reason.
func (c *run) attempts(p *Promise, stops []time.Time, count map[string]int) {
	for _, o := range c.sorted() {
		if o.entry != nil {
			for i, a := range o.entry.Attempts {
				if a.What != "begun" {
					continue
				}
				count["runs that the ledger remembers"]++
				ended := slices.ContainsFunc(o.entry.Attempts[i+1:], func(b ledger.Attempt) bool { return b.Owner == a.Owner })
				switch {
				case ended:
				case c.explained(a.At.Add(-recording), a.At.Add(ledger.ClaimFor)):
					count["runs without an end, explained by a fault"]++
				default:
					means := "a run started and never ended, and no fault explains it"
					if within(stops, a.At, seconds(c.settings.GraceSeconds)+recording) {
						means = "a run was cut off by a stop in order"
					}
					p.breaks(o.no, means, append(o.story(), at(a.At)+" claimed by "+a.Owner))
				}
			}
		}
		for _, s := range o.deadLetters {
			// The bus's own reason for a message with too many attempts.
			if s.Code != "attempts" {
				continue
			}
			count["orders that used up their attempts"]++
			if !c.explained(s.First, s.Last) {
				p.breaks(o.no, fmt.Sprintf("%d attempts used up, and no fault explains a single one", s.Attempts), o.story())
			}
		}
	}
}

// explained reports whether a fault that can end a run, or make it fail, lies in the span.
func (c *run) explained(from, to time.Time) bool {
	return slices.ContainsFunc(c.kills, func(t time.Time) bool { return !t.Before(from) && !t.After(to) }) ||
		slices.ContainsFunc(c.faults, func(f history.Fault) bool {
			return !slices.Contains(harmless(), f.Kind) && !f.Ended.Before(from) && !f.Began.After(to)
		})
}

// harmless are the kinds of faults that make no run fail.
func harmless() []string { return []string{history.Crowded, history.Scaled, history.JDSlow} }

// within reports whether one of times lies after t by at most d.
func within(times []time.Time, t time.Time, d time.Duration) bool {
	return slices.ContainsFunc(times, func(x time.Time) bool { return !x.Before(t) && x.Sub(t) <= d })
}

// survivals checks P7.
func (c *run) survivals() Promise {
	p := Promise{Name: "P7", Says: "a ledger or a stream that is wiped or restored causes no double push, and what the warehouse has is known again"}
	if len(c.losses) == 0 {
		return p
	}
	p.count("wipes and restores", len(c.losses))
	last := c.losses[len(c.losses)-1]
	before, republished, unknown := 0, 0, 0
	for _, o := range c.sorted() {
		if len(o.docs) == 0 {
			continue
		}
		p.Checked++
		if !o.docs[0].created.After(last.Ended) {
			before++
		}
		for _, d := range o.docs[1:] {
			if i := slices.IndexFunc(c.losses, func(f history.Fault) bool { return d.created.After(f.Began) }); i >= 0 {
				p.breaks(o.no, "shipped twice after "+c.losses[i].Kind, o.story())
				break
			}
		}
		again := slices.ContainsFunc(o.audits, func(a history.Audit) bool { return a.Acked.After(last.Ended) })
		if again {
			republished++
		}
		known := o.entry != nil && !o.entry.Missing && (o.entry.State == ledger.Accepted || o.entry.State == ledger.Cancelled) &&
			slices.ContainsFunc(o.docs, func(d document) bool { return d.no == o.entry.Number })
		switch {
		case known:
		case again && len(o.deadLetters) == 0:
			p.breaks(o.no, "audited again after "+last.Kind+", at the warehouse, and the ledger does not know it", o.story())
		case c.settings.Reconciles && len(o.present) > 0 && len(o.deadLetters) == 0:
			p.breaks(o.no, "at the warehouse, and after a reconcile cycle the ledger still does not know it: nobody follows it", o.story())
		default:
			unknown++
		}
	}
	p.count("orders at the warehouse before the last one", before)
	p.count("orders audited after the last one", republished)
	p.count("at the warehouse, unknown to the ledger, excused: no reconciler ran, its audit is gone, or it is dead-lettered", unknown)
	return p
}

// replays checks P9.
func (c *run) replays() Promise {
	p := Promise{Name: "P9", Says: "a replayed dead letter comes to an outcome, or is dead-lettered again"}
	for _, o := range c.sorted() {
		var last time.Time
		for _, a := range o.acts {
			switch a.What {
			case history.Replayed, history.Released:
				p.Checked++
				last = latest(last, a.At)
			case history.Dropped:
				last = time.Time{}
			}
		}
		if last.IsZero() {
			continue
		}
		// An outcome that was published before is not stored again within the window for duplicates; only what was
		// accepted needs no further event.
		back := slices.ContainsFunc(o.deadLetters, func(s history.DeadLetter) bool { return s.Last.After(last) })
		if !back && len(o.find(event.OrderAccepted.Name)) == 0 && len(o.find(event.OrderCancelled.Name)) == 0 {
			p.breaks(o.no, "lost by a replay: it left the dead letters, and has no outcome", o.story())
		}
	}
	return p
}

// neighbours checks P8.
func (c *run) neighbours() Promise {
	bound := seconds(c.settings.HealthySeconds)
	p := Promise{Name: "P8", Says: fmt.Sprintf("a healthy seller's orders are accepted within %s net of outages, whatever other sellers do", bound)}
	var crowds []span
	for _, f := range c.faults {
		if f.Kind == history.Crowded {
			crowds = append(crowds, span{f.Began, f.Ended})
		}
	}
	crowds = join(crowds)
	if len(crowds) == 0 {
		return p
	}
	var calm, crowded []time.Duration
	type late struct {
		o    *order
		took time.Duration
	}
	var over []late
	calmOver, cut := 0, 0
	for _, o := range c.sorted() {
		a := o.audits[0]
		if a.Group != history.Healthy || a.Acked.IsZero() {
			continue
		}
		inCrowd := slices.ContainsFunc(crowds, func(s span) bool { return !a.Acked.Before(s.from) && !a.Acked.After(s.to) })
		if inCrowd {
			p.Checked++
		}
		accepted := o.find(event.OrderAccepted.Name)
		if len(accepted) == 0 {
			if inCrowd {
				p.breaks(o.no, "a healthy seller's order was never accepted while others crowded", o.story())
			}
			continue
		}
		took, _ := c.net(a.Acked, accepted[0].Stored)
		if made, ok := c.cutOff(o, accepted[0].Stored); ok && took > bound {
			// Other sellers can only delay an order until the warehouse has it. An outage's effect on the answer is not
			// theirs.
			cut++
			took, _ = c.net(a.Acked, made)
		}
		if !inCrowd {
			calm = append(calm, took)
			if took > bound {
				calmOver++
			}
			continue
		}
		crowded = append(crowded, took)
		if took > bound {
			over = append(over, late{o, took})
		}
	}
	p.count("in calm times", len(calm))
	p.count("over the bound in calm times", calmOver)
	p.count("over the bound while crowded", len(over))
	p.count("measured to its document, because an outage cut off the answer", cut)
	p.note("calm: p50 %s, p99 %s; crowded: p50 %s, p99 %s", quantile(calm, 50), quantile(calm, 99), quantile(crowded, 50), quantile(crowded, 99))
	// One in a hundred may be late: the machine that runs all of this has other work.
	allowed := len(crowded) / 100
	if len(over) > allowed {
		for _, l := range over {
			p.breaks(l.o.no, fmt.Sprintf("delayed by others: %s to be accepted (%d are over the bound, %d are let pass)", l.took.Round(time.Millisecond), len(over), allowed), l.o.story())
		}
	}
	return p
}

// cutOff returns when the order's document was made, if an outage began within a second of that and before the order
// was accepted: then a worker had JD's answer, or was waiting for it, and could not record it. Its claim on the
// ledger's entry has to expire before anybody asks the warehouse.
func (c *run) cutOff(o *order, accepted time.Time) (made time.Time, ok bool) {
	if len(o.docs) == 0 {
		return time.Time{}, false
	}
	made = o.docs[0].created
	return made, slices.ContainsFunc(c.outages, func(s span) bool {
		return s.from.After(made.Add(-time.Second)) && s.from.Before(made.Add(time.Second)) && s.from.Before(accepted)
	})
}

func quantile(d []time.Duration, percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, len(d)*percent/100)].Round(time.Millisecond)
}

// budgets checks P10.
func (c *run) budgets() Promise {
	p := Promise{Name: "P10", Says: "no app calls more than it may in any second or at a time, and none is refused for it"}
	for _, why := range c.calls.missing {
		p.gap("the log of calls has a hole: %s", why)
	}
	for _, app := range slices.Sorted(maps.Keys(c.calls.apps)) {
		list := c.calls.apps[app]
		i := slices.IndexFunc(c.settings.Apps, func(a history.App) bool { return a.Key == app })
		if i < 0 {
			p.gap("%d calls came from app %q, of which the settings say nothing", len(list), app)
			continue
		}
		limit := c.settings.Apps[i]
		refused := 0
		for _, x := range list {
			p.Checked++
			if x.quota {
				refused++
			}
		}
		p.count(app+": refused for too many calls", refused)
		if refused > 0 {
			p.breaks(app, fmt.Sprintf("%d calls were refused for too many calls", refused), nil)
		}
		c.rate(&p, app, list, limit.PerSecond)
		c.together(&p, app, list, limit.Concurrent)
	}
	for _, kind := range []jdsandbox.ViolationKind{jdsandbox.QuotaExceeded, jdsandbox.ConcurrencyExceeded} {
		p.count("counted by the sandbox itself: "+string(kind), int(c.violations.Counts[kind]))
		if n := c.violations.Counts[kind]; n > 0 && p.Broken == 0 {
			p.breaks(string(kind), fmt.Sprintf("the sandbox counted it %d times", n), violationLines(c.violations, kind))
		}
	}
	return p
}

// rate counts the calls of every second that begins with a call.
func (c *run) rate(p *Promise, app string, list []call, limit int) {
	most, over, from := 0, 0, 0
	var worst time.Time
	for i, x := range list {
		for x.at.Sub(list[from].at) >= time.Second {
			from++
		}
		n := i - from + 1
		if n > most {
			most, worst = n, list[from].at
		}
		if limit > 0 && n > limit {
			over++
		}
	}
	p.note("%s: %d calls in the fullest second of %s", app, most, allowed(limit))
	if over > 0 {
		p.breaks(app, fmt.Sprintf("%d calls in one second, %d are allowed", most, limit),
			[]string{at(worst) + " begins the fullest second", fmt.Sprintf("%d calls came while the last second was full", over)})
	}
	c.floors(p, app, list, limit)
}

// floors shows what was left for other calls than orders while the quota was used up. The log does not show who wanted
// calls: a share can be low because there was no demand.
func (c *run) floors(p *Promise, app string, list []call, limit int) {
	const window, full = 10, 0.9
	if limit == 0 || len(list) == 0 {
		return
	}
	type tally struct{ all, others int }
	windows := map[int64]*tally{}
	for _, x := range list {
		key := x.at.Unix() / window
		if windows[key] == nil {
			windows[key] = &tally{}
		}
		windows[key].all++
		if !strings.HasSuffix(x.method, ".addOrder") {
			windows[key].others++
		}
	}
	saturated, least := 0, 1.0
	for _, w := range windows {
		if float64(w.all) >= full*float64(limit*window) {
			saturated++
			least = min(least, float64(w.others)/float64(w.all))
		}
	}
	if saturated > 0 {
		p.note("%s: in %d spans of %d s with the budget used up, at least %.0f %% went to calls other than orders", app, saturated, window, least*100)
	}
}

// together counts concurrent calls. The log's spans are truncated to milliseconds, so it never counts too many.
func (c *run) together(p *Promise, app string, list []call, limit int) {
	type edge struct {
		at    time.Time
		delta int
	}
	edges := make([]edge, 0, 2*len(list))
	for _, x := range list {
		edges = append(edges, edge{x.at, 1}, edge{x.at.Add(x.took), -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if d := a.at.Compare(b.at); d != 0 {
			return d
		}
		return a.delta - b.delta
	})
	now, most := 0, 0
	var worst time.Time
	for _, e := range edges {
		if now += e.delta; now > most {
			most, worst = now, e.at
		}
	}
	p.note("%s: at most %d calls at a time of %s", app, most, allowed(limit))
	if limit > 0 && most > limit {
		p.breaks(app, fmt.Sprintf("%d calls at a time, %d are allowed", most, limit), []string{at(worst) + " there were most"})
	}
}

func allowed(limit int) string {
	if limit == 0 {
		return "any number"
	}
	return fmt.Sprintf("%d allowed", limit)
}
