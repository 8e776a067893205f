// Package monitoring_test holds the alerts and the dashboard to the metrics that there are. Its queries are parsed by
// Prometheus' own parser, which is why it is a module of its own: nothing that ships needs that.
package monitoring_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// metric is a row of docs/metrics.md.
type metric struct {
	kind   string
	labels []string
}

// metrics are those that the document lists, by the names that queries use.
func metrics(t *testing.T) map[string]metric {
	t.Helper()
	all := map[string]metric{
		// Of the client library and of Prometheus itself.
		"process_resident_memory_bytes": {"gauge", nil}, "process_cpu_seconds_total": {"counter", nil}, "go_goroutines": {"gauge", nil},
		// Of redis_exporter and of prometheus-nats-exporter (-jsz).
		"redis_aof_last_write_status": {"gauge", nil}, "redis_rdb_last_bgsave_status": {"gauge", nil},
		"redis_memory_used_bytes": {"gauge", nil}, "redis_memory_max_bytes": {"gauge", nil},
		"jetstream_server_total_message_bytes": {"gauge", []string{"server_name"}}, "jetstream_server_max_storage": {"gauge", []string{"server_name"}},
	}
	rows := regexp.MustCompile("(?m)^\\| `(stockbridge_\\w+)` \\| (\\w+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(read(t, "docs", "metrics.md")), -1)
	for _, m := range rows {
		row := metric{m[2], strings.Fields(strings.ReplaceAll(m[3], "`", ""))}
		if row.kind != "histogram" {
			all[m[1]] = row
			continue
		}
		all[m[1]+"_count"], all[m[1]+"_sum"] = metric{"counter", row.labels}, metric{"counter", row.labels}
		all[m[1]+"_bucket"] = metric{"counter", append(slices.Clone(row.labels), "le")}
	}
	if len(rows) == 0 {
		t.Fatal("docs/metrics.md lists nothing")
	}
	return all
}

// given by the scraper.
var scraped = []string{"instance", "job"}

// check parses a query and looks for metrics, labels and uses of them that there are not.
func check(known map[string]metric, query string) (faults []string) {
	query = strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h").Replace(query)
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	used := []string{}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		m, ok := known[s.Name]
		if !ok {
			faults = append(faults, fmt.Sprintf("no metric %q in docs/metrics.md", s.Name))
			return nil
		}
		used = append(used, m.labels...)
		for _, l := range s.LabelMatchers {
			if l.Name != labels.MetricName && !slices.Contains(m.labels, l.Name) {
				faults = append(faults, fmt.Sprintf("%s has no label %q", s.Name, l.Name))
			}
		}
		for _, p := range path {
			call, ok := p.(*parser.Call)
			if !ok {
				continue
			}
			if counts := slices.Contains([]string{"rate", "increase", "irate"}, call.Func.Name); counts && m.kind != "counter" {
				faults = append(faults, fmt.Sprintf("%s of %s, which is a %s", call.Func.Name, s.Name, m.kind))
			}
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		var names []string
		switch n := node.(type) {
		case *parser.AggregateExpr:
			names = n.Grouping
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				names = n.VectorMatching.MatchingLabels
			}
		}
		for _, name := range names {
			if !slices.Contains(used, name) && !slices.Contains(scraped, name) {
				faults = append(faults, fmt.Sprintf("nothing there has a label %q", name))
			}
		}
		return nil
	})
	return faults
}

func TestTheCheckFindsWhatIsWrong(t *testing.T) {
	known := metrics(t)
	for query, want := range map[string]string{
		`sum(`:                                     "parse error",
		`stockbridge_nothing`:                      "no metric",
		`stockbridge_push_seconds`:                 "no metric", // a histogram has only its parts
		`stockbridge_seller_paused{shop="x"}`:      `no label "shop"`,
		`sum by (shop) (stockbridge_sellers)`:      `label "shop"`,
		`rate(stockbridge_sellers[5m])`:            "which is a gauge",
		`stockbridge_sellers and on (x) vector(1)`: `label "x"`,
	} {
		if faults := strings.Join(check(known, query), "; "); !strings.Contains(faults, want) {
			t.Errorf("%s: %q, want %q", query, faults, want)
		}
	}
}

// bilingual reports whether a text is in Chinese and in English.
func bilingual(text string) bool {
	text = regexp.MustCompile(`\{\{.*?\}\}`).ReplaceAllString(text, "")
	return strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }) && regexp.MustCompile(`[A-Za-z]{2,} [A-Za-z]`).MatchString(text)
}

