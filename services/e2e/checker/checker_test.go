package checker_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/ledger"
	"stockbridge/services/e2e/checker"
	"stockbridge/services/e2e/history"
)

var began = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }

// fixture is a history made by hand. The clean one is a day on which everything happens and nothing breaks.
type fixture struct {
	setting     history.Setting
	audits      []history.Audit
	acts        []history.Act
	events      []history.Event
	faults      []history.Fault
	processes   []history.Process
	calls       []history.Call
	documents   []jdsandbox.Document
	violations  jdsandbox.Violations
	deadLetters []history.DeadLetter
	ledger      []history.Entry
	seq         uint64
}

func (h *fixture) audit(no string, sent float64) *history.Audit {
	h.audits = append(h.audits, history.Audit{
		Seller: "demo", OrderNo: "SO-" + no, OutboundNo: no, Lines: []string{"1", "2"}, Revision: 1, Hash: "hash-" + no,
		Sent: at(sent), Acked: at(sent + 0.01),
	})
	h.event("order.audited", no, sent+0.01, func(e *history.Event) { e.Hash = "hash-" + no })
	return &h.audits[len(h.audits)-1]
}

func (h *fixture) event(name, no string, stored float64, change func(*history.Event)) {
	h.seq++
	e := history.Event{Stream: "ORDERS", Seq: h.seq, Stored: at(stored), Seen: at(stored + 0.1), Name: name, OutboundNo: no, Seller: "demo"}
	if change != nil {
		change(&e)
	}
	h.events = append(h.events, e)
}

func (h *fixture) garbage(stored float64) {
	h.event("order.audited", "", stored, func(e *history.Event) { e.Stream = "INTAKE" })
}

func (h *fixture) document(no, number string, created float64) {
	h.documents = append(h.documents, jdsandbox.Document{EclpSoNo: number, IsvUUID: no, Created: at(created), Status: "10019"})
}

func (h *fixture) accepted(no, number string, stored float64) {
	h.event("order.accepted", no, stored, func(e *history.Event) { e.Number = number })
}

func (h *fixture) entry(no, number string, attempts ...ledger.Attempt) {
	h.ledger = append(h.ledger, history.Entry{Seller: "demo", OutboundNo: no, State: ledger.Accepted, Number: number, Tries: 1, Attempts: attempts})
}

// order is one that goes well.
func (h *fixture) order(no string, sent float64) {
	h.audit(no, sent)
	h.document(no, "ESL"+no, sent+0.2)
	h.accepted(no, "ESL"+no, sent+0.3)
	h.entry(no, "ESL"+no,
		ledger.Attempt{At: at(sent + 0.1), Owner: "run-" + no, What: "begun"}, ledger.Attempt{At: at(sent + 0.25), Owner: "run-" + no, What: "accepted"})
	h.calls = append(h.calls, history.Call{Call: jdsandbox.Call{
		Seq: int64(len(h.calls) + 1), At: at(sent + 0.15), TookMillis: 80, App: "app", Method: "eclp.order.addOrder", IsvUUID: no, Answer: "ok", Code: "0",
	}})
}

