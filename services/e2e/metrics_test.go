// Package e2e_test holds what only the services together can show.
package e2e_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/bus/server"
	"stockbridge/pkg/event"
	"stockbridge/pkg/worker"
	"stockbridge/services/all"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orders"
)

// family is a metric as the document and as the code describe it.
type family struct {
	Type   string
	Labels string
}

var metricRow = regexp.MustCompile("(?m)^\\| `(stockbridge_\\w+)` \\| (\\w+) \\| ([^|]*) \\| ([^|]*) \\|")

// documented reads docs/metrics.md: the metrics of a service, "" for all of them together.
func documented(t *testing.T, service string) map[string]family {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]family{}
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		if where := strings.TrimSpace(m[4]); service == "" || where == "each" || slices.Contains(strings.Split(where, ", "), service) {
			labels := strings.Split(strings.ReplaceAll(strings.TrimSpace(m[3]), "`", ""), " ")
			slices.Sort(labels)
			families[m[1]] = family{m[2], strings.TrimSpace(strings.Join(labels, " "))}
		}
	}
	if len(families) == 0 {
		t.Fatal("docs/metrics.md lists nothing")
	}
	return families
}

// registrations records what is registered, also metrics that have no value yet and would not be gathered.
type registrations struct {
	prometheus.Registerer
	mu       sync.Mutex
	families map[string]family
}

var described = regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

func (r *registrations) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			panic(err)
		}
	}
}

func (r *registrations) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	r.mu.Lock()
	defer r.mu.Unlock()
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			panic(d.String())
		}
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return r == ',' })
		for _, constant := range strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' }) {
			name, _, _ := strings.Cut(constant, "=")
			labels = append(labels, name)
		}
		slices.Sort(labels)
		r.families[m[1]] = family{typeOf(c), strings.Join(labels, " ")}
	}
	return r.Registerer.Register(c)
}

// typeOf finds the type below the wrapper that adds a service's label.
func typeOf(c prometheus.Collector) string {
	v := reflect.ValueOf(c)
	if wrapped := reflect.Indirect(v); wrapped.Kind() == reflect.Struct {
		if inner := wrapped.FieldByName("wrappedCollector"); inner.IsValid() {
			v = inner.Elem()
		}
	}
	name := strings.ToLower(v.Type().String())
	for _, kind := range []string{"counter", "histogram", "gauge"} {
		if strings.Contains(name, kind) {
			return kind
		}
	}
	if name == "*pullmetrics.collector" {
		return "gauge"
	}
	return name
}

// docs/metrics.md lists what each service shows, with types and labels, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	for _, service := range all.Services() {
		t.Run(service.Name, func(t *testing.T) {
			t.Parallel()
			r := &registrations{Registerer: prometheus.NewRegistry(), families: map[string]family{
				// Shared by several collectors, so that none of them describes it.
				"stockbridge_scrape_errors_total": {"counter", "service what"},
			}}
			parts, closeParts, err := worker.Open(t.Context(), bustest.Start(t, service.Service), worker.Options{Log: zerolog.Nop(), Metrics: r, Grace: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer closeParts()
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a service registers everything before it serves
			settings, err := service.FromEnvironment()
			if err != nil {
				t.Fatal(err)
			}
			if err := service.Serve(ctx, parts.Shell(service.Name), settings); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if d := cmp.Diff(documented(t, service.Name), r.families); d != "" {
				t.Errorf("docs/metrics.md (-) and the code (+) differ:\n%s", d)
			}
		})
	}
}

// What `bridgectl up` exports while orders are sent is documented too, with the types that Prometheus sees.
func TestWhatIsScrapedIsDocumented(t *testing.T) {
	t.Parallel()
	s, err := stack.Start(t.Context(), stack.Options{
		DataDir: t.TempDir(), NATSPort: server.RandomPort, NoSync: true, HTTPAddr: "127.0.0.1:0", SandboxAddr: "127.0.0.1:0",
		Log: zerolog.Nop(), Grace: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	demo, err := stack.DemoSetup(t.TempDir(), s.SandboxURL)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(t.Context(), demo); err != nil {
		t.Fatal(err)
	}
	if err := s.StartWorkers(); err != nil {
		t.Fatal(err)
	}
	o := orders.New(stack.DemoSeller, 1).Next()
	if err := s.Bus.Publish(t.Context(), event.OrderAudited.About(o.Seller, o.OutboundNo, time.Now(), o)); err != nil {
		t.Fatal(err)
	}
	want := documented(t, "")
	var seen map[string]family
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		seen = scraped(t, "http://"+s.HTTPAt+"/metrics")
		if _, called := seen["stockbridge_warehouse_call_seconds"]; called && seen["stockbridge_poll_open_orders"].Type != "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the order does not show: %v", slices.Sorted(maps.Keys(seen)))
		}
	}
	for name, got := range seen {
		if strings.HasPrefix(name, "stockbridge_") && got != want[name] {
			t.Errorf("%s is %v, but documented as %v", name, got, want[name])
		}
	}
}

func scraped(t *testing.T, url string) map[string]family {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	raw, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]family{}
	for name, f := range raw {
		var labels []string
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
			}
		}
		slices.Sort(labels)
		labels = slices.Compact(labels)
		families[name] = family{strings.ToLower(f.GetType().String()), strings.Join(labels, " ")}
	}
	return families
}
