// Package warehousetest is the suite that every warehouse adapter must pass, one part for each ability of the contract.
//
// The suite plays a caller who knows the contract only. It controls the warehouse's API through Remote, which each
// adapter's test implements. It knows no adapter and no remote's terms.
package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Remote controls the API of the warehouse under test. Methods that take an outbound number are called before that order
// is sent.
type Remote interface {
	// LoseAnswer accepts the next order and loses the answer.
	LoseAnswer()
	// DropCall loses the next order on the way in, which looks the same to the caller.
	DropCall()
	// Refuse refuses the next order in business terms.
	Refuse()
	// Reject refuses the next order in a way that proves that it was not processed.
	Reject()
	// Down(true) makes all calls fail in a way that the caller recognises as not sent, until Down(false).
	Down(bool)
	// Busy(true) refuses every call as one too many, until Busy(false).
	Busy(bool)
	// Deny withdraws the permission for every call, Expire the credential.
	Deny()
	Expire()
	// Step lets some time pass: an order moves on by at most one state.
	Step()
	// Split splits the order in two parts, Short ships one piece less of it, Cancel cancels it before it is packed.
	Split(outboundNo string)
	Short(outboundNo string)
	Cancel(outboundNo string)
	// Documents counts the documents under the number, without the parts of a split order.
	Documents(outboundNo string) int
}

// Subject is a warehouse under test.
type Subject struct {
	warehouse.OrderChannel
	Remote Remote
}

// Order is an order that a warehouse under test accepts: of seller acme, shop S01, warehouse W01, with two lines of 2 and
// 3 pieces.
func Order(outboundNo string) *orderv1.Audited {
	at := timestamppb.New(time.Date(2026, 3, 1, 4, 5, 6, 0, time.UTC))
	return &orderv1.Audited{
		Seller: "acme", Shop: "S01", Warehouse: "W01", OrderNo: "SO-" + outboundNo, OutboundNo: outboundNo, Revision: 1,
		AuditedAt: at, OrderedAt: at, Platform: "tmall", PlatformOrderNos: []string{"T-" + outboundNo},
		Lines: []*orderv1.Line{
			{LineId: "1", GoodsCode: "SKU-1", Name: "Tea", Quantity: 2, Price: "19.90"},
			{LineId: "2", GoodsCode: "SKU-2", Name: "Cup", Quantity: 3, Price: "5"},
		},
		Receiver: &orderv1.Receiver{
			Name: "王小明", Mobile: "13800138000", Province: "浙江省", City: "杭州市", County: "西湖区", Address: "文三路 90 号 2 幢",
		},
	}
}

// TestOrders checks a warehouse against the abilities that sales orders need. open makes a new one without documents.
func TestOrders(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"an order is taken, found and followed until delivered", followed},
		{"what was never sent is absent", absent},
		{"a hundred are found at once, not more", hundred},
		{"a lost answer is unknown, and the order is found once", lostAnswer},
		{"a dropped call is unknown, and the order is absent until it is taken again", droppedCall},
		{"business words are a SaidNo, and nothing was taken", refusedThenAsked},
		{"a refusal before anything is looked at is permanent", rejected},
		{"a second document under one number is found out", repeated},
		{"a warehouse that cannot be reached took nothing", down},
		{"a warehouse that is busy took nothing", busy},
		{"a missing permission is held and says so", denied},
		{"an expired credential is held and says so", expired},
		{"a context that is over sends nothing", over},
		{"an order that cannot be sent is refused alike by plan and by call", planned},
		{"what people type without meaning it is taken out, and said", typed},
		{"the parts of a split order hold what left", split},
		{"what really left is reported", short},
		{"a cancellation by the warehouse is seen", cancelled},
		{"many at once are each taken once", concurrent},
		{"what somebody else sent is compared", compared},
		{"what came is listed", cameListed},
		{"what only reads finds orders and cannot send any", readOnly},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Send plans an order and sends it.
func Send(ctx context.Context, c warehouse.OrderChannel, o *orderv1.Audited) (warehouse.Receipt, error) {
	return c.Send(ctx, o, c.Plan(o))
}

type document = warehouse.Document[*orderv1.Shipped]

// take sends an order that must be accepted.
func take(t *testing.T, s Subject, outboundNo string) string {
	t.Helper()
	taken, err := Send(t.Context(), s, Order(outboundNo))
	if err != nil || taken.WarehouseNo == "" {
		t.Fatalf("take %s: %+v, %v", outboundNo, taken, err)
	}
	return taken.WarehouseNo
}

