package kind

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	documentv1 "stockbridge/proto/document/v1"
)

// Terms are a kind's names, and the events that differ by nothing else.
type Terms struct {
	// Name is the kind in the ledger, the first word of its events, and Ref.Kind: "order".
	Name string
	// Field is the number's field in the ERP's document, CodeWord the first word of reason codes about it.
	Field, CodeWord string
	// ZH and EN name the document, NoZH and NoEN its number.
	ZH, EN, NoZH, NoEN string
	// RefusedZH and RefusedEN say what to do about a document that is not cancelled.
	RefusedZH, RefusedEN string
	// Topics are what is published about it.
	Topics event.Outcomes
	// Ref adds what only this kind's refs have; nil for nothing.
	Ref func(ref *documentv1.Ref, group string)
}

// Key is the ledger's key of a document.
func (t Terms) Key(seller, no string) ledger.Key {
	return ledger.Key{Seller: seller, Kind: t.Name, No: no}
}

// CauseNo is how causes name the document: its number, after the kind unless it is an order.
func (t Terms) CauseNo(no string) string {
	if t.Name == orders {
		return no
	}
	return t.Name + "/" + no
}

// OfCause reads the seller and the number of one of the kind's documents in what a cause is about; false when it is about
// another kind's.
func (t Terms) OfCause(about string) (seller, no string, ok bool) {
	seller, rest, _ := strings.Cut(about, "/")
	first, no, more := strings.Cut(rest, "/")
	switch {
	case !more:
		return seller, rest, t.Name == orders
	case first == t.Name:
		return seller, no, true
	}
	return "", "", false
}

// orders is the kind whose numbers stood in causes before there were others.
const orders = "order"

// NewRef names a document in events; number is the warehouse's.
func (t Terms) NewRef(f Facts, number string) *documentv1.Ref {
	ref := &documentv1.Ref{
		Seller: f.Seller, Shop: f.Shop, Warehouse: f.Warehouse, Revision: f.Revision, WarehouseNo: number, Kind: t.Name, No: f.No,
	}
	if t.Ref != nil {
		t.Ref(ref, f.Group)
	}
	return ref
}

// EntryRef names a document of the ledger in events.
func (t Terms) EntryRef(e ledger.Entry, number string) *documentv1.Ref {
	return t.NewRef(Facts{
		Seller: e.Key.Seller, Shop: e.Shop, Warehouse: e.Warehouse, No: e.Key.No, Revision: e.Revision, Group: e.Group,
	}, number)
}

// HeldEvent says that a document waits for cause.
func (t Terms) HeldEvent(ref *documentv1.Ref, now time.Time, cause string, reason fault.Reason, discriminators ...string) event.Event {
	m := &documentv1.Held{Ref: ref, At: timestamppb.New(now), Cause: cause, Reason: event.Reason(reason)}
	return t.Topics.Held.About(ref.Seller, ref.No, now, m, append([]string{event.Revision(ref.Revision), cause}, discriminators...)...)
}

// FailedEvent says that a document will not be sent.
func (t Terms) FailedEvent(ref *documentv1.Ref, now time.Time, reason fault.Reason) event.Event {
	m := &documentv1.Failed{Ref: ref, At: timestamppb.New(now), Reason: event.Reason(reason)}
	return t.Topics.Failed.About(ref.Seller, ref.No, now, m, event.Revision(ref.Revision), reason.Code)
}

// AcceptedEvent says that the warehouse has a document.
func (t Terms) AcceptedEvent(f Facts, number string, cleaned []ledger.Cleaned, at time.Time) event.Event {
	m := &documentv1.Accepted{Ref: t.NewRef(f, number), At: timestamppb.New(at), Lines: f.Lines}
	for _, c := range cleaned {
		if c.What == SharedNote {
			m.Notes = append(m.Notes, &documentv1.Reason{Code: c.What, Field: c.Field, Zh: c.ZH, En: c.EN})
			continue
		}
		m.Cleaned = append(m.Cleaned, &documentv1.Cleaned{Field: c.Field, What: c.What, Zh: c.ZH, En: c.EN})
	}
	return t.Topics.Accepted.About(f.Seller, f.No, at, m, event.Revision(f.Revision))
}

// Exception is something about a followed document that needs a person, published once.
type Exception struct {
	// Documents are the warehouse's numbers that it is about: part of the event's id.
	Documents string
	Reason    fault.Reason
}

// ExceptionEvent is what the ERP gets of it: a change of status without a status, with our code and text.
func (t Terms) ExceptionEvent(e ledger.Entry, x Exception, now time.Time) event.Event {
	return t.Topics.StatusChanged.About(e.Key.Seller, e.Key.No, now, &documentv1.StatusChanged{
		Ref: t.EntryRef(e, e.Number), At: timestamppb.New(now), Code: x.Reason.Code, Text: x.Reason.ZH + " / " + x.Reason.EN,
	}, x.Documents, x.Reason.Code)
}
