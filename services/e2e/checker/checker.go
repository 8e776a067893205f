// Package checker reads what a run recorded and says which promises held: how much was checked, and what broke, with
// the lines that show it.
//
// It reads the folder of package history and nothing else: no server, no process. So it can be run again over an old
// run, and the driver of the run cannot influence it.
//
// # Why
//
// Time is judged net of outages. An order can only be late while nothing prevents the system from working, so spans
// that the run recorded as outages are subtracted; the report counts how often that mattered.
//
// A promise for which nothing could be checked was not kept but not exercised: the report says so, and Report.Missing
// names those that a caller wanted.
package checker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"stockbridge/services/e2e/history"
)

// Report is the judgement of one run.
type Report struct {
	What string    `json:"what"`
	Seed uint64    `json:"seed,omitempty"`
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Counts is what the run did; Faults counts what was done to it, by kind.
	Counts   []Count        `json:"counts"`
	Faults   map[string]int `json:"faults"`
	Promises []Promise      `json:"promises"`
}

// Count is a figure with what it counts.
type Count struct {
	What string `json:"what"`
	N    int    `json:"n"`
}

// Promise is the finding about one promise.
type Promise struct {
	Name string `json:"name"`
	Says string `json:"says"`
	// Checked is how many things were checked against it.
	Checked int `json:"checked"`
	// Counts are further figures: what was excused, what was measured.
	Counts []Count `json:"counts,omitempty"`
	// Notes are measured values that are no counts.
	Notes []string `json:"notes,omitempty"`
	// Broken counts; Breaks are the first few of them.
	Broken int     `json:"broken"`
	Breaks []Break `json:"breaks,omitempty"`
	// Undecided are things that the history is too short or too incomplete to decide; Gaps says why.
	Undecided int      `json:"undecided"`
	Gaps      []string `json:"gaps,omitempty"`
}

// Break is one broken promise.
type Break struct {
	// About is the outbound number, the process or the app.
	About string `json:"about"`
	// Means is what it means to a user.
	Means string `json:"means"`
	// Evidence are the lines of the history that show it.
	Evidence []string `json:"evidence,omitempty"`
}

const (
	shownBreaks   = 5
	shownGaps     = 3
	shownEvidence = 12
)

func (p *Promise) breaks(about, means string, evidence []string) {
	p.Broken++
	if len(p.Breaks) < shownBreaks {
		p.Breaks = append(p.Breaks, Break{about, means, evidence[:min(len(evidence), shownEvidence)]})
	}
}

func (p *Promise) gap(format string, args ...any) {
	p.Undecided++
	if len(p.Gaps) < shownGaps {
		p.Gaps = append(p.Gaps, fmt.Sprintf(format, args...))
	}
}

func (p *Promise) count(what string, n int) { p.Counts = append(p.Counts, Count{what, n}) }

func (p *Promise) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// Broken lists the names of the promises that broke.
func (r *Report) Broken() []string {
	return r.names(func(p Promise) bool { return p.Broken > 0 })
}

// Undecided lists the names of the promises that the history cannot decide completely.
func (r *Report) Undecided() []string {
	return r.names(func(p Promise) bool { return p.Undecided > 0 })
}

// Missing lists the wanted promises for which nothing was checked.
func (r *Report) Missing(wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(name string) bool {
		return slices.ContainsFunc(r.Promises, func(p Promise) bool { return p.Name == name && p.Checked > 0 })
	})
}

func (r *Report) names(match func(Promise) bool) []string {
	var names []string
	for _, p := range r.Promises {
		if match(p) {
			names = append(names, p.Name)
		}
	}
	return names
}

// Read judges the run in dir. An error wraps history.ErrIncomplete when the folder does not hold a whole run; nothing
// is judged then.
func Read(dir string) (*Report, error) {
	c, err := load(dir)
	if err != nil {
		return nil, err
	}
	r := &Report{What: c.settings.What, Seed: c.settings.Seed, From: c.settings.Began, To: c.ended, Faults: c.faultCounts()}
	published, acked := 0, 0
	for _, o := range c.orders {
		published += len(o.audits)
		for _, a := range o.audits {
			if !a.Acked.IsZero() {
				acked++
			}
		}
	}
	r.Counts = []Count{
		{"orders", len(c.orders)}, {"audits published", published}, {"of these acknowledged", acked},
		{"acts of operators", c.acts}, {"events seen", c.seen}, {"documents at the warehouse", c.documents},
		{"calls to the warehouse", c.calls.n}, {"faults", len(c.faults)},
		{"kills of workers", len(c.kills)}, {"of these with a call in flight", c.calls.killed},
		{"calls whose caller was gone before the answer", c.calls.gone},
	}
	r.Promises = []Promise{c.once(), c.outcomes(), c.stops(), c.survivals(), c.neighbours(), c.replays(), c.budgets()}
	return r, nil
}

// at formats a time for evidence.
func at(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format("15:04:05.000")
}

// story is all that the history has of an order, oldest first, for people.
func (o *order) story() []string {
	type line struct {
		at   time.Time
		text string
	}
	var all []line
	add := func(at time.Time, format string, args ...any) {
		all = append(all, line{at, fmt.Sprintf(format, args...)})
	}
	for _, a := range o.audits {
		add(a.Sent, "audit published, acknowledged %s, content %.8s", at(a.Acked), a.Hash)
	}
	for _, a := range o.acts {
		add(a.At, "operator: %s", a.What)
	}
	for _, e := range o.events {
		add(e.Stored, "%s %s%s%s (%s)", e.Name, e.Number, e.Cause, e.Code, e.ID)
	}
	for _, d := range o.docs {
		add(d.created, "the warehouse made document %s, now %s", d.no, d.status)
	}
	for _, s := range o.deadLetters {
		add(s.Last, "dead letter (%s): %s %s after %d attempts: %.160s", s.Kind, s.Code, s.Cause, s.Attempts, s.Error)
	}
	slices.SortStableFunc(all, func(a, b line) int { return a.at.Compare(b.at) })
	lines := make([]string, 0, len(all)+1)
	for _, l := range all {
		lines = append(lines, at(l.at)+" "+strings.TrimSpace(l.text))
	}
	switch {
	case o.entry == nil:
	case o.entry.Missing:
		lines = append(lines, "the ledger has no entry")
	default:
		lines = append(lines, fmt.Sprintf("the ledger says %q %s after %d tries", o.entry.State, o.entry.Number, o.entry.Tries))
	}
	return lines
}

// find returns the order's events of that name.
func (o *order) find(name string) []history.Event {
	var found []history.Event
	for _, e := range o.events {
		if e.Name == name {
			found = append(found, e)
		}
	}
	return found
}