func clean() *fixture {
	h := &fixture{setting: history.Setting{
		Began: began, What: "by hand", DeadlineSeconds: 60, GraceSeconds: 40, HealthySeconds: 5, MaxAttempts: 12,
		Apps: []history.App{{Key: "app", PerSecond: 3, Concurrent: 2}},
	}}
	h.order("A1", 0)
	h.order("A2", 1)

	// Refused and dead-lettered.
	h.audit("F1", 2)
	h.event("order.failed", "F1", 2.5, func(e *history.Event) { e.Code = "stock" })
	h.deadLetters = append(h.deadLetters, history.DeadLetter{Kind: "dlq", OutboundNo: "F1", Hash: "hash-F1", Code: "stock", First: at(2), Last: at(2.6)})
	// Nobody can read it, and it is a dead letter.
	h.garbage(2.7)
	h.deadLetters = append(h.deadLetters, history.DeadLetter{Kind: "dlq", Code: "malformed", Stream: "INTAKE", OriginSeq: h.seq, First: at(2.7), Last: at(2.8)})
	// Held, and still waiting.
	h.audit("H1", 3)
	h.event("order.held", "H1", 3.5, nil)
	h.deadLetters = append(h.deadLetters, history.DeadLetter{Kind: "held", OutboundNo: "H1", Hash: "hash-H1", First: at(3), Last: at(3.6)})
	// Refused, replayed by a person, then accepted.
	h.order("R1", 4)
	h.event("order.failed", "R1", 4.1, nil)
	h.acts = append(h.acts, history.Act{OutboundNo: "R1", What: history.Replayed, At: at(4.2)})
	// Never acknowledged, without an outcome.
	a := h.audit("N1", 5)
	a.Acked = time.Time{}
	// Slow only because JD was down.
	h.faults = append(h.faults, history.Fault{Kind: history.JDDown, Began: at(10), Ended: at(100), Outage: true})
	h.audit("S1", 9)
	h.document("S1", "ESLS1", 102)
	h.accepted("S1", "ESLS1", 103)
	h.entry("S1", "ESLS1")
	// A worker was killed with a call in flight, and the next one found its order at the warehouse.
	h.audit("K1", 110)
	h.document("K1", "ESLK1", 110.2)
	h.accepted("K1", "ESLK1", 152)
	h.entry("K1", "ESLK1", ledger.Attempt{At: at(110.1), Owner: "dead", What: "begun"}, ledger.Attempt{At: at(151), Owner: "next", What: "begun"}, ledger.Attempt{At: at(152), Owner: "next", What: "accepted"})
	h.calls = append(h.calls, history.Call{Call: jdsandbox.Call{At: at(110.15), TookMillis: 100, App: "app", Method: "eclp.order.addOrder"}})
	h.processes = append(h.processes,
		history.Process{Name: "pusher-1", PID: 11, What: history.Started, At: at(0)},
		history.Process{Name: "pusher-1", PID: 11, What: history.Kill, At: at(110.2)},
		history.Process{Name: "pusher-1", PID: 11, What: history.Ended, At: at(110.21), Code: -1},
		history.Process{Name: "pusher-1", PID: 12, What: history.Started, At: at(111)},
		history.Process{Name: "pusher-1", PID: 12, What: history.Termed, At: at(190)},
		history.Process{Name: "pusher-1", PID: 12, What: history.Ended, At: at(191)},
	)
	h.faults = append(h.faults, history.Fault{Kind: history.Killed, Began: at(110.2), Ended: at(110.2)})
	// Redis was wiped: A1 is only known again because it was audited again.
	h.faults = append(h.faults, history.Fault{Kind: history.RedisWiped, Began: at(160), Ended: at(160)})
	h.audit("A1", 161)
	h.ledger = slices.DeleteFunc(h.ledger, func(e history.Entry) bool { return e.OutboundNo == "A2" })
	h.ledger = append(h.ledger, history.Entry{Seller: "demo", OutboundNo: "A2", Missing: true})
	// JetStream was restored: B1 was published again, B2 was not, B3 had its outcome.
	h.faults = append(h.faults, history.Fault{Kind: history.BrokerRestored, Copied: at(165), Began: at(170), Ended: at(171), Outage: true})
	h.audit("B2", 166)
	h.audit("B1", 166.5)
	h.order("B3", 167)
	h.events = append(h.events, history.Event{Rollback: true, Seen: at(171), Copied: at(165)})
	h.order("B1", 172)
	// Other sellers crowd, and healthy ones publish before and meanwhile.
	for i, sent := range []float64{150, 151, 176, 178} {
		no := "C" + string(rune('1'+i))
		h.order(no, sent)
		for j := range h.audits {
			if h.audits[j].OutboundNo == no {
				h.audits[j].Group = history.Healthy
			}
		}
	}
	h.faults = append(h.faults, history.Fault{Kind: history.Crowded, Began: at(175), Ended: at(180)})
	// Redis was killed between JD's answer and its record: the claim had to expire. No other seller delayed it.
	h.audit("C5", 179)
	h.audits[len(h.audits)-1].Group = history.Healthy
	h.document("C5", "ESLC5", 179.2)
	h.faults = append(h.faults, history.Fault{Kind: history.RedisKilled, Began: at(179.25), Ended: at(179.5), Outage: true})
	h.accepted("C5", "ESLC5", 221)
	h.entry("C5", "ESLC5")
	return h
}

