package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

type dlqCmd struct {
	Ls     dlqLsCmd     `cmd:"" help:"List what needs a person."`
	Show   dlqShowCmd   `cmd:"" help:"Print one message in full: why it is here, its headers and its body."`
	Replay dlqReplayCmd `cmd:"" help:"Send messages to their worker again."`
	Drop   dlqDropCmd   `cmd:"" help:"Discard messages for good."`
}

type heldCmd struct {
	Ls      heldLsCmd      `cmd:"" help:"List what waits, and for what."`
	Show    heldShowCmd    `cmd:"" help:"Print one message in full."`
	Release heldReleaseCmd `cmd:"" help:"Release messages although their cause remains."`
	Drop    heldDropCmd    `cmd:"" help:"Discard messages for good."`
}

// page is a page of a list.
type page struct {
	Limit int    `default:"100" help:"At most so many."`
	After uint64 `placeholder:"NO" help:"Continue after this number: the next page."`
}

// deadLetterJSON is a dead letter as JSON.
type deadLetterJSON struct {
	No       uint64        `json:"no"`
	Kind     string        `json:"kind"`
	Consumer string        `json:"consumer"`
	Stream   string        `json:"stream"`
	Seq      uint64        `json:"seq"`
	Subject  string        `json:"subject"`
	Seller   string        `json:"seller,omitempty"`
	Key      string        `json:"key,omitempty"`
	ID       string        `json:"id,omitempty"`
	Class    string        `json:"class"`
	Cause    string        `json:"cause,omitempty"`
	Reason   reasonJSON    `json:"reason"`
	Error    string        `json:"error,omitempty"`
	Attempts int           `json:"attempts"`
	First    time.Time     `json:"first"`
	Last     time.Time     `json:"last"`
	Trace    string        `json:"trace,omitempty"`
	History  []historyJSON `json:"history,omitempty"`
	// Count is set for a group: how many messages it stands for. Seq is the first of them; Shown, Header and Body are of the one
	// that show was asked for, Ranges all of them, first and last.
	Count  int                 `json:"count,omitempty"`
	Ranges [][2]uint64         `json:"ranges,omitempty"`
	Shown  uint64              `json:"shown,omitempty"`
	Header map[string][]string `json:"header,omitempty"`
	// Body is JSON where the message was, else text; other bytes are in Bytes, as base64.
	Body  json.RawMessage `json:"body,omitempty"`
	Bytes []byte          `json:"body_base64,omitempty"`
}

type reasonJSON struct {
	Code       string `json:"code,omitempty"`
	Field      string `json:"field,omitempty"`
	ZH         string `json:"zh,omitempty"`
	EN         string `json:"en,omitempty"`
	RemoteCode string `json:"remote_code,omitempty"`
	RemoteText string `json:"remote_text,omitempty"`
}

func deadLetterOf(m bus.DeadLetter) deadLetterJSON {
	n := 0
	if m.Group != nil {
		n = m.Count()
	}
	return deadLetterJSON{
		Count: n,
		No:    m.Seq, Kind: m.Kind, Consumer: m.Consumer, Stream: m.Stream, Seq: m.OriginSeq, Subject: m.Subject,
		Seller: m.Seller, Key: m.Key, ID: m.ID, Class: m.Class, Cause: m.Cause, Reason: reasonJSON(m.Reason), Error: m.Error,
		Attempts: m.Attempts, First: m.First.UTC(), Last: m.Last.UTC(), Trace: m.Trace,
	}
}

