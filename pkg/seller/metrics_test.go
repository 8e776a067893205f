package seller_test

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestAPauseShowsWhileItLasts(t *testing.T) {
	book := open(t, bucket(t, bustest.Start(t)))
	if _, err := book.Put(t.Context(), acmeSeller(t).Setup, 0); err != nil {
		t.Fatal(err)
	}
	shows := func(want string) {
		t.Helper()
		r := prometheus.NewRegistry()
		r.MustRegister(book.Metrics()) // a new pause is not due for its probe yet
		if err := testutil.GatherAndCompare(r, strings.NewReader(want), "stockbridge_seller_paused"); err != nil {
			t.Error(err)
		}
	}
	shows("")
	if err := book.Pause(t.Context(), "acme", seller.Pause{By: sellerv1.Paused_BY_TOKEN, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	shows(`# HELP stockbridge_seller_paused 1 while the seller is paused, by operator, breaker or token. Missing while it is not.
# TYPE stockbridge_seller_paused gauge
stockbridge_seller_paused{by="token",seller="acme"} 1
`)
	if err := book.Resume(t.Context(), "acme", sellerv1.Paused_BY_OPERATOR); err != nil {
		t.Fatal(err)
	}
	shows("")
}
