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

	"stockbridge/pkg/bus"
	"stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	orderv1 "stockbridge/proto/order/v1"
	sellerv1 "stockbridge/proto/seller/v1"
)

// onlooker does with orders in shadow all that Push does but the sending, and tells what would have differed from what the
// ERP's own program sent. It has no way to send: the warehouses that it opens only read.
//
// # Why
//
// Whose an order is hangs on when it was audited and published (seller.Shadows) and not on when it is handled. So a
// backlog, a pause or a replay across the switch-over cannot make ours what the ERP's program sent.
//
// That is not all: the ERP may publish the same number again with a later time, or audit the same lines under another
// number. So each order in shadow is begun in the ledger as ledger.Shadowed and left in doubt, which holds its lines and
// makes sure that its number is never new. It stands beside the real ones, and not under a kind of its own, because the one
// read with which each order begins has to find it. After the switch-over such an order is asked for: what the warehouse
// has is adopted and followed, and what it does not have waits for a person.
//
// The look at what the warehouse got is the same message coming back from the bus's parking: it is kept as safely as an
// order, outlives restarts, and looks that come back together are asked together. What would have held the order is found
// at the look and not before: what somebody mends within minutes would have gone on by itself.
type onlooker struct {
	ledger ledger.Documents
	read   func(s *seller.Seller, code string, class warehouse.Class) (warehouse.OrderReader, error)
	// watch tells a seller's breaker how a call went.
	watch             func(sellerName string, err error) []event.Event
	asker             *asker
	crowd             *crowd
	slots             int
	lookAfter, giveUp time.Duration
	now               func() time.Time
	newOwner          func() string
}

// lookAgain is the least pause between two looks.
const lookAgain = time.Minute

