package jdsandbox

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Statuses of a purchase order (docs/jd-api.md, Purchase orders).
const (
	purchaseNew         Code = "10"
	purchaseReady       Code = "20"
	purchaseWantsBoxes  Code = "4"
	purchaseWantsSerial Code = "5"
	purchaseFinished    Code = "70"
	purchaseCancelling  Code = "90"
	purchaseCancelled   Code = "91"
	purchaseNotCancel   Code = "92"
)

var purchaseNames = map[Code]string{
	purchaseNew: "新建", purchaseReady: "初始化", purchaseWantsBoxes: "等待箱明细", purchaseWantsSerial: "等待序列号清单",
	purchaseFinished: "完成", purchaseCancelling: "取消中", purchaseCancelled: "取消成功", purchaseNotCancel: "取消失败",
}

// PurchaseKnobs are the settings about purchase orders. A Lot's Orders are spPoOrderNos here.
type PurchaseKnobs struct {
	// Repeat is the answer to an spPoOrderNo that has a document already (unknown of JD). Default SecondDocument.
	Repeat Repeat `json:"repeat"`
	// Unknown is what queryPoOrder does with a number that does not exist (unknown of JD): AnswerError (default) refuses the
	// whole call, AnswerEmpty leaves the row out, AnswerRow returns a row without a number. cancalPoOrder goes by
	// Knobs.UnknownNumber.
	Unknown Unknown `json:"unknown"`

	// ReadyAfter is from status 10 to 20, default a minute; ReceiveAfter from then to the first receipt, default two hours;
	// Between from one receipt to the next, default an hour. All in the warehouse's time.
	ReadyAfter   Duration `json:"ready_after"`
	ReceiveAfter Duration `json:"receive_after"`
	Between      Duration `json:"between"`
	// Receipts is how many receipts the goods come in, default 1. The last one finishes the document.
	Receipts int `json:"receipts"`
	// PartialStatus is the status between two receipts, default 20 (unknown of JD).
	PartialStatus Code `json:"partial_status"`
	// Wait stops documents at a status until the control API releases them.
	Wait PurchaseWait `json:"wait"`

	// Short lets less arrive of one line, Excess more, Nothing nothing of any. Damaged splits one line into a row of good
	// goods and one of defective goods.
	Short   Lot `json:"short"`
	Excess  Lot `json:"excess"`
	Damaged Lot `json:"damaged"`
	Nothing Lot `json:"nothing"`
	// RowsShuffled returns the rows of poItemModelList in another order, NoOrderLine without orderLine.
	RowsShuffled bool `json:"rows_shuffled"`
	NoOrderLine  bool `json:"no_order_line"`
	// SplitAsked is the numApplication of a split line's rows (unknown of JD): "whole" (default) repeats the line's, "part" is
	// what the row has received.
	SplitAsked string `json:"split_asked"`
	// Shop (ESP number) is the shop whose stock a receipt raises. By default it is the only one in the warehouse that has the
	// goods; of several none.
	Shop string `json:"shop"`

	// Cancel is how cancellations end.
	Cancel PurchaseCancel `json:"cancel"`
	// Odd picks documents about which queryPoOrder says something odd.
	Odd OddRow `json:"odd"`
}

// AnswerRow is a row without a number. It is for PurchaseKnobs.Unknown.
const AnswerRow Unknown = "row"

// PurchaseWait stops documents at a status: 4, 5, 10 or 20; "" stops none. Without a Chance and Orders it stops all.
type PurchaseWait struct {
	Lot
	At Code `json:"at"`
}

