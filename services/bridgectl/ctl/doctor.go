package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"stockbridge/pkg/bus"
	"stockbridge/pkg/event"
	"stockbridge/pkg/fault"
	"stockbridge/pkg/ledger"
	"stockbridge/pkg/quota"
	"stockbridge/pkg/seller"
	"stockbridge/pkg/token"
	"stockbridge/pkg/warehouse"
	"stockbridge/pkg/wiring"
	"stockbridge/pkg/worker"
	sellerv1 "stockbridge/proto/seller/v1"
)

type sellerDoctorCmd struct {
	Name string `arg:"" help:"Seller."`
}

func (sellerDoctorCmd) Help() string {
	return `Asks the workers whether they are ready and how far their clocks are off. Then it tries, with this machine's clock and secrets: each
account's clock, token and permissions, the forms of its numbers, what orders are held for, and which orders of a trial are still
open. It places no order and changes nothing.

--seller-secrets-dir, --seller-secrets-env and --seller-http-hosts (SELLER_SECRETS_DIR …) are the workers' settings of these
names: what a set-up may name of the machine.`
}

// diagnosis is the result of one check.
type diagnosis struct {
	// About is the account or the part of the set-up that was checked.
	About string `json:"about"`
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	// Note describes what was seen, in English.
	Note   string      `json:"note,omitempty"`
	Reason *reasonJSON `json:"reason,omitempty"`
}

func (c sellerDoctorCmd) Run(ctx context.Context, a *app) error {
	registry, s, err := a.sellerNamed(ctx, c.Name)
	if err != nil {
		return err
	}
	defer registry.Close()
	l, err := a.ledger(ctx)
	if err != nil {
		return err
	}
	found := []diagnosis{}
	add := func(about, what, note string, err error) {
		d := diagnosis{About: about, What: what, OK: err == nil, Note: note}
		if err != nil {
			r := reasonJSON(fault.ReasonOf(err, "internal"))
			d.Reason = &r
		}
		found = append(found, d)
	}
	add("seller", "running", "", s.Paused())
	if err := c.workers(ctx, a, add); err != nil {
		return err
	}
	ws, tokens, closeCalling, err := a.calling(ctx, l)
	if err != nil {
		return err
	}
	defer closeCalling()
	for _, account := range s.Setup.Accounts {
		c.account(ctx, s, account.Name, ws, add)
		if token.Ours(account) {
			c.token(token.ID{Seller: s.Name(), Account: account.Name}, account, tokens, a.now(), add)
		}
	}
	if err := c.held(ctx, a, add); err != nil {
		return err
	}
	if err := c.trial(ctx, s, l, add); err != nil {
		return err
	}
	well := true
	t := table{head: []string{"ABOUT", "WHAT", "", "WHAT TO DO"}}
	for _, d := range found {
		mark, text := "ok", d.Note
		if !d.OK {
			well, mark = false, "WRONG"
			text = a.say(fault.Reason(*d.Reason))
		}
		t.add(d.About, d.What, mark, text)
	}
	if err := a.show(found, func(w io.Writer) error { return t.write(w, a.columns) }); err != nil {
		return err
	}
	if !well {
		return errWrong
	}
	return nil
}

// workers reports of each running worker whether it is ready and how far its clock is off: the workers send orders, so
// this machine's clock does not matter.
// machine's clock shows.
func (sellerDoctorCmd) workers(ctx context.Context, a *app, add func(about, what, note string, err error)) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	list, err := worker.AskWorkers(ctx, b)
	if err != nil {
		return err
	}
	for _, w := range list {
		note := fmt.Sprintf("clock off by %v from the ledger's, by %v from NATS'", w.LedgerSkew.Round(time.Millisecond), w.NATSSkew.Round(time.Millisecond))
		var unready error
		if !w.Ready {
			unready = fault.Reason{Code: "worker.unready", ZH: "未就绪：" + w.Why + "（" + note + "）", EN: "not ready: " + w.Why + " (" + note + ")"}
		}
		add("worker "+w.Service, w.Instance, note, unready)
	}
	if len(list) == 0 {
		add("workers", "clocks", "none answered: none runs, or their build or NATS users are from before they answer", nil)
	}
	return nil
}

