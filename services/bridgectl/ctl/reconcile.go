package ctl

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/services/reconciler/reconciler"
)

type reconcileCmd struct {
	Seller string        `placeholder:"NAME" help:"Only this seller; with -f that of rows which name none."`
	Now    bool          `help:"Ask for a run now, and wait for it."`
	Whole  bool          `help:"With --now: look at everything in the stream again, and not only at what is new or open."`
	Wait   time.Duration `default:"2m" placeholder:"DURATION" help:"With --now: how long to wait (default 2m)."`
	All    bool          `help:"List what is explained too."`
	Limit  int           `default:"100" placeholder:"N" help:"At most so many orders are listed; with -o json too (default 100)."`
	File   string        `short:"f" placeholder:"FILE" help:"Compare the ERP's list of audits with what is known: CSV with a line of headings, JSON, or one JSON object a line; - is standard input."`
	because
}

func (reconcileCmd) Help() string {
	return `Compares what each seller's ERP audited with what the ledger and the warehouses know, as the worker reconciler found in its last run:
how many orders are finished, why the others are not, and which are unexplained. Ends 1 when any is unexplained, or when
no run ended yet.

With -f FILE it compares a list of the ERP's: the only way to find audits that were lost with the stream. The columns (keys) are
outbound_no, and if you like seller, order_no, audited_at (RFC 3339). At most 200000 rows. The warehouses are asked a hundred
numbers a call, within their budgets, so many thousands of unknown numbers take minutes. Nothing is sent and nothing changed. Ends
1 when an audit has to be published again, or could not be looked into.`
}

// standingJSON is the state of a seller.
type standingJSON struct {
	Seller string `json:"seller"`
	// Looked is false when no run ever ended.
	Looked      bool           `json:"looked"`
	Settled     int            `json:"settled"`
	Repaired    int            `json:"repaired"`
	Open        map[string]int `json:"open"`
	Unexplained int            `json:"unexplained"`
	Oldest      time.Time      `json:"oldest_unexplained,omitzero"`
	RanAt       time.Time      `json:"ran_at,omitzero"`
	CycleAt     time.Time      `json:"cycle_at,omitzero"`
	Full        bool           `json:"full,omitempty"`
	Orders      []openJSON     `json:"orders"`
	// Strangers counts documents that no audit of ours explains, Own those that the warehouse created itself.
	Strangers int `json:"strangers"`
	Own       int `json:"own"`
	// ButThere counts those of them whose orders were published as failed.
	ButThere  int             `json:"refused_but_there"`
	Documents []strangerJSON  `json:"documents"`
	Lists     []listStateJSON `json:"lists"`
	LeftOff   int             `json:"left_off,omitempty"`
}

// strangerJSON is a document that no audit of ours explains.
type strangerJSON struct {
	reconciler.Finding
	ZH string `json:"zh"`
	EN string `json:"en"`
}

// listStateJSON is how far an account's list was read.
type listStateJSON struct {
	Account string    `json:"account"`
	Done    time.Time `json:"done"`
	Error   string    `json:"error,omitempty"`
}

// openJSON is an unfinished order.
type openJSON struct {
	OutboundNo string    `json:"outbound_no"`
	OrderNo    string    `json:"order_no,omitempty"`
	Audited    time.Time `json:"audited"`
	Why        string    `json:"why"`
	Explained  bool      `json:"explained"`
	Detail     string    `json:"detail,omitempty"`
	Since      time.Time `json:"since"`
	Tries      int       `json:"tries,omitempty"`
	ZH         string    `json:"zh"`
	EN         string    `json:"en"`
}

func (c reconcileCmd) Run(ctx context.Context, a *app) error {
	if c.Limit < 0 {
		return misused("--limit must not be negative")
	}
	if c.Whole && !c.Now {
		return misused("--whole goes with --now")
	}
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	sellers, err := c.sellers(ctx, a)
	if err != nil {
		return err
	}
	if c.File != "" {
		return c.compare(ctx, a, l)
	}
	if c.Now {
		d := deed{verb: "reconcile --now", seller: c.Seller, why: c.Why}
		if c.Whole {
			d.verb += " --whole"
		}
		if err := a.do(ctx, d, func() (int, error) { return len(sellers), c.runs(ctx, a, l, sellers) }); err != nil {
			return err
		}
	}
	doc, well := []standingJSON{}, true
	for _, name := range sellers {
		s, err := c.standing(ctx, l, name)
		if err != nil {
			return err
		}
		doc = append(doc, s)
		well = well && s.Looked && s.Unexplained == 0
	}
	if err := a.show(doc, func(w io.Writer) error { return c.write(w, a, doc) }); err != nil {
		return err
	}
	if !well {
		return errWrong
	}
	return nil
}