// PurchaseCancel is how cancellations of purchase orders end.
type PurchaseCancel struct {
	// Answers by status, as long as nothing was received; a status that is not listed refuses. Default: 10 Cancelled, 4, 5
	// and 20 Cancelling.
	Answers map[Code]CancelAnswer `json:"answers"`
	// Received is the answer once something was received, default CancelRefused.
	Received CancelAnswer `json:"received"`
	// Takes is how long 90 lasts in the warehouse's time, default 5 to 15 minutes. Nothing is received meanwhile.
	Takes Range `json:"takes"`
	// Code and Msg replace those of poResult, whatever was done.
	Code Code   `json:"code,omitempty"`
	Msg  string `json:"msg,omitempty"`
}

// Answers of PurchaseCancel, besides those of sales orders.
const (
	// RefusedLater answers as Cancelling (3) and ends with 92; then the document goes on.
	RefusedLater CancelAnswer = "refused_later"
	// CancelLost answers as Cancelling (3), and nothing happens.
	CancelLost CancelAnswer = "lost"
)

// OddRow gives rows of queryPoOrder another resultCode (default "2") and msg. Bare leaves out everything but the numbers.
type OddRow struct {
	Lot
	Code Code   `json:"code"`
	Msg  string `json:"msg"`
	Bare bool   `json:"bare"`
}

func (k *PurchaseKnobs) setDefaults() {
	orElse(&k.Repeat, SecondDocument)
	orElse(&k.Unknown, AnswerError)
	orElse(&k.ReadyAfter, Duration(time.Minute))
	orElse(&k.ReceiveAfter, Duration(2*time.Hour))
	orElse(&k.Between, Duration(time.Hour))
	orElse(&k.Receipts, 1)
	orElse(&k.PartialStatus, purchaseReady)
	orElse(&k.SplitAsked, "whole")
	if len(k.Cancel.Answers) == 0 {
		k.Cancel.Answers = map[Code]CancelAnswer{
			purchaseNew: Cancelled, purchaseReady: Cancelling, purchaseWantsBoxes: Cancelling, purchaseWantsSerial: Cancelling,
		}
	}
	orElse(&k.Cancel.Received, CancelRefused)
	orElse(&k.Cancel.Takes, Range{Min: Duration(5 * time.Minute), Max: Duration(15 * time.Minute)})
	k.Cancel.Takes.Max = max(k.Cancel.Takes.Max, k.Cancel.Takes.Min)
	orElse(&k.Odd.Code, "2")
}

func (k *PurchaseKnobs) check(f *faults) {
	f.oneOf("purchases.repeat", string(k.Repeat), string(SecondDocument), string(SameNumber), string(RefuseRepeat))
	f.oneOf("purchases.unknown", string(k.Unknown), string(AnswerError), string(AnswerEmpty), string(AnswerRow))
	f.oneOf("purchases.split_asked", k.SplitAsked, "whole", "part")
	f.oneOf("purchases.wait.at", string(k.Wait.At), "", string(purchaseWantsBoxes), string(purchaseWantsSerial), string(purchaseNew), string(purchaseReady))
	f.when(k.Receipts < 1 || k.Receipts > 20, "purchases.receipts", "must be from 1 to 20")
	for _, one := range []struct {
		key string
		d   Duration
	}{{"ready_after", k.ReadyAfter}, {"receive_after", k.ReceiveAfter}, {"between", k.Between}, {"cancel.takes", k.Cancel.Takes.Max}} {
		f.when(one.d < 0 || time.Duration(one.d) > maxStep, "purchases."+one.key, "must be from 0 to %v", maxStep)
	}
	f.when(k.Cancel.Takes.Min < 0, "purchases.cancel.takes", "must be from 0 to %v", maxStep)
	for _, one := range []struct {
		key string
		lot Lot
	}{{"wait", k.Wait.Lot}, {"short", k.Short}, {"excess", k.Excess}, {"damaged", k.Damaged}, {"nothing", k.Nothing}, {"odd", k.Odd.Lot}} {
		f.chance("purchases."+one.key+".chance", one.lot.Chance)
	}
	answer := func(key string, a CancelAnswer) {
		f.oneOf(key, string(a), string(Cancelled), string(Cancelling), string(CancelRefused), string(RefusedLater), string(CancelLost))
	}
	answer("purchases.cancel.received", k.Cancel.Received)
	for code, a := range k.Cancel.Answers {
		answer("purchases.cancel.answers."+string(code), a)
	}
}

