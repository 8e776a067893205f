package ctl

import (
	"bytes"
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

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/personal"
	"stockbridge/pkg/trace"
	documentv1 "stockbridge/proto/document/v1"
	opsv1 "stockbridge/proto/ops/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

type explainCmd[N noun] struct {
	Number string `arg:"" help:"Any number of it: the ERP's, a platform's, the warehouse's, a waybill."`
	Seller string `placeholder:"NAME" help:"Only of this seller."`
	Reveal bool   `help:"Show personal data in -o json. This is logged."`
}

func (explainCmd[N]) Help() string {
	return `One timeline of the ledger's record (each attempt), the events of the public streams, present and earlier dead letters
and holds, and what operators did to it, with who and why. With -o json every event is printed in full. Reading the streams takes
seconds per million events. Ends 1 when nothing is known.`
}

// moment is one row of the timeline.
type moment struct {
	// At is when it was stored, by the clock of the broker or the ledger.
	At time.Time `json:"at"`
	// From is "event", "ledger", "shelf" or "act".
	From string `json:"from"`
	What string `json:"what"`
	// No is the ERP's number of the document, OutboundNo the same of an order.
	No         string `json:"no"`
	OutboundNo string `json:"outbound_no,omitempty"`
	Detail     string `json:"detail,omitempty"`
	// Who acted and why, for acts.
	Who string `json:"who,omitempty"`
	Why string `json:"why,omitempty"`
	// Seq is the sequence number in Stream for events, else the dead letter's number.
	Stream string          `json:"stream,omitempty"`
	Seq    uint64          `json:"seq,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// delivery is the ledger's entry of one document.
type delivery struct {
	Seller      string `json:"seller"`
	No          string `json:"no"`
	OutboundNo  string `json:"outbound_no,omitempty"`
	OrderNo     string `json:"order_no,omitempty"`
	State       string `json:"state"`
	WarehouseNo string `json:"warehouse_no,omitempty"`
	Status      string `json:"status,omitempty"`
	Tries       int    `json:"tries"`
	TraceID     string `json:"trace_id,omitempty"`
	// Account is the identity under which it was sent.
	Account string      `json:"account,omitempty"`
	Reason  *reasonJSON `json:"reason,omitempty"`
	Due     time.Time   `json:"due,omitzero"`
}

func (c explainCmd[N]) Run(ctx context.Context, a *app) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	if c.Reveal {
		if err := a.revealed(ctx, deed{verb: rowFor[N]().Name + " explain --reveal", seller: c.Seller, target: c.Number}); err != nil {
			return err
		}
	}
	sellers := []string{c.Seller}
	if c.Seller == "" {
		registry, err := a.registry(ctx)
		if err != nil {
			return err
		}
		defer registry.Close()
		sellers = nil
		for _, s := range registry.All() {
			sellers = append(sellers, s.Name())
		}
	}
	x := &explained{a: a, row: rowFor[N](), reveal: c.Reveal, number: c.Number, of: map[string]bool{}, known: map[string]bool{}}
	for _, name := range sellers {
		entries, err := l.Find(ctx, name, c.Number)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Key.Kind == x.row.Name {
				x.of[e.Key.Seller+"/"+e.Key.No] = true
			}
		}
	}
	// Where the ledger knows nothing, the stream itself shows which document was meant; a second reading finds
	// earlier events of that number.
	for known := -1; known < len(x.of); {
		known = len(x.of)
		x.events, x.unread, x.ids = nil, nil, map[string]bool{}
		if err := b.Events(ctx, bus.EventQuery{Seller: c.Seller}, x.event); err != nil {
			return err
		}
	}
	x.moments = append(x.moments, x.events...)
	// The entries are read after the events, so they are at least as new. An entry of an older build is not found by
	// each of its numbers; the events have shown which one finds it.
	if err := x.entries(ctx, l); err != nil {
		return err
	}
	if err := (pick{Seller: c.Seller}).each(ctx, a, b, "", func(m bus.DeadLetter) error { return x.deadLetter(ctx, b, m) }); err != nil {
		return err
	}
	if err := x.acted(ctx, b, c.Seller); err != nil {
		return err
	}
	if !c.Reveal {
		x.veil()
	}
	slices.SortStableFunc(x.moments, func(p, q moment) int { return p.At.Compare(q.At) })
	if len(x.moments) == 0 && len(x.deliveries) == 0 {
		return hint(fmt.Errorf("nothing is known of %q", c.Number), "numbers are compared as they are; events are kept for the age of their stream")
	}
	if x.row.Name == orderKind {
		for i := range x.deliveries {
			x.deliveries[i].OutboundNo = x.deliveries[i].No
		}
		for i := range x.moments {
			x.moments[i].OutboundNo = x.moments[i].No
		}
	}
	doc := struct {
		Number     string     `json:"number"`
		Deliveries []delivery `json:"deliveries"`
		Moments    []moment   `json:"moments"`
	}{c.Number, x.deliveries, x.moments}
	return a.show(doc, x.write)
}

// explained collects what is known of a number.
type explained struct {
	a      *app
	row    *row
	reveal bool
	number string
	// of are the ERP's numbers of the documents, with their sellers, that the number stands for.
	of map[string]bool
	// known are those that the ledger has an entry for; answered are those whose events show that it had one.
	known      map[string]bool
	answered   bool
	deliveries []delivery
	moments    []moment
	// people are the persons whose data stands in the events found.
	people personal.Data
	// events are those of the current reading of the streams; ids are the ids of those already seen.
	events []moment
	ids    map[string]bool
	// unread are where messages stand that nobody can read and that name the number.
	unread []bus.Place
}

// veil hides personal data in the warehouse's texts, which earlier builds stored.
func (x *explained) veil() {
	for i, m := range x.moments {
		x.moments[i].Detail = x.people.Hide(m.Detail)
	}
	for _, d := range x.deliveries {
		if d.Reason != nil {
			*d.Reason = reasonJSON(veiledReason(fault.Reason(*d.Reason), x.people))
		}
	}
}

func (x *explained) knows(seller, no string) bool { return x.of[seller+"/"+no] }

// entries reads the ledger's entries of all documents.
func (x *explained) entries(ctx context.Context, l ledger.Ledger) error {
	for _, of := range slices.Sorted(maps.Keys(x.of)) {
		if x.known[of] {
			continue
		}
		seller, no, _ := strings.Cut(of, "/")
		e, err := l.Get(ctx, x.row.Key(seller, no))
		if errors.Is(err, ledger.ErrNoEntry) {
			continue
		}
		if err != nil {
			return err
		}
		x.entry(e)
	}
	return nil
}

func (x *explained) entry(e ledger.Entry) {
	x.of[e.Key.Seller+"/"+e.Key.No], x.known[e.Key.Seller+"/"+e.Key.No] = true, true
	d := delivery{Seller: e.Key.Seller, No: e.Key.No, OrderNo: e.Group, State: string(e.State), WarehouseNo: e.Number, Tries: e.Tries, TraceID: trace.ID(e.Trace), Account: e.Identity}
	switch {
	case d.State == "":
		d.State = "new"
	case e.Origin == ledger.External && e.State == ledger.Unknown:
		d.State = "shadow"
	}
	switch {
	case e.State == ledger.Refused:
		d.Reason = (*reasonJSON)(&e.Reason)
	case e.Rejection != (fault.Reason{}): // rejected, and looked up before that is believed
		d.State, d.Reason = "rejected, looked up again", (*reasonJSON)(&e.Rejection)
	}
	x.people.Known = append(x.people.Known, e.Key.No, e.Group, e.Number)
	if e.Following != nil {
		seen := kind.StateOf[kind.Seen](e)
		d.Status, d.Due = strings.TrimSpace(statusWord(seen.Status)+" "+seen.Code), e.Following.Due.UTC()
	}
	x.deliveries = append(x.deliveries, d)
	for _, t := range e.Attempts {
		x.moments = append(x.moments, moment{At: t.At.UTC(), From: "ledger", What: t.What, No: e.Key.No, Detail: t.Detail, Stream: t.Stream, Seq: t.Seq})
	}
}

// event collects an event about the number. An audit that names it adds its own number to the search: outcomes come later
// in the stream than their audits.
func (x *explained) event(s bus.Stored) error {
	// Most events are about other documents: search the text before decoding it.
	if !x.row.owns(s.Name) || !x.mentioned(s) {
		return nil
	}
	m, err := bus.DecodeFact(s)
	if err != nil && (s.Key == x.number || bytes.Contains(s.Body, []byte(strconv.Quote(x.number)))) {
		x.unread = append(x.unread, bus.Place{Stream: s.Stream, Seq: s.Seq, Stored: s.At})
	}
	if m == nil || err != nil {
		return nil // unknown or unreadable: it is a dead letter, and explained there
	}
	seller, no, numbers := about(m)
	if !x.knows(seller, no) && !slices.Contains(numbers, x.number) {
		return nil
	}
	x.of[seller+"/"+no] = true
	switch m.(type) {
	case *documentv1.Accepted, *documentv1.StatusChanged, *orderv1.Shipped, *orderv1.Delivered, *orderv1.Returning, *documentv1.Cancelled,
		*purchasev1.Received:
		x.answered = true
	}
	people := personal.Of(m)
	x.people.Names, x.people.Phones = append(x.people.Names, people.Names...), append(x.people.Phones, people.Phones...)
	x.people.Addresses, x.people.Remarks = append(x.people.Addresses, people.Addresses...), append(x.people.Remarks, people.Remarks...)
	x.people.Known = append(x.people.Known, people.Known...)
	detail := x.a.tale(m)
	if s.ID != "" && x.ids[s.ID] {
		detail = strings.TrimSpace("published again: " + detail)
	}
	x.ids[s.ID] = true
	x.events = append(x.events, moment{
		At: s.At.UTC(), From: "event", What: s.Name, No: no, Detail: detail, Stream: s.Stream, Seq: s.Seq, Body: body(m, x.reveal),
	})
	return nil
}

// mentioned is a cheap check whether s may be about the number: whether its text contains it, or has escaped
// characters.
func (x *explained) mentioned(s bus.Stored) bool {
	if bytes.Contains(s.Body, []byte(x.number)) || bytes.Contains(s.Body, []byte(`\u`)) {
		return true
	}
	for key := range x.of {
		if _, no, _ := strings.Cut(key, "/"); bytes.Contains(s.Body, []byte(no)) {
			return true
		}
	}
	return false
}

// grouped explains the messages about the number that stand in a group.
func (x *explained) grouped(m bus.DeadLetter) {
	add := func(no string, at bus.Place) {
		if at.Stream == m.Stream && m.Group.Has(at.Seq, at.Stored) {
			x.moments = append(x.moments, moment{
				At: at.Stored.UTC(), From: "shelf", What: m.Kind, No: no, Detail: fmt.Sprintf("no %d, %d of its %s: %s", m.Seq, at.Seq, count(m.Count(), "message"), x.a.why(m)), Seq: m.Seq,
			})
		}
	}
	for _, e := range x.events {
		add(e.No, bus.Place{Stream: e.Stream, Seq: e.Seq, Stored: e.At})
	}
	for _, at := range x.unread {
		add(x.number, at)
	}
}

func (x *explained) deadLetter(ctx context.Context, b *bus.Bus, m bus.DeadLetter) error {
	if name, _ := event.Split(m.Subject); m.Group != nil && x.row.owns(name) {
		x.grouped(m)
	}
	m, err := named(ctx, b, m)
	if errors.Is(err, bus.ErrNoDeadLetter) {
		return nil
	}
	if name, _ := event.Split(m.Subject); err != nil || !x.row.owns(name) || m.Key == "" || !x.knows(m.Seller, m.Key) && m.Key != x.number {
		return err
	}
	for _, e := range m.Earlier {
		x.stood(m.Key, e.No, e.Kind, e.Code, e.Cause, e.Attempts, e.Since)
		x.moments = append(x.moments, moment{
			At: e.Left.UTC(), From: "act", What: replayed, No: m.Key, Detail: actLine(e.Who, e.Why, fmt.Sprintf("no %d", e.No)), Who: e.Who, Why: e.Why, Seq: e.No,
		})
	}
	x.moments = append(x.moments, moment{At: m.Last.UTC(), From: "shelf", What: m.Kind, No: m.Key, Detail: fmt.Sprintf("no %d: %s", m.Seq, x.a.why(m)), Seq: m.Seq})
	return nil
}

// replayed marks what a message itself records of its replay; the act has the command.
const replayed = "replayed"

// stood adds an earlier dead letter; acts and the message itself may both report it.
func (x *explained) stood(key string, no uint64, kind, code, cause string, attempts int, since time.Time) {
	if !slices.ContainsFunc(x.moments, func(m moment) bool { return m.From == "shelf" && m.Seq == no }) {
		x.moments = append(x.moments, moment{At: since.UTC(), From: "shelf", What: kind, No: key, Detail: stoodFor(no, code, cause, attempts), Seq: no})
	}
}

func stoodFor(no uint64, code, cause string, attempts int) string {
	tries := "1 try"
	if attempts != 1 {
		tries = fmt.Sprintf("%d tries", attempts)
	}
	return fmt.Sprintf("no %d: %s, %s", no, strings.TrimSpace(code+" "+cause), tries)
}

// acted adds what operators did to it.
func (x *explained) acted(ctx context.Context, b *bus.Bus, seller string) error {
	acts := newRecord(func(a *opsv1.Act) bool {
		return slices.ContainsFunc(numbersIn(a, x.row.Name), func(no string) bool { return no == x.number || x.names(a.Seller, no) }) || slices.ContainsFunc(a.Items, x.concerns)
	})
	if err := b.Acts(ctx, seller, time.Time{}, acts.add); err != nil {
		return err
	}
	for _, d := range acts.all() {
		items := slices.DeleteFunc(slices.Clone(d.items), func(i *opsv1.Item) bool { return !x.concerns(i) })
		if len(items) == 0 {
			x.moments = append(x.moments, moment{At: d.At.UTC(), From: "act", What: d.Verb, No: d.Target, Detail: actLine(d.Who, d.Why, d.State), Who: d.Who, Why: d.Why, Seq: d.No})
		}
		for _, i := range items {
			x.stood(i.Key, i.No, i.Kind, i.Code, i.Cause, int(i.Attempts), i.Since.AsTime())
			state := d.stateOf(i.No)
			if state == "" { // the message that was dead-lettered again says it too
				x.moments = slices.DeleteFunc(x.moments, func(m moment) bool { return m.What == replayed && m.Seq == i.No && m.Who == d.Who })
			}
			x.moments = append(x.moments, moment{
				At: d.At.UTC(), From: "act", What: d.Verb, No: i.Key, Detail: actLine(d.Who, d.Why, strings.TrimSpace(fmt.Sprintf("no %d %s", i.No, state))),
				Who: d.Who, Why: d.Why, Seq: i.No,
			})
		}
	}
	return nil
}

func (x *explained) concerns(i *opsv1.Item) bool {
	return x.row.serves(i.Consumer) && (x.names(i.Seller, i.Key) || i.Key == x.number)
}

func (x *explained) names(seller, no string) bool { return no != "" && x.knows(seller, no) }

// actLine describes who did something, why, and to what.
func actLine(who, why, what string) string {
	text := "by " + orDash(who)
	if why != "" {
		text += ": " + why
	}
	if what != "" {
		text += " (" + what + ")"
	}
	return text
}

func (x *explained) write(w io.Writer) error {
	t := table{head: []string{"OUTBOUND", "ORDER", "SELLER", "WAREHOUSE NO", "TRIES", "STATE"}}
	if x.row.Name != orderKind {
		t.head = slices.Concat([]string{"NUMBER"}, t.head[2:])
	}
	for _, d := range x.deliveries {
		text := strings.TrimSpace(d.State + " " + d.Status)
		if d.Reason != nil {
			text += ": " + x.a.say(fault.Reason(*d.Reason))
		}
		cells := []string{d.No, d.Seller, orDash(d.WarehouseNo), strconv.Itoa(d.Tries), text}
		if x.row.Name == orderKind {
			cells = slices.Insert(cells, 1, orDash(d.OrderNo))
		}
		t.add(cells...)
	}
	if len(x.deliveries) > 0 {
		if err := t.write(w, x.a.columns); err != nil {
			return err
		}
		for _, d := range x.deliveries {
			if d.Account != "" {
				fmt.Fprintf(w, "account of %s: %s\n", d.No, d.Account)
			}
			if d.TraceID != "" {
				fmt.Fprintf(w, "trace of %s: %s\n", d.No, d.TraceID)
			}
		}
		fmt.Fprintln(w)
	} else {
		text := x.a.pick("账本中没有此单：尚未开始推送", "the ledger does not know it: it was never claimed")
		if x.answered {
			text = x.a.pick("账本中已没有此单：它到过仓库，账本此后重建或已过保留期", "the ledger no longer knows it: it was at the warehouse, and the ledger has a new epoch since, or the entry expired")
		}
		fmt.Fprintln(w, text)
		fmt.Fprintln(w)
	}
	t = table{head: []string{"TIME", "FROM", "WHAT", "DETAIL"}}
	several := len(x.of) > 1
	for _, m := range x.moments {
		detail := m.Detail
		if several {
			detail = strings.TrimSpace(m.No + " " + detail)
		}
		t.add(when(m.At), m.From, m.What, detail)
	}
	return t.write(w, x.a.columns)
}

// tale describes an event in a line, without personal data.
func (a *app) tale(m proto.Message) string {
	switch m := m.(type) {
	case *orderv1.Audited:
		text := fmt.Sprintf("shop %s, warehouse %s, revision %d, %s", m.Shop, m.Warehouse, m.Revision, count(len(m.Lines), "line"))
		if m.Supersedes != "" {
			text += ", supersedes " + m.Supersedes
		}
		return text
	case *purchasev1.Audited:
		return fmt.Sprintf("warehouse %s, supplier %s, revision %d, %s", m.Warehouse, m.Supplier, m.Revision, count(len(m.Lines), "line"))
	case *documentv1.Accepted:
		text := "as " + m.GetRef().GetWarehouseNo()
		for _, c := range m.Cleaned {
			text += "; " + c.Field + ": " + a.pick(c.Zh, c.En)
		}
		for _, n := range m.Notes {
			text += "; " + a.say(reasonOf(n))
		}
		return text
	case *documentv1.Held:
		return m.Cause + " — " + a.say(reasonOf(m.Reason))
	case *documentv1.Failed:
		return a.say(reasonOf(m.Reason))
	case *orderv1.Shadowed:
		o := listed(m)
		return strings.TrimSpace(strings.TrimSpace(o.Verdict+" "+o.WarehouseNo) + " " + o.detail(a))
	case *documentv1.StatusChanged:
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", statusWord(m.Status), m.Code, m.Text)) + at(m.At)
	case *orderv1.Shipped:
		text := fmt.Sprintf("%s by %s, %s", m.GetRef().GetWarehouseNo(), orDash(m.CarrierName), strings.Join(m.Waybills, " "))
		if !m.Complete {
			text += ", more to come"
		}
		return text + at(m.At)
	case *orderv1.Delivered:
		return m.GetRef().GetWarehouseNo() + at(m.At)
	case *orderv1.Returning:
		return statusWord(m.Status) + at(m.At)
	case *purchasev1.Received:
		var pieces int64
		for _, l := range m.Lines {
			pieces += l.Received
		}
		text := fmt.Sprintf("%s in %s", count(int(pieces), "piece"), count(len(m.Lines), "line"))
		if m.Complete {
			text += ", complete"
		}
		return text + at(m.At)
	case *documentv1.CancelRequested:
		return strings.ToLower(strings.TrimPrefix(m.Cause.String(), "CAUSE_")) + " " + m.RequestId
	case *orderv1.CancelRequested:
		return strings.ToLower(strings.TrimPrefix(m.Cause.String(), "CAUSE_")) + " " + m.RequestId
	case *documentv1.Cancelled:
		return m.RequestId
	case *documentv1.CancelRefused:
		return a.say(reasonOf(m.Reason))
	case *documentv1.CancelUnknown:
		return a.say(reasonOf(m.Reason))
	default:
		return ""
	}
}

// at is the warehouse's own time, which may be long before we received the event.
func at(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return " (" + when(t.AsTime()) + ")"
}

func (a *app) pick(zh, en string) string {
	if a.lang == "zh" && zh != "" {
		return zh
	}
	return en
}

func reasonOf(r *documentv1.Reason) fault.Reason {
	return fault.Reason{Code: r.GetCode(), Field: r.GetField(), ZH: r.GetZh(), EN: r.GetEn(), RemoteCode: r.GetRemoteCode(), RemoteText: r.GetRemoteText()}
}
