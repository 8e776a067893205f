package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"golang.org/x/time/rate"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
)

// act is what replay, release and drop have in common.
type act struct {
	pick
	No     []uint64 `arg:"" optional:"" name:"no" help:"Numbers, as ls prints them."`
	All    bool     `help:"Everything, when no other selection is given."`
	Why    string   `placeholder:"TEXT" help:"Why, kept with the message."`
	DryRun bool     `help:"Only tell what would be done."`
}

func (c act) check() error {
	switch {
	case len(c.No) > 0 && (!c.empty() || c.All):
		return misused("give numbers or a selection, not both")
	case len(c.No) == 0 && c.empty() && !c.All:
		return misused("say which: numbers, --seller, --subject, --cause, --code, --consumer, or --all")
	}
	return nil
}

// chosen is what will be acted on, oldest first, without bodies.
func (c act) chosen(ctx context.Context, b *bus.Bus, kind string) ([]bus.Shelved, error) {
	var out []bus.Shelved
	for _, no := range c.No {
		m, err := item(ctx, b, kind, no)
		if err != nil {
			return nil, err
		}
		m.Body = nil
		out = append(out, m)
	}
	if len(c.No) > 0 {
		slices.SortFunc(out, func(x, y bus.Shelved) int { return int(int64(x.Seq) - int64(y.Seq)) })
		return slices.CompactFunc(out, func(x, y bus.Shelved) bool { return x.Seq == y.Seq }), nil
	}
	// Numbers of orders are only wanted for a plan, of which few are printed.
	err := c.each(ctx, b, kind, 0, c.DryRun, func(m bus.Shelved) error {
		m.Header, m.Body = nil, nil
		out = append(out, m)
		return nil
	})
	return out, err
}

// doneJSON is what an act did, or would do.
type doneJSON struct {
	Done   string   `json:"done"`
	DryRun bool     `json:"dry_run,omitempty"`
	Count  int      `json:"count"`
	No     []uint64 `json:"no"`
	// Gone were taken by somebody else in between.
	Gone []uint64 `json:"gone,omitempty"`
}

// maxSample is how many of a plan are printed as a table; JSON always has all.
const maxSample = 20

// run selects, then does f to each in order. verb is what is done, in the past: "replayed".
func (c act) run(ctx context.Context, a *app, kind, verb string, perSecond float64, f func(b *bus.Bus, m bus.Shelved) error) error {
	if err := c.check(); err != nil {
		return err
	}
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	chosen, err := c.chosen(ctx, b, kind)
	if err != nil {
		return err
	}
	done := doneJSON{Done: verb, DryRun: c.DryRun, No: []uint64{}}
	if c.DryRun {
		for _, m := range chosen {
			done.No = append(done.No, m.Seq)
		}
		done.Count = len(chosen)
		return a.show(done, func(w io.Writer) error { return a.plan(w, chosen, verb) })
	}
	pace := rate.NewLimiter(rate.Limit(perSecond), 1)
	if perSecond <= 0 {
		pace = rate.NewLimiter(rate.Inf, 1)
	}
	for _, m := range chosen {
		if err = pace.Wait(ctx); err != nil {
			break
		}
		if err = f(b, m); errors.Is(err, bus.ErrNotShelved) {
			done.Gone = append(done.Gone, m.Seq)
			err = nil
			continue
		}
		if err != nil {
			err = fmt.Errorf("message %d: %w", m.Seq, err)
			break
		}
		done.No = append(done.No, m.Seq)
		done.Count++
	}
	if shown := a.show(done, func(w io.Writer) error {
		fmt.Fprintf(w, "%s %s", verb, count(done.Count, "message"))
		if len(done.Gone) > 0 {
			fmt.Fprintf(w, "; %d were gone already", len(done.Gone))
		}
		_, err := fmt.Fprintln(w)
		return err
	}); shown != nil {
		return shown
	}
	if err != nil {
		return hint(err, "%d of %d were %s; the same command goes on with the rest", done.Count, len(chosen), verb)
	}
	return nil
}

// plan prints what would be done.
func (a *app) plan(w io.Writer, chosen []bus.Shelved, verb string) error {
	fmt.Fprintf(w, "would be %s: %s\n", verb, count(len(chosen), "message"))
	t := table{head: []string{"NO", "SELLER", "NUMBER", "SINCE", "WHY"}}
	for _, m := range chosen[:min(len(chosen), maxSample)] {
		t.add(strconv.FormatUint(m.Seq, 10), orDash(m.Seller), orDash(m.Key), when(m.First), a.why(m))
	}
	if len(chosen) == 0 {
		return nil
	}
	if err := t.write(w, a.columns); err != nil {
		return err
	}
	if more := len(chosen) - maxSample; more > 0 {
		_, err := fmt.Fprintf(w, "and %d more; -o json lists all\n", more)
		return err
	}
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

type dlqReplayCmd struct {
	act
	PerSecond float64 `default:"100" help:"At most so many a second."`
}

func (dlqReplayCmd) Help() string {
	return `The worker takes the message again as if it had just come; first mend what it failed on, or it comes back here. A
replayed order keeps its outbound number: the warehouse is asked before anything is sent again, so replaying is safe.

  bridgectl dlq replay 17 18
  bridgectl dlq replay --code goods.unknown --seller acme --dry-run`
}

func (c dlqReplayCmd) Run(ctx context.Context, a *app) error {
	by := bus.By{Who: a.Who, Why: c.Why}
	return c.run(ctx, a, event.Dead, "replayed", c.PerSecond, func(b *bus.Bus, m bus.Shelved) error { return b.Replay(ctx, m.Seq, by) })
}

// dropCmd throws messages of either kind away.
type dropCmd struct {
	act
	Yes bool `help:"Really."`
}

func (dropCmd) Help() string {
	return `A dropped message is gone: nobody will handle it and it cannot be brought back. The event itself stays in its public
stream until that stream's age is reached. Without --yes nothing is dropped.`
}

func (c dropCmd) drop(ctx context.Context, a *app, kind string) error {
	if !c.Yes && !c.DryRun {
		return usageError{hint(errors.New("drop cannot be undone: nothing was dropped"), "look with --dry-run, then say --yes")}
	}
	by := bus.By{Who: a.Who, Why: c.Why}
	return c.run(ctx, a, kind, "dropped", 0, func(b *bus.Bus, m bus.Shelved) error { return b.Drop(ctx, m.Seq, by) })
}

type dlqDropCmd struct{ dropCmd }

func (c dlqDropCmd) Run(ctx context.Context, a *app) error { return c.drop(ctx, a, event.Dead) }

type heldDropCmd struct{ dropCmd }

func (c heldDropCmd) Run(ctx context.Context, a *app) error { return c.drop(ctx, a, event.Held) }

type heldReleaseCmd struct {
	act
	PerSecond float64 `default:"100" help:"At most so many a second."`
}

func (heldReleaseCmd) Help() string {
	return `What is held goes on by itself when its cause is gone: add the mapping, resume the seller. Releasing by hand lets a
message go past the very cause it waits for, once; another cause holds it again.

  bridgectl held release 21
  bridgectl held release --cause hold:acme --dry-run     all that the ERP or a shop asked to hold`
}

func (c heldReleaseCmd) Run(ctx context.Context, a *app) error {
	by := bus.By{Who: a.Who, Why: c.Why, Release: true}
	return c.run(ctx, a, event.Held, "released", c.PerSecond, func(b *bus.Bus, m bus.Shelved) error { return b.Replay(ctx, m.Seq, by) })
}
