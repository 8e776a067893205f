//go:build unix

// Command plants plants each bug of the catalogue, plays the scenarios that provoke it over real processes, and shows
// which promise caught it, and after how much. The healthy build plays the same scenarios first and must hold every
// promise.
//
//	plants [-dir DIR] [NAME...]      all bugs, or those named
//	plants -overlay NAME -dir DIR    only write what `go build -overlay` needs, and print the file
//
// It exits 1 when a bug was not caught or the healthy build was, 2 when it could not be tried.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"stockbridge/services/e2e/plant"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("plants", flag.ContinueOnError)
	flags.SetOutput(errs)
	dir := flags.String("dir", "", "where binaries, logs and histories go, and stay; a temporary folder when empty")
	overlay := flags.String("overlay", "", "only write this bug's overlay and print its file; needs -dir")
	verbose := flags.Bool("v", false, "print events of processes, and the report of each unexpected result")
	if flags.Parse(args) != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	t := trial{out: out, errs: errs, verbose: *verbose, bins: map[string]string{}}
	ok, err := t.start(ctx, *dir, *overlay, flags.Args())
	switch {
	case err != nil:
		fmt.Fprintf(errs, "plants: %v\n", err)
		return 2
	case !ok:
		return 1
	default:
		return 0
	}
}

// trial is one run of the command.
type trial struct {
	out, errs io.Writer
	verbose   bool
	root, dir string
	bins      map[string]string
	rows      []row
}

type row struct {
	bug, scenario, verdict string
	ran                    plant.Ran
}

func (t *trial) start(ctx context.Context, dir, overlay string, names []string) (ok bool, err error) {
	if t.root, err = plant.Root("."); err != nil {
		return false, err
	}
	if overlay != "" {
		if dir == "" {
			return false, errors.New("-overlay needs -dir")
		}
		bug, err := plant.Find(overlay)
		if err != nil {
			return false, err
		}
		file, err := bug.Overlay(t.root, dir)
		if err == nil {
			_, err = fmt.Fprintln(t.out, file)
		}
		return true, err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "stockbridge-plants-"); err != nil {
			return false, err
		}
		defer os.RemoveAll(dir)
	}
	if t.dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	bugs := plant.Bugs()
	if len(names) > 0 {
		bugs = bugs[:0]
		for _, name := range names {
			bug, err := plant.Find(name)
			if err != nil {
				return false, err
			}
			bugs = append(bugs, bug)
		}
	}
	began := time.Now()
	ok, err = t.all(ctx, bugs)
	if err != nil {
		return false, err
	}
	return ok, t.print(time.Since(began))
}

// all plays what the bugs need, healthy first.
func (t *trial) all(ctx context.Context, bugs []plant.Bug) (ok bool, err error) {
	ok = true
	for _, s := range plant.Scenarios() {
		if !slices.ContainsFunc(bugs, func(b plant.Bug) bool { return slices.Contains(b.Scenarios, s.Name) }) {
			continue
		}
		ran, err := t.play(ctx, s, "healthy", "")
		if err != nil {
			return false, err
		}
		verdict := "holds"
		if broken := append(ran.Report.Broken(), ran.Report.Undecided()...); len(broken) > 0 {
			ok, verdict = false, "NOT HEALTHY: "+strings.Join(broken, ", ")
			t.show(ran)
		}
		t.rows = append(t.rows, row{"(none)", s.Name, verdict, ran})
		for _, b := range bugs {
			if !slices.Contains(b.Scenarios, s.Name) {
				continue
			}
			overlay, err := b.Overlay(t.root, filepath.Join(t.dir, b.Name))
			if err != nil {
				return false, err
			}
			ran, err := t.play(ctx, s, b.Name, overlay)
			if err != nil {
				return false, err
			}
			verdict := "NOT CAUGHT"
			broken := ran.Report.Broken()
			if slices.ContainsFunc(broken, func(p string) bool { return slices.Contains(b.CaughtBy, p) }) {
				verdict = "caught by " + strings.Join(broken, ", ")
			} else {
				ok = false
				t.show(ran)
			}
			t.rows = append(t.rows, row{b.Name, s.Name, verdict, ran})
		}
	}
	return ok, nil
}

func (t *trial) play(ctx context.Context, s plant.Scenario, build, overlay string) (plant.Ran, error) {
	fmt.Fprintf(t.errs, "%s, %s …\n", s.Name, build)
	say := func(string) {}
	if t.verbose {
		say = func(line string) { fmt.Fprintln(t.errs, "  "+line) }
	}
	bin := filepath.Join(t.dir, "bin", build)
	if overlay != "" {
		// What no edit touches is copied, and go build sees that it is current.
		if err := copyMissing(filepath.Join(t.dir, "bin", "healthy"), bin); err != nil {
			return plant.Ran{}, err
		}
	}
	return s.Play(ctx, plant.Options{
		Dir: filepath.Join(t.dir, "runs", s.Name+"-"+build), Bin: bin, Overlay: overlay, Source: filepath.Join(t.root, "services"), Say: say,
	})
}

// copyMissing copies the binaries that are missing.
func copyMissing(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	return os.CopyFS(to, os.DirFS(from))
}

func (t *trial) show(ran plant.Ran) {
	if t.verbose {
		_ = ran.Report.Print(t.errs) // only shown
	}
}

func (t *trial) print(took time.Duration) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "bug\tscenario\tverdict\toperations\tseconds\tfor example")
	for _, r := range t.rows {
		example := ""
		for _, p := range r.ran.Report.Promises {
			if len(p.Breaks) > 0 && example == "" {
				example = p.Breaks[0].About + ": " + p.Breaks[0].Means
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.1f\t%s\n", r.bug, r.scenario, r.verdict, r.ran.Operations, r.ran.Took.Seconds(), example)
	}
	fmt.Fprintf(w, "\t\t\t\t%.1f\tin all, building included\n", took.Seconds())
	return w.Flush()
}
