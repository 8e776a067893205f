package pusher

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
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// shadowRunner does with orders in shadow all that Push does except sending, and publishes how our document would have
// differed from the one that the ERP's own program sent. It cannot send: the warehouses that it opens only read.
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
type shadowRunner struct {
	ledger ledger.Documents
	read   func(s *seller.Seller, code string, class quota.Class) (warehouse.OrderReader, error)
	// feedBreaker reports a call's outcome to the seller's breaker.
	feedBreaker         func(sellerName string, err error) []event.Event
	finder              *batchFinder
	fairness            *fairness
	slots               int
	lookUpAfter, giveUp time.Duration
	now                 func() time.Time
	newOwner            func() string
}

// minShadowPause is the shortest pause between two look-ups.
const minShadowPause = time.Minute

// inShadow reports whether the order belongs to the ERP's own program. An order that was audited before the switch-over
// becomes ours only when a person releases it, after the switch-over.
func (p *Pusher) inShadow(d *bus.Delivery, o *orderv1.Audited) (*seller.Seller, bool) {
	audited := d.StreamTime // if the order's own time cannot be read
	if at := o.GetAuditedAt(); at != nil {
		audited = at.AsTime()
	}
	s, ok := p.Sellers.Get(o.GetSeller())
	if !ok || !s.Shadows(audited, d.StreamTime) {
		return nil, false
	}
	given := slices.Contains(d.Released, seller.CauseShadow(o.Seller, o.OutboundNo)) && !s.InShadow(p.Now())
	return s, !given
}

// push records the order, and looks it up later.
func (l *shadowRunner) push(ctx context.Context, d *bus.Delivery, s *seller.Seller, o *orderv1.Audited) ([]event.Event, error) {
	entry, err := l.record(ctx, d, o)
	if err != nil {
		return nil, err
	}
	if entry.Origin != ledger.External { // claimed before the seller was in shadow
		switch {
		case SamePayload(entry, o) && (entry.State == ledger.Accepted || entry.State == ledger.Cancelled):
			return []event.Event{acceptedEvent(o, entry.Number, entry.Cleaned, entry.ChangedAt)}, nil
		case entry.State == ledger.Unknown, entry.State == ledger.Intent:
			return nil, ShadowOurs(o)
		}
	}
	now := l.now()
	if due := entry.FirstClaimedAt.Add(l.lookUpAfter); now.Before(due) {
		return nil, fault.RetryAfter(due.Sub(now), errors.New("the ERP's own program may not have sent it yet"))
	}
	leave, wait := l.fairness.enter(bulkheadKey{o.Seller, d.Returned}, l.slots, l.now)
	if leave == nil {
		return nil, fault.RetryAfter(wait, errors.New("the seller's orders hold enough slots; the others are for other sellers"))
	}
	defer leave()
	return l.check(ctx, s, o, entry)
}

// record claims the order as one that another program sends, unless it is known.
func (l *shadowRunner) record(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) (ledger.Entry, error) {
	key := ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo}
	entry, err := l.ledger.Get(ctx, key)
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) || err == nil && entry.State != ledger.New {
		return entry, err
	}
	b := claimRequest(d, clean.Order(o).Order, "", l.newOwner())
	b.Origin = ledger.External
	var claimed ledger.Claimed
	for range len(o.Lines) + 1 {
		claimed, err = l.ledger.Claim(ctx, b)
		var taken *ledger.LineTaken
		if !errors.As(err, &taken) {
			break
		}
		// It was audited again. The lines belong to the later audit, as for the ERP's program.
		freed, freeErr := freeLines(ctx, l.ledger, o.Seller, taken.By, o.Revision, l.newOwner())
		if freeErr != nil {
			return entry, freeErr
		}
		if !freed {
			b.Lines = nil // sent by us, or audited later; the number must be recorded all the same
		}
	}
	switch {
	case errors.Is(err, ledger.ErrBusy), errors.Is(err, ledger.ErrHash):
		return entry, fault.RetryAfter(busyPause, err)
	case err != nil:
		return entry, err
	}
	if err := l.ledger.MarkUnknown(ctx, claimed.Claim, "the ERP's own program sends it"); err != nil {
		return entry, err
	}
	return l.ledger.Get(ctx, key)
}

