package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	purchasev1 "stockbridge/proto/purchase/v1"
)

// PurchaseRemote controls the API of a warehouse under test that receives purchase orders. Numbers are the ERP's.
type PurchaseRemote interface {
	// LoseAnswer accepts the next purchase order and loses the answer; LoseCancel does what the next request to cancel asks
	// for and loses the answer.
	LoseAnswer()
	LoseCancel()
	// DropCall loses the next purchase order on the way in, which looks the same to the caller.
	DropCall()
	// Refuse refuses the next purchase order in business terms.
	Refuse()
	// Reject refuses the next purchase order in a way that proves that it was not processed.
	Reject()
	// Down(true) makes all calls fail in a way that the caller recognises as not sent, until Down(false).
	Down(bool)
	// Busy(true) refuses every call as one too many, until Busy(false).
	Busy(bool)
	// Deny withdraws the permission for every call, Expire the credential.
	Deny()
	Expire()
	// Step lets some time pass, in which a cancellation that is pending ends. Nothing arrives by itself.
	Step()
	// Receive adds n pieces of a line in a condition to what arrived, Complete ends the document.
	Receive(no, lineID string, grade purchasev1.Grade, n int64)
	Complete(no string)
	// NextCancel says how the next request to cancel is answered, and as what it ends: CancelDone or CancelRefused.
	NextCancel(answer, end warehouse.Verdict)
	// Documents counts the documents under the number.
	Documents(no string) int
}

// PurchaseSubject is a warehouse under test.
type PurchaseSubject struct {
	warehouse.PurchaseChannel
	Remote PurchaseRemote
}

// Purchase is a purchase order that a warehouse under test accepts: of seller acme, warehouse W01, supplier TEA, with a
// line of 10 good pieces and one of 4 defective pieces.
func Purchase(no string) *purchasev1.Audited {
	return &purchasev1.Audited{
		Seller: "acme", Warehouse: "W01", No: no, Revision: 1, Supplier: "TEA",
		AuditedAt: timestamppb.New(time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC)),
		Lines: []*purchasev1.Line{
			{LineId: "1", GoodsCode: "SKU-1", Name: "Tea", Quantity: 10},
			{LineId: "2", GoodsCode: "SKU-2", Name: "Cup", Quantity: 4, Grade: defective},
		},
	}
}

const (
	good      = purchasev1.Grade_GRADE_GOOD
	defective = purchasev1.Grade_GRADE_DEFECTIVE
)

