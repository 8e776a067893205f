// Package event defines each fact on the wire: its subject, its message, and how its id is made.
//
// It is the only package that spells subjects. It knows neither brokers nor warehouses: bus moves what it describes.
package event

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
	sellerv1 "stockbridge/proto/seller/v1"
	stockv1 "stockbridge/proto/stock/v1"
	vmiv1 "stockbridge/proto/vmi/v1"
)

// Topic ties a name to the message that is published under it.
type Topic[M proto.Message] struct{ Name string }

// What an ERP publishes about sales orders, what we answer, and what stays internal.
var (
	OrderAudited         = Topic[*orderv1.Audited]{"order.audited"}
	OrderCancelRequested = Topic[*orderv1.CancelRequested]{"order.cancel.requested"}

	OrderAccepted      = Topic[*documentv1.Accepted]{"order.accepted"}
	OrderHeld          = Topic[*documentv1.Held]{"order.held"}
	OrderFailed        = Topic[*documentv1.Failed]{"order.failed"}
	OrderShadowed      = Topic[*orderv1.Shadowed]{"order.shadowed"}
	OrderStatusChanged = Topic[*documentv1.StatusChanged]{"order.status.changed"}
	OrderShipped       = Topic[*orderv1.Shipped]{"order.shipped"}
	OrderDelivered     = Topic[*orderv1.Delivered]{"order.delivered"}
	OrderReturning     = Topic[*orderv1.Returning]{"order.returning"}
	OrderCancelled     = Topic[*documentv1.Cancelled]{"order.cancelled"}
	OrderCancelRefused = Topic[*documentv1.CancelRefused]{"order.cancel.refused"}
	OrderCancelUnknown = Topic[*documentv1.CancelUnknown]{"order.cancel.unknown"}

	// Purchase orders.
	PurchaseAudited         = Topic[*purchasev1.Audited]{"purchase.audited"}
	PurchaseCancelRequested = Topic[*documentv1.CancelRequested]{"purchase.cancel.requested"}

	PurchaseAccepted      = Topic[*documentv1.Accepted]{"purchase.accepted"}
	PurchaseHeld          = Topic[*documentv1.Held]{"purchase.held"}
	PurchaseFailed        = Topic[*documentv1.Failed]{"purchase.failed"}
	PurchaseStatusChanged = Topic[*documentv1.StatusChanged]{"purchase.status.changed"}
	PurchaseReceived      = Topic[*purchasev1.Received]{"purchase.received"}
	PurchaseCancelled     = Topic[*documentv1.Cancelled]{"purchase.cancelled"}
	PurchaseCancelRefused = Topic[*documentv1.CancelRefused]{"purchase.cancel.refused"}
	PurchaseCancelUnknown = Topic[*documentv1.CancelUnknown]{"purchase.cancel.unknown"}

	// Movements of a shop's stock at the warehouse, with their proof.
	StockAdjusted     = Topic[*stockv1.Adjusted]{"stock.adjusted"}
	StockNoted        = Topic[*stockv1.Noted]{"stock.noted"}
	StockCounted      = Topic[*stockv1.Counted]{"stock.counted"}
	StockDriftFound   = Topic[*stockv1.DriftFound]{"stock.drift.found"}
	StockShareChanged = Topic[*stockv1.ShareChanged]{"stock.share.changed"}
	// StockShareDoubtful: shares do not rise for now.
	StockShareDoubtful = Topic[*stockv1.ShareDoubtful]{"stock.share.doubtful"}

	VMIWindowDue      = Topic[*vmiv1.WindowDue]{"vmi.window.due"}
	VMIWindowIngested = Topic[*vmiv1.WindowIngested]{"vmi.window.ingested"}
	VMIWindowFailed   = Topic[*vmiv1.WindowFailed]{"vmi.window.failed"}
	VMIGapFound       = Topic[*vmiv1.GapFound]{"vmi.gap.found"}

	SellerChanged = Topic[*sellerv1.Changed]{"seller.changed"}
	SellerPaused  = Topic[*sellerv1.Paused]{"seller.paused"}
	SellerResumed = Topic[*sellerv1.Resumed]{"seller.resumed"}

	// Internal, on ticks.
	PollDue  = Topic[*sellerv1.PollDue]{"poll.due"}
	VMIDue   = Topic[*vmiv1.Due]{"vmi.due"}
	CountDue = Topic[*stockv1.CountDue]{"count.due"}
	ShareDue = Topic[*stockv1.ShareDue]{"share.due"}
)

// Outcomes are the topics of what is published about the documents of one kind, whatever the kind.
type Outcomes struct {
	Accepted      Topic[*documentv1.Accepted]
	Held          Topic[*documentv1.Held]
	Failed        Topic[*documentv1.Failed]
	StatusChanged Topic[*documentv1.StatusChanged]
	Cancelled     Topic[*documentv1.Cancelled]
	CancelRefused Topic[*documentv1.CancelRefused]
	CancelUnknown Topic[*documentv1.CancelUnknown]
}

// OrderOutcomes are those of orders.
var OrderOutcomes = Outcomes{
	OrderAccepted, OrderHeld, OrderFailed, OrderStatusChanged, OrderCancelled, OrderCancelRefused, OrderCancelUnknown,
}

// PurchaseOutcomes are those of purchase orders.
var PurchaseOutcomes = Outcomes{
	PurchaseAccepted, PurchaseHeld, PurchaseFailed, PurchaseStatusChanged, PurchaseCancelled, PurchaseCancelRefused, PurchaseCancelUnknown,
}

