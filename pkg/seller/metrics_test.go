package seller_test

import (
	"fmt"
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
	shows(`# HELP stockbridge_seller_paused 1 for a seller that is paused, by operator, breaker or token: of each the sellers that are paused for longest.
# TYPE stockbridge_seller_paused gauge
stockbridge_seller_paused{by="token",seller="acme"} 1
`)
	if err := book.Resume(t.Context(), "acme", sellerv1.Paused_BY_OPERATOR); err != nil {
		t.Fatal(err)
	}
	shows("")
}

// A warehouse that is down pauses all sellers at once: the scrape then counts them, and names some.
func TestManyPausesAreCounted(t *testing.T) {
	book := open(t, bucket(t, bustest.Start(t)))
	at := time.Now()
	for i := range 25 {
		s := acmeSeller(t).Setup
		s.Name = fmt.Sprintf("seller-%02d", i)
		for _, a := range s.Accounts {
			a.Department = s.Name // an identity of its own
		}
		if _, err := book.Put(t.Context(), s, 0); err != nil {
			t.Fatal(err)
		}
		if err := book.Pause(t.Context(), s.Name, seller.Pause{By: sellerv1.Paused_BY_BREAKER, At: at.Add(-time.Duration(i) * time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	r := prometheus.NewRegistry()
	r.MustRegister(book.Metrics())
	if err := testutil.GatherAndCompare(r, strings.NewReader(`# HELP stockbridge_sellers_paused Sellers that are paused, by operator, breaker or token.
# TYPE stockbridge_sellers_paused gauge
stockbridge_sellers_paused{by="breaker"} 25
stockbridge_sellers_paused{by="operator"} 0
stockbridge_sellers_paused{by="token"} 0
`), "stockbridge_sellers_paused"); err != nil {
		t.Error(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "stockbridge_seller_paused" {
			var named []string
			for _, m := range f.Metric {
				named = append(named, m.Label[1].GetValue())
			}
			if len(named) != 20 || named[0] != "seller-05" || named[19] != "seller-24" {
				t.Errorf("not those that are paused for longest: %v", named)
			}
		}
	}
}
