package e2e

import (
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	orderv1 "stockbridge/proto/order/v1"
	"stockbridge/services/all"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
)

// Audits of an earlier build are in ORDERS, those of today in INTAKE: each is sent to JD once, and lost ones of both
// are found again.
func TestAuditsOfAnEarlierBuildAreHandled(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{}, func(t *testing.T, w *testenv.World) {
		if err := w.StopWorkers(); err != nil {
			t.Fatal(err)
		}
		bustest.Earlier(t, w.NATSURL, pusher.Name, 30*time.Second)
		before := w.Maker.Make(20)
		w.Publish(before...)
		if _, err := w.Bus.Apply(t.Context(), bus.Topology{Services: all.Bus()}); err != nil {
			t.Fatal(err)
		}
		if err := w.StartWorkers(); err != nil {
			t.Fatal(err)
		}
		list := slices.Concat(before, w.Maker.Make(5))
		w.Publish(list[20:]...)
		for _, o := range list {
			w.Accepted(o)
		}
		in := map[string]int{}
		err := w.Bus.Events(t.Context(), bus.EventQuery{Names: []string{event.OrderAudited.Name}}, func(s bus.Stored) error {
			in[s.Stream]++
			return nil
		})
		if err != nil || in["ORDERS"] != 20 || in["INTAKE"] != 5 {
			t.Errorf("audits stand in %v, %v", in, err)
		}
		old(t, w, list...)
		if s := reconciled(t, w); s.Settled != len(list) || len(s.Open) != 0 || s.Cursor.Stream != "INTAKE" || s.Cursor.Seq != 5 {
			t.Errorf("walked: %+v", s)
		}
		w.WipeLedger()
		reconciled(t, w)
		w.Until("what both streams have is known again", func() bool {
			return !slices.ContainsFunc(list, func(o *orderv1.Audited) bool { return !known(t, w, o) })
		})
		w.NoViolations()
	})
}
