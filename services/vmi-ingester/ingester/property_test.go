package ingester

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/warehouse"
)

// Whatever the warehouse leaves out, repeats, reorders, delays or fails with, and although the ledger is lost midway
// and runs die between publishing and applying: the book becomes its stock, and each movement is published once. The
// test asks nowhere for the stock itself.
func TestWhateverTheWarehouseDoesTheBookBecomesItsStock(t *testing.T) {
	b := newFixture(t)
	for i := range uint64(*stories) {
		seed := *story + i
		if err := playStory(b, rand.New(rand.NewPCG(seed, 2)), nil); err != nil {
			t.Fatalf("story %d (-stories 1 -story %d): %v", seed, seed, err)
		}
	}
}

var (
	stories = flag.Int("stories", 7, "how many stories the property test plays")
	story   = flag.Uint64("story", 1, "number of the first story")
)

// playStory plays one story, decided by the dice alone. plant breaks the ingester on purpose.
func playStory(b *fixture, dice *rand.Rand, plant func(b *fixture)) error {
	b.reset(dice.Uint64())
	if plant != nil {
		plant(b)
	}
	f := b.remote
	f.pageSize = []int{2, 5, 100}[dice.IntN(3)]
	f.failing = []int{0, 10, 30}[dice.IntN(3)]
	f.shuffling = dice.IntN(2) == 0
	f.unlinked = dice.IntN(10) == 0
	dying := []int{0, 0, 10}[dice.IntN(3)]
	b.crash = func() bool { return f.dice.IntN(100) < dying }
	moves := 1 + dice.IntN(50)
	wipe := dice.IntN(2 * moves)
	for i := range moves {
		if i == wipe {
			b.redis.Wipe()
		}
		row := f.move(fmt.Sprint("G", f.dice.IntN(3)), []int64{-3, -1, -1, 1, 1, 4}[f.dice.IntN(6)])
		switch f.dice.IntN(12) {
		case 0:
			row.hidden = 1
		case 1:
			row.shows = row.At.Add(time.Duration(f.dice.IntN(15)) * time.Minute)
		case 2:
			row.Rule = warehouse.RuleSet
		case 3, 4:
			row.twice = true
		}
		if f.dice.IntN(3) > 0 {
			b.advance([]time.Duration{0, time.Second, 7 * time.Second, time.Minute, 6 * time.Minute}[f.dice.IntN(5)])
		}
		if f.dice.IntN(6) == 0 {
			b.run(5 * time.Minute)
		}
	}
	b.run(90 * time.Minute)
	f.failing, b.crash = 0, nil
	b.run(2 * time.Hour)
	if err := b.complete(); err != nil {
		return err
	}
	if len(b.rejected) > 0 {
		return fmt.Errorf("rejected: %w", errors.Join(b.rejected...))
	}
	for id, n := range b.ids {
		if n > 1 && dying == 0 && strings.HasPrefix(id, "stock.") {
			return fmt.Errorf("%s published %d times, and no run died", id, n)
		}
	}
	// Calls are bounded by pages, gaps and ticks.
	ticks := int(b.now().Sub(b.began)/(5*time.Minute)) + 1
	if most := 6*ticks + 40*len(f.rows) + 400; f.calls > most {
		return fmt.Errorf("%d calls for %d rows and %d ticks, want %d at most", f.calls, len(f.rows), ticks, most)
	}
	return nil
}

// The story must find planted bugs, else it proves nothing.
func TestTheStoryFindsPlantedBugs(t *testing.T) {
	for _, p := range []struct {
		name  string
		plant func(s *bug)
	}{
		{"rows are dated in the order in which they came", func(s *bug) { s.order = true }},
		{"the cursor moves to the newest row", func(s *bug) { s.cursor = true }},
		{"any error is the end", func(s *bug) { s.end = true }},
		{"what was applied is forgotten with the ledger", func(s *bug) { s.forget = true }},
	} {
		t.Run(p.name, func(t *testing.T) {
			b := newFixture(t)
			for seed := range uint64(200) {
				dice := rand.New(rand.NewPCG(seed, 2))
				err := playStory(b, dice, func(b *fixture) { p.plant(&b.bug) })
				if err != nil {
					t.Logf("found by story %d: %.300v", seed, err)
					return
				}
			}
			t.Error("no story found it")
		})
	}
}
