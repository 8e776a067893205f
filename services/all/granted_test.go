package all_test

import (
	"slices"
	"strings"
	"testing"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/services/all"
)

// What an ERP may publish is consumed, apart from what we publish: a message without a consumer would still be answered as
// stored.
func TestWhatAnERPMayPublishIsConsumed(t *testing.T) {
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
		name, _ := event.Split(subject)
		consumed := slices.ContainsFunc(all.Bus(), func(s bus.Service) bool {
			return slices.ContainsFunc(s.Consumers, func(c bus.Consumer) bool {
				return c.Topic == name && c.Stream == bus.StreamIntake && slices.Contains(c.Filters, name+".*")
			})
		})
		if !consumed {
			t.Errorf("nobody takes %s", subject)
		}
	}
	if n == 0 {
		t.Error("an ERP may publish nothing")
	}
}