// Purchase is a purchase order at JD at one moment.
type Purchase struct {
	// Seq is the sequence of arrival, shared with sales orders.
	Seq         int64  `json:"seq"`
	PoOrderNo   string `json:"poOrderNo"`
	SpPoOrderNo string `json:"spPoOrderNo"`
	DeptNo      string `json:"deptNo"`
	WhNo        string `json:"whNo"`
	SupplierNo  string `json:"supplierNo"`
	// Created is by the host's clock.
	Created time.Time      `json:"created"`
	Status  Code           `json:"status"`
	History []Status       `json:"history"`
	Lines   []PurchaseLine `json:"lines"`
	// Waits: the document stays at its status until it is released.
	Waits bool `json:"waits,omitempty"`
	// Params is the addPoOrder as it was sent.
	Params map[string]string `json:"params,omitempty"`
}

// PurchaseLine is a line of a purchase order.
type PurchaseLine struct {
	GoodsNo     string `json:"goodsNo,omitempty"`
	IsvGoodsNo  string `json:"isvGoodsNo,omitempty"`
	OrderLine   string `json:"orderLine,omitempty"`
	GoodsStatus string `json:"goodsStatus"`
	// Asked is numApplication, Real what was received so far in all conditions.
	Asked int64 `json:"asked"`
	Real  int64 `json:"real"`
	// Goods is Real by condition.
	Goods []ReceivedGoods `json:"goods,omitempty"`
}

// ReceivedGoods is pieces in one condition.
type ReceivedGoods struct {
	GoodsStatus string `json:"goodsStatus"`
	// GoodsLevel is empty for samples.
	GoodsLevel string `json:"goodsLevel,omitempty"`
	Num        int64  `json:"num"`
}

// purchase is what the state keeps of a purchase order, its whole future included. It is written to the journal as it is.
type purchase struct {
	Seq     int64             `json:"seq"`
	No      string            `json:"no"`
	Number  string            `json:"number"` // spPoOrderNo
	Dept    string            `json:"dept"`
	Params  map[string]string `json:"params"`
	Created time.Time         `json:"created"`
	Lines   []PurchaseLine    `json:"lines"` // without what was received
	// Shop is whose stock the receipts raise.
	Shop string `json:"shop,omitempty"`
	// Odd: queryPoOrder says something odd about it.
	Odd bool `json:"odd,omitempty"`
	purchasePlan

	moved int // steps whose goods moved the stock
}

// purchasePlan is the part of a purchase order that changes.
type purchasePlan struct {
	// Plan is sorted by time; entries up to now are the history.
	Plan []purchaseStep `json:"plan"`
	// Rest is what follows after a release, with the times that it has if the wait ends at once.
	Rest []purchaseStep `json:"rest,omitempty"`
	// Deciding is until when a cancellation is undecided.
	Deciding time.Time `json:"deciding,omitzero"`
}

// purchaseStep is a change of status, and what was received with it.
type purchaseStep struct {
	Code  Code           `json:"code"`
	At    time.Time      `json:"at"`
	Goods []purchasePart `json:"goods,omitempty"`
}

// purchasePart is goods of a line, counted from 0.
type purchasePart struct {
	Line int `json:"line"`
	ReceivedGoods
}

// purchaseReplan is a new plan of the purchase order No.
type purchaseReplan struct {
	No string `json:"no"`
	purchasePlan
}

func (p *purchase) past(now time.Time) []purchaseStep {
	n := 0
	for n < len(p.Plan) && !p.Plan[n].At.After(now) {
		n++
	}
	return p.Plan[:n:n]
}

