package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	opsv1 "stockbridge/proto/ops/v1"
)

const (
	// actPart is how many messages are recorded at a time, before anything is done to them.
	actPart = 200
	// maxFates is how many replayed messages are looked at afterwards, fatesAtOnce at the same time.
	maxFates    = 10_000
	fatesAtOnce = 8
	// fatePause is between two looks.
	fatePause = 200 * time.Millisecond
	// sayEvery is how often a long command says how far it is.
	sayEvery = 5 * time.Second
)

// act is what replay, release and drop have in common.
type act struct {
	pick
	No     []uint64 `arg:"" optional:"" name:"no" help:"Numbers, as ls prints them."`
	All    bool     `help:"Everything, when no other selection is given."`
	Limit  int      `placeholder:"N" help:"At most so many of the selection, the oldest first."`
	Why    string   `placeholder:"TEXT" help:"Why, recorded and kept with the message."`
	DryRun bool     `help:"Only tell what would be done."`
	Yes    bool     `help:"Do not ask. Without a terminal nothing is asked, except before a drop."`
}

func (c act) check() error {
	switch {
	case len(c.No) > 0 && (!c.empty() || c.All):
		return misused("give numbers or a selection, not both")
	case len(c.No) == 0 && c.empty() && !c.All:
		return misused("say which: numbers, --seller, --order, --text, --since, --until, --subject, --cause, --code, --consumer, or --all")
	case c.Limit < 0 || c.Limit > 0 && len(c.No) > 0:
		return misused("--limit must be 1 at least, and goes with a selection")
	}
	return nil
}

// chosen is what will be acted on: a selection is read twice, once to tell what it is and once to act, so that it may be
// of any size.
type chosen struct {
	act
	kind string
	tally
	// nos are the numbers, oldest first; until is the last of them.
	nos   []uint64
	until uint64
	// first are the first of them, without bodies.
	first []bus.DeadLetter
	// left of the selection is not acted on, because of a limit.
	left int
}

func (c act) choose(ctx context.Context, a *app, b *bus.Bus, kind string) (*chosen, error) {
	x := &chosen{act: c, kind: kind}
	slices.Sort(c.No)
	c.No = slices.Compact(c.No)
	err := c.eachOf(ctx, a, b, kind, func(m bus.DeadLetter) error {
		if c.Limit > 0 && len(x.nos) == c.Limit {
			x.left++
			return nil
		}
		x.nos, x.until = append(x.nos, m.Seq), m.Seq
		if len(x.first) < actPart {
			m, err := named(ctx, b, m)
			if err != nil {
				return err
			}
			m.Header, m.Body = nil, nil
			x.first = append(x.first, m)
			x.add(m)
			return nil
		}
		x.add(m)
		return nil
	})
	return x, err
}

// eachOf tells the messages of the numbers, or of the selection.
func (c act) eachOf(ctx context.Context, a *app, b *bus.Bus, kind string, f func(bus.DeadLetter) error) error {
	for _, no := range c.No {
		m, err := item(ctx, b, kind, no)
		if err == nil {
			err = f(m)
		}
		if err != nil {
			return err
		}
	}
	if len(c.No) > 0 {
		return nil
	}
	return c.each(ctx, a, b, kind, f)
}

// each tells what was chosen once more. What is gone by now is left out, and what came meanwhile.
func (x *chosen) each(ctx context.Context, b *bus.Bus, f func(bus.DeadLetter) error) error {
	if len(x.nos) == len(x.first) {
		for _, m := range x.first {
			if err := f(m); err != nil {
				return err
			}
		}
		return nil
	}
	enough := errors.New("enough")
	err := x.paged(ctx, b, x.kind, x.nos[0]-1, x.Order != "", func(m bus.DeadLetter) error {
		if m.Seq > x.until {
			return enough
		}
		if _, ok := slices.BinarySearch(x.nos, m.Seq); !ok {
			return nil
		}
		m, err := named(ctx, b, m)
		if errors.Is(err, bus.ErrNoDeadLetter) {
			return nil
		}
		if err != nil {
			return err
		}
		m.Header, m.Body = nil, nil
		return f(m)
	})
	if errors.Is(err, enough) {
		return nil
	}
	return err
}