// TestPurchases checks a warehouse against what purchase orders need. open makes a new one without documents.
func TestPurchases(t *testing.T, open func(t *testing.T) PurchaseSubject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, PurchaseSubject)
	}{
		{"a purchase order is sent and read with the ERP's number", purchaseSent},
		{"unknown numbers are missing and hide no other", purchaseUnknown},
		{"as many as the limit are read at once, not more", purchaseLimit},
		{"a lost answer is unknown, whether there is a document or not", purchaseLost},
		{"a refusal in business terms is a Rejected", purchaseRefused},
		{"a refusal before anything is processed is permanent", purchaseRejected},
		{"each document under one number is read with that number", purchaseRepeated},
		{"a warehouse that cannot be reached did nothing", purchaseDown},
		{"a warehouse that is busy did nothing", purchaseBusy},
		{"a missing permission is held and says so", func(t *testing.T, s PurchaseSubject) {
			purchaseHeld(t, s, s.Remote.Deny, warehouse.ErrNotPermitted)
		}},
		{"an expired credential is held and says so", func(t *testing.T, s PurchaseSubject) {
			purchaseHeld(t, s, s.Remote.Expire, warehouse.ErrToken)
		}},
		{"a context that is over sends nothing", purchaseOver},
		{"one that cannot be sent is refused alike by plan and by call", purchasePlanned},
		{"what people type without meaning it is taken out and reported", purchaseCleaned},
		{"receipts grow until the document is completed", purchaseGrows},
		{"good and defective goods of one line stay apart", purchaseConditions},
		{"what never arrived is not received", purchaseNothing},
		{"a cancellation that is done is read as cancelled, and may be repeated", purchaseCancelled},
		{"a cancellation that is refused changes nothing", purchaseCancelRefused},
		{"a cancellation that is pending ends as cancelled", purchaseCancelPending},
		{"a cancellation that is pending may end as refused", purchaseCancelRefusedLater},
		{"a lost answer to a cancellation is unknown", purchaseCancelLost},
		{"what arrived, or does not exist, is not cancelled", purchaseCancelTooLate},
		{"many at once are each sent once", purchasesAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// send sends a purchase order.
func (s PurchaseSubject) send(t *testing.T, m *purchasev1.Audited) (warehouse.Receipt, error) {
	return s.Send(t.Context(), m, s.Plan(m))
}

// accepted sends a purchase order that must be accepted, and returns its number.
func (s PurchaseSubject) accepted(t *testing.T, no string) string {
	t.Helper()
	receipt, err := s.send(t, Purchase(no))
	if err != nil || receipt.WarehouseNo == "" {
		t.Fatalf("send %s: %+v, %v", no, receipt, err)
	}
	return receipt.WarehouseNo
}

type purchaseDocument = warehouse.Document[*purchasev1.Received]

// read reads a document that must exist.
func (s PurchaseSubject) read(t *testing.T, number string) purchaseDocument {
	t.Helper()
	documents, err := s.Read(t.Context(), []string{number})
	d, there := documents[number]
	if err != nil || !there || len(documents) != 1 || d.Err != nil || d.Number != number {
		t.Fatalf("read %s: %+v, %v", number, documents, err)
	}
	if d.Detail == nil || d.Detail.Complete || d.Detail.Ref != nil || d.Detail.At != nil {
		t.Errorf("detail of %s: %v", number, d.Detail)
	}
	for _, l := range d.Detail.GetLines() {
		if l.Received != l.ReceivedTotal || l.Received < 0 {
			t.Errorf("%s: line %v is no sum of all receipts", number, l)
		}
	}
	return d
}

// until lets time pass until the document has the status.
func (s PurchaseSubject) until(t *testing.T, number string, want documentv1.Status) {
	t.Helper()
	var seen []documentv1.Status
	for range maxSteps {
		status := s.read(t, number).State.Status
		if status == want {
			return
		}
		seen = append(seen, status)
		s.Remote.Step()
	}
	t.Fatalf("%s never became %v: %v", number, want, slices.Compact(seen))
}

// arrived is what arrived of a line in a condition. A warehouse that does not repeat the line's id names its goods.
func arrived(d purchaseDocument, l *purchasev1.Line, grade purchasev1.Grade) (n int64) {
	for _, r := range d.Detail.Lines {
		if (r.LineId == l.LineId || r.LineId == "" && r.GoodsCode == l.GoodsCode) && r.Grade == grade {
			n += r.Received
		}
	}
	return n
}

func wantArrived(t *testing.T, d purchaseDocument, want map[string]int64) {
	t.Helper()
	all := int64(0)
	for _, l := range Purchase("").Lines {
		for name, grade := range map[string]purchasev1.Grade{"good": good, "defective": defective} {
			if n := arrived(d, l, grade); n != want[l.LineId+" "+name] {
				t.Errorf("%d of line %s arrived %s, want %v: %v", n, l.LineId, name, want, d.Detail)
			}
			all += want[l.LineId+" "+name]
		}
	}
	for _, r := range d.Detail.Lines {
		if all -= r.Received; r.Received > 0 && r.Level == "" {
			t.Errorf("line %v without the warehouse's code of its condition", r)
		}
	}
	if all != 0 {
		t.Errorf("%d more than wanted: %v", -all, d.Detail)
	}
}

func purchaseSent(t *testing.T, s PurchaseSubject) {
	m := Purchase("P-1")
	plan := s.Plan(m)
	if plan.Err != nil || len(plan.Findings) > 0 || plan.Call == "" || plan.Body == "" || s.Remote.Documents("P-1") != 0 {
		t.Fatalf("plan: %+v", plan)
	}
	if s.Identity() == "" {
		t.Error("no identity")
	}
	number := s.accepted(t, "P-1")
	d := s.read(t, number)
	if d.No != "P-1" || d.State.Status != documentv1.Status_STATUS_RECEIVED || d.State.Code == "" || len(d.Children) > 0 || d.Cancelled() {
		t.Errorf("read %+v", d)
	}
	wantArrived(t, d, nil)
	if n := s.Remote.Documents("P-1"); n != 1 {
		t.Errorf("%d documents", n)
	}
}

func purchaseUnknown(t *testing.T, s PurchaseSubject) {
	first, second := s.accepted(t, "U-1"), s.accepted(t, "U-2")
	got, err := s.Read(t.Context(), []string{"NONE1", first, "NONE2", "NONE3", second, first})
	if err != nil || len(got) != 2 || got[first].No != "U-1" || got[second].No != "U-2" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, nos := range [][]string{nil, {"NONE1"}} {
		if got, err := s.Read(t.Context(), nos); err != nil || len(got) != 0 {
			t.Errorf("%q: %+v, %v", nos, got, err)
		}
	}
}

func purchaseLimit(t *testing.T, s PurchaseSubject) {
	most := s.ReadLimit()
	if most < 1 {
		t.Fatalf("limit %d leaves no call", most)
	}
	var numbers []string
	for i := range most {
		numbers = append(numbers, s.accepted(t, fmt.Sprintf("L-%03d", i)))
	}
	got, err := s.Read(t.Context(), numbers)
	if err != nil || len(got) != most {
		t.Errorf("%d of %d read: %v", len(got), most, err)
	}
	for i, number := range numbers {
		if no := fmt.Sprintf("L-%03d", i); got[number].No != no {
			t.Errorf("%s is %q, want %s", number, got[number].No, no)
		}
	}
	if got, err := s.Read(t.Context(), append(numbers, "BEYOND1")); err == nil {
		t.Errorf("one too many: %d read", len(got))
	}
}

func purchaseLost(t *testing.T, s PurchaseSubject) {
	s.Remote.LoseAnswer()
	if receipt, err := s.send(t, Purchase("L-1")); fault.Of(err) != fault.Unclear {
		t.Errorf("%+v, %v", receipt, err)
	}
	s.Remote.DropCall()
	if receipt, err := s.send(t, Purchase("L-2")); fault.Of(err) != fault.Unclear {
		t.Errorf("%+v, %v", receipt, err)
	}
	if first, second := s.Remote.Documents("L-1"), s.Remote.Documents("L-2"); first != 1 || second != 0 {
		t.Errorf("%d and %d documents", first, second)
	}
	s.accepted(t, "L-2")
}

func purchaseRefused(t *testing.T, s PurchaseSubject) {
	s.Remote.Refuse()
	receipt, err := s.send(t, Purchase("N-1"))
	var no *warehouse.Rejected
	if !errors.As(err, &no) || no.Reason.Code == "" || no.Reason.RemoteText == "" || no.Reason.ZH == "" || no.Reason.EN == "" {
		t.Fatalf("%+v, %+v (%v)", receipt, no, err)
	}
	if s.Remote.Documents("N-1") != 0 {
		t.Error("it was accepted")
	}
}

func purchaseRejected(t *testing.T, s PurchaseSubject) {
	s.Remote.Reject()
	receipt, err := s.send(t, Purchase("J-1"))
	if reason := fault.ReasonOf(err, ""); fault.Of(err) != fault.Refused || reason.Code == "" || reason.RemoteText == "" {
		t.Fatalf("%+v, %v", receipt, err)
	}
	if s.Remote.Documents("J-1") != 0 {
		t.Error("it was accepted")
	}
}

func purchaseRepeated(t *testing.T, s PurchaseSubject) {
	numbers := []string{s.accepted(t, "R-1")}
	receipt, err := s.send(t, Purchase("R-1"))
	var no *warehouse.Rejected
	switch {
	case err == nil && receipt.WarehouseNo != numbers[0]:
		numbers = append(numbers, receipt.WarehouseNo)
	case err != nil && !errors.As(err, &no):
		t.Fatal(err)
	}
	for _, number := range numbers {
		if d := s.read(t, number); d.No != "R-1" {
			t.Errorf("%s is %q", number, d.No)
		}
	}
	if n := s.Remote.Documents("R-1"); n != len(numbers) {
		t.Errorf("%d documents, %d numbers", n, len(numbers))
	}
}

// calls makes each call for an existing document, the send under a new number.
func (s PurchaseSubject) calls(ctx context.Context, no, number string) map[string]error {
	m := Purchase(no)
	_, sent := s.Send(ctx, m, s.Plan(m))
	_, read := s.Read(ctx, []string{number})
	_, cancelled := s.Cancel(ctx, number)
	return map[string]error{"send": sent, "read": read, "cancel": cancelled}
}

// untouched checks that nothing became of calls.
func (s PurchaseSubject) untouched(t *testing.T, no, number string) {
	t.Helper()
	if s.Remote.Documents(no) != 0 {
		t.Error("it was accepted")
	}
	if number != "" && s.read(t, number).State.Status != documentv1.Status_STATUS_RECEIVED {
		t.Error("it was cancelled")
	}
}

func purchaseDown(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "O-0")
	s.Remote.Down(true)
	for call, err := range s.calls(t.Context(), "O-1", number) {
		if err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	}
	s.Remote.Down(false)
	s.untouched(t, "O-1", number)
	s.accepted(t, "O-1")
}

func purchaseBusy(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "B-0")
	s.Remote.Busy(true)
	for call, err := range s.calls(t.Context(), "B-1", number) {
		waits := fault.Of(err) == fault.Wait && fault.After(err) > 0
		if !waits && (call == "read" || fault.Of(err) != fault.Unclear) { // a refusal that proves nothing says so
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	}
	s.Remote.Busy(false)
	s.untouched(t, "B-1", number)
}

func purchaseHeld(t *testing.T, s PurchaseSubject, withdraw func(), want error) {
	number := s.accepted(t, "H-0")
	withdraw()
	for call, err := range s.calls(t.Context(), "H-1", number) {
		if !errors.Is(err, want) || fault.Of(err) != fault.Held || fault.Cause(err) == "" {
			t.Errorf("%s: %v is %v for %q", call, err, fault.Of(err), fault.Cause(err))
		}
		if reason := fault.ReasonOf(err, ""); reason.Code == "" || reason.ZH == reason.EN {
			t.Errorf("%s: reason %+v", call, reason)
		}
	}
	s.untouched(t, "H-1", "")
}

func purchaseOver(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "C-0")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for call, err := range s.calls(ctx, "C-1", number) {
		if err == nil || fault.Of(err) != fault.Transient {
			t.Errorf("%s: %v is %v", call, err, fault.Of(err))
		}
	}
	s.untouched(t, "C-1", number)
}