// shadowed tells whether the order belongs to the ERP's own program. One that was audited before the switch-over becomes
// ours only by a person's word, and only after it.
func (p *Pusher) shadowed(d *bus.Delivery, o *orderv1.Audited) (*seller.Seller, bool) {
	audited := d.StreamTime // of one whose own time cannot be read
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

// push remembers the order, and comes back later to look.
func (l *onlooker) push(ctx context.Context, d *bus.Delivery, s *seller.Seller, o *orderv1.Audited) ([]event.Event, error) {
	entry, err := l.mark(ctx, d, o)
	if err != nil {
		return nil, err
	}
	if entry.Hash != ledger.Shadowed { // begun before the seller was in shadow
		switch {
		case SamePayload(entry, o) && (entry.State == ledger.Accepted || entry.State == ledger.Cancelled):
			return []event.Event{acceptedEvent(o, entry.Number, entry.Cleaned, entry.ChangedAt)}, nil
		case entry.State == ledger.Unknown, entry.State == ledger.Intent:
			return nil, ShadowOurs(o)
		}
	}
	now := l.now()
	if due := entry.FirstClaimedAt.Add(l.lookAfter); now.Before(due) {
		return nil, fault.RetryAfter(due.Sub(now), errors.New("the ERP's own program may not have sent it yet"))
	}
	leave, wait := l.crowd.enter(seat{o.Seller, d.Returned}, l.slots, l.now)
	if leave == nil {
		return nil, fault.RetryAfter(wait, errors.New("enough of the seller's orders are at its warehouse; the other slots are for other sellers"))
	}
	defer leave()
	return l.look(ctx, s, o, entry)
}

// mark begins the order as one that somebody else hands over, unless it is known.
func (l *onlooker) mark(ctx context.Context, d *bus.Delivery, o *orderv1.Audited) (ledger.Entry, error) {
	key := ledger.Key{Seller: o.Seller, Kind: kind, No: o.OutboundNo}
	entry, err := l.ledger.Get(ctx, key)
	if err != nil && !errors.Is(err, ledger.ErrNoEntry) || err == nil && entry.State != ledger.New {
		return entry, err
	}
	b := beginOf(d, clean.Order(o).Order, ledger.Shadowed, l.newOwner())
	var begun ledger.Claimed
	for range len(o.Lines) + 1 {
		begun, err = l.ledger.Claim(ctx, b)
		var taken *ledger.LineTaken
		if !errors.As(err, &taken) {
			break
		}
		// It was audited again. The lines go with the later audit, as the ERP's program knows no better either.
		freed, freeErr := free(ctx, l.ledger, o.Seller, taken.By, o.Revision, l.newOwner())
		if freeErr != nil {
			return entry, freeErr
		}
		if !freed {
			b.Lines = nil // live by our own doing, or audited later; the number has to be remembered all the same
		}
	}
	switch {
	case errors.Is(err, ledger.ErrBusy), errors.Is(err, ledger.ErrHash):
		return entry, fault.RetryAfter(busyPause, err)
	case err != nil:
		return entry, err
	}
	if err := l.ledger.MarkUnknown(ctx, begun.Claim, "the ERP's own program hands it over"); err != nil {
		return entry, err
	}
	return l.ledger.Get(ctx, key)
}

// free gives the lines of an order in shadow back; false when it is none, or a later audit than revision: orders are
// handled side by side, not in turn. Its number stays known.
func free(ctx context.Context, documents ledger.Documents, sellerName, no string, revision int64, owner string) (bool, error) {
	key := ledger.Key{Seller: sellerName, Kind: kind, No: no}
	entry, err := documents.Get(ctx, key)
	switch {
	case errors.Is(err, ledger.ErrNoEntry):
		return false, nil
	case err != nil || entry.Hash != ledger.Shadowed || entry.State != ledger.Unknown && entry.State != ledger.Intent || entry.Revision > revision:
		return false, err
	}
	begun, err := documents.Claim(ctx, ledger.ClaimRequest{
		Key: key, Hash: ledger.Shadowed, Owner: owner, OrderNo: entry.OrderNo, Lines: entry.Lines,
		Revision: entry.Revision, Shop: entry.Shop, Warehouse: entry.Warehouse,
	})
	if errors.Is(err, ledger.ErrBusy) {
		err = fault.RetryAfter(busyPause, err)
	}
	if err != nil {
		return false, err
	}
	return true, documents.Refuse(ctx, begun.Claim, shadowOver)
}

// look compares what we would have done with what the warehouse has, and tells it.
func (l *onlooker) look(ctx context.Context, s *seller.Seller, o *orderv1.Audited, entry ledger.Entry) (told []event.Event, err error) {
	m := &orderv1.Shadowed{Ref: ref(o, ""), OursAt: stamp(entry.FirstClaimedAt)}
	tidy := clean.Order(o).Order
	wh, err := l.read(s, tidy.Warehouse, warehouse.Status)
	if err != nil {
		if fault.Of(err) != fault.Held {
			return nil, err
		}
		return l.tell(m, o, append(s.Findings(tidy), err)), nil
	}
	plan, findings := Findings(s, wh, o)
	m.Cleaned = plan.Cleaned
	if plan.Body != "" {
		sum := sha256.Sum256([]byte(plan.Body))
		m.RequestDigest = hex.EncodeToString(sum[:])
	}
	ask := func(f warehouse.OrderFinder, no string) (warehouse.Found, bool, error) {
		found, ok, first, err := l.asker.ask(ctx, f, no)
		if first {
			told = append(told, l.watch(o.Seller, err)...)
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
			return told, err
		}
	}
	live, err := l.elsewhere(ctx, tidy, func(no string) (warehouse.Found, bool, error) { return ask(wh, no) })
	if err != nil {
		return told, err
	}
	findings = append(findings, live...)
	if ok {
		if err := l.compare(ctx, wh, o, found, m); err != nil {
			return told, err
		}
		return append(told, l.tell(m, o, findings)...), nil
	}
	now := l.now()
	deadline := entry.FirstClaimedAt.Add(l.giveUp)
	if !s.InShadow(now) { // nobody sends it any more: that must not stay hidden for long
		deadline = entry.FirstClaimedAt.Add(l.lookAfter)
		if after := s.ShadowUntil().Add(l.lookAfter); after.After(deadline) {
			deadline = after
		}
	}
	if left := deadline.Sub(now); left > 0 {
		wait := min(max(now.Sub(entry.FirstClaimedAt), lookAgain), left)
		return told, fault.RetryAfter(wait, errors.New("the ERP's own program has not sent it yet"))
	}
	told = append(told, l.tell(m, o, findings)...)
	if s.InShadow(now) {
		return told, nil
	}
	err = ShadowWaiting(o)
	return append(told, heldEvent(o, now, fault.Cause(err), fault.ReasonOf(err, "internal"))), err
}

// platform finds by the platforms' order numbers what the ERP's program numbers otherwise.
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

// compare fills in how the document differs. Of several under a platform's number it is the one that differs least; under
// one outbound number several are a difference by themselves.
func (l *onlooker) compare(ctx context.Context, wh warehouse.OrderReader, o *orderv1.Audited, found warehouse.Found, m *orderv1.Shadowed) error {
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
			m.TheirsAt = stamp(c.TakenAt)
		}
	}
	if found.OutboundNo == o.OutboundNo && len(found.Others) > 0 {
		m.Differences = append(m.Differences, &orderv1.Difference{
			Field: "documents", Ours: "1", Theirs: strings.Join(append([]string{found.WarehouseNo}, found.Others...), " "),
			Zh: "同一出库单号在仓库有多张单据，可能重复发货，请立即核对", En: "the warehouse has several documents under this number, perhaps a double shipment: look at once",
		})
	}
	return nil
}