func (a *app) listDeadLetters(ctx context.Context, kind string, p pick, g page, grouped bool) error {
	if g.Limit < 1 {
		return misused("--limit must be 1 at least")
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	all, items, next, err := list(ctx, a, b, kind, p, g)
	if err != nil {
		return err
	}
	if all.total == 0 {
		if err := p.mistyped(ctx, a, b); err != nil {
			return err
		}
	}
	if grouped {
		items, next = nil, 0
	}
	doc := struct {
		// Total and Groups cover the whole selection, Items are one page of it.
		Total  int              `json:"total"`
		Groups []groupJSON      `json:"groups"`
		Items  []deadLetterJSON `json:"items"`
		Next   uint64           `json:"next,omitempty"`
	}{all.total, all.groupsJSON(), []deadLetterJSON{}, next}
	for _, m := range items {
		doc.Items = append(doc.Items, deadLetterOf(m))
	}
	return a.show(doc, func(w io.Writer) error {
		if all.total == 0 {
			_, err := fmt.Fprintln(w, "nothing there")
			return err
		}
		if grouped || len(all.groups) > 1 {
			if err := a.writeGroups(w, all); err != nil || grouped {
				return err
			}
			fmt.Fprintln(w)
		}
		t := table{head: []string{"NO", "SELLER", "NUMBER", "SINCE", "TRIES", "WHY"}}
		for _, m := range items {
			t.add(strconv.FormatUint(m.Seq, 10), orDash(m.Seller), numberOf(m), when(m.First), strconv.Itoa(m.Attempts), a.why(m))
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
		if next != 0 {
			a.note("%d of %d; more: --after %d", len(items), all.total, next)
		}
		return nil
	})
}

// why describes in a line why a message was dead-lettered or held.
func (a *app) why(m bus.DeadLetter) string {
	reason := m.Reason
	if m.Cause != "" {
		reason.Field = "" // the cause names it
		return m.Cause + " — " + a.say(reason)
	}
	if reason.Code == "" {
		return m.Class + " — " + m.Error
	}
	return m.Class + " — " + a.say(reason)
}

// numberOf is a dead letter's number of its document, or how many messages it stands for.
func numberOf(m bus.DeadLetter) string {
	if m.Group != nil {
		return count(m.Count(), "message")
	}
	return orDash(m.Key)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// maxRanges is how many ranges of a group are printed; JSON has all.
const maxRanges = 10

// ranges are those of a group, as text.
func ranges(g *bus.Group) string {
	var list []string
	for _, r := range g.Ranges[:min(len(g.Ranges), maxRanges)] {
		text := strconv.FormatUint(r.From, 10)
		if r.To != r.From {
			text += "-" + strconv.FormatUint(r.To, 10)
		}
		list = append(list, text)
	}
	if more := len(g.Ranges) - maxRanges; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(list, " ")
}

// of is m with the headers and the body of a message of its group: the nth, or the one with that sequence. shown is its sequence.
func (p inGroup) of(ctx context.Context, b *bus.Bus, m bus.DeadLetter) (_ bus.DeadLetter, shown uint64, err error) {
	if m.Group == nil {
		if p.Nth > 1 || p.Seq != 0 {
			err = misused("message %d is no group: leave out --nth and --seq", m.Seq)
		}
		return m, 0, err
	}
	if shown = p.Seq; shown == 0 {
		shown = m.Group.Nth(p.Nth)
	}
	if shown == 0 {
		return m, 0, misused("--nth must be from 1 to %d", m.Count())
	}
	s, err := b.Grouped(ctx, m, shown)
	if errors.Is(err, bus.ErrNotStored) {
		if !m.Group.Holds(shown) {
			return m, 0, misused("--seq %d: the group has no such message", shown)
		}
		return m, shown, nil // it was erased, or is too old
	}
	m.Key, m.ID, m.Header, m.Body = s.Key, s.ID, s.Header, s.Body
	if m.Key == "" {
		m.Key = numberIn(m.Body)
	}
	return m, shown, err
}

// showItem prints one message with everything about it.
func (a *app) showItem(ctx context.Context, kind string, no uint64, which inGroup, reveal bool) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	m, err := item(ctx, b, kind, no)
	if err != nil {
		return err
	}
	m, shown, err := which.of(ctx, b, m)
	if err != nil {
		return err
	}
	if reveal {
		d := deed{verb: kind + " show --reveal", seller: m.Seller, target: fmt.Sprintf("message %d (%s %s)", no, m.Subject, m.Key)}
		if err := a.revealed(ctx, d, itemOf(m)); err != nil {
			return err
		}
	}
	if !reveal {
		m = veiled(m)
	}
	earlier, err := a.earlier(ctx, b, m)
	if err != nil {
		return err
	}
	text, note := a.bodyOf(m, reveal)
	doc := deadLetterOf(m)
	doc.History = earlier
	doc.Header = m.Header
	if doc.Shown = shown; m.Group != nil {
		for _, r := range m.Group.Ranges {
			doc.Ranges = append(doc.Ranges, [2]uint64{r.From, r.To})
		}
		if m.Body == nil {
			text, note = "", fmt.Sprintf("%s no longer has message %d: it was erased, or is older than the stream keeps", m.Stream, shown)
		}
	}
	switch doc.Body = json.RawMessage(text); {
	case json.Valid(doc.Body):
	case utf8.ValidString(text):
		doc.Body, _ = json.Marshal(text)
	default:
		doc.Body, doc.Bytes = nil, m.Body
	}
	return a.show(doc, func(w io.Writer) error {
		p := &pairs{}
		p.add("no", strconv.FormatUint(m.Seq, 10)+" ("+m.Kind+")")
		if m.Group != nil {
			p.add("count", numberOf(m))
			p.add("ranges", m.Stream+" "+ranges(m.Group))
			p.add("shown", fmt.Sprintf("%s %d; another: --nth N or --seq N", m.Stream, shown))
		}
		p.add("subject", m.Subject)
		p.add("seller", m.Seller)
		p.add("number", m.Key)
		p.add("id", m.ID)
		p.add("from", fmt.Sprintf("%s %d, for %s", m.Stream, m.OriginSeq, m.Consumer))
		p.add("class", m.Class)
		p.add("cause", m.Cause)
		p.add("code", m.Reason.Code)
		p.add("field", m.Reason.Field)
		p.add("zh", m.Reason.ZH)
		p.add("en", m.Reason.EN)
		p.add("remote", strings.TrimSpace(m.Reason.RemoteCode+" "+m.Reason.RemoteText))
		p.add("error", m.Error)
		p.add("attempts", strconv.Itoa(m.Attempts))
		p.add("first", when(m.First))
		p.add("last", when(m.Last))
		p.add("trace", m.Trace)
		if err := p.write(w, a.columns); err != nil {
			return err
		}
		if err := a.history(w, earlier); err != nil {
			return err
		}
		if len(m.Header) > 0 {
			fmt.Fprintln(w)
		}
		for _, name := range slices.Sorted(maps.Keys(m.Header)) {
			for _, value := range m.Header[name] {
				fmt.Fprintf(w, "%s: %s\n", clean(name), clean(value))
			}
		}
		fmt.Fprintln(w)
		for line := range strings.Lines(text) {
			fmt.Fprintln(w, clean(strings.TrimRight(line, "\r\n")))
		}
		if note != "" {
			a.note("%s", note)
		}
		return nil
	})
}

// bodyOf is a message's body as it may be shown, and a note about it.
func (a *app) bodyOf(m bus.DeadLetter, reveal bool) (text, note string) {
	text, err := pretty(asJSON(m), kindOn(m.Subject), reveal)
	switch {
	case err == nil && !reveal && strings.Contains(text, hidden):
		return text, "personal data is hidden; --reveal shows it, and logs that you looked"
	case err == nil:
		return text, ""
	case reveal:
		return string(m.Body), fmt.Sprintf("the body is %v (%d bytes), printed as it is", err, len(m.Body))
	default:
		return hidden, fmt.Sprintf("the body is %v (%d bytes), so nobody can say which part of it is personal; --reveal shows it, and logs that you looked", err, len(m.Body))
	}
}

// asJSON is a message's body, converted to JSON if it is readable protobuf.
func asJSON(m bus.DeadLetter) []byte {
	if json.Valid(m.Body) {
		return m.Body
	}
	name, _ := event.Split(m.Subject)
	message, err := bus.DecodeFact(bus.Stored{Name: name, Header: m.Header, Body: m.Body})
	if err != nil || message == nil {
		return m.Body
	}
	text, err := protojson.Marshal(message)
	if err != nil {
		return m.Body
	}
	return text
}

func item(ctx context.Context, b *bus.Bus, kind string, no uint64) (bus.DeadLetter, error) {
	m, err := b.DeadLetter(ctx, no)
	if errors.Is(err, bus.ErrNoDeadLetter) || err == nil && m.Kind != kind {
		return m, hint(fmt.Errorf("message %d: %w", no, bus.ErrNoDeadLetter), "bridgectl %s ls; it may have been replayed, released or dropped", kind)
	}
	if m.Key == "" {
		m.Key = numberIn(m.Body)
	}
	return m, err
}

// lsCmd holds the flags that both lists share.
type lsCmd struct {
	pick
	page
	Group bool `help:"Only how many there are of each cause."`
}

func (lsCmd) Help() string {
	return `Prints how many there are of each cause, then one page of them, oldest first. All are read to be counted: a few hundred thousand
take seconds. Times are like 2026-03-05, 2026-03-05T09:31:00+08:00, or 2h and 3d ago.`
}

type dlqLsCmd struct{ lsCmd }

func (dlqLsCmd) Help() string {
	return `Dead letters of orders hold a receiver's data: order-pusher erases those older than its
PUSH_KEEP_SHELVED (90 days). To list those that are erased soon: --until 80d.`
}

func (c dlqLsCmd) Run(ctx context.Context, a *app) error {
	return a.listDeadLetters(ctx, event.Dead, c.pick, c.page, c.Group)
}

type heldLsCmd struct{ lsCmd }

func (heldLsCmd) Help() string {
	return `An order that is held longer than order-pusher's PUSH_KEEP_SHELVED (90 days) becomes a dead letter (held.expired).`
}

func (c heldLsCmd) Run(ctx context.Context, a *app) error {
	return a.listDeadLetters(ctx, event.Held, c.pick, c.page, c.Group)
}

// one names a dead letter.
type one struct {
	No     uint64 `arg:"" help:"Number, as ls prints it."`
	Reveal bool   `help:"Show personal data. This is logged."`
}

// inGroup names a message of a group.
type inGroup struct {
	Nth int    `default:"1" placeholder:"N" help:"Of a group: the nth message."`
	Seq uint64 `placeholder:"N" help:"Of a group: the message with this sequence in its stream."`
}

type dlqShowCmd struct {
	one
	inGroup
}

func (dlqShowCmd) Help() string {
	return `Many messages of a seller that nobody can read are one entry, a group: it is shown with its count, where its messages are in their
stream, and the first of them in full.`
}

func (c dlqShowCmd) Run(ctx context.Context, a *app) error {
	return a.showItem(ctx, event.Dead, c.No, c.inGroup, c.Reveal)
}

type heldShowCmd struct{ one }

func (c heldShowCmd) Run(ctx context.Context, a *app) error {
	return a.showItem(ctx, event.Held, c.No, inGroup{Nth: 1}, c.Reveal)
}
