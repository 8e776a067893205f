package ctl

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/seller"
	"stockbridge/services/all"
)

// pick selects dead letters by what they have in common.
type pick struct {
	Seller   string `placeholder:"NAME" help:"Only of this seller."`
	Order    string `placeholder:"NO" help:"Only with this number in it: outbound, order or platform number. Groups are left out."`
	Text     string `placeholder:"TEXT" help:"Only with this text in the reason, the error or the number; capitals are no matter."`
	Since    ago    `placeholder:"TIME" help:"Only what came here at that time or later, like 2026-03-05 or 2h (ago)."`
	Until    ago    `placeholder:"TIME" help:"Only what came here before that time."`
	Subject  string `placeholder:"NAME" help:"Only this event, or this whole subject."`
	Cause    string `placeholder:"TEXT" help:"Only what waits for this cause; a part before /, like shop:acme, takes all below it."`
	Code     string `placeholder:"CODE" help:"Only with this reason code, like shop.unknown."`
	Consumer string `placeholder:"NAME" help:"Only of this worker."`
}

func (p pick) empty() bool { return p == pick{} }

// words is the selection as it was typed.
func (p pick) words() string {
	var words []string
	for _, flag := range []struct{ name, value string }{
		{"seller", p.Seller}, {"order", p.Order}, {"text", p.Text}, {"since", p.Since.String()}, {"until", p.Until.String()},
		{"subject", p.Subject}, {"cause", p.Cause}, {"code", p.Code}, {"consumer", p.Consumer},
	} {
		if flag.value != "" {
			words = append(words, "--"+flag.name+" "+flag.value)
		}
	}
	return strings.Join(words, " ")
}

// ago is a time as people type it: a date, a time, or an age.
type ago struct{ time.Time }

// UnmarshalText parses it; without a zone it is local time.
func (t *ago) UnmarshalText(text []byte) error {
	s := string(text)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02 15:04:05", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			t.Time = at
			return nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			t.Time = time.Now().AddDate(0, 0, -n)
			return nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		t.Time = time.Now().Add(-d)
		return nil
	}
	return errors.New("want a time like 2026-03-05, 2026-03-05T09:31:00+08:00, or 2h and 3d ago")
}

func (t ago) String() string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// How many messages are read at a time, without and with their bodies (256 KiB each at most, as a rule).
const (
	pageSize   = 1000
	bodiesSize = 100
)

// query is for one page.
func (p pick) query(kind string, bodies bool) bus.DeadLetterQuery {
	q := bus.DeadLetterQuery{Kind: kind, Consumer: p.Consumer, Seller: p.Seller, Subject: p.Subject, Limit: pageSize}
	if bodies {
		q.Limit, q.WithBody = bodiesSize, true
	}
	return q
}

// match checks what the query cannot.
func (p pick) match(m bus.DeadLetter) bool {
	return (p.Code == "" || m.Reason.Code == p.Code) &&
		(p.Cause == "" || m.Cause == p.Cause || strings.HasPrefix(m.Cause, p.Cause+"/")) &&
		(p.Since.IsZero() || !m.Last.Before(p.Since.Time)) &&
		(p.Until.IsZero() || m.Last.Before(p.Until.Time)) &&
		(p.Text == "" || p.says(m)) &&
		(p.Order == "" || m.Key == p.Order || bytes.Contains(asJSON(m), []byte(`"`+p.Order+`"`)))
}

// says searches for the text in what is recorded about a message. Its body is not searched: it is personal.
func (p pick) says(m bus.DeadLetter) bool {
	text := strings.ToLower(p.Text)
	r := m.Reason
	for _, s := range []string{m.Error, r.ZH, r.EN, r.RemoteText, r.RemoteCode, r.Code, r.Field, m.Cause, m.Key, m.Subject} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	return false
}

// each calls f for each selected message, oldest first; an empty kind is both. Long readings report progress. Bodies
// are read only when the selection needs them: the number of an order may stand anywhere in one. f must be quick.
func (p pick) each(ctx context.Context, a *app, b *bus.Bus, kind string, f func(bus.DeadLetter) error) error {
	said, n := a.now(), 0
	return b.EachDeadLetter(ctx, p.query(kind, p.Order != ""), func(m bus.DeadLetter) error {
		n++
		if now := a.now(); now.Sub(said) > noteEvery {
			said = now
			a.note("%d read", n)
		}
		if !p.match(m) {
			return nil
		}
		return f(m)
	})
}

