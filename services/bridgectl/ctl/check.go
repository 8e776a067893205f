package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	textclean "stockbridge/pkg/clean"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	orders "stockbridge/pkg/kind/order"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
	orderv1 "stockbridge/proto/order/v1"
)

type orderCheckCmd struct {
	File       string `name:"file" short:"f" required:"" type:"path" placeholder:"FILE" help:"JSON orders, one a line or laid out; - reads standard input."`
	SellerFile string `type:"path" placeholder:"FILE" help:"Check against this set-up instead of the one applied; needs no broker."`
	Reveal     bool   `help:"Show personal data: the request exactly as it would be sent. This is logged."`
}

func (orderCheckCmd) Help() string {
	return `The findings are the pusher's own: what would hold the order until somebody completes the set-up, what would make it fail, and
what would be changed in it. Nothing is published and nothing is called. Ends 1 when an order would not be sent.`
}

// checked is what was found about one order.
type checked struct {
	Line       int    `json:"line"`
	Seller     string `json:"seller,omitempty"`
	OrderNo    string `json:"order_no,omitempty"`
	OutboundNo string `json:"outbound_no,omitempty"`
	// Goes: nothing prevents it from being sent.
	Goes     bool      `json:"goes"`
	Findings []finding `json:"findings"`
	Call     string    `json:"call,omitempty"`
	// Request is the business request; with --reveal exactly as it would be sent.
	Request string `json:"request,omitempty"`
}

// add adds findings once each: the set-up's checks and the warehouse's overlap.
func (c *checked) add(found ...error) {
	for _, err := range found {
		f := findingOf(err)
		if !slices.ContainsFunc(c.Findings, func(have finding) bool {
			return have.Code == f.Code && have.Field == f.Field || f.Cause != "" && have.Cause == f.Cause && have.Field == f.Field
		}) {
			c.Findings = append(c.Findings, f)
		}
	}
}

