package bustest_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"stockbridge/pkg/bus/bustest"
	"stockbridge/pkg/event"
	"stockbridge/pkg/faultproxy"
)

// What the client had buffered when its connection was cut reaches nobody, and the client gives up.
func TestNothingGoesThroughACableThatWasCut(t *testing.T) {
	b, url := bustest.StartServer(t)
	var mu sync.Mutex
	var seen []string
	var c *faultproxy.Cable
	c, err := faultproxy.NewCable(url, func(m faultproxy.Message) bool {
		if !m.Answered && m.Subject == "order.audited.second" {
			c.Cut()
		}
		if m.Answered {
			mu.Lock()
			seen = append(seen, m.Subject)
			mu.Unlock()
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	client := bustest.Connect(t, c.URL())
	if _, _, err := client.PublishRaw(t.Context(), "order.audited.first", nil, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.PublishRaw(t.Context(), "order.audited.second", nil, []byte("{}")); err == nil {
		t.Error("stored although the cable was cut")
	}
	c.Await()
	for end := time.Now().Add(10 * time.Second); client.Ready().Error() != "connection to NATS is CLOSED"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(client.Ready())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, []string{"order.audited.first"}) {
		t.Errorf("the server answered %v", seen)
	}
	if _, seq, err := b.PublishRaw(t.Context(), event.OrderAudited.Name+".third", nil, []byte("{}")); err != nil || seq != 2 {
		t.Errorf("stored as number %d (%v), want 2", seq, err)
	}
}
