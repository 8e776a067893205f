package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/e2e/history"
)

// run is a history, arranged by orders.
type run struct {
	settings history.Setting
	ended    time.Time
	// orders by outbound number.
	orders map[string]*order
	faults []history.Fault
	// outages are the recorded ones, merged and sorted.
	outages []span
	// losses are the faults that removed data from the ledger or the streams, oldest first.
	losses    []history.Fault
	processes []history.Process
	kills     []time.Time
	calls     calls
	// violations are the sandbox's own count.
	violations jdsandbox.Violations
	// foreign are documents under numbers that no audit names.
	foreign []document
	// unreadable are the audits in the stream at the end that nobody can read, dead the places of dead letters.
	unreadable []place
	dead       map[place]bool
	documents  int
	seen       int
	acts       int
}

// order is what the history has of one outbound number.
type order struct {
	no     string
	audits []history.Audit
	acts   []history.Act
	// events are the events about it except audits, each once.
	events []history.Event
	// present are the contents of the audits that the stream has at the end.
	present     map[string]bool
	docs        []document
	deadLetters []history.DeadLetter
	entry       *history.Entry
}

// place is where a message stands. Its time, in Unix nanoseconds, separates those before and after a restore.
type place struct {
	stream string
	seq    uint64
	stored int64
}

type document struct {
	no, status string
	number     string
	created    time.Time
}

// live reports whether the warehouse still has it: it is neither cancelled (10028) nor returned (10038). See
// docs/jd-api.md, Order status.
func (d document) live() bool { return d.status != "10028" && d.status != "10038" }

type span struct{ from, to time.Time }

// calls is what is kept of the sandbox's log: for each app when calls began and ended, and their codes.
type calls struct {
	n       int
	missing []string
	apps    map[string][]call
	// killed counts the kills while a call was in flight, gone the calls whose caller had hung up before the answer.
	killed, gone int
}

type call struct {
	at     time.Time
	took   time.Duration
	method string
	quota  bool // refused with code 2: too many calls
}