// write makes the folder. At the end the streams have everything but what the restore removed.
func (h *fixture) write(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	r, err := history.New(dir, h.setting)
	if err != nil {
		t.Fatal(err)
	}
	add(r, history.Audits, h.audits)
	add(r, history.Acts, h.acts)
	add(r, history.Events, h.events)
	history.Add(r, history.Events, history.Event{Final: true, Seen: at(200)})
	gone := func(e history.Event) bool { return e.Stored.After(at(165)) && e.Stored.Before(at(171)) }
	add(r, history.Events, slices.DeleteFunc(slices.Clone(h.events), func(e history.Event) bool { return e.Rollback || gone(e) }))
	add(r, history.Faults, h.faults)
	add(r, history.Processes, h.processes)
	add(r, history.Calls, h.calls)
	add(r, history.Documents, h.documents)
	history.Add(r, history.Violations, h.violations)
	add(r, history.DeadLetters, h.deadLetters)
	add(r, history.Ledger, h.ledger)
	if err := r.End(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func add[T any](r *history.Recorder, name history.File[T], list []T) {
	for _, x := range list {
		history.Add(r, name, x)
	}
}

func (h *fixture) judged(t *testing.T) *checker.Report {
	t.Helper()
	r, err := checker.Read(h.write(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(t *testing.T, r *checker.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestACleanRunHoldsAllPromises(t *testing.T) {
	r := clean().judged(t)
	said := text(t, r)
	if len(r.Broken()) > 0 || len(r.Undecided()) > 0 || len(r.Missing([]string{"P1", "P2", "P6", "P7", "P8", "P9", "P10"})) > 0 {
		t.Fatal(said)
	}
	for _, want := range []string{
		"of these with a call in flight 1",
		"never acknowledged: nothing is promised 1",
		"late only because of an outage 1",
		"taken away by a restore of JetStream and not published again: reconcile's 1",
		"held, waiting 1",
		"runs without an end, explained by a fault 1",
		"at the warehouse, unknown to the ledger, excused: no reconciler ran, its audit is gone, or it is dead-lettered 1",
		"measured to its document, because an outage cut off the answer 1",
		"app: 1 calls in the fullest second of 3 allowed",
	} {
		if !strings.Contains(strings.Join(strings.Fields(said), " "), want) {
			t.Errorf("not said: %s", want)
		}
	}
	if t.Failed() {
		t.Log(said)
	}
}

func TestEachBrokenPromiseIsNamedWithItsOrder(t *testing.T) {
	remove := func(h *fixture, name, no string) {
		h.events = slices.DeleteFunc(h.events, func(e history.Event) bool { return e.Name == name && e.OutboundNo == no })
	}
	for _, c := range []struct {
		name    string
		spoil   func(h *fixture)
		promise string
		about   string
		means   string
	}{
		{"two documents under one number", func(h *fixture) { h.document("A2", "ESLX", 1.5) }, "P1", "A2", "2 documents"},
		{"a line lives under two numbers", func(h *fixture) {
			h.order("A1b", 20)
			h.audits[len(h.audits)-1].OrderNo = "SO-A1"
		}, "P1", "A1", "lives under 2 numbers"},
		{"a line lived twice for a while", func(h *fixture) {
			h.violations.Counts = map[jdsandbox.ViolationKind]int64{jdsandbox.LineLiveTwice: 1}
		}, "P1", "line_live_twice", "while it went on"},
		{"a document that nobody audited", func(h *fixture) { h.document("Z9", "ESLZ9", 1) }, "P1", "Z9", "nobody audited"},
		{"garbage that is no dead letter", func(h *fixture) { h.seq = 900; h.garbage(8) }, "P2", "INTAKE/901", "cannot be read"},
		{"an audit that came to nothing", func(h *fixture) { h.audit("L1", 8) }, "P2", "L1", "forgotten"},
		{"an audit that the stream lost", func(h *fixture) {
			h.audit("L1", 8)
			remove(h, "order.audited", "L1")
		}, "P2", "L1", "the stream does not have it"},
		{"held, then released without an outcome", func(h *fixture) {
			h.deadLetters = slices.DeleteFunc(h.deadLetters, func(s history.DeadLetter) bool { return s.OutboundNo == "H1" })
			remove(h, "order.held", "H1")
		}, "P2", "H1", "forgotten"},
		{"late although nothing was down", func(h *fixture) {
			h.audit("L1", 101)
			h.document("L1", "ESLL1", 102)
			h.accepted("L1", "ESLL1", 164.9)
			h.entry("L1", "ESLL1")
		}, "P2", "L1", "late"},
		{"accepted under two numbers", func(h *fixture) { h.accepted("A2", "ESLX", 2) }, "P2", "A2", "several of the warehouse's numbers"},
		{"accepted, but not at the warehouse", func(h *fixture) {
			h.documents = slices.DeleteFunc(h.documents, func(d jdsandbox.Document) bool { return d.IsvUUID == "A2" })
		}, "P2", "A2", "will never ship"},
		{"accepted and failed", func(h *fixture) { h.event("order.failed", "A2", 2, nil) }, "P2", "A2", "two outcomes"},
		{"at the warehouse, and nothing was published", func(h *fixture) { remove(h, "order.accepted", "A2") }, "P2", "A2", "nothing was published"},
		{"failed, and the warehouse ships it", func(h *fixture) { h.document("F1", "ESLF1", 2.2) }, "P2", "F1", "published as failed"},
		{"a replay that comes to nothing", func(h *fixture) {
			h.acts = append(h.acts, history.Act{OutboundNo: "F1", What: history.Replayed, At: at(3)})
			h.deadLetters = slices.DeleteFunc(h.deadLetters, func(s history.DeadLetter) bool { return s.OutboundNo == "F1" })
		}, "P9", "F1", "lost by a replay"},
		{"a stop that never ended", func(h *fixture) { h.processes = h.processes[:len(h.processes)-1] }, "P6", "pusher-1", "never ended"},
		{"a stop that took too long", func(h *fixture) { h.processes[len(h.processes)-1].At = at(233) }, "P6", "pusher-1", "took 43s"},
		{"a stop with an error", func(h *fixture) { h.processes[len(h.processes)-1].Code = 1 }, "P6", "pusher-1", "with an error"},
		{"a run cut off by a stop", func(h *fixture) {
			h.entry("C4", "ESLC4", ledger.Attempt{At: at(189), Owner: "x", What: "begun"})
			h.processes = append(h.processes,
				history.Process{Name: "pusher-2", PID: 13, What: history.Termed, At: at(225)}, history.Process{Name: "pusher-2", PID: 13, What: history.Ended, At: at(226)})
			h.ledger[len(h.ledger)-1].Attempts[0].At = at(220)
		}, "P6", "C4", "cut off by a stop"},
		{"attempts used up for nothing", func(h *fixture) {
			h.deadLetters = append(h.deadLetters, history.DeadLetter{Kind: "dlq", OutboundNo: "F1", Code: "attempts", Attempts: 12, First: at(2), Last: at(5)})
		}, "P6", "F1", "no fault explains"},
		{"shipped again after the ledger was wiped", func(h *fixture) { h.document("A1", "ESLX", 162) }, "P7", "A1", "shipped twice after redis-wiped"},
		{"audited again, and the ledger still does not know it", func(h *fixture) {
			h.audit("A2", 173)
		}, "P7", "A2", "the ledger does not know it"},
		{"nobody audited it again, and the reconciler did not find it", func(h *fixture) {
			h.setting.Reconciles = true
		}, "P7", "A2", "after a reconcile cycle the ledger still does not know it"},
		{"a healthy order waits behind others", func(h *fixture) {
			for i := range h.events {
				if h.events[i].Name == "order.accepted" && h.events[i].OutboundNo == "C3" {
					h.events[i].Stored = at(183)
				}
			}
		}, "P8", "C3", "delayed by others"},
		{"a healthy order's document is late, whatever cut off its answer", func(h *fixture) {
			for i := range h.documents {
				if h.documents[i].IsvUUID == "C5" {
					h.documents[i].Created = at(187)
				}
			}
			h.faults[len(h.faults)-1].Began, h.faults[len(h.faults)-1].Ended = at(187.1), at(187.2)
		}, "P8", "C5", "delayed by others"},
		{"a healthy order is never accepted", func(h *fixture) { remove(h, "order.accepted", "C3") }, "P8", "C3", "never accepted while others crowded"},
		{"more calls than allowed", func(h *fixture) {
			for i := range 4 {
				h.calls = append(h.calls, history.Call{Call: jdsandbox.Call{At: at(20 + float64(i)/10), App: "app", Method: "eclp.order.queryOrder"}})
			}
		}, "P10", "app", "4 calls in one second, 3 are allowed"},
		{"more calls at a time than allowed", func(h *fixture) {
			for i := range 3 {
				h.calls = append(h.calls, history.Call{Call: jdsandbox.Call{At: at(20 + float64(i)), TookMillis: 5000, App: "app"}})
			}
		}, "P10", "app", "3 calls at a time"},
		{"a call refused for the quota", func(h *fixture) {
			h.calls = append(h.calls, history.Call{Call: jdsandbox.Call{At: at(20), App: "app", Answer: "refused", Code: "2"}})
		}, "P10", "app", "1 calls were refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := clean()
			c.spoil(h)
			r := h.judged(t)
			for _, p := range r.Promises {
				for _, b := range p.Breaks {
					if p.Name == c.promise && b.About == c.about && strings.Contains(b.Means, c.means) {
						return
					}
				}
			}
			t.Errorf("not found: %s %s %s\n%s", c.promise, c.about, c.means, text(t, r))
		})
	}
}

func TestWhatCannotBeDecidedIsNoPass(t *testing.T) {
	short := clean()
	short.setting.DeadlineSeconds = 1e9
	short.audit("L1", 8)
	if r := short.judged(t); !slices.Equal(r.Undecided(), []string{"P2"}) || len(r.Broken()) > 0 {
		t.Error(text(t, r))
	}
	holes := clean()
	holes.calls = append(holes.calls, history.Call{Missing: "they were gone"})
	if r := holes.judged(t); !slices.Equal(r.Undecided(), []string{"P10"}) {
		t.Error(text(t, r))
	}
	stranger := clean()
	stranger.calls = append(stranger.calls, history.Call{Call: jdsandbox.Call{At: at(1), App: "other"}})
	if r := stranger.judged(t); !slices.Equal(r.Undecided(), []string{"P10"}) {
		t.Error(text(t, r))
	}
	quiet := clean()
	quiet.faults = nil
	if r := quiet.judged(t); !slices.Equal(r.Missing([]string{"P1", "P7", "P8"}), []string{"P7", "P8"}) {
		t.Error(text(t, r))
	}
}

func TestAHistoryThatIsNotWholeIsNotJudged(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"garbled", "events.jsonl", "{\"stream\":\"ORDERS\"}\nnot json\n", "events.jsonl"},
		{"of another make", "faults.jsonl", "{\"sort\":\"killed\"}\n", "faults.jsonl"},
		{"cut off", "calls.jsonl", "{\"seq\":1", "calls.jsonl line 1"},
		{"empty", "documents.jsonl", "", "documents.jsonl has 0 lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := clean().write(t)
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := checker.Read(dir); !errors.Is(err, history.ErrIncomplete) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to name %s", err, c.want)
			}
		})
	}
	dir := clean().write(t)
	path := filepath.Join(dir, "events.jsonl")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(raw), "\n")
	lines[6] = "{\"seq\":\"seven\"}\n"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := checker.Read(dir); err == nil || !strings.Contains(err.Error(), "events.jsonl line 7") {
		t.Errorf("a garbled line: %v", err)
	}
}