func (c orderCheckCmd) Run(ctx context.Context, a *app) error {
	file, err := a.open(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	checks, err := c.checks(ctx, a)
	if err != nil {
		return err
	}
	defer checks.close()
	switch d := (deed{verb: "order check --reveal", target: "orders of " + c.File}); {
	case c.Reveal && c.SellerFile == "":
		if err := a.revealed(ctx, d); err != nil {
			return err
		}
	case c.Reveal:
		a.note("revealed to %s: %s (not recorded: no broker was asked)", a.Who, d.target)
	}
	results := []checked{}
	goes := true
	for d, err := range documents(file) {
		if err != nil {
			return err
		}
		r, err := checks.check(ctx, d)
		if err != nil {
			return err
		}
		goes = goes && r.Goes
		results = append(results, r)
	}
	if len(results) == 0 {
		return fmt.Errorf("%s: no orders in it", c.File)
	}
	if err := a.show(results, func(w io.Writer) error {
		for i, r := range results {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := a.writeChecked(w, r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if !c.Reveal && slices.ContainsFunc(results, func(r checked) bool { return strings.Contains(r.Request, hidden) }) {
		a.note("personal data is hidden; --reveal shows the exact request, and logs that you looked")
	}
	if !goes {
		return errWrong
	}
	return nil
}

func (c orderCheckCmd) checks(ctx context.Context, a *app) (*checks, error) {
	if c.SellerFile != "" {
		text, err := os.ReadFile(c.SellerFile)
		if err != nil {
			return nil, err
		}
		setup, err := seller.Parse(text)
		if err != nil {
			return nil, err
		}
		s := seller.New(setup, nil)
		return &checks{
			close: func() {}, reveal: c.Reveal, warehouses: wiring.NewWarehouses(nil),
			seller: func(name string) (*seller.Seller, bool) { return s, name == s.Name() },
		}, nil
	}
	registry, err := a.registry(ctx)
	if err != nil {
		return nil, hint(err, "without a broker: --seller-file FILE checks against a set-up that is not applied")
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return nil, err
	}
	return &checks{close: registry.Close, reveal: c.Reveal, warehouses: wiring.NewWarehouses(l), seller: registry.Get, ledger: l}, nil
}

// checks holds what orders are checked against.
type checks struct {
	close      func()
	reveal     bool
	seller     func(name string) (*seller.Seller, bool)
	warehouses *wiring.Warehouses
	// ledger is nil without a broker.
	ledger ledger.Documents
}

// check reports everything that can be found about one order without calling the warehouse.
func (c *checks) check(ctx context.Context, d document) (r checked, err error) {
	r = checked{Line: d.line, Findings: []finding{}}
	defer func() {
		r.Goes = !slices.ContainsFunc(r.Findings, func(f finding) bool { return f.Outcome != "note" })
	}()
	o, found := readDocument(event.OrderAudited, d.text)
	r.add(found...)
	if o == nil {
		return r, nil
	}
	r.Seller, r.OrderNo, r.OutboundNo = o.Seller, o.OrderNo, o.OutboundNo
	for _, path := range unknownFields(d.text, o.ProtoReflect().Descriptor()) {
		r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON{
			Code: "field.unknown", Field: path, ZH: "未知字段，不会推送；请检查拼写", EN: "not a field of an order, so not sent: misspelt?",
		}})
	}
	s, ok := c.seller(o.Seller)
	if !ok {
		r.add(seller.Unknown(o.Seller))
		return r, nil
	}
	if err := s.Paused(); err != nil {
		r.add(err)
	}
	if s.InShadow(time.Now()) {
		r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON{
			Code: "seller.shadow", ZH: "影子模式：不会推送，只与 ERP 原程序推送的单据比较", EN: "the seller is in shadow: it is not sent, only compared with what the ERP's own program sends",
		}})
	}
	if first, on := s.OnTrial(); on && !s.TrialLists(o.OutboundNo, o.OrderNo) {
		reason := fault.Reason{
			Code: "trial.waiting", ZH: "试运行中：此订单不在试运行名单内，等待试运行结束",
			EN: "the seller is on trial and this order is not listed: it waits until the trial ends",
		}
		if first == 0 {
			r.add(fault.Hold(seller.CauseTrial(s.Name()), reason))
		} else {
			reason.ZH = fmt.Sprintf("试运行中：此订单不在试运行名单内，只有排在前 %d 单内才会推送", first)
			reason.EN = fmt.Sprintf("the seller is on trial and this order is not listed: it goes only as one of the first %d", first)
			r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON(reason)})
		}
	}
	if len(found) > 0 {
		r.add(s.Findings(o)...)
		return r, nil // an order that breaks the rules is never given to a warehouse
	}
	wh, err := c.warehouses.Read(s, o.Warehouse, quota.Push)
	if err != nil {
		r.add(s.Findings(o)...)
		r.add(err)
		return r, nil
	}
	plan, found := orders.Findings(s, wh, o)
	r.add(found...)
	for _, n := range plan.Cleaned {
		r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON{Code: "cleaned." + n.What, Field: n.Field, ZH: n.Zh, EN: n.En}})
	}
	r.Call, r.Request = plan.Call, plan.Body
	if !c.reveal && plan.Body != "" {
		r.Request = maskedRequest(wh, o)
	}
	return r, c.remembered(ctx, o, &r)
}

// identity is the account identity under which the order would be looked up.
func (c *checks) identity(o *orderv1.Audited) string {
	s, ok := c.seller(o.Seller)
	if !ok {
		return ""
	}
	return s.IdentityOf(o.Warehouse)
}