// find looks one number up.
func find(t *testing.T, s Subject, outboundNo string) []document {
	t.Helper()
	found, err := s.Find(t.Context(), []string{outboundNo})
	if err != nil {
		t.Fatalf("find %s: %v", outboundNo, err)
	}
	docs := found[outboundNo]
	for _, d := range docs {
		if d.No != outboundNo || d.Number == "" || d.State.Code == "" {
			t.Errorf("find %s: %+v", outboundNo, d)
		}
	}
	if len(found) > 1 || (len(found) == 1) != (len(docs) > 0) {
		t.Errorf("find %s: %+v", outboundNo, found)
	}
	return docs
}

// findOne looks up an order that must have one document.
func findOne(t *testing.T, s Subject, outboundNo string) document {
	t.Helper()
	docs := find(t, s, outboundNo)
	if len(docs) != 1 {
		t.Fatalf("find %s: %+v", outboundNo, docs)
	}
	return docs[0]
}

func read(t *testing.T, s Subject, number string) document {
	t.Helper()
	docs, err := s.Read(t.Context(), []string{number})
	if err != nil {
		t.Fatalf("read %s: %v", number, err)
	}
	d, known := docs[number]
	if !known || len(docs) > 1 || d.Number != number || d.Detail == nil || d.Err != nil {
		t.Fatalf("read %s: %+v", number, docs)
	}
	return d
}

// maxSteps is more than any order has states.
const maxSteps = 50

// until lets time pass until the document has the status.
func until(t *testing.T, s Subject, warehouseNo string, want documentv1.Status) document {
	t.Helper()
	var seen []documentv1.Status
	for range maxSteps {
		d := read(t, s, warehouseNo)
		if d.State.Status == want {
			return d
		}
		seen = append(seen, d.State.Status)
		s.Remote.Step()
	}
	t.Fatalf("%s never became %v: %v", warehouseNo, want, slices.Compact(seen))
	return document{}
}

func followed(t *testing.T, s Subject) {
	o := Order("F-1")
	plan := s.Plan(o)
	if plan.Err != nil || len(plan.Findings) > 0 || plan.Call == "" || plan.Body == "" {
		t.Fatalf("plan: %+v", plan)
	}
	if len(find(t, s, "F-1")) > 0 {
		t.Fatal("a plan was sent")
	}
	no := take(t, s, "F-1")
	if f := findOne(t, s, "F-1"); f.Number != no {
		t.Errorf("found %+v, taken %s", f, no)
	}
	for _, status := range []documentv1.Status{documentv1.Status_STATUS_PICKING, documentv1.Status_STATUS_PACKED, documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_DELIVERED} {
		d := until(t, s, no, status)
		if f := findOne(t, s, "F-1"); f.State.Status != status || f.State.Code != d.State.Code {
			t.Errorf("found as %+v, read as %+v", f.State, d.State)
		}
		if d.No != "F-1" || d.State.At.IsZero() || len(d.Children) > 0 {
			t.Errorf("details: %+v", d)
		}
		if !slices.IsSortedFunc(d.History, func(a, b warehouse.State) int { return a.At.Compare(b.At) }) ||
			len(d.History) == 0 || d.History[len(d.History)-1] != d.State {
			t.Errorf("history of %+v: %+v", d.State, d.History)
		}
		if status == documentv1.Status_STATUS_PICKING {
			continue
		}
		if len(d.Detail.Waybills) == 0 || len(d.Detail.Packages) == 0 || d.Detail.CarrierNo == "" {
			t.Errorf("%v without waybill, package or carrier: %+v", status, d)
		}
		for _, p := range d.Detail.Packages {
			if p.PackageNo == "" || p.Weight == "" || !slices.Contains(d.Detail.Waybills, p.Waybill) {
				t.Errorf("package %+v", p)
			}
		}
	}
	d := read(t, s, no)
	if len(d.Detail.Lines) != 2 {
		t.Fatalf("lines: %v", d.Detail.Lines)
	}
	for i, l := range o.Lines {
		j := slices.IndexFunc(d.Detail.Lines, func(have *orderv1.ShippedLine) bool { return have.LineId == l.LineId })
		if j < 0 || d.Detail.Lines[j].Quantity != l.Quantity || d.Detail.Lines[j].Shipped != l.Quantity || d.Detail.Lines[j].GoodsCode != l.GoodsCode {
			t.Errorf("line %d: %v", i, d.Detail.Lines)
		}
	}
}