func (p *purchase) status(now time.Time) Code {
	past := p.past(now)
	if len(past) == 0 {
		return purchaseNew
	}
	return past[len(past)-1].Code
}

// begun reports whether there was a receipt, be it of nothing.
func begun(past []purchaseStep) bool {
	return slices.ContainsFunc(past, func(s purchaseStep) bool { return len(s.Goods) > 0 || s.Code == purchaseFinished })
}

// conditionOf reads a goodsStatus, which may be a level.
func conditionOf(goodsStatus string) ReceivedGoods {
	switch {
	case goodsStatus == "1":
		return ReceivedGoods{GoodsStatus: "1", GoodsLevel: goodLevel}
	case goodsStatus == "2":
		return ReceivedGoods{GoodsStatus: "2", GoodsLevel: defectiveLevel}
	case len(goodsStatus) == 3:
		return ReceivedGoods{GoodsStatus: statusOf(goodsStatus), GoodsLevel: goodsStatus}
	default:
		return ReceivedGoods{GoodsStatus: goodsStatus}
	}
}

const defectiveLevel = "200"

// plan decides everything that will happen to a purchase order without interference. rnd is its own.
func (k *PurchaseKnobs) plan(p *purchase, rnd *rand.Rand, now time.Time) {
	waits := k.Wait.picks(rnd, p.Number) || k.Wait.Chance == 0 && len(k.Wait.Orders) == 0
	arrives := k.arrivals(p, rnd)
	p.Odd = k.Odd.picks(rnd, p.Number)
	at := now.Add(time.Duration(k.ReadyAfter))
	steps := []purchaseStep{{Code: purchaseNew, At: now}, {Code: purchaseReady, At: at}}
	wait := -1
	if waits {
		if k.Wait.At == purchaseWantsBoxes || k.Wait.At == purchaseWantsSerial {
			at = at.Add(time.Duration(k.ReadyAfter))
			steps = append(steps, purchaseStep{Code: k.Wait.At, At: at})
		}
		wait = slices.IndexFunc(steps, func(s purchaseStep) bool { return s.Code == k.Wait.At })
	}
	at = at.Add(time.Duration(k.ReceiveAfter))
	for n := range k.Receipts {
		step := purchaseStep{Code: k.PartialStatus, At: at.Add(time.Duration(n) * time.Duration(k.Between))}
		for _, part := range arrives {
			total := part.Num
			if part.Num = total / int64(k.Receipts); int64(n) < total%int64(k.Receipts) {
				part.Num++
			}
			if part.Num > 0 {
				step.Goods = append(step.Goods, part)
			}
		}
		if n == k.Receipts-1 {
			step.Code = purchaseFinished
		}
		steps = append(steps, step)
	}
	p.Plan = steps
	if wait >= 0 {
		p.Plan, p.Rest = steps[:wait+1:wait+1], steps[wait+1:]
	}
}

// arrivals is what will arrive of a purchase order.
func (k *PurchaseKnobs) arrivals(p *purchase, rnd *rand.Rand) []purchasePart {
	parts := make([]purchasePart, 0, len(p.Lines)+1)
	for i, l := range p.Lines {
		part := purchasePart{i, conditionOf(l.GoodsStatus)}
		part.Num = l.Asked
		parts = append(parts, part)
	}
	one := &parts[rnd.IntN(len(parts))]
	short, excess, damaged := k.Short.picks(rnd, p.Number), k.Excess.picks(rnd, p.Number), k.Damaged.picks(rnd, p.Number)
	amount := 1 + rnd.Int64N(one.Num)
	if k.Nothing.picks(rnd, p.Number) {
		return nil
	}
	switch {
	case short:
		one.Num -= amount
	case excess:
		one.Num += amount
	}
	if damaged && one.Num > 0 {
		bad := conditionOf(defectiveLevel)
		bad.Num = max(1, one.Num/4)
		one.Num -= bad.Num
		parts = append(parts, purchasePart{one.Line, bad})
	}
	return slices.DeleteFunc(parts, func(part purchasePart) bool { return part.Num == 0 })
}

