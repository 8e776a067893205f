package checker

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %s, %s", r.What, r.From.Format(time.DateTime), r.To.Sub(r.From).Round(time.Second))
	if r.Seed != 0 {
		fmt.Fprintf(&text, ", seed %d", r.Seed)
	}
	text.WriteString("\n\n")
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, c := range r.Counts {
		fmt.Fprintf(w, "  %s\t%d\n", c.What, c.N)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(w, "  fault: %s\t%d\n", kind, r.Faults[kind])
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range r.Promises {
		fmt.Fprintf(&text, "\n%s  %s  %s\n", p.Name, p.verdict(), p.Says)
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "    checked\t%d\n    broken\t%d\n", p.Checked, p.Broken)
		for _, c := range p.Counts {
			fmt.Fprintf(w, "    %s\t%d\n", c.What, c.N)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, n := range p.Notes {
			fmt.Fprintf(&text, "    %s\n", n)
		}
		for _, g := range p.Gaps {
			fmt.Fprintf(&text, "    ? %s\n", g)
		}
		if more := p.Undecided - len(p.Gaps); more > 0 {
			fmt.Fprintf(&text, "    ? and %d more\n", more)
		}
		for _, b := range p.Breaks {
			fmt.Fprintf(&text, "  ! %s: %s\n", b.About, b.Means)
			for _, e := range b.Evidence {
				fmt.Fprintf(&text, "      %s\n", e)
			}
		}
		if more := p.Broken - len(p.Breaks); more > 0 {
			fmt.Fprintf(&text, "  ! and %d more\n", more)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// Lines names each promise that broke, and for what.
func (r *Report) Lines() (lines []string) {
	for _, p := range r.Promises {
		for _, b := range p.Breaks {
			lines = append(lines, p.Name+" "+b.About+": "+b.Means)
		}
		if more := p.Broken - len(p.Breaks); more > 0 {
			lines = append(lines, fmt.Sprintf("%s and %d more", p.Name, more))
		}
	}
	return lines
}

func (p Promise) verdict() string {
	switch {
	case p.Broken > 0:
		return "BROKEN"
	case p.Undecided > 0:
		return "UNDECIDED"
	case p.Checked == 0:
		return "not exercised"
	default:
		return "held"
	}
}