func absent(t *testing.T, s Subject) {
	take(t, s, "A-1")
	found, err := s.Find(t.Context(), []string{"A-0", "A-1", "A-2"})
	if err != nil || len(found) != 1 || len(found["A-1"]) != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	if len(find(t, s, "A-0")) > 0 {
		t.Error("A-0 is there")
	}
	if found, err := s.Find(t.Context(), nil); err != nil || len(found) != 0 {
		t.Errorf("nothing asked: %+v, %v", found, err)
	}
	if docs, err := s.Read(t.Context(), []string{"0"}); err != nil || len(docs) != 0 {
		t.Errorf("read what does not exist: %+v, %v", docs, err)
	}
	if docs, err := s.Read(t.Context(), make([]string, s.ReadLimit()+1)); err == nil {
		t.Errorf("read more than the limit: %+v", docs)
	}
}

func hundred(t *testing.T, s Subject) {
	if s.FindLimit() < 1 || s.ReadLimit() < 1 {
		t.Fatalf("limits %d and %d leave no call", s.FindLimit(), s.ReadLimit())
	}
	var nos []string
	for i := range s.FindLimit() {
		nos = append(nos, fmt.Sprintf("H-%03d", i))
	}
	take(t, s, nos[0])
	take(t, s, nos[len(nos)-1])
	found, err := s.Find(t.Context(), nos)
	if err != nil || len(found) != 2 {
		t.Errorf("%d found: %v", len(found), err)
	}
	if _, err := s.Find(t.Context(), append(nos, "H-beyond")); err == nil {
		t.Error("one number more than the limit is taken")
	}
	if found, err := s.Find(t.Context(), append(nos, "H-X")); err == nil {
		t.Errorf("one too many: %d found", len(found))
	}
}

func lostAnswer(t *testing.T, s Subject) {
	s.Remote.LoseAnswer()
	if taken, err := Send(t.Context(), s, Order("L-1")); fault.Of(err) != fault.Unclear {
		t.Fatalf("%+v, %v", taken, err)
	}
	f := findOne(t, s, "L-1")
	if n := s.Remote.Documents("L-1"); n != 1 {
		t.Errorf("%d documents", n)
	}
	if d := read(t, s, f.Number); d.No != "L-1" {
		t.Errorf("%+v", d)
	}
}

func droppedCall(t *testing.T, s Subject) {
	s.Remote.DropCall()
	if taken, err := Send(t.Context(), s, Order("D-1")); fault.Of(err) != fault.Unclear {
		t.Fatalf("%+v, %v", taken, err)
	}
	if docs := find(t, s, "D-1"); len(docs) > 0 {
		t.Errorf("%+v", docs)
	}
	no := take(t, s, "D-1")
	if f := findOne(t, s, "D-1"); f.Number != no || s.Remote.Documents("D-1") != 1 {
		t.Errorf("%+v; %d documents", f, s.Remote.Documents("D-1"))
	}
}

func refusedThenAsked(t *testing.T, s Subject) {
	s.Remote.Refuse()
	taken, err := Send(t.Context(), s, Order("N-1"))
	var no *warehouse.Rejected
	if !errors.As(err, &no) || no.Reason.Code == "" || no.Reason.RemoteText == "" || no.Reason.ZH == "" || no.Reason.EN == "" {
		t.Fatalf("%+v, %+v (%v)", taken, no, err)
	}
	if len(find(t, s, "N-1")) > 0 || s.Remote.Documents("N-1") != 0 {
		t.Error("it was taken")
	}
}

func rejected(t *testing.T, s Subject) {
	s.Remote.Reject()
	taken, err := Send(t.Context(), s, Order("J-1"))
	if reason := fault.ReasonOf(err, ""); fault.Of(err) != fault.Refused || reason.Code == "" || reason.RemoteText == "" {
		t.Fatalf("%+v, %v", taken, err)
	}
	if s.Remote.Documents("J-1") != 0 {
		t.Error("it was taken")
	}
}

func repeated(t *testing.T, s Subject) {
	first := take(t, s, "R-1")
	_, err := Send(t.Context(), s, Order("R-1"))
	var no *warehouse.Rejected
	if err != nil && !errors.As(err, &no) {
		t.Fatal(err)
	}
	docs := find(t, s, "R-1")
	if n := s.Remote.Documents("R-1"); len(docs) != n || docs[0].Number != first {
		t.Errorf("%d documents, found %+v", n, docs)
	}
}

