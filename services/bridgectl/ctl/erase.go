package ctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/personal"
	documentv1 "stockbridge/proto/document/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/order-pusher/pusher"
)

// inHandFor is how long after its publication a worker may work on an order without leaving a trace.
const inHandFor = 2 * time.Minute

type orderEraseCmd struct {
	Number string `arg:"" help:"Outbound number; an order number, a platform's or the warehouse's stand for all deliveries that have it."`
	Seller string `required:"" placeholder:"NAME" help:"Whose order it is."`
	Why    string `required:"" placeholder:"TEXT" help:"Why, e.g. the number of the request. Recorded: no personal data."`
	Drop   bool   `help:"Erase also what still waits to be sent: it never will be."`
	Yes    bool   `help:"Really erase. Without it the command only prints what would be erased."`
}

func (orderEraseCmd) Help() string {
	return `Erases a receiver's data from everything of ours that can be reached: the order as the ERP published it, its copies that
are delayed, held or dead-lettered, events of earlier builds that quote the receiver, and foreign texts in the ledger. What prevents
the order from being sent twice stays, and so do its numbers. Run again, it erases what is left; erasing twice does no harm.

An order that waits to be sent would be lost with its data: it is erased only with --drop. One that is in hand, or whose outcome is unknown,
is not erased at all: wait until it is accepted or refused.

Out of reach are the warehouse (ask it to erase), the ERP and other systems that read the order, backups, logs and traces.

  bridgectl order erase SO-1001-1 --seller demo --why 'request 2026-17'
  bridgectl order erase SO-1001-1 --seller demo --why 'request 2026-17' --yes`
}

// erasing collects what is known of the orders that are to be erased.
type erasing struct {
	orderEraseCmd
	b *bus.Bus
	l ledger.Documents

	// outbound maps each delivery to what prevents erasing it, "" for nothing.
	outbound map[string]string
	entries  map[string]ledger.Entry
	copies   []bus.Copy
	// quoting are events that quote the receiver.
	quoting []bus.Stored
	people  personal.Data
}

// eraseJSON is what would be erased, or was.
type eraseJSON struct {
	Number     string           `json:"number"`
	Seller     string           `json:"seller"`
	Erased     bool             `json:"erased"`
	Deliveries []eraseDelivery  `json:"deliveries"`
	Places     []erasePlaceJSON `json:"places"`
	Beyond     []string         `json:"beyond"`
}

type eraseDelivery struct {
	OutboundNo string `json:"outbound_no"`
	State      string `json:"state"`
	// Blocked is why it is not erased.
	Blocked string `json:"blocked,omitempty"`
}

type erasePlaceJSON struct {
	// Where is "published", "parked", "retry", "dlq", "held", "event" or "ledger".
	Where  string   `json:"where"`
	Stream string   `json:"stream,omitempty"`
	Count  int      `json:"count"`
	No     []uint64 `json:"no,omitempty"`
}

func (c orderEraseCmd) Run(ctx context.Context, a *app) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	x := &erasing{orderEraseCmd: c, b: b, l: l}
	if err := x.look(ctx, a.now()); err != nil {
		return err
	}
	if len(x.outbound) == 0 {
		return hint(fmt.Errorf("nothing is known of %q of %s", c.Number, c.Seller), "numbers are compared as they are; what was erased before is not found by its order's numbers")
	}
	doc := x.doc(a)
	blocked := slices.ContainsFunc(doc.Deliveries, func(d eraseDelivery) bool { return d.Blocked != "" })
	if !c.Yes || blocked {
		if err := a.show(doc, func(w io.Writer) error { return x.write(w, a, doc, "would be erased") }); err != nil {
			return err
		}
		if blocked {
			return errors.New("nothing was erased: see BLOCKED BY")
		}
		a.note("nothing was erased: --yes does it")
		return nil
	}
	err = a.do(ctx, deed{verb: "order erase", seller: c.Seller, target: strings.Join(slices.Sorted(maps.Keys(x.outbound)), " "), why: c.Why}, func() (int, error) {
		return x.erase(ctx, a.now)
	})
	if err != nil {
		return hint(err, "the same command does what is left")
	}
	doc.Erased = true
	return a.show(doc, func(w io.Writer) error { return x.write(w, a, doc, "erased") })
}

