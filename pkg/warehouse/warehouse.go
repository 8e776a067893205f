// Package warehouse is the contract with a warehouse, the company and API that stores and ships the goods. It has one
// interface for each ability. In the comments, remote means the warehouse's API.
//
// An adapter is a folder below this one and must pass the suite in warehousetest. The contract uses our own terms
// (order/v1, purchase/v1); the remote's terms stay inside the adapter. It knows neither the bus nor the ledger: the caller decides
// whether and when a call is repeated. Every method may be called by many goroutines and honours ctx.
package warehouse

import (
	"errors"
	"time"

	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// ErrNotPermitted marks a call that the remote does not allow for this seller. The error is always a fault as well.
var ErrNotPermitted = errors.New("not permitted for this seller")

// ErrToken marks a call whose credential the remote did not accept. The error is always a fault as well; nothing was
// done.
var ErrToken = errors.New("credential not accepted")

// ErrOutcomeUnknown marks a fault.Hold of a call that may have taken effect: look up before sending again.
var ErrOutcomeUnknown = errors.New("it may have been done")

// Identity names the account under which the remote knows the sender, in the adapter's terms. A document that was sent
// under one identity can only be found under that identity. It is opaque, holds nothing secret, and is "" if the adapter
// has no such thing.
type Identity string

// Identified has one identity for its whole life.
type Identified interface {
	Identity() Identity
}

// Rejected is a refusal in the remote's business terms. After a send it is unknown whether a document was created. After
// a query it means that the question was not answered: ask again, and do not count it as a failure of the remote.
type Rejected struct {
	Reason fault.Reason
	// Data is set when the text is known to name a fault in the document's data, with which no document is created.
	Data bool
	// Cause is what the document waits for if the refusal is about the settings and not about the document; otherwise empty.
	Cause string
}

func (e *Rejected) Error() string { return e.Reason.Error() }

// Unwrap gives the Reason to fault.ReasonOf.
func (e *Rejected) Unwrap() error { return e.Reason }

// Comparison is the result of Compare.
type Comparison struct {
	// Differences hold no personal data in the clear.
	Differences []*orderv1.Difference
	// Foreign are those Differences that show another order: other goods or quantities, another receiver, shop or warehouse.
	// Spelling, truncated texts, and lines that a split moved to other documents are not among them.
	Foreign []*orderv1.Difference
	// TakenAt is when the remote received the document; zero if it does not say.
	TakenAt time.Time
}

// ErrNotFound means that the remote does not know the document.
var ErrNotFound = errors.New("not known at the warehouse")

// Plan is what would be sent.
type Plan struct {
	// Call names the remote's method, Body is the exact business request. If Err is set, Body is what the request would have
	// been.
	Call, Body string
	// Cleaned lists the texts that were changed.
	Cleaned []*documentv1.Cleaned
	// Findings is everything that is wrong with the document, each a fault.Permanent or fault.Hold with a fault.Reason.
	Findings []error
	// Err is the finding that prevents sending, as Send would return it. Of several, it is one that needs a change of
	// the document, if there is one.
	Err error
}

// Receipt is the remote's confirmation of a document.
type Receipt struct {
	WarehouseNo string
	Cleaned     []*documentv1.Cleaned
}

// State is the state of a document.
type State struct {
	// Status is STATUS_UNSPECIFIED for a code that has no status of ours.
	Status documentv1.Status
	// Code and Text are the remote's.
	Code, Text string
	// At is when the document reached this state; zero if unknown.
	At time.Time
}
