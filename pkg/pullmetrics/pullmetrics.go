// Package pullmetrics makes gauges whose values are asked for when Prometheus scrapes, and at no other time. It does
// not know what is asked.
//
// # Why
//
// A gauge that a worker sets when it happens to do some work goes stale in every other replica, and freezes at its last
// healthy value when the work stops, which is exactly what it should show. A value asked for at the scrape is the same
// in every replica (take the max over them) and true now.
//
// A gauge of things that grow with the set-up, such as sellers, would make a scrape grow with them. Such a gauge shows the sum,
// and another one the highest values with their names (Gauge.Highest): a seller in trouble is among them.
//
// Asking is bounded in time, and in share: it rests twenty times as long as it took, so that no scrape interval and no
// number of messages makes it a load. Without an answer the gauges are left out: an old value would be a lie.
package pullmetrics

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of asking.
const (
	// restAtLeast is how long an answer is reused. It stays below usual scrape intervals (15 s and more).
	restAtLeast = 3 * time.Second
	// restPerCost is how many times as long as a collection took the next one is put off.
	restPerCost = 20
	// ShownAtMost is how many of the sellers, or what else grows with the set-up, a gauge names.
	ShownAtMost = 20
	// collectLimit ends a collection; it stays below the scraper's own limit (10 s by default).
	collectLimit = 2 * time.Second
)

// Gauge is one metric that a collection fills.
type Gauge struct {
	Name, Help string
	Labels     []string
	// Highest is how many values are shown: the highest ones, of those above 0. Lowest is the same for the lowest ones, 0
	// included. 0 for both shows all.
	Highest, Lowest int
}

// Observe records the value of a gauge, with its labels in the order of Gauge.Labels.
type Observe func(gauge string, value float64, labels ...string)

// Collector is a prometheus.Collector whose values have to be asked for.
type Collector struct {
	what    string
	collect func(ctx context.Context, observe Observe) error
	gauges  []Gauge
	descs   map[string]*prometheus.Desc
	failed  *prometheus.Desc

	mu       sync.Mutex
	until    time.Time
	last     []prometheus.Metric
	failures float64
}

// New makes a collector. what names it in stockbridge_scrape_errors_total. collect runs in one goroutine at a time, and
// may call observe from several. What it observed counts even when it then fails.
func New(what string, gauges []Gauge, collect func(ctx context.Context, observe Observe) error) *Collector {
	a := &Collector{what: what, collect: collect, gauges: gauges, descs: map[string]*prometheus.Desc{}}
	for _, g := range gauges {
		a.descs[g.Name] = prometheus.NewDesc(g.Name, g.Help, g.Labels, nil)
	}
	a.failed = prometheus.NewDesc("stockbridge_scrape_errors_total",
		"Scrapes at which something could not be asked for: its metrics are missing.", []string{"what"}, nil)
	return a
}

// Describe implements prometheus.Collector. The counter of failures is left to Collect, because several collectors of a
// registry share it.
func (a *Collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range a.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (a *Collector) Collect(to chan<- prometheus.Metric) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if began := time.Now(); !began.Before(a.until) {
		a.refresh()
		now := time.Now()
		a.until = now.Add(max(restAtLeast, restPerCost*now.Sub(began)))
	}
	for _, m := range a.last {
		to <- m
	}
	to <- prometheus.MustNewConstMetric(a.failed, prometheus.CounterValue, a.failures, a.what)
}

// observed is one value of a gauge.
type observed struct {
	value  float64
	labels []string
}

func (a *Collector) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), collectLimit)
	defer cancel()
	var mu sync.Mutex
	values := map[string][]observed{}
	if err := a.collect(ctx, func(gauge string, value float64, labels ...string) {
		mu.Lock()
		defer mu.Unlock()
		values[gauge] = append(values[gauge], observed{value, labels})
	}); err != nil {
		a.failures++
	}
	a.last = nil
	for _, g := range a.gauges {
		for _, o := range g.shown(values[g.Name]) {
			a.last = append(a.last, prometheus.MustNewConstMetric(a.descs[g.Name], prometheus.GaugeValue, o.value, o.labels...))
		}
	}
}

// shown are those values that the gauge shows.
func (g Gauge) shown(values []observed) []observed {
	most, sign := g.Highest, -1
	switch {
	case g.Lowest > 0:
		most, sign = g.Lowest, 1
	case g.Highest > 0:
		values = slices.DeleteFunc(values, func(o observed) bool { return !(o.value > 0) })
	default:
		return values
	}
	slices.SortFunc(values, func(x, y observed) int { // the same ones at each scrape where values are equal
		return cmp.Or(sign*cmp.Compare(x.value, y.value), slices.Compare(x.labels, y.labels))
	})
	return values[:min(len(values), most)]
}
