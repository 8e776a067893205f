package bus_test

import (
	"slices"
	"strings"
	"testing"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/bus/bustest"
)

// What an ERP may publish is consumed: a message without a consumer would still be answered as stored.
func TestWhatAnERPMayPublishIsConsumed(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, services()...)
	u, err := bus.SellerUser("acme")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, subject := range u.Publish {
		if strings.HasPrefix(subject, "$JS.") {
			continue
		}
		n++
		stream, err := b.JS().StreamNameBySubject(t.Context(), subject)
		if err != nil {
			t.Errorf("%s: %v", subject, err)
			continue
		}
		if stream != bus.StreamIntake {
			t.Errorf("%s stands in %s, beside what is not an ERP's", subject, stream)
		}
		s, err := b.JS().Stream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		taken := false
		for c := range s.ListConsumers(t.Context()).Info() {
			taken = taken || slices.Contains(append(c.Config.FilterSubjects, c.Config.FilterSubject), strings.TrimSuffix(subject, "acme")+"*")
		}
		if !taken {
			t.Errorf("nobody takes %s", subject)
		}
	}
	if n == 0 {
		t.Error("an ERP may publish nothing")
	}
}
