package jdsandbox_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

// again starts a second sandbox on the first one's file, as after a kill: the first is not closed.
func (s *sandbox) again(t *testing.T) *sandbox {
	t.Helper()
	r := start(t, func(c *jdsandbox.Config) { *c = s.cfg; c.Now = s.clock.Now })
	r.clock = s.clock
	return r
}

func TestStateSurvives(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jd.journal")
	s := still(t, func(c *jdsandbox.Config) { c.State = file; c.Knobs.Split.Orders = []string{"A-3"} })
	first := s.add(anOrder("A-1"))
	s.add(anOrder("A-1"))
	s.add(with(anOrder("A-2"), object{"salesPlatformOrderNo": "SP-A-1"}))
	s.add(anOrder("A-3"))
	s.advance(2 * time.Minute)
	if _, err := s.call("eclp.order.cancelOrder", object{"eclpSoNo": first}); err != nil { // hangs
		t.Fatal(err)
	}
	s.fault(jdsandbox.Fault{Kind: jdsandbox.LoseAnswer, Count: 1})
	_, _ = s.call(addOrder, anOrder("A-4"))
	p := s.system(addOrder)
	p["sign"] = "x"
	_, _, _ = s.post(p)
	s.add(anOrder("A-5"))

	r := s.again(t)
	same := func() {
		t.Helper()
		now, _ := s.Clock()
		then, _ := r.Clock()
		equal(t, "clock", then, now)
		equal(t, "documents", text(t, r.Documents()), text(t, s.Documents()))
		equal(t, "violations", text(t, r.Violations()), text(t, s.Violations()))
		equal(t, "one", text(t, r.document(first)), text(t, s.document(first)))
	}
	same()
	equal(t, "violations", s.Violations().Total, 1+2+1) // a twin; two lines; a signature
	r.advance(time.Hour)
	s.advance(time.Hour)
	same()
	equal(t, "next number", r.add(anOrder("A-6")), "ESL4400000000009")
	equal(t, "repeated number", len(r.find(object{"isvUUID": "A-4"})), 1)
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestTornStateIsCut(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jd.journal")
	s := still(t, func(c *jdsandbox.Config) { c.State = file })
	s.add(anOrder("A-1"))
	s.Close()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(`{"documents":[{"seq":2,`)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	r := s.again(t)
	r.add(anOrder("A-2"))
	r.Close()
	equal(t, "documents", len(s.again(t).Documents()), 2)

	raw, _ := os.ReadFile(file)
	if err := os.WriteFile(file, []byte(strings.Replace(string(raw), `{"documents"`, `{"documants`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := jdsandbox.New(jdsandbox.Config{State: file}); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a spoiled line was taken: %v", err)
	}
	if _, err := jdsandbox.New(jdsandbox.Config{State: filepath.Join(file, "x")}); err == nil {
		t.Error("a file that cannot be was taken")
	}
}

func TestAResetForgetsAllButTheNumbers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "jd.journal")
	s := still(t, func(c *jdsandbox.Config) { c.State = file })
	s.add(anOrder("A-1"))
	s.add(anOrder("A-1"))
	s.advance(time.Hour)
	s.set(func(k *jdsandbox.Knobs) { k.Repeat = jdsandbox.SameNumber })
	s.ExpireToken(jdsandbox.DefaultToken, time.Time{})
	before, _ := s.Clock()
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	after, _ := s.Clock()
	equal(t, "left", say(len(s.Documents()), s.Violations().Total, len(s.Calls()), s.Counters().Accepted, s.Knobs().Repeat, after.Equal(before)), "0 0 0 0 second true")
	equal(t, "number", s.add(anOrder("A-1")), "ESL4400000000003")
	r := s.again(t)
	equal(t, "kept", say(len(r.Documents()), r.Documents()[0].Seq), "1 3")
}

// TestClosedFails: without its file it must not answer as if it remembered.
func TestClosedFails(t *testing.T) {
	s := still(t, func(c *jdsandbox.Config) { c.State = filepath.Join(t.TempDir(), "jd.journal") })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.call(addOrder, anOrder("A-1")); err == nil || !strings.HasPrefix(err.Error(), "500") {
		t.Errorf("got %v", err)
	}
}
