// Package plant plants bugs on purpose, to show that the checks would notice: each is a named edit of a source file,
// compiled in by `go build -overlay`, and the smallest scenario that provokes it. The sources stay unchanged.
//
// It knows the places of the bugs and the harness that runs the scenarios; it knows no promise: package checker finds
// what broke from the recorded run. The healthy build must pass the very same scenario.
//
// # Why
//
// An edit names the exact text that it replaces, which must occur in its file once. So a refactoring that moves the
// text breaks a test of this package, and does not quietly disarm the bug.
//
// An overlay, and not a switch in the code: the bugs cost production nothing and cannot be turned on there.
package plant

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Bug is a bug that somebody could have written.
type Bug struct {
	// Name is used on command lines.
	Name string
	// Says what is wrong, for people.
	Says  string
	Edits []Edit
	// Scenarios name those that provoke it, each on its own.
	Scenarios []string
	// CaughtBy are the promises of which one must be reported broken in each of its scenarios.
	CaughtBy []string
}

// Edit replaces Old, which occurs once in File, by New. File is a path inside the repository.
type Edit struct{ File, Old, New string }

// Bugs is the catalogue.
func Bugs() []Bug {
	return []Bug{
		{
			Name: "claim-without-owner",
			Says: "a claim is anybody's: a worker that claims while another works reads that claim as its own",
			Edits: []Edit{{
				"pkg/ledger/inredis/lua/document.lua",
				"local function mine(e) return e.state == 'intent' and e.owner == a.owner end",
				"local function mine(e) return e.state == 'intent' end",
			}},
			Scenarios: []string{AuditedTwice}, CaughtBy: []string{"P1"},
		},
		{
			Name: "claim-not-recognised",
			Says: "a claim whose answer was lost, repeated by the client library, reads as another's",
			Edits: []Edit{{
				"pkg/ledger/inredis/lua/claim.lua",
				"if mine(e) then",
				"if false then",
			}},
			Scenarios: []string{ClaimCut}, CaughtBy: []string{"P2"},
		},
		{
			Name: "unknown-as-failed",
			Says: "a send whose answer was lost counts as failed",
			Edits: []Edit{{
				"pkg/document/next.go",
				"	case class == fault.Unclear:\n		return lost(k, a.Err)\n",
				"	case class == fault.Unclear:\n		return refuse(a.Reason)\n",
			}},
			Scenarios: []string{AnswersLost}, CaughtBy: []string{"P2"},
		},
		{
			Name: BlindRepeat,
			Says: "a send whose answer was lost is repeated under its number, without a look-up",
			Edits: []Edit{{
				"pkg/document/push/run.go",
				"	receipt, err := r.wh.Send(ctx, r.m, r.plan)\n",
				"	receipt, err := r.wh.Send(ctx, r.m, r.plan)\n	if fault.Of(err) == fault.Unclear {\n		receipt, err = r.wh.Send(ctx, r.m, r.plan)\n	}\n",
			}},
			Scenarios: []string{AnswersLost}, CaughtBy: []string{"P1"},
		},
		{
			Name: "replay-same-id",
			Says: "a replay goes out under the message id of the original, so a second one counts as a duplicate",
			Edits: []Edit{{
				"pkg/bus/deadletter.go",
				`	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%s#replay-%d", truncate(id, 200), seq))`,
				`	m.Header.Set(jetstream.MsgIDHeader, id)`,
			}},
			Scenarios: []string{ReplayedTwice}, CaughtBy: []string{"P9"},
		},
		{
			Name: "ack-before-publish",
			Says: "a message is acknowledged before the events that follow from it are stored",
			Edits: []Edit{{
				"pkg/bus/settle.go",
				"	events, err := w.call(log, span, d, m)\n",
				"	events, err := w.call(log, span, d, m)\n	if err == nil {\n		t.ack()\n	}\n",
			}},
			Scenarios: []string{KilledAtAck}, CaughtBy: []string{"P2"},
		},
		{
			Name: "birth-once",
			Says: "the ledger's epoch is written once and never again, so a restored ledger believes that it knows all",
			Edits: []Edit{{
				"pkg/ledger/inredis/lua/epoch.lua",
				"if stored[1] ~= identify() or not since then",
				"if since == false then",
			}},
			Scenarios: []string{LedgerRestored}, CaughtBy: []string{"P1", "P7"},
		},
		{
			Name: "stale-ack",
			Says: "a message taken before a restore of JetStream is acknowledged after it, under a number that is another message's by then",
			Edits: []Edit{{
				"pkg/bus/pull.go",
				"err == nil && !stored.Equal(meta.Timestamp)",
				"err == nil && stored.IsZero()",
			}},
			Scenarios: []string{StreamRestored}, CaughtBy: []string{"P2"},
		},
		{
			Name: "reconcile-skips",
			Says: "the reconciler ignores an order that the ledger does not know",
			Edits: []Edit{{
				"services/reconciler/reconciler/run.go",
				"		o.entry = ledger.Entry{}\n		return nil\n",
				"		o.entry = ledger.Entry{}\n		o.take(step{do: settle})\n		return nil\n",
			}},
			Scenarios: []string{LedgerWiped}, CaughtBy: []string{"P7"},
		},
		{
			Name: "attempts-of-broker",
			Says: "attempts are the broker's count of deliveries, which counts waits and is lost when it crashes",
			Edits: []Edit{
				{
					"pkg/bus/settle.go",
					"		n, err := w.s.Attempts.Count(ctx, w.attemptsKey(d))\n",
					"		meta, err := t.Metadata()\n		n := 0\n		if err == nil {\n			n = int(meta.NumDelivered)\n		}\n",
				},
				{
					"pkg/bus/settle.go",
					"			n, countErr := w.s.Attempts.Count(ctx, w.attemptsKey(d))\n",
					"			meta, countErr := t.Metadata()\n			n := 0\n			if countErr == nil {\n				n = int(meta.NumDelivered)\n			}\n",
				},
			},
			Scenarios: []string{AuditedTwice, BrokerRestored}, CaughtBy: []string{"P2", "P6"},
		},
	}
}

