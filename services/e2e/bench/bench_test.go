//go:build unix

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// measured are groups that run all of the program's code: the others differ from them in numbers only.
var measured = []string{
	"push.redis.default", "push.kv.default", "latency.2000", "flood.orders", "flood.unreadable", "backlog.300ms.r2", "quota.concurrent", "follow", "follow.60000",
	"workers", "idle", "idle.10000", "vmi", "vmi.goods",
}

// The program is tested, not the machine: no figure is asserted.
func TestEveryRowIsMeasured(t *testing.T) {
	all := &bench{dir: t.TempDir(), rounds: 2, scale: 0.01, say: func(line string) { t.Log(time.Now().Format("05.0"), line) }}
	if err := all.build(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, group := range groupNames() {
		if measures(all)[group] == nil {
			t.Errorf("nothing measures %s", group)
		}
	}
	whole := newReport(all.rounds)
	var mu sync.Mutex
	var measuring sync.WaitGroup
	for _, group := range measured { // concurrently, and not as parallel tests, of which only a few run at a time: most of it is waiting
		measuring.Go(func() {
			r := newReport(all.rounds)
			if err := all.measure(t.Context(), group, r); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			all.say(group + " is measured")
			whole.Rows = append(whole.Rows, r.Rows...)
		})
	}
	measuring.Wait()
	file := filepath.Join(all.dir, "bench.json")
	if err := whole.write(file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Cores int
		Rows  []struct {
			ID      string
			Samples []float64
			How     string
		}
	}
	if err := json.Unmarshal(raw, &read); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range read.Rows {
		got = append(got, row.ID)
		if len(row.Samples) == 0 || row.How == "" {
			t.Errorf("%s has no samples, or does not say how they were measured", row.ID)
		}
	}
	slices.Sort(got)
	var want []string
	for _, b := range budgets() {
		if slices.Contains(measured, b.Group) {
			want = append(want, b.ID)
		}
	}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("measured %q\nwant     %q", got, want)
	}
}

func ids() (list []string) {
	for _, b := range budgets() {
		list = append(list, b.ID)
	}
	return list
}

func TestTheDocumentListsTheRowsOfTheProgram(t *testing.T) {
	text, err := os.ReadFile("../../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9.]+)` \\|.* \\| ([^|]+) \\| [^|]+ \\| [^|]+ \\|$").FindAllStringSubmatch(string(text), -1) {
		listed = append(listed, m[1])
		for _, b := range budgets() {
			if b.ID == m[1] && b.limit() != m[2] {
				t.Errorf("%s has budget %q in the document, %q in the program", b.ID, m[2], b.limit())
			}
		}
	}
	if !slices.Equal(listed, ids()) {
		t.Errorf("the document lists %q\nthe program measures %q", listed, ids())
	}
}

func TestRowsAreChosenByTheirNames(t *testing.T) {
	for only, want := range map[string]string{
		"": strings.Join(groupNames(), " "), "push.redis": "push.redis.default push.redis.always", "quota.used,idle.start": "quota idle", "backlog.1s": "backlog.1s.r1 backlog.1s.r2 backlog.1s.r4",
	} {
		got, err := chosen(only)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q chooses %q, %v; want %q", only, got, err, want)
		}
	}
	if _, err := chosen("push,typo"); err == nil {
		t.Error("rows that do not exist are chosen")
	}
}

func TestAFigureIsHeldAgainstItsBudget(t *testing.T) {
	r := newReport(3)
	for id, samples := range map[string][]float64{"quota.used": {0.2, 0.98, 0.99}, "latency.p99": {19, 21, 22}, "idle.10.memory": {1}} {
		if err := r.add(id, "", samples, nil); err != nil {
			t.Fatal(err)
		}
	}
	verdicts := map[string]string{}
	for _, row := range r.Rows {
		verdicts[row.ID] = row.verdict()
	}
	if verdicts["quota.used"] != "yes" || verdicts["latency.p99"] != "NO" || verdicts["idle.10.memory"] != "–" {
		t.Errorf("verdicts: %v", verdicts)
	}
	if err := r.add("vmi.memory", "", []float64{1}, nil); err != nil {
		t.Fatal(err)
	}
	if r.unfinished(); r.Rows[len(r.Rows)-1].verdict() != "NO" {
		t.Error("what did not come to its end is met")
	}
	if r.add("typo", "", []float64{1}, nil) == nil || r.add("idle.start", "", nil, nil) == nil {
		t.Error("a row that does not exist, or without samples, is added")
	}
}

func TestALaterRunReplacesRows(t *testing.T) {
	r := &Report{}
	r.merge(&Report{Rows: []Row{{ID: "idle.start", Median: 1}, {ID: "quota.used", Median: 1}}, Groups: []GroupRun{{Name: "quota", Seconds: 1}}})
	r.merge(&Report{Rows: []Row{{ID: "idle.start", Median: 2}, {ID: "gone", Median: 2}}})
	if len(r.Rows) != 2 || r.Rows[0].ID != "quota.used" || r.Rows[1].Median != 2 || len(r.Groups) != 1 {
		t.Errorf("merged: %+v", r)
	}
}

func TestMetricsAreRead(t *testing.T) {
	body := []byte(`# HELP stockbridge_consumer_runnable Messages.
stockbridge_consumer_runnable{consumer="order-pusher",service="x"} 12
stockbridge_consumer_runnable{consumer="order-pusher-cancel",service="x"} 99
stockbridge_consumer_runnable_other 5
stockbridge_quota_budget_calls_per_second{application="slow"} 50
stockbridge_quota_budget_calls_per_second{application="quick"} 2.5
stockbridge_quota_budget_concurrent_calls{application="slow"} 5
stockbridge_quota_budget_concurrent_calls{application="quick"} 5
stockbridge_warehouse_call_seconds_sum{class="push",method="m"} 4
stockbridge_warehouse_call_seconds_count{class="push",method="m"} 8
stockbridge_warehouse_call_seconds_sum{class="status",method="m"} 100
`)
	if runnable, headroom := chartQuery([][]byte{body, body}); runnable != 12 || headroom != 12.5 {
		t.Errorf("runnable %g, headroom %g", runnable, headroom)
	}
}