// doneJSON is what an act did, or would do.
type doneJSON struct {
	Done   string      `json:"done"`
	DryRun bool        `json:"dry_run,omitempty"`
	Count  int         `json:"count"`
	No     []uint64    `json:"no"`
	Groups []groupJSON `json:"groups"`
	// Gone were taken by somebody else in between.
	Gone []uint64 `json:"gone,omitempty"`
	// Left of the selection was not acted on, because of --limit.
	Left   int         `json:"left,omitempty"`
	Became *becameJSON `json:"became,omitempty"`
}

// becameJSON is what became of replayed messages so far.
type becameJSON struct {
	// Through: the worker is done with it; Held and Dead: it came back.
	Through int `json:"through"`
	Held    int `json:"held_again"`
	Dead    int `json:"dead_again"`
	// OnTheWay: the worker has not come to it, or tries it again later. Unknown were not looked at.
	OnTheWay int `json:"on_the_way"`
	Unknown  int `json:"unknown,omitempty"`
}

// maxSample is how many of a plan are printed as a table; JSON always has all.
const maxSample = 20

// doing is how an act is done.
type doing struct {
	// command is what is recorded: "dlq replay"; verb in the past: "replayed".
	command, verb string
	perSecond     float64
	// sure: it cannot be undone, so it needs a yes without a terminal too.
	sure bool
	f    func(ctx context.Context, b *bus.Bus, no uint64) (bus.Sent, error)
	// wait is how long to look at what became of them.
	wait time.Duration
}

// run says what is chosen, asks, then does it to each in order and says what became of them.
func (c act) run(ctx context.Context, a *app, kind string, how doing) error {
	if err := c.check(); err != nil {
		return err
	}
	if how.sure && !c.Yes && !c.DryRun && !a.Terminal {
		return usageError{hint(fmt.Errorf("%s cannot be undone: nothing was %s", strings.Fields(how.command)[1], how.verb), "look with --dry-run, then say --yes")}
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	x, err := c.choose(ctx, a, b, kind)
	if err != nil {
		return err
	}
	done := doneJSON{Done: how.verb, DryRun: c.DryRun, No: []uint64{}, Groups: x.groupsJSON(), Left: x.left}
	if x.total == 0 {
		if err := c.mistyped(ctx, a, b); err != nil {
			return err
		}
	}
	if c.DryRun {
		done.No, done.Count = append(done.No, x.nos...), x.total
		return a.show(done, func(w io.Writer) error { return a.plan(w, x, how.verb) })
	}
	if x.total > 0 && (len(c.No) == 0 || how.sure && !c.Yes) {
		if err := a.confirm(x, how, c.Yes); err != nil {
			return err
		}
	}
	var sent []bus.Sent
	if x.total > 0 {
		d := deed{verb: how.command, target: c.words(), why: c.Why}
		done.No, done.Gone, err = a.actOn(ctx, d, x.total, x.first, how.perSecond, func(f func(bus.DeadLetter) error) error { return x.each(ctx, b, f) },
			func(m bus.DeadLetter) error {
				s, err := how.f(ctx, b, m.Seq)
				if err == nil && s.No != 0 && len(sent) < maxFates {
					sent = append(sent, s)
				}
				return err
			})
	}
	done.Count = len(done.No)
	if err == nil && len(sent) > 0 && how.wait > 0 {
		var unsure error
		if done.Became, unsure = a.became(ctx, b, sent, how.wait); unsure != nil {
			a.note("what became of them is not known: %v", unsure)
		} else {
			done.Became.Unknown = done.Count - len(sent)
		}
	}
	if shown := a.show(done, func(w io.Writer) error { return a.writeDone(w, done) }); shown != nil {
		return shown
	}
	if err != nil {
		return hint(err, "%d of %d were %s; the same command goes on with the rest", done.Count, x.total, how.verb)
	}
	return nil
}

// actOn records an act on messages, part by part before each is done, and does f to each message that each tells. Those
// that are gone are passed over.
func (a *app) actOn(ctx context.Context, d deed, total int, first []bus.DeadLetter, perSecond float64, each func(func(bus.DeadLetter) error) error, f func(bus.DeadLetter) error) (done, gone []uint64, err error) {
	done = []uint64{}
	pace := rate.NewLimiter(rate.Inf, 1)
	if perSecond > 0 {
		pace = rate.NewLimiter(rate.Limit(perSecond), 1)
	}
	parts := total > len(first)
	var items []*opsv1.Item
	if !parts {
		items = itemsOf(first)
	}
	x, err := a.act(ctx, d, total, items)
	if err != nil {
		return done, nil, err
	}
	said := a.now()
	part := func(some []bus.DeadLetter) error {
		if parts {
			if err := x.next(ctx, itemsOf(some)); err != nil {
				return err
			}
		}
		before, goneBefore := len(done), len(gone)
		var failed error
		for _, m := range some {
			if failed = pace.Wait(ctx); failed != nil {
				break
			}
			if err := f(m); errors.Is(err, bus.ErrNoDeadLetter) {
				gone = append(gone, m.Seq)
			} else if err != nil {
				failed = fmt.Errorf("message %d: %w", m.Seq, err)
				break
			} else {
				done = append(done, m.Seq)
			}
			if now := a.now(); now.Sub(said) > sayEvery {
				said = now
				a.note("%d of %d", len(done)+len(gone), total)
			}
		}
		if parts || failed == nil {
			x.endPart(ctx, len(done)-before, gone[goneBefore:], failed)
		}
		return failed
	}
	var some []bus.DeadLetter
	err = each(func(m bus.DeadLetter) error {
		if some = append(some, m); len(some) < actPart {
			return nil
		}
		full := some
		some = nil
		return part(full)
	})
	if err == nil && len(some) > 0 {
		err = part(some)
	}
	if parts || err != nil {
		x.end(ctx, len(done), len(gone), err)
	}
	return done, gone, err
}

func itemsOf(messages []bus.DeadLetter) []*opsv1.Item {
	items := make([]*opsv1.Item, len(messages))
	for i, m := range messages {
		items[i] = itemOf(m)
	}
	return items
}

// confirm says how many messages will be acted on and which, and asks a person at a terminal.
func (a *app) confirm(x *chosen, how doing, sure bool) error {
	a.note("%s: %s", how.command, count(x.total, "message"))
	for _, g := range x.groupsJSON()[:min(len(x.groups), maxSample)] {
		a.note("  %d %s: %s", g.Count, g.what(), strings.Join(g.Examples, ", "))
	}
	if more := len(x.groups) - maxSample; more > 0 {
		a.note("  and %d more causes", more)
	}
	if x.left > 0 {
		a.note("  %d more of the selection are left, because of --limit", x.left)
	}
	if sure || !a.Terminal {
		return nil
	}
	fmt.Fprint(a.Err, a.pick("继续？[y/N] ", "go on? [y/N] "))
	var answer string
	_, _ = fmt.Fscanln(a.In, &answer)
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return fmt.Errorf("not confirmed: nothing was %s", how.verb)
	}
	return nil
}

