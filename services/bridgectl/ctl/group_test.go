package ctl

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/services/all"
)

// addGroup publishes n unreadable messages and stores their group, as a worker does. It returns the group's number.
func addGroup(t testing.TB, b *bus.Bus, day uint64, n int) (no uint64) {
	t.Helper()
	var first uint64
	for i := range n {
		_, seq, err := b.PublishRaw(t.Context(), "order.audited.acme", nil, fmt.Appendf(nil, `{"outbound_no":"SO-%d",`, i))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = seq
		}
	}
	now := time.Now().UTC()
	body := fmt.Sprintf(`{"id":"%d","since":%q,"ranges":[[%d,%d,%d,600000]]}`, day, now.Format(time.RFC3339), first, n-1, now.Add(-5*time.Minute).UnixMilli())
	_, no, err := b.PublishRaw(t.Context(), event.GroupSubject("order-pusher", "acme", "malformed", day), map[string][]string{
		event.HeaderOriginSubject: {"order.audited.acme"}, event.HeaderOriginStream: {"INTAKE"}, event.HeaderOriginSeq: {fmt.Sprint(first)},
		event.HeaderSeller: {"acme"}, event.HeaderClass: {"permanent"}, event.HeaderReason: {`{"Code":"malformed","ZH":"不是合法的 JSON","EN":"not JSON"}`},
		event.HeaderAttempts: {"1"}, event.HeaderFirst: {now.Format(time.RFC3339Nano)}, event.HeaderLast: {now.Format(time.RFC3339Nano)},
	}, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return no
}

func TestAGroupIsShownReplayedAndDropped(t *testing.T) {
	t.Parallel()
	b, url := bustest.StartServer(t, all.Bus()...)
	addDeadLetters(t, b, 2)
	no := addGroup(t, b, 1000, 250)
	run := func(want string, args ...string) string {
		t.Helper()
		r := runs(t.Context(), url, "", false, args...)
		if r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%v ended %d, without %q\n%s%s", args, r.code, want, r.out, r.err)
		}
		return r.out
	}
	run("252 messages, 2 causes", "dlq", "ls")
	if out := run("250 messages", "dlq", "ls", "--code", "malformed"); strings.Count(out, "\n") > 3 {
		t.Errorf("a group is a line:\n%s", out)
	}
	show := func(args ...string) (doc deadLetterJSON) {
		t.Helper()
		text := run("", append([]string{"dlq", "show", fmt.Sprint(no), "--reveal", "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		return doc
	}
	first := show()
	if first.Count != 250 || len(first.Ranges) != 1 || first.Shown != first.Seq || !strings.Contains(string(first.Body), "SO-0") {
		t.Errorf("%+v", first)
	}
	if third := show("--nth", "3"); third.Shown != first.Seq+2 || !strings.Contains(string(third.Body), "SO-2") {
		t.Errorf("%+v", third)
	}
	if last := show("--seq", fmt.Sprint(first.Seq+249)); !strings.Contains(string(last.Body), "SO-249") {
		t.Errorf("%+v", last)
	}
	for _, wrong := range [][]string{{"--nth", "251"}, {"--seq", fmt.Sprint(first.Seq + 250)}} {
		if r := runs(t.Context(), url, "", false, append([]string{"dlq", "show", fmt.Sprint(no)}, wrong...)...); r.code != 2 {
			t.Errorf("%v ended %d: %s", wrong, r.code, r.err)
		}
	}
	run("of its 250 messages: permanent", "order", "explain", "SO-17", "--seller", "acme", "--lang", "en")
	if err := b.Erase(t.Context(), "INTAKE", first.Seq+5, time.Time{}); err != nil {
		t.Fatal(err)
	}
	run("would be replayed: 250 messages", "dlq", "replay", "--code", "malformed", "--dry-run")
	run("replayed 249 messages; 1 are no longer in their stream", "dlq", "replay", fmt.Sprint(no), "--per-second", "0", "--wait", "0s", "--why", "it can be read now")
	run("2 messages", "dlq", "ls", "--group")
	if all := acts(t, b); all[len(all)-1].GetCount() != 250 || all[len(all)-1].GetWhy() != "it can be read now" {
		t.Errorf("recorded %v", all[len(all)-1])
	}

	no = addGroup(t, b, 2000, 3)
	run("dropped 3 messages", "dlq", "drop", fmt.Sprint(no), "--yes")
	run("2 messages", "dlq", "ls", "--group")
}