// look finds all of it. It reads again as long as it finds further deliveries.
func (x *erasing) look(ctx context.Context, now time.Time) error {
	x.outbound, x.entries = map[string]string{}, map[string]ledger.Entry{}
	entries, err := x.l.Find(ctx, x.Seller, x.Number)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Key.Kind == orderKind {
			x.outbound[e.Key.No] = ""
		}
	}
	for known := -1; known < len(x.outbound); {
		known = len(x.outbound)
		x.copies, x.people = nil, personal.Data{}
		if err := x.b.Copies(ctx, event.OrderAudited.Name, x.Seller, x.copy); err != nil {
			return err
		}
	}
	x.quoting = nil
	q := bus.EventQuery{Seller: x.Seller, Names: []string{
		event.OrderHeld.Name, event.OrderFailed.Name, event.OrderStatusChanged.Name, event.SellerPaused.Name,
	}}
	if err := x.b.Events(ctx, q, x.event); err != nil {
		return err
	}
	for no := range x.outbound {
		e, err := x.l.Get(ctx, ledger.Key{Seller: x.Seller, Kind: orderKind, No: no})
		if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
			return err
		}
		if err == nil {
			x.entries[no] = e
		}
		if x.outbound[no], err = x.blocked(ctx, no, now); err != nil {
			return err
		}
	}
	return nil
}

func (x *erasing) copy(c bus.Copy) error {
	m, err := bus.Decode(event.OrderAudited, c.Original)
	if err != nil {
		// The message cannot be read; its headers or its text may name the number.
		if c.Original.Key == x.Number || numberIn(c.Original.Body) == x.Number || bytes.Contains(c.Original.Body, []byte(strconv.Quote(x.Number))) {
			if c.Original.Key == "" {
				c.Original.Key = x.Number
			}
			x.add(c)
		}
		return nil
	}
	seller, no, numbers := about(m)
	if _, known := x.outbound[no]; seller != x.Seller || no == "" || !known && !slices.Contains(numbers, x.Number) {
		return nil
	}
	c.Original.Key = no
	x.add(c)
	people := personal.Of(m)
	x.people.Names, x.people.Phones = append(x.people.Names, people.Names...), append(x.people.Phones, people.Phones...)
	x.people.Addresses, x.people.Known = append(x.people.Addresses, people.Addresses...), append(x.people.Known, people.Known...)
	return nil
}

func (x *erasing) add(c bus.Copy) {
	x.outbound[c.Original.Key] = ""
	c.Original.Body, c.Original.Header = nil, nil
	x.copies = append(x.copies, c)
}

// event collects events that quote the receiver: earlier builds published the warehouse's own texts.
func (x *erasing) event(s bus.Stored) error {
	m, err := bus.DecodeFact(s)
	if err != nil || m == nil {
		return nil
	}
	if paused, ok := m.(*sellerv1.Paused); ok {
		if paused.Seller == x.Seller && x.people.In(paused.Reason) {
			x.quoting = append(x.quoting, bus.Stored{Stream: s.Stream, Seq: s.Seq, At: s.At})
		}
		return nil
	}
	seller, no, _ := about(m)
	if _, known := x.outbound[no]; known && seller == x.Seller && x.people.In(sentences(m)) {
		x.quoting = append(x.quoting, bus.Stored{Stream: s.Stream, Seq: s.Seq, At: s.At})
	}
	return nil
}

// sentences returns the texts of an event that may quote somebody.
func sentences(m proto.Message) string {
	switch m := m.(type) {
	case interface{ GetReason() *documentv1.Reason }:
		r := m.GetReason()
		return r.GetZh() + "\n" + r.GetEn() + "\n" + r.GetRemoteText()
	case *documentv1.StatusChanged:
		return m.Text
	default:
		return ""
	}
}

// blocked returns what prevents erasing a delivery.
func (x *erasing) blocked(ctx context.Context, no string, now time.Time) (string, error) {
	e := x.entries[no]
	if e.State == ledger.Intent || e.State == ledger.Unknown && e.Origin != ledger.External {
		return "it is " + string(e.State) + ": erase it when it is accepted or refused", nil
	}
	if x.Drop {
		return "", nil
	}
	var outstanding *bus.Backlog
	for _, c := range x.copies {
		switch {
		case c.Original.Key != no:
		case c.Where != bus.CopyPublished:
			return fmt.Sprintf("it waits (%s %d): --drop erases it, and it is never sent", c.Where, c.Seq), nil
		case e.State != ledger.New:
		case now.Sub(c.At) < inHandFor:
			return "it was published just now, and a worker may have it in hand: look again in two minutes", nil
		default:
			if outstanding == nil {
				o, err := x.b.Backlog(ctx, bus.ConsumerOf(pusher.Name, event.OrderAudited))
				if err != nil {
					return "", err
				}
				outstanding = &o
			}
			if outstanding.Has(bus.Place{Stream: c.Stream, Seq: c.Seq, Stored: c.At}) {
				return "no worker has taken it yet: --drop erases it, and it is never sent", nil
			}
		}
	}
	return "", nil
}