// plan prints what would be done.
func (a *app) plan(w io.Writer, x *chosen, verb string) error {
	fmt.Fprintf(w, "would be %s: %s\n", verb, count(x.total, "message"))
	if x.total == 0 {
		return nil
	}
	if len(x.groups) > 1 {
		if err := a.writeGroups(w, x.tally); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	t := table{head: []string{"NO", "SELLER", "NUMBER", "SINCE", "WHY"}}
	for _, m := range x.first[:min(len(x.first), maxSample)] {
		t.add(strconv.FormatUint(m.Seq, 10), orDash(m.Seller), orDash(m.Key), when(m.First), a.why(m))
	}
	if err := t.write(w, a.columns); err != nil {
		return err
	}
	if more := x.total - maxSample; more > 0 {
		fmt.Fprintf(w, "and %d more; -o json lists all\n", more)
	}
	if x.left > 0 {
		fmt.Fprintf(w, "%d more of the selection are left, because of --limit\n", x.left)
	}
	return nil
}

func (a *app) writeDone(w io.Writer, done doneJSON) error {
	fmt.Fprintf(w, "%s %s", done.Done, count(done.Count, "message"))
	if len(done.Gone) > 0 {
		fmt.Fprintf(w, "; %d were gone already", len(done.Gone))
	}
	if done.Left > 0 {
		fmt.Fprintf(w, "; %d of the selection are left", done.Left)
	}
	fmt.Fprintln(w)
	b := done.Became
	if b == nil {
		return nil
	}
	fmt.Fprintf(w, "went through %d, held again %d, dead again %d, on the way %d", b.Through, b.Held, b.Dead, b.OnTheWay)
	if b.Unknown > 0 {
		fmt.Fprintf(w, ", not looked at %d", b.Unknown)
	}
	_, err := fmt.Fprintln(w)
	if b.OnTheWay+b.Unknown > 0 {
		a.note("later: bridgectl dlq ls --since %s, bridgectl held ls --since %[1]s", a.now().Add(-time.Minute).Format(time.RFC3339))
	}
	return err
}

// became looks at replayed messages until each is done or came back, or for as long as limit.
func (a *app) became(ctx context.Context, b *bus.Bus, sent []bus.Sent, limit time.Duration) (*becameJSON, error) {
	out := &becameJSON{}
	for until := a.now().Add(limit); ; {
		fates := make([]bus.Fate, len(sent))
		group, looking := errgroup.WithContext(ctx)
		group.SetLimit(fatesAtOnce)
		for i, s := range sent {
			group.Go(func() (err error) {
				fates[i], err = b.Fate(looking, s)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		var open []bus.Sent
		for i, fate := range fates {
			switch fate {
			case bus.Done:
				out.Through++
			case bus.HeldAgain:
				out.Held++
			case bus.DeadLetteredAgain:
				out.Dead++
			case bus.Waiting:
				out.OnTheWay++
			default:
				open = append(open, sent[i])
			}
		}
		if len(open) == 0 || !a.now().Before(until) {
			out.OnTheWay += len(open)
			return out, nil
		}
		sent = open
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(fatePause):
		}
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sending is what replay and release have in common.
type sending struct {
	PerSecond float64       `default:"100" help:"At most so many a second."`
	Wait      time.Duration `default:"5s" placeholder:"DURATION" help:"How long to look at what becomes of them (default 5s; 0s does not)."`
}

func (s sending) doing(command, verb string, by bus.By) doing {
	return doing{command: command, verb: verb, perSecond: s.PerSecond, wait: s.Wait, f: func(ctx context.Context, b *bus.Bus, no uint64) (bus.Sent, error) {
		return b.Send(ctx, no, by)
	}}
}

type dlqReplayCmd struct {
	act
	sending
}

func (dlqReplayCmd) Help() string {
	return `The worker takes the message again as if it had just come; first mend what it failed on, or it comes back here. A
replayed order keeps its outbound number: the warehouse is asked before anything is sent again, so replaying is safe. It says
how many and which before it acts, asks when you sit at a terminal, and says what became of them.

  bridgectl dlq replay 17 18
  bridgectl dlq replay --code goods.unknown --seller acme --dry-run
  bridgectl dlq replay --code goods.unknown --limit 10 --why 'try some first'`
}

func (c dlqReplayCmd) Run(ctx context.Context, a *app) error {
	return c.run(ctx, a, event.Dead, c.doing("dlq replay", "replayed", bus.By{Who: a.Who, Why: c.Why}))
}

// dropCmd throws messages of either kind away.
type dropCmd struct{ act }

func (dropCmd) Help() string {
	return `A dropped message is gone: nobody will handle it and it cannot be brought back. The event itself stays in its public
stream until that stream's age is reached. It asks at a terminal; elsewhere nothing is dropped without --yes.`
}

func (c dropCmd) drop(ctx context.Context, a *app, kind string) error {
	by := bus.By{Who: a.Who, Why: c.Why}
	return c.run(ctx, a, kind, doing{command: kind + " drop", verb: "dropped", sure: true, f: func(ctx context.Context, b *bus.Bus, no uint64) (bus.Sent, error) {
		return bus.Sent{}, b.Drop(ctx, no, by)
	}})
}

type dlqDropCmd struct{ dropCmd }

func (c dlqDropCmd) Run(ctx context.Context, a *app) error { return c.drop(ctx, a, event.Dead) }

type heldDropCmd struct{ dropCmd }

func (c heldDropCmd) Run(ctx context.Context, a *app) error { return c.drop(ctx, a, event.Held) }

type heldReleaseCmd struct {
	act
	sending
}

func (heldReleaseCmd) Help() string {
	return `What is held goes on by itself when its cause is gone: add the mapping, resume the seller. Releasing by hand lets a
message go past the very cause it waits for, once; another cause holds it again. It says how many and which before it acts,
asks when you sit at a terminal, and says what became of them.

  bridgectl held release 21
  bridgectl held release --cause hold:acme --dry-run     all that the ERP or a shop asked to hold`
}

func (c heldReleaseCmd) Run(ctx context.Context, a *app) error {
	return c.run(ctx, a, event.Held, c.doing("held release", "released", bus.By{Who: a.Who, Why: c.Why, Release: true}))
}
