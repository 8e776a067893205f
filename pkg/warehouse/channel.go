package warehouse

import (
	"context"

	"google.golang.org/protobuf/proto"

	documentv1 "stockbridge/proto/document/v1"
)

// Channel sends and reads the documents of one kind. M is the ERP's document, D is what its end yields: a shipment, a
// receipt.
type Channel[M, D proto.Message] interface {
	Reader[D]
	Planner[M]

	// Send sends the document as planned. plan must be the result of Plan of this same channel. Its errors:
	//
	//   - fault.Permanent with a fault.Reason: refused.
	//   - fault.Hold: a setting must be fixed first. With ErrOutcomeUnknown a document may have been created.
	//   - unmarked (transient) or fault.RetryAfter: the call certainly had no effect.
	//   - fault.Unknown: the answer was lost. Call Find before sending again.
	//   - *Rejected: the remote refused in its own business terms, which does not prove that no document was created.
	//     Call Find. The document counts as refused only if it is still not found some time later, because a document may
	//     become visible only after seconds. If Rejected.Data is set, one look-up is enough.
	//
	// Where the channel is no Finder, "call Find" is a question for a person. The remote may or may not notice a repeated
	// number: never rely on it.
	Send(ctx context.Context, m M, plan Plan) (Receipt, error)
}

// Planner says what would be sent, without sending it.
type Planner[M proto.Message] interface {
	// Plan returns what Send would send and everything that is wrong with the document. It makes no call.
	Plan(m M) Plan
}

// Reader reads the documents of one kind and changes nothing.
type Reader[D proto.Message] interface {
	Identified

	// Read reads documents by the warehouse's numbers, at most ReadLimit of them. A number missing from the result was not
	// known at the warehouse when asked. An error says nothing about any of them; a single document that cannot be
	// understood is not an error but has an Err of its own, so that it does not hide the others.
	Read(ctx context.Context, numbers []string) (map[string]Document[D], error)
	// ReadLimit is the most numbers of one call of Read, at least 1.
	ReadLimit() int
}

// Finder is a Reader that also finds documents by the ERP's numbers. Without it, nobody but a person at the warehouse's
// own console can find out whether a lost send arrived.
type Finder[D proto.Message] interface {
	// Find returns the documents that the warehouse has under at most FindLimit of the ERP's numbers, with number and state;
	// Detail may be missing. Several under one number are a possible repetition: the live ones come first. A number missing
	// from the result did not exist when asked. An error says nothing about any of them.
	Find(ctx context.Context, nos []string) (map[string][]Document[D], error)
	// FindLimit is the most numbers of one call of Find, at least 1.
	FindLimit() int
}

// Comparer compares what we would send with what the warehouse has.
type Comparer[M proto.Message] interface {
	// Compare returns the fields in which the document number differs from what Send would send for m. Fields that the
	// remote does not return, or masks, are skipped. It returns ErrNotFound if there is no such document.
	Compare(ctx context.Context, m M, number string) (Comparison, error)
}

// Canceller cancels documents by the warehouse's numbers.
type Canceller interface {
	// Cancel asks the warehouse to cancel. Asking again for the same document is harmless. Its errors are those of Send; a
	// *Rejected is no verdict: the question was not answered.
	Cancel(ctx context.Context, number string) (Cancellation, error)
}

// Verdict is the warehouse's answer to a request to cancel.
type Verdict int

// The verdicts. Pending is also what an answer means that is not understood: the document's state decides later.
const (
	CancelPending Verdict = iota
	CancelDone
	CancelRefused
)

// Cancellation is a verdict with the warehouse's own code and text.
type Cancellation struct {
	Verdict    Verdict
	Code, Text string
}

// Document is one document as the warehouse has it.
type Document[D proto.Message] struct {
	// Number is the warehouse's, No is ours as the warehouse repeats it; "" if it does not.
	Number, No string
	State      State
	// History is sorted by time; empty if the warehouse keeps none.
	History []State
	// Children are the documents that this one was split into.
	Children []string
	// Detail is what the document yields so far. It holds no Ref and no time.
	Detail D
	// Err, if set, says why the document cannot be understood. It exists, and a person has to look at it; State has no
	// Status, Detail is missing, and nothing may be concluded from either.
	Err error
}

// Cancelled reports whether the warehouse cancelled the document.
func (d Document[D]) Cancelled() bool {
	return d.State.Status == documentv1.Status_STATUS_CANCELLED
}

// ReadOnly narrows a channel to what changes nothing: no type assertion finds a way to send or to cancel.
func ReadOnly[M, D proto.Message](c Channel[M, D]) Reader[D] {
	if f, ok := c.(Finder[D]); ok {
		return struct {
			Reader[D]
			Finder[D]
		}{c, f}
	}
	return struct{ Reader[D] }{c}
}
