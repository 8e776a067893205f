package jdsandbox_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/jdsandbox"
)

func TestAConfigIsReadWhole(t *testing.T) {
	cfg, err := jdsandbox.ParseConfig([]byte(`
apps:
  - key: k
    secret: s
    tokens:
      - token: t
        departments: [EBU1]
        expires: 2030-01-01T00:00:00+08:00
        denied: [eclp.order.ext.queryOrder]
speed: 60
knobs:
  latency: {min: 10ms, max: 50ms}
  walk:
    - code: 10010
    - {code: "10019", after: 1h, chance: 0.5}
  cancel: {answers: {10010: refused}}
  split: {chance: 0.1, orders: [A-1], parts: 3}
  faults:
    - {kind: http, status: 502, count: 2}
`))
	if err != nil {
		t.Fatal(err)
	}
	k := cfg.Knobs
	equal(t, "read", say(cfg.Apps[0].Tokens[0].Expires.Unix(), cfg.Speed, time.Duration(k.Latency.Max), k.Walk[0].Code, k.Walk[1].Chance,
		k.Cancel.Answers["10010"], k.Split.Parts, k.Split.Orders[0], k.Faults[0].Status), "1893427200 60 50ms 10010 0.5 refused 3 A-1 502")
	equal(t, "defaults", say(k.Repeat, k.Spelling, k.Packages, k.Refusal.Code), "second responce 1 5001")
}

func TestParseConfigNamesAllFaults(t *testing.T) {
	_, err := jdsandbox.ParseConfig([]byte(`
appz: []
apps:
  - {key: "", secret: 5, tokens: [{token: t}, {token: t, denied: [eclp.no.such]}]}
speed: fast
stopped: "yes"
control: all
shops: [{shopNo: E}]
knobs:
  latncy: {}
  latency: {min: 10, max: soon}
  repeat: maybe
  packages: 1.5
  jitter: 2
  quota: {calls_per_second: -1}
  walk: [{code: ""}, {code: [1]}]
  split: {chance: 0.1, part: 3}
  faults:
    - {kind: slow, count: 1}
    - {kind: drop}
    - {kind: explode, count: 1, methods: [x]}
`))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		"appz: unknown key", "apps[0].key: is required", "apps[0].secret: must be text", "apps[0].tokens[1].token: is used twice",
		`apps[0].tokens[1].denied[0]: "eclp.no.such" is not a method`, "speed: must be a number", "stopped: must be true or false",
		"control: ", "shops[0].deptNo: is required", "knobs.latncy: unknown key", "knobs.latency.min: must be a duration",
		"knobs.latency.max: must be a duration", "knobs.repeat: ", "knobs.packages: must be a whole number", "knobs.jitter: must be from 0 to 1",
		"knobs.quota.calls_per_second: ", "knobs.walk[0].code: is required", "knobs.walk[1].code: must be a code",
		"knobs.split.part: unknown key", "knobs.faults[0].delay: ", "knobs.faults[1].chance: chance or count is required",
		"knobs.faults[2].kind: ", "knobs.faults[2].methods[0]: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not named: %s", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
	if _, err := jdsandbox.ParseConfig([]byte("speed: 1\nspeed: 2\n")); err == nil {
		t.Error("a key twice was taken")
	}
	if cfg, err := jdsandbox.ParseConfig(nil); err != nil || cfg.Apps[0].Key != jdsandbox.DefaultAppKey {
		t.Errorf("empty: %v", err)
	}
}

func TestSetKnobsRefusesFaults(t *testing.T) {
	s := start(t)
	if err := s.SetKnobs(func(k *jdsandbox.Knobs) { k.Repeat, k.Jitter = "x", math.NaN() }); err == nil || s.Knobs().Repeat != jdsandbox.SecondDocument {
		t.Errorf("got %v, %v", err, s.Knobs().Repeat)
	}
	held := s.Knobs()
	held.Walk[0].Code = "x"
	equal(t, "a copy", s.Knobs().Walk[0].Code, "10010")
	if _, err := s.AddFault(jdsandbox.Fault{Kind: jdsandbox.Drop}); err == nil {
		t.Error("a fault without chance or count was taken")
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("knobs: {faults: [{kind: slow, delay: 1s, count: 1}], walk: [{code: 1}]}"))
	f.Add([]byte("apps: [{key: a, secret: b, tokens: [{token: c, expires: 2030-01-01T00:00:00Z}]}]"))
	f.Add([]byte(`{"knobs":{"cancel":{"answers":{"1":"refused"}},"latency":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := jdsandbox.ParseConfig(text)
		if err != nil || cfg.State != "" {
			return
		}
		jd, err := jdsandbox.New(cfg)
		if err != nil {
			t.Fatalf("parsed, but does not start: %v", err)
		}
		jd.Close()
	})
}