// cancel answers a cancellation, with a new plan if there is one.
func (k *PurchaseKnobs) cancel(p *purchase, rnd *rand.Rand, now time.Time) (CancelAnswer, *purchasePlan) {
	past := p.past(now)
	switch status := p.status(now); {
	case status == purchaseCancelled:
		return Cancelled, nil
	case now.Before(p.Deciding):
		return Cancelling, nil
	case status == purchaseFinished:
		return CancelRefused, nil
	}
	answer := k.Cancel.Answers[p.status(now)]
	if begun(past) {
		answer = k.Cancel.Received
	}
	plan := slices.Clone(past)
	until := now.Add(k.Cancel.Takes.draw(rnd))
	switch answer {
	case Cancelled:
		return answer, &purchasePlan{Plan: append(plan, purchaseStep{Code: purchaseCancelled, At: now})}
	case Cancelling:
		plan = append(plan, purchaseStep{Code: purchaseCancelling, At: now}, purchaseStep{Code: purchaseCancelled, At: until})
		return answer, &purchasePlan{Plan: plan, Deciding: until}
	case RefusedLater:
		plan = append(plan, purchaseStep{Code: purchaseCancelling, At: now}, purchaseStep{Code: purchaseNotCancel, At: until})
		future, delay := p.Plan[len(past):], until.Sub(now)
		rest := later(p.Rest, delay)
		if len(future) == 0 && len(past) > 0 { // it waits, and goes on waiting
			rest = later(p.Rest, until.Sub(past[len(past)-1].At))
		}
		return answer, &purchasePlan{Plan: append(plan, later(future, delay)...), Rest: rest, Deciding: until}
	case CancelLost:
		return answer, nil
	default:
		return CancelRefused, nil
	}
}

func later(steps []purchaseStep, by time.Duration) []purchaseStep {
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].At = steps[i].At.Add(by)
	}
	return steps
}

// takePurchase adds a new purchase order.
func (s *state) takePurchase(p *purchase) {
	s.seq = max(s.seq, p.Seq)
	var living []string
	for _, twin := range s.purchasesOf(p.Number, p.Dept) {
		if twin.status(p.Plan[0].At) != purchaseCancelled {
			living = append(living, twin.No)
		}
	}
	if len(living) > 0 {
		s.wrong.add(Violation{
			Kind: TwoPurchases, At: p.Created, Method: addPurchase, DepartmentNo: p.Dept, SpPoOrderNo: p.Number, PoOrderNos: append(living, p.No),
		})
	}
	s.purchases = append(s.purchases, p)
	s.purchaseByNo[p.No] = p
	s.purchasesByNumber[p.Number] = append(s.purchasesByNumber[p.Number], p)
	s.scheduleStock(p)
}

// purchasesOf finds the purchase orders under an spPoOrderNo of a department.
func (s *state) purchasesOf(number, dept string) []*purchase {
	return slices.DeleteFunc(slices.Clone(s.purchasesByNumber[number]), func(p *purchase) bool { return p.Dept != dept })
}

func (s *state) scheduleStock(p *purchase) {
	if p.moved < len(p.Plan) {
		heap.Push(&s.stock.due, step{at: p.Plan[p.moved].At, seq: p.Seq, p: p})
	}
}

