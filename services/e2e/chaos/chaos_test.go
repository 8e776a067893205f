//go:build unix

package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/faultproxy"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/pkg/smalldisk"
)

// A kill that hit no call proves nothing and must not be counted, however many calls there are.
func TestOnlyKillsThatHitACallCount(t *testing.T) {
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	k := kills{list: []killed{{at: at(1000)}, {at: at(2000)}, {at: at(3000)}}}
	k.meet([]jdsandbox.Call{
		{Seq: 1, At: at(900), TookMillis: 300},              // another worker's: it was answered
		{Seq: 2, At: at(1001), TookMillis: 300, Gone: true}, // within the allowed difference of clocks
		{Seq: 3, At: at(800), TookMillis: 300, Gone: true},
		{Seq: 4, At: at(2100), TookMillis: 300, Gone: true}, // its caller hung up for another reason
		{Seq: 5, At: at(2700), TookMillis: 300, Gone: true},
	})
	hit, calls := k.hit()
	if hit != 2 || calls != 3 || k.list[0].open != 2 || k.list[2].open != 1 || k.after != 5 {
		t.Errorf("%d kills hit %d calls: %+v", hit, calls, k.list)
	}
}

func TestTheSeedMakesThePlan(t *testing.T) {
	plan := func(seed uint64, change func(*settings)) (names []string, last time.Duration) {
		s := settings{scenario: scenarioAll, seed: seed, nodes: 3, ledger: "redis", orders: 100, kills: -1}
		if change != nil {
			change(&s)
		}
		if err := s.complete(0); err != nil {
			t.Fatal(err)
		}
		g := &stage{s: s, rand: rand.New(rand.NewPCG(seed, 1)), toRedis: &faultproxy.Proxy{}, disks: map[string]*smalldisk.Disk{"nats": {}, "redis": {}}}
		for _, p := range g.plan() {
			names, last = append(names, p.name), p.at
		}
		return names, last
	}
	one, last := plan(1, nil)
	again, _ := plan(1, nil)
	other, _ := plan(2, nil)
	if !slices.Equal(one, again) || slices.Equal(one, other) {
		t.Errorf("seed 1: %v, again %v, seed 2: %v", one, again, other)
	}
	for _, name := range faultNames()[1:] {
		if !slices.Contains(one, name) {
			t.Errorf("%s is not in the plan", name)
		}
	}
	if last >= 4*time.Minute {
		t.Errorf("the last one comes at %s, when the time is over", last)
	}
	if few, _ := plan(1, func(s *settings) { s.faults = "redis-wipe,kill" }); !slices.Equal(few, []string{"redis-wipe", "redis-wipe"}) {
		t.Errorf("only wipes: %v", few)
	}
	for _, wrong := range []settings{
		{scenario: "most", nodes: 1, ledger: "kv"}, {scenario: scenarioAll, nodes: 2, ledger: "kv"},
		{scenario: scenarioAll, nodes: 1, ledger: "etcd"}, {scenario: scenarioAll, nodes: 1, ledger: "kv", faults: "kill,rain"},
	} {
		if wrong.complete(0) == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
}
