package e2e

import (
	"testing"

	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/orderview"
	"stockbridge/services/e2e/testenv"
)

func TestASmallBudgetOfCallsIsEnough(t *testing.T) {
	t.Parallel()
	few := func(s *sellerv1.Setup) {
		for _, a := range s.Accounts {
			a.Quota = &sellerv1.Quota{PerSecond: 3, Concurrent: 2}
		}
	}
	each(t, testenv.Options{Speed: 30000, Setup: few}, func(t *testing.T, w *testenv.World) {
		// The ledger is young, so each order costs two calls in a row: one to look it up and one to send it. So does
		// each check.
		o, second := w.Maker.Next(), w.Maker.Next()
		w.Publish(o, second)
		w.Accepted(o)
		w.Accepted(second)
		w.UntilPublished("it is published as shipped", o, func(t *orderview.Order) bool { return t.Complete > 0 })
	})
}
