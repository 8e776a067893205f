// Package memory is a warehouse in memory. Tests use it, because it has a setting for each failure between us and a
// remote; it also serves for trying Stockbridge out without a real warehouse.
//
// It accepts every order, moves it from received to delivered, and forgets everything when the process ends. It accepts
// every purchase order too; what arrives of it is said by tests, or is everything after some time (StepEvery). All users of
// the same warehouse must share one Warehouse. Like a remote whose behaviour is unknown, it creates a second document for
// a repeated outbound number unless set otherwise.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"stockbridge/pkg/clean"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/warehouse"
	documentv1 "stockbridge/proto/document/v1"
	orderv1 "stockbridge/proto/order/v1"
)

// Repeat is the answer to an outbound number that has a document already.
type Repeat int

// The answers that a remote may give.
const (
	SecondDocument Repeat = iota
	SameNumber
	RefuseRepeat
)

// Knobs are the failures to play. The zero value plays none, except Repeat. The next documents are the next orders and
// purchase orders.
type Knobs struct {
	// LoseReplies is how many of the next documents are accepted but their answers lost.
	LoseReplies int
	// DropBefore is how many of the next documents are lost on the way to the warehouse, which looks the same to the caller.
	DropBefore int
	// Refuse is how many of the next documents are refused in business terms.
	Refuse int
	// RefuseTaken is how many of the next documents are refused in business terms although one is created.
	RefuseTaken int
	// Late is how long Find does not see a new document.
	Late time.Duration
	// RefuseNumber is how many of the next documents are refused because of a number in the settings.
	RefuseNumber int
	// Reject is how many of the next documents are refused before they are processed.
	Reject int
	// Mistake is the number of another document that the next one is answered with, although none is created.
	Mistake string
	// Elsewhere is how many of the next documents reach something that is not the warehouse.
	Elsewhere int
	// Down: no call arrives, and the caller knows it.
	Down bool
	// Busy, if above zero, is how long every caller is asked to wait.
	Busy time.Duration
	// NotPermitted and BadToken refuse every call.
	NotPermitted, BadToken bool
	// CannotFind refuses Find only.
	CannotFind bool
	// Slow is how long each call takes.
	Slow time.Duration

	Repeat Repeat
	// Split, Short and Cancel name outbound numbers: split in two when received; one piece less of the first line leaves;
	// cancelled by the warehouse before packing.
	Split, Short, Cancel []string

	// CancelLost, CancelRefused and CancelPending are how many of the next requests to cancel are done but their answers
	// lost; refused; or answered only by the document's state, after a Step.
	CancelLost, CancelRefused, CancelPending int
	// PendingRefused: what is pending ends as refused.
	PendingRefused bool
	// Unreadable are ERP's numbers of purchase orders that cannot be understood when they are read.
	Unreadable []string
}

// Warehouse is ready to use. Many goroutines may use it.
type Warehouse struct {
	// StepEvery is how long an order stays in each state; 0 waits for Step. A purchase order arrives after three times that
	// time; with 0 tests say what arrives. Set it before use.
	StepEvery time.Duration
	// Opening is a shop's initial stock of all goods. Set it before use.
	Opening int64
	// Now is the clock, time.Now if nil.
	Now func() time.Time
	// As is its identity, "memory" if empty. Set it before use.
	As warehouse.Identity
	// Knobs may be set before use, and later by Set.
	Knobs

	mu        sync.Mutex
	steps     int // by Step
	documents []*document
	purchases []*purchase
	shops     map[string]string
	stock     stock
}

type document struct {
	no, outboundNo string
	takenAt        time.Time
	takenStep      int
	platformNos    []string
	lines          []*orderv1.ShippedLine
	children       []string
	part           bool
	cancel         bool
	site, shop     string
	receiver       *orderv1.Receiver
}

var _ warehouse.Orderer = (*Warehouse)(nil)