func down(t *testing.T, s Subject) {
	s.Remote.Down(true)
	if _, err := Send(t.Context(), s, Order("O-1")); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("take: %v is %v", err, fault.Of(err))
	}
	if _, err := s.Find(t.Context(), []string{"O-1"}); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("find: %v is %v", err, fault.Of(err))
	}
	if _, err := s.Read(t.Context(), []string{"1"}); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("read: %v is %v", err, fault.Of(err))
	}
	s.Remote.Down(false)
	if len(find(t, s, "O-1")) > 0 {
		t.Error("it was taken")
	}
	take(t, s, "O-1")
}

func busy(t *testing.T, s Subject) {
	s.Remote.Busy(true)
	// A warehouse whose refusal proves nothing says so: then the caller looks the order up.
	if _, err := Send(t.Context(), s, Order("B-1")); fault.Of(err) != fault.Unclear && (fault.Of(err) != fault.Wait || fault.After(err) <= 0) {
		t.Errorf("take: %v is %v", err, fault.Of(err))
	}
	if _, err := s.Find(t.Context(), []string{"B-1"}); fault.Of(err) != fault.Wait || fault.After(err) <= 0 {
		t.Errorf("find: %v is %v", err, fault.Of(err))
	}
	s.Remote.Busy(false)
	if len(find(t, s, "B-1")) > 0 {
		t.Error("it was taken")
	}
}

func denied(t *testing.T, s Subject) {
	no := take(t, s, "P-1")
	s.Remote.Deny()
	refusedWith(t, s, no, warehouse.ErrNotPermitted)
}

func expired(t *testing.T, s Subject) {
	no := take(t, s, "X-1")
	s.Remote.Expire()
	refusedWith(t, s, no, warehouse.ErrToken)
}

func refusedWith(t *testing.T, s Subject, warehouseNo string, want error) {
	t.Helper()
	check := func(call string, err error) {
		t.Helper()
		if !errors.Is(err, want) || fault.Of(err) != fault.Held || fault.Cause(err) == "" {
			t.Errorf("%s: %v is %v for %q", call, err, fault.Of(err), fault.Cause(err))
		}
		if reason := fault.ReasonOf(err, ""); reason.Code == "" || reason.ZH == reason.EN {
			t.Errorf("%s: reason %+v", call, reason)
		}
	}
	_, err := Send(t.Context(), s, Order("P-2"))
	check("take", err)
	_, err = s.Find(t.Context(), []string{"P-2"})
	check("find", err)
	_, err = s.Read(t.Context(), []string{warehouseNo})
	check("read", err)
	if s.Remote.Documents("P-2") != 0 {
		t.Error("it was taken")
	}
}

func over(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Send(ctx, s, Order("C-1")); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("%v is %v", err, fault.Of(err))
	}
	if s.Remote.Documents("C-1") != 0 {
		t.Error("it was taken")
	}
}

func planned(t *testing.T, s Subject) {
	o := Order("Q-1")
	o.Lines = nil
	plan := s.Plan(o)
	_, err := Send(t.Context(), s, o)
	if plan.Err == nil || err == nil || plan.Err.Error() != err.Error() || fault.Of(plan.Err) != fault.Refused || fault.Of(err) != fault.Refused {
		t.Fatalf("plan: %v, call: %v", plan.Err, err)
	}
	if len(plan.Findings) == 0 {
		t.Error("no findings")
	}
	for _, finding := range plan.Findings {
		if r := fault.ReasonOf(finding, ""); r.Code == "" || r.Field == "" || r.ZH == "" || r.EN == "" {
			t.Errorf("finding %+v", r)
		}
	}
	if s.Remote.Documents("Q-1") != 0 {
		t.Error("it was taken")
	}
}

