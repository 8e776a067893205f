// Package shadow does with orders in shadow mode all that the pusher does except sending, and publishes how our document
// would have differed from the one that the ERP's own program sent. It cannot send: the warehouses that it opens only read.
//
// # Why
//
// Whether an order is ours depends on when it was audited and published (seller.Shadows), not on when it is handled. So a
// backlog, a pause or a replay across the switch-over cannot make us send what the ERP's program sent.
//
// The ERP may also publish the same number again with a later time, or audit the same lines under another number. So each
// order in shadow is claimed in the ledger as ledger.External and left unknown. This holds its lines and makes sure that its
// number is never new. It is of the same kind as real orders, because the one read with which each order begins has to find
// it. After the switch-over such an order is looked up: a document that is found is adopted and followed, and an order that
// is not found waits for a person.
//
// The look-up comes with the same message, delayed by the bus: it is stored as safely as an order, survives restarts, and
// look-ups that are due together share a call. What would have held the order is determined at the look-up and not before:
// an order whose cause is fixed within minutes would have continued.
package shadow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/document/push"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

const (
	// minPause is the shortest pause between two look-ups.
	minPause = time.Minute
	// busyPause is the pause before an order is tried again that another worker has claimed.
	busyPause = 2 * time.Second
	// writeLimit is the limit of the ledger write of an order that cannot be handled.
	writeLimit = 4 * time.Second
)

type document = warehouse.Document[*orderv1.Shipped]

// Runner handles orders in shadow. All its fields are required.
type Runner struct {
	Ledger ledger.Documents
	// Seller returns a seller by name.
	Seller func(name string) (*seller.Seller, bool)
	// Read returns the orders of a seller's warehouse by the ERP's code, without the ability to send.
	Read func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	// LookUp looks an order up, and returns events about the seller besides.
	LookUp func(ctx context.Context, sellerName string, wh warehouse.Finder[*orderv1.Shipped], no string) ([]document, []event.Event, error)
	// LookUpAfter is how long the ERP's own program has to send an order before it is compared, GiveUp when it counts as not
	// sent.
	LookUpAfter, GiveUp time.Duration
	Now                 func() time.Time
	NewOwner            func() string
}

// Owns reports whether the order belongs to the ERP's own program. An order that was audited before the switch-over becomes
// ours only when a person releases it, after the switch-over.
func (r *Runner) Owns(d *bus.Delivery, o *orderv1.Audited) (*seller.Seller, bool) {
	audited := d.StreamTime // if the order's own time cannot be read
	if at := o.GetAuditedAt(); at != nil {
		audited = at.AsTime()
	}
	s, ok := r.Seller(o.GetSeller())
	if !ok || !s.Shadows(audited, d.StreamTime) {
		return nil, false
	}
	released := slices.Contains(d.Released, seller.CauseShadow(o.Seller, o.OutboundNo)) && !s.InShadow(r.Now())
	return s, !released
}

// Push records the order, and looks it up later.
func (r *Runner) Push(ctx context.Context, d *bus.Delivery, s *seller.Seller, o *orderv1.Audited) ([]event.Event, error) {
	entry, err := r.record(ctx, d, o)
	if err != nil {
		return nil, err
	}
	if entry.Origin != ledger.External { // claimed before the seller was in shadow
		switch {
		case order.SamePayload(entry, o) && (entry.State == ledger.Accepted || entry.State == ledger.Cancelled):
			return []event.Event{order.Terms.AcceptedEvent(order.Facts(o), entry.Number, entry.Cleaned, entry.ChangedAt)}, nil
		case entry.State == ledger.Unknown, entry.State == ledger.Intent:
			return nil, order.ShadowOurs(o.Seller, o.OutboundNo)
		}
	}
	now := r.Now()
	if due := entry.FirstClaimedAt.Add(r.LookUpAfter); now.Before(due) {
		return nil, fault.RetryAfter(due.Sub(now), errors.New("the ERP's own program may not have sent it yet"))
	}
	return r.check(ctx, s, o, entry)
}

// record claims the order as one that another program sends, unless it is known.
func (r *Runner) record(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) (ledger.Entry, error) {
	key := order.Terms.Key(o.Seller, o.OutboundNo)
	entry, err := r.Ledger.Get(ctx, key)
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) || err == nil && entry.State != ledger.New {
		return entry, err
	}
	b := order.Terms.ClaimRequest(push.DeliveryOf(d), order.Facts(clean.Order(o).Order), "", r.NewOwner())
	b.Origin = ledger.External
	var claimed ledger.Claimed
	for range len(o.Lines) + 1 {
		claimed, err = r.Ledger.Claim(ctx, b)
		var taken *ledger.ItemTaken
		if !errors.As(err, &taken) {
			break
		}
		// It was audited again. The lines belong to the later audit, as for the ERP's program.
		freed, freeErr := FreeLines(ctx, r.Ledger, o.Seller, taken.By, o.Revision, r.NewOwner())
		if freeErr != nil {
			return entry, freeErr
		}
		if !freed {
			b.Items = nil // sent by us, or audited later; the number must be recorded all the same
		}
	}
	switch {
	case errors.Is(err, ledger.ErrBusy), errors.Is(err, ledger.ErrHash):
		return entry, fault.RetryAfter(busyPause, err)
	case err != nil:
		return entry, err
	}
	if err := r.Ledger.MarkUnknown(ctx, claimed.Claim, "the ERP's own program sends it"); err != nil {
		return entry, err
	}
	return r.Ledger.Get(ctx, key)
}