// token reports how long a token that Stockbridge keeps stays valid, and what prevents its refresh.
func (sellerDoctorCmd) token(id token.ID, account *sellerv1.Account, tokens *token.Store, now time.Time, add func(about, what, note string, err error)) {
	about := "account " + id.Account
	state, known := tokens.State(id)
	_, err := tokens.Token(id, account)
	switch {
	case !known && account.AccessToken != nil:
		add(about, "consent", "none yet: the token that access_token names serves, and nobody refreshes it", nil)
	case err != nil:
		add(about, "consent", "", err)
	case state.Failed == token.Refused && state.Reason != nil:
		reason := *state.Reason
		reason.ZH, reason.EN = reason.ZH+"（"+life(state, now)+"）", reason.EN+" ("+life(state, now)+")"
		add(about, "consent", "", reason)
	case !state.Renewable:
		add(about, "consent", life(state, now)+", and it cannot be refreshed", nil)
	case state.Failed != "":
		add(about, "consent", fmt.Sprintf("%s; the last refresh was %s, tried again at %s", life(state, now), state.Failed, when(state.NextTry)), nil)
	default:
		add(about, "consent", life(state, now)+", refreshed from "+when(state.RefreshAt), nil)
	}
}

// account tries one account through a warehouse that uses it.
func (sellerDoctorCmd) account(ctx context.Context, s *seller.Seller, name string, ws *wiring.Warehouses, add func(about, what, note string, err error)) {
	about := "account " + name
	for _, w := range s.Setup.Warehouses {
		if w.Account != name {
			continue
		}
		orders, err := opened(s, ws, w.Code)
		if err != nil {
			add(about, "warehouse "+w.Code, "", err)
			return
		}
		doctor, ok := orders.(warehouse.Doctor)
		if !ok {
			add(about, "warehouse "+w.Code, "nothing to try", nil)
			return
		}
		for _, d := range doctor.Diagnose(ctx) {
			add(about, d.What, d.Note, d.Err)
		}
		return
	}
	add(about, "use", "", fault.Reason{
		Code: "account.unused", ZH: "没有仓库使用此账号，请在 warehouses 中引用此账号，或将其删除", EN: "no warehouse uses this account: name it in warehouses, or remove it",
	})
}

// opened opens a warehouse for a diagnosis. A seller in shadow mode is only read.
func opened(s *seller.Seller, ws *wiring.Warehouses, code string) (any, error) {
	if s.InShadow(time.Now()) {
		return ws.Read(s, code, quota.Status)
	}
	return ws.Open(s, code, quota.Status)
}

// held reports the causes of held orders that somebody has to fix.
func (c sellerDoctorCmd) held(ctx context.Context, a *app, add func(about, what, note string, err error)) error {
	b, err := a.bus(ctx)
	if err != nil {
		return err
	}
	counts := map[string]int{}
	reasons := map[string]fault.Reason{}
	var causes []string
	err = pick{Seller: c.Name}.each(ctx, a, b, event.Held, func(m bus.DeadLetter) error {
		if counts[m.Cause] == 0 {
			causes, reasons[m.Cause] = append(causes, m.Cause), m.Reason
		}
		counts[m.Cause]++
		return nil
	})
	if err != nil {
		return err
	}
	for _, cause := range causes {
		r := reasons[cause]
		n := counts[cause]
		r.ZH, r.EN, r.Field = fmt.Sprintf("%d 单已挂起：%s", n, r.ZH), fmt.Sprintf("%s: %s", count(n, "order")+" held", r.EN), ""
		add("held", cause, "", r)
	}
	if len(causes) == 0 {
		add("held", "orders", "none", nil)
	}
	return nil
}

// trial reports which orders of a trial reserve stock.
func (c sellerDoctorCmd) trial(ctx context.Context, s *seller.Seller, l ledger.Ledger, add func(about, what, note string, err error)) error {
	orders, err := trialOrders(ctx, l, c.Name)
	if err != nil {
		return err
	}
	_, on := s.OnTrial()
	open := 0
	for _, o := range orders {
		if !o.Open {
			continue
		}
		open++
		if on {
			continue
		}
		add("trial", "order "+o.OutboundNo, "", fault.Reason{
			Code: "trial.open",
			ZH:   fmt.Sprintf("试运行已结束，但订单 %s（%s）仍在仓库占用库存，请人工取消", o.OutboundNo, o.WarehouseNo),
			EN:   fmt.Sprintf("the trial is over but %s (%s) still reserves stock: cancel it at the warehouse by hand", o.OutboundNo, o.WarehouseNo),
		})
	}
	if on {
		add("trial", "orders", fmt.Sprintf("%d open; cancel them by hand when the trial is over", open), nil)
	}
	return nil
}