// typed sends an order with noise in every kind of text.
func typed(t *testing.T, s Subject) {
	o := Order("N-1")
	o.Receiver.Name, o.Receiver.Mobile, o.Receiver.Phone = "李\u200b四", "\u202d📱13800000000\u202c\n", "无"
	o.Receiver.Address = "浙江省杭州市西湖区文三路\u3000９０ 号"
	o.Lines[0].GoodsCode, o.BuyerRemark = "SKU-1\u00a0", "快点\ufffd"
	plan := s.Plan(o)
	taken, err := Send(t.Context(), s, o)
	if err != nil || taken.WarehouseNo == "" {
		t.Fatal(taken, err)
	}
	for _, noise := range []string{"\u200b", "\u202d", "📱", "\u202c", "\\n", "无", "\u3000", "９", "\u00a0", "\ufffd", "区浙江"} {
		if strings.Contains(plan.Body, noise) {
			t.Errorf("%q is sent: %s", noise, plan.Body)
		}
	}
	for _, list := range [][]*documentv1.Cleaned{plan.Cleaned, taken.Cleaned} {
		said := ""
		for _, c := range list {
			said += c.Field + " " + c.What + "\n"
		}
		for _, want := range []string{
			"receiver.name characters", "receiver.mobile characters", "receiver.phone dropped", "receiver.address characters",
			"receiver.address repeated", "lines[0].goods_code characters", "buyer_remark characters",
		} {
			if !strings.Contains(said, want+"\n") {
				t.Errorf("nobody says %q:\n%s", want, said)
			}
		}
	}

	o = Order("N-2")
	o.Receiver.Mobile, o.Lines[1].LineId = "1380000", "2\u200b2"
	_, err = Send(t.Context(), s, o)
	if fault.Of(err) != fault.Refused {
		t.Errorf("taken: %v", err)
	}
	if found := s.Plan(o).Findings; len(found) != 2 {
		t.Errorf("found %v", found)
	}
}

func split(t *testing.T, s Subject) {
	s.Remote.Split("S-1")
	no := take(t, s, "S-1")
	for range maxSteps {
		if len(read(t, s, no).Children) > 0 {
			break
		}
		s.Remote.Step()
	}
	d := read(t, s, no)
	if len(d.Children) != 2 || slices.Contains(d.Children, no) {
		t.Fatalf("children of %s: %q", no, d.Children)
	}
	quantity, shipped, waybills := map[string]int64{}, map[string]int64{}, map[string]bool{}
	for _, child := range d.Children {
		c := until(t, s, child, documentv1.Status_STATUS_SHIPPED)
		for _, l := range c.Detail.Lines {
			quantity[l.LineId] += l.Quantity
			shipped[l.LineId] += l.Shipped
		}
		for _, waybill := range c.Detail.Waybills {
			waybills[waybill] = true
		}
	}
	for _, l := range Order("S-1").Lines {
		if quantity[l.LineId] != l.Quantity || shipped[l.LineId] != l.Quantity {
			t.Errorf("line %s: %d of %d, %d left", l.LineId, quantity[l.LineId], l.Quantity, shipped[l.LineId])
		}
	}
	if len(waybills) < 2 {
		t.Errorf("waybills %v", waybills)
	}
	if docs := find(t, s, "S-1"); len(docs) != 1 || docs[0].Number != no {
		t.Errorf("found %+v, want %s without others: the parts are no further documents", docs, no)
	}
}

func short(t *testing.T, s Subject) {
	s.Remote.Short("K-1")
	d := until(t, s, take(t, s, "K-1"), documentv1.Status_STATUS_SHIPPED)
	var asked, left int64
	for _, l := range d.Detail.Lines {
		asked += l.Quantity
		left += l.Shipped
	}
	if asked != 5 || left >= 5 {
		t.Errorf("%d of %d left", left, asked)
	}
}

func cancelled(t *testing.T, s Subject) {
	s.Remote.Cancel("Z-1")
	until(t, s, take(t, s, "Z-1"), documentv1.Status_STATUS_CANCELLED)
	if f := findOne(t, s, "Z-1"); f.State.Status != documentv1.Status_STATUS_CANCELLED {
		t.Errorf("%+v", f)
	}
}

