package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"stockbridge/pkg/jdsandbox"
	"stockbridge/services/e2e/checker"
	"stockbridge/services/e2e/history"
	"stockbridge/services/e2e/orderview"
)

// businessCode is the sandbox's for business errors.
const businessCode = "5001"

// leftCodes are the statuses of documents that have left the warehouse, in the sandbox's default walk.
var leftCodes = []jdsandbox.Code{"10019", "10020", "10032", "10054", "10033", "10034"}

// judge ends the recording, has it judged, and prints what the streams have beside what the sandbox has and what the story
// planned. Each promise that broke and each figure that differs is named.
func (s *story) judge(ctx context.Context) error {
	if err := s.view.Update(ctx); err != nil {
		return err
	}
	s.unfollow()
	if err := s.record.Finish(ctx, history.Sources{Bus: s.stack.Bus, Ledger: s.stack.Ledger, JD: s.jd}); err != nil {
		return err
	}
	report, err := checker.Read(s.history)
	if err != nil {
		return err
	}
	broken := report.Lines()
	if missing := report.Missing([]string{"P1", "P2", "P9", "P10"}); len(missing) > 0 {
		broken = append(broken, "nothing was checked of "+strings.Join(missing, ", "))
	}
	jd, err := s.atJD(ctx)
	if err != nil {
		return err
	}

	var held, released, refused, waybills int
	accepted := func(o *orderview.Order) bool { return len(o.Accepted) > 0 }
	for _, o := range s.made {
		seen := s.view.Orders[o.OutboundNo]
		if seen == nil {
			continue
		}
		waybills += len(seen.Waybills)
		if len(seen.Held) > 0 {
			held++
			if accepted(seen) {
				released++
			}
		}
		if slices.Contains(s.bad, o.OutboundNo) && len(seen.Failed) == 1 {
			refused++
		}
	}
	fmt.Fprintln(s.out)
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	row := func(en, zh string, streams, want any) {
		fmt.Fprintf(w, "%s\t%v\t%v\t%s\n", en, streams, want, zh)
		if fmt.Sprint(streams) != fmt.Sprint(want) {
			broken = append(broken, fmt.Sprintf("%s: the streams have %v, want %v", en, streams, want))
		}
	}
	fmt.Fprintln(w, "\tstreams\tsandbox\t")
	row("accepted", "已接收", s.view.Count(accepted), jd.orders)
	row("refused with a reason", "已拒绝（附原因）", refused, jd.refused)
	row("shipped", "已发货", s.view.Count(func(o *orderview.Order) bool { return o.Complete == 1 }), jd.left)
	row("waybills", "运单", waybills, jd.waybills)
	row("split: waybills of one order", "拆单：一单的运单数", len(s.view.Orders[s.split].Waybills), jd.parted)
	fmt.Fprintln(w, "\tstreams\tstory\t")
	row("in (orders / messages)", "收到（订单数/消息数）", fmt.Sprintf("%d / %d", s.orders, s.view.Events["order.audited"]), fmt.Sprintf("%d / %d", s.orders, s.orders+len(s.repeated)+1+s.unread))
	row("held, then released", "挂起后放行", fmt.Sprintf("%d, %d", held, released), fmt.Sprintf("%d, %[1]d", len(s.held)))
	row("dead-lettered, then replayed", "进入死信后重放", s.replayed, len(s.gone))
	row("unreadable, dead-lettered whole", "无法识别，已完整保存", s.dropped, s.unread)
	row("a quantity below zero, refused", "数量为负，已拒绝", len(s.view.Orders[s.invalid].Failed), 1)
	fmt.Fprintln(w, "\tsandbox\twant\t")
	fmt.Fprintf(w, "lost answers, all resolved\t%d\t\t应答丢失，均已查明\n", jd.lost)
	row("violations of any kind", "各类违规合计", jd.violations, 0)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range report.Promises {
		if p.Checked > 0 {
			fmt.Fprintf(s.out, "%s: %d checked, %d broken: %s\n", p.Name, p.Checked, p.Broken, p.Says)
		}
	}
	if len(broken) > 0 {
		return errors.New(fmt.Sprintf("%d promises broken:\n  ", len(broken)) + strings.Join(broken, "\n  "))
	}
	s.print("streams and sandbox agree", "事件流与沙箱一致", "")
	return nil
}

// figures are the sandbox's own.
type figures struct {
	orders, refused, left, waybills, parted int
	lost                                    int64
	violations                              int
}

func (s *story) atJD(ctx context.Context) (f figures, err error) {
	docs, err := s.jd.Documents(ctx, jdsandbox.Query{})
	if err != nil {
		return f, err
	}
	orders, left := map[string]bool{}, map[string]bool{}
	for _, d := range docs {
		orders[d.IsvUUID] = true
		f.waybills += len(d.WayBills)
		if d.IsvUUID == s.split {
			f.parted += len(d.WayBills)
		}
		if slices.Contains(leftCodes, d.Status) {
			left[d.IsvUUID] = true
		}
	}
	f.orders, f.left = len(orders), len(left)
	// An order may be refused twice: when its outcome could not be looked up, it was sent again. One that was out of
	// stock was taken when it was replayed.
	refused := map[string]bool{}
	err = history.Calls.Read(s.history, func(c history.Call) error {
		switch {
		case c.Code == businessCode && c.IsvUUID != "":
			refused[c.IsvUUID] = true
		case c.Done:
			delete(refused, c.IsvUUID)
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	f.refused = len(refused)
	counters, err := s.jd.Counters(ctx)
	if err != nil {
		return f, err
	}
	f.lost = counters.LostAnswers
	violations, err := s.jd.Violations(ctx)
	f.violations = int(violations.Total)
	return f, err
}