// freeLines frees the lines of an order in shadow. It returns false when the order is not in shadow, or was audited later
// than revision: orders are handled concurrently, not in sequence. Its number stays known.
func freeLines(ctx context.Context, documents ledger.Documents, sellerName, no string, revision int64, owner string) (bool, error) {
	key := ledger.Key{Seller: sellerName, Kind: kind, No: no}
	entry, err := documents.Get(ctx, key)
	switch {
	case errors.Is(err, ledger.ErrNoEntry):
		return false, nil
	case err != nil || entry.Origin != ledger.External || entry.State != ledger.Unknown && entry.State != ledger.Intent || entry.Revision > revision:
		return false, err
	}
	claimed, err := documents.Claim(ctx, ledger.ClaimRequest{
		Key: key, Origin: ledger.External, Owner: owner, OrderNo: entry.OrderNo, Lines: entry.Lines,
		Revision: entry.Revision, Shop: entry.Shop, Warehouse: entry.Warehouse,
	})
	if errors.Is(err, ledger.ErrBusy) {
		err = fault.RetryAfter(busyPause, err)
	}
	if err != nil {
		return false, err
	}
	return true, documents.Refuse(ctx, claimed.Claim, shadowOver)
}

// check compares what we would have done with what the warehouse has, and publishes the result.
func (l *shadowRunner) check(ctx context.Context, s *seller.Seller, o *orderv1.Audited, entry ledger.Entry) (events []event.Event, err error) {
	m := &orderv1.Shadowed{Ref: ref(o, ""), OursAt: timestamppb.New(entry.FirstClaimedAt)}
	tidy := clean.Order(o).Order
	wh, err := l.read(s, tidy.Warehouse, quota.Status)
	if err != nil {
		if fault.Of(err) != fault.Held {
			return nil, err
		}
		return l.verdict(m, o, append(s.Findings(tidy), err)), nil
	}
	plan, findings := Findings(s, wh, o)
	m.Cleaned = plan.Cleaned
	if plan.Body != "" {
		sum := sha256.Sum256([]byte(plan.Body))
		m.RequestDigest = hex.EncodeToString(sum[:])
	}
	ask := func(f warehouse.OrderFinder, no string) (warehouse.Found, bool, error) {
		found, ok, first, err := l.finder.find(ctx, f, no)
		if first {
			events = append(events, l.feedBreaker(o.Seller, err)...)
		}
		return found, ok, err
	}
	by, no := warehouse.OrderFinder(wh), o.OutboundNo
	if s.Setup.GetShadow().GetFindBy() == sellerv1.Shadow_FIND_BY_PLATFORM_ORDER_NO {
		by, no = platform{wh}, ""
		if len(tidy.PlatformOrderNos) > 0 {
			no = tidy.PlatformOrderNos[0]
		}
	}
	found, ok := warehouse.Found{}, false
	if no != "" {
		if found, ok, err = ask(by, no); err != nil {
			return events, err
		}
	}
	live, err := l.liveElsewhere(ctx, tidy, func(no string) (warehouse.Found, bool, error) { return ask(wh, no) })
	if err != nil {
		return events, err
	}
	findings = append(findings, live...)
	if ok {
		if err := l.compare(ctx, wh, o, found, m); err != nil {
			return events, err
		}
		return append(events, l.verdict(m, o, findings)...), nil
	}
	now := l.now()
	deadline := entry.FirstClaimedAt.Add(l.giveUp)
	if !s.InShadow(now) { // no program sends it now: this must become visible soon
		deadline = entry.FirstClaimedAt.Add(l.lookUpAfter)
		if after := s.ShadowUntil().Add(l.lookUpAfter); after.After(deadline) {
			deadline = after
		}
	}
	if left := deadline.Sub(now); left > 0 {
		wait := min(max(now.Sub(entry.FirstClaimedAt), minShadowPause), left)
		return events, fault.RetryAfter(wait, errors.New("the ERP's own program has not sent it yet"))
	}
	events = append(events, l.verdict(m, o, findings)...)
	if s.InShadow(now) {
		return events, nil
	}
	err = ShadowWaiting(o)
	return append(events, heldEvent(o, now, fault.Cause(err), fault.ReasonOf(err, "internal"))), err
}

