package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	opsv1 "stockbridge/proto/ops/v1"
	"stockbridge/services/all"
)

// addDeadLetters stores n dead letters, as a worker does.
func addDeadLetters(t testing.TB, b *bus.Bus, n int) {
	t.Helper()
	for i := range n {
		no := fmt.Sprintf("SO-%d", i)
		if _, _, err := b.PublishRaw(t.Context(), event.DeadLetterSubject(event.Dead, "order-pusher", "INTAKE", uint64(i+1)), map[string][]string{
			event.HeaderID: {"order.audited/acme/" + no}, event.HeaderOriginSubject: {"order.audited.acme"}, event.HeaderOriginStream: {"INTAKE"},
			event.HeaderOriginSeq: {fmt.Sprint(i + 1)}, event.HeaderOriginTime: {time.Now().UTC().Format(time.RFC3339Nano)},
			event.HeaderSeller: {"acme"}, event.HeaderKey: {no}, event.HeaderClass: {"permanent"}, event.HeaderReason: {`{"Code":"goods.unknown","EN":"no such goods"}`},
			event.HeaderAttempts: {"1"}, event.HeaderLast: {time.Now().UTC().Format(time.RFC3339Nano)},
		}, []byte(`{}`)); err != nil {
			t.Fatal(err)
		}
	}
}

// ran is the result of a command line.
type ran struct {
	code     int
	out, err string
}

func runs(ctx context.Context, url, in string, terminal bool, args ...string) ran {
	var out, errs bytes.Buffer
	code := Run(ctx, append([]string{"bridgectl", "--nats-url", url, "--who", "ops"}, args...),
		Streams{In: strings.NewReader(in), Out: &out, Err: &errs, Terminal: terminal})
	return ran{code, out.String(), errs.String()}
}

func acts(t testing.TB, b *bus.Bus) (all []*opsv1.Act) {
	t.Helper()
	if err := b.Acts(t.Context(), "", time.Time{}, func(_ uint64, a *opsv1.Act) error {
		all = append(all, a)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// Three operators replay the same 200 messages from three terminals: the counts that they print and record add up to
// 200.
func TestConcurrentReplaysCountEachMessageOnce(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, all.Bus()...)
	const messages = 200
	addDeadLetters(t, b, messages)
	results := make([]ran, 3)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			results[i] = runs(t.Context(), url, "", false, "dlq", "replay", "--all", "--per-second", "0", "--wait", "0s", "-o", "json", "--why", fmt.Sprint("terminal ", i))
		})
	}
	wg.Wait()
	sum := 0
	for _, r := range results {
		var doc doneJSON
		if err := json.Unmarshal([]byte(r.out), &doc); err != nil || r.code != 0 {
			t.Fatalf("ended %d: %v\n%s%s", r.code, err, r.out, r.err)
		}
		if doc.Count != len(doc.No) {
			t.Errorf("counts %d and names %d", doc.Count, len(doc.No))
		}
		sum += doc.Count
	}
	if sum != messages {
		t.Errorf("%d replayed in all, want %d", sum, messages)
	}
	recorded, asked := int64(0), 0
	for _, a := range acts(t, b) {
		switch a.Stage {
		case opsv1.Act_STAGE_ASKED:
			asked++
		case opsv1.Act_STAGE_DONE:
			recorded += a.Count
		default:
			t.Errorf("%v", a)
		}
	}
	if recorded != messages || asked > 3 {
		t.Errorf("%d recorded of %d acts, want %d of 3 at most", recorded, asked, messages)
	}
}

// An act that started is recorded with its messages, even if it never ended.
func TestAnInterruptedActLeavesItsRecord(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, all.Bus()...)
	addDeadLetters(t, b, actPart+50)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan ran, 1)
	go func() {
		ended <- runs(ctx, url, "", false, "dlq", "replay", "--seller", "acme", "--per-second", "1", "--why", "goods added")
	}()
	for len(acts(t, b)) < 2 { // the first part is asked for
		if t.Context().Err() != nil {
			t.FailNow()
		}
	}
	cancel()
	r := <-ended
	if r.code != exitWrong || !strings.Contains(r.err, "the same command continues with the rest") {
		t.Fatalf("ended %d\n%s%s", r.code, r.out, r.err)
	}
	first := acts(t, b)[0]
	if first.Stage != opsv1.Act_STAGE_ASKED || first.Count != actPart+50 || first.Who != "ops" || first.Why != "goods added" || first.Verb != "dlq replay" || first.Target != "--seller acme" {
		t.Errorf("asked: %v", first)
	}
	second := acts(t, b)[1]
	if second.Part != 2 || len(second.Items) != actPart || second.Items[0].Key != "SO-0" || second.Items[0].Code != "goods.unknown" || second.Seller != "acme" {
		t.Errorf("part: %v", second)
	}
	ls := runs(t.Context(), url, "", false, "acts", "ls", "--order", "SO-3")
	if ls.code != 0 || !strings.Contains(ls.out, "failed") || !strings.Contains(ls.out, "goods added") {
		t.Errorf("acts ls: %+v", ls)
	}
}

// A person at a terminal is asked first. A script is not asked, except before a drop.
func TestAPersonIsAskedBeforeAnAct(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, all.Bus()...)
	addDeadLetters(t, b, 3)
	left := func() int {
		t.Helper()
		items, _, err := b.DeadLetters(t.Context(), bus.DeadLetterQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return len(items)
	}
	for _, c := range []struct {
		name     string
		in       string
		terminal bool
		args     []string
		code     int
		says     string
		left     int
	}{
		{"a person says no", "n\n", true, []string{"dlq", "replay", "--all"}, exitWrong, "not confirmed: nothing was replayed", 3},
		{"a person says nothing", "", true, []string{"dlq", "drop", "--all"}, exitWrong, "dlq drop: 3 messages", 3},
		{"a script drops without a yes", "", false, []string{"dlq", "drop", "--all"}, exitUsage, "say --yes", 3},
		{"a person says yes", "y\n", true, []string{"dlq", "replay", "--all", "--limit", "1", "--wait", "0s"}, exitOK, "1 order-pusher goods.unknown: 1 SO-0", 2},
		{"numbers are not asked for", "", true, []string{"dlq", "replay", "2", "--wait", "0s"}, exitOK, "", 1},
		{"a script is not asked", "", false, []string{"dlq", "replay", "--all", "--wait", "0s"}, exitOK, "dlq replay: 1 message", 0},
	} {
		r := runs(t.Context(), url, c.in, c.terminal, c.args...)
		if r.code != c.code || !strings.Contains(r.err, c.says) || left() != c.left {
			t.Errorf("%s: ended %d, %d left\n%s%s", c.name, r.code, left(), r.out, r.err)
		}
	}
}
