//go:build unix

// Command chaos runs Stockbridge as processes on loopback, breaks them while orders arrive, waits until all is quiet
// and has the recorded history judged by the command check.
//
//	chaos [-nodes 3] [-orders 5000] [-for 4m] [-kills 200] [-seed 1] [-faults kill,redis-wipe,…] [-dir FOLDER]
//	chaos -scenario kills [-orders 20000]   ten kills of the only pusher in mid-flow
//	chaos -scenario smoke                   a minute of what is quick
//	chaos -overlay FILE                     the programs are built as `go build -overlay` does, with a planted bug
//
// It exits with check's code: 0 when every promise held, 1 when one broke, 2 when the run does not decide it.
//
// # Why
//
// A kill counts only when it hit a call: the sandbox's log has a call that was open at that moment and whose caller was
// gone when the answer was ready. Kills between calls prove nothing and are only listed.
//
// The seed decides what is done and when it is tried; processes on a busy machine do not repeat to the millisecond, so
// the same seed is the same plan and not the same run. The history is what can be judged again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

// settings are the flags.
type settings struct {
	scenario string
	orders   int
	seed     uint64
	nodes    int
	lasting  time.Duration
	kills    int
	faults   string
	ledger   string
	overlay  string
	dir      string
	require  string
	verbose  bool
}

const (
	scenarioAll   = "all"
	scenarioKills = "kills"
	scenarioSmoke = "smoke"
)

func run(args []string) int {
	var s settings
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.StringVar(&s.scenario, "scenario", scenarioAll, "all, kills (ten kills of the only pusher) or smoke (what is quick)")
	f.IntVar(&s.orders, "orders", 0, "orders in all; 0 is the scenario's own number")
	f.Uint64Var(&s.seed, "seed", 1, "the same seed makes the same plan")
	f.IntVar(&s.nodes, "nodes", 1, "nodes of nats-server: 1 or 3")
	f.DurationVar(&s.lasting, "for", 0, "how long faults last; 0 is the scenario's own time")
	f.IntVar(&s.kills, "kills", -1, "kills of workers with a call in flight; -1 is the scenario's own number")
	f.StringVar(&s.faults, "faults", "", "only these, comma-separated: "+strings.Join(faultNames(), ", "))
	f.StringVar(&s.ledger, "ledger", "redis", "redis, or kv: in JetStream")
	f.StringVar(&s.overlay, "overlay", "", "build the programs with this file of go build -overlay, such as plants -overlay NAME writes")
	f.StringVar(&s.dir, "dir", "", "folder of the run; empty makes bin/chaos-runs/<time>")
	f.StringVar(&s.require, "require", "", "promises of which something must have been checked; empty is the scenario's own")
	f.BoolVar(&s.verbose, "v", false, "print each start, signal and end of a process")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if err := s.complete(f.NArg()); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	code, err := play(ctx, s, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %v\n", err)
		return 2
	}
	return code
}

// complete fills in the scenario's own values and returns what is wrong.
func (s *settings) complete(further int) error {
	type own struct {
		orders, kills int
		lasting       time.Duration
		require       string
	}
	values, ok := map[string]own{
		scenarioAll:   {5000, 200, 4 * time.Minute, "P1,P2,P6,P7,P8,P10"},
		scenarioKills: {20000, 10, 10 * time.Minute, "P1,P2"},
		scenarioSmoke: {200, 3, 12 * time.Second, "P1,P2,P6,P7,P10"},
	}[s.scenario]
	switch {
	case further > 0:
		return errors.New("there are no arguments besides flags")
	case !ok:
		return fmt.Errorf("-scenario %q is not one of all, kills, smoke", s.scenario)
	case s.nodes != 1 && s.nodes != 3:
		return fmt.Errorf("-nodes %d: want 1 or 3", s.nodes)
	case s.ledger != "redis" && s.ledger != "kv":
		return fmt.Errorf("-ledger %q: want redis or kv", s.ledger)
	case s.orders < 0 || s.orders > 1_000_000:
		return fmt.Errorf("-orders %d: want from 1 to 1000000", s.orders)
	}
	if _, err := s.wanted(); err != nil {
		return err
	}
	if s.orders == 0 {
		s.orders = values.orders
	}
	if s.kills < 0 {
		s.kills = values.kills
	}
	if s.lasting == 0 {
		s.lasting = values.lasting
	}
	if s.require == "" && s.faults == "" {
		s.require = values.require
	}
	if s.dir == "" {
		s.dir = filepath.Join("bin", "chaos-runs", time.Now().Format("0102-150405"))
	}
	for _, path := range []*string{&s.dir, &s.overlay} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}
