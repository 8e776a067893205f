package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	opsv1 "stockbridge/proto/ops/v1"
)

type actsCmd struct {
	Ls actsLsCmd `cmd:"" help:"List what operators did: who, why, when, to what."`
}

// States of an act that has not simply been done.
const (
	stateFailed   = "failed"
	stateNotEnded = "not ended"
	stateGone     = "was gone already"
)

// deedJSON is an act as JSON.
type deedJSON struct {
	// No is its sequence number in the stream of acts.
	No     uint64    `json:"no"`
	ID     string    `json:"id"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	Verb   string    `json:"verb"`
	Seller string    `json:"seller,omitempty"`
	Target string    `json:"target,omitempty"`
	Why    string    `json:"why,omitempty"`
	// State is "failed", "not ended" (interrupted or under way), or empty when it was done.
	State string `json:"state,omitempty"`
	// Asked is how many messages the act was about, Count how many it handled, Gone how many somebody else had taken.
	Asked int64  `json:"asked"`
	Count int64  `json:"count"`
	Gone  int64  `json:"gone"`
	Error string `json:"error,omitempty"`
	// Orders are the first order numbers that it was about.
	Orders []string `json:"orders,omitempty"`
}

// maxNamed is how many numbers of an act are printed.
const maxNamed = 5

// done is an act with all its records.
type done struct {
	deedJSON
	// items are those of the parts that matter.
	items []*opsv1.Item
	gone  map[uint64]bool
	// parts maps each part to how it ended; counts and gones are sums over the parts that ended.
	parts         map[int32]opsv1.Act_Stage
	counts, gones int64
	matters       bool
}

// stateOf is the state of one of its messages, empty when it was done.
func (d *done) stateOf(no uint64) string {
	if d.gone[no] {
		return stateGone
	}
	return d.State
}

// record assembles acts from their records.
type record struct {
	// matters reports whether a record is of interest; an act is when one of its records is.
	matters func(*opsv1.Act) bool
	acts    map[string]*done
}

func newRecord(matters func(*opsv1.Act) bool) *record {
	return &record{matters: matters, acts: map[string]*done{}}
}

func (r *record) add(no uint64, a *opsv1.Act) error {
	d := r.acts[a.Id]
	if d == nil {
		d = &done{deedJSON: deedJSON{
			No: no, ID: a.Id, At: a.At.AsTime(), Who: a.Who, Verb: a.Verb, Seller: a.Seller, Target: a.Target, Why: a.Why, Asked: a.Count,
		}, gone: map[uint64]bool{}, parts: map[int32]opsv1.Act_Stage{}}
		r.acts[a.Id] = d
	}
	if r.matters(a) {
		d.matters = true
		d.items = append(d.items, a.Items...)
	}
	for _, i := range a.Items {
		if len(d.Orders) < maxNamed && i.Key != "" && !slices.Contains(d.Orders, i.Key) {
			d.Orders = append(d.Orders, i.Key)
		}
	}
	d.parts[a.Part] = a.Stage
	if a.Stage == opsv1.Act_STAGE_ASKED {
		return nil
	}
	if a.Part > 1 {
		d.counts, d.gones = d.counts+a.Count, d.gones+a.Gone
	}
	for _, no := range a.GoneNos {
		d.gone[no] = true
	}
	if a.Part == 1 {
		d.Count, d.Gone, d.Error = a.Count, a.Gone, a.Error
	}
	return nil
}

// all returns the acts that matter, oldest first.
func (r *record) all() []*done {
	var out []*done
	for _, d := range r.acts {
		switch d.parts[1] {
		case opsv1.Act_STAGE_FAILED:
			d.State = stateFailed
		case opsv1.Act_STAGE_DONE:
		default:
			d.State, d.Count, d.Gone = stateNotEnded, d.counts, d.gones
		}
		if d.matters {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(x, y *done) int { return cmp.Compare(x.No, y.No) })
	return out
}

type actsLsCmd struct {
	By     string `placeholder:"NAME" help:"Only of this person; a part of the name is enough."`
	Seller string `placeholder:"NAME" help:"Only about this seller."`
	Order  string `placeholder:"NO" help:"Only about this outbound number."`
	Verb   string `placeholder:"TEXT" help:"Only such commands, like replay or 'seller pause'."`
	Since  ago    `placeholder:"TIME" help:"Only from that time on, like 2026-03-05 or 2h (ago)."`
	Until  ago    `placeholder:"TIME" help:"Only before that time."`
	Limit  int    `default:"100" help:"At most so many, the newest."`
	Before uint64 `placeholder:"NO" help:"Only before this number: the next page."`
}

func (actsLsCmd) Help() string {
	return `What operators did with bridgectl, on whatever machine, for as long as public streams keep events. An act is recorded before it
is done: one that is "not ended" was interrupted or is under way, and some of it may be done.

  bridgectl acts ls --since 1d --verb replay
  bridgectl acts ls --order SO-1001-1`
}

func (c actsLsCmd) Run(ctx context.Context, a *app) error {
	if c.Limit < 1 {
		return misused("--limit must be 1 at least")
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	r := newRecord(c.match)
	if err := b.Acts(ctx, c.Seller, c.Since.Time, r.add); err != nil {
		return err
	}
	all := slices.DeleteFunc(r.all(), func(d *done) bool { return c.Before != 0 && d.No >= c.Before })
	doc := struct {
		Total int        `json:"total"`
		Items []deedJSON `json:"items"`
		// Next is the Before of the page with older acts.
		Next uint64 `json:"next,omitempty"`
	}{Total: len(all), Items: []deedJSON{}}
	if older := len(all) - c.Limit; older > 0 {
		all = all[older:]
		doc.Next = all[0].No
	}
	for _, d := range all {
		d.At = d.At.UTC()
		doc.Items = append(doc.Items, d.deedJSON)
	}
	return a.show(doc, func(w io.Writer) error {
		if len(all) == 0 {
			_, err := fmt.Fprintln(w, "nothing recorded")
			return err
		}
		t := table{head: []string{"NO", "TIME", "WHO", "WHAT", "SELLER", "COUNT", "DETAIL"}}
		for _, d := range all {
			t.add(strconv.FormatUint(d.No, 10), when(d.At), d.Who, d.Verb, orDash(d.Seller), strconv.FormatInt(d.Count, 10), d.detail())
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		if doc.Next != 0 {
			a.note("%d of %d; older: --before %d", len(all), doc.Total, doc.Next)
		}
		return nil
	})
}

func (c actsLsCmd) match(m *opsv1.Act) bool {
	return (c.By == "" || strings.Contains(strings.ToLower(m.Who), strings.ToLower(c.By))) &&
		(c.Verb == "" || strings.Contains(m.Verb, c.Verb)) &&
		(c.Until.IsZero() || m.At.AsTime().Before(c.Until.Time)) &&
		(c.Seller == "" || m.Seller == c.Seller || slices.ContainsFunc(m.Items, func(i *opsv1.Item) bool { return i.Seller == c.Seller })) &&
		(c.Order == "" || slices.Contains(numbersIn(m, nouns()...), c.Order) || slices.ContainsFunc(m.Items, func(i *opsv1.Item) bool { return i.Key == c.Order }))
}

// numbersIn returns the numbers of documents in an act of one of the nouns; of "seller/number" the number.
func numbersIn(a *opsv1.Act, nouns ...string) []string {
	if noun, _, _ := strings.Cut(a.Verb, " "); !slices.Contains(nouns, noun) {
		return nil
	}
	numbers := strings.Fields(a.Target)
	for i, no := range numbers {
		if _, after, ok := strings.Cut(no, "/"); ok {
			numbers[i] = after
		}
	}
	return numbers
}

// detail describes the reason, the target and, unless it simply was done, how it ended.
func (d deedJSON) detail() string {
	var parts []string
	if d.State != "" {
		parts = append(parts, strings.TrimSpace(d.State+" "+d.Error))
	}
	if d.Gone > 0 {
		parts = append(parts, fmt.Sprintf("%d were gone already", d.Gone))
	}
	if d.Why != "" {
		parts = append(parts, d.Why)
	}
	if d.Target != "" {
		parts = append(parts, d.Target)
	}
	if len(d.Orders) > 0 {
		text := strings.Join(d.Orders, " ")
		if d.Asked > int64(len(d.Orders)) {
			text += " …"
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// history prints a message's earlier dead letters and what operators did to it.
func (a *app) history(w io.Writer, h []historyJSON) error {
	if len(h) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{head: []string{"TIME", "WHAT", "WHO", "DETAIL"}}
	for _, e := range h {
		t.add(when(e.At), e.What, orDash(e.Who), e.Detail)
	}
	return t.write(w, a.columns)
}

// earlier returns m's earlier dead letters and what operators did to it, oldest first.
func (a *app) earlier(ctx context.Context, b *bus.Bus, m bus.DeadLetter) ([]historyJSON, error) {
	var out []historyJSON
	mine := func(i *opsv1.Item) bool {
		return i.Stream == m.Stream && i.Seq == m.OriginSeq && i.Consumer == m.Consumer
	}
	r := newRecord(func(act *opsv1.Act) bool { return slices.ContainsFunc(act.Items, mine) })
	if err := b.Acts(ctx, m.Seller, time.Time{}, r.add); err != nil {
		return nil, err
	}
	acts := r.all()
	for _, e := range m.Earlier {
		out = append(out, historyJSON{At: e.Since.UTC(), What: e.Kind, Detail: stoodFor(e.No, cmp.Or(e.Code, e.Class), e.Cause, e.Attempts)})
		recorded := slices.ContainsFunc(acts, func(d *done) bool {
			return d.Who == e.Who && slices.ContainsFunc(d.items, func(i *opsv1.Item) bool { return i.No == e.No }) && d.stateOf(e.No) == ""
		})
		if !recorded { // released by a worker, or the record is older than its stream keeps
			out = append(out, historyJSON{At: e.Left.UTC(), What: replayed, Who: e.Who, Why: e.Why, Detail: actText(strings.TrimSpace(e.Why + fmt.Sprintf(" (no %d)", e.No)))})
		}
	}
	for _, d := range acts {
		for _, i := range d.items {
			if mine(i) {
				out = append(out, historyJSON{At: d.At.UTC(), What: d.Verb, Who: d.Who, Why: d.Why, Detail: strings.TrimSpace(fmt.Sprintf("%s (no %d) %s", d.Why, i.No, d.stateOf(i.No)))})
			}
		}
	}
	slices.SortStableFunc(out, func(x, y historyJSON) int { return x.At.Compare(y.At) })
	return out, nil
}

// historyJSON is an earlier event of a message.
type historyJSON struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`
	Who    string    `json:"who,omitempty"`
	Why    string    `json:"why,omitempty"`
	Detail string    `json:"detail"`
}