// anchors are what a link can point to in a document, as GitHub makes them.
func anchors(text string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		a := strings.ToLower(strings.ReplaceAll(m[1], " ", "-"))
		list = append(list, regexp.MustCompile(`[^\p{L}\p{N}_-]`).ReplaceAllString(a, ""))
	}
	return list
}

func TestAlerts(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(read(t, "deploy", "prometheus", "rules.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	known := metrics(t)
	var tests strings.Builder
	files, err := filepath.Glob(filepath.Join("..", "..", "deploy", "prometheus", "tests", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tests.Write(text)
	}
	runbook := anchors(string(read(t, "docs", "alerts.md")))
	linked := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			for _, fault := range check(known, r.Expr) {
				t.Errorf("%s: %s", r.Alert, fault)
			}
			if !slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			for _, name := range []string{"summary", "description"} {
				if !bilingual(r.Annotations[name]) {
					t.Errorf("%s: %s is not in both languages: %s", r.Alert, name, r.Annotations[name])
				}
			}
			anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], "docs/alerts.md#")
			if !ok || !slices.Contains(runbook, anchor) {
				t.Errorf("%s: no section %q", r.Alert, r.Annotations["runbook_url"])
			}
			linked[anchor] = true
			if !strings.Contains(tests.String(), `alertname="`+r.Alert+`"`) {
				t.Errorf("%s: no test has it fire", r.Alert)
			}
		}
	}
	for _, a := range runbook {
		if strings.HasPrefix(a, "stockbridge") && !linked[a] {
			t.Errorf("docs/alerts.md#%s: no alert leads there", a)
		}
	}
	if len(linked) == 0 {
		t.Error("no alerts")
	}
}

type target struct {
	RefID      string `json:"refId"`
	Expr       string
	Datasource struct{ UID string }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Datasource               struct{ Type, UID string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []target
	Panels                   []panel
}

// What Grafana asks of a dashboard, as far as it can be checked without one; units are those of its list.
func TestDashboard(t *testing.T) {
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
		Templating    struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(read(t, "deploy", "grafana", "stockbridge.json"), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 {
		t.Errorf("uid %q, title %q, schema %d", d.UID, d.Title, d.SchemaVersion)
	}
	variables := []string{}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	known, shown := metrics(t), map[string]bool{}
	ids, rows := map[int]bool{}, 0
	for i, p := range d.Panels {
		at := fmt.Sprintf("panel %d %q", p.ID, p.Title)
		if ids[p.ID] || p.ID <= 0 {
			t.Errorf("%s: the id is not its own", at)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("%s: at %+v", at, g)
		}
		for _, other := range d.Panels[:i] {
			o := other.GridPos
			if g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H {
				t.Errorf("%s lies on %q", at, other.Title)
			}
		}
		if p.Type == "row" {
			rows++
			if !strings.Contains(p.Title, " / ") {
				t.Errorf("%s: the title is in one language", at)
			}
			continue
		}
		if p.Datasource.Type != "prometheus" || p.Datasource.UID != "${datasource}" || !slices.Contains(variables, "datasource") {
			t.Errorf("%s: the data source is %+v", at, p.Datasource)
		}
		if !slices.Contains([]string{"s", "short", "ops", "bytes"}, p.FieldConfig.Defaults.Unit) {
			t.Errorf("%s: unit %q", at, p.FieldConfig.Defaults.Unit)
		}
		if len(p.Targets) == 0 || p.Description == "" {
			t.Errorf("%s: no query, or no description", at)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if refs[q.RefID] || q.RefID == "" || q.Datasource.UID != "${datasource}" {
				t.Errorf("%s: query %q", at, q.RefID)
			}
			refs[q.RefID] = true
			for _, name := range regexp.MustCompile(`"\$(\w+)"`).FindAllStringSubmatch(q.Expr, -1) {
				if !slices.Contains(variables, name[1]) {
					t.Errorf("%s: no variable %q", at, name[1])
				}
			}
			for _, fault := range check(known, q.Expr) {
				t.Errorf("%s: %s", at, fault)
			}
			for name := range known {
				if strings.Contains(q.Expr, name) {
					shown[name] = true
				}
			}
		}
	}
	if rows < 5 || len(shown) < 20 {
		t.Errorf("%d rows, %d metrics shown", rows, len(shown))
	}
}
