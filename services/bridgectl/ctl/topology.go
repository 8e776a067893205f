package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/services/all"
)

type topologyCmd struct {
	Apply topologyApplyCmd `cmd:"" help:"Make streams, buckets and consumers what this version needs."`
	Diff  topologyDiffCmd  `cmd:"" help:"Print what apply would change; ends 1 when there is something."`
	Users topologyUsersCmd `cmd:"" help:"Print the broker's users with only their subjects, for its configuration."`
}

// layout holds what an operator may choose about the topology.
type layout struct {
	Replicas int           `enum:"1,3,5" default:"1" help:"Copies of every stream and bucket: 1, or 3 or 5 on a cluster."`
	Keep     time.Duration `default:"2160h" help:"How long public streams keep events (90 days)."`
}

func (l layout) topology() bus.Topology {
	return bus.Topology{Replicas: l.Replicas, KeepFor: l.Keep, Services: all.Bus()}
}

type changeJSON struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	What string `json:"what"`
}

func (a *app) showChanges(changes []bus.Change, none string) error {
	out := make([]changeJSON, len(changes))
	for i, c := range changes {
		out[i] = changeJSON(c)
	}
	return a.show(out, func(w io.Writer) error {
		if len(changes) == 0 {
			_, err := fmt.Fprintln(w, none)
			return err
		}
		t := table{head: []string{"KIND", "NAME", "WHAT"}}
		for _, c := range changes {
			t.add(c.Kind, c.Name, c.What)
		}
		return t.write(w, a.columns)
	})
}

// waitPause is the pause between two attempts to connect, each of which takes up to connectLimit when nobody answers.
const waitPause = time.Second

type topologyApplyCmd struct {
	layout
	Wait bool `help:"Wait for a broker that is not there yet, for as long as it takes."`
}

func (topologyApplyCmd) Help() string {
	return `One owner does this: you, or a job of the deployment, before workers of a new version start. Workers check it and
refuse to start on a difference. Applying twice changes nothing.`
}

func (c topologyApplyCmd) Run(ctx context.Context, a *app) error {
	b, err := a.bus(ctx)
	for printed := ""; c.Wait && err != nil && ctx.Err() == nil; b, err = a.bus(ctx) {
		if err.Error() != printed {
			printed = err.Error()
			a.note("still waiting: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(waitPause):
		}
	}
	if err != nil {
		return err
	}
	changes, err := b.Apply(ctx, c.topology())
	if len(changes) > 0 { // afterwards: this may have created the stream of acts
		what := make([]string, len(changes))
		for i, change := range changes {
			what[i] = change.String()
		}
		if err := a.did(ctx, deed{verb: "topology apply", target: strings.Join(what, "; ")}); err != nil {
			a.note("not recorded: %v", err)
		}
	}
	if err != nil {
		if len(changes) > 0 {
			a.note("applied %d changes before it failed", len(changes))
		}
		return hint(err, "apply can be repeated; what cannot be changed in place is in docs/operations.md")
	}
	return a.showChanges(changes, "nothing to change")
}

type topologyDiffCmd struct{ layout }

func (c topologyDiffCmd) Run(ctx context.Context, a *app) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	changes, err := b.Diff(ctx, c.topology())
	if err != nil {
		return err
	}
	if err := a.showChanges(changes, "nothing to change"); err != nil || len(changes) == 0 {
		return err
	}
	return errWrong
}

type topologyUsersCmd struct {
	Seller []string `placeholder:"NAME" help:"A seller whose ERP gets a user of its own; may be repeated."`
}

func (topologyUsersCmd) Help() string {
	return `The answer is a file for a NATS server's configuration (include users.conf): a user for each worker, one for
bridgectl, one for each ERP that is named. It holds no password: each is a variable of the server's environment. It is
made from the same tables as the topology, so generate it again after an upgrade. No broker is asked.`
}

func (c topologyUsersCmd) Run(a *app) error {
	if a.Output == "json" {
		return misused("topology users prints a configuration, not JSON")
	}
	return bus.WriteUsers(a.Out, all.Bus(), c.Seller...)
}
