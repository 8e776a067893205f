package history_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox/control"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/wiring"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/testenv"
)

func lines[T any](t *testing.T, dir string, name history.File[T]) []T {
	t.Helper()
	var all []T
	if err := name.Read(dir, func(line T) error { all = append(all, line); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestARunIsRecordedWhole(t *testing.T) {
	w := testenv.Start(t, testenv.Options{Ledger: "kv"})
	dir := filepath.Join(t.TempDir(), "run")
	r, err := history.New(dir, history.Setting{Began: time.Now(), What: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := history.New(dir, history.Setting{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("two runs in one folder: %v", err)
	}
	jd := control.New(w.SandboxURL)
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { r.Follow(ctx, w.Bus) })
	following.Go(func() { r.FollowCalls(ctx, jd) })

	list := w.Maker.Make(3)
	list[1].Receiver.Name = "张*" // waits for a readable receiver
	for _, o := range list {
		a := history.AuditOf(o)
		a.Sent = time.Now()
		w.Publish(o)
		a.Acked = time.Now()
		r.Audit(a)
	}
	number := w.Accepted(list[0])
	w.Accepted(list[2])
	w.Until("one is held", func() bool { return len(w.DeadLetters("held")) == 1 })
	r.RolledBack(time.Now()) // so that everything is read again
	r.Process(history.Process{Name: "p", What: history.Started, At: time.Now()})
	r.Fault(history.Fault{Kind: history.Killed, Began: time.Now()})
	r.Act(history.Act{OutboundNo: "x", What: history.Dropped})
	stop()
	following.Wait()
	if _, err := history.Check(dir); !errors.Is(err, history.ErrIncomplete) {
		t.Errorf("a run that did not end: %v", err)
	}
	if err := r.Finish(t.Context(), history.Sources{Bus: w.Bus, Ledger: shared(t, w), JD: jd}); err != nil {
		t.Fatal(err)
	}
	if _, err := history.Check(dir); err != nil {
		t.Fatal(err)
	}

	accepted, held := map[string]string{}, ""
	for _, e := range lines(t, dir, history.Events) {
		switch e.Name {
		case "order.accepted":
			accepted[e.OutboundNo] = e.Number
		case "order.held":
			held = e.OutboundNo
		}
	}
	if accepted[list[0].OutboundNo] != number || len(accepted) != 2 || held != list[1].OutboundNo {
		t.Errorf("accepted %v, held %q", accepted, held)
	}
	if dead := lines(t, dir, history.DeadLetters); len(dead) != 1 || dead[0].Hash != history.HashOf(list[1]) || dead[0].OutboundNo != list[1].OutboundNo {
		t.Errorf("dead %+v", dead)
	}
	states := map[string]history.Entry{}
	for _, e := range lines(t, dir, history.Ledger) {
		states[e.OutboundNo] = e
	}
	if states[list[0].OutboundNo].Number != number || states[list[0].OutboundNo].State != ledger.Accepted || !states[list[1].OutboundNo].Missing {
		t.Errorf("ledger %+v", states)
	}
	if docs, calls := lines(t, dir, history.Documents), lines(t, dir, history.Calls); len(docs) != 2 || docs[0].Params != nil || len(calls) < 2 {
		t.Errorf("%d documents, %d calls", len(docs), len(calls))
	}
}

func shared(t *testing.T, w *testenv.World) ledger.Documents {
	t.Helper()
	l, err := wiring.Ledger(t.Context(), "", w.Bus)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestCallsThatTheLogLostAreMarked(t *testing.T) {
	w := testenv.Start(t, testenv.Options{Ledger: "kv"})
	dir := filepath.Join(t.TempDir(), "run")
	r, err := history.New(dir, history.Setting{})
	if err != nil {
		t.Fatal(err)
	}
	w.Publish(w.Maker.Next())
	w.Until("JD was called", func() bool { return len(w.JD.Calls()) > 0 })
	jd := control.New(w.SandboxURL)
	look := func() {
		t.Helper()
		if err := r.ReadCalls(t.Context(), jd); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if err := w.JD.Reset(); err != nil {
		t.Fatal(err)
	}
	look()
	r.Abandon()
	missing := 0
	for _, c := range lines(t, dir, history.Calls) {
		if c.Missing != "" {
			missing++
		}
	}
	if missing != 1 {
		t.Errorf("a sandbox that began anew is marked %d times", missing)
	}
}

func TestAFolderThatIsNotWholeIsAnErrorWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  string
	}{
		{"a file is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "ledger.jsonl")) }, "ledger.jsonl"},
		{"the last line is cut off", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "faults.jsonl"), []byte("{\"kind\":\"killed\",\"began\":\"2026-01-01T00:00:00Z\",\"ended\":\"2026-01-01T00:00:00Z\"}\n{\"ki"), 0o600)
		}, "faults.jsonl line 2: the history is incomplete: cut off"},
		{"a line is missing", func(dir string) error { return os.WriteFile(filepath.Join(dir, "faults.jsonl"), nil, 0o600) }, "faults.jsonl has 0 lines, end.jsonl says 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "run")
			r, err := history.New(dir, history.Setting{})
			if err != nil {
				t.Fatal(err)
			}
			r.Fault(history.Fault{Kind: history.Killed})
			if err := r.End(); err != nil {
				t.Fatal(err)
			}
			if _, err := history.Check(dir); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := history.Check(dir); !errors.Is(err, history.ErrIncomplete) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dead_letters.jsonl"), []byte("{\"kind\":\"dlq\"}\n{\"kind\":7}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := history.DeadLetters.Read(dir, func(history.DeadLetter) error { return nil }); err == nil || !strings.Contains(err.Error(), "dead_letters.jsonl line 2") {
		t.Errorf("garbled: %v", err)
	}
}
