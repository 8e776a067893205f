package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/personal"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/bridgectl/stack"
)

type sellerCmd struct {
	Apply     sellerApplyCmd     `cmd:"" help:"Set a seller up, or change it, from a file."`
	Ls        sellerLsCmd        `cmd:"" help:"List sellers and whether they run."`
	Show      sellerShowCmd      `cmd:"" help:"Print a seller's set-up as apply reads it."`
	Pause     sellerPauseCmd     `cmd:"" help:"Pause a seller: its orders wait."`
	Resume    sellerResumeCmd    `cmd:"" help:"Resume a seller."`
	Doctor    sellerDoctorCmd    `cmd:"" help:"Try what orders need and say what to fix; ends 1 when something is wrong."`
	Authorize sellerAuthorizeCmd `cmd:"" help:"Have the merchant consent, and keep the tokens that come of it."`
	Trial     sellerTrialCmd     `cmd:"" help:"List the orders of a trial and which are still open."`
	Shadow    sellerShadowCmd    `cmd:"" help:"Report how orders in shadow mode differ from what the ERP's own program sent."`
}

// registry opens all sellers' set-ups.
func (a *app) registry(ctx context.Context) (*seller.Registry, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	bucket, err := a.setupBucket(ctx)
	if err != nil {
		return nil, err
	}
	return seller.Open(ctx, bucket, zerolog.Nop())
}

// setups opens single sellers' set-ups.
func (a *app) setups(ctx context.Context) (seller.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	bucket, err := a.setupBucket(ctx)
	return seller.NewStore(bucket), err
}

func (a *app) setupBucket(ctx context.Context) (*bus.Bucket, error) {
	b, err := a.bus(ctx)
	if err != nil {
		return nil, err
	}
	return b.Bucket(ctx, bus.BucketSetup)
}

// sellerNamed opens the registry and finds a seller in it.
func (a *app) sellerNamed(ctx context.Context, name string) (*seller.Registry, *seller.Seller, error) {
	registry, err := a.registry(ctx)
	if err != nil {
		return nil, nil, err
	}
	s, ok := registry.Get(name)
	if !ok {
		registry.Close()
		return nil, nil, hint(seller.Unknown(name), "bridgectl seller ls")
	}
	return registry, s, nil
}

// input reads a file; - is standard input.
func (a *app) input(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(a.In)
	}
	return os.ReadFile(path)
}

type sellerApplyCmd struct {
	File    string `name:"file" short:"f" required:"" type:"path" placeholder:"FILE" help:"YAML or JSON; - reads standard input."`
	Despite string `placeholder:"WHY" help:"Apply although open documents depend on what changes; the reason is kept with the act."`
	because
}

func (sellerApplyCmd) Help() string {
	return `The file holds one seller and no secrets, only where the workers find them. All its faults are reported at once. What waited
for something that the set-up now has continues automatically.

An account, a warehouse or a shop cannot change or be removed while open documents depend on it: orders that the warehouse has and that
are followed, and those whose answer was lost. They are named, and nothing is applied without --despite.`
}