// stockReceipt moves the stock by the next step of a purchase order if that is due at this time. Goods that the warehouse
// does not count move nothing.
func (s *state) stockReceipt(p *purchase, at time.Time) {
	if p.moved == len(p.Plan) || !p.Plan[p.moved].At.Equal(at) {
		return // it has another plan since
	}
	hostAt := max(s.clock.real(at).UnixMilli(), p.Created.UnixMilli())
	for _, part := range p.Plan[p.moved].Goods {
		l := p.Lines[part.Line]
		goods := s.stock.goodsNo(p.Dept, Line{GoodsNo: l.GoodsNo, IsvGoodsNo: l.IsvGoodsNo})
		if part.GoodsLevel == "" {
			continue // samples: their level is unknown
		}
		if pile := s.stock.pile(p.Dept, p.Params["whNo"], goods); pile != nil {
			*pile.kind(part.GoodsLevel, saleableType) += part.Num
		}
		if c := s.stock.receiver(p, goods); c != nil && isGood(part.GoodsLevel, saleableType) {
			s.stock.write(c, hostAt, hostAt, part.Num, 0, bizReceived, p.No)
		}
	}
	p.moved++
	s.scheduleStock(p)
}

// receiver is the shop's stock that a receipt of some goods raises, nil if there is none.
func (s *stock) receiver(p *purchase, goods string) *series {
	if p.Shop != "" {
		if shop := s.shops[shopKey{p.Dept, p.Params["whNo"], p.Shop}]; shop != nil {
			return shop.series[goods]
		}
		return nil
	}
	var only *series
	for key, shop := range s.shops {
		if c := shop.series[goods]; c != nil && key.dept == p.Dept && key.warehouse == p.Params["whNo"] {
			if only != nil {
				return nil
			}
			only = c
		}
	}
	return only
}

// viewPurchase is the present purchase order with everything but its Params.
func viewPurchase(p *purchase, now time.Time) Purchase {
	v := Purchase{
		Seq: p.Seq, PoOrderNo: p.No, SpPoOrderNo: p.Number, DeptNo: p.Dept, WhNo: p.Params["whNo"], SupplierNo: p.Params["supplierNo"],
		Created: p.Created, Status: p.status(now), Lines: slices.Clone(p.Lines), Waits: len(p.Rest) > 0 && len(p.past(now)) == len(p.Plan),
	}
	for _, s := range p.past(now) {
		v.History = append(v.History, Status{Code: s.Code, Name: purchaseNames[s.Code], At: s.At})
		for _, part := range s.Goods {
			l := &v.Lines[part.Line]
			l.Real += part.Num
			i := slices.IndexFunc(l.Goods, func(g ReceivedGoods) bool {
				return g.GoodsStatus == part.GoodsStatus && g.GoodsLevel == part.GoodsLevel
			})
			if i < 0 {
				l.Goods = append(l.Goods, part.ReceivedGoods)
			} else {
				l.Goods[i].Num += part.Num
			}
		}
	}
	return v
}

// Purchases returns what JD has under the spPoOrderNos, or everything, in the order of arrival, without Params.
func (jd *JD) Purchases(spPoOrderNos ...string) []Purchase {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	var found []Purchase
	for _, p := range jd.state.purchases {
		if len(spPoOrderNos) == 0 || slices.Contains(spPoOrderNos, p.Number) {
			found = append(found, viewPurchase(p, jd.shown()))
		}
	}
	return found
}

// Purchase returns one with its Params.
func (jd *JD) Purchase(poOrderNo string) (Purchase, bool) {
	jd.mu.Lock()
	defer jd.mu.Unlock()
	p := jd.state.purchaseByNo[poOrderNo]
	if p == nil {
		return Purchase{}, false
	}
	v := viewPurchase(p, jd.shown())
	v.Params = p.Params
	return v, true
}

// PurchaseReceipt is a receipt by hand.
type PurchaseReceipt struct {
	Goods []PurchaseGoods `json:"goods,omitempty"`
	// Rest receives what is missing of each line besides, in the condition that was asked for.
	Rest bool `json:"rest,omitempty"`
	// Finish ends the document with status 70, also if nothing was ever received.
	Finish bool `json:"finish,omitempty"`
}

// PurchaseGoods is pieces that arrive of a line.
type PurchaseGoods struct {
	// Line counts from 1.
	Line int   `json:"line"`
	Num  int64 `json:"num"`
	// GoodsLevel default that of the line's goodsStatus.
	GoodsLevel string `json:"goodsLevel,omitempty"`
}

