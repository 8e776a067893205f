package e2e

import (
	"testing"
	"time"

	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
	"stockbridge/services/e2e/testenv"
)

// pause is `bridgectl seller pause`, and waits for its effect.
func pause(t *testing.T, w *testenv.World, name string) error {
	t.Helper()
	err := w.Sellers.Pause(t.Context(), name, seller.Pause{By: sellerv1.Paused_BY_OPERATOR, Reason: "stock-take", At: time.Now()})
	w.Until("the pause is known", func() bool {
		s, ok := w.Sellers.Get(name)
		return ok && s.Pause != nil
	})
	return err
}