// platform looks up orders by the platforms' order numbers, for ERP programs with other outbound numbers.
type platform struct{ warehouse.OrderReader }

func (p platform) FindOrders(ctx context.Context, nos []string) (map[string]warehouse.Found, error) {
	lists, err := p.FindByPlatform(ctx, nos)
	found := make(map[string]warehouse.Found, len(lists))
	for no, list := range lists {
		f := list[0]
		for _, other := range list[1:] {
			f.Others = append(f.Others, other.WarehouseNo)
		}
		found[no] = f
	}
	return found, err
}

// compare fills in how the document differs. Of several under a platform's number it takes the one that differs least;
// several under one outbound number are a difference in themselves.
func (l *shadowRunner) compare(ctx context.Context, wh warehouse.OrderReader, o *orderv1.Audited, found warehouse.Found, m *orderv1.Shadowed) error {
	for i, no := range append([]string{found.WarehouseNo}, found.Others...) {
		c, err := wh.CompareOrder(ctx, o, no)
		if err != nil {
			return err
		}
		if i > 0 && (found.OutboundNo == o.OutboundNo || len(c.Differences) >= len(m.Differences)) {
			continue
		}
		m.Ref.WarehouseNo, m.Differences, m.TheirsAt = no, c.Differences, nil
		if !c.TakenAt.IsZero() {
			m.TheirsAt = timestamppb.New(c.TakenAt)
		}
	}
	if found.OutboundNo == o.OutboundNo && len(found.Others) > 0 {
		m.Differences = append(m.Differences, &orderv1.Difference{
			Field: "documents", Ours: "1", Theirs: strings.Join(append([]string{found.WarehouseNo}, found.Others...), " "),
			Zh: "同一出库单号在仓库有多张单据，可能重复发货，请立即核对", En: "the warehouse has several documents under this number, perhaps a double shipment: check at once",
		})
	}
	return nil
}

// liveElsewhere finds lines of the order that are live under another number, as the claim of an order of ours does.
func (l *shadowRunner) liveElsewhere(ctx context.Context, o *orderv1.Audited, ask func(no string) (warehouse.Found, bool, error)) ([]error, error) {
	others, err := l.ledger.Find(ctx, o.Seller, o.OrderNo)
	if err != nil {
		return nil, err
	}
	claimed := Claimed(others, o.Supersedes)
	var found []error
	for _, other := range others {
		if other.Key.No == o.OutboundNo || other.Key.Kind != kind || other.OrderNo != o.OrderNo {
			continue
		}
		i := slices.IndexFunc(o.Lines, func(line *orderv1.Line) bool { return slices.Contains(other.Lines, line.LineId) })
		// An order in shadow is not followed, so only the warehouse knows whether it is live.
		live := other.State.Live()
		if other.Origin == ledger.External && i >= 0 {
			at, ok, err := ask(other.Key.No)
			if err != nil {
				return nil, err
			}
			live = ok && at.State.Status != orderv1.Status_STATUS_CANCELLED && other.Revision < o.Revision
		}
		if i >= 0 && live {
			found = append(found, LineTaken(o, o.Lines[i].LineId, other, claimed))
		}
	}
	return found, nil
}

// verdict returns the event with the result.
func (l *shadowRunner) verdict(m *orderv1.Shadowed, o *orderv1.Audited, findings []error) []event.Event {
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
		r := event.Reason(fault.ReasonOf(err, "internal"))
		if !slices.ContainsFunc(m.Reasons, func(have *orderv1.Reason) bool { return have.Code == r.Code && have.Field == r.Field }) {
			m.Reasons = append(m.Reasons, r)
		}
	}
	now := l.now()
	m.At = timestamppb.New(now)
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision))}
}