// ReceivePurchase receives goods now. From then on the document moves only by such receipts. It ends a cancellation that
// is under way with 92. Documents that are finished or cancelled are an error.
func (jd *JD) ReceivePurchase(poOrderNo string, r PurchaseReceipt) error {
	return jd.replanPurchase(poOrderNo, func(p *purchase, now time.Time) (purchasePlan, error) {
		past := slices.Clone(p.past(now))
		switch p.status(now) {
		case purchaseFinished, purchaseCancelled:
			return purchasePlan{}, fmt.Errorf("%s: is %s", poOrderNo, purchaseNames[p.status(now)])
		case purchaseCancelling:
			past = append(past, purchaseStep{Code: purchaseNotCancel, At: now})
		}
		step := purchaseStep{Code: jd.knobs.Purchases.PartialStatus, At: now}
		if r.Finish {
			step.Code = purchaseFinished
		}
		var err error
		step.Goods, err = r.parts(viewPurchase(p, now))
		if err == nil && len(step.Goods) == 0 && !r.Finish {
			err = fmt.Errorf("goods: nothing is received and nothing finished")
		}
		return purchasePlan{Plan: append(past, step)}, err
	})
}

func (r *PurchaseReceipt) parts(v Purchase) ([]purchasePart, error) {
	var parts []purchasePart
	var f faults
	for i, g := range r.Goods {
		at := fmt.Sprintf("goods[%d].", i)
		f.when(g.Line < 1 || g.Line > len(v.Lines), at+"line", "must be from 1 to %d", len(v.Lines))
		f.when(g.Num < 1 || g.Num > maxPieces, at+"num", "must be from 1 to %d", maxPieces)
		f.when(g.GoodsLevel != "" && (len(g.GoodsLevel) != 3 || !isDigits(g.GoodsLevel)), at+"goodsLevel", "must be a level such as 100")
		if len(f) > 0 {
			return nil, f[0]
		}
		l := &v.Lines[g.Line-1]
		part := purchasePart{g.Line - 1, conditionOf(l.GoodsStatus)}
		if g.GoodsLevel != "" {
			part.ReceivedGoods = conditionOf(g.GoodsLevel)
		}
		part.Num = g.Num
		l.Real += g.Num
		parts = append(parts, part)
	}
	for i, l := range v.Lines {
		if r.Rest && l.Asked > l.Real {
			part := purchasePart{i, conditionOf(l.GoodsStatus)}
			part.Num = l.Asked - l.Real
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// ReleasePurchase lets a document go on that waits at its status.
func (jd *JD) ReleasePurchase(poOrderNo string) error {
	return jd.replanPurchase(poOrderNo, func(p *purchase, now time.Time) (purchasePlan, error) {
		if past := p.past(now); len(p.Rest) == 0 || len(past) < len(p.Plan) {
			return purchasePlan{}, fmt.Errorf("%s: does not wait", poOrderNo)
		}
		waited := max(0, now.Sub(p.Plan[len(p.Plan)-1].At))
		return purchasePlan{Plan: append(slices.Clone(p.Plan), later(p.Rest, waited)...)}, nil
	})
}

func (jd *JD) replanPurchase(no string, plan func(*purchase, time.Time) (purchasePlan, error)) error {
	jd.mu.Lock()
	p := jd.state.purchaseByNo[no]
	if p == nil {
		jd.mu.Unlock()
		return errNoPurchase
	}
	made, err := plan(p, jd.shown())
	if err != nil {
		jd.mu.Unlock()
		return err
	}
	jd.settle()
	jd.change(record{PurchasePlans: []purchaseReplan{{No: no, purchasePlan: made}}})
	jd.settle()
	jd.mu.Unlock()
	return jd.journal.sync()
}