func concurrent(t *testing.T, s Subject) {
	const orders = 20
	var group sync.WaitGroup
	var nos []string
	for i := range orders {
		no := fmt.Sprintf("M-%d", i)
		nos = append(nos, no)
		group.Go(func() {
			if _, err := Send(t.Context(), s, Order(no)); err != nil {
				t.Error(err)
			}
			if _, err := s.Find(t.Context(), []string{no}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	found, err := s.Find(t.Context(), nos)
	if err != nil || len(found) != orders {
		t.Errorf("%d found, %v", len(found), err)
	}
	numbers := map[string]bool{}
	for _, docs := range found {
		numbers[docs[0].Number] = true
		if len(docs) > 1 {
			t.Errorf("%+v", docs)
		}
	}
	if len(numbers) != orders {
		t.Errorf("%d numbers", len(numbers))
	}
}

func compared(t *testing.T, s Subject) {
	no := take(t, s, "Q-1")
	same, err := s.Compare(t.Context(), Order("Q-1"), no)
	if err != nil || len(same.Differences)+len(same.Foreign) != 0 || same.TakenAt.IsZero() {
		t.Errorf("as it was sent: %+v, %v", same, err)
	}
	other := Order("Q-1")
	other.Lines[1].Quantity = 7
	differs, err := s.Compare(t.Context(), other, no)
	if err != nil || len(differs.Differences) != 1 || len(differs.Foreign) != 1 {
		t.Fatalf("another quantity: %+v, %v", differs, err)
	}
	if s.Identity() == "" {
		t.Error("it has no identity")
	}
	another := Order("Q-1")
	another.Receiver.Name, another.Receiver.Mobile = "李四", "13900139999"
	if c, err := s.Compare(t.Context(), another, no); err != nil || len(c.Foreign) == 0 || strings.Contains(fmt.Sprint(c), "王小明") || strings.Contains(fmt.Sprint(c), "李四") {
		t.Errorf("another receiver: %+v, %v", c, err)
	}
	s.Remote.Split("Q-9")
	whole := take(t, s, "Q-9")
	for range 4 {
		if c, err := s.Compare(t.Context(), Order("Q-9"), whole); err != nil || len(c.Foreign) != 0 {
			t.Errorf("a document that was split: %+v, %v", c, err)
		}
		s.Remote.Step()
	}
	d := differs.Differences[0]
	if d.Field != "lines.quantity" || !strings.Contains(d.Ours, "SKU-2 × 7") || !strings.Contains(d.Theirs, "SKU-2 × 3") || d.Zh == "" || d.En == "" {
		t.Errorf("another quantity: %+v", d)
	}
	if _, err := s.Compare(t.Context(), other, "NONE-1"); !errors.Is(err, warehouse.ErrNotFound) {
		t.Errorf("a document that nobody has: %v", err)
	}

	// The order of a program that numbers otherwise is found by the platform's number; a delivery of its own is another
	// document.
	second := Order("Q-2")
	second.PlatformOrderNos = []string{"T-Q-1"}
	taken, err := Send(t.Context(), s, second)
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.FindByPlatform(t.Context(), []string{"T-Q-1", "T-NONE"})
	if err != nil || len(found) != 1 || len(found["T-Q-1"]) != 2 {
		t.Fatalf("by the platform's number: %+v, %v", found, err)
	}
	if list := found["T-Q-1"]; list[0].Number != no || list[1].Number != taken.WarehouseNo || list[1].No != "Q-2" {
		t.Errorf("by the platform's number: %+v", list)
	}
}

// cameListed: everything that arrived within a span is listed, and nothing else.
func cameListed(t *testing.T, s Subject) {
	want := map[string]bool{}
	for i := range 3 {
		want[take(t, s, fmt.Sprintf("L-%d", i))] = true
	}
	taken := read(t, s, slices.Sorted(maps.Keys(want))[0]).History
	if len(taken) == 0 {
		t.Fatal("it does not say when it took them")
	}
	list := func(from, to time.Time) map[string]bool {
		t.Helper()
		got := map[string]bool{}
		for page, n := "", 0; ; n++ {
			nos, next, err := s.List(t.Context(), from, to, page)
			if err != nil || n > 100 {
				t.Fatal(n, err)
			}
			for _, no := range nos {
				got[no] = true
			}
			if page = next; page == "" {
				return got
			}
		}
	}
	at := taken[0].At
	if got := list(at.Add(-time.Hour), at.Add(time.Hour)); !maps.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if got := list(at.Add(-2*time.Hour), at.Add(-time.Hour)); len(got) > 0 {
		t.Errorf("listed %v of the hour before", got)
	}
	s.Remote.Step()
	if got := list(at.Add(-time.Hour), at.Add(time.Hour)); !maps.Equal(got, want) {
		t.Errorf("listed %v, want %v, after they moved", got, want)
	}
	if _, _, err := s.List(t.Context(), at, at, "no such page"); err == nil {
		t.Error("it has a page that it never named")
	}
}

// readOnly: what follows orders must not send any, whatever interface it asks for.
func readOnly(t *testing.T, s Subject) {
	no := take(t, s, "R-1")
	r := warehouse.ReadOnly(s.OrderChannel)
	found, err := r.(warehouse.Finder[*orderv1.Shipped]).Find(t.Context(), []string{"R-1"})
	if err != nil || len(found["R-1"]) != 1 || found["R-1"][0].Number != no {
		t.Errorf("found %+v, %v, want %s", found, err, no)
	}
	if _, ok := r.(warehouse.Channel[*orderv1.Audited, *orderv1.Shipped]); ok {
		t.Error("it sends")
	}
}
