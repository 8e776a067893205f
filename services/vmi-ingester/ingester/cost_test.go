package ingester

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sellerv1 "stockbridge/proto/seller/v1"
)

// askedStreams counts what streams are asked.
type askedStreams struct {
	Streams
	ends, holds int
}

func (s *askedStreams) End(ctx context.Context, name string) (uint64, time.Time, error) {
	s.ends++
	return s.Streams.End(ctx, name)
}

func (s *askedStreams) Holds(ctx context.Context, name string, seq uint64, at time.Time) (bool, error) {
	s.holds++
	return s.Streams.Holds(ctx, name, seq, at)
}

// A tick of a place where nothing happens, and its window, ask each of the two streams twice whether it is whole, and
// where it ends.
func TestAnIdlePlaceCostsLittle(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	b.remote.move("G", -1)
	b.advance(time.Minute)
	b.run(30 * time.Minute)
	asked := &askedStreams{Streams: b.Streams}
	b.Streams = asked
	b.run(5 * time.Minute)
	if asked.holds != 4 || asked.ends != 4 {
		t.Errorf("%d and %d questions", asked.holds, asked.ends)
	}
	b.must(b.complete())
}

// How many goods have gaps is known without a look at all goods.
func TestGoodsWithGapsAreCountedByTheTick(t *testing.T) {
	b := newFixture(t, func(s *sellerv1.Setup) { s.Stock.SecondLook = durationpb.New(0) })
	for i := range 30 {
		for _, goods := range []string{"A", "B", "C"} {
			if row := b.remote.move(goods, -1); i == 7 && goods != "C" {
				row.hidden = 1000
			}
		}
		b.advance(20 * time.Second)
	}
	b.run(30 * time.Minute)
	broken := func() int {
		t.Helper()
		st, err := b.store.State(t.Context(), b.at)
		b.must(err)
		return st.Broken
	}
	if n := broken(); n != 2 {
		t.Errorf("%d goods with gaps, want 2", n)
	}
	for _, row := range b.remote.rows {
		row.hidden = 0
	}
	b.run(2 * time.Hour)
	if n := broken(); n != 0 {
		t.Errorf("%d goods with gaps after they were filled", n)
	}
	b.must(b.complete())
}