func load(dir string) (*run, error) {
	ended, err := history.Check(dir)
	if err != nil {
		return nil, err
	}
	c := &run{ended: ended, orders: map[string]*order{}, dead: map[place]bool{}, calls: calls{apps: map[string][]call{}}}
	settings := 0
	steps := []func() error{
		func() error {
			return history.Settings.Read(dir, func(s history.Setting) error {
				settings++
				c.settings = s
				return nil
			})
		},
		func() error { return history.Audits.Read(dir, c.audit) },
		func() error { return history.Acts.Read(dir, c.act) },
		func() error { return c.readEvents(dir) },
		func() error {
			return history.Faults.Read(dir, func(f history.Fault) error { c.faults = append(c.faults, f); return nil })
		},
		func() error { return history.Processes.Read(dir, c.process) },
		func() error { return history.Calls.Read(dir, c.call) },
		func() error { return history.Documents.Read(dir, c.document) },
		func() error {
			return history.Violations.Read(dir, func(v jdsandbox.Violations) error { c.violations = v; return nil })
		},
		func() error { return history.DeadLetters.Read(dir, c.readDeadLetters) },
		func() error { return history.Ledger.Read(dir, c.entry) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if settings != 1 {
		return nil, fmt.Errorf("%w: %s has %d lines, should have 1", history.ErrIncomplete, history.Settings, settings)
	}
	c.arrange()
	return c, nil
}

func (c *run) audit(a history.Audit) error {
	o := c.orders[a.OutboundNo]
	if o == nil {
		o = &order{no: a.OutboundNo, present: map[string]bool{}}
		c.orders[a.OutboundNo] = o
	}
	if len(o.audits) > 0 && o.audits[0].Seller != a.Seller {
		// The warehouse's documents name the number and not our seller.
		return fmt.Errorf("%s is audited by %s and %s: numbers must be unique over a run", a.OutboundNo, o.audits[0].Seller, a.Seller)
	}
	o.audits = append(o.audits, a)
	return nil
}

func (c *run) act(a history.Act) error {
	c.acts++
	if o := c.orders[a.OutboundNo]; o != nil {
		o.acts = append(o.acts, a)
	}
	return nil
}

// readEvents keeps each event once, although it was read again.
func (c *run) readEvents(dir string) error {
	had := map[place]bool{}
	final := false
	err := history.Events.Read(dir, func(e history.Event) error {
		if e.Rollback || e.Final {
			final = e.Final
			return nil
		}
		o := c.orders[e.OutboundNo]
		if e.Name == event.OrderAudited.Name {
			if final && o != nil {
				o.present[e.Hash] = true
			}
		}
		p := place{e.Stream, e.Seq, e.Stored.UnixNano()}
		if final && e.Name == event.OrderAudited.Name && e.OutboundNo == "" {
			c.unreadable = append(c.unreadable, p)
		}
		if had[p] {
			return nil
		}
		had[p] = true
		c.seen++
		if o != nil && e.Name != event.OrderAudited.Name {
			o.events = append(o.events, e)
		}
		return nil
	})
	if err == nil && !final {
		err = fmt.Errorf("%w: %s does not say what the streams had at the end", history.ErrIncomplete, history.Events)
	}
	return err
}

func (c *run) process(p history.Process) error {
	c.processes = append(c.processes, p)
	if p.What == history.Kill {
		c.kills = append(c.kills, p.At)
	}
	return nil
}

func (c *run) call(l history.Call) error {
	if l.Missing != "" {
		c.calls.missing = append(c.calls.missing, l.Missing)
		return nil
	}
	c.calls.n++
	if l.Gone {
		c.calls.gone++
	}
	c.calls.apps[l.App] = append(c.calls.apps[l.App], call{
		at: l.At, took: time.Duration(l.TookMillis) * time.Millisecond, method: l.Method, quota: l.Answer == "refused" && l.Code == "2",
	})
	return nil
}

func (c *run) document(d jdsandbox.Document) error {
	if d.Parent != "" {
		return nil
	}
	c.documents++
	doc := document{no: d.EclpSoNo, status: string(d.Status), number: d.IsvUUID, created: d.Created}
	if o := c.orders[d.IsvUUID]; o != nil {
		o.docs = append(o.docs, doc)
	} else {
		c.foreign = append(c.foreign, doc)
	}
	return nil
}

func (c *run) readDeadLetters(s history.DeadLetter) error {
	if s.Kind == event.Dead {
		c.dead[place{s.Stream, s.OriginSeq, s.First.UnixNano()}] = true
	}
	if o := c.orders[s.OutboundNo]; o != nil {
		o.deadLetters = append(o.deadLetters, s)
	}
	return nil
}

func (c *run) entry(e history.Entry) error {
	if o := c.orders[e.OutboundNo]; o != nil {
		o.entry = &e
	}
	return nil
}

// arrange sorts what came from several goroutines and merges overlapping spans.
func (c *run) arrange() {
	for _, o := range c.orders {
		slices.SortStableFunc(o.audits, func(a, b history.Audit) int { return a.Sent.Compare(b.Sent) })
		slices.SortStableFunc(o.events, func(a, b history.Event) int { return a.Stored.Compare(b.Stored) })
		slices.SortStableFunc(o.docs, func(a, b document) int { return a.created.Compare(b.created) })
	}
	slices.SortStableFunc(c.faults, func(a, b history.Fault) int { return a.Began.Compare(b.Began) })
	var spans []span
	for _, f := range c.faults {
		if f.Outage {
			spans = append(spans, span{f.Began, f.Ended})
		}
		switch f.Kind {
		case history.RedisWiped, history.RedisRestored, history.BrokerRestored:
			c.losses = append(c.losses, f)
		}
	}
	c.outages = join(spans)
	for app := range c.calls.apps {
		slices.SortFunc(c.calls.apps[app], func(a, b call) int { return a.at.Compare(b.at) })
	}
	slices.SortFunc(c.kills, time.Time.Compare)
	for _, kill := range c.kills {
		if c.inFlight(kill) {
			c.calls.killed++
		}
	}
}

// inFlight reports whether a call was under way at the warehouse.
func (c *run) inFlight(now time.Time) bool {
	const longest = time.Minute
	for _, list := range c.calls.apps {
		from, _ := slices.BinarySearchFunc(list, now.Add(-longest), func(x call, t time.Time) int { return x.at.Compare(t) })
		for _, x := range list[from:] {
			if x.at.After(now) {
				break
			}
			if x.at.Add(x.took).After(now) {
				return true
			}
		}
	}
	return false
}

// join merges overlapping spans.
func join(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && !s.from.After(out[n-1].to) {
			if s.to.After(out[n-1].to) {
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// net is the time between two moments without the outages; excused is how much was subtracted.
func (c *run) net(from, to time.Time) (took, excused time.Duration) {
	if !to.After(from) {
		return 0, 0
	}
	for _, s := range c.outages {
		begin, end := latest(s.from, from), s.to
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			excused += end.Sub(begin)
		}
	}
	return to.Sub(from) - excused, excused
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (c *run) faultCounts() map[string]int {
	counts := map[string]int{}
	for _, f := range c.faults {
		counts[f.Kind]++
	}
	return counts
}

// sorted returns the orders by number, so that a report is the same each time.
func (c *run) sorted() []*order {
	return slices.SortedFunc(maps.Values(c.orders), func(a, b *order) int { return cmp.Compare(a.no, b.no) })
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// list joins a few words.
func list(words []string) string { return strings.Join(words, ", ") }