// erasureChecks is how often erase checks whether anything is left: a copy may move while it is erased.
const erasureChecks = 5

// erase erases all of it. Published messages go last: they are what a repetition after an interruption starts from.
func (x *erasing) erase(ctx context.Context, now func() time.Time) (done int, err error) {
	for range erasureChecks {
		for no := range x.entries {
			if err := x.l.Erase(ctx, ledger.Key{Seller: x.Seller, Kind: orderKind, No: no}); err != nil && !errors.Is(err, ledger.ErrNoEntry) {
				return done, err
			}
		}
		for _, s := range x.quoting {
			if err := x.b.Erase(ctx, s.Stream, s.Seq, s.At); err != nil {
				return done, err
			}
			done++
		}
		for _, c := range x.copies { // in the order of Copies: published last
			if err := x.b.Erase(ctx, c.Stream, c.Seq, c.At); err != nil {
				return done, err
			}
			done++
		}
		again := &erasing{orderEraseCmd: x.orderEraseCmd, b: x.b, l: x.l}
		if err := again.look(ctx, now()); err != nil {
			return done, err
		}
		if len(again.copies) == 0 && len(again.quoting) == 0 {
			return done, nil
		}
		again.people = x.people
		for no, why := range again.outbound {
			if why != "" {
				return done, fmt.Errorf("%s: %s", no, why)
			}
		}
		*x = *again
	}
	return done, errors.New("its copies keep moving")
}

func (x *erasing) doc(a *app) eraseJSON {
	doc := eraseJSON{Number: x.Number, Seller: x.Seller, Places: []erasePlaceJSON{}, Beyond: []string{
		a.pick("仓库（请向仓库方提出删除）", "the warehouse: ask it to erase"),
		a.pick("ERP 及读取过该订单的其他系统", "the ERP, and other systems that read the order"),
		a.pick("NATS、Redis 的备份；日志；链路追踪", "backups of NATS and Redis, logs, traces"),
		a.pick("Redis 的 AOF 与 KV 的旧数据块，直到重写", "Redis' append-only file and blocks of JetStream's buckets, until they are rewritten"),
	}}
	for _, no := range slices.Sorted(maps.Keys(x.outbound)) {
		state := "not in the ledger"
		if e, ok := x.entries[no]; ok {
			if state = string(e.State); state == "" {
				state = "new"
			}
		}
		doc.Deliveries = append(doc.Deliveries, eraseDelivery{no, state, x.outbound[no]})
	}
	add := func(where, stream string, no uint64) {
		i := slices.IndexFunc(doc.Places, func(p erasePlaceJSON) bool { return p.Where == where && p.Stream == stream })
		if i < 0 {
			i, doc.Places = len(doc.Places), append(doc.Places, erasePlaceJSON{Where: where, Stream: stream})
		}
		doc.Places[i].Count++
		if no != 0 {
			doc.Places[i].No = append(doc.Places[i].No, no)
		}
	}
	for _, c := range x.copies {
		add(c.Where, c.Stream, c.Seq)
	}
	for _, s := range x.quoting {
		add("event", s.Stream, s.Seq)
	}
	for range x.entries {
		add("ledger", "", 0)
	}
	return doc
}

func (x *erasing) write(w io.Writer, a *app, doc eraseJSON, verb string) error {
	t := table{head: []string{"OUTBOUND", "STATE", "BLOCKED BY"}}
	for _, d := range doc.Deliveries {
		t.add(d.OutboundNo, d.State, orDash(d.Blocked))
	}
	if err := t.write(w, a.columns); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s:\n", verb)
	t = table{head: []string{"WHERE", "STREAM", "COUNT", "NO"}}
	for _, p := range doc.Places {
		var nos []string
		for _, no := range p.No[:min(len(p.No), maxSample)] {
			nos = append(nos, strconv.FormatUint(no, 10))
		}
		t.add(p.Where, orDash(p.Stream), strconv.Itoa(p.Count), orDash(strings.Join(nos, " ")))
	}
	if len(doc.Places) == 0 {
		fmt.Fprintln(w, "nothing")
	} else if err := t.write(w, a.columns); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nout of reach:\n")
	for _, beyond := range doc.Beyond {
		fmt.Fprintln(w, "- "+beyond)
	}
	return nil
}