// walk is the sequence of an order's states.
var walk = []documentv1.Status{
	documentv1.Status_STATUS_RECEIVED, documentv1.Status_STATUS_PICKING, documentv1.Status_STATUS_CHECKED, documentv1.Status_STATUS_PACKED,
	documentv1.Status_STATUS_SHIPPED, documentv1.Status_STATUS_IN_TRANSIT, documentv1.Status_STATUS_DELIVERED,
}

// Positions in walk.
const (
	cancelledAt = 2
	packedAt    = 3
	shippedAt   = 4
)

// Limits of a call, small enough that trials and tests need several.
const (
	maxFind      = 100
	maxRead      = 20
	maxShopStock = 50
)

// Identity returns As.
func (w *Warehouse) Identity() warehouse.Identity { return cmp.Or(w.As, "memory") }

// Set changes the knobs.
func (w *Warehouse) Set(change func(*Knobs)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.Knobs)
}

// Step moves each order on by one state, and ends what is pending of purchase orders.
func (w *Warehouse) Step() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps++
	for _, p := range w.purchases {
		w.endCancel(p)
	}
}

// Numbers returns the documents under an outbound number, without the parts of split ones.
func (w *Warehouse) Numbers(outboundNo string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.numbers(outboundNo)
}

func (w *Warehouse) numbers(outboundNo string) (nos []string) {
	for _, d := range w.documents {
		if d.outboundNo == outboundNo && !d.part {
			nos = append(nos, d.no)
		}
	}
	return nos
}

func (w *Warehouse) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}

// Orders returns the channel of sales orders.
func (w *Warehouse) Orders() warehouse.OrderChannel { return orders{w} }

type orders struct{ w *Warehouse }

func (c orders) Identity() warehouse.Identity { return c.w.Identity() }

func (c orders) FindLimit() int { return maxFind }

func (c orders) ReadLimit() int { return maxRead }

// Plan cleans the order and refuses only what no warehouse could ship.
func (c orders) Plan(o *orderv1.Audited) warehouse.Plan {
	cleaned := clean.Order(o)
	o = cleaned.Order
	body, err := protojson.Marshal(o)
	plan := warehouse.Plan{Call: "memory.take", Body: string(body), Cleaned: cleaned.Changed}
	for _, wrong := range cleaned.Wrong {
		plan.Findings = append(plan.Findings, fault.Permanent(wrong))
	}
	if err != nil || o.OutboundNo == "" {
		plan.Findings = append(plan.Findings, required("outbound_no"))
	}
	if o.GetReceiver().GetName() == "" {
		plan.Findings = append(plan.Findings, required("receiver.name"))
	}
	if len(o.Lines) == 0 {
		plan.Findings = append(plan.Findings, required("lines"))
	}
	if len(plan.Findings) > 0 {
		plan.Err = plan.Findings[0]
	}
	return plan
}

func required(field string) error {
	return fault.Permanent(fault.Reason{Code: "text.required", Field: field, ZH: "必填", EN: "is required"})
}