// onReject returns the event of an order in shadow that could not be handled. It is never order.failed or order.held,
// because the ERP's program sends the order. The order is recorded too, if possible.
func (l *shadowRunner) onReject(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if d.Seller == o.Seller { // another publisher may not change the state of this seller's numbers
		ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
		defer cancel()
		_, _ = l.record(ctx, d, o)
	}
	if fault.Of(err) == fault.Held && !errors.Is(err, bus.ErrAttempts) {
		return nil // it is retried
	}
	now := l.now()
	m := &orderv1.Shadowed{Ref: ref(o, ""), At: timestamppb.New(now), Verdict: orderv1.Shadowed_VERDICT_WOULD_FAIL, Reasons: []*orderv1.Reason{event.Reason(fault.ReasonOf(err, "internal"))}}
	ids := []string{event.Revision(o.Revision)}
	if errors.Is(err, bus.ErrAttempts) {
		m.Verdict = orderv1.Shadowed_VERDICT_NOT_COMPARED
		ids = append(ids, "not-compared")
	}
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, ids...)}
}

// freeShadowLine frees a line of one of our orders that an order in shadow holds: when that is cancelled at the warehouse, or
// when it is not found and a person has confirmed that it never will be.
func (r *run) freeShadowLine(ctx context.Context, no string) (freed bool, err error) {
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: no})
	if errors.Is(err, ledger.ErrNoEntry) || err == nil && (entry.Origin != ledger.External || entry.State == ledger.Accepted) {
		return false, nil // not in shadow, or adopted: then it is followed
	}
	if err != nil {
		return false, err
	}
	wh := r.wh
	if entry.Warehouse != r.o.Warehouse {
		if wh, err = r.Open(r.seller, entry.Warehouse, quota.Push); err != nil {
			return false, err
		}
	}
	found, ok, err := r.lookUpAt(ctx, wh, no)
	if err != nil {
		return false, err
	}
	over := ok && found.State.Status == orderv1.Status_STATUS_CANCELLED
	if !over && (ok || !slices.Contains(r.d.Released, seller.CauseShadow(r.o.Seller, no))) {
		return false, ShadowLine(r.o, no)
	}
	return freeLines(ctx, r.Ledger, r.o.Seller, no, entry.Revision, r.NewOwner())
}

// shadowOver is the reason why an order in shadow no longer holds its lines.
var shadowOver = fault.Reason{
	Code: "shadow.over", Field: "outbound_no",
	ZH: "影子模式期间审核的订单，已取消或已由之后的审核替代", EN: "audited in shadow mode; cancelled since, or replaced by a later audit",
}

// ShadowWaiting holds an order that was audited before the switch-over and that the warehouse does not have.
func ShadowWaiting(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseShadow(o.Seller, o.OutboundNo), fault.Reason{
		Code: "shadow.waiting", Field: "outbound_no",
		ZH: "此订单在切换时刻之前审核，应由 ERP 原程序推送，但仓库中按此单号查不到；确认原程序没有推送且不会再推送后，人工放行即可由我们推送",
		EN: "audited before the switch-over, so the ERP's own program sends it, but the warehouse has nothing under this number; when that program has not sent it and never will, release it and we send it",
	})
}

// ShadowLine holds an order with a line of an order that was audited before the switch-over.
func ShadowLine(o *orderv1.Audited, no string) error {
	return fault.Hold(seller.CauseShadow(o.Seller, no), fault.Reason{
		Code: "shadow.line", Field: "lines",
		ZH: fmt.Sprintf("商品行已包含在切换时刻之前审核的出库单 %s 中，由 ERP 原程序推送；请先在仓库取消该单，或确认原程序从未推送，然后放行", no),
		EN: fmt.Sprintf("a line is in delivery %s, audited before the switch-over and sent by the ERP's own program; cancel that at the warehouse, or make sure that it was never sent, then release this one", no),
	})
}

// ShadowOurs holds an order that was in the middle of being sent when its seller was put into shadow.
func ShadowOurs(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseShadow(o.Seller, o.OutboundNo), fault.Reason{
		Code: "shadow.ours", Field: "outbound_no",
		ZH: "进入影子模式时此订单正在推送，结果未知；请在仓库按单号核对", EN: "it was being sent when shadow mode began, with an unknown result: look it up at the warehouse by its number",
	})
}
