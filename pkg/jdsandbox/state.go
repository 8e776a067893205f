package jdsandbox

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// state is all documents and what was found wrong with them. It changes only by apply, so the journal of records is the
// state; it knows no HTTP, no locks and no clock.
type state struct {
	all      []*document
	byNo     map[string]*document
	byNumber map[string][]*document // isvUUID → documents without children
	bySpNo   map[string][]*document // salesPlatformOrderNo → documents without children
	byLine   map[lineKey][]*document
	seq      int64
	clock    clock
	wrong    violations
	stock    stock

	purchases         []*purchase
	purchaseByNo      map[string]*purchase
	purchasesByNumber map[string][]*purchase // by spPoOrderNo
}

// lineKey identifies an order line under whatever isvUUID it comes. Lines without a platform number or a line id cannot
// be identified and are not watched.
type lineKey struct{ dept, spNo, line string }

// record is one change of the state; exactly one field is set, except where others say so.
type record struct {
	// Documents are a new order and its future children.
	Documents []*document `json:"documents,omitempty"`
	// Plans replace the future of documents.
	Plans []replan `json:"plans,omitempty"`
	Clock *clock   `json:"clock,omitempty"`
	// Violation is one that does not follow from the documents.
	Violation *Violation `json:"violation,omitempty"`
	// Seq is the highest number assigned so far: the first record of a journal that was reset.
	Seq int64 `json:"seq,omitempty"`

	// Settled comes with any other: the warehouse's time up to which orders have moved the stock before.
	Settled time.Time `json:"settled,omitzero"`
	Stocked []Stock   `json:"stocked,omitempty"`
	// Acts may come with Documents: a sale of JD's own.
	Acts []StockAct `json:"acts,omitempty"`
	Fill *Fill      `json:"fill,omitempty"`
	// Purchases are new purchase orders, PurchasePlans replace the future of some.
	Purchases     []*purchase      `json:"purchases,omitempty"`
	PurchasePlans []purchaseReplan `json:"purchasePlans,omitempty"`
	// Rows is the highest number of a row assigned so far, with Seq.
	Rows int64 `json:"rows,omitempty"`
}

type replan struct {
	No       string    `json:"no"`
	Plan     []Status  `json:"plan"`
	Deciding time.Time `json:"deciding,omitzero"`
	// Unsplit says that the split will not happen.
	Unsplit bool `json:"unsplit,omitempty"`
}

// clock is the warehouse's: at Real it showed Shown, and since then it runs Speed times as fast.
type clock struct {
	Real  time.Time `json:"real"`
	Shown time.Time `json:"shown"`
	Speed float64   `json:"speed"`
}

func (c clock) at(now time.Time) time.Time {
	passed := float64(now.Sub(c.Real)) * c.Speed
	return c.Shown.Add(time.Duration(min(passed, math.MaxInt64/2))) // no further than 146 years at one speed
}

func newState() *state {
	return &state{
		byNo: map[string]*document{}, byNumber: map[string][]*document{}, bySpNo: map[string][]*document{},
		byLine: map[lineKey][]*document{}, wrong: violations{counts: map[ViolationKind]int64{}},
		stock: newStock(), purchaseByNo: map[string]*purchase{}, purchasesByNumber: map[string][]*purchase{},
	}
}

func (s *state) apply(r record) {
	s.seq = max(s.seq, r.Seq)
	s.stock.first = max(s.stock.first, r.Rows)
	s.settle(r.Settled)
	if r.Clock != nil {
		s.clock = *r.Clock
	}
	if r.Violation != nil {
		s.wrong.add(*r.Violation)
	}
	for _, p := range r.Plans {
		d := s.byNo[p.No]
		if d == nil {
			continue
		}
		d.Plan, d.Deciding = p.Plan, p.Deciding
		if p.Unsplit {
			for _, no := range d.Children {
				s.byNo[no].Void = true
				s.schedule(s.byNo[no])
			}
			d.Children = nil
		}
		s.schedule(d)
	}
	for _, d := range r.Documents {
		s.take(d)
	}
	s.book(r.Documents)
	for _, p := range r.Purchases {
		s.takePurchase(p)
	}
	for _, plan := range r.PurchasePlans {
		if p := s.purchaseByNo[plan.No]; p != nil {
			p.purchasePlan = plan.purchasePlan
			s.scheduleStock(p)
		}
	}
	for _, g := range r.Stocked {
		s.stock.open(g)
	}
	for _, a := range r.Acts {
		s.act(a)
	}
	if r.Fill != nil {
		s.fill(*r.Fill)
	}
}

