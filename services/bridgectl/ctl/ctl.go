// Package ctl holds the commands of bridgectl: what an operator reads and does.
//
// It composes the other packages and decides nothing about orders itself: `order check` runs the checks of the pusher,
// `held release` is the release that the workers use. It contains no subject, no ledger key and no term of a
// warehouse's API.
//
// Every command that answers a question exits 0 when all is well, 1 when something is wrong with the subject of the
// question or the question could not be answered, and 2 when the command line was not understood. Answers go to stdout,
// as a table or with -o json as one JSON document; everything else goes to stderr.
package ctl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

// Exit codes.
const (
	exitOK    = 0
	exitWrong = 1
	exitUsage = 2
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Terminal: In is a terminal where a person can be asked.
	Terminal bool
}

// Main is the whole program.
func Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	code := Run(ctx, os.Args, Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: term.IsTerminal(int(os.Stdin.Fd()))})
	stop()
	os.Exit(code)
}

type commands struct {
	Config `group:"common"`

	Up        upCmd                    `cmd:"" help:"Run everything in this process: broker, ledger, workers, sandbox."`
	Topology  topologyCmd              `cmd:"" help:"The broker's streams, buckets and consumers."`
	Seller    sellerCmd                `cmd:"" help:"Sellers: set-up, pause, diagnosis, trial."`
	Order     orderCmd                 `cmd:"" help:"Orders: push, check before pushing, explain what became of one."`
	Purchase  documentCmd[ofPurchases] `cmd:"" help:"Purchase orders: push, cancel, say what is at the warehouse, explain."`
	DLQ       dlqCmd                   `cmd:"" name:"dlq" help:"What needs a person before it can continue."`
	Held      heldCmd                  `cmd:"" help:"What waits for a cause and continues automatically when it is gone."`
	Acts      actsCmd                  `cmd:"" help:"What operators did: who, why, when, to what."`
	Stock     stockCmd                 `cmd:"" help:"Stock: counts, differences, shares of shops."`
	Window    windowCmd                `cmd:"" help:"Stock movements: how far they were read, which spans could not be, reading them again."`
	Reconcile reconcileCmd             `cmd:"" help:"What was audited against what the ledger and the warehouses know."`

	Idle       idleCmd       `cmd:"" hidden:"" help:"Do nothing until stopped: for a pod in which an operator runs commands."`
	Completion completionCmd `cmd:"" help:"Print a script that completes commands in bash, zsh or fish."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

const description = `Stockbridge carries orders from ERPs to the warehouses that ship them. bridgectl runs it and looks after it.

Commands end 0 when all is well, 1 when something is wrong with what was asked about, 2 when they were not understood.`

// Run executes one command line, args[0] being the program's name, and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	var c commands
	ended := -1
	parser, err := kong.New(&c,
		kong.Name("bridgectl"), kong.Description(description), kong.Writers(s.Out, s.Err),
		kong.Exit(func(code int) { ended = code }), kong.Vars{"nats_url": defaultURL, "data": usualData},
		kong.ExplicitGroups([]kong.Group{{Key: "common", Title: "Common flags:"}}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, FlagsLast: true, WrapUpperBound: 100}),
	)
	if err != nil {
		panic(err) // the grammar above is wrong: any test finds it
	}
	if len(args) > 2 && args[1] == completeWord {
		complete(s.Out, parser.Model, args[2], args[3:])
		return exitOK
	}
	a := &app{Config: &c.Config, Streams: s, now: time.Now}
	command, err := parser.Parse(args[1:])
	if ended >= 0 {
		return ended // help was asked for
	}
	if err != nil {
		a.printError(usage(err))
		return exitUsage
	}
	a.settle()
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(a)
	a.close()
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errWrong):
		return exitWrong
	}
	a.printError(err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitWrong
}
