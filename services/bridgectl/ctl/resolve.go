package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
	"stockbridge/pkg/worker"
	opsv1 "stockbridge/proto/ops/v1"
)

type resolveCmd[N noun] struct {
	Seller string        `arg:"" help:"Seller."`
	No     string        `arg:"" name:"no" help:"The ERP's number."`
	Number string        `required:"" xor:"what" placeholder:"NUMBER" help:"The warehouse has it, under this number of its own."`
	Absent bool          `required:"" xor:"what" help:"The warehouse does not have it."`
	Wait   time.Duration `default:"5s" placeholder:"DURATION" help:"How long to follow what becomes of it (default 5s; 0s: not at all)."`
	Yes    bool          `help:"Do not ask. Without a terminal nothing is asked."`
	because
}

func (resolveCmd[N]) Help() string {
	r := rowFor[N]()
	return fmt.Sprintf(`The warehouse finds no %[1]s by the ERP's number. So one that may have been sent is held (cause unresolved:…) until
a person has looked at the warehouse and says what is there.

With --number the warehouse is asked whether its document is that %[1]s's; if so, it is accepted under that number and followed. With
--absent it is sent, or fails with the reason that the warehouse gave: look when it has been held for a minute,
because a request that was lost on the way may still arrive.

  bridgectl %[2]s resolve acme PO-77 --number EPL4398046516113 --why 'seen in the back office'
  bridgectl %[2]s resolve acme PO-77 --absent`, r.EN, r.Name)
}

func (c resolveCmd[N]) Run(ctx context.Context, a *app) error {
	x := &resolving{
		app: a, row: rowFor[N](), seller: c.Seller, no: c.No, number: c.Number, why: c.Why, wait: c.Wait, sure: c.Yes,
	}
	return x.run(ctx)
}

// resolving is the work of one resolve command.
type resolving struct {
	*app
	*row
	// number is the warehouse's; "" says that it has none.
	seller, no, number, why string
	wait                    time.Duration
	sure                    bool

	b *bus.Bus
	l ledger.Ledger
	// settle is how long after a send a lost one may still arrive.
	settle time.Duration
	held   []bus.DeadLetter
	wh     warehouse.Identified
}

// resolvedJSON is how the document stands afterwards.
type resolvedJSON struct {
	Kind        string      `json:"kind"`
	Seller      string      `json:"seller"`
	No          string      `json:"no"`
	State       string      `json:"state"`
	WarehouseNo string      `json:"warehouse_no,omitempty"`
	Reason      *reasonJSON `json:"reason,omitempty"`
	Released    []uint64    `json:"released"`
	Became      *becameJSON `json:"became,omitempty"`
}

func (x *resolving) run(ctx context.Context) (err error) {
	registry, s, err := x.sellerNamed(ctx, x.seller)
	if err != nil {
		return err
	}
	registry.Close()
	settings, err := worker.FromEnvironment[push.Config]()
	if err != nil {
		return err
	}
	x.settle = settings.SettleFor
	if x.b, err = x.bus(ctx); err != nil {
		return err
	}
	if x.l, err = x.ledger(ctx); err != nil {
		return err
	}
	if err := x.findHeld(ctx); err != nil {
		return err
	}
	now, err := x.l.Clock(ctx)
	if err != nil {
		return err
	}
	entry, err := x.l.Get(ctx, x.Key(x.seller, x.no))
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
		return err
	}
	settled, err := x.allowed(entry, now)
	switch {
	case err != nil:
		return err
	case len(x.held) == 0 && settled:
		return x.report(ctx, nil)
	case len(x.held) == 0:
		return x.notHeld(ctx, entry)
	}
	if x.number != "" && !settled {
		ws, _, done, err := x.calling(ctx, x.l)
		if err != nil {
			return err
		}
		defer done()
		if err := x.verify(ctx, ws, s, entry); err != nil {
			return err
		}
	}
	if err := x.agree(); err != nil {
		return err
	}
	sent, err := x.act(ctx, settled)
	switch {
	case err != nil && hintOf(err) == "":
		return hint(err, "the same command does what is left")
	case err != nil:
		return err
	}
	return x.report(ctx, sent)
}

// findHeld finds the messages that wait for the answer; several when the ERP published the document again.
func (x *resolving) findHeld(ctx context.Context) (err error) {
	x.held, _, err = x.b.DeadLetters(ctx, bus.DeadLetterQuery{
		Kind: event.Held, Seller: x.seller, Cause: seller.CauseUnresolved(x.seller, x.CauseNo(x.no)), WithBody: true,
	})
	return err
}