func purchasePlanned(t *testing.T, s PurchaseSubject) {
	m := Purchase("Q-1")
	m.Lines = nil
	plan := s.Plan(m)
	_, err := s.send(t, m)
	if plan.Err == nil || err == nil || plan.Err.Error() != err.Error() || fault.Of(plan.Err) != fault.Refused || fault.Of(err) != fault.Refused {
		t.Fatalf("plan: %v, call: %v", plan.Err, err)
	}
	for _, finding := range plan.Findings {
		if r := fault.ReasonOf(finding, ""); r.Code == "" || r.Field == "" || r.ZH == "" || r.EN == "" {
			t.Errorf("finding %+v", r)
		}
	}
	s.untouched(t, "Q-1", "")
}

func purchaseCleaned(t *testing.T, s PurchaseSubject) {
	m := Purchase("N-1")
	m.Remark, m.Lines[0].GoodsCode = "请整托\u200b入库📦\ufffd", "SKU-1\u00a0"
	plan := s.Plan(m)
	receipt, err := s.send(t, m)
	if err != nil || receipt.WarehouseNo == "" {
		t.Fatal(receipt, err)
	}
	for _, noise := range []string{"\u200b", "📦", "\ufffd", "\u00a0"} {
		if strings.Contains(plan.Body, noise) {
			t.Errorf("%q is sent: %s", noise, plan.Body)
		}
	}
	for _, list := range [][]*documentv1.Cleaned{plan.Cleaned, receipt.Cleaned} {
		said := ""
		for _, c := range list {
			said += c.Field + " " + c.What + "\n"
		}
		for _, want := range []string{"remark characters\n", "lines[0].goods_code characters\n"} {
			if !strings.Contains(said, want) {
				t.Errorf("%q is not reported:\n%s", want, said)
			}
		}
	}
	m = Purchase("N-2")
	m.Lines[1].GoodsCode = "SK\u200bU"
	if _, err := s.send(t, m); fault.Of(err) != fault.Refused || s.Remote.Documents("N-2") != 0 {
		t.Errorf("sent: %v", err)
	}
}

