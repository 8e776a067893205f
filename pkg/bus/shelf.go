package bus

import (
	"context"
	"errors"
	"time"

	"stockbridge/pkg/fault"
)

// ErrNotShelved says that no message stands on the shelf under that number (any more).
var ErrNotShelved = errors.New("not on the shelf")

// Shelved is a message that could not go on.
type Shelved struct {
	// Kind is event.Dead (needs a person) or event.Held (waits for a cause).
	Kind     string
	Consumer string
	// Stream and OriginSeq are those of the message that was being handled; Seq is the shelf's own number.
	Stream    string
	OriginSeq uint64
	Seq       uint64
	// Subject, Seller, Key and ID are the original event's; Seller, Key and ID may be empty.
	Subject, Seller, Key, ID string
	// Class is a fault.Class as text; Cause is what a held one waits for.
	Class, Cause string
	Reason       fault.Reason
	// Error is the whole text, at most 4 KiB.
	Error    string
	Attempts int
	// First is when the original was stored, Last when it was shelved.
	First, Last time.Time
	Trace       string
	// Header and Body are the original's; Body is nil unless asked for.
	Header map[string][]string
	Body   []byte
}

// ShelfQuery selects from the shelf. Empty fields select all.
type ShelfQuery struct {
	Kind, Consumer, Seller, Cause string
	// Subject is the original's, or the event's name without its seller.
	Subject string
	// After is the last number of the page before.
	After uint64
	// Limit of items; 0 means 100, at most 10 000.
	Limit    int
	WithBody bool
}

// By says who moves something off the shelf, and why.
type By struct {
	Who, Why string
	// Release lets a held message go past the very cause it waits for (Delivery.Released).
	Release bool
}

// Shelf lists what stands there, oldest first. next is the After of the next page, 0 when there is none.
func (b *Bus) Shelf(ctx context.Context, q ShelfQuery) (items []Shelved, next uint64, err error) {
	return nil, 0, errors.New("not yet")
}

// ShelfItem reads one, with its body; ErrNotShelved.
func (b *Bus) ShelfItem(ctx context.Context, seq uint64) (Shelved, error) {
	return Shelved{}, errors.New("not yet")
}

// Replay sends a message to its consumer again, under a new message id, and takes it off the shelf; ErrNotShelved.
func (b *Bus) Replay(ctx context.Context, seq uint64, by By) error { return errors.New("not yet") }

// Drop takes a message off the shelf for good; ErrNotShelved.
func (b *Bus) Drop(ctx context.Context, seq uint64, by By) error { return errors.New("not yet") }

// Release replays, oldest first, what q selects and match (if not nil) agrees to, at most perSecond a second (0: no
// limit). Broken off, it is simply called again.
func (b *Bus) Release(ctx context.Context, q ShelfQuery, match func(Shelved) bool, perSecond float64, by By) (n int, err error) {
	return 0, errors.New("not yet")
}
