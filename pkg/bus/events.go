package bus

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
)

// EventQuery selects from the public streams.
type EventQuery struct {
	// Names of events; empty for all.
	Names []string
	// Seller in the subject's suffix; empty for all. Events without a suffix are told too: look inside.
	Seller string
	// Key is the CloudEvents subject; empty for all. Events without one are told too.
	Key string
	// From is the first sequence; needs Names of one stream.
	From uint64
}

// Stored is an event as it stands in a stream.
type Stored struct {
	Stream  string
	Seq     uint64
	At      time.Time
	Subject string
	// Name is the subject without its seller; Seller, ID and Key may be empty.
	Name, Seller, ID, Key string
	Header                map[string][]string
	Body                  []byte
}

// Events reads from the beginning to the present end, each stream in its order, until f returns an error, which is
// returned.
func (b *Bus) Events(ctx context.Context, q EventQuery, f func(Stored) error) error {
	return errors.New("not yet")
}

// Decode reads the message of a stored event; it is not validated.
func Decode[M proto.Message](topic event.Topic[M], s Stored) (M, error) {
	m := topic.New()
	return m, errors.New("not yet")
}