func purchaseGrows(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "G-1")
	s.Remote.Receive("G-1", "1", good, 4)
	d := s.read(t, number)
	wantArrived(t, d, map[string]int64{"1 good": 4})
	if d.State.Status == documentv1.Status_STATUS_COMPLETED || d.Cancelled() {
		t.Errorf("after the first receipt: %+v", d.State)
	}
	s.Remote.Receive("G-1", "1", good, 8) // two more than were asked for
	s.Remote.Receive("G-1", "2", defective, 3)
	wantArrived(t, s.read(t, number), map[string]int64{"1 good": 12, "2 defective": 3})
	s.Remote.Complete("G-1")
	d = s.read(t, number)
	wantArrived(t, d, map[string]int64{"1 good": 12, "2 defective": 3})
	if d.State.Status != documentv1.Status_STATUS_COMPLETED || d.State.At.IsZero() || d.No != "G-1" {
		t.Errorf("completed: %+v", d)
	}
	s.Remote.Step()
	if later := s.read(t, number); later.State.Status != documentv1.Status_STATUS_COMPLETED || len(later.Detail.Lines) != len(d.Detail.Lines) {
		t.Errorf("later: %+v", later)
	}
}

func purchaseConditions(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "K-1")
	s.Remote.Receive("K-1", "1", good, 7)
	s.Remote.Receive("K-1", "1", defective, 2)
	s.Remote.Receive("K-1", "1", good, 1)
	s.Remote.Receive("K-1", "2", good, 4) // defective ones were asked for
	wantArrived(t, s.read(t, number), map[string]int64{"1 good": 8, "1 defective": 2, "2 good": 4})
	s.Remote.Complete("K-1")
	wantArrived(t, s.read(t, number), map[string]int64{"1 good": 8, "1 defective": 2, "2 good": 4})
}

