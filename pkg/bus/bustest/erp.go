package bustest

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ERP publishes like a program that uses a NATS client and none of our code.
type ERP struct {
	t  testing.TB
	js jetstream.JetStream
}

// NewERP connects to the server at url until the test ends.
func NewERP(t testing.TB, url string) *ERP {
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
	return &ERP{t, js}
}

// Publish publishes under a message id as docs/publish.md says: what is answered with duplicate, the first time, is
// published without one.
func (e *ERP) Publish(subject, id string, body []byte) (duplicate bool) {
	e.t.Helper()
	m := nats.NewMsg(subject)
	m.Data = body
	m.Header.Set(jetstream.MsgIDHeader, id)
	ack, err := e.js.PublishMsg(e.t.Context(), m)
	if err == nil && ack.Duplicate {
		m.Header.Del(jetstream.MsgIDHeader)
		_, err = e.js.PublishMsg(e.t.Context(), m)
	}
	if err != nil {
		e.t.Fatalf("publish %s: %v", subject, err)
	}
	return ack.Duplicate
}
