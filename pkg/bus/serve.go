package bus

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/event"
)

// Handler takes one event and returns those that follow. They are stored in any case, also beside an error; then what
// it gave to AfterStored runs; then the error is settled by its fault.Class. It is run again with the same event after
// a crash, so it must be able to repeat itself; it must end within Serving.HandlerLimit, when its ctx ends.
type Handler[M proto.Message] func(ctx context.Context, d *Delivery, m M) ([]event.Event, error)

// Attempts counts runs per message; see ledger.Attempts.
type Attempts interface {
	Count(ctx context.Context, key string) (int, error)
	Uncount(ctx context.Context, key string) error
	Forget(ctx context.Context, key string) error
}

// ErrAttempts marks what is told of a message that failed too often.
var ErrAttempts = errors.New("attempts used up")

// Delivery is what is known of a message besides its body.
type Delivery struct {
	// ID is the publisher's ce-id, else its Nats-Msg-Id, else "STREAM/seq". Publishers may repeat ids by mistake.
	ID       string
	Consumer string
	// Subject, Stream, Seq and StreamTime are those of the original event, also after parks and replays.
	Subject    string
	Stream     string
	Seq        uint64
	StreamTime time.Time
	// Seller in the subject's suffix, else the one inside the message.
	Seller string
	// First: the broker delivers the original for the first time; no retry, no replay.
	First bool
	// Attempt counts runs from 1. Runs that were only too early, held or stopped by a shutdown do not count.
	Attempt int
	// Replay: an operator or a release sent it again from the shelf.
	Replay bool
	// Released is the cause past which an operator let this message go; "" for none.
	Released string
	// Trace is the traceparent it came with; what follows carries it along.
	Trace string

	origin string
	after  []func(context.Context) error
}

// AfterStored lets f run when the returned events are stored and before the message is acked. An error of f counts as
// the handler's.
func (d *Delivery) AfterStored(f func(context.Context) error) { d.after = append(d.after, f) }

// Serving is how a consumer is served. Zero values mean the defaults.
type Serving struct {
	// Consumer is a name of the topology's.
	Consumer string
	// Slots is how many messages are handled at a time; 32.
	Slots int
	// HandlerLimit ends a handler's ctx; 25 s. It must stay below the consumer's AckWait (30 s).
	HandlerLimit time.Duration
	// Grace is how long Serve waits for handlers after its ctx ended; 40 s.
	Grace time.Duration
	// MaxAttempts is after how many failed runs a message goes to the shelf; 12.
	MaxAttempts int
	// Attempts is required, except for consumers of ticks.
	Attempts Attempts
	// Paused tells whether a seller's events wait: nil, or a fault.Hold. Optional.
	Paused func(seller string) error
	// Backoff is the pause after the nth failed run; by default from 1 s, doubling, at most 10 minutes, with jitter.
	Backoff func(attempt int) time.Duration
	// Metrics; optional.
	Metrics *Metrics
	// Now is time.Now unless a test says otherwise.
	Now func() time.Time
}

// Serve hands each message of a consumer, and what comes back to it from parks and replays, to handle, until ctx ends.
// It then takes no more, lets handlers finish, gives back what is left after Grace, and returns nil. It returns an
// error when it cannot start or its consumer is gone.
//
// unserved is asked what to tell of a message that is shelved without being handled (unreadable, invalid, of a paused
// seller) or after its last attempt failed (ErrAttempts). m is a typed nil when it cannot be read. err says why, with
// a fault.Reason where there is one. unserved may be nil.
func Serve[M proto.Message](ctx context.Context, b *Bus, topic event.Topic[M], s Serving, handle Handler[M], unserved func(d *Delivery, m M, err error) []event.Event) error {
	return errors.New("not yet")
}