// paged is each with or without bodies, after the given number, for an f that takes its time.
func (p pick) paged(ctx context.Context, b *bus.Bus, kind string, after uint64, bodies bool, f func(bus.DeadLetter) error) error {
	q := p.query(kind, bodies)
	for q.After = after; ; {
		items, next, err := b.DeadLetters(ctx, q)
		if err != nil {
			return err
		}
		for _, m := range items {
			if p.match(m) {
				if err := f(veiled(m)); err != nil {
					return err
				}
			}
		}
		if next == 0 {
			return nil
		}
		q.After = next
	}
}

// named is m with the number of its order, which its headers lack when the message could not be read.
func named(ctx context.Context, b *bus.Bus, m bus.DeadLetter) (bus.DeadLetter, error) {
	if m.Key != "" || m.Group != nil {
		return m, nil
	}
	if m.Body == nil {
		whole, err := b.DeadLetter(ctx, m.Seq)
		if err != nil {
			return m, err
		}
		m.Body = whole.Body
	}
	m.Key = numberIn(m.Body)
	return m, nil
}

// list counts all that p selects and reads one page of it. next is the number to continue after, 0 at the end.
func list(ctx context.Context, a *app, b *bus.Bus, kind string, p pick, g page) (all tally, items []bus.DeadLetter, next uint64, err error) {
	err = p.each(ctx, a, b, kind, func(m bus.DeadLetter) error {
		all.add(m)
		switch {
		case m.Seq <= g.After:
		case len(items) < g.Limit:
			m.Header, m.Body = nil, nil
			items = append(items, m)
		case next == 0:
			next = items[len(items)-1].Seq
		}
		return nil
	})
	if err != nil {
		return all, nil, 0, err
	}
	for i, m := range items {
		m, err := named(ctx, b, m)
		if err != nil && !errors.Is(err, bus.ErrNoDeadLetter) {
			return all, nil, 0, err
		}
		m.Body = nil
		items[i] = m
	}
	return all, items, next, nil
}

// maxGroups is how many causes are counted separately; the rest is counted together.
const maxGroups = 1000

// tally counts messages by cause.
type tally struct {
	total  int
	groups map[groupKey]*group
}

// groupKey is what the messages of a group have in common.
type groupKey struct {
	consumer, class, code, cause string
}

type group struct {
	groupKey
	count         int
	since, latest time.Time
	examples      []string
	first         bus.DeadLetter
}

// maxExamples is how many messages of a group are named.
const maxExamples = 3

func (t *tally) add(m bus.DeadLetter) {
	if t.groups == nil {
		t.groups = map[groupKey]*group{}
	}
	t.total += m.Count()
	k := groupKey{m.Consumer, m.Class, m.Reason.Code, m.Cause}
	if m.Key != "" && strings.HasSuffix(k.cause, "/"+m.Key) { // a separate cause for each order is the same cause to people
		k.cause = strings.TrimSuffix(k.cause, m.Key) + "…"
	}
	g := t.groups[k]
	if g == nil {
		if len(t.groups) >= maxGroups {
			k = groupKey{cause: "(others)"}
			g = t.groups[k]
		}
		if g == nil {
			g = &group{groupKey: k, since: m.Last, first: m}
			g.first.Header, g.first.Body, g.first.Cause = nil, nil, k.cause
			t.groups[k] = g
		}
	}
	g.count += m.Count()
	if m.Last.Before(g.since) {
		g.since = m.Last
	}
	if m.Last.After(g.latest) {
		g.latest = m.Last
	}
	if len(g.examples) < maxExamples {
		g.examples = append(g.examples, strings.TrimSpace(strconv.FormatUint(m.Seq, 10)+" "+m.Key))
	}
}

// groupJSON counts the messages with the same cause.
type groupJSON struct {
	Count    int    `json:"count"`
	Consumer string `json:"consumer"`
	Class    string `json:"class"`
	Code     string `json:"code,omitempty"`
	Cause    string `json:"cause,omitempty"`
	// Since and Latest are when the first and the last of them came.
	Since  time.Time `json:"since"`
	Latest time.Time `json:"latest"`
	// Examples are the first of them: message number and order number.
	Examples []string `json:"examples"`
}

func (g groupJSON) what() string {
	return strings.TrimSpace(g.Consumer + " " + cmp.Or(g.Code, g.Class) + " " + g.Cause)
}