// reach returns what prevents a call from arriving.
func (w *Warehouse) reach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not sent: %w", err)
	}
	w.mu.Lock()
	slow := w.Slow
	w.mu.Unlock()
	if slow > 0 {
		timer := time.NewTimer(slow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("not sent: %w", ctx.Err())
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	reason := func(code, zh, en string) fault.Reason { return fault.Reason{Code: code, ZH: zh, EN: en} }
	switch {
	case w.Down:
		return errors.New("not sent: nobody listens")
	case w.Busy > 0:
		return fault.RetryAfter(w.Busy, reason("warehouse.quota", "仓库繁忙", "the warehouse is busy"))
	case w.BadToken:
		return fault.Hold("token:memory", fmt.Errorf("%w: %w", warehouse.ErrToken, reason("warehouse.token", "仓库不接受授权", "the warehouse does not take the credential")))
	case w.NotPermitted:
		return fault.Hold("permission:memory", fmt.Errorf("%w: %w", warehouse.ErrNotPermitted, reason("warehouse.permission", "仓库没有授予权限", "the warehouse does not permit this")))
	}
	return nil
}

// Send accepts the order, subject to the knobs.
func (c orders) Send(ctx context.Context, o *orderv1.Audited, plan warehouse.Plan) (warehouse.Receipt, error) {
	if plan.Err != nil {
		return warehouse.Receipt{}, plan.Err
	}
	if err := c.w.reach(ctx); err != nil {
		return warehouse.Receipt{}, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.accept(plan, c.w.numbers(o.OutboundNo), func() string { return c.w.create(o) })
}

// accept plays what becomes of a document that arrived. earlier are the documents under its number, create makes one more.
func (w *Warehouse) accept(plan warehouse.Plan, earlier []string, create func() string) (warehouse.Receipt, error) {
	refused := fault.Reason{Code: "warehouse.refused", ZH: "仓库拒绝了单据", EN: "the warehouse refused the document", RemoteCode: "5001", RemoteText: "业务处理失败"}
	switch {
	case spend(&w.DropBefore):
		return warehouse.Receipt{}, fault.Unknown(io.ErrUnexpectedEOF)
	case spend(&w.Reject):
		return warehouse.Receipt{}, fault.Permanent(refused)
	case w.Mistake != "":
		no := w.Mistake
		w.Mistake = ""
		return warehouse.Receipt{WarehouseNo: no}, nil
	case spend(&w.Elsewhere):
		return warehouse.Receipt{}, fault.Hold("account:memory", fmt.Errorf("%w: %w", warehouse.ErrOutcomeUnknown,
			fault.Reason{Code: "warehouse.address", ZH: "地址不是仓库的", EN: "the address is not the warehouse's"}))
	case spend(&w.RefuseNumber):
		refused.Code = "warehouse.number"
		return warehouse.Receipt{}, &warehouse.Rejected{Reason: refused, Cause: "number:memory"}
	case spend(&w.Refuse), len(earlier) > 0 && w.Repeat == RefuseRepeat:
		return warehouse.Receipt{}, &warehouse.Rejected{Reason: refused}
	case len(earlier) > 0 && w.Repeat == SameNumber:
		return warehouse.Receipt{WarehouseNo: earlier[0]}, nil
	}
	no := create()
	if spend(&w.RefuseTaken) {
		return warehouse.Receipt{}, &warehouse.Rejected{Reason: refused}
	}
	if spend(&w.LoseReplies) {
		return warehouse.Receipt{}, fault.Unknown(io.ErrUnexpectedEOF)
	}
	return warehouse.Receipt{WarehouseNo: no, Cleaned: plan.Cleaned}, nil
}

// spend takes one from a knob; false if none is left.
func spend(n *int) bool {
	if *n == 0 {
		return false
	}
	*n--
	return true
}

// create makes the document of an order.
func (w *Warehouse) create(o *orderv1.Audited) string {
	d := w.add(o.OutboundNo)
	o = clean.Order(o).Order
	d.platformNos, d.receiver = o.PlatformOrderNos, proto.CloneOf(o.Receiver)
	for i, l := range o.Lines {
		line := &orderv1.ShippedLine{LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity, Shipped: l.Quantity}
		if i == 0 && slices.Contains(w.Short, o.OutboundNo) {
			line.Shipped--
		}
		d.lines = append(d.lines, line)
	}
	w.occupy(d, o)
	if slices.Contains(w.Split, o.OutboundNo) {
		w.split(d)
	}
	return d.no
}

func (w *Warehouse) add(outboundNo string) *document {
	d := &document{
		no: fmt.Sprintf("MEM%08d", len(w.documents)+1), outboundNo: outboundNo,
		takenAt: w.now(), takenStep: w.steps, cancel: slices.Contains(w.Cancel, outboundNo),
	}
	w.documents = append(w.documents, d)
	return d
}

// split makes two parts: the halves of a single line, or the first line and the rest.
func (w *Warehouse) split(d *document) {
	first, rest := d.lines[:1], d.lines[1:]
	if len(rest) == 0 {
		l := first[0]
		half := l.Quantity / 2
		part := func(quantity, shipped int64) []*orderv1.ShippedLine {
			return []*orderv1.ShippedLine{{LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: quantity, Shipped: shipped}}
		}
		first, rest = part(half, min(half, l.Shipped)), part(l.Quantity-half, l.Shipped-min(half, l.Shipped))
	}
	for _, lines := range [][]*orderv1.ShippedLine{first, rest} {
		child := w.add(d.outboundNo)
		child.part, child.lines = true, lines
		child.site, child.shop, child.receiver = d.site, d.shop, d.receiver
		d.children = append(d.children, child.no)
	}
}

// history is the states that d went through.
func (w *Warehouse) history(d *document) []warehouse.State {
	at := w.steps - d.takenStep
	if w.StepEvery > 0 {
		at += int(w.now().Sub(d.takenAt) / w.StepEvery)
	}
	at = min(at, len(walk)-1)
	var history []warehouse.State
	for i, status := range walk[:at+1] {
		if d.cancel && i >= cancelledAt {
			status = documentv1.Status_STATUS_CANCELLED
		}
		history = append(history, warehouse.State{
			Status: status, Code: strconv.Itoa(int(status)), Text: status.String(), At: d.takenAt.Add(time.Duration(i) * max(w.StepEvery, time.Second)),
		})
		if status == documentv1.Status_STATUS_CANCELLED {
			break
		}
	}
	return history
}

// Find looks orders up by our outbound numbers.
func (c orders) Find(ctx context.Context, outboundNos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	if len(outboundNos) > maxFind {
		return nil, fmt.Errorf("find %d orders: at most %d at a time", len(outboundNos), maxFind)
	}
	if err := c.w.reach(ctx); err != nil {
		return nil, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.CannotFind {
		return nil, fault.Hold("permission:memory", fmt.Errorf("%w: %w", warehouse.ErrNotPermitted, fault.Reason{Code: "warehouse.permission", ZH: "不允许按单号查询", EN: "asking by number is not permitted"}))
	}
	found := map[string][]warehouse.Document[*orderv1.Shipped]{}
	for _, d := range c.w.documents {
		if !d.part && slices.Contains(outboundNos, d.outboundNo) && c.w.now().Sub(d.takenAt) >= c.w.Late {
			found[d.outboundNo] = append(found[d.outboundNo], c.w.seen(d))
		}
	}
	return found, nil
}

// seen is a document as a look-up returns it.
func (w *Warehouse) seen(d *document) warehouse.Document[*orderv1.Shipped] {
	history := w.history(d)
	return warehouse.Document[*orderv1.Shipped]{Number: d.no, No: d.outboundNo, State: history[len(history)-1], History: history}
}

// FindByPlatform looks orders up by the first of the platform's order numbers.
func (c orders) FindByPlatform(ctx context.Context, platformNos []string) (map[string][]warehouse.Document[*orderv1.Shipped], error) {
	if err := c.w.reach(ctx); err != nil {
		return nil, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	found := map[string][]warehouse.Document[*orderv1.Shipped]{}
	for _, d := range c.w.documents {
		if len(d.platformNos) > 0 && slices.Contains(platformNos, d.platformNos[0]) {
			found[d.platformNos[0]] = append(found[d.platformNos[0]], c.w.seen(d))
		}
	}
	return found, nil
}

// listPage is the page size of List.
const listPage = 100

// List lists documents by when they were created.
func (c orders) List(ctx context.Context, from, to time.Time, page string) (nos []string, next string, err error) {
	if err := c.w.reach(ctx); err != nil {
		return nil, "", err
	}
	skip := 0
	if page != "" {
		if skip, err = strconv.Atoi(page); err != nil || skip < 0 {
			return nil, "", fmt.Errorf("list orders: no page %q", page)
		}
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	for i, d := range c.w.documents {
		if i < skip || d.takenAt.Before(from) || !d.takenAt.Before(to) {
			continue
		}
		if len(nos) == listPage {
			return nos, strconv.Itoa(i), nil
		}
		nos = append(nos, d.no)
	}
	return nos, "", nil
}

// Compare compares goods, receiver, shop and site.
func (c orders) Compare(ctx context.Context, o *orderv1.Audited, number string) (warehouse.Comparison, error) {
	if err := c.w.reach(ctx); err != nil {
		return warehouse.Comparison{}, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	i := slices.IndexFunc(c.w.documents, func(d *document) bool { return d.no == number })
	if i < 0 {
		return warehouse.Comparison{}, fmt.Errorf("order %s: %w", number, warehouse.ErrNotFound)
	}
	d := c.w.documents[i]
	o = clean.Order(o).Order
	var goods []string
	ours, theirs := map[string]int64{}, map[string]int64{}
	count := func(n map[string]int64, no, code string, quantity int64) {
		key := cmp.Or(code, no)
		if !slices.Contains(goods, key) {
			goods = append(goods, key)
		}
		n[key] += quantity
	}
	for _, l := range o.Lines {
		count(ours, l.WarehouseGoodsNo, l.GoodsCode, l.Quantity)
	}
	for _, l := range d.lines {
		count(theirs, l.WarehouseGoodsNo, l.GoodsCode, l.Quantity)
	}
	pieces := func(of map[string]int64) string {
		var parts []string
		for _, g := range goods {
			parts = append(parts, fmt.Sprintf("%s × %d", g, of[g]))
		}
		return strings.Join(parts, ", ")
	}
	k := warehouse.Comparison{TakenAt: d.takenAt}
	differs := func(field, ours, theirs, zh, en string) {
		if ours != theirs {
			k.Differences = append(k.Differences, &orderv1.Difference{Field: field, Ours: ours, Theirs: theirs, Zh: zh, En: en})
		}
	}
	differs("shop", cmp.Or(c.w.shops[o.Shop], o.Shop), d.shop, "店铺不同", "another shop")
	differs("warehouse", o.Warehouse, d.site, "仓库不同", "another warehouse")
	if !proto.Equal(o.Receiver, d.receiver) {
		k.Differences = append(k.Differences, &orderv1.Difference{Field: "receiver", Ours: "***", Theirs: "***", Zh: "收件人不同", En: "another receiver"})
	}
	differs("lines.quantity", pieces(ours), pieces(theirs), "数量不同", "another quantity")
	k.Foreign = k.Differences
	return k, nil
}

// Read reads orders by the warehouse's numbers.
func (c orders) Read(ctx context.Context, numbers []string) (map[string]warehouse.Document[*orderv1.Shipped], error) {
	if len(numbers) > maxRead {
		return nil, fmt.Errorf("read %d orders: at most %d at a time", len(numbers), maxRead)
	}
	if err := c.w.reach(ctx); err != nil {
		return nil, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	documents := map[string]warehouse.Document[*orderv1.Shipped]{}
	for _, d := range c.w.documents {
		if slices.Contains(numbers, d.no) {
			documents[d.no] = c.w.readOrder(d)
		}
	}
	return documents, nil
}

func (w *Warehouse) readOrder(d *document) warehouse.Document[*orderv1.Shipped] {
	document := w.seen(d)
	document.Children = slices.Clone(d.children)
	s := &orderv1.Shipped{CarrierNo: "MEM", CarrierName: "Memory Express"}
	document.Detail = s
	if len(d.children) > 0 { // its parts hold the lines
		return document
	}
	shipped := !d.cancel && len(document.History) > shippedAt
	for _, l := range d.lines {
		line := &orderv1.ShippedLine{LineId: l.LineId, GoodsCode: l.GoodsCode, WarehouseGoodsNo: l.WarehouseGoodsNo, Quantity: l.Quantity}
		if shipped {
			line.Shipped = l.Shipped
		}
		s.Lines = append(s.Lines, line)
	}
	if !d.cancel && len(document.History) > packedAt {
		waybill := "WB" + d.no
		s.Waybills = []string{waybill}
		s.Packages = []*orderv1.Package{{PackageNo: waybill + "-1-1-", Waybill: waybill, Weight: "1.00"}}
	}
	return document
}