func purchaseNothing(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "Z-1")
	s.Remote.Complete("Z-1")
	d := s.read(t, number)
	wantArrived(t, d, nil)
	if d.State.Status != documentv1.Status_STATUS_COMPLETED {
		t.Errorf("%+v", d.State)
	}
}

// cancel asks to cancel and checks the verdict.
func (s PurchaseSubject) cancel(t *testing.T, number string, want warehouse.Verdict) {
	t.Helper()
	got, err := s.Cancel(t.Context(), number)
	if err != nil || got.Verdict != want || got.Code == "" {
		t.Fatalf("cancel %s: %+v, %v; want %v", number, got, err, want)
	}
}

func purchaseCancelled(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.NextCancel(warehouse.CancelDone, warehouse.CancelDone)
	s.cancel(t, number, warehouse.CancelDone)
	s.until(t, number, documentv1.Status_STATUS_CANCELLED)
	d := s.read(t, number)
	if !d.Cancelled() || d.No != "X-1" {
		t.Errorf("%+v", d)
	}
	wantArrived(t, d, nil)
	if again, err := s.Cancel(t.Context(), number); err != nil || again.Verdict == warehouse.CancelRefused {
		t.Errorf("again: %+v, %v", again, err)
	}
	if d := s.read(t, number); !d.Cancelled() {
		t.Errorf("%+v", d)
	}
}