// allowed reports whether the entry permits the answer at now, and whether it has it already.
func (x *resolving) allowed(e ledger.Entry, now time.Time) (settled bool, err error) {
	name := x.name(x.seller, x.no)
	explain := fmt.Sprintf("bridgectl %s explain %s --seller %s", x.Name, x.no, x.seller)
	switch {
	case e.State == ledger.Intent && now.Sub(e.ChangedAt) < ledger.ClaimFor:
		return false, x.busy()
	case e.State == ledger.Accepted && e.Number == x.number:
		return true, nil
	case e.State == ledger.Accepted:
		return false, hint(fmt.Errorf("%s is accepted: the warehouse has it as %s", name, orDash(e.Number)), "%s", explain)
	case e.State == ledger.Cancelled:
		return false, hint(fmt.Errorf("%s is cancelled: the warehouse had it as %s", name, orDash(e.Number)), "%s", explain)
	case e.State == ledger.Refused && x.number != "":
		return false, hint(fmt.Errorf("%s has failed: %s", name, x.say(e.Reason)), "the ERP knows that it failed: have document %s cancelled at the warehouse", x.number)
	case e.State == ledger.Refused:
		return false, hint(fmt.Errorf("%s has failed: %s", name, x.say(e.Reason)), "nothing is left to do: the ERP knows that it failed")
	case x.number != "":
		return false, nil
	}
	return false, x.mayArrive(e.UnknownSince, now)
}

// mayArrive refuses to take a document for absent as long as what was sent until then may still take effect.
func (x *resolving) mayArrive(then, now time.Time) error {
	wait := then.Add(x.settle).Sub(now)
	if then.IsZero() || wait <= 0 {
		return nil
	}
	wait = wait.Truncate(time.Second) + time.Second
	return hint(fmt.Errorf("%s: what was sent until %s may still arrive: nothing was done", x.name(x.seller, x.no), when(then)), "wait %s, look at the warehouse again, then repeat this command", wait)
}

// notHeld says what to do about a document that does not wait for an answer.
func (x *resolving) notHeld(ctx context.Context, e ledger.Entry) error {
	advice := fmt.Sprintf("bridgectl %s explain %s --seller %s", x.Name, x.no, x.seller)
	err := (pick{Seller: x.seller}).each(ctx, x.app, x.b, "", func(m bus.DeadLetter) error {
		switch name, _ := event.Split(m.Subject); {
		case m.Key != x.no || !x.owns(name):
		case m.Kind == event.Dead:
			advice = fmt.Sprintf("it is a dead letter: bridgectl dlq replay %d, then repeat this command if it is held again", m.Seq)
		default:
			advice = fmt.Sprintf("it waits for something else: bridgectl held show %d", m.Seq)
		}
		return nil
	})
	if err != nil {
		return err
	}
	known := "the ledger does not know it"
	switch {
	case e.State == ledger.Unknown:
		known = "the ledger does not know whether it was sent"
	case e.State == ledger.Intent:
		known = "a worker stopped while it was being sent, and has not taken it up again"
	case !e.Unclaimed():
		known = "the ledger knows that nothing of it was sent"
	}
	return hint(fmt.Errorf("%s does not wait for an answer (no message is held for it): %s", x.name(x.seller, x.no), known), "%s", advice)
}

// verify asks the warehouse whether its document is this one's.
func (x *resolving) verify(ctx context.Context, ws *wiring.Warehouses, s *seller.Seller, e ledger.Entry) error {
	code := e.Warehouse
	if code == "" {
		request, err := x.claim(x.held[0])
		if err != nil {
			return err
		}
		code = request.Warehouse
	}
	wh, err := ws.Documents(s, code, quota.Status)
	if err != nil {
		return err
	}
	if now := string(wh.Identity()); e.Identity != "" && now != "" && e.Identity != now {
		return hint(x.Elsewhere(x.seller, x.no, e.Identity, now), "bridgectl seller apply, with the account that it was sent under")
	}
	d, takes, err := x.look(ctx, wh, x.number)
	switch {
	case err != nil:
		return fmt.Errorf("read document %s of warehouse %s: %w", x.number, code, err)
	case !takes:
		return x.NotTaken(x.seller, code)
	case !d.known:
		return hint(fmt.Errorf("warehouse %s has no document %s", code, x.number), "is the number complete? it is the warehouse's own, not the ERP's")
	case d.broken != nil:
		return fmt.Errorf("document %s of warehouse %s cannot be understood: %w", x.number, code, d.broken)
	case d.no == "":
		return fmt.Errorf("warehouse %s does not say of which %s document %s is: nothing was done", code, x.EN, x.number)
	case d.no != x.no:
		return hint(fmt.Errorf("document %s of warehouse %s is that of %s %s, not of %s: nothing was done", x.number, code, x.EN, d.no, x.no), "look for %s at the warehouse", x.no)
	}
	x.wh = wh
	return nil
}

