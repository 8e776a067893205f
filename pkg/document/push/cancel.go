package push

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
)

const (
	// cancelSoon is the pause before a request is looked at again while the document is being sent.
	cancelSoon = time.Second
	// cancelLater is the same while the warehouse decides, or while the document is not known yet.
	cancelLater = 5 * time.Second
)

// Cancel answers a request to cancel a document: with cancelled, with cancel.refused, or at the deadline with
// cancel.unknown, which a final answer may follow. A document is cancelled when the warehouse says so, or when nothing of
// it was sent and, because of the request, never will be.
//
// The wish is in the ledger before the warehouse is asked. So a document that is about to be sent either sees the wish and
// is not sent, or is seen here as being sent and is cancelled after that.
func (p *Pusher[M, D]) Cancel(ctx context.Context, d *bus.Delivery, m *documentv1.CancelRequested) ([]event.Event, error) {
	c := &cancelRun[M, D]{Pusher: p, d: d, m: m, key: p.Kind.Key(m.GetSeller(), m.GetNo())}
	verdict, err := c.answer(ctx)
	switch {
	case err == nil:
		return append(c.sellerEvents, verdict), nil
	case fault.Of(err) == fault.Refused, !p.Now().Before(d.StreamTime.Add(p.CancelDeadline)):
		return append(c.sellerEvents, p.Kind.CancelUnknownEvent(c.ref(), p.Now(), m.GetRequestId(), fault.ReasonOf(err, "cancel.unanswered"))), nil
	case fault.Of(err) != fault.Wait:
		err = fault.RetryAfter(cancelLater, err) // the deadline ends it, not the number of attempts
	}
	return c.sellerEvents, fmt.Errorf("cancel %s: %w", c.key, err)
}

// requestID is the rule of request ids; see document.v1.CancelRequested.
var requestID = regexp.MustCompile(`^[!-~]{1,100}$`)

// OnCancelReject answers a request that is readable but breaks a rule. One that does not name its document gets no answer;
// it is only a dead letter.
func (p *Pusher[M, D]) OnCancelReject(_ *bus.Delivery, m *documentv1.CancelRequested, err error) []event.Event {
	if !event.ValidSeller(m.GetSeller()) || !plainNumber(m.GetNo()) {
		return nil
	}
	id, reason := m.GetRequestId(), fault.ReasonOf(err, "internal")
	if !requestID.MatchString(id) {
		id = "" // it would be part of a header
	}
	ref := p.Kind.EntryRef(ledger.Entry{Key: p.Kind.Key(m.GetSeller(), m.GetNo())}, "")
	return []event.Event{p.Kind.CancelUnknownEvent(ref, p.Now(), id, reason)}
}

// cancelRun is one run of one request.
type cancelRun[M, D proto.Message] struct {
	*Pusher[M, D]
	d            *bus.Delivery
	m            *documentv1.CancelRequested
	key          ledger.Key
	entry        ledger.Entry
	sellerEvents []event.Event
}

func (c *cancelRun[M, D]) ref() *documentv1.Ref {
	e := c.entry
	e.Key = c.key // of one that was not read
	return c.Kind.EntryRef(e, e.Number)
}

// answer returns the verdict, or why there is none yet.
func (c *cancelRun[M, D]) answer(ctx context.Context) (event.Event, error) {
	entry, err := c.Ledger.Get(ctx, c.key)
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) {
		return event.Event{}, err
	}
	// A request that is delivered again after its answer must not wish anew.
	if entry.State != ledger.Cancelled {
		if entry, err = c.Ledger.WantCancel(ctx, c.key, ledger.Cancel{RequestID: c.m.GetRequestId(), Cause: c.m.GetCause().String()}); err != nil {
			return event.Event{}, err
		}
	}
	c.entry = entry
	if wish := entry.Cancel; wish != nil && entry.State != ledger.Refused && wish.RequestID != c.m.GetRequestId() {
		return event.Event{}, fault.RetryAfter(cancelLater, c.Kind.CancelTwice(wish.RequestID))
	}
	switch entry.State {
	case ledger.Cancelled:
		return c.cancelled(""), nil
	case ledger.Refused: // the warehouse has nothing of it; the wish stays, or a replay would send it
		return c.Kind.CancelledEvent(c.ref(), c.Now(), c.m.GetRequestId()), nil
	case ledger.New:
		return event.Event{}, fault.RetryAfter(cancelLater, c.Kind.CancelNothing(c.key.No))
	case ledger.Accepted:
		return c.ask(ctx)
	default:
		return event.Event{}, fault.RetryAfter(cancelSoon, c.Kind.CancelUnsent(c.key.No))
	}
}