// elsewhere finds lines of the order that live under another number, as the claim of an order that is ours does.
func (l *onlooker) elsewhere(ctx context.Context, o *orderv1.Audited, ask func(no string) (warehouse.Found, bool, error)) ([]error, error) {
	others, err := l.ledger.Find(ctx, o.Seller, o.OrderNo)
	if err != nil {
		return nil, err
	}
	begun := Claimed(others, o.Supersedes)
	var found []error
	for _, other := range others {
		if other.Key.No == o.OutboundNo || other.Key.Kind != kind || other.OrderNo != o.OrderNo {
			continue
		}
		i := slices.IndexFunc(o.Lines, func(line *orderv1.Line) bool { return slices.Contains(other.Lines, line.LineId) })
		// Nobody follows the other one while it is in shadow too: whether it lives is the warehouse's to say.
		live := other.State.Live()
		if other.Hash == ledger.Shadowed && i >= 0 {
			at, ok, err := ask(other.Key.No)
			if err != nil {
				return nil, err
			}
			live = ok && at.State.Status != orderv1.Status_STATUS_CANCELLED && other.Revision < o.Revision
		}
		if i >= 0 && live {
			found = append(found, LineTaken(o, o.Lines[i].LineId, other, begun))
		}
	}
	return found, nil
}

// tell makes the event of what was found.
func (l *onlooker) tell(m *orderv1.Shadowed, o *orderv1.Audited, findings []error) []event.Event {
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
		r := reasonMessage(fault.ReasonOf(err, "internal"))
		if !slices.ContainsFunc(m.Reasons, func(have *orderv1.Reason) bool { return have.Code == r.Code && have.Field == r.Field }) {
			m.Reasons = append(m.Reasons, r)
		}
	}
	now := l.now()
	m.At = stamp(now)
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, event.Revision(o.Revision))}
}

// unserved is what is told of an order in shadow that could not be handled: never that it failed or waits, because the
// ERP's program sends it. It is remembered too, as far as that can be done now.
func (l *onlooker) unserved(d *bus.Delivery, o *orderv1.Audited, err error) []event.Event {
	if d.Seller == o.Seller { // or somebody else published it, who has no say in this seller's numbers
		ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
		defer cancel()
		_, _ = l.mark(ctx, d, o)
	}
	if fault.Of(err) == fault.Held && !errors.Is(err, bus.ErrAttempts) {
		return nil // it comes back
	}
	now := l.now()
	m := &orderv1.Shadowed{Ref: ref(o, ""), At: stamp(now), Verdict: orderv1.Shadowed_VERDICT_WOULD_FAIL, Reasons: []*orderv1.Reason{reasonMessage(fault.ReasonOf(err, "internal"))}}
	ids := []string{event.Revision(o.Revision)}
	if errors.Is(err, bus.ErrAttempts) {
		m.Verdict = orderv1.Shadowed_VERDICT_NOT_COMPARED
		ids = append(ids, "not-compared")
	}
	return []event.Event{event.OrderShadowed.About(o.Seller, o.OutboundNo, now, m, ids...)}
}

// unshadow makes room for an order that is ours and one of whose lines an order in shadow holds: when that is cancelled at the
// warehouse, or when it is not there and a person says that it never will be.
func (r *run) unshadow(ctx context.Context, no string) (freed bool, err error) {
	entry, err := r.Ledger.Get(ctx, ledger.Key{Seller: r.o.Seller, Kind: kind, No: no})
	if errors.Is(err, ledger.ErrNoEntry) || err == nil && (entry.Hash != ledger.Shadowed || entry.State == ledger.Accepted) {
		return false, nil // or it was adopted: its end is followed
	}
	if err != nil {
		return false, err
	}
	wh := r.wh
	if entry.Warehouse != r.o.Warehouse {
		if wh, err = r.Open(r.seller, entry.Warehouse, warehouse.Push); err != nil {
			return false, err
		}
	}
	found, ok, err := r.askAt(ctx, wh, no)
	if err != nil {
		return false, err
	}
	over := ok && found.State.Status == orderv1.Status_STATUS_CANCELLED
	if !over && (ok || !slices.Contains(r.d.Released, seller.CauseShadow(r.o.Seller, no))) {
		return false, ShadowLine(r.o, no)
	}
	return free(ctx, r.Ledger, r.o.Seller, no, entry.Revision, r.NewOwner())
}

// shadowOver is why an order in shadow no longer holds its lines.
var shadowOver = fault.Reason{
	Code: "shadow.over", Field: "outbound_no",
	ZH: "影子模式期间审核的订单，已取消或已由之后的审核替代", EN: "audited in shadow mode; cancelled since, or replaced by a later audit",
}

// ShadowWaiting holds an order that was audited before the switch-over and that the warehouse does not have.
func ShadowWaiting(o *orderv1.Audited) error {
	return fault.Hold(seller.CauseShadow(o.Seller, o.OutboundNo), fault.Reason{
		Code: "shadow.waiting", Field: "outbound_no",
		ZH: "此订单在切换时刻之前审核，应由 ERP 原程序推送，但仓库中按此单号查不到；确认原程序没有推送且不会再推送后，人工放行即可由我们推送",
		EN: "audited before the switch-over, so the ERP's own program sends it, but the warehouse has nothing under this number; when that program has not sent it and no longer will, release it and we send it",
	})
}

// ShadowLine holds an order that has a line of one that was audited before the switch-over.
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
		ZH: "进入影子模式时此订单正在推送，结果未知；请在仓库按单号核对", EN: "it was being sent when shadow mode began, and how that ended is not known: look at the warehouse under its number",
	})
}
