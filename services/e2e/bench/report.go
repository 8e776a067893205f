//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// budget is a row of the table: what is measured, and what it should be.
type budget struct {
	// ID names the row, Group what is measured together.
	ID, Group string
	// What is measured, and its unit ("" for a ratio).
	What, Unit string
	// Least and Most bound the figure; nil for none. A row without either is for information.
	Least, Most *float64
}

func bound(v float64) *float64 { return &v }

// budgets is the whole table; docs/performance.md lists the same ones.
func budgets() []budget {
	var rows []budget
	for _, at := range pushPlaces {
		b := []budget{
			{ID: at.id + ".rate", What: "orders a second, against the bare loop's", Least: bound(0.7)},
			{ID: at.id + ".cpu", What: "CPU per order with the servers, against the bare loop's", Most: bound(1.6)},
			{ID: at.id + ".orders", What: "orders a second", Unit: "/s"},
		}
		if at.redis == "" {
			b[0].Least, b[1].Most = nil, nil // for one merchant on one machine
		} else {
			b = append(b,
				budget{ID: at.id + ".pipeline.rate", What: "orders a second, against a stand-in for a general pipeline", Least: bound(1.6)},
				budget{ID: at.id + ".pipeline.cpu", What: "CPU per order with the servers, against that pipeline's", Most: bound(0.65)},
			)
		}
		for i := range b {
			b[i].Group = at.id
		}
		rows = append(rows, b...)
	}
	rows = slices.Concat(rows, latencyRows(), floodRows(), backlogRows(), quotaRows(), followRows())
	rows = append(rows, budget{ID: "workers.scale", Group: "workers", What: "four workers with four credentials against one, JD answering in 50 ms", Least: bound(3.6)})
	return slices.Concat(rows, idleRows(), vmiRows())
}

func (b budget) limit() string {
	switch {
	case b.Least != nil && b.Most != nil:
		return number(*b.Least) + " to " + number(*b.Most) + b.suffix()
	case b.Least != nil:
		return "≥ " + number(*b.Least) + b.suffix()
	case b.Most != nil:
		return "≤ " + number(*b.Most) + b.suffix()
	default:
		return "–"
	}
}

func (b budget) suffix() string {
	if b.Unit == "" || b.Unit[0] == '/' {
		return b.Unit
	}
	return " " + b.Unit
}

// Row is a measured budget.
type Row struct {
	ID   string `json:"id"`
	What string `json:"what"`
	Unit string `json:"unit,omitempty"`
	// Median of the samples, and their minimum and maximum.
	Median  float64   `json:"median"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"`
	Budget  string    `json:"budget"`
	// Met is null where there is no budget.
	Met *bool `json:"met"`
	// How it was measured, and what else was seen.
	How string `json:"how"`
	// Detail holds further medians by name.
	Detail map[string]float64 `json:"detail,omitempty"`
	// Curves are figures through time, by name.
	Curves map[string][]float64 `json:"curves,omitempty"`
}

// GroupRun is how a group of rows was measured.
type GroupRun struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	// Load is the average number of processes that wanted to run in the minute before.
	Load float64 `json:"load"`
}

// Report is all that was measured.
type Report struct {
	At     time.Time `json:"at"`
	Cores  int       `json:"cores"`
	CPU    string    `json:"cpu"`
	Go     string    `json:"go"`
	Rounds int       `json:"rounds"`
	// Groups in the order in which they were measured.
	Groups []GroupRun `json:"groups"`
	Rows   []Row      `json:"rows"`
}

func newReport(rounds int) *Report {
	return &Report{At: time.Now().UTC().Truncate(time.Second), Cores: runtime.NumCPU(), CPU: model(), Go: runtime.Version(), Rounds: rounds}
}

