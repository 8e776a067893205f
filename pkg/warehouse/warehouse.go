// Package warehouse is the contract with a warehouse, the company and API that stores and ships the goods. It has one
// interface for each ability. In the comments, remote means the warehouse's API.
//
// An adapter is a folder below this one and must pass the suite in warehousetest. The contract uses our own terms
// (order/v1); the remote's terms stay inside the adapter. It knows neither the bus nor the ledger: the caller decides
// whether and when a call is repeated. Every method may be called by many goroutines and honours ctx.
package warehouse

import (
	"context"
	"errors"
	"time"

	"stockbridge/pkg/fault"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Limits is how much one call may ask for. Each adapter has its own.
type Limits struct {
	// Find is the most numbers of one call of FindOrders or FindByPlatform, at least 1.
	Find int
	// ShopStock is the most goods of one call of ShopStock, at least 1.
	ShopStock int
}

// Limited has the same limits for its whole life. Limits makes no call.
type Limited interface {
	Limits() Limits
}

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

// OrderPlanner says what would be sent, without sending it.
type OrderPlanner interface {
	// PlanOrder returns what SendOrder would send and everything that is wrong with the order. It makes no call.
	PlanOrder(o *orderv1.Audited) Plan
}

// OrderSender sends orders.
type OrderSender interface {
	OrderPlanner

	// SendOrder sends the order. Its errors:
	//
	//   - fault.Permanent with a fault.Reason: refused.
	//   - fault.Hold: a setting must be fixed first. With ErrOutcomeUnknown a document may have been created.
	//   - unmarked (transient) or fault.RetryAfter: the call certainly had no effect.
	//   - fault.Unknown: the answer was lost. Call FindOrders before sending again.
	//   - *Rejected: the remote refused in its own business terms, which does not prove that no document was created.
	//     Call FindOrders. The order counts as refused only if it is still not found some time later, because a
	//     document may become visible only after seconds. If Rejected.Data is set, one look-up is enough.
	//
	// The remote may or may not notice a repeated outbound number: never rely on it.
	SendOrder(ctx context.Context, o *orderv1.Audited) (Receipt, error)

	// SendPlanned is SendOrder for an order that was planned before. plan must be the result of PlanOrder on this same
	// warehouse.
	SendPlanned(ctx context.Context, o *orderv1.Audited, plan Plan) (Receipt, error)
}

// Rejected is a refusal in the remote's business terms. After a send it is unknown whether a document was created. After
// a query it means that the question was not answered: ask again, and do not count it as a failure of the remote.
type Rejected struct {
	Reason fault.Reason
	// Data is set when the text is known to name a fault in the order's data, with which no document is created.
	Data bool
	// Cause is what the order waits for if the refusal is about the settings and not about the order; otherwise empty.
	Cause string
}

func (e *Rejected) Error() string { return e.Reason.Error() }

// Unwrap gives the Reason to fault.ReasonOf.
func (e *Rejected) Unwrap() error { return e.Reason }

// OrderFinder looks orders up by our own outbound numbers.
type OrderFinder interface {
	Limited

	// FindOrders returns which of at most Limits.Find outbound numbers the remote has, and the state of each. A number missing
	// from the result did not exist when asked. An error says nothing about any of them.
	FindOrders(ctx context.Context, outboundNos []string) (map[string]Found, error)
}

// OrderFollower reads what became of an order.
type OrderFollower interface {
	// OrderDetails asks by the warehouse's number. It returns ErrNotFound if there is no such document.
	OrderDetails(ctx context.Context, warehouseNo string) (Details, error)
}

// OrderComparer compares what we would send with what the remote has.
type OrderComparer interface {
	// CompareOrder returns the fields in which the document warehouseNo differs from what SendOrder would send for o. Fields
	// that the remote does not return, or masks, are skipped. It returns ErrNotFound if there is no such document.
	CompareOrder(ctx context.Context, o *orderv1.Audited, warehouseNo string) (Comparison, error)
	// FindByPlatform is FindOrders by the sales platforms' order numbers, at most Limits.Find of them. One number may have
	// several documents, each with an outbound number of its own.
	FindByPlatform(ctx context.Context, platformNos []string) (map[string][]Found, error)
}

// Comparison is the result of CompareOrder.
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

// Orders is every ability that sales orders need.
type Orders interface {
	Identified
	OrderSender
	OrderFinder
	OrderFollower
	OrderComparer
}

// OrderReader is every ability that changes nothing at the remote: what the poller needs, and all that a seller in shadow
// mode gets.
type OrderReader interface {
	Identified
	OrderPlanner
	OrderFinder
	OrderFollower
	OrderComparer
	OrderLister
}

// Plan is what would be sent.
type Plan struct {
	// Call names the remote's method, Body is the exact business request. If Err is set, Body is what the request would have
	// been.
	Call, Body string
	// Cleaned lists the texts that were changed.
	Cleaned []*documentv1.Cleaned
	// Findings is everything that is wrong with the order, each a fault.Permanent or fault.Hold with a fault.Reason.
	Findings []error
	// Err is the finding that prevents sending, as SendOrder would return it. Of several, it is one that needs a change of
	// the order, if there is one.
	Err error
}

// Receipt is the remote's confirmation of an order.
type Receipt struct {
	WarehouseNo string
	Cleaned     []*documentv1.Cleaned
}

// Found is an order that the remote has, as FindOrders returns it.
type Found struct {
	OutboundNo  string
	WarehouseNo string
	// Others are further documents under the same outbound number: a possible double shipment.
	Others []string
	State  State
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

// Details is everything the remote returns about one document.
type Details struct {
	WarehouseNo string
	OutboundNo  string
	State       State
	// History is sorted by time.
	History     []State
	CarrierNo   string
	CarrierName string
	// Waybills: the first is the main one.
	Waybills []string
	Packages []*orderv1.Package
	Lines    []*orderv1.ShippedLine
	// Children are the documents that this one was split into. They hold the waybills and lines.
	Children []string
}
