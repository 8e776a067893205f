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
	// maxFollowed is how many replayed messages are checked afterwards, followAtOnce how many concurrently.
	maxFollowed  = 10_000
	followAtOnce = 8
	// followPause is the pause between two checks.
	followPause = 200 * time.Millisecond
	// noteEvery is how often a long command reports progress.
	noteEvery = 5 * time.Second
)

// act holds the flags that replay, release and drop share.
type act struct {
	pick
	No     []uint64 `arg:"" optional:"" name:"no" help:"Numbers, as ls prints them."`
	All    bool     `help:"Everything, when no other selection is given."`
	Limit  int      `placeholder:"N" help:"At most so many of the selection, the oldest first."`
	Why    string   `placeholder:"TEXT" help:"Why, recorded and kept with the message."`
	DryRun bool     `help:"Only print what would be done."`
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

// chosen is the selection to act on. It is read twice, once to describe it and once to act, so its size is not limited
// by memory.
type chosen struct {
	act
	kind string
	tally
	// nos are the numbers, oldest first; until is the last of them. total counts the messages of a group.
	nos   []uint64
	until uint64
	// first holds the first few messages, without bodies.
	first []bus.DeadLetter
	// left counts selected messages that --limit excludes.
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

// eachOf calls f for the messages with the given numbers, or for the selection.
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

// eachAgain calls f again for each chosen message that still exists; messages that arrived since are skipped.
func (x *chosen) eachAgain(ctx context.Context, b *bus.Bus, f func(bus.DeadLetter) error) error {
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
	// Gone are messages that somebody else took in between.
	Gone []uint64 `json:"gone,omitempty"`
	// Missing counts messages of groups that their stream no longer has: erased, or older than it keeps.
	Missing int `json:"missing,omitempty"`
	// Left counts selected messages that --limit excluded.
	Left   int         `json:"left,omitempty"`
	Became *becameJSON `json:"became,omitempty"`
}

// becameJSON is the state of replayed messages so far.
type becameJSON struct {
	// Through: the worker finished it; Held and Dead: it was held or dead-lettered again.
	Through int `json:"through"`
	Held    int `json:"held_again"`
	Dead    int `json:"dead_again"`
	// OnTheWay: the worker has not reached it yet, or will retry it. Unknown were not checked.
	OnTheWay int `json:"on_the_way"`
	Unknown  int `json:"unknown,omitempty"`
}

// maxSample is how many rows of a plan are printed as a table; JSON lists all.
const maxSample = 20

// doing describes how an act is carried out.
type doing struct {
	// command is the text that is recorded: "dlq replay"; verb is the past tense: "replayed".
	command, verb string
	perSecond     float64
	// sure: the act cannot be undone, so it needs --yes even without a terminal.
	sure bool
	f    func(ctx context.Context, b *bus.Bus, no uint64) (bus.Sent, error)
	// group is f for a group, message by message; nil: f does all of it.
	group func(ctx context.Context, b *bus.Bus, no uint64, pace func(context.Context) error, sent func(bus.Sent)) (n, gone int, err error)
	// wait is how long to follow the messages afterwards.
	wait time.Duration
}

// run shows what is chosen, asks for confirmation, acts on each message in order and reports what became of them.
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
	follow := func(s bus.Sent) {
		if s.No != 0 && len(sent) < maxFollowed {
			sent = append(sent, s)
		}
	}
	if x.total > 0 {
		d := deed{verb: how.command, target: c.words(), why: c.Why}
		done.No, done.Gone, err = a.actOn(ctx, d, x.total, x.first, how.perSecond, func(f func(bus.DeadLetter) error) error { return x.eachAgain(ctx, b, f) },
			func(m bus.DeadLetter) error {
				if m.Group != nil && how.group != nil {
					n, missing, err := a.actOnGroup(ctx, b, m, how, follow)
					done.Count, done.Missing = done.Count+n, done.Missing+missing
					return err
				}
				s, err := how.f(ctx, b, m.Seq)
				if err == nil {
					follow(s)
					done.Count += m.Count()
				}
				return err
			})
	}
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
		return hint(err, "%d of %d were %s; the same command continues with the rest", done.Count, x.total, how.verb)
	}
	return nil
}

// actOnGroup acts on all messages of a group, paced like others.
func (a *app) actOnGroup(ctx context.Context, b *bus.Bus, m bus.DeadLetter, how doing, follow func(bus.Sent)) (n, missing int, err error) {
	pace := rate.NewLimiter(rate.Inf, 1)
	if how.perSecond > 0 {
		pace = rate.NewLimiter(rate.Limit(how.perSecond), 1)
	}
	said, did := a.now(), 0
	return how.group(ctx, b, m.Seq, func(ctx context.Context) error {
		if now := a.now(); now.Sub(said) > noteEvery {
			said = now
			a.note("%d of %d in group %d", did, m.Count(), m.Seq)
		}
		did++
		return pace.Wait(ctx)
	}, follow)
}