// BlindRepeat is the bug that the demo must notice too.
const BlindRepeat = "blind-repeat"

// Find is the bug of that name.
func Find(name string) (Bug, error) {
	var names []string
	for _, b := range Bugs() {
		if b.Name == name {
			return b, nil
		}
		names = append(names, b.Name)
	}
	return Bug{}, fmt.Errorf("no bug %q: there are %s", name, strings.Join(names, ", "))
}

// Overlay writes into dir what `go build -overlay` needs to compile the bug in, and returns the file to name there.
// root is the repository. An edit whose text does not occur in its file exactly once is an error.
func (b Bug) Overlay(root, dir string) (file string, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("plant %s: %w", b.Name, err)
	}
	texts := map[string]string{}
	for _, e := range b.Edits {
		text, ok := texts[e.File]
		if !ok {
			raw, err := os.ReadFile(filepath.Join(root, e.File))
			if err != nil {
				return "", fmt.Errorf("plant %s: %w", b.Name, err)
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return "", fmt.Errorf("plant %s: in %s the text to replace stands %d times, not once; the code moved on: put the bug where it would be now:\n%s", b.Name, e.File, n, e.Old)
		}
		texts[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	replace := map[string]string{}
	for name, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "__"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("plant %s: %w", b.Name, err)
		}
		replace[filepath.Join(root, name)] = to
	}
	raw, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "  ")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, b.Name+".json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return "", fmt.Errorf("plant %s: %w", b.Name, err)
	}
	return file, nil
}

// Root is the repository that holds dir: the first folder above that has a go.work.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.work above %s: run this inside the repository", dir)
		}
	}
}