func (c sellerApplyCmd) Run(ctx context.Context, a *app) error {
	text, err := a.input(c.File)
	if err != nil {
		return err
	}
	setup, err := seller.Parse(text)
	if err != nil {
		return hint(err, "docs/getting-started.md has an example, proto/seller/v1/seller.proto every key; nothing was applied")
	}
	setups, err := a.setups(ctx)
	if err != nil {
		return err
	}
	now, known, err := setups.Get(ctx, setup.Name)
	if err != nil {
		return err
	}
	did, version, target := "created", uint64(0), ""
	if known {
		did, version = "changed", now.Version
		if proto.Equal(now.Setup, setup) {
			did = "unchanged"
		} else if despite, err := c.mayLeave(ctx, a, now, seller.New(setup, nil)); err != nil {
			return err
		} else if despite != "" {
			target += ", " + despite
		}
	}
	if err := a.do(ctx, deed{"seller apply", setup.Name, fmt.Sprintf("%s, version before %d%s", did, version, target), cmp.Or(c.Despite, c.Why)}, func() (int, error) {
		if did != "unchanged" {
			if version, err = setups.Put(ctx, setup, version); errors.Is(err, seller.ErrChanged) {
				return 0, hint(err, "see what the other applied with `bridgectl seller show %s`, then apply again", setup.Name)
			}
			if err != nil {
				return 0, err
			}
		}
		b, err := a.bus(ctx)
		if err != nil {
			return 0, err
		}
		if err := stack.Follow(ctx, b, setup, version, nil); err != nil {
			return 0, hint(err, "the set-up is stored, but not all of its events were published: apply again")
		}
		return 1, nil
	}); err != nil {
		return err
	}
	doc := struct {
		Seller   string        `json:"seller"`
		Did      string        `json:"did"`
		Version  uint64        `json:"version"`
		Warnings []warningJSON `json:"warnings,omitempty"`
	}{Seller: setup.Name, Did: did, Version: version}
	warnings, err := c.warnings(a, setup)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		doc.Warnings = append(doc.Warnings, warningJSON{w.Code, w.Field, w.ZH, w.EN})
		a.note("warning: %s", a.say(w))
	}
	return a.show(doc, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "seller %s %s: %s, %s, %s\n", setup.Name, did, count(len(setup.Accounts), "account"),
			count(len(setup.Warehouses), "warehouse"), count(len(setup.Shops), "shop"))
		return err
	})
}

// warnings are settings that are probably not intended, and that workers refuse unless their own settings allow them.
func (sellerApplyCmd) warnings(a *app, setup *sellerv1.Setup) ([]fault.Reason, error) {
	trust, err := a.trust()
	if err != nil {
		return nil, err
	}
	warnings := seller.Warnings(setup)
	for _, account := range setup.Accounts {
		if err := trust.Account(account); err != nil {
			warnings = append(warnings, fault.ReasonOf(err, "setup.secret"))
		}
	}
	return warnings, nil
}

// warningJSON is a warning about a set-up that was applied all the same.
type warningJSON struct {
	Code  string `json:"code"`
	Field string `json:"field"`
	ZH    string `json:"zh"`
	EN    string `json:"en"`
}

type pauseJSON struct {
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	ProbeAt time.Time `json:"probe_at,omitzero"`
}

func pauseOf(s *seller.Seller) *pauseJSON {
	if s.Pause == nil {
		return nil
	}
	return &pauseJSON{By: pausedBy(s.Pause.By), Reason: personal.Hide(s.Pause.Reason), At: s.Pause.At.UTC(), ProbeAt: s.Pause.ProbeAt.UTC()}
}

func pausedBy(by sellerv1.Paused_By) string {
	return strings.ToLower(strings.TrimPrefix(by.String(), "BY_"))
}

// state describes a seller in a line.
func state(s *seller.Seller) string {
	if p := s.Pause; p != nil {
		text := fmt.Sprintf("paused by %s since %s: %s", pausedBy(p.By), when(p.At), p.Reason)
		if !p.ProbeAt.IsZero() {
			text += ", tried again at " + when(p.ProbeAt)
		}
		return text
	}
	if now := time.Now(); s.InShadow(now) {
		if until := s.ShadowUntil(); !until.IsZero() {
			return "in shadow: nothing is sent until " + when(until)
		}
		return "in shadow: nothing is sent"
	}
	if first, on := s.OnTrial(); on {
		return fmt.Sprintf("on trial: %d listed and the first %d orders go", len(s.Setup.Trial.Orders), first)
	}
	return "runs"
}

type sellerLsCmd struct{}

