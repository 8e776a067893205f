package bustest

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"stockbridge/pkg/event"
)

// Earlier lays out the streams of the server at url as builds did that kept audits and outcomes together in ORDERS. It
// returns their consumer of audits.
func Earlier(t testing.TB, url, consumer string, ackWait time.Duration) jetstream.Consumer {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "INTAKE"); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Subjects = []string{"order.>"}
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	c, err := js.CreateConsumer(t.Context(), "ORDERS", jetstream.ConsumerConfig{
		Durable: consumer, FilterSubjects: event.OrderAudited.Subjects(), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 20_000, MaxWaiting: 4096,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
