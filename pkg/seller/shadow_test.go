package seller_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/seller"
	sellerv1 "stockbridge/proto/seller/v1"
)

func parse(t *testing.T, text string) *sellerv1.Setup {
	t.Helper()
	setup, err := seller.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return setup
}

// An order is ours only when it was audited and published after the switch-over, however late it comes.
func TestAnOrderBelongsToTheSenderOfItsTime(t *testing.T) {
	until := time.Date(2026, 8, 1, 2, 0, 0, 0, time.FixedZone("", 8*60*60))
	before, after := until.Add(-time.Second), until.Add(time.Second)
	never := seller.New(parse(t, acme), nil)
	open := seller.New(parse(t, acme+"shadow: {}\n"), nil)
	ends := seller.New(parse(t, acme+"shadow: {until: 2026-08-01T02:00:00+08:00, find_by: platform_order_no}\n"), nil)
	for _, c := range []struct {
		name               string
		s                  *seller.Seller
		audited, published time.Time
		shadows            bool
	}{
		{"without shadow", never, before, before, false},
		{"without an end", open, after, after, true},
		{"before the end", ends, before, before, true},
		{"at the end", ends, until, until, false},
		{"audited before, published after", ends, before, after, true},
		{"published before, by an ERP whose clock is ahead", ends, after, before, true},
		{"after the end", ends, after, after, false},
	} {
		if got := c.s.Shadows(c.audited, c.published); got != c.shadows {
			t.Errorf("%s: shadowed %v", c.name, got)
		}
	}
	if never.InShadow(before) || !open.InShadow(after) || !ends.InShadow(before) || ends.InShadow(until) {
		t.Error("InShadow is wrong")
	}
	if never.Shadowed(before) != nil || fault.Of(ends.Shadowed(before)) != fault.Wait || ends.Shadowed(until) != nil {
		t.Error("whoever wants to write gets no error")
	}
	if ends.Setup.Shadow.FindBy != sellerv1.Shadow_FIND_BY_PLATFORM_ORDER_NO {
		t.Errorf("read %v", ends.Setup.Shadow)
	}
}

func TestAShadowThatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ add, field string }{
		"no zone":     {"shadow: {until: 2026-08-01 02:00}", "shadow.until"},
		"a trial too": {"shadow: {}\ntrial: {first: 1}", "trial"},
	} {
		_, err := seller.Parse([]byte(acme + c.add + "\n"))
		var faults seller.Faults
		if !errors.As(err, &faults) || len(faults) != 1 || faults[0].Field != c.field || !strings.ContainsAny(faults[0].ZH, "应不") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := seller.Parse([]byte(acme + "shadow: {until: 2026-08-01T02:00:00+08:00}\ntrial: {first: 1}\n")); err != nil {
		t.Errorf("a trial after the switch-over: %v", err)
	}
}

// Without the moment of the switch-over everything that the ERP's program sent would be sent again.
func TestShadowIsLeftByAMomentOnly(t *testing.T) {
	b := open(t, bucket(t, bustest.Start(t)))
	put := func(add string, version uint64) (uint64, error) {
		return b.Put(t.Context(), parse(t, acme+add), version)
	}
	version, err := put("shadow: {}\n", 0)
	if err != nil {
		t.Fatal(err)
	}
	var faults seller.Faults
	if _, err := put("", version); !errors.As(err, &faults) || faults[0].Field != "shadow" {
		t.Fatalf("removed at once: %v", err)
	}
	if version, err = put("shadow: {until: "+time.Now().Format(time.RFC3339)+"}\n", version); err != nil {
		t.Fatal(err)
	}
	if _, err := put("", version); !errors.As(err, &faults) {
		t.Fatalf("removed after a moment: %v", err)
	}
	b = open(t, bucket(t, bustest.Start(t)))
	old := time.Now().Add(-seller.ShadowKept - time.Hour).Format(time.RFC3339)
	if version, err = put("shadow: {until: "+old+"}\n", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := put("", version); err != nil {
		t.Fatalf("removed after 90 days: %v", err)
	}
}

// A past moment gives us what the ERP's program has sent since, unless a worker has seen it.
func TestTheSwitchOverIsNotInThePast(t *testing.T) {
	b := open(t, bucket(t, bustest.Start(t)))
	at := func(d time.Duration) string {
		return "shadow: {until: " + time.Now().Add(d).Format(time.RFC3339) + "}\n"
	}
	version := uint64(0)
	for _, c := range []struct {
		what, add string
		ok        bool
	}{
		{"no moment yet", "shadow: {}\n", true},
		{"past", at(-time.Hour), false},
		{"ahead", at(24 * time.Hour), true},
		{"past, in the place of one ahead", at(-8 * time.Hour), false},
		{"sooner", at(time.Hour), true},
		{"the timer was stopped minutes ago", at(-5 * time.Minute), true},
		{"further back", at(-2 * time.Hour), false},
		{"back into shadow", "shadow: {}\n", true},
	} {
		next, err := b.Put(t.Context(), parse(t, acme+c.add), version)
		var faults seller.Faults
		switch {
		case c.ok && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case !c.ok && (!errors.As(err, &faults) || faults[0].Field != "shadow.until"):
			t.Errorf("%s: %v", c.what, err)
		case c.ok:
			version = next
		}
	}
}