func (sellerLsCmd) Run(ctx context.Context, a *app) error {
	registry, err := a.registry(ctx)
	if err != nil {
		return err
	}
	defer registry.Close()
	tokens, err := a.tokens(ctx, token.Keys{}) // to list them, not to open them
	if err != nil {
		return err
	}
	defer tokens.Close()
	type sellerJSON struct {
		Seller     string     `json:"seller"`
		Title      string     `json:"title,omitempty"`
		Accounts   int        `json:"accounts"`
		Warehouses int        `json:"warehouses"`
		Shops      int        `json:"shops"`
		Trial      bool       `json:"trial"`
		Shadow     bool       `json:"shadow"`
		Pause      *pauseJSON `json:"pause,omitempty"`
		// Tokens are those that Stockbridge refreshes.
		Tokens []tokenJSON `json:"tokens,omitempty"`
	}
	doc := []sellerJSON{}
	t := table{head: []string{"SELLER", "TITLE", "ACCOUNTS", "WAREHOUSES", "SHOPS", "TOKEN", "STATE"}}
	for _, s := range registry.All() {
		m := s.Setup
		_, trial := s.OnTrial()
		list, states := tokensOf(s, tokens)
		doc = append(doc, sellerJSON{m.Name, m.Title, len(m.Accounts), len(m.Warehouses), len(m.Shops), trial, s.InShadow(a.now()), pauseOf(s), list})
		t.add(m.Name, orDash(m.Title), strconv.Itoa(len(m.Accounts)), strconv.Itoa(len(m.Warehouses)), strconv.Itoa(len(m.Shops)), orDash(tokenLine(list, states, a.now())), state(s))
	}
	return a.show(doc, func(w io.Writer) error {
		if len(doc) == 0 {
			_, err := fmt.Fprintln(w, "no sellers: bridgectl seller apply -f FILE")
			return err
		}
		return t.write(w, a.columns)
	})
}

type sellerShowCmd struct {
	Name string `arg:"" help:"Seller."`
}

func (c sellerShowCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	doc := struct {
		Setup   json.RawMessage `json:"setup"`
		Version uint64          `json:"version"`
		Pause   *pauseJSON      `json:"pause,omitempty"`
	}{body(s.Setup, true), s.Version, pauseOf(s)}
	return a.show(doc, func(w io.Writer) error {
		text, err := seller.Render(s.Setup)
		if err != nil {
			return err
		}
		if s.Pause != nil {
			fmt.Fprintf(w, "# %s\n", clean(state(s)))
		}
		_, err = w.Write(text)
		return err
	})
}

type sellerPauseCmd struct {
	Name   string `arg:"" help:"Seller."`
	Reason string `required:"" placeholder:"TEXT" help:"Shown as the reason why orders wait."`
}

func (sellerPauseCmd) Help() string {
	return "A paused seller's orders are held, not lost and not tried. Those that the warehouse has already are still followed."
}

func (c sellerPauseCmd) Run(ctx context.Context, a *app) error {
	registry, _, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	pause := seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: c.Reason + " (" + a.Who + ")", At: a.now()}
	return a.do(ctx, deed{"seller pause", c.Name, "", c.Reason}, func() (int, error) {
		if err := registry.Pause(ctx, c.Name, pause); err != nil {
			return 0, err
		}
		return 1, a.publishDone(ctx, guard.PausedEvent(c.Name, pause), "seller "+c.Name+" paused: its orders are held until `bridgectl seller resume "+c.Name+"`")
	})
}

type sellerResumeCmd struct {
	Name string `arg:"" help:"Seller."`
	because
}

func (c sellerResumeCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	if s.Pause == nil {
		return fmt.Errorf("seller %s is not paused", c.Name)
	}
	return a.do(ctx, deed{"seller resume", c.Name, "paused by " + pausedBy(s.Pause.By), c.Why}, func() (int, error) { return 1, c.resume(ctx, a, registry, s) })
}

func (c sellerResumeCmd) resume(ctx context.Context, a *app, registry *seller.Registry, s *seller.Seller) error {
	if err := registry.Resume(ctx, c.Name, sellerv1.Paused_BY_OPERATOR); err != nil {
		return err
	}
	return a.publishDone(ctx, guard.ResumedEvent(c.Name, sellerv1.Paused_BY_OPERATOR, s.Pause.At, a.now()), "seller "+c.Name+" resumed: what waited continues")
}

// publishDone publishes what was done and prints done.
func (a *app) publishDone(ctx context.Context, e event.Event, done string) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	if err := b.Publish(ctx, e); err != nil {
		return hint(err, "it is done, but the event was not published; the workers notice within a minute")
	}
	doc := struct {
		Done string          `json:"done"`
		At   time.Time       `json:"at"`
		Body json.RawMessage `json:"event"`
	}{e.Name, e.At.UTC(), body(e.Message, true)}
	return a.show(doc, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, done)
		return err
	})
}
