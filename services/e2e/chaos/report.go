//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"stockbridge/services/e2e/checker"
)

const judgeProgram = "stockbridge/services/e2e/check"

// report is chaos.json: what was done, and what the checker found.
type report struct {
	Scenario string    `json:"scenario"`
	Seed     uint64    `json:"seed"`
	Nodes    int       `json:"nodes"`
	Ledger   string    `json:"ledger"`
	Began    time.Time `json:"began"`
	// Seconds: while orders were published and faults happened; until all was at rest; in total.
	Faulty float64 `json:"faulty_seconds"`
	Rested float64 `json:"rest_seconds"`
	InAll  float64 `json:"seconds"`

	Orders      int64 `json:"orders"`
	Republished int64 `json:"republished"`
	Documents   int64 `json:"documents"`
	Violations  int64 `json:"violations"`
	// Kills of workers; KillsHit of them while CallsHit calls were under way.
	Kills    int `json:"kills"`
	KillsHit int `json:"kills_that_hit_calls"`
	CallsHit int `json:"calls_hit"`
	// Faults by kind, with what they hit.
	Faults map[string]int `json:"faults"`
	// Left is what was left to do when the run did not come to rest.
	Left string `json:"left,omitempty"`
	// Check is the checker's report, as it printed it.
	Check checker.Report `json:"check"`
}

// judge ends the history and has it judged by a separate process.
func (g *stage) judge(ctx context.Context) (code int, err error) {
	if err := g.readCalls(ctx); err != nil {
		return 2, err
	}
	g.recordKills()
	if err := g.Finish(ctx); err != nil {
		return 2, err
	}
	n, err := g.Procs.Sandbox.Counters(ctx)
	if err != nil {
		return 2, err
	}
	v, err := g.Procs.Sandbox.Violations(ctx)
	if err != nil {
		return 2, err
	}
	r := report{
		Scenario: g.s.scenario, Seed: g.s.seed, Nodes: g.s.nodes, Ledger: g.s.ledger, Began: g.began,
		Faulty: g.performed.Sub(g.performing).Seconds(), Rested: g.rested.Sub(g.performed).Seconds(),
		Orders: g.erp.sent.Load(), Republished: g.republished.Load(), Documents: n.Accepted, Violations: v.Total,
		Kills: len(g.killed.list), Faults: maps.Clone(g.tally.of), Left: g.restless,
	}
	r.KillsHit, r.CallsHit = g.killed.hit()
	args := []string{"-o", "json"}
	if g.s.require != "" {
		args = append(args, "-require", g.s.require)
	}
	folder := filepath.Join(g.s.dir, "history")
	program := g.Procs.Binary(judgeProgram)
	c := exec.CommandContext(ctx, program, append(args, folder)...)
	c.Stderr = g.out
	out, err := c.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 2, err
	}
	code = c.ProcessState.ExitCode()
	if err := json.NewDecoder(bytes.NewReader(out)).Decode(&r.Check); err != nil {
		return 2, fmt.Errorf("read what check printed: %w", err)
	}
	if code == 0 && r.Left != "" {
		code = 1 // something that waits for ever breaks no single promise, but fails the run all the same
	}
	r.InAll = time.Since(g.began).Seconds()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return 2, err
	}
	if err := os.WriteFile(filepath.Join(g.s.dir, "chaos.json"), append(text, '\n'), 0o600); err != nil {
		return 2, err
	}
	if err := g.print(r, code); err != nil {
		return 2, err
	}
	if wanted, _ := g.s.wanted(); code == 0 && slices.Contains(wanted, killing) && r.KillsHit < g.s.kills && g.s.scenario != scenarioKills {
		return 2, fmt.Errorf("only %d of the %d kills that were wanted hit a call: the run proves too little (longer: -for)", r.KillsHit, g.s.kills)
	}
	return code, nil
}

func (g *stage) print(r report, code int) error {
	w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
	row := func(what string, v any) { fmt.Fprintf(w, "  %s\t%v\n", what, v) }
	fmt.Fprintf(w, "\nwhat was done (%.0f s of faults, %.0f s until at rest, %.0f s in all)\t\n", r.Faulty, r.Rested, r.InAll)
	row("orders published", r.Orders)
	row("published again after a restore", r.Republished)
	row("documents at the warehouse", r.Documents)
	row("violations counted by the sandbox", r.Violations)
	row("kills of workers", r.Kills)
	row("… that hit a call under way", fmt.Sprintf("%d (%d calls)", r.KillsHit, r.CallsHit))
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		row(name, r.Faults[name])
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	if err := r.Check.Print(g.out); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "\n%s; the history can be judged again: check %s\n", verdict(r, code), filepath.Join(g.s.dir, "history"))
	return nil
}

func verdict(r report, code int) string {
	switch {
	case r.Left != "":
		return "IT DID NOT COME TO REST: " + r.Left
	case code == 0:
		return "every promise held"
	case code == 1:
		return "A PROMISE BROKE"
	default:
		return "the run does not decide it"
	}
}