// Event is one fact, ready to be published.
type Event struct {
	// Name is the topic's name, also the CloudEvents type.
	Name string
	// Seller is the subject's suffix.
	Seller string
	// ID is the CloudEvents id: the same fact always has the same one.
	ID string
	// Key is what the fact is about, the CloudEvents subject: an outbound number, a seller.
	Key string
	// At is when it happened.
	At time.Time
	// Trace is the W3C traceparent that it belongs to; empty for that of the run that publishes it.
	Trace string
	// Message is the body.
	Message proto.Message
}

// Subject is where the event is published: its name and its seller.
func (e Event) Subject() string { return e.Name + "." + e.Seller }

// About makes the event with message about key of seller. The id is name/seller/key and the discriminators that
// separate this fact from others about the same key: revision, status code, child number.
func (t Topic[M]) About(seller, key string, at time.Time, message M, discriminators ...string) Event {
	id := t.Name + "/" + seller + "/" + key
	for _, d := range discriminators {
		id += "/" + d
	}
	return Event{Name: t.Name, Seller: seller, ID: id, Key: key, At: at, Message: message}
}

// Subjects are the two forms that a publisher may use: the bare name, and the name followed by any seller.
func (t Topic[M]) Subjects() []string { return []string{t.Name, t.Name + ".*"} }

// New makes an empty message of the topic's type.
func (t Topic[M]) New() M {
	var zero M
	return zero.ProtoReflect().New().Interface().(M)
}

// KeyOf is what m is about where its publisher set no ce-subject: the document's number, else the seller.
func KeyOf(m proto.Message) string {
	if about, ok := m.(interface{ GetOutboundNo() string }); ok && about.GetOutboundNo() != "" {
		return about.GetOutboundNo()
	}
	if about, ok := m.(interface{ GetNo() string }); ok && about.GetNo() != "" {
		return about.GetNo()
	}
	if about, ok := m.(interface{ GetSeller() string }); ok {
		return about.GetSeller()
	}
	return ""
}

// SellerIn is the seller of m: its own field, or that of its order, movement or window.
func SellerIn(m proto.Message) string {
	switch m := m.(type) {
	case interface{ GetSeller() string }:
		return m.GetSeller()
	case interface{ GetRef() *documentv1.Ref }:
		return m.GetRef().GetSeller()
	case interface{ GetMovement() *stockv1.Movement }:
		return m.GetMovement().GetSeller()
	case interface{ GetWindow() *vmiv1.WindowDue }:
		return m.GetWindow().GetSeller()
	default:
		return ""
	}
}

// Revision is a revision as a discriminator.
func Revision(n int64) string { return strconv.FormatInt(n, 10) }

// Fact is a row of the table of all facts on public streams.
type Fact struct {
	// Name is the topic's.
	Name string
	// FromERP: an ERP publishes it; else we do.
	FromERP bool
	// Reserved: its schema is fixed, but nobody publishes or consumes it yet.
	Reserved bool
	// New makes an empty message.
	New func() proto.Message
}

// facts are all that public streams carry. No name may be another one followed by one token (Split).
var facts = []Fact{
	fact(OrderAudited, fromERP), fact(OrderCancelRequested, fromERP),
	fact(OrderAccepted), fact(OrderHeld), fact(OrderFailed), fact(OrderShadowed), fact(OrderStatusChanged), fact(OrderShipped),
	fact(OrderDelivered), fact(OrderReturning), fact(OrderCancelled),
	fact(OrderCancelRefused, reserved), fact(OrderCancelUnknown),
	fact(PurchaseAudited, fromERP), fact(PurchaseCancelRequested, fromERP),
	fact(PurchaseAccepted), fact(PurchaseHeld), fact(PurchaseFailed), fact(PurchaseStatusChanged), fact(PurchaseReceived),
	fact(PurchaseCancelled), fact(PurchaseCancelRefused), fact(PurchaseCancelUnknown),
	fact(SellerChanged), fact(SellerPaused), fact(SellerResumed),
	fact(StockAdjusted), fact(StockNoted), fact(StockCounted), fact(StockDriftFound), fact(StockShareChanged), fact(StockShareDoubtful),
	fact(VMIWindowDue), fact(VMIWindowIngested), fact(VMIWindowFailed), fact(VMIGapFound),
}

// Facts lists all that public streams carry.
func Facts() []Fact { return slices.Clone(facts) }

// FactNamed is the row of the event with that name.
func FactNamed(name string) (Fact, bool) {
	if i := slices.IndexFunc(facts, func(f Fact) bool { return f.Name == name }); i >= 0 {
		return facts[i], true
	}
	return Fact{}, false
}

func fact[M proto.Message](t Topic[M], is ...func(*Fact)) Fact {
	f := Fact{Name: t.Name, New: func() proto.Message { return t.New() }}
	for _, set := range is {
		set(&f)
	}
	return f
}

func fromERP(f *Fact)  { f.FromERP = true }
func reserved(f *Fact) { f.Reserved = true }

// Split splits a public subject. If it is not an event's, name is the whole subject.
func Split(subject string) (name, seller string) {
	for _, f := range facts {
		if seller, err := suffixOf(f.Name, subject); err == nil {
			return f.Name, seller
		}
	}
	return subject, ""
}

// ValidSeller reports whether name can be a subject's suffix: a-z, 0-9, _ and -, 32 at most. It runs several times per
// message, and a regular expression would cost as much as reading its metadata.
func ValidSeller(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return name != "" && len(name) <= 32
}

// suffixOf is the seller in subject's suffix. It is "" for the bare name, and an error when subject is not one of
// name's forms.
func suffixOf(name, subject string) (string, error) {
	if subject == name {
		return "", nil
	}
	suffix, ok := strings.CutPrefix(subject, name+".")
	if !ok || !ValidSeller(suffix) {
		return "", fmt.Errorf("subject %q is not %s or %s.<seller> with a seller of a-z, 0-9, _ and -, 32 at most", subject, name, name)
	}
	return suffix, nil
}