// actOn records an act on messages in parts, each part before it is done, and calls f for each message that each
// yields. Messages that no longer exist are skipped.
func (a *app) actOn(ctx context.Context, d deed, total int, first []bus.DeadLetter, perSecond float64, each func(func(bus.DeadLetter) error) error, f func(bus.DeadLetter) error) (done, gone []uint64, err error) {
	done = []uint64{}
	acted := 0 // messages, those of groups counted one by one
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
		before, goneBefore := acted, len(gone)
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
				acted += m.Count()
			}
			if now := a.now(); now.Sub(said) > noteEvery {
				said = now
				a.note("%d of %d", acted+len(gone), total)
			}
		}
		if parts || failed == nil {
			x.endPart(ctx, acted-before, gone[goneBefore:], failed)
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
		x.end(ctx, acted, len(gone), err)
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

// confirm prints how many messages will be acted on and which, and asks a person at a terminal.
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
	return a.consent(sure, "nothing was "+how.verb)
}

// consent asks a person at a terminal, unless sure; without says what it means when the answer is not yes.
func (a *app) consent(sure bool, without string) error {
	if sure || !a.Terminal {
		return nil
	}
	fmt.Fprint(a.Err, a.pick("继续？[y/N] ", "continue? [y/N] "))
	var answer string
	_, _ = fmt.Fscanln(a.In, &answer)
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errors.New("not confirmed: " + without)
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
		t.add(strconv.FormatUint(m.Seq, 10), orDash(m.Seller), numberOf(m), when(m.First), a.why(m))
	}
	if err := t.write(w, a.columns); err != nil {
		return err
	}
	if more := len(x.nos) - maxSample; more > 0 {
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
	if done.Missing > 0 {
		fmt.Fprintf(w, "; %d are no longer in their stream", done.Missing)
	}
	if done.Left > 0 {
		fmt.Fprintf(w, "; %d of the selection are left", done.Left)
	}
	fmt.Fprintln(w)
	return a.writeBecame(w, done.Became)
}

// writeBecame prints what became of messages that were sent again; nil is not known.
func (a *app) writeBecame(w io.Writer, b *becameJSON) error {
	if b == nil {
		return nil
	}
	fmt.Fprintf(w, "done %d, held again %d, dead-lettered again %d, on the way %d", b.Through, b.Held, b.Dead, b.OnTheWay)
	if b.Unknown > 0 {
		fmt.Fprintf(w, ", not checked %d", b.Unknown)
	}
	_, err := fmt.Fprintln(w)
	if b.OnTheWay+b.Unknown > 0 {
		a.note("later: bridgectl dlq ls --since %s, bridgectl held ls --since %[1]s", a.now().Add(-time.Minute).Format(time.RFC3339))
	}
	return err
}

// became follows replayed messages until each is done or dead-lettered again, for at most limit.
func (a *app) became(ctx context.Context, b *bus.Bus, sent []bus.Sent, limit time.Duration) (*becameJSON, error) {
	out := &becameJSON{}
	for until := a.now().Add(limit); ; {
		fates := make([]bus.Fate, len(sent))
		group, looking := errgroup.WithContext(ctx)
		group.SetLimit(followAtOnce)
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
		case <-time.After(followPause):
		}
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sending holds the flags that replay and release share.
type sending struct {
	PerSecond float64       `default:"100" help:"At most this many a second."`
	Wait      time.Duration `default:"5s" placeholder:"DURATION" help:"How long to follow what becomes of them (default 5s; 0s: not at all)."`
}

func (s sending) doing(command, verb string, by bus.By) doing {
	return doing{command: command, verb: verb, perSecond: s.PerSecond, wait: s.Wait, f: func(ctx context.Context, b *bus.Bus, no uint64) (bus.Sent, error) {
		return b.Send(ctx, no, by)
	}, group: func(ctx context.Context, b *bus.Bus, no uint64, pace func(context.Context) error, sent func(bus.Sent)) (int, int, error) {
		return b.ReplayGroup(ctx, no, by, pace, sent)
	}}
}

type dlqReplayCmd struct {
	act
	sending
}

func (dlqReplayCmd) Help() string {
	return `The worker handles the message again as if it had just come; first fix what it failed on, or it fails again. A
replayed order keeps its outbound number: the warehouse is asked before anything is sent again, so replaying is safe. It prints
how many and which before it acts, asks at a terminal, and reports what became of them. Of a group it replays every message, from
the stream that keeps them, and goes on where it was when it is interrupted and called again.

  bridgectl dlq replay 17 18
  bridgectl dlq replay --code goods.unknown --seller acme --dry-run
  bridgectl dlq replay --code goods.unknown --limit 10 --why 'try some first'`
}

func (c dlqReplayCmd) Run(ctx context.Context, a *app) error {
	return c.run(ctx, a, event.Dead, c.doing("dlq replay", "replayed", bus.By{Who: a.Who, Why: c.Why}))
}

// dropCmd discards messages of either kind.
type dropCmd struct{ act }

func (dropCmd) Help() string {
	return `A dropped message is gone: it will not be handled and cannot be restored. The event itself stays in its public
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
	return `A held message continues automatically when its cause is gone: add the mapping, resume the seller. Releasing by hand lets a
message pass the cause it waits for, once; another cause holds it again. It prints how many and which before it acts,
asks at a terminal, and reports what became of them.

  bridgectl held release 21
  bridgectl held release --cause hold:acme --dry-run     all that the ERP or a shop asked to hold`
}

func (c heldReleaseCmd) Run(ctx context.Context, a *app) error {
	return c.run(ctx, a, event.Held, c.doing("held release", "released", bus.By{Who: a.Who, Why: c.Why, Release: true}))
}