func (s *state) take(d *document) {
	s.all = append(s.all, d)
	s.byNo[d.No] = d
	s.seq = max(s.seq, d.Seq)
	if d.Parent != "" || d.Own {
		return
	}
	spNo := d.Params["salesPlatformOrderNo"]
	v := Violation{At: d.Created, Method: "eclp.order.addOrder", IsvUUID: d.Number, DepartmentNo: d.Dept}
	if twins := s.numbered(d.Number, d.Dept); len(twins) > 0 {
		v.Kind, v.EclpSoNos = TwoDocuments, append(numbers(twins), d.No)
		s.wrong.add(v)
	}
	s.byNumber[d.Number] = append(s.byNumber[d.Number], d)
	if spNo == "" {
		return
	}
	s.bySpNo[spNo] = append(s.bySpNo[spNo], d)
	for _, l := range d.Lines {
		if l.OrderLine == "" {
			continue
		}
		key := lineKey{d.Dept, spNo, l.OrderLine}
		var others []*document
		for _, o := range s.byLine[key] {
			if o.Number != d.Number && s.live(o, d.Born) {
				others = append(others, o)
			}
		}
		if len(others) > 0 {
			v.Kind, v.EclpSoNos, v.OrderLine, v.SalesPlatformOrderNo = LineLiveTwice, append(numbers(others), d.No), l.OrderLine, spNo
			s.wrong.add(v)
		}
		if !slices.Contains(s.byLine[key], d) {
			s.byLine[key] = append(s.byLine[key], d)
		}
	}
}

func numbers(docs []*document) []string {
	nos := make([]string, len(docs), len(docs)+1)
	for i, d := range docs {
		nos[i] = d.No
	}
	return nos
}

// numbered finds the documents under an isvUUID; dept "" means any department.
func (s *state) numbered(number, dept string) []*document {
	found := s.byNumber[number]
	if dept == "" || !slices.ContainsFunc(found, func(d *document) bool { return d.Dept != dept }) {
		return found
	}
	return slices.DeleteFunc(slices.Clone(found), func(d *document) bool { return d.Dept != dept })
}

// live reports whether goods of the document leave, have left or will leave.
func (s *state) live(d *document, now time.Time) bool {
	return !has(s.history(d, now, false), statusCancelled, statusBack)
}

// split returns the document's children that exist by now.
func (s *state) split(d *document, now time.Time) []*document {
	var children []*document
	for _, no := range d.Children {
		if c := s.byNo[no]; c != nil && c.exists(now) {
			children = append(children, c)
		}
	}
	return children
}

// history of a split parent continues with what all its living children have reached, unless it stays.
func (s *state) history(d *document, now time.Time, stays bool) []Status {
	own := d.history(now)
	children := s.split(d, now)
	if len(children) == 0 || stays {
		return own
	}
	var living [][]Status
	var gone Status
	for _, c := range children {
		h := c.history(now)
		if has(h, statusCancelled) {
			if end := h[len(h)-1]; end.At.After(gone.At) {
				gone = end
			}
			continue
		}
		living = append(living, h)
	}
	if len(living) == 0 {
		return append(slices.Clone(own), gone)
	}
	merged := slices.Clone(own)
	for _, step := range living[0][1:] { // the first step is the parent's last
		everywhere := true
		for _, h := range living[1:] {
			i := slices.IndexFunc(h, func(s Status) bool { return s.Code == step.Code })
			if i < 0 {
				everywhere = false
				break
			}
			if h[i].At.After(step.At) {
				step.At = h[i].At
			}
		}
		if everywhere {
			merged = append(merged, step)
		}
	}
	return merged
}