func purchaseCancelRefused(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.NextCancel(warehouse.CancelRefused, warehouse.CancelRefused)
	s.cancel(t, number, warehouse.CancelRefused)
	s.goesOn(t, "X-1", number)
}

// goesOn checks that a document which was not cancelled can still be received.
func (s PurchaseSubject) goesOn(t *testing.T, no, number string) {
	t.Helper()
	s.Remote.Step()
	if d := s.read(t, number); d.Cancelled() {
		t.Errorf("it was cancelled: %+v", d)
	}
	s.Remote.Receive(no, "1", good, 10)
	s.Remote.Complete(no)
	s.until(t, number, documentv1.Status_STATUS_COMPLETED)
	wantArrived(t, s.read(t, number), map[string]int64{"1 good": 10})
}

func purchaseCancelPending(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.NextCancel(warehouse.CancelPending, warehouse.CancelDone)
	s.cancel(t, number, warehouse.CancelPending)
	if d := s.read(t, number); d.State.Status != documentv1.Status_STATUS_CANCELLING || d.Cancelled() {
		t.Errorf("%+v", d.State)
	}
	s.cancel(t, number, warehouse.CancelPending)
	s.until(t, number, documentv1.Status_STATUS_CANCELLED)
}

func purchaseCancelRefusedLater(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.NextCancel(warehouse.CancelPending, warehouse.CancelRefused)
	s.cancel(t, number, warehouse.CancelPending)
	s.until(t, number, documentv1.Status_STATUS_CANCEL_REFUSED)
	s.goesOn(t, "X-1", number)
}

func purchaseCancelLost(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.NextCancel(warehouse.CancelDone, warehouse.CancelDone)
	s.Remote.LoseCancel()
	if got, err := s.Cancel(t.Context(), number); fault.Of(err) != fault.Unclear || got.Verdict == warehouse.CancelDone {
		t.Errorf("%+v, %v", got, err)
	}
	s.until(t, number, documentv1.Status_STATUS_CANCELLED)
}

func purchaseCancelTooLate(t *testing.T, s PurchaseSubject) {
	number := s.accepted(t, "X-1")
	s.Remote.Receive("X-1", "1", good, 10)
	s.Remote.Complete("X-1")
	s.cancel(t, number, warehouse.CancelRefused)
	if d := s.read(t, number); d.State.Status != documentv1.Status_STATUS_COMPLETED {
		t.Errorf("%+v", d.State)
	}
	var no *warehouse.Rejected
	if got, err := s.Cancel(t.Context(), "NONE1"); got.Verdict == warehouse.CancelDone || err != nil && !errors.As(err, &no) {
		t.Errorf("none: %+v, %v", got, err)
	}
}

func purchasesAtOnce(t *testing.T, s PurchaseSubject) {
	const many = 10
	numbers := make([]string, many)
	var group sync.WaitGroup
	for i := range many {
		group.Go(func() {
			receipt, err := s.send(t, Purchase(fmt.Sprintf("M-%d", i)))
			if err != nil {
				t.Error(err)
			}
			numbers[i] = receipt.WarehouseNo
			if _, err := s.Read(t.Context(), []string{receipt.WarehouseNo}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	got, err := s.Read(t.Context(), numbers)
	if err != nil || len(got) != many {
		t.Fatalf("%d read, %v", len(got), err)
	}
	for i, number := range numbers {
		if got[number].No != fmt.Sprintf("M-%d", i) {
			t.Errorf("%s is %q", number, got[number].No)
		}
	}
}