// agree prints what will be done and asks a person at a terminal.
func (x *resolving) agree() error {
	said := "the warehouse does not have it: it is sent, or fails with the reason that the warehouse gave"
	if x.number != "" {
		said = "the warehouse has it as " + x.number + ": it is accepted"
	}
	x.note("%s resolve: %s: %s", x.Name, x.name(x.seller, x.no), said)
	return x.consent(x.sure, "nothing was done")
}

// act does it, recorded. Each step is safe to repeat.
func (x *resolving) act(ctx context.Context, settled bool) (sent []bus.Sent, err error) {
	release := x.held
	if x.number == "" {
		release = x.held[:1] // two would both be sent; when one is accepted, the others continue by themselves
	}
	answer := "--absent"
	if x.number != "" {
		answer = "--number " + x.number
	}
	items := make([]*opsv1.Item, len(release))
	for i, m := range release {
		items[i] = itemOf(m)
	}
	acting, err := x.app.act(ctx, deed{verb: x.Name + " resolve", seller: x.seller, target: x.no + " " + answer, why: x.why}, len(items), items)
	if err != nil {
		return nil, err
	}
	defer func() { acting.end(ctx, len(sent), len(release)-len(sent), err) }()
	if !settled {
		if err := x.enter(ctx); err != nil {
			return nil, err
		}
	}
	by := bus.By{Who: x.Who, Why: x.why, Release: x.number == ""}
	for _, m := range release {
		s, err := x.b.Send(ctx, m.Seq, by)
		if errors.Is(err, bus.ErrNoDeadLetter) {
			continue // a worker noticed that it is settled
		}
		if err != nil {
			return sent, err
		}
		sent = append(sent, s)
	}
	return sent, nil
}

// enter writes that the warehouse has it into the ledger; that it has not is what the release of the message says. The
// claim keeps it from being sent meanwhile, and shows when the ledger was lost: it does not know what was sent before.
func (x *resolving) enter(ctx context.Context) error {
	request, err := x.claim(x.held[0])
	if err != nil {
		return err
	}
	if x.wh != nil {
		request.Identity = string(x.wh.Identity())
	}
	claimed, err := x.l.Claim(ctx, request)
	if errors.Is(err, ledger.ErrBusy) {
		return x.busy()
	}
	if err != nil {
		return hint(err, "bridgectl %s explain %s --seller %s", x.Name, x.no, x.seller)
	}
	settled, err := x.allowed(claimed.Entry, claimed.At)
	switch {
	case err != nil || settled:
	case x.number == "":
		err = x.mayArrive(claimed.EpochSince, claimed.At)
	default:
		var cleaned []ledger.Cleaned
		if cleaned, err = x.cleaned(x.wh, x.held[0]); err == nil {
			err = x.l.Accept(ctx, request, x.number, cleaned, claimed.At)
		}
		if taken := new(ledger.NumberTaken); errors.As(err, &taken) {
			err = hint(err, "which of the two has it? bridgectl %s explain %s --seller %s", x.Name, x.number, x.seller)
		}
		settled = err == nil
	}
	if settled || claimed.Claim.Owner == "" { // accepted, now or before
		return err
	}
	why := "an operator did not find it at the warehouse"
	if err != nil {
		why = "not resolved"
	}
	return errors.Join(err, x.l.Release(context.WithoutCancel(ctx), claimed.Claim, why))
}

func (x *resolving) busy() error {
	return hint(fmt.Errorf("%s is being handled at this moment: nothing was done", x.name(x.seller, x.no)), "try again in a minute")
}

// report waits for what becomes of the released messages and prints how the document stands.
func (x *resolving) report(ctx context.Context, sent []bus.Sent) error {
	doc := resolvedJSON{Kind: x.Name, Seller: x.seller, No: x.no, Released: []uint64{}}
	for _, s := range sent {
		doc.Released = append(doc.Released, s.No)
	}
	var err error
	if len(sent) > 0 && x.wait > 0 {
		if doc.Became, err = x.became(ctx, x.b, sent, x.wait); err != nil {
			x.note("what became of it is not known: %v", err)
		}
	}
	e, err := x.l.Get(ctx, x.Key(x.seller, x.no))
	if err != nil {
		return err
	}
	doc.State, doc.WarehouseNo = string(e.State), e.Number
	if e.State == ledger.Refused {
		doc.Reason = (*reasonJSON)(&e.Reason)
	}
	return x.show(doc, func(w io.Writer) error {
		text := strings.TrimSpace(fmt.Sprintf("%s: %s %s", x.name(x.seller, x.no), e.State, e.Number))
		if doc.Reason != nil {
			text += ", " + x.say(fault.Reason(*doc.Reason))
		}
		fmt.Fprintf(w, "%s; released %s\n", text, count(len(sent), "message"))
		return x.writeBecame(w, doc.Became)
	})
}