func (c reconcileCmd) sellers(ctx context.Context, a *app) ([]string, error) {
	registry, err := a.registry(ctx)
	if err != nil {
		return nil, err
	}
	defer registry.Close()
	var names []string
	for _, s := range registry.All() {
		if c.Seller == "" || s.Name() == c.Seller {
			names = append(names, s.Name())
		}
	}
	if len(names) == 0 && c.Seller != "" {
		return nil, hint(fmt.Errorf("no seller %s", c.Seller), "bridgectl seller ls")
	}
	return names, nil
}

// runs asks for a run of each seller, and waits until a cycle of each is complete.
func (c reconcileCmd) runs(ctx context.Context, a *app, l ledger.Ledger, sellers []string) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	before := map[string]time.Time{}
	for _, name := range sellers {
		if c.Whole {
			if err := reconciler.Forget(ctx, l, name); err != nil {
				return err
			}
		}
		s, err := reconciler.ReadReport(ctx, l, name)
		if err != nil {
			return err
		}
		before[name] = s.CycleAt
		if err := b.Tick(ctx, event.TickReconcile, name); err != nil {
			return err
		}
	}
	until, noted := a.now().Add(c.Wait), a.now()
	for len(before) > 0 {
		for name, at := range before {
			s, err := reconciler.ReadReport(ctx, l, name)
			if err != nil {
				return err
			}
			if s.CycleAt.After(at) {
				delete(before, name)
			} else if a.now().Sub(noted) > 5*time.Second {
				noted = a.now()
				a.note("%s: %s so far, %s open", name, count(s.Settled, "order"), strconv.Itoa(sum(s.Open)))
			}
		}
		if len(before) > 0 && a.now().After(until) {
			return hint(fmt.Errorf("%s not complete after %s; it continues in the background", count(len(before), "cycle"), c.Wait), "does reconciler run? --wait extends the time")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

func sum(of map[reconciler.Reason]int) (n int) {
	for _, m := range of {
		n += m
	}
	return n
}

func (c reconcileCmd) standing(ctx context.Context, l ledger.Ledger, name string) (standingJSON, error) {
	s, err := reconciler.ReadReport(ctx, l, name)
	if err != nil {
		return standingJSON{}, err
	}
	doc := standingJSON{
		Seller: name, Looked: !s.RanAt.IsZero(), Settled: s.Settled, Repaired: s.Repaired, Open: map[string]int{}, Unexplained: s.Unexplained(),
		Oldest: s.Oldest.UTC(), RanAt: s.RanAt.UTC(), CycleAt: s.CycleAt.UTC(), Full: s.Full, Orders: []openJSON{},
	}
	for why, n := range s.Open {
		doc.Open[string(why)] = n
	}
	doc.Strangers, doc.Own, doc.ButThere, doc.Documents, doc.Lists = s.Findings, s.Own, s.RefusedButThere, []strangerJSON{}, []listStateJSON{}
	for _, account := range slices.Sorted(maps.Keys(s.Lists)) {
		at := s.Lists[account]
		doc.Lists = append(doc.Lists, listStateJSON{account, at.Done.UTC(), at.Error})
	}
	strangers, err := reconciler.ReadFindings(ctx, l, name)
	if err != nil {
		return doc, err
	}
	for _, d := range strangers[:min(len(strangers), c.Limit)] {
		says := strangeness(d.Kind)
		doc.Documents = append(doc.Documents, strangerJSON{d, says.ZH, says.EN})
	}
	list, err := reconciler.ReadOpen(ctx, l, name)
	if err != nil {
		return doc, err
	}
	// Unexplained orders come first.
	slices.SortStableFunc(list, func(a, b reconciler.Order) int { return order(a.Reason.Explains()) - order(b.Reason.Explains()) })
	for _, o := range list {
		if o.Reason.Explains() && !c.All {
			continue
		}
		if len(doc.Orders) == c.Limit {
			doc.LeftOff++
			continue
		}
		says := meaning(o.Reason)
		doc.Orders = append(doc.Orders, openJSON{
			OutboundNo: o.OutboundNo, OrderNo: o.OrderNo, Audited: o.First().UTC(), Why: string(o.Reason), Explained: o.Reason.Explains(),
			Detail: o.Detail, Since: o.Since.UTC(), Tries: o.Tries, ZH: says.ZH, EN: says.EN,
		})
	}
	return doc, nil
}

func order(last bool) int {
	if last {
		return 1
	}
	return 0
}

func (c reconcileCmd) write(w io.Writer, a *app, doc []standingJSON) error {
	t := table{head: []string{"SELLER", "SETTLED", "REPAIRED", "OPEN", "UNEXPLAINED", "OLDEST", "COMPLETE", "OPEN BECAUSE"}}
	for _, s := range doc {
		if !s.Looked {
			t.add(s.Seller, "-", "-", "-", "-", "-", "-", "no run ended yet: does reconciler run?")
			continue
		}
		because, n := "", 0
		for _, why := range reconciler.Reasons() {
			if m := s.Open[string(why)]; m > 0 {
				because += fmt.Sprintf("%s %d ", why, m)
				n += m
			}
		}
		if s.Full {
			because += "(full: what comes after waits)"
		}
		t.add(s.Seller, strconv.Itoa(s.Settled), strconv.Itoa(s.Repaired), strconv.Itoa(n), strconv.Itoa(s.Unexplained), orDash(when(s.Oldest)), orDash(when(s.CycleAt)), orDash(because))
	}
	if err := t.write(w, a.columns); err != nil {
		return err
	}
	t = table{head: []string{"SELLER", "OUTBOUND", "AUDITED", "WHY", "WHAT TO DO"}}
	left := 0
	for _, s := range doc {
		left += s.LeftOff
		for _, o := range s.Orders {
			text := a.pick(o.ZH, o.EN)
			if o.Detail != "" {
				text = o.Detail + " — " + text
			}
			t.add(s.Seller, o.OutboundNo, when(o.Audited), o.Why, text)
		}
	}
	if err := t.below(w, a); err != nil {
		return err
	}
	if left > 0 {
		a.note("%s more: --limit", strconv.Itoa(left))
	}
	t = table{head: []string{"SELLER", "WAREHOUSE NO", "OUTBOUND", "SEEN", "WHAT", "WHAT TO DO"}}
	for _, s := range doc {
		for _, d := range s.Documents {
			t.add(s.Seller, d.WarehouseNo, d.OutboundNo, when(d.Seen), string(d.Kind), a.pick(d.ZH, d.EN))
		}
		for _, at := range s.Lists {
			if at.Error != "" {
				a.note("%s: the documents of account %s cannot be listed: %s", s.Seller, at.Account, at.Error)
			}
		}
	}
	return t.below(w, a)
}

// below writes a table whose rows continue the one written before.
func (t *table) below(w io.Writer, a *app) error {
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return t.write(w, a.columns)
}

// strangeness describes why a document is unknown.
func strangeness(what reconciler.FindingKind) fault.Reason {
	switch what {
	case reconciler.DuplicateDocument:
		return fault.Reason{ZH: "同一单号另有单据：请立即让仓库取消其中一张", EN: "its number has another document besides: have one cancelled at the warehouse at once"}
	case reconciler.RefusedButThere:
		return fault.Reason{ZH: "该单曾告知失败，但仓库实际已有：若已退款请立即取消；若要发货请重放死信", EN: "it was published as failed, and the warehouse has it: refunded, have it cancelled at once; to ship, bridgectl dlq replay"}
	default:
		return fault.Reason{ZH: "没有人审核过该单号：或有其他程序在推送，或审核已丢失（请重新发布）", EN: "nobody audited its number: another program sends, or the audit was lost (have it published again)"}
	}
}

// meaning is a reason's text for people, with what to do.
func meaning(why reconciler.Reason) fault.Reason {
	zhEN := map[reconciler.Reason][2]string{
		reconciler.Queued:       {"等待推送或重试", "it waits for its turn, or for a retry"},
		reconciler.Held:         {"等待原因消除后自动继续", "it waits for a cause and continues automatically: bridgectl held ls"},
		reconciler.DeadLettered: {"在死信中等待人工处理", "it waits for a person: bridgectl dlq ls"},
		reconciler.Unknown:      {"答复丢失，正在查询", "its answer was lost, and it is looked up"},
		reconciler.Paused:       {"商家已暂停，恢复后继续", "the seller is paused; it continues when the seller is resumed"},
		reconciler.Repairing:    {"已重新交给推送", "it was handed over again"},
		reconciler.Confirming:   {"正在复核", "it is checked a second time"},
		reconciler.Unasked:      {"账本不认识，且无法查询仓库；处理后自动继续", "the ledger does not know it and the warehouse cannot be asked; fix that, and it continues automatically"},
		reconciler.Absent:       {"曾被接收，而仓库与账本现在都查不到；先核对事业部等设置，再决定是否重新发布审核", "it was accepted once, and neither the warehouse nor the ledger knows it now: check the set-up (department), then have its audit published again"},
		reconciler.Left:         {"离开待处理后没有结果：若非人工丢弃，请重新发布审核", "it left the dead letters without an outcome: unless a person dropped it, have its audit published again"},
		reconciler.Lost:         {"重新交接三次仍无结果，请查看 order explain 与推送日志", "handed over three times without an outcome: bridgectl order explain, and the pusher's log"},
		reconciler.Gone:         {"没有结果，审核事件也已不在流中：请重新发布审核", "it has no outcome, and its audit is no longer in the stream: have it published again"},
	}
	t := zhEN[why]
	return fault.Reason{Code: string(why), ZH: t[0], EN: t[1]}
}
