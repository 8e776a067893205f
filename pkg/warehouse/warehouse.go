// Package warehouse is the contract with whoever stores and ships the goods: one role per ability.
//
// An adapter is a folder below; its suite is warehousetest. The contract speaks our words (order/v1); the far side's
// words stay inside the adapter. It knows neither the bus nor the ledger: whether and when a call is repeated is the
// caller's decision. All methods may be called by many goroutines, and honour ctx.
package warehouse

import (
	"context"
	"errors"
	"time"

	"stockbridge/pkg/fault"
	orderv1 "stockbridge/proto/order/v1"
)

// Class is the priority of a call against the far side's quota.
type Class string

// The classes, the most urgent first. Status and Stock have floors that the others may not take.
const (
	Cancel Class = "cancel"
	Push   Class = "push"
	Status Class = "status"
	Stock  Class = "stock"
)

// FindLimit is the most outbound numbers that one FindOrders takes. It must stay at or below what the far side of each
// adapter takes in one call; 100 is JD's limit (docs/jd-api.md, Order look-up).
const FindLimit = 100

// ErrNotPermitted marks a call that the far side does not grant this seller. It is always a fault too.
var ErrNotPermitted = errors.New("not permitted for this seller")

// ErrToken marks a call whose credential the far side no longer takes. It is always a fault too: nothing was done.
var ErrToken = errors.New("credential not accepted")

// ErrOutcomeUnknown marks a fault.Hold of a call that may have had its effect all the same: ask before handing over again.
var ErrOutcomeUnknown = errors.New("it may have been done")

// Identity names whom the far side knows the sender as, in the adapter's words: what was sent under one is found under that
// one only. It is opaque, holds nothing secret, and is "" where the adapter has no word for it.
type Identity string

// Identified is whoever sends and asks under one identity for as long as it lives.
type Identified interface {
	Identity() Identity
}

// OrderPlanner says what handing over would be.
type OrderPlanner interface {
	// PlanOrder says what SendOrder would send and what it finds wrong, without sending and without a network.
	PlanOrder(o *orderv1.Audited) Plan
}

// OrderSender hands orders over.
type OrderSender interface {
	OrderPlanner

	// SendOrder hands the order over. A refusal is a fault.Permanent with a fault.Reason. A set-up that can be mended
	// is a fault.Hold, with ErrOutcomeUnknown when something may have been taken. A call that certainly had no effect is unmarked (transient) or a fault.RetryAfter. A call whose
	// answer was lost is a fault.Unknown: ask FindOrders before handing over again. The far side may or may not notice
	// a repeated outbound number: never rely on it.
	//
	// An answer in the far side's own business words, which does not prove that nothing was taken, is a *Rejected: the
	// caller asks FindOrders, and takes it as refused only when the order is absent, and is absent later too: what was
	// taken may show only seconds later. When Rejected.Data is set one look is enough.
	SendOrder(ctx context.Context, o *orderv1.Audited) (Receipt, error)

	// SendPlanned is SendOrder of an order that was planned already: plan is what PlanOrder of this very warehouse said of o.
	SendPlanned(ctx context.Context, o *orderv1.Audited, plan Plan) (Receipt, error)
}

// Rejected is a refusal in the far side's business words. Whether something was taken is to be asked. Of a question it is an
// answer that does not answer it: to be asked again, and no sign that the far side fails.
type Rejected struct {
	Reason fault.Reason
	// Data: the words are known to name a fault of the order's data, and nothing is taken with such a fault.
	Data bool
	// Cause is what a refused order waits for where the refusal is about the set-up and not about the order; empty otherwise.
	Cause string
}

func (e *Rejected) Error() string { return e.Reason.Error() }

// Unwrap gives the Reason to fault.ReasonOf.
func (e *Rejected) Unwrap() error { return e.Reason }

// OrderFinder asks by our own outbound numbers.
type OrderFinder interface {
	// FindOrders tells which of at most FindLimit outbound numbers the far side has, and where each stands. A number
	// that is not in the answer was absent when asked. An error says nothing about any of them.
	FindOrders(ctx context.Context, outboundNos []string) (map[string]Found, error)
}

// OrderFollower tells what became of an order.
type OrderFollower interface {
	// OrderDetails asks by the far side's number; ErrNotFound when it has none such.
	OrderDetails(ctx context.Context, warehouseNo string) (Details, error)
}

// OrderComparer compares what would be sent with what the far side has.
type OrderComparer interface {
	// CompareOrder tells in which of the fields that the far side gives back its document warehouseNo is not what
	// SendOrder would send of o. Fields that it does not give back, or masks, are passed over. ErrNotFound when it has no
	// such document.
	CompareOrder(ctx context.Context, o *orderv1.Audited, warehouseNo string) (Comparison, error)
	// FindByPlatform is FindOrders by the sales platforms' order numbers, at most FindLimit of them. One number may have
	// several documents, each under an outbound number of its own.
	FindByPlatform(ctx context.Context, platformNos []string) (map[string][]Found, error)
}

// Comparison is what CompareOrder found.
type Comparison struct {
	// Differences hold no personal data in the clear.
	Differences []*orderv1.Difference
	// Foreign are those of them that tell another order from this one: other goods or quantities, another receiver, shop or
	// warehouse. Spelling, texts cut short, and what a split took into parts of the document are not among them.
	Foreign []*orderv1.Difference
	// TakenAt is when the far side says it got the document; zero when it does not say.
	TakenAt time.Time
}

// ErrNotFound says that the far side does not know the document.
var ErrNotFound = errors.New("not known at the warehouse")

// Orders is the roles that sales orders need.
type Orders interface {
	Identified
	OrderSender
	OrderFinder
	OrderFollower
	OrderComparer
}

// OrderReader is what changes nothing at the far side: what the poller needs, and all that there is of a seller in shadow.
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
	// Call names the far side's method, Body is the exact business request; with an Err, what it would have been.
	Call, Body string
	// Cleaned lists the texts that were changed.
	Cleaned []*orderv1.Cleaned
	// Findings is all that is wrong with the order, each a fault.Permanent or fault.Hold with a fault.Reason.
	Findings []error
	// Err is the finding for which it would not be sent, as SendOrder would return it: of several, one that never goes
	// away by itself.
	Err error
}

// Taken is an order that the far side has.
type Receipt struct {
	WarehouseNo string
	Cleaned     []*orderv1.Cleaned
}

// Found is an order that the far side has, as FindOrders sees it.
type Found struct {
	OutboundNo  string
	WarehouseNo string
	// Others are further documents under the same outbound number: a double shipment in the making.
	Others []string
	State  State
}

// State is where a document stands.
type State struct {
	// Status is STATUS_UNSPECIFIED for a code without a word of ours.
	Status orderv1.Status
	// Code and Text are the far side's.
	Code, Text string
	// At is when it got there; zero when not told.
	At time.Time
}

// Details is all that the far side tells of one document.
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
