package bus_test

import (
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
)

func TestDeadLettersExpire(t *testing.T) {
	b := bustest.Start(t, services()...)
	defer fill(t, b, 6)() // four held, two dead
	const keep = 90 * 24 * time.Hour
	long := fault.Reason{Code: "held.expired", ZH: "等待过久", EN: "it waited too long"}
	age := func(now time.Time) (erased, ended int) {
		t.Helper()
		erased, ended, err := b.Age(t.Context(), pusher, now, keep, long)
		if err != nil {
			t.Fatal(err)
		}
		return erased, ended
	}
	if erased, ended := age(time.Now()); erased+ended != 0 {
		t.Errorf("young ones: %d erased, %d ended", erased, ended)
	}
	later := time.Now().Add(keep + time.Minute)
	if erased, ended := age(later); erased != 2 || ended != 4 {
		t.Errorf("old ones: %d erased, %d ended", erased, ended)
	}
	items := deadLetters(t, b)
	for _, s := range items {
		if s.Kind != event.Dead || s.Cause != "" || s.Reason != long || s.Class != fault.Refused.String() || !s.Last.Equal(later.UTC()) || s.Key == "" {
			t.Errorf("held is now %+v", s)
		}
	}
	if len(items) != 4 {
		t.Errorf("%d are left", len(items))
	}
	if erased, ended := age(later); erased+ended != 0 {
		t.Errorf("again: %d erased, %d ended", erased, ended)
	}
	// They can still be replayed, and end like any other.
	if err := b.Replay(t.Context(), items[0].Seq, bus.By{Who: "me"}); err != nil {
		t.Error(err)
	}
	if erased, _ := age(later.Add(keep + time.Minute)); erased != 3 {
		t.Errorf("at last: %d erased", erased)
	}
}
