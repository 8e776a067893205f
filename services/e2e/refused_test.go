package e2e

import (
	"slices"
	"testing"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/bridgectl/stack"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/testenv"
	"stockbridge/services/order-pusher/pusher"
	"stockbridge/services/reconciler/reconciler"
)

// busy is a JD that takes an order, answers that it is busy, and shows the order only later.
func busy(late time.Duration) jdsandbox.Knobs {
	return jdsandbox.Knobs{
		FindLag: jdsandbox.Duration(late),
		Faults:  []jdsandbox.Fault{{Kind: jdsandbox.Error, Methods: []string{addOrder}, Chance: 1, Work: jdsandbox.WorkDone, Code: "5001", ZH: "系统处理中"}},
	}
}

func TestOrdersThatJDRefusesAndHasAreAccepted(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{
		Knobs: busy(3 * time.Second), Pusher: func(c *pusher.Config) { c.RefuseAfter = 5 * time.Second },
	}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(20)
		w.Publish(list...)
		failed := 0
		for _, o := range list {
			w.Accepted(o)
			failed += len(w.Published(o.Seller).Orders[o.OutboundNo].Failed)
		}
		if failed != 0 || len(w.DeadLetters(event.Dead)) != 0 {
			t.Errorf("%d of %d published as failed, %d dead letters", failed, len(list), len(w.DeadLetters(event.Dead)))
		}
		w.NoViolations()
	})
}

// JD shows them later than the pusher waits: they are named and published, not sent again, and a person decides.
func TestRefusedOrdersThatAreThereAfterAllAreNamed(t *testing.T) {
	t.Parallel()
	each(t, testenv.Options{
		Knobs: busy(2 * time.Second), Reconcile: func(c *reconciler.Config) { c.RefusedEvery = 100 * time.Millisecond },
	}, func(t *testing.T, w *testenv.World) {
		list := w.Maker.Make(3)
		w.Publish(list...)
		for _, o := range list {
			w.UntilPublished("it is refused", o, failed)
		}
		old(t, w, list...)
		w.Until("they are named", func() bool { return reconciled(t, w).RefusedButThere == len(list) })
		strangers, err := reconciler.ReadFindings(t.Context(), w.Ledger, stack.DemoSeller)
		if err != nil || len(strangers) != len(list) {
			t.Fatalf("%+v, %v", strangers, err)
		}
		for _, o := range list {
			docs := w.Documents(o)
			if !slices.ContainsFunc(strangers, func(s reconciler.Finding) bool {
				return s.Kind == reconciler.RefusedButThere && s.OutboundNo == o.OutboundNo && len(docs) == 1 && s.WarehouseNo == docs[0].EclpSoNo && s.Account != ""
			}) {
				t.Errorf("%s: JD has %d documents, named are %+v", o.OutboundNo, len(docs), strangers)
			}
			seen := w.UntilPublished("a person has to see to it", o, func(t *orderview.Order) bool { return len(t.Held) > 0 })
			if len(seen.Accepted) != 0 || seen.Held[0] != "operator:"+o.Seller+"/"+o.OutboundNo {
				t.Errorf("published %+v", seen)
			}
		}

		// One is to ship: its dead letter is replayed.
		for _, m := range w.DeadLetters(event.Dead) {
			if m.Key == list[0].OutboundNo {
				if err := w.Bus.Replay(t.Context(), m.Seq, bus.By{Who: "story", Why: "it was not refunded"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.Accepted(list[0])
		w.Until("it is no longer named", func() bool { return reconciled(t, w).RefusedButThere == len(list)-1 })
		for _, o := range list {
			if len(w.Documents(o)) != 1 {
				t.Errorf("%s was sent again", o.OutboundNo)
			}
		}
		w.NoViolations()
	})
}