// FreeLines frees the lines of an order in shadow. It returns false when the order is not in shadow, or was audited later
// than revision: orders are handled concurrently, not in sequence. Its number stays known.
func FreeLines(ctx context.Context, documents ledger.Documents, sellerName, no string, revision int64, owner string) (bool, error) {
	key := order.Terms.Key(sellerName, no)
	entry, err := documents.Get(ctx, key)
	switch {
	case errors.Is(err, ledger.ErrNoEntry):
		return false, nil
	case err != nil || entry.Origin != ledger.External || entry.State != ledger.Unknown && entry.State != ledger.Intent || entry.Revision > revision:
		return false, err
	}
	claimed, err := documents.Claim(ctx, ledger.ClaimRequest{
		Key: key, Origin: ledger.External, Owner: owner, Group: entry.Group, Items: entry.Items,
		Revision: entry.Revision, Shop: entry.Shop, Warehouse: entry.Warehouse,
	})
	if errors.Is(err, ledger.ErrBusy) {
		err = fault.RetryAfter(busyPause, err)
	}
	if err != nil {
		return false, err
	}
	return true, documents.Refuse(ctx, claimed.Claim, over)
}

// check compares what we would have done with what the warehouse has, and publishes the result.
func (r *Runner) check(ctx context.Context, s *seller.Seller, o *orderv1.Audited, entry ledger.Entry) (events []event.Event, err error) {
	m := &orderv1.Shadowed{Ref: order.Terms.NewRef(order.Facts(o), ""), OursAt: timestamppb.New(entry.FirstClaimedAt)}
	tidy := clean.Order(o).Order
	wh, err := r.Read(s, tidy.Warehouse, quota.Status)
	if err != nil {
		if fault.Of(err) != fault.Held {
			return nil, err
		}
		return r.verdict(m, o, append(s.Findings(tidy), err)), nil
	}
	plan, findings := order.Findings(s, wh, o)
	m.Cleaned = plan.Cleaned
	if plan.Body != "" {
		sum := sha256.Sum256([]byte(plan.Body))
		m.RequestDigest = hex.EncodeToString(sum[:])
	}
	ask := func(f warehouse.Finder[*orderv1.Shipped], no string) ([]document, error) {
		docs, about, err := r.LookUp(ctx, o.Seller, f, no)
		events = append(events, about...)
		return docs, err
	}
	by, no := warehouse.Finder[*orderv1.Shipped](wh), o.OutboundNo
	if s.Setup.GetShadow().GetFindBy() == sellerv1.Shadow_FIND_BY_PLATFORM_ORDER_NO {
		by, no = platform{wh}, ""
		if len(tidy.PlatformOrderNos) > 0 {
			no = tidy.PlatformOrderNos[0]
		}
	}
	var found []document
	if no != "" {
		if found, err = ask(by, no); err != nil {
			return events, err
		}
	}
	live, err := r.liveElsewhere(ctx, tidy, func(no string) ([]document, error) { return ask(wh, no) })
	if err != nil {
		return events, err
	}
	findings = append(findings, live...)
	if len(found) > 0 {
		if err := r.compare(ctx, wh, o, found, m); err != nil {
			return events, err
		}
		return append(events, r.verdict(m, o, findings)...), nil
	}
	now := r.Now()
	deadline := entry.FirstClaimedAt.Add(r.GiveUp)
	if !s.InShadow(now) { // no program sends it now: this must become visible soon
		deadline = entry.FirstClaimedAt.Add(r.LookUpAfter)
		if after := s.ShadowUntil().Add(r.LookUpAfter); after.After(deadline) {
			deadline = after
		}
	}
	if left := deadline.Sub(now); left > 0 {
		wait := min(max(now.Sub(entry.FirstClaimedAt), minPause), left)
		return events, fault.RetryAfter(wait, errors.New("the ERP's own program has not sent it yet"))
	}
	events = append(events, r.verdict(m, o, findings)...)
	if s.InShadow(now) {
		return events, nil
	}
	err = order.ShadowWaiting(o.Seller, o.OutboundNo)
	return append(events, order.Terms.HeldEvent(order.Terms.NewRef(order.Facts(o), ""), now, fault.Cause(err), fault.ReasonOf(err, "internal"))), err
}

// platform looks up orders by the platforms' order numbers, for ERP programs with other outbound numbers.
type platform struct{ warehouse.OrderReader }

func (p platform) Find(ctx context.Context, nos []string) (map[string][]document, error) {
	return p.FindByPlatform(ctx, nos)
}

