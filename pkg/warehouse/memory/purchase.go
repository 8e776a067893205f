package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

var _ warehouse.Purchaser = (*Warehouse)(nil)

// purchase is one purchase order.
type purchase struct {
	no, ours string
	takenAt  time.Time
	status   documentv1.Status
	at       time.Time
	asked    []*purchasev1.Line
	// lines are what arrived, one for each line and condition.
	lines []*purchasev1.ReceivedLine
}

// Purchases returns the channel of purchase orders. They cannot be found by the ERP's number.
func (w *Warehouse) Purchases() warehouse.PurchaseChannel { return purchases{w} }

type purchases struct{ w *Warehouse }

func (p purchases) Identity() warehouse.Identity { return p.w.Identity() }

func (p purchases) ReadLimit() int { return maxRead }

// Plan cleans the purchase order and refuses only what nobody could receive.
func (p purchases) Plan(m *purchasev1.Audited) warehouse.Plan {
	cleaned := clean.Purchase(m)
	body, err := protojson.Marshal(cleaned.Purchase)
	plan := warehouse.Plan{Call: "memory.purchase", Body: string(body), Cleaned: cleaned.Changed}
	for _, wrong := range cleaned.Wrong {
		plan.Findings = append(plan.Findings, fault.Permanent(wrong))
	}
	if err != nil || m.GetNo() == "" {
		plan.Findings = append(plan.Findings, required("no"))
	}
	if len(m.GetLines()) == 0 {
		plan.Findings = append(plan.Findings, required("lines"))
	}
	if len(plan.Findings) > 0 {
		plan.Err = plan.Findings[0]
	}
	return plan
}

// Send accepts the purchase order, subject to the knobs.
func (p purchases) Send(ctx context.Context, m *purchasev1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	if plan.Err != nil {
		return warehouse.Receipt{}, plan.Err
	}
	if err := p.w.reach(ctx); err != nil {
		return warehouse.Receipt{}, err
	}
	m = clean.Purchase(m).Purchase
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.accept(plan, p.w.purchaseNumbers(m.No), func() string {
		d := &purchase{
			no: fmt.Sprintf("MEP%08d", len(p.w.purchases)+1), ours: m.No, takenAt: p.w.now(), at: p.w.now(), status: documentv1.Status_STATUS_RECEIVED,
		}
		for _, l := range m.Lines {
			d.asked = append(d.asked, proto.CloneOf(l))
		}
		p.w.purchases = append(p.w.purchases, d)
		return d.no
	})
}

