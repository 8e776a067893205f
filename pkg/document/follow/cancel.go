package follow

import (
	"bytes"
	"context"
	"time"

	"stockbridge/pkg/kind"
	"stockbridge/pkg/ledger"
	documentv1 "stockbridge/proto/document/v1"
)

// answer finds in what follows from a reading the answer to the open wish to cancel the document, adds it to the events, and
// returns the wish's id; "" when there is no wish, or no answer yet. The worker that was asked to cancel may publish the same
// answer: under the same id.
func (k Kind) answer(e ledger.Entry, o *kind.Outcome, now time.Time) (answered string) {
	wish := e.Cancel
	if wish == nil {
		return ""
	}
	var refused *documentv1.StatusChanged
	for i, ev := range o.Events {
		switch m := ev.Message.(type) {
		case *documentv1.Cancelled:
			o.Events[i] = k.CancelledEvent(m.Ref, m.At.AsTime(), wish.RequestID)
			o.Events[i].Trace = ev.Trace
		case *documentv1.StatusChanged:
			if m.Status == documentv1.Status_STATUS_CANCEL_REFUSED && m.At.AsTime().After(wish.At) { // not of an earlier wish
				refused = m
			}
		}
	}
	status := kind.StateOf[kind.Seen](ledger.Entry{Following: &o.Following}).Status
	why := k.CancelTooLate(e.Number, status)
	switch {
	case o.State == ledger.Cancelled:
		return wish.RequestID
	case refused != nil:
		why = k.CancelRefused(refused.Ref.WarehouseNo, refused.Code, refused.Text)
	case k.tooLate == nil || !k.tooLate(status):
		return ""
	}
	ev := k.CancelRefusedEvent(k.EntryRef(e, e.Number), now, wish.RequestID, why)
	ev.Trace = e.Trace
	o.Events = append(o.Events, ev)
	return wish.RequestID
}

// write writes one move. An answered wish ends first: after a crash in between, a later run finds the same facts again and
// publishes them under the same ids.
func (r *run) write(ctx context.Context, m move) error {
	if m.answered == "" {
		return r.Ledger.Follow(ctx, m.entry, m.state, m.next)
	}
	var state ledger.State
	if m.state == ledger.Cancelled {
		state = m.state
	}
	if err := r.Ledger.EndCancel(ctx, m.entry.Key, m.answered, state); err != nil {
		return err
	}
	e, err := r.Ledger.Get(ctx, m.entry.Key)
	if err != nil || e.State != m.state && e.State != m.entry.State || !bytes.Equal(following(e).State, following(m.entry).State) {
		return err // somebody else moved it meanwhile
	}
	return r.Ledger.Follow(ctx, e, m.state, m.next)
}