func model() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// add records what was measured for the budget with the id.
func (r *Report) add(id, how string, samples []float64, detail map[string]float64) error {
	all := budgets()
	i := slices.IndexFunc(all, func(b budget) bool { return b.ID == id })
	if i < 0 || len(samples) == 0 {
		return fmt.Errorf("%s: no such row, or nothing measured", id)
	}
	b := all[i]
	row := Row{
		ID: id, What: b.What, Unit: b.Unit, Median: median(samples), Min: slices.Min(samples), Max: slices.Max(samples),
		Samples: samples, Budget: b.limit(), How: how, Detail: detail,
	}
	if b.Least != nil || b.Most != nil {
		met := (b.Least == nil || row.Median >= *b.Least) && (b.Most == nil || row.Median <= *b.Most)
		row.Met = &met
	}
	r.Rows = append(r.Rows, row)
	return nil
}

// curve adds a figure through time to the row that was added last.
func (r *Report) curve(name string, points []float64) {
	row := &r.Rows[len(r.Rows)-1]
	if row.Curves == nil {
		row.Curves = map[string][]float64{}
	}
	row.Curves[name] = points
}

// unfinished says that the row that was added last did not come to its end: whatever its figure, its budget is not met.
func (r *Report) unfinished() {
	if row := &r.Rows[len(r.Rows)-1]; row.Met != nil {
		*row.Met = false
	}
}

func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// table is for a terminal.
func (r *Report) table(to io.Writer) {
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROW\tFIGURE\tMIN..MAX\tBUDGET\tMET\tHOW")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t%s..%s\t%s\t%s\t%s\n", row.ID, row.figure(), number(row.Min), number(row.Max), row.Budget, row.verdict(), row.how())
	}
	_ = t.Flush()
}

// merge adds another run: its rows replace earlier ones. Rows are in the order of the budgets.
func (r *Report) merge(other *Report) {
	rows, groups := append(r.Rows, other.Rows...), append(r.Groups, other.Groups...)
	*r = *other
	r.Rows, r.Groups = nil, nil
	for _, b := range budgets() {
		for _, row := range slices.Backward(rows) {
			if row.ID == b.ID {
				r.Rows = append(r.Rows, row)
				break
			}
		}
	}
	for _, name := range groupNames() {
		for _, g := range slices.Backward(groups) {
			if g.Name == name {
				r.Groups = append(r.Groups, g)
				break
			}
		}
	}
}

// markdown is the table of docs/performance.md.
func (r *Report) markdown(to io.Writer) {
	fmt.Fprintf(to, "Measured %s on %d cores (%s), %s, %d rounds.\n\n", r.At.Format(time.DateOnly), r.Cores, r.CPU, r.Go, r.Rounds)
	fmt.Fprintln(to, "| row | what | median | min..max | budget | met | how |\n|---|---|---|---|---|---|---|")
	for _, row := range r.Rows {
		fmt.Fprintf(to, "| `%s` | %s | %s | %s..%s | %s | %s | %s |\n", row.ID, row.What, row.figure(), number(row.Min), number(row.Max), row.Budget, row.verdict(), row.how())
	}
	var took []string
	for _, g := range r.Groups {
		took = append(took, fmt.Sprintf("`%s` %.0f s, load %.1f", g.Name, g.Seconds, g.Load))
	}
	if len(took) > 0 {
		fmt.Fprintf(to, "\nHow long each group took, and the load of the minute before: %s.\n", strings.Join(took, "; "))
	}
}

func (row Row) figure() string { return number(row.Median) + budget{Unit: row.Unit}.suffix() }

func (row Row) verdict() string {
	switch {
	case row.Met == nil:
		return "–"
	case *row.Met:
		return "yes"
	default:
		return "NO"
	}
}

func (row Row) how() string {
	text := row.How
	for _, name := range slices.Sorted(maps.Keys(row.Detail)) {
		text += "; " + name + " " + number(row.Detail[name])
	}
	return text
}

// number is short and has only meaningful digits.
func number(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (r *Report) write(file string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

func read(file string) (*Report, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("%s is no report of bench: %w", file, err)
	}
	return r, nil
}