// remembered adds what the ledger knows of the order's number and its lines.
func (c *checks) remembered(ctx context.Context, o *orderv1.Audited, r *checked) error {
	if c.ledger == nil {
		return nil
	}
	e, err := c.ledger.Get(ctx, ledger.Key{Seller: o.Seller, Kind: orderKind, No: o.OutboundNo})
	switch {
	case errors.Is(err, ledger.ErrNoEntry):
	case err != nil:
		return err
	case e.State != ledger.New && !e.Reconstructed() && !orders.SamePayload(e, o):
		r.add(orders.Terms.Reused(o.OutboundNo))
	case (e.State == ledger.Unknown || e.State == ledger.Intent) && e.Identity != "" && e.Identity != c.identity(o):
		r.add(orders.Terms.Elsewhere(o.Seller, o.OutboundNo, e.Identity, c.identity(o)))
	case e.State == ledger.Accepted || e.State == ledger.Cancelled:
		r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON{
			Code: "outbound.known", Field: "outbound_no",
			ZH: fmt.Sprintf("仓库已有此单（%s，%s）；再次推送只会重复通知", e.Number, e.State),
			EN: fmt.Sprintf("the warehouse has it (%s, %s): pushing it again only publishes that again", e.Number, e.State),
		}})
	}
	if err := c.shared(ctx, o, r); err != nil {
		return err
	}
	others, err := c.ledger.Find(ctx, o.Seller, o.OrderNo)
	if err != nil {
		return err
	}
	for _, other := range others {
		for _, line := range o.Lines {
			if other.Key.No == o.OutboundNo || other.Group != o.OrderNo || !other.State.Live() || !slices.Contains(other.Items, line.LineId) {
				continue
			}
			r.add(orders.Terms.ItemTaken(orders.Facts(o), line.LineId, orders.ItemField(o, line.LineId), other, orders.Claimed(others, o.Supersedes)))
		}
	}
	return nil
}

// shared adds live documents of other orders that have the same platform's order number as o.
func (c *checks) shared(ctx context.Context, o *orderv1.Audited, r *checked) error {
	var found []ledger.Sharing
	for _, no := range o.PlatformOrderNos {
		entries, err := c.ledger.Find(ctx, o.Seller, no)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Key.Kind == orderKind && e.Key.No != o.OutboundNo && e.Group != o.OrderNo && e.State.Live() && slices.Contains(e.PlatformNos, no) {
				found = append(found, ledger.Sharing{PlatformNo: no, Group: e.Group, No: e.Key.No})
			}
		}
	}
	for _, s := range ledger.SortSharing(found) {
		r.Findings = append(r.Findings, finding{Outcome: "note", reasonJSON: reasonJSON(orders.Shared(o, s))})
	}
	return nil
}

// maskedRequest is the request with (hidden) in place of personal data. Only the adapter knows where that data goes, so
// it is given an order with stand-ins that are easy to find again.
func maskedRequest(wh warehouse.Planner[*orderv1.Audited], o *orderv1.Audited) string {
	o = textclean.Order(o).Order // or a stand-in for a number would no longer be a number
	stand := []string{}
	m := masked(o, func(field protoreflect.FieldDescriptor, text string) string {
		s := standIn(text, len(stand))
		stand = append(stand, s)
		return s
	})
	request := wh.Plan(m).Body
	for _, s := range stand {
		request = strings.ReplaceAll(request, s, hidden)
	}
	return request
}

// standIn is the nth replacement for a personal text, of the same form: digits for a number, letters for a name.
func standIn(text string, n int) string {
	if textclean.Callable(text) {
		return fmt.Sprintf("199000%05d", n)
	}
	if strings.Contains(text, "@") {
		return fmt.Sprintf("hidden%d@example.com", n)
	}
	return fmt.Sprintf("隐%d藏", n)
}

func (a *app) writeChecked(w io.Writer, r checked) error {
	verdict := "goes"
	if !r.Goes {
		verdict = "would not go"
	}
	fmt.Fprintf(w, "line %d: order %s, outbound %s: %s\n", r.Line, clean(orDash(r.OrderNo)), clean(orDash(r.OutboundNo)), verdict)
	if len(r.Findings) > 0 {
		t := table{head: []string{"OUTCOME", "CODE", "FIELD", "WHY"}}
		for _, f := range r.Findings {
			reason := f.reason()
			reason.Field = ""
			why := a.say(reason)
			if f.Cause != "" {
				why = f.Cause + " — " + why
			}
			t.add(f.Outcome, f.Code, orDash(f.Field), why)
		}
		if err := t.write(w, a.columns); err != nil {
			return err
		}
	}
	if r.Request == "" {
		return nil
	}
	text, err := pretty([]byte(r.Request), nil, true)
	if err != nil {
		text = r.Request
	}
	_, err = fmt.Fprintf(w, "%s\n%s\n", r.Call, text)
	return err
}