// sorted returns the groups, the largest first.
func (t tally) sorted() []*group {
	return slices.SortedFunc(maps.Values(t.groups), func(x, y *group) int {
		return cmp.Or(cmp.Compare(y.count, x.count), x.since.Compare(y.since), cmp.Compare(x.cause, y.cause), cmp.Compare(x.code, y.code))
	})
}

func (t tally) groupsJSON() []groupJSON {
	out := []groupJSON{}
	for _, g := range t.sorted() {
		out = append(out, groupJSON{g.count, g.consumer, g.class, g.code, g.cause, g.since.UTC(), g.latest.UTC(), g.examples})
	}
	return out
}

// writeGroups prints how many messages there are of each cause.
func (a *app) writeGroups(w io.Writer, t tally) error {
	fmt.Fprintf(w, "%s, %s\n", count(t.total, "message"), count(len(t.groups), "cause"))
	rows := table{head: []string{"COUNT", "SINCE", "LATEST", "EXAMPLES", "WORKER", "WHY"}}
	for _, g := range t.sorted() {
		rows.add(strconv.Itoa(g.count), when(g.since), when(g.latest), strings.Join(g.examples, ", "), orDash(g.consumer), a.why(g.first))
	}
	return rows.write(w, a.columns)
}

// mistyped returns an error when an empty selection names something that does not exist. Something that exists but has
// no messages is no error.
func (p pick) mistyped(ctx context.Context, a *app, b *bus.Bus) error {
	if p.Consumer != "" && !slices.Contains(bus.DeadLettering(all.Bus()), p.Consumer) {
		return unknown("consumer", p.Consumer, bus.DeadLettering(all.Bus()))
	}
	if p.Seller == "" && p.Subject == "" && p.Cause == "" && p.Code == "" {
		return nil
	}
	// What stored messages name is known in any case: an older build may have stored them.
	sellers, codes, causes, subjects := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	if err := (pick{}).each(ctx, a, b, "", func(m bus.DeadLetter) error {
		for _, see := range []struct {
			in   map[string]bool
			what string
		}{{sellers, m.Seller}, {codes, m.Reason.Code}, {causes, causeKind(m.Cause)}, {subjects, m.Subject}} {
			if see.what != "" && len(see.in) < maxGroups {
				see.in[see.what] = true
			}
		}
		return nil
	}); err != nil {
		return err
	}
	registry, err := a.registry(ctx)
	if err != nil {
		return err
	}
	defer registry.Close()
	for _, s := range registry.All() {
		sellers[s.Name()] = true
	}
	for _, kind := range seller.CauseKinds() {
		causes[kind] = true
	}
	for _, f := range event.Facts() {
		subjects[f.Name] = true
	}
	kind, rest, _ := strings.Cut(p.Cause, ":")
	of, _, _ := strings.Cut(rest, "/")
	name, suffix := event.Split(p.Subject)
	switch {
	case p.Seller != "" && !sellers[p.Seller]:
		return unknown("seller", p.Seller, keys(sellers))
	case p.Code != "" && !codes[p.Code] && !slices.Contains(knownCodes(), p.Code):
		return unknown("code", p.Code, append(keys(codes), knownCodes()...))
	case p.Cause != "" && !causes[kind]:
		return unknown("cause", p.Cause, withColon(keys(causes)))
	case p.Cause != "" && of != "" && !sellers[of]:
		return unknown("cause", p.Cause, keys(sellers))
	case p.Subject != "" && !subjects[p.Subject] && (!subjects[name] || suffix == ""):
		return unknown("subject", p.Subject, keys(subjects))
	}
	return nil
}

func causeKind(cause string) string {
	kind, _, _ := strings.Cut(cause, ":")
	return kind
}

func withColon(kinds []string) []string {
	for i := range kinds {
		kinds[i] += ":…"
	}
	return kinds
}

func keys(of map[string]bool) []string { return slices.Sorted(maps.Keys(of)) }

// unknown is a usageError that lists the existing values, the likely ones first.
func unknown(flag, value string, known []string) error {
	slices.SortFunc(known, func(x, y string) int {
		return cmp.Or(cmp.Compare(distance(x, value), distance(y, value)), cmp.Compare(x, y))
	})
	known = slices.Compact(known)
	if len(known) == 0 {
		return misused("--%s %s: there is none", flag, value)
	}
	return usageError{hint(fmt.Errorf("--%s %s: no such %s", flag, value, flag), "known: %s", strings.Join(known, ", "))}
}

// distance is how many letters have to change to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := before
			if a[i] != b[j] {
				d = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