// cancel answers a cancellation. A split order passes it on to its children, each of which answers separately: one that
// refuses makes the whole answer a refusal, though its siblings are cancelled.
func (k *Knobs) cancel(s *state, d *document, rnd *rand.Rand, now time.Time) (CancelAnswer, []replan) {
	children := s.split(d, now)
	if len(children) == 0 {
		answer, p := k.cancelOne(d, rnd, now)
		if p == nil {
			return answer, nil
		}
		p.Unsplit = answer == Cancelled && len(d.Children) > 0
		return answer, []replan{*p}
	}
	var plans []replan
	whole := Cancelled
	for _, c := range children {
		answer, p := k.cancelOne(c, rnd, now)
		if p != nil {
			plans = append(plans, *p)
		}
		if answer == CancelRefused || answer == Cancelling && whole == Cancelled {
			whole = answer
		}
	}
	return whole, plans
}

func (k *Knobs) cancelOne(d *document, rnd *rand.Rand, now time.Time) (CancelAnswer, *replan) {
	past := d.history(now)
	future := d.Plan[len(past):]
	if has(past, statusCancelled) {
		return Cancelled, nil
	}
	if now.Before(d.Deciding) {
		return Cancelling, nil
	}
	stage := Code("")
	for _, s := range past {
		if s.Code != statusCancelFailed {
			stage = s.Code
		}
	}
	answer := k.Cancel.Answers[stage]
	switch answer {
	case Cancelled:
		return Cancelled, &replan{No: d.No, Plan: append(slices.Clone(past), Status{Code: statusCancelled, At: now})}
	case Cancelling:
		takes := k.Cancel.Takes.draw(rnd)
		refused := rnd.Float64() < k.Cancel.RefusedLater
		until := now.Add(takes)
		plan := slices.Clone(past)
		for len(future) > 0 && !future[0].At.After(until) {
			plan, future = append(plan, future[0]), future[1:]
		}
		if has(plan, statusCancelled) { // JD's own cancellation comes first
			return Cancelling, &replan{No: d.No, Plan: plan, Deciding: plan[len(plan)-1].At}
		}
		if refused || has(plan, packedStatuses...) {
			plan = append(append(plan, Status{Code: statusCancelFailed, At: until}), future...)
		} else {
			plan = append(plan, Status{Code: statusCancelled, At: until})
		}
		return Cancelling, &replan{No: d.No, Plan: plan, Deciding: until}
	default:
		if last(past) == statusCancelFailed {
			return CancelRefused, nil
		}
		plan := append(slices.Clone(past), Status{Code: statusCancelFailed, At: now})
		return CancelRefused, &replan{No: d.No, Plan: append(plan, future...)}
	}
}

func (r Range) draw(rnd *rand.Rand) time.Duration {
	span := int64(r.Max - r.Min)
	if span <= 0 {
		return time.Duration(r.Min)
	}
	return time.Duration(int64(r.Min) + rnd.Int64N(span+1))
}

// view is the present document with everything but its Params.
func (s *state) view(d *document, now time.Time, parentStays bool) Document {
	root := d
	if d.Parent != "" {
		root = s.byNo[d.Parent]
	}
	children := s.split(d, now)
	v := Document{
		Seq: d.Seq, EclpSoNo: d.No, IsvUUID: d.Number, DepartmentNo: d.Dept, Parent: d.Parent, Created: d.Created,
		ShopNo: root.Params["shopNo"], WarehouseNo: root.Params["warehouseNo"], ShipperNo: root.Params["shipperNo"],
		SalesPlatformOrderNo: root.Params["salesPlatformOrderNo"],
		History:              slices.Clone(s.history(d, now, parentStays)), Lines: slices.Clone(d.Lines), Own: root.Own,
	}
	if v.ShipperNo == "" {
		v.ShipperNo = defaultShipper
	}
	v.Status = last(v.History)
	for i := range v.History {
		v.History[i].Name = v.History[i].Code.name()
		v.History[i].User = "JD"
	}
	if len(children) > 0 {
		v.Children = numbers(children)
		return v
	}
	packed := has(v.History, packedStatuses...)
	if packed || has(v.History, statusWaybill) {
		for _, p := range d.Packages {
			v.WayBills = append(v.WayBills, p.WayBill)
		}
	}
	if packed {
		v.Packages = d.Packages
		return v
	}
	for i := range v.Lines {
		v.Lines[i].RealOutQty = nil
	}
	return v
}

// name is JD's text if it is known.
func (c Code) name() string {
	if name := statusNames[c]; name != "" {
		return name
	}
	return "状态" + string(c)
}