// compare fills in how the document differs. Of several under a platform's number it takes the one that differs least;
// several under one outbound number are a difference in themselves.
func (r *Runner) compare(ctx context.Context, wh warehouse.OrderReader, o *orderv1.Audited, found []document, m *orderv1.Shadowed) error {
	byNumber := found[0].No == o.OutboundNo
	for i, doc := range found {
		no := doc.Number
		c, err := wh.Compare(ctx, o, no)
		if err != nil {
			return err
		}
		if i > 0 && (byNumber || len(c.Differences) >= len(m.Differences)) {
			continue
		}
		m.Ref.WarehouseNo, m.Differences, m.TheirsAt = no, c.Differences, nil
		if !c.TakenAt.IsZero() {
			m.TheirsAt = timestamppb.New(c.TakenAt)
		}
	}
	if byNumber && len(found) > 1 {
		var numbers []string
		for _, doc := range found {
			numbers = append(numbers, doc.Number)
		}
		m.Differences = append(m.Differences, &orderv1.Difference{
			Field: "documents", Ours: "1", Theirs: strings.Join(numbers, " "),
			Zh: "同一出库单号在仓库有多张单据，可能重复发货，请立即核对", En: "the warehouse has several documents under this number, perhaps a double shipment: check at once",
		})
	}
	return nil
}

// liveElsewhere finds lines of the order that are live under another number, as the claim of an order of ours does.
func (r *Runner) liveElsewhere(ctx context.Context, o *orderv1.Audited, ask func(no string) ([]document, error)) ([]error, error) {
	others, err := r.Ledger.Find(ctx, o.Seller, o.OrderNo)
	if err != nil {
		return nil, err
	}
	claimed := order.Claimed(others, o.Supersedes)
	var found []error
	for _, other := range others {
		if other.Key.No == o.OutboundNo || other.Key.Kind != order.Terms.Name || other.Group != o.OrderNo {
			continue
		}
		i := slices.IndexFunc(o.Lines, func(line *orderv1.Line) bool { return slices.Contains(other.Items, line.LineId) })
		// An order in shadow is not followed, so only the warehouse knows whether it is live.
		live := other.State.Live()
		if other.Origin == ledger.External && i >= 0 {
			at, err := ask(other.Key.No)
			if err != nil {
				return nil, err
			}
			live = len(at) > 0 && !at[0].Cancelled() && other.Revision < o.Revision
		}
		if i >= 0 && live {
			found = append(found, order.Terms.ItemTaken(order.Facts(o), o.Lines[i].LineId, fmt.Sprintf("lines[%d]", i), other, claimed))
		}
	}
	return found, nil
}

// verdict returns the event with the result.
func (r *Runner) verdict(m *orderv1.Shadowed, o *orderv1.Audited, findings []error) []event.Event {
	m.Verdict = orderv1.Shadowed_VERDICT_ONLY_OURS
	switch {
	case m.Ref.WarehouseNo != "" && len(m.Differences) > 0:
		m.Verdict = orderv1.Shadowed_VERDICT_DIFFERS
	case m.Ref.WarehouseNo != "":
		m.Verdict = orderv1.Shadowed_VERDICT_SAME
	}
	for _, err := range findings {
		if fault.Of(err) == fault.Refused {
			m.Verdict = orderv1.Shadowed_VERDICT_WOULD_FAIL
		} else if m.Verdict != orderv1.Shadowed_VERDICT_WOULD_FAIL {
			m.Verdict = orderv1.Shadowed_VERDICT_WOULD_HOLD
		}
		reason := event.Reason(fault.ReasonOf(err, "internal"))
		if !slices.ContainsFunc(m.Reasons, func(have *documentv1.Reason) bool {
			return have.Code == reason.Code && have.Field == reason.Field
		}) {
			m.Reasons = append(m.Reasons, reason)
		}
	}
	now := r.Now()
	m.At = timestamppb.New(now)
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision))}
}

// OnReject returns the event of an order in shadow that could not be handled. It is never order.failed or order.held,
// because the ERP's program sends the order. The order is recorded too, if possible.
func (r *Runner) OnReject(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if d.Seller == o.Seller { // another publisher may not change the state of this seller's numbers
		ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
		defer cancel()
		_, _ = r.record(ctx, d, o)
	}
	if fault.Of(err) == fault.Held && !errors.Is(err, bus.ErrAttempts) {
		return nil // it is retried
	}
	now := r.Now()
	m := &orderv1.Shadowed{Ref: order.Terms.NewRef(order.Facts(o), ""), At: timestamppb.New(now), Verdict: orderv1.Shadowed_VERDICT_WOULD_FAIL, Reasons: []*documentv1.Reason{event.Reason(fault.ReasonOf(err, "internal"))}}
	ids := []string{event.Revision(o.Revision)}
	if errors.Is(err, bus.ErrAttempts) {
		m.Verdict = orderv1.Shadowed_VERDICT_NOT_COMPARED
		ids = append(ids, "not-compared")
	}
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, ids...)}
}

// over is the reason why an order in shadow no longer holds its lines.
var over = fault.Reason{
	Code: "shadow.over", Field: "outbound_no",
	ZH: "影子模式期间审核的订单，已取消或已由之后的审核替代", EN: "audited in shadow mode; cancelled since, or replaced by a later audit",
}
