package guard_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/guard"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	sellerv1 "stockbridge/proto/seller/v1"
)

func TestBreaker(t *testing.T) {
	broken := errors.New("connection refused")
	said := fault.Permanent(fault.Reason{Code: "refused", RemoteCode: "61"})
	for _, test := range []struct {
		name string
		errs []error
		want sellerv1.Paused_By // of the last
	}{
		{"three failures in a row", []error{broken, broken, broken}, sellerv1.Paused_BY_BREAKER},
		{"lost answers are failures", []error{broken, fault.Unknown(broken), broken}, sellerv1.Paused_BY_BREAKER},
		{"a success in between", []error{broken, broken, nil, broken, broken}, 0},
		{"a refusal in between", []error{broken, broken, said, broken, broken}, 0},
		{"no in business words in between", []error{broken, broken, &warehouse.Rejected{}, broken, broken}, 0},
		{"our own refusal proves nothing", []error{broken, broken, fault.Permanent(fault.Reason{Code: "name.long"}), broken}, sellerv1.Paused_BY_BREAKER},
		{"waiting and holding are neither", []error{broken, fault.RetryAfter(1, broken), fault.Hold("x", broken), broken}, 0},
		{"what a shutdown cut off is neither", []error{broken, broken, fault.Unknown(context.Canceled)}, 0},
		{"a token trips at once", []error{fault.Hold("token:s/a", warehouse.ErrToken)}, sellerv1.Paused_BY_TOKEN},
		{"after tripping it counts again", []error{broken, broken, broken, broken, broken}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := guard.NewBreaker(3)
			var got sellerv1.Paused_By
			for _, err := range test.errs {
				b.Report("other", broken)
				by, trip := b.Report("s", err)
				if got = by; trip != (by != 0) {
					t.Errorf("trip %v by %v", trip, by)
				}
			}
			if got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// sellers is a registry that remembers the last pause.
type sellers struct {
	seller *seller.Seller
	pause  seller.Pause
	err    error
}

func (s *sellers) Get(name string) (*seller.Seller, bool) { return s.seller, name == "acme" }

func (s *sellers) Pause(_ context.Context, _ string, p seller.Pause) error {
	s.pause = p
	return s.err
}

func TestARunOfFailuresPausesTheSellerAndIsPublished(t *testing.T) {
	now := time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)
	broken := errors.New("connection refused")
	s := &sellers{}
	g := guard.Guard{Breaker: guard.NewBreaker(2), Sellers: s, ProbeAfter: time.Minute, Now: func() time.Time { return now }}
	if events, tripped := g.Report("acme", broken); tripped || events != nil {
		t.Errorf("one failure: %v, %v", events, tripped)
	}
	events, tripped := g.Report("acme", broken)
	if !tripped || len(events) != 1 || events[0].Subject() != event.SellerPaused.Name+".acme" {
		t.Errorf("a run of failures: %v, %v", events, tripped)
	}
	want := seller.Pause{By: sellerv1.Paused_BY_BREAKER, Reason: broken.Error(), At: now, ProbeAfter: time.Minute, ProbeAt: now.Add(time.Minute)}
	if s.pause != want {
		t.Errorf("paused by %+v, want %+v", s.pause, want)
	}
	s.err = seller.ErrPaused
	g.Report("acme", broken)
	if events, tripped := g.Report("acme", broken); !tripped || events != nil {
		t.Errorf("another worker was faster: %v, %v", events, tripped)
	}
}

func TestAPausedSellersMessagesAreHeld(t *testing.T) {
	s := &sellers{seller: seller.New(&sellerv1.Setup{Name: "acme"}, nil)}
	paused := guard.Paused(s)
	if err := errors.Join(paused("acme"), paused("nobody")); err != nil {
		t.Error(err)
	}
	s.seller = seller.New(s.seller.Setup, &seller.Pause{Reason: "x"})
	if err := paused("acme"); fault.Cause(err) != seller.CausePause("acme") {
		t.Error(err)
	}
}