// ask asks the warehouse, which has the document. What it says of the document's state counts before what it answers to
// the request: an earlier request may have had its effect.
func (c *cancelRun[M, D]) ask(ctx context.Context) (event.Event, error) {
	e := c.entry
	if status := c.Kind.StatusOf(e); c.Kind.TooLate(status) {
		return c.refused(c.Kind.CancelTooLate(e.Number, status)), nil
	}
	s, ok := c.Sellers.Get(c.key.Seller)
	if !ok {
		return event.Event{}, seller.Unknown(c.key.Seller)
	}
	wh, err := c.open(s, e.Warehouse, quota.Cancel)
	if err != nil {
		return event.Event{}, err
	}
	if now := string(wh.Identity()); e.Identity != "" && now != "" && e.Identity != now {
		return event.Event{}, c.Kind.Elsewhere(c.key.Seller, c.key.No, e.Identity, now)
	}
	canceller, can := wh.(warehouse.Canceller)
	if !can {
		return event.Event{}, fault.Permanent(c.Kind.CancelUnsupported())
	}
	docs, err := wh.Read(ctx, []string{e.Number})
	c.feedBreaker(err)
	if err != nil {
		return event.Event{}, err
	}
	doc, known := docs[e.Number]
	state := doc.State
	switch {
	case known && doc.Cancelled():
		return c.cancelled(ledger.Cancelled), nil
	case known && c.Kind.TooLate(state.Status):
		return c.refused(c.Kind.CancelTooLate(e.Number, state.Status)), nil
	case known && state.Status == documentv1.Status_STATUS_CANCELLING:
		return event.Event{}, fault.RetryAfter(cancelLater, c.Kind.CancelPending(e.Number, state.Code, state.Text))
	case known && state.Status == documentv1.Status_STATUS_CANCEL_REFUSED && e.Cancel != nil && state.At.After(e.Cancel.At):
		return c.refused(c.Kind.CancelRefused(e.Number, state.Code, state.Text)), nil
	}
	got, err := canceller.Cancel(ctx, e.Number)
	c.feedBreaker(err)
	if err != nil {
		return event.Event{}, err
	}
	switch got.Verdict {
	case warehouse.CancelDone:
		return c.cancelled(ledger.Cancelled), nil
	case warehouse.CancelRefused:
		return c.refused(c.Kind.CancelRefused(e.Number, got.Code, got.Text)), nil
	default:
		return event.Event{}, fault.RetryAfter(cancelLater, c.Kind.CancelPending(e.Number, got.Code, got.Text))
	}
}

// cancelled is the final answer; state is the entry's from now on, "" when it is settled already.
func (c *cancelRun[M, D]) cancelled(state ledger.State) event.Event {
	c.endAfterStored(state)
	return c.Kind.CancelledEvent(c.ref(), c.Now(), c.m.GetRequestId())
}

func (c *cancelRun[M, D]) refused(why fault.Reason) event.Event {
	c.endAfterStored("")
	return c.Kind.CancelRefusedEvent(c.ref(), c.Now(), c.m.GetRequestId(), why)
}

// endAfterStored ends the wish when its answer is stored: a crash in between answers again, under the same id.
func (c *cancelRun[M, D]) endAfterStored(state ledger.State) {
	c.d.AfterStored(func(ctx context.Context) error {
		err := c.Ledger.EndCancel(ctx, c.key, c.m.GetRequestId(), state)
		if errors.Is(err, ledger.ErrNoEntry) {
			return nil
		}
		return err
	})
}

func (c *cancelRun[M, D]) feedBreaker(err error) {
	c.sellerEvents = append(c.sellerEvents, c.Pusher.feedBreaker(c.key.Seller, err)...)
}