// Read reads purchase orders by the warehouse's numbers.
func (p purchases) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*purchasev1.Received], error) {
	if len(numbers) > maxRead {
		return nil, fmt.Errorf("read %d purchase orders: at most %d at a time", len(numbers), maxRead)
	}
	if err := p.w.reach(ctx); err != nil {
		return nil, err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	documents := map[string]warehouse.Document[*purchasev1.Received]{}
	for _, d := range p.w.purchases {
		if slices.Contains(numbers, d.no) {
			documents[d.no] = p.w.readPurchase(d)
		}
	}
	return documents, nil
}

func (w *Warehouse) readPurchase(d *purchase) warehouse.Document[*purchasev1.Received] {
	if wait := 3 * w.StepEvery; w.StepEvery > 0 && d.status == documentv1.Status_STATUS_RECEIVED && w.now().Sub(d.takenAt) >= wait {
		for _, l := range d.asked {
			d.add(l, goodUnlessSaid(l.Grade), l.Quantity)
		}
		d.status, d.at = documentv1.Status_STATUS_COMPLETED, d.takenAt.Add(wait)
	}
	document := warehouse.Document[*purchasev1.Received]{
		Number: d.no, No: d.ours, State: warehouse.State{Code: strconv.Itoa(int(d.status)), Text: d.status.String(), At: d.at},
	}
	if slices.Contains(w.Unreadable, d.ours) {
		document.Err = fmt.Errorf("purchase order %s: %w", d.no, errors.New("it cannot be understood"))
		return document
	}
	document.State.Status, document.Detail = d.status, &purchasev1.Received{}
	for _, l := range d.lines {
		document.Detail.Lines = append(document.Detail.Lines, proto.CloneOf(l))
	}
	return document
}

// Cancel cancels a purchase order of which nothing arrived, subject to the knobs.
func (p purchases) Cancel(ctx context.Context, number string) (warehouse.Cancellation, error) {
	if err := p.w.reach(ctx); err != nil {
		return warehouse.Cancellation{}, err
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	i := slices.IndexFunc(p.w.purchases, func(d *purchase) bool { return d.no == number })
	if i < 0 {
		return warehouse.Cancellation{}, &warehouse.Rejected{Reason: fault.Reason{
			Code: "warehouse.refused", ZH: "仓库没有这张采购单", EN: "the warehouse has no such purchase order", RemoteCode: "404", RemoteText: "单据不存在",
		}}
	}
	d := p.w.purchases[i]
	set := func(s documentv1.Status) { d.status, d.at = s, p.w.now() }
	refused := warehouse.Cancellation{Verdict: warehouse.CancelRefused, Code: "2", Text: "不能取消"}
	switch {
	case d.status == documentv1.Status_STATUS_CANCELLED:
		return warehouse.Cancellation{Verdict: warehouse.CancelDone, Code: "1"}, nil
	case d.status == documentv1.Status_STATUS_COMPLETED, len(d.lines) > 0:
		return refused, nil
	case spend(&p.w.CancelRefused):
		set(documentv1.Status_STATUS_CANCEL_REFUSED)
		return refused, nil
	case spend(&p.w.CancelPending):
		set(documentv1.Status_STATUS_CANCELLING)
		return warehouse.Cancellation{Code: "3"}, nil
	case d.status == documentv1.Status_STATUS_CANCELLING:
		return warehouse.Cancellation{Code: "3"}, nil
	}
	set(documentv1.Status_STATUS_CANCELLED)
	if spend(&p.w.CancelLost) {
		return warehouse.Cancellation{}, fault.Unknown(io.ErrUnexpectedEOF)
	}
	return warehouse.Cancellation{Verdict: warehouse.CancelDone, Code: "1"}, nil
}

// endCancel ends a cancellation that is pending.
func (w *Warehouse) endCancel(d *purchase) {
	if d.status != documentv1.Status_STATUS_CANCELLING {
		return
	}
	d.at, d.status = w.now(), documentv1.Status_STATUS_CANCELLED
	if w.PendingRefused {
		d.status = documentv1.Status_STATUS_CANCEL_REFUSED
	}
}

// PurchaseNumbers returns the documents under an ERP's number of a purchase order.
func (w *Warehouse) PurchaseNumbers(no string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.purchaseNumbers(no)
}

func (w *Warehouse) purchaseNumbers(no string) (nos []string) {
	for _, d := range w.purchases {
		if d.ours == no {
			nos = append(nos, d.no)
		}
	}
	return nos
}

// Receive adds n pieces of a line, by the ERP's id, in a condition to what arrived of the purchase order with the ERP's
// number; less than zero corrects an earlier receipt. It returns an error if there is no such line, or it would have less
// than nothing.
func (w *Warehouse) Receive(no, lineID string, grade purchasev1.Grade, n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.purchases {
		for _, l := range d.asked {
			if d.ours == no && l.LineId == lineID && d.add(l, goodUnlessSaid(grade), n) {
				return nil
			}
		}
	}
	return fmt.Errorf("receive %d of line %s of %s: not possible", n, lineID, no)
}

// Complete ends the purchase order with the ERP's number: nothing more arrives.
func (w *Warehouse) Complete(no string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.purchases {
		if d.ours == no {
			d.status, d.at = documentv1.Status_STATUS_COMPLETED, w.now()
		}
	}
}

// levels are the warehouse's codes of conditions.
var levels = map[purchasev1.Grade]string{
	purchasev1.Grade_GRADE_GOOD: "100", purchasev1.Grade_GRADE_DEFECTIVE: "200", purchasev1.Grade_GRADE_SAMPLE: "3",
}

func goodUnlessSaid(grade purchasev1.Grade) purchasev1.Grade {
	if grade == purchasev1.Grade_GRADE_UNSPECIFIED {
		return purchasev1.Grade_GRADE_GOOD
	}
	return grade
}

// add adds to what arrived of a line in a condition; false if it would be less than nothing.
func (d *purchase) add(l *purchasev1.Line, grade purchasev1.Grade, n int64) bool {
	i := slices.IndexFunc(d.lines, func(r *purchasev1.ReceivedLine) bool { return r.LineId == l.LineId && r.Grade == grade })
	if i < 0 && n < 0 {
		return false
	}
	if i < 0 {
		i = len(d.lines)
		d.lines = append(d.lines, &purchasev1.ReceivedLine{
			LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity, Grade: grade, Level: levels[grade],
		})
	}
	r := d.lines[i]
	if r.Received+n < 0 {
		return false
	}
	r.Received += n
	r.ReceivedTotal = r.Received
	return true
}
