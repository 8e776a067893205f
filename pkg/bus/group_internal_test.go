package bus

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"
)

// A group is a set of places: whatever is added, in whatever order, and stored and read in between.
func TestAGroupIsASetOfPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		began := time.UnixMilli(1772674260000)
		g := newGroup("dlq.c.many-acme-malformed.1", began)
		want := map[uint64]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "n") {
			seq := rapid.Uint64Range(1, 40).Draw(t, "seq")
			at := began.Add(time.Duration(seq) * 10 * time.Millisecond)
			if rapid.IntRange(0, 9).Draw(t, "restored") == 0 {
				at = at.Add(time.Hour) // the stream was restored, and gave the number again
			}
			added, fits := g.add(seq, at)
			had, has := want[seq]
			switch {
			case !has && (!added || !fits), has && added, has && had.Equal(at) && !fits, has && !had.Equal(at) && fits:
				t.Fatalf("add %d at %s: added %t, fits %t, had %s", seq, at, added, fits, had)
			case !has:
				want[seq] = at
			}
			if rapid.Bool().Draw(t, "stored") {
				body, err := g.encode()
				if err != nil {
					t.Fatal(err)
				}
				if g, err = decodeGroup(&jetstream.RawStreamMsg{Subject: g.subject, Data: body}); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func() {
			var got []uint64
			_ = g.Group.Each(func(seq uint64) error { got = append(got, seq); return nil })
			s := DeadLetter{Group: &g.Group}
			if len(got) != len(want) || s.Count() != len(want) {
				t.Fatalf("holds %v (%d), want %v", got, s.Count(), want)
			}
			for i, seq := range got {
				at, in := want[seq]
				if !in || i > 0 && got[i-1] >= seq || g.Group.Nth(i+1) != seq || !g.Group.Has(seq, at) || g.Group.Has(seq, at.Add(2*time.Hour)) {
					t.Fatalf("holds %v, want %v", g.Group.Ranges, want)
				}
			}
			if g.Group.Nth(0) != 0 || g.Group.Nth(len(got)+1) != 0 {
				t.Fatal("more than there are")
			}
		}
		check()
		to := rapid.Uint64Range(0, 41).Draw(t, "to")
		g.Group.removeUpTo(to)
		for seq := range want {
			if seq <= to {
				delete(want, seq)
			}
		}
		check()
	})
}

func TestAGroupHasALimit(t *testing.T) {
	now := time.Now()
	g := newGroup("x", now)
	for i := range uint64(groupRanges) {
		if added, fits := g.add(2*i+1, now); !added || !fits || !g.grows(now) && i < groupRanges-1 {
			t.Fatal(i)
		}
	}
	if added, fits := g.add(3*groupRanges, now); added || fits || g.grows(now) {
		t.Error("it grows beyond its limit")
	}
	if added, fits := g.add(2, now); !added || !fits { // closes a gap
		t.Error("a gap is not closed")
	}
	body, err := g.encode()
	if err != nil || len(body) > 100_000 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if !g.grows(now) || g.grows(now.Add(groupAge)) {
		t.Error("it grows for ever")
	}
}
